//! The audit: proof that every event is accounted for, and the names of those that are not.
//!
//! The checks are of three sorts. Each event and each delivery is judged by its own row and what that row points to, in pages
//! of one statement each: a statement sees one moment, and the log is never held for long. Sums are then compared with what the
//! writer has counted. Last, ids that were taken in but have no event any more are looked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::types::FromSql;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

use super::records::{event_at, first_event_since};
use super::{Reader, Store, StoreError, checksum, schema};
use crate::model::Timestamp;
use crate::model::delivery::{Code, Kind, State};

/// What an audit has found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Events in the store, whatever was asked for.
    pub events: u64,
    /// Deliveries in the store, with digests and notices.
    pub deliveries: u64,
    /// Events whose rows were checked.
    pub events_checked: u64,
    pub deliveries_checked: u64,
    /// Deliveries of events ever made.
    pub owed: i64,
    /// Those of them that were let go after their time.
    pub pruned: i64,
    pub destinations: Vec<Sums>,
    /// All that does not balance, of which [`findings`](Self::findings) names the first thousand.
    pub imbalance: u64,
    pub findings: Vec<Finding>,
    /// Deliveries that were being sent when the relay ended; the next start takes them up.
    pub interrupted: u64,
}

/// How many deliveries of one destination stand where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    pub destination: String,
    /// By name of state.
    pub states: BTreeMap<String, i64>,
    pub pruned: i64,
}

/// One thing that does not balance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub check: Check,
    /// The vendor's id of the event.
    pub event: Option<String>,
    pub code: Option<String>,
    pub destination: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub next: String,
}

/// What is checked, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// An event has all the deliveries that it owes, or says why it owes none.
    EventOwed,
    /// An event's id is remembered, so that it is not taken in again.
    EventSeen,
    /// An id that was taken in has its event.
    SeenEvent,
    /// A row is as it was written.
    Checksum,
    /// A delivery is of something, owed to someone, and sent by someone.
    References,
    /// A delivery is in a state that there is, and its row agrees with that.
    State,
    /// What was delivered was answered so at its last attempt.
    Attempt,
    /// What is being sent is being sent by the relay that runs.
    Sending,
    /// A folded delivery has a digest that tells it.
    Folded,
    /// A digest has the members that it says it tells.
    Members,
    /// The sums that the writer keeps are those of the rows.
    Sums,
    /// Deliveries ever made are those that are there and those that were let go.
    Owed,
}

impl Check {
    const fn next(self) -> &'static str {
        match self {
            Self::EventOwed | Self::SeenEvent => {
                "this event may not have been told to all: look it up at the source and tell them"
            }
            Self::EventSeen => "the event may be taken in and told a second time",
            Self::Checksum => "it will not be sent: look the event up at the source, and check the disk",
            Self::Folded | Self::Members | Self::Attempt => {
                "see whether the message arrived; if not, tell them by hand (`halo-relay explain` shows the delivery)"
            }
            Self::References | Self::State => {
                "the relay did not write this: check the disk, and what else opens the file"
            }
            Self::Sending => "restart the relay, which takes it up",
            Self::Sums | Self::Owed => {
                "a row was lost or changed by something else than the relay: check the disk, and what else opens the file"
            }
        }
    }
}

/// What came of the last audit that a relay made of its whole store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastAudit {
    pub at: Timestamp,
    pub imbalance: u64,
}

/// What to look at, and how fast.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Check the rows of events received since then; `None`: all. Sums are whole in any case.
    pub since: Option<Timestamp>,
    /// Between pages, to leave the disk to others.
    pub pause: Duration,
    /// Once set, the audit ends with [`StoreError::Closed`].
    pub stop: Arc<AtomicBool>,
}

/// Findings that are named; the rest is counted.
const FINDINGS_MAX: usize = 1_000;
/// Rows read by one statement.
const PAGE: i64 = 500;
/// Ids that are looked for in all events before they are said to be lost.
const SEARCHED_MAX: u32 = 20;

impl Reader {
    /// Checks everything.
    pub fn audit(&self, scope: &Scope) -> Result<Audit, StoreError> {
        let mut auditor = Auditor::new(&self.db, self.running_since(), scope)?;
        auditor.events()?;
        auditor.deliveries()?;
        auditor.digests()?;
        auditor.ids()?;
        auditor.sums()?;
        auditor.owed()?;
        Ok(auditor.audit)
    }

    /// Checks the sums that cost next to nothing: that all deliveries ever made are there or were let go, and that digests
    /// have as many members as they say.
    pub fn audit_sums(&self) -> Result<Audit, StoreError> {
        let mut auditor = Auditor::new(&self.db, self.running_since(), &Scope::default())?;
        auditor.owed()?;
        Ok(auditor.audit)
    }
}

impl Store {
    /// What came of the last audit, also of an earlier process; `None` if there was none yet.
    pub async fn last_audit(&self) -> Result<Option<LastAudit>, StoreError> {
        self.read(|db| {
            let at = schema::meta(db, schema::AUDITED_AT)?.map(Timestamp::from_millis);
            let imbalance = schema::meta(db, schema::AUDIT_IMBALANCE)?.map(i64::unsigned_abs);
            Ok(at.zip(imbalance).map(|(at, imbalance)| LastAudit { at, imbalance }))
        })
        .await
    }

    /// Keeps what came of an audit for the next process.
    pub async fn keep_audit(&self, audit: LastAudit) -> Result<(), StoreError> {
        self.write(move |work| {
            let imbalance = i64::try_from(audit.imbalance).unwrap_or(i64::MAX);
            schema::set_meta(work.db, schema::AUDITED_AT, audit.at.as_millis())?;
            schema::set_meta(work.db, schema::AUDIT_IMBALANCE, imbalance)
        })
        .await
    }
}

struct Auditor<'a> {
    db: &'a Connection,
    running_since: Option<Timestamp>,
    pause: Duration,
    stop: Arc<AtomicBool>,
    /// Rows before these are counted, but not checked.
    from_event: i64,
    from_delivery: i64,
    whole: bool,
    start: Start,
    /// By destination and code of the state.
    counted: BTreeMap<(i64, i64), i64>,
    /// Events that have been received since anything was let go.
    recent: i64,
    audit: Audit,
}

/// How things stood when the audit began; what came later is not counted.
struct Start {
    last_event: i64,
    /// Ids taken in since anything was let go.
    ids: i64,
    pruned_before: i64,
}

impl<'a> Auditor<'a> {
    fn new(db: &'a Connection, running_since: Option<Timestamp>, scope: &Scope) -> Result<Self, StoreError> {
        let pruned_before = schema::meta(db, schema::PRUNED_BEFORE)?.unwrap_or(i64::MIN);
        let (from_event, from_delivery) = match scope.since {
            Some(since) => first_rows(db, since)?,
            None => (0, 0),
        };
        let start = db.query_row(
            "SELECT (SELECT coalesce(max(id), 0) FROM event),
                (SELECT count(*) FROM seen WHERE baseline = 0 AND first_seen_at >= ?1)",
            [pruned_before],
            |row| Ok(Start { last_event: row.get(0)?, ids: row.get(1)?, pruned_before }),
        )?;
        Ok(Self {
            db,
            running_since,
            pause: scope.pause,
            stop: Arc::clone(&scope.stop),
            from_event,
            from_delivery,
            whole: scope.since.is_none(),
            start,
            counted: BTreeMap::new(),
            recent: 0,
            audit: Audit::default(),
        })
    }

    fn find(&mut self, check: Check, subject: Subject<'_>, what: impl Into<String>) {
        self.audit.imbalance += 1;
        if self.audit.findings.len() < FINDINGS_MAX {
            self.audit.findings.push(Finding {
                check,
                event: subject.event.map(str::to_owned),
                code: subject.delivery.map(|row| Code::of_row(row).to_string()),
                destination: subject.destination.map(str::to_owned),
                what: what.into(),
                next: check.next().to_owned(),
            });
        }
    }

    /// Between pages.
    fn rest(&self) -> Result<(), StoreError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(StoreError::Closed);
        }
        std::thread::sleep(self.pause);
        Ok(())
    }

    fn events(&mut self) -> Result<(), StoreError> {
        if !self.whole {
            self.audit.events = self.db.query_row("SELECT count(*) FROM event", [], |row| count(row, 0))?;
        }
        let mut page = self.db.prepare(EVENTS)?;
        let mut after = self.from_event.saturating_sub(1);
        loop {
            let mut read = 0;
            let mut rows = page.query(params![after, PAGE])?;
            while let Some(row) = rows.next()? {
                read += 1;
                after = row.get(0)?;
                self.event(after, row)?;
            }
            drop(rows);
            if read < PAGE {
                return Ok(());
            }
            self.rest()?;
        }
    }

    fn event(&mut self, number: i64, row: &Row<'_>) -> rusqlite::Result<()> {
        self.audit.events_checked += 1;
        if self.whole {
            self.audit.events += 1;
        }
        let id = readable::<String>(row, 1)?;
        let subject = Subject { event: id.as_deref(), ..Subject::default() };
        let (key, received, body) =
            (readable::<String>(row, 2)?, readable::<i64>(row, 3)?, readable::<String>(row, 4)?);
        self.recent += i64::from(number <= self.start.last_event && received >= Some(self.start.pruned_before));
        let sum = match (&id, &key, received, &body) {
            (Some(id), Some(key), Some(received), Some(body)) => {
                Some(checksum::event(id, key, Timestamp::from_millis(received), body))
            }
            _ => None,
        };
        let kept: Option<i64> = row.get(5)?;
        if sum.is_none() || kept.is_some_and(|kept| Some(kept) != sum) {
            self.find(Check::Checksum, subject, format!("the row of event number {number} is not as it was written"));
        }
        let (owed, there): (i64, i64) = (row.get(6)?, row.get(8)?);
        if owed != there {
            self.find(Check::EventOwed, subject, format!("it owes {owed} deliveries, and has {there}"));
        }
        let dropped: bool = row.get(7)?;
        if owed == 0 && !dropped {
            self.find(Check::EventOwed, subject, "it owes no delivery, and no rule is on record as dropping it");
        }
        if owed > 0 && dropped && there == 0 {
            self.find(Check::EventOwed, subject, "it owes deliveries, and a rule is on record as dropping it");
        }
        let seen: bool = row.get(9)?;
        if !seen {
            self.find(Check::EventSeen, subject, "its id is not among those taken in");
        }
        Ok(())
    }

    fn deliveries(&mut self) -> Result<(), StoreError> {
        if !self.whole {
            self.counted = counted(self.db)?;
        }
        let mut page = self.db.prepare(DELIVERIES)?;
        let mut after = self.from_delivery.saturating_sub(1);
        loop {
            let mut read = 0;
            let mut rows = page.query(params![after, PAGE])?;
            while let Some(row) = rows.next()? {
                read += 1;
                let facts = Facts::read(row)?;
                after = facts.row;
                self.delivery(&facts);
            }
            drop(rows);
            if read < PAGE {
                return Ok(());
            }
            self.rest()?;
        }
    }

    fn delivery(&mut self, facts: &Facts) {
        self.audit.deliveries_checked += 1;
        if self.whole {
            *self.counted.entry((facts.destination, facts.state)).or_default() += 1;
        }
        let state = State::from_code(facts.state);
        self.audit.interrupted += u64::from(state == Some(State::Sending) && self.running_since.is_none());
        let mut wrong = Vec::new();
        judge(facts, self.running_since, &mut wrong);
        for (check, what) in wrong {
            let subject = Subject {
                event: facts.event_id.as_deref(),
                delivery: Some(facts.row),
                destination: facts.destination_name.as_deref(),
            };
            self.find(check, subject, what);
        }
    }

    /// Rows about digests that have no delivery.
    fn digests(&mut self) -> rusqlite::Result<()> {
        let mut find = self.db.prepare(
            "SELECT g.delivery FROM digest g LEFT JOIN delivery d ON d.id = g.delivery WHERE d.kind IS NULL OR d.kind NOT IN (1, 2)",
        )?;
        let lost = find.query_map([], |row| row.get::<_, i64>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
        for row in lost {
            let subject = Subject { delivery: Some(row), ..Subject::default() };
            self.find(Check::Members, subject, "it is on record as a digest, and there is no such delivery");
        }
        Ok(())
    }

    /// Ids taken in whose event is gone. They are only looked for if the numbers of both differ.
    fn ids(&mut self) -> Result<(), StoreError> {
        if !self.whole || self.start.ids <= self.recent {
            return Ok(());
        }
        let mut page = self.db.prepare(
            "SELECT event_id, first_seen_at FROM seen WHERE event_id > ?1 AND baseline = 0 ORDER BY event_id LIMIT ?2",
        )?;
        let (mut after, mut searched) = (String::new(), 0);
        loop {
            let some =
                page.query_map(params![after, PAGE], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
            let some = some.collect::<rusqlite::Result<Vec<_>>>()?;
            let pruned_before = schema::meta(self.db, schema::PRUNED_BEFORE)?.unwrap_or(i64::MIN);
            for (id, seen) in some.iter().filter(|(_, seen)| *seen >= pruned_before) {
                searched += 1;
                let thorough = searched <= SEARCHED_MAX;
                let found = event_at(self.db, id, Timestamp::from_millis(*seen), thorough)?;
                if found.is_some() {
                    searched -= 1;
                    continue;
                }
                let subject = Subject { event: Some(id), ..Subject::default() };
                let seen = Timestamp::from_millis(*seen);
                self.find(Check::SeenEvent, subject, format!("it was taken in at {seen}, and is not in the store"));
            }
            match some.into_iter().last() {
                Some((last, _)) => after = last,
                None => return Ok(()),
            }
            self.rest()?;
        }
    }

    fn sums(&mut self) -> rusqlite::Result<()> {
        let mut tally = tally(self.db)?;
        if !same(&self.counted, &tally) {
            // Either something is wrong, or the relay went on while pages were read: this sees one moment.
            let moment = self.db.unchecked_transaction()?;
            self.counted = counted(&moment)?;
            tally = self::tally(&moment)?;
        }
        let names = names(self.db)?;
        let destinations: Vec<_> = names.keys().copied().chain(self.counted.keys().map(|(of, _)| *of)).collect();
        let pruned = pruned(self.db)?;
        for (destination, code) in all_of(&[&self.counted, &tally]) {
            let key = (destination, code);
            let (rows, kept) = (self.counted.get(&key).copied().unwrap_or(0), tally.get(&key).copied().unwrap_or(0));
            if rows != kept {
                let state = State::from_code(code).map_or("unknown", State::name);
                let name = names.get(&destination).map(String::as_str);
                let subject = Subject { destination: name, ..Subject::default() };
                self.find(Check::Sums, subject, format!("{kept} deliveries should be {state}, and {rows} are"));
            }
        }
        self.audit.deliveries = u64::try_from(self.counted.values().sum::<i64>()).unwrap_or(0);
        let mut sums: BTreeMap<i64, Sums> = BTreeMap::new();
        for destination in destinations {
            let name = names.get(&destination).cloned().unwrap_or_else(|| format!("number {destination}"));
            let pruned = pruned.get(&destination).copied().unwrap_or(0);
            sums.insert(destination, Sums { destination: name, states: BTreeMap::new(), pruned });
        }
        for ((destination, code), number) in self.counted.iter().filter(|(_, number)| **number != 0) {
            let state =
                State::from_code(*code).map_or_else(|| format!("unknown {code}"), |state| state.name().to_owned());
            if let Some(sums) = sums.get_mut(destination) {
                sums.states.insert(state, *number);
            }
        }
        self.audit.destinations = sums.into_values().collect();
        self.audit.destinations.sort_by(|one, other| one.destination.cmp(&other.destination));
        Ok(())
    }

    fn owed(&mut self) -> rusqlite::Result<()> {
        let totals = self.db.query_row(TOTALS, [], |row| {
            Ok(Totals {
                owed: row.get(0)?,
                pruned: row.get(1)?,
                there: row.get(2)?,
                digests: row.get(3)?,
                notices: row.get(4)?,
                folded: row.get(5)?,
                members: row.get(6)?,
            })
        })?;
        self.audit.owed = totals.owed;
        self.audit.pruned = totals.pruned;
        let there = totals.there - totals.digests - totals.notices;
        if totals.owed != there + totals.pruned {
            let Totals { owed, pruned, .. } = totals;
            let what = format!("{owed} deliveries were made for events; {there} are there, and {pruned} were let go");
            self.find(Check::Owed, Subject::default(), what);
        }
        if totals.folded != totals.members {
            let Totals { folded, members, .. } = totals;
            let what = format!("digests tell {members} deliveries, and {folded} are folded");
            self.find(Check::Members, Subject::default(), what);
        }
        Ok(())
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Default)]
struct Subject<'a> {
    event: Option<&'a str>,
    delivery: Option<i64>,
    destination: Option<&'a str>,
}

struct Totals {
    owed: i64,
    pruned: i64,
    there: i64,
    digests: i64,
    notices: i64,
    folded: i64,
    members: i64,
}

/// All in one statement, so of one moment.
const TOTALS: &str = "SELECT coalesce((SELECT value FROM meta WHERE name = 'owed'), 0),
    (SELECT coalesce(sum(number), 0) FROM pruned),
    (SELECT coalesce(sum(number), 0) FROM tally),
    (SELECT count(*) FROM digest),
    (SELECT count(*) FROM delivery INDEXED BY delivery_notice WHERE kind = 3),
    (SELECT coalesce(sum(number), 0) FROM tally WHERE state = 5),
    (SELECT coalesce(sum(members - pruned), 0) FROM digest)";

const EVENTS: &str =
    "SELECT e.id, e.event_id, e.key, e.received_at, e.body, e.checksum, e.owed, e.dropped_by IS NOT NULL,
        (SELECT count(*) FROM delivery d WHERE d.event = e.id),
        EXISTS (SELECT 1 FROM seen s WHERE s.event_id = e.event_id AND s.baseline = 0)
    FROM event e WHERE e.id > ?1 ORDER BY e.id LIMIT ?2";

const DELIVERIES: &str = "SELECT d.id, d.kind, d.event, d.destination, d.lane, d.rule, d.state, d.started_at, d.ended_at, d.tries,
        d.reason IS NOT NULL, d.digest, d.checksum,
        e.event_id, n.name, EXISTS (SELECT 1 FROM destination v WHERE v.id = d.via),
        g.members - g.pruned, g.open,
        CASE WHEN d.kind IN (1, 2) THEN (SELECT count(*) FROM delivery m INDEXED BY delivery_digest WHERE m.digest = d.id) END,
        f.kind, EXISTS (SELECT 1 FROM digest h WHERE h.delivery = d.digest),
        (SELECT outcome FROM attempt a WHERE a.delivery = d.id AND a.number = d.tries),
        e.id IS NOT NULL, coalesce(d.thread, '')
    FROM delivery d LEFT JOIN event e ON e.id = d.event LEFT JOIN destination n ON n.id = d.destination
        LEFT JOIN digest g ON g.delivery = d.id LEFT JOIN delivery f ON f.id = d.digest
    WHERE d.id > ?1 ORDER BY d.id LIMIT ?2";

/// A delivery's row, and what it points to.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact by itself")]
struct Facts {
    row: i64,
    kind: i64,
    event: Option<i64>,
    event_exists: bool,
    event_id: Option<String>,
    destination: i64,
    destination_name: Option<String>,
    via_exists: bool,
    state: i64,
    started: Option<i64>,
    ended: Option<i64>,
    tries: i64,
    has_reason: bool,
    /// Whether the row is as it was written.
    intact: bool,
    /// Of a digest: how many members it has left by its own account, and whether more may join.
    members: Option<i64>,
    open: Option<bool>,
    /// Of a digest: how many there are.
    members_there: Option<i64>,
    digest: Option<i64>,
    /// What kind the digest is that it points to, and whether that is on record as one.
    digest_kind: Option<i64>,
    digest_exists: bool,
    /// Of the last attempt, if that has a row.
    last_outcome: Option<String>,
}

impl Facts {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let (kind, event, destination): (i64, Option<i64>, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
        let (rule, thread) = (readable::<String>(row, 5)?, readable::<String>(row, 23)?);
        let sum = rule.zip(thread).map(|(rule, thread)| {
            let named = (rule.as_str(), Some(thread.as_str()).filter(|thread| !thread.is_empty()));
            Ok::<_, rusqlite::Error>(checksum::delivery(kind, event.unwrap_or(0), destination, row.get(4)?, named))
        });
        let sum = sum.transpose()?;
        let kept: Option<i64> = row.get(12)?;
        Ok(Self {
            row: row.get(0)?,
            kind,
            event,
            event_exists: row.get(22)?,
            event_id: readable(row, 13)?,
            destination,
            destination_name: readable(row, 14)?,
            via_exists: row.get(15)?,
            state: row.get(6)?,
            started: row.get(7)?,
            ended: row.get(8)?,
            tries: row.get(9)?,
            has_reason: row.get(10)?,
            intact: sum.is_some() && kept.is_none_or(|kept| Some(kept) == sum),
            members: row.get(16)?,
            open: row.get(17)?,
            members_there: row.get(18)?,
            digest: row.get(11)?,
            digest_kind: row.get(19)?,
            digest_exists: row.get(20)?,
            last_outcome: readable(row, 21)?,
        })
    }
}

/// What is wrong with a delivery. Pure.
fn judge(facts: &Facts, running_since: Option<Timestamp>, wrong: &mut Vec<(Check, String)>) {
    let mut say = |check, what: &str| wrong.push((check, what.to_owned()));
    if !facts.intact {
        say(Check::Checksum, "its row is not as it was written");
    }
    let kind = Kind::from_code(facts.kind);
    if kind.is_none() {
        say(Check::State, "it is of a kind that there is not");
    }
    if facts.event.is_some() && !facts.event_exists {
        say(Check::References, "its event is gone");
    }
    if facts.event.is_some() != (kind == Some(Kind::Event)) {
        say(Check::References, "it must have an event if it tells one, and only then");
    }
    if facts.destination_name.is_none() {
        say(Check::References, "the destination that it is owed to is gone");
    }
    if !facts.via_exists {
        say(Check::References, "the destination that is to send it is gone");
    }
    let Some(state) = State::from_code(facts.state) else {
        wrong.push((Check::State, format!("its state is {}, which there is not", facts.state)));
        return;
    };
    judge_state(facts, state, running_since, wrong);
    if let Some(Kind::Batch | Kind::Overflow) = kind {
        judge_digest(facts, state, wrong);
    }
}

fn judge_state(facts: &Facts, state: State, running_since: Option<Timestamp>, wrong: &mut Vec<(Check, String)>) {
    let mut say = |check, what: &str| wrong.push((check, format!("it is {state}, {what}")));
    let has_ended = matches!(state, State::Delivered | State::Dead | State::Dropped);
    if facts.ended.is_some() != has_ended {
        say(Check::State, if has_ended { "and has no time of its end" } else { "and has a time of its end" });
    }
    match state {
        State::Delivered => {
            let told = match &facts.last_outcome {
                Some(outcome) => outcome == "delivered",
                // Delivered at the first attempt: the row itself says all there is.
                None => facts.tries == 1,
            };
            if !told || facts.started.is_none() {
                say(Check::Attempt, "and its last attempt is not on record as that");
            }
        }
        State::Sending => {
            let since = running_since.map(Timestamp::as_millis);
            if facts.started.is_none() || since.is_some_and(|since| facts.started < Some(since)) {
                say(Check::Sending, "and not by the relay that runs");
            }
        }
        State::Dead | State::Dropped if !facts.has_reason => say(Check::State, "and no reason is on record"),
        State::Held if !facts.open.unwrap_or(false) => say(Check::State, "and is no open batch"),
        _ => {}
    }
    if (state == State::Folded) != facts.digest.is_some() {
        say(Check::Folded, if state == State::Folded { "into no digest" } else { "and points to a digest" });
    } else if state == State::Folded {
        let is_digest = matches!(facts.digest_kind.and_then(Kind::from_code), Some(Kind::Batch | Kind::Overflow));
        if !is_digest || !facts.digest_exists {
            say(Check::Folded, "into a digest that is gone");
        }
        if facts.kind != Kind::Event.code() {
            say(Check::Folded, "and tells no event");
        }
    }
}

fn judge_digest(facts: &Facts, state: State, wrong: &mut Vec<(Check, String)>) {
    match (facts.members, facts.members_there) {
        (Some(said), Some(there)) if said == there => {}
        (Some(said), there) => {
            wrong
                .push((Check::Members, format!("this digest tells {said} deliveries, and has {}", there.unwrap_or(0))));
        }
        (None, _) => wrong.push((Check::Members, "it is not on record as a digest".to_owned())),
    }
    if facts.open == Some(true) && !matches!(state, State::Held | State::Ready) {
        wrong.push((Check::State, format!("this digest is {state}, and more may still join it")));
    }
}

/// `None` if the value is not what its column holds; an error if the file cannot be read.
fn readable<T: FromSql>(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<T>> {
    match row.get::<_, Option<T>>(at) {
        Ok(value) => Ok(value),
        Err(error @ rusqlite::Error::SqliteFailure(..)) => Err(error),
        Err(_) => Ok(None),
    }
}

fn count(row: &Row<'_>, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(i64::unsigned_abs)
}

/// The first event received since, and its first delivery.
fn first_rows(db: &Connection, since: Timestamp) -> rusqlite::Result<(i64, i64)> {
    let event = first_event_since(db, since)?;
    let delivery = db
        .query_row("SELECT id FROM delivery WHERE event >= ?1 ORDER BY event, destination LIMIT 1", [event], |row| {
            row.get(0)
        })
        .optional()?;
    Ok((event, delivery.unwrap_or(i64::MAX)))
}

type Counts = BTreeMap<(i64, i64), i64>;

fn counted(db: &Connection) -> rusqlite::Result<Counts> {
    counts(db, "SELECT destination, state, count(*) FROM delivery GROUP BY 1, 2")
}

fn tally(db: &Connection) -> rusqlite::Result<Counts> {
    counts(db, "SELECT destination, state, number FROM tally")
}

fn counts(db: &Connection, sql: &str) -> rusqlite::Result<Counts> {
    let mut find = db.prepare(sql)?;
    find.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?.collect()
}

/// Zero and none are the same.
fn same(one: &Counts, other: &Counts) -> bool {
    all_of(&[one, other]).into_iter().all(|key| one.get(&key).unwrap_or(&0) == other.get(&key).unwrap_or(&0))
}

fn all_of(counts: &[&Counts]) -> std::collections::BTreeSet<(i64, i64)> {
    counts.iter().flat_map(|counts| counts.keys().copied()).collect()
}

fn names(db: &Connection) -> rusqlite::Result<BTreeMap<i64, String>> {
    let mut find = db.prepare("SELECT id, name FROM destination")?;
    find.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn pruned(db: &Connection) -> rusqlite::Result<BTreeMap<i64, i64>> {
    let mut find = db.prepare("SELECT destination, sum(number) FROM pruned GROUP BY 1")?;
    find.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}
