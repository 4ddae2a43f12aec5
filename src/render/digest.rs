//! Several events in one message: how many, of what, where, when, and the first few by a line each.
//!
//! What a template sees as `digest`, beside the members that all shapes have:
//!
//! | member | what it is |
//! |---|---|
//! | `kind` | `batch`: a rule gathers; `overflow`: more came than the destination's limit lets through |
//! | `count` | how many events |
//! | `first`, `last` | when the first and the last of them were received, RFC 3339 |
//! | `span` | the same for people: `09:10–09:41`, in their time zone |
//! | `keys` | of `{key, title, count}`, the most frequent first |
//! | `targets` | of `{target, count}`, likewise |
//! | `more_targets` | how many targets are not listed |
//! | `events` | the first of them, of `{line, title, key, target, deadline, when, link}`; `link.url` is null unless it is the vendor's |
//! | `left_out` | how many events have no line |
//! | `topic` | what they have in common, without anything that counts: `SSL certificate expiring · www.example.org`; of several kinds the rule's name |
//! | `why` | why they share a message: `gathered by rule certificates` |
//! | `rest` | where all of them are: `halo-relay explain 7F3K lists all 37` |
//!
//! For `webhook`, keys and targets are as they came, and each of `events` has its record as `body`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::audience::Hosts;
use super::context::{
    self, Circumstances, FACT_MAX, NAME_MAX, Said, Shape, TITLE_MAX, Target, Told, deadline, in_words, one, title,
    when, word,
};
use super::text::{Spared, clean, event_link, shorten, tame};
use super::time::Span;
use crate::catalogue;
use crate::model::{Event, EventKey, Timestamp};

/// Why events share a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestKind {
    /// A rule gathers them.
    Batch,
    /// More came than the destination's limit could clear.
    Overflow,
}

impl DigestKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Overflow => "overflow",
        }
    }
}

/// Several events in one message: at least two, since one event is rendered as itself.
#[derive(Clone, Debug)]
pub struct Digest {
    pub kind: DigestKind,
    /// How many events.
    pub count: u64,
    /// When the first and the last of them were received.
    pub first: Timestamp,
    pub last: Timestamp,
    /// How many of each key, the most frequent first; at most [`Digest::LISTED_MAX`] are shown.
    pub keys: Vec<(EventKey, u64)>,
    /// Likewise of each target, as the events name it.
    pub targets: Vec<(String, u64)>,
    /// Targets beyond those listed.
    pub more_targets: u64,
    /// The first of the events, in order, for a line each; at most [`Digest::LISTED_MAX`] are shown.
    pub events: Vec<Event>,
}

impl Digest {
    /// How many keys, targets and events a digest lists.
    pub const LISTED_MAX: usize = 10;

    /// Counts events, which come in the order in which they were received; nothing if there are none.
    pub fn of(kind: DigestKind, events: &[(Event, Timestamp)]) -> Option<Self> {
        let mut count = DigestCount::default();
        for (event, received) in events {
            count.add(event.clone(), *received);
        }
        count.digest(kind)
    }

    fn listed(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().take(Self::LISTED_MAX)
    }

    fn left_out(&self) -> u64 {
        self.count.saturating_sub(number(self.listed().count()))
    }

    /// What a key means, in words: of a key nobody knows, what the first of its events says.
    fn title_of(&self, key: &EventKey, hosts: &Hosts) -> String {
        if let Some(known) = catalogue::find(key.as_str()) {
            return known.title.to_owned();
        }
        let event = self.listed().find(|event| event.key == *key);
        event.map_or_else(|| tame(&in_words(key.as_str()), Spared::NONE, TITLE_MAX), |event| title(event, hosts))
    }
}

/// Counts the events of a digest one by one, in the order in which they were received. Keeps no more of them whole than are
/// listed: a digest may tell thousands, and each may be large.
#[derive(Debug, Default)]
pub struct DigestCount {
    span: Option<(Timestamp, Timestamp)>,
    count: u64,
    keys: BTreeMap<EventKey, u64>,
    targets: BTreeMap<String, u64>,
    events: Vec<Event>,
}

impl DigestCount {
    pub fn add(&mut self, event: Event, received: Timestamp) {
        self.span = Some((self.span.map_or(received, |(first, _)| first), received));
        self.count += 1;
        *self.keys.entry(event.key.clone()).or_default() += 1;
        if let Some(target) = event.target() {
            *self.targets.entry(target.to_owned()).or_default() += 1;
        }
        if self.events.len() < Digest::LISTED_MAX {
            self.events.push(event);
        }
    }

    /// Nothing if there were no events.
    pub fn digest(self, kind: DigestKind) -> Option<Digest> {
        let (first, last) = self.span?;
        Some(Digest {
            kind,
            count: self.count,
            first,
            last,
            more_targets: number(self.targets.len().saturating_sub(Digest::LISTED_MAX)),
            keys: most_frequent(self.keys).collect(),
            targets: most_frequent(self.targets).collect(),
            events: self.events,
        })
    }
}

fn most_frequent<K: Ord>(counts: BTreeMap<K, u64>) -> impl Iterator<Item = (K, u64)> {
    let mut list: Vec<_> = counts.into_iter().collect();
    // Sorting is stable: of equals, the first by name comes first.
    list.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    list.into_iter().take(Digest::LISTED_MAX)
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

pub(super) fn told(digest: &Digest, about: &Circumstances<'_>) -> Told {
    let keys: Vec<_> = digest.keys.iter().take(Digest::LISTED_MAX).collect();
    let hosts = &about.audience.hosts;
    let kinds: Vec<_> = keys.iter().map(|(key, count)| (one(&digest.title_of(key, hosts)), *count)).collect();
    let span = Span::new(digest.first, digest.last, &about.audience.zone);
    let rule = clean(about.rule.as_str(), NAME_MAX);
    let why = match digest.kind {
        DigestKind::Batch => format!("gathered by rule {rule}"),
        DigestKind::Overflow => {
            let destination = clean(about.destination.as_str(), NAME_MAX);
            format!(
                "more came than the limit of {destination} lets through, so {} events share this message",
                digest.count
            )
        }
    };
    let (title, headline) = headline(digest, about, &kinds, &span.short());
    let facts = facts(digest, hosts, &kinds, &span, &why);
    let one_target = digest.targets.len() == 1 && digest.more_targets == 0;
    let topic = match kinds.as_slice() {
        [(title, _)] => title.clone(),
        _ => one(&rule),
    };
    let place = digest.targets.first().filter(|_| one_target);
    let place = place.and_then(|(target, _)| Target::named(target, hosts).in_short());
    let topic = [topic].into_iter().chain(place).collect::<Vec<_>>().join(" · ");
    let data = json!({
        "kind": digest.kind.name(),
        "count": digest.count,
        "first": digest.first.to_string(),
        "last": digest.last.to_string(),
        "span": span.short(),
        "keys": keys.iter().zip(&kinds).map(|((key, count), (title, _))| {
            json!({"key": tame(key.as_str(), Spared::NONE, 128), "title": title, "count": count})
        }).collect::<Vec<_>>(),
        "targets": digest.targets.iter().take(Digest::LISTED_MAX).map(|(target, count)| {
            json!({"target": Target::named(target, hosts).in_short(), "count": count})
        }).collect::<Vec<_>>(),
        "more_targets": digest.more_targets,
        "events": digest.listed().map(|event| listed(event, digest, about, kinds.len() > 1, one_target)).collect::<Vec<_>>(),
        "left_out": digest.left_out(),
        "topic": topic,
        "why": why,
        "rest": format!("halo-relay explain {} lists all {}", about.code, digest.count),
    });
    Told { said: Said { shape: Shape::Digest, headline, title }, facts, data }
}

/// `37 × SSL certificate expiring`, and the whole first line. Slack takes 150 characters in a header, of which two are an
/// emoji's: what the other parts leave is the title's.
fn headline(digest: &Digest, about: &Circumstances<'_>, kinds: &[(String, u64)], span: &str) -> (String, String) {
    const MAX: usize = 148;
    let hosts = &about.audience.hosts;
    let count = digest.count;
    let title = match kinds {
        [(title, _)] => format!("{count} × {title}"),
        [] => format!("{count} events"),
        kinds if kinds.iter().map(|(_, count)| count).sum::<u64>() < count => {
            format!("{count} events in more than {} kinds", kinds.len())
        }
        kinds => format!("{count} events in {} kinds", kinds.len()),
    };
    let distinct = digest.more_targets.saturating_add(number(digest.targets.len()));
    let place = match digest.targets.as_slice() {
        [] => None,
        [(target, all)] if distinct == 1 && *all == count => Target::named(target, hosts).in_short(),
        _ => Some(format!("{distinct} {}", if distinct == 1 { "target" } else { "targets" })),
    };
    let before = [about.test.then(|| "TEST".to_owned()), Some(word(about.severity))];
    let after = [place, Some(span.to_owned())];
    let others = before.iter().chain(&after).flatten().map(|part| part.chars().count() + " · ".chars().count());
    let short = shorten(&title, MAX.saturating_sub(others.sum()));
    let parts = before.into_iter().chain([Some(short)]).chain(after).flatten();
    (title, parts.collect::<Vec<_>>().join(" · "))
}

fn facts(digest: &Digest, hosts: &Hosts, kinds: &[(String, u64)], span: &Span, why: &str) -> Vec<Value> {
    let mut list = Vec::new();
    // With a line for each event the lines say it, and of a single target the headline does; without any that recurs
    // there is no top.
    let some_recur = digest.targets.iter().any(|(_, count)| *count > 1);
    if digest.left_out() > 0 && digest.targets.len() > 1 && some_recur {
        let targets = digest.targets.iter().take(Digest::LISTED_MAX);
        let targets = targets.filter_map(|(target, count)| Some((Target::named(target, hosts).in_short()?, *count)));
        list.push(("Top targets", counted(targets, digest.more_targets)));
    }
    // Of kinds of which there is one each a list says little more than how many they are, which the headline does.
    if kinds.len() > 1 && kinds.iter().any(|(_, count)| *count > 1) {
        list.push(("Kinds", counted(kinds.iter().cloned(), 0)));
    }
    list.push(("Received", span.long()));
    list.push(("Why together", why.to_owned()));
    list.into_iter().map(|(label, value)| json!({"label": label, "value": value})).collect()
}

/// `www.example.org × 12, mail.example.org × 9, and 10 more`: the first five, if there is room.
fn counted(items: impl Iterator<Item = (String, u64)>, more: u64) -> String {
    const SHOWN_MAX: usize = 5;
    let (mut text, mut shown, mut more) = (String::new(), 0, more);
    for (name, count) in items {
        // A name cannot bring a number of its own; its number stays on its line.
        let item = format!("{}\u{A0}×\u{A0}{count}", name.replace('×', "x"));
        if shown == SHOWN_MAX || text.chars().count() + item.chars().count() > FACT_MAX - 20 {
            more = more.saturating_add(1);
            continue;
        }
        if shown > 0 {
            text.push_str(", ");
        }
        text.push_str(&item);
        shown += 1;
    }
    if more > 0 {
        text.push_str(&format!(", and {more} more"));
    }
    text
}

/// Addresses cannot be cut: ten of them must leave room for the rest of a message.
const LINK_MAX: usize = 500;

/// One event as a line: `www.example.org · 7 days`, with its title first where there are several kinds. Where all have the same
/// target that is in the headline, and what tells the events apart is here: `Port 8443 · 7 days`.
fn listed(event: &Event, digest: &Digest, about: &Circumstances<'_>, titled: bool, one_target: bool) -> Value {
    let hosts = &about.audience.hosts;
    let at = Target::of(event, hosts);
    // When each was received is not at hand; it was between these two.
    let received = event.time.unwrap_or(digest.last).clamp(digest.first.min(digest.last), digest.last);
    let (title, target, deadline) = (one(&title(event, hosts)), at.in_short(), deadline(event, about, received));
    let fact = one_target.then(|| context::facts(event, &at, hosts, None)).and_then(|facts| facts.into_iter().next());
    let fact = fact.and_then(|fact| Some(one(&format!("{} {}", fact["label"].as_str()?, fact["value"].as_str()?))));
    let place = if fact.is_some() { None } else { target.clone() };
    let titled = titled || (target.is_none() && deadline.is_none());
    let parts = [titled.then(|| title.clone()), place, fact, deadline.clone()];
    let line = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ");
    let link = event.url.as_deref().filter(|url| url.len() <= LINK_MAX).and_then(|url| event_link(url, hosts));
    let link = link.map(|(url, _)| url);
    json!({
        "line": line,
        "title": title,
        "key": tame(event.key.as_str(), Spared::NONE, 128),
        "target": target,
        "deadline": deadline,
        "when": when(event, about),
        "link": {"url": link},
    })
}

/// Adds what machines get: names as they came, and the records, as long as all of them together are no more than a message
/// can carry; of the others id and key, by which they can be asked for.
pub(super) fn add_raw(data: &mut Value, digest: &Digest) {
    const RECORDS_BYTES_MAX: usize = 64 * 1024;
    let mut room = RECORDS_BYTES_MAX;
    for ((key, _), at) in digest.keys.iter().take(Digest::LISTED_MAX).zip(0_usize..) {
        data["keys"][at]["key"] = json!(key.as_str());
    }
    for ((target, _), at) in digest.targets.iter().take(Digest::LISTED_MAX).zip(0_usize..) {
        data["targets"][at]["target"] = json!(target);
    }
    for (event, at) in digest.listed().zip(0_usize..) {
        let body = Value::Object(event.body().clone());
        let size = body.to_string().len();
        let shown = &mut data["events"][at];
        shown["key"] = json!(event.key.as_str());
        shown["target"] = json!(event.target());
        shown["body"] = if size <= room {
            room -= size;
            body
        } else {
            json!({"event_id": event.id.as_str(), "key": event.key.as_str()})
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::snapshot_tests::{about, sample};
    use super::*;

    fn event(key: &str, target: Option<&str>, number: usize) -> Event {
        let mut record = sample(key).body().clone();
        record.insert("event_id".to_owned(), json!(format!("id{number}")));
        record.insert("target".to_owned(), json!(target));
        Event::from_value(record.into()).unwrap()
    }

    /// Events of these keys and targets, a minute apart.
    fn digest(events: &[(&str, Option<&str>)]) -> Digest {
        let first = Timestamp::from_api("2026-11-23 09:10").unwrap();
        let at = |number: usize| first.plus(Duration::from_mins(number as u64));
        let numbered = events.iter().enumerate();
        let events: Vec<_> =
            numbered.map(|(number, (key, target))| (event(key, *target, number), at(number))).collect();
        Digest::of(DigestKind::Batch, &events).unwrap()
    }

    fn shown(digest: &Digest) -> Value {
        about(|_| (), |about| super::super::Context::digest(digest, about)).data().clone()
    }

    #[test]
    fn headlines() {
        let (cert, issue) = ("website-cert-expiring", "issue-add");
        let (a, b) = (Some("a.example.org"), Some("b.example.org"));
        let cases = [
            (vec![(cert, a), (cert, b)], "HIGH · 2 × SSL certificate expiring · 2 targets · 09:10–09:11"),
            (vec![(cert, a), (cert, a)], "HIGH · 2 × SSL certificate expiring · a.example.org · 09:10–09:11"),
            (vec![(cert, a), (cert, None)], "HIGH · 2 × SSL certificate expiring · 1 target · 09:10–09:11"),
            (vec![(cert, None), (cert, None)], "HIGH · 2 × SSL certificate expiring · 09:10–09:11"),
            (vec![(cert, a), (issue, b), (cert, b)], "HIGH · 3 events in 2 kinds · 2 targets · 09:10–09:12"),
        ];
        for (events, expected) in cases {
            assert_eq!(shown(&digest(&events))["headline"], expected);
        }
        let mut many = digest(&[(cert, a), (issue, b)]);
        (many.count, many.more_targets, many.last) = (40, 5, many.first);
        assert_eq!(shown(&many)["headline"], "HIGH · 40 events in more than 2 kinds · 7 targets · 09:10");
    }

    #[test]
    fn the_most_frequent_come_first_and_the_rest_is_counted() {
        let hosts: Vec<_> = (0..14).map(|number| format!("host{number:02}.example.org")).collect();
        let mut events: Vec<_> = hosts.iter().map(|host| ("issue-add", Some(host.as_str()))).collect();
        events.extend([("issue-add", Some("host13.example.org")), ("website-cert-expiring", None)]);
        let digest = digest(&events);
        assert_eq!((digest.count, digest.events.len(), digest.more_targets), (16, 10, 4));
        assert_eq!(digest.targets[0], ("host13.example.org".to_owned(), 2));
        assert_eq!(digest.keys.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [15, 1]);
        let shown = shown(&digest);
        let top = shown["facts"][0]["value"].as_str().unwrap().replace('\u{A0}', " ");
        assert!(top.starts_with("host13.example.org × 2, host00.example.org × 1, "), "{top}");
        assert!(top.ends_with(", and 9 more"), "{top}");
        assert_eq!(shown["digest"]["left_out"], 6);
        assert!(Digest::of(DigestKind::Batch, &[]).is_none());
    }

    #[test]
    fn a_name_cannot_bring_a_number() {
        let items = [("a × 99, b".to_owned(), 1), ("c".to_owned(), 2)];
        assert_eq!(counted(items.into_iter(), 0).replace('\u{A0}', " "), "a x 99, b × 1, c × 2");
        let long = (0..20).map(|number| (format!("{number} {}", "x".repeat(100)), 1));
        let text = counted(long, 0);
        assert!(text.chars().count() <= FACT_MAX && text.ends_with(", and 18 more"), "{text}");
    }
}
