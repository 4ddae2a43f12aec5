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
    /// `["www.example.org",465]` as JSON: a value cannot leave its string, so no two lists of values look alike. A
    /// missing or empty value is `null`, as conditions take them for the same; numbers are kept as they are written, so
    /// `465` and `"465"`, which are one number to conditions, are one group.
    pub fn group(&self, event: &Event) -> Grouped {
        let values = self.by.iter().map(|field| match event.field(field) {
            Some(value) if !is_empty(value) => match value {
                Value::Number(number) => Value::String(number.to_string()),
                other => other.clone(),
            },
            _ => Value::Null,
        });
        let group = bounded(Value::Array(values.collect()).to_string());
        Grouped { group, wait: self.wait, max: self.max }
    }
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
