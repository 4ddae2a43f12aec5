//! The sending side: a lane per destination, each claiming, pacing, sending and settling on its own.
//!
//! ```text
//!                    ┌────────────────────── lane: sec-slack ──────────────────────┐
//!  store ─ wake ─►   │ may start? ─► claim (durable) ─► attempt ─► settle (durable) │ ─► slot is free
//!                    └──────────────────────────────────────────────────────────────┘
//!                    ┌────────────────────── lane: compliance ─────────────────────┐
//!                    │ …                                                            │
//! ```
//!
//! A lane remembers nothing that is not in the store but its log of recent sends, and rebuilds that when it starts: the
//! crash path is the everyday path. So a slow or broken destination delays only itself. What may start is decided by the
//! destination's hold (a pause it asked for, or one after failures in a row), its limits, and its free slots; among what is
//! due, urgent goes before old. What follows from an answer is decided by [`step::next_step`], which is pure.

mod attempt;
mod lane;
pub mod step;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::deliver::Notifier;
use crate::model::{Channel, Content, DestinationName, Message, Outcome, Report};
use crate::rate::Window;
use crate::render::Renderer;
use crate::routing::RuleSet;
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

/// All that a lane needs to know; replaced as a whole by a reload.
pub struct LaneSettings {
    pub name: DestinationName,
    pub sender: Sender,
    pub limits: Vec<Window>,
    /// The destination's own template, used where the rule names none.
    pub template: Option<String>,
    pub rules: Arc<RuleSet>,
    pub renderer: Arc<Renderer>,
}

/// Where a lane's messages go.
pub enum Sender {
    Channel(Box<Notifier>),
    /// To a function that takes the messages of such a channel, and answers for it.
    Function(Channel, Function),
}

/// Takes one message and says what became of it.
pub type Function = Box<dyn Fn(Message) -> Pin<Box<dyn Future<Output = Report> + Send>> + Send + Sync>;

impl Sender {
    /// Prints to standard output, as `run --dry-run` promises.
    pub fn printing(name: DestinationName, channel: Channel) -> Self {
        let print = move |message| -> Pin<Box<dyn Future<Output = Report> + Send>> {
            Box::pin(std::future::ready(print(&name, channel, &message)))
        };
        Self::Function(channel, Box::new(print))
    }

    pub fn channel(&self) -> Channel {
        match self {
            Self::Channel(notifier) => notifier.channel(),
            Self::Function(channel, _) => *channel,
        }
    }

    /// How many attempts may be under way at once. Chat channels show messages in the order they arrive, and mail servers
    /// count connections, so those go one by one; this also bounds what a crash can make be sent twice.
    pub fn slots(&self) -> usize {
        match self.channel() {
            Channel::Webhook => 16,
            Channel::Slack | Channel::Teams | Channel::Email => 1,
        }
    }
}

fn print(name: &DestinationName, channel: Channel, message: &Message) -> Report {
    let body = match &message.content {
        Content::Json(json) => serde_json::to_string_pretty(json).unwrap_or_default(),
        Content::Mail { subject, text, .. } => format!("Subject: {subject}\n\n{text}"),
    };
    // A reader that went away (`| head`) is no failure of the message.
    let _ = writeln!(std::io::stdout().lock(), "--- {name} ({channel}) {}\n{body}\n", message.id);
    Report::new(Outcome::Delivered, None, "printed")
}

/// What all lanes share.
#[derive(Clone)]
struct Shared {
    store: Store,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// Owns the lanes.
pub struct Dispatcher {
    shared: Shared,
    lanes: HashMap<DestinationName, LaneHandle>,
    /// Stopped by a reload, and perhaps with attempts still under way.
    leaving: HashMap<DestinationName, JoinHandle<()>>,
    tasks: TaskTracker,
}

struct LaneHandle {
    settings: watch::Sender<Arc<LaneSettings>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Dispatcher {
    pub fn new(store: Store, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let shared = Shared { store, clock, metrics };
        Self { shared, lanes: HashMap::new(), leaving: HashMap::new(), tasks: TaskTracker::new() }
    }

    /// Runs a lane for each of these destinations and for no other. Lanes that stay get their new settings between two
    /// attempts; those that go finish what they have under way, and what they still owe waits in the store. All or
    /// nothing: on an error no lane has changed.
    pub async fn apply(&mut self, wanted: BTreeMap<DestinationName, LaneSettings>) -> Result<(), StoreError> {
        let mut subscribed = Vec::new();
        for (name, settings) in wanted {
            let subscription = self.shared.store.subscribe(&name).await?;
            subscribed.push((name, Arc::new(settings), subscription));
        }
        self.leaving.retain(|_, lane| !lane.is_finished());
        let goes = |name: &DestinationName| !subscribed.iter().any(|(wanted, ..)| wanted == name);
        for (name, lane) in self.lanes.extract_if(|name, _| goes(name)) {
            lane.stop.cancel();
            self.leaving.insert(name, lane.task);
        }
        for (name, settings, (destination, wake)) in subscribed {
            if let Some(lane) = self.lanes.get(&name) {
                lane.settings.send_replace(settings);
                continue;
            }
            let (sender, receiver) = watch::channel(settings);
            let stop = CancellationToken::new();
            let lane = lane::Lane::new(self.shared.clone(), destination, wake, receiver, stop.clone());
            // A destination that comes back has one lane at a time: the old one's attempts count against the limits, and its
            // answers may ask for a pause.
            let before = self.leaving.remove(&name);
            let task = self.tasks.spawn(async move {
                if let Some(before) = before {
                    let _ = before.await;
                }
                lane.run().await;
            });
            self.lanes.insert(name, LaneHandle { settings: sender, stop, task });
        }
        Ok(())
    }

    /// Starts nothing more and returns when all that is under way is settled. Safe to drop: what is then unsettled is taken
    /// up by the next start, marked as possibly sent.
    pub async fn drain(self) {
        for lane in self.lanes.values() {
            lane.stop.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests;
