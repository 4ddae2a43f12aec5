//! `halo-relay render`: the exact payload that a destination would get, without sending it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Common, Failure, browser, exit, output, place};
use crate::clock::Clock;
use crate::config::{self, Config, LoadOptions};
use crate::deliver::{Settings, email};
use crate::demo::preview::{self, Payload};
use crate::model::delivery::Code;
use crate::model::event::EventError;
use crate::model::{Content, DeliveryId, DestinationName, Event, Mention, Message, RuleName, Timestamp};
use crate::render::{Audience, Circumstances, Context, Digest, DigestKind};

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// The event in this file (JSON; - is standard input)
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// The sample event of this key
    #[arg(long)]
    key: Option<String>,
}

#[derive(Debug, Args)]
pub struct Render {
    #[command(flatten)]
    what: What,
    /// The destination
    #[arg(long, value_name = "DESTINATION")]
    to: String,
    /// Use this template, whatever rule and destination say
    #[arg(long, value_name = "NAME")]
    template: Option<String>,
    /// A digest of this many such events, each at another target (2 to 1000)
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(2..=1_000))]
    digest: Option<u16>,
    /// Print mail as JSON too; other payloads are JSON
    #[arg(long)]
    json: bool,
    /// Write a page that shows the message as its channel would, nearly (- is standard output)
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    html: Option<PathBuf>,
    /// Show that page in $BROWSER, or in the desktop's browser
    #[arg(long, conflicts_with = "json")]
    open: bool,
}

impl Render {
    pub fn run(self, common: &Common) -> Result<(), Failure> {
        let event = match (&self.what.event, &self.what.key) {
            (Some(path), _) => place::read_event(path)?,
            (None, key) => place::sample_event(key.as_deref().unwrap_or_default())?,
        };
        let config = config::load(&common.config, &LoadOptions::without_secrets())?;
        let (name, destination) = find(&config, &self.to)?;
        let about = |about: &Circumstances<'_>| match self.digest {
            None => Ok(Context::new(&event, about)),
            Some(count) => Ok(Context::digest(&digest(&event, count, about.now)?, about)),
        };
        let message = message_of(&config, &name, &event, self.template.as_deref(), false, about)?;
        output::remark(&told_by(&config, &name, &event));
        if self.open || self.html.is_some() {
            return show(&page(&name, destination, &message)?, self.html.as_deref(), self.open);
        }
        match &message.content {
            Content::Mail { subject, text, html } if self.json => {
                output::say_json(&serde_json::json!({ "subject": subject, "text": text, "html": html }))
            }
            Content::Mail { .. } => output::say(&mail(&message)),
            Content::Json(_) => output::say_json(&destination.settings.payload(&message.content)),
        }
    }
}

/// As it would leave now, drawn.
fn page(name: &DestinationName, destination: &config::Destination, message: &Message) -> Result<String, Failure> {
    let now = Clock::start().now();
    let payload = match &destination.settings {
        Settings::Email(settings) => email::bytes(settings, message, now).map(Payload::Mail),
        settings => settings.payload(&message.content).map(Payload::Json),
    };
    let wrong = || Failure::new(exit::FINDINGS, format!("the message has the wrong shape for {name}"));
    Ok(preview::page(destination.settings.channel(), name, message, &payload.ok_or_else(wrong)?, now))
}

/// Writes the page where it is wanted, else where the browser finds it; says where.
fn show(page: &str, file: Option<&Path>, open: bool) -> Result<(), Failure> {
    if file == Some(Path::new("-")) && !open {
        return output::say(page);
    }
    let failed = |path: &Path, error: std::io::Error| {
        Failure::new(exit::UNREACHABLE, format!("{}: the page cannot be written: {error}", path.display()))
    };
    let path = match file.filter(|file| *file != Path::new("-")) {
        Some(file) => std::fs::write(file, page).map(|()| file.to_owned()).map_err(|error| failed(file, error))?,
        None => browser::keep(page).map_err(|error| failed(&std::env::temp_dir(), error))?,
    };
    if open {
        browser::open(&path)?;
    }
    output::say(&format!("the page is {}", path.display()))
}

/// As a rule would gather them: copies of the event, a second apart, at targets `1.` to `9.` of its own.
fn digest(event: &Event, count: u16, last: Timestamp) -> Result<Digest, Failure> {
    let copy = |number: u16| {
        let mut record = event.body().clone();
        record.insert("event_id".to_owned(), format!("{}-{number}", event.id).into());
        if let Some(target) = event.target() {
            record.insert("target".to_owned(), format!("{}.{target}", number % 9 + 1).into());
        }
        let ago = std::time::Duration::from_secs(u64::from(count - number));
        Ok((Event::from_value(record.into())?, last.minus(ago)))
    };
    let events = (1..=count).map(copy).collect::<Result<Vec<_>, EventError>>();
    let failed = |why: String| Failure::new(exit::FINDINGS, format!("a digest of this event cannot be made: {why}"));
    let events = events.map_err(|error| failed(error.to_string()))?;
    Digest::of(DigestKind::Batch, &events).ok_or_else(|| failed("it has no events".to_owned()))
}

/// `as rule certificates sends it: high (rule)`
fn told_by(config: &Config, to: &DestinationName, event: &Event) -> String {
    let route = config.rules.route(event);
    if let Some(owed) = route.owed.iter().find(|owed| owed.destination == *to) {
        return format!("as rule {} sends it: {} ({})", owed.rule, owed.severity, owed.severity_from);
    }
    let (severity, from) = config.rules.severity(None, event.key.as_str());
    format!("no rule sends it to {to}; as if it were unrouted: {severity} ({from})")
}

fn mail(message: &Message) -> String {
    let Content::Mail { subject, text, html } = &message.content else { return String::new() };
    let html = html.as_deref().map(|html| format!("\n--- text/html ---\n{html}\n")).unwrap_or_default();
    format!("Subject: {subject}\n\n--- text/plain ---\n{text}\n{html}")
}

/// The destination, or a failure that lists those there are.
pub(super) fn find<'a>(config: &'a Config, name: &str) -> Result<(DestinationName, &'a config::Destination), Failure> {
    if let Some((name, destination)) = config.destinations.get_key_value(name) {
        return Ok((name.clone(), destination));
    }
    let known: Vec<_> = config.destinations.keys().map(DestinationName::as_str).collect();
    let message = format!("there is no destination {name:?} in the rules; there are: {}", known.join(", "));
    Err(Failure::new(exit::USAGE, message))
}

/// The message as the daemon would make it now for an event that has just come. The rule is the one that would tell this
/// destination; if none would, `unrouted` stands in for it.
pub(super) fn message(
    config: &Config,
    destination: &DestinationName,
    event: &Event,
    template: Option<&str>,
    test: bool,
) -> Result<Message, Failure> {
    message_of(config, destination, event, template, test, |about| Ok(Context::new(event, about)))
}

/// Of what `context` makes of the circumstances in which the event would be told.
fn message_of(
    config: &Config,
    destination: &DestinationName,
    event: &Event,
    template: Option<&str>,
    test: bool,
    context: impl FnOnce(&Circumstances<'_>) -> Result<Context, Failure>,
) -> Result<Message, Failure> {
    let route = config.rules.route(event);
    let owed = route.owed.iter().find(|owed| owed.destination == *destination);
    let unrouted = RuleName::from(RuleName::UNROUTED);
    let rule_name = owed.map_or(&unrouted, |owed| &owed.rule);
    let rule = config.rules.rule(rule_name.as_str());
    let settings = config.destinations.get(destination);
    let channel = settings
        .map(|settings| settings.settings.channel())
        .ok_or_else(|| Failure::new(exit::USAGE, format!("there is no destination {destination}")))?;
    let template = template
        .or_else(|| rule.and_then(|rule| rule.template.as_deref()))
        .or_else(|| settings.and_then(|settings| settings.template.as_deref()))
        .unwrap_or("default");
    if !config.templates.has(channel, template) {
        let known: Vec<_> = config.templates.names(channel).collect();
        let message = format!("there is no {channel} template {template:?}; there are: {}", known.join(", "));
        return Err(Failure::new(exit::USAGE, message));
    }
    let of_destination = settings.map_or(&[][..], |settings| settings.mention.as_slice());
    let mentions = rule.and_then(|rule| rule.mention.as_deref()).unwrap_or(of_destination);
    let now = Clock::start().now();
    // No delivery stands behind it: a name that no store gives, new each time so that receivers do not fold tests.
    let id = DeliveryId::new(if test { "test" } else { "sample" }, now.as_millis());
    let circumstances = Circumstances {
        delivery_id: &id,
        code: Code::of_row(1),
        severity: config.rules.severity(rule, event.key.as_str()).0,
        rule: rule_name,
        runbook: rule.and_then(|rule| rule.runbook.as_deref()),
        destination,
        audience: settings.map_or(Audience::anyone(), |settings| &settings.audience),
        may_repeat: false,
        test,
        received: now,
        now,
        delay: None,
        detour: None,
        // A test calls nobody.
        mentions: &if test { Vec::new() } else { Mention::shown_in(mentions, channel) },
        thread: owed.and_then(|owed| owed.thread.as_deref()),
    };
    let context = context(&circumstances)?;
    let content = config
        .templates
        .render(channel, template, &context)
        .map_err(|error| Failure::new(exit::FINDINGS, format!("template {channel}/{template}: {error}")))?;
    Ok(Message { id, content, thread: None, reply_to: None })
}
