//! A fake of the vendor's event API on a raw socket, so that it can also misbehave below HTTP.
//!
//! It is strict: every request must be the one the relay may send (GET, the list and nothing else, the key, paging by
//! numbers, the documented sort). Anything else is noted and fails the test when the fake is dropped.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub(crate) const KEY: &str = "key-5b7f1c0d9e";
const PATH: &str = "/api/v1/event/list.json";

/// How the next request is answered, if not by a page of the list.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// As if nothing were scripted.
    Page,
    /// Status, further header lines (`name: value`), body.
    Status(u16, &'static [&'static str], String),
    /// A page that ends in the middle: the promised length does not come.
    Torn,
    /// A page whose JSON ends in the middle, in an answer that is whole.
    Cut,
    /// The connection is closed without an answer.
    Silence,
    /// Nothing at all, for ever.
    Stall,
    /// A body without an end.
    Endless,
}

/// One request for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) start: usize,
    pub(crate) limit: usize,
}

/// The list and the ways of the server; change it at any time through [`EventApi::state`].
pub(crate) struct State {
    /// In the order of the list, as records without a wrapper.
    pub(crate) events: Vec<Value>,
    /// The most it gives in a page.
    pub(crate) page_max: usize,
    /// States `pagination`.
    pub(crate) pagination: bool,
    /// Puts each record into `{"event": …}`, as the documented sample does.
    pub(crate) wrapped: bool,
    /// Gives the first page whatever is asked for.
    pub(crate) ignores_start: bool,
    /// Answers to the next requests, first to last.
    pub(crate) script: VecDeque<Reply>,
    /// Called with the number of earlier requests before each page is made, to move the list under the reader.
    #[expect(clippy::type_complexity, reason = "a closure, named once")]
    pub(crate) before_page: Option<Box<dyn FnMut(usize, &mut Vec<Value>) + Send>>,
    pub(crate) asked: Vec<Asked>,
    faults: Vec<String>,
}

pub(crate) struct EventApi {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl EventApi {
    pub(crate) async fn start(events: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = Arc::new(Mutex::new(State {
            events,
            page_max: 1000,
            pagination: true,
            wrapped: true,
            ignores_start: false,
            script: VecDeque::new(),
            before_page: None,
            asked: Vec::new(),
            faults: Vec::new(),
        }));
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, server }
    }

    /// As `sources.<name>.base_url`.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/api/v1", self.address)
    }

    /// Do not hold it across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state().script.extend(replies);
    }

    pub(crate) fn push(&self, event: Value) {
        self.state().events.push(event);
    }

    /// How many requests came so far.
    pub(crate) fn requests(&self) -> usize {
        self.state().asked.len()
    }
}

impl Drop for EventApi {
    fn drop(&mut self) {
        self.server.abort();
        if !std::thread::panicking() {
            let state = self.state();
            assert!(state.faults.is_empty(), "requests that must not be made: {:#?}", state.faults);
            assert!(state.script.is_empty(), "answers that nobody asked for: {:#?}", state.script);
        }
    }
}

/// A record as the API gives it. `time` is in the vendor's form.
pub(crate) fn event(id: impl std::fmt::Display, key: &str, time: &str) -> Value {
    json!({
        "event_id": id.to_string(), "subject": "Scan Started", "date_created": time, "key": key,
        "url": format!("https://www.halosecurity.com/link?q=user-event&id={id}"),
        "target": {"target_name": "", "target_id": 1, "target": "www.example.com"},
    })
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        // A client that hangs up early is the client's business.
        tokio::spawn(async move { _ = converse(stream, &state).await });
    }
}

async fn converse(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let (reply, page) = {
        let mut state = state.lock().unwrap();
        let asked = check(&String::from_utf8_lossy(&head)).unwrap_or_else(|fault| {
            state.faults.push(fault);
            Asked { start: 0, limit: 0 }
        });
        state.asked.push(asked);
        (state.script.pop_front().unwrap_or(Reply::Page), state.page(asked))
    };
    let json = "content-type: application/json\r\n";
    let head = |status: u16, length: usize, more: &str| {
        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{more}\r\n")
    };
    let half = &page[..page.len() / 2];
    let answer = match reply {
        Reply::Page => head(200, page.len(), json) + &page,
        Reply::Status(status, headers, body) => {
            let headers: String = headers.iter().flat_map(|line| [*line, "\r\n"]).collect();
            head(status, body.len(), &headers) + &body
        }
        Reply::Torn => head(200, page.len(), json) + half,
        Reply::Cut => head(200, half.len(), json) + half,
        Reply::Silence => String::new(),
        Reply::Stall => std::future::pending().await,
        Reply::Endless => {
            stream.write_all(b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n{\"list\":[").await?;
            loop {
                stream.write_all(&[b' '; 8 * 1024]).await?;
            }
        }
    };
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// What is asked for, or what is wrong with the request.
fn check(head: &str) -> Result<Asked, String> {
    let mut lines = head.lines();
    let line = lines.next().unwrap_or_default();
    let uri = line.strip_prefix("GET ").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let (path, query) = uri.and_then(|uri| uri.split_once('?')).ok_or(line)?;
    if path != PATH {
        return Err(line.to_owned());
    }
    let has_key = |line: &str| line.to_ascii_lowercase().starts_with("x-apikey: ") && line.ends_with(KEY);
    if lines.filter(|line| has_key(line)).count() != 1 {
        return Err(format!("without the key: {line}"));
    }
    let mut query: HashMap<_, _> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let mut number = |name| query.remove(name).and_then(|text| text.parse::<usize>().ok()).ok_or(line);
    let asked = Asked { start: number("start")?, limit: number("limit")? };
    if number("sort")? != 0 || number("sort_desc")? != 0 || !query.is_empty() || !(1..=1000).contains(&asked.limit) {
        return Err(line.to_owned());
    }
    Ok(asked)
}

impl State {
    fn page(&mut self, asked: Asked) -> String {
        if let Some(mut hook) = self.before_page.take() {
            hook(self.asked.len() - 1, &mut self.events);
            self.before_page = Some(hook);
        }
        let start = if self.ignores_start { 0 } else { asked.start };
        let limit = asked.limit.min(self.page_max);
        let wrap = |event: &Value| if self.wrapped { json!({ "event": event }) } else { event.clone() };
        let list: Vec<_> = self.events.iter().skip(start).take(limit).map(wrap).collect();
        let mut body = json!({ "list": list });
        if self.pagination {
            body["pagination"] = json!({ "total": self.events.len(), "start": start, "limit": limit });
        }
        body.to_string()
    }
}
