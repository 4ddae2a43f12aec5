//! One lane by hand: what it takes in, and when, is for the test to say.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Lane;
use crate::dispatch::InForce;
use crate::dispatch::tests::{Scene, Sent, event, settings};
use crate::model::{Channel, Outcome, Severity};
use crate::store::Settlement;

/// A lane that nobody runs. It has something under way, and offers three more slots.
async fn lane(scene: &mut Scene) -> (Lane, Sent) {
    let settings = settings("chat", scene.script.sender_by(Channel::Webhook));
    let (_, settings) = watch::channel(Arc::new(InForce { settings, shared: Vec::new() }));
    let subscription = scene.store.subscribe(&"chat".into()).await.unwrap();
    let shared = scene.dispatcher.shared.clone();
    let mut lane = Lane::new(shared, subscription, settings, CancellationToken::new());
    for id in ["a", "b", "c"] {
        lane.turn().await.unwrap();
        scene.accept(id).await;
        lane.receive();
        scene.sent().await.answer(Outcome::Delivered);
        let ended = lane.under_way.join_next_with_id().await.unwrap();
        lane.answered(ended);
    }
    lane.turn().await.unwrap();
    scene.accept("0").await;
    lane.receive();
    let sent = scene.sent().await;
    (lane, sent)
}

#[tokio::test]
async fn what_comes_behind_something_given_back_does_not_start_before_it() {
    let mut scene = Scene::without_lanes();
    let (mut lane, under_way) = lane(&mut scene).await;
    scene.accept("1").await;
    let hold = std::mem::replace(&mut lane.hold_until, scene.clock.now().plus(Duration::from_hours(1)));
    lane.receive();
    // The pause is over sooner than what was given back during it is on record.
    lane.hold_until = hold;
    scene.accept("2").await;
    lane.receive();
    under_way.answer(Outcome::Delivered);
    tokio::spawn(lane.run());
    for host in ["host-1.", "host-2."] {
        let sent = scene.sent().await;
        assert!(sent.text().contains(host), "not {host}: {}", sent.text());
        sent.answer(Outcome::Delivered);
    }
    scene.until("delivered", |counts| counts.delivered == 6).await;
}

#[tokio::test]
async fn what_was_given_to_the_lane_before_its_turn_starts_before_what_it_claims() {
    let mut scene = Scene::without_lanes();
    let (mut lane, under_way) = lane(&mut scene).await;
    under_way.answer(Outcome::Delivered);
    let ended = lane.under_way.join_next_with_id().await.unwrap();
    lane.answered(ended);
    // It looks for what waits, and then takes nothing meanwhile.
    lane.looked_at = None;
    let disk = rusqlite::Connection::open(scene.store.path()).unwrap();
    disk.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Three slots are on offer, so the last of these waits.
    let four = ["1", "2", "3", "4"].map(|id| event(id, "issue-add", Severity::Info, &["chat"]));
    let ((), turn, ()) = tokio::join!(scene.take_in(four.into()), lane.turn(), async {
        tokio::task::yield_now().await;
        disk.execute_batch("COMMIT").unwrap();
    });
    turn.unwrap();
    tokio::spawn(lane.run());
    for host in ["host-1.", "host-2.", "host-3.", "host-4."] {
        let sent = scene.sent().await;
        assert!(sent.text().contains(host), "not {host}: {}", sent.text());
        sent.answer(Outcome::Delivered);
    }
}

#[tokio::test]
async fn nothing_claimed_starts_while_something_before_it_is_given_back() {
    let mut scene = Scene::without_lanes();
    let (mut lane, _under_way) = lane(&mut scene).await;
    lane.record().await.unwrap();
    scene.accept("1").await;
    lane.gives_back = true;
    let settings = Arc::clone(&lane.settings.borrow());
    lane.claim(&settings, 1, scene.clock.now()).await.unwrap();
    let given_back: Vec<_> = lane.ended.iter().map(|ended| &ended.settlement).collect();
    assert_eq!(given_back, [&Settlement::NotStarted]);
    tokio::spawn(lane.run());
    assert!(scene.sent().await.text().contains("host-1."));
}
