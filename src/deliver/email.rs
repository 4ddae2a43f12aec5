//! Email: one letter, and two ways for it to leave.
//!
//! - [`submission`]: to a mail server, by SMTP.
//! - [`api`]: to a mail service, by HTTP: Amazon SES, Mailgun, Postmark, Resend, `SendGrid`.
//!
//! Both carry the same headers, and what is hostile is made harmless before either sees it, in `letter`.

pub mod api;
mod letter;
mod mime;
pub(super) mod reply;
mod smtp;
pub mod submission;

use std::path::PathBuf;

use lettre::message::Mailbox;

use super::http::Clients;
use super::{BuildError, wrong_content};
use crate::model::{Channel, DestinationName, Message, Report, Timestamp};
use letter::Letter;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub way: Way,
    /// Mailboxes as lettre reads them: `relay@example.org` or `Halo relay <relay@example.org>`.
    pub from: Mailbox,
    /// At least one, at most [`RECIPIENTS_MAX`].
    pub to: Vec<Mailbox>,
    /// The destination's own name: with the sender's domain it makes the `List-Id`.
    pub name: DestinationName,
}

/// How mail leaves.
#[derive(Clone, Debug, PartialEq)]
pub enum Way {
    Smtp(submission::Server),
    Api(api::Settings),
}

/// The mail as an SMTP server gets it after DATA, before dots are doubled; `None` for content of the wrong shape.
pub fn bytes(settings: &Settings, message: &Message, now: Timestamp) -> Option<Vec<u8>> {
    mime::build(&Letter::new(settings, message)?, now).ok()
}

/// What common relays take in one message (Amazon SES, Postmark and Resend: 50). A longer list belongs in a mailing list.
pub const RECIPIENTS_MAX: usize = 50;
/// RFC 5321, 4.5.3.1.1.
const LOCAL_PART_BYTES_MAX: usize = 64;
/// RFC 5321, 4.5.3.1.2.
const DOMAIN_BYTES_MAX: usize = 255;

/// Why these settings cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("no recipient is named; `to` takes 1 to {RECIPIENTS_MAX} addresses")]
    NoRecipient,
    #[error("{0} recipients are named, more than {RECIPIENTS_MAX}; use a mailing list's address")]
    TooManyRecipients(usize),
    #[error("an address of `{0}` has letters outside ASCII; write its domain in punycode (`xn--…`)")]
    NotAscii(&'static str),
    #[error(
        "an address of `{0}` is too long, or has quotes or other characters that mail servers read in several ways; \
             use an address of letters, digits, `.`, `-`, `_` and `+`"
    )]
    OddAddress(&'static str),
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
        check_address(&self.from, "from")?;
        self.to.iter().try_for_each(|to| check_address(to, "to"))?;
        match &self.way {
            Way::Smtp(server) => server.check(),
            Way::Api(_) => Ok(()),
        }
    }
}

/// Addresses stand bare in SMTP commands and in bodies of services: what needs quotes is not worth the doubt.
fn check_address(mailbox: &Mailbox, field: &'static str) -> Result<(), SettingsError> {
    let (user, domain) = (mailbox.email.user(), mailbox.email.domain());
    if !user.is_ascii() || !domain.is_ascii() {
        return Err(SettingsError::NotAscii(field));
    }
    // RFC 5322, 3.2.3: the characters of an atom, and the dot.
    let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&byte);
    let in_domain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:[]".contains(&byte);
    let fits = user.len() <= LOCAL_PART_BYTES_MAX
        && domain.len() <= DOMAIN_BYTES_MAX
        && user.bytes().all(is_atom)
        && domain.bytes().all(in_domain);
    if fits { Ok(()) } else { Err(SettingsError::OddAddress(field)) }
}

/// `Halo relay <relay@example.org>`, the name in quotes: without them services take its punctuation for their own.
fn written(mailbox: &Mailbox) -> String {
    match &mailbox.name {
        None => mailbox.email.to_string(),
        Some(name) => {
            let quoted = name.replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{quoted}\" <{}>", mailbox.email)
        }
    }
}

#[derive(Debug)]
pub struct Email {
    settings: Settings,
    sender: Sender,
}

#[derive(Debug)]
enum Sender {
    Smtp(submission::Submission),
    Api(api::Api),
}

impl Email {
    /// Reads the CA file, if one is set.
    pub(super) fn new(settings: &Settings, clients: &Clients) -> Result<Self, BuildError> {
        settings.check()?;
        let sender = match &settings.way {
            Way::Smtp(server) => Sender::Smtp(submission::Submission::new(server, clients.timeouts())?),
            Way::Api(api) => Sender::Api(api::Api::new(api, clients)?),
        };
        let mut settings = settings.clone();
        // A service refuses an address that comes twice.
        let mut seen = std::collections::HashSet::new();
        settings.to.retain(|to| seen.insert(to.email.to_string().to_ascii_lowercase()));
        Ok(Self { settings, sender })
    }

    pub(super) async fn send(&self, message: &Message, now: Timestamp) -> Report {
        let Some(letter) = Letter::new(&self.settings, message) else { return wrong_content(Channel::Email) };
        match &self.sender {
            Sender::Smtp(submission) => submission.send(&letter, now).await,
            Sender::Api(api) => api.send(&letter, message.id.as_str(), now).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use letter::tests::settings;

    #[test]
    fn settings_that_do_not_work() {
        let to = |address: &str| vec![address.parse().unwrap()];
        let long = format!("{}@example.org", "a".repeat(64));
        assert_eq!(Settings { to: to(&long), ..settings() }.check(), Ok(()));
        let bad = [
            (Settings { to: Vec::new(), ..settings() }, SettingsError::NoRecipient),
            (Settings { to: vec![to("a@b.c").remove(0); 51], ..settings() }, SettingsError::TooManyRecipients(51)),
            (Settings { to: to("bob@exämple.org"), ..settings() }, SettingsError::NotAscii("to")),
            (Settings { from: "relay@exämple.org".parse().unwrap(), ..settings() }, SettingsError::NotAscii("from")),
        ];
        for (settings, expected) in bad {
            assert_eq!(settings.check(), Err(expected), "{settings:?}");
        }
    }

    /// Whatever a parser lets through, here or in a later version of it.
    #[test]
    fn odd_addresses() {
        let users =
            ["a b", "\"a b\"", "a\r\nRCPT TO:<evil", "a>", "a<", "a\0", "a,b", "(a)", "\"\"", "a\\b", "a:b", "a;b"];
        for (user, domain) in users.map(|user| (user, "example.org")).into_iter().chain([
            ("a", "example.org>\r\nDATA"),
            ("a", "exam ple.org"),
            ("a", "example.org\0"),
            ("a", &*"x".repeat(256)),
            (&*"x".repeat(65), "example.org"),
        ]) {
            let address = lettre::Address::new_dangerous(user, domain);
            let settings = Settings { to: vec![Mailbox::new(None, address)], ..settings() };
            assert_eq!(settings.check(), Err(SettingsError::OddAddress("to")), "{user:?} {domain:?}");
        }
    }

    #[test]
    fn names_are_quoted() {
        let mailbox = |name: Option<&str>| Mailbox::new(name.map(str::to_owned), "a@example.org".parse().unwrap());
        let cases = [
            (None, "a@example.org"),
            (Some("Joe Sender, jr"), "\"Joe Sender, jr\" <a@example.org>"),
            (Some("a\"b\\c"), "\"a\\\"b\\\\c\" <a@example.org>"),
            (Some("Ünï"), "\"Ünï\" <a@example.org>"),
        ];
        for (name, expected) in cases {
            assert_eq!(written(&mailbox(name)), expected);
        }
    }
}
