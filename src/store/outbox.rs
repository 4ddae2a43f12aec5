//! Deliveries owed: enqueued, claimed, settled, and the dead ones that operators look after.

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::{NewDelivery, Store, StoreError, schema};
use crate::model::delivery::{Code, State};
use crate::model::{Event, Outcome, Report, RuleName, Severity, Timestamp};

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
    /// When the event was taken in.
    pub received_at: Timestamp,
    /// When it became owed, or was last sent again by an operator; giving up counts from here.
    pub created_at: Timestamp,
    /// The event as JSON.
    pub event: String,
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
    Dead {
        reason: String,
    },
}

/// A delivery as people see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeliveryRow {
    pub code: String,
    pub destination: String,
    pub rule: String,
    pub severity: String,
    pub state: String,
    pub event_id: String,
    pub event_key: String,
    pub target: Option<String>,
    pub received_at: String,
    pub ended_at: Option<String>,
    pub attempts: i64,
    pub reason: Option<String>,
}

/// An attempt as people see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AttemptRow {
    pub number: i64,
    pub started_at: String,
    pub ended_at: Option<String>,
    pub outcome: Option<String>,
    pub status: Option<i64>,
    pub detail: Option<String>,
}

/// How many deliveries of one destination stand where.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DestinationCounts {
    pub name: String,
    pub ready: u64,
    pub sending: u64,
    pub delivered: u64,
    pub dead: u64,
    pub dropped: u64,
    /// When the oldest event still owed was received.
    pub oldest_owed_at: Option<String>,
    /// The answer to the last attempt at the delivery that is next, if it was not taken.
    pub waits_because: Option<String>,
    #[serde(skip)]
    pub oldest_owed: Option<Timestamp>,
}

/// Which dead letters are meant. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadFilter {
    /// Codes of single deliveries; empty means all.
    #[serde(default)]
    pub codes: Vec<String>,
    pub destination: Option<String>,
    pub rule: Option<String>,
    pub key: Option<String>,
}

impl Store {
    /// Claims up to `most` due deliveries of a destination: urgent before old, then in the order they came. When this
    /// returns, their attempts are on record as started. With none due, tells when the next one is.
    pub async fn claim(
        &self,
        destination: i64,
        most: usize,
        now: Timestamp,
    ) -> Result<(Vec<Claimed>, Option<Timestamp>), StoreError> {
        let boot = self.shared.boot;
        self.write(move |db| {
            let claimed = due(db, destination, most, now)?;
            for delivery in &claimed {
                start_attempt(db, delivery, boot, destination, now)?;
            }
            let next = if claimed.is_empty() { next_due(db, destination)? } else { None };
            Ok((claimed, next))
        })
        .await
    }

    /// Records how an attempt ended and what follows from it; `hold` keeps the whole destination from being sent to before
    /// that time.
    pub async fn settle(
        &self,
        destination: i64,
        claimed: &Claimed,
        report: Report,
        settlement: Settlement,
        hold: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (row, number) = (claimed.row, claimed.number);
        self.write(move |db| {
            end_attempt(db, row, number, &report, now)?;
            apply(db, row, &report, &settlement, now)?;
            if let Some(hold) = hold {
                db.prepare_cached("UPDATE destination SET hold_until = max(hold_until, ?2) WHERE id = ?1")?
                    .execute(params![destination, hold.as_millis()])?;
            }
            Ok(())
        })
        .await
    }

    /// Until when the destination asked to be left alone, and when the latest `most` of its attempts since `since` ended
    /// (those still running count as ending `now`): what a lane needs to go on where an earlier process, or an earlier rules
    /// file, stopped.
    pub async fn pacing(
        &self,
        destination: i64,
        since: Timestamp,
        most: usize,
        now: Timestamp,
    ) -> Result<(Timestamp, Vec<Timestamp>), StoreError> {
        self.read(move |db| {
            let hold: i64 =
                db.query_row("SELECT hold_until FROM destination WHERE id = ?1", [destination], |row| row.get(0))?;
            // An attempt lasts less than an hour, so one that ended since then started not long before.
            let horizon = since.minus(std::time::Duration::from_hours(1));
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let ended = db
                .prepare_cached(
                    "SELECT coalesce(ended_at, ?3) AS ended FROM attempt
                     WHERE destination = ?1 AND started_at >= ?2 ORDER BY ended DESC LIMIT ?4",
                )?
                .query_map(params![destination, horizon.as_millis(), now.as_millis(), most], |row| timestamp(row, 0))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok((Timestamp::from_millis(hold), ended))
        })
        .await
    }

    /// Counts by destination, for `status` and metrics.
    pub async fn counts(&self) -> Result<Vec<DestinationCounts>, StoreError> {
        self.read(counts).await
    }

    /// Dead letters, oldest first.
    pub async fn dead(&self, filter: DeadFilter, most: usize) -> Result<Vec<DeliveryRow>, StoreError> {
        self.read(move |db| {
            let rows = dead_rows(db, &filter, 0, most)?;
            rows.into_iter().map(|row| describe(db, row)).collect()
        })
        .await
    }

    /// One delivery with its attempts and the event as JSON.
    pub async fn delivery(&self, code: Code) -> Result<Option<(DeliveryRow, Vec<AttemptRow>, String)>, StoreError> {
        self.read(move |db| {
            let exists = db.prepare_cached("SELECT 1 FROM delivery WHERE id = ?1")?.exists([code.row()])?;
            if !exists {
                return Ok(None);
            }
            let body = db.query_row(
                "SELECT body FROM event WHERE id = (SELECT event FROM delivery WHERE id = ?1)",
                [code.row()],
                |row| row.get(0),
            )?;
            Ok(Some((describe(db, code.row())?, attempts(db, code.row())?, body)))
        })
        .await
    }

    /// Makes dead letters ready again, with a fresh count and their full message; returns their codes.
    pub async fn retry_dead(&self, filter: DeadFilter, now: Timestamp) -> Result<Vec<String>, StoreError> {
        self.each_dead(filter, move |db, row, touched| {
            // The age counts anew too, or an old letter would die at its first hitch.
            let destination = db
                .prepare_cached(
                    "UPDATE delivery SET state = 0, due_at = ?2, created_at = ?2, failures = 0, plain = 0,
                        ended_at = NULL, reason = 'sent again by an operator'
                     WHERE id = ?1 AND state = 3 RETURNING destination",
                )?
                .query_row(params![row, now.as_millis()], |row| row.get(0))?;
            touched.push(destination);
            Ok(())
        })
        .await
    }

    /// Lets dead letters go, with the operator's reason; returns their codes.
    pub async fn drop_dead(
        &self,
        filter: DeadFilter,
        reason: String,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        self.each_dead(filter, move |db, row, _| {
            db.prepare_cached("UPDATE delivery SET state = 4, ended_at = ?2, reason = ?3 WHERE id = ?1 AND state = 3")?
                .execute(params![row, now.as_millis(), reason])
                .map(drop)
        })
        .await
    }

    /// Acts on dead letters in transactions of some hundred, so that nobody waits for a million of them; should one fail,
    /// those before it stay done. Each is visited once, even if it dies again meanwhile. Returns their codes.
    async fn each_dead(
        &self,
        filter: DeadFilter,
        act: impl Fn(&Connection, i64, &mut Vec<i64>) -> rusqlite::Result<()> + Clone + Send + 'static,
    ) -> Result<Vec<String>, StoreError> {
        let mut done = Vec::new();
        let mut after = 0;
        loop {
            let (filter, act) = (filter.clone(), act.clone());
            let some = self.write_and_wake(move |db, touched| {
                let rows = dead_rows(db, &filter, after, DEAD_AT_ONCE)?;
                rows.iter().try_for_each(|row| act(db, *row, touched))?;
                Ok(rows)
            });
            let rows = some.await?;
            done.extend(rows.iter().map(|row| Code::of_row(*row).to_string()));
            match rows.last() {
                Some(last) => after = *last,
                None => return Ok(done),
            }
        }
    }
}

/// Dead letters that an operator's act changes in one transaction.
const DEAD_AT_ONCE: usize = 500;

/// The number of a destination, made at its first mention.
pub(super) fn destination_id(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    let found = db
        .prepare_cached("SELECT id FROM destination WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    match found {
        Some(id) => Ok(id),
        None => db.prepare_cached("INSERT INTO destination (name) VALUES (?1)")?.insert([name]),
    }
}

pub(super) fn enqueue(
    db: &Connection,
    event: i64,
    destination: i64,
    owed: &NewDelivery,
    now: Timestamp,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO delivery (event, destination, rule, severity, state, due_at, created_at)
         VALUES (?1, ?2, ?3, ?4, 0, ?5, ?5)",
    )?
    .execute(params![event, destination, owed.rule.as_str(), owed.severity.rank(), now.as_millis()])
    .map(drop)
}

/// Counts the boot. Whatever an earlier process was sending may have been sent: it becomes ready at once, marked so.
pub(super) fn start_boot(connection: &mut Connection, now: Timestamp) -> rusqlite::Result<i64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let boot = transaction.query_row(
        "INSERT INTO meta (name, value) VALUES ('boot', 1)
         ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
        [],
        |row| row.get(0),
    )?;
    take_back_clock(&transaction, now)?;
    transaction.execute(
        "UPDATE attempt SET ended_at = ?1, outcome = 'ambiguous', detail = 'the relay stopped before the answer'
         WHERE ended_at IS NULL AND delivery IN (SELECT id FROM delivery WHERE state = 1)",
        [now.as_millis()],
    )?;
    transaction.execute(
        "UPDATE delivery SET state = 0, may_repeat = 1, due_at = min(due_at, ?1) WHERE state = 1",
        [now.as_millis()],
    )?;
    transaction.commit()?;
    Ok(boot)
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
        "UPDATE delivery SET due_at = due_at - ?1, created_at = min(created_at, ?2) WHERE state = 0 AND due_at > ?2",
        params![back, now.as_millis()],
    )?;
    db.execute(
        "UPDATE destination SET hold_until = hold_until - ?1 WHERE hold_until > ?2",
        params![back, now.as_millis()],
    )
    .map(drop)
}

const DUE: &str =
    "SELECT d.id, d.tries + 1, d.failures, d.severity, d.rule, d.plain, d.may_repeat, e.received_at, d.created_at, e.body
     FROM delivery d INDEXED BY delivery_ready JOIN event e ON e.id = d.event
     WHERE d.destination = ?1 AND d.state = 0 AND d.due_at <= ?2
     ORDER BY d.severity DESC, d.id LIMIT ?3";
const NEXT_DUE: &str =
    "SELECT min(due_at) FROM delivery INDEXED BY delivery_ready WHERE destination = ?1 AND state = 0";

fn due(db: &Connection, destination: i64, most: usize, now: Timestamp) -> rusqlite::Result<Vec<Claimed>> {
    let mut find = db.prepare_cached(DUE)?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let claimed = find.query_map(params![destination, now.as_millis(), most], |row| {
        Ok(Claimed {
            row: row.get(0)?,
            number: row.get(1)?,
            failures: row.get(2)?,
            severity: Severity::from_rank(row.get(3)?),
            rule: RuleName::from(row.get_ref(4)?.as_str()?),
            plain: row.get(5)?,
            may_repeat: row.get(6)?,
            received_at: timestamp(row, 7)?,
            created_at: timestamp(row, 8)?,
            event: row.get(9)?,
        })
    })?;
    claimed.collect()
}

fn next_due(db: &Connection, destination: i64) -> rusqlite::Result<Option<Timestamp>> {
    db.prepare_cached(NEXT_DUE)?
        .query_row([destination], |row| Ok(row.get::<_, Option<i64>>(0)?.map(Timestamp::from_millis)))
}

fn start_attempt(
    db: &Connection,
    delivery: &Claimed,
    boot: i64,
    destination: i64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE delivery SET state = 1, tries = ?2 WHERE id = ?1 AND state = 0")?
        .execute(params![delivery.row, delivery.number])?;
    db.prepare_cached(
        "INSERT INTO attempt (delivery, number, boot, started_at, destination) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![delivery.row, delivery.number, boot, now.as_millis(), destination])
    .map(drop)
}

fn end_attempt(db: &Connection, row: i64, number: i64, report: &Report, now: Timestamp) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE attempt SET ended_at = ?3, outcome = ?4, status = ?5, detail = ?6 WHERE delivery = ?1 AND number = ?2",
    )?
    .execute(params![row, number, now.as_millis(), report.outcome.name(), report.status, detail(report)])
    .map(drop)
}

/// A good answer needs no words: they would be most of the table.
fn detail(report: &Report) -> Option<&str> {
    (report.outcome != Outcome::Delivered).then_some(report.detail.as_str())
}

fn apply(db: &Connection, row: i64, report: &Report, settlement: &Settlement, now: Timestamp) -> rusqlite::Result<()> {
    match settlement {
        Settlement::Delivered => db
            .prepare_cached("UPDATE delivery SET state = 2, ended_at = ?2, reason = NULL WHERE id = ?1 AND state = 1")?
            .execute(params![row, now.as_millis()]),
        Settlement::Again { at, counts, may_repeat, plain } => db
            .prepare_cached(
                "UPDATE delivery SET state = 0, due_at = ?2, failures = failures + ?3, may_repeat = may_repeat OR ?4,
                    plain = plain OR ?5, reason = ?6
                 WHERE id = ?1 AND state = 1",
            )?
            .execute(params![row, at.as_millis(), counts, may_repeat, plain, report.detail]),
        Settlement::Dead { reason } => db
            .prepare_cached("UPDATE delivery SET state = 3, ended_at = ?2, reason = ?3 WHERE id = ?1 AND state = 1")?
            .execute(params![row, now.as_millis(), reason]),
    }
    .map(drop)
}

fn counts(db: &Connection) -> rusqlite::Result<Vec<DestinationCounts>> {
    let mut destinations = db.prepare_cached("SELECT id, name FROM destination ORDER BY name")?;
    let mut tally = db.prepare_cached("SELECT state, number FROM tally WHERE destination = ?1")?;
    let mut counts = Vec::new();
    let mut rows = destinations.query([])?;
    while let Some(row) = rows.next()? {
        let destination: i64 = row.get(0)?;
        let mut entry = DestinationCounts { name: row.get(1)?, ..DestinationCounts::default() };
        let mut states = tally.query([destination])?;
        while let Some(row) = states.next()? {
            let number = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
            match State::from_code(row.get(0)?) {
                Some(State::Ready) => entry.ready = number,
                Some(State::Sending) => entry.sending = number,
                Some(State::Delivered) => entry.delivered = number,
                Some(State::Dead) => entry.dead = number,
                Some(State::Dropped) => entry.dropped = number,
                None => {}
            }
        }
        entry.oldest_owed = oldest_owed(db, destination)?;
        entry.oldest_owed_at = entry.oldest_owed.map(|oldest| oldest.to_string());
        entry.waits_because = waits_because(db, destination)?;
        counts.push(entry);
    }
    Ok(counts)
}

const NEXT_READY: &str = "SELECT reason FROM delivery INDEXED BY delivery_ready
    WHERE state = 0 AND destination = ?1 ORDER BY severity DESC, id LIMIT 1";

/// What kept back the delivery that is next: the answer to its last attempt. `None` if it has had none.
fn waits_because(db: &Connection, destination: i64) -> rusqlite::Result<Option<String>> {
    db.prepare_cached(NEXT_READY)?.query_row([destination], |row| row.get(0)).optional().map(Option::flatten)
}

const OLDEST_READY: &str =
    "SELECT min(id) FROM delivery INDEXED BY delivery_ready WHERE state = 0 AND destination = ?1 AND severity = ?2";
const OLDEST_SENDING: &str =
    "SELECT min(id) FROM delivery INDEXED BY delivery_sending WHERE state = 1 AND destination = ?1";

/// Deliveries are numbered as their events come, so the smallest number is the oldest event. One look for each severity,
/// because the index of a long queue is sorted by that first.
fn oldest_owed(db: &Connection, destination: i64) -> rusqlite::Result<Option<Timestamp>> {
    let mut ready = db.prepare_cached(OLDEST_READY)?;
    let mut sending = db.prepare_cached(OLDEST_SENDING)?;
    let mut oldest: Option<i64> = sending.query_row([destination], |row| row.get(0))?;
    for severity in Severity::ALL {
        let found: Option<i64> = ready.query_row(params![destination, severity.rank()], |row| row.get(0))?;
        oldest = oldest.into_iter().chain(found).min();
    }
    db.prepare_cached("SELECT e.received_at FROM delivery d JOIN event e ON e.id = d.event WHERE d.id = ?1")?
        .query_row([oldest], |row| timestamp(row, 0))
        .optional()
}

const DEAD_PAGE: &str = "SELECT d.id FROM delivery d INDEXED BY delivery_dead
    JOIN destination n ON n.id = d.destination JOIN event e ON e.id = d.event
    WHERE d.state = 3 AND (?1 IS NULL OR n.name = ?1) AND (?2 IS NULL OR d.rule = ?2) AND (?3 IS NULL OR e.key = ?3)
        AND d.id > ?4 ORDER BY d.id LIMIT ?5";

const DEAD_ONE: &str =
    "SELECT d.id FROM delivery d JOIN destination n ON n.id = d.destination JOIN event e ON e.id = d.event
    WHERE d.state = 3 AND (?1 IS NULL OR n.name = ?1) AND (?2 IS NULL OR d.rule = ?2) AND (?3 IS NULL OR e.key = ?3)
        AND d.id = ?4";

/// The dead letters meant, by number: up to `most` after the number `after`, or those that are named.
fn dead_rows(db: &Connection, filter: &DeadFilter, after: i64, most: usize) -> rusqlite::Result<Vec<i64>> {
    let DeadFilter { codes, destination, rule, key } = filter;
    if codes.is_empty() {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let mut find = db.prepare_cached(DEAD_PAGE)?;
        return find.query_map(params![destination, rule, key, after, most], |row| row.get(0))?.collect();
    }
    let mut named: Vec<_> = codes.iter().filter_map(|code| Code::parse(code)).map(Code::row).collect();
    named.sort_unstable();
    named.dedup();
    let mut find = db.prepare_cached(DEAD_ONE)?;
    let named = named.into_iter().filter(|row| *row > after);
    let found = named.map(|row| find.query_row(params![destination, rule, key, row], |row| row.get(0)).optional());
    found.filter_map(Result::transpose).take(most).collect()
}

fn describe(db: &Connection, row: i64) -> rusqlite::Result<DeliveryRow> {
    db.prepare_cached(
        "SELECT d.id, n.name, d.rule, d.severity, d.state, e.event_id, e.key,
                e.body, e.received_at, d.ended_at, d.tries, d.reason
         FROM delivery d JOIN destination n ON n.id = d.destination JOIN event e ON e.id = d.event WHERE d.id = ?1",
    )?
    .query_row([row], |row| {
        let state: i64 = row.get(4)?;
        let ended: Option<i64> = row.get(9)?;
        Ok(DeliveryRow {
            code: Code::of_row(row.get(0)?).to_string(),
            destination: row.get(1)?,
            rule: row.get(2)?,
            severity: Severity::from_rank(row.get(3)?).to_string(),
            state: State::from_code(state).map_or("unknown", State::name).to_owned(),
            event_id: row.get(5)?,
            event_key: row.get(6)?,
            target: target(row.get_ref(7)?.as_str()?),
            received_at: timestamp(row, 8)?.to_string(),
            ended_at: ended.map(|ended| Timestamp::from_millis(ended).to_string()),
            attempts: row.get(10)?,
            reason: row.get(11)?,
        })
    })
}

fn target(body: &str) -> Option<String> {
    let event = Event::from_value(serde_json::from_str(body).ok()?).ok()?;
    event.target().map(str::to_owned)
}

fn attempts(db: &Connection, row: i64) -> rusqlite::Result<Vec<AttemptRow>> {
    let mut query = db.prepare_cached(
        "SELECT number, started_at, ended_at, outcome, status, detail FROM attempt WHERE delivery = ?1 ORDER BY number",
    )?;
    let rows = query.query_map([row], |row| {
        let ended: Option<i64> = row.get(2)?;
        Ok(AttemptRow {
            number: row.get(0)?,
            started_at: timestamp(row, 1)?.to_string(),
            ended_at: ended.map(|ended| Timestamp::from_millis(ended).to_string()),
            outcome: row.get(3)?,
            status: row.get(4)?,
            detail: row.get(5)?,
        })
    })?;
    rows.collect()
}

fn timestamp(row: &Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    row.get(at).map(Timestamp::from_millis)
}

/// What a lane, a status or an operator asks of a table that may hold millions.
#[cfg(test)]
pub(super) const HOT: [&str; 7] = [
    DUE,
    NEXT_DUE,
    NEXT_READY,
    OLDEST_READY,
    OLDEST_SENDING,
    DEAD_PAGE,
    "SELECT state, number FROM tally WHERE destination = ?1",
];
