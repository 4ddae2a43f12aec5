//! The inbox: takes what the relay sends, answers as the channel would, keeps the newest messages in memory and shows
//! them on a page. Messages are stored and served as JSON; only the page interprets them, and builds text nodes.
//!
//! | request | answer |
//! |---|---|
//! | `POST /slack/{destination}` | 200 `ok`; 400 and Slack's error word |
//! | `POST /teams/{destination}` | 202, empty; 400; 413 over 28 KB |
//! | `POST /webhook/{destination}` | 204; 400 when it is not JSON |
//! | `GET /` | the page |
//! | `GET /api/messages?after=N` | messages with a number above N, oldest first |

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::answers;
use super::mail::{Letter, Mail};
use crate::model::{Channel, Timestamp};

pub(super) const PAGE: &str = include_str!("inbox.html");
const MESSAGES_MAX: usize = 200;
const MESSAGES_BYTES_MAX: usize = 32 * 1024 * 1024;
const BODY_BYTES_MAX: usize = 1024 * 1024;
const NAME_BYTES_MAX: usize = 128;

/// The messages received so far. Cloning it gives another handle to the same.
#[derive(Clone)]
pub(super) struct Inbox(Arc<Mutex<Contents>>);

struct Contents {
    started: Timestamp,
    /// Of the newest message; the first has 1.
    last_number: u64,
    /// Of all messages, also those dropped.
    counts: BTreeMap<&'static str, u64>,
    messages: VecDeque<Received>,
    bytes: usize,
    /// Mail address in lower case to destination.
    mailboxes: BTreeMap<String, String>,
}

#[derive(Clone, Serialize)]
struct Received {
    number: u64,
    channel: &'static str,
    destination: String,
    /// RFC 3339.
    at: String,
    /// Size as it came.
    bytes: usize,
    /// Slack, Teams: the payload. Webhook: `headers` and `body`. Email: the letter and its `envelope`.
    content: Value,
}

impl Inbox {
    pub(super) fn new(started: Timestamp) -> Self {
        let counts = Channel::ALL.iter().map(|channel| (channel.name(), 0)).collect();
        Self(Arc::new(Mutex::new(Contents {
            started,
            last_number: 0,
            counts,
            messages: VecDeque::new(),
            bytes: 0,
            mailboxes: BTreeMap::new(),
        })))
    }

    pub(super) fn name_mailbox(&self, address: &str, destination: &str) {
        self.lock().mailboxes.insert(address.to_lowercase(), destination.to_owned());
    }

    /// Until the sending side is closed.
    pub(super) async fn take_mails(self, mut mails: mpsc::Receiver<Mail>) {
        while let Some(mail) = mails.recv().await {
            self.add_mail(&mail, super::now());
        }
    }

    fn add_mail(&self, mail: &Mail, now: Timestamp) {
        let letter = Letter::read(&mail.bytes);
        let mut content = json!(letter);
        content["envelope"] = json!({"from": mail.from, "to": mail.to});
        let first = mail.to.first().cloned().unwrap_or_default();
        let known = mail.to.iter().find_map(|address| self.lock().mailboxes.get(&address.to_lowercase()).cloned());
        self.add(Channel::Email, known.unwrap_or(first), mail.bytes.len(), content, now);
    }

    fn add(&self, channel: Channel, destination: String, bytes: usize, content: Value, now: Timestamp) {
        let mut contents = self.lock();
        contents.last_number += 1;
        *contents.counts.entry(channel.name()).or_default() += 1;
        let (number, channel, at) = (contents.last_number, channel.name(), now.to_string());
        contents.messages.push_back(Received { number, channel, destination, at, bytes, content });
        contents.bytes += bytes;
        while contents.messages.len() > MESSAGES_MAX || contents.bytes > MESSAGES_BYTES_MAX {
            let Some(oldest) = contents.messages.pop_front() else { break };
            contents.bytes -= oldest.bytes;
        }
    }

    /// `started` tells the page that a new process has begun to count from 1 again.
    fn after(&self, number: u64) -> Value {
        let contents = self.lock();
        let messages: Vec<&Received> = contents.messages.iter().filter(|message| message.number > number).collect();
        json!({
            "started": contents.started.to_string(),
            "last": contents.last_number,
            "counts": contents.counts,
            "messages": messages,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn router(inbox: Inbox) -> Router {
    Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/api/messages", get(messages))
        .route("/slack/{destination}", post(slack))
        .route("/teams/{destination}", post(teams))
        .route("/webhook/{destination}", post(webhook))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(page_policy(), with_security_headers))
        .with_state(inbox)
}

#[derive(Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn messages(State(inbox): State<Inbox>, Query(query): Query<After>) -> Response {
    axum::Json(inbox.after(query.after)).into_response()
}

async fn slack(State(inbox): State<Inbox>, Path(destination): Path<String>, body: Bytes) -> (StatusCode, &'static str) {
    if !good_name(&destination) {
        return (StatusCode::NOT_FOUND, "no_service");
    }
    let Ok(payload) = serde_json::from_slice(&body) else {
        return (StatusCode::BAD_REQUEST, "invalid_payload");
    };
    if let Some(word) = answers::slack_refusal(&payload) {
        return (StatusCode::BAD_REQUEST, word);
    }
    inbox.add(Channel::Slack, destination, body.len(), payload, super::now());
    (StatusCode::OK, "ok")
}

async fn teams(State(inbox): State<Inbox>, Path(destination): Path<String>, body: Bytes) -> (StatusCode, &'static str) {
    if !good_name(&destination) {
        return (StatusCode::NOT_FOUND, "no such workflow");
    }
    if body.len() > answers::TEAMS_BYTES_MAX {
        return (StatusCode::PAYLOAD_TOO_LARGE, "request entity too large");
    }
    let Ok(payload) = serde_json::from_slice(&body) else {
        return (StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    if let Some(what) = answers::teams_refusal(&payload) {
        return (StatusCode::BAD_REQUEST, what);
    }
    inbox.add(Channel::Teams, destination, body.len(), payload, super::now());
    (StatusCode::ACCEPTED, "")
}

async fn webhook(
    State(inbox): State<Inbox>,
    Path(destination): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    if !good_name(&destination) {
        return (StatusCode::NOT_FOUND, "no such webhook");
    }
    let Ok(body_json) = serde_json::from_slice::<Value>(&body) else {
        return (StatusCode::BAD_REQUEST, "the body is not JSON");
    };
    let shown = ["content-type", "user-agent", "webhook-id", "webhook-timestamp", "webhook-signature"];
    let headers: Map<String, Value> =
        shown.iter().filter_map(|name| Some(((*name).to_owned(), json!(headers.get(*name)?.to_str().ok()?)))).collect();
    let content = json!({"headers": headers, "body": body_json});
    inbox.add(Channel::Webhook, destination, body.len(), content, super::now());
    (StatusCode::NO_CONTENT, "")
}

fn good_name(destination: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&destination.len()) && !destination.chars().any(char::is_control)
}

/// Runs the page's one script, known by its hash, and lets it talk to us: nothing else runs and nothing is fetched.
/// Inline styles are open because the frames that show mail inherit this policy, and mail is styled inline.
fn page_policy() -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src {}; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        script_source(),
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// The page's one script, as a policy names it.
pub(super) fn script_source() -> String {
    let script =
        PAGE.split_once("<script>").and_then(|(_, rest)| rest.split_once("</script>")).map(|(script, _)| script);
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(script.unwrap_or_default())))
}

async fn with_security_headers(State(policy): State<HeaderValue>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    ];
    response.headers_mut().extend(headers);
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_426_860_000);

    async fn send(inbox: &Inbox, method: &str, path: &str, body: impl Into<Body>) -> (u16, HeaderMap, String) {
        let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
        let answer = router(inbox.clone()).oneshot(request).await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = axum::body::to_bytes(answer.into_body(), 10 << 20).await.unwrap();
        (status, headers, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn list(inbox: &Inbox, after: u64) -> Value {
        let (status, _, body) = send(inbox, "GET", &format!("/api/messages?after={after}"), "").await;
        assert_eq!(status, 200);
        serde_json::from_str(&body).unwrap()
    }

    fn card() -> Value {
        json!({"type": "message", "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive",
            "content": {"type": "AdaptiveCard", "version": "1.4", "body": []}}]})
    }

    #[tokio::test]
    async fn each_channel_is_answered_and_listed() {
        let inbox = Inbox::new(NOW);
        let cases = [
            ("/slack/sec-slack", json!({"text": "x"}), 200, "ok"),
            ("/teams/it-teams", card(), 202, ""),
            ("/webhook/soar", json!([1]), 204, ""),
        ];
        for (path, body, status, answer) in cases {
            let (got, _, text) = send(&inbox, "POST", path, body.to_string()).await;
            assert_eq!((got, text.as_str()), (status, answer), "{path}");
        }
        let mail = Mail {
            from: "relay@example.org".to_owned(),
            to: vec!["a@example.org".to_owned(), "B@example.org".to_owned()],
            bytes: b"Subject: hello\r\n\r\nworld\r\n".to_vec(),
        };
        inbox.add_mail(&mail, NOW);
        inbox.name_mailbox("b@Example.org", "compliance");
        inbox.add_mail(&mail, NOW);

        let body = list(&inbox, 0).await;
        assert_eq!(body["counts"], json!({"email": 2, "slack": 1, "teams": 1, "webhook": 1}));
        let messages = body["messages"].as_array().unwrap();
        let named: Vec<_> = messages.iter().map(|one| (one["channel"].as_str(), one["destination"].as_str())).collect();
        let expected = [
            ("slack", "sec-slack"),
            ("teams", "it-teams"),
            ("webhook", "soar"),
            ("email", "a@example.org"),
            ("email", "compliance"),
        ];
        assert_eq!(named, expected.map(|(channel, name)| (Some(channel), Some(name))));
        assert_eq!(messages[0]["content"], json!({"text": "x"}));
        assert_eq!(messages[2]["content"], json!({"headers": {}, "body": [1]}));
        assert_eq!(messages[3]["content"]["subject"], "hello");
        assert_eq!(messages[3]["at"], "2026-11-23T09:41:00Z");
        let newer = list(&inbox, 4).await;
        assert_eq!((&newer["last"], newer["messages"].as_array().unwrap().len()), (&json!(5), 1));
    }

    #[tokio::test]
    async fn what_is_refused_is_not_listed() {
        let inbox = Inbox::new(NOW);
        let big_card = format!("{}{}", card(), " ".repeat(28 * 1024));
        let long_name = format!("/webhook/{}", "x".repeat(129));
        let cases = [
            ("/slack/x", "{", 400, "invalid_payload"),
            ("/slack/x", "{}", 400, "no_text"),
            ("/slack/%0A", r#"{"text":"x"}"#, 404, "no_service"),
            ("/teams/x", "{", 400, "the body is not JSON"),
            ("/teams/x", "{}", 400, "`type` must be `message`"),
            ("/teams/x", big_card.as_str(), 413, "request entity too large"),
            ("/webhook/x", "x=1", 400, "the body is not JSON"),
            (long_name.as_str(), "{}", 404, "no such webhook"),
        ];
        for (path, body, status, answer) in cases {
            let (got, _, text) = send(&inbox, "POST", path, body.to_owned()).await;
            assert_eq!((got, text.as_str()), (status, answer), "{path}");
        }
        let huge = format!(r#"{{"x":"{}"}}"#, "x".repeat(BODY_BYTES_MAX));
        assert_eq!(send(&inbox, "POST", "/webhook/x", huge).await.0, 413);
        assert_eq!(send(&inbox, "GET", "/slack/x", "").await.0, 405);
        assert_eq!(send(&inbox, "GET", "/api/messages?after=x", "").await.0, 400);
        assert_eq!(list(&inbox, 0).await["last"], 0);
    }

    #[tokio::test]
    async fn webhook_headers_are_kept() {
        let inbox = Inbox::new(NOW);
        let request = Request::post("/webhook/soar").header("webhook-id", "7F3K").header("authorization", "Bearer x");
        router(inbox.clone()).oneshot(request.body(Body::from("{}")).unwrap()).await.unwrap();
        assert_eq!(list(&inbox, 0).await["messages"][0]["content"]["headers"], json!({"webhook-id": "7F3K"}));
    }

    #[test]
    fn the_oldest_are_dropped() {
        let inbox = Inbox::new(NOW);
        for _ in 0..MESSAGES_MAX + 3 {
            inbox.add(Channel::Slack, "x".to_owned(), 1, json!({}), NOW);
        }
        let body = inbox.after(0);
        assert_eq!(body["messages"].as_array().unwrap().len(), MESSAGES_MAX);
        assert_eq!((&body["messages"][0]["number"], &body["counts"]["slack"]), (&json!(4), &json!(MESSAGES_MAX + 3)));
        for _ in 0..3 {
            inbox.add(Channel::Webhook, "x".to_owned(), MESSAGES_BYTES_MAX / 2, json!({}), NOW);
        }
        assert_eq!(inbox.after(0)["messages"].as_array().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn the_page_comes_with_a_policy_that_names_its_script() {
        let (status, headers, body) = send(&Inbox::new(NOW), "GET", "/", "").await;
        assert_eq!((status, body.as_str()), (200, PAGE));
        let policy = headers["content-security-policy"].to_str().unwrap();
        let script = body.split_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
        assert!(script.len() > 1000);
        assert!(policy.contains(&format!("script-src 'sha256-{}';", STANDARD.encode(Sha256::digest(script)))));
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("http") && !policy.contains('*'));
        assert_eq!(headers["x-content-type-options"], "nosniff");
    }

    #[test]
    fn the_page_fetches_nothing_and_never_parses_message_text() {
        assert_eq!(PAGE.matches("<script").count(), 1);
        let sinks = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"];
        let remote = ["src=\"http", "href=\"http", "url(http", "@import", "allow-scripts"];
        for word in sinks.iter().chain(&remote) {
            assert!(!PAGE.contains(word), "{word}");
        }
    }
}
