//! `batch:` of a rule: which of its events share a message.

use std::collections::HashSet;
use std::time::Duration;

use super::Checker;
use crate::catalogue;
use crate::config::file::{Batch as Written, Field, Many, Rule};
use crate::config::problem::{Problem, quoted};
use crate::model::Severity;
use crate::model::key::KeyPatterns;
use crate::routing::Batch;

/// A scan reports what it finds about one target within seconds; longer than this, a reader waits for nothing.
const WAIT: Duration = Duration::from_secs(30);
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Beyond a day, what is gathered is no alert any more.
const WAIT_MAX: Duration = Duration::from_hours(24);
/// More than a message can list, and few enough to render at once.
const MAX: u32 = 50;
/// One event is no batch.
const MAX_MIN: u32 = 2;
const MAX_MOST: u32 = 1000;
/// Each makes the groups smaller; with more, every event is a group of its own.
const BY_MAX: usize = 8;

/// What goes by fields, and the code of its problems.
pub(super) struct By {
    pub(super) what: &'static str,
    pub(super) code: &'static str,
}

/// `website-cert-expired`, `website-cert-expired and 3 more`
fn few(first: &str, others: &[&str]) -> String {
    if others.is_empty() { quoted(first) } else { format!("{} and {} more", quoted(first), others.len()) }
}

impl Checker<'_> {
    /// `severity` is what the rule's events have; `None`: each that of its key, which is one of `keys`.
    pub(super) fn batch(
        &mut self,
        table: &str,
        rule: &Rule,
        severity: Option<Severity>,
        keys: Option<&KeyPatterns>,
    ) -> Option<Batch> {
        let field = rule.batch.as_ref()?;
        let written = &field.value;
        self.strays(&written.strays, "`batch`", Written::FIELDS);
        if let Some(drop) = &rule.drop {
            let problem = Problem::error("misplaced-field", format!("{table} drops, so there is nothing to gather"));
            let problem = problem.related(self.place(drop.key), "it drops here");
            self.report(problem, field.key, "not used here", "remove `batch`, or send instead of dropping");
        }
        let by = written
            .by
            .as_ref()
            .map_or(Some(Vec::new()), |field| self.by(field, &By { what: "a batch", code: "bad-batch" }));
        let wait = written.wait.as_ref().map_or(Some(WAIT), |field| self.duration(field, WAIT_MIN, WAIT_MAX));
        let max = written.max.as_ref().map_or(Some(MAX), |field| self.batch_max(field));
        let batch = Batch { by: by?, wait: wait?, max: max? };
        if rule.drop.is_none() {
            self.critical_batch(table, field, &batch, severity, keys);
        }
        Some(batch)
    }

    /// Warns of a batch that holds critical events back.
    fn critical_batch(
        &mut self,
        table: &str,
        field: &Field<Written>,
        batch: &Batch,
        severity: Option<Severity>,
        keys: Option<&KeyPatterns>,
    ) {
        let wait = humantime::format_duration(batch.wait);
        let critical = |known: &&catalogue::Known| known.severity == Severity::Critical;
        let held = catalogue::all().iter().filter(critical).map(|known| known.key);
        let held: Vec<_> = held.filter(|key| keys.is_none_or(|keys| keys.matches(key))).collect();
        let (title, help) = match (severity, held.as_slice()) {
            (Some(Severity::Critical), _) => (
                format!("{table} is critical, and may wait {wait} for its batch"),
                "remove `batch`, or lower the severity; a critical message is worth sending alone",
            ),
            (None, [first, others @ ..]) => (
                format!(
                    "{table} names no severity: {}, critical by itself, may wait {wait} for its batch",
                    few(first, others)
                ),
                "send such keys by a rule of their own above, with `stop: true`; or name a severity here",
            ),
            _ => return,
        };
        self.report(Problem::warning("critical-batch", title), field.key, "holds critical events back", help);
    }

    /// The names of fields that events must agree in.
    pub(super) fn by(&mut self, field: &Field<Many>, by: &By) -> Option<Vec<String>> {
        let By { what, code } = *by;
        let items = field.value.items(field.at, self.text);
        if items.len() > BY_MAX {
            let problem = Problem::error(code, format!("{what} goes by at most {BY_MAX} fields"));
            self.report(problem, field.key, "too many", "name the few that a reader would sort by, like `target`");
            return None;
        }
        let mut seen = HashSet::new();
        let mut good = true;
        for item in &items {
            let fault = if item.value.trim().is_empty() {
                format!("{what} needs the names of fields")
            } else if !seen.insert(item.value) {
                format!("{what} goes by {} twice", quoted(item.value))
            } else {
                continue;
            };
            let help = "name each field of the event once, like `target` or `details.port`";
            self.report(Problem::error(code, fault), item.at, "not a field to go by", help);
            good = false;
        }
        good.then(|| items.iter().map(|item| item.value.to_owned()).collect())
    }

    fn batch_max(&mut self, field: &Field<String>) -> Option<u32> {
        let max = field.value.trim().parse().ok().filter(|max| (MAX_MIN..=MAX_MOST).contains(max));
        if max.is_none() {
            let problem = Problem::error("bad-batch", format!("{} is not a size of a batch", quoted(&field.value)));
            let help = format!("write a number of events from {MAX_MIN} to {MAX_MOST}; the default is {MAX}");
            self.report(problem, field.at, "not a size that can be used here", help);
        }
        max
    }
}
