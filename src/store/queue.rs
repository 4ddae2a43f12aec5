//! The order of sending: which delivery of a destination is next, read and checked.

use std::collections::VecDeque;
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::checksum;
use super::outbox::{CRASHES_MAX, Claimed, Moved, What, timestamp};
use crate::model::delivery::{Kind, LaneKey};
use crate::model::{DestinationName, RuleName, Severity, Timestamp};

/// A delivery that may be the cause is sent while no other such one is, or the innocent would be set aside with it; another
/// looks again this much later.
const SUSPECTS_AGAIN: Duration = Duration::from_secs(1);

/// The deliveries of one destination in the order of sending: tiers of severity, and in a tier by number. Within a lane a
/// delivery that is not due holds those behind it.
pub(super) struct Queue {
    via: i64,
    most: usize,
    /// A probe may be any delivery that is due by then, also behind one that holds its lane.
    probe: Option<Timestamp>,
    now: Timestamp,
    /// All lanes with something ready, most urgent first.
    lanes: VecDeque<i64>,
    /// The lanes of the present tier, each with rows read ahead.
    tier: Vec<Ahead>,
}

struct Ahead {
    lane: i64,
    /// Numbers, and when each is due: the index has both, and rows are read only when they are chosen.
    rows: VecDeque<(i64, i64)>,
    /// The last row read.
    last: i64,
    /// Whether there may be more.
    more: bool,
}

/// Whether it is one of those that may have ended the process, while another of them is being sent.
fn must_wait(db: &Connection, candidate: &Candidate) -> rusqlite::Result<bool> {
    let Candidate::Due(due) = candidate else { return Ok(false) };
    if !due.may_repeat {
        return Ok(false);
    }
    db.prepare_cached(
        "SELECT 1 FROM delivery WHERE id = ?1 AND crashes = ?2 AND EXISTS
            (SELECT 1 FROM delivery o INDEXED BY delivery_sending WHERE o.state = 1 AND o.crashes = ?2)",
    )?
    .exists([due.row, CRASHES_MAX - 1])
}

pub(super) enum Candidate {
    Due(Box<Claimed>),
    /// The lane waits for this time.
    Waits(Timestamp),
    Damaged {
        row: i64,
        destination: i64,
        why: &'static str,
    },
}

impl Queue {
    pub(super) fn new(
        db: &Connection,
        via: i64,
        most: usize,
        probe: Option<Timestamp>,
        now: Timestamp,
    ) -> rusqlite::Result<Self> {
        Ok(Self { via, most, probe, now, lanes: lanes(db, via)?.into(), tier: Vec::new() })
    }

    pub(super) fn next(&mut self, db: &Connection) -> rusqlite::Result<Option<Candidate>> {
        loop {
            if self.tier.is_empty() && !self.enter_tier() {
                return Ok(None);
            }
            for ahead in &mut self.tier {
                // Most lanes hold only their share of what is wanted.
                ahead.refill(db, self.via, self.most)?;
            }
            self.tier.retain(|ahead| !ahead.rows.is_empty());
            let Some(first) = self.tier.iter_mut().min_by_key(|ahead| ahead.rows.front().map(|(row, ..)| *row)) else {
                continue;
            };
            let lane = first.lane;
            let Some((row, due)) = first.rows.pop_front() else { continue };
            let mut due = Timestamp::from_millis(due);
            if due <= self.probe.unwrap_or(self.now) {
                let candidate = candidate(db, row)?;
                if !must_wait(db, &candidate)? {
                    return Ok(Some(candidate));
                }
                due = self.now.plus(SUSPECTS_AGAIN);
            }
            if self.probe.is_none() {
                self.tier.retain(|ahead| ahead.lane != lane);
            }
            return Ok(Some(Candidate::Waits(due)));
        }
    }

    fn enter_tier(&mut self) -> bool {
        let Some(&first) = self.lanes.front() else { return false };
        let tier = LaneKey::from_number(first).tier();
        while let Some(&lane) = self.lanes.front()
            && LaneKey::from_number(lane).tier() == tier
        {
            self.lanes.pop_front();
            self.tier.push(Ahead { lane, rows: VecDeque::new(), last: 0, more: true });
        }
        true
    }
}

impl Ahead {
    fn refill(&mut self, db: &Connection, via: i64, most: usize) -> rusqlite::Result<()> {
        if !self.rows.is_empty() || !self.more {
            return Ok(());
        }
        let mut find = db.prepare_cached(IN_LANE)?;
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let mut rows = find.query(params![via, self.lane, self.last, limit])?;
        let mut read = 0;
        while let Some(row) = rows.next()? {
            // A time that is none is due, and found out when its row is read.
            self.rows.push_back((row.get(0)?, row.get(1).unwrap_or(0)));
            read += 1;
        }
        self.more = read == most;
        self.last = self.rows.back().map_or(self.last, |(row, ..)| *row);
        Ok(())
    }
}

const NEXT_LANE: &str =
    "SELECT min(lane) FROM delivery INDEXED BY delivery_ready WHERE via = ?1 AND state = 0 AND lane > ?2";
const IN_LANE: &str = "SELECT id, due_at FROM delivery INDEXED BY delivery_ready
     WHERE via = ?1 AND state = 0 AND lane = ?2 AND id > ?3 ORDER BY id LIMIT ?4";
const ONE: &str =
    "SELECT d.id, d.due_at, d.kind, d.event, d.destination, d.lane, d.rule, d.severity, d.tries, d.failures,
        d.plain, d.may_repeat, d.created_at, d.note, d.checksum,
        e.event_id, e.key, e.received_at, e.body, e.checksum,
        CASE WHEN d.via <> d.destination THEN (SELECT name FROM destination n WHERE n.id = d.destination) END,
        (SELECT first_at FROM digest g WHERE d.event IS NULL AND g.delivery = d.id),
        d.thread
     FROM delivery d LEFT JOIN event e ON e.id = d.event WHERE d.id = ?1";

/// The lanes of a destination that have something ready, most urgent first.
pub(super) fn lanes(db: &Connection, via: i64) -> rusqlite::Result<Vec<i64>> {
    let mut find = db.prepare_cached(NEXT_LANE)?;
    let mut lanes = Vec::new();
    while let Some(lane) =
        find.query_row(params![via, lanes.last().unwrap_or(&-1)], |row| row.get::<_, Option<i64>>(0))?
    {
        lanes.push(lane);
    }
    Ok(lanes)
}

fn candidate(db: &Connection, number: i64) -> rusqlite::Result<Candidate> {
    db.prepare_cached(ONE)?.query_row([number], |row| {
        let destination = row.get(4)?;
        match timestamp(row, 1).map_err(Unreadable::from).and_then(|_| read(row)) {
            Ok(claimed) => Ok(Candidate::Due(Box::new(claimed))),
            Err(Unreadable::Damaged(why)) => Ok(Candidate::Damaged { row: number, destination, why }),
            Err(Unreadable::Store(error)) => Err(error),
        }
    })
}

enum Unreadable {
    Damaged(&'static str),
    Store(rusqlite::Error),
}

impl From<rusqlite::Error> for Unreadable {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(..) => Self::Store(error),
            // A value of another type than the table holds, or text that is none.
            _ => Self::Damaged("its row"),
        }
    }
}

impl From<rusqlite::types::FromSqlError> for Unreadable {
    fn from(_: rusqlite::types::FromSqlError) -> Self {
        Self::Damaged("its row")
    }
}

/// What is read is what was written, as far as a checksum can tell.
fn read(row: &Row<'_>) -> Result<Claimed, Unreadable> {
    let kind: i64 = row.get(2)?;
    let event: Option<i64> = row.get(3)?;
    let destination: i64 = row.get(4)?;
    let rule = row.get_ref(6)?.as_str()?;
    let thread = row.get_ref(22)?.as_str_or_null()?;
    let sum = checksum::delivery(kind, event.unwrap_or(0), destination, row.get(5)?, (rule, thread));
    if row.get::<_, Option<i64>>(14)?.is_some_and(|kept| kept != sum) {
        return Err(Unreadable::Damaged("its row"));
    }
    let created_at = timestamp(row, 12)?;
    let note: Option<String> = row.get(13)?;
    let (what, received_at) = match (Kind::from_code(kind), event) {
        (Some(Kind::Event), Some(_)) => event_of(row)?,
        (Some(kind @ (Kind::Batch | Kind::Overflow)), None) => {
            let first: Option<i64> = row.get(21)?;
            (What::Digest(kind), first.map_or(created_at, Timestamp::from_millis))
        }
        (Some(Kind::Notice), None) => (What::Notice(note.clone().unwrap_or_default()), created_at),
        _ => return Err(Unreadable::Damaged("its row")),
    };
    let from: Option<String> = row.get(20)?;
    let why = note.unwrap_or_default();
    Ok(Claimed {
        row: row.get(0)?,
        number: row.get::<_, i64>(8)? + 1,
        failures: row.get(9)?,
        severity: Severity::from_rank(row.get(7)?),
        rule: RuleName::from(rule),
        plain: row.get(10)?,
        may_repeat: row.get(11)?,
        received_at,
        created_at,
        started_at: created_at,
        moved: from.map(|from| Moved { from: DestinationName::from(from.as_str()), why }),
        what,
        destination,
        thread: thread.map(str::to_owned),
    })
}

fn event_of(row: &Row<'_>) -> Result<(What, Timestamp), Unreadable> {
    let damaged = |_| Unreadable::Damaged("its event");
    let [id, key, body] = [15, 16, 18].map(|at| row.get_ref(at).map_err(Unreadable::from).map(|text| text.as_str()));
    let (id, key, body) = (id?.map_err(damaged)?, key?.map_err(damaged)?, body?.map_err(damaged)?);
    let received_at = timestamp(row, 17)?;
    let sum = checksum::event(id, key, received_at, body);
    if row.get::<_, Option<i64>>(19)?.is_some_and(|kept| kept != sum) {
        return Err(Unreadable::Damaged("its event"));
    }
    Ok((What::Record(body.into()), received_at))
}

/// What a lane asks of a table that may hold millions.
#[cfg(test)]
pub(super) const HOT: [&str; 3] = [NEXT_LANE, IN_LANE, ONE];
