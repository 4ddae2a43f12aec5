//! How a destination does, as far as the relay knows; kept in the store, so that a restart goes on where it stopped.

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// Whether a destination takes messages, and since when not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    pub condition: Condition,
    /// Failed attempts in a row; while the breaker is open, failed probes too.
    pub failures: u32,
    /// While the breaker is open: not before this may the next probe start.
    pub probe_at: Timestamp,
    /// When the present outage began, or else the last one.
    pub since: Option<Timestamp>,
    /// When the last outage ended; null while one goes on.
    pub until: Option<Timestamp>,
    /// What the destination answered last in that outage.
    pub reason: Option<String>,
    /// Somebody has been told of the present refusal.
    pub noticed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The breaker is closed.
    #[default]
    Taking,
    /// The breaker is open after failures in a row.
    Failing,
    /// The breaker is open because somebody must act: credentials, archived channel, endpoint gone.
    Refusing,
}

impl Condition {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Taking => "taking",
            Self::Failing => "failing",
            Self::Refusing => "refusing",
        }
    }
}
