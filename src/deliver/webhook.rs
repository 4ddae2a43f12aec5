//! Signed JSON to any URL, by the Standard Webhooks rules: <https://www.standardwebhooks.com>.
//!
//! `webhook-id` is the delivery's public name, the same on every attempt, so that a receiver can drop repeats.
//! `webhook-timestamp` is the time of the attempt, and `webhook-signature` covers both and the exact bytes of the body.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_PAD_INDIFFERENT};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

use super::contract::{self, Parts, Row, Seen, THROTTLED};
use super::http::{self, Answer, Clients, Endpoint, UrlProblem};
use super::{BuildError, wrong_content};
use crate::model::{Channel, Content, Message, Outcome, Report, Secret, Timestamp};

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub url: Secret,
    /// `whsec_` and base64 of 24 to 64 bytes; unsigned without it.
    pub secret: Option<Secret>,
}

pub fn check_url(url: &str, allow_http: bool) -> Result<(), UrlProblem> {
    http::check_url(url, allow_http).map(drop)
}

/// A checked signing key.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

/// What is wrong with a signing secret. Never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the signing secret does not start with `whsec_`; make one with `echo whsec_$(openssl rand -base64 32)`")]
    Prefix,
    #[error("the signing secret is not base64 after `whsec_`; make one with `echo whsec_$(openssl rand -base64 32)`")]
    Base64,
    #[error("the signing secret has {0} bytes, not 24 to 64; make one with `echo whsec_$(openssl rand -base64 32)`")]
    Length(usize),
}

impl SigningKey {
    pub fn parse(secret: &Secret) -> Result<Self, KeyError> {
        let encoded = secret.expose().trim().strip_prefix("whsec_").ok_or(KeyError::Prefix)?;
        let key = STANDARD_PAD_INDIFFERENT.decode(encoded).map_err(|_| KeyError::Base64)?;
        if !(24..=64).contains(&key.len()) {
            return Err(KeyError::Length(key.len()));
        }
        Hmac::new_from_slice(&key).map(Self).map_err(|_| KeyError::Length(key.len()))
    }

    /// The value of `webhook-signature` for one attempt; `seconds` is its `webhook-timestamp`.
    pub fn sign(&self, id: &str, seconds: i64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

#[derive(Debug)]
pub struct Webhook {
    endpoint: Endpoint,
    key: Option<SigningKey>,
}

impl Webhook {
    pub(super) fn new(settings: &Settings, clients: &Clients) -> Result<Self, BuildError> {
        let key = settings.secret.as_ref().map(SigningKey::parse).transpose()?;
        Ok(Self { endpoint: Endpoint::new(&settings.url, clients)?, key })
    }

    pub(super) async fn send(&self, message: &Message, now: Timestamp) -> Report {
        let Content::Json(body) = &message.content else { return wrong_content(Channel::Webhook) };
        let body = http::json_body(body);
        let Some(headers) = self.headers(message.id.as_str(), now, &body) else {
            return wrong_content(Channel::Webhook);
        };
        match self.endpoint.post(headers, body, now).await {
            Ok(answer) => judge(&answer),
            Err(report) => report,
        }
    }

    /// `None` if the id cannot stand in a header, which no id of ours does.
    fn headers(&self, id: &str, now: Timestamp, body: &[u8]) -> Option<HeaderMap> {
        let seconds = now.as_millis().div_euclid(1_000);
        let mut headers = http::json_headers();
        headers.insert(HeaderName::from_static("webhook-id"), HeaderValue::from_str(id).ok()?);
        headers.insert(HeaderName::from_static("webhook-timestamp"), HeaderValue::from(seconds));
        if let Some(key) = &self.key {
            let signature = HeaderValue::from_str(&key.sign(id, seconds, body)).ok()?;
            headers.insert(HeaderName::from_static("webhook-signature"), signature);
        }
        Some(headers)
    }
}

/// The specification's rules: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.
/// A doubt costs little here, for a receiver tells a repeat by its `webhook-id`; so a gateway's failure is a pause.
pub(super) const WEBHOOK: Parts = &[
    &[Row {
        seen: Seen::Statuses(200, 299),
        outcome: Outcome::Delivered,
        why: "Any 2xx is success, whatever the body",
        source: SPECIFICATION,
    }],
    contract::PAUSE,
    &[Row {
        seen: Seen::Status(&[502, 504]),
        outcome: THROTTLED,
        why: "The server is under load; senders are asked to slow down, with or without `Retry-After`",
        source: SPECIFICATION,
    }],
    contract::NOT_TAKEN,
    contract::FAILED,
];

const SPECIFICATION: &str = "https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md#delivery-success-and-failure";

pub(super) fn judge(answer: &Answer) -> Report {
    answer.report(contract::decide(WEBHOOK, answer, None), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agreed on by the reference libraries of the specification for Rust and Python.
    const SECRET: &str = "whsec_eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=";

    #[test]
    fn known_signature() {
        let key = SigningKey::parse(&Secret::new(SECRET)).unwrap();
        let signature = key.sign("msg_1", 1_674_087_231, br#"{"a":1}"#);
        assert_eq!(signature, "v1,HiyL8I7axg/bdSu2vibiy6UNJvwnZlOqc0kMIWGgB4Y=");
        assert_ne!(key.sign("msg_1", 1_674_087_231, br#"{"a": 1}"#), signature);
        assert_ne!(key.sign("msg_2", 1_674_087_231, br#"{"a":1}"#), signature);
        assert_ne!(key.sign("msg_1", 1_674_087_232, br#"{"a":1}"#), signature);
        assert_eq!(format!("{key:?}"), "SigningKey(…)");
    }

    #[test]
    fn keys() {
        let of_length = |length: usize| format!("whsec_{}", STANDARD.encode(vec![b'k'; length]));
        for good in [of_length(24), of_length(64), format!("{SECRET}\n"), SECRET.trim_end_matches('=').to_owned()] {
            assert!(SigningKey::parse(&Secret::new(good.clone())).is_ok(), "{good}");
        }
        let bad = [
            (String::new(), KeyError::Prefix),
            (SECRET.replace("whsec_", ""), KeyError::Prefix),
            (SECRET.replace("whsec_", "whsk_"), KeyError::Prefix),
            ("whsec_???".to_owned(), KeyError::Base64),
            ("whsec_".to_owned(), KeyError::Length(0)),
            (of_length(23), KeyError::Length(23)),
            (of_length(65), KeyError::Length(65)),
        ];
        for (secret, expected) in bad {
            assert_eq!(SigningKey::parse(&Secret::new(secret.clone())).err(), Some(expected), "{secret}");
        }
    }
}
