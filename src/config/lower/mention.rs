//! `mention:` of rules and destinations: who is called, and whether anybody hears it. `thread_by:` of rules: whether any
//! destination can do it.

use std::collections::HashSet;

use super::Checker;
use super::batch::By;
use super::destinations::{Defined, One};
use crate::config::file::{Field, Many, Rule, Sp};
use crate::config::problem::{Problem, quoted};
use crate::config::words::nearest;
use crate::deliver::{Settings, slack};
use crate::model::{Channel, Mention, Severity};
use crate::preset::Preset;
use crate::routing::ThreadBy;

/// Of one rule or destination: a message that calls more people calls too many.
const MENTIONS_MAX: usize = 10;

impl Checker<'_> {
    /// Whom a rule calls. Its destinations need not all know them, but one should.
    pub(super) fn rule_mention(&mut self, table: &str, rule: &Rule, destinations: &Defined) -> Option<Vec<Mention>> {
        let field = rule.mention.as_ref()?;
        if !self.sends(table, rule, "mention", field) {
            return None;
        }
        let mentions = self.mentions(field)?;
        let sent_to = self.sent_to(rule, destinations);
        // Of what is not known, or has faults of its own, nothing is said.
        if sent_to.iter().any(|(_, one)| one.is_none_or(|one| one.channel.is_none())) {
            return Some(mentions);
        }
        let shows = |channel: Channel, one: &One, mention: &Mention| match (one.settings(), channel) {
            (Some(found), Channel::Http(_)) => found.settings.calls(mention),
            // Its preset may be what is at fault.
            (None, Channel::Http(_)) => true,
            (_, Channel::Webhook) => has_own_template(rule, one),
            (_, channel) => mention.is_understood_by(channel),
        };
        for (mention, item) in mentions.iter().zip(field.value.items(field.at, self.text)) {
            let mut known = sent_to.iter().filter_map(|(_, one)| one.and_then(|one| Some((one.channel?, one))));
            if !known.any(|(channel, one)| shows(channel, one, mention)) {
                self.unheard(mention, &item, &format!("calls nobody at any destination of {table}"));
            }
        }
        Some(mentions)
    }

    /// Whom messages to a destination call if their rules say nothing.
    pub(super) fn destination_mention(
        &mut self,
        table: &str,
        field: &Field<Many>,
        channel: Channel,
        preset: Option<&Preset>,
    ) -> Vec<Mention> {
        let Some(mentions) = self.mentions(field) else { return Vec::new() };
        for (mention, item) in mentions.iter().zip(field.value.items(field.at, self.text)) {
            let is_heard = preset.map_or(mention.is_understood_by(channel), |preset| preset.call(mention).is_some());
            if !is_heard {
                let kind = channel.kind();
                self.unheard(mention, &item, &format!("calls nobody at {table}, which takes {kind} messages"));
            }
        }
        mentions
    }

    fn unheard(&mut self, mention: &Mention, item: &Sp<&str>, fault: &str) {
        let whose = match mention {
            Mention::Here | Mention::Channel | Mention::Everyone => {
                "teams, email and some services cannot call a channel as a whole"
            }
            Mention::SlackUser(_) | Mention::SlackGroup(_) => "this is an id of slack",
            Mention::TeamsUser { .. } => "this is a user of teams",
            Mention::DiscordUser(_) | Mention::DiscordRole(_) => "this is an id of Discord",
            Mention::Name(_) => "this is a name for chat servers that look it up; slack, teams and discord take ids",
        };
        let problem = Problem::warning("unheard-mention", format!("{} {fault}", quoted(item.value)));
        self.report(problem, item.at, "has no effect", format!("{whose}; remove it, or send where it is understood"));
    }

    fn mentions(&mut self, field: &Field<Many>) -> Option<Vec<Mention>> {
        let items = field.value.items(field.at, self.text);
        if items.len() > MENTIONS_MAX {
            let problem = Problem::error("bad-mention", format!("a message calls at most {MENTIONS_MAX}"));
            self.report(problem, field.key, "too many", "make a group of them in the channel, and name that");
            return None;
        }
        let mut seen = HashSet::new();
        let mut mentions = Vec::new();
        for item in &items {
            match item.value.parse::<Mention>() {
                Ok(_) if !seen.insert(item.value) => {
                    let problem = Problem::error("bad-mention", format!("{} is called twice", quoted(item.value)));
                    self.report(problem, item.at, "named before", "name each once");
                }
                Ok(mention) => mentions.push(mention),
                Err(error) => {
                    let problem = Problem::error("bad-mention", format!("{}: {}", quoted(item.value), error.what));
                    let near = nearest(item.value, ["here", "channel", "everyone"]);
                    let help = near.map_or(error.help, |near| format!("did you mean `{near}`?"));
                    self.report(problem, item.at, "no mention", help);
                }
            }
        }
        (mentions.len() == items.len()).then_some(mentions)
    }

    /// How a rule's messages are put into threads, where its destinations have any.
    /// `severity` is what the file gives the rule's events.
    pub(super) fn thread_by(
        &mut self,
        table: &str,
        rule: &Rule,
        severity: Option<Severity>,
        destinations: &Defined,
    ) -> Option<ThreadBy> {
        let field = rule.thread_by.as_ref()?;
        if !self.sends(table, rule, "thread_by", field) {
            return None;
        }
        let by = self.by(field, &By { what: "a thread", code: "bad-thread" })?;
        if by.is_empty() {
            let problem = Problem::error("bad-thread", "a thread needs the names of fields");
            self.report(problem, field.key, "an empty list", "name a field, like `target`, or remove `thread_by`");
            return None;
        }
        let sent_to = self.sent_to(rule, destinations);
        let settings = sent_to.iter().map(|(item, one)| Some((item, (*one)?, (*one)?.settings()?)));
        let Some(settings) = settings.collect::<Option<Vec<_>>>() else { return Some(ThreadBy { by }) };
        let can = |one: &One, settings: &Settings| {
            settings.has_threads() || (settings.channel() == Channel::Webhook && has_own_template(rule, one))
        };
        let bot = "Slack tells a webhook nothing that could be replied to: give the destination a bot's `token` and `channel`";
        if !settings.is_empty() && !settings.iter().any(|(_, one, found)| can(one, &found.settings)) {
            let problem = Problem::error("no-threads", format!("no destination of {table} has threads"));
            let help = format!("remove `thread_by`, or send to a slack bot or to email. {bot}");
            self.report(problem, field.key, "has no effect", help);
            return None;
        }
        for (item, ..) in settings.iter().filter(|(.., found)| is_slack_webhook(&found.settings)) {
            let title = format!("`thread_by` has no effect on {}, a slack incoming webhook", quoted(item.value));
            self.report(Problem::warning("no-threads", title), item.at, "its messages stand alone", bot);
        }
        let in_chat = |one: &One| {
            one.channel == Some(Channel::Slack) && one.settings().is_some_and(|one| one.settings.has_threads())
        };
        if severity == Some(Severity::Critical) && settings.iter().any(|(_, one, _)| in_chat(one)) {
            let title = format!("{table} is critical, and a slack channel does not show what is added to a thread");
            let help = "remove `thread_by`, or lower the severity; a critical message is worth standing in the channel";
            self.report(Problem::warning("critical-thread", title), field.key, "hides critical messages", help);
        }
        Some(ThreadBy { by })
    }

    /// Whether the rule sends anything that the field could be about.
    fn sends(&mut self, table: &str, rule: &Rule, name: &str, field: &Field<Many>) -> bool {
        let Some(drop) = &rule.drop else { return true };
        let problem = Problem::error("misplaced-field", format!("{table} drops, so there is no message"));
        let problem = problem.related(self.place(drop.key), "it drops here");
        self.report(problem, field.key, "not used here", format!("remove `{name}`, or send instead of dropping"));
        false
    }

    fn sent_to<'f, 'd>(&self, rule: &'f Rule, destinations: &'d Defined) -> Vec<(Sp<&'f str>, Option<&'d One>)>
    where
        Self: 'f,
    {
        let items = rule.send.as_ref().map(|field| field.value.items(field.at, self.text)).unwrap_or_default();
        items.into_iter().map(|item| (Sp { value: item.value, at: item.at }, destinations.get(item.value))).collect()
    }
}

/// What machines are sent is for their own templates to say.
fn has_own_template(rule: &Rule, one: &One) -> bool {
    rule.template.is_some() || one.settings().is_some_and(|settings| settings.template.is_some())
}

fn is_slack_webhook(settings: &Settings) -> bool {
    matches!(settings, Settings::Slack(slack::Settings::Webhook { .. }))
}
