//! A simulated Halo event API: `GET /api/v1/event/list.json` as the vendor's pages show it, over a history that grows
//! while it runs. Only what the relay calls is here.
//!
//! As at the vendor: `x-apikey` on each request, offset paging with `start` and `limit`, list items wrapped in `event`,
//! **no order by date** (we sort by key) and no "since". Where the pages are silent we chose: 401 for a bad key, and a
//! `limit` above 1,000 is taken as 1,000. Filters are not simulated: asking for one is a 400, not a wrong answer.
//!
//! Sources: <https://docs.halosecurity.com/api/endpoints/event>,
//! <https://docs.halosecurity.com/api/readme/pagination-and-sorting>, <https://docs.halosecurity.com/api/authentication>.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::feed::Feed;
use crate::model::Secret;

/// Where the paths begin, as at the vendor's `https://api.halosecurity.com/api/v1`.
pub(super) const BASE_PATH: &str = "/api/v1";
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// The newest events; the oldest are dropped.
#[derive(Clone)]
pub(super) struct History(Arc<Mutex<VecDeque<Value>>>);

impl History {
    const EVENTS_MAX: usize = 2000;

    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(VecDeque::new())))
    }

    pub(super) fn add(&self, events: Vec<Value>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.extend(events);
        let excess = list.len().saturating_sub(Self::EVENTS_MAX);
        list.drain(..excess);
    }

    /// One page, and how many events there are in all.
    fn page(&self, start: usize, limit: usize, descending: bool) -> (Vec<Value>, usize) {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<&Value> = list.iter().collect();
        sorted.sort_by(|a, b| {
            let order = key_of(a).cmp(key_of(b));
            if descending { order.reverse() } else { order }
        });
        (sorted.into_iter().skip(start).take(limit).cloned().collect(), list.len())
    }
}

fn key_of(item: &Value) -> &str {
    item["event"]["key"].as_str().unwrap_or_default()
}

/// Lets time pass: events come until `shutdown`. Safe to drop at any point.
pub(super) async fn grow(history: History, mut feed: Feed, shutdown: CancellationToken) {
    loop {
        let step = feed.next_step();
        tokio::select! {
            () = tokio::time::sleep(step.wait) => history.add(feed.events(step.events, super::now())),
            () = shutdown.cancelled() => return,
        }
    }
}

pub(super) fn router(history: History, key: Secret) -> Router {
    let list = Router::new().route("/event/list.json", get(list_events)).with_state(Api { history, key });
    Router::new().nest(BASE_PATH, list).fallback(async || fault(StatusCode::NOT_FOUND, "not found"))
}

#[derive(Clone)]
struct Api {
    history: History,
    key: Secret,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    #[serde(default)]
    start: usize,
    #[serde(default = "default_limit")]
    limit: usize,
    /// Only 0 is documented.
    #[serde(default)]
    sort: u8,
    #[serde(default)]
    sort_desc: u8,
}

const fn default_limit() -> usize {
    LIMIT_DEFAULT
}

async fn list_events(
    State(api): State<Api>,
    headers: HeaderMap,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Response {
    if headers.get("x-apikey").and_then(|key| key.to_str().ok()) != Some(api.key.expose()) {
        return fault(StatusCode::UNAUTHORIZED, "invalid api key");
    }
    let query = match query {
        Ok(Query(query)) if query.sort == 0 && query.sort_desc <= 1 => query,
        Ok(_) => return fault(StatusCode::BAD_REQUEST, "sort must be 0, sort_desc 0 or 1"),
        Err(error) => return fault(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let limit = query.limit.min(LIMIT_MAX);
    let (list, total) = api.history.page(query.start, limit, query.sort_desc == 1);
    let mut request = json!({"sort": query.sort});
    if query.start != 0 {
        request["start"] = json!(query.start);
    }
    let pagination = json!({"total": total, "start": query.start, "limit": limit});
    axum::Json(json!({"request": request, "pagination": pagination, "list": list})).into_response()
}

fn fault(status: StatusCode, message: &str) -> Response {
    (status, axum::Json(json!({"code": status.as_u16(), "message": message}))).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    const KEY: &str = "demo-key";

    fn numbered(count: usize) -> History {
        let history = History::new();
        let keys = ["target-add", "issue-add", "domain-add"];
        history.add((0..count).map(|n| json!({"event": {"event_id": n.to_string(), "key": keys[n % 3]}})).collect());
        history
    }

    async fn get_json(history: &History, path: &str, key: Option<&str>) -> (u16, Value) {
        let mut request = Request::get(path);
        if let Some(key) = key {
            request = request.header("x-apikey", key);
        }
        let router = router(history.clone(), Secret::new(KEY));
        let answer = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        assert_eq!(answer.headers()["content-type"], "application/json");
        let body = axum::body::to_bytes(answer.into_body(), 10 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn a_page_has_the_vendors_shape() {
        let (status, body) = get_json(&numbered(2), "/api/v1/event/list.json", Some(KEY)).await;
        assert_eq!(status, 200);
        let expected = json!({
            "request": {"sort": 0},
            "pagination": {"total": 2, "start": 0, "limit": 100},
            "list": [{"event": {"event_id": "1", "key": "issue-add"}}, {"event": {"event_id": "0", "key": "target-add"}}],
        });
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn pages_join_to_the_whole_sorted_by_key() {
        let history = numbered(1203);
        let mut keys = Vec::new();
        for (path, count) in [("start=0&limit=5000", 1000), ("start=1000&limit=1000", 203), ("start=1203", 0)] {
            let path = format!("/api/v1/event/list.json?sort=0&{path}");
            let (_, body) = get_json(&history, &path, Some(KEY)).await;
            assert_eq!(body["pagination"]["total"], 1203);
            assert!(body["pagination"]["limit"].as_u64().unwrap() <= 1000);
            assert_eq!(body["request"].get("start"), body["pagination"].get("start").filter(|start| **start != 0));
            let list = body["list"].as_array().unwrap();
            assert_eq!(list.len(), count, "{path}");
            keys.extend(list.iter().map(|item| key_of(item).to_owned()));
        }
        assert!(keys.is_sorted() && keys.len() == 1203);
        let (_, last_first) = get_json(&history, "/api/v1/event/list.json?sort_desc=1&limit=1", Some(KEY)).await;
        assert_eq!(key_of(&last_first["list"][0]), "target-add");
    }

    #[tokio::test]
    async fn what_is_refused() {
        let history = numbered(1);
        let cases = [
            ("/api/v1/event/list.json", None, 401),
            ("/api/v1/event/list.json", Some("demo-kez"), 401),
            ("/api/v1/event/list.json", Some(""), 401),
            ("/api/v1/event/list.json?start=-1", Some(KEY), 400),
            ("/api/v1/event/list.json?key=%3Dissue-add", Some(KEY), 400),
            ("/api/v1/event/list.json?sort=1", Some(KEY), 400),
            ("/api/v1/event/delete.json?event_id=0", Some(KEY), 404),
            ("/event/list.json", Some(KEY), 404),
        ];
        for (path, key, expected) in cases {
            let (status, body) = get_json(&history, path, key).await;
            assert_eq!((status, body["code"].as_u64()), (expected, Some(expected.into())), "{path} {key:?}");
            assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{path}");
        }
    }

    #[test]
    fn history_forgets_the_oldest() {
        let history = numbered(History::EVENTS_MAX + 5);
        let (list, total) = history.page(0, usize::MAX, false);
        assert_eq!(total, History::EVENTS_MAX);
        assert!(list.iter().all(|item| item["event"]["event_id"].as_str().unwrap().parse::<usize>().unwrap() >= 5));
    }

    #[tokio::test(start_paused = true)]
    async fn history_grows_until_shutdown() {
        let (history, shutdown) = (History::new(), CancellationToken::new());
        let task = tokio::spawn(grow(history.clone(), Feed::new(1).unwrap(), shutdown.clone()));
        tokio::time::sleep(std::time::Duration::from_mins(1)).await;
        let (_, total) = history.page(0, 0, false);
        assert!((40..=80).contains(&total), "{total} events in a minute");
        shutdown.cancel();
        task.await.unwrap();
    }
}
