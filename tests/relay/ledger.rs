//! Every event is accounted for: in the log, under its id, and by the audit, whatever happened to the relay or its store.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::http::{FakeHttp, Reply};
use crate::support::{PATIENCE, Relay, Scene, event};

fn rules(chat: &FakeHttp, team: &FakeHttp) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}', limit: 2/1s, digest_after: 1s }}
  team: {{ type: teams, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: certificates, when: {{ key: 'website-cert-*' }}, send: [team], batch: {{ by: [target], wait: 1s }}, stop: true }}
  - {{ name: scans, when: {{ key: '*-scan-*' }}, drop: scans are on the dashboard }}
  - {{ name: rest, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        chat.url("/services/T0/B0/x"),
        team.url("/workflows/1/triggers/manual/paths/invoke?sig=x"),
    )
}

/// Nothing is owed, and no batch gathers.
async fn settled(relay: &Relay) {
    let started = std::time::Instant::now();
    loop {
        let status = relay.status().await;
        let counts = status["deliveries"].as_array().unwrap();
        let waits = |counts: &Value| ["ready", "sending", "held"].iter().any(|state| counts[*state] != json!(0));
        if !counts.iter().any(waits) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "still waits: {status:#}\n{}", relay.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn json_of(scene: &Scene, arguments: &[&str]) -> Value {
    serde_json::from_str(&scene.cli_ok(arguments).await).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value:#}")).to_owned()
}

/// Reads everything that came, so that the servers are content.
fn drain(servers: &mut [&mut FakeHttp]) -> usize {
    servers.iter_mut().map(|server| std::iter::from_fn(|| server.try_request()).count()).sum()
}

#[tokio::test]
async fn every_event_of_a_batch_and_of_a_rush_is_found() {
    let mut chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let mut team = FakeHttp::start(Reply::status(202)).await;
    let scene = Scene::new(&rules(&chat, &team));
    let relay = scene.start().await;
    let mut certificates: Vec<_> = (0..5).map(|n| event(n, "website-cert-expiring")).collect();
    for record in &mut certificates {
        record["target"] = "www.example.org".into();
    }
    relay.accept(&json!(certificates)).await;
    let rush: Vec<_> = (100..140).map(|n| event(n, "target-add")).collect();
    relay.accept(&json!(rush)).await;
    relay.accept(&event(200, "target-scan-finish")).await;
    assert!(scene.cli_ok(&["audit"]).await.contains("balanced: 46 events"), "while it works");
    settled(&relay).await;
    assert_eq!(team.request().await.json()["type"], "message");
    let sent = drain(&mut [&mut chat]);
    assert!(sent < 40, "a rush of 40 events made {sent} messages");

    // Each event has its line, and what is folded names a digest that was delivered.
    let log = json_of(&scene, &["log", "--json", "--limit", "1000"]).await;
    let mut lines: BTreeMap<String, &Value> = BTreeMap::new();
    let mut digests = BTreeSet::new();
    for line in log.as_array().unwrap() {
        if line["kind"] == "event" {
            assert!(lines.insert(text(&line["event_id"]), line).is_none(), "twice: {line:#}");
        }
        if line["state"] == "folded" {
            assert_eq!(line["digest_state"], "delivered", "{line:#}");
            digests.insert(text(&line["digest"]));
        }
    }
    let all: BTreeSet<_> = (0..5).chain(100..140).chain([200]).map(|n| format!("event-{n}")).collect();
    assert_eq!(lines.keys().cloned().collect::<BTreeSet<_>>(), all);
    assert_eq!(lines["event-200"]["state"], "suppressed");
    assert_eq!((&lines["event-0"]["state"], &lines["event-139"]["state"]), (&json!("folded"), &json!("folded")));
    assert!(digests.len() >= 2, "a batch, and what was over the limit: {digests:?}");

    // What the digests list is what is folded, and each event leads to its digest.
    let mut listed = BTreeSet::new();
    for code in &digests {
        let told = json_of(&scene, &["explain", code, "--json"]).await;
        assert_eq!(told["delivery"]["events"], json!(told["members"].as_array().unwrap().len()), "{told:#}");
        for member in told["members"].as_array().unwrap() {
            assert!(listed.insert(text(&member["event_id"])), "in two digests: {member:#}");
        }
        let said = scene.cli_ok(&["explain", code]).await;
        assert!(said.contains("a digest") && said.contains("delivered"), "{said}");
    }
    let folded = lines.iter().filter(|(_, line)| line["state"] == "folded").map(|(id, _)| id.clone());
    assert_eq!(folded.collect::<BTreeSet<_>>(), listed);
    let said = scene.cli_ok(&["explain", "event-0"]).await;
    assert!(said.contains("told by digest") && said.contains("of 5 events, delivered"), "{said}");
    assert!(said.contains("by the rules as they are now") && said.contains("gathered by target"), "{said}");
    let said = scene.cli_ok(&["explain", "event-200"]).await;
    assert!(said.contains("suppressed by rule scans: scans are on the dashboard"), "{said}");
    let output = scene.cli(&["explain", "event-999"]).await;
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("never seen an event \"event-999\""));

    let shown = scene.cli_ok(&["status"]).await;
    assert!(shown.contains("limits 2/1s; over that for 1s, part of a digest"), "{shown}");
    let audit = json_of(&scene, &["audit", "--json"]).await;
    assert_eq!((&audit["events"], &audit["owed"], &audit["imbalance"]), (&json!(46), &json!(45), &json!(0)));
    relay.stop().await;
    let line = scene.cli_ok(&["log", "--event", "event-0"]).await;
    assert!(line.contains("folded into") && line.contains("delivered"), "offline too: {line}");
    assert!(scene.cli_ok(&["audit"]).await.contains("balanced: 46 events"));
}

#[tokio::test]
async fn the_audit_balances_while_it_runs_after_a_kill_and_after_the_restart() {
    let mut chat = FakeHttp::start(Reply::Silence).await;
    let mut team = FakeHttp::start(Reply::status(202)).await;
    let scene = Scene::new(&rules(&chat, &team));
    let output = scene.cli(&["audit"]).await;
    assert_eq!(output.status.code(), Some(4), "there is no store yet");
    let relay = scene.start().await;
    let some: Vec<_> =
        (0..20).map(|n| event(n, if n % 2 == 0 { "target-add" } else { "website-cert-expired" })).collect();
    relay.accept(&json!(some)).await;
    chat.request().await;
    assert!(scene.cli_ok(&["audit"]).await.contains("balanced: 20 events"));
    relay.kill();

    // It only looks: what was under way is told, and left to the next start, however often one looks.
    let boot = || {
        let store = Connection::open(scene.state().join("relay.db")).unwrap();
        store.query_row("SELECT value FROM meta WHERE name = 'boot'", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    for _ in 0..3 {
        let said = scene.cli_ok(&["audit"]).await;
        assert!(said.contains("balanced: 20 events") && said.contains("under way when the relay ended"), "{said}");
        scene.cli_ok(&["status"]).await;
        scene.cli_ok(&["log"]).await;
    }
    assert_eq!(boot(), 1);

    let mut chat = {
        drain(&mut [&mut chat]);
        FakeHttp::start(Reply::text(200, "ok")).await
    };
    scene.write_rules(&rules(&chat, &team));
    let relay = scene.start().await;
    settled(&relay).await;
    let said = scene.cli_ok(&["audit", "--since", "1h"]).await;
    assert!(said.contains("balanced: 20 events") && !said.contains("under way"), "{said}");
    relay.stop().await;
    assert!(scene.cli_ok(&["audit"]).await.contains("balanced: 20 events"));
    assert!(drain(&mut [&mut chat, &mut team]) > 0);
}

#[tokio::test]
async fn a_restart_makes_no_audit_look_better_or_older_than_it_was() {
    let chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let team = FakeHttp::start(Reply::status(202)).await;
    let scene = Scene::new(&rules(&chat, &team));
    let samples = |metrics: &str| {
        let of_audits = metrics.lines().filter(|line| line.starts_with("halo_relay_audit_"));
        of_audits.map(str::to_owned).collect::<Vec<_>>()
    };
    let relay = scene.start().await;
    assert_eq!(samples(&relay.get("/metrics").await), [""; 0], "a new store was never audited");
    relay.stop().await;

    // As the daily audit keeps it.
    let store = Connection::open(scene.state().join("relay.db")).unwrap();
    store.execute("INSERT INTO meta VALUES ('audited_at', 1700000000500), ('audit_imbalance', 3)", []).unwrap();
    drop(store);
    let relay = scene.start().await;
    let started = std::time::Instant::now();
    let expected = ["halo_relay_audit_imbalance 3", "halo_relay_audit_last_success_timestamp_seconds 1700000000.5"];
    loop {
        let found = samples(&relay.get("/metrics").await);
        if found == expected {
            break;
        }
        assert!(found.len() < 2 && started.elapsed() < PATIENCE, "{found:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    relay.stop().await;
}

#[tokio::test]
async fn what_was_taken_from_the_store_is_named() {
    let mut chat = FakeHttp::start(Reply::text(200, "ok")).await;
    let team = FakeHttp::start(Reply::status(202)).await;
    let scene = Scene::new(&rules(&chat, &team));
    let relay = scene.start().await;
    let some: Vec<_> = (1..=3).map(|n| event(n, "target-add")).collect();
    relay.accept(&json!(some)).await;
    settled(&relay).await;
    relay.stop().await;
    drain(&mut [&mut chat]);
    let of = |id: usize| format!("WHERE event = (SELECT id FROM event WHERE event_id = 'event-{id}')");
    let bends = [
        (1, format!("DELETE FROM delivery {}", of(1)), "owes 1 deliveries, and has 0"),
        (2, format!("UPDATE delivery SET state = 3 {}", of(2)), "no reason is on record"),
        (3, "DELETE FROM event WHERE event_id = 'event-3'".to_owned(), "and is not in the store"),
    ];
    for (id, bend, what) in bends {
        let store = Connection::open(scene.state().join("relay.db")).unwrap();
        store.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        assert_eq!(store.execute(&bend, []).unwrap(), 1);
        drop(store);
        let output = scene.cli(&["audit"]).await;
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.lines().any(|line| line.contains(&format!("event event-{id}")) && line.contains(what)), "{said}");
        assert!(!said.contains("balanced"), "{said}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("does not balance"));
    }
}
