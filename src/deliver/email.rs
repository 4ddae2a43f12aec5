//! Email over SMTP submission: one connection, one message, one transaction.
//!
//! - **Nothing is lost for one bad address.** The server answers for each recipient; the message goes to those it takes,
//!   and the report counts the others.
//! - **The unknown is small.** Until the end of the message has been sent nothing can have arrived, so whatever fails before
//!   is safe to try again. Only a connection lost between that and the server's acceptance is ambiguous, and the repeat
//!   carries the same `Message-ID`.
//! - **No downgrade.** STARTTLS is required where it is set, and a password goes over TLS or loopback only.
//! - A connection is not kept: mail is rare here, and a connection gone stale would cost a doubt about a message.
//!
//! Reports hold reply codes and masked addresses, never the server's text, which tends to quote addresses.

mod mime;
pub(super) mod reply;
mod smtp;

use std::path::PathBuf;
use std::sync::Arc;

use lettre::message::Mailbox;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::time::timeout;

use super::http::{Timeouts, host_is_loopback, root_cause};
use super::wrong_content;
use crate::model::{Channel, Content, Message, Outcome, Report, Secret, Timestamp};
use reply::{Fault, Phase, Reply};
use smtp::{Failure, Session};

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// From the first byte (port 465).
    Implicit,
    /// By STARTTLS, required (port 587).
    StartTls,
    /// Not at all, to loopback only (port 25).
    None,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    /// Name and password for AUTH.
    pub login: Option<(String, Secret)>,
    /// Mailboxes as lettre reads them: `relay@example.org` or `Halo relay <relay@example.org>`.
    pub from: Mailbox,
    /// At least one, at most [`RECIPIENTS_MAX`].
    pub to: Vec<Mailbox>,
    /// PEM file of the authorities to trust for this server *instead of* the system's: for a private CA.
    pub ca_file: Option<PathBuf>,
}

/// What common relays take in one message (Amazon SES and Postmark: 50). A longer list belongs in a mailing list.
pub const RECIPIENTS_MAX: usize = 50;

/// Why these settings cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("no recipient is named; `to` takes 1 to {RECIPIENTS_MAX} addresses")]
    NoRecipient,
    #[error("{0} recipients are named, more than {RECIPIENTS_MAX}; use a mailing list's address")]
    TooManyRecipients(usize),
    #[error("an address of `{0}` has letters outside ASCII; write its domain in punycode (`xn--…`)")]
    NotAscii(&'static str),
    #[error("`tls: none` would send mail in the clear; use `starttls` or `implicit`, `none` is for loopback only")]
    ClearText,
    #[error("the mail server's `host` is neither a host name nor an IP address")]
    Host,
    #[error("the CA file {path} cannot be used: {reason}")]
    Ca { path: PathBuf, reason: String },
    #[error("TLS cannot be set up: {0} (is the `ca-certificates` package installed?)")]
    Tls(String),
}

impl Settings {
    /// All that can be known without reading a file or touching the network.
    pub fn check(&self) -> Result<(), SettingsError> {
        match self.to.len() {
            0 => return Err(SettingsError::NoRecipient),
            count if count > RECIPIENTS_MAX => return Err(SettingsError::TooManyRecipients(count)),
            _ => {}
        }
        let ascii = |mailbox: &Mailbox| AsRef::<str>::as_ref(&mailbox.email).is_ascii();
        if !ascii(&self.from) {
            return Err(SettingsError::NotAscii("from"));
        }
        if !self.to.iter().all(ascii) {
            return Err(SettingsError::NotAscii("to"));
        }
        if self.tls == Tls::None && !host_is_loopback(&self.host) {
            return Err(SettingsError::ClearText);
        }
        self.server_name().map(drop)
    }

    fn server_name(&self) -> Result<ServerName<'static>, SettingsError> {
        ServerName::try_from(self.host.clone()).map_err(|_| SettingsError::Host)
    }
}

#[derive(Debug)]
pub struct Email {
    settings: Settings,
    timeouts: Timeouts,
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    /// The machine's own name, for EHLO.
    hostname: String,
}

/// A recipient that the server did not take.
struct Refused {
    /// With the local part masked.
    address: String,
    reply: Reply,
}

impl Email {
    /// Reads the CA file, if one is set.
    pub(super) fn new(settings: &Settings, timeouts: Timeouts) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self {
            server_name: settings.server_name()?,
            tls: Arc::new(tls_config(settings)?),
            hostname: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
            settings: settings.clone(),
            timeouts,
        })
    }

    pub(super) async fn send(&self, message: &Message, now: Timestamp) -> Report {
        let Content::Mail { subject, text, html } = &message.content else { return wrong_content(Channel::Email) };
        let Ok(mail) = mime::build(&self.settings, &message.id, subject, text, html.as_deref(), now) else {
            return wrong_content(Channel::Email);
        };
        let (mut session, refused) = match timeout(self.timeouts.smtp, self.prepare(mail.len())).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(failure)) => return failure.report(),
            Err(_) => return lost("no answer from the mail server in time"),
        };
        match timeout(self.timeouts.smtp, session.content(&mail)).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return failure.report(),
            Err(_) => return lost("the mail server did not take the whole message in time"),
        }
        let answer = timeout(self.timeouts.smtp, session.verdict()).await;
        let report = self.judge(answer.map_err(drop), &refused);
        session.quit(self.timeouts.connect).await;
        report
    }

    /// Everything up to the server's "go ahead": nothing can have arrived when this fails.
    async fn prepare(&self, size: usize) -> Result<(Session, Vec<Refused>), Failure> {
        let mut session = self.open().await?;
        match self.envelope(&mut session, size).await {
            Ok(refused) => Ok((session, refused)),
            Err(failure) => {
                session.quit(self.timeouts.connect).await;
                Err(failure)
            }
        }
    }

    async fn open(&self) -> Result<Session, Failure> {
        let connect = smtp::connect(&self.settings.host, self.settings.port, self.timeouts.connect);
        let (tcp, local) = connect.await?;
        let name = smtp::client_name(&self.hostname, local);
        let tls = smtp::Upgrade { config: self.tls.clone(), server_name: self.server_name.clone() };
        let mut session = match self.settings.tls {
            Tls::Implicit => Session::over_tls(tcp, &tls, &name).await?,
            Tls::StartTls => Session::over_starttls(tcp, &tls, &name).await?,
            Tls::None => Session::in_clear(tcp, &name).await?,
        };
        if let Some((user, password)) = &self.settings.login {
            session.login(user, password).await?;
        }
        Ok(session)
    }

    /// Names the sender and the recipients. Fails if no recipient is left.
    async fn envelope(&self, session: &mut Session, size: usize) -> Result<Vec<Refused>, Failure> {
        session.mail_from(self.settings.from.email.as_ref(), size).await?;
        let mut refused = Vec::new();
        for to in &self.settings.to {
            let reply = session.rcpt_to(to.email.as_ref()).await?;
            if reply.is_positive() {
                continue;
            }
            if !reply::concerns_recipient_only(&reply) {
                return Err(Failure::Refused(Phase::Recipient, reply));
            }
            refused.push(Refused { address: mask(&to.email), reply });
        }
        if refused.len() == self.settings.to.len() {
            // A mailbox that is full today outweighs one that does not exist: a later attempt may reach it.
            let hopeful = refused.iter().position(|refused| refused.reply.code < 500).unwrap_or(0);
            return Err(Failure::Refused(Phase::Recipient, refused.swap_remove(hopeful).reply));
        }
        session.data().await?;
        Ok(refused)
    }

    fn judge(&self, answer: Result<std::io::Result<Reply>, ()>, refused: &[Refused]) -> Report {
        match answer {
            Ok(Ok(reply)) if reply.is_positive() => {
                let report = Report::new(Outcome::Delivered, Some(reply.code), self.accepted(refused));
                Report { partial: !refused.is_empty(), ..report }
            }
            Ok(Ok(reply)) => Failure::Refused(Phase::Content, reply).report(),
            Ok(Err(error)) => {
                let cause = root_cause(&error);
                let detail = format!("the connection was lost before the mail server accepted the message ({cause})");
                Report::new(Fault::Unconfirmed.outcome(), None, detail)
            }
            Err(()) => {
                Report::new(Fault::Unconfirmed.outcome(), None, "the mail server did not confirm the message in time")
            }
        }
    }

    fn accepted(&self, refused: &[Refused]) -> String {
        let total = self.settings.to.len();
        let accepted = format!("accepted for {} of {total} recipients", total - refused.len());
        if refused.is_empty() {
            return accepted;
        }
        let named = refused.iter().take(3).map(|Refused { address, reply }| format!("{address} ({})", reply.codes()));
        let more = refused.len().saturating_sub(3);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("{accepted}; refused: {}{more}", named.collect::<Vec<_>>().join(", "))
    }
}

fn lost(what: &str) -> Report {
    Report::new(Fault::Lost.outcome(), None, what)
}

/// `b…@example.org`: enough to know which one is meant for those who know the list.
fn mask(address: &lettre::Address) -> String {
    let first = address.user().chars().next().unwrap_or('…');
    format!("{first}…@{}", address.domain())
}

fn tls_config(settings: &Settings) -> Result<ClientConfig, SettingsError> {
    let failed = |error: rustls::Error| SettingsError::Tls(root_cause(&error));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let builder = match &settings.ca_file {
        Some(path) => builder.with_root_certificates(read_authorities(path)?),
        // Without TLS no certificate is looked at, and a machine without any must still reach its own mail server.
        None if settings.tls == Tls::None => builder.with_root_certificates(rustls::RootCertStore::empty()),
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(provider).map_err(failed)?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    Ok(builder.with_no_client_auth())
}

fn read_authorities(path: &PathBuf) -> Result<rustls::RootCertStore, SettingsError> {
    let failed = |reason: String| SettingsError::Ca { path: path.clone(), reason };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut store = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        store.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(failed("it holds no PEM certificate".to_owned()));
    }
    Ok(store)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            host: "mail.example.org".to_owned(),
            port: 465,
            tls: Tls::Implicit,
            login: None,
            from: "relay@example.org".parse().unwrap(),
            to: vec!["Bob <bob@example.org>".parse().unwrap()],
            ca_file: None,
        }
    }

    #[test]
    fn settings_that_work() {
        let good = [
            settings(),
            Settings { host: "192.0.2.1".to_owned(), ..settings() },
            Settings { tls: Tls::None, host: "127.0.0.1".to_owned(), ..settings() },
            Settings { tls: Tls::None, host: "localhost".to_owned(), ..settings() },
            Settings { tls: Tls::None, host: "::1".to_owned(), ..settings() },
        ];
        for settings in good {
            assert_eq!(settings.check(), Ok(()), "{settings:?}");
        }
    }

    #[test]
    fn settings_that_do_not() {
        let to = |address: &str| vec![address.parse().unwrap()];
        let bad = [
            (Settings { to: Vec::new(), ..settings() }, SettingsError::NoRecipient),
            (Settings { to: vec![to("a@b.c").remove(0); 51], ..settings() }, SettingsError::TooManyRecipients(51)),
            (Settings { to: to("bob@exämple.org"), ..settings() }, SettingsError::NotAscii("to")),
            (Settings { from: "relay@exämple.org".parse().unwrap(), ..settings() }, SettingsError::NotAscii("from")),
            (Settings { tls: Tls::None, ..settings() }, SettingsError::ClearText),
            (
                Settings { tls: Tls::None, host: "localhost.example.org".to_owned(), ..settings() },
                SettingsError::ClearText,
            ),
            (Settings { host: "mail server".to_owned(), ..settings() }, SettingsError::Host),
            (Settings { host: String::new(), ..settings() }, SettingsError::Host),
        ];
        for (settings, expected) in bad {
            assert_eq!(settings.check(), Err(expected), "{settings:?}");
        }
    }

    #[test]
    fn ca_files() {
        let dir = tempfile::tempdir().unwrap();
        let reason = |name: &str, text: Option<&str>| {
            let path = dir.path().join(name);
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let settings = Settings { ca_file: Some(path), ..settings() };
            match Email::new(&settings, Timeouts::DEFAULT) {
                Err(SettingsError::Ca { reason, .. }) => reason,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(reason("missing.pem", None), "No such file or directory (os error 2)");
        assert_eq!(reason("empty.pem", Some("")), "it holds no PEM certificate");
        assert!(!reason("bad.pem", Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).is_empty());
    }

    #[test]
    fn addresses_are_masked() {
        assert_eq!(mask(&"bob@example.org".parse().unwrap()), "b…@example.org");
    }
}
