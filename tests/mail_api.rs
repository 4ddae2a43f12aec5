//! Each mail service's HTTP API against a strict fake of it: what goes out, and what every answer is taken for.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/http.rs"]
mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use halo_relay::deliver::contract::{self, Contract};
use halo_relay::deliver::email::api::{self, Service, ses::Credentials};
use halo_relay::deliver::email::{self, Way};
use halo_relay::deliver::{Clients, Notifier, Settings, Timeouts};
use halo_relay::model::{Content, DeliveryId, Message, Outcome, Report, Secret, Timestamp};
use http::{FakeHttp, Reply, Request};
use serde_json::{Value, json};

/// 2015-10-21T07:28:00Z
const NOW: Timestamp = Timestamp::from_millis(1_445_412_480_000);

fn key() -> Secret {
    Secret::new("s3cret-key")
}

fn ses(session_token: Option<Secret>) -> Service {
    let credentials = Credentials { access_key_id: Secret::new("AKIDs3cret"), secret_access_key: key(), session_token };
    Service::Ses { region: "eu-west-1".to_owned(), credentials }
}

/// All five, by the title of their contract.
fn services() -> [(&'static str, Service); 5] {
    [
        ("Email: Amazon SES", ses(None)),
        ("Email: Mailgun", Service::Mailgun { key: key(), domain: "mg.example.org".to_owned() }),
        ("Email: Postmark", Service::Postmark { key: key(), stream: None }),
        ("Email: Resend", Service::Resend { key: key() }),
        ("Email: SendGrid", Service::SendGrid { key: key() }),
    ]
}

fn settings(service: Service, base_url: &str) -> email::Settings {
    let to = ["bob@example.org", "\"Joe Sender, jr\" <joe@example.org>", "BOB@example.org"];
    email::Settings {
        way: Way::Api(api::Settings { service, base_url: base_url.to_owned() }),
        from: "\"Halo: relay\" <relay@example.org>".parse().unwrap(),
        to: to.map(|to| to.parse().unwrap()).into(),
        name: "compliance".into(),
    }
}

fn message() -> Message {
    let subject = "HIGH · certificate expiring".to_owned();
    let content = Content::Mail { subject, text: "text · 7 days\n".to_owned(), html: Some("<p>html</p>".to_owned()) };
    Message { id: DeliveryId::new("k3", 255), content, thread: None, reply_to: None }
}

async fn send(settings: email::Settings, clients: &Clients, message: &Message) -> Report {
    let notifier = Notifier::new(&Settings::Email(settings), clients).unwrap();
    assert!(!format!("{notifier:?}").contains("s3cret"), "{notifier:?}");
    let report = notifier.send(message, NOW).await;
    let Report { detail, .. } = &report;
    assert!(!detail.is_empty() && !detail.contains('\n') && detail.len() < 300, "{detail:?}");
    for secret in ["s3cret", "SECRET", "certificate", "http://", "https://", "bob", "relay@"] {
        assert!(!detail.contains(secret), "{detail:?} shows {secret:?}");
    }
    report
}

// ---- What goes out ----

/// The one request of a message to a service that answers with success.
async fn request(service: Service, success: (u16, &str), message: &Message) -> Request {
    let mut fake = FakeHttp::start(Reply::text(success.0, success.1)).await;
    let report = send(settings(service, &fake.url("")), &Clients::new().unwrap(), message).await;
    assert_eq!(report.outcome, Outcome::Delivered, "{}", report.detail);
    let request = fake.request().await;
    assert_eq!(request.method, "POST");
    request
}

const COMMON: [&str; 5] = ["accept", "content-length", "content-type", "host", "user-agent"];

fn assert_headers(request: &Request, more: &[&str]) {
    let mut names = [&COMMON, more].concat();
    names.sort_unstable();
    assert_eq!(request.header_names(), names);
}

fn in_a_thread() -> Message {
    Message { thread: Some("t".to_owned()), ..message() }
}

const ROOT: &str = "<thread-e3b98a4da31a127d4bde6e43033f66ba@example.org>";

#[tokio::test]
async fn sendgrid_requests() {
    let service = Service::SendGrid { key: key() };
    let request = request(service, (202, ""), &in_a_thread()).await;
    assert_eq!(request.target, "/v3/mail/send");
    assert_headers(&request, &["authorization"]);
    assert_eq!(request.header("authorization"), Some("Bearer s3cret-key"));
    let expected = json!({
        // An address that comes twice would be refused.
        "personalizations": [{"to": [{"email": "bob@example.org"}, {"email": "joe@example.org", "name": "Joe Sender, jr"}]}],
        "from": {"email": "relay@example.org", "name": "Halo: relay"},
        "subject": "HIGH · certificate expiring",
        "content": [{"type": "text/plain", "value": "text · 7 days\n"}, {"type": "text/html", "value": "<p>html</p>"}],
        "headers": {
            "Message-ID": "<hr_k3_ff@example.org>",
            "Auto-Submitted": "auto-generated",
            "X-Auto-Response-Suppress": "All",
            "List-Id": "<compliance.halo-relay.example.org>",
            "In-Reply-To": ROOT,
            "References": ROOT,
        },
        "tracking_settings": {
            "click_tracking": {"enable": false, "enable_text": false},
            "open_tracking": {"enable": false},
        },
    });
    assert_eq!(request.json(), expected);
}

#[tokio::test]
async fn mailgun_requests() {
    let service = Service::Mailgun { key: key(), domain: "mg.example.org".to_owned() };
    let request = request(service, (200, r#"{"id":"<x>","message":"Queued."}"#), &in_a_thread()).await;
    assert_eq!(request.target, "/v3/mg.example.org/messages");
    assert_headers(&request, &["authorization"]);
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    let login = format!("Basic {}", STANDARD.encode("api:s3cret-key"));
    assert_eq!(request.header("authorization"), Some(login.as_str()));
    let form: Vec<(String, String)> = form_urlencoded::parse(&request.body).into_owned().collect();
    let expected = [
        ("from", "\"Halo: relay\" <relay@example.org>"),
        ("to", "bob@example.org"),
        ("to", "\"Joe Sender, jr\" <joe@example.org>"),
        ("subject", "HIGH · certificate expiring"),
        ("text", "text · 7 days\n"),
        ("html", "<p>html</p>"),
        ("h:Message-ID", "<hr_k3_ff@example.org>"),
        ("h:Auto-Submitted", "auto-generated"),
        ("h:X-Auto-Response-Suppress", "All"),
        ("h:List-Id", "<compliance.halo-relay.example.org>"),
        ("h:In-Reply-To", ROOT),
        ("h:References", ROOT),
        ("o:tracking", "no"),
    ];
    assert_eq!(form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn postmark_requests() {
    let service = |stream: Option<&str>| Service::Postmark { key: key(), stream: stream.map(str::to_owned) };
    let success = (200, r#"{"ErrorCode":0,"Message":"OK","MessageID":"x"}"#);
    let sent = request(service(Some("alerts")), success, &message()).await;
    assert_eq!(sent.target, "/email");
    assert_headers(&sent, &["x-postmark-server-token"]);
    assert_eq!(sent.header("x-postmark-server-token"), Some("s3cret-key"));
    let expected = json!({
        "From": "\"Halo: relay\" <relay@example.org>",
        "To": "bob@example.org, \"Joe Sender, jr\" <joe@example.org>",
        "Subject": "HIGH · certificate expiring",
        "TextBody": "text · 7 days\n",
        "Headers": [
            {"Name": "Message-ID", "Value": "<hr_k3_ff@example.org>"},
            {"Name": "Auto-Submitted", "Value": "auto-generated"},
            {"Name": "X-Auto-Response-Suppress", "Value": "All"},
            {"Name": "List-Id", "Value": "<compliance.halo-relay.example.org>"},
            {"Name": "X-PM-KeepID", "Value": "true"},
        ],
        "TrackOpens": false,
        "TrackLinks": "None",
        "HtmlBody": "<p>html</p>",
        "MessageStream": "alerts",
    });
    assert_eq!(sent.json(), expected);
    let sent = request(service(None), success, &plain()).await;
    assert!(sent.json().get("MessageStream").is_none() && sent.json().get("HtmlBody").is_none());
}

fn plain() -> Message {
    let content = Content::Mail { subject: "s".to_owned(), text: "t".to_owned(), html: None };
    Message { content, ..message() }
}

#[tokio::test]
async fn resend_requests() {
    let service = || Service::Resend { key: key() };
    let sent = request(service(), (200, r#"{"id":"x"}"#), &message()).await;
    assert_eq!(sent.target, "/emails");
    assert_headers(&sent, &["authorization", "idempotency-key"]);
    assert_eq!(sent.header("authorization"), Some("Bearer s3cret-key"));
    assert_eq!(sent.header("idempotency-key"), Some("hr_k3_ff"));
    let expected = json!({
        "from": "\"Halo: relay\" <relay@example.org>",
        "to": ["bob@example.org", "\"Joe Sender, jr\" <joe@example.org>"],
        "subject": "HIGH · certificate expiring",
        "text": "text · 7 days\n",
        "headers": {
            "Auto-Submitted": "auto-generated",
            "X-Auto-Response-Suppress": "All",
            "List-Id": "<compliance.halo-relay.example.org>",
        },
        "html": "<p>html</p>",
    });
    assert_eq!(sent.json(), expected);
    // The plain message that follows one that was refused is another request.
    let sent = request(service(), (200, r#"{"id":"x"}"#), &plain()).await;
    assert_eq!(sent.header("idempotency-key"), Some("hr_k3_ff-plain"));
}

#[tokio::test]
async fn ses_requests() {
    for token in [None, Some(Secret::new("s3cret-token=="))] {
        let service = ses(token.clone());
        let sent = request(service, (200, r#"{"MessageId":"x"}"#), &in_a_thread()).await;
        assert_eq!(sent.target, "/v2/email/outbound-emails");
        let mut more = vec!["authorization", "x-amz-date"];
        more.extend(token.as_ref().map(|_| "x-amz-security-token"));
        assert_headers(&sent, &more);
        assert_eq!(sent.header("x-amz-date"), Some("20151021T072800Z"));
        assert_eq!(sent.header("x-amz-security-token"), token.as_ref().map(|_| "s3cret-token=="));
        let signed = if token.is_some() { ";x-amz-security-token" } else { "" };
        let start = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDs3cret/20151021/eu-west-1/ses/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date{signed}, Signature="
        );
        let authorization = sent.header("authorization").unwrap();
        let signature = authorization.strip_prefix(&start).unwrap_or_else(|| panic!("{authorization}"));
        assert_eq!(signature, signature_of(&sent), "the host in the signature is that of the request");

        let body = sent.json();
        assert_eq!(body["Destination"], json!({"ToAddresses": ["bob@example.org", "joe@example.org"]}));
        let raw = STANDARD.decode(body["Content"]["Raw"]["Data"].as_str().unwrap()).unwrap();
        let mail = mail_parser::MessageParser::default().parse(&raw).unwrap();
        assert_eq!(
            (mail.subject(), mail.message_id()),
            (Some("HIGH · certificate expiring"), Some("hr_k3_ff@example.org"))
        );
        assert_eq!(mail.in_reply_to().as_text(), Some(ROOT.trim_matches(['<', '>'])));
        assert_eq!(mail.parts.len(), 3);
        assert_eq!(mail.from().unwrap().first().unwrap().name(), Some("Halo: relay"));
    }
}

/// Computed anew from the request as it arrived, as the service would.
fn signature_of(request: &Request) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use sha2::{Digest as _, Sha256};
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let names = request.header("authorization").unwrap();
    let names = names.split("SignedHeaders=").nth(1).unwrap().split(',').next().unwrap();
    let headers: Vec<_> = names.split(';').map(|name| format!("{name}:{}\n", request.header(name).unwrap())).collect();
    let body = hex(&Sha256::digest(&request.body));
    let canonical = format!("POST\n{}\n\n{}\n{names}\n{body}", request.target, headers.concat());
    let scope = "20151021/eu-west-1/ses/aws4_request";
    let text = format!("AWS4-HMAC-SHA256\n20151021T072800Z\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let mac = |key: Vec<u8>, text: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let key = ["20151021", "eu-west-1", "ses", "aws4_request"]
        .iter()
        .fold(b"AWS4s3cret-key".to_vec(), |key, step| mac(key, step));
    hex(&mac(key, &text))
}

/// What would break out of a header, a form or an address stays in its place.
#[tokio::test]
async fn hostile_text_keeps_its_place() {
    let evil = "a\r\nBcc: evil@example.org\0\u{202E}\" <evil@example.org>, & = \u{1F980}".to_owned();
    let content = Content::Mail { subject: evil.clone(), text: evil.clone(), html: Some(evil.clone()) };
    let hostile = Message { content, ..message() };
    let clean = "a  Bcc: evil@example.org \" <evil@example.org>, & = \u{1F980}";
    for (title, service) in services() {
        let mut fake = FakeHttp::start(Reply::status(500)).await;
        let mut settings = settings(service, &fake.url(""));
        settings.to.iter_mut().for_each(|to| to.name = Some(evil.clone()));
        send(settings, &Clients::new().unwrap(), &hostile).await;
        let request = fake.request().await;
        let shown: BTreeMap<&str, String> = if title.ends_with("Mailgun") {
            let form: Vec<(String, String)> = form_urlencoded::parse(&request.body).into_owned().collect();
            let of =
                |name: &str| form.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect();
            BTreeMap::from([("subject", of("subject")), ("text", of("text"))])
        } else {
            let body = request.json();
            let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            let raw = text("/Content/Raw/Data").map(|raw| STANDARD.decode(raw).unwrap());
            let mail = raw.as_ref().map(|raw| mail_parser::MessageParser::default().parse(raw).unwrap());
            assert!(mail.as_ref().is_none_or(|mail| mail.bcc().is_none() && mail.to().unwrap().iter().count() == 2));
            let of_mail =
                mail.as_ref().map(|mail| (mail.subject().unwrap().to_owned(), mail.body_text(0).unwrap().to_string()));
            let (subject, body) = of_mail.unwrap_or_else(|| {
                let first = |pointers: [&str; 3]| pointers.into_iter().find_map(text).unwrap();
                (first(["/subject", "/Subject", "/x"]), first(["/text", "/TextBody", "/content/0/value"]))
            });
            BTreeMap::from([("subject", subject), ("text", body.replace("\r\n", "\n"))])
        };
        assert_eq!(shown["subject"], clean, "{title}");
        assert!(shown["text"].starts_with("a\nBcc: evil@example.org"), "{title} {shown:?}");
        assert!(!shown["text"].contains('\0'), "{title}");
    }
}

#[test]
fn keys_that_no_header_can_carry() {
    let bad = || Secret::new("s3cret\nX-Evil: 1");
    for service in [
        Service::Postmark { key: bad(), stream: None },
        Service::Resend { key: bad() },
        Service::SendGrid { key: bad() },
        ses(Some(bad())),
    ] {
        let settings = Settings::Email(settings(service, "https://api.example.org"));
        let error = Notifier::new(&settings, &Clients::new().unwrap()).unwrap_err().to_string();
        assert!(!error.contains("s3cret") && error.contains("no HTTP header can carry"), "{error}");
    }
}

// ---- What answers mean ----

/// A contract's answers: the line as `docs/CHANNELS.md` has it, what it says, and answers that it is for.
type Answers = &'static [(&'static str, &'static str, &'static [(u16, &'static str)])];

const NOT_OUR_ANSWER: Answers =
    &[("HTTP 200 to 299", "ambiguous", &[(200, ""), (200, "<html>"), (201, "{}"), (204, ""), (200, "{\"id\":")])];
const PAUSE: Answers = &[("HTTP 429", "throttled", &[(429, ""), (429, "<html>SECRET")])];
const NOT_TAKEN: Answers = &[
    ("HTTP 408, 425", "transient", &[(408, ""), (425, "")]),
    ("HTTP 300 to 399", "refused_destination", &[(301, ""), (302, "{\"id\":\"x\"}"), (307, "")]),
    (
        "HTTP 401, 403, 404, 407, 410",
        "refused_destination",
        &[(401, ""), (403, "SECRET"), (404, ""), (407, ""), (410, "")],
    ),
    ("HTTP 413", "refused_content", &[(413, "too large")]),
    ("HTTP 400 to 499", "refused_content", &[(400, "SECRET"), (405, ""), (422, ""), (499, "")]),
];
const FAILED: Answers = &[
    ("HTTP 502, 504", "ambiguous", &[(502, "<html>"), (504, "")]),
    ("HTTP 500 to 599", "transient", &[(500, "SECRET"), (503, "maintenance"), (599, "")]),
    ("anything else", "transient", &[(600, ""), (999, "")]),
];

struct Walk {
    fake: FakeHttp,
    clients: Clients,
    contract: Contract,
    settings: email::Settings,
    seen: BTreeSet<String>,
}

impl Walk {
    async fn start(title: &str) -> Self {
        let fake = FakeHttp::start(Reply::status(500)).await;
        let contract = contract::all().into_iter().find(|contract| contract.title == title).unwrap();
        let (_, service) = services().into_iter().find(|(known, _)| *known == title).unwrap();
        let settings = settings(service, &fake.url(""));
        let clients = Clients::new().unwrap();
        Self { fake, clients, contract, settings, seen: BTreeSet::new() }
    }

    async fn answer(&mut self, line: &str, outcome: &str, reply: Reply) -> Report {
        let lines = &self.contract.lines;
        let found = lines.iter().find(|known| known.seen == line).unwrap_or_else(|| panic!("no line {line:?}"));
        assert_eq!(found.outcome.name(), outcome, "{line}");
        self.seen.insert(line.to_owned());
        self.fake.then(reply.clone());
        let report = send(self.settings.clone(), &self.clients, &message()).await;
        assert_eq!(report.outcome.name(), outcome, "{line} {reply:?}: {}", report.detail);
        self.fake.request().await;
        assert!(self.fake.try_request().is_none(), "{line} {reply:?}: sent twice");
        report
    }

    async fn answers(&mut self, tables: &[Answers]) {
        for (line, outcome, answers) in tables.iter().copied().flatten() {
            for (status, body) in *answers {
                let report = self.answer(line, outcome, Reply::text(*status, body)).await;
                assert_eq!((report.status, report.partial), (Some(*status), false));
            }
        }
    }

    /// Words of one outcome, as `body` wraps them; the report tells the word.
    async fn words(&mut self, outcome: &str, words: &[(u16, &str)], body: fn(&str) -> String) {
        for (status, word) in words {
            let line = self.line_of(word);
            let report = self.answer(&line, outcome, Reply::text(*status, &body(word))).await;
            assert!(report.detail.contains(word), "{}", report.detail);
        }
    }

    fn line_of(&self, word: &str) -> String {
        let lists = |seen: &str| {
            seen.split('`').any(|listed| match listed.strip_suffix('*') {
                Some(start) => word.starts_with(start),
                None => listed == word,
            })
        };
        let mut lines =
            self.contract.lines.iter().filter(|line| line.seen.starts_with('`') && !line.seen.contains('“'));
        lines.find(|line| lists(&line.seen)).unwrap_or_else(|| panic!("no line lists {word}")).seen.clone()
    }

    /// `Retry-After` where it is honoured.
    async fn pauses(&mut self) {
        for (line, status) in
            [("HTTP 429", 429), ("HTTP 408 with `Retry-After`", 408), ("HTTP 500 to 599 with `Retry-After`", 503)]
        {
            for (value, wait) in [("7", 7), ("Wed, 21 Oct 2015 07:29:00 GMT", 60), ("9999999", 86_400)] {
                let report = self.answer(line, "throttled", Reply::status(status).with("retry-after", value)).await;
                assert_eq!(report.outcome, Outcome::Throttled { wait: Some(Duration::from_secs(wait)) }, "{value}");
            }
        }
    }

    fn end(self) {
        let lines: BTreeSet<_> = self.contract.lines.iter().map(|line| line.seen.clone()).collect();
        assert_eq!(self.seen, lines, "{}", self.contract.title);
    }
}

#[tokio::test]
async fn sendgrid_by_its_contract() {
    let mut walk = Walk::start("Email: SendGrid").await;
    walk.answers(&[
        &[
            ("HTTP 202", "delivered", &[(202, ""), (202, "SECRET")]),
            (
                "HTTP 401 and “Maximum credits exceeded”",
                "throttled",
                &[(401, r#"{"errors":[{"message":"Maximum credits exceeded","field":null,"help":null}]}"#)],
            ),
        ],
        NOT_OUR_ANSWER,
        PAUSE,
        NOT_TAKEN,
        FAILED,
    ])
    .await;
    walk.pauses().await;
    let soon = (NOW.as_millis() / 1_000 + 42).to_string();
    for (reset, header, wait) in [
        (soon.as_str(), None, Some(42)),
        (soon.as_str(), Some("7"), Some(7)),
        ("1445412480", None, None),
        ("1", None, None),
        ("soon", None, None),
        ("99999999999", None, Some(86_400)),
        ("9223372036854775807", None, None),
    ] {
        let reply = Reply::status(429).with("x-ratelimit-reset", reset);
        let reply = header.map_or(reply.clone(), |value| reply.with("retry-after", value));
        let report = walk.answer("HTTP 429", "throttled", reply).await;
        assert_eq!(report.outcome, Outcome::Throttled { wait: wait.map(Duration::from_secs) }, "{reset} {header:?}");
    }
    let body = r#"{"errors":[{"message":"SECRET bob@example.org","field":"from.email","help":null}]}"#;
    let report = walk.answer("HTTP 400 to 499", "refused_content", Reply::text(400, body)).await;
    assert_eq!(report.detail, "HTTP 400: fault in `from.email`");
    walk.end();
}

#[tokio::test]
async fn mailgun_by_its_contract() {
    let mut walk = Walk::start("Email: Mailgun").await;
    walk.answers(&[
        &[
            (
                "HTTP 200 and an `id`",
                "delivered",
                &[(200, r#"{"id":"<x@mg.example.org>","message":"Queued. Thank you."}"#)],
            ),
            ("HTTP 402", "refused_destination", &[(402, r#"{"message":"SECRET"}"#)]),
        ],
        NOT_OUR_ANSWER,
        PAUSE,
        NOT_TAKEN,
        FAILED,
    ])
    .await;
    walk.pauses().await;
    walk.end();
}

#[tokio::test]
async fn postmark_by_its_contract() {
    const OK: &str = "HTTP 200 and `\"ErrorCode\": 0`";
    let mut walk = Walk::start("Email: Postmark").await;
    walk.answers(&[
        &[
            (OK, "delivered", &[(200, r#"{"ErrorCode":0,"Message":"OK","MessageID":"x","To":"SECRET"}"#)]),
            ("HTTP 200 to 299", "ambiguous", &[(200, r#"{"ErrorCode":"0"}"#), (200, r#"{"ErrorCode":7}"#)]),
        ],
        NOT_OUR_ANSWER,
        PAUSE,
        NOT_TAKEN,
        FAILED,
    ])
    .await;
    let body = |code: &str| format!(r#"{{"ErrorCode":{code},"Message":"SECRET bob@example.org"}}"#);
    walk.words("throttled", &[(422, "429")], body).await;
    walk.words("transient", &[(503, "100"), (422, "100")], body).await;
    let destination = [
        (401, "10"),
        (422, "10"),
        (422, "400"),
        (422, "401"),
        (422, "405"),
        (422, "412"),
        (422, "413"),
        (422, "1235"),
        (422, "406"),
    ];
    walk.words("refused_destination", &destination, body).await;
    walk.words("refused_content", &[(422, "300"), (422, "402"), (422, "403"), (422, "409")], body).await;
    // A code that is new: the status decides, and the code is told.
    let report = walk.answer("HTTP 400 to 499", "refused_content", Reply::text(422, &body("9999"))).await;
    assert_eq!(report.detail, "HTTP 422: ErrorCode 9999");
    // Some recipients are left out: delivered, and somebody is told.
    let told = "Message OK, but will not deliver to these inactive addresses: bob@example.org";
    let reply = Reply::text(200, &json!({"ErrorCode": 0, "Message": told}).to_string());
    let report = walk.answer(OK, "delivered", reply).await;
    assert_eq!(
        (report.partial, report.detail.as_str()),
        (true, "HTTP 200: accepted, but some recipients are inactive at Postmark")
    );
    walk.pauses().await;
    walk.end();
}

#[tokio::test]
async fn resend_by_its_contract() {
    let mut walk = Walk::start("Email: Resend").await;
    walk.answers(&[
        &[("HTTP 200 and an `id`", "delivered", &[(200, r#"{"id":"49a3999c"}"#)])],
        NOT_OUR_ANSWER,
        PAUSE,
        NOT_TAKEN,
        FAILED,
    ])
    .await;
    let body = |name: &str| format!(r#"{{"statusCode":400,"name":"{name}","message":"SECRET bob@example.org"}}"#);
    walk.words(
        "throttled",
        &[(429, "daily_quota_exceeded"), (429, "monthly_quota_exceeded"), (400, "rate_limit_exceeded")],
        body,
    )
    .await;
    walk.words("transient", &[(409, "concurrent_idempotent_requests"), (409, "resource_locked")], body).await;
    walk.words("refused_content", &[(409, "invalid_idempotent_request")], body).await;
    let destination =
        [(422, "invalid_access"), (422, "invalid_from_address"), (422, "invalid_region"), (451, "security_error")];
    walk.words("refused_destination", &destination, body).await;
    // One word, two meanings: the status tells them apart.
    for (line, outcome, status) in
        [("HTTP 401, 403, 404, 407, 410", "refused_destination", 403), ("HTTP 400 to 499", "refused_content", 422)]
    {
        let report = walk.answer(line, outcome, Reply::text(status, &body("validation_error"))).await;
        assert_eq!(report.detail, format!("HTTP {status}: validation_error"));
    }
    // A quota is of days: `Retry-After` speaks of requests a second.
    let line = walk.line_of("daily_quota_exceeded");
    for (header, wait) in [(None, 3_600), (Some("1"), 3_600), (Some("7200"), 7_200)] {
        let reply = Reply::text(429, &body("daily_quota_exceeded"));
        let reply = header.map_or(reply.clone(), |value| reply.with("retry-after", value));
        let report = walk.answer(&line, "throttled", reply).await;
        assert_eq!(report.outcome, Outcome::Throttled { wait: Some(Duration::from_secs(wait)) }, "{header:?}");
    }
    walk.pauses().await;
    walk.end();
}

#[tokio::test]
async fn ses_by_its_contract() {
    let mut walk = Walk::start("Email: Amazon SES").await;
    walk.answers(&[
        &[
            ("HTTP 200 and a `MessageId`", "delivered", &[(200, r#"{"MessageId":"010201"}"#)]),
            (
                "`MessageRejected` and “not verified”",
                "refused_destination",
                &[(400, r#"{"__type":"MessageRejected","message":"Email address is not verified. SECRET: bob@example.org"}"#)],
            ),
        ],
        NOT_OUR_ANSWER,
        PAUSE,
        NOT_TAKEN,
        FAILED,
    ])
    .await;
    let body = |word: &str| format!(r#"{{"__type":"com.amazonaws.ses#{word}:http://x","message":"SECRET"}}"#);
    let throttled = [
        (429, "TooManyRequestsException"),
        (400, "TooManyRequestsException"),
        (400, "LimitExceededException"),
        (400, "Throttling"),
        (400, "ThrottlingException"),
    ];
    walk.words("throttled", &throttled[1..], body).await;
    walk.answer("HTTP 429", "throttled", Reply::text(429, &body(throttled[0].1))).await;
    let destination = [
        (400, "AccountSuspendedException"),
        (400, "MailFromDomainNotVerifiedException"),
        (400, "SendingPausedException"),
        (403, "AccessDeniedException"),
        (400, "ExpiredTokenException"),
        (400, "IncompleteSignature"),
        (403, "InvalidClientTokenId"),
        (400, "InvalidSignatureException"),
        (403, "MissingAuthenticationTokenException"),
        (400, "NotAuthorized"),
        (403, "OptInRequired"),
        (400, "RequestExpired"),
        (403, "SignatureDoesNotMatch"),
        (400, "UnrecognizedClientException"),
    ];
    walk.words("refused_destination", &destination, body).await;
    let content = [(400, "BadRequestException"), (400, "MessageRejected"), (400, "ValidationError")];
    walk.words("refused_content", &content, body).await;
    let reply = Reply::text(400, "{}").with("x-amzn-errortype", "SendingPausedException:http://internal.amazon.com/");
    let line = walk.line_of("SendingPausedException");
    let report = walk.answer(&line, "refused_destination", reply).await;
    assert_eq!(report.detail, "HTTP 400: SendingPausedException");
    walk.pauses().await;
    walk.end();
}

/// Silence and cut connections mean here what they mean on every HTTP channel.
#[tokio::test]
async fn no_answer() {
    let short = Duration::from_millis(700);
    let clients = Clients::with_timeouts(Timeouts { connect: short, http: 2 * short, smtp: short }).unwrap();
    for (title, service) in services() {
        for reply in [Reply::Silence, Reply::Close, Reply::CutBody { status: 200, body: "{\"id\":" }] {
            let mut fake = FakeHttp::start(reply.clone()).await;
            let report = send(settings(service.clone(), &fake.url("")), &clients, &message()).await;
            assert_eq!(report.outcome, Outcome::Ambiguous, "{title} {reply:?}: {}", report.detail);
            fake.request().await;
        }
        let report = send(settings(service, "http://127.0.0.1:1"), &clients, &message()).await;
        assert_eq!(report.outcome, Outcome::Transient, "{title}: {}", report.detail);
    }
}
