//! Which rules are worth asking about a key.
//!
//! The index only leaves out rules that cannot match; it decides nothing. Of every brace-expanded glob it knows one thing
//! that a matching key must have:
//!
//! - to be a certain text, if the glob has no wildcard;
//! - else a word: `cert` of `website-cert-*`. Of a glob's words it takes the one that the fewest globs have;
//! - else, if wildcards touch all its words, a text: `a-b` of `*a-b*`.
//!
//! So a key finds its candidates in time proportional to its own length and to their number, not to the number of rules.
//! Keys and words are known by their hash alone: in a large set each further look into memory is what costs, and two texts
//! of one hash cost no more than a needless question. The rules themselves are then read as they would be without it.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::Rule;
use crate::model::key::Needle;

pub(super) struct Index {
    /// Keys written out in full. Apart from the words, as a key is looked for here once and mostly in vain.
    keys: Hashed,
    words: Hashed,
    /// Finds the texts that the other globs require, all in one pass over the key.
    texts: Option<AhoCorasick>,
    /// The rules behind each text, by its number in `texts`.
    by_text: Vec<Vec<usize>>,
    /// Rules for which nothing is known: `*`, `?[a-z]*`, exclusions alone, no `key` at all.
    always: Vec<usize>,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let (mut keys, mut by_word) = (Vec::new(), Vec::new());
        let mut within: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut always = Vec::new();
        let counts = word_counts(rules);
        for (rule, needles) in rules.iter().map(needles).enumerate() {
            if needles.is_empty() {
                always.push(rule);
            }
            for needle in needles {
                match needle {
                    Needle::Whole(key) => keys.push((hash(key), narrow(rule))),
                    Needle::Words(words) => {
                        let rarest = words.into_iter().min_by_key(|word| counts.get(word));
                        by_word.extend(rarest.map(|word| (hash(word), narrow(rule))));
                    }
                    Needle::Within(text) => within.entry(text).or_default().push(rule),
                    Needle::Nothing => always.push(rule),
                }
            }
        }
        let (texts, by_text): (Vec<_>, Vec<_>) = within.into_iter().unzip();
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        // Without texts, which is usual, no pass over the key.
        let build = || AhoCorasick::builder().kind(kind).build(&texts).ok();
        let texts = if texts.is_empty() { None } else { build() };
        if texts.is_none() {
            // More text than the automaton can number, which is past two thousand million bytes: slow, but right.
            always.extend(by_text.iter().flatten());
        }
        Self { keys: Hashed::new(keys), words: Hashed::new(by_word), texts, by_text, always }
    }

    /// In the rules' order, each once.
    pub(super) fn candidates(&self, key: &str) -> Vec<usize> {
        let mut candidates = self.always.clone();
        candidates.extend(self.keys.get(hash(key)));
        for word in key.split('-') {
            candidates.extend(self.words.get(hash(word)));
        }
        for found in self.texts.iter().flat_map(|texts| texts.find_overlapping_iter(key)) {
            candidates.extend(&self.by_text[found.pattern().as_usize()]);
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }
}

/// The rules of each hash, so small that most of it stays in the processor's caches: to find a rule costs one look into
/// `starts` and one into `rules`.
struct Hashed {
    /// The lower half of each hash and its rule, in the order of the hashes.
    rules: Vec<(u32, u32)>,
    /// Where in `rules` the hashes with these upper bits begin, and last where all end.
    starts: Vec<u32>,
    shift: u32,
}

impl Hashed {
    /// Some four rules to a slot, as one read of memory brings eight.
    fn new(mut rules: Vec<(u64, u32)>) -> Self {
        rules.sort_unstable();
        rules.dedup();
        let slots = (rules.len() / 4).max(2).next_power_of_two();
        let shift = u64::BITS - slots.trailing_zeros();
        let begins = |slot| rules.partition_point(|(hash, _)| (lower(hash >> shift) as usize) < slot);
        let starts = (0..=slots).map(|slot| narrow(begins(slot))).collect();
        let rules = rules.into_iter().map(|(hash, rule)| (lower(hash), rule)).collect();
        Self { rules, starts, shift }
    }

    fn get(&self, hash: u64) -> impl Iterator<Item = usize> {
        let slot = lower(hash >> self.shift) as usize;
        let rules = &self.rules[self.starts[slot] as usize..self.starts[slot + 1] as usize];
        rules.iter().filter(move |(own, _)| *own == lower(hash)).map(|(_, rule)| *rule as usize)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is asked for")]
fn lower(hash: u64) -> u32 {
    hash as u32
}

/// No memory holds as many rules as this would cut short.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// One for each alternative of the including globs.
fn needles(rule: &Rule) -> Vec<Needle<'_>> {
    let including = rule.keys.iter().flatten().filter(|pattern| !pattern.excludes());
    including.flat_map(|pattern| pattern.glob().needles()).collect()
}

/// How many globs have each word.
fn word_counts(rules: &[Rule]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for needle in rules.iter().flat_map(needles) {
        if let Needle::Words(words) = needle {
            for word in words {
                *counts.entry(word).or_default() += 1;
            }
        }
    }
    counts
}

/// FNV-1a (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>), then multiplied, so that the upper bits of short
/// texts differ as well.
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::key::KeyPatterns;
    use crate::routing::{Action, Place};

    fn rule(patterns: &[&str]) -> Rule {
        Rule {
            name: "rule".into(),
            keys: (!patterns.is_empty()).then(|| KeyPatterns::parse(patterns).unwrap()),
            conditions: Vec::new(),
            severity: None,
            action: Action::Send(Vec::new()),
            stop: false,
            template: None,
            runbook: None,
            batch: None,
            thread_by: None,
            mention: None,
            place: Place { file: "rules.yaml".into(), line: 1 },
        }
    }

    #[test]
    fn candidates_hold_a_needed_text() {
        let lists: [&[&str]; 9] = [
            &["website-cert-risk"],
            &["*-scan-{start,finish}", "target-*"],
            &[],
            &["website-*", "!website-cert-*"],
            &["!website-*"],
            &["?[a-z]*"],
            &["a*b-long-*"],
            &["{website,domain}-cert-*", "*"],
            &["website-cert-*"],
        ];
        let index = Index::new(&lists.map(rule));
        let cases: [(&str, &[usize]); 5] = [
            ("website-cert-risk", &[0, 2, 3, 4, 5, 7, 8]),
            ("target-scan-start", &[1, 2, 4, 5, 7]),
            ("domain-scan-finish", &[1, 2, 4, 5, 7]),
            // Only the longest text is looked for: asking too often is right, too seldom is not.
            ("xb-long-", &[2, 4, 5, 6, 7]),
            ("issue-add", &[2, 4, 5, 7]),
        ];
        for (key, candidates) in cases {
            assert_eq!(index.candidates(key), candidates, "{key}");
        }
    }

    #[test]
    fn no_rules() {
        assert_eq!(Index::new(&[]).candidates("a"), [0_usize; 0]);
    }
}
