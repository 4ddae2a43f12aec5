//! Dead letters: what was given up, kept until an operator sends it again or lets it go.
//!
//! A digest is one dead letter that tells several events. It is found by any of them; and since what it tells was fixed when
//! it was first sent, it is sent again whole. Letting go cannot be undone, so a digest goes only if all that it tells was
//! meant, or if it was itself named.
//!
//! There may be a hundred thousand of them, each a digest of thousands. They are looked through in steps of few rows each,
//! beside the writer, which is only given what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::records::{DeliveryRow, describe};
use super::work::Work;
use super::{Reader, Store, StoreError};
use crate::model::Timestamp;
use crate::model::delivery::{Code, Kind, State};
use crate::model::key::KeyPatterns;

/// Which dead letters are meant. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadFilter {
    /// Codes of deliveries; that of one which a digest tells stands for the digest. Empty means all.
    #[serde(default)]
    pub codes: Vec<String>,
    pub destination: Option<String>,
    pub rule: Option<String>,
    /// A glob, as in rules. A digest has the keys of the events that it tells; a notice has none.
    pub key: Option<String>,
    /// Those that died before this time.
    pub before: Option<Timestamp>,
}

/// What an operator's act did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Changed {
    pub codes: Vec<String>,
    /// Digests among them that were meant for some of their events only.
    #[serde(default)]
    pub in_part: Vec<InPart>,
    /// Digests that were not let go, because only some of their events were meant.
    #[serde(default)]
    pub left: Vec<InPart>,
}

/// A digest that was meant for some of its events only.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct InPart {
    pub code: String,
    /// How many it tells, and how many of them were meant.
    pub events: u64,
    pub matching: u64,
}

/// Dead letters that an operator's act changes in one transaction.
const CHANGED_AT_ONCE: usize = 500;
/// Rows looked at in one step; the members of a batch beyond that are at most a thousand.
const LOOKED_AT_ONCE: usize = 1_000;

impl Reader {
    /// Dead letters, oldest first.
    pub fn dead(&self, filter: &DeadFilter, most: usize) -> Result<Vec<DeliveryRow>, StoreError> {
        let search = Search::new(&self.db, filter.clone())?;
        let (mut rows, mut after) = (Vec::new(), Some(0));
        while let Some(from) = after.filter(|_| rows.len() < most) {
            let (some, next) = search.described(&self.db, from, most - rows.len())?;
            rows.extend(some);
            after = next;
        }
        Ok(rows)
    }
}

impl Store {
    /// Dead letters, oldest first.
    pub async fn dead(&self, filter: DeadFilter, most: usize) -> Result<Vec<DeliveryRow>, StoreError> {
        let search = Arc::new(self.read(move |db| Search::new(db, filter)).await?);
        let (mut rows, mut after) = (Vec::new(), Some(0));
        while let Some(from) = after.filter(|_| rows.len() < most) {
            let (search, most) = (Arc::clone(&search), most - rows.len());
            let (some, next) = self.read(move |db| search.described(db, from, most)).await?;
            rows.extend(some);
            after = next;
        }
        Ok(rows)
    }

    /// Makes dead letters ready again, with a fresh count and their full message.
    pub async fn retry_dead(&self, filter: DeadFilter, now: Timestamp) -> Result<Changed, StoreError> {
        self.each_dead(filter, |_| true, move |work, row| send_again(work, row, now)).await
    }

    /// Lets dead letters go, with the operator's reason; but no digest that was meant in part, unless by its own code.
    pub async fn drop_dead(&self, filter: DeadFilter, reason: String, now: Timestamp) -> Result<Changed, StoreError> {
        let meant = |found: &Found| found.named || found.in_part().is_none();
        self.each_dead(filter, meant, move |work, row| let_go(work, row, &reason, now)).await
    }

    /// Acts on dead letters in transactions of some hundred, so that nobody waits for a million of them; should one fail,
    /// those before it stay done. Each is visited once, even if it dies again meanwhile.
    async fn each_dead(
        &self,
        filter: DeadFilter,
        meant: impl Fn(&Found) -> bool,
        act: impl Fn(&mut Work<'_>, i64) -> rusqlite::Result<()> + Clone + Send + 'static,
    ) -> Result<Changed, StoreError> {
        let search = Arc::new(self.read(move |db| Search::new(db, filter)).await?);
        let (mut changed, mut after) = (Changed::default(), Some(0));
        while let Some(from) = after {
            let looking = Arc::clone(&search);
            let (some, next) = self.read(move |db| looking.step(db, from, CHANGED_AT_ONCE)).await?;
            after = next;
            let (found, left): (Vec<_>, Vec<_>) = some.into_iter().partition(&meant);
            changed.left.extend(left.iter().filter_map(Found::in_part));
            if found.is_empty() {
                continue;
            }
            let (search, act) = (Arc::clone(&search), act.clone());
            let acting = self.write(move |work| {
                let mut done = Vec::new();
                for found in found {
                    // Since it was found, somebody else may have acted on it.
                    if search.look(work.db, found.row)?.is_some() {
                        act(work, found.row)?;
                        done.push(found);
                    }
                }
                Ok(done)
            });
            let done = acting.await?;
            changed.in_part.extend(done.iter().filter_map(Found::in_part));
            changed.codes.extend(done.iter().map(Found::code));
        }
        Ok(changed)
    }
}

fn send_again(work: &mut Work<'_>, row: i64, now: Timestamp) -> rusqlite::Result<()> {
    // The age counts anew too, or an old letter would die at its first hitch.
    // By its own destination; but a notice is of no use to the one that it is about.
    let (destination, via) = work
        .db
        .prepare_cached(
            "UPDATE delivery SET state = 0, via = CASE kind WHEN 3 THEN via ELSE destination END,
                note = CASE kind WHEN 3 THEN note END, due_at = ?2, created_at = ?2, failures = 0, crashes = 0,
                plain = 0, ended_at = NULL, reason = 'sent again by an operator'
             WHERE id = ?1 AND state = 3 RETURNING destination, via",
        )?
        .query_row(params![row, now.as_millis()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    work.tally.moved(destination, State::Dead, State::Ready);
    work.waits(via);
    Ok(())
}

fn let_go(work: &mut Work<'_>, row: i64, reason: &str, now: Timestamp) -> rusqlite::Result<()> {
    let destination = work
        .db
        .prepare_cached(
            "UPDATE delivery SET state = 4, ended_at = ?2, reason = ?3 WHERE id = ?1 AND state = 3 RETURNING destination",
        )?
        .query_row(params![row, now.as_millis(), reason], |row| row.get(0))?;
    work.tally.moved(destination, State::Dead, State::Dropped);
    Ok(())
}

/// A dead letter that is meant.
struct Found {
    row: i64,
    /// Whether it was itself named by its code.
    named: bool,
    /// How many events it tells.
    events: u64,
    /// Of a digest, if anything was asked of its events: of how many that is true.
    matching: Option<u64>,
}

impl Found {
    fn code(&self) -> String {
        Code::of_row(self.row).to_string()
    }

    fn in_part(&self) -> Option<InPart> {
        let matching = self.matching.filter(|matching| *matching < self.events)?;
        Some(InPart { code: self.code(), events: self.events, matching })
    }
}

/// What one step has found, and where the next begins.
type Step<T> = (Vec<T>, Option<i64>);

struct Search {
    filter: DeadFilter,
    glob: Option<KeyPatterns>,
    /// If codes were given, what they stand for.
    named: Option<Named>,
}

/// Dead letters by number. With members: only those are meant of a digest.
type Named = BTreeMap<i64, Option<BTreeSet<i64>>>;

/// What a dead letter tells.
struct Told {
    kind: Option<Kind>,
    event: Option<i64>,
    events: u64,
}

enum Meant {
    Not,
    /// Nothing was asked of the events of a digest, or it is none.
    Whole,
    /// So many of the events of a digest.
    Events(u64),
}

const DEAD_AFTER: &str =
    "SELECT id FROM delivery INDEXED BY delivery_dead WHERE state = 3 AND id > ?1 ORDER BY id LIMIT ?2";
const DEAD_ONE: &str = "SELECT d.kind, d.event, coalesce(g.members, d.event IS NOT NULL)
    FROM delivery d JOIN destination n ON n.id = d.destination LEFT JOIN digest g ON g.delivery = d.id
    WHERE d.id = ?1 AND d.state = 3 AND (?2 IS NULL OR n.name = ?2) AND (?3 IS NULL OR d.rule = ?3)
        AND (?4 IS NULL OR d.ended_at < ?4)";
const KEY: &str = "SELECT key FROM event WHERE id = ?1";
const MEMBER_KEY: &str = "SELECT e.key FROM delivery d JOIN event e ON e.id = d.event WHERE d.id = ?1";
const MEMBER_KEYS: &str = "SELECT e.key FROM delivery d INDEXED BY delivery_digest JOIN event e ON e.id = d.event
    WHERE d.digest = ?1";

impl Search {
    fn new(db: &Connection, filter: DeadFilter) -> rusqlite::Result<Self> {
        let glob = filter.key.as_deref().map(|key| KeyPatterns::parse(&[key])).transpose();
        let named = if filter.codes.is_empty() { None } else { Some(named(db, &filter.codes)?) };
        Ok(match glob {
            Ok(glob) => Self { filter, glob, named },
            // What is no glob fits no key.
            Err(_) => Self { filter, glob: None, named: Some(BTreeMap::new()) },
        })
    }

    /// Up to `most` after the number `after`, as people see them.
    fn described(&self, db: &Connection, after: i64, most: usize) -> rusqlite::Result<Step<DeliveryRow>> {
        let (found, next) = self.step(db, after, most)?;
        let rows = found.into_iter().map(|found| {
            let row = describe(db, found.row)?;
            Ok(DeliveryRow { matching: found.matching, ..row })
        });
        Ok((rows.collect::<rusqlite::Result<_>>()?, next))
    }

    /// Up to `most` after the number `after`, by number. May find none although there are more.
    fn step(&self, db: &Connection, after: i64, most: usize) -> rusqlite::Result<Step<Found>> {
        let rows: Vec<i64> = if let Some(named) = &self.named {
            named.range(after + 1..).map(|(row, _)| *row).take(LOOKED_AT_ONCE).collect()
        } else {
            let mut page = db.prepare_cached(DEAD_AFTER)?;
            let limit = i64::try_from(LOOKED_AT_ONCE).unwrap_or(i64::MAX);
            page.query_map([after, limit], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
        };
        let mut found = Vec::new();
        let mut looked = 0;
        for row in rows {
            looked += 1;
            if let Some(told) = self.look(db, row)? {
                let named = self.named.as_ref().is_some_and(|named| matches!(named.get(&row), Some(None)));
                let of = |matching| Found { row, named, events: told.events, matching };
                match self.meant(db, row, &told, &mut looked)? {
                    Meant::Not => {}
                    Meant::Whole => found.push(of(None)),
                    Meant::Events(number) => found.push(of(Some(number))),
                }
            }
            if looked >= LOOKED_AT_ONCE || found.len() >= most {
                return Ok((found, Some(row)));
            }
        }
        Ok((found, None))
    }

    /// `None` if it is not, or no more, a dead letter that is meant; but for its events.
    fn look(&self, db: &Connection, row: i64) -> rusqlite::Result<Option<Told>> {
        let DeadFilter { destination, rule, before, .. } = &self.filter;
        db.prepare_cached(DEAD_ONE)?
            .query_row(params![row, destination, rule, before.map(Timestamp::as_millis)], |row| {
                let events: i64 = row.get(2)?;
                Ok(Told { kind: Kind::from_code(row.get(0)?), event: row.get(1)?, events: events.unsigned_abs() })
            })
            .optional()
    }

    fn meant(&self, db: &Connection, row: i64, told: &Told, looked: &mut usize) -> rusqlite::Result<Meant> {
        let members = self.named.as_ref().and_then(|named| named.get(&row)).and_then(Option::as_ref);
        if self.glob.is_none() && members.is_none() {
            return Ok(Meant::Whole);
        }
        if let Some(event) = told.event {
            let fits = self.count(db, KEY, event, looked, 1)? > 0;
            return Ok(if fits { Meant::Whole } else { Meant::Not });
        }
        let number = match (members, told.kind) {
            (Some(members), _) if self.glob.is_none() => members.len() as u64,
            (Some(members), _) => {
                let mut number = 0;
                for member in members {
                    number += self.count(db, MEMBER_KEY, *member, looked, 1)?;
                }
                number
            }
            // What was over the limits is folded by key, so one speaks for all.
            (None, Some(Kind::Overflow)) => self.count(db, MEMBER_KEYS, row, looked, 1)?.saturating_mul(told.events),
            (None, _) => self.count(db, MEMBER_KEYS, row, looked, usize::MAX)?,
        };
        Ok(if number > 0 { Meant::Events(number) } else { Meant::Not })
    }

    /// How many of the first `most` keys that can be read fit.
    fn count(&self, db: &Connection, keys: &str, of: i64, looked: &mut usize, most: usize) -> rusqlite::Result<u64> {
        let mut find = db.prepare_cached(keys)?;
        let mut rows = find.query([of])?;
        let (mut read, mut matching) = (0, 0);
        while read < most
            && let Some(row) = rows.next()?
        {
            *looked += 1;
            // A damaged one must not hide the others.
            if let Ok(key) = row.get_ref(0)?.as_str() {
                read += 1;
                matching += u64::from(self.glob.as_ref().is_none_or(|glob| glob.matches(key)));
            }
        }
        Ok(matching)
    }
}

/// What these codes stand for: that of a folded delivery for the digest that tells it.
fn named(db: &Connection, codes: &[String]) -> rusqlite::Result<Named> {
    let mut find = db.prepare_cached("SELECT digest FROM delivery WHERE id = ?1 AND state = 5")?;
    let mut named = Named::new();
    for row in codes.iter().filter_map(|code| Code::parse(code)).map(Code::row) {
        let digest: Option<i64> = find.query_row([row], |row| row.get(0)).optional()?.flatten();
        match digest {
            None => drop(named.insert(row, None)),
            Some(digest) => {
                if let Some(members) = named.entry(digest).or_insert_with(|| Some(BTreeSet::new())) {
                    members.insert(row);
                }
            }
        }
    }
    Ok(named)
}

/// What an operator asks of a table that may hold millions.
#[cfg(test)]
pub(super) const HOT: [&str; 5] = [DEAD_AFTER, DEAD_ONE, KEY, MEMBER_KEY, MEMBER_KEYS];
