//! Deliveries that another destination sends, and notices.

use super::*;

async fn hand_over(scene: &Scene, from: OutletId, before: Timestamp, after: i64) -> Handed {
    let which = Movable { before, after };
    scene.store.move_to_fallback(from.destination, "mail".into(), which, "no such hook".into(), later(5)).await.unwrap()
}

#[tokio::test]
async fn what_waits_is_moved_once_but_not_what_the_other_is_owed_itself() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.lane("mail").await);
    let both = [("chat", Severity::Info), ("mail", Severity::Info)];
    scene.accept(vec![event("1", &INFO), event("2", &both), event("3", &INFO)]).await;
    let handed = hand_over(&scene, chat, NOW, 0).await;
    assert_eq!(handed, Handed { moved: 2, seen: 4, young: None });
    tokio::time::timeout(Duration::from_secs(5), mail.wake.notified()).await.unwrap();
    assert_eq!(hand_over(&scene, chat, NOW, 4).await, Handed { moved: 0, seen: 4, young: None });
    assert_eq!(hand_over(&scene, chat, NOW, 0).await.moved, 0, "moved twice");
    assert_eq!(rows(&scene.claim(chat, 9, later(5)).await), [2]);
    let claimed = scene.claim(mail.outlet, 9, later(5)).await;
    assert_eq!(rows(&claimed), [1, 3, 4]);
    let moved = Moved { from: "chat".into(), why: "no such hook".into() };
    assert_eq!(claimed[0].moved, Some(moved));
    assert_eq!(claimed[1].moved, None, "its own");
    scene.settle(mail.outlet, &claimed[0], Settlement::Delivered).await;
    let row = scene.row(1).await;
    assert_eq!((row.destination.as_str(), row.via.as_deref()), ("chat", Some("mail")));
    // It is the one it is owed to whose account is settled.
    assert_eq!((scene.counts("chat").await.delivered, scene.counts("mail").await.delivered), (1, 0));
    tallied(&scene).await;
    // One step: it is not handed on.
    scene.settle(mail.outlet, &claimed[1], again(later(5))).await;
    scene.settle(mail.outlet, &claimed[2], again(later(5))).await;
    let which = Movable { before: later(99), after: 0 };
    let on = scene.store.move_to_fallback(mail.outlet.destination, "pager".into(), which, "gone".into(), NOW).await;
    assert_eq!(on.unwrap().moved, 1, "only its own");
}

#[tokio::test]
async fn what_waits_at_another_is_counted_at_both() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.destination("mail").await);
    scene.accept((0..3).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    let own = [event("own", &[("mail", Severity::Info)])];
    scene.store.accept(&"test".into(), own.into(), later(3)).await.unwrap();
    let seen = async || {
        let (chat, mail) = (scene.counts("chat").await, scene.counts("mail").await);
        assert!(chat.sends_for.is_empty() && mail.sent_by.is_empty(), "{chat:?} {mail:?}");
        let one = |map: &std::collections::BTreeMap<String, u64>, name| {
            assert!(map.keys().all(|key| key == name), "{map:?}");
            map.get(name).copied().unwrap_or(0)
        };
        (chat.ready + chat.sending, one(&chat.sent_by, "mail"), mail.ready, one(&mail.sends_for, "chat"))
    };
    assert_eq!(seen().await, (3, 0, 1, 0));
    assert_eq!(hand_over(&scene, chat, NOW, 0).await.moved, 3);
    assert_eq!(seen().await, (3, 3, 1, 3));
    // The oldest is owed as long as it was not sent, wherever it waits.
    assert_eq!(
        (scene.counts("chat").await.oldest_owed, scene.counts("mail").await.oldest_owed),
        (Some(NOW), Some(NOW))
    );
    scene.store.notify(chat.destination, "mail".into(), "gone".into(), later(5)).await.unwrap();
    assert_eq!(seen().await, (4, 4, 1, 4), "a notice is sent for the one that it is about");
    let claimed = scene.claim(mail, 2, later(5)).await;
    assert_eq!(seen().await, (4, 4, 1, 4), "those under way are still owed");
    scene.settle(mail, &claimed[0], Settlement::Delivered).await;
    scene.settle(mail, &claimed[1], Settlement::Dead { reason: "mailbox full".into() }).await;
    assert_eq!(seen().await, (2, 2, 1, 2));
    scene.store.bring_home("mail".into(), None, later(6)).await.unwrap();
    assert_eq!(seen().await, (2, 0, 1, 0));
    assert_eq!(
        (scene.counts("chat").await.oldest_owed, scene.counts("mail").await.oldest_owed),
        (Some(NOW), Some(later(3)))
    );
}

#[tokio::test]
async fn the_young_wait_for_their_time() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    for (id, seconds) in [("1", 0), ("2", 10), ("3", 20)] {
        scene.store.accept(&"test".into(), [event(id, &INFO)].into(), later(seconds)).await.unwrap();
    }
    assert_eq!(hand_over(&scene, chat, later(10), 0).await, Handed { moved: 2, seen: 2, young: Some(later(20)) });
    assert_eq!(hand_over(&scene, chat, later(20), 2).await, Handed { moved: 1, seen: 3, young: None });
}

#[tokio::test]
async fn a_long_queue_is_moved_in_steps() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    let severities = [Severity::Info, Severity::Critical, Severity::Low];
    scene.accept((0..1_203).map(|n| event(&n.to_string(), &[("chat", severities[n % 3])])).collect()).await;
    let (mut after, mut moved) = (0, Vec::new());
    loop {
        let handed = hand_over(&scene, chat, NOW, after).await;
        if handed.seen == after {
            break;
        }
        after = handed.seen;
        moved.push(handed.moved);
    }
    assert_eq!(moved, [500, 500, 203]);
}

#[tokio::test]
async fn an_attempt_that_fails_too_long_goes_to_the_fallback_unless_it_is_owed_it() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.destination("mail").await);
    let both = [("chat", Severity::Info), ("mail", Severity::Info)];
    scene.accept(vec![event("1", &INFO), event("2", &both)]).await;
    for claimed in scene.claim(chat, 9, NOW).await {
        let settlement = Settlement::Fallback {
            to: "mail".into(),
            why: "no answer".into(),
            may_repeat: true,
            otherwise: Box::new(Settlement::Again { at: later(9), counts: true, may_repeat: true, plain: false }),
        };
        scene.settle(chat, &claimed, settlement).await;
    }
    tallied(&scene).await;
    let at_mail = scene.claim(mail, 9, later(9)).await;
    let marks: Vec<_> =
        at_mail.iter().map(|claimed| (claimed.row, claimed.number, claimed.failures, claimed.may_repeat)).collect();
    assert_eq!(marks, [(1, 2, 0, true), (3, 1, 0, false)]);
    assert_eq!(at_mail[0].moved.as_ref().map(|moved| moved.why.as_str()), Some("no answer"));
    let sent_to = async |row| {
        let (_, attempts, _) = scene.store.delivery(Code::of_row(row)).await.unwrap().unwrap();
        attempts.into_iter().map(|attempt| (attempt.number, attempt.destination)).collect::<Vec<_>>()
    };
    let [chat_first, mail_first, mail_second] =
        [(1, "chat"), (1, "mail"), (2, "mail")].map(|(n, to)| (n, to.to_owned()));
    assert_eq!(sent_to(1).await, [chat_first.clone(), mail_second.clone()], "the second is under way");
    assert_eq!(sent_to(3).await, std::slice::from_ref(&mail_first), "told by its delivery's row");
    scene.settle(mail, &at_mail[0], Settlement::Delivered).await;
    scene.settle(mail, &at_mail[1], Settlement::Delivered).await;
    assert_eq!((sent_to(1).await, sent_to(3).await), (vec![chat_first, mail_second], vec![mail_first]));
    let taken = scene.take(chat, 9, later(8)).await;
    assert_eq!((taken.claimed.len(), taken.next), (0, Some(later(9))));
    let again = scene.claim(chat, 9, later(9)).await;
    assert_eq!((again[0].row, again[0].failures, again[0].may_repeat), (2, 1, true));
}

#[tokio::test]
async fn an_operator_brings_it_back_to_whom_it_is_owed() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.destination("mail").await);
    scene.accept(vec![event("1", &INFO)]).await;
    hand_over(&scene, chat, NOW, 0).await;
    let claimed = scene.claim(mail, 9, later(5)).await.remove(0);
    scene.settle(mail, &claimed, Settlement::Dead { reason: "mailbox full".into() }).await;
    assert_eq!(scene.counts("chat").await.dead, 1);
    scene.store.retry_dead(DeadFilter::default(), later(9)).await.unwrap();
    assert!(scene.claim(mail, 9, later(9)).await.is_empty());
    let back = scene.claim(chat, 9, later(9)).await.remove(0);
    assert_eq!((back.row, back.moved.as_ref(), back.number), (1, None, 2));
    tallied(&scene).await;
}

#[tokio::test]
async fn a_notice_goes_to_the_other_first_of_all_and_is_not_moved_on() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.destination("mail").await);
    scene.accept(vec![event("1", &[("mail", Severity::Info)])]).await;
    scene.store.notify(chat.destination, "mail".into(), "channel_is_archived".into(), later(1)).await.unwrap();
    let which = Movable { before: later(99), after: 0 };
    let on = scene.store.move_to_fallback(mail.destination, "pager".into(), which, "gone".into(), NOW).await.unwrap();
    assert_eq!(on.moved, 1, "the event, not the notice");
    let claimed = scene.claim(mail, 9, later(1)).await;
    assert_eq!((claimed.len(), claimed[0].severity), (1, Severity::Critical));
    assert_eq!(claimed[0].what, What::Notice("channel_is_archived".into()));
    assert_eq!(claimed[0].moved.as_ref().map(|moved| moved.from.as_str()), Some("chat"));
    scene.settle(mail, &claimed[0], Settlement::Dead { reason: "mailbox full".into() }).await;
    tallied(&scene).await;
    scene.store.retry_dead(DeadFilter::default(), later(9)).await.unwrap();
    assert!(scene.claim(chat, 9, later(9)).await.is_empty(), "it is about the one that refuses");
    let at_mail = scene.claim(mail, 9, later(9)).await;
    let all: Vec<_> = at_mail.iter().map(|claimed| &claimed.what).collect();
    assert_eq!(all, [&What::Notice("channel_is_archived".into())]);
}

/// As its lane puts it on record.
async fn is(scene: &Scene, outlet: OutletId, condition: Condition) {
    let health = Some(Health { condition, ..Health::default() });
    scene.record(outlet, Turn { health, ..Turn::default() }).await;
}

fn to_mail(otherwise: Settlement) -> Settlement {
    Settlement::Fallback {
        to: "mail".into(),
        why: "no answer".into(),
        may_repeat: false,
        otherwise: Box::new(otherwise),
    }
}

#[tokio::test]
async fn a_fallback_that_takes_nothing_is_given_only_what_would_be_given_up() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.destination("mail").await);
    scene.accept((1..=3).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    scene.accept(vec![event("own", &[("mail", Severity::Info)])]).await;
    is(&scene, mail, Condition::Failing).await;
    assert_eq!(hand_over(&scene, chat, NOW, 0).await, Handed::default());
    let claimed = scene.claim(chat, 2, NOW).await;
    scene.settle(chat, &claimed[0], to_mail(again(later(9)))).await;
    scene.settle(chat, &claimed[1], to_mail(Settlement::Dead { reason: "refused".into() })).await;
    let via = async |row| scene.row(row).await.via;
    assert_eq!((via(1).await, via(2).await.as_deref(), via(3).await), (None, Some("mail"), None));
    assert_eq!((scene.row(1).await.state.as_str(), scene.row(2).await.state.as_str()), ("ready", "ready"));
    is(&scene, mail, Condition::Taking).await;
    assert_eq!(hand_over(&scene, chat, NOW, 0).await.moved, 2);
    tallied(&scene).await;
}

/// Nobody would find out otherwise that it has been mended.
#[tokio::test]
async fn a_fallback_that_took_nothing_and_has_nothing_to_send_is_given_one() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.destination("mail").await);
    scene.accept((1..=6).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    is(&scene, mail, Condition::Failing).await;
    assert_eq!(hand_over(&scene, chat, NOW, 0).await, Handed { moved: 1, seen: 1, young: None });
    assert_eq!(hand_over(&scene, chat, NOW, 1).await, Handed { moved: 0, seen: 1, young: None }, "it waits there");
    let probe = scene.claim(mail, 9, later(5)).await;
    assert_eq!(rows(&probe), [1]);
    assert_eq!(hand_over(&scene, chat, NOW, 1).await.moved, 0, "it is under way");
    scene.settle(mail, &probe[0], Settlement::Delivered).await;
    // By an attempt's end, too.
    let claimed = scene.claim(chat, 2, NOW).await;
    for claimed in &claimed {
        scene.settle(chat, claimed, to_mail(again(later(9)))).await;
    }
    assert_eq!((scene.row(2).await.via.as_deref(), scene.row(3).await.via), (Some("mail"), None));
    is(&scene, mail, Condition::Taking).await;
    assert_eq!(hand_over(&scene, chat, NOW, 1).await.moved, 4);
    tallied(&scene).await;
}

#[tokio::test]
async fn what_waits_at_a_fallback_that_takes_nothing_comes_home() {
    let scene = Scene::new();
    let (chat, mail) = (scene.lane("chat").await, scene.destination("mail").await);
    scene.accept(vec![event("1", &INFO), event("2", &[("pager", Severity::Info)]), event("3", &INFO)]).await;
    let pager = scene.destination("pager").await;
    for from in [chat.outlet, pager] {
        assert!(hand_over(&scene, from, NOW, 0).await.moved > 0);
    }
    let home =
        async || scene.store.bring_home_from_sick(chat.outlet.destination, "mail".into(), later(6)).await.unwrap();
    home().await;
    assert_eq!(scene.counts("chat").await.sent_by.len(), 1, "mail will send it");
    is(&scene, mail, Condition::Refusing).await;
    home().await;
    assert_eq!(rows(&scene.claim(chat.outlet, 9, later(6)).await), [1, 3]);
    assert_eq!(scene.row(2).await.via.as_deref(), Some("mail"), "another's stays");
    tallied(&scene).await;
}

#[tokio::test]
async fn a_digest_is_moved_unless_the_fallback_is_told_all_of_it() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.destination("mail").await;
    let gathered = |id: &str, group: &str, also_mail: bool| {
        let both = [("chat", Severity::Info), ("mail", Severity::Info)];
        let mut event = event(id, if also_mail { &both } else { &both[..1] });
        event.owed[0].batch = Some(NewBatch { group: group.to_owned(), wait: Duration::ZERO, max: 9 });
        event
    };
    let events = [
        gathered("1", "all", true),
        gathered("2", "all", true),
        gathered("3", "some", true),
        gathered("4", "some", false),
    ];
    scene.accept(events.to_vec()).await;
    scene.store.close_batches(chat.destination, NOW).await.unwrap();
    let digests = async || {
        let (mut at_home, mut moved) = (0, 0);
        for row in 1..=10 {
            if let Some((row, ..)) = scene.store.delivery(Code::of_row(row)).await.unwrap()
                && row.destination == "chat"
                && row.state == "ready"
            {
                *(if row.via.is_some() { &mut moved } else { &mut at_home }) += 1;
            }
        }
        (at_home, moved)
    };
    assert_eq!(digests().await, (2, 0));
    assert_eq!(hand_over(&scene, chat, NOW, 0).await.moved, 1);
    assert_eq!(digests().await, (1, 1));
    let claimed = scene.claim(chat, 9, NOW).await;
    assert_eq!(claimed.len(), 1);
    scene.settle(chat, &claimed[0], to_mail(again(NOW))).await;
    assert_eq!(digests().await, (1, 1), "told by mail in any case");
    tallied(&scene).await;
}
