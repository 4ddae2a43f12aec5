//! Which rules are worth asking about a key.
//!
//! The index only leaves out rules that cannot match; it decides nothing. For every brace-expanded glob it knows one text
//! that a matching key must be or hold, so a key finds its candidates in time proportional to its own length and to their
//! number, not to the number of rules. The rules themselves are then read as they would be without it.

use std::collections::HashMap;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::Rule;
use crate::model::key::Needle;

pub(super) struct Index {
    /// Keys written out in full.
    exact: HashMap<String, Vec<usize>>,
    /// Finds the texts that globs require, all in one pass over the key.
    texts: Option<AhoCorasick>,
    /// The rules behind each text, by its number in `texts`.
    by_text: Vec<Vec<usize>>,
    /// Rules for which no text is known: `*`, `?[a-z]*`, exclusions alone, no `key` at all.
    always: Vec<usize>,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut exact: HashMap<String, Vec<usize>> = HashMap::new();
        let mut within: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut always = Vec::new();
        for (rule, keys) in rules.iter().map(|rule| &rule.keys).enumerate() {
            let including = keys.iter().flatten().filter(|pattern| !pattern.excludes());
            let mut needles = including.flat_map(|pattern| pattern.glob().needles()).peekable();
            if needles.peek().is_none() {
                always.push(rule);
            }
            for needle in needles {
                match needle {
                    Needle::Whole(key) => exact.entry(key.to_owned()).or_default().push(rule),
                    Needle::Within(text) => within.entry(text).or_default().push(rule),
                    Needle::Nothing => always.push(rule),
                }
            }
        }
        let (texts, by_text): (Vec<_>, Vec<_>) = within.into_iter().unzip();
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let texts = AhoCorasick::builder().kind(kind).build(texts).ok();
        if texts.is_none() {
            // More text than the automaton can number, which is past two thousand million bytes: slow, but right.
            always.extend(by_text.iter().flatten());
        }
        Self { exact, texts, by_text, always }
    }

    /// In the rules' order, each once.
    pub(super) fn candidates(&self, key: &str) -> Vec<usize> {
        let mut candidates = self.always.clone();
        candidates.extend(self.exact.get(key).into_iter().flatten());
        for found in self.texts.iter().flat_map(|texts| texts.find_overlapping_iter(key)) {
            candidates.extend(&self.by_text[found.pattern().as_usize()]);
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates
    }
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
