//! Why a text cannot be read: what the parser says, in the words of this program's users, and never with a value of the file.

use super::{At, Span};
use crate::config::problem::quoted;
use crate::config::secrets::is_plain_name;
use crate::config::words::nearest;

/// Why the text cannot be read at all. The messages never repeat a value.
#[derive(Debug)]
pub struct Fault {
    pub code: &'static str,
    pub title: String,
    pub label: String,
    pub help: String,
    pub at: At,
}

/// There is no setting in the file.
pub(super) fn empty_file() -> Fault {
    Fault {
        code: "empty-file",
        title: "the file holds no settings".to_owned(),
        label: "nothing but blank lines and comments".to_owned(),
        help: "start from rules.example.yaml; `sources`, `destinations`, `rules` and `unrouted` are needed".to_owned(),
        at: None,
    }
}

/// What the parser found, in the words of this program's users.
pub(super) fn of(error: &serde_saphyr::Error, text: &str) -> Fault {
    use serde_saphyr::Error as E;

    let at = error.location().and_then(|location| span(location).or_else(|| span_by_line(location, text)));
    let compare = "compare with rules.example.yaml";
    let wrong_type = |title: String, label: &str, help: Option<&str>| Fault {
        code: "wrong-type",
        title,
        label: label.to_owned(),
        help: help.unwrap_or(compare).to_owned(),
        at,
    };
    let syntax = |title: String, help: Option<&str>| Fault {
        code: "yaml-syntax",
        title,
        label: "the file cannot be read past this place".to_owned(),
        help: help.unwrap_or(compare).to_owned(),
        at,
    };
    match error {
        E::AliasError { error, .. } => Fault { at, ..of(error, text) },
        E::SerdeInvalidType { unexpected, expected, .. } | E::SerdeInvalidValue { unexpected, expected, .. } => {
            // "string \"hunter2\"": only the kind may be told.
            let kind = unexpected.split(['`', '"', '(']).next().unwrap_or_default().trim();
            let found = plain_kind(kind);
            wrong_type(format!("{expected} is needed here, not {found}"), &format!("this is {found}"), None)
        }
        E::Unexpected { expected, .. } => {
            let found = match at.and_then(|at| text.get(at.start..)?.chars().next()) {
                Some('[' | '-') => "this is a list",
                Some('{') => "this is a table",
                _ => "something else stands here",
            };
            wrong_type(format!("{} is needed here", plain_kind(expected)), found, None)
        }
        E::InvalidBooleanStrict { .. } | E::InvalidScalar { ty: "boolean", .. } => wrong_type(
            "`true` or `false` is needed here".to_owned(),
            "not a truth value",
            Some("write `true` or `false`"),
        ),
        E::NullIntoString { .. } => wrong_type(
            "a text is needed here, not nothing".to_owned(),
            "nothing stands here",
            Some("write a value, or remove the entry"),
        ),
        E::SerdeUnknownField { field, expected, .. } => preset(
            format!("{} is no part of a preset here", shown(field)),
            "unknown field",
            nearest(field, expected.iter().copied()).map(|near| format!("did you mean `{near}`?")),
            at,
        ),
        E::SerdeMissingField { field, .. } => {
            preset(format!("this part of a preset has no `{field}`"), "something is missing", None, at)
        }
        E::SerdeUnknownVariant { variant, expected, .. } => preset(
            format!("{} is not known here", shown(variant)),
            "not known",
            Some(format!("write one of `{}`", expected.join("`, `"))),
            at,
        ),
        E::UnsupportedTag { .. }
        | E::TaggedStructFieldName { .. }
        | E::TaggedScalarCannotDeserializeIntoString { .. } => syntax(
            "YAML tags (`!name`) have no meaning in a rules file".to_owned(),
            Some("remove the tag; text that starts with `!` needs quotes, as in \"!website-cert-new-issuer\""),
        ),
        E::MultipleDocuments { .. } => syntax(
            "the file holds more than one YAML document".to_owned(),
            Some("remove the second `---` line and what follows, or make it a file of its own"),
        ),
        E::UnknownAnchor { .. } => syntax(
            "this alias has no anchor".to_owned(),
            Some("a text that starts with `*` needs quotes, as in key: \"*-scan-start\""),
        ),
        E::Budget { .. }
        | E::AliasReplayLimitExceeded { .. }
        | E::AliasExpansionLimitExceeded { .. }
        | E::AliasReplayStackDepthExceeded { .. } => syntax(
            "the file is nested too deep or grows too large through its aliases".to_owned(),
            Some("write the repeated parts out"),
        ),
        E::ExternalMessage { msg, .. } => syntax(format!("this is not YAML: {}", own_words(msg)), hint(msg, text, at)),
        E::Eof { .. } => syntax("the file ends in the middle of a value".to_owned(), None),
        _ => syntax("this is not YAML that a rules file can hold".to_owned(), None),
    }
}

pub(super) const PRESET_HELP: &str = "docs/PRESETS.md has all fields of `preset`, and an example";

/// Of what is wrong inside a preset: the only part of the file whose fields others than we ourselves read.
fn preset(title: String, label: &str, help: Option<String>, at: At) -> Fault {
    let help = help.unwrap_or_else(|| PRESET_HELP.to_owned());
    Fault { code: "bad-preset", title, label: label.to_owned(), help, at }
}

/// A word of the file may be a secret out of its place.
fn shown(word: &str) -> String {
    if is_plain_name(word) { quoted(word) } else { "this".to_owned() }
}

/// The parser's message up to where it would begin to quote the file.
fn own_words(message: &str) -> &str {
    message.split(['\n', '`', '"']).next().unwrap_or_default().trim_end_matches([' ', ',', ':'])
}

fn hint(message: &str, text: &str, at: At) -> Option<&'static str> {
    let line =
        at.and_then(|at| text.get(..at.start)).map_or("", |before| before.rsplit('\n').next().unwrap_or_default());
    if line.contains('\t') || message.contains("tab") {
        return Some("YAML is indented with spaces, never with tabs");
    }
    if message.contains("anchor") || message.contains("alias") {
        return Some("a text that starts with `*` or `&` needs quotes, as in key: \"*-scan-start\"");
    }
    if message.contains("quote") {
        return Some("close the quote; a `\"` within double quotes is written `\\\"`, a `'` within single ones `''`");
    }
    if message.contains("mapping") {
        return Some("check the indentation, and put quotes round a text that holds `: `");
    }
    None
}

/// The names serde and the parser give to kinds of values, in the words of this program's users.
fn plain_kind(kind: &str) -> &'static str {
    match kind {
        "map" | "mapping" | "mapping start" => "a table",
        "sequence" | "sequence start" => "a list",
        "string" => "a text",
        "scalar" | "string scalar" => "a single value",
        "integer" | "floating point" => "a number",
        "boolean" => "a truth value",
        "unit value" | "Option value" | "null" => "nothing",
        _ => "another kind of value",
    }
}

pub(super) fn span(location: serde_saphyr::Location) -> At {
    // Line 0 marks a location that is not known; its offsets are far outside the text.
    if location.line() == 0 {
        return None;
    }
    let start = usize::try_from(location.span().byte_offset()?).ok()?;
    Some(Span { start, end: start.checked_add(usize::try_from(location.span().byte_len()?).ok()?)? })
}

/// Syntax errors know only line and column.
fn span_by_line(location: serde_saphyr::Location, text: &str) -> At {
    let lines_before = usize::try_from(location.line()).ok()?.checked_sub(1)?;
    let line: usize = text.split_inclusive('\n').take(lines_before).map(str::len).sum();
    let column = usize::try_from(location.column()).ok()?.checked_sub(1)?;
    let start = line + text.get(line..)?.chars().take(column).map(char::len_utf8).sum::<usize>();
    Some(Span { start, end: start })
}

#[cfg(test)]
mod tests {
    use crate::config::file::parse;

    /// The code of the fault and the text from its place on.
    #[test]
    fn faults_have_their_places() {
        let cases = [
            ("", "empty-file", "?"),
            ("# c\n", "empty-file", "?"),
            ("~", "empty-file", "?"),
            ("[a]", "wrong-type", "[a]"),
            ("rules: 5\n", "wrong-type", "5\n"),
            ("rules: [a]\n", "wrong-type", "a]\n"),
            ("rules: [~]", "wrong-type", "~]"),
            ("rules: [{ send: [a, ~] }]", "wrong-type", "~] }]"),
            ("rules: [{ name: { x: y } }]", "wrong-type", "{ x: y } }]"),
            ("rules: [{ when: { key: { a: b } } }]", "wrong-type", "{ a: b } } }]"),
            ("rules: [{ stop: on }]", "wrong-type", "on }]"),
            ("? [a]\n: b\n", "wrong-type", "[a]\n: b\n"),
            ("a: [1, 2\nb: 3\n", "yaml-syntax", ": 3\n"),
            ("rules:\n\t- a\n", "yaml-syntax", "- a\n"),
            ("ü: @b\n", "yaml-syntax", "@b\n"),
            ("a: 'x\nb: c\n", "yaml-syntax", "'x\nb: c\n"),
            ("key: *-scan\n", "yaml-syntax", "*-scan\n"),
            ("a: !secret b\n", "yaml-syntax", "b\n"),
            ("a: 1\n---\nb: 2\n", "yaml-syntax", "b: 2\n"),
        ];
        for (text, code, rest) in cases {
            let fault = parse(text).unwrap_err().list.remove(0);
            let found = fault.at.map_or("?", |at| &text[at.start..]);
            assert_eq!((fault.code, found), (code, rest), "{text:?} {fault:?}");
            assert!(!fault.help.is_empty());
        }
    }

    #[test]
    fn faults_never_repeat_a_value() {
        for text in [
            "destinations: { a: { smtp: hunter2 } }",
            "destinations: hunter2",
            "rules: [hunter2]",
            "a: \"hunter2",
            "a: \"\\hunter2\"",
            "a: *hunter2",
            "a: !hunter2 b",
            "hunter2",
            "a: b: hunter2",
            "rules: [{ stop: hunter2 }]",
        ] {
            let fault = format!("{:?}", parse(text).unwrap_err());
            assert!(!fault.contains("hunter2"), "{text} {fault}");
        }
    }
}
