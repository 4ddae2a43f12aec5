//! The HTTP side of Slack, Teams and webhooks: one POST, its answer cut to size, and what the answer means in general.
//!
//! - Redirects are not followed: the body and the URL are for the configured host alone.
//! - Nothing is retried here, not even on a fresh connection after a protocol refusal.
//! - `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment are honoured, for on-call servers often
//!   reach the internet through a proxy only; never for loopback, which a proxy could not reach.
//! - Private addresses are allowed: destinations come from the configuration, and many tools live inside the network.
//! - Errors are shown without the URL, for a chat webhook's URL is its password.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, Url};

use super::BuildError;
use crate::model::{Outcome, Report, Secret, Timestamp};

/// How long a destination may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// To open a connection, TLS included.
    pub connect: Duration,
    /// For a whole HTTP exchange, from connecting to the last byte of the answer.
    pub http: Duration,
    /// For each half of a mail: all up to the server's go-ahead, then the message and its acceptance.
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
const IDLE_CONNECTIONS_MAX: usize = 16;
/// Shorter than the keep-alive of common servers: a request that meets a connection just being closed has an unknown
/// outcome, so such meetings must be rare.
const IDLE_TIME_MAX: Duration = Duration::from_secs(15);
/// What a destination may ask for at most. Beyond a day, somebody should look instead.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);
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
        let request = self.client.post(self.url.clone()).headers(headers).body(body);
        let response = request.send().await.map_err(unanswered)?;
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|value| parse_retry_after(value, now));
        let status = response.status().as_u16();
        let (body, whole) = read_capped(response).await;
        Ok(Answer { status, retry_after, body, whole })
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

/// What came back.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
    /// Whether `body` is all of it: neither cut by us nor lost on the way.
    pub(super) whole: bool,
}

impl Answer {
    /// The body without surrounding space, empty if it is no UTF-8.
    pub(super) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap_or_default().trim()
    }

    pub(super) fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }

    pub(super) fn common(&self) -> Outcome {
        common(self.status, self.retry_after)
    }

    /// `note` must be of our own or checked words, never raw text from the wire.
    pub(super) fn report(&self, outcome: Outcome, note: Option<&str>) -> Report {
        let note = note.map(|note| format!(": {note}")).unwrap_or_default();
        let wait = match &outcome {
            Outcome::Throttled { wait: Some(wait) } => format!(", asks to wait {}", humantime::format_duration(*wait)),
            _ => String::new(),
        };
        let detail = format!("HTTP {}{note}{wait}", self.status);
        Report::new(outcome, Some(self.status), detail)
    }
}

/// What a status means where a channel's contract says nothing else. 2xx is success here; Slack and Teams look further.
///
/// A 5xx is an answer: it says that the message was *not* taken, so it is sent again without the care that an
/// unknown outcome needs.
pub fn common(status: u16, retry_after: Option<Duration>) -> Outcome {
    match status {
        200..=299 => Outcome::Delivered,
        429 => Outcome::Throttled { wait: retry_after },
        503 if retry_after.is_some() => Outcome::Throttled { wait: retry_after },
        408 | 425 => Outcome::Transient,
        // A redirect is never followed with secrets; 407 is a proxy that wants a login.
        300..=399 | 401 | 403 | 404 | 407 | 410 => Outcome::RefusedDestination,
        400..=499 => Outcome::RefusedContent,
        _ => Outcome::Transient,
    }
}

/// Seconds (whole or not) or an HTTP date, at most a day; `None` for anything else.
/// <https://www.rfc-editor.org/rfc/rfc9110#field.retry-after>
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if value.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        // `f64` also reads `1e9`; the bound takes care of that.
        return value.parse().ok().and_then(bounded_wait);
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    Some(Timestamp::from(date).since(now).min(RETRY_AFTER_MAX))
}

/// A wait in seconds from the wire, at most a day; `None` if it is negative or not a number.
pub(super) fn bounded_wait(seconds: f64) -> Option<Duration> {
    (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(RETRY_AFTER_MAX.as_secs_f64())))
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

/// No answer came. If there was never a connection, nothing has left; otherwise nobody knows.
fn unanswered(error: reqwest::Error) -> Report {
    let error = error.without_url();
    let (outcome, what) = if error.is_connect() {
        (Outcome::Transient, "cannot connect")
    } else if error.is_builder() {
        (Outcome::RefusedDestination, "the request cannot be built")
    } else if error.is_timeout() {
        (Outcome::Ambiguous, "no answer in time; the message may have arrived")
    } else {
        (Outcome::Ambiguous, "the connection was lost before an answer; the message may have arrived")
    };
    Report::new(outcome, None, format!("{what} ({})", root_cause(&error)))
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
    fn statuses() {
        let wait = Some(Duration::from_secs(7));
        let cases = [
            (200, None, "delivered"),
            (204, None, "delivered"),
            (299, None, "delivered"),
            (301, None, "refused_destination"),
            (307, None, "refused_destination"),
            (400, None, "refused_content"),
            (401, None, "refused_destination"),
            (402, None, "refused_content"),
            (403, None, "refused_destination"),
            (404, None, "refused_destination"),
            (407, None, "refused_destination"),
            (408, None, "transient"),
            (410, None, "refused_destination"),
            (413, None, "refused_content"),
            (422, None, "refused_content"),
            (425, None, "transient"),
            (429, None, "throttled"),
            (429, wait, "throttled"),
            (500, None, "transient"),
            (500, wait, "transient"),
            (502, None, "transient"),
            (503, None, "transient"),
            (503, wait, "throttled"),
            (504, None, "transient"),
            (599, None, "transient"),
            (999, None, "transient"),
        ];
        for (status, retry_after, expected) in cases {
            let outcome = common(status, retry_after);
            assert_eq!(outcome.name(), expected, "{status}");
            if let Outcome::Throttled { wait } = outcome {
                assert_eq!(wait, retry_after);
            }
        }
    }

    #[test]
    fn retry_after_forms() {
        // 2015-10-21T07:28:00Z
        let now = Timestamp::from_millis(1_445_412_480_000);
        let day = 86_400_000;
        let cases = [
            ("0", Some(0)),
            ("30", Some(30_000)),
            (" 30 ", Some(30_000)),
            ("1.5", Some(1_500)),
            (".5", Some(500)),
            ("999999999999999999999999", Some(day)),
            ("1e300", Some(day)),
            ("Wed, 21 Oct 2015 07:28:30 GMT", Some(30_000)),
            ("Wed, 21 Oct 2015 07:27:30 GMT", Some(0)),
            ("Wed, 21 Oct 2065 07:28:00 GMT", Some(day)),
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
        assert_eq!([f64::NAN, -0.1, f64::INFINITY].map(bounded_wait), [None, None, Some(RETRY_AFTER_MAX)]);
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
