//! What routing one event costs as the number of rules grows: `cargo bench --bench route`.
//!
//! Two sets of events, because the first alone flatters: `route_familiar` has fourteen keys, the same at every size, which
//! stay in the processor's caches and come near none of the added rules; `route_spread` has keys from all over the rule
//! set, so that each event needs another part of the index and matches at most one of the added rules.

#![expect(clippy::expect_used, reason = "a bench may stop at its own mistakes")]

use halo_relay::model::key::KeyPatterns;
use halo_relay::model::{Event, Severity};
use halo_relay::routing::{Action, Condition, Place, Rule, RuleSet};
use serde_json::json;

const SIZES: [usize; 4] = [10, 1_000, 10_000, 100_000];

fn main() {
    divan::main();
}

/// The time is that of all events; divan shows the events of a second below it.
#[divan::bench(args = SIZES)]
fn route_familiar(bencher: divan::Bencher, size: usize) {
    route_all(bencher, size, &familiar_events());
}

#[divan::bench(args = SIZES)]
fn route_spread(bencher: divan::Bencher, size: usize) {
    route_all(bencher, size, &spread_events(size));
}

fn route_all(bencher: divan::Bencher, size: usize, events: &[Event]) {
    let rules = rule_set(rules(size));
    bencher.counter(events.len()).bench_local(|| {
        for event in events {
            divan::black_box(rules.route(divan::black_box(event)));
        }
    });
}

/// For comparison: what reading every rule would cost. It also keeps the reasons, which `route` does not.
#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn explain(bencher: divan::Bencher, size: usize) {
    let (rules, events) = (rule_set(rules(size)), familiar_events());
    bencher.counter(events.len()).bench_local(|| {
        for event in &events {
            divan::black_box(rules.explain(divan::black_box(event)));
        }
    });
}

/// Building the index, as at start and at each reload; parsing is not in it.
#[divan::bench(args = SIZES, sample_count = 5, sample_size = 1)]
fn build(bencher: divan::Bencher, size: usize) {
    bencher.with_inputs(|| rules(size)).bench_local_values(rule_set);
}

fn rule_set(rules: Vec<Rule>) -> RuleSet {
    RuleSet::new(rules, Action::Send(vec!["catch-all".into()]), Severity::Info)
}

/// Five rules that match some of the events, and `size - 5` that match none.
fn rules(size: usize) -> Vec<Rule> {
    let core = [
        (vec!["website-cert-*".to_owned(), "!website-cert-new-issuer".to_owned()], vec![]),
        (vec!["pci-report-*".to_owned()], vec![("expires_in_days", "<=14")]),
        (vec!["*-scan-{start,finish}".to_owned()], vec![]),
        (vec!["firewall-port-add".to_owned()], vec![("port", "22,3389")]),
        (vec!["!account-*".to_owned()], vec![("target", "*.prod.example.org")]),
    ];
    let others = (core.len()..size).map(|number| match number % 10 {
        0..3 => (vec![format!("website-unit{number}-*")], vec![]),
        3 | 4 => (vec![format!("*-unit{number}-change")], vec![]),
        5 => (vec![format!("*-unit{number}-{{add,remove}}")], vec![]),
        6 => (vec![format!("*-unit{number}-*")], vec![("target", "*.prod.example.org")]),
        7 => (vec![format!("{{website,domain}}-unit{number}-[a-m]*"), "!*-add".to_owned()], vec![]),
        _ => (vec![format!("firewall-unit{number}-change")], vec![("port", ">=1024")]),
    });
    core.into_iter()
        .chain(others)
        .enumerate()
        .map(|(number, (keys, conditions))| rule(number, &keys, &conditions))
        .collect()
}

fn rule(number: usize, keys: &[String], conditions: &[(&str, &str)]) -> Rule {
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    let conditions = conditions.iter().map(|(field, pattern)| Condition::parse(field, &[pattern]));
    Rule {
        name: format!("rule-{number}").as_str().into(),
        keys: Some(KeyPatterns::parse(&keys).expect("a bench rule has good keys")),
        conditions: conditions.collect::<Result<_, _>>().expect("a bench rule has good conditions"),
        severity: None,
        action: Action::Send(vec![format!("destination-{}", number % 20).as_str().into()]),
        stop: false,
        template: None,
        runbook: None,
        batch: None,
        place: Place { file: "rules.yaml".into(), line: 1 },
    }
}

fn familiar_events() -> Vec<Event> {
    let keys = [
        "website-cert-risk",
        "website-cert-new-issuer",
        "website-form-oos",
        "website-header-monitor-change",
        "pci-report-expire-today",
        "target-scan-start",
        "domain-scan-finish",
        "domain-host-add",
        "firewall-port-add",
        "firewall-banner-change",
        "issue-add",
        "network-ip-remove",
        "account-user-add",
        "a-key-never-seen-before",
    ];
    keys.into_iter().enumerate().map(|(number, key)| event(number, key)).collect()
}

/// As many at every size; each key is one that the added rule of its number matches, if its conditions hold.
fn spread_events(size: usize) -> Vec<Event> {
    let added = size - 5;
    let events = (0..10_000).map(|number| {
        // A stride without a common divisor with the sizes: neighbours in time are far apart in the index.
        let unit = 5 + number * 7_919 % added;
        let key = match unit % 10 {
            0..3 => format!("website-unit{unit}-change"),
            5 => format!("domain-unit{unit}-remove"),
            7 => format!("domain-unit{unit}-change"),
            _ => format!("firewall-unit{unit}-change"),
        };
        event(number, &key)
    });
    events.collect()
}

fn event(number: usize, key: &str) -> Event {
    let target = format!("host{number}.{}.example.org", if number.is_multiple_of(3) { "prod" } else { "test" });
    let body = json!({"event_id": number, "key": key, "target": {"target": target, "target_id": number},
        "port": 22, "expires_in_days": 7, "detail": "22/tcp"});
    Event::from_value(body).expect("a bench event is an event")
}
