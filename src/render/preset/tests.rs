//! Hostile text, long text and faulty presets.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::super::hostile_tests::{HOSTILE, assert_no_emoji, contexts, event, rerouted, write as write_files};
use super::super::snapshot_tests::{about, context, presets};
use super::super::{Channel, DEFAULT, Detour, Digest, DigestKind, Notice, Renderer, outline, text, trial};
use super::*;
use crate::model::{Content, DestinationName, Event, Severity, Timestamp};

fn own(text: &str) -> (PresetName, Arc<Preset>) {
    (PresetName::new("http:own"), Arc::new(serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}"))))
}

fn own_channel() -> Channel {
    Channel::Http(PresetName::new("http:own"))
}

fn json_of(content: Content) -> Value {
    match content {
        Content::Json(document) => document,
        Content::Mail { .. } => panic!("no JSON"),
    }
}

/// A preset with a place of each manner, and templates that put strangers' words into all of them.
fn careless() -> Renderer {
    let manners = [
        "text",
        "data",
        "discord",
        "google-chat",
        "google-card",
        "mattermost",
        "rocket-chat",
        "zulip",
        "telegram-html",
    ];
    let values: String = manners.map(|manner| format!("  /{manner}: {{ as: {manner} }}\n")).concat();
    let body = |said: &str| {
        let members = manners.map(|manner| format!("      \"{manner}\": \"{said}\"")).join(",\n");
        format!("|\n    {{\n{members}\n    }}\n")
    };
    let preset = format!(
        "about: a test\nrequest: {{ url: \"https://example.org\" }}\nvalues:\n{values}plain: {{ text: \"{{{{text}}}}\" }}\n\
         body: {}digest: {}notice: {}delivered: {{ status: [200] }}\n",
        body(
            "{{event.subject}}\\n{{event.fields.first}}{{event.fields.second}} {{event.target}}\\n{{event.fields.third}}"
        ),
        body("{{headline}}\\n{{#each digest.events}}{{line}}{{key}}\\n{{/each}}{{detour.why}}\\n{{late}}"),
        body("{{notice.reason}}\\n{{headline}}\\n{{detour.text}}{{delay}}"),
    );
    with_built_in(None, own(&preset))
}

fn with_built_in(dir: Option<&std::path::Path>, own: (PresetName, Arc<Preset>)) -> Renderer {
    let presets: Vec<_> = built_in().into_iter().chain([own]).collect();
    Renderer::load(dir, &presets).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// All of such a text is a value, but for the ends of its lines: nothing of it may mean anything.
fn assert_inert(manner: &str, text: &str) {
    let fault = || format!("{manner}: {text}");
    assert!(!text.chars().any(|letter| text::is_hidden(letter) && letter != '\n'), "{}", fault());
    let rest = text
        .replace("\\:", ":")
        .replace("hxxp://", "")
        .replace("hxxps://", "")
        .replace("[://", "")
        .replace("\\[://", "");
    assert!(manner == "data" || !rest.contains("://"), "{}", fault());
    assert!(!text.contains("evil.example") && !text.contains("javascript:"), "{}", fault());
    match manner {
        "discord" => {
            let mut bare = String::new();
            let mut letters = text.chars();
            while let Some(letter) = letters.next() {
                if letter == '\\' {
                    letters.next();
                } else {
                    bare.push(letter);
                }
            }
            assert!(!bare.contains(['*', '_', '~', '`', '|', '<', '[', '@']), "{}", fault());
            assert!(!text.lines().any(|line| line.starts_with(['#', '>', '-', '+'])), "{}", fault());
            assert_no_emoji(&text.replace("\\:", ""));
        }
        "google-card" | "telegram-html" => {
            assert!(!text.contains(['<', '>', '"']), "{}", fault());
            for entity in text.split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)), "{}", fault());
            }
            assert!(manner == "google-card" || !text.contains(['@', '#']), "{}", fault());
        }
        "google-chat" | "mattermost" | "rocket-chat" | "zulip" => {
            assert!(!text.contains(['*', '~', '`', '<', '>', '|']), "{}", fault());
            assert!(!text.contains("](") && !text.contains("]:"), "{}", fault());
            assert!(!text.lines().any(|line| line.starts_with(['#', '-', '+', '='])), "{}", fault());
            if manner != "google-chat" {
                assert!(!text.contains(['@', '#', '$', '\\']), "{}", fault());
                assert_no_emoji(text);
            }
        }
        _ => {}
    }
}

fn check(renderer: &Renderer, hostile: &str) {
    let filler = "x".repeat(hostile.len().max(1));
    let one = |text: &str| context(&event(text), |_| ());
    let pairs = contexts(hostile).into_iter().zip(contexts(&filler)).chain([(one(hostile), one(&filler))]);
    for (hostile_one, benign) in pairs {
        for channel in presets().chain([own_channel()]) {
            let render = |context| {
                let content = renderer.render(channel, DEFAULT, context);
                json_of(content.unwrap_or_else(|error| panic!("{error}")))
            };
            let (body, other) = (render(&hostile_one), render(&benign));
            assert_eq!(outline(&body, channel), outline(&other, channel), "{channel} {hostile:?}");
            if channel == own_channel() {
                for (manner, text) in body.as_object().unwrap() {
                    assert_inert(manner, text.as_str().unwrap());
                }
            }
            let plain = |context| outline(&json_of(renderer.plain(channel, context)), channel);
            assert_eq!(plain(&hostile_one), plain(&benign), "{channel} {hostile:?}");
        }
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
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_stays_text(words in prop::collection::vec(prop_oneof![
        3 => "\\PC{0,12}",
        2 => any::<String>(),
        3 => prop::sample::select(HOSTILE.to_vec()).prop_map(str::to_owned),
        3 => "[<>&*_~`:|\\[\\](){}\"'\\\\@!#$+=./ \\u{FDD0}-\\u{FDD6}a1-]{0,8}",
    ], 0..6)) {
        static RENDERER: std::sync::LazyLock<Renderer> = std::sync::LazyLock::new(careless);
        check(&RENDERER, &words.concat());
    }
}

/// What a body holds is within what the preset says of its places.
fn assert_within(name: &str, body: &Value) {
    let preset = preset::find(name).unwrap();
    let service = Service::new(Arc::clone(&preset));
    assert!(body.to_string().len() <= preset.bytes_max, "{name}: {}", body.to_string().len());
    let mut all = 0;
    for (pointer, steps, text) in texts(body) {
        let Some(place) = service.place_at(&steps) else { continue };
        let length = manners::length(place.manner, &text);
        assert!(place.max.is_none_or(|max| length <= max), "{name} {pointer}: {length}");
        assert!(place.bytes.is_none_or(|bytes| text.len() <= bytes), "{name} {pointer}: {}", text.len());
        all += if manners::is_text(place.manner) { length } else { 0 };
    }
    assert!(preset.together.is_none_or(|max| all <= max), "{name}: {all}");
}

#[test]
fn what_only_its_surroundings_make_markup() {
    use crate::preset::Manner;
    let url = "https://wiki.example.org/x".to_owned();
    let (literal, value) = (|text: &str| Piece::Literal(text.to_owned()), |text: &str| Piece::Value(text.to_owned()));
    let write = |manner, pieces: &[Piece]| manners::write(manner, pieces, std::slice::from_ref(&url)).unwrap();
    let number = [literal("- "), value("1."), literal("\nx")];
    assert_eq!(write(Manner::Discord, &number), "- 1\\.\nx");
    for manner in [Manner::GoogleChat, Manner::Mattermost, Manner::RocketChat, Manner::Zulip] {
        assert_eq!(write(manner, &number), "- 1․\nx", "{manner:?}");
    }
    let image = [literal("["), value("!["), literal("]("), value(&url), literal(")")];
    assert_eq!(write(Manner::Discord, &image), "[!\\[](https://wiki.example.org/x)");
    for manner in [Manner::Mattermost, Manner::RocketChat, Manner::Zulip] {
        assert_eq!(write(manner, &image), "[！[](https://wiki.example.org/x)", "{manner:?}");
    }
}

/// Ten events of the longest texts with the longest links, by letters of one and of four bytes, and such as are escaped.
#[test]
fn the_longest_messages_are_within_all_limits() {
    let renderer = Renderer::builtin();
    for letter in ["x", "\u{1F6A8}", "&", "<", "*", "\"", "\\", "@"] {
        let long = letter.repeat(2_000);
        for link in [0, 440] {
            let event = |number: usize| {
                let url = format!("https://app.halosecurity.com/link?q=user-event&id={number}{}", "0".repeat(link));
                let record = json!({"event_id": format!("id{number}"), "key": format!("{number}-key"), "url": url,
                    "subject": format!("{number}{long}"), "target": format!("{number}{long}"), "expires_in_days": 99_999,
                    "a": format!("a{long}"), "b": format!("b{long}"), "c": format!("c{long}"), "d": format!("d{long}")});
                (Event::from_value(record).unwrap(), Timestamp::default().plus(Duration::from_hours(number as u64)))
            };
            let events: Vec<_> = (0..30).map(event).collect();
            let digest = Digest::of(DigestKind::Overflow, &events).unwrap();
            let name = DestinationName::from("n".repeat(200).as_str());
            let detour = Detour { from: &name, why: &long };
            let loud = |about: &mut super::super::Circumstances<'_>| {
                (about.test, about.may_repeat, about.severity) = (true, true, Severity::Critical);
            };
            let notice = Notice { destination: &name, reason: &long, waiting: u64::MAX };
            let contexts = [
                about(loud, |about| Context::new(&events[0].0, &rerouted(about, detour))),
                about(loud, |about| Context::digest(&digest, &rerouted(about, detour))),
                about(loud, |about| Context::notice(&notice, &rerouted(about, detour))),
            ];
            for (shape, context) in contexts.iter().enumerate() {
                for channel in presets() {
                    let name = channel.name();
                    assert_within(name, &json_of(renderer.plain(channel, context)));
                    match renderer.render(channel, DEFAULT, context) {
                        Ok(content) => assert_within(name, &json_of(content)),
                        // Ten addresses of 500 letters are more than a description takes; the plain message goes out.
                        Err(error) => assert!(name == "discord" && shape == 1 && link > 0, "{error}"),
                    }
                }
            }
        }
    }
}

const SMALL: &str = r#"
about: a test
request: { url: "https://example.org" }
values:
  /text: { as: mattermost, max: 40 }
  /short: { as: text, bytes: 12 }
  /data: { as: data, max: 10 }
  /html: { as: telegram-html, max: 12 }
plain: { text: "{{text}}" }
body: |
  {
    "text": "**{{event.fields.a}}** [x]({{runbook}}) {{event.fields.b}}",
    "short": "a {{event.fields.b}}",
    "data": "{{event.fields.a}}",
    "html": "<b>{{event.fields.a}}</b>"
  }
delivered: { status: [200] }
"#;

#[test]
fn values_are_cut_and_never_what_the_template_says() {
    let renderer = Renderer::load(None, &[own(&SMALL.replace("max: 40", "max: 90"))])
        .unwrap_or_else(|errors| panic!("{errors:#?}"));
    let render = |a: &str, b: &str| {
        let event = Event::from_value(json!({"event_id": "1", "key": "k", "a": a, "b": b})).unwrap();
        let context = context(&event, |about| about.runbook = Some("https://w.example/x"));
        json_of(renderer.render(own_channel(), DEFAULT, &context).unwrap())
    };
    assert_eq!(
        render(&"a".repeat(60), &"&".repeat(60)),
        json!({
            "text": format!("**{}…** [x](https://w.example/x) {}…", "a".repeat(29), "&".repeat(29)),
            "short": "a &&&&&&&…",
            "data": "aaaaaaaaa…",
            "html": format!("<b>{}…</b>", "a".repeat(11)),
        })
    );
    assert_eq!(render("é<", "é")["short"], "a é");
    assert_eq!(render("<<<<<<<<<<<<<<", "b")["html"].as_str().unwrap().matches("&lt;").count(), 11);
    assert_eq!(render("short", "b")["text"], "**short** [x](https://w.example/x) b");
}

#[test]
fn what_a_preset_has_no_template_for_is_plain() {
    let renderer = Renderer::load(None, &[own(SMALL)]).unwrap_err();
    let told: Vec<_> = renderer.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "http:own/body:2:3: the service takes 40 characters here, and what may not be cut has more (it is at /text of the rendered message)"
        ]
    );
    let renderer = Renderer::load(None, &[own(&SMALL.replace("max: 40", "max: 900"))]).unwrap();
    let [_, digest, notice] = contexts("x");
    for context in [digest, notice] {
        assert_eq!(renderer.render(own_channel(), DEFAULT, &context).unwrap(), renderer.plain(own_channel(), &context));
    }
    let text = SMALL.replace("max: 40", "max: 900");
    let (text, _) = text.split_once("body:").unwrap();
    let renderer = Renderer::load(None, &[own(&format!("{text}delivered: {{ status: [200] }}"))]).unwrap();
    assert_eq!(renderer.names(own_channel()).collect::<Vec<_>>(), ["default"]);
    let [event, ..] = contexts("x");
    assert_eq!(renderer.render(own_channel(), DEFAULT, &event).unwrap(), renderer.plain(own_channel(), &event));
    assert!(renderer.render(own_channel(), "other", &event).is_err());
}

#[test]
fn files_replace_what_is_compiled_in() {
    let dir = tempfile::tempdir().unwrap();
    let body = r#"{"content": "**{{headline}}**"}"#;
    write_files(
        dir.path(),
        &[("discord/terse.hbs", body), ("discord/notice.hbs", body), ("http:own/more.hbs", r#"{"text": "x"}"#)],
    );
    let small = own(&SMALL.replace("max: 40", "max: 900"));
    let renderer = with_built_in(Some(dir.path()), small);
    let discord = Channel::Http(PresetName::new("discord"));
    assert_eq!(renderer.names(discord).collect::<Vec<_>>(), ["default", "terse"]);
    assert_eq!(renderer.names(own_channel()).collect::<Vec<_>>(), ["default", "more"]);
    assert!(renderer.has(discord, "terse") && !renderer.has(discord, "notice"));
    let [event, digest, notice] = contexts("x");
    let render = |name: &str, context: &Context| json_of(renderer.render(discord, name, context).unwrap());
    assert!(render("terse", &event).get("embeds").is_none());
    assert!(render(DEFAULT, &event).get("embeds").is_some());
    assert!(render("terse", &digest).get("embeds").is_some());
    assert!(render(DEFAULT, &notice).get("embeds").is_none());
}

/// All that is compiled in, as strictly as if someone had brought it along.
#[test]
fn what_is_compiled_in_passes_every_trial() {
    let all: Vec<_> = preset::names()
        .map(|name| (PresetName::new(name), Arc::new(Preset::clone(&preset::find(name).unwrap()))))
        .collect();
    let renderer = Renderer::load(None, &all).unwrap_or_else(|errors| panic!("{errors:#?}"));
    assert_eq!(presets().filter(|channel| renderer.has(*channel, DEFAULT)).count(), all.len());
    for (format, templates) in &renderer.formats {
        for name in [DEFAULT, "digest", "notice"] {
            assert!(templates.documents.contains_key(name) || !format.is_json(), "{format:?} {name} is quick");
        }
    }
}

#[test]
fn faulty_presets_are_refused() {
    let good = SMALL.replace("max: 40", "max: 900");
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    let cases = [
        (
            with("/text: {", "text: {"),
            "http:own/values:1:1: \"text\" is no place in a body (write a JSON pointer such as /content or /blocks/*/text)",
        ),
        (
            with("bytes: 12", "bytes: 2"),
            "http:own/values:1:1: /short has no room for any value (raise `max` or `bytes`)",
        ),
        (
            with("{ text: \"{{text}}\" }", "{ text: x }"),
            "http:own/plain:1:1: it does not say what happened (write {{text}} where the lines belong)",
        ),
        (
            with("{ text: \"{{text}}\" }", "{ text: \"{{title}}\" }"),
            "http:own/plain:1:1: /text names something else in {{…}} (it knows {{text}}, {{headline}}, {{delivery.id}}, {{severity.name}})",
        ),
        (
            with("{ text: \"{{text}}\" }", "{ other: \"{{text}}\" }"),
            "http:own/plain:1:1: /other takes no value (name the place in `values`)",
        ),
        (
            with("as: text, bytes: 12", "as: link"),
            "http:own/body:3:3: an address may only be {{link.url}} or {{runbook}}, alone (it is at /short of the rendered message)",
        ),
        (
            with("{ text: \"{{text}}\" }", "\"{{text}}\"")
                .replace("values:", "values:\n  \"\": { as: text }")
                .replace("request: { ", "request: { add: { key: x }, "),
            "http:own/plain:1:1: members cannot be added to it (write an object: { text: \"{{text}}\" })",
        ),
        (with("max: 900", "max: 1"), "http:own/plain:1:1: there is no room for the lines it has to tell"),
        (good.clone() + "bytes_max: 100", "http:own/plain:1:1: the service takes 100 bytes, here are"),
        (
            with("\"data\": \"{{event.fields.a}}\"", "\"dota\": \"{{event.fields.a}}\""),
            "http:own/body:4:3: `dota` takes no value here, only literal text (it is at /dota of the rendered message)",
        ),
        (
            with("\"data\": \"{{event.fields.a}}\"", "\"data\": {{event.fields.a}}"),
            "http:own/body:4:1: the result is not JSON: a value must stand inside a JSON string",
        ),
        (with("{{event.fields.b}}\",\n    \"data", "{{hedline}}\",\n    \"data"), "http:own/body:3:"),
        (
            with("as: data, max: 10", "as: number"),
            "http:own/body:4:3: a value here must be a whole number of up to 15 digits",
        ),
        (with("as: data, max: 10", "as: token"), "http:own/body:4:3: a value here must have 1 to 255 letters"),
        (with("as: data, max: 10", "as: data, words: { a: b }"), "http:own/body:4:3: a value here must be one of a"),
        (
            with("<b>{{event.fields.a}}</b>", "<b {{event.fields.a}}>"),
            "http:own/body:5:3: inside a tag a value may only be {{link.url}} or {{runbook}}, alone in href=\"…\"",
        ),
        (good.clone() + "digest: '{\"text\": \"{{event.key}}\"}'", "http:own/digest:1:11: there is no `event`"),
        (good.clone() + "notice: '[\"x\"]'\n", ""),
        (
            good.clone().replace("request: { ", "request: { encode: form, ") + "notice: '[\"x\"]'\n",
            "http:own/notice:1:1: the body must be one JSON object here",
        ),
        (
            good.clone() + "together: 30",
            "http:own/plain:1:1: the service takes 30 characters in all texts together, here are",
        ),
        (
            good.clone() + &format!("digest: '{}'", "x".repeat(70_000)),
            "http:own/digest:1:1: a template may have 65536 bytes",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let found = Renderer::load(None, &[own(&text)]).err().unwrap_or_default();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        let as_expected =
            if expected.is_empty() { found.is_empty() } else { found.iter().any(|found| found.starts_with(expected)) };
        if !as_expected {
            wrong.push(format!("expected {expected}\n  found {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_nearest_pattern_counts() {
    let text = SMALL.replace(
        "  /short:",
        "  /list/*: { as: token }\n  /list/0: { as: text }\n  \"/a~1b/*/*\": { as: data }\n  /short:",
    );
    let service = Service::new(own(&text).1);
    let manner = |path: &[&str]| {
        let steps: Vec<_> = path.iter().map(|step| (*step).to_owned()).collect();
        service.place_at(&steps).map(|place| place.manner)
    };
    assert_eq!(manner(&["list", "0"]), Some(Manner::Text));
    assert_eq!(manner(&["list", "1"]), Some(Manner::Token));
    assert_eq!(manner(&["a/b", "x", "y"]), Some(Manner::Data));
    for none in [&["list"][..], &["list", "0", "x"], &["a/b", "x"], &[], &["other"]] {
        assert_eq!(manner(none), None, "{none:?}");
    }
}

/// The example of `docs/PRESETS.md` loads and renders, and its tables name what there is.
#[test]
fn the_page_is_true() {
    const PAGE: &str = include_str!("../../../docs/PRESETS.md");
    let (_, example) = PAGE.split_once("```yaml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let example: Value = serde_saphyr::from_str(example).unwrap();
    let preset: Preset = serde_json::from_value(example["destinations"]["own"]["preset"].clone()).unwrap();
    let settings: Vec<_> = preset.settings.keys().map(String::as_str).collect();
    assert!(settings.iter().all(|name| example["destinations"]["own"].get(name).is_some()), "{settings:?}");
    let renderer = Renderer::load(None, &[(PresetName::new("http:own"), Arc::new(preset))])
        .unwrap_or_else(|errors| panic!("{errors:#?}"));
    let sample = super::super::snapshot_tests::sample("website-cert-expiring");
    let body = json_of(renderer.render(own_channel(), DEFAULT, &context(&sample, |_| ())).unwrap());
    assert_eq!(body["level"], 2);
    assert!(body["body"].as_str().unwrap().starts_with("**Issuer**: Example CA\n"), "{body}");
    let rows = |from: &str, to: &str| -> Vec<String> {
        let (_, part) = PAGE.split_once(from).unwrap();
        let (part, _) = part.split_once(to).unwrap();
        let names = part.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
        names.map(|(name, _)| name.to_owned()).filter(|name| name != "as").collect()
    };
    let mut fields = rows("## Fields", "`settings` names");
    for field in &fields {
        let twice = format!("{field}: 1\n{field}: 1\n");
        let error = serde_saphyr::from_str::<Preset>(&twice).unwrap_err().to_string();
        assert!(!error.contains("unknown field"), "{error}");
    }
    // All of them: what the reader knows is what the table has.
    let error = serde_saphyr::from_str::<Preset>("no: 1").unwrap_err().to_string();
    let (_, known) = error.lines().next().unwrap().split_once("expected one of ").unwrap();
    let mut known: Vec<_> = known.split(", ").map(str::to_owned).collect();
    fields.sort_unstable();
    known.sort_unstable();
    assert_eq!(fields, known);
    for manner in rows("| `as` |", "For a service with Markdown") {
        let read: Result<Manner, _> = serde_json::from_value(json!(manner));
        assert!(read.is_ok(), "{manner}");
    }
}
