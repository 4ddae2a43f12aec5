//! The channels' contracts: tables that say what each answer means, read by the program and by people.
//!
//! Lines are read from the top, and the first that fits decides. `docs/CHANNELS.md` shows them in full, and a test keeps
//! the two in step. The tables stand beside the clients they belong to: `slack`, `teams`, `webhook`, `email::reply`, and
//! here what all HTTP channels share.

use std::fmt;
use std::sync::Arc;

use super::http::{self, Answer};
use super::{email, slack, teams, webhook};
use crate::model::Outcome;
use crate::preset::{self, Preset};

/// One channel's contract, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct Contract {
    /// As a heading: `Slack: incoming webhook`.
    pub title: String,
    pub lines: Vec<Line>,
}

/// One line of a contract, in Markdown.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// What is seen: `HTTP 401, 403`.
    pub seen: String,
    /// What it is taken for; a [`Outcome::Throttled`] here has no time.
    pub outcome: Outcome,
    /// Why, and where the vendor says so.
    pub why: String,
}

/// Every contract, in the order of `docs/CHANNELS.md`.
pub fn all() -> Vec<Contract> {
    let own = |title: &str, lines| Contract { title: title.to_owned(), lines };
    let http = |title, parts: Parts| own(title, parts.iter().copied().flat_map(lines).collect());
    let of_data = |preset: Arc<Preset>| own(&preset.about, super::preset::lines(&preset));
    let mut all = vec![
        http("Slack: incoming webhook", slack::WEBHOOK),
        http("Slack: bot", slack::BOT),
        http("Teams: workflow", teams::WORKFLOW),
        http("Signed webhook", webhook::WEBHOOK),
        own("No answer over HTTP", lines(http::FAULTS).collect()),
        own("Email: replies", lines(email::reply::REPLIES).collect()),
        own("Email: no reply", lines(email::reply::FAULTS).collect()),
        http("Email: Amazon SES", email::api::ses::ANSWERS),
        http("Email: Mailgun", email::api::mailgun::ANSWERS),
        http("Email: Postmark", email::api::postmark::ANSWERS),
        http("Email: Resend", email::api::resend::ANSWERS),
        http("Email: SendGrid", email::api::sendgrid::ANSWERS),
    ];
    all.extend(preset::names().filter_map(preset::find).map(of_data));
    all
}

/// One line as the program reads it; `seen` both decides and tells.
#[derive(Debug)]
pub(super) struct Row<S> {
    pub(super) seen: S,
    pub(super) outcome: Outcome,
    pub(super) why: &'static str,
    /// Where the vendor or the standard says so; empty where it is our own choice.
    pub(super) source: &'static str,
}

pub(super) fn lines<S: fmt::Display>(rows: &'static [Row<S>]) -> impl Iterator<Item = Line> {
    rows.iter().map(|row| Line {
        seen: row.seen.to_string(),
        outcome: row.outcome.clone(),
        why: match row.source {
            "" => row.why.to_owned(),
            source => format!("{} ([source]({source}))", row.why),
        },
    })
}

/// A table in parts, for some are shared.
pub(super) type Parts = &'static [&'static [Row<Seen>]];

/// What can be seen of an HTTP answer.
#[derive(Debug)]
pub(super) enum Seen {
    /// One of these statuses, whatever the body says.
    Status(&'static [u16]),
    /// A status from the first to the second.
    Statuses(u16, u16),
    /// The same with a readable `Retry-After`.
    Pause(u16, u16),
    /// The channel's own word for its reason, whatever the status; `no_service*` stands for all that begin so.
    Words(&'static [&'static str]),
    /// What only a look at the whole answer tells, in words and as a test.
    Told(&'static str, fn(&Answer) -> bool),
    Otherwise,
}

impl Seen {
    fn fits(&self, answer: &Answer, word: Option<&str>) -> bool {
        let fits_word = |pattern: &&str, word: &str| match pattern.strip_suffix('*') {
            Some(start) => word.starts_with(start),
            None => *pattern == word,
        };
        match self {
            Self::Status(statuses) => statuses.contains(&answer.status),
            Self::Statuses(first, last) => (*first..=*last).contains(&answer.status),
            Self::Pause(first, last) => (*first..=*last).contains(&answer.status) && answer.retry_after.is_some(),
            Self::Words(words) => word.is_some_and(|word| words.iter().any(|pattern| fits_word(pattern, word))),
            Self::Told(_, fits) => fits(answer),
            Self::Otherwise => true,
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(statuses) => {
                let statuses: Vec<_> = statuses.iter().map(u16::to_string).collect();
                write!(f, "HTTP {}", statuses.join(", "))
            }
            Self::Statuses(first, last) => write!(f, "HTTP {first} to {last}"),
            Self::Pause(first, last) if first == last => write!(f, "HTTP {first} with `Retry-After`"),
            Self::Pause(first, last) => write!(f, "HTTP {first} to {last} with `Retry-After`"),
            Self::Words(words) => write!(f, "`{}`", words.join("`, `")),
            Self::Told(text, _) => f.write_str(text),
            Self::Otherwise => f.write_str("anything else"),
        }
    }
}

/// What `answer` means by the table. `word` is the channel's own word for its reason, if it gave one.
pub(super) fn decide(parts: Parts, answer: &Answer, word: Option<&str>) -> Outcome {
    let mut rows = parts.iter().copied().flatten();
    let row = rows.find(|row| row.seen.fits(answer, word));
    // Every table ends with `Otherwise`; a test sees to it.
    row.map_or(Outcome::Transient, |row| row.outcome.clone())
}

pub(super) const THROTTLED: Outcome = Outcome::Throttled { wait: None };

/// A pause is a pause whatever else is said, so this stands near the top.
pub(super) const PAUSE: &[Row<Seen>] = &[Row {
    seen: Seen::Status(&[429]),
    outcome: THROTTLED,
    why: "Too many requests; `Retry-After` says for how long to wait",
    source: "https://www.rfc-editor.org/rfc/rfc6585#section-4",
}];

/// What other statuses from 300 to 499 mean where a channel says nothing else.
pub(super) const NOT_TAKEN: &[Row<Seen>] = &[
    Row {
        seen: Seen::Pause(408, 408),
        outcome: THROTTLED,
        why: "The receiver names a time",
        source: "https://www.rfc-editor.org/rfc/rfc9110#field.retry-after",
    },
    Row {
        seen: Seen::Status(&[408, 425]),
        outcome: Outcome::Transient,
        why: "The request was not taken up, and may be at another time",
        source: "https://www.rfc-editor.org/rfc/rfc9110#status.408",
    },
    Row {
        seen: Seen::Statuses(300, 399),
        outcome: Outcome::RefusedDestination,
        why: "A redirect is never followed: the message and the URL are for the configured host alone. Set the new URL",
        source: "",
    },
    Row {
        seen: Seen::Status(&[401, 403, 404, 407, 410]),
        outcome: Outcome::RefusedDestination,
        why: "The credential, the address or the proxy's login is wrong, or the endpoint is gone",
        source: "https://www.rfc-editor.org/rfc/rfc9110#status.4xx",
    },
    Row {
        seen: Seen::Status(&[413]),
        outcome: Outcome::RefusedContent,
        why: "The message is too large",
        source: "https://www.rfc-editor.org/rfc/rfc9110#status.413",
    },
    Row {
        seen: Seen::Statuses(400, 499),
        outcome: Outcome::RefusedContent,
        why: "The receiver says that the request is at fault",
        source: "https://www.rfc-editor.org/rfc/rfc9110#status.4xx",
    },
];

/// For channels whose receivers cannot tell a repeat.
pub(super) const GATEWAY_IN_DOUBT: &[Row<Seen>] = &[Row {
    seen: Seen::Status(&[502, 504]),
    outcome: Outcome::Ambiguous,
    why: "A gateway lost sight of the server behind it, which may have taken the message",
    source: "https://www.rfc-editor.org/rfc/rfc9110#status.502",
}];

/// The end of every HTTP table.
///
/// A 5xx is an answer: the receiver says itself that it failed, so the message is sent again without the care that an
/// unknown outcome needs.
pub(super) const FAILED: &[Row<Seen>] = &[
    Row {
        seen: Seen::Pause(500, 599),
        outcome: THROTTLED,
        why: "The receiver names a time",
        source: "https://www.rfc-editor.org/rfc/rfc9110#field.retry-after",
    },
    Row {
        seen: Seen::Statuses(500, 599),
        outcome: Outcome::Transient,
        why: "The receiver says that it failed, so it did not take the message",
        source: "https://www.rfc-editor.org/rfc/rfc9110#status.5xx",
    },
    Row { seen: Seen::Otherwise, outcome: Outcome::Transient, why: "No status that HTTP knows", source: "" },
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Timestamp;
    use email::api;

    const ALL: [Parts; 9] = [
        slack::WEBHOOK,
        slack::BOT,
        teams::WORKFLOW,
        webhook::WEBHOOK,
        api::mailgun::ANSWERS,
        api::postmark::ANSWERS,
        api::resend::ANSWERS,
        api::sendgrid::ANSWERS,
        api::ses::ANSWERS,
    ];

    #[test]
    fn every_table_has_an_end() {
        for parts in ALL {
            let rows: Vec<_> = parts.iter().copied().flatten().collect();
            let otherwise = |row: &&'static Row<Seen>| matches!(row.seen, Seen::Otherwise);
            assert_eq!(rows.iter().position(otherwise), Some(rows.len() - 1));
        }
    }

    /// A line that an earlier one hides would be a promise that nobody keeps.
    #[test]
    fn no_line_is_hidden_by_one_above_it() {
        for parts in ALL {
            let rows: Vec<_> = parts.iter().copied().flatten().collect();
            for (at, row) in rows.iter().enumerate() {
                let fits = |status: u16, pause: bool, word: Option<&str>| {
                    let retry_after = pause.then_some(Duration::from_secs(1));
                    let answer = Answer { status, retry_after, whole: true, ..Answer::default() };
                    rows.iter().position(|row| row.seen.fits(&answer, word)) == Some(at)
                };
                let reached = match &row.seen {
                    Seen::Words(words) => words.iter().all(|word| fits(400, false, Some(word.trim_end_matches('*')))),
                    Seen::Status(statuses) => statuses.iter().all(|status| fits(*status, false, None)),
                    Seen::Statuses(first, last) => (*first..=*last).any(|status| fits(status, false, None)),
                    Seen::Pause(first, last) => (*first..=*last).any(|status| fits(status, true, None)),
                    Seen::Told(..) => true,
                    Seen::Otherwise => fits(600, false, None),
                };
                assert!(reached, "`{}` is hidden", row.seen);
            }
        }
    }

    #[test]
    fn a_star_stands_for_any_ending() {
        let seen = Seen::Words(&["no_service*", "no_team"]);
        let fits = |word| seen.fits(&Answer::default(), word);
        assert!(fits(Some("no_service")) && fits(Some("no_service_id")) && fits(Some("no_team")));
        assert!(!fits(Some("no_teams")) && !fits(Some("a_no_service")) && !fits(None));
    }

    proptest! {
        /// Whatever comes, every channel has an answer to it; outside its own words and bodies it follows the status.
        #[test]
        fn every_answer_means_something(
            status in 100u16..=999,
            body in prop_oneof![
                any::<Vec<u8>>(),
                "[a-z_]{1,20}".prop_map(String::into_bytes),
                "\\{\"(name|__type|ErrorCode|id|MessageId)\":(\"[a-zA-Z_]{0,20}\"|[0-9]{1,3})\\}".prop_map(String::into_bytes),
                "\\{\"ok\":(true|false|1),\"error\":\"[a-z_]{0,20}\",\"retry_after\":-?[0-9]{1,30}\\}"
                    .prop_map(String::into_bytes),
            ],
            whole: bool,
            wait in proptest::option::of(0u64..=u64::from(u32::MAX)),
        ) {
            let retry_after = wait.map(Duration::from_secs);
            let mut answer = Answer { status, retry_after, body, whole, ..Answer::default() };
            if let Some(reset) = wait {
                answer.headers.insert("x-ratelimit-reset", reset.into());
            }
            let sendgrid: fn(&Answer) -> crate::model::Report =
                |answer| api::sendgrid::judge(answer, Timestamp::from_millis(1_445_412_480_000));
            for judge in [
                slack::judge_webhook,
                slack::judge_bot,
                teams::judge,
                webhook::judge,
                api::mailgun::judge,
                api::postmark::judge,
                api::resend::judge,
                sendgrid,
                api::ses::judge,
            ] {
                let report = judge(&answer);
                prop_assert_eq!(report.status, Some(status));
                prop_assert!(report.outcome != Outcome::Delivered || (200..300).contains(&status));
                prop_assert!(status != 429 || report.outcome.name() == "throttled");
                if let Outcome::Throttled { wait: Some(wait) } = report.outcome {
                    prop_assert!(!wait.is_zero() && wait <= Duration::from_hours(24));
                }
            }
        }
    }

    #[test]
    fn every_status_means_something() {
        for parts in ALL {
            for status in 100..=999 {
                let outcome = decide(parts, &Answer { status, ..Answer::default() }, None);
                let expected: &[&str] = match status {
                    200..=299 => &["delivered", "ambiguous"],
                    300..=399 | 401 | 403 | 404 | 407 | 410 => &["refused_destination"],
                    408 | 425 => &["transient"],
                    429 => &["throttled"],
                    // Mailgun speaks of payment.
                    402 => &["refused_content", "refused_destination"],
                    400..=499 => &["refused_content"],
                    502 | 504 => &["ambiguous", "throttled"],
                    _ => &["transient"],
                };
                assert!(expected.contains(&outcome.name()), "{status} {outcome:?}");
            }
        }
    }
}
