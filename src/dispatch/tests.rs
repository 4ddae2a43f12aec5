//! Lanes on a real store, with receivers that answer what the test says, when it says so; in [`world`] by rules, in simulated time.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::*;
use crate::deliver::{self, Clients, Notifier, slack};
use crate::model::{Condition, Event, Health, RuleName, Secret, Severity, SourceName, ThreadNews, Timestamp};
use crate::routing::Action;
use crate::store::{Claimed, DeadFilter, DestinationCounts, Ended, NewDelivery, NewEvent, Settlement, Turn, What};

mod world;

const PATIENCE: Duration = Duration::from_secs(20);
/// For what must not come.
const A_WHILE: Duration = Duration::from_millis(200);

/// Hands each message to the test and waits for its answer; a test that gives none makes the sending panic.
#[derive(Clone)]
pub(super) struct Script(mpsc::UnboundedSender<Sent>);

pub(super) struct Sent {
    message: Message,
    answer: oneshot::Sender<Report>,
}

impl Script {
    fn sender(&self) -> Sender {
        self.sender_by(Channel::Slack)
    }

    pub(super) fn sender_by(&self, channel: Channel) -> Sender {
        let script = self.clone();
        Sender::Function(channel, Box::new(move |message| Box::pin(script.clone().send(message))))
    }

    async fn send(self, message: Message) -> Report {
        let (answer, answered) = oneshot::channel();
        assert!(self.0.send(Sent { message, answer }).is_ok(), "the test listens");
        answered.await.expect("an answer; a test that drops it wants this panic")
    }
}

impl Sent {
    pub(super) fn text(&self) -> String {
        text(&self.message)
    }

    pub(super) fn answer(self, outcome: Outcome) {
        self.answer.send(Report::new(outcome, None, "as the test says")).unwrap();
    }
}

fn text(message: &Message) -> String {
    match &message.content {
        Content::Json(json) => json.to_string(),
        Content::Mail { .. } => panic!("not a chat message"),
    }
}

/// A lane on default settings, to be changed by each test.
pub(super) fn settings(name: &str, sender: Sender) -> LaneSettings {
    LaneSettings {
        name: name.into(),
        sender,
        limits: Vec::new(),
        shared_limits: Vec::new(),
        overflow: Overflow::Queue,
        fallback: None,
        template: None,
        mention: Vec::new(),
        rules: Arc::new(RuleSet::new(Vec::new(), Action::Drop { reason: String::new() }, Severity::Info)),
        renderer: Arc::new(Renderer::builtin()),
        audience: Audience::default(),
    }
}

fn windows(limits: &[&str]) -> Vec<Window> {
    limits.iter().map(|limit| limit.parse().unwrap()).collect()
}

pub(super) struct Scene {
    pub(super) store: Store,
    pub(super) dispatcher: Dispatcher,
    pub(super) script: Script,
    sent: mpsc::UnboundedReceiver<Sent>,
    pub(super) clock: Clock,
    _directory: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let mut scene = Self::without_lanes();
        scene.apply(&[]).await;
        scene
    }

    pub(super) fn without_lanes() -> Self {
        // Nothing here is about the disk.
        let directory = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let clock = Clock::start();
        let store = Store::open(directory.path(), clock.now()).unwrap();
        let dispatcher = Dispatcher::new(store.clone(), clock, Arc::default());
        let (script, sent) = mpsc::unbounded_channel();
        Self { store, dispatcher, script: Script(script), sent, clock, _directory: directory }
    }

    /// Puts the one lane in force, with these limits.
    async fn apply(&mut self, limits: &[&str]) {
        let settings = LaneSettings { limits: windows(limits), ..settings("chat", self.script.sender()) };
        self.run([settings], &[]).await;
    }

    async fn run(&mut self, lanes: impl IntoIterator<Item = LaneSettings>, limits: &[(&str, &str)]) {
        let lanes = lanes.into_iter().map(|settings| (settings.name.clone(), settings));
        let limits = limits.iter().map(|(name, limit)| (LimitName::from(*name), windows(&[limit])));
        self.dispatcher.apply(lanes.collect(), limits.collect()).await.unwrap();
    }

    async fn remove(&mut self) {
        self.run([], &[]).await;
    }

    async fn accept_as(&self, id: &str, body: Option<&str>) {
        let mut event = event(id, "issue-add", Severity::Info, &["chat"]);
        if let Some(body) = body {
            body.clone_into(&mut event.body);
        }
        self.take_in(vec![event]).await;
    }

    pub(super) async fn accept(&self, id: &str) {
        self.accept_as(id, None).await;
    }

    pub(super) async fn take_in(&self, events: Vec<NewEvent>) {
        self.store.accept(&SourceName::from("test"), events.into(), self.clock.now()).await.unwrap();
    }

    pub(super) async fn sent(&mut self) -> Sent {
        timeout(PATIENCE, self.sent.recv()).await.expect("a message in time").unwrap()
    }

    async fn counts(&self, name: &str) -> DestinationCounts {
        let counts = self.store.counts().await.unwrap();
        counts.into_iter().find(|counts| counts.name == name).unwrap_or_default()
    }

    pub(super) async fn until(&self, what: &str, wanted: impl Fn(&DestinationCounts) -> bool) {
        let started = Instant::now();
        loop {
            let counts = self.counts("chat").await;
            if wanted(&counts) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "never {what}: {counts:?}");
            tokio::task::yield_now().await;
        }
    }
}

/// An event about the target `host-<id>`.
pub(super) fn event(id: &str, key: &str, severity: Severity, destinations: &[&str]) -> NewEvent {
    let record = json!({"event_id": id, "key": key, "target": format!("host-{id}.example.org")});
    let owed = destinations.iter().map(|&destination| NewDelivery {
        destination: destination.into(),
        rule: RuleName::from("all"),
        severity,
        batch: None,
        thread: None,
    });
    NewEvent::new(&Event::from_value(record).unwrap(), owed.collect(), None)
}

fn throttled(millis: u64) -> Outcome {
    Outcome::Throttled { wait: Some(Duration::from_millis(millis)) }
}

#[tokio::test]
async fn a_crash_while_sending_costs_the_looks_then_the_message_and_nothing_else() {
    let mut scene = Scene::new().await;
    scene.apply(&["1/100ms"]).await;
    scene.accept("1").await;
    let full = scene.sent().await;
    assert!(!full.text().contains("may repeat"));
    let length = full.text().len();
    drop(full);
    let plain = scene.sent().await;
    assert!(plain.text().contains("may repeat"), "nobody knows whether it arrived: {}", plain.text());
    assert!(plain.text().len() < length);
    drop(plain);
    scene.until("dead", |counts| counts.dead == 1).await;
    scene.accept("2").await;
    scene.sent().await.answer(Outcome::Delivered);
    scene.until("delivered", |counts| (counts.delivered, counts.sending) == (1, 0)).await;
}

#[tokio::test]
async fn nothing_is_sent_of_what_is_not_on_disk() {
    let mut scene = Scene::without_lanes();
    for comes_to_disk in [false, true] {
        let (keep, kept) = oneshot::channel();
        let settings = InForce { settings: settings("chat", scene.script.sender()), shared: Vec::new() };
        let what = What::Record(r#"{"event_id":"1","key":"issue-add"}"#.into());
        let attempt = attempt::Attempt {
            shared: scene.dispatcher.shared.clone(),
            settings: Arc::new(settings),
            claimed: Claimed { what, ..Claimed::sample(scene.clock.now()) },
            kept: Some(kept),
            health: Health::default(),
            pause: None,
        };
        let attempt = tokio::spawn(attempt.run());
        assert!(timeout(A_WHILE, scene.sent.recv()).await.is_err(), "sent before the commit");
        if comes_to_disk {
            keep.send(()).unwrap();
            scene.sent().await.answer(Outcome::Delivered);
        } else {
            drop(keep);
        }
        let ended = timeout(PATIENCE, attempt).await.expect("it ends").unwrap();
        assert_eq!(matches!(ended, attempt::Attempted::Sent(_)), comes_to_disk);
        assert_eq!(matches!(ended, attempt::Attempted::NeverKept), !comes_to_disk);
    }
    assert!(scene.sent.try_recv().is_err(), "sent all the same");
}

/// Takes one message of a Slack bot.
async fn slack_bot() -> (Sender, JoinHandle<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = deliver::Settings::Slack(slack::Settings::Bot {
        token: Secret::new("xoxb-token"),
        channel: "C01".to_owned(),
        api_base: format!("http://{}/api", listener.local_addr().unwrap()),
    });
    let bot = Notifier::new(&settings, &Clients::new().unwrap()).unwrap();
    let request = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = String::new();
        while request.split_once("\r\n\r\n").is_none_or(|(_, body)| serde_json::from_str::<Value>(body).is_err()) {
            let mut part = [0; 4096];
            let length = stream.read(&mut part).await.unwrap();
            request.push_str(str::from_utf8(&part[..length]).unwrap());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"ok\":true}").await.unwrap();
        request
    });
    (Sender::Channel(Box::new(bot)), request)
}

#[tokio::test]
async fn the_name_of_a_thread_may_come_to_the_disk_with_a_message_for_it() {
    let scene = Scene::without_lanes();
    let chat = scene.store.subscribe(&"chat".into()).await.unwrap().outlet;
    let mut first = event("1", "issue-add", Severity::Info, &["chat"]);
    first.owed[0].thread = Some("t".to_owned());
    scene.take_in(vec![first]).await;
    let now = scene.clock.now();
    let claimed = scene.store.turn(chat, Turn { claim: 1, ..Turn::default() }, now).await.unwrap().claimed.remove(0);

    let (sender, request) = slack_bot().await;
    let (keep, kept) = oneshot::channel();
    let attempt = attempt::Attempt {
        shared: scene.dispatcher.shared.clone(),
        settings: Arc::new(InForce { settings: settings("chat", sender), shared: Vec::new() }),
        claimed: Claimed { row: 2, ..claimed.clone() },
        kept: Some(kept),
        health: Health::default(),
        pause: None,
    };
    let attempt = tokio::spawn(attempt.run());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let news = ThreadNews { key: "t".to_owned(), handle: Some("C01 1700000000.000100 C01".to_owned()) };
    let report = Report { thread: Some(news), ..Report::new(Outcome::Delivered, Some(200), "") };
    let ended = Ended { claimed, at: now, report, settlement: Settlement::Delivered };
    scene.store.turn(chat, Turn { ended: [ended].into(), ..Turn::default() }, now).await.unwrap();
    keep.send(()).unwrap();
    let request = timeout(PATIENCE, request).await.expect("a request").unwrap();
    assert!(request.contains(r#""thread_ts":"1700000000.000100""#), "{request}");
    let ended = timeout(PATIENCE, attempt).await.expect("it ends").unwrap();
    assert!(matches!(ended, attempt::Attempted::Sent(report) if report.outcome == Outcome::Delivered));
}

#[tokio::test]
async fn a_stored_event_that_cannot_be_read_is_kept_for_an_operator() {
    let mut scene = Scene::new().await;
    scene.accept_as("1", Some("{\"event_id\": ")).await;
    scene.accept("2").await;
    scene.sent().await.answer(Outcome::Delivered);
    scene.until("dead", |counts| (counts.dead, counts.delivered) == (1, 1)).await;
    let dead = scene.store.dead(DeadFilter::default(), 9).await.unwrap();
    assert_eq!(dead[0].reason.as_deref(), Some("the stored event cannot be read"));
}

#[tokio::test]
async fn a_destination_that_comes_back_has_one_lane() {
    let mut scene = Scene::new().await;
    scene.accept("1").await;
    let first = scene.sent().await;
    scene.remove().await;
    scene.accept("2").await;
    scene.apply(&["1/100ms"]).await;
    assert!(timeout(A_WHILE, scene.sent.recv()).await.is_err(), "two at a time");
    let answered = Instant::now();
    first.answer(throttled(300));
    scene.sent().await.answer(Outcome::Delivered);
    assert!(answered.elapsed() >= Duration::from_millis(300), "sent to while it asked not to be");
    scene.sent().await.answer(Outcome::Delivered);
    scene.until("delivered", |counts| counts.delivered == 2).await;
}

#[tokio::test]
async fn a_reload_forgets_neither_a_pause_nor_what_was_sent_without_limits() {
    let mut scene = Scene::new().await;
    for id in ["1", "2", "3"] {
        scene.accept(id).await;
    }
    let first = scene.sent().await;
    scene.apply(&["2/700ms"]).await;
    let answered = Instant::now();
    first.answer(throttled(200));
    let second = scene.sent().await;
    assert!(answered.elapsed() >= Duration::from_millis(200), "sent to while it asked not to be");
    second.answer(Outcome::Delivered);
    // The first counts although there was no limit when it went out.
    let third = scene.sent().await;
    assert!(answered.elapsed() >= Duration::from_millis(700), "three within the window of two");
    third.answer(Outcome::Delivered);
    scene.sent().await.answer(Outcome::Delivered);
    scene.until("delivered", |counts| counts.delivered == 3).await;
}

/// A slow disk: somebody else holds the store's lock for writing, and each commit waits for that.
#[tokio::test]
async fn answers_are_taken_while_the_disk_works_and_recorded_afterwards() {
    /// The store waits for the lock a little longer, and then gives up.
    const WHILE_IT_WORKS: Duration = Duration::from_secs(4);
    for stops in [false, true] {
        let mut scene = Scene::without_lanes();
        scene.run([settings("chat", scene.script.sender_by(Channel::Webhook))], &[]).await;
        scene.accept("1").await;
        scene.sent().await.answer(Outcome::Delivered);
        scene.until("delivered", |counts| counts.delivered == 1).await;
        scene.accept("2").await;
        scene.accept("3").await;
        let (second, third) = (scene.sent().await, scene.sent().await);

        let other = rusqlite::Connection::open(scene.store.path()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let locked = Instant::now();
        let (store, metrics) = (scene.store.clone(), Arc::clone(&scene.dispatcher.shared.metrics));
        let heard = async |number: u32| {
            let line = format!("halo_relay_attempts_total{{destination=\"chat\",outcome=\"delivered\"}} {number}\n");
            while !metrics.encode([], 0, 0).contains(&line) {
                assert!(locked.elapsed() < WHILE_IT_WORKS, "answer {number} waits for the disk");
                tokio::task::yield_now().await;
            }
        };
        if stops {
            // The lane has begun to take its offer back.
            scene.dispatcher.stop();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        second.answer(Outcome::Delivered);
        heard(2).await;
        third.answer(Outcome::Delivered);
        heard(3).await;
        assert_eq!(store.counts().await.unwrap()[0].sending, 2, "both are still on their way to the disk");
        other.execute_batch("COMMIT").unwrap();
        timeout(PATIENCE, scene.dispatcher.drain()).await.expect("an end");
        assert_eq!(store.counts().await.unwrap()[0].delivered, 3, "nothing is left behind");
    }
}

#[tokio::test]
async fn what_a_lane_claims_while_it_is_stopped_is_given_back() {
    let mut scene = Scene::without_lanes();
    scene.run([settings("chat", scene.script.sender_by(Channel::Webhook))], &[]).await;
    scene.accept("1").await;
    scene.sent().await.answer(Outcome::Delivered);
    scene.until("delivered", |counts| counts.delivered == 1).await;
    scene.take_in(["2", "3", "4", "5", "6"].map(|id| event(id, "issue-add", Severity::Info, &["chat"])).into()).await;
    let (second, third) = (scene.sent().await, scene.sent().await);
    // The lane has seen that there is more, and no room for it.
    let mut commits = 0;
    while commits != scene.store.writer_stats().commits {
        commits = scene.store.writer_stats().commits;
        assert!(timeout(A_WHILE, scene.sent.recv()).await.is_err(), "more than two at once");
    }
    let other = rusqlite::Connection::open(scene.store.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    second.answer(Outcome::Delivered);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // Its turn is under way, and claims.
    scene.dispatcher.stop();
    third.answer(Outcome::Delivered);
    other.execute_batch("COMMIT").unwrap();
    let store = scene.store.clone();
    timeout(PATIENCE, scene.dispatcher.drain()).await.expect("an end");
    assert!(scene.sent.try_recv().is_err(), "sent after the stop");
    let counts = &store.counts().await.unwrap()[0];
    assert_eq!((counts.delivered, counts.sending, counts.ready), (3, 0, 3));
}

#[tokio::test]
async fn a_store_that_is_gone_keeps_nobody_waiting() {
    let mut scene = Scene::new().await;
    scene.accept("1").await;
    let first = scene.sent().await;
    scene.store.close().await;
    first.answer(Outcome::Delivered);
    timeout(PATIENCE, scene.dispatcher.drain()).await.expect("an end");
}
