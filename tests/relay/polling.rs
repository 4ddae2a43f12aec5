//! A polled event API that shifts, repeats, truncates and fails: every event that matches arrives once.

use std::collections::BTreeMap;

use serde_json::json;

use crate::event_api::{self, EventApi};
use crate::http::{FakeHttp, Reply};
use crate::support::{Scene, event, slack_host};

fn rules(api: &EventApi, slack: &FakeHttp, first_run: &str) -> String {
    format!(
        "sources:
  halo: {{ type: halo, base_url: '{}', api_key: {{ env: KEY }}, every: 1s, first_run: {first_run} }}
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: scans, when: {{ key: '*-scan-*' }}, drop: scans are on the dashboard }}
  - {{ name: all, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        api.base_url(),
        slack.url("/services/T0/B0/x")
    )
}

/// The hosts that messages came about, each with how often.
async fn arrivals(slack: &mut FakeHttp, count: usize) -> BTreeMap<String, usize> {
    let mut hosts = BTreeMap::new();
    for _ in 0..count {
        *hosts.entry(slack_host(&slack.request().await.json())).or_default() += 1;
    }
    hosts
}

#[tokio::test]
async fn a_troubled_api_costs_no_event_and_repeats_none() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let mut events: Vec<_> = (0..300).map(|n| event(n, "issue-add")).collect();
    events.extend((300..320).map(|n| event(n, "target-scan-finish")));
    let api = EventApi::start(events).await;
    api.state().page_max = 50;
    // While pages are listed, events appear at the front and shift the rest; some vanish and shift it back.
    let mut next = 1_000;
    api.state().before_page = Some(Box::new(move |page, events| {
        if page % 2 == 0 && next < 1_010 {
            events.insert(0, event(next, "issue-add"));
            next += 1;
        }
        if page == 3 {
            let last = events.len() - 1;
            events.swap(0, last);
        }
    }));
    api.script([
        event_api::Reply::Status(500, &[], "oops".to_owned()),
        event_api::Reply::Status(429, &["retry-after: 1"], String::new()),
        event_api::Reply::Page,
        event_api::Reply::Torn,
    ]);
    let scene = Scene::new(&rules(&api, &slack, "all")).with("KEY", event_api::KEY);
    let relay = scene.start().await;

    // 300 at first, and up to ten that appeared meanwhile: all that match, none twice.
    let mut hosts = arrivals(&mut slack, 300).await;
    let expected = |hosts: &BTreeMap<String, usize>| {
        let listed = api.state().events.clone();
        listed
            .iter()
            .filter(|event| event["key"] == "issue-add")
            .map(|event| event["target"].as_str().unwrap().to_owned())
            .filter(|host| !hosts.contains_key(host))
            .collect::<Vec<_>>()
    };
    while !expected(&hosts).is_empty() {
        for (host, count) in arrivals(&mut slack, 1).await {
            *hosts.entry(host).or_default() += count;
        }
    }
    // More polls of the same list bring nothing twice.
    let seen = api.requests();
    crate::support::eventually("more polls", || api.requests(), |now| *now > seen + 20).await;
    relay.idle().await;
    while let Some(request) = slack.try_request() {
        *hosts.entry(slack_host(&request.json())).or_default() += 1;
    }
    assert_eq!(expected(&hosts), Vec::<String>::new());
    assert!(hosts.values().all(|count| *count == 1), "{hosts:?}");
    relay.logs("listed").await;
    relay.stop().await;
}

#[tokio::test]
async fn the_first_run_remembers_and_later_events_are_sent() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let api = EventApi::start((0..30).map(|n| event(n, "issue-add")).collect()).await;
    let scene = Scene::new(&rules(&api, &slack, "skip")).with("KEY", event_api::KEY);
    let relay = scene.start().await;
    relay.logs("first poll of source halo done").await;
    api.push(event(100, "issue-add"));
    assert_eq!(slack_host(&slack.request().await.json()), "host-100.example.org");

    // By webhook first, by poll later; and the other way round: once each.
    relay.accept(&event(101, "issue-add")).await;
    assert_eq!(slack_host(&slack.request().await.json()), "host-101.example.org");
    api.push(event(101, "issue-add"));
    api.push(event(102, "issue-add"));
    assert_eq!(slack_host(&slack.request().await.json()), "host-102.example.org");
    let (status, answer) = relay.post(&event(102, "issue-add")).await;
    assert_eq!((status, answer), (202, json!({"accepted": 0, "duplicate": 1})));
    relay.stop().await;

    // A restart is no first run.
    let relay = scene.start().await;
    api.push(event(103, "issue-add"));
    assert_eq!(slack_host(&slack.request().await.json()), "host-103.example.org");
    relay.idle().await;
    relay.stop().await;
}

#[tokio::test]
async fn a_refused_key_is_said_plainly() {
    let slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let api = EventApi::start(Vec::new()).await;
    api.script([event_api::Reply::Status(401, &[], "{}".to_owned())]);
    let scene = Scene::new(&rules(&api, &slack, "skip")).with("KEY", event_api::KEY);
    let relay = scene.start().await;
    relay.logs("refused").await;
    assert!(!relay.log().contains(event_api::KEY));
    let status = relay.status().await;
    assert_eq!(status["sources"][0]["healthy"], false, "{status:#}");
    relay.stop().await;
}
