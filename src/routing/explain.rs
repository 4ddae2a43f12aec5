//! What became of each rule, as data: printed by the command line, served as JSON.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{Action, Mismatch, Place, Route, RuleSet, as_text};
use crate::model::key::KeyVerdict;
use crate::model::{DestinationName, RuleName};

/// Why an event is owed to whom it is owed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Every rule, in the order of reading.
    pub rules: Vec<RuleVerdict>,
    /// What `unrouted` does with the event; `None` if a rule matched.
    pub unrouted: Option<Effect>,
    /// The outcome: what [`RuleSet::route`] returns.
    pub route: Route,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleVerdict {
    #[serde(serialize_with = "as_text")]
    pub rule: RuleName,
    pub place: Place,
    #[serde(flatten)]
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Matched {
        effect: Effect,
        /// No rule below was read, because of this one.
        ends_reading: bool,
    },
    NotMatched {
        why: WhyNot,
    },
    /// A rule above ended the reading.
    NotReached {
        #[serde(serialize_with = "as_text")]
        ended_by: RuleName,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Effect {
    Send { to: Vec<Told> },
    Drop { reason: String },
}

/// One destination that a matching rule names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    #[serde(serialize_with = "as_text")]
    pub destination: DestinationName,
    /// The rule above that tells it already; `None` if this rule does.
    #[serde(serialize_with = "as_optional_text")]
    pub already: Option<RuleName>,
}

/// The first thing that kept a rule from matching.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "because", rename_all = "snake_case")]
pub enum WhyNot {
    /// No including pattern matches the key.
    KeyUnmatched { patterns: Vec<String> },
    /// This `!` pattern takes the key out.
    KeyExcluded { pattern: String },
    Field {
        field: String,
        patterns: Vec<String>,
        /// The event's value as JSON, shortened and safe to print; `None` if the event has no such field.
        found: Option<String>,
    },
}

impl Explanation {
    /// `checks` has one entry for each rule read: all, or those down to the one that ended the reading.
    pub(super) fn new(set: &RuleSet, checks: Vec<Result<(), WhyNot>>, route: Route) -> Self {
        let last_read = checks.len().checked_sub(1).and_then(|last| set.rules().get(last));
        let matched = checks.iter().any(Result::is_ok);
        let mut checks = checks.into_iter();
        let verdict = |rule: &super::Rule| match (checks.next(), last_read) {
            (Some(Ok(())), _) => Verdict::Matched {
                effect: Effect::new(&rule.action, &rule.name, &route),
                ends_reading: rule.ends_reading(),
            },
            (Some(Err(why)), _) => Verdict::NotMatched { why },
            // A rule is left over only where one above it ended the reading.
            (None, last) => Verdict::NotReached { ended_by: last.unwrap_or(rule).name.clone() },
        };
        let verdicts: Vec<_> = set.rules().iter().map(verdict).collect();
        let rules = set.rules().iter().zip(verdicts);
        Self {
            rules: rules
                .map(|(rule, verdict)| RuleVerdict { rule: rule.name.clone(), place: rule.place.clone(), verdict })
                .collect(),
            unrouted: (!matched).then(|| Effect::new(set.unrouted(), &RuleName::UNROUTED.into(), &route)),
            route,
        }
    }
}

impl Effect {
    fn new(action: &Action, rule: &RuleName, route: &Route) -> Self {
        match action {
            Action::Drop { reason } => Self::Drop { reason: reason.clone() },
            Action::Send(destinations) => {
                let told = |destination: &DestinationName| {
                    let owed = route.owed.iter().find(|owed| owed.destination == *destination);
                    let already = owed.map(|owed| &owed.rule).filter(|teller| *teller != rule);
                    Told { destination: destination.clone(), already: already.cloned() }
                };
                Self::Send { to: destinations.iter().map(told).collect() }
            }
        }
    }
}

impl From<Mismatch<'_>> for WhyNot {
    fn from(mismatch: Mismatch<'_>) -> Self {
        match mismatch {
            Mismatch::Key(rule, event) => {
                let verdict = rule.keys.as_ref().map(|keys| keys.verdict(event.key.as_str()));
                if let Some(KeyVerdict::Excluded(pattern)) = verdict {
                    return Self::KeyExcluded { pattern: pattern.to_string() };
                }
                let including = rule.keys.iter().flatten().filter(|pattern| !pattern.excludes());
                Self::KeyUnmatched { patterns: including.map(ToString::to_string).collect() }
            }
            Mismatch::Field { condition, found } => Self::Field {
                field: condition.field().to_owned(),
                patterns: condition.patterns().map(str::to_owned).collect(),
                found: found.map(shown),
            },
        }
    }
}

/// Longer values are cut: an explanation is a line on a screen.
const VALUE_CHARS_MAX: usize = 80;

/// The value is text from scanned websites and the reader a terminal: nothing in it may move the cursor or the reading
/// direction.
fn shown(value: &Value) -> String {
    let json = value.to_string();
    let mut shown = String::new();
    for character in json.chars().take(VALUE_CHARS_MAX) {
        // Right-to-left marks, zero-width characters, line separators, byte order mark.
        let invisible = matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if character.is_control() || invisible {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    if json.chars().nth(VALUE_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// ``not matched: `port` is 80, wanted `22` ``
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matched { effect, ends_reading } => {
                write!(f, "matched: {effect}{}", if *ends_reading { "; ends the reading" } else { "" })
            }
            Self::NotMatched { why } => write!(f, "not matched: {why}"),
            Self::NotReached { ended_by } => write!(f, "not reached: rule `{ended_by}` ends the reading"),
        }
    }
}

/// `sends to sec-slack, compliance (already told by certificates)`
impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop { reason } => write!(f, "drops ({reason})"),
            Self::Send { to } => {
                f.write_str("sends to ")?;
                separated(f, to)
            }
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.already {
            None => self.destination.fmt(f),
            Some(rule) => write!(f, "{} (already told by {rule})", self.destination),
        }
    }
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyExcluded { pattern } => write!(f, "key is excluded by `{pattern}`"),
            Self::KeyUnmatched { patterns } => {
                f.write_str(if patterns.len() == 1 { "key does not match " } else { "key matches none of " })?;
                separated(f, patterns.iter().map(Quoted))
            }
            Self::Field { field, patterns, found } => {
                write!(f, "`{field}` is {}, wanted ", found.as_deref().unwrap_or("missing"))?;
                separated(f, patterns.iter().map(Quoted))
            }
        }
    }
}

struct Quoted<'a>(&'a String);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

fn separated<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: impl IntoIterator<Item = T>) -> fmt::Result {
    for (index, item) in items.into_iter().enumerate() {
        write!(f, "{}{item}", if index > 0 { ", " } else { "" })?;
    }
    Ok(())
}

#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn as_optional_text<S: Serializer>(value: &Option<RuleName>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::key::KeyPatterns;
    use crate::model::{Event, Severity};
    use crate::routing::{Condition, Rule};

    fn rule(name: &str, keys: &[&str], condition: Option<(&str, &[&str])>, send: &[&str]) -> Rule {
        Rule {
            name: name.into(),
            keys: (!keys.is_empty()).then(|| KeyPatterns::parse(keys).unwrap()),
            conditions: condition.iter().map(|(field, patterns)| Condition::parse(field, patterns).unwrap()).collect(),
            severity: Some(Severity::High),
            action: match send {
                [] => Action::Drop { reason: "noise".to_owned() },
                _ => Action::Send(send.iter().map(|&name| name.into()).collect()),
            },
            stop: false,
            template: None,
            runbook: None,
            batch: None,
            thread_by: None,
            mention: None,
            place: Place { file: "rules.yaml".into(), line: 7 },
        }
    }

    fn set() -> RuleSet {
        let rules = vec![
            rule("other-key", &["website-*"], None, &["a"]),
            rule("other-keys", &["website-*", "pci-*", "!x"], None, &["a"]),
            rule("excluded", &["*", "!firewall-*"], None, &["a"]),
            rule("wrong-port", &[], Some(("port", &["22", "100-200"])), &["a"]),
            rule("no-owner", &[], Some(("owner", &["*"])), &["a"]),
            rule("first", &["firewall-*"], None, &["a"]),
            rule("second", &["firewall-*"], Some(("port", &[">80"])), &["a", "b"]),
            rule("dropper", &["firewall-*"], None, &[]),
            rule("last", &[], None, &["c"]),
        ];
        RuleSet::new(rules, Action::Send(vec!["d".into()]), Severity::Info)
    }

    fn event(key: &str) -> Event {
        Event::from_value(json!({"event_id": "1", "key": key, "port": 465})).unwrap()
    }

    #[test]
    fn each_rule_says_why() {
        let explanation = set().explain(&event("firewall-port-add"));
        let lines: Vec<_> = explanation.rules.iter().map(|rule| format!("{}: {}", rule.rule, rule.verdict)).collect();
        assert_eq!(
            lines,
            [
                "other-key: not matched: key does not match `website-*`",
                "other-keys: not matched: key matches none of `website-*`, `pci-*`",
                "excluded: not matched: key is excluded by `!firewall-*`",
                "wrong-port: not matched: `port` is 465, wanted `22`, `100-200`",
                "no-owner: not matched: `owner` is missing, wanted `*`",
                "first: matched: sends to a",
                "second: matched: sends to a (already told by first), b",
                "dropper: matched: drops (noise); ends the reading",
                "last: not reached: rule `dropper` ends the reading",
            ]
        );
        assert_eq!(explanation.unrouted, None);
    }

    #[test]
    fn unrouted_is_explained() {
        let rules = vec![rule("a", &["a"], None, &["x"])];
        let explanation = RuleSet::new(rules, Action::Send(vec!["d".into()]), Severity::Info).explain(&event("b"));
        assert_eq!(explanation.unrouted.map(|effect| effect.to_string()).as_deref(), Some("sends to d"));
    }

    #[test]
    fn as_json() {
        let rules = vec![
            rule("a", &["x"], None, &["s"]),
            rule("b", &[], None, &["s"]),
            rule("c", &[], None, &["s"]),
            rule("d", &[], None, &[]),
            rule("e", &[], None, &["s"]),
        ];
        let rules = RuleSet::new(rules, Action::Send(vec!["d".into()]), Severity::Info);
        let place = json!({"file": "rules.yaml", "line": 7});
        let sends = |already: Value| json!({"action": "send", "to": [{"destination": "s", "already": already}]});
        let expected = json!({
            "rules": [
                {"rule": "a", "place": place, "verdict": "not_matched", "why": {"because": "key_unmatched", "patterns": ["x"]}},
                {"rule": "b", "place": place, "verdict": "matched", "effect": sends(json!(null)), "ends_reading": false},
                {"rule": "c", "place": place, "verdict": "matched", "effect": sends(json!("b")), "ends_reading": false},
                {"rule": "d", "place": place, "verdict": "matched", "effect": {"action": "drop", "reason": "noise"},
                    "ends_reading": true},
                {"rule": "e", "place": place, "verdict": "not_reached", "ended_by": "d"},
            ],
            "unrouted": null,
            "route": {
                "owed": [{"destination": "s", "rule": "b", "severity": "high", "severity_from": "rule", "batch": null, "thread": null}],
                "dropped": {"rule": "d", "reason": "noise"},
            },
        });
        assert_eq!(serde_json::to_value(rules.explain(&event("k"))).unwrap(), expected);
    }

    #[test]
    fn values_are_short_and_safe_to_print() {
        assert_eq!(shown(&json!("a\u{1b}[31m\u{9b}\u{202e}\u{7f}\n")), "\"a\\u001b[31m\\u{9b}\\u{202e}\\u{7f}\\n\"");
        let long = shown(&json!("é".repeat(100)));
        assert_eq!((long.chars().count(), long.ends_with('…')), (81, true));
        assert_eq!(shown(&json!({"a": [1, null]})), r#"{"a":[1,null]}"#);
    }
}
