//! Hostile events through every channel, by the oracle that the fuzzer has: what the fuzzer kept (`fuzz/corpus`), and some
//! thousands of random ones.
//!
//! `FUZZ_RUNS=10000000 cargo test --release --test hostile -- --nocapture` runs as many for each channel, on all processors.
//! A failure stops nothing: each channel's first few are told at the end, with files of their bytes.

#![expect(clippy::print_stdout, reason = "a long run says how far it came")]

#[expect(unreachable_pub, reason = "the fuzzer's own crate needs it")]
#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use fuzz::{CHANNELS, check, violation};

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
    let mut failed = Vec::new();
    for channel in CHANNELS.into_iter().filter(|channel| only.as_ref().is_none_or(|only| only == channel.name)) {
        // What harmless messages are like is learned first, and not counted.
        check(channel.name, &[]);
        let start = Instant::now();
        let done = Done { left: AtomicU64::new(runs), count: AtomicU64::new(0), failures: Mutex::default() };
        thread::scope(|scope| {
            for number in 0..threads {
                let (done, random) = (&done, fastrand::Rng::with_seed(seed.wrapping_add(number)));
                scope.spawn(move || done.run(channel.name, random));
            }
        });
        let (count, failures) = (done.count.into_inner(), done.failures.into_inner().unwrap());
        if asked.is_some() {
            let rate = u128::from(count) * 1_000 / start.elapsed().as_millis().max(1);
            let failures = failures.len();
            println!(
                "{}: {count} messages, {failures} failures, {rate} a second on {threads} processors, seed {seed}",
                channel.name
            );
        }
        failed.extend(failures);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// How far a channel is.
struct Done {
    left: AtomicU64,
    /// Messages that were rendered and judged.
    count: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Done {
    /// Enough to see whether they have one cause.
    const FAILURES_MAX: usize = 5;

    fn run(&self, channel: &str, mut random: fastrand::Rng) {
        /// Taken at once, so that threads seldom meet.
        const SHARE: u64 = 500;

        let mut bytes = Vec::new();
        let take = |left: u64| (left > 0).then(|| left.saturating_sub(SHARE));
        while let Ok(left) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            for _ in 0..left.min(SHARE) {
                bytes.resize(random.usize(..250), 0);
                random.fill(&mut bytes);
                // Of the two kinds of byte that begin a digest one: it takes as long as several events.
                if let Some(kind) = bytes.first_mut().filter(|kind| **kind % 8 == 5) {
                    *kind &= !7;
                }
                let judged = panic::catch_unwind(|| violation(channel, &bytes));
                self.count.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = judged.unwrap_or_else(|_| Err(": a panic, see above".to_owned())) {
                    let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                    if failures.len() == Self::FAILURES_MAX {
                        return;
                    }
                    failures.push(kept(channel, &error, &bytes));
                }
            }
        }
    }
}

/// Where the bytes of a failure lie; in `fuzz/corpus` they are tried from then on.
fn kept(channel: &str, error: &str, bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{channel}-{:016x}", hasher.finish()));
    match fs::write(&path, bytes) {
        Ok(()) => format!("{channel}{error}\nkeep it: cp {} fuzz/corpus/{channel}/", path.display()),
        Err(_) => format!("{channel}{error}\nof the bytes {bytes:02x?}"),
    }
}
