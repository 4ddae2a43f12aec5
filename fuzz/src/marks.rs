//! What a client would act on in a line of text, dialect by dialect: emphasis, links, mentions, tags, header breaks, what it
//! makes a link by itself, and letters that nobody sees. Written from the services' own pages, not from the relay's code, so
//! that a mistake there is none here.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::Ipv6Addr;

/// How a client reads a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Machines read it: nothing in it means anything.
    Raw,
    /// <https://docs.slack.dev/messaging/formatting-message-text>
    SlackMarkdown,
    /// Slack's `plain_text`, with `:emoji:` or without.
    SlackPlain { emoji: bool },
    /// The text of an element of `rich_text`.
    SlackRich,
    /// <https://learn.microsoft.com/microsoftteams/platform/task-modules-and-cards/cards/cards-format>
    TeamsMarkdown,
    /// A `TextRun`, an action's title.
    TeamsRun,
    /// A mail's text.
    Mail,
    /// A mail's subject.
    Subject,
    /// Shown as it is: nothing but addresses means anything.
    Plain,
    /// <https://support.discord.com/hc/en-us/articles/210298617>
    Discord,
    /// <https://developers.google.com/workspace/chat/format-messages>
    GoogleChat,
    /// <https://developers.google.com/workspace/chat/format-messages#card-formatting>
    CardHtml,
    /// What Mattermost, Rocket.Chat and Zulip know, each of them: Markdown, mentions, channels, tags, emoji, formulas.
    Markdown,
    /// <https://core.telegram.org/bots/api#html-style>
    TelegramHtml,
}

/// What an event may show that would be a link elsewhere.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Whole addresses, each with the letter that stands for it: the vendor's page of the event, and the runbook.
    pub(super) links: Vec<(String, char)>,
    /// Host names that may be shown as they are, alone.
    pub(super) hosts: Vec<String>,
}

impl Known {
    pub(super) fn name(&self, text: &str) -> Option<char> {
        self.links.iter().find(|(link, _)| link == text).map(|(_, name)| *name)
    }

    /// `text`: in lower case.
    fn is_host(&self, text: &str) -> bool {
        let is_vendors = text == "halosecurity.com" || text.ends_with(".halosecurity.com");
        (is_vendors && !text.contains('_')) || self.hosts.iter().any(|host| host == text)
    }
}

impl Dialect {
    /// All of it, in order, as a few letters each; empty for plain words.
    pub(super) fn marks(self, line: &str, known: &Known) -> String {
        let mut out = String::new();
        if self == Self::Raw || (self != Self::Subject && is_plain(line)) {
            return out;
        }
        let whole = if self.is_preset() { named(line, known) } else { line.into() };
        let line = if self.is_preset() { Cow::Borrowed(&*whole) } else { without_ipv6(&whole) };
        let line = &*line;
        match self {
            Self::Raw => {}
            Self::Plain => each(line, &mut out, |_, _| false),
            Self::Discord => discord(line, &mut out),
            Self::GoogleChat | Self::Markdown => chat(line, self == Self::Markdown, &mut out),
            Self::TelegramHtml => html_line(line, true, &mut out),
            // Its lines, in any order: each is like another.
            Self::CardHtml => {
                let marks = |line| {
                    let mut out = String::new();
                    html_line(line, false, &mut out);
                    out
                };
                out.extend(line.split("<br>").map(marks).collect::<BTreeSet<_>>());
            }
            Self::SlackMarkdown => slack_markdown(line, known, &mut out),
            Self::SlackPlain { emoji } => each(line, &mut out, |letter, rest| match letter {
                '<' | '>' => true,
                '&' => !is_slack_entity(rest),
                ':' => emoji && is_emoji(rest),
                _ => false,
            }),
            Self::SlackRich => {
                each(line, &mut out, |letter, rest| matches!(letter, '<' | '>') || (letter == ':' && is_emoji(rest)));
            }
            Self::TeamsMarkdown => teams_markdown(line, &mut out),
            Self::TeamsRun => {
                each(line, &mut out, |letter, rest| letter == '<' || (letter == '{' && rest.starts_with('{')));
            }
            Self::Mail => out.extend(line.trim_start().starts_with('>').then_some('>')),
            Self::Subject => {
                out.extend(line.contains("=?").then_some('='));
                out.extend((line.chars().count() > 220).then_some('…'));
            }
        }
        addresses(&self.read(&whole), known, &mut out);
        out.extend(line.chars().filter(|letter| is_hidden(*letter)).map(|_| '\u{FFFD}'));
        out
    }

    fn is_preset(self) -> bool {
        use Dialect::{CardHtml, Discord, GoogleChat, Markdown, Plain, TelegramHtml};
        matches!(self, Plain | Discord | GoogleChat | CardHtml | Markdown | TelegramHtml)
    }

    /// What is shown of a line, its escapes undone.
    fn read(self, line: &str) -> Cow<'_, str> {
        match self {
            Self::SlackMarkdown | Self::SlackPlain { .. } if line.contains('&') => {
                line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").into()
            }
            Self::TeamsMarkdown if line.contains('\\') => {
                line.replace("\\[", "[").replace("\\]", "]").replace("\\\\", "\\").into()
            }
            Self::Discord if line.contains('\\') => unescaped(line).into(),
            Self::CardHtml | Self::TelegramHtml => shown(line).into(),
            _ => line.into(),
        }
    }
}

/// Whether a line has only letters, digits and signs that mean nothing in any dialect, as most lines have: a short cut, with
/// the same result. `·` is what parts a headline.
fn is_plain(line: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b',' | b';' | b'%' | b'?');
    let mut rest = line.as_bytes();
    loop {
        match rest {
            [byte, after @ ..] if plain(*byte) => rest = after,
            [0xC2, 0xB7, after @ ..] => rest = after,
            _ => return rest.is_empty(),
        }
    }
}

/// Stand for whole addresses that may be there: letters of no script.
const NAMES: [(char, char); 2] = [('\u{E00C}', 'L'), ('\u{E012}', 'R')];

/// The colons of a whole address count for nothing, since it could not be read without them. At worst a workspace has given a
/// picture the name of one of its groups, and shows that: nothing to act on. Of anything that is no whole address they count.
fn without_ipv6(line: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(line);
    if line.bytes().filter(|byte| *byte == b':').count() < 2 {
        return text;
    }
    for word in line.split(|letter: char| !letter.is_ascii_hexdigit() && letter != ':') {
        if word.len() > 2 && word.parse::<Ipv6Addr>().is_ok() {
            text = text.replace(word, "x").into();
        }
    }
    text
}

fn name_of(letter: char) -> Option<char> {
    NAMES.iter().find(|(stand_in, _)| *stand_in == letter).map(|(_, name)| *name)
}

/// The line with a letter for each address that may be in it, so that nothing of an address is taken for markup.
fn named<'l>(line: &'l str, known: &Known) -> Cow<'l, str> {
    // The first byte that all of them share.
    let has_stand_in = line.as_bytes().contains(&0xEE);
    // An address has these, whatever it is: a short cut.
    if !has_stand_in && !line.contains("://") {
        return line.into();
    }
    let mut text = line.replace(NAMES.map(|(stand_in, _)| stand_in), "x");
    for (link, name) in &known.links {
        // What follows looks for it with `&` in two spellings: both begin with this.
        let start = link.split('&').next().unwrap_or_default();
        if !text.contains(start) {
            continue;
        }
        let stand_in = NAMES.iter().find(|(_, known)| known == name).map_or('x', |(stand_in, _)| *stand_in);
        for link in [link.clone(), link.replace('&', "&amp;")] {
            let mut from = 0;
            while let Some(at) = text[from..].find(&link).map(|at| from + at) {
                let after = at + link.len();
                // Clients leave out of an address what ends a sentence: <https://github.github.com/gfm/#autolinks-extension->
                let next = text[after..].trim_start_matches([':', '.', '?', '!']).chars().next();
                let is_whole = text[..at].chars().next_back().is_none_or(|letter| is_word_end(letter) || letter == '[')
                    && next.is_none_or(is_word_end);
                if is_whole {
                    text.replace_range(at..after, &stand_in.to_string());
                }
                from = if is_whole { at + stand_in.len_utf8() } else { after };
            }
        }
    }
    text.into()
}

/// Without the backslashes that Discord takes away.
fn unescaped(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letters.peek() {
            Some(next) if letter == '\\' && next.is_ascii_punctuation() => text.extend(letters.next()),
            _ => text.push(letter),
        }
    }
    text
}

/// A mark for each block that begins here, one in another.
fn blocks(line: &str, underlines: bool, out: &mut String) {
    let mut rest = line.trim_start();
    loop {
        let number = rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let is_item = number.len() < rest.len()
            && number.starts_with(['.', ')'])
            && number[1..].chars().next().is_none_or(|letter| letter == ' ');
        rest = match rest.chars().next() {
            Some('=') if underlines => &rest[1..],
            Some('#' | '-' | '+' | '>') => &rest[1..],
            Some('*') if rest[1..].starts_with(' ') => &rest[1..],
            _ if is_item => &number[1..],
            _ => return,
        };
        out.push('»');
        rest = rest.trim_start();
    }
}

fn discord(line: &str, out: &mut String) {
    blocks(line, false, out);
    let mut escaped = false;
    let mut before = ' ';
    for (at, letter) in line.char_indices() {
        let rest = &line[at + letter.len_utf8()..];
        let was_escaped = std::mem::take(&mut escaped);
        match letter {
            // In code a backslash is shown, so it would not help there.
            '`' => out.push('`'),
            // Looked for without regard to what stands before.
            '@' if rest.starts_with("everyone") || rest.starts_with("here") => out.push('@'),
            _ if was_escaped => {}
            '\\' if rest.starts_with(|next: char| next.is_ascii_punctuation()) => escaped = true,
            '\\' | '*' | '_' | '~' | '|' | '<' | '[' | ']' | '@' => out.push(letter),
            '(' | ':' if before == ']' => out.push(letter),
            ':' if is_emoji(rest) => out.push(':'),
            _ => out.extend(name_of(letter).filter(|name| *name != 'L')),
        }
        before = letter;
    }
}

/// Without an escape. Google Chat's clients know less than the others.
fn chat(line: &str, richer: bool, out: &mut String) {
    blocks(line, true, out);
    // `/me` is all that Zulip reads of these; the others take commands from people alone.
    out.extend((richer && line.trim_start().starts_with("/me ")).then_some('/'));
    let mut before = ' ';
    for (at, letter) in line.char_indices() {
        let rest = &line[at + letter.len_utf8()..];
        let next = rest.chars().next();
        match letter {
            '*' | '~' | '`' | '<' | '>' | '|' => out.push(letter),
            '_' if !joins_word(line, at) => out.push('_'),
            '(' if before == ']' => out.push(letter),
            ':' if before == ']' && richer => out.push(letter),
            // An image only of what would be a link; of any other brackets it is an exclamation mark.
            '!' if next == Some('[') && is_link(rest) => out.push('!'),
            '&' if is_entity(rest) => out.push('&'),
            '@' | '#' | '$' | '\\' if richer => out.push(letter),
            ':' if richer && is_emoji(rest) => out.push(':'),
            '+' if richer && next.is_some_and(|next| next.is_ascii_digit()) => out.push('+'),
            _ => out.extend(name_of(letter).filter(|name| *name != 'L')),
        }
        before = letter;
    }
}

/// Whether the bracket that a text begins with is closed and followed by an address.
fn is_link(text: &str) -> bool {
    let mut depth = 0_usize;
    for (at, letter) in text.char_indices() {
        match letter {
            '[' => depth += 1,
            ']' if depth == 1 => return text[at + 1..].starts_with('('),
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

fn is_entity(rest: &str) -> bool {
    // `&CounterClockwiseContourIntegral;` is the longest: <https://html.spec.whatwg.org/entities.json>
    const NAME_MAX: usize = 31;
    let name = rest.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || letter == '#');
    name.starts_with(';') && (1..=NAME_MAX).contains(&(rest.len() - name.len()))
}

const ENTITIES: [(&str, &str); 4] = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")];

/// A line of HTML as it is read: without tags, its entities undone.
fn shown(line: &str) -> String {
    if !line.contains(['<', '&']) {
        return line.to_owned();
    }
    let mut text = String::with_capacity(line.len());
    for (number, part) in line.split('<').enumerate() {
        let (tag, part) = if number == 0 { ("", part) } else { part.split_once('>').unwrap_or(("", part)) };
        text.push_str(if tag == "br" { "\n" } else { "" });
        text.push_str(part);
    }
    ENTITIES.iter().fold(text, |text, (entity, letter)| text.replace(entity, letter))
}

fn html_line(line: &str, telegram: bool, out: &mut String) {
    let mut in_tag = false;
    for (at, letter) in line.char_indices() {
        match letter {
            '<' => in_tag = true,
            '>' | '"' if !in_tag => {}
            '>' => {
                in_tag = false;
                out.push('>');
                continue;
            }
            '&' if !in_tag && !ENTITIES.iter().any(|(entity, _)| line[at..].starts_with(entity)) => {}
            _ if in_tag => {}
            _ => {
                out.extend(name_of(letter).filter(|name| *name != 'L'));
                continue;
            }
        }
        // All of a tag counts.
        out.push(name_of(letter).unwrap_or(letter));
    }
    if telegram {
        let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
        let text = shown(line);
        let mut before = ' ';
        for (at, letter) in text.char_indices() {
            let next = text[at + letter.len_utf8()..].chars().next();
            match letter {
                '@' | '#' => out.push(letter),
                '$' if next.is_some_and(char::is_alphabetic) => out.push('$'),
                '+' if next.is_some_and(|next| next.is_ascii_digit()) => out.push('+'),
                '/' if next.is_some_and(is_word) && !is_word(before) && !"/<>".contains(before) => out.push('/'),
                _ => {}
            }
            before = letter;
        }
    }
}

fn each(line: &str, out: &mut String, is_mark: impl Fn(char, &str) -> bool) {
    for (at, letter) in line.char_indices() {
        if !letter.is_alphanumeric() && is_mark(letter, &line[at + letter.len_utf8()..]) {
            out.push(letter);
        }
    }
}

fn is_slack_entity(rest: &str) -> bool {
    ["amp;", "lt;", "gt;"].iter().any(|name| rest.starts_with(name))
}

/// Whether `:name:` begins before this.
fn is_emoji(rest: &str) -> bool {
    if !rest.contains(':') {
        return false;
    }
    let name: usize = rest
        .chars()
        .take_while(|letter| letter.is_alphanumeric() || "_+-'".contains(*letter))
        .map(char::len_utf8)
        .sum();
    name > 0 && rest[name..].starts_with(':')
}

fn joins_word(line: &str, at: usize) -> bool {
    let before = line[..at].chars().next_back();
    let after = line[at + 1..].chars().next();
    before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric)
}

fn slack_markdown(line: &str, known: &Known, out: &mut String) {
    let start = line.trim_start();
    out.extend((start.starts_with('>') || start.starts_with("&gt;")).then_some('»'));
    let mut inside = 0;
    for (at, letter) in line.char_indices() {
        let rest = &line[at + letter.len_utf8()..];
        match letter {
            '<' => {
                let what = rest.split(['|', '>']).next().unwrap_or_default();
                inside = at + 1 + what.len();
                out.push('<');
                match known.name(&what.replace("&amp;", "&")) {
                    Some(name) => out.push(name),
                    None => out.push_str(what),
                }
            }
            _ if at < inside => {}
            '>' | '*' | '~' | '`' => out.push(letter),
            '_' if !joins_word(line, at) => out.push('_'),
            '&' if !is_slack_entity(rest) => out.push('&'),
            ':' if is_emoji(rest) => out.push(':'),
            _ => {}
        }
    }
}

fn teams_markdown(line: &str, out: &mut String) {
    let start = line.trim_start();
    let number = start.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let is_item = number.len() < start.len()
        && number.starts_with(['.', ')'])
        && number[1..].chars().next().is_none_or(|letter| letter == ' ');
    out.extend((start.starts_with(['#', '-', '+', '=', '>']) || is_item).then_some('»'));
    let mut escaped = false;
    let mut before = ' ';
    for (at, letter) in line.char_indices() {
        let rest = &line[at + letter.len_utf8()..];
        let was_escaped = std::mem::take(&mut escaped);
        match letter {
            _ if was_escaped => {}
            '\\' if rest.starts_with(['\\', '[', ']']) => escaped = true,
            '\\' | '[' | ']' | '*' | '`' | '~' | '<' => out.push(letter),
            '_' if !joins_word(line, at) => out.push('_'),
            '{' if rest.starts_with('{') => out.push('{'),
            '(' | ':' if before == ']' => out.push(letter),
            '&' if is_entity(rest) => out.push('&'),
            _ => {}
        }
        before = letter;
    }
}

const SCHEMES: [&str; 16] = [
    "javascript",
    "vbscript",
    "data",
    "mailto",
    "tel",
    "sms",
    "file",
    "sip",
    "skype",
    "slack",
    "msteams",
    "http",
    "https",
    "ftp",
    "callto",
    "facetime",
];
/// `login.php` is no host, though one could register it as one some day.
const FILES: [&str; 20] = [
    "asp", "aspx", "bin", "cgi", "css", "dll", "exe", "gif", "htm", "html", "jpg", "js", "json", "jsp", "min", "pdf",
    "php", "png", "txt", "xml",
];

fn is_dot(letter: char) -> bool {
    matches!(letter, '.' | '\u{3002}' | '\u{FF0E}' | '\u{FF61}' | '\u{2024}' | '\u{FE52}')
}

/// What clients make links by themselves: `L` and `R` for the two that may be, `!` for any other.
pub(super) fn addresses(line: &str, known: &Known, out: &mut String) {
    if !line.contains(|letter| matches!(letter, ':' | '/' | '\\') || is_dot(letter)) {
        return;
    }
    // All of them have these.
    let links = if line.contains("://") { known.links.as_slice() } else { &[] };
    for (link, name) in links {
        if let Some((before, after)) = line.split_once(link.as_str())
            && before.chars().next_back().is_none_or(|letter| is_word_end(letter) || letter == '[')
            && after.chars().next().is_none_or(is_word_end)
        {
            addresses(before, known, out);
            // The vendor's own may stand anywhere.
            out.extend((*name != 'L').then_some(*name));
            return addresses(after, known, out);
        }
    }
    for word in line.split(is_word_end) {
        if word.is_empty() {
            continue;
        }
        if is_address(word, known) && !is_vendors(word, known) {
            out.push('!');
        }
    }
}

/// An address on the vendor's hosts, which is shown as it is: whoever follows it gets to the vendor, whatever its path, so it
/// says no more than the host name would, which may be shown anywhere. Its host must end where every client ends it, and no
/// other scheme may follow but a harmless `[://`. Where it begins must be as plain: behind a sign, of a text that is no
/// address and does not make it one.
fn is_vendors(word: &str, known: &Known) -> bool {
    // As it would be read without the look-alike of a colon that might have made an emoji.
    let word = word.replace('∶', ":");
    let Some(start) = word.to_ascii_lowercase().find("https://") else { return false };
    let (before, rest) = (&word[..start], &word[start + "https://".len()..]);
    let joins = |letter: char| letter.is_alphanumeric() || "-+_/\\:%~$ˍ∶∼＼＄".contains(letter);
    if before.ends_with(joins) || is_address(before, known) {
        return false;
    }
    let authority = rest.split(['/', '?', '#', '[']).next().unwrap_or_default().to_ascii_lowercase();
    // Of `host:x@other` the host is the other.
    let (host, port) = authority.split_once(':').unwrap_or((&authority, ""));
    let host = host.trim_end_matches(['.', '!']);
    let is_plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    let has_port =
        port.trim_start_matches(':').trim_end_matches(['[', ':', '.', '!']).bytes().all(|byte| byte.is_ascii_digit());
    is_plain
        && has_port
        && (host == "halosecurity.com" || host.ends_with(".halosecurity.com"))
        && rest.match_indices("://").all(|(at, _)| is_harmless(&rest[..at]))
}

/// Whether this before `://` makes it so: `hxxps://` and `[://]`.
fn is_harmless(before: &str) -> bool {
    ["hxxp", "hxxps", "["].iter().any(|end| before.ends_with(end))
}

/// The last are written where other letters would be markup.
fn is_word_end(letter: char) -> bool {
    matches!(
        letter,
        '<' | '>'
            | '"'
            | '\''
            | '|'
            | '('
            | ')'
            | '{'
            | '}'
            | ','
            | ';'
            | '`'
            | '*'
            | '~'
            | ']'
            | ' '
            | 'ˋ'
            | '∗'
            | '∼'
            | '∣'
            | '›'
            | '‹'
    ) || letter.is_whitespace()
}

fn is_address(word: &str, known: &Known) -> bool {
    if !word.contains(|letter| matches!(letter, ':' | '/' | '\\') || is_dot(letter)) {
        return false;
    }
    // `_` is written as a look-alike where it might be markup.
    let lower = word.to_lowercase().replace('ˍ', "_");
    for (at, letter) in lower.char_indices() {
        let (before, after) = (&lower[..at], &lower[at + letter.len_utf8()..]);
        if letter == ':' {
            if after.starts_with("//") && !is_harmless(before) {
                return true;
            }
            let scheme = SCHEMES.iter().any(|scheme| before.ends_with(scheme));
            let rest = after.trim_start_matches([':', '…']);
            if scheme && !rest.is_empty() && !rest.starts_with(['[', ']']) {
                return true;
            }
        }
        let slashes = matches!(letter, '/' | '\\') && after.starts_with(letter);
        // `∶` stands for a colon that might have made an emoji.
        // `＼` stands for a backslash.
        let begins = before.trim_end_matches('＼');
        if slashes && !begins.ends_with([':', '∶', '[', '/', '\\']) && after.len() > 1 {
            let rest = after.trim_start_matches(['/', '\\']);
            if rest.starts_with(char::is_alphanumeric) {
                return true;
            }
        }
    }
    if !lower.contains(is_dot) {
        return false;
    }
    let is_of_host = |letter: char| letter == '-' || letter == '_' || letter.is_alphanumeric() || is_dot(letter);
    let mut rest = lower.as_str();
    while let Some(start) = rest.find(is_of_host) {
        let length = rest[start..].find(|letter| !is_of_host(letter)).unwrap_or(rest.len() - start);
        let (before, run, after) = (&rest[..start], &rest[start..start + length], &rest[start + length..]);
        // A dot between them parts them.
        let is_joined = (before.ends_with(['@', '/', '\\']) && !run.starts_with(is_dot))
            || (after.starts_with(['@', '/', '\\', '?', '#']) && !run.ends_with(is_dot));
        let run = run.trim_matches(is_dot);
        let labels: Vec<&str> = run.split(is_dot).collect();
        if labels.len() > 1 && is_host(&labels) && (is_joined || !known.is_host(run)) {
            return !known.hosts.contains(&lower);
        }
        rest = after;
    }
    false
}

fn is_host(labels: &[&str]) -> bool {
    let is_octet = |label: &&str| (1..=3).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_digit());
    let is_top = |label: &&str| {
        let label = label.trim_matches(['-', '_']);
        !label.is_ascii()
            || (label.len() > 1
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && label.bytes().any(|byte| byte.is_ascii_alphabetic())
                && !FILES.contains(&label))
    };
    if labels.iter().any(|label| label.is_empty()) {
        return false;
    }
    labels[0] == "www" || labels[1..].iter().any(is_top) || (labels.len() == 4 && labels.iter().all(is_octet))
}

/// Controls, letters without a shape, and those that turn the order of others round.
fn is_hidden(letter: char) -> bool {
    if letter.is_ascii() {
        return letter.is_ascii_control();
    }
    letter.is_control()
        || matches!(letter, '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{180E}' | '\u{200B}'..='\u{200F}'
            | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}'
            | '\u{FFF9}'..='\u{FFFC}' | '\u{FDD0}'..='\u{FDEF}' | '\u{E0000}'..='\u{E0FFF}')
}

/// The tags of an HTML document, each with all its attributes. What stands in attributes that are
/// only read to people is left out, and a link that may be is its letter. An error is text that is more than text.
pub(super) fn tags(html: &str, known: &Known) -> Result<Vec<String>, String> {
    let mut list = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let mut rest = html;
    while let Some((text, after)) = rest.split_once('<') {
        inert(text, known)?;
        let (tag, after) = tag(after, known)?;
        let name = tag.split(' ').next().unwrap_or_default().to_owned();
        rest = after;
        if let Some(ended) = name.strip_prefix('/') {
            if open.pop().as_deref() != Some(ended) {
                return Err(format!("</{ended}> ends what did not begin"));
            }
        } else if name == "style" {
            let (style, after) = rest.split_once("</style>").ok_or("a style without an end")?;
            list.push(style.to_owned());
            rest = after;
        } else if !VOID.contains(&name.as_str()) {
            open.push(name);
        }
        list.push(tag);
    }
    inert(rest, known)?;
    Ok(list)
}

const VOID: [&str; 6] = ["!doctype", "meta", "br", "hr", "img", "link"];
/// Attributes that are read to people.
const TOLD: [&str; 5] = ["title", "alt", "aria-label", "summary", "abbr"];

/// A tag as one line, and what follows it.
fn tag<'h>(html: &'h str, known: &Known) -> Result<(String, &'h str), String> {
    let end = html.find(|letter: char| letter.is_whitespace() || letter == '>').ok_or("a tag without an end")?;
    let mut tag = html[..end].to_ascii_lowercase();
    let mut rest = html[end..].trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('>') {
            return Ok((tag, after));
        }
        let end =
            rest.find(|letter: char| letter.is_whitespace() || "=>".contains(letter)).ok_or("a tag without an end")?;
        let name = rest[..end].to_ascii_lowercase();
        tag.push(' ');
        tag.push_str(&name);
        rest = rest[end..].trim_start();
        if let Some(after) = rest.strip_prefix("=\"") {
            let (value, after) = after.split_once('"').ok_or("a quote without an end")?;
            if TOLD.contains(&name.as_str()) {
                inert(value, known)?;
            } else {
                let value = value.replace("&amp;", "&").replace("&#61;", "=");
                tag.push('=');
                match known.name(&value) {
                    Some(link) => tag.push(link),
                    None => tag.push_str(&value),
                }
            }
            rest = after.trim_start();
        } else if rest.starts_with('=') || name.is_empty() {
            return Err("an attribute without quotes".to_owned());
        }
    }
}

/// Whether text between tags, or in an attribute, is nothing but text.
fn inert(text: &str, known: &Known) -> Result<(), String> {
    if text.contains(['<', '>', '"', '\'', '`']) {
        return Err(format!("a mark of HTML in {text:?}"));
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let entities = [
            ("amp;", '&'),
            ("lt;", '<'),
            ("gt;", '>'),
            ("quot;", '"'),
            ("#39;", '\''),
            ("#96;", '`'),
            ("#61;", '='),
            ("nbsp;", ' '),
        ];
        let (name, letter) =
            entities.iter().find(|(name, _)| after.starts_with(name)).ok_or_else(|| format!("a bare & in {text:?}"))?;
        plain.push(*letter);
        rest = &after[name.len()..];
    }
    plain.push_str(rest);
    let mut marks = String::new();
    for line in plain.split('\n') {
        addresses(line, known, &mut marks);
        marks.extend(line.chars().filter(|letter| is_hidden(*letter)));
    }
    // An address that may be a link may be shown, too.
    if marks.chars().all(|mark| matches!(mark, 'L' | 'R')) {
        Ok(())
    } else {
        Err(format!("{marks:?} is something to act on: {text:?}"))
    }
}

/// An oracle that cannot say no is none: broken output of every dialect, and output that is as it should be.
#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            links: vec![
                ("https://app.halosecurity.com/link?a=1&b=2".to_owned(), 'L'),
                ("https://wiki.example.org/x".to_owned(), 'R'),
            ],
            hosts: vec!["www.example.org".to_owned()],
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table for each dialect")]
    fn whatever_is_not_escaped_is_found() {
        use Dialect::*;
        let everywhere = [
            "https://evil.example/",
            "evil.example",
            "x www.evil y",
            "//evil.example/x",
            "\\\\evil\\share",
            "a@evil.example",
            "javascript:alert(1)",
            "mailto:x@y",
            "tel:+19005550199",
            "evil。example",
            "правда.рф",
            "192.0.2.1",
            "www.example.org/path",
            "www.example.org.evil.example",
            "https://www.example.org",
            "a\u{202E}b",
            "a\u{200B}b",
            "a\0b",
            "a\rb",
            "a\u{FDD0}b",
            "http:evil",
            "://evil",
        ];
        let own: [(Dialect, &[&str]); 14] = [
            (
                SlackMarkdown,
                &[
                    "<!channel>",
                    "<@U1>",
                    "<!here|x>",
                    "<https://evil.example|x>",
                    "*b*",
                    "_i_",
                    "~s~",
                    "`c`",
                    ":skull:",
                    "> q",
                    "&gt; q",
                    "a & b",
                    "&#60;",
                    "a > b",
                ],
            ),
            (SlackPlain { emoji: true }, &["<!here>", ":skull:", "a & b", "a > b"]),
            (SlackPlain { emoji: false }, &["<!here>", "&lt;&nbsp;"]),
            (SlackRich, &["<!here>", ":+1:"]),
            (
                TeamsMarkdown,
                &[
                    "[x](y)",
                    "\\\\[x]",
                    "**b**",
                    "_i_",
                    "~~s~~",
                    "`c`",
                    "<at>x</at>",
                    "{{DATE(x)}}",
                    "# h",
                    "- a",
                    "+ a",
                    "1. a",
                    "2) a",
                    "&lt;",
                    "&#91;",
                    "\\x",
                    "]: x",
                ],
            ),
            (TeamsRun, &["<at>x</at>", "{{TIME(x)}}"]),
            (Mail, &["> quoted", "  > quoted"]),
            (Subject, &["=?utf-8?q?x?=", "a\r\nBcc: x"]),
            (Plain, &[]),
            (
                Discord,
                &[
                    "@everyone",
                    "<@123>",
                    "<#1>",
                    "<t:1>",
                    "[x](y)",
                    "[x]: y",
                    "\\\\[x",
                    "**b**",
                    "_i_",
                    "~~s~~",
                    "||p||",
                    "`c`",
                    "\\`c",
                    "# h",
                    "-# h",
                    "> q",
                    "- a",
                    "+ a",
                    "1. a",
                    "2) a",
                    ":skull:",
                    "a\\",
                ],
            ),
            (GoogleChat, &["<users/all>", "<x|y>", "*b*", "_i_", "~s~", "`c`", "- a", "* a", "&lt;", "[x](y)", "# h"]),
            (CardHtml, &["<b>x</b>", "<a href=\"x\">", "a < b", "a > b", "a \" b", "a & b", "&nbsp;", "&#64;"]),
            (
                Markdown,
                &[
                    "@all",
                    "@**all**",
                    "#tag",
                    "~town",
                    "$x$",
                    "$$x$$",
                    ":+1:",
                    "[x](y)",
                    "[x]: y",
                    "![x](y)",
                    "**b**",
                    "_i_",
                    "`c`",
                    "~~s~~",
                    "\\(x\\)",
                    "a | b",
                    "<b>",
                    "> q",
                    "/me a",
                    "+19005550199",
                    "&#64;",
                    "1. a",
                ],
            ),
            (
                TelegramHtml,
                &[
                    "<b>x</b>",
                    "&nbsp;",
                    "a & b",
                    "a > b",
                    "@name",
                    "#tag",
                    "/cmd",
                    "a (/cmd)",
                    "<b>/cmd</b>",
                    "$ABC",
                    "+19005550199",
                ],
            ),
        ];
        for (dialect, texts) in own {
            for text in texts.iter().chain(&everywhere) {
                assert_ne!(dialect.marks(text, &known()), "", "{dialect:?} {text:?}");
            }
        }
    }

    #[test]
    fn what_is_as_it_should_be_passes() {
        use Dialect::*;
        let everywhere = [
            "plain words, Größe 世界 💩",
            "hxxps://evil[.]example/x",
            "evil[.]example",
            "[//]evil[.]example",
            "[\\\\]evil\\share",
            "javascript[:]alert(1)",
            "a@evil[.]example",
            "www.example.org",
            "at www.example.org, app.halosecurity.com.",
            "4.94.2 login.php",
            "ftp[://]a",
            "Data: none",
            "09:41–10:00",
        ];
        let presets = [Plain, GoogleChat, CardHtml];
        let others = [SlackMarkdown, SlackPlain { emoji: true }, SlackRich, TeamsRun, Mail, Subject];
        for dialect in others.into_iter().chain(presets) {
            for text in everywhere {
                assert_eq!(dialect.marks(text, &known()), "", "{dialect:?} {text:?}");
            }
        }
        assert_eq!(SlackMarkdown.marks("&lt;!here&gt; a_b ∗b∗ :a b: 1 &amp; 2", &known()), "");
        assert_eq!(SlackMarkdown.marks("<https://wiki.example.org/x|y> *z*", &known()), "<R>**R");
        assert_eq!(TeamsMarkdown.marks("\\[x\\]（y) a\\\\b { {D} a & b; ‹at› 1.5", &known()), "");
        assert_eq!(Mail.marks("Runbook: https://wiki.example.org/x", &known()), "R");
        assert_eq!(Plain.marks("*b* <x> @all: https://wiki.example.org/x", &known()), "");
        assert_eq!(Discord.marks("\\@all \\[x\\]\\(y) \\<\\@1> [R](https://wiki.example.org/x)", &known()), "[](R");
        assert_eq!(GoogleChat.marks("@all ‹users/all› <https://wiki.example.org/x|R> *z*", &known()), "<R|>**");
        assert_eq!(
            CardHtml.marks("@all *b* &lt;b&gt; <a href=\"https://wiki.example.org/x\">R</a>", &known()),
            "<a href=\"R\"></a>"
        );
        assert_eq!(Markdown.marks("＠all a_b ［x]（y) [R](https://wiki.example.org/x)", &known()), "(R");
        assert_eq!(TelegramHtml.marks("a/b ＠all &lt;x&gt; and/or", &known()), "");
        assert_eq!(Raw.marks("<!channel> https://evil.example", &known()), "");
        // The vendor's, wherever they lead; nothing else that looks like it.
        let link = "https://app.halosecurity.com/link?a=1&b=2";
        for text in [
            format!("{link}: x, {link}."),
            format!("x.{link}"),
            format!("u[{link}"),
            "HTTPS://APP.HALOSECURITY.COM/LINK?A=1".to_owned(),
            "https://app.halosecurity.com/x::[://]-".to_owned(),
            "https://app.halosecurity.com/x:[hxxps://evil[.]example".to_owned(),
            "https∶//app.halosecurity.com/x".to_owned(),
            "https://app.halosecurity.com[x]: https://app.halosecurity.com! https://app.halosecurity.com.".to_owned(),
            "[＼//evil[.]example https://app.halosecurity.com:!".to_owned(),
            "]（https://app.halosecurity.com/x !https://app.halosecurity.com/x x=https://app.halosecurity.com/"
                .to_owned(),
        ] {
            for dialect in [Mail, Subject, Plain, TeamsRun] {
                assert_eq!(dialect.marks(&text, &known()), "", "{dialect:?} {text}");
            }
        }
        assert_eq!(Discord.marks("https://app.halosecurity.com/link?a=1&b=2: x", &known()), "");
        for text in [
            "https://app.halosecurity.com…",
            "https://app.halosecurity.com@evil.example/",
            "https://app.halosecurity.com.evil.example/",
            "https://evil.example/https://app.halosecurity.com/",
            "https://app.halosecurity.com/://evil.example",
            "https://app.halosecurity.com＃evil.example/",
            "evil.example?https://app.halosecurity.com/",
            "https://app.halosecurity.com:x@evil.example",
            "https∶//app.halosecurity.com∶x@evil.example",
            "https://app.halosecurity.com/x:[https://evil",
            "＼//evil/x",
            "https://x@app.halosecurity.com/",
            "evil.example@https://app.halosecurity.com/",
            "evil.example.https://app.halosecurity.com/",
            "xhttps://app.halosecurity.com/",
            "evil.example_a.halosecurity.com",
            "https://evil.example_a.halosecurity.com/",
            "http://app.halosecurity.com/",
        ] {
            for dialect in [Mail, Subject, Plain, TeamsRun] {
                assert_ne!(dialect.marks(text, &known()), "", "{dialect:?} {text}");
            }
        }
        // Lines do not join, and no name is as long as this.
        assert_eq!(CardHtml.marks("zq data:<br>• x", &known()), "");
        assert_ne!(CardHtml.marks("zq data:x<br>• x", &known()), "");
        assert_eq!(Markdown.marks(&format!("&{};", "x".repeat(32)), &known()), "");
        assert_eq!(Markdown.marks(&format!("&{};", "x".repeat(31)), &known()), "&");
        // Markup behind it counts.
        assert_eq!(Discord.marks("https://app.halosecurity.com/link?a=1&b=2:_x_", &known()), "__");
        assert_eq!(Markdown.marks("https://app.halosecurity.com/link?a=1&b=2#tag", &known()), "#");
    }

    #[test]
    fn tags_and_text_of_html() {
        let good =
            "<!DOCTYPE html><p title=\"a &quot;\">x &lt;b&gt; &amp;lt;</p><a href=\"https://wiki.example.org/x\">R</a>";
        assert_eq!(tags(good, &known()).unwrap(), ["!doctype html", "p title", "/p", "a href=R", "/a"]);
        assert_eq!(tags("<p><script>x</script></p>", &known()).unwrap(), ["p", "script", "/script", "/p"]);
        assert_eq!(tags("<p onclick=\"x\">", &known()).unwrap(), ["p onclick=x"]);
        assert_eq!(tags("<a href=\"https://evil.example\">", &known()).unwrap(), ["a href=https://evil.example"]);
        for bad in [
            "<p>a > b</p>",
            "</p>",
            "<p>a & b</p>",
            "<p title=\"evil.example\">",
            "<p>evil.example</p>",
            "<p title=x>",
            "<p",
            "<p title=\"x",
            "<p>&#104;</p>",
            "<b></i>",
            "<p>\u{202E}</p>",
        ] {
            assert!(tags(bad, &known()).is_err(), "{bad}");
        }
    }
}
