//! `docs/TEMPLATES.md` is true: its examples load and render every known event, and its tables name what there is.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at what it does not expect")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use halo_relay::catalogue;
use halo_relay::model::delivery::Code;
use halo_relay::model::{
    Channel, Content, DeliveryId, DestinationName, Event, EventKey, Mention, RuleName, Severity, Timestamp,
};
use halo_relay::render::{Audience, Circumstances, Context, Detour, Digest, DigestKind, Notice, Renderer};
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
    Renderer::load(Some(dir.path()), &[]).map_err(told)
}

fn render(renderer: &Renderer, channel: Channel, name: &str, event: &Event, late: bool) -> Content {
    let context = context(late, |about| Context::new(event, about));
    renderer.render(channel, name, &context).unwrap_or_else(|error| panic!("{}: {error}", event.key.as_str()))
}

/// A message that is late goes another way too, and has all that a message can have.
fn context(late: bool, of: impl FnOnce(&Circumstances<'_>) -> Context) -> Context {
    let received = Timestamp::from_api("2026-11-23 09:42").unwrap();
    let name = DestinationName::from("sec-slack");
    let mentions: Vec<Mention> = if late { vec!["here".parse().unwrap()] } else { Vec::new() };
    of(&Circumstances {
        delivery_id: &DeliveryId::new("a1b2c3", 1_234),
        code: Code::of_row(1_234),
        severity: Severity::High,
        rule: &RuleName::from("certificates"),
        runbook: late.then_some("https://wiki.example.org/runbooks/certificates"),
        destination: &name,
        audience: Audience::anyone(),
        may_repeat: late,
        test: false,
        received,
        now: received.plus(Duration::from_mins(if late { 42 } else { 0 })),
        delay: late.then_some("sec-slack took no messages"),
        detour: late.then_some(Detour { from: &name, why: "channel_is_archived" }),
        mentions: &mentions,
        thread: late.then_some("9a0364b9e99bb480dd25e1f0284c8555"),
    })
}

/// As many events as the page speaks of, from 09:10 to 09:41.
fn digest() -> Digest {
    let first = Timestamp::from_api("2026-11-23 09:10").unwrap();
    let event = |number: u64| {
        let mut record = catalogue::sample(&EventKey::new("website-cert-expiring").unwrap()).body().clone();
        let host = if number.is_multiple_of(12) { "www".to_owned() } else { format!("host{}", number % 12) };
        record.insert("target".to_owned(), json!(format!("{host}.example.org")));
        (Event::from_value(record.into()).unwrap(), first.plus(Duration::from_secs(number * 31 * 60 / 36)))
    };
    Digest::of(DigestKind::Batch, &(0..37).map(event).collect::<Vec<_>>()).unwrap()
}

#[test]
fn the_examples_render_every_known_key() {
    let files = examples();
    let paths: Vec<_> = files.iter().map(|(path, _)| path.as_str()).collect();
    let (slack, email) = (["slack/terse.hbs", "slack/terse.digest.hbs"], ["table.subject", "_rows.html", "table.html"]);
    let email = email.map(|name| format!("email/{name}.hbs"));
    assert_eq!(paths, slack.into_iter().chain(email.iter().map(String::as_str)).collect::<Vec<_>>());
    let renderer = load(&files).unwrap_or_else(|errors| panic!("{errors}"));
    let unknown = ["brand-new"];
    for key in catalogue::all().iter().map(|known| known.key).chain(unknown) {
        let event = catalogue::sample(&EventKey::new(key).unwrap());
        for late in [false, true] {
            let Content::Json(message) = render(&renderer, Channel::Slack, "terse", &event, late) else {
                panic!("no JSON")
            };
            let line = message.pointer("/blocks/0/text/text").unwrap().as_str().unwrap();
            assert!(
                line.starts_with("🟠 *") && line.contains("(sent 42 minutes late: sec-slack took no messages)") == late,
                "{line}"
            );
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

/// The rows of a table of the page: a member, and what stands beside it.
fn rows(from: &str, to: &str) -> Vec<(String, String)> {
    let document = document();
    let (_, table) = document.split_once(from).unwrap();
    let (table, _) = table.split_once(to).unwrap();
    let row = |line: &str| {
        line.strip_prefix("| `")?.split_once("` | ").map(|(name, rest)| (name.to_owned(), rest.to_owned()))
    };
    table.lines().filter_map(row).map(|(name, rest)| (name.replace("NAME", "port"), rest)).collect()
}

/// Every member of the tables is known, by its name there.
#[test]
fn the_context_is_as_the_tables_say() {
    let event = catalogue::sample(&EventKey::new("website-cert-expiring").unwrap());
    let notice =
        Notice { destination: &DestinationName::from("sec-slack"), reason: "channel_is_archived", waiting: 14 };
    let common = rows("## The context", "One event, in");
    let own = [
        rows("One event, in", "Several events, in"),
        rows("Several events, in", "News of the relay, in"),
        rows("News of the relay, in", "## Mentions"),
    ];
    assert_eq!((common.len(), own.each_ref().map(Vec::len)), (32, [9, 13, 4]));
    let contexts = [
        context(true, |about| Context::new(&event, about)),
        context(true, |about| Context::digest(&digest(), about)),
        context(true, |about| Context::notice(&notice, about)),
    ];
    for ((file, template), (own, context)) in
        [("x", "x"), ("x.digest", "x"), ("notice", "default")].into_iter().zip(own.iter().zip(&contexts))
    {
        let printed = common.iter().chain(own).map(|(name, _)| match name.as_str() {
            "facts" => "{{#each facts}}{{label}}={{value}} {{/each}}".to_owned(),
            "mentions" => "{{#each mentions}}{{kind}}{{id}}{{name}}<{{slack}}>{{text}}{{/each}}".to_owned(),
            "called" => {
                "{{called.all}}{{#each called.users}}{{id}}{{/each}}{{#each called.roles}}{{id}}{{/each}}".to_owned()
            }
            "digest.keys" => "{{#each digest.keys}}{{key}}{{title}}{{count}}{{/each}}".to_owned(),
            "digest.targets" => "{{#each digest.targets}}{{target}}{{count}}{{/each}}".to_owned(),
            "digest.events" => "{{#each digest.events}}{{line}}{{title}}{{key}}{{target}}{{deadline}}{{when}}\
                {{#if link.url}}<{{link.url}}|x>{{/if}}{{/each}}"
                .to_owned(),
            "event.body" => String::new(),
            name => format!("{{{{{name}}}}}"),
        });
        let printed = json!({"text": printed.collect::<Vec<_>>().join(" ")}).to_string();
        load(&[(format!("slack/{file}.hbs"), printed)]).unwrap_or_else(|errors| panic!("{errors}"));
        let all: Vec<_> =
            common.iter().chain(own).map(|(name, _)| format!("\"{name}\": {{{{json {name}}}}}")).collect();
        let all = [(format!("webhook/{file}.hbs"), format!("{{{}}}", all.join(", ")))];
        let renderer = load(&all).unwrap_or_else(|errors| panic!("{errors}"));
        let Content::Json(body) = renderer.render(Channel::Webhook, template, context).unwrap() else {
            panic!("no JSON")
        };
        // The common table gives the values of one event.
        let told = if file == "x" { common.iter().chain(own) } else { own.iter().chain(&[]) };
        let mut compared = 0;
        for (name, beside) in told {
            let Some(example) = beside.strip_prefix('`').and_then(|rest| rest.split('`').next()) else { continue };
            let only_like_it = [
                "severity.name",
                "now",
                "test",
                "code",
                "footer",
                "event.id",
                "event.fields.port",
                "event.body",
                "digest.rest",
            ];
            if only_like_it.contains(&name.as_str()) {
                continue;
            }
            let shown = body[name].as_str().map_or_else(|| body[name].to_string(), str::to_owned);
            assert!(shown == example || (name == "notice.remedy" && shown.starts_with(example)), "{name}: {shown}");
            compared += 1;
        }
        assert_eq!(
            compared,
            match file {
                "x" => 27,
                "x.digest" => 9,
                _ => 4,
            },
            "{file}"
        );
    }
}

#[test]
fn the_headlines_and_the_digest_example_are_as_the_page_says() {
    let renderer = load(&examples()).unwrap_or_else(|errors| panic!("{errors}"));
    let of_digest = context(false, |about| Context::digest(&digest(), about));
    let Content::Json(message) = renderer.render(Channel::Slack, "terse", &of_digest).unwrap() else {
        panic!("no JSON")
    };
    let headline = "HIGH · 37 × SSL certificate expiring · 12 targets · 09:10–09:41";
    assert_eq!(message["text"], headline);
    let text = message.pointer("/blocks/0/text/text").unwrap().as_str().unwrap();
    assert!(text.contains("\n• www.example.org · 7 days\n") && text.lines().count() == 11, "{text}");
    let of_notice = context(false, |about| {
        let notice = Notice { destination: about.destination, reason: "channel_is_archived", waiting: 14 };
        Context::notice(&notice, about)
    });
    let Content::Json(body) = renderer.render(Channel::Webhook, "default", &of_notice).unwrap() else {
        panic!("no JSON")
    };
    let news = "NOTICE · sec-slack takes no messages · channel_is_archived";
    assert_eq!(body["headline"], news);
    let document = document();
    assert!(document.contains(headline) && document.contains(news));
}

/// The built-in webhook bodies have the members that the page lists.
#[test]
fn webhook_bodies_are_as_the_page_says() {
    let document = document();
    let (_, part) = document.split_once("## What webhooks get").unwrap();
    let (members, table) = part.split_once("Tell messages apart").unwrap();
    let quoted = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let event = catalogue::sample(&EventKey::new("issue-add").unwrap());
    let notice = Notice { destination: &DestinationName::from("sec-slack"), reason: "x", waiting: 1 };
    for context in [
        context(true, |about| Context::new(&event, about)),
        context(true, |about| Context::digest(&digest(), about)),
        context(true, |about| Context::notice(&notice, about)),
    ] {
        let Content::Json(body) = Renderer::builtin().render(Channel::Webhook, "default", &context).unwrap() else {
            panic!("no JSON")
        };
        let names = |object: &serde_json::Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&body), quoted(members));
        assert_eq!(body["detour"], json!({"from": "sec-slack", "why": "channel_is_archived"}));
        let shape = body["shape"].as_str().unwrap();
        let row = quoted(table.lines().find(|line| line.starts_with(&format!("| `{shape}`"))).unwrap());
        if shape != "event" {
            assert_eq!(body["type"], row[1]);
            assert_eq!(names(&body["data"]), row[2..]);
        }
    }
}

/// What the page says of each kind of mention.
#[test]
fn mentions_are_as_the_table_says() {
    let written = ["here", "U0123ABCD", "S0123ABCD", "Ada Example <ada@example.org>", "123456789012345678", "@ops"];
    let (_, table) = document().split_once("## Mentions").map(|(one, two)| (one.to_owned(), two.to_owned())).unwrap();
    let rows: Vec<_> =
        table.lines().filter(|line| line.starts_with("| `")).take(7).skip(1).map(str::to_owned).collect();
    for written in written {
        let mention: Mention = written.parse().unwrap();
        let row = rows.iter().find(|row| row.contains(&format!("`{}`", mention.kind()))).unwrap();
        let slack = mention.in_slack();
        for said in [mention.name(), slack.as_deref()].into_iter().flatten() {
            assert!(row.contains(&format!("`{said}`")), "{said}: {row}");
        }
        assert_eq!(row.matches("null").count(), usize::from(mention.name().is_none()) + usize::from(slack.is_none()));
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
            call if call.contains("digest.") => ("email/x.digest.text.hbs", format!("{{{{{call}}}}}")),
            call if call.starts_with('#') => ("email/x.text.hbs", format!("{{{{{call}}}}}x{{{{/if}}}}")),
            call => ("email/x.text.hbs", format!("{{{{{call}}}}}")),
        };
        load(&[(path.to_owned(), text)]).unwrap_or_else(|errors| panic!("{errors}"));
    }
}
