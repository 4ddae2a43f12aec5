//! One key glob, parsed once and matched in time proportional to pattern times key, whatever either holds.
//!
//! Braces are expanded while parsing, up to [`KeyGlob::ALTERNATIVES_MAX`]; what is left are flat sequences of text, `?`,
//! classes and `*`, for which the last `*` is the only place ever worth going back to.

use arrayvec::ArrayString;

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
    /// All alternatives, with [`OR`] between them.
    any: Box<str>,
}

/// What [`KeyPatterns`](super::KeyPatterns) match, in one piece of memory, for who must ask many. The default matches any
/// key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFilter {
    /// All alternatives, with [`OR`] between them; those that exclude come behind the others.
    globs: Text,
    /// How much of it includes. None is excluded if nothing is left.
    including: usize,
}

/// Bytes. Most lists are shorter; a longer one costs a look elsewhere. Routing keeps some more beside it in 128 bytes.
const IN_PLACE: usize = 72;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Text {
    Short(ArrayString<IN_PLACE>),
    Long(Box<str>),
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

/// One alternative: text in which control characters, of which no pattern and no key has any, stand for the wildcards.
/// So a whole list of globs is one piece of memory to read, where a tree would be a dozen; with many rules, that is what
/// matching costs. Never two [`ANY`] in a row.
type Sequence = String;

const ANY: u8 = 1;
const ANY_TEXT: &str = "\u{1}";
const ONE: char = '\u{2}';
/// Then the first and the last character of each range, then [`END`].
const CLASS: char = '\u{3}';
/// A negated [`CLASS`].
const NOT: char = '\u{4}';
const END: char = '\u{5}';
/// Between sequences.
const OR: char = '\n';
const OR_TEXT: &str = "\n";

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
        Ok(Self { source: pattern.to_owned(), any: alternatives.join(OR_TEXT).into() })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// The whole key must match.
    pub fn matches(&self, key: &str) -> bool {
        any_matches(&self.any, key)
    }

    /// One for each alternative: a key that satisfies none of them cannot match.
    pub fn needles(&self) -> impl Iterator<Item = Needle<'_>> {
        self.any.split(OR).map(|sequence| {
            if !sequence.contains(char::is_control) {
                return Needle::Whole(sequence);
            }
            let words: Vec<_> = words(sequence).collect();
            if !words.is_empty() {
                return Needle::Words(words);
            }
            let longest = texts(sequence).max_by_key(|text| text.len());
            longest.filter(|text| !text.is_empty()).map_or(Needle::Nothing, Needle::Within)
        })
    }
}

impl KeyFilter {
    /// No including globs: any key.
    pub(super) fn new<'a>(
        including: impl Iterator<Item = &'a KeyGlob>,
        excluding: impl Iterator<Item = &'a KeyGlob>,
    ) -> Self {
        let mut including: Vec<_> = including.map(|glob| &*glob.any).collect();
        if including.is_empty() {
            including.push(ANY_TEXT);
        }
        let excluding: Vec<_> = excluding.map(|glob| &*glob.any).collect();
        let including = including.join(OR_TEXT);
        let globs = including.clone() + &excluding.join(OR_TEXT);
        let short = ArrayString::from(&globs).map(Text::Short).ok();
        Self { including: including.len(), globs: short.unwrap_or_else(|| Text::Long(globs.into())) }
    }

    pub fn matches(&self, key: &str) -> bool {
        let globs = match &self.globs {
            Text::Short(globs) => globs.as_str(),
            Text::Long(globs) => globs,
        };
        let (including, excluding) = globs.split_at(self.including);
        any_matches(including, key) && (excluding.is_empty() || !any_matches(excluding, key))
    }
}

impl Default for KeyFilter {
    fn default() -> Self {
        Self::new(std::iter::empty(), std::iter::empty())
    }
}

impl GlobError {
    fn new(at: usize, len: usize, message: impl Into<String>) -> Self {
        Self { at, len, message: message.into() }
    }
}

/// What stands before, between and after the wildcards; some of it may be empty.
fn texts(sequence: &str) -> impl DoubleEndedIterator<Item = &str> {
    let outside_classes = |part: &'_ str| part.find(END).map_or(0, |end| end + END.len_utf8());
    let parts = sequence.split([CLASS, NOT]).map(move |part| &part[outside_classes(part)..]);
    parts.flat_map(|part| part.split([char::from(ANY), ONE]))
}

/// The words of which no wildcard can be a part.
fn words(sequence: &str) -> impl Iterator<Item = &str> {
    let last = texts(sequence).count() - 1;
    let words = texts(sequence).enumerate().flat_map(move |(at, text)| {
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

fn any_matches(globs: &str, key: &str) -> bool {
    globs.split(OR).any(|sequence| matches(sequence, key))
}

fn matches(sequence: &str, key: &str) -> bool {
    let (mut tokens, mut rest) = (sequence, key);
    // Where to go on after a mismatch: behind the last `*`, which then takes one character more. What an earlier `*`
    // could take instead, the last one can take as well, so this never branches.
    let mut retry: Option<(&str, &str)> = None;
    loop {
        let step = match tokens.as_bytes() {
            [] if rest.is_empty() => return true,
            [] => None,
            [ANY] => return true,
            [ANY, ..] => {
                retry = Some((&tokens[1..], rest));
                retry
            }
            _ => take(tokens, rest),
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

/// What is left of both when the first token has taken its part from the front of the text; `None` if it cannot.
fn take<'a>(tokens: &'a str, text: &'a str) -> Option<(&'a str, &'a str)> {
    let (mut after, mut rest) = (tokens.chars(), text.chars());
    let (token, first) = (after.next()?, rest.next()?);
    match token {
        ONE => Some((after.as_str(), rest.as_str())),
        CLASS | NOT => {
            let (members, after) = after.as_str().split_once(END)?;
            let mut members = members.chars();
            let ranges = std::iter::from_fn(|| Some(members.next()?..=members.next()?));
            let has = ranges.into_iter().any(|range| range.contains(&first));
            (has != (token == NOT)).then_some((after, rest.as_str()))
        }
        _ => {
            let same = tokens.bytes().zip(text.bytes()).take_while(|(token, own)| token == own).count();
            // Within a character both differ; only at its end may a wildcard follow.
            (same > 0).then_some(())?;
            Some((tokens.get(same..)?, text.get(same..)?))
        }
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
                    push_to_all(&mut sequences, &class);
                }
                _ => {
                    let token = self.single(character)?;
                    self.at += character.len_utf8();
                    push_to_all(&mut sequences, token.encode_utf8(&mut [0; 4]));
                }
            }
        }
        Ok(sequences)
    }

    fn single(&self, character: char) -> Result<char, GlobError> {
        let message = match character {
            '*' => return Ok(char::from(ANY)),
            '?' => return Ok(ONE),
            ']' => "`]` without a `[` before it",
            '}' => "`}` without a `{` before it",
            ',' => "`,` has a meaning only within braces; write `{a,b}`, or a list of patterns",
            '\\' => "`\\` escapes nothing here; write a class of one, such as `[*]`, for a special character",
            _ if character.is_control() => "no key holds a control character, such as a line end; remove it",
            _ => return Ok(character),
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
    fn class(&mut self) -> Result<Sequence, GlobError> {
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
        let mut class = Sequence::from(if members.len() < inner.len() { NOT } else { CLASS });
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
            class.extend([low, high]);
        }
        self.at += len;
        class.push(END);
        Ok(class)
    }

    fn peek(&self) -> Option<char> {
        self.pattern[self.at..].chars().next()
    }
}

fn push_to_all(sequences: &mut [Sequence], tokens: &str) {
    for sequence in sequences {
        push(sequence, tokens);
    }
}

fn push(sequence: &mut Sequence, tokens: &str) {
    let repeated = sequence.ends_with(char::from(ANY)) && tokens.starts_with(char::from(ANY));
    sequence.push_str(&tokens[usize::from(repeated)..]);
}

fn joined(front: &Sequence, back: &Sequence) -> Sequence {
    let mut sequence = front.clone();
    push(&mut sequence, back);
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
        assert_eq!(needles("a[b-c]-d-[!-]-*e"), r#"[Words(["d"])]"#);
        assert_eq!(needles("[a-b]?"), "[Nothing]");
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
