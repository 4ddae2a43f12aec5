//! Bad input gets the right status and words that say what is wrong, and the relay goes on.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http::{FakeHttp, Reply};
use crate::support::{Scene, TOKEN, event, within};

const RULES: &str = "sources:
  push: { type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: { env: TOKEN } }
destinations:
  chat: { type: slack, url: { env: CHAT } }
admin: { listen: 127.0.0.1:0 }
rules:
  - { name: all, when: { key: '*' }, send: [chat] }
unrouted: { drop: nothing else is expected }
";

/// What it is, request line, headers, body; status, words of the answer.
type Case<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, &'a str);

/// Sends bytes on a connection of their own; status and body, or nothing if `half` closes before the end.
async fn raw(address: &str, head: &str, body: &[u8], half: bool) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that refuses by the head may close before it has read all.
    let _ = stream.write_all(body).await;
    if half {
        return None;
    }
    let mut answer = Vec::new();
    let _ = within("an answer", stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    Some((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
}

#[tokio::test]
async fn every_bad_request_is_told_what_is_wrong() {
    let mut slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let scene = Scene::new(RULES).with("CHAT", slack.url("/services/T0/B0/x"));
    let relay = scene.start().await;
    let url = relay.webhook();
    let address = url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let good = event(1, "issue-add").to_string();
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let large = format!("[{}]", vec!["{}"; 1024 * 1024].join(","));
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");

    let cases: [Case<'_>; 14] = [
        ("no token", "POST /hooks/halo", "", good.as_bytes(), 401, "token"),
        ("wrong token", "POST /hooks/halo", "authorization: Bearer nope\r\n", good.as_bytes(), 401, "token"),
        ("token in the query", &format!("POST /hooks/halo?token={TOKEN}"), "", good.as_bytes(), 202, "accepted"),
        ("other path", "POST /other", &bearer, good.as_bytes(), 404, ""),
        ("GET", "GET /hooks/halo", &bearer, b"", 405, ""),
        ("2 MiB", "POST /hooks/halo", &bearer, large.as_bytes(), 413, "1048576"),
        ("too deep", "POST /hooks/halo", &bearer, deep.as_bytes(), 400, "nested too deeply"),
        ("not JSON", "POST /hooks/halo", &bearer, b"{\"event_id\": }", 400, "line 1, column 14"),
        ("not UTF-8", "POST /hooks/halo", &bearer, b"{\"event_id\": \"\xff\"}", 400, "UTF-8"),
        ("empty", "POST /hooks/halo", &bearer, b"", 400, ""),
        ("a number", "POST /hooks/halo", &bearer, b"42", 400, "must be a JSON object"),
        ("no key", "POST /hooks/halo", &bearer, b"{\"event_id\": \"1\"}", 400, "`key` is missing"),
        ("key is a list", "POST /hooks/halo", &bearer, b"{\"event_id\": \"1\", \"key\": []}", 400, "must be a string"),
        ("one of three", "POST /hooks/halo", &bearer, b"[{\"event_id\": \"7\", \"key\": \"k\"}, {}]", 400, "event 1: "),
    ];
    for (what, line, headers, body, status, words) in cases {
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n");
        let (got, told) = raw(&address, &head, body, false).await.unwrap();
        assert_eq!(got, status, "{what}: {told}");
        assert!(told.contains(words), "{what}: {told}");
        assert!(!told.contains(TOKEN), "{what}: {told}");
        if status != 202 && status < 500 && !told.is_empty() {
            assert!(serde_json::from_str::<Value>(&told).unwrap()["error"].is_string(), "{what}: {told}");
        }
    }
    // Half a request: the rest never comes.
    let head = format!("POST /hooks/halo HTTP/1.1\r\nhost: x\r\n{bearer}content-length: 1000\r\n\r\n");
    raw(&address, &head, b"[{\"event_id\"", true).await;

    // It goes on, and only the one good event and this one were taken.
    relay.accept(&json!([event(2, "issue-add")])).await;
    slack.request().await;
    slack.request().await;
    relay.idle().await;
    assert!(slack.try_request().is_none());
    relay.stop().await;
}
