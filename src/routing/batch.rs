//! Which events share a message: a rule's `batch`, and the group that an event falls into.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::filter::is_empty;
use crate::model::Event;

/// A rule's `batch: { by: [target], wait: 30s, max: 50 }`: what it sends to one destination is gathered, and what agrees in
/// all the fields of `by` goes out as one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Names or dotted paths, as [`Event::field`] takes them. Empty: all that the rule sends belongs together.
    pub by: Vec<String>,
    /// From the first event of a message to its sending.
    pub wait: Duration,
    /// As many events make a message go at once; from 2.
    pub max: u32,
}

/// An event's place in a [`Batch`]: deliveries to one destination by one rule with equal `group` share a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Grouped {
    /// At most [`Grouped::GROUP_BYTES_MAX`] bytes; equal if and only if the values are. Holds event text: to compare, and
    /// not safe to print.
    pub group: String,
    #[serde(serialize_with = "as_duration")]
    pub wait: Duration,
    pub max: u32,
}

impl Grouped {
    pub const GROUP_BYTES_MAX: usize = 256;
}

impl Batch {
    pub fn group(&self, event: &Event) -> Grouped {
        Grouped { group: bounded(values(&self.by, event)), wait: self.wait, max: self.max }
    }
}

/// `["www.example.org","465"]` as JSON: a value cannot leave its string, so no two lists of values look alike. A
/// missing or empty value is `null`, as conditions take them for the same; numbers are kept as they are written, so
/// `465` and `"465"`, which are one number to conditions, are one group.
pub(super) fn values(by: &[String], event: &Event) -> String {
    let values = by.iter().map(|field| match event.field(field) {
        Some(value) if !is_empty(value) => match value {
            Value::Number(number) => Value::String(number.to_string()),
            other => other.clone(),
        },
        _ => Value::Null,
    });
    Value::Array(values.collect()).to_string()
}

/// A longer text becomes its beginning and its digest. It no longer ends in `]`, so it equals no text left whole.
fn bounded(text: String) -> String {
    if text.len() <= Grouped::GROUP_BYTES_MAX {
        return text;
    }
    let digest = Sha256::digest(text.as_bytes());
    let digest = digest.iter().fold("…".to_owned(), |hex, byte| format!("{hex}{byte:02x}"));
    let mut end = Grouped::GROUP_BYTES_MAX - digest.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{digest}", &text[..end])
}

/// `gathered by target, port for 30s, at most 50`
impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = if self.by.is_empty() { String::new() } else { format!(" by {}", self.by.join(", ")) };
        write!(f, "gathered{by} for {}, at most {}", humantime::format_duration(self.wait), self.max)
    }
}

fn as_duration<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    fn group(by: &[&str], fields: Value) -> String {
        let mut body = json!({"event_id": "1", "key": "issue-add"});
        let Value::Object(fields) = fields else { panic!("fields are an object") };
        body.as_object_mut().unwrap().extend(fields);
        let by = by.iter().map(|&field| field.to_owned()).collect();
        Batch { by, wait: Duration::from_secs(30), max: 50 }.group(&Event::from_value(body).unwrap()).group
    }

    #[test]
    fn the_same_values_make_the_same_group() {
        let cases = [
            (&[][..], json!({}), "[]"),
            (&["key"], json!({}), r#"["issue-add"]"#),
            (&["target"], json!({"target": {"target": "a.example.org"}}), r#"["a.example.org"]"#),
            (&["target"], json!({"target": "a.example.org"}), r#"["a.example.org"]"#),
            (&["port", "details.proto"], json!({"port": 465, "details": {"proto": "tcp"}}), r#"["465","tcp"]"#),
            (&["port"], json!({"port": "465"}), r#"["465"]"#),
            (&["a", "b", "c", "d", "e"], json!({"b": null, "c": "", "d": [""], "e": []}), "[null,null,null,null,null]"),
            (&["a", "b"], json!({"a": false, "b": ["x", 1]}), r#"[false,["x",1]]"#),
        ];
        for (by, fields, expected) in cases {
            assert_eq!(group(by, fields.clone()), expected, "{by:?} {fields}");
        }
    }

    #[test]
    fn other_values_make_another_group() {
        let long = "ü".repeat(300);
        let texts = [
            json!({"a": "x", "b": "y"}),
            json!({"a": "x\",\"y"}),
            json!({"a": "x,y"}),
            json!({"b": "x"}),
            json!({"a": "x"}),
            json!({"a": ["x"]}),
            json!({"a": "null"}),
            json!({"a": long}),
            json!({"a": format!("{long}1")}),
            json!({"a": format!("{long}2")}),
            json!({"a": long, "b": "y"}),
        ];
        let groups: HashSet<_> = texts.iter().map(|fields| group(&["a", "b"], fields.clone())).collect();
        assert_eq!(groups.len(), texts.len(), "{groups:#?}");
    }

    #[test]
    fn a_group_is_bounded() {
        for length in (240..270).chain([5000]) {
            for text in ["x", "ü", "日", "\"", "\u{1}"] {
                let group = group(&["a"], json!({"a": text.repeat(length)}));
                assert!(group.len() <= Grouped::GROUP_BYTES_MAX, "{} {group}", group.len());
            }
        }
        let (most, more) = ("x".repeat(Grouped::GROUP_BYTES_MAX - 4), "x".repeat(Grouped::GROUP_BYTES_MAX - 3));
        assert!(group(&["a"], json!({"a": most})).ends_with("x\"]"));
        assert!(!group(&["a"], json!({"a": more})).ends_with(']'));
    }

    #[test]
    fn in_words() {
        let batch = |by: &[&str]| Batch {
            by: by.iter().map(|&field| field.to_owned()).collect(),
            wait: Duration::from_secs(90),
            max: 20,
        };
        assert_eq!(batch(&["target", "port"]).to_string(), "gathered by target, port for 1m 30s, at most 20");
        assert_eq!(batch(&[]).to_string(), "gathered for 1m 30s, at most 20");
        let event = Event::from_value(json!({"event_id": "1", "key": "k"})).unwrap();
        let expected = json!({"group": "[]", "wait": "1m 30s", "max": 20});
        assert_eq!(serde_json::to_value(batch(&[]).group(&event)).unwrap(), expected);
    }
}
