//! Where events come from: a polling loop and an HTTP input. Both hand events to intake and acknowledge only what it
//! has committed.

mod complaint;
pub mod event_api;
pub mod poll;
pub mod walk;
pub mod webhook;

use crate::model::SourceName;

/// A source as `config` has checked it.
#[derive(Clone, Debug, PartialEq)]
pub enum Settings {
    Halo(poll::Settings),
    Webhook(webhook::Settings),
}

impl Settings {
    pub const fn name(&self) -> &SourceName {
        match self {
            Self::Halo(settings) => &settings.name,
            Self::Webhook(settings) => &settings.name,
        }
    }
}
