//! The store as people see it: counts, deliveries with their attempts, the log.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row};

use super::outbox::timestamp;
use super::queue::lanes;
use super::{Reader, Store, StoreError};
use crate::model::delivery::{Code, Kind, State};
use crate::model::key::KeyPatterns;
use crate::model::{Event, Health, Severity, Timestamp};

/// A delivery as people see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeliveryRow {
    pub code: String,
    pub destination: String,
    pub rule: String,
    pub severity: String,
    pub state: String,
    /// `event`, `batch`, `overflow` or `notice`.
    pub kind: String,
    /// Of a digest or a notice there is none.
    pub event_id: Option<String>,
    pub event_key: Option<String>,
    pub target: Option<String>,
    /// How many events it tells.
    pub events: u64,
    /// Of a dead digest that was asked for by its events: how many of them are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching: Option<u64>,
    /// The digest that tells it, by its code.
    pub digest: Option<String>,
    /// The digest's state.
    pub digest_state: Option<String>,
    /// The destination whose lane sends it, if not its own, and why.
    pub via: Option<String>,
    pub via_reason: Option<String>,
    pub received_at: String,
    pub ended_at: Option<String>,
    pub attempts: i64,
    pub reason: Option<String>,
}

/// An attempt as people see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AttemptRow {
    pub number: i64,
    /// Where it was sent: to the destination it is owed to, or to a fallback.
    pub destination: String,
    pub started_at: String,
    pub ended_at: Option<String>,
    pub outcome: Option<String>,
    pub status: Option<i64>,
    pub detail: Option<String>,
}

/// How many deliveries of one destination stand where: those that it is owed, whoever sends them.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DestinationCounts {
    pub name: String,
    pub ready: u64,
    pub sending: u64,
    /// Of those ready and sending, what others send after a fallback, by their names.
    #[serde(default)]
    pub sent_by: BTreeMap<String, u64>,
    /// What this one has to send for others, beside its own, by theirs.
    #[serde(default)]
    pub sends_for: BTreeMap<String, u64>,
    pub delivered: u64,
    pub dead: u64,
    pub dropped: u64,
    /// Told by digests.
    pub folded: u64,
    /// Batches that still gather.
    pub held: u64,
    /// Let go after their time.
    pub pruned: u64,
    /// Whether the destination takes messages.
    pub health: Health,
    /// The destination asked for a pause until then.
    pub hold_until: Option<Timestamp>,
    /// When the oldest event still owed to it, or to be sent by it, was received.
    pub oldest_owed_at: Option<String>,
    /// The answer to the last attempt at the delivery that is next, if it was not taken.
    pub waits_because: Option<String>,
    #[serde(skip)]
    pub oldest_owed: Option<Timestamp>,
}

/// A delivery, its attempts, and its event as JSON; of a digest or a notice there is no event.
pub type DeliveryStory = (DeliveryRow, Vec<AttemptRow>, Option<String>);

/// An event as people see it, with what it owes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct EventRow {
    pub event_id: String,
    pub key: String,
    pub source: String,
    pub received_at: String,
    /// The rule that dropped it, and why.
    pub dropped_by: Option<String>,
    pub drop_reason: Option<String>,
    /// The record as it came, as JSON.
    #[serde(skip)]
    pub body: String,
    pub deliveries: Vec<(DeliveryRow, Vec<AttemptRow>)>,
}

/// One line of the log: a delivery, or an event that a rule dropped.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogRow {
    pub received_at: String,
    /// `event`, `batch`, `overflow` or `notice`.
    pub kind: String,
    pub event_id: Option<String>,
    pub event_key: Option<String>,
    pub target: Option<String>,
    /// How many events it tells.
    pub events: u64,
    pub destination: Option<String>,
    pub via: Option<String>,
    pub rule: Option<String>,
    /// That of the delivery; `suppressed` if a rule dropped the event.
    pub state: String,
    pub digest: Option<String>,
    pub digest_state: Option<String>,
    pub attempts: i64,
    pub reason: Option<String>,
    pub code: Option<String>,
    #[serde(skip)]
    order: (Timestamp, i64),
}

/// Which lines of the log are meant. All that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct LogFilter {
    /// Received since then.
    pub since: Option<Timestamp>,
    pub destination: Option<String>,
    pub rule: Option<String>,
    pub key: Option<KeyPatterns>,
    /// Of this event, whenever it was received.
    pub event: Option<String>,
    pub state: Option<String>,
    pub most: usize,
}

/// The state of an event that a rule dropped.
pub const SUPPRESSED: &str = "suppressed";

impl Reader {
    /// Counts by destination.
    pub fn counts(&self) -> Result<Vec<DestinationCounts>, StoreError> {
        Ok(counts(&self.db)?)
    }

    /// One delivery with its attempts and, unless it is a digest or a notice, the event as JSON.
    pub fn delivery(&self, code: Code) -> Result<Option<DeliveryStory>, StoreError> {
        Ok(delivery(&self.db, code)?)
    }

    /// The event of this id, with its deliveries.
    pub fn event(&self, id: &str) -> Result<Option<EventRow>, StoreError> {
        match find_event(&self.db, id)? {
            Some(row) => Ok(Some(event(&self.db, row)?)),
            None => Ok(None),
        }
    }

    /// When this id was taken in or remembered, if it ever was; the event itself may have been let go since.
    pub fn seen(&self, id: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(first_seen(&self.db, id)?)
    }

    /// The deliveries that a digest tells, in the order they came.
    pub fn members(&self, digest: Code, most: usize) -> Result<Vec<DeliveryRow>, StoreError> {
        let mut find = self.db.prepare_cached(
            "SELECT id FROM delivery INDEXED BY delivery_digest WHERE digest = ?1 ORDER BY id LIMIT ?2",
        )?;
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows: Vec<i64> =
            find.query_map([digest.row(), most], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let members = rows.into_iter().map(|row| describe(&self.db, row));
        Ok(members.collect::<rusqlite::Result<_>>()?)
    }

    /// What came and what became of it, newest first.
    pub fn log(&self, filter: &LogFilter) -> Result<Vec<LogRow>, StoreError> {
        let mut rows = logged_deliveries(&self.db, filter)?;
        let oldest = rows.last().map(|row| row.order.0).filter(|_| rows.len() >= filter.most);
        // What came before the last line of a full page is not shown.
        let since = filter.since.max(oldest);
        rows.extend(logged_suppressed(&self.db, &LogFilter { since, ..filter.clone() })?);
        rows.sort_by_key(|row| std::cmp::Reverse(row.order));
        rows.truncate(filter.most);
        Ok(rows)
    }
}

impl Store {
    /// Counts by destination, for `status` and metrics.
    pub async fn counts(&self) -> Result<Vec<DestinationCounts>, StoreError> {
        self.read(counts).await
    }

    /// One delivery with its attempts and, unless it is a digest or a notice, the event as JSON.
    pub async fn delivery(&self, code: Code) -> Result<Option<DeliveryStory>, StoreError> {
        self.read(move |db| delivery(db, code)).await
    }
}

/// Rows of the log read by one statement.
const LOG_PAGE: i64 = 500;

fn delivery(db: &Connection, code: Code) -> rusqlite::Result<Option<DeliveryStory>> {
    let exists = db.prepare_cached("SELECT 1 FROM delivery WHERE id = ?1")?.exists([code.row()])?;
    if !exists {
        return Ok(None);
    }
    let body = db
        .prepare_cached("SELECT body FROM event WHERE id = (SELECT event FROM delivery WHERE id = ?1)")?
        .query_row([code.row()], |row| row.get(0))
        .optional()?;
    Ok(Some((describe(db, code.row())?, attempts(db, code.row())?, body)))
}

fn event(db: &Connection, number: i64) -> rusqlite::Result<EventRow> {
    let mut found = db
        .prepare_cached(
            "SELECT event_id, key, source, received_at, dropped_by, drop_reason, body FROM event WHERE id = ?1",
        )?
        .query_row([number], |row| {
            Ok(EventRow {
                event_id: row.get(0)?,
                key: row.get(1)?,
                source: row.get(2)?,
                received_at: timestamp(row, 3)?.to_string(),
                dropped_by: row.get(4)?,
                drop_reason: row.get(5)?,
                body: row.get(6)?,
                deliveries: Vec::new(),
            })
        })?;
    let mut find = db.prepare_cached("SELECT id FROM delivery WHERE event = ?1 ORDER BY id")?;
    for row in find.query_map([number], |row| row.get::<_, i64>(0))? {
        let row = row?;
        found.deliveries.push((describe(db, row)?, attempts(db, row)?));
    }
    Ok(found)
}

fn first_seen(db: &Connection, id: &str) -> rusqlite::Result<Option<Timestamp>> {
    db.prepare_cached("SELECT first_seen_at FROM seen WHERE event_id = ?1")?
        .query_row([id], |row| timestamp(row, 0))
        .optional()
}

/// The number of the event with this id.
fn find_event(db: &Connection, id: &str) -> rusqlite::Result<Option<i64>> {
    match first_seen(db, id)? {
        Some(seen) => event_at(db, id, seen, true),
        None => Ok(None),
    }
}

/// The number of the event with this id, which was first seen then. An index of ids would cost each event a write; but events
/// are numbered in the order they come, so the time says where to look. A `thorough` look finds it even where that is not so:
/// if it was only remembered at first, or if the clock was set back.
pub(super) fn event_at(db: &Connection, id: &str, seen: Timestamp, thorough: bool) -> rusqlite::Result<Option<i64>> {
    let first = first_event_since(db, seen)?;
    let mut find = db.prepare_cached("SELECT id, event_id, received_at FROM event WHERE id >= ?1 ORDER BY id")?;
    let mut rows = find.query([first])?;
    while let Some(row) = rows.next()? {
        if row.get_ref(1)?.as_str().is_ok_and(|found| found == id) {
            return row.get(0).map(Some);
        }
        if timestamp(row, 2)? > seen {
            break;
        }
    }
    if !thorough {
        return Ok(None);
    }
    db.prepare_cached("SELECT id FROM event WHERE event_id = ?1")?.query_row([id], |row| row.get(0)).optional()
}

/// The number of the first event received since then, or one past the last. Numbers grow with time.
pub(super) fn first_event_since(db: &Connection, since: Timestamp) -> rusqlite::Result<i64> {
    let ends = db.query_row("SELECT coalesce(min(id), 0), coalesce(max(id), -1) FROM event", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    })?;
    let (mut first, mut end) = (ends.0, ends.1 + 1);
    let mut next = db.prepare_cached("SELECT id, received_at FROM event WHERE id >= ?1 ORDER BY id LIMIT 1")?;
    while first < end {
        let middle = first + (end - first) / 2;
        let found = next.query_row([middle], |row| Ok((row.get::<_, i64>(0)?, timestamp(row, 1)?))).optional()?;
        match found {
            Some((id, received)) if received < since => first = id + 1,
            _ => end = middle,
        }
    }
    Ok(first)
}

fn logged_deliveries(db: &Connection, filter: &LogFilter) -> rusqlite::Result<Vec<LogRow>> {
    let mut lines = Vec::new();
    if let Some(id) = &filter.event {
        let Some(number) = find_event(db, id)? else { return Ok(lines) };
        let mut find = db.prepare_cached("SELECT id FROM delivery WHERE event = ?1 ORDER BY id DESC")?;
        for row in find.query_map([number], |row| row.get(0))? {
            lines.extend(logged(describe_at(db, row?)?, filter));
        }
        return Ok(lines);
    }
    let mut page = db.prepare_cached("SELECT id FROM delivery WHERE id < ?1 ORDER BY id DESC LIMIT ?2")?;
    let mut before = i64::MAX;
    while lines.len() < filter.most {
        let rows: Vec<i64> = page.query_map([before, LOG_PAGE], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let mut recent = 0;
        for row in &rows {
            before = *row;
            let line = describe_at(db, *row)?;
            // A batch is numbered before its members, so one row that is too old says nothing of the next.
            if filter.since.is_some_and(|since| line.1 < since) {
                continue;
            }
            recent += 1;
            lines.extend(logged(line, filter));
            if lines.len() >= filter.most {
                break;
            }
        }
        if recent == 0 {
            break;
        }
    }
    Ok(lines)
}

fn logged((row, received): (DeliveryRow, Timestamp), filter: &LogFilter) -> Option<LogRow> {
    let fits =
        |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
    let key = row.event_key.as_deref();
    let keyed = filter.key.as_ref().is_none_or(|glob| key.is_some_and(|key| glob.matches(key)));
    let destined = fits(&filter.destination, Some(&row.destination)) || fits(&filter.destination, row.via.as_deref());
    if !(destined && keyed && fits(&filter.rule, Some(&row.rule)) && fits(&filter.state, Some(&row.state))) {
        return None;
    }
    let order = (received, Code::parse(&row.code).map_or(0, Code::row));
    Some(LogRow {
        received_at: row.received_at,
        kind: row.kind,
        event_id: row.event_id,
        event_key: row.event_key,
        target: row.target,
        events: row.events,
        destination: Some(row.destination),
        via: row.via,
        rule: Some(row.rule),
        state: row.state,
        digest: row.digest,
        digest_state: row.digest_state,
        attempts: row.attempts,
        reason: row.reason,
        code: Some(row.code),
        order,
    })
}

const SUPPRESSED_PAGE: &str = "SELECT id, event_id, key, received_at, body, dropped_by, drop_reason, owed FROM event
    WHERE id <= ?1 AND id >= ?2 ORDER BY id DESC";

/// Events that a rule dropped, so that nobody is owed them.
fn logged_suppressed(db: &Connection, filter: &LogFilter) -> rusqlite::Result<Vec<LogRow>> {
    let mut lines = Vec::new();
    if filter.destination.is_some() || filter.state.as_deref().is_some_and(|state| state != SUPPRESSED) {
        return Ok(lines);
    }
    let (last, first) = match &filter.event {
        Some(id) => match find_event(db, id)? {
            Some(number) => (number, number),
            None => return Ok(lines),
        },
        None => (i64::MAX, filter.since.map_or(Ok(0), |since| first_event_since(db, since))?),
    };
    let mut find = db.prepare_cached(SUPPRESSED_PAGE)?;
    let mut rows = find.query([last, first])?;
    while lines.len() < filter.most
        && let Some(row) = rows.next()?
    {
        let (key, rule): (String, Option<String>) = (row.get(2)?, row.get(5)?);
        let ruled = filter.rule.is_none() || filter.rule == rule;
        if row.get::<_, i64>(7)? > 0 || !ruled || filter.key.as_ref().is_some_and(|glob| !glob.matches(&key)) {
            continue;
        }
        let received = timestamp(row, 3)?;
        lines.push(LogRow {
            received_at: received.to_string(),
            kind: kind_name(Kind::Event.code()).to_owned(),
            event_id: row.get(1)?,
            event_key: Some(key),
            target: target(row.get_ref(4)?.as_str().unwrap_or_default()),
            events: 1,
            destination: None,
            via: None,
            rule,
            state: SUPPRESSED.to_owned(),
            digest: None,
            digest_state: None,
            attempts: 0,
            reason: row.get(6)?,
            code: None,
            order: (received, 0),
        });
    }
    Ok(lines)
}

fn kind_name(code: i64) -> &'static str {
    match Kind::from_code(code) {
        Some(Kind::Event) => "event",
        Some(Kind::Batch) => "batch",
        Some(Kind::Overflow) => "overflow",
        Some(Kind::Notice) => "notice",
        None => "unknown",
    }
}

fn counts(db: &Connection) -> rusqlite::Result<Vec<DestinationCounts>> {
    let mut destinations = db.prepare_cached("SELECT id, name, health, hold_until FROM destination")?;
    let mut tally = db.prepare_cached("SELECT state, number FROM tally WHERE destination = ?1")?;
    let mut pruned = db.prepare_cached("SELECT coalesce(sum(number), 0) FROM pruned WHERE destination = ?1")?;
    let away = away(db)?;
    let mut counts = BTreeMap::new();
    let mut rows = destinations.query([])?;
    while let Some(row) = rows.next()? {
        let destination: i64 = row.get(0)?;
        let mut entry = DestinationCounts { name: row.get(1)?, ..DestinationCounts::default() };
        entry.hold_until = Some(timestamp(row, 3)?).filter(|until| *until > Timestamp::default());
        let health: Option<String> = row.get(2)?;
        entry.health = health.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let mut states = tally.query([destination])?;
        while let Some(row) = states.next()? {
            let number = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
            match State::from_code(row.get(0)?) {
                Some(State::Ready) => entry.ready = number,
                Some(State::Sending) => entry.sending = number,
                Some(State::Delivered) => entry.delivered = number,
                Some(State::Dead) => entry.dead = number,
                Some(State::Dropped) => entry.dropped = number,
                Some(State::Folded) => entry.folded = number,
                Some(State::Held) => entry.held = number,
                None => {}
            }
        }
        entry.pruned = pruned.query_row([destination], |row| row.get::<_, i64>(0))?.unsigned_abs();
        let elsewhere = away.iter().filter(|away| away.destination == destination).map(|away| away.oldest);
        entry.oldest_owed = oldest_owed(db, destination, elsewhere.min())?;
        entry.oldest_owed_at = entry.oldest_owed.map(|oldest| oldest.to_string());
        entry.waits_because = waits_because(db, destination)?;
        counts.insert(destination, entry);
    }
    for Away { via, destination, number, .. } in away {
        let name = |id| counts.get(&id).map_or_else(|| "unknown".to_owned(), |entry| entry.name.clone());
        let (by, of) = (name(via), name(destination));
        if let Some(owed) = counts.get_mut(&destination) {
            owed.sent_by.insert(by, number);
        }
        if let Some(sender) = counts.get_mut(&via) {
            sender.sends_for.insert(of, number);
        }
    }
    let mut counts: Vec<_> = counts.into_values().collect();
    counts.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(counts)
}

/// What one destination has to send for another.
struct Away {
    via: i64,
    destination: i64,
    number: u64,
    /// The number of the oldest.
    oldest: i64,
}

const AWAY: &str = "SELECT via, destination, count(*), min(id) FROM delivery INDEXED BY delivery_away
    WHERE state IN (0, 1) AND via <> destination GROUP BY via, destination";

fn away(db: &Connection) -> rusqlite::Result<Vec<Away>> {
    let mut find = db.prepare_cached(AWAY)?;
    let found = find.query_map([], |row| {
        let number: i64 = row.get(2)?;
        Ok(Away { via: row.get(0)?, destination: row.get(1)?, number: number.unsigned_abs(), oldest: row.get(3)? })
    })?;
    found.collect()
}

/// What kept back the delivery that is next: the answer to its last attempt. `None` if it has had none.
fn waits_because(db: &Connection, via: i64) -> rusqlite::Result<Option<String>> {
    let Some(first) = lanes(db, via)?.into_iter().next() else { return Ok(None) };
    db.prepare_cached(NEXT_READY)?.query_row([via, first], |row| row.get(0)).optional().map(Option::flatten)
}

const NEXT_READY: &str = "SELECT reason FROM delivery INDEXED BY delivery_ready
    WHERE state = 0 AND via = ?1 AND lane = ?2 ORDER BY id LIMIT 1";
const OLDEST_READY: &str =
    "SELECT min(id) FROM delivery INDEXED BY delivery_ready WHERE state = 0 AND via = ?1 AND lane = ?2";
const OLDEST_SENDING: &str = "SELECT min(id) FROM delivery INDEXED BY delivery_sending WHERE state = 1 AND via = ?1";

/// When the oldest of what waits here was received, or the one that waits `elsewhere` if that is older. Deliveries are numbered
/// as their events come, so the smallest number of each lane is its oldest.
fn oldest_owed(db: &Connection, via: i64, elsewhere: Option<i64>) -> rusqlite::Result<Option<Timestamp>> {
    let mut ready = db.prepare_cached(OLDEST_READY)?;
    let sending: Option<i64> = db.prepare_cached(OLDEST_SENDING)?.query_row([via], |row| row.get(0))?;
    let mut oldest = sending.into_iter().chain(elsewhere).min();
    for lane in lanes(db, via)? {
        let found: Option<i64> = ready.query_row([via, lane], |row| row.get(0))?;
        oldest = oldest.into_iter().chain(found).min();
    }
    db.prepare_cached(
        "SELECT coalesce(e.received_at, d.created_at) FROM delivery d LEFT JOIN event e ON e.id = d.event WHERE d.id = ?1",
    )?
    .query_row([oldest], |row| timestamp(row, 0))
    .optional()
}

pub(super) fn describe(db: &Connection, row: i64) -> rusqlite::Result<DeliveryRow> {
    describe_at(db, row).map(|(row, _)| row)
}

/// With the time at which it was received.
fn describe_at(db: &Connection, row: i64) -> rusqlite::Result<(DeliveryRow, Timestamp)> {
    db.prepare_cached(
        "SELECT d.id, n.name, d.rule, d.severity, d.state, e.event_id, e.key, e.body, coalesce(e.received_at, d.created_at),
            d.ended_at, d.tries, d.reason, coalesce(g.members, d.event IS NOT NULL), d.digest,
            CASE WHEN d.via <> d.destination THEN v.name END, CASE WHEN d.via <> d.destination OR d.kind = 3 THEN d.note END,
            d.kind, f.state
         FROM delivery d JOIN destination n ON n.id = d.destination LEFT JOIN destination v ON v.id = d.via
            LEFT JOIN event e ON e.id = d.event LEFT JOIN digest g ON g.delivery = d.id
            LEFT JOIN delivery f ON f.id = d.digest
         WHERE d.id = ?1",
    )?
    .query_row([row], |row| {
        let state: i64 = row.get(4)?;
        let ended: Option<i64> = row.get(9)?;
        let body = text(row, 7)?;
        let events: i64 = row.get(12)?;
        let digest: Option<i64> = row.get(13)?;
        let received = timestamp(row, 8)?;
        let state_name = |code| State::from_code(code).map_or("unknown", State::name).to_owned();
        let row = DeliveryRow {
            code: Code::of_row(row.get(0)?).to_string(),
            destination: row.get(1)?,
            rule: row.get(2)?,
            severity: Severity::from_rank(row.get(3)?).to_string(),
            state: state_name(state),
            kind: kind_name(row.get(16)?).to_owned(),
            event_id: text(row, 5)?,
            event_key: text(row, 6)?,
            target: body.as_deref().and_then(target),
            events: events.unsigned_abs(),
            matching: None,
            digest: digest.map(|row| Code::of_row(row).to_string()),
            digest_state: row.get::<_, Option<i64>>(17)?.map(state_name),
            via: row.get(14)?,
            via_reason: row.get(15)?,
            received_at: received.to_string(),
            ended_at: ended.map(|ended| Timestamp::from_millis(ended).to_string()),
            attempts: row.get(10)?,
            reason: row.get(11)?,
        };
        Ok((row, received))
    })
}

/// As much of a text as can be read: one damaged row must not hide the others.
fn text(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<String>> {
    let bytes = row.get_ref(at)?.as_bytes_or_null()?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
}

fn target(body: &str) -> Option<String> {
    let event = Event::from_value(serde_json::from_str(body).ok()?).ok()?;
    event.target().map(str::to_owned)
}

/// A first attempt that was delivered is told by its delivery's row, and so is one under way.
fn attempts(db: &Connection, row: i64) -> rusqlite::Result<Vec<AttemptRow>> {
    let mut query = db.prepare_cached(
        "WITH one (number, started_at, ended_at, outcome, status, detail, via) AS (
            SELECT number, started_at, ended_at, outcome, status, detail, destination FROM attempt WHERE delivery = ?1
            UNION ALL
            SELECT tries, started_at, CASE state WHEN 2 THEN ended_at END, CASE state WHEN 2 THEN 'delivered' END, status,
                NULL, via
            FROM delivery WHERE id = ?1 AND state IN (1, 2) AND started_at IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM attempt WHERE delivery = ?1 AND number = tries))
         SELECT one.*, coalesce(n.name, 'unknown') FROM one LEFT JOIN destination n ON n.id = one.via ORDER BY number",
    )?;
    let rows = query.query_map([row], |row| {
        let ended: Option<i64> = row.get(2)?;
        Ok(AttemptRow {
            number: row.get(0)?,
            destination: row.get(7)?,
            started_at: timestamp(row, 1)?.to_string(),
            ended_at: ended.map(|ended| Timestamp::from_millis(ended).to_string()),
            outcome: row.get(3)?,
            status: row.get(4)?,
            detail: row.get(5)?,
        })
    })?;
    rows.collect()
}

/// What a status asks of a table that may hold millions.
#[cfg(test)]
pub(super) const HOT: [&str; 5] =
    [NEXT_READY, OLDEST_READY, OLDEST_SENDING, AWAY, "SELECT state, number FROM tally WHERE destination = ?1"];
