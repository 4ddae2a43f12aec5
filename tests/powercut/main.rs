//! The power fails, and nothing that was acknowledged is lost.
//!
//! The real binary runs under a shim that writes down every change of its files, every sync, and every message that leaves
//! it (`shim.c`). From that log, the directory is rebuilt as a disk might hold it if the power had failed at some moment
//! (`disk.rs` says what may be lost), and must hold all that was told to others before that moment (`check.rs`). On some of
//! these directories the real binary is started again; what it owes must arrive, under the ids it had before. Its recovery
//! is written down too, and the power fails in that as well.
//!
//! ```text
//! cargo test --test powercut                                       a few hundred cuts
//! POWER_CUTS=10000 cargo test --test powercut -- --nocapture       as many as wanted
//! POWER_CUT_SEED=…                                                 the same choices once more
//! ```
//!
//! The seed chooses the load, the moments and the losses. The run itself depends on the machine's timing, so that the same
//! seed makes a similar log and not the same one; the first directory that fails is therefore kept in `target/tmp`.
//! `.ci/sabotage` shows that these tests can fail: it breaks the store in three ways, and each must be found.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and tell")]

#[path = "../support/http.rs"]
mod http;

mod check;
mod disk;
mod log;
mod relay;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use tokio::runtime::Runtime;

use check::{Facts, Rows, UNDER_WAY_MAX, open_as_the_relay_does};
use disk::{Disk, Image, Loss};
use halo_relay::store::FILE_NAME;
use log::Record;
use relay::{Load, Place, Recording};

/// Without `POWER_CUTS`.
const CUTS: usize = 300;
/// For each first run, and for each start on what a cut has left.
const CUTS_PER_RECORDING: usize = 2_500;
const CUTS_PER_RECOVERY: usize = 500;
const RECOVERIES_MIN: usize = 2;
/// Long enough for several checkpoints.
const LOAD: Load = Load { senders: 6, requests: 80, shared_every: 10 };
/// Beside what a cut has left over.
const LOAD_AFTER_A_CUT: Load = Load { senders: 3, requests: 8, shared_every: 4 };

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let cuts = number("POWER_CUTS").map_or(CUTS, |cuts| usize::try_from(cuts).unwrap());
    let seed = number("POWER_CUT_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("POWER_CUT_SEED={seed}");
    let mut trial = Trial::new(seed);
    let started = Instant::now();
    let mut left = cuts;
    while left > 0 {
        let some = left.min(CUTS_PER_RECORDING);
        trial.round(some);
        left -= some;
    }
    let (Counts { cuts, failed, .. }, seconds) = (&trial.counts, started.elapsed().as_secs());
    // Past the capture of passing tests' output: these numbers are what the test is for.
    writeln!(std::io::stdout(), "power cuts: {failed} of {cuts} cut points failed, {seconds} s: {:?}", trial.counts)
        .unwrap();
    assert!(trial.complaints.is_empty(), "{failed} of {cuts} cut points failed, seed {seed}:\n{}", trial.told());
}

#[derive(Clone, Copy)]
struct Plan {
    cuts: usize,
    /// Of the cuts, those after which the real binary is started.
    runs: usize,
    /// Cuts in each of those recoveries.
    inner: usize,
}

#[derive(Debug, Default)]
struct Counts {
    cuts: usize,
    failed: usize,
    /// Cuts while some writes to the store's file were not synced.
    in_checkpoints: usize,
    /// Cuts in a recovery from a cut.
    in_recoveries: usize,
    /// Runs of the real binary; what they wrote down, and what they acknowledged.
    runs: usize,
    records: usize,
    acknowledged: usize,
    /// Deliveries that came again after a cut.
    repeats: usize,
}

struct Trial {
    place: Place,
    runtime: Runtime,
    random: fastrand::Rng,
    counts: Counts,
    complaints: Vec<String>,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let random = fastrand::Rng::with_seed(seed);
        Self { place: Place::new(), runtime, random, counts: Counts::default(), complaints: Vec::new() }
    }

    /// A run from nothing, cuts in it, and recoveries from some of these.
    fn round(&mut self, cuts: usize) {
        let recording = self.record(Image::new(), LOAD, "the first run");
        let hits = Hits::of(&recording.log);
        assert!(
            hits.checkpoints > 0 && hits.log_resets > 0,
            "the load is too small for cuts to meet a checkpoint: {hits:?}"
        );
        let runs = RECOVERIES_MIN.max(cuts / CUTS_PER_RECOVERY);
        // A quarter of the cuts is for recoveries.
        let inner = cuts / 4 / runs;
        self.cut(&recording, &Facts::default(), &BTreeMap::new(), Plan { cuts: cuts - inner * runs, runs, inner });
    }

    fn record(&mut self, start: Image, load: Load, what: &str) -> Recording {
        let (recording, wrong) = self.runtime.block_on(self.place.record(start, load, self.random.u64(..)));
        self.counts.runs += 1;
        let mut facts = Facts::default();
        recording.told.iter().for_each(|(_, told)| facts.learn(told));
        self.counts.acknowledged += facts.acknowledged.len();
        self.counts.records += recording.log.len();
        self.complaints.extend(wrong.into_iter().map(|wrong| format!("{what}: {wrong}")));
        recording
    }

    /// Cuts the power at many moments of a recording. `before` is what had been told before it began, and `ids` under which
    /// ids events had been delivered.
    fn cut(&mut self, recording: &Recording, before: &Facts, ids: &BTreeMap<String, String>, plan: Plan) {
        let mut ids = ids.clone();
        for (event, deliveries) in &recording.arrived {
            ids.entry(event.clone()).or_insert_with(|| deliveries[0].clone());
        }
        let mut facts = before.clone();
        let mut told = recording.told.iter().peekable();
        let mut disk = Disk::new(&recording.start, &recording.log);
        let moments = self.moments(recording, plan.cuts);
        for (nth, moment) in moments.into_iter().enumerate() {
            disk.advance(moment);
            while let Some((_, told)) = told.next_if(|(position, _)| *position < moment) {
                facts.learn(told);
            }
            let loss = Loss::EACH[self.random.usize(..Loss::EACH.len())];
            self.counts.in_checkpoints += usize::from(disk.is_unsynced(FILE_NAME));
            self.counts.in_recoveries += usize::from(!recording.start.is_empty());
            let image = disk.after_cut(loss, &mut self.random);
            let what = format!("cut {} at {moment} of {}, {loss:?} lost", self.counts.cuts, recording.log.len());
            let sound = self.check(&image, &facts, &recording.groups, &what);
            // Spread evenly over the cuts.
            if sound && plan.runs > 0 && nth % (plan.cuts / plan.runs).max(1) == plan.cuts / plan.runs / 2 {
                self.recover(image, &facts, &ids, plan, &what);
            }
        }
    }

    /// Where to cut: anywhere; just after something was told; around writes to the file itself, which is where the log is
    /// folded in; and before anything was told, which is where a start recovers. In order.
    fn moments(&mut self, recording: &Recording, cuts: usize) -> Vec<usize> {
        let log = &recording.log;
        let inodes: Vec<u64> = log
            .iter()
            .filter_map(|record| match record {
                Record::Opened { inode, name, .. } if name == FILE_NAME => Some(*inode),
                _ => None,
            })
            .collect();
        let in_file: Vec<usize> = (0..log.len())
            .filter(|position| matches!(&log[*position], Record::Written { inode, .. } if inodes.contains(inode)))
            .collect();
        let first_told = recording.told.first().map_or(log.len(), |(position, _)| *position);
        let random = &mut self.random;
        let mut moments: Vec<usize> = (0..cuts)
            .map(|_| match random.u8(0..5) {
                0 if !recording.told.is_empty() => recording.told[random.usize(..recording.told.len())].0 + 1,
                1 if !in_file.is_empty() => {
                    (in_file[random.usize(..in_file.len())] + random.usize(0..4)).min(log.len())
                }
                2 => random.usize(0..=first_told),
                _ => random.usize(0..=log.len()),
            })
            .collect();
        moments.sort_unstable();
        moments
    }

    /// Opens what a cut has left, and looks for all that must be there. Whether nothing is wrong.
    fn check(&mut self, image: &Image, facts: &Facts, groups: &[Vec<String>], what: &str) -> bool {
        let directory = self.place.lay_out(image);
        let mut wrong = match Rows::read(&directory) {
            Ok(rows) => rows.complaints(facts, groups),
            Err(error) => vec![format!("cannot be read: {error}")],
        };
        wrong.extend(self.runtime.block_on(open_as_the_relay_does(&directory)));
        Place::clear(&directory);
        self.counts.cuts += 1;
        if wrong.is_empty() {
            return true;
        }
        if self.counts.failed == 0 {
            keep(image);
        }
        self.counts.failed += 1;
        self.complaints.push(format!("{what}: {}", wrong.join("; ")));
        false
    }

    /// Starts the real binary on what a cut has left, and cuts the power in that too.
    fn recover(&mut self, image: Image, facts: &Facts, ids: &BTreeMap<String, String>, plan: Plan, what: &str) {
        let recovery = self.record(image, LOAD_AFTER_A_CUT, what);
        let lost =
            facts.acknowledged.iter().filter(|id| !facts.posted.contains(*id) && !recovery.arrived.contains_key(*id));
        let repeats: Vec<_> = recovery.arrived.iter().filter(|(event, _)| facts.posted.contains(*event)).collect();
        let renamed = repeats.iter().filter(|(event, deliveries)| ids.get(*event) != deliveries.first());
        let (lost, renamed) = (lost.count(), renamed.count());
        self.counts.repeats += repeats.len();
        if lost > 0 || renamed > 0 || repeats.len() > UNDER_WAY_MAX {
            let repeats = repeats.len();
            self.complaints.push(format!(
                "{what}, started again: {lost} acknowledged events never arrive, {repeats} repeats, {renamed} of them under a new id"
            ));
        }
        // After one cut in the first recovery, the real binary is started in its turn.
        let runs = usize::from(self.counts.runs == 2);
        self.cut(&recovery, facts, ids, Plan { cuts: plan.inner, runs, inner: 0 });
    }

    /// The first complaints.
    fn told(&self) -> String {
        let more = self.complaints.len().saturating_sub(20);
        format!("{}\n({more} more)", self.complaints[..self.complaints.len().min(20)].join("\n"))
    }
}

/// Keeps the first directory that fails, as it was before anybody opened it.
fn keep(image: &Image) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("powercut-failed");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    for (name, content) in image {
        std::fs::write(directory.join(name), content).unwrap();
    }
    println!("the first directory that fails is kept in {}", directory.display());
}

/// What of interest a log holds for cuts to hit.
#[derive(Debug, Default)]
struct Hits {
    /// Times that the log was folded into the file.
    checkpoints: usize,
    /// Times that the log was begun anew over its old content.
    log_resets: usize,
}

impl Hits {
    fn of(log: &[Record]) -> Self {
        let mut hits = Self::default();
        let mut names = BTreeMap::new();
        let (mut in_checkpoint, mut longest) = (false, 0);
        for record in log {
            match record {
                Record::Opened { inode, name, .. } => _ = names.insert(*inode, name.as_str()),
                Record::Written { inode, offset, data }
                    if names.get(inode).is_some_and(|name| name.ends_with("-wal")) =>
                {
                    hits.log_resets += usize::from(*offset == 0 && longest > 0);
                    longest = longest.max(offset + data.len());
                    in_checkpoint = false;
                }
                Record::Written { inode, .. } if names.get(inode) == Some(&FILE_NAME) => {
                    hits.checkpoints += usize::from(!in_checkpoint);
                    in_checkpoint = true;
                }
                Record::Resized { inode, .. } if names.get(inode).is_some_and(|name| name.ends_with("-wal")) => {
                    longest = 0;
                }
                _ => {}
            }
        }
        hits
    }
}
