//! The two sources over real sockets and a real store: what they hand to intake, what they answer, what they survive.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support {
    pub(crate) mod event_api;
}

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use governor::Quota;
use halo_relay::clock::Clock;
use halo_relay::intake::Intake;
use halo_relay::model::{Secret, Severity};
use halo_relay::routing::{Action, RuleSet};
use halo_relay::serve::{self, serve};
use halo_relay::source::poll::{FirstRun, PollStatus, Poller};
use halo_relay::source::{event_api, poll, webhook};
use halo_relay::store::Store;
use halo_relay::telemetry::Metrics;
use serde_json::{Value, json};
use support::event_api::{EventApi, KEY, Reply, event};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

const WAIT: Duration = Duration::from_secs(20);
const NOW: &str = "2026-11-23 09:00";

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(WAIT, future).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// A store with the door to it, and one destination for everything.
struct Relay {
    store: Store,
    intake: Intake,
    _directory: TempDir,
}

impl Relay {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::start();
        let store = Store::open(directory.path(), clock.now()).unwrap();
        let rules = RuleSet::new(vec![], Action::Send(vec!["anyone".into()]), Severity::Info);
        let rules = watch::Sender::new(Arc::new(rules)).subscribe();
        let intake = Intake::new(store.clone(), rules, clock, Arc::new(Metrics::default()));
        Self { store, intake, _directory: directory }
    }

    /// The ids of the events taken in, which a second reader finds on disk.
    fn taken(&self) -> BTreeSet<String> {
        self.ids("SELECT event_id FROM event")
    }

    /// The ids of the events that are owed to somebody.
    fn owed(&self) -> BTreeSet<String> {
        self.ids("SELECT event.event_id FROM event JOIN delivery ON delivery.event = event.id")
    }

    /// The ids that a baseline only remembers.
    fn remembered(&self) -> BTreeSet<String> {
        self.ids("SELECT event_id FROM seen WHERE baseline = 1")
    }

    fn ids(&self, query: &str) -> BTreeSet<String> {
        let reader = rusqlite::Connection::open(self.store.path()).unwrap();
        let mut query = reader.prepare(query).unwrap();
        query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    /// Starts a poller, waits for the end of its first poll, good or bad, and stops it: as a restart would.
    async fn poll(&self, api: &EventApi, first_run: FirstRun) -> PollStatus {
        let poller = self.poller(api, first_run);
        let mut status = poller.status();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(poller.run(shutdown.clone()));
        within("a poll", status.changed()).await.unwrap();
        let result = status.borrow().clone();
        shutdown.cancel();
        within("stopping", running).await.unwrap();
        result
    }

    /// Like [`poll`](Self::poll), of a poll that must succeed.
    async fn poll_well(&self, api: &EventApi, first_run: FirstRun) -> PollStatus {
        let status = self.poll(api, first_run).await;
        assert_eq!((&status.last_error, status.consecutive_failures), (&None, 0));
        assert!(status.last_success.is_some());
        status
    }

    fn poller(&self, api: &EventApi, first_run: FirstRun) -> Poller {
        let settings = poll::Settings {
            name: "halo".into(),
            base_url: api.base_url(),
            api_key: Secret::new(KEY),
            every: Duration::from_millis(5),
            first_run,
        };
        let pace = Quota::per_second(NonZeroU32::MAX);
        let client = event_api::EventApi::with_pace(&settings.base_url, &settings.api_key, pace).unwrap();
        Poller::new(settings, client, self.intake.clone())
    }
}

fn events(ids: impl IntoIterator<Item = u32>) -> Vec<Value> {
    ids.into_iter().map(|id| event(id, "target-scan-start", NOW)).collect()
}

fn ids(ids: impl IntoIterator<Item = u32>) -> BTreeSet<String> {
    ids.into_iter().map(|id| id.to_string()).collect()
}

mod polling {
    use super::*;

    #[tokio::test]
    async fn the_first_run_remembers_and_later_polls_send() {
        let (relay, api) = (Relay::start(), EventApi::start(events(0..3)).await);
        let status = relay.poll_well(&api, FirstRun::Skip).await;
        assert_eq!(status.last_listed, Some(3));
        assert_eq!((relay.taken(), relay.remembered()), (ids([]), ids(0..3)));
        api.push(event(3, "issue-add", NOW));
        relay.poll_well(&api, FirstRun::Skip).await;
        relay.poll_well(&api, FirstRun::Skip).await;
        assert_eq!((relay.taken(), relay.remembered()), (ids([3]), ids(0..3)));
        assert_eq!(relay.owed(), ids([3]));
    }

    #[tokio::test]
    async fn an_empty_list_is_a_baseline_too() {
        let (relay, api) = (Relay::start(), EventApi::start(vec![]).await);
        assert_eq!(relay.poll_well(&api, FirstRun::Skip).await.last_listed, Some(0));
        api.push(event(1, "issue-add", NOW));
        relay.poll_well(&api, FirstRun::Skip).await;
        assert_eq!(relay.taken(), ids([1]));
    }

    #[tokio::test]
    async fn other_first_runs() {
        let old = event("old", "issue-add", "2020-01-01 00:00");
        let new = event("new", "issue-add", "2999-01-01 00:00");
        let timeless = event("timeless", "issue-add", "0000-00-00 00:00");
        let cases = [
            (FirstRun::All, vec!["new", "old", "timeless"], vec![]),
            (FirstRun::Since(Duration::from_hours(24)), vec!["new"], vec!["old", "timeless"]),
        ];
        for (first_run, taken, remembered) in cases {
            let api = EventApi::start(vec![old.clone(), new.clone(), timeless.clone()]).await;
            let relay = Relay::start();
            relay.poll_well(&api, first_run).await;
            let found = (relay.taken(), relay.remembered());
            let set = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
            assert_eq!(found, (set(taken), set(remembered)), "{first_run:?}");
            // It is over: a store that has had its first run does not fall back to a baseline.
            api.push(event("later", "issue-add", "2020-01-01 00:00"));
            relay.poll_well(&api, FirstRun::Skip).await;
            assert!(relay.taken().contains("later"), "{first_run:?}");
        }
    }

    #[tokio::test]
    async fn a_baseline_of_shifting_pages_leaves_no_stragglers() {
        for pagination in [true, false] {
            let (relay, api) = (Relay::start(), EventApi::start(events(0..95)).await);
            {
                let mut state = api.state();
                (state.page_max, state.pagination) = (10, pagination);
                // In the first walk events vanish from pages already read, so that unread ones slip there, and one
                // appears there.
                state.before_page = Some(Box::new(|earlier, list| {
                    if (3..7).contains(&earlier) {
                        list.drain(..5);
                    }
                    if earlier == 8 {
                        list.splice(..0, events([1000]));
                    }
                }));
            }
            relay.poll_well(&api, FirstRun::Skip).await;
            relay.poll_well(&api, FirstRun::Skip).await;
            assert_eq!(relay.taken(), ids([]), "pagination {pagination}");
            let missed: Vec<_> = ids(20..95).difference(&relay.remembered()).cloned().collect();
            assert!(missed.is_empty(), "pagination {pagination}: {missed:?}");
        }
    }

    #[tokio::test]
    async fn a_baseline_cut_short_is_taken_up_again() {
        let (relay, api) = (Relay::start(), EventApi::start(events(0..25)).await);
        api.state().page_max = 10;
        api.script([Reply::Page, Reply::Status(500, &[], String::new())]);
        let status = relay.poll(&api, FirstRun::Skip).await;
        assert_eq!((status.last_success, status.consecutive_failures), (None, 1));
        assert_eq!(relay.remembered(), ids(0..10), "what earlier pages committed stays");
        relay.poll_well(&api, FirstRun::Skip).await;
        assert_eq!((relay.taken(), relay.remembered()), (ids([]), ids(0..25)));
    }

    #[tokio::test]
    async fn an_error_in_the_middle_costs_nothing() {
        let (relay, api) = (Relay::start(), EventApi::start(vec![]).await);
        relay.poll_well(&api, FirstRun::Skip).await;
        {
            let mut state = api.state();
            (state.events, state.page_max) = (events(0..25), 10);
        }
        api.script([Reply::Page, Reply::Torn]);
        assert_eq!(relay.poll(&api, FirstRun::Skip).await.consecutive_failures, 1);
        assert_eq!(relay.taken(), ids(0..10));
        relay.poll_well(&api, FirstRun::Skip).await;
        assert_eq!(relay.taken(), ids(0..25));
    }

    #[tokio::test]
    async fn the_shapes_of_a_list() {
        for (wrapped, pagination) in [(true, true), (true, false), (false, true), (false, false)] {
            let (relay, api) = (Relay::start(), EventApi::start(events(0..230)).await);
            {
                let mut state = api.state();
                (state.wrapped, state.pagination, state.page_max) = (wrapped, pagination, 100);
            }
            let status = relay.poll_well(&api, FirstRun::All).await;
            assert_eq!(status.last_listed, Some(230), "wrapped {wrapped}, pagination {pagination}");
            assert_eq!(relay.taken(), ids(0..230), "wrapped {wrapped}, pagination {pagination}");
        }
    }

    #[tokio::test]
    async fn a_malformed_record_costs_only_itself() {
        let mut list = events(0..4);
        list.splice(1..2, [json!({"event_id": "1"}), json!(null), json!({"key": "k"})]);
        let (relay, api) = (Relay::start(), EventApi::start(list).await);
        let status = relay.poll_well(&api, FirstRun::All).await;
        assert_eq!((relay.taken(), status.last_listed), (ids([0, 2, 3]), Some(6)));
    }

    #[tokio::test]
    async fn a_server_that_repeats_one_page_is_bounded() {
        let (relay, api) = (Relay::start(), EventApi::start(events(0..50)).await);
        {
            let mut state = api.state();
            (state.ignores_start, state.page_max) = (true, 10);
        }
        relay.poll_well(&api, FirstRun::All).await;
        assert_eq!(relay.taken(), ids(0..10));
        // Two walks, for the first of them found something new.
        assert_eq!(api.requests(), 2 * 4);
    }

    #[tokio::test]
    async fn unusable_answers() {
        let status = |status, headers, body: &str| Reply::Status(status, headers, body.to_owned());
        let cases = [
            (Reply::Silence, "the event API cannot be reached: "),
            (Reply::Torn, "the event API gave no page: the answer broke off"),
            (Reply::Cut, "the event API gave no page: HTTP 200, but the JSON breaks off"),
            (Reply::Endless, "the event API gave no page: the answer is longer than 33554432 bytes"),
            (status(401, &[], "{}"), "the API key is refused (HTTP 401)"),
            (status(403, &[], "<html>"), "the API key is refused (HTTP 403)"),
            (status(429, &["retry-after: 30"], ""), "the event API asks for fewer requests (HTTP 429)"),
            (status(500, &[], "oops"), "the event API gave no page: HTTP 500"),
            (
                status(400, &[], r#"{"code":0,"message":"no such\nsort"}"#),
                r#"the event API gave no page: HTTP 400, "no such\nsort""#,
            ),
            (status(500, &[], &format!(r#"{{"message":"bad {KEY}"}}"#)), "the event API gave no page: HTTP 500"),
            (status(204, &[], ""), "the event API gave no page: HTTP 204"),
            (status(200, &[], ""), "the event API gave no page: HTTP 200, but the JSON breaks off"),
            (status(200, &[], "hello"), "the event API gave no page: HTTP 200, but not with JSON (line 1, column 1)"),
            (
                status(200, &[], r#"{"code":1,"message":"x"}"#),
                "the event API gave no page: HTTP 200 with an error instead of a `list`",
            ),
            (status(200, &[], r#"{"success":1}"#), "the event API gave no page: HTTP 200, but without a `list`"),
        ];
        for (reply, expected) in cases {
            let (relay, api) = (Relay::start(), EventApi::start(events(0..3)).await);
            api.script([reply.clone()]);
            let status = relay.poll(&api, FirstRun::All).await;
            let error = status.last_error.unwrap();
            assert!(
                if expected.ends_with(": ") { error.starts_with(expected) } else { error == expected },
                "{reply:?}: {error}"
            );
            assert!(!error.contains(KEY) && !error.contains("127.0.0.1"), "{reply:?}: {error}");
            assert_eq!((relay.taken(), relay.remembered()), (ids([]), ids([])), "{reply:?}");
        }
    }

    #[tokio::test]
    async fn an_html_page_and_a_redirect_are_named() {
        let elsewhere = EventApi::start(vec![]).await;
        let location: &'static str = format!("location: {}/event/list.json", elsewhere.base_url()).leak();
        let html = Reply::Status(200, &["content-type: text/html; charset=utf-8"], "<html>log in</html>".to_owned());
        let redirect = Reply::Status(302, vec![location].leak(), String::new());
        let cases = [(html, "an HTML page"), (redirect, "HTTP 302, a redirect, which is not followed")];
        for (reply, words) in cases {
            let (relay, api) = (Relay::start(), EventApi::start(vec![]).await);
            api.script([reply]);
            let error = relay.poll(&api, FirstRun::All).await.last_error.unwrap();
            assert!(error.contains(words) && error.contains("`base_url`"), "{error}");
        }
        assert_eq!(elsewhere.requests(), 0);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there() {
        let (relay, api) = (Relay::start(), EventApi::start(vec![]).await);
        let poller = relay.poller(&api, FirstRun::All);
        drop(api);
        let mut status = poller.status();
        let running = tokio::spawn(poller.run(CancellationToken::new()));
        within("a poll", status.wait_for(|status| status.consecutive_failures > 0)).await.unwrap();
        let error = status.borrow().last_error.clone().unwrap();
        assert!(error.starts_with("the event API cannot be reached: ") && !error.contains("http://"), "{error}");
        running.abort();
    }

    #[tokio::test]
    async fn it_polls_on_and_recovers() {
        let (relay, api) = (Relay::start(), EventApi::start(events(0..1)).await);
        let poller = relay.poller(&api, FirstRun::All);
        let mut status = poller.status();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(poller.run(shutdown.clone()));
        within("a first poll", status.wait_for(|status| status.last_listed == Some(1))).await.unwrap();
        api.script([Reply::Status(502, &[], String::new())]);
        within("a failure", status.wait_for(|status| status.consecutive_failures == 1)).await.unwrap();
        assert!(status.borrow().last_success.is_some(), "the last success is not forgotten");
        api.push(event(1, "issue-add", NOW));
        within("recovery", status.wait_for(|status| status.last_listed == Some(2))).await.unwrap();
        assert_eq!((status.borrow().last_error.clone(), relay.taken()), (None, ids(0..2)));
        shutdown.cancel();
        within("stopping", running).await.unwrap();
    }

    #[tokio::test]
    async fn shutdown_does_not_wait_for_a_server_that_stalls() {
        let (relay, api) = (Relay::start(), EventApi::start(vec![]).await);
        api.script([Reply::Stall]);
        let poller = relay.poller(&api, FirstRun::All);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(poller.run(shutdown.clone()));
        within("a request", async {
            while api.requests() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        shutdown.cancel();
        within("stopping", running).await.unwrap();
    }

    #[tokio::test]
    async fn a_store_that_fails_is_told_and_nothing_counts_as_seen() {
        let (relay, api) = (Relay::start(), EventApi::start(events(0..3)).await);
        relay.store.close().await;
        let status = relay.poll(&api, FirstRun::All).await;
        let error = status.last_error.unwrap();
        assert!(error.starts_with("cannot take events in: "), "{error}");
        assert_eq!((relay.taken(), status.last_success), (ids([]), None));
    }

    #[tokio::test]
    async fn the_vendor_is_asked_gently() {
        let api = EventApi::start(events(0..1)).await;
        let client = event_api::EventApi::new(&api.base_url(), &Secret::new(KEY)).unwrap();
        let started = std::time::Instant::now();
        for _ in 0..6 {
            let request = halo_relay::source::walk::Walk::new().first();
            client.list(request, Clock::start().now()).await.unwrap();
        }
        // Four at once, then one each quarter of a second.
        assert!(started.elapsed() >= Duration::from_millis(490), "{:?}", started.elapsed());
    }
}

mod webhooks {
    use super::*;

    const TOKEN: &str = "token-8d1e";
    const PATH: &str = "/hooks/halo";
    const ONE: &str = r#"{"event_id":"1","key":"issue-add"}"#;

    fn settings(path: &str, token: &str) -> Arc<webhook::Settings> {
        Arc::new(webhook::Settings {
            name: "push".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            path: path.to_owned(),
            token: Secret::new(token),
            body_bytes_max: webhook::Settings::BODY_BYTES_MAX,
        })
    }

    fn router(relay: &Relay) -> Router {
        webhook::router(watch::Sender::new(settings(PATH, TOKEN)).subscribe(), relay.intake.clone())
    }

    fn post(body: impl Into<Body>) -> Request<Body> {
        Request::post(PATH).header("authorization", format!("Bearer {TOKEN}")).body(body.into()).unwrap()
    }

    struct Answer {
        status: StatusCode,
        headers: HeaderMap,
        body: Value,
    }

    impl Answer {
        fn header(&self, name: &str) -> Option<&str> {
            self.headers.get(name).map(|value| value.to_str().unwrap())
        }
    }

    async fn ask(router: &Router, request: Request<Body>) -> Answer {
        let response = router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 10_000).await.unwrap();
        assert_eq!(parts.headers["content-type"], "application/json");
        Answer { status: parts.status, headers: parts.headers, body: serde_json::from_slice(&body).unwrap() }
    }

    /// A body of which a part has come and the rest is still awaited.
    fn unfinished() -> Body {
        struct Never;
        impl axum::body::HttpBody for Never {
            type Data = axum::body::Bytes;
            type Error = std::convert::Infallible;
            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
                std::task::Poll::Pending
            }
        }
        Body::new(Never)
    }

    #[tokio::test]
    async fn what_is_taken() {
        let wrapped = format!(r#"{{"event":{ONE}}}"#);
        let two = format!(r#"[{ONE},{{"event":{{"event_id":"2","key":"k","port":"465"}}}}]"#);
        let listed = format!(r#"{{"list":[{ONE}]}}"#);
        let twice = format!("[{ONE},{ONE}]");
        let cases: &[(&str, &[&str], usize)] = &[
            (ONE, &["1"], 0),
            (&wrapped, &["1"], 0),
            (&two, &["1", "2"], 0),
            (&listed, &["1"], 0),
            (&twice, &["1"], 1),
            ("[]", &[], 0),
            ("\u{feff}[]", &[], 0),
        ];
        for (body, taken, duplicate) in cases {
            let relay = Relay::start();
            let router = router(&relay);
            let answer = ask(&router, post((*body).to_owned())).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{body}");
            assert_eq!(answer.body, json!({"accepted": taken.len(), "duplicate": duplicate}), "{body}");
            let expected: BTreeSet<_> = taken.iter().map(ToString::to_string).collect();
            assert_eq!((relay.taken(), relay.owed()), (expected.clone(), expected.clone()), "{body}");
            // Sent again, as a sender does that missed the answer.
            let again = ask(&router, post((*body).to_owned())).await;
            assert_eq!(again.body, json!({"accepted": 0, "duplicate": taken.len() + duplicate}), "{body}");
            assert_eq!(relay.taken(), expected, "{body}");
        }
    }

    #[tokio::test]
    async fn the_content_type_does_not_matter() {
        for kind in ["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense"] {
            let relay = Relay::start();
            let mut request = post(ONE);
            request.headers_mut().insert("content-type", kind.parse().unwrap());
            assert_eq!(ask(&router(&relay), request).await.status, StatusCode::ACCEPTED, "{kind}");
        }
    }

    #[tokio::test]
    async fn what_is_refused() {
        let request = |method: &str, uri: &str, token: &str, body: &[u8]| {
            let request = Request::builder().method(method).uri(uri).header("authorization", format!("Bearer {token}"));
            request.body(Body::from(body.to_vec())).unwrap()
        };
        let good = |body: &[u8]| request("POST", PATH, TOKEN, body);
        let long = vec![b' '; webhook::Settings::BODY_BYTES_MAX + 1];
        let deep = "[".repeat(100_000);
        let half_bad = format!(r#"[{ONE},{{"event_id":"secret-value","key":7}}]"#);
        let cases = [
            (request("POST", "/", TOKEN, b""), 404, "there is nothing at this path"),
            (request("POST", "/hooks/halo/", TOKEN, b""), 404, "there is nothing at this path"),
            (request("GET", "/other", "wrong", b""), 404, "there is nothing at this path"),
            (request("GET", PATH, TOKEN, b""), 405, "events are taken by POST only"),
            (request("PUT", PATH, TOKEN, ONE.as_bytes()), 405, "events are taken by POST only"),
            (request("OPTIONS", PATH, TOKEN, b""), 405, "events are taken by POST only"),
            (
                request("POST", PATH, "wrong", ONE.as_bytes()),
                401,
                "the token is missing or wrong; send it as `Authorization: Bearer …` or `?token=…`",
            ),
            (good(&long), 413, "the body is longer than 1048576 bytes"),
            (good(b""), 400, "the body is empty"),
            (good(b"\"secret-value"), 400, "the JSON breaks off at line 1, column 13"),
            (good(b"secret-value"), 400, "the body is not JSON at line 1, column 1"),
            (good(b"{\"event_id\": \"\xff\xfe\"}"), 400, "the body is not UTF-8 (byte 15)"),
            (good(deep.as_bytes()), 400, "the JSON is nested too deeply at line 1, column 128"),
            (good(b"\"secret-value\""), 400, "an event must be a JSON object, not a string"),
            (good(b"{}"), 400, "`event_id` is missing"),
            (good(b"{\"list\": 5}"), 400, "`event_id` is missing"),
            (good(half_bad.as_bytes()), 400, "event 1: `key` must be a string, not a number"),
        ];
        let relay = Relay::start();
        let router = router(&relay);
        for (request, status, error) in cases {
            let asked = format!("{} {}", request.method(), request.uri());
            let answer = ask(&router, request).await;
            assert_eq!((answer.status.as_u16(), &answer.body), (status, &json!({ "error": error })), "{asked}");
            assert_eq!(answer.header("allow"), (status == 405).then_some("POST"), "{asked}");
            assert_eq!(answer.header("www-authenticate"), (status == 401).then_some("Bearer"), "{asked}");
        }
        assert_eq!(relay.taken(), ids([]), "nothing is half taken");
    }

    #[tokio::test]
    async fn many_bad_tokens_are_throttled_but_a_right_one_is_taken() {
        let relay = Relay::start();
        let router = router(&relay);
        let mut statuses = Vec::new();
        for _ in 0..40 {
            let answer = ask(&router, Request::post(format!("{PATH}?token=wrong")).body(Body::empty()).unwrap()).await;
            statuses.push(answer.status.as_u16());
            if answer.status == StatusCode::TOO_MANY_REQUESTS {
                let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=3).contains(&seconds), "{seconds}");
            }
        }
        assert_eq!(statuses[..30], [401; 30]);
        assert!(statuses[30..].contains(&429), "{statuses:?}");
        let right = Request::post(format!("{PATH}?token={TOKEN}")).body(Body::from(ONE)).unwrap();
        assert_eq!(ask(&router, right).await.status, StatusCode::ACCEPTED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come() {
        let relay = Relay::start();
        let started = tokio::time::Instant::now();
        let answer = ask(&router(&relay), post(unfinished())).await;
        assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(answer.body, json!({"error": "the body did not arrive within 30 seconds"}));
        assert_eq!(started.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn too_many_requests_at_a_time() {
        let relay = Relay::start();
        let router = router(&relay);
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..17 {
            let router = router.clone();
            waiting.spawn(async move { ask(&router, post(unfinished())).await });
        }
        let busy = within("the relay being busy", waiting.join_next()).await.unwrap().unwrap();
        assert_eq!(busy.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(busy.body, json!({"error": "too many requests at a time; try again soon"}));
        assert!(busy.header("retry-after").is_some());
        assert_eq!(ask(&router, post("[]")).await.status, StatusCode::SERVICE_UNAVAILABLE);
        // Senders that go away give their places back.
        waiting.shutdown().await;
        assert_eq!(ask(&router, post("[]")).await.status, StatusCode::ACCEPTED);
    }

    #[tokio::test]
    async fn no_promise_without_a_store() {
        let relay = Relay::start();
        relay.store.close().await;
        let answer = ask(&router(&relay), post(ONE)).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.body, json!({"error": "events cannot be stored now; try again later"}));
        assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    }

    #[tokio::test]
    async fn a_reload_changes_path_and_token() {
        let relay = Relay::start();
        let changing = watch::Sender::new(settings(PATH, TOKEN));
        let router = webhook::router(changing.subscribe(), relay.intake.clone());
        changing.send_replace(settings("/new", "other"));
        assert_eq!(ask(&router, post(ONE)).await.status, StatusCode::NOT_FOUND);
        let old_token = Request::post(format!("/new?token={TOKEN}")).body(Body::from(ONE)).unwrap();
        assert_eq!(ask(&router, old_token).await.status, StatusCode::UNAUTHORIZED);
        let new = Request::post("/new?token=other").body(Body::from(ONE)).unwrap();
        assert_eq!(ask(&router, new).await.status, StatusCode::ACCEPTED);
    }

    #[tokio::test]
    async fn seen_once_whichever_way_it_came() {
        let (relay, api) = (Relay::start(), EventApi::start(events(0..2)).await);
        relay.poll_well(&api, FirstRun::All).await;
        let answer = ask(&router(&relay), post(ONE)).await;
        assert_eq!(answer.body, json!({"accepted": 0, "duplicate": 1}));
        let answer = ask(&router(&relay), post(r#"{"event_id":"9","key":"k"}"#)).await;
        assert_eq!(answer.body, json!({"accepted": 1, "duplicate": 0}));
        api.push(event(9, "k", NOW));
        relay.poll_well(&api, FirstRun::All).await;
        assert_eq!(relay.taken(), ids([0, 1, 9]));
    }

    /// Sends pieces over a real connection, then closes the sending side or waits for the answer.
    async fn talk(address: SocketAddr, pieces: &[&[u8]], hang_up: bool) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for piece in pieces {
            // The relay may close before all is sent: what it said then is still to be read.
            if stream.write_all(piece).await.is_err() {
                break;
            }
        }
        if hang_up {
            return String::new();
        }
        let mut answer = Vec::new();
        _ = within("an answer", stream.read_to_end(&mut answer)).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn over_a_real_connection() {
        let relay = Relay::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router(&relay), serve::Limits::default(), shutdown.clone()));

        let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n");
        let declared = |length: usize| format!("{head}content-length: {length}\r\n\r\n");
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
        let chunk = [b"10000\r\n", vec![b' '; 0x10000].as_slice(), b"\r\n"].concat();

        // The sender goes away in the middle of the body.
        talk(address, &[declared(ONE.len()).as_bytes(), &ONE.as_bytes()[..10]], true).await;
        // Declared too long: refused before a byte of it has come.
        let answer = talk(address, &[declared(2 << 20).as_bytes()], false).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        // Not declared: refused once it is too long.
        let mut pieces = vec![chunked.as_bytes()];
        pieces.extend(std::iter::repeat_n(chunk.as_slice(), 17));
        let answer = talk(address, &pieces, false).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        // And after all that a good one, in chunks.
        let length = format!("{:x}\r\n", ONE.len());
        let good = [chunked.as_bytes(), length.as_bytes(), ONE.as_bytes(), b"\r\n0\r\n\r\n"];
        let answer = talk(address, &good, false).await;
        assert!(answer.starts_with("HTTP/1.1 202 ") && answer.ends_with(r#"{"accepted":1,"duplicate":0}"#), "{answer}");
        assert_eq!(relay.taken(), ids([1]));
        shutdown.cancel();
        within("stopping", server).await.unwrap();
    }
}
