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
    /// Keys written out in full, and words, by their hash: the rules are this part of `listed`.
    by_hash: HashMap<u64, (u32, u32)>,
    listed: Vec<usize>,
    /// Finds the texts that the other globs require, all in one pass over the key.
    texts: Option<AhoCorasick>,
    /// The rules behind each text, by its number in `texts`.
    by_text: Vec<Vec<usize>>,
    /// Rules for which nothing is known: `*`, `?[a-z]*`, exclusions alone, no `key` at all.
    always: Vec<usize>,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut hashed: Vec<(u64, usize)> = Vec::new();
        let mut within: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut always = Vec::new();
        let counts = word_counts(rules);
        for (rule, needles) in rules.iter().map(needles).enumerate() {
            if needles.is_empty() {
                always.push(rule);
            }
            for needle in needles {
                match needle {
                    Needle::Whole(key) => hashed.push((hash(key), rule)),
                    Needle::Words(words) => {
                        let rarest = words.into_iter().min_by_key(|word| counts.get(word));
                        hashed.extend(rarest.map(|word| (hash(word), rule)));
                    }
                    Needle::Within(text) => within.entry(text).or_default().push(rule),
                    Needle::Nothing => always.push(rule),
                }
            }
        }
        hashed.sort_unstable();
        hashed.dedup();
        let mut by_hash: HashMap<u64, (u32, u32)> = HashMap::new();
        for (at, (hash, _)) in (0..).zip(&hashed) {
            by_hash.entry(*hash).or_insert((at, at)).1 = at + 1;
        }
        let listed = hashed.into_iter().map(|(_, rule)| rule).collect();
        let (texts, by_text): (Vec<_>, Vec<_>) = within.into_iter().unzip();
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let texts = AhoCorasick::builder().kind(kind).build(texts).ok();
        if texts.is_none() {
            // More text than the automaton can number, which is past two thousand million bytes: slow, but right.
            always.extend(by_text.iter().flatten());
        }
        Self { by_hash, listed, texts, by_text, always }
    }

    /// In the rules' order, each once.
    pub(super) fn candidates(&self, key: &str) -> Vec<usize> {
        let mut candidates = self.always.clone();
        for text in key.split('-').chain([key]) {
            if let Some(&(start, end)) = self.by_hash.get(&hash(text)) {
                candidates.extend_from_slice(&self.listed[start as usize..end as usize]);
            }
        }
        for found in self.texts.iter().flat_map(|texts| texts.find_overlapping_iter(key)) {
            candidates.extend(&self.by_text[found.pattern().as_usize()]);
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }
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

/// FNV-1a. <https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
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
