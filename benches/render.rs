//! What one message costs, from the stored event to what is sent: `cargo bench --bench render`.
//!
//! `message` is what the daemon does for each attempt, the context included. `crowded` is an event of a hundred long
//! hostile fields. `load` is what a start and a reload do: read the built-in templates and try them.

#![expect(clippy::expect_used, reason = "a bench may stop at its own mistakes")]

use halo_relay::catalogue;
use halo_relay::model::delivery::Code;
use halo_relay::model::{
    Channel, Content, DeliveryId, DestinationName, Event, EventKey, PresetName, RuleName, Severity, Timestamp,
};
use halo_relay::preset;
use halo_relay::render::{Audience, Circumstances, Context, DEFAULT, Renderer};
use serde_json::{Map, json};

/// As the daemon has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Those with code of their own, and each service that is described by data.
fn channels() -> impl Iterator<Item = Channel> {
    Channel::ALL.into_iter().chain(preset::names().map(|name| Channel::Http(PresetName::new(name))))
}

fn main() {
    divan::main();
}

#[divan::bench(args = channels())]
fn message(bencher: divan::Bencher, channel: Channel) {
    render(bencher, channel, &catalogue::sample(&EventKey::new("website-cert-expiring").expect("a good key")));
}

#[divan::bench(args = channels())]
fn crowded(bencher: divan::Bencher, channel: Channel) {
    let text = "<!channel> https://evil.example [x](javascript:alert(1)) \u{202E}".repeat(20);
    let mut record = Map::new();
    record.insert("event_id".to_owned(), json!("id1"));
    record.insert("key".to_owned(), json!("brand-new"));
    record.extend((0..100).map(|number| (format!("field_{number}"), json!(text))));
    render(bencher, channel, &Event::from_value(record.into()).expect("an id and a key are an event"));
}

#[divan::bench(args = channels())]
fn plain_message(bencher: divan::Bencher, channel: Channel) {
    let event = catalogue::sample(&EventKey::new("website-cert-expiring").expect("a good key"));
    let renderer = Renderer::builtin();
    bencher.bench_local(|| with_context(divan::black_box(&event), |context| renderer.plain(channel, context)));
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn load() -> Renderer {
    Renderer::load(None, &[]).expect("the built-in templates are in order")
}

fn render(bencher: divan::Bencher, channel: Channel, event: &Event) {
    let renderer = Renderer::builtin();
    bencher.bench_local(|| {
        with_context(divan::black_box(event), |context| {
            renderer.render(channel, DEFAULT, context).expect("a built-in template renders every event")
        })
    });
}

fn with_context(event: &Event, render: impl FnOnce(&Context) -> Content) -> Content {
    let received = Timestamp::from_millis(1_795_426_920_000);
    render(&Context::new(
        event,
        &Circumstances {
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
        },
    ))
}
