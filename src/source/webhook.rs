//! The HTTP input: takes events by `POST`, and says 202 only when intake has them on disk.
//!
//! How the vendor's own webhooks look is not known, so anything that parses as JSON and holds events is taken, whatever
//! its content type, and the token may come as `Authorization: Bearer …` or as `?token=…`. A body is taken whole or not
//! at all, and a sender may repeat it: an event seen before counts as a duplicate and changes nothing.
//!
//! | answer | when |
//! |---|---|
//! | 202 `{"accepted":n,"duplicate":m}` | all events are on disk |
//! | 400 | not UTF-8, not JSON, or not events; says where |
//! | 401, 429 | no or a wrong token; 429 when there are many. A right token is taken all the same |
//! | 404, 405 | another path, another method |
//! | 408, 413 | the body comes too slowly, is too long or holds too many events |
//! | 503 | the relay cannot store events, or is busy; `Retry-After` says when to come again |
//!
//! All but the first are `{"error":"…"}`, and repeat nothing of what was sent. Query strings are never logged: they may
//! hold the token. Every request is bounded in time, and so are the number of requests and what each may hold.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::header::{ALLOW, AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::complaint::Complaint;
use crate::intake::{Accepted, Intake, Unavailable};
use crate::model::event::BodyError;
use crate::model::{Event, Secret, SourceName};

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub name: SourceName,
    pub listen: SocketAddr,
    /// Begins with `/`.
    pub path: String,
    pub token: Secret,
    pub body_bytes_max: usize,
}

impl Settings {
    pub const BODY_BYTES_MAX: usize = 1024 * 1024;
}

/// Answers every path and method. Each request is judged by the settings of the moment, so that a reload can change all
/// of them but `listen`.
pub fn router(settings: watch::Receiver<Arc<Settings>>, intake: Intake) -> Router {
    let input = Input {
        settings,
        intake,
        room: Semaphore::new(ROOM_UNITS as usize),
        bad_tokens: RateLimiter::direct(BAD_TOKENS),
        refused: AtomicU64::new(0),
        token_complaint: Mutex::default(),
        store_complaint: Mutex::default(),
    };
    Router::new().fallback(answer).with_state(Arc::new(input))
}

/// From the end of the headers to the end of the body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// For the commit.
const STORE_TIME: Duration = Duration::from_secs(30);
/// Bodies with a right token that are read or stored at a time, in units of [`UNIT_BYTES`]: 16 MiB. Parsed JSON may take
/// thirty times its bytes.
const ROOM_UNITS: u32 = 4096;
const UNIT_BYTES: u64 = 4096;
/// How long a request waits for room before it is told to come again.
const ROOM_TIME: Duration = Duration::from_secs(5);
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(2);
/// Events in one transaction.
const EVENTS_MAX: usize = 10_000;
/// Thirty bad tokens at once, thirty more each minute: plenty for a sender that is set up wrongly, useless for guessing.
const BAD_TOKENS: Quota = Quota::per_minute(NonZeroU32::MIN.saturating_add(29));

struct Input {
    settings: watch::Receiver<Arc<Settings>>,
    intake: Intake,
    room: Semaphore,
    bad_tokens: DefaultDirectRateLimiter,
    /// Requests without a right token that no log line has told of.
    refused: AtomicU64,
    token_complaint: Mutex<Complaint>,
    store_complaint: Mutex<Complaint>,
}

async fn answer(State(input): State<Arc<Input>>, request: Request) -> Response {
    let settings = Arc::clone(&input.settings.borrow());
    let name = &settings.name;
    let response = match input.receive(&settings, request).await {
        Ok(accepted) => {
            tracing::debug!(source.name = %name, new = accepted.new, duplicate = accepted.duplicate, "took events in");
            let counts = json!({ "accepted": accepted.new, "duplicate": accepted.duplicate });
            (StatusCode::ACCEPTED, Json(counts)).into_response()
        }
        Err(refusal) => {
            tracing::debug!(source.name = %name, status = refusal.status().as_u16(), "refused a request: {refusal}");
            refusal.into_response()
        }
    };
    input.intake.metrics().webhook_answered(name, response.status().as_u16());
    response
}

impl Input {
    /// Safe to drop, as happens when the sender goes away: the events are then stored or not, and the sender may repeat.
    async fn receive(&self, settings: &Settings, request: Request) -> Result<Accepted, Refusal> {
        if request.uri().path() != settings.path {
            return Err(Refusal::NotFound);
        }
        if request.method() != Method::POST {
            return Err(Refusal::NotPost);
        }
        if !is_authorised(request.headers(), request.uri(), &settings.token) {
            return Err(self.refuse_token(settings, request.extensions().get()));
        }
        let room = self.room.acquire_many(units(request.body(), settings.body_bytes_max));
        let Ok(Ok(_room)) = timeout(ROOM_TIME, room).await else { return Err(Refusal::Busy) };
        let reading = read(request.into_body(), settings.body_bytes_max);
        let body = timeout(BODY_TIME, reading).await.map_err(|_| Refusal::TooSlow)??;
        let events = events(&body)?;
        self.store(settings, events).await
    }

    fn refuse_token(&self, settings: &Settings, peer: Option<&ConnectInfo<SocketAddr>>) -> Refusal {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let now = self.intake.clock().now();
        if lock(&self.token_complaint).is_due("token", now) {
            let (name, refused) = (&settings.name, self.refused.swap(0, Ordering::Relaxed));
            let peer = peer.map(|ConnectInfo(peer)| tracing::field::display(peer));
            tracing::warn!(
                source.name = %name,
                refused,
                peer,
                "source {name} refused requests without a right token ({refused} since the last such line); does the sender \
                 have what sources.{name}.token says?",
            );
        }
        match self.bad_tokens.check() {
            Ok(()) => Refusal::BadToken,
            Err(early) => {
                Refusal::TooManyBadTokens { retry_after: early.wait_time_from(DefaultClock::default().now()) }
            }
        }
    }

    async fn store(&self, settings: &Settings, events: Vec<Event>) -> Result<Accepted, Refusal> {
        let accepting = timeout(STORE_TIME, self.intake.accept(&settings.name, events));
        let result = accepting.await.unwrap_or_else(|_| {
            Err(Unavailable { reason: "the store does not answer".to_owned(), retry_after: BUSY_RETRY_AFTER })
        });
        match result {
            Ok(accepted) => {
                lock(&self.store_complaint).clear();
                Ok(accepted)
            }
            Err(Unavailable { reason, retry_after }) => {
                if lock(&self.store_complaint).is_due(&reason, self.intake.clock().now()) {
                    let name = &settings.name;
                    tracing::error!(source.name = %name, "source {name} turns events away: {reason}");
                }
                Err(Refusal::Unavailable { retry_after })
            }
        }
    }
}

fn lock(complaint: &Mutex<Complaint>) -> std::sync::MutexGuard<'_, Complaint> {
    complaint.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compares hashes, so that neither the time it takes nor the length of the token tells anything.
fn is_authorised(headers: &HeaderMap, uri: &Uri, token: &Secret) -> bool {
    let right = Sha256::digest(token.expose());
    let is_right = |offered: &[u8]| bool::from(Sha256::digest(offered).as_slice().ct_eq(right.as_slice()));
    let in_header = headers.get_all(AUTHORIZATION).iter().filter_map(bearer).any(is_right);
    let in_query = || {
        Query::<Vec<(String, String)>>::try_from_uri(uri)
            .is_ok_and(|Query(pairs)| pairs.iter().any(|(name, value)| name == "token" && is_right(value.as_bytes())))
    };
    !token.expose().is_empty() && (in_header || in_query())
}

/// The token of `Bearer <token>`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The room a body takes: what it declares, or all that it may have.
fn units(body: &Body, bytes_max: usize) -> u32 {
    let bytes = body.size_hint().upper().unwrap_or(u64::MAX).min(bytes_max as u64);
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(ROOM_UNITS).clamp(1, ROOM_UNITS)
}

async fn read(mut body: Body, bytes_max: usize) -> Result<Vec<u8>, Refusal> {
    // At once, when the length is declared.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(Refusal::TooLong { bytes_max });
    }
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|_| Refusal::Unreadable("the body broke off".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > bytes_max {
            return Err(Refusal::TooLong { bytes_max });
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn events(body: &[u8]) -> Result<Vec<Event>, Refusal> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Refusal::Unreadable(format!("the body is not UTF-8 (byte {})", error.valid_up_to() + 1)))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_ascii().is_empty() {
        return Err(Refusal::Unreadable("the body is empty".to_owned()));
    }
    let value: Value = serde_json::from_str(text).map_err(|error| Refusal::Unreadable(json_fault(&error)))?;
    let events = Event::list_from_value(value).map_err(Refusal::NotEvents)?;
    if events.len() > EVENTS_MAX { Err(Refusal::TooManyEvents) } else { Ok(events) }
}

/// In our own words: the parser's could repeat what was sent.
fn json_fault(error: &serde_json::Error) -> String {
    let fault = match error.classify() {
        serde_json::error::Category::Eof => "the JSON breaks off",
        _ if error.to_string().starts_with("recursion limit") => "the JSON is nested too deeply",
        _ => "the body is not JSON",
    };
    format!("{fault} at line {}, column {}", error.line(), error.column())
}

/// Why nothing was taken in. `Display` is what the sender is told.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is nothing at this path")]
    NotFound,
    #[error("events are taken by POST only")]
    NotPost,
    #[error("the token is missing or wrong; send it as `Authorization: Bearer …` or `?token=…`")]
    BadToken,
    #[error("the token is missing or wrong, as it was too often of late")]
    TooManyBadTokens { retry_after: Duration },
    #[error("too many requests at a time; try again soon")]
    Busy,
    #[error("the body did not arrive within {} seconds", BODY_TIME.as_secs())]
    TooSlow,
    #[error("the body is longer than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    #[error("the body holds more than {EVENTS_MAX} events; send them in parts")]
    TooManyEvents,
    #[error("{0}")]
    Unreadable(String),
    #[error("{0}")]
    NotEvents(BodyError),
    /// The cause stands in the log; it is not the sender's business.
    #[error("events cannot be stored now; try again later")]
    Unavailable { retry_after: Duration },
}

impl Refusal {
    const fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NotPost => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadToken => StatusCode::UNAUTHORIZED,
            Self::TooManyBadTokens { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLong { .. } | Self::TooManyEvents => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unreadable(_) | Self::NotEvents(_) => StatusCode::BAD_REQUEST,
        }
    }

    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyBadTokens { retry_after } | Self::Unavailable { retry_after } => Some(*retry_after),
            Self::Busy => Some(BUSY_RETRY_AFTER),
            _ => None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status(), Json(json!({ "error": self.to_string() }))).into_response();
        let headers = response.headers_mut();
        match self {
            Self::NotPost => _ = headers.insert(ALLOW, HeaderValue::from_static("POST")),
            Self::BadToken => _ = headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            _ => {}
        }
        if let Some(wait) = self.retry_after() {
            // Whole seconds, rounded up: never an invitation to come at once.
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().saturating_add(1)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_take_room_by_their_length() {
        assert_eq!(units(&Body::empty(), 1 << 20), 1);
        assert_eq!(units(&Body::from(vec![0; 4096]), 1 << 20), 1);
        assert_eq!(units(&Body::from(vec![0; 4097]), 1 << 20), 2);
        assert_eq!(units(&Body::from(vec![0; 2 << 20]), 1 << 20), 256);
        assert_eq!(units(&Body::from(vec![0; 2 << 20]), usize::MAX), 512);
    }

    #[test]
    fn tokens() {
        let cases = [
            (Some("Bearer right"), "/", true),
            (Some("bearer  right "), "/", true),
            (Some("Basic right"), "/?token=right", true),
            (None, "/?token=right", true),
            (None, "/?a=b&token=wrong&token=right", true),
            (None, "/?token=%72ight", true),
            (Some("Bearer wrong"), "/", false),
            (Some("Bearer righ"), "/", false),
            (Some("Bearer right2"), "/", false),
            (Some("Bearer"), "/", false),
            (Some("Bearer "), "/", false),
            (Some("right"), "/", false),
            (Some("Bearerright"), "/", false),
            (None, "/right", false),
            (None, "/?token", false),
            (None, "/?token=", false),
            (None, "/?Token=right", false),
            (None, "/?token=%", false),
            (None, "/", false),
        ];
        for (header, uri, expected) in cases {
            let headers = HeaderMap::from_iter(header.map(|text| (AUTHORIZATION, HeaderValue::from_static(text))));
            assert_eq!(
                is_authorised(&headers, &uri.parse().unwrap(), &Secret::new("right")),
                expected,
                "{header:?} {uri}"
            );
        }
        let none = Secret::new("");
        for uri in ["/", "/?token="] {
            assert!(!is_authorised(&HeaderMap::new(), &uri.parse().unwrap(), &none), "an empty token opens nothing");
        }
    }

    #[test]
    fn bodies() {
        let one = r#"{"event_id":"1","key":"k"}"#;
        let many = format!("[{}]", vec![one; EVENTS_MAX].join(","));
        let too_many = format!("[{}]", vec![one; EVENTS_MAX + 1].join(","));
        let deep = "[".repeat(200_000);
        let cases: &[(&[u8], Result<usize, &str>)] = &[
            (one.as_bytes(), Ok(1)),
            (b"\xef\xbb\xbf[]", Ok(0)),
            (b"{\"list\":[]}", Ok(0)),
            (many.as_bytes(), Ok(EVENTS_MAX)),
            (too_many.as_bytes(), Err("the body holds more than 10000 events; send them in parts")),
            (b"", Err("the body is empty")),
            (b" \r\n", Err("the body is empty")),
            (b"ab\xff", Err("the body is not UTF-8 (byte 3)")),
            (b"token=secret", Err("the body is not JSON at line 1, column 2")),
            (b"{\n\"a\": tru }", Err("the body is not JSON at line 2, column 9")),
            (b"{\"event_id\": \"1\"", Err("the JSON breaks off at line 1, column 16")),
            (b"{} {}", Err("the body is not JSON at line 1, column 4")),
            (b"{\"a\": 1e999}", Err("the body is not JSON at line 1, column 11")),
            (deep.as_bytes(), Err("the JSON is nested too deeply at line 1, column 128")),
            (b"null", Err("an event must be a JSON object, not null")),
            (b"{}", Err("`event_id` is missing")),
            (b"[{\"event_id\":\"1\",\"key\":\"k\"},{\"event_id\":\"2\"}]", Err("event 1: `key` is missing")),
        ];
        for (body, expected) in cases {
            let found = events(body).map(|events| events.len()).map_err(|refusal| refusal.to_string());
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
            assert_eq!(found, expected.map_err(str::to_owned), "{shown}");
        }
    }
}
