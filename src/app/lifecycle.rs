//! Signals in, and what the service manager is told.
//!
//! | signal | first | again |
//! |---|---|---|
//! | SIGHUP | reload the rules file | the same |
//! | SIGTERM, SIGINT | stop: drain with a deadline | stop at once |

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Reload,
    Stop,
}

pub struct Signals {
    hang_up: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            hang_up: unix::signal(SignalKind::hangup())?,
            terminate: unix::signal(SignalKind::terminate())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
        })
    }

    /// Safe to drop: a signal that came is not lost.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hang_up.recv() => Signal::Reload,
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
        }
    }

    /// Resolves at the next signal to stop; reloads asked for meanwhile come too late.
    pub async fn stop_again(&mut self) {
        while self.next().await != Signal::Stop {}
    }
}

/// Tells when it is time for a sign of life, also to the service manager's watchdog, if it has one for us.
pub struct Watchdog {
    ticks: Interval,
}

/// Without a watchdog. The store is told the time, and finds out if its files are gone.
const BEAT_EVERY: Duration = Duration::from_mins(1);

impl Watchdog {
    pub fn start() -> Self {
        // Three chances within the limit.
        let every =
            sd_notify::watchdog_enabled().map_or(BEAT_EVERY, |limit| (limit / 3).max(Duration::from_millis(100)));
        let mut ticks = tokio::time::interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks }
    }

    pub async fn due(&mut self) {
        self.ticks.tick().await;
    }

    pub fn feed(&self) {
        tell(&[NotifyState::Watchdog]);
    }
}

pub fn tell_ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// systemd before 253 knows no `Type=notify-reload`; it takes these two all the same, and newer ones need the time as well.
pub fn tell_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager could not be told: {error}");
    }
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_assignment() {
        assert_eq!(one_line("a\nREADY=0\r\u{0}b"), "a READY=0  b");
    }
}
