//! The relay as a whole, beside what this machine can do at all, in one run: `cargo bench --bench relay`.
//!
//! The load generator and the receiver are as thin as they can be (plain sockets, no HTTP library) and run on the same
//! cores. Numbers of shared machines vary; the ratios are what to compare.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark may panic and tell"
)]

use std::time::{Duration, Instant};

#[path = "support/load.rs"]
mod load;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/scene.rs"]
mod scene;

use load::{CONNECTIONS, Receiver, post_all};
use machine::{fdatasync, millis, rate};
use scene::Scene;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let events: usize = std::env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    println!("the machine's own limits");
    let sync = fdatasync();
    println!("  fdatasync of 4 KiB                     {:>9.3} ms median", millis(sync));
    let receiver = Receiver::start().await;
    let raw = post_all(receiver.address, "/x", events, 1).await;
    println!("  POST straight to the receiver          {:>9.0} /s over {CONNECTIONS} connections", rate(events, raw));

    println!("at rest");
    let started = Instant::now();
    let scene = Scene::new(receiver.address, "", "send: [sink]");
    let relay = scene.start();
    relay.webhook().await;
    println!("  from start to ready, new store         {:>9.0} ms", millis(started.elapsed()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("  memory, idle                           {:>9.1} MB", relay.memory_mb());
    drop(relay);

    println!("intake only (a rule drops everything)");
    let scene = Scene::new(receiver.address, "", "drop: bench");
    let relay = scene.start();
    let webhook = relay.webhook().await;
    let single = post_all(webhook, "/hooks/halo", events, 1).await;
    println!(
        "  one event a POST                       {:>9.0} /s  {:.2} of raw",
        rate(events, single),
        ratio(raw, single)
    );
    let batched = post_all(webhook, "/hooks/halo", events * 5, 100).await;
    println!("  100 events a POST                      {:>9.0} /s", rate(events * 5, batched));
    drop(relay);

    println!("end to end, one event a POST in, one a POST out");
    let scene = Scene::new(receiver.address, "", "send: [sink]");
    let relay = scene.start();
    let webhook = relay.webhook().await;
    let before = receiver.count();
    let cpu = relay.cpu();
    let started = Instant::now();
    let took = post_all(webhook, "/hooks/halo", events, 1).await;
    receiver.reached(before + events).await;
    let whole = started.elapsed();
    println!("  accepted                               {:>9.0} /s", rate(events, took));
    println!(
        "  delivered                              {:>9.0} /s  {:.2} of raw",
        rate(events, whole),
        ratio(raw, whole)
    );
    println!(
        "  relay CPU                              {:>9.1} s per 100,000",
        (relay.cpu() - cpu) * 1e5 / events as f64
    );
    println!("  memory after                           {:>9.1} MB", relay.memory_mb());
}

fn ratio(reference: Duration, span: Duration) -> f64 {
    reference.as_secs_f64() / span.as_secs_f64()
}
