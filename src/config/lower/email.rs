//! What an email destination says besides what all destinations say: who writes to whom, and how mail leaves.

use std::path::PathBuf;

use lettre::message::Mailbox;

use super::destinations::{Owner, STAND_IN_TOKEN};
use super::listed;
use crate::config::file::{At, Destination as Written, Field, Many, Smtp, Sp};
use crate::config::problem::{Problem, quoted, reason};
use crate::config::read_bounded;
use crate::config::words::nearest;
use crate::deliver::email::{self, RECIPIENTS_MAX, SettingsError};
use crate::model::Secret;

/// What submission servers commonly offer; required then, never given up for plain text.
const DEFAULT_TLS: email::Tls = email::Tls::StartTls;
/// The system's own bundle of all public authorities has 0.2 MiB.
const CA_FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// RFC 7468, section 5.
const PEM_CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

impl Owner<'_, '_> {
    pub(super) fn email(&mut self, written: &Written) -> Option<email::Settings> {
        let from = if let Some(field) = &written.from {
            self.mailbox(&Sp { value: field.value.as_str(), at: field.at })
        } else {
            self.missing("from", "`from: halo-relay@example.org`");
            None
        };
        let to = self.recipients(written.to.as_ref());
        let Some(smtp) = &written.smtp else {
            self.missing("smtp", "`smtp: { host: mail.example.org, username: …, password: { env: SMTP_PASSWORD } }`");
            return None;
        };
        let server = self.smtp(&smtp.value, smtp.key)?;
        let settings = server.settings(from?, to?);
        match settings.check() {
            Ok(()) => Some(settings),
            Err(error) => {
                let smtp = &smtp.value;
                let (code, at) = match &error {
                    SettingsError::ClearText => ("insecure-smtp", smtp.tls.as_ref().and_then(|field| field.at)),
                    SettingsError::NotAscii("from") => {
                        ("bad-mailbox", written.from.as_ref().and_then(|field| field.at))
                    }
                    SettingsError::Host => ("bad-address", smtp.host.as_ref().and_then(|field| field.at)),
                    _ => ("bad-mailbox", written.to.as_ref().and_then(|field| field.at)),
                };
                let text = error.to_string();
                let (title, help) =
                    text.split_once("; ").unwrap_or((&text, "write a host name, like `mail.example.org`"));
                self.checker.report(Problem::error(code, title), at, "refused", help);
                None
            }
        }
    }

    fn recipients(&mut self, field: Option<&Field<Many>>) -> Option<Vec<Mailbox>> {
        let Some(field) = field else {
            self.missing("to", "`to: [oncall@example.org]`");
            return None;
        };
        let items = field.value.items(field.at, self.checker.text);
        if items.is_empty() || items.len() > RECIPIENTS_MAX {
            let problem = Problem::error("bad-mailbox", format!("mail goes to 1 to {RECIPIENTS_MAX} mailboxes"));
            self.checker.report(problem, field.key, "none, or too many", "write one address or a list of them");
            return None;
        }
        let boxes: Vec<_> = items.iter().map(|item| self.mailbox(item)).collect();
        boxes.into_iter().collect()
    }

    fn mailbox(&mut self, item: &Sp<&str>) -> Option<Mailbox> {
        // A display name with a line break makes lettre panic later.
        let clean = !item.value.chars().any(char::is_control);
        match item.value.parse() {
            Ok(mailbox) if clean => Some(mailbox),
            _ => {
                let problem = Problem::error("bad-mailbox", format!("{} is not a mail address", quoted(item.value)));
                let help = "write `oncall@example.org` or `On call <oncall@example.org>`";
                self.checker.report(problem, item.at, "not an address", help);
                None
            }
        }
    }

    fn smtp(&mut self, smtp: &Smtp, at: At) -> Option<Server> {
        self.checker.strays(&smtp.strays, "`smtp`", Smtp::FIELDS);
        let tls = smtp.tls.as_ref().map_or(Some(DEFAULT_TLS), |field| self.tls(field));
        let port = match &smtp.port {
            Some(field) => self.port(field),
            None => tls.map(default_port),
        };
        let login = self.login(smtp);
        let ca_file = smtp.ca_file.as_ref().map(|field| self.ca_file(field));
        let Some(field) = &smtp.host else {
            self.checker.missing_field("`smtp`", "host", at, "`host: mail.example.org`");
            return None;
        };
        let host = self.host(field);
        let ca_file = match ca_file {
            None => None,
            Some(path) => Some(path?),
        };
        Some(Server { host: host?, port: port?, tls: tls?, login: login?, ca_file })
    }

    fn ca_file(&mut self, field: &Field<String>) -> Option<PathBuf> {
        let path = self.checker.directory.join(&field.value);
        let fault = match read_bounded(&path, CA_FILE_BYTES_MAX) {
            Ok(Some(bytes)) if bytes.windows(PEM_CERTIFICATE.len()).any(|window| window == PEM_CERTIFICATE) => {
                return Some(path);
            }
            Ok(Some(_)) => "it holds no certificate in PEM form".to_owned(),
            Ok(None) => "it is too large".to_owned(),
            Err(error) => reason(&error),
        };
        let problem =
            Problem::error("bad-path", format!("the CA file {} cannot be used: {fault}", quoted(&field.value)));
        let help = "name a PEM file of the authorities to trust; a relative path starts from this file";
        self.checker.report(problem, field.at, "not a CA file", help);
        None
    }

    fn host(&mut self, field: &Field<String>) -> Option<String> {
        let host = field.value.trim();
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if is_address || (is_name && !host.is_empty() && host.len() <= 253) {
            return Some(host.to_owned());
        }
        let problem = Problem::error("bad-address", format!("{} is not a host name", quoted(host)));
        let help = "write the mail server's name alone, like `mail.example.org`; the port goes into `port`";
        self.checker.report(problem, field.at, "not a host name", help);
        None
    }

    fn port(&mut self, field: &Field<String>) -> Option<u16> {
        if let Ok(port @ 1..) = field.value.trim().parse() {
            return Some(port);
        }
        let problem = Problem::error("bad-address", format!("{} is not a port", quoted(&field.value)));
        self.checker.report(
            problem,
            field.at,
            "not a port",
            "write a number from 1 to 65535; 587 is usual, 465 with `tls: implicit`",
        );
        None
    }

    fn tls(&mut self, field: &Field<String>) -> Option<email::Tls> {
        match field.value.as_str() {
            "implicit" => return Some(email::Tls::Implicit),
            "starttls" => return Some(email::Tls::StartTls),
            "none" => return Some(email::Tls::None),
            _ => {}
        }
        let known = ["implicit", "starttls", "none"];
        let help = match nearest(&field.value, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of {}", listed(&known)),
        };
        let problem =
            Problem::error("bad-tls", format!("{} is not a way to protect the connection", quoted(&field.value)));
        self.checker.report(problem, field.at, "unknown", help);
        None
    }

    /// The outer `None` is a problem reported, the inner one a server without login.
    #[expect(clippy::option_option, reason = "a failure and an absence, which the caller keeps apart")]
    fn login(&mut self, smtp: &Smtp) -> Option<Option<(String, Secret)>> {
        match (&smtp.username, &smtp.password) {
            (None, None) => Some(None),
            (Some(username), Some(password)) => {
                let password = self.secret("smtp.password", password, STAND_IN_TOKEN)?;
                Some(Some((username.value.clone(), password.into_secret())))
            }
            (Some(username), None) => {
                let example = "`password: { env: SMTP_PASSWORD }`, or remove `username`";
                self.checker.missing_field("`smtp`", "password", username.key, example);
                None
            }
            (None, Some(password)) => {
                let example = "`username`, or remove `password`";
                self.checker.missing_field("`smtp`", "username", password.key, example);
                None
            }
        }
    }
}

/// How mail leaves, checked.
struct Server {
    host: String,
    port: u16,
    tls: email::Tls,
    login: Option<(String, Secret)>,
    ca_file: Option<PathBuf>,
}

impl Server {
    fn settings(self, from: Mailbox, to: Vec<Mailbox>) -> email::Settings {
        let Self { host, port, tls, login, ca_file } = self;
        email::Settings { host, port, tls, login, from, to, ca_file }
    }
}

/// RFC 8314 (465) and RFC 6409 (587); 25 is what a mail server on this machine listens on.
const fn default_port(tls: email::Tls) -> u16 {
    match tls {
        email::Tls::Implicit => 465,
        email::Tls::StartTls => 587,
        email::Tls::None => 25,
    }
}
