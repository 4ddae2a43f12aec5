//! What a template may see. **This is a public contract, version 1**: members are added, never renamed or removed.
//!
//! | member | what it is |
//! |---|---|
//! | `version` | `1` |
//! | `shape` | `event`, `digest` or `notice`: what the message is about |
//! | `headline` | the line that decides: `HIGH · SSL certificate expiring · www.example.org · 7 days`; a test begins with `TEST` |
//! | `title` | what happened, in words: `SSL certificate expiring` |
//! | `facts` | two to five of `{label, value}`, in a fixed order for each key |
//! | `late` | `sent 42 minutes late: sec-slack took no messages`, or null |
//! | `delay` | why it is late, alone; null when it is not late or nobody knows |
//! | `detour` | `{text, from, why}`: `meant for sec-slack, which takes no messages: channel_is_archived`; all null when it goes where it was owed |
//! | `footer` | `certificates · 7F3K`, and a word more when an earlier message may have arrived |
//! | `severity` | `{name, word, rank, emoji, color, color_number, style}`: `high`, `HIGH`, `3`, `🟠`, `#D9730D`, `14250765`, `warning` (a Teams container style) |
//! | `link` | `{url, label}` of the event at the vendor; both null when the event's address is not the vendor's |
//! | `runbook` | the rule's runbook address, or null |
//! | `mentions` | who is called, of `{kind, id, name, slack, text}`: those of the configuration that the channel understands. `slack` is what stands in `<…>` there, `text` what a service described by data acts on; or null |
//! | `called` | the same in groups, `{all, users, roles}`: whether a channel as a whole is called, and the `{id}` of each user and of each role or group |
//! | `thread` | what the message belongs with: an opaque text, the same for all messages of one thread; or null |
//! | `rule`, `destination`, `code` | names for people |
//! | `delivery.id` | the same on every attempt |
//! | `event` | in the shape `event`: `{id, key, subject, url, time, when, target, fields}`; `time` is RFC 3339, `when` is for people; each may be null but `id` and `key` |
//! | `event.fields.NAME` | any event-specific field, as short text; null when the event has none of that name |
//! | `digest` | in the shape `digest`: see [`digest`](super::digest) |
//! | `notice` | in the shape `notice`: see [`notice`](super::notice) |
//! | `received` | when the relay got the event, RFC 3339 |
//! | `now` | when this was rendered, RFC 3339 |
//! | `timezone` | in which times are shown to people: `Europe/Berlin` |
//! | `test`, `may_repeat` | true or false |
//!
//! Every member of a shape is always there, so that in strict mode only a real mistake fails; what is unknown is null.
//!
//! For chat and mail all text is made safe to show ([`text`](super::text)): one line, bounded, addresses defanged. For
//! `webhook` the receivers are machines: there `event` holds the record's values as they came, and `event.body` the whole
//! record; likewise for the events of a digest.

mod facts;

use std::borrow::Cow;
use std::cell::OnceCell;

#[cfg(test)]
use serde_json::json;
use serde_json::{Map, Value};

pub(super) use self::facts::facts;
use super::audience::Audience;
use super::audience::Hosts;
use super::digest::{self, Digest};
use super::helpers::without_brackets;
use super::notice::{self, Notice};
use super::taint::{Allowed, CALL};
use super::template::Facts as Read;
use super::text::{Spared, brief, clean, event_link, is_plain_target, is_plain_url, shorten, tame};
use super::time::{self, days_in_words, deadline_days};
use crate::catalogue;
use crate::model::delivery::Code;
use crate::model::{DeliveryId, DestinationName, Event, Mention, RuleName, Severity, Timestamp};

/// What is known about one delivery beside its event.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances<'a> {
    pub delivery_id: &'a DeliveryId,
    pub code: Code,
    pub severity: Severity,
    pub rule: &'a RuleName,
    /// Shown as a link if it is a plain address ([`is_runbook_url`]), left out otherwise.
    pub runbook: Option<&'a str>,
    pub destination: &'a DestinationName,
    /// Who reads it; [`Audience::anyone`] if nothing is known of them.
    pub audience: &'a Audience,
    /// An earlier attempt's outcome is unknown: this message may be its repeat.
    pub may_repeat: bool,
    /// A marked test, not an alert.
    pub test: bool,
    /// When the relay got the event.
    pub received: Timestamp,
    pub now: Timestamp,
    /// Why it is late, in words: `sec-slack took no messages from 09:10 to 09:41: connection refused`.
    /// Shown only when it is late, by more than ten minutes.
    pub delay: Option<&'a str>,
    /// Set when it goes by another destination's way than the one it is owed to.
    pub detour: Option<Detour<'a>>,
    /// Who is called: of the configuration's, those that the channel shows ([`Mention::shown_in`]).
    pub mentions: &'a [Mention],
    /// What the message belongs with: opaque, the same for all messages of one thread.
    pub thread: Option<&'a str>,
}

/// A message that goes to another destination than the one it is owed to.
#[derive(Clone, Copy, Debug)]
pub struct Detour<'a> {
    /// The destination it is owed to.
    pub from: &'a DestinationName,
    /// Why that one takes no messages, as its channel said it: `channel_is_archived`.
    pub why: &'a str,
}

/// What a message is about; each shape has its own built-in template and its own members of the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Event,
    Digest,
    Notice,
}

impl Shape {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Digest => "digest",
            Self::Notice => "notice",
        }
    }
}

/// What one message is made of.
#[derive(Clone, Debug)]
pub struct Context {
    /// For chat and mail: see the module's table. Of an event without `event` and `facts`: those are [`made`](Self::made)
    /// when a template reads them, as for machines hardly any does.
    /// Kept as the template engine takes it, so that most renderings copy nothing.
    data: handlebars::Context,
    subject: Subject,
    /// The only addresses that may become links.
    links: Vec<String>,
    /// Hosts whose addresses may be shown.
    hosts: Hosts,
    /// The only ones who may be called.
    mentions: Vec<Mention>,
    /// What calls them in a service that is described by data; none until it is [known](Self::calling) which.
    calls: Vec<String>,
}

/// What a context was made of, for the values as they came.
#[derive(Clone, Debug)]
enum Subject {
    Event(Box<EventTold>),
    Digest(Digest),
    Notice,
}

/// An event, and what people are told of it.
#[derive(Clone, Debug)]
struct EventTold {
    event: Event,
    target: Target,
    when: Option<String>,
    /// The member `event`, but for the fields.
    shown: OnceCell<Value>,
    facts: OnceCell<Value>,
}

/// What every shape says, each in its own way.
pub(super) struct Said {
    pub(super) shape: Shape,
    pub(super) headline: String,
    pub(super) title: String,
}

/// What several events, or a notice, say.
pub(super) struct Told {
    pub(super) said: Said,
    /// Of `{label, value}`.
    pub(super) facts: Vec<Value>,
    /// The members that only this shape has.
    pub(super) data: Value,
}

/// `json!` of an object whose values are moved: that macro copies them.
macro_rules! object {
    ({ $($name:literal: $value:expr),+ $(,)? }) => {{
        let mut map = Map::with_capacity([$($name),+].len());
        $(map.insert($name.to_owned(), Value::from($value));)+
        Value::Object(map)
    }};
}

/// Bounds of what is shown, in characters. Headlines fit Slack's 150 for a header block even when every part is at its
/// longest; see [`slack`](super::slack) for the limit.
pub(super) const TITLE_MAX: usize = 60;
pub(super) const TARGET_SHOWN_MAX: usize = 50;
pub(super) const NAME_MAX: usize = 60;
const LABEL_MAX: usize = 40;
pub(super) const FACT_MAX: usize = 300;
/// Why something is late or goes another way: words of a channel, so of strangers.
const REASON_MAX: usize = 200;
const FIELD_MAX: usize = 1_000;
const FIELDS_MAX: usize = 100;

/// A message says so when it is as late as this, or later.
const LATE_AFTER_MINUTES: u64 = 10;

/// Whether an address is fit to be a runbook: `https` or `http`, a plain host, printable ASCII.
pub fn is_runbook_url(url: &str) -> bool {
    is_plain_url(url)
}

impl Context {
    /// One event.
    pub fn new(event: &Event, about: &Circumstances<'_>) -> Self {
        let hosts = &about.audience.hosts;
        let title = title(event, hosts);
        let target = Target::of(event, hosts);
        let headline = headline(event, about, &title, &target);
        let mut data = common(Said { shape: Shape::Event, headline, title }, about);
        let link = event.url.as_deref().and_then(|url| event_link(url, hosts));
        let (url, label) = link.unzip();
        data["link"] = object!({"url": url, "label": label});
        let (shown, facts) = (OnceCell::new(), OnceCell::new());
        let told = EventTold { event: event.clone(), target, when: when(event, about), shown, facts };
        Self::build(data, Subject::Event(Box::new(told)), about)
    }

    /// Several events in one message.
    pub fn digest(digest: &Digest, about: &Circumstances<'_>) -> Self {
        let told = digest::told(digest, about);
        let mut data = common(told.said, about);
        (data["facts"], data["digest"]) = (told.facts.into(), told.data);
        Self::build(data, Subject::Digest(digest.clone()), about)
    }

    /// News of the relay itself.
    pub fn notice(notice: &Notice<'_>, about: &Circumstances<'_>) -> Self {
        let told = notice::told(notice, about);
        let mut data = common(told.said, about);
        (data["facts"], data["notice"]) = (told.facts.into(), told.data);
        Self::build(data, Subject::Notice, about)
    }

    fn build(data: Value, subject: Subject, about: &Circumstances<'_>) -> Self {
        let listed = data.get("digest").and_then(|digest| digest["events"].as_array());
        let of_events = listed.into_iter().flatten().map(|event| &event["link"]["url"]);
        let all = [&data["link"]["url"], &data["runbook"]].into_iter().chain(of_events);
        let mut links: Vec<_> = all.filter_map(|url| Some(url.as_str()?.to_owned())).collect();
        // As links in Markdown have them.
        let bracketed = links.iter().filter(|url| url.contains(['(', ')'])).map(|url| without_brackets(url));
        links.extend(bracketed.collect::<Vec<_>>());
        let mut context = handlebars::Context::null();
        *context.data_mut() = data;
        let (hosts, mentions) = (about.audience.hosts.clone(), about.mentions.to_vec());
        Self { data: context, subject, links, hosts, mentions, calls: Vec::new() }
    }

    /// The same for a service that is described by data: with those whom it can call, and what it acts on for each.
    pub(super) fn calling(&self, text: impl Fn(&Mention) -> Option<String>) -> Cow<'_, Self> {
        if self.mentions.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut context = self.clone();
        let known = self.mentions.iter().filter_map(|one| Some((one.clone(), text(one)?)));
        (context.mentions, context.calls) = known.unzip();
        let shown = context.mentions.iter().zip(&context.calls).map(|(one, text)| {
            let mut shown = mention(one);
            shown["text"] = Value::String(format!("{CALL}{text}"));
            shown
        });
        let (shown, called) = (shown.collect::<Vec<_>>(), called(&context.mentions));
        let data = context.data.data_mut();
        data["mentions"] = Value::Array(shown);
        data["called"] = called;
        Cow::Owned(context)
    }

    /// As chat and mail templates see it, but for what is [`made`](Self::made).
    pub(super) fn data(&self) -> &Value {
        self.data.data()
    }

    /// The members `event` (but for its fields) and `facts` of an event.
    pub(super) fn made(&self, member: &str) -> Option<&Value> {
        let Subject::Event(told) = &self.subject else { return None };
        match member {
            "event" => Some(told.shown.get_or_init(|| event_shown(told, self.link(), &self.hosts))),
            "facts" => {
                Some(told.facts.get_or_init(|| facts(&told.event, &told.target, &self.hosts, told.when.clone()).into()))
            }
            _ => None,
        }
    }

    /// When the event happened, for people; null where that is not known.
    pub(super) fn when(&self) -> Value {
        match &self.subject {
            Subject::Event(told) => told.when.clone().into(),
            Subject::Digest(_) | Subject::Notice => Value::Null,
        }
    }

    /// As a template sees it: with the fields that it reads.
    pub(super) fn as_read(&self, read: &Read, for_machines: bool) -> Cow<'_, handlebars::Context> {
        let mut data = Cow::Borrowed(&self.data);
        match &self.subject {
            Subject::Event(told) => {
                let event = if for_machines {
                    let mut shown = event_without_body(&told.event, read, self.when(), true);
                    shown["body"] = Value::Object(told.event.body().clone());
                    Some(shown)
                } else {
                    self.event_as_read(read).or_else(|| self.made("event").cloned())
                };
                let data = data.to_mut().data_mut();
                (data["event"], data["facts"]) = (event.into(), self.made("facts").cloned().into());
            }
            Subject::Digest(digest) if for_machines => digest::add_raw(&mut data.to_mut().data_mut()["digest"], digest),
            Subject::Digest(_) | Subject::Notice => {}
        }
        data
    }

    /// For chat and mail: the member `event` with the fields that are read, if there are any.
    pub(super) fn event_as_read(&self, read: &Read) -> Option<Value> {
        let event = self.event().filter(|_| read.all_fields || !read.fields.is_empty())?;
        let mut shown = self.made("event")?.clone();
        shown["fields"] = self.fields_as_read(event, read);
        Some(shown)
    }

    fn fields_as_read(&self, event: &Event, read: &Read) -> Value {
        let mut fields = Map::new();
        let spared = self.spared();
        let shown = |value: &Value| Value::String(tame(&brief(value), spared, FIELD_MAX));
        if read.all_fields {
            for (name, value) in event.fields().take(FIELDS_MAX) {
                // The first of a name, as elsewhere: a later one that looks the same must not stand in for it.
                fields.entry(tame(name, Spared::NONE, NAME_MAX)).or_insert_with(|| shown(value));
            }
        }
        for name in &read.fields {
            fields.insert(name.clone(), event.field(name).map_or(Value::Null, shown));
        }
        Value::Object(fields)
    }

    /// What the message is about, as the `type` of a webhook's body and the choice of a template need it.
    pub(super) fn shape(&self) -> Shape {
        match self.subject {
            Subject::Event(_) => Shape::Event,
            Subject::Digest(_) => Shape::Digest,
            Subject::Notice => Shape::Notice,
        }
    }

    /// The lines of the small plain message, without its link and without the footer that ends it.
    pub(super) fn plain_lines(&self) -> impl Iterator<Item = &str> {
        let data = self.data();
        ["/headline", "/detour/text", "/late", "/digest/why", "/digest/rest", "/notice/remedy"]
            .into_iter()
            .filter_map(|at| data.pointer(at)?.as_str())
    }

    pub(super) fn allowed(&self) -> Allowed<'_> {
        Allowed { links: &self.links, spared: self.spared(), mentions: &self.mentions, calls: &self.calls }
    }

    pub(super) fn mentions(&self) -> &[Mention] {
        &self.mentions
    }

    fn spared(&self) -> Spared<'_> {
        let own = match &self.subject {
            Subject::Event(told) => told.target.plain.as_deref(),
            Subject::Digest(_) | Subject::Notice => None,
        };
        Spared { own, hosts: Some(&self.hosts) }
    }

    /// What the link is called.
    pub(super) fn link_label(&self) -> &str {
        self.data()["link"]["label"].as_str().unwrap_or_default()
    }

    pub(super) fn link(&self) -> Option<&str> {
        self.data()["link"]["url"].as_str()
    }

    /// The event, in that shape.
    pub(super) fn event(&self) -> Option<&Event> {
        match &self.subject {
            Subject::Event(told) => Some(&told.event),
            Subject::Digest(_) | Subject::Notice => None,
        }
    }

    pub(super) fn delivery_id(&self) -> &str {
        self.data()["delivery"]["id"].as_str().unwrap_or_default()
    }

    /// A text member of the top level, unless it is null.
    pub(super) fn text(&self, member: &str) -> Option<&str> {
        self.data()[member].as_str()
    }

    /// A member, null if there is none.
    pub(super) fn value(&self, member: &str) -> &Value {
        &self.data()[member]
    }
}

/// The members that all shapes have, but for `facts`.
fn common(said: Said, about: &Circumstances<'_>) -> Value {
    let (late, delay) = late(about);
    object!({
        "version": 1,
        "shape": said.shape.name(),
        "headline": said.headline,
        "title": said.title,
        "late": late,
        "delay": delay,
        "detour": detour(about),
        "footer": footer(about),
        "severity": severity(about.severity),
        "link": object!({"url": Value::Null, "label": Value::Null}),
        "runbook": about.runbook.filter(|url| is_plain_url(url)),
        "mentions": about.mentions.iter().map(mention).collect::<Vec<_>>(),
        "called": called(about.mentions),
        "thread": about.thread,
        "rule": clean(about.rule.as_str(), NAME_MAX),
        "destination": clean(about.destination.as_str(), NAME_MAX),
        "code": about.code.to_string(),
        "delivery": object!({"id": about.delivery_id.as_str()}),
        "received": about.received.to_string(),
        "now": about.now.to_string(),
        "timezone": about.audience.zone.name(),
        "test": about.test,
        "may_repeat": about.may_repeat,
    })
}

/// Of the configuration, so its texts stand as they are.
fn mention(mention: &Mention) -> Value {
    object!({
        "kind": mention.kind(), "id": mention.id(), "name": mention.name(), "slack": mention.in_slack(),
        "text": Value::Null,
    })
}

/// The same in groups, as services want to be told who may be called.
fn called(mentions: &[Mention]) -> Value {
    let ids = |kinds: [&str; 3]| -> Vec<Value> {
        let those = mentions.iter().filter(|one| kinds.contains(&one.kind()));
        those.map(|one| object!({"id": one.id()})).collect()
    };
    object!({
        "all": !ids(["here", "channel", "everyone"]).is_empty(),
        "users": ids(["slack_user", "teams_user", "discord_user"]),
        "roles": ids(["slack_group", "discord_role", ""]),
    })
}

/// Why something happened, in the words of a stranger: they can look like no other part of the message.
pub(super) fn reason(text: &str, max: usize) -> String {
    one(&tame(text, Spared::NONE, max))
}

/// Between the parts of a headline or a footer stands ` · `: no part may seem to be two.
pub(super) fn one(text: &str) -> String {
    text.replace(" · ", " – ")
}

fn detour(about: &Circumstances<'_>) -> Value {
    let Some(detour) = about.detour else {
        return object!({"text": Value::Null, "from": Value::Null, "why": Value::Null});
    };
    let (from, why) = (clean(detour.from.as_str(), NAME_MAX), reason(detour.why, REASON_MAX));
    let because = if why.is_empty() { String::new() } else { format!(": {why}") };
    object!({"text": format!("meant for {from}, which takes no messages{because}"), "from": from, "why": why})
}

/// The host or network an event is about, as it may be shown.
#[derive(Clone, Debug)]
pub(super) struct Target {
    shown: Option<String>,
    /// Set when the name is plain, so that it may stand undefanged in other texts too.
    plain: Option<String>,
}

impl Target {
    pub(super) fn of(event: &Event, hosts: &Hosts) -> Self {
        event.target().map_or(Self { shown: None, plain: None }, |target| Self::named(target, hosts))
    }

    pub(super) fn named(target: &str, hosts: &Hosts) -> Self {
        if is_plain_target(target) {
            return Self { shown: Some(target.to_owned()), plain: Some(target.to_owned()) };
        }
        Self { shown: Some(tame(target, Spared::hosts(hosts), 253)).filter(|text| !text.is_empty()), plain: None }
    }

    /// As a part of a line.
    pub(super) fn in_short(&self) -> Option<String> {
        self.shown.as_deref().map(|shown| one(&shorten(shown, TARGET_SHOWN_MAX)))
    }

    fn is(&self, text: &str) -> bool {
        self.shown.as_deref().is_some_and(|shown| shown.eq_ignore_ascii_case(text))
    }
}

pub(super) fn title(event: &Event, hosts: &Hosts) -> String {
    if let Some(known) = catalogue::find(event.key.as_str()) {
        return known.title.to_owned();
    }
    let subject = tame(&event.subject, Spared::hosts(hosts), TITLE_MAX);
    if subject.is_empty() { tame(&in_words(event.key.as_str()), Spared::NONE, TITLE_MAX) } else { subject }
}

/// `form_action` → `Form action`.
pub(super) fn in_words(name: &str) -> String {
    let words = clean(&name.replace(['_', '-'], " "), LABEL_MAX);
    let mut letters = words.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn headline(event: &Event, about: &Circumstances<'_>, title: &str, target: &Target) -> String {
    let parts = [
        about.test.then(|| "TEST".to_owned()),
        Some(word(about.severity)),
        Some(one(title)),
        target.in_short(),
        deadline(event, about, about.received),
    ];
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
}

pub(super) fn word(severity: Severity) -> String {
    severity.name().to_uppercase()
}

/// Where records of a kind that nobody knows may say how long there is.
const USUAL_DEADLINE: [&str; 2] = ["expires_in_days", "expires_date"];

fn deadline_fields(event: &Event) -> &'static [&'static str] {
    catalogue::find(event.key.as_str()).map_or(&USUAL_DEADLINE, |known| &known.deadline)
}

/// `7 days`, `today`, `2 days ago`, as it is now: an event that counts days was right when it was `received`.
pub(super) fn deadline(event: &Event, about: &Circumstances<'_>, received: Timestamp) -> Option<String> {
    let days = |field: &&str| deadline_days(event.field(field)?, received, about.now, &about.audience.zone);
    days_in_words(deadline_fields(event).iter().find_map(days)?)
}

/// Emoji, colour and Teams container style of each severity.
/// Styles: <https://adaptivecards.io/explorer/Container.html>, those of version 1.2.
fn severity(severity: Severity) -> Value {
    let (emoji, color, style) = match severity {
        Severity::Critical => ("🔴", 0xB3_26_1E, "attention"),
        Severity::High => ("🟠", 0xD9_73_0D, "warning"),
        Severity::Medium => ("🟡", 0xC2_91_00, "accent"),
        Severity::Low => ("🔵", 0x2F_6F_B5, "emphasis"),
        Severity::Info => ("⚪", 0x6B_72_80, "default"),
    };
    object!({
        "name": severity.name(), "word": word(severity), "rank": severity.rank(),
        "emoji": emoji, "color": format!("#{color:06X}"), "color_number": color, "style": style,
    })
}

fn footer(about: &Circumstances<'_>) -> String {
    let repeat = if about.may_repeat { " · may repeat an earlier message" } else { "" };
    format!("{} · {}{repeat}", clean(about.rule.as_str(), NAME_MAX), about.code)
}

/// How late it is, with the reason, and the reason alone.
fn late(about: &Circumstances<'_>) -> (Option<String>, Option<String>) {
    let minutes = about.now.since(about.received).as_secs() / 60;
    if minutes < LATE_AFTER_MINUTES {
        return (None, None);
    }
    let long = time::span_in_words(about.now.since(about.received));
    let delay = about.delay.map(|delay| reason(delay, REASON_MAX)).filter(|delay| !delay.is_empty());
    let because = delay.as_ref().map(|delay| format!(": {delay}")).unwrap_or_default();
    (Some(format!("sent {long} late{because}")), delay)
}

/// `2026-11-23 10:41 CET`.
pub(super) fn when(event: &Event, about: &Circumstances<'_>) -> Option<String> {
    Some(about.audience.zone.show(event.time?))
}

/// `link`: its address, if it may be one.
fn event_shown(EventTold { event, target, when, .. }: &EventTold, link: Option<&str>, hosts: &Hosts) -> Value {
    let spared = Spared { own: target.plain.as_deref(), hosts: Some(hosts) };
    let checked = || event.url.as_deref().map(|url| tame(url, spared, FIELD_MAX));
    let url = link.map(str::to_owned).or_else(checked);
    object!({
        "id": tame(event.id.as_str(), Spared::NONE, 128),
        "key": tame(event.key.as_str(), Spared::NONE, 128),
        "subject": tame(&event.subject, spared, FACT_MAX),
        "url": url,
        "time": event.time.map(|time| time.to_string()),
        "when": when.as_deref(),
        "target": target.shown.as_deref(),
        "fields": Map::new(),
    })
}

/// The member `event` for machines; with the fields that are read by name, or with `all`.
pub(super) fn event_without_body(event: &Event, read: &Read, when: Value, all: bool) -> Value {
    let all = event.fields().filter(|_| all || read.all_fields);
    let mut fields: Map<_, _> = all.map(|(name, value)| (name.to_owned(), value.clone())).collect();
    for name in &read.fields {
        fields.entry(name).or_insert_with(|| event.field(name).cloned().unwrap_or_default());
    }
    object!({
        "id": event.id.as_str(),
        "key": event.key.as_str(),
        "subject": event.subject.as_str(),
        "url": event.url.as_deref(),
        "time": event.time.map(|time| time.to_string()),
        "when": when,
        "target": event.target(),
        "fields": fields,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::EventKey;

    fn event(value: Value) -> Event {
        Event::from_value(value).unwrap()
    }

    fn context(event: &Event, change: impl FnOnce(&mut Circumstances<'_>)) -> Value {
        full_context(event, change).as_read(&Read::default(), false).data().clone()
    }

    fn full_context(event: &Event, change: impl FnOnce(&mut Circumstances<'_>)) -> Context {
        let received = Timestamp::from_api("2026-11-23 09:42").unwrap();
        let mut about = Circumstances {
            delivery_id: &DeliveryId::new("a1b2c3", 1_234),
            code: Code::of_row(1_234),
            severity: Severity::High,
            rule: &RuleName::from("certificates"),
            runbook: None,
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
        Context::new(event, &about)
    }

    #[test]
    fn headlines() {
        let base = json!({"event_id": "1", "key": "website-cert-expiring", "target": "www.example.org"});
        let with = |more: Value| {
            let mut record = base.clone();
            record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            event(record)
        };
        let cases = [
            (with(json!({"expires_in_days": 7})), "HIGH · SSL certificate expiring · www.example.org · 7 days"),
            (with(json!({"expires_in_days": "1"})), "HIGH · SSL certificate expiring · www.example.org · 1 day"),
            (with(json!({"expires_in_days": 0})), "HIGH · SSL certificate expiring · www.example.org · today"),
            (with(json!({"expires_in_days": -3})), "HIGH · SSL certificate expiring · www.example.org · 3 days ago"),
            (
                with(json!({"expires_in_days": null, "expires_date": "2026-11-30"})),
                "HIGH · SSL certificate expiring · www.example.org · 7 days",
            ),
            (with(json!({"expires_in_days": [7]})), "HIGH · SSL certificate expiring · www.example.org"),
            (with(json!({"expires_in_days": i64::MIN})), "HIGH · SSL certificate expiring · www.example.org"),
            (with(json!({"target": ""})), "HIGH · SSL certificate expiring"),
            (with(json!({"target": "192.0.2.0/24"})), "HIGH · SSL certificate expiring · 192.0.2.0/24"),
            (with(json!({"target": "evil.example/x"})), "HIGH · SSL certificate expiring · evil[.]example/x"),
            (with(json!({"key": "new-kind", "subject": "A new kind"})), "HIGH · A new kind · www.example.org"),
            (with(json!({"key": "new-kind_here"})), "HIGH · New kind here · www.example.org"),
            (with(json!({"key": "\u{202E}"})), "HIGH · www.example.org"),
            (
                with(json!({"key": "k", "subject": "All well · evil.example · 0 days"})),
                "HIGH · All well – evil[.]example – 0 days · www.example.org",
            ),
            (
                with(json!({"target": "www.bank.example.a-long-name-of-a-part.of.it.example.net"})),
                "HIGH · SSL certificate expiring · www[.]bank[.]example[.]a-long-name-of-a-part[.]of…",
            ),
        ];
        for (event, expected) in cases {
            assert_eq!(context(&event, |_| ())["headline"], expected);
        }
        let test = context(&with(json!({})), |about| about.test = true);
        assert_eq!(test["headline"], "TEST · HIGH · SSL certificate expiring · www.example.org");
    }

    #[test]
    fn the_longest_headline_fits_a_slack_header() {
        let long = event(json!({"event_id": "1", "key": "new-kind", "subject": "x".repeat(70_000),
            "target": "y".repeat(70_000), "expires_in_days": 99_999}));
        let context = context(&long, |about| (about.test, about.severity) = (true, Severity::Critical));
        let headline = context["headline"].as_str().unwrap();
        assert!(headline.chars().count() <= 150 - 2, "{}", headline.chars().count());
        assert!(headline.ends_with("… · 99999 days"), "{headline}");
    }

    #[test]
    fn two_to_five_facts_for_every_key_and_none_twice() {
        let keys = catalogue::all().iter().map(|known| known.key).chain(["brand-new"]);
        for key in keys {
            let context = context(&catalogue::sample(&EventKey::new(key).unwrap()), |_| ());
            let facts = context["facts"].as_array().unwrap();
            assert!((2..=5).contains(&facts.len()), "{key}: {facts:?}");
            let mut values: Vec<_> = facts.iter().map(|fact| fact["value"].as_str().unwrap()).collect();
            values.sort_unstable();
            values.dedup();
            assert_eq!(values.len(), facts.len(), "{key}: {facts:?}");
            assert!(facts.iter().all(|fact| fact["label"] != "" && fact["value"] != ""), "{key}");
        }
    }

    #[test]
    fn facts_without_much_to_tell() {
        let labels = |value: Value| {
            let context = context(&event(value), |_| ());
            let facts = context["facts"].as_array().unwrap().clone();
            facts.iter().map(|fact| format!("{}={}", fact["label"], fact["value"])).collect::<Vec<_>>().join(" ")
        };
        let bare = json!({"event_id": "id1", "key": "new-kind"});
        assert_eq!(labels(bare), r#""Event"="new-kind" "Event id"="id1""#);
        let odd = json!({"event_id": "id1", "key": "new-kind", "scan_id": "x", "a_list": [1, 2], "on": false, "": "y",
            "gone": null, "more": "z", "url": "https://evil.example/"});
        let expected = r#""On"="no" "Detail"="y" "More"="z" "Address (unchecked)"="hxxps://evil[.]example/""#;
        assert_eq!(labels(odd), expected);
        let long = "a sentence of more than sixty letters, which says a lot and takes a while to read";
        let several = json!({"event_id": "id1", "key": "new-kind", "scan_id": "x", "record": "0123456789abcdef0123456789abcdef",
            "seen_at": "https://evil.example/x", "owner": {"name": "A"}, "what": long, "port": 22, "open": true});
        assert_eq!(labels(several), format!(r#""Port"="22" "Open"="yes" "What"="{long}" "Owner"="name: A""#));
        let few = json!({"event_id": "id1", "key": "new-kind", "scan_id": "x", "port": 22, "user_id": 3});
        assert_eq!(labels(few), r#""Port"="22" "Scan id"="x""#);
    }

    #[test]
    fn only_vendor_and_runbook_addresses_are_links() {
        let record = |url: &str| event(json!({"event_id": "1", "key": "k", "url": url}));
        let good = context(&record("https://app.halosecurity.com/link?q=1"), |about| {
            about.runbook = Some("https://w.example/x");
        });
        assert_eq!(good["link"]["url"], "https://app.halosecurity.com/link?q=1");
        assert_eq!(good["runbook"], "https://w.example/x");
        let bad = context(&record("https://evil.example/"), |about| about.runbook = Some("javascript:alert(1)"));
        assert_eq!(bad["link"], json!({"url": null, "label": null}));
        assert_eq!(bad["runbook"], Value::Null);
        assert_eq!(bad["event"]["url"], "hxxps://evil[.]example/");
    }

    #[test]
    fn lateness_and_repeats_are_told() {
        let sample = catalogue::sample(&EventKey::new("issue-add").unwrap());
        let late = |minutes: u64| {
            context(&sample, |about| about.now = about.received.plus(Duration::from_secs(minutes * 60)))["late"].clone()
        };
        assert_eq!(late(0), Value::Null);
        assert_eq!(late(9), Value::Null);
        assert_eq!(late(10), "sent 10 minutes late");
        assert_eq!(late(42), "sent 42 minutes late");
        assert_eq!(late(150), "sent 2 hours late");
        assert_eq!(late(60 * 24 * 3), "sent 3 days late");
        let why = |minutes: u64, delay: &'static str| {
            let told = context(&sample, |about| {
                (about.now, about.delay) = (about.received.plus(Duration::from_secs(minutes * 60)), Some(delay));
            });
            (told["late"].clone(), told["delay"].clone())
        };
        assert_eq!(why(9, "it was down"), (Value::Null, Value::Null));
        assert_eq!(why(11, "it was down"), (json!("sent 11 minutes late: it was down"), json!("it was down")));
        assert_eq!(why(11, "\u{200B}\n"), (json!("sent 11 minutes late"), Value::Null));
        assert_eq!(why(11, "see evil.example · x").1, "see evil[.]example – x");
        let footer = |may_repeat| context(&sample, |about| about.may_repeat = may_repeat)["footer"].clone();
        let code = Code::of_row(1_234);
        assert_eq!(footer(false), format!("certificates · {code}"));
        assert_eq!(footer(true), format!("certificates · {code} · may repeat an earlier message"));
    }

    #[test]
    fn machines_get_the_record_as_it_came() {
        let record = json!({"event_id": "1", "key": "k", "a": "https://evil.example\u{202E}\n", "n": [1, {"b": null}]});
        let context = Context::new(
            &event(record.clone()),
            &Circumstances {
                delivery_id: &DeliveryId::new("a", 1),
                code: Code::of_row(1),
                severity: Severity::Info,
                rule: &RuleName::from("r"),
                runbook: None,
                destination: &DestinationName::from("d"),
                audience: Audience::anyone(),
                may_repeat: false,
                test: false,
                received: Timestamp::default(),
                now: Timestamp::default(),
                delay: None,
                detour: None,
                mentions: &[],
                thread: None,
            },
        );
        let read = Read { fields: ["b".to_owned()].into(), ..Read::default() };
        let machines = context.as_read(&read, true).data().clone();
        assert_eq!(machines["event"]["body"], record);
        assert_eq!(machines["event"]["fields"], json!({"a": record["a"], "n": record["n"], "b": null}));
    }

    #[test]
    fn people_get_the_fields_a_template_reads() {
        let record = json!({"event_id": "1", "key": "k", "a": "https://evil.example\u{202E}\n", "a\u{200B}": "imitation",
            "form.action": 1, "details": {"a": "nested", "deep": {"x": true}}, "https://x.example": "y"});
        let context = full_context(&event(record), |_| ());
        let read = |fields: &[&str], all_fields| {
            let fields = fields.iter().map(|name| (*name).to_owned()).collect();
            context.as_read(&Read { fields, all_fields, ..Read::default() }, false).data()["event"]["fields"].clone()
        };
        assert_eq!(read(&[], false), json!({}));
        assert_eq!(
            read(&["a", "form.action", "deep.x", "none"], false),
            json!({"a": "hxxps://evil[.]example", "deep.x": "yes", "form.action": "1", "none": null})
        );
        let all =
            json!({"a": "hxxps://evil[.]example", "form[.]action": "1", "hxxps://x[.]example": "y", "deep": "x: yes"});
        assert_eq!(read(&[], true), all);
    }
}
