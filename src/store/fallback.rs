//! Deliveries that are sent by another destination's lane: given to a fallback, and brought home again.

use rusqlite::{Connection, OptionalExtension, params};

use super::outbox::{destination_id, is_taking, known_id, timestamp};
use super::queue::lanes;
use super::{Store, StoreError, checksum, digest};
use crate::model::delivery::{Kind, LaneKey, State};
use crate::model::{DestinationName, Severity, Timestamp};

/// Which deliveries go to a fallback.
#[derive(Clone, Copy, Debug)]
pub struct Movable {
    pub before: Timestamp,
    /// Those after this number; [`Handed::seen`] of the last call.
    pub after: i64,
}

/// What a step of [`Store::move_to_fallback`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handed {
    pub moved: usize,
    /// The last delivery looked at: the next call need not look at it again.
    pub seen: i64,
    /// When the first that is too young to be moved became owed.
    pub young: Option<Timestamp>,
}

/// Deliveries moved to a fallback in one transaction, and as many are looked at.
const MOVED_AT_ONCE: usize = 500;
const LOOKED_AT: i64 = 500;

impl Store {
    /// Gives what `from` owes to `to` to send, in steps: deliveries that became owed at or before `before`, but not those
    /// whose events `to` is owed itself; and while `to` takes nothing either, one at a time.
    pub async fn move_to_fallback(
        &self,
        from: i64,
        to: DestinationName,
        which: Movable,
        why: String,
        now: Timestamp,
    ) -> Result<Handed, StoreError> {
        let looking = to.clone();
        let looking = move |db: &Connection| {
            // A destination that nothing was ever owed to has no number.
            let to = known_id(db, looking.as_str())?.unwrap_or(0);
            match room_at(db, to)? {
                0 => Ok((Vec::new(), Handed { seen: which.after, ..Handed::default() })),
                most => movable(db, from, to, which, most),
            }
        };
        let (rows, handed) = self.read(looking).await?;
        if rows.is_empty() {
            return Ok(handed);
        }
        self.write_with_room(move |work| {
            let to = destination_id(work.db, to.as_str())?;
            let mut handed = handed;
            for row in &rows {
                handed.moved += work
                    .db
                    .prepare_cached(
                        "UPDATE delivery SET via = ?2, note = ?3, due_at = ?4, failures = 0 WHERE id = ?1 AND state = 0",
                    )?
                    .execute(params![row, to, why, now.as_millis()])?;
                // What comes later is the destination's own again.
                digest::seal(work.db, *row)?;
            }
            work.waits(to);
            Ok(handed)
        })
        .await
    }

    /// What one destination has given to its fallback comes home if that takes nothing now; for one that takes messages again.
    pub async fn bring_home_from_sick(
        &self,
        home: i64,
        fallback: DestinationName,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let name = fallback.clone();
        let is_sick = move |db: &Connection| match known_id(db, name.as_str())? {
            Some(fallback) => Ok(!is_taking(db, fallback)?),
            None => Ok(false),
        };
        if self.read(is_sick).await? { self.bring_home(fallback, Some(home), now).await } else { Ok(()) }
    }

    /// Gives back to their own destinations what waits at fallbacks that are not among these any more.
    pub async fn bring_home_from_others(&self, present: &[DestinationName], now: Timestamp) -> Result<(), StoreError> {
        let all = self.read(|db| {
            let mut all = db.prepare_cached("SELECT name FROM destination")?;
            let all = all.query_map([], |row| Ok(DestinationName::from(row.get_ref(0)?.as_str()?)))?;
            all.collect::<rusqlite::Result<Vec<_>>>()
        });
        for gone in all.await?.into_iter().filter(|name| !present.contains(name)) {
            self.bring_home(gone, None, now).await?;
        }
        Ok(())
    }

    /// Gives back to their own destinations what waits at this one for others, or for `only`; in steps.
    pub async fn bring_home(&self, via: DestinationName, only: Option<i64>, now: Timestamp) -> Result<(), StoreError> {
        loop {
            let via = via.clone();
            let find = move |db: &Connection| {
                let Some(via) = known_id(db, via.as_str())? else { return Ok((0, Vec::new())) };
                let mut find = db.prepare_cached(AWAY)?;
                let rows = find.query_map(params![via, only, LOOKED_AT], |row| row.get(0))?;
                Ok((via, rows.collect::<rusqlite::Result<Vec<i64>>>()?))
            };
            let (via, rows) = self.read(find).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let moving = self.write(move |work| {
                let mut home = work.db.prepare_cached(
                    "UPDATE delivery SET via = destination, note = NULL, due_at = ?3 WHERE id = ?1 AND via = ?2 AND state = 0
                     RETURNING destination",
                )?;
                for row in &rows {
                    let moved = home.query_row(params![row, via, now.as_millis()], |row| row.get(0)).optional()?;
                    if let Some(destination) = moved {
                        work.waits(destination);
                    }
                }
                Ok(())
            });
            moving.await?;
        }
    }

    /// Queues a notice about a destination that refuses messages, to be sent by another.
    pub async fn notify(
        &self,
        about: i64,
        to: DestinationName,
        reason: String,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write_with_room(move |work| {
            let to = destination_id(work.db, to.as_str())?;
            let lane = LaneKey::new(Severity::Critical, "notice").number();
            let sum = checksum::delivery(Kind::Notice.code(), 0, about, lane, ("notice", None));
            work.db
                .prepare_cached(
                    "INSERT INTO delivery (id, kind, destination, via, lane, rule, severity, state, due_at, created_at, note,
                        checksum)
                     VALUES (?1, 3, ?2, ?3, ?4, 'notice', ?5, 0, ?6, ?6, ?7, ?8)",
                )?
                .execute(params![work.next_delivery(), about, to, lane, Severity::Critical.rank(), now.as_millis(), reason, sum])?;
            work.tally.add(about, State::Ready, 1);
            work.waits(to);
            Ok(())
        })
        .await
    }
}

/// By an index that holds nothing else: what a destination is owed itself may be a million rows.
const AWAY: &str = "SELECT id FROM delivery INDEXED BY delivery_away
     WHERE via = ?1 AND via <> destination AND state IN (0, 1) AND state = 0 AND kind <> 3 AND (?2 IS NULL OR destination = ?2)
     LIMIT ?3";
const WAITING_IN_LANE: &str = "SELECT id FROM delivery INDEXED BY delivery_ready
     WHERE via = ?1 AND state = 0 AND lane = ?2 AND id > ?3 ORDER BY id LIMIT ?4";
const MOVABLE: &str = "SELECT created_at, destination = via AND kind <> 3 FROM delivery WHERE id = ?1";
/// An event that the destination is owed itself, and a digest of nothing else.
const TOLD: &str = "SELECT CASE kind
        WHEN 0 THEN EXISTS (SELECT 1 FROM delivery o WHERE o.event = d.event AND o.destination = ?2)
        ELSE NOT EXISTS (SELECT 1 FROM delivery m INDEXED BY delivery_digest WHERE m.digest = d.id AND NOT EXISTS
                            (SELECT 1 FROM delivery o WHERE o.event = m.event AND o.destination = ?2))
        END
     FROM delivery d WHERE id = ?1";

/// Whether the destination is told all that the delivery tells in any case.
pub(super) fn is_told(db: &Connection, row: i64, to: i64) -> rusqlite::Result<bool> {
    db.prepare_cached(TOLD)?.query_row([row, to], |row| row.get(0))
}

/// How many deliveries a fallback may be given at once. One that took nothing when it was last heard of gets one, to find out
/// whether it has been mended, and no more while that waits.
pub(super) fn room_at(db: &Connection, to: i64) -> rusqlite::Result<usize> {
    if is_taking(db, to)? {
        return Ok(MOVED_AT_ONCE);
    }
    let waits = WAITS
        .iter()
        .try_fold(false, |waits, sql| Ok::<_, rusqlite::Error>(waits || db.prepare_cached(sql)?.exists([to])?));
    waits.map(|waits| usize::from(!waits))
}

const WAITS: [&str; 2] = [
    "SELECT 1 FROM delivery INDEXED BY delivery_ready WHERE via = ?1 AND state = 0 LIMIT 1",
    "SELECT 1 FROM delivery INDEXED BY delivery_sending WHERE state = 1 AND via = ?1 LIMIT 1",
];

/// The next deliveries that may be moved. Asked lane by lane, as the index has them: with a backlog of a million, to sort all
/// of it for each step would take hours.
fn movable(db: &Connection, from: i64, to: i64, which: Movable, most: usize) -> rusqlite::Result<(Vec<i64>, Handed)> {
    let mut waiting = db.prepare_cached(WAITING_IN_LANE)?;
    let mut rows: Vec<i64> = Vec::new();
    for lane in lanes(db, from)? {
        for row in waiting.query_map(params![from, lane, which.after, LOOKED_AT], |row| row.get(0))? {
            rows.push(row?);
        }
    }
    rows.sort_unstable();
    rows.truncate(MOVED_AT_ONCE);
    let mut look = db.prepare_cached(MOVABLE)?;
    let mut found = Vec::new();
    let mut handed = Handed { moved: 0, seen: which.after, young: None };
    for row in rows {
        if found.len() == most {
            break;
        }
        let (since, movable): (Timestamp, bool) = look.query_row([row], |row| Ok((timestamp(row, 0)?, row.get(1)?)))?;
        if since > which.before {
            // Numbers grow with time, but for what an operator has sent again.
            handed.young = Some(handed.young.map_or(since, |young: Timestamp| young.min(since)));
        } else if movable && !is_told(db, row, to)? {
            found.push(row);
        }
        if handed.young.is_none() {
            handed.seen = row;
        }
    }
    Ok((found, handed))
}

/// What a lane asks of a table that may hold millions.
#[cfg(test)]
pub(super) const HOT: [&str; 4] = [WAITING_IN_LANE, MOVABLE, TOLD, AWAY];
