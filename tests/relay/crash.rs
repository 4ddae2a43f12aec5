//! Pulling the plug: whatever was answered 202 arrives, and what arrives twice was under way when the plug was pulled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::http::{FakeHttp, Reply};
use crate::support::{PATIENCE, Scene, TOKEN, event, eventually, free_port, slack_host, slack_id, within};

const EVENTS: usize = 5_000;
const KILLS: usize = 10;
/// Slack gets one message at a time, so a kill can leave one whose answer nobody recorded.
const UNDER_WAY: usize = 1;

fn rules(listen: u16, slack: &FakeHttp) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: '127.0.0.1:{listen}', path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        slack.url("/services/T0/B0/secret")
    )
}

/// Posts events from several senders, each again and again until it is answered 202, and records which were.
fn senders(port: u16, accepted: &Arc<Mutex<BTreeSet<usize>>>) -> tokio::task::JoinSet<()> {
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..8 {
        let accepted = Arc::clone(accepted);
        senders.spawn(async move {
            let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
            for number in (sender..EVENTS).step_by(8) {
                loop {
                    let request = client.post(format!("http://127.0.0.1:{port}/hooks/halo")).bearer_auth(TOKEN);
                    match request.json(&event(number, "issue-add")).send().await {
                        Ok(answer) if answer.status() == 202 => break,
                        // Killed under our hands, or not up yet: the same event is offered again.
                        _ => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
                accepted.lock().unwrap().insert(number);
            }
        });
    }
    senders
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_lose_nothing_that_was_acknowledged() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let port = free_port();
    let scene = Scene::new(&rules(port, &slack));
    let accepted = Arc::default();

    let mut relay = scene.start().await;
    let mut senders = senders(port, &accepted);
    for kill in 1..=KILLS {
        // Somewhere in the next part of the work, not at a moment that the relay could favour.
        let until = EVENTS * kill / (KILLS + 2);
        eventually("more events are accepted", || accepted.lock().unwrap().len(), |len| *len >= until).await;
        tokio::time::sleep(Duration::from_micros(random.u64(0..30_000))).await;
        relay.kill();
        relay = scene.start().await;
    }
    within("all events are accepted", async { while senders.join_next().await.is_some() {} }).await;
    relay.idle().await;
    relay.stop().await;

    let mut arrived: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut repeats_marked = 0;
    while let Some(request) = slack.try_request() {
        let payload = request.json();
        arrived.entry(slack_host(&payload)).or_default().push(slack_id(&payload));
        repeats_marked += usize::from(payload.to_string().contains("may repeat"));
    }
    assert_eq!(accepted.lock().unwrap().len(), EVENTS);
    let missing: Vec<_> = (0..EVENTS).filter(|n| !arrived.contains_key(&format!("host-{n}.example.org"))).collect();
    assert!(missing.is_empty(), "acknowledged and lost: {missing:?}");
    let repeats: usize = arrived.values().map(|ids| ids.len() - 1).sum();
    println!("{repeats} repeats in {KILLS} kills, {repeats_marked} messages say that they may be one");
    assert!(repeats <= KILLS * UNDER_WAY, "{repeats} repeats");
    assert!(repeats <= repeats_marked, "a repeat does not say so");
    for (host, ids) in &arrived {
        assert!(ids.iter().all(|id| *id == ids[0]), "{host} came under different ids: {ids:?}");
    }
    let ids: BTreeSet<_> = arrived.values().map(|ids| &ids[0]).collect();
    assert_eq!(ids.len(), EVENTS, "two events share an id");
}

#[tokio::test]
async fn a_clean_stop_repeats_nothing() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&rules(0, &slack));
    for round in 0..5 {
        let relay = scene.start().await;
        let events: Vec<_> = (0..20).map(|n| event(round * 20 + n, "issue-add")).collect();
        relay.accept(&json!(events)).await;
        relay.stop().await;
    }
    let relay = scene.start().await;
    relay.idle().await;
    relay.stop().await;
    let mut hosts = Vec::new();
    while let Some(request) = slack.try_request() {
        assert!(!request.json().to_string().contains("may repeat"));
        hosts.push(slack_host(&request.json()));
    }
    let unique: BTreeSet<_> = hosts.iter().collect();
    assert_eq!((hosts.len(), unique.len()), (100, 100));
}

#[tokio::test]
async fn a_second_relay_is_refused() {
    let slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&rules(0, &slack));
    let relay = scene.start().await;
    let mut second = scene.launch(&["run"]);
    assert_eq!(second.exited().await.code(), Some(4));
    second.logs(&format!("in use by process {}", relay.id())).await;
    relay.stop().await;
}

#[tokio::test]
async fn sigterm_with_a_slow_destination_ends_in_time_and_a_second_one_at_once() {
    let mut slack = FakeHttp::start(Reply::Silence).await;
    let scene = Scene::new(&rules(0, &slack));
    let mut relay = scene.start().await;
    relay.accept(&event(1, "issue-add")).await;
    slack.request().await;
    relay.signal("TERM");
    relay.logs("stopping: no new events").await;
    relay.signal("TERM");
    assert!(tokio::time::timeout(PATIENCE, relay.exited()).await.unwrap().success());
    assert!(relay.log().contains("asked twice to stop"), "{}", relay.log());
    slack.then(Reply::text(200, "ok"));
    let relay = scene.start().await;
    let again = slack.request().await.json();
    assert!(again.to_string().contains("may repeat"), "{again:#}");
    relay.stop().await;
}

#[tokio::test]
async fn a_store_deleted_under_the_relay_ends_it_before_anything_more_is_acknowledged() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&rules(0, &slack));
    let mut relay = scene.start().await;
    relay.accept(&event(1, "issue-add")).await;
    slack.request().await;
    relay.idle().await;
    std::fs::remove_file(scene.state().join("relay.db")).unwrap();
    assert_eq!(relay.post(&event(2, "issue-add")).await.0, 503);
    assert_eq!(within("an end", relay.exited()).await.code(), Some(1));
    relay.logs("relay.db was deleted or replaced").await;
}
