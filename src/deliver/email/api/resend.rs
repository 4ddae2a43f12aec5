//! Resend's Emails API: <https://resend.com/docs/api-reference/emails/send-email>
//!
//! Resend keeps an `Idempotency-Key` for a day, and answers a repeat without a second mail. Our repeats may differ in their
//! text ("may repeat an earlier message"), which it refuses: then the small plain message goes out, under a key of its own.

use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::{Letter, UNHEARD_OF};
use crate::deliver::contract::{self, Parts, Row, Seen, THROTTLED};
use crate::deliver::email::written;
use crate::deliver::http::{self, Answer};
use crate::model::{Outcome, Report};

/// Quotas are of days and months: asked more often, the answer would be the same.
const QUOTA_WAIT: Duration = Duration::from_hours(1);

/// The delivery's id; with a mark for a mail without HTML, which is what follows a mail that was refused.
pub(super) fn idempotency_key(letter: &Letter, id: &str) -> Option<(HeaderName, HeaderValue)> {
    let key = if letter.html.is_some() { id.to_owned() } else { format!("{id}-plain") };
    Some((HeaderName::from_static("idempotency-key"), HeaderValue::from_str(&key).ok()?))
}

pub(super) fn body(letter: &Letter) -> Vec<u8> {
    // A `Message-ID` is the service's own to give.
    let headers: Map<String, Value> =
        letter.headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
    let mut body = json!({
        "from": written(&letter.from),
        "to": letter.to.iter().map(written).collect::<Vec<_>>(),
        "subject": letter.subject,
        "text": letter.text,
        "headers": headers,
    });
    if let Some(html) = &letter.html {
        body["html"] = html.as_str().into();
    }
    http::json_body(&body)
}

pub(in crate::deliver) const ANSWERS: Parts = &[
    &[
        Row {
            seen: Seen::Told("HTTP 200 and an `id`", |answer| {
                answer.status == 200 && answer.json().is_some_and(|body| body["id"].is_string())
            }),
            outcome: Outcome::Delivered,
            why: "Accepted, now or by an earlier attempt with the same `Idempotency-Key`",
            source: "https://resend.com/docs/dashboard/emails/idempotency-keys",
        },
        Row {
            seen: Seen::Words(QUOTAS),
            outcome: THROTTLED,
            why: "The quota is used up; asked again after an hour",
            source: ERRORS,
        },
    ],
    contract::PAUSE,
    &[
        Row {
            seen: Seen::Words(&["rate_limit_exceeded"]),
            outcome: THROTTLED,
            why: "Too many requests; `Retry-After` says for how long to wait",
            source: ERRORS,
        },
        Row {
            seen: Seen::Words(&["concurrent_idempotent_requests", "resource_locked"]),
            outcome: Outcome::Transient,
            why: "An earlier attempt is still being worked on",
            source: ERRORS,
        },
        Row {
            seen: Seen::Words(&["invalid_idempotent_request"]),
            outcome: Outcome::RefusedContent,
            why: "An earlier attempt had another text. The plain message that follows has a key of its own",
            source: ERRORS,
        },
        Row {
            seen: Seen::Words(&["invalid_access", "invalid_from_address", "invalid_region", "security_error"]),
            outcome: Outcome::RefusedDestination,
            why: "The sender, the region or the account is not right",
            source: ERRORS,
        },
    ],
    UNHEARD_OF,
    contract::NOT_TAKEN,
    contract::GATEWAY_IN_DOUBT,
    contract::FAILED,
];

const QUOTAS: &[&str] = &["daily_quota_exceeded", "monthly_quota_exceeded"];
const ERRORS: &str = "https://resend.com/docs/api-reference/errors";

pub(in crate::deliver) fn judge(answer: &Answer) -> Report {
    let body = answer.json().unwrap_or_default();
    let word = body["name"].as_str().and_then(super::plain_word);
    let outcome = contract::decide(ANSWERS, answer, word);
    if word.is_some_and(|word| QUOTAS.contains(&word)) && outcome == THROTTLED {
        // The header is about requests a second.
        let wait = answer.retry_after.unwrap_or_default().max(QUOTA_WAIT);
        return Answer { retry_after: Some(wait), ..answer.clone() }.report(outcome, word);
    }
    answer.report(outcome, word)
}
