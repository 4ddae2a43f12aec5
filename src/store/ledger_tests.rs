//! What is let go, and what an audit says before, during and after.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, params};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::model::delivery::Code;
use crate::model::key::KeyPatterns;
use crate::model::{Event, Outcome, Report, RuleName, Severity, SourceName};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

/// A store with a lane for each of two destinations.
struct Scene {
    store: Store,
    chat: OutletId,
    mail: OutletId,
    directory: TempDir,
}

impl Scene {
    async fn new() -> Self {
        Self::open(TempDir::new().unwrap(), NOW).await
    }

    async fn open(directory: TempDir, now: Timestamp) -> Self {
        let store = Store::open(directory.path(), now).unwrap();
        let outlet = async |name: &str| store.subscribe(&DestinationName::from(name)).await.unwrap().outlet;
        let (chat, mail) = (outlet("chat").await, outlet("mail").await);
        Self { store, chat, mail, directory }
    }

    async fn accept(&self, events: Vec<NewEvent>, now: Timestamp) {
        self.store.accept(&SourceName::from("test"), events.into(), now).await.unwrap();
    }

    async fn claim(&self, outlet: OutletId, most: usize, now: Timestamp) -> Vec<Claimed> {
        self.store.turn(outlet, Turn { claim: most, ..Turn::default() }, now).await.unwrap().claimed
    }

    async fn settle(&self, outlet: OutletId, claimed: Vec<Claimed>, settlement: Settlement, at: Timestamp) {
        let outcome = if settlement == Settlement::Delivered { Outcome::Delivered } else { Outcome::Transient };
        let ended = claimed.into_iter().map(|claimed| {
            let report = Report::new(outcome.clone(), Some(200), "words");
            Ended { claimed, at, report, settlement: settlement.clone() }
        });
        let turn = Turn { ended: ended.collect::<Vec<_>>().into(), ..Turn::default() };
        self.store.turn(outlet, turn, at).await.unwrap();
    }

    /// Sends all that is due to one destination.
    async fn deliver(&self, outlet: OutletId, now: Timestamp) -> usize {
        let claimed = self.claim(outlet, 100_000, now).await;
        let sent = claimed.len();
        self.settle(outlet, claimed, Settlement::Delivered, now).await;
        sent
    }

    async fn prune(&self, before: Timestamp) -> Pruned {
        let (mut walk, mut all) = (Walk::default(), Pruned::default());
        while !walk.is_over() {
            let pruned = self.store.prune(&mut walk, before).await.unwrap();
            all.deliveries += pruned.deliveries;
            all.events += pruned.events;
            // Between any two steps all adds up.
            assert_eq!(self.reader().audit_sums().unwrap().findings, []);
        }
        all
    }

    fn reader(&self) -> Reader {
        Reader::open(self.directory.path()).unwrap()
    }

    fn audit(&self) -> Audit {
        self.reader().audit(&Scope::default()).unwrap()
    }

    fn number(&self, sql: &str) -> i64 {
        self.reader().db.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// What something else than the relay does to the file.
    fn bend(&self, sql: &str) {
        let db = Connection::open(self.directory.path().join(FILE_NAME)).unwrap();
        db.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON").unwrap();
        assert!(db.execute(sql, []).unwrap() > 0, "{sql} changed nothing");
    }
}

fn event(id: impl std::fmt::Display, owed: &[NewDelivery]) -> NewEvent {
    let record = json!({"event_id": id.to_string(), "key": "issue-add", "target": "www.example.org"});
    NewEvent::new(&Event::from_value(record).unwrap(), owed.to_vec(), None)
}

fn dropped(id: &str) -> NewEvent {
    NewEvent { dropped: Some((RuleName::from("scans"), "on the dashboard".to_owned())), ..event(id, &[]) }
}

fn to(destination: &str) -> NewDelivery {
    let (destination, rule) = (DestinationName::from(destination), RuleName::from("all"));
    NewDelivery { destination, rule, severity: Severity::Info, batch: None, thread: None }
}

fn batched(destination: &str) -> NewDelivery {
    let batch = NewBatch { group: "g".to_owned(), wait: Duration::from_secs(30), max: 5_000 };
    NewDelivery { batch: Some(batch), ..to(destination) }
}

/// One of each: delivered at once and at the second attempt, dead, dropped by an operator, folded into a batch that is sent and
/// into one that is held, suppressed, ready, being sent.
async fn one_of_each() -> Scene {
    let scene = Scene::new().await;
    let later = |seconds| NOW.plus(Duration::from_secs(seconds));
    scene.accept(vec![event("at-once", &[to("chat")])], NOW).await;
    assert_eq!(scene.deliver(scene.chat, NOW).await, 1);
    scene.accept(vec![event("twice", &[to("chat"), to("mail")])], later(1)).await;
    let claimed = scene.claim(scene.chat, 9, later(1)).await;
    let again = Settlement::Again { at: later(2), counts: true, may_repeat: false, plain: false };
    scene.settle(scene.chat, claimed, again, later(1)).await;
    assert_eq!(scene.deliver(scene.chat, later(2)).await, 1);
    for _ in 0..2 {
        let claimed = scene.claim(scene.mail, 1, later(3)).await;
        scene.settle(scene.mail, claimed, Settlement::Dead { reason: "refused".to_owned() }, later(3)).await;
        if scene.number("SELECT count(*) FROM delivery WHERE state = 4") == 0 {
            scene.store.drop_dead(DeadFilter::default(), "old news".to_owned(), later(3)).await.unwrap();
        }
        scene.accept(vec![event("dead", &[to("mail")])], later(3)).await;
    }
    scene.accept((0..3).map(|n| event(format!("sent-{n}"), &[batched("chat")])).collect(), later(4)).await;
    assert_eq!(scene.deliver(scene.chat, later(40)).await, 1);
    scene.accept((0..2).map(|n| event(format!("held-{n}"), &[batched("chat")])).collect(), later(50)).await;
    scene
        .accept(vec![dropped("scan"), event("sending", &[to("mail")]), event("ready", &[to("mail")])], later(50))
        .await;
    assert_eq!(scene.claim(scene.mail, 1, later(50)).await.len(), 1);
    scene
}

#[tokio::test]
async fn a_store_that_the_relay_wrote_balances() {
    let scene = one_of_each().await;
    let audit = scene.audit();
    assert_eq!(audit.findings, []);
    assert_eq!((audit.events, audit.events_checked, audit.owed, audit.pruned), (11, 11, 11, 0));
    assert_eq!(audit.deliveries, 13, "two digests more");
    let sums = |name: &str| audit.destinations.iter().find(|sums| sums.destination == name).unwrap().states.clone();
    let expected = [("delivered", 3), ("folded", 5), ("held", 1)].map(|(state, n)| (state.to_owned(), n));
    assert_eq!(sums("chat"), expected.into());
    let expected = [("dead", 1), ("dropped", 1), ("ready", 1), ("sending", 1)].map(|(state, n)| (state.to_owned(), n));
    assert_eq!(sums("mail"), expected.into());

    let since = Some(NOW.plus(Duration::from_secs(50)));
    let part = scene.reader().audit(&Scope { since, ..Scope::default() }).unwrap();
    assert_eq!((part.events, part.events_checked, part.deliveries, part.imbalance), (11, 5, 13, 0));
    assert!(part.deliveries_checked >= 4 && part.deliveries_checked < 8, "{part:?}");
    assert_eq!(part.destinations, audit.destinations);

    // A crash leaves what was being sent as it is: that is told, and no finding. The next start takes it up.
    let Scene { store, directory, .. } = scene;
    drop(store);
    let reader = Reader::open(directory.path()).unwrap();
    let boots = |reader: &Reader| schema::meta(&reader.db, "boot").unwrap();
    assert_eq!((reader.audit(&Scope::default()).unwrap().imbalance, boots(&reader)), (0, Some(1)));
    drop(reader);
    let scene = Scene::open(directory, NOW.plus(HOUR)).await;
    assert_eq!(scene.audit().findings, []);
    assert_eq!(boots(&scene.reader()), Some(2), "only the relay's own start counts");
}

#[tokio::test]
async fn each_way_of_being_wrong_is_named() {
    let of =
        |id: &str| format!("(SELECT d.id FROM delivery d JOIN event e ON e.id = d.event WHERE e.event_id = '{id}')");
    let batch = "(SELECT id FROM delivery WHERE kind = 1 AND state = 2)";
    let cases = [
        (Check::EventOwed, Some("dead"), format!("DELETE FROM delivery WHERE id = {}", of("dead"))),
        (Check::EventOwed, Some("scan"), "UPDATE event SET dropped_by = NULL WHERE event_id = 'scan'".to_owned()),
        (Check::EventSeen, Some("ready"), "DELETE FROM seen WHERE event_id = 'ready'".to_owned()),
        (Check::SeenEvent, Some("scan"), "DELETE FROM event WHERE event_id = 'scan'".to_owned()),
        (Check::References, None, "DELETE FROM event WHERE event_id = 'ready'".to_owned()),
        (Check::Checksum, Some("dead"), "UPDATE event SET body = '{}' WHERE event_id = 'dead'".to_owned()),
        (Check::Checksum, Some("dead"), format!("UPDATE delivery SET rule = 'other' WHERE id = {}", of("dead"))),
        (Check::References, Some("ready"), format!("UPDATE delivery SET via = 99 WHERE id = {}", of("ready"))),
        (Check::References, Some("ready"), "DELETE FROM destination WHERE name = 'mail'".to_owned()),
        (Check::State, Some("ready"), format!("UPDATE delivery SET state = 9 WHERE id = {}", of("ready"))),
        (Check::State, Some("at-once"), format!("UPDATE delivery SET ended_at = NULL WHERE id = {}", of("at-once"))),
        (Check::State, Some("dead"), format!("UPDATE delivery SET reason = NULL WHERE id = {}", of("dead"))),
        (
            Check::Attempt,
            Some("ready"),
            format!("UPDATE delivery SET state = 2, ended_at = 1 WHERE id = {}", of("ready")),
        ),
        (Check::Attempt, Some("twice"), "DELETE FROM attempt WHERE outcome = 'delivered'".to_owned()),
        (Check::Sending, Some("sending"), format!("UPDATE delivery SET started_at = 1 WHERE id = {}", of("sending"))),
        (Check::Folded, Some("sent-1"), format!("UPDATE delivery SET digest = NULL WHERE id = {}", of("sent-1"))),
        (Check::Folded, Some("sent-1"), format!("UPDATE delivery SET digest = 1 WHERE id = {}", of("sent-1"))),
        (Check::Folded, Some("sent-1"), format!("DELETE FROM delivery WHERE id = {batch}")),
        (Check::Members, None, format!("UPDATE digest SET members = 9 WHERE delivery = {batch}")),
        (Check::Members, None, format!("DELETE FROM digest WHERE delivery = {batch}")),
        (Check::Members, None, format!("DELETE FROM delivery WHERE id = {batch}")),
        (Check::State, None, format!("UPDATE digest SET open = 1, grouping = 'other' WHERE delivery = {batch}")),
        (Check::Sums, None, format!("UPDATE delivery SET state = 3, ended_at = 1 WHERE id = {}", of("ready"))),
        (Check::Sums, None, "UPDATE tally SET number = number + 1 WHERE state = 2".to_owned()),
        (Check::Owed, None, "UPDATE meta SET value = value + 1 WHERE name = 'owed'".to_owned()),
        (Check::Owed, None, "DELETE FROM meta WHERE name = 'owed'".to_owned()),
    ];
    for (check, id, bend) in cases {
        let scene = one_of_each().await;
        scene.bend(&bend);
        let audit = scene.audit();
        let named = |finding: &&Finding| finding.check == check && (id.is_none() || finding.event.as_deref() == id);
        let finding = audit.findings.iter().find(named);
        assert!(finding.is_some(), "{bend}: no {check:?} in {:#?}", audit.findings);
        assert!(finding.is_some_and(|finding| !finding.next.is_empty()));
        assert_eq!(audit.imbalance, audit.findings.len() as u64);
    }
}

#[tokio::test]
async fn what_ended_long_ago_goes_and_the_rest_stays() {
    let scene = one_of_each().await;
    assert_eq!(scene.prune(NOW).await, Pruned::default(), "nothing has ended before it began");
    let kept = "SELECT count(*) FROM delivery WHERE state IN (0, 1, 3, 6) OR digest IN (SELECT id FROM delivery WHERE state = 6)";
    let before = scene.number(kept);
    // Delivered at once, twice (to chat; the other was dropped), the sent batch with three members, and the dropped event.
    assert_eq!(scene.prune(NOW.plus(HOUR)).await, Pruned { deliveries: 7, events: 6 });
    assert_eq!(scene.number(kept), before);
    assert_eq!(scene.number("SELECT count(*) FROM delivery"), before);
    assert_eq!(scene.number("SELECT count(*) FROM attempt WHERE delivery NOT IN (SELECT id FROM delivery)"), 0);
    let audit = scene.audit();
    assert_eq!((audit.findings, audit.owed, audit.pruned), (vec![], 11, 6));
    // An old event that is offered again is still known.
    let accepted =
        scene.store.accept(&SourceName::from("test"), vec![event("at-once", &[to("chat")])].into(), NOW).await;
    assert_eq!(accepted.unwrap().0.duplicate, 1);

    // The dead letter goes once it was let go, the held batch once it was sent.
    let later = NOW.plus(HOUR);
    scene.store.drop_dead(DeadFilter::default(), "enough".to_owned(), later).await.unwrap();
    scene.deliver(scene.chat, later).await;
    scene.deliver(scene.mail, later).await;
    assert_eq!(scene.prune(later.plus(HOUR)).await, Pruned { deliveries: 5, events: 4 });
    assert_eq!(scene.number("SELECT count(*) FROM event"), 1, "what is being sent stays");
    assert_eq!(scene.audit().findings, []);
}

#[tokio::test]
async fn an_event_goes_with_its_last_delivery() {
    let scene = Scene::new().await;
    scene.accept(vec![event("1", &[to("chat"), to("mail")])], NOW).await;
    scene.deliver(scene.chat, NOW).await;
    assert_eq!(scene.prune(NOW.plus(HOUR)).await, Pruned { deliveries: 1, events: 0 });
    assert_eq!(scene.audit().findings, []);
    scene.deliver(scene.mail, NOW.plus(HOUR)).await;
    assert_eq!(scene.prune(NOW.plus(2 * HOUR)).await, Pruned { deliveries: 1, events: 1 });
    assert_eq!(scene.audit().findings, []);
}

#[tokio::test]
async fn a_large_digest_goes_in_steps() {
    let scene = Scene::new().await;
    scene.accept((0..2_500).map(|n| event(n, &[batched("chat")])).collect(), NOW).await;
    scene.deliver(scene.chat, NOW.plus(Duration::from_secs(30))).await;
    let before = NOW.plus(HOUR);
    let mut walk = Walk::default();
    let first = scene.store.prune(&mut walk, before).await.unwrap();
    assert!(first.deliveries > 0 && first.deliveries <= 1_000, "{first:?}");
    assert_eq!(scene.audit().findings, [], "members that are gone are accounted for");
    assert_eq!(
        scene.prune(before).await,
        Pruned { deliveries: 2_501 - first.deliveries, events: 2_500 - first.events }
    );
    assert_eq!(scene.number("SELECT (SELECT count(*) FROM event) + (SELECT count(*) FROM digest)"), 0);
}

#[tokio::test]
async fn what_was_retried_does_not_end_the_walk() {
    let scene = Scene::new().await;
    scene.accept((0..1_500).map(|n| event(n, &[to("chat")])).collect(), NOW).await;
    let claimed = scene.claim(scene.chat, 1_100, NOW).await;
    scene.settle(scene.chat, claimed, Settlement::Dead { reason: "refused".to_owned() }, NOW).await;
    scene.deliver(scene.chat, NOW).await;
    scene.store.retry_dead(DeadFilter::default(), NOW.plus(2 * HOUR)).await.unwrap();
    assert_eq!(scene.prune(NOW.plus(HOUR)).await, Pruned { deliveries: 400, events: 400 });
}

#[tokio::test]
async fn the_log_and_events_are_found() {
    let scene = one_of_each().await;
    let reader = scene.reader();
    let found = |filter: LogFilter| {
        let rows = reader.log(&LogFilter { most: 100, ..filter }).unwrap();
        rows.into_iter().map(|row| (row.event_id.unwrap_or_default(), row.state)).collect::<Vec<_>>()
    };
    let pair = |id: &str, state: &str| (id.to_owned(), state.to_owned());
    assert_eq!(found(LogFilter::default()).len(), 14);
    assert_eq!(found(LogFilter { state: Some("dead".to_owned()), ..LogFilter::default() }), [pair("dead", "dead")]);
    let suppressed = LogFilter { state: Some(SUPPRESSED.to_owned()), ..LogFilter::default() };
    assert_eq!(found(suppressed), [pair("scan", SUPPRESSED)]);
    let one = LogFilter { event: Some("twice".to_owned()), since: Some(NOW.plus(HOUR)), ..LogFilter::default() };
    assert_eq!(found(one), [pair("twice", "dropped"), pair("twice", "delivered")]);
    assert_eq!(found(LogFilter { event: Some("nobody".to_owned()), ..LogFilter::default() }), []);
    let recent = LogFilter { since: Some(NOW.plus(Duration::from_secs(50))), ..LogFilter::default() };
    assert_eq!(found(recent).len(), 6);
    let key = |glob: &str| Some(KeyPatterns::parse(&[glob]).unwrap());
    assert_eq!(found(LogFilter { key: key("website-*"), ..LogFilter::default() }), []);
    assert_eq!(found(LogFilter { key: key("issue-*"), ..LogFilter::default() }).len(), 12);
    assert_eq!(found(LogFilter { destination: Some("mail".to_owned()), ..LogFilter::default() }).len(), 4);
    assert_eq!(reader.log(&LogFilter { most: 3, ..LogFilter::default() }).unwrap().len(), 3);

    let folded = reader.event("sent-1").unwrap().unwrap();
    let (row, _) = &folded.deliveries[0];
    assert_eq!((row.state.as_str(), row.digest_state.as_deref()), ("folded", Some("delivered")));
    let digest = Code::parse(row.digest.as_deref().unwrap()).unwrap();
    let members = reader.members(digest, 2).unwrap();
    assert_eq!(members.iter().filter_map(|row| row.event_id.as_deref()).collect::<Vec<_>>(), ["sent-0", "sent-1"]);
    assert!(reader.event("nobody").unwrap().is_none() && reader.seen("nobody").unwrap().is_none());

    let dead = |key: &str| {
        let filter = DeadFilter { key: Some(key.to_owned()), ..DeadFilter::default() };
        reader.dead(&filter, 9).unwrap().len()
    };
    assert_eq!(["issue-*", "issue-add", "*-{add,close}", "website-*"].map(dead), [1, 1, 1, 0]);
}

/// Events that were first only remembered, and those after the clock was set back, are not where their time says.
#[tokio::test]
async fn an_event_is_found_wherever_it_is() {
    let scene = Scene::new().await;
    let id = |id: &str| crate::model::EventId::new(id).unwrap();
    scene.accept(vec![event("0", &[to("chat")])], NOW).await;
    scene.store.remember(vec![id("late"), id("never")], NOW).await.unwrap();
    scene.accept(vec![event("1", &[to("chat")])], NOW.plus(HOUR)).await;
    scene.accept(vec![event("late", &[to("chat")])], NOW.plus(2 * HOUR)).await;
    scene.accept(vec![event("back", &[to("chat")])], NOW.minus(HOUR)).await;
    let reader = scene.reader();
    for id in ["0", "1", "late", "back"] {
        assert_eq!(reader.event(id).unwrap().map(|event| event.event_id).as_deref(), Some(id));
    }
    assert!(reader.event("never").unwrap().is_none());
    assert_eq!(reader.seen("never").unwrap(), Some(NOW));
    assert_eq!(scene.audit().findings, []);
}

#[tokio::test]
async fn a_store_of_before_is_audited_from_its_migration_on() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(FILE_NAME);
    let db = Connection::open(&path).unwrap();
    db.execute_batch(include_str!("migrations/0001_initial.sql")).unwrap();
    db.pragma_update(None, "user_version", 1).unwrap();
    db.execute_batch(
        "INSERT INTO destination VALUES (1, 'chat', 0);
         INSERT INTO seen VALUES ('a', 5, 0), ('b', 6, 0);
         INSERT INTO event VALUES (1, 'a', 'issue-add', 'push', 5, '{}', NULL, NULL), (2, 'b', 'issue-add', 'push', 6, '{}', 'r', 'w');
         INSERT INTO delivery VALUES (1, 1, 1, 'all', 1, 2, 5, 1, 0, 0, 0, 5, 7, NULL);
         INSERT INTO attempt VALUES (1, 1, 1, 1, 6, 7, 'delivered', 200, NULL);",
    )
    .unwrap();
    drop(db);
    let error = Reader::open(directory.path()).err().unwrap().to_string();
    assert!(error.contains("an older version (schema 1"), "{error}");
    let scene = Scene::open(directory, NOW).await;
    let audit = scene.audit();
    assert_eq!((audit.findings, audit.owed, audit.events), (vec![], 1, 2));
    scene.accept(vec![event("c", &[to("chat")])], NOW).await;
    assert_eq!(scene.audit().owed, 2);
    assert_eq!(scene.prune(NOW).await, Pruned { deliveries: 1, events: 2 });
}

#[test]
fn nobody_makes_a_store_by_looking() {
    let directory = TempDir::new().unwrap();
    assert!(matches!(Reader::open(directory.path()), Err(StoreError::Absent(_))));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_the_last_audit_found_outlives_the_process() {
    let scene = Scene::new().await;
    assert_eq!(scene.store.last_audit().await.unwrap(), None, "a new store was never audited");
    for imbalance in [7, 0] {
        scene.store.keep_audit(LastAudit { at: NOW.plus(HOUR), imbalance }).await.unwrap();
    }
    let Scene { store, directory, .. } = scene;
    drop(store);
    let scene = Scene::open(directory, NOW.plus(2 * HOUR)).await;
    let last = LastAudit { at: NOW.plus(HOUR), imbalance: 0 };
    assert_eq!(scene.store.last_audit().await.unwrap(), Some(last));
    assert_eq!(scene.audit().findings, []);
}

#[tokio::test]
async fn an_audit_that_is_told_to_end_ends() {
    let scene = Scene::new().await;
    scene.accept((0..600).map(|n| event(n, &[to("chat")])).collect(), NOW).await;
    let scope = Scope { stop: Arc::new(true.into()), ..Scope::default() };
    assert!(matches!(scene.reader().audit(&scope), Err(StoreError::Closed)));
}

/// Letting go asks whether anything points to a row: each of those questions must be answered from an index.
#[tokio::test]
async fn a_step_looks_at_few_rows() {
    let scene = Scene::new().await;
    scene.accept((0..3_000).map(|n| event(n, &[to("chat")])).collect(), NOW).await;
    let db = Connection::open(scene.directory.path().join(FILE_NAME)).unwrap();
    db.execute_batch("PRAGMA foreign_keys = ON").unwrap();
    let mut delete = db.prepare("DELETE FROM delivery WHERE id = ?1").unwrap();
    delete.execute(params![1_500]).unwrap();
    assert!(delete.get_status(rusqlite::StatementStatus::FullscanStep) < 10, "the table was read through");
}
