//! The thread that owns the read-write connection, and group commit.
//!
//! ```text
//!  job ─┐
//!  job ─┼─► queue ─► take all that wait ─► BEGIN · job · job · job · COMMIT (one fsync) ─► answer all
//!  job ─┘              ▲                                                                     │
//!                      └──────── while the fsync ran, the next group has formed ◄────────────┘
//! ```
//!
//! No timer is needed. Each job runs in a savepoint of its own: one that fails takes nothing of the others with it. No
//! answer is given before the commit that holds the job's work; when the commit fails, every job in it has failed.
//!
//! The log is folded into the file here, between groups, and not by SQLite at some commit: that would ignore a failed fsync
//! of the file and use the log anew, and with it go the pages that never reached the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot, watch};

use super::files::Files;
use super::{Lock, StoreError};

/// Jobs that may wait before callers have to; also the most that share a commit.
const QUEUE: usize = 1024;
/// Pages in the log that are not in the file yet; four megabytes.
const LOG_PAGES: i64 = 1000;

/// What a job leaves behind: the answer, to be given once it is known whether the commit held.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Runs in the group's transaction; the error is the job's own, if it failed.
type Job = Box<dyn FnOnce(&Connection) -> (Answer, Option<StoreError>) + Send>;

pub(super) struct Writer {
    jobs: std::sync::Mutex<Option<mpsc::Sender<Job>>>,
    ended: watch::Receiver<bool>,
    failure: watch::Receiver<Option<String>>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    jobs: AtomicU64,
    failed_commits: AtomicU64,
}

/// Totals since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub commits: u64,
    pub jobs: u64,
    pub failed_commits: u64,
}

impl Writer {
    /// The lock is held until the connection is closed, however long that is after the last caller has gone: another
    /// process must not open the file while jobs of ours still reach it.
    pub(super) fn start(connection: Connection, files: Files, lock: Arc<Lock>) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (failed, failure) = watch::channel(None);
        let (end, ended) = watch::channel(false);
        let counters = Arc::new(Counters::default());
        let thread = Thread { connection, queue, failed, counters: Arc::clone(&counters), files, _lock: lock };
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            thread.run();
            end.send_replace(true);
        })?;
        Ok(Self { jobs: std::sync::Mutex::new(Some(jobs)), ended, failure, counters })
    }

    /// Runs `work` in the next group and returns what it returned once that group is on disk. `committed` sees it first, and
    /// also when the caller has gone away: what is durable has its consequences.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        committed: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = in_savepoint(connection, work).map_err(StoreError::from);
            let error = result.as_ref().err().cloned();
            let answer: Answer = Box::new(move |group| {
                let answer = group.and(result);
                if let Ok(value) = &answer {
                    committed(value);
                }
                // A caller that has gone away is no reason to undo what is durable.
                let _ = reply.send(answer);
            });
            (answer, error)
        });
        let jobs = self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        jobs.ok_or(StoreError::Closed)?.send(job).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    pub(super) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failure.clone()
    }

    pub(super) fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            commits: read(&self.counters.commits),
            jobs: read(&self.counters.jobs),
            failed_commits: read(&self.counters.failed_commits),
        }
    }

    pub(super) async fn close(&self) {
        drop(self.jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let mut ended = self.ended.clone();
        // An error means that the thread is gone, which is what is waited for.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

struct Thread {
    connection: Connection,
    queue: mpsc::Receiver<Job>,
    failed: watch::Sender<Option<String>>,
    counters: Arc<Counters>,
    files: Files,
    /// Dropped after the connection.
    _lock: Arc<Lock>,
}

impl Thread {
    fn run(mut self) {
        let mut group = Vec::with_capacity(QUEUE);
        let mut answers = Vec::with_capacity(QUEUE);
        while let Some(first) = self.queue.blocking_recv() {
            group.push(first);
            while group.len() < QUEUE
                && let Ok(job) = self.queue.try_recv()
            {
                group.push(job);
            }
            self.counters.jobs.fetch_add(group.len() as u64, Ordering::Relaxed);
            let result = self.commit(&mut group, &mut answers);
            for answer in answers.drain(..) {
                answer(result.clone());
            }
            match result {
                Ok(()) => self.counters.commits.fetch_add(1, Ordering::Relaxed),
                Err(_) => self.counters.failed_commits.fetch_add(1, Ordering::Relaxed),
            };
            // A log that is folded in can be used anew, which may be all the room there is on a full disk.
            let folded = match result {
                Err(StoreError::Full) => self.fold(1),
                other => other.and_then(|()| self.fold(LOG_PAGES)),
            };
            if let Err(error) = folded
                && is_fatal(&error)
            {
                self.failed.send_replace(Some(error.to_string()));
                return;
            }
        }
        // The next start is quicker with a short log; if this fails, that start does it.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    /// Runs the group in one transaction. An error means that nothing of it is durable.
    fn commit(&self, group: &mut Vec<Job>, answers: &mut Vec<Answer>) -> Result<(), StoreError> {
        let connection = &self.connection;
        let begun = connection.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([]));
        let mut undone = None;
        for job in group.drain(..) {
            // Where nothing was begun, or some error (full disk, I/O) rolled all back, `in_savepoint` refuses to work.
            let (answer, error) = job(connection);
            answers.push(answer);
            let error = error.filter(|error| connection.is_autocommit() || is_fatal(error));
            undone = undone.or(error);
        }
        #[cfg(sabotage = "early_ack")]
        answers.drain(..).for_each(|answer| answer(Ok(())));
        begun?;
        let committed = match undone {
            Some(error) => Err(error),
            None => self.files.check().and_then(|()| {
                let committed = connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
                Ok(committed.map(drop)?)
            }),
        };
        if committed.is_err() && !connection.is_autocommit() {
            // If this fails too, the next `BEGIN` will say so.
            let _ = connection.execute_batch("ROLLBACK");
        }
        committed
    }

    /// Folds the log into the file when it has grown to so many pages. What a full disk keeps from being folded stays in it.
    fn fold(&self, pages: i64) -> Result<(), StoreError> {
        let checkpoint = |statement: &str| {
            let mut statement = self.connection.prepare_cached(statement)?;
            statement.query_row([], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
        };
        let (logged, folded) = checkpoint("PRAGMA wal_checkpoint(NOOP)")?;
        if logged - folded >= pages {
            checkpoint("PRAGMA wal_checkpoint(PASSIVE)")?;
        }
        Ok(())
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    if connection.is_autocommit() {
        // The transaction is gone or never began: working on would commit piecemeal.
        return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT), None));
    }
    connection.prepare_cached("SAVEPOINT job")?.execute([])?;
    let done = work(connection).and_then(|value| {
        connection.prepare_cached("RELEASE job")?.execute([])?;
        Ok(value)
    });
    if done.is_err() && !connection.is_autocommit() && connection.execute_batch("ROLLBACK TO job; RELEASE job").is_err()
    {
        // Half a job must not be committed with the others.
        let _ = connection.execute_batch("ROLLBACK");
    }
    done
}

/// After these only a fresh start can tell what is on disk. A full disk or a busy file passes by itself.
fn is_fatal(error: &StoreError) -> bool {
    match error {
        StoreError::Replaced(_) => true,
        StoreError::Failed(error) => matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        ),
        _ => false,
    }
}
