//! Microsoft Teams: an Adaptive Card, without the envelope that the channel puts round it.
//!
//! `TextBlock` and facts run a subset of Markdown (<https://learn.microsoft.com/microsoftteams/platform/task-modules-and-cards/cards/cards-format>),
//! and the clients disagree on what a backslash escapes: all honour `\[`, `\]` and `\\`, some show the backslash before other
//! letters. So brackets get the backslash and the rest of the markup becomes look-alikes. `TextRun` has no markup, and is
//! what the built-in card uses. Both expand `{{DATE(…)}}` and `{{TIME(…)}}`: two braces in a row are drawn apart.

use std::io;

use serde_json::{Value, json};

use super::context::Context;
use super::taint::{Allowed, Letter, Piece, Spot, address, joins_word, letters, links, part, starts_line, token};
use super::text::{CUT, shorten};
use crate::model::Mention;

/// Teams takes 28 KB for a posted message, everything counted
/// (<https://learn.microsoft.com/connectors/teams/#limits>); the envelope needs some of it.
const CARD_BYTES_MAX: usize = 25_000;
/// Below this, cutting text further would leave nothing worth reading.
const TEXT_MIN: usize = 100;

/// Members without a meaning to readers. What is not named here or in [`place`] takes no value. `msteams.entities`, which
/// makes mentions, takes those of `mentions` alone.
const TOKENS: [&str; 9] =
    ["id", "style", "color", "weight", "size", "spacing", "horizontalAlignment", "width", "height"];
const TEXTS: [&str; 5] = ["text", "title", "value", "fallbackText", "speak"];

enum Place {
    Markdown,
    Run,
    Address,
    Token,
    Called,
    Closed,
}

fn place(spot: &Spot<'_>) -> Place {
    if spot.is_below("msteams") && spot.is_below("entities") {
        return Place::Called;
    }
    if ["entities", "data", "msteams"].iter().any(|member| spot.is_below(member)) {
        return Place::Closed;
    }
    match (spot.kind(), spot.key) {
        (Some("TextBlock"), "text") | (Some("AdaptiveCard"), "fallbackText" | "speak") => Place::Markdown,
        (_, "title" | "value") if spot.list() == Some("facts") => Place::Markdown,
        (Some("TextRun"), "text") | (Some("RichTextBlock"), "inlines") | (_, "altText") => Place::Run,
        (Some(kind), "title") if kind.starts_with("Action.") => Place::Run,
        (_, "url") => Place::Address,
        (_, key) if TOKENS.contains(&key) => Place::Token,
        _ => Place::Closed,
    }
}

/// Writes a string that holds values.
pub(super) fn write(spot: &Spot<'_>, pieces: Vec<Piece>, allowed: Allowed<'_>) -> Result<String, String> {
    let place = place(spot);
    let pieces = links(pieces, matches!(place, Place::Markdown))?;
    let whole = matches!(place, Place::Address | Place::Token | Place::Called);
    let pieces = &if whole { pieces } else { part(pieces, allowed) };
    let links = allowed.links;
    match place {
        Place::Markdown => markdown(pieces, links),
        Place::Run => Ok(run(pieces)),
        Place::Address => address(pieces, links),
        Place::Token => token(pieces),
        Place::Called => called(spot.key, pieces, allowed),
        Place::Closed => Err(format!("`{}` takes no value here, only literal text", spot.key)),
    }
}

/// In an entity: its id and its name, and the text in the card that it belongs to, `<at>name</at>`.
fn called(key: &str, pieces: &[Piece], allowed: Allowed<'_>) -> Result<String, String> {
    match (key, pieces) {
        ("id", pieces) => allowed.call(key, pieces, |one| Some(one.id())),
        ("name", pieces) => allowed.call(key, pieces, Mention::name),
        ("text", [Piece::Literal(open), name, Piece::Literal(close)]) if open == "<at>" && close == "</at>" => {
            let name = allowed.call(key, std::slice::from_ref(name), Mention::name)?;
            Ok(format!("<at>{name}</at>"))
        }
        _ => Err(format!(
            "`{key}` takes no value here; entities have \"<at>{{{{name}}}}</at>\", {{{{id}}}} and {{{{name}}}}"
        )),
    }
}

fn run(pieces: &[Piece]) -> String {
    let letters = letters(pieces);
    let mut text = String::new();
    for (at, (letter, is_value)) in letters.iter().copied().enumerate() {
        part_braces(&letters, at, &mut text);
        text.push(if is_value && letter == '<' { '‹' } else { letter });
    }
    text
}

/// `{ {` instead of `{{`, unless the template itself says so.
fn part_braces(letters: &[Letter], at: usize, text: &mut String) {
    if let Some(before) = at.checked_sub(1)
        && let (('{', first), ('{', second)) = (letters[before], letters[at])
        && (first || second)
    {
        text.push(' ');
    }
}

fn markdown(pieces: &[Piece], links: &[String]) -> Result<String, String> {
    check_addresses(pieces, links)?;
    let letters = letters(pieces);
    let mut text = String::new();
    for (at, (letter, is_value)) in letters.iter().copied().enumerate() {
        part_braces(&letters, at, &mut text);
        let leads = starts_line(&letters, at);
        let before = at.checked_sub(1).map(|at| letters[at].0);
        match letter {
            _ if !is_value => text.push(letter),
            '\\' | '[' | ']' => text.extend(['\\', letter]),
            '*' => text.push('∗'),
            '`' => text.push('ˋ'),
            '~' => text.push('∼'),
            '<' => text.push('‹'),
            '>' => text.push('›'),
            '_' if !joins_word(&letters, at) => text.push('ˍ'),
            '&' if begins_entity(&letters, at) => text.push('＆'),
            // After the template's own `]` these would make a link or a reference; after any other they are odd enough.
            '(' if before == Some(']') => text.push('（'),
            ':' if before == Some(']') => text.push('∶'),
            '#' if leads => text.push('＃'),
            '-' if leads => text.push('‐'),
            '+' if leads => text.push('＋'),
            '=' if leads => text.push('＝'),
            '.' | ')' if ends_list_number(&letters, at) => text.push(if letter == '.' { '․' } else { '）' }),
            _ => text.push(letter),
        }
    }
    Ok(text)
}

/// In the template's own `[label](…)`, `<…>` or `[label]: …` a value may only be an allowed address, alone.
pub(super) fn check_addresses(pieces: &[Piece], links: &[String]) -> Result<(), String> {
    let mut before = String::new();
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Literal(text) => before.push_str(text),
            Piece::Value(text) => {
                let next = pieces.get(at + 1);
                let ended_by = |end: char| matches!(next, Some(Piece::Literal(text)) if text.starts_with(end));
                let in_link = before.rfind("](").is_some_and(|start| !before[start..].contains(')'));
                let in_angle = before.rfind('<').is_some_and(|start| !before[start..].contains(['>', ' ', '\n']));
                let in_reference = before.lines().last().is_some_and(|line| {
                    line.trim_start().starts_with('[')
                        && line.rfind("]:").is_some_and(|start| line[start + 2..].trim().is_empty())
                });
                let alone = links.contains(text) && !text.contains(['(', ')']);
                let good = match (in_link, in_angle, in_reference) {
                    (false, false, false) => true,
                    (true, false, false) => alone && before.ends_with("](") && ended_by(')'),
                    (false, true, false) => alone && before.ends_with('<') && ended_by('>'),
                    _ => false,
                };
                if !good {
                    return Err(
                        "inside […](…) or <…> a value may only be {{link.url}} or {{runbook}}, alone".to_owned()
                    );
                }
                before.push('\u{FFFC}');
            }
        }
    }
    Ok(())
}

pub(super) fn begins_entity(letters: &[Letter], at: usize) -> bool {
    let name = letters[at + 1..].iter().map(|(letter, _)| *letter).take(33);
    let mut rest = name.skip_while(|letter| letter.is_ascii_alphanumeric() || *letter == '#');
    rest.next() == Some(';')
}

fn ends_list_number(letters: &[Letter], at: usize) -> bool {
    let digits = letters[..at].iter().rev().take_while(|(letter, _)| letter.is_ascii_digit()).count();
    let spaced = letters.get(at + 1).is_none_or(|(letter, _)| letter.is_whitespace());
    digits > 0 && spaced && starts_line(letters, at - digits)
}

/// Brings a card within the size Teams takes: the longest texts are cut and marked.
pub(super) fn fit(card: &mut Value) -> Result<(), String> {
    if card.get("type").and_then(Value::as_str) != Some("AdaptiveCard") {
        return Err("a Teams template must be one card: {\"type\": \"AdaptiveCard\", …}".to_owned());
    }
    loop {
        let size = size(card);
        if size <= CARD_BYTES_MAX {
            return Ok(());
        }
        let mut longest = 0;
        for_each_text(card, &mut |text| longest = longest.max(text.chars().count()));
        if longest <= TEXT_MIN {
            return Err(format!("Teams takes {CARD_BYTES_MAX} bytes in a card, here are {size}"));
        }
        let max = (longest * 2 / 3).max(TEXT_MIN);
        for_each_text(card, &mut |text| *text = cut(text, max));
    }
}

/// The card's length as it is sent, without building the text.
pub(super) fn size(card: &Value) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, part: &[u8]) -> io::Result<usize> {
            self.0 += part.len();
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Counting cannot fail, and a document is always writable; if not, nothing of it is small enough.
    serde_json::to_writer(&mut counter, card).map_or(usize::MAX, |()| counter.0)
}

fn for_each_text(part: &mut Value, visit: &mut dyn FnMut(&mut String)) {
    match part {
        Value::Array(items) => items.iter_mut().for_each(|item| for_each_text(item, visit)),
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if TEXTS.contains(&name.as_str()) => visit(text),
                    Value::Array(items) if name == "inlines" => {
                        for item in items {
                            match item {
                                Value::String(text) => visit(text),
                                other => for_each_text(other, visit),
                            }
                        }
                    }
                    other => for_each_text(other, visit),
                }
            }
        }
        _ => {}
    }
}

/// [`shorten`], never ending in half an escape.
fn cut(text: &str, max: usize) -> String {
    let short = shorten(text, max);
    if short == text {
        return short;
    }
    let kept = short.trim_end_matches(CUT);
    let backslashes = kept.chars().rev().take_while(|letter| *letter == '\\').count();
    format!("{}{CUT}", &kept[..kept.len() - backslashes % 2])
}

/// The small plain card: no template, one text and the link.
pub(super) fn plain(context: &Context) -> Value {
    let block = |text: &str| {
        let text = run(&[Piece::Value(text.to_owned())]);
        json!({"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text}]})
    };
    let lines = context.plain_lines().chain(context.text("footer"));
    let mut card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": lines.map(block).collect::<Vec<_>>(),
    });
    let called: Vec<_> = context.mentions().iter().filter_map(|one| Some((one.id(), one.name()?))).collect();
    if !called.is_empty() {
        let tag = |name: &str| format!("<at>{name}</at>");
        let text = called.iter().map(|(_, name)| tag(name)).collect::<Vec<_>>().join(" ");
        let entity = |(id, name): &(&str, &str)| json!({"type": "mention", "text": tag(name), "mentioned": {"id": id, "name": name}});
        card["msteams"] = json!({"entities": called.iter().map(entity).collect::<Vec<_>>()});
        if let Some(body) = card["body"].as_array_mut() {
            body.push(json!({"type": "TextBlock", "text": text, "wrap": true}));
        }
    }
    if let Some(url) = context.link() {
        card["actions"] = json!([{"type": "Action.OpenUrl", "title": context.link_label(), "url": url}]);
    }
    card
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Piece {
        Piece::Value(text.to_owned())
    }

    fn literal(text: &str) -> Piece {
        Piece::Literal(text.to_owned())
    }

    #[test]
    fn markdown_values_are_inert() {
        let cases = [
            ("[x](javascript:alert(1))", "\\[x\\]（javascript:alert(1))"),
            ("![x](y) \\[z\\]", "!\\[x\\]（y) \\\\\\[z\\\\\\]"),
            ("**b** _i_ ~~s~~ `c` a_b", "∗∗b∗∗ ˍiˍ ∼∼s∼∼ ˋcˋ a_b"),
            ("<at>all</at> <https://evil>", "‹at›all‹/at› ‹https://evil›"),
            ("&lt;at&gt; &#91; AT&T a & b;", "＆lt;at＆gt; ＆#91; AT&T a & b;"),
            ("{{DATE(2026-11-23T09:41:00Z)}}", "{ {DATE(2026-11-23T09:41:00Z)}}"),
            ("{{{{x", "{ { { {x"),
            ("# h", "＃ h"),
            ("- x", "‐ x"),
            ("+ x", "＋ x"),
            ("=== x", "＝== x"),
            ("1. x", "1․ x"),
            ("12) x", "12） x"),
            ("1.", "1․"),
            ("1.\nx", "1․\nx"),
            ("4.94.2 (x)", "4.94.2 (x)"),
        ];
        for (text, expected) in cases {
            assert_eq!(markdown(&[value(text)], &[]).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn values_cannot_join_up_or_use_the_templates_own_marks() {
        const LINK: &str = "https://app.halosecurity.com/link?id=1";
        let links = [LINK.to_owned()];
        let cases = [
            (vec![value("[a]"), value("(http://x)")], Ok("\\[a\\]（http://x)")),
            (vec![literal("[a]"), value("(http://x)")], Ok("[a]（http://x)")),
            (vec![literal("[a]"), value(": http://x")], Ok("[a]∶ http://x")),
            (vec![value("{"), literal("{"), value("DATE(x)}}")], Ok("{ {DATE(x)}}")),
            (vec![literal("{{DATE(2026)}}"), value("x")], Ok("{{DATE(2026)}}x")),
            (vec![literal("**"), value("a*b"), literal("**\n\n"), value("- c")], Ok("**a∗b**\n\n‐ c")),
            (
                vec![literal("["), value("a]b"), literal("]("), value(LINK), literal(")")],
                Ok("[a\\]b](https://app.halosecurity.com/link?id=1)"),
            ),
            (vec![literal("[x]("), value("https://evil.example"), literal(")")], Err(())),
            (vec![literal("[x](https://wiki.example/"), value("x"), literal(")")], Err(())),
            (vec![literal("[x]("), value(LINK), literal(" \"title\")")], Err(())),
            (vec![literal("<"), value("https://evil.example"), literal(">")], Err(())),
            (vec![literal("[x][1]\n\n[1]: "), value(LINK)], Err(())),
            (vec![literal("a < b "), value("c")], Ok("a < b c")),
        ];
        for (pieces, expected) in cases {
            assert_eq!(
                markdown(&pieces, &links).map_err(|_| ()).as_deref(),
                expected.as_ref().map(|text| *text),
                "{pieces:?}"
            );
        }
    }

    #[test]
    fn runs_have_no_markup_but_functions() {
        assert_eq!(
            run(&[literal("{{DATE(x)}} "), value("**b** {{TIME(x)}} <at>x</at>")]),
            "{{DATE(x)}} **b** { {TIME(x)}} ‹at>x‹/at>"
        );
    }

    #[test]
    fn a_card_fits_or_is_an_error() {
        let block = |text: String| json!({"type": "TextBlock", "text": text});
        let card = |blocks: Vec<Value>| json!({"type": "AdaptiveCard", "body": blocks});
        let mut long = card(vec![block("\\[é".repeat(4_000)), block("short".to_owned())]);
        fit(&mut long).unwrap();
        assert!(long.to_string().len() <= CARD_BYTES_MAX);
        assert_eq!(long["body"][1]["text"], "short");
        assert!(fit(&mut card(vec![block("x".repeat(50)); 400])).is_err());
        assert!(fit(&mut json!({"type": "message"})).is_err());
        assert_eq!(cut("ab\\[cd", 4), "ab…");
        assert_eq!(cut("a\\\\cde", 4), "a\\\\…");
        assert_eq!(cut("abc", 3), "abc");
    }
}
