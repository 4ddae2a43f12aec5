//! The relay in bad health: disks that are full, read-only or broken, too few file descriptors, an event that kills it.
//!
//! Full and read-only disks are real file systems in memory, in a mount namespace of their own, which takes root or a kernel
//! that lets users make namespaces. Where neither is so, those stories say that they were not told; with
//! `RELAY_REQUIRE_TMPFS=1` that is a failure. A disk that only says it is full, by a library put between the relay and the
//! system, is met everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::{PATIENCE, Relay, Scene, TOKEN, event, eventually};

/// Takes webhooks; while it holds, it answers none of those about hosts that begin so.
#[derive(Clone)]
struct Receiver {
    url: String,
    /// Host and delivery id, in the order they came.
    arrived: Arc<Mutex<Vec<(String, String)>>>,
    hold: watch::Sender<Option<&'static str>>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        let receiver = Self { url, arrived: Arc::default(), hold: watch::Sender::new(None) };
        let router = Router::new().route("/in", post(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn count(&self) -> usize {
        self.arrived.lock().unwrap().len()
    }

    fn hosts(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut hosts: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (host, id) in &*self.arrived.lock().unwrap() {
            hosts.entry(host.clone()).or_default().insert(id.clone());
        }
        hosts
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: String) -> &'static str {
    let host = body.split("host-").nth(1).and_then(|rest| rest.split(".example.org").next()).unwrap();
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    receiver.arrived.lock().unwrap().push((format!("host-{host}"), id));
    let held = |hold: Option<&str>| hold.is_some_and(|hold| format!("host-{host}").starts_with(hold));
    let _ = receiver.hold.subscribe().wait_for(|hold| !held(*hold)).await;
    "ok"
}

fn rules(destinations: &[(&str, &Receiver)]) -> String {
    let urls =
        destinations.iter().map(|(name, receiver)| format!("  {name}: {{ type: webhook, url: '{}' }}\n", receiver.url));
    let names: Vec<_> = destinations.iter().map(|(name, _)| *name).collect();
    format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
{}admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [{}] }}
unrouted: {{ drop: nothing else is expected }}
",
        urls.collect::<String>(),
        names.join(", ")
    )
}

/// A small file system in memory, below a process that holds its mount namespace.
struct Disk {
    keeper: Child,
    /// As the relay sees it.
    path: PathBuf,
    user: bool,
}

impl Disk {
    /// `None` where the system lets nobody mount.
    fn mount(path: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        for user in [false, true] {
            let script = format!(
                "mount -t tmpfs -o size={size},mode=700 tmpfs '{}' && echo mounted && exec sleep 600",
                path.display()
            );
            let mut command = Command::new("unshare");
            command.args(if user { &["--user", "--map-root-user", "--mount"][..] } else { &["--mount"] });
            command.args(["sh", "-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let Ok(mut keeper) = command.spawn() else { continue };
            let mut line = String::new();
            BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
            if line == "mounted\n" {
                return Some(Self { keeper, path: path.to_owned(), user });
            }
            let _ = keeper.wait();
        }
        assert!(std::env::var_os("RELAY_REQUIRE_TMPFS").is_none(), "no file system can be mounted here");
        println!("NOT TOLD: no file system can be mounted here");
        None
    }

    /// As this process sees it.
    fn seen(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.keeper.id(), self.path.display()))
    }

    fn enter(&self) -> Vec<String> {
        let keeper = self.keeper.id().to_string();
        let mut words = vec!["nsenter", "--target", &keeper, "--mount"];
        if self.user {
            words.extend(["--user", "--preserve-credentials"]);
        }
        words.push("--");
        words.into_iter().map(str::to_owned).collect()
    }

    fn scene(&self, scene: Scene) -> Scene {
        let enter = self.enter();
        scene.through(&enter.iter().map(String::as_str).collect::<Vec<_>>()).seen_at(self.seen())
    }

    fn remount(&self, how: &str) {
        let enter = self.enter();
        let done = Command::new(&enter[0])
            .args(&enter[1..])
            .args(["mount", "-o", &format!("remount,bind,{how}")])
            .arg(&self.path)
            .status();
        assert!(done.unwrap().success(), "remount,{how}");
    }

    /// Takes all the room there is, but for some that lets a few events in.
    fn fill(&self) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.seen().join("filler")).unwrap();
        for size in [64 * 1024, 1024, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        file.set_len(file.metadata().unwrap().len() - 128 * 1024).unwrap();
    }

    fn clear(&self) {
        std::fs::remove_file(self.seen().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Posts events until one is refused; returns how many were taken, and the refusal's `Retry-After`.
async fn post_until_refused(relay: &Relay, from: usize) -> (usize, String) {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    for number in from..from + 100_000 {
        let request = client.post(relay.webhook()).bearer_auth(TOKEN).json(&event(number, "issue-add"));
        let answer = request.send().await.unwrap();
        match answer.status().as_u16() {
            202 => {}
            503 => return (number - from, answer.headers()["retry-after"].to_str().unwrap().to_owned()),
            other => panic!("{other}\n{}", relay.log()),
        }
    }
    panic!("never refused\n{}", relay.log());
}

async fn under_way(relay: &Relay) -> u64 {
    relay.status().await["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|counts| counts["sending"].as_u64().unwrap())
        .sum()
}

async fn until_full(relay: &Relay, full: bool) {
    let started = Instant::now();
    while relay.status().await["disk_full"] != full {
        assert!(started.elapsed() < PATIENCE, "never: disk_full {full}\n{}", relay.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_pauses_the_relay_and_it_goes_on_by_itself() {
    let soar = Receiver::start().await;
    let scene = Scene::new(&rules(&[("soar", &soar)]));
    let Some(disk) = Disk::mount(&scene.state(), "24m") else { return };
    let scene = disk.scene(scene);
    let relay = scene.start().await;
    // Some go through, so that several are under way when the disk fills up.
    relay.accept(&json!((0..40).map(|n| event(n, "issue-add")).collect::<Vec<_>>())).await;
    relay.idle().await;
    soar.hold.send_replace(Some("host-"));
    relay.accept(&json!((40..140).map(|n| event(n, "issue-add")).collect::<Vec<_>>())).await;
    eventually("several are under way", || soar.count(), |count| *count >= 44).await;
    let ballast = disk.seen().join("relay.ballast");
    assert!(std::fs::metadata(&ballast).unwrap().len() >= 1024 * 1024);

    disk.fill();
    let (taken, retry_after) = post_until_refused(&relay, 140).await;
    assert!(taken > 0, "some fit");
    assert!(retry_after.parse::<u64>().unwrap() > 0, "{retry_after}");
    until_full(&relay, true).await;
    relay.logs("is full: no events are taken in").await;
    assert!(relay.get("/readyz").await.contains("the disk is full"));
    assert!(relay.get("/metrics").await.contains("halo_relay_store_disk_full 1"));
    assert!(scene.cli_ok(&["status"]).await.contains("THE DISK IS FULL"));

    assert!(!ballast.exists(), "kept for nothing");

    // The answers to what is under way are recorded, and nothing else starts.
    let out = soar.count();
    soar.hold.send_replace(None);
    let started = Instant::now();
    while under_way(&relay).await > 0 {
        assert!(started.elapsed() < PATIENCE, "the answers are not recorded\n{}", relay.log());
        assert_eq!(relay.post(&event("refused", "issue-add")).await.0, 503);
    }
    assert_eq!(soar.count(), out, "an attempt was started on a full disk");
    let left = relay.status().await["deliveries"][0]["ready"].as_u64().unwrap();
    assert_eq!(usize::try_from(left).unwrap(), 140 + taken - out, "{}", relay.log());

    disk.clear();
    relay.ready().await;
    relay.accept(&event("last", "issue-add")).await;
    relay.idle().await;
    relay.logs("there is room on the disk again").await;
    assert!(relay.get("/metrics").await.contains("halo_relay_store_disk_full 0"));
    assert!(ballast.exists(), "not made anew");
    assert_eq!(soar.hosts().len(), 140 + taken + 1, "acknowledged and lost");
    assert_eq!(soar.count(), 140 + taken + 1, "sent twice");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_on_a_full_disk_it_starts_there_and_loses_nothing() {
    let soar = Receiver::start().await;
    let scene = Scene::new(&rules(&[("soar", &soar)]));
    let Some(disk) = Disk::mount(&scene.state(), "24m") else { return };
    let scene = disk.scene(scene);
    let relay = scene.start().await;
    soar.hold.send_replace(Some("host-"));
    relay.accept(&json!((0..20).map(|n| event(n, "issue-add")).collect::<Vec<_>>())).await;
    eventually("one is under way", || soar.count(), |count| *count >= 1).await;
    disk.fill();
    let (taken, _) = post_until_refused(&relay, 20).await;
    until_full(&relay, true).await;
    let out = soar.count();
    assert!(taken > 0 && out < 20 + taken, "something is left to start");
    relay.kill();

    let relay = scene.launch(&["run", "--log", "debug"]);
    relay.logs("is full: no events are taken in").await;
    eventually(
        "it serves",
        || relay.holder(),
        |holder| holder.as_ref().is_some_and(|it| it["pid"] == relay.id() && it["admin"].is_string()),
    )
    .await;
    soar.hold.send_replace(None);
    until_full(&relay, true).await;
    assert_eq!(relay.post(&event("refused", "issue-add")).await.0, 503);
    assert_eq!(soar.count(), out, "an attempt was started on a full disk");

    disk.clear();
    relay.ready().await;
    relay.idle().await;
    assert_eq!(soar.hosts().len(), 20 + taken, "acknowledged and lost");
    assert_eq!(soar.count(), 20 + taken + out, "only what was under way comes twice");
    assert!(soar.hosts().values().all(|ids| ids.len() == 1), "a repeat bears another id");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_disk_is_refused_at_the_start_and_loses_nothing() {
    let soar = Receiver::start().await;
    let scene = Scene::new(&rules(&[("soar", &soar)]));
    let Some(disk) = Disk::mount(&scene.state(), "24m") else { return };
    let scene = disk.scene(scene);
    let relay = scene.start().await;
    soar.hold.send_replace(Some("host-"));
    relay.accept(&json!((0..5).map(|n| event(n, "issue-add")).collect::<Vec<_>>())).await;
    relay.kill();
    disk.remount("ro");
    let mut relay = scene.launch(&["run"]);
    assert_eq!(relay.exited().await.code(), Some(4));
    relay.logs("Read-only file system").await;
    disk.remount("rw");
    soar.hold.send_replace(None);
    let relay = scene.start().await;
    relay.idle().await;
    assert_eq!(soar.hosts().len(), 5);
    relay.stop().await;
}

/// Builds the library that makes writing fail on order.
fn sick_disk(directory: &Path) -> PathBuf {
    let library = directory.join("sick_disk.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/relay/sick_disk.c");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).args([source, "-ldl"]).status();
    assert!(built.unwrap().success(), "cc, which also builds SQLite, must work");
    library
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_or_flushed_is_not_acknowledged_and_ends_the_process() {
    let directory = tempfile::TempDir::new().unwrap();
    let library = sick_disk(directory.path());
    // EROFS, as a file system gives that the kernel made read-only after an error of its own; EIO; EDQUOT.
    for order in ["write 30", "write 5", "sync 5", "write 122"] {
        let soar = Receiver::start().await;
        let orders = directory.path().join(order.replace(' ', "-"));
        let scene = Scene::new(&rules(&[("soar", &soar)]))
            .with("LD_PRELOAD", library.to_str().unwrap())
            .with("SICK_ORDERS", orders.to_str().unwrap());
        let mut relay = scene.start().await;
        relay.accept(&json!((0..20).map(|n| event(n, "issue-add")).collect::<Vec<_>>())).await;
        relay.idle().await;
        std::fs::write(&orders, order).unwrap();
        assert_eq!(relay.post(&event("refused", "issue-add")).await.0, 503, "{order}");
        assert_eq!(relay.exited().await.code(), Some(1), "{order}");
        relay.logs("the store can no longer be trusted: the store failed: disk I/O error").await;
        std::fs::remove_file(&orders).unwrap();
        let relay = scene.start().await;
        relay.accept(&event("after", "issue-add")).await;
        relay.idle().await;
        let hosts = soar.hosts();
        assert!((0..20).all(|n| hosts.contains_key(&format!("host-{n}"))), "{order}");
        assert!(hosts.contains_key("host-after"), "{order}");
        assert_eq!(soar.count(), hosts.len(), "{order}: sent twice");
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_even_for_answers_they_are_kept_until_there_is() {
    let directory = tempfile::TempDir::new().unwrap();
    let soar = Receiver::start().await;
    let orders = directory.path().join("orders");
    let scene = Scene::new(&rules(&[("soar", &soar)]))
        .with("LD_PRELOAD", sick_disk(directory.path()).to_str().unwrap())
        .with("SICK_ORDERS", orders.to_str().unwrap());
    let relay = scene.start().await;
    soar.hold.send_replace(Some("host-"));
    relay.accept(&json!((0..20).map(|n| event(n, "issue-add")).collect::<Vec<_>>())).await;
    eventually("one is under way", || soar.count(), |count| *count >= 1).await;
    // ENOSPC for every byte.
    std::fs::write(&orders, "write 28").unwrap();
    let (taken, _) = post_until_refused(&relay, 20).await;
    assert_eq!(taken, 0, "acknowledged without being written");
    until_full(&relay, true).await;
    let out = soar.count();
    soar.hold.send_replace(None);
    // The lane tries to record its answers each second, and the relay looks after the disk as often.
    let failed = |metrics: String| {
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("halo_relay_store_failed_commits ")).map(str::to_owned);
        line.unwrap().parse::<u64>().unwrap()
    };
    let started = Instant::now();
    while failed(relay.get("/metrics").await) < 4 {
        assert_eq!(relay.post(&event("refused", "issue-add")).await.0, 503);
        assert!(started.elapsed() < PATIENCE, "the answers are not tried again\n{}", relay.log());
    }
    assert_eq!(soar.count(), out, "an attempt was started on a full disk");
    std::fs::remove_file(&orders).unwrap();
    until_full(&relay, false).await;
    relay.idle().await;
    assert_eq!((soar.hosts().len(), soar.count()), (20, 20), "lost, or sent twice");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_connections_for_its_file_descriptors_cost_nothing_but_patience() {
    let soar = Receiver::start().await;
    let scene = Scene::new(&rules(&[("soar", &soar)])).through(&["prlimit", "--nofile=96:96", "--"]);
    let relay = scene.start().await;
    relay.logs("may have only 96 files open").await;
    let address = relay.holder().unwrap()["webhooks"][0].as_str().unwrap().to_owned();
    let mut crowd = Vec::new();
    for _ in 0..120 {
        crowd.push(TcpStream::connect(&address).await.unwrap());
    }
    // The rest of the relay has what it needs: it answers, commits and sends.
    let open = || std::fs::read_dir(format!("/proc/{}/fd", relay.id())).unwrap().count();
    eventually("its share is taken", open, |open| *open >= 24).await;
    relay.ready().await;
    assert!(open() < 90, "{} files are open", open());
    drop(crowd);
    relay.accept(&json!((0..20).map(|n| event(n, "issue-add")).collect::<Vec<_>>())).await;
    relay.idle().await;
    assert_eq!(soar.count(), 20);
    assert!(!relay.log().contains("cannot accept connections"), "{}", relay.log());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_kills_the_relay_each_time_is_set_aside() {
    let (soar, other) = (Receiver::start().await, Receiver::start().await);
    let scene = Scene::new(&rules(&[("soar", &soar), ("other", &other)]));
    soar.hold.send_replace(Some("host-poison"));
    let mut relay = scene.start().await;
    let mut events: Vec<_> = (0..6).map(|n| event(n, "issue-add")).collect();
    events.insert(3, event("poison", "issue-add"));
    relay.accept(&json!(events)).await;
    let poisoned = || soar.arrived.lock().unwrap().iter().filter(|(host, _)| host == "host-poison").count();
    for deaths in 1..=3 {
        eventually("the poison is on its way", poisoned, |count| *count == deaths).await;
        relay.kill();
        relay = scene.start().await;
    }
    relay.idle().await;
    assert_eq!(poisoned(), 3, "sent again after it was set aside");
    let dead: Value = serde_json::from_str(&scene.cli_ok(&["dead", "list", "--json"]).await).unwrap();
    assert_eq!(dead.as_array().unwrap().len(), 1, "{dead:#}");
    assert_eq!(dead[0]["destination"], "soar");
    assert!(dead[0]["reason"].as_str().unwrap().starts_with("quarantined"), "{dead:#}");
    assert_eq!(dead[0]["target"], "host-poison.example.org");
    assert_eq!((soar.hosts().len(), other.hosts().len()), (7, 7), "the others are delivered");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_met_at_work_ends_the_relay_once_and_the_next_start_says_what_to_do() {
    let soar = Receiver::start().await;
    let scene = Scene::new(&rules(&[("soar", &soar)]));
    soar.hold.send_replace(Some("host-"));
    let relay = scene.start().await;
    relay.accept(&json!((0..50).map(|n| event(n, "issue-add")).collect::<Vec<_>>())).await;
    eventually("one is under way", || soar.count(), |count| *count >= 1).await;
    relay.kill();
    let path = scene.state().join("relay.db");
    // All of it in the file, where it is damaged.
    let store = rusqlite::Connection::open(&path).unwrap();
    store.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(store);
    let mut bytes = std::fs::read(&path).unwrap();
    // Rows, and not where a start looks: on the way to the newest. A page of rows begins with 13.
    let holds = |page: &[u8], text: &[u8]| page.windows(text.len()).any(|words| words == text);
    let with_events = |page: &&mut [u8]| page[0] == 13 && holds(page, b"host-") && !holds(page, b"host-49");
    let hit = bytes.chunks_mut(4096).filter(with_events).map(|page| page.fill(0xa5)).count();
    assert!(hit > 0);
    std::fs::write(&path, bytes).unwrap();

    let sent = soar.count();
    let mut relay = scene.launch(&["run"]);
    assert_eq!(relay.exited().await.code(), Some(1));
    relay.logs("the store can no longer be trusted").await;
    for _ in 0..2 {
        let mut relay = scene.launch(&["run"]);
        assert_eq!(relay.exited().await.code(), Some(1));
        relay.logs("is damaged and the relay will not work on it").await;
        relay.logs(".recover").await;
    }
    assert_eq!(soar.count(), sent, "something was made of the damaged pages");
    // Started afresh, as it says.
    let aside = scene.state().join("damaged");
    std::fs::create_dir(&aside).unwrap();
    for name in ["relay.db", "relay.db-wal", "relay.db-shm"] {
        let _ = std::fs::rename(scene.state().join(name), aside.join(name));
    }
    soar.hold.send_replace(None);
    let relay = scene.start().await;
    relay.accept(&event("after", "issue-add")).await;
    relay.idle().await;
    assert!(soar.hosts().contains_key("host-after"));
    relay.stop().await;
}
