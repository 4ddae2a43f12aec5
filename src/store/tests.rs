//! The store's promises against real SQLite in a temporary directory.

use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::model::delivery::Code;
use crate::model::{Condition, Event, EventId, Health, Outcome, Report, RuleName, Severity, SourceName};

mod born;
mod dead;
mod digests;
mod fallback;
mod migration;
mod model;
mod order;
mod recovery;
mod threads;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

struct Scene {
    store: Store,
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Self { store: Store::open(directory.path(), NOW).unwrap(), directory }
    }

    /// Ends the store as a crash would leave it: nothing settled, the log not folded in.
    fn crash(self) -> Self {
        self.crash_until(later(60))
    }

    /// The same, opened again at `now`.
    fn crash_until(self, now: Timestamp) -> Self {
        let Self { store, directory } = self;
        drop(store);
        // A writer that is dropped closes the store in order; what is left must look as if it had not.
        drop(Lock::take(directory.path()).unwrap());
        let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
        schema::set_meta(&connection, schema::CLEAN, 0).unwrap();
        drop(connection);
        let store = Store::open(directory.path(), now).unwrap();
        Self { store, directory }
    }

    /// An orderly end, and a start at `now`.
    async fn restart(self, now: Timestamp) -> Self {
        let Self { store, directory } = self;
        store.close().await;
        drop(store);
        let store = Store::open(directory.path(), now).unwrap();
        Self { store, directory }
    }

    /// Ends the store, changes the file behind its back, and opens it again.
    async fn tampered(self, sql: &str) -> Self {
        let Self { store, directory } = self;
        store.close().await;
        drop(store);
        Connection::open(directory.path().join(FILE_NAME)).unwrap().execute_batch(sql).unwrap();
        let store = Store::open(directory.path(), later(60)).unwrap();
        Self { store, directory }
    }

    /// The store finds by itself that there is room again.
    async fn roomy(&self) {
        let started = std::time::Instant::now();
        while self.store.room() == Room::Low {
            assert!(started.elapsed() < Duration::from_secs(20), "the store never found room");
            tokio::task::yield_now().await;
        }
    }

    async fn accept(&self, events: Vec<NewEvent>) -> Accepted {
        self.store.accept(&SourceName::from("test"), events.into(), NOW).await.unwrap().0
    }

    /// One row of the table, by number.
    async fn state(&self, row: i64) -> String {
        self.row(row).await.state
    }

    async fn row(&self, row: i64) -> DeliveryRow {
        self.store.delivery(Code::of_row(row)).await.unwrap().unwrap().0
    }

    async fn counts(&self, name: &str) -> DestinationCounts {
        let counts = self.store.counts().await.unwrap();
        counts.into_iter().find(|counts| counts.name == name).unwrap_or_default()
    }

    /// A lane's end of the store.
    async fn destination(&self, name: &str) -> OutletId {
        self.lane(name).await.outlet
    }

    async fn lane(&self, name: &str) -> Subscription {
        self.store.subscribe(&DestinationName::from(name)).await.unwrap()
    }

    async fn take(&self, outlet: OutletId, most: usize, now: Timestamp) -> Taken {
        self.store.turn(outlet, claiming(most), now).await.unwrap()
    }

    async fn claim(&self, outlet: OutletId, most: usize, now: Timestamp) -> Vec<Claimed> {
        self.take(outlet, most, now).await.claimed
    }

    async fn settle(&self, outlet: OutletId, claimed: &Claimed, settlement: Settlement) {
        let outcome = if settlement == Settlement::Delivered { Outcome::Delivered } else { Outcome::Transient };
        let report = Report::new(outcome, Some(500), "server error");
        self.record(outlet, answer(claimed, report, settlement, later(1))).await;
    }

    async fn record(&self, outlet: OutletId, turn: Turn) {
        self.store.turn(outlet, turn, NOW).await.unwrap();
    }
}

fn claiming(most: usize) -> Turn {
    Turn { claim: most, ..Turn::default() }
}

fn answer(claimed: &Claimed, report: Report, settlement: Settlement, at: Timestamp) -> Turn {
    let ended = Ended { claimed: claimed.clone(), at, report, settlement };
    Turn { ended: [ended].into(), remember: Some(Duration::from_hours(1)), ..Turn::default() }
}

fn rows(claimed: &[Claimed]) -> Vec<i64> {
    claimed.iter().map(|claimed| claimed.row).collect()
}

fn owed(destination: &str, severity: Severity) -> NewDelivery {
    NewDelivery { destination: destination.into(), rule: RuleName::from("all"), severity, batch: None, thread: None }
}

fn event(id: &str, owed: &[(&str, Severity)]) -> NewEvent {
    keyed(id, "issue-add", owed)
}

fn keyed(id: &str, key: &str, owed: &[(&str, Severity)]) -> NewEvent {
    let event = Event::from_value(json!({"event_id": id, "key": key, "target": "www.example.org"})).unwrap();
    let owed = owed.iter().map(|&(destination, severity)| self::owed(destination, severity));
    NewEvent::new(&event, owed.collect(), None)
}

const INFO: [(&str, Severity); 1] = [("chat", Severity::Info)];

fn again(at: Timestamp) -> Settlement {
    Settlement::Again { at, counts: true, may_repeat: false, plain: false }
}

#[tokio::test]
async fn an_event_is_taken_in_once() {
    let scene = Scene::new();
    let both = [("chat", Severity::Info), ("mail", Severity::High)];
    let first = scene.accept(vec![event("1", &both), event("2", &INFO), event("1", &both)]).await;
    assert_eq!(first, Accepted { new: 2, duplicate: 1, queued: 3, dropped: 0 });
    assert_eq!(scene.accept(vec![event("1", &both)]).await, Accepted { duplicate: 1, ..Accepted::default() });
    let scene = scene.crash();
    assert_eq!(scene.accept(vec![event("2", &INFO)]).await, Accepted { duplicate: 1, ..Accepted::default() });
    let ids: Vec<_> = ["1", "2", "3"].map(|id| EventId::new(id).unwrap()).to_vec();
    assert_eq!(scene.store.unseen(ids).await.unwrap(), [EventId::new("3").unwrap()].into());
}

#[tokio::test]
async fn a_remembered_event_is_not_sent_but_a_webhook_may_still_bring_it() {
    let scene = Scene::new();
    let source = SourceName::from("halo");
    let id = EventId::new("old").unwrap();
    assert_eq!(scene.store.remember(vec![id.clone(), id.clone()], NOW).await.unwrap(), 1);
    assert!(scene.store.unseen(vec![id]).await.unwrap().is_empty());
    assert!(!scene.store.baseline_done(&source).await.unwrap());
    scene.store.set_baseline_done(&source).await.unwrap();
    assert!(scene.store.baseline_done(&source).await.unwrap());
    assert_eq!(scene.accept(vec![event("old", &INFO)]).await.new, 1);
    assert_eq!(scene.accept(vec![event("old", &INFO)]).await.new, 0);
}

#[tokio::test]
async fn urgent_before_old_then_in_order() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    for (id, severity) in
        [("1", Severity::Info), ("2", Severity::Critical), ("3", Severity::Info), ("4", Severity::Critical)]
    {
        scene.accept(vec![event(id, &[("chat", severity)])]).await;
    }
    let order: Vec<_> = scene.claim(chat, 9, NOW).await.iter().map(|claimed| claimed.row).collect();
    assert_eq!(order, [2, 4, 1, 3]);
    assert!(scene.claim(chat, 9, NOW).await.is_empty(), "claimed twice");
}

#[tokio::test]
async fn a_retry_waits_for_its_time() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept(vec![event("1", &INFO)]).await;
    let claimed = scene.claim(chat, 1, NOW).await.remove(0);
    scene.settle(chat, &claimed, again(later(30))).await;
    let early = scene.take(chat, 1, later(29)).await;
    assert!(early.claimed.is_empty());
    assert_eq!(early.next, Some(later(30)));
    let second = scene.claim(chat, 1, later(30)).await.remove(0);
    assert_eq!((second.number, second.failures, second.may_repeat), (2, 1, false));
    scene.settle(chat, &second, Settlement::Delivered).await;
    assert_eq!(scene.take(chat, 1, later(999)).await.next, None);
}

#[tokio::test]
async fn a_crash_marks_what_was_under_way() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept(vec![event("1", &INFO), event("2", &INFO)]).await;
    let sent = scene.claim(chat, 1, NOW).await.remove(0);
    let scene = scene.crash();
    let claimed = scene.claim(chat, 9, later(60)).await;
    let marks: Vec<_> = claimed.iter().map(|claimed| (claimed.row, claimed.number, claimed.may_repeat)).collect();
    assert_eq!(marks, [(sent.row, 2, true), (sent.row + 1, 1, false)]);
    let (_, attempts, _) = scene.store.delivery(Code::of_row(sent.row)).await.unwrap().unwrap();
    assert_eq!(attempts[0].outcome.as_deref(), Some("ambiguous"));
    assert_eq!(attempts[1].outcome, None);
}

#[tokio::test]
async fn ids_outlive_restarts() {
    let scene = Scene::new();
    let id = scene.store.delivery_id(7);
    assert_eq!(scene.crash().store.delivery_id(7), id);
    assert_ne!(Scene::new().store.delivery_id(7), id);
}

#[tokio::test]
async fn pacing_survives_a_restart() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept(vec![event("1", &INFO), event("2", &INFO)]).await;
    let first = scene.claim(chat, 1, NOW).await.remove(0);
    let report = Report::new(Outcome::Throttled { wait: None }, Some(429), "slow down");
    let health = Health { condition: Condition::Failing, failures: 7, ..Health::default() };
    let turn = answer(&first, report, again(later(9)), later(1));
    scene.record(chat, Turn { hold: Some(later(9)), health: Some(health.clone()), ..turn }).await;
    // A shorter pause does not cut a longer one short.
    scene.record(chat, Turn { hold: Some(later(5)), ..Turn::default() }).await;
    assert_eq!(scene.claim(chat, 1, later(10)).await.len(), 1);
    let scene = scene.crash();
    let pacing = scene.store.pacing(chat.destination, NOW, 9).await.unwrap();
    assert_eq!((pacing.hold, pacing.health), (later(9), health));
    let ended = [later(60), later(1)];
    assert_eq!(pacing.sends, ended, "the one under way ended, at the latest, when the store was opened again");
}

#[tokio::test]
async fn dead_letters_are_kept_until_an_operator_acts() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept(vec![event("1", &INFO), event("2", &INFO)]).await;
    for claimed in scene.claim(chat, 9, NOW).await {
        scene.settle(chat, &claimed, Settlement::Dead { reason: "404: no such hook".into() }).await;
    }
    let all = scene.store.dead(DeadFilter::default(), 10).await.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(
        (all[0].target.as_deref(), all[0].reason.as_deref()),
        (Some("www.example.org"), Some("404: no such hook"))
    );
    let other = DeadFilter { destination: Some("mail".into()), ..DeadFilter::default() };
    assert!(scene.store.dead(other.clone(), 10).await.unwrap().is_empty());
    assert!(scene.store.retry_dead(other, NOW).await.unwrap().codes.is_empty());

    let one = DeadFilter { codes: vec![all[0].code.clone()], ..DeadFilter::default() };
    assert_eq!(scene.store.retry_dead(one, later(5)).await.unwrap().codes, [all[0].code.clone()]);
    assert_eq!(scene.claim(chat, 9, later(5)).await.len(), 1);
    assert_eq!(
        scene.store.drop_dead(DeadFilter::default(), "old news".into(), NOW).await.unwrap().codes,
        [all[1].code.clone()]
    );
    assert!(scene.store.dead(DeadFilter::default(), 10).await.unwrap().is_empty());
    let counts = scene.store.counts().await.unwrap();
    assert_eq!((counts[0].sending, counts[0].dropped, counts[0].dead), (1, 1, 0));
}

#[tokio::test]
async fn new_work_wakes_its_lane_and_no_other() {
    let scene = Scene::new();
    let (chat, mail) = (scene.lane("chat").await, scene.lane("mail").await);
    scene.accept(vec![event("1", &INFO)]).await;
    tokio::time::timeout(Duration::from_secs(5), chat.wake.notified()).await.unwrap();
    let mut mail = std::pin::pin!(mail.wake.notified());
    assert!(!mail.as_mut().enable());
}

#[tokio::test]
async fn a_directory_has_one_owner() {
    let scene = Scene::new();
    let error = Store::open(scene.directory.path(), NOW).err().unwrap().to_string();
    assert!(error.contains("is in use by process"), "{error}");
    assert!(Lock::is_held(scene.directory.path()));
    let directory = scene.directory;
    drop(scene.store);
    assert!(Store::open(directory.path(), NOW).is_ok());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let scene = Scene::new();
    let Scene { store, directory } = scene;
    store.close().await;
    drop(store);
    let connection = Connection::open(directory.path().join(FILE_NAME)).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Store::open(directory.path(), NOW).err().unwrap().to_string();
    assert!(error.contains("written by a newer version (schema 99"), "{error}");
}

#[tokio::test]
async fn a_failed_job_takes_nothing_with_it() {
    let scene = Scene::new();
    let bad =
        scene.store.write(|work| work.db.execute("INSERT INTO meta (name, value) VALUES ('boot', 1)", []).map(drop));
    let (bad, good) = tokio::join!(bad, scene.store.beat(NOW));
    assert!(matches!(bad, Err(StoreError::Failed(_))));
    good.unwrap();
}

#[tokio::test]
async fn concurrent_jobs_share_commits() {
    let scene = Scene::new();
    let before = scene.store.writer_stats();
    let beats: Vec<_> = (0..200)
        .map(|_| {
            let store = scene.store.clone();
            tokio::spawn(async move { store.beat(NOW).await })
        })
        .collect();
    for beat in beats {
        beat.await.unwrap().unwrap();
    }
    let after = scene.store.writer_stats();
    assert_eq!(after.jobs - before.jobs, 200);
    assert!(after.commits - before.commits < 200, "every job had a commit of its own");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let scene = Scene::new();
    scene.store.close().await;
    assert!(matches!(scene.store.beat(NOW).await, Err(StoreError::Closed)));
}

#[tokio::test]
async fn a_job_that_fails_half_way_leaves_nothing() {
    let scene = Scene::new();
    let half = || {
        scene.store.write(|work| {
            schema::set_meta(work.db, "half", 1)?;
            work.db.execute("INSERT INTO meta (name, value) VALUES ('boot', 1)", []).map(drop)
        })
    };
    let before = scene.store.writer_stats();
    assert!(half().await.is_err(), "alone");
    // While the writer is busy, the next group forms.
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let busy = scene.store.write(move |_| {
        wait.recv().unwrap();
        Ok(())
    });
    let (busy, half, good, ()) = tokio::join!(busy, half(), scene.store.beat(NOW), async { go_on.send(()).unwrap() });
    assert!(half.is_err(), "with others");
    busy.and(good).unwrap();
    let after = scene.store.writer_stats();
    assert_eq!((after.jobs - before.jobs, after.failed_commits), (4, 0));
    assert_eq!(scene.store.read(|db| schema::meta(db, "half")).await.unwrap(), None);
}

#[tokio::test]
async fn a_lane_is_woken_even_if_the_sender_has_gone() {
    let scene = Scene::new();
    let chat = scene.lane("chat").await;
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let busy = scene.store.write(move |_| {
        wait.recv().unwrap();
        Ok(())
    });
    assert!(tokio::time::timeout(Duration::ZERO, busy).await.is_err());
    let source = SourceName::from("test");
    let accepting = scene.store.accept(&source, [event("1", &INFO)].into(), NOW);
    // One look, enough to hand the job over; then the caller is dropped, as when a client hangs up.
    assert!(tokio::time::timeout(Duration::ZERO, accepting).await.is_err());
    go_on.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(5), chat.wake.notified()).await.expect("a wake-up");
}

#[tokio::test]
async fn the_directory_is_held_until_the_writer_has_ended() {
    let scene = Scene::new();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let late = scene.store.write(move |work| {
        wait.recv().unwrap();
        schema::set_meta(work.db, "late", 1)
    });
    assert!(tokio::time::timeout(Duration::ZERO, late).await.is_err());
    let Scene { store, directory } = scene;
    drop(store);
    assert!(Lock::is_held(directory.path()), "free while a job is under way");
    go_on.send(()).unwrap();
    let store = Store::open(directory.path(), NOW).unwrap();
    assert_eq!(store.read(|db| schema::meta(db, "late")).await.unwrap(), Some(1));
}

#[tokio::test]
async fn a_look_at_the_lock_does_not_keep_a_relay_from_starting() {
    let directory = TempDir::new().unwrap();
    Store::open(directory.path(), NOW).unwrap().close().await;
    let look = std::fs::File::open(directory.path().join("relay.lock")).unwrap();
    look.lock_shared().unwrap();
    let path = directory.path().to_owned();
    let opening = tokio::task::spawn_blocking(move || Store::open(&path, NOW).map(drop));
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(look);
    opening.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_and_passes_by() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    let set_pages = |pages: i64| {
        scene.store.write(move |work| work.db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())))
    };
    set_pages(1).await.unwrap();
    let mut taken = 0;
    let refused = loop {
        let long: String = "x".repeat(2_000);
        let record = json!({"event_id": taken.to_string(), "key": "issue-add", "subject": long});
        let event = NewEvent::new(&Event::from_value(record).unwrap(), vec![owed("chat", Severity::Info)], None);
        match scene.store.accept(&SourceName::from("test"), [event].into(), NOW).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Full), "{refused}");
    // What was taken is sent as long as it can be recorded, and no further.
    let mut sent = 0;
    let stopped = loop {
        match scene.store.turn(chat, claiming(1), NOW).await {
            Ok(taken) if taken.claimed.is_empty() => break None,
            Ok(_) => sent += 1,
            Err(error) => break Some(error),
        }
    };
    assert!(stopped.is_none_or(|error| matches!(error, StoreError::Full)));
    let counts = scene.store.counts().await.unwrap();
    assert_eq!((counts[0].sending, counts[0].ready), (sent, taken - sent));
    set_pages(1_000_000).await.unwrap();
    scene.roomy().await;
    assert_eq!(scene.accept(vec![event("after", &INFO)]).await.new, 1);
    assert_eq!(scene.claim(chat, 9_999, NOW).await.len() as u64, taken - sent + 1);
    assert!(tokio::time::timeout(Duration::ZERO, scene.store.failed()).await.is_err(), "a full disk is no failure");
}

#[tokio::test]
async fn nothing_is_acknowledged_into_a_deleted_file() {
    for name in [FILE_NAME, "relay.db-wal", "relay.lock"] {
        let scene = Scene::new();
        scene.accept(vec![event("1", &INFO)]).await;
        let path = scene.directory.path().join(name);
        std::fs::remove_file(&path).unwrap();
        // A restored copy is another file.
        std::fs::write(&path, "").unwrap();
        let refused = scene.store.accept(&SourceName::from("test"), [event("2", &INFO)].into(), NOW).await;
        assert!(matches!(refused, Err(StoreError::Replaced(found)) if found == path), "{name}");
        let failure = tokio::time::timeout(Duration::from_secs(5), scene.store.failed()).await.unwrap();
        assert!(failure.contains(name), "{failure}");
        assert!(matches!(scene.store.beat(NOW).await, Err(StoreError::Closed)));
    }
}

#[tokio::test]
async fn a_directory_put_elsewhere_is_noticed() {
    let scene = Scene::new();
    let (path, elsewhere) = (scene.directory.path().to_owned(), TempDir::new().unwrap());
    std::fs::rename(&path, elsewhere.path()).unwrap();
    std::fs::create_dir(&path).unwrap();
    let started = std::time::Instant::now();
    let mut taken = 0;
    let refused = loop {
        assert!(started.elapsed() < Duration::from_secs(20), "it was never noticed");
        let name = format!("event-{taken}");
        match scene.store.accept(&SourceName::from("test"), [event(&name, &INFO)].into(), NOW).await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StoreError::Replaced(found) if found == path));
    // What was acknowledged until then went along.
    let there = Connection::open(elsewhere.path().join(FILE_NAME)).unwrap();
    let kept: i64 = there.query_row("SELECT count(*) FROM event", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, taken);
}

#[tokio::test]
async fn a_job_that_meets_an_io_error_ends_the_store() {
    let scene = Scene::new();
    let failing = scene.store.write(|_| -> rusqlite::Result<()> {
        Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_READ), None))
    });
    let (failing, other) = tokio::join!(failing, scene.store.beat(later(9)));
    assert!(failing.is_err() && other.is_err(), "nothing is committed beside it");
    tokio::time::timeout(Duration::from_secs(5), scene.store.failed()).await.unwrap();
}

#[tokio::test]
async fn the_log_is_folded_in_while_it_runs() {
    let scene = Scene::new();
    let log = scene.directory.path().join("relay.db-wal");
    for round in 0..40 {
        let some = (0..50).map(|n| {
            let record = json!({"event_id": format!("{round}-{n}"), "key": "issue-add", "subject": "x".repeat(10_000)});
            NewEvent::new(&Event::from_value(record).unwrap(), Vec::new(), None)
        });
        scene.accept(some.collect()).await;
    }
    let (length, file) = (std::fs::metadata(log).unwrap().len(), std::fs::metadata(scene.store.path()).unwrap().len());
    assert!(length < 8 * 1024 * 1024, "{length} bytes of log");
    assert!(file > 12 * 1024 * 1024, "{file} bytes of {} are in the file", 40 * 50 * 10_000);
}

/// What the tally keeps is what counting would find.
async fn tallied(scene: &Scene) -> Vec<(String, i64, u64)> {
    let counted = scene.store.read(|db| {
        let mut count = db.prepare(
            "SELECT n.name, d.state, count(*) FROM delivery d JOIN destination n ON n.id = d.destination
             GROUP BY n.name, d.state ORDER BY n.name, d.state",
        )?;
        let rows = count.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?.unsigned_abs())))?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    });
    let counted = counted.await.unwrap();
    let told = scene.store.counts().await.unwrap();
    let told = told.iter().flat_map(|one| {
        let states = [one.ready, one.sending, one.delivered, one.dead, one.dropped, one.folded, one.held];
        (0..).zip(states).filter(|(_, number)| *number > 0).map(|(state, number)| (one.name.clone(), state, number))
    });
    assert_eq!(told.collect::<Vec<_>>(), counted);
    counted
}

#[tokio::test]
async fn counts_are_kept_through_every_change() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.destination("mail").await);
    for n in 0..6 {
        scene.accept(vec![event(&n.to_string(), &[("chat", Severity::Info), ("mail", Severity::High)])]).await;
    }
    let claimed = scene.claim(chat, 4, NOW).await;
    tallied(&scene).await;
    scene.settle(chat, &claimed[0], Settlement::Delivered).await;
    scene.settle(chat, &claimed[1], again(later(30))).await;
    for claimed in &claimed[2..] {
        scene.settle(chat, claimed, Settlement::Dead { reason: "gone".into() }).await;
    }
    tallied(&scene).await;
    let code = Code::of_row(claimed[2].row).to_string();
    let one = DeadFilter { codes: vec![code], ..DeadFilter::default() };
    scene.store.retry_dead(one, NOW).await.unwrap();
    scene.store.drop_dead(DeadFilter::default(), "old".into(), NOW).await.unwrap();
    scene.claim(mail, 1, NOW).await;
    tallied(&scene).await;
    let scene = scene.crash();
    let found = tallied(&scene).await;
    let expected = [("chat", 0, 4), ("chat", 2, 1), ("chat", 4, 1), ("mail", 0, 6)];
    assert_eq!(found, expected.map(|(name, state, number)| (name.to_owned(), state, number)));
    let counts = scene.store.counts().await.unwrap();
    assert_eq!(counts[0].oldest_owed, Some(NOW));
    let none = Scene::new();
    none.destination("chat").await;
    assert_eq!(none.store.counts().await.unwrap()[0], DestinationCounts { name: "chat".into(), ..Default::default() });
}

#[tokio::test]
async fn the_oldest_owed_is_told_whatever_its_severity_and_state() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    let source = SourceName::from("test");
    for (id, severity, seconds) in [("1", Severity::Critical, 1), ("2", Severity::Info, 2), ("3", Severity::High, 3)] {
        scene.store.accept(&source, [event(id, &[("chat", severity)])].into(), later(seconds)).await.unwrap();
    }
    for seconds in [1, 2, 3] {
        assert_eq!(scene.store.counts().await.unwrap()[0].oldest_owed, Some(later(seconds)));
        // By severity the second is the last.
        for claimed in scene.claim(chat, 9, later(9)).await {
            let settlement =
                if claimed.row <= i64::try_from(seconds).unwrap() { Settlement::Delivered } else { again(NOW) };
            scene.settle(chat, &claimed, settlement).await;
        }
    }
    assert_eq!(scene.store.counts().await.unwrap()[0].oldest_owed, None);
}

/// A million rows must not be read to find one.
#[tokio::test]
async fn hot_queries_use_their_indexes() {
    let scene = Scene::new();
    let plans = scene.store.read(|db| {
        queue::HOT
            .iter()
            .chain(&super::fallback::HOT)
            .chain(&records::HOT)
            .chain(&super::dead::HOT)
            .map(|sql| {
                let mut explain = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                let steps =
                    explain.raw_query().mapped(|row| row.get::<_, String>(3)).collect::<rusqlite::Result<Vec<_>>>()?;
                Ok((*sql, steps.join("; ")))
            })
            .collect::<rusqlite::Result<Vec<_>>>()
    });
    for (sql, plan) in plans.await.unwrap() {
        assert!(!plan.contains("TEMP B-TREE"), "{sql}\nsorts: {plan}");
        // What a limited search has found is read whole, and so is an index that holds few.
        let whole = ["(subquery-1)", "delivery USING COVERING INDEX delivery_away"];
        let plan = whole.iter().fold(plan, |plan, whole| plan.replace(&format!("SCAN {whole}"), ""));
        assert!(!plan.contains("SCAN"), "{sql}\nscans: {plan}");
    }
}

#[tokio::test]
async fn a_clock_set_back_delays_nothing() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept(vec![event("1", &INFO), keyed("2", "issue-close", &INFO)]).await;
    let claimed = scene.claim(chat, 1, NOW).await.remove(0);
    let report = Report::new(Outcome::Throttled { wait: None }, Some(429), "slow down");
    let turn = answer(&claimed, report, again(later(30)), NOW);
    scene.record(chat, Turn { hold: Some(later(20)), ..turn }).await;
    scene.store.beat(NOW).await.unwrap();
    scene.store.close().await;
    let Scene { store, directory } = scene;
    drop(store);
    // An hour back: what was due is due, what had to wait waits as long as before.
    let hour = Duration::from_hours(1);
    let store = Store::open(directory.path(), NOW.minus(hour)).unwrap();
    let pacing = store.pacing(chat.destination, Timestamp::default(), 9).await.unwrap();
    assert_eq!(pacing.hold, later(20).minus(hour));
    assert_eq!(pacing.sends, [NOW.minus(hour)], "a send of the future counts as one of now");
    let taken = store.turn(chat, claiming(9), NOW.minus(hour)).await.unwrap();
    let due: Vec<_> = taken.claimed.iter().map(|due| (due.row, due.created_at)).collect();
    assert_eq!(due, [(2, NOW.minus(hour))]);
    assert_eq!(taken.next, Some(later(30).minus(hour)));
}

#[tokio::test]
async fn only_as_much_history_as_the_limits_need() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept((0..20).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    for seconds in 0..20 {
        let claimed = scene.claim(chat, 1, later(seconds)).await.remove(0);
        let report = Report::new(Outcome::Delivered, Some(200), "");
        let turn = answer(&claimed, report, Settlement::Delivered, later(seconds + 1));
        scene.record(chat, Turn { remember: Some(Duration::from_secs(5)), ..turn }).await;
    }
    let sends = |since, most| scene.store.sends("chat", since, most);
    assert_eq!(sends(NOW, 3).await.unwrap(), [later(20), later(19), later(18)]);
    assert_eq!(sends(later(19), 9).await.unwrap(), [later(20), later(19)]);
    assert_eq!(sends(NOW, 99).await.unwrap().len(), 6, "older ones are let go");
    assert!(sends(NOW, 0).await.unwrap().is_empty());
    assert!(scene.store.sends("nobody", NOW, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn acts_on_many_dead_letters_reach_each_once() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept((0..620).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    for claimed in scene.claim(chat, 9_999, NOW).await {
        scene.settle(chat, &claimed, Settlement::Dead { reason: "gone".into() }).await;
    }
    let codes = scene.store.retry_dead(DeadFilter::default(), NOW).await.unwrap().codes;
    assert_eq!(codes.iter().collect::<std::collections::HashSet<_>>().len(), 620);
    assert_eq!(codes.len(), 620);
    assert_eq!(tallied(&scene).await, [("chat".to_owned(), 0, 620)]);
    let twice = DeadFilter { codes: [codes.clone(), codes].concat(), ..DeadFilter::default() };
    for claimed in scene.claim(chat, 510, NOW).await {
        scene.settle(chat, &claimed, Settlement::Dead { reason: "gone".into() }).await;
    }
    assert_eq!(scene.store.drop_dead(twice, "old".into(), NOW).await.unwrap().codes.len(), 510);
}

#[tokio::test]
async fn nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("state");
    let store = Store::open(&directory, NOW).unwrap();
    store.beat(NOW).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for name in ["relay.db", "relay.db-wal", "relay.db-shm", "relay.lock", "relay.json"] {
        assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn who_holds_the_lock_can_be_read_at_any_moment() {
    let scene = Scene::new();
    let directory = scene.directory.path().to_owned();
    let (stop, stopped) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut reads = 0;
        while stopped.try_recv().is_err() {
            assert!(Lock::holder(&directory).is_some(), "unreadable after {reads} reads");
            reads += 1;
        }
        reads
    });
    for round in 0..2_000 {
        let webhooks = vec!["127.0.0.1:8790".to_owned(); round % 4];
        scene.store.lock().announce(&Holder { pid: 1, admin: None, webhooks }).unwrap();
    }
    stop.send(()).unwrap();
    assert!(reader.join().unwrap() > 0);
}
