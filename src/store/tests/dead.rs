//! Dead letters by what they tell: events alone, and those within digests.

use super::*;

fn batched(id: &str, key: &str) -> NewEvent {
    let mut event = keyed(id, key, &INFO);
    event.owed[0].batch = Some(NewBatch { group: "g".to_owned(), wait: Duration::from_secs(30), max: 1_000 });
    event
}

/// Gives up all that is due.
async fn bury(scene: &Scene, outlet: OutletId, now: Timestamp) -> Vec<i64> {
    let claimed = scene.claim(outlet, 9_999, now).await;
    let rows = rows(&claimed);
    let dead = |claimed| {
        let report = Report::new(Outcome::RefusedContent, Some(400), "invalid_blocks");
        Ended { claimed, at: now, report, settlement: Settlement::Dead { reason: "invalid_blocks".into() } }
    };
    let ended: Vec<_> = claimed.into_iter().map(dead).collect();
    scene.record(outlet, Turn { ended: ended.into(), ..Turn::default() }).await;
    rows
}

/// The dead letters of `graveyard`.
struct Graves {
    /// An event: `issue-add`.
    alone: i64,
    /// Events `b0`, `b1` and `b2`: `issue-add`, `issue-close` and `issue-add`.
    batch: i64,
    /// Events `o0` and `o1`: `target-add`.
    overflow: i64,
    notice: i64,
}

async fn graveyard() -> (Scene, OutletId, Graves) {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept(vec![keyed("alone", "issue-add", &INFO)]).await;
    let alone = bury(&scene, chat, NOW).await[0];
    scene
        .accept(
            ["issue-add", "issue-close", "issue-add"]
                .iter()
                .zip(0..)
                .map(|(key, n)| batched(&format!("b{n}"), key))
                .collect(),
        )
        .await;
    let batch = bury(&scene, chat, later(30)).await[0];
    scene.accept((0..2).map(|n| keyed(&format!("o{n}"), "target-add", &INFO)).collect()).await;
    assert_eq!(scene.store.fold(chat.destination, 0, NOW).await.unwrap(), 2);
    let overflow = bury(&scene, chat, later(40)).await[0];
    let mail = scene.destination("mail").await;
    scene.store.notify(mail.destination, "chat".into(), "gone".into(), later(41)).await.unwrap();
    let notice = bury(&scene, chat, later(41)).await[0];
    (scene, chat, Graves { alone, batch, overflow, notice })
}

fn code(row: i64) -> String {
    Code::of_row(row).to_string()
}

/// The code of the delivery of an event.
async fn code_of(scene: &Scene, id: &str) -> String {
    let id = id.to_owned();
    let row = scene.store.read(move |db| {
        db.query_row("SELECT d.id FROM delivery d JOIN event e ON e.id = d.event WHERE e.event_id = ?1", [id], |row| {
            row.get(0)
        })
    });
    code(row.await.unwrap())
}

fn by_key(key: &str) -> DeadFilter {
    DeadFilter { key: Some(key.to_owned()), ..DeadFilter::default() }
}

fn by_codes(codes: &[String]) -> DeadFilter {
    DeadFilter { codes: codes.to_vec(), ..DeadFilter::default() }
}

#[tokio::test]
async fn a_digest_is_found_by_any_event_that_it_tells() {
    let (scene, _, Graves { alone, batch, overflow, notice }) = graveyard().await;
    let member = async |id| code_of(&scene, id).await;
    let (b0, b1, o1) = (member("b0").await, member("b1").await, member("o1").await);
    let at = |before| DeadFilter { before: Some(before), ..by_key("issue-*") };
    let of = |key: &str, filter| DeadFilter { key: Some(key.to_owned()), ..filter };
    let cases = [
        (DeadFilter::default(), vec![(alone, None), (batch, None), (overflow, None), (notice, None)]),
        (by_key("*"), vec![(alone, None), (batch, Some(3)), (overflow, Some(2))]),
        (by_key("issue-add"), vec![(alone, None), (batch, Some(2))]),
        (by_key("issue-close"), vec![(batch, Some(1))]),
        (by_key("!issue-add"), vec![(batch, Some(1)), (overflow, Some(2))]),
        (by_key("target-*"), vec![(overflow, Some(2))]),
        (by_key("website-*"), vec![]),
        (by_key("[no glob"), vec![]),
        (at(later(30)), vec![(alone, None)]),
        (at(later(31)), vec![(alone, None), (batch, Some(3))]),
        (DeadFilter { rule: Some("other".into()), ..by_key("*") }, vec![]),
        (DeadFilter { destination: Some("mail".into()), ..DeadFilter::default() }, vec![(notice, None)]),
        // An event of a digest stands for it; several of them are still one dead letter.
        (by_codes(std::slice::from_ref(&b1)), vec![(batch, Some(1))]),
        (by_codes(&[o1.clone(), b1.clone(), b0.clone(), b1.clone()]), vec![(batch, Some(2)), (overflow, Some(1))]),
        (by_codes(&[b1.clone(), code(batch)]), vec![(batch, None)]),
        (by_codes(&[code(batch), b1.clone()]), vec![(batch, None)]),
        // What is asked of an event is asked of the same one.
        (of("issue-close", by_codes(&[b0.clone(), b1.clone()])), vec![(batch, Some(1))]),
        (of("issue-close", by_codes(std::slice::from_ref(&b0))), vec![]),
        (of("issue-add", by_codes(&[code(batch), code(overflow)])), vec![(batch, Some(2))]),
        (by_codes(&["0000".into(), "no code".into(), code(9_999)]), vec![]),
    ];
    let reader = Reader::open(scene.directory.path()).unwrap();
    for (filter, expected) in cases {
        let expected: Vec<_> = expected.into_iter().map(|(row, matching)| (code(row), matching)).collect();
        let found = |rows: Vec<DeliveryRow>| rows.into_iter().map(|row| (row.code, row.matching)).collect::<Vec<_>>();
        assert_eq!(found(reader.dead(&filter, 9).unwrap()), expected, "{filter:?}");
        assert_eq!(found(scene.store.dead(filter.clone(), 9).await.unwrap()), expected, "{filter:?}");
        assert_eq!(found(reader.dead(&filter, 1).unwrap()), expected[..expected.len().min(1)], "{filter:?}");
        assert_eq!(found(scene.store.dead(filter, 1).await.unwrap()), expected[..expected.len().min(1)]);
    }
}

#[tokio::test]
async fn a_digest_is_sent_again_whole_and_says_so() {
    let (scene, chat, Graves { alone, batch, overflow, .. }) = graveyard().await;
    let changed = scene.store.retry_dead(by_key("issue-add"), later(50)).await.unwrap();
    let part = InPart { code: code(batch), events: 3, matching: 2 };
    assert_eq!(changed, Changed { codes: vec![code(alone), code(batch)], in_part: vec![part], left: vec![] });
    let again = scene.claim(chat, 9, later(50)).await;
    assert_eq!(rows(&again).len(), 2);
    assert_eq!(scene.store.gathered(batch).await.unwrap().members, 3);
    // All of it was meant, so there is nothing to say.
    let changed = scene.store.retry_dead(by_key("target-*"), later(50)).await.unwrap();
    assert_eq!(changed, Changed { codes: vec![code(overflow)], ..Changed::default() });
    tallied(&scene).await;
}

#[tokio::test]
async fn nothing_is_let_go_that_was_not_meant() {
    let (scene, _, Graves { alone, batch, overflow, .. }) = graveyard().await;
    let let_go = async |filter| scene.store.drop_dead(filter, "old news".into(), later(50)).await.unwrap();
    let left = |matching| vec![InPart { code: code(batch), events: 3, matching }];
    let b1 = code_of(&scene, "b1").await;
    assert_eq!(let_go(by_codes(&[b1])).await, Changed { left: left(1), ..Changed::default() });
    assert_eq!(
        let_go(by_key("issue-add")).await,
        Changed { codes: vec![code(alone)], left: left(2), ..Changed::default() }
    );
    assert_eq!(let_go(by_key("target-*")).await, Changed { codes: vec![code(overflow)], ..Changed::default() });
    assert_eq!((scene.state(batch).await, scene.state(overflow).await), ("dead".to_owned(), "dropped".to_owned()));
    // Its own code means all of it, whatever else is asked.
    let named = DeadFilter { key: Some("issue-close".into()), ..by_codes(&[code(batch)]) };
    assert_eq!(let_go(named).await, Changed { codes: vec![code(batch)], in_part: left(1), left: vec![] });
    tallied(&scene).await;
}

#[tokio::test]
async fn what_died_again_is_as_young_as_that() {
    let (scene, chat, Graves { batch, .. }) = graveyard().await;
    let before = DeadFilter { before: Some(later(31)), ..by_key("issue-close") };
    assert_eq!(scene.store.retry_dead(before.clone(), later(50)).await.unwrap().codes, [code(batch)]);
    assert_eq!(bury(&scene, chat, later(51)).await, [batch]);
    assert_eq!(scene.store.retry_dead(before, later(52)).await.unwrap(), Changed::default(), "it is younger now");
}

/// A search goes in steps, and some of them find nothing.
#[tokio::test]
async fn few_are_found_among_many() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept((0..2_300).map(|n| keyed(&n.to_string(), "issue-add", &INFO)).collect()).await;
    assert_eq!(bury(&scene, chat, NOW).await.len(), 2_300);
    for (id, key) in [("x", "target-add"), ("y", "website-cert-risk")] {
        scene.accept((0..600).map(|n| batched(&format!("{id}{n}"), key)).collect()).await;
        bury(&scene, chat, later(30)).await;
    }
    scene.accept(vec![keyed("last", "target-add", &INFO)]).await;
    bury(&scene, chat, later(30)).await;
    scene.accept(vec![event("mail", &[("mail", Severity::Info)])]).await;
    let mail = scene.destination("mail").await;
    let buried = bury(&scene, mail, later(30)).await;
    let others = DeadFilter { destination: Some("mail".into()), ..DeadFilter::default() };
    let found = scene.store.dead(others, 9).await.unwrap();
    assert_eq!(found.into_iter().map(|row| row.code).collect::<Vec<_>>(), [code(buried[0])]);
    let found = scene.store.dead(by_key("target-*"), 1_000).await.unwrap();
    let told: Vec<_> = found.iter().map(|row| (row.kind.as_str(), row.events, row.matching)).collect();
    assert_eq!(told, [("batch", 600, Some(600)), ("event", 1, None)]);
    assert!(scene.store.dead(by_key("nothing-*"), 1_000).await.unwrap().is_empty());
    assert_eq!(scene.store.dead(by_key("issue-*"), 1_100).await.unwrap().len(), 1_100);
    assert_eq!(scene.store.drop_dead(by_key("target-*"), "old".into(), NOW).await.unwrap().codes.len(), 2);
    assert_eq!(scene.store.retry_dead(by_key("issue-*"), NOW).await.unwrap().codes.len(), 2_301);
    assert_eq!(scene.counts("chat").await.dead, 1);
    tallied(&scene).await;
}

#[tokio::test]
async fn a_damaged_key_hides_no_other() {
    let (scene, _, Graves { batch, overflow, .. }) = graveyard().await;
    let scene = scene.tampered("UPDATE event SET key = CAST(x'ff' AS TEXT) WHERE event_id IN ('b0', 'o0')").await;
    let found = scene.store.dead(by_key("*"), 9).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|row| (row.code, row.matching)).skip(1).collect();
    assert_eq!(found, [(code(batch), Some(2)), (code(overflow), Some(2))]);
}
