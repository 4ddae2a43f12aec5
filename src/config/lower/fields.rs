//! Names of event fields: in `when`, `batch.by` and `thread_by`. None is refused, since events may have more fields than
//! anybody has written down; but one that no known event has is probably misspelled.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::samples::STANDARD;
use super::{Checker, listed};
use crate::catalogue;
use crate::config::file::{At, Rule};
use crate::config::problem::{Problem, quoted};
use crate::config::words::nearest;
use crate::model::key::KeyPatterns;

/// Other names that records are known to use.
const OTHER: [&str; 3] = ["id", "pci_report_id", "time"];
/// Where a record may keep its fields.
const NESTS: [&str; 3] = ["data.", "details.", "fields."];
/// More names help nobody.
const NAMED_MAX: usize = 6;

impl Checker<'_> {
    /// `keys` are those that the rule takes; `None`: all, or not known for a mistake in them.
    pub(super) fn field_names(&mut self, rule: &Rule, keys: Option<&KeyPatterns>) {
        for (name, _) in rule.when.iter().flat_map(|when| &when.value.0).filter(|(name, _)| name.value != "key") {
            self.field_name(&name.value, name.at, keys, true);
        }
        let by = rule.batch.as_ref().and_then(|batch| batch.value.by.as_ref());
        for field in by.into_iter().chain(&rule.thread_by) {
            for item in field.value.items(field.at, self.text) {
                self.field_name(item.value, item.at, keys, false);
            }
        }
    }

    fn field_name(&mut self, written: &str, at: At, keys: Option<&KeyPatterns>, in_when: bool) {
        let name = NESTS.iter().find_map(|nest| written.strip_prefix(nest)).unwrap_or(written);
        // Empty names are refused elsewhere. What else an object holds nobody has written down.
        if name.is_empty() || name.contains('.') || is_known(name) {
            return;
        }
        let taken = |known: &&catalogue::Known| keys.is_none_or(|keys| keys.matches(known.key));
        let kinds: Vec<_> = catalogue::all().iter().filter(taken).collect();
        // Of kinds that are new nothing is known.
        if kinds.is_empty() {
            return;
        }
        let help = match (name, nearest(name, known())) {
            ("severity", _) if in_when => {
                "events have none, rules give it: choose by `key`, and write `severity:` beside `when`".to_owned()
            }
            ("all" | "and" | "any" | "not" | "or", _) if in_when => {
                "all of `when` must hold; for either of several write a list of patterns, or a rule for each; `!` in a pattern is `not`"
                    .to_owned()
            }
            (_, Some(near)) => format!("did you mean `{near}`?"),
            (_, None) => format!("known here are {}; leave it if your events have it", listed(&usual(&kinds))),
        };
        let problem = Problem::warning("no-such-field", format!("no known event has a field {}", quoted(written)));
        self.report(problem, at, "not a known field", help);
    }
}

fn is_known(name: &str) -> bool {
    known().any(|known| known == name)
}

/// What records have, whatever their kind, and the fields of all kinds.
fn known() -> impl Iterator<Item = &'static str> {
    static OF_KINDS: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let mut names: Vec<_> = catalogue::all().iter().flat_map(catalogue::Known::fields).collect();
        names.sort_unstable();
        names.dedup();
        names
    });
    STANDARD.into_iter().chain(OTHER).chain(OF_KINDS.iter().copied())
}

/// The fields that most of these kinds have, `target` first.
fn usual<'k>(kinds: &[&'k catalogue::Known]) -> Vec<&'k str> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    // The scanner's own numbers are nothing to choose by.
    let telling = |name: &&str| !name.ends_with("_id");
    kinds
        .iter()
        .flat_map(|known| known.fields())
        .filter(telling)
        .for_each(|name| *counts.entry(name).or_default() += 1);
    let mut names: Vec<_> = counts.into_iter().collect();
    names.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    std::iter::once("target").chain(names.into_iter().map(|(name, _)| name)).take(NAMED_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{LoadOptions, load_str};

    /// The titles and remedies of the warnings about names of fields.
    fn warned(rule: &str) -> Vec<(String, String)> {
        let text = format!(
            "
sources: {{ halo: {{ type: halo, api_key: {{ env: KEY }} }} }}
destinations: {{ mail: {{ type: email, smtp: {{ host: mail.example.org }}, from: a@example.org, to: b@example.org }} }}
rules: [{{ name: a, send: [mail], severity: low, {rule} }}]
unrouted: {{ send: [mail] }}
"
        );
        let config = load_str(&text, Path::new("rules.yaml"), &LoadOptions::without_secrets())
            .unwrap_or_else(|problems| panic!("{rule}: {problems}"));
        let ours = config.warnings.into_iter().filter(|warning| warning.code == "no-such-field");
        ours.map(|warning| (warning.title, warning.help.unwrap_or_default())).collect()
    }

    #[test]
    fn known_fields_and_those_of_unknown_kinds_pass() {
        for rule in [
            "when: { key: 'website-*', target: x, target_id: 5, port: 22, host: y }",
            "when: { details.port: 22, data.host: x, event_id: '=5', subject: x, date_created: x, pci_report_id: 5 }",
            "when: { anything.below: x, details.an.object: x }",
            "when: { key: brand-new, no_such: x }, batch: { by: [no_such] }",
            "batch: { by: [target, port, details.port] }, thread_by: [host, target_name]",
        ] {
            assert_eq!(warned(rule), [], "{rule}");
        }
    }

    #[test]
    fn others_draw_a_warning_with_a_remedy() {
        let cases = [
            ("when: { kye: 'website-*' }", "kye", "did you mean `key`?"),
            ("batch: { by: [targett] }", "targett", "did you mean `target`?"),
            ("thread_by: prot", "prot", "did you mean `port`?"),
            ("when: { details.prot: 22 }", "details.prot", "did you mean `port`?"),
            ("when: { severity: high }", "severity", "events have none, rules give it"),
            ("when: { any: [x, y] }", "any", "all of `when` must hold"),
            (
                "when: { key: 'firewall-banner-change', colour: red }",
                "colour",
                "known here are `target`, `banner`, `banner_prior`, `detail`, `port` and `protocol`; leave it",
            ),
        ];
        for (rule, name, help) in cases {
            let warned = warned(rule);
            let [(title, found)] = warned.as_slice() else { panic!("{rule}: {warned:?}") };
            assert_eq!(title, &format!("no known event has a field `{name}`"), "{rule}");
            assert!(found.starts_with(help), "{rule}: {found}");
        }
    }
}
