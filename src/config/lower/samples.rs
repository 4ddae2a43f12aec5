//! The user's templates, tried on the kinds of events that the rules bring to them.

use std::collections::{BTreeMap, HashMap};

use super::Checker;
use super::destinations::Defined;
use crate::catalogue::{self, Known};
use crate::model::{Channel, DestinationName, Event};
use crate::render::{DEFAULT, Renderer, Tried};
use crate::routing::{Action, Condition, Rule, RuleSet};

/// A set of known keys, a bit for each.
type Keys = u128;

/// What every record has, whatever its kind.
pub(super) const STANDARD: [&str; 8] =
    ["target", "target_id", "target_name", "subject", "url", "event_id", "date_created", "key"];

impl Checker<'_> {
    /// Renders each template with a sample of every kind of event that may come to it, once for all rules that bring one.
    pub(super) fn samples(&mut self, rules: &RuleSet, destinations: &Defined, templates: &Renderer) {
        if !Channel::ALL.into_iter().any(|channel| templates.has_own(channel)) {
            return;
        }
        let mut told: Vec<(String, usize, usize)> = Vec::new();
        for ((channel, name), keys) in reached(rules, destinations) {
            if !(templates.has_own(channel) && templates.has(channel, name)) {
                continue;
            }
            let Tried { errors, mut warnings } = templates.try_samples(channel, name, &known(keys));
            self.template_errors(errors);
            // A partial is told of once.
            warnings.retain(|warning| {
                let place = (format!("{:?}", warning.path), warning.line, warning.column);
                let new = !told.contains(&place);
                told.push(place);
                new
            });
            self.template_warnings(warnings);
        }
    }
}

fn known(keys: Keys) -> Vec<&'static Known> {
    catalogue::all().iter().enumerate().filter(|(at, _)| keys & (1 << at) != 0).map(|(_, known)| known).collect()
}

fn keys(matches: impl Fn(&Known) -> bool) -> Keys {
    catalogue::all().iter().enumerate().filter(|(_, known)| matches(known)).fold(0, |keys, (at, _)| keys | (1 << at))
}

/// Which kinds come to which template. Reads the rules as routing does, but for conditions, of which nobody knows how often
/// they hold.
fn reached<'r>(rules: &'r RuleSet, destinations: &'r Defined) -> BTreeMap<(Channel, &'r str), Keys> {
    let mut seen = Seen { by_patterns: HashMap::new(), by_field: HashMap::new(), bare: bare() };
    let mut reached: BTreeMap<(Channel, &str), Keys> = BTreeMap::new();
    // Keys of which a rule above ended the reading, or told a destination; and those that some rule takes in any case.
    let (mut taken, mut routed) = (0, 0);
    let mut told: HashMap<&DestinationName, Keys> = HashMap::new();
    let mut bring = |to: &'r DestinationName, template: Option<&'r str>, keys: Keys| {
        let Some((channel, own)) = destinations.get(to.as_str()).and_then(|one| Some((one.channel?, one.settings()?)))
        else {
            return;
        };
        let name = template.or(own.template.as_deref()).unwrap_or(DEFAULT);
        *reached.entry((channel, name)).or_default() |= keys;
    };
    for rule in rules.rules() {
        let (matched, always) = (seen.matched(rule) & !taken, rule.conditions.is_empty());
        if let Action::Send(to) = &rule.action {
            for to in to {
                let told = told.entry(to).or_default();
                bring(to, rule.template.as_deref(), matched & !*told);
                *told |= if always { matched } else { 0 };
            }
        }
        if always {
            routed |= matched;
            taken |= if rule.ends_reading() { matched } else { 0 };
        }
    }
    if let Action::Send(to) = rules.unrouted() {
        for to in to {
            bring(to, None, keys(|_| true) & !routed);
        }
    }
    reached.retain(|_, keys| *keys != 0);
    reached
}

/// What was found out once: many rules are alike.
struct Seen {
    by_patterns: HashMap<String, Keys>,
    by_field: HashMap<String, Keys>,
    /// An event without any field.
    bare: Option<Event>,
}

impl Seen {
    fn matched(&mut self, rule: &Rule) -> Keys {
        let mut text = String::new();
        for pattern in rule.keys.iter().flatten() {
            text.push_str(&format!("{pattern} "));
        }
        let by_key = *self
            .by_patterns
            .entry(text)
            .or_insert_with(|| keys(|known| rule.keys.as_ref().is_none_or(|keys| keys.matches(known.key))));
        rule.conditions.iter().fold(by_key, |keys, condition| keys & self.can_match(condition))
    }

    /// The keys whose events have the field, unless the condition holds without it too.
    fn can_match(&mut self, condition: &Condition) -> Keys {
        let field = condition.field();
        if STANDARD.contains(&field) || self.bare.as_ref().is_none_or(|bare| condition.matches(bare)) {
            return Keys::MAX;
        }
        if let Some(keys) = self.by_field.get(field) {
            return *keys;
        }
        let keys = keys(|known| known.fields().any(|known| known == field));
        // Of a field nobody knows nothing is known.
        let keys = if keys == 0 { Keys::MAX } else { keys };
        self.by_field.insert(field.to_owned(), keys);
        keys
    }
}

fn bare() -> Option<Event> {
    Event::from_value(serde_json::json!({"event_id": "bare", "key": "bare"})).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{LoadOptions, Problems, load_str};

    const SLACK: &str = r#"{"text": "{{event.fields.port}}"}"#;

    /// What is found in a file with these rules, `slack/port.hbs` being there.
    fn check(rules: &str, template: &str) -> Result<Vec<String>, Problems> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("templates/slack")).unwrap();
        std::fs::write(dir.path().join("templates/slack/port.hbs"), template).unwrap();
        let text = format!(
            "
sources: {{ halo: {{ type: halo, api_key: {{ env: KEY }} }} }}
destinations:
  chat: {{ type: slack, url: {{ env: URL }} }}
  ports: {{ type: slack, url: {{ env: URL }}, template: port }}
templates_dir: templates
rules: {rules}
unrouted: {{ send: [chat] }}
"
        );
        let path = dir.path().join("rules.yaml");
        let config = load_str(&text, Path::new(&path), &LoadOptions::without_secrets())?;
        let ours = config.warnings.iter().filter(|warning| warning.code == "template-field");
        Ok(ours
            .map(|warning| {
                assert!(
                    warning
                        .place
                        .as_ref()
                        .is_some_and(|place| place.file.ends_with("slack/port.hbs") && place.column == 11)
                );
                warning.title.clone()
            })
            .collect())
    }

    #[test]
    fn only_what_comes_to_a_template_counts() {
        let none = "none of the events that come here has a `port`";
        let some = "which come here too";
        let cases: [(&str, Option<&str>); 11] = [
            // Of the catalogue's keys these have ports.
            ("[{ name: a, when: { key: 'firewall-*' }, send: [chat], template: port }]", None),
            ("[{ name: a, when: { key: 'website-*' }, send: [chat], template: port }]", Some(none)),
            ("[{ name: a, when: { key: ['firewall-*', 'website-*'] }, send: [chat], template: port }]", Some(some)),
            // By the destination's template, by the rule's, by nobody's.
            ("[{ name: a, when: { key: 'website-*' }, send: [ports] }]", Some(none)),
            ("[{ name: a, when: { key: 'website-*' }, send: [ports], template: default }]", None),
            ("[{ name: a, when: { key: 'website-*' }, send: [chat] }]", None),
            // Taken above, told above, or not taken after all.
            (
                "[{ name: a, when: { key: 'website-*' }, drop: noise }, { name: b, when: { key: '{website,firewall}-*' }, send: [ports] }]",
                None,
            ),
            (
                "[{ name: a, when: { key: 'website-*' }, send: [ports], template: default }, { name: b, when: { key: '{website,firewall}-*' }, send: [ports] }]",
                None,
            ),
            (
                "[{ name: a, when: { key: 'website-*', target: x }, send: [ports], template: default }, { name: b, when: { key: '{website,firewall}-*' }, send: [ports] }]",
                Some(some),
            ),
            // A condition on a field keeps out what has none.
            ("[{ name: a, when: { port: [22, 23] }, send: [ports] }]", None),
            ("[{ name: a, when: { port: ['!22'] }, send: [ports] }]", Some(some)),
        ];
        for (rules, expected) in cases {
            let found = check(rules, SLACK).unwrap_or_else(|problems| panic!("{rules} {problems}"));
            let good = match expected {
                None => found.is_empty(),
                Some(part) => found.len() == 1 && found[0].contains(part),
            };
            assert!(good, "{rules}: {found:?}");
        }
    }

    #[test]
    fn a_kind_that_cannot_be_rendered_is_an_error() {
        let template = r#"{"text": "x"{{#if (eq event.key "issue-add")}} ?{{/if}}}"#;
        let rule = |key: &str| format!("[{{ name: a, when: {{ key: '{key}' }}, send: [ports] }}]");
        assert!(check(&rule("website-*"), template).is_ok());
        let problems = check(&rule("*"), template).unwrap_err();
        let told = problems.to_string();
        assert!(
            told.contains("slack/port.hbs:1:1: error[bad-template]") && told.contains("in a message of issue-add"),
            "{told}"
        );
    }
}
