//! `halo-relay dead`: deliveries that were given up. They are kept until an operator sends them again or lets them go.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::control::Relay;
use super::{Common, Failure, exit, explain, output, small_runtime};
use crate::admin::{self, DropRequest};
use crate::clock::Clock;
use crate::model::delivery::{Code, State};
use crate::model::key::KeyPatterns;
use crate::store::{Changed, DeadFilter, DeliveryRow, InPart, Reader};

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
    /// Send again; a digest as a whole, even if only some of its events match
    Retry {
        #[command(flatten)]
        picked: Picked,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let go, with a reason that is kept; a digest of which only some events match is left, unless its code is given
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
    /// Only events with a key like this, also those that a digest tells
    #[arg(long, value_name = "GLOB")]
    key: Option<String>,
    /// Only those given up so long ago, or longer
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
}

#[derive(Debug, Args)]
struct Picked {
    /// Codes of deliveries, or ids of events
    #[arg(value_name = "CODE|ID")]
    codes: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// All that match; needed when no code is given
    #[arg(long)]
    all: bool,
}

/// Digests that are named one by one.
const DIGESTS_TOLD: usize = 20;

impl Dead {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        match self.act {
            Act::List { which, json } => list(common, which, json),
            Act::Show { which, json } => explain::show(&common.reader()?, &which, json),
            Act::Retry { picked, json } => {
                let changed = small_runtime()?.block_on(retry(common, picked.filter(common)?))?;
                tell(&changed, "will be sent again", "sent again", json)
            }
            Act::Drop { picked, reason, json } => {
                let changed = small_runtime()?.block_on(drop_dead(common, picked.filter(common)?, reason))?;
                tell(&changed, "dropped", "dropped", json)
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
            named(row),
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
            let changed = store.retry_dead(filter, Clock::start().now()).await?;
            store.close().await;
            Ok(changed)
        }
    }
}

async fn drop_dead(common: &Common, filter: DeadFilter, reason: String) -> Result<Changed, Failure> {
    match Relay::find(common)? {
        Relay::Running(relay) => relay.post("/api/v1/dead/drop", &DropRequest { filter, reason }).await,
        Relay::Stopped(store) => {
            let changed = store.drop_dead(filter, reason, Clock::start().now()).await?;
            store.close().await;
            Ok(changed)
        }
    }
}

/// `digest of 40, 3 match`
fn named(row: &DeliveryRow) -> String {
    let matching = row.matching.map(|matching| format!(", {matching} match")).unwrap_or_default();
    format!("{}{matching}", explain::event_name(row))
}

/// What was not done although it was asked for is a finding.
fn tell(changed: &Changed, will: &str, done: &str, json: bool) -> Result<(), Failure> {
    let Changed { codes, in_part, left } = changed;
    if json {
        output::say_json(changed)?;
    } else if !codes.is_empty() {
        let whole = of_digests(in_part, |InPart { code, events, matching }| {
            format!("{code}: {matching} of its {events} events match; the digest is {done} as a whole")
        });
        output::say(&format!("{} {will}: {}\n{whole}", codes.len(), codes.join(" ")))?;
    }
    if !left.is_empty() {
        let left = of_digests(left, |InPart { code, events, matching }| {
            format!("{code} is left: {matching} of its {events} events match")
        });
        let left =
            format!("{left}a digest goes as a whole: `halo-relay dead drop CODE --reason …` drops all that it tells");
        return Err(Failure::new(exit::FINDINGS, left));
    }
    if codes.is_empty() {
        return Err(Failure::new(exit::FINDINGS, "no dead letter matches; see `halo-relay dead list`"));
    }
    Ok(())
}

/// A line for each of some.
fn of_digests(digests: &[InPart], line: impl Fn(&InPart) -> String) -> String {
    let mut text: String = digests.iter().take(DIGESTS_TOLD).map(|digest| line(digest) + "\n").collect();
    if digests.len() > DIGESTS_TOLD {
        text.push_str(&format!(
            "and {} more digests of which some events match; --json names all\n",
            digests.len() - DIGESTS_TOLD
        ));
    }
    text
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

/// The codes that a code or an event's id stands for: of what is dead, and of what a dead digest tells.
fn dead_of(reader: &Reader, named: &str) -> Result<Vec<String>, Failure> {
    if let Some(event) = reader.event(named)? {
        let dead = State::Dead.name();
        let is_dead = |row: &&DeliveryRow| row.state == dead || row.digest_state.as_deref() == Some(dead);
        let codes: Vec<_> =
            event.deliveries.iter().map(|(row, _)| row).filter(is_dead).map(|row| row.code.clone()).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_digests_are_named_and_the_rest_is_counted() {
        let told = |number: usize| {
            let digest = InPart { code: "7F3K".to_owned(), events: 4, matching: 1 };
            of_digests(&vec![digest; number], |digest| format!("{} {}/{}", digest.code, digest.matching, digest.events))
        };
        assert_eq!(told(0), "");
        assert_eq!(told(2), "7F3K 1/4\n7F3K 1/4\n");
        assert_eq!(told(DIGESTS_TOLD), "7F3K 1/4\n".repeat(DIGESTS_TOLD));
        let many =
            "7F3K 1/4\n".repeat(DIGESTS_TOLD) + "and 2 more digests of which some events match; --json names all\n";
        assert_eq!(told(DIGESTS_TOLD + 2), many);
    }
}
