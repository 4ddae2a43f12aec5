//! How urgent a delivery is. A closed scale, given by rules and never by event text.

use std::fmt;
use std::str::FromStr;

/// Ordered: a greater severity is sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    pub const ALL: [Self; 5] = [Self::Info, Self::Low, Self::Medium, Self::High, Self::Critical];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The number stored for it; greater is more urgent.
    pub const fn rank(self) -> u8 {
        self as u8
    }

    /// The inverse of [`rank`](Self::rank); a number outside the scale reads as the nearest end.
    pub fn from_rank(rank: i64) -> Self {
        let last = Self::ALL.len() - 1;
        Self::ALL[usize::try_from(rank).unwrap_or(0).min(last)]
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a severity (info, low, medium, high, critical)")]
pub struct UnknownSeverity(pub String);

impl FromStr for Severity {
    type Err = UnknownSeverity;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|severity| severity.name() == name).ok_or_else(|| UnknownSeverity(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ranks_round_trip() {
        for severity in Severity::ALL {
            assert_eq!(severity.name().parse::<Severity>().ok(), Some(severity));
            assert_eq!(Severity::from_rank(severity.rank().into()), severity);
        }
        assert_eq!(Severity::from_rank(99), Severity::Critical);
        assert_eq!(Severity::from_rank(-1), Severity::Info);
        assert!("High".parse::<Severity>().is_err());
    }
}
