//! Messages of one target in one Slack thread, also over a kill, and when the thread is gone; and mails that belong together.

use std::time::Duration;

use serde_json::{Value, json};

use crate::http::{FakeHttp, Reply, Request};
use crate::smtp::{FakeSmtp, Mail, Options, Protection};
use crate::support::{Scene, event, slack_id};

fn rules(slack: &FakeHttp, channel: &str) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, token: {{ env: BOT }}, channel: '{channel}', base_url: '{}', mention: here }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: urgent, when: {{ key: issue-add }}, severity: high, send: [chat], thread_by: [target], mention: [U0123ABCD] }}
  - {{ name: gathered, when: {{ key: issue-close }}, send: [chat], thread_by: [target], batch: {{ wait: 1s }} }}
  - {{ name: alone, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        slack.url("/api")
    )
}

/// A bot API; what it answers is for each story to say.
async fn slack() -> FakeHttp {
    FakeHttp::start(Reply::status(500)).await
}

fn posted(number: u32) -> Reply {
    let body =
        json!({"ok": true, "channel": "C0123", "ts": format!("17000000{number:02}.000100"), "message": {"text": "x"}});
    Reply::text(200, &body.to_string())
}

fn about(id: u32, key: &str, target: &str) -> Value {
    let mut record = event(id, key);
    record["target"] = target.into();
    record
}

fn parent(request: &Request) -> Option<String> {
    request.json()["thread_ts"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn later_messages_of_a_target_answer_its_first() {
    let mut slack = slack().await;
    let scene = Scene::new(&rules(&slack, "#security")).with("BOT", "xoxb-token");
    let relay = scene.start().await;
    let mut next = 0;
    let mut script = |slack: &FakeHttp| {
        next += 1;
        slack.then(posted(next));
    };
    for (id, target) in [(1, "a.example.org"), (2, "a.example.org"), (3, "b.example.org")] {
        script(&slack);
        relay.accept(&about(id, "issue-add", target)).await;
    }
    let [first, second, third] = [slack.request().await, slack.request().await, slack.request().await];
    assert_eq!(first.target, "/api/chat.postMessage");
    assert_eq!((parent(&first), first.json()["channel"].as_str()), (None, Some("#security")));
    assert_eq!(parent(&second).as_deref(), Some("1700000001.000100"));
    assert_eq!(second.json()["channel"], "C0123", "an answer goes to where its thread is");
    assert_eq!(parent(&third), None, "another target, another thread");
    assert!(first.json()["blocks"][1]["text"]["text"] == "<@U0123ABCD>", "{:#}", first.json());

    // The plug is pulled: the thread is on disk.
    relay.idle().await;
    relay.kill();
    let relay = scene.start().await;
    script(&slack);
    relay.accept(&about(4, "issue-add", "a.example.org")).await;
    let fourth = slack.request().await;
    assert_eq!(parent(&fourth).as_deref(), Some("1700000001.000100"));

    // Another rule's threads are its own, a digest of one target has one, and a rule without threads none.
    script(&slack);
    relay.accept(&json!([about(5, "issue-close", "a.example.org"), about(6, "issue-close", "a.example.org")])).await;
    let digest = slack.request().await;
    assert_eq!(parent(&digest), None);
    assert!(digest.json()["blocks"][1]["text"]["text"] == "<!here>", "the destination's own: {:#}", digest.json());
    script(&slack);
    relay.accept(&json!([about(7, "issue-close", "a.example.org"), about(8, "issue-close", "a.example.org")])).await;
    assert_eq!(parent(&slack.request().await).as_deref(), Some("1700000005.000100"));
    script(&slack);
    relay.accept(&json!([about(9, "issue-close", "a.example.org"), about(10, "issue-close", "b.example.org")])).await;
    assert_eq!(parent(&slack.request().await), None, "events of two threads");
    script(&slack);
    relay.accept(&about(11, "target-add", "a.example.org")).await;
    assert_eq!(parent(&slack.request().await), None);

    // A destination that moves to another channel begins anew there.
    relay.idle().await;
    scene.write_rules(&rules(&slack, "#other"));
    relay.signal("HUP");
    relay.logs("reloaded").await;
    script(&slack);
    relay.accept(&about(12, "issue-add", "a.example.org")).await;
    let moved = slack.request().await;
    assert_eq!((parent(&moved), moved.json()["channel"].as_str()), (None, Some("#other")));
    relay.idle().await;
    assert!(scene.cli_ok(&["audit"]).await.contains("balanced"));
    relay.stop().await;
}

#[tokio::test]
async fn a_thread_that_is_gone_is_begun_anew() {
    let mut slack = slack().await;
    let scene = Scene::new(&rules(&slack, "C0123")).with("BOT", "xoxb-token");
    let relay = scene.start().await;
    slack.then(posted(1));
    relay.accept(&about(1, "issue-add", "a.example.org")).await;
    slack.request().await;
    relay.idle().await;

    slack.then(Reply::text(200, r#"{"ok":false,"error":"message_not_found"}"#));
    slack.then(posted(2));
    relay.accept(&about(2, "issue-add", "a.example.org")).await;
    let (refused, again) = (slack.request().await, slack.request().await);
    assert_eq!((parent(&refused).as_deref(), parent(&again)), (Some("1700000001.000100"), None));
    assert_eq!(slack_id(&refused.json()), slack_id(&again.json()), "the whole message, not the plain one");
    assert!(again.at - refused.at < Duration::from_secs(30));
    slack.then(posted(3));
    relay.accept(&about(3, "issue-add", "a.example.org")).await;
    assert_eq!(parent(&slack.request().await).as_deref(), Some("1700000002.000100"));
    relay.idle().await;
    let status = scene.cli_ok(&["status"]).await;
    assert!(!status.contains("REFUSING"), "{status}");
    assert!(scene.cli_ok(&["explain", "event-2"]).await.contains("message_not_found"));
    relay.stop().await;

    // What a command shows; and a test calls nobody and belongs nowhere.
    let shown = scene.cli_ok(&["render", "--key", "issue-add", "--to", "chat"]).await;
    assert!(shown.contains("<@U0123ABCD>") && !shown.contains("<!here>"), "{shown}");
    assert!(scene.cli_ok(&["render", "--key", "target-add", "--to", "chat"]).await.contains("<!here>"));
    let explained = scene.cli_ok(&["explain", "--key", "issue-add"]).await;
    assert!(explained.contains("chat: in a thread by target; calls U0123ABCD"), "{explained}");
    slack.then(posted(4));
    scene.cli_ok(&["send-test", "chat", "--key", "issue-add"]).await;
    let test = slack.request().await;
    assert!(parent(&test).is_none() && !test.json().to_string().contains("<@"), "{:#}", test.json());
}

/// Killed between the message and its record, the relay knows of no thread: the message comes again, and begins one.
#[tokio::test]
async fn a_handle_that_was_lost_costs_a_thread_and_no_message() {
    let mut slack = slack().await;
    let scene = Scene::new(&rules(&slack, "C0123")).with("BOT", "xoxb-token");
    let relay = scene.start().await;
    slack.then(Reply::Silence);
    relay.accept(&about(1, "issue-add", "a.example.org")).await;
    let unanswered = slack.request().await;
    relay.kill();
    slack.then(posted(1));
    let relay = scene.start().await;
    let repeat = slack.request().await;
    assert_eq!((slack_id(&unanswered.json()), parent(&repeat)), (slack_id(&repeat.json()), None));
    relay.idle().await;
    slack.then(posted(2));
    relay.accept(&about(2, "issue-add", "a.example.org")).await;
    assert_eq!(parent(&slack.request().await).as_deref(), Some("1700000001.000100"));
    relay.idle().await;
    relay.stop().await;
}

/// A mail's subject, and the root that it answers.
fn subject_and_root(mail: &Mail) -> (String, Option<String>) {
    let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
    let (references, answers) = (parsed.references().as_text(), parsed.in_reply_to().as_text());
    assert_eq!(references, answers);
    (parsed.subject().unwrap().to_owned(), references.map(str::to_owned))
}

#[tokio::test]
async fn mails_of_a_target_have_one_root_and_one_subject() {
    let mut server = FakeSmtp::start(Options::new(Protection::None)).await;
    let scene = Scene::new(&format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  mail: {{ type: email, smtp: {{ host: 127.0.0.1, port: {}, tls: none }}, from: relay@example.org, to: [ops@example.org] }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: together, when: {{ key: website-cert-expiring }}, severity: high, send: [mail], thread_by: [target] }}
  - {{ name: alone, when: {{ key: '*' }}, send: [mail] }}
unrouted: {{ drop: nothing else is expected }}
",
        server.port()
    ));
    let relay = scene.start().await;
    let mut seen = Vec::new();
    for (id, target, days) in [(1, "a.example.org", 7), (2, "a.example.org", 6), (3, "b.example.org", 6)] {
        let mut record = about(id, "website-cert-expiring", target);
        record["expires_in_days"] = days.into();
        relay.accept(&record).await;
        seen.push(subject_and_root(&server.mail().await));
    }
    assert_eq!(seen[0].0, "HIGH · SSL certificate expiring · a.example.org");
    assert_eq!(seen[0], seen[1]);
    let root = |at: usize| seen[at].1.as_deref().unwrap();
    assert!(root(0).starts_with("thread-") && root(0).ends_with("@example.org"), "{}", root(0));
    assert_ne!(root(0), root(2), "another target, another thread");
    relay.accept(&about(4, "target-add", "a.example.org")).await;
    assert_eq!(subject_and_root(&server.mail().await).1, None, "a rule without threads");
    relay.idle().await;
    relay.stop().await;
}
