//! Injector: what has changed in a pod, as a JSON patch (RFC 6902) that applies.

use json_patch::{Patch, PatchOperation, ReplaceOperation};
use serde_json::Value;

/// The patch that makes `after` of `before`; `None`: nothing has changed.
///
/// A patch that does not apply fails the pod whatever the webhook's failure policy is. So it is tried
/// here, where the object is the very one that the API server holds; should the difference ever be
/// wrong, whole members are replaced instead.
pub(super) fn between(mut before: Value, after: Value) -> Option<Patch> {
    let difference = json_patch::diff(&before, &after);
    if difference.0.is_empty() {
        return None;
    }
    let applies = json_patch::patch(&mut before, &difference).is_ok();
    if applies && before == after {
        return Some(difference);
    }
    let path = json_patch::jsonptr::PointerBuf::root();
    let whole = ReplaceOperation { path, value: after };
    Some(Patch(vec![PatchOperation::Replace(whole)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
                match between(before.clone(), after.clone()) {
                    None => assert_eq!(before, after),
                    Some(patch) => {
                        let mut got = before.clone();
                        json_patch::patch(&mut got, &patch).unwrap();
                        assert_eq!(got, *after);
                        assert_ne!(patch.0.len(), 0);
                    }
                }
            }
        }
    }
}
