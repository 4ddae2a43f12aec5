//! `halo-relay status`: what the relay is doing, or what it left when it stopped.

use std::collections::BTreeMap;

use clap::Args;

use super::control::Relay;
use super::{Common, Failure, exit, output, small_runtime};
use crate::admin;
use crate::config::count;
use crate::store::DestinationCounts;

#[derive(Debug, Args)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        small_runtime()?.block_on(async {
            match Relay::find(common)? {
                Relay::Running(relay) => {
                    let status: Option<admin::Status> = relay.get("/api/v1/status").await?;
                    let status = status.ok_or_else(|| Failure::new(exit::UNREACHABLE, "the relay has no status"))?;
                    if self.json { output::say_json(&status) } else { output::say(&running(&status)) }
                }
                Relay::Stopped(store) => {
                    let counts = admin::deliveries(&store).await?;
                    store.close().await;
                    if self.json {
                        return output::say_json(&serde_json::json!({ "running": false, "deliveries": counts }));
                    }
                    let told = "no relay is running with this state directory; this is what it left\n\n";
                    output::say(&format!("{told}{}", destinations(&counts, &BTreeMap::new())))
                }
            }
        })
    }
}

fn running(status: &admin::Status) -> String {
    let config = &status.view.config;
    let mut text = format!(
        "halo-relay {}, process {}, up since {}{}\n{} from {} (revision {})\n",
        status.version,
        status.pid,
        status.started_at,
        if status.ready { "" } else { ", NOT READY" },
        count(config.rules, "rule"),
        config.path,
        config.revision,
    );
    if let Some(refused) = &config.reload_refused {
        text.push_str(&format!("\nthe last reload was refused, these rules are older than the file:\n{refused}\n"));
    }
    let rows = status.view.sources.iter().map(|source| {
        let mark = if source.healthy { "ok" } else { "FAILING" };
        vec![source.name.clone(), source.kind.clone(), mark.to_owned(), source.standing.clone()]
    });
    text.push_str(&format!("\n{}", output::table(&["source", "type", "state", ""], rows)));
    let kinds: BTreeMap<_, _> =
        status.view.destinations.iter().map(|known| (known.name.as_str(), known.channel.as_str())).collect();
    text.push_str(&format!("\n{}", destinations(&status.deliveries, &kinds)));
    text
}

/// `kinds` names the destinations of the rules in force; one that still has deliveries and is not among them is told.
fn destinations(counts: &[DestinationCounts], kinds: &BTreeMap<&str, &str>) -> String {
    let rows = counts.iter().map(|counts| {
        let owed = counts.ready + counts.sending;
        let kind = match kinds.get(counts.name.as_str()) {
            Some(kind) => (*kind).to_owned(),
            None if kinds.is_empty() => "-".to_owned(),
            None if owed > 0 => "NOT IN RULES, waits".to_owned(),
            None => "not in rules".to_owned(),
        };
        vec![
            counts.name.clone(),
            kind,
            owed.to_string(),
            counts.delivered.to_string(),
            counts.dead.to_string(),
            counts.dropped.to_string(),
            counts.oldest_owed_at.clone().unwrap_or_else(|| "-".to_owned()),
            output::tame(counts.waits_because.as_deref().unwrap_or("")),
        ]
    });
    let head = ["destination", "type", "owed", "delivered", "dead", "dropped", "oldest owed since", "waits because"];
    output::table(&head, rows)
}
