//! `halo-relay dead`: deliveries that were given up. They are kept until an operator sends them again or lets them go.

use clap::{Args, Subcommand};

use super::control::Relay;
use super::{Common, Failure, exit, output, small_runtime};
use crate::admin::{self, Changed, DeliveryDetail, DropRequest};
use crate::clock::Clock;
use crate::model::delivery::Code;
use crate::store::{DeadFilter, DeliveryRow};

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
        /// The code at the foot of a message, or from the list
        code: String,
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
    /// Only this event key
    #[arg(long)]
    key: Option<String>,
}

#[derive(Debug, Args)]
struct Picked {
    /// Codes of single deliveries
    codes: Vec<String>,
    #[command(flatten)]
    which: Which,
    /// All that match; needed when no code is given
    #[arg(long)]
    all: bool,
}

impl Dead {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        small_runtime()?.block_on(async {
            match self.act {
                Act::List { which, json } => list(common, which, json).await,
                Act::Show { code, json } => show(common, &code, json).await,
                Act::Retry { picked, json } => {
                    tell("will be sent again", &retry(common, picked.filter()?).await?, json)
                }
                Act::Drop { picked, reason, json } => {
                    tell("dropped", &drop_dead(common, picked.filter()?, reason).await?, json)
                }
            }
        })
    }
}

async fn list(common: &Common, which: Which, json: bool) -> Result<(), Failure> {
    let rows: Vec<DeliveryRow> = match Relay::find(common)? {
        Relay::Running(relay) => {
            let path = format!("/api/v1/dead{}", which.query());
            relay.get(&path).await?.unwrap_or_default()
        }
        Relay::Stopped(store) => store.dead(which.filter(Vec::new()), admin::DEAD_LISTED_MAX).await?,
    };
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
            output::tame(&row.event_key),
            output::tame(row.target.as_deref().unwrap_or("-")),
            row.received_at.clone(),
            output::tame(row.reason.as_deref().unwrap_or("-")),
        ]
    });
    let head = ["code", "destination", "severity", "event", "target", "received", "why"];
    let more = if rows.len() == admin::DEAD_LISTED_MAX { "only the oldest are listed\n" } else { "" };
    output::say(&format!("{}{more}", output::table(&head, cells)))
}

async fn show(common: &Common, code: &str, json: bool) -> Result<(), Failure> {
    let detail = find(common, code).await?;
    if json { output::say_json(&detail) } else { output::say(&describe(&detail)) }
}

/// One delivery in full, whatever its state.
pub(super) async fn find(common: &Common, code: &str) -> Result<DeliveryDetail, Failure> {
    let parsed = Code::parse(code)
        .ok_or_else(|| Failure::new(exit::USAGE, format!("{code:?} is not a code; codes look like 7F3K")))?;
    let detail = match Relay::find(common)? {
        Relay::Running(relay) => relay.get(&format!("/api/v1/deliveries/{parsed}")).await?,
        Relay::Stopped(store) => admin::delivery_detail(&store, parsed).await?,
    };
    detail.ok_or_else(|| Failure::new(exit::UNREACHABLE, format!("there is no delivery {parsed} in this store")))
}

pub(super) fn describe(detail: &DeliveryDetail) -> String {
    let DeliveryDetail { delivery, attempts, event } = detail;
    let mut text = format!(
        "{} to {} · {} · rule {} · {}\nevent {} ({}), received {}\n",
        delivery.code,
        delivery.destination,
        delivery.state,
        delivery.rule,
        delivery.severity,
        output::tame(&delivery.event_id),
        output::tame(&delivery.event_key),
        delivery.received_at,
    );
    if let Some(reason) = &delivery.reason {
        text.push_str(&format!("reason: {}\n", output::tame(reason)));
    }
    if delivery.state == "dead" {
        let code = &delivery.code;
        text.push_str(&format!(
            "next: mend the cause, then `halo-relay dead retry {code}`; or `halo-relay dead drop {code} --reason …`\n"
        ));
    }
    let rows = attempts.iter().map(|attempt| {
        vec![
            attempt.number.to_string(),
            attempt.started_at.clone(),
            attempt.outcome.clone().unwrap_or_else(|| "under way".to_owned()),
            attempt.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
            output::tame(attempt.detail.as_deref().unwrap_or("-")),
        ]
    });
    if attempts.is_empty() {
        text.push_str("\nnot attempted yet\n");
    } else {
        text.push_str(&format!("\n{}", output::table(&["attempt", "started", "outcome", "status", "detail"], rows)));
    }
    // `serde_json` escapes control characters; what remains invisible is tamed line by line.
    let event = serde_json::to_string_pretty(event).unwrap_or_default();
    text.push('\n');
    for line in event.lines() {
        text.push_str(&output::tame(line));
        text.push('\n');
    }
    text
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
    fn filter(self, codes: Vec<String>) -> DeadFilter {
        DeadFilter { codes, destination: self.destination, rule: self.rule, key: self.key }
    }

    fn query(&self) -> String {
        let named = [("destination", &self.destination), ("rule", &self.rule), ("key", &self.key)];
        let given: Vec<_> = named.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?))).collect();
        let Ok(url) = reqwest::Url::parse_with_params("http://localhost/", given) else { return String::new() };
        url.query().map(|query| format!("?{query}")).unwrap_or_default()
    }
}

impl Picked {
    /// Without a code or `--all` nothing is meant: acting on everything must be said.
    fn filter(self) -> Result<DeadFilter, Failure> {
        if self.codes.is_empty() && !self.all {
            return Err(Failure::new(
                exit::USAGE,
                "name codes, or say --all (with --destination, --rule or --key to narrow it)",
            ));
        }
        if let Some(code) = self.codes.iter().find(|code| Code::parse(code).is_none()) {
            return Err(Failure::new(exit::USAGE, format!("{code:?} is not a code; codes look like 7F3K")));
        }
        Ok(self.which.filter(self.codes))
    }
}
