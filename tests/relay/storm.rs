//! A storm of events at destinations that take them slowly: what matters goes first, what waits keeps its order, all of it
//! is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{FakeHttp, Reply, Request};
use crate::support::{Relay, Scene, event, eventually, slack_id};

fn rules(chat: &FakeHttp, more: &str) -> String {
    format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}'{more} }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: urgent, when: {{ key: 'pci-*' }}, severity: critical, send: [chat] }}
  - {{ name: all, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        chat.url("/services/T0/B0/x")
    )
}

const INFOS: usize = 10_000;
const CRITICALS: usize = 10;
/// The second that the message before it holds the limit, and as much again for a busy machine.
const TURN: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn criticals_pass_ten_thousand_infos_at_one_a_second() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(&rules(&slack, ", limit: 1/1s, digest_after: 5s"));
    let relay = scene.start().await;
    for from in (0..INFOS).step_by(500) {
        relay.accept(&json!((from..from + 500).map(|n| event(n, "issue-add")).collect::<Vec<_>>())).await;
    }
    let mut messages = Vec::new();
    for number in INFOS..INFOS + CRITICALS {
        relay.accept(&event(number, "pci-report-expiring")).await;
        let accepted = Instant::now();
        // The next message, or the one after it if that was about to start.
        loop {
            let request = slack.request().await;
            messages.push(request.json());
            if request.at < accepted {
                continue;
            }
            let text = messages.last().unwrap()["text"].as_str().unwrap();
            if text.contains(&format!("host-{number}.example.org")) {
                assert!(request.at - accepted <= TURN, "a critical one waited {:?}", request.at - accepted);
                break;
            }
        }
    }
    relay.idle().await;
    while let Some(request) = slack.try_request() {
        messages.push(request.json());
    }
    relay.stop().await;

    // Each event was told by a message of its own, or is a member of a digest that was.
    let told: BTreeSet<_> = messages.iter().map(slack_id).collect();
    assert_eq!(told.len(), messages.len(), "something was told twice");
    let db = rusqlite::Connection::open_with_flags(
        scene.state().join("relay.db"),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )
    .unwrap();
    let instance: String =
        db.query_row("SELECT value FROM meta WHERE name = 'instance'", [], |row| row.get(0)).unwrap();
    let mut find = db
        .prepare(
            "SELECT e.event_id, d.severity, d.digest, coalesce(d.digest, d.id) FROM delivery d JOIN event e ON e.id = d.event",
        )
        .unwrap();
    let mut rows = find.query([]).unwrap();
    let (mut events, mut digests) = (BTreeSet::new(), BTreeMap::<i64, usize>::new());
    while let Some(row) = rows.next().unwrap() {
        let event: String = row.get(0).unwrap();
        let (critical, digest): (i64, Option<i64>) = (row.get(1).unwrap(), row.get(2).unwrap());
        assert!(critical < 4 || digest.is_none(), "a critical one was folded");
        let by = format!("hr_{instance}_{:x}", row.get::<_, i64>(3).unwrap());
        assert!(told.contains(&by), "{event} was not told");
        if let Some(digest) = digest {
            *digests.entry(digest).or_default() += 1;
        }
        events.insert(event);
    }
    assert_eq!(events.len(), INFOS + CRITICALS);
    println!("{} messages told {} events, digests of {:?}", messages.len(), events.len(), digests.values());
    assert!(digests.values().sum::<usize>() > INFOS * 9 / 10, "few were folded: {digests:?}");
}

/// Refuses now and then, never five times in a row: what comes out is the order of starts, retries included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starts_keep_their_order_across_failures_restarts_and_dead_letters() {
    const EVENTS: usize = 150;
    /// Its content is refused, so it becomes a dead letter.
    const POISON: usize = 70;
    const KEYS: [&str; 2] = ["issue-add", "website-form-oos"];
    let starts = Arc::new(Mutex::new(Vec::<(usize, bool)>::new()));
    let seen = Arc::clone(&starts);
    let mut random = fastrand::Rng::with_seed(7);
    let mut refused = 0;
    let chooser = move |request: &Request| {
        let number = number(&request.json());
        let refuse = refused < 3 && random.u8(..8) == 0;
        refused = if refuse { refused + 1 } else { 0 };
        let reply = match number {
            POISON => Reply::text(400, "invalid_blocks"),
            _ if refuse => Reply::status(503),
            _ => Reply::text(200, "ok"),
        };
        seen.lock().unwrap().push((number, matches!(&reply, Reply::Answer { status: 200, .. })));
        (Duration::ZERO, reply)
    };
    let slack = FakeHttp::answering(Box::new(chooser)).await;
    let scene = Scene::new(&rules(&slack, ""));
    let mut relay = scene.start().await;
    for number in 0..EVENTS {
        relay.accept(&event(number, KEYS[number % 2])).await;
        if number % 50 == 25 {
            relay.kill();
            relay = scene.start().await;
        } else if number % 50 == 45 {
            relay.stop().await;
            relay = scene.start().await;
        }
    }
    finished(&relay, &starts, EVENTS - 1).await;
    let dead: Value = serde_json::from_str(&scene.cli_ok(&["dead", "list", "--json"]).await).unwrap();
    assert_eq!(dead.as_array().unwrap().len(), 1, "{dead:#}");
    relay.stop().await;

    let starts = starts.lock().unwrap();
    for lane in 0..KEYS.len() {
        let order: Vec<_> = starts.iter().map(|(number, _)| *number).filter(|number| number % 2 == lane).collect();
        // A repeat after a kill or a failure is the same one again; nothing behind it starts before it has ended.
        assert!(order.is_sorted(), "lane {lane}: {order:?}");
        let distinct: BTreeSet<_> = order.iter().collect();
        assert_eq!(distinct.len(), EVENTS / 2, "lane {lane}");
    }
    let refused = starts.iter().filter(|(_, taken)| !taken).count();
    println!("{} starts, {refused} refused", starts.len());
    assert!(refused > 5, "too few failures to show anything");
    drop(slack);
}

/// The first event that a message names.
fn number(payload: &Value) -> usize {
    let text = payload.to_string();
    let from = text.find("host-").unwrap_or_else(|| panic!("no host in {text}")) + "host-".len();
    text[from..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

async fn finished(relay: &Relay, starts: &Mutex<Vec<(usize, bool)>>, wanted: usize) {
    let taken = || {
        starts
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, taken)| *taken)
            .map(|(number, _)| *number)
            .collect::<BTreeSet<_>>()
            .len()
    };
    eventually("all but the dead letter", taken, |taken| *taken == wanted).await;
    relay.idle().await;
}
