//! Configuration errors and how they are shown: like a compiler's, with place and remedy.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

/// A place in one of the files of a configuration. Lines and columns count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index of the file.
    pub file: usize,
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Place {
    /// The beginning of a file.
    #[must_use]
    pub const fn start(file: usize) -> Self {
        Self {
            file,
            line: 1,
            column: 1,
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// It is taken, but probably not what was meant.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// The key, as a path: `routes[0].rules[1].backendRefs`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What was expected, or what to do.
    pub remedy: String,
}

impl Diagnostic {
    /// An error.
    pub fn error(place: Place, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            place,
            key: key.into(),
            message: message.into(),
            remedy: String::new(),
        }
    }

    /// The same with what was expected.
    #[must_use]
    pub fn expected(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The same as a warning.
    #[must_use]
    pub const fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }
}

/// A file as it was read.
#[derive(Debug, Clone)]
pub struct Source {
    /// Path.
    pub path: PathBuf,
    /// Text.
    pub text: String,
}

/// Findings with the files they are in.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Files, by index.
    pub sources: Vec<Source>,
    /// Findings.
    pub findings: Vec<Diagnostic>,
}

impl Report {
    /// Whether the configuration is refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|f| f.severity == Severity::Error)
    }

    /// How many errors and warnings.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let errors = self
            .findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .count();
        (errors, self.findings.len() - errors)
    }

    /// In the order of the files.
    pub fn sort(&mut self) {
        self.findings.sort_by(|a, b| {
            a.place
                .cmp(&b.place)
                .then_with(|| a.message.cmp(&b.message))
        });
        self.findings.dedup();
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for finding in &self.findings {
            self.render(&mut out, finding);
        }
        out
    }

    /// For machines: one object a finding.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let findings = self.findings.iter().map(|f| {
            serde_json::json!({
                "severity": f.severity,
                "file": self.path(f),
                "line": f.place.line,
                "column": f.place.column,
                "key": f.key,
                "message": f.message,
                "remedy": f.remedy,
            })
        });
        findings.collect()
    }

    fn path(&self, finding: &Diagnostic) -> String {
        let source = self.sources.get(finding.place.file);
        source.map_or_else(|| "?".to_owned(), |s| s.path.display().to_string())
    }

    fn render(&self, out: &mut String, finding: &Diagnostic) {
        let Diagnostic {
            severity,
            place,
            key,
            message,
            remedy,
        } = finding;
        let word = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{word}: {message}");
        let number = place.line.to_string();
        let gutter = " ".repeat(number.len());
        let _ = writeln!(
            out,
            "{gutter}--> {}:{}:{}",
            self.path(finding),
            place.line,
            place.column
        );
        let source = self.sources.get(place.file);
        if let Some(line) = source.and_then(|s| s.text.lines().nth(place.line.saturating_sub(1))) {
            let before: String = line
                .chars()
                .take(place.column.saturating_sub(1))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let _ = writeln!(out, "{gutter} |\n{number} | {line}\n{gutter} | {before}^");
        }
        if !key.is_empty() {
            let _ = writeln!(out, "{gutter} = key: {key}");
        }
        if !remedy.is_empty() {
            let _ = writeln!(out, "{gutter} = {remedy}");
        }
        out.push('\n');
    }
}

/// The nearest of the valid names, if any is near.
#[must_use]
pub fn nearest<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    valid
        .into_iter()
        .map(|candidate| (distance(&name, &candidate.to_ascii_lowercase()), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .map(|(_, candidate)| candidate)
}

/// Edits from one to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (to, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            let best = (diagonal + usize::from(from != *to))
                .min(above + 1)
                .min(left + 1);
            diagonal = above;
            left = best;
            *cell = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        let keys = ["listeners", "routes", "services"];
        assert_eq!(nearest("listners", keys), Some("listeners"));
        assert_eq!(nearest("Route", keys), Some("routes"));
        assert_eq!(nearest("xyz", keys), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
