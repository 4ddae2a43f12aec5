//! From bytes to a message that has to be rendered: an event, several, or news of the relay, in any circumstances. Every byte
//! string is one, so that a fuzzer can change any of them; what it says is made of the dictionary and of the bytes themselves.

use std::sync::LazyLock;
use std::time::Duration;

use halo_relay::catalogue;
use halo_relay::model::delivery::Code;
use halo_relay::model::{DeliveryId, DestinationName, Event, RuleName, Severity, Timestamp};
use halo_relay::render::{Audience, Circumstances, Context, Detour, Digest, DigestKind, Notice};
use serde_json::{Map, Value, json};

use super::marks::Known;
use super::outline::WORD;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    Event,
    Digest,
    Notice,
}

/// One message to be rendered.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) shape: Shape,
    /// By the templates that put values where their author should have thought twice.
    pub(super) careless: bool,
    /// Without any template.
    pub(super) plain: bool,
    pub(super) context: Context,
    pub(super) known: Known,
    pub(super) events: Vec<Event>,
}

const LONG: &str = "longlonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglonglong";
const RUNBOOK: &str = "https://wiki.example.org/runbooks/certificates";

/// Where words come from.
pub(super) struct Source<'b> {
    bytes: &'b [u8],
    /// Only harmless words: what messages are learned from.
    harmless: bool,
}

/// `fuzz/hostile.dict`, the same that the fuzzer has: what has been used, or could be, to break out of some channel's text.
pub(super) static DICTIONARY: LazyLock<Vec<String>> = LazyLock::new(|| {
    let lines = include_str!("../hostile.dict").lines().filter(|line| line.starts_with('"'));
    lines.map(|line| unescaped(&line[1..line.len() - 1])).collect()
});

/// `\\`, `\"` and `\xAB`, as libFuzzer reads them.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'x') => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            other => bytes.extend(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl<'b> Source<'b> {
    pub(super) fn new(bytes: &'b [u8], harmless: bool) -> Self {
        Self { bytes, harmless }
    }

    /// Zeros when there is nothing left.
    fn byte(&mut self) -> u8 {
        self.bytes.split_off_first().copied().unwrap_or_default()
    }

    fn text(&mut self) -> String {
        let mut text = String::new();
        for _ in 0..self.byte() % 6 {
            let choice = self.byte();
            let word = if choice < 192 {
                let at = usize::from(choice) * 256 + usize::from(self.byte());
                DICTIONARY[at % DICTIONARY.len()].clone()
            } else {
                let length = usize::from(choice % 16).min(self.bytes.len());
                let (word, rest) = self.bytes.split_at(length);
                self.bytes = rest;
                String::from_utf8_lossy(word).into_owned()
            };
            if self.harmless {
                text.push_str(if text.is_empty() { WORD } else { " word" });
                text.extend([choice % 26, choice / 26].map(|letter| char::from(b'a' + letter)));
                // Some so long that they are cut.
                text.push_str(if choice.is_multiple_of(8) { LONG } else { "" });
            } else {
                text.push_str(&word);
            }
        }
        text
    }

    /// As identifiers are: not empty, bounded, without control characters.
    fn name(&mut self) -> String {
        let text: String = self.text().chars().filter(|letter| !letter.is_control()).take(30).collect();
        if text.is_empty() { format!("{WORD}name") } else { text }
    }

    /// `key`: that of all events.
    fn event(&mut self, number: usize, key: Option<&'static catalogue::Known>) -> Event {
        let mut record = Map::new();
        let mut put = |name: &str, value: Value| drop(record.insert(name.to_owned(), value));
        put("event_id", json!(format!("{}{number}", self.name())));
        let choice = self.byte();
        let known = key.or_else(|| known(choice).filter(|_| choice.is_multiple_of(2)));
        put("key", json!(known.map_or_else(|| self.name(), |known| known.key.to_owned())));
        put("subject", json!(self.text()));
        match self.byte() % 5 {
            0 => {}
            1 => put("target", json!("www.example.org")),
            2 => put("target", json!({"target": self.text(), "target_id": 1})),
            3 => put("target", json!(format!("{}{number}.example", self.text()))),
            _ => put("target", json!(self.text())),
        }
        match self.byte() % 4 {
            0 => {}
            1 => put("url", json!("https://app.halosecurity.com/link?q=user-event&id=1")),
            2 => put("url", json!(format!("https://app.halosecurity.com/{}", self.text()))),
            _ => put("url", json!(self.text())),
        }
        if self.byte().is_multiple_of(2) {
            put("date_created", json!("2026-11-23 09:41"));
        }
        for (fact, _) in known.into_iter().flat_map(|known| &known.facts).zip(0..3) {
            put(fact.field, self.value());
        }
        for name in ["first", "second", "third", "fourth"].into_iter().take(usize::from(self.byte() % 5)) {
            let name = if self.byte().is_multiple_of(2) { name.to_owned() } else { self.text() };
            let value = self.value();
            // What intake asks for, or there would be no event.
            if !matches!(name.as_str(), "event_id" | "key") {
                put(&name, value);
            }
        }
        #[expect(clippy::expect_used, reason = "intake asks for no more than these two")]
        Event::from_value(record.into()).expect("an event with id and key")
    }

    fn value(&mut self) -> Value {
        match self.byte() % 8 {
            0 => json!(self.byte()),
            1 => json!([self.text(), self.byte(), null]),
            2 => json!({self.text(): self.text(), "a": [1]}),
            3 => json!(null),
            _ => json!(self.text()),
        }
    }
}

impl Case {
    pub(super) fn new(mut source: Source<'_>) -> Self {
        let (kind, flags) = (source.byte(), source.byte());
        let shape = match kind % 8 {
            0..=4 => Shape::Event,
            5 | 6 => Shape::Digest,
            _ => Shape::Notice,
        };
        let received = Timestamp::from_millis(1_795_426_920_000);
        let (why, other) = (source.text(), DestinationName::from("other"));
        let about = Circumstances {
            delivery_id: &DeliveryId::new("a1b2c3", 1_234),
            code: Code::of_row(1_234),
            severity: Severity::High,
            rule: &RuleName::from("certificates"),
            runbook: (flags & 1 == 0).then_some(RUNBOOK),
            destination: &DestinationName::from("sec-slack"),
            audience: Audience::anyone(),
            may_repeat: flags & 2 != 0,
            test: flags & 4 != 0,
            received,
            now: if flags & 8 == 0 { received } else { received.plus(Duration::from_hours(1)) },
            delay: (flags & 16 != 0).then_some(&why),
            detour: (flags & 32 != 0).then_some(Detour { from: &other, why: &why }),
            mentions: &[],
            thread: None,
        };
        let count = match shape {
            Shape::Event => 1,
            // Few for the most part, so that there is time for more messages; up to more than are listed.
            Shape::Digest => [2, 2, 2, 2, 3, 3, 3, 4, 5, 6, 9, 13][usize::from(kind / 8 % 12)],
            Shape::Notice => 0,
        };
        let key = (kind & 64 != 0).then(|| source.byte()).and_then(known);
        let events: Vec<_> = (0..count).map(|number| source.event(number, key)).collect();
        let digest = || {
            let kind = if kind & 128 == 0 { DigestKind::Batch } else { DigestKind::Overflow };
            let timed: Vec<_> = events.iter().map(|event| (event.clone(), received)).collect();
            #[expect(clippy::expect_used, reason = "only of no events there is none")]
            Digest::of(kind, &timed).expect("a digest of several events")
        };
        let notice = Notice { destination: &other, reason: &why, waiting: u64::from(kind / 8) };
        let context = match events.as_slice() {
            [] => Context::notice(&notice, &about),
            [event] => Context::new(event, &about),
            _ => Context::digest(&digest(), &about),
        };
        let known = shown(&events, about.runbook.is_some());
        Self { shape, careless: flags & 64 != 0, plain: flags & 128 != 0, context, known, events }
    }
}

impl Case {
    /// For whoever has to find out why.
    pub(super) fn told(&self) -> String {
        let Self { shape, careless, plain, events, .. } = self;
        let events: Vec<_> = events.iter().map(|event| Value::Object(event.body().clone()).to_string()).collect();
        format!("{shape:?}, careless: {careless}, plain: {plain}, of\n{}", events.join("\n"))
    }
}

/// A key that the relay has words for.
fn known(choice: u8) -> Option<&'static catalogue::Known> {
    catalogue::all().get(usize::from(choice) / 2)
}

fn shown(events: &[Event], runbook: bool) -> Known {
    let mut known = Known::default();
    known.links.extend(runbook.then(|| (RUNBOOK.to_owned(), 'R')));
    for event in events {
        let link = event.url.as_deref().filter(|url| is_vendors(url));
        known.links.extend(link.map(|link| (link.to_owned(), 'L')));
        known.hosts.extend(event.target().filter(|host| is_host(host)).map(str::to_lowercase));
    }
    // Where a letter could mean something it may stand as its code, which leads to the same page.
    let mut more = Vec::new();
    for (link, name) in &known.links {
        let without_markup = coded(link, false);
        let without_colons = coded(&without_markup, true);
        more.extend([without_markup, without_colons].map(|link| (link, *name)));
    }
    known.links.extend(more);
    // Of two that begin alike the longer one is meant.
    known.links.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    known.links.dedup();
    known
}

/// Behind the host: `~` and `_` that joins no words as their codes, or colons.
fn coded(link: &str, colons: bool) -> String {
    let path = link.match_indices(['/', '?', '#']).map(|(at, _)| at).find(|at| *at > 7).unwrap_or(link.len());
    if colons {
        return format!("{}{}", &link[..path], link[path..].replace(':', "%3A"));
    }
    let mut text = link[..path].to_owned();
    let mut before = ' ';
    let mut letters = link[path..].chars().peekable();
    while let Some(letter) = letters.next() {
        let joins = before.is_ascii_alphanumeric() && letters.peek().is_some_and(char::is_ascii_alphanumeric);
        match letter {
            '~' => text.push_str("%7E"),
            '_' if !joins => text.push_str("%5F"),
            _ => text.push(letter),
        }
        before = letter;
    }
    text
}

/// An `https` address on the vendor's hosts without anything that could end it early somewhere.
fn is_vendors(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let host = rest.split(['/', '?', '#', ':']).next().unwrap_or_default().to_ascii_lowercase();
    (host == "halosecurity.com" || host.ends_with(".halosecurity.com"))
        && is_host(&host)
        && url.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":-._~/?#&=%+".contains(&byte))
}

/// With `_` in its first label at most: where a client ends a host there, nothing before it is one.
fn is_host(text: &str) -> bool {
    let below = text.split_once('.').map_or("", |(_, below)| below);
    !below.contains('_')
        && text.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}
