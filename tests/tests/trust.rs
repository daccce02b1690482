//! The mesh's roots in a ConfigMap of every namespace, whatever one of them does.

use selvedge_tests::KubeApi;
use selvedge_tests::control_plane::{ClusterCa, until};
use serde_json::{Value, json};

fn namespace(api: &KubeApi, name: &str) {
    api.put(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }));
}

fn roots(api: &KubeApi, namespace: &str) -> Option<String> {
    let map = api.find("configmaps", namespace, "selvedge-trust")?;
    map["data"]["ca.pem"].as_str().map(str::to_owned)
}

#[test]
fn one_namespace_that_refuses_the_roots_keeps_them_from_nobody_else() {
    let api = KubeApi::start();
    for name in ["aaa", "bbb", "kube-system", "selvedge-system"] {
        namespace(&api, name);
    }
    // The first in order, where somebody has seen to it that nothing can be changed.
    api.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "selvedge-trust", "namespace": "aaa" },
        "data": { "ca.pem": "forged" }, "immutable": true,
    }));
    let _ca = ClusterCa::start(&api);
    for name in ["bbb", "kube-system", "selvedge-system", "default"] {
        until(name, || roots(&api, name));
    }
    // It gets them once nothing is in the way.
    assert_eq!(roots(&api, "aaa").unwrap(), "forged");
    api.delete("configmaps", "aaa", "selvedge-trust");
    until("aaa", || roots(&api, "aaa"));
    // A namespace that comes later has them too, and what somebody writes there is put right.
    namespace(&api, "late");
    let right = until("late", || roots(&api, "late"));
    assert!(right.starts_with("-----BEGIN CERTIFICATE-----"));
    api.edit("configmaps", "late", "selvedge-trust", |map: &mut Value| {
        map["data"]["ca.pem"] = json!("forged");
    });
    until("put right", || {
        roots(&api, "late").filter(|text| *text == right)
    });
    api.delete("configmaps", "late", "selvedge-trust");
    until("there again", || {
        roots(&api, "late").filter(|text| *text == right)
    });
}
