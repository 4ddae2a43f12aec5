//! What the service manager is told: ready, reloading, stopping, and that the store commits.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::http::{FakeHttp, Reply};
use crate::support::{PATIENCE, Scene};

/// The next notification that has `words`.
fn told(socket: &UnixDatagram, words: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("never told {words:?}: {error}"));
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.contains(words) {
            return text;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_is_told_what_happens() {
    let slack = FakeHttp::start(Reply::text(200, "ok")).await;
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let rules = format!(
        "sources:
  push: {{ type: webhook, listen: 127.0.0.1:0, path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: '{}' }}
admin: {{ listen: 127.0.0.1:0 }}
rules:
  - {{ name: all, when: {{ key: '*' }}, send: [chat] }}
unrouted: {{ drop: nothing else is expected }}
",
        slack.url("/services/T0/B0/x")
    );
    let scene = Scene::new(&rules)
        .with("NOTIFY_SOCKET", path.to_str().unwrap())
        .with("WATCHDOG_USEC", Duration::from_millis(600).as_micros().to_string());
    let relay = scene.start().await;
    let ready = tokio::task::block_in_place(|| told(&socket, "READY=1"));
    assert!(ready.contains("STATUS=1 rule"), "{ready}");
    for _ in 0..2 {
        tokio::task::block_in_place(|| told(&socket, "WATCHDOG=1"));
    }

    scene.write_rules("rules: 1\n");
    relay.signal("HUP");
    let reloading = tokio::task::block_in_place(|| told(&socket, "RELOADING=1"));
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    let after = tokio::task::block_in_place(|| told(&socket, "READY=1"));
    assert!(after.contains("reload refused"), "{after}");

    relay.signal("TERM");
    tokio::task::block_in_place(|| told(&socket, "STOPPING=1"));
    relay.stop().await;
}

#[tokio::test]
async fn a_wrong_file_is_exit_3_and_a_taken_port_exit_4() {
    let scene = Scene::new("sources: {}\n");
    let mut relay = scene.launch(&["run"]);
    assert_eq!(relay.exited().await.code(), Some(3));
    relay.logs("error[").await;

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    scene.write_rules(&format!(
        "sources:
  push: {{ type: webhook, listen: '{address}', path: /hooks/halo, token: {{ env: TOKEN }} }}
destinations:
  chat: {{ type: slack, url: 'http://127.0.0.1:9/services/T0/B0/x' }}
rules: []
unrouted: {{ send: [chat] }}
"
    ));
    let mut relay = scene.launch(&["run"]);
    assert_eq!(relay.exited().await.code(), Some(4));
    relay.logs(&format!("source push cannot listen on {address}")).await;
}
