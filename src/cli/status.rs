//! `halo-relay status`: what the relay is doing, or what it left when it stopped.

use std::collections::BTreeMap;

use clap::Args;

use super::control::Running;
use super::{Common, Failure, exit, output, small_runtime};
use crate::admin::{self, DestinationView};
use crate::clock::Clock;
use crate::config::count;
use crate::model::{Condition, Timestamp};
use crate::store::DestinationCounts;

#[derive(Debug, Args)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        let now = Clock::start().now();
        if let Some(relay) = Running::find(common)? {
            let status: Option<admin::Status> = small_runtime()?.block_on(relay.get("/api/v1/status"))?;
            let status = status.ok_or_else(|| Failure::new(exit::UNREACHABLE, "the relay has no status"))?;
            return if self.json { output::say_json(&status) } else { output::say(&running(&status, now)) };
        }
        let counts = common.reader()?.counts()?;
        if self.json {
            return output::say_json(&serde_json::json!({ "running": false, "deliveries": counts }));
        }
        let told = "no relay is running with this state directory; this is what it left\n\n";
        output::say(&format!("{told}{}", destinations(&counts, None, now)))
    }
}

fn running(status: &admin::Status, now: Timestamp) -> String {
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
    if status.disk_full {
        text.push_str("\nTHE DISK IS FULL: no events are taken in and no messages start until there is room again\n");
    }
    if let Some(damage) = &status.store_damage {
        text.push_str(&format!("\nTHE STORE IS DAMAGED, the log says what to do: {damage}\n"));
    }
    if let Some(refused) = &config.reload_refused {
        text.push_str(&format!("\nthe last reload was refused, these rules are older than the file:\n{refused}\n"));
    }
    let rows = status.view.sources.iter().map(|source| {
        let mark = if source.healthy { "ok" } else { "FAILING" };
        vec![source.name.clone(), source.kind.clone(), mark.to_owned(), source.standing.clone()]
    });
    text.push_str(&format!("\n{}", output::table(&["source", "type", "state", ""], rows)));
    text.push_str(&format!("\n{}", destinations(&status.deliveries, Some(&status.view.destinations), now)));
    text
}

/// `known` are the destinations of the rules in force; one that still has deliveries and is not among them is told.
fn destinations(counts: &[DestinationCounts], known: Option<&[DestinationView]>, now: Timestamp) -> String {
    let view = |name: &str| known.and_then(|known| known.iter().find(|view| view.name == name));
    let rows = counts.iter().map(|counts| {
        let for_others: u64 = counts.sends_for.values().sum();
        let owed = counts.ready + counts.sending + counts.held + for_others;
        let kind = match (known, view(&counts.name)) {
            (_, Some(view)) => view.channel.clone(),
            (None, _) => "-".to_owned(),
            (Some(_), None) if owed > 0 => "NOT IN RULES, waits".to_owned(),
            (Some(_), None) => "not in rules".to_owned(),
        };
        vec![
            counts.name.clone(),
            kind,
            condition(counts).to_owned(),
            (counts.ready + counts.sending).to_string(),
            for_others.to_string(),
            counts.held.to_string(),
            counts.folded.to_string(),
            counts.delivered.to_string(),
            counts.dead.to_string(),
            counts.dropped.to_string(),
            counts.oldest_owed_at.clone().unwrap_or_else(|| "-".to_owned()),
            output::tame(counts.waits_because.as_deref().unwrap_or("")),
        ]
    });
    let head = [
        "destination",
        "type",
        "state",
        "owed",
        "for others",
        "held",
        "folded",
        "delivered",
        "dead",
        "dropped",
        "oldest owed since",
        "waits because",
    ];
    let mut text = output::table(&head, rows);
    let mut gap = "\n";
    for counts in counts {
        let mut notes = troubles(counts, now);
        notes.extend(view(&counts.name).into_iter().flat_map(settings));
        if !notes.is_empty() {
            text.push_str(&format!("{gap}{}: {}\n", counts.name, notes.join("; ")));
            gap = "";
        }
    }
    text
}

fn condition(counts: &DestinationCounts) -> &'static str {
    match counts.health.condition {
        Condition::Taking => "taking",
        Condition::Failing => "FAILING",
        Condition::Refusing => "REFUSING",
    }
}

/// What keeps messages from leaving.
fn troubles(counts: &DestinationCounts, now: Timestamp) -> Vec<String> {
    let mut told = Vec::new();
    let health = &counts.health;
    if health.condition != Condition::Taking {
        let since = health.since.map(|since| format!(" since {since}")).unwrap_or_default();
        let because = health.reason.as_deref().map(|why| format!(" because {}", output::tame(why))).unwrap_or_default();
        let next = if health.probe_at > now {
            format!("next try at {}", health.probe_at)
        } else if counts.ready + counts.sending == 0 {
            "the next event for it is the next try".to_owned()
        } else {
            "next try is due".to_owned()
        };
        told.push(format!("{}{since}{because}, {next}", health.condition.name()));
        if health.condition == Condition::Refusing {
            told.push("mend it and reload, which tries at once".to_owned());
        }
    }
    if !counts.sent_by.is_empty() {
        told.push(format!("of what it is owed, {}", by_name(&counts.sent_by, "wait at")));
    }
    if !counts.sends_for.is_empty() {
        told.push(format!("sends {} beside its own", by_name(&counts.sends_for, "for")));
    }
    if let Some(until) = counts.hold_until.filter(|until| *until > now) {
        told.push(format!("it asked for a pause until {until}"));
    }
    if counts.pruned > 0 {
        told.push(format!("{} let go after their time", counts.pruned));
    }
    told
}

/// `12 for chat, 3 for team`
fn by_name(numbers: &BTreeMap<String, u64>, word: &str) -> String {
    numbers.iter().map(|(name, number)| format!("{number} {word} {name}")).collect::<Vec<_>>().join(", ")
}

/// What the rules say of it.
fn settings(view: &DestinationView) -> Vec<String> {
    let mut told = Vec::new();
    let shared = view.shared_limits.iter().map(|(name, windows)| format!("{name} ({})", windows.join(", ")));
    let limits: Vec<_> = view.limits.iter().cloned().chain(shared).collect();
    if !limits.is_empty() {
        let over = match &view.digest_after {
            Some(after) => format!("over that for {after}, part of a digest"),
            None => "over that, each waits for its turn".to_owned(),
        };
        told.push(format!("limits {}; {over}", limits.join(", ")));
    }
    if let Some(fallback) = &view.fallback {
        told.push(format!("not delivered for {}, sent by {}", fallback.after, fallback.to));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::FallbackView;
    use crate::model::Health;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    #[test]
    fn what_waits_at_a_fallback_is_told_at_both() {
        let numbers = |all: &[(&str, u64)]| all.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect();
        let of = |name: &str| DestinationCounts { name: name.to_owned(), ..DestinationCounts::default() };
        let chat = DestinationCounts { ready: 12, sent_by: numbers(&[("mail", 11)]), ..of("chat") };
        let mail = DestinationCounts { ready: 2, sends_for: numbers(&[("chat", 11), ("team", 3)]), ..of("mail") };
        let said = destinations(&[chat, mail, of("team")], Some(&[]), NOW);
        let cells = |name: &str| {
            let line = said.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(cells("destination")[3..6], ["owed", "for others", "held"]);
        assert_eq!(cells("chat")[1..6], ["NOT IN RULES, waits", "taking", "12", "0", "0"], "{said}");
        assert_eq!(cells("mail")[1..6], ["NOT IN RULES, waits", "taking", "2", "14", "0"], "{said}");
        assert_eq!(cells("team")[1..6], ["not in rules", "taking", "0", "0", "0"], "{said}");
        assert!(said.contains("\nchat: of what it is owed, 11 wait at mail\n"), "{said}");
        assert!(said.contains("\nmail: sends 11 for chat, 3 for team beside its own\n"), "{said}");
    }

    #[test]
    fn a_destination_in_trouble_says_so() {
        let health = Health {
            condition: Condition::Refusing,
            since: Some(NOW),
            reason: Some("no_service".to_owned()),
            probe_at: Timestamp::from_millis(1_700_000_300_000),
            ..Health::default()
        };
        let chat =
            DestinationCounts { name: "chat".to_owned(), ready: 3, held: 1, health, ..DestinationCounts::default() };
        let old = DestinationCounts { name: "old".to_owned(), ready: 1, ..DestinationCounts::default() };
        let view = DestinationView {
            name: "chat".to_owned(),
            channel: "slack".to_owned(),
            limits: vec!["1/1s".to_owned()],
            shared_limits: [("all".to_owned(), vec!["5/1s".to_owned(), "9/1m".to_owned()])].into(),
            over_limit: "digest".to_owned(),
            digest_after: Some("2m".to_owned()),
            fallback: Some(FallbackView { to: "mail".to_owned(), after: "5m".to_owned() }),
        };
        let said = destinations(&[chat.clone(), old], Some(&[view]), NOW);
        for words in [
            "REFUSING",
            "refusing since 2023-11-14T22:13:20Z because no_service, next try at 2023-11-14T22:18:20Z",
            "limits 1/1s, all (5/1s, 9/1m); over that for 2m, part of a digest",
            "not delivered for 5m, sent by mail",
            "NOT IN RULES, waits",
        ] {
            assert!(said.contains(words), "{words:?} is not in\n{said}");
        }
        let said = destinations(&[chat], None, NOW.plus(std::time::Duration::from_hours(1)));
        assert!(said.contains("next try is due") && !said.contains("NOT IN RULES"), "{said}");
    }
}
