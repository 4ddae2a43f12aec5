//! A strict mail server for tests: STARTTLS and implicit TLS with a CA of its own, AUTH, and a scripted reply or fault for
//! any command.
//!
//! It keeps to RFC 5321 where clients are tempted to be careless: order of commands, CRLF and nothing else, no login or
//! mail before TLS. A breach, or a mail that the test did not read, panics when the server is dropped.
#![allow(dead_code, reason = "each test binary uses a part of this")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, pki_types};

const PATIENCE: Duration = Duration::from_secs(10);
/// Often enough that only a limit on the whole dialogue ends it.
const DRIP: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    None,
    StartTls,
    Implicit,
}

/// What the server does in place of its usual reply.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Says this, one or more lines without the last CRLF. A refusal has its usual effect.
    Say(&'static str),
    /// Says this to the first such command of all connections, and has nothing against later ones.
    SayFirst(&'static str),
    /// Says nothing and waits.
    Silence,
    /// Says `2`, then one byte now and then, never the end of the line.
    Drip,
    Close,
    Reset,
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) protection: Protection,
    /// What EHLO offers besides STARTTLS: `SIZE 1000`, `AUTH PLAIN LOGIN`.
    pub(crate) extensions: Vec<&'static str>,
    /// The login without which no mail is taken.
    pub(crate) login: Option<(&'static str, &'static str)>,
    /// Commands by their beginning in upper case (`RCPT TO:<BAD@`), and what happens then. `CONNECT` stands for the
    /// greeting, `.` for the end of a message.
    pub(crate) on: Vec<(&'static str, Act)>,
}

impl Options {
    pub(crate) fn new(protection: Protection) -> Self {
        Self { protection, extensions: vec!["8BITMIME"], login: None, on: Vec::new() }
    }

    pub(crate) fn login(mut self, offer: &'static str, user: &'static str, password: &'static str) -> Self {
        self.extensions.push(offer);
        self.login = Some((user, password));
        self
    }

    pub(crate) fn extension(mut self, line: &'static str) -> Self {
        self.extensions.push(line);
        self
    }

    pub(crate) fn on(mut self, command: &'static str, act: Act) -> Self {
        self.on.push((command, act));
        self
    }
}

/// A message taken with 250.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    /// As sent, with the doubled dots undone.
    pub(crate) data: Vec<u8>,
    pub(crate) encrypted: bool,
    pub(crate) authenticated: bool,
}

pub(crate) struct FakeSmtp {
    address: SocketAddr,
    /// Holds the CA's certificate.
    dir: tempfile::TempDir,
    log: Arc<Mutex<Log>>,
    mails: mpsc::UnboundedReceiver<Mail>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Log {
    commands: Vec<String>,
    breaches: Vec<String>,
}

impl FakeSmtp {
    pub(crate) async fn start(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (ca, acceptor) = certificates();
        let dir = tempfile::tempdir().expect("a directory for the CA");
        std::fs::write(dir.path().join("ca.pem"), ca).expect("the CA can be written");
        let log = Arc::new(Mutex::new(Log::default()));
        let (taken, mails) = mpsc::unbounded_channel();
        let server = Server { options, acceptor, log: log.clone(), taken };
        let server = tokio::spawn(accept(listener, Arc::new(server)));
        Self { address, dir, log, mails, server }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The certificate to trust; it is for `localhost` and `127.0.0.1`.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The next mail, waiting for it.
    pub(crate) async fn mail(&mut self) -> Mail {
        let mail = tokio::time::timeout(PATIENCE, self.mails.recv()).await;
        mail.expect("no mail came").expect("the server has stopped")
    }

    /// The next mail if it is there already.
    pub(crate) fn try_mail(&mut self) -> Option<Mail> {
        self.mails.try_recv().ok()
    }

    /// The first words of all commands so far: `["EHLO", "AUTH", "MAIL", …]`; `.` for a message's end.
    pub(crate) fn commands(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.commands.iter().map(|line| line.split([' ', ':']).next().unwrap_or_default().to_owned()).collect()
    }

    /// Every command line as it came.
    pub(crate) fn command_lines(&self) -> Vec<String> {
        self.log.lock().unwrap().commands.clone()
    }
}

impl Drop for FakeSmtp {
    fn drop(&mut self) {
        self.server.abort();
        if std::thread::panicking() {
            return;
        }
        assert!(self.mails.try_recv().is_err(), "a mail was left unread");
        let breaches = std::mem::take(&mut self.log.lock().unwrap().breaches);
        assert!(breaches.is_empty(), "the client broke the protocol: {breaches:?}");
    }
}

/// A CA's PEM, and a server with a certificate of it.
fn certificates() -> (String, TlsAcceptor) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test authority");
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (ca.pem(), TlsAcceptor::from(Arc::new(config)))
}

struct Server {
    options: Options,
    acceptor: TlsAcceptor,
    log: Arc<Mutex<Log>>,
    taken: mpsc::UnboundedSender<Mail>,
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    // Dropped with the task, which ends every connection.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let server = server.clone();
        connections.spawn(async move { server.serve(stream).await });
    }
}

/// How a dialogue ended, other than by an error.
enum End<S> {
    Over,
    StartTls(S),
}

impl Server {
    async fn serve(&self, tcp: TcpStream) -> io::Result<()> {
        if self.options.protection == Protection::Implicit {
            let tls = self.acceptor.accept(tcp).await?;
            return self.talk(tls, true, true).await.map(drop);
        }
        if let End::StartTls(tcp) = self.talk(tcp, true, false).await? {
            let tls = self.acceptor.accept(tcp).await?;
            self.talk(tls, false, true).await?;
        }
        Ok(())
    }

    async fn talk<S: Wire>(&self, stream: S, greet: bool, encrypted: bool) -> io::Result<End<S>> {
        let mut talk = Talk { server: self, stream: BufReader::new(stream), encrypted, state: State::default() };
        if greet && !talk.perform("CONNECT", "220 mail.test ESMTP").await? {
            return Ok(End::Over);
        }
        while let Some(line) = talk.line().await? {
            let line = String::from_utf8_lossy(&line).into_owned();
            self.log.lock().unwrap().commands.push(line.clone());
            match talk.command(&line).await? {
                Next::Command => {}
                Next::Close => return Ok(End::Over),
                Next::StartTls => return Ok(End::StartTls(talk.stream.into_inner())),
            }
        }
        Ok(End::Over)
    }

    fn breach(&self, what: String) {
        self.log.lock().unwrap().breaches.push(what);
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Makes the next close a reset.
    fn arm_reset(&self) -> io::Result<()>;
}

impl Wire for TcpStream {
    fn arm_reset(&self) -> io::Result<()> {
        self.set_zero_linger()
    }
}

impl Wire for tokio_rustls::server::TlsStream<TcpStream> {
    fn arm_reset(&self) -> io::Result<()> {
        self.get_ref().0.set_zero_linger()
    }
}

enum Next {
    Command,
    StartTls,
    Close,
}

#[derive(Default)]
struct State {
    greeted: bool,
    authenticated: bool,
    from: Option<String>,
    to: Vec<String>,
}

struct Talk<'a, S> {
    server: &'a Server,
    stream: BufReader<S>,
    encrypted: bool,
    state: State,
}

impl<S: Wire> Talk<'_, S> {
    async fn command(&mut self, line: &str) -> io::Result<Next> {
        let upper = line.to_ascii_uppercase();
        let verb = upper.split([' ', ':']).next().unwrap_or_default();
        let options = &self.server.options;
        let must_encrypt = options.protection == Protection::StartTls && !self.encrypted;
        if must_encrypt && !matches!(verb, "EHLO" | "STARTTLS" | "QUIT") {
            self.server.breach(format!("{verb} before TLS"));
        }
        let going = match verb {
            "EHLO" => {
                self.state.greeted = true;
                let mut lines = vec!["250-mail.test greets you".to_owned()];
                lines.extend(must_encrypt.then(|| "250-STARTTLS".to_owned()));
                lines.extend(options.extensions.iter().map(|line| format!("250-{line}")));
                lines.push("250 HELP".to_owned());
                self.perform(&upper, &lines.join("\r\n")).await?
            }
            _ if !self.state.greeted && verb != "QUIT" => {
                self.server.breach(format!("{verb} before EHLO"));
                self.say("503 5.5.1 EHLO first").await?
            }
            "STARTTLS" if must_encrypt => {
                return Ok(if self.perform(&upper, "220 go ahead").await? { Next::StartTls } else { Next::Close });
            }
            "AUTH" => self.auth(line, &upper).await?,
            "MAIL" if options.login.is_some() && !self.state.authenticated => {
                self.perform(&upper, "530 5.7.0 authentication required").await?
            }
            "MAIL" => self.mail(line, &upper).await?,
            "RCPT" if self.state.from.is_some() => self.rcpt(line, &upper).await?,
            "DATA" if !self.state.to.is_empty() => return self.data().await,
            "QUIT" => {
                self.perform(&upper, "221 bye").await?;
                false
            }
            _ => {
                self.server.breach(format!("{line:?} out of place"));
                self.say("503 5.5.1 not now").await?
            }
        };
        Ok(if going { Next::Command } else { Next::Close })
    }

    async fn auth(&mut self, line: &str, upper: &str) -> io::Result<bool> {
        let Some((user, password)) = self.server.options.login else {
            return self.perform(upper, "502 5.5.1 no AUTH here").await;
        };
        if let Some(token) = line.strip_prefix("AUTH XOAUTH2 ") {
            return self.xoauth2(&decode(token.as_bytes()), user, password, upper).await;
        }
        let given = if let Some(token) = line.strip_prefix("AUTH PLAIN ") {
            decode(token.as_bytes())
        } else {
            self.say("334 VXNlcm5hbWU6").await?;
            let user = self.line().await?.unwrap_or_default();
            self.say("334 UGFzc3dvcmQ6").await?;
            let password = self.line().await?.unwrap_or_default();
            format!("\0{}\0{}", decode(&user), decode(&password))
        };
        let right = given == format!("\0{user}\0{password}");
        self.state.authenticated = right;
        self.perform(upper, if right { "235 2.7.0 welcome" } else { "535 5.7.8 wrong login of SECRET" }).await
    }

    /// As Gmail does it: a token that is not right is answered with a challenge, and that with an empty line.
    async fn xoauth2(&mut self, given: &str, user: &str, token: &str, upper: &str) -> io::Result<bool> {
        if self.act(upper).is_some() {
            return self.perform(upper, "").await;
        }
        if given == format!("user={user}\x01auth=Bearer {token}\x01\x01") {
            self.state.authenticated = true;
            return self.say("235 2.7.0 Accepted").await;
        }
        let challenge = r#"{"status":"400","schemes":"Bearer","scope":"https://mail.test/SECRET"}"#;
        self.say(&format!("334 {}", STANDARD.encode(challenge))).await?;
        if self.line().await?.is_none_or(|answer| !answer.is_empty()) {
            self.server.breach("an answer to the challenge that is not empty".to_owned());
        }
        self.say("535-5.7.8 Username and Password not accepted. SECRET\r\n535 5.7.8 https://mail.test/SECRET").await
    }

    async fn mail(&mut self, line: &str, upper: &str) -> io::Result<bool> {
        let address = address(line, "MAIL FROM:<");
        let usual = if address.is_some() { "250 2.1.0 ok" } else { "501 5.5.4 syntax" };
        if self.accepts(upper) {
            self.state.from = address;
        }
        self.perform(upper, usual).await
    }

    async fn rcpt(&mut self, line: &str, upper: &str) -> io::Result<bool> {
        let address = address(line, "RCPT TO:<");
        let usual = if address.is_some() { "250 2.1.5 ok" } else { "501 5.5.4 syntax" };
        if self.accepts(upper) {
            self.state.to.extend(address);
        }
        self.perform(upper, usual).await
    }

    async fn data(&mut self) -> io::Result<Next> {
        if !self.perform("DATA", "354 go ahead").await? {
            return Ok(Next::Close);
        }
        if !self.accepts("DATA") {
            return Ok(Next::Command);
        }
        let mut data = Vec::new();
        loop {
            let Some(line) = self.line().await? else { return Ok(Next::Close) };
            if line == b"." {
                break;
            }
            data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
            data.extend_from_slice(b"\r\n");
        }
        self.server.log.lock().unwrap().commands.push(".".to_owned());
        if self.accepts(".") {
            let (from, to) = (self.state.from.take().unwrap_or_default(), std::mem::take(&mut self.state.to));
            let (encrypted, authenticated) = (self.encrypted, self.state.authenticated);
            let _ = self.server.taken.send(Mail { from, to, data, encrypted, authenticated });
        }
        Ok(if self.perform(".", "250 2.0.0 taken").await? { Next::Command } else { Next::Close })
    }

    fn act(&self, command: &str) -> Option<Act> {
        let act = self.server.options.on.iter().find(|(start, _)| command.starts_with(start));
        act.map(|(start, act)| (start, *act)).and_then(|(start, act)| match act {
            Act::SayFirst(reply) => {
                let log = self.server.log.lock().unwrap();
                let count = log.commands.iter().filter(|line| line.to_ascii_uppercase().starts_with(start)).count();
                (count == 1).then_some(Act::Say(reply))
            }
            act => Some(act),
        })
    }

    /// Whether the script lets this command have its usual effect.
    fn accepts(&self, command: &str) -> bool {
        match self.act(command) {
            None => true,
            Some(Act::Say(reply) | Act::SayFirst(reply)) => reply.starts_with(['2', '3']),
            // A server that falls silent or dies after a message may well have taken it.
            Some(Act::Silence | Act::Drip | Act::Close | Act::Reset) => command == ".",
        }
    }

    /// Does what the script says for `command`, or else answers `usual`. Says whether the dialogue goes on.
    async fn perform(&mut self, command: &str, usual: &str) -> io::Result<bool> {
        match self.act(command) {
            None => self.say(usual).await,
            Some(Act::Say(reply) | Act::SayFirst(reply)) => self.say(reply).await,
            Some(Act::Silence) => std::future::pending().await,
            Some(Act::Drip) => {
                let mut drips = tokio::time::interval(DRIP);
                loop {
                    drips.tick().await;
                    let stream = self.stream.get_mut();
                    stream.write_all(b"2").await?;
                    stream.flush().await?;
                }
            }
            Some(Act::Close) => Ok(false),
            Some(Act::Reset) => self.stream.get_ref().arm_reset().map(|()| false),
        }
    }

    async fn say(&mut self, reply: &str) -> io::Result<bool> {
        let stream = self.stream.get_mut();
        stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        stream.flush().await?;
        Ok(true)
    }

    /// The next line without its CRLF; `None` at the end of the connection.
    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(None);
        }
        let Some(bare) = line.strip_suffix(b"\r\n") else {
            self.server.breach(format!("a line without CRLF: {:?}", String::from_utf8_lossy(&line)));
            return Ok(Some(line));
        };
        if bare.contains(&b'\r') || bare.contains(&0) || bare.len() > 998 {
            self.server.breach(format!("a CR or NUL inside a line, or a long line: {} bytes", bare.len()));
        }
        Ok(Some(bare.to_vec()))
    }
}

fn address(line: &str, start: &str) -> Option<String> {
    let (address, _) = line.strip_prefix(start)?.split_once('>')?;
    Some(address.to_owned())
}

fn decode(token: &[u8]) -> String {
    String::from_utf8_lossy(&STANDARD.decode(token).unwrap_or_default()).into_owned()
}
