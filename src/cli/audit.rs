//! `halo-relay audit`: proof that every event is accounted for. It only reads, whether or not a relay runs.

use std::collections::BTreeMap;

use clap::Args;

use super::place::Since;
use super::{Common, Failure, exit, output};
use crate::clock::Clock;
use crate::config::count;
use crate::model::delivery::State;
use crate::store::{self, Finding, Scope};

#[derive(Debug, Args)]
pub struct Audit {
    /// Check the rows of events received since then (7d, or 2026-11-23T09:41:00Z); sums are whole in any case
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        let reader = common.reader()?;
        let since = self.since.map(|since| since.before(Clock::start().now()));
        let audit = reader.audit(&Scope { since, ..Scope::default() })?;
        if self.json {
            output::say_json(&audit)?;
        } else {
            output::say(&text(&audit, since.is_some()))?;
        }
        if audit.imbalance == 0 {
            return Ok(());
        }
        let found = if audit.imbalance == 1 { "finding" } else { "findings" };
        Err(Failure::new(exit::FINDINGS, format!("the store does not balance: {} {found}", audit.imbalance)))
    }
}

fn text(audit: &store::Audit, partly: bool) -> String {
    let mut head = vec!["destination"];
    head.extend(State::ALL.map(State::name));
    head.extend(["let go", "sum"]);
    let mut all: BTreeMap<&str, i64> = BTreeMap::new();
    let mut rows = Vec::new();
    for sums in &audit.destinations {
        let of = |name: &str| match name {
            "let go" => sums.pruned,
            "sum" => sums.states.values().sum::<i64>() + sums.pruned,
            state => sums.states.get(state).copied().unwrap_or(0),
        };
        let mut row = vec![output::tame(&sums.destination)];
        for name in &head[1..] {
            *all.entry(name).or_default() += of(name);
            row.push(of(name).to_string());
        }
        rows.push(row);
    }
    if rows.len() > 1 {
        let sums = head[1..].iter().map(|name| all.get(name).copied().unwrap_or(0).to_string());
        rows.push(std::iter::once("all".to_owned()).chain(sums).collect());
    }
    let mut text = output::table(&head, rows);
    if audit.interrupted > 0 {
        text.push_str(&format!(
            "\n{} under way when the relay ended; the next start takes them up, marked as possibly sent\n",
            deliveries(audit.interrupted)
        ));
    }
    text.push('\n');
    if audit.imbalance == 0 {
        text.push_str(&format!("balanced: {}, {}", events(audit.events), deliveries(audit.deliveries)));
        if partly {
            let (some, their) = (events(audit.events_checked), deliveries(audit.deliveries_checked));
            text.push_str(&format!(" (row by row: {some}, {their})"));
        }
        text.push('\n');
        return text;
    }
    for finding in &audit.findings {
        text.push_str(&said(finding));
    }
    let more = audit.imbalance - audit.findings.len() as u64;
    if more > 0 {
        text.push_str(&format!("and {more} more\n"));
    }
    text
}

fn said(finding: &Finding) -> String {
    let Finding { event, code, destination, what, next, .. } = finding;
    let mut subject = Vec::new();
    subject.extend(event.as_deref().map(|id| format!("event {}", output::tame(id))));
    subject.extend(code.as_deref().map(|code| format!("delivery {code}")));
    subject.extend(destination.as_deref().map(|name| format!("to {}", output::tame(name))));
    let subject = if subject.is_empty() { "the store".to_owned() } else { subject.join(", ") };
    format!("{subject}: {}\n  next: {next}\n", output::tame(what))
}

fn events(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "event")
}

fn deliveries(number: u64) -> String {
    if number == 1 { "1 delivery".to_owned() } else { format!("{number} deliveries") }
}
