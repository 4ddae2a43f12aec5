//! One attempt: render, send once, decide what follows, record it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::step::{Step, next_step};
use super::{LaneSettings, Sender, Shared};
use crate::backoff;
use crate::model::delivery::Code;
use crate::model::{Content, DeliveryId, Event, Message, Outcome, Report, Timestamp};
use crate::render::{self, Circumstances, Context};
use crate::store::{Claimed, Settlement, StoreError};
use crate::telemetry::metrics::PlainCause;

/// Between two tries to record an answer while the store cannot (full disk). The slot stays taken meanwhile, so nothing is
/// sent that could not be recorded either.
const RECORD_AGAIN: Duration = Duration::from_secs(1);
/// Of the failures in a row to use the store, one each second, this one of so many is logged.
pub(super) const LOG_EVERY: u32 = 60;

/// An attempt that is under way, with what it must know.
pub(super) struct Attempt {
    pub shared: Shared,
    pub settings: Arc<LaneSettings>,
    pub destination: i64,
    /// The destination's failures in a row.
    pub failures: Arc<AtomicU32>,
    pub claimed: Claimed,
}

impl Attempt {
    /// Returns when the answer is on disk: when it came, and until when the destination is to be left alone.
    pub(super) async fn run(self) -> (Timestamp, Option<Timestamp>) {
        let this = Arc::new(self);
        let started = this.shared.clock.now();
        // In a task of its own, so that a panic in a template engine or a client costs this message its looks, not the lane.
        let sending = tokio::spawn(Arc::clone(&this).send(started));
        let (report, crashed) = match sending.await {
            Ok(report) => (report, false),
            Err(error) => {
                tracing::error!(destination.name = %this.settings.name, "sending {} crashed: {error}", this.code());
                let detail = "the relay crashed on this message (see its log)";
                (Report::new(Outcome::RefusedContent, None, detail), true)
            }
        };
        let now = this.shared.clock.now();
        let random = backoff::random();
        let mut step = next_step(&this.claimed, &report, this.failures.load(Ordering::Relaxed), now, random);
        if crashed && let Settlement::Again { may_repeat, .. } = &mut step.settlement {
            // Nobody knows how far it got.
            *may_repeat = true;
        }
        this.failures.store(step.failures, Ordering::Relaxed);
        this.tell(&report, &step, started, now);
        this.record(&report, &step, now).await;
        (now, step.hold)
    }

    /// Returns when it is on disk, or never can be because the store is closed; then the next start takes the delivery up.
    async fn record(&self, report: &Report, step: &Step, now: Timestamp) {
        let mut tries: u32 = 0;
        loop {
            let (report, settlement) = (report.clone(), step.settlement.clone());
            let outcome = report.outcome.name();
            let settling =
                self.shared.store.settle(self.destination, &self.claimed, report, settlement, step.hold, now);
            let error = match settling.await {
                Ok(()) | Err(StoreError::Closed) => return,
                Err(error) => error,
            };
            if tries.is_multiple_of(LOG_EVERY) {
                tracing::error!(
                    destination.name = %self.settings.name, delivery.code = %self.code(),
                    "cannot record that {} was answered ({outcome}): {error}; trying again", self.code(),
                );
            }
            tries = tries.saturating_add(1);
            tokio::time::sleep(RECORD_AGAIN).await;
        }
    }

    async fn send(self: Arc<Self>, now: Timestamp) -> Report {
        let id = self.shared.store.delivery_id(self.claimed.row);
        let Some(content) = self.content(&id, now) else {
            return Report::new(Outcome::RefusedContent, None, "the stored event cannot be read");
        };
        let message = Message { id, content };
        match &self.settings.sender {
            // The receiver compares times with a clock of its own.
            Sender::Channel(notifier) => notifier.send(&message, self.shared.clock.wall()).await,
            Sender::Function(_, function) => function(message).await,
        }
    }

    fn content(&self, id: &DeliveryId, now: Timestamp) -> Option<Content> {
        let value = serde_json::from_str(&self.claimed.event).ok()?;
        let event = Event::from_value(value).ok()?;
        let rule = self.settings.rules.rule(self.claimed.rule.as_str());
        let circumstances = Circumstances {
            delivery_id: id,
            code: self.code(),
            severity: self.claimed.severity,
            rule: &self.claimed.rule,
            runbook: rule.and_then(|rule| rule.runbook.as_deref()),
            destination: &self.settings.name,
            may_repeat: self.claimed.may_repeat,
            test: false,
            received: self.claimed.received_at,
            now,
            delay: None,
            detour: None,
        };
        let context = Context::new(&event, &circumstances);
        let channel = self.settings.sender.channel();
        if self.claimed.plain {
            self.shared.metrics.plain_message(&self.settings.name, PlainCause::Refused);
            return Some(render::plain(channel, &context));
        }
        let template = rule.and_then(|rule| rule.template.as_deref()).or(self.settings.template.as_deref());
        let template = template.filter(|name| self.settings.renderer.has(channel, name)).unwrap_or("default");
        let rendered = std::panic::catch_unwind(AssertUnwindSafe(|| {
            self.settings.renderer.render(channel, template, &context).map_err(|error| error.to_string())
        }));
        let fault = match rendered {
            Ok(Ok(content)) => return Some(content),
            Ok(Err(fault)) => fault,
            Err(_) => "the template engine crashed".to_owned(),
        };
        self.shared.metrics.plain_message(&self.settings.name, PlainCause::Render);
        tracing::error!(
            destination.name = %self.settings.name, rule.name = %self.claimed.rule, event.key = %event.key,
            "template {channel}/{template} failed for {} ({}), the plain message goes out instead: {fault}",
            event.key, self.code(),
        );
        Some(render::plain(channel, &context))
    }

    /// Counts and logs the answer: each failure once, where it is handled.
    fn tell(&self, report: &Report, step: &Step, started: Timestamp, now: Timestamp) {
        let name = &self.settings.name;
        let took = now.since(started);
        let metrics = &self.shared.metrics;
        metrics.attempt_ended(name, &report.outcome, took.as_secs_f64());
        let code = self.code();
        let number = self.claimed.number;
        let detail = &report.detail;
        match &step.settlement {
            Settlement::Delivered => {
                let age = now.since(self.claimed.received_at);
                metrics.delivered(name, age.as_secs_f64());
                tracing::info!(
                    destination.name = %name, delivery.code = %code, rule.name = %self.claimed.rule,
                    "delivered {code} to {name} ({} ms after it came, attempt {number})", age.as_millis(),
                );
            }
            Settlement::Again { at, .. } => tracing::warn!(
                destination.name = %name, delivery.code = %code, attempt.outcome = report.outcome.name(),
                "attempt {number} of {code} to {name}: {detail}; again in {}",
                humantime::format_duration(at.since(now)),
            ),
            Settlement::Dead { reason } => tracing::error!(
                destination.name = %name, delivery.code = %code, attempt.outcome = report.outcome.name(),
                "gave up {code} to {name}: {reason}; see `halo-relay dead show {code}`",
            ),
        }
    }

    fn code(&self) -> Code {
        Code::of_row(self.claimed.row)
    }
}
