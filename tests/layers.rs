//! Imports point down only. The table in `docs/ARCHITECTURE.md` says why; this keeps it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test may panic and tell")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A module may import those of lower layers, never a neighbour. `main` may import what it likes.
const LAYERS: [&[&str]; 8] = [
    &["model"],
    &["backoff", "catalogue", "clock", "preset", "serve", "telemetry"],
    &["deliver", "rate", "render", "routing", "store"],
    &["admin", "dispatch", "intake"],
    &["source"],
    &["config"],
    &["app", "demo"],
    &["cli"],
];

#[test]
fn imports_point_down() {
    let layer_of: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(layer, names)| names.iter().map(move |name| (*name, layer))).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut checked = 0;
    for file in rust_files(&root) {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if matches!(module, "main" | "lib") {
            continue;
        }
        let Some(layer) = layer_of.get(module) else {
            wrong.push(format!("src/{} belongs to no layer: give `{module}` one", relative.display()));
            continue;
        };
        for (line, imported) in imports(&fs::read_to_string(&file).unwrap()) {
            checked += 1;
            let allowed = imported == module || layer_of.get(imported.as_str()).is_some_and(|other| other < layer);
            if !allowed {
                wrong.push(format!(
                    "src/{}:{line} imports `{imported}`, which is not below `{module}`",
                    relative.display()
                ));
            }
        }
    }
    assert!(checked > 100, "only {checked} imports found: the search is broken");
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_promises() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let silent: Vec<_> = ["src", "tests", "benches"]
        .iter()
        .flat_map(|folder| rust_files(&root.join(folder)))
        .filter(|file| !fs::read_to_string(file).unwrap().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "these do not open with `//!`: {silent:#?}");
}

/// The modules named after `crate::`, with their lines. `use crate::{a, b::c}` names `a` and `b`.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == '$') {
            continue;
        }
        let line = text[..at].lines().count().max(1);
        let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
        if text[start..at].trim_start().starts_with("//") {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => top_level_names(list),
            None => vec![name(rest)],
        };
        found.extend(names.into_iter().map(|name| (line, name)));
    }
    found
}

fn top_level_names(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = Vec::new();
    let mut part_start = 0;
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(name(&list[part_start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(&list[part_start..at]));
                part_start = at + 1;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn name(path: &str) -> String {
    path.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

#[test]
fn the_search_finds_imports() {
    let text = "use crate::model::{Event, EventId};\n// crate::not\nuse crate::{clock, store::{Store, StoreError}, deliver};\nlet x = crate::rate::Pacer;\n";
    let names: Vec<_> = imports(text).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["model", "clock", "store", "deliver", "rate"]);
}
