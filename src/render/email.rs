//! Email: a subject that is one header line, plain text, and HTML as the alternative.
//!
//! In HTML, values are written as entities, and [`template`](super::template)'s lint lets them stand only where entities
//! are text: between tags and in a few quoted attributes.

use super::context::Context;
use super::taint::{Allowed, Piece, mark_text, part, pieces};
use super::text::{clean, shorten};
use crate::model::Content;

/// Longer subjects are cut by every client; RFC 5322 bounds the line at 998 octets.
/// <https://datatracker.ietf.org/doc/html/rfc5322#section-2.1.1>
const SUBJECT_MAX: usize = 200;

/// One header line, whatever the template rendered. What reads like an encoded word, `=?utf-8?q?…?=`, would be decoded by
/// the reader's client, after everything that was done here.
/// <https://datatracker.ietf.org/doc/html/rfc2047#section-2>
pub(super) fn subject(rendered: &str) -> String {
    shorten(&clean(rendered, SUBJECT_MAX + 1), SUBJECT_MAX).replace("=?", "= ?")
}

/// What was printed, with the marks gone and no address made of several values.
pub(super) fn unmarked(rendered: &str, allowed: Allowed<'_>) -> String {
    let mut text = String::with_capacity(rendered.len());
    for piece in part(pieces(rendered), allowed) {
        match piece {
            // At the start of a line it would be a quote, which clients fold away.
            Piece::Value(value) if value.starts_with('>') && starts_line(&text) => {
                text.push('›');
                text.push_str(&value[1..]);
            }
            piece => text.push_str(piece.text()),
        }
    }
    text
}

fn starts_line(before: &str) -> bool {
    before.rsplit('\n').next().is_some_and(|line| line.trim().is_empty())
}

/// Text with `\n` line ends and no other control characters but tabs; no trailing space.
pub(super) fn body(rendered: &str) -> String {
    let text = rendered.replace("\r\n", "\n").replace('\r', "\n");
    let text: String = text.chars().filter(|letter| matches!(letter, '\n' | '\t') || !letter.is_control()).collect();
    let lines: Vec<_> = text.trim().lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

/// A printed value in HTML.
pub(super) fn mark_html(value: &str, out: &mut String) {
    mark_text(value, escape_html, out);
}

fn escape_html(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#39;"),
            '`' => text.push_str("&#96;"),
            '=' => text.push_str("&#61;"),
            letter if letter.is_control() => {}
            letter => text.push(letter),
        }
    }
    text
}

/// A printed value in a subject or in plain text: one line.
pub(super) fn mark_line(value: &str, out: &mut String) {
    mark_text(value, one_line, out);
}

fn one_line(value: &str) -> String {
    value.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

/// The small plain mail: no template, no HTML.
pub(super) fn plain(context: &Context) -> Content {
    let headline = context.text("headline").unwrap_or_default();
    let lines = context.plain_lines().chain(context.link()).chain(context.text("footer"));
    let text = lines.collect::<Vec<_>>().join("\n\n");
    Content::Mail { subject: subject(headline), text: body(&text), html: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_one_line() {
        assert_eq!(subject("HIGH\r\nBcc: x@evil.example\n\0"), "HIGH Bcc: x@evil.example");
        assert_eq!(subject("\u{202E}a\u{85}b\u{2028}c"), "a b c");
        assert_eq!(subject(&"x".repeat(70_000)).chars().count(), 200);
        assert_eq!(subject("=?utf-8?q?=0Ax?= =?utf-8?b?eA==?="), "= ?utf-8?q?=0Ax?= = ?utf-8?b?eA== ?=");
    }

    #[test]
    fn a_body_has_plain_line_ends() {
        assert_eq!(body("\n a \r\nb\rc\u{7}\n\n"), "a\nb\nc\n");
    }

    #[test]
    fn html_values_are_text() {
        assert_eq!(escape_html("<b onclick='x'>\"&`=\n"), "&lt;b onclick&#61;&#39;x&#39;&gt;&quot;&amp;&#96;&#61;");
    }
}
