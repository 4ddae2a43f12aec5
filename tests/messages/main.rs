//! Every built-in message: each known kind of event, in each shape, for each channel.
//!
//! 1. They are kept in `tests/data/messages`, a file for each channel and shape, a line for each key, so that a changed word
//!    shows as changed lines. `UPDATE_MESSAGES=1 cargo test --test messages` writes them anew; then read the diff as those
//!    would who get the messages.
//! 2. They are written as they would go on the wire to `target/messages/CHANNEL/KEY.SHAPE.json` (mail: `.eml`; the requests to
//!    mail services: `email-SERVICE`), hostile ones too, for tools that are not ours: `.ci/messages/run` judges them there.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

#[path = "../support/http.rs"]
mod http;
mod kept;
mod requests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use halo_relay::deliver::{self, Settings, email, slack, teams, webhook};
use halo_relay::model::delivery::Code;
use halo_relay::model::{
    Channel, Content, DeliveryId, DestinationName, Event, EventKey, Mention, Message, PresetName, RuleName, Secret,
    Severity, Timestamp,
};
use halo_relay::render::{Audience, Circumstances, Context, DEFAULT, Detour, Digest, DigestKind, Notice, Renderer};
use halo_relay::{catalogue, preset};
use serde_json::{Value, json};

/// What has been used, or could be, to break out of some channel's text.
const HOSTILE: [&str; 52] = include!("../data/hostile.in");

/// One of each kind of destination, with the name of its folder. A new one joins with one line.
fn destinations() -> Vec<(&'static str, Settings)> {
    let secret = |text: &str| Secret::new(text.to_owned());
    let bot = slack::Settings::Bot {
        token: secret("xoxb-1"),
        channel: "C0123456789".to_owned(),
        api_base: "https://slack.com/api".to_owned(),
    };
    let server = email::submission::Server {
        host: "mail.example.org".to_owned(),
        port: 587,
        tls: email::submission::Tls::StartTls,
        login: None,
        ca_file: None,
    };
    let mail = email::Settings {
        way: email::Way::Smtp(server),
        from: "Halo relay <halo-relay@example.org>".parse().unwrap(),
        to: vec!["compliance@example.org".parse().unwrap()],
        name: DestinationName::from("compliance"),
    };
    let services = preset::names().map(|name| {
        let preset = preset::find(name).unwrap();
        (
            name,
            Settings::Http(deliver::preset::Settings { name: PresetName::new(name), preset, values: BTreeMap::new() }),
        )
    });
    let own = vec![
        ("slack", Settings::Slack(slack::Settings::Webhook { url: secret("https://hooks.slack.com/services/T/B/x") })),
        ("slack-bot", Settings::Slack(bot)),
        ("teams", Settings::Teams(teams::Settings { url: secret("https://x.logic.azure.com/?sig=x") })),
        ("email", Settings::Email(mail)),
        ("webhook", Settings::Webhook(webhook::Settings { url: secret("https://soar.example.org/"), secret: None })),
    ];
    own.into_iter().chain(services).collect()
}

/// What a message is of, and how it is told.
struct Case {
    /// The event's key, or another name.
    name: String,
    shape: &'static str,
    context: Context,
    /// The small message without a template.
    plain: bool,
    /// Whether it is kept in the repository.
    kept: bool,
}

const RECEIVED: &str = "2026-11-23 09:42";

/// What is unusual about a delivery.
#[derive(Clone, Copy, Default)]
struct Odd<'a> {
    late: Option<&'a str>,
    detour: Option<Detour<'a>>,
    test: bool,
    no_runbook: bool,
    mentions: &'a [Mention],
}

fn told(severity: Severity, odd: Odd<'_>, of: impl FnOnce(&Circumstances<'_>) -> Context) -> Context {
    let received = Timestamp::from_api(RECEIVED).unwrap();
    of(&Circumstances {
        delivery_id: &DeliveryId::new("a1b2c3", 1_234),
        code: Code::of_row(1_234),
        severity,
        rule: &RuleName::from("certificates"),
        runbook: (!odd.no_runbook).then_some("https://wiki.example.org/runbooks/certificates"),
        destination: &DestinationName::from("sec-slack"),
        audience: Audience::anyone(),
        mentions: odd.mentions,
        thread: None,
        may_repeat: odd.late.is_some(),
        test: odd.test,
        received,
        now: received.plus(odd.late.map_or(Duration::ZERO, |_| Duration::from_mins(42))),
        delay: odd.late,
        detour: odd.detour,
    })
}

fn sample(key: &str) -> Event {
    catalogue::sample(&EventKey::new(key).unwrap())
}

/// As many events as there are in `keys`, a minute apart, at a few targets.
fn digest(kind: DigestKind, keys: &[&str], targets: u64) -> Digest {
    let first = Timestamp::from_api("2026-11-23 09:10").unwrap();
    let event = |(number, key): (u64, &&str)| {
        let mut record = sample(key).body().clone();
        record.insert("event_id".to_owned(), json!(format!("id{number}")));
        record.insert("url".to_owned(), json!(format!("https://app.halosecurity.com/link?q=user-event&id=id{number}")));
        record.insert("target".to_owned(), json!(format!("host{}.example.org", number % targets)));
        (Event::from_value(record.into()).unwrap(), first.plus(Duration::from_secs(60 * number)))
    };
    Digest::of(kind, &(0..).zip(keys).map(event).collect::<Vec<_>>()).unwrap()
}

fn cases() -> Vec<Case> {
    let usual = Odd::default();
    let late = Odd { late: Some("sec-slack took no messages from 09:10 to 09:41: connection refused"), ..usual };
    let mut cases = Vec::new();
    for known in catalogue::all() {
        let event = sample(known.key);
        let several = digest(DigestKind::Batch, &[known.key; 4], 3);
        let one = |odd| told(known.severity, odd, |about| Context::new(&event, about));
        let mut add = |shape, plain, context| {
            cases.push(Case { name: known.key.to_owned(), shape, context, plain, kept: true });
        };
        add("single", false, one(usual));
        add("digest", false, told(known.severity, usual, |about| Context::digest(&several, about)));
        add("plain", true, one(usual));
        add("late", false, one(late));
        add("test", false, one(Odd { test: true, ..usual }));
    }
    cases.extend(other_cases());
    cases.extend(HOSTILE.iter().enumerate().flat_map(|(number, hostile)| hostile_cases(number, hostile)));
    cases
}

/// What has no key of its own.
fn other_cases() -> Vec<Case> {
    let keys: Vec<_> = catalogue::all().iter().map(|known| known.key).collect();
    let overflow = digest(DigestKind::Overflow, &keys, 30);
    let other = DestinationName::from("sec-slack");
    let detour = Some(Detour { from: &other, why: "channel_is_archived" });
    let notice = Notice { destination: &other, reason: "channel_is_archived", waiting: 14 };
    let bare = Event::from_value(json!({"event_id": "id1", "key": "k"})).unwrap();
    let (usual, no_runbook) = (Odd::default(), Odd { no_runbook: true, ..Odd::default() });
    let of = |name: &str, shape, context| Case { name: name.to_owned(), shape, context, plain: false, kept: true };
    let one = |odd, event: &Event| told(Severity::High, odd, |about| Context::new(event, about));
    vec![
        of("all-kinds", "digest", told(Severity::High, usual, |about| Context::digest(&overflow, about))),
        of("destination-lost", "notice", told(Severity::High, no_runbook, |about| Context::notice(&notice, about))),
        of("detour", "single", one(Odd { detour, ..usual }, &sample("issue-add"))),
        of("unknown", "single", one(usual, &sample("brand-new-kind"))),
        of("bare", "single", one(no_runbook, &bare)),
    ]
}

/// Whom this channel calls of some who could be.
fn mention_cases(channel: Channel) -> Vec<Case> {
    let called = ["here", "S0123ABCD", "Ada Example <ada@example.org>"];
    let in_services = ["everyone", "123456789012345678", "&123456789012345678", "@ops"];
    let parsed = |written: &[&str]| written.iter().map(|one| one.parse().unwrap()).collect::<Vec<Mention>>();
    let mut mentions = Mention::shown_in(&parsed(&called), channel);
    if let Channel::Http(name) = channel {
        let preset = preset::find(name.as_str()).unwrap();
        mentions.extend(parsed(&in_services));
        mentions.retain(|one| preset.call(one).is_some());
    }
    let of = |key: &str| {
        let odd = Odd { mentions: &mentions, ..Odd::default() };
        let context = told(Severity::High, odd, |about| Context::new(&sample(key), about));
        Case { name: key.to_owned(), shape: "mention", context, plain: false, kept: !mentions.is_empty() }
    };
    ["website-cert-expired", "issue-add"].map(of).into()
}

/// Hostile text wherever strangers have their say, in all shapes. Severities take turns.
fn hostile_cases(number: usize, hostile: &str) -> Vec<Case> {
    let text = |name: &str| format!("{name} {hostile}");
    let record = json!({
        "event_id": "id1", "key": "brand-new", "subject": text("subject"), "target": text("target"),
        "url": "https://app.halosecurity.com/link?q=user-event&id=id1", "date_created": "2026-11-23 09:41",
        "first": text("first"), "second": [text("second")], "third": {hostile: text("third")}, hostile: "fourth",
    });
    let event = Event::from_value(record).unwrap();
    let several = Digest::of(DigestKind::Overflow, &[(); 2].map(|()| (event.clone(), Timestamp::default()))).unwrap();
    let (other, why) = (DestinationName::from("other"), text("reason"));
    let notice = Notice { destination: &other, reason: &why, waiting: 3 };
    let (usual, severity) = (Odd::default(), Severity::ALL[number % Severity::ALL.len()]);
    let late = Odd { late: Some(&why), detour: Some(Detour { from: &other, why: &why }), ..usual };
    let of = |shape, plain, context| Case { name: format!("text{number:02}"), shape, context, plain, kept: false };
    vec![
        of("hostile", false, told(severity, usual, |about| Context::new(&event, about))),
        of("hostile-late", false, told(severity, late, |about| Context::new(&event, about))),
        of("hostile-digest", false, told(severity, late, |about| Context::digest(&several, about))),
        of("hostile-notice", false, told(severity, usual, |about| Context::notice(&notice, about))),
        of("hostile-plain", true, told(severity, late, |about| Context::new(&event, about))),
    ]
}

#[tokio::test]
async fn every_message_is_as_it_was() {
    let renderer = Renderer::builtin();
    let (cases, wire) = (cases(), wire_directory());
    let mut seen: BTreeMap<String, Vec<(String, Value)>> = BTreeMap::new();
    let mut mails = Vec::new();
    for (name, settings) in destinations() {
        let channel = settings.channel();
        for case in cases.iter().chain(&mention_cases(channel)) {
            let content = if case.plain {
                renderer.plain(channel, &case.context)
            } else {
                let content = renderer.render(channel, DEFAULT, &case.context);
                content.unwrap_or_else(|error| panic!("{name}: {}.{}: {error}", case.name, case.shape))
            };
            let kept = kept::document(&settings, &content);
            if matches!(content, Content::Mail { .. }) {
                mails.push((format!("{}.{}", case.name, case.shape), content.clone()));
            }
            write_wire(&wire, name, &settings, case, content);
            if case.kept && name == channel.name() {
                seen.entry(format!("{name}.{}.txt", case.shape)).or_default().push((case.name.clone(), kept));
            }
        }
    }
    requests::write(&wire, &mails, Timestamp::from_api(RECEIVED).unwrap()).await;
    kept::compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/messages"), &seen);
}

/// `target/messages`, empty: what is there has just been made.
fn wire_directory() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("messages");
    let _ = fs::remove_dir_all(&directory);
    directory
}

fn write_wire(directory: &Path, name: &str, settings: &Settings, case: &Case, content: Content) {
    let directory = directory.join(name);
    fs::create_dir_all(&directory).unwrap();
    let (bytes, end) = match settings {
        Settings::Email(settings) => {
            let message = Message { id: DeliveryId::new("a1b2c3", 1_234), content, thread: None, reply_to: None };
            (email::bytes(settings, &message, Timestamp::from_api(RECEIVED).unwrap()).unwrap(), "eml")
        }
        _ => (settings.payload(&content).unwrap().to_string().into_bytes(), "json"),
    };
    fs::write(directory.join(format!("{}.{}.{end}", case.name, case.shape)), bytes).unwrap();
}
