//! A storm of events on the relay as a whole, beside what this machine can do: `cargo bench --bench storm`.
//!
//! A million events (`EVENTS=…` for another number) are posted in arrays of 100 while their destination takes nothing, so
//! that all of them wait; then the relay is killed and started again with that backlog. A second run has limits, so that the
//! backlog is told by digests. Memory is the most the process ever had (`VmHWM`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark may panic and tell"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CONNECTIONS: usize = 16;
const ARRAY: usize = 100;
const TOKEN: &str = "bench-token-0123456789";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let events: usize = std::env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let sink = Sink::start().await;
    println!("the machine's own limits");
    println!("  fdatasync of 4 KiB                     {:>9.3} ms median", fdatasync().as_secs_f64() * 1e3);
    let straight = post_all(sink.address, "/x", "raw", events.min(200_000)).await;
    println!("  the same arrays to a receiver that only reads {:>9.0} events/s", rate(events.min(200_000), straight));

    println!("{events} events while their destination is down");
    sink.open(false);
    let scene = Scene::new(&sink, "");
    let relay = scene.start();
    let took = post_all(relay.webhook().await, "/hooks/halo", "storm", events).await;
    println!("  accepted, each after an fsync          {:>9.0} /s", rate(events, took));
    relay.tell(&scene);
    drop(relay);
    for round in ["the backlog", "the backlog, again"] {
        relay_killed_and_started(&scene, &sink, round).await;
    }

    println!("{events} events for a destination with limits (20/1s, digests after 10 s)");
    drop(scene);
    sink.open(true);
    let scene = Scene::new(&sink, ", limit: 20/1s, digest_after: 10s");
    let relay = scene.start();
    let started = Instant::now();
    let took = post_all(relay.webhook().await, "/hooks/halo", "limited", events).await;
    println!("  accepted, each after an fsync          {:>9.0} /s", rate(events, took));
    relay.tell(&scene);
    let before = sink.count();
    relay.drained(events).await;
    println!(
        "  all told, in {:>4} messages after        {:>9.1} s",
        sink.count() - before,
        started.elapsed().as_secs_f64()
    );
    relay.tell(&scene);
}

/// Starts the relay on a backlog after a kill, lets some of it out, and kills it again.
async fn relay_killed_and_started(scene: &Scene, sink: &Sink, what: &str) {
    sink.open(true);
    let before = sink.count();
    let started = Instant::now();
    let relay = scene.start();
    relay.webhook().await;
    let ready = started.elapsed();
    sink.reached(before + 1).await;
    let first = started.elapsed();
    sink.reached(before + 10_000).await;
    println!("  with {what}: ready after {:.0} ms, first attempt after {:.0} ms", millis(ready), millis(first));
    println!("  10,000 of it sent in                   {:>9.1} s", started.elapsed().as_secs_f64());
    relay.tell(scene);
    sink.open(false);
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn rate(count: usize, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

fn target() -> PathBuf {
    std::env::current_dir().unwrap().join("target")
}

fn fdatasync() -> Duration {
    let directory = tempfile::tempdir_in(target()).unwrap();
    let mut file = File::create(directory.path().join("probe")).unwrap();
    let mut spans: Vec<_> = (0..200)
        .map(|_| {
            file.write_all(&[7; 4096]).unwrap();
            let started = Instant::now();
            file.sync_data().unwrap();
            started.elapsed()
        })
        .collect();
    spans.sort_unstable();
    spans[100]
}

/// Posts `events` in arrays over kept connections, each waiting for its answer.
async fn post_all(address: SocketAddr, path: &'static str, run: &'static str, events: usize) -> Duration {
    let started = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..CONNECTIONS {
        senders.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut answer = vec![0; 4096];
            for array in (sender..events / ARRAY).step_by(CONNECTIONS) {
                let list: Vec<_> = (0..ARRAY).map(|n| event(run, array * ARRAY + n)).collect();
                let body = format!("[{}]", list.join(","));
                let request = format!(
                    "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut filled = 0;
                while whole(&answer[..filled]).is_none_or(|whole| filled < whole) {
                    let read = stream.read(&mut answer[filled..]).await.unwrap();
                    assert!(read > 0, "the connection was closed");
                    filled += read;
                }
                let said = String::from_utf8_lossy(&answer[..filled]);
                assert!(said.starts_with("HTTP/1.1 202") || said.starts_with("HTTP/1.1 204"), "{said}");
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
    started.elapsed()
}

fn event(run: &str, number: usize) -> String {
    format!(
        "{{\"event_id\":\"{run}-{number:08}\",\"key\":\"website-form-oos\",\"subject\":\"Website Form Out-of-Scope\",\
         \"date_created\":\"2026-11-23 09:41\",\"target\":\"www{}.example.org\",\"host\":\"forms.example.net\",\
         \"form_action\":\"login\",\"form_method\":\"post\"}}",
        number % 1000
    )
}

/// The length of the HTTP message that this text begins with, once its head is there.
fn whole(text: &[u8]) -> Option<usize> {
    let end = text.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&text[..end]).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    Some(end + 4 + length.map_or(0, |length| length.trim().parse().unwrap()))
}

/// Takes every POST while it is open, and answers 503 while it is not.
struct Sink {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
    open: Arc<AtomicBool>,
}

impl Sink {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let sink = Self { address, count: Arc::clone(&count), open: Arc::clone(&open) };
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (count, open) = (Arc::clone(&count), Arc::clone(&open));
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let mut buffer = vec![0; 256 * 1024];
                    let mut filled = 0;
                    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
                        filled += read;
                        let Some(whole) = whole(&buffer[..filled]).filter(|whole| filled >= *whole) else { continue };
                        let open = open.load(Ordering::Relaxed);
                        count.fetch_add(usize::from(open), Ordering::Relaxed);
                        let status = if open { "204 No Content" } else { "503 Down\r\ncontent-length: 0" };
                        if stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.is_err() {
                            return;
                        }
                        buffer.copy_within(whole..filled, 0);
                        filled -= whole;
                    }
                });
            }
        });
        sink
    }

    fn open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    async fn reached(&self, wanted: usize) {
        let started = Instant::now();
        while self.count() < wanted {
            assert!(started.elapsed() < Duration::from_mins(5), "only {} of {wanted} arrived", self.count());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The rules and the state, which outlive the process.
struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new(sink: &Sink, more: &str) -> Self {
        let directory = tempfile::tempdir_in(target()).unwrap();
        let rules = format!(
            "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  sink: {{ type: webhook, url: 'http://{}/x'{more} }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [sink] }}
unrouted: {{ drop: nothing else comes }}
",
            sink.address
        );
        std::fs::write(directory.path().join("rules.yaml"), rules).unwrap();
        Self { directory }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn start(&self) -> Relay {
        let child = Command::new(env!("CARGO_BIN_EXE_halo-relay"))
            .args(["run", "--log", "error", "--config"])
            .arg(self.directory.path().join("rules.yaml"))
            .arg("--state-dir")
            .arg(self.state())
            .env("TOKEN", TOKEN)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let log_bytes = Arc::new(AtomicU64::new(0));
        let (log, most) = (self.state().join("relay.db-wal"), Arc::downgrade(&log_bytes));
        tokio::spawn(async move {
            while let Some(most) = most.upgrade() {
                most.fetch_max(std::fs::metadata(&log).map_or(0, |log| log.len()), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Relay { child, state: self.state(), log_bytes }
    }
}

/// A running relay, killed when dropped.
struct Relay {
    child: Child,
    state: PathBuf,
    /// The most that the store's log ever had.
    log_bytes: Arc<AtomicU64>,
}

impl Relay {
    fn holder(&self) -> Option<serde_json::Value> {
        let holder: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(self.state.join("relay.json")).ok()?).ok()?;
        (holder["pid"] == self.child.id()).then_some(holder)
    }

    /// Its address, once it is ready.
    async fn webhook(&self) -> SocketAddr {
        loop {
            if let Some(holder) = self.holder()
                && self.get("/readyz").is_some()
            {
                return holder["webhooks"][0].as_str().unwrap().parse().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What the admin listener answers, if that is 200.
    fn get(&self, path: &str) -> Option<String> {
        let holder = self.holder()?;
        let admin = holder["admin"].as_str()?;
        let mut stream = std::net::TcpStream::connect(admin).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then(|| answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// Waits until all events are delivered, alone or by digests.
    async fn drained(&self, events: usize) {
        let started = Instant::now();
        let mut told = Duration::ZERO;
        loop {
            let status: serde_json::Value = serde_json::from_str(&self.get("/api/v1/status").unwrap()).unwrap();
            let counts = &status["deliveries"][0];
            let owed = counts["ready"].as_u64().unwrap() + counts["sending"].as_u64().unwrap();
            if owed == 0 {
                assert!(counts["delivered"].as_u64().unwrap() + counts["folded"].as_u64().unwrap() >= events as u64);
                println!("  told by digests                        {:>9}", counts["folded"]);
                return;
            }
            if started.elapsed() > told + Duration::from_secs(10) {
                told = started.elapsed();
                println!(
                    "    after {:.0} s: ready {}, folded {}, delivered {}",
                    told.as_secs_f64(),
                    counts["ready"],
                    counts["folded"],
                    counts["delivered"]
                );
            }
            assert!(started.elapsed() < Duration::from_mins(15), "still owed: {counts}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn tell(&self, scene: &Scene) {
        let size = |name: &str| std::fs::metadata(scene.state().join(name)).map_or(0, |file| file.len()) as f64 / 1e6;
        let started = Instant::now();
        let status = self.get("/api/v1/status").map_or(0, |status| status.len());
        println!(
            "  memory at most {:.0} MB; store {:.0} MB, its log at most {:.0} MB; status ({status} bytes) in {:.0} ms",
            self.memory_mb(),
            size("relay.db"),
            self.log_bytes.load(Ordering::Relaxed) as f64 / 1e6,
            millis(started.elapsed()),
        );
    }

    /// At most, since its start.
    fn memory_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
