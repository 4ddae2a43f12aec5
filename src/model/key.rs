//! Event keys (`website-cert-expiring`) and the patterns by which rules choose them.
//!
//! A pattern is parsed once into a type; matching never fails and never looks at the text again. The syntax of a single
//! glob is in [`KeyGlob`]; what a list of them means is in [`KeyPatterns`].

mod glob;

use std::fmt;

use super::event::EventError;

pub use glob::{GlobError, KeyFilter, KeyGlob, Needle};

/// The kind of an event. New kinds appear without notice, so any short text is a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(String);

impl EventKey {
    /// The longest known key has 31 characters.
    pub const MAX_BYTES: usize = 128;

    pub fn new(key: impl Into<String>) -> Result<Self, EventError> {
        let key = key.into();
        if key.is_empty() || key.len() > Self::MAX_BYTES || key.chars().any(char::is_control) {
            return Err(EventError::BadText { field: "key", bytes_max: Self::MAX_BYTES });
        }
        Ok(Self(key))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The `key:` of a rule: any of these globs, minus those with a leading `!`. A list of exclusions alone means
/// "everything but". The order of the patterns has no meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPatterns {
    patterns: Vec<KeyPattern>,
    filter: KeyFilter,
}

/// One pattern of the list: a glob to include, or with a leading `!` one to exclude.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPattern {
    glob: KeyGlob,
    excludes: bool,
}

/// What a list of patterns says of one key, and which pattern said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyVerdict<'a> {
    Matched,
    /// None of the including patterns matches.
    Unmatched,
    /// It would match, were it not for this pattern.
    Excluded(&'a KeyPattern),
}

/// Which pattern of a list is wrong, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PatternError {
    /// The pattern's place in its list, counted from 0.
    pub index: usize,
    /// Bytes into that pattern, its leading `!` included.
    pub at: usize,
    /// Bytes; 0 when the fault is that something is absent.
    pub len: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl KeyPatterns {
    /// Stops at the first pattern that is wrong; an empty list is, too.
    pub fn parse(patterns: &[&str]) -> Result<Self, PatternError> {
        if patterns.is_empty() {
            let message = "the list of keys is empty; leave `key` out to match every event".to_owned();
            return Err(PatternError { index: 0, at: 0, len: 0, message });
        }
        let parse = |(index, pattern)| {
            KeyPattern::parse(pattern).map_err(|GlobError { at, len, message }| PatternError {
                index,
                at,
                len,
                message,
            })
        };
        let patterns: Vec<_> = patterns.iter().copied().enumerate().map(parse).collect::<Result<_, _>>()?;
        let globs = |excludes| patterns.iter().filter(move |it| it.excludes == excludes).map(KeyPattern::glob);
        let filter = KeyFilter::new(globs(false), globs(true));
        Ok(Self { patterns, filter })
    }

    pub fn matches(&self, key: &str) -> bool {
        self.filter.matches(key)
    }

    pub fn filter(&self) -> &KeyFilter {
        &self.filter
    }

    /// As [`matches`](Self::matches), with the reason.
    pub fn verdict(&self, key: &str) -> KeyVerdict<'_> {
        if self.matches(key) {
            return KeyVerdict::Matched;
        }
        let (excluding, including): (Vec<_>, Vec<_>) = self.iter().partition(|pattern| pattern.excludes);
        let included = including.is_empty() || including.iter().any(|pattern| pattern.glob.matches(key));
        match excluding.into_iter().find(|pattern| pattern.glob.matches(key)) {
            Some(pattern) if included => KeyVerdict::Excluded(pattern),
            _ => KeyVerdict::Unmatched,
        }
    }

    /// In the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, KeyPattern> {
        self.patterns.iter()
    }
}

impl<'a> IntoIterator for &'a KeyPatterns {
    type Item = &'a KeyPattern;
    type IntoIter = std::slice::Iter<'a, KeyPattern>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl KeyPattern {
    /// Places in the error count the `!`.
    pub fn parse(pattern: &str) -> Result<Self, GlobError> {
        match pattern.strip_prefix('!') {
            None => Ok(Self { glob: KeyGlob::parse(pattern)?, excludes: false }),
            Some(glob) => {
                let glob = KeyGlob::parse(glob).map_err(|error| GlobError { at: error.at + 1, ..error })?;
                Ok(Self { glob, excludes: true })
            }
        }
    }

    /// The glob, without the `!`.
    pub fn glob(&self) -> &KeyGlob {
        &self.glob
    }

    pub fn excludes(&self) -> bool {
        self.excludes
    }
}

/// As it was written.
impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.excludes { "!" } else { "" }, self.glob.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_any_of_minus_the_excluded() {
        let cases: &[(&[&str], &[&str], &[&str])] = &[
            (
                &["website-cert-*", "!website-cert-new-issuer"],
                &["website-cert-risk"],
                &["website-cert-new-issuer", "a"],
            ),
            (
                &["!website-cert-new-issuer", "website-cert-*"],
                &["website-cert-risk"],
                &["website-cert-new-issuer", "a"],
            ),
            (&["a", "b*"], &["a", "b", "bc"], &["c", "ab"]),
            (&["!a*"], &["b", "ba"], &["a", "ab"]),
            (&["!a", "!b"], &["c"], &["a", "b"]),
            (&["*", "!*"], &[], &["a"]),
            (&["!{a,b}-*"], &["a", "c-x"], &["a-x", "b-"]),
        ];
        for (patterns, matching, others) in cases {
            let patterns = KeyPatterns::parse(patterns).unwrap();
            matching.iter().for_each(|key| assert!(patterns.matches(key), "{patterns:?} {key}"));
            others.iter().for_each(|key| assert!(!patterns.matches(key), "{patterns:?} {key}"));
        }
    }

    /// The filter against its patterns one by one, in every list of up to three; with texts that it keeps in place and
    /// such as are too long for that.
    #[test]
    fn the_filter_is_its_patterns() {
        let (long, longer) = ("*-{".to_owned() + &"b,".repeat(40) + "c}", "{a".to_owned() + &"?".repeat(80) + ",ab}");
        let excluded = [format!("!{long}"), format!("!{longer}"), "!a*".to_owned(), "!b".to_owned(), "!{,}".to_owned()];
        let included = [long, longer, "a".to_owned(), "{,}".to_owned(), "a?".to_owned(), "é*".to_owned()];
        let all: Vec<_> = included.iter().chain(&excluded).map(String::as_str).collect();
        for (one, two, three) in all.iter().flat_map(|one| {
            all.iter().flat_map(move |two| [(*one, *two, *one), (*one, *two, "*"), (*one, *two, "!*-c")])
        }) {
            let patterns = KeyPatterns::parse(&[one, two, three]).unwrap();
            for key in ["a", "ab", "a-b", "b", "b-c", "é", &("a".to_owned() + &"é".repeat(60)), &"a".repeat(81)] {
                let (excluding, including): (Vec<_>, Vec<_>) = patterns.iter().partition(|pattern| pattern.excludes());
                let any = |list: &[&KeyPattern]| list.iter().any(|pattern| pattern.glob().matches(key));
                let expected = (including.is_empty() || any(&including)) && !any(&excluding);
                assert_eq!(patterns.matches(key), expected, "{one} {two} {three} {key}");
                assert_eq!(patterns.verdict(key) == KeyVerdict::Matched, expected, "{one} {two} {three} {key}");
            }
        }
        assert!(KeyFilter::default().matches("a"));
    }

    #[test]
    fn verdicts_name_the_pattern() {
        let patterns = KeyPatterns::parse(&["a*", "!ab", "!abc*"]).unwrap();
        let said = |key| match patterns.verdict(key) {
            KeyVerdict::Excluded(pattern) => pattern.to_string(),
            other => format!("{other:?}"),
        };
        assert_eq!(said("a"), "Matched");
        assert_eq!(said("x"), "Unmatched");
        assert_eq!(said("ab"), "!ab");
        assert_eq!(said("abcd"), "!abc*");
    }

    #[test]
    fn lists_refused() {
        let cases: &[(&[&str], usize, usize, &str)] = &[
            (&[], 0, 0, "leave `key` out"),
            (&["a", "!b]"], 1, 2, "`]`"),
            (&["!"], 0, 1, "empty"),
            (&["a", "!!b"], 1, 1, "one `!`"),
        ];
        for (patterns, index, at, message) in cases {
            let error = KeyPatterns::parse(patterns).unwrap_err();
            assert_eq!((error.index, error.at), (*index, *at), "{patterns:?}");
            assert!(error.message.contains(message), "{error}");
        }
    }
}
