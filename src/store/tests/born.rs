//! Deliveries that are claimed as they are made, because a lane offered to take them.

use super::*;

fn offering(claim: usize, received: u64) -> Turn {
    Turn { claim, received, offer: true, ..Turn::default() }
}

/// What it has got, and is on disk.
fn received(lane: &mut Subscription) -> Vec<i64> {
    let born = std::iter::from_fn(|| lane.born.try_recv().ok());
    born.filter_map(|mut born| born.kept.try_recv().ok().map(|()| born.claimed.row)).collect()
}

fn some(ids: std::ops::Range<u32>) -> Vec<NewEvent> {
    ids.map(|id| event(&id.to_string(), &INFO)).collect()
}

/// Whether it was woken; asking takes the wake-up.
fn woken(lane: &Subscription) -> bool {
    std::pin::pin!(lane.wake.notified()).as_mut().enable()
}

#[tokio::test]
async fn an_offer_is_used_up_and_what_is_more_waits() {
    let scene = Scene::new();
    let mut chat = scene.lane("chat").await;
    scene.store.turn(chat.outlet, offering(2, 0), NOW).await.unwrap();
    scene.accept(some(0..3)).await;
    assert_eq!(received(&mut chat), [1, 2]);
    assert!(woken(&chat), "one waits");
    let counts = scene.counts("chat").await;
    assert_eq!((counts.sending, counts.ready), (2, 1));
    let (_, attempts, _) = scene.store.delivery(Code::of_row(1)).await.unwrap().unwrap();
    assert_eq!(attempts.iter().map(|attempt| (attempt.number, &attempt.ended_at)).collect::<Vec<_>>(), [(1, &None)]);
    // Two are under way, so there is no room for the third.
    assert!(scene.store.turn(chat.outlet, offering(0, 2), NOW).await.unwrap().claimed.is_empty());
    let scene = scene.crash();
    let chat = scene.destination("chat").await;
    let marks: Vec<_> = scene.claim(chat, 9, later(60)).await;
    let marks: Vec<_> = marks.iter().map(|claimed| (claimed.row, claimed.number, claimed.may_repeat)).collect();
    assert_eq!(marks, [(1, 2, true), (2, 2, true), (3, 1, false)]);
}

#[tokio::test]
async fn nothing_is_offered_while_something_waits_or_after_it_was_withdrawn() {
    let scene = Scene::new();
    let mut chat = scene.lane("chat").await;
    scene.accept(some(0..1)).await;
    let first = scene.claim(chat.outlet, 1, NOW).await.remove(0);
    scene.settle(chat.outlet, &first, again(later(30))).await;
    scene.store.turn(chat.outlet, offering(9, 0), NOW).await.unwrap();
    scene.accept(some(1..2)).await;
    assert!(received(&mut chat).is_empty(), "it would overtake one that waits");
    assert_eq!(scene.store.turn(chat.outlet, offering(9, 0), later(30)).await.unwrap().claimed.len(), 2);
    // Seven are offered now.
    scene.record(chat.outlet, Turn::default()).await;
    scene.accept(some(2..3)).await;
    assert!(received(&mut chat).is_empty(), "the offer was withdrawn");
    assert_eq!(scene.state(3).await, "ready");
}

#[tokio::test]
async fn a_turn_that_claims_all_there_is_offers_what_room_is_left() {
    let scene = Scene::new();
    let mut chat = scene.lane("chat").await;
    scene.accept(some(0..2)).await;
    let all = scene.store.turn(chat.outlet, offering(2, 0), NOW).await.unwrap();
    assert_eq!((rows(&all.claimed), all.offered), (vec![1, 2], false), "there might be more");
    scene.accept(some(2..3)).await;
    let taken = scene.store.turn(chat.outlet, offering(3, 0), NOW).await.unwrap();
    assert_eq!((rows(&taken.claimed), taken.offered), (vec![3], true));
    scene.accept(some(3..6)).await;
    assert_eq!(received(&mut chat), [4, 5]);
    assert_eq!(rows(&scene.store.turn(chat.outlet, offering(9, 2), NOW).await.unwrap().claimed), [6]);
}

#[tokio::test]
async fn a_turn_that_claims_offers_nothing_to_a_lane_that_does_not_wait_for_it() {
    let scene = Scene::new();
    let mut chat = scene.lane("chat").await;
    let looked = || Turn { looked: true, ..offering(9, 0) };
    scene.accept(some(0..1)).await;
    let first = scene.store.turn(chat.outlet, looked(), NOW).await.unwrap();
    assert_eq!((rows(&first.claimed), first.offered), (vec![1], false));
    scene.accept(some(1..2)).await;
    assert!(received(&mut chat).is_empty(), "it could start before the first");
    assert_eq!(rows(&scene.store.turn(chat.outlet, looked(), NOW).await.unwrap().claimed), [2]);
    let none = scene.store.turn(chat.outlet, looked(), NOW).await.unwrap();
    assert_eq!((none.claimed.len(), none.offered), (0, true));
    scene.accept(some(2..3)).await;
    assert_eq!(received(&mut chat), [3]);
}

#[tokio::test]
async fn an_offer_whose_commit_fails_counts_no_more() {
    let scene = Scene::new();
    let mut chat = scene.lane("chat").await;
    let outlet = chat.outlet;
    let failing = scene.store.write(move |work| -> rusqlite::Result<()> {
        work.offer(outlet, 3);
        Err(rusqlite::Error::InvalidQuery)
    });
    assert!(failing.await.is_err());
    scene.accept(some(0..1)).await;
    assert!(received(&mut chat).is_empty());
    assert_eq!(scene.state(1).await, "ready");
}

#[tokio::test]
async fn on_the_way_is_not_claimed_for_again() {
    let scene = Scene::new();
    let mut chat = scene.lane("chat").await;
    scene.store.turn(chat.outlet, offering(3, 0), NOW).await.unwrap();
    scene.accept(some(0..2)).await;
    scene.record(chat.outlet, Turn::default()).await;
    scene.accept(some(2..9)).await;
    // It has three slots and has not looked: two of them are taken.
    let claimed = scene.store.turn(chat.outlet, offering(3, 0), NOW).await.unwrap().claimed;
    assert_eq!(rows(&claimed), [3]);
    assert_eq!(received(&mut chat), [1, 2]);
    // With all three under way and five slots, two are free.
    let claimed = scene.store.turn(chat.outlet, offering(2, 2), NOW).await.unwrap().claimed;
    assert_eq!(rows(&claimed), [4, 5]);
}

#[tokio::test]
async fn a_lane_that_follows_another_gets_its_own_and_the_earlier_one_keeps_what_it_got() {
    let scene = Scene::new();
    let mut before = scene.lane("chat").await;
    scene.store.turn(before.outlet, offering(3, 0), NOW).await.unwrap();
    scene.accept(some(0..1)).await;
    let mut after = scene.lane("chat").await;
    scene.accept(some(1..2)).await;
    assert_eq!(scene.state(2).await, "ready", "the new lane has offered nothing");
    // An offer of the lane that goes counts no more.
    scene.store.turn(before.outlet, offering(0, 1), NOW).await.unwrap();
    assert_eq!(received(&mut before), [1]);
    assert_eq!(rows(&scene.store.turn(after.outlet, offering(3, 0), NOW).await.unwrap().claimed), [2]);
    scene.store.turn(after.outlet, offering(2, 0), NOW).await.unwrap();
    scene.store.turn(before.outlet, Turn::default(), NOW).await.unwrap();
    scene.accept(some(2..3)).await;
    assert_eq!(received(&mut after), [3], "the earlier lane cannot withdraw the later one's offer");
    assert!(received(&mut before).is_empty());
}

#[tokio::test]
async fn nothing_is_given_to_a_lane_that_has_gone() {
    let scene = Scene::new();
    let chat = scene.lane("chat").await;
    scene.store.turn(chat.outlet, offering(3, 0), NOW).await.unwrap();
    drop(chat);
    scene.accept(some(0..2)).await;
    let counts = scene.counts("chat").await;
    assert_eq!((counts.ready, counts.sending), (2, 0), "being sent by nobody");
}

#[tokio::test]
async fn a_job_that_fails_gives_nothing_and_wakes_the_lane() {
    let scene = Scene::new();
    let mut chat = scene.lane("chat").await;
    scene.store.turn(chat.outlet, offering(2, 0), NOW).await.unwrap();
    let destination = chat.outlet.destination;
    let failing = scene.store.write(move |work| -> rusqlite::Result<()> {
        let taker = work.offered(destination).unwrap();
        work.hand_over(destination, taker, Claimed::sample(NOW));
        Err(rusqlite::Error::InvalidQuery)
    });
    assert!(failing.await.is_err());
    assert!(received(&mut chat).is_empty());
    assert!(woken(&chat), "it may have claimed less, for what did not come");
    scene.accept(some(0..3)).await;
    assert!(received(&mut chat).is_empty(), "the offer is gone");
    assert_eq!(
        scene.store.turn(chat.outlet, offering(2, 1), NOW).await.unwrap().claimed.len(),
        2,
        "both slots are free"
    );
}

#[tokio::test]
async fn a_commit_that_fails_gives_nothing() {
    let scene = Scene::new();
    let mut chat = scene.lane("chat").await;
    let set_pages = |pages: i64| {
        scene.store.write(move |work| work.db.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())))
    };
    set_pages(1).await.unwrap();
    let long = "x".repeat(20_000);
    let record = |id: &str| {
        let record = json!({"event_id": id, "key": "issue-add", "subject": long});
        NewEvent::new(&Event::from_value(record).unwrap(), vec![owed("chat", Severity::Info)], None)
    };
    let mut taken = 0;
    loop {
        scene.store.turn(chat.outlet, offering(1, taken), NOW).await.unwrap();
        let accepted = scene.store.accept(&"test".into(), [record(&taken.to_string())].into(), NOW).await;
        if let Err(error) = accepted {
            assert!(matches!(error, StoreError::Full), "{error}");
            break;
        }
        assert_eq!(received(&mut chat).len(), 1);
        taken += 1;
    }
    assert!(received(&mut chat).is_empty(), "nothing of it happened");
    set_pages(1_000_000).await.unwrap();
    scene.roomy().await;
    scene.store.turn(chat.outlet, offering(1, taken), NOW).await.unwrap();
    scene.accept(vec![record("after")]).await;
    assert_eq!(received(&mut chat).len(), 1);
    assert_eq!(scene.counts("chat").await.sending, taken + 1);
}

#[tokio::test]
async fn a_lane_that_has_looked_looks_again_when_something_has_come_to_wait() {
    let scene = Scene::new();
    let mut chat = scene.lane("chat").await;
    let looked = |claim, received| Turn { looked: true, ..offering(claim, received) };
    // The lane's first offer says nothing of what waits.
    scene.accept(some(0..1)).await;
    let first = scene.store.turn(chat.outlet, looked(3, 0), NOW).await.unwrap().claimed;
    assert_eq!(rows(&first), [1]);
    scene.store.turn(chat.outlet, looked(2, 0), NOW).await.unwrap();
    // Behind everybody's back, to see that it is not looked for.
    let hide = |state: u8| {
        scene.store.write(move |work| work.db.execute("UPDATE delivery SET state = ?1 WHERE id = 1", [state]))
    };
    hide(0).await.unwrap();
    assert!(scene.store.turn(chat.outlet, looked(2, 0), NOW).await.unwrap().claimed.is_empty());
    assert_eq!(rows(&scene.store.turn(chat.outlet, offering(2, 0), NOW).await.unwrap().claimed), [1]);
    // One that it gave back, and one that its offer had no room for.
    let ended = Ended {
        claimed: first[0].clone(),
        at: NOW,
        report: Report::new(Outcome::Transient, None, ""),
        settlement: again(NOW),
    };
    let turn = Turn { ended: [ended].into(), ..looked(1, 0) };
    assert_eq!(rows(&scene.store.turn(chat.outlet, turn, NOW).await.unwrap().claimed), [1]);
    scene.store.turn(chat.outlet, offering(2, 0), NOW).await.unwrap();
    scene.accept(some(1..4)).await;
    assert_eq!(received(&mut chat), [2, 3]);
    assert_eq!(rows(&scene.store.turn(chat.outlet, looked(2, 2), NOW).await.unwrap().claimed), [4]);
    // After its offer was withdrawn.
    scene.record(chat.outlet, Turn::default()).await;
    hide(0).await.unwrap();
    assert_eq!(rows(&scene.store.turn(chat.outlet, looked(1, 2), NOW).await.unwrap().claimed), [1]);
}

/// Intake from all sides, and a lane with eight slots that answers in any order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_under_way_than_slots() {
    const SLOTS: usize = 8;
    const EVENTS: usize = 600;
    let scene = Scene::new();
    let mut chat = scene.lane("chat").await;
    let intake: Vec<_> = (0..6)
        .map(|source| {
            let store = scene.store.clone();
            tokio::spawn(async move {
                for n in 0..EVENTS / 6 {
                    let events = [event(&format!("{source}-{n}"), &INFO)];
                    store.accept(&"test".into(), events.into(), NOW).await.unwrap();
                }
            })
        })
        .collect();
    let (mut pending, mut got, mut delivered) = (Vec::new(), 0, std::collections::HashSet::new());
    while delivered.len() < EVENTS {
        while let Ok(born) = chat.born.try_recv() {
            got += 1;
            born.kept.await.unwrap();
            pending.push(born.claimed);
        }
        assert!(pending.len() <= SLOTS, "{} under way", pending.len());
        let answers = fastrand::usize(..=pending.len());
        let ended: Vec<_> = (0..answers)
            .map(|_| {
                let claimed: Claimed = pending.swap_remove(fastrand::usize(..pending.len()));
                assert!(delivered.insert(claimed.row), "sent twice");
                let report = Report::new(Outcome::Delivered, None, "");
                Ended { claimed, at: NOW, report, settlement: Settlement::Delivered }
            })
            .collect();
        let looked = fastrand::bool();
        let turn = Turn { ended: ended.into(), looked, ..offering(SLOTS - pending.len(), got) };
        pending.extend(scene.store.turn(chat.outlet, turn, NOW).await.unwrap().claimed);
        let sending = scene
            .store
            .read(|db| db.query_row("SELECT count(*) FROM delivery WHERE state = 1", [], |row| row.get::<_, u32>(0)));
        let sending = sending.await.unwrap() as usize;
        assert!(sending <= SLOTS, "{sending} on record as under way");
    }
    for intake in intake {
        intake.await.unwrap();
    }
    assert_eq!(scene.counts("chat").await.delivered, EVENTS as u64);
}
