//! Which destinations an event is owed to: rules compiled once, then pure functions of the event.
//!
//! Rules are read top to bottom and **every** matching rule sends. A matching rule that says `stop`, or that drops, ends the
//! reading; what rules above it already owe stays owed. Two rules naming one destination make one delivery, told by the
//! first of them. Only if no rule matched does `unrouted` apply.
//!
//! [`RuleSet::route`] is for the daemon, [`RuleSet::explain`] for people. Both are one reading of the rules; `route` merely
//! skips those of which an index by key knows that they cannot match, so its cost follows the number of rules that may
//! match and not the number of rules. Rules without a fixed text in their key (`*`, exclusions alone, no key) are asked
//! about every event.

mod batch;
mod explain;
mod filter;
mod index;
mod thread;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::Value;

use self::index::Index;
use crate::catalogue;
use crate::model::key::{KeyFilter, KeyPatterns};
use crate::model::{DestinationName, Event, Mention, RuleName, Severity};

pub use self::batch::{Batch, Grouped};
pub use self::explain::{Effect, Explanation, RuleVerdict, Told, Verdict, WhyNot};
pub use self::filter::Condition;
pub use self::thread::ThreadBy;

/// All rules of a relay, and what happens to events that none of them matches.
pub struct RuleSet {
    rules: Vec<Rule>,
    /// One for each rule.
    steps: Vec<Step>,
    by_name: HashMap<RuleName, usize>,
    index: Index,
    unrouted: Action,
    unrouted_name: RuleName,
    default_severity: Option<Severity>,
}

/// One entry of `rules:`, checked.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique in its set.
    pub name: RuleName,
    /// `None`: any key.
    pub keys: Option<KeyPatterns>,
    /// All of them must match.
    pub conditions: Vec<Condition>,
    /// `None`: the set's default, and without one that of the event's key.
    pub severity: Option<Severity>,
    pub action: Action,
    /// No rule below is read once this one matched. A rule that drops stops in any case.
    pub stop: bool,
    pub template: Option<String>,
    pub runbook: Option<String>,
    /// `None`: each event is a message of its own.
    pub batch: Option<Batch>,
    /// `None`: its messages stand alone.
    pub thread_by: Option<ThreadBy>,
    /// Who is called; of an empty list nobody. `None`: whom the destination calls.
    pub mention: Option<Vec<Mention>>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Send(Vec<DestinationName>),
    Drop { reason: String },
}

/// What reading a [`Rule`] needs of it, in two lines of the processor's cache, which it reads as one: among many rules,
/// waiting for memory is most of the cost.
#[repr(align(128))]
struct Step {
    keys: KeyFilter,
    name: RuleName,
    /// The first rule with the same conditions. Most sets have few different ones, which then stay in the caches.
    conditions: u32,
    /// The first rule with the same action.
    action: u32,
    /// The rule's, or the set's default; `None`: that of the event's key.
    severity: Option<(Severity, SeverityFrom)>,
    ends_reading: bool,
    conditional: bool,
    /// The rule gathers, or makes threads.
    groups: bool,
}

const _: () = assert!(size_of::<Step>() == 128, "a step is two lines");

/// Where a rule stands, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: u32,
}

/// What one event is owed. Both parts may be set: a rule sent, and one below it dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Route {
    /// In the order of the rules; each destination once.
    pub owed: Vec<Owed>,
    pub dropped: Option<Dropped>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owed {
    #[serde(serialize_with = "as_text")]
    pub destination: DestinationName,
    /// The first matching rule that names the destination, or [`RuleName::UNROUTED`].
    #[serde(serialize_with = "as_text")]
    pub rule: RuleName,
    #[serde(serialize_with = "as_text")]
    pub severity: Severity,
    pub severity_from: SeverityFrom,
    /// With which others it shares a message; `None`: with none.
    pub batch: Option<Grouped>,
    /// The thread that its message belongs to, by [`ThreadBy::key`]; `None`: to none.
    pub thread: Option<String>,
}

/// Who said how urgent a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SeverityFrom {
    /// `severity` of the rule.
    Rule,
    /// `defaults.severity` of the rules file.
    Defaults,
    /// The catalogue, for the event's key.
    Catalogue,
    /// Nobody: the key is not in the catalogue, so it is info.
    UnknownKey,
}

impl fmt::Display for SeverityFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule => "rule",
            Self::Defaults => "defaults",
            Self::Catalogue => "event catalogue",
            Self::UnknownKey => "unknown key",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// The rule that drops, or [`RuleName::UNROUTED`].
    #[serde(serialize_with = "as_text")]
    pub rule: RuleName,
    pub reason: String,
}

impl RuleSet {
    /// Builds the index: some 10 ms for ten thousand rules, 0.1 s for a hundred thousand. Names must be unique, and none may be
    /// [`RuleName::UNROUTED`]; of equal ones [`rule`](Self::rule) finds the first. Without a default severity, events of
    /// rules that name none have the one that the catalogue gives their key.
    pub fn new(rules: Vec<Rule>, unrouted: Action, default_severity: impl Into<Option<Severity>>) -> Self {
        let default_severity = default_severity.into();
        let by_name = rules.iter().enumerate().rev().map(|(at, rule)| (rule.name.clone(), at)).collect();
        let (mut conditions, mut actions) = (HashMap::new(), HashMap::new());
        let steps = rules.iter().zip(0..).map(|(rule, at)| Step {
            keys: rule.keys.as_ref().map(|keys| keys.filter().clone()).unwrap_or_default(),
            name: rule.name.clone(),
            conditions: *conditions.entry(&rule.conditions).or_insert(at),
            action: *actions.entry(&rule.action).or_insert(at),
            severity: said(rule.severity, default_severity),
            ends_reading: rule.ends_reading(),
            conditional: !rule.conditions.is_empty(),
            groups: rule.batch.is_some() || rule.thread_by.is_some(),
        });
        Self {
            index: Index::new(&rules),
            by_name,
            steps: steps.collect(),
            rules,
            unrouted,
            unrouted_name: RuleName::UNROUTED.into(),
            default_severity,
        }
    }

    pub fn route(&self, event: &Event) -> Route {
        let candidates = self.index.candidates(event.key.as_str());
        self.read(event, candidates, |_| ())
    }

    /// The same reading, of every rule, with what became of each.
    pub fn explain(&self, event: &Event) -> Explanation {
        let mut checks = Vec::new();
        let route = self.read(event, 0..self.rules.len(), |check| checks.push(check.map_err(WhyNot::from)));
        Explanation::new(self, checks, route)
    }

    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.by_name.get(name).map(|&at| &self.rules[at])
    }

    /// In the order in which they are read.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub fn unrouted(&self) -> &Action {
        &self.unrouted
    }

    /// What the rules file gives rules that name none.
    pub fn default_severity(&self) -> Option<Severity> {
        self.default_severity
    }

    /// How urgent an event is by this rule, and who says so.
    pub fn severity(&self, rule: Option<&Rule>, key: &str) -> (Severity, SeverityFrom) {
        said(rule.and_then(|rule| rule.severity), self.default_severity).unwrap_or_else(|| usual(key))
    }

    /// Reads these rules until one ends the reading. `saw` hears of each rule read, in order.
    fn read<'a>(
        &'a self,
        event: &'a Event,
        rules: impl IntoIterator<Item = usize>,
        mut saw: impl FnMut(Result<(), Mismatch<'a>>),
    ) -> Route {
        let mut route = Route::default();
        let mut unrouted = true;
        let key = event.key.as_str();
        for at in rules {
            let step = &self.steps[at];
            let check = self.check(at, event);
            let matches = check.is_ok();
            saw(check);
            if matches {
                unrouted = false;
                let groups = step.groups.then(|| &self.rules[at]);
                let batch = groups.and_then(|rule| rule.batch.as_ref()).map(|batch| batch.group(event));
                let thread = groups.and_then(|rule| rule.thread_by.as_ref()).map(|by| by.key(&step.name, event));
                let severity = || step.severity.unwrap_or_else(|| usual(key));
                let with = (batch.as_ref(), thread.as_deref());
                route.add(&self.rules[step.action as usize].action, &step.name, severity, with);
                if step.ends_reading {
                    break;
                }
            }
        }
        if unrouted {
            route.add(&self.unrouted, &self.unrouted_name, || self.severity(None, key), (None, None));
        }
        route
    }

    fn check<'a>(&'a self, at: usize, event: &'a Event) -> Result<(), Mismatch<'a>> {
        let step = &self.steps[at];
        if !step.keys.matches(event.key.as_str()) {
            return Err(Mismatch::Key(&self.rules[at], event));
        }
        let conditions: &[_] = if step.conditional { &self.rules[step.conditions as usize].conditions } else { &[] };
        match conditions.iter().find(|condition| !condition.matches(event)) {
            Some(condition) => Err(Mismatch::Field { condition, found: event.field(condition.field()) }),
            None => Ok(()),
        }
    }
}

impl Rule {
    /// Whether no rule below is read once this one matched.
    pub fn ends_reading(&self) -> bool {
        self.stop || matches!(self.action, Action::Drop { .. })
    }
}

/// The first thing that keeps a rule from matching. Borrowed: on the daemon's path it is made and thrown away.
enum Mismatch<'a> {
    Key(&'a Rule, &'a Event),
    Field { condition: &'a Condition, found: Option<&'a Value> },
}

/// What the rules file says of a severity.
fn said(rule: Option<Severity>, default: Option<Severity>) -> Option<(Severity, SeverityFrom)> {
    let by_rule = rule.map(|severity| (severity, SeverityFrom::Rule));
    by_rule.or_else(|| default.map(|severity| (severity, SeverityFrom::Defaults)))
}

/// What the catalogue says.
fn usual(key: &str) -> (Severity, SeverityFrom) {
    let known = catalogue::find(key);
    known.map_or((Severity::Info, SeverityFrom::UnknownKey), |known| (known.severity, SeverityFrom::Catalogue))
}

impl Route {
    /// `with` is the batch, and the thread.
    fn add(
        &mut self,
        action: &Action,
        rule: &RuleName,
        severity: impl Fn() -> (Severity, SeverityFrom),
        with: (Option<&Grouped>, Option<&str>),
    ) {
        match action {
            Action::Send(destinations) => {
                for destination in destinations {
                    if !self.owed.iter().any(|owed| owed.destination == *destination) {
                        let (severity, severity_from) = severity();
                        let (destination, rule) = (destination.clone(), rule.clone());
                        let (batch, thread) = (with.0.cloned(), with.1.map(str::to_owned));
                        self.owed.push(Owed { destination, rule, severity, severity_from, batch, thread });
                    }
                }
            }
            Action::Drop { reason } => self.dropped = Some(Dropped { rule: rule.clone(), reason: reason.clone() }),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleSet").field("rules", &self.rules).field("unrouted", &self.unrouted).finish_non_exhaustive()
    }
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};
    use serde_json::json;

    use super::*;

    fn keys(patterns: &[&str]) -> Option<KeyPatterns> {
        (!patterns.is_empty()).then(|| KeyPatterns::parse(patterns).unwrap())
    }

    fn send(destinations: &[&str]) -> Action {
        Action::Send(destinations.iter().map(|&name| name.into()).collect())
    }

    fn drop_for(reason: &str) -> Action {
        Action::Drop { reason: reason.to_owned() }
    }

    fn rule(name: &str, patterns: &[&str], conditions: &[(&str, &[&str])], action: Action) -> Rule {
        Rule {
            name: name.into(),
            keys: keys(patterns),
            conditions: conditions.iter().map(|(field, list)| Condition::parse(field, list).unwrap()).collect(),
            severity: None,
            action,
            stop: false,
            template: None,
            runbook: None,
            batch: None,
            thread_by: None,
            mention: None,
            place: Place { file: "rules.yaml".into(), line: 1 },
        }
    }

    fn event(key: &str, fields: Value) -> Event {
        let mut body = json!({"event_id": "1", "key": key});
        let Value::Object(fields) = fields else { panic!("fields are an object") };
        body.as_object_mut().unwrap().extend(fields);
        Event::from_value(body).unwrap()
    }

    /// `destination<rule/severity …`, then what was dropped.
    fn told(route: &Route) -> String {
        let owed = route.owed.iter().map(|owed| format!("{}<{}/{}", owed.destination, owed.rule, owed.severity));
        let dropped = route.dropped.iter().map(|dropped| format!("{} drops: {}", dropped.rule, dropped.reason));
        owed.chain(dropped).collect::<Vec<_>>().join(" ")
    }

    fn rules() -> RuleSet {
        let critical = Rule {
            severity: Some(Severity::Critical),
            ..rule("pci", &["pci-report-*"], &[("expires_in_days", &["<=14"])], send(&["slack", "mail"]))
        };
        let stopper =
            Rule { stop: true, ..rule("ports", &["firewall-port-*"], &[("port", &["22"])], send(&["teams"])) };
        let rules = vec![
            rule("certificates", &["website-cert-*", "!website-cert-new-issuer"], &[], send(&["slack"])),
            critical,
            rule("everything-pci", &["pci-*"], &[], send(&["mail", "archive"])),
            stopper,
            rule("scan-chatter", &["*-scan-{start,finish}"], &[], drop_for("on the dashboard")),
            rule("production", &[], &[("target", &["*.example.org"])], send(&["teams"])),
            rule("hosts", &["!website-*"], &[("target", &["-"])], send(&["archive"])),
        ];
        RuleSet::new(rules, send(&["catch-all"]), Severity::Low)
    }

    #[test]
    fn routes() {
        let cases = [
            ("website-cert-risk", json!({"target": "x"}), "slack<certificates/low"),
            ("website-cert-new-issuer", json!({"target": "x"}), "catch-all<unrouted/low"),
            ("website-cert-risk", json!({"target": "a.example.org"}), "slack<certificates/low teams<production/low"),
            (
                "pci-report-due",
                json!({"expires_in_days": 7, "target": "x"}),
                "slack<pci/critical mail<pci/critical archive<everything-pci/low",
            ),
            ("pci-report-due", json!({"expires_in_days": "30"}), "mail<everything-pci/low archive<everything-pci/low"),
            ("firewall-port-add", json!({"port": 22, "target": "a.example.org"}), "teams<ports/low"),
            ("firewall-port-add", json!({"port": 80, "target": "a.example.org"}), "teams<production/low"),
            ("target-scan-start", json!({"target": "a.example.org"}), "scan-chatter drops: on the dashboard"),
            ("new-thing", json!({}), "archive<hosts/low"),
            ("website-new", json!({}), "catch-all<unrouted/low"),
        ];
        let rules = rules();
        for (key, fields, expected) in cases {
            let event = event(key, fields);
            assert_eq!(told(&rules.route(&event)), expected, "{event:?}");
            assert_eq!(rules.explain(&event).route, rules.route(&event));
        }
    }

    #[test]
    fn who_says_how_urgent() {
        let urgent = Rule { severity: Some(Severity::Low), ..rule("low", &["pci-*"], &[], send(&["slack"])) };
        let rules = || vec![urgent.clone(), rule("rest", &["website-*", "new-*"], &[], send(&["slack"]))];
        let cases = [
            ("pci-report-expire-past", None, Severity::Low, SeverityFrom::Rule),
            ("pci-report-expire-past", Some(Severity::High), Severity::Low, SeverityFrom::Rule),
            ("website-cert-expired", Some(Severity::High), Severity::High, SeverityFrom::Defaults),
            ("website-cert-expired", None, Severity::Critical, SeverityFrom::Catalogue),
            ("website-cert-new-issuer", None, Severity::Low, SeverityFrom::Catalogue),
            ("new-kind", None, Severity::Info, SeverityFrom::UnknownKey),
            // Unrouted.
            ("firewall-port-add", None, Severity::High, SeverityFrom::Catalogue),
            ("firewall-port-add", Some(Severity::Low), Severity::Low, SeverityFrom::Defaults),
            ("brand-new", None, Severity::Info, SeverityFrom::UnknownKey),
        ];
        for (key, default, severity, from) in cases {
            let rules = RuleSet::new(rules(), send(&["catch-all"]), default);
            let owed = rules.route(&event(key, json!({}))).owed.remove(0);
            assert_eq!((owed.severity, owed.severity_from), (severity, from), "{key} {default:?}");
            assert_eq!(rules.severity(rules.rule(owed.rule.as_str()), key), (severity, from), "{key} {default:?}");
        }
    }

    #[test]
    fn a_drop_keeps_what_is_owed_and_ends_the_reading() {
        let rules = vec![
            rule("first", &["a"], &[], send(&["slack", "slack"])),
            rule("second", &["a"], &[], drop_for("enough")),
            rule("third", &["a"], &[], send(&["mail"])),
        ];
        let rules = RuleSet::new(rules, drop_for("nobody asked"), Severity::Info);
        assert_eq!(told(&rules.route(&event("a", json!({})))), "slack<first/info second drops: enough");
        assert_eq!(told(&rules.route(&event("b", json!({})))), "unrouted drops: nobody asked");
    }

    #[test]
    fn the_rule_that_tells_also_gathers_and_names_the_thread() {
        let batch = |by: &str| Some(Batch { by: vec![by.to_owned()], wait: Duration::from_secs(30), max: 50 });
        let thread = |by: &str| Some(ThreadBy { by: vec![by.to_owned()] });
        let rules = vec![
            Rule { batch: batch("target"), ..rule("first", &["a"], &[], send(&["slack"])) },
            Rule {
                batch: batch("port"),
                thread_by: thread("target"),
                ..rule("second", &["a"], &[], send(&["slack", "teams", "pager"]))
            },
            Rule { thread_by: thread("port"), ..rule("third", &["{a,b}"], &[], send(&["teams", "mail"])) },
        ];
        let rules = RuleSet::new(rules, send(&["catch-all"]), Severity::Info);
        let groups = |key: &str| {
            let route = rules.route(&event(key, json!({"target": "x", "port": 22})));
            route.owed.into_iter().map(|owed| owed.batch.map(|batch| batch.group)).collect::<Vec<_>>()
        };
        let (x, port) = (Some(r#"["x"]"#.to_owned()), Some(r#"["22"]"#.to_owned()));
        assert_eq!(groups("a"), [x, port.clone(), port, None]);
        assert_eq!(groups("b"), [None, None]);
        let threads = |key: &str, target: &str| {
            let route = rules.route(&event(key, json!({"target": target, "port": 22})));
            route.owed.into_iter().map(|owed| owed.thread).collect::<Vec<_>>()
        };
        // Of the first rule none; of the second the same for each destination; the third's is its own, and not the target's.
        let [None, Some(second), Some(same), Some(third)] = &threads("a", "x")[..] else { panic!("other threads") };
        assert!(second == same && second != third);
        assert_eq!(threads("b", "y"), [Some(third.clone()), Some(third.clone())]);
        assert_ne!(threads("a", "y")[1].as_ref(), Some(second));
        assert_eq!(threads("c", "x"), [None]);
    }

    #[test]
    fn a_set_without_rules_leaves_all_to_unrouted() {
        let rules = RuleSet::new(Vec::new(), send(&["catch-all"]), Severity::High);
        assert_eq!(told(&rules.route(&event("a", json!({})))), "catch-all<unrouted/high");
    }

    #[test]
    fn rules_are_found_by_name() {
        let rules = rules();
        assert_eq!(rules.rule("pci").map(|rule| rule.severity), Some(Some(Severity::Critical)));
        assert!(rules.rule("unrouted").is_none());
        assert_eq!(rules.rules().len(), 7);
    }

    /// What the file says, with neither index nor shared reading.
    fn reference(rules: &RuleSet, event: &Event) -> (Vec<RuleName>, Route) {
        let (mut matched, mut route) = (Vec::new(), Route::default());
        for rule in rules.rules() {
            let key = rule.keys.as_ref().is_none_or(|keys| keys.matches(event.key.as_str()));
            if !key || !rule.conditions.iter().all(|condition| condition.matches(event)) {
                continue;
            }
            matched.push(rule.name.clone());
            match &rule.action {
                Action::Drop { reason } => {
                    route.dropped = Some(Dropped { rule: rule.name.clone(), reason: reason.clone() });
                    break;
                }
                Action::Send(destinations) => {
                    for destination in destinations {
                        if route.owed.iter().all(|owed| owed.destination != *destination) {
                            let (severity, severity_from) = match rule.severity {
                                Some(severity) => (severity, SeverityFrom::Rule),
                                None => (Severity::Medium, SeverityFrom::Defaults),
                            };
                            let (destination, rule) = (destination.clone(), rule.name.clone());
                            let batch = rules
                                .rule(rule.as_str())
                                .and_then(|rule| rule.batch.as_ref())
                                .map(|batch| batch.group(event));
                            let found = rules.rule(rule.as_str()).and_then(|rule| rule.thread_by.as_ref());
                            let thread = found.map(|by| by.key(&rule, event));
                            route.owed.push(Owed { destination, rule, severity, severity_from, batch, thread });
                        }
                    }
                }
            }
            if rule.stop {
                break;
            }
        }
        if matched.is_empty() {
            route.dropped = Some(Dropped { rule: RuleName::UNROUTED.into(), reason: "none".to_owned() });
        }
        (matched, route)
    }

    const KEYS: [&str; 8] = ["a", "ab", "a-b", "b-a", "aa-bb", "web-a", "web-b", "b"];
    const PATTERNS: [&str; 19] = [
        "*",
        "a*",
        "*a",
        "*-*",
        "a",
        "ab",
        "{a,b}",
        "{a-,web-}*",
        "web-?",
        "?",
        "[ab]*",
        "*b*",
        "a-{b,}",
        // Too long to be kept in place.
        "{a,web}-{a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t}",
        "!a*",
        "!*-b",
        "!ab",
        "!{a,b}",
        "!?",
    ];

    fn any_rule() -> impl Strategy<Value = Rule> {
        let conditions = select(vec![
            ("n", vec!["5"]),
            ("n", vec!["!5"]),
            ("n", vec!["1-4", "-"]),
            ("s", vec!["x*"]),
            ("s", vec!["-"]),
            ("s", vec!["~y", "!xy"]),
        ]);
        let destinations = subsequence(vec!["d1", "d2", "d3"], 1..=3).prop_map(|names| send(&names));
        let action = prop_oneof![5 => destinations, 1 => Just(drop_for("why"))];
        let severity = prop::option::of(select(Severity::ALL.to_vec()));
        (
            prop::collection::vec(select(PATTERNS.to_vec()), 0..4),
            prop::collection::vec(conditions, 0..3),
            (action, prop::bool::weighted(0.15), severity, prop::bool::weighted(0.2)),
        )
            .prop_map(|(patterns, conditions, (action, stop, severity, threads))| {
                let conditions: Vec<_> = conditions.iter().map(|(field, list)| (*field, list.as_slice())).collect();
                let thread_by = threads.then(|| ThreadBy { by: vec!["s".to_owned()] });
                Rule { severity, stop, thread_by, ..rule("", &patterns, &conditions, action) }
            })
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let numbers = select(vec![json!(null), json!(5), json!("3"), json!([1, 5]), json!("none")]);
        let texts = select(vec![json!(""), json!("x"), json!("xy"), json!("Y"), json!({"s": "x"})]);
        (select(KEYS.to_vec()), numbers, texts).prop_map(|(key, n, s)| event(key, json!({"n": n, "s": s})))
    }

    proptest! {
        #[test]
        fn explain_is_route_is_the_plain_reading(
            rules in prop::collection::vec(any_rule(), 0..12),
            events in prop::collection::vec(any_event(), 1..8),
        ) {
            let named = rules.into_iter().enumerate();
            let rules = named.map(|(at, rule)| Rule { name: format!("r{at}").as_str().into(), ..rule }).collect();
            let rules = RuleSet::new(rules, drop_for("none"), Severity::Medium);
            for event in events {
                let (matched, route) = reference(&rules, &event);
                prop_assert_eq!(&rules.route(&event), &route);
                let explanation = rules.explain(&event);
                prop_assert_eq!(&explanation.route, &route);
                prop_assert_eq!(explanation.rules.len(), rules.rules().len());
                let explained = explanation.rules.iter().filter(|rule| matches!(rule.verdict, Verdict::Matched { .. }));
                prop_assert_eq!(explained.map(|rule| rule.rule.clone()).collect::<Vec<_>>(), matched.clone());
                prop_assert_eq!(explanation.unrouted.is_some(), matched.is_empty());
                // Each destination is owed by exactly the rule that the route names.
                for rule in &explanation.rules {
                    let Verdict::Matched { effect: Effect::Send { to }, .. } = &rule.verdict else { continue };
                    for told in to {
                        let owed = route.owed.iter().find(|owed| owed.destination == told.destination);
                        prop_assert_eq!(owed.map(|owed| &owed.rule), Some(told.already.as_ref().unwrap_or(&rule.rule)));
                    }
                }
            }
        }
    }
}
