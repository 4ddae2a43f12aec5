//! Postmark's Email API: <https://postmarkapp.com/developer/api/email-api>
//!
//! What is wrong stands in `ErrorCode`; its list: <https://postmarkapp.com/developer/api/overview#error-codes>

use reqwest::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::{Letter, UNHEARD_OF, secret_value};
use crate::deliver::contract::{self, Parts, Row, Seen, THROTTLED};
use crate::deliver::email::written;
use crate::deliver::http::{self, Answer};
use crate::model::{Outcome, Report, Secret};

pub(super) fn headers(key: &Secret) -> Option<HeaderMap> {
    let mut headers = http::json_headers();
    headers.insert(reqwest::header::ACCEPT, reqwest::header::HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static("x-postmark-server-token"), secret_value(key.expose())?);
    Some(headers)
}

pub(super) fn body(letter: &Letter, stream: Option<&str>) -> Vec<u8> {
    let header = |(name, value): (&str, &str)| json!({"Name": name, "Value": value});
    let headers = super::named_headers(letter).map(header);
    // Without it Postmark puts an id of its own in the place of ours.
    let headers = headers.chain([header(("X-PM-KeepID", "true"))]);
    let mut body = json!({
        "From": written(&letter.from),
        "To": letter.to.iter().map(written).collect::<Vec<_>>().join(", "),
        "Subject": letter.subject,
        "TextBody": letter.text,
        "Headers": headers.collect::<Value>(),
        "TrackOpens": false,
        "TrackLinks": "None",
    });
    if let Some(html) = &letter.html {
        body["HtmlBody"] = html.as_str().into();
    }
    if let Some(stream) = stream {
        body["MessageStream"] = stream.into();
    }
    http::json_body(&body)
}

pub(in crate::deliver) const ANSWERS: Parts = &[
    &[Row {
        seen: Seen::Told("HTTP 200 and `\"ErrorCode\": 0`", |answer| {
            answer.status == 200 && answer.json().is_some_and(|body| body["ErrorCode"] == 0)
        }),
        outcome: Outcome::Delivered,
        why: "Accepted, if need be for a part of the recipients only",
        source: "https://postmarkapp.com/developer/api/email-api#send-a-single-email",
    }],
    contract::PAUSE,
    &[
        Row {
            seen: Seen::Words(&["429"]),
            outcome: THROTTLED,
            why: "Too many requests. Postmark names no time",
            source: CODES,
        },
        Row { seen: Seen::Words(&["100"]), outcome: Outcome::Transient, why: "Maintenance", source: CODES },
        Row {
            seen: Seen::Words(&["10", "400", "401", "405", "412", "413", "1235"]),
            outcome: Outcome::RefusedDestination,
            why: "The token or the message stream is wrong, the sender is not confirmed, or the account may not send",
            source: CODES,
        },
        Row {
            seen: Seen::Words(&["406"]),
            outcome: Outcome::RefusedDestination,
            why: "Every recipient is inactive, after a bounce or a complaint: activate them again at Postmark",
            source: CODES,
        },
        Row {
            seen: Seen::Words(&["300", "402", "403", "409"]),
            outcome: Outcome::RefusedContent,
            why: "The request is malformed or too large",
            source: CODES,
        },
    ],
    UNHEARD_OF,
    contract::NOT_TAKEN,
    contract::GATEWAY_IN_DOUBT,
    contract::FAILED,
];

const CODES: &str = "https://postmarkapp.com/developer/api/overview#error-codes";

pub(in crate::deliver) fn judge(answer: &Answer) -> Report {
    let body = answer.json().unwrap_or_default();
    let code = body["ErrorCode"].as_u64().map(|code| code.to_string());
    let note = code.as_deref().filter(|code| *code != "0").map(|code| format!("ErrorCode {code}"));
    let report = answer.report(contract::decide(ANSWERS, answer, code.as_deref()), note.as_deref());
    let told = body["Message"].as_str().unwrap_or_default();
    if report.outcome == Outcome::Delivered && told.contains("inactive addresses") {
        // Whose they are stands in a sentence, and in Postmark's own suppression list.
        let detail = format!("{}: accepted, but some recipients are inactive at Postmark", report.detail);
        return Report { partial: true, detail, ..report };
    }
    report
}
