//! Test API server: selectors by label and by field.

use serde_json::Value;

use super::kinds::Kind;
use super::refusal::{Answer, Refusal};

#[derive(Debug, Clone)]
enum Term {
    Exists(String),
    Missing(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

#[derive(Debug, Clone)]
struct FieldTerm {
    pointer: &'static str,
    value: String,
    equal: bool,
}

/// What a list or a watch is narrowed to.
#[derive(Debug, Clone, Default)]
pub(super) struct Selector {
    labels: Vec<Term>,
    fields: Vec<FieldTerm>,
}

impl Selector {
    /// Reads both.
    pub(super) fn parse(kind: &Kind, labels: &str, fields: &str) -> Answer<Self> {
        let labels = split(labels).into_iter().map(label_term);
        let fields = split(fields).into_iter().map(|text| field_term(kind, text));
        Ok(Self {
            labels: labels.collect::<Answer<_>>()?,
            fields: fields.collect::<Answer<_>>()?,
        })
    }

    /// Whether it selects all there is.
    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an object is selected.
    pub(super) fn takes(&self, object: &Value) -> bool {
        let label = |key: &str| {
            object["metadata"]["labels"]
                .get(key)
                .and_then(Value::as_str)
        };
        let by_label = |term: &Term| match term {
            Term::Exists(key) => label(key).is_some(),
            Term::Missing(key) => label(key).is_none(),
            Term::In(key, values) => label(key).is_some_and(|l| values.iter().any(|v| v == l)),
            Term::NotIn(key, values) => label(key).is_none_or(|l| values.iter().all(|v| v != l)),
        };
        let by_field = |term: &FieldTerm| {
            let found = object.pointer(term.pointer).and_then(Value::as_str);
            (found.unwrap_or_default() == term.value) == term.equal
        };
        self.labels.iter().all(by_label) && self.fields.iter().all(by_field)
    }
}

/// At commas that are in no parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn label_term(text: &str) -> Answer<Term> {
    let bad = || Refusal::bad(format!("unable to parse requirement: {text}"));
    let key = |key: &str| {
        let key = key.trim();
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let is_key = !key.is_empty() && key.chars().all(fine);
        is_key.then(|| key.to_owned()).ok_or_else(bad)
    };
    let values = |text: &str| -> Answer<Vec<String>> {
        let inner = text
            .trim()
            .strip_prefix('(')
            .and_then(|t| t.strip_suffix(')'));
        let each = inner.ok_or_else(bad)?.split(',');
        Ok(each.map(|v| v.trim().to_owned()).collect())
    };
    if let Some(rest) = text.strip_prefix('!') {
        return Ok(Term::Missing(key(rest)?));
    }
    if let Some((left, right)) = text.split_once(" notin ") {
        return Ok(Term::NotIn(key(left)?, values(right)?));
    }
    if let Some((left, right)) = text.split_once(" in ") {
        return Ok(Term::In(key(left)?, values(right)?));
    }
    if let Some((left, right)) = text.split_once("!=") {
        return Ok(Term::NotIn(key(left)?, vec![right.trim().to_owned()]));
    }
    if let Some((left, right)) = text.split_once('=') {
        let right = right.strip_prefix('=').unwrap_or(right);
        return Ok(Term::In(key(left)?, vec![right.trim().to_owned()]));
    }
    Ok(Term::Exists(key(text)?))
}

fn field_term(kind: &Kind, text: &str) -> Answer<FieldTerm> {
    let (field, value, equal) = if let Some((field, value)) = text.split_once("!=") {
        (field, value, false)
    } else if let Some((field, value)) = text.split_once('=') {
        (field, value.strip_prefix('=').unwrap_or(value), true)
    } else {
        return Err(Refusal::bad(format!(
            "invalid selector: '{text}'; can't understand '{text}'"
        )));
    };
    let known = [
        ("metadata.name", "/metadata/name"),
        ("metadata.namespace", "/metadata/namespace"),
    ];
    let mut known = known.iter().chain(kind.fields);
    let Some((_, pointer)) = known.find(|(name, _)| *name == field) else {
        return Err(Refusal::bad(format!("field label not supported: {field}")));
    };
    Ok(FieldTerm {
        pointer,
        value: value.to_owned(),
        equal,
    })
}
