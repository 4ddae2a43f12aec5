//! HTTP destinations as data: where a message is posted, in which form, and what each answer means.
//!
//! A [`Preset`] says all that the relay must know of a service to post to it: the request, where in the body values of
//! events may stand and how they are written there, the smallest message, what success looks like, and a table of
//! answers. Those that are compiled in are the files `templates/NAME/preset.yaml`; a destination of `type: http` has one of
//! its own, written with the same fields. No code belongs to any single service.
//!
//! This module only knows what such a file says. `render` makes bodies by it, `deliver` posts them and reads the answers.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use serde_json::Value;

use crate::model::Mention;

/// One that is compiled in: its name and the files of its folder.
struct Files {
    name: &'static str,
    preset: &'static str,
    /// The bodies of an event, a digest and a notice.
    bodies: [&'static str; 3],
}

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(Files {
            name: $name,
            preset: include_str!(concat!("../templates/", $name, "/preset.yaml")),
            bodies: [
                include_str!(concat!("../templates/", $name, "/default.hbs")),
                include_str!(concat!("../templates/", $name, "/digest.hbs")),
                include_str!(concat!("../templates/", $name, "/notice.hbs")),
            ],
        }),*]
    };
}

/// Those that are compiled in, in alphabetical order.
const BUILT_IN: [Files; 9] = files![
    "discord",
    "google_chat",
    "mattermost",
    "ntfy",
    "opsgenie",
    "pagerduty",
    "rocket_chat",
    "telegram",
    "zulip",
];

/// The names of those that are compiled in, as `type:` may say.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.into_iter().map(|files| files.name)
}

/// One of those that are compiled in.
pub fn find(name: &str) -> Option<Arc<Preset>> {
    static ALL: LazyLock<BTreeMap<&'static str, Arc<Preset>>> = LazyLock::new(|| {
        #[expect(clippy::expect_used, reason = "compiled-in data that every test run reads")]
        let read = |files: Files| {
            let mut preset: Preset = serde_saphyr::from_str(files.preset).expect("a compiled-in preset is readable");
            let [body, digest, notice] = files.bodies.map(|text| Some(text.to_owned()));
            (preset.body, preset.digest, preset.notice) = (body, digest, notice);
            (files.name, Arc::new(preset))
        };
        BUILT_IN.into_iter().map(read).collect()
    });
    ALL.get(name).cloned()
}

/// All that is known of one service. Field names are those of the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// For people: `Discord: incoming webhook`.
    pub about: String,
    /// Where the service documents what stands here.
    #[serde(default)]
    pub docs: Option<String>,
    /// What a destination must or may say: `url`, `token`, `topic`. `request` names them as `{url}`.
    #[serde(default)]
    pub settings: BTreeMap<String, Setting>,
    pub request: Request,
    /// Where in the body values may stand: JSON pointers, in which `*` stands for any one step. Nowhere else.
    #[serde(default)]
    pub values: BTreeMap<String, Place>,
    /// The most characters that the texts of all such places together may have; links, tokens, numbers and data do not count.
    #[serde(default)]
    pub together: Option<usize>,
    /// What the service acts on, for each kind of mention that it knows: `here: "@here"`, `name: "@{id}"`. `{id}` stands for the
    /// number or name that the rules give.
    #[serde(default)]
    pub mentions: BTreeMap<String, String>,
    /// Beside letters and digits, what a `name` may have: of another one the service would call only the beginning. All that
    /// the rules take without this.
    #[serde(default)]
    pub name_signs: Option<String>,
    /// The smallest message: the body as it is, with `{{text}}` in one string, or more, for the lines to be told. It knows
    /// `{{headline}}`, the first of these lines, `{{delivery.id}}` and `{{severity.name}}` too.
    pub plain: Value,
    /// The body of one event, a handlebars template. Of those compiled in: the file `default.hbs` beside.
    #[serde(default)]
    pub body: Option<String>,
    /// The same for several events in one message. Where it is left out: `plain`.
    #[serde(default)]
    pub digest: Option<String>,
    /// The same for news of the relay. Where it is left out: `plain`.
    #[serde(default)]
    pub notice: Option<String>,
    /// What an answer must be for the message to count as delivered.
    pub delivered: Delivered,
    /// Where in a JSON answer the service gives its own word for a refusal: `/error`.
    #[serde(default)]
    pub word: Option<String>,
    /// Where an answer says for how long to wait; the first that is there counts. `Retry-After` always does.
    #[serde(default)]
    pub wait: Vec<Wait>,
    /// What other answers mean, read from the top. What fits none is judged by its status, as for any HTTP destination.
    #[serde(default)]
    pub answers: Vec<Answer>,
    /// Used where a destination names no `limit`: `1/1s`.
    #[serde(default)]
    pub limit: Vec<String>,
    /// The most that the service takes as a body, in bytes.
    #[serde(default = "bytes_max")]
    pub bytes_max: usize,
    /// Whether the service knows a repeat by the delivery's id and drops it.
    #[serde(default)]
    pub knows_repeats: bool,
}

/// What a setting may be called: fields of a destination. `url` and `token` are the usual ones.
pub const SETTINGS: [&str; 11] =
    ["url", "server", "token", "key", "routing_key", "chat_id", "thread", "topic", "stream", "email", "user"];

impl Preset {
    /// What is wrong with it beyond its shape, each in a sentence; nothing is, of those compiled in.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |wrong: bool, what: String| {
            if wrong {
                faults.push(what);
            }
        };
        for name in self.settings.keys() {
            let known = || SETTINGS.map(|name| format!("`{name}`")).join(", ");
            fault(
                !SETTINGS.contains(&name.as_str()),
                format!("a setting cannot be called `{name}`, only one of {}", known()),
            );
            fault(!self.named().contains(&name.as_str()), format!("`request` does not use the setting `{name}`"));
        }
        for name in self.named() {
            fault(
                !self.settings.contains_key(name),
                format!("`request` uses `{{{name}}}`, which is not among `settings`"),
            );
        }
        for (kind, text) in &self.mentions {
            fault(!Mention::KINDS.contains(&kind.as_str()), {
                format!("`mentions` has the kind `{kind}`; there are only {}", Mention::KINDS.join(", "))
            });
            let ids = text.matches(MENTIONED).count();
            let rest = text.replace(MENTIONED, "");
            let is_word = Mention::WORD_KINDS.contains(&kind.as_str());
            fault(is_word && ids > 0, format!("`mentions.{kind}` has `{{id}}`, but `{kind}` comes without one"));
            fault(!is_word && ids != 1, format!("`mentions.{kind}` must have `{{id}}` once: else it calls nobody"));
            fault(
                rest.contains(['{', '}']) || text.trim() != text || text.chars().any(|letter| !is_shown(letter)),
                format!("`mentions.{kind}` has braces, space at an end or letters that nobody sees"),
            );
            fault(
                !(1..=MENTION_MAX).contains(&text.chars().count()),
                format!("`mentions.{kind}` must have 1 to {MENTION_MAX} characters"),
            );
        }
        let url = &self.request.url;
        let from_setting = next_setting(url).is_some_and(|(before, name, _)| {
            before.is_empty() && self.settings.get(name).is_some_and(|setting| setting.is == Kind::Url)
        });
        let fixed = url.starts_with("https://") || url.starts_with("http://");
        fault(
            !fixed && !from_setting,
            "`request.url` begins neither with `https://` nor with a setting that is a `url`".to_owned(),
        );
        let pointers = self.values.keys().chain(&self.word).chain(self.delivered.json.keys());
        let pointers = pointers.chain(self.answers.iter().flat_map(|answer| answer.json.keys()));
        let pointers = pointers.chain(self.wait.iter().filter_map(|wait| match wait {
            Wait::Json(pointer) => Some(pointer),
            Wait::Header(_) | Wait::EpochHeader(_) => None,
        }));
        for pointer in pointers {
            fault(!pointer.starts_with('/'), format!("`{pointer}` is no JSON pointer, it must begin with `/`"));
        }
        let statuses = self.delivered.status.iter().chain(self.answers.iter().flat_map(|answer| &answer.status));
        for status in statuses {
            fault(!(200..=599).contains(status), format!("an answer cannot have the status {status}"));
        }
        fault(
            self.delivered.status.iter().any(|status| !(200..300).contains(status)),
            "only a status from 200 to 299 can mean `delivered`".to_owned(),
        );
        fault(self.delivered.status.is_empty(), "`delivered.status` is empty: no answer would ever do".to_owned());
        fault(
            self.answers
                .iter()
                .any(|answer| answer.status.is_empty() && answer.word.is_empty() && answer.json.is_empty()),
            "a line of `answers` names neither a `status` nor a `word`".to_owned(),
        );
        fault(
            self.word.is_none() && self.answers.iter().any(|answer| !answer.word.is_empty()),
            "`answers` names words, but `word` does not say where they stand".to_owned(),
        );
        fault(!self.plain.is_object(), "`plain` is not a table".to_owned());
        fault(
            !self.plain.to_string().contains("{{text}}"),
            "`plain` has no `{{text}}`: it would say nothing".to_owned(),
        );
        faults
    }

    /// What the service acts on to call somebody; `None` if it does not know their kind, or knows no such name.
    pub fn call(&self, mention: &Mention) -> Option<String> {
        let text = self.mentions.get(mention.kind())?;
        let is_sign = |letter: &char| !letter.is_ascii_alphanumeric();
        let is_known = |id: &str| {
            self.name_signs.as_ref().is_none_or(|signs| id.chars().filter(is_sign).all(|sign| signs.contains(sign)))
        };
        if matches!(mention, Mention::Name(name) if !is_known(name)) {
            return None;
        }
        Some(text.replace(MENTIONED, mention.id()))
    }

    /// The settings that the request names.
    fn named(&self) -> Vec<&str> {
        fn within(value: &Value) -> Vec<&str> {
            match value {
                Value::String(text) => settings_in(text).collect(),
                Value::Array(items) => items.iter().flat_map(within).collect(),
                Value::Object(members) => members.values().flat_map(within).collect(),
                _ => Vec::new(),
            }
        }
        let request = &self.request;
        let texts = [&request.url].into_iter().chain(request.headers.values()).chain(&request.basic);
        texts.flat_map(|text| settings_in(text)).chain(request.add.values().flat_map(within)).collect()
    }
}

/// The names of the settings in a text.
pub fn settings_in(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (_, name, after) = next_setting(rest)?;
        rest = after;
        Some(name)
    })
}

/// Splits at the first `{name}`: what stands before it, the name, what stands behind.
pub fn next_setting(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    Some((before, name, after))
}

/// In `mentions`, what the rules give.
const MENTIONED: &str = "{id}";
/// Of a text in `mentions`, in characters.
const MENTION_MAX: usize = 80;

/// Neither a control character nor a noncharacter: some of those mean something to the templates.
fn is_shown(letter: char) -> bool {
    let code = u32::from(letter);
    !letter.is_control() && !(0xFDD0..=0xFDEF).contains(&code) && code & 0xFFFE != 0xFFFE
}

/// What a body may have at most where the file says nothing, in bytes.
const fn bytes_max() -> usize {
    256 * 1024
}

/// One thing that a destination says of itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    pub is: Kind,
    /// Used where a destination leaves it out; without one it must be there. An empty one leaves out the header, the
    /// `basic` or the member of `add` that names it.
    #[serde(default)]
    pub default: Option<String>,
    /// What people are told to write: `{ env: DISCORD_URL }`.
    pub example: String,
}

/// What a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A secret: a token, a key.
    Secret,
    /// A URL; kept as a secret, for it may be one.
    Url,
    /// Anything else; may be shown.
    Text,
}

/// How a message is posted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    #[serde(default)]
    pub method: Method,
    /// `https://api.example.org/{topic}`; a setting that stands behind the host is written percent-encoded.
    pub url: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// `user:password`, as HTTP's Basic scheme.
    #[serde(default)]
    pub basic: Option<String>,
    #[serde(default)]
    pub encode: Encoding,
    /// Members added to the body just before it leaves, such as keys, that `render` must not show.
    #[serde(default)]
    pub add: BTreeMap<String, Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Method {
    #[default]
    #[serde(rename = "POST")]
    Post,
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "PATCH")]
    Patch,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Json,
    /// `application/x-www-form-urlencoded`: the body is one object, its members are written as texts.
    Form,
}

/// How values are written in one place of the body.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    #[serde(rename = "as")]
    pub manner: Manner,
    /// The most that the service takes there, in characters; what is longer is cut and ends in `…`.
    #[serde(default)]
    pub max: Option<usize>,
    /// The same in bytes.
    #[serde(default)]
    pub bytes: Option<usize>,
    /// The service's own words for the only values that may stand there: `high: error`.
    #[serde(default)]
    pub words: BTreeMap<String, String>,
}

/// The markup that is understood in a place, and so what has to be kept from meaning anything there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// None: shown as it stands.
    Text,
    /// Read by machines, not shown: only JSON must hold.
    Data,
    /// Nothing but `{{link.url}}` or `{{runbook}}`, alone.
    Link,
    /// A short word such as a colour or an id: letters, digits and `_ . # -`.
    Token,
    /// A number, written without its quotes: `"{{severity.rank}}"` becomes `3`.
    Number,
    /// Discord's Markdown.
    Discord,
    /// The text of a Google Chat message: `*bold*`, `<url|label>`, `<users/all>`.
    GoogleChat,
    /// The text of a Google Chat card: some HTML.
    GoogleCard,
    /// Markdown, and `@name` calls people: Mattermost.
    Mattermost,
    /// The same in Rocket.Chat.
    RocketChat,
    /// Zulip's Markdown.
    Zulip,
    /// Telegram's HTML.
    TelegramHtml,
}

/// What an answer must be: of one of these statuses, and as the body is asked to be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivered {
    pub status: Vec<u16>,
    /// The whole body, but for space around it: `ok`.
    #[serde(default)]
    pub body: Option<String>,
    /// JSON pointers and what must stand there; null asks only that there is something.
    #[serde(default)]
    pub json: BTreeMap<String, Value>,
}

/// Where an answer says for how long to wait. Exactly one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Wait {
    /// A header of seconds, or an HTTP date.
    Header(String),
    /// A header of the second since 1970 at which the wait ends.
    EpochHeader(String),
    /// A JSON pointer to seconds, whole or not.
    Json(String),
}

/// One line of the table: fits when all that it names does.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    #[serde(default)]
    pub status: Vec<u16>,
    /// The service's words, or sentences; `quota_*` stands for all that begin so.
    #[serde(default)]
    pub word: Vec<String>,
    /// As in [`Delivered`].
    #[serde(default)]
    pub json: BTreeMap<String, Value>,
    pub means: Meaning,
    pub why: String,
    #[serde(default)]
    pub source: Option<String>,
}

/// What an answer means; see [`Outcome`](crate::model::Outcome).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    Delivered,
    Throttled,
    Transient,
    Ambiguous,
    RefusedContent,
    RefusedDestination,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_compiled_in_are_complete() {
        assert!(names().is_sorted(), "in alphabetical order");
        for name in names() {
            let preset = find(name).unwrap();
            assert_eq!(preset.faults(), [""; 0], "{name}");
            let docs = preset.docs.as_deref().unwrap_or_default();
            assert!(docs.starts_with("https://"), "{name}");
            assert!(!preset.about.is_empty() && !preset.limit.is_empty() && preset.bytes_max > 1_000, "{name}");
            assert!(preset.body.is_some() && preset.digest.is_some() && preset.notice.is_some(), "{name}");
            for answer in &preset.answers {
                assert!(answer.source.as_deref().is_none_or(|source| source.starts_with("https://")), "{name}");
            }
            for setting in preset.settings.values().filter(|setting| setting.is != Kind::Text) {
                assert!(setting.example.starts_with("{ env: ") || setting.default.is_some(), "{name}: {setting:?}");
            }
            let severities = crate::model::Severity::ALL.map(crate::model::Severity::name);
            for place in preset.values.values().filter(|place| !place.words.is_empty()) {
                assert!(severities.iter().all(|severity| place.words.contains_key(*severity)), "{name}: {place:?}");
            }
        }
        assert!(find("nowhere").is_none());
    }

    #[test]
    fn faults_are_told() {
        let read = |text: &str| serde_saphyr::from_str::<Preset>(text).unwrap().faults();
        let good = "{ about: x, request: { url: 'https://example.org/' }, plain: { t: '{{text}}' }, delivered: { status: [200] } }";
        assert_eq!(read(good), [""; 0]);
        let cases = [
            ("https://example.org/", "ftp://example.org/", "`request.url` begins neither"),
            ("https://example.org/", "https://example.org/{topic}", "`request` uses `{topic}`"),
            (
                "about: x",
                "about: x, settings: { colour: { is: secret, example: x } }",
                "a setting cannot be called `colour`",
            ),
            ("about: x", "about: x, settings: { token: { is: secret, example: x } }", "`request` does not use"),
            ("about: x", "about: x, values: { text: { as: text } }", "`text` is no JSON pointer"),
            (
                "about: x",
                "about: x, mentions: { user: '@{id}' }",
                "`mentions` has the kind `user`; there are only here, ",
            ),
            ("about: x", "about: x, mentions: { here: '@{id}' }", "`mentions.here` has `{id}`"),
            ("about: x", "about: x, mentions: { name: '@ops' }", "`mentions.name` must have `{id}` once"),
            ("about: x", "about: x, mentions: { name: '{id}{id}' }", "`mentions.name` must have `{id}` once"),
            ("about: x", "about: x, mentions: { name: '@{id} {name}' }", "`mentions.name` has braces"),
            ("about: x", "about: x, mentions: { name: '@{id} ' }", "`mentions.name` has braces"),
            ("about: x", "about: x, mentions: { here: \"@\\uFDD6here\" }", "`mentions.here` has braces"),
            ("about: x", "about: x, mentions: { here: '' }", "`mentions.here` must have 1 to 80"),
            ("{{text}}", "text", "`plain` has no `{{text}}`"),
            ("[200]", "[]", "`delivered.status` is empty"),
            ("[200]", "[404]", "only a status from 200 to 299"),
            ("[200]", "[20]", "an answer cannot have the status 20"),
            ("about: x", "about: x, answers: [{ means: transient, why: x }]", "a line of `answers` names neither"),
            ("about: x", "about: x, answers: [{ word: [x], means: transient, why: x }]", "`answers` names words"),
        ];
        for (from, to, expected) in cases {
            let faults = read(&good.replace(from, to));
            assert!(faults.iter().any(|fault| fault.starts_with(expected)), "{to}: {faults:?}");
        }
    }
}
