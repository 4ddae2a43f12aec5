//! From the YAML as written to the settings the program runs on. Goes on after a mistake, so that one reading finds them
//! all; what cannot be made is left out, and then no [`Config`] comes out at the end.
//!
//! One file for each part of the rules file; this one holds the order, and what every part needs: reporting a problem,
//! fields that are missing or misplaced, names, secrets, durations.

mod audience;
mod batch;
mod destinations;
mod email;
mod fallback;
mod fields;
mod limits;
mod listen;
mod mention;
mod presets;
mod rules;
mod samples;
mod sources;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::file::{self, At, Entries, Field, File, LATER, Reference, Sp, Span, Strays, Written};
use super::problem::{Place, Problem, Problems, Source, quoted};
use super::secrets::{Asked, Kept, Missing, Secrets, Vault, is_plain_name, nearest_reference};
use super::words::nearest;
use super::{Config, LoadOptions, read_bounded, revision};
use crate::model::{Channel, Retention, Secret, Severity};
use crate::render::{Renderer, TemplateError};

/// Bounds the memory that a file full of mistakes takes. Nobody reads so many, and the first error is always kept.
const PROBLEMS_MAX: usize = 1000;

/// Of a template with a mistake; longer ones are named only.
const SHOWN_BYTES_MAX: u64 = 1024 * 1024;

/// What happened an hour ago is still being looked into.
const RETENTION_MIN: Duration = Duration::from_hours(1);
/// Ten years, as humantime counts them.
const RETENTION_MAX: Duration = Duration::from_hours(87_660);

/// Names go into metrics, logs, command lines and message footers.
const NAME_BYTES_MAX: usize = 64;

pub(super) fn lower(
    file: &File,
    text: &str,
    path: &Path,
    source: &Source,
    options: &LoadOptions<'_>,
) -> Result<Config, Problems> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut checker = Checker { source, text, directory, options, problems: Vec::new() };
    let lowered = checker.file(file);
    let mut problems = checker.problems;
    problems.sort_by_key(|problem| match &problem.place {
        Some(place) => (place.file != *source.file(), place.span.start),
        None => (true, usize::MAX),
    });
    match lowered {
        Some(lowered) if !problems.iter().any(Problem::is_error) => Ok(Config {
            sources: lowered.sources,
            destinations: lowered.destinations.into_settings(),
            limits: lowered.limits.into_windows(),
            admin: lowered.admin,
            rules: Arc::new(lowered.rules),
            retention: lowered.retention,
            templates: lowered.templates,
            revision: revision(text),
            path: path.to_owned(),
            warnings: problems,
        }),
        _ => Err(Problems::new(problems)),
    }
}

struct Lowered {
    sources: Vec<crate::source::Settings>,
    destinations: destinations::Defined,
    limits: limits::SharedLimits,
    admin: Option<super::Listen>,
    rules: crate::routing::RuleSet,
    retention: Retention,
    templates: Renderer,
}

/// The file being read, and what was found so far. Each part of the file adds its own methods.
struct Checker<'a> {
    source: &'a Source,
    text: &'a str,
    directory: &'a Path,
    options: &'a LoadOptions<'a>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    /// `None` only if there is an error among the problems.
    fn file(&mut self, file: &File) -> Option<Lowered> {
        self.strays(&file.strays, self.source.file(), File::FIELDS);
        let templates = self.templates(file);
        let sources = self.sources(file);
        let mut limits = self.shared_limits(file);
        let audience = self.audience(file);
        let destinations = self.destinations(file, &mut limits, templates.as_ref(), &audience);
        let admin = file.admin.as_ref().and_then(|admin| self.admin(admin));
        self.listener_clashes(file, &sources, admin.as_ref());
        let default_severity = file.defaults.as_ref().and_then(|defaults| {
            self.strays(&defaults.value.strays, "`defaults`", file::Defaults::FIELDS);
            self.severity(defaults.value.severity.as_ref()?)
        });
        let rules = self.rules(file, &destinations, templates.as_ref(), default_severity);
        if let (Some(rules), Some(templates)) = (&rules, &templates) {
            self.samples(rules, &destinations, templates);
        }
        let retention = file.retention.as_ref().map_or_else(Retention::default, |field| self.retention(field));
        // A destination with an error may be the one that names it.
        if !self.problems.iter().any(Problem::is_error) {
            self.unused_limits(&limits);
        }
        Some(Lowered { sources, destinations, limits, admin, rules: rules?, retention, templates: templates? })
    }

    fn retention(&mut self, field: &Field<file::Retention>) -> Retention {
        self.strays(&field.value.strays, "`retention`", file::Retention::FIELDS);
        let ended = field.value.ended.as_ref().and_then(|field| self.duration(field, RETENTION_MIN, RETENTION_MAX));
        ended.map_or_else(Retention::default, |ended| Retention { ended })
    }

    fn templates(&mut self, file: &File) -> Option<Renderer> {
        let field = file.templates_dir.as_ref();
        let directory = field.map(|field| self.directory.join(&field.value));
        if let (Some(field), Some(directory)) = (field, &directory)
            && !directory.is_dir()
        {
            self.report(
                Problem::error("bad-path", format!("the templates directory {} does not exist", quoted(&field.value))),
                field.at,
                "not a directory",
                "create it, or remove `templates_dir` to use the built-in templates; the path starts from this file",
            );
            return None;
        }
        let used = presets::used(file);
        let presets: Vec<_> = used.iter().map(|(name, preset, _)| (*name, Arc::clone(preset))).collect();
        let loaded = Renderer::load(directory.as_deref(), &presets);
        loaded.map_err(|errors| self.load_errors(errors, &used)).ok()
    }

    /// What is wrong with template files, and with the presets that stand in the rules file itself.
    fn load_errors(&mut self, errors: Vec<TemplateError>, used: &[presets::Used]) {
        for error in errors {
            let preset =
                used.iter().find(|preset| error.path.is_none() && error.channel == Some(Channel::Http(preset.0)));
            let Some((_, _, at)) = preset else {
                self.template_errors(vec![error]);
                continue;
            };
            let title = match error.name.as_str() {
                "plain" | "values" => format!("`{}`: {}", error.name, error.message),
                part => format!("`{part}`, line {}, column {}: {}", error.line, error.column, error.message),
            };
            let help = error.help.unwrap_or_else(|| "docs/PRESETS.md has all fields, and an example".to_owned());
            self.report(Problem::error("bad-preset", title), *at, "in this preset", help);
        }
    }

    fn template_errors(&mut self, errors: Vec<TemplateError>) {
        self.template_problems(errors, |title| Problem::error("bad-template", title));
    }

    /// Fields that a template relies on in vain.
    fn template_warnings(&mut self, warnings: Vec<TemplateError>) {
        self.template_problems(warnings, |title| Problem::warning("template-field", title));
    }

    fn template_problems(&mut self, found: Vec<TemplateError>, problem: impl Fn(String) -> Problem) {
        for error in found {
            let name = error.path.as_ref().map_or(error.name, |path| path.display().to_string());
            let text = error.path.and_then(|path| read_bounded(&path, SHOWN_BYTES_MAX).ok()?);
            let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
            let place = text.map(|text| Source::new(&name, &text, []).place_at(error.line, error.column));
            let help = error
                .help
                .unwrap_or_else(|| "mend the template, or remove the file to use the built-in one".to_owned());
            let title = if place.is_some() { error.message } else { format!("{name}: {}", error.message) };
            self.problems.push(problem(title).at(place, "").help(help));
        }
    }

    fn place(&self, at: At) -> Option<Place> {
        at.map(|span| self.source.place(span))
    }

    fn report(&mut self, problem: Problem, at: At, label: impl Into<String>, help: impl Into<String>) {
        let full = self.problems.len() >= PROBLEMS_MAX;
        if full && (!problem.is_error() || self.problems.iter().any(Problem::is_error)) {
            return;
        }
        let place = self.place(at);
        self.problems.push(problem.at(place, label).help(help));
    }

    /// Reports what stands in a table and should not. `table` names it, as in "the source `halo`".
    fn strays(&mut self, strays: &Strays, table: &str, fields: &[&str]) {
        for unknown in &strays.unknown {
            let (name, at) = (unknown.key.value.as_str(), unknown.key.at);
            let known = || format!("{table} takes {}", listed(fields));
            if LATER.contains(&name) {
                self.report(
                    Problem::error("not-supported", format!("`{name}` is not supported in this version")),
                    at,
                    "a setting of a later version",
                    "remove it, or update halo-relay",
                );
            } else {
                let help =
                    nearest(name, fields.iter().copied()).map_or_else(known, |near| format!("did you mean `{near}`?"));
                let shown = if is_plain_name(name) { quoted(name) } else { "of this name".to_owned() };
                let title = format!("{table} has no field {shown}");
                self.report(Problem::error("unknown-field", title), at, "unknown field", help);
            }
        }
        for duplicate in &strays.duplicates {
            self.duplicate_key(&duplicate.key, duplicate.first);
        }
        for key in &strays.empty {
            self.empty_value(key);
        }
    }

    fn duplicate_key(&mut self, key: &Sp<String>, first: At) {
        let problem = Problem::error("duplicate-key", format!("{} is written twice", quoted(&key.value)));
        let problem = problem.related(self.place(first), "first written here");
        self.report(problem, key.at, "written again here", "keep one of them");
    }

    fn empty_value(&mut self, key: &Sp<String>) {
        let problem = Problem::error("empty-value", format!("{} has nothing behind it", quoted(&key.value)));
        let help = if matches!(key.value.as_str(), "rules" | "send" | "to") {
            "write a list, `[]` if it is to be empty, or remove the line"
        } else {
            "write a value, or remove the line"
        };
        self.report(problem, key.at, "no value", help);
    }

    /// The entries of a table of names: each with something behind it, each name good and used once.
    fn entries<'e, T>(&mut self, entries: &'e Entries<T>, what: &str) -> Vec<(&'e Sp<String>, &'e T)> {
        let mut seen: HashMap<&str, At> = HashMap::new();
        let mut good = Vec::new();
        for (name, value) in &entries.0 {
            if let Some(first) = seen.get(name.value.as_str()) {
                self.duplicate_key(name, *first);
                continue;
            }
            seen.insert(&name.value, name.at);
            self.name(&name.value, name.at, what);
            match value {
                Some(value) => good.push((name, value)),
                None => self.empty_value(name),
            }
        }
        good
    }

    fn name(&mut self, name: &str, at: At, what: &str) {
        if !is_name(name) {
            self.report(
                Problem::error("bad-name", format!("{} cannot name a {what}", quoted(name))),
                at,
                "not a name",
                format!("use 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_` and `.`"),
            );
        }
    }

    /// `at` is what the field belongs to.
    fn missing_field(&mut self, table: &str, field: &str, at: At, example: &str) {
        self.report(
            Problem::error("missing-field", format!("{table} has no `{field}`")),
            at,
            format!("`{field}` is missing"),
            format!("add {example}"),
        );
    }

    /// Refuses the fields that this kind of table does not take, `table` being "a slack destination".
    fn misplaced(
        &mut self,
        present: &[(&'static str, At)],
        allowed: &[&str],
        table: &str,
        owner: impl Fn(&str) -> &'static str,
    ) {
        for (name, key) in present.iter().filter(|(name, _)| !allowed.contains(name)) {
            self.report(
                Problem::error("misplaced-field", format!("`{name}` belongs to {}, and this is {table}", owner(name))),
                *key,
                "not used here",
                format!("remove it; {table} takes {}", listed(allowed)),
            );
        }
    }

    fn severity(&mut self, field: &Field<String>) -> Option<Severity> {
        if let Ok(severity) = field.value.parse() {
            return Some(severity);
        }
        let names = Severity::ALL.map(Severity::name);
        let help = match nearest(&field.value, names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", listed(&names)),
        };
        let problem = Problem::error("bad-severity", format!("{} is not a severity", quoted(&field.value)));
        self.report(problem, field.at, "not a severity", help);
        None
    }

    /// A humantime duration within bounds, both ends included.
    fn duration(&mut self, field: &Field<String>, least: Duration, most: Duration) -> Option<Duration> {
        let written = field.value.trim();
        let bare = !written.is_empty() && written.bytes().all(|byte| byte.is_ascii_digit());
        let problem = match humantime::parse_duration(written) {
            Ok(duration) if (least..=most).contains(&duration) => return Some(duration),
            Ok(_) => (
                format!("{} is out of range", quoted(written)),
                format!(
                    "write a duration from {} to {}",
                    humantime::format_duration(least),
                    humantime::format_duration(most)
                ),
            ),
            Err(_) if bare => (format!("{} has no unit", quoted(written)), format!("write `{written}s` for seconds")),
            Err(error) => (
                format!("{} is not a duration: {error}", quoted(written)),
                "write a number and a unit, like `90s`, `5m` or `2h 30m`".to_owned(),
            ),
        };
        self.report(
            Problem::error("bad-duration", problem.0),
            field.at,
            "not a duration that can be used here",
            problem.1,
        );
        None
    }

    /// A secret: its value, or the stand-in if it is not to be looked up. `None` once a problem is reported.
    fn secret(&mut self, asked: Asked<'_>, field: &Field<Written>, stand_in: &str) -> Option<Value> {
        let secret = match &field.value {
            Written::Bare => {
                let problem = Problem::error("wrong-type", "a secret must be a text, not a number or a truth value");
                self.report(problem, field.at, "without quotes", "put quotes round it; better, write { env: NAME }");
                return None;
            }
            Written::Literal(value) => {
                let problem =
                    Problem::warning("literal-secret", format!("`{}` stands in the file in plain text", asked.field));
                let help = "keep it elsewhere and write { env: NAME }, { file: PATH } or { credential: NAME }";
                self.report(problem, field.at, "anyone who can read this file can use it", help);
                Secret::new(value.as_str())
            }
            Written::Reference(reference) if !self.reference(&reference.strays) => return None,
            Written::Reference(reference) => match self.look_up(asked, reference) {
                Ok(Some(secret)) => secret,
                Ok(None) => return Some(Value::StandIn(Secret::new(stand_in))),
                Err(Missing { title, help }) => {
                    let label = format!("needed for {}.{}.{}", asked.section, asked.name, asked.field);
                    self.report(Problem::error("missing-secret", title), secret_place(field), label, help);
                    return None;
                }
            },
        };
        if secret.expose().trim().is_empty() || secret.expose().chars().any(char::is_control) {
            let title = format!("`{}` is empty, or holds a line break or another control character", asked.field);
            let problem = Problem::error("bad-secret", title);
            self.report(
                problem,
                secret_place(field),
                "the secret from here cannot be used",
                "copy it again, as one line",
            );
            return None;
        }
        // A password may be anything.
        if asked.field != "password" && secret.expose().contains('…') {
            let title = format!("`{}` still holds the `…` of an example", asked.field);
            self.report(
                Problem::error("bad-secret", title),
                secret_place(field),
                "the secret from here is not whole",
                "copy the whole value from the service that gave it to you",
            );
            return None;
        }
        Some(Value::Known(secret))
    }

    /// `Ok(None)` if secrets are not looked up.
    fn look_up(&self, asked: Asked<'_>, reference: &Reference) -> Result<Option<Secret>, Missing> {
        let kept = Kept::new(reference)?;
        match if asked.section == "sources" { self.options.sources } else { self.options.destinations } {
            Secrets::Skipped => Ok(None),
            Secrets::Answered(answer) => Ok(Some(Secret::new(answer(&asked)))),
            Secrets::Required => {
                let vault = Vault { variable: self.options.variable, directory: self.directory };
                vault.read(kept).map(Some)
            }
        }
    }

    /// As [`strays`](Self::strays), but never repeats an unknown name: in `{ hunter2 }` it is the secret.
    fn reference(&mut self, strays: &Strays) -> bool {
        for unknown in &strays.unknown {
            let help = match nearest_reference(&unknown.key.value) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "write { env: NAME }, { file: PATH } or { credential: NAME }".to_owned(),
            };
            let problem = Problem::error("unknown-field", "a secret is kept in `env`, `file` or `credential`");
            self.report(problem, unknown.key.at, "none of them", help);
        }
        for duplicate in &strays.duplicates {
            self.duplicate_key(&duplicate.key, duplicate.first);
        }
        for key in &strays.empty {
            self.empty_value(key);
        }
        strays.unknown.is_empty() && strays.duplicates.is_empty() && strays.empty.is_empty()
    }

    /// The place of a part of a value: of bytes `at..at + len` of it. The whole value where escapes or folding stand
    /// between the value and its spelling.
    fn within(&self, item: &Sp<&str>, at: usize, len: usize) -> At {
        let whole = item.at?;
        let written = self.text.get(whole.start..)?;
        let quote = usize::from(written.starts_with(['"', '\'']));
        if written.get(quote..)?.starts_with(item.value) {
            let start = whole.start + quote + at.min(item.value.len());
            return Some(Span { start, end: start + len.min(item.value.len().saturating_sub(at)) });
        }
        Some(whole)
    }
}

fn is_name(text: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_good)
}

/// What to point at: the secret, or the name it goes by.
fn secret_place(field: &Field<Written>) -> At {
    let Written::Reference(reference) = &field.value else { return field.at };
    let names = [&reference.env, &reference.file, &reference.credential];
    let mut present = names.into_iter().flatten();
    match (present.next(), present.next()) {
        (Some(name), None) => name.at,
        _ => field.key,
    }
}

/// A secret that was asked for.
enum Value {
    Known(Secret),
    /// Not looked up; good for nothing but filling its place.
    StandIn(Secret),
}

impl Value {
    fn into_secret(self) -> Secret {
        match self {
            Self::Known(secret) | Self::StandIn(secret) => secret,
        }
    }

    /// What can be checked.
    fn known(&self) -> Option<&Secret> {
        match self {
            Self::Known(secret) => Some(secret),
            Self::StandIn(_) => None,
        }
    }
}

/// `` `a`, `b` and `c` ``
fn listed(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_str;
    use crate::model::{Fallback, Overflow};

    fn load(destinations: &str, more: &str) -> Result<Config, Problems> {
        let text = format!(
            "
sources: {{ halo: {{ type: halo, api_key: {{ env: SECRET }} }} }}
destinations:
{destinations}
{more}
rules: []
unrouted: {{ send: [a] }}
"
        );
        let variable = |_: &str| Some("https://example.org/hook/0123456789".to_owned());
        let options = LoadOptions { variable: &variable, ..LoadOptions::default() };
        load_str(&text, Path::new("rules.yaml"), &options)
    }

    fn good(destinations: &str, more: &str) -> Config {
        load(destinations, more).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config = good("  a: { type: webhook, url: { env: URL } }", "");
        let a = &config.destinations["a"];
        assert_eq!((a.limits.len(), a.shared_limits.len(), &a.fallback), (0, 0, &None));
        assert_eq!(a.overflow, Overflow::Digest { after: Duration::from_mins(2) });
        assert_eq!(config.retention.ended, Duration::from_hours(720));
        assert!(config.limits.is_empty() && config.warnings.is_empty());
        let config = good(
            "  a: { type: webhook, url: { env: URL }, fallback: { to: b } }\n  b: { type: teams, url: { env: URL } }",
            "retention: {}",
        );
        let after = Duration::from_mins(5);
        assert_eq!(config.destinations["a"].fallback, Some(Fallback { to: "b".into(), after }));
        assert_eq!(config.retention, Retention::default());
        // `b` is named by a fallback alone, and that is a use.
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn what_is_said_holds() {
        let config = good(
            "
  a: { type: webhook, url: { env: URL }, limit: [10/1s, all, 30/1m, few, all], digest_after: 90s, fallback: { to: b, after: 1h } }
  b: { type: webhook, url: { env: URL }, limit: all, over_limit: queue, fallback: { to: c } }
  c: { type: webhook, url: { env: URL }, limit: few, over_limit: digest }",
            "limits: { all: [5/1s, 100/10m], few: 1/1s }\nretention: { ended: 10years }",
        );
        let [a, b, c] = ["a", "b", "c"].map(|name| &config.destinations[name]);
        let shown = |windows: &[crate::rate::Window]| windows.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!((shown(&a.limits), shown(&b.limits)), (vec!["10/1s".to_owned(), "30/1m".to_owned()], Vec::new()));
        assert_eq!((&a.shared_limits, &b.shared_limits), (&vec!["all".into(), "few".into()], &vec!["all".into()]));
        assert_eq!(shown(&config.limits["all"]), ["5/1s", "100/10m"]);
        assert_eq!(a.overflow, Overflow::Digest { after: Duration::from_secs(90) });
        assert_eq!((b.overflow, c.overflow), (Overflow::Queue, Overflow::default()));
        assert_eq!(a.fallback, Some(Fallback { to: "b".into(), after: Duration::from_hours(1) }));
        assert_eq!(config.retention.ended, RETENTION_MAX);
        assert!(config.warnings.is_empty());
    }

    /// Which addresses a fallback of less than 10 s may have; the first destination falls back to the second.
    #[test]
    fn a_hasty_fallback_stays_on_this_machine() {
        let local = "type: webhook, url: 'http://127.0.0.1:9/'";
        let mail = |host: &str| {
            format!("type: email, smtp: {{ host: '{host}', tls: none }}, from: a@example.org, to: b@example.org")
        };
        let cases = [
            (local, local.to_owned(), true),
            (local, "type: slack, url: 'http://[::1]:9/services/T/B/X'".to_owned(), true),
            (local, mail("localhost"), true),
            (local, mail("::1"), true),
            (local, mail("mail.example.org").replace("none", "starttls"), false),
            (local, "type: webhook, url: { env: URL }".to_owned(), false),
            ("type: teams, url: { env: URL }", local.to_owned(), false),
            (local, "type: slack, token: { env: TOKEN }, channel: C0123456789".to_owned(), false),
        ];
        for (from, to, allowed) in cases {
            let destinations = format!("  a: {{ {from}, fallback: {{ to: b, after: 100ms }} }}\n  b: {{ {to} }}\n");
            let problems = load(&destinations, "").err().map(|problems| problems.to_string()).unwrap_or_default();
            assert_eq!(!problems.contains("bad-duration"), allowed, "{destinations} {problems}");
            assert!(allowed || problems.contains("from 10s to 1day"), "{problems}");
        }
        // Where no secret is looked up nobody knows where they lead; a file that runs must pass.
        let unknown = "
sources: { halo: { type: halo, api_key: { env: SECRET } } }
destinations:
  a: { type: slack, url: { env: URL }, fallback: { to: b, after: 100ms } }
  b: { type: teams, url: { env: URL } }
rules: []
unrouted: { send: [a] }
";
        assert!(load_str(unknown, Path::new("rules.yaml"), &LoadOptions::without_secrets()).is_ok());
    }
}
