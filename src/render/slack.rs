//! Slack: Block Kit messages.
//!
//! Text is escaped by the node it stands in. In `mrkdwn` the three control characters become entities
//! (<https://docs.slack.dev/messaging/formatting-message-text>) and the letters that Slack gives no escape for (`* _ ~`
//! backtick, `:emoji:`) become look-alikes. `plain_text` takes the same entities. Whether the text of a `rich_text` element
//! is decoded once more is not documented; there `<` and `>` become `‹` and `›`, which is right either way.

use std::net::Ipv6Addr;
use std::ops::Range;

use serde_json::{Value, json};

use super::context::Context;
use super::taint::{Allowed, Letter, Piece, Spot, address, joins_word, letters, links, part, starts_line, token};
use super::text::{CUT, shorten};
use crate::model::Mention;

/// <https://docs.slack.dev/reference/block-kit/composition-objects/text-object>
const TEXT_MAX: usize = 3_000;
/// <https://docs.slack.dev/reference/block-kit/blocks/header-block>
const HEADER_MAX: usize = 150;
/// <https://docs.slack.dev/reference/block-kit/blocks/section-block>
const FIELDS_MAX: usize = 10;
const FIELD_MAX: usize = 2_000;
/// <https://docs.slack.dev/reference/block-kit/blocks/context-block>
const CONTEXT_MAX: usize = 10;
/// <https://docs.slack.dev/reference/block-kit/blocks/actions-block>
const ACTIONS_MAX: usize = 25;
/// <https://docs.slack.dev/reference/block-kit/block-elements/button-element>
const BUTTON_MAX: usize = 75;
/// <https://docs.slack.dev/reference/block-kit/blocks>
const BLOCKS_MAX: usize = 50;
/// Not documented: messages of some 13,200 characters over all blocks are refused with `msg_blocks_too_long`, and each
/// header counts about a hundred more (<https://github.com/slackapi/bolt-js/issues/2509>).
const ALL_TEXT_MAX: usize = 12_000;
const HEADER_EXTRA: usize = 100;
/// Below this, cutting text further would leave nothing worth reading.
const TEXT_MIN: usize = 100;
/// Stands for an empty text, which Slack refuses.
const NOTHING: &str = "–";

/// Members of attachments that are, or may be, read as `mrkdwn`.
/// <https://docs.slack.dev/legacy/legacy-messaging/legacy-secondary-message-attachments>
const ATTACHMENT_TEXTS: [&str; 7] = ["text", "pretext", "fallback", "title", "value", "footer", "author_name"];
/// Members that hold an address.
const ADDRESSES: [&str; 9] = [
    "url",
    "image_url",
    "thumb_url",
    "title_link",
    "author_link",
    "author_icon",
    "footer_icon",
    "from_url",
    "title_url",
];
/// Members that hold a name without a meaning to readers. Everything not named anywhere here takes no value at all:
/// among them `channel` and `username`. The ids of users and groups take those of `mentions`, each in its own element.
const TOKENS: [&str; 5] = ["block_id", "action_id", "color", "style", "value"];

enum Place {
    Mrkdwn,
    Plain {
        emoji: bool,
    },
    Rich,
    Address,
    Token,
    /// Who is called, by this kind of id.
    Called(&'static [&'static str]),
    Closed,
}

fn place(spot: &Spot<'_>) -> Place {
    match (spot.kind(), spot.key) {
        (Some("mrkdwn"), "text") => Place::Mrkdwn,
        (Some("plain_text"), "text") => Place::Plain { emoji: !spot.has_no_emoji() },
        (Some("text" | "link" | "raw_text"), "text") | (_, "alt_text") => Place::Rich,
        (Some("emoji"), "name") => Place::Token,
        (Some("user"), "user_id") => Place::Called(&["slack_user"]),
        (Some("usergroup"), "usergroup_id") => Place::Called(&["slack_group"]),
        (Some("broadcast"), "range") => Place::Called(&["here", "channel", "everyone"]),
        (None, "text") if spot.path.len() == 1 => Place::Mrkdwn,
        (None, key) if spot.is_below("attachments") && ATTACHMENT_TEXTS.contains(&key) => Place::Mrkdwn,
        (_, key) if ADDRESSES.contains(&key) => Place::Address,
        (_, key) if TOKENS.contains(&key) => Place::Token,
        _ => Place::Closed,
    }
}

/// Writes a string that holds values.
pub(super) fn write(spot: &Spot<'_>, pieces: Vec<Piece>, allowed: Allowed<'_>) -> Result<String, String> {
    let place = place(spot);
    let pieces = links(pieces, matches!(place, Place::Mrkdwn))?;
    let whole = matches!(place, Place::Address | Place::Token | Place::Called(_));
    let pieces = &if whole { pieces } else { part(pieces, allowed) };
    let links = allowed.links;
    match place {
        Place::Mrkdwn if allowed.mentions.is_empty() => mrkdwn(pieces, links),
        Place::Mrkdwn => {
            let calls = allowed.mentions.iter().filter_map(Mention::in_slack);
            mrkdwn(pieces, &links.iter().cloned().chain(calls).collect::<Vec<_>>())
        }
        Place::Plain { emoji } => Ok(plain_text(pieces, emoji)),
        Place::Rich => Ok(rich_text(pieces)),
        Place::Address => address(pieces, links),
        Place::Token => token(pieces),
        Place::Called(kinds) => allowed.call(spot.key, pieces, |one| kinds.contains(&one.kind()).then(|| one.id())),
        Place::Closed => Err(format!("`{}` takes no value here, only literal text", spot.key)),
    }
}

/// How a letter of a `mrkdwn` string is to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Literal,
    Text,
    /// Inside the template's own `<…|label>`.
    Label,
    /// One of the allowed addresses or mentions inside the template's own `<…>`.
    Address,
}

fn mrkdwn(pieces: &[Piece], links: &[String]) -> Result<String, String> {
    let letters = letters(pieces);
    let manners = manners(pieces, links)?;
    let emoji = emoji_colons(&letters);
    let mut text = String::new();
    for (at, (letter, _)) in letters.iter().copied().enumerate() {
        match (manners[at], letter) {
            (Manner::Literal, _) => text.push(letter),
            (_, '&') => text.push_str("&amp;"),
            (Manner::Address, _) => text.push(letter),
            (_, '<') => text.push_str("&lt;"),
            // At the start of a line it would be a quote, as an entity too.
            (_, '>') if starts_line(&letters, at) => text.push('›'),
            (_, '>') => text.push_str("&gt;"),
            (_, '*') => text.push('∗'),
            (_, '~') => text.push('∼'),
            (_, '`') => text.push('ˋ'),
            (_, '_') if !joins_word(&letters, at) => text.push('ˍ'),
            (_, ':') if emoji.contains(&at) => text.push('∶'),
            (Manner::Label, '|') => text.push('∣'),
            _ => text.push(letter),
        }
    }
    Ok(text)
}

/// The template's own `<…>` is a link or a mention: in it a value may be the label, or an allowed address or mention right
/// between `<` and `|` or `>`; anything else would let the value say who is called or where the link leads.
fn manners(pieces: &[Piece], links: &[String]) -> Result<Vec<Manner>, String> {
    let mut list = Vec::new();
    let mut within: Option<Manner> = None;
    for (at, piece) in pieces.iter().enumerate() {
        let (text, manner) = match piece {
            Piece::Literal(text) => {
                for letter in text.chars() {
                    within = match (letter, within) {
                        ('<', _) => Some(Manner::Address),
                        ('>', _) => None,
                        ('|', Some(_)) => Some(Manner::Label),
                        (_, other) => other,
                    };
                }
                (text, Manner::Literal)
            }
            Piece::Value(text) if within == Some(Manner::Address) => {
                let before = at.checked_sub(1).and_then(|at| pieces.get(at));
                let opens = matches!(before, Some(Piece::Literal(text)) if text.ends_with('<'));
                let closes = matches!(pieces.get(at + 1), Some(Piece::Literal(text)) if text.starts_with(['|', '>']));
                if !(opens && closes && links.contains(text)) {
                    return Err(
                        "inside <…> a value may only be {{link.url}}, {{runbook}} or {{slack}} of `mentions`, alone, or a \
                         label"
                            .to_owned()
                    );
                }
                (text, Manner::Address)
            }
            Piece::Value(text) => (text, within.unwrap_or(Manner::Text)),
        };
        list.extend(text.chars().map(|_| manner));
    }
    Ok(list)
}

fn plain_text(pieces: &[Piece], emoji: bool) -> String {
    let letters = letters(pieces);
    let colons = if emoji { emoji_colons(&letters) } else { Vec::new() };
    let mut text = String::new();
    for (at, (letter, is_value)) in letters.iter().copied().enumerate() {
        match letter {
            _ if !is_value => text.push(letter),
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            ':' if colons.contains(&at) => text.push('∶'),
            _ => text.push(letter),
        }
    }
    text
}

/// An emoji is an element of its own here, and as far as is known `:names:` in a text stay text
/// (<https://github.com/stablyai/agent-slack/issues/90>). Slack's reference does not say so, hence the look-alikes all the
/// same, but for IPv6 addresses: people copy those, and all that could ever show is a picture within an address.
fn rich_text(pieces: &[Piece]) -> String {
    let letters = letters(pieces);
    let mut colons = emoji_colons(&letters);
    if !colons.is_empty() {
        let addresses = ipv6_addresses(&letters);
        colons.retain(|at| !addresses.iter().any(|address| address.contains(at)));
    }
    let write = |(at, (letter, is_value)): (usize, Letter)| match letter {
        _ if !is_value => letter,
        '<' => '‹',
        '>' => '›',
        ':' if colons.contains(&at) => '∶',
        _ => letter,
    };
    letters.iter().copied().enumerate().map(write).collect()
}

/// Where the colons of `:shapes:` stand that could be emoji names, also those made of several values and literals.
/// Sorted is not needed: the lists are a few entries long.
pub(super) fn emoji_colons(letters: &[Letter]) -> Vec<usize> {
    // The backtick counts as the letter it is replaced by.
    let named = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '+' | '-' | '\'' | '`');
    let mut found = Vec::new();
    let mut open: Option<usize> = None;
    for (at, (letter, _)) in letters.iter().copied().enumerate() {
        match (letter, open) {
            (':', Some(start)) if at > start + 1 => {
                found.extend([start, at]);
                open = Some(at);
            }
            (':', _) => open = Some(at),
            (letter, _) if !named(letter) => open = None,
            _ => {}
        }
    }
    found
}

/// Where whole IPv6 addresses stand, a network's without its length.
fn ipv6_addresses(letters: &[Letter]) -> Vec<Range<usize>> {
    let belongs = |letter: char| letter.is_alphanumeric() || matches!(letter, ':' | '.' | '_' | '+' | '-' | '\'' | '`');
    let mut found = Vec::new();
    let mut at = 0;
    for word in letters.split(|(letter, _)| !belongs(*letter)) {
        let text: String = word.iter().map(|(letter, _)| letter).collect();
        if text.parse::<Ipv6Addr>().is_ok() {
            found.push(at..at + word.len());
        }
        at += word.len() + 1;
    }
    found
}

/// Brings a message within Slack's limits: text is cut and marked, too many parts are an error.
pub(super) fn fit(message: &mut Value) -> Result<(), String> {
    let Some(top) = message.as_object_mut() else { return Err("a Slack message must be a JSON object".to_owned()) };
    for member in ["link_names", "parse"] {
        if top.contains_key(member) {
            return Err(format!("`{member}` would turn names in event text into mentions: leave it out"));
        }
    }
    if !top.get("text").is_some_and(Value::is_string) {
        return Err("a Slack message needs a `text`: phones show it, and readers without blocks".to_owned());
    }
    let blocks = top.get("blocks").and_then(Value::as_array).map_or(0, Vec::len);
    within(blocks, BLOCKS_MAX, "blocks in a message")?;
    fit_part(message)?;
    fit_whole(message)
}

fn within(count: usize, max: usize, what: &str) -> Result<(), String> {
    if count > max { Err(format!("Slack takes at most {max} {what}, here are {count}")) } else { Ok(()) }
}

fn fit_part(part: &mut Value) -> Result<(), String> {
    match part {
        Value::Array(items) => items.iter_mut().try_for_each(fit_part),
        Value::Object(members) => {
            let count = |name: &str| members.get(name).and_then(Value::as_array).map_or(0, Vec::len);
            let text_max = match members.get("type").and_then(Value::as_str) {
                Some("header") => HEADER_MAX,
                Some("button") => BUTTON_MAX,
                Some("section") => within(count("fields"), FIELDS_MAX, "fields in a section").map(|()| TEXT_MAX)?,
                Some("context") => {
                    within(count("elements"), CONTEXT_MAX, "elements in a context").map(|()| TEXT_MAX)?
                }
                Some("actions") => within(count("elements"), ACTIONS_MAX, "elements in actions").map(|()| TEXT_MAX)?,
                _ => TEXT_MAX,
            };
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("text", Value::String(text)) => fit_text(text, text_max),
                    ("text", Value::Object(object)) => {
                        if let Some(Value::String(text)) = object.get_mut("text") {
                            fit_text(text, text_max);
                        }
                    }
                    ("fields", Value::Array(fields)) => {
                        for text in fields.iter_mut().filter_map(|field| field.get_mut("text")) {
                            if let Value::String(text) = text {
                                fit_text(text, FIELD_MAX);
                            }
                        }
                    }
                    (_, member) => fit_part(member)?,
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn fit_text(text: &mut String, max: usize) {
    if text.is_empty() {
        NOTHING.clone_into(text);
    }
    *text = cut(text, max);
}

/// Cuts the longest texts until all of them together fit.
fn fit_whole(message: &mut Value) -> Result<(), String> {
    loop {
        let (mut total, mut longest) = (0, 0);
        for_each_text(message, &mut |text, extra| {
            let length = text.chars().count();
            total += length + extra;
            longest = longest.max(length);
        });
        if total <= ALL_TEXT_MAX {
            return Ok(());
        }
        if longest <= TEXT_MIN {
            return Err(format!("Slack takes about {ALL_TEXT_MAX} characters in a message, here are {total}"));
        }
        let max = (longest * 2 / 3).max(TEXT_MIN);
        for_each_text(message, &mut |text, _| *text = cut(text, max));
    }
}

fn for_each_text(part: &mut Value, visit: &mut dyn FnMut(&mut String, usize)) {
    match part {
        Value::Array(items) => items.iter_mut().for_each(|item| for_each_text(item, visit)),
        Value::Object(members) => {
            let header = members.get("type").and_then(Value::as_str) == Some("header");
            for (name, member) in members {
                match member {
                    Value::String(text) if ATTACHMENT_TEXTS.contains(&name.as_str()) => visit(text, 0),
                    Value::Object(object) if header => {
                        if let Some(Value::String(text)) = object.get_mut("text") {
                            visit(text, HEADER_EXTRA);
                        }
                    }
                    other => for_each_text(other, visit),
                }
            }
        }
        _ => {}
    }
}

/// [`shorten`], never ending inside an entity or a `<…>`.
fn cut(text: &str, max: usize) -> String {
    let short = shorten(text, max);
    if short == text {
        return short;
    }
    let mut kept = short.trim_end_matches(CUT);
    // The longest entity, `&amp;`, lacks at most its last letter; an `&` further back is just an `&`.
    for (open, close, reach) in [('<', '>', usize::MAX), ('&', ';', 4)] {
        if let Some(start) = kept.rfind(open)
            && kept.len() - start <= reach
            && !kept[start..].contains(close)
        {
            kept = &kept[..start];
        }
    }
    format!("{}{CUT}", kept.trim_end())
}

/// The small plain message: no template, no blocks.
pub(super) fn plain(context: &Context) -> Value {
    let value = |text: &str| mrkdwn(&[Piece::Value(text.to_owned())], &[]).unwrap_or_default();
    let link = context.link().map(|url| format!("<{}|{}>", url.replace('&', "&amp;"), context.link_label()));
    let calls: Vec<_> = context.mentions().iter().filter_map(|one| Some(format!("<{}>", one.in_slack()?))).collect();
    let calls = (!calls.is_empty()).then(|| calls.join(" "));
    let lines = context.plain_lines().map(value).chain(calls).chain(link).chain(context.text("footer").map(value));
    json!({ "text": lines.collect::<Vec<_>>().join("\n") })
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

    const LINK: &str = "https://app.halosecurity.com/link?q=a_b&id=1";

    fn links() -> Vec<String> {
        vec![LINK.to_owned()]
    }

    #[test]
    fn mrkdwn_values_are_inert() {
        let cases = [
            ("<!channel> <@U1>", "&lt;!channel&gt; &lt;@U1&gt;"),
            ("<http://evil|x>", "&lt;http://evil|x&gt;"),
            ("&lt;!here&gt;", "&amp;lt;!here&amp;gt;"),
            ("*b* _i_ ~s~ `c`", "∗b∗ ˍiˍ ∼s∼ ˋcˋ"),
            ("session_id __x", "session_id ˍˍx"),
            (":skull: 09:41:07 :+1::skin-tone-2: a: b", "∶skull∶ 09∶41∶07 ∶+1∶∶skin-tone-2∶ a: b"),
            ("> quote > not", "› quote &gt; not"),
            ("09:41", "09:41"),
        ];
        for (text, expected) in cases {
            assert_eq!(mrkdwn(&[value(text)], &[]).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn values_cannot_join_up_or_use_the_templates_own_marks() {
        let cases = [
            (vec![value(":sku"), value("ll:")], Ok("∶skull∶")),
            (vec![value(":skull"), literal(": "), value("x")], Ok("∶skull: x")),
            (vec![literal("*Host* "), value("a*b")], Ok("*Host* a∗b")),
            (vec![literal("a\n"), value("> x")], Ok("a\n› x")),
            (
                vec![literal("<"), value(LINK), literal("|"), value("a|b>"), literal(">")],
                Ok("<https://app.halosecurity.com/link?q=a_b&amp;id=1|a∣b&gt;>"),
            ),
            (
                vec![literal("<"), value(LINK), literal("> "), value("<x>")],
                Ok("<https://app.halosecurity.com/link?q=a_b&amp;id=1> &lt;x&gt;"),
            ),
            (vec![literal("<"), value("https://evil.example"), literal("|x>")], Err(())),
            (vec![literal("<!"), value("channel"), literal(">")], Err(())),
            (vec![literal("<@"), value("U123"), literal(">")], Err(())),
            (vec![literal("<"), value(LINK), value("x"), literal(">")], Err(())),
            (vec![literal("<https://wiki.example/?h="), value("x"), literal("|y>")], Err(())),
        ];
        for (pieces, expected) in cases {
            assert_eq!(
                mrkdwn(&pieces, &links()).map_err(|_| ()).as_deref(),
                expected.as_ref().map(|text| *text),
                "{pieces:?}"
            );
        }
    }

    #[test]
    fn other_text_is_written_by_its_kind() {
        assert_eq!(plain_text(&[value("<a> & :skull: *b*")], false), "&lt;a&gt; &amp; :skull: *b*");
        assert_eq!(plain_text(&[literal(":fire: "), value(":skull:")], true), ":fire: ∶skull∶");
        assert_eq!(rich_text(&[literal("<"), value("<a> & :skull: *b*")]), "<‹a› & ∶skull∶ *b*");
    }

    #[test]
    fn an_ipv6_address_can_be_copied() {
        let cases = [
            ("2001:db8::1 · 7 days", "2001:db8::1 · 7 days"),
            ("::ffff:192.0.2.1, (fe80::1) 2001:db8::/32", "::ffff:192.0.2.1, (fe80::1) 2001:db8::/32"),
            // Nothing else is one.
            (":1234:", "∶1234∶"),
            (":bed: 2001:db8::1 :100:", "∶bed∶ 2001:db8::1 ∶100∶"),
            ("2001:db8::1:skull:", "2001∶db8∶∶1∶skull∶"),
            ("1:2:3:4:5:6:7", "1∶2∶3∶4∶5∶6∶7"),
            ("x2001:db8::1", "x2001∶db8∶:1"),
            ("2001:db8::1_:bed:", "2001∶db8∶∶1_∶bed∶"),
        ];
        for (text, expected) in cases {
            assert_eq!(rich_text(&[value(text)]), expected, "{text}");
        }
        assert_eq!(rich_text(&[value("2001:db8"), literal("::1 "), value(":bed:")]), "2001:db8::1 ∶bed∶");
        // Here names of emoji are read.
        assert_eq!(mrkdwn(&[value("2001:db8:100::1")], &[]).as_deref(), Ok("2001∶db8∶100∶:1"));
        assert_eq!(plain_text(&[value("2001:db8:100::1")], true), "2001∶db8∶100∶:1");
    }

    #[test]
    fn what_is_cut_is_marked_and_never_half_an_escape() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("ab&amp;cd", 6), "ab…");
        assert_eq!(cut("AT&T and more", 12), "AT&T and mo…");
        assert_eq!(cut("ab <https://x|y> z", 10), "ab…");
        let mut message = json!({
            "blocks": [
                {"type": "header", "text": {"type": "plain_text", "text": "x".repeat(151)}},
                {"type": "section", "text": {"type": "mrkdwn", "text": "&amp;".repeat(1_000)},
                 "fields": [{"type": "mrkdwn", "text": "y".repeat(2_001)}]},
                {"type": "actions", "elements": [{"type": "button", "text": {"type": "plain_text", "text": "z".repeat(76)}}]},
                {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [{"type": "text", "text": ""}]}]},
            ],
        });
        assert!(fit(&mut message).is_err_and(|why| why.contains("needs a `text`")));
        message["text"] = json!("t");
        fit(&mut message).unwrap();
        let length = |pointer: &str| message.pointer(pointer).unwrap().as_str().unwrap().chars().count();
        assert_eq!(length("/blocks/0/text/text"), 150);
        assert!((2_990..=3_000).contains(&length("/blocks/1/text/text")));
        assert!(message["blocks"][1]["text"]["text"].as_str().unwrap().ends_with("&amp;…"));
        assert_eq!(length("/blocks/1/fields/0/text"), 2_000);
        assert_eq!(length("/blocks/2/elements/0/text/text"), 75);
        assert_eq!(message["blocks"][3]["elements"][0]["elements"][0]["text"], "–");
    }

    #[test]
    fn a_whole_message_fits_or_is_an_error() {
        let section = |text: String| json!({"type": "section", "text": {"type": "mrkdwn", "text": text}});
        let blocks = |count: usize, length: usize| vec![section("x".repeat(length)); count];
        let mut long = json!({"text": "t", "blocks": blocks(10, 3_000)});
        fit(&mut long).unwrap();
        let all = serde_json::to_string(&long).unwrap();
        assert!(all.chars().filter(|letter| *letter == 'x').count() <= ALL_TEXT_MAX);
        assert_eq!(all.matches('…').count(), 10);
        assert!(fit(&mut json!({"text": "t", "blocks": blocks(51, 1)})).is_err());
        assert!(
            fit(&mut json!({"text": "t", "blocks": [{"type": "section", "fields": vec![json!({}); 11]}]})).is_err()
        );
        assert!(
            fit(&mut json!({"text": "t", "blocks": [{"type": "context", "elements": vec![json!({}); 11]}]})).is_err()
        );
        assert!(fit(&mut json!({"text": "t", "link_names": 1})).is_err());
        assert!(fit(&mut json!({"text": "t", "parse": "full"})).is_err());
        assert!(fit(&mut json!(["text"])).is_err());
    }
}
