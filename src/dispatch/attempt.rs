//! One attempt: render and send once. The message of an event that is on its way to the disk is made meanwhile.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::oneshot;

use super::lateness::{self, Known, Pause};
use super::{InForce, Sender, Shared};
use crate::model::delivery::{Code, Kind};
use crate::model::{Content, DeliveryId, Event, Health, Mention, Message, Outcome, Report, Timestamp};
use crate::render::{Circumstances, Context, Detour, Digest, DigestCount, DigestKind, Notice};
use crate::store::{Claimed, What};
use crate::telemetry::metrics::PlainCause;

/// An attempt that is under way, with what it must know.
pub(super) struct Attempt {
    pub shared: Shared,
    pub settings: Arc<InForce>,
    pub claimed: Claimed,
    /// Of a delivery that is on its way to the disk: nothing is sent before it is there.
    pub kept: Option<oneshot::Receiver<()>>,
    /// As they were when the attempt started.
    pub health: Health,
    pub pause: Option<Pause>,
}

/// How an attempt ended.
pub(super) enum Attempted {
    /// The report is the destination's.
    Sent(Report),
    /// A fault of ours, before anything was sent.
    NotSent(Report),
    /// The lane may not send now.
    NotStarted,
    /// There is no such delivery: it did not come to the disk.
    NeverKept,
}

impl Attempted {
    pub(super) fn not_sent(outcome: Outcome, why: impl Into<String>) -> Self {
        Self::NotSent(Report::new(outcome, None, why))
    }

    /// Of a delivery that is given back as soon as it is there.
    pub(super) async fn given_back(kept: oneshot::Receiver<()>) -> Self {
        if kept.await.is_ok() { Self::NotStarted } else { Self::NeverKept }
    }
}

impl Attempt {
    pub(super) async fn run(mut self) -> Attempted {
        let mut kept = self.kept.take();
        // What the thread is called may come to the disk with the delivery.
        if self.asks_for_thread() && !on_disk(kept.take()).await {
            return Attempted::NeverKept;
        }
        let made = caught(self.message()).await;
        if !on_disk(kept).await {
            return Attempted::NeverKept;
        }
        let message = match made.unwrap_or_else(|panic| resume_unwind(panic)) {
            Ok(message) => message,
            Err(fault) => return fault,
        };
        Attempted::Sent(match &self.settings.sender {
            // The receiver compares times with a clock of its own.
            Sender::Channel(notifier) => notifier.send(&message, self.shared.clock.wall()).await,
            Sender::Function(_, function) => function(message).await,
        })
    }

    async fn message(&self) -> Result<Message, Attempted> {
        let id = self.shared.store.delivery_id(self.claimed.row);
        let now = self.shared.clock.now();
        let (context, thread) = self.context(&id, now).await?;
        let reply_to = self.reply_to(thread.as_deref(), now).await;
        Ok(Message { id, content: self.content(&context), thread, reply_to })
    }

    fn asks_for_thread(&self) -> bool {
        self.claimed.thread.is_some() && self.settings.sender.has_handles()
    }

    /// What the channel called the first message of the thread. Whatever keeps it from being known, the message goes out.
    async fn reply_to(&self, thread: Option<&str>, now: Timestamp) -> Option<String> {
        let thread = thread.filter(|_| self.settings.sender.has_handles())?;
        let known = self.shared.store.thread(self.settings.name.as_str(), thread, now).await;
        known.unwrap_or_else(|error| {
            tracing::warn!(destination.name = %self.settings.name, "a message begins its thread anew: {error}");
            None
        })
    }

    /// What the message is made of, and the thread it belongs to.
    async fn context(&self, id: &DeliveryId, now: Timestamp) -> Result<(Context, Option<String>), Attempted> {
        let claimed = &self.claimed;
        let rule = self.settings.rules.rule(claimed.rule.as_str());
        let known = Known {
            destination: self.settings.name.as_str(),
            health: &self.health,
            pause: self.pause.as_ref(),
            limits: &self.settings.windows(),
            zone: &self.settings.audience.zone,
            opened_at: self.shared.store.opened_at(),
        };
        let delay = lateness::why(claimed, &known, now);
        let moved = claimed.moved.as_ref().filter(|_| !matches!(claimed.what, What::Notice(_)));
        let mentions = match (&claimed.what, rule.and_then(|rule| rule.mention.as_ref())) {
            (What::Event(_) | What::Record(_) | What::Digest(_), Some(named)) => named,
            _ => &self.settings.mention,
        };
        let about = Circumstances {
            delivery_id: id,
            code: self.code(),
            severity: claimed.severity,
            rule: &claimed.rule,
            runbook: rule.and_then(|rule| rule.runbook.as_deref()),
            destination: &self.settings.name,
            audience: &self.settings.audience,
            may_repeat: claimed.may_repeat,
            test: false,
            received: claimed.received_at,
            now,
            delay: delay.as_deref(),
            detour: moved.map(|moved| Detour { from: &moved.from, why: &moved.why }),
            mentions: &Mention::shown_in(mentions, self.settings.sender.channel()),
            thread: claimed.thread.as_deref(),
        };
        match &claimed.what {
            What::Event(event) => Ok((Context::new(event, &about), claimed.thread.clone())),
            What::Record(body) => event(body)
                .map(|event| (Context::new(&event, &about), claimed.thread.clone()))
                .ok_or_else(|| refused("the stored event cannot be read")),
            What::Digest(kind) => self.digest(*kind, &about).await,
            What::Notice(reason) => {
                let from = claimed.moved.as_ref().map_or(&self.settings.name, |moved| &moved.from);
                let waiting = self.shared.store.owed_by(from.as_str()).await.unwrap_or_default();
                Ok((Context::notice(&Notice { destination: from, reason, waiting }, &about), None))
            }
        }
    }

    async fn digest(&self, kind: Kind, about: &Circumstances<'_>) -> Result<(Context, Option<String>), Attempted> {
        let unread = |error| {
            Attempted::not_sent(Outcome::Transient, format!("the events of this digest cannot be read: {error}"))
        };
        let (store, row) = (&self.shared.store, self.claimed.row);
        let mut gathered = store.gathered(row).await.map_err(unread)?;
        let thread = gathered.thread.take();
        let mut count = DigestCount::default();
        loop {
            for (body, received) in &gathered.events {
                if let Some(event) = event(body) {
                    count.add(event, *received);
                }
            }
            let Some(next) = gathered.next else { break };
            gathered = store.gathered_after(row, next).await.map_err(unread)?;
        }
        let kind = if kind == Kind::Batch { DigestKind::Batch } else { DigestKind::Overflow };
        let digest = count.digest(kind).ok_or_else(|| refused("the stored events cannot be read"))?;
        let about = Circumstances { thread: thread.as_deref(), ..*about };
        let context = match digest.events.as_slice() {
            // Nothing joined it, so it is a message like any other.
            [event] if digest.count == 1 => Context::new(event, &about),
            _ => Context::digest(&Digest { count: gathered.members, ..digest }, &about),
        };
        Ok((context, thread))
    }

    fn content(&self, context: &Context) -> Content {
        let channel = self.settings.sender.channel();
        let rule = self.settings.rules.rule(self.claimed.rule.as_str());
        if self.claimed.plain {
            self.shared.metrics.plain_message(&self.settings.name, PlainCause::Refused);
            return self.settings.renderer.plain(channel, context);
        }
        let template = rule.and_then(|rule| rule.template.as_deref()).or(self.settings.template.as_deref());
        let template = template.filter(|name| self.settings.renderer.has(channel, name)).unwrap_or("default");
        let rendered = catch_unwind(AssertUnwindSafe(|| {
            self.settings.renderer.render(channel, template, context).map_err(|error| error.to_string())
        }));
        let fault = match rendered {
            Ok(Ok(content)) => return content,
            Ok(Err(fault)) => fault,
            Err(_) => "the template engine crashed".to_owned(),
        };
        self.shared.metrics.plain_message(&self.settings.name, PlainCause::Render);
        tracing::error!(
            destination.name = %self.settings.name, rule.name = %self.claimed.rule,
            "template {channel}/{template} failed for {}, the plain message goes out instead: {fault}", self.code(),
        );
        self.settings.renderer.plain(channel, context)
    }

    fn code(&self) -> Code {
        Code::of_row(self.claimed.row)
    }
}

/// Waits until a delivery is on disk; false if it never will be.
async fn on_disk(kept: Option<oneshot::Receiver<()>>) -> bool {
    match kept {
        Some(kept) => kept.await.is_ok(),
        None => true,
    }
}

/// What crashes must wait like anything else until it is known whether there is such a delivery.
async fn caught<T>(making: impl Future<Output = T>) -> std::thread::Result<T> {
    let mut making = pin!(making);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| making.as_mut().poll(context))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

fn event(body: &str) -> Option<Event> {
    Event::from_record(serde_json::from_str(body).ok()?).ok()
}

fn refused(why: &str) -> Attempted {
    Attempted::not_sent(Outcome::RefusedContent, why)
}
