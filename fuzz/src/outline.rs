//! What messages of a template look like when all that an event says is plain words: their members, kinds and literal texts,
//! and what clients would act on in each line of the others. A message of a hostile event must not go beyond it.
//!
//! It is learned from many harmless messages, so it knows nothing of how a value is escaped.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::marks::{Dialect, Known};

/// Every word that a harmless event says holds these letters, in any case: a text without them is the template's own.
pub(super) const WORD: &str = "zq";

/// All that was seen in one place.
#[derive(Debug, Default)]
pub(super) struct Outline {
    kinds: BTreeSet<&'static str>,
    /// Whether an event has a say in the text here.
    free: bool,
    /// The literal texts here.
    literals: BTreeSet<String>,
    /// What clients act on, line by line.
    marks: BTreeSet<String>,
    lines_max: usize,
    members: BTreeMap<String, Self>,
    /// By their literal `type`, empty if they have none.
    items: BTreeMap<String, Self>,
    items_max: usize,
}

/// How a text of this name in this object is read.
pub(super) type Reads = fn(At<'_>) -> Dialect;

/// Where a text stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) owner: &'a Map<String, Value>,
    /// What the owner is called; empty for the document.
    pub(super) within: &'a str,
    pub(super) name: &'a str,
}

impl Outline {
    pub(super) fn learn(&mut self, value: &Value, known: &Known, reads: Reads) {
        self.learn_at(value, At { owner: &Map::new(), within: "", name: "" }, known, reads);
    }

    fn learn_at(&mut self, value: &Value, at: At<'_>, known: &Known, reads: Reads) {
        self.kinds.insert(kind(value));
        match value {
            Value::String(text) => self.learn_text(text, reads(at), known),
            Value::Array(items) => {
                self.items_max = self.items_max.max(items.len());
                for item in items {
                    self.items.entry(type_of(item).to_owned()).or_default().learn_at(item, at, known, reads);
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    let inner = At { owner: members, within: at.name, name };
                    self.members.entry(name.clone()).or_default().learn_at(member, inner, known, reads);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    pub(super) fn learn_text(&mut self, text: &str, dialect: Dialect, known: &Known) {
        self.kinds.insert("text");
        match known.name(text) {
            Some(link) => drop(self.literals.insert(link.to_string())),
            None if text.to_ascii_lowercase().contains(WORD) => self.free = true,
            None => drop(self.literals.insert(numbers_alike(text).into_owned())),
        }
        self.free |= self.literals.len() > LITERALS_MAX;
        self.lines_max = self.lines_max.max(text.split('\n').count());
        for line in text.split('\n') {
            self.marks.insert(dialect.marks(line, known));
        }
    }

    /// Where and how a message goes beyond what is known.
    pub(super) fn check(&self, value: &Value, known: &Known, reads: Reads) -> Result<(), String> {
        self.check_at(value, At { owner: &Map::new(), within: "", name: "" }, known, reads)
    }

    fn check_at(&self, value: &Value, at: At<'_>, known: &Known, reads: Reads) -> Result<(), String> {
        // Nothing in the place of something does no harm.
        if !value.is_null() && !self.kinds.contains(kind(value)) {
            return Err(format!(": never {} before", kind(value)));
        }
        match value {
            Value::String(text) => self.check_text(text, reads(at), known),
            Value::Array(items) => {
                if items.len() > self.items_max + MORE {
                    return Err(format!(": {} items, never more than {} before", items.len(), self.items_max));
                }
                for (item, index) in items.iter().zip(0..) {
                    let known_one =
                        self.items.get(type_of(item)).ok_or_else(|| format!("/{index}: an unknown type"))?;
                    let checked = known_one.check_at(item, at, known, reads);
                    checked.map_err(|error| format!("/{index}{error}"))?;
                }
                Ok(())
            }
            Value::Object(members) => members.iter().try_for_each(|(name, member)| {
                let known_one = self.members.get(name).ok_or_else(|| format!("/{name}: an unknown member"))?;
                let checked = known_one.check_at(member, At { owner: members, within: at.name, name }, known, reads);
                checked.map_err(|error| format!("/{name}{error}"))
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }

    pub(super) fn check_text(&self, text: &str, dialect: Dialect, known: &Known) -> Result<(), String> {
        if !self.free {
            let link = known.name(text).map(|link| link.to_string());
            if self.literals.contains(link.as_deref().unwrap_or(&numbers_alike(text))) {
                return Ok(());
            }
            return Err(format!(": a literal that the template does not have: {text:?}"));
        }
        let lines = text.split('\n').count();
        if lines > self.lines_max + MORE && dialect != Dialect::Raw {
            return Err(format!(": {lines} lines, never more than {} before: {text:?}", self.lines_max));
        }
        for line in text.split('\n') {
            let marks = dialect.marks(line, known);
            // What is cut off may have been the template's.
            let is_cut = || line.ends_with('…') && self.marks.iter().any(|whole| whole.starts_with(&marks));
            if !self.marks.contains(&marks) && !is_cut() {
                return Err(format!(": {marks:?} is something to act on, in {dialect:?}: {line:?}"));
            }
        }
        Ok(())
    }
}

/// Harmless messages need not have met with all the rows that there can be at once.
pub(super) const MORE: usize = 4;
/// More than this, and it is an event's key, which the relay has words for, that has a say.
const LITERALS_MAX: usize = 6;

/// How many there are of something is no literal.
fn numbers_alike(text: &str) -> Cow<'_, str> {
    if text.contains(|letter: char| letter.is_ascii_digit()) {
        let mut alike = String::with_capacity(text.len());
        for letter in text.chars() {
            if !letter.is_ascii_digit() {
                alike.push(letter);
            } else if !alike.ends_with('0') {
                alike.push('0');
            }
        }
        return alike.into();
    }
    text.into()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn type_of(value: &Value) -> &str {
    value.get("type").and_then(Value::as_str).unwrap_or_default()
}
