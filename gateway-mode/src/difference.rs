//! Where two JSON documents differ: paths of members, never their values, which may be secrets.

use std::collections::BTreeSet;

use serde_json::{Number, Value};

use crate::body::Path;

/// Steps of a path that are told: what is deeper differs at the last of them.
const DEPTH: usize = 16;

/// What is looked for, and how much is told of what is found.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Paths that are told; the search ends with the last of them.
    pub paths: usize,
    /// Bytes of a path; a longer one is cut off, and ends in `~`.
    pub bytes: usize,
}

/// What is not to be compared is taken out of both: members that these paths name.
pub fn disregard(one: &mut Value, other: &mut Value, paths: &[Path]) {
    for path in paths {
        path.remove(one);
        path.remove(other);
    }
}

/// The paths at which two documents differ, as a [`Path`] is written: the items of a list are all `*`. The
/// document itself is `.`. Members have no order, items have one; numbers are compared by their value.
#[must_use]
pub fn differing(one: &Value, other: &Value, bounds: Bounds) -> Vec<String> {
    let mut search = Search {
        bounds,
        at: Vec::new(),
        found: BTreeSet::new(),
    };
    search.compare(one, other);
    search.found.into_iter().collect()
}

struct Search<'v> {
    bounds: Bounds,
    at: Vec<&'v str>,
    found: BTreeSet<String>,
}

impl<'v> Search<'v> {
    fn compare(&mut self, one: &'v Value, other: &'v Value) {
        match (one, other) {
            _ if self.found.len() >= self.bounds.paths => {}
            (Value::Object(one), Value::Object(other)) => {
                for (name, value) in one {
                    match other.get(name) {
                        Some(other) => self.step(name, value, other),
                        None => self.note(Some(name)),
                    }
                }
                let added = other.keys().filter(|name| !one.contains_key(*name));
                added.for_each(|name| self.note(Some(name)));
            }
            (Value::Array(one), Value::Array(other)) => {
                for (one, other) in one.iter().zip(other) {
                    self.step("*", one, other);
                }
                if one.len() != other.len() {
                    self.note(Some("*"));
                }
            }
            (Value::Number(one), Value::Number(other)) if is_same(one, other) => {}
            _ if one == other => {}
            _ => self.note(None),
        }
    }

    fn step(&mut self, name: &'v str, one: &'v Value, other: &'v Value) {
        self.at.push(name);
        self.compare(one, other);
        self.at.pop();
    }

    fn note(&mut self, name: Option<&'v str>) {
        if self.found.len() >= self.bounds.paths {
            return;
        }
        let steps = self.at.iter().copied().chain(name).take(DEPTH);
        let steps: Vec<&str> = steps.collect();
        let path = match steps.is_empty() {
            true => ".".to_owned(),
            false => steps.join("."),
        };
        self.found.insert(shortened(&path, self.bounds.bytes));
    }
}

/// Whole numbers exactly, others as what JSON's readers make of them.
fn is_same(one: &Number, other: &Number) -> bool {
    let whole = |number: &Number| number.is_i64() || number.is_u64();
    one == other || !(whole(one) && whole(other)) && one.as_f64() == other.as_f64()
}

/// A text of so many bytes at most, `~` behind what was cut off; without what would move a cursor or end a line.
#[must_use]
pub fn shortened(text: &str, most: usize) -> String {
    let mut short = String::new();
    for letter in text.chars() {
        if short.len() + letter.len_utf8() > most {
            short.push('~');
            break;
        }
        short.push(if letter.is_control() { '?' } else { letter });
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const BOUNDS: Bounds = Bounds {
        paths: 4,
        bytes: 12,
    };

    fn paths(one: &Value, other: &Value) -> Vec<String> {
        differing(one, other, BOUNDS)
    }

    #[test]
    fn paths_of_what_differs_are_told_and_nothing_else() {
        for (one, other, want) in [
            (
                json!({ "a": 1, "b": [1, 2] }),
                json!({ "b": [1, 2], "a": 1 }),
                vec![],
            ),
            (
                json!({ "a": { "b": "x" } }),
                json!({ "a": { "b": "y" } }),
                vec!["a.b"],
            ),
            (json!({ "a": 1 }), json!({ "b": 1 }), vec!["a", "b"]),
            (json!({ "a": null }), json!({}), vec!["a"]),
            (
                json!([{ "x": 1 }, { "x": 2 }]),
                json!([{ "x": 3 }, { "x": 4 }]),
                vec!["*.x"],
            ),
            (json!([1, 2]), json!([1]), vec!["*"]),
            (json!([1, 2]), json!([2, 1]), vec!["*"]),
            (json!(1), json!("1"), vec!["."]),
            (json!({ "a": 1 }), json!([1]), vec!["."]),
            (json!(1), json!(1.0), vec![]),
            (
                json!(9_007_199_254_740_993_u64),
                json!(9_007_199_254_740_992_u64),
                vec!["."],
            ),
        ] {
            assert_eq!(paths(&one, &other), want, "{one} {other}");
        }
    }

    #[test]
    fn what_is_told_is_bounded() {
        let many = |of: &str| -> Value {
            let members = (0..100).map(|n| (format!("m{n}"), json!(of)));
            Value::Object(members.collect())
        };
        assert_eq!(paths(&many("x"), &many("y")).len(), BOUNDS.paths);
        let long = json!({ "a\nb".repeat(10): 1 });
        assert_eq!(paths(&long, &json!({})), ["a?ba?ba?ba?b~"]);
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!({ "d": deep });
        }
        let bounds = Bounds {
            paths: 1,
            bytes: 100,
        };
        let told = differing(&deep, &json!({ "d": { "d": 2 } }), bounds);
        assert_eq!(told, ["d.d"]);
        let text = deep.to_string().replace('1', "2");
        let other: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(differing(&deep, &other, bounds)[0].len(), 2 * DEPTH - 1);
    }

    #[test]
    fn what_is_disregarded_may_be_missing() {
        let ignored: Vec<Path> = ["at", "items.*.id"].map(|p| p.parse().unwrap()).to_vec();
        let mut one = json!({ "at": 1, "items": [{ "id": 1, "n": 2 }] });
        let mut other = json!({ "items": [{ "id": 2, "n": 2 }] });
        disregard(&mut one, &mut other, &ignored);
        assert_eq!(paths(&one, &other), Vec::<String>::new());
    }
}
