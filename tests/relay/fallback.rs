//! A destination that refuses the relay, and the fallback that sends for it: what an operator is told of both.

use serde_json::{Value, json};

use crate::http::{FakeHttp, Reply};
use crate::support::{PATIENCE, Scene, event};

fn rules(chat: &FakeHttp, spare: &FakeHttp, limits: &str) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}', fallback: {{ to: spare, after: 5m }} }}
  spare: {{ type: webhook, url: '{}'{limits} }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        chat.url("/services/T0/B0/x"),
        spare.url("/in")
    )
}

/// The counts of one destination.
fn counts<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["deliveries"].as_array().unwrap().iter().find(|counts| counts["name"] == name).unwrap()
}

async fn json_of(scene: &Scene, arguments: &[&str]) -> Value {
    serde_json::from_str(&scene.cli_ok(arguments).await).unwrap()
}

#[tokio::test]
async fn each_attempt_says_where_it_went() {
    let mut chat = FakeHttp::start(Reply::text(404, "no_service")).await;
    let mut spare = FakeHttp::start(Reply::status(204)).await;
    let scene = Scene::new(&rules(&chat, &spare, ""));
    let relay = scene.start().await;
    relay.accept(&event(1, "issue-add")).await;
    chat.request().await;
    // The event and the notice, whichever is first.
    spare.request().await;
    spare.request().await;
    relay.idle().await;
    let story = json_of(&scene, &["explain", "event-1", "--json"]).await;
    let attempts = story["stored"]["deliveries"][0][1].as_array().unwrap();
    let went: Vec<_> = attempts.iter().map(|attempt| (&attempt["destination"], &attempt["outcome"])).collect();
    let expected = [(json!("chat"), json!("refused_destination")), (json!("spare"), json!("delivered"))];
    assert_eq!(went, expected.each_ref().map(|(to, outcome)| (to, outcome)), "{story:#}");
    relay.stop().await;

    let said = scene.cli_ok(&["explain", "event-1"]).await;
    let line = |words: [&str; 2]| said.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(line(["attempt", "sent to"]), "{said}");
    assert!(line(["chat", "refused_destination"]) && line(["spare", "delivered"]), "{said}");
}

#[tokio::test]
async fn a_status_tells_what_waits_at_the_fallback_and_for_whom() {
    let mut chat = FakeHttp::start(Reply::text(404, "no_service")).await;
    let mut spare = FakeHttp::start(Reply::status(204)).await;
    // It takes the notice, which is the first, or the first event, and nothing more.
    let scene = Scene::new(&rules(&chat, &spare, ", limit: 1/1h, over_limit: queue"));
    let relay = scene.start().await;
    relay.accept(&json!((1..=5).map(|n| event(n, "issue-add")).collect::<Vec<_>>())).await;
    chat.request().await;
    spare.request().await;
    // Five events and a notice, less the one that was sent.
    let started = std::time::Instant::now();
    let status = loop {
        let status = relay.status().await;
        if counts(&status, "spare")["sends_for"] == json!({ "chat": 5 }) {
            break status;
        }
        assert!(started.elapsed() < PATIENCE, "{status:#}\n{}", relay.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    let at_home = counts(&status, "chat");
    assert_eq!((&at_home["ready"], &at_home["sent_by"]), (&json!(5), &json!({ "spare": 5 })), "{status:#}");
    assert_eq!(counts(&status, "spare")["ready"], json!(0), "{status:#}");
    let said = scene.cli_ok(&["status"]).await;
    assert!(said.contains("for others") && said.contains("sends 5 for chat beside its own"), "{said}");
    relay.stop().await;

    // And so when it is asked of what the relay has left.
    let left = json_of(&scene, &["status", "--json"]).await;
    assert_eq!(counts(&left, "spare")["sends_for"], json!({ "chat": 5 }), "{left:#}");
    let said = scene.cli_ok(&["status"]).await;
    assert!(said.contains("chat: ") && said.contains("of what it is owed, 5 wait at spare"), "{said}");
    while chat.try_request().is_some() {}
}
