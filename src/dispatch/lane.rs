//! The loop of one destination.
//!
//! Each turn of it is one transaction: the answers that came are recorded, and as many deliveries as the breaker, the limits
//! and the free slots allow are claimed. When nothing more waits, the lane offers its free slots, and intake claims for it as new
//! events come. While the transaction is on its way to the disk the lane goes on taking both, answers and what it was given;
//! the next turn records them. A slot is taken from the claim until the answer is on disk, whatever fails meanwhile.

mod elsewhere;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, Attempted};
use super::breaker::{Breaker, Change, Gate};
use super::concurrency::Concurrency;
use super::lateness::Pause;
use super::limits::{Limits, Tickets};
use super::step::{Circumstances, next_step};
use super::{InForce, Shared};
use crate::backoff;
use crate::model::delivery::Code;
use crate::model::{DestinationName, Health, Outcome, Report, Timestamp};
use crate::rate::{Pacer, Turn as Room};
use crate::store::{Born, Claimed, Ended, Settlement, StoreError, Subscription, Taken, Turn};

/// Between two tries while the store cannot be read or written.
const STORE_AGAIN: Duration = Duration::from_secs(1);
/// Of the failures in a row to use the store, one each second, this one of so many is logged.
const LOG_EVERY: u32 = 60;
/// Whatever it waits for, the lane asks the store this often: wake-ups and times are hints.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// While all that comes is given to the lane as it is made, there is nothing to look for; now and then it is looked all the
/// same.
const LOOKED_LATELY: Duration = Duration::from_secs(1);
/// Chat and mail are slow; remembering their sends costs nothing, and limits that come later know of them.
const REMEMBER_MIN: Duration = Duration::from_hours(1);

#[expect(clippy::struct_excessive_bools, reason = "five facts that have nothing to do with each other")]
pub(super) struct Lane {
    shared: Shared,
    subscription: Subscription,
    settings: watch::Receiver<Arc<InForce>>,
    stop: CancellationToken,
    /// What was learned from the store; `None` until it has been read, and when the limits have changed.
    limits: Option<Limits>,
    breaker: Breaker,
    concurrency: Concurrency,
    hold_until: Timestamp,
    /// Throttled answers in a row.
    pauses: u32,
    /// What the destination asked for last.
    pause: Option<Pause>,
    /// Since when it has asked for pauses and taken nothing, as far as this process knows.
    pausing_since: Option<Timestamp>,
    last_delivered: Option<Timestamp>,
    under_way: JoinSet<Attempted>,
    pending: HashMap<Id, Pending>,
    /// Answers that are not on disk yet. They keep their slots.
    ended: Vec<Ended>,
    /// Something has ended since the turn looked how many slots are free.
    heard: bool,
    /// Deliveries received as they were made.
    received: u64,
    /// Intake may claim for this lane.
    offering: bool,
    /// Something was given back: what was given to the lane since must not start before it, so that is given back, too.
    gives_back: bool,
    health_changed: bool,
    /// A pause that is not on record yet.
    hold_news: Option<Timestamp>,
    /// The fallback that has been given something in this process.
    fell_to: Option<DestinationName>,
    /// It takes messages again since the last turn.
    recovered: bool,
    /// How far deliveries have been looked at for the fallback in this outage.
    handed: i64,
    folded_at: Option<Timestamp>,
    /// When it was last looked for what waits, as far as the store took no harm since.
    looked_at: Option<Instant>,
    store_failures: u32,
}

/// What an attempt under way was started with.
struct Pending {
    claimed: Claimed,
    /// None of what may not start and is given back.
    tickets: Option<Tickets>,
}

/// What the lane waits for when it can start nothing.
#[derive(Clone, Copy, Debug)]
enum Wait {
    /// An attempt under way to end.
    Answer,
    Until(Timestamp),
    /// New work.
    Wake,
    /// The store to come back.
    Store,
    /// Nothing: there may be more.
    Nothing,
}

impl Wait {
    fn or_until(self, at: Option<Timestamp>) -> Self {
        match (self, at) {
            (Self::Until(until), Some(at)) => Self::Until(until.min(at)),
            (Self::Wake, Some(at)) => Self::Until(at),
            (wait, _) => wait,
        }
    }
}

impl Lane {
    pub(super) fn new(
        shared: Shared,
        subscription: Subscription,
        settings: watch::Receiver<Arc<InForce>>,
        stop: CancellationToken,
    ) -> Self {
        let slots = settings.borrow().sender.slots();
        Self {
            shared,
            subscription,
            settings,
            stop,
            limits: None,
            breaker: Breaker::new(Health::default()),
            concurrency: Concurrency::new(slots),
            hold_until: Timestamp::default(),
            pauses: 0,
            pause: None,
            pausing_since: None,
            last_delivered: None,
            under_way: JoinSet::new(),
            pending: HashMap::new(),
            ended: Vec::new(),
            heard: false,
            received: 0,
            offering: false,
            gives_back: false,
            health_changed: false,
            hold_news: None,
            fell_to: None,
            recovered: false,
            handed: 0,
            folded_at: None,
            looked_at: None,
            store_failures: 0,
        }
    }

    /// Until it is stopped and all that was under way is settled.
    pub(super) async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let wait = self.turn().await;
            let wait = self.or_store(wait);
            // What was heard during a turn is for the next one: to record it, and to fill its slot.
            if matches!(wait, Wait::Store) || !self.heard {
                self.wait(wait).await;
            }
        }
        self.finish().await;
    }

    /// Starts nothing more, and returns when all that was under way is on disk, or can never be: then the next start takes
    /// it up.
    async fn finish(&mut self) {
        loop {
            // Withdraws the offer first: afterwards nothing more is on its way.
            match self.record().await {
                Ok(()) => {}
                Err(StoreError::Closed) => return,
                Err(error) => {
                    self.or_store(Err(error));
                    tokio::time::sleep(STORE_AGAIN).await;
                    continue;
                }
            }
            self.receive();
            match self.under_way.join_next_with_id().await {
                Some(ended) => self.answered(ended),
                None if self.ended.is_empty() => return,
                None => {}
            }
        }
    }

    fn or_store(&mut self, result: Result<Wait, StoreError>) -> Wait {
        match result {
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
            Wait::Nothing => return,
        };
        let wakes = !matches!(wait, Wait::Answer | Wait::Store);
        let mut wait_on = true;
        while wait_on {
            wait_on = false;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                Some(ended) = self.under_way.join_next_with_id(), if !self.under_way.is_empty() => {
                    self.answered(ended);
                    // All that ended meanwhile, so that one commit records them and fills all their slots.
                    while let Some(ended) = self.under_way.try_join_next_with_id() {
                        self.answered(ended);
                    }
                }
                Some(born) = self.subscription.born.recv() => {
                    self.start_born(born);
                    self.receive();
                    // Nothing to record or to claim: that it runs is all.
                    wait_on = true;
                }
                () = self.subscription.wake.notified(), if wakes => {}
                () = tokio::time::sleep_until(clock.instant(until)) => {}
                // Seen is not applied: that is for the next turn to find.
                Ok(()) = self.settings.changed() => self.settings.mark_changed(),
            }
        }
    }

    /// Records what has ended, and claims and starts as many attempts as may start; returns what to wait for then. It ends
    /// with its transaction, however much there is to do: a stop and new settings are looked for between turns.
    async fn turn(&mut self) -> Result<Wait, StoreError> {
        let settings = self.renew_settings();
        self.heard = false;
        self.receive();
        if self.gives_back && !self.finish_giving_back().await? {
            return Ok(Wait::Answer);
        }
        self.bring_home(&settings).await?;
        let now = self.shared.clock.now();
        if !self.ready(&settings, now).await? {
            // The end of what is under way must count under the old limits and the new.
            self.record().await?;
            return Ok(Wait::Answer);
        }
        // One must stay behind to be the probe, or a destination that was mended would never be found out; and what its
        // answer may set free waits for that.
        let probing = self.breaker.gate(now) == Gate::Probe;
        let mut next_move = if probing { None } else { self.fall_back(&settings, now).await? };
        self.fold(&settings, now).await?;
        // What was heard until here finds its slot free; what waits at the fallback comes home in the next turn.
        self.heard = self.recovered;
        let nothing_under_way = self.pending.is_empty();
        let (most, wait) = self.room(now);
        let wait = if most == 0 {
            self.record().await?;
            wait
        } else {
            self.claim(&settings, most, now).await?
        };
        if probing && nothing_under_way && self.pending.is_empty() {
            next_move = self.fall_back(&settings, now).await?;
        }
        Ok(wait.or_until(next_move))
    }

    /// Records what was given back. True once all of it is on record, and nothing is on the way: from then on the store's order
    /// holds.
    async fn finish_giving_back(&mut self) -> Result<bool, StoreError> {
        self.record().await?;
        self.receive();
        let under_way = self.pending.values().any(|pending| pending.tickets.is_none());
        self.gives_back = under_way || self.ended.iter().any(|ended| ended.settlement == Settlement::NotStarted);
        Ok(!self.gives_back)
    }

    fn renew_settings(&mut self) -> Arc<InForce> {
        let changed = self.settings.has_changed().unwrap_or(false);
        let settings = Arc::clone(&self.settings.borrow_and_update());
        if changed {
            // Whatever was wrong may have been mended by just this.
            self.breaker.probe_now(self.shared.clock.now());
            self.handed = 0;
            if self.concurrency.max() != settings.sender.slots() {
                self.concurrency = Concurrency::new(settings.sender.slots());
            }
        }
        settings
    }

    /// Reads limits and breaker from the store where they are not known; `false` while that has to wait.
    async fn ready(&mut self, settings: &InForce, now: Timestamp) -> Result<bool, StoreError> {
        if self.limits.as_ref().is_some_and(|limits| limits.are(&settings.limits, &settings.shared)) {
            return Ok(true);
        }
        if !self.pending.is_empty() {
            return Ok(false);
        }
        self.record().await?;
        let since = now.minus(Pacer::memory(&settings.limits));
        let most = Pacer::memory_sends(&settings.limits);
        let pacing = self.shared.store.pacing(self.subscription.outlet.destination, since, most).await?;
        if self.limits.is_none() {
            self.breaker = Breaker::new(pacing.health);
            // A new process may have been started because something was mended.
            self.breaker.probe_now(now);
        }
        self.hold_until = self.hold_until.max(pacing.hold);
        if self.hold_until > now {
            self.pausing_since.get_or_insert(now);
        }
        let own = Pacer::new(settings.limits.clone(), pacing.sends, now);
        self.limits = Some(Limits::new(own, settings.shared.clone(), Arc::clone(&self.subscription.wake)));
        Ok(true)
    }

    /// How many attempts may start now; if none, what to wait for.
    fn room(&self, now: Timestamp) -> (usize, Wait) {
        let slots = match self.breaker.gate(now) {
            Gate::Shut { until } => return (0, Wait::Until(until)),
            Gate::Probe => 1,
            Gate::Open => self.concurrency.limit(),
        };
        let free = slots.saturating_sub(self.pending.len());
        if free == 0 {
            return (0, Wait::Answer);
        }
        if self.hold_until > now {
            return (0, Wait::Until(self.hold_until));
        }
        match self.limits.as_ref().map(|limits| limits.turn(now)) {
            Some(Room::Now(room)) => (room.min(free), Wait::Wake),
            Some(Room::At(at)) => (0, Wait::Until(at)),
            // Of a shared limit the answer may be another lane's, which wakes this one.
            Some(Room::AfterAnswer) => (0, Wait::Wake),
            None => (0, Wait::Answer),
        }
    }

    /// Claims and starts up to `most`.
    async fn claim(&mut self, settings: &Arc<InForce>, most: usize, now: Timestamp) -> Result<Wait, StoreError> {
        let gate = self.breaker.gate(now);
        let Some(limits) = &mut self.limits else { return Ok(Wait::Wake) };
        let mut tickets = limits.reserve(most, now);
        if tickets.is_empty() {
            // Another lane was quicker, and wakes this one when it is done.
            return self.record().await.map(|()| Wait::Wake);
        }
        let turn = Turn {
            claim: tickets.len(),
            received: self.received,
            offer: !limits.is_shared() && gate == Gate::Open,
            looked: self.looked_at.is_some_and(|at| at.elapsed() < LOOKED_LATELY),
            probe: gate == Gate::Probe,
            ..Turn::default()
        };
        // Whatever becomes of the commit, the offer may stand.
        self.offering = true;
        let taken = self.take_turn(turn, now).await;
        let claimed = taken.as_ref().map_or(0, |taken| taken.claimed.len());
        if let Some(limits) = &mut self.limits {
            for unused in tickets.drain(claimed..) {
                limits.cancel(&unused);
            }
        }
        let taken = taken?;
        // What the lane had been given before comes before what it claimed.
        while self.received < taken.given
            && let Ok(born) = self.subscription.born.try_recv()
        {
            self.start_born(born);
        }
        // An answer during the turn may have changed what may start.
        let now = self.shared.clock.now();
        let may =
            !self.gives_back && !self.stop.is_cancelled() && self.breaker.gate(now) == gate && self.hold_until <= now;
        for (claimed, tickets) in taken.claimed.into_iter().zip(tickets) {
            if may {
                self.start(settings, claimed, tickets, None);
                continue;
            }
            if let Some(limits) = &mut self.limits {
                limits.cancel(&tickets);
            }
            self.gives_back = true;
            self.not_started(claimed, now);
        }
        self.receive();
        if claimed > 0 && !taken.offered {
            // There may be more; and for once it is looked without taking what comes meanwhile.
            self.looked_at = None;
            return Ok(Wait::Nothing);
        }
        Ok(taken.next.map_or(Wait::Wake, Wait::Until))
    }

    /// Records what has ended, and withdraws the lane's offer.
    async fn record(&mut self) -> Result<(), StoreError> {
        if self.ended.is_empty() && self.hold_news.is_none() && !self.health_changed && !self.offering {
            return Ok(());
        }
        self.take_turn(Turn::default(), self.shared.clock.now()).await?;
        self.offering = false;
        Ok(())
    }

    /// One transaction: `turn`, and all that is not on record yet. If it fails, nothing has changed.
    ///
    /// What comes in the meantime is seen to at once: answers, to be recorded next, and deliveries made for the lane, so that
    /// their messages are made while the disk works. Under limits the latter wait, for the turn has reserved all there is; and
    /// where the turn looks for what waits, so that this starts first.
    async fn take_turn(&mut self, turn: Turn, now: Timestamp) -> Result<Taken, StoreError> {
        let ended: Arc<[Ended]> = std::mem::take(&mut self.ended).into();
        let (hold, health_changed) = (self.hold_news.take(), std::mem::take(&mut self.health_changed));
        let turn = Turn {
            ended: Arc::clone(&ended),
            hold,
            health: health_changed.then(|| self.breaker.health().clone()),
            remember: self.remember(),
            ..turn
        };
        let looks = turn.claim > 0 && !turn.looked;
        let takes_born = !looks && {
            let settings = self.settings.borrow();
            let in_force = self.limits.as_ref().is_some_and(|limits| limits.are(&settings.limits, &settings.shared));
            in_force && !settings.is_paced()
        };
        let (store, outlet) = (self.shared.store.clone(), self.subscription.outlet);
        let mut taking = pin!(store.turn(outlet, turn, now));
        let taken = loop {
            tokio::select! {
                biased;
                taken = &mut taking => break taken,
                Some(ended) = self.under_way.join_next_with_id(), if !self.under_way.is_empty() => self.answered(ended),
                Some(born) = self.subscription.born.recv(), if takes_born => self.start_born(born),
            }
        };
        if let Ok(taken) = &taken {
            self.shared.tell.moved_singly(&self.settings.borrow().name, taken.moved);
            if looks {
                self.looked_at = Some(Instant::now());
            }
        } else {
            let since = std::mem::replace(&mut self.ended, ended.to_vec());
            self.ended.extend(since);
            self.hold_news = hold.max(self.hold_news);
            self.health_changed |= health_changed;
            self.looked_at = None;
        }
        taken
    }

    /// For how long sends must be remembered: what limits of now count, and those that a reload may bring.
    fn remember(&self) -> Option<Duration> {
        let settings = self.settings.borrow();
        if !settings.is_paced() && settings.sender.slots() > 1 {
            return None;
        }
        let shared = settings.shared.iter().map(|shared| Pacer::memory(&shared.windows()));
        Some(shared.fold(Pacer::memory(&settings.limits), Duration::max).max(REMEMBER_MIN))
    }

    /// Takes what was claimed for the lane as it was made.
    fn receive(&mut self) {
        while let Ok(born) = self.subscription.born.try_recv() {
            self.start_born(born);
        }
    }

    fn start_born(&mut self, Born { claimed, kept }: Born) {
        self.received += 1;
        let now = self.shared.clock.now();
        let may = !self.gives_back
            && !self.stop.is_cancelled()
            && self.breaker.gate(now) == Gate::Open
            && self.hold_until <= now;
        let tickets = if may { self.limits.as_mut().and_then(|limits| limits.reserve(1, now).pop()) } else { None };
        let settings = Arc::clone(&self.settings.borrow());
        if let Some(tickets) = tickets {
            self.start(&settings, claimed, tickets, Some(kept));
        } else {
            self.gives_back = true;
            let task = self.under_way.spawn(Attempted::given_back(kept));
            self.pending.insert(task.id(), Pending { claimed, tickets: None });
        }
    }

    fn start(
        &mut self,
        settings: &Arc<InForce>,
        claimed: Claimed,
        tickets: Tickets,
        kept: Option<oneshot::Receiver<()>>,
    ) {
        let attempt = Attempt {
            shared: self.shared.clone(),
            settings: Arc::clone(settings),
            claimed: claimed.clone(),
            kept,
            health: self.breaker.health().clone(),
            pause: self.pause.clone(),
        };
        let task = self.under_way.spawn(attempt.run());
        self.pending.insert(task.id(), Pending { claimed, tickets: Some(tickets) });
    }

    fn answered(&mut self, ended: Result<(Id, Attempted), JoinError>) {
        self.heard = true;
        let now = self.shared.clock.now();
        let (id, attempted) = match ended {
            Ok((id, attempted)) => (id, Ok(attempted)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(Pending { claimed, tickets }) = self.pending.remove(&id) else { return };
        let crashed = attempted.is_err();
        let attempted = attempted.unwrap_or_else(|error| {
            tracing::error!("sending {} crashed: {error}", Code::of_row(claimed.row));
            Attempted::not_sent(Outcome::RefusedContent, "the relay crashed on this message (see its log)")
        });
        if let (Some(limits), Some(tickets)) = (&mut self.limits, tickets) {
            match attempted {
                Attempted::NeverKept => limits.cancel(&tickets),
                _ => limits.answered(&tickets, now),
            }
        }
        let (report, sent) = match attempted {
            Attempted::Sent(report) => (report, true),
            Attempted::NotSent(report) => (report, false),
            Attempted::NotStarted => return self.not_started(claimed, now),
            Attempted::NeverKept => return,
        };
        let random = backoff::random();
        // What fails with us says nothing about the destination.
        let mut change = Change::None;
        if sent {
            change = self.breaker.answered(&report, claimed.started_at, now, random);
            self.learn(&report, now);
        }
        let settings = Arc::clone(&self.settings.borrow());
        let about = Circumstances {
            health: self.breaker.health(),
            last_delivered: self.last_delivered,
            pausing_since: self.pausing_since,
            pauses: self.pauses,
            fallback: settings.fallback.as_ref(),
            now,
            random,
        };
        let mut step = next_step(&claimed, &report, &about);
        if crashed
            && let Settlement::Again { may_repeat, .. } | Settlement::Fallback { may_repeat, .. } = &mut step.settlement
        {
            // Nobody knows how far it got.
            *may_repeat = true;
        }
        if let Some(hold) = step.hold {
            self.hold_until = self.hold_until.max(hold);
            self.hold_news = Some(self.hold_until);
            self.pause = Some(Pause { until: self.hold_until, why: report.detail.clone() });
        }
        if matches!(step.settlement, Settlement::Again { .. } | Settlement::Fallback { .. }) {
            // While it was under way it could not be moved, and others behind it may have been.
            self.handed = self.handed.min(claimed.row - 1);
        }
        self.shared.tell.answer(&settings.name, &claimed, &report, &step.settlement, now);
        self.changed(change, &settings);
        self.ended.push(Ended { claimed, at: now, report, settlement: step.settlement });
    }

    fn not_started(&mut self, claimed: Claimed, now: Timestamp) {
        self.heard = true;
        let report = Report::new(Outcome::Transient, None, "not started");
        self.handed = self.handed.min(claimed.row - 1);
        self.ended.push(Ended { claimed, at: now, report, settlement: Settlement::NotStarted });
    }

    fn learn(&mut self, report: &Report, now: Timestamp) {
        match report.outcome {
            Outcome::Delivered => {
                self.pauses = 0;
                // As after an outage.
                self.recovered |= self.pausing_since.take().is_some();
                self.last_delivered = Some(now);
                self.concurrency.succeeded();
            }
            Outcome::Throttled { .. } => {
                self.pauses = self.pauses.saturating_add(1);
                self.pausing_since.get_or_insert(now);
                self.concurrency.failed();
            }
            Outcome::Transient | Outcome::Ambiguous | Outcome::RefusedDestination => self.concurrency.failed(),
            Outcome::RefusedContent => {}
        }
    }

    fn changed(&mut self, change: Change, settings: &InForce) {
        if change == Change::None {
            return;
        }
        self.health_changed = true;
        // What an operator sent again meanwhile, or what has come back, is looked at once more.
        self.handed = 0;
        if change == Change::Closed {
            self.concurrency.restart();
            self.recovered = true;
        }
        self.shared.tell.health(&settings.name, change, self.breaker.health(), settings.fallback.as_ref());
    }
}
