//! What a crash, a message that kills the process, or a damaged disk leaves behind.

use super::*;
use crate::model::delivery::Kind;

/// Three of different keys, so that none waits for another.
fn three() -> Vec<NewEvent> {
    let keys = [("1", "issue-add"), ("2", "issue-close"), ("3", "firewall-add")];
    keys.map(|(id, key)| keyed(id, key, &INFO)).into()
}

#[tokio::test]
async fn what_is_sent_at_three_ends_in_a_row_is_set_aside_and_its_neighbours_are_not() {
    let mut scene = Scene::new();
    scene.accept(three()).await;
    for seconds in [100, 200] {
        let chat = scene.destination("chat").await;
        assert_eq!(scene.claim(chat, 9, later(seconds)).await.len(), 3);
        scene = scene.crash_until(later(seconds));
    }
    // All three are suspects now: they go one after the other.
    let chat = scene.destination("chat").await;
    let first = scene.take(chat, 9, later(200)).await;
    assert_eq!((rows(&first.claimed), first.next), (vec![1], Some(later(201))));
    scene.settle(chat, &first.claimed[0], Settlement::Delivered).await;
    let second = scene.take(chat, 9, later(205)).await;
    assert_eq!((rows(&second.claimed), second.next), (vec![2], Some(later(206))));
    let scene = scene.crash_until(later(206));
    let dead = scene.row(2).await;
    assert_eq!(dead.state, "dead");
    let reason = "quarantined: the relay ended 3 times in a row while it was sending this";
    assert_eq!(dead.reason.as_deref(), Some(reason));
    let chat = scene.destination("chat").await;
    assert_eq!(rows(&scene.claim(chat, 9, later(210)).await), [3]);
    tallied(&scene).await;
    // An operator may send it again, and it has all its lives.
    scene.store.retry_dead(DeadFilter::default(), later(211)).await.unwrap();
    let again = scene.claim(chat, 9, later(211)).await;
    assert_eq!((again[0].row, again[0].may_repeat, again[0].number), (2, true, 4));
    let scene = scene.crash_until(later(220));
    assert_eq!(scene.state(2).await, "ready");
}

/// A destination that does not answer by the deadline of a stop: the relay is not to be restarted in vain.
#[tokio::test]
async fn orderly_ends_are_nobody_s_fault() {
    let mut scene = Scene::new();
    scene.accept(three()).await;
    for seconds in [100, 200, 300, 400] {
        let chat = scene.destination("chat").await;
        let claimed = scene.claim(chat, 9, later(seconds)).await;
        assert_eq!(claimed.len(), 3, "none is a suspect");
        assert_eq!(claimed[0].may_repeat, seconds > 100);
        scene = scene.restart(later(seconds)).await;
    }
    for row in 1..=3 {
        assert_eq!(scene.state(row).await, "ready");
    }
    tallied(&scene).await;
}

#[tokio::test]
async fn an_answer_between_two_ends_starts_the_count_anew() {
    let mut scene = Scene::new();
    scene.accept(vec![event("1", &INFO)]).await;
    for round in 0..6 {
        let now = later(100 * (round + 1));
        let chat = scene.destination("chat").await;
        let claimed = scene.claim(chat, 1, now).await.remove(0);
        if round % 2 == 0 {
            scene.settle(chat, &claimed, again(now)).await;
            assert_eq!(scene.claim(chat, 1, now).await.len(), 1);
        }
        scene = scene.crash_until(now);
    }
    assert_eq!(scene.state(1).await, "ready");
}

#[tokio::test]
async fn a_clean_end_is_no_crash() {
    let mut scene = Scene::new();
    scene.accept(vec![event("1", &INFO)]).await;
    for round in 0..5 {
        let chat = scene.destination("chat").await;
        let claimed = scene.claim(chat, 1, later(round)).await.remove(0);
        assert_eq!((claimed.number, claimed.may_repeat), (1, false));
        scene.settle(chat, &claimed, Settlement::NotStarted).await;
        scene.store.close().await;
        scene = scene.crash_until(later(round + 1));
    }
    let (_, attempts, _) = scene.store.delivery(Code::of_row(1)).await.unwrap().unwrap();
    assert!(attempts.is_empty(), "{attempts:?}");
}

#[tokio::test]
async fn damaged_rows_are_kept_but_never_sent_and_the_others_flow() {
    let event = "its event";
    let row = "its row";
    let damages = [
        ("UPDATE event SET body = replace(body, 'www', 'vvv') WHERE id = 2", event),
        ("UPDATE event SET body = '' WHERE id = 2", event),
        ("UPDATE event SET event_id = 'z' WHERE id = 2", event),
        ("UPDATE event SET received_at = received_at + 1 WHERE id = 2", event),
        ("UPDATE event SET checksum = checksum + 1 WHERE id = 2", event),
        ("UPDATE event SET body = CAST(x'7bff7d' AS TEXT) WHERE id = 2", event),
        ("UPDATE delivery SET rule = 'al' WHERE id = 2", row),
        ("UPDATE delivery SET lane = lane + 1 WHERE id = 2", row),
        ("UPDATE delivery SET kind = 1 WHERE id = 2", row),
        ("UPDATE delivery SET kind = 9 WHERE id = 2", row),
        ("UPDATE delivery SET event = NULL WHERE id = 2", row),
        ("PRAGMA foreign_keys = OFF; UPDATE delivery SET event = 99 WHERE id = 2", row),
    ];
    for (sql, what) in damages {
        let scene = Scene::new();
        scene.accept(["1", "2", "3"].map(|id| super::event(id, &INFO)).into()).await;
        let scene = scene.tampered(sql).await;
        let chat = scene.destination("chat").await;
        let mut sent = rows(&scene.claim(chat, 9, later(60)).await);
        sent.sort_unstable();
        assert_eq!(sent, [1, 3], "{sql}");
        let dead = scene.store.dead(DeadFilter::default(), 9).await.unwrap();
        let reasons: Vec<_> = dead.iter().map(|dead| dead.reason.clone().unwrap_or_default()).collect();
        assert_eq!(reasons, [format!("quarantined: {what} was damaged on disk")], "{sql}");
        tallied(&scene).await;
        // Sending it again does not make it whole.
        scene.store.retry_dead(DeadFilter::default(), later(61)).await.unwrap();
        assert!(scene.claim(chat, 9, later(61)).await.is_empty(), "{sql}");
        assert_eq!(scene.counts("chat").await.dead, 1, "{sql}");
    }
}

#[tokio::test]
async fn a_digest_tells_what_is_whole() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept(three()).await;
    scene.accept(vec![keyed("4", "issue-add", &INFO)]).await;
    scene.store.fold(chat.destination, 0, NOW).await.unwrap();
    let scene = scene.tampered("UPDATE event SET body = '{}' WHERE id = 1").await;
    let chat = scene.destination("chat").await;
    let claimed = scene.claim(chat, 9, later(60)).await;
    let mut sizes = Vec::new();
    for claimed in &claimed {
        assert_eq!(claimed.what, What::Digest(Kind::Overflow));
        let gathered = scene.store.gathered(claimed.row).await.unwrap();
        sizes.push((gathered.members, gathered.events.len()));
    }
    sizes.sort_unstable();
    assert_eq!(sizes, [(1, 1), (1, 1), (2, 1)]);
}

#[tokio::test]
async fn many_attempts_keep_the_first_and_the_latest() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept(vec![event("1", &INFO)]).await;
    for round in 1..=130 {
        let claimed = scene.claim(chat, 1, later(round)).await.remove(0);
        assert_eq!(claimed.number, i64::try_from(round).unwrap());
        scene.settle(chat, &claimed, again(later(round))).await;
    }
    let (_, attempts, _) = scene.store.delivery(Code::of_row(1)).await.unwrap().unwrap();
    let numbers: Vec<_> = attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, (1..=50).chain(81..=130).collect::<Vec<_>>());
}
