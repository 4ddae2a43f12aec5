//! What `check` says: each file of `tests/data/bad` beside the message it must give (`NAME.yaml`, `NAME.snap`).
//!
//! No message shows a secret: the files write theirs with `hunter` in them.

#![expect(clippy::unwrap_used, reason = "a test stops at what it does not expect")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use halo_relay::config::{self, LoadOptions, Problem, Secrets, Style};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn bad_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(data().join("bad")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

fn variable(name: &str) -> Option<String> {
    let value = match name {
        "SET" => "https://example.org/hooks/hunter2",
        "OLD_TEAMS" => "https://example.webhook.office.com/webhookb2/hunter2",
        "TRIGGER" => "https://hooks.slack.com/triggers/hunter2",
        "PLAIN" => "http://example.org/hunter2",
        "EMPTY" => "",
        "COPIED" => "https://hooks.slack.com/services/hunter2/…",
        "BROKEN" => "hunter2\nhunter3",
        "SHORT" | "NOT_A_URL" => "hunter2",
        _ => return None,
    };
    Some(value.to_owned())
}

fn check(path: &Path) -> config::CheckReport {
    let options = LoadOptions { sources: Secrets::Required, destinations: Secrets::Required, variable: &variable };
    let mut report = config::check(path, &options);
    // As it is named on the command line, in the file's own directory.
    let directory = format!("{}/", data().join("bad").display());
    report.file = report.file.replace(&directory, "");
    for problem in &mut report.problems {
        for place in problem.place.iter_mut().chain(problem.related.iter_mut().map(|(place, _)| place)) {
            place.file = place.file.replace(&directory, "").into();
        }
        problem.title = problem.title.replace(&directory, "");
    }
    report
}

#[test]
fn every_bad_file_gives_its_message() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(data().join("bad"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for path in bad_files() {
            let report = check(&path);
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(!report.problems.is_empty(), "{name} is not bad");
            insta::assert_snapshot!(name, report.text(Style::Plain));
        }
    });
}

#[test]
fn no_message_holds_a_secret_or_lacks_a_remedy() {
    let files = bad_files();
    assert!(files.len() > 20);
    for path in files {
        let report = check(&path);
        for text in [report.text(Style::Plain), report.text(Style::Coloured), report.json().to_string()] {
            assert!(!text.contains("hunter"), "{text}");
        }
        for problem in &report.problems {
            let Problem { code, title, help, place, .. } = problem;
            assert!(help.as_ref().is_some_and(|help| !help.is_empty()), "{}: {title}: no help", path.display());
            let placeless = ["empty-file", "missing-field", "unreadable-file"].contains(code);
            assert!(place.is_some() || placeless, "{}: {title}: no place", path.display());
        }
        assert_eq!(report.exit_code(true), if report.errors() > 0 { 3 } else { 1 });
        assert_eq!(report.exit_code(false), if report.errors() > 0 { 3 } else { 0 });
    }
}

/// A character too few, anywhere, is the commonest mistake of all; most make the file unreadable just beside a secret.
#[test]
fn a_lost_character_shows_no_secret() {
    let text = "
sources:
  halo: { type: halo, api_key: hunter2, every: 60s }
  push:
    token: 'hunter2'
destinations:
  a: { type: slack, url: https://hooks.slack.com/services/hunter2, limit: 1/1s }
  b:
    smtp:
      host: mail.example.org
      password: \"hunter2\"
  c:
    secret: |
      hunter2
    url: https://example.org/?hunter2
  d: { type: email, api: { provider: ses, access_key_id: hunter2 } }
rules:
  - { name: x, send: [a, b, c] }
";
    let secrets: Vec<_> = text.match_indices("hunter2").map(|(at, secret)| at..at + secret.len()).collect();
    for lost in (0..text.len()).filter(|at| !secrets.iter().any(|secret| secret.contains(at))) {
        let mut text = text.to_owned();
        text.remove(lost);
        let Err(problems) = config::load_str(&text, Path::new("rules.yaml"), &LoadOptions::without_secrets()) else {
            panic!("this file lacks `unrouted`");
        };
        let shown = format!("{}{problems}", problems.render(Style::Plain));
        assert!(!shown.contains("hunter2"), "{text}\n{shown}");
    }
}

#[test]
fn the_sections_of_the_json_are_those_of_the_text() {
    let report = check(&data().join("bad/unknown-destination.yaml"));
    let json = report.json();
    assert_eq!(json["errors"], report.errors());
    assert_eq!(json["summary"], serde_json::Value::Null);
    let place = &json["problems"][0]["place"];
    let yaml = std::fs::read_to_string(data().join("bad/unknown-destination.yaml")).unwrap();
    let number = |name: &str| usize::try_from(place[name].as_u64().unwrap()).unwrap();
    let (start, end) = (number("start"), number("end"));
    assert_eq!(&yaml[start..end], "sec-slak");
    assert_eq!(place["line"], yaml[..start].matches('\n').count() + 1);
}

/// Each kind of problem is shown by a file; a new one needs a new file.
#[test]
fn every_code_has_a_file() {
    let mut shown: BTreeSet<String> = BTreeSet::new();
    for path in bad_files() {
        shown.extend(check(&path).problems.iter().map(|problem| problem.code.to_owned()));
    }
    // Needs a file that is too large or missing: `files_that_cannot_be_read`.
    shown.insert("unreadable-file".to_owned());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join("config.rs")];
    for directory in ["config", "config/file", "config/lower"] {
        let entries = std::fs::read_dir(source.join(directory)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()));
    }
    let mut defined = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default().replace("code: \"", "Problem::error(\"");
        for piece in text.split("Problem::error(\"").chain(text.split("Problem::warning(\"")).skip(1) {
            let code = piece.split('"').next().unwrap_or_default();
            if !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
                defined.insert(code.to_owned());
            }
        }
    }
    let missing: Vec<_> = defined.difference(&shown).collect();
    assert!(missing.is_empty(), "no file in tests/data/bad shows {missing:?}");
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let missing = check(&directory.path().join("rules.yaml"));
    assert!(missing.problems[0].title.contains("cannot be read: there is no such file"), "{:?}", missing.problems);
    let binary = directory.path().join("binary.yaml");
    std::fs::write(&binary, b"a: 1\nb: \xff\n").unwrap();
    let report = check(&binary);
    assert!(report.problems[0].title.contains("is not UTF-8 text: line 2"), "{:?}", report.problems);
    assert_eq!((report.exit_code(false), report.summary.is_none()), (3, true));
}
