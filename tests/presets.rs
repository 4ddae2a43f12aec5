//! Every service that is described by data against a strict fake of it: what goes out, and what each answer is taken for.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/http.rs"]
mod http;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use halo_relay::deliver::preset::Settings;
use halo_relay::deliver::{self, Clients, Notifier};
use halo_relay::model::{Content, DeliveryId, Message, Outcome, PresetName, Report, Secret, Timestamp};
use halo_relay::preset::{self, Kind, Preset, Wait};
use http::{FakeHttp, Reply, Request};
use serde_json::{Value, json};

/// 2015-10-21T07:28:00Z
const NOW: Timestamp = Timestamp::from_millis(1_445_412_480_000);

/// One service at the fake's address, every setting filled: a URL with that, all else with `s3cret`.
struct Service {
    name: &'static str,
    fake: FakeHttp,
    preset: Preset,
    clients: Clients,
}

impl Service {
    async fn start(name: &'static str) -> Self {
        let fake = FakeHttp::start(Reply::status(500)).await;
        let mut preset = preset::find(name).unwrap().as_ref().clone();
        if let Some(rest) = preset.request.url.strip_prefix("https://") {
            let path = rest.find('/').map_or("", |at| &rest[at..]);
            preset.request.url = fake.url(path);
        }
        Self { name, fake, preset, clients: Clients::new().unwrap() }
    }

    fn settings(&self) -> deliver::Settings {
        let values = self.preset.settings.iter().map(|(name, setting)| {
            let value = match setting.is {
                Kind::Url => self.fake.url("/hook/s3cret"),
                Kind::Secret => "s3cret key".replace(' ', "+"),
                Kind::Text => format!("some {name}"),
            };
            (name.clone(), Secret::new(value))
        });
        let values: BTreeMap<_, _> = values.collect();
        let preset = Arc::new(self.preset.clone());
        deliver::Settings::Http(Settings { name: PresetName::new(self.name), preset, values })
    }

    /// Sends once and looks at what came and what was made of the answer.
    async fn answer(&mut self, reply: Reply) -> (Request, Report) {
        let notifier = Notifier::new(&self.settings(), &self.clients).unwrap();
        assert!(!format!("{notifier:?}").contains("s3cret"), "{notifier:?}");
        self.fake.then(reply);
        let content = Content::Json(json!({"text": "HIGH · a & b", "list": [1, "ü"]}));
        let message = Message { id: DeliveryId::new("k3", 255), content, thread: None, reply_to: None };
        let report = notifier.send(&message, NOW).await;
        let request = self.fake.request().await;
        assert!(self.fake.try_request().is_none(), "{}: sent twice", self.name);
        for secret in ["s3cret", "HIGH", "http://", "https://"] {
            assert!(!report.detail.contains(secret), "{}: {}", self.name, report.detail);
        }
        (request, report)
    }

    /// What the service says of a message it has taken.
    fn success(&self) -> Reply {
        let asked = &self.preset.delivered;
        let mut body = Value::Null;
        for (pointer, value) in &asked.json {
            put(&mut body, pointer, if value.is_null() { json!("x1") } else { value.clone() });
        }
        let body = asked.body.clone().unwrap_or_else(|| if body.is_null() { String::new() } else { body.to_string() });
        Reply::text(asked.status[0], &body)
    }

    /// An answer with this word where the service puts it.
    fn refusal(&self, status: u16, word: &str, json: &BTreeMap<String, Value>) -> Reply {
        let mut body = json!({"s3cret": "HIGH https://example.org"});
        if let Some(pointer) = &self.preset.word {
            put(&mut body, pointer, word.parse::<i64>().map_or_else(|_| json!(word), |number| json!(number)));
        }
        for (pointer, value) in json {
            put(&mut body, pointer, value.clone());
        }
        Reply::text(status, &body.to_string())
    }
}

/// Puts a value where a pointer points, making what is missing on the way there; numbers are places in lists.
fn put(body: &mut Value, pointer: &str, value: Value) {
    let mut place = body;
    for step in pointer.split('/').skip(1) {
        if let Ok(at) = step.parse::<usize>() {
            assert_eq!(at, 0, "{pointer}");
            if !place.is_array() {
                *place = json!([null]);
            }
            place = &mut place[0];
        } else {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[step];
        }
    }
    *place = value;
}

#[tokio::test]
async fn what_counts_as_delivered() {
    for name in preset::names() {
        let mut service = Service::start(name).await;
        let (_, report) = service.answer(service.success()).await;
        assert_eq!(report.outcome, Outcome::Delivered, "{name}: {}", report.detail);
        if service.preset.delivered.body.is_some() || !service.preset.delivered.json.is_empty() {
            let status = service.preset.delivered.status[0];
            for body in ["", "<html>Welcome</html>", "{}", "[]", "null"] {
                let (_, report) = service.answer(Reply::text(status, body)).await;
                assert_eq!(report.outcome, Outcome::Ambiguous, "{name} {body:?}: {}", report.detail);
            }
        }
        let (_, report) = service.answer(Reply::status(302).with("location", "https://example.org/s3cret")).await;
        assert_eq!(report.outcome, Outcome::RefusedDestination, "{name}");
    }
}

/// Each line of each table is what the answers that it names come to.
#[tokio::test]
async fn lines() {
    for name in preset::names() {
        let mut service = Service::start(name).await;
        for line in service.preset.answers.clone() {
            let statuses = if line.status.is_empty() { vec![400] } else { line.status.clone() };
            let words = if line.word.is_empty() { vec![String::new()] } else { line.word.clone() };
            for (status, word) in statuses.iter().flat_map(|status| words.iter().map(move |word| (*status, word))) {
                let word = word.replace('*', "x");
                let (_, report) = service.answer(service.refusal(status, &word, &line.json)).await;
                let expected = serde_json::to_value(format!("{:?}", line.means)).unwrap();
                let expected = expected.as_str().unwrap().to_lowercase();
                let found = report.outcome.name().replace('_', "");
                assert_eq!(found, expected, "{name} {status} {word:?}: {}", report.detail);
                assert!(
                    word.is_empty() || word.contains([' ', '\'']) || report.detail.contains(&word),
                    "{name}: {}",
                    report.detail
                );
            }
        }
    }
}

#[tokio::test]
async fn what_no_line_speaks_of() {
    let cases = [
        (500, "transient"),
        (400, "refused_content"),
        (401, "refused_destination"),
        (404, "refused_destination"),
        (413, "refused_content"),
        (429, "throttled"),
        (503, "transient"),
    ];
    for name in preset::names() {
        let mut service = Service::start(name).await;
        for (status, expected) in cases {
            let plain = |line: &preset::Answer| line.word.is_empty() && line.json.is_empty();
            if service.preset.answers.iter().any(|line| plain(line) && line.status.contains(&status)) {
                continue;
            }
            let (_, report) = service.answer(Reply::text(status, "no words")).await;
            assert_eq!(report.outcome.name(), expected, "{name} {status}: {}", report.detail);
        }
    }
}

#[tokio::test]
async fn how_long_to_wait() {
    let asked = |report: Report| match report.outcome {
        Outcome::Throttled { wait } => wait,
        other => panic!("{other:?}"),
    };
    for name in preset::names() {
        let mut service = Service::start(name).await;
        let (_, report) = service.answer(Reply::status(429).with("retry-after", "7")).await;
        assert_eq!(asked(report), Some(Duration::from_secs(7)), "{name}");
        let (_, report) = service.answer(Reply::status(429)).await;
        assert_eq!(asked(report), None, "{name}");
        for wait in service.preset.wait.clone() {
            let reply = match &wait {
                Wait::Header(header) => Reply::status(429).with(header.to_lowercase().leak(), "2.5"),
                Wait::EpochHeader(header) => Reply::status(429).with(header.to_lowercase().leak(), "1445412482.5"),
                Wait::Json(pointer) => {
                    let mut body = json!({});
                    put(&mut body, pointer, json!(2.5));
                    Reply::text(429, &body.to_string())
                }
            };
            let (_, report) = service.answer(reply).await;
            assert_eq!(asked(report), Some(Duration::from_millis(2_500)), "{name} {wait:?}");
        }
    }
}
