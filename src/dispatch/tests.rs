//! Lanes on a real store, with a receiver that answers what the test says, when it says so.

use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::*;
use crate::model::{Event, RuleName, Severity, SourceName};
use crate::routing::Action;
use crate::store::{DeadFilter, DestinationCounts, NewDelivery, NewEvent};

const PATIENCE: Duration = Duration::from_secs(20);
/// For what must not come.
const A_WHILE: Duration = Duration::from_millis(200);

/// Hands each message to the test and waits for its answer; a test that gives none makes the sending panic.
#[derive(Clone)]
struct Script(mpsc::UnboundedSender<Sent>);

struct Sent {
    message: Message,
    answer: oneshot::Sender<Report>,
}

impl Script {
    fn sender(&self) -> Sender {
        let script = self.clone();
        Sender::Function(Channel::Slack, Box::new(move |message| Box::pin(script.clone().send(message))))
    }

    async fn send(self, message: Message) -> Report {
        let (answer, answered) = oneshot::channel();
        assert!(self.0.send(Sent { message, answer }).is_ok(), "the test listens");
        answered.await.expect("an answer; a test that drops it wants this panic")
    }
}

impl Sent {
    fn text(&self) -> String {
        match &self.message.content {
            Content::Json(json) => json.to_string(),
            Content::Mail { .. } => panic!("not a chat message"),
        }
    }

    fn answer(self, outcome: Outcome) {
        self.answer.send(Report::new(outcome, None, "as the test says")).unwrap();
    }
}

struct Scene {
    store: Store,
    dispatcher: Dispatcher,
    script: Script,
    sent: mpsc::UnboundedReceiver<Sent>,
    clock: Clock,
    _directory: TempDir,
}

impl Scene {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let clock = Clock::start();
        let store = Store::open(directory.path(), clock.now()).unwrap();
        let dispatcher = Dispatcher::new(store.clone(), clock, Arc::default());
        let (script, sent) = mpsc::unbounded_channel();
        let mut scene = Self { store, dispatcher, script: Script(script), sent, clock, _directory: directory };
        scene.apply(&[]).await;
        scene
    }

    /// Puts the one lane in force, with these limits.
    async fn apply(&mut self, limits: &[&str]) {
        let settings = LaneSettings {
            name: "chat".into(),
            sender: self.script.sender(),
            limits: limits.iter().map(|limit| limit.parse().unwrap()).collect(),
            template: None,
            rules: Arc::new(RuleSet::new(Vec::new(), Action::Drop { reason: String::new() }, Severity::Info)),
            renderer: Arc::new(Renderer::builtin()),
        };
        self.dispatcher.apply([("chat".into(), settings)].into()).await.unwrap();
    }

    async fn remove(&mut self) {
        self.dispatcher.apply(BTreeMap::new()).await.unwrap();
    }

    async fn accept_as(&self, id: &str, body: Option<&str>) {
        let record = json!({"event_id": id, "key": "issue-add", "target": format!("host-{id}.example.org")});
        let owed = NewDelivery { destination: "chat".into(), rule: RuleName::from("all"), severity: Severity::Info };
        let mut event = NewEvent::new(&Event::from_value(record).unwrap(), vec![owed], None);
        if let Some(body) = body {
            body.clone_into(&mut event.body);
        }
        self.store.accept(&SourceName::from("test"), [event].into(), self.clock.now()).await.unwrap();
    }

    async fn accept(&self, id: &str) {
        self.accept_as(id, None).await;
    }

    async fn sent(&mut self) -> Sent {
        timeout(PATIENCE, self.sent.recv()).await.expect("a message in time").unwrap()
    }

    async fn until(&self, what: &str, wanted: impl Fn(&DestinationCounts) -> bool) {
        let started = Instant::now();
        loop {
            let counts = self.store.counts().await.unwrap().remove(0);
            if wanted(&counts) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "never {what}: {counts:?}");
            tokio::task::yield_now().await;
        }
    }
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

#[tokio::test]
async fn a_store_that_is_gone_keeps_nobody_waiting() {
    let mut scene = Scene::new().await;
    scene.accept("1").await;
    let first = scene.sent().await;
    scene.store.close().await;
    first.answer(Outcome::Delivered);
    timeout(PATIENCE, scene.dispatcher.drain()).await.expect("an end");
}
