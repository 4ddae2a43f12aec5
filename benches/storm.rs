//! A storm of events on the relay as a whole, beside what this machine can do: `cargo bench --bench storm`.
//!
//! A million events (`EVENTS=…` for another number) are posted in arrays of 100 while their destination takes nothing, so
//! that all of them wait; then the relay is killed and started again with that backlog. A second run has limits, so that the
//! backlog is told by digests. Memory is the most the process ever had (`VmHWM`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark may panic and tell"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[path = "support/load.rs"]
mod load;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/scene.rs"]
mod scene;

use load::{Receiver, post_all};
use machine::{fdatasync, millis, rate};
use scene::{Relay, Scene};

const ARRAY: usize = 100;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let events: usize = std::env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let receiver = Receiver::start().await;
    println!("the machine's own limits");
    println!("  fdatasync of 4 KiB                     {:>9.3} ms median", millis(fdatasync()));
    let straight = post_all(receiver.address, "/x", events.min(200_000), ARRAY).await;
    println!("  the same arrays to a receiver that only reads {:>9.0} events/s", rate(events.min(200_000), straight));

    println!("{events} events while their destination is down");
    receiver.open(false);
    let scene = Scene::new(receiver.address, "", "send: [sink]");
    let (relay, log) = (scene.start(), LogSize::of(&scene));
    let took = post_all(relay.webhook().await, "/hooks/halo", events, ARRAY).await;
    println!("  accepted, each after an fsync          {:>9.0} /s", rate(events, took));
    tell(&relay, &scene, &log);
    drop(relay);
    for round in ["the backlog", "the backlog, again"] {
        killed_and_started(&scene, &log, &receiver, round).await;
    }

    println!("{events} events for a destination with limits (20/1s, digests after 10 s)");
    drop(scene);
    receiver.open(true);
    let scene = Scene::new(receiver.address, ", limit: 20/1s, digest_after: 10s", "send: [sink]");
    let (relay, log) = (scene.start(), LogSize::of(&scene));
    let started = Instant::now();
    let took = post_all(relay.webhook().await, "/hooks/halo", events, ARRAY).await;
    println!("  accepted, each after an fsync          {:>9.0} /s", rate(events, took));
    tell(&relay, &scene, &log);
    let before = receiver.count();
    drained(&relay, events).await;
    println!(
        "  all told, in {:>4} messages after        {:>9.1} s",
        receiver.count() - before,
        started.elapsed().as_secs_f64()
    );
    tell(&relay, &scene, &log);
}

/// Starts the relay on a backlog after a kill, lets some of it out, and kills it again.
async fn killed_and_started(scene: &Scene, log: &LogSize, receiver: &Receiver, what: &str) {
    receiver.open(true);
    let before = receiver.count();
    let started = Instant::now();
    let relay = scene.start();
    relay.webhook().await;
    let ready = started.elapsed();
    receiver.reached(before + 1).await;
    let first = started.elapsed();
    receiver.reached(before + 10_000).await;
    println!("  with {what}: ready after {:.0} ms, first attempt after {:.0} ms", millis(ready), millis(first));
    println!("  10,000 of it sent in                   {:>9.1} s", started.elapsed().as_secs_f64());
    tell(&relay, scene, log);
    receiver.open(false);
}

/// The most that the store's log ever had, in bytes.
struct LogSize(Arc<AtomicU64>);

impl LogSize {
    /// Looks from now on, for as long as this is kept.
    fn of(scene: &Scene) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let (log, most) = (scene.state().join("relay.db-wal"), Arc::downgrade(&bytes));
        tokio::spawn(async move {
            while let Some(most) = most.upgrade() {
                most.fetch_max(std::fs::metadata(&log).map_or(0, |log| log.len()), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self(bytes)
    }
}

/// Waits until all events are delivered, alone or by digests.
async fn drained(relay: &Relay, events: usize) {
    let started = Instant::now();
    let mut told = Duration::ZERO;
    loop {
        let status: serde_json::Value = serde_json::from_str(&relay.get("/api/v1/status").unwrap()).unwrap();
        let counts = &status["deliveries"][0];
        let owed = counts["ready"].as_u64().unwrap() + counts["sending"].as_u64().unwrap();
        if owed == 0 {
            assert!(counts["delivered"].as_u64().unwrap() + counts["folded"].as_u64().unwrap() >= events as u64);
            println!("  told by digests                        {:>9}", counts["folded"]);
            return;
        }
        if started.elapsed() > told + Duration::from_secs(10) {
            told = started.elapsed();
            let (ready, folded, delivered) = (&counts["ready"], &counts["folded"], &counts["delivered"]);
            println!("    after {:.0} s: ready {ready}, folded {folded}, delivered {delivered}", told.as_secs_f64());
        }
        assert!(started.elapsed() < Duration::from_mins(15), "still owed: {counts}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn tell(relay: &Relay, scene: &Scene, log: &LogSize) {
    let started = Instant::now();
    let status = relay.get("/api/v1/status").map_or(0, |status| status.len());
    let took = millis(started.elapsed());
    let store = std::fs::metadata(scene.state().join("relay.db")).map_or(0, |file| file.len());
    println!(
        "  memory at most {:.0} MB; store {:.0} MB, its log at most {:.0} MB; status ({status} bytes) in {took:.0} ms",
        relay.memory_most_mb(),
        store as f64 / 1e6,
        log.0.load(Ordering::Relaxed) as f64 / 1e6,
    );
}
