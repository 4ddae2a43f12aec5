//! A time zone, in which times are shown to people. The database of zones is the system's, else the one compiled in.

use std::fmt;
use std::sync::Arc;

use jiff::civil;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::Timestamp;

/// A zone of the IANA database (<https://www.iana.org/time-zones>), found once. Clones are cheap.
#[derive(Clone)]
pub struct Zone {
    name: Arc<str>,
    zone: TimeZone,
}

/// No zone has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownZone {
    /// Which may have been meant: `Europe/Berlin` for `Berlin`.
    pub near: Option<String>,
}

/// A time as the clocks of a zone show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// `2026-11-23`
    pub date: civil::Date,
    /// `10:41`
    pub minute: String,
    /// `CET`; an offset, `+03`, where a zone has no letters.
    pub abbreviation: String,
}

impl Zone {
    /// Reads an IANA name, in either case.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        let zone = jiff::tz::db().get(name).ok().filter(|zone| zone.iana_name().is_some() || name == "UTC");
        match zone {
            Some(zone) => Ok(Self { name: zone.iana_name().unwrap_or(name).into(), zone }),
            None => Err(UnknownZone { near: near(name) }),
        }
    }

    pub fn utc() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC }
    }

    /// `Europe/Berlin`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `None` for times that no calendar reaches.
    pub fn local(&self, at: Timestamp) -> Option<Local> {
        let instant = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?;
        let info = self.zone.to_offset_info(instant);
        let time = info.offset().to_datetime(instant);
        let minute = format!("{:02}:{:02}", time.hour(), time.minute());
        Some(Local { date: time.date(), minute, abbreviation: info.abbreviation().to_owned() })
    }

    /// The day that it is there.
    pub fn day(&self, at: Timestamp) -> Option<civil::Date> {
        let instant = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?;
        Some(self.zone.to_datetime(instant).date())
    }

    /// `2026-11-23 10:41 CET`
    pub fn show(&self, at: Timestamp) -> String {
        match self.local(at) {
            Some(Local { date, minute, abbreviation }) => format!("{date} {minute} {abbreviation}"),
            None => at.to_string(),
        }
    }

    /// `10:41 CET`; with the date unless that is the day of `now`.
    pub fn clock(&self, at: Timestamp, now: Timestamp) -> String {
        match self.local(at) {
            Some(Local { date, minute, abbreviation }) if self.day(now) == Some(date) => {
                format!("{minute} {abbreviation}")
            }
            _ => self.show(at),
        }
    }
}

/// Days from one date to another, as a calendar counts them: a day has 23 to 25 hours.
pub fn days_between(from: civil::Date, to: civil::Date) -> i64 {
    from.until(to).map_or(0, |span| i64::from(span.get_days()))
}

impl Default for Zone {
    fn default() -> Self {
        Self::utc()
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name)
    }
}

/// A zone whose city is named, in any case and with spaces; or one whose name is a letter or two away.
fn near(name: &str) -> Option<String> {
    /// No zone's name is as long.
    const LENGTH_MAX: usize = 40;

    let plain = |name: &str| name.to_lowercase().replace([' ', '-'], "_");
    let wanted = plain(name);
    if wanted.is_empty() || wanted.len() > LENGTH_MAX {
        return None;
    }
    let database = TimeZoneDatabase::bundled();
    let names: Vec<String> = database.available().map(|name| name.as_str().to_owned()).collect();
    let city = |name: &str| plain(name).rsplit('/').next() == wanted.rsplit('/').next();
    if let Some(found) =
        names.iter().filter(|name| name.contains('/') && !name.starts_with("Etc/")).find(|name| city(name))
    {
        return Some(found.clone());
    }
    let rated = names.iter().map(|known| (distance(&wanted, &plain(known)), known));
    let (distance, known) = rated.min()?;
    (distance <= (wanted.len() / 5).max(1)).then(|| known.clone())
}

/// Letters to insert, delete or replace.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, other) in b.iter().enumerate() {
            row.push((above[j] + usize::from(letter != *other)).min(above[j + 1] + 1).min(row[j] + 1));
        }
        above = row;
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_api(text).unwrap()
    }

    #[test]
    fn times_as_clocks_show_them() {
        let cases = [
            ("UTC", "2026-11-23 09:41", "2026-11-23 09:41 UTC"),
            ("Europe/Berlin", "2026-11-23 09:41", "2026-11-23 10:41 CET"),
            ("Europe/Berlin", "2026-07-23 23:41", "2026-07-24 01:41 CEST"),
            // The hour that comes twice.
            ("Europe/Berlin", "2026-10-25 00:30", "2026-10-25 02:30 CEST"),
            ("Europe/Berlin", "2026-10-25 01:30", "2026-10-25 02:30 CET"),
            ("America/New_York", "2026-11-23 03:41", "2026-11-22 22:41 EST"),
            ("Asia/Kolkata", "2026-11-23 09:41", "2026-11-23 15:11 IST"),
            ("Asia/Dubai", "2026-11-23 09:41", "2026-11-23 13:41 +04"),
            ("europe/london", "2026-11-23 09:41", "2026-11-23 09:41 GMT"),
        ];
        for (zone, time, expected) in cases {
            assert_eq!(Zone::named(zone).unwrap().show(at(time)), expected, "{zone}");
        }
        let berlin = Zone::named("Europe/Berlin").unwrap();
        assert_eq!(berlin.clock(at("2026-11-23 09:41"), at("2026-11-23 22:59")), "10:41 CET");
        assert_eq!(berlin.clock(at("2026-11-23 09:41"), at("2026-11-23 23:01")), "2026-11-23 10:41 CET");
        assert_eq!(berlin.show(Timestamp::from_millis(i64::MAX)), format!("{} ms", i64::MAX));
    }

    #[test]
    fn days_are_the_calendar_s() {
        let berlin = Zone::named("Europe/Berlin").unwrap();
        let days = |from: &str, to: &str| days_between(berlin.day(at(from)).unwrap(), berlin.day(at(to)).unwrap());
        // A day of 23 hours, one of 25, and midnight elsewhere.
        assert_eq!(days("2026-03-28 23:30", "2026-03-29 21:30"), 0);
        assert_eq!(days("2026-03-28 22:30", "2026-03-29 21:30"), 1);
        assert_eq!(days("2026-10-24 22:30", "2026-10-25 22:30"), 0);
        assert_eq!(days("2026-11-23 22:59", "2026-11-23 23:01"), 1);
        assert_eq!(days("2026-11-23 23:01", "2026-11-20 12:00"), -4);
    }

    #[test]
    fn names_that_are_none() {
        let cases = [
            ("Europe/Berlim", Some("Europe/Berlin")),
            ("Berlin", Some("Europe/Berlin")),
            ("new york", Some("America/New_York")),
            ("Europe/New_York", Some("America/New_York")),
            ("Mars/Olympus", None),
            ("", None),
            ("local", None),
            ("CET-1CEST,M3.5.0,M10.5.0/3", None),
            ("../../etc/passwd", None),
        ];
        for (name, near) in cases {
            assert_eq!(Zone::named(name).unwrap_err().near.as_deref(), near, "{name}");
        }
        assert_eq!(Zone::named("UTC").unwrap().name(), "UTC");
    }
}
