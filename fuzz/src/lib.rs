//! Whatever an event says, no message has a mention, link, tag, header or member that its template did not have.
//!
//! Bytes become a message ([`case`]), the relay renders it, and an oracle that shares no code with the relay's writers looks
//! at the result: its outline must be one that harmless events have too ([`outline`]), and no text of it may hold anything that
//! a client acts on beyond what the template says ([`marks`]). `cargo fuzz run CHANNEL` feeds it, and so does `tests/hostile.rs`.

mod case;
mod marks;
mod outline;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

use halo_relay::model::{self, Content, Event, PresetName};
use halo_relay::preset;
use halo_relay::render::{DEFAULT, Renderer};
use serde_json::{Value, json};

use self::case::{Case, Shape, Source};
use self::marks::Dialect;
use self::outline::{At, Outline};

/// A channel, and how its clients read the texts of its messages.
#[derive(Clone, Copy, Debug)]
pub struct Channel {
    pub name: &'static str,
    reads: outline::Reads,
}

/// All of them; another one is another line.
pub const CHANNELS: [Channel; 13] = [
    Channel { name: "slack", reads: slack },
    Channel { name: "teams", reads: teams },
    Channel { name: "email", reads: |_| Dialect::Mail },
    Channel { name: "webhook", reads: |_| Dialect::Raw },
    Channel { name: "discord", reads: discord },
    Channel { name: "google_chat", reads: google_chat },
    Channel { name: "mattermost", reads: |_| Dialect::Markdown },
    Channel { name: "rocket_chat", reads: |_| Dialect::Markdown },
    Channel { name: "zulip", reads: zulip },
    Channel { name: "telegram", reads: |_| Dialect::TelegramHtml },
    Channel { name: "ntfy", reads: |_| Dialect::Plain },
    Channel { name: "opsgenie", reads: |_| Dialect::Plain },
    Channel { name: "pagerduty", reads: |_| Dialect::Plain },
];

impl Channel {
    fn sort(&self) -> model::Channel {
        match self.name {
            "slack" => model::Channel::Slack,
            "teams" => model::Channel::Teams,
            "email" => model::Channel::Email,
            "webhook" => model::Channel::Webhook,
            preset => model::Channel::Http(PresetName::new(preset)),
        }
    }
}

fn slack(At { owner, .. }: At<'_>) -> Dialect {
    match owner.get("type").and_then(Value::as_str) {
        Some("plain_text") => Dialect::SlackPlain { emoji: owner.get("emoji") != Some(&Value::Bool(false)) },
        Some("text" | "link") => Dialect::SlackRich,
        _ => Dialect::SlackMarkdown,
    }
}

fn teams(At { owner, name, .. }: At<'_>) -> Dialect {
    let kind = owner.get("type").and_then(Value::as_str).unwrap_or_default();
    let is_run = kind == "TextRun" || kind.starts_with("Action.") || name == "inlines";
    if is_run { Dialect::TeamsRun } else { Dialect::TeamsMarkdown }
}

fn discord(At { within, .. }: At<'_>) -> Dialect {
    if matches!(within, "footer" | "author") { Dialect::Plain } else { Dialect::Discord }
}

fn google_chat(At { within, .. }: At<'_>) -> Dialect {
    if matches!(within, "textParagraph" | "decoratedText") { Dialect::CardHtml } else { Dialect::GoogleChat }
}

fn zulip(At { name, .. }: At<'_>) -> Dialect {
    if name == "topic" { Dialect::Plain } else { Dialect::Markdown }
}

/// Which template renders which shape; `None` is the plain message.
type Rendered = (Option<&'static str>, Shape);

/// What is known of a channel's messages.
type Learned = BTreeMap<Rendered, Message>;

#[derive(Debug, Default)]
struct Message {
    document: Outline,
    subject: Outline,
    text: Outline,
    /// How often each tag occurred at most.
    tags: BTreeMap<String, usize>,
}

/// Renders what the bytes say, and panics if the message is more than its template and text.
pub fn check(name: &str, bytes: &[u8]) {
    #[expect(clippy::panic, reason = "it is what a fuzzer and a test look out for")]
    if let Err(error) = violation(name, bytes) {
        panic!("{name}{error}\nof the bytes {bytes:?}");
    }
}

/// In what the message that the bytes say is more than its template and text: an error begins with where.
pub fn violation(name: &str, bytes: &[u8]) -> Result<(), String> {
    let channel = CHANNELS.iter().find(|channel| channel.name == name).ok_or("there is no such channel")?;
    let case = Case::new(Source::new(bytes, false));
    judge(channel, &case, render(channel, &case)?).map_err(|error| format!("{error}\n{}", case.told()))
}

fn judge(channel: &Channel, case: &Case, content: Content) -> Result<(), String> {
    static LEARNED: [OnceLock<Learned>; CHANNELS.len()] = [const { OnceLock::new() }; CHANNELS.len()];
    let at = CHANNELS.iter().position(|known| known.name == channel.name).ok_or("there is no such channel")?;
    let message = LEARNED[at].get_or_init(|| learn(channel)).get(&rendered(case));
    message.ok_or("nothing was learned")?.check(channel, case, content)
}

fn rendered(case: &Case) -> Rendered {
    let template = if case.careless { "careless" } else { DEFAULT };
    ((!case.plain).then_some(template), case.shape)
}

fn render(channel: &Channel, case: &Case) -> Result<Content, String> {
    static RENDERER: LazyLock<Renderer> = LazyLock::new(renderer);
    match rendered(case) {
        (Some(template), _) => {
            let content = RENDERER.render(channel.sort(), template, &case.context);
            content.map_err(|error| format!(": cannot be rendered: {error}"))
        }
        (None, _) => Ok(RENDERER.plain(channel.sort(), &case.context)),
    }
}

/// The built-in templates, and beside them careless ones.
fn renderer() -> Renderer {
    // From the relay's own folder when its tests include this file, else from this crate's.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = [root.join("fuzz/templates"), root.join("templates")].into_iter().find(|dir| dir.exists());
    let presets: Vec<_> =
        preset::names().filter_map(|name| Some((PresetName::new(name), preset::find(name)?))).collect();
    #[expect(clippy::panic, reason = "there is nothing to test")]
    Renderer::load(dir.as_deref(), &presets).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// Messages of harmless events, as many as it takes to see all that the templates can do.
fn learn(channel: &Channel) -> Learned {
    // Unoptimised it takes long.
    const MESSAGES: usize = if cfg!(debug_assertions) { 1_500 } else { 4_000 };
    let mut random = fastrand::Rng::with_seed(1);
    let mut messages = Learned::new();
    for _ in 0..MESSAGES {
        let mut bytes = vec![0; random.usize(..1_000)];
        random.fill(&mut bytes);
        if let Some(kind) = bytes.first_mut() {
            match random.u8(..6) {
                // As many events as there can be, of many keys.
                0..=2 => *kind = 189,
                // News of the relay, which chance makes seldom.
                3 => *kind |= 7,
                _ => {}
            }
        }
        let case = Case::new(Source::new(&bytes, true));
        let message = messages.entry(rendered(&case)).or_default();
        if let Ok(content) = render(channel, &case) {
            message.learn(channel, &case, content);
        }
    }
    messages
}

impl Message {
    fn learn(&mut self, channel: &Channel, case: &Case, content: Content) {
        match content {
            Content::Json(mut document) => {
                // What it holds of the record is compared, not learned.
                let _ = take_records(&mut document, channel, case);
                self.document.learn(&document, &case.known, channel.reads);
            }
            Content::Mail { subject, text, html } => {
                self.subject.learn_text(&subject, Dialect::Subject, &case.known);
                self.text.learn_text(&text, Dialect::Mail, &case.known);
                for (tag, count) in
                    counted(marks::tags(html.as_deref().unwrap_or_default(), &case.known).unwrap_or_default())
                {
                    let most = self.tags.entry(tag).or_default();
                    *most = count.max(*most);
                }
            }
        }
    }

    fn check(&self, channel: &Channel, case: &Case, content: Content) -> Result<(), String> {
        match content {
            Content::Json(mut document) => {
                take_records(&mut document, channel, case)?;
                self.document.check(&document, &case.known, channel.reads)
            }
            Content::Mail { subject, text, html } => {
                if subject.contains(char::is_control) {
                    return Err(format!(" subject: {subject:?} is no header line"));
                }
                let subject = self.subject.check_text(&subject, Dialect::Subject, &case.known);
                subject.map_err(|error| format!(" subject{error}"))?;
                let text = self.text.check_text(&text, Dialect::Mail, &case.known);
                text.map_err(|error| format!(" text{error}"))?;
                let tags = marks::tags(html.as_deref().unwrap_or_default(), &case.known);
                for (tag, count) in counted(tags.map_err(|error| format!(" html: {error}"))?) {
                    match self.tags.get(&tag) {
                        None => return Err(format!(" html: <{tag}> is not the template's")),
                        Some(most) if count > most + 2 * outline::MORE => {
                            return Err(format!(" html: <{tag}> {count} times"));
                        }
                        Some(_) => {}
                    }
                }
                Ok(())
            }
        }
    }
}

fn counted(tags: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for tag in tags {
        *counts.entry(tag).or_default() += 1;
    }
    counts
}

/// Machines get records as they came, wherever the templates put them; nothing of them is left in the document.
fn take_records(document: &mut Value, channel: &Channel, case: &Case) -> Result<(), String> {
    if channel.sort() != model::Channel::Webhook || case.plain {
        return Ok(());
    }
    let body = |event: &Event| Value::Object(event.body().clone());
    let named = |event: &Event| json!({"event_id": event.id.as_str(), "key": event.key.as_str()});
    let mut taken = |pointer: &str, event: &Event, expected: Value| {
        let found = document.pointer_mut(pointer).map(Value::take).ok_or(": the record is missing")?;
        if found == expected || found == named(event) {
            return Ok(());
        }
        Err(format!("{pointer}: the record is not as it came: {found}"))
    };
    match (case.shape, case.events.as_slice()) {
        (Shape::Event, [event]) if case.careless => {
            taken("/b", event, body(event))?;
            taken("/f", event, event.field("first").cloned().unwrap_or_default())
        }
        (Shape::Event, [event]) => taken("/data", event, body(event)),
        (Shape::Digest, events) => {
            let mut listed = events.iter().take(10).zip(0..);
            listed.try_for_each(|(event, at)| taken(&format!("/data/events/{at}"), event, body(event)))
        }
        _ => Ok(()),
    }
}

/// The oracle must be able to say no: messages as they would be if a channel forgot to escape, and a few with structure of
/// their own.
#[cfg(test)]
mod tests {
    use super::*;

    fn rendered_by(name: &str) -> (Channel, Case, Content) {
        let channel = CHANNELS.into_iter().find(|channel| channel.name == name).unwrap();
        // One event with an unknown key, by the built-in template.
        let case = Case::new(Source::new(&[0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1], false));
        let content = render(&channel, &case).unwrap();
        assert_eq!(judge(&channel, &case, content.clone()), Ok(()), "{name}");
        (channel, case, content)
    }

    #[test]
    fn broken_documents_are_found() {
        let texts = [
            ("slack", "/text", "HIGH · <!channel>"),
            ("slack", "/text", "*HIGH*"),
            ("slack", "/text", "a\nb\nc\nd\ne\nf\ng\nh"),
            ("slack", "/blocks/0/text/text", "<https://evil.example|x>"),
            ("slack", "/blocks/0/text/type", "mrkdwn"),
            ("slack", "/blocks/0/block_id", "zq"),
            ("slack", "/blocks/1/elements/0/elements/1/text", "https://evil.example"),
            ("slack", "/blocks/1/elements/0/elements/1/type", "user"),
            ("teams", "/fallbackText", "[x](https://evil.example)"),
            ("teams", "/body/0/items/0/inlines/0/text", "{{DATE(2026-01-01T00:00:00Z)}}"),
            ("teams", "/body/0/items/0/inlines/0/text", "evil.example"),
            ("teams", "/body/0/style", "good"),
            ("teams", "/body/0/type", "Image"),
            ("teams", "/actions/0/url", "https://evil.example"),
            ("discord", "/content", "zq @everyone"),
            ("discord", "/content", "zq [x](https://evil.example)"),
            ("discord", "/embeds/0/title", "# zq"),
            ("discord", "/embeds/0/footer/text", "zq evil.example"),
            ("discord", "/embeds/0/url", "https://evil.example"),
            ("google_chat", "/text", "zq <users/all>"),
            ("google_chat", "/cardsV2/0/cardId", "zq"),
            ("google_chat", "/cardsV2/0/card/sections/0/widgets/0/decoratedText/text", "zq <b>x</b>"),
            ("google_chat", "/cardsV2/0/card/sections/0/widgets/0/decoratedText/topLabel", "zq &nbsp;"),
            ("mattermost", "/text", "zq @all"),
            ("mattermost", "/attachments/0/fields/0/value", "- zq"),
            ("mattermost", "/attachments/0/title_link", "https://evil.example"),
            ("rocket_chat", "/text", "zq :skull:"),
            ("rocket_chat", "/attachments/0/text", "zq #tag"),
            ("zulip", "/content", "zq @**all**"),
            ("zulip", "/topic", "zq evil.example"),
            ("telegram", "/text", "zq @all"),
            ("telegram", "/text", "zq <a href=\"https://evil.example\">x</a>"),
            ("telegram", "/parse_mode", "MarkdownV2"),
            ("ntfy", "/title", "zq https://evil.example"),
            ("ntfy", "/click", "https://evil.example"),
            ("ntfy", "/priority", "5"),
            ("opsgenie", "/alias", "zq"),
            ("opsgenie", "/description", "zq evil.example"),
            ("pagerduty", "/event_action", "resolve"),
            ("pagerduty", "/payload/summary", "zq evil.example"),
            ("pagerduty", "/links/0/href", "https://evil.example"),
            ("webhook", "/shape", "digest"),
            ("webhook", "/delivery/id", "x"),
            ("webhook", "/data/key", "another"),
        ];
        for (name, pointer, text) in texts {
            let (channel, case, content) = rendered_by(name);
            let Content::Json(mut document) = content else { panic!("no document") };
            *document.pointer_mut(pointer).unwrap_or_else(|| panic!("{name} has no {pointer}")) = json!(text);
            assert!(judge(&channel, &case, Content::Json(document)).is_err(), "{name}{pointer}: {text}");
        }
        for name in CHANNELS.map(|channel| channel.name).into_iter().filter(|name| *name != "email") {
            let (channel, case, content) = rendered_by(name);
            let Content::Json(document) = content else { panic!("no document") };
            let mut more = document.clone();
            more["admin"] = json!(true);
            assert!(judge(&channel, &case, Content::Json(more)).is_err(), "{name}");
            let mut other = document;
            let first = other.as_object().unwrap().keys().next().unwrap().clone();
            other[first] = json!([1]);
            assert!(judge(&channel, &case, Content::Json(other)).is_err(), "{name}");
        }
    }

    #[test]
    fn broken_mails_are_found() {
        let (channel, case, content) = rendered_by("email");
        let Content::Mail { subject, text, html: Some(html) } = content else { panic!("no mail") };
        let mail = |subject: &str, text: &str, html: &str| {
            let content =
                Content::Mail { subject: subject.to_owned(), text: text.to_owned(), html: Some(html.to_owned()) };
            judge(&channel, &case, content)
        };
        assert_eq!(mail(&subject, &text, &html), Ok(()));
        for bad in ["x\r\nBcc: zq@evil.example", "zq =?utf-8?q?x?=", "zq evil.example", "zq\u{202E}"] {
            assert!(mail(bad, &text, &html).is_err(), "{bad}");
        }
        for bad in ["https://evil.example", "> quoted", "mailto:x@y", "a\0b", "www.evil.example"] {
            assert!(mail(&subject, &format!("{text}{bad}\n"), &html).is_err(), "{bad}");
        }
        for bad in [
            "<b>x</b>",
            "<script>x</script>",
            "<a href=\"https://evil.example\">x</a>",
            "https://evil.example",
            "<p onclick=\"x\">",
            "&#104;",
            "</td>",
        ] {
            assert!(mail(&subject, &text, &html.replacen("</title>", &format!("{bad}</title>"), 1)).is_err(), "{bad}");
        }
    }
}
