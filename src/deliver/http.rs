//! The HTTP side of Slack, Teams and webhooks: one POST, its answer cut to size, and what the answer means in general.
//!
//! - Redirects are not followed: the body and the URL are for the configured host alone.
//! - Nothing that may have left is sent again here. (A request that finds a kept connection closed, and of which nothing was
//!   written, is put on a fresh one by the client below.)
//! - `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment are honoured, for on-call servers often
//!   reach the internet through a proxy only; never for loopback, which a proxy could not reach.
//! - Private addresses are allowed: destinations come from the configuration, and many tools live inside the network.
//! - Errors are shown without the URL, for a chat webhook's URL is its password.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, Url};

use super::BuildError;
use super::contract::Row;
use crate::model::{Outcome, Report, Secret, Timestamp};

/// How long a destination may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To open a connection, TLS included.
    pub connect: Duration,
    /// For a whole HTTP exchange, from connecting to the last byte of the answer.
    pub http: Duration,
    /// For each part of a mail: all up to the server's go-ahead, the message, and its acceptance.
    pub smtp: Duration,
}

impl Timeouts {
    /// A connection that takes longer will not come; Standard Webhooks asks senders to wait 15 to 30 s for an answer
    /// (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>); mail servers scan
    /// a message before they accept it, and giving up in that moment is what makes duplicates.
    pub const DEFAULT: Self =
        Self { connect: Duration::from_secs(10), http: Duration::from_secs(30), smtp: Duration::from_mins(1) };
}

/// As much of an answer as is read. The longest that a contract needs is a Slack error of a few hundred bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// As many as a webhook is sent at once: fewer would open a connection for most messages of a backlog.
const IDLE_CONNECTIONS_MAX: usize = 32;
/// Shorter than the keep-alive of common servers: a request that meets a connection just being closed has an unknown
/// outcome, so such meetings must be rare.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);
/// The longest that a destination's wish is followed. Beyond a day, somebody should look instead.
const WAIT_MAX: Duration = Duration::from_hours(24);
/// A wish is read up to this, so that it can be told.
const WISH_MAX: Duration = Duration::from_hours(10 * 365 * 24);
/// Enough for a root cause; keeps a hostile certificate's text out of the logs.
const CAUSE_CHARS_MAX: usize = 160;

/// The connections of all HTTP destinations. Built once; cheap to share by reference.
#[derive(Debug)]
pub struct Clients {
    outside: Client,
    loopback: Client,
    timeouts: Timeouts,
}

impl Clients {
    pub fn new() -> Result<Self, BuildError> {
        Self::with_timeouts(Timeouts::DEFAULT)
    }

    pub fn with_timeouts(timeouts: Timeouts) -> Result<Self, BuildError> {
        let builder = || {
            Client::builder()
                .connect_timeout(timeouts.connect)
                .timeout(timeouts.http)
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .referer(false)
                // Answers are a few words, and only a bounded part of them is read.
                .no_gzip()
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                .pool_idle_timeout(IDLE_TIME_MAX)
                .user_agent(concat!("halo-relay/", env!("CARGO_PKG_VERSION")))
        };
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| BuildError::Https(root_cause(&error.without_url())))
        };
        Ok(Self { outside: build(builder())?, loopback: build(builder().no_proxy())?, timeouts })
    }

    pub const fn timeouts(&self) -> Timeouts {
        self.timeouts
    }
}

/// What is wrong with a URL, and what to write instead. Never quotes the URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {help}")]
pub struct UrlProblem {
    pub message: String,
    pub help: String,
}

impl UrlProblem {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

/// Reads a URL that secrets or events will be sent to: `https`, or `http` to loopback or where `allow_http` says so.
pub fn check_url(url: &str, allow_http: bool) -> Result<Url, UrlProblem> {
    let url = parse(url)?;
    if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
        return Err(UrlProblem::new(
            "the URL is plain `http`, so that anyone on the way could read the message and the URL itself",
            "use `https`; plain `http` is for loopback only",
        ));
    }
    Ok(url)
}

fn parse(url: &str) -> Result<Url, UrlProblem> {
    let help = "write the whole URL, starting with `https://`";
    // The parser's reasons are fixed phrases, without a part of the URL.
    let url = Url::parse(url).map_err(|error| UrlProblem::new(format!("the URL cannot be read ({error})"), help))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlProblem::new("the URL is neither `https` nor `http`", help));
    }
    Ok(url)
}

/// Whether the URL's host is this machine.
pub fn is_to_loopback(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| is_loopback(&url))
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(host_is_loopback)
}

/// Whether a host, as a URL or a mail server's setting writes it, is this machine.
pub(super) fn host_is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether `host` is `domain` or below it.
pub(super) fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Where one destination's messages are posted.
pub(super) struct Endpoint {
    url: Url,
    client: Client,
}

impl Endpoint {
    /// `config` has judged the scheme by then (`allow_http` is its to know).
    pub(super) fn new(url: &Secret, clients: &Clients) -> Result<Self, UrlProblem> {
        let url = parse(url.expose())?;
        let client = if is_loopback(&url) { &clients.loopback } else { &clients.outside };
        Ok(Self { url, client: client.clone() })
    }

    /// Posts `body`; an error is the report of an attempt without an answer.
    pub(super) async fn post(&self, headers: HeaderMap, body: Vec<u8>, now: Timestamp) -> Result<Answer, Report> {
        self.send(Method::POST, headers, body, now).await
    }

    /// The same by another method.
    pub(super) async fn send(
        &self,
        method: Method,
        headers: HeaderMap,
        body: Vec<u8>,
        now: Timestamp,
    ) -> Result<Answer, Report> {
        let request = self.client.request(method, self.url.clone()).headers(headers).body(body);
        let mut response = request.send().await.map_err(unanswered)?;
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| parse_retry_after(value, now));
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        let (body, whole) = read_capped(response).await;
        Ok(Answer { status, retry_after, headers, body, whole })
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Endpoint(…)")
    }
}

/// Headers of a JSON body. Slack asks for the charset; the others do not mind it.
pub(super) fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"))])
}

/// A JSON body, as it goes on the wire.
pub(super) fn json_body(body: &serde_json::Value) -> Vec<u8> {
    // A value always serialises.
    serde_json::to_vec(body).unwrap_or_default()
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    /// Whether `body` is all of it: neither cut by us nor lost on the way.
    pub(super) whole: bool,
}

impl Answer {
    /// The body without surrounding space, empty if it is no UTF-8.
    pub(super) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap_or_default().trim()
    }

    /// A header's first value, if it is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(super) fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// `note` must be of our own or checked words, never raw text from the wire.
    ///
    /// Of a pause, this adds how long the header asks to wait, cut to [`WAIT_MAX`]; a `wait` in the outcome, which a channel
    /// found in the body, counts where the header is silent. To wait no time at all is no wish, so that the caller's own
    /// backoff applies.
    pub(super) fn report(&self, outcome: Outcome, note: Option<&str>) -> Report {
        let mut detail = format!("HTTP {}", self.status);
        match note {
            Some(note) => detail = format!("{detail}: {note}"),
            None if (300..400).contains(&self.status) => detail.push_str(": redirects are not followed"),
            None => {}
        }
        let asked = match outcome {
            Outcome::Throttled { wait } => [self.retry_after, wait].into_iter().flatten().find(|wait| !wait.is_zero()),
            _ => None,
        };
        let Some(asked) = asked else { return Report::new(outcome, Some(self.status), detail) };
        let wait = asked.min(WAIT_MAX);
        let cut = if wait < asked { ", of which one day is kept" } else { "" };
        detail = format!("{detail}, asks to wait {}{cut}", humantime::format_duration(asked));
        let outcome = Outcome::Throttled { wait: Some(wait) };
        Report::new(outcome, Some(self.status), detail)
    }
}

/// How long a `Retry-After` asks to wait: seconds (whole or not) or an HTTP date, a past one being zero; `None` for
/// anything else. <https://www.rfc-editor.org/rfc/rfc9110#field.retry-after>
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if value.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        // `f64` also reads `1e9`; the bound takes care of that.
        return value.parse().ok().and_then(bounded_wait);
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Timestamp::from(date).since(now).min(WISH_MAX))
}

/// A wait in seconds from the wire, cut to [`WISH_MAX`]; `None` if it is negative or not a number.
pub(super) fn bounded_wait(seconds: f64) -> Option<Duration> {
    // To the millisecond: more would be noise, and unreadable in a log.
    let whole = |seconds: f64| Duration::from_secs_f64((seconds * 1_000.0).round() / 1_000.0);
    (seconds >= 0.0).then(|| whole(seconds.min(WISH_MAX.as_secs_f64())))
}

/// Reads up to the limit. Says whether that was the whole body.
async fn read_capped(mut response: Response) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return (body, true),
            Ok(Some(chunk)) => {
                let room = BODY_BYTES_MAX - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    return (body, false);
                }
            }
            Err(_) => return (body, false),
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    NoConnection,
    NotSent,
    Unbuilt,
    TimedOut,
    Lost,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoConnection => "no connection: DNS, refused, TLS, proxy, or not within 10 s",
            Self::NotSent => "the connection was lost before anything was sent",
            Self::Unbuilt => "no request can be built of the URL",
            Self::TimedOut => "connected, and no answer within 30 s",
            Self::Lost => "the connection was lost before the answer",
        })
    }
}

/// What it means to have no answer, on every HTTP channel.
pub(super) const FAULTS: &[Row<Fault>] = &[
    Row { seen: Fault::NoConnection, outcome: Outcome::Transient, why: "Nothing has left", source: "" },
    Row { seen: Fault::NotSent, outcome: Outcome::Transient, why: "Nothing has left", source: "" },
    Row {
        seen: Fault::Unbuilt,
        outcome: Outcome::RefusedDestination,
        why: "Nothing has left. Set the URL",
        source: "",
    },
    Row { seen: Fault::TimedOut, outcome: Outcome::Ambiguous, why: "The message may have been taken", source: "" },
    Row { seen: Fault::Lost, outcome: Outcome::Ambiguous, why: "The message may have been taken", source: "" },
];

fn unanswered(error: reqwest::Error) -> Report {
    let error = error.without_url();
    let (fault, what) = if error.is_connect() {
        (Fault::NoConnection, "cannot connect")
    } else if error.is_builder() {
        (Fault::Unbuilt, "the request cannot be built")
    } else if never_left(&error) {
        (Fault::NotSent, "the connection was lost before the message was sent")
    } else if error.is_timeout() {
        (Fault::TimedOut, "no answer in time; the message may have arrived")
    } else {
        (Fault::Lost, "the connection was lost before an answer; the message may have arrived")
    };
    let row = FAULTS.iter().find(|row| row.seen == fault);
    let outcome = row.map_or(Outcome::Ambiguous, |row| row.outcome.clone());
    Report::new(outcome, None, format!("{what} ({})", root_cause(&error)))
}

/// Whether the connection closed before a byte of the request was written: hyper then gives the request back as canceled.
fn never_left(error: &(dyn std::error::Error + 'static)) -> bool {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.filter_map(|error| error.downcast_ref::<hyper::Error>()).any(hyper::Error::is_canceled)
}

/// The innermost reason, the one that helps: `Connection refused`, `invalid peer certificate: Expired`.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().chars().filter(|letter| !letter.is_control()).take(CAUSE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_told_and_kept_short() {
        let report = |millis: Option<u64>| {
            let retry_after = millis.map(Duration::from_millis);
            let answer = Answer { status: 429, retry_after, ..Answer::default() };
            let report = answer.report(Outcome::Throttled { wait: None }, None);
            let Outcome::Throttled { wait } = report.outcome else { panic!("{report:?}") };
            (wait.map(|wait| u64::try_from(wait.as_millis()).unwrap()), report.detail)
        };
        let cases = [
            (None, None, "HTTP 429"),
            (Some(0), None, "HTTP 429"),
            (Some(1_500), Some(1_500), "HTTP 429, asks to wait 1s 500ms"),
            (Some(86_400_000), Some(86_400_000), "HTTP 429, asks to wait 1day"),
            (Some(86_401_000), Some(86_400_000), "HTTP 429, asks to wait 1day 1s, of which one day is kept"),
        ];
        for (asked, wait, detail) in cases {
            assert_eq!(report(asked), (wait, detail.to_owned()), "{asked:?}");
        }
    }

    #[test]
    fn retry_after_forms() {
        // 2015-10-21T07:28:00Z
        let now = Timestamp::from_millis(1_445_412_480_000);
        let most = 10 * 365 * 86_400_000;
        let cases = [
            ("0", Some(0)),
            ("30", Some(30_000)),
            (" 30 ", Some(30_000)),
            ("1.5", Some(1_500)),
            (".5", Some(500)),
            ("999999999999999999999999", Some(most)),
            ("1e300", Some(most)),
            ("0.3333333333", Some(333)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30_000)),
            ("Wed, 21 Oct 2015 07:27:30 GMT", Some(0)),
            ("Fri, 23 Oct 2015 07:28:00 GMT", Some(2 * 86_400_000)),
            ("Wed, 21 Oct 2065 07:28:00 GMT", Some(most)),
            ("-5", None),
            ("+5", None),
            ("inf", None),
            ("nan", None),
            ("", None),
            ("soon", None),
            ("5 seconds", None),
            ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ];
        for (value, expected) in cases {
            let wait = parse_retry_after(value, now);
            assert_eq!(wait, expected.map(Duration::from_millis), "{value:?}");
        }
        assert_eq!([f64::NAN, -0.1, f64::INFINITY].map(bounded_wait), [None, None, Some(WISH_MAX)]);
    }

    #[test]
    fn urls() {
        let good = [
            "https://example.org/hook?key=s3cret",
            "http://127.0.0.1:8080/",
            "http://127.8.9.1/",
            "http://[::1]:8080/",
            "http://localhost/x",
            "http://LOCALHOST/x",
            " https://example.org/\n",
        ];
        for url in good {
            assert!(check_url(url, false).is_ok(), "{url}");
        }
        let bad = [
            ("", "the URL cannot be read (relative URL without a base)"),
            ("example.org/s3cret", "the URL cannot be read (relative URL without a base)"),
            ("https://", "the URL cannot be read (empty host)"),
            ("ftp://example.org/s3cret", "the URL is neither `https` nor `http`"),
            ("file:///s3cret", "the URL is neither `https` nor `http`"),
            ("http://example.org/s3cret", "the URL is plain `http`, so"),
            ("http://127.0.0.1.example.org/s3cret", "the URL is plain `http`, so"),
            ("http://localhost.example.org/s3cret", "the URL is plain `http`, so"),
            ("http://10.0.0.1/s3cret", "the URL is plain `http`, so"),
        ];
        for (url, message) in bad {
            let problem = check_url(url, false).unwrap_err();
            assert!(problem.message.starts_with(message), "{url}: {problem}");
            assert!(!problem.to_string().contains("s3cret"), "{problem}");
        }
        assert!(check_url("http://10.0.0.1/hook", true).is_ok());
        assert!(check_url("ftp://10.0.0.1/hook", true).is_err());
    }

    #[test]
    fn an_endpoint_hides_its_url() {
        let clients = Clients::new().unwrap();
        let endpoint = Endpoint::new(&Secret::new("https://hooks.example.org/s3cret"), &clients).unwrap();
        assert_eq!(format!("{endpoint:?}"), "Endpoint(…)");
    }
}
