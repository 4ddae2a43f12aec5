//! The store alone, beside the disk it stands on, in one run: `cargo bench --bench store`.
//!
//! Every number is of durable steps: each ends when it has been synced. What one sync costs stands beside it, because that is
//! what the numbers are made of.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark may panic and tell"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use halo_relay::clock::Clock;
use halo_relay::model::{DestinationName, Event, Outcome, Report, RuleName, Severity, SourceName};
use halo_relay::store::{Ended, NewDelivery, NewEvent, Settlement, Store, Subscription, Turn};
use serde_json::json;

#[path = "support/machine.rs"]
mod machine;

use machine::{fdatasync, millis, target};

const EVENTS: usize = 20_000;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let directory = tempfile::tempdir_in(target()).unwrap();
    let sync = fdatasync();
    println!("fdatasync of 4 KiB                       {:>9.3} ms median", millis(sync));
    let clock = Clock::start();
    let store = Store::open(directory.path(), clock.now()).unwrap();
    let chat = store.subscribe(&DestinationName::from("chat")).await.unwrap();

    println!("taking events in, each with one delivery");
    let (one, spans) = accept(&store, clock, "one", 1, 1, EVENTS / 20).await;
    report("one at a time", one, EVENTS / 20, sync);
    println!("    p99                                  {:>9.3} ms", millis(spans[spans.len() * 99 / 100]));
    let (many, _) = accept(&store, clock, "many", 16, 1, EVENTS).await;
    report("by 16 at once", many, EVENTS, sync);
    let (hundreds, _) = accept(&store, clock, "hundreds", 16, 100, EVENTS * 5).await;
    report("by 16 at once, 100 in each", hundreds, EVENTS * 5, sync);

    println!("claiming and finishing, with {} waiting", EVENTS / 20 + EVENTS * 6);
    for slots in [1, 32] {
        let rounds = EVENTS / 4 / slots;
        let (took, slowest) = turns(&store, clock, &chat, slots, rounds).await;
        report(&format!("{slots} a turn"), took, rounds * slots, sync);
        println!("    p99 of a turn                        {:>9.3} ms", millis(slowest));
    }
    store.close().await;
}

fn report(what: &str, took: Duration, count: usize, sync: Duration) {
    let each = took.as_secs_f64() / count as f64;
    println!("  {what:<38} {:>9.0} /s  {:.2} syncs each", 1.0 / each, each / sync.as_secs_f64());
}

/// How long it took, and each call's span in order.
async fn accept(
    store: &Store,
    clock: Clock,
    run: &str,
    callers: usize,
    batch: usize,
    events: usize,
) -> (Duration, Vec<Duration>) {
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let (store, run) = (store.clone(), run.to_owned());
        tasks.spawn(async move {
            let mut spans = Vec::new();
            for call in (caller..events / batch).step_by(callers) {
                let events: Arc<[_]> = (0..batch).map(|n| event(&format!("{run}-{}", call * batch + n))).collect();
                let started = Instant::now();
                store.accept(&SourceName::from("bench"), events, clock.now()).await.unwrap();
                spans.push(started.elapsed());
            }
            spans
        });
    }
    let mut spans: Vec<_> = tasks.join_all().await.concat();
    let took = started.elapsed();
    spans.sort_unstable();
    (took, spans)
}

/// Each turn records the last one's answers and claims as many anew. The 99th percentile is of turns.
async fn turns(store: &Store, clock: Clock, lane: &Subscription, slots: usize, rounds: usize) -> (Duration, Duration) {
    let mut ended: Arc<[Ended]> = Arc::new([]);
    let mut spans = Vec::new();
    let started = Instant::now();
    for round in 0..=rounds {
        let claim = if round < rounds { slots } else { 0 };
        let turn = Turn { ended, claim, ..Turn::default() };
        let began = Instant::now();
        let taken = store.turn(lane.outlet, turn, clock.now()).await.unwrap();
        spans.push(began.elapsed());
        assert_eq!(taken.claimed.len(), claim);
        let answers = taken.claimed.into_iter().map(|claimed| Ended {
            claimed,
            at: clock.now(),
            report: Report::new(Outcome::Delivered, Some(200), "HTTP 200"),
            settlement: Settlement::Delivered,
        });
        ended = answers.collect();
    }
    let took = started.elapsed();
    spans.sort_unstable();
    (took, spans[spans.len() * 99 / 100])
}

fn event(id: &str) -> NewEvent {
    let record = json!({
        "event_id": id, "key": "website-form-oos", "subject": "Website Form Out-of-Scope", "target": "www.example.org",
        "host": "forms.example.net", "form_action": "login", "form_method": "post",
    });
    let owed = NewDelivery {
        destination: DestinationName::from("chat"),
        rule: RuleName::from("all"),
        severity: Severity::Info,
        batch: None,
        thread: None,
    };
    NewEvent::new(&Event::from_value(record).unwrap(), vec![owed], None)
}
