//! Injector: what has changed in a pod, as a JSON patch (RFC 6902) that applies.

use json_patch::Patch;
use serde_json::{Value, json};

/// The patch that makes `after` of `before`; `None`: nothing has changed.
///
/// A patch that does not apply fails the pod whatever the webhook's failure policy is. So it is tried
/// here, where the object is the very one that the API server holds; should the difference ever be
/// wrong, whole members are replaced instead.
pub(super) fn between(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    let difference = json_patch::diff(before, after);
    let written = serde_json::to_value(&difference).unwrap_or_default();
    let whole = || json!([{ "op": "replace", "path": "", "value": after }]);
    Some(if leads_to(&difference, before, after) {
        written
    } else {
        whole()
    })
}

fn leads_to(patch: &Patch, before: &Value, after: &Value) -> bool {
    let mut tried = before.clone();
    json_patch::patch(&mut tried, patch).is_ok() && tried == *after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_leads_from_one_to_the_other() {
        let pods = [
            json!({ "spec": { "containers": [{ "name": "a" }] } }),
            json!({ "metadata": { "annotations": { "a/b~c": "1", "": "2" } }, "spec": { "containers": [] } }),
            json!({ "metadata": null, "spec": { "containers": [{ "name": "b" }, { "name": "a" }], "x": [1, [2]] } }),
            json!({ "spec": { "containers": [{ "name": "z", "env": [] }, {}, {}], "initContainers": [{}] } }),
        ];
        for before in &pods {
            for after in &pods {
                match between(before, after) {
                    None => assert_eq!(before, after),
                    Some(patch) => {
                        let patch: Patch = serde_json::from_value(patch).unwrap();
                        assert!(leads_to(&patch, before, after), "{before} {after}");
                        assert!(!patch.0.is_empty());
                    }
                }
            }
        }
    }

    #[test]
    fn a_wrong_difference_is_seen() {
        let wrong: Patch =
            serde_json::from_value(json!([{ "op": "add", "path": "/a/b", "value": 1 }])).unwrap();
        assert!(!leads_to(&wrong, &json!({}), &json!({ "a": { "b": 1 } })));
        let other: Patch =
            serde_json::from_value(json!([{ "op": "add", "path": "/a", "value": 1 }])).unwrap();
        assert!(!leads_to(&other, &json!({}), &json!({ "a": 2 })));
    }
}
