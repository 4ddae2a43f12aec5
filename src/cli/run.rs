//! `halo-relay run`: the daemon.

use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use rustix::process::getpriority_process;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use super::{Common, Failure, exit, left, output};

use crate::app::{self, Load, Options};
use crate::config::{self, LoadOptions, Secrets};
use crate::telemetry;

#[derive(Debug, Args)]
pub struct Run {
    /// Print messages instead of sending them, and at the end what still waits; needs no secrets of destinations and keeps
    /// nothing
    #[arg(long)]
    dry_run: bool,
}

impl Run {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        telemetry::start_logging(common.log_format, common.log.as_deref())
            .map_err(|error| Failure::new(exit::USAGE, format!("{error:#}")))?;
        let path = common.config.clone();
        let dry_run = self.dry_run;
        let rules = Arc::new(Mutex::new(None));
        let last_rules = Arc::clone(&rules);
        let load: Load = Box::new(move || {
            let destinations = if dry_run { Secrets::Skipped } else { Secrets::Required };
            let config = config::load(&path, &LoadOptions { destinations, ..LoadOptions::default() })?;
            *last_rules.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&config.rules));
            Ok(config)
        });
        // What a dry run would record as delivered was not: it works on a store of its own, gone at its end.
        let scratch = dry_run.then(scratch_dir).transpose()?;
        let state_dir = match &scratch {
            Some(scratch) => scratch.path().to_owned(),
            None => common.state_dir()?,
        };
        runtime()?.block_on(app::run(Options { state_dir, dry_run }, load))?;
        let rules = rules.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (&scratch, rules) {
            (Some(scratch), Some(rules)) => output::say(&left::tell(scratch.path(), &rules)?),
            _ => Ok(()),
        }
    }
}

pub(super) fn scratch_dir() -> Result<tempfile::TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("halo-relay-")
        .tempdir()
        .map_err(|error| Failure::new(exit::FINDINGS, format!("failed to make a temporary directory: {error}")))
}

/// The store's writer has a thread of its own, and most of a core's time under load. With a worker more than there are cores
/// beside that one, threads only get in each other's way.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.saturating_sub(1).max(1))
        .on_thread_start(give_way)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FINDINGS, format!("failed to start the async runtime: {error}")))
}

/// Keeps the calling thread from taking the processor away from another one when it is woken: `SCHED_BATCH`, see
/// <https://man7.org/linux/man-pages/man7/sched.7.html>. The store's writer, which does not do this, tells the lanes of new
/// deliveries just before it asks the disk to sync. Where the system puts both threads on one core, as virtual machines do
/// while little happens, the message would else be made first and the disk asked afterwards. Where it is not allowed, as
/// under a system call filter, that is what happens; nothing else depends on it.
fn give_way() {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    // The crate sets the niceness as well, by a scale of its own: it must stay what it is.
    let same = |nice| {
        let levels = (0..=99).filter_map(|level| ThreadPriorityValue::try_from(level).ok());
        levels.map(ThreadPriority::Crossplatform).find(|level| level.to_posix(policy).is_ok_and(|found| found == nice))
    };
    if let Some(level) = getpriority_process(None).ok().and_then(same) {
        let _ = set_thread_priority_and_policy(thread_native_id(), level, policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields 19 and 41 of `/proc/…/stat`: niceness and scheduling policy.
    fn nice_and_policy() -> (String, String) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        (fields[16].to_owned(), fields[38].to_owned())
    }

    #[test]
    fn threads_of_the_runtime_give_way_and_others_do_not() {
        let Ok(runtime) = runtime() else { panic!("no runtime") };
        let (nice, policy) = nice_and_policy();
        let inside = runtime.block_on(async { tokio::spawn(async { nice_and_policy() }).await.unwrap() });
        assert_eq!(policy, "0", "SCHED_OTHER");
        assert_eq!(inside, (nice, "3".to_owned()), "SCHED_BATCH");
        assert_eq!(nice_and_policy().1, "0", "what is spawned from here, as the writer is, does not give way");
    }
}
