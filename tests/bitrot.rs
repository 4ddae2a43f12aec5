//! Rot: a bit of the store's files is not what was written, or the end of one is missing. The store then refuses to open and
//! says why, or works with what can be told to be whole: it never panics, and never hands out a message that is not, word for
//! word and to the same destination, one that was put in.
//!
//! `BIT_FLIPS=10000 cargo test --test bitrot` for longer; `BIT_SEED=…` to see one again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and tell")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use halo_relay::model::{DestinationName, Event, Outcome, Report, RuleName, Severity, SourceName, Timestamp};
use halo_relay::store::{
    DeadFilter, Ended, NewBatch, NewDelivery, NewEvent, Settlement, Store, StoreError, Subscription, Turn, What,
};
use serde_json::json;
use tempfile::TempDir;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const DESTINATIONS: [&str; 3] = ["chat", "mail", "soar"];
const EVENTS: usize = 400;

/// What was put in: the bodies, and those to whom each is owed.
type Truth = HashMap<String, Vec<&'static str>>;

/// Files by name, as they lie on disk.
type Image = BTreeMap<&'static str, Vec<u8>>;

/// In memory where there is such a place: thousands of stores are opened.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory).unwrap() } else { TempDir::new().unwrap() }
}

fn event(number: usize) -> (NewEvent, Vec<&'static str>) {
    let record = json!({"event_id": format!("event-{number}"), "key": format!("issue-{}", number % 5),
        "target": format!("host-{number}.example.org"), "text": "x".repeat(number % 1_500)});
    let to: Vec<_> = DESTINATIONS
        .into_iter()
        .enumerate()
        .filter(|(at, _)| !(number + at).is_multiple_of(3))
        .map(|(_, to)| to)
        .collect();
    let owed = to.iter().map(|&destination| NewDelivery {
        destination: DestinationName::from(destination),
        rule: RuleName::from("all"),
        severity: if number.is_multiple_of(7) { Severity::Critical } else { Severity::Info },
        batch: number.is_multiple_of(4).then(|| NewBatch { group: "g".into(), wait: Duration::from_secs(30), max: 9 }),
        thread: number.is_multiple_of(5).then(|| format!("{number:032x}")),
    });
    (NewEvent::new(&Event::from_value(record).unwrap(), owed.collect(), None), to)
}

async fn accept(store: &Store, numbers: std::ops::Range<usize>, truth: &mut Truth) -> Result<(), StoreError> {
    let made: Vec<_> = numbers.map(event).collect();
    truth.extend(made.iter().map(|(event, to)| (event.body.clone(), to.clone())));
    let events: Vec<_> = made.into_iter().map(|(event, _)| event).collect();
    store.accept(&SourceName::from("push"), events.into(), NOW).await.map(drop)
}

/// One step: these ended so, and so many more start.
async fn turn(
    store: &Store,
    lane: &Subscription,
    ended: Vec<Ended>,
    claim: usize,
) -> Result<Vec<halo_relay::store::Claimed>, StoreError> {
    let turn = Turn { ended: ended.into(), claim, ..Turn::default() };
    store.turn(lane.outlet, turn, NOW.plus(Duration::from_mins(2))).await.map(|taken| taken.claimed)
}

fn end(claimed: halo_relay::store::Claimed, settlement: Settlement) -> Ended {
    Ended { claimed, at: NOW, report: Report::new(Outcome::Transient, Some(500), "server error"), settlement }
}

/// A store with deliveries in every state, part of it in the log only.
async fn image() -> (Image, Truth) {
    let directory = directory();
    let mut truth = Truth::new();
    let store = Store::open(directory.path(), NOW).unwrap();
    accept(&store, 0..EVENTS / 2, &mut truth).await.unwrap();
    store.close().await;
    drop(store);
    let store = Store::open(directory.path(), NOW).unwrap();
    accept(&store, EVENTS / 2..EVENTS, &mut truth).await.unwrap();
    for name in DESTINATIONS {
        let lane = store.subscribe(&DestinationName::from(name)).await.unwrap();
        let claimed = turn(&store, &lane, Vec::new(), 40).await.unwrap();
        let ended = claimed.into_iter().enumerate().filter_map(|(at, claimed)| {
            let again = Settlement::Again { at: NOW, counts: true, may_repeat: false, plain: at % 2 == 0 };
            match at % 4 {
                0 => Some(end(claimed, Settlement::Delivered)),
                1 => Some(end(claimed, Settlement::Dead { reason: "404".into() })),
                2 => Some(end(claimed, again)),
                _ => None,
            }
        });
        turn(&store, &lane, ended.collect(), 0).await.unwrap();
    }
    let read = |name| (name, fs::read(directory.path().join(name)).unwrap());
    ([read("relay.db"), read("relay.db-wal")].into(), truth)
}

/// What came of one damaged store.
#[derive(Debug, Default)]
struct Came {
    refused: usize,
    stopped: usize,
    worked: usize,
    quarantined: usize,
    sent: usize,
}

/// Opens the damaged files and sends all that is owed.
async fn work(image: &Image, truth: &Truth, came: &mut Came) {
    let directory = directory();
    for (name, bytes) in image {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    // A small one; by itself the store would make one that fits the disk.
    fs::write(directory.path().join("relay.ballast"), vec![1; 1024 * 1024]).unwrap();
    let store = match Store::open(directory.path(), NOW.plus(Duration::from_mins(1))) {
        Ok(store) => store,
        Err(error) => {
            came.refused += 1;
            assert!(error.to_string().contains("relay.db"), "does not say which file: {error}");
            if let StoreError::Damaged { .. } = error {
                assert!(error.to_string().contains(".recover"), "does not say what to do: {error}");
            }
            return;
        }
    };
    let mut stopped = false;
    for name in DESTINATIONS {
        stopped |= send_all(&store, name, truth, came).await.is_err();
    }
    stopped |= accept(&store, EVENTS..EVENTS + 1, &mut Truth::new()).await.is_err();
    let dead = store.dead(DeadFilter::default(), 10_000).await.unwrap_or_default();
    let damaged = dead.iter().filter(|row| row.reason.as_deref().is_some_and(|why| why.contains("damaged on disk")));
    came.quarantined += damaged.count();
    came.worked += usize::from(!stopped);
    came.stopped += usize::from(stopped);
    store.close().await;
}

async fn send_all(store: &Store, name: &'static str, truth: &Truth, came: &mut Came) -> Result<(), StoreError> {
    let lane = store.subscribe(&DestinationName::from(name)).await?;
    let mut ended = Vec::new();
    loop {
        let claimed = turn(store, &lane, std::mem::take(&mut ended), 50).await?;
        if claimed.is_empty() {
            return Ok(());
        }
        for claimed in claimed {
            match &claimed.what {
                What::Record(body) => is_true(body, name, truth),
                What::Digest(_) => {
                    for (body, _) in store.gathered(claimed.row).await?.events {
                        is_true(&body, name, truth);
                    }
                }
                What::Event(_) | What::Notice(_) => panic!("nobody put in {:?}", claimed.what),
            }
            assert_eq!((claimed.rule.as_str(), claimed.moved.as_ref()), ("all", None));
            came.sent += 1;
            ended.push(end(claimed, Settlement::Delivered));
        }
    }
}

fn is_true(body: &str, name: &str, truth: &Truth) {
    let to = truth.get(body).unwrap_or_else(|| panic!("{name} is sent what nobody put in: {body}"));
    assert!(to.contains(&name), "{name} is sent what is meant for {to:?}: {body}");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_is_found_or_harmless() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let seed = number("BIT_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (image, truth) = image().await;
    let mut whole = Came::default();
    work(&image, &truth, &mut whole).await;
    assert!(whole.worked == 1 && whole.sent > 150 && whole.quarantined == 0, "{whole:?}");

    // A panic in the writer's thread would pass for a store that stopped.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        tell(info);
    }));
    let mut came = Came::default();
    let flips = number("BIT_FLIPS").unwrap_or(300);
    for round in 0..flips {
        let mut damaged = image.clone();
        // As many hits as there are bytes, in either file.
        let (db, log) = (damaged["relay.db"].len(), damaged["relay.db-wal"].len());
        let at = random.usize(0..db + log);
        let (name, at) = if at < db { ("relay.db", at) } else { ("relay.db-wal", at - db) };
        let bytes = damaged.get_mut(name).unwrap();
        let what = if random.u8(0..10) == 0 {
            bytes.truncate(at);
            format!("{name} cut at {at}")
        } else {
            let bit = random.u8(0..8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} of {name}")
        };
        work(&damaged, &truth, &mut came).await;
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "round {round}: {what}");
    }
    println!("{flips} times: {came:?}");
}

#[tokio::test]
async fn a_damaged_event_is_set_aside_and_the_others_flow() {
    let (mut image, truth) = image().await;
    let bytes = image.get_mut("relay.db").unwrap();
    // The text of one event's body, in the file proper.
    let needle = b"host-101.example.org";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    let mut came = Came::default();
    work(&image, &truth, &mut came).await;
    let owed = truth.iter().find(|(body, _)| body.contains("host-101.")).unwrap().1.len();
    assert_eq!((came.worked, came.quarantined), (1, owed), "{came:?}");
}

#[tokio::test]
async fn what_is_no_store_is_refused_with_instructions() {
    let (image, truth) = image().await;
    for (name, bytes) in
        [("text", b"this is no database, but it is as long as one must be".repeat(40)), ("zeros", vec![0; 8192])]
    {
        let mut came = Came::default();
        work(&BTreeMap::from([("relay.db", bytes)]), &truth, &mut came).await;
        assert_eq!(came.refused, 1, "{name}: {came:?}");
    }
    assert!(image["relay.db-wal"].len() > 100_000, "the log is in it");
}

#[tokio::test]
async fn a_store_found_damaged_at_work_is_checked_before_it_is_used_again() {
    let (image, _) = image().await;
    let directory = directory();
    for (name, bytes) in &image {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    let marker = directory.path().join("relay.suspect");
    fs::write(&marker, "as the run before left it\n").unwrap();
    Store::open(directory.path(), NOW).unwrap().close().await;
    assert!(!marker.exists(), "it is sound, so that is forgotten");

    let path = directory.path().join("relay.db");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    fs::write(&marker, "again\n").unwrap();
    for _ in 0..2 {
        let refused = Store::open(directory.path(), NOW).err().unwrap();
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
        assert!(marker.exists(), "refused until it is mended");
    }
}
