//! What `halo-relay check` says: everything [`load`] finds, as text or JSON, and the exit code it deserves.

use std::fmt::{self, Write as _};
use std::path::Path;

use serde_json::{Value, json};

use super::problem::{Problem, Style, render_all};
use super::{LoadOptions, load};
use crate::model;
use crate::routing::{Action, Rule, RuleSet};

/// The outcome of checking one rules file.
#[derive(Clone, Debug)]
pub struct CheckReport {
    /// The file, as it was named.
    pub file: String,
    /// In the file's order, errors and warnings mixed.
    pub problems: Vec<Problem>,
    /// What the file sets up; `None` if it has errors.
    pub summary: Option<Summary>,
}

/// The size of a good configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub sources: usize,
    pub destinations: usize,
    pub rules: usize,
    /// Who says how urgent events are.
    pub severities: Severities,
    /// See [`Config::revision`](super::Config::revision).
    pub revision: String,
}

/// Who says how urgent events are: rules for their own; for the others `defaults`, or else the catalogue of event kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Severities {
    /// Rules that send.
    pub sending: usize,
    /// Of these, the ones that name a severity.
    pub named: usize,
    pub default: Option<model::Severity>,
}

impl Severities {
    fn of(rules: &RuleSet) -> Self {
        let sends = |rule: &&Rule| matches!(rule.action, Action::Send(_));
        let sending = rules.rules().iter().filter(sends);
        let named = sending.clone().filter(|rule| rule.severity.is_some()).count();
        Self { sending: sending.count(), named, default: rules.default_severity() }
    }
}

/// `9 of 11 sending rules name one; others, and unrouted events, have that of their kind`
impl fmt::Display for Severities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sending, named, default } = self;
        let name = if *sending == 1 || *named == 1 { "names" } else { "name" };
        write!(f, "{named} of {} {name} one; others, and unrouted events, have ", count(*sending, "sending rule"))?;
        match default {
            Some(severity) => write!(f, "the default, {severity}"),
            None => f.write_str("that of their kind"),
        }
    }
}

/// Does all that a start or a reload does with the file, and none of its effects.
pub fn check(path: &Path, options: &LoadOptions<'_>) -> CheckReport {
    let file = path.display().to_string();
    match load(path, options) {
        Ok(config) => CheckReport {
            file,
            summary: Some(Summary {
                sources: config.sources.len(),
                destinations: config.destinations.len(),
                rules: config.rules.rules().len(),
                severities: Severities::of(&config.rules),
                revision: config.revision,
            }),
            problems: config.warnings,
        },
        Err(problems) => CheckReport { file, problems: problems.list().to_vec(), summary: None },
    }
}

impl CheckReport {
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.is_error()).count()
    }

    pub fn warnings(&self) -> usize {
        self.problems.len() - self.errors()
    }

    /// 0: the daemon will run on it. 3: it will not. 1: it will, but `strict` takes warnings for findings; without
    /// `strict` they only show, since new event keys and half-written files draw them too.
    pub fn exit_code(&self, strict: bool) -> u8 {
        match (&self.summary, self.warnings()) {
            (None, _) => 3,
            (Some(_), 0) => 0,
            (Some(_), _) => u8::from(strict),
        }
    }

    /// Each problem with its line, then one line that sums up.
    pub fn text(&self, style: Style) -> String {
        // Writing to a string cannot fail.
        let mut text = render_all(&self.problems, style);
        if !text.is_empty() {
            text.push('\n');
        }
        let found = match (self.errors(), self.warnings()) {
            (0, 0) => "no problems".to_owned(),
            (0, warnings) => count(warnings, "warning"),
            (errors, 0) => count(errors, "error"),
            (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
        };
        let _ = write!(text, "{}: {found}", self.file);
        if let Some(Summary { sources, destinations, rules, severities, revision }) = &self.summary {
            let sizes = [count(*sources, "source"), count(*destinations, "destination"), count(*rules, "rule")];
            let _ = write!(text, "; {}; revision {revision}\nseverity: {severities}", sizes.join(", "));
        }
        text.push('\n');
        text
    }

    /// `{"file", "errors", "warnings", "problems": […], "summary": {…} | null}`.
    pub fn json(&self) -> Value {
        json!({
            "file": self.file,
            "errors": self.errors(),
            "warnings": self.warnings(),
            "problems": self.problems.iter().map(Problem::to_json).collect::<Vec<_>>(),
            "summary": self.summary.as_ref().map(|summary| json!({
                "sources": summary.sources,
                "destinations": summary.destinations,
                "rules": summary.rules,
                "severities": {
                    "sending": summary.severities.sending,
                    "named": summary.severities.named,
                    "default": summary.severities.default.map(model::Severity::name),
                },
                "revision": summary.revision,
            })),
        })
    }
}

/// `1 rule`, `2 rules`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
