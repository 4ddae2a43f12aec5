//! The loop of one destination.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, LOG_EVERY};
use super::{LaneSettings, Shared};
use crate::model::Timestamp;
use crate::rate::{Pacer, Ticket, Turn};
use crate::store::StoreError;

/// Between two tries while the store cannot be read or written.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// Whatever it waits for, the lane asks the store this often: wake-ups and times are hints.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

pub(super) struct Lane {
    shared: Shared,
    destination: i64,
    wake: Arc<Notify>,
    settings: watch::Receiver<Arc<LaneSettings>>,
    stop: CancellationToken,
    failures: Arc<AtomicU32>,
    /// `None` until it is rebuilt from the store: at the start, and when the limits have changed.
    pacer: Option<Pacer>,
    hold_until: Timestamp,
    /// How often in a row the store could not be used.
    store_failures: u32,
    under_way: JoinSet<(Ticket, Timestamp, Option<Timestamp>)>,
}

/// What the lane waits for when it can start nothing.
enum Wait {
    /// An attempt under way to end.
    Answer,
    Until(Timestamp),
    /// New work.
    Wake,
    /// The store to come back.
    Store,
}

impl Lane {
    pub(super) fn new(
        shared: Shared,
        destination: i64,
        wake: Arc<Notify>,
        settings: watch::Receiver<Arc<LaneSettings>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            shared,
            destination,
            wake,
            settings,
            stop,
            failures: Arc::default(),
            pacer: None,
            hold_until: Timestamp::default(),
            store_failures: 0,
            under_way: JoinSet::new(),
        }
    }

    /// Until it is stopped and all that was under way is settled.
    pub(super) async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let wait = match self.start_what_may().await {
                Ok(wait) => {
                    self.store_failures = 0;
                    wait
                }
                Err(error) => {
                    if self.store_failures.is_multiple_of(LOG_EVERY) {
                        let name = self.settings.borrow().name.clone();
                        tracing::error!(destination.name = %name, "{name} waits, the store cannot be used: {error}");
                    }
                    self.store_failures = self.store_failures.saturating_add(1);
                    Wait::Store
                }
            };
            self.wait(wait).await;
        }
        while let Some(ended) = self.under_way.join_next().await {
            self.ended(ended);
        }
    }

    /// The wake-up is kept by `Notify` if it comes while the store is being asked, so none is lost between the two.
    async fn wait(&mut self, wait: Wait) {
        let clock = self.shared.clock;
        let look_again = clock.now().plus(LOOK_AGAIN);
        let until = match wait {
            Wait::Until(at) => at.min(look_again),
            Wait::Answer | Wait::Wake => look_again,
            Wait::Store => clock.now().plus(STORE_AGAIN),
        };
        let wakes = !matches!(wait, Wait::Answer | Wait::Store);
        let busy = !self.under_way.is_empty();
        tokio::select! {
            Some(ended) = self.under_way.join_next(), if busy => {
                self.ended(ended);
                // All that ended meanwhile, so that one claim fills all their slots.
                while let Some(ended) = self.under_way.try_join_next() {
                    self.ended(ended);
                }
            }
            () = self.wake.notified(), if wakes => {}
            () = tokio::time::sleep_until(clock.instant(until)) => {}
            _ = self.settings.changed() => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Claims and starts as many attempts as hold, limits and slots allow; returns what to wait for then.
    async fn start_what_may(&mut self) -> Result<Wait, StoreError> {
        let settings = Arc::clone(&self.settings.borrow_and_update());
        loop {
            let now = self.shared.clock.now();
            if self.pacer.as_ref().is_none_or(|pacer| pacer.windows() != settings.limits) {
                if !self.under_way.is_empty() {
                    // Their end must count under the old limits and the new.
                    return Ok(Wait::Answer);
                }
                self.rebuild_pacer(&settings, now).await?;
            }
            let Some(pacer) = &mut self.pacer else { return Ok(Wait::Until(now)) };
            let free = settings.sender.slots().saturating_sub(self.under_way.len());
            if free == 0 || self.stop.is_cancelled() {
                return Ok(Wait::Answer);
            }
            if self.hold_until > now {
                return Ok(Wait::Until(self.hold_until));
            }
            let most = match pacer.turn(now) {
                Turn::Now(room) => room.min(free),
                Turn::At(at) => return Ok(Wait::Until(at)),
                Turn::AfterAnswer => return Ok(Wait::Answer),
            };
            let (claimed, next) = self.shared.store.claim(self.destination, most, now).await?;
            if claimed.is_empty() {
                return Ok(next.map_or(Wait::Wake, Wait::Until));
            }
            for claimed in claimed {
                let ticket = pacer.start(now);
                let attempt = Attempt {
                    shared: self.shared.clone(),
                    settings: Arc::clone(&settings),
                    destination: self.destination,
                    failures: Arc::clone(&self.failures),
                    claimed,
                };
                self.under_way.spawn(async move {
                    let (ended, hold) = attempt.run().await;
                    (ticket, ended, hold)
                });
            }
        }
    }

    async fn rebuild_pacer(&mut self, settings: &LaneSettings, now: Timestamp) -> Result<(), StoreError> {
        let since = now.minus(Pacer::memory(&settings.limits));
        let most = Pacer::memory_sends(&settings.limits);
        let (hold, ended) = self.shared.store.pacing(self.destination, since, most, now).await?;
        self.pacer = Some(Pacer::new(settings.limits.clone(), ended, now));
        self.hold_until = self.hold_until.max(hold);
        Ok(())
    }

    fn ended(&mut self, ended: Result<(Ticket, Timestamp, Option<Timestamp>), tokio::task::JoinError>) {
        match ended {
            Ok((ticket, at, hold)) => {
                if let Some(pacer) = &mut self.pacer {
                    pacer.answered(ticket, at);
                }
                self.hold_until = self.hold_until.max(hold.unwrap_or_default());
            }
            // Rendering and sending are guarded, so this is a bug. The delivery stays on record as being sent, and the next
            // start takes it up. Its place in the limits would never be free again, so they are counted anew.
            Err(error) => {
                tracing::error!("an attempt crashed: {error}");
                self.pacer = None;
            }
        }
    }
}
