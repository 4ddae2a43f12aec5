//! The one place that reads a clock.
//!
//! Within one run the time is the wall clock at start plus what the monotonic clock has counted since: a step of the wall
//! clock can neither hasten nor delay a retry, a limit or an expiry. Everything else takes `now` as an argument.
//!
//! That time may come to differ from other machines', where the clock was wrong at the start and set right later, or does not
//! count while a virtual machine is paused. So what another machine compares with its own clock gets [`Clock::wall`].

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::model::Timestamp;

/// The monotonic clock is tokio's, so that a test that pauses it lets days pass in moments.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at_start: Timestamp,
    started: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self { at_start: wall(), started: Instant::now() }
    }

    pub fn now(&self) -> Timestamp {
        self.at_start.plus(self.started.elapsed())
    }

    /// What the wall clock shows now: for a signature's time, or a date that a server sent. Never for waiting.
    pub fn wall(&self) -> Timestamp {
        wall()
    }

    /// The tokio instant at which [`now`](Self::now) will be `at`; now or earlier if it has passed.
    pub fn instant(&self, at: Timestamp) -> Instant {
        let wait = at.since(self.now()).min(Duration::from_hours(24 * 365));
        Instant::now() + wait
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else is told to use")]
fn wall() -> Timestamp {
    Timestamp::default().plus(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}
