//! The relay as a whole, beside what this machine can do at all, in one run: `cargo bench --bench relay`.
//!
//! The load generator and the receiver are as thin as they can be (plain sockets, no HTTP library) and run on the same
//! cores. Numbers of shared machines vary; the ratios are what to compare.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark may panic and tell"
)]

use std::fs::File;
use std::io::{Seek, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CONNECTIONS: usize = 16;
const TOKEN: &str = "bench-token-0123456789";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let events: usize = std::env::var("EVENTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    println!("the machine's own limits");
    let sync = fdatasync();
    println!("  fdatasync of 4 KiB                     {:>9.3} ms median", millis(sync));
    let sink = Sink::start().await;
    let raw = post_all(sink.address, "/x", events, 1).await;
    println!("  POST straight to the receiver          {:>9.0} /s over {CONNECTIONS} connections", rate(events, raw));

    println!("at rest");
    let started = Instant::now();
    let relay = Relay::start("send: [sink]", sink.address).await;
    println!("  from start to ready, new store         {:>9.0} ms", millis(started.elapsed()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("  memory, idle                           {:>9.1} MB", relay.memory_mb());
    relay.stop();

    println!("intake only (a rule drops everything)");
    let relay = Relay::start("drop: \"bench\"", sink.address).await;
    let single = post_all(relay.webhook, "/hooks/halo", events, 1).await;
    println!(
        "  one event a POST                       {:>9.0} /s  {:.2} of raw",
        rate(events, single),
        ratio(raw, single)
    );
    let batched = post_all(relay.webhook, "/hooks/halo", events * 5, 100).await;
    println!("  100 events a POST                      {:>9.0} /s", rate(events * 5, batched));
    relay.stop();

    println!("end to end, one event a POST in, one a POST out");
    let relay = Relay::start("send: [sink]", sink.address).await;
    let before = sink.count();
    let cpu = relay.cpu();
    let started = Instant::now();
    let took = post_all(relay.webhook, "/hooks/halo", events, 1).await;
    sink.reached(before + events).await;
    let whole = started.elapsed();
    println!("  accepted                               {:>9.0} /s", rate(events, took));
    println!(
        "  delivered                              {:>9.0} /s  {:.2} of raw",
        rate(events, whole),
        ratio(raw, whole)
    );
    println!(
        "  relay CPU                              {:>9.1} s per 100,000",
        (relay.cpu() - cpu) * 1e5 / events as f64
    );
    println!("  memory after                           {:>9.1} MB", relay.memory_mb());

    println!("at 10 a second, between them at the same pace what the machine takes for its part");
    let Pace { delivered, synced, posted } = pace(&relay, &sink, 200).await;
    let line = |what: &str, [p50, p99]: [Duration; 2]| {
        println!("  {what:<38} {:>9.2} ms p50 {:>9.2} ms p99", millis(p50), millis(p99));
    };
    line("POST straight to the receiver", posted);
    line("fdatasync of 32 KiB", synced);
    line("POST to delivered", delivered);
    println!("  POST to delivered without the sync     {:>9.2} ms p50", millis(delivered[0].saturating_sub(synced[0])));
    relay.stop();
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn rate(count: usize, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

fn ratio(reference: Duration, span: Duration) -> f64 {
    reference.as_secs_f64() / span.as_secs_f64()
}

fn fdatasync() -> Duration {
    let directory = tempfile::tempdir_in(std::env::current_dir().unwrap().join("target")).unwrap();
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

/// Posts `events` in bodies of `batch`, over kept connections, each waiting for its answer.
async fn post_all(address: SocketAddr, path: &str, events: usize, batch: usize) -> Duration {
    static RUN: AtomicUsize = AtomicUsize::new(0);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let started = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..CONNECTIONS {
        let path = path.to_owned();
        senders.spawn(async move {
            let mut client = Client::connect(address, path).await;
            let posts = events / batch;
            for post in (sender..posts).step_by(CONNECTIONS) {
                let list: Vec<_> = (0..batch).map(|n| event(run, post * batch + n)).collect();
                let body = if batch == 1 { list.concat() } else { format!("[{}]", list.join(",")) };
                client.post(&body).await;
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
    started.elapsed()
}

fn event(run: usize, number: usize) -> String {
    format!(
        "{{\"event_id\":\"bench-{run}-{number:08}\",\"key\":\"website-form-oos\",\"subject\":\"Website Form Out-of-Scope\",\
         \"date_created\":\"2026-11-23 09:41\",\"target\":\"www{}.example.org\",\"host\":\"forms.example.net\",\
         \"form_action\":\"login\",\"form_method\":\"post\"}}",
        number % 1000
    )
}

struct Client {
    stream: TcpStream,
    head: String,
    buffer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr, path: String) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: ");
        Self { stream, head, buffer: vec![0; 4096] }
    }

    async fn post(&mut self, body: &str) {
        let request = format!("{}{}\r\n\r\n{body}", self.head, body.len());
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await.unwrap();
            assert!(read > 0, "the connection was closed");
            filled += read;
            let answer = &self.buffer[..filled];
            if let Some(end) = find(answer, b"\r\n\r\n")
                && filled >= end + 4 + content_length(&answer[..end])
            {
                assert!(
                    answer.starts_with(b"HTTP/1.1 202") || answer.starts_with(b"HTTP/1.1 204"),
                    "{}",
                    String::from_utf8_lossy(answer)
                );
                return;
            }
        }
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn content_length(head: &[u8]) -> usize {
    let head = std::str::from_utf8(head).unwrap();
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-length:"));
    line.map_or(0, |line| line[15..].trim().parse().unwrap())
}

/// Answers every POST with 204 and counts it.
struct Sink {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
    /// When the last one came.
    last: Arc<Mutex<Instant>>,
}

impl Sink {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let last = Arc::new(Mutex::new(Instant::now()));
        let sink = Self { address, count: Arc::clone(&count), last: Arc::clone(&last) };
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (count, last) = (Arc::clone(&count), Arc::clone(&last));
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let mut buffer = vec![0; 64 * 1024];
                    let mut filled = 0;
                    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
                        filled += read;
                        while let Some(end) = find(&buffer[..filled], b"\r\n\r\n") {
                            let whole = end + 4 + content_length(&buffer[..end]);
                            if filled < whole {
                                break;
                            }
                            *last.lock().unwrap() = Instant::now();
                            count.fetch_add(1, Ordering::Release);
                            if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
                                return;
                            }
                            buffer.copy_within(whole..filled, 0);
                            filled -= whole;
                        }
                    }
                });
            }
        });
        sink
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    async fn reached(&self, wanted: usize) {
        let started = Instant::now();
        while self.count() < wanted {
            assert!(started.elapsed() < Duration::from_mins(5), "only {} of {wanted} arrived", self.count());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Median and 99th percentile of what was measured at a slow pace: a disk and cores that have just rested take longer than
/// busy ones.
struct Pace {
    /// From the first byte of a POST to the relay until the receiver has the message.
    delivered: [Duration; 2],
    /// As much as the relay writes for an event, on the same file system.
    synced: [Duration; 2],
    /// The same without a relay.
    posted: [Duration; 2],
}

async fn pace(relay: &Relay, sink: &Sink, count: usize) -> Pace {
    let mut client = Client::connect(relay.webhook, "/hooks/halo".to_owned()).await;
    let mut straight = Client::connect(sink.address, "/x".to_owned()).await;
    let mut file = Overwritten::new(relay.directory.path());
    let [mut delivered, mut synced, mut posted] = [const { Vec::new() }; 3];
    for number in 0..count {
        let started = sent(&mut client, sink, number).await;
        delivered.push(sink.last.lock().unwrap().duration_since(started));
        rest(started).await;
        let started = sent(&mut straight, sink, number).await;
        posted.push(sink.last.lock().unwrap().duration_since(started));
        let (started, span) = file.synced();
        synced.push(span);
        rest(started).await;
    }
    let [delivered, synced, posted] = [delivered, synced, posted].map(|mut spans| {
        spans.sort_unstable();
        [50, 99].map(|percent| spans[(spans.len() - 1) * percent / 100])
    });
    Pace { delivered, synced, posted }
}

/// Like the store's log: written over and over.
struct Overwritten(File);

impl Overwritten {
    const BYTES: usize = 4 * 1024 * 1024;
    const PIECE: usize = 32 * 1024;

    fn new(directory: &Path) -> Self {
        let mut file = File::create(directory.join("probe")).unwrap();
        file.write_all(&vec![0; Self::BYTES]).unwrap();
        file.sync_all().unwrap();
        file.rewind().unwrap();
        Self(file)
    }

    /// When a sync of the next piece began, and how long it took.
    fn synced(&mut self) -> (Instant, Duration) {
        if self.0.stream_position().unwrap() >= Self::BYTES as u64 {
            self.0.rewind().unwrap();
        }
        self.0.write_all(&vec![7; Self::PIECE]).unwrap();
        let started = Instant::now();
        self.0.sync_data().unwrap();
        (started, started.elapsed())
    }
}

/// Returns when the sending began, once the message has arrived.
async fn sent(client: &mut Client, sink: &Sink, number: usize) -> Instant {
    let before = sink.count();
    let started = Instant::now();
    client.post(&event(999, number)).await;
    // Looking now and then leaves the machine to those who work on it.
    sink.reached(before + 1).await;
    started
}

/// Half of the time between two events.
async fn rest(since: Instant) {
    tokio::time::sleep(Duration::from_millis(50).saturating_sub(since.elapsed())).await;
}

struct Relay {
    child: Child,
    webhook: SocketAddr,
    directory: tempfile::TempDir,
}

impl Relay {
    async fn start(action: &str, sink: SocketAddr) -> Self {
        let directory = tempfile::tempdir_in(std::env::current_dir().unwrap().join("target")).unwrap();
        let rules = format!(
            "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  sink: {{ type: webhook, url: 'http://{sink}/x' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, {action} }}
unrouted: {{ drop: nothing else comes }}
"
        );
        let path = directory.path().join("rules.yaml");
        std::fs::write(&path, rules).unwrap();
        let state = directory.path().join("state");
        let child = Command::new(env!("CARGO_BIN_EXE_halo-relay"))
            .args(["run", "--log", "warn", "--config"])
            .arg(&path)
            .arg("--state-dir")
            .arg(&state)
            .env("TOKEN", TOKEN)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let webhook = loop {
            let holder = std::fs::read_to_string(state.join("relay.json")).unwrap_or_default();
            let holder: serde_json::Value = serde_json::from_str(&holder).unwrap_or_default();
            if let Some(address) = holder["webhooks"][0].as_str() {
                break address.parse().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        Self { child, webhook, directory }
    }

    /// User and system seconds so far (fields 14 and 15 of `/proc/PID/stat`, in ticks of 10 ms).
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    fn memory_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }

    fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
