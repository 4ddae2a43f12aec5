//! `halo-relay explain`: why an event goes where it goes, by the daemon's own routing.

use std::path::PathBuf;

use clap::Args;

use super::{Common, Failure, dead, output, place};
use crate::config::{self, Config, LoadOptions};
use crate::model::{Event, RuleName};
use crate::routing::Explanation;

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
            return output::say_json(&serde_json::json!({
                "event": { "id": event.id.as_str(), "key": event.key.as_str(), "target": event.target() },
                "routing": explanation,
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
        let limits = destination.map(|known| known.limits.iter().map(ToString::to_string).collect::<Vec<_>>());
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
    text
}
