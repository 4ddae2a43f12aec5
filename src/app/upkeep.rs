//! What is done now and then: old things are let go, and the store is audited.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::Retention;
use crate::store::{Audit, Pruned, Reader, Scope, Store, StoreError, Walk};
use crate::telemetry::Metrics;

const PRUNE_EVERY: Duration = Duration::from_hours(1);
/// Between steps the writer is everybody else's.
const PRUNE_PAUSE: Duration = Duration::from_millis(20);
const SUMS_EVERY: Duration = Duration::from_mins(10);
/// The first time soon enough that a relay which is restarted every day is audited as well.
const AUDIT_AFTER: Duration = Duration::from_mins(15);
const AUDIT_EVERY: Duration = Duration::from_hours(24);
const AUDIT_PAUSE: Duration = Duration::from_millis(5);
/// Findings that are logged one by one; `halo-relay audit` names them all.
const FINDINGS_LOGGED: usize = 20;

pub(super) struct Upkeep {
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    pub state_dir: PathBuf,
    pub retention: watch::Receiver<Retention>,
    pub stop: CancellationToken,
}

/// What the last audits found.
#[derive(Default)]
struct Found {
    whole: u64,
    sums: u64,
}

impl Upkeep {
    pub(super) async fn run(self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.work()).await;
    }

    async fn work(mut self) {
        let mut prune = every(Duration::ZERO, PRUNE_EVERY);
        let mut sums = every(SUMS_EVERY, SUMS_EVERY);
        let mut audit = every(AUDIT_AFTER, AUDIT_EVERY);
        let mut found = Found::default();
        loop {
            tokio::select! {
                _ = prune.tick() => self.prune().await,
                _ = sums.tick() => {
                    let audited = self.audit(Reader::audit_sums).await;
                    self.tell(audited, &mut found, |found| &mut found.sums);
                }
                _ = audit.tick() => {
                    let abandoned = SetOnDrop::default();
                    let stop = Arc::clone(&abandoned.0);
                    let whole = move |reader: &Reader| reader.audit(&Scope { since: None, pause: AUDIT_PAUSE, stop });
                    let audited = self.audit(whole).await;
                    drop(abandoned);
                    self.tell(audited, &mut found, |found| &mut found.whole);
                }
            }
        }
    }

    async fn prune(&mut self) {
        let before = self.clock.now().minus(self.retention.borrow_and_update().ended);
        let (mut walk, mut all) = (Walk::default(), Pruned::default());
        while !walk.is_over() {
            match self.store.prune(&mut walk, before).await {
                Ok(pruned) => {
                    all.deliveries += pruned.deliveries;
                    all.events += pruned.events;
                }
                Err(error) => {
                    tracing::warn!("old deliveries could not be let go, the next round is in an hour: {error}");
                    break;
                }
            }
            sleep(PRUNE_PAUSE).await;
        }
        self.forget_threads().await;
        if all != Pruned::default() {
            let Pruned { deliveries, events } = all;
            tracing::info!("let go {deliveries} deliveries and {events} events that ended before {before}");
        }
    }

    async fn forget_threads(&self) {
        loop {
            match self.store.forget_threads(self.clock.now()).await {
                Ok(0) => return,
                Ok(_) => sleep(PRUNE_PAUSE).await,
                Err(error) => {
                    return tracing::warn!("old threads could not be let go, the next round is in an hour: {error}");
                }
            }
        }
    }

    /// Reads on a connection of its own, for as long as it takes.
    async fn audit(
        &self,
        check: impl FnOnce(&Reader) -> Result<Audit, StoreError> + Send + 'static,
    ) -> Result<Audit, StoreError> {
        let directory = self.state_dir.clone();
        let audited = tokio::task::spawn_blocking(move || check(&Reader::open(&directory)?));
        audited.await.map_err(|_| StoreError::Closed)?
    }

    fn tell(&self, audited: Result<Audit, StoreError>, found: &mut Found, part: impl Fn(&mut Found) -> &mut u64) {
        let audit = match audited {
            Ok(audit) => audit,
            Err(error) => return tracing::warn!("the audit could not be made, the next one will be tried: {error}"),
        };
        *part(found) = audit.imbalance;
        self.metrics.audited(
            found.whole.max(found.sums),
            Duration::from_millis(self.clock.now().as_millis().unsigned_abs()).as_secs_f64(),
        );
        if audit.imbalance == 0 {
            return;
        }
        tracing::error!(
            "the audit found {} imbalances; `halo-relay audit` names them, and what to do",
            audit.imbalance
        );
        for finding in audit.findings.iter().take(FINDINGS_LOGGED) {
            tracing::error!(
                event.id = finding.event.as_deref().unwrap_or("-"),
                delivery.code = finding.code.as_deref().unwrap_or("-"),
                "audit: {}; {}",
                finding.what,
                finding.next
            );
        }
    }
}

/// A thread cannot be cancelled, but told to end: it must not hold up the end of the process.
#[derive(Default)]
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn every(first: Duration, period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + first, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
