//! What must hold in a directory after a power cut. All that is known of the store's tables is here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use halo_relay::clock::Clock;
use halo_relay::store::{FILE_NAME, Store};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::relay::Told;

/// One row for each delivery, or for an event without any: the event's id, the delivery's state, and whether it is marked as
/// possibly sent.
const EVENTS: &str =
    "SELECT e.event_id, d.state, d.may_repeat FROM event e LEFT JOIN delivery d ON d.event = e.id ORDER BY e.event_id";
/// Halves, of which there must be none: what they are, and their number.
const HALVES: [(&str, &str); 3] = [
    ("deliveries without an event", "SELECT count(*) FROM delivery WHERE event NOT IN (SELECT id FROM event)"),
    ("events not marked as seen", "SELECT count(*) FROM event WHERE event_id NOT IN (SELECT event_id FROM seen)"),
    ("seen events that are not there", "SELECT count(*) FROM seen WHERE event_id NOT IN (SELECT event_id FROM event)"),
];
/// Whether the tables have been made at all.
const TABLES: &str = "SELECT count(*) FROM sqlite_schema WHERE name IN ('event', 'seen', 'delivery')";
const READY: i64 = 0;
const SENDING: i64 = 1;
const DELIVERED: i64 = 2;

/// Deliveries that one destination may have under way at a time.
pub(crate) const UNDER_WAY_MAX: usize = halo_relay::dispatch::WEBHOOK_SLOTS;

/// What the relay had told others before some moment.
#[derive(Clone, Default)]
pub(crate) struct Facts {
    pub(crate) acknowledged: BTreeSet<String>,
    pub(crate) posted: BTreeSet<String>,
}

impl Facts {
    pub(crate) fn learn(&mut self, told: &Told) {
        match told {
            Told::Acknowledged(ids) => self.acknowledged.extend(ids.iter().cloned()),
            Told::Posted(id) => _ = self.posted.insert(id.clone()),
        }
    }
}

/// What the store holds.
pub(crate) struct Rows {
    pub(crate) events: Vec<Row>,
    halves: Vec<String>,
}

pub(crate) struct Row {
    pub(crate) id: String,
    state: Option<i64>,
    may_repeat: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owed {
    /// The event has no delivery.
    Missing,
    ToBeSent,
    Nothing,
}

impl Row {
    pub(crate) fn is(&self, owed: Owed) -> bool {
        let is = match self.state {
            None => Owed::Missing,
            Some(READY | SENDING) => Owed::ToBeSent,
            Some(_) => Owed::Nothing,
        };
        is == owed
    }

    /// Whether the store knows that it may have been sent.
    fn may_have_been_sent(&self) -> bool {
        matches!(self.state, Some(SENDING | DELIVERED)) || self.may_repeat
    }
}

impl Rows {
    /// Reads the files as SQLite recovers them. The log of the store stays, so that the relay still has it to recover.
    pub(crate) fn read(directory: &Path) -> rusqlite::Result<Self> {
        let mut rows = Self { events: Vec::new(), halves: Vec::new() };
        let path = directory.join(FILE_NAME);
        if !path.exists() {
            return Ok(rows);
        }
        let connection = Connection::open(path)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let count = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        if count(TABLES)? == 0 {
            return Ok(rows);
        }
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Row {
                id: row.get(0)?,
                state: row.get(1)?,
                may_repeat: row.get::<_, Option<bool>>(2)?.unwrap_or_default(),
            })
        };
        rows.events = connection.prepare(EVENTS)?.query_map([], row)?.collect::<rusqlite::Result<_>>()?;
        for (what, sql) in HALVES {
            let number = count(sql)?;
            if number > 0 {
                rows.halves.push(format!("half there: {number} {what}"));
            }
        }
        Ok(rows)
    }

    /// What is wrong with them after all that the relay has told. In `groups` all events must be there or none.
    pub(crate) fn complaints(&self, facts: &Facts, groups: &[Vec<String>]) -> Vec<String> {
        let mut wrong = self.halves.clone();
        let by_id: BTreeMap<&str, &Row> = self.events.iter().map(|row| (row.id.as_str(), row)).collect();
        let twice = self.events.windows(2).filter(|pair| pair[0].id == pair[1].id).map(|pair| pair[0].id.as_str());
        complain(&mut wrong, "there twice", twice);
        let acknowledged = facts.acknowledged.iter().map(String::as_str);
        complain(&mut wrong, "acknowledged and lost", acknowledged.filter(|id| !by_id.contains_key(id)));
        let bare = self.events.iter().filter(|row| row.is(Owed::Missing)).map(|row| row.id.as_str());
        complain(&mut wrong, "half there: no delivery", bare);
        let posted = facts.posted.iter().map(String::as_str);
        let unknown = |id: &&str| !by_id.get(id).is_some_and(|row| row.may_have_been_sent());
        complain(&mut wrong, "sent, and not on record as possibly sent", posted.filter(unknown));
        let there = |group: &&Vec<String>| group.iter().filter(|id| by_id.contains_key(id.as_str())).count();
        let torn = groups.iter().filter(|group| ![0, group.len()].contains(&there(group)));
        complain(&mut wrong, "half a request there", torn.map(|group| group[0].as_str()));
        wrong
    }
}

/// Adds one line about all of `ids`, if there are any.
fn complain<'a>(wrong: &mut Vec<String>, what: &str, ids: impl Iterator<Item = &'a str>) {
    let ids: Vec<_> = ids.collect();
    if let Some(first) = ids.first() {
        wrong.push(format!("{what}: {} events, such as {first}", ids.len()));
    }
}

/// Opens the directory as the relay does, closes it again, and says what is wrong with it then.
pub(crate) async fn open_as_the_relay_does(directory: &Path) -> Option<String> {
    // Left by our own look at it; a power cut leaves none.
    let _ = std::fs::remove_file(directory.join(format!("{FILE_NAME}-shm")));
    match Store::open(directory, Clock::start().now()) {
        Ok(store) => store.close().await,
        Err(error) => return Some(format!("does not open: {error}")),
    }
    let integrity = || -> rusqlite::Result<String> {
        let connection = Connection::open(directory.join(FILE_NAME))?;
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))
    };
    match integrity() {
        Ok(found) if found == "ok" => None,
        Ok(found) => Some(format!("corrupt: {found}")),
        Err(error) => Some(format!("corrupt: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, Option<i64>, bool)]) -> Rows {
        let row = |(id, state, may_repeat): &(&str, Option<i64>, bool)| Row {
            id: (*id).to_owned(),
            state: *state,
            may_repeat: *may_repeat,
        };
        Rows { events: rows.iter().map(row).collect(), halves: Vec::new() }
    }

    #[test]
    fn what_is_wrong_is_found() {
        let facts = |acknowledged: &[&str], posted: &[&str]| Facts {
            acknowledged: acknowledged.iter().map(|id| (*id).to_owned()).collect(),
            posted: posted.iter().map(|id| (*id).to_owned()).collect(),
        };
        let ready = |id| (id, Some(READY), false);
        // Rows, facts; what is wrong with `a`, if anything.
        let cases = [
            (vec![], facts(&[], &[]), ""),
            (vec![ready("a")], facts(&[], &[]), ""),
            (vec![ready("a"), ready("b")], facts(&["a"], &[]), ""),
            (vec![ready("b")], facts(&["a", "b"], &[]), "acknowledged and lost: 1 events, such as a"),
            (vec![ready("a"), ready("a")], facts(&["a"], &[]), "there twice: 1 events, such as a"),
            (vec![("a", None, false)], facts(&["a"], &[]), "half there: no delivery: 1 events, such as a"),
            (vec![ready("a")], facts(&[], &["a"]), "sent, and not on record as possibly sent: 1 events, such as a"),
            (vec![], facts(&[], &["a"]), "sent, and not on record as possibly sent: 1 events, such as a"),
            (vec![("a", Some(SENDING), false)], facts(&[], &["a"]), ""),
            (vec![("a", Some(DELIVERED), false)], facts(&[], &["a"]), ""),
            (vec![("a", Some(READY), true)], facts(&[], &["a"]), ""),
        ];
        for (given, facts, wrong) in cases {
            assert_eq!(rows(&given).complaints(&facts, &[]).join("; "), wrong, "{given:?}");
        }
        let group = [vec!["a".to_owned(), "b".to_owned()]];
        for (given, wrong) in [
            (vec![], ""),
            (vec![ready("a"), ready("b")], ""),
            (vec![ready("b")], "half a request there: 1 events, such as a"),
        ] {
            assert_eq!(rows(&given).complaints(&Facts::default(), &group).join("; "), wrong, "{given:?}");
        }
    }

    #[test]
    fn looking_leaves_the_log_for_the_relay() {
        let place = tempfile::tempdir().unwrap();
        let (left, log) = (place.path().join("left"), format!("{FILE_NAME}-wal"));
        std::fs::create_dir(&left).unwrap();
        let connection = Connection::open(place.path().join(FILE_NAME)).unwrap();
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        connection.execute_batch("CREATE TABLE event (id)").unwrap();
        for name in [FILE_NAME, &log] {
            std::fs::copy(place.path().join(name), left.join(name)).unwrap();
        }
        let before = std::fs::read(left.join(&log)).unwrap();
        // It has seen the table that is in the log alone, and misses the others.
        assert!(Rows::read(&left).is_err());
        assert!(!before.is_empty() && before == std::fs::read(left.join(&log)).unwrap());
    }
}
