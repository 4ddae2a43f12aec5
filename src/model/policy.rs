//! What rules.yaml settles about deliveries besides where they go and how fast: what to do with a rush, whom to tell
//! instead, how long to remember.

use std::time::Duration;

use super::DestinationName;

/// Who is told instead when a delivery does not arrive, as in `fallback: { to: compliance, after: 5m }`.
///
/// One step: what is handed over is never handed on, even where `to` has a fallback of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Exists, is another one, and does not lead back here by its own fallback.
    pub to: DestinationName,
    /// How long a delivery may be undelivered before.
    pub after: Duration,
}

/// What becomes of deliveries that a destination's limits hold up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Once they have waited this long, they go out together as one digest.
    Digest { after: Duration },
    /// Each waits for its own turn, however long.
    Queue,
}

impl Overflow {
    /// Long enough for a burst to pass within the limits, short enough for the digest to be news.
    pub const DIGEST_AFTER: Duration = Duration::from_mins(2);
}

impl Default for Overflow {
    fn default() -> Self {
        Self::Digest { after: Self::DIGEST_AFTER }
    }
}

/// How long ended things are remembered, as in `retention: { ended: 30d }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Of events whose deliveries have all ended, and of those deliveries, counted from their end. Dead letters and what
    /// is still owed are kept regardless.
    pub ended: Duration,
}

impl Default for Retention {
    /// A month covers the questions that a monthly review asks.
    fn default() -> Self {
        Self { ended: Duration::from_hours(30 * 24) }
    }
}
