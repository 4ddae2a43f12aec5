//! The client of the event API: asks for one page of the list and says what came back.
//!
//! It knows one endpoint, `event/list.json`. The API deletes by GET, so nothing here takes a path from anywhere else and
//! no redirect is followed. An answer is judged by its HTTP status and then by the member it must have, never by the
//! `code` in its body: codes are not statuses (a 400 carries `code: 0`) and once meant success.
//! Endpoint, parameters and samples: <https://docs.halosecurity.com/api/endpoints/event>.
//!
//! Errors name neither the URL nor the key. A proxy set in the environment (`HTTPS_PROXY`) is used, but not for a base
//! URL with plain `http`, which only loopback may have.

use std::error::Error as _;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};
use serde_json::{Map, Value};

use super::walk::Request;
use crate::model::{Secret, Timestamp};

#[derive(Debug)]
pub struct EventApi {
    client: reqwest::Client,
    list: Url,
    limiter: DefaultDirectRateLimiter,
    /// Only to keep it out of messages that the server wrote.
    api_key: Secret,
}

/// One page of the list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// As they came, wrapped or flat.
    pub records: Vec<Value>,
    /// `pagination.total`, if stated.
    pub total: Option<u64>,
    /// `pagination.limit`, if stated.
    pub limit: Option<u64>,
}

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error("the API key is refused (HTTP {status})")]
    KeyRefused { status: u16 },
    #[error("the event API asks for fewer requests (HTTP 429)")]
    Throttled {
        /// From now, if the answer says.
        retry_after: Option<Duration>,
    },
    /// No connection, or no answer in time.
    #[error("the event API cannot be reached: {what}")]
    Unreachable { what: String },
    /// Another status, or a body that is not a page.
    #[error("the event API gave no page: {what}")]
    Unusable { what: String, retry_after: Option<Duration> },
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the base URL of the event API is not a URL with http or https and a host")]
    BaseUrl,
    #[error("the key of the event API holds characters that no HTTP header can carry")]
    ApiKey,
    #[error("failed to set up the HTTP client: {0}; are the system's CA certificates (ca-certificates) installed?")]
    Client(String),
}

/// A vendor that states no limit is asked gently: four pages at once, four more each second. Even a history of a
/// hundred thousand events (a hundred pages) is then read within half a minute.
const PACE: Quota = Quota::per_second(NonZeroU32::MIN.saturating_add(3));
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Between two pieces of an answer.
const READ_TIME: Duration = Duration::from_secs(30);
/// For one page as a whole.
const TOTAL_TIME: Duration = Duration::from_secs(90);
/// A page of a thousand records stays far below, unpacked.
const PAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Error bodies are read only for the words in them.
const ERROR_BYTES_MAX: usize = 16 * 1024;
/// Of a server's own words, in a log line.
const QUOTE_CHARS_MAX: usize = 200;

impl EventApi {
    /// `base_url` is as in [`poll::Settings`](super::poll::Settings).
    pub fn new(base_url: &str, api_key: &Secret) -> Result<Self, BuildError> {
        Self::with_pace(base_url, api_key, PACE)
    }

    /// For servers that need no such care: the demo's and the tests'.
    pub fn with_pace(base_url: &str, api_key: &Secret, pace: Quota) -> Result<Self, BuildError> {
        let base = Url::parse(base_url).map_err(|_| BuildError::BaseUrl)?;
        if !matches!(base.scheme(), "http" | "https") || base.query().is_some() || base.fragment().is_some() {
            return Err(BuildError::BaseUrl);
        }
        let list = format!("{}/event/list.json", base.as_str().trim_end_matches('/'));
        let mut key = HeaderValue::from_str(api_key.expose()).map_err(|_| BuildError::ApiKey)?;
        key.set_sensitive(true);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("halo-relay/", env!("CARGO_PKG_VERSION")))
            .default_headers(HeaderMap::from_iter([(reqwest::header::HeaderName::from_static("x-apikey"), key)]))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(CONNECT_TIME)
            .read_timeout(READ_TIME)
            .timeout(TOTAL_TIME)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(30));
        if base.scheme() == "http" {
            builder = builder.no_proxy();
        }
        Ok(Self {
            client: builder.build().map_err(|error| BuildError::Client(describe(error)))?,
            list: Url::parse(&list).map_err(|_| BuildError::BaseUrl)?,
            limiter: RateLimiter::direct(pace),
            api_key: api_key.clone(),
        })
    }

    /// Asks for one page, in turn. `now` is what a date in `Retry-After` is compared with.
    pub async fn list(&self, page: Request, now: Timestamp) -> Result<Page, ApiError> {
        self.turn().await;
        let query = [("start", page.start), ("limit", page.limit.into()), ("sort", 0), ("sort_desc", 0)];
        let request = self.client.get(self.list.clone()).query(&query);
        let response = request.send().await.map_err(|error| ApiError::Unreachable { what: describe(error) })?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), now);
        match status {
            StatusCode::OK => read_page(response).await,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ApiError::KeyRefused { status: status.as_u16() }),
            StatusCode::TOO_MANY_REQUESTS => Err(ApiError::Throttled { retry_after }),
            _ => Err(ApiError::Unusable { what: self.describe_status(response).await, retry_after }),
        }
    }

    async fn turn(&self) {
        // Not governor's own `until_ready`: its timer thread is a second runtime for what tokio does already.
        while let Err(early) = self.limiter.check() {
            tokio::time::sleep(early.wait_time_from(DefaultClock::default().now())).await;
        }
    }

    async fn describe_status(&self, response: Response) -> String {
        let status = response.status();
        if status.is_redirection() {
            return format!(
                "HTTP {status}, a redirect, which is not followed; is `base_url` right?",
                status = status.as_u16()
            );
        }
        let body = read(response, ERROR_BYTES_MAX).await.ok().and_then(|body| serde_json::from_slice(&body).ok());
        match body.as_ref().and_then(error_message).filter(|message| !message.contains(self.api_key.expose())) {
            Some(message) => format!("HTTP {}, {:?}", status.as_u16(), clip(message)),
            None => format!("HTTP {}", status.as_u16()),
        }
    }
}

async fn read_page(response: Response) -> Result<Page, ApiError> {
    let is_html = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.to_ascii_lowercase().contains("html"));
    let body = read(response, PAGE_BYTES_MAX).await.map_err(unusable)?;
    let value: Value = serde_json::from_slice(&body).map_err(|error| {
        unusable(match error.classify() {
            _ if is_html => "HTTP 200 with an HTML page instead of JSON; is `base_url` right?".to_owned(),
            serde_json::error::Category::Eof => "HTTP 200, but the JSON breaks off".to_owned(),
            _ => format!("HTTP 200, but not with JSON (line {}, column {})", error.line(), error.column()),
        })
    })?;
    page(value).map_err(unusable)
}

fn page(value: Value) -> Result<Page, String> {
    let Value::Object(mut body) = value else { return Err("HTTP 200, but the JSON is not an object".to_owned()) };
    match body.remove("list") {
        Some(Value::Array(records)) => {
            let pagination = body.get("pagination").and_then(Value::as_object);
            Ok(Page { records, total: stated(pagination, "total"), limit: stated(pagination, "limit") })
        }
        Some(_) => Err("HTTP 200, but `list` is not an array".to_owned()),
        None if body.contains_key("message") => Err("HTTP 200 with an error instead of a `list`".to_owned()),
        None => Err("HTTP 200, but without a `list`".to_owned()),
    }
}

/// Numbers may come as strings.
fn stated(pagination: Option<&Map<String, Value>>, name: &str) -> Option<u64> {
    match pagination?.get(name)? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Reads the body, unpacked, up to `bytes_max`.
async fn read(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > bytes_max => {
                return Err(format!("the answer is longer than {bytes_max} bytes"));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            // Without a count of bytes: a failure that repeats should read the same each time.
            Err(error) if error.is_timeout() => return Err("the answer stalled".to_owned()),
            Err(_) => return Err("the answer broke off".to_owned()),
        }
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Timestamp::from(date).since(now))
}

fn error_message(body: &Value) -> Option<&str> {
    body.get("message")?.as_str().filter(|message| !message.is_empty())
}

/// The start of a text that others wrote; the caller prints it with `{:?}`, which escapes what could break a line.
fn clip(text: &str) -> String {
    let mut clipped: String = text.chars().take(QUOTE_CHARS_MAX).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped
}

const fn unusable(what: String) -> ApiError {
    ApiError::Unusable { what, retry_after: None }
}

/// What went wrong, from the outside in, without the URL.
fn describe(error: reqwest::Error) -> String {
    if error.is_timeout() && !error.is_connect() {
        return "no answer in time".to_owned();
    }
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pages() {
        let some = |total, limit| Ok(Page { records: vec![json!({"a": 1})], total, limit });
        let cases = [
            (json!({"list": [{"a": 1}]}), some(None, None)),
            (
                json!({"list": [{"a": 1}], "pagination": {"total": 7, "start": 0, "limit": 100}}),
                some(Some(7), Some(100)),
            ),
            (json!({"list": [{"a": 1}], "pagination": {"total": "7", "limit": " 100 "}}), some(Some(7), Some(100))),
            (json!({"list": [{"a": 1}], "pagination": {"total": -1, "limit": 1.5}}), some(None, None)),
            (json!({"list": [{"a": 1}], "pagination": null, "code": 0, "success": 0}), some(None, None)),
            (json!({"list": {}}), Err("HTTP 200, but `list` is not an array")),
            (json!({"list": null}), Err("HTTP 200, but `list` is not an array")),
            (json!({"code": 1, "message": "x"}), Err("HTTP 200 with an error instead of a `list`")),
            (json!({"success": 1}), Err("HTTP 200, but without a `list`")),
            (json!([]), Err("HTTP 200, but the JSON is not an object")),
        ];
        for (body, expected) in cases {
            assert_eq!(page(body.clone()), expected.map_err(str::to_owned), "{body}");
        }
    }

    #[test]
    fn retry_after_forms() {
        let now = Timestamp::from_api("2026-11-23 09:00").unwrap();
        let cases = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Mon, 23 Nov 2026 09:02:00 GMT", Some(120)),
            ("Mon, 23 Nov 2026 08:00:00 GMT", Some(0)),
            ("-5", None),
            ("soon", None),
            ("", None),
        ];
        for (text, seconds) in cases {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            assert_eq!(retry_after(&headers, now), seconds.map(Duration::from_secs), "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn clients_that_cannot_be_built() {
        let key = Secret::new("k");
        for base in ["", "api.example.org", "ftp://api.example.org", "https://", "https://x/?a=b", "https://x/#a"] {
            assert!(matches!(EventApi::new(base, &key), Err(BuildError::BaseUrl)), "{base:?}");
        }
        let bad_key = EventApi::new("https://api.example.org", &Secret::new("a\nb"));
        assert!(matches!(bad_key, Err(BuildError::ApiKey)));
    }

    #[test]
    fn debug_shows_no_key() {
        let api = EventApi::new("http://127.0.0.1:1/api/v1", &Secret::new("hunter2")).unwrap();
        assert_eq!(api.list.as_str(), "http://127.0.0.1:1/api/v1/event/list.json");
        assert!(!format!("{api:?}").contains("hunter2"));
    }

    #[test]
    fn clipped_by_characters() {
        assert_eq!(clip("short"), "short");
        assert_eq!(clip(&"é".repeat(300)).chars().count(), QUOTE_CHARS_MAX + 1);
    }
}
