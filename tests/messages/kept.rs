//! Messages as they are kept: small, and so that a diff shows the words that changed beside the key they belong to.
//!
//! Messages of one shape differ in a few words. So a file has *forms*, documents in which `□` stands for each word that
//! differs, each followed by a line for every key that takes this form, with its words in order. Nothing is lost by that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use halo_relay::deliver::Settings;
use halo_relay::model::Content;
use serde_json::{Value, json};

/// The message as JSON, as it goes on the wire; a mail as its parts, cut into short pieces.
pub(crate) fn document(settings: &Settings, content: &Content) -> Value {
    match content {
        Content::Json(_) => settings.payload(content).unwrap(),
        Content::Mail { subject, text, html } => {
            let html: Vec<_> = html.iter().flat_map(|html| html.split_inclusive('>')).collect();
            json!({"subject": subject, "text": text.split_inclusive('\n').collect::<Vec<_>>(), "html": html})
        }
    }
}

/// Compares with the files in `directory`, or writes them if `UPDATE_MESSAGES` is set.
pub(crate) fn compare(directory: &Path, seen: &BTreeMap<String, Vec<(String, Value)>>) {
    let update = std::env::var_os("UPDATE_MESSAGES").is_some_and(|value| !value.is_empty());
    if update {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).unwrap();
    }
    let mut wrong = Vec::new();
    for (file, messages) in seen {
        let (path, now) = (directory.join(file), written(messages));
        if update {
            fs::write(path, now).unwrap();
        } else {
            wrong.extend(
                differences(&fs::read_to_string(path).unwrap_or_default(), &now).map(|line| format!("{file} {line}")),
            );
        }
    }
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    wrong.extend(files.filter(|file| !seen.contains_key(file)).map(|file| format!("{file} is of no channel or shape")));
    let shown: Vec<_> = wrong.iter().take(20).map(String::as_str).collect();
    assert!(
        wrong.is_empty(),
        "{} lines of tests/data/messages differ:\n{}\nIf they should, run UPDATE_MESSAGES=1 cargo test --test messages and read the diff.",
        wrong.len(),
        shown.join("\n"),
    );
}

/// The lines that are not in both, those of today with `+`. Of lines with a key, the key is first.
fn differences<'a>(before: &'a str, now: &'a str) -> impl Iterator<Item = String> {
    let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (before.lines().collect(), now.lines().collect());
    let gone = before.lines().filter(|line| !new.contains(line)).map(|line| format!("- {line}")).collect::<Vec<_>>();
    let come = now.lines().filter(|line| !old.contains(line)).map(|line| format!("+ {line}")).collect::<Vec<_>>();
    gone.into_iter().chain(come)
}

/// What stands in a form for a word of the message.
const WORD: &str = "□";

struct Form<'a> {
    document: Value,
    /// The words of each message that has this form, all of them in order.
    messages: Vec<(&'a str, Vec<&'a Value>)>,
}

fn written(messages: &[(String, Value)]) -> String {
    let mut forms: BTreeMap<String, Form<'_>> = BTreeMap::new();
    for (key, document) in messages {
        let (mut words, mut blank) = (Vec::new(), document.clone());
        each_leaf(document, &mut |leaf| words.push(leaf));
        each_leaf_mut(&mut blank, &mut |leaf| *leaf = json!(WORD));
        let form = forms.entry(blank.to_string()).or_insert(Form { document: blank, messages: Vec::new() });
        form.messages.push((key, words));
    }
    let mut forms: Vec<_> = forms.into_values().collect();
    forms.sort_by_key(|form| form.messages[0].0);
    forms.iter_mut().map(Form::written).collect::<Vec<_>>().join("\n")
}

impl Form<'_> {
    fn written(&mut self) -> String {
        let differs = self.differing();
        self.fill(&differs);
        let mut text = format!("{}\n", serde_json::to_string_pretty(&self.document).unwrap());
        for (key, words) in &self.messages {
            let words = words.iter().zip(&differs).filter(|(_, differs)| **differs).map(|(word, _)| format!(" {word}"));
            text.push_str(&format!("{key}:{}\n", words.collect::<String>()));
        }
        text
    }

    /// Of each word, whether the messages of this form differ in it; if only one has this form, none.
    fn differing(&self) -> Vec<bool> {
        let Some(((_, first), rest)) = self.messages.split_first() else { return Vec::new() };
        let differs = |(at, word): (usize, &&Value)| rest.iter().any(|(_, words)| words[at] != *word);
        first.iter().enumerate().map(differs).collect()
    }

    /// Puts the words that all have in common where they stand.
    fn fill(&mut self, differs: &[bool]) {
        let mut common = self.messages[0].1.iter().zip(differs);
        each_leaf_mut(&mut self.document, &mut |leaf| {
            if let Some((word, false)) = common.next() {
                *leaf = (*word).clone();
            }
        });
    }
}

fn each_leaf<'a>(value: &'a Value, visit: &mut impl FnMut(&'a Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| each_leaf(item, visit)),
        Value::Object(members) => members.values().for_each(|member| each_leaf(member, visit)),
        leaf => visit(leaf),
    }
}

fn each_leaf_mut(value: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| each_leaf_mut(item, visit)),
        Value::Object(members) => members.values_mut().for_each(|member| each_leaf_mut(member, visit)),
        leaf => visit(leaf),
    }
}
