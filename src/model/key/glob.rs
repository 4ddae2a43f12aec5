//! One key glob, parsed once and matched in time proportional to pattern times key, whatever either holds.
//!
//! Braces are expanded while parsing, up to [`KeyGlob::ALTERNATIVES_MAX`]; what is left are flat sequences of text, `?`,
//! classes and `*`, for which the last `*` is the only place ever worth going back to.

/// A pattern for a whole key, case-sensitive.
///
/// | syntax | matches |
/// |---|---|
/// | `*` | any run of characters, also none |
/// | `?` | one character |
/// | `[a-z0]` | one character of these; `[!a-z]` and `[^a-z]` one of all others |
/// | `{a,b-*}` | either; may be nested and may hold an empty alternative |
/// | anything else | itself |
///
/// Nothing is escaped: a class of one (`[*]`) takes a special character for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyGlob {
    source: String,
    alternatives: Vec<Sequence>,
}

/// Why a pattern is not a glob: bytes `at..at + len` of it are at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GlobError {
    pub at: usize,
    /// 0 when the fault is that something is absent.
    pub len: usize,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// What a key must hold for one alternative of a glob to match: what an index can look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needle<'a> {
    /// The alternative has no wildcard: the key is this.
    Whole(&'a str),
    /// The key has each of these, at least one, as a whole word: between hyphens or its own ends.
    Words(Vec<&'a str>),
    /// The key has this in it.
    Within(&'a str),
    /// Nothing is known.
    Nothing,
}

/// One alternative; never two [`Token::Text`] or two [`Token::Any`] in a row.
type Sequence = Vec<Token>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Any,
    One,
    Class(Class),
    Text(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    negated: bool,
    /// Both ends included.
    ranges: Vec<(char, char)>,
}

impl KeyGlob {
    /// Four times the longest possible key: room for braces.
    pub const BYTES_MAX: usize = 512;
    /// After brace expansion. The whole catalogue has fewer keys than this.
    pub const ALTERNATIVES_MAX: usize = 256;
    /// Braces within braces.
    pub const DEPTH_MAX: usize = 4;

    pub fn parse(pattern: &str) -> Result<Self, GlobError> {
        if pattern.is_empty() {
            return Err(GlobError::new(0, 0, "the pattern is empty; write `*` for any key"));
        }
        if pattern.len() > Self::BYTES_MAX {
            let message = format!("the pattern is longer than {} bytes; split it into a list", Self::BYTES_MAX);
            return Err(GlobError::new(0, pattern.len(), message));
        }
        if let Some(message) = refused_start(pattern) {
            return Err(GlobError::new(0, 1, message));
        }
        let mut alternatives = Vec::new();
        for sequence in (Parser { pattern, at: 0 }).sequences(0)? {
            if !alternatives.contains(&sequence) {
                alternatives.push(sequence);
            }
        }
        Ok(Self { source: pattern.to_owned(), alternatives })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The whole key must match.
    pub fn matches(&self, key: &str) -> bool {
        self.alternatives.iter().any(|sequence| matches(sequence, key))
    }

    /// One for each alternative: a key that satisfies none of them cannot match.
    pub fn needles(&self) -> impl Iterator<Item = Needle<'_>> {
        self.alternatives.iter().map(|sequence| match sequence.as_slice() {
            [] => Needle::Whole(""),
            [Token::Text(text)] => Needle::Whole(text),
            _ if words(sequence).next().is_some() => Needle::Words(words(sequence).collect()),
            _ => {
                let texts = sequence.iter().filter_map(|token| match token {
                    Token::Text(text) => Some(text.as_str()),
                    _ => None,
                });
                texts.max_by_key(|text| text.len()).map_or(Needle::Nothing, Needle::Within)
            }
        })
    }
}

impl GlobError {
    fn new(at: usize, len: usize, message: impl Into<String>) -> Self {
        Self { at, len, message: message.into() }
    }
}

/// The words of which no wildcard can be a part.
fn words(sequence: &[Token]) -> impl Iterator<Item = &str> {
    let last = sequence.len() - 1;
    let texts = sequence.iter().enumerate().filter_map(|(at, token)| match token {
        Token::Text(text) => Some((at, text)),
        _ => None,
    });
    let words = texts.flat_map(move |(at, text)| {
        let ends = text.split('-').count() - 1;
        let whole = move |nth: usize| (nth > 0 || at == 0) && (nth < ends || at == last);
        text.split('-').enumerate().filter(move |(nth, _)| whole(*nth)).map(|(_, word)| word)
    });
    words.filter(|word| !word.is_empty())
}

/// Fields are filtered in another language; taken as text, its prefixes would make a pattern that never matches.
fn refused_start(pattern: &str) -> Option<&'static str> {
    match pattern.chars().next()? {
        '!' => Some("one `!`, in front of the whole pattern, excludes; write `[!a]` for other characters than `a`"),
        '=' => Some("a key without wildcards is exact already; remove the `=`"),
        '~' => {
            Some("keys take globs, not regular expressions; write `*` for any run of characters, `{a,b}` for either")
        }
        _ => None,
    }
}

fn matches(sequence: &[Token], key: &str) -> bool {
    let (mut tokens, mut rest) = (sequence, key);
    // Where to go on after a mismatch: behind the last `*`, which then takes one character more. What an earlier `*`
    // could take instead, the last one can take as well, so this never branches.
    let mut retry: Option<(&[Token], &str)> = None;
    loop {
        let step = match tokens {
            [] if rest.is_empty() => return true,
            [] => None,
            [Token::Any] => return true,
            [Token::Any, after @ ..] => {
                retry = Some((after, rest));
                retry
            }
            [token, after @ ..] => token.take(rest).map(|rest| (after, rest)),
        };
        (tokens, rest) = match (step, retry) {
            (Some(next), _) => next,
            (None, None) => return false,
            (None, Some((after, from))) => {
                let mut shorter = from.chars();
                if shorter.next().is_none() {
                    return false;
                }
                retry = Some((after, shorter.as_str()));
                (after, shorter.as_str())
            }
        };
    }
}

impl Token {
    /// What is left of the text when this token has taken its part from the front.
    fn take<'a>(&self, text: &'a str) -> Option<&'a str> {
        if let Self::Text(own) = self {
            return text.strip_prefix(own.as_str());
        }
        let mut rest = text.chars();
        let first = rest.next()?;
        let takes = match self {
            Self::Class(class) => class.has(first),
            _ => true,
        };
        takes.then_some(rest.as_str())
    }
}

impl Class {
    fn has(&self, character: char) -> bool {
        self.ranges.iter().any(|&(low, high)| (low..=high).contains(&character)) != self.negated
    }
}

struct Parser<'p> {
    pattern: &'p str,
    at: usize,
}

impl Parser<'_> {
    /// Everything up to the end or, within braces, up to the `,` or `}` that ends this alternative.
    fn sequences(&mut self, depth: usize) -> Result<Vec<Sequence>, GlobError> {
        let mut sequences = vec![Sequence::new()];
        while let Some(character) = self.peek() {
            match character {
                ',' | '}' if depth > 0 => break,
                '{' => self.braces(depth, &mut sequences)?,
                '[' => {
                    let class = self.class()?;
                    push_to_all(&mut sequences, &Token::Class(class));
                }
                _ => {
                    let token = self.single(character)?;
                    self.at += character.len_utf8();
                    push_to_all(&mut sequences, &token);
                }
            }
        }
        Ok(sequences)
    }

    fn single(&self, character: char) -> Result<Token, GlobError> {
        let message = match character {
            '*' => return Ok(Token::Any),
            '?' => return Ok(Token::One),
            ']' => "`]` without a `[` before it",
            '}' => "`}` without a `{` before it",
            ',' => "`,` has a meaning only within braces; write `{a,b}`, or a list of patterns",
            '\\' => "`\\` escapes nothing here; write a class of one, such as `[*]`, for a special character",
            _ if character.is_control() => "no key holds a control character, such as a line end; remove it",
            _ => return Ok(Token::Text(character.into())),
        };
        Err(GlobError::new(self.at, character.len_utf8(), message))
    }

    /// Reads one `{…}` and multiplies the sequences so far by its alternatives.
    fn braces(&mut self, depth: usize, sequences: &mut Vec<Sequence>) -> Result<(), GlobError> {
        let start = self.at;
        if depth == KeyGlob::DEPTH_MAX {
            let message =
                format!("more than {} braces within each other; write a list of patterns", KeyGlob::DEPTH_MAX);
            return Err(GlobError::new(start, 1, message));
        }
        let mut options = Vec::new();
        loop {
            self.at += 1;
            options.append(&mut self.sequences(depth + 1)?);
            match self.peek() {
                Some(',') => {}
                Some(_) => break,
                None => return Err(GlobError::new(start, 1, "this `{` has no `}`; add it")),
            }
        }
        self.at += 1;
        let len = self.at - start;
        if len == "{}".len() {
            return Err(GlobError::new(start, len, "`{}` holds no alternatives; write `{a,b}`, or remove it"));
        }
        if options.len() * sequences.len() > KeyGlob::ALTERNATIVES_MAX {
            let max = KeyGlob::ALTERNATIVES_MAX;
            let message = format!("these braces make more than {max} alternatives; use `*`, or split the rule");
            return Err(GlobError::new(start, len, message));
        }
        *sequences = sequences.iter().flat_map(|front| options.iter().map(|back| joined(front, back))).collect();
        Ok(())
    }

    /// Reads one `[…]`. Everything but `]` and `\` stands for itself in it; `-` does at either end.
    fn class(&mut self) -> Result<Class, GlobError> {
        let start = self.at;
        let Some(len) = self.pattern[start..].find(']').map(|close| close + 1) else {
            return Err(GlobError::new(start, 1, "this `[` has no `]`; add it"));
        };
        let whole = &self.pattern[start..start + len];
        let inner = &whole[1..len - 1];
        let members = inner.strip_prefix(['!', '^']).unwrap_or(inner);
        if members.is_empty() {
            let message = format!("`{whole}` holds no characters; write some, as in `[a-z]`");
            return Err(GlobError::new(start, len, message));
        }
        if let Some((at, member)) = members.char_indices().find(|(_, member)| *member == '\\' || member.is_control()) {
            let at = start + len - 1 - members.len() + at;
            let message = "neither `\\` nor a control character may stand in a class; remove it";
            return Err(GlobError::new(at, member.len_utf8(), message));
        }
        let mut ranges = Vec::new();
        let mut rest = members.chars();
        while let Some(low) = rest.next() {
            let mut ahead = rest.clone();
            let high = match (ahead.next(), ahead.next()) {
                (Some('-'), Some(high)) => {
                    rest = ahead;
                    high
                }
                _ => low,
            };
            if low > high {
                let message = format!("the range `{low}-{high}` is backwards; write `{high}-{low}`");
                return Err(GlobError::new(start, len, message));
            }
            ranges.push((low, high));
        }
        self.at += len;
        Ok(Class { negated: members.len() < inner.len(), ranges })
    }

    fn peek(&self) -> Option<char> {
        self.pattern[self.at..].chars().next()
    }
}

fn push_to_all(sequences: &mut [Sequence], token: &Token) {
    for sequence in sequences {
        push(sequence, token);
    }
}

fn push(sequence: &mut Sequence, token: &Token) {
    match (sequence.last_mut(), token) {
        (Some(Token::Any), Token::Any) => {}
        (Some(Token::Text(before)), Token::Text(text)) => before.push_str(text),
        _ => sequence.push(token.clone()),
    }
}

fn joined(front: &Sequence, back: &Sequence) -> Sequence {
    let mut sequence = front.clone();
    for token in back {
        push(&mut sequence, token);
    }
    sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("*", &["a", "website-cert-risk", ""], &[]),
            ("website-cert-*", &["website-cert-", "website-cert-risk"], &["website-cert", "my-website-cert-risk"]),
            ("*-change", &["firewall-banner-change", "-change"], &["change", "banner-changed"]),
            ("*-scan-*", &["target-scan-start", "-scan-"], &["target-scan", "scan-start"]),
            ("a*b*c", &["abc", "aXbXc", "abcbc", "a-b-b-c-c"], &["ab", "acb", "abcd"]),
            ("a**b", &["ab", "axb"], &["a"]),
            ("*a", &["a", "aa", "ba"], &["ab", ""]),
            ("pci-report-?", &["pci-report-1", "pci-report-é"], &["pci-report-", "pci-report-12"]),
            ("?*?", &["ab", "abc"], &["a", ""]),
            ("issue-[a-c]", &["issue-a", "issue-c"], &["issue-d", "issue-", "issue-A", "issue-ab"]),
            ("issue-[!a-c]", &["issue-d", "issue-é", "issue--"], &["issue-a", "issue-"]),
            ("issue-[^a]", &["issue-b"], &["issue-a"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[-a]", &["a", "-"], &["b"]),
            ("[a-c-e]", &["b", "-", "e"], &["d"]),
            ("[*]", &["*"], &["a", ""]),
            ("[{,}]", &["{", ",", "}"], &["a"]),
            ("[а-я]", &["д"], &["d"]),
            ("*-scan-{start,finish}", &["target-scan-start", "domain-scan-finish"], &["target-scan-first"]),
            ("a{b,}c", &["abc", "ac"], &["a", "abbc"]),
            ("{a,b}{c,d}", &["ac", "ad", "bc", "bd"], &["ab", "a", "acd"]),
            ("{a{b,c{d,e}},f*}", &["ab", "acd", "ace", "f", "fx"], &["a", "ac", "bd"]),
            ("{a}", &["a"], &["{a}"]),
            ("{[a,b],c*}-x", &["a-x", ",-x", "b-x", "cc-x"], &["d-x"]),
        ];
        for (pattern, matching, others) in cases {
            let glob = KeyGlob::parse(pattern).unwrap();
            matching.iter().for_each(|key| assert!(glob.matches(key), "{pattern} should match {key:?}"));
            others.iter().for_each(|key| assert!(!glob.matches(key), "{pattern} should not match {key:?}"));
        }
    }

    #[test]
    fn exact_names() {
        for name in ["website-cert-expiring", "a", "pci-report-7-day", "a!b", "a b", "a.b", "ключ", "A", "a^b"] {
            let glob = KeyGlob::parse(name).unwrap();
            assert_eq!(glob.needles().collect::<Vec<_>>(), [Needle::Whole(name)]);
            assert_eq!((glob.matches(name), glob.as_str()), (true, name));
            for other in
                [name.to_owned() + "x", "x".to_owned() + name, name[..name.len() - name.len() / 2].to_uppercase()]
            {
                assert_eq!(glob.matches(&other), other == name, "{name} {other}");
            }
        }
    }

    #[test]
    fn rejects() {
        let (long, many) = ("a".repeat(513), "{a,b}".repeat(9));
        let cases: &[(&str, usize, usize, &str)] = &[
            ("", 0, 0, "write `*`"),
            ("!a", 0, 1, "excludes"),
            ("=issue-add", 0, 1, "remove the `=`"),
            ("~^issue-", 0, 1, "not regular expressions"),
            ("a]", 1, 1, "`]` without a `[`"),
            ("a}b", 1, 1, "`}` without a `{`"),
            ("a, b", 1, 1, "write `{a,b}`, or a list"),
            (r"a\*", 1, 1, "`[*]`"),
            (r"a[\]]", 2, 1, "neither `\\`"),
            (r"é[!x\]", 5, 1, "neither `\\`"),
            ("a\nb", 1, 1, "control character"),
            ("[a\u{85}]", 2, 2, "control character"),
            ("a-[b", 2, 1, "has no `]`"),
            ("a-{b,c", 2, 1, "has no `}`"),
            ("a-{b,{c}", 2, 1, "has no `}`"),
            ("a-{b,[c}", 5, 1, "has no `]`"),
            ("é{}", 2, 2, "no alternatives"),
            ("[]", 0, 2, "no characters"),
            ("[!]", 0, 3, "no characters"),
            ("a[z-a]", 1, 5, "write `a-z`"),
            ("{{{{{a}}}}}", 4, 1, "more than 4 braces"),
            (&long, 0, 513, "longer than 512"),
            (&many, 40, 5, "more than 256"),
        ];
        for (pattern, at, len, message) in cases {
            let error = KeyGlob::parse(pattern).unwrap_err();
            assert_eq!((error.at, error.len), (*at, *len), "{pattern}: {error}");
            assert!(error.message.contains(message), "{pattern}: {error}");
        }
        assert!(KeyGlob::parse(&many[5..]).is_ok());
        assert!(KeyGlob::parse("{{{{a}}}}").is_ok());
    }

    #[test]
    fn needles_are_whole_words_or_the_longest_text() {
        let needles = |pattern| format!("{:?}", KeyGlob::parse(pattern).unwrap().needles().collect::<Vec<_>>());
        assert_eq!(needles("*-scan-{start,*}"), r#"[Words(["scan", "start"]), Words(["scan"])]"#);
        assert_eq!(needles("website-cert-*"), r#"[Words(["website", "cert"])]"#);
        assert_eq!(needles("a-?-long-*b"), r#"[Words(["a", "long"])]"#);
        assert_eq!(needles("-a*-b-"), r#"[Words(["b"])]"#);
        assert_eq!(needles("*a-b[x]-long?c"), r#"[Within("-long")]"#);
        assert_eq!(needles("{a,b*,?,,a}"), r#"[Whole("a"), Within("b"), Nothing, Whole("")]"#);
    }

    #[test]
    fn stars_do_not_multiply() {
        // Exponential backtracking would not come back from this.
        let glob = KeyGlob::parse(&("*a".repeat(100) + "*b")).unwrap();
        assert!(!glob.matches(&"a".repeat(100_000)));
    }
}
