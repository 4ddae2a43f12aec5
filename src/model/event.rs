//! An event: one thing that happened at Halo Security, read from whatever shape it came in.
//!
//! The vendor documents no single shape: records come flat or wrapped in `event`, the target as a host name or as an
//! object, numbers as strings, times as `0000-00-00 00:00`. Only an id and a key are required; everything else is kept
//! as it came and found where it may be. All text in here is hostile: it was read from scanned websites.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{EventKey, Timestamp};

/// The vendor's id: opaque, unique, at most [`EventId::MAX_BYTES`] bytes, without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(String);

impl EventId {
    /// Samples have 49 characters; anything near this limit is not an id.
    pub const MAX_BYTES: usize = 512;

    pub fn new(id: impl Into<String>) -> Result<Self, EventError> {
        let id = id.into();
        if id.is_empty() || id.len() > Self::MAX_BYTES || id.chars().any(char::is_control) {
            return Err(EventError::BadText { field: "event_id", bytes_max: Self::MAX_BYTES });
        }
        Ok(Self(id))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The creation time some ids begin with (`20220101011200…`), used only where the record has no time.
    fn embedded_time(&self) -> Option<Timestamp> {
        let digits = self.0.get(..14)?;
        if self.0.len() < 32 || !self.0.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let civil = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", digits).ok()?;
        if !(2000..2100).contains(&civil.year()) {
            return None;
        }
        Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().into())
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a record is not an event. Names the field, never repeats its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    #[error("an event must be a JSON object, not {0}")]
    NotAnObject(&'static str),
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{field}` must be a string, not {found}")]
    NotAString { field: &'static str, found: &'static str },
    #[error("`{field}` must have 1 to {bytes_max} bytes and no control characters")]
    BadText { field: &'static str, bytes_max: usize },
}

/// What is wrong with a body that should hold events, and which of them it is (counted from 0) if there are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyError {
    pub index: Option<usize>,
    pub error: EventError,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            Some(index) => write!(f, "event {index}: {}", self.error),
            None => self.error.fmt(f),
        }
    }
}

impl std::error::Error for BodyError {}

/// One event. `body` is the whole record as it came, unwrapped, and shared by clones; the rest is read from it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    pub key: EventKey,
    /// `""` when the record has none.
    pub subject: String,
    pub url: Option<String>,
    /// When it happened, to the minute; `None` when the record does not say.
    pub time: Option<Timestamp>,
    body: Arc<Map<String, Value>>,
}

/// The record's own members; everything else is an event-specific field.
const STANDARD: [&str; 8] = ["event_id", "key", "subject", "url", "date_created", "time", "target", "id"];
/// Objects in which a record may nest its event-specific fields: the documentation never shows where they stand.
const NESTS: [&str; 3] = ["fields", "details", "data"];
/// Two names for one thing in the vendor's own pages.
const ALIASES: [(&str, &str); 2] = [("report_id", "pci_report_id"), ("pci_report_id", "report_id")];

impl Event {
    /// Reads one record, flat or wrapped in `event`.
    pub fn from_value(value: Value) -> Result<Self, EventError> {
        let mut body = into_object(value)?;
        if !body.contains_key("event_id")
            && let Some(Value::Object(inner)) = body.get_mut("event")
        {
            body = std::mem::take(inner);
        }
        Self::from_record(body)
    }

    /// Reads a record as [`body`](Self::body) gave it: whatever it holds, it is not unwrapped once more.
    pub fn from_record(body: Map<String, Value>) -> Result<Self, EventError> {
        let id = EventId::new(required(&body, &["event_id", "id"], "event_id")?)?;
        let key = EventKey::new(required(&body, &["key"], "key")?)?;
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        let time = ["date_created", "time"]
            .iter()
            .find_map(|name| Timestamp::from_api(body.get(*name)?.as_str()?))
            .or_else(|| id.embedded_time());
        Ok(Self {
            subject: text("subject").unwrap_or_default(),
            url: text("url").filter(|url| !url.is_empty()),
            time,
            id,
            key,
            body: Arc::new(body),
        })
    }

    /// Reads a body of one event, `{"event": {…}}`, an array, or `{"list": […]}`. All or nothing.
    pub fn list_from_value(value: Value) -> Result<Vec<Self>, BodyError> {
        let list = match value {
            Value::Array(list) => list,
            Value::Object(mut body)
                if !body.contains_key("event_id") && body.get("list").is_some_and(Value::is_array) =>
            {
                match body.remove("list") {
                    Some(Value::Array(list)) => list,
                    _ => Vec::new(),
                }
            }
            one => {
                return Self::from_value(one)
                    .map(|event| vec![event])
                    .map_err(|error| BodyError { index: None, error });
            }
        };
        let numbered = list.into_iter().enumerate();
        numbered
            .map(|(index, value)| Self::from_value(value).map_err(|error| BodyError { index: Some(index), error }))
            .collect()
    }

    /// The record as it came, unwrapped.
    pub fn body(&self) -> &Map<String, Value> {
        &self.body
    }

    /// A field by name or dotted path, wherever records are known to keep it. `target` is the host name.
    pub fn field(&self, path: &str) -> Option<&Value> {
        if path == "target" {
            return self.target_member("target");
        }
        if matches!(path, "target_id" | "target_name")
            && let Some(value) = self.target_member(path)
        {
            return Some(value);
        }
        let alias = ALIASES.iter().find(|(name, _)| *name == path).map(|(_, other)| *other);
        std::iter::once(path).chain(alias).find_map(|path| {
            descend(&self.body, path)
                .or_else(|| NESTS.iter().find_map(|nest| descend(self.body.get(*nest)?.as_object()?, path)))
        })
    }

    /// The host name the event is about, if it names one.
    pub fn target(&self) -> Option<&str> {
        self.field("target").and_then(Value::as_str).filter(|host| !host.is_empty())
    }

    /// The event-specific fields, in the record's order, with nested ones lifted.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        let own = self.body.iter().filter(|(name, value)| {
            let nest = NESTS.contains(&name.as_str()) && value.is_object();
            !nest && !STANDARD.contains(&name.as_str())
        });
        let nested = NESTS.iter().filter_map(|nest| self.body.get(*nest)?.as_object()).flatten();
        own.chain(nested).map(|(name, value)| (name.as_str(), value))
    }

    fn target_member(&self, name: &str) -> Option<&Value> {
        match self.body.get("target") {
            Some(Value::Object(target)) => target.get(name),
            flat @ Some(_) if name == "target" => flat,
            _ => self.body.get(name),
        }
    }
}

fn into_object(value: Value) -> Result<Map<String, Value>, EventError> {
    match value {
        Value::Object(body) => Ok(body),
        other => Err(EventError::NotAnObject(kind(&other))),
    }
}

/// Identifiers may come as numbers; they are text to us.
fn required(body: &Map<String, Value>, names: &[&str], field: &'static str) -> Result<String, EventError> {
    match names.iter().find_map(|name| body.get(*name)) {
        None | Some(Value::Null) => Err(EventError::Missing(field)),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) if field == "event_id" => Ok(number.to_string()),
        Some(other) => Err(EventError::NotAString { field, found: kind(other) }),
    }
}

/// A member by its whole name, else by dotted path.
fn descend<'a>(object: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    descend(object.get(first)?.as_object()?, rest)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event(value: Value) -> Event {
        Event::from_value(value).unwrap()
    }

    #[test]
    fn flat_and_wrapped_are_one() {
        let record = json!({"event_id": "id1", "key": "target-scan-start", "subject": "Scan Started",
            "date_created": "2026-11-23 09:41", "url": "https://www.halosecurity.com/link?q=user-event&id=id1",
            "target": {"target_name": "", "target_id": 1, "target": "www.example.com"}});
        let flat = event(record.clone());
        assert_eq!(flat, event(json!({ "event": record })));
        assert_eq!(flat.target(), Some("www.example.com"));
        assert_eq!(flat.field("target_id"), Some(&json!(1)));
        assert_eq!(flat.time.map(|time| time.to_string()).as_deref(), Some("2026-11-23T09:41:00Z"));
        assert_eq!(flat.fields().count(), 0);
    }

    /// What is kept is what was read, so that a later attempt sends what the first one did.
    #[test]
    fn a_record_is_read_back_as_it_was() {
        let nested = json!({"event": {"id": "1", "key": "k", "event": {"a": 1}, "list": [{"event": {}}]}});
        let read_back = |event: &Event| {
            let text = serde_json::to_string(event.body()).unwrap();
            Event::from_record(serde_json::from_str(&text).unwrap()).unwrap()
        };
        assert_eq!(read_back(&event(nested.clone())), event(nested));
        proptest!(|(score in any::<f64>(), digits in "(0|[1-9][0-9]{0,19})\\.[0-9]{1,25}(e-?[0-9]{1,2})?")| {
            let value: Value = serde_json::from_str(&digits).unwrap();
            prop_assert_eq!(value.as_f64(), digits.parse().ok());
            let read = event(json!({"event_id": "1", "key": "k", "score": score, "value": value}));
            prop_assert_eq!(read_back(&read), read);
        });
    }

    #[test]
    fn fields_are_found_wherever_they_stand() {
        let cases = [
            json!({"event_id": "1", "key": "k", "port": 465}),
            json!({"event_id": "1", "key": "k", "fields": {"port": 465}}),
            json!({"event_id": "1", "key": "k", "data": {"port": 465}}),
        ];
        for record in cases {
            let event = event(record);
            assert_eq!(event.field("port"), Some(&json!(465)));
            assert_eq!(event.fields().collect::<Vec<_>>(), [("port", &json!(465))]);
        }
        let odd = event(
            json!({"event_id": "1", "key": "k", "a": {"b": {"c": 1}}, "a.b": 2, "pci_report_id": 7, "target": "h"}),
        );
        assert_eq!(odd.field("a.b.c"), Some(&json!(1)));
        assert_eq!(odd.field("a.b"), Some(&json!(2)));
        assert_eq!(odd.field("report_id"), Some(&json!(7)));
        assert_eq!(odd.field("target"), Some(&json!("h")));
        assert_eq!(odd.field("nothing.here"), None);
    }

    #[test]
    fn odd_values_are_kept() {
        let odd = event(
            json!({"event_id": 12, "key": "new-key", "subject": null, "url": "", "date_created": "0000-00-00 00:00",
            "port": "465", "detail": null, "target": {"target": ""}}),
        );
        assert_eq!(odd.id.as_str(), "12");
        assert_eq!((odd.subject.as_str(), odd.url.as_deref(), odd.time, odd.target()), ("", None, None, None));
        assert_eq!(odd.field("port"), Some(&json!("465")));
        assert_eq!(odd.field("detail"), Some(&Value::Null));
    }

    #[test]
    fn time_from_the_id_is_a_strict_fallback() {
        let time = |id: &str| event(json!({"event_id": id, "key": "k"})).time.map(|time| time.to_string());
        assert_eq!(time("202201010112004328b91bcffff5941efffffa426450d098f").as_deref(), Some("2022-01-01T01:12:00Z"));
        assert_eq!(time("20220101011200"), None);
        assert_eq!(time("999901010112004328b91bcffff5941efffffa426450d098f"), None);
        assert_eq!(time("202213010112004328b91bcffff5941efffffa426450d098f"), None);
        assert_eq!(time("é0220101011200aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), None);
    }

    #[test]
    fn what_is_no_event() {
        let long = "x".repeat(EventId::MAX_BYTES + 1);
        let cases = [
            (json!([]), "an event must be a JSON object, not an array"),
            (json!({}), "`event_id` is missing"),
            (json!({"event_id": null, "key": "k"}), "`event_id` is missing"),
            (json!({"event_id": "1"}), "`key` is missing"),
            (json!({"event_id": "1", "key": 5}), "`key` must be a string, not a number"),
            (json!({"event_id": true, "key": "k"}), "`event_id` must be a string, not a boolean"),
            (json!({"event_id": "", "key": "k"}), "`event_id` must have 1 to 512 bytes and no control characters"),
            (json!({"event_id": long, "key": "k"}), "`event_id` must have 1 to 512 bytes and no control characters"),
            (json!({"event_id": "1", "key": "a\nb"}), "`key` must have 1 to 128 bytes and no control characters"),
        ];
        for (value, message) in cases {
            assert_eq!(Event::from_value(value).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn bodies() {
        let one = json!({"event_id": "1", "key": "k"});
        let count = |value| Event::list_from_value(value).map(|list| list.len());
        assert_eq!(count(one.clone()), Ok(1));
        assert_eq!(count(json!({"event": one})), Ok(1));
        assert_eq!(count(json!([one, {"event": one}])), Ok(2));
        assert_eq!(count(json!({"list": [one]})), Ok(1));
        assert_eq!(count(json!([])), Ok(0));
        let error = Event::list_from_value(json!([one, {"event_id": "2"}])).unwrap_err();
        assert_eq!(error.to_string(), "event 1: `key` is missing");
        assert_eq!(
            Event::list_from_value(json!("x")).unwrap_err().to_string(),
            "an event must be a JSON object, not a string"
        );
    }
}
