//! `halo-relay explain`: why an event goes where it goes, by the daemon's own routing.

use std::path::PathBuf;

use clap::Args;
use humantime::format_duration;
use serde_json::{Value, json};

use super::{Common, Failure, dead, output, place};
use crate::config::{self, Config, Destination, LoadOptions};
use crate::model::{Event, Overflow, RuleName};
use crate::routing::{Explanation, Owed};

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Asked {
    /// The sample event of this key
    #[arg(long)]
    key: Option<String>,
    /// The event in this file (JSON; - is standard input)
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// The code at the foot of a message: its event, and what was tried
    code: Option<String>,
}

#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    asked: Asked,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        let Asked { key, event, code } = self.asked;
        let (event, told) = match (key, event, code) {
            (Some(key), ..) => (place::sample_event(&key)?, None),
            (_, Some(path), _) => (place::read_event(&path)?, None),
            (.., code) => {
                let code = code.unwrap_or_default();
                let detail = super::small_runtime()?.block_on(dead::find(common, &code))?;
                let event = Event::from_value(detail.event.clone())
                    .map_err(|error| Failure::new(super::exit::FINDINGS, format!("{code}: {error}")))?;
                (event, Some(detail))
            }
        };
        // Where an event goes does not depend on secrets, so none is needed.
        let config = config::load(&common.config, &LoadOptions::without_secrets())?;
        let explanation = config.rules.explain(&event);
        if self.json {
            let owed = explanation.route.owed.iter();
            let known = owed.filter_map(|owed| config.destinations.get_key_value(&owed.destination));
            let destinations = known.map(|(name, known)| (name.to_string(), settings_json(known, &config)));
            return output::say_json(&json!({
                "event": { "id": event.id.as_str(), "key": event.key.as_str(), "target": event.target() },
                "routing": explanation,
                "destinations": destinations.collect::<serde_json::Map<_, _>>(),
                "delivery": told,
            }));
        }
        let told = told.map(|detail| format!("{}\nby the rules as they are now:\n\n", dead::describe(&detail)));
        output::say(&format!("{}{}", told.unwrap_or_default(), text(&event, &explanation, &config)))
    }
}

fn text(event: &Event, explanation: &Explanation, config: &Config) -> String {
    let target = event.target().map(|target| format!(" about {}", output::tame(target))).unwrap_or_default();
    let mut text =
        format!("{}{target} (event {})\n\n", output::tame(event.key.as_str()), output::tame(event.id.as_str()));
    let rows = explanation
        .rules
        .iter()
        .map(|rule| {
            vec![format!("{}:{}", rule.place.file, rule.place.line), rule.rule.to_string(), rule.verdict.to_string()]
        })
        .chain(explanation.unrouted.iter().map(|effect| {
            vec![config.path.display().to_string(), RuleName::UNROUTED.to_owned(), format!("no rule matched: {effect}")]
        }));
    text.push_str(&output::table(&["place", "rule", "verdict"], rows));
    text.push('\n');
    if let Some(dropped) = &explanation.route.dropped {
        text.push_str(&format!("dropped by {}: {}\n", dropped.rule, dropped.reason));
    }
    if explanation.route.owed.is_empty() {
        text.push_str("nothing is sent\n");
        return text;
    }
    let rows = explanation.route.owed.iter().map(|owed| {
        let destination = config.destinations.get(&owed.destination);
        let rule = config.rules.rule(owed.rule.as_str());
        let limits = destination.map(|known| limits(known, config));
        let template = rule
            .and_then(|rule| rule.template.as_deref())
            .or_else(|| destination.and_then(|known| known.template.as_deref()))
            .unwrap_or("default");
        vec![
            owed.destination.to_string(),
            destination.map_or("?", |known| known.settings.channel().name()).to_owned(),
            owed.severity.to_string(),
            owed.rule.to_string(),
            template.to_owned(),
            limits.filter(|limits| !limits.is_empty()).map_or_else(|| "none".to_owned(), |limits| limits.join(", ")),
        ]
    });
    text.push_str(&output::table(&["sent to", "type", "severity", "told by", "template", "limits"], rows));
    let mut gap = "\n";
    for owed in &explanation.route.owed {
        let notes = notes(owed, config);
        if !notes.is_empty() {
            text.push_str(&format!("{gap}{}: {}\n", owed.destination, notes.join("; ")));
            gap = "";
        }
    }
    text
}

/// `1/1s`, `slack-workspace (100/10m)`
fn limits(destination: &Destination, config: &Config) -> Vec<String> {
    let shared = destination.shared_limits.iter().map(|name| {
        let windows = config.limits.get(name).into_iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
        format!("{name} ({})", windows.join(", "))
    });
    destination.limits.iter().map(ToString::to_string).chain(shared).collect()
}

/// What may happen to a delivery on its way: gathered with others, made part of a digest, handed on.
fn notes(owed: &Owed, config: &Config) -> Vec<String> {
    let rule = config.rules.rule(owed.rule.as_str());
    let mut notes: Vec<_> = rule.and_then(|rule| rule.batch.as_ref()).map(ToString::to_string).into_iter().collect();
    let Some(destination) = config.destinations.get(&owed.destination) else { return notes };
    if !(destination.limits.is_empty() && destination.shared_limits.is_empty()) {
        notes.push(match destination.overflow {
            Overflow::Digest { after } => {
                format!("held up by its limits for {}, part of a digest", format_duration(after))
            }
            Overflow::Queue => "held up by its limits, sent in its turn".to_owned(),
        });
    }
    if let Some(fallback) = &destination.fallback {
        notes.push(format!("not delivered for {}, sent to {}", format_duration(fallback.after), fallback.to));
    }
    notes
}

/// `over_limit` and `digest_after` as in the file; durations as text.
fn settings_json(destination: &Destination, config: &Config) -> Value {
    let shared = destination.shared_limits.iter().map(|name| {
        let windows = config.limits.get(name).into_iter().flatten().map(ToString::to_string).collect::<Vec<_>>();
        (name.to_string(), json!(windows))
    });
    let (over_limit, digest_after) = match destination.overflow {
        Overflow::Digest { after } => ("digest", Some(format_duration(after).to_string())),
        Overflow::Queue => ("queue", None),
    };
    json!({
        "limits": destination.limits.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "shared_limits": shared.collect::<serde_json::Map<_, _>>(),
        "over_limit": over_limit,
        "digest_after": digest_after,
        "fallback": destination.fallback.as_ref().map(|fallback| json!({
            "to": fallback.to.as_str(),
            "after": format_duration(fallback.after).to_string(),
        })),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn load(rules: &str) -> Config {
        let text = format!(
            "
sources: {{ halo: {{ type: halo, api_key: {{ env: KEY }} }} }}
destinations:
  chat:
    {{ type: slack, url: {{ env: URL }}, limit: [1/1s, all-chat], digest_after: 90s, fallback: {{ to: mail, after: 15m }} }}
  mail: {{ type: email, smtp: {{ host: localhost }}, from: a@example.org, to: b@example.org, limit: 30/1h, over_limit: queue }}
  free: {{ type: teams, url: {{ env: URL }} }}
limits: {{ all-chat: [5/1s, 100/10m] }}
rules: {rules}
unrouted: {{ send: [free] }}
"
        );
        config::load_str(&text, Path::new("rules.yaml"), &LoadOptions::without_secrets())
            .unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn what_may_happen_on_the_way_is_told() {
        let rules = "[{ name: certs, when: { key: \"website-cert-*\" }, send: [chat, mail], batch: { by: [target] } }]";
        let config = load(rules);
        let event = place::sample_event("website-cert-risk").unwrap_or_else(|_| panic!("the key is known"));
        let said = text(&event, &config.rules.explain(&event), &config);
        assert!(said.contains("1/1s, all-chat (5/1s, 100/10m)"), "{said}");
        let ends = "
chat: gathered by target for 30s, at most 50; held up by its limits for 1m 30s, part of a digest; not delivered for 15m, sent to mail
mail: gathered by target for 30s, at most 50; held up by its limits, sent in its turn
";
        assert!(said.ends_with(ends), "{said}");
        let json = settings_json(&config.destinations["chat"], &config);
        let expected = json!({
            "limits": ["1/1s"],
            "shared_limits": {"all-chat": ["5/1s", "100/10m"]},
            "over_limit": "digest",
            "digest_after": "1m 30s",
            "fallback": {"to": "mail", "after": "15m"},
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_plain_way_needs_no_words() {
        let config = load("[]");
        let event = place::sample_event("website-cert-risk").unwrap_or_else(|_| panic!("the key is known"));
        let said = text(&event, &config.rules.explain(&event), &config);
        assert!(said.trim_end().ends_with("none"), "{said}");
    }
}
