//! Limits hold over any window, as the receiver counts them, across a restart and a kill.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::http::{FakeHttp, Reply};
use crate::support::{Scene, event};

const WINDOWS: [(usize, Duration); 2] = [(2, Duration::from_secs(1)), (10, Duration::from_secs(10))];

#[tokio::test]
async fn no_window_of_either_length_ever_holds_more() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}', limit: [2/1s, 10/10s] }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        slack.url("/services/T0/B0/x")
    ));
    let mut times: Vec<Instant> = Vec::new();
    let relay = scene.start().await;
    let events: Vec<_> = (0..24).map(|n| event(n, "issue-add")).collect();
    relay.accept(&json!(events)).await;
    for _ in 0..3 {
        times.push(slack.request().await.at);
    }
    relay.stop().await;
    let relay = scene.start().await;
    for _ in 0..4 {
        times.push(slack.request().await.at);
    }
    relay.kill();
    let relay = scene.start().await;
    // A kill may have left one whose answer was not recorded; it comes again, and counts.
    while times.len() < 22 {
        times.push(tokio::time::timeout(Duration::from_secs(30), slack.request()).await.unwrap().at);
    }
    for (count, span) in WINDOWS {
        for from in &times {
            let held = times.iter().filter(|&&at| (*from..*from + span).contains(&at)).count();
            assert!(held <= count, "{held} within {span:?}, {count} are allowed");
        }
    }
    relay.kill();
    while slack.try_request().is_some() {}
}
