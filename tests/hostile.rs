//! Hostile events through every channel, by the oracle that the fuzzer has: what the fuzzer kept (`fuzz/corpus`), and some
//! thousands of random ones.
//!
//! `FUZZ_RUNS=10000000 cargo test --release --test hostile -- --nocapture` runs as many for each channel, on all processors.

#![expect(clippy::print_stdout, reason = "a long run says how far it came")]

#[expect(unreachable_pub, reason = "the fuzzer's own crate needs it")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use fuzz::{CHANNELS, check};

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[test]
fn what_the_fuzzer_kept() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for channel in CHANNELS {
        let mut count = 0;
        for kept in fs::read_dir(corpus.join(channel.name)).unwrap() {
            check(channel.name, &fs::read(kept.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "{}: nothing is kept", channel.name);
    }
}

#[test]
fn random_ones() {
    let asked = std::env::var("FUZZ_RUNS").ok().map(|runs| runs.replace('_', "").parse::<u64>().unwrap());
    let (runs, seed) = asked.map_or((1_000, 7), |runs| (runs, fastrand::u64(..)));
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let only = std::env::var("FUZZ_CHANNEL").ok();
    for channel in CHANNELS.into_iter().filter(|channel| only.as_ref().is_none_or(|only| only == channel.name)) {
        // What harmless messages are like is learned first, and not counted.
        check(channel.name, &[]);
        let (start, left) = (Instant::now(), AtomicU64::new(runs));
        thread::scope(|scope| {
            for number in 0..threads {
                let left = &left;
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(number));
                    let mut bytes = Vec::new();
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                        bytes.resize(random.usize(..250), 0);
                        random.fill(&mut bytes);
                        check(channel.name, &bytes);
                    }
                });
            }
        });
        if asked.is_some() {
            let rate = u128::from(runs) * 1_000 / start.elapsed().as_millis().max(1);
            println!("{}: {runs} messages, {rate} a second on {threads} processors, seed {seed}", channel.name);
        }
    }
}
