//! Each channel against a strict fake of its service: what goes out, and what every answer and every fault is taken for.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/http.rs"]
mod http;
#[path = "support/smtp.rs"]
mod smtp;

use std::time::Duration;

use halo_relay::deliver::{Clients, Notifier, Settings, Timeouts, email, slack, teams, webhook};
use halo_relay::model::{Content, DeliveryId, Message, Outcome, Report, Secret, Timestamp};
use http::{FakeHttp, Reply};
use serde_json::{Value, json};
use smtp::{Act, FakeSmtp, Options, Protection};

/// 2015-10-21T07:28:00Z
const NOW: Timestamp = Timestamp::from_millis(1_445_412_480_000);

fn clients() -> Clients {
    Clients::new().unwrap()
}

/// For tests in which nobody answers.
fn impatient() -> Clients {
    let short = Duration::from_millis(300);
    Clients::with_timeouts(Timeouts { http: short, smtp: short, ..Timeouts::DEFAULT }).unwrap()
}

fn message(content: Content) -> Message {
    Message { id: DeliveryId::new("k3", 255), content }
}

fn json_message() -> Message {
    message(Content::Json(json!({"text": "HIGH · certificate expiring", "blocks": [{"b": 1, "a": 2}]})))
}

fn mail_message(text: &str) -> Message {
    let html = Some(format!("<p>{text}</p>"));
    message(Content::Mail { subject: "HIGH · certificate".to_owned(), text: text.to_owned(), html })
}

/// Nothing of this may appear in a report.
fn assert_discreet(report: &Report) {
    let Report { detail, .. } = report;
    assert!(!detail.is_empty() && !detail.contains('\n') && detail.len() < 300, "{detail:?}");
    for secret in ["s3cret", "SECRET", "certificate expiring", "http://", "https://", "bob", "relay@"] {
        assert!(!detail.contains(secret), "{detail:?} shows {secret:?}");
    }
}

// ---- The HTTP channels ----

/// All four with their URL or API base at `base`, which ends without a slash.
fn http_channels(base: &str) -> [(&'static str, Settings); 4] {
    let url = Secret::new(format!("{base}/hook/s3cret?sig=s3cret"));
    let token = Secret::new("xoxb-s3cret");
    let bot = slack::Settings::Bot { token, channel: "C012".to_owned(), api_base: format!("{base}/api/") };
    [
        ("slack webhook", Settings::Slack(slack::Settings::Webhook { url: url.clone() })),
        ("slack bot", Settings::Slack(bot)),
        ("teams", Settings::Teams(teams::Settings { url: url.clone() })),
        ("webhook", Settings::Webhook(webhook::Settings { url, secret: None })),
    ]
}

async fn send(settings: &Settings, clients: &Clients, message: &Message) -> Report {
    let notifier = Notifier::new(settings, clients).unwrap();
    assert_eq!(notifier.channel(), settings.channel());
    assert!(!format!("{notifier:?}").contains("s3cret"), "{notifier:?}");
    let report = notifier.send(message, NOW).await;
    assert_discreet(&report);
    report
}

#[tokio::test]
async fn requests() {
    const COMMON: [&str; 6] = ["accept", "accept-encoding", "content-length", "content-type", "host", "user-agent"];
    let slack = json!({"text": "HIGH · certificate expiring", "blocks": [{"b": 1, "a": 2}],
        "unfurl_links": false, "unfurl_media": false});
    let mut bot = slack.clone();
    bot["channel"] = "C012".into();
    let card = json!({"type": "message", "attachments": [{
        "contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": null,
        "content": {"text": "HIGH · certificate expiring", "blocks": [{"b": 1, "a": 2}]}}]});
    let Content::Json(plain) = json_message().content else { unreachable!() };
    let expected: [(&str, &str, Value, &[&str]); 4] = [
        ("/hook/s3cret?sig=s3cret", "ok", slack, &[]),
        ("/api/chat.postMessage", r#"{"ok":true}"#, bot, &["authorization"]),
        ("/hook/s3cret?sig=s3cret", "", card, &[]),
        ("/hook/s3cret?sig=s3cret", "", plain, &["webhook-id", "webhook-timestamp"]),
    ];
    let mut fake = FakeHttp::start(Reply::status(500)).await;
    for ((name, settings), (target, answer, body, headers)) in http_channels(&fake.url("")).into_iter().zip(expected) {
        fake.then(Reply::text(200, answer));
        let report = send(&settings, &clients(), &json_message()).await;
        assert_eq!(report, Report::new(Outcome::Delivered, Some(200), "HTTP 200"), "{name}");

        let request = fake.request().await;
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", target), "{name}");
        assert_eq!(request.json(), body, "{name}");
        assert_eq!(request.header("content-type"), Some("application/json; charset=utf-8"), "{name}");
        assert_eq!(request.header("user-agent"), Some(concat!("halo-relay/", env!("CARGO_PKG_VERSION"))), "{name}");
        let mut names = [&COMMON, headers].concat();
        names.sort_unstable();
        assert_eq!(request.header_names(), names, "{name}");
        if name == "slack bot" {
            assert_eq!(request.header("authorization"), Some("Bearer xoxb-s3cret"));
        }
    }
}

#[tokio::test]
async fn webhook_requests_are_signed() {
    let mut fake = FakeHttp::start(Reply::status(204)).await;
    let secret = Secret::new("whsec_eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=");
    let key = webhook::SigningKey::parse(&secret).unwrap();
    let settings = webhook::Settings { url: Secret::new(fake.url("/s3cret")), secret: Some(secret) };
    let settings = Settings::Webhook(settings);
    let report = send(&settings, &clients(), &json_message()).await;
    assert_eq!(report.outcome, Outcome::Delivered);

    let request = fake.request().await;
    assert_eq!(request.header("webhook-id"), Some("hr_k3_ff"));
    assert_eq!(request.header("webhook-timestamp"), Some("1445412480"));
    let signature = key.sign("hr_k3_ff", 1_445_412_480, &request.body);
    assert_eq!(request.header("webhook-signature"), Some(signature.as_str()));
}

#[tokio::test]
async fn answers() {
    let wait = |seconds| Outcome::Throttled { wait: Some(Duration::from_secs(seconds)) };
    let from = |status, body| Reply::text(status, body);
    let cases = [
        ("slack webhook", from(200, "no_service"), Outcome::RefusedDestination),
        ("slack webhook", from(400, "invalid_blocks"), Outcome::RefusedContent),
        ("slack webhook", from(429, r#"{"retry_after":3,"ok":false,"error":"rate_limited"}"#), wait(3)),
        ("slack webhook", from(429, "").with("retry-after", "Wed, 21 Oct 2015 07:29:00 GMT"), wait(60)),
        ("slack webhook", from(302, "").with("location", "/elsewhere"), Outcome::RefusedDestination),
        ("slack webhook", from(503, "maintenance: SECRET"), Outcome::Transient),
        ("slack bot", from(200, r#"{"ok":false,"error":"is_archived"}"#), Outcome::RefusedDestination),
        ("slack bot", from(200, r#"{"ok":false,"error":"msg_too_long"}"#), Outcome::RefusedContent),
        ("slack bot", from(200, r#"{"ok":false,"error":"fatal_error"}"#), Outcome::Ambiguous),
        ("slack bot", from(429, r#"{"ok":false,"error":"ratelimited"}"#).with("retry-after", "30"), wait(30)),
        ("slack bot", from(307, "").with("location", "https://example.org/"), Outcome::RefusedDestination),
        ("teams", from(202, ""), Outcome::Delivered),
        ("teams", from(200, "Webhook message delivery failed with error: SECRET"), Outcome::Transient),
        ("teams", from(413, "SECRET"), Outcome::RefusedContent),
        (
            "teams",
            from(404, r#"{"error":{"code":"WorkflowNotFound","message":"SECRET"}}"#),
            Outcome::RefusedDestination,
        ),
        ("teams", from(429, "").with("retry-after", "7"), wait(7)),
        ("teams", from(301, "").with("location", "/elsewhere"), Outcome::RefusedDestination),
        ("webhook", from(201, "SECRET"), Outcome::Delivered),
        ("webhook", from(400, "SECRET"), Outcome::RefusedContent),
        ("webhook", from(410, ""), Outcome::RefusedDestination),
        (
            "webhook",
            from(502, "").with("retry-after", "0.5"),
            Outcome::Throttled { wait: Some(Duration::from_millis(500)) },
        ),
        ("webhook", from(429, "").with("retry-after", "never"), Outcome::Throttled { wait: None }),
        ("webhook", from(429, "").with("retry-after", "9999999"), wait(86_400)),
        ("webhook", from(308, "").with("location", "/elsewhere"), Outcome::RefusedDestination),
    ];
    let mut fake = FakeHttp::start(Reply::status(500)).await;
    let (channels, clients) = (http_channels(&fake.url("")), clients());
    for (name, reply, outcome) in cases {
        let (_, settings) = channels.iter().find(|(known, _)| *known == name).unwrap();
        fake.then(reply.clone());
        assert_eq!(send(settings, &clients, &json_message()).await.outcome, outcome, "{name} {reply:?}");
        fake.request().await;
        assert!(fake.try_request().is_none(), "{name} {reply:?}: sent twice");
    }
}

#[tokio::test]
async fn faults() {
    use Outcome::{Ambiguous, Delivered, RefusedDestination, Transient};
    // In the order of `http_channels`: a status is all that Teams' 202 and a webhook's 2xx need.
    let cases = [
        (Reply::Silence, [Ambiguous, Ambiguous, Ambiguous, Ambiguous]),
        (Reply::Reset, [Ambiguous, Ambiguous, Ambiguous, Ambiguous]),
        (Reply::Close, [Ambiguous, Ambiguous, Ambiguous, Ambiguous]),
        (Reply::CutBody { status: 200, body: "ok" }, [Ambiguous, Ambiguous, Ambiguous, Delivered]),
        (Reply::CutBody { status: 202, body: "" }, [Ambiguous, Ambiguous, Delivered, Delivered]),
        (
            Reply::CutBody { status: 404, body: "" },
            [RefusedDestination, RefusedDestination, RefusedDestination, RefusedDestination],
        ),
        (Reply::EndlessBody { status: 200 }, [Ambiguous, Ambiguous, Ambiguous, Delivered]),
        (Reply::EndlessBody { status: 500 }, [Transient, Transient, Transient, Transient]),
    ];
    let mut fake = FakeHttp::start(Reply::status(500)).await;
    let channels = http_channels(&fake.url(""));
    for (reply, outcomes) in cases {
        let clients = if matches!(reply, Reply::Silence) { impatient() } else { clients() };
        for ((name, settings), outcome) in channels.iter().zip(outcomes) {
            fake.then(reply.clone());
            let report = send(settings, &clients, &json_message()).await;
            assert_eq!(report.outcome, outcome, "{name} {reply:?}: {}", report.detail);
            fake.request().await;
            assert!(fake.try_request().is_none(), "{name} {reply:?}: sent twice");
        }
    }
}

#[tokio::test]
async fn nobody_there() {
    // A port that was free a moment ago, and one that does not speak TLS.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let fake = FakeHttp::start(Reply::status(200)).await;
    for base in [format!("http://{free}"), format!("https://{}", fake.address())] {
        for (name, settings) in http_channels(&base) {
            let report = send(&settings, &clients(), &json_message()).await;
            assert_eq!(report.outcome, Outcome::Transient, "{name}: {}", report.detail);
            assert!(report.detail.starts_with("cannot connect ("), "{name}: {}", report.detail);
        }
    }
}

#[tokio::test]
async fn an_idle_connection_is_used_again() {
    let mut fake = FakeHttp::start(Reply::status(204)).await;
    let (_, settings) = &http_channels(&fake.url(""))[3];
    let notifier = Notifier::new(settings, &clients()).unwrap();
    for _ in 0..2 {
        assert_eq!(notifier.send(&json_message(), NOW).await.outcome, Outcome::Delivered);
        assert_eq!(fake.request().await.connection, 0);
    }
}

#[tokio::test]
async fn content_of_the_wrong_shape_is_not_sent() {
    let fake = FakeHttp::start(Reply::status(500)).await;
    for (name, settings) in http_channels(&fake.url("")) {
        let report = send(&settings, &clients(), &mail_message("text")).await;
        assert_eq!((report.outcome, report.status), (Outcome::RefusedContent, None), "{name}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_before_sending() {
    let url = |url: &str| Settings::Teams(teams::Settings { url: Secret::new(url) });
    let secret = Some(Secret::new("s3cret"));
    let webhook = webhook::Settings { url: Secret::new("https://example.org"), secret };
    for settings in [url("s3cret"), url("ftp://example.org/s3cret"), Settings::Webhook(webhook)] {
        let error = Notifier::new(&settings, &clients()).unwrap_err().to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }
}

// ---- Email ----

fn mail_settings(fake: &FakeSmtp, tls: email::Tls) -> email::Settings {
    email::Settings {
        host: "localhost".to_owned(),
        port: fake.port(),
        tls,
        login: None,
        from: "Halo relay <relay@example.org>".parse().unwrap(),
        to: ["bob@example.org", "Bea <bea@example.org>", "bad@example.org"].map(|to| to.parse().unwrap()).into(),
        ca_file: Some(fake.ca_file()),
    }
}

async fn send_mail(settings: email::Settings, clients: &Clients, text: &str) -> Report {
    send(&Settings::Email(settings), clients, &mail_message(text)).await
}

/// Sends over a clear connection to a server with these options.
async fn clear(options: Options, clients: &Clients) -> (FakeSmtp, Report) {
    let fake = FakeSmtp::start(options).await;
    let report = send_mail(mail_settings(&fake, email::Tls::None), clients, "text").await;
    (fake, report)
}

#[tokio::test]
async fn mail_by_every_protection_and_login() {
    let cases = [
        (Protection::Implicit, email::Tls::Implicit, "AUTH PLAIN LOGIN"),
        (Protection::Implicit, email::Tls::Implicit, "AUTH XOAUTH2 LOGIN"),
        (Protection::StartTls, email::Tls::StartTls, "AUTH LOGIN PLAIN"),
        (Protection::StartTls, email::Tls::StartTls, "auth login"),
        (Protection::None, email::Tls::None, "AUTH PLAIN"),
    ];
    for (protection, tls, offer) in cases {
        let mut fake = FakeSmtp::start(Options::new(protection).login(offer, "relay", "s3cret")).await;
        let login = Some(("relay".to_owned(), Secret::new("s3cret")));
        let settings = email::Settings { login, ..mail_settings(&fake, tls) };
        let report = send_mail(settings, &clients(), "text").await;
        assert_eq!(report, Report::new(Outcome::Delivered, Some(250), "accepted for 3 of 3 recipients"), "{offer}");

        let mail = fake.mail().await;
        assert_eq!((mail.encrypted, mail.authenticated), (tls != email::Tls::None, true), "{protection:?} {offer}");
        assert_eq!(mail.from, "relay@example.org");
        assert_eq!(mail.to, ["bob@example.org", "bea@example.org", "bad@example.org"]);
        let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
        assert_eq!(parsed.message_id(), Some("hr_k3_ff@example.org"));
        assert_eq!(parsed.subject(), Some("HIGH · certificate"));
        assert_eq!(parsed.part(1).unwrap().text_contents(), Some("text"));
        assert_eq!(parsed.part(2).unwrap().text_contents(), Some("<p>text</p>"));
        assert_eq!(fake.commands().last().map(String::as_str), Some("QUIT"));
    }
}

#[tokio::test]
async fn mail_is_introduced_by_a_full_name_or_an_address() {
    let (mut fake, _) = clear(Options::new(Protection::None).extension("SIZE 100000"), &clients()).await;
    let mail = fake.mail().await;
    let lines = fake.command_lines();
    let name = lines[0].strip_prefix("EHLO ").unwrap();
    assert!(name == "[127.0.0.1]" || name == "[IPv6:::1]" || name.contains('.'), "{name}");
    assert_eq!(lines[1], format!("MAIL FROM:<relay@example.org> SIZE={}", mail.data.len()));
}

#[tokio::test]
async fn mail_is_never_sent_with_less_protection_than_asked_for() {
    let login = Some(("relay".to_owned(), Secret::new("s3cret")));
    let trusting = |settings: email::Settings| email::Settings { login: login.clone(), ..settings };

    // STARTTLS is not offered.
    let fake = FakeSmtp::start(Options::new(Protection::None).login("AUTH PLAIN", "relay", "s3cret")).await;
    let report = send_mail(trusting(mail_settings(&fake, email::Tls::StartTls)), &clients(), "text").await;
    assert_eq!(report.outcome, Outcome::RefusedDestination, "{}", report.detail);
    assert_eq!(fake.commands(), ["EHLO"]);

    // STARTTLS is refused.
    let options = Options::new(Protection::StartTls).on("STARTTLS", Act::Say("454 4.7.0 no TLS today"));
    let fake = FakeSmtp::start(options).await;
    let report = send_mail(trusting(mail_settings(&fake, email::Tls::StartTls)), &clients(), "text").await;
    assert_eq!((report.outcome, report.status), (Outcome::Transient, Some(454)));
    assert_eq!(fake.commands(), ["EHLO", "STARTTLS"]);

    // Somebody slips an answer in behind the go-ahead.
    let injected = Act::Say("220 go ahead\r\n250-mail.test\r\n250 AUTH PLAIN");
    let fake = FakeSmtp::start(Options::new(Protection::StartTls).on("STARTTLS", injected)).await;
    let report = send_mail(trusting(mail_settings(&fake, email::Tls::StartTls)), &clients(), "text").await;
    assert_eq!(report.outcome, Outcome::Transient);
    assert!(report.detail.contains("clear text behind the answer to STARTTLS"), "{}", report.detail);
    assert_eq!(fake.commands(), ["EHLO", "STARTTLS"]);

    // The certificate is of an authority not trusted, or for another host.
    let stranger = FakeSmtp::start(Options::new(Protection::Implicit)).await;
    for (protection, tls) in
        [(Protection::Implicit, email::Tls::Implicit), (Protection::StartTls, email::Tls::StartTls)]
    {
        let fake = FakeSmtp::start(Options::new(protection)).await;
        let untrusted = email::Settings { ca_file: Some(stranger.ca_file()), ..mail_settings(&fake, tls) };
        let misnamed = email::Settings { host: "127.0.0.2".to_owned(), ..mail_settings(&fake, tls) };
        for settings in [trusting(untrusted), trusting(misnamed)] {
            let host = settings.host.clone();
            let report = send_mail(settings, &clients(), "text").await;
            assert_eq!(report.outcome, Outcome::Transient, "{host} {tls:?}: {}", report.detail);
            assert!(!fake.commands().iter().any(|command| command == "AUTH" || command == "MAIL"));
        }
    }
}

#[tokio::test]
async fn logins_that_fail() {
    let cases = [
        ("AUTH PLAIN", "wrong", Outcome::RefusedDestination, Some(535)),
        ("AUTH LOGIN", "wrong", Outcome::RefusedDestination, Some(535)),
        ("AUTH XOAUTH2", "s3cret", Outcome::RefusedDestination, None),
        ("SIZE", "s3cret", Outcome::RefusedDestination, None),
    ];
    for (offer, password, outcome, status) in cases {
        let fake = FakeSmtp::start(Options::new(Protection::Implicit).login(offer, "relay", "s3cret")).await;
        let login = Some(("relay".to_owned(), Secret::new(password)));
        let settings = email::Settings { login, ..mail_settings(&fake, email::Tls::Implicit) };
        let report = send_mail(settings, &clients(), "text").await;
        assert_eq!((report.outcome, report.status), (outcome, status), "{offer}: {}", report.detail);
        assert!(!fake.commands().contains(&"MAIL".to_owned()));
    }
}

#[tokio::test]
async fn one_refused_recipient_does_not_cost_the_others_their_mail() {
    for refusal in ["550 5.1.1 <bad@example.org> unknown", "552 5.2.2 full", "452 4.2.2 full", "550 5.7.1 no relaying"]
    {
        let options = Options::new(Protection::None).on("RCPT TO:<BAD@", Act::Say(refusal));
        let (mut fake, report) = clear(options, &clients()).await;
        let detail = format!("accepted for 2 of 3 recipients; refused: b…@example.org ({})", &refusal[..9]);
        assert_eq!(report, Report::new(Outcome::Delivered, Some(250), detail));
        assert_eq!(fake.mail().await.to, ["bob@example.org", "bea@example.org"]);
    }
}

#[tokio::test]
async fn replies_and_faults() {
    use Outcome::{Ambiguous, RefusedContent, RefusedDestination, Transient};
    let throttled = Outcome::Throttled { wait: None };
    let cases = [
        ("CONNECT", Act::Say("421 4.3.2 busy"), Transient),
        ("CONNECT", Act::Say("554 no service for you"), Transient),
        ("CONNECT", Act::Say("HTTP/1.1 400 Bad Request"), Transient),
        ("CONNECT", Act::Close, Transient),
        ("CONNECT", Act::Reset, Transient),
        ("CONNECT", Act::Silence, Transient),
        ("EHLO", Act::Say("502 5.5.1 what"), Transient),
        ("EHLO", Act::Silence, Transient),
        ("MAIL", Act::Say("451 4.3.0 later"), Transient),
        ("MAIL", Act::Say("550 5.7.60 not allowed to send as relay@example.org"), RefusedDestination),
        ("MAIL", Act::Say("552 5.3.4 too large"), RefusedContent),
        ("MAIL", Act::Say("454 Throttling failure: Maximum sending rate exceeded."), throttled.clone()),
        ("MAIL", Act::Close, Transient),
        ("RCPT", Act::Say("550 5.1.1 <bob@example.org> unknown"), RefusedDestination),
        ("RCPT", Act::Say("452 4.2.2 full"), Transient),
        ("RCPT TO:<BEA", Act::Say("450 4.7.1 greylisted"), Transient),
        ("RCPT TO:<BEA", Act::Say("550 5.4.5 daily limit"), throttled.clone()),
        ("RCPT TO:<BEA", Act::Reset, Transient),
        ("DATA", Act::Say("451 4.3.0 later"), Transient),
        ("DATA", Act::Say("554 5.7.0 no"), RefusedDestination),
        ("DATA", Act::Silence, Transient),
        (".", Act::Say("451 4.3.0 later"), Transient),
        (".", Act::Say("550 5.7.1 spam: SECRET"), RefusedContent),
        (".", Act::Say("552 5.3.4 too large"), RefusedContent),
        (".", Act::Say("554 5.2.0 STOREDRV SubmissionQuotaExceededException"), throttled),
        (".", Act::Say("nonsense"), Ambiguous),
        (".", Act::Close, Ambiguous),
        (".", Act::Reset, Ambiguous),
        (".", Act::Silence, Ambiguous),
    ];
    for (command, act, outcome) in cases {
        let clients = if matches!(act, Act::Silence) { impatient() } else { clients() };
        let (mut fake, report) = clear(Options::new(Protection::None).on(command, act), &clients).await;
        assert_eq!(report.outcome, outcome, "{command} {act:?}: {}", report.detail);
        // Only what the report calls ambiguous may have been taken.
        assert_eq!(fake.try_mail().is_some(), outcome == Ambiguous && !matches!(act, Act::Say(_)), "{command} {act:?}");
    }
}

#[tokio::test]
async fn blank_lines_in_an_answer_do_no_harm() {
    let blank = Act::Say("250-\r\n250-  \r\n250 ");
    let (mut fake, report) = clear(Options::new(Protection::None).on("EHLO", blank), &clients()).await;
    assert_eq!(report.outcome, Outcome::Delivered);
    fake.mail().await;
}

#[tokio::test]
async fn a_server_that_dies_after_acceptance_changes_nothing() {
    for act in [Act::Close, Act::Reset, Act::Silence, Act::Say("500 what")] {
        let (mut fake, report) = clear(Options::new(Protection::None).on("QUIT", act), &clients()).await;
        assert_eq!(report.outcome, Outcome::Delivered, "{act:?}");
        fake.mail().await;
    }
}

#[tokio::test]
async fn a_message_over_the_servers_size_is_not_offered() {
    let (fake, report) = clear(Options::new(Protection::None).extension("SIZE 100"), &clients()).await;
    assert_eq!(report.outcome, Outcome::RefusedContent, "{}", report.detail);
    assert!(!fake.commands().contains(&"MAIL".to_owned()));
}

#[tokio::test]
async fn no_mail_server_there() {
    let fake = FakeSmtp::start(Options::new(Protection::None)).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = email::Settings { port: free.port(), ..mail_settings(&fake, email::Tls::None) };
    assert_eq!(send_mail(settings, &clients(), "text").await.outcome, Outcome::Transient);
    // One that is there, but does not speak TLS.
    let other = FakeHttp::start(Reply::status(200)).await;
    let settings = email::Settings { port: other.address().port(), ..mail_settings(&fake, email::Tls::Implicit) };
    let report = send_mail(settings, &clients(), "text").await;
    assert_eq!(report.outcome, Outcome::Transient, "{}", report.detail);
}

#[tokio::test]
async fn hostile_text_arrives_as_one_message() {
    let long = "long ".repeat(13_000);
    let bodies = [
        "a\n.\nMAIL FROM:<evil@example.org>\nRCPT TO:<evil@example.org>\nDATA\nhi\n.\n",
        "a\r\n.\r\nQUIT\r\n",
        "a\r.\rMAIL FROM:<evil@example.org>\r",
        "a\n.\r\nb",
        "a\r\n.\nb",
        ".",
        "..",
        "nul \0 bell \u{7} del \u{7f}",
        "🦀\u{2028}\u{85}",
        &long,
    ];
    let mut fake = FakeSmtp::start(Options::new(Protection::None)).await;
    for body in bodies {
        let report = send_mail(mail_settings(&fake, email::Tls::None), &clients(), body).await;
        assert_eq!(report.outcome, Outcome::Delivered, "{body:?}");
        let mail = fake.mail().await;
        assert_eq!(mail.from, "relay@example.org");
        let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
        let text = parsed.part(1).unwrap().text_contents().unwrap().replace("\r\n", "\n");
        let expected = body.replace("\r\n", "\n").replace('\r', "\n");
        assert_eq!(text.trim_end_matches('\n'), expected.trim_end_matches('\n'));
        assert!(fake.try_mail().is_none(), "{body:?} became two");
    }
}
