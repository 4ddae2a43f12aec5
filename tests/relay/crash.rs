//! Pulling the plug: whatever was answered 202 arrives, and what arrives twice was under way when the plug was pulled.
//!
//! `CRASH_ROUNDS=1000 cargo test --release --test relay crash -- --nocapture` runs the long version; `CRASH_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::http::{Chooser, FakeHttp, Reply, Request};
use crate::smtp::{FakeSmtp, Options, Protection};
use crate::support::{PATIENCE, Relay, Scene, TOKEN, event, free_port, slack_host, within};

const ROUNDS: usize = 12;
/// Of the ends, one in so many is a clean stop.
const CLEAN_EVERY: usize = 6;
/// For the rest of a storm to be delivered, waits of suspects and backoffs included.
const DRAINED: Duration = Duration::from_mins(5);
const KEYS: [&str; 3] = ["issue-add", "website-form-oos", "pci-report-expiring"];
const SIGNING: &str = "whsec_c2lnbmluZy1zZWNyZXQtMTIzNDU2Nzg5MC1hYmNk";

/// How many messages of a destination a kill can leave without an answer on record.
fn under_way(destination: &str) -> usize {
    if ["soar", "narrow", "spare"].contains(&destination) { 32 } else { 1 }
}

/// To whom the event of this number is owed.
fn owed(number: usize) -> Vec<&'static str> {
    match KEYS[number % KEYS.len()] {
        "issue-add" => vec!["chat", "team", "soar", "narrow", "broken"],
        _ => vec!["chat", "team", "soar", "narrow", "broken", "mail"],
    }
}

fn storm_rules(listen: u16, smtp: u16) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: '127.0.0.1:{listen}', path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: {{ env: CHAT }} }}
  team: {{ type: teams, url: {{ env: TEAM }}, limit: 100/1s, over_limit: queue }}
  soar: {{ type: webhook, url: {{ env: SOAR }}, secret: {{ env: SIGNING }} }}
  narrow: {{ type: webhook, url: {{ env: NARROW }}, limit: 6/1s, digest_after: 1s }}
  broken: {{ type: slack, url: {{ env: BROKEN }}, fallback: {{ to: spare, after: 100ms }} }}
  spare: {{ type: webhook, url: {{ env: SPARE }} }}
  mail: {{ type: email, smtp: {{ host: 127.0.0.1, port: {smtp}, tls: none }}, from: relay@example.org, to: [ops@example.org] }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: gathered, when: {{ key: 'website-*' }}, send: [mail], batch: {{ wait: 1s, max: 10 }} }}
  - {{ name: urgent, when: {{ key: 'pci-*' }}, severity: critical, send: [mail] }}
  - {{ name: all, when: {{ key: '*' }}, send: [chat, team, soar, narrow, broken] }}
unrouted: {{ drop: nothing else is expected }}
"
    )
}

/// A message that a receiver has taken.
#[derive(Clone, Debug)]
struct Arrival {
    destination: &'static str,
    /// The delivery's public name.
    id: String,
    /// The events it names.
    numbers: BTreeSet<usize>,
    /// Of a digest to a webhook, how many events it says it tells.
    count: Option<u64>,
    /// How many ends the relay had seen.
    ends: usize,
    /// The receiver gave no answer, so it may come again.
    doubtful: bool,
    says_may_repeat: bool,
}

/// What all receivers have taken, and how they behave.
#[derive(Default)]
struct World {
    arrivals: Mutex<Vec<Arrival>>,
    ends: AtomicUsize,
    calm: AtomicBool,
}

impl World {
    fn take(&self, destination: &'static str, text: &str, count: Option<u64>, doubtful: bool) {
        let arrival = Arrival {
            destination,
            id: delivery_id(text),
            numbers: numbers(text),
            count,
            ends: self.ends.load(Ordering::SeqCst),
            doubtful,
            says_may_repeat: text.contains("may repeat") || text.contains("\"may_repeat\":true"),
        };
        self.arrivals.lock().unwrap().push(arrival);
    }

    /// A receiver that takes most messages after a moment, refuses some, and keeps silent about a few that it has taken.
    fn receiver(
        self: &Arc<Self>,
        destination: &'static str,
        refused: f64,
        silent: f64,
        good: u16,
        seed: u64,
    ) -> Chooser {
        let world = Arc::clone(self);
        let mut random = fastrand::Rng::with_seed(seed);
        Box::new(move |request: &Request| {
            let delay = Duration::from_micros(random.u64(0..4_000));
            let draw = if world.calm.load(Ordering::SeqCst) { 1.0 } else { random.f64() };
            if draw < refused {
                return (delay, Reply::status(503));
            }
            let text = format!("{:?} {}", request.header("webhook-id"), String::from_utf8_lossy(&request.body));
            let count = request.json()["data"]["count"].as_u64();
            let doubtful = draw < refused + silent;
            world.take(destination, &text, count, doubtful);
            let silence = if random.bool() { Reply::Reset } else { Reply::Close };
            (delay, if doubtful { silence } else { Reply::text(good, "ok") })
        })
    }

    fn take_mails(&self, mail: &mut FakeSmtp) {
        while let Some(mail) = mail.try_mail() {
            let parsed = mail_parser::MessageParser::default().parse(&mail.data).unwrap();
            let text = format!("{} {}", parsed.message_id().unwrap(), parsed.body_text(0).unwrap());
            self.take("mail", &text, None, false);
        }
    }
}

/// The first `hr_<instance>_<row>` in a text.
fn delivery_id(text: &str) -> String {
    let from = text.find("hr_").unwrap_or_else(|| panic!("no delivery id in {text}"));
    text[from..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// The numbers of all events named in a text, by their targets.
fn numbers(text: &str) -> BTreeSet<usize> {
    let digits = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
    text.split("host-").skip(1).filter_map(digits).collect()
}

/// Posts as many events as there is room for, in small arrays, each again and again until it is answered 202. Ends with the
/// semaphore; returns how many were accepted, all numbers below it.
fn senders(port: u16, room: &Arc<Semaphore>) -> (JoinSet<()>, Arc<AtomicUsize>) {
    let mut senders = JoinSet::new();
    let next = Arc::new(AtomicUsize::new(0));
    for sender in 1..=4 {
        let (room, next) = (Arc::clone(room), Arc::clone(&next));
        senders.spawn(async move {
            let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
            while let Ok(permits) = room.acquire_many(sender).await {
                permits.forget();
                let sender = sender as usize;
                let first = next.fetch_add(sender, Ordering::SeqCst);
                let events: Vec<_> = (first..first + sender).map(|n| event(n, KEYS[n % KEYS.len()])).collect();
                loop {
                    let request = client.post(format!("http://127.0.0.1:{port}/hooks/halo")).bearer_auth(TOKEN);
                    match request.json(&events).send().await {
                        Ok(answer) if answer.status() == 202 => break,
                        // Killed under our hands, or not up yet: the same events are offered again.
                        _ => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            }
        });
    }
    (senders, next)
}

async fn started(scene: &Scene) -> Relay {
    let relay = scene.launch(&["run", "--log", "error"]);
    relay.ready().await;
    relay
}

/// Waits until everything has ended; what was set aside because the relay kept ending under it is sent again. Returns how
/// much that was.
async fn drained(scene: &Scene, relay: &Relay) -> usize {
    let started = Instant::now();
    loop {
        let status = relay.status().await;
        let sum = |states: &[&str]| -> u64 {
            let of = |counts: &Value| states.iter().map(|state| counts[state].as_u64().unwrap()).sum::<u64>();
            status["deliveries"].as_array().unwrap().iter().map(of).sum()
        };
        if sum(&["ready", "sending", "held"]) == 0 {
            let dead: Value = serde_json::from_str(&scene.cli_ok(&["dead", "list", "--json"]).await).unwrap();
            let dead = dead.as_array().unwrap();
            for letter in dead {
                assert!(letter["reason"].as_str().unwrap().starts_with("quarantined"), "{letter:#}");
            }
            if dead.is_empty() {
                return 0;
            }
            scene.cli_ok(&["dead", "retry", "--all"]).await;
            return dead.len() + Box::pin(drained(scene, relay)).await;
        }
        assert!(started.elapsed() < DRAINED, "still owed: {status:#}\n{}", relay.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_that_was_acknowledged_on_any_channel() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = number("CRASH_ROUNDS").map_or(ROUNDS, |rounds| usize::try_from(rounds).unwrap());
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let begun = Instant::now();
    let mut random = fastrand::Rng::with_seed(seed);
    let world = Arc::new(World::default());
    let mut receivers = Vec::new();
    for (name, refused, silent, good) in [
        ("CHAT", 0.0, 0.0, 200),
        ("TEAM", 0.0, 0.0, 202),
        ("SOAR", 0.02, 0.01, 204),
        ("NARROW", 0.02, 0.0, 204),
        ("BROKEN", 0.8, 0.0, 200),
        ("SPARE", 0.0, 0.02, 204),
    ] {
        let lower =
            ["chat", "team", "soar", "narrow", "broken", "spare"].into_iter().find(|n| n.eq_ignore_ascii_case(name));
        let chooser = world.receiver(lower.unwrap(), refused, silent, good, random.u64(..));
        receivers.push((name, FakeHttp::answering(chooser).await));
    }
    let mut mail = FakeSmtp::start(Options::new(Protection::None)).await;
    let port = free_port();
    let scene = Scene::new(&storm_rules(port, mail.port())).with("SIGNING", SIGNING);
    let scene = receivers.iter().fold(scene, |scene, (name, fake)| {
        let path =
            if *name == "TEAM" { "/workflows/1/triggers/manual/paths/invoke?sig=x" } else { "/services/T0/B0/x" };
        scene.with(name, fake.url(path))
    });

    let mut relay = started(&scene).await;
    let room = Arc::new(Semaphore::new(0));
    let (mut posting, next) = senders(port, &room);
    let mut clean = Vec::new();
    for round in 1..=rounds {
        room.add_permits(random.usize(4..60));
        // Anywhere in the work, not at a moment that the relay could favour.
        tokio::time::sleep(Duration::from_micros(random.u64(0..300_000))).await;
        clean.push(round % CLEAN_EVERY == 0);
        if round % CLEAN_EVERY == 0 {
            relay.stop().await;
        } else {
            relay.kill();
        }
        world.take_mails(&mut mail);
        world.ends.fetch_add(1, Ordering::SeqCst);
        relay = started(&scene).await;
        if round % 50 == 0 {
            println!(
                "round {round}: {} events, {} messages",
                next.load(Ordering::SeqCst),
                world.arrivals.lock().unwrap().len()
            );
        }
    }
    println!("{rounds} rounds after {:?}", begun.elapsed());
    room.close();
    within("all events are accepted", async { while posting.join_next().await.is_some() {} }).await;
    world.calm.store(true, Ordering::SeqCst);
    let quarantined = drained(&scene, &relay).await;
    relay.stop().await;
    world.take_mails(&mut mail);

    let arrivals = world.arrivals.lock().unwrap().clone();
    let events = next.load(Ordering::SeqCst);
    everything_arrived(&scene.state().join("relay.db"), events, &arrivals);
    let repeats = repeats_are_explained(&arrivals, &clean);
    let kills = clean.iter().filter(|clean| !**clean).count();
    println!(
        "{:?}: {kills} kills and {} clean stops; {events} events; {} messages; {repeats}; {quarantined} set aside",
        begun.elapsed(),
        clean.len() - kills,
        arrivals.len(),
    );
}

/// Nothing is lost: of each event and destination, the message that the store says has told it is one the receiver took.
fn everything_arrived(store: &Path, events: usize, arrivals: &[Arrival]) {
    let taken: BTreeSet<_> = arrivals.iter().map(|arrival| (arrival.destination, arrival.id.as_str())).collect();
    let named: BTreeSet<_> =
        arrivals.iter().flat_map(|arrival| arrival.numbers.iter().map(|n| (arrival.destination, *n))).collect();
    let db = rusqlite::Connection::open_with_flags(store, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let instance: String =
        db.query_row("SELECT value FROM meta WHERE name = 'instance'", [], |row| row.get(0)).unwrap();
    let mut owed_of = BTreeMap::<usize, BTreeSet<String>>::new();
    let mut find = db
        .prepare(
            "SELECT e.event_id, n.name, v.name, d.id, d.state, g.id, g.state, w.name FROM delivery d
             JOIN event e ON e.id = d.event JOIN destination n ON n.id = d.destination JOIN destination v ON v.id = d.via
             LEFT JOIN delivery g ON g.id = d.digest LEFT JOIN destination w ON w.id = g.via",
        )
        .unwrap();
    let mut rows = find.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let event: String = row.get(0).unwrap();
        let (destination, mut via): (String, String) = (row.get(1).unwrap(), row.get(2).unwrap());
        let number: usize = event.strip_prefix("event-").unwrap().parse().unwrap();
        let (mut told_by, mut state): (i64, i64) = (row.get(3).unwrap(), row.get(4).unwrap());
        let folded = state == 5;
        if folded {
            (told_by, state, via) = (row.get(5).unwrap(), row.get(6).unwrap(), row.get(7).unwrap());
        }
        assert_eq!(state, 2, "event {number} for {destination} was not delivered");
        let id = format!("hr_{instance}_{told_by:x}");
        assert!(taken.contains(&(via.as_str(), id.as_str())), "event {number}: {via} never took {id}");
        // A digest of overflow names the first ten alone; whatever else says it tells an event names it.
        if !folded || destination == "mail" {
            let via = via.as_str();
            assert!(named.contains(&(via, number)), "event {number}: no message at {via} names it");
        }
        owed_of.entry(number).or_default().insert(destination);
    }
    for number in 0..events {
        let expected: BTreeSet<_> = owed(number).into_iter().map(str::to_owned).collect();
        assert_eq!(owed_of.remove(&number), Some(expected), "acknowledged and lost: event {number}");
    }
    assert!(owed_of.is_empty(), "never sent: {owed_of:?}");
    let mut members = db
        .prepare(
            "SELECT g.delivery, g.members, (SELECT count(*) FROM delivery d WHERE d.digest = g.delivery) FROM digest g",
        )
        .unwrap();
    let mut rows = members.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (digest, says, has): (i64, i64, i64) = (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
        assert_eq!(says, has, "digest {digest}");
        let id = format!("hr_{instance}_{digest:x}");
        let told: BTreeSet<_> = arrivals.iter().filter(|a| a.id == id).filter_map(|arrival| arrival.count).collect();
        assert!(told.iter().all(|told| *told == has.unsigned_abs()), "{id} has {has} members and told of {told:?}");
    }
}

/// A message came again only where the relay was killed, or the receiver had kept silent, and was the same one. Returns the
/// counts in words.
fn repeats_are_explained(arrivals: &[Arrival], clean: &[bool]) -> String {
    let mut last = BTreeMap::<(&str, &str), &Arrival>::new();
    let mut by_kill = BTreeMap::<(usize, &str), usize>::new();
    let mut doubtful = 0;
    for arrival in arrivals {
        let Some(before) = last.insert((arrival.destination, &arrival.id), arrival) else { continue };
        assert_eq!((&before.numbers, before.count), (&arrival.numbers, arrival.count), "{} changed", arrival.id);
        assert!(arrival.says_may_repeat, "a repeat does not say so: {arrival:?}");
        if before.doubtful {
            doubtful += 1;
            continue;
        }
        // What was still on the wire when the relay ended is seen as if it came after that.
        let end = if arrival.ends > before.ends { before.ends } else { before.ends.wrapping_sub(1) };
        assert!(clean.get(end) == Some(&false), "repeated without a kill: {before:?} and {arrival:?}");
        *by_kill.entry((end, arrival.destination)).or_default() += 1;
    }
    for ((end, destination), repeats) in &by_kill {
        assert!(*repeats <= under_way(destination), "kill {end} made {destination} see {repeats} repeats");
    }
    let (repeats, most) = (by_kill.values().sum::<usize>(), by_kill.values().max().copied().unwrap_or_default());
    format!("{repeats} repeats by kills, at most {most} at one receiver by one, and {doubtful} after silence")
}

fn rules(listen: u16, slack: &FakeHttp) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: '127.0.0.1:{listen}', path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        slack.url("/services/T0/B0/secret")
    )
}

#[tokio::test]
async fn a_clean_stop_repeats_nothing() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&rules(0, &slack));
    for round in 0..5 {
        let relay = scene.start().await;
        let events: Vec<_> = (0..20).map(|n| event(round * 20 + n, "issue-add")).collect();
        relay.accept(&json!(events)).await;
        relay.stop().await;
    }
    let relay = scene.start().await;
    relay.idle().await;
    relay.stop().await;
    let mut hosts = Vec::new();
    while let Some(request) = slack.try_request() {
        assert!(!request.json().to_string().contains("may repeat"));
        hosts.push(slack_host(&request.json()));
    }
    let unique: BTreeSet<_> = hosts.iter().collect();
    assert_eq!((hosts.len(), unique.len()), (100, 100));
}

#[tokio::test]
async fn a_second_relay_is_refused() {
    let slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&rules(0, &slack));
    let relay = scene.start().await;
    let mut second = scene.launch(&["run"]);
    assert_eq!(second.exited().await.code(), Some(4));
    second.logs(&format!("in use by process {}", relay.id())).await;
    relay.stop().await;
}

#[tokio::test]
async fn sigterm_with_a_slow_destination_ends_in_time_and_a_second_one_at_once() {
    let mut slack = FakeHttp::start(Reply::Silence).await;
    let scene = Scene::new(&rules(0, &slack));
    let mut relay = scene.start().await;
    relay.accept(&event(1, "issue-add")).await;
    slack.request().await;
    relay.signal("TERM");
    relay.logs("stopping: no new events").await;
    relay.signal("TERM");
    assert!(tokio::time::timeout(PATIENCE, relay.exited()).await.unwrap().success());
    assert!(relay.log().contains("asked twice to stop"), "{}", relay.log());
    slack.then(Reply::text(200, "ok"));
    let relay = scene.start().await;
    let again = slack.request().await.json();
    assert!(again.to_string().contains("may repeat"), "{again:#}");
    relay.stop().await;
}

#[tokio::test]
async fn a_store_deleted_under_the_relay_ends_it_before_anything_more_is_acknowledged() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&rules(0, &slack));
    let mut relay = scene.start().await;
    relay.accept(&event(1, "issue-add")).await;
    slack.request().await;
    relay.idle().await;
    std::fs::remove_file(scene.state().join("relay.db")).unwrap();
    assert_eq!(relay.post(&event(2, "issue-add")).await.0, 503);
    assert_eq!(within("an end", relay.exited()).await.code(), Some(1));
    relay.logs("relay.db was deleted or replaced").await;
}
