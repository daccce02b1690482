//! Edits of a JSON document: members added, taken away, renamed, by their paths.

use serde_json::{Map, Value};

/// Members that a path goes through at most.
const DEPTH: usize = 16;

/// A path such as `user.address.city`, and `items.*.price` for a member of every item of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    Each,
}

/// Why a text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path such as `user.address.city` or `items.*.price`")]
pub struct PathError;

impl std::str::FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let mut steps = Vec::new();
        for part in text.split('.') {
            steps.push(match part {
                "" => return Err(PathError),
                "*" => Step::Each,
                name => Step::Member(name.to_owned()),
            });
        }
        if steps.len() > DEPTH {
            return Err(PathError);
        }
        Ok(Self(steps))
    }
}

impl Path {
    /// Whether it ends in a member, which can be renamed.
    #[must_use]
    pub fn ends_in_member(&self) -> bool {
        matches!(self.0.last(), Some(Step::Member(_)))
    }

    /// Sets what is there, making objects on the way where nothing is.
    pub fn set(&self, document: &mut Value, value: &Value) {
        set(document, &self.0, value);
    }

    /// Takes away what is there.
    pub fn remove(&self, document: &mut Value) {
        visit(document, &self.0, &mut |members, name| {
            members.remove(name);
        });
    }

    /// Gives a member another name beside it, in place of one that has that name.
    pub fn rename(&self, document: &mut Value, to: &str) {
        visit(document, &self.0, &mut |members, name| {
            if let Some(value) = members.remove(name) {
                members.insert(to.to_owned(), value);
            }
        });
    }
}

fn set(at: &mut Value, steps: &[Step], value: &Value) {
    let Some((step, rest)) = steps.split_first() else {
        *at = value.clone();
        return;
    };
    match (step, at) {
        (Step::Each, Value::Array(items)) => {
            items.iter_mut().for_each(|item| set(item, rest, value));
        }
        (Step::Member(name), at) => {
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
            if let Value::Object(members) = at {
                // A list that is not there has no items to set anything in.
                if rest.first() != Some(&Step::Each) || members.contains_key(name) {
                    set(
                        members.entry(name.clone()).or_insert(Value::Null),
                        rest,
                        value,
                    );
                }
            }
        }
        (Step::Each, _) => {}
    }
}

fn visit(at: &mut Value, steps: &[Step], edit: &mut dyn FnMut(&mut Map<String, Value>, &str)) {
    match (steps, at) {
        ([Step::Member(name)], Value::Object(members)) => edit(members, name),
        ([Step::Member(name), rest @ ..], Value::Object(members)) => {
            if let Some(inner) = members.get_mut(name) {
                visit(inner, rest, edit);
            }
        }
        ([Step::Each, rest @ ..], Value::Array(items)) => {
            items.iter_mut().for_each(|item| visit(item, rest, edit));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    #[test]
    fn documents_are_edited_by_path() {
        let mut it =
            json!({ "a": { "b": 1, "c": 2 }, "l": [{ "x": 1, "y": 2 }, { "x": 3 }, 4], "s": "t" });
        path("a.b").remove(&mut it);
        path("l.*.x").remove(&mut it);
        path("l.*.y").rename(&mut it, "z");
        path("a.c").rename(&mut it, "d");
        path("n.m").set(&mut it, &json!(5));
        path("l.*.n").set(&mut it, &json!(true));
        path("s.deep").set(&mut it, &json!(1));
        path("none.*.x").set(&mut it, &json!(1));
        path("none.x").remove(&mut it);
        assert_eq!(
            it,
            json!({ "a": { "d": 2 }, "l": [{ "z": 2, "n": true }, { "n": true }, 4], "s": "t", "n": { "m": 5 } })
        );
        let mut list = json!([1]);
        path("a").set(&mut list, &json!(1));
        assert_eq!(list, json!([1]));
    }

    #[test]
    fn what_is_no_path() {
        for text in ["", ".", "a.", "a..b", &"a.".repeat(20)] {
            assert_eq!(text.parse::<Path>(), Err(PathError), "{text}");
        }
        assert!(path("a.*.b").ends_in_member() && !path("a.*").ends_in_member());
    }
}
