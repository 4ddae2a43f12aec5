//! Any HTTP service that a [`Preset`] describes: the body with what the preset adds, one request, and what its answer
//! means by the preset's own table.
//!
//! The order in which an answer is read: what the preset calls delivered, the preset's lines from the top, and then what
//! any HTTP answer means.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::contract::{self, Line, Parts, Row, Seen};
use super::http::{self, Answer, Clients, Endpoint, UrlProblem};
use super::{BuildError, wrong_content};
use crate::model::{Channel, Content, Message, Outcome, PresetName, Report, Secret, Timestamp};
use crate::preset::{Delivered, Encoding, Kind, Meaning, Preset, Wait, next_setting, settings_in};

/// A service, and what the destination says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub name: PresetName,
    pub preset: Arc<Preset>,
    /// Of all the preset's settings that have a value, defaults included.
    pub values: BTreeMap<String, Secret>,
}

impl Settings {
    /// Where messages are posted; a secret, for tokens may stand in it.
    pub fn url(&self) -> String {
        let url = &self.preset.request.url;
        self.filled(url, |name, value| {
            let is_url = self.preset.settings.get(name).is_some_and(|setting| setting.is == Kind::Url);
            if is_url { value.trim().trim_end_matches('/').to_owned() } else { percent_encoded(value) }
        })
    }

    /// `text` with each `{name}` replaced by that setting as `write` puts it.
    fn filled(&self, text: &str, write: impl Fn(&str, &str) -> String) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, name, after)) = next_setting(rest) {
            filled.push_str(before);
            if let Some(value) = self.values.get(name) {
                filled.push_str(&write(name, value.expose()));
            }
            rest = after;
        }
        filled + rest
    }

    /// Whether it names a setting that is empty, and is to be left out.
    fn lacks(&self, text: &str) -> bool {
        settings_in(text).any(|name| self.values.get(name).is_some_and(|value| value.expose().trim().is_empty()))
    }

    fn filled_plainly(&self, text: &str) -> String {
        self.filled(text, |_, value| value.trim().to_owned())
    }

    fn filled_everywhere(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.filled_plainly(text)),
            Value::Array(items) => items.iter().map(|item| self.filled_everywhere(item)).collect(),
            Value::Object(members) => {
                members.iter().map(|(name, member)| (name.clone(), self.filled_everywhere(member))).collect()
            }
            other => other.clone(),
        }
    }
}

/// As a part of a path or of a query: all but what RFC 3986 calls unreserved, and the colon of Telegram's tokens.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.trim().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Whether the URL that comes of the settings may be posted to; with what is wrong else, without quoting it.
pub fn check_url(url: &str, allow_http: bool) -> Result<(), UrlProblem> {
    http::check_url(url, allow_http).map(drop)
}

/// One destination, ready to send.
#[derive(Debug)]
pub struct Http {
    name: PresetName,
    preset: Arc<Preset>,
    endpoint: Endpoint,
    method: Method,
    headers: HeaderMap,
    added: Added,
}

/// Blank in `Debug`: keys stand here.
struct Added(Map<String, Value>);

impl std::fmt::Debug for Added {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Added(…)")
    }
}

impl Http {
    pub(super) fn new(settings: &Settings, clients: &Clients) -> Result<Self, BuildError> {
        let request = &settings.preset.request;
        let mut headers = HeaderMap::new();
        let kind = match request.encode {
            Encoding::Json => "application/json; charset=utf-8",
            Encoding::Form => "application/x-www-form-urlencoded",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        for (name, value) in request.headers.iter().filter(|(_, value)| !settings.lacks(value)) {
            let name = HeaderName::try_from(name).map_err(|_| BuildError::Token)?;
            headers.insert(name, sensitive(&settings.filled_plainly(value))?);
        }
        if let Some(basic) = request.basic.as_ref().filter(|basic| !settings.lacks(basic)) {
            let login = STANDARD.encode(settings.filled_plainly(basic));
            headers.insert(AUTHORIZATION, sensitive(&format!("Basic {login}"))?);
        }
        let added = request.add.iter().filter(|(_, value)| !value.as_str().is_some_and(|text| settings.lacks(text)));
        let added = added.map(|(name, value)| (name.clone(), settings.filled_everywhere(value)));
        Ok(Self {
            name: settings.name,
            preset: Arc::clone(&settings.preset),
            endpoint: Endpoint::new(&Secret::new(settings.url()), clients)?,
            method: match request.method {
                crate::preset::Method::Post => Method::POST,
                crate::preset::Method::Put => Method::PUT,
                crate::preset::Method::Patch => Method::PATCH,
            },
            headers,
            added: Added(added.collect()),
        })
    }

    pub(super) const fn channel(&self) -> Channel {
        Channel::Http(self.name)
    }

    pub(super) async fn send(&self, message: &Message, now: Timestamp) -> Report {
        let Some(body) = self.body(&message.content) else { return wrong_content(self.channel()) };
        match self.endpoint.send(self.method.clone(), self.headers.clone(), body, now).await {
            Ok(answer) => judge(&self.preset, &answer, now),
            Err(report) => report,
        }
    }

    fn body(&self, content: &Content) -> Option<Vec<u8>> {
        let Content::Json(Value::Object(members)) = content else { return None };
        let mut members = members.clone();
        members.extend(self.added.0.clone());
        Some(match self.preset.request.encode {
            Encoding::Json => http::json_body(&Value::Object(members)),
            Encoding::Form => form(&members).into_bytes(),
        })
    }
}

fn sensitive(text: &str) -> Result<HeaderValue, BuildError> {
    let mut value = HeaderValue::try_from(text).map_err(|_| BuildError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Texts as they are, everything else as JSON.
fn form(members: &Map<String, Value>) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (name, value) in members {
        match value {
            Value::String(text) => form.append_pair(name, text),
            other => form.append_pair(name, &other.to_string()),
        };
    }
    form.finish()
}

/// What any answer means that the preset does not speak of.
const OTHERS: Parts = &[contract::PAUSE, contract::NOT_TAKEN, contract::GATEWAY_IN_DOUBT, ODD, contract::FAILED];
/// The same where a repeat does no harm.
const OTHERS_OF_REPEATABLE: Parts = &[contract::PAUSE, contract::NOT_TAKEN, ODD, contract::FAILED];

/// A 2xx that is not the preset's success leaves the outcome unknown.
const ODD: &[Row<Seen>] = &[Row {
    seen: Seen::Statuses(200, 299),
    outcome: Outcome::Ambiguous,
    why: "A success, but not as the service tells it: a proxy's, or one cut on its way",
    source: "",
}];

const fn others(preset: &Preset) -> Parts {
    if preset.knows_repeats { OTHERS_OF_REPEATABLE } else { OTHERS }
}

/// What `answer` means by the preset.
pub(super) fn judge(preset: &Preset, answer: &Answer, now: Timestamp) -> Report {
    let body = answer.json();
    if is_delivered(&preset.delivered, answer, body.as_ref()) {
        return answer.report(Outcome::Delivered, None);
    }
    let said = said(preset, body.as_ref());
    let line = preset.answers.iter().find(|line| {
        let by_word = || said.as_deref().is_some_and(|said| line.word.iter().any(|known| is_like(known, said)));
        (line.status.is_empty() || line.status.contains(&answer.status))
            && (line.word.is_empty() || by_word())
            && line.json.iter().all(|(pointer, expected)| has(body.as_ref(), pointer, expected))
    });
    let outcome = match line {
        Some(line) => line.means.outcome(),
        None => contract::decide(others(preset), answer, None),
    };
    let outcome = match outcome {
        Outcome::Throttled { .. } => Outcome::Throttled { wait: wait(preset, answer, body.as_ref(), now) },
        outcome => outcome,
    };
    let odd = (answer.status < 300 && outcome == Outcome::Ambiguous).then_some("not an answer that the service gives");
    let word = said.as_deref().filter(|said| is_word(said));
    answer.report(outcome, word.or(odd))
}

fn is_delivered(asked: &Delivered, answer: &Answer, body: Option<&Value>) -> bool {
    asked.status.contains(&answer.status)
        && asked.body.as_ref().is_none_or(|text| answer.whole && answer.text() == text)
        && asked.json.iter().all(|(pointer, expected)| has(body, pointer, expected))
}

/// Whether this stands there; null asks only that there is something.
fn has(body: Option<&Value>, pointer: &str, expected: &Value) -> bool {
    let found = body.and_then(|body| body.pointer(pointer));
    found.is_some_and(|found| if expected.is_null() { !found.is_null() } else { found == expected })
}

/// What the service gives as its reason.
fn said(preset: &Preset, body: Option<&Value>) -> Option<String> {
    match body?.pointer(preset.word.as_deref()?)? {
        Value::String(said) => Some(said.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Only words and numbers are shown: other text could echo the message.
fn is_word(said: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=64).contains(&said.len()) && said.bytes().all(plain)
}

fn is_like(pattern: &str, word: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => word.starts_with(start),
        None => pattern == word,
    }
}

/// The first wish that is there.
fn wait(preset: &Preset, answer: &Answer, body: Option<&Value>, now: Timestamp) -> Option<Duration> {
    let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
    preset.wait.iter().find_map(|wait| match wait {
        Wait::Header(name) => http::parse_retry_after(header(name)?, now),
        Wait::EpochHeader(name) => {
            let end: f64 = header(name)?.trim().parse().ok()?;
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century are exact")]
            let now = now.as_millis() as f64 / 1_000.0;
            http::bounded_wait((end - now).max(0.0))
        }
        Wait::Json(pointer) => {
            let found = body?.pointer(pointer)?;
            http::bounded_wait(found.as_f64().or_else(|| found.as_str()?.parse().ok())?)
        }
    })
}

impl Meaning {
    const fn outcome(self) -> Outcome {
        match self {
            Self::Delivered => Outcome::Delivered,
            Self::Throttled => contract::THROTTLED,
            Self::Transient => Outcome::Transient,
            Self::Ambiguous => Outcome::Ambiguous,
            Self::RefusedContent => Outcome::RefusedContent,
            Self::RefusedDestination => Outcome::RefusedDestination,
        }
    }
}

/// The preset's contract, for people.
pub(super) fn lines(preset: &Preset) -> Vec<Line> {
    let docs = |source: Option<&String>| {
        source.or(preset.docs.as_ref()).map(|source| format!(" ([source]({source}))")).unwrap_or_default()
    };
    let statuses = |list: &[u16]| list.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let mut seen = format!("HTTP {}", statuses(&preset.delivered.status));
    if let Some(body) = &preset.delivered.body {
        seen.push_str(&format!(" and exactly `{body}`"));
    }
    for (pointer, value) in &preset.delivered.json {
        seen.push_str(&if value.is_null() {
            format!(" and a `{pointer}`")
        } else {
            format!(" and `{pointer}` is `{value}`")
        });
    }
    let why = format!("What the service says of a message it has taken{}", docs(None));
    let mut lines = vec![Line { seen, outcome: Outcome::Delivered, why }];
    for answer in &preset.answers {
        let status = (!answer.status.is_empty()).then(|| format!("HTTP {}", statuses(&answer.status)));
        let word = (!answer.word.is_empty()).then(|| format!("`{}`", answer.word.join("`, `")));
        let stands = |(pointer, value): (&String, &Value)| format!("`{pointer}` `{value}`");
        let json = answer.json.iter().map(stands);
        let seen = [status, word].into_iter().flatten().chain(json).collect::<Vec<_>>().join(" with ");
        let why = format!("{}{}", answer.why, docs(answer.source.as_ref()));
        lines.push(Line { seen, outcome: answer.means.outcome(), why });
    }
    lines.extend(others(preset).iter().copied().flat_map(contract::lines));
    lines
}
