//! SIGHUP: a good file applies without a lost or doubled delivery, a bad one changes nothing and is named.

use serde_json::json;

use crate::http::{FakeHttp, Reply};
use crate::support::{Scene, event, slack_host};

fn rules(slack: &FakeHttp, channel: &str, more: &str) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  {channel}: {{ type: slack, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: 'issue-*' }}, send: [{channel}] }}
{more}
unrouted: {{ drop: not for us }}
",
        slack.url(&format!("/services/T0/B0/{channel}"))
    )
}

#[tokio::test]
async fn a_bad_file_keeps_the_rules_and_a_good_one_replaces_them() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&rules(&slack, "first", ""));
    let relay = scene.start().await;
    let webhook = relay.webhook();

    scene.write_rules(&rules(&slack, "first", "  - { name: worse, when: { key: '*' }, send: [nobody] }"));
    relay.signal("HUP");
    relay.logs("reload refused").await;
    assert!(relay.log().contains("rules.yaml:8:"), "the place is named:\n{}", relay.log());
    assert!(relay.log().contains("nobody"), "{}", relay.log());
    let status = relay.status().await;
    assert!(status["config"]["reload_refused"].as_str().unwrap().contains("nobody"), "{status:#}");
    relay.accept(&event(1, "issue-add")).await;
    assert_eq!(slack.request().await.target, "/services/T0/B0/first");

    scene.write_rules(&rules(&slack, "second", ""));
    relay.signal("HUP");
    relay.logs("reloaded").await;
    assert_eq!(relay.webhook(), webhook, "the listener stays");
    relay.accept(&event(2, "issue-add")).await;
    assert_eq!(slack.request().await.target, "/services/T0/B0/second");
    let status = relay.status().await;
    assert_eq!(status["config"]["reload_refused"], json!(null));
    relay.stop().await;
}

#[tokio::test]
async fn reloads_under_load_lose_and_double_nothing() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&rules(&slack, "chat", ""));
    let relay = scene.start().await;
    for round in 0..10 {
        let events: Vec<_> = (0..30).map(|n| event(round * 30 + n, "issue-add")).collect();
        relay.accept(&json!(events)).await;
        let name = format!("  - {{ name: 'round-{round}', when: {{ key: nothing-matches-this }}, drop: '{round}' }}");
        scene.write_rules(&rules(&slack, "chat", &name));
        relay.signal("HUP");
    }
    relay.logs("reloaded").await;
    let mut hosts = Vec::new();
    while hosts.len() < 300 {
        hosts.push(slack_host(&slack.request().await.json()));
    }
    relay.idle().await;
    assert!(slack.try_request().is_none(), "something came twice");
    hosts.sort_unstable();
    hosts.dedup();
    assert_eq!(hosts.len(), 300);
    relay.stop().await;
}

#[tokio::test]
async fn what_a_removed_destination_is_owed_waits_for_its_return() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&rules(&slack, "chat", ""));
    slack.then(Reply::text(429, "rate_limited").with("retry-after", "1"));
    let relay = scene.start().await;
    relay.accept(&event(1, "issue-add")).await;
    slack.request().await;
    relay.logs("again in").await;
    scene.write_rules(&rules(&slack, "other", ""));
    relay.signal("HUP");
    relay.logs("reloaded").await;
    let shown = scene.cli_ok(&["status"]).await;
    assert!(shown.contains("NOT IN RULES") && shown.contains("rate_limited"), "it says why it waits: {shown}");
    scene.write_rules(&rules(&slack, "chat", ""));
    relay.signal("HUP");
    assert_eq!(slack_host(&slack.request().await.json()), "host-1.example.org");
    relay.idle().await;
    relay.stop().await;
}
