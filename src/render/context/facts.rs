//! What a message says of its event in a few lines: two to five facts, the most telling ones.

use serde_json::{Map, Value};

use super::{FACT_MAX, FIELDS_MAX, LABEL_MAX, TARGET_SHOWN_MAX, Target, deadline_fields, in_words};
use crate::catalogue;
use crate::model::Event;
use crate::render::audience::Hosts;
use crate::render::text::{Spared, brief, event_link, tame};

/// Two to five facts: those the catalogue names, else the event's own fields, the telling ones first; then an address that is
/// no link, and the time. What the headline says already, and what another fact said, is not said again.
pub(in crate::render) fn facts<'a>(
    event: &'a Event,
    target: &'a Target,
    hosts: &'a Hosts,
    when: Option<String>,
) -> Vec<Value> {
    const MAX: usize = 5;
    let spared = Spared { own: target.plain.as_deref(), hosts: Some(hosts) };
    let mut list = Facts { target, spared, seen: Vec::new(), list: Vec::new() };
    if target.shown.as_deref().is_some_and(|shown| shown.chars().count() > TARGET_SHOWN_MAX) {
        list.push_text("Target", target.shown.clone().unwrap_or_default());
    }
    let known = catalogue::find(event.key.as_str());
    for fact in known.into_iter().flat_map(|known| &known.facts) {
        if let Some(value) = event.field(fact.field) {
            list.push(fact.label, value);
        }
    }
    if list.list.len() < 2 {
        // Of what nobody knows as much as there is room for; else what helps the catalogue's along.
        let most = if known.is_some() { 3 } else { MAX - 1 };
        list.push_own(event, most);
    }
    list.list.truncate(MAX - 1);
    if let Some(url) = event.url.as_deref().filter(|url| event_link(url, hosts).is_none()) {
        list.list.truncate(MAX - 2);
        list.push_text("Address (unchecked)", tame(url, spared, FACT_MAX));
    }
    if let Some(when) = when {
        list.push_text("Time", when);
    }
    if list.list.len() < 2 {
        list.push_text("Event", tame(event.key.as_str(), Spared::NONE, FACT_MAX));
    }
    if list.list.len() < 2 {
        list.push_text("Event id", tame(event.id.as_str(), Spared::NONE, FACT_MAX));
    }
    let shown = |(label, value): (String, String)| {
        Map::from_iter([("label".to_owned(), label.into()), ("value".to_owned(), value.into())])
    };
    list.list.into_iter().map(|fact| Value::Object(shown(fact))).collect()
}

/// How much a field says to a reader who has never seen one of its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tells {
    Short,
    Long,
    List,
    /// An address, or what looks like the number of a record.
    Little,
    /// By its name the number of a record, or an address.
    Nothing,
}

impl Tells {
    /// `None` if there is no value at all.
    fn of(name: &str, value: &Value) -> Option<Self> {
        const SHORT_MAX: usize = 60;
        let last = name.rsplit(['_', '-', '.']).next().unwrap_or(name);
        let names_record =
            matches!(last, "id" | "ids" | "uuid" | "guid" | "hash" | "fingerprint" | "token" | "url" | "uri");
        match value {
            Value::Null => None,
            Value::String(text) if text.trim().is_empty() || text.starts_with("0000-00-00") => None,
            Value::Array(list) if list.is_empty() => None,
            Value::Object(members) if members.is_empty() => None,
            _ if names_record => Some(Self::Nothing),
            Value::String(text) if text.contains("://") || is_record_number(text) => Some(Self::Little),
            Value::String(text) if text.len() > SHORT_MAX => Some(Self::Long),
            Value::String(_) | Value::Number(_) | Value::Bool(_) => Some(Self::Short),
            Value::Array(_) | Value::Object(_) => Some(Self::List),
        }
    }
}

/// Long, one word, and half of it digits.
fn is_record_number(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    text.len() >= 16
        && digits * 2 >= text.len()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

struct Facts<'a> {
    target: &'a Target,
    spared: Spared<'a>,
    /// What was looked at: to compare is much cheaper than to make fit to be shown.
    seen: Vec<&'a Value>,
    list: Vec<(String, String)>,
}

impl<'a> Facts<'a> {
    /// The event's own fields, until there are `most` facts, the most telling first. What is named as the number of a record
    /// comes only where there is next to nothing else. How many there are does not depend on what they say.
    fn push_own(&mut self, event: &'a Event, most: usize) {
        let deadline = deadline_fields(event);
        let own = event.fields().filter(|(name, _)| !deadline.contains(name)).take(FIELDS_MAX);
        let mut own: Vec<_> = own.filter_map(|(name, value)| Some((Tells::of(name, value)?, name, value))).collect();
        // Of equals, as the record has them.
        own.sort_by_key(|(tells, ..)| *tells);
        for (tells, name, value) in own {
            if self.list.len() < if tells == Tells::Nothing { 2 } else { most } {
                self.push(&tame(&in_words(name), Spared::NONE, LABEL_MAX), value);
            }
        }
    }

    fn push(&mut self, label: &str, value: &'a Value) {
        if self.seen.contains(&value) {
            return;
        }
        self.seen.push(value);
        let text = tame(&brief(value), self.spared, FACT_MAX);
        let said = self.target.is(&text) || self.list.iter().any(|(_, said)| *said == text);
        if !said {
            self.push_text(label, text);
        }
    }

    fn push_text(&mut self, label: &str, text: String) {
        if !text.is_empty() {
            let label = if label.is_empty() { "Detail" } else { label };
            self.list.push((label.to_owned(), text));
        }
    }
}
