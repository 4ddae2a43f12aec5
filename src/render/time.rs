//! Times in words: how many days are left, how long ago, from when to when. Days are the calendar's, in the zone of who reads.

use std::time::Duration;

use jiff::civil::Date;
use serde_json::Value;

use crate::model::Timestamp;
use crate::model::zone::{Local, Zone, days_between};

/// How many days are left now, less than none when it is over. A number was counted when the event was `received`; a date
/// is one wherever it is read.
pub(super) fn deadline_days(value: &Value, received: Timestamp, now: Timestamp, zone: &Zone) -> Option<i64> {
    let counted = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match counted {
        Some(days) if now.since(received) < Duration::from_mins(1) => Some(days),
        Some(days) => days.checked_sub(days_between(zone.day(received)?, zone.day(now)?)),
        None => Some(days_between(zone.day(now)?, date(value.as_str()?)?)),
    }
}

/// `2026-11-30`, also with a time behind it.
fn date(text: &str) -> Option<Date> {
    let text = text.trim();
    let (date, rest) = text.split_at_checked(10)?;
    let alone = rest.is_empty() || rest.starts_with(['T', ' ']);
    date.parse().ok().filter(|date: &Date| alone && date.year() > 0)
}

/// `7 days`, `today`, `2 days ago`; nothing for numbers that mean no deadline.
pub(super) fn days_in_words(days: i64) -> Option<String> {
    match days {
        0 => Some("today".to_owned()),
        1 => Some("1 day".to_owned()),
        -1 => Some("1 day ago".to_owned()),
        2..=99_999 => Some(format!("{days} days")),
        -99_999..=-2 => Some(format!("{} days ago", -days)),
        _ => None,
    }
}

/// `42 minutes`, `3 hours`, `2 days`: the largest unit of which there are two, if there are two of any.
pub(super) fn span_in_words(span: Duration) -> String {
    let minutes = span.as_secs() / 60;
    let (count, unit) = match minutes {
        0..120 => (minutes, "minute"),
        120..2_880 => (minutes / 60, "hour"),
        _ => (minutes / 1_440, "day"),
    };
    counted(count, unit)
}

fn counted(count: u64, unit: &str) -> String {
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// A moment or a day, as records and the context write them.
enum Written {
    Moment(Timestamp),
    Day(Date),
}

fn written(text: &str) -> Option<Written> {
    let moment = Timestamp::from_api(text).map(Written::Moment);
    moment.or_else(|| date(text).filter(|_| text.trim().len() == 10).map(Written::Day))
}

/// `in 7 days`, `3 hours ago`, `now`; of a date `today`, `in 1 day`. What is no time stays as it is.
pub(super) fn relative(text: &str, now: Timestamp, zone: &Zone) -> String {
    let said = |ahead: bool, span: String| if ahead { format!("in {span}") } else { format!("{span} ago") };
    match written(text) {
        None => text.to_owned(),
        Some(Written::Moment(at)) => match now.since(at).max(at.since(now)) {
            span if span < Duration::from_mins(1) => "now".to_owned(),
            span => said(at > now, span_in_words(span)),
        },
        Some(Written::Day(day)) => match zone.day(now).map_or(0, |today| days_between(today, day)) {
            0 => "today".to_owned(),
            days => said(days > 0, counted(days.unsigned_abs(), "day")),
        },
    }
}

/// `2026-11-23 10:41 CET`. A date has no zone, and what is no time stays as it is.
pub(super) fn show(text: &str, zone: &Zone) -> String {
    match written(text) {
        Some(Written::Moment(at)) => zone.show(at),
        Some(Written::Day(_)) | None => text.to_owned(),
    }
}

/// From when to when, in a zone.
pub(super) struct Span {
    first: Local,
    last: Local,
}

impl Span {
    pub(super) fn new(first: Timestamp, last: Timestamp, zone: &Zone) -> Self {
        // A time that no calendar reaches is shown as the epoch: the store holds none.
        let local = |at| zone.local(at).or_else(|| zone.local(Timestamp::default())).unwrap_or_else(epoch);
        Self { first: local(first), last: local(last) }
    }

    /// `10:10–10:41`; with the days over midnight, with the zones where clocks were changed between.
    pub(super) fn short(&self) -> String {
        let Self { first, last } = self;
        if first.date != last.date {
            return format!("{} {} – {} {}", first.date, first.minute, last.date, last.minute);
        }
        if first.abbreviation != last.abbreviation {
            return format!("{} {} – {} {}", first.minute, first.abbreviation, last.minute, last.abbreviation);
        }
        if first.minute == last.minute { first.minute.clone() } else { format!("{}–{}", first.minute, last.minute) }
    }

    /// `2026-11-23 10:10–10:41 CET`
    pub(super) fn long(&self) -> String {
        let Self { first, last } = self;
        match (first.date == last.date, first.abbreviation == last.abbreviation) {
            (true, true) => format!("{} {} {}", first.date, self.short(), last.abbreviation),
            (true, false) => format!("{} {}", first.date, self.short()),
            (false, true) => format!("{} {}", self.short(), last.abbreviation),
            (false, false) => {
                let at = |local: &Local| format!("{} {} {}", local.date, local.minute, local.abbreviation);
                format!("{} – {}", at(first), at(last))
            }
        }
    }
}

fn epoch() -> Local {
    Local { date: Date::constant(1970, 1, 1), minute: "00:00".to_owned(), abbreviation: "UTC".to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_api(text).unwrap()
    }

    fn berlin() -> Zone {
        Zone::named("Europe/Berlin").unwrap()
    }

    #[test]
    fn deadlines_are_as_they_are_now() {
        let received = "2026-11-23 09:41";
        let cases = [
            (json!(7), "2026-11-23 09:41", Some("7 days")),
            (json!(" 7 "), "2026-11-23 22:59", Some("7 days")),
            // Midnight in Berlin.
            (json!(7), "2026-11-23 23:01", Some("6 days")),
            (json!(1), "2026-11-26 09:41", Some("2 days ago")),
            (json!("2026-11-30"), "2026-11-23 09:41", Some("7 days")),
            (json!("2026-11-30 08:00"), "2026-11-29 22:59", Some("1 day")),
            (json!("2026-11-30T08:00:00Z"), "2026-11-29 23:01", Some("today")),
            (json!("2026-11-30"), "2026-12-03 09:41", Some("3 days ago")),
            // Two days of 47 hours and two of 49.
            (json!("2027-03-29"), "2027-03-27 22:59", Some("2 days")),
            (json!("2026-10-26"), "2026-10-23 22:30", Some("2 days")),
            (json!("2026-11-300"), "2026-11-23 09:41", None),
            (json!("0000-00-00"), "2026-11-23 09:41", None),
            (json!("2026-13-01"), "2026-11-23 09:41", None),
            (json!("soon"), "2026-11-23 09:41", None),
            (json!("é"), "2026-11-23 09:41", None),
            (json!(i64::MIN), "2026-11-25 09:41", None),
            (json!(i64::MIN), "2026-11-23 09:41", None),
            (json!([7]), "2026-11-23 09:41", None),
            (json!(null), "2026-11-23 09:41", None),
        ];
        for (value, now, expected) in cases {
            let days = deadline_days(&value, at(received), at(now), &berlin());
            assert_eq!(days.and_then(days_in_words).as_deref(), expected, "{value} at {now}");
        }
    }

    #[test]
    fn how_far_away() {
        let now = at("2026-11-23 09:41");
        let cases = [
            ("2026-11-23T09:41:59Z", "now"),
            ("2026-11-23 09:42", "in 1 minute"),
            ("2026-11-23T06:41:00Z", "3 hours ago"),
            ("2026-11-23T08:00:00Z", "101 minutes ago"),
            ("2026-11-30T09:41:00Z", "in 7 days"),
            ("2026-11-23", "today"),
            ("2026-11-24", "in 1 day"),
            ("2026-11-21", "2 days ago"),
            ("", ""),
            ("tomorrow", "tomorrow"),
        ];
        for (text, expected) in cases {
            assert_eq!(relative(text, now, &berlin()), expected, "{text}");
        }
        let shown =
            ["2026-11-23T09:41:00Z", "2026-11-23 09:41", "2026-11-23", "never"].map(|text| show(text, &berlin()));
        assert_eq!(shown, ["2026-11-23 10:41 CET", "2026-11-23 10:41 CET", "2026-11-23", "never"]);
    }

    #[test]
    fn from_when_to_when() {
        let cases = [
            ("2026-11-23 09:10", "2026-11-23 09:41", "10:10–10:41", "2026-11-23 10:10–10:41 CET"),
            ("2026-11-23 09:10", "2026-11-23 09:10", "10:10", "2026-11-23 10:10 CET"),
            (
                "2026-11-23 22:10",
                "2026-11-23 23:05",
                "2026-11-23 23:10 – 2026-11-24 00:05",
                "2026-11-23 23:10 – 2026-11-24 00:05 CET",
            ),
            ("2026-10-25 00:50", "2026-10-25 01:10", "02:50 CEST – 02:10 CET", "2026-10-25 02:50 CEST – 02:10 CET"),
            (
                "2026-10-24 21:50",
                "2026-10-25 01:10",
                "2026-10-24 23:50 – 2026-10-25 02:10",
                "2026-10-24 23:50 CEST – 2026-10-25 02:10 CET",
            ),
        ];
        for (first, last, short, long) in cases {
            let span = Span::new(at(first), at(last), &berlin());
            assert_eq!((span.short().as_str(), span.long().as_str()), (short, long));
        }
    }
}
