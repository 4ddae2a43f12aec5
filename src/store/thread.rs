//! What channels called the first messages of threads, so that later ones can be answers to them.
//!
//! A thread goes on for [`THREAD_FOR`] after its first message; then the next one begins it anew, so that a channel shows
//! once a day what goes on in it. Nothing here is needed for a message to arrive: a row that is lost, damaged or too old
//! costs a second thread.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreError, checksum, outbox};
use crate::model::{ThreadNews, Timestamp};

/// For so long messages are added to a thread.
pub const THREAD_FOR: std::time::Duration = std::time::Duration::from_hours(24);
/// Rows that go in one transaction.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

impl Store {
    /// What the destination called the first message of this thread, if messages may still be added to it.
    pub async fn thread(&self, destination: &str, key: &str, now: Timestamp) -> Result<Option<String>, StoreError> {
        let (destination, key) = (destination.to_owned(), key.to_owned());
        self.read(move |db| match outbox::known_id(db, &destination)? {
            Some(destination) => handle(db, destination, &key, now),
            None => Ok(None),
        })
        .await
    }

    /// Lets go of threads to which nothing is added any more, a step at a time; returns how many, zero when none is left.
    pub async fn forget_threads(&self, now: Timestamp) -> Result<usize, StoreError> {
        let before = now.minus(THREAD_FOR).as_millis();
        let left = self
            .read(move |db| db.prepare_cached("SELECT 1 FROM thread WHERE started_at <= ?1 LIMIT 1")?.exists([before]));
        if !left.await? {
            return Ok(0);
        }
        self.write(move |work| {
            work.db
                .prepare_cached(
                    "DELETE FROM thread WHERE (destination, key) IN
                        (SELECT destination, key FROM thread WHERE started_at <= ?1 LIMIT ?2)",
                )?
                .execute([before, FORGOTTEN_AT_ONCE])
        })
        .await
    }
}

fn handle(db: &Connection, destination: i64, key: &str, now: Timestamp) -> rusqlite::Result<Option<String>> {
    let found = db
        .prepare_cached("SELECT handle, started_at, checksum FROM thread WHERE destination = ?1 AND key = ?2")?
        .query_row(params![destination, key], |row| {
            Ok((row.get::<_, String>(0)?, outbox::timestamp(row, 1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let sound = |handle: &str, at: Timestamp, sum: i64| sum == checksum::thread(destination, key, handle, at);
    // A start in the future is another clock's, and no reason to go on for ever.
    let young = |at: Timestamp| at <= now && now.since(at) < THREAD_FOR;
    Ok(found.filter(|(handle, at, sum)| young(*at) && sound(handle, *at, *sum)).map(|(handle, ..)| handle))
}

/// Keeps what an answer told of a thread, in the transaction that records the answer.
pub(super) fn learn(db: &Connection, destination: i64, news: &ThreadNews, now: Timestamp) -> rusqlite::Result<()> {
    let key = news.key.as_str();
    let Some(handle) = &news.handle else {
        return db
            .prepare_cached("DELETE FROM thread WHERE destination = ?1 AND key = ?2")?
            .execute(params![destination, key])
            .map(drop);
    };
    let sum = checksum::thread(destination, key, handle, now);
    db.prepare_cached(
        "INSERT INTO thread VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (destination, key)
         DO UPDATE SET handle = excluded.handle, started_at = excluded.started_at, checksum = excluded.checksum",
    )?
    .execute(params![destination, key, handle, now.as_millis(), sum])
    .map(drop)
}
