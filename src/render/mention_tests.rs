//! Who is called: those of the configuration, by every shape of every channel that has mentions; and nobody by an event's
//! text, whatever it says.

use serde_json::json;

use super::hostile_tests::{HOSTILE, contexts, write};
use super::snapshot_tests::{about, sample};
use super::*;
use crate::model::{DestinationName, Event, Mention, Timestamp};

fn mentions(channel: Channel, written: &[&str]) -> Vec<Mention> {
    let all: Vec<Mention> = written.iter().map(|one| one.parse().unwrap()).collect();
    Mention::shown_in(&all, channel)
}

const ALL: [&str; 8] = [
    "here",
    "U0123ABCD",
    "S0123ABCD",
    "Ada O'Neil (IT) <ada@example.org>",
    "Zoë <0a1b2c3d-0000-1111-2222-333344445555>",
    "123456789012345678",
    "&123456789012345678",
    "@ops",
];

/// An event, a digest and a notice that call those of `written` whom the channel knows.
fn calling(channel: Channel, written: &[&str], event: &Event) -> [Context; 3] {
    let mentions = mentions(channel, written);
    let mentions = &mentions[..];
    let other = DestinationName::from("other");
    let digest =
        Digest::of(DigestKind::Batch, &[(event.clone(), Timestamp::default()), (event.clone(), Timestamp::default())]);
    let digest = digest.unwrap();
    let notice = Notice { destination: &other, reason: "channel_is_archived", waiting: 3 };
    let with = |context: &dyn Fn(&Circumstances<'_>) -> Context| {
        about(|_| (), |about| context(&Circumstances { mentions, thread: Some("0a1b"), ..*about }))
    };
    [
        with(&|about| Context::new(event, about)),
        with(&|about| Context::digest(&digest, about)),
        with(&|about| Context::notice(&notice, about)),
    ]
}

fn json_of(content: Content) -> Value {
    let Content::Json(document) = content else { panic!("no JSON") };
    document
}

#[test]
fn slack_calls_in_a_section_and_in_the_text() {
    let renderer = Renderer::builtin();
    for context in calling(Channel::Slack, &ALL, &sample("issue-add")) {
        let message = json_of(renderer.render(Channel::Slack, DEFAULT, &context).unwrap());
        let calls = "<!here> <@U0123ABCD> <!subteam^S0123ABCD>";
        assert_eq!(message["blocks"][1]["text"], json!({"type": "mrkdwn", "text": calls}));
        assert!(message["text"].as_str().unwrap().ends_with(&format!("\n{calls}")), "{message:#}");
        let plain = json_of(renderer.plain(Channel::Slack, &context));
        assert!(plain["text"].as_str().unwrap().contains(&format!("\n{calls}\n")), "{plain:#}");
    }
}

#[test]
fn teams_calls_in_a_text_block_with_its_entities() {
    let renderer = Renderer::builtin();
    let called = [("Ada O'Neil (IT)", "ada@example.org"), ("Zoë", "0a1b2c3d-0000-1111-2222-333344445555")];
    let entities: Vec<_> = called
        .iter()
        .map(|(name, id)| {
            json!({"type": "mention", "text": format!("<at>{name}</at>"), "mentioned": {"id": id, "name": name}})
        })
        .collect();
    for context in calling(Channel::Teams, &ALL, &sample("issue-add")) {
        for card in [
            json_of(renderer.render(Channel::Teams, DEFAULT, &context).unwrap()),
            json_of(renderer.plain(Channel::Teams, &context)),
        ] {
            assert_eq!(card["msteams"]["entities"], json!(entities));
            let blocks = card["body"].as_array().unwrap().iter().filter(|block| block["type"] == "TextBlock");
            let texts: Vec<_> = blocks.map(|block| block["text"].as_str().unwrap()).collect();
            assert_eq!(texts, ["<at>Ada O'Neil (IT)</at> <at>Zoë</at>"], "an entity's text must be the card's");
        }
    }
}

#[test]
fn who_calls_nobody_looks_as_before() {
    let renderer = Renderer::builtin();
    for channel in Channel::ALL {
        let strangers: &[&str] = if channel == Channel::Slack { &ALL[3..] } else { &ALL[..3] };
        let nobody = calling(channel, &[], &sample("issue-add"));
        for (context, bare) in calling(channel, strangers, &sample("issue-add")).iter().zip(&nobody) {
            let rendered = |context| renderer.render(channel, DEFAULT, context).unwrap();
            assert_eq!(rendered(context), rendered(bare), "{channel}");
            assert_eq!(renderer.plain(channel, context), renderer.plain(channel, bare), "{channel}");
        }
    }
    let context = &calling(Channel::Slack, &[], &sample("issue-add"))[0];
    let message = json_of(renderer.render(Channel::Slack, DEFAULT, context).unwrap());
    assert!(!message.to_string().contains("mrkdwn"), "{message:#}");
}

/// Templates of one's own may call by elements, and machines get all as data.
const OWN: [(&str, &str); 4] = [
    (
        "slack/own.hbs",
        r#"{"text": "{{headline}}", "blocks": [{"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [
            {{#each mentions}}
            {{#if (eq kind "slack_user")}}{"type": "user", "user_id": "{{id}}"},{{/if}}
            {{#if (eq kind "slack_group")}}{"type": "usergroup", "usergroup_id": "{{id}}"},{{/if}}
            {{#if (eq kind "here")}}{"type": "broadcast", "range": "{{id}}"},{{/if}}
            {{/each}}
            {"type": "text", "text": "{{event.subject}} {{thread}}"}]}]}]}"#,
    ),
    (
        "slack/shown.hbs",
        r#"{"text": "{{#each mentions}}<{{slack}}> {{id}} {{slack}} {{/each}}{{event.subject}} {{event.fields.a}}"}"#,
    ),
    (
        "teams/shown.hbs",
        r#"{"type": "AdaptiveCard", "body": [{"type": "TextBlock", "text": "{{#each mentions}}<at>{{name}}</at> {{/each}}"},
            {"type": "TextBlock", "text": "{{event.subject}} {{event.fields.a}}"}], "msteams": {"entities": [{{#each mentions}}
            {"type": "mention", "text": "<at>{{name}}</at>", "mentioned": {"id": "{{id}}", "name": "{{name}}"}}{{#unless @last}},{{/unless}}{{/each}}]}}"#,
    ),
    ("webhook/own.hbs", r#"{"calls": {{json mentions}}, "thread": {{json thread}}}"#),
];

fn own() -> Renderer {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &OWN);
    Renderer::load(Some(dir.path()), &[]).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

#[test]
fn own_templates_call_too() {
    let renderer = own();
    let [context, ..] = calling(Channel::Slack, &ALL, &sample("issue-add"));
    let message = json_of(renderer.render(Channel::Slack, "own", &context).unwrap());
    let section = &message["blocks"][0]["elements"][0]["elements"];
    assert_eq!(section[0], json!({"type": "broadcast", "range": "here"}));
    assert_eq!(section[1], json!({"type": "user", "user_id": "U0123ABCD"}));
    assert_eq!(section[2], json!({"type": "usergroup", "usergroup_id": "S0123ABCD"}));
    assert!(section[3]["text"].as_str().unwrap().ends_with(" 0a1b"));
    let [context, ..] = calling(Channel::Webhook, &["here", "Ada <ada@example.org>"], &sample("issue-add"));
    let body = json_of(renderer.render(Channel::Webhook, "own", &context).unwrap());
    let expected = json!([
        {"kind": "here", "id": "here", "name": null, "slack": "!here", "text": null},
        {"kind": "teams_user", "id": "ada@example.org", "name": "Ada", "slack": null, "text": null},
    ]);
    assert_eq!((&body["calls"], &body["thread"]), (&expected, &json!("0a1b")));
}

/// Only in its place is a mention one; elsewhere it is a text like any other.
#[test]
fn a_mention_printed_as_text_is_text() {
    let [context, ..] = calling(Channel::Slack, &["here", "U0123ABCD"], &sample("issue-add"));
    let message = json_of(own().render(Channel::Slack, "shown", &context).unwrap());
    let text = message["text"].as_str().unwrap();
    assert!(text.starts_with("<!here> here !here <@U0123ABCD> U0123ABCD @U0123ABCD "), "{text}");
}

/// Text that says just what the configuration says, in each channel's own letters, calls nobody more.
#[test]
fn an_event_that_repeats_a_mention_does_not_make_one() {
    let renderer = own();
    let same = [
        "!here",
        "<!here>",
        "@U0123ABCD",
        "<@U0123ABCD>",
        "<!subteam^S0123ABCD>",
        "U0123ABCD",
        "<at>Zoë</at>",
        "Zoë",
        "Ada O'Neil (IT)",
        "&lt;!here&gt;",
        "0a1b2c3d-0000-1111-2222-333344445555",
    ];
    for said in same.into_iter().chain(HOSTILE) {
        let event = Event::from_value(json!({"event_id": "1", "key": "k", "subject": said, "target": said, "a": said}));
        let event = event.unwrap();
        for (template, shapes) in [(DEFAULT, 3), ("shown", 1)] {
            for context in &calling(Channel::Slack, &ALL, &event)[..shapes] {
                for content in [
                    renderer.render(Channel::Slack, template, context).unwrap(),
                    renderer.plain(Channel::Slack, context),
                ] {
                    let document = json_of(content).to_string();
                    let calls = document.matches("<!here>").count();
                    assert!((1..=2).contains(&calls), "{said:?}: {document}");
                    for (call, of) in [("<!", 2 * calls), ("<@", calls), ("<!subteam^", calls)] {
                        assert_eq!(document.matches(call).count(), of, "{call} {said:?}: {document}");
                    }
                }
            }
            for context in &calling(Channel::Teams, &ALL, &event)[..shapes] {
                for content in [
                    renderer.render(Channel::Teams, template, context).unwrap(),
                    renderer.plain(Channel::Teams, context),
                ] {
                    let card = json_of(content);
                    assert_eq!(card["msteams"]["entities"].as_array().map(Vec::len), Some(2), "{said:?}: {card}");
                    // Each once in the card and once in its entity.
                    assert_eq!(card.to_string().matches("<at>").count(), 4, "{said:?}: {card}");
                }
            }
        }
    }
}

/// Services described by data: the member that notifies, whom it can call and whom not, and how it calls them.
const SERVICES: [(&str, &str, &[&str], &[&str]); 6] = [
    (
        "discord",
        "content",
        &["here", "everyone", "123456789012345678", "&123456789012345678", "@ops", "U0123ABCD"],
        &["@here", "@everyone", "<@123456789012345678>", "<@&123456789012345678>"],
    ),
    ("google_chat", "text", &["everyone", "here", "123456789012345678"], &["<users/all>"]),
    ("mattermost", "text", &["here", "channel", "everyone", "@ops"], &["@here", "@channel", "@all", "@ops"]),
    ("rocket_chat", "text", &["here", "everyone", "@ops", "S0123ABCD"], &["@here", "@all", "@ops"]),
    ("zulip", "content", &["everyone", "@ops", "here"], &["@**all**", "@**ops**"]),
    ("telegram", "text", &["@ops", "channel"], &["@ops"]),
];

/// How often a text stands in a document where it could call somebody.
fn live(document: &Value, call: &str) -> usize {
    let mut shown = document.clone();
    // Shown without any markup.
    if let Some(top) = shown.as_object_mut() {
        top.remove("topic");
    }
    let text = shown.to_string().replace("\\\\@", "").replace("\\\\<", "");
    text.matches(call).count()
}

#[test]
fn services_call_behind_the_headline_of_what_notifies() {
    let renderer = Renderer::builtin();
    for (name, member, written, calls) in SERVICES {
        let channel = Channel::Http(PresetName::new(name));
        let event = sample("issue-add");
        for (context, bare) in calling(channel, written, &event).iter().zip(&calling(channel, &[], &event)) {
            let text = |context| json_of(renderer.render(channel, DEFAULT, context).unwrap())[member].clone();
            let bare = text(bare);
            let (headline, rest) = bare.as_str().unwrap().split_once('\n').unwrap_or((bare.as_str().unwrap(), ""));
            let expected = format!("{headline} {}\n{rest}", calls.join(" "));
            assert_eq!(text(context), json!(expected.trim_end()), "{name}");
        }
    }
}

#[test]
fn services_leave_out_whom_they_do_not_know() {
    let renderer = Renderer::builtin();
    let strangers: [(&str, &[&str]); 8] = [
        ("discord", &["@ops", "U0123ABCD", "Ada <ada@example.org>"]),
        ("google_chat", &["here", "@ops", "123456789012345678"]),
        ("mattermost", &["123456789012345678", "S0123ABCD"]),
        ("zulip", &["here", "&123456789012345678"]),
        ("telegram", &["here", "channel", "everyone", "@security-team"]),
        ("ntfy", &ALL),
        ("opsgenie", &ALL),
        ("pagerduty", &ALL),
    ];
    for (name, strangers) in strangers {
        let channel = Channel::Http(PresetName::new(name));
        let event = sample("issue-add");
        for (context, bare) in calling(channel, strangers, &event).iter().zip(&calling(channel, &[], &event)) {
            let rendered = |context| renderer.render(channel, DEFAULT, context).unwrap();
            assert_eq!(rendered(context), rendered(bare), "{name}");
            assert_eq!(renderer.plain(channel, context), renderer.plain(channel, bare), "{name}");
        }
    }
}

#[test]
fn discord_is_told_who_may_be_called() {
    let renderer = Renderer::builtin();
    let channel = Channel::Http(PresetName::new("discord"));
    let cases: [(&[&str], Value); 4] = [
        (&[], json!({"parse": []})),
        (&["here", "everyone", "channel"], json!({"parse": ["everyone"]})),
        (
            &["123456789012345678", "223456789012345678"],
            json!({"parse": [], "users": ["123456789012345678", "223456789012345678"]}),
        ),
        (
            &["&323456789012345678", "here", "123456789012345678", "U0123ABCD"],
            json!({"parse": ["everyone"], "users": ["123456789012345678"], "roles": ["323456789012345678"]}),
        ),
    ];
    for (written, expected) in cases {
        for context in &calling(channel, written, &sample("issue-add")) {
            let message = json_of(renderer.render(channel, DEFAULT, context).unwrap());
            assert_eq!(message["allowed_mentions"], expected, "{written:?}");
            assert_eq!(json_of(renderer.plain(channel, context))["allowed_mentions"], json!({"parse": []}));
        }
    }
}

/// Text that says just what the configuration says calls nobody in any service, wherever a template prints it.
#[test]
fn an_event_that_repeats_a_services_mention_does_not_make_one() {
    let dir = tempfile::tempdir().unwrap();
    let said = "{{event.subject}} {{event.fields.a}}{{event.target}}";
    for (name, member, ..) in SERVICES {
        let text = format!("{said}{{{{#each mentions}}}}{{{{text}}}}{{{{/each}}}}{said} {{{{event.subject}}}}");
        write(dir.path(), &[(&format!("{name}/own.hbs"), &format!("{{\"{member}\": \"{text}\"}}"))]);
    }
    let own = Renderer::load(Some(dir.path()), &preset::built_in()).unwrap_or_else(|errors| panic!("{errors:#?}"));
    for (name, _, written, calls) in SERVICES {
        let channel = Channel::Http(PresetName::new(name));
        let marked = calls.iter().map(|call| format!("\u{FDD6}{call}"));
        let said = calls.iter().map(|call| (*call).to_owned()).chain(marked);
        for said in said.chain(HOSTILE.map(str::to_owned)).chain([calls.concat()]) {
            let event =
                Event::from_value(json!({"event_id": "1", "key": "k", "subject": said, "target": said, "a": said}));
            for (template, shapes) in [(DEFAULT, 3), ("own", 1)] {
                for context in &calling(channel, written, &event.clone().unwrap())[..shapes] {
                    let message = json_of(own.render(channel, template, context).unwrap());
                    for call in calls {
                        let same = calls.iter().map(|other| other.matches(call).count()).sum::<usize>();
                        assert_eq!(live(&message, call), same, "{name}/{template} {call} {said:?}: {message:#}");
                    }
                    let plain = json_of(own.plain(channel, context));
                    assert!(calls.iter().all(|call| live(&plain, call) == 0), "{name} {said:?}: {plain:#}");
                }
            }
        }
    }
}

/// What is called stays whole however little room there is.
#[test]
fn a_mention_is_not_cut() {
    let own = "{ about: x, request: { url: 'https://example.org/' }, mentions: { name: 'to:{id}' }, \
               values: { /t: { as: zulip, max: 20 } }, plain: { t: '{{text}}' }, delivered: { status: [200] }, \
               body: '{ \"t\": \"{{#each mentions}}{{text}} {{/each}}{{event.subject}}\" }' }";
    let (name, preset) = (PresetName::new("http:calls"), serde_saphyr::from_str(own).unwrap());
    let renderer = Renderer::load(None, &[(name, Arc::new(preset))]).unwrap();
    let event = json!({"event_id": "1", "key": "k", "subject": "a long subject to:ops of many words"});
    let [context, ..] = calling(Channel::Http(name), &["@ops"], &Event::from_value(event).unwrap());
    let message = json_of(renderer.render(Channel::Http(name), DEFAULT, &context).unwrap());
    let text = message["t"].as_str().unwrap();
    assert!(text.starts_with("to:ops a long ") && text.ends_with('…') && text.chars().count() <= 20, "{text}");
}

/// Nothing that an event says makes another name of it.
#[test]
fn a_mention_is_not_prolonged() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"{"text": "{{event.subject}}{{#each mentions}}{{text}}{{/each}}{{event.subject}}"}"#;
    write(dir.path(), &[("mattermost/own.hbs", text)]);
    let own = Renderer::load(Some(dir.path()), &preset::built_in()).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let channel = Channel::Http(PresetName::new("mattermost"));
    for (subject, expected) in [("-x.y", "‐x.y @ops -x.y"), ("s", "s @ops s")] {
        let event = Event::from_value(json!({"event_id": "1", "key": "k", "subject": subject})).unwrap();
        let [context, ..] = calling(channel, &["@ops"], &event);
        assert_eq!(json_of(own.render(channel, "own", &context).unwrap()), json!({"text": expected}));
    }
}

/// With no mentions configured there is nothing that could be equal to one.
#[test]
fn of_an_empty_list_nobody_is_called() {
    let renderer = own();
    for hostile in HOSTILE {
        for context in &contexts(hostile) {
            for content in
                [renderer.render(Channel::Slack, DEFAULT, context).unwrap(), renderer.plain(Channel::Slack, context)]
            {
                let document = json_of(content).to_string();
                assert!(!document.contains("<!") && !document.contains("<@"), "{document}");
            }
            let card = json_of(renderer.render(Channel::Teams, DEFAULT, context).unwrap());
            assert!(!card.to_string().contains("<at>") && card["msteams"].get("entities").is_none(), "{card}");
        }
    }
}

/// Where somebody is called, event text is refused when the template is loaded, as are words pieced together.
#[test]
fn templates_that_would_let_text_call() {
    let slack = |text: &str| ("slack/a.hbs", format!("{{\"text\": \"{text}\"}}"));
    let rich = |element: &str| {
        (
            "slack/a.hbs",
            format!("{{\"text\": \"x\", \"blocks\": [{{\"type\": \"rich_text\", \"elements\": [{element}]}}]}}"),
        )
    };
    let teams = |entity: &str| {
        ("teams/a.hbs", format!("{{\"type\": \"AdaptiveCard\", \"msteams\": {{\"entities\": [{{{entity}}}]}}}}"))
    };
    let each = |inner: &str| format!("{{{{#each mentions}}}}{inner}{{{{/each}}}}");
    let cases = [
        (slack("<{{event.subject}}>"), "inside <…>"),
        (slack("<!{{event.subject}}>"), "inside <…>"),
        (slack("<@{{event.fields.user}}>"), "inside <…>"),
        (slack(&each("<@{{id}}>")), "inside <…>"),
        (slack(&each("<{{slack}}{{id}}>")), "inside <…>"),
        (slack(&each("<{{kind}}>")), "inside <…>"),
        (rich(r#"{"type": "user", "user_id": "{{event.subject}}"}"#), "`user_id` takes no value here but"),
        (rich(r#"{"type": "broadcast", "range": "{{event.fields.range}}"}"#), "`range` takes no value here but"),
        (rich(r#"{"type": "usergroup", "usergroup_id": "S{{code}}"}"#), "`usergroup_id` takes no value here but"),
        (rich(r#"{"type": "channel", "channel_id": "{{event.subject}}"}"#), "`channel_id` takes no value here"),
        (teams(r#""type": "mention", "text": "<at>{{event.subject}}</at>""#), "`text` takes no value here"),
        (teams(r#""mentioned": {"id": "{{event.subject}}"}"#), "`id` takes no value here"),
        (teams(r#""mentioned": {"name": "{{title}}"}"#), "`name` takes no value here"),
        (teams(r#""type": "{{title}}""#), "`type` takes no value here"),
    ];
    for ((name, text), words) in cases {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[(name, &text)]);
        let errors = Renderer::load(Some(dir.path()), &[]).expect_err(&text);
        assert!(errors.iter().any(|error| error.message.contains(words)), "{text}: {errors:#?}");
    }
}
