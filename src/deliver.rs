//! Sending one message once over one channel, and saying what happened.
//!
//! A [`Notifier`] is built once for each destination. [`Notifier::send`] makes one attempt and answers with a
//! [`Report`]: it never sleeps, loops or retries, so that the outbox stays the only place that decides when to try
//! again. It always ends: every network wait has a time-out, every answer a size limit. No report and no error of this
//! module holds a URL, a credential, a full mail address or event text.
//!
//! What an answer *means* is decided by tables, one for each channel's own [`contract`], read by pure functions.

pub mod contract;
pub mod email;
pub mod http;
pub mod preset;
pub mod slack;
pub mod teams;
pub mod webhook;

pub use http::{Clients, Timeouts, UrlProblem};

use serde_json::Value;

use crate::model::{Channel, Content, Mention, Message, Outcome, Report, Timestamp};

/// What a destination needs to know of its channel, checked by `config`.
#[derive(Clone, Debug, PartialEq)]
pub enum Settings {
    Slack(slack::Settings),
    Teams(teams::Settings),
    Email(email::Settings),
    Webhook(webhook::Settings),
    Http(preset::Settings),
}

impl Settings {
    pub const fn channel(&self) -> Channel {
        match self {
            Self::Slack(_) => Channel::Slack,
            Self::Teams(_) => Channel::Teams,
            Self::Email(_) => Channel::Email,
            Self::Webhook(_) => Channel::Webhook,
            Self::Http(settings) => Channel::Http(settings.name),
        }
    }

    /// Whether a message to it that names somebody calls them.
    pub fn calls(&self, mention: &Mention) -> bool {
        match self {
            Self::Http(settings) => settings.preset.call(mention).is_some(),
            other => mention.is_understood_by(other.channel()),
        }
    }

    /// Whether messages can be shown in threads, by the channel itself.
    pub const fn has_threads(&self) -> bool {
        matches!(self, Self::Slack(slack::Settings::Bot { .. }) | Self::Email(_))
    }

    /// The JSON document that would go on the wire, with all that the channel adds; `None` for mail, and for content of
    /// the wrong shape.
    pub fn payload(&self, content: &Content) -> Option<Value> {
        match (self, content) {
            (Self::Slack(slack::Settings::Webhook { .. }), _) => slack::payload(content, None),
            (Self::Slack(slack::Settings::Bot { channel, .. }), _) => slack::payload(content, Some(channel)),
            (Self::Teams(_), _) => teams::envelope(content),
            (Self::Webhook(_) | Self::Http(_), Content::Json(body)) => Some(body.clone()),
            (Self::Webhook(_) | Self::Http(_), Content::Mail { .. }) | (Self::Email(_), _) => None,
        }
    }
}

/// One destination, ready to send.
#[derive(Debug)]
pub enum Notifier {
    Slack(slack::Slack),
    Teams(teams::Teams),
    Email(Box<email::Email>),
    Webhook(webhook::Webhook),
    Http(Box<preset::Http>),
}

impl Notifier {
    /// Does everything that can fail before the first message: URLs, keys, certificates. Touches no network.
    pub fn new(settings: &Settings, clients: &Clients) -> Result<Self, BuildError> {
        Ok(match settings {
            Settings::Slack(settings) => Self::Slack(slack::Slack::new(settings, clients)?),
            Settings::Teams(settings) => Self::Teams(teams::Teams::new(settings, clients)?),
            Settings::Email(settings) => Self::Email(Box::new(email::Email::new(settings, clients)?)),
            Settings::Webhook(settings) => Self::Webhook(webhook::Webhook::new(settings, clients)?),
            Settings::Http(settings) => Self::Http(Box::new(preset::Http::new(settings, clients)?)),
        })
    }

    pub const fn channel(&self) -> Channel {
        match self {
            Self::Slack(_) => Channel::Slack,
            Self::Teams(_) => Channel::Teams,
            Self::Email(_) => Channel::Email,
            Self::Webhook(_) => Channel::Webhook,
            Self::Http(http) => http.channel(),
        }
    }

    /// Whether reports say what a message is called, for later ones to be answers to it.
    pub const fn has_handles(&self) -> bool {
        matches!(self, Self::Slack(slack) if slack.is_bot())
    }

    /// One attempt. `now` dates the mail, stamps the signature, and is what a `Retry-After` date is counted from.
    ///
    /// Dropping the future gives the attempt up; what has left by then may still arrive.
    pub async fn send(&self, message: &Message, now: Timestamp) -> Report {
        match self {
            Self::Slack(slack) => slack.send(message, now).await,
            Self::Teams(teams) => teams.send(message, now).await,
            Self::Email(email) => email.send(message, now).await,
            Self::Webhook(webhook) => webhook.send(message, now).await,
            Self::Http(http) => http.send(message, now).await,
        }
    }
}

/// Why a destination cannot be made ready. The text is safe to show.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("HTTPS cannot be set up: {0} (is the `ca-certificates` package installed?)")]
    Https(String),
    #[error(transparent)]
    Url(#[from] UrlProblem),
    #[error("the token holds characters that no HTTP header can carry; copy it again, without line breaks")]
    Token,
    #[error(transparent)]
    Key(#[from] webhook::KeyError),
    #[error(transparent)]
    Email(#[from] email::SettingsError),
}

/// The answer to a message in the wrong shape for its channel. Nothing was sent, and sending again cannot help.
fn wrong_content(channel: Channel) -> Report {
    Report::new(
        Outcome::RefusedContent,
        None,
        format!("the rendered message has the wrong shape for {channel}: a fault of the relay, please report it"),
    )
}
