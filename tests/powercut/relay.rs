//! Runs the real binary under the shim: with a webhook input that several senders use at once, and a webhook destination.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::check::{Owed, Rows};
use crate::disk::{Disk, Image, is_on_disk};
use crate::http::{FakeHttp, Reply};
use crate::log::{self, Record};

/// How long a run waits for what must come.
const PATIENCE: Duration = Duration::from_mins(1);
const TOKEN: &str = "token-e1f0c2";

/// One run of the relay, from its start to its orderly end.
pub(crate) struct Recording {
    /// The files it began with.
    pub(crate) start: Image,
    pub(crate) log: Vec<Record>,
    /// What it had told others at which position of the log, in order.
    pub(crate) told: Vec<(usize, Told)>,
    /// Events that were offered in one request and in no other: all of them are there or none.
    pub(crate) groups: Vec<Vec<String>>,
    /// The ids under which each event was delivered in this run.
    pub(crate) arrived: BTreeMap<String, Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// To a sender: these events are safe.
    Acknowledged(Vec<String>),
    /// To the destination: this event happened.
    Posted(String),
}

/// What the senders do.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) senders: usize,
    /// Of each sender.
    pub(crate) requests: usize,
    /// Every so many requests, all senders offer the same event at once.
    pub(crate) shared_every: usize,
}

/// Requests that one sender made on its connection, in order.
struct Sent {
    port: u16,
    requests: Vec<Vec<String>>,
}

/// Where runs happen: in memory where that can be had, for no disk keeps up with thousands of cuts.
pub(crate) struct Place {
    directory: TempDir,
    shim: PathBuf,
    runs: usize,
}

impl Place {
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        builder.prefix("halo-relay-power-cut-");
        let directory =
            if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }.expect("a scratch directory");
        let shim = directory.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/powercut/shim.c");
        let built = Command::new("cc")
            .args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread", "-o"])
            .args([&shim, &source])
            .arg("-ldl")
            .status();
        assert!(built.expect("a C compiler: SQLite needs one too").success(), "the shim does not compile");
        Self { directory, shim, runs: 0 }
    }

    /// A new directory with these files.
    pub(crate) fn lay_out(&mut self, image: &Image) -> PathBuf {
        self.runs += 1;
        // The shim compares paths as text.
        let directory = self.directory.path().canonicalize().unwrap().join(format!("run-{}", self.runs)).join("state");
        std::fs::create_dir_all(&directory).unwrap();
        for (name, content) in image {
            std::fs::write(directory.join(name), content).unwrap();
        }
        directory
    }

    /// Deletes what [`lay_out`](Self::lay_out) made, and all beside it.
    pub(crate) fn clear(state: &Path) {
        let started = Instant::now();
        // A store that was opened here may still be checked beside its work, by a thread that makes SQLite's own files.
        while let Err(error) = std::fs::remove_dir_all(state.parent().unwrap()) {
            let passes = matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::NotFound);
            assert!(passes && started.elapsed() < PATIENCE, "{error}");
            if !state.parent().unwrap().exists() {
                return;
            }
        }
    }

    /// Starts the relay on these files, loads it, waits until all that was owed and all that is new has arrived, and stops
    /// it. The second value says what is wrong with that.
    pub(crate) async fn record(&mut self, start: Image, load: Load, seed: u64) -> (Recording, Vec<String>) {
        let state = self.lay_out(&start);
        let rows = Rows::read(&state);
        // Looking must not change what the relay will find.
        Self::clear(&state);
        let state = self.lay_out(&start);
        let mut sink = FakeHttp::start(Reply::text(200, "ok")).await;
        let mut relay = Relay::start(&state, &self.shim, &sink);
        let sent = offer(relay.ready().await, load, self.runs, seed).await;
        let offered = sent.iter().flat_map(|sent| sent.requests.iter().flatten().cloned());
        let mut wanted: BTreeSet<String> = offered.collect();
        let mut wrong = Vec::new();
        match &rows {
            Ok(rows) => {
                let owed = rows.events.iter().filter(|row| row.is(Owed::ToBeSent));
                wanted.extend(owed.map(|row| row.id.clone()));
            }
            Err(error) => wrong.push(format!("the files cannot be read: {error}")),
        }
        let mut arrived = BTreeMap::new();
        if !drained(&mut sink, &wanted, &mut arrived).await {
            let missing = wanted.iter().filter(|id| !arrived.contains_key(*id)).take(5).collect::<Vec<_>>();
            wrong.push(format!("never arrived: {missing:?}…\n{}", relay.said()));
        }
        wrong.extend(relay.stop());
        while let Some((id, delivery)) = next(&mut sink) {
            arrived.entry(id).or_default().push(delivery);
        }
        for (id, deliveries) in &arrived {
            if !wanted.contains(id) || deliveries.len() > 1 {
                wrong.push(format!("sent without need: {id} as {deliveries:?}"));
            }
        }
        let log = log::read(&relay.log);
        let told = told(&log, &sent, &arrived);
        prove_complete(&start, &log, &state);
        match Rows::read(&state) {
            Ok(rows) => {
                let left = rows.events.iter().filter(|row| !row.is(Owed::Nothing)).count();
                if left > 0 {
                    wrong.push(format!("{left} events are still owed at the end"));
                }
            }
            Err(error) => wrong.push(format!("the files cannot be read at the end: {error}")),
        }
        Self::clear(&state);
        (Recording { start, log, told, groups: groups(&sent), arrived }, wrong)
    }
}

/// The running binary. Killed when dropped.
struct Relay {
    child: Child,
    state: PathBuf,
    log: PathBuf,
    errors: PathBuf,
}

impl Relay {
    fn start(state: &Path, shim: &Path, sink: &FakeHttp) -> Self {
        let beside = |name: &str| state.parent().unwrap().join(name);
        let rules = format!(
            "sources:
  push: {{ type: webhook, listen: '127.0.0.1:0', path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  sink: {{ type: webhook, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [sink] }}
unrouted: {{ drop: nothing else is expected }}
",
            sink.url("/sink")
        );
        std::fs::write(beside("rules.yaml"), rules).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_halo-relay"));
        command.arg("run").arg("--config").arg(beside("rules.yaml")).arg("--state-dir").arg(state);
        command.env_clear().env("TOKEN", TOKEN).env("LD_PRELOAD", shim);
        command.env("POWERCUT_ROOT", state).env("POWERCUT_LOG", beside("log"));
        let errors = std::fs::File::create(beside("errors")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
        Self { child, state: state.to_owned(), log: beside("log"), errors: beside("errors") }
    }

    /// Waits until it takes events, and says where.
    async fn ready(&mut self) -> SocketAddr {
        let started = Instant::now();
        loop {
            let holder = std::fs::read(self.state.join("relay.json")).unwrap_or_default();
            let holder: Value = serde_json::from_slice(&holder).unwrap_or_default();
            if holder["pid"] == self.child.id()
                && let Some(address) = holder["webhooks"][0].as_str()
            {
                return address.parse().unwrap();
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "the relay did not get ready ({ended:?}):\n{}",
                self.said()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops it as the service manager does; says so if it does not end well.
    fn stop(&mut self) -> Option<String> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        (!status.success()).then(|| format!("the relay ended with {status}:\n{}", self.said()))
    }

    fn said(&self) -> String {
        let mut said = String::new();
        let _ = std::fs::File::open(&self.errors).and_then(|mut file| file.read_to_string(&mut said));
        said
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Single events and lists, from all senders at once; now and then all of them offer the same event at the same time.
async fn offer(to: SocketAddr, load: Load, run: usize, seed: u64) -> Vec<Sent> {
    let together = Arc::new(Barrier::new(load.senders));
    let mut senders = JoinSet::new();
    for sender in 0..load.senders {
        let together = Arc::clone(&together);
        let mut random = fastrand::Rng::with_seed(seed ^ sender as u64);
        senders.spawn(async move {
            let mut connection = BufReader::new(TcpStream::connect(to).await.unwrap());
            let port = connection.get_ref().local_addr().unwrap().port();
            let mut requests = Vec::new();
            for request in 0..load.requests {
                let count = if random.u8(0..3) == 0 { random.usize(2..=6) } else { 1 };
                let mut ids: Vec<_> = (0..count).map(|nth| format!("{run}-{sender}-{request}-{nth}")).collect();
                if request % load.shared_every == load.shared_every - 1 {
                    ids.push(shared(run, request));
                    together.wait().await;
                }
                post(&mut connection, &ids).await;
                requests.push(ids);
            }
            Sent { port, requests }
        });
    }
    tokio::time::timeout(PATIENCE, senders.join_all()).await.expect("the events are not taken in time")
}

fn shared(run: usize, request: usize) -> String {
    format!("{run}-shared-{request}")
}

/// What one request brought, without the events that others brought too.
fn groups(sent: &[Sent]) -> Vec<Vec<String>> {
    let own = |ids: &Vec<String>| ids.iter().filter(|id| !id.contains("shared")).cloned().collect::<Vec<_>>();
    sent.iter().flat_map(|sent| &sent.requests).map(own).filter(|ids| ids.len() > 1).collect()
}

/// Posts events and reads the answer, which must be 202. The connection stays open: the shim tells senders by their port.
async fn post(connection: &mut BufReader<TcpStream>, ids: &[String]) {
    let event = |id: &String| {
        json!({"event_id": id, "key": "issue-add", "subject": "Subject", "target": "host.example.org",
            "date_created": "2026-11-23 09:41", "url": "https://app.halosecurity.com/link?q=user-event"})
    };
    let events: Vec<_> = ids.iter().map(event).collect();
    let body = if let [event] = &*events { event.to_string() } else { json!(events).to_string() };
    let head = format!(
        "POST /hooks/halo HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.get_mut().write_all([head.as_bytes(), body.as_bytes()].concat().as_slice()).await.unwrap();
    let mut line = String::new();
    connection.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("HTTP/1.1 202 "), "the relay answers {line:?}");
    let mut length = 0;
    while line != "\r\n" {
        line.clear();
        assert!(connection.read_line(&mut line).await.unwrap() > 0, "the answer breaks off");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    connection.read_exact(&mut vec![0; length]).await.unwrap();
}

/// The event and the delivery's id of the next request, if one has come.
fn next(sink: &mut FakeHttp) -> Option<(String, String)> {
    let request = sink.try_request()?;
    let body = request.json();
    let event = body["data"]["event_id"].as_str().unwrap_or_else(|| panic!("no event_id in {body:#}"));
    Some((event.to_owned(), request.header("webhook-id").expect("a delivery has an id").to_owned()))
}

/// Waits until all that is wanted has arrived.
async fn drained(sink: &mut FakeHttp, wanted: &BTreeSet<String>, arrived: &mut BTreeMap<String, Vec<String>>) -> bool {
    let started = Instant::now();
    loop {
        while let Some((id, delivery)) = next(sink) {
            arrived.entry(id).or_default().push(delivery);
        }
        if wanted.iter().all(|id| arrived.contains_key(id)) {
            return true;
        }
        if started.elapsed() > PATIENCE {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the log says was told to others. The nth answer on a connection is to the nth request on it.
fn told(log: &[Record], sent: &[Sent], arrived: &BTreeMap<String, Vec<String>>) -> Vec<(usize, Told)> {
    let mut waiting: BTreeMap<u16, _> = sent.iter().map(|sent| (sent.port, sent.requests.iter())).collect();
    let events: BTreeMap<&str, &str> =
        arrived.iter().flat_map(|(event, ids)| ids.iter().map(move |id| (id.as_str(), event.as_str()))).collect();
    let mut told = Vec::new();
    for (position, record) in log.iter().enumerate() {
        let Record::Sent { port, head } = record else { continue };
        if let Some(requests) = waiting.get_mut(port) {
            assert!(head.starts_with("HTTP/1.1 202 "), "an answer to a sender is {head:?}");
            let ids = requests.next().expect("an answer without a request");
            told.push((position, Told::Acknowledged(ids.clone())));
        } else if head.starts_with("POST /sink ") {
            let id = head.lines().find_map(|line| line.strip_prefix("webhook-id: ")).expect("a delivery has an id");
            // One that left and did not arrive was cut off by the end of the run.
            told.extend(events.get(id).map(|event| (position, Told::Posted((*event).to_owned()))));
        }
    }
    assert!(waiting.values_mut().all(|requests| requests.next().is_none()), "the log lacks answers that were received");
    let posted = told.iter().filter(|(_, told)| matches!(told, Told::Posted(_))).count();
    assert_eq!(posted, arrived.values().map(Vec::len).sum::<usize>(), "the log lacks deliveries that arrived");
    told
}

/// The log explains the files to the last byte: no call has escaped the shim.
fn prove_complete(start: &Image, log: &[Record], state: &Path) {
    let mut disk = Disk::new(start, log);
    disk.advance(log.len());
    let replayed = disk.after_cut(crate::disk::Loss::Nothing, &mut fastrand::Rng::with_seed(0));
    let mut real = Image::new();
    for entry in std::fs::read_dir(state).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if is_on_disk(&name) {
            real.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    assert_eq!(
        replayed.keys().collect::<Vec<_>>(),
        real.keys().collect::<Vec<_>>(),
        "the log does not explain the files"
    );
    for (name, content) in &real {
        assert!(replayed[name] == *content, "the log does not explain the content of {name}");
    }
}
