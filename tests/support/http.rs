//! A strict HTTP/1.1 server for tests, raw enough to misbehave on order: silence, resets, bodies cut or without end.
//!
//! Every request must be read by the test and every scripted reply be used, or dropping the server panics.
#![allow(dead_code, reason = "each test binary uses a part of this")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// Often enough that only a limit on the whole exchange ends it.
const DRIP: Duration = Duration::from_millis(20);

/// What the server does with one request that it has read to the end.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// An ordinary answer; the connection stays open.
    Answer { status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8> },
    /// Nothing, with the connection left open.
    Silence,
    /// Nothing, with the connection closed.
    Close,
    /// A TCP reset.
    Reset,
    /// A status and the start of a body that promises more, then the connection closes.
    CutBody { status: u16, body: &'static str },
    /// A status and a body that never ends.
    EndlessBody { status: u16 },
    /// A status and a body of one byte now and then, never the last one.
    DrippingBody { status: u16 },
    /// The start of a status line, then the connection closes.
    CutHead,
    /// Something that is not HTTP, then the connection closes.
    Gibberish,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::text(status, "")
    }

    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self::Answer { status, headers: Vec::new(), body: body.into() }
    }

    /// The same answer with one more header.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Which connection it came over, counted from 0.
    pub(crate) connection: usize,
    pub(crate) method: String,
    /// Path and query, as written.
    pub(crate) target: String,
    /// Names in lower case, in the order they came.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// When it had been read to the end.
    pub(crate) at: Instant,
}

impl Request {
    /// The header's only value; panics if it came twice.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert!(values.next().is_none(), "{name} came twice");
        value
    }

    pub(crate) fn header_names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the request's body is JSON")
    }
}

/// Decides what is done with a request, and after how long.
pub(crate) type Chooser = Box<dyn FnMut(&Request) -> (Duration, Reply) + Send>;

struct Script {
    next: VecDeque<Reply>,
    otherwise: Chooser,
    /// Whether the test reads the requests.
    kept: bool,
}

pub(crate) struct FakeHttp {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    requests: mpsc::UnboundedReceiver<Request>,
    server: JoinHandle<()>,
}

impl FakeHttp {
    /// Answers with `otherwise` whenever nothing is scripted.
    pub(crate) async fn start(otherwise: Reply) -> Self {
        Self::choosing(true, Box::new(move |_| (Duration::ZERO, otherwise.clone()))).await
    }

    /// Does with each request what `chooser` says, which sees them all: the test need not read them.
    pub(crate) async fn answering(chooser: Chooser) -> Self {
        Self::choosing(false, chooser).await
    }

    async fn choosing(kept: bool, otherwise: Chooser) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let script = Arc::new(Mutex::new(Script { next: VecDeque::new(), otherwise, kept }));
        let (seen, requests) = mpsc::unbounded_channel();
        let server = tokio::spawn(accept(listener, script.clone(), seen));
        Self { address, script, requests, server }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Scripts the reply to one more request.
    pub(crate) fn then(&self, reply: Reply) {
        self.script.lock().unwrap().next.push_back(reply);
    }

    /// The next request, waiting for it.
    pub(crate) async fn request(&mut self) -> Request {
        let request = tokio::time::timeout(PATIENCE, self.requests.recv()).await;
        request.expect("no request came").expect("the server has stopped")
    }

    /// The next request if it is there already.
    pub(crate) fn try_request(&mut self) -> Option<Request> {
        self.requests.try_recv().ok()
    }
}

impl Drop for FakeHttp {
    fn drop(&mut self) {
        self.server.abort();
        if std::thread::panicking() {
            return;
        }
        if let Ok(request) = self.requests.try_recv() {
            panic!("a request was left unread: {} {}", request.method, request.target);
        }
        let unused = self.script.lock().unwrap().next.len();
        assert_eq!(unused, 0, "scripted replies were left unused");
    }
}

async fn accept(listener: TcpListener, script: Arc<Mutex<Script>>, seen: mpsc::UnboundedSender<Request>) {
    // Dropped with the task, which ends every connection.
    let mut connections = JoinSet::new();
    for connection in 0.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.spawn(serve(stream, connection, script.clone(), seen.clone()));
    }
}

async fn serve(
    stream: TcpStream,
    connection: usize,
    script: Arc<Mutex<Script>>,
    seen: mpsc::UnboundedSender<Request>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream, connection).await? {
        let ((delay, reply), kept) = {
            let mut script = script.lock().unwrap();
            let scripted = script.next.pop_front().map(|reply| (Duration::ZERO, reply));
            (scripted.unwrap_or_else(|| (script.otherwise)(&request)), script.kept)
        };
        if kept && seen.send(request).is_err() {
            return Ok(());
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let stream = stream.get_mut();
        match reply {
            Reply::Answer { status, headers, body } => {
                let mut head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head = format!("{head}{name}: {value}\r\n");
                }
                // In one piece: two small writes would wait for each other's acknowledgement.
                let answer = [head.as_bytes(), b"\r\n", &body].concat();
                stream.write_all(&answer).await?;
            }
            Reply::Silence => std::future::pending().await,
            Reply::Close => return Ok(()),
            Reply::Reset => return stream.set_zero_linger(),
            Reply::CutBody { status, body } => {
                let promised = body.len() + 1_000;
                let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {promised}\r\n\r\n{body}");
                return stream.write_all(head.as_bytes()).await;
            }
            Reply::EndlessBody { status } => {
                let head = format!("HTTP/1.1 {status} Scripted\r\ntransfer-encoding: chunked\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                loop {
                    // Ends with an error once the client has gone.
                    stream.write_all(b"4\r\nok? \r\n").await?;
                }
            }
            Reply::DrippingBody { status } => {
                let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 1000000\r\n\r\nok");
                stream.write_all(head.as_bytes()).await?;
                let mut drips = tokio::time::interval(DRIP);
                loop {
                    drips.tick().await;
                    stream.write_all(b" ").await?;
                }
            }
            Reply::CutHead => return stream.write_all(b"HTTP/1.1 20").await,
            Reply::Gibberish => return stream.write_all(b"220 mail.test ESMTP\r\n").await,
        }
    }
    Ok(())
}

/// `None` at the end of the connection. What is no request with a plain length is a fault of the client: panic.
async fn read_request(stream: &mut BufReader<TcpStream>, connection: usize) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    // A client that speaks TLS to a plain port sends no text.
    if !matches!(stream.read_line(&mut line).await, Ok(1..)) {
        return Ok(None);
    }
    let mut words = line.trim_end().splitn(3, ' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some("HTTP/1.1")) = (method, target, version) else { return Ok(None) };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = Vec::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some(text) = line.strip_suffix("\r\n") else { panic!("a header without CRLF: {line:?}") };
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').expect("a header has a colon");
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { connection, method, target, headers, body: Vec::new(), at: Instant::now() };
    let length = request.header("content-length").map_or(0, |length| length.parse().expect("a length"));
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body).await?;
    request.at = Instant::now();
    Ok(Some(request))
}
