//! One answer from several: what is picked from each, and how the parts come together.

use serde_json::{Map, Value};

/// One part of an answer.
#[derive(Debug)]
pub struct Part<'a> {
    /// Its name, under which it goes into the answer.
    pub name: &'a str,
    /// Its members go into the answer itself, where nothing of that name is yet.
    pub merge: bool,
    /// What came, or what stands in for it.
    pub value: Value,
}

/// Keeps only these members, `a.b` for one inside another; of a list, in each of its items.
#[must_use]
pub fn pick(value: &Value, paths: &[String]) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| pick(item, paths)).collect(),
        Value::Object(_) => {
            let mut out = Value::Object(Map::new());
            for path in paths {
                copy(value, path, &mut out);
            }
            out
        }
        other => other.clone(),
    }
}

fn copy(from: &Value, path: &str, to: &mut Value) {
    let (first, rest) = path
        .split_once('.')
        .map_or((path, None), |(a, b)| (a, Some(b)));
    let (Some(found), Value::Object(to)) = (from.get(first), to) else {
        return;
    };
    match rest {
        None => {
            to.insert(first.to_owned(), found.clone());
        }
        Some(rest) if found.is_object() => {
            let inner = to.entry(first).or_insert_with(|| Value::Object(Map::new()));
            copy(found, rest, inner);
        }
        Some(rest) if found.is_array() => {
            let rest = [rest.to_owned()];
            to.insert(first.to_owned(), pick(found, &rest));
        }
        Some(_) => {}
    }
}

/// Puts parts together, in their order; `missing` names those that something else stands in for.
#[must_use]
pub fn compose(parts: Vec<Part<'_>>, missing: &[&str], key: &str) -> Value {
    let mut out = Map::new();
    for part in parts {
        match part.value {
            Value::Object(members) if part.merge => {
                for (name, value) in members {
                    out.entry(name).or_insert(value);
                }
            }
            value => {
                out.insert(part.name.to_owned(), value);
            }
        }
    }
    if !missing.is_empty() {
        out.insert(key.to_owned(), missing.iter().copied().collect());
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn picking() {
        let value = json!({ "id": 1, "a": { "b": 2, "c": 3 }, "l": [{ "x": 1, "y": 2 }], "z": 0 });
        let paths = ["id", "a.b", "l.x", "none", "id.deep"].map(str::to_owned);
        assert_eq!(
            pick(&value, &paths),
            json!({ "id": 1, "a": { "b": 2 }, "l": [{ "x": 1 }] })
        );
        let list = json!([{ "id": 1, "z": 2 }, 3]);
        assert_eq!(pick(&list, &["id".to_owned()]), json!([{ "id": 1 }, 3]));
    }

    #[test]
    fn composing() {
        let part = |name, merge, value| Part { name, merge, value };
        let parts = vec![
            part("user", true, json!({ "id": 1, "name": "a" })),
            part("shop", true, json!({ "id": 2, "open": true })),
            part("ads", false, Value::Null),
        ];
        assert_eq!(
            compose(parts, &["ads"], "partial"),
            json!({ "id": 1, "name": "a", "open": true, "ads": null, "partial": ["ads"] })
        );
    }
}
