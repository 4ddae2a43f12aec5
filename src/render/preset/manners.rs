//! How a value is written in each place of a preset's body: one way for each [`Manner`].
//!
//! Where a service has an escape that all its clients honour, that is used: entities in HTML, Discord's backslash. Where it
//! has none, or its clients disagree, letters that mean something become look-alikes, as in the rest of this module: those
//! are right whether or not a client decodes them. An allowed address is written as it is, with all letters encoded that a
//! service could read anything into. Literals of the template stay.

use super::super::slack::emoji_colons;
use super::super::taint::{Letter, Piece, address, joins_word, letters, token};
use super::super::teams::{begins_entity, check_addresses};
use crate::preset::Manner;

/// Writes a string that holds values, or says why it cannot.
pub(super) fn write(manner: Manner, pieces: &[Piece], links: &[String]) -> Result<String, String> {
    match manner {
        Manner::Text | Manner::Data => Ok(pieces.iter().map(Piece::text).collect()),
        Manner::Link => address(pieces, links),
        Manner::Token => token(pieces),
        Manner::Number => digits(pieces),
        manner => markup(manner, pieces, links),
    }
}

/// Whether text stands there for people, who need not see all of it.
pub(super) const fn is_text(manner: Manner) -> bool {
    !matches!(manner, Manner::Data | Manner::Link | Manner::Token | Manner::Number)
}

/// Whether any text may stand there, and so be cut.
pub(super) const fn is_free(manner: Manner) -> bool {
    is_text(manner) || matches!(manner, Manner::Data)
}

/// Whether a text there can call somebody.
pub(super) const fn can_call(manner: Manner) -> bool {
    is_text(manner) && !matches!(manner, Manner::Text | Manner::GoogleCard)
}

/// How long a text is, as its service counts.
pub(super) fn length(manner: Manner, text: &str) -> usize {
    if manner != Manner::TelegramHtml {
        return text.chars().count();
    }
    // "after entities parsing": <https://core.telegram.org/bots/api#sendmessage>
    let mut shown = String::new();
    let mut in_tag = false;
    for letter in text.chars() {
        match letter {
            '<' => in_tag = true,
            '>' => in_tag = false,
            _ if !in_tag => shown.push(letter),
            _ => {}
        }
    }
    let entities = ["&amp;", "&lt;", "&gt;", "&quot;"];
    let hidden = entities.map(|entity| shown.matches(entity).count() * (entity.len() - 1));
    shown.chars().count() - hidden.iter().sum::<usize>()
}

/// An address and its label, in the place's own notation; of an address that may stand there.
pub(super) fn link(manner: Manner, url: &str, label: &str) -> Vec<Piece> {
    let literal = |text: &str| Piece::Literal(text.to_owned());
    let url = Piece::Value(url.to_owned());
    match manner {
        Manner::GoogleCard | Manner::TelegramHtml => {
            vec![literal("<a href=\""), url, literal(&format!("\">{label}</a>"))]
        }
        Manner::GoogleChat => vec![literal("<"), url, literal(&format!("|{label}>"))],
        Manner::Discord | Manner::Mattermost | Manner::RocketChat | Manner::Zulip => {
            vec![literal(&format!("[{label}](")), url, literal(")")]
        }
        Manner::Text | Manner::Data | Manner::Link | Manner::Token | Manner::Number => vec![url],
    }
}

fn digits(pieces: &[Piece]) -> Result<String, String> {
    let text: String = pieces.iter().map(Piece::text).collect();
    // What every reader of JSON takes exactly.
    if (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text);
    }
    Err("a value here must be a whole number of up to 15 digits".to_owned())
}

fn markup(manner: Manner, pieces: &[Piece], links: &[String]) -> Result<String, String> {
    let links: Vec<_> = links.iter().map(|url| (url, encoded(manner, url))).collect();
    let ready = |piece: &Piece| match piece {
        Piece::Value(text) => {
            let address = links.iter().find(|(url, _)| *url == text);
            Piece::Value(address.map_or(text, |(_, encoded)| encoded).clone())
        }
        literal @ Piece::Literal(_) => literal.clone(),
    };
    let pieces: Vec<_> = pieces.iter().map(ready).collect();
    let links: Vec<_> = links.into_iter().map(|(_, encoded)| encoded).collect();
    match manner {
        Manner::GoogleCard | Manner::TelegramHtml => check_angles(&pieces, &links, Angles::Tags)?,
        Manner::GoogleChat => check_angles(&pieces, &links, Angles::Links)?,
        _ => check_addresses(&pieces, &links)?,
    }
    // From here on an address is as good as a literal.
    let settled = pieces.into_iter().map(|piece| match piece {
        Piece::Value(url) if links.contains(&url) => Piece::Literal(url),
        piece => piece,
    });
    let letters = letters(&settled.collect::<Vec<_>>());
    let colons = emoji_colons(&letters);
    let mut text = String::new();
    for (at, (letter, is_value)) in letters.iter().copied().enumerate() {
        let place = Place { letters: &letters, at, colons: &colons };
        match manner {
            _ if !is_value => text.push(letter),
            Manner::Discord => discord(letter, &place, &mut text),
            Manner::GoogleCard => entity(letter, &mut text),
            Manner::TelegramHtml => telegram(letter, &place, &mut text),
            _ => text.push(look_alike(manner, letter, &place)),
        }
    }
    Ok(text)
}

/// An allowed address: what it consists of is graphic ASCII without quotes, backslash, backtick, angles and braces.
fn encoded(manner: Manner, url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let path = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let mut text = url[..path].to_owned();
    for letter in url[path..].chars() {
        match letter {
            '(' | ')' | '[' | ']' | '*' | '|' | '~' | '@' | '!' | '$' | ':' => {
                text.push_str(&format!("%{:02X}", u32::from(letter)));
            }
            '&' if matches!(manner, Manner::GoogleCard | Manner::TelegramHtml) => text.push_str("&amp;"),
            _ => text.push(letter),
        }
    }
    text
}

/// A letter among the others.
struct Place<'a> {
    letters: &'a [Letter],
    at: usize,
    /// Where colons stand that could make an emoji.
    colons: &'a [usize],
}

impl Place<'_> {
    fn before(&self) -> Option<char> {
        self.at.checked_sub(1).and_then(|at| self.letters.get(at)).map(|(letter, _)| *letter)
    }

    fn after(&self) -> Option<char> {
        self.letters.get(self.at + 1).map(|(letter, _)| *letter)
    }

    /// Whether a block could begin here: nothing stands before but spaces and the marks of other blocks, as in `> - 1. `.
    fn leads(&self) -> bool {
        self.leads_at(self.at)
    }

    fn leads_at(&self, at: usize) -> bool {
        let line = self.letters[..at].iter().rev().map(|(letter, _)| *letter).take_while(|letter| *letter != '\n');
        // Backwards: digits are a mark only before a dot or bracket.
        let mut numbered = false;
        for letter in line {
            match letter {
                '.' | ')' => numbered = true,
                '0'..='9' if numbered => {}
                ' ' | '-' | '*' | '+' | '>' | '#' | '•' => numbered = false,
                _ => return false,
            }
        }
        true
    }

    fn is_emoji_colon(&self) -> bool {
        self.colons.contains(&self.at)
    }

    /// Whether a word follows that calls a whole channel.
    fn calls_all(&self) -> bool {
        let word = self.letters[self.at + 1..].iter().map(|(letter, _)| letter.to_ascii_lowercase());
        ["everyone", "here"].iter().any(|known| word.clone().take(known.len()).eq(known.chars()))
    }

    fn ends_list_number(&self) -> bool {
        let digits = self.letters[..self.at].iter().rev().take_while(|(letter, _)| letter.is_ascii_digit()).count();
        digits > 0 && self.after().is_none_or(char::is_whitespace) && self.leads_at(self.at - digits)
    }
}

/// A backslash before anything but letters, digits and space is taken away by every client, and what follows is text.
/// Not so in code, so a backtick is never written. <https://support.discord.com/hc/en-us/articles/210298617>
fn discord(letter: char, place: &Place<'_>, text: &mut String) {
    let special = match letter {
        '`' => return text.push('ˋ'),
        // The server looks for these words and not for backslashes, and a message that calls some could then call all.
        '@' if place.calls_all() => return text.push('＠'),
        '\\' | '*' | '_' | '~' | '|' | '<' | '[' | ']' | '@' => true,
        '(' => place.before() == Some(']'),
        ':' => place.is_emoji_colon() || place.before() == Some(']'),
        '>' | '#' | '-' | '+' => place.leads(),
        '.' | ')' => place.ends_list_number(),
        _ => false,
    };
    if special {
        text.push('\\');
    }
    text.push(letter);
}

fn entity(letter: char, text: &mut String) {
    match letter {
        '&' => text.push_str("&amp;"),
        '<' => text.push_str("&lt;"),
        '>' => text.push_str("&gt;"),
        '"' => text.push_str("&quot;"),
        letter => text.push(letter),
    }
}

/// Entities, and what clients make links of by themselves: `@name`, `#tag`, `/command`, `$TAG`, telephone numbers.
/// <https://core.telegram.org/bots/api#messageentity>
fn telegram(letter: char, place: &Place<'_>, text: &mut String) {
    let word = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    match letter {
        '@' => text.push('＠'),
        '#' => text.push('＃'),
        '$' if place.after().is_some_and(char::is_alphabetic) => text.push('＄'),
        '+' if place.after().is_some_and(|next| next.is_ascii_digit()) => text.push('＋'),
        '/' if word(place.after()) && !word(place.before()) && !matches!(place.before(), Some('/' | '<')) => {
            text.push('∕');
        }
        letter => entity(letter, text),
    }
}

/// For services without an escape that all their clients know. What Google Chat knows all of them know; the others make
/// more of text by themselves: mentions, channels and tags, emoji, formulas.
fn look_alike(manner: Manner, letter: char, place: &Place<'_>) -> char {
    let richer = manner != Manner::GoogleChat;
    match letter {
        '*' => '∗',
        '~' => '∼',
        '`' => 'ˋ',
        '<' => '‹',
        '>' => '›',
        '|' => '∣',
        '_' if !joins_word(place.letters, place.at) => 'ˍ',
        '&' if begins_entity(place.letters, place.at) => '＆',
        // After the template's own `]` these would make a link or a reference; after any other they are odd enough.
        '(' if place.before() == Some(']') => '（',
        ':' if place.before() == Some(']') || (richer && place.is_emoji_colon()) => '∶',
        // Before the template's own link, or within its label, it would make an image.
        '!' if place.after() == Some('[') => '！',
        '@' if richer => '＠',
        '#' if richer || place.leads() => '＃',
        '$' if richer => '＄',
        '\\' if richer => '＼',
        '-' if place.leads() => '‐',
        '=' if place.leads() => '＝',
        '+' if place.leads() || (richer && place.after().is_some_and(|next| next.is_ascii_digit())) => '＋',
        // `/me`, `/poll`: only at the start of a Zulip message.
        '/' if manner == Manner::Zulip && place.leads() => '∕',
        '.' if place.ends_list_number() => '․',
        ')' if place.ends_list_number() => '）',
        letter => letter,
    }
}

/// What `<…>` of the template is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Angles {
    /// `<a href="…">`
    Tags,
    /// `<url|label>`, `<users/all>`
    Links,
}

/// In the template's own `<…>` a value may only be an allowed address, alone where an address belongs, or a label after `|`.
fn check_angles(pieces: &[Piece], links: &[String], angles: Angles) -> Result<(), String> {
    let (mut inside, mut label) = (false, false);
    for (at, piece) in pieces.iter().enumerate() {
        let value = match piece {
            Piece::Literal(text) => {
                for letter in text.chars() {
                    (inside, label) = match letter {
                        '<' => (true, false),
                        '>' => (false, false),
                        '|' => (inside, inside && angles == Angles::Links),
                        _ => (inside, label),
                    };
                }
                continue;
            }
            Piece::Value(value) => value,
        };
        let before = at.checked_sub(1).and_then(|at| pieces.get(at));
        let (opens, closes): (&str, &[char]) = match angles {
            Angles::Tags => ("href=\"", &['"']),
            Angles::Links => ("<", &['|', '>']),
        };
        let alone = links.contains(value)
            && matches!(before, Some(Piece::Literal(text)) if text.ends_with(opens))
            && matches!(pieces.get(at + 1), Some(Piece::Literal(text)) if text.starts_with(closes));
        if inside && !label && !alone {
            return Err(match angles {
                Angles::Tags => "inside a tag a value may only be {{link.url}} or {{runbook}}, alone in href=\"…\"",
                Angles::Links => "inside <…> a value may only be {{link.url}} or {{runbook}}, alone, or a label",
            }
            .to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "https://app.halosecurity.com/link?q=a_b&id=1";
    const WIKI: &str = "https://wiki.example.org:8443/certs_(tls)/@all?x=a:b*c|d#e";

    fn value(text: &str) -> Piece {
        Piece::Value(text.to_owned())
    }

    fn literal(text: &str) -> Piece {
        Piece::Literal(text.to_owned())
    }

    fn links() -> Vec<String> {
        vec![LINK.to_owned(), WIKI.to_owned()]
    }

    fn table(manner: Manner, cases: &[(&str, &str)]) {
        for (text, expected) in cases {
            assert_eq!(write(manner, &[value(text)], &links()).as_deref(), Ok(*expected), "{manner:?} {text}");
        }
    }

    #[test]
    fn no_value_makes_an_image_of_the_templates_link_or_a_command_after_its_tag() {
        let pieces = [value("look!"), literal("[Open](https://x.example)")];
        for manner in [Manner::Mattermost, Manner::RocketChat, Manner::Zulip] {
            let written = write(manner, &pieces, &links());
            assert_eq!(written.as_deref(), Ok("look！[Open](https://x.example)"), "{manner:?}");
        }
        let pieces = [literal("<b>"), value("/stop now"), literal("</b>")];
        let written = write(Manner::TelegramHtml, &pieces, &links());
        assert_eq!(written.as_deref(), Ok("<b>∕stop now</b>"));
    }

    /// What has its way in one of the services, whatever the others make of it.
    const ATTACKS: [&str; 20] = [
        "@everyone @here @all @channel",
        "<@123> <@&1> <#1> <!channel> <users/all>",
        "<https://evil|x> <t:1> <time:1>",
        "[x](hxxps://evil) ![x](y)",
        "[x]: hxxps://evil",
        "**b** *i* __u__ _i_ ~~s~~ ||p||",
        "`c` ```c```",
        "# h",
        "> q",
        "- a",
        "1. a",
        "=== a",
        ":skull: 09:41",
        "@**all** #**c>t** $$x$$",
        "/me a /cmd",
        "&lt;b&gt; &#64;all AT&T",
        "<b>x</b> <a href=\"x\">",
        "#tag ~town $ABC +19005550199",
        "\\* \\",
        "a | b",
    ];

    #[test]
    fn discord_by_backslashes() {
        let expected = [
            r"＠everyone ＠here \@all \@channel",
            r"\<\@123> \<\@&1> \<#1> \<!channel> \<users/all>",
            r"\<https://evil\|x> \<t:1> \<time:1>",
            r"\[x\]\(hxxps://evil) !\[x\]\(y)",
            r"\[x\]\: hxxps://evil",
            r"\*\*b\*\* \*i\* \_\_u\_\_ \_i\_ \~\~s\~\~ \|\|p\|\|",
            "ˋcˋ ˋˋˋcˋˋˋ",
            r"\# h",
            r"\> q",
            r"\- a",
            r"1\. a",
            "=== a",
            r"\:skull\: 09:41",
            r"\@\*\*all\*\* #\*\*c>t\*\* $$x$$",
            "/me a /cmd",
            "&lt;b&gt; &#64;all AT&T",
            "\\<b>x\\</b> \\<a href=\"x\">",
            r"\#tag \~town $ABC +19005550199",
            r"\\\* \\",
            r"a \| b",
        ];
        table(Manner::Discord, &ATTACKS.into_iter().zip(expected).collect::<Vec<_>>());
    }

    #[test]
    fn google_chat_by_look_alikes() {
        let expected = [
            "@everyone @here @all @channel",
            "‹@123› ‹@&1› ‹#1› ‹!channel› ‹users/all›",
            "‹https://evil∣x› ‹t:1› ‹time:1›",
            "[x]（hxxps://evil) ！[x]（y)",
            "[x]∶ hxxps://evil",
            "∗∗b∗∗ ∗i∗ ˍˍuˍˍ ˍiˍ ∼∼s∼∼ ∣∣p∣∣",
            "ˋcˋ ˋˋˋcˋˋˋ",
            "＃ h",
            "› q",
            "‐ a",
            "1․ a",
            "＝== a",
            ":skull: 09:41",
            "@∗∗all∗∗ #∗∗c›t∗∗ $$x$$",
            "/me a /cmd",
            "＆lt;b＆gt; ＆#64;all AT&T",
            "‹b›x‹/b› ‹a href=\"x\"›",
            "＃tag ∼town $ABC +19005550199",
            "\\∗ \\",
            "a ∣ b",
        ];
        table(Manner::GoogleChat, &ATTACKS.into_iter().zip(expected).collect::<Vec<_>>());
    }

    #[test]
    fn mattermost_rocket_chat_and_zulip_by_look_alikes() {
        let expected = [
            "＠everyone ＠here ＠all ＠channel",
            "‹＠123› ‹＠&1› ‹＃1› ‹!channel› ‹users/all›",
            "‹https://evil∣x› ‹t:1› ‹time:1›",
            "[x]（hxxps://evil) ！[x]（y)",
            "[x]∶ hxxps://evil",
            "∗∗b∗∗ ∗i∗ ˍˍuˍˍ ˍiˍ ∼∼s∼∼ ∣∣p∣∣",
            "ˋcˋ ˋˋˋcˋˋˋ",
            "＃ h",
            "› q",
            "‐ a",
            "1․ a",
            "＝== a",
            "∶skull∶ 09:41",
            "＠∗∗all∗∗ ＃∗∗c›t∗∗ ＄＄x＄＄",
            "/me a /cmd",
            "＆lt;b＆gt; ＆＃64;all AT&T",
            "‹b›x‹/b› ‹a href=\"x\"›",
            "＃tag ∼town ＄ABC ＋19005550199",
            "＼∗ ＼",
            "a ∣ b",
        ];
        for manner in [Manner::Mattermost, Manner::RocketChat] {
            table(manner, &ATTACKS.into_iter().zip(expected).collect::<Vec<_>>());
        }
        let zulip = expected.map(|text| if text.starts_with("/me") { "∕me a /cmd" } else { text });
        table(Manner::Zulip, &ATTACKS.into_iter().zip(zulip).collect::<Vec<_>>());
    }

    #[test]
    fn html_by_entities() {
        let cases = [
            ("<b>x</b> & \"y\"", "&lt;b&gt;x&lt;/b&gt; &amp; &quot;y&quot;"),
            ("&lt;a href=x&gt;", "&amp;lt;a href=x&amp;gt;"),
            ("<users/all> <a href=\"x\">", "&lt;users/all&gt; &lt;a href=&quot;x&quot;&gt;"),
        ];
        table(Manner::GoogleCard, &cases);
        table(Manner::TelegramHtml, &cases);
        table(Manner::GoogleCard, &[("@all #a /b $C +1", "@all #a /b $C +1")]);
        let cases = [
            ("@all user@evil", "＠all user＠evil"),
            ("#tag a#b", "＃tag a＃b"),
            ("/cmd (/cmd) a/b /", "∕cmd (∕cmd) a/b /"),
            ("$ABC $5", "＄ABC $5"),
            ("+19005550199 a + b", "＋19005550199 a + b"),
            ("*b* [x](y)", "*b* [x](y)"),
        ];
        table(Manner::TelegramHtml, &cases);
    }

    #[test]
    fn texts_data_tokens_and_numbers() {
        for attack in ATTACKS {
            table(Manner::Text, &[(attack, attack)]);
            table(Manner::Data, &[(attack, attack)]);
        }
        for (text, good) in
            [("14250765", true), ("0", true), ("", false), ("-1", false), ("1.5", false), ("1e3", false)]
        {
            assert_eq!(write(Manner::Number, &[value(text)], &[]).is_ok(), good, "{text}");
        }
        assert!(write(Manner::Number, &[value("1234567890123456")], &[]).is_err());
        assert!(write(Manner::Token, &[value("hr_1-2")], &[]).is_ok());
        assert!(write(Manner::Token, &[value("a b")], &[]).is_err());
        assert!(write(Manner::Link, &[value(LINK)], &links()).is_ok());
        assert!(write(Manner::Link, &[value("https://evil.example")], &links()).is_err());
    }

    /// A block of a service's Markdown may stand in another.
    #[test]
    fn blocks_cannot_begin_behind_marks_of_blocks() {
        let cases = [
            (vec![literal("- "), value("# h")], "- ＃ h"),
            (vec![literal("> 1. "), value("- a")], "> 1. ‐ a"),
            (vec![literal("• "), value("> q")], "• › q"),
            (vec![literal("a: "), value("- a")], "a: - a"),
            (vec![literal("x\n"), value("- 1. a")], "x\n‐ 1․ a"),
            (vec![value("443-445")], "443-445"),
        ];
        for (pieces, expected) in cases {
            assert_eq!(write(Manner::Mattermost, &pieces, &[]).as_deref(), Ok(expected), "{pieces:?}");
        }
    }

    #[test]
    fn only_allowed_addresses_are_links() {
        const ENCODED: &str = "https://wiki.example.org:8443/certs_%28tls%29/%40all?x=a%3Ab%2Ac%7Cd#e";
        const ESCAPED: &str = "https://app.halosecurity.com/link?q=a_b&amp;id=1";
        let markdown = [Manner::Discord, Manner::Mattermost, Manner::RocketChat, Manner::Zulip];
        for manner in markdown {
            let wiki = [literal("["), value("a"), literal("]("), value(WIKI), literal(")")];
            assert_eq!(write(manner, &wiki, &links()), Ok(format!("[a]({ENCODED})")));
            let bare = [literal("see "), value(LINK), literal("\n")];
            assert_eq!(write(manner, &bare, &links()), Ok(format!("see {LINK}\n")));
            for bad in [
                vec![literal("[a]("), value("https://evil.example"), literal(")")],
                vec![literal("[a](https://wiki.example/"), value("x"), literal(")")],
                vec![literal("<@"), value("1"), literal(">")],
                vec![literal("<"), value("https://evil.example"), literal(">")],
            ] {
                assert!(write(manner, &bad, &links()).is_err(), "{manner:?} {bad:?}");
            }
        }
        for manner in [Manner::GoogleCard, Manner::TelegramHtml] {
            let good = [literal("<a href=\""), value(LINK), literal("\">"), value("<x>"), literal("</a>")];
            assert_eq!(write(manner, &good, &links()), Ok(format!("<a href=\"{ESCAPED}\">&lt;x&gt;</a>")));
            for bad in [
                vec![literal("<a href=\""), value("https://evil.example"), literal("\">")],
                vec![literal("<a href=\""), value(LINK), literal("x\">")],
                vec![literal("<a href="), value(LINK), literal(">")],
                vec![literal("<"), value("b"), literal(">")],
                vec![literal("<font color=\""), value("red"), literal("\">")],
            ] {
                assert!(write(manner, &bad, &links()).is_err(), "{manner:?} {bad:?}");
            }
        }
        let good = [literal("<"), value(LINK), literal("|"), value("a|b>c"), literal("> x")];
        assert_eq!(write(Manner::GoogleChat, &good, &links()), Ok(format!("<{LINK}|a∣b›c> x")));
        for bad in [
            vec![literal("<users/"), value("all"), literal(">")],
            vec![literal("<"), value("https://evil.example"), literal("|x>")],
            vec![literal("<"), value(LINK), literal("x>")],
        ] {
            assert!(write(Manner::GoogleChat, &bad, &links()).is_err(), "{bad:?}");
        }
        for manner in markdown.into_iter().chain([Manner::GoogleChat, Manner::GoogleCard, Manner::TelegramHtml]) {
            assert!(write(manner, &link(manner, WIKI, "Runbook"), &links()).is_ok(), "{manner:?}");
        }
    }

    #[test]
    fn telegram_counts_what_is_shown() {
        let cases =
            [("abc", 3), ("<b>abc</b>", 3), ("&lt;&amp;&quot;x", 4), ("<a href=\"https://x/?a&amp;b\">é</a>", 1)];
        for (text, expected) in cases {
            assert_eq!(length(Manner::TelegramHtml, text), expected, "{text}");
        }
        assert_eq!(length(Manner::GoogleCard, "<b>a</b>"), 8);
    }
}
