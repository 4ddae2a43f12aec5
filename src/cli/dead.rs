//! `halo-relay dead`: deliveries that were given up. They are kept until an operator sends them again or lets them go.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::control::Relay;
use super::{Common, Failure, exit, explain, output, small_runtime};
use crate::admin::{self, Changed, DropRequest};
use crate::clock::Clock;
use crate::model::delivery::{Code, State};
use crate::model::key::KeyPatterns;
use crate::store::{DeadFilter, Reader};

#[derive(Debug, Args)]
pub struct Dead {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// List dead letters
    List {
        #[command(flatten)]
        which: Which,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one delivery: its event, and every attempt
    Show {
        /// The code at the foot of a message or from the list, or the id of an event
        #[arg(value_name = "CODE|ID")]
        which: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send again
    Retry {
        #[command(flatten)]
        picked: Picked,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let go, with a reason that is kept
    Drop {
        #[command(flatten)]
        picked: Picked,
        /// Why they need not be sent
        #[arg(long, value_parser = a_reason)]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// Only this destination
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Only this rule
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Only events with a key like this
    #[arg(long, value_name = "GLOB")]
    key: Option<String>,
    /// Only those given up so long ago, or longer
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
}

#[derive(Debug, Args)]
struct Picked {
    /// Codes of single deliveries, or ids of events
    #[arg(value_name = "CODE|ID")]
    codes: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// All that match; needed when no code is given
    #[arg(long)]
    all: bool,
}

impl Dead {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        match self.act {
            Act::List { which, json } => list(common, which, json),
            Act::Show { which, json } => explain::show(&common.reader()?, &which, json),
            Act::Retry { picked, json } => {
                let changed = small_runtime()?.block_on(retry(common, picked.filter(common)?))?;
                tell("will be sent again", &changed, json)
            }
            Act::Drop { picked, reason, json } => {
                let changed = small_runtime()?.block_on(drop_dead(common, picked.filter(common)?, reason))?;
                tell("dropped", &changed, json)
            }
        }
    }
}

fn list(common: &Common, which: Which, json: bool) -> Result<(), Failure> {
    let filter = which.filter(Vec::new())?;
    let rows = common.reader()?.dead(&filter, admin::DEAD_LISTED_MAX)?;
    if json {
        return output::say_json(&rows);
    }
    if rows.is_empty() {
        return output::say("no dead letters");
    }
    let cells = rows.iter().map(|row| {
        vec![
            row.code.clone(),
            row.destination.clone(),
            row.severity.clone(),
            explain::event_name(row),
            output::tame(row.target.as_deref().unwrap_or("-")),
            row.received_at.clone(),
            row.ended_at.clone().unwrap_or_else(|| "-".to_owned()),
            output::tame(row.reason.as_deref().unwrap_or("-")),
        ]
    });
    let head = ["code", "destination", "severity", "event", "target", "received", "given up", "why"];
    let more = if rows.len() == admin::DEAD_LISTED_MAX { "only the oldest are listed\n" } else { "" };
    output::say(&format!("{}{more}", output::table(&head, cells)))
}

async fn retry(common: &Common, filter: DeadFilter) -> Result<Changed, Failure> {
    match Relay::find(common)? {
        Relay::Running(relay) => relay.post("/api/v1/dead/retry", &filter).await,
        Relay::Stopped(store) => {
            let codes = store.retry_dead(filter, Clock::start().now()).await?;
            store.close().await;
            Ok(Changed { codes })
        }
    }
}

async fn drop_dead(common: &Common, filter: DeadFilter, reason: String) -> Result<Changed, Failure> {
    match Relay::find(common)? {
        Relay::Running(relay) => relay.post("/api/v1/dead/drop", &DropRequest { filter, reason }).await,
        Relay::Stopped(store) => {
            let codes = store.drop_dead(filter, reason, Clock::start().now()).await?;
            store.close().await;
            Ok(Changed { codes })
        }
    }
}

fn tell(what: &str, changed: &Changed, json: bool) -> Result<(), Failure> {
    let codes = &changed.codes;
    if json {
        output::say_json(changed)?;
    }
    if codes.is_empty() {
        return Err(Failure::new(exit::FINDINGS, "no dead letter matches; see `halo-relay dead list`"));
    }
    if json { Ok(()) } else { output::say(&format!("{} {what}: {}", codes.len(), codes.join(" "))) }
}

fn a_reason(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.is_empty() { Err("say why, for whoever asks later") } else { Ok(text.to_owned()) }
}

impl Which {
    fn filter(self, codes: Vec<String>) -> Result<DeadFilter, Failure> {
        let Self { destination, rule, key, older_than } = self;
        if let Some(Err(error)) = key.as_deref().map(|key| KeyPatterns::parse(&[key])) {
            return Err(Failure::new(exit::USAGE, format!("--key: {error}")));
        }
        let before = older_than.map(|age| Clock::start().now().minus(age));
        Ok(DeadFilter { codes, destination, rule, key, before })
    }
}

impl Picked {
    /// Without a code or `--all` nothing is meant: acting on everything must be said.
    fn filter(self, common: &Common) -> Result<DeadFilter, Failure> {
        if self.codes.is_empty() && !self.all {
            return Err(Failure::new(
                exit::USAGE,
                "name codes or event ids, or say --all (with --destination, --rule, --key or --older-than to narrow it)",
            ));
        }
        let mut codes = Vec::new();
        if !self.codes.is_empty() {
            let reader = common.reader()?;
            for named in &self.codes {
                codes.extend(dead_of(&reader, named)?);
            }
        }
        self.which.filter(codes)
    }
}

/// The codes that a code or an event's id stands for.
fn dead_of(reader: &Reader, named: &str) -> Result<Vec<String>, Failure> {
    if let Some(event) = reader.event(named)? {
        let dead = event.deliveries.iter().map(|(row, _)| row).filter(|row| row.state == State::Dead.name());
        let codes: Vec<_> = dead.map(|row| row.code.clone()).collect();
        let what = format!("event {named} has no dead letter; see `halo-relay explain {named}`");
        return if codes.is_empty() { Err(Failure::new(exit::FINDINGS, what)) } else { Ok(codes) };
    }
    match Code::parse(named) {
        Some(code) => Ok(vec![code.to_string()]),
        None => Err(Failure::new(
            exit::USAGE,
            format!("{named:?} is neither a code nor the id of an event in this store; codes look like 7F3K"),
        )),
    }
}
