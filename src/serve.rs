//! Serves one axum [`Router`] on one listener, within limits.
//!
//! `axum::serve` bounds neither the number of connections nor the time a client may take over its headers, so half a
//! request could hold a socket for ever. Here every connection has a slot, a deadline for its headers and a greatest age;
//! what a handler does with the body is the handler's to bound. A handler that panics ends its own connection only.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Answers requests until `shutdown` is cancelled, then stops accepting, lets the requests under way end within
/// [`Limits::drain`] and returns. Dropping the future cuts every connection.
///
/// Requests over TCP carry [`ConnectInfo<SocketAddr>`].
pub async fn serve(listener: impl Into<Listener>, router: Router, limits: Limits, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    accept_all(listener.into(), router, limits, &shutdown, &mut connections).await;
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.drain, all).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections still open at the deadline are cut");
    }
}

/// What one listener may hold at a time, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// More wait in the kernel's queue.
    pub connections: usize,
    /// From the first moment of a connection, or the end of the request before, to the last header line.
    pub header_time: Duration,
    /// A connection this old takes no further request and is cut [`drain`](Self::drain) later.
    pub connection_age: Duration,
    /// For requests under way once the end is near.
    pub drain: Duration,
}

/// Of the files that the process may have open, a listener's connections take at most one part in so many: there are a few
/// listeners, and messages out need theirs.
const SHARE_OF_FILES: u64 = 4;

impl Limits {
    /// With no more connections than a process that may have so many files open can bear.
    #[must_use]
    pub fn within(self, open_files: u64) -> Self {
        let share = usize::try_from(open_files / SHARE_OF_FILES).unwrap_or(usize::MAX);
        Self { connections: self.connections.min(share.max(1)), ..self }
    }
}

/// Raises the number of files that the process may have open as far as the system lets it; returns that number.
pub fn open_files_max() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if raised.is_ok() { maximum } else { current }.unwrap_or(u64::MAX)
}

impl Default for Limits {
    /// For a handful of senders and a few browser tabs, with room for a burst.
    fn default() -> Self {
        Self {
            connections: 128,
            header_time: Duration::from_secs(10),
            connection_age: Duration::from_mins(10),
            drain: Duration::from_secs(10),
        }
    }
}

/// A listener already bound.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are one small write; waiting to fill a packet only delays them. Failing costs nothing else.
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream, peer))
            }
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

enum Stream {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Larger than any honest request head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// After a failed accept, most often for want of file descriptors: trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
const ACCEPT_LOG_EVERY: Duration = Duration::from_mins(1);

async fn accept_all(
    listener: Listener,
    router: Router,
    limits: Limits,
    shutdown: &CancellationToken,
    connections: &mut JoinSet<()>,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut logged: Option<Instant> = None;
    loop {
        // The slot comes first: without one, the connection stays in the kernel's queue and costs us nothing.
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((slot, listener.accept().await?))
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = next => accepted,
        };
        match accepted {
            Ok((slot, Stream::Tcp(stream, peer))) => {
                connections.spawn(connection(stream, Some(peer), router.clone(), limits, shutdown.clone(), slot));
            }
            Ok((slot, Stream::Unix(stream))) => {
                connections.spawn(connection(stream, None, router.clone(), limits, shutdown.clone(), slot));
            }
            Err(error) if concerns_one_client(&error) => {}
            Err(error) => {
                if logged.is_none_or(|at| at.elapsed() >= ACCEPT_LOG_EVERY) {
                    logged = Some(Instant::now());
                    tracing::warn!(%error, "cannot accept connections; trying again (is the limit of open files reached?)");
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// The client went away between connecting and being accepted.
fn concerns_one_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn connection<I>(
    io: I,
    peer: Option<SocketAddr>,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
    _slot: OwnedSemaphorePermit,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        router.clone().oneshot(request.map(Body::new))
    });
    // Without a timer hyper ignores its time-outs.
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service);
    let mut served = std::pin::pin!(served);
    tokio::select! {
        // An error here is the client's: it went away, was too slow or does not speak HTTP.
        _ = served.as_mut() => return,
        () = shutdown.cancelled() => {}
        () = sleep(limits.connection_age) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = timeout(limits.drain, served).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    const WAIT: Duration = Duration::from_secs(10);

    async fn start(router: Router, limits: Limits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        (address, shutdown.clone(), tokio::spawn(serve(listener, router, limits, shutdown)))
    }

    fn hello() -> Router {
        Router::new()
            .route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }))
            .route("/panic", get(fails))
    }

    async fn fails() -> &'static str {
        panic!("on purpose")
    }

    /// Sends `request` and reads until the server closes.
    async fn talk(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        to_end(&mut stream).await
    }

    async fn to_end(stream: &mut (impl AsyncRead + Unpin)) -> String {
        let mut answer = Vec::new();
        timeout(WAIT, stream.read_to_end(&mut answer)).await.expect("the server closes").ok();
        String::from_utf8(answer).unwrap()
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    #[test]
    fn connections_fit_the_limit_of_open_files() {
        for (files, connections) in [(u64::MAX, 128), (65_536, 128), (512, 128), (256, 64), (3, 1), (0, 1)] {
            assert_eq!(Limits::default().within(files).connections, connections, "{files}");
        }
    }

    #[tokio::test]
    async fn answers_and_stops() {
        let (address, shutdown, server) = start(hello(), Limits::default()).await;
        let answer = talk(address, REQUEST).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("127.0.0.1"), "{answer}");
        shutdown.cancel();
        timeout(WAIT, server).await.expect("the server stops").unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
    }

    #[tokio::test]
    async fn serves_a_unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let router = Router::new().route("/", get(|| async { "over unix" }));
        let shutdown = CancellationToken::new();
        let server = serve(UnixListener::bind(&path).unwrap(), router, Limits::default(), shutdown.clone());
        let server = tokio::spawn(server);
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(REQUEST.as_bytes()).await.unwrap();
        assert!(to_end(&mut stream).await.ends_with("over unix"));
        shutdown.cancel();
        timeout(WAIT, server).await.expect("the server stops").unwrap();
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_connection_only() {
        let (address, _shutdown, _server) = start(hello(), Limits::default()).await;
        assert_eq!(talk(address, &REQUEST.replace("GET /", "GET /panic")).await, "");
        assert!(talk(address, REQUEST).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn half_a_header_is_cut_off() {
        let limits = Limits { header_time: Duration::from_millis(50), ..Limits::default() };
        let (address, _shutdown, _server) = start(hello(), limits).await;
        let answer = talk(address, "GET / HTTP/1.1\r\nhost: x\r\n").await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn an_old_connection_is_closed() {
        let limits = Limits { connection_age: Duration::from_millis(50), ..Limits::default() };
        let (address, _shutdown, _server) = start(hello(), limits).await;
        let answer = talk(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    #[tokio::test]
    async fn one_connection_too_many_waits_for_a_slot() {
        let limits = Limits { connections: 1, ..Limits::default() };
        let (address, _shutdown, _server) = start(hello(), limits).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut buffer = [0; 12];
        first.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"HTTP/1.1 200");

        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(REQUEST.as_bytes()).await.unwrap();
        let early = timeout(Duration::from_millis(100), second.read_u8()).await;
        assert!(early.is_err(), "answered while the only slot was taken");
        drop(first);
        assert!(to_end(&mut second).await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn shutdown_lets_a_request_end_but_not_for_ever() {
        let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        for ends in [true, false] {
            let handler = {
                let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
                move || async move {
                    entered.notify_one();
                    release.notified().await;
                    "done"
                }
            };
            let drain = if ends { WAIT } else { Duration::from_millis(50) };
            let limits = Limits { drain, ..Limits::default() };
            let (address, shutdown, server) = start(Router::new().route("/", get(handler)), limits).await;
            let client = tokio::spawn(async move { talk(address, REQUEST).await });
            entered.notified().await;
            shutdown.cancel();
            if ends {
                release.notify_one();
            }
            timeout(WAIT, server).await.expect("the server stops").unwrap();
            assert_eq!(client.await.unwrap().ends_with("done"), ends);
        }
    }
}
