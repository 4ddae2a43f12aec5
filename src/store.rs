//! The durable core: one SQLite file, one writer, group commit.
//!
//! Promises, each kept by one transaction:
//!
//! - [`Store::accept`]: when it returns, the events, the ids that make them be seen once, and every delivery they owe are
//!   on disk, fsynced. Only then may a source acknowledge.
//! - [`Store::claim`]: when it returns, it is on disk that these attempts start. Only then may a message leave. So after
//!   a crash "never sent" and "may have been sent" can be told apart, and a full disk stops sending before it repeats.
//! - [`Store::settle`]: the answer and what follows from it, in one step. The slot is free only afterwards.
//!
//! All writes are jobs for one thread, which owns the only read-write connection (`store/writer.rs`). One process owns the
//! directory (`store/lock.rs`). A commit that adds work wakes the destination's lane; the wake-up carries no data, the
//! table is the truth. All SQL is in this folder.

mod files;
mod inbox;
mod lock;
mod outbox;
mod schema;
mod writer;

use std::collections::HashMap;
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::{Notify, watch};

pub use inbox::{Accepted, NewDelivery, NewEvent};
pub use lock::{Holder, Lock};
pub use outbox::{AttemptRow, Claimed, DeadFilter, DeliveryRow, DestinationCounts, Settlement};

use crate::model::{DeliveryId, DestinationName, Timestamp};

/// The file in the state directory.
pub const FILE_NAME: &str = "relay.db";

/// Why the store could not do what was asked. Cheap to clone: one failed commit fails every job in it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("failed to open the store at {path}: {cause}")]
    Open { path: PathBuf, cause: Arc<dyn std::error::Error + Send + Sync> },
    #[error("the state directory {directory} is in use by {holder}; stop that one first, or use another --state-dir")]
    Locked { directory: PathBuf, holder: String },
    #[error(
        "the store at {path} was written by a newer version (schema {found}, this version knows up to {known}); upgrade halo-relay"
    )]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    #[error("the built-in SQLite {0} has a known bug that can lose committed data; build with 3.51.3 or newer")]
    OldSqlite(&'static str),
    #[error("there is no store at {0}; has the relay run with this state directory?")]
    Absent(PathBuf),
    #[error("{0} was deleted or replaced while the relay was using it")]
    Replaced(PathBuf),
    #[error("the disk is full")]
    Full,
    #[error("the store failed: {0}")]
    Failed(Arc<rusqlite::Error>),
    #[error("the store is closed")]
    Closed,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error() {
            Some(code) if code.code == rusqlite::ErrorCode::DiskFull => Self::Full,
            // The file beside the log that connections share could not grow.
            Some(code) if code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => Self::Full,
            _ => Self::Failed(Arc::new(error)),
        }
    }
}

/// The open store of a running relay. Clones share it.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    writer: writer::Writer,
    reader: Mutex<Connection>,
    wakers: Wakers,
    instance: String,
    boot: i64,
    path: PathBuf,
    /// Held as long as anybody has the store, and by the writer until it has ended, so that no second process can.
    lock: Arc<Lock>,
}

/// The lanes to wake when a commit gave their destination work.
type Wakers = Arc<Mutex<HashMap<i64, Arc<Notify>>>>;

impl Store {
    /// Opens or makes the store in `directory`, and takes up what a crash left: attempts under way are ended as "unknown"
    /// and their deliveries become ready again, marked as possibly sent.
    pub fn open(directory: &Path, now: Timestamp) -> Result<Self, StoreError> {
        if rusqlite::version_number() < schema::SQLITE_MIN {
            return Err(StoreError::OldSqlite(rusqlite::version()));
        }
        let unusable = |path: &Path, error| StoreError::Open { path: path.to_owned(), cause: Arc::new(error) };
        // Events are nobody else's business. SQLite gives the files beside the store the store's own permissions.
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| unusable(directory, error))?;
        let lock = Arc::new(Lock::take(directory)?);
        let path = directory.join(FILE_NAME);
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| unusable(&path, error))?;
        let failed = |error: rusqlite::Error| StoreError::Open { path: path.clone(), cause: Arc::new(error) };
        let mut connection = Connection::open(&path).map_err(failed)?;
        schema::prepare(&connection).map_err(failed)?;
        schema::migrate(&mut connection, &path)?;
        let boot = outbox::start_boot(&mut connection, now).map_err(failed)?;
        let instance = schema::instance(&connection).map_err(failed)?;
        let reader = open_reader(&path)?;
        // The boot has been counted, so by now there is a log.
        let log = directory.join(format!("{FILE_NAME}-wal"));
        let writer = files::Files::of([path.clone(), log, lock.path().to_owned()])
            .and_then(|files| writer::Writer::start(connection, files, Arc::clone(&lock)))
            .map_err(|error| unusable(&path, error))?;
        let shared =
            Shared { writer, reader: Mutex::new(reader), wakers: Wakers::default(), instance, boot, path, lock };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The outside name of a delivery.
    pub fn delivery_id(&self, row: i64) -> DeliveryId {
        DeliveryId::new(&self.shared.instance, row)
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    pub fn lock(&self) -> &Lock {
        &self.shared.lock
    }

    /// Resolves when the store can no longer be trusted (I/O error, corruption, files deleted) and the process must end: a
    /// failed fsync may have dropped pages that look clean, so only a fresh start can tell what is on disk.
    pub async fn failed(&self) -> String {
        let mut failure: watch::Receiver<Option<String>> = self.shared.writer.failure();
        match failure.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or_default(),
            Err(_) => "the writer thread ended".to_owned(),
        }
    }

    /// Makes sure that the destination has a number, and returns it with the [`Notify`] that is told of new work.
    pub async fn subscribe(&self, destination: &DestinationName) -> Result<(i64, Arc<Notify>), StoreError> {
        let name = destination.clone();
        let id = self.write(move |db| outbox::destination_id(db, name.as_str())).await?;
        let mut wakers = self.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((id, Arc::clone(wakers.entry(id).or_default())))
    }

    /// A real, tiny commit: what the service manager's watchdog is fed by. The next start learns from it whether the clock
    /// was set back.
    pub async fn beat(&self, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |db| schema::set_meta(db, schema::ALIVE_AT, now.as_millis())).await
    }

    /// What the writer has done since the start, for metrics.
    pub fn writer_stats(&self) -> writer::Stats {
        self.shared.writer.stats()
    }

    /// Ends the writer after the jobs it has, and folds the log into the file. Further calls fail with `Closed`.
    pub async fn close(&self) {
        self.shared.writer.close().await;
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.writer.run(work, |_| ()).await
    }

    /// Like [`write`](Self::write); once it is committed, wakes the lanes that `touched` names, even if the caller has gone.
    async fn write_and_wake<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &mut Vec<i64>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let wakers = Arc::clone(&self.shared.wakers);
        let work = move |db: &Connection| {
            let mut touched = Vec::new();
            let value = work(db, &mut touched)?;
            touched.sort_unstable();
            touched.dedup();
            Ok((value, touched))
        };
        let wake = move |(_, touched): &(T, Vec<i64>)| {
            let wakers = wakers.lock().unwrap_or_else(PoisonError::into_inner);
            touched.iter().filter_map(|id| wakers.get(id)).for_each(|waker| waker.notify_one());
        };
        Ok(self.shared.writer.run(work, wake).await?.0)
    }

    /// Short reads beside the writer. They see only what is committed.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let read = move || {
            let reader = shared.reader.lock().unwrap_or_else(PoisonError::into_inner);
            work(&reader)
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)?.map_err(StoreError::from)
    }
}

fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let reader =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        schema::set_up_reader(&reader)?;
        Ok(reader)
    };
    open().map_err(|error: rusqlite::Error| StoreError::Open { path: path.to_owned(), cause: Arc::new(error) })
}

#[cfg(test)]
mod tests;
