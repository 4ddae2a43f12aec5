//! A small mail server for the demo: takes mail over SMTP (RFC 5321) on loopback, hands each to a channel, delivers
//! nothing anywhere. Neither TLS nor login.
//!
//! A mail is answered with 250 only when the channel has taken it. Strict where a careless sender would show: lines end
//! in CRLF and nothing else, and only `CRLF.CRLF` ends a mail. Everything is bounded: sessions, lines, sizes,
//! recipients, mistakes, waiting times.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mail_parser::{MessageParser, PartType};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// One mail as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mail {
    /// The envelope's sender; empty for a bounce.
    pub(super) from: String,
    /// The envelope's recipients, at least one.
    pub(super) to: Vec<String>,
    /// Headers and body, dot-stuffing undone, lines ending in CRLF.
    pub(super) bytes: Vec<u8>,
}

/// What a mail program shows of a mail. Members that the mail does not have are empty or `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Letter {
    pub(super) subject: String,
    /// `Name <address>`, or the address alone.
    pub(super) from: String,
    pub(super) to: Vec<String>,
    pub(super) message_id: Option<String>,
    /// What it answers: the root of its thread.
    pub(super) in_reply_to: Option<String>,
    pub(super) text: Option<String>,
    pub(super) html: Option<String>,
}

impl Letter {
    /// Reads headers and the first text and HTML parts. A mail that is not MIME at all gives an empty letter.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let Some(message) = MessageParser::default().parse(bytes) else {
            return Self::default();
        };
        let people = |list: Option<&mail_parser::Address<'_>>| {
            list.map(|list| list.iter().map(person).collect::<Vec<_>>()).unwrap_or_default()
        };
        Self {
            subject: message.subject().unwrap_or_default().to_owned(),
            from: people(message.from()).join(", "),
            to: people(message.to()),
            message_id: message.message_id().map(str::to_owned),
            in_reply_to: message.in_reply_to().as_text().map(str::to_owned),
            text: message.text_part(0).and_then(|part| match &part.body {
                PartType::Text(text) => Some(text.to_string()),
                _ => None,
            }),
            html: message.html_part(0).and_then(|part| match &part.body {
                PartType::Html(html) => Some(html.to_string()),
                _ => None,
            }),
        }
    }
}

fn person(one: &mail_parser::Addr<'_>) -> String {
    let address = one.address().unwrap_or_default();
    one.name().map_or_else(|| address.to_owned(), |name| format!("{name} <{address}>"))
}

/// What one session may use.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// RFC 5321, 4.5.3.1.4, gives 512; senders with long names need a little more.
    command_bytes: usize,
    /// RFC 5321, 4.5.3.1.6, with its CRLF.
    text_line_bytes: usize,
    mail_bytes: usize,
    recipients: usize,
    /// Unknown commands and the like, until we hang up.
    mistakes: usize,
    line_wait: Duration,
}

const LIMITS: Limits = Limits {
    command_bytes: 1024,
    text_line_bytes: 1000,
    mail_bytes: 1024 * 1024,
    recipients: 100,
    mistakes: 10,
    line_wait: Duration::from_mins(1),
};
/// Senders keep pools of idle connections, one pool for each destination.
const SESSIONS_MAX: usize = 64;
/// How much of an oversized mail is read, as a multiple of the limit, to tell its sender so in good order.
const OVERSIZE_READ: usize = 4;

/// Serves until `shutdown`, then cuts the sessions that are still open.
pub(super) async fn serve(listener: TcpListener, mails: mpsc::Sender<Mail>, shutdown: CancellationToken) {
    let seats = Arc::new(Semaphore::new(SESSIONS_MAX));
    let mut sessions = JoinSet::new();
    let accept = async {
        loop {
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
            while sessions.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let mails = mails.clone();
                    sessions.spawn(async move {
                        let (reader, writer) = tokio::io::split(stream);
                        let ended = Session::new(reader, writer, mails, LIMITS).run().await;
                        if let Err(error) = ended {
                            tracing::debug!(%error, "a mail session broke off");
                        }
                        drop(seat);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the demo's mail server could not accept a connection; trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown.cancelled() => {}
    }
}

/// What reading a line can give besides a broken connection.
enum Line {
    /// Without its CRLF.
    Whole(Vec<u8>),
    /// Ended by a bare LF.
    BareLf,
    /// Read to its end, but not kept.
    TooLong(usize),
    End,
}

/// The end of a mail's data.
enum Data {
    Whole(Vec<u8>),
    Refused(&'static str),
    /// No end in sight: hang up.
    Hopeless,
}

struct Session<R, W> {
    reader: BufReader<R>,
    writer: W,
    mails: mpsc::Sender<Mail>,
    limits: Limits,
    greeted: bool,
    from: Option<String>,
    to: Vec<String>,
    mistakes: usize,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Session<R, W> {
    fn new(reader: R, writer: W, mails: mpsc::Sender<Mail>, limits: Limits) -> Self {
        let reader = BufReader::new(reader);
        Self { reader, writer, mails, limits, greeted: false, from: None, to: Vec::new(), mistakes: 0 }
    }

    async fn run(mut self) -> io::Result<()> {
        self.say("220 halo-relay-demo ESMTP").await?;
        loop {
            let reply = match self.line(self.limits.command_bytes).await? {
                Line::End => return Ok(()),
                Line::BareLf => Reply::mistake("500 5.5.2 lines end in CRLF"),
                Line::TooLong(_) => Reply::mistake("500 5.5.2 line too long"),
                Line::Whole(line) => match std::str::from_utf8(&line) {
                    Ok(line) if line.eq_ignore_ascii_case("QUIT") => return self.say("221 2.0.0 bye").await,
                    Ok(line) if line.eq_ignore_ascii_case("DATA") && self.ready_for_data() => {
                        self.say("354 end with CRLF.CRLF").await?;
                        match self.take_mail().await? {
                            Some(reply) => reply,
                            None => return self.say("421 4.3.2 that mail has no end").await,
                        }
                    }
                    Ok(line) => self.command(line),
                    Err(_) => Reply::mistake("500 5.5.2 commands are text"),
                },
            };
            self.mistakes += usize::from(reply.mistake);
            if self.mistakes > self.limits.mistakes {
                return self.say("421 4.7.0 too many mistakes").await;
            }
            self.say(&reply.text).await?;
        }
    }

    fn ready_for_data(&self) -> bool {
        self.from.is_some() && !self.to.is_empty()
    }

    /// Everything but QUIT and a DATA in its place.
    fn command(&mut self, line: &str) -> Reply {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" | "HELO" if rest.trim().is_empty() => Reply::mistake("501 5.5.4 say who you are"),
            "EHLO" => {
                self.greet();
                Reply::new(format!("250-halo-relay-demo\r\n250-SIZE {}\r\n250 8BITMIME", self.limits.mail_bytes))
            }
            "HELO" => {
                self.greet();
                Reply::new("250 halo-relay-demo")
            }
            "MAIL" => self.mail(rest),
            "RCPT" => self.recipient(rest),
            "DATA" => Reply::mistake("503 5.5.1 MAIL and RCPT first"),
            "RSET" => {
                self.forget_mail();
                Reply::new("250 2.0.0 forgotten")
            }
            "NOOP" => Reply::new("250 2.0.0 fine"),
            "VRFY" => Reply::new("252 2.0.0 send and see"),
            "STARTTLS" | "AUTH" => Reply::mistake("502 5.5.1 the demo has neither TLS nor login"),
            _ => Reply::mistake("500 5.5.1 unknown command"),
        }
    }

    fn greet(&mut self) {
        self.greeted = true;
        self.forget_mail();
    }

    fn forget_mail(&mut self) {
        self.from = None;
        self.to.clear();
    }

    fn mail(&mut self, rest: &str) -> Reply {
        if !self.greeted {
            return Reply::mistake("503 5.5.1 EHLO first");
        }
        if self.from.is_some() {
            return Reply::mistake("503 5.5.1 one sender only");
        }
        let Some((address, parameters)) = path_after(rest, "FROM:") else {
            return Reply::mistake("501 5.5.4 MAIL FROM:<address>");
        };
        for parameter in parameters.split_ascii_whitespace() {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match (name.to_ascii_uppercase().as_str(), value.parse::<usize>()) {
                ("SIZE", Ok(bytes)) if bytes > self.limits.mail_bytes => {
                    return Reply::new("552 5.3.4 mail too big");
                }
                ("SIZE", Ok(_)) | ("BODY", _) => {}
                _ => return Reply::mistake("555 5.5.4 unknown parameter"),
            }
        }
        self.from = Some(address.to_owned());
        Reply::new("250 2.1.0 sender fine")
    }

    fn recipient(&mut self, rest: &str) -> Reply {
        if self.from.is_none() {
            return Reply::mistake("503 5.5.1 MAIL first");
        }
        match path_after(rest, "TO:") {
            Some((address, "")) if address.contains('@') && self.to.len() >= self.limits.recipients => {
                Reply::new("452 4.5.3 too many recipients")
            }
            Some((address, "")) if address.contains('@') => {
                self.to.push(address.to_owned());
                Reply::new("250 2.1.5 recipient fine")
            }
            _ => Reply::mistake("501 5.5.4 RCPT TO:<address>"),
        }
    }

    /// Reads the data and hands the mail over; `None` when it is hopeless.
    async fn take_mail(&mut self) -> io::Result<Option<Reply>> {
        let data = self.data().await?;
        let (from, to) = (self.from.take().unwrap_or_default(), std::mem::take(&mut self.to));
        let bytes = match data {
            Data::Whole(bytes) => bytes,
            Data::Refused(reply) => return Ok(Some(Reply::new(reply))),
            Data::Hopeless => return Ok(None),
        };
        let handed_over = self.mails.send_timeout(Mail { from, to, bytes }, self.limits.line_wait).await;
        Ok(Some(Reply::new(if handed_over.is_ok() { "250 2.0.0 taken" } else { "451 4.3.0 the inbox is not there" })))
    }

    async fn data(&mut self) -> io::Result<Data> {
        let (mut mail, mut read) = (Vec::new(), 0_usize);
        let mut fault = None;
        loop {
            match self.line(self.limits.text_line_bytes).await? {
                Line::End => return Err(io::ErrorKind::UnexpectedEof.into()),
                Line::Whole(line) if line == b"." => break,
                Line::Whole(line) => {
                    read += line.len() + 2;
                    mail.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                    mail.extend_from_slice(b"\r\n");
                }
                Line::BareLf => fault = fault.or(Some("554 5.6.0 lines end in CRLF")),
                Line::TooLong(bytes) => {
                    read += bytes;
                    fault = fault.or(Some("554 5.6.0 line too long"));
                }
            }
            if read > self.limits.mail_bytes {
                mail = Vec::new();
                fault = Some("552 5.3.4 mail too big");
            }
            if read >= self.limits.mail_bytes.saturating_mul(OVERSIZE_READ) {
                return Ok(Data::Hopeless);
            }
        }
        Ok(fault.map_or(Data::Whole(mail), Data::Refused))
    }

    /// One line of at most `bytes_max` with its end; a longer one is read on to its end and counted.
    async fn line(&mut self, bytes_max: usize) -> io::Result<Line> {
        let limit = bytes_max as u64;
        let reading = async {
            let mut line = Vec::new();
            (&mut self.reader).take(limit).read_until(b'\n', &mut line).await?;
            if line.is_empty() {
                return Ok(Line::End);
            }
            if line.ends_with(b"\r\n") {
                line.truncate(line.len() - 2);
                return Ok(Line::Whole(line));
            }
            if line.ends_with(b"\n") {
                return Ok(Line::BareLf);
            }
            let mut bytes = line.len();
            let ceiling = self.limits.mail_bytes.saturating_mul(OVERSIZE_READ);
            while bytes < ceiling {
                line.clear();
                (&mut self.reader).take(limit).read_until(b'\n', &mut line).await?;
                bytes += line.len();
                if line.is_empty() || line.ends_with(b"\n") {
                    break;
                }
            }
            Ok(if line.is_empty() { Line::End } else { Line::TooLong(bytes) })
        };
        tokio::time::timeout(self.limits.line_wait, reading).await?
    }

    async fn say(&mut self, reply: &str) -> io::Result<()> {
        let line = format!("{reply}\r\n");
        tokio::time::timeout(self.limits.line_wait, self.writer.write_all(line.as_bytes())).await?
    }
}

struct Reply {
    text: String,
    mistake: bool,
}

impl Reply {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), mistake: false }
    }

    fn mistake(text: &str) -> Self {
        Self { text: text.to_owned(), mistake: true }
    }
}

/// `FROM:<a@b> SIZE=1` is the address and its parameters.
fn path_after<'a>(rest: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let head = rest.get(..word.len())?;
    if !head.eq_ignore_ascii_case(word) {
        return None;
    }
    let (address, parameters) = rest[word.len()..].trim_start().strip_prefix('<')?.split_once('>')?;
    Some((address, parameters.trim()))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const SMALL: Limits = Limits {
        command_bytes: 64,
        text_line_bytes: 40,
        mail_bytes: 100,
        recipients: 2,
        mistakes: 3,
        line_wait: Duration::from_secs(5),
    };

    /// Sends all of `input` and returns the first three digits of each reply line, and the mails that were taken.
    async fn converse(input: &str, limits: Limits) -> (Vec<String>, Vec<Mail>) {
        let (mails, mut taken) = mpsc::channel(8);
        let (client, server) = tokio::io::duplex(64 * 1024);
        let (reader, writer) = tokio::io::split(server);
        let session = tokio::spawn(Session::new(reader, writer, mails, limits).run());
        let (mut answers, mut asks) = tokio::io::split(client);
        let mut output = String::new();
        let (sent, read) = tokio::join!(
            async {
                let sent = asks.write_all(input.as_bytes()).await;
                asks.shutdown().await.ok();
                sent
            },
            answers.read_to_string(&mut output)
        );
        // A session that hung up early does not read the rest.
        drop((sent, read));
        session.await.unwrap().ok();
        let mut mails = Vec::new();
        while let Some(mail) = taken.recv().await {
            mails.push(mail);
        }
        (output.lines().map(|line| line.get(..3).unwrap_or(line).to_owned()).collect(), mails)
    }

    const ENVELOPE: &str = "EHLO relay.example.org\r\nMAIL FROM:<relay@example.org>\r\nRCPT TO:<a@example.org>\r\n";
    /// The replies to `ENVELOPE` and DATA, with the greeting.
    const ENVELOPE_REPLIES: [&str; 7] = ["220", "250", "250", "250", "250", "250", "354"];

    async fn data_reply(data: &str) -> (Vec<String>, Vec<Mail>) {
        let (replies, mails) = converse(&format!("{ENVELOPE}DATA\r\n{data}"), SMALL).await;
        assert_eq!(replies[..7], ENVELOPE_REPLIES, "{data:?}");
        (replies[7..].to_vec(), mails)
    }

    #[tokio::test]
    async fn a_mail_is_taken_with_its_dots() {
        let (replies, mails) = data_reply("Subject: x\r\n\r\n..dot\r\n.stuffed\r\n.\r\nQUIT\r\n").await;
        assert_eq!(replies, ["250", "221"]);
        let expected = Mail {
            from: "relay@example.org".to_owned(),
            to: vec!["a@example.org".to_owned()],
            bytes: b"Subject: x\r\n\r\n.dot\r\nstuffed\r\n".to_vec(),
        };
        assert_eq!(mails, [expected]);
    }

    #[tokio::test]
    async fn several_mails_in_one_session() {
        let mail = "MAIL FROM:<> SIZE=10 BODY=8BITMIME\r\nrcpt to:<b@example.org>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n\r\n.\r\n";
        let input = format!("HELO x\r\n{mail}{mail}NOOP\r\nRSET\r\nVRFY x\r\nquit\r\n");
        let (replies, mails) = converse(&input, SMALL).await;
        let one = ["250", "250", "250", "354", "250"];
        assert_eq!(replies, [&["220", "250"][..], &one, &one, &["250", "250", "252", "221"]].concat());
        assert_eq!(mails.len(), 2);
        assert_eq!((mails[1].from.as_str(), mails[1].to.len()), ("", 2));
    }

    #[tokio::test]
    async fn bad_data_is_refused_and_the_session_goes_on() {
        let long_line = "x".repeat(39);
        let mut big = String::new();
        for _ in 0..12 {
            write!(big, "0123456789\r\n").unwrap();
        }
        let cases = [
            ("bare\nline\r\n.\r\n".to_owned(), "554"),
            // Not an end of data: it must not smuggle a second mail in.
            ("a\r\n\n.\nMAIL FROM:<evil@example.net>\r\n.\r\n".to_owned(), "554"),
            (format!("{long_line}\r\n.\r\n"), "554"),
            (format!("{big}.\r\n"), "552"),
        ];
        for (data, code) in cases {
            let (replies, mails) = data_reply(&format!("{data}NOOP\r\nQUIT\r\n")).await;
            assert_eq!(replies, [code, "250", "221"], "{data:?}");
            assert_eq!(mails, [], "{data:?}");
        }
    }

    #[tokio::test]
    async fn endless_data_ends_the_session() {
        let (replies, mails) = data_reply(&"0123456789\r\n".repeat(60)).await;
        assert_eq!((replies, mails), (vec!["421".to_owned()], vec![]));
        let (replies, mails) = data_reply(&"x".repeat(600)).await;
        assert_eq!((replies, mails), (vec!["421".to_owned()], vec![]));
    }

    #[tokio::test]
    async fn half_a_mail_is_no_mail() {
        let (replies, mails) = data_reply("Subject: x\r\n\r\nhal").await;
        assert_eq!((replies, mails), (vec![], vec![]));
    }

    #[tokio::test]
    async fn commands_out_of_place() {
        let cases = [
            ("MAIL FROM:<a@example.org>\r\n", vec!["503"]),
            ("EHLO \r\n", vec!["501"]),
            ("HELO x\r\nDATA\r\n", vec!["250", "503"]),
            ("HELO x\r\nRCPT TO:<a@example.org>\r\n", vec!["250", "503"]),
            ("HELO x\r\nMAIL FROM:a@example.org\r\n", vec!["250", "501"]),
            ("HELO x\r\nMAIL é:<a>\r\n", vec!["250", "501"]),
            ("HELO x\r\nMAIL FROM:<> SIZE=101\r\n", vec!["250", "552"]),
            ("HELO x\r\nMAIL FROM:<> WEIRD=1\r\n", vec!["250", "555"]),
            ("HELO x\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n", vec!["250", "250", "503"]),
            ("HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<nobody>\r\n", vec!["250", "250", "501"]),
            ("HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRSET\r\nDATA\r\n", vec!["250", "250", "250", "250", "503"]),
            (
                "HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<a@b>\r\nRCPT TO:<a@b>\r\n",
                vec!["250", "250", "250", "250", "452"],
            ),
            ("AUTH PLAIN AAAA\r\nSTARTTLS\r\nBREW\r\n", vec!["502", "502", "500"]),
            ("NOOP\n", vec!["500"]),
            ("BREW\r\nBREW\r\nBREW\r\nBREW\r\nNOOP\r\n", vec!["500", "500", "500", "421"]),
        ];
        for (input, expected) in cases {
            let (replies, mails) = converse(input, SMALL).await;
            assert_eq!(replies[1..], expected, "{input:?}");
            assert_eq!(mails, [], "{input:?}");
        }
        let (replies, _) = converse(&format!("NOOP {}\r\nQUIT\r\n", "x".repeat(80)), SMALL).await;
        assert_eq!(replies, ["220", "500", "221"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_let_go() {
        let (mails, _taken) = mpsc::channel(1);
        let (_client, server) = tokio::io::duplex(1024);
        let (reader, writer) = tokio::io::split(server);
        let ended = Session::new(reader, writer, mails, SMALL).run().await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn no_250_without_an_inbox() {
        let (mails, taken) = mpsc::channel(1);
        drop(taken);
        let (client, server) = tokio::io::duplex(64 * 1024);
        let (reader, writer) = tokio::io::split(server);
        let session = tokio::spawn(Session::new(reader, writer, mails, SMALL).run());
        let (mut answers, mut asks) = tokio::io::split(client);
        asks.write_all(format!("{ENVELOPE}DATA\r\n\r\n.\r\nQUIT\r\n").as_bytes()).await.unwrap();
        let mut output = String::new();
        answers.read_to_string(&mut output).await.unwrap();
        session.await.unwrap().unwrap();
        assert!(output.contains("\r\n451 "), "{output}");
    }

    #[test]
    fn letters() {
        let mail = "From: Halo relay <relay@example.org>\r\nTo: a@example.org, \"B, C\" <b@example.org>\r\n\
            Subject: =?utf-8?q?HIGH_=C2=B7_expiring?=\r\nMessage-ID: <1@example.org>\r\nIn-Reply-To: <root@example.org>\r\n\
            MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=x\r\n\r\n\
            --x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
            7 days =C2=B7 www\r\n--x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>7 days</p>\r\n--x--\r\n";
        let letter = Letter::read(mail.as_bytes());
        let expected = Letter {
            subject: "HIGH · expiring".to_owned(),
            from: "Halo relay <relay@example.org>".to_owned(),
            to: vec!["a@example.org".to_owned(), "B, C <b@example.org>".to_owned()],
            message_id: Some("1@example.org".to_owned()),
            in_reply_to: Some("root@example.org".to_owned()),
            text: Some("7 days · www".to_owned()),
            html: Some("<p>7 days</p>".to_owned()),
        };
        assert_eq!(letter, expected);
        let plain = Letter::read(b"Subject: x\r\n\r\nhello\r\n");
        assert_eq!((plain.text.as_deref(), plain.html), (Some("hello\r\n"), None));
        assert_eq!(Letter::read(b""), Letter::default());
    }
}
