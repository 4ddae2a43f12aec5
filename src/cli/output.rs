//! Printing: results to stdout, complaints to stderr. A reader that went away (`| head`) is no failure.

use std::io::{self, ErrorKind, Write};

use super::{Failure, exit};

/// Prints a result; adds a line end if it has none.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    let said = out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes())).and_then(|()| out.flush());
    match said {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::FINDINGS, format!("failed to write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

pub(super) fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(exit::FINDINGS, format!("failed to write JSON: {error}")))?;
    say(&text)
}

pub(super) fn complain(failure: &Failure) {
    let message = &failure.message;
    if message.is_empty() {
        return;
    }
    // Diagnostics come with their own heads: `error[…]` or `warning[…]`.
    let is_diagnostic = failure.code == exit::CONFIG && message.lines().next().is_some_and(|line| line.contains('['));
    let head = if is_diagnostic { "" } else { "error: " };
    let end = if message.ends_with('\n') { "" } else { "\n" };
    // There is no one left to tell if this fails.
    let _ = write!(io::stderr().lock(), "{head}{message}{end}");
}

/// Says something beside a result that must stay exactly as it is.
pub(super) fn remark(text: &str) {
    // There is no one left to tell if this fails.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Columns as wide as their widest cell, two spaces apart; numbers are the caller's to align.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let mut widths: Vec<_> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        let line = padded.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut head.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// Text that came from outside, fit for a terminal: nothing in it can move the cursor or the reading direction.
pub(super) fn tame(text: &str) -> String {
    let shown = |letter: char| {
        let turns = matches!(letter, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if letter.is_control() || turns { '\u{fffd}' } else { letter }
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![vec!["é".to_owned(), "12".to_owned()], vec!["long name".to_owned(), "3".to_owned()]];
        assert_eq!(table(&["name", "dead"], rows), "name       dead\né          12\nlong name  3\n");
    }

    #[test]
    fn outside_text_is_tamed() {
        assert_eq!(tame("a\u{1b}[2Jb\u{202e}c\n"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
    }
}
