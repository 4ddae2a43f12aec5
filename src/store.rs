//! The durable core: one SQLite file, one writer, group commit.
//!
//! Promises, each kept by one transaction:
//!
//! - [`Store::accept`]: when it returns, the events, the ids that make them be seen once, and every delivery they owe are
//!   on disk, fsynced. Only then may a source acknowledge.
//! - [`Store::turn`]: when it returns, answers and what follows from them are on record, and so is the start of the next
//!   attempts. Only then is a slot free, and only then may a message leave. So after a crash "never sent" and "may have been
//!   sent" can be told apart, and a full disk stops sending before it repeats.
//! - A lane whose queue is empty offers to take new work at once: then `accept` records the start of the attempt together
//!   with the event, and one commit stands between an event and its message. The lane sees the delivery before that commit,
//!   to make the message ready, and sends it after.
//!
//! All writes are jobs for one thread, which owns the only read-write connection (`store/writer.rs`). One process owns the
//! directory (`store/lock.rs`). A commit that adds work wakes the destination's lane; the wake-up carries no data, the
//! table is the truth. All SQL is in this folder.

mod audit;
mod ballast;
mod checksum;
mod dead;
mod digest;
mod fallback;
mod files;
mod inbox;
mod lock;
mod outbox;
mod queue;
mod reader;
mod records;
mod retention;
mod schema;
mod thread;
mod work;
mod writer;

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

pub use audit::{Audit, Check, Finding, LastAudit, Scope, Sums};
pub use ballast::Room;
pub use dead::{Changed, DeadFilter, InPart};
pub use digest::{Closed, Gathered, NewBatch};
pub use fallback::{Handed, Movable};
pub use inbox::{Accepted, NewDelivery, NewEvent};
pub use lock::{Holder, Lock};
pub use outbox::{Claimed, Ended, Moved, Pacing, Settlement, Taken, Turn, What};
pub use reader::Reader;
pub use records::{AttemptRow, DeliveryRow, DeliveryStory, DestinationCounts, EventRow, LogFilter, LogRow, SUPPRESSED};
pub use retention::{Pruned, Walk};
pub use thread::THREAD_FOR;
pub use work::{Born, OutletId, Subscription};

use self::ballast::Ballast;
use self::work::Work;
use self::writer::{Keep, Writer};
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
    #[error(
        "the store at {path} was written by an older version (schema {found}, this version reads {known}); start this version of the relay once, it brings the store up to date"
    )]
    OlderSchema { path: PathBuf, found: i64, known: i64 },
    #[error("the built-in SQLite {0} has a known bug that can lose committed data; build with 3.51.3 or newer")]
    OldSqlite(&'static str),
    #[error("there is no store at {0}; has the relay run with this state directory?")]
    Absent(PathBuf),
    #[error("{0} was deleted or replaced while the relay was using it")]
    Replaced(PathBuf),
    #[error("the disk is full")]
    Full,
    #[error(
        "the disk is too full to start: {0} cannot be opened; nothing is lost, what it holds is sent once there is room: free \
         some on its file system (`df {0}`), the next start goes on"
    )]
    NoRoom(PathBuf),
    #[error(
        "{directory} is on a network file system ({kind}), where neither locks nor flushes are what they are on a disk; give \
         a --state-dir on a disk of this machine"
    )]
    Network { directory: PathBuf, kind: &'static str },
    #[error("{}", damaged(path, found))]
    Damaged { path: PathBuf, found: String },
    #[error("the store failed: {0}")]
    Failed(Arc<rusqlite::Error>),
    #[error("the store is closed")]
    Closed,
}

/// For whoever is woken by it.
fn damaged(path: &Path, found: &str) -> String {
    let (path, directory, name) = (path.display(), path.parent().unwrap_or(path).display(), FILE_NAME);
    format!(
        "the store at {path} is damaged and the relay will not work on it: {found}
Stop the relay, then:
  1. keep a copy:   cp -a {directory} /some/other/disk/
  2. check the disk and the memory (dmesg, smartctl): damage seldom comes alone
  3. save what can be read (https://sqlite.org/recovery.html; if this sqlite3 cannot, take one from sqlite.org):
       sqlite3 {path} .recover > {path}.sql && sqlite3 {path}.new < {path}.sql && sqlite3 {path}.new 'SELECT count(*) FROM event'
     and if that tells a number of events:
       mkdir {directory}/damaged && mv {path}* {directory}/damaged/ && mv {directory}/damaged/{name}.new {path}
     Or start afresh; sources that are polled begin as with a new store (`first_run`), and what was owed is only in the
     damaged file:
       mkdir {directory}/damaged && mv {path}* {directory}/damaged/
  4. give the files to the relay's user and start the relay: it reads the store through before it goes on"
    )
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
    writer: Writer,
    reader: Mutex<Connection>,
    instance: String,
    boot: i64,
    opened_at: Timestamp,
    path: PathBuf,
    damage: Arc<OnceLock<String>>,
    /// Held as long as anybody has the store, and by the writer until it has ended, so that no second process can.
    lock: Arc<Lock>,
}

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
        files::refuse_network(directory)?;
        let lock = Arc::new(Lock::take(directory)?);
        let path = directory.join(FILE_NAME);
        let ballast = Ballast::in_directory(directory);
        let mut room = ballast.take();
        let mut opened = Opened::at(&path, now);
        if matches!(opened, Err(StoreError::Open { .. })) {
            // It may be want of room, whatever SQLite calls it. The room kept for answers is enough for the start as well.
            ballast.release();
            opened = Opened::at(&path, now);
            room = ballast.take();
            if opened.is_err() && room == Room::Low {
                return Err(StoreError::NoRoom(path));
            }
        }
        let Opened { connection, reader, instance, boot, clean, last_rows } = opened?;
        // The boot has been counted, so by now there is a log.
        let names = [FILE_NAME.to_owned(), format!("{FILE_NAME}-wal"), lock::FILE_NAME.to_owned()];
        let files = files::Files::of(directory, names);
        let outlets = work::Outlets::new(last_rows);
        let writer = files
            .and_then(|files| {
                Writer::start(connection, Keep { files, ballast, lock: Arc::clone(&lock) }, room, outlets)
            })
            .map_err(|error| unusable(&path, error))?;
        if room == Room::Low {
            tracing::error!(
                "the disk with {} is full: no events are taken in and no messages start until there is room",
                path.display(),
            );
        }
        let damage = Arc::default();
        if !clean {
            check_beside(&path, Arc::clone(&damage));
        }
        let shared = Shared { writer, reader: Mutex::new(reader), instance, boot, opened_at: now, path, damage, lock };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What is wrong with the file, if the look at it after an unclean stop found anything.
    pub fn damage(&self) -> Option<&str> {
        self.shared.damage.get().map(String::as_str)
    }

    /// Whether there is room on the disk to take events in and to start messages.
    pub fn room(&self) -> Room {
        *self.shared.writer.room().borrow()
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

    /// When this process opened the store: what came before may have waited for that.
    pub fn opened_at(&self) -> Timestamp {
        self.shared.opened_at
    }

    /// Makes sure that the destination has a number, and gives a lane its end of the store; an earlier lane of the same
    /// destination is offered nothing more.
    pub async fn subscribe(&self, destination: &DestinationName) -> Result<Subscription, StoreError> {
        let name = destination.clone();
        let id = self.write(move |work| outbox::destination_id(work.db, name.as_str())).await?;
        Ok(self.shared.writer.outlets().open(destination.clone(), id))
    }

    /// A real, tiny commit: what the service manager's watchdog is fed by. The next start learns from it whether the clock
    /// was set back.
    pub async fn beat(&self, now: Timestamp) -> Result<(), StoreError> {
        self.write(move |work| schema::set_meta(work.db, schema::ALIVE_AT, now.as_millis())).await
    }

    /// What the writer has done since the start, for metrics.
    pub fn writer_stats(&self) -> writer::Stats {
        self.shared.writer.stats()
    }

    /// Ends the writer after the jobs it has, and folds the log into the file. Further calls fail with `Closed`.
    pub async fn close(&self) {
        self.shared.writer.close().await;
    }

    /// Refused with [`StoreError::Full`] while the disk is full, for what makes more to be recorded later.
    async fn write_with_room<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Work<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.writer.run_with_room(job).await
    }

    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Work<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.writer.run(job).await
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

/// What opening the file gives.
struct Opened {
    connection: Connection,
    reader: Connection,
    instance: String,
    boot: i64,
    /// Whether the run before closed the store.
    clean: bool,
    /// The highest numbers that an event and a delivery have had.
    last_rows: (i64, i64),
}

impl Opened {
    fn at(path: &Path, now: Timestamp) -> Result<Self, StoreError> {
        let unusable = |error| StoreError::Open { path: path.to_owned(), cause: Arc::new(error) };
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(unusable)?;
        let failed = |error: rusqlite::Error| schema::open_failed(path, error);
        let mut connection = Connection::open(path).map_err(failed)?;
        schema::prepare(&connection).map_err(failed)?;
        schema::check_if_suspect(&connection, path)?;
        schema::migrate(&mut connection, path)?;
        let clean = schema::meta(&connection, schema::CLEAN).map_err(failed)? != Some(0);
        let boot = outbox::start_boot(&mut connection, clean, now).map_err(failed)?;
        let instance = schema::instance(&connection).map_err(failed)?;
        let last_rows = schema::last_rows(&connection).map_err(failed)?;
        Ok(Self { connection, reader: open_reader(path)?, instance, boot, clean, last_rows })
    }
}

/// After an unclean stop: reads the file through beside the work, which may take a minute, and tells what is wrong with it.
/// The relay works on, for as long as it can: an alert that goes out is worth more than one that waits for a repair.
fn check_beside(path: &Path, damage: Arc<OnceLock<String>>) {
    let path = path.to_owned();
    let check = move || match open_reader(&path).and_then(|reader| Ok(schema::quick_check(&reader)?)) {
        Ok(None) => tracing::debug!("the store is sound after the unclean stop"),
        Ok(Some(found)) => {
            tracing::error!("{}", StoreError::Damaged { path, found: found.clone() });
            let _ = damage.set(found);
        }
        Err(error) => tracing::warn!("the store could not be checked after the unclean stop: {error}"),
    };
    if let Err(error) = std::thread::Builder::new().name("store-check".to_owned()).spawn(check) {
        tracing::warn!("the store could not be checked after the unclean stop: {error}");
    }
}

fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let reader =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        schema::set_up_reader(&reader)?;
        Ok(reader)
    };
    open().map_err(|error: rusqlite::Error| schema::open_failed(path, error))
}

#[cfg(test)]
mod ledger_tests;
#[cfg(test)]
mod tests;
