//! What the built-in templates make of events, kept as snapshots; and that they serve every known key.

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::catalogue;
use crate::model::delivery::Code;
use crate::model::{DeliveryId, DestinationName, Event, EventKey, RuleName, Severity, Timestamp};

/// A delivery of this event, with nothing special about it but what `change` does.
pub(super) fn context(event: &Event, change: impl FnOnce(&mut Circumstances<'_>)) -> Context {
    about(change, |about| Context::new(event, about))
}

/// Of one of the shapes, in the same circumstances.
pub(super) fn about(
    change: impl FnOnce(&mut Circumstances<'_>),
    context: impl FnOnce(&Circumstances<'_>) -> Context,
) -> Context {
    let received = Timestamp::from_api("2026-11-23 09:42").unwrap();
    let mut about = Circumstances {
        delivery_id: &DeliveryId::new("a1b2c3", 1_234),
        code: Code::of_row(1_234),
        severity: Severity::High,
        rule: &RuleName::from("certificates"),
        runbook: Some("https://wiki.example.org/runbooks/certificates"),
        destination: &DestinationName::from("sec-slack"),
        audience: Audience::anyone(),
        may_repeat: false,
        test: false,
        received,
        now: received,
        delay: None,
        detour: None,
        mentions: &[],
        thread: None,
    };
    change(&mut about);
    context(&about)
}

/// A sample of this key at another target.
fn sample_at(key: &str, number: usize, target: &str) -> Event {
    let mut record = sample(key).body().clone();
    record.insert("event_id".to_owned(), json!(format!("id{number}")));
    record.insert("url".to_owned(), json!(format!("https://app.halosecurity.com/link?q=user-event&id=id{number}")));
    record.insert("target".to_owned(), json!(target));
    Event::from_value(record.into()).unwrap()
}

/// As many events as there are in `keys`, a minute apart, at as many targets as there are.
fn digest(kind: DigestKind, keys: &[&str], targets: &[&str], count: usize) -> Digest {
    let first = Timestamp::from_api("2026-11-23 09:10").unwrap();
    let event = |number: usize| {
        let event = sample_at(keys[number % keys.len()], number, targets[number % targets.len()]);
        (event, first.plus(Duration::from_secs(50 * number as u64)))
    };
    Digest::of(kind, &(0..count).map(event).collect::<Vec<_>>()).unwrap()
}

const TARGETS: [&str; 12] = [
    "www.example.org",
    "mail.example.org",
    "shop.example.org",
    "vpn.example.org",
    "api.example.org",
    "192.0.2.0/24",
    "intranet.example.org",
    "git.example.org",
    "evil.example/path?x",
    "2001:db8::1",
    "cdn.example.org",
    "a.example.org",
];

pub(super) fn sample(key: &str) -> Event {
    catalogue::sample(&EventKey::new(key).unwrap())
}

fn shown(content: &Content) -> String {
    match content {
        Content::Json(document) => serde_json::to_string_pretty(document).unwrap(),
        Content::Mail { subject, text, html } => {
            format!("Subject: {subject}\n\n{text}\n======\n{}", html.as_deref().unwrap_or("(no HTML)"))
        }
    }
}

fn cases() -> Vec<(&'static str, Context)> {
    let odd = json!({
        "event_id": "id1", "key": "brand-new_kind", "subject": "", "url": "https://evil.example/?a=1&b=<2>",
        "date_created": "0000-00-00 00:00", "scan_id": "x", "count": 3, "open": true, "nothing": null,
        "ports": [80, 443, {"a": 1}], "owner": {"name": "A & B", "mail": "ab@evil.example"},
    });
    let bare = json!({"event_id": "id1", "key": "k"});
    vec![
        ("documented", context(&sample("firewall-banner-change"), |about| about.severity = Severity::Medium)),
        ("undocumented", context(&sample("website-cert-expiring"), |_| ())),
        ("deadline_today", context(&sample("pci-report-expire-today"), |about| about.severity = Severity::Critical)),
        ("unknown_and_odd", context(&Event::from_value(odd).unwrap(), |about| about.severity = Severity::Low)),
        (
            "bare",
            context(&Event::from_value(bare).unwrap(), |about| {
                (about.runbook, about.severity) = (None, Severity::Info);
            }),
        ),
        ("test", context(&sample("issue-add"), |about| about.test = true)),
        (
            "late_and_repeated",
            context(&sample("website-form-oos"), |about| {
                about.may_repeat = true;
                about.now = about.received.plus(Duration::from_mins(42));
            }),
        ),
    ]
}

static ARCHIVED: LazyLock<DestinationName> = LazyLock::new(|| DestinationName::from("sec-slack"));

/// What is not one event on its own way, in time.
fn other_cases() -> Vec<(&'static str, Context)> {
    let shapes =
        |change: fn(&mut Circumstances<'_>), digest: Digest| about(change, |about| Context::digest(&digest, about));
    let certificates = ["website-cert-expiring"];
    let several =
        ["website-cert-expiring", "website-cert-expiring", "issue-add", "firewall-banner-change", "brand-new"];
    vec![
        ("batch", shapes(|_| (), digest(DigestKind::Batch, &certificates, &TARGETS, 37))),
        ("batch_small", shapes(|_| (), digest(DigestKind::Batch, &several, &TARGETS[..2], 3))),
        ("batch_one_target", shapes(|_| (), digest(DigestKind::Batch, &certificates, &TARGETS[..1], 2))),
        (
            "overflow",
            shapes(|about| about.severity = Severity::Medium, digest(DigestKind::Overflow, &several, &TARGETS, 2_000)),
        ),
        (
            "notice",
            about(
                |about| about.runbook = None,
                |about| {
                    let notice = Notice { destination: &ARCHIVED, reason: "channel_is_archived", waiting: 14 };
                    Context::notice(&notice, about)
                },
            ),
        ),
        (
            "detour",
            context(&sample("website-cert-expiring"), |about| {
                about.detour = Some(Detour { from: &ARCHIVED, why: "channel_is_archived" });
            }),
        ),
        (
            "digest_detour",
            about(
                |about| {
                    about.detour = Some(Detour { from: &ARCHIVED, why: "channel_is_archived" });
                    about.now = about.received.plus(Duration::from_mins(42));
                    about.delay = Some("sec-slack took no messages from 09:10 to 09:41: connection refused");
                },
                |about| Context::digest(&digest(DigestKind::Batch, &several, &TARGETS, 12), about),
            ),
        ),
        (
            "late_with_reason",
            context(&sample("website-cert-expiring"), |about| {
                about.now = about.received.plus(Duration::from_mins(42));
                about.delay = Some("sec-slack took no messages from 09:10 to 09:41: connection refused");
            }),
        ),
    ]
}

#[test]
fn messages() {
    let renderer = Renderer::builtin();
    for channel in Channel::ALL {
        for (name, context) in cases().into_iter().chain(other_cases()) {
            let content = renderer.render(channel, DEFAULT, &context).unwrap();
            insta::assert_snapshot!(format!("{channel}_{name}"), shown(&content));
        }
    }
}

#[test]
fn plain_messages() {
    let renderer = Renderer::builtin();
    for channel in Channel::ALL {
        let few = |(name, _): &(&str, Context)| matches!(*name, "bare" | "late_and_repeated");
        for (name, context) in cases().into_iter().filter(few).chain(other_cases()) {
            insta::assert_snapshot!(format!("{channel}_plain_{name}"), shown(&renderer.plain(channel, &context)));
        }
    }
}

/// Of the services described by data: one event, several, news of the relay, and what came late and another way.
#[test]
fn messages_of_presets() {
    let renderer = Renderer::builtin();
    let shown_ones = ["undocumented", "bare", "batch", "notice", "digest_detour", "late_with_reason"];
    for channel in presets() {
        let all = cases().into_iter().chain(other_cases()).filter(|(name, _)| shown_ones.contains(name));
        let shown = |(name, context): (&str, Context)| {
            let content = renderer.render(channel, DEFAULT, &context).unwrap_or_else(|error| panic!("{error}"));
            format!("# {name}\n{}\n", shown(&content))
        };
        insta::assert_snapshot!(format!("preset_{channel}"), all.map(shown).collect::<String>());
        let few = ["bare", "batch", "notice", "late_with_reason"];
        let all = cases().into_iter().chain(other_cases()).filter(|(name, _)| few.contains(name));
        let plain = |(name, context): (&str, Context)| {
            format!(
                "# {name}\n{}\n",
                serde_json::to_string_pretty(&json_of(renderer.plain(channel, &context))).unwrap()
            )
        };
        insta::assert_snapshot!(format!("preset_{channel}_plain"), all.map(plain).collect::<String>());
    }
}

fn json_of(content: Content) -> Value {
    match content {
        Content::Json(document) => document,
        Content::Mail { .. } => panic!("no JSON"),
    }
}

pub(super) fn presets() -> impl Iterator<Item = Channel> {
    crate::preset::names().map(|name| Channel::Http(PresetName::new(name)))
}

/// Gmail groups by the subject too.
#[test]
fn mails_of_a_thread_have_one_subject() {
    let renderer = Renderer::builtin();
    let subject = |context: &Context| match renderer.render(Channel::Email, DEFAULT, context).unwrap() {
        Content::Mail { subject, .. } => subject,
        Content::Json(document) => panic!("no mail: {document}"),
    };
    let several = |keys: &[&str], targets: &[&str], count| {
        let digest = digest(DigestKind::Batch, keys, targets, count);
        subject(&about(|about| about.thread = Some("t"), |about| Context::digest(&digest, about)))
    };
    let one = |thread| {
        subject(&context(&sample("website-cert-expiring"), |about| {
            about.thread = thread;
            about.now = about.received.plus(Duration::from_hours(48));
        }))
    };
    assert_eq!(one(None), "HIGH · SSL certificate expiring · www.example.org · 5 days");
    assert_eq!(one(Some("t")), "HIGH · SSL certificate expiring · www.example.org");
    let (kind, kinds) = (["website-cert-expiring"], ["website-cert-expiring", "issue-add"]);
    assert_eq!(several(&kind, &TARGETS[..1], 3), one(Some("t")), "as a single one");
    assert_eq!(several(&kind, &TARGETS, 30), "HIGH · SSL certificate expiring");
    assert_eq!(several(&kinds, &TARGETS[..1], 3), "HIGH · certificates · www.example.org");
    assert_eq!(several(&kinds, &TARGETS, 3), "HIGH · certificates");
    let bare = Event::from_value(json!({"event_id": "id1", "key": "k"})).unwrap();
    assert_eq!(subject(&context(&bare, |about| about.thread = Some("t"))), "HIGH · K");
}

#[test]
fn every_known_key_renders_everywhere() {
    let renderer = Renderer::builtin();
    for known in catalogue::all() {
        for severity in Severity::ALL {
            let about_it = context(&sample(known.key), |about| about.severity = severity);
            for channel in Channel::ALL.into_iter().chain(presets()) {
                let message = renderer.render(channel, DEFAULT, &about_it);
                let message = message.unwrap_or_else(|error| panic!("{}: {error}", known.key));
                assert!(shown(&message).contains(known.title), "{} on {channel}", known.key);
            }
        }
    }
}

#[test]
fn the_delivery_id_is_in_every_chat_payload() {
    let renderer = Renderer::builtin();
    let context = context(&sample("issue-add"), |_| ());
    let pointers =
        [(Channel::Slack, "/blocks/0/block_id"), (Channel::Teams, "/body/0/id"), (Channel::Webhook, "/delivery/id")];
    for (channel, pointer) in pointers {
        let Content::Json(document) = renderer.render(channel, DEFAULT, &context).unwrap() else { panic!("no JSON") };
        assert_eq!(document.pointer(pointer).unwrap(), "hr_a1b2c3_4d2");
    }
}
