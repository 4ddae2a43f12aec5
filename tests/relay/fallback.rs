//! A destination that refuses the relay, and the fallback that sends for it: what an operator is told of both.

use serde_json::{Value, json};

use crate::http::{FakeHttp, Reply};
use crate::support::{Scene, event};

fn rules(chat: &FakeHttp, spare: &FakeHttp) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}', fallback: {{ to: spare, after: 5m }} }}
  spare: {{ type: webhook, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        chat.url("/services/T0/B0/x"),
        spare.url("/in")
    )
}

async fn json_of(scene: &Scene, arguments: &[&str]) -> Value {
    serde_json::from_str(&scene.cli_ok(arguments).await).unwrap()
}

#[tokio::test]
async fn each_attempt_says_where_it_went() {
    let mut chat = FakeHttp::start(Reply::text(404, "no_service")).await;
    let mut spare = FakeHttp::start(Reply::status(204)).await;
    let scene = Scene::new(&rules(&chat, &spare));
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
