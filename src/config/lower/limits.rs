//! How fast: `limits:`, which destinations share; a destination's own `limit`; and what becomes of what exceeds it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Checker, is_name, listed};
use crate::config::file::{At, Destination as Written, Field, File, Many, Sp};
use crate::config::problem::{Problem, quoted};
use crate::config::words::nearest;
use crate::model::{LimitName, Overflow};
use crate::rate::Window;

/// Limits of one destination, and windows of one shared limit.
const LIMITS_MAX: usize = 8;
/// Sooner, a digest would replace messages that were about to go.
const DIGEST_AFTER_MIN: Duration = Duration::from_secs(1);
/// Beyond a day, what waits is no alert any more.
const DIGEST_AFTER_MAX: Duration = Duration::from_hours(24);
const OVER_LIMIT: [&str; 2] = ["digest", "queue"];
const RATE_HELP: &str = "write how many in what time, like `1/1s` or `30/10m`";

/// All limits that the file names, also those with faults, so that destinations naming them are not faulted too.
pub(super) struct SharedLimits(BTreeMap<LimitName, Shared>);

struct Shared {
    at: At,
    windows: Vec<Window>,
    used: bool,
}

impl SharedLimits {
    pub(super) fn into_windows(self) -> BTreeMap<LimitName, Vec<Window>> {
        self.0.into_iter().map(|(name, shared)| (name, shared.windows)).collect()
    }
}

impl Checker<'_> {
    pub(super) fn shared_limits(&mut self, file: &File) -> SharedLimits {
        let entries = file.limits.as_ref().map(|field| self.entries(&field.value, "limit"));
        let mut limits = BTreeMap::new();
        for (name, written) in entries.unwrap_or_default() {
            let items = written.value.items(written.at, self.text);
            let items = self.bounded(items, name.at, &format!("a shared limit has 1 to {LIMITS_MAX} windows"));
            let windows = items.into_iter().filter_map(|item| self.window(&item)).collect();
            limits.insert(name.value.as_str().into(), Shared { at: name.at, windows, used: false });
        }
        SharedLimits(limits)
    }

    pub(super) fn unused_limits(&mut self, limits: &SharedLimits) {
        for (name, shared) in limits.0.iter().filter(|(_, shared)| !shared.used) {
            let title = format!("nothing is held to the limit {}", quoted(name.as_str()));
            let help = format!("name it in the `limit` of a destination, as `limit: {name}`, or remove it");
            self.report(Problem::warning("unused-limit", title), shared.at, "named by no destination", help);
        }
    }

    /// A destination's own windows, and the limits that it shares with others.
    pub(super) fn limit(&mut self, field: &Field<Many>, limits: &mut SharedLimits) -> (Vec<Window>, Vec<LimitName>) {
        let (mut windows, mut shared) = (Vec::new(), Vec::new());
        let items = field.value.items(field.at, self.text);
        for item in self.bounded(items, field.key, &format!("a destination has 1 to {LIMITS_MAX} limits")) {
            if let Some(known) = limits.0.get_mut(item.value) {
                known.used = true;
                let name = LimitName::from(item.value);
                if !shared.contains(&name) {
                    shared.push(name);
                }
            } else if is_name(item.value) && !item.value.starts_with(|first: char| first.is_ascii_digit()) {
                self.unknown_limit(&item, limits);
            } else {
                windows.extend(self.window(&item));
            }
        }
        (windows, shared)
    }

    fn bounded<'t>(&mut self, mut items: Vec<Sp<&'t str>>, key: At, title: &str) -> Vec<Sp<&'t str>> {
        if items.is_empty() || items.len() > LIMITS_MAX {
            let problem = Problem::error("bad-rate", title);
            self.report(problem, key, "none, or too many", "write one, like `30/10m`, or a list of them");
        }
        items.truncate(LIMITS_MAX);
        items
    }

    fn window(&mut self, item: &Sp<&str>) -> Option<Window> {
        item.value
            .parse()
            .map_err(|error| {
                let problem = Problem::error("bad-rate", format!("{} is not a limit: {error}", quoted(item.value)));
                let help =
                    meant(item.value).map(|meant| format!("write `{meant}`, or another number and time like `30/10m`"));
                self.report(problem, item.at, "not a limit", help.unwrap_or_else(|| RATE_HELP.to_owned()));
            })
            .ok()
    }

    fn unknown_limit(&mut self, item: &Sp<&str>, limits: &SharedLimits) {
        let near = nearest(item.value, limits.0.keys().map(LimitName::as_str));
        let defined = near.and_then(|near| limits.0.get(near)).and_then(|shared| self.place(shared.at));
        let problem = Problem::error("unknown-limit", format!("there is no shared limit {}", quoted(item.value)));
        let problem = problem.related(defined, "shared limits are defined here");
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                format!("define it under `limits:`, as `{}: 100/10m`; for a limit of its own, {RATE_HELP}", item.value)
            }
        };
        self.report(problem, item.at, "not defined", help);
    }

    pub(super) fn overflow(&mut self, written: &Written) -> Overflow {
        let after = written.digest_after.as_ref();
        let after_key = after.map(|field| field.key);
        let mode_key = written.over_limit.as_ref().map(|field| field.key);
        let idle = mode_key.map(|key| ("over_limit", key)).or(after_key.map(|key| ("digest_after", key)));
        if let (Some((name, key)), None) = (idle, &written.limit) {
            let title = format!("`{name}` has no effect on a destination without `limit`");
            let help = "add a `limit`, like `30/10m`, or remove it";
            self.report(Problem::warning("no-effect", title), key, "nothing is ever over the limit", help);
        }
        let after = after.and_then(|field| self.duration(field, DIGEST_AFTER_MIN, DIGEST_AFTER_MAX));
        match written.over_limit.as_ref() {
            Some(field) if field.value == "queue" => {
                if let Some(key) = after_key {
                    let problem =
                        Problem::error("misplaced-field", "`digest_after` is for destinations that make digests");
                    let problem = problem.related(self.place(field.at), "this one lets everything queue");
                    self.report(problem, key, "not used here", "remove it, or `over_limit: queue`");
                }
                return Overflow::Queue;
            }
            Some(field) if field.value != "digest" => self.bad_overflow(field),
            _ => {}
        }
        after.map_or_else(Overflow::default, |after| Overflow::Digest { after })
    }

    fn bad_overflow(&mut self, field: &Field<String>) {
        let help = match nearest(&field.value, OVER_LIMIT) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}: one message of all that waits, or each in its turn", listed(&OVER_LIMIT)),
        };
        let title = format!("{} is not a way to treat what is over the limit", quoted(&field.value));
        self.report(Problem::error("bad-over-limit", title), field.at, "unknown", help);
    }
}

/// What a limit without a duration is meant to be: `10`, `10/1`, `10/s`.
fn meant(written: &str) -> Option<String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (count, time) = match written.split_once('/') {
        None => (written, "1m".to_owned()),
        Some((count, time)) if is_number(time) => (count, format!("{time}s")),
        Some((count, unit)) => (count, format!("1{unit}")),
    };
    let meant = format!("{count}/{time}");
    (is_number(count) && meant.parse::<Window>().is_ok()).then_some(meant)
}
