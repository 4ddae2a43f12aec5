//! Whether a destination is sent to at all. Pure.
//!
//! ```text
//!            5 failures in a row                      a probe fails: wait twice as long
//!  taking ──────────────────────► failing ──┐◄──────────────────────────────────────────┐
//!    ▲ │                                    ├─► at its time, one real delivery is the probe
//!    │ └── refuses the relay ──► refusing ──┘                                            │
//!    └───────────────────────────── a probe is taken ◄───────────────────────────────────┘
//! ```
//!
//! While it is open nothing but probes leaves, and a failed probe does not count against the delivery that it was: an outage
//! of days costs a handful of requests and loses nothing.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::model::{Condition, Health, Outcome, Report, Timestamp};

/// Failures in a row that open the breaker.
pub const OPENS_AFTER: u32 = 5;
/// Between probes of a destination that fails.
const FAILING: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
/// Between probes of one that may take messages and does not say so: each probe may be a repeat that people see.
const UNKNOWN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(15));
/// Between probes of one that refuses: somebody has to act first, and will then mostly reload.
const REFUSING: Backoff = Backoff::new(Duration::from_mins(5), Duration::from_hours(1));

#[derive(Clone, Debug)]
pub struct Breaker {
    health: Health,
    /// When the present failures in a row began.
    failing_since: Option<Timestamp>,
}

/// May an attempt start?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// One, and nothing beside it.
    Probe,
    Shut {
        until: Timestamp,
    },
}

/// What an answer changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that must be remembered.
    None,
    /// It opened.
    Opened,
    /// It stays open, until another time.
    Waits,
    /// The destination takes messages again.
    Closed,
}

impl Breaker {
    pub fn new(health: Health) -> Self {
        Self { health, failing_since: None }
    }

    pub fn health(&self) -> &Health {
        &self.health
    }

    pub fn gate(&self, now: Timestamp) -> Gate {
        match self.health.condition {
            Condition::Taking => Gate::Open,
            Condition::Failing | Condition::Refusing if now >= self.health.probe_at => Gate::Probe,
            Condition::Failing | Condition::Refusing => Gate::Shut { until: self.health.probe_at },
        }
    }

    /// Somebody has been told of the refusal.
    pub fn noticed(&mut self) {
        self.health.noticed = true;
    }

    /// The destination may have been mended: the next delivery is a probe at once.
    pub fn probe_now(&mut self, now: Timestamp) {
        self.health.probe_at = self.health.probe_at.min(now);
    }

    /// Learns from an answer to an attempt that started at `started`. `random` is from 0 to 1.
    pub fn answered(&mut self, report: &Report, started: Timestamp, now: Timestamp, random: f64) -> Change {
        match report.outcome {
            Outcome::Delivered | Outcome::RefusedContent => self.close(now),
            Outcome::Throttled { wait } => {
                if self.health.condition == Condition::Taking {
                    return Change::None;
                }
                // It lives, and asks for a pause; the next probe honours it.
                self.health.probe_at = now.plus(wait.unwrap_or_default().max(FAILING.base));
                Change::Waits
            }
            Outcome::Transient | Outcome::Ambiguous => self.failed(report, started, now, random),
            Outcome::RefusedDestination => self.refused(report, started, now, random),
        }
    }

    fn close(&mut self, now: Timestamp) -> Change {
        self.failing_since = None;
        self.health.failures = 0;
        if self.health.condition == Condition::Taking {
            return Change::None;
        }
        self.health = Health { until: Some(now), condition: Condition::Taking, noticed: false, ..self.health.clone() };
        Change::Closed
    }

    fn failed(&mut self, report: &Report, started: Timestamp, now: Timestamp, random: f64) -> Change {
        let since = *self.failing_since.get_or_insert(started);
        let probe = started >= self.health.probe_at;
        let backoff = if report.outcome == Outcome::Ambiguous { UNKNOWN } else { FAILING };
        match self.health.condition {
            Condition::Taking => {
                self.health.failures = self.health.failures.saturating_add(1);
                if self.health.failures < OPENS_AFTER {
                    return Change::None;
                }
                self.open(Condition::Failing, since, report, now.plus(backoff.wait(1, random)));
                Change::Opened
            }
            // What was under way when it opened says nothing new.
            Condition::Failing | Condition::Refusing if !probe => Change::None,
            Condition::Failing | Condition::Refusing => {
                self.health.failures = self.health.failures.saturating_add(1);
                let probes = self.health.failures.saturating_sub(OPENS_AFTER - 1).max(1);
                let probe_at = now.plus(backoff.wait(probes, random));
                self.open(Condition::Failing, self.health.since.unwrap_or(since), report, probe_at);
                Change::Waits
            }
        }
    }

    fn refused(&mut self, report: &Report, started: Timestamp, now: Timestamp, random: f64) -> Change {
        let again = self.health.condition == Condition::Refusing;
        if again && started < self.health.probe_at {
            return Change::None;
        }
        self.health.failures = if again { self.health.failures.saturating_add(1) } else { 1 };
        // Never less than half, so that somebody who mends it is not overtaken by many probes.
        let probe_at = now.plus(REFUSING.wait(self.health.failures, random.mul_add(0.5, 0.5)));
        let since = match self.health.condition {
            Condition::Taking => self.failing_since.unwrap_or(started),
            Condition::Failing | Condition::Refusing => self.health.since.unwrap_or(started),
        };
        self.open(Condition::Refusing, since, report, probe_at);
        if again { Change::Waits } else { Change::Opened }
    }

    fn open(&mut self, condition: Condition, since: Timestamp, report: &Report, probe_at: Timestamp) {
        self.health.condition = condition;
        self.health.since = Some(since);
        self.health.until = None;
        self.health.reason = Some(report.detail.clone());
        self.health.probe_at = probe_at;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn later(millis: u64) -> Timestamp {
        NOW.plus(Duration::from_millis(millis))
    }

    fn report(outcome: Outcome) -> Report {
        Report::new(outcome, None, "words")
    }

    /// Answers at the times at which the attempts start, with the longest waits.
    fn answered(breaker: &mut Breaker, outcome: Outcome, at: Timestamp) -> Change {
        breaker.answered(&report(outcome), at, at, 1.0)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(Health::default());
        for n in 1..OPENS_AFTER {
            assert_eq!(answered(&mut breaker, Outcome::Transient, later(n.into())), Change::None);
            assert_eq!(breaker.gate(later(10)), Gate::Open);
        }
        assert_eq!(answered(&mut breaker, Outcome::Ambiguous, later(10)), Change::Opened);
        breaker
    }

    #[test]
    fn opens_after_failures_in_a_row_and_probes_ever_more_rarely() {
        let mut breaker = opened();
        assert_eq!(breaker.health().since, Some(later(1)));
        assert_eq!(breaker.gate(later(1_009)), Gate::Shut { until: later(1_010) });
        let mut at = later(1_010);
        for wait in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(breaker.gate(at), Gate::Probe);
            assert_eq!(answered(&mut breaker, Outcome::Transient, at), Change::Waits);
            let next = at.plus(Duration::from_secs(wait));
            assert_eq!(breaker.gate(at), Gate::Shut { until: next });
            at = next;
        }
        assert_eq!(answered(&mut breaker, Outcome::Delivered, at), Change::Closed);
        assert_eq!(breaker.gate(at), Gate::Open);
        assert_eq!((breaker.health().since, breaker.health().until), (Some(later(1)), Some(at)));
    }

    #[test]
    fn a_success_between_failures_starts_the_count_anew() {
        let mut breaker = Breaker::new(Health::default());
        for n in 0..20 {
            let outcome = if n % OPENS_AFTER == OPENS_AFTER - 1 { Outcome::Delivered } else { Outcome::Transient };
            assert_eq!(answered(&mut breaker, outcome, later(n.into())), Change::None);
        }
        assert_eq!(breaker.gate(later(20)), Gate::Open);
    }

    #[test]
    fn what_was_under_way_when_it_opened_postpones_nothing() {
        let mut breaker = opened();
        let started = later(5);
        assert_eq!(breaker.answered(&report(Outcome::Transient), started, later(900), 1.0), Change::None);
        assert_eq!(breaker.gate(later(1_010)), Gate::Probe);
    }

    #[test]
    fn a_refusal_opens_at_once_and_waits_long() {
        let mut breaker = Breaker::new(Health::default());
        assert_eq!(answered(&mut breaker, Outcome::RefusedDestination, NOW), Change::Opened);
        assert_eq!(breaker.gate(NOW), Gate::Shut { until: later(300_000) });
        breaker.probe_now(later(10));
        assert_eq!(breaker.gate(later(10)), Gate::Probe);
        assert_eq!(answered(&mut breaker, Outcome::RefusedDestination, later(10)), Change::Waits);
        assert_eq!(breaker.gate(later(11)), Gate::Shut { until: later(600_010) });
        assert_eq!(answered(&mut breaker, Outcome::Delivered, later(600_010)), Change::Closed);
        assert_eq!(breaker.health().condition, Condition::Taking);
    }

    #[test]
    fn a_pause_asked_for_is_no_failure() {
        let throttled = Outcome::Throttled { wait: Some(Duration::from_secs(7)) };
        let mut breaker = Breaker::new(Health::default());
        for n in 0..9 {
            assert_eq!(answered(&mut breaker, throttled.clone(), later(n)), Change::None);
        }
        let mut breaker = opened();
        assert_eq!(answered(&mut breaker, throttled, later(2_000)), Change::Waits);
        assert_eq!(breaker.gate(later(2_000)), Gate::Shut { until: later(9_000) });
    }

    #[test]
    fn a_refused_content_shows_that_the_destination_lives() {
        let mut breaker = opened();
        assert_eq!(answered(&mut breaker, Outcome::RefusedContent, later(2_000)), Change::Closed);
    }

    proptest! {
        /// However a dead receiver fails and whatever the dice say, an outage costs few attempts, a probe always comes, and the
        /// first message that is taken ends it.
        #[test]
        fn an_outage_is_bounded_and_ends(
            failures in prop::collection::vec((0..3_usize, 0.0..1.0_f64, 0..5_000_u64), 30..200),
        ) {
            let outcomes = [Outcome::Transient, Outcome::Ambiguous, Outcome::RefusedDestination];
            let mut breaker = Breaker::new(Health::default());
            let mut now = NOW;
            let mut opened = None;
            for (attempt, (outcome, random, latency)) in (1_u32..).zip(failures) {
                if let Gate::Shut { until } = breaker.gate(now) {
                    prop_assert!(until > now && until.since(now) <= Duration::from_hours(1));
                    now = until;
                }
                let started = now;
                now = now.plus(Duration::from_millis(latency));
                breaker.answered(&report(outcomes[outcome].clone()), started, now, random);
                if breaker.gate(now) != Gate::Open {
                    opened.get_or_insert(attempt);
                }
                prop_assert!(attempt < OPENS_AFTER || opened.is_some());
                if opened.is_some() {
                    prop_assert!(matches!(breaker.gate(now), Gate::Shut { .. }), "a probe that failed is followed by a pause");
                }
            }
            breaker.answered(&report(Outcome::Delivered), now, now, 1.0);
            prop_assert_eq!(breaker.gate(now), Gate::Open);
        }
    }
}
