//! `halo-relay log`: what came, and what became of it.

use clap::Args;

use super::place::Since;
use super::{Common, Failure, exit, output};
use crate::clock::Clock;
use crate::model::delivery::State;
use crate::model::key::KeyPatterns;
use crate::store::{LogFilter, LogRow, SUPPRESSED};

#[derive(Debug, Args)]
pub struct Log {
    /// Received since then: 24h, 7d, or 2026-11-23T09:41:00Z
    #[arg(long, value_name = "WHEN", default_value = "24h")]
    since: Since,
    /// Only what is owed to this destination, or sent by it
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Only what this rule sends or drops
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Only events with a key like this
    #[arg(long, value_name = "GLOB")]
    key: Option<String>,
    /// Only this event, whenever it was received
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Only what is in this state: ready, sending, delivered, dead, dropped, folded, held, or suppressed by a rule
    #[arg(long, value_parser = a_state)]
    state: Option<String>,
    /// At most so many lines
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Log {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        let key = match self.key.as_deref().map(|key| KeyPatterns::parse(&[key])).transpose() {
            Ok(key) => key,
            Err(error) => return Err(Failure::new(exit::USAGE, format!("--key: {error}"))),
        };
        let reader = common.reader()?;
        if let Some(id) = &self.event
            && reader.event(id)?.is_none()
        {
            return Err(super::explain::unknown(&reader, id)?);
        }
        let most = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let rows = reader.log(&LogFilter {
            since: Some(self.since.before(Clock::start().now())),
            destination: self.destination,
            rule: self.rule,
            key,
            event: self.event,
            state: self.state,
            most,
        })?;
        if self.json {
            return output::say_json(&rows);
        }
        if rows.is_empty() {
            return output::say("nothing that matches; look further back with --since");
        }
        let more = if rows.len() == most { "there may be more; raise --limit\n" } else { "" };
        output::say(&format!("{}{more}", text(&rows)))
    }
}

fn text(rows: &[LogRow]) -> String {
    let cells = rows.iter().map(|row| {
        let or_dash = |value: &Option<String>| output::tame(value.as_deref().unwrap_or("-"));
        vec![
            row.received_at.clone(),
            match row.kind.as_str() {
                "event" => or_dash(&row.event_key),
                "notice" => "notice of the relay".to_owned(),
                _ => format!("digest of {}", row.events),
            },
            or_dash(&row.target),
            match (&row.destination, &row.via) {
                (Some(owed), Some(via)) => format!("{owed} via {via}"),
                (owed, _) => or_dash(owed),
            },
            or_dash(&row.rule),
            state(row),
            row.attempts.to_string(),
            or_dash(&row.code),
        ]
    });
    output::table(&["received", "event", "target", "destination", "rule", "state", "attempts", "code"], cells)
}

fn state(row: &LogRow) -> String {
    match (&row.digest, &row.digest_state, &row.reason) {
        (Some(digest), Some(state), _) => format!("folded into {digest}, {state}"),
        (_, _, Some(reason)) if row.state == SUPPRESSED => format!("{SUPPRESSED}: {}", output::tame(reason)),
        _ => row.state.clone(),
    }
}

fn a_state(text: &str) -> Result<String, String> {
    let known = State::ALL.map(State::name);
    if text == SUPPRESSED || known.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("there are {} and {SUPPRESSED}", known.join(", ")))
}
