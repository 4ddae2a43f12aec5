//! The demo's events: all 67 kinds, one after the other, with made-up but likely values. The same seed and the same
//! times give the same events.
//!
//! `events.json` lists the kinds in the order in which they come. The vendor documents the fields of six keys; those
//! have exactly these fields, the others have those that the relay's catalogue guesses, or invented in their manner. Some values are hostile on purpose, as
//! what a scanner reads from foreign sites is: mentions, HTML, markdown links, line breaks. No address in them exists:
//! names are of the `example` domains (RFC 2606), networks are documentation networks (RFC 5737).
//!
//! A string in that file may hold `{…}`: the name of a field above it in the same record, `host`, `domain`,
//! `target_id`, `scan_id`, `ip`, `n:1..9` (a number), `day:-7` (a date, counted from today), `hex:16`, `pick:a|b|c`.
//! A string that is one number placeholder and nothing else becomes a number.

use std::fmt::Write as _;
use std::time::Duration;

use fastrand::Rng;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::model::Timestamp;

/// What happens next: so many events at once, after so long a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) wait: Duration,
    pub(super) events: usize,
}

/// An endless supply of events.
pub(super) struct Feed {
    kinds: Vec<Kind>,
    rng: Rng,
    /// How many events were made one by one; says which kind and which of its variants is next.
    made: usize,
    bursts: usize,
    since_burst: Duration,
}

#[derive(Deserialize)]
struct Kind {
    key: String,
    subject: String,
    about: About,
    /// Variants of the event-specific fields; each round through the kinds takes the next.
    fields: Vec<Map<String, Value>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum About {
    Website,
    Network,
    Domain,
    /// No target at all.
    Account,
}

/// What the vendor calls a target.
#[derive(Clone, Copy)]
struct Target {
    id: u32,
    name: &'static str,
    address: &'static str,
}

const fn target(id: u32, name: &'static str, address: &'static str) -> Target {
    Target { id, name, address }
}

const WEBSITES: [Target; 8] = [
    target(210_411, "Corporate site", "www.example.org"),
    target(210_412, "Web shop", "shop.example.com"),
    target(210_413, "", "api.example.net"),
    target(210_414, "Mail", "mail.example.org"),
    target(210_415, "Customer portal", "portal.example.com"),
    target(210_416, "", "blog.example.net"),
    target(210_417, "Remote access", "vpn.example.org"),
    target(210_418, "Booking", "booking.example.com"),
];
const NETWORKS: [Target; 3] = [
    target(310_021, "Head office", "192.0.2.0/24"),
    target(310_022, "Data centre", "198.51.100.0/24"),
    target(310_023, "", "203.0.113.0/24"),
];
const DOMAINS: [Target; 3] =
    [target(410_001, "", "example.org"), target(410_002, "", "example.com"), target(410_003, "", "example.net")];

/// The kinds that come many at a time, as after a scan, and how many at least and at most. The example's rules gather
/// certificates, so that the first burst shows a digest; and issues are more than its limits let through at once.
const BURSTS: [(&str, usize, usize); 4] =
    [("website-cert-expiring", 4, 8), ("issue-add", 16, 24), ("network-port-add", 4, 8), ("website-cookie-oos", 4, 8)];
const BURST_EVERY: Duration = Duration::from_secs(20);
/// As if the last one had been so long ago: whoever opens the page should not wait long for the first digest.
const SINCE_LAST_BURST: Duration = Duration::from_secs(12);

impl Feed {
    /// Fails only if `events.json`, which is compiled in, is not what this module expects.
    pub(super) fn new(seed: u64) -> serde_json::Result<Self> {
        let kinds = serde_json::from_str(include_str!("events.json"))?;
        Ok(Self { kinds, rng: Rng::with_seed(seed), made: 0, bursts: 0, since_burst: SINCE_LAST_BURST })
    }

    /// One event every one or two seconds, and many at once about every 20 seconds.
    pub(super) fn next_step(&mut self) -> Step {
        let wait = Duration::from_millis(self.rng.u64(1000..2000));
        self.since_burst += wait;
        let events = if self.since_burst >= BURST_EVERY {
            self.since_burst = Duration::ZERO;
            let (_, least, most) = BURSTS[self.bursts % BURSTS.len()];
            self.rng.usize(least..=most)
        } else {
            1
        };
        Step { wait, events }
    }

    /// That many events of `now`: one is the next kind in order, several are one kind on one target.
    pub(super) fn events(&mut self, count: usize, now: Timestamp) -> Vec<Value> {
        if count == 1 {
            let (kind, round) = (self.made % self.kinds.len(), self.made / self.kinds.len());
            self.made += 1;
            let target = self.any_target(kind);
            return vec![self.event(kind, round, target, now)];
        }
        let (key, ..) = BURSTS[self.bursts % BURSTS.len()];
        self.bursts += 1;
        let kind = self.kinds.iter().position(|kind| kind.key == key).unwrap_or(0);
        let target = self.any_target(kind);
        (0..count).map(|variant| self.event(kind, variant, target, now)).collect()
    }

    fn any_target(&mut self, kind: usize) -> Option<Target> {
        let targets: &[Target] = match self.kinds[kind].about {
            About::Website => &WEBSITES,
            About::Network => &NETWORKS,
            About::Domain => &DOMAINS,
            About::Account => return None,
        };
        self.rng.choice(targets).copied()
    }

    /// The record as `event/list.json` has it, in its wrapper: <https://docs.halosecurity.com/api/endpoints/event>.
    fn event(&mut self, kind: usize, variant: usize, target: Option<Target>, now: Timestamp) -> Value {
        let kind = &self.kinds[kind];
        let id = format!("{}{}", format_time(now, "%Y%m%d%H%M%S"), hex(&mut self.rng, 35));
        let mut record = Map::new();
        record.insert("event_id".to_owned(), json!(id));
        record.insert("subject".to_owned(), json!(kind.subject));
        record.insert("date_created".to_owned(), json!(format_time(now, "%Y-%m-%d %H:%M")));
        record.insert("key".to_owned(), json!(kind.key));
        record.insert("url".to_owned(), json!(format!("https://www.halosecurity.com/link?q=user-event&id={id}")));
        if let Some(target) = target {
            let member = json!({"target_name": target.name, "target_id": target.id, "target": target.address});
            record.insert("target".to_owned(), member);
        }
        let mut scene = Scene { rng: &mut self.rng, target, now };
        for (name, form) in &kind.fields[variant % kind.fields.len()] {
            let value = scene.fill(form, &record);
            record.insert(name.clone(), value);
        }
        json!({ "event": record })
    }
}

/// What placeholders are filled from.
struct Scene<'a> {
    rng: &'a mut Rng,
    target: Option<Target>,
    now: Timestamp,
}

impl Scene<'_> {
    fn fill(&mut self, form: &Value, record: &Map<String, Value>) -> Value {
        let Value::String(form) = form else { return form.clone() };
        let mut text = String::new();
        let mut rest = form.as_str();
        while let Some((before, from)) = rest.split_once('{')
            && let Some((name, after)) = from.split_once('}')
        {
            let value = self.value_of(name, record);
            if let Value::Number(number) = &value
                && text.is_empty()
                && before.is_empty()
                && after.is_empty()
            {
                return Value::Number(number.clone());
            }
            text.push_str(before);
            match value {
                Value::String(value) => text.push_str(&value),
                other => text.push_str(&other.to_string()),
            }
            rest = after;
        }
        text.push_str(rest);
        Value::String(text)
    }

    /// `Null` for a placeholder that does not exist; a test finds those.
    fn value_of(&mut self, name: &str, record: &Map<String, Value>) -> Value {
        if let Some(value) = record.get(name) {
            return value.clone();
        }
        let address = self.target.map_or("", |target| target.address);
        match name.split_once(':').unwrap_or((name, "")) {
            ("host", _) => json!(address),
            ("domain", _) => json!(registered_domain(address)),
            ("target_id", _) => json!(self.target.map(|target| target.id)),
            ("scan_id", _) => json!(format!("{}{}", format_time(self.now, "%Y%m%d%H%M"), hex(self.rng, 20))),
            ("ip", _) => json!(self.ip(address)),
            ("n", range) => json!(self.number(range)),
            ("day", days) => json!(days.parse().ok().map(|days| day(self.now, days))),
            ("hex", digits) => json!(digits.parse().ok().map(|digits| hex(self.rng, digits))),
            ("pick", choices) => json!(self.rng.choice(choices.split('|').collect::<Vec<_>>())),
            _ => Value::Null,
        }
    }

    fn number(&mut self, range: &str) -> Option<i64> {
        let (low, high) = range.split_once("..")?;
        let (low, high): (i64, i64) = (low.parse().ok()?, high.parse().ok()?);
        (low <= high).then(|| self.rng.i64(low..=high))
    }

    /// A host in the target's network, or anywhere in a documentation network.
    fn ip(&mut self, address: &str) -> String {
        let network = address.strip_suffix("0/24").unwrap_or("203.0.113.");
        format!("{network}{}", self.rng.u8(2..250))
    }
}

fn registered_domain(host: &str) -> &str {
    let second_dot = host.rmatch_indices('.').nth(1);
    second_dot.map_or(host, |(at, _)| &host[at + 1..])
}

fn hex(rng: &mut Rng, digits: usize) -> String {
    let mut text = String::with_capacity(digits);
    for _ in 0..digits {
        // Writing to a string cannot fail.
        let _ = write!(text, "{:x}", rng.u8(0..16));
    }
    text
}

fn day(now: Timestamp, days_from_now: i64) -> String {
    let days = Duration::from_secs(days_from_now.unsigned_abs() * 24 * 60 * 60);
    format_time(if days_from_now < 0 { now.minus(days) } else { now.plus(days) }, "%Y-%m-%d")
}

fn format_time(time: Timestamp, form: &str) -> String {
    let instant = jiff::Timestamp::from_millisecond(time.as_millis()).unwrap_or_default();
    instant.strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::Event;
    use crate::{catalogue, config};

    /// 2026-11-23T09:41:00Z.
    const NOW: Timestamp = Timestamp::from_millis(1_795_426_860_000);

    fn one(feed: &mut Feed) -> Value {
        feed.events(1, NOW).remove(0)
    }

    #[test]
    fn every_key_comes_once_a_round_and_reads_back() {
        let mut feed = Feed::new(7).unwrap();
        let (mut keys, mut ids) = (HashSet::new(), HashSet::new());
        for round in 0..4 {
            for _ in 0..67 {
                let value = one(&mut feed);
                assert!(value["event"].is_object(), "list items are wrapped: {value}");
                let text = value.to_string();
                let event = Event::from_value(value).unwrap();
                assert_eq!(event.time, Some(NOW), "{text}");
                assert!(!event.subject.is_empty() && event.url.is_some_and(|url| url.ends_with(event.id.as_str())));
                assert!(ids.insert(event.id.clone()), "an id came twice: {}", event.id);
                keys.insert(event.key);
            }
            assert_eq!(keys.len(), 67, "round {round}");
        }
    }

    #[test]
    fn no_placeholder_is_left_or_empty() {
        let mut feed = Feed::new(1).unwrap();
        for value in (0..67 * 4).map(|_| one(&mut feed)) {
            let text = value.to_string();
            for name in ["{host}", "{domain}", "{target_id}", "{scan_id}", "{ip}", "{n:", "{day:", "{hex:", "{pick:"] {
                assert!(!text.contains(name), "{name} in {text}");
            }
            assert!(!text.contains("null"), "{text}");
        }
    }

    #[test]
    fn documented_keys_have_the_documented_fields() {
        let names = |event: &Event| event.fields().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
        let mut feed = Feed::new(3).unwrap();
        let mut seen = 0;
        for event in (0..67 * 2).map(|_| Event::from_value(one(&mut feed)).unwrap()) {
            if catalogue::find(event.key.as_str()).is_some_and(|known| known.documented) {
                assert_eq!(names(&event), names(&catalogue::sample(&event.key)), "{}", event.key);
                seen += 1;
            }
        }
        assert_eq!(seen, 12);
    }

    /// Otherwise the page would show less than the relay can tell.
    #[test]
    fn events_have_the_facts_that_the_catalogue_tells_first() {
        let mut feed = Feed::new(4).unwrap();
        for event in (0..67 * 4).map(|_| Event::from_value(one(&mut feed)).unwrap()) {
            let known = catalogue::find(event.key.as_str()).unwrap();
            for fact in known.facts.iter().take(2).filter(|fact| fact.field != "detail") {
                assert!(event.field(fact.field).is_some(), "{}: no {}", event.key, fact.field);
            }
        }
    }

    #[test]
    fn the_seed_decides_everything() {
        let make = |seed| {
            let mut feed = Feed::new(seed).unwrap();
            (0..50)
                .map(|_| {
                    let step = feed.next_step();
                    (step, feed.events(step.events, NOW))
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(make(5), make(5));
        assert_ne!(make(5), make(6));
    }

    #[test]
    fn steps_are_short_with_a_burst_now_and_then() {
        let mut feed = Feed::new(9).unwrap();
        let (mut elapsed, mut bursts) = (Duration::ZERO, Vec::new());
        for _ in 0..200 {
            let step = feed.next_step();
            assert!((1000..2000).contains(&step.wait.as_millis()), "{step:?}");
            elapsed += step.wait;
            if step.events > 1 {
                let (_, least, most) = BURSTS[bursts.len() % BURSTS.len()];
                assert!((least..=most).contains(&step.events), "{step:?}");
                bursts.push(elapsed.as_millis());
            }
            feed.events(step.events, NOW);
        }
        assert!((8_000..10_000).contains(&bursts[0]), "{bursts:?}");
        let gaps: Vec<_> = bursts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.len() > 5 && gaps.iter().all(|gap| (20_000..22_000).contains(gap)), "{gaps:?}");
    }

    #[test]
    fn a_burst_is_one_kind_on_one_target() {
        let mut feed = Feed::new(2).unwrap();
        for (key, ..) in BURSTS {
            let events: Vec<_> =
                feed.events(9, NOW).into_iter().map(|event| Event::from_value(event).unwrap()).collect();
            assert_eq!(events.len(), 9);
            assert!(events.iter().all(|event| event.key.as_str() == key && event.target() == events[0].target()));
        }
    }

    /// Who watches for half a minute sees what a batch looks like.
    #[test]
    fn the_first_burst_becomes_a_digest_soon() {
        let example = include_str!("../../rules.example.yaml");
        let options = config::LoadOptions::without_secrets();
        let config = config::load_str(example, std::path::Path::new("rules.example.yaml"), &options).unwrap();
        let mut feed = Feed::new(1).unwrap();
        for event in feed.events(5, NOW).into_iter().map(|event| Event::from_value(event).unwrap()) {
            let owed = config.rules.route(&event).owed;
            assert!(!owed.is_empty());
            for owed in owed {
                let rule = config.rules.rule(owed.rule.as_str()).unwrap();
                let wait = rule.batch.as_ref().unwrap().wait;
                assert!(BURST_EVERY + wait < SINCE_LAST_BURST + Duration::from_secs(25), "{}", rule.name);
            }
        }
    }

    #[test]
    fn some_values_are_hostile() {
        let mut feed = Feed::new(1).unwrap();
        let text: String = (0..67).map(|_| one(&mut feed).to_string()).collect();
        for hostile in ["<!channel>", "<img src=x", "[Confirm your password](https://", "javascript:", "</script>"] {
            assert!(text.contains(hostile), "{hostile}");
        }
    }

    #[test]
    fn placeholders() {
        let mut rng = Rng::with_seed(1);
        let mut scene = Scene { rng: &mut rng, target: Some(WEBSITES[0]), now: NOW };
        let mut record = Map::new();
        record.insert("port".to_owned(), json!(465));
        let cases = [
            (json!("{port}/tcp"), json!("465/tcp")),
            (json!("{port}"), json!(465)),
            (json!("{target_id}"), json!(210_411)),
            (json!("*.{domain} {host}"), json!("*.example.org www.example.org")),
            (json!("{day:-83} {day:7}"), json!("2026-09-01 2026-11-30")),
            (json!("{n:3..3}"), json!(3)),
            (json!("open { brace"), json!("open { brace")),
            (json!(5), json!(5)),
        ];
        for (form, expected) in cases {
            assert_eq!(scene.fill(&form, &record), expected, "{form}");
        }
    }
}
