//! The relay as a process of its own, with a directory for its rules and its state.

#![allow(dead_code, reason = "each bench uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::load::TOKEN;
use crate::machine::target;

/// Rules and state, which outlive the process.
pub(crate) struct Scene {
    pub(crate) directory: tempfile::TempDir,
}

impl Scene {
    /// With a webhook input, a destination `sink` at `receiver` with `more` settings (`, limit: 20/1s`), and one rule that
    /// does `action` with everything (`send: [sink]`).
    pub(crate) fn new(receiver: SocketAddr, more: &str, action: &str) -> Self {
        Self::within(&target(), receiver, more, action)
    }

    /// The same on the file system of `place`.
    pub(crate) fn within(place: &Path, receiver: SocketAddr, more: &str, action: &str) -> Self {
        let directory = tempfile::tempdir_in(place).unwrap();
        let rules = format!(
            "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  sink: {{ type: webhook, url: 'http://{receiver}/x'{more} }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, {action} }}
unrouted: {{ drop: nothing else comes }}
"
        );
        std::fs::write(directory.path().join("rules.yaml"), rules).unwrap();
        Self { directory }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub(crate) fn start(&self) -> Relay {
        self.start_under(None)
    }

    /// With a library that stands before the system's.
    pub(crate) fn start_under(&self, shim: Option<&Path>) -> Relay {
        let mut command = Command::new(env!("CARGO_BIN_EXE_halo-relay"));
        command.args(["run", "--log", "error", "--config"]).arg(self.directory.path().join("rules.yaml"));
        command.arg("--state-dir").arg(self.state()).env("TOKEN", TOKEN).stdin(Stdio::null());
        if let Some(shim) = shim {
            command.env("LD_PRELOAD", shim);
        }
        Relay { child: command.spawn().unwrap(), state: self.state() }
    }
}

/// A running relay, killed when dropped.
pub(crate) struct Relay {
    child: Child,
    state: PathBuf,
}

impl Relay {
    /// What it says of itself, once it is ready.
    fn holder(&self) -> Option<serde_json::Value> {
        let text = std::fs::read_to_string(self.state.join("relay.json")).ok()?;
        let holder: serde_json::Value = serde_json::from_str(&text).ok()?;
        (holder["pid"] == self.child.id()).then_some(holder)
    }

    /// Where it takes events, once it is ready.
    pub(crate) async fn webhook(&self) -> SocketAddr {
        loop {
            // In this order: what it says of itself grows until it is ready.
            if self.get("/readyz").is_some()
                && let Some(holder) = self.holder()
            {
                return holder["webhooks"][0].as_str().unwrap().parse().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What the admin listener answers, if that is 200.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let holder = self.holder()?;
        let admin = holder["admin"].as_str()?;
        let mut stream = std::net::TcpStream::connect(admin).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then(|| answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// User and system seconds so far (fields 14 and 15 of `/proc/PID/stat`, in ticks of 10 ms).
    pub(crate) fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    pub(crate) fn memory_mb(&self) -> f64 {
        self.of_status("VmRSS")
    }

    /// At most, since its start.
    pub(crate) fn memory_most_mb(&self) -> f64 {
        self.of_status("VmHWM")
    }

    fn of_status(&self, name: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
