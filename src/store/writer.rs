//! The thread that owns the read-write connection, and group commit.
//!
//! ```text
//!  job ─┐
//!  job ─┼─► queue ─► take all that wait ─► BEGIN · job · job · job · COMMIT (one fsync) ─► answer all
//!  job ─┘              ▲                                                                     │
//!                      └──────── while the fsync ran, the next group has formed ◄────────────┘
//! ```
//!
//! No timer is needed. Where there are several, each job runs in a savepoint of its own: one that fails takes nothing of the
//! others with it. No answer is given before the commit that holds the job's work; when the commit fails, every job in it has failed.
//!
//! The log is folded into the file here, between groups, and not by SQLite at some commit: that would ignore a failed fsync
//! of the file and use the log anew, and with it go the pages that never reached the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::ballast::{Ballast, Room};
use super::files::Files;
use super::work::{Outlets, Tally, Work};
use super::{Lock, StoreError};

/// Jobs that may wait before callers have to; also the most that share a commit.
const QUEUE: usize = 1024;
/// Pages in the log that are not in the file yet; four megabytes.
const LOG_PAGES: i64 = 1000;
/// While the disk is full, how often to look whether it still is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a job leaves behind: the answer, to be given once it is known whether the commit held.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
/// Runs in the group's transaction and adds to its tally; the error is the job's own, if it failed.
type Job = Box<dyn FnOnce(&Connection, Company, &mut Tally) -> (Answer, Option<StoreError>) + Send>;

/// Who else is in a job's group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Company {
    Others,
    /// What it did can be undone with the whole transaction: no savepoint is needed, and making one takes time.
    Nobody,
}

pub(super) struct Writer {
    jobs: std::sync::Mutex<Option<mpsc::Sender<Job>>>,
    ended: watch::Receiver<bool>,
    failure: watch::Receiver<Option<String>>,
    room: watch::Receiver<Room>,
    counters: Arc<Counters>,
    outlets: Outlets,
}

/// What the writer keeps safe.
pub(super) struct Keep {
    pub files: Files,
    pub ballast: Ballast,
    /// Held until the connection is closed, however long that is after the last caller has gone: another process must not
    /// open the file while jobs of ours still reach it.
    pub lock: Arc<Lock>,
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
    pub(super) fn start(mut connection: Connection, keep: Keep, room: Room, outlets: Outlets) -> std::io::Result<Self> {
        let log = Arc::new(AtomicI64::new(0));
        let logged = Arc::clone(&log);
        let hooked = connection.wal_hook(Some(move |_: &mut Wal, pages: i32| {
            logged.store(pages.into(), Ordering::Relaxed);
            Ok(())
        }));
        hooked.map_err(std::io::Error::other)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (failed, failure) = watch::channel(None);
        let (end, ended) = watch::channel(false);
        let looked_at = (room == Room::Low).then(Instant::now);
        let (room, rooms) = watch::channel(room);
        let counters = Arc::new(Counters::default());
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = Thread {
            connection,
            log,
            folded: 0,
            queue,
            failed,
            room,
            looked_at,
            timer,
            counters: Arc::clone(&counters),
            outlets: outlets.clone(),
            keep,
        };
        std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            thread.run();
            end.send_replace(true);
        })?;
        Ok(Self { jobs: std::sync::Mutex::new(Some(jobs)), ended, failure, room: rooms, counters, outlets })
    }

    /// As [`run`](Self::run), for what makes more to be recorded later: refused while the disk is full.
    pub(super) async fn run_with_room<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Work<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let room = self.room();
        // Asked when its turn comes: what waited while the disk got full must not use up the room that was kept.
        self.run(move |work| match *room.borrow() {
            Room::Enough => job(work),
            Room::Low => {
                let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
                Err(rusqlite::Error::SqliteFailure(full, None))
            }
        })
        .await
    }

    /// Runs `job` in the next group and returns what it returned once that group is on disk. What follows from it for the
    /// lanes happens then, even if the caller has gone away: what is durable has its consequences.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Work<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let outlets = self.outlets.clone();
        let job: Job = Box::new(move |connection, company, tally| {
            let mut work = Work::new(connection, &outlets);
            let result = in_transaction(connection, company, || job(&mut work)).map_err(StoreError::from);
            let (counted, effects) = work.effects();
            let error = result.as_ref().err().cloned();
            if error.is_none() {
                tally.merge(counted);
            }
            let answer: Answer = Box::new(move |group| {
                let answer = group.and(result);
                if answer.is_ok() {
                    effects.commit(&outlets);
                } else {
                    effects.undo(&outlets);
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

    pub(super) fn outlets(&self) -> &Outlets {
        &self.outlets
    }

    pub(super) fn room(&self) -> watch::Receiver<Room> {
        self.room.clone()
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
    /// Pages in the log as of the latest commit; those of them that are in the file already.
    log: Arc<AtomicI64>,
    folded: i64,
    queue: mpsc::Receiver<Job>,
    failed: watch::Sender<Option<String>>,
    room: watch::Sender<Room>,
    /// While the disk is full: when it was last looked at.
    looked_at: Option<Instant>,
    /// Wakes the thread when it is time to look.
    timer: Runtime,
    counters: Arc<Counters>,
    outlets: Outlets,
    /// Dropped after the connection.
    keep: Keep,
}

impl Thread {
    fn run(mut self) {
        let mut group = Vec::with_capacity(QUEUE);
        let mut answers = Vec::with_capacity(QUEUE);
        while self.wait(&mut group) {
            while group.len() < QUEUE
                && let Ok(job) = self.queue.try_recv()
            {
                group.push(job);
            }
            let looked = if group.is_empty() { self.look() } else { self.serve(&mut group, &mut answers) };
            if let Err(error) = looked
                && is_fatal(&error)
            {
                if is_damage(&error) {
                    super::schema::suspect(&self.keep.lock.path().with_file_name(super::FILE_NAME), &error.to_string());
                }
                self.failed.send_replace(Some(error.to_string()));
                return;
            }
        }
        // If this fails, the next start reads through what it need not.
        let _ = super::schema::set_meta(&self.connection, super::schema::CLEAN, 1);
        // The next start is quicker with a short log; if this fails, that start does it.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    /// Waits for a job; on a full disk no longer than until it is time to look at it. False at the end.
    fn wait(&mut self, group: &mut Vec<Job>) -> bool {
        let next = match self.looked_at {
            None => Ok(self.queue.blocking_recv()),
            Some(at) => self.timer.block_on(async { timeout_at(at + LOOK_EVERY, self.queue.recv()).await }),
        };
        let ended = matches!(next, Ok(None));
        group.extend(next.ok().flatten());
        !ended
    }

    fn serve(&mut self, group: &mut Vec<Job>, answers: &mut Vec<Answer>) -> Result<(), StoreError> {
        self.counters.jobs.fetch_add(group.len() as u64, Ordering::Relaxed);
        let (result, met_full) = self.commit(group, answers);
        match result {
            Ok(()) => self.counters.commits.fetch_add(1, Ordering::Relaxed),
            Err(_) => self.counters.failed_commits.fetch_add(1, Ordering::Relaxed),
        };
        let full = met_full || matches!(result, Err(StoreError::Full));
        // Before the answers: who hears that the disk is full must find that nothing more is taken.
        let made = if full { self.make_room() } else { Ok(()) };
        for answer in answers.drain(..) {
            answer(result.clone());
        }
        if full {
            return made;
        }
        result?;
        // Nobody who waits for an answer has to wait for this.
        match self.looked_at {
            None => self.fold_long(),
            Some(at) if at.elapsed() >= LOOK_EVERY => self.look(),
            Some(_) => Ok(()),
        }
    }

    /// The disk is full. A log that is folded in can be used anew; what it takes must not come from the room for answers.
    fn make_room(&mut self) -> Result<(), StoreError> {
        let folded = self.fold();
        self.pause();
        folded
    }

    /// The disk is full: gives the ballast's room to the answers that are yet to come.
    fn pause(&mut self) {
        if self.looked_at.is_some() {
            return;
        }
        self.looked_at = Some(Instant::now());
        self.room.send_replace(Room::Low);
        self.keep.ballast.release();
        tracing::error!(
            "the disk with {} is full: no events are taken in and no messages start until there is room again",
            self.keep.lock.path().with_file_name(super::FILE_NAME).display(),
        );
    }

    /// Goes on if there is room again.
    fn look(&mut self) -> Result<(), StoreError> {
        self.looked_at = Some(Instant::now());
        if self.keep.ballast.take() == Room::Low {
            return Ok(());
        }
        // A limit may lie on the files and not on the disk.
        let tried = self.fold_long().and_then(|()| Ok(super::schema::set_meta(&self.connection, "room", 1)?));
        if let Err(error) = tried {
            self.keep.ballast.release();
            return Err(error);
        }
        self.looked_at = None;
        self.room.send_replace(Room::Enough);
        tracing::info!("there is room on the disk again: the relay goes on");
        self.outlets.wake_all();
        Ok(())
    }

    /// Runs the group in one transaction. An error means that nothing of it is durable. Also tells whether a job met a full
    /// disk, even if the others were committed.
    fn commit(&self, group: &mut Vec<Job>, answers: &mut Vec<Answer>) -> (Result<(), StoreError>, bool) {
        let mut met_full = false;
        let result = self.transact(group, answers, &mut met_full);
        (result, met_full && self.looked_at.is_none())
    }

    fn transact(&self, group: &mut Vec<Job>, answers: &mut Vec<Answer>, met_full: &mut bool) -> Result<(), StoreError> {
        let connection = &self.connection;
        let begun = connection.prepare_cached("BEGIN IMMEDIATE").and_then(|mut begin| begin.execute([]));
        let company = if group.len() == 1 { Company::Nobody } else { Company::Others };
        let (mut undone, mut failed) = (None, false);
        let mut tally = Tally::default();
        for job in group.drain(..) {
            // Where nothing was begun, or some error (full disk, I/O) rolled all back, `in_transaction` refuses to work.
            let (answer, error) = job(connection, company, &mut tally);
            answers.push(answer);
            failed |= error.is_some();
            *met_full |= matches!(error, Some(StoreError::Full));
            let error = error.filter(|error| connection.is_autocommit() || is_fatal(error));
            undone = undone.or(error);
        }
        #[cfg(sabotage = "early_ack")]
        answers.drain(..).for_each(|answer| answer(Ok(())));
        begun?;
        let committed = match undone {
            Some(error) => Err(error),
            // The job has its error; that nothing is kept is as it should be.
            None if failed && company == Company::Nobody => {
                connection.execute_batch("ROLLBACK").map_err(StoreError::from)
            }
            None => self.keep.files.check().and_then(|()| {
                tally.write(connection)?;
                connection.prepare_cached("COMMIT")?.execute([])?;
                Ok(())
            }),
        };
        if committed.is_err() && !connection.is_autocommit() {
            // If this fails too, the next `BEGIN` will say so.
            let _ = connection.execute_batch("ROLLBACK");
        }
        committed
    }

    /// Folds the log into the file when it has grown long.
    fn fold_long(&mut self) -> Result<(), StoreError> {
        let logged = self.log.load(Ordering::Relaxed);
        if logged < self.folded {
            // The log has been begun anew.
            self.folded = 0;
        }
        if logged - self.folded < LOG_PAGES { Ok(()) } else { self.fold() }
    }

    /// Folds the log into the file. What a full disk keeps from being folded stays in it.
    fn fold(&mut self) -> Result<(), StoreError> {
        let mut checkpoint = self.connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?;
        self.folded = checkpoint.query_row([], |row| row.get(2))?;
        Ok(())
    }
}

fn in_transaction<T>(
    connection: &Connection,
    company: Company,
    job: impl FnOnce() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    if connection.is_autocommit() {
        // The transaction is gone or never began: working on would commit piecemeal.
        return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT), None));
    }
    match company {
        Company::Nobody => job(),
        Company::Others => in_savepoint(connection, job),
    }
}

fn in_savepoint<T>(connection: &Connection, job: impl FnOnce() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    connection.prepare_cached("SAVEPOINT job")?.execute([])?;
    let done = job().and_then(|value| {
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

/// What is on disk is not what was written; a fresh start would find the same.
fn is_damage(error: &StoreError) -> bool {
    let StoreError::Failed(error) = error else { return false };
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
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
