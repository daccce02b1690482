//! Holds a tree against the generated JSON Schema: every error at once, each with its place.
//!
//! The schema comes from the types of the contract, so a key is described in one place and
//! checked, documented and completed from it.

use serde_json::Value;

use selvedge_contract::units::{
    DURATION_FORMAT, Duration, RATE_FORMAT, Rate, SIZE_FORMAT, Size, THROUGHPUT_FORMAT, Throughput,
};

use super::diagnose::{Diagnostic, nearest};
use super::repair::Repair;
use super::tree::{Kind, Node};

/// The JSON Schema of a type.
#[must_use]
pub fn of<T: schemars::JsonSchema>() -> Value {
    schemars::schema_for!(T).to_value()
}

/// Checks a tree; gives everything that does not fit.
#[must_use]
pub fn check(schema: &Value, tree: &Node) -> Vec<Diagnostic> {
    check_and_repair(schema, tree).0
}

/// The same, with what would make each finding go away.
#[must_use]
pub fn check_and_repair(schema: &Value, tree: &Node) -> (Vec<Diagnostic>, Vec<Repair>) {
    let mut checker = Checker {
        root: schema,
        found: Vec::new(),
        repairs: Vec::new(),
    };
    checker.value(schema, tree, "");
    (checker.found, checker.repairs)
}

struct Checker<'a> {
    root: &'a Value,
    found: Vec<Diagnostic>,
    repairs: Vec<Repair>,
}

fn under(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

impl<'a> Checker<'a> {
    fn error(&mut self, node: &Node, path: &str, message: String, remedy: String) {
        self.repairs.push(Repair::DropValue(node.place));
        let found = Diagnostic::error(node.place, path, message).expected(remedy);
        self.found.push(found);
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let Some(reference) = schema.get("$ref").and_then(Value::as_str) else {
            return schema;
        };
        let name = reference.trim_start_matches("#/$defs/");
        let found = self.root.get("$defs").and_then(|defs| defs.get(name));
        found.map_or(schema, |found| self.resolve(found))
    }

    fn value(&mut self, schema: &'a Value, node: &Node, path: &str) {
        let schema = self.resolve(schema);
        // A key without a value is as if it were not there.
        if matches!(node.kind, Kind::Null) {
            return;
        }
        if let Some(branches) = schema.get("anyOf").and_then(Value::as_array) {
            return self.any_of(branches, node, path);
        }
        if let Some(branches) = schema.get("oneOf").and_then(Value::as_array) {
            return self.one_of(branches, node, path);
        }
        if let Some(words) = schema.get("enum").and_then(Value::as_array) {
            let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
            return self.word(&words, node, path);
        }
        let types = type_names(schema);
        if types.is_empty() {
            return;
        }
        match &node.kind {
            Kind::Map(_) if types.contains(&"object") => self.object(schema, node, path),
            Kind::List(items) if types.contains(&"array") => {
                if let Some(schema) = schema.get("items") {
                    for (at, item) in items.iter().enumerate() {
                        self.value(schema, item, &format!("{path}[{at}]"));
                    }
                }
            }
            Kind::Text(text) if types.contains(&"string") => self.text(schema, text, node, path),
            Kind::Bool(_) if types.contains(&"boolean") => {}
            Kind::Number(_) if types.contains(&"number") => {}
            Kind::Number(number) if format_of(schema) == Some(SIZE_FORMAT) => {
                self.text(schema, &number.to_string(), node, path);
            }
            Kind::Number(number) if types.contains(&"integer") => {
                self.integer(schema, number, node, path);
            }
            _ => self.wrong_type(schema, &types, node, path),
        }
    }

    fn wrong_type(&mut self, schema: &Value, types: &[&str], node: &Node, path: &str) {
        let wanted = match format_of(schema) {
            Some(DURATION_FORMAT) => "a duration such as `250ms` or `10s`".to_owned(),
            Some(SIZE_FORMAT) => "a size such as `64KiB`".to_owned(),
            Some(RATE_FORMAT) => "a rate such as `100/min`".to_owned(),
            Some(THROUGHPUT_FORMAT) => "a rate such as `1MiB/s`".to_owned(),
            _ => types
                .iter()
                .filter(|t| **t != "null")
                .map(|t| words_for(t))
                .collect::<Vec<_>>()
                .join(" or "),
        };
        let quote =
            matches!(node.kind, Kind::Number(_) | Kind::Bool(_)) && types.contains(&"string");
        let remedy = if quote && format_of(schema).is_none() {
            format!("expected {wanted}: put it in quotes")
        } else {
            format!("expected {wanted}")
        };
        self.error(node, path, format!("this is {}", node.describe()), remedy);
    }

    fn text(&mut self, schema: &Value, text: &str, node: &Node, path: &str) {
        let problem = match format_of(schema) {
            Some(DURATION_FORMAT) => text.parse::<Duration>().err().map(|e| e.to_string()),
            Some(SIZE_FORMAT) => text.parse::<Size>().err().map(|e| e.to_string()),
            Some(RATE_FORMAT) => text.parse::<Rate>().err().map(|e| e.to_string()),
            Some(THROUGHPUT_FORMAT) => text.parse::<Throughput>().err().map(|e| e.to_string()),
            _ => None,
        };
        if let Some(wanted) = problem {
            self.error(
                node,
                path,
                format!("`{text}` cannot be read"),
                format!("expected {wanted}"),
            );
        }
    }

    fn integer(&mut self, schema: &Value, number: &serde_json::Number, node: &Node, path: &str) {
        let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
        let format_max = match format_of(schema) {
            Some("uint16") => Some(f64::from(u16::MAX)),
            Some("uint32") => Some(f64::from(u32::MAX)),
            _ => None,
        };
        let min = bound("minimum");
        let max = bound("maximum").or(format_max);
        let value = number.as_f64().unwrap_or(f64::NAN);
        let whole = number.is_u64() || number.is_i64();
        if !whole || min.is_some_and(|m| value < m) || max.is_some_and(|m| value > m) {
            let range = match (min, max) {
                (Some(min), Some(max)) => format!(" from {min} to {max}"),
                (Some(min), None) => format!(" of {min} or more"),
                _ => String::new(),
            };
            self.error(
                node,
                path,
                format!("{number} is out of range"),
                format!("expected a whole number{range}"),
            );
        }
    }

    fn object(&mut self, schema: &'a Value, node: &Node, path: &str) {
        let Kind::Map(entries) = &node.kind else {
            return;
        };
        let properties = schema.get("properties").and_then(Value::as_object);
        let rest = schema.get("additionalProperties");
        let closed = rest == Some(&Value::Bool(false));
        for (at, (key, value)) in entries.iter().enumerate() {
            let path = under(path, &key.name);
            if entries
                .iter()
                .take(at)
                .any(|(earlier, _)| earlier.name == key.name)
            {
                let found = Diagnostic::error(
                    key.place,
                    path.as_str(),
                    format!("`{}` is there twice", key.name),
                );
                self.found.push(found.expected("remove one of them"));
                self.repairs.push(Repair::DropKey(key.place));
                continue;
            }
            match (properties.and_then(|p| p.get(&key.name)), rest) {
                (Some(schema), _) => self.value(schema, value, &path),
                (None, Some(schema)) if schema.is_object() => self.value(schema, value, &path),
                (None, _) if closed => {
                    let known = || {
                        let names = properties.into_iter().flatten();
                        names.map(|(name, _)| name.as_str())
                    };
                    let taken = |name: &str| node.child(name).is_some();
                    self.repairs.push(match nearest(&key.name, known()) {
                        Some(near) if !taken(near) => Repair::Rename(key.place, near.to_owned()),
                        _ => Repair::DropKey(key.place),
                    });
                    let found =
                        Diagnostic::error(key.place, path, format!("unknown key `{}`", key.name));
                    self.found.push(found.expected(choices(
                        "one of these keys",
                        &key.name,
                        known(),
                    )));
                }
                _ => {}
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            let there = node
                .child(name)
                .is_some_and(|(_, v)| !matches!(v.kind, Kind::Null));
            if !there {
                self.error(
                    node,
                    path,
                    format!("`{name}` is missing"),
                    format!("add `{name}`"),
                );
            }
        }
    }

    /// An optional value, or one with a short form: the branch that has the value's type.
    fn any_of(&mut self, branches: &'a [Value], node: &Node, path: &str) {
        let fits = |b: &&'a Value| {
            let types = type_names(self.resolve(b));
            types.iter().any(|t| has_type(t, node))
        };
        if let Some(branch) = branches.iter().find(fits) {
            return self.value(branch, node, path);
        }
        let mut wanted = Vec::new();
        for branch in branches {
            let resolved = self.resolve(branch);
            let nested = resolved.get("oneOf").is_some() || resolved.get("anyOf").is_some();
            if nested && branches.len() <= 2 {
                return self.value(branch, node, path);
            }
            let types = type_names(resolved).into_iter();
            wanted.extend(types.filter(|t| *t != "null"));
        }
        let schema = branches.first().map_or(&Value::Null, |b| self.resolve(b));
        self.wrong_type(schema, &wanted, node, path);
    }

    /// A list of words, or objects told apart by their `type`.
    fn one_of(&mut self, branches: &'a [Value], node: &Node, path: &str) {
        let word = |b: &'a Value| {
            let alone = b.get("const").and_then(Value::as_str);
            alone.map(|w| vec![w]).or_else(|| {
                let words = b.get("enum")?.as_array()?;
                Some(words.iter().filter_map(Value::as_str).collect())
            })
        };
        let words: Vec<&str> = branches.iter().filter_map(word).flatten().collect();
        if !words.is_empty() {
            return self.word(&words, node, path);
        }
        let tag = |b: &'a Value| b.pointer("/properties/type/const").and_then(Value::as_str);
        let tags: Vec<&str> = branches.iter().filter_map(tag).collect();
        match node.child("type") {
            Some((_, kind)) => {
                let chosen = match &kind.kind {
                    Kind::Text(text) => branches.iter().find(|b| tag(b) == Some(text)),
                    _ => None,
                };
                match chosen {
                    Some(branch) => self.value(branch, node, path),
                    None => self.word(&tags, kind, &under(path, "type")),
                }
            }
            None => {
                let list = tags.join("`, `");
                self.error(
                    node,
                    path,
                    "`type` is missing".into(),
                    format!("expected one of `{list}`"),
                );
            }
        }
    }

    fn word(&mut self, words: &[&str], node: &Node, path: &str) {
        match &node.kind {
            Kind::Text(text) if words.contains(&text.as_str()) => {}
            Kind::Text(text) => {
                let remedy = choices("one of", text, words.iter().copied());
                let found =
                    Diagnostic::error(node.place, path, format!("`{text}` is not known here"));
                self.found.push(found.expected(remedy));
                self.repairs
                    .push(match nearest(text, words.iter().copied()) {
                        Some(near) => Repair::Replace(node.place, near.to_owned()),
                        None => Repair::DropValue(node.place),
                    });
            }
            // `1.2` is a number to YAML and a version to us.
            Kind::Number(number) => {
                let remedy = choices("one of", &number.to_string(), words.iter().copied());
                self.error(
                    node,
                    path,
                    format!("{number} is a number"),
                    format!("{remedy}; put it in quotes"),
                );
            }
            _ => {
                let remedy = choices("one of", "", words.iter().copied());
                self.error(node, path, format!("this is {}", node.describe()), remedy);
            }
        }
    }
}

/// What was expected, the nearest first.
fn choices<'a>(what: &str, given: &str, valid: impl Iterator<Item = &'a str>) -> String {
    let valid: Vec<&str> = valid.collect();
    match nearest(given, valid.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("expected {what}: `{}`", valid.join("`, `")),
    }
}

fn format_of(schema: &Value) -> Option<&str> {
    schema.get("format").and_then(Value::as_str)
}

fn type_names(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

const fn has_type(name: &str, node: &Node) -> bool {
    matches!(
        (name.as_bytes(), &node.kind),
        (b"object", Kind::Map(_))
            | (b"array", Kind::List(_))
            | (b"string", Kind::Text(_))
            | (b"boolean", Kind::Bool(_))
            | (b"integer" | b"number", Kind::Number(_))
    )
}

fn words_for(name: &str) -> &str {
    match name {
        "object" => "a map",
        "array" => "a list",
        "string" => "text",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        other => other,
    }
}
