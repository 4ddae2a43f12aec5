//! How long an event takes that comes alone, ten a second: `cargo bench --bench latency`.
//!
//! From the first byte of the POST to the relay until the receiver has the message, on this machine's disk, and on one whose
//! fdatasync takes 0.25 ms whatever this machine's takes: a disk and cores that have just rested are slower than busy ones,
//! on a shared machine by much. What the machine takes for its part is measured at the same pace, between the events.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic and tell")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

#[path = "support/load.rs"]
mod load;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/scene.rs"]
mod scene;

use load::{Client, Receiver, event, post_all};
use machine::{Overwritten, fdatasync, millis};
use scene::Scene;

/// Before the clock runs: connections are open, and the log has been around once.
const WARM_UP: usize = 4_000;
const MEASURED: usize = 200;
/// Set in the process that measures a sync under the shim.
const PROBE: &str = "PROBE_DIRECTORY";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if let Some(directory) = std::env::var_os(PROBE) {
        let file = Overwritten::new(Path::new(&directory));
        return line("fdatasync of 32 KiB", paced(file).await);
    }
    let receiver = Receiver::start().await;
    println!("ten events a second");
    println!("  fdatasync of 4 KiB, many in a row      {:>9.2} ms median", millis(fdatasync()));

    println!("on this machine's disk");
    measure(&Scene::new(receiver.address, "", "send: [sink]"), &receiver, None).await;

    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return println!("no /dev/shm to keep a store in memory: the rest is left out");
    }
    println!("on a disk whose fdatasync takes 0.25 ms");
    let scene = Scene::within(memory, receiver.address, "", "send: [sink]");
    let shim = build_shim(&scene);
    let probe = Command::new(std::env::current_exe().unwrap())
        .env(PROBE, scene.directory.path())
        .env("LD_PRELOAD", &shim)
        .status();
    assert!(probe.unwrap().success());
    measure(&scene, &receiver, Some(&shim)).await;
}

async fn measure(scene: &Scene, receiver: &Receiver, shim: Option<&Path>) {
    let relay = scene.start_under(shim);
    let webhook = relay.webhook().await;
    let before = receiver.count();
    post_all(webhook, "/hooks/halo", WARM_UP, 1).await;
    receiver.reached(before + WARM_UP).await;
    let mut client = Client::connect(webhook, "/hooks/halo").await;
    let mut straight = Client::connect(receiver.address, "/x").await;
    // Without a shim, the disk is measured at the same pace, too.
    let mut file = shim.is_none().then(|| Overwritten::new(scene.directory.path()));
    let [mut delivered, mut posted, mut synced] = [const { Vec::new() }; 3];
    for number in 0..MEASURED {
        let started = sent(&mut client, receiver, number).await;
        delivered.push(receiver.last().duration_since(started));
        rest(started).await;
        let started = sent(&mut straight, receiver, number).await;
        posted.push(receiver.last().duration_since(started));
        if let Some(file) = &mut file {
            synced.push(file.synced());
        }
        rest(started).await;
    }
    if !synced.is_empty() {
        line("fdatasync of 32 KiB", synced);
    }
    line("POST straight to the receiver", posted);
    line("POST to delivered", delivered);
}

/// Returns when the sending began, once the message has arrived.
async fn sent(client: &mut Client, receiver: &Receiver, number: usize) -> Instant {
    let before = receiver.count();
    let started = Instant::now();
    client.post(&event(usize::MAX, number)).await;
    receiver.reached(before + 1).await;
    started
}

/// Half of the time between two events.
async fn rest(since: Instant) {
    tokio::time::sleep(Duration::from_millis(50).saturating_sub(since.elapsed())).await;
}

/// Syncs alone, at the pace of the events.
async fn paced(mut file: Overwritten) -> Vec<Duration> {
    let mut spans = Vec::new();
    for _ in 0..MEASURED / 4 {
        spans.push(file.synced());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    spans
}

fn line(what: &str, mut spans: Vec<Duration>) {
    spans.sort_unstable();
    let [p50, p99] = [50, 99].map(|percent| millis(spans[(spans.len() - 1) * percent / 100]));
    println!("  {what:<38} {p50:>9.2} ms p50 {p99:>9.2} ms p99");
}

fn build_shim(scene: &Scene) -> PathBuf {
    let shim = scene.directory.path().join("slow_disk.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/slow_disk.c");
    let built =
        Command::new("cc").args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]).args([&shim, &source]).status();
    assert!(built.unwrap().success(), "a C compiler is needed, as for SQLite");
    shim
}
