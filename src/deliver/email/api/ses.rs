//! Amazon SES, version 2: `SendEmail` with a raw message, so that the mail is the very one that SMTP would carry.
//! <https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html>
//!
//! SES puts ids of its own in the place of our `Message-ID`: <https://docs.aws.amazon.com/ses/latest/dg/header-fields.html>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::{Letter, UNHEARD_OF, secret_value, sigv4};
use crate::deliver::contract::{self, Parts, Row, Seen, THROTTLED};
use crate::deliver::email::mime;
use crate::deliver::http::{self, Answer};
use crate::model::{Outcome, Report, Secret, Timestamp};

pub(super) const PATH: &str = "/v2/email/outbound-emails";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Of an IAM user, or, with a session token, of a role.
#[derive(Clone, Debug, PartialEq)]
pub struct Credentials {
    pub access_key_id: Secret,
    pub secret_access_key: Secret,
    pub session_token: Option<Secret>,
}

/// `https://email.eu-west-1.amazonaws.com`; `None` for what is not of a region's form.
pub(super) fn base_url(region: &str) -> Option<String> {
    let parts: Vec<_> = region.split('-').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return None };
    let is_word = |word: &&str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_number = last.len() == 1 && last.bytes().all(|byte| byte.is_ascii_digit());
    if first.len() != 2 || !is_word(first) || middle.is_empty() || !middle.iter().all(is_word) || !is_number {
        return None;
    }
    let suffix = if *first == "cn" { ".cn" } else { "" };
    Some(format!("https://email.{region}.amazonaws.com{suffix}"))
}

pub(super) fn headers(credentials: &Credentials) -> Option<HeaderMap> {
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    // What the signature will be made with; checked here so that no later step can fail.
    secret_value(credentials.access_key_id.expose())?;
    if let Some(token) = &credentials.session_token {
        headers.insert(TOKEN, secret_value(token.expose())?);
    }
    Some(headers)
}

pub(super) fn body(letter: &Letter, now: Timestamp) -> Result<Vec<u8>, lettre::error::Error> {
    let mail = mime::build(letter, now)?;
    let to: Vec<_> = letter.to.iter().map(|to| to.email.to_string()).collect();
    let body = json!({
        "Destination": {"ToAddresses": to},
        "Content": {"Raw": {"Data": STANDARD.encode(mail)}},
    });
    Ok(http::json_body(&body))
}

/// The headers that date and sign a request.
pub(super) fn signature(
    host: &str,
    region: &str,
    credentials: &Credentials,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Vec<(HeaderName, HeaderValue)> {
    let date = sigv4::Date::of(now);
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let mut signed = vec![("host", host.to_owned()), ("x-amz-date", date.time.clone())];
    signed.extend(headers.get(CONTENT_TYPE).map(|value| ("content-type", text(value))));
    signed.extend(headers.get(TOKEN).map(|value| ("x-amz-security-token", text(value))));
    signed.sort_unstable();
    let request = sigv4::Request { method: "POST", path: PATH, headers: &signed, body };
    let scope = sigv4::Scope { region, service: "ses" };
    let key = (credentials.access_key_id.expose(), credentials.secret_access_key.expose());
    let authorization = sigv4::authorization(&request, &scope, key, &date);
    let date = HeaderValue::from_str(&date.time).ok().map(|date| (DATE, date));
    let authorization = secret_value(&authorization).map(|authorization| (AUTHORIZATION, authorization));
    date.into_iter().chain(authorization).collect()
}

pub(in crate::deliver) const ANSWERS: Parts = &[
    &[Row {
        seen: Seen::Told("HTTP 200 and a `MessageId`", |answer| {
            answer.status == 200 && answer.json().is_some_and(|body| body["MessageId"].is_string())
        }),
        outcome: Outcome::Delivered,
        why: "Accepted",
        source: SEND_EMAIL,
    }],
    contract::PAUSE,
    &[
        Row {
            seen: Seen::Words(&["LimitExceededException", "Throttling*", "TooManyRequestsException"]),
            outcome: THROTTLED,
            why: "The sending rate or the daily quota is used up",
            source: SEND_EMAIL,
        },
        Row {
            seen: Seen::Told("`MessageRejected` and “not verified”", |answer| {
                word(answer).as_deref() == Some("MessageRejected") && answer.text().contains("not verified")
            }),
            outcome: Outcome::RefusedDestination,
            why: "The sender is not verified, or the account is in the sandbox and a recipient is not",
            source: "https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-error-messages.html",
        },
        Row {
            seen: Seen::Words(&[
                "AccountSuspendedException",
                "MailFromDomainNotVerifiedException",
                "SendingPausedException",
            ]),
            outcome: Outcome::RefusedDestination,
            why: "The account or its domain may not send",
            source: SEND_EMAIL,
        },
        Row {
            seen: Seen::Words(&[
                "AccessDenied*",
                "ExpiredToken*",
                "IncompleteSignature*",
                "InvalidClientTokenId",
                "InvalidSignatureException",
                "MissingAuthenticationToken*",
                "NotAuthorized",
                "OptInRequired",
                "RequestExpired",
                "SignatureDoesNotMatch",
                "UnrecognizedClientException",
            ]),
            outcome: Outcome::RefusedDestination,
            why: "The keys are wrong, expired or without the right to send, or this machine's clock is wrong",
            source: "https://docs.aws.amazon.com/ses/latest/APIReference-V2/CommonErrors.html",
        },
        Row {
            seen: Seen::Words(&["BadRequestException", "MessageRejected", "ValidationError"]),
            outcome: Outcome::RefusedContent,
            why: "The message is malformed or too large",
            source: SEND_EMAIL,
        },
    ],
    UNHEARD_OF,
    contract::NOT_TAKEN,
    contract::GATEWAY_IN_DOUBT,
    contract::FAILED,
];

const SEND_EMAIL: &str =
    "https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html#API_SendEmail_Errors";

pub(in crate::deliver) fn judge(answer: &Answer) -> Report {
    let word = word(answer);
    answer.report(contract::decide(ANSWERS, answer, word.as_deref()), word.as_deref())
}

/// The error's type: `MessageRejected` of `MessageRejected:http://…` in a header, or of `com.amazonaws.ses#MessageRejected`
/// in the body: <https://smithy.io/2.0/aws/protocols/aws-restjson1-protocol.html#operation-error-serialization>.
fn word(answer: &Answer) -> Option<String> {
    let body = answer.json().unwrap_or_default();
    let told = answer.header("x-amzn-errortype").or(body["__type"].as_str()).or(body["code"].as_str())?;
    let told = told.split(':').next().unwrap_or_default();
    let told = told.rsplit('#').next().unwrap_or_default();
    super::plain_word(told).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_errors() {
        let of = |header: Option<&'static str>, body: &str| {
            let mut answer = Answer { status: 400, body: body.into(), ..Answer::default() };
            if let Some(header) = header {
                answer.headers.insert("x-amzn-errortype", HeaderValue::from_static(header));
            }
            word(&answer)
        };
        let rejected = Some("MessageRejected".to_owned());
        assert_eq!(of(Some("MessageRejected:http://internal.amazon.com/x/"), ""), rejected);
        assert_eq!(of(Some("MessageRejected"), r#"{"__type":"Other"}"#), rejected);
        assert_eq!(of(None, r#"{"__type":"com.amazonaws.ses#MessageRejected:http://x"}"#), rejected);
        assert_eq!(of(None, r#"{"code":"MessageRejected"}"#), rejected);
        assert_eq!(of(Some("a sentence"), ""), None);
        assert_eq!(of(None, "<html>"), None);
    }
}
