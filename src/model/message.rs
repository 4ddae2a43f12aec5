//! What a channel is asked to show: a message already rendered and escaped for that channel.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use super::DeliveryId;

/// The kinds of destination. The name is what `type:` says in rules.yaml and the folder under `templates/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    Slack,
    Teams,
    Email,
    Webhook,
    /// A service that is described by data alone.
    Http(PresetName),
}

impl Channel {
    /// Those with code of their own.
    pub const ALL: [Self; 4] = [Self::Slack, Self::Teams, Self::Email, Self::Webhook];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Teams => "teams",
            Self::Email => "email",
            Self::Webhook => "webhook",
            Self::Http(preset) => preset.as_str(),
        }
    }

    /// What `type:` says of such a destination.
    pub fn kind(self) -> &'static str {
        let name = self.name();
        name.split_once(':').map_or(name, |(kind, _)| kind)
    }
}

/// What a description of a service is known by: `discord`; of one that a destination brings along, `http:` and the
/// destination's name.
///
/// Cheap to copy, for each name is kept once and for ever: there are no more than were ever configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PresetName(&'static &'static str);

impl PresetName {
    pub fn new(name: &str) -> Self {
        static KEPT: Mutex<BTreeMap<&'static str, PresetName>> = Mutex::new(BTreeMap::new());
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(name) {
            return *known;
        }
        let name: &'static str = Box::leak(name.into());
        // One word wide, so that what names a channel stays small.
        let new = Self(Box::leak(Box::new(name)));
        kept.insert(name, new);
        new
    }

    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a destination type (slack, teams, email, webhook, or a service such as discord)")]
pub struct UnknownChannel(pub String);

impl FromStr for Channel {
    type Err = UnknownChannel;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|channel| channel.name() == name).ok_or_else(|| UnknownChannel(name.to_owned()))
    }
}

/// One message for one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The same on every attempt; goes out as `webhook-id`, as the mail's `Message-ID` and inside chat payloads.
    pub id: DeliveryId,
    pub content: Content,
    /// What it belongs with: messages of one thread to one destination have the same opaque, stable text here. Channels
    /// show no part of it; a mail names a hash.
    pub thread: Option<String>,
    /// What the channel called the first message of that thread, if it is known and still to be answered to: what
    /// [`ThreadNews::handle`](super::ThreadNews) said then.
    pub reply_to: Option<String>,
}

/// The rendered body, in the only two shapes channels take.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Slack, Teams, webhook: the whole JSON document, except what the channel adds by itself
    /// (Slack: `channel`, unfurl switches; Teams: the message envelope round the card).
    Json(serde_json::Value),
    /// Email: header-safe subject, plain text with `\n` line ends, and the HTML alternative if there is one.
    Mail { subject: String, text: String, html: Option<String> },
}
