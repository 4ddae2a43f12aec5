//! The one door: events come in, are routed, and are on disk with all they owe before anybody says "accepted".
//!
//! Routing happens here, before the transaction, because it is pure and takes microseconds: one commit holds the event and
//! its deliveries, and no event is ever stored without being routed. The price: what is queued keeps the route it was given
//! when the rules are reloaded.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::model::{Event, EventId, RuleName, SourceName};
use crate::routing::{Grouped, Route, RuleSet};
pub use crate::store::Accepted;
use crate::store::{NewBatch, NewDelivery, NewEvent, Room, Store, StoreError};
use crate::telemetry::Metrics;

/// How long a source should wait before it offers again what could not be taken.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Nothing was taken in: the source must not acknowledge, and may offer the same again.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    pub reason: String,
    pub retry_after: Duration,
}

impl From<StoreError> for Unavailable {
    fn from(error: StoreError) -> Self {
        Self { reason: error.to_string(), retry_after: RETRY_AFTER }
    }
}

/// Clones share one store and follow the same rules.
#[derive(Clone)]
pub struct Intake {
    store: Store,
    rules: watch::Receiver<Arc<RuleSet>>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl Intake {
    pub fn new(store: Store, rules: watch::Receiver<Arc<RuleSet>>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self { store, rules, clock, metrics }
    }

    /// Whether anything can be taken in now; a source need not fetch what would only be turned away.
    pub fn ready(&self) -> Result<(), Unavailable> {
        match self.store.room() {
            Room::Enough => Ok(()),
            Room::Low => Err(StoreError::Full.into()),
        }
    }

    /// Takes events in, all or none; durable when it returns.
    pub async fn accept(&self, source: &SourceName, events: Vec<Event>) -> Result<Accepted, Unavailable> {
        self.ready()?;
        let rules = Arc::clone(&self.rules.borrow());
        let events: Arc<[_]> = events.iter().map(|event| new_event(event, rules.route(event))).collect();
        let (accepted, fresh) = self.store.accept(source, Arc::clone(&events), self.clock.now()).await?;
        self.metrics.events_taken(source, accepted.new, accepted.duplicate);
        for (event, _) in events.iter().zip(fresh).filter(|(_, fresh)| *fresh) {
            count(event, &self.metrics);
        }
        Ok(accepted)
    }

    /// Marks events as seen without sending anything; returns how many were not known.
    pub async fn remember(&self, ids: Vec<EventId>) -> Result<usize, Unavailable> {
        Ok(self.store.remember(ids, self.clock.now()).await?)
    }

    /// Which of these the relay has neither taken in nor been told to remember.
    pub async fn unseen(&self, ids: Vec<EventId>) -> Result<HashSet<EventId>, Unavailable> {
        Ok(self.store.unseen(ids).await?)
    }

    /// Whether the first run of this source is over.
    pub async fn baseline_done(&self, source: &SourceName) -> Result<bool, Unavailable> {
        Ok(self.store.baseline_done(source).await?)
    }

    pub async fn set_baseline_done(&self, source: &SourceName) -> Result<(), Unavailable> {
        Ok(self.store.set_baseline_done(source).await?)
    }

    pub fn clock(&self) -> Clock {
        self.clock
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }
}

fn new_event(event: &Event, route: Route) -> NewEvent {
    let owed = route.owed.into_iter().map(|owed| NewDelivery {
        destination: owed.destination,
        rule: owed.rule,
        severity: owed.severity,
        batch: owed.batch.map(|Grouped { group, wait, max }| NewBatch { group, wait, max }),
        thread: owed.thread,
    });
    NewEvent::new(event, owed.collect(), route.dropped.map(|dropped| (dropped.rule, dropped.reason)))
}

fn count(event: &NewEvent, metrics: &Metrics) {
    let dropped_by = event.dropped.as_ref().map(|(rule, _)| rule);
    if event.owed.iter().map(|owed| &owed.rule).chain(dropped_by).any(|rule| rule.as_str() == RuleName::UNROUTED) {
        metrics.event_unrouted();
    }
    if let Some(rule) = dropped_by {
        metrics.event_dropped(rule);
    }
    for owed in &event.owed {
        metrics.delivery_queued(&owed.destination);
    }
}
