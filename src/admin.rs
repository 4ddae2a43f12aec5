//! What is happening, over HTTP: health, readiness, metrics and status for people and monitors; and, on the control socket
//! alone, the acts of operators.
//!
//! Two routers, because they are trusted differently. [`watch_router`] only reads and may listen on loopback TCP, where any
//! local program or a browser can reach it. [`control_router`] changes things and listens only on a Unix socket in the state
//! directory, where file permissions say who may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::model::delivery::Code;
use crate::model::{Condition, Timestamp};
use crate::store::{AttemptRow, Changed, DeadFilter, DeliveryRow, DestinationCounts, Room, Store, StoreError};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{self, Standing};

/// The control socket's name in the state directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// For whoever opens the address in a browser.
const INDEX: &str = "\
/healthz         alive
/readyz          takes events and can commit
/metrics         for Prometheus
/api/v1/status   what `halo-relay status` tells
";
/// Dead letters listed in one answer.
pub const DEAD_LISTED_MAX: usize = 1_000;
const CODES_LOGGED: usize = 50;

/// What the routers need. Clones share it.
#[derive(Clone)]
pub struct Admin {
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    pub started_at: Timestamp,
    /// Set once everything listens; cleared when draining begins.
    pub ready: Arc<AtomicBool>,
    /// What the composition root knows of the rules file and the sources, when asked.
    pub view: Arc<dyn Fn() -> View + Send + Sync>,
}

/// The parts of a status that come from the running whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    pub config: ConfigView,
    pub sources: Vec<SourceView>,
    /// The destinations that the rules file names now.
    pub destinations: Vec<DestinationView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigView {
    pub path: String,
    /// Short hash of the text in force.
    pub revision: String,
    pub rules: usize,
    /// Why the last reload was refused, if it was.
    pub reload_refused: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceView {
    pub name: String,
    /// `halo` or `webhook`.
    pub kind: String,
    /// In words: what it does or did last.
    pub standing: String,
    pub healthy: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DestinationView {
    pub name: String,
    pub channel: String,
    /// Its own.
    pub limits: Vec<String>,
    /// Those it shares with others, by name.
    #[serde(default)]
    pub shared_limits: BTreeMap<String, Vec<String>>,
    /// `digest` or `queue`.
    #[serde(default)]
    pub over_limit: String,
    /// What is over the limits for so long is told by a digest.
    #[serde(default)]
    pub digest_after: Option<String>,
    #[serde(default)]
    pub fallback: Option<FallbackView>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FallbackView {
    pub to: String,
    pub after: String,
}

/// The answer to `/api/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub ready: bool,
    /// Nothing is taken in and nothing starts until there is room on the disk again.
    #[serde(default)]
    pub disk_full: bool,
    /// What is wrong with the file of the store, where a check found anything.
    #[serde(default)]
    pub store_damage: Option<String>,
    pub started_at: String,
    #[serde(flatten)]
    pub view: View,
    pub deliveries: Vec<DestinationCounts>,
}

/// A delivery with all that was tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeliveryDetail {
    pub delivery: DeliveryRow,
    pub attempts: Vec<AttemptRow>,
    /// Of a digest or a notice there is none.
    pub event: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DropRequest {
    pub filter: DeadFilter,
    pub reason: String,
}

/// For monitors and people: reads only.
pub fn watch_router(admin: Admin) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/api/v1/status", get(status))
        .layer(middleware::from_fn(local_names_only))
        .with_state(admin)
}

/// For the relay's own commands: also acts.
pub fn control_router(admin: Admin) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/dead", get(dead))
        .route("/api/v1/deliveries/{code}", get(delivery))
        .route("/api/v1/dead/retry", post(retry))
        .route("/api/v1/dead/drop", post(drop_dead))
        .with_state(admin)
}

/// The status, also for `halo-relay status` on a relay that is not running.
pub async fn deliveries(store: &Store) -> Result<Vec<DestinationCounts>, StoreError> {
    store.counts().await
}

struct Failure(StoreError);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, Json(serde_json::json!({ "error": self.0.to_string() }))).into_response()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(error)
    }
}

/// A web page can make a browser send requests to loopback under a name of its own (DNS rebinding); our own answers are
/// for local names and addresses only.
async fn local_names_only(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if is_local_name(host) {
        return next.run(request).await;
    }
    let told = "this listener answers to localhost and IP addresses only\n";
    (StatusCode::MISDIRECTED_REQUEST, told).into_response()
}

fn is_local_name(host: &str) -> bool {
    if host.parse::<std::net::SocketAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    if !admin.ready.load(Ordering::Acquire) {
        return (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n").into_response();
    }
    if admin.store.room() == Room::Low {
        let told = "the disk is full: no events are taken in, no messages start\n";
        return (StatusCode::SERVICE_UNAVAILABLE, told).into_response();
    }
    // A store that cannot commit cannot keep the promise behind a 202.
    match admin.store.beat(admin.clock.now()).await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("the store cannot commit: {error}\n")).into_response(),
    }
}

async fn metrics_text(State(admin): State<Admin>) -> Result<Response, Failure> {
    let counts = admin.store.counts().await?;
    let now = admin.clock.now();
    let standing = counts.iter().map(|counts| Standing {
        destination: &counts.name,
        states: [("ready", counts.ready), ("sending", counts.sending), ("dead", counts.dead), ("held", counts.held)],
        taking: counts.health.condition == Condition::Taking,
        oldest_owed_seconds: counts.oldest_owed.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()),
    });
    admin.metrics.store_health(admin.store.room() == Room::Low, admin.store.damage().is_some());
    let writer = admin.store.writer_stats();
    let text = admin.metrics.encode(standing, writer.commits, writer.failed_commits);
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE))], text).into_response())
}

async fn status(State(admin): State<Admin>) -> Result<Json<Status>, Failure> {
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        ready: admin.ready.load(Ordering::Acquire),
        disk_full: admin.store.room() == Room::Low,
        store_damage: admin.store.damage().map(str::to_owned),
        started_at: admin.started_at.to_string(),
        view: (admin.view)(),
        deliveries: deliveries(&admin.store).await?,
    }))
}

#[derive(Deserialize)]
struct DeadQuery {
    destination: Option<String>,
    rule: Option<String>,
    key: Option<String>,
}

async fn dead(State(admin): State<Admin>, Query(query): Query<DeadQuery>) -> Result<Json<Vec<DeliveryRow>>, Failure> {
    let DeadQuery { destination, rule, key } = query;
    let filter = DeadFilter { codes: Vec::new(), destination, rule, key, before: None };
    Ok(Json(admin.store.dead(filter, DEAD_LISTED_MAX).await?))
}

async fn delivery(State(admin): State<Admin>, Path(code): Path<String>) -> Result<Response, Failure> {
    let Some(code) = Code::parse(&code) else { return Ok(StatusCode::NOT_FOUND.into_response()) };
    Ok(match delivery_detail(&admin.store, code).await? {
        Some(detail) => Json(detail).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

/// One delivery in full, also for commands that open the store themselves.
pub async fn delivery_detail(store: &Store, code: Code) -> Result<Option<DeliveryDetail>, StoreError> {
    Ok(store.delivery(code).await?.map(|(delivery, attempts, event)| DeliveryDetail {
        delivery,
        attempts,
        event: event.and_then(|event| serde_json::from_str(&event).ok()),
    }))
}

async fn retry(State(admin): State<Admin>, Json(filter): Json<DeadFilter>) -> Result<Json<Changed>, Failure> {
    let changed = admin.store.retry_dead(filter, admin.clock.now()).await?;
    tracing::info!("an operator sends {} dead letters again: {}", changed.codes.len(), some(&changed.codes));
    Ok(Json(changed))
}

async fn drop_dead(State(admin): State<Admin>, Json(request): Json<DropRequest>) -> Result<Json<Changed>, Failure> {
    let DropRequest { filter, reason } = request;
    let changed = admin.store.drop_dead(filter, reason.clone(), admin.clock.now()).await?;
    tracing::info!("an operator drops {} dead letters ({reason}): {}", changed.codes.len(), some(&changed.codes));
    Ok(Json(changed))
}

/// For a log line: a million codes are none.
fn some(codes: &[String]) -> String {
    let (shown, rest) = codes.split_at(codes.len().min(CODES_LOGGED));
    format!("{}{}", shown.join(" "), if rest.is_empty() { "" } else { " …" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_names_some() {
        let codes = |n| vec!["7F3K".to_owned(); n];
        assert_eq!(some(&codes(0)), "");
        assert_eq!(some(&codes(2)), "7F3K 7F3K");
        assert_eq!(some(&codes(CODES_LOGGED)).len(), CODES_LOGGED * 5 - 1);
        assert!(some(&codes(CODES_LOGGED + 1)).ends_with("7F3K …"));
    }

    #[test]
    fn local_names() {
        for host in ["localhost", "LOCALHOST:8791", "127.0.0.1:8791", "127.0.0.1", "[::1]:8791", "[::1]"] {
            assert!(is_local_name(host), "{host}");
        }
        for host in ["", "evil.example", "evil.example:8791", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert!(!is_local_name(host), "{host}");
        }
    }
}
