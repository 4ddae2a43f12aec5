//! Stores that earlier versions have written.

use rusqlite::params;

use super::*;

const FIRST: &str = include_str!("../migrations/0001_initial.sql");
const SECOND: &str = include_str!("../migrations/0002_digests.sql");
const THIRD: &str = include_str!("../migrations/0003_retention.sql");
const FOURTH: &str = include_str!("../migrations/0004_threads.sql");

/// One delivery in each state of that time, written as that version did.
fn old_store(directory: &Path) -> Connection {
    let db = Connection::open(directory.join(FILE_NAME)).unwrap();
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    db.execute_batch(FIRST).unwrap();
    db.execute_batch(
        "PRAGMA user_version = 1;
         INSERT INTO meta VALUES ('instance', 'abcd'), ('boot', 7), ('alive_at', 1700000000000);
         INSERT INTO source VALUES ('halo', 1);
         INSERT INTO destination VALUES (1, 'chat', 1700000009000), (2, 'mail', 0);",
    )
    .unwrap();
    for id in 1..=6 {
        let body = json!({"event_id": format!("e{id}"), "key": "issue-add", "target": "www.example.org"}).to_string();
        let (name, at) = (format!("e{id}"), NOW.as_millis());
        db.execute("INSERT INTO seen VALUES (?1, ?2, 0)", params![name, at]).unwrap();
        db.execute(
            "INSERT INTO event VALUES (?1, ?2, 'issue-add', 'halo', ?3, ?4, NULL, NULL)",
            params![id, name, at, body],
        )
        .unwrap();
    }
    db.execute_batch(
        "INSERT INTO delivery VALUES
            (1, 1, 1, 'all', 0, 0, 1700000000000, 0, 0, 0, 0, 1700000000000, NULL, NULL),
            (2, 2, 1, 'all', 4, 0, 1700000030000, 2, 1, 1, 1, 1700000000000, NULL, 'server error'),
            (3, 3, 1, 'all', 3, 1, 1700000000000, 2, 1, 0, 0, 1700000000000, NULL, 'server error'),
            (4, 4, 1, 'all', 2, 2, 1700000000000, 1, 0, 0, 0, 1700000000000, 1700000001000, NULL),
            (5, 5, 1, 'all', 1, 3, 1700000000000, 1, 1, 0, 0, 1700000000000, 1700000002000, '404: no such hook'),
            (6, 6, 1, 'all', 0, 4, 1700000000000, 1, 1, 0, 0, 1700000000000, 1700000003000, 'old news'),
            (7, 6, 2, 'all', 0, 0, 1700000000000, 0, 0, 0, 0, 1700000000000, NULL, NULL);
         INSERT INTO attempt VALUES
            (2, 1, 1, 6, 1700000000100, 1700000000200, 'throttled', 429, 'slow down'),
            (2, 2, 1, 6, 1700000000300, 1700000000400, 'transient', 500, 'server error'),
            (3, 1, 1, 6, 1700000000100, 1700000000200, 'transient', 500, 'server error'),
            (3, 2, 1, 7, 1700000000500, NULL, NULL, NULL, NULL),
            (4, 1, 1, 6, 1700000000900, 1700000001000, 'delivered', 200, 'ok'),
            (5, 1, 1, 6, 1700000001900, 1700000002000, 'refused_destination', 404, 'no such hook'),
            (6, 1, 1, 6, 1700000002900, 1700000003000, 'refused_destination', 404, 'no such hook');",
    )
    .unwrap();
    db
}

fn opened(directory: TempDir) -> Scene {
    let store = Store::open(directory.path(), later(60)).unwrap();
    Scene { store, directory }
}

async fn check(scene: &Scene) {
    let found = tallied(scene).await;
    let expected = [("chat", 0, 3), ("chat", 2, 1), ("chat", 3, 1), ("chat", 4, 1), ("mail", 0, 1)];
    assert_eq!(found, expected.map(|(name, state, number)| (name.to_owned(), state, number)));
    let mut attempts = Vec::new();
    for row in 1..=7 {
        let (found, tried, body) = scene.store.delivery(Code::of_row(row)).await.unwrap().unwrap();
        assert_eq!(found.event_id, Some(format!("e{}", row.min(6))));
        assert!(body.unwrap().contains("www.example.org"));
        let tried = tried.iter().map(|tried| format!("{} {}", tried.number, tried.outcome.as_deref().unwrap_or("-")));
        attempts.push(tried.collect::<Vec<_>>().join(", "));
    }
    let expected = [
        "",
        "1 throttled, 2 transient",
        "1 transient, 2 ambiguous",
        "1 delivered",
        "1 refused_destination",
        "1 refused_destination",
        "",
    ];
    assert_eq!(attempts, expected);
    assert_eq!(scene.row(5).await.reason.as_deref(), Some("404: no such hook"));
    assert_eq!(scene.row(6).await.reason.as_deref(), Some("old news"));
    assert_eq!(scene.store.delivery_id(1).as_str(), "hr_abcd_1");
    assert!(scene.store.baseline_done(&"halo".into()).await.unwrap());
}

#[tokio::test]
async fn a_store_of_the_first_version_is_worked_on() {
    let directory = TempDir::new().unwrap();
    drop(old_store(directory.path()));
    let scene = opened(directory);
    check(&scene).await;
    let chat = scene.destination("chat").await;
    let pacing = scene.store.pacing(chat.destination, NOW, 99).await.unwrap();
    assert_eq!((pacing.hold, pacing.health), (later(9), Health::default()));
    assert_eq!(pacing.sends.len(), 7, "all that ended, and the one that the crash ended");
    // What was known is known, and new numbers are new.
    let accepted = scene.accept(vec![event("e1", &INFO), event("new", &INFO)]).await;
    assert_eq!((accepted.new, accepted.duplicate), (1, 1));
    let claimed = scene.claim(chat, 9, later(60)).await;
    let marks: Vec<_> = claimed
        .iter()
        .map(|claimed| (claimed.row, claimed.number, claimed.failures, claimed.plain, claimed.may_repeat))
        .collect();
    let expected = [(2, 3, 1, true, true), (3, 3, 1, false, true), (1, 1, 0, false, false), (8, 1, 0, false, false)];
    assert_eq!(marks, expected);
    for claimed in &claimed {
        scene.settle(chat, claimed, Settlement::Delivered).await;
    }
    scene.store.retry_dead(DeadFilter::default(), later(61)).await.unwrap();
    assert_eq!(rows(&scene.claim(chat, 9, later(61)).await), [5]);
    tallied(&scene).await;
    // References hold: one row each, and none to nothing.
    let twice = scene.store.write(|work| {
        work.db.execute("INSERT INTO delivery SELECT 99, kind, event, destination, via, lane, rule, severity, state, due_at,
            started_at, status, tries, failures, crashes, plain, may_repeat, created_at, ended_at, reason, note, digest, checksum, thread
            FROM delivery WHERE id = 1", [])
    });
    assert!(twice.await.unwrap_err().to_string().contains("UNIQUE"));
    let broken = scene.store.read(|db| {
        let mut check = db.prepare("PRAGMA foreign_key_check")?;
        check.exists([])
    });
    assert!(!broken.await.unwrap());
}

#[tokio::test]
async fn a_migration_that_was_interrupted_is_done_again() {
    let directory = TempDir::new().unwrap();
    let db = old_store(directory.path());
    // With so small a cache, half of what is not committed is already in the log.
    db.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA cache_size = 1; BEGIN IMMEDIATE").unwrap();
    db.execute_batch(SECOND).unwrap();
    let copy = TempDir::new().unwrap();
    for name in [FILE_NAME, "relay.db-wal"] {
        std::fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
    }
    drop(db);
    let raw = Connection::open(copy.path().join(FILE_NAME)).unwrap();
    let version: i64 = raw.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let rows: i64 = raw.query_row("SELECT count(*) FROM delivery", [], |row| row.get(0)).unwrap();
    assert_eq!((version, rows), (1, 7), "the old one is whole");
    drop(raw);
    for directory in [copy, directory] {
        check(&opened(directory)).await;
    }
}

#[tokio::test]
async fn numbers_go_on_where_rows_were_let_go() {
    let directory = TempDir::new().unwrap();
    let db = old_store(directory.path());
    for sql in [SECOND, THIRD, FOURTH] {
        db.execute_batch(&format!("PRAGMA foreign_keys = OFF; BEGIN IMMEDIATE; {sql} COMMIT")).unwrap();
    }
    db.execute_batch(
        "PRAGMA user_version = 4;
         DELETE FROM delivery WHERE id IN (6, 7);
         DELETE FROM event WHERE id = 6;",
    )
    .unwrap();
    drop(db);
    let mut scene = opened(directory);
    let made = scene.accept(vec![event("new", &INFO)]).await;
    assert_eq!((made.new, scene.last_rows().await), (1, (7, 8)));
    // What is let go by this version counts, too; here it is the newest of all.
    let chat = scene.destination("chat").await;
    for claimed in scene.claim(chat, 9, later(60)).await {
        scene.settle(chat, &claimed, Settlement::Delivered).await;
    }
    let mut walk = Walk::default();
    while !walk.is_over() {
        scene.store.prune(&mut walk, later(1_000_000)).await.unwrap();
    }
    assert!(scene.last_rows().await < (7, 8));
    scene = scene.crash();
    scene.accept(vec![event("newer", &INFO)]).await;
    assert_eq!(scene.last_rows().await, (8, 9));
}

impl Scene {
    /// The highest numbers of an event and of a delivery that are there.
    async fn last_rows(&self) -> (i64, i64) {
        let last = "SELECT (SELECT max(id) FROM event), (SELECT max(id) FROM delivery)";
        self.store.read(move |db| db.query_row(last, [], |row| Ok((row.get(0)?, row.get(1)?)))).await.unwrap()
    }
}
