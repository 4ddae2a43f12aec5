//! Retention: what ended long ago is let go, so that the store does not grow for ever.
//!
//! A delivery goes with its attempts once it was delivered, or dropped by an operator, long enough ago; a digest takes its
//! members with it; an event goes with its last delivery, and one that a rule dropped by its own age. What is still owed, held or
//! dead stays however old it is. Ids are remembered for ever, so an old event that is offered again is still known.
//!
//! Rows are visited by number, and numbers grow with time: no index is needed, which would cost every delivery a write. What is
//! let go is counted, so that an audit still adds up. The file does not shrink; its free pages are used again.

use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};

use super::work::Work;
use super::{Store, StoreError, schema};
use crate::model::Timestamp;
use crate::model::delivery::{Kind, State};

/// How far a round has come. Begin with the default, and take steps until it [is over](Self::is_over).
#[derive(Clone, Copy, Debug, Default)]
pub struct Walk {
    stage: Stage,
    /// The last row that need not be visited again.
    after: i64,
}

impl Walk {
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Deliveries,
    Events,
    Over,
}

/// What was let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// With digests and notices.
    pub deliveries: u64,
    pub events: u64,
}

/// Rows visited in one step.
const STEP: i64 = 1_000;
/// Others wait for the writer so long at most.
const WRITES_WITHIN: Duration = Duration::from_millis(20);

impl Store {
    /// One step of letting go what ended before `before`.
    pub async fn prune(&self, walk: &mut Walk, before: Timestamp) -> Result<Pruned, StoreError> {
        let Walk { stage, after } = *walk;
        let seen = self.read(move |db| match stage {
            Stage::Deliveries => visit(db, OLD_DELIVERIES, after, before),
            Stage::Events => visit(db, OLD_EVENTS, after, before),
            Stage::Over => Ok(Visit::default()),
        });
        let Visit { old, last, recent_only } = seen.await?;
        if recent_only {
            *walk = match stage {
                Stage::Deliveries => Walk { stage: Stage::Events, after: 0 },
                Stage::Events | Stage::Over => Walk { stage: Stage::Over, after },
            };
            return Ok(Pruned::default());
        }
        if old.is_empty() {
            walk.after = last;
            return Ok(Pruned::default());
        }
        let (pruned, stopped_before) = self.write(move |work| let_go(work, stage, &old, before)).await?;
        walk.after = stopped_before.map_or(last, |row| row - 1);
        Ok(pruned)
    }
}

/// A page of rows.
#[derive(Default)]
struct Visit {
    /// Those that can go.
    old: Vec<i64>,
    last: i64,
    /// None is old enough to have ended before; nor are those that follow.
    recent_only: bool,
}

/// Number, whether it is old enough to have ended before, whether it can go.
const OLD_DELIVERIES: &str =
    "SELECT d.id, coalesce(e.received_at, d.created_at) < ?2, d.state IN (2, 4) AND d.ended_at < ?2
    FROM delivery d LEFT JOIN event e ON e.id = d.event WHERE d.id > ?1 ORDER BY d.id LIMIT ?3";
const OLD_EVENTS: &str =
    "SELECT id, received_at < ?2, received_at < ?2 AND owed = 0 FROM event WHERE id > ?1 ORDER BY id LIMIT ?3";

fn visit(db: &Connection, page: &str, after: i64, before: Timestamp) -> rusqlite::Result<Visit> {
    let mut find = db.prepare_cached(page)?;
    let mut rows = find.query(params![after, before.as_millis(), STEP])?;
    let mut visit = Visit { recent_only: true, ..Visit::default() };
    while let Some(row) = rows.next()? {
        visit.last = row.get(0)?;
        visit.recent_only &= !row.get::<_, bool>(1)?;
        if row.get(2)? {
            visit.old.push(visit.last);
        }
    }
    Ok(visit)
}

/// Lets go of as many as there is time for; the second value is the first that is left.
fn let_go(
    work: &mut Work<'_>,
    stage: Stage,
    rows: &[i64],
    before: Timestamp,
) -> rusqlite::Result<(Pruned, Option<i64>)> {
    let (event, delivery) = work.last_rows();
    let mut keep = work.db.prepare_cached(
        "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
    )?;
    // Of the last rows, too, nothing may be left; later ones must not be taken for them.
    let kept =
        [(schema::PRUNED_BEFORE, before.as_millis()), (schema::LAST_EVENT, event), (schema::LAST_DELIVERY, delivery)];
    for (name, value) in kept {
        keep.execute(params![name, value])?;
    }
    let mut step = Step { began: Instant::now(), pruned: Pruned::default() };
    for row in rows {
        let gone = match stage {
            Stage::Deliveries => step.delivery(work, *row, before)?,
            Stage::Events | Stage::Over => step.event(work, *row)?,
        };
        if !gone {
            return Ok((step.pruned, Some(*row)));
        }
    }
    Ok((step.pruned, None))
}

struct Step {
    began: Instant,
    pruned: Pruned,
}

impl Step {
    fn time_is_up(&self) -> bool {
        self.began.elapsed() >= WRITES_WITHIN
    }

    /// Whether it need not be visited again.
    fn delivery(&mut self, work: &mut Work<'_>, row: i64, before: Timestamp) -> rusqlite::Result<bool> {
        if self.time_is_up() {
            return Ok(false);
        }
        let kind = work
            .db
            .prepare_cached("SELECT kind FROM delivery WHERE id = ?1 AND state IN (2, 4) AND ended_at < ?2")?
            .query_row(params![row, before.as_millis()], |row| row.get::<_, i64>(0))
            .optional()?;
        let Some(kind) = kind else { return Ok(true) };
        if matches!(Kind::from_code(kind), Some(Kind::Batch | Kind::Overflow)) {
            if !self.members(work, row)? {
                return Ok(false);
            }
            work.db.prepare_cached("DELETE FROM digest WHERE delivery = ?1")?.execute([row])?;
        }
        self.delete(work, row)?;
        Ok(true)
    }

    /// Whether all are gone.
    fn members(&mut self, work: &mut Work<'_>, digest: i64) -> rusqlite::Result<bool> {
        let mut find =
            work.db.prepare_cached("SELECT id FROM delivery INDEXED BY delivery_digest WHERE digest = ?1 LIMIT ?2")?;
        let members: Vec<i64> = find.query_map([digest, STEP], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut gone = 0;
        for member in &members {
            if self.time_is_up() {
                break;
            }
            self.delete(work, *member)?;
            gone += 1;
        }
        work.db
            .prepare_cached("UPDATE digest SET pruned = pruned + ?2 WHERE delivery = ?1")?
            .execute(params![digest, gone])?;
        Ok(usize::try_from(gone) == Ok(members.len()) && i64::try_from(members.len()).is_ok_and(|read| read < STEP))
    }

    fn delete(&mut self, work: &mut Work<'_>, row: i64) -> rusqlite::Result<()> {
        work.db.prepare_cached("DELETE FROM attempt WHERE delivery = ?1")?.execute([row])?;
        let (event, destination, state) = work
            .db
            .prepare_cached("DELETE FROM delivery WHERE id = ?1 RETURNING event, destination, state")?
            .query_row([row], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get(1)?, row.get(2)?)))?;
        if let Some(state) = State::from_code(state) {
            work.tally.add(destination, state, -1);
        }
        self.pruned.deliveries += 1;
        let Some(event) = event else { return Ok(()) };
        work.db
            .prepare_cached(
                "INSERT INTO pruned VALUES (?1, ?2, 1) ON CONFLICT (destination, state) DO UPDATE SET number = number + 1",
            )?
            .execute(params![destination, state])?;
        if !self.event(work, event)? {
            work.db.prepare_cached("UPDATE event SET owed = owed - 1 WHERE id = ?1")?.execute([event])?;
        }
        Ok(())
    }

    /// Whether it is gone: it stays as long as it has deliveries.
    fn event(&mut self, work: &mut Work<'_>, event: i64) -> rusqlite::Result<bool> {
        let gone = work
            .db
            .prepare_cached("DELETE FROM event WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM delivery WHERE event = ?1)")?
            .execute([event])?;
        self.pruned.events += gone as u64;
        Ok(gone > 0)
    }
}
