//! `SendGrid`'s Mail Send API, version 3: <https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send>

use std::time::Duration;

use lettre::message::Mailbox;
use serde_json::{Map, Value, json};

use super::{Letter, UNHEARD_OF};
use crate::deliver::contract::{self, Parts, Row, Seen, THROTTLED};
use crate::deliver::http::{self, Answer};
use crate::model::{Outcome, Report, Timestamp};

pub(super) fn body(letter: &Letter) -> Vec<u8> {
    let person = |mailbox: &Mailbox| match &mailbox.name {
        None => json!({"email": mailbox.email.to_string()}),
        Some(name) => json!({"email": mailbox.email.to_string(), "name": name}),
    };
    let headers: Map<String, Value> =
        super::named_headers(letter).map(|(name, value)| (name.to_owned(), value.into())).collect();
    // An empty part is refused.
    let part = |kind: &str, text: &str| (!text.is_empty()).then(|| json!({"type": kind, "value": text}));
    let parts = [part("text/plain", &letter.text), letter.html.as_deref().and_then(|html| part("text/html", html))];
    let body = json!({
        "personalizations": [{"to": letter.to.iter().map(person).collect::<Vec<_>>()}],
        "from": person(&letter.from),
        "subject": letter.subject,
        "content": parts.into_iter().flatten().collect::<Vec<_>>(),
        "headers": headers,
        "tracking_settings": {
            "click_tracking": {"enable": false, "enable_text": false},
            "open_tracking": {"enable": false},
        },
    });
    http::json_body(&body)
}

pub(in crate::deliver) const ANSWERS: Parts = &[
    &[
        Row {
            seen: Seen::Status(&[202]),
            outcome: Outcome::Delivered,
            why: "Queued; the answer has no body",
            source: MAIL_SEND,
        },
        Row {
            seen: Seen::Status(&[429]),
            outcome: THROTTLED,
            why: "Too many requests; `X-RateLimit-Reset` says when the next may come, in seconds since 1970",
            source: "https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits",
        },
        Row {
            seen: Seen::Told("HTTP 401 and “Maximum credits exceeded”", |answer| {
                answer.status == 401 && answer.text().to_ascii_lowercase().contains("maximum credits exceeded")
            }),
            outcome: THROTTLED,
            why: "The plan's mails of the day or month are used up",
            source: "https://support.sendgrid.com/hc/en-us/articles/360059992013",
        },
    ],
    UNHEARD_OF,
    contract::NOT_TAKEN,
    contract::GATEWAY_IN_DOUBT,
    contract::FAILED,
];

const MAIL_SEND: &str = "https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send";

pub(in crate::deliver) fn judge(answer: &Answer, now: Timestamp) -> Report {
    let mut outcome = contract::decide(ANSWERS, answer, None);
    if let Outcome::Throttled { wait } = &mut outcome {
        *wait = answer.header("x-ratelimit-reset").and_then(|reset| until(reset, now));
    }
    let field = field(answer);
    answer.report(outcome, field.as_deref())
}

/// How long it is until `seconds` since 1970, rounded up; `None` for what is past or no number.
fn until(seconds: &str, now: Timestamp) -> Option<Duration> {
    let millis = seconds.trim().parse::<i64>().ok()?.checked_mul(1_000)?;
    Some(Timestamp::from_millis(millis).since(now)).filter(|wait| !wait.is_zero())
}

/// Which field of the request it finds fault with; its messages are sentences.
fn field(answer: &Answer) -> Option<String> {
    let body = answer.json()?;
    let field = body["errors"][0]["field"].as_str()?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.[]".contains(&byte);
    let is_plain = field.len() <= 60 && !field.is_empty() && field.bytes().all(is_plain);
    is_plain.then(|| format!("fault in `{field}`"))
}
