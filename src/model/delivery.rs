//! A delivery: one event owed to one destination; its states, its public names, and what one attempt can end in.
//!
//! ```text
//!            claim (durable)            answer recorded
//!  ready ───────────────────► sending ─────────────────► delivered
//!   │ ▲ ▲                        │ ├────────────────────► dead ──┐ operator: retry
//!   │ │ └── again at t ──────────┘ └── process died: ready,      └──────────────► ready
//!   │ │                                "may have been sent"        operator: drop ─► dropped
//!   │ └─ held: a batch that still gathers
//!   └─► folded: told by a digest, and by it delivered, dead or dropped
//! ```

use std::fmt;
use std::time::Duration;

use super::Severity;

/// Where a delivery stands. Stored as [`State::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Owed, waiting for its turn, its retry time, or its destination.
    Ready,
    /// Claimed: an attempt is durably on record as started.
    Sending,
    /// The channel's contract says it arrived.
    Delivered,
    /// Given up, kept, re-sendable.
    Dead,
    /// A dead letter an operator has let go, with a reason.
    Dropped,
    /// Told by a digest; what becomes of that becomes of it.
    Folded,
    /// A batch that still gathers; only digests are held.
    Held,
}

impl State {
    pub const ALL: [Self; 7] =
        [Self::Ready, Self::Sending, Self::Delivered, Self::Dead, Self::Dropped, Self::Folded, Self::Held];

    pub const fn code(self) -> i64 {
        self as i64
    }

    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Sending => "sending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
            Self::Folded => "folded",
            Self::Held => "held",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a delivery tells. Stored as [`Kind::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One event.
    Event,
    /// Several events that a rule gathers.
    Batch,
    /// Several events that were more than the destination's limits let through in time.
    Overflow,
    /// News of the relay itself.
    Notice,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Event, Self::Batch, Self::Overflow, Self::Notice];

    pub const fn code(self) -> i64 {
        self as i64
    }

    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// What keeps its order: deliveries of one destination with the same severity and event key start in the order their
/// events came. A smaller number is more urgent. Two keys may share a lane by accident; that only keeps more order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey(i64);

impl LaneKey {
    pub fn new(severity: Severity, name: &str) -> Self {
        // FNV-1a, because the number is stored: it must be the same in all versions.
        let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self(Self::first(severity).0 | i64::from(hash))
    }

    /// Before all lanes of this severity, and after all of greater ones.
    pub const fn first(severity: Severity) -> Self {
        Self((Severity::Critical.rank() as i64 - severity.rank() as i64) << 32)
    }

    pub const fn from_number(number: i64) -> Self {
        Self(number)
    }

    pub const fn number(self) -> i64 {
        self.0
    }

    /// Lanes of one severity have the same tier.
    pub const fn tier(self) -> i64 {
        self.0 >> 32
    }
}

/// The name of a delivery outside the relay: `hr_<instance>_<row>`. The same on every attempt, unique over installations.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryId(String);

impl DeliveryId {
    /// `instance` is the random name a store is given when it is made; `row` the delivery's number in it.
    pub fn new(instance: &str, row: i64) -> Self {
        Self(format!("hr_{instance}_{row:x}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The short name of a delivery for people: `7F3K` at a message's foot, taken by `explain` and `dead`.
///
/// A number written in four letters (five and more past a million deliveries), scrambled so that neighbours look
/// unlike and can be told apart when read aloud; the scramble is a bijection, so every code names one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(i64);

/// Crockford's base 32: no I, L, O or U, so that nothing is misread. <https://www.crockford.com/base32.html>
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LOW_BITS: u32 = 20;
const LOW_MASK: u64 = (1 << LOW_BITS) - 1;
/// Odd, so multiplying by it modulo 2^20 is a bijection; `UNMIX` is its inverse there (a test checks the pair).
const MIX: u64 = 0x9_E375;
const UNMIX: u64 = inverse(MIX);

const fn inverse(odd: u64) -> u64 {
    // Newton's iteration for the inverse modulo a power of two doubles the correct bits each round.
    let mut x: u64 = 1;
    let mut round = 0;
    while round < 6 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        round += 1;
    }
    x & LOW_MASK
}

impl Code {
    pub const fn of_row(row: i64) -> Self {
        Self(row)
    }

    pub const fn row(self) -> i64 {
        self.0
    }

    /// Reads a code in either case, with the usual confusions (`O` for `0`, `I` and `L` for `1`) forgiven.
    pub fn parse(text: &str) -> Option<Self> {
        if !(4..=12).contains(&text.len()) {
            return None;
        }
        let mut value: u64 = 0;
        for letter in text.bytes() {
            let letter = match letter.to_ascii_uppercase() {
                b'O' => b'0',
                b'I' | b'L' => b'1',
                other => other,
            };
            let digit = ALPHABET.iter().position(|&known| known == letter)?;
            value = (value << 5) | digit as u64;
        }
        let low = (value & LOW_MASK).wrapping_mul(UNMIX) & LOW_MASK;
        let row = i64::try_from((value & !LOW_MASK) | low).ok()?;
        (row > 0).then_some(Self(row))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self.0.unsigned_abs();
        let mut value = (row & !LOW_MASK) | ((row & LOW_MASK).wrapping_mul(MIX) & LOW_MASK);
        let mut letters = [b'0'; 13];
        let mut at = letters.len();
        while value > 0 || at > letters.len() - 4 {
            at -= 1;
            letters[at] = ALPHABET[(value & 31) as usize];
            value >>= 5;
        }
        letters[at..].iter().try_for_each(|&letter| fmt::Write::write_char(f, char::from(letter)))
    }
}

/// What one attempt ended in. Each channel decides it from its own contract, never from the status alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The channel's contract says it was accepted.
    Delivered,
    /// The destination asked for a pause; not counted as an attempt. `wait` is what it asked for, if it said.
    Throttled { wait: Option<Duration> },
    /// It did not arrive and may later: connect failure, 5xx before anything was taken.
    Transient,
    /// It may have arrived: the connection was lost or timed out after the message left.
    Ambiguous,
    /// This content will never pass: a smaller, plain message may.
    RefusedContent,
    /// Nothing will pass until someone acts: credentials, archived channel, endpoint gone.
    RefusedDestination,
}

impl Outcome {
    /// A name fit for a metric label and the store.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Throttled { .. } => "throttled",
            Self::Transient => "transient",
            Self::Ambiguous => "ambiguous",
            Self::RefusedContent => "refused_content",
            Self::RefusedDestination => "refused_destination",
        }
    }
}

/// What a channel reports of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub outcome: Outcome,
    /// The protocol's own number: HTTP status or SMTP reply code.
    pub status: Option<u16>,
    /// One short line for logs and operators, without URL, secret or event text.
    pub detail: String,
    /// Delivered, but not to everyone: `detail` says who was refused. To be shown, never a reason to send again.
    pub partial: bool,
    /// What the answer tells of the message's thread.
    pub thread: Option<ThreadNews>,
}

/// What an answer tells of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadNews {
    /// Which one: the message's [`thread`](super::Message::thread).
    pub key: String,
    /// What the channel calls its first message, which has just been sent; for that channel alone to read. `None`: the
    /// thread is gone, and the next message begins it anew.
    pub handle: Option<String>,
}

impl Report {
    pub fn new(outcome: Outcome, status: Option<u16>, detail: impl Into<String>) -> Self {
        Self { outcome, status, detail: detail.into(), partial: false, thread: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_short_and_name_one_row() {
        let mut seen = std::collections::HashSet::new();
        for row in (1..5_000).chain([0xF_FFFF, 0x10_0000, 0x10_0001, 123_456_789]) {
            let code = Code::of_row(row).to_string();
            assert!(code.len() >= 4, "{code}");
            assert_eq!(Code::parse(&code).map(Code::row), Some(row), "{code}");
            assert_eq!(Code::parse(&code.to_lowercase()).map(Code::row), Some(row));
            assert!(seen.insert(code));
        }
        assert_eq!(Code::of_row(0xF_FFFF).to_string().len(), 4);
    }

    #[test]
    fn neighbours_look_unlike() {
        let (a, b) = (Code::of_row(1).to_string(), Code::of_row(2).to_string());
        let same = a.bytes().zip(b.bytes()).filter(|(x, y)| x == y).count();
        assert!(same <= 1, "{a} {b}");
    }

    #[test]
    fn what_is_no_code() {
        for text in ["", "7F", "7F3U", "7F3!", "0000", "website-cert-expiring", "ZZZZZZZZZZZZZ"] {
            assert_eq!(Code::parse(text), None, "{text}");
        }
    }

    #[test]
    fn states_and_kinds_round_trip() {
        for state in State::ALL {
            assert_eq!(State::from_code(state.code()), Some(state));
        }
        assert_eq!(State::from_code(99), None);
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(Kind::from_code(99), None);
    }

    #[test]
    fn urgent_lanes_come_first() {
        let lanes = Severity::ALL.map(|severity| LaneKey::new(severity, "issue-add"));
        assert!(lanes.is_sorted_by(|less_urgent, urgent| urgent < less_urgent));
        for (severity, lane) in Severity::ALL.into_iter().zip(lanes) {
            assert!(LaneKey::first(severity) <= lane);
            assert_eq!(LaneKey::first(severity).tier(), lane.tier());
        }
        assert_ne!(LaneKey::new(Severity::Info, "issue-add"), LaneKey::new(Severity::Info, "issue-close"));
        assert_eq!(LaneKey::new(Severity::Critical, "a").number(), 0xe40c_292c, "stored, so it must not change");
    }
}
