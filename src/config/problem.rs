//! A problem found in a configuration: where it is, what is wrong, what to write instead; and how it is shown.
//!
//! A [`Problem`] is complete in itself: it carries the one line of the file it points at, from a [`Source`] in which
//! every literal secret has been blanked, so that whoever shows it can show nothing else. Texts taken from the file are
//! cleaned of control characters and shortened.

use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Element, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

use super::file::Span;

/// Errors keep a configuration from being used, warnings do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A stable name, like `unknown-destination`.
    pub code: &'static str,
    pub severity: Severity,
    /// One sentence.
    pub title: String,
    /// `None` when no line is at fault, as when a table is missing.
    pub place: Option<Place>,
    /// What is at the place, said beside the caret.
    pub label: String,
    /// A second place that explains the first, as the first use of a name used twice.
    pub related: Option<(Place, String)>,
    /// What to write or do instead.
    pub help: Option<String>,
}

impl Problem {
    pub fn error(code: &'static str, title: impl Into<String>) -> Self {
        Self::new(code, Severity::Error, title)
    }

    pub fn warning(code: &'static str, title: impl Into<String>) -> Self {
        Self::new(code, Severity::Warning, title)
    }

    fn new(code: &'static str, severity: Severity, title: impl Into<String>) -> Self {
        let title = clean(&title.into());
        Self { code, severity, title, place: None, label: String::new(), related: None, help: None }
    }

    #[must_use]
    pub fn at(mut self, place: Option<Place>, label: impl Into<String>) -> Self {
        self.place = place;
        self.label = clean(&label.into());
        self
    }

    #[must_use]
    pub fn related(mut self, place: Option<Place>, label: impl Into<String>) -> Self {
        self.related = place.map(|place| (place, clean(&label.into())));
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(clean(&help.into()));
        self
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// As rustc shows its own; without a line end.
    pub fn render(&self, style: Style) -> String {
        let (level, help) = match self.severity {
            Severity::Error => (Level::ERROR, Level::HELP),
            Severity::Warning => (Level::WARNING, Level::HELP),
        };
        let title = level.primary_title(self.title.as_str()).id(self.code);
        let mut group = Group::with_title(title);
        let related = self.related.as_ref().map(|(place, label)| (place, label.as_str()));
        match (&self.place, related) {
            (Some(place), Some(related)) if place.is_in_line_of(related.0) => {
                group = group.element(place.element(AnnotationKind::Primary, &self.label, Some(related)));
            }
            (place, related) => {
                let place = place.as_ref().map(|place| place.element(AnnotationKind::Primary, &self.label, None));
                let related = related.map(|(place, label)| place.element(AnnotationKind::Context, label, None));
                group = group.elements(place.into_iter().chain(related));
            }
        }
        if let Some(text) = &self.help {
            group = group.element(help.message(text.as_str()));
        }
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        renderer.render(&[group])
    }

    /// For `--json`: `code`, `severity`, `title`, `label`, `help`, and the place as `file`, `line` and `column` (from 1,
    /// in characters), `start` and `end` (from 0, in bytes); `null` where there is none.
    pub fn to_json(&self) -> Value {
        let place = |place: &Place| {
            json!({
                "file": &*place.file,
                "line": place.line,
                "column": place.column,
                "start": place.span.start,
                "end": place.span.end,
            })
        };
        json!({
            "code": self.code,
            "severity": match self.severity { Severity::Error => "error", Severity::Warning => "warning" },
            "title": self.title,
            "label": self.label,
            "help": self.help,
            "place": self.place.as_ref().map(place),
            "related": self.related.as_ref().map(|(at, label)| {
                let mut value = place(at);
                value["label"] = json!(label);
                value
            }),
        })
    }
}

/// Plain and without its source line: `rules.yaml:12:9: error[unknown-destination]: …`, fit for a log.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        let severity = if self.is_error() { "error" } else { "warning" };
        write!(f, "{severity}[{}]: {}", self.code, self.title)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// Why a configuration cannot be used: at least one error, and the warnings found with it, in the file's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// More than this many are counted, not shown: nobody reads them, and each one repeats a line.
    pub const SHOWN_MAX: usize = 50;

    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self(problems)
    }

    pub fn list(&self) -> &[Problem] {
        &self.0
    }

    pub fn render(&self, style: Style) -> String {
        render_all(&self.0, style)
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// One line for each problem, errors first.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.0.iter().filter(|problem| problem.is_error());
        let warnings = self.0.iter().filter(|problem| !problem.is_error());
        let mut separator = "";
        for problem in errors.chain(warnings).take(Self::SHOWN_MAX) {
            write!(f, "{separator}{problem}")?;
            separator = "\n";
        }
        match self.0.len().saturating_sub(Self::SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Problems {}

/// All of them, a blank line between two; ends with a line end unless there are none.
pub fn render_all(problems: &[Problem], style: Style) -> String {
    let mut text = String::new();
    for problem in problems.iter().take(Problems::SHOWN_MAX) {
        text.push_str(&problem.render(style));
        text.push_str("\n\n");
    }
    match problems.len().saturating_sub(Problems::SHOWN_MAX) {
        0 => {}
        more => drop(writeln!(text, "and {more} more")),
    }
    text.truncate(text.trim_end().len() + usize::from(!text.is_empty()));
    text
}

/// With or without colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    Plain,
    Coloured,
}

impl Style {
    /// Coloured on a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or the terminal is `dumb`.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if stream.is_terminal() && !is_set("NO_COLOR") && !dumb { Self::Coloured } else { Self::Plain }
    }
}

/// A place in a file, with the line it is in as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    /// In bytes of the file.
    pub span: Range<usize>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    shown: Option<Shown>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    text: String,
    /// In bytes of `text`, on character boundaries.
    caret: Range<usize>,
}

impl Place {
    fn is_in_line_of(&self, other: &Self) -> bool {
        (&self.file, self.line) == (&other.file, other.line)
    }

    /// The line with its caret, and the caret of a second place in the same line.
    fn element<'a>(&'a self, kind: AnnotationKind, label: &'a str, second: Option<(&'a Self, &'a str)>) -> Element<'a> {
        let Some(shown) = &self.shown else {
            return Origin::path(&*self.file).line(self.line).char_column(self.column).into();
        };
        let annotation = |kind: AnnotationKind, shown: &Shown, label: &'a str| {
            kind.span(shown.caret.clone()).label((!label.is_empty()).then_some(label))
        };
        let second = second.and_then(|(place, label)| Some((place.shown.as_ref()?, label)));
        Snippet::source(shown.text.as_str())
            .path(&*self.file)
            .line_start(self.line)
            .annotation(annotation(kind, shown, label))
            .annotations(second.map(|(shown, label)| annotation(AnnotationKind::Context, shown, label)))
            .into()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A file as problems may show it.
pub struct Source {
    file: Arc<str>,
    /// As long as the file in bytes, with every secret overwritten.
    blanked: String,
    /// Where each line starts.
    lines: Vec<usize>,
}

impl Source {
    /// A longer line is named but not shown.
    const LINE_BYTES_MAX: usize = 1000;

    /// `secrets` are the places in `text` that must never be seen.
    pub fn new(file: &str, text: &str, secrets: impl IntoIterator<Item = Span>) -> Self {
        let mut blanked = text.to_owned().into_bytes();
        for secret in secrets {
            let end = ceil(text, secret.end);
            let start = floor(text, secret.start).min(end);
            blanked[start..end].iter_mut().filter(|byte| !b"\r\n".contains(byte)).for_each(|byte| *byte = b'*');
        }
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self {
            file: clean(file).into(),
            // Whole characters have been overwritten, so it is UTF-8 still.
            blanked: String::from_utf8_lossy(&blanked).into_owned(),
            lines,
        }
    }

    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// The line, from 1, that a byte is in.
    pub fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|start| *start <= at).max(1)
    }

    /// A place given as a line and a column, both from 1.
    pub fn place_at(&self, line: usize, column: usize) -> Place {
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(self.blanked.len());
        let rest = self.blanked.get(start..).unwrap_or_default();
        let within: usize = rest.chars().take(column.saturating_sub(1)).map(char::len_utf8).sum();
        self.place(Span { start: start + within, end: start + within + 1 })
    }

    /// Any span will do: it is cut to the text, to whole characters, and to its first line.
    pub fn place(&self, span: Span) -> Place {
        let text = self.blanked.as_str();
        let start = floor(text, span.start);
        let line = self.line(start);
        let line_start = self.lines.get(line - 1).copied().unwrap_or(0).min(start);
        let rest = text.get(line_start..).unwrap_or_default();
        let shown = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let line_end = line_start + shown.len();
        // A caret stands even where there is nothing to underline: past a line's end.
        let start = start.min(line_end);
        let end = ceil(text, span.end).clamp(start, line_end);
        Place {
            file: Arc::clone(&self.file),
            span: start..end,
            line,
            column: text.get(line_start..start).unwrap_or_default().chars().count() + 1,
            shown: (shown.len() <= Self::LINE_BYTES_MAX)
                .then(|| Shown { text: shown.to_owned(), caret: start - line_start..end - line_start }),
        }
    }
}

/// The nearest character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The nearest character boundary at or after `at`.
fn ceil(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// A value of the file, for use in a message: quoted and short.
pub fn quoted(value: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut short: String = value.chars().take(CHARS_MAX).collect();
    if short.len() < value.len() {
        short.push('…');
    }
    format!("`{short}`")
}

/// Why a file cannot be read, in words of people.
pub fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        kind => kind.to_string(),
    }
}

/// Without the characters that could steer a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: usize, end: usize) -> Span {
        Span { start, end }
    }

    #[test]
    fn a_problem_as_people_see_it() {
        let source = Source::new("rules.yaml", "rules:\n  - send: [sec-slak]\n", []);
        let problem = Problem::error("unknown-destination", "there is no destination `sec-slak`")
            .at(Some(source.place(span(18, 26))), "not defined")
            .help("did you mean `sec-slack`?");
        let expected = "\
error[unknown-destination]: there is no destination `sec-slak`
 --> rules.yaml:2:12
  |
2 |   - send: [sec-slak]
  |            ^^^^^^^^ not defined
  |
  = help: did you mean `sec-slack`?";
        assert_eq!(problem.render(Style::Plain), expected);
        assert!(problem.render(Style::Coloured).contains("\u{1b}["));
        assert_eq!(
            problem.to_string(),
            "rules.yaml:2:12: error[unknown-destination]: there is no destination `sec-slak` (did you mean `sec-slack`?)"
        );
        let place = &problem.to_json()["place"];
        assert_eq!((&place["line"], &place["column"], &place["start"]), (&json!(2), &json!(12), &json!(18)));
    }

    #[test]
    fn a_secret_is_not_in_what_is_shown() {
        let text = "a: {url: hünter2, b: x}\nc: d\n";
        let at = text.find('h').unwrap();
        let source = Source::new("rules.yaml", text, [span(at, at + "hünter2".len()), span(text.len() - 1, 999)]);
        for place in [source.place(span(0, 1)), source.place(span(at, at + 3)), source.place(span(0, text.len()))] {
            let shown = Problem::error("x", "x").at(Some(place), "x").render(Style::Plain);
            assert!(shown.contains("url: ********, b: x"), "{shown}");
            assert!(!shown.contains("nter2"), "{shown}");
        }
    }

    #[test]
    fn no_span_breaks_the_rendering() {
        let text = "ä: ö\r\n\n日本: 語\t\n";
        let source = Source::new("rules\u{7}.yaml", text, [span(3, 1), span(1, 4), span(900, 999)]);
        for start in 0..text.len() + 3 {
            for end in 0..text.len() + 3 {
                let place = source.place(span(start, end));
                assert!(place.line >= 1 && place.column >= 1);
                let shown = Problem::warning("x", "t\u{1b}").at(Some(place), "l\u{1b}").render(Style::Plain);
                assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'), "{shown}");
            }
        }
        assert_eq!((source.place_at(3, 2).column, source.place_at(3, 2).span.clone()), (2, 12..15));
        assert_eq!((source.place_at(99, 99).line, source.place_at(0, 0).column), (4, 1));
        let empty = Source::new("rules.yaml", "", []);
        assert_eq!((empty.place(span(0, 0)).line, empty.place(span(5, 9)).column), (1, 1));
    }

    #[test]
    fn a_long_line_is_named_and_not_shown() {
        let source = Source::new("rules.yaml", &"x".repeat(5000), []);
        let shown = Problem::error("x", "t").at(Some(source.place(span(4000, 4001))), "l").render(Style::Plain);
        assert!(shown.contains("rules.yaml:1:4001") && shown.len() < 200, "{shown}");
    }

    #[test]
    fn many_problems_are_counted() {
        let many = vec![Problem::error("x", "t"); Problems::SHOWN_MAX + 7];
        assert!(render_all(&many, Style::Plain).ends_with("\nand 7 more\n"));
        assert!(Problems(many).to_string().ends_with("\nand 7 more"));
        assert_eq!(render_all(&[], Style::Plain), "");
    }
}
