//! When to say again what has been said before.

use std::time::Duration;

use crate::model::Timestamp;

/// Something to complain of, which may last: said when it changes, and every ten minutes while it does not. A log that
/// repeats itself every few seconds hides the line that matters.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    said: Option<(String, Timestamp)>,
}

impl Complaint {
    const EVERY: Duration = Duration::from_mins(10);

    pub(super) fn is_due(&mut self, text: &str, now: Timestamp) -> bool {
        if let Some((said, at)) = &self.said
            && said == text
            && now.since(*at) < Self::EVERY
        {
            return false;
        }
        self.said = Some((text.to_owned(), now));
        true
    }

    /// Whether there was anything to complain of.
    pub(super) fn clear(&mut self) -> bool {
        self.said.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_repeated_too_often() {
        let at = |minutes: u64| Timestamp::default().plus(Duration::from_secs(minutes * 60));
        let mut complaint = Complaint::default();
        assert!(!complaint.clear());
        let steps =
            [("a", 0, true), ("a", 9, false), ("b", 9, true), ("a", 9, true), ("a", 18, false), ("a", 19, true)];
        for (text, minutes, due) in steps {
            assert_eq!(complaint.is_due(text, at(minutes)), due, "{text} at {minutes}");
        }
        assert!(complaint.clear());
        assert!(complaint.is_due("a", at(19)));
    }
}
