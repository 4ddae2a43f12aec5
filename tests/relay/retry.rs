//! A destination that throttles, fails and resets before it recovers.

use std::time::Duration;

use serde_json::json;

use crate::http::{FakeHttp, Reply, Request};
use crate::support::{Scene, event, slack_host, slack_id};

fn rules(troubled: &FakeHttp, fine: &FakeHttp) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  troubled: {{ type: slack, url: '{}' }}
  fine: {{ type: slack, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [troubled, fine] }}
unrouted: {{ drop: nothing else is expected }}
",
        troubled.url("/services/T0/B0/x"),
        fine.url("/services/T0/B0/y")
    )
}

#[tokio::test]
async fn throttled_then_failing_then_reset_then_well() {
    let mut troubled = FakeHttp::start(Reply::text(200, "ok")).await;
    let mut fine = FakeHttp::start(Reply::text(200, "ok")).await;
    troubled.then(Reply::text(429, "{\"ok\":false,\"error\":\"rate_limited\"}").with("retry-after", "3"));
    for reply in [Reply::status(500), Reply::status(500), Reply::Reset, Reply::Reset] {
        troubled.then(reply);
    }
    let scene = Scene::new(&rules(&troubled, &fine));
    let relay = scene.start().await;
    let events: Vec<_> = (0..5).map(|n| event(n, "issue-add")).collect();
    relay.accept(&json!(events)).await;

    // The other destination has everything before the pause of the troubled one is over.
    let throttled = troubled.request().await;
    let mut last = throttled.at;
    for _ in 0..5 {
        last = fine.request().await.at;
    }
    assert!(last < throttled.at + Duration::from_secs(3), "a well destination waited for a troubled one");

    // The one throttled, four failures, five messages; nothing inside the pause.
    let mut requests = Vec::new();
    for _ in 0..9 {
        requests.push(troubled.request().await);
    }
    let pause = requests[0].at - throttled.at;
    assert!(pause >= Duration::from_secs(3), "asked again after {pause:?}");
    relay.idle().await;
    let mut delivered: Vec<_> = requests[4..].iter().map(|request| slack_host(&request.json())).collect();
    delivered.sort_unstable();
    let expected: Vec<_> = (0..5).map(|n| format!("host-{n}.example.org")).collect();
    assert_eq!(delivered, expected);

    // What was cut off may have arrived, so its repeat says so and bears the same id; what failed plainly does not.
    for cut in &requests[2..4] {
        let cut = cut.json();
        let again = requests[4..].iter().map(Request::json).find(|again| slack_id(again) == slack_id(&cut));
        assert!(again.unwrap().to_string().contains("may repeat"));
    }
    let first = throttled.json();
    let relay_says = relay.get("/metrics").await;
    assert!(
        relay_says.contains("halo_relay_attempts_total{destination=\"troubled\",outcome=\"throttled\"} 1"),
        "{relay_says}"
    );
    let code = first["blocks"].to_string();
    assert!(!code.is_empty());
    relay.stop().await;
}

#[tokio::test]
async fn what_a_destination_that_refuses_is_owed_waits_until_it_is_mended() {
    let mut troubled = FakeHttp::start(Reply::text(200, "ok")).await;
    let mut fine = FakeHttp::start(Reply::text(200, "ok")).await;
    troubled.then(Reply::text(404, "no_service"));
    let scene = Scene::new(&rules(&troubled, &fine));
    let relay = scene.start().await;
    relay.accept(&event(1, "issue-add")).await;
    troubled.request().await;
    relay.logs("troubled refuses messages").await;
    relay.accept(&event(2, "issue-add")).await;
    for _ in 0..2 {
        fine.request().await;
    }

    // It is told, nothing is given up, and nothing more is tried until somebody has acted.
    let status = scene.cli_ok(&["status"]).await;
    assert!(status.contains("REFUSING") && status.contains("refusing since"), "{status}");
    assert!(status.contains("no_service") && status.contains("next try at"), "{status}");
    let metrics = relay.get("/metrics").await;
    assert!(metrics.contains("halo_relay_destination_taking{destination=\"troubled\"} 0"), "{metrics}");
    assert_eq!(scene.cli_ok(&["dead", "list"]).await, "no dead letters\n");
    let shown = scene.cli_ok(&["explain", "event-1"]).await;
    assert!(shown.contains("refused_destination") && shown.contains("404"), "{shown}");
    assert!(troubled.try_request().is_none());

    relay.signal("HUP");
    relay.logs("reloaded").await;
    let mut hosts: Vec<_> =
        [troubled.request().await, troubled.request().await].iter().map(|r| slack_host(&r.json())).collect();
    hosts.sort_unstable();
    assert_eq!(hosts, ["host-1.example.org", "host-2.example.org"]);
    relay.idle().await;
    assert!(scene.cli_ok(&["audit"]).await.contains("balanced: 2 events, 4 deliveries"));
    relay.stop().await;
}

#[tokio::test]
async fn content_that_is_refused_twice_makes_a_dead_letter_that_can_be_sent_again() {
    let mut troubled = FakeHttp::start(Reply::text(200, "ok")).await;
    let mut fine = FakeHttp::start(Reply::text(200, "ok")).await;
    for _ in 0..2 {
        troubled.then(Reply::text(400, "invalid_payload"));
    }
    let scene = Scene::new(&rules(&troubled, &fine));
    let relay = scene.start().await;
    relay.accept(&event(1, "issue-add")).await;
    for _ in 0..2 {
        troubled.request().await;
    }
    fine.request().await;
    relay.idle().await;

    let list = scene.cli_ok(&["dead", "list"]).await;
    assert!(list.contains("troubled") && list.contains("host-1.example.org"), "{list}");
    let dead: serde_json::Value = serde_json::from_str(&scene.cli_ok(&["dead", "list", "--json"]).await).unwrap();
    let code = dead[0]["code"].as_str().unwrap();
    let shown = scene.cli_ok(&["dead", "show", code]).await;
    assert!(shown.contains("refused_content") && shown.contains("400"), "{shown}");

    assert!(scene.cli_ok(&["dead", "retry", "event-1"]).await.contains(code), "an event's id names its dead letters");
    let again = troubled.request().await.json();
    assert!(again.to_string().contains(code), "the code stays: {again:#}");
    relay.idle().await;
    assert_eq!(scene.cli_ok(&["dead", "list"]).await, "no dead letters\n");
    relay.stop().await;
}
