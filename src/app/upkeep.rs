//! What is done now and then: old things are let go, and the store is audited.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::{Retention, Timestamp};
use crate::store::{Audit, LastAudit, Pruned, Reader, Scope, Store, StoreError, Walk};
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

impl Found {
    fn most(&self) -> u64 {
        self.whole.max(self.sums)
    }
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
        let mut found = self.last_found().await;
        loop {
            tokio::select! {
                _ = prune.tick() => self.prune().await,
                _ = sums.tick() => {
                    if let Some(imbalance) = self.audit(Reader::audit_sums).await {
                        found.sums = imbalance;
                        self.metrics.audit_found(found.most());
                    }
                }
                _ = audit.tick() => {
                    let abandoned = SetOnDrop::default();
                    let stop = Arc::clone(&abandoned.0);
                    let whole = move |reader: &Reader| reader.audit(&Scope { since: None, pause: AUDIT_PAUSE, stop });
                    let audited = self.audit(whole).await;
                    drop(abandoned);
                    if let Some(imbalance) = audited {
                        found.whole = imbalance;
                        self.metrics.audit_found(found.most());
                        self.keep(LastAudit { at: self.clock.now(), imbalance }).await;
                    }
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

    /// A restart must not make what an earlier process found look well, nor look as if nothing was ever audited.
    async fn last_found(&self) -> Found {
        match self.store.last_audit().await {
            Ok(Some(LastAudit { at, imbalance })) => {
                self.metrics.audit_found(imbalance);
                self.metrics.audited(unix_seconds(at));
                Found { whole: imbalance, sums: 0 }
            }
            Ok(None) => Found::default(),
            Err(error) => {
                tracing::warn!("what the last audit found could not be read, the next one will tell: {error}");
                Found::default()
            }
        }
    }

    async fn keep(&self, audit: LastAudit) {
        self.metrics.audited(unix_seconds(audit.at));
        if let Err(error) = self.store.keep_audit(audit).await {
            tracing::warn!("what the audit found could not be kept for the next start: {error}");
        }
    }

    /// How much does not balance; `None` if it could not be made. Reads on a connection of its own, for as long as it takes.
    async fn audit(&self, check: impl FnOnce(&Reader) -> Result<Audit, StoreError> + Send + 'static) -> Option<u64> {
        let directory = self.state_dir.clone();
        let audited = tokio::task::spawn_blocking(move || check(&Reader::open(&directory)?));
        match audited.await.unwrap_or(Err(StoreError::Closed)) {
            Ok(audit) => {
                tell(&audit);
                Some(audit.imbalance)
            }
            Err(error) => {
                tracing::warn!("the audit could not be made, the next one will be tried: {error}");
                None
            }
        }
    }
}

fn tell(audit: &Audit) {
    if audit.imbalance == 0 {
        return;
    }
    tracing::error!("the audit found {} imbalances; `halo-relay audit` names them, and what to do", audit.imbalance);
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

fn unix_seconds(at: Timestamp) -> f64 {
    Duration::from_millis(at.as_millis().unsigned_abs()).as_secs_f64()
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
