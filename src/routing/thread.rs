//! Which events belong to one thread: a rule's `thread_by`, and the key that an event gets by it.

use std::fmt;

use sha2::{Digest, Sha256};

use super::batch::values;
use crate::model::{Event, RuleName};

/// A rule's `thread_by: [target]`: messages of events that agree in all these fields go into one thread, where the channel
/// has threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadBy {
    /// Names or dotted paths, as [`Event::field`] takes them; at least one.
    pub by: Vec<String>,
}

impl ThreadBy {
    /// Letters of a key.
    pub const KEY_LEN: usize = 32;

    /// The name of the event's thread: the same for each destination, and in all versions, since it is stored. A hash, for
    /// channels are given it and event text may be in the values.
    pub fn key(&self, rule: &RuleName, event: &Event) -> String {
        let mut digest = Sha256::new();
        digest.update(rule.as_str());
        // No name of a rule holds it, so what follows cannot be taken for a part of one.
        digest.update([0]);
        digest.update(values(&self.by, event).as_bytes());
        digest.finalize().iter().take(Self::KEY_LEN / 2).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    }
}

/// `in a thread by target, port`
impl fmt::Display for ThreadBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in a thread by {}", self.by.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::{Value, json};

    use super::*;

    fn key(rule: &str, by: &[&str], fields: &Value) -> String {
        let mut body = json!({"event_id": "1", "key": "issue-add"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let by = by.iter().map(|&field| field.to_owned()).collect();
        ThreadBy { by }.key(&rule.into(), &Event::from_value(body).unwrap())
    }

    #[test]
    fn equal_values_of_one_rule_share_a_thread() {
        let target = json!({"target": "a.example.org"});
        let nested = json!({"target": {"target": "a.example.org"}, "port": 1});
        assert_eq!(key("r", &["target"], &target), key("r", &["target"], &nested));
        assert_eq!(key("r", &["target"], &target), "f829ab1bcb57cb1255195fe811f91e7f", "stored, so it must not change");
        assert_eq!(key("r", &["x"], &json!({"x": null})), key("r", &["x"], &json!({"x": ""})));
    }

    #[test]
    fn anything_else_is_another() {
        let long = "x".repeat(5_000);
        let keys = [
            key("r", &["a", "b"], &json!({"a": "x", "b": "y"})),
            key("s", &["a", "b"], &json!({"a": "x", "b": "y"})),
            key("r", &["b", "a"], &json!({"a": "x", "b": "y"})),
            key("r", &["a"], &json!({"a": "x", "b": "y"})),
            key("r", &["a", "b"], &json!({"a": "x\",\"y"})),
            key("r\0[", &["a", "b"], &json!({"a": "x"})),
            key("r", &["a", "b"], &json!({"a": "x"})),
            key("r", &["a"], &json!({"a": long})),
            key("r", &["a"], &json!({"a": format!("{long}x")})),
            key("r", &["a"], &json!({})),
        ];
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len(), "{keys:#?}");
        for key in keys {
            assert!(key.len() == ThreadBy::KEY_LEN && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
        }
    }

    #[test]
    fn in_words() {
        let by = ["target", "port"].map(str::to_owned).to_vec();
        assert_eq!(ThreadBy { by }.to_string(), "in a thread by target, port");
    }
}
