//! Injector: the socket on which a pod's application asks its sidecar for certificates and tokens: a volume that
//! both have, and where clients look for it.

use serde_json::{Map, Value, json};

use super::containers;
use super::pod::{Pod, name};

/// The volume.
pub const VOLUME: &str = "selvedge-socket";
/// Where it is, for the sidecar and for the application.
const DIR: &str = "/var/run/selvedge/workload";
/// Where clients look (SPIFFE Workload Endpoint, section 4).
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";
/// What a container was given: a mount, a variable.
const MOUNTS: &str = "volumeMounts";
const ENV: &str = "env";

/// What the sidecar's configuration says of it. Whoever has the volume may ask: containers of the pod that are
/// given it, of whatever user.
pub(super) fn configuration() -> Value {
    json!({ "socket": format!("{DIR}/api.sock"), "mode": "0666" })
}

/// The volume, which is gone with the pod.
pub(super) fn volume() -> Value {
    json!({ "name": VOLUME, "emptyDir": {} })
}

/// The volume in the sidecar.
pub(super) fn mount() -> Value {
    json!({ "name": VOLUME, "mountPath": DIR })
}

/// The volume in a container of the application's: nobody there can put another socket in its place.
fn given_mount() -> Value {
    json!({ "name": VOLUME, "mountPath": DIR, "readOnly": true })
}

fn address() -> String {
    format!("unix://{DIR}/api.sock")
}

/// Gives the socket to every container of the application's; gives what each was given. One that looks
/// elsewhere already goes on doing so.
pub(super) fn give(pod: &mut Pod) -> Map<String, Value> {
    let mut given = Map::new();
    for container in &mut pod.containers {
        containers::push(container, MOUNTS, given_mount());
        let mut ours = vec![MOUNTS];
        let env = container.get(ENV).and_then(Value::as_array);
        if !env.into_iter().flatten().any(|v| name(v) == VARIABLE) {
            containers::push(
                container,
                ENV,
                json!({ "name": VARIABLE, "value": address() }),
            );
            ours.push(ENV);
        }
        given.insert(name(container).to_owned(), json!(ours));
    }
    given
}

/// Takes back what was given, where it still is what it was.
pub(super) fn take(pod: &mut Pod, status: &Value) {
    for container in &mut pod.containers {
        let Some(given) = status
            .get("socket")
            .and_then(|all| all.get(name(container)))
        else {
            continue;
        };
        let given: Vec<String> = serde_json::from_value(given.clone()).unwrap_or_default();
        let said = |what: &str| given.iter().any(|given| given == what);
        if said(MOUNTS) {
            containers::take(container, MOUNTS, |item| *item == given_mount());
        }
        if said(ENV) {
            let ours = json!({ "name": VARIABLE, "value": address() });
            containers::take(container, ENV, |item| *item == ours);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::super::workload::{Outcome, configuration as sidecar, inject, uninject};
    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": { "annotations": { "selvedge.dev/workload-api": "true" } },
            "spec": {
                "containers": [
                    { "name": "app" },
                    { "name": "own", "env": [{ "name": VARIABLE, "value": "unix:///own" }],
                      "volumeMounts": [{ "name": "data", "mountPath": "/data" }] },
                ],
                "volumes": [{ "name": "data", "emptyDir": {} }],
            },
        })
    }

    fn injected(pod: &Value) -> Value {
        match inject(&Settings::default(), None, pod, &sidecar).unwrap() {
            Outcome::Injected { pod, warnings } => {
                assert_eq!(warnings, Vec::<String>::new());
                pod
            }
            Outcome::Skipped(skip) => panic!("{skip:?}"),
        }
    }

    #[test]
    fn the_application_and_its_sidecar_have_one_socket() {
        let pod = pod();
        let once = injected(&pod);
        let spec = &once["spec"];
        assert!(spec["volumes"].as_array().unwrap().contains(&volume()));
        for container in spec["containers"].as_array().unwrap() {
            let mounts = container["volumeMounts"].as_array().unwrap();
            assert!(mounts.contains(&given_mount()), "{container}");
        }
        let env = |at: usize| spec["containers"][at]["env"][0]["value"].clone();
        assert_eq!(env(0), "unix:///var/run/selvedge/workload/api.sock");
        assert_eq!(env(1), "unix:///own");
        let inits = spec["initContainers"].as_array().unwrap();
        let proxy = inits
            .iter()
            .find(|init| name(init) == "selvedge-proxy")
            .unwrap();
        assert!(proxy["volumeMounts"].as_array().unwrap().contains(&mount()));
        let config = once["metadata"]["annotations"]["selvedge.dev/config"]
            .as_str()
            .unwrap();
        let config: Value = serde_json::from_str(config).unwrap();
        assert_eq!(config["identity"]["workloadApi"], configuration());
        // Again, and back.
        assert_eq!(injected(&once), once);
        assert_eq!(uninject(&once).unwrap(), Some(pod.clone()));
        // A pod that lost the volume is mended; one that asks no more loses it.
        let mut lost = once.clone();
        let volumes = lost["spec"]["volumes"].as_array_mut().unwrap();
        volumes.retain(|volume| name(volume) != VOLUME);
        assert_eq!(injected(&lost), once);
        let mut without = once;
        without["metadata"]["annotations"]["selvedge.dev/workload-api"] = json!("false");
        let text = injected(&without).to_string();
        assert!(!text.contains(VOLUME) && !text.contains(DIR), "{text}");
    }
}
