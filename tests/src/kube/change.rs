//! Test API server: requests that write.

use serde_json::{Value, json};

use super::Shared;
use super::answer::Asked;
use super::body::{self, Response};
use super::kinds::Kind;
use super::owners;
use super::refusal::{Answer, Refusal};
use super::store::Store;

/// Carries one out.
pub(super) fn change(shared: &Shared, asked: &Asked, verb: &str, bytes: &[u8]) -> Answer<Response> {
    let mut store = shared.store.lock().unwrap();
    let (code, object) = match verb {
        "create" if !asked.kind.stored => return review(shared, asked, bytes),
        "create" => (201, create(&mut store, asked, bytes)?),
        "update" => (200, update(&mut store, asked, bytes)?),
        "patch" => patch(&mut store, asked, bytes)?,
        _ => (200, delete(&mut store, asked, bytes)?),
    };
    let version = store.version();
    drop(store);
    shared.version.send_replace(version);
    Ok(body::json(code, &asked.form.of(&object)))
}

fn review(shared: &Shared, asked: &Asked, bytes: &[u8]) -> Answer<Response> {
    let review = object(asked, bytes)?;
    let access = shared.access.lock().unwrap();
    let answer = match asked.kind.plural {
        "tokenreviews" => access.review_token(&review)?,
        _ => access.review_access(&asked.user, &review)?,
    };
    Ok(body::json(201, &answer))
}

/// The object in a body, held against where it was sent to.
fn object(asked: &Asked, bytes: &[u8]) -> Answer<Value> {
    let kind = asked.kind;
    let media = asked
        .content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if !["application/json", "application/yaml"].contains(&media) {
        let why = format!(
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml: {media:?}"
        );
        return Err(Refusal::new(415, "UnsupportedMediaType", why));
    }
    let read = read(bytes)?;
    said_where_it_is(asked, read, kind)
}

fn read(bytes: &[u8]) -> Answer<Value> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let text = std::str::from_utf8(bytes).map_err(|e| Refusal::bad(e.to_string()))?;
    serde_saphyr::from_str(text).map_err(|e| Refusal::bad(format!("error decoding body: {e}")))
}

fn said_where_it_is(asked: &Asked, mut object: Value, kind: &Kind) -> Answer<Value> {
    if object["kind"] != kind.name || object["apiVersion"] != json!(kind.api_version()) {
        let why = format!(
            "{} in version {} cannot be handled as a {}: strict decoding error",
            object["kind"], object["apiVersion"], kind.name
        );
        return Err(Refusal::bad(why));
    }
    let said = |object: &Value, field: &str| object["metadata"][field].as_str().map(str::to_owned);
    if let Some(namespace) = &asked.namespace {
        match said(&object, "namespace") {
            None => object["metadata"]["namespace"] = json!(namespace),
            Some(other) if other == *namespace => {}
            Some(_) => {
                return Err(Refusal::bad(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
    }
    if let Some(name) = &asked.name {
        match said(&object, "name") {
            None => object["metadata"]["name"] = json!(name),
            Some(other) if other == *name => {}
            Some(other) => {
                let why = format!(
                    "the name of the object ({other}) does not match the name on the URL ({name})"
                );
                return Err(Refusal::bad(why));
            }
        }
    }
    Ok(object)
}

fn names(asked: &Asked) -> (&str, &str) {
    let namespace = asked.namespace.as_deref().unwrap_or_default();
    (namespace, asked.name.as_deref().unwrap_or_default())
}

fn create(store: &mut Store, asked: &Asked, bytes: &[u8]) -> Answer<Value> {
    let mut object = object(asked, bytes)?;
    let kind = asked.kind;
    if object["metadata"]["name"].is_null()
        && let Some(prefix) = object["metadata"]["generateName"].as_str()
    {
        object["metadata"]["name"] = json!(format!("{prefix}{:05}", store.version() % 100_000));
    }
    if !object["metadata"]["resourceVersion"]
        .as_str()
        .is_none_or(str::is_empty)
    {
        return Err(Refusal::bad(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    in_a_namespace(store, asked)?;
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let namespace = asked.namespace.as_deref().unwrap_or_default();
    if store.object(kind, namespace, &name).is_some() {
        let why = format!("{} \"{name}\" already exists", kind.plural);
        return Err(Refusal::new(409, "AlreadyExists", why));
    }
    kind.check(&object, None)?;
    owners::written(kind, None, &mut object, &asked.manager());
    Ok((*store.write(kind, object)).clone())
}

fn in_a_namespace(store: &Store, asked: &Asked) -> Answer<()> {
    let namespaces = Kind::called("namespaces");
    match &asked.namespace {
        Some(name) if store.object(namespaces, "", name).is_none() => {
            Err(Refusal::not_found("namespaces", name))
        }
        _ => Ok(()),
    }
}

fn there(store: &Store, asked: &Asked) -> Answer<Value> {
    let (namespace, name) = names(asked);
    let found = store.object(asked.kind, namespace, name);
    let found = found.ok_or_else(|| Refusal::not_found(asked.kind.plural, name))?;
    Ok((**found).clone())
}

fn update(store: &mut Store, asked: &Asked, bytes: &[u8]) -> Answer<Value> {
    let object = object(asked, bytes)?;
    let before = there(store, asked)?;
    finish(store, asked, &before, object)
}

/// Writes what an object becomes in place of what it was.
fn finish(store: &mut Store, asked: &Asked, before: &Value, mut after: Value) -> Answer<Value> {
    let (kind, name) = (asked.kind, names(asked).1);
    let meta = &after["metadata"];
    let stale = |field: &str| {
        let said = meta[field].as_str().unwrap_or_default();
        !said.is_empty() && before["metadata"][field] != said
    };
    if stale("resourceVersion") {
        return Err(Refusal::stale(kind.plural, name));
    }
    if stale("uid") {
        let why = "Precondition failed: UID in precondition and UID in object meta differ";
        return Err(Refusal::conflict(kind.plural, name, why));
    }
    kept(asked, before, &mut after);
    kind.check(&after, Some(before))?;
    let applied = asked.content_type.starts_with("application/apply-patch");
    if !applied {
        owners::written(kind, Some(before), &mut after, &asked.manager());
    }
    let finalizers = after["metadata"]["finalizers"]
        .as_array()
        .map_or(0, Vec::len);
    if finalizers == 0 && !after["metadata"]["deletionTimestamp"].is_null() {
        store.remove(kind, names(asked).0, name);
        return Ok(after);
    }
    Ok((*store.write(kind, after)).clone())
}

/// What a write does not change: what the server keeps, and the half that it is not for.
fn kept(asked: &Asked, before: &Value, after: &mut Value) {
    let mut keep = vec![
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "resourceVersion",
    ];
    if !asked.content_type.starts_with("application/apply-patch") {
        keep.push("managedFields");
    }
    if let Some(sub) = &asked.sub {
        let own = after[sub].clone();
        let metadata = after["metadata"]["managedFields"].clone();
        *after = before.clone();
        after[sub] = own;
        after["metadata"]["managedFields"] = metadata;
    } else if asked.kind.status {
        after["status"] = before["status"].clone();
    }
    for field in keep {
        after["metadata"][field] = before["metadata"][field].clone();
    }
    if asked.kind.plural == "services" && after["spec"]["clusterIP"].is_null() {
        after["spec"]["clusterIP"] = before["spec"]["clusterIP"].clone();
        after["spec"]["clusterIPs"] = before["spec"]["clusterIPs"].clone();
    }
    if let Some(count) = before["metadata"]["generation"].as_u64() {
        let told = |object: &Value| {
            let mut object = object.clone();
            object["metadata"] = Value::Null;
            object["status"] = Value::Null;
            object
        };
        if told(before) != told(after) {
            after["metadata"]["generation"] = json!(count + 1);
        }
    }
    strip_nulls(after);
}

/// Fields that are not there, instead of ones that are null.
fn strip_nulls(object: &mut Value) {
    for part in [Some("metadata"), None] {
        let at = match part {
            Some(name) => &mut object[name],
            None => &mut *object,
        };
        if let Some(fields) = at.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
    }
}

fn patch(store: &mut Store, asked: &Asked, bytes: &[u8]) -> Answer<(u16, Value)> {
    let media = asked
        .content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    let read_json =
        || serde_json::from_slice::<Value>(bytes).map_err(|e| Refusal::bad(e.to_string()));
    match media {
        "application/apply-patch+yaml" => apply(store, asked, bytes),
        "application/merge-patch+json" => {
            let (change, before) = (read_json()?, there(store, asked)?);
            let mut after = before.clone();
            json_patch::merge(&mut after, &change);
            // Only what the patch itself says is held against the object.
            after["metadata"]["resourceVersion"] = change["metadata"]["resourceVersion"].clone();
            let after = said_where_it_is(asked, after, asked.kind)?;
            finish(store, asked, &before, after).map(|object| (200, object))
        }
        "application/json-patch+json" => {
            let change: json_patch::Patch =
                serde_json::from_value(read_json()?).map_err(|e| Refusal::bad(e.to_string()))?;
            let before = there(store, asked)?;
            let mut after = before.clone();
            json_patch::patch(&mut after, &change).map_err(|e| {
                Refusal::new(
                    422,
                    "Invalid",
                    format!("the server rejected our request due to an error in our request: {e}"),
                )
            })?;
            let after = said_where_it_is(asked, after, asked.kind)?;
            finish(store, asked, &before, after).map(|object| (200, object))
        }
        other => {
            let why = format!(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml: {other:?}"
            );
            Err(Refusal::new(415, "UnsupportedMediaType", why))
        }
    }
}

fn apply(store: &mut Store, asked: &Asked, bytes: &[u8]) -> Answer<(u16, Value)> {
    let Some(manager) = asked.query("fieldManager").filter(|m| !m.is_empty()) else {
        let found = [(
            "fieldManager",
            "Required value: is required for apply patch".to_owned(),
        )];
        return Err(Refusal::invalid("PatchOptions.meta.k8s.io", "", &found));
    };
    let wanted = said_where_it_is(asked, read(bytes)?, asked.kind)?;
    if !wanted["metadata"]["managedFields"].is_null() {
        return Err(Refusal::bad("metadata.managedFields must be nil"));
    }
    let before = there(store, asked).ok();
    let force = asked.flag("force");
    let mut after = owners::applied(asked.kind, before.as_ref(), &wanted, manager, force)?;
    match before {
        Some(before) => {
            after["metadata"]["resourceVersion"] = wanted["metadata"]["resourceVersion"].clone();
            finish(store, asked, &before, after).map(|object| (200, object))
        }
        None if asked.sub.is_some() => Err(Refusal::not_found(asked.kind.plural, names(asked).1)),
        None => {
            in_a_namespace(store, asked)?;
            asked.kind.check(&after, None)?;
            Ok((201, (*store.write(asked.kind, after)).clone()))
        }
    }
}

fn delete(store: &mut Store, asked: &Asked, bytes: &[u8]) -> Answer<Value> {
    let (namespace, name) = names(asked);
    let mut before = there(store, asked)?;
    let options = if bytes.is_empty() {
        Value::Null
    } else {
        read(bytes)?
    };
    for (field, what) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
        let wanted = &options["preconditions"][field];
        if !wanted.is_null() && *wanted != before["metadata"][field] {
            let why = format!(
                "Precondition failed: {what} in precondition and {what} in object meta differ"
            );
            return Err(Refusal::conflict(asked.kind.plural, name, &why));
        }
    }
    let uid = before["metadata"]["uid"].clone();
    if before["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|f| !f.is_empty())
    {
        if before["metadata"]["deletionTimestamp"].is_null() {
            let now = jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string();
            before["metadata"]["deletionTimestamp"] = json!(now);
        }
        return Ok((*store.write(asked.kind, before)).clone());
    }
    store.remove(asked.kind, namespace, name);
    Ok(json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": { "name": name, "kind": asked.kind.plural, "uid": uid },
    }))
}
