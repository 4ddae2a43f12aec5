//! Event text made fit to be shown: one line, no invisible or reordering characters, bounded, nothing that a client would
//! turn into a link. What is cut is marked with `…`.
//!
//! This is the first of two defences. The second, escaping for the place where the text lands, is
//! [`taint`](super::taint)'s; neither relies on the other.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;
use unicode_segmentation::GraphemeCursor;

use super::audience::Hosts;

/// Marks what was cut.
pub(super) const CUT: char = '…';

/// The vendor's domain: the only one whose addresses may become links.
const VENDOR: &str = "halosecurity.com";

/// What may stand undefanged in a text, beside the vendor's hosts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spared<'a> {
    /// The event's own host name, alone.
    pub(super) own: Option<&'a str>,
    /// Hosts of the rules file: their names alone, and plain addresses there.
    pub(super) hosts: Option<&'a Hosts>,
}

impl<'a> Spared<'a> {
    pub(super) const NONE: Spared<'static> = Spared { own: None, hosts: None };

    pub(super) fn hosts(hosts: &'a Hosts) -> Self {
        Self { own: None, hosts: Some(hosts) }
    }

    pub(super) fn allows(self, host: &str) -> bool {
        is_vendor(host) || self.hosts.is_some_and(|hosts| hosts.allow(host))
    }
}

/// One line of at most `max` characters: control, invisible and reordering characters dropped, white space collapsed.
/// Marks that are written over a letter are dropped after the third, since a heap of them covers the lines around.
/// Reads no further than it needs, so an endless text costs no more than a long one.
pub(super) fn clean(text: &str, max: usize) -> String {
    if text.len() <= max && is_clean(text) {
        return text.to_owned();
    }
    let mut line = String::new();
    let (mut count, mut gap, mut marks) = (0, false, 0);
    for letter in text.chars() {
        marks = if is_mark(letter) { marks + 1 } else { 0 };
        if letter.is_whitespace() || matches!(letter, '\u{1C}'..='\u{1F}' | '\u{2800}') {
            gap = count > 0;
        } else if !is_hidden(letter) && marks <= MARKS_MAX {
            for letter in gap.then_some(' ').into_iter().chain([letter]) {
                line.push(letter);
                if count == max {
                    return with_mark(whole_letters(&line, max.saturating_sub(1)));
                }
                count += 1;
            }
            gap = false;
        }
    }
    line
}

/// Whether nothing needs cleaning, as in most texts: printable ASCII, words one space apart.
fn is_clean(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~'))
        && !bytes.windows(2).any(|pair| pair == b"  ")
        && !text.starts_with(' ')
        && !text.ends_with(' ')
}

/// [`clean`] and defanged: an address in it cannot be clicked, but for what is spared.
pub(super) fn tame(text: &str, spared: Spared<'_>, max: usize) -> String {
    shorten(&defang(&clean(text, max), spared), max)
}

/// At most `max` characters, whole ones as people see them; the last is `…` if anything was cut.
///
/// An address that might stand whole must not when it is cut: `www.example.com.example.org` would lead to
/// `www.example.com`, another's host.
pub(super) fn shorten(text: &str, max: usize) -> String {
    if text.len() <= max || text.char_indices().nth(max).is_none() {
        return text.to_owned();
    }
    let max = max.saturating_sub(1);
    let kept = whole_letters(text, max);
    let word = kept.rfind([' ', '\n']).map_or(0, |at| at + 1);
    let tail = &kept[word..];
    let is_address = tail.contains(|letter| letter == ':' || is_dot(letter));
    let tamed = if is_address { defang_all(tail, Spared::NONE) } else { tail.to_owned() };
    let tamed = format!("{}{tamed}", &kept[..word]);
    with_mark(without_half_escape(whole_letters(&tamed, max)))
}

/// [`shorten`] for machines: what is left is as it was.
pub(super) fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => with_mark(whole_letters(text, max.saturating_sub(1))),
    }
}

fn with_mark(text: &str) -> String {
    format!("{text}{CUT}")
}

/// The first `max` characters, less those that belong to a letter which does not end there: one with its accents, a flag,
/// an emoji of several.
fn whole_letters(text: &str, max: usize) -> &str {
    /// No letter of any language is as long; what is, may be cut.
    const LETTER_BYTES_MAX: usize = 64;

    let Some((end, next)) = text.char_indices().nth(max) else { return text };
    if next.is_ascii_graphic() && text[..end].ends_with(|letter: char| letter.is_ascii()) {
        return &text[..end];
    }
    let mut cursor = GraphemeCursor::new(end, text.len(), true);
    if cursor.is_boundary(text, 0).unwrap_or(true) {
        return &text[..end];
    }
    let start = cursor.prev_boundary(text, 0).ok().flatten().filter(|start| end - start <= LETTER_BYTES_MAX);
    &text[..start.unwrap_or(end)]
}

/// Without the beginning of a `[.]` or `[://]` whose end was cut off.
fn without_half_escape(text: &str) -> &str {
    const HALVES: [&str; 9] = ["[", "[.", "[:", "[:/", "[://", "[/", "[//", "[\\", "[\\\\"];
    match text.rfind('[') {
        Some(at) if HALVES.contains(&&text[at..]) => &text[..at],
        _ => text,
    }
}

/// How many marks one letter may carry: what Vietnamese and pointed Hebrew need.
const MARKS_MAX: usize = 3;

/// Nonspacing marks of the blocks that are used to heap them up; no complete list of the property `Mn`.
/// <https://www.unicode.org/charts/>
fn is_mark(letter: char) -> bool {
    letter >= '\u{300}'
        && matches!(letter,
            '\u{0300}'..='\u{036F}' | '\u{0483}'..='\u{0489}' | '\u{0591}'..='\u{05BD}' | '\u{0610}'..='\u{061A}'
            | '\u{064B}'..='\u{065F}' | '\u{06D6}'..='\u{06ED}' | '\u{0E31}' | '\u{0E34}'..='\u{0E3A}'
            | '\u{0E47}'..='\u{0E4E}' | '\u{0EB1}'..='\u{0ECE}' | '\u{0F71}'..='\u{0F87}' | '\u{1AB0}'..='\u{1AFF}'
            | '\u{1DC0}'..='\u{1DFF}' | '\u{20D0}'..='\u{20FF}' | '\u{302A}'..='\u{302F}' | '\u{3099}'..='\u{309A}'
            | '\u{A66F}'..='\u{A67D}' | '\u{FE20}'..='\u{FE2F}' | '\u{1D165}'..='\u{1D1AD}')
}

/// What no reader sees but a machine, a terminal or the order of letters may act on; and noncharacters, among them the
/// marks of [`taint`](super::taint). Which these are: <https://www.unicode.org/reports/tr36/#Bidirectional_Text_Spoofing>
/// and the property `Default_Ignorable_Code_Point` of <https://www.unicode.org/reports/tr44/>.
pub(super) fn is_hidden(letter: char) -> bool {
    let code = u32::from(letter);
    letter.is_control()
        || matches!(letter,
            '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFC}'
            | '\u{13430}'..='\u{1345F}' | '\u{16FE4}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D159}'
            | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}'
            | '\u{FDD0}'..='\u{FDEF}')
        || code & 0xFFFE == 0xFFFE
}

/// Makes addresses unclickable, the way analysts write them: `hxxps://evil[.]example`, `user@evil[.]example`.
/// A host name stays whole only if it is spared or the vendor's and stands alone: no scheme, user, port or path. Of such
/// hosts, but for the event's own, whole plain addresses stay too.
pub(super) fn defang(text: &str, spared: Spared<'_>) -> String {
    if !text.contains("://") || !text.split_whitespace().any(|word| plain_address(word, spared).is_some()) {
        return defang_all(text, spared);
    }
    let mut safe = String::with_capacity(text.len());
    // Words that follow each other and are no such address are looked at together.
    let mut others = 0;
    let mut at = 0;
    for word in text.split_inclusive(char::is_whitespace) {
        if let Some(address) = plain_address(word.trim_end(), spared) {
            let start = at + word.find(address).unwrap_or_default();
            safe.push_str(&defang_all(&text[others..start], spared));
            safe.push_str(address);
            others = start + address.len();
        }
        at += word.len();
    }
    safe.push_str(&defang_all(&text[others..], spared));
    safe
}

/// The address a word consists of, brackets and punctuation round it aside, if its host is spared. So plain that no client
/// ends it early, or reads another host in it.
fn plain_address<'t>(word: &'t str, spared: Spared<'_>) -> Option<&'t str> {
    let address =
        word.trim_start_matches(['(', '"', '\'']).trim_end_matches(['.', ',', ';', ':', '!', '?', ')', '"', '\'']);
    let (_, rest) = address.split_once("://")?;
    let authority = authority(rest);
    let path = &rest[authority.len()..];
    let host = authority.split(':').next().unwrap_or_default();
    // The vendor's are never `http`; who allows a host may have such.
    let allowed = if address.starts_with("https:") { spared.allows(host) } else { spared.hosts?.allow(host) };
    let good = is_plain_url(address) && is_plain_path(path) && !path.contains("//") && allowed;
    good.then_some(address)
}

/// Whether what follows a host reads like no markup, wherever it stands: no `~`, and `_` only between letters or digits.
/// Where an address ends differs from client to client, and with it what is still markup. It begins with `/`: a look-alike
/// of `#` right behind the host might be taken for a part of it. In a mail's subject `=?` is parted.
fn is_plain_path(path: &str) -> bool {
    (path.is_empty() || path.starts_with('/'))
        && !path.contains("=?")
        && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_.%?=&#+-".contains(&byte))
        && path.match_indices('_').all(|(at, _)| joins(path, at))
}

fn joins(text: &str, at: usize) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    is_word(at.checked_sub(1).and_then(|at| bytes.get(at))) && is_word(bytes.get(at + 1))
}

fn defang_all(text: &str, spared: Spared<'_>) -> String {
    // `//evil.example` takes the scheme of the page around it, and Outlook opens `\\server\share`.
    static SLASHES: LazyLock<Regex> = LazyLock::new(|| pattern(r"[/\\]{2,}"));
    static SCHEME: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)([a-z0-9+.-]*)(\[?:[/\\]{2,})"));
    // Schemes that need no `//` to act, also at the end of a longer word: clients differ in where a word begins.
    static BARE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?i)(javascript|vbscript|data|blob|file|about|mailto|tel|sms|mms|callto|skype|slack|msteams|ms-[a-z-]+|search-ms|https?|ftps?|sips?|facetime|facetime-[a-z]+|webcal|xmpp|magnet|geo|maps|notes|news|outlook|onenote|zoommtg|intent|itms-[a-z]+|view-source|cid|mid):",
        )
    });
    // Letters of any script and signs too: clients take `💩.la` for a host, and IDNA reads `℡` as `tel`.
    static HOST: LazyLock<Regex> = LazyLock::new(|| {
        let label = format!(r"[\w\-\x{{80}}-\x{{10FFFF}}&&[^\s{DOT_LIKE}…·–—‹›«»“”‘’]]+");
        pattern(&format!(r"{label}(?:[.{DOT_LIKE}]{label})+"))
    });

    // Most words by far; a colon at the end, as of a label, joins nothing.
    if !text.trim_end_matches(':').contains(|letter| matches!(letter, ':' | '/' | '\\') || is_dot(letter)) {
        return text.to_owned();
    }
    // The letters beside a match are looked at, not taken along: they may stand beside the next one, too.
    let beside = |text: &str, found: &Captures<'_>| {
        let (start, end) = found.get(0).map_or((0, 0), |all| (all.start(), all.end()));
        (text[..start].chars().next_back(), text[end..].chars().next().filter(|letter| !letter.is_whitespace()))
    };
    // Each pattern is tried only on what it can match: most texts have but one of a dot and a colon.
    let replaced = |pattern: &Regex, can_match: bool, text: &str, by: &dyn Fn(&Captures<'_>) -> String| {
        if can_match { pattern.replace_all(text, by).into_owned() } else { text.to_owned() }
    };
    let has_slashes = text.as_bytes().windows(2).any(|pair| pair.iter().all(|byte| matches!(byte, b'/' | b'\\')));
    let text = replaced(&SLASHES, has_slashes, text, &|found| match beside(text, found) {
        (Some(':' | '['), _) | (_, None) => found[0].to_owned(),
        _ => format!("[{}]", &found[0]),
    });
    let has_colon = text.contains(':');
    let text =
        replaced(&SCHEME, has_slashes && has_colon, &text, &|found| match found[1].to_ascii_lowercase().as_str() {
            // Done already.
            "hxxp" | "hxxps" => found[0].to_owned(),
            _ if found[2].starts_with('[') => found[0].to_owned(),
            "http" => format!("hxxp{}", &found[2]),
            "https" => format!("hxxps{}", &found[2]),
            _ => format!("{}[{}]", &found[1], &found[2]),
        });
    let text = replaced(&BARE, has_colon, &text, &|found| match beside(&text, found) {
        (_, None) => found[0].to_owned(),
        _ => format!("{}[:]", &found[1]),
    });
    replaced(&HOST, text.contains(is_dot), &text, &|found| {
        let host = &found[0];
        let (start, end) = found.get(0).map_or((0, 0), |all| (all.start(), all.end()));
        let (before, after) = (&text[..start], &text[end..]);
        let joined = |letter: char| matches!(letter, '/' | '\\' | ':' | '?' | '#' | '@');
        let stands_alone = !before.ends_with(|letter| joined(letter) || letter == ']') && !after.starts_with(joined);
        let is_own = spared.own.is_some_and(|own| own.eq_ignore_ascii_case(host));
        // To many clients `evil.example💩.halosecurity.com` is two words.
        let may_stay = stands_alone && (is_own || (is_plain_host(host) && spared.allows(host)));
        let is_certain = before.ends_with('@') || before.ends_with("//]") || before.ends_with("\\\\]");
        if may_stay || !(is_certain || before.ends_with("//") || looks_like_host(host)) {
            return host.to_owned();
        }
        host.replace(is_dot, "[.]")
    })
}

/// Read as dots in host names, some by IDNA (<https://www.unicode.org/reports/tr46/>), some by lenient clients.
const DOT_LIKE: &str = "\u{3002}\u{FF0E}\u{FF61}\u{2024}\u{FE52}";

fn is_dot(letter: char) -> bool {
    letter == '.' || (!letter.is_ascii() && DOT_LIKE.contains(letter))
}

fn pattern(text: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "a constant pattern, compiled by the tests of this module")]
    Regex::new(text).expect("a constant pattern is valid")
}

/// Endings of file names that are no top-level domains; without them `login.php` would read `login[.]php`.
const FILE_ENDINGS: [&str; 20] = [
    "asp", "aspx", "bin", "cgi", "css", "dll", "exe", "gif", "htm", "html", "jpg", "js", "json", "jsp", "min", "pdf",
    "php", "png", "txt", "xml",
];

/// Whether a client may take dotted words for an address: something like an IPv4 address, anything that begins with `www`,
/// or any word after the first dot that could be a top-level domain. Too careful rather than too clever, since the list of
/// those domains grows.
fn looks_like_host(words: &str) -> bool {
    let is_domain = |word: &str| {
        let word = word.trim_matches(['-', '_']);
        !word.is_ascii()
            || (word.len() >= 2
                && word.bytes().any(|letter| letter.is_ascii_alphabetic())
                && !FILE_ENDINGS.contains(&word.to_ascii_lowercase().as_str()))
    };
    let is_octet = |word: &&str| (1..=3).contains(&word.len()) && word.bytes().all(|letter| letter.is_ascii_digit());
    let labels: Vec<_> = words.split(is_dot).collect();
    // A sign beside it, as in `💀192.0.2.1`, is no part of a number.
    let is_address = |run: &str| {
        let labels = run.trim_matches(is_dot).split(is_dot);
        labels.clone().count() >= 4
            && labels.flat_map(|label| label.split('-')).filter(|octet| !octet.is_empty()).all(|octet| is_octet(&octet))
    };
    let first = labels[0].rsplit(|letter: char| !letter.is_ascii()).next().unwrap_or_default();
    let first = first.trim_start_matches(['-', '_']);
    let is_prefixed = ["www", "ftp"].iter().any(|prefix| first.eq_ignore_ascii_case(prefix));
    is_prefixed
        || labels.iter().skip(1).any(|label| is_domain(label))
        || words.split(|letter: char| !letter.is_ascii() && !is_dot(letter)).any(is_address)
}

fn is_vendor(host: &str) -> bool {
    let Some((rest, end)) = host.len().checked_sub(VENDOR.len()).and_then(|at| host.split_at_checked(at)) else {
        return false;
    };
    end.eq_ignore_ascii_case(VENDOR) && (rest.is_empty() || rest.ends_with('.')) && !rest.contains('_')
}

/// A host name or IP address and nothing else: what may be shown as the event's own target without defanging. A `_` is in
/// its first label at most: many clients end a host there, and of `evil.example_a.example.org` would link the beginning.
pub(super) fn is_plain_host(text: &str) -> bool {
    if text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv6Addr>().is_ok() {
        return true;
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let first = text.split('.').next().unwrap_or_default();
    text.len() <= 253 && text.split('.').all(label) && !text[first.len()..].contains('_')
}

/// A plain host, or a network (`192.0.2.0/24`): a target in any of the vendor's three kinds.
pub(super) fn is_plain_target(text: &str) -> bool {
    is_plain_host(text)
        || text.split_once('/').is_some_and(|(address, bits)| {
            address.parse::<std::net::IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|bits| bits <= 128)
        })
}

/// An `https` address on the vendor's hosts, written so plainly that every client reads the same host in it.
pub(super) fn is_vendor_url(url: &str) -> bool {
    is_harmless_url(url) && https_host(url).is_some_and(|host| is_plain_host(host) && is_vendor(host))
}

/// Whether an event's own address reads like no other address and no markup.
fn is_harmless_url(url: &str) -> bool {
    let path = https_host(url).and_then(|host| url.get("https://".len() + host.len()..)).unwrap_or_default();
    is_plain_url(url) && is_plain_path(path)
}

/// The address if it may be a link of a message, and what that is called: the vendor's, or one of the rules file's hosts.
/// `~`, and `_` beside a sign, become their codes, which every server reads as the same:
/// <https://www.rfc-editor.org/rfc/rfc3986#section-2.3>
pub(super) fn event_link<'u>(url: &'u str, hosts: &Hosts) -> Option<(Cow<'u, str>, String)> {
    let url = without_markup(url);
    if is_vendor_url(&url) {
        return Some((url, "Open in Halo Security".to_owned()));
    }
    let host = https_host(&url)?.split(':').next().unwrap_or_default();
    let label = format!("Open {host}");
    (is_harmless_url(&url) && hosts.allow(host)).then_some((url, label))
}

fn without_markup(url: &str) -> Cow<'_, str> {
    if !url.contains(['~', '_']) {
        return Cow::Borrowed(url);
    }
    let host = https_host(url).map_or(url.len(), |host| "https://".len() + host.len());
    let mut text = url[..host].to_owned();
    for (at, letter) in url[host..].char_indices() {
        match letter {
            '~' => text.push_str("%7E"),
            '_' if !joins(&url[host..], at) => text.push_str("%5F"),
            _ => text.push(letter),
        }
    }
    Cow::Owned(text)
}

/// An `https` or `http` address that configuration may turn into a link: printable ASCII without the characters that end a
/// link in some channel's notation, and a plain host with an optional port.
pub(super) fn is_plain_url(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else { return false };
    let plain = |byte: u8| {
        byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{'..=b'}')
    };
    let authority = authority(rest);
    let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
    url.len() <= 2_000 && url.bytes().all(plain) && is_plain_host(host) && port.parse::<u16>().is_ok()
}

fn https_host(url: &str) -> Option<&str> {
    url.strip_prefix("https://").map(authority)
}

fn authority(rest: &str) -> &str {
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// A field's value in a few words: lists joined, objects as `name: value`, deeper things left out.
pub(super) fn brief(value: &Value) -> String {
    const ITEMS_MAX: usize = 8;
    let scalar = |value: &Value| match value {
        Value::Null => "–".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => clean(text, 1_000),
        Value::Array(_) | Value::Object(_) => CUT.to_string(),
    };
    let joined = |items: Vec<String>, all: usize| {
        let more = all - items.len();
        let and = if more == 0 { String::new() } else { format!(" and {more} more") };
        items.join(", ") + &and
    };
    match value {
        Value::Array(list) => joined(list.iter().take(ITEMS_MAX).map(scalar).collect(), list.len()),
        Value::Object(members) => {
            let items = members.iter().take(ITEMS_MAX);
            let items = items.map(|(name, value)| format!("{}: {}", clean(name, 40), scalar(value)));
            joined(items.collect(), members.len())
        }
        Value::Null => String::new(),
        other => scalar(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_one_visible_line() {
        let cases = [
            ("plain text", "plain text"),
            ("  a\r\n\tb\u{A0}\u{2003}c \u{2028}d\u{85}", "a b c d"),
            ("a\0b\u{7}c\u{9B}d\u{1b}[31m", "abcd[31m"),
            ("\u{202E}evil\u{2066}\u{200B}\u{FEFF}\u{AD}x\u{E0041}", "evilx"),
            ("\u{FDD0}a\u{FDD1}\u{FFFE}\u{10FFFF}b", "ab"),
            ("Grüße, 世界 \u{1F600}", "Grüße, 世界 \u{1F600}"),
            ("\u{200B}\n\u{202E}", ""),
            (
                "Z\u{301}\u{302}\u{303}\u{304}\u{305}a\u{20DD}l\u{E48}\u{E48}\u{E48}\u{E48}",
                "Z\u{301}\u{302}\u{303}a\u{20DD}l\u{E48}\u{E48}\u{E48}",
            ),
            ("\u{34F}\u{115F}\u{3164}\u{FFA0}a\u{FFF9}b\u{FFFA}c\u{FFFB}\u{FFFC}\u{2800}d\u{16FE4}\u{13437}", "abc d"),
            ("👩\u{200D}💻 ❤\u{FE0F} 🏴\u{E0067}\u{E007F}", "👩💻 ❤ 🏴"),
        ];
        for (text, expected) in cases {
            assert_eq!(clean(text, 50), expected, "{text:?}");
        }
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert_eq!(clean("abcdefg", 6), "abcde…");
        assert_eq!(clean("abcde   ", 5), "abcde");
        assert_eq!(clean("ééééé", 3), "éé…");
        assert_eq!(shorten("ééééé", 3), "éé…");
        assert_eq!(shorten("ééé", 3), "ééé");
        // Cut, it would be another's host.
        assert_eq!(shorten("at www.bank.example.com.example.org", 24), "at www[.]bank[.]example…");
        assert_eq!(shorten("https://app.halosecurity.com/link", 27), "hxxps://app[.]halosecurity…");
        assert_eq!(shorten("App.halosecurity.com is", 20), "App[.]halosecurity…");
        assert_eq!(shorten("at https://app.halosecurity.com/", 14), "at hxxps://ap…");
        assert_eq!(shorten("at https://app.halosecurity.com/link?q=1", 32), "at hxxps://app[.]halosecurity…");
        assert_eq!(shorten("at https://app.halosecurity.com/", 10), "at https:…");
        assert_eq!(shorten("a.example b.example cccc", 21), "a.example b.example …");
    }

    #[test]
    fn addresses_cannot_be_clicked() {
        let cases = [
            ("see https://evil.example/x?y=1", "see hxxps://evil[.]example/x?y=1"),
            ("HTTP://EVIL.example", "hxxp://EVIL[.]example"),
            ("://evil.example 1://x", "[://]evil[.]example 1[://]x"),
            ("ftp://a.b.example", "ftp[://]a[.]b[.]example"),
            ("https:\\\\evil.example", "hxxps:\\\\evil[.]example"),
            ("//evil.example/x", "[//]evil[.]example/x"),
            ("//7//evil //", "[//]7[//]evil //"),
            ("//www.example.org //localhost/x", "[//]www[.]example[.]org [//]localhost/x"),
            ("\\\\evil\\share", "[\\\\]evil\\share"),
            ("ftp:////evil http:////x.js", "ftp[:////]evil hxxp:////x[.]js"),
            ("http:evil.example https:/localhost", "http[:]evil[.]example https[:]/localhost"),
            ("sip:x facetime-audio:x news:x webcal:x", "sip[:]x facetime-audio[:]x news[:]x webcal[:]x"),
            ("💩.la i❤.ws evil.℡ evil.ﬁ", "💩[.]la i❤[.]ws evil[.]℡ evil[.]ﬁ"),
            ("evil․example evil﹒example evil｡example", "evil[.]example evil[.]example evil[.]example"),
            ("evil.example. 𝐞𝐯𝐢𝐥.𝐜𝐨𝐦 ｅｖｉｌ．ｃｏｍ", "evil[.]example. 𝐞𝐯𝐢𝐥[.]𝐜𝐨𝐦 ｅｖｉｌ[.]ｃｏｍ"),
            ("www.evil.php WWW.4 ftp.x.js", "www[.]evil[.]php WWW[.]4 ftp[.]x[.]js"),
            ("a@b.php a@1.2 http://x.js", "a@b[.]php a@1[.]2 hxxp://x[.]js"),
            ("001.002.003.004 10.0.0.1-10.0.0.9", "001[.]002[.]003[.]004 10[.]0[.]0[.]1-10[.]0[.]0[.]9"),
            ("http://[2001:db8::1]/ evil.museum evil.x.zip", "hxxp://[2001:db8::1]/ evil[.]museum evil[.]x[.]zip"),
            ("www.example.org。evil www.example.org@x", "www[.]example[.]org[.]evil www[.]example[.]org@x"),
            ("evil.example", "evil[.]example"),
            ("evil。example and evil．example", "evil[.]example and evil[.]example"),
            ("user@evil.example", "user@evil[.]example"),
            ("mailto:user@evil.example", "mailto[:]user@evil[.]example"),
            ("javascript:alert(1)", "javascript[:]alert(1)"),
            ("jAvAsCrIpT:alert(1)", "jAvAsCrIpT[:]alert(1)"),
            ("data:text/html,x", "data[:]text/html,x"),
            ("data:tel:1 data:mailto: x", "data[:]tel[:]1 data[:]mailto: x"),
            ("evil.example💩.halosecurity.com 💀www.4", "evil[.]example💩[.]halosecurity[.]com 💀www[.]4"),
            ("-192.0.2.1 192.0.2.1-", "-192[.]0[.]2[.]1 192[.]0[.]2[.]1-"),
            ("http://app.halosecurity.com/", "hxxp://app[.]halosecurity[.]com/"),
            (
                "·https://app.halosecurity.com/link?id=1evil.example.",
                "·hxxps://app[.]halosecurity[.]com/link?id=1evil[.]example.",
            ),
            (
                "https://app.halosecurity.com/link?id=1=?utf-8?q?evil.example",
                "hxxps://app[.]halosecurity[.]com/link?id=1=?utf-8?q?evil[.]example",
            ),
            ("https://evil.example_a.halosecurity.com", "hxxps://evil[.]example_a[.]halosecurity[.]com"),
            ("evil.example_a.halosecurity.com", "evil[.]example_a[.]halosecurity[.]com"),
            ("💀192.0.2.1 192.0.2.1💀", "💀192[.]0[.]2[.]1 192[.]0[.]2[.]1💀"),
            ("xn--e1afmkfd.xn--p1ai", "xn--e1afmkfd[.]xn--p1ai"),
            ("правда.рф", "правда[.]рф"),
            ("evil.co.1 evil.com_ 198.51.100.7", "evil[.]co[.]1 evil[.]com_ 198[.]51[.]100[.]7"),
            // What stays: the event's own target and the vendor, alone; versions, files, times and prose.
            ("www.example.org", "www.example.org"),
            ("WWW.EXAMPLE.ORG is up", "WWW.EXAMPLE.ORG is up"),
            ("app.halosecurity.com", "app.halosecurity.com"),
            ("www.example.org/login", "www[.]example[.]org/login"),
            ("https://www.example.org", "hxxps://www[.]example[.]org"),
            ("admin@www.example.org:22", "admin@www[.]example[.]org:22"),
            ("www.example.org.evil.example", "www[.]example[.]org[.]evil[.]example"),
            ("nothalosecurity.com", "nothalosecurity[.]com"),
            ("Exim smtpd 4.94.2", "Exim smtpd 4.94.2"),
            ("login.php, /js/jquery-3.6.min.js", "login.php, /js/jquery-3.6.min.js"),
            ("At 09:41. Data: none", "At 09:41. Data: none"),
        ];
        for (text, expected) in cases {
            let own = Spared { own: Some("www.example.org"), hosts: None };
            let safe = defang(text, own);
            assert_eq!(safe, expected, "{text:?}");
            assert_eq!(defang(&safe, own), safe, "once is enough");
        }
        assert_eq!(defang("www.example.org", Spared::NONE), "www[.]example[.]org");
    }

    #[test]
    fn addresses_of_allowed_hosts_stay() {
        let pattern = |text| crate::render::HostPattern::parse(text).unwrap();
        let hosts = Hosts::new(vec![pattern("*.example.org"), pattern("wiki.example.com")]);
        let stay = [
            "see https://www.example.org/a/b?c=d&e=%20#f.",
            "https://www.example.org/date_created",
            "(https://wiki.example.com) http://WIKI.example.com:8080/x, www.example.org",
            "https://app.halosecurity.com/link?q=user-event and app.halosecurity.com",
        ];
        for text in stay {
            assert_eq!(defang(text, Spared::hosts(&hosts)), text);
        }
        let cases = [
            ("https://example.org/", "hxxps://example[.]org/"),
            ("https://www.example.org.evil.example/", "hxxps://www[.]example[.]org[.]evil[.]example/"),
            ("https://www.example.org@evil.example/", "hxxps://www[.]example[.]org@evil[.]example/"),
            ("https://user@www.example.org/", "hxxps://user@www[.]example[.]org/"),
            ("https://evil.example/https://www.example.org/", "hxxps://evil[.]example/hxxps://www[.]example[.]org/"),
            ("https://www.example.org/,https://evil.example", "hxxps://www[.]example[.]org/,hxxps://evil[.]example"),
            ("https://www.example.org/x,evil.example", "hxxps://www[.]example[.]org/x,evil[.]example"),
            ("https://www.example.org//evil.example", "hxxps://www[.]example[.]org[//]evil[.]example"),
            ("https://www.example.org\\@evil.example", "hxxps://www[.]example[.]org\\@evil[.]example"),
            ("https://www.example.org/|x", "hxxps://www[.]example[.]org/|x"),
            ("https://www.example.org/*x*", "hxxps://www[.]example[.]org/*x*"),
            ("https://www.example.org#evil.example", "hxxps://www[.]example[.]org#evil[.]example"),
            ("https://www.example.org?x", "hxxps://www[.]example[.]org?x"),
            ("https://www.example.org/~x~", "hxxps://www[.]example[.]org/~x~"),
            ("https://evil.example_a.example.org/", "hxxps://evil[.]example_a[.]example[.]org/"),
            ("https://www.example.org/_x", "hxxps://www[.]example[.]org/_x"),
            ("https://www.example.org/x_", "hxxps://www[.]example[.]org/x_"),
            ("https://www.example.org/x__y", "hxxps://www[.]example[.]org/x__y"),
            ("javascript://www.example.org/x", "javascript[://]www[.]example[.]org/x"),
            ("xhttps://www.example.org/", "xhttps[://]www[.]example[.]org/"),
            ("https://www.example.org/ https://evil.example/", "https://www.example.org/ hxxps://evil[.]example/"),
            ("evil.example https://www.example.org/", "evil[.]example https://www.example.org/"),
            ("evil.example://https://www.example.org/", "evil[.]example[://]hxxps://www[.]example[.]org/"),
            ("https://www.example.org/\u{2003}//evil.example", "https://www.example.org/\u{2003}[//]evil[.]example"),
        ];
        for (text, expected) in cases {
            let safe = defang(text, Spared::hosts(&hosts));
            assert_eq!(safe, expected, "{text}");
            assert_eq!(defang(&safe, Spared::hosts(&hosts)), safe, "once is enough");
        }
        // Cut, it would lead elsewhere.
        let long = format!("https://www.example.org/{}", "x".repeat(50));
        assert_eq!(tame(&long, Spared::hosts(&hosts), 30), "hxxps://www[.]example[.]org/x…");
        let links = |url| event_link(url, &hosts).map(|(_, label)| label);
        assert_eq!(links("https://www.example.org:8443/x").as_deref(), Some("Open www.example.org"));
        assert_eq!(links("https://app.halosecurity.com/x").as_deref(), Some("Open in Halo Security"));
        assert_eq!((links("http://www.example.org/x"), links("https://example.org/")), (None, None));
        let link = |url| event_link(url, &hosts).map(|(url, _)| url.into_owned());
        assert_eq!(
            link("https://www.example.org/~x/_a_b__?c_d=_").as_deref(),
            Some("https://www.example.org/%7Ex/%5Fa_b%5F%5F?c_d=%5F")
        );
        assert_eq!(link("https://www.example.org/a_b").as_deref(), Some("https://www.example.org/a_b"));
        assert_eq!(
            (link("https://~x@www.example.org/"), link("~"), link("https://www.example.org/*_")),
            (None, None, None)
        );
    }

    #[test]
    fn letters_are_cut_whole() {
        let cases = [
            ("abcdef", 6, "abcdef"),
            ("abcdef", 5, "abcd…"),
            ("cafe\u{301}s au lait", 5, "caf…"),
            ("cafe\u{301}s au lait", 6, "cafe\u{301}…"),
            ("ab\u{1F1E9}\u{1F1EA}\u{1F1EB}\u{1F1F7}", 4, "ab…"),
            ("ab\u{1F1E9}\u{1F1EA}\u{1F1EB}\u{1F1F7}", 5, "ab\u{1F1E9}\u{1F1EA}…"),
            ("x👍\u{1F3FD}yz", 3, "x…"),
            ("각각각", 3, "각각각"),
            ("\u{1100}\u{1161}\u{11A8}\u{1100}\u{1161}\u{11A8}", 5, "\u{1100}\u{1161}\u{11A8}…"),
            ("e\u{301}e\u{301}", 2, "…"),
        ];
        for (text, max, expected) in cases {
            assert_eq!(shorten(text, max), expected, "{text:?} {max}");
            assert_eq!(clean(text, max), expected, "{text:?} {max}");
            assert_eq!(cut(text, max), expected, "{text:?} {max}");
        }
        // For machines an emoji of several is still whole.
        assert_eq!(cut("a👩\u{200D}💻bcd", 4), "a…");
        assert_eq!(cut("a👩\u{200D}💻bcd", 5), "a👩\u{200D}💻…");
        // What is longer than any letter is cut all the same, and soon.
        let endless = "a".to_owned() + &"\u{301}".repeat(100_000);
        assert_eq!(cut(&endless, 50).chars().count(), 50);
        assert_eq!(shorten("aa evil.example bbb", 9), "aa evil.…");
        assert_eq!(shorten("aa evil.example bbb", 11), "aa evil[.]…");
        assert_eq!(shorten("aa evil.example bbb", 13), "aa evil[.]ex…");
    }

    #[test]
    fn which_addresses_may_be_links() {
        for url in [
            "https://halosecurity.com",
            "https://app.halosecurity.com/link?q=user-event&id=id1",
            "https://WWW.HaloSecurity.com:443/#x",
        ] {
            assert!(is_plain_url(url), "{url}");
        }
        assert!(is_vendor_url("https://app.halosecurity.com/link?q=user-event&id=id1"));
        for url in [
            "http://app.halosecurity.com/",
            "https://halosecurity.com.evil.example/",
            "https://evilhalosecurity.com/",
            "https://app.halosecurity.com@evil.example/",
            "https://evil.example\\@app.halosecurity.com/",
            "https://evil.example/https://app.halosecurity.com/",
            "https://evil.example?app.halosecurity.com/",
            "https://app.halosecurity.com/|x",
            "https://app.halosecurity.com/ x",
            "https://app.halosecurity.com/\"onclick",
            "https://app.halosecurity.com/>",
            "https:app.halosecurity.com",
            "https://app.halosecurity.com/(javascript:x)",
            "https://app.halosecurity.com/*x*",
            "//app.halosecurity.com/",
            "javascript://app.halosecurity.com/%0aalert(1)",
            " https://app.halosecurity.com/",
            "https://.halosecurity.com/",
            "",
        ] {
            assert!(!is_vendor_url(url), "{url}");
        }
        assert!(is_plain_url("http://wiki.example.org:8080/runbooks/certs_(tls)#renew"));
        for url in ["https://", "https://user@wiki.example.org/", "https://wiki.example.org:x/", "wiki.example.org"] {
            assert!(!is_plain_url(url), "{url}");
        }
    }

    #[test]
    fn values_in_a_few_words() {
        let cases = [
            (json!("x"), "x"),
            (json!(465), "465"),
            (json!(-1.5), "-1.5"),
            (json!(true), "yes"),
            (json!(null), ""),
            (json!([1, "two", null, [3]]), "1, two, –, …"),
            (json!({"a": 1, "b": {"c": 2}}), "a: 1, b: …"),
            (json!([1, 2, 3, 4, 5, 6, 7, 8, 9]), "1, 2, 3, 4, 5, 6, 7, 8 and 1 more"),
            (json!([]), ""),
        ];
        for (value, expected) in cases {
            assert_eq!(brief(&value), expected);
        }
    }
}
