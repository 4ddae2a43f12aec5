//! `rules:` and `unrouted:`, what is sent where.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::destinations::Defined;
use super::{Checker, listed};
use crate::catalogue;
use crate::config::file::{At, Destination, Entries, Field, File, Many, Rule as Written, Sp, Unrouted};
use crate::config::problem::{Problem, quoted};
use crate::config::words::{alike, nearest};
use crate::model::key::{KeyPattern, KeyPatterns, PatternError};
use crate::model::{DestinationName, RuleName, Severity};
use crate::render::{Renderer, is_runbook_url};
use crate::routing::{Action, Condition, Place, Rule, RuleSet};

/// Field conditions of one rule.
const CONDITIONS_MAX: usize = 32;
/// It becomes a link in every message.
const RUNBOOK_BYTES_MAX: usize = 2000;

impl Checker<'_> {
    pub(super) fn rules(
        &mut self,
        file: &File,
        destinations: &Defined,
        templates: Option<&Renderer>,
        default_severity: Option<Severity>,
    ) -> Option<RuleSet> {
        if file.rules.is_none() && !file.strays.empty.iter().any(|key| key.value == "rules") {
            self.missing_field(
                self.source.file(),
                "rules",
                None,
                "`rules:` and a list; `rules: []` leaves everything to `unrouted`",
            );
        }
        let written = file.rules.as_ref().map_or(&[][..], |rules| &rules.value);
        let mut sends = Sends { destinations, used: HashSet::new() };
        let mut names: HashMap<&str, At> = HashMap::new();
        let mut rules: Vec<(Rule, At)> = Vec::new();
        for item in written {
            if let Some(rule) = self.rule(item, default_severity, templates, &mut sends, &mut names) {
                rules.push(rule);
            }
        }
        self.unreachable_rules(&rules);
        let unrouted = self.unrouted(file, &mut sends);
        // A rule with an error may be the one that names it.
        if !self.problems.iter().any(Problem::is_error) {
            self.unused_destinations(&sends);
        }
        Some(RuleSet::new(rules.into_iter().map(|(rule, _)| rule).collect(), unrouted?, default_severity))
    }

    /// The rule and the place of its name.
    fn rule<'f>(
        &mut self,
        item: &'f Sp<Written>,
        default_severity: Option<Severity>,
        templates: Option<&Renderer>,
        sends: &mut Sends<'_>,
        names: &mut HashMap<&'f str, At>,
    ) -> Option<(Rule, At)> {
        let written = &item.value;
        let name = self.rule_name(item, names);
        let table =
            written.name.as_ref().map_or("the rule".to_owned(), |name| format!("the rule {}", quoted(&name.value)));
        let at = written.name.as_ref().map_or(item.at, |name| name.at);
        self.rule_strays(written, &table);
        let keys_and_conditions = written.when.as_ref().map_or(Some((None, Vec::new())), |when| self.when(when));
        let severity = written.severity.as_ref().and_then(|field| self.severity(field));
        let what = What {
            table: &table,
            at,
            send: written.send.as_ref(),
            drop: written.drop.as_ref(),
            empty: &written.strays.empty,
        };
        let action = self.action(&what, sends);
        if let (Some(field), Some(templates), Some(send)) = (&written.template, templates, &written.send) {
            self.rule_template(field, send, sends.destinations, templates);
        }
        let runbook = written.runbook.as_ref().and_then(|field| self.runbook(field));
        let keys = keys_and_conditions.as_ref().and_then(|(keys, _)| keys.as_ref());
        self.field_names(written, keys);
        let batch = self.batch(&table, written, severity.or(default_severity), keys);
        let thread_by = self.thread_by(&table, written, severity.or(default_severity), sends.destinations);
        let mention = self.rule_mention(&table, written, sends.destinations);
        let (keys, conditions) = keys_and_conditions?;
        let line = at.map_or(1, |at| self.source.line(at.start));
        let rule = Rule {
            name: name?,
            keys,
            conditions,
            severity,
            action: action?,
            stop: written.stop.as_ref().is_some_and(|field| field.value),
            template: written.template.as_ref().map(|field| field.value.clone()),
            runbook,
            batch,
            thread_by,
            mention,
            place: Place { file: Arc::clone(self.source.file()), line: u32::try_from(line).unwrap_or(u32::MAX) },
        };
        Some((rule, at))
    }

    fn rule_name<'f>(&mut self, item: &'f Sp<Written>, names: &mut HashMap<&'f str, At>) -> Option<RuleName> {
        let Some(field) = &item.value.name else {
            if !item.value.strays.empty.iter().any(|key| key.value == "name") {
                self.missing_field("a rule", "name", item.at, "`name:`, which messages, logs and `explain` call it by");
            }
            return None;
        };
        if field.value == RuleName::UNROUTED {
            let problem = Problem::error("bad-name", "`unrouted` stands for events that no rule matched");
            self.report(problem, field.at, "taken", "give the rule another name");
        } else {
            self.name(&field.value, field.at, "rule");
        }
        if let Some(first) = names.get(field.value.as_str()) {
            let problem =
                Problem::error("duplicate-rule-name", format!("two rules are named {}", quoted(&field.value)));
            let problem = problem.related(self.place(*first), "the first one is here");
            self.report(
                problem,
                field.at,
                "taken already",
                "give each rule its own name: messages and `explain` use it",
            );
        } else {
            names.insert(&field.value, field.at);
        }
        Some(field.value.as_str().into())
    }

    /// As [`strays`](Self::strays), but knows what `drop:` with nothing behind it lacks, and what belongs under `when`.
    fn rule_strays(&mut self, written: &Written, table: &str) {
        let mut strays = written.strays.clone();
        strays.empty.retain(|key| key.value != "drop");
        strays.unknown.retain(|unknown| !self.misplaced_in_rule(&unknown.key, table));
        self.strays(&strays, table, Written::FIELDS);
    }

    /// Reports what belongs elsewhere, or has another name here.
    fn misplaced_in_rule(&mut self, key: &Sp<String>, table: &str) -> bool {
        let name = key.value.as_str();
        let (what, label, help) = match name {
            "key" | "target" => ("it is a condition", "belongs under `when`", format!("write `when: {{ {name}: … }}`")),
            "if" | "match" | "matches" | "where" | "filter" => (
                "conditions stand under `when`",
                "another name",
                "write `when: { key: \"website-cert-*\" }`".to_owned(),
            ),
            "to" | "notify" | "destination" | "destinations" => {
                ("destinations stand under `send`", "another name", "write `send: [sec-slack]`".to_owned())
            }
            _ if Destination::FIELDS.contains(&name) => (
                "it is a setting of destinations",
                "belongs under `destinations`",
                format!("write it in each destination that it is for, beside its `type`; or remove `{name}`"),
            ),
            _ => return false,
        };
        let problem = Problem::error("unknown-field", format!("{table} has no field `{name}`: {what}"));
        self.report(problem, key.at, label, help);
        true
    }

    fn when(&mut self, when: &Field<Entries<Sp<Many>>>) -> Option<(Option<KeyPatterns>, Vec<Condition>)> {
        let mut seen: HashMap<&str, At> = HashMap::new();
        let mut keys = None;
        let mut conditions = Vec::new();
        let mut good = true;
        for (name, value) in &when.value.0 {
            if let Some(first) = seen.insert(&name.value, name.at) {
                self.duplicate_key(name, first);
                continue;
            }
            let Some(value) = value else {
                self.empty_condition(name);
                good = false;
                continue;
            };
            let items = value.value.items(value.at, self.text);
            let found = match name.value.as_str() {
                "key" => self.keys(&items, name.at).map(|patterns| keys = Some(patterns)),
                _ => self.condition(name, &items).map(|condition| conditions.push(condition)),
            };
            good &= found.is_some();
        }
        if conditions.len() > CONDITIONS_MAX {
            let problem = Problem::error("bad-filter", format!("a rule has at most {CONDITIONS_MAX} conditions"));
            self.report(problem, when.key, "too many", "split the rule");
            good = false;
        }
        good.then_some((keys, conditions))
    }

    fn empty_condition(&mut self, name: &Sp<String>) {
        let problem =
            Problem::error("empty-value", format!("the condition {} has nothing behind it", quoted(&name.value)));
        let help = "write a pattern: \"*\" for any value, \"-\" for a missing or empty one; or remove the line";
        self.report(problem, name.at, "no pattern", help);
    }

    fn keys(&mut self, items: &[Sp<&str>], at: At) -> Option<KeyPatterns> {
        let texts: Vec<&str> = items.iter().map(|item| item.value).collect();
        let mut good = true;
        for item in items {
            match KeyPattern::parse(item.value) {
                Ok(pattern) => self.matches_some_key(&pattern, item),
                Err(error) => {
                    let problem = Problem::error("bad-glob", format!("{} is not a key glob", quoted(item.value)));
                    let place = self.within(item, error.at, error.len);
                    self.report(
                        problem,
                        place,
                        error.message,
                        "`*` any run of characters, `?` one, `[a-z]`, `{a,b}`; a leading `!` excludes",
                    );
                    good = false;
                }
            }
        }
        if !good {
            return None;
        }
        match KeyPatterns::parse(&texts) {
            Ok(patterns) => {
                self.patterns_leave_some_key(&patterns, at);
                Some(patterns)
            }
            Err(PatternError { message, .. }) => {
                self.report(Problem::error("bad-glob", message), at, "no key glob", "write a glob, or remove `key`");
                None
            }
        }
    }

    /// A key nobody knows may be a new one, so this is no error.
    fn matches_some_key(&mut self, pattern: &KeyPattern, item: &Sp<&str>) {
        if catalogue::all().iter().any(|known| pattern.glob().matches(known.key)) {
            return;
        }
        let near = alike(item.value, catalogue::all().iter().map(|known| known.key), 3);
        let help = match near.as_slice() {
            [] => "see `halo-relay explain --key KEY`, or leave it if Halo Security has a new key".to_owned(),
            near => format!("the nearest are {}; leave it if Halo Security has a new key", listed(near)),
        };
        let problem = Problem::warning(
            "no-such-key",
            format!("{} matches none of the {} known event keys", quoted(item.value), catalogue::all().len()),
        );
        self.report(problem, item.at, "no known key", help);
    }

    fn patterns_leave_some_key(&mut self, patterns: &KeyPatterns, at: At) {
        let matched_alone =
            |pattern: &KeyPattern| catalogue::all().iter().any(|known| pattern.glob().matches(known.key));
        // What is misspelled has been reported.
        if patterns.iter().all(matched_alone) && !catalogue::all().iter().any(|known| patterns.matches(known.key)) {
            let problem = Problem::warning("no-such-key", "the excluding globs leave no known event key over");
            self.report(problem, at, "matches nothing", "a leading `!` takes keys out of what the other globs match");
        }
    }

    fn condition(&mut self, name: &Sp<String>, items: &[Sp<&str>]) -> Option<Condition> {
        if name.value.trim().is_empty() {
            let problem = Problem::error("bad-filter", "a condition needs the name of a field");
            self.report(problem, name.at, "no name", "write a field of the event, like `target` or `port`");
            return None;
        }
        let texts: Vec<&str> = items.iter().map(|item| item.value).collect();
        // Each alone, so that all faults are found.
        let mut good = true;
        for item in items {
            if let Err(error) = Condition::parse(&name.value, &[item.value]) {
                let problem = Problem::error("bad-filter", format!("{} is not a filter", quoted(item.value)));
                let place = self.within(item, error.at, error.len);
                let help = "`!` not, `~` regular expression, `=` exact, `*` wildcard, `-` empty; numbers `5`, `1-5`, `>=5`, `1,3`";
                self.report(problem, place, error.message, help);
                good = false;
            }
        }
        if !good {
            return None;
        }
        match Condition::parse(&name.value, &texts) {
            Ok(condition) => Some(condition),
            Err(PatternError { message, .. }) => {
                self.report(
                    Problem::error("bad-filter", message),
                    name.at,
                    "no filter",
                    "write a pattern, or remove the line",
                );
                None
            }
        }
    }

    /// Exactly one of `send` and `drop`, and what each needs.
    fn action(&mut self, what: &What<'_>, sends: &mut Sends<'_>) -> Option<Action> {
        let What { table, at, send, drop, empty } = *what;
        let is_empty = |field: &str| empty.iter().find(|key| key.value == field);
        match (send, drop) {
            (Some(send), Some(drop)) => {
                let problem = Problem::error("send-and-drop", format!("{table} both sends and drops"));
                let problem = problem.related(self.place(send.key), "it sends here");
                self.report(problem, drop.key, "and drops here", "keep one; a rule that drops ends the reading");
                None
            }
            (Some(send), None) => self.send(table, send, sends),
            (None, Some(drop)) if matches!(drop.value.trim(), "" | "true" | "yes" | "on" | "false" | "no") => {
                self.no_reason(table, drop.at)
            }
            (None, Some(drop)) => Some(Action::Drop { reason: drop.value.trim().to_owned() }),
            (None, None) => {
                if let Some(drop) = is_empty("drop") {
                    self.no_reason(table, drop.at)
                } else if is_empty("send").is_some() {
                    None
                } else {
                    let problem = Problem::error("no-action", format!("{table} neither sends nor drops"));
                    self.report(problem, at, "does nothing", "add `send: [DESTINATION]` or `drop: REASON`");
                    None
                }
            }
        }
    }

    fn no_reason(&mut self, table: &str, at: At) -> Option<Action> {
        let help = "write why, for whoever looks for a missing message: `drop: \"scans are on the dashboard\"`";
        self.report(Problem::error("missing-reason", format!("{table} drops without a reason")), at, "no reason", help);
        None
    }

    fn send(&mut self, table: &str, field: &Field<Many>, sends: &mut Sends<'_>) -> Option<Action> {
        let items = field.value.items(field.at, self.text);
        if items.is_empty() {
            let problem = Problem::error("no-action", format!("{table} sends to no destination"));
            self.report(problem, field.key, "an empty list", "name a destination, or write `drop: REASON` instead");
            return None;
        }
        for item in &items {
            if sends.destinations.get(item.value).is_some() {
                sends.used.insert(item.value.into());
            } else {
                self.unknown_destination(item, sends.destinations);
            }
        }
        Some(Action::Send(items.iter().map(|item| item.value.into()).collect()))
    }

    pub(super) fn unknown_destination(&mut self, item: &Sp<&str>, destinations: &Defined) {
        /// As many as fit a line.
        const SHOWN_MAX: usize = 6;

        let names: Vec<&str> = destinations.iter().map(|(name, _)| name.as_str()).collect();
        let near = nearest(item.value, names.iter().copied());
        let problem = Problem::error("unknown-destination", format!("there is no destination {}", quoted(item.value)));
        let defined = near.and_then(|near| destinations.get(near)).and_then(|one| self.place(one.at));
        let problem = problem.related(defined, "destinations are defined here");
        let help = match (near, names.len()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, 0) => "define it under `destinations:`; none is defined".to_owned(),
            (None, 1..=SHOWN_MAX) => format!("define it under `destinations:`, beside {}", listed(&names)),
            (None, count) => format!("define it under `destinations:`, beside the {count} others"),
        };
        self.report(problem, item.at, "not defined", help);
    }

    fn rule_template(
        &mut self,
        field: &Field<String>,
        send: &Field<Many>,
        destinations: &Defined,
        templates: &Renderer,
    ) {
        let mut told = HashSet::new();
        for item in send.value.items(send.at, self.text) {
            let channel = destinations.get(item.value).and_then(|one| one.channel);
            if let Some(channel) = channel.filter(|channel| told.insert(*channel)) {
                self.template(field, channel, templates, item.at);
            }
        }
    }

    fn runbook(&mut self, field: &Field<String>) -> Option<String> {
        let url = field.value.as_str();
        let is_link = reqwest::Url::parse(url).is_ok_and(|url| url.scheme() == "https") && is_runbook_url(url);
        if is_link && url.len() <= RUNBOOK_BYTES_MAX {
            return Some(url.to_owned());
        }
        let problem = Problem::error("bad-url", format!("{} is not a link to a runbook", quoted(url)));
        self.report(
            problem,
            field.at,
            "not an https URL",
            "write the whole URL, like `https://wiki.example.org/runbooks/tls`",
        );
        None
    }

    fn unrouted(&mut self, file: &File, sends: &mut Sends<'_>) -> Option<Action> {
        let Some(field) = &file.unrouted else {
            if !file.strays.empty.iter().any(|key| key.value == "unrouted") {
                let example = "`unrouted: { send: [DESTINATION] }`, or `{ drop: REASON }`: what happens to events that no rule matched";
                self.missing_field(self.source.file(), "unrouted", None, example);
            }
            return None;
        };
        let written = &field.value;
        let mut strays = written.strays.clone();
        strays.empty.retain(|key| key.value != "drop");
        self.strays(&strays, "`unrouted`", Unrouted::FIELDS);
        let what = What {
            table: "`unrouted`",
            at: field.key,
            send: written.send.as_ref(),
            drop: written.drop.as_ref(),
            empty: &written.strays.empty,
        };
        self.action(&what, sends)
    }

    fn unused_destinations(&mut self, sends: &Sends<'_>) {
        let fallbacks = sends.destinations.iter().filter_map(|(_, one)| one.settings()?.fallback.as_ref());
        let fallbacks: HashSet<_> = fallbacks.map(|fallback| &fallback.to).collect();
        let is_used = |name: &DestinationName| sends.used.contains(name) || fallbacks.contains(name);
        for (name, one) in sends.destinations.iter().filter(|(name, _)| !is_used(name)) {
            let problem =
                Problem::warning("unused-destination", format!("nothing is ever sent to {}", quoted(name.as_str())));
            self.report(problem, one.at, "named by no rule", "name it in a rule or in `unrouted`, or remove it");
        }
    }

    /// Warns of rules below one that ends the reading for every event they could match: for all events, or for each known
    /// key of theirs.
    fn unreachable_rules(&mut self, rules: &[(Rule, At)]) {
        let mut taken: HashMap<&str, &(Rule, At)> = HashMap::new();
        for (index, entry) in rules.iter().enumerate() {
            let (rule, at) = entry;
            let matches = |key: &str| rule.keys.as_ref().is_none_or(|keys| keys.matches(key));
            let own: Vec<&str> = catalogue::all().iter().map(|known| known.key).filter(|key| matches(key)).collect();
            if let Some((taker, place)) = taker(&own, &taken) {
                let title = format!("the rule {} is never reached", quoted(rule.name.as_str()));
                let problem = Problem::warning("unreachable-rule", title);
                let problem = problem.related(self.place(*place), "this rule ends the reading for every key of it");
                let help = format!("move it above {}, or narrow that rule", quoted(taker.name.as_str()));
                self.report(problem, *at, "matches only what a rule above has taken", help);
            }
            let ends = rule.stop || matches!(rule.action, Action::Drop { .. });
            if ends && rule.conditions.is_empty() {
                if takes_everything(rule) {
                    self.rules_below(entry, &rules[index + 1..]);
                    return;
                }
                for key in own {
                    taken.entry(key).or_insert(entry);
                }
            }
        }
    }

    fn rules_below(&mut self, (last, at): &(Rule, At), below: &[(Rule, At)]) {
        let Some((first, place)) = below.first() else { return };
        let title = match below.len() {
            1 => format!("the rule {} is never reached", quoted(first.name.as_str())),
            count => format!(
                "the rule {} and all below it, {count} in total, are never reached",
                quoted(first.name.as_str())
            ),
        };
        let problem = Problem::warning("unreachable-rule", title);
        let problem = problem.related(self.place(*at), "this rule matches every event and ends the reading");
        let help = format!("move {} to the end, or give it a condition", quoted(last.name.as_str()));
        self.report(problem, *place, "no event comes here", help);
    }
}

/// The destinations there are, and those something is sent to.
struct Sends<'d> {
    destinations: &'d Defined,
    used: HashSet<DestinationName>,
}

/// What a rule, or `unrouted`, says that it does.
struct What<'f> {
    /// "the rule `x`".
    table: &'f str,
    at: At,
    send: Option<&'f Field<Many>>,
    drop: Option<&'f Field<String>>,
    /// The fields with nothing behind them.
    empty: &'f [Sp<String>],
}

/// The rule that took the first of these keys, if all of them are taken.
fn taker<'r>(keys: &[&str], taken: &HashMap<&str, &'r (Rule, At)>) -> Option<&'r (Rule, At)> {
    let first = taken.get(keys.first()?)?;
    keys.iter().all(|key| taken.contains_key(key)).then_some(*first)
}

/// No condition, and no key but `*`.
fn takes_everything(rule: &Rule) -> bool {
    let any = |keys: &KeyPatterns| {
        keys.iter().any(|pattern| !pattern.excludes() && pattern.glob().as_str() == "*")
            && !keys.iter().any(KeyPattern::excludes)
    };
    rule.conditions.is_empty() && rule.keys.as_ref().is_none_or(any)
}
