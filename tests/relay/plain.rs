//! A message that cannot be made, or that its channel refuses, goes out as the small plain one: nobody stays untold.

use std::path::Path;

use mail_parser::MessageParser;
use serde_json::Value;

use crate::http::{FakeHttp, Reply};
use crate::smtp::{Act, FakeSmtp, Mail, Options, Protection};
use crate::support::{Scene, event};

/// One destination of each channel, and a second mail server.
struct Channels {
    slack: FakeHttp,
    teams: FakeHttp,
    soar: FakeHttp,
    mail: FakeSmtp,
    other: FakeSmtp,
}

const NAMES: [&str; 5] = ["chat", "team", "soar", "mail", "other"];

impl Channels {
    async fn start(mail: Options, other: Options) -> Self {
        Self {
            slack: FakeHttp::start(Reply::text(200, "ok")).await,
            teams: FakeHttp::start(Reply::status(202)).await,
            soar: FakeHttp::start(Reply::status(204)).await,
            mail: FakeSmtp::start(mail).await,
            other: FakeSmtp::start(other).await,
        }
    }

    fn scene(&self, more: &str) -> Scene {
        let mail = |server: &FakeSmtp| {
            let port = server.port();
            format!(
                "type: email, smtp: {{ host: 127.0.0.1, port: {port}, tls: none }}, from: relay@example.org, to: [ops@example.org]"
            )
        };
        let (slack, teams, soar) =
            (self.slack.url("/services/T0/B0/x"), self.teams.url("/x?sig=x"), self.soar.url("/x"));
        Scene::new(&format!(
            "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{slack}' }}
  team: {{ type: teams, url: {{ env: TEAMS }} }}
  soar: {{ type: webhook, url: '{soar}' }}
  mail: {{ {} }}
  other: {{ {} }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [chat, team, soar, mail, other] }}
unrouted: {{ drop: nothing else is expected }}
{more}",
            mail(&self.mail),
            mail(&self.other),
        ))
        .with("TEAMS", teams)
    }
}

/// Subject, text, and whether there is HTML.
fn read(mail: &Mail) -> (String, String, bool) {
    let parsed = MessageParser::default().parse(&mail.data).unwrap();
    let html = parsed.parts.iter().any(|part| matches!(part.body, mail_parser::PartType::Html(_)));
    (parsed.subject().unwrap().to_owned(), parsed.body_text(0).unwrap().into_owned(), html)
}

fn says_host(document: &Value, host: &str) {
    assert!(document.to_string().contains(host), "{document:#}");
}

#[tokio::test]
async fn refused_content_goes_out_plain() {
    let refusing = |reply| Options::new(Protection::None).on(".", Act::SayFirst(reply));
    let too_large = refusing("552 5.3.4 Message size exceeds fixed limit");
    let malformed = refusing("554 5.6.0 Message is malformed");
    let mut channels = Channels::start(too_large, malformed).await;
    channels.slack.then(Reply::text(400, "invalid_blocks"));
    channels.teams.then(Reply::text(413, "Request Entity Too Large"));
    channels.soar.then(Reply::status(413));
    let scene = channels.scene("");
    let relay = scene.start().await;
    relay.accept(&event(1, "issue-add")).await;

    for server in [&mut channels.slack, &mut channels.teams, &mut channels.soar] {
        let (full, plain) = (server.request().await.json(), server.request().await.json());
        assert!(plain.to_string().len() < full.to_string().len(), "{plain:#}");
        says_host(&plain, "host-1.example.org");
    }
    for server in [&mut channels.mail, &mut channels.other] {
        // The one that was refused never became a mail.
        let (subject, text, html) = read(&server.mail().await);
        assert!(subject.contains("host-1.example.org") && text.contains("host-1.example.org"), "{subject} {text}");
        assert!(!html);
        assert_eq!(server.commands().iter().filter(|command| *command == ".").count(), 2);
    }
    relay.idle().await;
    let metrics = relay.get("/metrics").await;
    for name in NAMES {
        let line = format!("halo_relay_plain_messages_total{{destination=\"{name}\",cause=\"refused\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    assert_eq!(scene.cli_ok(&["dead", "list"]).await, "no dead letters\n");
    relay.stop().await;
}

/// Fine on all that `check` tries them with, which is every known kind of event, and wrong on another.
fn write_templates(directory: &Path) {
    let oops = "{{#if (eq event.key \"unheard-of\")}}, \"oops\": {{/if}}}";
    let large = "{{#if (eq event.key \"unheard-of\")}}".to_owned() + &"{{event.fields.note}}".repeat(400) + "{{/if}}";
    for (file, text) in [
        ("slack/default.hbs", format!("{{\"text\": \"own: {{{{headline}}}}\"{oops}")),
        (
            "teams/default.hbs",
            format!(
                "{{\"type\": \"AdaptiveCard\", \"version\": \"1.4\", \"fallbackText\": \"own: {{{{headline}}}}\", \"body\": []{oops}"
            ),
        ),
        ("webhook/default.hbs", format!("{{\"own\": \"{{{{headline}}}}\"{oops}")),
        ("email/default.subject.hbs", "own: {{headline}}".to_owned()),
        ("email/default.text.hbs", format!("own: {{{{headline}}}} {large}")),
        ("email/default.html.hbs", format!("<p>own: {{{{headline}}}} {large}</p>")),
    ] {
        let path = directory.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[tokio::test]
async fn what_a_template_cannot_render_goes_out_plain() {
    let usual = || Options::new(Protection::None);
    let mut channels = Channels::start(usual(), usual()).await;
    let scene = channels.scene("templates_dir: templates\n");
    write_templates(&scene.rules().with_file_name("templates"));
    scene.cli_ok(&["check"]).await;
    let relay = scene.start().await;

    // The templates are in use.
    relay.accept(&event(1, "domain-add")).await;
    for server in [&mut channels.slack, &mut channels.teams, &mut channels.soar] {
        let body = server.request().await.json();
        assert!(body.to_string().contains("own: ") || body["own"].is_string(), "{body:#}");
    }
    for server in [&mut channels.mail, &mut channels.other] {
        assert!(read(&server.mail().await).0.starts_with("own: "));
    }

    let mut broken = event(2, "unheard-of");
    broken["note"] = "x".repeat(20_000).into();
    relay.accept(&broken).await;
    for server in [&mut channels.slack, &mut channels.teams, &mut channels.soar] {
        let body = server.request().await.json();
        assert!(!body.to_string().contains("own: ") && body.get("own").is_none(), "{body:#}");
        says_host(&body, "host-2.example.org");
    }
    for server in [&mut channels.mail, &mut channels.other] {
        let (subject, text, html) = read(&server.mail().await);
        assert!(subject.contains("host-2.example.org") && text.contains("host-2.example.org"), "{subject} {text}");
        assert!(!subject.starts_with("own: ") && !html);
    }
    relay.idle().await;
    let metrics = relay.get("/metrics").await;
    for name in NAMES {
        let line = format!("halo_relay_plain_messages_total{{destination=\"{name}\",cause=\"render\"}} 1");
        assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    }
    relay.stop().await;
}
