//! Who is called by name. Mentions come from configuration alone: an event's text is never read as one.

use std::fmt;
use std::str::FromStr;

use super::Channel;

/// Somebody to be called, in the form that their channel knows them by. Each channel uses those it understands, and
/// leaves the others out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mention {
    /// Those of a channel who are there.
    Here,
    /// All of a channel.
    Channel,
    /// All of a workspace.
    Everyone,
    /// `U0123ABCD` or `W0123ABCD`.
    SlackUser(String),
    /// `S0123ABCD`, a user group.
    SlackGroup(String),
    /// `Ada Example <ada@example.org>`: the name shown, and the principal name or object id that is called.
    TeamsUser { name: String, id: String },
    /// `123456789012345678`, a user's id.
    DiscordUser(String),
    /// `&123456789012345678`, a role's id.
    DiscordRole(String),
    /// `@ops`: a name that the channel itself looks up.
    Name(String),
}

/// Why a text names nobody, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {help}")]
pub struct MentionError {
    pub what: &'static str,
    pub help: String,
}

/// The forms there are, for messages.
pub const FORMS: &str = "`here`, `channel`, `everyone`, a Slack id (`U0123ABCD`, `S0123ABCD`), `Name <user@example.org>` for \
    Teams, a Discord id, or `@name`";

/// The kinds that are written as words.
const WORDS: [(&str, Mention); 3] =
    [("here", Mention::Here), ("channel", Mention::Channel), ("everyone", Mention::Everyone)];

/// Ids of Slack have 9 to 11 letters and digits today: <https://docs.slack.dev/reference/objects/user-object>
const SLACK_ID: std::ops::RangeInclusive<usize> = 7..=24;
/// Ids of Discord are 64-bit numbers of a clock: <https://discord.com/developers/docs/reference#snowflakes>
const DISCORD_ID: std::ops::RangeInclusive<usize> = 15..=20;
/// Of a name that is shown or looked up, in characters; of an id that a name belongs to, in bytes.
const NAME_MAX: usize = 80;
const ID_MAX: usize = 256;

impl Mention {
    /// All that [`kind`](Self::kind) says.
    pub const KINDS: [&str; 9] = [
        "here",
        "channel",
        "everyone",
        "slack_user",
        "slack_group",
        "teams_user",
        "discord_user",
        "discord_role",
        "name",
    ];
    /// Those of them that come without an id.
    pub const WORD_KINDS: [&str; 3] = ["here", "channel", "everyone"];

    /// What it is, as templates see it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::Channel => "channel",
            Self::Everyone => "everyone",
            Self::SlackUser(_) => "slack_user",
            Self::SlackGroup(_) => "slack_group",
            Self::TeamsUser { .. } => "teams_user",
            Self::DiscordUser(_) => "discord_user",
            Self::DiscordRole(_) => "discord_role",
            Self::Name(_) => "name",
        }
    }

    /// What is called: an id without signs round it; of words and names the word itself.
    pub fn id(&self) -> &str {
        match self {
            Self::Here | Self::Channel | Self::Everyone => self.kind(),
            Self::SlackUser(id)
            | Self::SlackGroup(id)
            | Self::TeamsUser { id, .. }
            | Self::DiscordUser(id)
            | Self::DiscordRole(id)
            | Self::Name(id) => id,
        }
    }

    /// The name for people, where there is one beside the id.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::TeamsUser { name, .. } | Self::Name(name) => Some(name),
            _ => None,
        }
    }

    /// Whether somebody is called if a message of this channel names them. To mail it means nothing; machines that take a
    /// webhook see all in their templates, and call nobody by themselves. Of a service described by data its preset says it.
    pub fn is_understood_by(&self, channel: Channel) -> bool {
        match channel {
            Channel::Slack => self.in_slack().is_some(),
            Channel::Teams => matches!(self, Self::TeamsUser { .. }),
            Channel::Email | Channel::Webhook | Channel::Http(_) => false,
        }
    }

    /// Those of `mentions` that a message of this channel may name: whom it calls, and to machines all, as data. Of a service
    /// described by data, all: when it is rendered its preset says which of them it calls.
    pub fn shown_in(mentions: &[Self], channel: Channel) -> Vec<Self> {
        let shown = |mention: &&Self| {
            matches!(channel, Channel::Webhook | Channel::Http(_)) || mention.is_understood_by(channel)
        };
        mentions.iter().filter(shown).cloned().collect()
    }

    /// What stands between `<` and `>` in Slack's text: `!here`, `@U0123ABCD`, `!subteam^S0123ABCD`.
    /// <https://docs.slack.dev/messaging/formatting-message-text#mentioning-users>
    pub fn in_slack(&self) -> Option<String> {
        match self {
            Self::Here | Self::Channel | Self::Everyone => Some(format!("!{}", self.id())),
            Self::SlackUser(id) => Some(format!("@{id}")),
            Self::SlackGroup(id) => Some(format!("!subteam^{id}")),
            Self::TeamsUser { .. } | Self::DiscordUser(_) | Self::DiscordRole(_) | Self::Name(_) => None,
        }
    }
}

/// As it is written in the rules.
impl fmt::Display for Mention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TeamsUser { name, id } => write!(f, "{name} <{id}>"),
            Self::DiscordRole(id) => write!(f, "&{id}"),
            Self::Name(name) => write!(f, "@{name}"),
            other => f.write_str(other.id()),
        }
    }
}

impl FromStr for Mention {
    type Err = MentionError;

    fn from_str(written: &str) -> Result<Self, MentionError> {
        match written.split_once('<').filter(|(name, _)| !name.is_empty()) {
            Some((name, rest)) => teams_user(name.trim_end(), rest),
            None => short(written).ok_or_else(|| unknown(written)),
        }
    }
}

/// A mention of one word.
fn short(written: &str) -> Option<Mention> {
    if let Some((_, word)) = WORDS.into_iter().find(|(word, _)| *word == written) {
        return Some(word);
    }
    let digits = |id: &str| DISCORD_ID.contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
    let slack = |id: &str| {
        SLACK_ID.contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
            && id.bytes().any(|byte| byte.is_ascii_digit())
    };
    match written.as_bytes().first()? {
        b'U' | b'W' if slack(written) => Some(Mention::SlackUser(written.to_owned())),
        b'S' if slack(written) => Some(Mention::SlackGroup(written.to_owned())),
        b'&' if digits(&written[1..]) => Some(Mention::DiscordRole(written[1..].to_owned())),
        b'0'..=b'9' if digits(written) => Some(Mention::DiscordUser(written.to_owned())),
        b'@' if is_handle(&written[1..]) => Some(Mention::Name(written[1..].to_owned())),
        _ => None,
    }
}

/// A name that channels look up. The words have a form of their own, and are no names.
fn is_handle(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(plain) && !WORDS.iter().any(|(word, _)| *word == name)
}

/// `name` stands between the tags of a Teams card's text, which reads Markdown: it has no letter that means something there.
fn teams_user(name: &str, rest: &str) -> Result<Mention, MentionError> {
    let shown = |letter: char| letter.is_alphanumeric() || " .'’,()-".contains(letter);
    if name.chars().count() > NAME_MAX || !name.starts_with(char::is_alphanumeric) || !name.chars().all(shown) {
        let help = format!("begin with a letter, use letters, digits, spaces and . ' , ( ) - only, at most {NAME_MAX}");
        return Err(MentionError { what: "the name before `<…>` cannot be shown", help });
    }
    let is_object = |id: &str| {
        let parts: Vec<_> = id.split('-').collect();
        parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
            && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let is_principal = |id: &str| {
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"<>\"\\".contains(&byte);
        id.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.')) && id.bytes().all(plain)
    };
    match rest.strip_suffix('>') {
        Some(id) if id.len() <= ID_MAX && (is_object(id) || is_principal(id)) => {
            Ok(Mention::TeamsUser { name: name.to_owned(), id: id.to_owned() })
        }
        _ => Err(MentionError {
            what: "what stands in `<…>` names no user of Teams",
            help: "write the user's principal name, `user@example.org`, or the object id from Entra".to_owned(),
        }),
    }
}

/// What was most likely meant.
fn unknown(written: &str) -> MentionError {
    let bare = written.trim_matches(|letter: char| "<>@!#".contains(letter) || letter.is_whitespace());
    let bare = bare.strip_prefix("subteam^").unwrap_or(bare);
    let upper = bare.to_uppercase();
    let meant = match bare {
        "all" | "@all" => Some("everyone".to_owned()),
        _ if short(bare).is_some() => Some(bare.to_owned()),
        _ if short(&upper).is_some() => Some(upper),
        _ if bare.contains('@') && !bare.contains(char::is_whitespace) => Some(format!("Their Name <{bare}>")),
        _ => None,
    };
    let help = meant.map_or_else(|| format!("write {FORMS}"), |meant| format!("write \"{meant}\""));
    MentionError { what: "nobody is called like this", help }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_somebody() {
        let cases = [
            ("here", "here", "here", Some("!here")),
            ("channel", "channel", "channel", Some("!channel")),
            ("everyone", "everyone", "everyone", Some("!everyone")),
            ("U0123ABCD", "slack_user", "U0123ABCD", Some("@U0123ABCD")),
            ("W0123ABCD", "slack_user", "W0123ABCD", Some("@W0123ABCD")),
            ("S0123ABCD", "slack_group", "S0123ABCD", Some("!subteam^S0123ABCD")),
            ("Ada O'Neil (IT) <ada@example.org>", "teams_user", "ada@example.org", None),
            ("Zoë <29:1a>", "", "", None),
            ("Zoë <0a1b2c3d-0000-1111-2222-333344445555>", "teams_user", "0a1b2c3d-0000-1111-2222-333344445555", None),
            ("123456789012345678", "discord_user", "123456789012345678", None),
            ("&123456789012345678", "discord_role", "123456789012345678", None),
            ("@on-call", "name", "on-call", None),
        ];
        for (written, kind, id, slack) in cases {
            let Ok(mention) = written.parse::<Mention>() else {
                assert!(kind.is_empty(), "{written}");
                continue;
            };
            assert_eq!((mention.kind(), mention.id(), mention.in_slack().as_deref()), (kind, id, slack), "{written}");
            assert_eq!(mention.to_string(), written);
            assert!(Mention::KINDS.contains(&mention.kind()));
            assert_eq!(mention.is_understood_by(Channel::Slack), slack.is_some());
            assert_eq!(mention.is_understood_by(Channel::Teams), kind == "teams_user");
        }
    }

    #[test]
    fn what_names_nobody_and_what_was_meant() {
        let cases = [
            ("<!here>", "write \"here\""),
            ("@here", "write \"here\""),
            ("@channel", "write \"channel\""),
            ("<@U0123ABCD>", "write \"U0123ABCD\""),
            ("<!subteam^S0123ABCD>", "write \"S0123ABCD\""),
            ("u0123abcd", "write \"U0123ABCD\""),
            ("Here", "write `here`"),
            ("@all ", "write \"everyone\""),
            ("ada@example.org", "write \"Their Name <ada@example.org>\""),
            ("Ada <ada>", "write the user's principal name"),
            ("Ada <ada@example.org> x", "write the user's principal name"),
            ("<at>Ada</at>", "write `here`"),
            ("[Ada](x) <ada@example.org>", "begin with a letter"),
            ("A*da* <ada@example.org>", "begin with a letter"),
            ("Ada <a<b@example.org>", "write the user's principal name"),
            ("USERGROUP", "write `here`"),
            ("C0123ABCD", "write `here`"),
            ("@a b", "write `here`"),
            ("@evil\u{202E}", "write `here`"),
            ("", "write `here`"),
            ("12345", "write `here`"),
            ("U0123ABCD|x>", "write `here`"),
        ];
        for (written, help) in cases {
            let error = written.parse::<Mention>().expect_err(written);
            assert!(error.help.starts_with(help), "{written:?}: {error}");
        }
    }
}
