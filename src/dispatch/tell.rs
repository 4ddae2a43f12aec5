//! What lanes tell people, in logs and metrics: each answer once, where it is handled.

use std::sync::Arc;

use super::breaker::Change;
use crate::model::delivery::Code;
use crate::model::{Condition, DestinationName, Fallback, Health, Report, Timestamp};
use crate::store::{Claimed, Settlement};
use crate::telemetry::Metrics;

/// A delivery that took longer than this is worth a line of the log.
const SLOW: std::time::Duration = std::time::Duration::from_mins(1);

#[derive(Clone)]
pub(super) struct Tell(pub Arc<Metrics>);

impl Tell {
    pub(super) fn answer(
        &self,
        name: &DestinationName,
        claimed: &Claimed,
        report: &Report,
        settlement: &Settlement,
        now: Timestamp,
    ) {
        self.0.attempt_ended(name, &report.outcome, now.since(claimed.started_at).as_secs_f64());
        let code = Code::of_row(claimed.row);
        let (number, detail, outcome) = (claimed.number, &report.detail, report.outcome.name());
        match settlement {
            Settlement::Delivered => {
                let age = now.since(claimed.received_at);
                self.0.delivered(name, age.as_secs_f64());
                if report.partial {
                    tracing::warn!(
                        destination.name = %name, delivery.code = %code,
                        "delivered {code} to {name}, but not to all: {detail}",
                    );
                }
                // What goes well and at once fills logs that people read for the rest.
                if number == 1 && age < SLOW {
                    tracing::debug!(
                        destination.name = %name, delivery.code = %code, rule.name = %claimed.rule,
                        "delivered {code} to {name} ({} ms after it came): {detail}", age.as_millis(),
                    );
                } else {
                    tracing::info!(
                        destination.name = %name, delivery.code = %code, rule.name = %claimed.rule,
                        "delivered {code} to {name} ({} after it came, attempt {number})", shown(age),
                    );
                }
            }
            Settlement::Again { at, plain: false, .. } if *at <= now => tracing::warn!(
                destination.name = %name, delivery.code = %code, attempt.outcome = outcome,
                "attempt {number} of {code} to {name}: {detail}; it waits until {name} takes messages",
            ),
            Settlement::Again { at, .. } => tracing::warn!(
                destination.name = %name, delivery.code = %code, attempt.outcome = outcome,
                "attempt {number} of {code} to {name}: {detail}; again in {}", shown(at.since(now)),
            ),
            Settlement::Fallback { to, .. } => tracing::warn!(
                destination.name = %name, delivery.code = %code, attempt.outcome = outcome,
                "attempt {number} of {code} to {name}: {detail}; {to} is told instead, if it takes messages",
            ),
            Settlement::Dead { reason } => tracing::error!(
                destination.name = %name, delivery.code = %code, attempt.outcome = outcome,
                "gave up {code} to {name}: {reason}; see `halo-relay dead show {code}`",
            ),
            Settlement::NotStarted => {}
        }
    }

    /// The breaker opened or closed.
    pub(super) fn health(&self, name: &DestinationName, change: Change, health: &Health, fallback: Option<&Fallback>) {
        let reason = health.reason.as_deref().unwrap_or("no reason given");
        let instead = fallback.map(|fallback| match health.condition {
            Condition::Refusing => format!("{} is told instead", fallback.to),
            _ => format!("what it is owed waits, and goes to {} after {}", fallback.to, shown(fallback.after)),
        });
        let instead = instead.unwrap_or_else(|| "what it is owed waits, nothing is lost".to_owned());
        match (change, health.condition) {
            (Change::Opened, Condition::Refusing) => {
                self.0.breaker_opened(name);
                tracing::error!(
                    destination.name = %name,
                    "{name} refuses messages: {reason}; {instead}; mend the destination, then reload (it is tried again now and then)",
                );
            }
            (Change::Opened, _) => {
                self.0.breaker_opened(name);
                tracing::error!(
                    destination.name = %name,
                    "{name} takes no messages: {reason}; {instead}",
                );
            }
            (Change::Closed, _) => {
                let down = health.until.unwrap_or_default().since(health.since.unwrap_or_default());
                tracing::info!(destination.name = %name, "{name} takes messages again, after {}", shown(down));
            }
            (Change::Waits | Change::None, _) => {}
        }
    }

    /// Attempts that ended with the fallback; [`answer`](Self::answer) has told of each.
    pub(super) fn moved_singly(&self, from: &DestinationName, moved: usize) {
        if moved > 0 {
            self.0.moved_to_fallback(from, moved);
        }
    }

    pub(super) fn moved(&self, from: &DestinationName, to: &DestinationName, moved: usize) {
        if moved > 0 {
            self.0.moved_to_fallback(from, moved);
            tracing::warn!(destination.name = %from, "{to} is told what was meant for {from}: {moved} deliveries");
        }
    }

    pub(super) fn folded(&self, name: &DestinationName, folded: usize) {
        if folded > 0 {
            self.0.folded(name, folded);
            tracing::info!(
                destination.name = %name,
                "more came for {name} than its limits let through in time: {folded} events are told by digests",
            );
        }
    }
}

/// Rounded to what people read: seconds, or milliseconds below ten of them.
fn shown(span: std::time::Duration) -> humantime::FormattedDuration {
    let step = if span.as_secs() < 10 { 1 } else { 1_000 };
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    humantime::format_duration(std::time::Duration::from_millis(millis - millis % step))
}
