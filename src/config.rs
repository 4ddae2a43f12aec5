//! Configuration: one YAML file in, a [`Config`] the program runs on out, or every problem of the file at once.
//!
//! ```text
//! text ──file──► the YAML as written ──lower──► Config         (settings the modules below have defined and checked)
//!                    │                   │
//!                    └── Fault           └── Problem, …        (file, line, column, what is wrong, what to write)
//! ```
//!
//! Reading is all or nothing: a [`Config`] exists only if there is no error. Secrets are resolved here and nowhere else.
//! `${…}` is not a syntax: a value is what stands in the file, or what a `{ env: … }` refers to.

pub mod check;
pub mod file;
pub mod problem;
pub mod secrets;

mod lower;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::model::{DestinationName, Fallback, LimitName, Mention, Overflow, Retention};
use crate::rate::Window;
use crate::render::{Audience, Renderer};
use crate::routing::RuleSet;
use crate::{deliver, source};

use file::Span;

pub use check::{CheckReport, check, count};
pub use problem::{Problem, Problems, Style};
pub use secrets::{Asked, Secrets};

/// All that a rules file says, checked.
pub struct Config {
    /// At least one, in the file's order.
    pub sources: Vec<source::Settings>,
    pub destinations: BTreeMap<DestinationName, Destination>,
    /// The limits that destinations share; each has at least one window, and all of them hold.
    pub limits: BTreeMap<LimitName, Vec<Window>>,
    /// Where health, metrics and status are served, if anywhere.
    pub admin: Option<Listen>,
    pub rules: Arc<RuleSet>,
    pub retention: Retention,
    /// The built-in templates, and those of `templates_dir`.
    pub templates: Renderer,
    /// The first 12 hexadecimal digits of the SHA-256 of the file's text: tells two versions of it apart.
    pub revision: String,
    pub path: PathBuf,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Problem>,
}

/// One entry of `destinations:`.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    pub settings: deliver::Settings,
    /// Its own. All of them hold, and so do the shared ones.
    pub limits: Vec<Window>,
    /// Those of [`Config::limits`] that it shares with others; each once, and each exists.
    pub shared_limits: Vec<LimitName>,
    pub overflow: Overflow,
    /// [`Fallback::to`] is another destination of the same [`Config`].
    pub fallback: Option<Fallback>,
    /// The template for rules that name none; `None`: `default`.
    pub template: Option<String>,
    pub audience: Audience,
    /// Who is called by messages of rules that name nobody, and by notices.
    pub mention: Vec<Mention>,
}

/// Where the admin pages are served: loopback or a Unix socket, never the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// As the file writes it: `127.0.0.1:8791`, `unix:/run/halo-relay/admin.sock`.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How a file is to be read.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// What to do about the secrets of sources.
    pub sources: Secrets<'a>,
    /// What to do about the secrets of destinations.
    pub destinations: Secrets<'a>,
    /// The environment: `None` if a variable is not set or not UTF-8.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// As the daemon reads it: every secret is needed, and looked up in the process environment.
impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self { sources: Secrets::Required, destinations: Secrets::Required, variable: &environment }
    }
}

impl LoadOptions<'_> {
    /// No secret is looked up: for machines that have none.
    pub fn without_secrets() -> Self {
        Self { sources: Secrets::Skipped, destinations: Secrets::Skipped, ..Self::default() }
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A hundred thousand rules are 9 MiB.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Reads, checks and resolves the file and the templates it names. Opens no socket and writes nothing.
pub fn load(path: &Path, options: &LoadOptions<'_>) -> Result<Config, Problems> {
    load_str(&read(path)?, path, options)
}

/// As [`load`], with the text already at hand. `path` is what problems call it, and what relative paths start from.
pub fn load_str(text: &str, path: &Path, options: &LoadOptions<'_>) -> Result<Config, Problems> {
    let name = path.display().to_string();
    let file = match file::parse(text) {
        Ok(file) => file,
        Err(faults) => {
            let is_name = |span: &Span| {
                let after = faults.names.partition_point(|name| name.start <= span.start);
                faults.names[..after].last().is_some_and(|name| span.end <= name.end)
            };
            let guessed = secrets::guess(text).into_iter().filter(|span| !is_name(span));
            let source = problem::Source::new(&name, text, guessed);
            let problem = |fault: file::Fault| {
                let place = fault.at.map(|at| source.place(at));
                Problem::error(fault.code, fault.title).at(place, fault.label).help(fault.help)
            };
            return Err(Problems::new(faults.list.into_iter().map(problem).collect()));
        }
    };
    let source = problem::Source::new(&name, text, secrets::literals(&file, text));
    lower::lower(&file, text, path, &source, options)
}

fn read(path: &Path) -> Result<String, Problems> {
    let name = path.display();
    let unreadable = |title: String, help: &str| Problems::from(Problem::error("unreadable-file", title).help(help));
    let failed = |error: std::io::Error| {
        let title = format!("{name} cannot be read: {}", problem::reason(&error));
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "name the rules file with `-c FILE` or HALO_RELAY_CONFIG; to begin one, copy rules.example.yaml, which `halo-relay demo` shows at work"
            }
            _ => "name the rules file with `-c FILE` or HALO_RELAY_CONFIG, and let the relay's user read it",
        };
        unreadable(title, help)
    };
    let Some(bytes) = read_bounded(path, FILE_BYTES_MAX).map_err(failed)? else {
        let title = format!("{name} is larger than {} MiB", FILE_BYTES_MAX / 1024 / 1024);
        return Err(unreadable(title, "this is hardly a rules file: check the path"));
    };
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].split(|byte| *byte == b'\n').count();
        unreadable(format!("{name} is not UTF-8 text: line {line} holds another encoding"), "save the file as UTF-8")
    })
}

/// `None` if the file is larger.
fn read_bounded(path: &Path, bytes_max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= bytes_max).then_some(bytes))
}

fn revision(text: &str) -> String {
    use std::fmt::Write as _;
    let mut digits = String::new();
    for byte in Sha256::digest(text.as_bytes()).iter().take(6) {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}
