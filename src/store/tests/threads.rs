//! Threads: what belongs together is stored with the deliveries, and what channels called the first messages is kept for a
//! day.

use super::*;
use crate::model::ThreadNews;

const DAY: u64 = 24 * 60 * 60;

fn threaded(id: &str, destination: &str, thread: Option<&str>) -> NewEvent {
    let mut event = event(id, &[(destination, Severity::Info)]);
    event.owed[0].thread = thread.map(str::to_owned);
    event
}

fn news(key: &str, handle: Option<&str>) -> ThreadNews {
    ThreadNews { key: key.to_owned(), handle: handle.map(str::to_owned) }
}

/// Delivers what is claimed next, with this news of a thread, answered after so many seconds.
async fn deliver(scene: &Scene, outlet: OutletId, news: impl Into<Option<ThreadNews>>, at: u64) -> Claimed {
    let claimed = scene.claim(outlet, 1, later(at)).await.remove(0);
    let report = Report { thread: news.into(), ..Report::new(Outcome::Delivered, Some(200), "ok") };
    scene.record(outlet, answer(&claimed, report, Settlement::Delivered, later(at))).await;
    claimed
}

async fn handle(scene: &Scene, destination: &str, key: &str, at: u64) -> Option<String> {
    scene.store.thread(destination, key, later(at)).await.unwrap()
}

#[tokio::test]
async fn a_delivery_keeps_its_thread() {
    let scene = Scene::new();
    scene.accept(vec![threaded("1", "chat", Some("t")), threaded("2", "chat", None)]).await;
    let scene = scene.crash();
    let outlet = scene.destination("chat").await;
    let claimed = scene.claim(outlet, 9, later(60)).await;
    let threads: Vec<_> = claimed.iter().map(|claimed| claimed.thread.as_deref()).collect();
    assert_eq!(threads, [Some("t"), None]);
    // Also where it is claimed as it is made.
    let mut chat = scene.lane("chat").await;
    for claimed in &claimed {
        scene.settle(chat.outlet, claimed, Settlement::Delivered).await;
    }
    scene.store.turn(chat.outlet, Turn { offer: true, ..claiming(1) }, later(60)).await.unwrap();
    scene.accept(vec![threaded("3", "chat", Some("u"))]).await;
    assert_eq!(chat.born.recv().await.unwrap().claimed.thread.as_deref(), Some("u"));
}

#[tokio::test]
async fn a_thread_that_the_disk_has_changed_is_not_sent_into() {
    for change in ["thread = 'other'", "thread = NULL"] {
        let scene = Scene::new();
        scene.accept(vec![threaded("1", "chat", Some("t")), threaded("2", "chat", None)]).await;
        let scene = scene.tampered(&format!("UPDATE delivery SET {change} WHERE id = 1")).await;
        let chat = scene.destination("chat").await;
        assert_eq!(rows(&scene.claim(chat, 9, later(60)).await), [2], "{change}");
        assert_eq!(scene.row(1).await.reason.as_deref(), Some("quarantined: its row was damaged on disk"));
    }
}

#[tokio::test]
async fn what_the_first_message_is_called_is_known_for_a_day() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.destination("mail").await);
    scene.accept((1..=4).map(|n| threaded(&n.to_string(), "chat", Some("t"))).collect()).await;
    scene.accept(vec![threaded("5", "mail", Some("t"))]).await;
    assert_eq!(handle(&scene, "chat", "t", 0).await, None);
    assert_eq!(handle(&scene, "nobody", "t", 0).await, None);
    deliver(&scene, chat, news("t", Some("first")), 10).await;
    deliver(&scene, mail, None, 10).await;
    assert_eq!(handle(&scene, "chat", "t", 10).await.as_deref(), Some("first"));
    assert_eq!(handle(&scene, "chat", "t", 9 + DAY).await.as_deref(), Some("first"));
    for (destination, key, at) in [("chat", "t", 10 + DAY), ("chat", "t", 9), ("chat", "u", 10), ("mail", "t", 10)] {
        assert_eq!(handle(&scene, destination, key, at).await, None, "{destination} {key} {at}");
    }
    // An answer to it says nothing new; a day later the thread begins anew.
    deliver(&scene, chat, None, 20).await;
    assert_eq!(handle(&scene, "chat", "t", 20).await.as_deref(), Some("first"));
    deliver(&scene, chat, news("t", Some("second")), 30 + DAY).await;
    assert_eq!(handle(&scene, "chat", "t", 30 + DAY).await.as_deref(), Some("second"));
    let scene = scene.crash_until(later(40 + DAY));
    assert_eq!(handle(&scene, "chat", "t", 40 + DAY).await.as_deref(), Some("second"));
    let chat = scene.destination("chat").await;
    deliver(&scene, chat, news("t", None), 50 + DAY).await;
    assert_eq!(handle(&scene, "chat", "t", 50 + DAY).await, None);
    tallied(&scene).await;
}

/// What is lost costs a thread, so nothing is done about it.
#[tokio::test]
async fn a_damaged_handle_is_no_handle() {
    for change in ["handle = 'other'", "key = 'u'", "started_at = started_at + 1", "destination = 2", "checksum = 1"] {
        let scene = Scene::new();
        let chat = scene.destination("chat").await;
        scene.accept(vec![threaded("1", "chat", Some("t"))]).await;
        scene.destination("mail").await;
        deliver(&scene, chat, news("t", Some("first")), 1).await;
        let scene = scene.tampered(&format!("UPDATE thread SET {change}")).await;
        for (destination, key) in [("chat", "t"), ("chat", "u"), ("mail", "t")] {
            assert_eq!(handle(&scene, destination, key, 60).await, None, "{change}");
        }
    }
}

#[tokio::test]
async fn old_threads_are_let_go() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept((1..=3).map(|n| threaded(&n.to_string(), "chat", Some("t"))).collect()).await;
    for (key, at) in [("a", 10), ("b", 20), ("c", 30)] {
        deliver(&scene, chat, news(key, Some("x")), at).await;
    }
    assert_eq!(scene.store.forget_threads(later(9 + DAY)).await.unwrap(), 0);
    assert_eq!(scene.store.forget_threads(later(20 + DAY)).await.unwrap(), 2);
    assert_eq!(scene.store.forget_threads(later(20 + DAY)).await.unwrap(), 0);
    assert_eq!(handle(&scene, "chat", "c", 31).await.as_deref(), Some("x"));
}

#[tokio::test]
async fn a_digest_has_a_thread_if_all_its_events_share_it() {
    let cases = [
        (vec![Some("t"), Some("t")], Some("t")),
        (vec![Some("t")], Some("t")),
        (vec![Some("t"), Some("u")], None),
        (vec![Some("t"), None], None),
        (vec![None, None], None),
    ];
    for (threads, expected) in cases {
        let scene = Scene::new();
        let chat = scene.destination("chat").await;
        let batch = NewBatch { group: "g".to_owned(), wait: Duration::from_secs(1), max: 50 };
        let events = threads.iter().enumerate().map(|(n, thread)| {
            let mut event = threaded(&n.to_string(), "chat", *thread);
            event.owed[0].batch = Some(batch.clone());
            event
        });
        scene.accept(events.collect()).await;
        let claimed = scene.claim(chat, 9, later(1)).await;
        let gathered = scene.store.gathered(claimed[0].row).await.unwrap();
        assert_eq!((claimed.len(), gathered.thread.as_deref()), (1, expected), "{threads:?}");
    }
}
