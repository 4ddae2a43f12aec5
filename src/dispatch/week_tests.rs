//! Days in moments: lanes on a real store, with a clock that moves only when the test says so.
//!
//! Between two of its moves nothing that waits for a time can happen. So what a test sees arrive without a move arrived at
//! once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::model::delivery::{Code, LaneKey, State};
use crate::model::{Event, RuleName, Severity, SourceName, Timestamp};
use crate::routing::Action;
use crate::store::{DeadFilter, DeliveryRow, DestinationCounts, NewDelivery, NewEvent};

const PATIENCE: Duration = Duration::from_mins(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// A receiver that takes messages while it is up, and refuses connections while it is not.
#[derive(Clone, Default)]
struct Receiver(Arc<Seen>);

#[derive(Default)]
struct Seen {
    down: AtomicBool,
    /// Takes no message for its content.
    refuses: AtomicBool,
    refused: Mutex<Vec<Timestamp>>,
    taken: Mutex<Vec<Taken>>,
}

#[derive(Clone, Debug)]
struct Taken {
    at: Timestamp,
    row: i64,
    text: String,
}

impl Receiver {
    fn sender(&self, clock: Clock, channel: Channel) -> Sender {
        let seen = Arc::clone(&self.0);
        let take = move |message: Message| -> Pin<Box<dyn Future<Output = Report> + Send>> {
            let Content::Json(json) = &message.content else { panic!("not a chat message") };
            if seen.down.load(Ordering::SeqCst) {
                seen.refused.lock().unwrap().push(clock.now());
                return Box::pin(std::future::ready(Report::new(Outcome::Transient, None, "connection refused")));
            }
            if seen.refuses.load(Ordering::SeqCst) {
                return Box::pin(std::future::ready(Report::new(Outcome::RefusedContent, None, "not like this")));
            }
            let row = i64::from_str_radix(message.id.as_str().rsplit('_').next().unwrap(), 16).unwrap();
            seen.taken.lock().unwrap().push(Taken { at: clock.now(), row, text: json.to_string() });
            Box::pin(std::future::ready(Report::new(Outcome::Delivered, None, "ok")))
        };
        Sender::Function(channel, Box::new(take))
    }

    fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
    }

    fn taken(&self) -> Vec<Taken> {
        self.0.taken.lock().unwrap().clone()
    }

    fn refused(&self) -> usize {
        self.0.refused.lock().unwrap().len()
    }
}

/// What a destination of a scene is like.
struct Place {
    name: &'static str,
    receiver: Receiver,
    limits: &'static [&'static str],
    overflow: Overflow,
}

struct Scene {
    store: Store,
    dispatcher: Dispatcher,
    clock: Clock,
    directory: TempDir,
    /// While it lives, paused time does not run ahead by itself.
    still: oneshot::Sender<()>,
}

impl Scene {
    async fn new(places: &[Place]) -> Self {
        let (still, moving) = oneshot::channel::<()>();
        tokio::task::spawn_blocking(move || drop(moving.blocking_recv()));
        let (directory, clock) = (TempDir::new().unwrap(), Clock::start());
        let store = Store::open(directory.path(), clock.now()).unwrap();
        let dispatcher = Dispatcher::new(store.clone(), clock, Arc::default());
        let mut scene = Self { store, dispatcher, clock, directory, still };
        scene.apply(places).await;
        scene
    }

    async fn apply(&mut self, places: &[Place]) {
        let settings = |place: &Place| LaneSettings {
            name: place.name.into(),
            sender: place.receiver.sender(self.clock, Channel::Slack),
            limits: place.limits.iter().map(|limit| limit.parse().unwrap()).collect(),
            shared_limits: Vec::new(),
            overflow: place.overflow,
            fallback: None,
            template: None,
            mention: Vec::new(),
            rules: Arc::new(RuleSet::new(Vec::new(), Action::Drop { reason: String::new() }, Severity::Info)),
            renderer: Arc::new(Renderer::builtin()),
            audience: Audience::default(),
        };
        let lanes = places.iter().map(|place| (place.name.into(), settings(place))).collect();
        self.dispatcher.apply(lanes, BTreeMap::new()).await.unwrap();
    }

    /// The relay stops, `away` passes, and it starts again.
    async fn restart(self, places: &[Place], away: Duration) -> Self {
        let Self { store, dispatcher, clock, directory, still } = self;
        dispatcher.drain().await;
        store.close().await;
        drop(store);
        tokio::time::advance(away).await;
        let store = Store::open(directory.path(), clock.now()).unwrap();
        let dispatcher = Dispatcher::new(store.clone(), clock, Arc::default());
        let mut scene = Self { store, dispatcher, clock, directory, still };
        scene.apply(places).await;
        scene
    }

    async fn accept(&self, number: usize, key: &str, severity: Severity, to: &[&str]) {
        let owed = |to: &&str| NewDelivery {
            destination: (*to).into(),
            rule: RuleName::from("all"),
            severity,
            batch: None,
            thread: None,
        };
        let record =
            json!({"event_id": number.to_string(), "key": key, "target": format!("host-{number}.example.org")});
        let event = NewEvent::new(&Event::from_value(record).unwrap(), to.iter().map(owed).collect(), None);
        self.store.accept(&SourceName::from("test"), [event].into(), self.clock.now()).await.unwrap();
    }

    /// Waits, without any time passing.
    async fn until(&self, what: &str, wanted: impl Fn() -> bool) {
        let started = Instant::now();
        while !wanted() {
            assert!(started.elapsed() < PATIENCE, "never came: {what}");
            // A trip to the store and back: the lanes have had their turns.
            self.counts("").await;
        }
    }

    /// Lets the lanes do what they would do at this time: each step of theirs is a commit.
    async fn act(&self) {
        for _ in 0..4 {
            self.store.beat(self.clock.now()).await.unwrap();
        }
    }

    async fn counts(&self, name: &str) -> DestinationCounts {
        let counts = self.store.counts().await.unwrap();
        counts.into_iter().find(|counts| counts.name == name).unwrap_or_default()
    }

    /// Lets time pass in steps until nothing is owed to `name`.
    async fn drained(&self, name: &str, step: Duration) {
        let started = Instant::now();
        loop {
            let counts = self.counts(name).await;
            if counts.ready + counts.sending == 0 {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "never drained: {counts:?}");
            tokio::time::advance(step).await;
            self.act().await;
        }
    }

    async fn delivery(&self, row: i64) -> DeliveryRow {
        self.store.delivery(Code::of_row(row)).await.unwrap().expect("a delivery").0
    }
}

fn digests() -> Overflow {
    Overflow::default()
}

fn critical(number: usize) -> bool {
    number.is_multiple_of(100)
}

/// One destination is down for a week while events come all the time; then it comes back.
#[tokio::test(start_paused = true)]
async fn a_week_without_a_destination_costs_nothing_but_time() {
    const STEP: Duration = Duration::from_mins(10);
    let (down, well) = (Receiver::default(), Receiver::default());
    let scene = Scene::new(&[
        Place { name: "down", receiver: down.clone(), limits: &["1/1s", "30/1m"], overflow: digests() },
        Place { name: "well", receiver: well.clone(), limits: &[], overflow: digests() },
    ])
    .await;
    down.set_down(true);
    let mut sent = 0;
    let mut send = async |scene: &Scene| {
        let key = ["issue-add", "website-form-oos"][sent % 2];
        let severity = if critical(sent) { Severity::Critical } else { Severity::Info };
        scene.accept(sent, key, severity, &["down", "well"]).await;
        sent += 1;
        // The other destination gets each without any time passing.
        scene.until("the other destination's message", || well.taken().len() == sent).await;
    };
    // An hour closely, the rest of the week in great steps.
    for step in 0..360 {
        tokio::time::advance(Duration::from_secs(10)).await;
        if step % 6 == 0 {
            send(&scene).await;
        }
        scene.act().await;
    }
    let first_hour = down.refused();
    for _ in 0..(7 * 24 - 1) * 6 {
        tokio::time::advance(STEP).await;
        send(&scene).await;
    }
    // One look every ten minutes cannot be more than one attempt each.
    assert!(down.refused() - first_hour <= (7 * 24 - 1) * 6, "{} attempts in the week", down.refused());
    assert!(first_hour <= 200, "{first_hour} attempts in the first hour");
    assert_eq!(down.taken().len(), 0);
    let counts = scene.counts("down").await;
    assert_eq!((counts.delivered, counts.dead, counts.dropped), (0, 0, 0), "{counts:?}");

    down.set_down(false);
    scene.drained("down", Duration::from_millis(1_100)).await;
    let taken = down.taken();
    within_limits(&taken);
    let told = accounted_for(&scene, sent, &taken).await;
    assert!(told.folded > sent * 3 / 4, "the backlog was to be told by digests: {told:?}");
    // No attempt was counted against any delivery: a delivery with failures says so when it is late.
    // The last event came just now, and is not late where it is told alone.
    let last = format!("host-{}.", sent - 1);
    for message in taken.iter().filter(|message| !message.text.contains(&last)) {
        assert!(message.text.contains("down took no messages from"), "{}", message.text);
        assert!(message.text.contains("connection refused"), "{}", message.text);
    }
    let rows: BTreeSet<_> = taken.iter().map(|message| message.row).collect();
    assert_eq!(rows.len(), taken.len(), "something was told twice");
}

fn within_limits(taken: &[Taken]) {
    for (count, span) in [(1, Duration::from_secs(1)), (30, MINUTE)] {
        for from in taken {
            let held = taken.iter().filter(|other| other.at >= from.at && other.at < from.at.plus(span)).count();
            assert!(held <= count, "{held} within {span:?}");
        }
    }
}

#[derive(Debug)]
struct Told {
    alone: usize,
    folded: usize,
    digests: usize,
}

/// Each event was delivered alone or by a digest that was delivered; within a lane in the order the events came.
async fn accounted_for(scene: &Scene, sent: usize, taken: &[Taken]) -> Told {
    let turn: BTreeMap<_, _> = taken.iter().zip(0_usize..).map(|(message, turn)| (message.row, turn)).collect();
    let mut told = Told { alone: 0, folded: 0, digests: 0 };
    let mut lanes = BTreeMap::<LaneKey, (usize, usize)>::new();
    let mut digests = BTreeSet::new();
    let mut found = BTreeSet::new();
    let mut row = 1;
    while let Some((delivery, _, _)) = scene.store.delivery(Code::of_row(row)).await.unwrap() {
        row += 1;
        let Some(event) = delivery.event_id.as_ref().filter(|_| delivery.destination == "down") else { continue };
        let number: usize = event.parse().unwrap();
        assert!(found.insert(number), "owed twice: {delivery:?}");
        let told_by = match &delivery.digest {
            Some(digest) => Code::parse(digest).unwrap().row(),
            None => row - 1,
        };
        let by = scene.delivery(told_by).await;
        assert_eq!(by.state, State::Delivered.name(), "{delivery:?} by {by:?}");
        if delivery.digest.is_some() {
            assert!(!critical(number), "a critical one was folded: {delivery:?}");
            told.folded += 1;
            digests.insert(told_by);
        } else {
            told.alone += 1;
        }
        // What was a probe again and again lets another one try.
        if by.attempts > 1 {
            continue;
        }
        let at = turn[&told_by];
        let severity = if critical(number) { Severity::Critical } else { Severity::Info };
        let lane = LaneKey::new(severity, delivery.event_key.as_deref().unwrap());
        if let Some((before, other)) = lanes.insert(lane, (at, number)) {
            assert!(before <= at, "event {number} (message {at}) was told before event {other} (message {before})");
        }
    }
    assert_eq!(found.len(), sent, "not every event is owed");
    told.digests = digests.len();
    told
}

/// Somebody mended it and reloads: the first message is a probe at once, and when it is taken, what was a probe before waits
/// no longer and holds nobody up.
#[tokio::test(start_paused = true)]
async fn a_destination_that_was_mended_gets_all_that_waited_at_once() {
    const EVENTS: usize = 20;
    let down = Receiver::default();
    let places = [Place { name: "down", receiver: down.clone(), limits: &[], overflow: Overflow::Queue }];
    let mut scene = Scene::new(&places).await;
    down.set_down(true);
    for number in 0..EVENTS {
        scene.accept(number, "issue-add", Severity::Info, &["down"]).await;
    }
    for _ in 0..90 {
        tokio::time::advance(Duration::from_secs(10)).await;
        scene.act().await;
    }
    assert!(down.refused() > 12, "{} attempts", down.refused());
    down.set_down(false);
    scene.apply(&places).await;
    scene.until("all of them, without any time passing", || down.taken().len() == EVENTS).await;
}

/// A message more than ten minutes late says how late, and why.
#[tokio::test(start_paused = true)]
async fn late_messages_say_how_late_and_why() {
    let receivers: BTreeMap<_, _> =
        ["outage", "away", "limits", "operator"].into_iter().map(|name| (name, Receiver::default())).collect();
    let places = || {
        receivers.iter().map(|(name, receiver)| Place {
            name,
            receiver: receiver.clone(),
            limits: if *name == "limits" { &["1/15m"] } else { &[] },
            overflow: Overflow::Queue,
        })
    };
    let places: Vec<_> = places().collect();
    let mut scene = Scene::new(&places).await;

    receivers["outage"].set_down(true);
    for number in 0..5 {
        scene.accept(number, "issue-add", Severity::Info, &["outage"]).await;
        scene.until("a refusal", || receivers["outage"].refused() > 0).await;
    }
    scene.accept(10, "issue-add", Severity::Info, &["limits"]).await;
    scene.accept(11, "issue-add", Severity::Info, &["limits"]).await;
    scene.until("the first", || receivers["limits"].taken().len() == 1).await;
    for _ in 0..42 {
        tokio::time::advance(MINUTE).await;
        scene.act().await;
    }
    receivers["outage"].set_down(false);
    scene.drained("outage", MINUTE).await;
    let late = receivers["outage"].taken();
    assert_eq!(late.len(), 5);
    assert!(says(&late[0], "late: outage took no messages from"), "{}", late[0].text);
    let late = receivers["limits"].taken();
    assert!(!says(&late[0], " late"), "{}", late[0].text);
    assert!(says(&late[1], "sent 16 minutes late: more came than limits may be sent (1/15m)"), "{}", late[1].text);

    // Accepted just before the relay stopped: no lane was left to send it.
    scene.apply(&[]).await;
    scene.accept(20, "issue-add", Severity::Info, &["away"]).await;
    let scene = scene.restart(&places, HOUR).await;
    scene.until("the message", || receivers["away"].taken().len() == 1).await;
    let late = receivers["away"].taken().remove(0);
    assert!(says(&late, "sent 60 minutes late: the relay was not running until"), "{}", late.text);

    // Refused for its content, in full and plain, so it is given up, and sent again by hand.
    receivers["operator"].0.refuses.store(true, Ordering::SeqCst);
    scene.accept(30, "issue-add", Severity::Info, &["operator"]).await;
    let started = Instant::now();
    while scene.counts("operator").await.dead == 0 {
        assert!(started.elapsed() < PATIENCE, "never given up");
    }
    tokio::time::advance(HOUR / 2).await;
    receivers["operator"].0.refuses.store(false, Ordering::SeqCst);
    scene.store.retry_dead(DeadFilter::default(), scene.clock.now()).await.unwrap();
    scene.until("the message", || receivers["operator"].taken().len() == 1).await;
    let late = receivers["operator"].taken().remove(0);
    assert!(says(&late, "sent 30 minutes late: sent again by an operator at"), "{}", late.text);
}

fn says(message: &Taken, words: &str) -> bool {
    message.text.contains(words)
}
