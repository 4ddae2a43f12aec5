//! What follows from one answer for its delivery. Pure; what follows for the destination is decided by
//! [`breaker`](super::breaker).

use std::time::Duration;

use crate::backoff::Backoff;
use crate::model::{Condition, Fallback, Health, Outcome, Report, Timestamp};
use crate::store::{Claimed, Settlement};

/// Between two attempts at one delivery.
pub const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(10));
/// Between two pauses of a destination that asks for them without saying how long.
pub const PAUSE: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(10));
/// A delivery this old is given up at its next failure: by then people have other ways of knowing. The age bounds retries,
/// not a count, so that an outage of a week, and some days to find out, cost nothing.
pub const GIVE_UP_AFTER: Duration = Duration::from_hours(14 * 24);
/// Failures of a delivery that is alone in failing before it is given up: it holds others of its kind.
pub const ALONE_MAX: u32 = 10;
/// A delivery that was the probe so often in a row lets another one try: its own content may be what fails.
const PROBES_IN_A_ROW: i64 = 5;
/// "Other messages are taken": within this time.
const RECENT: Duration = Duration::from_hours(1);
/// A throttled destination is left alone at least this long, whatever it asks for.
const THROTTLED_MIN: Duration = Duration::from_secs(1);
/// Times are cut to milliseconds; a wait must not end a fraction early.
const RESOLUTION: Duration = Duration::from_millis(1);

/// What is known beside the answer.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    /// How the destination does, this answer included.
    pub health: &'a Health,
    /// When the destination last took a message, as far as this process knows.
    pub last_delivered: Option<Timestamp>,
    /// Since when it has asked for pauses and taken nothing.
    pub pausing_since: Option<Timestamp>,
    /// Throttled answers in a row.
    pub pauses: u32,
    pub fallback: Option<&'a Fallback>,
    pub now: Timestamp,
    /// From 0 to 1.
    pub random: f64,
}

/// What to record of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub settlement: Settlement,
    /// Send nothing to the destination before this time.
    pub hold: Option<Timestamp>,
}

pub fn next_step(claimed: &Claimed, report: &Report, about: &Circumstances<'_>) -> Step {
    let now = about.now;
    let alone = |settlement| Step { settlement, hold: None };
    // What would be given up goes to the fallback first, whatever its age.
    let dead = |reason: String| alone(fallen_back(claimed, report, about, Duration::ZERO, Settlement::Dead { reason }));
    match &report.outcome {
        Outcome::Delivered => alone(Settlement::Delivered),
        // The content is good: it was only to be an answer to something that is gone. The next attempt begins the thread anew.
        Outcome::RefusedContent if report.thread.as_ref().is_some_and(|news| news.handle.is_none()) => {
            alone(Settlement::Again { at: now, counts: false, may_repeat: false, plain: false })
        }
        Outcome::RefusedContent if claimed.plain => dead(report.detail.clone()),
        // Something smaller may pass. That is no failure of the destination, and not to be waited for.
        Outcome::RefusedContent => alone(Settlement::Again { at: now, counts: true, may_repeat: false, plain: true }),
        _ if now.since(claimed.created_at) >= GIVE_UP_AFTER => {
            let age = humantime::format_duration(GIVE_UP_AFTER);
            dead(format!("not delivered within {age}: {}", report.detail))
        }
        // It waits for somebody to act, and goes to the fallback if there is one. The breaker alone says when to try again: a
        // time of its own would keep it waiting when a reload has mended the destination.
        Outcome::RefusedDestination => {
            let again = Settlement::Again { at: now, counts: false, may_repeat: false, plain: false };
            alone(fallen_back(claimed, report, about, Duration::ZERO, again))
        }
        Outcome::Throttled { wait } => {
            let wait = wait.unwrap_or_else(|| PAUSE.wait(about.pauses, about.random)).max(THROTTLED_MIN);
            let until = now.plus(wait).plus(RESOLUTION);
            let again = Settlement::Again { at: until, counts: false, may_repeat: false, plain: false };
            // One that is slow gets there; one that has only asked for pauses, for so long, may as well be down.
            let settlement = match about.fallback {
                Some(fallback) if about.pausing_since.is_some_and(|since| now.since(since) >= fallback.after) => {
                    fallen_back(claimed, report, about, fallback.after, again)
                }
                _ => again,
            };
            Step { settlement, hold: Some(until) }
        }
        Outcome::Transient | Outcome::Ambiguous => alone(failed(claimed, report, about)),
    }
}

fn failed(claimed: &Claimed, report: &Report, about: &Circumstances<'_>) -> Settlement {
    let now = about.now;
    let may_repeat = report.outcome == Outcome::Ambiguous;
    let after = about.fallback.map_or(Duration::MAX, |fallback| fallback.after);
    if about.health.condition != Condition::Taking {
        // The breaker says when to try again; a time of its own is only for letting another one go first.
        let probe_at = about.health.probe_at.max(now);
        let another = claimed.number % PROBES_IN_A_ROW == 0;
        let at = if another { probe_at.plus(probe_at.since(now)).plus(RESOLUTION) } else { now };
        return fallen_back(
            claimed,
            report,
            about,
            after,
            Settlement::Again { at, counts: false, may_repeat, plain: false },
        );
    }
    let failures = claimed.failures.saturating_add(1);
    let others_pass = about.last_delivered.is_some_and(|at| now.since(at) < RECENT);
    if others_pass && failures >= ALONE_MAX {
        let reason = format!("failed {failures} times while other messages were taken: {}", report.detail);
        return fallen_back(claimed, report, about, Duration::ZERO, Settlement::Dead { reason });
    }
    let at = now.plus(RETRY.wait(failures, about.random));
    fallen_back(claimed, report, about, after, Settlement::Again { at, counts: true, may_repeat, plain: false })
}

/// To the fallback, if there is one, the delivery is that old, and it has not come that way already.
fn fallen_back(
    claimed: &Claimed,
    report: &Report,
    about: &Circumstances<'_>,
    after: Duration,
    otherwise: Settlement,
) -> Settlement {
    match about.fallback {
        Some(Fallback { to, .. }) if claimed.moved.is_none() && about.now.since(claimed.created_at) >= after => {
            Settlement::Fallback {
                to: to.clone(),
                why: report.detail.clone(),
                may_repeat: report.outcome == Outcome::Ambiguous,
                otherwise: Box::new(otherwise),
            }
        }
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn claimed(failures: u32, plain: bool, age: Duration) -> Claimed {
        Claimed { failures, plain, ..Claimed::sample(NOW.minus(age)) }
    }

    fn later(millis: u64) -> Timestamp {
        NOW.plus(Duration::from_millis(millis))
    }

    fn well() -> Health {
        Health::default()
    }

    fn failing() -> Health {
        Health { condition: Condition::Failing, probe_at: later(4_000), ..Health::default() }
    }

    fn about(health: &Health) -> Circumstances<'_> {
        Circumstances {
            health,
            last_delivered: None,
            pausing_since: None,
            pauses: 1,
            fallback: None,
            now: NOW,
            random: 1.0,
        }
    }

    fn step(claimed: &Claimed, outcome: Outcome, about: &Circumstances<'_>) -> Step {
        next_step(claimed, &Report::new(outcome, None, "words"), about)
    }

    fn again(millis: u64, counts: bool, may_repeat: bool, plain: bool) -> Settlement {
        Settlement::Again { at: later(millis), counts, may_repeat, plain }
    }

    fn dead() -> Settlement {
        Settlement::Dead { reason: "words".into() }
    }

    #[test]
    fn what_follows() {
        let throttled = |seconds| Outcome::Throttled { wait: Some(Duration::from_secs(seconds)) };
        let (well, failing) = (well(), failing());
        let cases = [
            // failures of the delivery, plain already, outcome, the destination; settlement, hold
            (0, false, Outcome::Delivered, &failing, Settlement::Delivered, None),
            (0, false, Outcome::Transient, &well, again(1_000, true, false, false), None),
            (2, false, Outcome::Transient, &well, again(4_000, true, false, false), None),
            (40, false, Outcome::Transient, &well, again(600_000, true, false, false), None),
            (0, false, Outcome::Ambiguous, &well, again(1_000, true, true, false), None),
            (2, false, Outcome::Ambiguous, &failing, again(0, false, true, false), None),
            (3, false, throttled(3), &well, again(3_001, false, false, false), Some(3_001)),
            (3, true, Outcome::Throttled { wait: None }, &well, again(1_001, false, false, false), Some(1_001)),
            (0, false, Outcome::RefusedContent, &well, again(0, true, false, true), None),
            (0, true, Outcome::RefusedContent, &well, dead(), None),
            (0, false, Outcome::RefusedDestination, &failing, again(0, false, false, false), None),
        ];
        for (own, plain, outcome, health, settlement, hold) in cases {
            let expected = Step { settlement, hold: hold.map(later) };
            let found = step(&claimed(own, plain, Duration::ZERO), outcome.clone(), &about(health));
            assert_eq!(found, expected, "{outcome:?} {own} {plain}");
        }
    }

    /// Nothing is wrong with the message: it goes again as it is, also if it is the plain one already.
    #[test]
    fn a_message_whose_thread_is_gone_begins_it_anew() {
        let health = failing();
        let of = |handle: Option<&str>, plain| {
            let news = crate::model::ThreadNews { key: "t".into(), handle: handle.map(str::to_owned) };
            let report = Report { thread: Some(news), ..Report::new(Outcome::RefusedContent, Some(200), "words") };
            next_step(&claimed(3, plain, Duration::ZERO), &report, &about(&health)).settlement
        };
        assert_eq!(of(None, false), again(0, false, false, false));
        assert_eq!(of(None, true), again(0, false, false, false));
        assert_eq!(of(Some("x"), false), again(0, true, false, true));
    }

    #[test]
    fn a_probe_that_fails_again_and_again_lets_another_try() {
        let health = failing();
        let probe = Claimed { number: PROBES_IN_A_ROW, ..claimed(0, false, Duration::ZERO) };
        assert_eq!(step(&probe, Outcome::Transient, &about(&health)).settlement, again(8_001, false, false, false));
    }

    #[test]
    fn alone_in_failing_it_is_given_up_and_in_company_it_is_not() {
        let health = well();
        let last = claimed(ALONE_MAX - 1, false, Duration::from_hours(1));
        assert!(matches!(step(&last, Outcome::Transient, &about(&health)).settlement, Settlement::Again { .. }));
        let alone = Circumstances { last_delivered: Some(NOW.minus(Duration::from_mins(59))), ..about(&health) };
        let Settlement::Dead { reason } = step(&last, Outcome::Transient, &alone).settlement else { panic!("kept") };
        assert_eq!(reason, "failed 10 times while other messages were taken: words");
        let earlier = claimed(ALONE_MAX - 2, false, Duration::from_hours(1));
        assert!(matches!(step(&earlier, Outcome::Transient, &alone).settlement, Settlement::Again { .. }));
    }

    #[test]
    fn a_fallback_takes_what_fails_too_long_once() {
        let health = well();
        let fallback = Fallback { to: "mail".into(), after: Duration::from_mins(5) };
        let about = Circumstances { fallback: Some(&fallback), ..about(&health) };
        let young = claimed(1, false, Duration::from_secs(299));
        assert!(matches!(step(&young, Outcome::Transient, &about).settlement, Settlement::Again { .. }));
        let old = claimed(1, false, Duration::from_mins(5));
        let expected = Settlement::Fallback {
            to: "mail".into(),
            why: "words".into(),
            may_repeat: true,
            otherwise: Box::new(again(2_000, true, true, false)),
        };
        assert_eq!(step(&old, Outcome::Ambiguous, &about).settlement, expected);
        // Where nothing will pass until somebody acts, at once.
        let refused = step(&young, Outcome::RefusedDestination, &about).settlement;
        assert_eq!(otherwise(refused), Some(again(0, false, false, false)));
        let moved = crate::store::Moved { from: "chat".into(), why: String::new() };
        let moved = Claimed { moved: Some(moved), ..old };
        assert!(matches!(step(&moved, Outcome::Transient, &about).settlement, Settlement::Again { .. }));
    }

    /// What follows where the fallback does not take it; `None` if it does not go there.
    fn otherwise(settlement: Settlement) -> Option<Settlement> {
        if let Settlement::Fallback { otherwise, .. } = settlement { Some(*otherwise) } else { None }
    }

    #[test]
    fn nothing_is_given_up_that_the_fallback_has_not_seen() {
        let health = well();
        let fallback = Fallback { to: "mail".into(), after: Duration::from_hours(1) };
        let about = Circumstances { fallback: Some(&fallback), last_delivered: Some(NOW), ..about(&health) };
        let cases = [
            (claimed(ALONE_MAX - 1, false, Duration::from_mins(1)), Outcome::Transient),
            (claimed(0, true, Duration::ZERO), Outcome::RefusedContent),
            (claimed(0, false, GIVE_UP_AFTER), Outcome::Throttled { wait: None }),
        ];
        for (claimed, outcome) in cases {
            let first = step(&claimed, outcome.clone(), &about).settlement;
            assert!(matches!(otherwise(first), Some(Settlement::Dead { .. })), "{outcome:?}");
            let moved = crate::store::Moved { from: "chat".into(), why: String::new() };
            let moved = Claimed { moved: Some(moved), ..claimed };
            let last = step(&moved, outcome.clone(), &about).settlement;
            assert!(matches!(last, Settlement::Dead { .. }), "{outcome:?}");
        }
    }

    /// One that takes messages now and then is slow, and gets there.
    #[test]
    fn pauses_without_an_end_are_an_outage_for_the_fallback() {
        let health = well();
        let fallback = Fallback { to: "mail".into(), after: Duration::from_mins(5) };
        let throttled = || Outcome::Throttled { wait: Some(Duration::from_secs(3)) };
        let settled = |age, pausing_since: Option<u64>| {
            let pausing_since = pausing_since.map(|seconds| NOW.minus(Duration::from_secs(seconds)));
            let about = Circumstances { fallback: Some(&fallback), pausing_since, ..about(&health) };
            step(&claimed(0, false, Duration::from_secs(age)), throttled(), &about)
        };
        for (age, pausing_since, falls) in
            [(9_999, None, false), (9_999, Some(299), false), (300, Some(300), true), (299, Some(9_999), false)]
        {
            let found = settled(age, pausing_since);
            assert_eq!(found.hold, Some(later(3_001)));
            let expected = falls.then(|| again(3_001, false, false, false));
            assert_eq!(otherwise(found.settlement), expected, "{age} {pausing_since:?}");
        }
    }

    #[test]
    fn age_bounds_retries_but_not_success() {
        let old = claimed(0, false, GIVE_UP_AFTER);
        let health = failing();
        for outcome in
            [Outcome::Transient, Outcome::Ambiguous, Outcome::Throttled { wait: None }, Outcome::RefusedDestination]
        {
            let Settlement::Dead { reason } = step(&old, outcome, &about(&health)).settlement else {
                panic!("kept for ever")
            };
            assert_eq!(reason, "not delivered within 14days: words");
        }
        assert_eq!(step(&old, Outcome::Delivered, &about(&health)).settlement, Settlement::Delivered);
        let young = claimed(99, false, GIVE_UP_AFTER.checked_sub(Duration::from_secs(1)).unwrap());
        assert!(matches!(step(&young, Outcome::Transient, &about(&health)).settlement, Settlement::Again { .. }));
    }

    #[test]
    fn an_unlucky_draw_does_not_spin() {
        let health = well();
        let unlucky = Circumstances { random: 0.0, ..about(&health) };
        let found = step(&claimed(0, false, Duration::ZERO), Outcome::Throttled { wait: None }, &unlucky);
        assert_eq!(found.hold, Some(NOW.plus(THROTTLED_MIN).plus(RESOLUTION)));
    }

    proptest! {
        /// Every answer has a settlement; a delivery ends only when it arrived, was refused twice, failed alone or is too old,
        /// and what comes again does so in the foreseeable future.
        #[test]
        fn only_the_written_reasons_end_a_delivery(
            (kind, wait) in (0..6_usize, prop::option::of(0..100_000_u64)),
            (failures, number, plain, age_hours) in (0..20_u32, 1..200_i64, any::<bool>(), 0..500_u64),
            (open, others_pass, pauses, moved, random) in (any::<bool>(), any::<bool>(), 0..50_u32, any::<bool>(), 0.0..1.0_f64),
            falls_back in any::<bool>(),
        ) {
            let wait = wait.map(Duration::from_secs);
            let outcome = [
                Outcome::Delivered,
                Outcome::Throttled { wait },
                Outcome::Transient,
                Outcome::Ambiguous,
                Outcome::RefusedContent,
                Outcome::RefusedDestination,
            ][kind].clone();
            let health = if open { failing() } else { well() };
            let fallback = Fallback { to: "mail".into(), after: Duration::from_hours(1) };
            let age = Duration::from_hours(age_hours);
            let moved = moved.then(|| crate::store::Moved { from: "chat".into(), why: String::new() });
            let claimed = Claimed { number, moved: moved.clone(), ..claimed(failures, plain, age) };
            let circumstances = Circumstances {
                last_delivered: others_pass.then_some(NOW), pausing_since: (!others_pass).then_some(NOW.minus(age)), pauses, random, fallback: falls_back.then_some(&fallback),
                ..about(&health)
            };
            let found = step(&claimed, outcome.clone(), &circumstances);
            match found.settlement {
                Settlement::Delivered => prop_assert!(outcome == Outcome::Delivered),
                Settlement::Dead { .. } => prop_assert!(
                    age >= GIVE_UP_AFTER || (outcome == Outcome::RefusedContent && plain)
                        || (!open && others_pass && failures + 1 >= ALONE_MAX)
                ),
                Settlement::Again { at, may_repeat, .. } => {
                    let limit = wait.unwrap_or_default().max(Duration::from_mins(11)) + RESOLUTION;
                    prop_assert!(at >= NOW && at.since(NOW) <= limit);
                    prop_assert_eq!(may_repeat, outcome == Outcome::Ambiguous);
                }
                Settlement::Fallback { may_repeat, otherwise, .. } => {
                    let soon = outcome == Outcome::RefusedDestination;
                    let last = matches!(*otherwise, Settlement::Dead { .. });
                    prop_assert!(moved.is_none() && falls_back && (soon || last || age >= fallback.after));
                    prop_assert_eq!(may_repeat, outcome == Outcome::Ambiguous);
                }
                Settlement::NotStarted => prop_assert!(false, "it was"),
            }
            prop_assert_eq!(found.hold.is_some(), matches!(outcome, Outcome::Throttled { .. }) && age < GIVE_UP_AFTER);
        }
    }
}
