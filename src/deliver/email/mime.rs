//! A mail's bytes: pure, and the same on every attempt of one delivery but for the date.
//!
//! Text first, HTML last, both UTF-8 and quoted-printable: whatever the event says, the raw message has short ASCII lines
//! and no boundary but ours. (A line of a single dot is doubled on its way, in `smtp`.)

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};

use super::letter::Letter;
use super::written;
use crate::model::Timestamp;

/// The message as it goes after DATA, before dot-stuffing. All lines end in CRLF and are ASCII.
pub(super) fn build(letter: &Letter, now: Timestamp) -> Result<Vec<u8>, lettre::error::Error> {
    let date = UNIX_EPOCH + Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(0));
    let mut builder = lettre::Message::builder()
        .message_id(Some(letter.message_id.clone()))
        .date(date)
        .raw_header(addresses("From", std::slice::from_ref(&letter.from)))
        .raw_header(addresses("To", &letter.to))
        .subject(letter.subject.clone());
    for (name, value) in &letter.headers {
        builder = builder.raw_header(HeaderValue::new(HeaderName::new_from_ascii_str(name), value.clone()));
    }
    let text = part(ContentType::TEXT_PLAIN, &letter.text);
    let message = match &letter.html {
        None => builder.singlepart(text)?,
        Some(html) => {
            // RFC 2045, 6.7: `=_` cannot occur in quoted-printable text, so this cannot occur in a part.
            let id: String = letter.message_id.chars().take_while(|letter| *letter != '@').skip(1).collect();
            let parts = MultiPart::alternative().boundary(format!("=_{id}"));
            builder.multipart(parts.singlepart(text).singlepart(part(ContentType::TEXT_HTML, html)))?
        }
    };
    Ok(message.formatted())
}

/// A header of addresses. lettre would put them all on one line, which fifty addresses make longer than a line may be.
fn addresses(name: &'static str, mailboxes: &[Mailbox]) -> HeaderValue {
    let bare: Vec<_> = mailboxes.iter().map(|mailbox| mailbox.email.to_string()).collect();
    let written: Vec<_> = mailboxes.iter().map(address).collect();
    // lettre reads the first, to see that there is a sender; the second goes out.
    HeaderValue::dangerous_new_pre_encoded(
        HeaderName::new_from_ascii_str(name),
        bare.join(", "),
        written.join(",\r\n "),
    )
}

fn address(mailbox: &Mailbox) -> String {
    match &mailbox.name {
        Some(name) if !name.is_ascii() => format!("{}\r\n <{}>", encoded_words(name), mailbox.email),
        _ => written(mailbox),
    }
}

/// Encoded words of whole characters, each on a line of its own: RFC 2047, sections 2 and 5.
fn encoded_words(text: &str) -> String {
    /// 45 bytes are 60 in base64, and with `=?utf-8?b?` and `?=` 72 of the 75 that a word may have.
    const BYTES_MAX: usize = 45;

    let mut words = Vec::new();
    let mut word = String::new();
    for letter in text.chars() {
        if word.len() + letter.len_utf8() > BYTES_MAX {
            words.push(std::mem::take(&mut word));
        }
        word.push(letter);
    }
    words.push(word);
    let words = words.iter().map(|word| format!("=?utf-8?b?{}?=", STANDARD.encode(word)));
    words.collect::<Vec<_>>().join("\r\n ")
}

fn part(kind: ContentType, text: &str) -> SinglePart {
    // lettre would do this too, and move the whole text for each line.
    let text = text.replace('\n', "\r\n");
    SinglePart::builder().header(kind).header(ContentTransferEncoding::QuotedPrintable).body(text)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use mail_parser::{Message, MessageParser, MimeHeaders as _};
    use proptest::prelude::*;

    use super::*;
    use crate::deliver::email::Settings;
    use crate::deliver::email::letter::tests::{letter, message, settings};

    fn built(letter: &Letter) -> Vec<u8> {
        build(letter, Timestamp::from_millis(1_445_412_480_000)).unwrap()
    }

    fn raw(subject: &str, text: &str, html: Option<&str>) -> Vec<u8> {
        built(&letter(subject, text, html))
    }

    fn parse(raw: &[u8]) -> Message<'_> {
        MessageParser::default().parse(raw).unwrap()
    }

    /// No reader of any kind may find a line end that is not CRLF, a long line, a byte that needs 8BITMIME, or an encoded
    /// word that breaks RFC 2047: longer than 75, or with a part of a character.
    fn assert_well_formed(raw: &[u8]) {
        static ENCODED: LazyLock<regex::Regex> =
            LazyLock::new(|| regex::Regex::new(r"=\?utf-8\?b\?([A-Za-z0-9+/=]*)\?=").unwrap());
        let text = str::from_utf8(raw).unwrap();
        assert!(text.is_ascii() && text.ends_with("\r\n"));
        for line in text.split("\r\n") {
            assert!(!line.contains(['\r', '\n', '\0']) && line.len() <= 998, "{line:?}");
        }
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        for word in ENCODED.captures_iter(head) {
            assert!(word[0].len() <= 75, "{}", &word[0]);
            let bytes = STANDARD.decode(&word[1]).unwrap();
            assert!(str::from_utf8(&bytes).is_ok(), "{}", &word[0]);
        }
        for line in head.split("\r\n") {
            assert!(line.len() <= 300 && !line.trim().is_empty(), "{line:?}");
        }
    }

    /// Names of all headers, in their order: nothing that a value says may add one.
    fn header_names(raw: &[u8]) -> Vec<String> {
        let head = str::from_utf8(raw).unwrap().split("\r\n\r\n").next().unwrap();
        let lines = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
        lines.map(|line| line.split(':').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn headers() {
        let message = crate::model::Message {
            thread: Some("t".to_owned()),
            ..message("HIGH · certificate", "text", Some("<p>"))
        };
        let raw = built(&Letter::new(&settings(), &message).unwrap());
        assert_well_formed(&raw);
        let mail = parse(&raw);
        let header = |name: &str| mail.header_raw(name.to_owned()).map(|value| value.trim().to_owned());
        let root = "<thread-e3b98a4da31a127d4bde6e43033f66ba@example.org>";
        let expected = [
            ("Message-ID", "<hr_k3_ff@example.org>"),
            ("Date", "Wed, 21 Oct 2015 07:28:00 +0000"),
            ("From", "\"Halo relay\" <relay@example.org>"),
            ("To", "a@example.org,\r\n \"B\" <b@example.org>"),
            ("Auto-Submitted", "auto-generated"),
            ("X-Auto-Response-Suppress", "All"),
            ("List-Id", "<compliance.halo-relay.example.org>"),
            ("In-Reply-To", root),
            ("References", root),
            ("MIME-Version", "1.0"),
        ];
        for (name, value) in expected {
            assert_eq!(header(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(header("Precedence"), None);
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

    fn assert_bodies_arrive(body: &str) {
        let letter = letter("s", body, Some(body));
        let raw = built(&letter);
        assert_well_formed(&raw);
        let mail = parse(&raw);
        assert_eq!(mail.parts.len(), 3, "{body:?}");
        for index in [1, 2] {
            let part = mail.part(index).unwrap().text_contents().unwrap();
            assert_eq!(part.replace("\r\n", "\n").trim_end_matches('\n'), letter.text.trim_end_matches('\n'));
        }
    }

    #[test]
    fn hostile_text_stays_text() {
        let long = "x".repeat(64 * 1024);
        let huge = "\u{1F980}.\n.\r\n".repeat(1_250_000);
        assert!(huge.len() > 10_000_000);
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
            &huge,
        ];
        for body in bodies {
            assert_bodies_arrive(body);
        }
    }

    #[test]
    fn text_alone_needs_no_parts() {
        let raw = raw("s", "just text", None);
        assert_well_formed(&raw);
        let mail = parse(&raw);
        assert_eq!((mail.parts.len(), mail.body_text(0).as_deref()), (1, Some("just text\r\n")));
    }

    fn with_name(name: &str) -> Settings {
        let mailbox = Mailbox::new(Some(name.to_owned()), "relay@example.org".parse().unwrap());
        Settings { from: mailbox.clone(), to: vec![mailbox; 50], ..settings() }
    }

    /// What mail programs show, spaces aside: folding may change their number.
    fn words(text: &str) -> String {
        text.split_whitespace().collect()
    }

    fn assert_lines_arrive(line: &str) {
        let letter = Letter::new(&with_name(line), &message(line, "text", None)).unwrap();
        let raw = built(&letter);
        assert_well_formed(&raw);
        let names = ["Message-ID", "Date", "From", "To", "Subject", "Auto-Submitted", "X-Auto-Response-Suppress"];
        assert!(header_names(&raw).starts_with(&names.map(str::to_owned)), "{:?}", header_names(&raw));
        assert_eq!(header_names(&raw).len(), names.len() + 4, "{:?}", header_names(&raw));
        let mail = parse(&raw);
        assert_eq!(words(mail.subject().unwrap_or_default()), words(&letter.subject), "{line:?}");
        let from = mail.from().unwrap().first().unwrap();
        assert_eq!(from.address(), Some("relay@example.org"), "{line:?}");
        assert_eq!(words(from.name().unwrap_or_default()), words(letter.from.name.as_deref().unwrap_or_default()));
        assert_eq!(mail.to().unwrap().iter().count(), 50, "{line:?}");
    }

    #[test]
    fn header_values_cannot_break_out() {
        let lines = [
            "a\r\nBcc: evil@example.org\r\n\r\nbody\0\u{85}\u{2028}b".to_owned(),
            "Joe Sender, jr".to_owned(),
            "a\"b\\c".to_owned(),
            "evil@example.org>, <x".to_owned(),
            "(comment) [x] ; : <>".to_owned(),
            "x".repeat(64 * 1024),
            "🦀".repeat(16 * 1024),
            "ü ".repeat(1024),
            "a\u{202E}b".to_owned(),
            "\u{7f}\u{80}".to_owned(),
        ];
        for line in &lines {
            assert_lines_arrive(line);
        }
    }

    proptest! {
        #[test]
        fn any_body_arrives(body in prop_oneof![any::<String>(), "[\\r\\n.=\\x00 -~\u{e9}\u{1f980}]{0,400}"]) {
            assert_bodies_arrive(&body);
        }

        #[test]
        fn any_header_value_arrives(line in prop_oneof!["\\PC{0,300}", "[\\r\\n\\x00-\\x7f]{0,200}", "[a-z<>@,;:\"\\\\ \u{e9}]{1,200}"]) {
            // What reads like an encoded word is decoded by its readers; `render` breaks it up before.
            assert_lines_arrive(&line.replace("=?", "= ?"));
        }
    }
}
