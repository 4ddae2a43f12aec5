//! `halo-relay explain`: why an event goes where it goes, by the daemon's own routing.

use std::path::PathBuf;

use clap::Args;
use humantime::format_duration;
use serde_json::{Value, json};

use super::{Common, Failure, exit, output, place};
use crate::admin::DeliveryDetail;
use crate::config::{self, Config, Destination, LoadOptions};
use crate::model::delivery::{Code, State};
use crate::model::{Event, Mention, Overflow, RuleName};
use crate::routing::{Explanation, Owed};
use crate::store::{AttemptRow, DeliveryRow, EventRow, Reader};

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Asked {
    /// The sample event of this key
    #[arg(long)]
    key: Option<String>,
    /// The event in this file (JSON; - is standard input)
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// The id of an event, or the code at the foot of a message: what came of it, then the rules as they are now
    #[arg(value_name = "ID|CODE")]
    stored: Option<String>,
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
        let Asked { key, event, stored } = self.asked;
        let (event, story) = match (key, event, stored) {
            (Some(key), ..) => (place::sample_event(&key)?, None),
            (_, Some(path), _) => (place::read_event(&path)?, None),
            (.., stored) => {
                let story = Story::find(&common.reader()?, &stored.unwrap_or_default())?;
                match story.event()? {
                    Some(event) => (event, Some(story)),
                    // A digest or a notice: no rule makes one by itself.
                    None => return story.say(self.json),
                }
            }
        };
        if let (Some(story), false) = (&story, self.json) {
            output::say(&format!("{}\nby the rules as they are now:\n\n", story.text()))?;
        }
        // Where an event goes does not depend on secrets, so none is needed.
        let config = config::load(&common.config, &LoadOptions::without_secrets())?;
        let explanation = config.rules.explain(&event);
        if !self.json {
            return output::say(&text(&event, &explanation, &config));
        }
        let owed = explanation.route.owed.iter();
        let destinations = owed.filter_map(|owed| {
            let (name, known) = config.destinations.get_key_value(&owed.destination)?;
            let mut settings = settings_json(known, &config);
            settings["calls"] = called(owed, known, &config).iter().map(ToString::to_string).collect();
            Some((name.to_string(), settings))
        });
        let mut told = json!({
            "event": { "id": event.id.as_str(), "key": event.key.as_str(), "target": event.target() },
            "routing": explanation,
            "destinations": destinations.collect::<serde_json::Map<_, _>>(),
        });
        match &story {
            Some(Story::Delivery { detail, .. }) => told["delivery"] = json!(detail),
            Some(Story::Event { event, digests, .. }) => {
                told["stored"] = json!(event);
                told["digests"] = json!(digests);
            }
            None => {}
        }
        output::say_json(&told)
    }
}

/// Prints what is on record under an event's id or a delivery's code.
pub(super) fn show(reader: &Reader, named: &str, json: bool) -> Result<(), Failure> {
    Story::find(reader, named)?.say(json)
}

/// What became of something.
enum Story {
    Event {
        event: EventRow,
        /// Those that tell its folded deliveries.
        digests: Vec<DeliveryDetail>,
        /// What was asked for names a delivery as well.
        also: Option<Box<DeliveryDetail>>,
    },
    Delivery {
        detail: Box<DeliveryDetail>,
        /// Of a digest.
        members: Vec<DeliveryRow>,
        /// The one that tells it.
        digest: Option<Box<DeliveryDetail>>,
    },
}

/// The most that a digest has.
const MEMBERS_MAX: usize = 10_000;

impl Story {
    fn find(reader: &Reader, named: &str) -> Result<Self, Failure> {
        let code = Code::parse(named);
        let delivery = code.map(|code| detail(reader, code)).transpose()?.flatten();
        if let Some(event) = reader.event(named)? {
            let mut codes: Vec<_> = event.deliveries.iter().filter_map(|(row, _)| row.digest.clone()).collect();
            codes.dedup();
            let digests = codes.iter().filter_map(|code| Code::parse(code)).map(|code| detail(reader, code));
            let digests = digests.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
            return Ok(Self::Event { event, digests, also: delivery.map(Box::new) });
        }
        let Some(found) = delivery else { return Err(unknown(reader, named)?) };
        let digest = found.delivery.digest.as_deref().and_then(Code::parse);
        let digest = digest.map(|digest| detail(reader, digest)).transpose()?.flatten().map(Box::new);
        let members = match code {
            Some(code) if found.event.is_none() => reader.members(code, MEMBERS_MAX)?,
            _ => Vec::new(),
        };
        Ok(Self::Delivery { detail: Box::new(found), members, digest })
    }

    /// The event that the rules can be asked about.
    fn event(&self) -> Result<Option<Event>, Failure> {
        let record = match self {
            Self::Event { event, .. } => Some(record(event)),
            Self::Delivery { detail, .. } => detail.event.clone(),
        };
        let read = record.map(Event::from_value).transpose();
        read.map_err(|error| Failure::new(exit::FINDINGS, format!("the stored event is damaged: {error}")))
    }

    fn say(&self, json: bool) -> Result<(), Failure> {
        if !json {
            return output::say(&self.text());
        }
        match self {
            Self::Event { event, digests, .. } => {
                output::say_json(&json!({ "stored": event, "record": record(event), "digests": digests }))
            }
            Self::Delivery { detail, members, digest } => {
                let mut told = json!(detail);
                if detail.event.is_none() {
                    told["members"] = json!(members);
                }
                if let Some(digest) = digest {
                    told["digest"] = json!(digest);
                }
                output::say_json(&told)
            }
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Event { event, digests, also } => event_text(event, digests, also.as_deref()),
            Self::Delivery { detail, members, digest } => {
                let DeliveryDetail { delivery, attempts, event } = detail.as_ref();
                let mut text = delivery_text(delivery, attempts, digest.as_deref());
                if !members.is_empty() {
                    text.push_str(&format!("\n{}", members_text(members, delivery.events)));
                }
                if let Some(event) = event {
                    text.push('\n');
                    text.push_str(&record_text(event));
                }
                text
            }
        }
    }
}

/// That nothing is on record under this name, and why perhaps.
pub(super) fn unknown(reader: &Reader, named: &str) -> Result<Failure, Failure> {
    let why = match reader.seen(named)? {
        Some(seen) => format!(
            "event {named:?} was first seen at {seen} and is not in the store: it was let go after its time, or only remembered at the first run, which sends nothing"
        ),
        None if Code::parse(named).is_some() => {
            format!("there is neither an event {named:?} nor a delivery with that code in this store")
        }
        None => {
            format!("the relay has never seen an event {named:?}, and it is not a code either; codes look like 7F3K")
        }
    };
    Ok(Failure::new(exit::UNREACHABLE, why))
}

/// What a delivery tells, in a word or two.
pub(super) fn event_name(row: &DeliveryRow) -> String {
    match row.kind.as_str() {
        "event" => output::tame(row.event_key.as_deref().unwrap_or("-")),
        "notice" => "notice of the relay".to_owned(),
        _ => format!("digest of {}", row.events),
    }
}

fn detail(reader: &Reader, code: Code) -> Result<Option<DeliveryDetail>, Failure> {
    let found = reader.delivery(code)?;
    Ok(found.map(|(delivery, attempts, event)| DeliveryDetail {
        delivery,
        attempts,
        event: event.and_then(|event| serde_json::from_str(&event).ok()),
    }))
}

fn record(event: &EventRow) -> Value {
    serde_json::from_str(&event.body).unwrap_or_default()
}

fn event_text(event: &EventRow, digests: &[DeliveryDetail], also: Option<&DeliveryDetail>) -> String {
    let mut text = format!(
        "event {} ({}), received {} from {}\n",
        output::tame(&event.event_id),
        output::tame(&event.key),
        event.received_at,
        event.source
    );
    if let Some(DeliveryDetail { delivery: other, .. }) = also {
        let of = other.event_id.as_deref().map(|id| format!(" of event {}", output::tame(id))).unwrap_or_default();
        text.push_str(&format!(
            "{} is also the code of another delivery{of}, to {}, {}\n",
            other.code, other.destination, other.state
        ));
    }
    if let Some(rule) = &event.dropped_by {
        let reason = event.drop_reason.as_deref().unwrap_or("no reason given");
        text.push_str(&format!("suppressed by rule {rule}: {}\n", output::tame(reason)));
    }
    for (row, attempts) in &event.deliveries {
        let digest = digests.iter().find(|digest| Some(&digest.delivery.code) == row.digest.as_ref());
        text.push_str(&format!("\n{}", delivery_text(row, attempts, digest)));
    }
    text.push('\n');
    text.push_str(&record_text(&record(event)));
    text
}

fn delivery_text(row: &DeliveryRow, attempts: &[AttemptRow], digest: Option<&DeliveryDetail>) -> String {
    let mut text =
        format!("{} to {} · {} · rule {} · {}\n", row.code, row.destination, row.state, row.rule, row.severity);
    text.push_str(&match row.kind.as_str() {
        "batch" => format!("a digest: rule {} gathers its events, {} so far\n", row.rule, row.events),
        "overflow" => {
            format!("a digest of {} that were more than the limits of {} let through\n", row.events, row.destination)
        }
        "notice" => format!(
            "a notice of the relay itself: {} refuses messages: {}\n",
            row.destination,
            output::tame(row.via_reason.as_deref().unwrap_or("no answer on record"))
        ),
        _ => format!(
            "event {} ({}), received {}\n",
            output::tame(row.event_id.as_deref().unwrap_or("-")),
            output::tame(row.event_key.as_deref().unwrap_or("-")),
            row.received_at
        ),
    });
    if let Some(via) = &row.via {
        let why = match row.via_reason.as_deref() {
            Some(why) if row.kind != "notice" => format!(": {}", output::tame(why)),
            _ => String::new(),
        };
        text.push_str(&format!("sent by {via} instead{why}\n"));
    }
    if let Some(reason) = &row.reason {
        text.push_str(&format!("reason: {}\n", output::tame(reason)));
    }
    if row.state == State::Dead.name() {
        let code = &row.code;
        text.push_str(&format!(
            "next: mend the cause, then `halo-relay dead retry {code}`; or `halo-relay dead drop {code} --reason …`\n"
        ));
    }
    if let Some(DeliveryDetail { delivery: digest, attempts, .. }) = digest {
        let code = &digest.code;
        let when = digest.ended_at.as_ref().map(|ended| format!(" at {ended}")).unwrap_or_default();
        text.push_str(&format!(
            "told by digest {code} of {} events, {}{when}; `halo-relay explain {code}` lists them\n",
            digest.events, digest.state
        ));
        if digest.state == State::Dead.name() {
            text.push_str(&format!(
                "next: mend the cause, then `halo-relay dead retry {code}`, which sends the digest again as a whole\n"
            ));
        }
        text.push_str(&attempts_text(attempts));
        return text;
    }
    text.push_str(&attempts_text(attempts));
    text
}

fn attempts_text(attempts: &[AttemptRow]) -> String {
    if attempts.is_empty() {
        return "not attempted yet\n".to_owned();
    }
    let rows = attempts.iter().map(|attempt| {
        vec![
            attempt.number.to_string(),
            attempt.started_at.clone(),
            attempt.destination.clone(),
            attempt.outcome.clone().unwrap_or_else(|| "under way".to_owned()),
            attempt.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
            output::tame(attempt.detail.as_deref().unwrap_or("-")),
        ]
    });
    format!("\n{}", output::table(&["attempt", "started", "sent to", "outcome", "status", "detail"], rows))
}

fn members_text(members: &[DeliveryRow], all: u64) -> String {
    let rows = members.iter().map(|row| {
        vec![
            output::tame(row.event_id.as_deref().unwrap_or("-")),
            event_name(row),
            output::tame(row.target.as_deref().unwrap_or("-")),
            row.received_at.clone(),
            row.code.clone(),
        ]
    });
    let mut text = output::table(&["event", "key", "target", "received", "code"], rows);
    let more = all.saturating_sub(members.len() as u64);
    if more > 0 {
        text.push_str(&format!("and {more} more; --json lists all that are kept\n"));
    }
    text
}

/// `serde_json` escapes control characters; what remains invisible is tamed line by line.
fn record_text(event: &Value) -> String {
    let text = serde_json::to_string_pretty(event).unwrap_or_default();
    let mut tamed = String::new();
    for line in text.lines() {
        tamed.push_str(&output::tame(line));
        tamed.push('\n');
    }
    tamed
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
            format!("{} ({})", owed.severity, owed.severity_from),
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
    if let Some(by) = rule.and_then(|rule| rule.thread_by.as_ref()).filter(|_| destination.settings.has_threads()) {
        notes.push(by.to_string());
    }
    let calls: Vec<_> = called(owed, destination, config).iter().map(ToString::to_string).collect();
    if !calls.is_empty() {
        notes.push(format!("calls {}", calls.join(", ")));
    }
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

/// Those whom the message calls, as far as its channel knows them.
fn called<'c>(owed: &Owed, destination: &'c Destination, config: &'c Config) -> Vec<&'c Mention> {
    let named = config.rules.rule(owed.rule.as_str()).and_then(|rule| rule.mention.as_ref());
    named.unwrap_or(&destination.mention).iter().filter(|one| destination.settings.calls(one)).collect()
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
        "timezone": destination.audience.zone.name(),
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
  team: {{ type: teams, url: {{ env: URL }}, mention: \"Ada Example <ada@example.org>\" }}
  bot: {{ type: slack, token: {{ env: URL }}, channel: C0123, mention: channel }}
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
        assert!(said.contains("high (event catalogue)"), "{said}");
        let ends = "
chat: gathered by target for 30s, at most 50; held up by its limits for 1m 30s, part of a digest; not delivered for 15m, sent to mail
mail: gathered by target for 30s, at most 50; held up by its limits, sent in its turn
";
        assert!(said.ends_with(ends), "{said}");
        let json = settings_json(&config.destinations["chat"], &config);
        let expected = json!({
            "limits": ["1/1s"],
            "shared_limits": {"all-chat": ["5/1s", "100/10m"]},
            "timezone": "UTC",
            "over_limit": "digest",
            "digest_after": "1m 30s",
            "fallback": {"to": "mail", "after": "15m"},
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn who_is_called_and_which_thread_is_told() {
        let to = "send: [bot, team, mail]";
        let rules = format!(
            "[{{ name: own, when: {{ key: issue-add }}, {to}, thread_by: [target], mention: [here, U0123ABCD] }},
            {{ name: theirs, when: {{ key: issue-close }}, {to} }},
            {{ name: nobody, when: {{ key: target-add }}, {to}, mention: [] }}]"
        );
        let config = load(&rules);
        let said = |key: &str| {
            let event = place::sample_event(key).unwrap_or_else(|_| panic!("the key is known"));
            let said = text(&event, &config.rules.explain(&event), &config);
            let notes = said.lines().filter_map(|line| line.split_once(": ").filter(|(name, _)| !name.contains(' ')));
            notes.map(|(name, notes)| format!("{name}: {}", notes.split("; held").next().unwrap())).collect::<Vec<_>>()
        };
        let by = "in a thread by target";
        let mail = "mail: held up by its limits, sent in its turn".to_owned();
        assert_eq!(said("issue-add"), [format!("bot: {by}; calls here, U0123ABCD"), format!("mail: {by}")]);
        assert_eq!(said("issue-close"), ["bot: calls channel", "team: calls Ada Example <ada@example.org>", &mail]);
        assert_eq!(said("target-add"), [mail]);
    }

    #[test]
    fn a_plain_way_needs_no_words() {
        let config = load("[]");
        let event = place::sample_event("website-cert-risk").unwrap_or_else(|_| panic!("the key is known"));
        let said = text(&event, &config.rules.explain(&event), &config);
        assert!(said.trim_end().ends_with("none"), "{said}");
    }
}
