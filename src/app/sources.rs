//! The running sources: started, replaced and stopped as the rules file says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::AppError;
use crate::admin::SourceView;
use crate::intake::Intake;
use crate::model::SourceName;
use crate::serve::{self, Limits};
use crate::source::event_api::EventApi;
use crate::source::poll::{PollStatus, Poller};
use crate::source::{self, webhook};

/// Connections a webhook listener holds at a time; a burst of senders waits in the kernel's queue beyond that.
const WEBHOOK_CONNECTIONS: usize = 512;

pub(super) struct Sources {
    intake: Intake,
    running: HashMap<SourceName, Running>,
    tasks: JoinSet<Ended>,
}

struct Running {
    settings: source::Settings,
    stop: CancellationToken,
    kind: Kind,
}

enum Kind {
    Halo { status: watch::Receiver<PollStatus> },
    Webhook { address: SocketAddr, settings: watch::Sender<Arc<webhook::Settings>> },
}

struct Ended {
    name: String,
    asked: bool,
}

/// All that can fail of a change, done.
pub(super) struct Prepared {
    steps: HashMap<SourceName, (source::Settings, Step)>,
}

enum Step {
    Keep,
    /// The same listener with other settings.
    Update(Arc<webhook::Settings>),
    Poll(EventApi),
    Listen(TcpListener, SocketAddr),
}

/// Looks at one source for a status.
pub(super) struct Probe {
    name: String,
    kind: ProbeKind,
}

enum ProbeKind {
    Halo(watch::Receiver<PollStatus>),
    Webhook(SocketAddr, String),
}

impl Sources {
    pub(super) fn new(intake: Intake) -> Self {
        Self { intake, running: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Binds new listeners and builds new clients; changes nothing that runs.
    pub(super) async fn prepare(&self, wanted: &[source::Settings]) -> Result<Prepared, AppError> {
        let mut steps = HashMap::new();
        for settings in wanted {
            let name = settings.name();
            let running = self.running.get(name);
            let step = match (settings, running) {
                (settings, Some(running)) if running.settings == *settings => Step::Keep,
                (source::Settings::Webhook(new), Some(Running { settings: source::Settings::Webhook(old), .. }))
                    if new.listen == old.listen =>
                {
                    Step::Update(Arc::new(new.clone()))
                }
                (source::Settings::Webhook(new), _) => {
                    let failed = |source| AppError::Listen {
                        what: format!("source {name}"),
                        address: new.listen.to_string(),
                        source,
                    };
                    let listener = TcpListener::bind(new.listen).await.map_err(failed)?;
                    let address = listener.local_addr().map_err(failed)?;
                    Step::Listen(listener, address)
                }
                (source::Settings::Halo(new), _) => {
                    let failed = |error| AppError::Source { name: name.to_string(), cause: format!("{error}") };
                    Step::Poll(EventApi::new(&new.base_url, &new.api_key).map_err(failed)?)
                }
            };
            steps.insert(name.clone(), (settings.clone(), step));
        }
        Ok(Prepared { steps })
    }

    pub(super) fn apply(&mut self, prepared: Prepared) {
        self.running.retain(|name, running| {
            let stays = prepared.steps.contains_key(name);
            if !stays {
                running.stop.cancel();
            }
            stays
        });
        for (name, (settings, step)) in prepared.steps {
            match step {
                Step::Keep => {}
                Step::Update(new) => {
                    if let Some(running) = self.running.get_mut(&name)
                        && let Kind::Webhook { settings: sender, .. } = &running.kind
                    {
                        sender.send_replace(new);
                        running.settings = settings;
                    }
                }
                Step::Poll(api) => {
                    let source::Settings::Halo(halo) = settings.clone() else { continue };
                    let poller = Poller::new(halo, api, self.intake.clone());
                    let kind = Kind::Halo { status: poller.status() };
                    let stop = self.replace(name.clone(), settings, kind);
                    self.spawn(name, stop.clone(), poller.run(stop));
                }
                Step::Listen(listener, address) => {
                    let source::Settings::Webhook(hook) = settings.clone() else { continue };
                    let (sender, receiver) = watch::channel(Arc::new(hook));
                    let stop = self.replace(name.clone(), settings, Kind::Webhook { address, settings: sender });
                    let router = webhook::router(receiver, self.intake.clone());
                    let limits = Limits { connections: WEBHOOK_CONNECTIONS, ..Limits::default() };
                    let limits = limits.within(serve::open_files_max());
                    self.spawn(name, stop.clone(), serve::serve(listener, router, limits, stop));
                }
            }
        }
    }

    /// Stops all and waits until they have ended: nothing is taken in after this.
    pub(super) async fn stop(&mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Resolves when a source ends that was not asked to; names it.
    pub(super) async fn ended(&mut self) -> String {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(Ended { asked: true, .. })) => {}
                Some(Ok(Ended { name, .. })) => return format!("source {name}"),
                Some(Err(error)) => return format!("a source ({error})"),
                None => std::future::pending().await,
            }
        }
    }

    /// Where the webhook listeners are, with the port the system gave where `:0` was asked for.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.running.values().filter_map(|running| match &running.kind {
            Kind::Webhook { address, .. } => Some(*address),
            Kind::Halo { .. } => None,
        });
        addresses.collect()
    }

    pub(super) fn probes(&self) -> Vec<Probe> {
        let mut probes: Vec<_> = self
            .running
            .iter()
            .map(|(name, running)| Probe {
                name: name.to_string(),
                kind: match (&running.kind, &running.settings) {
                    (Kind::Halo { status }, _) => ProbeKind::Halo(status.clone()),
                    (Kind::Webhook { address, .. }, source::Settings::Webhook(settings)) => {
                        ProbeKind::Webhook(*address, settings.path.clone())
                    }
                    (Kind::Webhook { address, .. }, source::Settings::Halo(_)) => {
                        ProbeKind::Webhook(*address, String::new())
                    }
                },
            })
            .collect();
        probes.sort_by(|a, b| a.name.cmp(&b.name));
        probes
    }

    fn replace(&mut self, name: SourceName, settings: source::Settings, kind: Kind) -> CancellationToken {
        let stop = CancellationToken::new();
        let running = Running { settings, stop: stop.clone(), kind };
        if let Some(old) = self.running.insert(name, running) {
            old.stop.cancel();
        }
        stop
    }

    fn spawn(&mut self, name: SourceName, stop: CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            work.await;
            Ended { name: name.to_string(), asked: stop.is_cancelled() }
        });
    }
}

impl Probe {
    pub(super) fn view(&self) -> SourceView {
        let (kind, standing, healthy) = match &self.kind {
            ProbeKind::Webhook(address, path) => ("webhook", format!("listens on http://{address}{path}"), true),
            ProbeKind::Halo(status) => {
                let status = status.borrow();
                let last = match (status.last_success, status.last_listed) {
                    (Some(at), Some(listed)) => format!("last listed {listed} events at {at}"),
                    _ => "not listed yet".to_owned(),
                };
                match &status.last_error {
                    Some(error) => {
                        let times = status.consecutive_failures;
                        ("halo", format!("failing ({times} in a row): {error}; {last}"), false)
                    }
                    None => ("halo", last, true),
                }
            }
        };
        SourceView { name: self.name.clone(), kind: kind.to_owned(), standing, healthy }
    }
}
