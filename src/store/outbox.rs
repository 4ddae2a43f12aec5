//! Deliveries owed: enqueued, claimed, settled. What is next is told by [`queue`](super::queue).

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::queue::{Candidate, Queue, lanes};
use super::work::{OutletId, Tally, Work};
use super::{NewDelivery, Room, Store, StoreError, checksum, digest, fallback, schema, thread};
use crate::model::delivery::{Kind, LaneKey, State};
use crate::model::{Condition, DestinationName, Event, Health, Outcome, Report, RuleName, Severity, Timestamp};

/// A delivery whose attempt is on record as started. The caller sends it once and settles it.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub row: i64,
    /// The number of this attempt, from 1.
    pub number: i64,
    /// Attempts before this one that count against it.
    pub failures: u32,
    pub severity: Severity,
    pub rule: RuleName,
    /// Send the small plain message instead of the template's.
    pub plain: bool,
    /// The outcome of an earlier attempt is unknown.
    pub may_repeat: bool,
    /// When the event was taken in; of a digest, the first of them.
    pub received_at: Timestamp,
    /// When it became owed, or was last sent again by an operator; giving up counts from here.
    pub created_at: Timestamp,
    pub started_at: Timestamp,
    /// Set when it goes another way than to the destination it is owed to.
    pub moved: Option<Moved>,
    pub what: What,
    /// To whom it is owed.
    pub destination: i64,
    /// What its message belongs with; of a digest, [`Gathered::thread`](super::Gathered::thread) tells.
    pub thread: Option<String>,
}

impl Claimed {
    /// Whether it tells one event.
    pub fn is_event(&self) -> bool {
        matches!(self.what, What::Event(_) | What::Record(_))
    }

    #[cfg(test)]
    pub fn sample(received_at: Timestamp) -> Self {
        Self {
            row: 1,
            number: 1,
            failures: 0,
            severity: Severity::Info,
            rule: RuleName::from("all"),
            plain: false,
            may_repeat: false,
            received_at,
            created_at: received_at,
            started_at: received_at,
            moved: None,
            what: What::Record("".into()),
            destination: 1,
            thread: None,
        }
    }
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Event(Arc<Event>),
    /// An event as it is on disk: its record as JSON.
    Record(Arc<str>),
    /// [`Store::gathered`] has it.
    Digest(Kind),
    /// Of the destination that it is owed to: it refuses messages, with this answer.
    Notice(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub from: DestinationName,
    pub why: String,
}

/// What follows from an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    Delivered,
    /// To be sent again at `at`.
    Again {
        at: Timestamp,
        /// Whether the attempt counts against the delivery.
        counts: bool,
        /// Whether it may have arrived all the same.
        may_repeat: bool,
        /// Whether to send the small plain message from now on.
        plain: bool,
    },
    /// To be sent by another destination. Where that is owed the event itself, or takes nothing either while there is
    /// something else to do, `otherwise` follows: `Again` or `Dead`.
    Fallback {
        to: DestinationName,
        why: String,
        may_repeat: bool,
        otherwise: Box<Settlement>,
    },
    Dead {
        reason: String,
    },
    /// Nothing was sent: the lane stopped before it could be.
    NotStarted,
}

/// An attempt that has ended, and what follows.
#[derive(Clone, Debug)]
pub struct Ended {
    pub claimed: Claimed,
    pub at: Timestamp,
    pub report: Report,
    pub settlement: Settlement,
}

/// One step of a lane: answers to record, and attempts to start, in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    pub ended: Arc<[Ended]>,
    /// At most so many attempts start; zero also withdraws the lane's offer.
    pub claim: usize,
    /// How many deliveries the lane has got as they were made: those on their way to it need their slots too.
    pub received: u64,
    /// If nothing more waits: whether intake may start as many as are left, as new work comes.
    pub offer: bool,
    /// The lane has looked lately: it need not look again for what waits, if all that came since was given to it. It takes
    /// that at once; otherwise it waits with it until this turn has ended.
    pub looked: bool,
    /// Look past deliveries that hold their lane: a probe wants something to send.
    pub probe: bool,
    /// Keeps the whole destination from being sent to before that time.
    pub hold: Option<Timestamp>,
    /// How the destination does, if that has changed.
    pub health: Option<Health>,
    /// How long a send counts against the destination's limits; `None` without limits.
    pub remember: Option<Duration>,
}

impl Turn {
    /// Whether there is nothing to be found unless something has come to wait since the last turn.
    fn finds_nothing(&self) -> bool {
        let news = self.probe || self.hold.is_some() || self.health.is_some();
        self.looked && self.offer && !news && self.ended.iter().all(|ended| ended.settlement == Settlement::Delivered)
    }
}

/// What a lane may start.
#[derive(Debug, Default)]
pub struct Taken {
    pub claimed: Vec<Claimed>,
    /// When the next delivery that is not due yet will be.
    pub next: Option<Timestamp>,
    /// How many of those that ended went to the fallback.
    pub moved: usize,
    /// All that waited has been claimed, and intake may give the lane what comes.
    pub offered: bool,
    /// How many deliveries had been given to the lane before, in all.
    pub given: u64,
}

/// What a lane needs to go on where an earlier process, or an earlier rules file, stopped.
#[derive(Debug)]
pub struct Pacing {
    /// Until when the destination asked to be left alone.
    pub hold: Timestamp,
    pub health: Health,
    /// When its latest attempts ended.
    pub sends: Vec<Timestamp>,
}

/// So often in a row may the process end while a delivery is being sent before that is taken for the cause.
pub(super) const CRASHES_MAX: i64 = 3;
/// Attempts kept of one delivery: the first ones and the latest.
const ATTEMPTS_KEPT: i64 = 50;

impl Store {
    /// Records answers, then claims due deliveries: urgent before old, then in the order they came. When this returns, all of
    /// it is on disk.
    pub async fn turn(&self, outlet: OutletId, turn: Turn, now: Timestamp) -> Result<Taken, StoreError> {
        let boot = self.shared.boot;
        let room = self.shared.writer.room();
        self.write(move |work| {
            for ended in &*turn.ended {
                settle(work, outlet.destination, boot, ended, turn.remember)?;
            }
            if turn.hold.is_some() || turn.health.is_some() {
                keep_pacing(work.db, outlet.destination, turn.hold, turn.health.as_ref())?;
            }
            if turn.health.as_ref().is_some_and(|health| health.condition == Condition::Taking) {
                release(work.db, outlet.destination, now)?;
            }
            // On a full disk answers are recorded, but nothing is started whose answer might find no room.
            if turn.claim == 0 || *room.borrow() == Room::Low {
                work.withdraw(outlet);
                return Ok(Taken { moved: work.moved, ..Taken::default() });
            }
            let given = work.given(outlet).unwrap_or(turn.received);
            // Those on their way to the lane need their slots too.
            let on_the_way = usize::try_from(given.saturating_sub(turn.received)).unwrap_or(usize::MAX);
            let most = turn.claim.saturating_sub(on_the_way);
            if turn.finds_nothing() && work.nothing_waits(outlet) {
                work.offer(outlet, most);
                return Ok(Taken { offered: true, given, ..Taken::default() });
            }
            let mut taken = claim(work, outlet.destination, most, turn.probe.then_some(now), now)?;
            if turn.probe && taken.claimed.is_empty() && taken.next.is_some() {
                // Better one that was to let others go first than none.
                taken = claim(work, outlet.destination, most, Some(Timestamp::from_millis(i64::MAX)), now)?;
            }
            // Where the lane could take more than it got, nothing waits any more. A lane that has looked lately starts what it is
            // given before it has this answer: what is claimed here comes first.
            let free = most - taken.claimed.len();
            if free > 0 && turn.offer && taken.next.is_none() && (taken.claimed.is_empty() || !turn.looked) {
                work.offer(outlet, free);
                taken.offered = true;
            } else {
                work.withdraw(outlet);
            }
            Ok(Taken { moved: work.moved, given, ..taken })
        })
        .await
    }

    /// What limits and breaker must know of the past: of sends, the latest `most` since `since`.
    pub async fn pacing(&self, destination: i64, since: Timestamp, most: usize) -> Result<Pacing, StoreError> {
        self.read(move |db| {
            let hold: i64 =
                db.query_row("SELECT hold_until FROM destination WHERE id = ?1", [destination], |row| row.get(0))?;
            let (hold, health) = (Timestamp::from_millis(hold), health(db, destination)?);
            Ok(Pacing { hold, health, sends: sends(db, destination, since, most)? })
        })
        .await
    }

    /// When the latest `most` sends of a destination ended, as far back as `since`.
    pub async fn sends(&self, name: &str, since: Timestamp, most: usize) -> Result<Vec<Timestamp>, StoreError> {
        let name = name.to_owned();
        self.read(move |db| match known_id(db, &name)? {
            Some(destination) => sends(db, destination, since, most),
            None => Ok(Vec::new()),
        })
        .await
    }

    /// How many deliveries a destination is owed and waits for.
    pub async fn owed_by(&self, name: &str) -> Result<u64, StoreError> {
        let name = name.to_owned();
        self.read(move |db| {
            db.prepare_cached(
                "SELECT coalesce(sum(number), 0) FROM tally
                 WHERE destination = (SELECT id FROM destination WHERE name = ?1) AND state IN (0, 1)",
            )?
            .query_row([name], |row| row.get::<_, i64>(0))
        })
        .await
        .map(i64::unsigned_abs)
    }
}

/// How a destination does, as far as its lane has put it on record.
fn health(db: &Connection, destination: i64) -> rusqlite::Result<Health> {
    let mut find = db.prepare_cached("SELECT health FROM destination WHERE id = ?1")?;
    let health: Option<String> = find.query_row([destination], |row| row.get(0)).optional()?.flatten();
    Ok(health.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// Whether the destination took messages when it was last heard of.
pub(super) fn is_taking(db: &Connection, destination: i64) -> rusqlite::Result<bool> {
    Ok(health(db, destination)?.condition == Condition::Taking)
}

/// The number of a destination, made at its first mention.
pub(super) fn destination_id(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    match known_id(db, name)? {
        Some(id) => Ok(id),
        None => db.prepare_cached("INSERT INTO destination (name) VALUES (?1)")?.insert([name]),
    }
}

pub(super) fn known_id(db: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    db.prepare_cached("SELECT id FROM destination WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

fn sends(db: &Connection, destination: i64, since: Timestamp, most: usize) -> rusqlite::Result<Vec<Timestamp>> {
    let mut find =
        db.prepare_cached("SELECT at, number FROM sent WHERE destination = ?1 AND at >= ?2 ORDER BY at DESC LIMIT ?3")?;
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let mut rows = find.query(params![destination, since.as_millis(), limit])?;
    let mut sends = Vec::new();
    while let Some(row) = rows.next()? {
        let number = usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        let at = timestamp(row, 0)?;
        sends.extend(std::iter::repeat_n(at, number.min(most - sends.len().min(most))));
    }
    Ok(sends)
}

/// Makes the delivery of one event. If the destination's lane offered to take it, its attempt starts with this.
pub(super) fn enqueue(
    work: &mut Work<'_>,
    (event, told): (i64, &Arc<Event>),
    destination: i64,
    owed: &NewDelivery,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let lane = LaneKey::new(owed.severity, told.key.as_str()).number();
    let (rule, thread) = (owed.rule.as_str(), owed.thread.as_deref());
    let sum = checksum::delivery(Kind::Event.code(), event, destination, lane, (rule, thread));
    work.tally.owed += 1;
    let folded = match &owed.batch {
        Some(batch) => Some(digest::gather(work, destination, owed, batch, now)?),
        None => None,
    };
    let offered = if folded.is_none() { work.offered(destination) } else { None };
    let (state, started) = match (&folded, &offered) {
        (Some(_), _) => (State::Folded, None),
        (None, Some(_)) => (State::Sending, Some(now.as_millis())),
        (None, None) => (State::Ready, None),
    };
    let row = work.next_delivery();
    work.db
        .prepare_cached(
            "INSERT INTO delivery (id, kind, event, destination, via, lane, rule, severity, state, due_at, created_at,
                started_at, tries, digest, checksum, thread)
             VALUES (?1, 0, ?2, ?3, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10, ?11, ?12, ?13)",
        )?
        .execute(params![
            row,
            event,
            destination,
            lane,
            rule,
            owed.severity.rank(),
            state.code(),
            now.as_millis(),
            started,
            i64::from(offered.is_some()),
            folded,
            sum,
            thread
        ])?;
    work.tally.add(destination, state, 1);
    let Some(taker) = offered else {
        work.waits(destination);
        return Ok(());
    };
    let claimed = Claimed {
        row,
        number: 1,
        failures: 0,
        severity: owed.severity,
        rule: owed.rule.clone(),
        plain: false,
        may_repeat: false,
        received_at: now,
        created_at: now,
        started_at: now,
        moved: None,
        what: What::Event(Arc::clone(told)),
        destination,
        thread: owed.thread.clone(),
    };
    work.hand_over(destination, taker, claimed);
    Ok(())
}

/// Counts the boot. Whatever an earlier process was sending may have been sent: it becomes ready at once, marked so. What
/// was being sent at each of several ends in a row may be their cause, and is set aside; but not if the process closed the
/// store (`clean`), as it does when a destination has not answered by the deadline of a stop.
pub(super) fn start_boot(connection: &mut Connection, clean: bool, now: Timestamp) -> rusqlite::Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let boot = transaction.query_row(
        "INSERT INTO meta (name, value) VALUES ('boot', 1)
         ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
        [],
        |row| row.get(0),
    )?;
    schema::set_meta(&transaction, schema::CLEAN, 0)?;
    take_back_clock(&transaction, now)?;
    schema::set_meta(&transaction, schema::OPENED_AT, now.as_millis())?;
    let mut tally = Tally::default();
    for (row, destination, via, crashes) in interrupted(&transaction)? {
        end_interrupted(&transaction, row, via, boot, now)?;
        let crashes = if clean { crashes } else { crashes + 1 };
        let state = if crashes >= CRASHES_MAX { State::Dead } else { State::Ready };
        let reason = match state {
            State::Dead => format!("quarantined: the relay ended {crashes} times in a row while it was sending this"),
            _ => "the relay stopped before the answer".to_owned(),
        };
        transaction
            .prepare_cached(
                "UPDATE delivery SET state = ?2, may_repeat = 1, due_at = ?3, crashes = ?4, reason = ?5, ended_at = ?6
                 WHERE id = ?1",
            )?
            .execute(params![
                row,
                state.code(),
                now.as_millis(),
                crashes,
                reason,
                (state == State::Dead).then_some(now.as_millis())
            ])?;
        tally.moved(destination, State::Sending, state);
    }
    tally.write(&transaction)?;
    transaction.commit()?;
    Ok(boot)
}

/// What was being sent when the last process ended: row, destination, via, crashes before.
fn interrupted(db: &Connection) -> rusqlite::Result<Vec<(i64, i64, i64, i64)>> {
    let mut find = db.prepare(
        "SELECT id, destination, via, crashes FROM delivery INDEXED BY delivery_sending WHERE state = 1 ORDER BY id",
    )?;
    find.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?.collect()
}

fn end_interrupted(db: &Connection, row: i64, via: i64, boot: i64, now: Timestamp) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO attempt (delivery, number, destination, boot, started_at, ended_at, outcome, detail)
         SELECT id, tries, via, ?2, coalesce(started_at, ?3), ?3, 'ambiguous', 'the relay stopped before the answer'
         FROM delivery WHERE id = ?1
         ON CONFLICT (delivery, number) DO UPDATE
         SET ended_at = excluded.ended_at, outcome = excluded.outcome, detail = excluded.detail",
    )?
    .execute(params![row, boot, now.as_millis()])?;
    log_send(db, via, now)
}

/// If the clock was set back since the last run, all that waits for a time would wait that much longer; so those times move
/// back as well.
fn take_back_clock(db: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    let last = schema::meta(db, schema::ALIVE_AT)?.map_or(now, Timestamp::from_millis);
    schema::set_meta(db, schema::ALIVE_AT, now.as_millis())?;
    let back = last.as_millis().saturating_sub(now.as_millis());
    if back <= 0 {
        return Ok(());
    }
    db.execute(
        "UPDATE delivery SET due_at = due_at - ?1, created_at = min(created_at, ?2) WHERE state IN (0, 6) AND due_at > ?2",
        params![back, now.as_millis()],
    )?;
    // Sends stamped in the future would count for ever; as sends of now they count no shorter than they must.
    db.execute(
        "INSERT INTO sent SELECT destination, ?1, sum(number) FROM sent WHERE at > ?1 GROUP BY destination
         ON CONFLICT (destination, at) DO UPDATE SET number = number + excluded.number",
        [now.as_millis()],
    )?;
    db.execute("DELETE FROM sent WHERE at > ?1", [now.as_millis()])?;
    db.execute(
        "UPDATE destination SET hold_until = hold_until - ?1 WHERE hold_until > ?2",
        params![back, now.as_millis()],
    )
    .map(drop)
}

fn settle(work: &mut Work<'_>, via: i64, boot: i64, ended: &Ended, remember: Option<Duration>) -> rusqlite::Result<()> {
    let Ended { claimed, at, report, settlement } = ended;
    let state = match settlement {
        Settlement::Fallback { .. } => fall_back(work, claimed, report, settlement, *at)?,
        _ => apply(work.db, claimed.row, report, settlement, *at)?,
    };
    let Some(state) = state else { return Ok(()) };
    work.tally.moved(claimed.destination, State::Sending, state);
    if *settlement == Settlement::NotStarted {
        return Ok(());
    }
    if let Some(news) = &report.thread {
        thread::learn(work.db, via, news, *at)?;
    }
    // Delivered at the first attempt: the delivery's own row says all there is.
    if claimed.number > 1 || report.outcome != Outcome::Delivered {
        record_attempt(work.db, via, boot, ended)?;
    }
    if let Some(remember) = remember {
        log_send(work.db, via, *at)?;
        work.db
            .prepare_cached("DELETE FROM sent WHERE destination = ?1 AND at < ?2")?
            .execute(params![via, at.minus(remember).as_millis()])?;
    }
    Ok(())
}

/// The state it is in now; `None` if it was not being sent, which cannot be changed any more.
fn apply(
    db: &Connection,
    row: i64,
    report: &Report,
    settlement: &Settlement,
    at: Timestamp,
) -> rusqlite::Result<Option<State>> {
    let (state, changed) = match settlement {
        Settlement::Delivered => {
            let mut update = db.prepare_cached(
                "UPDATE delivery SET state = 2, ended_at = ?2, status = ?3, reason = NULL, crashes = 0
                 WHERE id = ?1 AND state = 1",
            )?;
            (State::Delivered, update.execute(params![row, at.as_millis(), report.status])?)
        }
        Settlement::Again { at: due, counts, may_repeat, plain } => {
            let mut update = db.prepare_cached(
                "UPDATE delivery SET state = 0, due_at = ?2, failures = failures + ?3, may_repeat = may_repeat OR ?4,
                    plain = plain OR ?5, reason = ?6, status = ?7, crashes = 0
                 WHERE id = ?1 AND state = 1",
            )?;
            let values = params![row, due.as_millis(), counts, may_repeat, plain, report.detail, report.status];
            (State::Ready, update.execute(values)?)
        }
        Settlement::Dead { reason } => {
            let mut update = db.prepare_cached(
                "UPDATE delivery SET state = 3, ended_at = ?2, reason = ?3, status = ?4, crashes = 0
                 WHERE id = ?1 AND state = 1",
            )?;
            (State::Dead, update.execute(params![row, at.as_millis(), reason, report.status])?)
        }
        Settlement::Fallback { otherwise, .. } => return apply(db, row, report, otherwise, at),
        Settlement::NotStarted => {
            let mut update =
                db.prepare_cached("UPDATE delivery SET state = 0, tries = tries - 1 WHERE id = ?1 AND state = 1")?;
            (State::Ready, update.execute([row])?)
        }
    };
    Ok((changed > 0).then_some(state))
}

fn fall_back(
    work: &mut Work<'_>,
    claimed: &Claimed,
    report: &Report,
    settlement: &Settlement,
    at: Timestamp,
) -> rusqlite::Result<Option<State>> {
    let Settlement::Fallback { to, why, may_repeat, otherwise } = settlement else { return Ok(None) };
    let last_resort = matches!(**otherwise, Settlement::Dead { .. });
    let to = destination_id(work.db, to.as_str())?;
    if !fallback::is_told(work.db, claimed.row, to)? && (last_resort || fallback::room_at(work.db, to)? > 0) {
        let mut update = work.db.prepare_cached(
            "UPDATE delivery SET state = 0, via = ?2, note = ?3, due_at = 0, failures = 0, may_repeat = may_repeat OR ?4,
                plain = 0, reason = ?5, status = ?6, crashes = 0, created_at = coalesce(?7, created_at)
             WHERE id = ?1 AND state = 1",
        )?;
        // The age counts anew where it was the reason, or it would be given up there at the first hitch.
        let anew = last_resort.then_some(at.as_millis());
        if update.execute(params![claimed.row, to, why, may_repeat, report.detail, report.status, anew])? > 0 {
            work.waits(to);
            work.moved += 1;
            return Ok(Some(State::Ready));
        }
    }
    apply(work.db, claimed.row, report, settlement, at)
}

fn record_attempt(db: &Connection, via: i64, boot: i64, ended: &Ended) -> rusqlite::Result<()> {
    let Ended { claimed, at, report, .. } = ended;
    // A good answer needs no words.
    let detail = (report.outcome != Outcome::Delivered).then_some(report.detail.as_str());
    db.prepare_cached(
        // A number that is there already was damaged; that must not keep the answer from being recorded.
        "INSERT OR REPLACE INTO attempt (delivery, number, destination, boot, started_at, ended_at, outcome, status, detail)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        claimed.row,
        claimed.number,
        via,
        boot,
        claimed.started_at.as_millis(),
        at.as_millis(),
        report.outcome.name(),
        report.status,
        detail
    ])?;
    if claimed.number > 2 * ATTEMPTS_KEPT {
        db.prepare_cached("DELETE FROM attempt WHERE delivery = ?1 AND number = ?2")?
            .execute([claimed.row, claimed.number - ATTEMPTS_KEPT])?;
    }
    Ok(())
}

fn log_send(db: &Connection, via: i64, at: Timestamp) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO sent VALUES (?1, ?2, 1) ON CONFLICT (destination, at) DO UPDATE SET number = number + 1",
    )?
    .execute(params![via, at.as_millis()])
    .map(drop)
}

fn keep_pacing(
    db: &Connection,
    destination: i64,
    hold: Option<Timestamp>,
    health: Option<&Health>,
) -> rusqlite::Result<()> {
    let health = health.and_then(|health| serde_json::to_string(health).ok());
    db.prepare_cached(
        "UPDATE destination SET hold_until = max(hold_until, coalesce(?2, 0)), health = coalesce(?3, health) WHERE id = ?1",
    )?
    .execute(params![destination, hold.map(Timestamp::as_millis), health])
    .map(drop)
}

/// The destination takes messages again: what was a probe, or failed as it went down, waits no longer, and holds its lane no
/// longer. Such deliveries are the first of their lanes.
fn release(db: &Connection, via: i64, now: Timestamp) -> rusqlite::Result<()> {
    let mut find = db.prepare_cached(
        "SELECT id, due_at FROM delivery INDEXED BY delivery_ready WHERE via = ?1 AND state = 0 AND lane = ?2 ORDER BY id",
    )?;
    let mut waiting = Vec::new();
    for lane in lanes(db, via)? {
        let mut rows = find.query([via, lane])?;
        while let Some(row) = rows.next()?
            && timestamp(row, 1)? > now
        {
            waiting.push(row.get::<_, i64>(0)?);
        }
    }
    let mut due = db.prepare_cached("UPDATE delivery SET due_at = ?2 WHERE id = ?1 AND state = 0")?;
    waiting.into_iter().try_for_each(|row| due.execute(params![row, now.as_millis()]).map(drop))
}

/// Marks due deliveries as being sent, and tells when the next one is due. A probe may be any that is due by that time.
fn claim(
    work: &mut Work<'_>,
    via: i64,
    most: usize,
    probe: Option<Timestamp>,
    now: Timestamp,
) -> rusqlite::Result<Taken> {
    let mut next = digest::close_held(work, via, now)?.next;
    let mut queue = Queue::new(work.db, via, most, probe, now)?;
    let mut claimed = Vec::new();
    while claimed.len() < most
        && let Some(candidate) = queue.next(work.db)?
    {
        match candidate {
            Candidate::Waits(until) => next = Some(next.map_or(until, |next: Timestamp| next.min(until))),
            Candidate::Damaged { row, destination, why } => quarantine(work, row, destination, why, now)?,
            Candidate::Due(mut due) => {
                due.started_at = now;
                work.db
                    .prepare_cached(
                        "UPDATE delivery SET state = 1, tries = ?2, started_at = ?3 WHERE id = ?1 AND state = 0",
                    )?
                    .execute(params![due.row, due.number, now.as_millis()])?;
                if matches!(due.what, What::Digest(_)) {
                    digest::seal(work.db, due.row)?;
                }
                work.tally.moved(due.destination, State::Ready, State::Sending);
                claimed.push(*due);
            }
        }
    }
    Ok(Taken { claimed, next, ..Taken::default() })
}

/// What the disk gave back is not what was written. It is kept, but never sent.
fn quarantine(work: &mut Work<'_>, row: i64, destination: i64, why: &str, now: Timestamp) -> rusqlite::Result<()> {
    let reason = format!("quarantined: {why} was damaged on disk");
    work.db
        .prepare_cached("UPDATE delivery SET state = 3, ended_at = ?2, reason = ?3 WHERE id = ?1 AND state = 0")?
        .execute(params![row, now.as_millis(), reason])?;
    digest::seal(work.db, row)?;
    work.tally.moved(destination, State::Ready, State::Dead);
    tracing::error!(
        delivery.code = %crate::model::delivery::Code::of_row(row),
        "a delivery is set aside, {why} was damaged on disk: see `halo-relay dead list`, and check the disk",
    );
    Ok(())
}

pub(super) fn timestamp(row: &Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    row.get(at).map(Timestamp::from_millis)
}
