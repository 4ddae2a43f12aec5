//! Mail by SMTP submission: one connection, one message, one transaction.
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

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::time::timeout;

use super::reply::{self, Fault, Phase, Reply};
use super::smtp::{self, Failure, Session};
use super::{Letter, SettingsError, mime};
use crate::deliver::http::{Timeouts, host_is_loopback, root_cause};
use crate::deliver::wrong_content;
use crate::model::{Channel, Outcome, Report, Secret, Timestamp};

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

/// The mail server to hand messages to.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    pub login: Option<Login>,
    /// PEM file of the authorities to trust for this server *instead of* the system's: for a private CA.
    pub ca_file: Option<PathBuf>,
}

/// How we say who we are.
#[derive(Clone, Debug, PartialEq)]
pub enum Login {
    /// AUTH PLAIN, or LOGIN where that is all there is.
    Password { user: String, password: Secret },
    /// AUTH XOAUTH2: <https://developers.google.com/workspace/gmail/imap/xoauth2-protocol>.
    Token { user: String, token: Token },
}

/// An access token, which lasts for an hour or so.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Fixed(Secret),
    /// Read anew for each connection, so that a program beside us can renew it.
    File(PathBuf),
}

impl Token {
    /// Longer files are no tokens; those of Microsoft have two or three KiB.
    const BYTES_MAX: u64 = 64 * 1024;

    /// `None` if the file cannot be read, or holds anything but one line of the characters that a header can carry.
    fn current(&self) -> Option<Secret> {
        let path = match self {
            Self::Fixed(token) => return Some(token.clone()),
            Self::File(path) => path,
        };
        // A pipe would be waited for.
        if !std::fs::metadata(path).ok()?.is_file() {
            return None;
        }
        let mut text = String::new();
        std::fs::File::open(path).ok()?.take(Self::BYTES_MAX).read_to_string(&mut text).ok()?;
        let token = text.trim();
        let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Secret::new(token))
    }
}

impl Server {
    /// All that can be known without reading a file or touching the network.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
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
pub(super) struct Submission {
    server: Server,
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

impl Submission {
    /// Reads the CA file, if one is set.
    pub(super) fn new(server: &Server, timeouts: Timeouts) -> Result<Self, SettingsError> {
        server.check()?;
        Ok(Self {
            server_name: server.server_name()?,
            tls: Arc::new(tls_config(server)?),
            hostname: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
            server: server.clone(),
            timeouts,
        })
    }

    pub(super) async fn send(&self, letter: &Letter, now: Timestamp) -> Report {
        let Ok(mail) = mime::build(letter, now) else { return wrong_content(Channel::Email) };
        let (mut session, refused) = match timeout(self.timeouts.smtp, self.prepare(letter, mail.len())).await {
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
        let report = judge(answer.map_err(drop), letter.to.len(), &refused);
        session.quit(self.timeouts.connect).await;
        report
    }

    /// Everything up to the server's "go ahead": nothing can have arrived when this fails.
    async fn prepare(&self, letter: &Letter, size: usize) -> Result<(Session, Vec<Refused>), Failure> {
        let mut session = self.open().await?;
        match envelope(&mut session, letter, size).await {
            Ok(refused) => Ok((session, refused)),
            Err(failure) => {
                session.quit(self.timeouts.connect).await;
                Err(failure)
            }
        }
    }

    async fn open(&self) -> Result<Session, Failure> {
        let connect = smtp::connect(&self.server.host, self.server.port, self.timeouts.connect);
        let (tcp, local) = connect.await?;
        let name = smtp::client_name(&self.hostname, local);
        let tls = smtp::Upgrade { config: self.tls.clone(), server_name: self.server_name.clone() };
        let mut session = match self.server.tls {
            Tls::Implicit => Session::over_tls(tcp, &tls, &name).await?,
            Tls::StartTls => Session::over_starttls(tcp, &tls, &name).await?,
            Tls::None => Session::in_clear(tcp, &name).await?,
        };
        match &self.server.login {
            None => {}
            Some(Login::Password { user, password }) => session.login(user, password).await?,
            Some(Login::Token { user, token }) => {
                let token = token.current().ok_or(Failure::Unfit(Fault::NoToken, NO_TOKEN))?;
                session.login_with_token(user, &token).await?;
            }
        }
        Ok(session)
    }
}

/// Names the sender and the recipients. Fails if no recipient is left.
async fn envelope(session: &mut Session, letter: &Letter, size: usize) -> Result<Vec<Refused>, Failure> {
    session.mail_from(letter.from.email.as_ref(), size).await?;
    let mut refused = Vec::new();
    for to in &letter.to {
        let reply = session.rcpt_to(to.email.as_ref()).await?;
        if reply.is_positive() {
            continue;
        }
        if !reply::concerns_recipient_only(&reply) {
            return Err(Failure::Refused(Phase::Recipient, reply));
        }
        refused.push(Refused { address: mask(&to.email), reply });
    }
    if refused.len() == letter.to.len() {
        // A mailbox that is full today outweighs one that does not exist: a later attempt may reach it.
        let hopeful = refused.iter().position(|refused| refused.reply.code < 500).unwrap_or(0);
        return Err(Failure::Refused(Phase::Recipient, refused.swap_remove(hopeful).reply));
    }
    session.data().await?;
    Ok(refused)
}

fn judge(answer: Result<std::io::Result<Reply>, ()>, recipients: usize, refused: &[Refused]) -> Report {
    match answer {
        Ok(Ok(reply)) if reply.is_positive() => {
            let report = Report::new(Outcome::Delivered, Some(reply.code), accepted(recipients, refused));
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

fn accepted(total: usize, refused: &[Refused]) -> String {
    let accepted = format!("accepted for {} of {total} recipients", total - refused.len());
    if refused.is_empty() {
        return accepted;
    }
    let named = refused.iter().take(3).map(|Refused { address, reply }| format!("{address} ({})", reply.codes()));
    let more = refused.len().saturating_sub(3);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{accepted}; refused: {}{more}", named.collect::<Vec<_>>().join(", "))
}

const NO_TOKEN: &str = "the token's file cannot be read, or does not hold one token alone";

fn lost(what: &str) -> Report {
    Report::new(Fault::Lost.outcome(), None, what)
}

/// `b…@example.org`: enough to know which one is meant for those who know the list.
fn mask(address: &lettre::Address) -> String {
    let first = address.user().chars().next().unwrap_or('…');
    format!("{first}…@{}", address.domain())
}

fn tls_config(server: &Server) -> Result<ClientConfig, SettingsError> {
    let failed = |error: rustls::Error| SettingsError::Tls(root_cause(&error));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let builder = match &server.ca_file {
        Some(path) => builder.with_root_certificates(read_authorities(path)?),
        // Without TLS no certificate is looked at, and a machine without any must still reach its own mail server.
        None if server.tls == Tls::None => builder.with_root_certificates(rustls::RootCertStore::empty()),
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

    fn server() -> Server {
        Server { host: "mail.example.org".to_owned(), port: 465, tls: Tls::Implicit, login: None, ca_file: None }
    }

    #[test]
    fn servers_that_work() {
        let good = [
            server(),
            Server { host: "192.0.2.1".to_owned(), ..server() },
            Server { tls: Tls::None, host: "127.0.0.1".to_owned(), ..server() },
            Server { tls: Tls::None, host: "localhost".to_owned(), ..server() },
            Server { tls: Tls::None, host: "::1".to_owned(), ..server() },
        ];
        for server in good {
            assert_eq!(server.check(), Ok(()), "{server:?}");
        }
    }

    #[test]
    fn servers_that_do_not() {
        let bad = [
            (Server { tls: Tls::None, ..server() }, SettingsError::ClearText),
            (Server { tls: Tls::None, host: "localhost.example.org".to_owned(), ..server() }, SettingsError::ClearText),
            (Server { host: "mail server".to_owned(), ..server() }, SettingsError::Host),
            (Server { host: String::new(), ..server() }, SettingsError::Host),
        ];
        for (server, expected) in bad {
            assert_eq!(server.check(), Err(expected), "{server:?}");
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
            let server = Server { ca_file: Some(path), ..server() };
            match Submission::new(&server, Timeouts::DEFAULT) {
                Err(SettingsError::Ca { reason, .. }) => reason,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(reason("missing.pem", None), "No such file or directory (os error 2)");
        assert_eq!(reason("empty.pem", Some("")), "it holds no PEM certificate");
        assert!(!reason("bad.pem", Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).is_empty());
    }

    #[test]
    fn tokens_are_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = Token::File(path.clone());
        let current = || token.current().map(|token| token.expose().to_owned());
        assert_eq!(current(), None);
        for (text, expected) in [
            ("ya29.first\n", Some("ya29.first")),
            ("ya29.second", Some("ya29.second")),
            ("", None),
            ("two tokens", None),
            ("line\nbreak", None),
            ("\u{1}", None),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(current().as_deref(), expected, "{text:?}");
        }
        assert_eq!(Token::File(dir.path().to_owned()).current(), None);
        assert_eq!(Token::Fixed(Secret::new("x")).current(), Some(Secret::new("x")));
    }

    #[test]
    fn addresses_are_masked() {
        assert_eq!(mask(&"bob@example.org".parse().unwrap()), "b…@example.org");
    }
}
