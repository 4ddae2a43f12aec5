//! Secrets are in none of the places where people look: logs at debug level, status, metrics, dead letters, the store.

use serde_json::json;

use crate::event_api::{self, EventApi};
use crate::http::{FakeHttp, Reply};
use crate::smtp::{FakeSmtp, Options, Protection};
use crate::support::{Scene, TOKEN, event};

const SLACK: &str = "slack-secret-5d2e";
const TEAMS: &str = "teams-secret-77aa";
const PASSWORD: &str = "mail-secret-31c9";
const PATH: &str = "soar-secret-90fe";
const SIGNING: &str = "whsec_c2lnbmluZy1zZWNyZXQtMTIzNDU2Nzg5MC1hYmNk";

#[tokio::test]
async fn no_secret_is_anywhere() {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(FakeHttp::start(Reply::text(500, "internal error")).await);
    }
    let mut mail = FakeSmtp::start(Options::new(Protection::None)).await;
    let api = EventApi::start(vec![event(1, "issue-add")]).await;
    // Ways of failing that have words of their own, on each channel; the last of them ends the attempts.
    for server in &servers {
        server.then(Reply::Reset);
    }
    let [chat, team, soar] = &servers[..] else { panic!("three servers were started") };
    chat.then(Reply::text(404, "no_service"));
    team.then(Reply::text(302, "").with("location", "/elsewhere"));
    soar.then(Reply::text(404, "no_service"));
    let scene = Scene::new(&format!(
        "sources:
  halo: {{ type: halo, base_url: '{}', api_key: {{ env: KEY }}, every: 1s, first_run: all }}
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: {{ env: SLACK }} }}
  team: {{ type: teams, url: {{ env: TEAMS }} }}
  soar: {{ type: webhook, url: {{ env: SOAR }}, secret: {{ env: SIGNING }} }}
  mail: {{ type: email, smtp: {{ host: 127.0.0.1, port: {}, tls: none, username: relay, password: {{ env: PASSWORD }} }}, from: relay@example.org, to: [ops@example.org] }}
  gone: {{ type: slack, url: {{ env: GONE }} }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [chat, team, soar, mail, gone] }}
unrouted: {{ drop: nothing else is expected }}
",
        api.base_url(),
        mail.port(),
    ))
    .with("KEY", event_api::KEY)
    .with("SLACK", chat.url(&format!("/services/T0/B0/{SLACK}")))
    .with("TEAMS", team.url(&format!("/workflows/1/triggers/manual/paths/invoke?sig={TEAMS}")))
    .with("SOAR", soar.url(&format!("/{PATH}")))
    .with("GONE", format!("http://127.0.0.1:{}/services/T0/B0/{SLACK}", crate::support::free_port()))
    .with("PASSWORD", PASSWORD)
    .with("SIGNING", SIGNING);
    let relay = scene.start().await;
    relay.accept(&json!([event(2, "issue-add"), event(3, "website-cert-expiring")])).await;
    relay.logs("refuses messages").await;
    relay.logs("to mail").await;
    relay.logs("to gone").await;
    for server in &mut servers {
        for _ in 0..2 {
            server.request().await;
        }
    }

    let mut looked_at = vec![
        ("log", relay.log()),
        ("status", relay.get("/api/v1/status").await),
        ("status as people see it", scene.cli_ok(&["status"]).await),
        ("metrics", relay.get("/metrics").await),
        ("dead letters", scene.cli_ok(&["dead", "list", "--json"]).await),
        ("log of events", scene.cli_ok(&["log", "--json"]).await),
        ("one event", scene.cli_ok(&["explain", "event-2"]).await),
        ("audit", scene.cli_ok(&["audit", "--json"]).await),
        ("check", scene.cli_ok(&["check"]).await),
        ("explain", scene.cli_ok(&["explain", "--key", "issue-add"]).await),
    ];
    relay.kill();
    for entry in std::fs::read_dir(scene.state()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            looked_at
                .push(("the state directory", String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()));
        }
    }
    let signing_bytes = "signing-secret-1234567890-abcd";
    for (place, text) in &looked_at {
        for secret in [SLACK, TEAMS, PASSWORD, PATH, SIGNING, signing_bytes, TOKEN, event_api::KEY] {
            assert!(!text.contains(secret), "{secret} is in {place}:\n{text}");
        }
    }
    assert!(looked_at.len() >= 12, "the store was not looked at");
    for server in &mut servers {
        while server.try_request().is_some() {}
    }
    while mail.try_mail().is_some() {}
}
