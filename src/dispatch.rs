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
//! [breaker], the [limits](crate::rate), a pause the destination asked for, and its free slots ([`concurrency`]); among what
//! is due, urgent goes before old. What follows from an answer is decided by [`step::next_step`]. All of these are pure.

mod attempt;
pub mod breaker;
pub mod concurrency;
mod lane;
mod lateness;
mod limits;
pub mod step;
mod tell;

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::limits::SharedLimit;
use self::tell::Tell;
use crate::clock::Clock;
use crate::deliver::Notifier;
use crate::model::{
    Channel, Content, DestinationName, Fallback, LimitName, Mention, Message, Outcome, Overflow, Report, Timestamp,
};
use crate::rate::{Pacer, Window};
use crate::render::{Audience, Renderer};
use crate::routing::RuleSet;
use crate::store::{Store, StoreError, Subscription};
use crate::telemetry::Metrics;

/// All that a lane needs to know; replaced as a whole by a reload.
pub struct LaneSettings {
    pub name: DestinationName,
    pub sender: Sender,
    /// Its own limits.
    pub limits: Vec<Window>,
    /// Those of the limits given to [`Dispatcher::apply`] that it shares with others.
    pub shared_limits: Vec<LimitName>,
    pub overflow: Overflow,
    pub fallback: Option<Fallback>,
    /// The destination's own template, used where the rule names none.
    pub template: Option<String>,
    /// Who is called where the rule says nothing, and by notices.
    pub mention: Vec<Mention>,
    pub rules: Arc<RuleSet>,
    pub renderer: Arc<Renderer>,
    /// Who reads what it gets.
    pub audience: Audience,
}

/// A lane's settings, with the limits that they name.
struct InForce {
    settings: LaneSettings,
    shared: Vec<Arc<SharedLimit>>,
}

impl InForce {
    /// Those of its own limits and of those that it shares.
    fn windows(&self) -> Vec<Window> {
        self.limits.iter().copied().chain(self.shared.iter().flat_map(|shared| shared.windows())).collect()
    }

    fn is_paced(&self) -> bool {
        !self.limits.is_empty() || !self.shared.is_empty()
    }
}

impl Deref for InForce {
    type Target = LaneSettings;

    fn deref(&self) -> &LaneSettings {
        &self.settings
    }
}

/// Attempts at one webhook destination that may be under way at once.
pub const WEBHOOK_SLOTS: usize = 32;

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

    /// Whether it tells of a message what later ones can be answers to.
    fn has_handles(&self) -> bool {
        matches!(self, Self::Channel(notifier) if notifier.has_handles())
    }

    /// How many attempts may be under way at once. Chat channels show messages in the order they arrive, and mail servers
    /// count connections, so those go one by one; this also bounds what a crash can make be sent twice.
    pub fn slots(&self) -> usize {
        match self.channel() {
            Channel::Webhook => WEBHOOK_SLOTS,
            Channel::Slack | Channel::Teams | Channel::Email | Channel::Http(_) => 1,
        }
    }
}

/// Once a lane has ended, what others gave to it as their fallback would wait for nobody.
async fn leave(shared: Shared, name: DestinationName, lane: JoinHandle<()>) {
    let _ = lane.await;
    if let Err(error) = shared.store.bring_home(name.clone(), None, shared.clock.now()).await {
        tracing::warn!(destination.name = %name, "what waits at {name} for others goes home at the next start: {error}");
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
    tell: Tell,
}

/// Owns the lanes.
pub struct Dispatcher {
    shared: Shared,
    lanes: HashMap<DestinationName, LaneHandle>,
    /// Stopped by a reload, and perhaps with attempts still under way.
    leaving: HashMap<DestinationName, JoinHandle<()>>,
    limits: BTreeMap<LimitName, Arc<SharedLimit>>,
    tasks: TaskTracker,
}

/// A shared limit whose windows change, and the sends on record that they must count.
type Renewal = (Arc<SharedLimit>, Vec<Window>, Vec<Timestamp>);

struct LaneHandle {
    settings: watch::Sender<Arc<InForce>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Dispatcher {
    pub fn new(store: Store, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let tell = Tell(Arc::clone(&metrics));
        let shared = Shared { store, clock, metrics, tell };
        let (lanes, leaving, limits) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        Self { shared, lanes, leaving, limits, tasks: TaskTracker::new() }
    }

    /// Runs a lane for each of these destinations and for no other. Lanes that stay get their new settings between two
    /// attempts; those that go finish what they have under way, and what they still owe waits in the store. All or
    /// nothing: on an error no lane has changed.
    pub async fn apply(
        &mut self,
        wanted: BTreeMap<DestinationName, LaneSettings>,
        limits: BTreeMap<LimitName, Vec<Window>>,
    ) -> Result<(), StoreError> {
        let (limits, renewed) = self.shared_limits(limits, &wanted).await?;
        let present: Vec<_> = wanted.keys().cloned().collect();
        self.shared.store.bring_home_from_others(&present, self.shared.clock.now()).await?;
        let mut subscribed = Vec::new();
        for (name, settings) in wanted {
            let shared = settings.shared_limits.iter().filter_map(|limit| limits.get(limit).cloned()).collect();
            let subscription =
                if self.lanes.contains_key(&name) { None } else { Some(self.shared.store.subscribe(&name).await?) };
            subscribed.push((name, Arc::new(InForce { settings, shared }), subscription));
        }
        for (limit, windows, sends) in renewed {
            limit.renew(windows, sends, self.shared.clock.now());
        }
        self.limits = limits;
        self.leaving.retain(|_, lane| !lane.is_finished());
        let goes = |name: &DestinationName| !subscribed.iter().any(|(wanted, ..)| wanted == name);
        for (name, lane) in self.lanes.extract_if(|name, _| goes(name)) {
            lane.stop.cancel();
            let task = self.tasks.spawn(leave(self.shared.clone(), name.clone(), lane.task));
            self.leaving.insert(name, task);
        }
        for (name, settings, subscription) in subscribed {
            match subscription {
                Some(subscription) => self.start(name, settings, subscription),
                None => {
                    if let Some(lane) = self.lanes.get(&name) {
                        lane.settings.send_replace(settings);
                    }
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, name: DestinationName, settings: Arc<InForce>, subscription: Subscription) {
        let (sender, receiver) = watch::channel(settings);
        let stop = CancellationToken::new();
        let lane = lane::Lane::new(self.shared.clone(), subscription, receiver, stop.clone());
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

    /// The shared limits in force: of new ones and of those that change, the store knows what they must count. The latter are
    /// told apart, with their windows and sends, to be changed when nothing can fail any more: their tickets stay good, so
    /// what is under way counts under the new windows as well.
    async fn shared_limits(
        &self,
        wanted: BTreeMap<LimitName, Vec<Window>>,
        destinations: &BTreeMap<DestinationName, LaneSettings>,
    ) -> Result<(BTreeMap<LimitName, Arc<SharedLimit>>, Vec<Renewal>), StoreError> {
        let now = self.shared.clock.now();
        let (mut limits, mut renewed) = (BTreeMap::new(), Vec::new());
        for (name, windows) in wanted {
            let present = self.limits.get(&name).map(Arc::clone);
            if let Some(present) = &present
                && present.windows() == windows
            {
                limits.insert(name, Arc::clone(present));
                continue;
            }
            let (since, most) = (now.minus(Pacer::memory(&windows)), Pacer::memory_sends(&windows));
            let mut sends = Vec::new();
            for (destination, _) in destinations.iter().filter(|(_, of)| of.shared_limits.contains(&name)) {
                sends.extend(self.shared.store.sends(destination.as_str(), since, most).await?);
            }
            sends.sort_unstable();
            let sends = sends.split_off(sends.len().saturating_sub(most));
            let limit = match present {
                Some(present) => {
                    renewed.push((Arc::clone(&present), windows, sends));
                    present
                }
                None => Arc::new(SharedLimit::new(Pacer::new(windows, sends, now))),
            };
            limits.insert(name, limit);
        }
        Ok((limits, renewed))
    }

    /// Starts nothing more. What comes meanwhile waits in the store.
    pub fn stop(&self) {
        for lane in self.lanes.values() {
            lane.stop.cancel();
        }
    }

    /// Starts nothing more and returns when all that is under way is settled. Safe to drop: what is then unsettled is taken
    /// up by the next start, marked as possibly sent.
    pub async fn drain(self) {
        self.stop();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod week_tests;
