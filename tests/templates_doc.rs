//! `docs/TEMPLATES.md` is true: its examples load and render every known event, and its tables name what there is.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at what it does not expect")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use halo_relay::catalogue;
use halo_relay::model::delivery::Code;
use halo_relay::model::{
    Channel, Content, DeliveryId, DestinationName, Event, EventKey, RuleName, Severity, Timestamp,
};
use halo_relay::render::{Circumstances, Context, Renderer};
use serde_json::json;

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/TEMPLATES.md")).unwrap()
}

/// The fenced examples: path and text.
fn examples() -> Vec<(String, String)> {
    let document = document();
    let fences = document.split("```handlebars ").skip(1);
    let example = |fence: &str| {
        let (path, rest) = fence.split_once('\n').unwrap();
        let (text, _) = rest.split_once("\n```").expect("the fence is closed");
        (path.to_owned(), format!("{text}\n"))
    };
    fences.map(example).collect()
}

fn load(files: &[(String, String)]) -> Result<Renderer, String> {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let told = |errors: Vec<_>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    Renderer::load(Some(dir.path())).map_err(told)
}

fn render(renderer: &Renderer, channel: Channel, name: &str, event: &Event, late: bool) -> Content {
    let received = Timestamp::from_api("2026-11-23 09:42").unwrap();
    let context = Context::new(
        event,
        &Circumstances {
            delivery_id: &DeliveryId::new("a1b2c3", 1_234),
            code: Code::of_row(1_234),
            severity: Severity::High,
            rule: &RuleName::from("certificates"),
            runbook: late.then_some("https://wiki.example.org/runbooks/certificates"),
            destination: &DestinationName::from("sec-slack"),
            may_repeat: late,
            test: false,
            received,
            now: received.plus(std::time::Duration::from_mins(if late { 42 } else { 0 })),
            delay: None,
            detour: None,
        },
    );
    renderer.render(channel, name, &context).unwrap_or_else(|error| panic!("{}: {error}", event.key.as_str()))
}

#[test]
fn the_examples_render_every_known_key() {
    let files = examples();
    let paths: Vec<_> = files.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["slack/terse.hbs", "email/table.subject.hbs", "email/_rows.html.hbs", "email/table.html.hbs"]);
    let renderer = load(&files).unwrap_or_else(|errors| panic!("{errors}"));
    let unknown = ["brand-new"];
    for key in catalogue::all().iter().map(|known| known.key).chain(unknown) {
        let event = catalogue::sample(&EventKey::new(key).unwrap());
        for late in [false, true] {
            let Content::Json(message) = render(&renderer, Channel::Slack, "terse", &event, late) else {
                panic!("no JSON")
            };
            let line = message.pointer("/blocks/0/text/text").unwrap().as_str().unwrap();
            assert!(line.starts_with("🟠 *") && line.contains("(sent 42 minutes late)") == late, "{line}");
            let Content::Mail { subject, text, html } = render(&renderer, Channel::Email, "table", &event, late) else {
                panic!("no mail")
            };
            assert!(subject.starts_with("[HIGH] "), "{subject}");
            assert!(text.starts_with("HIGH · "), "{text}");
            let html = html.unwrap();
            assert!(html.contains("<th align=\"left\">") && html.contains("bgcolor=\"#D9730D\""), "{html}");
            assert_eq!(html.contains(">Runbook</a>"), late, "{html}");
        }
    }
}

/// Every member of the table is known, by its name there.
#[test]
fn the_context_is_as_the_table_says() {
    let document = document();
    let (_, table) = document.split_once("## The context").unwrap();
    let (table, _) = table.split_once("## Why").unwrap();
    let names: Vec<_> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name))
        .map(|name| name.replace("NAME", "port"))
        .collect();
    assert_eq!(names.len(), 31, "{names:?}");
    for name in &names {
        let text = match name.as_str() {
            "facts" => "{{#each facts}}{{label}}={{value}} {{/each}}".to_owned(),
            "event.body" => continue,
            name => format!("{{{{{name}}}}}"),
        };
        load(&[("slack/x.hbs".to_owned(), json!({"text": format!("x {text}")}).to_string())])
            .unwrap_or_else(|errors| panic!("{errors}"));
    }
    let all = format!(
        "{{{}}}",
        names.iter().map(|name| format!("\"{name}\": {{{{json {name}}}}}")).collect::<Vec<_>>().join(", ")
    );
    let renderer = load(&[("webhook/x.hbs".to_owned(), all)]).unwrap_or_else(|errors| panic!("{errors}"));
    let event = catalogue::sample(&EventKey::new("website-cert-expiring").unwrap());
    let Content::Json(body) = render(&renderer, Channel::Webhook, "x", &event, true) else { panic!("no JSON") };
    let shown = |name: &str| body[name].as_str().map_or_else(|| body[name].to_string(), str::to_owned);
    for (name, example) in [
        ("version", "1"),
        ("headline", "HIGH · SSL certificate expiring · www.example.org · 7 days"),
        ("title", "SSL certificate expiring"),
        ("late", "sent 42 minutes late"),
        ("severity.rank", "3"),
        ("severity.color", "#D9730D"),
        ("severity.style", "warning"),
        ("delivery.id", "hr_a1b2c3_4d2"),
        ("event.subject", "SSL Certificate Expiring"),
        ("event.time", "2026-11-23T09:41:00Z"),
        ("event.when", "2026-11-23 09:41 UTC"),
        ("received", "2026-11-23T09:42:00Z"),
        ("may_repeat", "true"),
    ] {
        assert_eq!(shown(name), example, "{name}");
        assert!(table.contains(&format!("| `{name}` | `{example}`")), "{name}");
    }
}

/// What the page says is refused, is, in those words; and each helper it names is known.
#[test]
fn refusals_are_in_the_words_of_the_page() {
    let document = document();
    let slack = |text: &str| ("slack/x.hbs", format!("{{\"text\": \"x {text}\"}}"));
    let html = |text: &str| ("email/x.html.hbs", text.to_owned());
    let cases = [
        (slack("{{hedline}}"), "there is no `hedline`"),
        (slack("{{event.port}}"), "there is no `event.port`"),
        (slack("{{link}}"), "`link` is a group, not a text"),
        (slack("{{#if link}}{{/if}}"), "`link` is always there"),
        (slack("{{uper rule}}"), "there is no helper `uper`"),
        (("slack/x.hbs", "{\"text\": {{title}}}".to_owned()), "a value must stand inside a JSON string"),
        (("slack/x.hbs", "{\"text\": \"x\",}".to_owned()), "the result is not JSON"),
        (
            (
                "slack/x.hbs",
                "{\"text\": \"x\", \"blocks\": [{\"type\": \"image\", \"image_url\": \"{{link.url}}\"}]}".to_owned(),
            ),
            "the address is empty here",
        ),
        (
            (
                "slack/x.hbs",
                "{\"text\": \"x\", \"blocks\": [{\"type\": \"image\", \"image_url\": \"{{title}}\"}]}".to_owned(),
            ),
            "an address may only be",
        ),
        (("slack/x.hbs", "{\"text\": \"x\", \"channel\": \"{{title}}\"}".to_owned()), "takes no value here"),
        (html("<p style=\"{{title}}\">"), "a value cannot stand in `style`"),
        (
            html("{{#if test}}<p title=\"{{/if}}{{title}}\">"),
            "the branches of `if` end in different places of the document",
        ),
        (("slack/x.hbs", "{}".to_owned()), "a Slack message needs a `text`"),
    ];
    for ((path, text), words) in cases {
        let errors = load(&[(path.to_owned(), text)]).expect_err(words);
        assert!(errors.contains(words), "{words}: {errors}");
        assert!(document.contains(words), "{words}");
    }
    let (_, helpers) = document.split_once("| call | gives |").unwrap();
    let (helpers, _) = helpers.split_once("\n\n").unwrap();
    let calls: BTreeSet<_> = helpers.split("{{").skip(1).filter_map(|call| Some(call.split_once("}}")?.0)).collect();
    for call in calls {
        let (path, text) = match call {
            call if call.starts_with("json") => ("webhook/x.hbs", format!("{{\"x\": {{{{{call}}}}}}}")),
            call if call.starts_with('#') => ("email/x.text.hbs", format!("{{{{{call}}}}}x{{{{/if}}}}")),
            call => ("email/x.text.hbs", format!("{{{{{call}}}}}")),
        };
        load(&[(path.to_owned(), text)]).unwrap_or_else(|errors| panic!("{errors}"));
    }
}
