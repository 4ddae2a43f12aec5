//! The page walk: which page of the event list to ask for next. Pure.
//!
//! The list is paged by offset and has neither a cursor nor a sort by date, so it shifts while it is read: events that
//! appear push others to the next page, events that are deleted pull others to a page already read. The walk therefore
//!
//! - asks for pages that overlap a little: a small shift is then a repeat, which costs nothing;
//! - reads the list a second time when the total changed, or when nothing of an overlap came back;
//! - believes what the pages hold before what they claim: without `pagination` it goes on to a page without anything
//!   new, and a page as full as it may be is never the last one;
//! - stops at a server that repeats itself, and after [`PAGES_MAX`] pages, and says so.
//!
//! It never stops early because of an order it assumes: none is documented
//! (<https://docs.halosecurity.com/api/readme/pagination-and-sorting>). What it still misses, the next poll finds.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

/// The most the API gives in one page.
pub const LIMIT_MAX: u32 = 1000;
/// Ends the walk of a server that never runs out of pages: ten million events of full pages.
pub const PAGES_MAX: u32 = 10_000;
/// A list that also changes under the second reading is left to the next poll.
const PASSES_MAX: u8 = 2;
/// Pages in a row without anything new, although there should be: one or two may be a burst of new events that pushed
/// the list along.
const BARREN_MAX: u8 = 3;
/// Pages overlap by a twentieth, at least one record, at most this many.
const OVERLAP_MAX: u64 = 50;

/// The page to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub start: u64,
    pub limit: u32,
}

/// What the answer to a [`Request`] held.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// What tells each record from all others: its id, or all of its text if it has none.
    pub names: &'a [String],
    /// `pagination.total`.
    pub total: Option<u64>,
    /// `pagination.limit`: what the server made of the limit asked for.
    pub limit: Option<u64>,
}

/// What to do after an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// For each name of the answer, whether this walk meets it for the first time.
    pub fresh: Vec<bool>,
    pub next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Ask(Request),
    End(Ending),
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything listed was read.
    Complete,
    /// The list changed under both readings, or its total does not fit what it holds.
    Unsteady,
    /// The server gave the same records again and again.
    Repeating,
    /// [`PAGES_MAX`] pages were read and there were more.
    TooLong,
}

impl Ending {
    /// What to tell the operator, unless all is well.
    pub const fn complaint(self) -> Option<&'static str> {
        match self {
            Self::Complete => None,
            Self::Unsteady => {
                Some("the event list changed while it was read; what was missed is read by the next poll")
            }
            Self::Repeating => {
                Some("the event API gives the same page again and again; events on later pages cannot be read")
            }
            Self::TooLong => {
                Some("the event list has more pages than a poll reads; the events on the last ones are not seen")
            }
        }
    }
}

/// One walk over the whole list.
#[derive(Debug)]
pub struct Walk {
    asked: Request,
    /// How many records of the page before the page asked for should repeat.
    overlap: u64,
    pages: u32,
    pass: u8,
    /// Pages in a row without anything new to this pass.
    barren: u8,
    /// The first total of this pass.
    total: Option<u64>,
    /// Something in this pass shows that the list shifted.
    shifted: bool,
    /// The pass that last met each record, by a hash of its name: eight bytes stand for ids of fifty.
    met: HashMap<u64, u8>,
    hasher: RandomState,
}

impl Default for Walk {
    fn default() -> Self {
        Self::new()
    }
}

impl Walk {
    pub fn new() -> Self {
        Self {
            asked: Request { start: 0, limit: LIMIT_MAX },
            overlap: 0,
            pages: 0,
            pass: 1,
            barren: 0,
            total: None,
            shifted: false,
            met: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// The first page to ask for.
    pub const fn first(&self) -> Request {
        self.asked
    }

    /// How many different records the walk has met.
    pub fn listed(&self) -> usize {
        self.met.len()
    }

    /// Takes the answer to the last request.
    pub fn answered(&mut self, answer: Answer<'_>) -> Turn {
        self.pages += 1;
        let (fresh, new_to_pass) = self.meet(answer.names);
        let count = answer.names.len() as u64;
        // A server that gives less than asked says so here; the same limit throughout keeps its pages aligned.
        if let Some(limit) = answer.limit.and_then(|limit| u32::try_from(limit).ok()) {
            self.asked.limit = self.asked.limit.min(limit.max(1));
        }
        let end = self.asked.start.saturating_add(count);
        self.watch_for_shifts(&answer, count, new_to_pass);
        let next = if self.is_last(&answer, count, new_to_pass) {
            self.end_pass()
        } else if self.barren >= BARREN_MAX {
            Next::End(Ending::Repeating)
        } else {
            self.overlap = overlap(count);
            self.ask(end.saturating_sub(self.overlap))
        };
        Turn { fresh, next }
    }

    /// Which names are new to the walk, and how many are new to this pass.
    fn meet(&mut self, names: &[String]) -> (Vec<bool>, u64) {
        let mut new_to_pass = 0;
        let fresh = names
            .iter()
            .map(|name| {
                let before = self.met.insert(self.hasher.hash_one(name), self.pass);
                new_to_pass += u64::from(before != Some(self.pass));
                before.is_none()
            })
            .collect();
        (fresh, new_to_pass)
    }

    fn watch_for_shifts(&mut self, answer: &Answer<'_>, count: u64, new_to_pass: u64) {
        if let Some(total) = answer.total {
            self.shifted |= *self.total.get_or_insert(total) != total;
            self.shifted |= count == 0 && total > self.asked.start;
        }
        // More was deleted than the overlap covers: records in between may have slipped to a page already read.
        self.shifted |= self.overlap > 0 && count > 0 && new_to_pass == count;
        self.barren = if new_to_pass == 0 { self.barren + 1 } else { 0 };
    }

    fn is_last(&self, answer: &Answer<'_>, count: u64, new_to_pass: u64) -> bool {
        let reached = answer.total.is_some_and(|total| self.asked.start.saturating_add(count) >= total);
        match (count, new_to_pass) {
            (0, _) => true,
            (_, 0) => reached || count <= self.overlap,
            _ => reached && count < u64::from(self.asked.limit),
        }
    }

    fn end_pass(&mut self) -> Next {
        if !self.shifted {
            return Next::End(Ending::Complete);
        }
        if self.pass >= PASSES_MAX {
            return Next::End(Ending::Unsteady);
        }
        self.pass += 1;
        (self.overlap, self.barren, self.total, self.shifted) = (0, 0, None, false);
        self.ask(0)
    }

    fn ask(&mut self, start: u64) -> Next {
        if self.pages >= PAGES_MAX {
            return Next::End(Ending::TooLong);
        }
        self.asked.start = start;
        Next::Ask(self.asked)
    }
}

/// Less than the page itself, so that the walk always moves on.
fn overlap(count: u64) -> u64 {
    (count / 20).clamp(1, OVERLAP_MAX).min(count.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server, as far as paging goes.
    #[derive(Clone, Copy)]
    struct Server {
        /// The most it gives in a page.
        page_max: u64,
        /// States `pagination`.
        states: bool,
        /// Added to the total it states.
        total_off: i64,
        /// Gives the first page whatever `start` is asked for.
        ignores_start: bool,
    }

    const HONEST: Server = Server { page_max: 1000, states: true, total_off: 0, ignores_start: false };

    struct Walked {
        requests: Vec<Request>,
        listed: usize,
        ending: Ending,
    }

    impl Walked {
        fn starts(&self) -> Vec<u64> {
            self.requests.iter().map(|request| request.start).collect()
        }
    }

    /// Walks a list of numbers; `before_page` may change it before each page (counted from 0).
    fn walk(server: Server, mut list: Vec<u64>, mut before_page: impl FnMut(usize, &mut Vec<u64>)) -> Walked {
        let mut walk = Walk::new();
        let mut requests = vec![walk.first()];
        loop {
            let request = *requests.last().unwrap();
            before_page(requests.len() - 1, &mut list);
            let start = if server.ignores_start { 0 } else { request.start };
            let limit = u64::from(request.limit).min(server.page_max);
            let names: Vec<_> = list
                .iter()
                .skip(usize::try_from(start).unwrap())
                .take(usize::try_from(limit).unwrap())
                .map(u64::to_string)
                .collect();
            let total = server.states.then(|| (list.len() as u64).saturating_add_signed(server.total_off));
            let turn = walk.answered(Answer { names: &names, total, limit: server.states.then_some(limit) });
            match turn.next {
                Next::Ask(request) => requests.push(request),
                Next::End(ending) => return Walked { requests, listed: walk.listed(), ending },
            }
        }
    }

    fn still(server: Server, length: u64) -> Walked {
        walk(server, (0..length).collect(), |_, _| {})
    }

    #[test]
    fn a_list_at_rest_is_read_whole() {
        let small = Server { page_max: 100, ..HONEST };
        let silent = Server { states: false, ..HONEST };
        let silent_small = Server { page_max: 100, states: false, ..HONEST };
        let tiny = Server { page_max: 1, ..HONEST };
        let cases: &[(&str, Server, u64, &[u64])] = &[
            ("empty", HONEST, 0, &[0]),
            ("one page", HONEST, 999, &[0]),
            ("a full page is never the last", HONEST, 1000, &[0, 950]),
            ("two pages", HONEST, 1001, &[0, 950]),
            ("the server gives less than asked", small, 250, &[0, 95, 190]),
            ("one by one", tiny, 3, &[0, 1, 2, 3]),
            ("no pagination, empty", silent, 0, &[0]),
            ("no pagination, one record", silent, 1, &[0, 1]),
            ("no pagination, one page", silent, 300, &[0, 285]),
            ("no pagination, less than asked", silent_small, 250, &[0, 95, 190, 247]),
        ];
        for (what, server, length, starts) in cases {
            let walked = still(*server, *length);
            assert_eq!(walked.starts(), *starts, "{what}");
            assert_eq!((walked.listed as u64, walked.ending), (*length, Ending::Complete), "{what}");
        }
    }

    #[test]
    fn the_limit_follows_what_the_server_states() {
        let limits: Vec<_> = still(Server { page_max: 100, ..HONEST }, 150).requests.iter().map(|r| r.limit).collect();
        assert_eq!(limits, [1000, 100]);
    }

    #[test]
    fn false_totals() {
        let cases = [
            ("too small, full pages go on", -900, 1500, 1500, Ending::Complete),
            ("too great by a few", 7, 1500, 1500, Ending::Complete),
            ("for a list that holds nothing", 7, 0, 0, Ending::Unsteady),
            ("zero", -30, 30, 30, Ending::Complete),
        ];
        for (what, total_off, length, listed, ending) in cases {
            let walked = still(Server { total_off, ..HONEST }, length);
            assert_eq!((walked.listed, walked.ending), (listed, ending), "{what}");
        }
    }

    #[test]
    fn a_server_that_repeats_itself_is_left() {
        let cases = [
            ("full pages, total stated", Server { ignores_start: true, ..HONEST }, 5000, 4),
            ("full pages, nothing stated", Server { ignores_start: true, states: false, ..HONEST }, 5000, 4),
            ("short pages, nothing stated", Server { ignores_start: true, states: false, ..HONEST }, 10, 4),
        ];
        for (what, server, length, pages) in cases {
            let walked = still(server, length);
            assert_eq!((walked.requests.len(), walked.ending), (pages, Ending::Repeating), "{what}");
        }
        // Everything fits into the one page that it repeats: nothing is lost, so nothing is said.
        let walked = still(Server { ignores_start: true, ..HONEST }, 1000);
        assert_eq!(walked.ending, Ending::Complete);
    }

    #[test]
    fn new_events_at_the_front_hide_nothing() {
        // Newest first: each page finds the list pushed back by seven.
        let mut next = 10_000;
        let walked = walk(Server { page_max: 100, ..HONEST }, (0..400).collect(), |page, list| {
            if (1..5).contains(&page) {
                for _ in 0..7 {
                    list.insert(0, next);
                    next += 1;
                }
            }
        });
        assert_eq!((walked.listed, walked.ending), (428, Ending::Complete), "{:?}", walked.starts());
    }

    #[test]
    fn a_burst_greater_than_a_page_is_no_repetition() {
        for states in [true, false] {
            let server = Server { page_max: 100, states, ..HONEST };
            let walked = walk(server, (0..400).collect(), |page, list| {
                if page == 1 {
                    list.splice(0..0, 10_000..10_150);
                }
            });
            // Without a total nothing tells that the list grew at the front: the next poll reads those.
            let listed = if states { 550 } else { 455 };
            assert_eq!((walked.listed, walked.ending), (listed, Ending::Complete), "states {states}");
        }
    }

    #[test]
    fn deletions_hide_nothing() {
        let cases = [("within the overlap", true, 3), ("beyond it", true, 60), ("beyond it, no total", false, 60)];
        for (what, states, deleted) in cases {
            let server = Server { page_max: 100, states, ..HONEST };
            let walked = walk(server, (0..400).collect(), |page, list| {
                if page == 2 {
                    list.drain(..deleted);
                }
            });
            assert_eq!((walked.listed, walked.ending), (400, Ending::Complete), "{what}: {:?}", walked.starts());
        }
    }

    #[test]
    fn a_list_that_never_rests_is_read_twice_and_left() {
        let mut next = 10_000;
        let walked = walk(Server { page_max: 100, ..HONEST }, (0..250).collect(), |_, list| {
            list.insert(0, next);
            next += 1;
        });
        assert_eq!(walked.ending, Ending::Unsteady);
        assert_eq!(walked.starts().iter().filter(|start| **start == 0).count(), 2);
    }

    #[test]
    fn an_endless_list_has_an_end() {
        let mut walk = Walk::new();
        for page in 1..u32::MAX {
            let names = [page.to_string(), (page + 1).to_string()];
            let turn = walk.answered(Answer { names: &names, total: None, limit: None });
            match turn.next {
                Next::Ask(_) => assert!(page < PAGES_MAX),
                Next::End(ending) => {
                    assert_eq!((page, ending), (PAGES_MAX, Ending::TooLong));
                    return;
                }
            }
        }
    }

    #[test]
    fn fresh_marks_first_meetings_over_both_passes() {
        let mut walk = Walk::new();
        let mut page = |records: std::ops::Range<u32>, total| {
            let names: Vec<_> = records.map(|record| record.to_string()).collect();
            walk.answered(Answer { names: &names, total: Some(total), limit: Some(3) })
        };
        let first = page(0..3, 5);
        assert_eq!((first.fresh, first.next), (vec![true; 3], Next::Ask(Request { start: 2, limit: 3 })));
        assert_eq!(page(2..5, 6).fresh, [false, true, true]);
        let third = page(4..6, 6);
        assert_eq!((third.fresh, third.next), (vec![false, true], Next::Ask(Request { start: 0, limit: 3 })));
        assert_eq!(page(0..3, 6).fresh, [false; 3]);
        assert_eq!(walk.listed(), 6);
    }

    #[test]
    fn overlaps() {
        let cases = [(0, 0), (1, 0), (2, 1), (39, 1), (40, 2), (100, 5), (1000, 50), (1_000_000, 50)];
        for (count, expected) in cases {
            assert_eq!(overlap(count), expected, "{count} records");
        }
    }
}
