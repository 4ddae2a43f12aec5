//! The file itself: settings of the connections, migrations, and the few values that belong to the store as a whole.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};

use super::StoreError;

/// 3.7.0 to 3.51.2 can lose committed data when a checkpoint meets a writer: <https://sqlite.org/wal.html#walresetbug>.
pub(super) const SQLITE_MIN: i32 = 3_051_003;

/// In order; the schema version is how many of them have been applied. Never change one that was released.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_digests.sql"),
    include_str!("migrations/0003_retention.sql"),
    include_str!("migrations/0004_threads.sql"),
    include_str!("migrations/0005_numbers.sql"),
    include_str!("migrations/0006_away.sql"),
];

/// Statements kept prepared; the default of 16 is fewer than the relay uses.
const STATEMENTS_CACHED: usize = 64;

/// Write-ahead log with an fsync at each commit: `NORMAL` would lose acknowledged events at a power cut. The settings are
/// read back, because some file systems refuse the write-ahead log without an error.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    keep_statements(connection)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; PRAGMA mmap_size = 0; PRAGMA wal_autocheckpoint = 0;
         PRAGMA temp_store = MEMORY; PRAGMA cell_size_check = ON;",
    )?;
    let synchronous: i64 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
    #[cfg(sabotage = "normal")]
    connection.execute_batch("PRAGMA synchronous = NORMAL")?;
    if mode != "wal" || synchronous != 2 {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(format!(
                "this file system does not take a write-ahead log (journal mode {mode}, synchronous {synchronous})"
            )),
        ));
    }
    Ok(())
}

/// Keeps statements prepared. Where a bound value might matter to the choice of an index, SQLite would compile the statement
/// anew for each value; that choice never depends on values here.
fn keep_statements(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

pub(super) fn set_up_reader(connection: &Connection) -> rusqlite::Result<()> {
    keep_statements(connection)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.execute_batch("PRAGMA query_only = ON; PRAGMA mmap_size = 0;")
}

/// Forward only, one transaction each. A file that a newer version has written is refused. References are checked from here
/// on: while they are, no table can be rebuilt.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| open_failed(path, error);
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if found > known || found < 0 {
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, known });
    }
    for (version, sql) in (1_i64..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        let apply = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute_batch(sql)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()
        };
        apply(connection).map_err(failed)?;
    }
    connection.execute_batch("PRAGMA foreign_keys = ON").map_err(failed)
}

/// A store found damaged by the run before is read through before anything is done with it: a relay that started, sent what
/// it had claimed, met the damage, and ended before it recorded the answers, would send them again at each start.
pub(super) fn check_if_suspect(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let marker = path.with_file_name(SUSPECT);
    if !marker.exists() {
        return Ok(());
    }
    tracing::warn!("the store was found damaged by the run before; checking all of {} first", path.display());
    let found = check(connection, "PRAGMA integrity_check(1)").map_err(|error| open_failed(path, error))?;
    if let Some(found) = found {
        return Err(StoreError::Damaged { path: path.to_owned(), found });
    }
    tracing::warn!("the store is sound after all, or has been mended: going on");
    std::fs::remove_file(&marker).map_err(|error| StoreError::Open { path: marker, cause: Arc::new(error) })
}

/// Leaves word for the next start.
pub(super) fn suspect(path: &Path, why: &str) {
    if let Err(error) = std::fs::write(path.with_file_name(SUSPECT), format!("{why}\n")) {
        tracing::error!("the next start cannot be told that the store is damaged: {error}");
    }
}

/// What is wrong with the structure of the file, if anything.
pub(super) fn quick_check(connection: &Connection) -> rusqlite::Result<Option<String>> {
    check(connection, "PRAGMA quick_check(1)")
}

fn check(connection: &Connection, pragma: &str) -> rusqlite::Result<Option<String>> {
    let found: String = connection.query_row(pragma, [], |row| row.get(0))?;
    Ok((found != "ok").then(|| found.replace('\n', " ")))
}

/// What SQLite says of a file that cannot be opened, told apart by what is to be done.
pub(super) fn open_failed(path: &Path, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { path: path.to_owned(), found: error.to_string() }
        }
        _ => StoreError::Open { path: path.to_owned(), cause: Arc::new(error) },
    }
}

/// In the state directory, after a run that ended because the store was damaged.
const SUSPECT: &str = "relay.suspect";

/// Whether the file is as this version writes it: who only reads cannot bring it up to date.
pub(super) fn check_reader(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match found.cmp(&known) {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(StoreError::OlderSchema { path: path.to_owned(), found, known }),
        Ordering::Greater => Err(StoreError::NewerSchema { path: path.to_owned(), found, known }),
    }
}

/// The store's random name, made at its first opening.
pub(super) fn instance(connection: &Connection) -> rusqlite::Result<String> {
    let found: Option<String> =
        connection.query_row("SELECT value FROM meta WHERE name = 'instance'", [], |row| row.get(0)).optional()?;
    if let Some(instance) = found {
        return Ok(instance);
    }
    let instance: String = connection.query_row("SELECT lower(hex(randomblob(8)))", [], |row| row.get(0))?;
    connection.execute("INSERT INTO meta (name, value) VALUES ('instance', ?1)", [&instance])?;
    Ok(instance)
}

/// When the store was last known to be in use.
pub(super) const ALIVE_AT: &str = "alive_at";

/// 1 after a run that closed the store, 0 during a run and after one that did not.
pub(super) const CLEAN: &str = "clean";

/// When the present boot began, or the last one.
pub(super) const OPENED_AT: &str = "opened_at";

/// When the last audit that a relay made of the whole store ended, and how much it found that does not balance.
pub(super) const AUDITED_AT: &str = "audited_at";
pub(super) const AUDIT_IMBALANCE: &str = "audit_imbalance";

/// Events received before this may have been let go.
pub(super) const PRUNED_BEFORE: &str = "pruned_before";

/// The highest numbers that rows of events and of deliveries have had, as of the last time that rows were let go.
pub(super) const LAST_EVENT: &str = "last_event";
pub(super) const LAST_DELIVERY: &str = "last_delivery";

/// The highest numbers that any event and any delivery has had.
pub(super) fn last_rows(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let highest = |table: &str, known: &str| {
        let sql = format!(
            "SELECT max(coalesce((SELECT max(id) FROM {table}), 0), coalesce((SELECT value FROM meta WHERE name = ?1), 0))"
        );
        connection.query_row(&sql, [known], |row| row.get(0))
    };
    Ok((highest("event", LAST_EVENT)?, highest("delivery", LAST_DELIVERY)?))
}

pub(super) fn meta(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT value FROM meta WHERE name = ?1", [name], |row| row.get(0)).optional()
}

pub(super) fn set_meta(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2")?
        .execute(rusqlite::params![name, value])
        .map(drop)
}
