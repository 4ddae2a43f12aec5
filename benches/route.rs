//! What routing one event costs as the number of rules grows: `cargo bench --bench route`.
//!
//! Two sets of keys, because the first alone flatters: `route_familiar` has fourteen, the same at every size, which stay
//! in the processor's caches and come near none of the added rules; `route_spread` has a hundred thousand, each of another
//! added rule, in an order in which neighbours are far apart. With as many rules, each event then needs rules and parts of
//! the index that no event before it needed, and finds them in no cache. The rest of the event is in one, as it is in the
//! daemon, which has just read it.

#![expect(clippy::expect_used, reason = "a bench may stop at its own mistakes")]

use std::time::Instant;

use halo_relay::model::key::KeyPatterns;
use halo_relay::model::{Event, EventKey, Severity};
use halo_relay::routing::{Action, Condition, Place, Rule, RuleSet};
use serde_json::json;

/// As in the daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIZES: [usize; 4] = [10, 1_000, 10_000, 100_000];
/// How many keys `route_spread` has.
const SPREAD: usize = 100_000;
const TURNS: usize = 21;
const FAMILIAR: [&str; 14] = [
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

fn main() {
    divan::main();
    let args: Vec<String> = std::env::args().skip(1).collect();
    // As plain `cargo bench` calls it: not when testing, listing or asked for some only.
    if args == ["--bench"] || args == ["--bench", "ratio"] {
        ratios();
    }
}

/// What matters: by how much an event costs more with many rules than with ten. The sizes take turns, so that whatever else
/// the machine does befalls all alike.
#[expect(clippy::print_stdout, reason = "what the bench is for")]
fn ratios() {
    println!("ns per event, median of {TURNS} turns");
    for (name, spread) in [("familiar", false), ("spread", true)] {
        let keys = |size| if spread { spread_keys(size) } else { familiar_keys() };
        let mut sets = SIZES.map(|size| (rule_set(rules(size)), keys(size), Vec::new()));
        let mut events = familiar_events();
        for _ in 0..TURNS {
            for (rules, keys, turns) in &mut sets {
                let rounds = SPREAD / keys.len();
                let start = Instant::now();
                (0..rounds).for_each(|_| route_all(rules, &mut events, keys));
                turns.push(start.elapsed().as_nanos() / (rounds * keys.len()) as u128);
            }
        }
        let medians = sets.map(|(_, _, mut turns)| {
            turns.sort_unstable();
            turns[TURNS / 2]
        });
        for (size, median) in SIZES.iter().zip(medians) {
            let percent = median * 100 / medians[0];
            println!("{name:>8}, {size:>6} rules: {median:>5} ns, {percent:>3} % of that with ten rules");
        }
    }
}

/// The time is that of all events; divan shows the events of a second below it.
#[divan::bench(args = SIZES)]
fn route_familiar(bencher: divan::Bencher, size: usize) {
    route_keys(bencher, size, familiar_keys());
}

#[divan::bench(args = SIZES, sample_count = 20, sample_size = 1)]
fn route_spread(bencher: divan::Bencher, size: usize) {
    route_keys(bencher, size, spread_keys(size));
}

fn route_keys(bencher: divan::Bencher, size: usize, mut keys: Vec<EventKey>) {
    let (rules, mut events) = (rule_set(rules(size)), familiar_events());
    bencher.counter(keys.len()).bench_local(|| route_all(&rules, &mut events, &mut keys));
}

fn route_all(rules: &RuleSet, events: &mut [Event], keys: &mut [EventKey]) {
    for (number, key) in keys.iter_mut().enumerate() {
        let event = &mut events[number % FAMILIAR.len()];
        std::mem::swap(&mut event.key, key);
        divan::black_box(rules.route(divan::black_box(event)));
        std::mem::swap(&mut event.key, key);
    }
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
        thread_by: None,
        mention: None,
        place: Place { file: "rules.yaml".into(), line: 1 },
    }
}

fn familiar_keys() -> Vec<EventKey> {
    FAMILIAR.map(event_key).into()
}

fn familiar_events() -> Vec<Event> {
    FAMILIAR.iter().enumerate().map(|(number, key)| event(number, key)).collect()
}

/// As many at every size; each is one that the added rule of its number matches, if its conditions hold.
fn spread_keys(size: usize) -> Vec<EventKey> {
    let added = size - 5;
    let keys = (0..SPREAD).map(|number| {
        // The stride has no divisor in common with what the sizes leave.
        let unit = 5 + number * 7_919 % added;
        event_key(&match unit % 10 {
            0..3 => format!("website-unit{unit}-change"),
            5 => format!("domain-unit{unit}-remove"),
            7 => format!("domain-unit{unit}-change"),
            _ => format!("firewall-unit{unit}-change"),
        })
    });
    keys.collect()
}

fn event_key(key: &str) -> EventKey {
    EventKey::new(key).expect("a bench key is a key")
}

fn event(number: usize, key: &str) -> Event {
    let target = format!("host{number}.{}.example.org", if number.is_multiple_of(3) { "prod" } else { "test" });
    let body = json!({"event_id": number, "key": key, "target": {"target": target, "target_id": number},
        "port": 22, "expires_in_days": 7, "detail": "22/tcp"});
    Event::from_value(body).expect("a bench event is an event")
}
