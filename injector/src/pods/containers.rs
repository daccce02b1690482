//! Injector: the containers and volumes that a pod gets.

use serde_json::{Map, Value, json};

use super::decide::{PROXY, REDIRECT};
use super::options::Options;
use super::settings::Settings;
use super::socket;

/// Volume with the sidecar's configuration.
pub const CONFIG: &str = "selvedge-config";
/// Volume with the token by which it proves who it is.
pub const TOKEN: &str = "selvedge-token";
/// Volume with the roots of the mesh.
pub const TRUST: &str = "selvedge-trust";
/// Volume with what the Kubernetes API asks for: the pod's own may be switched off.
pub const API: &str = "selvedge-api";
/// Every volume of ours.
pub const VOLUMES: [&str; 5] = [CONFIG, TOKEN, TRUST, API, socket::VOLUME];
/// Where these are.
const CONFIG_DIR: &str = "/etc/selvedge";
const TOKEN_DIR: &str = "/var/run/secrets/selvedge";
const TRUST_DIR: &str = "/var/run/selvedge/trust";
/// Where the token for the API is, `token`, with its CA, `ca.crt`, and the pod's `namespace`.
pub const API_DIR: &str = "/var/run/secrets/selvedge-api";
/// Port of the sidecar for health, metrics and the application's probes.
pub const HEALTH: u16 = 15020;
/// Seconds that a sidecar may take to start.
const START: u32 = 120;

/// Files that its configuration names.
#[must_use]
pub fn files() -> (String, String) {
    (format!("{TOKEN_DIR}/token"), format!("{TRUST_DIR}/ca.pem"))
}

/// The sidecar. `gates` is the application's first container.
pub(super) fn proxy(settings: &Settings, options: &Options, gates: Option<&str>) -> Value {
    let ready = json!({ "path": "/ready", "port": HEALTH });
    let mut proxy = json!({
        "name": PROXY,
        "image": options.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": ["sidecar", "--config", format!("{CONFIG_DIR}/sidecar.yaml"), "--log", options.log],
        "ports": [{ "name": "mesh-health", "containerPort": HEALTH, "protocol": "TCP" }],
        "env": environment(),
        "readinessProbe": { "httpGet": ready, "periodSeconds": 2, "failureThreshold": 15 },
        "resources": resources(&options.resources),
        "securityContext": restricted(settings.uid),
        "volumeMounts": [
            { "name": CONFIG, "mountPath": CONFIG_DIR, "readOnly": true },
            { "name": TOKEN, "mountPath": TOKEN_DIR, "readOnly": true },
            { "name": TRUST, "mountPath": TRUST_DIR, "readOnly": true },
            { "name": API, "mountPath": API_DIR, "readOnly": true },
        ],
    });
    if options.workload_api {
        push(&mut proxy, "volumeMounts", socket::mount());
    }
    if options.native {
        put(&mut proxy, "restartPolicy", json!("Always"));
        // What comes after it starts when this has been met.
        let startup = json!({ "httpGet": ready, "periodSeconds": 1, "failureThreshold": START });
        put(&mut proxy, "startupProbe", startup);
    } else if options.hold && gates.is_some() {
        // Containers start one after the other, each when the hook of the one before has ended.
        let wait =
            json!({ "exec": { "command": ["/selvedge", "ready", "--wait", format!("{START}s")] } });
        put(&mut proxy, "lifecycle", json!({ "postStart": wait }));
    }
    proxy
}

/// The init container that writes the rules.
pub(super) fn redirect(settings: &Settings, options: &Options) -> Value {
    let mut args = vec![
        "redirect".to_owned(),
        "--proxy-uid".to_owned(),
        settings.uid.to_string(),
        "--proxy-gid".to_owned(),
        settings.uid.to_string(),
    ];
    for (flag, list) in [
        ("--skip-inbound-ports", &options.skip_inbound),
        ("--skip-outbound-ports", &options.skip_outbound),
        ("--skip-outbound-cidrs", &options.skip_cidrs),
    ] {
        if !list.is_empty() {
            args.extend([flag.to_owned(), list.join(",")]);
        }
    }
    json!({
        "name": REDIRECT,
        "image": options.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": args,
        // The sidecar's: quotas and classes of service go by the least of a pod's containers.
        "resources": resources(&options.resources),
        // The one container that may write rules, and nothing else.
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"] },
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
    })
}

/// What pods under the profile `restricted` of pod security may do.
fn restricted(uid: u32) -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": uid,
        "runAsNonRoot": true,
        "runAsUser": uid,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// Who it is, for its log and its spans.
fn environment() -> Value {
    // The allocator's own: where the system gives huge pages unasked, half of them stay empty.
    let plain = json!({ "name": "MIMALLOC_ALLOW_THP", "value": "0" });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    json!([
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IP", "status.podIP"),
        field("NODE_NAME", "spec.nodeName"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        plain,
    ])
}

fn resources(amounts: &[Option<String>; 4]) -> Value {
    let [cpu, cpu_limit, memory, memory_limit] = amounts;
    let of = |cpu: &Option<String>, memory: &Option<String>| {
        let mut map = Map::new();
        for (name, amount) in [("cpu", cpu), ("memory", memory)] {
            if let Some(amount) = amount {
                map.insert(name.to_owned(), amount.clone().into());
            }
        }
        map
    };
    let mut all = Map::new();
    for (name, map) in [
        ("requests", of(cpu, memory)),
        ("limits", of(cpu_limit, memory_limit)),
    ] {
        if !map.is_empty() {
            all.insert(name.to_owned(), map.into());
        }
    }
    all.into()
}

/// Configuration, token, roots, the way to the API, and the socket for the application.
pub(super) fn volumes(settings: &Settings, options: &Options) -> Vec<Value> {
    let mut volumes = vec![
        json!({
            "name": CONFIG,
            "downwardAPI": { "items": [{
                "path": "sidecar.yaml",
                "fieldRef": { "fieldPath": "metadata.annotations['selvedge.dev/config']" },
            }] },
        }),
        json!({
            "name": TOKEN,
            "projected": { "sources": [{ "serviceAccountToken": {
                "audience": settings.audience,
                "expirationSeconds": settings.token_seconds,
                "path": "token",
            } }] },
        }),
        json!({ "name": TRUST, "configMap": { "name": settings.trust } }),
        json!({
            "name": API,
            "projected": { "sources": [
                { "serviceAccountToken": { "path": "token" } },
                { "configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{ "key": "ca.crt", "path": "ca.crt" }],
                } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "fieldPath": "metadata.namespace" },
                }] } },
            ] },
        }),
    ];
    if options.workload_api {
        volumes.push(socket::volume());
    }
    volumes
}

/// Adds to a list in an object, which is made where there is none.
pub(super) fn push(container: &mut Value, key: &str, item: Value) {
    if let Value::Object(map) = container {
        match map.entry(key).or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(item),
            other => *other = json!([item]),
        }
    }
}

/// Takes these from a list in an object, and the list where nothing is left of it.
pub(super) fn take(container: &mut Value, key: &str, these: impl Fn(&Value) -> bool) {
    let emptied = match container.get_mut(key) {
        Some(Value::Array(list)) => {
            let before = list.len();
            list.retain(|item| !these(item));
            list.is_empty() && before > 0
        }
        _ => false,
    };
    if emptied {
        remove(container, key);
    }
}

fn put(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(map) = object {
        map.insert(key.to_owned(), value);
    }
}

/// Takes a member away.
pub(super) fn remove(object: &mut Value, key: &str) {
    if let Value::Object(map) = object {
        map.remove(key);
    }
}
