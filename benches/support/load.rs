//! A load generator and a receiver as thin as they can be: plain sockets, no HTTP library.

#![allow(dead_code, reason = "each bench uses a part of this")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const CONNECTIONS: usize = 16;
pub(crate) const TOKEN: &str = "bench-token-0123456789";

/// Posts `events` in bodies of `batch`, over kept connections, each waiting for its answer. Returns how long that took.
pub(crate) async fn post_all(address: SocketAddr, path: &'static str, events: usize, batch: usize) -> Duration {
    static RUN: AtomicUsize = AtomicUsize::new(0);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let started = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..CONNECTIONS {
        senders.spawn(async move {
            let mut client = Client::connect(address, path).await;
            for post in (sender..events / batch).step_by(CONNECTIONS) {
                let list: Vec<_> = (0..batch).map(|n| event(run, post * batch + n)).collect();
                client.post(&if batch == 1 { list.concat() } else { format!("[{}]", list.join(",")) }).await;
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
    started.elapsed()
}

pub(crate) fn event(run: usize, number: usize) -> String {
    format!(
        "{{\"event_id\":\"bench-{run}-{number:08}\",\"key\":\"website-form-oos\",\"subject\":\"Website Form Out-of-Scope\",\
         \"date_created\":\"2026-11-23 09:41\",\"target\":\"www{}.example.org\",\"host\":\"forms.example.net\",\
         \"form_action\":\"login\",\"form_method\":\"post\"}}",
        number % 1000
    )
}

/// One kept connection.
pub(crate) struct Client {
    stream: TcpStream,
    head: String,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: ");
        Self { stream, head, buffer: vec![0; 4096] }
    }

    pub(crate) async fn post(&mut self, body: &str) {
        let request = format!("{}{}\r\n\r\n{body}", self.head, body.len());
        self.stream.write_all(request.as_bytes()).await.unwrap();
        let mut filled = 0;
        while whole(&self.buffer[..filled]).is_none_or(|whole| filled < whole) {
            let read = self.stream.read(&mut self.buffer[filled..]).await.unwrap();
            assert!(read > 0, "the connection was closed");
            filled += read;
        }
        let answer = String::from_utf8_lossy(&self.buffer[..filled]);
        assert!(answer.starts_with("HTTP/1.1 202") || answer.starts_with("HTTP/1.1 204"), "{answer}");
    }
}

/// The length of the HTTP message that this text begins with, once its head is there.
fn whole(text: &[u8]) -> Option<usize> {
    let end = text.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&text[..end]).unwrap();
    let line =
        head.lines().find(|line| line.get(..15).is_some_and(|name| name.eq_ignore_ascii_case("content-length:")));
    Some(end + 4 + line.map_or(0, |line| line[15..].trim().parse().unwrap()))
}

/// Takes and counts every POST while it is open, and answers 503 while it is not.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    count: AtomicUsize,
    open: AtomicBool,
    last: Mutex<Instant>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (count, open, last) = (AtomicUsize::new(0), AtomicBool::new(true), Mutex::new(Instant::now()));
        let shared = Arc::new(Shared { count, open, last });
        let receiver = Self { address, shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        receiver
    }

    pub(crate) fn open(&self, open: bool) {
        self.shared.open.store(open, Ordering::Relaxed);
    }

    /// How many it has taken.
    pub(crate) fn count(&self) -> usize {
        self.shared.count.load(Ordering::Acquire)
    }

    /// When it took the last one.
    pub(crate) fn last(&self) -> Instant {
        *self.shared.last.lock().unwrap()
    }

    /// Looks now and then, which leaves the machine to those who work on it.
    pub(crate) async fn reached(&self, wanted: usize) {
        let started = Instant::now();
        while self.count() < wanted {
            assert!(started.elapsed() < Duration::from_mins(5), "only {} of {wanted} arrived", self.count());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = vec![0; 256 * 1024];
    let mut filled = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
        filled += read;
        while let Some(whole) = whole(&buffer[..filled]).filter(|whole| filled >= *whole) {
            let open = shared.open.load(Ordering::Relaxed);
            if open {
                *shared.last.lock().unwrap() = Instant::now();
                shared.count.fetch_add(1, Ordering::Release);
            }
            let status = if open { "204 No Content" } else { "503 Down\r\ncontent-length: 0" };
            if stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await.is_err() {
                return;
            }
            buffer.copy_within(whole..filled, 0);
            filled -= whole;
        }
    }
}
