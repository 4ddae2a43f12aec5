//! Why a message is late, in words. Pure.

use std::time::Duration;

use crate::model::{Condition, Health, Timestamp, Zone};
use crate::rate::Window;
use crate::store::Claimed;

/// Sent sooner than this, nobody asks.
const LATE: Duration = Duration::from_mins(10);

/// What is known about the lane that sends.
pub(super) struct Known<'a> {
    pub destination: &'a str,
    pub health: &'a Health,
    /// The last that the destination asked for.
    pub pause: Option<&'a Pause>,
    pub limits: &'a [Window],
    /// When this process began.
    pub opened_at: Timestamp,
    /// In which times are told.
    pub zone: &'a Zone,
}

/// What a destination asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    pub until: Timestamp,
    /// Its answer.
    pub why: String,
}

/// `None` if it is not late, or nobody knows why.
pub(super) fn why(claimed: &Claimed, known: &Known<'_>, now: Timestamp) -> Option<String> {
    let received = claimed.received_at;
    if now.since(received) < LATE {
        return None;
    }
    let name = known.destination;
    let clock = |at| known.zone.clock(at, now);
    if claimed.created_at.since(received) >= LATE && claimed.moved.is_none() && claimed.is_event() {
        return Some(format!("sent again by an operator at {}", clock(claimed.created_at)));
    }
    if let Some(outage) = outage(known.health, received, now) {
        let (from, until, reason) = outage;
        return Some(format!("{name} took no messages from {} to {}: {reason}", clock(from), clock(until)));
    }
    if known.opened_at.since(received) >= LATE {
        return Some(format!("the relay was not running until {}", clock(known.opened_at)));
    }
    // One that ended soon after the message came is not what it waited for most of the time.
    if let Some(Pause { until, why }) = known.pause
        && until.since(received) * 2 >= now.since(received)
    {
        return Some(format!("{name} asked for a pause until {}: {why}", clock(*until)));
    }
    if claimed.failures > 0 {
        return Some(format!("{} earlier attempts failed", claimed.failures));
    }
    let limits: Vec<_> = known.limits.iter().map(ToString::to_string).collect();
    (!limits.is_empty()).then(|| format!("more came than {name} may be sent ({})", limits.join(", ")))
}

/// The latest outage, if the message had to wait for its end.
fn outage(health: &Health, received: Timestamp, now: Timestamp) -> Option<(Timestamp, Timestamp, &str)> {
    let since = health.since?;
    let until = match health.condition {
        Condition::Taking => health.until?,
        Condition::Failing | Condition::Refusing => now,
    };
    (until > received).then(|| (since, until, health.reason.as_deref().unwrap_or("it failed")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn ago(minutes: u64) -> Timestamp {
        NOW.minus(Duration::from_mins(minutes))
    }

    fn told(
        received: Timestamp,
        failures: u32,
        health: &Health,
        limits: &[Window],
        opened_at: Timestamp,
    ) -> Option<String> {
        told_with(received, failures, health, (None, limits), opened_at)
    }

    fn told_with(
        received: Timestamp,
        failures: u32,
        health: &Health,
        (pause, limits): (Option<&Pause>, &[Window]),
        opened_at: Timestamp,
    ) -> Option<String> {
        let claimed = Claimed { failures, ..Claimed::sample(received) };
        why(&claimed, &Known { destination: "chat", health, pause, limits, opened_at, zone: &Zone::utc() }, NOW)
    }

    #[test]
    fn a_pause_that_took_most_of_the_time_is_the_reason() {
        let limits = ["1/1s".parse().unwrap()];
        let told = |until| {
            let pause = Pause { until: ago(until), why: "HTTP 429".to_owned() };
            told_with(ago(40), 0, &Health::default(), (Some(&pause), &limits), ago(99_999)).unwrap()
        };
        assert_eq!(told(1), "chat asked for a pause until 22:12 UTC: HTTP 429");
        assert_eq!(told(20), "chat asked for a pause until 21:53 UTC: HTTP 429");
        assert_eq!(told(21), "more came than chat may be sent (1/1s)");
        assert_eq!(told(50), "more came than chat may be sent (1/1s)", "it was over before the event came");
    }

    #[test]
    fn reasons() {
        let well = Health::default();
        let outage = |since, until| Health {
            since: Some(since),
            until: Some(until),
            reason: Some("connection refused".to_owned()),
            ..Health::default()
        };
        let limits = ["1/1s".parse().unwrap()];
        let long_ago = ago(99_999);
        let cases = [
            (told(ago(9), 1, &outage(ago(9), ago(1)), &limits, long_ago), None),
            (
                told(ago(40), 1, &outage(ago(60), ago(1)), &limits, long_ago),
                Some("chat took no messages from 21:13 UTC to 22:12 UTC: connection refused"),
            ),
            (
                told(ago(2_000), 0, &outage(ago(3_000), ago(1)), &limits, long_ago),
                Some("chat took no messages from 2023-11-12 20:13 UTC to 22:12 UTC: connection refused"),
            ),
            // An outage that had ended before it came is no excuse.
            (
                told(ago(40), 0, &outage(ago(60), ago(50)), &limits, long_ago),
                Some("more came than chat may be sent (1/1s)"),
            ),
            (told(ago(40), 0, &well, &limits, ago(2)), Some("the relay was not running until 22:11 UTC")),
            (told(ago(40), 3, &well, &limits, long_ago), Some("3 earlier attempts failed")),
            (told(ago(40), 0, &well, &[], long_ago), None),
        ];
        for (told, expected) in cases {
            assert_eq!(told.as_deref(), expected);
        }
    }

    #[test]
    fn an_operator_is_named() {
        let claimed = Claimed { created_at: ago(1), ..Claimed::sample(ago(40)) };
        let known = Known {
            destination: "chat",
            health: &Health::default(),
            pause: None,
            limits: &[],
            opened_at: ago(99),
            zone: &Zone::named("Europe/Berlin").unwrap(),
        };
        assert_eq!(why(&claimed, &known, NOW).as_deref(), Some("sent again by an operator at 23:12 CET"));
    }
}
