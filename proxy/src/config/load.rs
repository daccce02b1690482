//! Reads configuration files and directories, merges them, and checks their form.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use selvedge_contract::defaults::process::CONFIG_BYTES;
use serde::de::DeserializeOwned;

use super::diagnose::{Diagnostic, Place, Report, Source};
use super::repair::{Holes, repair};
use super::schema;
use super::tree::{self, Kind, Node};

/// A configuration whose form is right.
#[derive(Debug)]
pub struct Loaded<T> {
    /// Typed.
    pub config: T,
    /// With places, for later findings.
    pub tree: Node,
    /// Files, and what was found so far.
    pub report: Report,
}

/// A configuration whose form is wrong.
#[derive(Debug)]
pub struct Broken<T> {
    /// What was found.
    pub report: Report,
    /// What is left of it without its mistakes.
    guess: Option<(Loaded<T>, Holes)>,
}

impl<T> Broken<T> {
    /// Everything that is wrong: `judge` looks for mistakes of meaning in what is right in form.
    pub fn judge(self, judge: impl FnOnce(Loaded<T>) -> Report) -> Report {
        let mut report = self.report;
        if let Some((guess, holes)) = self.guess {
            let meaning = judge(guess).findings;
            let sure = meaning.into_iter().filter(|found| holes.allow(found));
            report.findings.extend(sure);
            report.sort();
        }
        report
    }
}

/// Reads and checks. Directories stand for every `.yaml`, `.yml` and `.json` file in them.
///
/// # Errors
/// A report that has errors.
pub fn load<T>(paths: &[PathBuf]) -> Result<Loaded<T>, Box<Broken<T>>>
where
    T: DeserializeOwned + schemars::JsonSchema,
{
    let mut report = Report::default();
    let mut merged: Option<Node> = None;
    for path in paths {
        let files = match files_of(path) {
            Ok(files) => files,
            Err(error) => {
                unreadable(&mut report, path, &error);
                continue;
            }
        };
        for file in files {
            let text = match read(&file) {
                Ok(text) => text,
                Err(error) => {
                    unreadable(&mut report, &file, &error);
                    continue;
                }
            };
            let index = report.sources.len();
            report.sources.push(Source {
                path: file,
                text: text.clone(),
            });
            match tree::parse(&text, index) {
                Ok(node) => merge(&mut merged, node, &mut report.findings),
                Err(found) => report.findings.push(found),
            }
        }
    }
    let tree = merged.unwrap_or_else(|| Node::empty(0));
    let schema = schema::of::<T>();
    report.findings.extend(schema::check(&schema, &tree));
    if !matches!(tree.kind, Kind::Map(_) | Kind::Null) {
        let found = Diagnostic::error(tree.place, "", format!("this is {}", tree.describe()));
        report
            .findings
            .push(found.expected("expected a map of keys"));
    }
    if report.has_errors() {
        report.sort();
        let guess = repair(&schema, &tree).and_then(|(tree, holes)| {
            let config = typed(&tree).ok()?;
            let report = Report::default();
            let loaded = Loaded {
                config,
                tree,
                report,
            };
            Some((loaded, holes))
        });
        return Err(Box::new(Broken { report, guess }));
    }
    match typed(&tree) {
        Ok(config) => Ok(Loaded {
            config,
            tree,
            report,
        }),
        Err(error) => {
            report
                .findings
                .push(Diagnostic::error(Place::start(0), "", error.to_string()));
            Err(Box::new(Broken {
                report,
                guess: None,
            }))
        }
    }
}

fn typed<T: DeserializeOwned>(tree: &Node) -> serde_json::Result<T> {
    let json = match tree.to_json() {
        serde_json::Value::Null => serde_json::Value::Object(serde_json::Map::new()),
        other => other,
    };
    serde_json::from_value(json)
}

/// Files that a path stands for, in order of their names.
///
/// # Errors
/// When the directory cannot be read.
pub fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let known = file
            .extension()
            .and_then(|e| e.to_str())
            .is_some_and(|e| matches!(e, "yaml" | "yml" | "json"));
        if known && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > CONFIG_BYTES as u64 {
        return Err(io::Error::other(format!(
            "larger than {CONFIG_BYTES} bytes"
        )));
    }
    fs::read_to_string(path)
}

fn unreadable(report: &mut Report, path: &Path, error: &io::Error) {
    let index = report.sources.len();
    report.sources.push(Source {
        path: path.to_owned(),
        text: String::new(),
    });
    let found = Diagnostic::error(Place::start(index), "", format!("cannot be read: {error}"));
    report
        .findings
        .push(found.expected("name a file or a directory that can be read"));
}

/// Adds a file to the others: lists are joined, maps united, anything else may be set once.
fn merge(merged: &mut Option<Node>, node: Node, found: &mut Vec<Diagnostic>) {
    let Some(into) = merged else {
        *merged = Some(node);
        return;
    };
    let (Kind::Map(have), Kind::Map(more)) = (&mut into.kind, node.kind) else {
        return;
    };
    for (key, value) in more {
        let Some((_, old)) = have.iter_mut().find(|(k, _)| k.name == key.name) else {
            have.push((key, value));
            continue;
        };
        match (&mut old.kind, value.kind) {
            (Kind::List(old), Kind::List(new)) => old.extend(new),
            (Kind::Map(old), Kind::Map(new)) => {
                for (inner, value) in new {
                    if old.iter().any(|(k, _)| k.name == inner.name) {
                        let path = format!("{}.{}", key.name, inner.name);
                        let message = format!("`{}` is in another file too", inner.name);
                        let error = Diagnostic::error(inner.place, path, message);
                        found.push(error.expected("remove one of them"));
                    } else {
                        old.push((inner, value));
                    }
                }
            }
            _ => {
                let message = format!("`{}` is in another file too", key.name);
                let error = Diagnostic::error(key.place, key.name, message);
                found.push(error.expected("remove one of them"));
            }
        }
    }
}
