//! Where secrets come from: the environment, files, systemd credentials; and which places of a rules file hold one.
//!
//! What is read here is never part of an error: errors name the variable, file or credential, and only if the name looks
//! like one, because a secret pasted where its name belongs is a common slip.

use std::path::{Path, PathBuf};

use super::file::{Destination, Fallback, Field, File, LATER, MailApi, Reference, Smtp, Source, Span, Strays, Written};
use super::problem::{quoted, reason};
use super::read_bounded;
use crate::model::Secret;

/// What is to be done about secrets that the file only refers to. Literal ones are always read.
#[derive(Clone, Copy)]
pub enum Secrets<'a> {
    /// Read them; one that is missing is an error. For `run` and `check`.
    Required,
    /// Do not look: each becomes a stand-in of the right form, that no one accepts. For `check --no-secrets`, and for
    /// the destinations of a dry run.
    Skipped,
    /// Ask this function instead. For `demo`, which owns all it talks to.
    Answered(&'a dyn Fn(&Asked<'_>) -> String),
}

/// Which secret is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// `sources` or `destinations`.
    pub section: &'static str,
    /// The name of the source or destination.
    pub name: &'a str,
    /// Its `type`.
    pub kind: &'static str,
    /// `api_key`, `token`, `url`, `secret`, or with its table `smtp.password` and `api.key`.
    pub field: &'static str,
}

/// Where secrets are looked up, so that tests can say what is there.
#[derive(Clone, Copy)]
pub struct Vault<'a> {
    /// An environment variable; `None` if it is not set or not UTF-8.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// What relative paths are relative to: the directory of the rules file.
    pub directory: &'a Path,
}

/// Where one secret is kept, by a name that can be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept<'a> {
    Variable(&'a str),
    File(&'a str),
    Credential(&'a str),
}

/// Why a secret cannot be had, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing {
    pub title: String,
    pub help: String,
}

impl<'a> Kept<'a> {
    pub fn new(reference: &'a Reference) -> Result<Self, Missing> {
        match (&reference.env, &reference.file, &reference.credential) {
            (Some(env), None, None) if suspect(&env.value) => Err(missing(
                "`env` takes the name of an environment variable",
                "write the variable's name here, like SLACK_URL, and put the secret into the variable",
            )),
            (Some(env), None, None) => Ok(Self::Variable(&env.value)),
            (None, Some(file), None) if file.value.contains("://") => Err(missing(
                "`file` takes the path of a file",
                "write the file's path here, and put the secret into the file",
            )),
            (None, Some(file), None) => Ok(Self::File(&file.value)),
            (None, None, Some(name)) if name.value.contains('/') || matches!(name.value.as_str(), "" | "." | "..") => {
                Err(missing("`credential` takes a name, not a path", "write the name given to LoadCredential="))
            }
            (None, None, Some(name)) => Ok(Self::Credential(&name.value)),
            _ => Err(missing(
                "a secret is kept in exactly one place",
                "write one of { env: NAME }, { file: PATH } and { credential: NAME }",
            )),
        }
    }
}

impl Vault<'_> {
    /// One line end after the value is dropped, as editors and `echo` leave one.
    pub fn read(&self, kept: Kept<'_>) -> Result<Secret, Missing> {
        let value = match kept {
            Kept::Variable(name) => self.read_variable(name)?,
            Kept::File(path) => read_path(&self.directory.join(path), "file")?,
            Kept::Credential(name) => self.read_credential(name)?,
        };
        let value = value.strip_suffix('\n').map_or(value.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        Ok(Secret::new(value))
    }

    fn read_variable(&self, name: &str) -> Result<String, Missing> {
        match (self.variable)(name) {
            None => Err(missing(
                format!("the environment variable {} is not set", quoted(name)),
                format!("set it where the relay starts (EnvironmentFile= in the systemd unit), or export {name}=…"),
            )),
            Some(value) if value.trim().is_empty() => Err(missing(
                format!("the environment variable {} is empty", quoted(name)),
                "give it the secret as its value",
            )),
            Some(value) => Ok(value),
        }
    }

    fn read_credential(&self, name: &str) -> Result<String, Missing> {
        let help =
            format!("put the secret into /etc/credstore/{name}, and LoadCredential={name} into the systemd unit");
        let Some(directory) = (self.variable)("CREDENTIALS_DIRECTORY") else {
            let title = format!("the credential {} cannot be read: CREDENTIALS_DIRECTORY is not set", quoted(name));
            let by_hand =
                "outside of the unit, check with --no-secrets, or as root with CREDENTIALS_DIRECTORY=/etc/credstore";
            return Err(missing(title, format!("{help}; {by_hand}")));
        };
        read_path(&PathBuf::from(directory).join(name), "credential").map_err(|problem| Missing { help, ..problem })
    }
}

/// A secret is a line; anything longer is some other file.
const BYTES_MAX: u64 = 64 * 1024;

fn read_path(path: &Path, what: &str) -> Result<String, Missing> {
    let name = quoted(&path.to_string_lossy());
    let create = "create it with the secret as its only line, readable by the relay's user alone";
    let bytes = read_bounded(path, BYTES_MAX)
        .map_err(|error| missing(format!("the {what} {name} cannot be read: {}", reason(&error)), create))?;
    let alone = "put the secret alone into it, on one line";
    let bytes = bytes.ok_or_else(|| missing(format!("the {what} {name} is too large for a secret"), alone))?;
    let value = String::from_utf8(bytes).map_err(|_| missing(format!("the {what} {name} is not UTF-8 text"), alone))?;
    if value.trim().is_empty() {
        return Err(missing(format!("the {what} {name} is empty"), alone));
    }
    Ok(value)
}

fn missing(title: impl Into<String>, help: impl Into<String>) -> Missing {
    Missing { title: title.into(), help: help.into() }
}

/// Is this more likely a secret than the name of a variable?
fn suspect(name: &str) -> bool {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.bytes().next().is_none_or(|first| first.is_ascii_digit());
    let is_random = name.len() >= 20 && !name.contains('_') && name.bytes().any(|byte| byte.is_ascii_digit());
    !is_name || is_random
}

/// The places in a file that hold a secret, or that may: also what stands under a field nobody knows, since that may be
/// a secret's field misspelled, and what looks like a secret in a comment.
pub fn literals(file: &File, text: &str) -> Vec<Span> {
    let mut spans = commented(text);
    spans.extend(stray_values(&file.strays));
    for source in file.sources.iter().flat_map(|sources| &sources.value.0).filter_map(|(_, source)| source.as_ref()) {
        let source = &source.value;
        let base_url = source.base_url.as_ref().filter(|url| url.value.contains(['@', '?', '#']));
        spans.extend(base_url.and_then(|url| url.at));
        written(source.api_key.as_ref(), &mut spans);
        written(source.token.as_ref(), &mut spans);
        spans.extend(stray_values(&source.strays));
    }
    let destinations = file.destinations.iter().flat_map(|destinations| &destinations.value.0);
    for destination in destinations.filter_map(|(_, destination)| destination.as_ref()) {
        let destination = &destination.value;
        written(destination.secret.as_ref(), &mut spans);
        for name in ["url", "server", "token", "key", "routing_key", "topic"] {
            written(destination.setting(name), &mut spans);
        }
        spans.extend(stray_values(&destination.strays));
        if let Some(fallback) = &destination.fallback {
            spans.extend(stray_values(&fallback.value.strays));
        }
        if let Some(smtp) = &destination.smtp {
            written(smtp.value.password.as_ref(), &mut spans);
            written(smtp.value.token.as_ref(), &mut spans);
            spans.extend(stray_values(&smtp.value.strays));
        }
        if let Some(api) = &destination.api {
            let api = &api.value;
            for field in [&api.key, &api.access_key_id, &api.secret_access_key, &api.session_token] {
                written(field.as_ref(), &mut spans);
            }
            let url = api.url.as_ref().filter(|url| url.value.contains(['@', '?', '#']));
            spans.extend(url.and_then(|url| url.at));
            spans.extend(stray_values(&api.strays));
        }
    }
    spans
}

fn written(field: Option<&Field<Written>>, spans: &mut Vec<Span>) {
    let Some(field) = field else { return };
    match &field.value {
        Written::Literal(_) | Written::Bare => spans.extend(field.at),
        Written::Reference(reference) => {
            // `{ hunter2 }` is a table with a field of that name: the name is the secret.
            let strangers =
                reference.strays.unknown.iter().filter(|unknown| nearest_reference(&unknown.key.value).is_none());
            spans.extend(strangers.filter_map(|unknown| unknown.key.at));
            spans.extend(stray_values(&reference.strays));
            let env = reference.env.as_ref().filter(|env| suspect(&env.value));
            let others = [&reference.file, &reference.credential].into_iter().flatten();
            spans.extend(
                env.into_iter().chain(others.filter(|path| path.value.contains("://"))).filter_map(|name| name.at),
            );
        }
    }
}

/// The kind of reference a field was meant to name.
pub fn nearest_reference(field: &str) -> Option<&'static str> {
    super::words::nearest(field, Reference::FIELDS.iter().copied())
}

fn stray_values(strays: &Strays) -> impl Iterator<Item = Span> {
    let unknown = strays.unknown.iter().filter(|unknown| !LATER.contains(&unknown.key.value.as_str()));
    let names = strays.unknown.iter().filter(|unknown| !is_plain_name(&unknown.key.value));
    let names = names.filter_map(|unknown| unknown.key.at);
    let unknown = unknown.flat_map(|unknown| unknown.scalars.iter().copied()).chain(names);
    unknown.chain(strays.duplicates.iter().flat_map(|duplicate| duplicate.scalars.iter().copied()))
}

/// The places that may hold a secret in a text that is not YAML, or not of the right shape. Rather too many than too
/// few: whatever follows a secret's name, whatever looks like a URL, a token or a key, and in the sections that hold
/// secrets every word that is not the file format's own.
pub fn guess(text: &str) -> Vec<Span> {
    let mut spans = alike(text);
    let named = regex(
        r#"(?m)(?:^|[\s{,])["']?(?:api_?key|(?:secret_)?access_key(?:_id)?|(?:session_)?token|url|base_url|secret|pass(?:word|wd)?)["']?[ \t]*:"#,
    );
    spans.extend(named.find_iter(text).filter_map(|found| value_after(text, found.start(), found.end())));
    spans.extend(foreign_words(text));
    spans
}

/// What looks like a URL, a token or a key.
fn alike(text: &str) -> Vec<Span> {
    let looks = regex(r#"[^\s"'{},\[\]]*(?:://|xox[a-z]-|whsec_)[^\s"']*|[A-Za-z0-9+/=_-]*[0-9][A-Za-z0-9+/=_-]{19,}"#);
    looks.find_iter(text).map(|found| Span { start: found.start(), end: found.end() }).collect()
}

/// The same in comments, and in names of anchors and aliases: what YAML does not hand on.
fn commented(text: &str) -> Vec<Span> {
    let unseen = regex(r"(?m)(?:^|\s)#.*$|[&*]\S+");
    let mut spans = Vec::new();
    for found in unseen.find_iter(text) {
        let within = alike(found.as_str()).into_iter();
        spans.extend(within.map(|span| Span { start: found.start() + span.start, end: found.start() + span.end }));
    }
    spans
}

/// Sections in which no secret belongs.
const OPEN_SECTIONS: [&str; 9] =
    ["admin", "defaults", "limits", "links", "retention", "rules", "templates_dir", "timezone", "unrouted"];
/// The format's own words, those of presets among them, beside its fields and severities.
const WORDS: [&str; 55] = [
    "about",
    "add",
    "admin",
    "all",
    "answers",
    "as",
    "body",
    "delivered",
    "destinations",
    "digest",
    "docs",
    "email",
    "encoding",
    "eu",
    "example",
    "false",
    "global",
    "halo",
    "headers",
    "http",
    "https",
    "implicit",
    "is",
    "limits",
    "localhost",
    "mailgun",
    "max",
    "mentions",
    "method",
    "none",
    "notice",
    "password",
    "plain",
    "postmark",
    "queue",
    "request",
    "resend",
    "retention",
    "sendgrid",
    "ses",
    "settings",
    "skip",
    "slack",
    "sources",
    "starttls",
    "status",
    "teams",
    "text",
    "together",
    "true",
    "us",
    "values",
    "wait",
    "word",
    "xoauth2",
];

/// Outside the open sections: the words that the format does not know.
fn foreign_words(text: &str) -> Vec<Span> {
    let fields =
        [Source::FIELDS, Destination::FIELDS, Fallback::FIELDS, Smtp::FIELDS, MailApi::FIELDS, Reference::FIELDS]
            .concat();
    let is_known = |word: &str| {
        let is_number = word.len() <= 5 && word.bytes().all(|byte| byte.is_ascii_digit());
        let is_variable = word.contains('_') && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_uppercase());
        let is_duration = word.len() <= 4 && word.trim_end_matches(['s', 'm', 'h', 'd']).parse::<u16>().is_ok();
        is_number
            || is_duration
            || is_variable
            || WORDS.contains(&word)
            || LATER.contains(&word)
            || fields.contains(&word)
    };
    let word = regex(r"[\p{Alphabetic}\p{M}\p{N}_]+");
    let mut spans = Vec::new();
    let (mut at, mut is_open) = (0, false);
    for line in text.split_inclusive('\n') {
        if line.starts_with(|first: char| !first.is_whitespace() && !"-#]}".contains(first)) {
            let section = line.split(':').next().unwrap_or_default().trim_end();
            is_open = line.contains(':') && OPEN_SECTIONS.contains(&section);
        }
        if !is_open {
            let foreign = word.find_iter(line).filter(|found| !is_known(found.as_str()));
            spans.extend(foreign.map(|found| Span { start: at + found.start(), end: at + found.end() }));
        }
        at += line.len();
    }
    spans
}

/// Whether a field nobody knows may be named in a message: not what may be a secret out of its place.
pub fn is_plain_name(name: &str) -> bool {
    name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'-')
}

/// The value that begins at `start`, of a name that begins at or after `name`.
fn value_after(text: &str, name: usize, start: usize) -> Option<Span> {
    let line_end = start + text[start..].find('\n').unwrap_or(text.len() - start);
    let written = text[start..line_end].trim_start();
    let value = line_end - written.len();
    if written.starts_with('{') {
        return None;
    }
    if let Some(quote) = written.chars().next().filter(|first| matches!(first, '"' | '\'')) {
        // An unclosed quote reaches to the end.
        let end = text[value + 1..].find(quote).map_or(text.len(), |length| value + 1 + length + 1);
        return Some(Span { start: value, end });
    }
    let line = text[..=name].rfind('\n').map_or(0, |before| before + 1).min(start);
    let indent = text[line..].len() - text[line..].trim_start_matches([' ', '-']).len();
    let continued = |line: &&str| line.trim().is_empty() || line.len() - line.trim_start().len() > indent;
    let block: Vec<_> = text[line_end..].split_inclusive('\n').skip(1).take_while(continued).collect();
    let is_reference = |line: &str| Reference::FIELDS.iter().any(|field| line.trim_start().starts_with(field));
    if written.is_empty() && block.first().is_some_and(|line| is_reference(line)) {
        return None;
    }
    let end = line_end + 1 + block.iter().map(|line| line.len()).sum::<usize>();
    Some(Span { start: value, end: end.min(text.len()) })
}

#[expect(clippy::expect_used, reason = "the two patterns are constants, tried by every test of this module")]
fn regex(pattern: &str) -> regex::Regex {
    regex::Regex::new(pattern).expect("a constant pattern that compiles")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;

    fn reference(yaml: &str) -> Reference {
        let text = format!("destinations: {{ d: {{ url: {yaml} }} }}");
        let file = file::parse(&text).unwrap();
        let entries = file.destinations.unwrap().value.0;
        let url = entries[0].1.as_ref().unwrap().value.url.clone().unwrap().value;
        let Written::Reference(reference) = url else { panic!("{yaml} is no reference") };
        *reference
    }

    fn read(yaml: &str, directory: &Path) -> Result<Secret, Missing> {
        let variable = |name: &str| match name {
            "SET" => Some("hunter2".to_owned()),
            "EMPTY" => Some(" \n".to_owned()),
            "CREDENTIALS_DIRECTORY" => directory.join("credentials").to_str().map(str::to_owned),
            _ => None,
        };
        let reference = reference(yaml);
        Vault { variable: &variable, directory }.read(Kept::new(&reference)?)
    }

    #[test]
    fn secrets_that_are_there() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("credentials")).unwrap();
        std::fs::write(directory.path().join("credentials/slack"), "hunter3\n").unwrap();
        std::fs::write(directory.path().join("key"), "hunter4\r\n").unwrap();
        std::fs::write(directory.path().join("lines"), "hunter5\n\n").unwrap();
        let absolute = format!("{{ file: {} }}", directory.path().join("key").display());
        let cases = [
            ("{ env: SET }", "hunter2"),
            ("{ credential: slack }", "hunter3"),
            ("{ file: key }", "hunter4"),
            (absolute.as_str(), "hunter4"),
            ("{ file: lines }", "hunter5\n"),
        ];
        for (yaml, expected) in cases {
            assert_eq!(read(yaml, directory.path()), Ok(Secret::new(expected)), "{yaml}");
        }
    }

    #[test]
    fn secrets_that_are_not() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("empty"), "\n").unwrap();
        std::fs::write(directory.path().join("huge"), "x".repeat(70_000)).unwrap();
        let cases = [
            ("{ env: UNSET }", "the environment variable `UNSET` is not set"),
            ("{ env: EMPTY }", "the environment variable `EMPTY` is empty"),
            ("{ file: empty }", "is empty"),
            ("{ file: huge }", "is too large"),
            ("{ file: gone }", "cannot be read: there is no such file"),
            ("{ credential: gone }", "cannot be read"),
            ("{ credential: ../key }", "a name, not a path"),
            ("{ env: SET, file: key }", "exactly one place"),
            ("{ }", "exactly one place"),
        ];
        for (yaml, expected) in cases {
            let problem = read(yaml, directory.path()).unwrap_err();
            assert!(problem.title.contains(expected), "{yaml}: {problem:?}");
        }
        let nowhere = Vault { variable: &|_| None, directory: directory.path() };
        let problem = nowhere.read(Kept::Credential("slack")).unwrap_err();
        assert!(problem.title.contains("CREDENTIALS_DIRECTORY is not set"), "{problem:?}");
    }

    #[test]
    fn a_secret_in_the_place_of_its_name_is_not_repeated() {
        for pasted in ["https://hooks.slack.com/x", "xoxb-1-hunter2", "0123456789abcdef01234567", "9lives", "\"\""] {
            let problem = read(&format!("{{ env: {pasted} }}"), Path::new("/")).unwrap_err();
            assert_eq!(problem.title, "`env` takes the name of an environment variable", "{pasted}");
            assert!(!format!("{problem:?}").contains("hunter2"), "{problem:?}");
        }
    }

    #[test]
    fn what_is_blanked_in_a_file_that_reads() {
        let text = "
sources:
  a: { type: halo, api_key: SECRET0, base_url: https://u:SECRET1@x }
  b: { type: webhook, token: \"SECRET2\", tokn: SECRET3 }
destinations:
  c: { url: 12345678, urll: [SECRET4, { x: SECRET5 }], token: { hunter_SECRET6 } }
  d: { url: { env: https://SECRET7 }, smtp: { password: 'SECRET8', pasword: SECRET9 } }
  e: { secret: { envs: SECRET10 }, token: { file: https://SECRET11 }, url: { env: FINE }, url: SECRET12 }
  f:
    secret: |
      SECRET13
      SECRET14
  # url: https://SECRET15
  g: { url: { env: FINE }, limit: 1/1s }  # was https://SECRET16
";
        let file = file::parse(text).unwrap();
        let shown = blank(text, &literals(&file, text));
        assert!(!shown.contains("SECRET") && !shown.contains("12345678"), "{shown}");
        for kept in ["type: halo", "api_key:", "FINE", "urll:", "envs:"] {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    #[test]
    fn what_is_blanked_in_a_file_that_does_not_read() {
        let text = "
rules:
  a: { type: slack, url: SECRET0, limit: 5 }
  b:
    password: SECRET1
      SECRET2
    host: KEPT0
    - token: |
        SECRET3

        SECRET4
      host: KEPT1
    api_key: { env: KEPT2 }
    secret:
      env: KEPT3
    url: 'SECRET5
      more' , KEPT4
  x: see https://SECRET6/path?q=SECRET7 KEPT5
  y: xoxb-SECRET8
  z: 0123456789012345678901234567890123456789
    token: \"SECRET9
SECRET10
";
        let shown = blank(text, &guess(text));
        assert!(!shown.contains("SECRET") && !shown.contains("0123456789"), "{shown}");
        for kept in 0..6 {
            assert!(shown.contains(&format!("KEPT{kept}")), "{kept}: {shown}");
        }
    }

    #[test]
    fn in_the_sections_with_secrets_only_the_formats_own_words_are_shown() {
        let text = "# SECRET0
sources:
  SECRET1: { type: halo, api_key SECRET2, every: 60s, listen: 127.0.0.1:8790 }
destinations:
- { type: slack, { env: SLACK_URL }, SECRET3é }
 }, mention: [SECRET4]
rules:
- { name: KEPT0, severity: high }
SECRET5: 5
";
        let shown = blank(text, &guess(text));
        assert!(!shown.contains("SECRET"), "{shown}");
        for kept in
            ["{ type: halo, api_key ", "every: ", "127.0.0.1:8790", "SLACK_URL", "mention", "KEPT0, severity: high"]
        {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
    }

    #[test]
    fn guessing_takes_any_text() {
        for text in [
            "",
            "url:",
            "url: ",
            "url:\n",
            "token: \"",
            "ü url: ü",
            "password:\n  \n",
            "- - url: x\n   y",
            "\nurl:é\n é",
        ] {
            for span in guess(text) {
                assert!(text.get(std::ops::Range::from(span)).is_some(), "{text:?} {span:?}");
            }
        }
    }

    fn blank(text: &str, spans: &[Span]) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for span in spans {
            bytes[span.start..span.end].fill(b'*');
        }
        String::from_utf8(bytes).unwrap()
    }
}
