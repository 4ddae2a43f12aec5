//! What is sent first, and what waits for what.

use super::*;

#[tokio::test]
async fn tiers_by_severity_and_in_a_tier_by_number_across_lanes() {
    let events = [
        ("issue-add", Severity::Info),
        ("issue-close", Severity::Critical),
        ("issue-close", Severity::Info),
        ("issue-add", Severity::High),
        ("issue-add", Severity::Critical),
        ("issue-add", Severity::Info),
        ("firewall-add", Severity::Info),
    ];
    for at_once in [1, 2, 3, 99] {
        let scene = Scene::new();
        let chat = scene.destination("chat").await;
        for (id, (key, severity)) in (1..).zip(events) {
            scene.accept(vec![keyed(&format!("{id}"), key, &[("chat", severity)])]).await;
        }
        let mut order = Vec::new();
        loop {
            let claimed = scene.claim(chat, at_once, NOW).await;
            assert!(claimed.len() <= at_once);
            if claimed.is_empty() {
                break;
            }
            order.extend(rows(&claimed));
        }
        assert_eq!(order, [2, 5, 4, 1, 3, 6, 7], "{at_once} at once");
    }
}

#[tokio::test]
async fn long_lanes_are_merged_by_number() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    let key = |n: usize| ["issue-add", "issue-close", "firewall-add"][n % 7 % 3];
    scene.accept((0..90).map(|n| keyed(&n.to_string(), key(n), &INFO)).collect()).await;
    let mut order = Vec::new();
    for _ in 0..10 {
        order.extend(rows(&scene.claim(chat, 9, NOW).await));
    }
    assert_eq!(order, (1..=90).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_is_not_due_holds_its_lane_and_no_other_and_a_probe_looks_past_it() {
    let scene = Scene::new();
    let chat = scene.destination("chat").await;
    let low = [("chat", Severity::Low)];
    scene
        .accept(vec![
            keyed("1", "issue-add", &INFO),
            keyed("2", "issue-add", &INFO),
            keyed("3", "issue-close", &INFO),
            keyed("4", "issue-add", &low),
            keyed("5", "issue-add", &low),
        ])
        .await;
    for claimed in scene.claim(chat, 9, NOW).await {
        let settlement = match claimed.row {
            1 => again(later(30)),
            4 => again(later(20)),
            _ => Settlement::NotStarted,
        };
        scene.settle(chat, &claimed, settlement).await;
    }
    let taken = scene.take(chat, 9, later(10)).await;
    assert_eq!((rows(&taken.claimed), taken.next), (vec![3], Some(later(20))));
    scene.settle(chat, &taken.claimed[0], Settlement::NotStarted).await;
    let probe = Turn { probe: true, ..claiming(1) };
    let probes = scene.store.turn(chat, probe, later(10)).await.unwrap().claimed;
    assert_eq!(rows(&probes), [5], "the most urgent that is due");
    scene.settle(chat, &probes[0], again(later(60))).await;
    assert_eq!(rows(&scene.claim(chat, 9, later(30)).await), [4, 1, 2, 3]);
}
