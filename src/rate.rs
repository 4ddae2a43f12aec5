//! How fast a destination may be sent to: windows (`30/10m`) that hold over every stretch of time of their length, as the
//! receiver counts them, also across a restart.
//!
//! A send occupies a window from its start until the window's length after its *answer*. The receiver saw the request
//! somewhere in between, so no jitter on the way can make it count more than allowed. This is a sliding log, not a token
//! bucket: a bucket that may burst N passes up to 2N−1 in one window, and one that may not gives away most of the rate.
//! Pure: the time is an argument, the log is rebuilt from the attempts on record.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::model::Timestamp;

/// At most `count` sends within any `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    count: u32,
    per: Duration,
}

/// Why a text is not a [`Window`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error("a limit is a number and a duration, like `30/10m` or `1/1s`")]
    Form,
    #[error("the number of a limit must be from 1 to {}", Window::COUNT_MAX)]
    Count,
    #[error("the duration of a limit is not readable: {0}")]
    Duration(String),
    #[error("the duration of a limit must be from 100ms to 31 days")]
    Span,
}

impl Window {
    /// Bounds the log kept in memory, 24 bytes a send.
    pub const COUNT_MAX: u32 = 10_000;
    pub const PER_MIN: Duration = Duration::from_millis(100);
    pub const PER_MAX: Duration = Duration::from_hours(31 * 24);

    pub fn new(count: u32, per: Duration) -> Result<Self, WindowError> {
        if !(1..=Self::COUNT_MAX).contains(&count) {
            return Err(WindowError::Count);
        }
        if !(Self::PER_MIN..=Self::PER_MAX).contains(&per) {
            return Err(WindowError::Span);
        }
        Ok(Self { count, per })
    }

    pub const fn count(self) -> u32 {
        self.count
    }

    pub const fn per(self) -> Duration {
        self.per
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let (count, per) = text.split_once('/').ok_or(WindowError::Form)?;
        let count = count.trim();
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(WindowError::Form);
        }
        let count = count.parse().map_err(|_| WindowError::Count)?;
        let per = humantime::parse_duration(per.trim()).map_err(|error| WindowError::Duration(error.to_string()))?;
        Self::new(count, per)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, humantime::format_duration(self.per))
    }
}

/// Times are cut to whole milliseconds: an answer stamped 300 may have come at 300.9.
const RESOLUTION: Duration = Duration::from_millis(1);

/// One destination's windows and the sends that still occupy them.
#[derive(Clone, Debug)]
pub struct Pacer {
    windows: Vec<Window>,
    /// In the order they started. Never more than the greatest `count`: no more may start.
    sends: VecDeque<Send>,
    next_ticket: u64,
}

#[derive(Clone, Copy, Debug)]
struct Send {
    ticket: Ticket,
    /// `None` while the answer is awaited.
    answered: Option<Timestamp>,
}

/// Names one send until its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

/// May a send start?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As many as this, at least one.
    Now(usize),
    /// Not before this time.
    At(Timestamp),
    /// Only once a send under way has been answered.
    AfterAnswer,
}

impl Pacer {
    /// `answered` are the times at which earlier sends ended, in any order; those after `now` (the clock was set back)
    /// count as now.
    pub fn new(windows: Vec<Window>, answered: impl IntoIterator<Item = Timestamp>, now: Timestamp) -> Self {
        let mut answered: Vec<_> = answered.into_iter().map(|at| at.min(now)).collect();
        answered.sort_unstable();
        if windows.is_empty() {
            answered.clear();
        }
        let sends = (0..).zip(answered).map(|(ticket, at)| Send { ticket: Ticket(ticket), answered: Some(at) });
        let sends: VecDeque<_> = sends.collect();
        Self { windows, next_ticket: sends.len() as u64, sends }
    }

    /// Goes on with other windows, and with the tickets that are out. `answered` are earlier sends as the record has them: it
    /// may lack those that were answered of late, and lacks those under way.
    pub fn renew(&mut self, windows: Vec<Window>, answered: impl IntoIterator<Item = Timestamp>, now: Timestamp) {
        let recorded = Self::new(windows, answered, now);
        let mut unseen: Vec<_> = recorded.sends.iter().filter_map(|send| send.answered).collect();
        self.sends.retain(|send| {
            let seen = send.answered.and_then(|at| unseen.iter().position(|other| *other == at));
            seen.map(|at| unseen.swap_remove(at)).is_none()
        });
        for send in recorded.sends {
            self.sends.push_back(Send { ticket: Ticket(self.next_ticket), ..send });
            self.next_ticket += 1;
        }
        self.windows = recorded.windows;
        if self.windows.is_empty() {
            self.sends.clear();
        }
    }

    /// The span of history that [`new`](Self::new) needs: nothing older can still count.
    pub fn memory(windows: &[Window]) -> Duration {
        windows.iter().map(|window| window.per).max().unwrap_or_default()
    }

    /// The number of latest sends that [`new`](Self::new) needs: no window counts more.
    pub fn memory_sends(windows: &[Window]) -> usize {
        windows.iter().map(|window| window.count as usize).max().unwrap_or_default()
    }

    pub fn windows(&self) -> &[Window] {
        &self.windows
    }

    pub fn turn(&self, now: Timestamp) -> Turn {
        let mut room = usize::MAX;
        let mut free_at = now;
        for window in &self.windows {
            let ends = self.sends.iter().map(|send| send.answered.map(|at| at.plus(window.per).plus(RESOLUTION)));
            let occupied = ends.clone().filter(|end| end.is_none_or(|end| end > now)).count();
            let left = (window.count as usize).saturating_sub(occupied);
            room = room.min(left);
            if left == 0 {
                match nth_end(ends, now, occupied - window.count as usize) {
                    Some(end) => free_at = free_at.max(end),
                    None => return Turn::AfterAnswer,
                }
            }
        }
        if room == 0 { Turn::At(free_at) } else { Turn::Now(room) }
    }

    /// Records that a send starts. The caller has asked [`turn`](Self::turn).
    pub fn start(&mut self, now: Timestamp) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let memory = Self::memory(&self.windows);
        self.sends.retain(|send| send.answered.is_none_or(|at| at.plus(memory).plus(RESOLUTION) > now));
        if !self.windows.is_empty() {
            self.sends.push_back(Send { ticket, answered: None });
        }
        ticket
    }

    /// Forgets a send that did not take place.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.sends.retain(|send| send.ticket != ticket);
    }

    /// How many sends the windows let through within `span`, if all are answered at once; at least one.
    pub fn clears(&self, now: Timestamp, span: Duration) -> usize {
        let end = now.plus(span);
        let within = |window: &Window| {
            let count = window.count as usize;
            let turns = usize::try_from(span.as_millis() / window.per.as_millis().max(1)).unwrap_or(usize::MAX);
            if turns > 0 {
                return count.saturating_mul(turns);
            }
            let still = |send: &Send| send.answered.is_none_or(|at| at.plus(window.per) > end);
            count.saturating_sub(self.sends.iter().filter(|send| still(send)).count())
        };
        self.windows.iter().map(within).min().unwrap_or(usize::MAX).max(1)
    }

    /// Records that the send was answered, or given up, at `now`.
    pub fn answered(&mut self, ticket: Ticket, now: Timestamp) {
        if let Some(send) = self.sends.iter_mut().find(|send| send.ticket == ticket) {
            send.answered = Some(now);
        }
    }
}

/// When the window has let go of `excess` sends and one more; `None` if that takes an answer not yet there. `excess` is
/// more than zero only after limits were tightened.
fn nth_end(ends: impl Iterator<Item = Option<Timestamp>>, now: Timestamp, excess: usize) -> Option<Timestamp> {
    let mut ends: Vec<_> = ends.flatten().filter(|end| *end > now).collect();
    ends.sort_unstable();
    ends.get(excess).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    fn windows(texts: &[&str]) -> Vec<Window> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn forms() {
        let shown = |text: &str| text.parse::<Window>().map(|window| window.to_string());
        assert_eq!(shown("30/10m").unwrap(), "30/10m");
        assert_eq!(shown(" 1 / 1s ").unwrap(), "1/1s");
        assert_eq!(shown("5/1h 30m").unwrap(), "5/1h 30m");
        let rejects = [
            ("30", WindowError::Form),
            ("/1s", WindowError::Form),
            ("-1/1s", WindowError::Form),
            ("1.5/1s", WindowError::Form),
            ("0/1s", WindowError::Count),
            ("99999999999/1s", WindowError::Count),
            ("1/0s", WindowError::Span),
            ("1/1y", WindowError::Span),
        ];
        for (text, error) in rejects {
            assert_eq!(shown(text).unwrap_err(), error, "{text}");
        }
        assert!(matches!(shown("1/soon"), Err(WindowError::Duration(_))));
    }

    #[test]
    fn a_window_frees_up_its_length_after_the_answer() {
        let mut pacer = Pacer::new(windows(&["2/1s"]), [], at(0));
        assert_eq!(pacer.turn(at(0)), Turn::Now(2));
        let first = pacer.start(at(0));
        let second = pacer.start(at(0));
        assert_eq!(pacer.turn(at(5_000)), Turn::AfterAnswer);
        pacer.answered(second, at(300));
        assert_eq!(pacer.turn(at(400)), Turn::At(at(1_301)));
        pacer.answered(first, at(500));
        assert_eq!(pacer.turn(at(1_300)), Turn::At(at(1_301)));
        assert_eq!(pacer.turn(at(1_301)), Turn::Now(1));
        assert_eq!(pacer.turn(at(1_501)), Turn::Now(2));
    }

    #[test]
    fn all_windows_count() {
        let mut pacer = Pacer::new(windows(&["1/1s", "2/10s"]), [at(-3_000)], at(0));
        let ticket = pacer.start(at(0));
        pacer.answered(ticket, at(0));
        assert_eq!(pacer.turn(at(10)), Turn::At(at(7_001)));
    }

    #[test]
    fn a_cancelled_send_takes_no_room() {
        let mut pacer = Pacer::new(windows(&["1/1s"]), [], at(0));
        let ticket = pacer.start(at(0));
        assert_eq!(pacer.turn(at(0)), Turn::AfterAnswer);
        pacer.cancel(ticket);
        assert_eq!(pacer.turn(at(0)), Turn::Now(1));
    }

    #[test]
    fn what_clears_in_a_span() {
        let cases = [
            (&["1/1s"][..], 0, 120),
            (&["1/1s", "30/10m"], 0, 30),
            (&["1/1s", "30/10m"], 12, 18),
            (&["1/1s", "30/10m"], 30, 1),
            (&["100/1s"], 0, 12_000),
            (&[], 0, usize::MAX),
        ];
        for (limits, sent, clears) in cases {
            let pacer = Pacer::new(windows(limits), vec![at(-1_000); sent], at(0));
            assert_eq!(pacer.clears(at(0), Duration::from_mins(2)), clears, "{limits:?} {sent}");
        }
    }

    #[test]
    fn no_limits_no_log() {
        let mut pacer = Pacer::new(Vec::new(), [at(0)], at(0));
        pacer.start(at(0));
        assert_eq!(pacer.turn(at(0)), Turn::Now(usize::MAX));
        assert!(pacer.sends.is_empty());
    }

    #[test]
    fn history_from_the_future_counts_as_now() {
        let pacer = Pacer::new(windows(&["1/1s"]), [at(86_400_000)], at(0));
        assert_eq!(pacer.turn(at(10)), Turn::At(at(1_001)));
    }

    #[test]
    fn tighter_limits_hold_for_what_was_already_sent() {
        let pacer = Pacer::new(windows(&["1/10s"]), [at(-3_000), at(-2_000), at(-1_000)], at(0));
        assert_eq!(pacer.turn(at(0)), Turn::At(at(9_001)));
    }

    #[test]
    fn other_windows_count_what_is_under_way_and_nothing_twice() {
        let mut pacer = Pacer::new(vec!["9/1m".parse().unwrap()], [], at(0));
        let [recorded, late, under_way] = [(); 3].map(|()| pacer.start(at(0)));
        pacer.answered(recorded, at(10));
        pacer.answered(late, at(20));
        pacer.renew(vec!["5/1m".parse().unwrap()], [at(5), at(10)], at(30));
        assert_eq!(pacer.turn(at(30)), Turn::Now(1), "of another lane, recorded, late, under way");
        let last = pacer.start(at(30));
        assert_eq!(pacer.turn(at(60_006)), Turn::Now(1), "the first has left the window");
        pacer.answered(under_way, at(60_000));
        pacer.cancel(last);
        assert_eq!(pacer.turn(at(60_030)), Turn::Now(4));
        pacer.renew(Vec::new(), [], at(60_030));
        assert_eq!(pacer.turn(at(60_030)), Turn::Now(usize::MAX));
    }

    proptest! {
        /// A greedy sender with answers after any delay, restarted at any time: the receiver, which saw each request at any
        /// moment between start and answer, never counts more than allowed in any window.
        #[test]
        fn no_window_ever_holds_more(
            limits in prop::collection::vec((1u32..5, 1u64..20), 1..3),
            sends in prop::collection::vec((0i64..700, 0.0f64..=1.0, 0i64..900, prop::bool::weighted(0.1)), 1..60),
        ) {
            let windows: Vec<_> =
                limits.iter().map(|&(count, tenths)| Window::new(count, Duration::from_millis(tenths * 100)).unwrap()).collect();
            let mut now = at(0);
            let mut pacer = Pacer::new(windows.clone(), [], now);
            let mut history = Vec::new();
            let mut arrivals = Vec::new();
            for (latency, arrival, idle, restart) in sends {
                now = now.plus(Duration::from_millis(idle.unsigned_abs()));
                if restart {
                    pacer = Pacer::new(windows.clone(), history.clone(), now);
                }
                loop {
                    match pacer.turn(now) {
                        Turn::Now(_) => break,
                        Turn::At(then) => { prop_assert!(then > now); now = then; }
                        Turn::AfterAnswer => prop_assert!(false, "everything was answered"),
                    }
                }
                let ticket = pacer.start(now);
                #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "small numbers")]
                let seen = now.as_millis() + (latency as f64 * arrival) as i64;
                arrivals.push(seen);
                now = now.plus(Duration::from_millis(latency.unsigned_abs()));
                pacer.answered(ticket, now);
                history.push(now);
            }
            for window in &windows {
                let per = i64::try_from(window.per().as_millis()).unwrap();
                for &from in &arrivals {
                    let held = arrivals.iter().filter(|&&seen| (from..from + per).contains(&seen)).count();
                    prop_assert!(held <= window.count() as usize, "{held} in {window}");
                }
            }
        }
    }
}
