//! The command line: what each command takes, and the one place where its end becomes an exit code.

mod browser;
mod control;
mod left;
mod output;
mod place;

pub mod audit;
pub mod check;
pub mod dead;
pub mod demo;
pub mod explain;
pub mod log;
pub mod render;
pub mod run;
pub mod send_test;
pub mod status;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::app::AppError;
use crate::config::{Problems, Style};
use crate::store::StoreError;
use crate::telemetry::LogFormat;

/// What the process exits with. The systemd unit tells them apart.
pub mod exit {
    pub const GOOD: u8 = 0;
    /// Findings, or an expectation that failed.
    pub const FINDINGS: u8 = 1;
    /// The command line itself; clap exits with it.
    pub const USAGE: u8 = 2;
    /// The configuration.
    pub const CONFIG: u8 = 3;
    /// What was asked for cannot be reached: an address, a relay, a destination.
    pub const UNREACHABLE: u8 = 4;
}

/// Relays Halo Security events to Slack, Microsoft Teams, email and webhooks
#[derive(Debug, Parser)]
#[command(name = "halo-relay", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
#[expect(clippy::doc_markdown, reason = "these comments are the help text, which is no Markdown")]
pub struct Common {
    /// The rules file
    #[arg(
        short,
        long,
        global = true,
        env = "HALO_RELAY_CONFIG",
        value_name = "FILE",
        default_value = "/etc/halo-relay/rules.yaml"
    )]
    pub config: PathBuf,
    /// Where the relay keeps its store [default: $STATE_DIRECTORY, else $XDG_STATE_HOME/halo-relay, else
    /// ~/.local/state/halo-relay]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// How log lines look
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, or a filter like halo_relay::dispatch=debug [default: info]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the relay
    Run(run::Run),
    /// Run the relay on made-up events and show every message on a local page
    ///
    /// It runs the example rules that come with the relay, whatever --config says, keeps nothing, and needs neither secrets
    /// nor a network. Ctrl-C ends it.
    Demo(demo::Demo),
    /// Check a rules file: everything `run` checks, none of its effects
    Check(check::Check),
    /// Tell which rules match an event and why the others do not, and what became of an event or a message
    Explain(explain::Explain),
    /// Print the exact payload that a destination would get
    Render(render::Render),
    /// Send a marked test message through a real destination
    SendTest(send_test::SendTest),
    /// Show what the relay is doing, or what it left when it stopped
    Status(status::Status),
    /// Show what came and what became of it, newest first
    Log(log::Log),
    /// Look after deliveries that were given up
    Dead(dead::Dead),
    /// Prove that every event is accounted for, and name those that are not
    Audit(audit::Audit),
}

/// Why a command ends with another code than 0. An empty message means that everything has been said.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::new(exit::CONFIG, problems.render(Style::of(&std::io::stderr())))
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        match error {
            AppError::Config(problems) => problems.into(),
            AppError::Store(error) => error.into(),
            AppError::Listen { .. } => Self::new(exit::UNREACHABLE, error.to_string()),
            AppError::Destination { .. } | AppError::Source { .. } => Self::new(exit::CONFIG, error.to_string()),
            other => Self::new(exit::FINDINGS, other.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Open { .. } => {
                let next = "give a state directory that this user may write, with --state-dir";
                Self::new(exit::UNREACHABLE, format!("{error}; {next}"))
            }
            StoreError::Locked { .. }
            | StoreError::Absent(_)
            | StoreError::Network { .. }
            | StoreError::NewerSchema { .. }
            | StoreError::OlderSchema { .. } => Self::new(exit::UNREACHABLE, error.to_string()),
            _ => Self::new(exit::FINDINGS, error.to_string()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(exit::FINDINGS, format!("{error:#}"))
    }
}

/// Runs the command; says on stderr what went wrong.
pub fn run(cli: Cli) -> ExitCode {
    let Cli { common, command } = cli;
    let ended = match command {
        Command::Run(run) => run.run(&common),
        Command::Demo(demo) => demo.run(&common),
        Command::Check(check) => check.run(&common),
        Command::Explain(explain) => explain.run(&common),
        Command::Render(render) => render.run(&common),
        Command::SendTest(send_test) => send_test.run(&common),
        Command::Status(status) => status.run(&common),
        Command::Log(log) => log.run(&common),
        Command::Dead(dead) => dead.run(&common),
        Command::Audit(audit) => audit.run(&common),
    };
    match ended {
        Ok(()) => ExitCode::from(exit::GOOD),
        Err(failure) => {
            output::complain(&failure);
            ExitCode::from(failure.code)
        }
    }
}

/// A runtime for commands that wait for a few answers.
fn small_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FINDINGS, format!("failed to start the async runtime: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
