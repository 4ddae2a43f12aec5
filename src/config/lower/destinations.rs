//! `destinations:`, where deliveries go.

use std::collections::BTreeMap;

use super::limits::SharedLimits;
use super::{Checker, Value, listed, presets, secret_place};
use crate::config::Destination;
use crate::config::file::{At, Destination as Written, Field, File, Sp, Written as WrittenSecret};
use crate::config::problem::{Problem, quoted};
use crate::config::secrets::Asked;
use crate::config::words::nearest;
use crate::deliver::{Settings, UrlProblem, http, slack, teams, webhook};
use crate::model::{Channel, DestinationName, Secret};
use crate::render::{Audience, Renderer};

/// Where bots post. <https://docs.slack.dev/reference/methods/chat.postMessage>
const SLACK_API: &str = "https://slack.com/api";
/// What `Notifier`s of a run without secrets are built from; the name is reserved and resolves nowhere (RFC 2606).
pub(super) const STAND_IN_URL: &str = "https://skipped.invalid/";
/// 24 zero bytes, the shortest key there is.
const STAND_IN_KEY: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
pub(super) const STAND_IN_TOKEN: &str = "skipped-by-this-run";

/// What all destinations may say.
const COMMON: [&str; 6] = ["limit", "over_limit", "digest_after", "fallback", "template", "timezone"];

fn fields(channel: Channel, written: &Written) -> Vec<&'static str> {
    let own = match channel {
        Channel::Slack => vec!["url", "token", "channel", "base_url", "mention"],
        Channel::Teams => vec!["url", "mention"],
        Channel::Email => vec!["smtp", "api", "from", "to"],
        Channel::Webhook => vec!["url", "secret"],
        Channel::Http(_) => presets::fields(written),
    };
    let posted = (channel != Channel::Email).then_some("allow_http");
    ["type"].into_iter().chain(own).chain(COMMON).chain(posted).collect()
}

/// All destinations a file names, also those with faults, so that rules naming them are not faulted too.
pub(super) struct Defined(BTreeMap<DestinationName, One>);

pub(super) struct One {
    pub(super) at: At,
    pub(super) channel: Option<Channel>,
    settings: Option<Destination>,
}

impl Defined {
    pub(super) fn get(&self, name: &str) -> Option<&One> {
        self.0.get(name)
    }

    pub(super) fn settings_mut(&mut self, name: &str) -> Option<&mut Destination> {
        self.0.get_mut(name)?.settings.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&DestinationName, &One)> {
        self.0.iter()
    }

    pub(super) fn into_settings(self) -> BTreeMap<DestinationName, Destination> {
        self.0.into_iter().filter_map(|(name, one)| Some((name, one.settings?))).collect()
    }
}

impl One {
    /// `None` if it has faults.
    pub(super) fn settings(&self) -> Option<&Destination> {
        self.settings.as_ref()
    }
}

impl Checker<'_> {
    pub(super) fn destinations(
        &mut self,
        file: &File,
        limits: &mut SharedLimits,
        templates: Option<&Renderer>,
        audience: &Audience,
    ) -> Defined {
        let entries = file.destinations.as_ref().map(|field| self.entries(&field.value, "destination"));
        let entries = entries.unwrap_or_default();
        let mut defined = BTreeMap::new();
        for (name, written) in &entries {
            let kind = written.value.kind.as_ref();
            let channel = kind.and_then(|kind| presets::channel(&kind.value, &name.value));
            let settings = self.destination(name, written, limits, templates, audience);
            defined.insert(name.value.as_str().into(), One { at: name.at, channel, settings });
        }
        let mut defined = Defined(defined);
        self.fallbacks(&entries, &mut defined);
        defined
    }

    fn destination(
        &mut self,
        name: &Sp<String>,
        written: &Sp<Written>,
        limits: &mut SharedLimits,
        templates: Option<&Renderer>,
        audience: &Audience,
    ) -> Option<Destination> {
        let written = &written.value;
        let table = format!("the destination {}", quoted(&name.value));
        let channel = written.kind.as_ref().and_then(|kind| presets::channel(&kind.value, &name.value));
        let fields = channel.map_or_else(|| Written::FIELDS.to_vec(), |channel| fields(channel, written));
        self.strays(&written.strays, &table, &fields);
        let types = presets::types();
        let Some(kind) = &written.kind else {
            self.missing_field(&table, "type", name.at, &format!("`type:` and one of {}", listed(&types)));
            return None;
        };
        let Some(channel) = channel else {
            self.unknown_type(kind, "destination", &types);
            return None;
        };
        self.own_preset(name, written);
        let limit = written.limit.as_ref().map(|field| self.limit(field, limits));
        let usual = || presets::of(written).map(|preset| (presets::limits(&preset), Vec::new()));
        let (limits, shared_limits) = limit.or_else(usual).unwrap_or_default();
        let overflow = self.overflow(written);
        if let (Some(template), Some(templates)) = (&written.template, templates) {
            self.template(template, channel, templates, None);
        }
        let zone = written.timezone.as_ref().and_then(|field| self.timezone(field));
        let audience = Audience { zone: zone.unwrap_or_else(|| audience.zone.clone()), ..audience.clone() };
        let mention = written.mention.as_ref().filter(|_| fields.contains(&"mention"));
        let preset = presets::of(written);
        let mention = mention.map(|field| self.destination_mention(&table, field, channel, preset.as_deref()));
        let mention = mention.unwrap_or_default();
        let owner = Owner { checker: self, name, table: &table, kind: channel.kind() };
        let settings = owner.settings(channel, written)?;
        let template = written.template.as_ref().map(|field| field.value.clone());
        // Fallbacks follow, once all destinations are known.
        Some(Destination { settings, limits, shared_limits, overflow, fallback: None, template, audience, mention })
    }

    /// `told_by` is where a destination of the rule is named, if it is a rule that names the template.
    pub(super) fn template(&mut self, field: &Field<String>, channel: Channel, templates: &Renderer, told_by: At) {
        if templates.has(channel, &field.value) {
            return;
        }
        let title = format!("there is no {channel} template {}", quoted(&field.value));
        let problem = Problem::error("unknown-template", title);
        let problem = problem.related(self.place(told_by), format!("this destination takes {channel} messages"));
        let extension = if channel == Channel::Email { "text.hbs" } else { "hbs" };
        let help = match nearest(&field.value, templates.names(channel)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write it as {channel}/NAME.{extension} in `templates_dir`, or remove `template`"),
        };
        self.report(problem, field.at, "no such template", help);
    }
}

/// The destination being checked.
pub(super) struct Owner<'c, 'a> {
    pub(super) checker: &'c mut Checker<'a>,
    pub(super) name: &'c Sp<String>,
    table: &'c str,
    kind: &'static str,
}

impl Owner<'_, '_> {
    fn settings(mut self, channel: Channel, written: &Written) -> Option<Settings> {
        let article = if channel == Channel::Email { "an" } else { "a" };
        let this = format!("{article} {} destination", channel.kind());
        self.checker.misplaced(&written.present(), &fields(channel, written), &this, |field| match field {
            "smtp" | "api" | "from" | "to" => "email destinations",
            "secret" => "webhook destinations",
            "token" | "channel" | "base_url" => "slack destinations",
            "mention" => "destinations that can call somebody",
            "preset" => "http destinations",
            "url" | "allow_http" => "destinations that are posted to",
            _ => "other types of destination",
        });
        let allow_http = written.allow_http.as_ref().is_some_and(|field| field.value);
        match channel {
            Channel::Slack => self.slack(written, allow_http).map(Settings::Slack),
            Channel::Teams => {
                let url = self.url(written.url.as_ref(), allow_http, teams::check_url)?;
                Some(Settings::Teams(teams::Settings { url }))
            }
            Channel::Email => self.email(written).map(Settings::Email),
            Channel::Webhook => self.webhook(written, allow_http).map(Settings::Webhook),
            Channel::Http(name) => self.http(name, written, allow_http).map(Settings::Http),
        }
    }

    pub(super) fn secret(&mut self, name: &'static str, field: &Field<WrittenSecret>, stand_in: &str) -> Option<Value> {
        let asked = Asked { section: "destinations", name: &self.name.value, kind: self.kind, field: name };
        self.checker.secret(asked, field, stand_in)
    }

    pub(super) fn missing(&mut self, field: &str, example: &str) {
        self.checker.missing_field(self.table, field, self.name.at, example);
    }

    pub(super) fn url(
        &mut self,
        field: Option<&Field<WrittenSecret>>,
        allow_http: bool,
        check: fn(&str, bool) -> Result<(), UrlProblem>,
    ) -> Option<Secret> {
        let Some(field) = field else {
            self.missing("url", "`url: { env: NAME }`");
            return None;
        };
        let url = self.secret("url", field, STAND_IN_URL)?;
        if let Some(known) = url.known()
            && let Err(problem) = check(known.expose(), allow_http)
        {
            let retired = ["webhook.office.com", "outlook.office"].iter().any(|host| known.expose().contains(host));
            let code = if self.kind == "teams" && retired { "retired-url" } else { "bad-url" };
            let label = format!("the URL of {}", quoted(&self.name.value));
            let is_plain = !allow_http && known.expose().starts_with("http://");
            let help = if is_plain {
                format!("{}; `allow_http: true` takes it all the same", problem.help)
            } else {
                problem.help
            };
            self.checker.report(Problem::error(code, problem.message), secret_place(field), label, help);
            return None;
        }
        Some(url.into_secret())
    }

    fn slack(&mut self, written: &Written, allow_http: bool) -> Option<slack::Settings> {
        match (&written.url, &written.token) {
            (Some(_), None) => {
                if let Some(channel) = &written.channel {
                    let problem =
                        Problem::error("misplaced-field", "`channel` goes with `token`; a webhook URL has its own");
                    self.checker.report(problem, channel.key, "not used here", "remove it, or use a bot `token`");
                }
                if let Some(base) = &written.base_url {
                    let problem =
                        Problem::error("misplaced-field", "`base_url` goes with `token`; a webhook URL is whole");
                    self.checker.report(problem, base.key, "not used here", "remove it, or use a bot `token`");
                }
                Some(slack::Settings::Webhook { url: self.url(written.url.as_ref(), allow_http, slack::check_url)? })
            }
            (None, Some(token)) => {
                let channel = if let Some(channel) = &written.channel {
                    self.channel(channel)
                } else {
                    self.missing("channel", "`channel: C0123456789`, the channel's id");
                    None
                };
                let secret = self.secret("token", token, STAND_IN_TOKEN)?;
                if secret.known().is_some_and(|token| !token.expose().bytes().all(|byte| byte.is_ascii_graphic())) {
                    self.checker.not_a_header(secret_place(token), "token");
                    return None;
                }
                let api_base = self.api_base(written.base_url.as_ref(), allow_http)?;
                Some(slack::Settings::Bot { token: secret.into_secret(), channel: channel?, api_base })
            }
            (Some(_), Some(token)) => {
                let problem =
                    Problem::error("misplaced-field", "a slack destination has a `url` or a `token`, not both");
                self.checker.report(
                    problem,
                    token.key,
                    "one too many",
                    "keep `url` for an incoming webhook, `token` for a bot",
                );
                None
            }
            (None, None) => {
                self.missing("url", "`url: { env: NAME }` of an incoming webhook, or `token` and `channel` of a bot");
                None
            }
        }
    }

    fn api_base(&mut self, field: Option<&Field<String>>, allow_http: bool) -> Option<String> {
        let Some(field) = field else { return Some(SLACK_API.to_owned()) };
        match http::check_url(&field.value, allow_http) {
            Ok(_) => Some(field.value.trim_end_matches('/').to_owned()),
            Err(problem) => {
                let help = format!("write the API's address without a method, like `{SLACK_API}`");
                self.checker.report(Problem::error("bad-url", problem.message), field.at, "not an API's address", help);
                None
            }
        }
    }

    fn channel(&mut self, field: &Field<String>) -> Option<String> {
        let channel = field.value.as_str();
        let rest = channel.strip_prefix('#').unwrap_or(channel);
        let is_plain = |letter: char| letter.is_alphanumeric() || "-_.".contains(letter);
        if !rest.is_empty() && rest.chars().count() <= 80 && rest.chars().all(is_plain) {
            return Some(channel.to_owned());
        }
        let problem = Problem::error("bad-channel", format!("{} is not a Slack channel", quoted(channel)));
        let help = "write the channel's id (`C0123456789`, at the foot of its details), or \"#name\"";
        self.checker.report(problem, field.at, "not a channel", help);
        None
    }

    fn webhook(&mut self, written: &Written, allow_http: bool) -> Option<webhook::Settings> {
        let key = written.secret.as_ref().map(|field| self.signing_key(field));
        let url = self.url(written.url.as_ref(), allow_http, webhook::check_url)?;
        match key {
            None => Some(webhook::Settings { url, secret: None }),
            Some(key) => Some(webhook::Settings { url, secret: Some(key?) }),
        }
    }

    fn signing_key(&mut self, field: &Field<WrittenSecret>) -> Option<Secret> {
        let key = self.secret("secret", field, STAND_IN_KEY)?;
        if let Some(known) = key.known()
            && let Err(error) = webhook::SigningKey::parse(known)
        {
            let error = error.to_string();
            // The remedy that follows is in the help.
            let title = error.split(';').next().unwrap_or_default();
            let help = "write it as `whsec_` and base64, as `echo whsec_$(openssl rand -base64 32)` makes it";
            self.checker.report(Problem::error("bad-secret", title), secret_place(field), "not a signing secret", help);
            return None;
        }
        Some(key.into_secret())
    }
}
