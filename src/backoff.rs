//! How long to wait after failures in a row: exponential, with full jitter, without overflow. Pure but for [`random`].

use std::time::Duration;

/// Waits are drawn from zero to a ceiling that starts at `base`, doubles with each failure and stops at `cap`.
///
/// Full jitter spreads clients that failed together best, at the price of an occasional short wait:
/// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub cap: Duration,
}

impl Backoff {
    /// No wait is shorter, whatever the settings and the dice say: a loop must never spin.
    pub const FLOOR: Duration = Duration::from_millis(250);

    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap }
    }

    /// The wait after `failures` in a row (the first is 1; 0 counts as 1). `random` is from 0 to 1; anything else is
    /// taken as the nearer end, not-a-number as 1.
    pub fn wait(&self, failures: u32, random: f64) -> Duration {
        let ceiling = self.ceiling(failures);
        let random = if random.is_nan() { 1.0 } else { random.clamp(0.0, 1.0) };
        let drawn = Duration::try_from_secs_f64(ceiling.as_secs_f64() * random).unwrap_or(ceiling);
        drawn.min(ceiling).max(Self::FLOOR)
    }

    /// The longest wait after `failures` in a row.
    pub fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let ceiling = self.base.checked_mul(1 << doublings).map_or(self.cap, |grown| grown.min(self.cap));
        ceiling.max(Self::FLOOR)
    }
}

/// From 0 (included) to 1 (excluded), for [`Backoff::wait`] and other jitter. Not for secrets.
pub fn random() -> f64 {
    fastrand::f64()
}

/// `span`, stretched or shrunk by up to a tenth, so that programs started together do not stay together.
pub fn jittered(span: Duration, random: f64) -> Duration {
    Duration::try_from_secs_f64(span.as_secs_f64() * (0.9 + 0.2 * random.clamp(0.0, 1.0))).unwrap_or(span)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits() {
        let backoff = Backoff::new(5 * SECOND, 300 * SECOND);
        let cases = [
            (0, 1.0, 5 * SECOND),
            (1, 1.0, 5 * SECOND),
            (2, 1.0, 10 * SECOND),
            (2, 0.5, 5 * SECOND),
            (6, 1.0, 160 * SECOND),
            (7, 1.0, 300 * SECOND),
            (7, 0.25, 75 * SECOND),
            (u32::MAX, 1.0, 300 * SECOND),
            (7, 0.0, Backoff::FLOOR),
            (7, -3.0, Backoff::FLOOR),
            (7, 17.0, 300 * SECOND),
            (7, f64::INFINITY, 300 * SECOND),
            (7, f64::NAN, 300 * SECOND),
        ];
        for (failures, random, expected) in cases {
            assert_eq!(backoff.wait(failures, random), expected, "{failures} failures, random {random}");
        }
    }

    #[test]
    fn odd_settings_do_not_spin_or_overflow() {
        let cases = [
            (Duration::ZERO, Duration::ZERO, Backoff::FLOOR),
            (10 * SECOND, SECOND, SECOND),
            (Duration::MAX, Duration::MAX, Duration::MAX),
        ];
        for (base, cap, expected) in cases {
            assert_eq!(Backoff::new(base, cap).wait(40, 1.0), expected, "base {base:?}, cap {cap:?}");
        }
    }

    #[test]
    fn jitter_is_a_tenth() {
        let cases = [(0.0, 54.0), (0.5, 60.0), (1.0, 66.0), (9.0, 66.0)];
        for (random, seconds) in cases {
            let off = (jittered(60 * SECOND, random).as_secs_f64() - seconds).abs();
            assert!(off < 1e-6, "random {random} is off by {off}");
        }
        assert_eq!(jittered(Duration::MAX, 1.0), Duration::MAX);
    }

    proptest! {
        #[test]
        fn always_between_floor_and_ceiling(
            base in any::<Duration>(), cap in any::<Duration>(), failures in any::<u32>(), random in 0.0..1.0,
        ) {
            let backoff = Backoff::new(base, cap);
            let wait = backoff.wait(failures, random);
            prop_assert!(wait >= Backoff::FLOOR);
            prop_assert!(wait <= cap.max(Backoff::FLOOR));
            prop_assert!(wait <= backoff.ceiling(failures));
            prop_assert!(backoff.ceiling(failures) <= backoff.ceiling(failures.saturating_add(1)));
        }
    }
}
