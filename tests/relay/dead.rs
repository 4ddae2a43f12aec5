//! Dead digests: found by what they tell, sent again whole, and never let go in part.

use serde_json::{Value, json};

use crate::http::{FakeHttp, Reply};
use crate::support::{Scene, event};

fn rules(chat: &FakeHttp) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: gathered, when: {{ key: 'issue-*' }}, severity: low, send: [chat], batch: {{ by: [subject], wait: 1s, max: 4 }} }}
  - {{ name: alone, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        chat.url("/services/T0/B0/x")
    )
}

async fn json_of(scene: &Scene, arguments: &[&str]) -> Value {
    serde_json::from_str(&scene.cli_ok(arguments).await).unwrap()
}

/// Exit code, standard output, standard error.
async fn told(scene: &Scene, arguments: &[&str]) -> (i32, String, String) {
    let output = scene.cli(arguments).await;
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code().unwrap(), out, err)
}

#[tokio::test]
async fn a_dead_digest_is_found_by_its_events_and_goes_as_a_whole() {
    let mut chat = FakeHttp::start(Reply::text(200, "ok")).await;
    // The message and the plain one in its place, of a digest and of an event.
    for _ in 0..4 {
        chat.then(Reply::text(400, "invalid_blocks"));
    }
    let scene = Scene::new(&rules(&chat));
    let relay = scene.start().await;
    let keys = ["issue-add", "issue-close", "issue-add", "issue-add", "target-add"];
    relay.accept(&json!(keys.iter().zip(1..).map(|(key, n)| event(n, key)).collect::<Vec<_>>())).await;
    for _ in 0..4 {
        chat.request().await;
    }
    relay.idle().await;

    let list = json_of(&scene, &["dead", "list", "--json"]).await;
    let code = |kind: &str| {
        let row = list.as_array().unwrap().iter().find(|row| row["kind"] == kind);
        row.unwrap_or_else(|| panic!("no {kind} in {list:#}"))["code"].as_str().unwrap().to_owned()
    };
    let (digest, alone) = (code("batch"), code("event"));
    let listed = scene.cli_ok(&["dead", "list", "--key", "issue-close"]).await;
    assert!(
        listed.contains(&digest) && listed.contains("digest of 4, 1 match") && !listed.contains(&alone),
        "{listed}"
    );
    let listed = json_of(&scene, &["dead", "list", "--key", "issue-add", "--json"]).await;
    assert_eq!((&listed[0]["events"], &listed[0]["matching"]), (&json!(4), &json!(3)), "{listed:#}");
    let said = scene.cli_ok(&["dead", "list"]).await;
    assert!(said.contains("digest of 4 ") && !said.contains("match"), "{said}");
    let shown = scene.cli_ok(&["dead", "show", "event-2"]).await;
    assert!(shown.contains(&format!("halo-relay dead retry {digest}")), "{shown}");

    // What was not asked for is not let go: neither by the running relay nor without one.
    let left = format!("error: {digest} is left: 1 of its 4 events match\na digest goes as a whole: ");
    let by_id = ["dead", "drop", "event-2", "--reason", "known"];
    let (exit, out, err) = told(&scene, &by_id).await;
    assert_eq!((exit, out.as_str()), (1, ""), "{err}");
    assert!(err.starts_with(&left), "{err}");
    relay.stop().await;
    let (exit, out, err) =
        told(&scene, &["dead", "drop", "--all", "--key", "*-{close,add}", "--rule", "alone", "--reason", "known"])
            .await;
    assert_eq!((exit, out), (0, format!("1 dropped: {alone}\n")), "{err}");
    let (exit, out, err) = told(&scene, &[&by_id[..], &["--json"]].concat()).await;
    let part = json!([{ "code": digest, "events": 4, "matching": 1 }]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), json!({ "codes": [], "in_part": [], "left": part }));
    assert!(exit == 1 && err.starts_with(&left), "{err}");

    // An event's own code from the list of a digest does as well as its id.
    let members = json_of(&scene, &["explain", &digest, "--json"]).await;
    let member = members["members"][2]["code"].as_str().unwrap();
    let (exit, said, _) = told(&scene, &["dead", "retry", "event-1", member]).await;
    let whole = format!("{digest}: 2 of its 4 events match; the digest is sent again as a whole");
    assert_eq!((exit, said), (0, format!("1 will be sent again: {digest}\n{whole}\n")));
    let (exit, _, err) = told(&scene, &["dead", "retry", "event-1"]).await;
    assert!(exit == 1 && err.contains("event-1 has no dead letter"), "{err}");

    let relay = scene.start().await;
    let text = chat.request().await.json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("4 events"), "{text}");
    relay.idle().await;
    relay.stop().await;
    assert!(scene.cli_ok(&["audit"]).await.contains("balanced: 5 events"));
}
