//! The rules file exactly as written: every table with its fields, every value with its place in the text.
//!
//! Comes in: the text. Goes out: a [`File`], or the [`Faults`] that made the text unreadable as YAML of this shape. The
//! only module that knows serde-saphyr. Unknown fields, duplicate keys and fields with nothing behind them are not faults
//! but [`Strays`], so that one reading reports them all. Nothing is checked here beyond the shape: no name, address or
//! duration is understood, no default filled in.

mod fault;
mod read;
mod shape;

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use self::read::{Tree, read_field};
use self::shape::{Setting, Shape, Shaped};
use crate::preset::Preset;

pub use self::fault::Fault;

/// Where in the text, in bytes. `None` where the parser cannot say (inside some merges).
pub type At = Option<Span>;

/// A byte range. Of a list or table it covers only the first character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl From<Span> for Range<usize> {
    fn from(span: Span) -> Self {
        span.start..span.end
    }
}

/// A value and its place; behind an alias the place is that of the `*alias`.
#[derive(Clone, Debug)]
pub struct Sp<T> {
    pub value: T,
    pub at: At,
}

/// A field of a table: its value and the places of both.
#[derive(Clone, Debug)]
pub struct Field<T> {
    pub value: T,
    pub at: At,
    pub key: At,
}

/// What stands in a table and should not.
#[derive(Clone, Debug, Default)]
pub struct Strays {
    pub unknown: Vec<Unknown>,
    pub duplicates: Vec<Duplicate>,
    /// Fields with nothing behind the colon.
    pub empty: Vec<Sp<String>>,
}

/// A field the table does not have.
#[derive(Clone, Debug)]
pub struct Unknown {
    pub key: Sp<String>,
    /// The places of all its scalars, which may be secrets under a misspelled name.
    pub scalars: Vec<Span>,
}

/// A field written more than once; the first counts.
#[derive(Clone, Debug)]
pub struct Duplicate {
    pub key: Sp<String>,
    pub first: At,
    pub scalars: Vec<Span>,
}

/// A table whose names the user chooses, in the file's order, duplicates included. `None`: nothing behind the name.
#[derive(Clone, Debug)]
pub struct Entries<T>(pub Vec<(Sp<String>, Option<T>)>);

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// One scalar or a list of scalars, as text.
#[derive(Clone, Debug)]
pub enum Many {
    List(Vec<Sp<String>>),
    One(String),
    /// A lone number or boolean, as YAML understood it: `0123` has become `123`.
    Bare(String),
}

impl Many {
    /// The items as written in `text`, each with its place; `at` is the place of the whole.
    pub fn items<'a>(&'a self, at: At, text: &'a str) -> Vec<Sp<&'a str>> {
        let written = || at.and_then(|at| text.get(Range::from(at))).filter(|written| !written.starts_with('*'));
        match self {
            Self::List(items) => {
                items.iter().map(|item| Sp { value: item.value.as_str(), at: item.at.or(at) }).collect()
            }
            Self::One(value) => vec![Sp { value, at }],
            Self::Bare(value) => vec![Sp { value: written().unwrap_or(value), at }],
        }
    }
}

/// A secret as written.
#[derive(Clone)]
pub enum Written {
    Literal(String),
    /// A number or boolean without quotes, whose spelling YAML does not keep.
    Bare,
    Reference(Box<Reference>),
}

/// Blank, because a literal is the secret itself.
impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(…)"),
            Self::Bare => f.write_str("Bare"),
            Self::Reference(reference) => reference.fmt(f),
        }
    }
}

/// Declares a table: its YAML field names, the Rust fields that take them, and for each a value as it may stand in a file,
/// for whoever writes something of another shape.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($key:literal => $field:ident: $type:ty = $example:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            $(pub $field: Option<Field<$type>>,)*
            pub strays: Strays,
        }

        impl $name {
            pub const FIELDS: &[&str] = &[$($key),*];

            /// The names of the fields that are there, with their places.
            pub fn present(&self) -> Vec<(&'static str, At)> {
                [$((
                    $key, self.$field.as_ref().map(|field| field.key)
                )),*].into_iter().filter_map(|(name, key)| Some((name, key?))).collect()
            }

            fn read<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
                let mut table = Self::default();
                while let Some(key) = map.next_key::<Sp<String>>()? {
                    match key.value.as_str() {
                        $($key => read_field(key, &mut map, &mut table.$field, &mut table.strays)?,)*
                        _ => {
                            let scalars = map.next_value::<Tree>()?.scalars();
                            table.strays.unknown.push(Unknown { key, scalars });
                        }
                    }
                }
                Ok(table)
            }
        }

        impl Shaped for $name {
            const SHAPE: Shape =
                Shape::Table(&[$(Setting { name: $key, shape: <$type as Shaped>::SHAPE, example: $example }),*]);
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TableVisitor;

                impl<'de> Visitor<'de> for TableVisitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a table")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                        $name::read(map)
                    }
                }

                deserializer.deserialize_any(TableVisitor)
            }
        }
    };
}

table! {
    /// The whole file.
    File {
        "sources" => sources: Entries<Sp<Source>> = "{ halo: { type: halo, api_key: { env: HALO_API_KEY } } }",
        "destinations" => destinations: Entries<Sp<Destination>> = "{ sec-slack: { type: slack, url: { env: SLACK_SECURITY_URL } } }",
        "limits" => limits: Entries<Sp<Many>> = "{ slack-workspace: 200/1m }",
        "admin" => admin: Admin = "{ listen: 127.0.0.1:8791 }",
        "retention" => retention: Retention = "{ ended: 30d }",
        "defaults" => defaults: Defaults = "{ severity: info }",
        "timezone" => timezone: String = "Europe/Berlin",
        "links" => links: Links = r#"{ allow: ["*.example.org"] }"#,
        "templates_dir" => templates_dir: String = "templates",
        "rules" => rules: Vec<Sp<Rule>> = r#"[{ name: certificates, when: { key: "website-cert-*" }, send: [sec-slack] }]"#,
        "unrouted" => unrouted: Unrouted = "{ send: [it-teams] }",
    }
}

table! {
    /// A source of any type; which fields belong to which type is checked later.
    Source {
        "type" => kind: String = "halo",
        "api_key" => api_key: Written = "{ env: HALO_API_KEY }",
        "every" => every: String = "60s",
        "first_run" => first_run: String = "skip",
        "base_url" => base_url: String = "https://api.halosecurity.com/api/v1",
        "listen" => listen: String = "127.0.0.1:8790",
        "path" => path: String = "/hooks/halo",
        "token" => token: Written = "{ env: HALO_WEBHOOK_TOKEN }",
        "max_body" => max_body: String = "1MiB",
    }
}

table! {
    /// A destination of any type; which fields belong to which type is checked later.
    Destination {
        "type" => kind: String = "slack",
        "url" => url: Written = "{ env: SLACK_SECURITY_URL }",
        "token" => token: Written = "{ env: SLACK_BOT_TOKEN }",
        "channel" => channel: String = "C0123456789",
        "base_url" => base_url: String = "https://slack.com/api",
        "smtp" => smtp: Smtp = "{ host: mail.example.org, username: relay, password: { env: SMTP_PASSWORD } }",
        "api" => api: MailApi = "{ provider: postmark, key: { env: MAIL_API_KEY } }",
        "from" => from: String = "Halo relay <halo-relay@example.org>",
        "to" => to: Many = "[compliance@example.org]",
        "secret" => secret: Written = "{ env: SOAR_SECRET }",
        "server" => server: Written = "https://ntfy.sh",
        "key" => key: Written = "{ env: OPSGENIE_KEY }",
        "routing_key" => routing_key: Written = "{ env: PAGERDUTY_ROUTING_KEY }",
        "chat_id" => chat_id: Written = r#""-1001234567890""#,
        "thread" => thread: Written = r#""42""#,
        "topic" => topic: Written = "{ env: NTFY_TOPIC }",
        "stream" => stream: Written = "security",
        "email" => email: Written = "bot@example.zulipchat.com",
        "user" => user: Written = "relay",
        "preset" => preset: Preset = "{ about: …, request: …, plain: …, delivered: … }",
        "limit" => limit: Many = "[1/1s, 30/10m]",
        "over_limit" => over_limit: String = "digest",
        "digest_after" => digest_after: String = "2m",
        "fallback" => fallback: Fallback = "{ to: it-teams, after: 5m }",
        "template" => template: String = "default",
        "timezone" => timezone: String = "Europe/Berlin",
        "mention" => mention: Many = "[here]",
        "allow_http" => allow_http: bool = "true",
    }
}

impl Destination {
    /// What a preset may call a setting; see [`preset::SETTINGS`](crate::preset::SETTINGS).
    pub fn setting(&self, name: &str) -> Option<&Field<Written>> {
        let field = match name {
            "url" => &self.url,
            "token" => &self.token,
            "server" => &self.server,
            "key" => &self.key,
            "routing_key" => &self.routing_key,
            "chat_id" => &self.chat_id,
            "thread" => &self.thread,
            "topic" => &self.topic,
            "stream" => &self.stream,
            "email" => &self.email,
            "user" => &self.user,
            _ => return None,
        };
        field.as_ref()
    }
}

table! {
    /// Who is told instead.
    Fallback {
        "to" => to: String = "it-teams",
        "after" => after: String = "5m",
    }
}

table! {
    /// How mail leaves.
    Smtp {
        "host" => host: String = "mail.example.org",
        "port" => port: String = "587",
        "tls" => tls: String = "starttls",
        "auth" => auth: String = "xoauth2",
        "username" => username: String = "relay",
        "password" => password: Written = "{ env: SMTP_PASSWORD }",
        "token" => token: Written = "{ file: /run/mail-token }",
        "ca_file" => ca_file: String = "internal-ca.pem",
    }
}

table! {
    /// How mail leaves by a service; which fields belong to which provider is checked later.
    MailApi {
        "provider" => provider: String = "postmark",
        "key" => key: Written = "{ env: MAIL_API_KEY }",
        "domain" => domain: String = "mg.example.org",
        "region" => region: String = "eu-west-1",
        "stream" => stream: String = "alerts",
        "access_key_id" => access_key_id: Written = "{ env: AWS_ACCESS_KEY_ID }",
        "secret_access_key" => secret_access_key: Written = "{ env: AWS_SECRET_ACCESS_KEY }",
        "session_token" => session_token: Written = "{ env: AWS_SESSION_TOKEN }",
        "url" => url: String = "https://gateway.example.org",
    }
}

table! {
    /// Where a secret is kept; exactly one of the three.
    Reference {
        "env" => env: String = "HALO_API_KEY",
        "file" => file: String = "/etc/halo-relay/secret",
        "credential" => credential: String = "halo-api-key",
    }
}

table! {
    /// The listener for health, metrics and status.
    Admin {
        "listen" => listen: String = "127.0.0.1:8791",
    }
}

table! {
    /// How long ended things are remembered.
    Retention {
        "ended" => ended: String = "30d",
    }
}

table! {
    /// Which addresses in event text people may click.
    Links {
        "allow" => allow: Many = r#"["*.example.org"]"#,
    }
}

table! {
    /// What holds where a rule says nothing.
    Defaults {
        "severity" => severity: String = "info",
    }
}

table! {
    /// One rule.
    Rule {
        "name" => name: String = "certificates",
        "when" => when: Entries<Sp<Many>> = r#"{ key: "website-cert-*" }"#,
        "severity" => severity: String = "high",
        "send" => send: Many = "[sec-slack]",
        "drop" => drop: String = "scans are on the dashboard",
        "stop" => stop: bool = "true",
        "template" => template: String = "default",
        "runbook" => runbook: String = "https://wiki.example.org/runbooks/expired",
        "batch" => batch: Batch = "{ by: [target], wait: 30s, max: 50 }",
        "thread_by" => thread_by: Many = "[target]",
        "mention" => mention: Many = "[here]",
    }
}

table! {
    /// Which of a rule's events share a message.
    Batch {
        "by" => by: Many = "[target]",
        "wait" => wait: String = "30s",
        "max" => max: String = "50",
    }
}

table! {
    /// What happens to events that no rule matched.
    Unrouted {
        "send" => send: Many = "[it-teams]",
        "drop" => drop: String = "not for us",
    }
}

/// Fields of versions to come. Refused by name, so that a file written for them does not look merely misspelled.
pub const LATER: [&str; 6] = ["include", "quiet_hours", "repeat", "silences", "tests", "windows"];

/// Why a text cannot be read: everything of a wrong shape, or the one fault that the parser could not read past.
#[derive(Debug)]
pub struct Faults {
    /// At least one.
    pub list: Vec<Fault>,
    /// Where the user's names for destinations and sources stand, which are no secrets; in the file's order.
    pub names: Vec<Span>,
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self { list: vec![fault], names: Vec::new() }
    }
}

/// Reads the text.
pub fn parse(text: &str) -> Result<File, Faults> {
    match serde_saphyr::from_str_with_options::<Option<File>>(text, options()) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(fault::empty_file().into()),
        Err(error) => {
            Err(match (fault::of(&error, text), serde_saphyr::from_str_with_options::<Tree>(text, options())) {
                (fault, Ok(tree)) if fault.code == "wrong-type" => {
                    shape::faults(&tree).unwrap_or_else(|| shape::within_preset(&tree, fault).into())
                }
                (fault, _) => fault.into(),
            })
        }
    }
}

/// Strict where YAML is loose, bounded where it is not. The node budget allows well over 100 000 rules; snippets are off
/// because they repeat neighbouring lines, which may hold secrets.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            // One more than allowed, so that the error is the one about documents.
            max_documents: 2,
            max_depth: 32,
            max_nodes: 4_000_000,
            max_events: 8_000_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 200_000,
            max_replay_stack_depth: 16,
        },
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, at: At) -> &str {
        at.map_or("?", |at| &text[Range::from(at)])
    }

    #[test]
    fn values_have_their_places() {
        let text =
            "\u{feff}# ü\nrules:\n  - name: 'a'\n    when: { key: [\"x\", y], port: 0123, n: 1.10 }\n    send: b\n";
        let file = parse(text).unwrap();
        let rules = file.rules.unwrap();
        let rule = &rules.value[0].value;
        let name = rule.name.as_ref().unwrap();
        assert_eq!((name.value.as_str(), shown(text, name.at), shown(text, name.key)), ("a", "'a'", "name"));
        let when = &rule.when.as_ref().unwrap().value.0;
        let items = |index: usize| {
            let Sp { value, at } = when[index].1.as_ref().unwrap();
            let items = value.items(*at, text);
            items.iter().map(|item| (item.value.to_owned(), shown(text, item.at).to_owned())).collect::<Vec<_>>()
        };
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(value, at)| ((*value).to_owned(), (*at).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(items(0), own(&[("x", "\"x\""), ("y", "y")]));
        assert_eq!(items(1), own(&[("0123", "0123")]));
        assert_eq!(items(2), own(&[("1.10", "1.10")]));
        let send = rule.send.as_ref().unwrap();
        assert_eq!(shown(text, send.value.items(send.at, text)[0].at), "b");
    }

    #[test]
    fn anchors_aliases_and_merges() {
        let text = "
destinations:
  a: &base { type: slack, limit: 1/1s }
  b: { <<: *base, limit: &rate 2/1s }
  c: { type: slack, limit: *rate }
rules:
  - { name: r, when: { port: &port 0123, other: *port } }
";
        let file = parse(text).unwrap();
        let destinations = file.destinations.unwrap().value.0;
        let limit = |index: usize| {
            let limit = destinations[index].1.as_ref().unwrap().value.limit.as_ref().unwrap();
            limit.value.items(limit.at, text)[0].value.to_owned()
        };
        assert_eq!((limit(0), limit(1), limit(2)), ("1/1s".to_owned(), "2/1s".to_owned(), "2/1s".to_owned()));
        assert!(destinations[1].1.as_ref().unwrap().value.strays.duplicates.is_empty());
        let rules = file.rules.unwrap().value;
        let when = &rules[0].value.when.as_ref().unwrap().value.0;
        let Sp { value, at } = when[1].1.as_ref().unwrap();
        assert_eq!((value.items(*at, text)[0].value, shown(text, *at)), ("123", "*port"));
    }

    #[test]
    fn what_should_not_be_there_is_collected() {
        let text = "admin: { lisen: [x, { y: 1, z: ~ }], listen: a, listen: b }\ndefaults: { severity: }\nrules:\n";
        let file = parse(text).unwrap();
        let strays = file.admin.unwrap().value.strays;
        let scalars: Vec<_> = strays.unknown[0].scalars.iter().map(|at| shown(text, Some(*at))).collect();
        assert_eq!((strays.unknown[0].key.value.as_str(), scalars), ("lisen", vec!["x", "1"]));
        assert_eq!(shown(text, strays.duplicates[0].key.at), "listen");
        assert!(strays.duplicates[0].first.unwrap().start < strays.duplicates[0].key.at.unwrap().start);
        assert_eq!(file.defaults.unwrap().value.strays.empty[0].value, "severity");
        assert_eq!(file.strays.empty[0].value, "rules");
    }

    #[test]
    fn a_file_that_grows_through_its_aliases_is_refused() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for pair in "abcdefgh".as_bytes().windows(2) {
            let (from, to) = (char::from(pair[0]), char::from(pair[1]));
            let aliases = vec![format!("*{from}"); 10].join(", ");
            text.extend([&format!("{to}: &{to} ["), aliases.as_str(), "]\n"]);
        }
        assert_eq!(parse(&text).unwrap_err().list[0].code, "yaml-syntax");
        let deep = format!("a: {}{}", "[".repeat(40), "]".repeat(40));
        assert_eq!(parse(&deep).unwrap_err().list[0].code, "yaml-syntax");
    }

    #[test]
    fn more_rules_are_read_than_the_parser_allows_by_default() {
        let rule = "  - { name: r, when: { key: [a, b], port: 1 }, send: [x], severity: high }\n";
        let text = format!("rules:\n{}", rule.repeat(25_000));
        assert_eq!(parse(&text).unwrap().rules.unwrap().value.len(), 25_000);
    }
}
