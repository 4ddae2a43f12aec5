//! The composition root: builds every part from a [`Config`], owns the tasks, and orders their beginning and end.
//!
//! ```text
//!  load ─► open store ─► bind listeners ─► lanes ─► sources, admin ─► ready ─► … signals … ─► drain ─► close
//! ```
//!
//! Everything that can fail is done before anything live is touched, at the start and at each reload. The end goes in the
//! data's order: sources stop, what is under way is settled, the store is closed. Giving up at the deadline is safe: the
//! store knows what was not settled.

pub mod lifecycle;
mod reload;
mod sources;
mod upkeep;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::lifecycle::{Signal, Signals};
use self::sources::Sources;
use self::upkeep::Upkeep;
use crate::admin::{self, Admin, ConfigView, DestinationView, FallbackView, View};
use crate::clock::Clock;
use crate::config::{Config, Listen, Problems, count};
use crate::deliver::{self, Clients, Notifier};
use crate::dispatch::{Dispatcher, LaneSettings, Sender};
use crate::intake::Intake;
use crate::model::{DestinationName, LimitName, Overflow, Retention};
use crate::rate::Window;
use crate::routing::RuleSet;
use crate::serve::{self, Limits};
use crate::store::{Holder, Store, StoreError};
use crate::telemetry::Metrics;

/// From SIGTERM to giving up on attempts under way. Under systemd's `TimeoutStopSec=45`.
const DRAIN: Duration = Duration::from_secs(25);
/// For the last commit and the log. With the time to drain, still under systemd's limit.
const CLOSE: Duration = Duration::from_secs(10);
/// Files open at once, so that no listener has to do with fewer connections than it would take.
const FILES_WANTED: u64 = 4096;
/// A disk that hangs longer must not keep signals waiting.
const BEAT_WITHIN: Duration = Duration::from_secs(5);

/// How to run.
pub struct Options {
    pub state_dir: PathBuf,
    /// Print messages instead of sending them.
    pub dry_run: bool,
}

/// Reads the configuration, at the start and at each reload.
pub type Load = Box<dyn Fn() -> Result<Config, Problems> + Send + Sync>;

/// Why the relay could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Config(Problems),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("destination {name}: {source}")]
    Destination { name: DestinationName, source: deliver::BuildError },
    #[error("{what} cannot listen on {address}: {}", listen_reason(source))]
    Listen { what: String, address: String, source: io::Error },
    #[error("source {name}: {cause}")]
    Source { name: String, cause: String },
    #[error("failed to set up the process: {0}")]
    Process(#[from] io::Error),
    #[error("the rules file could not be read through; this is a bug, the log has more: try `halo-relay check`")]
    LoadPanicked,
    #[error("{0} ended unexpectedly; this is a bug")]
    TaskEnded(String),
    #[error("stopping because the store can no longer be trusted: {0}; the next start will check it")]
    StoreFailed(String),
}

/// The running whole.
struct App {
    options: Options,
    load: Load,
    store: Store,
    metrics: Arc<Metrics>,
    clients: Clients,
    rules: watch::Sender<Arc<RuleSet>>,
    dispatcher: Dispatcher,
    sources: Sources,
    board: Arc<Mutex<Board>>,
    ready: Arc<AtomicBool>,
    clock: Clock,
    /// Where admin listens; it stays there until a restart.
    admin: Option<Listen>,
    /// What the file said of it at the start.
    admin_configured: Option<Listen>,
    servers: JoinSet<&'static str>,
    servers_stop: CancellationToken,
    retention: watch::Sender<Retention>,
    upkeep_stop: CancellationToken,
}

/// What a status shows of the running whole.
struct Board {
    config: ConfigView,
    destinations: Vec<DestinationView>,
    sources: Vec<sources::Probe>,
}

/// Runs until SIGTERM or SIGINT, or until something that cannot be coped with.
pub async fn run(options: Options, load: Load) -> Result<(), AppError> {
    // Before anything else, so that no signal meets the default action half-way.
    let mut signals = Signals::listen()?;
    let mut app = App::start(options, load).await?;
    let ended = app.watch(&mut signals).await;
    app.stop(&mut signals).await;
    ended
}

impl App {
    async fn start(options: Options, load: Load) -> Result<Self, AppError> {
        let clock = Clock::start();
        let config = load().map_err(AppError::Config)?;
        for warning in &config.warnings {
            tracing::warn!("{}", warning);
        }
        let clients = Clients::new().map_err(|error| AppError::Process(io::Error::other(error.to_string())))?;
        let files = serve::open_files_max();
        if files < FILES_WANTED {
            tracing::warn!(
                "this process may have only {files} files open, so fewer connections are served at once; give it \
                 {FILES_WANTED} (`LimitNOFILE=` of systemd, `ulimit -Hn`)"
            );
        }
        let store = Store::open(&options.state_dir, clock.now())?;
        let metrics = Arc::new(Metrics::default());
        let rules = watch::Sender::new(Arc::clone(&config.rules));
        let intake = Intake::new(store.clone(), rules.subscribe(), clock, Arc::clone(&metrics));
        let board = Board { config: config_view(&config), destinations: Vec::new(), sources: Vec::new() };
        let mut app = Self {
            dispatcher: Dispatcher::new(store.clone(), clock, Arc::clone(&metrics)),
            sources: Sources::new(intake),
            board: Arc::new(Mutex::new(board)),
            ready: Arc::default(),
            admin: config.admin.clone(),
            admin_configured: config.admin.clone(),
            servers: JoinSet::new(),
            servers_stop: CancellationToken::new(),
            retention: watch::Sender::new(config.retention),
            upkeep_stop: CancellationToken::new(),
            options,
            load,
            store,
            metrics,
            clients,
            rules,
            clock,
        };
        app.serve_admin().await?;
        let summary = summary(&config);
        app.apply(config).await?;
        if let Err(error) = app.announce() {
            // On a full disk; what it holds still goes out, and commands ask over the control socket.
            tracing::warn!("commands will not find the relay's addresses: {error}");
        }
        app.tidy();
        app.ready.store(true, Ordering::Release);
        tracing::info!("halo-relay {} is ready: {summary}", env!("CARGO_PKG_VERSION"));
        lifecycle::tell_ready(&summary);
        Ok(app)
    }

    /// Puts a configuration in force, all or nothing.
    async fn apply(&mut self, config: Config) -> Result<(), AppError> {
        let view = config_view(&config);
        let Config { sources, destinations, limits, rules, retention, templates, .. } = config;
        let renderer = Arc::new(templates);
        let mut lanes = BTreeMap::new();
        let mut views = Vec::new();
        for (name, destination) in destinations {
            views.push(destination_view(&name, &destination, &limits));
            let lane = LaneSettings {
                sender: self.sender(&destination.settings, &name)?,
                name: name.clone(),
                limits: destination.limits,
                shared_limits: destination.shared_limits,
                overflow: destination.overflow,
                fallback: destination.fallback,
                template: destination.template,
                mention: destination.mention,
                rules: Arc::clone(&rules),
                renderer: Arc::clone(&renderer),
                audience: destination.audience,
            };
            lanes.insert(name, lane);
        }
        let prepared = self.sources.prepare(&sources).await?;
        self.dispatcher.apply(lanes, limits).await?;
        // From here on nothing can fail. Rules before sources: what a new source brings meets the new rules.
        self.rules.send_replace(rules);
        self.sources.apply(prepared);
        self.retention.send_replace(retention);
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        *board = Board { config: view, destinations: views, sources: self.sources.probes() };
        Ok(())
    }

    fn sender(&self, settings: &deliver::Settings, name: &DestinationName) -> Result<Sender, AppError> {
        if self.options.dry_run {
            return Ok(Sender::printing(name.clone(), settings.channel()));
        }
        Notifier::new(settings, &self.clients)
            .map(|notifier| Sender::Channel(Box::new(notifier)))
            .map_err(|source| AppError::Destination { name: name.clone(), source })
    }

    async fn serve_admin(&mut self) -> Result<(), AppError> {
        let board = Arc::clone(&self.board);
        let admin = Admin {
            store: self.store.clone(),
            metrics: Arc::clone(&self.metrics),
            clock: self.clock,
            started_at: self.clock.now(),
            ready: Arc::clone(&self.ready),
            view: Arc::new(move || board.lock().unwrap_or_else(PoisonError::into_inner).view()),
        };
        let path = self.options.state_dir.join(admin::CONTROL_SOCKET);
        match bind_unix(&path) {
            Ok(listener) => self.serve("the control socket", listener, admin::control_router(admin.clone())),
            // Commands that act on a running relay will say that they cannot; that is no reason not to relay.
            Err(error) => tracing::warn!("no control socket at {}: {error}", path.display()),
        }
        let failed = |address: &Listen, source| AppError::Listen {
            what: "admin".to_owned(),
            address: address.to_string(),
            source,
        };
        match self.admin.clone() {
            None => {}
            Some(address @ Listen::Tcp(socket)) => {
                let listener = TcpListener::bind(socket).await.map_err(|error| failed(&address, error))?;
                self.admin = Some(Listen::Tcp(listener.local_addr()?));
                self.serve("the admin listener", listener, admin::watch_router(admin));
            }
            Some(ref address @ Listen::Unix(ref path)) => {
                let listener = bind_unix(path).map_err(|error| failed(address, error))?;
                self.serve("the admin listener", listener, admin::watch_router(admin));
            }
        }
        Ok(())
    }

    fn serve(&mut self, name: &'static str, listener: impl Into<serve::Listener>, router: axum::Router) {
        let listener = listener.into();
        let stop = self.servers_stop.clone();
        self.servers.spawn(async move {
            serve::serve(listener, router, Limits::default().within(serve::open_files_max()), stop).await;
            name
        });
    }

    /// Lets go of what is old and audits the store, until the end.
    fn tidy(&self) {
        let upkeep = Upkeep {
            store: self.store.clone(),
            metrics: Arc::clone(&self.metrics),
            clock: self.clock,
            state_dir: self.options.state_dir.clone(),
            retention: self.retention.subscribe(),
            stop: self.upkeep_stop.clone(),
        };
        tokio::spawn(upkeep.run());
    }

    fn announce(&self) -> io::Result<()> {
        self.store.lock().announce(&Holder {
            pid: std::process::id(),
            admin: self.admin.as_ref().map(ToString::to_string),
            webhooks: self.sources.addresses().iter().map(ToString::to_string).collect(),
        })
    }

    /// Until a signal to stop or a failure that cannot be coped with.
    async fn watch(&mut self, signals: &mut Signals) -> Result<(), AppError> {
        let store = self.store.clone();
        let mut failed = std::pin::pin!(store.failed());
        let mut watchdog = lifecycle::Watchdog::start();
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => return Ok(()),
                    Signal::Reload => self.reload().await,
                },
                cause = &mut failed => return Err(AppError::StoreFailed(cause)),
                ended = self.sources.ended() => return Err(AppError::TaskEnded(ended)),
                Some(ended) = self.servers.join_next() => {
                    return Err(AppError::TaskEnded(ended.map_or_else(|error| error.to_string(), str::to_owned)));
                }
                () = watchdog.due() => {
                    // Fed by a commit that went through, not by a timer: a relay that cannot record is not alive. But to be
                    // killed makes no room on a full disk, and what is under way then would be sent again.
                    let beat = tokio::time::timeout(BEAT_WITHIN, self.store.beat(self.clock.now()));
                    if let Ok(Ok(()) | Err(StoreError::Full)) = beat.await {
                        watchdog.feed();
                    }
                }
            }
        }
    }

    /// Nothing more is started; sources first, then what is under way, then the store. A second signal, or the deadline, ends
    /// it at once.
    async fn stop(mut self, signals: &mut Signals) {
        self.ready.store(false, Ordering::Release);
        self.upkeep_stop.cancel();
        lifecycle::tell_stopping();
        tracing::info!("stopping: no new events are taken, attempts under way may end");
        let deadline = Instant::now() + DRAIN;
        // Sources may take some seconds to end, and what would be started meanwhile would have as much less time to end.
        self.dispatcher.stop();
        let drained = async {
            self.sources.stop().await;
            self.dispatcher.drain().await;
            self.servers_stop.cancel();
            while self.servers.join_next().await.is_some() {}
        };
        let in_order = tokio::select! {
            () = drained => true,
            () = tokio::time::sleep_until(deadline) => {
                tracing::warn!("attempts still under way after {} s are left; the next start takes them up", DRAIN.as_secs());
                false
            }
            () = signals.stop_again() => {
                tracing::warn!("asked twice to stop: attempts under way are left; the next start takes them up");
                false
            }
        };
        if tokio::time::timeout(CLOSE, self.store.close()).await.is_err() {
            tracing::warn!("the disk does not answer; the log is folded in by the next start");
        }
        // Sockets are files; the next start would replace them, but a reader should not find what nobody serves.
        let _ = std::fs::remove_file(self.options.state_dir.join(admin::CONTROL_SOCKET));
        if let Some(Listen::Unix(path)) = &self.admin {
            let _ = std::fs::remove_file(path);
        }
        tracing::info!("stopped{}", if in_order { "" } else { " early" });
    }
}

impl Board {
    fn view(&self) -> View {
        View {
            config: self.config.clone(),
            sources: self.sources.iter().map(sources::Probe::view).collect(),
            destinations: self.destinations.clone(),
        }
    }
}

fn listen_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "it is taken; stop what listens there, or change `listen` in the rules".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; change `listen` in the rules".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied; take a port above 1023, or a path the relay may write".to_owned()
        }
        _ => error.to_string(),
    }
}

fn config_view(config: &Config) -> ConfigView {
    ConfigView {
        path: config.path.display().to_string(),
        revision: config.revision.clone(),
        rules: config.rules.rules().len(),
        reload_refused: None,
    }
}

fn destination_view(
    name: &DestinationName,
    destination: &crate::config::Destination,
    limits: &BTreeMap<LimitName, Vec<Window>>,
) -> DestinationView {
    let shared = destination.shared_limits.iter().map(|name| {
        let windows = limits.get(name).into_iter().flatten().map(ToString::to_string).collect();
        (name.to_string(), windows)
    });
    let (over_limit, digest_after) = match destination.overflow {
        Overflow::Digest { after } => ("digest", Some(humantime::format_duration(after).to_string())),
        Overflow::Queue => ("queue", None),
    };
    DestinationView {
        name: name.to_string(),
        channel: destination.settings.channel().to_string(),
        limits: destination.limits.iter().map(ToString::to_string).collect(),
        shared_limits: shared.collect(),
        over_limit: over_limit.to_owned(),
        digest_after,
        fallback: destination.fallback.as_ref().map(|fallback| FallbackView {
            to: fallback.to.to_string(),
            after: humantime::format_duration(fallback.after).to_string(),
        }),
    }
}

fn summary(config: &Config) -> String {
    let sizes = [
        count(config.rules.rules().len(), "rule"),
        count(config.sources.len(), "source"),
        count(config.destinations.len(), "destination"),
    ];
    format!("{} from {} (revision {})", sizes.join(", "), config.path.display(), config.revision)
}

/// Binds a socket that only its owner can use. One left by a process that is gone is replaced.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there"));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => std::fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something that is not a socket is there")),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
