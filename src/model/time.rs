//! A point in time as the relay stores it: whole milliseconds since the Unix epoch, UTC.

use std::fmt;
use std::time::Duration;

/// Milliseconds since 1970-01-01T00:00:00Z. Arithmetic saturates, so no input can overflow it.
/// Serialised as that number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// How long ago `earlier` was; zero when it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The event API's own form, `2026-11-23 09:41`, read as UTC; seconds are accepted, `0000-00-00 00:00` is not a time.
    /// Form and zone: <https://docs.halosecurity.com/api/readme/data-types>.
    pub fn from_api(text: &str) -> Option<Self> {
        let text = text.trim();
        let civil = ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"]
            .iter()
            .find_map(|form| jiff::civil::DateTime::strptime(form, text).ok());
        let instant = match civil {
            Some(civil) => civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp(),
            None => text.parse::<jiff::Timestamp>().ok()?,
        };
        (instant.as_millisecond() > 0).then(|| Self(instant.as_millisecond()))
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(instant: jiff::Timestamp) -> Self {
        Self(instant.as_millisecond())
    }
}

/// RFC 3339 in UTC: `2026-11-23T09:41:00Z`, with milliseconds when there are any.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(instant) => instant.fmt(f),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_times() {
        let cases = [
            ("2022-01-01 01:12", Some("2022-01-01T01:12:00Z")),
            (" 2022-01-01 01:12:30 ", Some("2022-01-01T01:12:30Z")),
            ("2022-01-01T01:12:30Z", Some("2022-01-01T01:12:30Z")),
            ("2022-01-01T01:12:30+02:00", Some("2021-12-31T23:12:30Z")),
            ("0000-00-00 00:00", None),
            ("2022-13-01 00:00", None),
            ("2022-01-01", None),
            ("", None),
            ("yesterday", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Timestamp::from_api(text).map(|time| time.to_string()).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        let end = Timestamp::from_millis(i64::MAX);
        assert_eq!(end.plus(Duration::MAX), end);
        assert_eq!(Timestamp::default().since(end), Duration::ZERO);
    }
}
