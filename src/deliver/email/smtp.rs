//! The SMTP dialogue of one message, step by step, so that the caller knows what had been said when it broke off.
//!
//! ```text
//! connect ► greeting ► EHLO ► [STARTTLS ► EHLO] ► [AUTH] ► MAIL ► RCPT… ► DATA ► message and its end ► accepted
//! └──────────────────────── nothing can have arrived ───────────────────────────────────────┘ └─ unknown ─┘
//! ```
//!
//! Written here and not taken from lettre, whose client (0.11.23) gives a message up when one recipient is refused, does
//! not tell these two spans apart, keeps what a stranger slipped in behind the answer to STARTTLS, panics on a blank line
//! in the answer to EHLO, and reads a line without an end into memory. Only what submission needs is here: RFC 5321, with
//! STARTTLS (3207), AUTH PLAIN, LOGIN and XOAUTH2 (4954, 4616) and SIZE (1870).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use super::reply::{Fault, Phase, Reply, outcome};
use crate::deliver::http::{host_is_loopback, root_cause};
use crate::model::{Report, Secret};

/// RFC 5321, 4.5.3.1.5 says 512; servers in the field write a little more.
const REPLY_LINE_BYTES_MAX: u64 = 2_000;
const REPLY_LINES_MAX: usize = 100;

/// Why there was no go-ahead for the message, which therefore cannot have arrived.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server said no.
    Refused(Phase, Reply),
    /// The connection could not be made or was lost.
    Lost(Phase, io::Error),
    /// The server said no to the token, with the status in its own words on it, such as 400.
    RefusedToken(Reply, Option<u16>),
    /// The server lacks what the settings or the message need.
    Unfit(Fault, &'static str),
}

impl Failure {
    pub(super) fn report(&self) -> Report {
        match self {
            Self::Refused(phase, reply) => {
                let detail = format!("the mail server refused the {}: {}", phase.name(), reply.codes());
                Report::new(outcome(*phase, reply), Some(reply.code), detail)
            }
            Self::RefusedToken(reply, status) => {
                let status = status.map(|status| format!(", status {status}")).unwrap_or_default();
                let detail = format!("the mail server refused the token: {}{status}", reply.codes());
                Report::new(outcome(Phase::Login, reply), Some(reply.code), detail)
            }
            Self::Lost(phase, error) => {
                let detail = format!("no connection to the mail server at the {}: {}", phase.name(), root_cause(error));
                Report::new(Fault::Lost.outcome(), None, detail)
            }
            Self::Unfit(fault, what) => Report::new(fault.outcome(), None, *what),
        }
    }
}

/// What turns a connection into a protected one.
pub(super) struct Upgrade {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

impl Upgrade {
    async fn apply(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        let connector = TlsConnector::from(self.config.clone());
        connector.connect(self.server_name.clone(), tcp).await.map_err(|error| Failure::Lost(Phase::Hello, error))
    }
}

/// Opens the connection; also gives our own address on it.
pub(super) async fn connect(host: &str, port: u16, limit: Duration) -> Result<(TcpStream, SocketAddr), Failure> {
    let lost = |error| Failure::Lost(Phase::Hello, error);
    let tcp = timeout(limit, TcpStream::connect((host, port))).await;
    let tcp = tcp.map_err(|_| lost(io::ErrorKind::TimedOut.into()))?.map_err(lost)?;
    let local = tcp.local_addr().map_err(lost)?;
    Ok((tcp, local))
}

/// How we introduce ourselves: the machine's full name, or else its address in brackets (RFC 5321, 4.1.4). A short name
/// such as `relay1` is refused by many servers.
pub(super) fn client_name(hostname: &str, local: SocketAddr) -> String {
    let name = hostname.trim();
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if name.len() <= 253 && name.contains('.') && name.split('.').all(label) {
        return name.to_owned();
    }
    match local {
        SocketAddr::V4(local) => format!("[{}]", local.ip()),
        SocketAddr::V6(local) => format!("[IPv6:{}]", local.ip()),
    }
}

/// A connection to a mail server that has answered EHLO. Give it back with [`quit`](Self::quit).
pub(super) struct Session {
    dialogue: Dialogue<Either<TcpStream, TlsStream<TcpStream>>>,
    extensions: Vec<String>,
    /// Whether nobody on the way can read along.
    private: bool,
}

impl Session {
    pub(super) async fn over_tls(tcp: TcpStream, tls: &Upgrade, name: &str) -> Result<Self, Failure> {
        let mut dialogue = Dialogue::new(Either::Right(tls.apply(tcp).await?));
        dialogue.greeting().await?;
        let extensions = dialogue.hello(name).await?;
        Ok(Self { dialogue, extensions, private: true })
    }

    /// Fails if the server does not offer STARTTLS: whoever can strip the offer from the answer can read along, too.
    pub(super) async fn over_starttls(tcp: TcpStream, tls: &Upgrade, name: &str) -> Result<Self, Failure> {
        let mut clear = Dialogue::new(tcp);
        clear.greeting().await?;
        if parameters(&clear.hello(name).await?, "STARTTLS").is_none() {
            let what = "the mail server does not offer STARTTLS, which `tls: starttls` requires";
            return Err(Failure::Unfit(Fault::NoStartTls, what));
        }
        clear.order(Phase::Hello, "STARTTLS").await?;
        let mut dialogue = Dialogue::new(Either::Right(tls.apply(clear.into_stream()?).await?));
        // What was offered in the clear does not count any more.
        let extensions = dialogue.hello(name).await?;
        Ok(Self { dialogue, extensions, private: true })
    }

    pub(super) async fn in_clear(tcp: TcpStream, name: &str) -> Result<Self, Failure> {
        let private = tcp.peer_addr().is_ok_and(|peer| host_is_loopback(&peer.ip().to_string()));
        let mut dialogue = Dialogue::new(Either::Left(tcp));
        dialogue.greeting().await?;
        let extensions = dialogue.hello(name).await?;
        Ok(Self { dialogue, extensions, private })
    }

    pub(super) async fn login(&mut self, user: &str, password: &Secret) -> Result<(), Failure> {
        self.must_be_private()?;
        if self.offers_auth("PLAIN") {
            let token = STANDARD.encode(format!("\0{user}\0{}", password.expose()));
            return self.dialogue.order(Phase::Login, &format!("AUTH PLAIN {token}")).await.map(drop);
        }
        if self.offers_auth("LOGIN") {
            self.dialogue.exchange(Phase::Login, "AUTH LOGIN", 334).await?;
            self.dialogue.exchange(Phase::Login, &STANDARD.encode(user), 334).await?;
            return self.dialogue.order(Phase::Login, &STANDARD.encode(password.expose())).await.map(drop);
        }
        Err(no_login("the mail server offers neither AUTH PLAIN nor AUTH LOGIN on this connection"))
    }

    /// XOAUTH2. A server that refuses the token says why in a challenge, and its reply proper after an empty answer to
    /// that: <https://developers.google.com/workspace/gmail/imap/xoauth2-protocol#error_response_2>.
    pub(super) async fn login_with_token(&mut self, user: &str, token: &Secret) -> Result<(), Failure> {
        self.must_be_private()?;
        if !self.offers_auth("XOAUTH2") {
            return Err(no_login("the mail server does not offer AUTH XOAUTH2 on this connection"));
        }
        let token = STANDARD.encode(format!("user={user}\x01auth=Bearer {}\x01\x01", token.expose()));
        let reply = self.dialogue.ask(Phase::Login, &format!("AUTH XOAUTH2 {token}")).await?;
        if reply.code != 334 {
            return if reply.is_positive() { Ok(()) } else { Err(Failure::RefusedToken(reply, None)) };
        }
        let status = reply.lines.first().and_then(|challenge| token_status(challenge));
        let reply = self.dialogue.ask(Phase::Login, "").await?;
        Err(Failure::RefusedToken(reply, status))
    }

    /// Fails before a login is said where somebody on the way could read along.
    fn must_be_private(&self) -> Result<(), Failure> {
        let told = "the login was not sent, for the connection is not encrypted";
        if self.private { Ok(()) } else { Err(no_login(told)) }
    }

    fn offers_auth(&self, name: &str) -> bool {
        let offered = parameters(&self.extensions, "AUTH").unwrap_or_default();
        offered.split_whitespace().any(|offer| offer.eq_ignore_ascii_case(name))
    }

    /// Names the sender and, where the server wants to know, the size: a refusal then comes before the bytes.
    pub(super) async fn mail_from(&mut self, address: &str, size: usize) -> Result<(), Failure> {
        let mut command = format!("MAIL FROM:<{address}>");
        if let Some(limit) = parameters(&self.extensions, "SIZE") {
            // No number, or 0: no fixed limit.
            if limit.parse().is_ok_and(|limit: usize| limit > 0 && size > limit) {
                let what = "the message is larger than the mail server takes";
                return Err(Failure::Unfit(Fault::TooLarge, what));
            }
            command = format!("{command} SIZE={size}");
        }
        self.dialogue.order(Phase::Sender, &command).await.map(drop)
    }

    /// Gives the reply, whatever it says: one recipient's refusal need not be the others'.
    pub(super) async fn rcpt_to(&mut self, address: &str) -> Result<Reply, Failure> {
        self.dialogue.ask(Phase::Recipient, &format!("RCPT TO:<{address}>")).await
    }

    pub(super) async fn data(&mut self) -> Result<(), Failure> {
        self.dialogue.exchange(Phase::Content, "DATA", 354).await.map(drop)
    }

    /// Sends the message with its end. After an error the end has not been sent, and the session is of no more use.
    pub(super) async fn content(&mut self, message: &[u8]) -> Result<(), Failure> {
        self.dialogue.write(&stuffed(message)).await.map_err(|error| Failure::Lost(Phase::Content, error))
    }

    /// Waits for the server's word on the message. After an error it may have been accepted.
    pub(super) async fn verdict(&mut self) -> io::Result<Reply> {
        self.dialogue.reply().await
    }

    /// Takes leave. Whatever happens now changes nothing, so errors do not matter, but a slow server is not waited for.
    pub(super) async fn quit(mut self, limit: Duration) {
        let limit = limit.min(Duration::from_secs(1));
        let _ = timeout(limit, self.dialogue.ask(Phase::Content, "QUIT")).await;
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

/// Commands and replies over any stream.
struct Dialogue<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Dialogue<S> {
    fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    async fn greeting(&mut self) -> Result<(), Failure> {
        let reply = self.reply().await.map_err(|error| Failure::Lost(Phase::Hello, error))?;
        if reply.is_positive() { Ok(()) } else { Err(Failure::Refused(Phase::Hello, reply)) }
    }

    /// Introduces us; gives the lines that name the server's extensions.
    async fn hello(&mut self, name: &str) -> Result<Vec<String>, Failure> {
        let mut lines = self.order(Phase::Hello, &format!("EHLO {name}")).await?.lines;
        // The first line is the server's name.
        lines.remove(0);
        Ok(lines)
    }

    async fn ask(&mut self, phase: Phase, command: &str) -> Result<Reply, Failure> {
        let lost = |error| Failure::Lost(phase, error);
        self.write(format!("{command}\r\n").as_bytes()).await.map_err(lost)?;
        self.reply().await.map_err(lost)
    }

    /// A command that must succeed.
    async fn order(&mut self, phase: Phase, command: &str) -> Result<Reply, Failure> {
        let reply = self.ask(phase, command).await?;
        if reply.is_positive() { Ok(reply) } else { Err(Failure::Refused(phase, reply)) }
    }

    /// A command that must be answered with `code`, which asks for more.
    async fn exchange(&mut self, phase: Phase, command: &str, code: u16) -> Result<Reply, Failure> {
        let reply = self.ask(phase, command).await?;
        if reply.code == code { Ok(reply) } else { Err(Failure::Refused(phase, reply)) }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).await?;
        stream.flush().await
    }

    async fn reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        while lines.len() < REPLY_LINES_MAX {
            let (code, last, text) = parse_line(&self.line().await?)?;
            lines.push(text);
            if last {
                return Ok(Reply { code, lines });
            }
        }
        Err(invalid("a reply of too many lines"))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.stream).take(REPLY_LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
        if line.ends_with(b"\n") {
            return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        if line.len() as u64 == REPLY_LINE_BYTES_MAX {
            return Err(invalid("a reply line without an end"));
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"))
    }

    /// The bare stream. What stands behind the last reply was said by nobody we know, so it ends the matter:
    /// <https://nostarttls.secvuln.info/>
    fn into_stream(self) -> Result<S, Failure> {
        if self.stream.buffer().is_empty() {
            return Ok(self.stream.into_inner());
        }
        Err(Failure::Lost(Phase::Hello, invalid("clear text behind the answer to STARTTLS")))
    }
}

fn no_login(what: &'static str) -> Failure {
    Failure::Unfit(Fault::NoLogin, what)
}

/// The number in `{"status":"400",…}`, in base64; the rest of it is free text.
fn token_status(challenge: &str) -> Option<u16> {
    let challenge = STANDARD.decode(challenge).ok()?;
    let challenge: serde_json::Value = serde_json::from_slice(&challenge).ok()?;
    challenge["status"].as_str()?.parse().ok().filter(|status| (100..1_000).contains(status))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// `250-text` goes on, `250 text` and `250` end the reply. Of a multi-line reply the last code counts.
fn parse_line(line: &str) -> io::Result<(u16, bool, String)> {
    let (code, rest) = line.split_at_checked(3).ok_or_else(|| invalid("a reply without a code"))?;
    let digits = code.bytes().all(|byte| byte.is_ascii_digit());
    let code = code.parse().ok().filter(|code| digits && (200..600).contains(code));
    let code = code.ok_or_else(|| invalid("a reply without a code"))?;
    match rest.as_bytes().first() {
        None | Some(b' ') => Ok((code, true, rest.trim().to_owned())),
        Some(b'-') => Ok((code, false, rest[1..].trim().to_owned())),
        Some(_) => Err(invalid("a reply without a code")),
    }
}

/// The parameters of an extension, by its name in any case; `None` if it is not offered.
fn parameters<'a>(extensions: &'a [String], name: &str) -> Option<&'a str> {
    extensions.iter().find_map(|line| {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        word.eq_ignore_ascii_case(name).then(|| rest.trim())
    })
}

/// The message with its lines' leading dots doubled and the end mark behind it (RFC 5321, 4.5.2).
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len() + 64);
    for line in message.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b".") {
            bytes.push(b'.');
        }
        bytes.extend_from_slice(line);
    }
    if !bytes.ends_with(b"\r\n") {
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b".\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn introductions() {
        let v4 = "192.0.2.7:1".parse().unwrap();
        let cases = [
            ("relay.example.org\n", "relay.example.org"),
            ("relay", "[192.0.2.7]"),
            ("", "[192.0.2.7]"),
            ("relay_1.example.org", "[192.0.2.7]"),
            ("relay..org", "[192.0.2.7]"),
            ("-relay.example.org", "[192.0.2.7]"),
            ("a.b\r\nMAIL FROM:<x>", "[192.0.2.7]"),
        ];
        for (hostname, expected) in cases {
            assert_eq!(client_name(hostname, v4), expected, "{hostname:?}");
        }
        assert_eq!(client_name("x", "[2001:db8::7]:1".parse().unwrap()), "[IPv6:2001:db8::7]");
    }

    #[test]
    fn dots() {
        let cases = [
            ("", "\r\n.\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n.\r\n"),
            ("..a\r\n", "...a\r\n.\r\n"),
            ("a.b\r\n", "a.b\r\n.\r\n"),
        ];
        for (message, expected) in cases {
            assert_eq!(String::from_utf8(stuffed(message.as_bytes())).unwrap(), expected, "{message:?}");
        }
    }

    #[test]
    fn reply_lines() {
        let good = [
            ("250 ok", (250, true, "ok")),
            ("250", (250, true, "")),
            ("250-SIZE 10", (250, false, "SIZE 10")),
            ("250-", (250, false, "")),
            ("250-   ", (250, false, "")),
        ];
        for (line, (code, last, text)) in good {
            assert_eq!(parse_line(line).unwrap(), (code, last, text.to_owned()), "{line:?}");
        }
        for line in ["", "25", "2x0 ok", "250ok", "+25 ok", "199 ok", "600 ok", "éa ok", "HTTP/1.1 400"] {
            assert!(parse_line(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn statuses_of_tokens() {
        let cases = [
            (r#"{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}"#, Some(400)),
            (r#"{"status":400}"#, None),
            (r#"{"status":"s3cret"}"#, None),
            (r#"{"status":"40000"}"#, None),
            ("", None),
        ];
        for (challenge, expected) in cases {
            assert_eq!(token_status(&STANDARD.encode(challenge)), expected, "{challenge}");
        }
        assert_eq!(token_status("no base64 …"), None);
    }

    #[test]
    fn extensions() {
        let lines = ["size 1000", "AUTH PLAIN LOGIN", "STARTTLS", "", "AUTHX"].map(str::to_owned);
        assert_eq!(parameters(&lines, "SIZE"), Some("1000"));
        assert_eq!(parameters(&lines, "AUTH"), Some("PLAIN LOGIN"));
        assert_eq!(parameters(&lines, "STARTTLS"), Some(""));
        assert_eq!(parameters(&lines, "SMTPUTF8"), None);
    }

    #[tokio::test]
    async fn replies_have_bounds() {
        let read = async |bytes: Vec<u8>| {
            let (ours, mut theirs) = tokio::io::duplex(1 << 20);
            theirs.write_all(&bytes).await.unwrap();
            drop(theirs);
            Dialogue::new(ours).reply().await
        };
        let reply = read(b"250-a\r\n250-\r\n250 c\r\n".to_vec()).await.unwrap();
        assert_eq!((reply.code, reply.lines), (250, vec!["a".to_owned(), String::new(), "c".to_owned()]));
        let cases = [
            (b"250 cut".to_vec(), "the server closed the connection"),
            (b"250-more\r\n".to_vec(), "the server closed the connection"),
            (vec![b'2'; 100_000], "a reply line without an end"),
            (b"250-x\r\n".repeat(1_000), "a reply of too many lines"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(read(bytes).await.unwrap_err().to_string(), expected);
        }
    }

    /// A server drops a message without its end, so nothing is in doubt when it could not be sent.
    #[tokio::test]
    async fn a_message_that_is_not_taken_whole_is_a_failure() {
        // More than the buffers of both ends hold.
        let message = vec![b'x'; 32 << 20];
        for stays in [true, false] {
            let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
            let (mut peer, _) = server.accept().await.unwrap();
            peer.write_all(b"220 hi\r\n250 hi\r\n").await.unwrap();
            let mut session = Session::in_clear(client, "[127.0.0.1]").await.unwrap();
            let _kept = stays.then_some(peer);
            let sent = timeout(Duration::from_millis(300), session.content(&message)).await;
            match (stays, sent) {
                (true, Err(_)) | (false, Ok(Err(Failure::Lost(Phase::Content, _)))) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
