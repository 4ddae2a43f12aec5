//! Stories: the real binary, started on a rules file, between strict fake servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and tell")]

#[path = "../support/event_api.rs"]
mod event_api;
#[path = "../support/http.rs"]
mod http;
#[path = "../support/smtp.rs"]
mod smtp;

mod support;

mod channels;
mod crash;
mod dead;
mod demo;
mod fallback;
mod ledger;
mod limits;
mod operators;
mod outage;
mod plain;
mod polling;
mod reload;
mod retry;
mod secrecy;
mod service;
mod sickness;
mod storm;
mod threads;
mod webhook_input;
