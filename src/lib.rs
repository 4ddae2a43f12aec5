//! halo-relay takes Halo Security events and delivers each one to the people and systems its rules name.
//!
//! The promise: what it has acknowledged, it delivers, or keeps as a dead letter that says why. At least once, urgent first,
//! each destination on its own, and nothing that an event says can become anything but text.
//!
//! ```text
//!  sources       intake                     store             dispatch (a lane for each destination)
//!
//!  poll ────┐                             ┌────────┐                                        ┌─► Slack
//!           ├─► normalise ─► route ──────►│ SQLite │─► claim ─► pace ─► render ─► send ─────┼─► Teams
//!  webhook ─┘   (one transaction)         └────────┘◄─ settle: delivered │ again │ dead     └─► mail, webhook
//!     ▲── acknowledged after the commit ──────┘
//! ```
//!
//! | noun | what it is |
//! |---|---|
//! | event | one thing that happened: id, key, subject, target, fields |
//! | source | where events come from: a polled API, a webhook |
//! | rule | matches events by key glob and conditions, names destinations |
//! | destination | one Slack or Teams channel, list of mailboxes, or URL |
//! | delivery | one event owed to one destination |
//! | message | what a channel is asked to show for a delivery |
//! | attempt | one try to send a message, with an outcome |
//! | dead letter | a delivery given up, kept, re-sendable |
//!
//! The modules below are in reading order, lowest layer first; imports point down only (`tests/layers.rs` keeps that).
//! `docs/ARCHITECTURE.md` walks one event through them.

pub mod model;

pub mod backoff;
pub mod catalogue;
pub mod clock;
pub mod preset;
pub mod serve;
pub mod telemetry;

pub mod deliver;
pub mod rate;
pub mod render;
pub mod routing;
pub mod store;

pub mod admin;
pub mod dispatch;
pub mod intake;

pub mod source;

pub mod config;

pub mod app;
pub mod demo;

pub mod cli;
