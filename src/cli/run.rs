//! `halo-relay run`: the daemon.

use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;

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
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FINDINGS, format!("failed to start the async runtime: {error}")))
}
