//! The commands people use beside the daemon.

use serde_json::{Value, json};

use crate::http::{FakeHttp, Reply};
use crate::support::{Scene, event};

const RULES: &str = "sources:
  push: { type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: { env: TOKEN } }
destinations:
  chat: { type: slack, url: { env: CHAT }, limit: [1/1s, 30/10m] }
  team: { type: teams, url: { env: TEAM } }
admin: { listen: 127.0.0.1:0 }
rules:
  - { name: certificates, when: { key: 'website-cert-*', target: '*.example.org' }, severity: high, send: [chat] }
  - { name: scans, when: { key: '*-scan-*' }, drop: scans are on the dashboard }
  - { name: after-scans, when: { key: '*' }, send: [chat] }
unrouted: { send: [team] }
";

fn scene(chat: &FakeHttp) -> Scene {
    Scene::new(RULES)
        .with("CHAT", chat.url("/services/T0/B0/x"))
        .with("TEAM", chat.url("/workflows/1/triggers/manual/paths/invoke?sig=x"))
}

#[tokio::test]
async fn check_says_yes_and_what_there_is() {
    let chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = scene(&chat);
    let said = scene.cli_ok(&["check"]).await;
    assert!(said.contains("1 source, 2 destinations, 3 rules"), "{said}");
    let without = Scene::new(RULES);
    let output = without.cli(&["check"]).await;
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("CHAT") && said.contains("rules.yaml:4:"), "{said}");
    without.cli_ok(&["check", "--no-secrets"]).await;
}

#[tokio::test]
async fn explain_tells_why() {
    let chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = scene(&chat);
    let said = scene.cli_ok(&["explain", "--key", "target-scan-finish"]).await;
    assert!(said.contains("not reached") && said.contains("scans are on the dashboard"), "{said}");
    assert!(said.contains("nothing is sent"), "{said}");

    let file = scene.rules().with_file_name("event.json");
    std::fs::write(
        &file,
        json!({"event": {"event_id": "1", "key": "website-cert-expiring", "target": "www.example.com"}}).to_string(),
    )
    .unwrap();
    let said = scene.cli_ok(&["explain", "--event", file.to_str().unwrap()]).await;
    assert!(said.contains("target") && said.contains("www.example.com") && said.contains("rules.yaml:8"), "{said}");
    let json: Value =
        serde_json::from_str(&scene.cli_ok(&["explain", "--json", "--event", file.to_str().unwrap()]).await).unwrap();
    assert_eq!(json["routing"]["route"]["owed"][0]["rule"], "after-scans");
    let output = scene.cli(&["explain"]).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn render_prints_what_would_be_sent() {
    let mut chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = scene(&chat);
    let file = scene.rules().with_file_name("event.json");
    let record = event(1, "website-cert-expired");
    std::fs::write(&file, record.to_string()).unwrap();
    let printed: Value =
        serde_json::from_str(&scene.cli_ok(&["render", "--event", file.to_str().unwrap(), "--to", "chat"]).await)
            .unwrap();
    let relay = scene.start().await;
    relay.accept(&record).await;
    let mut sent = chat.request().await.json();
    relay.stop().await;
    // The same but for what names this delivery.
    let mut printed = printed;
    for payload in [&mut printed, &mut sent] {
        payload["blocks"][0]["block_id"].take();
        let footer = payload["blocks"].as_array_mut().unwrap().last_mut().unwrap();
        footer.take();
    }
    assert_eq!(printed, sent);

    let card = scene.cli_ok(&["render", "--key", "firewall-port-add", "--to", "team"]).await;
    assert!(card.contains("AdaptiveCard"), "{card}");
    let digest = scene.cli_ok(&["render", "--key", "firewall-port-add", "--to", "team", "--digest", "12"]).await;
    assert!(digest.contains("12 × ") && digest.contains("9 targets") && digest.contains("and 2 more"), "{digest}");
    let output = scene.cli(&["render", "--key", "firewall-port-add", "--to", "team", "--digest", "1"]).await;
    assert_eq!(output.status.code(), Some(2));
    let output = scene.cli(&["render", "--key", "firewall-port-add", "--to", "nobody"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("chat, team"));
}

#[tokio::test]
async fn render_shows_the_message_as_its_channel_would() {
    let chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = scene(&chat);
    let page = scene.cli_ok(&["render", "--key", "issue-add", "--to", "chat", "--html", "-"]).await;
    assert!(
        page.starts_with("<!doctype html>") && page.contains("id=\"message\">{\"channel\":\"slack\""),
        "{page:.500}"
    );
    let file = scene.rules().with_file_name("page.html");
    let path = file.to_str().unwrap();
    let said = scene.cli_ok(&["render", "--key", "issue-add", "--to", "team", "--digest", "3", "--html", path]).await;
    assert!(said.contains(path), "{said}");
    let page = std::fs::read_to_string(&file).unwrap();
    assert!(page.contains("\"channel\":\"teams\"") && page.contains("3 × "), "{page:.500}");
    let nowhere = file.join("page.html");
    let output = scene.cli(&["render", "--key", "k", "--to", "team", "--html", nowhere.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be written"));
    let output = scene.cli(&["render", "--key", "k", "--to", "team", "--html", "-", "--json"]).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn send_test_sends_a_marked_message_and_prints_the_answer() {
    let mut chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = scene(&chat);
    let said = scene.cli_ok(&["send-test", "chat"]).await;
    assert!(said.contains("delivered (200)"), "{said}");
    assert!(chat.request().await.json()["text"].as_str().unwrap().starts_with("TEST"), "not marked");

    chat.then(Reply::text(403, "invalid_token"));
    let output = scene.cli(&["send-test", "chat"]).await;
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("invalid_token") && said.contains("credentials"), "{said}");
    chat.request().await;
}

#[tokio::test]
async fn dead_letters_without_a_running_relay() {
    let mut chat = FakeHttp::start(Reply::text(200, "ok")).await;
    // The message, and the plain one in its place, of each of three events.
    for _ in 0..6 {
        chat.then(Reply::text(400, "invalid_payload"));
    }
    let scene = scene(&chat);
    let output = scene.cli(&["status"]).await;
    assert_eq!(output.status.code(), Some(4));
    let relay = scene.start().await;
    let events: Vec<_> = (1..=3).map(|n| event(n, "website-cert-expired")).collect();
    relay.accept(&json!(events)).await;
    for _ in 0..6 {
        chat.request().await;
    }
    relay.idle().await;
    let code = |n: usize, list: &Value| list[n]["code"].as_str().unwrap().to_owned();
    let list: Value = serde_json::from_str(&scene.cli_ok(&["dead", "list", "--json"]).await).unwrap();
    let running = scene.cli_ok(&["explain", &code(0, &list)]).await;
    assert!(running.contains("invalid_payload") && running.contains("sent to"), "{running}");
    let listed = scene.cli_ok(&["dead", "list", "--key", "website-*", "--rule", "certificates"]).await;
    assert!(listed.contains(&code(2, &list)), "{listed}");
    relay.stop().await;

    assert!(scene.cli_ok(&["status"]).await.contains("no relay is running"));
    let output = scene.cli(&["dead", "drop", "--reason", "old"]).await;
    assert_eq!(output.status.code(), Some(2), "all must be asked for");
    let output = scene.cli(&["dead", "drop", "--all", "--reason", " "]).await;
    assert_eq!(output.status.code(), Some(2), "a reason is asked for");
    assert_eq!(scene.cli_ok(&["dead", "list", "--older-than", "1h"]).await, "no dead letters\n");
    assert_eq!(scene.cli_ok(&["dead", "list", "--key", "issue-*"]).await, "no dead letters\n");
    assert_eq!(scene.cli(&["dead", "list", "--key", "[a"]).await.status.code(), Some(2), "no glob");
    assert_eq!(scene.cli(&["dead", "retry", "event-9"]).await.status.code(), Some(2), "no such event");
    let shown = scene.cli_ok(&["dead", "show", "event-2"]).await;
    assert!(shown.contains("refused_content") && shown.contains("dead retry"), "{shown}");
    let dropped = scene.cli_ok(&["dead", "drop", &code(0, &list), "--reason", "old news", "--json"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&dropped).unwrap(),
        json!({ "codes": [code(0, &list)], "in_part": [], "left": [] })
    );
    let said = scene.cli_ok(&["dead", "retry", "--all", "--key", "website-*"]).await;
    assert!(said.starts_with("2 will be sent again"), "{said}");
    assert_eq!(scene.cli(&["dead", "retry", "--all"]).await.status.code(), Some(1));
    assert!(scene.cli_ok(&["dead", "show", &code(0, &list)]).await.contains("old news"));

    let relay = scene.start().await;
    chat.request().await;
    chat.request().await;
    relay.idle().await;
    relay.stop().await;
}

#[tokio::test]
async fn a_dry_run_prints_and_keeps_nothing() {
    let chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene =
        Scene::new(&RULES.replace("127.0.0.1:0, path", &format!("127.0.0.1:{}, path", crate::support::free_port())));
    let port = std::fs::read_to_string(scene.rules()).unwrap();
    let port = port.split("listen: 127.0.0.1:").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let mut relay = scene.launch(&["run", "--dry-run", "--log", "debug"]);
    relay.logs("is ready").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client
        .post(format!("http://127.0.0.1:{port}/hooks/halo"))
        .bearer_auth(crate::support::TOKEN)
        .json(&event(1, "website-cert-expired"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
    relay.logs("delivered").await;
    relay.signal("TERM");
    assert!(relay.exited().await.success());
    assert!(!scene.state().exists(), "a dry run touched the state directory");
    drop(chat);
}

#[tokio::test]
async fn a_dry_run_tells_at_its_end_what_still_waits() {
    let rules = RULES
        .replace("127.0.0.1:0, path", &format!("127.0.0.1:{}, path", crate::support::free_port()))
        .replace("severity: high, send: [chat]", "severity: high, send: [chat], batch: { wait: 1h }")
        .replace("url: { env: TEAM }", "url: { env: TEAM }, limit: 1/1h")
        .replace("key: '*' }, send: [chat]", "key: 'issue-*' }, send: [team]");
    let scene = Scene::new(&rules);
    let port = rules.split("listen: 127.0.0.1:").nth(1).unwrap().split(',').next().unwrap().to_owned();
    let mut relay = scene.launch(&["run", "--dry-run", "--log", "debug"]);
    relay.logs("is ready").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut expiring: Vec<_> = (1..=4).map(|id| event(id, "website-cert-expiring")).collect();
    expiring.extend([event(5, "issue-add"), event(6, "issue-add")]);
    let answer = client
        .post(format!("http://127.0.0.1:{port}/hooks/halo"))
        .bearer_auth(crate::support::TOKEN)
        .json(&expiring)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 202);
    relay.logs("delivered").await;
    relay.signal("INT");
    assert!(relay.exited().await.success());
    let printed = scene.printed();
    let (messages, left) = printed.split_at(printed.find("--- not sent yet").unwrap());
    assert_eq!(messages.matches("--- team (teams)").count(), 1, "{printed}");
    let lines: Vec<_> = left.lines().collect();
    assert_eq!(lines.len(), 4, "{left}");
    assert!(lines[1].starts_with("would go out"), "{left}");
    assert!(lines[2].contains("  chat         certificates  4       website-cert-expiring of "), "{left}");
    assert!(lines[2].ends_with(" and 1 more"), "{left}");
    assert_eq!(lines[3], "--- not sent yet: messages that wait for the limits: 1 at team");
}

#[tokio::test]
async fn a_test_message_tells_how_it_fared() {
    let mut chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = scene(&chat);
    let said: Value = serde_json::from_str(&scene.cli_ok(&["send-test", "chat", "--json"]).await).unwrap();
    assert_eq!((&said["outcome"], &said["status"]), (&json!("delivered"), &json!(200)));
    assert!(chat.request().await.json()["text"].as_str().unwrap().starts_with("TEST · "));

    chat.then(Reply::text(503, "busy"));
    let output = scene.cli(&["send-test", "chat"]).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("503") && said.contains("try again later"), "{said}");
    chat.request().await;
}

#[tokio::test]
async fn what_cannot_be_reached_is_named() {
    let chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = scene(&chat);
    let missing = scene.rules().with_file_name("no-such.json").to_str().unwrap().to_owned();
    let cases: [(&[&str], &str); 4] = [
        (&["dead", "list"], "no relay has used it yet"),
        (&["explain", "--event", &missing], "no-such.json: cannot be read"),
        (&["status"], "not a directory"),
        (&["run"], "give a state directory that this user may write"),
    ];
    for (at, (arguments, expected)) in cases.into_iter().enumerate() {
        if at == 2 {
            std::fs::write(scene.state(), "a file where a directory should be").unwrap();
        }
        let output = scene.cli(arguments).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {said}");
        let told = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(told.contains(expected), "{arguments:?}: {said}");
    }
}
