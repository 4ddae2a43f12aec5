//! Talking to a running relay over its control socket, or opening its store when none runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Common, Failure, exit};
use crate::admin::CONTROL_SOCKET;
use crate::clock::Clock;
use crate::store::{Lock, Store};

/// The store, through whoever may touch it.
pub(super) enum Relay {
    /// A relay runs and owns the store.
    Running(Running),
    /// None does: this command owns it while it works.
    Stopped(Store),
}

pub(super) struct Running {
    client: reqwest::Client,
    socket: PathBuf,
}

/// For one request; a relay that is alive answers in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Larger than a thousand dead letters in JSON.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Relay {
    /// For acts. Who only looks takes a [`Reader`](crate::store::Reader), which changes nothing.
    pub(super) fn find(common: &Common) -> Result<Self, Failure> {
        if let Some(running) = Running::find(common)? {
            return Ok(Self::Running(running));
        }
        Ok(Self::Stopped(Store::open(&common.existing_state_dir()?, Clock::start().now())?))
    }
}

impl Running {
    /// `None` if no relay runs.
    pub(super) fn find(common: &Common) -> Result<Option<Self>, Failure> {
        let directory = common.existing_state_dir()?;
        if Lock::is_held(&directory) { Self::connect(&directory).map(Some) } else { Ok(None) }
    }

    fn connect(directory: &Path) -> Result<Self, Failure> {
        let socket = directory.join(CONTROL_SOCKET);
        let client = reqwest::Client::builder()
            .unix_socket(socket.as_path())
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER_WITHIN)
            .build()
            .map_err(|error| Failure::new(exit::FINDINGS, format!("failed to make an HTTP client: {error}")))?;
        Ok(Self { client, socket })
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        self.answer(self.client.get(url(path))).await
    }

    pub(super) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let answer = self.answer(self.client.post(url(path)).json(body)).await?;
        answer.ok_or_else(|| self.failed("the running relay does not know this request; is it another version?"))
    }

    /// `None` where the relay knows no such thing.
    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<Option<T>, Failure> {
        let mut response = request.send().await.map_err(|error| {
            let error = anyhow::Error::from(error.without_url());
            self.failed(&format!("no answer: {}; ask as the relay's user or as root", error.root_cause()))
        })?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| self.failed(&format!("the answer broke off: {error}")))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(self.failed("the answer is too long"));
            }
        }
        if status == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !status.is_success() {
            let told: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
            let told = told.as_ref().and_then(|told| told["error"].as_str()).unwrap_or("no reason given");
            return Err(self.failed(&format!("{status}: {told}")));
        }
        serde_json::from_slice(&body)
            .map(Some)
            .map_err(|error| self.failed(&format!("the answer is not readable: {error}")))
    }

    fn failed(&self, what: &str) -> Failure {
        Failure::new(exit::UNREACHABLE, format!("the running relay at {}: {what}", self.socket.display()))
    }
}

/// The host is a formality on a Unix socket.
fn url(path: &str) -> String {
    format!("http://localhost{path}")
}
