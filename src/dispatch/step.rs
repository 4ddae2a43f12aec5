//! What follows from one answer, for the delivery and for its destination. Pure.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::model::{Outcome, Report, Timestamp};
use crate::store::{Claimed, Settlement};

/// Between two attempts at one delivery.
pub const RETRY: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_mins(10) };
/// Between two attempts at a destination that fails: its other deliveries would fail as well, so they wait too, and the
/// destination is probed, not flooded.
pub const HOLD: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_mins(1) };
/// A delivery this old is given up: by then people have other ways of knowing. The age bounds retries, not a count, so that
/// an outage of days costs nothing.
pub const GIVE_UP_AFTER: Duration = Duration::from_hours(7 * 24);
/// A throttled destination that does not say for how long is left alone at least this long.
const THROTTLED_MIN: Duration = Duration::from_secs(1);
/// Times are cut to milliseconds; a wait must not end a fraction early.
const RESOLUTION: Duration = Duration::from_millis(1);

/// What to record of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub settlement: Settlement,
    /// Send nothing to the destination before this time.
    pub hold: Option<Timestamp>,
    /// Failures in a row of the destination, after this attempt.
    pub failures: u32,
}

/// `failures` counts the destination's failures in a row before this attempt; `random` is from 0 to 1.
pub fn next_step(claimed: &Claimed, report: &Report, failures: u32, now: Timestamp, random: f64) -> Step {
    let dead = |failures| Step { settlement: Settlement::Dead { reason: report.detail.clone() }, hold: None, failures };
    match &report.outcome {
        Outcome::Delivered => Step { settlement: Settlement::Delivered, hold: None, failures: 0 },
        Outcome::RefusedContent if claimed.plain => dead(0),
        // Something smaller may pass. That is no failure of the destination, and not to be waited for.
        Outcome::RefusedContent => Step {
            settlement: Settlement::Again { at: now, counts: true, may_repeat: false, plain: true },
            hold: None,
            failures: 0,
        },
        Outcome::RefusedDestination => dead(failures.saturating_add(1)),
        _ if now.since(claimed.created_at) >= GIVE_UP_AFTER => Step {
            settlement: Settlement::Dead {
                reason: format!(
                    "not delivered within {}: {}",
                    humantime::format_duration(GIVE_UP_AFTER),
                    report.detail
                ),
            },
            hold: None,
            failures: failures.saturating_add(1),
        },
        Outcome::Throttled { wait } => {
            let failures = failures.saturating_add(1);
            let wait = wait.unwrap_or_else(|| HOLD.wait(failures, random).max(THROTTLED_MIN));
            let until = now.plus(wait).plus(RESOLUTION);
            Step {
                settlement: Settlement::Again { at: until, counts: false, may_repeat: false, plain: false },
                hold: Some(until),
                failures,
            }
        }
        Outcome::Transient | Outcome::Ambiguous => {
            let failures = failures.saturating_add(1);
            let may_repeat = report.outcome == Outcome::Ambiguous;
            let at = now.plus(RETRY.wait(claimed.failures.saturating_add(1), random));
            Step {
                settlement: Settlement::Again { at, counts: true, may_repeat, plain: false },
                hold: Some(now.plus(HOLD.wait(failures, random))),
                failures,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RuleName, Severity};

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn claimed(failures: u32, plain: bool, age: Duration) -> Claimed {
        Claimed {
            row: 1,
            number: 1,
            failures,
            severity: Severity::Info,
            rule: RuleName::from("all"),
            plain,
            may_repeat: false,
            received_at: NOW.minus(age),
            created_at: NOW.minus(age),
            event: String::new(),
        }
    }

    fn step(claimed: &Claimed, outcome: Outcome, failures: u32) -> Step {
        next_step(claimed, &Report::new(outcome, None, "words"), failures, NOW, 1.0)
    }

    fn again(millis: u64, counts: bool, may_repeat: bool, plain: bool) -> Settlement {
        Settlement::Again { at: NOW.plus(Duration::from_millis(millis)), counts, may_repeat, plain }
    }

    fn dead() -> Settlement {
        Settlement::Dead { reason: "words".into() }
    }

    #[test]
    fn what_follows() {
        let throttled = |seconds| Outcome::Throttled { wait: Some(Duration::from_secs(seconds)) };
        let cases = [
            // failures of the delivery, plain already, outcome, failures of the destination; settlement, hold, failures
            (0, false, Outcome::Delivered, 5, Settlement::Delivered, None, 0),
            (0, false, Outcome::Transient, 0, again(1_000, true, false, false), Some(1_000), 1),
            (2, false, Outcome::Transient, 0, again(4_000, true, false, false), Some(1_000), 1),
            (40, false, Outcome::Transient, 40, again(600_000, true, false, false), Some(60_000), 41),
            (0, false, Outcome::Ambiguous, 1, again(1_000, true, true, false), Some(2_000), 2),
            (3, false, throttled(3), 0, again(3_001, false, false, false), Some(3_001), 1),
            (3, true, Outcome::Throttled { wait: None }, 2, again(4_001, false, false, false), Some(4_001), 3),
            (0, false, Outcome::RefusedContent, 3, again(0, true, false, true), None, 0),
            (0, true, Outcome::RefusedContent, 3, dead(), None, 0),
            (0, false, Outcome::RefusedDestination, 3, dead(), None, 4),
        ];
        for (own, plain, outcome, failures, settlement, hold, after) in cases {
            let expected =
                Step { settlement, hold: hold.map(|millis| NOW.plus(Duration::from_millis(millis))), failures: after };
            assert_eq!(
                step(&claimed(own, plain, Duration::ZERO), outcome.clone(), failures),
                expected,
                "{outcome:?} {own} {plain}"
            );
        }
    }

    #[test]
    fn age_bounds_retries_but_not_success() {
        let old = claimed(0, false, GIVE_UP_AFTER);
        for outcome in [Outcome::Transient, Outcome::Ambiguous, Outcome::Throttled { wait: None }] {
            let Settlement::Dead { reason } = step(&old, outcome, 0).settlement else { panic!("kept for ever") };
            assert_eq!(reason, "not delivered within 7days: words");
        }
        assert_eq!(step(&old, Outcome::Delivered, 0).settlement, Settlement::Delivered);
        let young = claimed(99, false, Duration::from_hours(7 * 24 - 1));
        assert!(matches!(step(&young, Outcome::Transient, 0).settlement, Settlement::Again { .. }));
    }

    #[test]
    fn an_unlucky_draw_does_not_spin() {
        let report = Report::new(Outcome::Throttled { wait: None }, Some(429), "slow down");
        let step = next_step(&claimed(0, false, Duration::ZERO), &report, 0, NOW, 0.0);
        assert_eq!(step.hold, Some(NOW.plus(THROTTLED_MIN).plus(RESOLUTION)));
    }
}
