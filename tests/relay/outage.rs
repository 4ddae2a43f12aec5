//! A destination goes down with a backlog and comes back: it is asked only now and then, others do not notice, nothing is
//! lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::http::{Chooser, FakeHttp, Reply, Request};
use crate::support::{Scene, event, eventually};

const BACKLOG: usize = 300;
/// Events that come while it is down.
const MEANWHILE: usize = 300;
const DOWN: Duration = Duration::from_secs(15);
/// Attempts that may reach it while it is down: those under way as it went down, those that found that out, and probes.
const ATTEMPTS_MAX: usize = 60;

#[derive(Default)]
struct Seen {
    down: AtomicBool,
    refused: AtomicUsize,
    taken: Mutex<Vec<String>>,
}

impl Seen {
    fn receiver(self: &Arc<Self>) -> Chooser {
        let seen = Arc::clone(self);
        Box::new(move |request: &Request| {
            if seen.down.load(Ordering::SeqCst) {
                seen.refused.fetch_add(1, Ordering::SeqCst);
                return (Duration::ZERO, Reply::status(503));
            }
            let id = request.json()["data"]["event_id"].as_str().unwrap().to_owned();
            seen.taken.lock().unwrap().push(id);
            // Slow enough for a backlog to be there when it goes down.
            (Duration::from_millis(20), Reply::status(204))
        })
    }

    fn taken(&self) -> usize {
        self.taken.lock().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifteen_seconds_without_a_destination() {
    let [troubled, well] = [Arc::new(Seen::default()), Arc::new(Seen::default())];
    let troubled_fake = FakeHttp::answering(troubled.receiver()).await;
    let well_fake = FakeHttp::answering(well.receiver()).await;
    let scene = Scene::new(&format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  troubled: {{ type: webhook, url: '{}' }}
  well: {{ type: webhook, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [troubled, well] }}
unrouted: {{ drop: nothing else is expected }}
",
        troubled_fake.url("/x"),
        well_fake.url("/y")
    ));
    let relay = scene.start().await;
    let events = |range: std::ops::Range<usize>| json!(range.map(|n| event(n, "issue-add")).collect::<Vec<_>>());
    relay.accept(&events(0..BACKLOG)).await;
    eventually("the destination is at work", || troubled.taken(), |taken| *taken >= 40).await;
    assert!(troubled.taken() < BACKLOG, "it had no backlog to go down with");

    troubled.down.store(true, Ordering::SeqCst);
    let went_down = tokio::time::Instant::now();
    let before = troubled.taken();
    // One event after the other, each of which the other destination takes while this one is down.
    eventually("the backlog of the other", || well.taken(), |taken| *taken == BACKLOG).await;
    for number in BACKLOG..BACKLOG + MEANWHILE {
        relay.accept(&event(number, "issue-add")).await;
        eventually("the other destination's message", || well.taken(), |taken| *taken > number).await;
    }
    assert_eq!(troubled.taken(), before, "it was not down");
    tokio::time::sleep_until(went_down + DOWN).await;
    let refused = troubled.refused.load(Ordering::SeqCst);
    troubled.down.store(false, Ordering::SeqCst);
    relay.idle().await;
    println!("{refused} attempts reached it while it was down");
    assert!((1..=ATTEMPTS_MAX).contains(&refused), "{refused} attempts while it was down");

    for (name, seen) in [("troubled", &troubled), ("well", &well)] {
        let taken = seen.taken.lock().unwrap();
        let expected: BTreeSet<_> = (0..BACKLOG + MEANWHILE).map(|n| format!("event-{n}")).collect();
        let found: BTreeSet<_> = taken.iter().cloned().collect();
        assert_eq!((taken.len(), &found), (expected.len(), &expected), "{name}");
    }
    let status = relay.status().await;
    let counts: BTreeMap<_, _> =
        status["deliveries"].as_array().unwrap().iter().map(|of| (of["name"].as_str().unwrap(), of)).collect();
    assert_eq!(counts["troubled"]["dead"], 0, "{status:#}");
    relay.stop().await;
}
