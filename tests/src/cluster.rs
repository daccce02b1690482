//! Objects of a cluster, as short as they can be said.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// A service of a namespace, whose ports are these: name and number.
#[must_use]
pub fn service(namespace: &str, name: &str, ports: &[(&str, u16)]) -> Value {
    let ports = ports
        .iter()
        .map(|(name, port)| json!({ "name": name, "port": port }));
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "selector": { "app": name }, "ports": ports.collect::<Vec<_>>() },
    })
}

/// The same without an address of its own.
#[must_use]
pub fn headless(namespace: &str, name: &str, ports: &[(&str, u16)]) -> Value {
    let mut service = service(namespace, name, ports);
    service["spec"]["clusterIP"] = json!("None");
    service
}

/// A slice of a service, with these endpoints at this port.
#[must_use]
pub fn slice(service: &Value, name: &str, port: u16, endpoints: &[Value]) -> Value {
    let metadata = &service["metadata"];
    let own = metadata["name"].as_str().unwrap();
    let ports = service["spec"]["ports"].as_array().unwrap();
    let ports = ports
        .iter()
        .map(|p| json!({ "name": p["name"], "port": port, "protocol": "TCP" }));
    let v6 = endpoints
        .iter()
        .any(|e| e["addresses"][0].as_str().unwrap().contains(':'));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{own}-{name}"), "namespace": metadata["namespace"],
            "labels": { "kubernetes.io/service-name": own },
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": endpoints,
    })
}

/// A slice with one endpoint, which is ready.
#[must_use]
pub fn slice_at(service: &Value, name: &str, address: SocketAddr) -> Value {
    slice(
        service,
        name,
        address.port(),
        &[ready(&address.ip().to_string())],
    )
}

/// An endpoint that is ready.
#[must_use]
pub fn ready(address: &str) -> Value {
    json!({ "addresses": [address], "conditions": { "ready": true, "serving": true, "terminating": false } })
}

/// An endpoint that is this pod.
#[must_use]
pub fn ready_pod(address: &str, pod: &Value) -> Value {
    let mut endpoint = ready(address);
    let metadata = &pod["metadata"];
    endpoint["targetRef"] = json!({
        "kind": "Pod", "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
    });
    endpoint
}

/// A pod of an application with an account, in the mesh or not, with all that a real one is full of.
#[must_use]
pub fn pod(namespace: &str, app: &str, name: &str, account: &str, meshed: bool) -> Value {
    let env: Vec<_> = (0..20)
        .map(|n| json!({ "name": format!("SETTING_{n}"), "value": "x".repeat(40) }))
        .collect();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "labels": { "app": app },
            "annotations": { "example.com/note": "y".repeat(200) },
        },
        "spec": {
            "serviceAccountName": account,
            "containers": [{ "name": "app", "image": "app:1", "env": env }],
        },
        "status": { "phase": "Running" },
    });
    if meshed {
        pod["metadata"]["annotations"]["selvedge.dev/status"] = json!("{}");
        pod["spec"]["initContainers"] =
            json!([{ "name": "selvedge-proxy", "image": "selvedge:1" }]);
    }
    pod
}
