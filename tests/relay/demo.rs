//! The demo: one command, and messages of every channel on its page.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{PATIENCE, Scene, free_port};

#[tokio::test]
async fn messages_of_all_channels_come_to_the_page_and_nothing_is_left() {
    let scene = Scene::new("no rules are needed");
    let scratch = scene.rules().with_file_name("tmp");
    std::fs::create_dir(&scratch).unwrap();
    let scene = scene.with("TMPDIR", scratch.to_str().unwrap());
    let port = free_port();
    let mut demo = scene.launch(&["demo", "--listen", &format!("127.0.0.1:{port}")]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let started = Instant::now();
    let mut seen = BTreeSet::new();
    while seen.len() < 4 {
        assert!(started.elapsed() < PATIENCE, "only {seen:?} came\n{}", demo.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
        let Ok(answer) = client.get(format!("http://127.0.0.1:{port}/api/messages")).send().await else { continue };
        let body: Value = serde_json::from_slice(&crate::support::answer_body(answer).await).unwrap();
        let messages = body["messages"].as_array().unwrap().iter();
        seen.extend(messages.map(|message| message["channel"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["email", "slack", "teams", "webhook"]);
    assert_eq!(demo.log(), "", "a demo that goes well logs nothing");
    demo.signal("INT");
    assert!(demo.exited().await.success());
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "the demo left its store behind");
    assert!(!scene.state().exists(), "the demo touched the state directory");
}
