//! Each channel against a strict fake of its service: what goes out, and what every answer and every fault is taken for.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/http.rs"]
mod http;
#[path = "support/smtp.rs"]
mod smtp;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use halo_relay::deliver::contract::{self, Contract};
use halo_relay::deliver::email::submission::{Login, Server, Tls, Token};
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

/// For tests in which nobody answers: long enough that a busy machine does all else in that time.
fn impatient() -> Clients {
    let short = Duration::from_millis(700);
    // Longer for an answer than to connect, as in earnest.
    Clients::with_timeouts(Timeouts { connect: short, http: 2 * short, smtp: short }).unwrap()
}

fn message(content: Content) -> Message {
    Message { id: DeliveryId::new("k3", 255), content, thread: None, reply_to: None }
}

fn json_message() -> Message {
    message(Content::Json(json!({"text": "HIGH · certificate expiring", "blocks": [{"b": 1, "a": 2}]})))
}

fn mail_message(text: &str) -> Message {
    let html = Some(format!("<p>{text}</p>"));
    message(Content::Mail { subject: "HIGH · certificate".to_owned(), text: text.to_owned(), html })
}

/// Runs all cases side by side, for most of their time is spent waiting in vain.
async fn side_by_side<F: Future<Output = ()> + Send + 'static>(cases: Vec<F>) {
    let mut running = tokio::task::JoinSet::new();
    for case in cases {
        running.spawn(case);
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
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
    const COMMON: [&str; 5] = ["accept", "content-length", "content-type", "host", "user-agent"];
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

/// A contract's answers: the line as `docs/CHANNELS.md` has it, what it says, and answers that it is for.
type Answers = &'static [(&'static str, &'static str, &'static [(u16, &'static str)])];

/// Of the statuses that no channel has an own meaning for.
const NOT_TAKEN: Answers = &[
    ("HTTP 408, 425", "transient", &[(408, ""), (425, "")]),
    ("HTTP 300 to 399", "refused_destination", &[(300, ""), (301, ""), (302, "ok"), (303, ""), (307, ""), (308, "")]),
    (
        "HTTP 401, 403, 404, 407, 410",
        "refused_destination",
        &[(401, ""), (403, "SECRET"), (404, ""), (407, ""), (410, "")],
    ),
    ("HTTP 413", "refused_content", &[(413, "too large")]),
    ("HTTP 400 to 499", "refused_content", &[(400, "SECRET"), (402, ""), (405, ""), (409, ""), (422, ""), (499, "")]),
];
const GATEWAY_IN_DOUBT: Answers = &[("HTTP 502, 504", "ambiguous", &[(502, "<html>"), (504, "")])];
const FAILED: Answers = &[
    ("HTTP 500 to 599", "transient", &[(500, "SECRET"), (501, ""), (503, "maintenance"), (507, ""), (599, "")]),
    ("anything else", "transient", &[(600, ""), (999, "")]),
];
const PAUSE: Answers = &[("HTTP 429", "throttled", &[(429, ""), (429, "no_text"), (429, "<html>")])];

/// What the Web API says of answers to messages that are gone or closed.
const SLACK_THREAD_WORDS: (&str, &[(u16, &str)]) = (
    "refused_content",
    &[
        (200, "cannot_reply_to_message"),
        (200, "invalid_thread_ts"),
        (200, "message_not_found"),
        (200, "restricted_action_non_threadable_channel"),
        (200, "restricted_action_thread_locked"),
        (200, "thread_not_found"),
    ],
);

/// Slack's words with the status they come with at a webhook, where it is known.
const SLACK_WORDS: &[(&str, &[(u16, &str)])] = &[
    ("throttled", &[(400, "rate_limited"), (400, "ratelimited")]),
    (
        "refused_content",
        &[
            (400, "block_mismatch"),
            (400, "invalid_arg_name"),
            (400, "invalid_arguments"),
            (400, "invalid_attachments"),
            (400, "invalid_blocks"),
            (400, "invalid_blocks_format"),
            (400, "invalid_charset"),
            (400, "invalid_form_data"),
            (400, "invalid_payload"),
            (400, "invalid_post_type"),
            (400, "markdown_text_conflict"),
            (400, "metadata_too_large"),
            (400, "missing_post_type"),
            (400, "missing_text_or_fallback_or_attachments"),
            (500, "missing_text_or_fallback_or_attachments"),
            (400, "msg_blocks_too_long"),
            (400, "msg_too_long"),
            (400, "no_text"),
            (400, "too_many_attachments"),
        ],
    ),
    (
        "refused_destination",
        &[
            (400, "access_denied"),
            (400, "accesslimited"),
            (400, "account_inactive"),
            (403, "action_prohibited"),
            (410, "channel_is_archived"),
            (404, "channel_not_found"),
            (400, "ekm_access_denied"),
            (400, "invalid_auth"),
            (403, "invalid_token"),
            (400, "is_archived"),
            (400, "missing_scope"),
            (400, "no_active_hooks"),
            (400, "no_permission"),
            (404, "no_service"),
            (500, "no_service_id"),
            (400, "no_team"),
            (400, "not_allowed_token_type"),
            (400, "not_authed"),
            (400, "not_in_channel"),
            (400, "posting_to_general_channel_denied"),
            (400, "restricted_action"),
            (400, "restricted_action_read_only_channel"),
            (400, "restricted_action_thread_only_channel"),
            (400, "team_access_not_granted"),
            (503, "team_disabled"),
            (400, "token_expired"),
            (400, "token_revoked"),
            (400, "user_not_found"),
        ],
    ),
    (
        "transient",
        &[
            (400, "external_channel_migrating"),
            (400, "org_login_required"),
            (400, "request_timeout"),
            (500, "rollup_error"),
            (400, "service_unavailable"),
            (400, "team_added_to_org"),
            (400, "update_failed"),
        ],
    ),
    ("ambiguous", &[(400, "fatal_error"), (500, "internal_error")]),
];

/// Each line of one channel's contract, through its real client: the answers it is for, and nothing left out.
struct Walk {
    fake: FakeHttp,
    clients: Clients,
    contract: Contract,
    settings: Settings,
    /// The lines that were walked.
    seen: BTreeSet<String>,
}

impl Walk {
    async fn start(title: &str, channel: &str) -> Self {
        let fake = FakeHttp::start(Reply::status(500)).await;
        let contract = contract::all().into_iter().find(|contract| contract.title == title).unwrap();
        let (_, settings) = http_channels(&fake.url("")).into_iter().find(|(name, _)| *name == channel).unwrap();
        Self { fake, clients: clients(), contract, settings, seen: BTreeSet::new() }
    }

    /// Sends once; checks the outcome, that there was one request, and that the contract has this line.
    async fn answer(&mut self, line: &str, outcome: &str, reply: Reply) -> Report {
        let lines = &self.contract.lines;
        let found = lines.iter().find(|known| known.seen == line).unwrap_or_else(|| panic!("no line {line:?}"));
        assert_eq!(found.outcome.name(), outcome, "{line}");
        self.seen.insert(line.to_owned());
        self.fake.then(reply.clone());
        let report = send(&self.settings, &self.clients, &json_message()).await;
        assert_eq!(report.outcome.name(), outcome, "{line} {reply:?}: {}", report.detail);
        self.fake.request().await;
        assert!(self.fake.try_request().is_none(), "{line} {reply:?}: sent twice");
        report
    }

    async fn answers(&mut self, tables: &[Answers]) {
        for (line, outcome, answers) in tables.iter().copied().flatten() {
            for (status, body) in *answers {
                let report = self.answer(line, outcome, Reply::text(*status, body)).await;
                assert_eq!(report.status, Some(*status));
            }
        }
    }

    /// The line that lists `word`, itself or by its beginning.
    fn line_of(&self, word: &str) -> String {
        let lists = |seen: &str| {
            seen.split('`').any(|listed| match listed.strip_suffix('*') {
                Some(start) => word.starts_with(start),
                None => listed == word,
            })
        };
        let line = self.contract.lines.iter().find(|line| line.seen.starts_with('`') && lists(&line.seen));
        line.unwrap_or_else(|| panic!("no line lists {word}")).seen.clone()
    }

    /// Every wish to wait, by header, where `line` is one that honours it.
    async fn waits(&mut self, line: &str, status: u16) {
        let now_or_none = Some(None);
        let cases = [
            ("7", Some(Some(7_000))),
            ("0.5", Some(Some(500))),
            ("Wed, 21 Oct 2015 07:29:00 GMT", Some(Some(60_000))),
            ("Wed, 21 Oct 2015 07:27:00 GMT", now_or_none),
            ("0", now_or_none),
            ("9999999", Some(Some(86_400_000))),
            ("Wed, 21 Oct 2065 07:28:00 GMT", Some(Some(86_400_000))),
            ("never", None),
            ("-5", None),
        ];
        for (value, expected) in cases {
            // Where only the header makes it a pause, one that cannot be read makes none.
            if expected.is_none() && status != 429 {
                continue;
            }
            let report = self.answer(line, "throttled", Reply::status(status).with("retry-after", value)).await;
            let wait = expected.flatten().map(Duration::from_millis);
            assert_eq!(report.outcome, Outcome::Throttled { wait }, "{value}");
            let cut = report.detail.contains("of which one day is kept");
            assert_eq!(cut, wait == Some(Duration::from_hours(24)), "{value}: {}", report.detail);
        }
    }

    fn end(self) {
        let lines: BTreeSet<_> = self.contract.lines.iter().map(|line| line.seen.clone()).collect();
        assert_eq!(self.seen, lines, "{}", self.contract.title);
    }
}

#[tokio::test]
async fn slack_webhook_by_its_contract() {
    let mut walk = Walk::start("Slack: incoming webhook", "slack webhook").await;
    walk.answers(&[
        &[
            ("HTTP 200 and exactly `ok`", "delivered", &[(200, "ok"), (200, "ok\n")]),
            (
                "HTTP 200 to 299",
                "ambiguous",
                &[(200, ""), (200, "OK"), (200, "{\"ok\":true}"), (200, "<html>"), (202, "ok"), (204, "")],
            ),
        ],
        PAUSE,
        NOT_TAKEN,
        GATEWAY_IN_DOUBT,
        FAILED,
    ])
    .await;
    for (outcome, words) in SLACK_WORDS {
        for (status, word) in *words {
            // The word decides, not the status that it comes with.
            for status in [200, *status] {
                let report = walk.answer(&walk.line_of(word), outcome, Reply::text(status, word)).await;
                assert_eq!(report.detail, format!("HTTP {status}: {word}"));
            }
        }
    }
    walk.waits("HTTP 429", 429).await;
    walk.waits("HTTP 408 with `Retry-After`", 408).await;
    walk.waits("HTTP 500 to 599 with `Retry-After`", 503).await;
    slack_waits(&mut walk).await;
    walk.end();
}

#[tokio::test]
async fn slack_bot_by_its_contract() {
    let mut walk = Walk::start("Slack: bot", "slack bot").await;
    walk.answers(&[
        &[
            (
                "HTTP 200 and `\"ok\": true`",
                "delivered",
                &[(200, r#"{"ok":true,"channel":"C1","ts":"1.2"}"#), (200, r#"{"ok":true,"warning":"x"}"#)],
            ),
            (
                "HTTP 200, `\"ok\": false` and another word",
                "transient",
                &[(200, r#"{"ok":false}"#), (200, r#"{"ok":false,"error":"a_new_word"}"#)],
            ),
            (
                "HTTP 200 to 299",
                "ambiguous",
                &[(200, ""), (200, "ok"), (200, r#"{"ok":"true"}"#), (201, r#"{"ok":true}"#), (200, r#"{"ok":true"#)],
            ),
        ],
        PAUSE,
        NOT_TAKEN,
        GATEWAY_IN_DOUBT,
        FAILED,
    ])
    .await;
    for (outcome, words) in SLACK_WORDS.iter().chain([&SLACK_THREAD_WORDS]) {
        for (_, word) in *words {
            let body = json!({"ok": false, "error": word}).to_string();
            walk.answer(&walk.line_of(word), outcome, Reply::text(200, &body)).await;
        }
    }
    walk.waits("HTTP 429", 429).await;
    walk.waits("HTTP 408 with `Retry-After`", 408).await;
    walk.waits("HTTP 500 to 599 with `Retry-After`", 503).await;
    slack_waits(&mut walk).await;
    walk.end();
}

/// Where Slack tells the time in the body.
async fn slack_waits(walk: &mut Walk) {
    let cases = [
        (429, r#"{"retry_after":3,"ok":false,"error":"rate_limited"}"#, None, Some(3_000)),
        (200, r#"{"retry_after":1.5,"ok":false,"error":"ratelimited"}"#, None, Some(1_500)),
        (429, r#"{"retry_after":3,"ok":false,"error":"rate_limited"}"#, Some("30"), Some(30_000)),
        (429, r#"{"retry_after":3,"ok":false,"error":"rate_limited"}"#, Some("soon"), Some(3_000)),
        (429, r#"{"retry_after":-3,"ok":false,"error":"rate_limited"}"#, None, None),
        (429, r#"{"retry_after":"3","ok":false,"error":"rate_limited"}"#, None, None),
        (429, r#"{"retry_after":1e300,"ok":false,"error":"rate_limited"}"#, None, Some(86_400_000)),
    ];
    for (status, body, header, wait) in cases {
        let reply = Reply::text(status, body);
        let reply = header.map_or(reply.clone(), |header| reply.with("retry-after", header));
        let line = if status == 429 { "HTTP 429".to_owned() } else { walk.line_of("ratelimited") };
        let report = walk.answer(&line, "throttled", reply).await;
        assert_eq!(report.outcome, Outcome::Throttled { wait: wait.map(Duration::from_millis) }, "{body}");
    }
}

#[tokio::test]
async fn teams_by_its_contract() {
    let mut walk = Walk::start("Teams: workflow", "teams").await;
    walk.answers(&[
        &[
            ("HTTP 202", "delivered", &[(202, ""), (202, "error")]),
            ("another 2xx that is cut, a web page or no text", "ambiguous", &[(200, "<html>Sign in</html>")]),
            ("another 2xx, text with `HTTP error 429`", "throttled", &[(200, "failed: returned HTTP error 429 with")]),
            ("another 2xx, text with `HTTP error 413`", "refused_content", &[(200, "returned HTTP error 413 SECRET")]),
            (
                "another 2xx, text with `error` or `failed`",
                "transient",
                &[
                    (200, "Webhook message delivery failed with error: SECRET"),
                    (200, "Webhook message delivery failed: HTTP error 400"),
                    (200, r#"{"error":{"code":"X"}}"#),
                ],
            ),
            ("HTTP 200 to 299", "delivered", &[(200, ""), (200, "1"), (201, r#"{"status":"queued"}"#), (204, "")]),
        ],
        PAUSE,
        NOT_TAKEN,
        GATEWAY_IN_DOUBT,
        FAILED,
    ])
    .await;
    for (status, code) in [
        (400, "WorkflowTriggerIsNotEnabled"),
        (400, "WorkflowDisabled"),
        (400, "TriggerInputSchemaMismatch"),
        (404, "WorkflowNotFound"),
        (401, "DirectApiAuthorizationRequired"),
    ] {
        let body = json!({"error": {"code": code, "message": "SECRET"}}).to_string();
        let report = walk.answer(&walk.line_of(code), "refused_destination", Reply::text(status, &body)).await;
        assert_eq!(report.detail, format!("HTTP {status}: {code}"));
    }
    let body = r#"{"error":{"code":"InvalidRequestContent","message":"SECRET"}}"#;
    let report = walk.answer("HTTP 400 to 499", "refused_content", Reply::text(400, body)).await;
    assert_eq!(report.detail, "HTTP 400: InvalidRequestContent");
    walk.waits("HTTP 429", 429).await;
    walk.waits("HTTP 408 with `Retry-After`", 408).await;
    walk.waits("HTTP 500 to 599 with `Retry-After`", 503).await;
    walk.end();
}

#[tokio::test]
async fn signed_webhook_by_its_contract() {
    let mut walk = Walk::start("Signed webhook", "webhook").await;
    walk.answers(&[
        &[
            ("HTTP 200 to 299", "delivered", &[(200, ""), (201, "SECRET"), (202, "error"), (204, ""), (299, "<html>")]),
            ("HTTP 502, 504", "throttled", &[(502, "<html>"), (504, "")]),
        ],
        PAUSE,
        NOT_TAKEN,
        FAILED,
    ])
    .await;
    walk.waits("HTTP 429", 429).await;
    walk.waits("HTTP 502, 504", 502).await;
    walk.waits("HTTP 502, 504", 504).await;
    walk.waits("HTTP 408 with `Retry-After`", 408).await;
    walk.waits("HTTP 500 to 599 with `Retry-After`", 503).await;
    walk.waits("HTTP 500 to 599 with `Retry-After`", 500).await;
    // A time named for a request that can never pass changes nothing.
    let reply = Reply::status(422).with("retry-after", "7");
    walk.answer("HTTP 400 to 499", "refused_content", reply).await;
    walk.end();
}

/// What breaks off or never ends. In the order of `http_channels`: a status is all that Teams' 202 and a webhook's 2xx
/// need.
#[tokio::test]
async fn answers_that_are_not_whole() {
    let cases = [
        (Reply::CutBody { status: 200, body: "ok" }, ["ambiguous", "ambiguous", "ambiguous", "delivered"]),
        (Reply::CutBody { status: 200, body: "no_service" }, ["ambiguous", "ambiguous", "ambiguous", "delivered"]),
        (Reply::CutBody { status: 202, body: "" }, ["ambiguous", "ambiguous", "delivered", "delivered"]),
        (Reply::CutBody { status: 404, body: "" }, ["refused_destination"; 4]),
        (Reply::CutBody { status: 429, body: "{\"retry_after\":3," }, ["throttled"; 4]),
        (Reply::EndlessBody { status: 200 }, ["ambiguous", "ambiguous", "ambiguous", "delivered"]),
        (Reply::EndlessBody { status: 500 }, ["transient"; 4]),
        (Reply::DrippingBody { status: 200 }, ["ambiguous", "ambiguous", "ambiguous", "delivered"]),
        (Reply::DrippingBody { status: 503 }, ["transient"; 4]),
    ];
    let clients = Arc::new(impatient());
    let mut running = Vec::new();
    for (reply, outcomes) in cases {
        for (channel, outcome) in outcomes.into_iter().enumerate() {
            running.push(one_answer(clients.clone(), channel, reply.clone(), outcome));
        }
    }
    side_by_side(running).await;
}

/// Sends once over the channel of that number to a server that does as told.
async fn one_answer(clients: Arc<Clients>, channel: usize, reply: Reply, outcome: &'static str) {
    let mut fake = FakeHttp::start(reply.clone()).await;
    let (name, settings) = &http_channels(&fake.url(""))[channel];
    let report = send(settings, &clients, &json_message()).await;
    assert_eq!(report.outcome.name(), outcome, "{name} {reply:?}: {}", report.detail);
    fake.request().await;
    assert!(fake.try_request().is_none(), "{name} {reply:?}: sent twice");
}

/// A listener that takes connections only as the kernel does: it never reads and never answers.
fn deaf() -> (std::net::TcpListener, std::net::SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port that was free a moment ago.
fn free() -> std::net::SocketAddr {
    deaf().1
}

/// A server that resets each connection before it has read a byte.
async fn resetting() -> (tokio::task::JoinHandle<()>, std::net::SocketAddr) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_zero_linger().unwrap();
        }
    });
    (server, address)
}

/// The line of "No answer over HTTP" that begins so.
fn fault(start: &str) -> Outcome {
    let contract = contract::all().into_iter().find(|contract| contract.title == "No answer over HTTP").unwrap();
    assert_eq!(contract.lines.len(), 5);
    contract.lines.into_iter().find(|line| line.seen.starts_with(start)).unwrap().outcome
}

/// Refused, a plain port, a stranger's certificate, a host without an address, a reset or silence in the handshake.
#[tokio::test]
async fn no_connection_over_http() {
    assert_eq!(fault("no connection"), Outcome::Transient);
    let plain = FakeHttp::start(Reply::status(200)).await;
    let stranger = FakeSmtp::start(Options::new(Protection::Implicit)).await;
    let (resets, reset_address) = resetting().await;
    let (_deaf, deaf_address) = deaf();
    let clients = Arc::new(impatient());
    let mut running = Vec::new();
    for base in [
        format!("http://{}", free()),
        format!("https://{}", plain.address()),
        format!("https://localhost:{}", stranger.port()),
        // A name too long to be asked for.
        format!("https://{}", "a".repeat(64)),
        format!("https://{reset_address}"),
        format!("https://{deaf_address}"),
    ] {
        for (name, settings) in http_channels(&base) {
            let (base, clients) = (base.clone(), clients.clone());
            running.push(async move {
                let report = send(&settings, &clients, &json_message()).await;
                assert_eq!((&report.outcome, report.status), (&Outcome::Transient, None), "{name} {base}: {report:?}");
                assert!(report.detail.starts_with("cannot connect ("), "{name} {base}: {}", report.detail);
            });
        }
    }
    side_by_side(running).await;
    resets.abort();
}

/// Without TLS, the request may or may not be on its way by the time of the reset; no third thing is said of it.
#[tokio::test]
async fn a_reset_before_the_request_was_read() {
    let (resets, address) = resetting().await;
    let clients = impatient();
    for (name, settings) in http_channels(&format!("http://{address}")) {
        let report = send(&settings, &clients, &json_message()).await;
        let (expected, words) = match report.outcome {
            Outcome::Transient => ("the connection was lost before anything was sent", "before the message was sent"),
            _ => ("the connection was lost before the answer", "the message may have arrived"),
        };
        assert_eq!(report.outcome, fault(expected), "{name}");
        assert!(report.detail.contains(words) || report.detail.starts_with("cannot connect"), "{name} {report:?}");
    }
    resets.abort();
}

/// Connected and sent, and then nothing that is an answer.
#[tokio::test]
async fn no_answer_over_http() {
    let timed_out = fault("connected, and no answer");
    assert_eq!(
        (&timed_out, fault("the connection was lost before the answer")),
        (&Outcome::Ambiguous, timed_out.clone())
    );
    let clients = Arc::new(impatient());
    let mut running = Vec::new();
    for reply in [Reply::Silence, Reply::Close, Reply::Reset, Reply::CutHead, Reply::Gibberish] {
        for channel in 0..4 {
            running.push(one_answer(clients.clone(), channel, reply.clone(), "ambiguous"));
        }
    }
    side_by_side(running).await;
    let (_deaf, address) = deaf();
    let (name, settings) = &http_channels(&format!("http://{address}"))[0];
    let report = send(settings, &clients, &json_message()).await;
    assert_eq!(report.outcome, timed_out, "{name}: {}", report.detail);
    // What `config` refuses before, should it ever come here.
    assert_eq!(fault("no request can be built"), Outcome::RefusedDestination);
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

fn mail_settings(fake: &FakeSmtp, tls: Tls) -> email::Settings {
    let ca_file = Some(fake.ca_file());
    email::Settings {
        way: email::Way::Smtp(Server { host: "localhost".to_owned(), port: fake.port(), tls, login: None, ca_file }),
        from: "Halo relay <relay@example.org>".parse().unwrap(),
        to: ["bob@example.org", "Bea <bea@example.org>", "bad@example.org"].map(|to| to.parse().unwrap()).into(),
        name: "compliance".into(),
    }
}

/// The same with another server.
fn with_server(settings: email::Settings, change: impl FnOnce(Server) -> Server) -> email::Settings {
    let email::Way::Smtp(server) = settings.way.clone() else { unreachable!() };
    email::Settings { way: email::Way::Smtp(change(server)), ..settings }
}

fn password(user: &str, password: &str) -> Login {
    Login::Password { user: user.to_owned(), password: Secret::new(password) }
}

async fn send_mail(settings: email::Settings, clients: &Clients, text: &str) -> Report {
    send(&Settings::Email(settings), clients, &mail_message(text)).await
}

/// Sends over a clear connection to a server with these options.
async fn clear(options: Options, clients: &Clients) -> (FakeSmtp, Report) {
    let fake = FakeSmtp::start(options).await;
    let report = send_mail(mail_settings(&fake, Tls::None), clients, "text").await;
    (fake, report)
}

#[tokio::test]
async fn mail_by_every_protection_and_login() {
    let cases = [
        (Protection::Implicit, Tls::Implicit, "AUTH PLAIN LOGIN"),
        (Protection::Implicit, Tls::Implicit, "AUTH XOAUTH2 LOGIN"),
        (Protection::StartTls, Tls::StartTls, "AUTH LOGIN PLAIN"),
        (Protection::StartTls, Tls::StartTls, "auth login"),
        (Protection::None, Tls::None, "AUTH PLAIN"),
    ];
    for (protection, tls, offer) in cases {
        let mut fake = FakeSmtp::start(Options::new(protection).login(offer, "relay", "s3cret")).await;
        let login = Some(password("relay", "s3cret"));
        let settings = with_server(mail_settings(&fake, tls), |server| Server { login, ..server });
        let report = send_mail(settings, &clients(), "text").await;
        assert_eq!(report, Report::new(Outcome::Delivered, Some(250), "accepted for 3 of 3 recipients"), "{offer}");

        let mail = fake.mail().await;
        assert_eq!((mail.encrypted, mail.authenticated), (tls != Tls::None, true), "{protection:?} {offer}");
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
    let trusting =
        |settings| with_server(settings, |server| Server { login: Some(password("relay", "s3cret")), ..server });

    // STARTTLS is not offered.
    let fake = FakeSmtp::start(Options::new(Protection::None).login("AUTH PLAIN", "relay", "s3cret")).await;
    let report = send_mail(trusting(mail_settings(&fake, Tls::StartTls)), &clients(), "text").await;
    assert_eq!(report.outcome, Outcome::RefusedDestination, "{}", report.detail);
    assert_eq!(fake.commands(), ["EHLO"]);

    // STARTTLS is refused.
    let options = Options::new(Protection::StartTls).on("STARTTLS", Act::Say("454 4.7.0 no TLS today"));
    let fake = FakeSmtp::start(options).await;
    let report = send_mail(trusting(mail_settings(&fake, Tls::StartTls)), &clients(), "text").await;
    assert_eq!((report.outcome, report.status), (Outcome::Transient, Some(454)));
    assert_eq!(fake.commands(), ["EHLO", "STARTTLS"]);

    // Somebody slips an answer in behind the go-ahead.
    let injected = Act::Say("220 go ahead\r\n250-mail.test\r\n250 AUTH PLAIN");
    let fake = FakeSmtp::start(Options::new(Protection::StartTls).on("STARTTLS", injected)).await;
    let report = send_mail(trusting(mail_settings(&fake, Tls::StartTls)), &clients(), "text").await;
    assert_eq!(report.outcome, Outcome::Transient);
    assert!(report.detail.contains("clear text behind the answer to STARTTLS"), "{}", report.detail);
    assert_eq!(fake.commands(), ["EHLO", "STARTTLS"]);

    // The certificate is of an authority not trusted, or for another host.
    let stranger = FakeSmtp::start(Options::new(Protection::Implicit)).await;
    for (protection, tls) in [(Protection::Implicit, Tls::Implicit), (Protection::StartTls, Tls::StartTls)] {
        let fake = FakeSmtp::start(Options::new(protection)).await;
        let with = |change: fn(Server, &FakeSmtp) -> Server| {
            with_server(mail_settings(&fake, tls), |server| change(server, &stranger))
        };
        let untrusted = with(|server, stranger| Server { ca_file: Some(stranger.ca_file()), ..server });
        let misnamed = with(|server, _| Server { host: "127.0.0.2".to_owned(), ..server });
        for (host, settings) in [("localhost", trusting(untrusted)), ("127.0.0.2", trusting(misnamed))] {
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
        let login = Some(self::password("relay", password));
        let settings = with_server(mail_settings(&fake, Tls::Implicit), |server| Server { login, ..server });
        let report = send_mail(settings, &clients(), "text").await;
        assert_eq!((report.outcome, report.status), (outcome, status), "{offer}: {}", report.detail);
        assert!(!fake.commands().contains(&"MAIL".to_owned()));
    }
}

fn by_token(fake: &FakeSmtp, tls: Tls, token: Token) -> email::Settings {
    let login = Some(Login::Token { user: "relay@example.org".to_owned(), token });
    with_server(mail_settings(fake, tls), |server| Server { login, ..server })
}

/// The token is read for each mail: another program renews it.
#[tokio::test]
async fn logins_by_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let options = Options::new(Protection::StartTls).login("AUTH LOGIN PLAIN XOAUTH2", "relay@example.org", "ya29.new");
    let mut fake = FakeSmtp::start(options).await;
    let settings = Settings::Email(by_token(&fake, Tls::StartTls, Token::File(path.clone())));
    let notifier = Notifier::new(&settings, &clients()).unwrap();
    let send = async || notifier.send(&mail_message("text"), NOW).await;

    let report = send().await;
    assert_eq!((report.outcome.name(), report.status), ("transient", None), "{}", report.detail);
    std::fs::write(&path, "s3cret-expired\n").unwrap();
    let report = send().await;
    // The challenge tells a status; the rest of it, and of the reply, is not repeated.
    let told = "the mail server refused the token: 535 5.7.8, status 400";
    assert_eq!(report, Report::new(Outcome::RefusedDestination, Some(535), told));
    std::fs::write(&path, "ya29.new\n").unwrap();
    let report = send().await;
    assert_eq!(report.outcome, Outcome::Delivered, "{}", report.detail);
    assert!(fake.mail().await.authenticated);
    // An answer to the challenge is empty, and then the server gives its reply.
    let commands = fake.commands();
    assert_eq!(commands.iter().filter(|command| *command == "AUTH").count(), 2, "{commands:?}");
    let auth = fake.command_lines().into_iter().rfind(|line| line.starts_with("AUTH")).unwrap();
    let expected = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        "user=relay@example.org\x01auth=Bearer ya29.new\x01\x01",
    );
    assert_eq!(auth, format!("AUTH XOAUTH2 {expected}"));
}

#[tokio::test]
async fn logins_by_token_that_fail() {
    let token = || Token::Fixed(Secret::new("s3cret"));
    // Not offered, or not over TLS: nothing is said of the token.
    for (protection, tls, offer, outcome) in [
        (Protection::Implicit, Tls::Implicit, "AUTH PLAIN LOGIN", "refused_destination"),
        (Protection::Implicit, Tls::Implicit, "SIZE", "refused_destination"),
    ] {
        let fake = FakeSmtp::start(Options::new(protection).login(offer, "relay@example.org", "s3cret")).await;
        let report = send_mail(by_token(&fake, tls, token()), &clients(), "text").await;
        assert_eq!((report.outcome.name(), report.status), (outcome, None), "{}", report.detail);
        assert!(!fake.commands().contains(&"AUTH".to_owned()));
    }
    // Refused at once, later, or with a challenge that is none.
    for (reply, outcome, detail) in [
        ("535 5.7.3 Authentication unsuccessful SECRET", "refused_destination", "refused the token: 535 5.7.3"),
        ("454 4.7.0 Temporary authentication failure", "transient", "refused the token: 454 4.7.0"),
        ("421 4.7.0 try later", "transient", "refused the token: 421 4.7.0"),
    ] {
        let options = Options::new(Protection::Implicit).login("AUTH XOAUTH2", "relay@example.org", "s3cret");
        let fake = FakeSmtp::start(options.on("AUTH", Act::Say(reply))).await;
        let report = send_mail(by_token(&fake, Tls::Implicit, token()), &clients(), "text").await;
        assert_eq!(report.outcome.name(), outcome, "{}", report.detail);
        assert!(report.detail.ends_with(detail), "{}", report.detail);
    }
}

#[tokio::test]
async fn one_refused_recipient_does_not_cost_the_others_their_mail() {
    for refusal in [
        "550 5.1.1 <bad@example.org> unknown",
        "552 5.2.2 full",
        "452 4.2.2 full",
        "450 4.1.2 domain not found",
        "451 4.4.3 domain cannot be looked up",
        "550 5.7.1 no relaying",
    ] {
        let options = Options::new(Protection::None).on("RCPT TO:<BAD@", Act::Say(refusal));
        let (mut fake, report) = clear(options, &clients()).await;
        let detail = format!("accepted for 2 of 3 recipients; refused: b…@example.org ({})", &refusal[..9]);
        // Delivered, so that nothing is sent again; partial, so that somebody is told.
        let expected = Report { partial: true, ..Report::new(Outcome::Delivered, Some(250), detail) };
        assert_eq!(report, expected);
        assert_eq!(fake.mail().await.to, ["bob@example.org", "bea@example.org"]);
    }
}

#[tokio::test]
async fn many_refused_recipients_are_counted() {
    let fake = FakeSmtp::start(Options::new(Protection::None).on("RCPT TO:<B", Act::Say("550 5.1.1 unknown"))).await;
    let mut fake = fake;
    let to = ["bob", "bea", "ben", "bill", "bo", "ann"].map(|name| format!("{name}@example.org").parse().unwrap());
    let settings = email::Settings { to: to.into(), ..mail_settings(&fake, Tls::None) };
    let report = send_mail(settings, &clients(), "text").await;
    let named = ["b…@example.org (550 5.1.1)"; 3].join(", ");
    assert_eq!(report.detail, format!("accepted for 1 of 6 recipients; refused: {named} and 2 more"));
    assert!(report.partial);
    assert_eq!(fake.mail().await.to, ["ann@example.org"]);
}

/// One of two refusals to recipients is for this attempt only, so the message waits, and nobody has had it.
#[tokio::test]
async fn when_no_recipient_is_left_the_most_hopeful_refusal_counts() {
    let cases = [
        (["550 5.1.1 unknown"; 3], "refused_destination", 550),
        (["550 5.7.1 relaying denied"; 3], "refused_destination", 550),
        (["550 5.1.1 unknown", "452 4.2.2 full", "550 5.1.1 unknown"], "transient", 452),
    ];
    for ([bob, bea, bad], outcome, status) in cases {
        let options = Options::new(Protection::None)
            .on("RCPT TO:<BOB", Act::Say(bob))
            .on("RCPT TO:<BEA", Act::Say(bea))
            .on("RCPT TO:<BAD", Act::Say(bad));
        let (mut fake, report) = clear(options, &clients()).await;
        assert_eq!((report.outcome.name(), report.status, report.partial), (outcome, Some(status), false));
        assert!(fake.try_mail().is_none() && !fake.commands().contains(&"DATA".to_owned()));
    }
}

const QUOTA: &str = "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException";

/// A mail server's replies: the line as `docs/CHANNELS.md` has it, what it says, and replies that it is for, by command.
type Replies = &'static [(&'static str, &'static str, &'static [(&'static str, &'static str)])];

const MAIL_REPLIES: Replies = &[
    (
        "`454` “throttling failure”",
        "throttled",
        &[
            ("MAIL", "454 Throttling failure: Maximum sending rate exceeded."),
            (".", "454 Throttling failure: Daily message quota exceeded."),
        ],
    ),
    (
        "`550` `5.4.5`",
        "throttled",
        &[
            ("MAIL", "550 5.4.5 daily limit"),
            ("RCPT TO:<BEA", "550 5.4.5 daily limit"),
            (".", "550-5.4.5 Daily user\r\n550 5.4.5 limit"),
        ],
    ),
    ("`554` “submissionquotaexceeded”", "throttled", &[("DATA", QUOTA), (".", QUOTA)]),
    (
        "`530`, `534`, `535`, `538`",
        "refused_destination",
        &[
            ("MAIL", "530 5.7.0 must issue STARTTLS"),
            ("RCPT", "530 5.7.0 authentication required"),
            ("AUTH", "535 5.7.139 basic authentication is disabled"),
            ("AUTH", "534 5.7.9 mechanism too weak"),
            ("AUTH", "538 5.7.11 encryption required"),
            (".", "530 5.7.0 authentication required"),
        ],
    ),
    (
        "RCPT: `4.1.*`, `4.2.*`, `4.4.*` (this recipient only)",
        "transient",
        &[("RCPT", "452 4.2.2 full"), ("RCPT", "450 4.1.2 domain not found"), ("RCPT", "451 4.4.3 no answer")],
    ),
    (
        "`4yz`",
        "transient",
        &[
            ("CONNECT", "421 4.3.2 busy"),
            ("EHLO", "421 4.7.0 try later"),
            ("AUTH", "454 4.7.0 temporary authentication failure"),
            ("AUTH", "432 4.7.12 password transition"),
            ("AUTH", "421 4.7.0 try later"),
            ("MAIL", "451 4.3.0 later"),
            ("MAIL", "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded"),
            ("MAIL", "452 4.3.1 out of disk"),
            ("RCPT TO:<BEA", "450 4.7.1 greylisted"),
            ("RCPT TO:<BEA", "452 4.5.3 too many recipients"),
            ("RCPT TO:<BEA", "421 4.3.2 shutting down"),
            ("DATA", "451 4.3.0 later"),
            (".", "451 4.3.0 later"),
            (".", "421 4.3.2 shutting down"),
        ],
    ),
    (
        "greeting, EHLO, STARTTLS: `5yz`",
        "transient",
        &[("CONNECT", "554 no service for you"), ("EHLO", "502 5.5.1 what"), ("EHLO", "550 5.7.1 go away")],
    ),
    ("AUTH: `5yz`", "refused_destination", &[("AUTH", "504 5.5.4 unknown mechanism"), ("AUTH", "554 5.7.0 no")]),
    ("MAIL: `5.2.0` to `5.2.2`", "refused_destination", &[("MAIL", "552 5.2.2 sender's mailbox full")]),
    ("MAIL: `552`", "refused_content", &[("MAIL", "552 5.3.4 too large"), ("MAIL", "552 too large")]),
    ("MAIL: `5.2.3`, `5.3.4`", "refused_content", &[("MAIL", "554 5.2.3 too large"), ("MAIL", "550 5.3.4 large")]),
    (
        "MAIL: `5yz`",
        "refused_destination",
        &[("MAIL", "550 5.7.60 not allowed to send as relay@example.org"), ("MAIL", "501 5.1.7 bad sender")],
    ),
    (
        "RCPT: `5yz` (this recipient only)",
        "refused_destination",
        &[
            ("RCPT", "550 5.1.1 <bob@example.org> unknown"),
            ("RCPT", "551 5.1.6 moved"),
            ("RCPT", "553 5.1.3 bad address"),
            ("RCPT", "552 5.2.2 full"),
            ("RCPT", "550 5.4.4 no route"),
            ("RCPT", "550 5.7.1 relaying denied"),
        ],
    ),
    (
        "DATA and after: `554` “access denied” or “address is not verified”",
        "refused_destination",
        &[(".", "554 Access denied: SECRET"), (".", "554 Message rejected: Email address is not verified.")],
    ),
    ("DATA and after: `5.7.1` “relay”", "refused_destination", &[(".", "550 5.7.1 Unable to relay")]),
    (
        "DATA and after: `5.7.1`, `5.3.4`",
        "refused_content",
        &[(".", "550 5.7.1 spam: SECRET"), (".", "552 5.3.4 too large")],
    ),
    (
        "DATA and after: `5.1.*`, `5.2.0` to `5.2.2`, `5.3.*`, `5.4.*`, `5.7.*`",
        "refused_destination",
        &[
            ("DATA", "554 5.7.0 no"),
            (".", "550 5.7.26 unauthenticated mail"),
            (".", "550 5.1.1 unknown"),
            (".", "552 5.2.2 full"),
            (".", "550 5.4.4 no route"),
            (".", "554 5.3.2 not accepting"),
        ],
    ),
    (
        "DATA and after: `5yz`",
        "refused_content",
        &[
            (".", "554 5.6.0 malformed"),
            (".", "552 5.2.3 too large"),
            (".", "552 too large"),
            (".", "501 syntax"),
            (".", "555 parameters"),
            ("DATA", "554 no valid recipients"),
            (".", "554 transaction failed"),
        ],
    ),
    ("DATA and after: `3yz`", "ambiguous", &[(".", "354 what")]),
    ("any other", "transient", &[("DATA", "250 what"), ("CONNECT", "354 what"), ("MAIL", "354 what")]),
];

/// Every line of "Email: replies", in its order, through the real client.
#[tokio::test]
async fn mail_replies_by_their_contract() {
    let lines = contract::all().into_iter().find(|contract| contract.title == "Email: replies").unwrap().lines;
    let walked: Vec<_> = MAIL_REPLIES.iter().map(|(line, outcome, _)| ((*line).to_owned(), *outcome)).collect();
    let known: Vec<_> = lines.iter().map(|line| (line.seen.clone(), line.outcome.name())).collect();
    assert_eq!(walked, known);
    let clients = clients();
    for (line, outcome, replies) in MAIL_REPLIES {
        for &(command, reply) in *replies {
            let options = Options::new(Protection::None).login("AUTH PLAIN", "relay", "s3cret");
            let mut fake = FakeSmtp::start(options.on(command, Act::Say(reply))).await;
            let report = send_mail(with_login(&fake), &clients, "text").await;
            assert_eq!(report.outcome.name(), *outcome, "{line}: {command} {reply}: {}", report.detail);
            assert_eq!((report.status, report.partial), (reply[..3].parse().ok(), false), "{reply}");
            // Only what the report calls ambiguous may have been taken.
            assert_eq!(fake.try_mail().is_some(), *outcome == "ambiguous", "{command} {reply}");
        }
    }
}

/// Every line of "Email: no reply". The lines about STARTTLS, logins and SIZE have tests of their own.
#[tokio::test]
async fn mail_faults_by_their_contract() {
    let lines = contract::all().into_iter().find(|contract| contract.title == "Email: no reply").unwrap().lines;
    let outcomes: Vec<_> = lines.iter().map(|line| line.outcome.name()).collect();
    assert_eq!(
        outcomes,
        ["transient", "ambiguous", "refused_destination", "refused_destination", "transient", "refused_content"]
    );
    let (patient, impatient) = (Arc::new(clients()), Arc::new(impatient()));
    let mut running = Vec::new();
    for act in [Act::Close, Act::Reset, Act::Silence, Act::Drip, Act::Say("nonsense")] {
        for command in ["CONNECT", "EHLO", "AUTH", "MAIL", "RCPT", "RCPT TO:<BEA", "DATA", "."] {
            let options = Options::new(Protection::None).login("AUTH PLAIN", "relay", "s3cret").on(command, act);
            let mut fake = FakeSmtp::start(options).await;
            let clients = if matches!(act, Act::Silence | Act::Drip) { impatient.clone() } else { patient.clone() };
            let outcome = lines[usize::from(command == ".")].outcome.clone();
            running.push(async move {
                let report = send_mail(with_login(&fake), &clients, "text").await;
                assert_eq!((&report.outcome, report.status), (&outcome, None), "{command} {act:?}: {}", report.detail);
                // Only what the report calls ambiguous may have been taken.
                let taken = fake.try_mail().is_some();
                assert_eq!(taken, command == "." && !matches!(act, Act::Say(_)), "{command} {act:?}");
            });
        }
    }
    side_by_side(running).await;
}

fn with_login(fake: &FakeSmtp) -> email::Settings {
    let login = Some(password("relay", "s3cret"));
    with_server(mail_settings(fake, Tls::None), |server| Server { login, ..server })
}

/// The repeat of an ambiguous mail has the same `Message-ID`.
#[tokio::test]
async fn a_repeated_mail_has_the_same_id() {
    let mut ids = Vec::new();
    for act in [Some(Act::Close), None] {
        let options = Options::new(Protection::None);
        let options = act.map_or(options.clone(), |act| options.on(".", act));
        let (mut fake, report) = clear(options, &clients()).await;
        assert_eq!(report.outcome, if act.is_some() { Outcome::Ambiguous } else { Outcome::Delivered });
        let mail = fake.mail().await;
        let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
        ids.push(parsed.message_id().unwrap().to_owned());
    }
    assert_eq!(ids, ["hr_k3_ff@example.org"; 2]);
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
    let settings = mail_settings(&fake, Tls::None);
    let settings = with_server(settings, |server| Server { port: free.port(), ..server });
    assert_eq!(send_mail(settings, &clients(), "text").await.outcome, Outcome::Transient);
    // One that is there, but does not speak TLS.
    let other = FakeHttp::start(Reply::status(200)).await;
    let settings = mail_settings(&fake, Tls::Implicit);
    let settings = with_server(settings, |server| Server { port: other.address().port(), ..server });
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
        let report = send_mail(mail_settings(&fake, Tls::None), &clients(), body).await;
        assert_eq!(report.outcome, Outcome::Delivered, "{body:?}");
        let mail = fake.mail().await;
        assert_eq!(mail.from, "relay@example.org");
        let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
        let text = parsed.part(1).unwrap().text_contents().unwrap().replace("\r\n", "\n");
        let expected = body.replace("\r\n", "\n").replace('\r', "\n");
        let expected: String = expected.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect();
        assert_eq!(text.trim_end_matches('\n'), expected.trim_end_matches('\n'));
        assert!(fake.try_mail().is_none(), "{body:?} became two");
    }
    assert_eq!(fake.commands().iter().filter(|command| *command == ".").count(), bodies.len());
}

/// Subjects, names and threads that would break out, and ten megabytes: each arrives as one mail, and with no header of
/// its own making.
#[tokio::test]
async fn hostile_lines_arrive_as_one_message() {
    let long = "x".repeat(64 * 1024);
    let wide = "\u{1F980}".repeat(16 * 1024);
    let huge = "0123456789\n.\r\n".repeat(760_000);
    let lines = [
        "a\r\nBcc: evil@example.org\r\n\r\nbody\r\n.\r\nMAIL FROM:<evil@example.org>\r\n",
        "a\n.\nb",
        "bare \r CR",
        "nul \0 esc \u{1b} nel \u{85} ls \u{2028}",
        "\u{202E}turned",
        "\"quoted\", <evil@example.org>, (x",
        &long,
        &wide,
    ];
    let mut fake = FakeSmtp::start(Options::new(Protection::None)).await;
    for line in lines {
        let mut settings = mail_settings(&fake, Tls::None);
        settings.from.name = Some(line.to_owned());
        settings.to.iter_mut().for_each(|to| to.name = Some(line.to_owned()));
        let text = if line == long { huge.clone() } else { line.to_owned() };
        let html = Some(text.clone());
        let content = Content::Mail { subject: line.to_owned(), text, html };
        let message = Message { thread: Some(line.to_owned()), ..message(content) };
        let report = send(&Settings::Email(settings), &clients(), &message).await;
        assert_eq!(report.outcome, Outcome::Delivered, "{report:?}");
        let mail = fake.mail().await;
        assert_eq!((mail.from.as_str(), mail.to.len()), ("relay@example.org", 3));
        let (head, _) = str::from_utf8(&mail.data).unwrap().split_once("\r\n\r\n").unwrap();
        assert!(head.is_ascii() && mail.data.is_ascii());
        let names: Vec<_> = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])).collect();
        assert_eq!(names.len(), 12, "{names:#?}");
        let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
        assert_eq!((parsed.parts.len(), parsed.bcc().is_none()), (3, true));
        assert_eq!(parsed.to().unwrap().iter().count(), 3);
    }
    assert_eq!(fake.commands().iter().filter(|command| *command == ".").count(), lines.len());
    assert!(fake.try_mail().is_none());
}

// ---- The document ----

/// The tables of `docs/CHANNELS.md` are those the program decides by; `INSTA_UPDATE=always` writes them.
#[test]
fn the_document_has_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CHANNELS.md");
    let document = std::fs::read_to_string(path).unwrap();
    let mut written = document.clone();
    for contract in contract::all() {
        let mut table = "| answer | class | why |\n|---|---|---|\n".to_owned();
        for line in &contract.lines {
            let class = line.outcome.name().replace('_', " ");
            table = format!("{table}| {} | {class} | {} |\n", line.seen, line.why);
        }
        let heading = format!("### {}\n", contract.title);
        let at = written.find(&heading).unwrap_or_else(|| panic!("no section {heading:?}")) + heading.len();
        let start = at + written[at..].find("| answer ").expect("the section has a table");
        let end = start + written[start..].find("\n\n").map_or(written.len() - start, |end| end + 1);
        written.replace_range(start..end, &table);
    }
    if std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always") {
        std::fs::write(path, &written).unwrap();
        return;
    }
    let differs = document.lines().zip(written.lines()).find(|(found, expected)| found != expected);
    assert!(document == written, "docs/CHANNELS.md is out of step ({differs:?}); write it with INSTA_UPDATE=always");
}
