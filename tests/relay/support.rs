//! The relay under test: the built binary on a rules file of the test's, with a state directory that outlives restarts.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// The webhook token of every story.
pub(crate) const TOKEN: &str = "token-e1f0c2";

/// What stays when the relay is killed: its files and its environment.
pub(crate) struct Scene {
    directory: TempDir,
    environment: BTreeMap<String, String>,
    /// What the relay is started by: a program that sets limits, or enters a namespace.
    through: Vec<String>,
    /// Where this process finds the state directory, if not where the relay does.
    seen: Option<PathBuf>,
}

impl Scene {
    pub(crate) fn new(rules: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let scene = Self { directory, environment: BTreeMap::new(), through: Vec::new(), seen: None };
        scene.write_rules(rules);
        scene.with("TOKEN", TOKEN)
    }

    /// Sets an environment variable for all that is started here.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// Starts the relay and its commands by this program.
    pub(crate) fn through(mut self, program: &[&str]) -> Self {
        self.through = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Looks for the state directory here instead.
    pub(crate) fn seen_at(mut self, state: PathBuf) -> Self {
        self.seen = Some(state);
        self
    }

    pub(crate) fn write_rules(&self, rules: &str) {
        std::fs::write(self.rules(), rules).unwrap();
    }

    pub(crate) fn rules(&self) -> PathBuf {
        self.directory.path().join("rules.yaml")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let relay = env!("CARGO_BIN_EXE_halo-relay");
        let mut words = self.through.iter().map(String::as_str).chain([relay]);
        let mut command = Command::new(words.next().unwrap_or(relay));
        command.args(words).args(arguments).env_clear().envs(&self.environment);
        command.arg("--config").arg(self.rules()).arg("--state-dir").arg(self.state());
        command
    }

    /// Runs a command of the relay's to its end.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// The same, for one that must succeed; its standard output.
    pub(crate) async fn cli_ok(&self, arguments: &[&str]) -> String {
        let output = self.cli(arguments).await;
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// Starts the relay and waits until it is ready.
    pub(crate) async fn start(&self) -> Relay {
        let relay = self.launch(&["run", "--log", "debug"]);
        relay.ready().await;
        relay
    }

    /// What the relay that was launched last has printed.
    pub(crate) fn printed(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("printed")).unwrap()
    }

    /// Starts the relay and does not wait.
    pub(crate) fn launch(&self, arguments: &[&str]) -> Relay {
        let printed = std::fs::File::create(self.directory.path().join("printed")).unwrap();
        let mut child =
            self.command(arguments).stdin(Stdio::null()).stdout(printed).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let copy = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = copy.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let state = self.seen.clone().unwrap_or_else(|| self.state());
        Relay { child, log, state, client: client() }
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

/// A running relay. Killed when dropped.
pub(crate) struct Relay {
    child: Child,
    log: Arc<Mutex<String>>,
    state: PathBuf,
    client: reqwest::Client,
}

impl Relay {
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) async fn logs(&self, words: &str) {
        eventually(&format!("the log says {words:?}"), || self.log(), |log| log.contains(words)).await;
    }

    pub(crate) async fn ready(&self) {
        let started = Instant::now();
        loop {
            if let Some(holder) = self.holder()
                && let Some(admin) = holder["admin"].as_str()
                && holder["pid"] == self.child.id()
                && let Ok(answer) = self.client.get(format!("http://{admin}/readyz")).send().await
                && answer.status() == 200
            {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "the relay did not get ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What the relay says of itself: process, addresses.
    pub(crate) fn holder(&self) -> Option<Value> {
        serde_json::from_str(&std::fs::read_to_string(self.state.join("relay.json")).ok()?).ok()
    }

    pub(crate) fn admin(&self, path: &str) -> String {
        format!("http://{}{path}", self.holder().unwrap()["admin"].as_str().unwrap())
    }

    pub(crate) fn webhook(&self) -> String {
        format!("http://{}/hooks/halo", self.holder().unwrap()["webhooks"][0].as_str().unwrap())
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        let answer = self.client.get(self.admin(path)).send().await.unwrap();
        String::from_utf8(answer_body(answer).await).unwrap()
    }

    pub(crate) async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/api/v1/status").await).unwrap()
    }

    /// Posts events to the webhook with the right token; status and answer.
    pub(crate) async fn post(&self, body: &Value) -> (u16, Value) {
        let request = self.client.post(self.webhook()).bearer_auth(TOKEN).json(body);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer_body(answer).await).unwrap())
    }

    /// Posts events that must be accepted.
    pub(crate) async fn accept(&self, body: &Value) {
        let (status, answer) = self.post(body).await;
        assert_eq!(status, 202, "{answer}\n{}", self.log());
    }

    /// Waits until nothing is owed to anyone.
    pub(crate) async fn idle(&self) {
        let started = Instant::now();
        loop {
            let status = self.status().await;
            let owed = |counts: &Value| counts["ready"].as_u64().unwrap() + counts["sending"].as_u64().unwrap();
            if status["deliveries"].as_array().unwrap().iter().map(owed).sum::<u64>() == 0 {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "still owed: {status:#}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Pulls the plug.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "the relay did not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops it as the service manager does; it must end well.
    pub(crate) async fn stop(mut self) {
        self.signal("TERM");
        let status = self.exited().await;
        assert!(status.success(), "{status}\n{}", self.log());
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn answer_body(mut answer: reqwest::Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        body.extend_from_slice(&chunk);
    }
    body
}

/// Waits until what `look` sees is as wanted.
pub(crate) async fn eventually<T: std::fmt::Debug>(what: &str, look: impl Fn() -> T, wanted: impl Fn(&T) -> bool) {
    let started = Instant::now();
    loop {
        let seen = look();
        if wanted(&seen) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "never came: {what}; last seen: {seen:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fails instead of hanging.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("took too long: {what}"))
}

/// A port that was free a moment ago, for addresses that must outlive a restart.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An event about `host-<id>.example.org`, so that messages can be told apart by their headline.
pub(crate) fn event(id: impl std::fmt::Display, key: &str) -> Value {
    json!({"event_id": format!("event-{id}"), "key": key, "subject": "Subject", "target": format!("host-{id}.example.org"),
        "date_created": "2026-11-23 09:41", "url": "https://app.halosecurity.com/link?q=user-event"})
}

/// The host a Slack message is about, from its headline.
pub(crate) fn slack_host(payload: &Value) -> String {
    let text = payload["text"].as_str().unwrap_or_else(|| panic!("no text in {payload:#}"));
    let host = text.split(" · ").find(|part| part.starts_with("host-"));
    host.unwrap_or_else(|| panic!("no host in {text:?}")).to_owned()
}

/// The delivery id that a Slack message carries.
pub(crate) fn slack_id(payload: &Value) -> String {
    payload["blocks"][0]["block_id"].as_str().unwrap_or_else(|| panic!("no block_id in {payload:#}")).to_owned()
}
