//! The limits that a lane keeps: its own, and those it shares with others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::model::Timestamp;
use crate::rate::{Pacer, Ticket, Turn, Window};

/// A limit of several destinations together.
pub(super) struct SharedLimit {
    pacer: Mutex<Pacer>,
    /// The lanes that found no room, to be woken when there is. No others: idle lanes, which take room and give it back as
    /// they look for work, would keep each other awake.
    refused: Mutex<Vec<Arc<Notify>>>,
}

impl SharedLimit {
    pub(super) fn new(pacer: Pacer) -> Self {
        Self { pacer: Mutex::new(pacer), refused: Mutex::default() }
    }

    pub(super) fn windows(&self) -> Vec<Window> {
        self.pacer().windows().to_vec()
    }

    /// Sets other windows; what is under way counts on. `ends` are the sends on record.
    pub(super) fn renew(&self, windows: Vec<Window>, ends: Vec<Timestamp>, now: Timestamp) {
        self.pacer().renew(windows, ends, now);
    }

    /// A lane that is refused will be woken.
    fn turn(&self, now: Timestamp, wake: &Arc<Notify>) -> Turn {
        let pacer = self.pacer();
        let turn = pacer.turn(now);
        self.note(turn, wake);
        turn
    }

    /// Asks and takes in one step: other lanes do the same.
    fn try_start(&self, now: Timestamp, wake: &Arc<Notify>) -> Option<Ticket> {
        let mut pacer = self.pacer();
        let turn = pacer.turn(now);
        self.note(turn, wake);
        matches!(turn, Turn::Now(_)).then(|| pacer.start(now))
    }

    /// Called with the pacer locked, so that no room is given back in between.
    fn note(&self, turn: Turn, wake: &Arc<Notify>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|lane| !Arc::ptr_eq(lane, wake));
        if !matches!(turn, Turn::Now(_)) {
            refused.push(Arc::clone(wake));
        }
    }

    fn pacer(&self) -> MutexGuard<'_, Pacer> {
        self.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lane that gives room back knows of it.
    fn freed(&self, by: &Arc<Notify>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|lane| !Arc::ptr_eq(lane, by));
        refused.drain(..).for_each(|lane| lane.notify_one());
    }
}

/// All limits of one lane.
pub(super) struct Limits {
    own: Pacer,
    shared: Vec<Arc<SharedLimit>>,
    /// Wakes the lane.
    wake: Arc<Notify>,
}

/// One send's place in each limit.
#[derive(Debug)]
pub(super) struct Tickets {
    own: Ticket,
    shared: Vec<Ticket>,
}

impl Limits {
    pub(super) fn new(own: Pacer, shared: Vec<Arc<SharedLimit>>, wake: Arc<Notify>) -> Self {
        Self { own, shared, wake }
    }

    /// Whether these are the limits, so that nothing has to be counted anew.
    pub(super) fn are(&self, own: &[Window], shared: &[Arc<SharedLimit>]) -> bool {
        self.own.windows() == own
            && self.shared.len() == shared.len()
            && self.shared.iter().zip(shared).all(|(ours, theirs)| Arc::ptr_eq(ours, theirs))
    }

    pub(super) fn is_shared(&self) -> bool {
        !self.shared.is_empty()
    }

    /// How many sends may start, by all limits.
    pub(super) fn turn(&self, now: Timestamp) -> Turn {
        let turns = self.shared.iter().map(|shared| shared.turn(now, &self.wake));
        turns.fold(self.own.turn(now), strictest)
    }

    /// Takes places for up to `most` sends; others may have been quicker.
    pub(super) fn reserve(&mut self, most: usize, now: Timestamp) -> Vec<Tickets> {
        std::iter::from_fn(|| self.reserve_one(now)).take(most).collect()
    }

    fn reserve_one(&mut self, now: Timestamp) -> Option<Tickets> {
        if !matches!(self.own.turn(now), Turn::Now(_)) {
            return None;
        }
        let mut tickets = Tickets { own: self.own.start(now), shared: Vec::new() };
        for shared in &self.shared {
            let Some(ticket) = shared.try_start(now, &self.wake) else {
                self.cancel(&tickets);
                return None;
            };
            tickets.shared.push(ticket);
        }
        Some(tickets)
    }

    pub(super) fn cancel(&mut self, tickets: &Tickets) {
        self.own.cancel(tickets.own);
        for (shared, ticket) in self.shared.iter().zip(&tickets.shared) {
            shared.pacer().cancel(*ticket);
            shared.freed(&self.wake);
        }
    }

    pub(super) fn answered(&mut self, tickets: &Tickets, at: Timestamp) {
        self.own.answered(tickets.own, at);
        for (shared, ticket) in self.shared.iter().zip(&tickets.shared) {
            shared.pacer().answered(*ticket, at);
            shared.freed(&self.wake);
        }
    }

    /// How many sends they let through within `span`.
    pub(super) fn clears(&self, now: Timestamp, span: Duration) -> usize {
        let shared = self.shared.iter().map(|shared| shared.pacer().clears(now, span));
        shared.fold(self.own.clears(now, span), usize::min)
    }
}

fn strictest(one: Turn, other: Turn) -> Turn {
    match (one, other) {
        (Turn::AfterAnswer, _) | (_, Turn::AfterAnswer) => Turn::AfterAnswer,
        (Turn::At(one), Turn::At(other)) => Turn::At(one.max(other)),
        (Turn::At(at), Turn::Now(_)) | (Turn::Now(_), Turn::At(at)) => Turn::At(at),
        (Turn::Now(one), Turn::Now(other)) => Turn::Now(one.min(other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + millis)
    }

    fn pacer(limits: &[&str]) -> Pacer {
        Pacer::new(limits.iter().map(|limit| limit.parse().unwrap()).collect(), [], at(0))
    }

    #[test]
    fn lanes_share_what_a_limit_lets_through() {
        let shared = Arc::new(SharedLimit::new(pacer(&["3/1s"])));
        let [wake_one, wake_other] = [(); 2].map(|()| Arc::new(Notify::new()));
        let mut one = Limits::new(pacer(&[]), vec![Arc::clone(&shared)], Arc::clone(&wake_one));
        let mut other = Limits::new(pacer(&["1/1s"]), vec![Arc::clone(&shared)], Arc::clone(&wake_other));
        assert_eq!(one.turn(at(0)), Turn::Now(3));
        assert_eq!(other.turn(at(0)), Turn::Now(1));
        let places = one.reserve(9, at(0));
        assert_eq!(places.len(), 3);
        assert_eq!(other.turn(at(0)), Turn::AfterAnswer);
        assert!(other.reserve(9, at(0)).is_empty());
        one.cancel(&places[2]);
        let woken = |wake: &Notify| std::pin::pin!(wake.notified()).as_mut().enable();
        assert!(woken(&wake_other), "it was refused");
        assert!(!woken(&wake_one), "it would wake itself for ever");
        let mine = other.reserve(9, at(0));
        assert_eq!(mine.len(), 1);
        one.answered(&places[0], at(100));
        one.answered(&places[1], at(200));
        other.answered(&mine[0], at(300));
        assert_eq!(one.turn(at(400)), Turn::At(at(1_101)));
        assert_eq!(other.turn(at(400)), Turn::At(at(1_301)));
    }

    #[test]
    fn without_limits_there_is_always_room() {
        let mut limits = Limits::new(pacer(&[]), Vec::new(), Arc::default());
        assert_eq!(limits.reserve(9, at(0)).len(), 9);
        assert_eq!(limits.turn(at(0)), Turn::Now(usize::MAX));
    }

    proptest! {
        /// Two greedy lanes with limits of their own: together they never send more than the shared limit in any window, and
        /// whenever both wait there is a time at which one goes on.
        #[test]
        fn two_greedy_lanes_keep_a_shared_limit(
            (count, tenths, own) in (1_u32..5, 1_u64..20, 1_u32..5),
            sends in prop::collection::vec((any::<bool>(), 0..400_u64, 0..300_u64), 1..80),
        ) {
            let per = Duration::from_millis(tenths * 100);
            let window = Window::new(count, per).unwrap();
            let shared = Arc::new(SharedLimit::new(Pacer::new(vec![window], [], at(0))));
            let mut lanes = [own, own + 1].map(|own| {
                let own = Pacer::new(vec![Window::new(own, per).unwrap()], [], at(0));
                Limits::new(own, vec![Arc::clone(&shared)], Arc::default())
            });
            let (mut now, mut starts) = (at(0), Vec::new());
            let mut under_way: Vec<(usize, Tickets, Timestamp)> = Vec::new();
            for (second, latency, idle) in sends {
                now = now.plus(Duration::from_millis(idle));
                let lane = usize::from(second);
                let ticket = loop {
                    under_way.retain(|(lane, tickets, ends)| {
                        let over = *ends <= now;
                        if over {
                            lanes[*lane].answered(tickets, now);
                        }
                        !over
                    });
                    match lanes[lane].turn(now) {
                        Turn::Now(_) => {
                            let mut found = lanes[lane].reserve(1, now);
                            prop_assert_eq!(found.len(), 1, "room that is none");
                            if let Some(ticket) = found.pop() {
                                break ticket;
                            }
                        }
                        Turn::At(then) => {
                            prop_assert!(then > now);
                            now = then;
                        }
                        Turn::AfterAnswer => {
                            let next = under_way.iter().map(|(.., ends)| *ends).min();
                            prop_assert!(next.is_some(), "waits for an answer that nobody gives");
                            now = next.unwrap_or(now).max(now);
                        }
                    }
                };
                starts.push(now);
                under_way.push((lane, ticket, now.plus(Duration::from_millis(latency))));
            }
            for window in starts.windows(count as usize + 1) {
                prop_assert!(window[count as usize].since(window[0]) >= per, "more than {} within {:?}", count, per);
            }
        }
    }
}
