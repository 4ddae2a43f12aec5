//! What becomes of deliveries that a lane cannot send in good time: they go to the fallback, come home from it, or fold into
//! digests.

use std::time::Duration;

use super::{InForce, Lane};
use crate::model::{Condition, Fallback, Overflow, Timestamp};
use crate::store::{Handed, Movable, StoreError};

/// Between two looks for what is more than the limits let through.
const FOLD_EVERY: Duration = Duration::from_secs(1);

impl Lane {
    /// How old what waits must be to go to the fallback; while there is no outage, when there may be one.
    fn outage(&self, fallback: &Fallback, now: Timestamp) -> Result<Duration, Option<Timestamp>> {
        match self.breaker.health().condition {
            // To have asked for nothing but pauses for so long may as well be an outage.
            Condition::Taking => match self.pausing_since {
                Some(since) if now.since(since) >= fallback.after => Ok(fallback.after),
                since => Err(since.map(|since| since.plus(fallback.after))),
            },
            Condition::Failing => Ok(fallback.after),
            Condition::Refusing => Ok(Duration::ZERO),
        }
    }

    /// While the destination takes nothing, gives what waits too long to its fallback; tells when to look again.
    pub(super) async fn fall_back(
        &mut self,
        settings: &InForce,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let Some(fallback) = &settings.fallback else { return Ok(None) };
        if let Err(again) = self.outage(fallback, now) {
            return Ok(again);
        }
        // What has just ended must be on record as waiting before it can be moved; what ends meanwhile, too. It comes to an end,
        // for with the first of these nothing is offered any more.
        self.record().await?;
        while !self.ended.is_empty() {
            self.record().await?;
        }
        let after = match self.outage(fallback, now) {
            Ok(after) => after,
            Err(again) => return Ok(again),
        };
        let from = self.subscription.outlet.destination;
        let why = match (self.breaker.health().condition, &self.pause) {
            (Condition::Taking, Some(pause)) => pause.why.clone(),
            (Condition::Taking, None) => "it asked for a pause".to_owned(),
            _ => self.breaker.health().reason.clone().unwrap_or_default(),
        };
        if self.breaker.health().condition == Condition::Refusing && !self.breaker.health().noticed {
            self.shared.store.notify(from, fallback.to.clone(), why.clone(), now).await?;
            self.breaker.noticed();
            self.health_changed = true;
        }
        self.fell_to = Some(fallback.to.clone());
        let closed = self.shared.store.close_batches(from, now).await?;
        self.handed = self.handed.min(closed.first.map_or(i64::MAX, |first| first - 1));
        loop {
            let which = Movable { before: now.minus(after), after: self.handed };
            let handing = self.shared.store.move_to_fallback(from, fallback.to.clone(), which, why.clone(), now);
            let Handed { moved, seen, young } = handing.await?;
            self.shared.tell.moved(&settings.name, &fallback.to, moved);
            let done = seen == self.handed && moved == 0;
            self.handed = seen;
            if done || self.stop.is_cancelled() || self.settings.has_changed().unwrap_or(true) {
                let young = young.map(|since| since.plus(after));
                return Ok(young.into_iter().chain(closed.next).min());
            }
        }
    }

    /// What an earlier fallback has not sent yet is this destination's again, and what the present one cannot send.
    pub(super) async fn bring_home(&mut self, settings: &InForce) -> Result<(), StoreError> {
        let present = settings.fallback.as_ref().map(|fallback| &fallback.to);
        if let Some(former) = self.fell_to.clone().filter(|former| present != Some(former)) {
            let (own, now) = (self.subscription.outlet.destination, self.shared.clock.now());
            self.shared.store.bring_home(former, Some(own), now).await?;
            self.fell_to = None;
        }
        // What waits there for want of anything better need not wait any longer.
        if self.recovered
            && let Some(fallback) = present
        {
            let (own, now) = (self.subscription.outlet.destination, self.shared.clock.now());
            self.shared.store.bring_home_from_sick(own, fallback.clone(), now).await?;
        }
        self.recovered = false;
        Ok(())
    }

    /// Folds what the limits would hold up for too long into digests, a step at a time.
    pub(super) async fn fold(&mut self, settings: &InForce, now: Timestamp) -> Result<(), StoreError> {
        let (Overflow::Digest { after }, Some(limits)) = (settings.overflow, &self.limits) else { return Ok(()) };
        if !settings.is_paced() || self.folded_at.is_some_and(|at| now.since(at) < FOLD_EVERY) {
            return Ok(());
        }
        let keep = limits.clears(now, after);
        let folded = self.shared.store.fold(self.subscription.outlet.destination, keep, now).await?;
        self.shared.tell.folded(&settings.name, folded);
        // While there is more, it is folded between messages; then some time passes.
        self.folded_at = (folded == 0).then_some(now);
        Ok(())
    }
}
