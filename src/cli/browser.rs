//! Showing a page in the browser of whoever runs the command.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Failure, exit};

/// A file of its own that only this user reads, and that stays: the browser reads it after the command has ended.
pub(super) fn keep(page: &str) -> io::Result<PathBuf> {
    let mut file = tempfile::Builder::new().prefix("halo-relay-").suffix(".html").tempfile()?;
    file.write_all(page.as_bytes())?;
    Ok(file.keep()?.1)
}

/// By `$BROWSER`, a list of commands of which the first that starts is taken, else by the desktop's `xdg-open`.
/// <https://manpages.debian.org/bookworm/sensible-utils/sensible-browser.1.en.html>
pub(super) fn open(page: &Path) -> Result<(), Failure> {
    let page = page.canonicalize().unwrap_or_else(|_| page.to_owned());
    let browsers = std::env::var("BROWSER").unwrap_or_default();
    for browser in browsers.split(':').filter(|browser| !browser.trim().is_empty()) {
        // It may run for as long as its window is open: not waited for.
        if command(browser, &page).is_some_and(|mut command| command.spawn().is_ok()) {
            return Ok(());
        }
    }
    let why = match command("xdg-open", &page).map(|mut command| command.status()) {
        Some(Ok(status)) if status.success() => return Ok(()),
        Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => "there is no xdg-open here".to_owned(),
        Some(Err(error)) => format!("xdg-open: {error}"),
        Some(Ok(_)) | None => "xdg-open found none".to_owned(),
    };
    let tried = if browsers.is_empty() { String::new() } else { format!("$BROWSER ({browsers}) did not start; ") };
    let next = "open that file yourself, on any machine, or name a browser in $BROWSER";
    Err(Failure::new(
        exit::UNREACHABLE,
        format!("no browser could be opened: {tried}{why}; the page is {}: {next}", page.display()),
    ))
}

/// The words of `browser`, with the page for `%s`, else behind them.
fn command(browser: &str, page: &Path) -> Option<Command> {
    let mut words = browser.split_whitespace();
    let mut command = Command::new(words.next()?);
    let mut named = false;
    for word in words {
        named |= word == "%s";
        if word == "%s" {
            command.arg(page)
        } else {
            command.arg(word)
        };
    }
    if !named {
        command.arg(page);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_where_the_browser_wants_it() {
        let words = |browser| {
            let command = command(browser, Path::new("/x y.html"))?;
            let words = [command.get_program()].into_iter().chain(command.get_args());
            Some(words.map(|word| word.to_str().unwrap().to_owned()).collect::<Vec<_>>())
        };
        let cases: [(&str, Option<&[&str]>); 4] = [
            ("firefox", Some(&["firefox", "/x y.html"])),
            ("w3m -dump %s", Some(&["w3m", "-dump", "/x y.html"])),
            ("a %s -b", Some(&["a", "/x y.html", "-b"])),
            (" ", None),
        ];
        for (browser, expected) in cases {
            assert_eq!(
                words(browser).as_deref(),
                expected.map(|words| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).as_deref()
            );
        }
    }
}
