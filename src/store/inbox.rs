//! Events taken in: seen once, and on disk together with what they owe.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::work::Work;
use super::{NewBatch, Store, StoreError, checksum, outbox};
use crate::model::{DestinationName, Event, EventId, RuleName, Severity, SourceName, Timestamp};

/// An event with all that follows from it, ready to be committed.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub event: Arc<Event>,
    /// Its record as JSON.
    pub body: String,
    pub owed: Vec<NewDelivery>,
    /// The rule that drops it, and its reason.
    pub dropped: Option<(RuleName, String)>,
}

impl NewEvent {
    pub fn new(event: &Event, owed: Vec<NewDelivery>, dropped: Option<(RuleName, String)>) -> Self {
        // A map with text keys always serialises.
        let body = serde_json::to_string(event.body()).unwrap_or_default();
        Self { event: Arc::new(event.clone()), body, owed, dropped }
    }
}

#[derive(Clone, Debug)]
pub struct NewDelivery {
    pub destination: DestinationName,
    pub rule: RuleName,
    pub severity: Severity,
    /// Told together with others of its kind.
    pub batch: Option<NewBatch>,
    /// What its message belongs with, where a channel has threads.
    pub thread: Option<String>,
}

/// What became of a list of events. `new + duplicate` is its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    pub new: usize,
    pub duplicate: usize,
    /// Deliveries made.
    pub queued: usize,
    /// New events that a rule dropped.
    pub dropped: usize,
}

impl Store {
    /// Takes events in, all or none. When this returns, they and their deliveries are on disk; an event whose id is known
    /// changes nothing. An id that was only remembered by [`remember`](Self::remember) counts as new. The second value tells
    /// of each event whether it was new.
    pub async fn accept(
        &self,
        source: &SourceName,
        events: Arc<[NewEvent]>,
        now: Timestamp,
    ) -> Result<(Accepted, Vec<bool>), StoreError> {
        let source = source.clone();
        self.write_with_room(move |work| {
            let mut accepted = Accepted::default();
            let mut fresh = Vec::with_capacity(events.len());
            for event in &*events {
                fresh.push(mark_seen(work.db, &event.event.id, false, now)?);
                if fresh.last() == Some(&false) {
                    accepted.duplicate += 1;
                    continue;
                }
                accepted.new += 1;
                accepted.dropped += usize::from(event.dropped.is_some() && event.owed.is_empty());
                accepted.queued += event.owed.len();
                insert(work, &source, event, now)?;
            }
            Ok((accepted, fresh))
        })
        .await
    }

    /// Marks events as seen without sending anything; returns how many were not known before.
    pub async fn remember(&self, ids: Vec<EventId>, now: Timestamp) -> Result<usize, StoreError> {
        self.write_with_room(move |work| {
            let mut new = 0;
            for id in &ids {
                new += usize::from(mark_seen(work.db, id, true, now)?);
            }
            Ok(new)
        })
        .await
    }

    /// Which of these ids are not known, neither as events nor as remembered.
    pub async fn unseen(&self, ids: Vec<EventId>) -> Result<HashSet<EventId>, StoreError> {
        self.read(move |db| {
            let mut find = db.prepare_cached("SELECT 1 FROM seen WHERE event_id = ?1")?;
            let mut unseen = HashSet::new();
            for id in ids {
                if !find.exists([id.as_str()])? {
                    unseen.insert(id);
                }
            }
            Ok(unseen)
        })
        .await
    }

    /// Whether the first run of this source is over.
    pub async fn baseline_done(&self, source: &SourceName) -> Result<bool, StoreError> {
        let source = source.clone();
        self.read(move |db| {
            let done = db
                .prepare_cached("SELECT baseline_done FROM source WHERE name = ?1")?
                .query_row([source.as_str()], |row| row.get::<_, bool>(0))
                .optional()?;
            Ok(done.unwrap_or(false))
        })
        .await
    }

    pub async fn set_baseline_done(&self, source: &SourceName) -> Result<(), StoreError> {
        let source = source.clone();
        self.write_with_room(move |work| {
            work.db.prepare_cached(
                "INSERT INTO source (name, baseline_done) VALUES (?1, 1) ON CONFLICT (name) DO UPDATE SET baseline_done = 1",
            )?
            .execute([source.as_str()])
            .map(drop)
        })
        .await
    }
}

/// Whether the id is new. An event also counts as new where only a baseline knew its id.
fn mark_seen(db: &Connection, id: &EventId, baseline: bool, now: Timestamp) -> rusqlite::Result<bool> {
    let changed = db
        .prepare_cached(
            "INSERT INTO seen (event_id, first_seen_at, baseline) VALUES (?1, ?2, ?3)
             ON CONFLICT (event_id) DO UPDATE SET baseline = 0 WHERE baseline = 1 AND excluded.baseline = 0",
        )?
        .execute(params![id.as_str(), now.as_millis(), baseline])?;
    Ok(changed > 0 || cfg!(sabotage = "no_unique"))
}

fn insert(work: &mut Work<'_>, source: &SourceName, new: &NewEvent, now: Timestamp) -> rusqlite::Result<()> {
    let (dropped_by, drop_reason) = match &new.dropped {
        Some((rule, reason)) => (Some(rule.as_str()), Some(reason.as_str())),
        None => (None, None),
    };
    let (id, key) = (new.event.id.as_str(), new.event.key.as_str());
    let owed = i64::try_from(new.owed.len()).unwrap_or(i64::MAX);
    let sum = checksum::event(id, key, now, &new.body);
    let row = work.next_event();
    work.db
        .prepare_cached(
            "INSERT INTO event (id, event_id, key, source, received_at, body, dropped_by, drop_reason, owed, checksum)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            row,
            id,
            key,
            source.as_str(),
            now.as_millis(),
            new.body,
            dropped_by,
            drop_reason,
            owed,
            sum
        ])?;
    for owed in &new.owed {
        let destination = match work.known_id(&owed.destination) {
            Some(number) => number,
            None => outbox::destination_id(work.db, owed.destination.as_str())?,
        };
        outbox::enqueue(work, (row, &new.event), destination, owed, now)?;
    }
    Ok(())
}
