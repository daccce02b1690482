//! Test API server: which manager owns which field, and what follows for server-side apply.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::kinds::Kind;
use super::refusal::{Answer, Refusal};

/// Steps to a field, each as `fieldsV1` writes it: `f:name`, or `k:{"name":"x"}` for what has a key.
type Path = Vec<String>;

/// What one manager owns by one way of writing.
#[derive(Debug, Clone)]
struct Owner {
    manager: String,
    operation: String,
    time: Value,
    fields: BTreeSet<Path>,
}

/// Fields that nobody owns.
const NOBODYS: [&str; 7] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
];

/// Keys of lists that are maps in truth.
fn keys_of(kind: &Kind, list: &str) -> &'static [&'static str] {
    match (kind.plural, list) {
        ("mutatingwebhookconfigurations", "webhooks")
        | ("pods", "containers" | "initContainers" | "volumes") => &["name"],
        ("services", "ports") => &["port", "protocol"],
        (_, "conditions") => &["type"],
        (_, "ownerReferences") => &["uid"],
        _ => &[],
    }
}

fn key_of(keys: &[&str], item: &Value) -> Option<String> {
    let pair = |key: &&str| {
        let given = item.get(*key).cloned();
        let value = given.or_else(|| (*key == "protocol").then(|| json!("TCP")));
        Some(((*key).to_owned(), value?))
    };
    let key: Option<Map<String, Value>> = keys.iter().map(pair).collect();
    Some(format!("k:{}", Value::Object(key?)))
}

/// Every field with a value.
fn leaves(kind: &Kind, object: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    let Value::Object(fields) = object else {
        return found;
    };
    for (name, value) in fields {
        if name == "apiVersion" || name == "kind" {
            continue;
        }
        collect(
            kind,
            name,
            value,
            &mut vec![format!("f:{name}")],
            &mut found,
        );
    }
    found.retain(|path| {
        path[0] != "f:metadata"
            || path.len() < 2
            || !NOBODYS.iter().any(|n| path[1] == format!("f:{n}"))
    });
    found
}

fn collect(kind: &Kind, name: &str, value: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                path.push(format!("f:{name}"));
                collect(kind, name, value, path, found);
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() && !keys_of(kind, name).is_empty() => {
            for item in items {
                let Some(key) = key_of(keys_of(kind, name), item) else {
                    found.insert(path.clone());
                    return;
                };
                path.push(key);
                collect(kind, "", item, path, found);
                path.pop();
            }
        }
        _ => {
            found.insert(path.clone());
        }
    }
}

fn has_key(item: &Value, key: &str) -> bool {
    let wanted: Value = serde_json::from_str(&key[2..]).unwrap();
    let pairs = wanted.as_object().unwrap().iter();
    pairs.clone().all(|(name, value)| {
        item.get(name)
            .map_or(name == "protocol" && value == "TCP", |have| have == value)
    })
}

fn find<'v>(object: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter()
        .try_fold(object, |at, step| match step.strip_prefix("f:") {
            Some(name) => at.get(name),
            None => at.as_array()?.iter().find(|item| has_key(item, step)),
        })
}

fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((step, rest)) = path.split_first() else {
        *object = value;
        return;
    };
    if let Some(name) = step.strip_prefix("f:") {
        if !object.is_object() {
            *object = json!({});
        }
        set(&mut object[name], rest, value);
        return;
    }
    if !object.is_array() {
        *object = json!([]);
    }
    let items = object.as_array_mut().unwrap();
    let at = items.iter().position(|item| has_key(item, step));
    let at = at.unwrap_or_else(|| {
        items.push(serde_json::from_str(&step[2..]).unwrap());
        items.len() - 1
    });
    set(&mut items[at], rest, value);
}

fn remove(object: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else {
        return;
    };
    match (step.strip_prefix("f:"), object) {
        (Some(name), Value::Object(fields)) => {
            let Some(inner) = fields.get_mut(name) else {
                return;
            };
            remove(inner, rest);
            let empty = match inner {
                Value::Object(o) => o.is_empty(),
                Value::Array(a) => a.is_empty(),
                _ => false,
            };
            if rest.is_empty() || empty {
                fields.remove(name);
            }
        }
        (None, Value::Array(items)) => {
            let Some(at) = items.iter().position(|item| has_key(item, step)) else {
                return;
            };
            remove(&mut items[at], rest);
            let bare = items[at].as_object().is_none_or(|o| o.is_empty());
            if bare {
                items.remove(at);
            }
        }
        _ => {}
    }
}

fn read(object: &Value) -> Vec<Owner> {
    fn walk(fields: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
        let Some(inner) = fields.as_object().filter(|o| !o.is_empty()) else {
            found.insert(path.clone());
            return;
        };
        for (step, below) in inner {
            path.push(step.clone());
            walk(below, path, found);
            path.pop();
        }
    }
    let entries = object["metadata"]["managedFields"].as_array();
    let owner = |entry: &Value| {
        let mut fields = BTreeSet::new();
        walk(&entry["fieldsV1"], &mut Vec::new(), &mut fields);
        Owner {
            manager: entry["manager"].as_str().unwrap_or_default().to_owned(),
            operation: entry["operation"].as_str().unwrap_or_default().to_owned(),
            time: entry["time"].clone(),
            fields,
        }
    };
    entries.into_iter().flatten().map(owner).collect()
}

fn write(kind: &Kind, object: &mut Value, owners: &[Owner]) {
    let entry = |owner: &Owner| {
        let mut fields = json!({});
        for path in &owner.fields {
            let mut at = &mut fields;
            for step in path {
                if at.get(step).is_none() {
                    at[step] = json!({});
                }
                at = &mut at[step];
            }
        }
        json!({
            "manager": owner.manager, "operation": owner.operation, "apiVersion": kind.api_version(),
            "time": owner.time, "fieldsType": "FieldsV1", "fieldsV1": fields,
        })
    };
    let kept = owners.iter().filter(|owner| !owner.fields.is_empty());
    object["metadata"]["managedFields"] = kept.map(entry).collect();
}

fn now() -> Value {
    json!(
        jiff::Timestamp::now()
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string()
    )
}

fn entry_of<'o>(owners: &'o mut Vec<Owner>, manager: &str, operation: &str) -> &'o mut Owner {
    let same = |o: &Owner| o.manager == manager && o.operation == operation;
    let at = owners.iter().position(same).unwrap_or_else(|| {
        owners.push(Owner {
            manager: manager.to_owned(),
            operation: operation.to_owned(),
            time: now(),
            fields: BTreeSet::new(),
        });
        owners.len() - 1
    });
    &mut owners[at]
}

/// Whoever writes an object as a whole owns what it changes.
pub(super) fn written(kind: &Kind, before: Option<&Value>, after: &mut Value, manager: &str) {
    let mut owners = before.map(read).unwrap_or_default();
    let (old, new) = (
        before.map(|b| leaves(kind, b)).unwrap_or_default(),
        leaves(kind, after),
    );
    let value = |path: &Path| before.and_then(|b| find(b, path));
    let changed: BTreeSet<Path> = new
        .iter()
        .filter(|p| value(p) != find(after, p))
        .cloned()
        .collect();
    let gone: BTreeSet<Path> = old.difference(&new).cloned().collect();
    for owner in &mut owners {
        owner
            .fields
            .retain(|path| !changed.contains(path) && !gone.contains(path));
    }
    if !changed.is_empty() {
        let own = entry_of(&mut owners, manager, "Update");
        own.fields.extend(changed);
        own.time = now();
    }
    write(kind, after, &owners);
}

/// Server-side apply: the object as it becomes.
pub(super) fn applied(
    kind: &Kind,
    live: Option<&Value>,
    wanted: &Value,
    manager: &str,
    force: bool,
) -> Answer<Value> {
    let mut object = live.cloned().unwrap_or_else(|| {
        let named = &wanted["metadata"];
        let mut object = json!({ "apiVersion": kind.api_version(), "kind": kind.name, "metadata": { "name": named["name"] } });
        if kind.namespaced {
            object["metadata"]["namespace"] = named["namespace"].clone();
        }
        object
    });
    let mut owners = read(&object);
    let fields = leaves(kind, wanted);
    let touch = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
    let is_own = |o: &Owner| o.manager == manager && o.operation == "Apply";
    let mut conflicts = Vec::new();
    for path in &fields {
        if find(&object, path) == find(wanted, path) {
            continue;
        }
        for owner in owners.iter_mut().filter(|o| !is_own(o)) {
            if owner.fields.iter().any(|theirs| touch(theirs, path)) {
                conflicts.push((owner.manager.clone(), path.clone()));
                if force {
                    owner.fields.retain(|theirs| !touch(theirs, path));
                }
            }
        }
    }
    if !conflicts.is_empty() && !force {
        let count = conflicts.len();
        let said = conflicts
            .iter()
            .map(|(who, path)| format!("conflict with {who:?}: {}", dotted(path)));
        let message = format!(
            "Apply failed with {count} conflicts: {}",
            said.collect::<Vec<_>>().join(", ")
        );
        let mut refusal = Refusal::new(409, "Conflict", message);
        let cause = |(who, path): &(String, Path)| {
            (
                "FieldManagerConflict",
                format!("conflict with {who:?}"),
                dotted(path),
            )
        };
        refusal.causes = conflicts.iter().map(cause).collect();
        return Err(refusal);
    }
    let had = std::mem::take(&mut entry_of(&mut owners, manager, "Apply").fields);
    for path in had.difference(&fields) {
        if !owners
            .iter()
            .any(|o| o.fields.iter().any(|theirs| touch(theirs, path)))
        {
            remove(&mut object, path);
        }
    }
    for path in &fields {
        if let Some(value) = find(wanted, path) {
            set(&mut object, path, value.clone());
        }
    }
    let same =
        had == fields && live.is_some_and(|l| fields.iter().all(|p| find(l, p) == find(wanted, p)));
    let own = entry_of(&mut owners, manager, "Apply");
    own.fields = fields;
    if !same {
        own.time = now();
    }
    write(kind, &mut object, &owners);
    Ok(object)
}

fn dotted(path: &Path) -> String {
    let step = |step: &String| match step.strip_prefix("f:") {
        Some(name) => format!(".{name}"),
        None => {
            let key: Value = serde_json::from_str(&step[2..]).unwrap();
            let pairs = key
                .as_object()
                .unwrap()
                .iter()
                .map(|(n, v)| format!("{n}={v}"));
            format!("[{}]", pairs.collect::<Vec<_>>().join(","))
        }
    };
    path.iter().map(step).collect()
}
