//! What an email destination says besides what all destinations say: who writes to whom, and how mail leaves.

use std::path::PathBuf;

use lettre::message::Mailbox;

use super::destinations::{Owner, STAND_IN_TOKEN};
use super::{listed, secret_place};
use crate::config::file::{At, Destination as Written, Field, MailApi, Many, Smtp, Sp, Written as WrittenSecret};
use crate::config::problem::{Problem, quoted, reason};
use crate::config::read_bounded;
use crate::config::words::nearest;
use crate::deliver::email::api::{self, Provider, Service, ses::Credentials};
use crate::deliver::email::submission::{Login, Server, Tls, Token};
use crate::deliver::email::{self, RECIPIENTS_MAX, SettingsError, Way};
use crate::deliver::http;
use crate::model::Secret;

/// What submission servers commonly offer; required then, never given up for plain text.
const DEFAULT_TLS: Tls = Tls::StartTls;
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
        let way = match (&written.smtp, &written.api) {
            (Some(smtp), None) => self.smtp(&smtp.value, smtp.key).map(Way::Smtp),
            (None, Some(api)) => self.api(&api.value, api.key).map(Way::Api),
            (Some(_), Some(api)) => {
                let problem = Problem::error("misplaced-field", "an email destination has `smtp` or `api`, not both");
                let help = "keep `smtp` for a mail server, `api` for a mail service's HTTP API";
                self.checker.report(problem, api.key, "one too many", help);
                None
            }
            (None, None) => {
                let example = "`smtp: { host: mail.example.org, username: …, password: { env: SMTP_PASSWORD } }`, or \
                               `api: { provider: …, key: { env: NAME } }` of a mail service";
                self.missing("smtp", example);
                None
            }
        };
        let name = self.name.value.as_str().into();
        let settings = email::Settings { way: way?, from: from?, to: to?, name };
        match settings.check() {
            Ok(()) => Some(settings),
            Err(error) => {
                let smtp = written.smtp.as_ref().map(|smtp| &smtp.value);
                let (code, at) = match &error {
                    SettingsError::ClearText => {
                        ("insecure-smtp", smtp.and_then(|smtp| smtp.tls.as_ref()).and_then(|field| field.at))
                    }
                    SettingsError::NotAscii("from") | SettingsError::OddAddress("from") => {
                        ("bad-mailbox", written.from.as_ref().and_then(|field| field.at))
                    }
                    SettingsError::Host => {
                        ("bad-address", smtp.and_then(|smtp| smtp.host.as_ref()).and_then(|field| field.at))
                    }
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

    fn tls(&mut self, field: &Field<String>) -> Option<Tls> {
        match field.value.as_str() {
            "implicit" => return Some(Tls::Implicit),
            "starttls" => return Some(Tls::StartTls),
            "none" => return Some(Tls::None),
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
    fn login(&mut self, smtp: &Smtp) -> Option<Option<Login>> {
        let by_token = match smtp.auth.as_ref() {
            Some(field) => self.auth(field)?,
            None => false,
        };
        let (name, field, other) = if by_token {
            ("token", &smtp.token, smtp.password.as_ref().map(|field| ("password", field, "password")))
        } else {
            ("password", &smtp.password, smtp.token.as_ref().map(|field| ("token", field, "xoauth2")))
        };
        if let Some((other, field, auth)) = other {
            let problem = Problem::error("misplaced-field", format!("`{other}` goes with `auth: {auth}`"));
            let help = format!("write `auth: {auth}`, or `{name}` in its place");
            self.checker.report(problem, field.key, "not used here", help);
            return None;
        }
        match (&smtp.username, field) {
            (None, None) if by_token => {
                let at = smtp.auth.as_ref().and_then(|field| field.key);
                let example = "`username` and `token: { file: PATH }`, or remove `auth`";
                self.checker.missing_field("`smtp`", "username", at, example);
                None
            }
            (None, None) => Some(None),
            (Some(username), Some(field)) => {
                let user = self.username(username)?;
                if by_token {
                    return Some(Some(Login::Token { user, token: self.token(field)? }));
                }
                let password = self.secret("smtp.password", field, STAND_IN_TOKEN)?.into_secret();
                Some(Some(Login::Password { user, password }))
            }
            (Some(username), None) => {
                let example = if by_token { "`token: { file: PATH }`" } else { "`password: { env: SMTP_PASSWORD }`" };
                let example = format!("{example}, or remove `username`");
                self.checker.missing_field("`smtp`", name, username.key, &example);
                None
            }
            (None, Some(field)) => {
                let example = format!("`username`, or remove `{name}`");
                self.checker.missing_field("`smtp`", "username", field.key, &example);
                None
            }
        }
    }

    /// Whether the login is by a token.
    fn auth(&mut self, field: &Field<String>) -> Option<bool> {
        match field.value.as_str() {
            "password" => return Some(false),
            "xoauth2" => return Some(true),
            _ => {}
        }
        let known = ["password", "xoauth2"];
        let help = match nearest(&field.value, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                format!("write one of {}; with `password` the server's offer decides how it is told", listed(&known))
            }
        };
        let problem = Problem::error("bad-auth", format!("{} is not a way to log in", quoted(&field.value)));
        self.checker.report(problem, field.at, "unknown", help);
        None
    }

    fn username(&mut self, field: &Field<String>) -> Option<String> {
        if !field.value.is_empty() && !field.value.chars().any(char::is_control) {
            return Some(field.value.clone());
        }
        let problem = Problem::error("bad-username", "`username` is empty, or holds a control character");
        self.checker.report(problem, field.at, "not a user name", "write it as the mail server knows it");
        None
    }

    fn token(&mut self, field: &Field<WrittenSecret>) -> Option<Token> {
        let secret = self.secret("smtp.token", field, STAND_IN_TOKEN)?;
        let file = match &field.value {
            WrittenSecret::Reference(reference) => reference.file.as_ref(),
            _ => None,
        };
        let Some(file) = file else {
            let title = "an access token lasts for an hour or so, and from here it is read once";
            let help = "write `token: { file: PATH }`: it is read for each mail, so that a program can renew it";
            let problem = Problem::warning("fixed-token", title);
            self.checker.report(problem, field.key, "mail stops when it has expired", help);
            return Some(Token::Fixed(secret.into_secret()));
        };
        if secret.known().is_some_and(|token| !is_header_text(token)) {
            self.checker.not_a_header(secret_place(field), "token");
            return None;
        }
        let path = self.checker.directory.join(&file.value);
        Some(if secret.known().is_some() { Token::File(path) } else { Token::Fixed(secret.into_secret()) })
    }

    fn api(&mut self, written: &MailApi, at: At) -> Option<api::Settings> {
        self.checker.strays(&written.strays, "`api`", MailApi::FIELDS);
        let names = Provider::ALL.map(Provider::name);
        let Some(field) = &written.provider else {
            let example = format!("`provider:` and one of {}", listed(&names));
            self.checker.missing_field("`api`", "provider", at, &example);
            return None;
        };
        let Some(provider) = Provider::ALL.into_iter().find(|provider| provider.name() == field.value) else {
            let help = match nearest(&field.value, names) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("write one of {}, or use `smtp`, which every service offers too", listed(&names)),
            };
            let problem =
                Problem::error("unknown-provider", format!("{} is not a known mail service", quoted(&field.value)));
            self.checker.report(problem, field.at, "unknown", help);
            return None;
        };
        let this = format!("the api of {}", provider.name());
        self.checker.misplaced(&written.present(), api_fields(provider), &this, |field| match field {
            "domain" => "the api of mailgun",
            "stream" => "the api of postmark",
            "region" => "the apis of mailgun, sendgrid and ses",
            "key" => "the apis of services other than ses",
            _ => "the api of ses",
        });
        // Each is looked at, so that one reading tells all that is wrong.
        let region = self.region(provider, written.region.as_ref(), at);
        let gateway = written.url.as_ref().map(|field| self.gateway(field));
        let service = self.service(provider, written, region.as_ref().map(|(region, _)| region.as_str()), at);
        let base_url = match gateway {
            Some(url) => url?,
            None => region?.1,
        };
        Some(api::Settings { service: service?, base_url })
    }

    fn service(&mut self, provider: Provider, written: &MailApi, region: Option<&str>, at: At) -> Option<Service> {
        let key = |owner: &mut Self| owner.key("api.key", written.key.as_ref(), at);
        Some(match provider {
            Provider::Mailgun => {
                let key = key(self);
                let domain = self.domain(written.domain.as_ref(), at);
                Service::Mailgun { key: key?, domain: domain? }
            }
            Provider::Postmark => {
                Service::Postmark { key: key(self)?, stream: written.stream.as_ref().map(|field| field.value.clone()) }
            }
            Provider::Resend => Service::Resend { key: key(self)? },
            Provider::SendGrid => Service::SendGrid { key: key(self)? },
            Provider::Ses => {
                let access_key_id = self.key("api.access_key_id", written.access_key_id.as_ref(), at);
                let secret_access_key = self.key("api.secret_access_key", written.secret_access_key.as_ref(), at);
                let session_token = match &written.session_token {
                    None => None,
                    token @ Some(_) => Some(self.key("api.session_token", token.as_ref(), at)?),
                };
                let (access_key_id, secret_access_key) = (access_key_id?, secret_access_key?);
                let credentials = Credentials { access_key_id, secret_access_key, session_token };
                Service::Ses { region: region?.to_owned(), credentials }
            }
        })
    }

    /// A secret that goes into a header; `name` begins with its table.
    fn key(&mut self, name: &'static str, field: Option<&Field<WrittenSecret>>, at: At) -> Option<Secret> {
        let short = name.rsplit('.').next().unwrap_or(name);
        let Some(field) = field else {
            self.checker.missing_field("`api`", short, at, &format!("`{short}: {{ env: NAME }}`"));
            return None;
        };
        let secret = self.secret(name, field, STAND_IN_TOKEN)?;
        if secret.known().is_some_and(|key| !is_header_text(key)) {
            self.checker.not_a_header(secret_place(field), short);
            return None;
        }
        Some(secret.into_secret())
    }

    /// The region by name, and where its requests go.
    fn region(&mut self, provider: Provider, field: Option<&Field<String>>, at: At) -> Option<(String, String)> {
        let known = provider.regions();
        let region = match field {
            Some(field) => field.value.as_str(),
            None if provider == Provider::Ses => {
                self.checker.missing_field("`api`", "region", at, "`region: eu-west-1`, where the sender is verified");
                return None;
            }
            None => known.first().copied().unwrap_or_default(),
        };
        if let Some(base_url) = provider.base_url(region) {
            return Some((region.to_owned(), base_url));
        }
        // A service without regions has been told that the field is misplaced.
        if !known.is_empty() || provider == Provider::Ses {
            let problem =
                Problem::error("bad-region", format!("{} is not a region of {}", quoted(region), provider.name()));
            let help = if known.is_empty() {
                "write it like `eu-west-1`".to_owned()
            } else {
                format!("write one of {}", listed(known))
            };
            self.checker.report(problem, field.and_then(|field| field.at), "no such region", help);
        }
        None
    }

    /// Mailgun's name for what it sends as; part of the URL.
    fn domain(&mut self, field: Option<&Field<String>>, at: At) -> Option<String> {
        let Some(field) = field else {
            self.checker.missing_field("`api`", "domain", at, "`domain: mg.example.org`, as Mailgun lists it");
            return None;
        };
        let domain = field.value.trim();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        if domain.len() <= 253 && domain.contains('.') && !domain.contains("..") && domain.bytes().all(is_plain) {
            return Some(domain.to_owned());
        }
        let problem = Problem::error("bad-address", format!("{} is not a domain", quoted(domain)));
        self.checker.report(problem, field.at, "not a domain", "write it as Mailgun lists it, like `mg.example.org`");
        None
    }

    /// Scheme and host of what stands between us and the service.
    fn gateway(&mut self, field: &Field<String>) -> Option<String> {
        let help = "write scheme and host alone, like `https://mail-gateway.example.org`; without `url` it is the service's own";
        let (title, help) = match http::check_url(&field.value, false) {
            Ok(url) => {
                let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
                if bare && url.username().is_empty() && url.password().is_none() {
                    return Some(field.value.trim().trim_end_matches('/').to_owned());
                }
                ("the URL holds more than scheme and host".to_owned(), help.to_owned())
            }
            Err(problem) => (problem.message, problem.help),
        };
        self.checker.report(Problem::error("bad-url", title), field.at, "cannot be used", help);
        None
    }
}

fn is_header_text(secret: &Secret) -> bool {
    secret.expose().bytes().all(|byte| byte.is_ascii_graphic())
}

const fn api_fields(provider: Provider) -> &'static [&'static str] {
    match provider {
        Provider::Mailgun => &["provider", "key", "domain", "region", "url"],
        Provider::Postmark => &["provider", "key", "stream", "url"],
        Provider::Resend => &["provider", "key", "url"],
        Provider::SendGrid => &["provider", "key", "region", "url"],
        Provider::Ses => &["provider", "region", "access_key_id", "secret_access_key", "session_token", "url"],
    }
}

/// RFC 8314 (465) and RFC 6409 (587); 25 is what a mail server on this machine listens on.
const fn default_port(tls: Tls) -> u16 {
    match tls {
        Tls::Implicit => 465,
        Tls::StartTls => 587,
        Tls::None => 25,
    }
}
