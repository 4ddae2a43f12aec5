//! Trying every template before it is needed, in its own shape: on an event that has everything, on one that has nothing but
//! an id and a key, and on a hostile one, which must render to the same structure as the first; on digests of such events,
//! and on notices likewise.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::preset::Service;
use super::taint::NAMES_A_MEMBER;
use super::template::Facts;
use super::{
    Audience, Circumstances, Context, Detour, Digest, DigestKind, Format, Notice, Place, RenderError, Renderer, Shape,
    Source, TemplateError, outline, shape_of,
};
use crate::model::delivery::Code;
use crate::model::{
    Channel, Content, DeliveryId, DestinationName, Event, Mention, PresetName, RuleName, Severity, Timestamp,
};

/// Every notation of every channel that hostile text has been seen in, on one line.
pub(super) const HOSTILE: &str = "<!channel> <@U1> <http://evil.example|x> *b* _i_ ~s~ `c` :skull: [x](javascript:alert(1)) \
    <at>all</at> {{DATE(2026-01-01T00:00:00Z)}} {{event.id}} <script>alert(1)</script> \" onclick=\"x ' = \\ \", \"a\": \
    {\"b\": 1} \r\nBcc: x@evil.example\r\n\r\n https://evil.example/ \u{202E}\u{200B}\u{FEFF}\0\u{FDD0}\u{FDD1}\u{FDD3}";

/// What templates of a format see, in the order of the shapes, for the lint.
pub(super) fn contexts(format: Format) -> [Value; 3] {
    [Shape::Event, Shape::Digest, Shape::Notice].map(|shape| {
        let Some(context) = context(format.channel(), &Facts::default(), shape, Kind::Full) else { return json!({}) };
        context.as_read(&Facts::default(), format == Format::Webhook).data().clone()
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Full,
    Bare,
    Hostile,
}

/// A text of this kind that begins with these words: as long, and as different from others, in either of the two kinds
/// that have any, so that neither has more or other facts.
fn text(kind: Kind, words: &str) -> String {
    let filler = if kind == Kind::Hostile { HOSTILE.to_owned() } else { "x".repeat(HOSTILE.len()) };
    format!("{words} {filler}")
}

/// One of each kind that the channel shows. Mail shows none, so there any: a template may name their members all the same.
fn mentions(channel: Channel) -> Vec<Mention> {
    let all = [
        "here",
        "U0123ABCD",
        "S0123ABCD",
        "everyone",
        "Ada Example <ada@example.org>",
        "123456789012345678",
        "&123456789012345678",
        "@ops",
    ];
    let all: Vec<Mention> = all.iter().filter_map(|written| written.parse().ok()).collect();
    let shown = Mention::shown_in(&all, channel);
    if shown.is_empty() { all } else { shown }
}

/// `None` cannot happen: an id and a key make an event.
fn event(facts: &Facts, kind: Kind, number: usize) -> Option<Event> {
    let text = |name: &str| text(kind, name);
    let mut record = json!({"event_id": format!("id{number}"), "key": "website-cert-expiring"});
    if kind != Kind::Bare {
        record = json!({
            "event_id": format!("20261123094100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{number}"),
            "key": if number == 0 { "website-cert-expiring" } else { "brand-new" },
            "subject": text("subject"),
            "url": format!("https://app.halosecurity.com/link?q=user-event&id=id{number}"),
            "date_created": "2026-11-23 09:41",
            "target": {"target": text(&format!("target {number}")), "target_id": 123_456, "target_name": text("name")},
            "host": text("host"),
            "cert_subject_cn": text("certificate"),
            "cert_issuer_cn": text("issuer"),
            "expires_in_days": 7,
        });
        for field in &facts.fields {
            if record.get(field).is_none() {
                record[field] = json!(text(field));
            }
        }
    }
    Event::from_value(record).ok()
}

fn context(channel: Channel, facts: &Facts, shape: Shape, kind: Kind) -> Option<Context> {
    let received = Timestamp::from_millis(1_795_426_920_000);
    let full = kind != Kind::Bare;
    let (why, other) = (text(kind, "why"), DestinationName::from("other"));
    let mentions = mentions(channel);
    let about = Circumstances {
        delivery_id: &DeliveryId::new("trial", 1),
        code: Code::of_row(1),
        severity: Severity::High,
        rule: &RuleName::from("rule"),
        runbook: full.then_some("https://wiki.example.org/runbook"),
        destination: &DestinationName::from("destination"),
        audience: Audience::anyone(),
        may_repeat: full,
        test: full,
        received,
        now: if full { received.plus(std::time::Duration::from_hours(1)) } else { received },
        delay: full.then_some(&why),
        detour: full.then_some(Detour { from: &other, why: &why }),
        mentions: if full { &mentions } else { &[] },
        thread: full.then_some("0123456789abcdef"),
    };
    match shape {
        Shape::Event => event(facts, kind, 0).map(|event| Context::new(&event, &about)),
        Shape::Digest => {
            let count = if full { 12 } else { 2 };
            let events = (0..count).map(|number| Some((event(facts, kind, number)?, received)));
            let events = events.collect::<Option<Vec<_>>>()?;
            let digest = Digest::of(if full { DigestKind::Overflow } else { DigestKind::Batch }, &events)?;
            Some(Context::digest(&digest, &about))
        }
        Shape::Notice => {
            let reason = if full { why.as_str() } else { "" };
            let notice = Notice { destination: &other, reason, waiting: u64::from(full) };
            Some(Context::notice(&notice, &about))
        }
    }
}

/// Renders every template on every kind of event; what went wrong is told at the place in the file it most likely is.
pub(super) fn run(renderer: &Renderer, sources: &[Source]) -> Vec<TemplateError> {
    let mut errors: Vec<TemplateError> = Vec::new();
    let changed = |name: &PresetName, service: &Service| {
        let of_it = |source: &Source| source.format == Format::Preset(*name) && source.path.is_some();
        !service.is_built_in(*name) || sources.iter().any(of_it)
    };
    // The others are many, and were tried before they were compiled in.
    let services = renderer.services.iter().filter(|(name, service)| changed(name, service));
    let services: BTreeMap<_, _> = services.collect();
    errors.extend(services.iter().filter_map(|(name, service)| plain_fault(**name, service)));
    let is_due = |format: &Format| match format {
        Format::Preset(name) => services.contains_key(name),
        _ => true,
    };
    for (format, templates) in renderer.formats.iter().filter(|(format, _)| is_due(format)) {
        for (name, facts) in &templates.read {
            let source = |file: &str| {
                let same = |source: &&Source| source.format == *format && format.file(&source.name) == file;
                sources.iter().rev().find(same)
            };
            if let Some(error) = try_one(renderer, *format, name, facts) {
                let file = error.template.split_once('/').map_or("", |(_, file)| file);
                let found = source(file).or_else(|| source(&format.file(name))).map(|source| located(source, &error));
                errors.extend(found.filter(|error| !errors.contains(error)));
            }
        }
    }
    errors
}

/// Of a preset's plain message: it must have room for what it tells.
fn plain_fault(name: PresetName, service: &Service) -> Option<TemplateError> {
    let shapes = [Shape::Event, Shape::Digest, Shape::Notice].into_iter();
    let mut contexts = shapes.filter_map(|shape| context(Channel::Http(name), &Facts::default(), shape, Kind::Hostile));
    let message = contexts.find_map(|context| service.try_plain(&context).err())?;
    Some(TemplateError {
        path: None,
        channel: Some(Channel::Http(name)),
        name: "plain".to_owned(),
        line: 1,
        column: 1,
        message,
        help: Some("raise the limits in `values`, `together` or `bytes_max`".to_owned()),
    })
}

fn try_one(renderer: &Renderer, format: Format, name: &str, facts: &Facts) -> Option<RenderError> {
    let mut shapes = Vec::new();
    let template = name.split_once('.').map_or(name, |(template, _)| template);
    for kind in [Kind::Full, Kind::Bare, Kind::Hostile] {
        let context = context(format.channel(), facts, shape_of(name), kind)?;
        let shape = if format.is_json() {
            renderer.render_file(format.channel(), template, &context).map(|content| match content {
                Content::Json(document) => outline(&document, format.channel()),
                Content::Mail { .. } => Value::Null,
            })
        } else {
            let text = renderer.rendered(format, template, &context);
            text.map(
                |text| if format == Format::Html { json!(text.matches(['<', '>', '"']).count()) } else { Value::Null },
            )
        };
        match shape {
            Ok(shape) => shapes.push(shape),
            Err(error) => return Some(error),
        }
    }
    let changed = shapes.first() != shapes.last() && !facts.compares;
    changed.then(|| RenderError {
        template: format!("{}/{}", format.channel(), format.file(name)),
        place: Place::Whole,
        message: "what an event says changes the structure of the message".to_owned(),
    })
}

/// A place in what was rendered is looked up in the template by the literal text beside it.
pub(super) fn located(source: &Source, error: &RenderError) -> TemplateError {
    let (line, column) = match &error.place {
        Place::Line { line, column } => (*line, *column),
        Place::Whole => (1, 1),
        Place::Rendered { line } => (source.text.lines().count().min(*line).max(1), 1),
        Place::Pointer(_) if error.message == NAMES_A_MEMBER => place_of_name_with_value(&source.text),
        Place::Pointer(pointer) => place_of_member(&source.text, pointer),
    };
    let rendered = match &error.place {
        Place::Pointer(pointer) if pointer.is_empty() => None,
        Place::Pointer(pointer) => Some(format!("it is at {pointer} of the rendered message")),
        Place::Rendered { line } => Some(format!("in line {line} of the rendered text")),
        Place::Whole | Place::Line { .. } => None,
    };
    source.error(line, column, error.message.clone(), rendered)
}

/// The first text in quotes that has a value in it and a colon after it.
fn place_of_name_with_value(text: &str) -> (usize, usize) {
    let found = text.lines().zip(1..).find_map(|(line, number)| {
        let parts: Vec<&str> = line.split('"').collect();
        let is_name = |pair: &[&str]| pair[0].contains("{{") && pair[1].trim_start().starts_with(':');
        let name = parts.windows(2).position(is_name)?;
        let before: usize = parts[..name].iter().map(|part| part.chars().count() + 1).sum();
        Some((number, before.max(1)))
    });
    found.unwrap_or((1, 1))
}

/// The line and column of the member that a pointer ends in: where it has a value, else where it is first named.
fn place_of_member(text: &str, pointer: &str) -> (usize, usize) {
    let member = pointer.rsplit('/').find(|step| step.parse::<usize>().is_err()).unwrap_or_default();
    let quoted = format!("\"{member}\"");
    let places = || {
        text.lines().zip(1..).filter_map(|(line, number)| {
            let at = line.find(&quoted)?;
            Some((line[at..].contains("{{"), number, line[..at].chars().count() + 1))
        })
    };
    let best = places().find(|(has_value, ..)| *has_value).or_else(|| places().next());
    best.map_or((1, 1), |(_, line, column)| (line, column))
}
