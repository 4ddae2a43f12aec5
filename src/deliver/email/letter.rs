//! One mail as its sender means it, before any form on the wire: pure, and the same on every attempt of one delivery.
//!
//! - Header values lose what breaks lines or turns the reading direction, and have a length: mail programs decode what is
//!   encoded, so encoding alone would hand it on.
//! - Line ends of the bodies become `\n`, a lone CR too: servers disagree on what ends a line, and smuggling lives off
//!   that. Other control characters but tabs go.
//! - **Threads.** A mail of a thread names the thread's root, an id that no mail ever had, as what it answers: that groups
//!   the mails in every program that follows `References`, even if the first one was lost. Gmail asks for the same subject
//!   besides, and leaves ungrouped what has another: <https://support.google.com/mail/answer/5900>.
//! - `Precedence: bulk` is not among the headers: it never was standardised, some filters hold it against a mail, and
//!   what it is for, silence from out-of-office answers, `Auto-Submitted` and Exchange's own header ask for.

use lettre::message::Mailbox;
use sha2::{Digest as _, Sha256};

use super::Settings;
use crate::model::{Content, Message};

/// Longer names are cut by every mail program; a line has 998 octets at most (RFC 5322, 2.1.1).
const NAME_CHARS_MAX: usize = 128;
/// As the built-in rendering bounds it, and some more.
const SUBJECT_CHARS_MAX: usize = 250;
/// RFC 2919, 2.
const LIST_ID_BYTES_MAX: usize = 255;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Letter {
    pub(super) from: Mailbox,
    pub(super) to: Vec<Mailbox>,
    /// One line.
    pub(super) subject: String,
    /// With `\n` line ends, like `html`.
    pub(super) text: String,
    pub(super) html: Option<String>,
    /// In its angle brackets; stable, so that a repeat is known for one.
    pub(super) message_id: String,
    /// Names and ASCII values, for programs.
    pub(super) headers: Vec<(&'static str, String)>,
}

impl Letter {
    /// `None` if the content is not a mail's.
    pub(super) fn new(settings: &Settings, message: &Message) -> Option<Self> {
        let Content::Mail { subject, text, html } = &message.content else { return None };
        let domain = settings.from.email.domain();
        let mut headers = vec![
            // No out-of-office answers to a machine: RFC 3834, and Exchange's own header.
            ("Auto-Submitted", "auto-generated".to_owned()),
            ("X-Auto-Response-Suppress", "All".to_owned()),
        ];
        // RFC 2919: what filters of mail programs sort by.
        headers.extend(list_id(settings.name.as_str(), domain).map(|id| ("List-Id", id)));
        if let Some(thread) = &message.thread {
            let root = thread_root(thread, domain);
            headers.extend([("In-Reply-To", root.clone()), ("References", root)]);
        }
        Some(Self {
            from: clean_mailbox(&settings.from),
            to: settings.to.iter().map(clean_mailbox).collect(),
            subject: clean_line(subject, SUBJECT_CHARS_MAX),
            text: clean_body(text),
            html: html.as_deref().map(clean_body),
            message_id: format!("<{}@{domain}>", message.id),
            headers,
        })
    }
}

/// `<compliance.halo-relay.example.org>`; `None` where the sender's domain is an address in brackets.
fn list_id(name: &str, domain: &str) -> Option<String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    let label: String = name.chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect();
    let id = format!("<{label}.halo-relay.{domain}>");
    (!domain.starts_with('[') && id.len() <= LIST_ID_BYTES_MAX).then_some(id)
}

/// A hash, so that nothing of an event shows, and any text makes a well-formed id.
fn thread_root(thread: &str, domain: &str) -> String {
    let hash = Sha256::digest(thread.as_bytes());
    let short = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    format!("<thread-{}@{domain}>", short.concat())
}

fn clean_mailbox(mailbox: &Mailbox) -> Mailbox {
    let name = mailbox.name.as_deref().map(|name| clean_line(name, NAME_CHARS_MAX));
    Mailbox::new(name.filter(|name| !name.is_empty()), mailbox.email.clone())
}

fn clean_line(value: &str, chars_max: usize) -> String {
    let letters = value.chars().filter(|letter| !turns_direction(*letter));
    let line: String = letters.map(|letter| if breaks_lines(letter) { ' ' } else { letter }).take(chars_max).collect();
    line.trim().to_owned()
}

fn breaks_lines(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}')
}

/// The controls of <https://www.unicode.org/reports/tr9/#Directional_Formatting_Characters>.
fn turns_direction(letter: char) -> bool {
    matches!(letter, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

fn clean_body(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    text.chars().filter(|letter| matches!(letter, '\n' | '\t') || !letter.is_control()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::deliver::email::Way;
    use crate::deliver::email::submission::{Server, Tls};
    use crate::model::DeliveryId;

    pub(in crate::deliver::email) fn settings() -> Settings {
        Settings {
            way: Way::Smtp(Server {
                host: "localhost".to_owned(),
                port: 25,
                tls: Tls::None,
                login: None,
                ca_file: None,
            }),
            from: "Halo relay <relay@example.org>".parse().unwrap(),
            to: vec!["a@example.org".parse().unwrap(), "B <b@example.org>".parse().unwrap()],
            name: "compliance".into(),
        }
    }

    pub(in crate::deliver::email) fn message(subject: &str, text: &str, html: Option<&str>) -> Message {
        let (subject, text, html) = (subject.to_owned(), text.to_owned(), html.map(str::to_owned));
        Message {
            id: DeliveryId::new("k3", 255),
            content: Content::Mail { subject, text, html },
            thread: None,
            reply_to: None,
        }
    }

    pub(in crate::deliver::email) fn letter(subject: &str, text: &str, html: Option<&str>) -> Letter {
        Letter::new(&settings(), &message(subject, text, html)).unwrap()
    }

    fn named(name: &str) -> Mailbox {
        Mailbox::new(Some(name.to_owned()), "relay@example.org".parse().unwrap())
    }

    #[test]
    fn lines() {
        let cases = [
            ("plain", "plain"),
            ("a\r\nBcc: evil@example.org\r\n\r\nbody\0\u{85}\u{2028}b", "a  Bcc: evil@example.org    body   b"),
            ("\u{202E}gro.elpmaxe\u{2066}x\u{200F}", "gro.elpmaxex"),
            ("\t \n", ""),
        ];
        for (value, expected) in cases {
            assert_eq!(clean_line(value, 100), expected, "{value:?}");
            assert_eq!(clean_mailbox(&named(value)).name.as_deref(), Some(expected).filter(|name| !name.is_empty()));
        }
        assert_eq!(clean_line(&"🦀".repeat(70_000), SUBJECT_CHARS_MAX).chars().count(), SUBJECT_CHARS_MAX);
    }

    #[test]
    fn bodies() {
        assert_eq!(clean_body("a\r\nb\rc\n\0\u{7}\td\u{9b}"), "a\nb\nc\n\td");
    }

    #[test]
    fn lists() {
        let cases = [
            ("compliance", "example.org", Some("<compliance.halo-relay.example.org>")),
            ("a.b_c-D", "example.org", Some("<a-b_c-D.halo-relay.example.org>")),
            ("x", "[192.0.2.1]", None),
        ];
        for (name, domain, expected) in cases {
            assert_eq!(list_id(name, domain).as_deref(), expected);
        }
        assert_eq!(list_id("x", &"d".repeat(250)), None);
    }

    #[test]
    fn threads() {
        let headers = |thread: Option<&str>| {
            let message = Message { thread: thread.map(str::to_owned), ..message("s", "t", None) };
            let headers = Letter::new(&settings(), &message).unwrap().headers;
            headers.into_iter().filter(|(name, _)| matches!(*name, "In-Reply-To" | "References")).collect::<Vec<_>>()
        };
        assert_eq!(headers(None), []);
        // The hash of an empty text is known to everybody.
        let root = "<thread-e3b0c44298fc1c149afbf4c8996fb924@example.org>".to_owned();
        assert_eq!(headers(Some("")), [("In-Reply-To", root.clone()), ("References", root)]);
        assert_ne!(headers(Some("website-cert-expiring www.example.org")), headers(Some("\r\n>")));
    }

    #[test]
    fn what_is_no_mail_makes_no_letter() {
        let message = Message { content: Content::Json(serde_json::json!({})), ..message("s", "t", None) };
        assert_eq!(Letter::new(&settings(), &message), None);
    }
}
