//! Where things are: the state directory, and events given as files.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::{Common, Failure, exit};
use crate::config::problem::reason;
use crate::model::{Event, EventKey, Timestamp};
use crate::store::Reader;
use crate::{catalogue, store};

/// Larger than any webhook body the relay takes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

impl Common {
    /// `--state-dir`, else `$STATE_DIRECTORY` (set by systemd), else `$XDG_STATE_HOME/halo-relay`, else
    /// `~/.local/state/halo-relay`: <https://specifications.freedesktop.org/basedir-spec/latest/>.
    pub fn state_dir(&self) -> Result<PathBuf, Failure> {
        if let Some(given) = &self.state_dir {
            return Ok(given.clone());
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(directories) = set("STATE_DIRECTORY") {
            // systemd joins several with colons; the first is ours.
            let first = std::env::split_paths(&directories).next();
            return Ok(first.unwrap_or(directories));
        }
        let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
        base.map(|base| base.join("halo-relay")).ok_or_else(|| {
            Failure::new(exit::USAGE, "there is no state directory: give --state-dir, or set STATE_DIRECTORY or HOME")
        })
    }

    /// The state directory, if a relay has ever used it.
    pub fn existing_state_dir(&self) -> Result<PathBuf, Failure> {
        let directory = self.state_dir()?;
        let next = "name the relay's with --state-dir (under systemd, as root: /var/lib/halo-relay)";
        let problem = match directory.join(store::FILE_NAME).try_exists() {
            Ok(true) => return Ok(directory),
            Ok(false) => "no relay has used it yet".to_owned(),
            Err(error) => error.kind().to_string(),
        };
        Err(Failure::new(exit::UNREACHABLE, format!("state directory {}: {problem}; {next}", directory.display())))
    }
}

impl Common {
    /// The store to look at, whether or not a relay runs.
    pub(super) fn reader(&self) -> Result<Reader, Failure> {
        Ok(Reader::open(&self.existing_state_dir()?)?)
    }
}

/// A time given on the command line: so long ago (`7d`, `2h 30m`), or RFC 3339 in UTC (`2026-11-23T09:41:00Z`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    Ago(Duration),
    At(Timestamp),
}

impl Since {
    pub(super) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(span) => now.minus(span),
            Self::At(time) => time,
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(span) = humantime::parse_duration(text.trim()) {
            return Ok(Self::Ago(span));
        }
        let time = Timestamp::from_api(text).map(Self::At);
        time.ok_or_else(|| "give how long ago, like 7d or 2h, or a time in UTC, like 2026-11-23T09:41:00Z".to_owned())
    }
}

/// One event from a file (`-` is standard input): flat, wrapped, or the only one in a list.
pub(super) fn read_event(path: &Path) -> Result<Event, Failure> {
    let is_stdin = path == Path::new("-");
    let name = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |what: String| Failure::new(exit::FINDINGS, format!("{name}: {what}"));
    let mut text = Vec::new();
    let read = if is_stdin {
        std::io::stdin().lock().take(FILE_BYTES_MAX).read_to_end(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text))
    };
    read.map_err(|error| Failure::new(exit::UNREACHABLE, format!("{name}: cannot be read: {}", reason(&error))))?;
    let value = serde_json::from_slice(&text).map_err(|error| failed(format!("is not JSON: {error}")))?;
    let mut events = Event::list_from_value(value).map_err(|error| failed(error.to_string()))?;
    match (events.pop(), events.len()) {
        (Some(event), 0) => Ok(event),
        (None, _) => Err(failed("holds no event".to_owned())),
        (Some(_), more) => Err(failed(format!("holds {} events; give one", more + 1))),
    }
}

/// The sample event of a key; of an unknown key, one made up.
pub(super) fn sample_event(key: &str) -> Result<Event, Failure> {
    let key = EventKey::new(key).map_err(|error| Failure::new(exit::USAGE, format!("--key: {error}")))?;
    Ok(catalogue::sample(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let at = |text| Some(Since::At(Timestamp::from_api(text)?));
        let cases = [
            ("7d", Some(Since::Ago(Duration::from_hours(168)))),
            ("2h 30m", Some(Since::Ago(Duration::from_mins(150)))),
            ("2026-11-23T09:41:00Z", at("2026-11-23T09:41:00Z")),
            ("2026-11-23 09:41", at("2026-11-23 09:41")),
            ("yesterday", None),
            ("", None),
            ("-1d", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Since>().ok(), expected, "{text:?}");
        }
    }
}
