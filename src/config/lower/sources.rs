//! `sources:`, where events come from.

use std::time::Duration;

use super::{Checker, listed, secret_place};
use crate::config::file::{At, Field, File, Source, Sp};
use crate::config::problem::{Problem, quoted};
use crate::config::secrets::Asked;
use crate::config::words::nearest;
use crate::deliver::http;
use crate::source::poll::FirstRun;
use crate::source::{Settings, poll, webhook};

/// Where the vendor serves its API: <https://docs.halosecurity.com/api/authentication>.
const BASE_URL: &str = "https://api.halosecurity.com/api/v1";
/// Scans take hours and events are dated to the minute, so a minute is as fresh as the API can be.
const EVERY: Duration = Duration::from_mins(1);
/// The vendor states no rate limit; below this a poller is a burden.
const EVERY_MIN: Duration = Duration::from_secs(10);
/// A server on this machine is the user's own.
const EVERY_MIN_LOCAL: Duration = Duration::from_millis(100);
/// Beyond a day, what is polled is no alert any more.
const EVERY_MAX: Duration = Duration::from_hours(24);
/// Skipping the history keeps the first start from flooding every channel.
const FIRST_RUN: FirstRun = FirstRun::Skip;
/// Longer spans are `all`.
const FIRST_RUN_MAX: Duration = Duration::from_hours(366 * 24);
const PATH: &str = "/hooks/halo";
const PATH_BYTES_MAX: usize = 200;
/// Less holds hardly an event.
const BODY_BYTES_MIN: u64 = 1024;
/// Bodies are held in memory, several at once.
const BODY_BYTES_MOST: u64 = 64 * 1024 * 1024;
/// Shorter tokens can be guessed over the network.
const TOKEN_BYTES_MIN: usize = 16;

const HALO: [&str; 5] = ["type", "api_key", "every", "first_run", "base_url"];
const WEBHOOK: [&str; 5] = ["type", "listen", "path", "token", "max_body"];
const TYPES: [&str; 2] = ["halo", "webhook"];

impl Checker<'_> {
    pub(super) fn sources(&mut self, file: &File) -> Vec<Settings> {
        let Some(field) = &file.sources else {
            if !file.strays.empty.iter().any(|key| key.value == "sources") {
                let example = "`sources:` with a source of type `halo` or `webhook`, as rules.example.yaml shows";
                self.missing_field(self.source.file(), "sources", None, example);
            }
            return Vec::new();
        };
        if field.value.0.is_empty() {
            let problem = Problem::error("empty-value", "there are no sources, so no event would ever come in");
            self.report(problem, field.key, "empty", "add a source of type `halo` or `webhook`");
        }
        let entries = self.entries(&field.value, "source");
        entries.into_iter().filter_map(|(name, source)| self.source(name, source)).collect()
    }

    fn source(&mut self, name: &Sp<String>, source: &Sp<Source>) -> Option<Settings> {
        let source = &source.value;
        let table = format!("the source {}", quoted(&name.value));
        let fields: &[&str] = match source.kind.as_ref().map(|kind| kind.value.as_str()) {
            Some("halo") => &HALO,
            Some("webhook") => &WEBHOOK,
            _ => Source::FIELDS,
        };
        self.strays(&source.strays, &table, fields);
        let Some(kind) = &source.kind else {
            self.missing_field(&table, "type", name.at, "`type: halo` or `type: webhook`");
            return None;
        };
        match kind.value.as_str() {
            "halo" => {
                self.misplaced(&source.present(), &HALO, "a halo source", |_| "webhook sources");
                self.halo(name, source, &table).map(Settings::Halo)
            }
            "webhook" => {
                self.misplaced(&source.present(), &WEBHOOK, "a webhook source", |_| "halo sources");
                self.input(name, source, &table).map(Settings::Webhook)
            }
            _ => {
                self.unknown_type(kind, "source", &TYPES);
                None
            }
        }
    }

    pub(super) fn unknown_type(&mut self, kind: &Field<String>, what: &str, types: &[&str]) {
        let help = match nearest(&kind.value, types.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the types are {}", listed(types)),
        };
        let problem = Problem::error("unknown-type", format!("{} is not a type of {what}", quoted(&kind.value)));
        self.report(problem, kind.at, "unknown type", help);
    }

    fn halo(&mut self, name: &Sp<String>, source: &Source, table: &str) -> Option<poll::Settings> {
        let first_run = source.first_run.as_ref().map_or(Some(FIRST_RUN), |field| self.first_run(field));
        let base_url = source.base_url.as_ref().map_or(Some(BASE_URL.to_owned()), |field| self.base_url(field));
        let local = base_url.as_deref().is_some_and(http::is_to_loopback);
        let every_min = if local { EVERY_MIN_LOCAL } else { EVERY_MIN };
        let every = source.every.as_ref().map_or(Some(EVERY), |field| self.duration(field, every_min, EVERY_MAX));
        let Some(field) = &source.api_key else {
            self.missing_field(table, "api_key", name.at, "`api_key: { env: HALO_API_KEY }`");
            return None;
        };
        let asked = Asked { section: "sources", name: &name.value, kind: "halo", field: "api_key" };
        let api_key = self.secret(asked, field, "skipped-by-this-run")?;
        if api_key.known().is_some_and(|key| !key.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
            self.not_a_header(secret_place(field), "api_key");
            return None;
        }
        Some(poll::Settings {
            name: name.value.as_str().into(),
            base_url: base_url?,
            api_key: api_key.into_secret(),
            every: every?,
            first_run: first_run?,
        })
    }

    pub(super) fn not_a_header(&mut self, at: At, field: &str) {
        let title = format!("`{field}` holds a space, or a character that no HTTP header can carry");
        let help = "copy it again, without quotes, spaces and line breaks";
        self.report(Problem::error("bad-secret", title), at, "the secret from here cannot be sent", help);
    }

    fn first_run(&mut self, field: &Field<String>) -> Option<FirstRun> {
        match field.value.as_str() {
            "skip" => return Some(FirstRun::Skip),
            "all" => return Some(FirstRun::All),
            _ => {}
        }
        let found = self.duration(field, Duration::from_secs(1), FIRST_RUN_MAX).map(FirstRun::Since);
        if found.is_none()
            && let Some(problem) = self.problems.last_mut()
        {
            problem.help = Some("write `skip`, `all`, or how far to look back, like `24h`".to_owned());
        }
        found
    }

    fn base_url(&mut self, field: &Field<String>) -> Option<String> {
        match http::check_url(&field.value, false) {
            Ok(url) if url.query().is_none() && url.fragment().is_none() && url.username().is_empty() => {
                Some(field.value.trim_end_matches('/').to_owned())
            }
            Ok(_) => {
                let problem = Problem::error("bad-url", "a base URL has no user, no `?` and no `#`");
                self.report(problem, field.at, "not a base URL", format!("write it like `{BASE_URL}`"));
                None
            }
            Err(problem) => {
                self.report(Problem::error("bad-url", problem.message), field.at, "not a URL to poll", problem.help);
                None
            }
        }
    }

    fn input(&mut self, name: &Sp<String>, source: &Source, table: &str) -> Option<webhook::Settings> {
        let path = source.path.as_ref().map_or(Some(PATH.to_owned()), |field| self.path(field));
        let body_bytes_max = match &source.max_body {
            Some(field) => self.size(field),
            None => Some(webhook::Settings::BODY_BYTES_MAX),
        };
        let listen = if let Some(field) = &source.listen {
            self.socket_address(field)
        } else {
            self.missing_field(table, "listen", name.at, "`listen: 127.0.0.1:8790`");
            None
        };
        let Some(field) = &source.token else {
            self.missing_field(table, "token", name.at, "`token: { env: HALO_WEBHOOK_TOKEN }`");
            return None;
        };
        let asked = Asked { section: "sources", name: &name.value, kind: "webhook", field: "token" };
        let token = self.secret(asked, field, "skipped-by-this-run")?;
        if token.known().is_some_and(|token| token.expose().len() < TOKEN_BYTES_MIN) {
            let title = format!("the token is shorter than {TOKEN_BYTES_MIN} characters and can be guessed");
            self.report(
                Problem::warning("weak-token", title),
                secret_place(field),
                "too short",
                "make one with `openssl rand -hex 32`",
            );
        }
        Some(webhook::Settings {
            name: name.value.as_str().into(),
            listen: listen?,
            path: path?,
            token: token.into_secret(),
            body_bytes_max: body_bytes_max?,
        })
    }

    fn path(&mut self, field: &Field<String>) -> Option<String> {
        let path = field.value.as_str();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
        if path.starts_with('/') && path.len() <= PATH_BYTES_MAX && path.bytes().all(is_plain) {
            return Some(path.to_owned());
        }
        let problem = Problem::error("bad-path", format!("{} is not a path to take webhooks at", quoted(path)));
        let help = "write `/` and then letters, digits, `/`, `-`, `.`, `_` and `~`, like `/hooks/halo`";
        self.report(problem, field.at, "not a path", help);
        None
    }

    fn size(&mut self, field: &Field<String>) -> Option<usize> {
        let bytes = bytes(&field.value);
        if let Some(bytes) = bytes.filter(|bytes| (BODY_BYTES_MIN..=BODY_BYTES_MOST).contains(bytes)) {
            return usize::try_from(bytes).ok();
        }
        let problem =
            Problem::error("bad-size", format!("{} is not a size that can be used here", quoted(&field.value)));
        let help = "write a number of bytes or of `KiB` or `MiB`, from 1KiB to 64MiB";
        self.report(problem, field.at, if bytes.is_some() { "out of range" } else { "not a size" }, help);
        None
    }
}

/// `65536`, `64KiB`, `1 MiB`, `1MB`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim_start() {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("65536", Some(65536)),
            ("64KiB", Some(65536)),
            (" 1 MiB ", Some(1_048_576)),
            ("1MB", Some(1_000_000)),
            ("0", Some(0)),
            ("", None),
            ("MiB", None),
            ("-1", None),
            ("1.5MiB", None),
            ("1GiB", None),
            ("99999999999999999999", None),
            ("99999999999999999MiB", None),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }
}
