//! Conditions on an event's fields, in the filter language of the vendor's own API
//! (<https://docs.halosecurity.com/api/readme/data-types>).
//!
//! | pattern | the value |
//! |---|---|
//! | `nginx*` | is this from end to end, in either case; `*` stands for any run of characters |
//! | `=nginx` | is exactly this; `*` is a star |
//! | `~^nginx/1\.` | holds a match of this regular expression (the `regex` crate's: linear time; `(?i)` for either case) |
//! | `-` | is missing, null, `""`, or a list of nothing else |
//! | `5` `1-5` `>=5` `1,3,5` `<=10,50-55` | is a number, or a string that reads as one, in these ranges |
//! | `!…` | does not match the rest |
//!
//! The vendor leaves some things open; here they are decided. An empty value matches `-` and negations, nothing else, so
//! `*` means "is there". Of a list any element may match, and `!` means that none does. An object never matches; dotted
//! paths reach inside. Where the value is not a number, a numeric pattern is compared as text.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::ops::{Bound, RangeBounds};

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::model::Event;
use crate::model::key::PatternError;

/// One field and the patterns it must match: any of them, minus those with a leading `!`. Only such ones mean
/// "anything but".
#[derive(Clone, Debug)]
pub struct Condition {
    field: String,
    patterns: Vec<Pattern>,
}

impl Condition {
    /// `field` is a name or a dotted path, as [`Event::field`] takes it. An empty one is the caller's to refuse.
    pub fn parse(field: &str, patterns: &[&str]) -> Result<Self, PatternError> {
        if patterns.is_empty() {
            let message = format!("the list of patterns is empty; write `*` for any value, or remove `{field}`");
            return Err(PatternError { index: 0, at: 0, len: 0, message });
        }
        let parse = |(index, pattern)| {
            Pattern::parse(pattern).map_err(|Fault { at, len, message }| PatternError { index, at, len, message })
        };
        let patterns = patterns.iter().copied().enumerate().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { field: field.to_owned(), patterns })
    }

    pub fn field(&self) -> &str {
        &self.field
    }

    /// The patterns as they were written.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|pattern| pattern.source.as_str())
    }

    pub fn matches(&self, event: &Event) -> bool {
        self.holds(event.field(&self.field))
    }

    fn holds(&self, value: Option<&Value>) -> bool {
        let value = value.filter(|value| !is_empty(value));
        let mut wanted = self.patterns.iter().filter(|pattern| !pattern.negated).peekable();
        (wanted.peek().is_none() || wanted.any(|pattern| pattern.test.holds(value)))
            && !self.patterns.iter().any(|pattern| pattern.negated && pattern.test.holds(value))
    }
}

/// Equal if written alike.
impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.field == other.field && self.patterns().eq(other.patterns())
    }
}

impl Eq for Condition {}

impl Hash for Condition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.field.hash(state);
        self.patterns().for_each(|pattern| pattern.hash(state));
    }
}

#[derive(Clone, Debug)]
struct Pattern {
    source: String,
    negated: bool,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Empty,
    Exact(String),
    Wild(Wild),
    Regex(Regex),
    /// The text is for values that are no numbers.
    Numbers(Vec<Range>, Wild),
}

/// Where in a pattern something is wrong.
struct Fault {
    at: usize,
    len: usize,
    message: String,
}

/// More than any useful pattern has.
const PATTERN_BYTES_MAX: usize = 1024;
/// Compiled. Unicode classes are large: a mail address with `\w{2,24}` in it needs more than 1 MiB.
const REGEX_BYTES_MAX: usize = 4 << 20;

impl Pattern {
    fn parse(source: &str) -> Result<Self, Fault> {
        if source.len() > PATTERN_BYTES_MAX {
            let message = format!("the pattern is longer than {PATTERN_BYTES_MAX} bytes; split it into a list");
            return Err(Fault { at: 0, len: source.len(), message });
        }
        let positive = source.strip_prefix('!').unwrap_or(source);
        let at = source.len() - positive.len();
        let test = Test::parse(positive).map_err(|fault| Fault {
            at: fault.at + at,
            len: fault.len,
            message: fault.message,
        })?;
        Ok(Self { source: source.to_owned(), negated: at > 0, test })
    }
}

impl Test {
    fn parse(text: &str) -> Result<Self, Fault> {
        let fault = |message: &str| Fault { at: 0, len: text.len(), message: message.to_owned() };
        if text == "-" {
            return Ok(Self::Empty);
        }
        match text.chars().next() {
            None => Err(fault("the pattern is empty; write `-` for an empty or missing value")),
            Some('!') => Err(fault("one `!` is enough; write `=!…` for a value that begins with it")),
            Some('=') if text.len() == 1 => Err(fault("`=` needs a text; write `-` for an empty or missing value")),
            Some('=') => Ok(Self::Exact(text[1..].to_owned())),
            Some('~') if text.len() == 1 => Err(fault("`~` needs a regular expression; write `*` for any value")),
            Some('~') => compiled(&text[1..]).map(Self::Regex).map_err(|message| fault(&message)),
            Some(_) => match ranges(text)? {
                Some(ranges) => Ok(Self::Numbers(ranges, Wild::new(text))),
                None => Ok(Self::Wild(Wild::new(text))),
            },
        }
    }

    /// `None` stands for every empty value.
    fn holds(&self, value: Option<&Value>) -> bool {
        match value {
            None => matches!(self, Self::Empty),
            Some(Value::Null | Value::Object(_)) => false,
            Some(Value::Bool(value)) => self.holds_text(if *value { "true" } else { "false" }),
            Some(Value::String(text)) => self.holds_text(text),
            Some(Value::Number(number)) => match self {
                Self::Numbers(ranges, _) => Number::of(number).is_some_and(|number| number.is_in(ranges)),
                _ => self.holds_text(&number.to_string()),
            },
            Some(Value::Array(items)) => items.iter().filter(|item| !is_empty(item)).any(|item| self.holds(Some(item))),
        }
    }

    /// The text is not empty.
    fn holds_text(&self, text: &str) -> bool {
        match self {
            Self::Empty => false,
            Self::Exact(exact) => exact == text,
            Self::Wild(wild) => wild.matches(text),
            Self::Regex(regex) => regex.is_match(text),
            Self::Numbers(ranges, wild) => match Number::parse(text) {
                Some(number) => number.is_in(ranges),
                None => wild.matches(text),
            },
        }
    }
}

/// What `-` matches.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(is_empty),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    }
}

fn compiled(expression: &str) -> Result<Regex, String> {
    let compiled = RegexBuilder::new(expression).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build();
    compiled.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            "the regular expression is too large; use smaller repetitions, or `(?-u)` for ASCII classes".to_owned()
        }
        // The last line says what is wrong; those before it draw the expression once more.
        other => {
            let text = other.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("not a regular expression ({reason}); write `=` in front to compare the text itself")
        }
    })
}

/// Text with `*` for any run of characters, in either case: kept in lower case.
#[derive(Clone, Debug)]
struct Wild(Box<str>);

impl Wild {
    fn new(text: &str) -> Self {
        Self(text.to_lowercase().into())
    }

    fn matches(&self, text: &str) -> bool {
        let text = lower_case(text);
        let Some((first, others)) = self.0.split_once('*') else { return *self.0 == *text };
        let (middle, last) = others.rsplit_once('*').unwrap_or(("", others));
        let Some(mut rest) = text.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else { return false };
        // Taking each piece where it comes first leaves most for the others.
        middle.split('*').all(|piece| match rest.split_once(piece) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    }
}

/// Without a copy where nothing changes, as in most host names.
fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        text.into()
    } else {
        text.to_lowercase().into()
    }
}

type Range = (Bound<Number>, Bound<Number>);

/// Reads the whole pattern as numbers and ranges; `None` if it is text. What begins like numbers must go on so: a typing
/// error in a list of numbers would otherwise become a text that never matches.
fn ranges(text: &str) -> Result<Option<Vec<Range>>, Fault> {
    let mut ranges = Vec::new();
    let mut at = 0;
    for part in text.split(',') {
        let fault = |message| Fault { at, len: part.len(), message };
        match range(part.trim()) {
            Ok(Some(range)) => ranges.push(range),
            Ok(None) if ranges.is_empty() && !part.trim_start().starts_with(['<', '>']) => return Ok(None),
            Ok(None) => {
                let message =
                    format!("`{part}` is not a number, as in `5`, `1-5`, `>=5`; write `={text}` to compare the text");
                return Err(fault(message));
            }
            Err(Backwards { low, high }) => {
                let message =
                    format!("the range is backwards; write `{high}-{low}`, or `={text}` to compare the text itself");
                return Err(fault(message));
            }
        }
        at += part.len() + 1;
    }
    Ok(Some(ranges))
}

struct Backwards<'t> {
    low: &'t str,
    high: &'t str,
}

fn range(text: &str) -> Result<Option<Range>, Backwards<'_>> {
    use Bound::{Excluded, Included, Unbounded};
    let compared = |rest: &str, range: fn(Number) -> Range| Ok(Number::parse(rest.trim_start()).map(range));
    if let Some(rest) = text.strip_prefix(">=") {
        return compared(rest, |number| (Included(number), Unbounded));
    }
    if let Some(rest) = text.strip_prefix("<=") {
        return compared(rest, |number| (Unbounded, Included(number)));
    }
    if let Some(rest) = text.strip_prefix('>') {
        return compared(rest, |number| (Excluded(number), Unbounded));
    }
    if let Some(rest) = text.strip_prefix('<') {
        return compared(rest, |number| (Unbounded, Excluded(number)));
    }
    if let Some(number) = Number::parse(text) {
        return Ok(Some((Included(number), Included(number))));
    }
    // A `-` in front is the sign of the first number.
    let Some((dash, _)) = text.match_indices('-').find(|(dash, _)| *dash > 0) else { return Ok(None) };
    let (low, high) = (text[..dash].trim_end(), text[dash + 1..].trim_start());
    match (Number::parse(low), Number::parse(high)) {
        (Some(from), Some(to)) if from > to => Err(Backwards { low, high }),
        (Some(from), Some(to)) => Ok(Some((Included(from), Included(to)))),
        _ => Ok(None),
    }
}

/// A number as records hold them. Whole ones are kept whole: ids have more digits than a float can tell apart.
#[derive(Clone, Copy, Debug)]
enum Number {
    Whole(i128),
    Decimal(f64),
}

impl Number {
    /// `-12` or `12.5`; no exponent, no sign but `-`, no spaces. Longer than an `i128`, it is text.
    fn parse(text: &str) -> Option<Self> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        match unsigned.split_once('.') {
            None if digits(unsigned) => text.parse().ok().map(Self::Whole),
            Some((whole, fraction)) if digits(whole) && digits(fraction) => text.parse().ok().map(Self::Decimal),
            _ => None,
        }
    }

    fn of(number: &serde_json::Number) -> Option<Self> {
        let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
        whole.map(Self::Whole).or_else(|| number.as_f64().map(Self::Decimal))
    }

    fn is_in(self, ranges: &[Range]) -> bool {
        ranges.iter().any(|range| range.contains(&self))
    }

    #[expect(clippy::cast_precision_loss, reason = "only for comparing with a decimal, which is no more precise")]
    fn as_decimal(self) -> f64 {
        match self {
            Self::Whole(number) => number as f64,
            Self::Decimal(number) => number,
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(std::cmp::Ordering::Equal)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Whole(own), Self::Whole(other)) => Some(own.cmp(other)),
            _ => self.as_decimal().partial_cmp(&other.as_decimal()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Each pattern, values it matches, values it does not. A missing field is `null` here; a test below tells them apart.
    #[test]
    fn patterns() {
        let cases = [
            ("nginx", json!(["nginx", "NGINX"]), json!(["nginx 1", "an nginx", "", null, 5, {}])),
            (
                "*.example.org",
                json!(["www.example.org", "A.B.EXAMPLE.ORG", ".example.org"]),
                json!(["example.org", ""]),
            ),
            ("a*b*c", json!(["abc", "aXbXc", "ABBCC"]), json!(["ac", "abcd", "acb"])),
            ("a*a", json!(["aa", "aba"]), json!(["a"])),
            ("a**b", json!(["ab", "axb"]), json!(["a"])),
            ("*", json!(["x", 0, false, ["", "x"]]), json!(["", null, [], [null, ""], {}])),
            ("ÉCOLE", json!(["école"]), json!(["ecole"])),
            ("what?", json!(["what?"]), json!(["whats"])),
            ("=nginx", json!(["nginx"]), json!(["Nginx", "nginx 1", null])),
            ("=a*", json!(["a*"]), json!(["ab"])),
            ("==", json!(["="]), json!(["=="])),
            ("=-", json!(["-"]), json!(["", null])),
            ("=5", json!(["5", 5]), json!(["5.0", 5.0, 50])),
            ("~^nginx/1\\.", json!(["nginx/1.25"]), json!(["an nginx/1.25", "nginx/11", null])),
            ("~ginx", json!(["nginx/1.25"]), json!(["GINX", ""])),
            ("~(?i)GINX$", json!(["nginx"]), json!(["nginx "])),
            ("~^$", json!([]), json!(["", null, "x"])),
            ("~^46", json!([465, "465"]), json!([25])),
            ("-", json!(["", null, [], ["", null]]), json!(["-", " ", 0, false, {}, ["", "x"]])),
            ("!-", json!(["-", 0, false, {}, ["", "x"]]), json!(["", null, [], [""]])),
            ("!nginx", json!(["apache", "", null, 5, {}, ["apache"]]), json!(["nginx", "NGINX", ["apache", "nginx"]])),
            ("!=nginx", json!(["NGINX", null]), json!(["nginx"])),
            ("!~^a", json!(["b", null]), json!(["a", "ab"])),
            ("!5", json!([4, "x", null]), json!([5, "5", 5.0])),
            ("!>=5", json!([4, null]), json!([5, 6])),
            ("true", json!([true, "true", "TRUE"]), json!([false, 1, null])),
            ("465", json!([465, "465", 465.0, "0465", [1, 465]]), json!([46, "465/tcp", null, [], true])),
            ("1-5", json!([1, 3, 5, "2.5", "1-5"]), json!([0, 6, 5.1, "1-6", null])),
            (">5", json!([5.5, 6, "6"]), json!([5, "5", "abc", null])),
            (">=5", json!([5, 6]), json!([4.9, "", null])),
            ("<5", json!([4, -1, "-7"]), json!([5, null, "", "a", true])),
            ("<= 5", json!([5]), json!([6])),
            ("1,3,5", json!([1, 3, 5]), json!([2, 4, "1,3"])),
            ("<=10, 50-55,100", json!([-3, 10, 50, 52, 55, 100]), json!([11, 49, 56, 99, 101])),
            ("-5", json!([-5, "-5", -5.0]), json!([5, "", null])),
            ("-5--1", json!([-5, -3, -1]), json!([-6, 0, 3])),
            ("-5-1", json!([-5, 0, 1]), json!([-6, 2])),
            (">-1", json!([0, -0.5]), json!([-1, -2])),
            ("0.5", json!([0.5, "0.50"]), json!([0.51, 5])),
            ("2021-01-01", json!(["2021-01-01"]), json!([2021, "2021-01-02"])),
            ("192.168.1.1", json!(["192.168.1.1"]), json!(["192.168.1.10"])),
            ("1e3", json!(["1e3", "1E3"]), json!([1000])),
            ("9007199254740993", json!([9_007_199_254_740_993_u64]), json!([9_007_199_254_740_992_u64])),
            // Longer than any number type: compared as text, never rounded.
            (
                "20210101000012345678901234567890123456789",
                json!(["20210101000012345678901234567890123456789"]),
                json!(["20210101000012345678901234567890123456788"]),
            ),
        ];
        for (pattern, matching, others) in cases {
            let condition = Condition::parse("field", &[pattern]).unwrap();
            for (values, expected) in [(matching, true), (others, false)] {
                for value in values.as_array().unwrap() {
                    assert_eq!(condition.holds(Some(value)), expected, "{pattern} {value}");
                    if value.is_null() {
                        assert_eq!(condition.holds(None), expected, "{pattern}, missing");
                    }
                }
            }
        }
    }

    #[test]
    fn lists_are_any_of_minus_the_negated() {
        let cases: &[(&[&str], Value, Value)] = &[
            (&["a*", "!ab"], json!(["a", "ac"]), json!(["ab", "b", null])),
            (&["!ab", "a*"], json!(["a", "ac"]), json!(["ab", "b", null])),
            (&["5", "-"], json!([5, null, ""]), json!([6])),
            (&["!a", "!b"], json!(["c", null]), json!(["a", "b"])),
            (&["*.example.org", ">5"], json!(["x.example.org", 6]), json!([5, "x"])),
            (&[">5", "!7"], json!([6, 8]), json!([5, 7, null])),
        ];
        for (patterns, matching, others) in cases {
            let condition = Condition::parse("field", patterns).unwrap();
            for (values, expected) in [(matching, true), (others, false)] {
                for value in values.as_array().unwrap() {
                    assert_eq!(condition.holds(Some(value)), expected, "{patterns:?} {value}");
                }
            }
        }
    }

    #[test]
    fn conditions_written_alike_are_equal() {
        let condition = |field, patterns: &[&str]| Condition::parse(field, patterns).unwrap();
        let own = condition("port", &["5", "~a"]);
        assert_eq!(own, condition("port", &["5", "~a"]));
        for other in [
            condition("ports", &["5", "~a"]),
            condition("port", &["5"]),
            condition("port", &["5", "~A"]),
            condition("port", &["5", "!~a"]),
            condition("port", &["~a", "5"]),
        ] {
            assert_ne!(own, other);
        }
    }

    #[test]
    fn fields_are_looked_up_in_the_event() {
        let event = json!({"event_id": "1", "key": "k", "target": {"target": "www.example.org"}, "a": {"b": [1, 2]}});
        let event = Event::from_value(event).unwrap();
        let cases = [
            ("target", "*.example.org", true),
            ("a.b", "2", true),
            ("a.b", "3", false),
            ("a", "*", false),
            ("a", "-", false),
            ("a.c", "-", true),
            ("a.c", "!x", true),
            ("a.c", "*", false),
        ];
        for (field, pattern, expected) in cases {
            assert_eq!(Condition::parse(field, &[pattern]).unwrap().matches(&event), expected, "{field} {pattern}");
        }
    }

    #[test]
    fn rejects() {
        let long = "a".repeat(1025);
        let cases: &[(&[&str], usize, usize, usize, &str)] = &[
            (&[], 0, 0, 0, "remove `field`"),
            (&["a", ""], 1, 0, 0, "write `-`"),
            (&["!"], 0, 1, 0, "write `-`"),
            (&["!!a"], 0, 1, 2, "one `!`"),
            (&["="], 0, 0, 1, "write `-`"),
            (&["!~"], 0, 1, 1, "write `*`"),
            (&["~(a"], 0, 0, 3, "unclosed group"),
            (&["~a(?=b)"], 0, 0, 7, "look-around"),
            (&["~(\\w{200}){200}"], 0, 0, 15, "too large"),
            (&["5-1"], 0, 0, 3, "write `1-5`, or `=5-1`"),
            (&["2021-01"], 0, 0, 7, "or `=2021-01`"),
            (&["1--5"], 0, 0, 4, "write `-5-1`"),
            (&["!1,9-5"], 0, 3, 3, "write `5-9`"),
            (&[">x"], 0, 0, 2, "write `=>x`"),
            (&["<"], 0, 0, 1, "not a number"),
            (&["1,3,5x"], 0, 4, 2, "`5x` is not a number"),
            (&["1,"], 0, 2, 0, "not a number"),
            (&[&long], 0, 0, 1025, "longer than 1024"),
        ];
        for (patterns, index, at, len, message) in cases {
            let error = Condition::parse("field", patterns).unwrap_err();
            assert_eq!((error.index, error.at, error.len), (*index, *at, *len), "{patterns:?}: {error}");
            assert!(error.message.contains(message), "{patterns:?}: {error}");
        }
    }

    #[test]
    fn usual_expressions_fit() {
        for expression in
            [r"~(?i)\b(nginx|apache|iis)/\d+\.\d+", r"~^[\w.+-]+@[\w-]+\.\w{2,24}$", r"~\w{32}", r"~(?-u)^\w{200}$"]
        {
            let error = Condition::parse("field", &[expression]).err();
            assert_eq!(error, None, "{expression}");
        }
    }
}
