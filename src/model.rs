//! The nouns of the relay, as values: nothing here does I/O, reads a clock or imports another module of ours.
//!
//! | noun | type | made by | read by |
//! |---|---|---|---|
//! | event | [`Event`] | sources, from JSON | routing, store, render |
//! | key, key glob | [`EventKey`], [`KeyGlob`](key::KeyGlob) | sources; rules | routing |
//! | severity | [`Severity`] | rules | store (order of sending), render |
//! | delivery | [`DeliveryId`], [`delivery::State`] | intake | store, dispatch |
//! | message | [`Message`] | render | deliver |
//! | outcome | [`Outcome`] | deliver | dispatch, store |
//! | mention | [`Mention`] | config | render |
//! | fallback, overflow, retention | [`Fallback`], [`Overflow`], [`Retention`] | config | dispatch, store |
//! | secret | [`Secret`] | config | source, deliver |

pub mod delivery;
pub mod event;
pub mod health;
pub mod key;
pub mod mention;
pub mod message;
pub mod name;
pub mod policy;
pub mod secret;
pub mod severity;
pub mod time;
pub mod zone;

pub use delivery::{DeliveryId, Outcome, Report, ThreadNews};
pub use event::{Event, EventId};
pub use health::{Condition, Health};
pub use key::EventKey;
pub use mention::Mention;
pub use message::{Channel, Content, Message, PresetName};
pub use name::{DestinationName, LimitName, RuleName, SourceName};
pub use policy::{Fallback, Overflow, Retention};
pub use secret::Secret;
pub use severity::Severity;
pub use time::Timestamp;
pub use zone::Zone;
