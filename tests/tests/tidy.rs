//! The form that reviewers should not have to talk about.

use std::fs;
use std::path::{Path, PathBuf};

/// Product lines of a file; past it, cut at a phase boundary.
const FILE_LINES: usize = 420;
/// Lines of a function.
const FUNCTION_LINES: usize = 80;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        let skipped = entry
            .file_name()
            .is_some_and(|n| n == "target" || n == ".git");
        if entry.is_dir() && !skipped {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            found.push(entry);
        }
    }
}

fn product(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
}

#[test]
fn files_say_where_they_stand_and_stay_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    sources(root, &mut files);
    assert!(files.len() > 80);
    let mut wrong = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(root).unwrap().display().to_string();
        if !text.starts_with("//! ") {
            wrong.push(format!("{name}: does not open with a `//!` line"));
        }
        for word in ["util", "common", "manager", "helper"] {
            if file
                .file_stem()
                .is_some_and(|s| s.to_string_lossy().contains(word))
            {
                wrong.push(format!("{name}: `{word}` says nothing"));
            }
        }
        // The batteries are tables: their length is their worth.
        if name.starts_with("tests/tests/hostile") {
            continue;
        }
        let lines = product(&text).count();
        if lines > FILE_LINES {
            wrong.push(format!("{name}: {lines} lines"));
        }
        let mut begun: Option<(usize, String)> = None;
        for (at, line) in product(&text) {
            let body = line.trim_start();
            let indent = line.len() - body.len();
            let is_fn = [
                "fn ",
                "pub fn ",
                "async fn ",
                "pub async fn ",
                "pub(super) fn ",
                "pub(crate) fn ",
                "pub(super) async fn ",
            ]
            .iter()
            .any(|start| body.starts_with(start));
            if is_fn {
                begun = Some((at, " ".repeat(indent) + "}"));
            }
            if let Some((start, end)) = &begun
                && line == end
            {
                if at - start > FUNCTION_LINES {
                    wrong.push(format!(
                        "{name}:{}: a function of {} lines",
                        start + 1,
                        at - start
                    ));
                }
                begun = None;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
