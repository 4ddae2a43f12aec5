//! A mail's bytes: pure, and the same on every attempt of one delivery but for the date.
//!
//! - Text first, HTML last, both UTF-8 and quoted-printable: whatever the event says, the raw message has short ASCII lines
//!   and no boundary but ours. (A line of a single dot is doubled on its way, in `smtp`.)
//! - Line ends are normalised first, a lone CR too: servers disagree on what ends a line, and smuggling lives off that.
//! - Header values lose their control characters. lettre would encode them, but mail programs decode them again; in a
//!   display name lettre panics on a line break.

use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};

use super::Settings;
use crate::model::{DeliveryId, Timestamp};

/// The message as it goes after DATA, before dot-stuffing. All lines end in CRLF and are ASCII.
pub(super) fn build(
    settings: &Settings,
    id: &DeliveryId,
    subject: &str,
    text: &str,
    html: Option<&str>,
    now: Timestamp,
) -> Result<Vec<u8>, lettre::error::Error> {
    let date = UNIX_EPOCH + Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(0));
    let mut builder = lettre::Message::builder()
        .message_id(Some(format!("<{id}@{}>", settings.from.email.domain())))
        .date(date)
        .from(clean_mailbox(&settings.from))
        .subject(clean_header(subject))
        // No out-of-office answers to a machine: RFC 3834, and Exchange's own header.
        .raw_header(header(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated"))
        .raw_header(header(HeaderName::new_from_ascii_str("X-Auto-Response-Suppress"), "All"));
    for to in &settings.to {
        builder = builder.to(clean_mailbox(to));
    }
    let text = part(ContentType::TEXT_PLAIN, text);
    let message = match html {
        None => builder.singlepart(text)?,
        Some(html) => {
            // RFC 2045, 6.7: `=_` cannot occur in quoted-printable text, so this cannot occur in a part.
            let parts = MultiPart::alternative().boundary(format!("=_{id}"));
            builder.multipart(parts.singlepart(text).singlepart(part(ContentType::TEXT_HTML, html)))?
        }
    };
    Ok(message.formatted())
}

fn header(name: HeaderName, value: &str) -> HeaderValue {
    HeaderValue::new(name, value.to_owned())
}

fn part(kind: ContentType, text: &str) -> SinglePart {
    // lettre turns each LF into CRLF.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    SinglePart::builder().header(kind).header(ContentTransferEncoding::QuotedPrintable).body(text)
}

fn clean_mailbox(mailbox: &Mailbox) -> Mailbox {
    Mailbox::new(mailbox.name.as_deref().map(clean_header), mailbox.email.clone())
}

fn clean_header(value: &str) -> String {
    value.chars().map(|letter| if breaks_lines(letter) { ' ' } else { letter }).collect()
}

fn breaks_lines(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use mail_parser::{Message, MessageParser, MimeHeaders as _};

    use super::*;
    use crate::deliver::email::Tls;

    fn settings() -> Settings {
        Settings {
            host: "localhost".to_owned(),
            port: 25,
            tls: Tls::None,
            login: None,
            from: "Halo relay <relay@example.org>".parse().unwrap(),
            to: vec!["a@example.org".parse().unwrap(), "B <b@example.org>".parse().unwrap()],
            ca_file: None,
        }
    }

    fn raw(subject: &str, text: &str, html: Option<&str>) -> Vec<u8> {
        let id = DeliveryId::new("k3", 255);
        build(&settings(), &id, subject, text, html, Timestamp::from_millis(1_445_412_480_000)).unwrap()
    }

    fn parse(raw: &[u8]) -> Message<'_> {
        MessageParser::default().parse(raw).unwrap()
    }

    /// No reader of any kind may find a line end that is not CRLF, a long line, or a byte that needs 8BITMIME.
    fn assert_plain_lines(raw: &[u8]) {
        let text = str::from_utf8(raw).unwrap();
        assert!(text.is_ascii() && text.ends_with("\r\n"));
        for line in text.split("\r\n") {
            assert!(!line.contains(['\r', '\n', '\0']) && line.len() <= 998, "{line:?}");
        }
    }

    #[test]
    fn headers() {
        let raw = raw("HIGH · certificate", "text", Some("<p>html</p>"));
        assert_plain_lines(&raw);
        let mail = parse(&raw);
        let header = |name: &str| mail.header_raw(name.to_owned()).map(|value| value.trim().to_owned());
        let expected = [
            ("Message-ID", "<hr_k3_ff@example.org>"),
            ("Date", "Wed, 21 Oct 2015 07:28:00 +0000"),
            ("From", "\"Halo relay\" <relay@example.org>"),
            ("Auto-Submitted", "auto-generated"),
            ("X-Auto-Response-Suppress", "All"),
            ("MIME-Version", "1.0"),
        ];
        for (name, value) in expected {
            assert_eq!(header(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(mail.subject(), Some("HIGH · certificate"));
        let to: Vec<_> = mail.to().unwrap().iter().map(|address| address.address().unwrap()).collect();
        assert_eq!(to, ["a@example.org", "b@example.org"]);
        assert_eq!(mail.content_type().unwrap().subtype(), Some("alternative"));
        let kinds: Vec<_> = mail.parts.iter().skip(1).map(|part| part.content_type().unwrap().subtype()).collect();
        assert_eq!(kinds, [Some("plain"), Some("html")]);
    }

    #[test]
    fn repeats_are_identical() {
        assert_eq!(raw("s", "t", Some("h")), raw("s", "t", Some("h")));
    }

    #[test]
    fn hostile_text_stays_text() {
        let long = "x".repeat(64 * 1024);
        let bodies = [
            "",
            ".",
            "a\n.\nb",
            "a\r\n.\r\nMAIL FROM:<evil@example.org>\r\n",
            "a\r.\rb",
            "a\n.\r\nb",
            "a\r\n.\nb",
            "nul \0 and bell \u{7}",
            "--=_hr_k3_ff--\r\n\r\nend",
            "=_hr_k3_ff = trailing space \nFrom here",
            "ünï\u{2028}cödé 🦀",
            &long,
        ];
        for body in bodies {
            let raw = raw("s", body, Some(body));
            assert_plain_lines(&raw);
            let mail = parse(&raw);
            let expected = body.replace("\r\n", "\n").replace('\r', "\n");
            for index in [1, 2] {
                let part = mail.part(index).unwrap().text_contents().unwrap();
                assert_eq!(part.replace("\r\n", "\n").trim_end_matches('\n'), expected.trim_end_matches('\n'));
            }
            assert_eq!(mail.parts.len(), 3, "{body:?}");
        }
    }

    #[test]
    fn text_alone_needs_no_parts() {
        let raw = raw("s", "just text", None);
        assert_plain_lines(&raw);
        let mail = parse(&raw);
        assert_eq!((mail.parts.len(), mail.body_text(0).as_deref()), (1, Some("just text\r\n")));
    }

    #[test]
    fn header_values_cannot_break_out() {
        let evil = "a\r\nBcc: evil@example.org\r\n\r\nbody\0\u{85}\u{2028}b";
        let raw = raw(evil, "text", None);
        assert_plain_lines(&raw);
        let mail = parse(&raw);
        assert_eq!(mail.subject(), Some("a  Bcc: evil@example.org    body   b"));
        assert!(mail.bcc().is_none());

        let name = |name: &str| Mailbox::new(Some(name.to_owned()), "relay@example.org".parse().unwrap());
        let settings = Settings { from: name(evil), to: vec![name(evil)], ..settings() };
        let raw = build(&settings, &DeliveryId::new("k3", 1), "s", "t", None, Timestamp::default()).unwrap();
        assert_plain_lines(&raw);
        assert!(parse(&raw).bcc().is_none());
    }
}
