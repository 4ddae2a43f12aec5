//! Mail by a service's HTTP API: one POST, one message.
//!
//! - The service makes the mail of what it is told, but for Amazon SES, which takes ours as it is.
//! - Where a service rewrites links or counts openings by itself, it is asked not to: a link in an alert leads where it says.
//! - Only Resend knows a repeat for one, by `Idempotency-Key`; with the others an attempt without an answer may be seen twice.
//! - Who is turned away later is not told in an answer; the service's own log has it.
//!
//! Services tell their reasons in sentences that quote addresses. Reports hold only the words they have for programs.

pub(in crate::deliver) mod mailgun;
pub(in crate::deliver) mod postmark;
pub(in crate::deliver) mod resend;
pub(in crate::deliver) mod sendgrid;
pub mod ses;
mod sigv4;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use super::letter::Letter;
use crate::deliver::BuildError;
use crate::deliver::contract::{Row, Seen};
use crate::deliver::http::{Answer, Clients, Endpoint};
use crate::model::{Outcome, Report, Secret, Timestamp};

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub service: Service,
    /// Scheme and host, without a slash at its end: [`Provider::base_url`] but for tests and gateways.
    pub base_url: String,
}

/// A service, with what it knows us by.
#[derive(Clone, Debug, PartialEq)]
pub enum Service {
    Mailgun { key: Secret, domain: String },
    Postmark { key: Secret, stream: Option<String> },
    Resend { key: Secret },
    SendGrid { key: Secret },
    Ses { region: String, credentials: ses::Credentials },
}

/// The services by name, as rules files write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    Mailgun,
    Postmark,
    Resend,
    SendGrid,
    Ses,
}

impl Provider {
    pub const ALL: [Self; 5] = [Self::Mailgun, Self::Postmark, Self::Resend, Self::SendGrid, Self::Ses];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Mailgun => "mailgun",
            Self::Postmark => "postmark",
            Self::Resend => "resend",
            Self::SendGrid => "sendgrid",
            Self::Ses => "ses",
        }
    }

    /// The regions there are, the usual one first; empty where there is no choice. Those of Amazon are many: any name of
    /// their form is taken.
    pub const fn regions(self) -> &'static [&'static str] {
        match self {
            Self::Mailgun => &["us", "eu"],
            Self::SendGrid => &["global", "eu"],
            Self::Postmark | Self::Resend | Self::Ses => &[],
        }
    }

    /// Where a region's requests go. `None` if there is no such region.
    pub fn base_url(self, region: &str) -> Option<String> {
        let host = match (self, region) {
            (Self::Mailgun, "us") => "api.mailgun.net",
            (Self::Mailgun, "eu") => "api.eu.mailgun.net",
            (Self::SendGrid, "global") => "api.sendgrid.com",
            (Self::SendGrid, "eu") => "api.eu.sendgrid.com",
            (Self::Postmark, "") => "api.postmarkapp.com",
            (Self::Resend, "") => "api.resend.com",
            (Self::Ses, region) => return ses::base_url(region),
            _ => return None,
        };
        Some(format!("https://{host}"))
    }
}

#[derive(Debug)]
pub(super) struct Api {
    service: Service,
    endpoint: Endpoint,
    /// The same for every message; what is secret is marked so.
    headers: HeaderMap,
    /// As it stands in the URL, for signatures.
    host: String,
}

impl Api {
    pub(super) fn new(settings: &Settings, clients: &Clients) -> Result<Self, BuildError> {
        let base = settings.base_url.trim_end_matches('/');
        let path = match &settings.service {
            Service::Mailgun { domain, .. } => format!("/v3/{domain}/messages"),
            Service::Postmark { .. } => "/email".to_owned(),
            Service::Resend { .. } => "/emails".to_owned(),
            Service::SendGrid { .. } => "/v3/mail/send".to_owned(),
            Service::Ses { .. } => ses::PATH.to_owned(),
        };
        let host = base.split_once("://").map_or(base, |(_, host)| host).to_owned();
        let endpoint = Endpoint::new(&Secret::new(format!("{base}{path}")), clients)?;
        let headers = match &settings.service {
            Service::Mailgun { key, .. } => mailgun::headers(key),
            Service::Postmark { key, .. } => postmark::headers(key),
            Service::Resend { key } | Service::SendGrid { key } => bearer(key),
            Service::Ses { credentials, .. } => ses::headers(credentials),
        };
        let headers = headers.ok_or(BuildError::Token)?;
        Ok(Self { service: settings.service.clone(), endpoint, headers, host })
    }

    pub(super) async fn send(&self, letter: &Letter, id: &str, now: Timestamp) -> Report {
        let mut headers = self.headers.clone();
        let body = match &self.service {
            Service::Mailgun { .. } => mailgun::body(letter),
            Service::Postmark { stream, .. } => postmark::body(letter, stream.as_deref()),
            Service::Resend { .. } => {
                headers.extend(resend::idempotency_key(letter, id));
                resend::body(letter)
            }
            Service::SendGrid { .. } => sendgrid::body(letter),
            Service::Ses { region, credentials } => {
                let Ok(body) = ses::body(letter, now) else {
                    return crate::deliver::wrong_content(crate::model::Channel::Email);
                };
                headers.extend(ses::signature(&self.host, region, credentials, &headers, &body, now));
                body
            }
        };
        match self.endpoint.post(headers, body, now).await {
            Ok(answer) => self.judge(&answer, now),
            Err(report) => report,
        }
    }

    fn judge(&self, answer: &Answer, now: Timestamp) -> Report {
        match &self.service {
            Service::Mailgun { .. } => mailgun::judge(answer),
            Service::Postmark { .. } => postmark::judge(answer),
            Service::Resend { .. } => resend::judge(answer),
            Service::SendGrid { .. } => sendgrid::judge(answer, now),
            Service::Ses { .. } => ses::judge(answer),
        }
    }
}

/// `None` if the key holds what no header can carry.
fn secret_value(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn bearer(key: &Secret) -> Option<HeaderMap> {
    let mut headers = crate::deliver::http::json_headers();
    headers.insert(AUTHORIZATION, secret_value(&format!("Bearer {}", key.expose()))?);
    Some(headers)
}

/// All headers that we have a say in, for services that let us name them.
fn named_headers(letter: &Letter) -> impl Iterator<Item = (&'static str, &str)> {
    let headers = letter.headers.iter().map(|(name, value)| (*name, value.as_str()));
    std::iter::once(("Message-ID", letter.message_id.as_str())).chain(headers)
}

/// A word for programs, such as `daily_quota_exceeded`; `None` for anything that may be a sentence or an address.
fn plain_word(word: &str) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=60).contains(&word.len()).then_some(word).filter(|word| word.bytes().all(is_plain))
}

/// A 2xx that is not the contract's success leaves the outcome unknown.
const UNHEARD_OF: &[Row<Seen>] = &[Row {
    seen: Seen::Statuses(200, 299),
    outcome: Outcome::Ambiguous,
    why: "Not an answer that the service gives: a proxy's, or one cut on its way",
    source: "",
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let cases = [
            (Provider::Mailgun, "us", Some("https://api.mailgun.net")),
            (Provider::Mailgun, "eu", Some("https://api.eu.mailgun.net")),
            (Provider::Mailgun, "", None),
            (Provider::SendGrid, "global", Some("https://api.sendgrid.com")),
            (Provider::SendGrid, "eu", Some("https://api.eu.sendgrid.com")),
            (Provider::SendGrid, "us", None),
            (Provider::Postmark, "", Some("https://api.postmarkapp.com")),
            (Provider::Postmark, "eu", None),
            (Provider::Resend, "", Some("https://api.resend.com")),
            (Provider::Ses, "eu-west-1", Some("https://email.eu-west-1.amazonaws.com")),
            (Provider::Ses, "us-gov-west-1", Some("https://email.us-gov-west-1.amazonaws.com")),
            (Provider::Ses, "cn-north-1", Some("https://email.cn-north-1.amazonaws.com.cn")),
            (Provider::Ses, "", None),
            (Provider::Ses, "eu", None),
            (Provider::Ses, "evil.example/", None),
            (Provider::Ses, "eu-west-1.evil", None),
            (Provider::Ses, "EU-WEST-1", None),
        ];
        for (provider, region, expected) in cases {
            assert_eq!(provider.base_url(region).as_deref(), expected, "{provider:?} {region:?}");
        }
        for provider in Provider::ALL {
            assert!(provider.regions().iter().all(|region| provider.base_url(region).is_some()));
        }
    }

    #[test]
    fn words() {
        for word in ["rate_limit_exceeded", "MessageRejected", "300"] {
            assert_eq!(plain_word(word), Some(word));
        }
        for word in ["", "two words", "bob@example.org", "a\nb", &"x".repeat(61)] {
            assert_eq!(plain_word(word), None);
        }
    }
}
