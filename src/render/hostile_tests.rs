//! Hostile event text through every channel, by the built-in templates and by careless ones; and templates that must be
//! refused.

use proptest::prelude::*;
use serde_json::json;

use super::snapshot_tests::{about, context};
use super::*;
use crate::model::{DestinationName, Event, Severity, Timestamp};

/// What has been used, or could be, to break out of some channel's text.
pub(super) const HOSTILE: [&str; 52] = include!("../../tests/data/hostile.in");

/// An event of one shape whose every text is `hostile` after a few plain letters that keep its fields apart.
pub(super) fn event(hostile: &str) -> Event {
    let text = |name: &str| format!("{name} {hostile}");
    Event::from_value(json!({
        "event_id": "id1", "key": "brand-new", "subject": text("subject"), "target": text("target padded to be long enough to be cut off in the headline"),
        "url": "https://app.halosecurity.com/link?q=user-event&id=id1", "date_created": "2026-11-23 09:41",
        "first": text("first"), "second": text("second"), "third": [text("third")], "fourth": {"fourth": text("fourth")},
    }))
    .unwrap()
}

/// Templates that put values where their authors should have thought twice.
const CARELESS: [(&str, &str); 10] = [
    (
        "slack/careless.hbs",
        r#"{"text": "{{event.subject}}", "attachments": [{"color": "{{severity.color}}", "title": "{{title}}",
            "text": "{{event.fields.first}}{{event.fields.second}}", "fallback": "{{headline}}",
            "fields": [{"title": "{{event.target}}", "value": "{{event.fields.third}}"}]}],
            "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "{{event.subject}}\n{{event.fields.first}}"},
              "fields": [{{#each facts}}{"type": "mrkdwn", "text": "{{label}} {{value}}"}{{#unless @last}},{{/unless}}{{/each}}]},
              {"type": "actions", "elements": [{{#if link.url}}{"type": "button", "text": {"type": "plain_text", "text": "{{title}}"}, "url": "{{link.url}}"}{{/if}}]}]}"#,
    ),
    (
        "teams/careless.hbs",
        r#"{"type": "AdaptiveCard", "version": "1.4", "speak": "{{headline}}", "body": [
            {"type": "TextBlock", "text": "{{event.subject}}"},
            {"type": "TextBlock", "text": "{{event.fields.first}}{{event.fields.second}}\n\n{{event.target}}"},
            {"type": "RichTextBlock", "inlines": ["{{event.fields.third}}", {"type": "TextRun", "text": "{{headline}}"}]},
            {"type": "FactSet", "facts": [{{#each facts}}{"title": "{{label}}", "value": "{{value}}"}{{#unless @last}},{{/unless}}{{/each}}]}],
            "actions": [{{#if link.url}}{"type": "Action.OpenUrl", "title": "{{title}}", "url": "{{link.url}}"}{{/if}}]}"#,
    ),
    (
        "webhook/careless.hbs",
        r#"{"a": "{{event.subject}}{{event.fields.first}}", "b": {{json event.body}}, "type": "{{event.target}}", "url": "{{event.url}}",
            "list": [{{#each facts}}"{{label}}: {{value}}"{{#unless @last}},{{/unless}}{{/each}}], "f": {{json event.fields.first}}}"#,
    ),
    ("email/careless.subject.hbs", "{{event.subject}}\n{{event.fields.first}} {{upper event.target}}"),
    (
        "email/careless.html.hbs",
        r#"<title>{{event.subject}}</title><p title="{{event.fields.first}}" class="x {{severity.name}}">{{event.fields.second}}</p>
            <table>{{#each event.fields}}<tr><td title="{{this}}" bgcolor="{{../severity.color}}">{{@key}}<td>{{this}}{{/each}}</table>"#,
    ),
    (
        "slack/careless.digest.hbs",
        r#"{"text": "{{headline}} {{detour.why}}", "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": "{{detour.text}}\n{{late}}\n{{delay}}"}},
            {{#each digest.events}}{"type": "section", "text": {"type": "mrkdwn", "text": "{{title}} {{key}}\n{{target}} {{line}}"}},{{/each}}
            {"type": "section", "text": {"type": "mrkdwn", "text": "{{#each digest.targets}}{{target}}{{count}}{{/each}} {{#each digest.keys}}{{key}}{{title}}{{/each}}"}}]}"#,
    ),
    (
        "teams/careless.digest.hbs",
        r#"{"type": "AdaptiveCard", "version": "1.4", "speak": "{{detour.text}}", "body": [
            {"type": "TextBlock", "text": "{{detour.why}}"}, {"type": "TextBlock", "text": "{{late}}\n\n{{delay}}"},
            {"type": "FactSet", "facts": [{{#each digest.events}}{"title": "{{title}}", "value": "{{line}}"},{{/each}} {"title": "x", "value": "y"}]},
            {{#each digest.keys}}{"type": "TextBlock", "text": "{{title}}"}, {"type": "TextBlock", "text": "{{key}}{{count}}"},{{/each}}
            {"type": "TextBlock", "text": "{{#each digest.targets}}{{target}}{{/each}}"}]}"#,
    ),
    (
        "webhook/careless.digest.hbs",
        r#"{"detour": {{json detour}}, "why": "{{detour.why}}", "digest": {{json digest}}, "late": "{{late}}",
            "list": [{{#each digest.targets}}"{{target}}: {{count}}"{{#unless @last}},{{/unless}}{{/each}}]}"#,
    ),
    ("email/careless.digest.subject.hbs", "{{detour.why}} {{delay}}\n{{#each digest.targets}}{{target}}{{/each}}"),
    (
        "email/careless.digest.html.hbs",
        r#"<title>{{detour.text}}</title><p title="{{late}}">{{delay}}</p><table>
            {{#each digest.events}}<tr><td title="{{line}}">{{key}}<td>{{#if link.url}}<a href="{{link.url}}">{{title}}{{target}}</a>{{/if}}{{/each}}
            {{#each digest.keys}}<tr><td title="{{key}}">{{title}}{{/each}}{{#each digest.targets}}<tr><td>{{target}}{{count}}{{/each}}</table>"#,
    ),
];

/// The same, but late and on another's way.
pub(super) fn rerouted<'a>(about: &Circumstances<'a>, detour: Detour<'a>) -> Circumstances<'a> {
    Circumstances {
        now: about.received.plus(std::time::Duration::from_hours(1)),
        delay: Some(detour.why),
        detour: Some(detour),
        ..*about
    }
}

/// Of every shape, and late and on another's way, with hostile text wherever strangers have their say.
pub(super) fn contexts(hostile: &str) -> [Context; 3] {
    let event = |number: usize| {
        let mut record = event(hostile).body().clone();
        let target = record["target"].as_str().unwrap_or_default();
        let target = format!("{} {target}", number / 3);
        let key = format!("key {} {hostile}", number % 2);
        let key: String = key.chars().filter(|letter| !letter.is_control()).collect();
        let end = key.char_indices().map(|(at, _)| at).take_while(|at| *at <= 120).last().unwrap_or_default();
        record.insert("event_id".to_owned(), json!(format!("id{number}")));
        record.insert("target".to_owned(), json!(target));
        record.insert("key".to_owned(), json!(key[..end]));
        (Event::from_value(record.into()).unwrap(), Timestamp::default())
    };
    let digest = Digest::of(DigestKind::Overflow, &(0..11).map(event).collect::<Vec<_>>()).unwrap();
    let other = DestinationName::from("other");
    // After plain letters, since of an empty reason nothing is told.
    let reason = format!("reason {hostile}");
    let detour = Detour { from: &other, why: &reason };
    let notice = Notice { destination: &other, reason: &reason, waiting: 3 };
    [
        about(|_| (), |about| Context::new(&self::event(hostile), &rerouted(about, detour))),
        about(|_| (), |about| Context::digest(&digest, &rerouted(about, detour))),
        about(|_| (), |about| Context::notice(&notice, &rerouted(about, detour))),
    ]
}

/// Templates that put values next to each other and to literals, so that together they could be an address.
const JOINING: [(&str, &str); 5] = [
    (
        "slack/joining.hbs",
        r#"{"text": "{{event.fields.a}}{{event.fields.b}} {{event.fields.c}}.{{event.fields.d}} x@{{event.target}}",
            "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": "https://{{event.fields.e}} {{short event.target 17}}"}},
              {"type": "header", "text": {"type": "plain_text", "text": "www{{event.fields.b}} {{event.fields.f}}{{event.fields.g}}"}},
              {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [
                {"type": "text", "text": "https://wiki.example.org{{event.fields.b}}"}]}]}]}"#,
    ),
    (
        "teams/joining.hbs",
        r#"{"type": "AdaptiveCard", "body": [
            {"type": "TextBlock", "text": "{{event.fields.a}}{{event.fields.b}} {{event.fields.c}}.{{event.fields.d}} x@{{event.target}}"},
            {"type": "TextBlock", "text": "https://{{event.fields.e}} {{short event.target 17}}"},
            {"type": "RichTextBlock", "inlines": ["{{event.fields.f}}{{event.fields.g}} www{{event.fields.b}}"]},
            {"type": "FactSet", "facts": [{"title": "{{event.fields.f}}", "value": "https://wiki.example.org{{event.fields.b}}"}]}]}"#,
    ),
    ("email/joining.subject.hbs", "{{event.fields.a}}{{event.fields.b}}"),
    (
        "email/joining.text.hbs",
        "{{event.fields.a}}{{event.fields.b}} {{event.fields.c}}.{{event.fields.d}} x@{{event.target}}\n\
         https://{{event.fields.e}} {{short event.target 17}}\n{{event.fields.f}}{{event.fields.g}} www{{event.fields.b}}\n\
         {{event.fields.h}} https://wiki.example.org{{event.fields.b}}",
    ),
    (
        "email/joining.html.hbs",
        "<p>{{event.fields.a}}{{event.fields.b}} {{event.fields.c}}.{{event.fields.d}} x@{{event.target}}</p>\
         <p>https://{{event.fields.e}} {{short event.target 17}} {{event.fields.f}}{{event.fields.g}} www{{event.fields.b}}</p>\
         <p>https://wiki.example.org{{event.fields.b}}</p>",
    ),
];

#[test]
fn values_do_not_become_addresses_together() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &JOINING);
    let renderer = Renderer::load(Some(dir.path()), &[]).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let event = Event::from_value(json!({
        "event_id": "1", "key": "k", "subject": "s", "target": "www.bank.example.evil.example",
        "a": "evil", "b": ".zip", "c": "evil", "d": "example", "e": "evil", "f": "javascript", "g": ":alert", "h": ">quoted",
    }))
    .unwrap();
    for channel in [Channel::Slack, Channel::Teams, Channel::Email] {
        let text = match renderer.render(channel, "joining", &context(&event, |_| ())).unwrap() {
            Content::Json(document) => {
                let mut texts = Vec::new();
                each_text(&document, &mut |_, _, text| texts.push(text.to_owned()));
                texts.join("\n")
            }
            Content::Mail { subject, text, html } => format!("{subject}\n{text}\n{}", html.unwrap()),
        };
        for address in ["evil.zip", "evil.example", "https://", "www.", ".zip", "javascript:", "bank.example"] {
            assert!(!text.contains(address), "{channel} {address}: {text}");
        }
        assert!(text.contains("hxxps://wiki[.]example[.]org[.]zip") || channel == Channel::Teams, "{text}");
        assert!(!text.lines().any(|line| line.starts_with('>')), "{text}");
    }
}

/// Labels of events that nobody knows are the names of their fields.
#[test]
fn hostile_field_names_stay_text() {
    let renderer = careless();
    let record = |hostile: &str| {
        let (first, second) = (format!("one {hostile}"), format!("two {hostile}"));
        context(
            &Event::from_value(json!({"event_id": "1", "key": "k", "subject": "s", first: 1, second: {hostile: 1e300},
                "first": [[[[1]]]], "second": -0.0, "third": 1e-300, "fourth": {"a": {"b": {"c": [{}]}}}}))
            .unwrap(),
            |_| (),
        )
    };
    for hostile in HOSTILE {
        let (hostile_context, benign) = (record(hostile), record(&"x".repeat(hostile.len())));
        for channel in [Channel::Slack, Channel::Teams, Channel::Email] {
            for template in [DEFAULT, "careless"] {
                let render = |context| renderer.render(channel, template, context).unwrap();
                let (content, benign) = (render(&hostile_context), render(&benign));
                assert_eq!(skeleton(channel, &content), skeleton(channel, &benign), "{channel}/{template} {hostile:?}");
                if let (Content::Json(document), Channel::Slack | Channel::Teams) = (&content, channel) {
                    assert_inert(channel, document);
                }
            }
        }
    }
}

#[test]
fn a_subject_of_nothing_is_the_headline() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &[("email/bare.subject.hbs", "{{event.subject}}")]);
    let renderer = Renderer::load(Some(dir.path()), &[]).unwrap();
    for nothing in ["", "\u{202E}\r\n\0\u{200B}"] {
        let event = Event::from_value(json!({"event_id": "1", "key": "new-kind", "subject": nothing})).unwrap();
        let content = renderer.render(Channel::Email, "bare", &context(&event, |_| ())).unwrap();
        assert!(matches!(&content, Content::Mail { subject, .. } if subject == "HIGH · New kind"), "{content:?}");
    }
}

pub(super) fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn careless() -> Renderer {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &CARELESS);
    Renderer::load(Some(dir.path()), &[]).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// Everything about a message that hostile text must not change.
fn skeleton(channel: Channel, content: &Content) -> Value {
    match content {
        Content::Json(document) => outline(document, channel),
        Content::Mail { subject, text, html } => {
            assert!(!subject.chars().any(text::is_hidden), "{subject:?}");
            assert!(subject.chars().count() <= 220 && !subject.contains("=?"), "{subject}");
            for text in [subject, text, html.as_deref().unwrap_or_default()] {
                // Behind a bracket of the text's own, slashes begin no address either.
                let mut text = text.replace("[//", "[");
                // A scheme at the end of a cell or a title, where a value is cut, joins nothing.
                for scheme in ["javascript", "mailto", "tel"] {
                    text = text.replace(&format!("{scheme}:<"), "<").replace(&format!("{scheme}:\""), "\"");
                }
                for address in
                    ["evil.example", "evil.museum", "www.evil", "💩.la", "javascript:", "mailto:", "tel:", "//evil"]
                {
                    assert!(
                        !text.contains(address)
                            || text.contains(&format!("xxps:{address}"))
                            || text.contains(&format!("xxp:{address}")),
                        "{address}: {text}"
                    );
                }
            }
            let html = html.as_deref().unwrap_or_default();
            let marks = |letters: &str| html.matches(|letter| letters.contains(letter)).collect::<String>();
            let links: Vec<_> = html.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
            json!([text.lines().count(), marks("<>\"'`"), links, html.matches('=').count()])
        }
    }
}

/// The texts of a Slack or Teams message that stand in nodes with markup, as the careless templates place them: all of
/// each is a value, so none of the markup may be left.
fn assert_inert(channel: Channel, document: &Value) {
    each_text(document, &mut |owner, name, text| {
        assert!(!text.chars().any(|letter| text::is_hidden(letter) && letter != '\n'), "{text:?}");
        let kind = owner.get("type").and_then(Value::as_str);
        match (channel, kind, name) {
            (Channel::Slack, None | Some("mrkdwn"), "text" | "title" | "value" | "fallback") => {
                assert!(!text.contains(['<', '>', '*', '~', '`']), "{text}");
                for entity in text.split('&').skip(1) {
                    assert!(["amp;", "lt;", "gt;"].iter().any(|known| entity.starts_with(known)), "{text}");
                }
                assert_no_emoji(text);
            }
            (Channel::Slack, Some("plain_text"), "text") => {
                assert!(!text.contains(['<', '>']), "{text}");
                if owner.get("emoji") != Some(&Value::Bool(false)) {
                    assert_no_emoji(text);
                }
            }
            (Channel::Teams, Some("TextBlock") | None, "text" | "title" | "value") => {
                assert!(!text.contains(['<', '>', '*', '~', '`']) && !text.contains("{{"), "{text}");
                let bare = text.replace("\\\\", "").replace("\\[", "").replace("\\]", "");
                assert!(!bare.contains(['[', ']', '\\']), "{text}");
                assert!(!text.lines().any(|line| line.starts_with(['#', '-', '+', '='])), "{text}");
            }
            (Channel::Teams, Some("TextRun"), "text") => assert!(!text.contains("{{") && !text.contains('<'), "{text}"),
            _ => {}
        }
        if !matches!(name, "url" | "$schema") {
            let rest = text.replace("hxxp://", "").replace("hxxps://", "").replace("[://", "");
            assert!(!rest.contains("://"), "{text}");
            assert!(!text.contains("evil.example") && !text.contains("javascript:"), "{text}");
        }
    });
}

pub(super) fn assert_no_emoji(text: &str) {
    let words: Vec<_> = text.split(':').collect();
    for word in words.iter().take(words.len() - 1).skip(1) {
        assert!(
            word.is_empty() || word.contains(|letter: char| !letter.is_alphanumeric() && !"_+-'".contains(letter)),
            "{text}"
        );
    }
}

type Visit<'v> = dyn FnMut(&serde_json::Map<String, Value>, &str, &str) + 'v;

fn each_text(value: &Value, visit: &mut Visit<'_>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| each_text(item, visit)),
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) => visit(members, name, text),
                    member => each_text(member, visit),
                }
            }
        }
        _ => {}
    }
}

fn check(renderer: &Renderer, hostile: &str) {
    check_on(&Channel::ALL, renderer, hostile);
}

fn check_on(channels: &[Channel], renderer: &Renderer, hostile: &str) {
    let filler = "x".repeat(hostile.len().max(1));
    for (hostile_one, benign) in contexts(hostile).iter().zip(&contexts(&filler)) {
        check_one(channels, renderer, (hostile_one, benign), hostile);
    }
    check_one(channels, renderer, (&context(&event(hostile), |_| ()), &context(&event(&filler), |_| ())), hostile);
}

fn check_one(
    channels: &[Channel],
    renderer: &Renderer,
    (context_hostile, context_benign): (&Context, &Context),
    hostile: &str,
) {
    for channel in channels.iter().copied() {
        for template in [DEFAULT, "careless"] {
            let render =
                |context| renderer.render(channel, template, context).unwrap_or_else(|error| panic!("{error}"));
            let (content, benign) = (render(context_hostile), render(context_benign));
            assert_eq!(skeleton(channel, &content), skeleton(channel, &benign), "{channel}/{template} {hostile:?}");
            if let (Content::Json(document), Channel::Slack | Channel::Teams) = (&content, channel) {
                assert_inert(channel, document);
            }
        }
        let (content, benign) = (renderer.plain(channel, context_hostile), renderer.plain(channel, context_benign));
        assert_eq!(skeleton(channel, &content), skeleton(channel, &benign), "{channel} plain {hostile:?}");
    }
}

#[test]
fn hostile_text_stays_text() {
    let renderer = careless();
    for hostile in HOSTILE {
        check(&renderer, hostile);
    }
    check(&renderer, trial::HOSTILE);
    check(&renderer, &HOSTILE.join(" "));
    // A webhook gets texts whole, and so no more of them than its limit.
    for long in ["<!channel> [x](y) \u{FDD1}\"\\".repeat(4_000), "\u{202E}".repeat(70_000), "&".repeat(70_000)] {
        check_on(&[Channel::Slack, Channel::Teams, Channel::Email], &renderer, &long);
    }
}

/// Ten events of the longest texts, in letters of four bytes, with addresses as long as a link may be.
#[test]
fn the_longest_digest_is_within_all_limits() {
    let long = "\u{1F6A8}".repeat(2_000);
    let event = |number: usize| {
        let url = format!("https://app.halosecurity.com/link?q=user-event&id={number}{}", "0".repeat(440));
        let record = json!({"event_id": format!("id{number}"), "key": format!("{number}{}", &long[..120]), "url": url,
            "subject": format!("{number}{long}"), "target": format!("{number}{long}"), "expires_in_days": 99_999});
        (Event::from_value(record).unwrap(), Timestamp::default().plus(std::time::Duration::from_hours(number as u64)))
    };
    let mut digest = Digest::of(DigestKind::Overflow, &(0..30).map(event).collect::<Vec<_>>()).unwrap();
    digest.count = 9_999_999;
    digest.targets[0].1 = 9_999_999;
    let name = DestinationName::from("n".repeat(200).as_str());
    let detour = Detour { from: &name, why: &long };
    let context = about(
        |about| (about.test, about.may_repeat, about.severity) = (true, true, Severity::Critical),
        |about| Context::digest(&digest, &rerouted(about, detour)),
    );
    let headline = context.text("headline").unwrap();
    assert!(headline.chars().count() <= 148, "{headline}");
    assert!(headline.starts_with("TEST · CRITICAL · 9999999 events in more than 10 kinds · 30 targets · 1970-01-01"));
    let renderer = Renderer::builtin();
    for channel in Channel::ALL {
        let content = renderer.render(channel, DEFAULT, &context).unwrap_or_else(|error| panic!("{error}"));
        if let Content::Json(document) = &content {
            let (size, links) = (document.to_string().len(), document.to_string().matches("/link?q=").count());
            assert!(size <= 25_000 || channel != Channel::Teams, "{size}");
            assert!(links == 10 || channel == Channel::Webhook, "{links}");
        }
    }
}

#[test]
fn records_that_are_too_long_for_a_digest_are_named_in_it() {
    let event = |text: &str, number: u64| {
        let record = json!({"event_id": format!("id{number}"), "key": "k", "a": text.repeat(60_000)});
        (Event::from_value(record).unwrap(), Timestamp::default())
    };
    let events = [event("x", 1), event("y", 2), event("", 3)];
    let digest = Digest::of(DigestKind::Batch, &events).unwrap();
    let context = about(|_| (), |about| Context::digest(&digest, about));
    let Content::Json(body) = Renderer::builtin().render(Channel::Webhook, DEFAULT, &context).unwrap() else {
        panic!("no JSON")
    };
    assert_eq!(body["data"]["events"][0], Value::Object(events[0].0.body().clone()));
    assert_eq!(body["data"]["events"][1], json!({"event_id": "id2", "key": "k"}));
    assert_eq!(body["data"]["events"][2], Value::Object(events[2].0.body().clone()));
}

#[test]
fn machines_get_hostile_text_unchanged() {
    let renderer = careless();
    for hostile in HOSTILE {
        let event = event(hostile);
        let Content::Json(body) = renderer.render(Channel::Webhook, "careless", &context(&event, |_| ())).unwrap()
        else {
            panic!("no JSON")
        };
        assert_eq!(body["b"], Value::Object(event.body().clone()));
        assert_eq!(body["f"], *event.field("first").unwrap());
        assert_eq!(body["a"], format!("subject {hostile}first {hostile}"));
    }
}

#[test]
fn too_much_output_is_an_error_and_the_plain_message_is_there() {
    let renderer = Renderer::builtin();
    let context = context(&event(&"x".repeat(300_000)), |_| ());
    let error = renderer.render(Channel::Webhook, DEFAULT, &context).unwrap_err();
    assert_eq!(error.message, "renders more than 262144 bytes");
    let Content::Json(body) = renderer.plain(Channel::Webhook, &context) else { panic!("no JSON") };
    assert_eq!(body["data"], json!({"event_id": "id1", "key": "brand-new"}));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_stays_text(words in prop::collection::vec(prop_oneof![
        3 => "\\PC{0,12}",
        2 => any::<String>(),
        3 => prop::sample::select(HOSTILE.to_vec()).prop_map(str::to_owned),
        3 => "[<>&*_~`:|\\[\\](){}\"'\\\\@!#=./ \\u{FDD0}-\\u{FDD6}a1]{0,8}",
    ], 0..8)) {
        static RENDERER: std::sync::LazyLock<Renderer> = std::sync::LazyLock::new(careless);
        check(&RENDERER, &words.concat());
    }
}

/// Loads one file and gives what is wrong with it, without the folder's name.
fn problems(name: &str, text: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            (name, text),
            ("slack/_row.hbs", "{{label}} {{nothing}}"),
            ("slack/_self.hbs", "x {{> _self}}"),
            ("slack/_ping.hbs", "{{#if test}}{{> _pong}}{{/if}}"),
            ("slack/_pong.hbs", "{{> _ping}}"),
        ],
    );
    if !name.contains("cycle") {
        for file in ["_self", "_ping", "_pong"] {
            fs::remove_file(dir.path().join(format!("slack/{file}.hbs"))).unwrap();
        }
    }
    let root = format!("{}/", dir.path().display());
    let errors = Renderer::load(Some(dir.path()), &[]).err().unwrap_or_default();
    errors.iter().map(|error| error.to_string().replace(&root, "")).collect()
}

#[test]
fn templates_that_are_refused() {
    let slack = |text: &str| format!("{{\"text\": \"{text}\"}}");
    let cases = [
        ("slack/a.hbs", slack("{{{headline}}}"), "slack/a.hbs:1:11: raw output (`{{{…}}}`, `{{&…}}`) is not allowed (write {{…}}: values are escaped for the place where they stand)"),
        ("slack/a.hbs", slack("{{&headline}}"), "slack/a.hbs:1:11: raw output (`{{{…}}}`, `{{&…}}`) is not allowed (write {{…}}: values are escaped for the place where they stand)"),
        ("slack/a.hbs", slack("\n  {{hedline}}"), "slack/a.hbs:2:3: there is no `hedline` (did you mean `headline`?)"),
        ("slack/a.hbs", slack("{{event.sbject}}"), "slack/a.hbs:1:11: there is no `event.sbject` (did you mean `subject`?)"),
        ("slack/a.hbs", slack("{{event.port_number}}"), "slack/a.hbs:1:11: there is no `event.port_number` (an event-specific field is event.fields.port_number)"),
        ("slack/a.hbs", slack("{{#if evnt.id}}x{{/if}}"), "slack/a.hbs:1:11: there is no `evnt` (did you mean `event`?)"),
        ("slack/a.hbs", slack("{{#each facts}}{{lable}}{{/each}}"), "slack/a.hbs:1:26: there is no `lable` (did you mean `label`?)"),
        ("slack/a.hbs", slack("{{#each facts}}{{headline}}{{/each}}"), "slack/a.hbs:1:26: there is no `headline`"),
        ("slack/a.hbs", slack("{{#each title}}x{{/each}}"), "slack/a.hbs:1:11: `title` is not a list"),
        ("slack/a.hbs", slack("{{title.x}}"), "slack/a.hbs:1:11: `title` has no members"),
        ("slack/a.hbs", slack("{{event.fields.a.b}}"), "slack/a.hbs:1:11: `event.fields.a` has no members"),
        ("slack/a.hbs", slack("{{link}}"), "slack/a.hbs:1:11: `link` is a group, not a text (name a member, as in {{link.…}})"),
        ("slack/a.hbs", slack("{{#if link}}x{{/if}}"), "slack/a.hbs:1:11: `link` is always there (ask for a member, as in link.…)"),
        ("slack/a.hbs", slack("{{../headline}}"), "slack/a.hbs:1:11: `../headline` leads out of the template"),
        ("slack/a.hbs", slack("{{@root.hedline}}"), "slack/a.hbs:1:11: there is no `hedline` (did you mean `headline`?)"),
        ("slack/a.hbs", slack("{{@indx}}"), "slack/a.hbs:1:11: there is no variable `@indx` (did you mean `index`?)"),
        ("slack/a.hbs", slack("{{uper title}}"), "slack/a.hbs:1:11: there is no helper `uper` (did you mean `upper`?)"),
        ("slack/a.hbs", slack("{{log title}}"), "slack/a.hbs:1:11: there is no helper `log`"),
        ("slack/a.hbs", slack("{{#raw}}x{{/raw}}"), "slack/a.hbs:1:11: there is no helper `raw`"),
        ("slack/a.hbs", slack("{{json title}}"), "slack/a.hbs:1:11: there is no helper `json` (`json` is for webhook templates: elsewhere print texts)"),
        ("slack/a.hbs", slack("{{short title}}"), "slack/a.hbs:1:11: `short` takes 2 parameters, here are 1"),
        ("slack/a.hbs", slack("{{if title}}"), "slack/a.hbs:1:11: `if` is not used like this (it is written {{#…}} … {{/…}})"),
        ("slack/a.hbs", slack("{{#if (uper title)}}x{{/if}}"), "slack/a.hbs:1:11: there is no helper `uper` (did you mean `upper`?)"),
        ("slack/a.hbs", slack("{{> nothing}}"), "slack/a.hbs:1:11: there is no partial `nothing` (partials are files whose name begins with `_`)"),
        ("slack/a.hbs", slack("{{> _rwo}}"), "slack/a.hbs:1:11: there is no partial `_rwo` (did you mean `_row`?)"),
        ("slack/a.hbs", slack("{{> default}}"), "slack/a.hbs:1:11: there is no partial `default` (partials are files whose name begins with `_`)"),
        ("slack/a.hbs", slack("{{> (lookup event 'key')}}"), "slack/a.hbs:1:11: a partial's name cannot be computed (name the file: {{> _name}})"),
        ("slack/a.hbs", slack("{{#> _row}}x{{/_row}}"), "slack/a.hbs:1:11: partials with a block are not allowed (write {{> _name}})"),
        ("slack/a.hbs", slack("{{#*inline 'x'}}y{{/inline}}"), "slack/a.hbs:1:11: decorators and inline partials are not allowed (put the part in a file whose name begins with `_` and include it with {{> _name}})"),
        ("slack/a.hbs", slack("{{#each facts}}{{> _row}}{{/each}}"), "slack/_row.hbs:1:11: there is no `nothing`"),
        ("slack/cycle.hbs", slack("{{> _ping}}"), "slack/_ping.hbs:1:13: the partial `_pong` includes itself"),
        ("slack/a.hbs", slack("{{#each facts as |runbook|}}x{{/each}}"), "slack/a.hbs:1:11: `runbook` means something else already (choose another name)"),
        ("slack/a.hbs", slack("{{headline"), "slack/a.hbs:1:21: invalid handlebars syntax"),
        ("slack/a.hbs", slack("{{#if test}}x{{/each}}"), "slack/a.hbs:1:24: helper"),
        ("slack/a.hbs", slack("\u{FDD0}"), "slack/a.hbs:1:11: the noncharacters U+FDD0 to U+FDD6 cannot be used in a template"),
        ("slack/a.hbs", slack(&"{{#if test}}".repeat(40)), "slack/a.hbs:1:395: nested too deep, or too many branches (move an inner part to a partial)"),
        ("slack/a.hbs", slack(&"{{#if test}}{{else if test}}".repeat(101)), "slack/a.hbs:1:"),
        ("slack/a.hbs", slack(&format!("{{{{upper {}", "(upper ".repeat(5_000))), "slack/a.hbs:1:"),
        ("slack/a.hbs", slack(&format!("{{{{upper {}", "(upper\n".repeat(5_000))), "slack/a.hbs:"),
        // What only trying it shows.
        ("slack/a.hbs", "{\"text\": {{headline}}}".to_owned(), "slack/a.hbs:1:1: the result is not JSON: a value must stand inside a JSON string: write \"{{…}}\" (in line 1 of the rendered text)"),
        ("slack/a.hbs", "{\n\"text\": \"x\",\n}".to_owned(), "slack/a.hbs:3:1: the result is not JSON: trailing comma"),
        ("slack/a.hbs", "{\n\"text\": \"x\", \"channel\": \"{{event.target}}\"}".to_owned(), "slack/a.hbs:2:14: `channel` takes no value here, only literal text (it is at /channel of the rendered message)"),
        ("slack/a.hbs", "{\"text\": \"x\", \"blocks\": [{\"type\": \"{{event.key}}\"}]}".to_owned(), "slack/a.hbs:1:27: `type` takes no value here"),
        ("slack/a.hbs", "{\"text\": \"x\", \"{{event.key}}\": 1}".to_owned(), "slack/a.hbs:1:15: a value cannot name a member"),
        ("slack/a.hbs", slack("<{{event.url}}|x> <{{event.target}}|y>"), "slack/a.hbs:1:2: inside <…> a value may only be {{link.url}}, {{runbook}} or {{slack}} of `mentions`, alone, or a label"),
        ("slack/a.hbs", "{\"text\": \"x\", \"blocks\": [{\"type\": \"rich_text\", \"elements\": [{\"type\": \"user\", \"user_id\": \"{{event.fields.user}}\"}]}]}".to_owned(), "slack/a.hbs:1:78: `user_id` takes no value here"),
        ("slack/a.hbs", "{\"text\": \"x\", \"blocks\": [{\"type\": \"markdown\", \"text\": \"{{headline}}\"}]}".to_owned(), "slack/a.hbs:1:2: `text` takes no value here"),
        ("slack/a.hbs", "{\"text\": \"x\", \"blocks\": [{\"type\": \"image\", \"image_url\": \"{{event.fields.icon}}\", \"alt_text\": \"x\"}]}".to_owned(), "slack/a.hbs:1:44: an address may only be {{link.url}} or {{runbook}}, alone"),
        ("slack/a.hbs", "{\"text\": \"x\", \"blocks\": [{\"type\": \"x\", \"url\": \"{{link.url}}\"}]}".to_owned(), "slack/a.hbs:1:40: the address is empty here: put it in {{#if link.url}} or {{#if runbook}}"),
        ("slack/a.hbs", "{\"blocks\": []}".to_owned(), "slack/a.hbs:1:1: a Slack message needs a `text`"),
        ("slack/a.hbs", "{\"text\": \"x\", \"link_names\": true}".to_owned(), "slack/a.hbs:1:1: `link_names` would turn names in event text into mentions: leave it out"),
        ("teams/a.hbs", "{\"type\": \"message\"}".to_owned(), "teams/a.hbs:1:1: a Teams template must be one card"),
        ("teams/a.hbs", "{\"type\": \"AdaptiveCard\", \"msteams\": {\"entities\": [{\"type\": \"mention\", \"text\": \"{{title}}\"}]}}".to_owned(), "teams/a.hbs:1:71: `text` takes no value here"),
        ("teams/a.hbs", "{\"type\": \"AdaptiveCard\", \"body\": [{\"type\": \"TextBlock\", \"text\": \"[x]({{event.url}}{{event.key}})\"}]}".to_owned(), "teams/a.hbs:1:57: inside […](…) or <…> a value may only be {{link.url}} or {{runbook}}, alone"),
        ("webhook/a.hbs", "{\"a\": \"{{json event.body}}\"}".to_owned(), "webhook/a.hbs:1:1: the result is not JSON: `{{json …}}` brings its own quotes and must stand outside of them"),
        ("webhook/a.hbs", "{\"a\": {{event.fields.port}}}".to_owned(), "webhook/a.hbs:1:1: the result is not JSON: a value must stand inside a JSON string"),
        ("webhook/a.hbs", "{\"a\": \"{{event.body.port}}\"}".to_owned(), "webhook/a.hbs:1:8: `event.body` is only used as a whole (write event.fields.port; the body is for {{json event.body}})"),
        ("webhook/a.hbs", "{\"a\": \"{{upper (json event.body)}}\"}".to_owned(), "webhook/a.hbs:1:8: `json` cannot stand inside another call"),
        ("webhook/a.hbs", "[1]".to_owned(), "webhook/a.hbs:1:1: a webhook template must be one JSON object"),
        ("slack/digest.hbs", slack("{{event.key}}"), "slack/digest.hbs:1:11: there is no `event`"),
        ("slack/a.digest.hbs", slack("{{digest.cuont}}"), "slack/a.digest.hbs:1:11: there is no `digest.cuont` (did you mean `count`?)"),
        ("slack/a.hbs", slack("{{digest.count}}"), "slack/a.hbs:1:11: there is no `digest`"),
        ("slack/a.hbs", slack("{{#if detour}}x{{/if}}"), "slack/a.hbs:1:11: `detour` is always there (ask for a member, as in detour.…)"),
        ("teams/notice.hbs", "{\"type\": \"{{notice.reason}}\"}".to_owned(), "teams/notice.hbs:1:2: `type` takes no value here"),
        ("email/a.digest.html.hbs", "{{#each digest.events}}<a href=\"{{line}}\">x</a>{{/each}}".to_owned(), "email/a.digest.html.hbs:1:33: `href` takes {{link.url}} or {{runbook}}, alone"),
        ("slack/digest.digest.hbs", "x".to_owned(), "slack/digest.digest.hbs:1:1: slack templates are named"),
        ("slack/a.notice.hbs", "x".to_owned(), "slack/a.notice.hbs:1:1: slack templates are named"),
        ("slack/_a.digest.hbs", "x".to_owned(), "slack/_a.digest.hbs:1:1: slack templates are named"),
        // Mail.
        ("email/a.html.hbs", "<p>\n<a href=\"{{event.url}}\">".to_owned(), "email/a.html.hbs:2:10: `href` takes {{link.url}} or {{runbook}}, alone"),
        ("email/a.html.hbs", "{{#with event.fields}}<a href=\"{{runbook}}\">{{/with}}".to_owned(), "email/a.html.hbs:1:32: `href` takes {{link.url}} or {{runbook}}, alone"),
        ("email/a.html.hbs", "<a href=\"{{default link.url runbook}}\">".to_owned(), "email/a.html.hbs:1:10: `href` takes {{link.url}} or {{runbook}}, alone"),
        ("email/a.html.hbs", "<p style=\"color: {{severity.color}}\">".to_owned(), "email/a.html.hbs:1:18: a value cannot stand in `style`, only in href, alt, title"),
        ("email/a.html.hbs", "<p title={{title}}>".to_owned(), "email/a.html.hbs:1:10: an attribute with a value must be in double quotes"),
        ("email/a.html.hbs", "<script>{{title}}</script>".to_owned(), "email/a.html.hbs:1:9: a value cannot stand in <script>"),
        ("email/a.html.hbs", "{{#if test}}<p title=\"{{/if}}{{title}}\">".to_owned(), "email/a.html.hbs:1:1: the branches of `if` end in different places of the document"),
        ("email/a.html.hbs", "<p title=\"{{title}}".to_owned(), "email/a.html.hbs:1:11: a tag, comment or attribute is still open at the end"),
        ("email/a.hbs", "x".to_owned(), "email/a.hbs:1:1: email templates are named NAME.subject.hbs, NAME.text.hbs or NAME.html.hbs"),
        ("email/a.htm.hbs", "x".to_owned(), "email/a.htm.hbs:1:1: email templates are named"),
        ("slack/a b.hbs", "x".to_owned(), "slack/a b.hbs:1:1: slack templates are named NAME.hbs; names are letters, digits, `-` and `_`"),
        ("slak/a.hbs", "x".to_owned(), "slak/a.hbs:1:1: \"slak\" is not a destination type (slack, teams, email, webhook, or a service such as discord)"),
        ("slack/a.hbs", "x".repeat(70_000), "slack/a.hbs:1:1: a template may have 65536 bytes"),
    ];
    are_refused(cases);
}

fn are_refused<const N: usize>(cases: [(&str, String, &str); N]) {
    let mut wrong = Vec::new();
    for (name, text, expected) in cases {
        let found = problems(name, &text);
        if !found.iter().any(|problem| problem.starts_with(expected)) {
            wrong.push(format!("{name} {text:.200}\n  expected {expected}\n  found    {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_that_are_refused() {
    let slack = |text: &str| format!("{{\"text\": \"{text}\"}}");
    are_refused([
        ("slack/a.hbs", slack("{{link event.url 'x'}}"), "slack/a.hbs:1:11: a link may not lead where an event says (write {{link link.url …}}, {{link runbook …}}, or a whole address in quotes)"),
        ("slack/a.hbs", slack("{{link (default event.fields.a runbook) 'x'}}"), "slack/a.hbs:1:11: a link may not lead where an event says"),
        ("slack/a.hbs", slack("{{link 'javascript:alert(1)' 'x'}}"), "slack/a.hbs:1:11: a link may not lead where an event says"),
        ("slack/a.hbs", slack("{{upper (link runbook 'x')}}"), "slack/a.hbs:1:11: `link` cannot stand inside another call"),
        ("slack/a.hbs", "{\"text\": \"x\", \"blocks\": [{\"type\": \"header\", \"text\": {\"type\": \"plain_text\", \"text\": \"{{link runbook 'x'}}\"}}]}".to_owned(), "slack/a.hbs:1:2: a link cannot stand here: this text is shown without markup"),
        ("teams/a.hbs", "{\"type\": \"AdaptiveCard\", \"body\": [{\"type\": \"RichTextBlock\", \"inlines\": [{\"type\": \"TextRun\", \"text\": \"{{link runbook 'x'}}\"}]}]}".to_owned(), "teams/a.hbs:1:93: a link cannot stand here"),
        ("webhook/a.hbs", "{\"a\": \"{{link runbook 'x'}}\"}".to_owned(), "webhook/a.hbs:1:8: there is no helper `link` (`link` is for chat and mail texts: here print {{link.url}})"),
        ("email/a.subject.hbs", "{{link runbook 'x'}}".to_owned(), "email/a.subject.hbs:1:1: there is no helper `link`"),
        ("email/a.html.hbs", "<p title=\"{{link runbook 'x'}}\">".to_owned(), "email/a.html.hbs:1:11: a link can stand only between tags"),
    ]);
}

#[test]
fn templates_that_are_fine() {
    let slack = |text: &str| format!("{{\"text\": \"x{text}\"}}");
    let cases = [
        ("slack/a.hbs", slack("{{event.fields.anything}} {{default event.fields.port 'none'}} {{short (upper title) 10}}")),
        ("slack/a.hbs", slack("{{#each facts}}{{@index}} {{label}} {{this.value}} {{../headline}} {{@root.rule}}{{/each}}")),
        ("slack/a.hbs", slack("{{#each facts as |fact at|}}{{at}} {{fact.label}}{{/each}}{{#each event.fields}}{{@key}}={{this}}{{/each}}")),
        ("slack/a.hbs", slack("{{#if (eq severity.name 'high')}}!{{else if test}}?{{else}}.{{/if}}{{#unless runbook}}-{{/unless}}")),
        ("slack/a.hbs", slack("{{#if link.url}}<{{link.url}}|{{event.subject}}>{{/if}} {{#with event}}{{id}}{{/with}} {{facts.0.label}}")),
        ("slack/a.hbs", slack("{{#each facts}}{{> _label name=value}}{{/each}} {{lookup event.fields 'x'}} {{len facts}}")),
        ("teams/a.hbs", r#"{"type": "AdaptiveCard", "body": [{"type": "TextBlock", "text": "{{#if link.url}}[{{title}}]({{link.url}}){{/if}} \{{DATE(x)}}"}]}"#.to_owned()),
        ("webhook/a.hbs", r#"{"{{! a comment }}a": {{json event.fields}}, "b": {{json facts}}, "c": {{json late}}}"#.to_owned()),
        ("email/a.html.hbs", String::new()),
        ("email/a.html.hbs", "{{#if link.url}}<a href=\"{{link.url}}\">{{else}}<a>{{/if}}{{title}}</a>".to_owned()),
        ("email/a.html.hbs", "<p class=\"a{{#if test}} b{{/if}}\" {{#if test}}title=\"x\"{{/if}}>{{title}}{{#with link}}{{#if url}}<a href=\"{{url}}\">x</a>{{/if}}{{/with}}".to_owned()),
        (
            "slack/a.hbs",
            slack(&format!("{{{{#if test}}}}a{}{{{{/if}}}}", "{{else if (eq event.key 'x')}}b".repeat(100))),
        ),
        ("slack/a.hbs", slack(&format!("{}x{}", "{{#if rule}}".repeat(32), "{{/if}}".repeat(32)))),
    ];
    for (name, text) in cases {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[(name, &text), ("slack/_label.hbs", "{{label}} {{name}}")]);
        let renderer = Renderer::load(Some(dir.path()), &[]).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"));
        let channel: Channel = name.split('/').next().unwrap().parse().unwrap();
        assert!(renderer.has(channel, "a") && renderer.has(channel, DEFAULT) && !renderer.has(channel, "_label"));
        for event in [event("x"), Event::from_value(json!({"event_id": "1", "key": "k"})).unwrap()] {
            renderer.render(channel, "a", &context(&event, |_| ())).unwrap_or_else(|error| panic!("{text}\n{error}"));
        }
    }
}

#[test]
fn files_replace_the_built_in_ones_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("email/default.subject.hbs", "Changed"),
            ("email/short.html.hbs", ""),
            ("README.md", "x"),
            ("notes/x.md", "x"),
        ],
    );
    let renderer = Renderer::load(Some(dir.path()), &[]).unwrap();
    let context = context(&event("x"), |_| ());
    let Content::Mail { subject, html, .. } = renderer.render(Channel::Email, DEFAULT, &context).unwrap() else {
        panic!()
    };
    assert_eq!(subject, "Changed");
    assert!(html.is_some());
    let Content::Mail { subject, html, text } = renderer.render(Channel::Email, "short", &context).unwrap() else {
        panic!()
    };
    assert_eq!((subject.as_str(), html), ("Changed", None));
    assert!(text.starts_with("HIGH · subject x"), "{text}");
    assert_eq!(renderer.names(Channel::Email).collect::<Vec<_>>(), ["default", "short"]);
    let error = renderer.render(Channel::Slack, "short", &context).unwrap_err();
    assert_eq!(error.to_string(), "template slack/short: there is no such template");
    let missing = Renderer::load(Some(&dir.path().join("nowhere")), &[]).unwrap_err();
    assert!(missing[0].message.starts_with("cannot be read: "), "{missing:?}");
}

/// Each shape by the nearest template there is for it.
#[test]
fn shapes_have_templates_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            ("slack/terse.digest.hbs", r#"{"text": "terse {{digest.count}}"}"#),
            ("slack/other.hbs", r#"{"text": "other"}"#),
            ("slack/digest.hbs", r#"{"text": "any {{digest.count}} {{digest.keys.0.title}}"}"#),
            ("slack/notice.hbs", r#"{"text": "news of {{notice.destination}}"}"#),
            ("email/terse.digest.subject.hbs", "terse {{digest.count}}"),
        ],
    );
    let renderer = Renderer::load(Some(dir.path()), &[]).unwrap_or_else(|errors| panic!("{errors:#?}"));
    assert_eq!(renderer.names(Channel::Slack).collect::<Vec<_>>(), ["default", "other", "terse"]);
    assert_eq!(renderer.names(Channel::Email).collect::<Vec<_>>(), ["default", "terse"]);
    let [event, digest, notice] = contexts("x");
    let text = |name: &str, context: &Context| match renderer.render(Channel::Slack, name, context).unwrap() {
        Content::Json(message) => message["text"].as_str().unwrap().lines().next().unwrap().to_owned(),
        Content::Mail { .. } => panic!("no JSON"),
    };
    for name in ["default", "other", "terse"] {
        let of_event = if name == "other" {
            "other"
        } else {
            "HIGH · subject x · target padded to be long enough to be cut off in …"
        };
        let of_digest = if name == "terse" { "terse 11" } else { "any 11 subject x" };
        assert_eq!(text(name, &event), of_event);
        assert_eq!(text(name, &digest), of_digest);
        assert_eq!(text(name, &notice), "news of other");
    }
    let Content::Mail { subject, text, html } = renderer.render(Channel::Email, "terse", &digest).unwrap() else {
        panic!("no mail")
    };
    assert_eq!(subject, "terse 11");
    assert!(text.contains("Why together: ") && html.is_some(), "{text}");
    for name in ["digest", "notice", "terse.digest", "default.digest", "_frame_top"] {
        assert!(!renderer.has(Channel::Slack, name) && !renderer.has(Channel::Email, name), "{name}");
        assert!(renderer.render(Channel::Slack, name, &digest).is_err(), "{name}");
    }
}

#[test]
fn a_renderer_is_shared_between_tasks() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    shared(&Renderer::builtin());
}

#[test]
fn partials_cannot_keep_a_reload_busy_or_overflow_the_stack() {
    for (count, line, message) in [
        (24, "{{> _pNEXT}}{{> _pNEXT}}", "partials are included too often"),
        (160, "{{> _pNEXT}}", "blocks and partials are nested too deep"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[("slack/a.hbs", r#"{"text": "{{> _p0}}"}"#)]);
        for at in 0..count {
            let text = line.replace("NEXT", &(at + 1).to_string());
            write(dir.path(), &[(format!("slack/_p{at}.hbs").as_str(), text.as_str())]);
        }
        write(dir.path(), &[(format!("slack/_p{count}.hbs").as_str(), "x")]);
        let errors = Renderer::load(Some(dir.path()), &[]).unwrap_err();
        assert!(errors.iter().any(|error| error.message == message), "{errors:?}");
    }
}
