//! Telling values from literals in a rendered JSON document, so that each value can be escaped for the very place where
//! it landed.
//!
//! A template cannot know what escaping a value needs: the same `{{headline}}` is harmless in one JSON string and a
//! mention in another. So it does not escape. The registry's escape function wraps each printed value in two *marks*,
//! noncharacters that no text may hold ([`mark`]). The whole document is then parsed ([`parse`]) and walked ([`resolve`]):
//! now the place of each value is known, and the channel's rules write it there or refuse it. Literals stay as written.
//!
//! ```text
//!   {"text": "*Host* {{x}}"}  ─render─►  {"text": "*Host* ⟦<!channel>⟧"}  ─parse, resolve─►  {"text": "*Host* &lt;!channel&gt;"}
//! ```
//!
//! A value can therefore not become structure: inside a JSON string it is escaped as JSON, and outside of one it does not
//! parse. The one way to print JSON, the webhook's `json` helper, is marked too and refused inside a string.
//!
//! Marks in the values themselves are encoded, so that a value cannot end its own mark.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value};

use super::text::{Spared, defang};
use crate::model::Mention;

const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
const JSON_OPEN: char = '\u{FDD2}';
const JSON_CLOSE: char = '\u{FDD3}';
/// Begins a link that a helper wrote: only some places can hold one.
pub(super) const LINK: char = '\u{FDD5}';
/// Followed by a digit, stands for the mark of that number.
const ENCODED: char = '\u{FDD4}';
/// Begins a value that calls somebody. The context alone writes it, before what it takes from the configuration: no text of
/// an event holds a noncharacter, so none can pass for a mention, whatever it says.
pub(super) const CALL: char = '\u{FDD6}';
const MARKS: [char; 7] = [OPEN, CLOSE, JSON_OPEN, JSON_CLOSE, ENCODED, LINK, CALL];

/// Whether a text holds a character that means something here: no template may.
pub(super) fn has_mark(text: &str) -> bool {
    text.as_bytes().contains(&MARK_BYTE) && text.contains(MARKS)
}

/// A printed value, added to `out`: marked and escaped for the inside of a JSON string.
pub(super) fn mark(value: &str, out: &mut String) {
    let value = encode(value);
    out.push(OPEN);
    if value.bytes().any(|byte| matches!(byte, b'"' | b'\\' | ..b' ')) {
        // To write a text as JSON cannot fail.
        let quoted = serde_json::to_string(&value).unwrap_or_default();
        out.push_str(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default());
    } else {
        out.push_str(&value);
    }
    out.push(CLOSE);
}

/// A printed value in a string that is no longer, or not yet, written as JSON.
pub(super) fn mark_as_is(value: &str, out: &mut String) {
    out.push(OPEN);
    out.push_str(&encode(value));
    out.push(CLOSE);
}

/// A printed value in a document that is no JSON, written by `escape`.
pub(super) fn mark_text(value: &str, escape: fn(&str) -> String, out: &mut String) {
    out.push(OPEN);
    out.push_str(&encode(&escape(value)));
    out.push(CLOSE);
}

/// A value printed as JSON, added to `out`: text that stands for itself, outside of any string.
pub(super) fn mark_json(value: &impl Serialize, out: &mut String) {
    // To write JSON as text cannot fail.
    let text = serde_json::to_string(value).unwrap_or_default();
    out.push(JSON_OPEN);
    // Marks occur in JSON only within its strings, so encoding the text encodes the strings.
    out.push_str(&encode(&text));
    out.push(JSON_CLOSE);
}

/// The first byte that all marks share: most text has none, and to look for one byte is quick.
const MARK_BYTE: u8 = 0xEF;

/// A text without marks, from which [`decode`] makes it again.
pub(super) fn encode(text: &str) -> Cow<'_, str> {
    if !text.as_bytes().contains(&MARK_BYTE) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len());
    for letter in text.chars() {
        match MARKS.iter().zip('0'..).find(|(mark, _)| **mark == letter) {
            Some((_, digit)) => encoded.extend([ENCODED, digit]),
            None => encoded.push(letter),
        }
    }
    Cow::Owned(encoded)
}

fn decode(text: &str) -> String {
    if !text.as_bytes().contains(&MARK_BYTE) {
        return text.to_owned();
    }
    let mut decoded = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let digit = (letter == ENCODED).then(|| letters.next()).flatten();
        match digit.and_then(|digit| digit.to_digit(10)).and_then(|digit| MARKS.get(digit as usize)) {
            Some(mark) => decoded.push(*mark),
            None => decoded.push(letter),
        }
    }
    decoded
}

/// Why rendered text is not a JSON document with its values in strings, and in which of its lines (from 1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotJson {
    pub(super) line: usize,
    pub(super) message: String,
}

/// Parses rendered text. Values are still marked in the result.
pub(super) fn parse(rendered: &str) -> Result<Value, NotJson> {
    let (mut in_string, mut in_json) = (false, false);
    // Where the letter after a backslash begins.
    let mut escaped = None;
    let mut line = 1;
    for (at, byte) in rendered.bytes().enumerate() {
        let letter = match byte {
            b'"' | b'\\' | b'\n' => char::from(byte),
            MARK_BYTE => rendered[at..].chars().next().unwrap_or_default(),
            _ => continue,
        };
        let fault = |message: &str| Err(NotJson { line, message: message.to_owned() });
        match letter {
            JSON_CLOSE => in_json = false,
            // What the helper printed is whole JSON values: it leaves the state as it was.
            _ if in_json => {}
            JSON_OPEN if in_string => {
                return fault("`{{json …}}` brings its own quotes and must stand outside of them");
            }
            JSON_OPEN => in_json = true,
            OPEN if !in_string => return fault("a value must stand inside a JSON string: write \"{{…}}\""),
            '\n' => line += 1,
            '"' if escaped != Some(at) => in_string = !in_string,
            '\\' if in_string && escaped != Some(at) => escaped = Some(at + 1),
            _ => {}
        }
    }
    let plain = if rendered.contains(JSON_OPEN) {
        Cow::Owned(rendered.replace([JSON_OPEN, JSON_CLOSE], ""))
    } else {
        Cow::Borrowed(rendered)
    };
    serde_json::from_str(&plain).map_err(|error| NotJson { line: error.line(), message: error.to_string() })
}

/// A part of a string: what the template says, or what the context said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(String),
    Value(String),
}

impl Piece {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Literal(text) | Self::Value(text) => text,
        }
    }
}

/// What rendered text consists of.
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let mut list = Vec::new();
    let mut rest = text;
    while let Some((literal, marked)) = rest.split_once(OPEN) {
        let (value, after) = marked.split_once(CLOSE).unwrap_or((marked, ""));
        list.push(Piece::Literal(decode(literal)));
        list.push(Piece::Value(decode(value)));
        rest = after;
    }
    list.push(Piece::Literal(decode(rest)));
    list.retain(|piece| !piece.text().is_empty());
    list
}

/// What values may show that is else made unclickable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed<'a> {
    /// The only addresses that may be links.
    pub(super) links: &'a [String],
    pub(super) spared: Spared<'a>,
    /// The only ones who may be called.
    pub(super) mentions: &'a [Mention],
    /// What calls them in a service that is described by data.
    pub(super) calls: &'a [String],
}

impl Allowed<'_> {
    /// Where somebody can be called: mentions as literals, which nothing rewrites, and nothing prolongs; where nobody can,
    /// and of everything else, values.
    pub(super) fn settled(&self, pieces: &[Piece], can_call: bool) -> Vec<Piece> {
        let mut list: Vec<Piece> = Vec::with_capacity(pieces.len());
        let mut follows_call = false;
        for piece in pieces {
            let called = match piece {
                Piece::Value(text) => {
                    text.strip_prefix(CALL).filter(|called| can_call && self.calls.iter().any(|one| one == called))
                }
                Piece::Literal(_) => None,
            };
            let settled = match (piece, called) {
                (_, Some(called)) => Piece::Literal(called.to_owned()),
                (Piece::Value(text), None) => Piece::Value(text.replace(CALL, "")),
                (literal @ Piece::Literal(_), None) => literal.clone(),
            };
            let before = list.last().filter(|_| called.is_some());
            let touches = before.is_some_and(|before| prolongs(before, before.text().chars().next_back()))
                || (follows_call && prolongs(&settled, settled.text().chars().next()));
            if touches {
                list.push(Piece::Literal(" ".to_owned()));
            }
            follows_call = called.is_some();
            list.push(settled);
        }
        joined(list)
    }

    /// Writes what stands in a place where it calls somebody: what `of` takes from one of the allowed mentions, alone.
    pub(super) fn call(
        &self,
        key: &str,
        pieces: &[Piece],
        of: impl Fn(&Mention) -> Option<&str>,
    ) -> Result<String, String> {
        match pieces {
            [Piece::Value(called)] if self.mentions.iter().any(|one| of(one) == Some(called)) => Ok(called.clone()),
            _ => Err(format!("`{key}` takes no value here but that of one of `mentions`, alone")),
        }
    }
}

/// Whether a piece whose end `letter` is would make another name of the mention it touches.
fn prolongs(piece: &Piece, letter: Option<char>) -> bool {
    letter.is_some_and(|letter| match piece {
        Piece::Value(_) => !letter.is_whitespace(),
        Piece::Literal(_) => letter.is_alphanumeric() || "._-@".contains(letter),
    })
}

/// Keeps harmless values from becoming an address together: with each other (`evil` and `.example`) or with a literal
/// (`https://` and a host). A word that a value has a part in, and something else too, is made unclickable as a whole.
pub(super) fn part(pieces: Vec<Piece>, allowed: Allowed<'_>) -> Vec<Piece> {
    let ends = |letter: Option<char>| letter.is_none_or(is_word_end);
    let touches = |pair: &[Piece]| match pair {
        // A label.
        [_, Piece::Literal(text)] if text.starts_with(": ") => false,
        [a, b] => !ends(a.text().chars().next_back()) && !ends(b.text().chars().next()),
        _ => false,
    };
    if !pieces.windows(2).any(touches) {
        return pieces;
    }
    let mut parted = Vec::new();
    let mut word = Vec::new();
    let mut after = After::Space;
    for piece in pieces {
        if matches!(&piece, Piece::Value(text) if allowed.links.contains(text)) {
            flush(&mut word, &mut parted, allowed, after, false);
            // No value may prolong an address.
            if matches!(parted.last(), Some(Piece::Value(_))) {
                parted.push(Piece::Literal(" ".to_owned()));
            }
            parted.push(piece);
            continue;
        }
        let follows_link = matches!(parted.last(), Some(Piece::Value(text)) if allowed.links.contains(text));
        if follows_link && matches!(piece, Piece::Value(_)) {
            // Nor across a literal between them.
            parted.append(&mut word);
            parted.push(Piece::Literal(" ".to_owned()));
        }
        let wrap = |text: &str| match piece {
            Piece::Literal(_) => Piece::Literal(text.to_owned()),
            Piece::Value(_) => Piece::Value(text.to_owned()),
        };
        for run in piece.text().split_inclusive(is_word_end) {
            let end = run.chars().next_back().filter(|letter| is_word_end(*letter)).map_or(0, char::len_utf8);
            let (inner, end) = run.split_at(run.len() - end);
            if !inner.is_empty() {
                word.push(wrap(inner));
            }
            if !end.is_empty() {
                let goes_on = !end.ends_with(char::is_whitespace);
                after = flush(&mut word, &mut parted, allowed, after, goes_on);
                after = if goes_on { after } else { After::Space };
                parted.push(wrap(end));
            }
        }
    }
    flush(&mut word, &mut parted, allowed, after, false);
    joined(parted)
}

fn is_word_end(letter: char) -> bool {
    letter.is_whitespace() || "<>\"'|()[]{}`,;*~".contains(letter)
}

/// What has stood since the last space.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Space,
    /// An address that was left alone. Its host could become a name before an `@`.
    Address,
    /// The beginning of one, made unclickable: what follows was left alone only as its path. In HTML entities part it.
    Broken,
}

/// Moves a word's pieces on, as one harmless value if together, or after what stands before, they would be an address.
/// `goes_on`: a sign follows and no space, so that a colon at the end may be a scheme's.
fn flush(word: &mut Vec<Piece>, parted: &mut Vec<Piece>, allowed: Allowed<'_>, after: After, goes_on: bool) -> After {
    let whole: String = word.iter().map(Piece::text).collect();
    if !word.iter().any(|piece| matches!(piece, Piece::Value(_))) {
        parted.append(word);
        return after;
    }
    let has_company = word.len() > 1 || after == After::Broken;
    let safe = match has_company {
        true if goes_on && whole.ends_with(':') => {
            let safe = defang(&format!("{whole}x"), allowed.spared);
            safe.strip_suffix('x').map_or_else(|| safe.clone(), str::to_owned)
        }
        true => defang(&whole, allowed.spared),
        false => whole.clone(),
    };
    let safe = if after == After::Address { safe.replace('@', "[@]") } else { safe };
    if safe == whole {
        parted.append(word);
        let is_address = ["https://", "http://"].iter().any(|scheme| whole.contains(scheme));
        return if after == After::Space && is_address { After::Address } else { after };
    }
    word.clear();
    parted.push(Piece::Value(safe));
    After::Broken
}

/// Neighbours of one kind as one piece, as the channels' rules expect them.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut list: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match (list.last_mut(), piece) {
            (Some(Piece::Literal(before)), Piece::Literal(text)) => before.push_str(&text),
            (_, piece) => list.push(piece),
        }
    }
    list
}

/// Takes out what begins links, or tells that this place can hold none.
pub(super) fn links(pieces: Vec<Piece>, can_hold: bool) -> Result<Vec<Piece>, String> {
    let begins = |piece: &Piece| matches!(piece, Piece::Literal(text) if text.contains(LINK));
    if !pieces.iter().any(begins) {
        return Ok(pieces);
    }
    if !can_hold {
        return Err("a link cannot stand here: this text is shown without markup".to_owned());
    }
    let plain = |piece| match piece {
        Piece::Literal(text) => Piece::Literal(text.replace(LINK, "")),
        value @ Piece::Value(_) => value,
    };
    Ok(pieces.into_iter().map(plain).collect())
}

/// Where in the document a string with values stands.
#[derive(Debug)]
pub(super) struct Spot<'a> {
    /// The member whose value the string is, or is an item of.
    pub(super) key: &'a str,
    /// The object that member belongs to.
    object: &'a Object,
    /// Members and indices from the root, the last one included.
    pub(super) path: &'a [Step<'a>],
}

/// What the template itself says of an object.
#[derive(Debug, Default)]
struct Object {
    kind: Option<String>,
    no_emoji: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Member(&'a str),
    Item(usize),
}

impl Object {
    /// Before any value in it is written: what a value says must not look like a literal.
    fn of(members: &Map<String, Value>) -> Self {
        let kind = members.get("type").and_then(Value::as_str).filter(|kind| !has_mark(kind));
        Self { kind: kind.map(str::to_owned), no_emoji: members.get("emoji") == Some(&Value::Bool(false)) }
    }
}

impl Spot<'_> {
    /// The object's `type`, if it is a literal.
    pub(super) fn kind(&self) -> Option<&str> {
        self.object.kind.as_deref()
    }

    /// Whether the object says `"emoji": false`.
    pub(super) fn has_no_emoji(&self) -> bool {
        self.object.no_emoji
    }

    /// Whether the string stands anywhere below a member of this name.
    pub(super) fn is_below(&self, member: &str) -> bool {
        self.path.contains(&Step::Member(member))
    }

    /// The member that holds the list which holds the object.
    pub(super) fn list(&self) -> Option<&str> {
        match self.path.len().checked_sub(3).and_then(|at| self.path.get(at)) {
            Some(Step::Member(name)) => Some(name),
            _ => None,
        }
    }
}

/// A place that takes no value, or not this one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// A JSON pointer.
    pub(super) pointer: String,
    pub(super) why: String,
}

/// How a channel writes a string with values in it, or why it does not.
pub(super) type Rule<'r> = dyn Fn(&Spot<'_>, Vec<Piece>) -> Result<String, String> + 'r;

/// Writes every string that holds values by the channel's rule, and leaves the rest alone. For people, words are
/// [`part`]ed; machines get values as they are.
/// Object members are never named by a value.
pub(super) fn resolve(document: &mut Value, rule: &Rule<'_>) -> Result<(), Refused> {
    resolve_at(document, "", &Object::default(), &mut Vec::new(), rule)
}

/// The member has no name to find it by.
pub(super) const NAMES_A_MEMBER: &str = "a value cannot name a member";

fn resolve_at<'v>(
    value: &'v mut Value,
    key: &str,
    object: &Object,
    path: &mut Vec<Step<'v>>,
    rule: &Rule<'_>,
) -> Result<(), Refused> {
    let refused = |path: &[Step<'_>], why: String| Refused { pointer: pointer(path), why };
    match value {
        Value::String(text) if has_mark(text) && text.contains(OPEN) => {
            *text = rule(&Spot { key, object, path }, pieces(text)).map_err(|why| refused(path, why))?;
        }
        Value::String(text) => decode_in_place(text),
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                path.push(Step::Item(index));
                resolve_at(item, key, object, path, rule)?;
                path.pop();
            }
        }
        Value::Object(members) => {
            if members.keys().any(|name| has_mark(name)) {
                if members.keys().any(|name| name.contains(OPEN)) {
                    return Err(refused(path, NAMES_A_MEMBER.to_owned()));
                }
                *members = std::mem::take(members).into_iter().map(|(name, member)| (decode(&name), member)).collect();
            }
            let object = Object::of(members);
            for (name, member) in members.iter_mut() {
                path.push(Step::Member(name));
                resolve_at(member, name, &object, path, rule)?;
                path.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

fn decode_in_place(text: &mut String) {
    if text.as_bytes().contains(&MARK_BYTE) {
        *text = decode(text);
    }
}

pub(super) fn pointer(path: &[Step<'_>]) -> String {
    let step = |step: &Step<'_>| match step {
        Step::Member(name) => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
        Step::Item(index) => format!("/{index}"),
    };
    path.iter().map(step).collect()
}

/// The address a string consists of, if it is one of `links`.
pub(super) fn address(pieces: &[Piece], links: &[String]) -> Result<String, String> {
    match pieces {
        [Piece::Value(url)] if links.contains(url) => Ok(url.clone()),
        [] => Err("the address is empty here: put it in {{#if link.url}} or {{#if runbook}}".to_owned()),
        _ => Err("an address may only be {{link.url}} or {{runbook}}, alone".to_owned()),
    }
}

/// A name without meaning: what ids, colours and styles may be.
pub(super) fn token(pieces: &[Piece]) -> Result<String, String> {
    let text: String = pieces.iter().map(Piece::text).collect();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.#-".contains(&byte);
    let values_plain = pieces.iter().all(|piece| match piece {
        Piece::Literal(_) => true,
        Piece::Value(text) => text.bytes().all(plain),
    });
    if values_plain && (1..=255).contains(&text.len()) {
        return Ok(text);
    }
    Err("a value here must have 1 to 255 letters, digits, `_`, `.`, `#` or `-`".to_owned())
}

/// One letter of a string and whether a value brought it.
pub(super) type Letter = (char, bool);

pub(super) fn letters(pieces: &[Piece]) -> Vec<Letter> {
    let mut list = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Literal(text) => list.extend(text.chars().map(|letter| (letter, false))),
            Piece::Value(text) => list.extend(text.chars().map(|letter| (letter, true))),
        }
    }
    list
}

/// Whether only spaces stand between the start of a line and `at`.
pub(super) fn starts_line(letters: &[Letter], at: usize) -> bool {
    let before = letters[..at].iter().rev().map(|(letter, _)| *letter);
    before.take_while(|letter| *letter != '\n').all(|letter| letter == ' ')
}

/// Whether `_` at this place joins two word letters and so cannot begin or end emphasis.
pub(super) fn joins_word(letters: &[Letter], at: usize) -> bool {
    let word =
        |at: Option<usize>| at.and_then(|at| letters.get(at)).is_some_and(|(letter, _)| letter.is_alphanumeric());
    word(at.checked_sub(1)) && word(at.checked_add(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mark(value: &str) -> String {
        let mut text = String::new();
        super::mark(value, &mut text);
        text
    }

    #[expect(clippy::unnecessary_wraps, reason = "it stands for a rule")]
    #[expect(clippy::needless_pass_by_value, reason = "it stands for a rule")]
    fn concat(_: &Spot<'_>, pieces: Vec<Piece>) -> Result<String, String> {
        let part = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Value(text) => format!("[{text}]"),
        };
        Ok(pieces.iter().map(part).collect())
    }

    fn mark_json(value: &Value) -> String {
        let mut text = String::new();
        super::mark_json(value, &mut text);
        text
    }

    fn resolved(mut document: Value) -> Value {
        resolve(&mut document, &concat).unwrap();
        document
    }

    #[test]
    fn values_cannot_become_an_address_together() {
        const LINK: &str = "https://app.halosecurity.com";
        let links = [LINK.to_owned()];
        let allowed = Allowed {
            links: &links,
            spared: Spared { own: Some("www.example.org"), hosts: None },
            mentions: &[],
            calls: &[],
        };
        let value = |text: &str| Piece::Value(text.to_owned());
        let literal = |text: &str| Piece::Literal(text.to_owned());
        let cases = [
            (vec![value("evil"), value(".example")], "evil[.]example"),
            (vec![value("evil"), literal("."), value("example")], "evil[.]example"),
            (vec![value("evil."), value("example/x")], "evil[.]example/x"),
            (
                vec![literal("See https://"), value("www.example.org"), literal("/x")],
                "See hxxps://www[.]example[.]org/x",
            ),
            (vec![literal("https://wiki.example.com"), value(".zip")], "hxxps://wiki[.]example[.]com[.]zip"),
            (vec![literal("https://wiki.example.com/"), value("k")], "hxxps://wiki[.]example[.]com/k"),
            (vec![value("user"), literal("@"), value("www.example.org")], "user@www[.]example[.]org"),
            (vec![value("java"), value("script"), literal(":"), value("x")], "javascript[:]x"),
            (vec![literal("mailto:"), value("x")], "mailto[:]x"),
            (vec![value("https:"), value("//"), value("evil")], "hxxps://evil"),
            (vec![literal("\\\\"), value("evil\\share")], "[\\\\]evil\\share"),
            (vec![value(LINK), value(".zip")], "https://app.halosecurity.com .zip"),
            (vec![value("x"), value(LINK)], "x https://app.halosecurity.com"),
            (
                vec![value("https://app.halosecurity.com/x"), literal(":"), value("!*x@2130706433/")],
                "https://app.halosecurity.com/x:!*x[@]2130706433/",
            ),
            (vec![value("mailto:"), literal(":"), value("`b")], "mailto[:]:`b"),
            (vec![value("mailto:"), literal(":"), value(" b")], "mailto:: b"),
            // As HTML has them.
            (
                vec![value("·"), value("https://app.halosecurity.com/x?a&#61;1&amp;b&#61;evil.example. evil.example")],
                "·hxxps://app[.]halosecurity[.]com/x?a&#61;1&amp;b&#61;evil[.]example. evil.example",
            ),
            // What stays.
            (vec![literal("*"), value("www.example.org"), literal("*, x")], "*www.example.org*, x"),
            (
                vec![literal("<https://wiki.example.com/|"), value("evil"), literal(">")],
                "<https://wiki.example.com/|evil>",
            ),
            (
                vec![literal("["), value("x"), literal("]("), value(LINK), literal(")")],
                "[x](https://app.halosecurity.com)",
            ),
            (vec![value("Port"), literal(": "), value("443/tcp")], "Port: 443/tcp"),
            (vec![literal("wiki.example.com "), value("x"), literal(" a.example")], "wiki.example.com x a.example"),
        ];
        for (pieces, expected) in cases {
            let parted = part(pieces, allowed);
            assert_eq!(parted.iter().map(Piece::text).collect::<String>(), expected, "{parted:?}");
        }
    }

    #[test]
    fn only_what_the_context_marked_calls() {
        let calls = ["@here".to_owned(), "<@1>".to_owned()];
        let allowed = Allowed { links: &[], spared: Spared::NONE, mentions: &[], calls: &calls };
        let value = |text: &str| Piece::Value(text.to_owned());
        let literal = |text: &str| Piece::Literal(text.to_owned());
        let cases = [
            (vec![value("\u{FDD6}@here")], vec![literal("@here")]),
            (vec![value("@here")], vec![value("@here")]),
            (vec![value("\u{FDD6}@HERE")], vec![value("@HERE")]),
            (vec![value("\u{FDD6}@all")], vec![value("@all")]),
            (vec![value("x \u{FDD6}@here")], vec![value("x @here")]),
            (vec![value("\u{FDD6}@here"), literal(" "), value("@here")], vec![literal("@here "), value("@here")]),
            (vec![value("\u{FDD6}@here"), value("s")], vec![literal("@here "), value("s")]),
            (vec![value("x"), value("\u{FDD6}@here")], vec![value("x"), literal(" @here")]),
            (vec![literal("a"), value("\u{FDD6}@here"), literal(".b")], vec![literal("a @here .b")]),
            (vec![literal("*"), value("\u{FDD6}@here"), literal("*")], vec![literal("*@here*")]),
            (vec![value("\u{FDD6}@here"), value("\u{FDD6}@here")], vec![literal("@here @here")]),
            (vec![value("\u{FDD6}<@1>"), value("\u{FDD6}<@1>")], vec![literal("<@1><@1>")]),
        ];
        for (pieces, expected) in cases {
            assert_eq!(allowed.settled(&pieces, true), expected, "{pieces:?}");
            let nowhere = allowed.settled(&pieces, false);
            assert!(!nowhere.iter().any(|piece| piece.text().contains(CALL)), "{nowhere:?}");
            assert!(pieces.iter().zip(&nowhere).all(|(piece, same)| {
                matches!((piece, same), (Piece::Value(_), Piece::Value(_)) | (Piece::Literal(_), Piece::Literal(_)))
            }));
        }
    }

    #[test]
    fn values_come_back_as_they_were() {
        let hostile = [
            "",
            "plain",
            "\"}, {\"x\": \"y",
            "\\",
            "\\\"",
            "line\nline\t\0\u{1f}",
            "\u{FDD0}\u{FDD1}\u{FDD2}\u{FDD3}\u{FDD4}0",
            "\u{FDD1}\", \"admin\": \"\u{FDD0}",
            "\u{2028}\u{1F600}",
        ];
        for value in hostile {
            let document = parse(&format!(r#"{{"a": "x {}", "b": ["{}"]}}"#, mark(value), mark(value))).unwrap();
            let resolved = resolved(document);
            let shown = if value.is_empty() { String::new() } else { format!("[{value}]") };
            assert_eq!(resolved, json!({"a": format!("x {shown}"), "b": [shown]}), "{value:?}");
        }
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let value = json!({"\u{FDD0}key\u{FDD3}": ["\u{FDD1}\"", 1, null, {"\u{FDD2}": "\\"}], "n": 1.5});
        let document = parse(&format!(r#"{{"data": {}}}"#, mark_json(&value))).unwrap();
        assert_eq!(resolved(document), json!({ "data": value }));
    }

    #[test]
    fn a_value_cannot_be_structure() {
        let outside = "a value must stand inside a JSON string: write \"{{…}}\"";
        let quoted = "`{{json …}}` brings its own quotes and must stand outside of them";
        let cases = [
            (format!(r#"{{"a": {}}}"#, mark("1")), 1, outside),
            (format!("{{\n\"a\": 1, {}}}", mark("\"b\": 2")), 2, outside),
            (format!(r#"{{"a": "\"", "b": {}}}"#, mark("null")), 1, outside),
            (format!(r#"{{"a": "{}"}}"#, mark_json(&json!({",": 1}))), 1, quoted),
        ];
        for (text, line, message) in cases {
            assert_eq!(parse(&text), Err(NotJson { line, message: message.to_owned() }), "{text}");
        }
        assert!(parse(&format!(r#"{{"a": "\u00{}"}}"#, mark("41"))).is_err());
        assert!(parse("{\"a\": 1,\n}").is_err_and(|error| error.line == 2));
        let mut named = parse(&format!(r#"{{"a": {{"{}": 1}}}}"#, mark("x"))).unwrap();
        let refused = resolve(&mut named, &concat).unwrap_err();
        assert_eq!((refused.pointer.as_str(), refused.why.as_str()), ("/a", "a value cannot name a member"));
    }

    #[test]
    fn addresses_and_tokens() {
        let value = |text: &str| Piece::Value(text.to_owned());
        let literal = |text: &str| Piece::Literal(text.to_owned());
        let links = ["https://app.halosecurity.com/x".to_owned()];
        assert!(address(&[value("https://app.halosecurity.com/x")], &links).is_ok());
        for pieces in [
            vec![],
            vec![value("https://evil.example/")],
            vec![literal("https://"), value("evil.example")],
            vec![value("https://app.halosecurity.com/x"), value("y")],
        ] {
            assert!(address(&pieces, &links).is_err(), "{pieces:?}");
        }
        assert_eq!(token(&[literal("a b"), value("hr_1-2.3#")]).as_deref(), Ok("a bhr_1-2.3#"));
        for text in ["", "a b", "a:b", "é", &"x".repeat(256)] {
            assert!(token(&[value(text)]).is_err(), "{text}");
        }
    }
}
