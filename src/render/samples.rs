//! Trying the user's own templates on a sample of every kind of event that comes to them.

use std::collections::BTreeMap;

use super::template::{Facts, nearest};
use super::trial::located;
use super::{
    Audience, Circumstances, Context, DEFAULT, Digest, DigestKind, Format, RenderError, Renderer, Source,
    TemplateError, Templates,
};
use crate::catalogue::{self, Known};
use crate::model::delivery::Code;
use crate::model::{Channel, DeliveryId, DestinationName, Event, EventKey, RuleName, Timestamp};

/// How many keys a message names before it counts the rest.
const NAMED_MAX: usize = 3;

/// What a template makes of the events that come to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Some of them cannot be rendered.
    pub errors: Vec<TemplateError>,
    /// It relies on fields that some of them, or all, do not have.
    pub warnings: Vec<TemplateError>,
}

impl Renderer {
    /// Whether any template of this channel is the user's: those compiled in serve every kind of event.
    pub fn has_own(&self, channel: Channel) -> bool {
        self.formats_of(channel).any(|(_, templates)| !templates.own.is_empty())
    }

    /// Renders one template for a sample of each of these kinds, and for a digest of them.
    pub fn try_samples(&self, channel: Channel, name: &str, keys: &[&'static Known]) -> Tried {
        let samples: Vec<_> = keys.iter().filter_map(|known| Some((*known, sample(known)?))).collect();
        let mut failed: BTreeMap<String, (RenderError, Vec<&str>)> = BTreeMap::new();
        let mut tried = |context: &Context, key| {
            if let Err(error) = self.render(channel, name, context) {
                failed.entry(error.to_string()).or_insert_with(|| (error, Vec::new())).1.push(key);
            }
        };
        for (known, event) in &samples {
            tried(&circumstances(known, |about| Context::new(event, about)), known.key);
        }
        // Of at least two, as digests are.
        let members = samples.iter().cycle().take(samples.len().clamp(2, Digest::LISTED_MAX));
        let members: Vec<_> = members.map(|(_, event)| (event.clone(), NOW)).collect();
        if let (Some((known, _)), Some(digest)) = (samples.first(), Digest::of(DigestKind::Batch, &members)) {
            tried(&circumstances(known, |about| Context::digest(&digest, about)), "a digest");
        }
        let errors = failed.into_values().filter_map(|(error, keys)| self.failed(channel, name, &error, &keys));
        Tried { errors: errors.collect(), warnings: self.missed(channel, name, &samples) }
    }

    fn formats_of(&self, channel: Channel) -> impl Iterator<Item = (Format, &Templates)> {
        let formats = self.formats.iter().map(|(format, templates)| (*format, templates));
        formats.filter(move |(format, _)| format.channel() == channel)
    }

    /// At its place in the user's file: the one that is at fault, or that stands nearest to it.
    fn failed(&self, channel: Channel, name: &str, error: &RenderError, keys: &[&str]) -> Option<TemplateError> {
        let file = error.template.split_once('/').map_or("", |(_, file)| file);
        let own = || self.formats_of(channel).flat_map(|(_, templates)| templates.own.values());
        let named = |file: &str| own().find(|source| source.format.file(&source.name) == file);
        let source = named(file).or_else(|| own().find(|source| source.name == name)).or_else(|| own().next())?;
        let mut found = located(source, error);
        found.message = format!("{}, in a message of {}", found.message, listed(keys));
        Some(found)
    }

    /// Fields that the template takes for granted and that events of some of these kinds lack.
    fn missed(&self, channel: Channel, name: &str, samples: &[(&Known, Event)]) -> Vec<TemplateError> {
        let mut found = Vec::new();
        for (format, templates) in self.formats_of(channel) {
            let file = if templates.read.contains_key(name) { name } else { DEFAULT };
            let Some(facts) = templates.read.get(file) else { continue };
            found.extend(missed(format, templates, facts, samples));
        }
        found
    }
}

fn missed(format: Format, templates: &Templates, facts: &Facts, samples: &[(&Known, Event)]) -> Vec<TemplateError> {
    let has = |(known, event): &(&Known, Event), field: &str| {
        event.field(field).is_some() || known.fields().any(|known| known == field)
    };
    let mut found = Vec::new();
    for (field, (file, line, column)) in &facts.relied_on {
        let without: Vec<_> = samples.iter().filter(|sample| !has(sample, field)).map(|(known, _)| known.key).collect();
        // Machines expect to be given null.
        let matters = without.len() == samples.len() || format != Format::Webhook;
        let Some(source) = templates.own.get(file).filter(|_| matters && !without.is_empty()) else { continue };
        found.push(if without.len() == samples.len() {
            none_has(source, (*line, *column), field, samples)
        } else {
            let message = format!("there is no `{field}` in events of {}, which come here too", listed(&without));
            let help = format!(
                "there it prints nothing: write {{{{default event.fields.{field} \"…\"}}}}, or put it in {{{{#if event.fields.{field}}}}}"
            );
            source.error(*line, *column, message, Some(help))
        });
    }
    found
}

fn none_has(
    source: &Source,
    (line, column): (usize, usize),
    field: &str,
    samples: &[(&Known, Event)],
) -> TemplateError {
    /// As many as fit a line.
    const FIELDS_MAX: usize = 8;

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for field in samples.iter().flat_map(|(known, _)| known.fields()) {
        *counts.entry(field).or_default() += 1;
    }
    let help = nearest(field, counts.keys().copied()).unwrap_or_else(|| {
        let mut common: Vec<_> = counts.iter().collect();
        common.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let common: Vec<_> = common.into_iter().map(|(field, _)| *field).take(FIELDS_MAX).collect();
        format!("the commonest fields here are {}", common.join(", "))
    });
    let keys: Vec<_> = samples.iter().map(|(known, _)| known.key).collect();
    let message = format!("none of the events that come here has a `{field}`: not {}", listed(&keys));
    source.error(line, column, message, Some(help))
}

/// `a`, `a and b`, `a, b, c and 12 more`
fn listed(keys: &[&str]) -> String {
    match keys {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [others @ .., last] if keys.len() <= NAMED_MAX => format!("{} and {last}", others.join(", ")),
        keys => format!("{} and {} more", keys[..NAMED_MAX].join(", "), keys.len() - NAMED_MAX),
    }
}

const NOW: Timestamp = Timestamp::from_millis(1_795_426_920_000);

fn sample(known: &Known) -> Option<Event> {
    EventKey::new(known.key).ok().map(|key| catalogue::sample(&key))
}

fn circumstances(known: &Known, context: impl FnOnce(&Circumstances<'_>) -> Context) -> Context {
    context(&Circumstances {
        delivery_id: &DeliveryId::new("sample", 1),
        code: Code::of_row(1),
        severity: known.severity,
        rule: &RuleName::from("rule"),
        runbook: Some("https://wiki.example.org/runbook"),
        destination: &DestinationName::from("destination"),
        audience: Audience::anyone(),
        mentions: &[],
        thread: None,
        may_repeat: false,
        test: false,
        received: NOW,
        now: NOW,
        delay: None,
        detour: None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(files: &[(&str, &str)]) -> Renderer {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Renderer::load(Some(dir.path()), &[]).unwrap_or_else(|errors| panic!("{errors:#?}"))
    }

    /// `name:line:column: message (help)`, of errors and of warnings.
    fn tried(files: &[(&str, &str)], name: &str, keys: &[&str]) -> (Vec<String>, Vec<String>) {
        let renderer = load(files);
        let channel = files[0].0.split_once('/').unwrap().0.parse().unwrap();
        assert!(renderer.has_own(channel));
        let keys: Vec<_> = keys.iter().map(|key| catalogue::find(key).unwrap()).collect();
        let tried = renderer.try_samples(channel, name, &keys);
        let told = |list: Vec<TemplateError>| {
            let one = |error: TemplateError| {
                format!(
                    "{}:{}:{}: {} ({})",
                    error.name,
                    error.line,
                    error.column,
                    error.message,
                    error.help.unwrap_or_default()
                )
            };
            list.into_iter().map(one).collect::<Vec<_>>()
        };
        (told(tried.errors), told(tried.warnings))
    }

    const CERTS: [&str; 5] = [
        "website-cert-expired",
        "website-cert-expiring",
        "website-cert-new-country",
        "website-cert-new-issuer",
        "website-cert-risk",
    ];

    #[test]
    fn fields_that_are_not_there() {
        let slack = |text: &str| format!("{{\"text\": \"{text}\"}}");
        let one = ["website-cert-risk"];
        let (risk, port) =
            (slack("{{event.fields.risk_reason}}"), slack("a\n{{event.fields.port}}").replace('\n', "\\n"));
        let cases: [(&str, &str, &[&str], &[&str]); 11] = [
            ("slack/a.hbs", &risk, &one, &[]),
            (
                "slack/a.hbs",
                &slack("{{event.fields.risk_raison}}"),
                &one,
                &[
                    "a:1:11: none of the events that come here has a `risk_raison`: not website-cert-risk (did you mean `risk_reason`?)",
                ],
            ),
            (
                "slack/a.hbs",
                &port,
                &one,
                &[
                    "a:1:14: none of the events that come here has a `port`: not website-cert-risk (the commonest fields here are risk, risk_reason, scan_id, target_id)",
                ],
            ),
            (
                "slack/a.hbs",
                &risk,
                &CERTS,
                &[
                    "a:1:11: there is no `risk_reason` in events of website-cert-expired, website-cert-expiring, website-cert-new-country \
                   and 1 more, which come here too (there it prints nothing: write {{default event.fields.risk_reason \"…\"}}, \
                   or put it in {{#if event.fields.risk_reason}})",
                ],
            ),
            // What is asked for first may be missing.
            ("slack/a.hbs", &slack("{{default event.fields.risk_reason '-'}}"), &CERTS, &[]),
            ("slack/a.hbs", &slack("{{#if event.fields.risk_reason}}{{event.fields.risk_reason}}{{/if}}"), &CERTS, &[]),
            (
                "slack/a.hbs",
                &slack("{{#if (and test event.fields.risk)}}{{short event.fields.risk 3}}{{/if}}"),
                &CERTS,
                &[],
            ),
            // Names that the vendor uses for one thing, and what every record has.
            (
                "slack/a.hbs",
                &slack("{{event.fields.pci_report_id}} {{event.fields.target_id}}"),
                &["pci-report-rejected"],
                &[],
            ),
            // Machines are given null.
            ("webhook/a.hbs", "{\"a\": {{json event.fields.risk}}}", &CERTS, &[]),
            (
                "webhook/a.hbs",
                "{\"a\": {{json event.fields.risks}}}",
                &one,
                &[
                    "a:1:7: none of the events that come here has a `risks`: not website-cert-risk (did you mean `risk`?)",
                ],
            ),
            ("email/a.html.hbs", "<p>{{event.fields.risk}}</p>", &one, &[]),
        ];
        for (file, text, keys, expected) in cases {
            assert_eq!(
                tried(&[(file, text)], "a", keys),
                (vec![], expected.iter().map(ToString::to_string).collect()),
                "{text}"
            );
        }
        // Outside of the block nobody asked; in a partial it is the partial's place.
        let (_, warnings) =
            tried(&[("slack/a.hbs", &slack("{{#if event.fields.port}}x{{/if}}{{event.fields.port}}"))], "a", &one);
        assert_eq!(warnings.len(), 1);
        let files = [("slack/a.hbs", slack("{{> _b}}")), ("slack/_b.hbs", "{{event.fields.port}}".to_owned())];
        let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
        let (_, warnings) = tried(&files, "a", &one);
        assert!(warnings.iter().all(|warning| warning.starts_with("_b:1:1: ")) && warnings.len() == 1, "{warnings:?}");
    }

    #[test]
    fn kinds_that_cannot_be_rendered() {
        let text = r#"{"text": "x"{{#if (eq event.key "website-cert-risk")}} "blocks": []{{/if}}}"#;
        let (errors, warnings) = tried(&[("slack/a.hbs", text)], "a", &CERTS);
        assert_eq!((errors.len(), warnings.len()), (1, 0));
        assert!(errors[0].starts_with("a:1:1: the result is not JSON: "), "{errors:?}");
        assert!(errors[0].contains(", in a message of website-cert-risk ("), "{errors:?}");
        assert_eq!(tried(&[("slack/a.hbs", text)], "a", &CERTS[..4]), (vec![], vec![]));
        // A digest is tried with these members.
        let digest = r#"{"text": "x"{{#each digest.events}}{{#if (eq key "website-cert-risk")}}?{{/if}}{{/each}}}"#;
        let files = [("slack/a.hbs", r#"{"text": "x"}"#), ("slack/a.digest.hbs", digest)];
        let (errors, _) = tried(&files, "a", &CERTS);
        assert!(
            errors.iter().all(|error| error.contains("a.digest") || error.contains("in a message of a digest")),
            "{errors:?}"
        );
        assert_eq!(errors.len(), 1, "{errors:?}");
    }

    #[test]
    fn all_keys_in_own_default() {
        let keys: Vec<_> = catalogue::all().iter().map(|known| known.key).collect();
        let text = r#"{"text": "{{headline}} {{event.fields.detail}}"}"#;
        let (errors, warnings) = tried(&[("slack/default.hbs", text)], "default", &keys);
        assert_eq!((errors.len(), warnings.len()), (0, 1), "{errors:?} {warnings:?}");
        assert!(!Renderer::builtin().has_own(Channel::Slack));
    }
}
