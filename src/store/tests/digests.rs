//! Batches, and digests of what is more than the limits let through.

use super::*;
use crate::model::delivery::Kind;

const WAIT: u64 = 30;

fn batched(id: &str, destination: &str, rule: &str, group: &str, max: u32) -> NewEvent {
    let mut event = event(id, &[(destination, Severity::Info)]);
    event.owed[0].rule = RuleName::from(rule);
    event.owed[0].batch = Some(NewBatch { group: group.to_owned(), wait: Duration::from_secs(WAIT), max });
    event
}

async fn accept_at(scene: &Scene, events: Vec<NewEvent>, at: Timestamp) {
    scene.store.accept(&"test".into(), events.into(), at).await.unwrap();
}

/// The ids of the events that a digest tells.
async fn told(scene: &Scene, digest: i64) -> Vec<String> {
    let gathered = scene.store.gathered(digest).await.unwrap();
    assert_eq!(gathered.members, gathered.events.len() as u64);
    let id =
        |body: &str| serde_json::from_str::<serde_json::Value>(body).unwrap()["event_id"].as_str().unwrap().to_owned();
    gathered.events.iter().map(|(body, _)| id(body)).collect()
}

#[tokio::test]
async fn a_batch_is_held_until_its_time_and_then_sent_once() {
    let scene = Scene::new();
    let chat = scene.lane("chat").await;
    accept_at(&scene, vec![batched("1", "chat", "r", "g", 9)], NOW).await;
    tokio::time::timeout(Duration::from_secs(5), chat.wake.notified()).await.expect("the lane must learn of the time");
    accept_at(&scene, vec![batched("2", "chat", "r", "g", 9)], later(10)).await;
    let early = scene.take(chat.outlet, 9, later(WAIT - 1)).await;
    assert_eq!((early.claimed.len(), early.next), (0, Some(later(WAIT))));
    let counts = scene.counts("chat").await;
    assert_eq!((counts.held, counts.folded, counts.ready), (1, 2, 0));
    let claimed = scene.claim(chat.outlet, 9, later(WAIT)).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!((&claimed[0].what, claimed[0].received_at), (&What::Digest(Kind::Batch), NOW));
    let gathered = scene.store.gathered(claimed[0].row).await.unwrap();
    assert_eq!((gathered.first, gathered.last), (NOW, later(10)));
    assert_eq!(told(&scene, claimed[0].row).await, ["1", "2"]);
    // What comes now belongs to the next.
    accept_at(&scene, vec![batched("3", "chat", "r", "g", 9)], later(WAIT)).await;
    assert_eq!(told(&scene, claimed[0].row).await, ["1", "2"]);
    scene.settle(chat.outlet, &claimed[0], Settlement::Delivered).await;
    let counts = scene.counts("chat").await;
    assert_eq!((counts.held, counts.folded, counts.delivered), (1, 3, 1));
    tallied(&scene).await;
}

#[tokio::test]
async fn a_full_batch_goes_at_once_and_the_next_event_opens_another() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept((0..7).map(|n| batched(&n.to_string(), "chat", "r", "g", 3)).collect()).await;
    let claimed = scene.claim(chat, 9, NOW).await;
    assert_eq!(claimed.len(), 2);
    assert_eq!(told(&scene, claimed[0].row).await, ["0", "1", "2"]);
    assert_eq!(told(&scene, claimed[1].row).await, ["3", "4", "5"]);
    assert_eq!(scene.counts("chat").await.held, 1);
    tallied(&scene).await;
    // A batch of one is full with its first.
    scene.accept(vec![batched("8", "chat", "r", "alone", 1)]).await;
    assert_eq!(scene.claim(chat, 9, NOW).await.len(), 1);
}

#[tokio::test]
async fn each_group_rule_destination_and_severity_has_its_own_batch() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.destination("mail").await);
    let mut urgent = batched("5", "chat", "r", "g", 9);
    urgent.owed[0].severity = Severity::High;
    let events = vec![
        batched("1", "chat", "r", "g", 9),
        batched("2", "chat", "r", "h", 9),
        batched("3", "chat", "s", "g", 9),
        batched("4", "mail", "r", "g", 9),
        urgent,
        batched("6", "chat", "r", "g", 9),
    ];
    scene.accept(events).await;
    let mut groups = Vec::new();
    for claimed in scene.claim(chat, 9, later(WAIT)).await {
        groups.push(told(&scene, claimed.row).await.join(" "));
    }
    assert_eq!(groups, ["5", "1 6", "2", "3"]);
    let claimed = scene.claim(mail, 9, later(WAIT)).await;
    assert_eq!(told(&scene, claimed[0].row).await, ["4"]);
}

#[tokio::test]
async fn a_crash_changes_neither_a_batch_nor_its_time() {
    let scene = Scene::new();
    scene.accept(vec![batched("1", "chat", "r", "g", 9)]).await;
    let scene = scene.crash_until(later(5));
    accept_at(&scene, vec![batched("2", "chat", "r", "g", 9)], later(6)).await;
    let scene = scene.crash_until(later(7));
    let chat = scene.destination("chat").await;
    assert_eq!(scene.take(chat, 9, later(8)).await.next, Some(later(WAIT)));
    let claimed = scene.claim(chat, 9, later(WAIT)).await;
    assert_eq!(told(&scene, claimed[0].row).await, ["1", "2"]);
    // A crash while it is sent: the same again, and what comes is the next one's.
    let scene = scene.crash_until(later(40));
    accept_at(&scene, vec![batched("3", "chat", "r", "g", 9)], later(40)).await;
    let chat = scene.destination("chat").await;
    let again = scene.claim(chat, 9, later(40)).await;
    assert_eq!((again.len(), again[0].row, again[0].may_repeat), (1, claimed[0].row, true));
    assert_eq!(told(&scene, again[0].row).await, ["1", "2"]);
}

#[tokio::test]
async fn a_clock_set_back_does_not_hold_a_batch_longer() {
    let scene = Scene::new();
    scene.accept(vec![batched("1", "chat", "r", "g", 9)]).await;
    scene.store.beat(NOW).await.unwrap();
    let back = NOW.minus(Duration::from_hours(1));
    let scene = scene.crash_until(back);
    let chat = scene.destination("chat").await;
    assert_eq!(scene.take(chat, 9, back).await.next, Some(back.plus(Duration::from_secs(WAIT))));
}

#[tokio::test]
async fn the_excess_is_folded_least_urgent_and_newest_first_and_the_soonest_stay() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    // Whatever the numbers of their lanes, those with the smallest numbers of a severity are the soonest.
    for (first, second) in [("issue-add", "issue-close"), ("issue-close", "issue-add")] {
        let name = format!("{first}-lane");
        let outlet = scene.destination(&name).await;
        let severities = [Severity::Info, Severity::Critical, Severity::Low];
        for n in 0..18 {
            let key = if n % 2 == 0 { first } else { second };
            scene.accept(vec![keyed(&format!("{name}{n}"), key, &[(name.as_str(), severities[n / 6])])]).await;
        }
        // Of twelve that are not critical, the six low ones come first, then the first two of info.
        // Of nine messages one is left to the digests.
        assert_eq!(scene.store.fold(outlet.destination, 9, NOW).await.unwrap(), 4);
        assert_eq!(scene.store.fold(outlet.destination, 10, NOW).await.unwrap(), 0, "{name}");
        tallied(&scene).await;
        let base =
            scene.store.read(|db| db.query_row("SELECT max(event) FROM delivery", [], |row| row.get::<_, i64>(0)));
        let base = base.await.unwrap() - 18;
        let folded = scene.store.read(move |db| {
            let mut find =
                db.prepare("SELECT event - ?1 FROM delivery WHERE state = 5 AND event > ?1 ORDER BY event")?;
            find.query_map([base], |row| row.get::<_, i64>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        });
        assert_eq!(folded.await.unwrap(), [3, 4, 5, 6], "{name}");
    }
    assert_eq!(scene.store.fold(chat.destination, 0, NOW).await.unwrap(), 0, "nothing waits there");
}

#[tokio::test]
async fn neither_critical_nor_tried_ones_are_folded() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept((0..4).map(|n| event(&n.to_string(), &[("chat", Severity::Critical)])).collect()).await;
    scene.accept((4..8).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    for claimed in scene.claim(chat, 6, NOW).await {
        scene.settle(chat, &claimed, again(later(9))).await;
    }
    assert_eq!(scene.store.fold(chat.destination, 0, NOW).await.unwrap(), 2);
    let counts = scene.counts("chat").await;
    assert_eq!((counts.folded, counts.ready), (2, 7), "six of them tried, and the digest");
    assert_eq!(scene.store.fold(chat.destination, 0, NOW).await.unwrap(), 0);
}

#[tokio::test]
async fn a_digest_is_open_until_it_is_claimed_and_then_fixed() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept((0..3).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    scene.store.fold(chat.destination, 2, NOW).await.unwrap();
    scene.accept(vec![event("3", &INFO), event("4", &INFO)]).await;
    assert_eq!(scene.store.fold(chat.destination, 4, NOW).await.unwrap(), 0, "there is room for all");
    scene.store.fold(chat.destination, 3, NOW).await.unwrap();
    assert_eq!(scene.counts("chat").await.folded, 4, "they joined the open one");
    let claimed = scene.claim(chat, 9, NOW).await;
    assert_eq!(claimed.iter().map(Claimed::is_event).collect::<Vec<_>>(), [true, false]);
    assert_eq!(claimed[1].what, What::Digest(Kind::Overflow));
    assert_eq!(told(&scene, claimed[1].row).await, ["1", "2", "3", "4"]);
    // Not sent after all: it stays as it is.
    scene.settle(chat, &claimed[1], Settlement::NotStarted).await;
    scene.accept((5..9).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    scene.store.fold(chat.destination, 0, NOW).await.unwrap();
    let all = scene.claim(chat, 9, NOW).await;
    assert_eq!(told(&scene, all[0].row).await, ["1", "2", "3", "4"]);
    assert_eq!(told(&scene, all[1].row).await, ["5", "6", "7", "8"]);
    tallied(&scene).await;
}

#[tokio::test]
async fn a_digest_that_went_to_the_fallback_or_was_damaged_gets_no_more_members() {
    let scene = Scene::new();
    let (chat, mail) = (scene.destination("chat").await, scene.destination("mail").await);
    scene.accept((0..3).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    scene.store.fold(chat.destination, 0, NOW).await.unwrap();
    let which = Movable { before: NOW, after: 0 };
    scene.store.move_to_fallback(chat.destination, "mail".into(), which, "gone".into(), NOW).await.unwrap();
    scene.accept((3..5).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    scene.store.fold(chat.destination, 0, NOW).await.unwrap();
    let moved = scene.claim(mail, 9, NOW).await;
    assert_eq!(told(&scene, moved[0].row).await, ["0", "1", "2"]);
    let own = scene.counts("chat").await;
    assert_eq!((own.ready, own.sending, own.folded), (1, 1, 5));
    // Damaged while it was open: what comes later is told by another.
    let scene = scene.tampered("UPDATE delivery SET rule = 'al' WHERE kind = 2 AND state = 0").await;
    let chat = scene.destination("chat").await;
    assert!(scene.claim(chat, 9, later(60)).await.is_empty());
    assert_eq!(scene.counts("chat").await.dead, 1);
    scene.accept(vec![event("5", &INFO)]).await;
    scene.store.fold(chat.destination, 0, NOW).await.unwrap();
    let last = scene.claim(chat, 9, later(60)).await;
    assert_eq!(told(&scene, last[0].row).await, ["5"]);
}

#[tokio::test]
async fn a_digest_has_room_for_so_many() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    let most = u32::try_from(digest::MEMBERS_MAX).unwrap();
    scene.accept((0..most + 50).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    let mut folded = 0;
    loop {
        let step = scene.store.fold(chat.destination, 0, NOW).await.unwrap();
        if step == 0 {
            break;
        }
        folded += step;
    }
    assert_eq!(folded, most as usize + 50);
    let digests = scene.claim(chat, 9, NOW).await;
    let mut members = Vec::new();
    for digest in &digests {
        members.push(scene.store.gathered(digest.row).await.unwrap().members);
    }
    members.sort_unstable();
    assert_eq!(members, [50, u64::from(most)]);
}

/// A rule that gathers by target is no way around the limits.
#[tokio::test]
async fn batches_that_are_too_many_are_told_by_overflow() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    let events = (0..40).map(|n| {
        let mut event = keyed(&n.to_string(), if n % 4 < 2 { "issue-add" } else { "issue-close" }, &INFO);
        let wait = Duration::from_secs(WAIT);
        event.owed[0].batch = Some(NewBatch { group: format!("host {}", n / 2), wait, max: 9 });
        event
    });
    accept_at(&scene, events.collect(), NOW).await;
    scene.store.close_batches(chat.destination, later(WAIT)).await.unwrap();
    assert_eq!(scene.counts("chat").await.ready, 20);
    // One was tried: it may have been seen.
    let tried = scene.claim(chat, 1, later(WAIT)).await.remove(0);
    scene.settle(chat, &tried, again(later(99))).await;
    let last = scene.store.read(|db| db.query_row("SELECT max(id) FROM delivery", [], |row| row.get::<_, i64>(0)));
    let last = last.await.unwrap();
    assert_eq!(scene.store.fold(chat.destination, 4, later(WAIT)).await.unwrap(), 34);
    let counts = scene.counts("chat").await;
    assert_eq!((counts.folded, counts.ready, counts.held), (40, 5, 0), "three batches and two digests");
    assert_eq!(scene.store.fold(chat.destination, 5, later(WAIT)).await.unwrap(), 0);
    tallied(&scene).await;
    let audit = Reader::open(scene.directory.path()).unwrap().audit(&Scope::default()).unwrap();
    assert_eq!(audit.findings, []);
    // No number is given twice, also after a start.
    let scene = scene.crash();
    let chat = scene.destination("chat").await;
    scene.accept(vec![event("next", &INFO)]).await;
    let next = scene.store.read(|db| db.query_row("SELECT max(id) FROM delivery", [], |row| row.get::<_, i64>(0)));
    assert!(next.await.unwrap() > last);
    let mut all = Vec::new();
    for claimed in scene.claim(chat, 9, later(99)).await {
        match claimed.what {
            What::Digest(_) => all.extend(told(&scene, claimed.row).await),
            _ => assert_eq!(claimed.number, 1),
        }
    }
    all.sort_by_key(|id| id.parse::<u32>().unwrap());
    assert_eq!(all, (0..40).map(|n| n.to_string()).collect::<Vec<_>>(), "each once");
}

/// Batches by target tell events of many keys, and digests of overflow tell one key each.
#[tokio::test]
async fn batches_are_taken_apart_only_if_that_makes_fewer_messages() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    let of_host = |host: usize, keys: usize| {
        (0..keys).map(move |key| {
            let mut event = keyed(&format!("{host} {key}"), &format!("issue-{key}"), &INFO);
            event.owed[0].batch = Some(NewBatch { group: format!("host {host}"), wait: Duration::ZERO, max: 9 });
            event
        })
    };
    scene.accept((0..4).flat_map(|host| of_host(host, 5)).collect()).await;
    scene.store.close_batches(chat.destination, NOW).await.unwrap();
    assert_eq!(scene.store.fold(chat.destination, 1, NOW).await.unwrap(), 0, "five for four");
    scene.accept((4..8).flat_map(|host| of_host(host, 5)).collect()).await;
    scene.store.close_batches(chat.destination, NOW).await.unwrap();
    assert_eq!(scene.store.fold(chat.destination, 1, NOW).await.unwrap(), 40);
    assert_eq!(scene.counts("chat").await.ready, 5);
    tallied(&scene).await;
    // Those are open: what comes now costs nothing more.
    scene.accept(of_host(9, 5).collect()).await;
    scene.store.close_batches(chat.destination, NOW).await.unwrap();
    assert_eq!(scene.store.fold(chat.destination, 1, NOW).await.unwrap(), 5);
    assert_eq!(scene.counts("chat").await.ready, 5);
}

/// Whoever is quicker has it: sent alone or told by a digest, never both, never neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folding_and_claiming_do_not_meet() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    scene.accept((0..400).map(|n| event(&n.to_string(), &INFO)).collect()).await;
    let store = scene.store.clone();
    let folding = tokio::spawn(async move {
        for keep in (0..40).rev() {
            store.fold(chat.destination, keep * 10, NOW).await.unwrap();
        }
    });
    let mut sent = Vec::new();
    while !folding.is_finished() || scene.counts("chat").await.ready > 0 {
        sent.extend(scene.claim(chat, 3, NOW).await);
    }
    let mut ids = Vec::new();
    for claimed in &sent {
        match &claimed.what {
            What::Record(body) => ids.push(
                serde_json::from_str::<serde_json::Value>(body).unwrap()["event_id"].as_str().unwrap().to_owned(),
            ),
            _ => ids.extend(told(&scene, claimed.row).await),
        }
    }
    assert_eq!(ids.len(), 400);
    assert_eq!(ids.into_iter().collect::<std::collections::HashSet<_>>().len(), 400);
    tallied(&scene).await;
}
