//! What a dry run leaves when it ends: batches that still gather, and what waits for its turn. Nothing of it will ever be
//! printed, since the store goes with the run.

use std::path::Path;

use super::output;
use crate::model::Timestamp;
use crate::model::delivery::Code;
use crate::routing::RuleSet;
use crate::store::{LogFilter, Reader, StoreError};

/// Batches named; more are counted.
const BATCHES_MAX: usize = 100;
/// Events named of each batch.
const EVENTS_MAX: usize = 3;

/// In words, empty if nothing is left. `rules` say how long each batch gathers.
pub(super) fn tell(state_dir: &Path, rules: &RuleSet) -> Result<String, StoreError> {
    let reader = Reader::open(state_dir)?;
    let held = LogFilter { state: Some("held".to_owned()), most: BATCHES_MAX, ..LogFilter::default() };
    let mut rows = Vec::new();
    for batch in reader.log(&held)?.into_iter().rev() {
        let Some(code) = batch.code.as_deref().and_then(Code::parse) else { continue };
        let members = reader.members(code, EVENTS_MAX)?;
        let named = members.iter().map(|member| {
            let key = member.event_key.as_deref().unwrap_or("event");
            member.target.as_deref().map_or_else(|| key.to_owned(), |target| format!("{key} of {target}"))
        });
        let mut events = named.collect::<Vec<_>>().join(", ");
        let more = batch.events.saturating_sub(members.len() as u64);
        if more > 0 {
            events.push_str(&format!(" and {more} more"));
        }
        let rule = batch.rule.unwrap_or_default();
        let wait = rules.rule(&rule).and_then(|rule| rule.batch.as_ref()).map(|batch| batch.wait);
        let due = wait.and_then(|wait| Some(Timestamp::from_api(&batch.received_at)?.plus(wait)));
        rows.push(vec![
            due.map_or_else(|| "-".to_owned(), |due| due.to_string()),
            batch.destination.unwrap_or_default(),
            rule,
            batch.events.to_string(),
            output::tame(&events),
        ]);
    }
    let counts = reader.counts()?;
    let mut text = String::new();
    let all: u64 = counts.iter().map(|counts| counts.held).sum();
    if all > 0 {
        text.push_str("--- not sent yet: batches that still gather; a shorter `wait` shows them sooner\n");
        text.push_str(&output::table(&["would go out", "destination", "rule", "events", "which"], rows));
        match all.saturating_sub(BATCHES_MAX as u64) {
            0 => {}
            more => text.push_str(&format!("and {more} more batches\n")),
        }
    }
    let waiting = counts.iter().filter(|counts| counts.ready + counts.sending > 0);
    let waiting: Vec<_> =
        waiting.map(|counts| format!("{} at {}", counts.ready + counts.sending, counts.name)).collect();
    if !waiting.is_empty() {
        text.push_str(&format!("--- not sent yet: messages that wait for the limits: {}\n", waiting.join(", ")));
    }
    Ok(text)
}
