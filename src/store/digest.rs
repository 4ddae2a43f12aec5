//! Digests: several deliveries told by one message.
//!
//! A digest is a delivery of its own, with members that point to it. While it is open, more may join; once it is sealed, its
//! members are fixed, so that a repeat tells the same. A batch is held, and open, until the time its rule gives it or until it
//! is full. A digest of what is more than the limits let through is ready at once, and open until it is claimed.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::queue::lanes;
use super::work::Work;
use super::{NewDelivery, Room, Store, StoreError, checksum, outbox, schema};
use crate::model::delivery::{Kind, LaneKey, State};
use crate::model::{Severity, Timestamp};

/// How a rule gathers an event with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBatch {
    /// What the members have in common.
    pub group: String,
    pub wait: std::time::Duration,
    /// At most so many members.
    pub max: u32,
}

/// What a digest's message is made of.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    pub members: u64,
    pub first: Timestamp,
    pub last: Timestamp,
    /// The thread that all members belong to, if it is one; told with the first events.
    pub thread: Option<String>,
    /// Of each member, in the order they came: the event as JSON, and when it was received. As many as memory should hold
    /// at a time.
    pub events: Vec<(String, Timestamp)>,
    /// Where [`Store::gathered_after`] goes on, if there may be more.
    pub next: Option<i64>,
}

/// Members of one digest of overflow.
pub(super) const MEMBERS_MAX: i64 = 10_000;
/// Members read at a time: no more than this many, and none after so many bytes.
const READ_AT_ONCE: i64 = 500;
const BYTES_AT_ONCE: usize = 1024 * 1024;
/// Deliveries folded in one transaction.
const FOLDED_AT_ONCE: usize = 1_000;
/// Batches made ready in one transaction: everybody waits for it.
const CLOSED_AT_ONCE: usize = 1_000;

impl Store {
    /// The first events of a digest. Those that were damaged on disk are left out.
    pub async fn gathered(&self, row: i64) -> Result<Gathered, StoreError> {
        self.gathered_after(row, 0).await
    }

    /// The events after those that an earlier call has read, which was told so by [`Gathered::next`].
    pub async fn gathered_after(&self, row: i64, after: i64) -> Result<Gathered, StoreError> {
        self.read(move |db| gathered(db, row, after)).await
    }

    /// Makes the batches of a destination whose time has come ready to be sent.
    pub async fn close_batches(&self, destination: i64, now: Timestamp) -> Result<Closed, StoreError> {
        self.write_with_room(move |work| close_held(work, destination, now)).await
    }

    /// If more waits than the `clears` messages that go out soon, folds what is beyond them, and beyond the room that the
    /// digests need themselves, into digests by rule and key, in the order of sending: never a critical one, none that was
    /// tried. Batches are taken apart for it. Works in steps; returns how many it folded, zero when nothing is left to fold.
    pub async fn fold(&self, destination: i64, clears: usize, now: Timestamp) -> Result<usize, StoreError> {
        let excess = self.read(move |db| excess(db, destination, clears)).await?;
        // On a full disk it waits, and keeps no answer from being recorded meanwhile.
        if excess.is_empty() || self.room() == Room::Low {
            return Ok(0);
        }
        self.write_with_room(move |work| {
            let mut folded = 0;
            for row in &excess {
                folded += fold_one(work, destination, *row, now)?;
                if folded >= FOLDED_AT_ONCE {
                    break;
                }
            }
            work.waits(destination);
            Ok(folded)
        })
        .await
    }
}

/// Finds or opens the batch that the delivery joins, and counts it in. A full batch is closed, and due at once.
pub(super) fn gather(
    work: &mut Work<'_>,
    destination: i64,
    owed: &NewDelivery,
    batch: &NewBatch,
    now: Timestamp,
) -> rusqlite::Result<i64> {
    let lane = LaneKey::new(owed.severity, owed.rule.as_str()).number();
    let open = Open {
        kind: Kind::Batch,
        destination,
        via: destination,
        lane,
        rule: owed.rule.as_str(),
        grouping: &batch.group,
    };
    let (digest, members) = match open.join(work.db, now)? {
        Some(found) => found,
        None => (open.make(work, owed.severity, State::Held, now.plus(batch.wait), now)?, 1),
    };
    if members >= i64::from(batch.max) {
        seal(work.db, digest)?;
        let closed = work
            .db
            .prepare_cached("UPDATE delivery SET state = 0, due_at = ?2 WHERE id = ?1 AND state = 6")?
            .execute(params![digest, now.as_millis()])?;
        if closed > 0 {
            work.tally.moved(destination, State::Held, State::Ready);
        }
    }
    Ok(digest)
}

/// Batches whose time has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// The oldest of them.
    pub first: Option<i64>,
    /// When the next one's time comes.
    pub next: Option<Timestamp>,
}

/// Makes the batches whose time has come ready to be sent, some at a time: if there are more, the next one's time is now.
pub(super) fn close_held(work: &mut Work<'_>, via: i64, now: Timestamp) -> rusqlite::Result<Closed> {
    let mut find = work.db.prepare_cached(
        "SELECT id, destination, due_at FROM delivery INDEXED BY delivery_held WHERE via = ?1 AND state = 6 ORDER BY due_at",
    )?;
    let mut due = Vec::new();
    let mut next = None;
    let mut rows = find.query([via])?;
    while let Some(row) = rows.next()? {
        let at = outbox::timestamp(row, 2)?;
        if at > now || due.len() == CLOSED_AT_ONCE {
            next = Some(at.max(now));
            break;
        }
        due.push((row.get::<_, i64>(0)?, row.get(1)?));
    }
    let first = due.iter().map(|(digest, _)| *digest).min();
    for (digest, destination) in due {
        seal(work.db, digest)?;
        work.db.prepare_cached("UPDATE delivery SET state = 0 WHERE id = ?1 AND state = 6")?.execute([digest])?;
        work.tally.moved(destination, State::Held, State::Ready);
    }
    Ok(Closed { first, next })
}

/// From now on the digest's members are fixed.
pub(super) fn seal(db: &Connection, digest: i64) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE digest SET open = 0 WHERE delivery = ?1 AND open = 1")?.execute([digest]).map(drop)
}

/// Names the open digest that an event may join.
struct Open<'a> {
    kind: Kind,
    destination: i64,
    via: i64,
    lane: i64,
    rule: &'a str,
    grouping: &'a str,
}

impl Open<'_> {
    /// Counts one more member; `None` if no such digest is open.
    fn join(&self, db: &Connection, received: Timestamp) -> rusqlite::Result<Option<(i64, i64)>> {
        db.prepare_cached(
            "UPDATE digest SET members = members + 1, first_at = min(first_at, ?5), last_at = max(last_at, ?5)
             WHERE destination = ?1 AND rule = ?2 AND lane = ?3 AND grouping = ?4 AND open = 1
             RETURNING delivery, members",
        )?
        .query_row(params![self.destination, self.rule, self.lane, self.grouping, received.as_millis()], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
    }

    fn make(
        &self,
        work: &mut Work<'_>,
        severity: Severity,
        state: State,
        due: Timestamp,
        received: Timestamp,
    ) -> rusqlite::Result<i64> {
        let Self { kind, destination, via, lane, rule, grouping } = *self;
        let sum = checksum::delivery(kind.code(), 0, destination, lane, (rule, None));
        let digest = work.next_delivery();
        work.db
            .prepare_cached(
                "INSERT INTO delivery (id, kind, destination, via, lane, rule, severity, state, due_at, created_at, checksum)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?
            .execute(params![
                digest,
                kind.code(),
                destination,
                via,
                lane,
                rule,
                severity.rank(),
                state.code(),
                due.as_millis(),
                received.as_millis(),
                sum
            ])?;
        work.db
            .prepare_cached(
                "INSERT INTO digest (delivery, destination, lane, rule, grouping, open, members, first_at, last_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, 1, 1, ?6, ?6)",
            )?
            .execute(params![digest, destination, lane, rule, grouping, received.as_millis()])?;
        work.tally.add(destination, state, 1);
        Ok(digest)
    }
}

/// What of a `clears` is kept for digests: for those that wait already, and for one more, or else for what is urgent.
fn room_for_digests(db: &Connection, via: i64, clears: usize) -> rusqlite::Result<usize> {
    let most = i64::try_from(clears).unwrap_or(i64::MAX);
    let waiting: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM digest g INDEXED BY digest_open JOIN delivery d ON d.id = g.delivery
                WHERE g.destination = ?1 AND g.open = 1 AND d.kind = 2 AND d.state = 0 AND d.via = ?1 LIMIT ?2)",
        )?
        .query_row([via, most], |row| row.get(0))?;
    Ok(usize::try_from(waiting).unwrap_or(usize::MAX).saturating_add(1))
}

/// Whether to take these batches apart makes no more messages than they are: their members may be of many keys.
fn is_worth_it(db: &Connection, via: i64, batches: &[i64]) -> rusqlite::Result<bool> {
    let mut keys = db.prepare_cached(
        "SELECT DISTINCT d.destination, d.lane, d.rule, e.key FROM delivery d INDEXED BY delivery_digest
         JOIN event e ON e.id = d.event WHERE d.digest = ?1",
    )?;
    let mut is_open = db.prepare_cached(
        "SELECT 1 FROM digest INDEXED BY digest_open
         WHERE destination = ?1 AND rule = ?2 AND lane = ?3 AND grouping = ?4 AND open = 1",
    )?;
    let mut needed = BTreeSet::new();
    for batch in batches {
        let mut rows = keys.query([batch])?;
        while let Some(row) = rows.next()? {
            let (destination, lane): (i64, i64) = (row.get(0)?, row.get(1)?);
            let (rule, key): (String, String) = (row.get(2)?, row.get(3)?);
            let grouping = grouping(&key, via, destination);
            if !is_open.exists(params![destination, rule, lane, grouping])? {
                needed.insert((destination, lane, rule, grouping));
            }
        }
    }
    Ok(needed.len() <= batches.len())
}

/// What is to be folded now, in the order of sending.
fn excess(db: &Connection, via: i64, clears: usize) -> rusqlite::Result<Vec<i64>> {
    let mut found = beyond(db, via, clears)?;
    let mut is_batch = db.prepare_cached("SELECT 1 FROM delivery WHERE id = ?1 AND kind = 1")?;
    let mut batches = Vec::new();
    for row in &found {
        if is_batch.exists([row])? {
            batches.push(*row);
        }
    }
    if !is_worth_it(db, via, &batches)? {
        found.retain(|row| !batches.contains(row));
    }
    Ok(found)
}

/// What is beyond the deliveries that are sent soonest, in the order of sending, as far as one step folds it: so the digests
/// that are made first, and go first, tell what came first.
fn beyond(db: &Connection, via: i64, clears: usize) -> rusqlite::Result<Vec<i64>> {
    let foldable = LaneKey::first(Severity::High).number();
    let beyond = i64::try_from(clears.saturating_add(1)).unwrap_or(i64::MAX);
    let waiting: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM delivery INDEXED BY delivery_ready
                WHERE via = ?1 AND state = 0 AND lane >= ?2 LIMIT ?3)",
        )?
        .query_row(params![via, foldable, beyond], |row| row.get(0))?;
    if waiting < beyond {
        return Ok(Vec::new());
    }
    let mut soonest = db.prepare_cached(
        "SELECT id FROM delivery INDEXED BY delivery_ready WHERE via = ?1 AND state = 0 AND lane = ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut untried = db.prepare_cached("SELECT 1 FROM delivery WHERE id = ?1 AND kind IN (0, 1) AND tries = 0")?;
    let mut keep = clears.saturating_sub(room_for_digests(db, via, clears)?);
    let mut found = Vec::new();
    let lanes: Vec<_> = lanes(db, via)?.into_iter().filter(|lane| *lane >= foldable).collect();
    for tier in lanes.chunk_by(|one, other| LaneKey::from_number(*one).tier() == LaneKey::from_number(*other).tier()) {
        let most = i64::try_from(keep.saturating_add(2 * FOLDED_AT_ONCE)).unwrap_or(i64::MAX);
        let mut rows: Vec<i64> = Vec::new();
        for lane in tier {
            for row in soonest.query_map(params![via, lane, most], |row| row.get(0))? {
                rows.push(row?);
            }
        }
        rows.sort_unstable();
        for &row in rows.iter().skip(keep) {
            if found.len() == FOLDED_AT_ONCE {
                return Ok(found);
            }
            if untried.exists([row])? {
                found.push(row);
            }
        }
        keep = keep.saturating_sub(rows.len());
    }
    Ok(found)
}

/// How many events of it are told by overflow now; none if it has been claimed since it was found.
fn fold_one(work: &mut Work<'_>, via: i64, row: i64, now: Timestamp) -> rusqlite::Result<usize> {
    let found = work
        .db
        .prepare_cached(
            "SELECT destination, kind FROM delivery
             WHERE id = ?1 AND via = ?2 AND state = 0 AND tries = 0 AND kind IN (0, 1)",
        )?
        .query_row([row, via], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))
        .optional()?;
    let Some((destination, kind)) = found else { return Ok(0) };
    if kind == Kind::Batch.code() {
        return take_apart(work, (via, destination), row, now);
    }
    if !tell_by_overflow(work, via, row, now)? {
        return Ok(0);
    }
    work.tally.moved(destination, State::Ready, State::Folded);
    Ok(1)
}

/// Lets the members of a batch that was never tried be told by overflow instead. Nobody has seen its name; the number is not
/// given again.
fn take_apart(
    work: &mut Work<'_>,
    (via, destination): (i64, i64),
    batch: i64,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    let members = {
        let mut find = work.db.prepare_cached(MEMBERS)?;
        find.query_map([batch], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<(i64, bool)>>>()?
    };
    if members.iter().any(|(_, has_event)| !has_event) {
        return Ok(0);
    }
    for (member, _) in &members {
        tell_by_overflow(work, via, *member, now)?;
    }
    work.db.prepare_cached("DELETE FROM digest WHERE delivery = ?1")?.execute([batch])?;
    work.db.prepare_cached("DELETE FROM delivery WHERE id = ?1")?.execute([batch])?;
    schema::set_meta(work.db, schema::LAST_DELIVERY, work.last_rows().1)?;
    work.tally.add(destination, State::Ready, -1);
    Ok(members.len())
}

/// Each with whether its event is there, as it must be; a damaged batch is left alone.
const MEMBERS: &str =
    "SELECT d.id, e.id IS NOT NULL FROM delivery d INDEXED BY delivery_digest LEFT JOIN event e ON e.id = d.event
     WHERE d.digest = ?1 ORDER BY d.id";

/// Points the delivery of an event to the digest of overflow that tells it, which is made if there is none; `false` if the
/// event is not there, which claiming it finds out.
fn tell_by_overflow(work: &mut Work<'_>, via: i64, row: i64, now: Timestamp) -> rusqlite::Result<bool> {
    let found = work
        .db
        .prepare_cached(
            "SELECT d.destination, d.lane, d.rule, d.severity, e.key, e.received_at
             FROM delivery d JOIN event e ON e.id = d.event WHERE d.id = ?1",
        )?
        .query_row([row], |row| {
            let severity = Severity::from_rank(row.get(3)?);
            let received = outbox::timestamp(row, 5)?;
            Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?, severity, row.get::<_, String>(4)?, received))
        })
        .optional()?;
    let Some((destination, lane, rule, severity, key, received)) = found else { return Ok(false) };
    let grouping = grouping(&key, via, destination);
    let open = Open { kind: Kind::Overflow, destination, via, lane, rule: &rule, grouping: &grouping };
    let (digest, members) = match open.join(work.db, received)? {
        Some(found) => found,
        None => (open.make(work, severity, State::Ready, now, received)?, 1),
    };
    if members >= MEMBERS_MAX {
        seal(work.db, digest)?;
    }
    work.db.prepare_cached("UPDATE delivery SET state = 5, digest = ?2 WHERE id = ?1")?.execute([row, digest])?;
    Ok(true)
}

/// What came another way is told apart from the destination's own.
fn grouping(key: &str, via: i64, destination: i64) -> String {
    if via == destination { key.to_owned() } else { format!("{key} via {via}") }
}

/// Null unless all members name the same.
const COMMON_THREAD: &str =
    "SELECT CASE WHEN count(thread) = count(*) AND min(thread) = max(thread) THEN min(thread) END
     FROM delivery INDEXED BY delivery_digest WHERE digest = ?1";

fn gathered(db: &Connection, row: i64, after: i64) -> rusqlite::Result<Gathered> {
    let mut gathered = db
        .prepare_cached("SELECT members, first_at, last_at FROM digest WHERE delivery = ?1")?
        .query_row([row], |row| {
            let members: i64 = row.get(0)?;
            Ok(Gathered {
                members: members.unsigned_abs(),
                first: outbox::timestamp(row, 1)?,
                last: outbox::timestamp(row, 2)?,
                ..Gathered::default()
            })
        })?;
    if after == 0 {
        gathered.thread = db.prepare_cached(COMMON_THREAD)?.query_row([row], |row| row.get(0))?;
    }
    let mut find = db.prepare_cached(
        "SELECT e.event_id, e.key, e.received_at, e.body, e.checksum, d.id FROM delivery d INDEXED BY delivery_digest
         JOIN event e ON e.id = d.event WHERE d.digest = ?1 AND d.id > ?2 ORDER BY d.id LIMIT ?3",
    )?;
    let mut rows = find.query([row, after, READ_AT_ONCE])?;
    let mut bytes = 0;
    while bytes < BYTES_AT_ONCE
        && let Some(row) = rows.next()?
    {
        gathered.next = Some(row.get(5)?);
        let [id, key, body] = [0, 1, 3].map(|at| row.get::<_, String>(at));
        // What cannot be read is left out here; the audit names it.
        let (Ok(id), Ok(key), Ok(body)) = (id, key, body) else { continue };
        let received = outbox::timestamp(row, 2)?;
        let sum = checksum::event(&id, &key, received, &body);
        if row.get::<_, Option<i64>>(4)?.is_none_or(|kept| kept == sum) {
            bytes += body.len();
            gathered.events.push((body, received));
        }
    }
    Ok(gathered)
}
