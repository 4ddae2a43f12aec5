//! What `halo-relay demo` has besides the real relay, all on this machine:
//!
//! ```text
//! event_api ──GET /api/v1/event/list.json──► the relay ──POST /slack/{destination}────┐
//!     ▲                                          │      ──POST /teams/{destination}────┼─► inbox ◄── GET / (a browser)
//!    feed                                        │      ──POST /webhook/{destination}──┘     ▲
//!                                                └──SMTP──────────────────────────► mail ────┘
//! ```
//!
//! - `event_api`: a simulated Halo event API whose history grows by what `feed` makes up.
//! - `mail`: a mail server that keeps what it gets.
//! - `inbox`: takes what the relay sends, answers as Slack, Teams or a webhook receiver would, shows each message as a
//!   person would see it.
//! - `preview`: the same page with one message in it, for `halo-relay render --html`.
//!
//! Nothing here knows the relay itself, and nothing leaves the machine. All state is in memory, bounded, and gone at the end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::model::{Channel, Secret, Timestamp};
use crate::serve::{self, Limits};
use inbox::Inbox;

mod answers;
mod event_api;
mod feed;
mod inbox;
mod mail;
pub mod preview;

/// The demo's services, serving. Dropping it stops them at once; `shutdown` stops them in good order.
#[must_use = "dropping it stops the services"]
pub struct Running {
    /// The inbox page, and where Slack, Teams and webhook messages go.
    pub inbox: SocketAddr,
    pub api: SocketAddr,
    pub smtp: SocketAddr,
    /// What the event API wants as `x-apikey`. No secret: it opens made-up events on loopback.
    pub api_key: Secret,
    mailboxes: Inbox,
    tasks: JoinSet<()>,
}

/// Binds the inbox to `listen`, the event API and the mail server to free ports of loopback, and serves all three until
/// `shutdown`. The first event exists when this returns. Fails if an address cannot be bound.
pub async fn start(listen: SocketAddr, seed: u64, shutdown: CancellationToken) -> io::Result<Running> {
    let loopback = (Ipv4Addr::LOCALHOST, 0);
    let (inbox, api, smtp) =
        (TcpListener::bind(listen).await?, TcpListener::bind(loopback).await?, TcpListener::bind(loopback).await?);
    let api_key = Secret::new(format!("demo-{seed:016x}"));
    let mut feed = feed::Feed::new(seed)?;
    let history = event_api::History::new();
    history.add(feed.events(1, now()));
    let mailboxes = Inbox::new(now());
    let (mails, received) = mpsc::channel(16);

    let mut running = Running {
        inbox: inbox.local_addr()?,
        api: api.local_addr()?,
        smtp: smtp.local_addr()?,
        api_key: api_key.clone(),
        mailboxes: mailboxes.clone(),
        tasks: JoinSet::new(),
    };
    let tasks = &mut running.tasks;
    tasks.spawn(serve_http(inbox, inbox::router(mailboxes.clone()), shutdown.clone()));
    tasks.spawn(serve_http(api, event_api::router(history.clone(), api_key), shutdown.clone()));
    tasks.spawn(event_api::grow(history, feed, shutdown.clone()));
    tasks.spawn(mailboxes.take_mails(received));
    tasks.spawn(mail::serve(smtp, mails, shutdown));
    Ok(running)
}

impl Running {
    /// Where a browser finds the page.
    pub fn page_url(&self) -> String {
        format!("http://{}/", reachable(self.inbox))
    }

    /// For `base_url` of a `type: halo` source.
    pub fn api_base_url(&self) -> String {
        format!("http://{}{}", self.api, event_api::BASE_PATH)
    }

    /// For `url` of a destination; `None` for email, which goes to [`smtp`](Self::smtp) without TLS and login.
    /// Letters, digits, `-`, `_` and `.` of the name stay, other bytes are percent-encoded.
    pub fn destination_url(&self, channel: Channel, destination: &str) -> Option<String> {
        use std::fmt::Write as _;
        if channel == Channel::Email {
            return None;
        }
        let mut url = format!("http://{}/{channel}/", reachable(self.inbox));
        for byte in destination.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
                url.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                let _ = write!(url, "%{byte:02X}");
            }
        }
        Some(url)
    }

    /// Mail to `address` is shown under this destination's name; otherwise under the address itself.
    pub fn name_mailbox(&self, address: &str, destination: &str) {
        self.mailboxes.name_mailbox(address, destination);
    }

    /// Waits until all services have ended after `shutdown`; fails if one of them panicked.
    pub async fn stopped(mut self) -> io::Result<()> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// An address to connect to: one bound to all interfaces is reached on loopback.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let ip = match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bound.port())
}

const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// Nobody should wait long for a demo to end.
const LIMITS: Limits =
    Limits { connections: 128, header_time: REQUEST_WAIT, connection_age: Duration::from_mins(10), drain: DRAIN };
const DRAIN: Duration = Duration::from_secs(2);

async fn serve_http(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    serve::serve(listener, router.layer(middleware::from_fn(with_deadline)), LIMITS, shutdown).await;
}

/// Also covers reading the body, which happens inside.
async fn with_deadline(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_WAIT, next.run(request)).await;
    answer.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}

/// Stamps made-up events and what is shown; no decision hangs on it.
fn now() -> Timestamp {
    static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::start);
    CLOCK.now()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// One request on a connection of its own; status and body.
    async fn http(address: SocketAddr, head: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = body.len();
        let request = format!("{head}\r\nhost: demo\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn messages(demo: &Running) -> Vec<Value> {
        let (_, body) = http(demo.inbox, "GET /api/messages HTTP/1.1", "").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        body["messages"].as_array().unwrap().clone()
    }

    #[tokio::test]
    async fn the_parts_work_together() {
        let shutdown = CancellationToken::new();
        let demo = start("127.0.0.1:0".parse().unwrap(), 1, shutdown.clone()).await.unwrap();
        demo.name_mailbox("Compliance@example.org", "compliance");

        let head = format!("GET /api/v1/event/list.json HTTP/1.1\r\nx-apikey: {}", demo.api_key.expose());
        let (status, body) = http(demo.api, &head, "").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["list"][0]["event"]["key"]), (200, &json!("website-cert-expiring")));

        let answer = http(demo.inbox, "POST /slack/sec-slack HTTP/1.1", r#"{"text":"hello"}"#).await;
        assert_eq!(answer, (200, "ok".to_owned()));

        let mut smtp = TcpStream::connect(demo.smtp).await.unwrap();
        let dialogue = "EHLO relay\r\nMAIL FROM:<relay@example.org>\r\nRCPT TO:<compliance@example.org>\r\nDATA\r\n\
            Subject: hello\r\n\r\nworld\r\n.\r\nQUIT\r\n";
        smtp.write_all(dialogue.as_bytes()).await.unwrap();
        smtp.read_to_string(&mut String::new()).await.unwrap();
        let seen = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                let seen = messages(&demo).await;
                if seen.len() == 2 {
                    return seen;
                }
                tokio::task::yield_now().await;
            }
        });
        let seen = seen.await.expect("both messages arrive");
        assert_eq!(seen[0]["destination"], "sec-slack");
        assert_eq!((&seen[1]["destination"], &seen[1]["content"]["subject"]), (&json!("compliance"), &json!("hello")));

        shutdown.cancel();
        let stopped = tokio::time::timeout(DRAIN * 2, demo.stopped()).await;
        stopped.expect("all services end").unwrap();
    }

    #[tokio::test]
    async fn urls() {
        let demo = start("0.0.0.0:0".parse().unwrap(), 1, CancellationToken::new()).await.unwrap();
        let port = demo.inbox.port();
        assert_eq!(demo.page_url(), format!("http://127.0.0.1:{port}/"));
        assert_eq!(demo.api_base_url(), format!("http://{}/api/v1", demo.api));
        let url = demo.destination_url(Channel::Teams, "it/teams é").unwrap();
        assert_eq!(url, format!("http://127.0.0.1:{port}/teams/it%2Fteams%20%C3%A9"));
        assert_eq!(demo.destination_url(Channel::Email, "compliance"), None);
        let path = url.split_once("127.0.0.1:").unwrap().1.split_once('/').unwrap().1;
        let card = r#"{"type":"message","attachments":[{"contentType":"application/vnd.microsoft.card.adaptive","content":{"type":"AdaptiveCard","version":"1.4","body":[]}}]}"#;
        let (status, _) = http(demo.inbox, &format!("POST /{path} HTTP/1.1"), card).await;
        assert_eq!((status, &messages(&demo).await[0]["destination"]), (202, &json!("it/teams é")));
    }
}
