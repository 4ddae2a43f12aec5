//! What a client would act on in a line of text, dialect by dialect: emphasis, links, mentions, tags, header breaks, what it
//! makes a link by itself, and letters that nobody sees. Written from the services' own pages, not from the relay's code, so
//! that a mistake there is none here.

use std::borrow::Cow;

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

    fn is_host(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        text == "halosecurity.com" || text.ends_with(".halosecurity.com") || self.hosts.contains(&text)
    }
}

impl Dialect {
    /// All of it, in order, as a few letters each; empty for plain words.
    pub(super) fn marks(self, line: &str, known: &Known) -> String {
        let mut out = String::new();
        match self {
            Self::Raw => return out,
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
        addresses(&self.read(line), known, &mut out);
        out.extend(line.chars().filter(|letter| is_hidden(*letter)).map(|_| '\u{FFFD}'));
        out
    }
}

impl Dialect {
    /// What is shown of a line, its escapes undone.
    fn read(self, line: &str) -> Cow<'_, str> {
        match self {
            Self::SlackMarkdown | Self::SlackPlain { .. } if line.contains('&') => {
                line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").into()
            }
            Self::TeamsMarkdown if line.contains('\\') => {
                line.replace("\\[", "[").replace("\\]", "]").replace("\\\\", "\\").into()
            }
            _ => line.into(),
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
            '&' => {
                let name = rest.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || letter == '#');
                out.extend((name.starts_with(';') && name.len() < rest.len()).then_some('&'));
            }
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
    for (link, name) in &known.links {
        if let Some((before, after)) = line.split_once(link.as_str())
            && before.chars().next_back().is_none_or(|letter| is_word_end(letter) || letter == '[')
            && after.chars().next().is_none_or(is_word_end)
        {
            addresses(before, known, out);
            out.push(*name);
            return addresses(after, known, out);
        }
    }
    for word in line.split(is_word_end) {
        if word.is_empty() {
            continue;
        }
        if is_address(word, known) {
            out.push('!');
        }
    }
}

/// The last are written where other letters would be markup.
fn is_word_end(letter: char) -> bool {
    letter.is_whitespace() || "<>\"'|(){},;`*~ˋ∗∼∣›‹".contains(letter) || letter == ']'
}

fn is_address(word: &str, known: &Known) -> bool {
    // `_` is written as a look-alike where it might be markup.
    let lower = word.to_lowercase().replace('ˍ', "_");
    for (at, letter) in lower.char_indices() {
        let (before, after) = (&lower[..at], &lower[at + letter.len_utf8()..]);
        if letter == ':' {
            // Made harmless: `hxxps://` and `[://]`.
            let harmless = before.ends_with("hxxp") || before.ends_with("hxxps") || before.ends_with('[');
            if after.starts_with("//") && !harmless {
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
        if slashes && !before.ends_with([':', '∶', '[', '/', '\\']) && after.len() > 1 {
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
            "https://app.halosecurity.com/link?a=1&b=3",
            "https://app.halosecurity.com/link?a=1&b=2x",
            "a\u{202E}b",
            "a\u{200B}b",
            "a\0b",
            "a\rb",
            "a\u{FDD0}b",
            "http:evil",
            "://evil",
        ];
        let own: [(Dialect, &[&str]); 8] = [
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
        for dialect in [SlackMarkdown, SlackPlain { emoji: true }, SlackRich, TeamsRun, Mail, Subject] {
            for text in everywhere {
                assert_eq!(dialect.marks(text, &known()), "", "{dialect:?} {text:?}");
            }
        }
        assert_eq!(SlackMarkdown.marks("&lt;!here&gt; a_b ∗b∗ :a b: 1 &amp; 2", &known()), "");
        assert_eq!(SlackMarkdown.marks("<https://wiki.example.org/x|y> *z*", &known()), "<R>**R");
        assert_eq!(TeamsMarkdown.marks("\\[x\\]（y) a\\\\b { {D} a & b; ‹at› 1.5", &known()), "");
        assert_eq!(Mail.marks("Runbook: https://wiki.example.org/x", &known()), "R");
        assert_eq!(Raw.marks("<!channel> https://evil.example", &known()), "");
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
