//! One event over all four channels: what each receiver gets, whole and signed.

use halo_relay::deliver::webhook::SigningKey;
use halo_relay::model::Secret;

use crate::http::{FakeHttp, Reply};
use crate::smtp::{FakeSmtp, Options, Protection};
use crate::support::{Scene, event, slack_host};

const SIGNING: &str = "whsec_c2lnbmluZy1zZWNyZXQtMTIzNDU2Nzg5MC1hYmNk";

fn rules(mail: &FakeSmtp) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: {{ env: SLACK }} }}
  team: {{ type: teams, url: {{ env: TEAMS }} }}
  soar: {{ type: webhook, url: {{ env: SOAR }}, secret: {{ env: SIGNING }} }}
  mail: {{ type: email, smtp: {{ host: 127.0.0.1, port: {}, tls: none }}, from: relay@example.org, to: [ops@example.org] }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: certificates, when: {{ key: 'website-cert-*', target: '*.example.org' }}, severity: high, send: [chat, team, soar, mail],
      runbook: https://wiki.example.org/certificates }}
  - {{ name: scans, when: {{ key: '*-scan-*' }}, drop: scans are on the dashboard }}
unrouted: {{ send: [soar] }}
",
        mail.port()
    )
}

#[tokio::test]
async fn one_event_on_all_four() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let mut teams = FakeHttp::start(Reply::status(202)).await;
    let mut soar = FakeHttp::start(Reply::status(204)).await;
    let mut mail = FakeSmtp::start(Options::new(Protection::None)).await;
    let scene = Scene::new(&rules(&mail))
        .with("SLACK", slack.url("/services/T0/B0/x"))
        .with("TEAMS", teams.url("/workflows/1/triggers/manual/paths/invoke?sig=x"))
        .with("SOAR", soar.url("/events"))
        .with("SIGNING", SIGNING);
    let relay = scene.start().await;
    let mut record = event(1, "website-cert-expiring");
    record["expires_in_days"] = 7.into();
    relay.accept(&record).await;

    let headline = "HIGH · SSL certificate expiring · host-1.example.org · 7 days";
    let slack_says = slack.request().await.json();
    assert!(slack_says["text"].as_str().unwrap().contains(headline), "{slack_says:#}");
    assert_eq!(slack_host(&slack_says), "host-1.example.org");
    let teams_says = teams.request().await.json();
    assert_eq!(teams_says["attachments"][0]["contentType"], "application/vnd.microsoft.card.adaptive");
    let card = teams_says.to_string();
    assert!(
        card.contains("SSL certificate expiring") && card.contains("https://wiki.example.org/certificates"),
        "{card}"
    );

    let soar_got = soar.request().await;
    let (id, at) = (soar_got.header("webhook-id").unwrap(), soar_got.header("webhook-timestamp").unwrap());
    let key = SigningKey::parse(&Secret::new(SIGNING)).unwrap();
    assert_eq!(soar_got.header("webhook-signature").unwrap(), key.sign(id, at.parse().unwrap(), &soar_got.body));
    assert_eq!(soar_got.json()["type"], "website-cert-expiring");
    assert!(soar_got.json().to_string().contains("event-1"));

    let got = mail.mail().await;
    assert_eq!(
        (got.from.as_str(), got.to.as_slice()),
        ("relay@example.org", ["ops@example.org".to_owned()].as_slice())
    );
    let parsed = mail_parser::MessageParser::default().parse(&got.data).unwrap();
    assert!(parsed.subject().unwrap().contains(headline), "{:?}", parsed.subject());
    assert!(parsed.message_id().unwrap().starts_with("hr_"));
    assert_eq!((parsed.text_body_count(), parsed.html_body_count()), (1, 1));

    // Dropped, and unrouted.
    relay.accept(&event(2, "target-scan-finish")).await;
    relay.accept(&event(3, "unheard-of")).await;
    assert_eq!(soar.request().await.json()["type"], "unheard-of");
    relay.idle().await;
    let metrics = relay.get("/metrics").await;
    for line in [
        "halo_relay_events_total{source=\"push\",result=\"new\"} 3",
        "halo_relay_events_dropped_total{rule=\"scans\"} 1",
        "halo_relay_events_unrouted_total 1",
        "halo_relay_deliveries_queued_total{destination=\"soar\"} 2",
        "halo_relay_webhook_requests_total{source=\"push\",status=\"202\"} 3",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    relay.stop().await;
}

#[tokio::test]
async fn urgent_goes_before_old() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}', limit: 2/1s }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: urgent, when: {{ key: issue-add }}, severity: critical, send: [chat] }}
  - {{ name: rest, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        slack.url("/services/T0/B0/x")
    ));
    let relay = scene.start().await;
    let backlog: Vec<_> = (0..8).map(|n| event(n, "target-add")).collect();
    relay.accept(&backlog.into()).await;
    slack.request().await;
    relay.accept(&event(100, "issue-add")).await;
    let order = [slack.request().await, slack.request().await, slack.request().await];
    let hosts: Vec<_> = order.iter().map(|request| slack_host(&request.json())).collect();
    assert!(hosts.contains(&"host-100.example.org".to_owned()), "{hosts:?}");
    relay.kill();
    while slack.try_request().is_some() {}
}
