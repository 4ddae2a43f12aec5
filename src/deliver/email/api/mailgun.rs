//! Mailgun's Messages API: <https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::Serializer;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};

use super::{Letter, UNHEARD_OF, secret_value};
use crate::deliver::contract::{self, Parts, Row, Seen};
use crate::deliver::email::written;
use crate::deliver::http::Answer;
use crate::model::{Outcome, Report, Secret};

pub(super) fn headers(key: &Secret) -> Option<HeaderMap> {
    let login = STANDARD.encode(format!("api:{}", key.expose()));
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    Some(HeaderMap::from_iter([(CONTENT_TYPE, form), (AUTHORIZATION, secret_value(&format!("Basic {login}"))?)]))
}

pub(super) fn body(letter: &Letter) -> Vec<u8> {
    let mut form = Serializer::new(String::new());
    form.append_pair("from", &written(&letter.from));
    for to in &letter.to {
        form.append_pair("to", &written(to));
    }
    form.append_pair("subject", &letter.subject).append_pair("text", &letter.text);
    if let Some(html) = &letter.html {
        form.append_pair("html", html);
    }
    for (name, value) in super::named_headers(letter) {
        form.append_pair(&format!("h:{name}"), value);
    }
    form.append_pair("o:tracking", "no");
    form.finish().into_bytes()
}

pub(in crate::deliver) const ANSWERS: Parts = &[
    &[Row {
        seen: Seen::Told("HTTP 200 and an `id`", |answer| {
            answer.status == 200 && answer.json().is_some_and(|body| body["id"].is_string())
        }),
        outcome: Outcome::Delivered,
        why: "Queued",
        source: MESSAGES,
    }],
    contract::PAUSE,
    &[Row {
        seen: Seen::Status(&[402]),
        outcome: Outcome::RefusedDestination,
        why: "The account may not send: its plan or its payment",
        source: MESSAGES,
    }],
    UNHEARD_OF,
    contract::NOT_TAKEN,
    contract::GATEWAY_IN_DOUBT,
    contract::FAILED,
];

const MESSAGES: &str = "https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages";

pub(in crate::deliver) fn judge(answer: &Answer) -> Report {
    answer.report(contract::decide(ANSWERS, answer, None), None)
}
