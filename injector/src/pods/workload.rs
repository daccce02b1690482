//! Injector: objects that have pods in them, and what is done to them by the command line and by the
//! webhook.

use serde_json::{Value, json};

use super::decide::{Skip, decide, texts};
use super::options::{Capture, Options};
use super::pod::{Pod, PodError};
use super::render;
use super::settings::Settings;

use std::collections::BTreeMap;

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It has a sidecar now, which may be the one that it had.
    Injected {
        /// The pod.
        pod: Value,
        /// What was said of it and has no meaning.
        warnings: Vec<String>,
    },
    /// It is left as it is.
    Skipped(Skip),
}

/// Why a pod is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What it says of its sidecar.
    #[error("{}", .0.join("; "))]
    Said(Vec<String>),
    /// What it is.
    #[error(transparent)]
    Pod(#[from] PodError),
}

/// What is known of a pod's namespace.
#[derive(Debug, Clone, Default)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Gives a pod its sidecar, if it is to have one. The same pod with its sidecar gives the same again.
/// `configure` makes the sidecar's configuration.
///
/// # Errors
/// [`Refusal`]: such a pod must not run without what it asks for.
pub fn inject(
    settings: &Settings,
    namespace: Option<&Namespace>,
    pod: &Value,
    configure: &dyn Fn(&Settings, &Options) -> Value,
) -> Result<Outcome, Refusal> {
    let around = namespace.map(|n| (n.name.as_str(), &n.labels));
    let skip = decide(settings, around, pod).map_err(|why| Refusal::Said(vec![why]))?;
    if let Some(skip) = skip {
        return Ok(Outcome::Skipped(skip));
    }
    let none = BTreeMap::new();
    let of_namespace = namespace.map_or(&none, |n| &n.annotations);
    let read = Options::read(settings, of_namespace, &texts(pod, "annotations"));
    let read = read.map_err(Refusal::Said)?;
    let before = Pod::new(pod)?;
    let mut parts = before.clone();
    render::uninject(&mut parts);
    let config = configure(settings, &read.options);
    render::inject(&mut parts, settings, &read.options, config)?;
    let mut warnings = read.warnings;
    warnings.extend(hooks(&parts, &read.options));
    // What others have set in our containers since (limits, image policies, mounts) stays theirs.
    let hash = render::hash_of(&before);
    let same = hash.is_some() && hash == render::hash_of(&parts);
    let pod = match same && render::is_whole(&before, &read.options) {
        true => pod.clone(),
        false => parts.into_value(),
    };
    Ok(Outcome::Injected { pod, warnings })
}

/// Hooks that the kubelet asks for over HTTP or TCP: in plaintext and from outside the mesh.
fn hooks(pod: &Pod, options: &Options) -> Vec<String> {
    if !options.strict || options.capture == Capture::Proxy {
        return Vec::new();
    }
    let asks = |hook: &Value| hook.get("httpGet").or(hook.get("tcpSocket")).is_some();
    let all = pod.containers.iter().filter_map(|container| {
        let hooks = container.get("lifecycle")?;
        let mut both = ["postStart", "preStop"].into_iter();
        let hook = both.find(|hook| hooks.get(hook).is_some_and(asks))?;
        let name = super::pod::name(container);
        Some(format!(
            "lifecycle.{hook} of `{name}` is asked in plaintext, which mtls: strict refuses"
        ))
    });
    all.collect()
}

/// A sidecar's configuration: it takes what comes for the application and what the application sends,
/// and proves who it is by the pod's token.
#[must_use]
pub fn configuration(settings: &Settings, options: &Options) -> Value {
    let (token, bundle) = super::containers::files();
    let mut config = json!({
        "identity": {
            "trustDomain": settings.trust_domain,
            "ca": settings.ca,
            "bundle": bundle,
            "token": token,
        },
        "admin": { "health": format!("[::]:{}", super::containers::HEALTH) },
        "drain": { "delay": options.drain_delay },
        "outbound": { "bind": "127.0.0.1:15001" },
    });
    if !settings.cluster_domain.is_empty() {
        let file = |name: &str| format!("{}/{name}", super::containers::API_DIR);
        config["kubernetes"] = json!({
            "token": file("token"),
            "ca": file("ca.crt"),
            "clusterDomain": settings.cluster_domain,
        });
    }
    if options.workload_api {
        config["identity"]["workloadApi"] = super::socket::configuration();
    }
    let mtls = if options.strict {
        "strict"
    } else {
        "permissive"
    };
    match options.capture {
        Capture::Redirect => {
            // Both families: what rules send here may be of either.
            let mut inbound =
                json!({ "port": 15006, "bind": "::", "transparent": true, "mtls": mtls });
            if !options.opaque.is_empty() {
                inbound["opaquePorts"] = json!(options.opaque);
            }
            config["inbound"] = json!([inbound]);
            config["outbound"] = json!({ "bind": "[::]:15001", "transparent": true });
        }
        Capture::Proxy if options.inbound.is_empty() => {}
        Capture::Proxy => {
            let inbound = options.inbound.iter().map(|(own, app)| {
                let app = format!("127.0.0.1:{app}");
                json!({ "port": own, "bind": "::", "app": app, "mtls": mtls })
            });
            config["inbound"] = inbound.collect();
        }
    }
    config
}

/// Takes a pod's sidecar away again. `None`: it has none of ours.
///
/// # Errors
/// [`PodError`].
pub fn uninject(pod: &Value) -> Result<Option<Value>, PodError> {
    if !texts(pod, "annotations").contains_key(super::options::STATUS) {
        return Ok(None);
    }
    let mut parts = Pod::new(pod)?;
    render::uninject(&mut parts);
    Ok(Some(parts.into_value()))
}

/// Where the pod, or the template of one, is in an object of this kind. `None`: it has none.
#[must_use]
pub fn template_of(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment"
        | "DaemonSet"
        | "ReplicaSet"
        | "StatefulSet"
        | "Job"
        | "ReplicationController" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configure(_: &Settings, options: &Options) -> Value {
        json!({ "log": options.log })
    }

    fn injected(settings: &Settings, pod: &Value) -> Value {
        match inject(settings, None, pod, &configure).unwrap() {
            Outcome::Injected { pod, .. } => pod,
            Outcome::Skipped(skip) => panic!("{skip:?}"),
        }
    }

    fn pods() -> Vec<Value> {
        vec![
            json!({ "spec": { "containers": [{ "name": "app", "image": "a" }] } }),
            json!({
                "metadata": { "name": "x", "labels": {}, "annotations": { "a": "b" } },
                "spec": {
                    "initContainers": [{ "name": "first" }],
                    "containers": [
                        { "name": "app", "env": [{ "name": "http_proxy", "value": "own" }],
                          "readinessProbe": { "httpGet": { "path": "/", "port": 80 } } },
                        { "name": "other" },
                    ],
                    "volumes": [{ "name": "data", "emptyDir": {} }],
                },
            }),
            json!({
                "metadata": { "annotations": { "kubectl.kubernetes.io/default-container": "app" } },
                "spec": { "containers": [{ "name": "app" }], "volumes": [] },
            }),
        ]
    }

    #[test]
    fn twice_is_once_and_back_is_where_it_was() {
        for native in ["true", "false"] {
            for (name, value) in [
                ("capture", "proxy"),
                ("hold-application", "false"),
                ("log", "debug"),
                ("workload-api", "true"),
            ] {
                for mut pod in pods() {
                    for (name, value) in [("native-sidecar", native), (name, value)] {
                        pod["metadata"]["annotations"][format!("selvedge.dev/{name}")] =
                            json!(value);
                    }
                    let settings = Settings::default();
                    let once = injected(&settings, &pod);
                    assert_ne!(once, pod);
                    assert_eq!(injected(&settings, &once), once);
                    assert_eq!(uninject(&once).unwrap(), Some(pod.clone()));
                    assert_eq!(uninject(&pod).unwrap(), None);
                }
            }
        }
        for pod in pods() {
            let once = injected(&Settings::default(), &pod);
            assert_eq!(uninject(&once).unwrap(), Some(pod));
        }
    }

    #[test]
    fn a_new_setting_takes_the_place_of_the_old_one() {
        let [pod, ..] = &pods()[..] else { panic!() };
        let once = injected(&Settings::default(), pod);
        let newer = Settings {
            image: "selvedge:2".to_owned(),
            ..Settings::default()
        };
        assert_eq!(injected(&newer, &once), injected(&newer, pod));
    }

    #[test]
    fn what_others_set_in_our_containers_stays() {
        for pod in pods() {
            let mut once = injected(&Settings::default(), &pod);
            // As plugins of the API server do, which look again afterwards.
            for container in once["spec"]["initContainers"].as_array_mut().unwrap() {
                container["imagePullPolicy"] = json!("Always");
                container["resources"]["limits"]["cpu"] = json!("1");
                container["volumeMounts"] =
                    json!([{ "name": "kube-api-access", "mountPath": "/var" }]);
            }
            assert_eq!(injected(&Settings::default(), &once), once);
            // A container that came later changes what is to be done.
            let late = json!({ "name": "late", "livenessProbe": { "tcpSocket": { "port": 80 } } });
            once["spec"]["containers"]
                .as_array_mut()
                .unwrap()
                .push(late);
            let again = injected(&Settings::default(), &once);
            let last = again["spec"]["containers"]
                .as_array()
                .unwrap()
                .last()
                .unwrap();
            assert_eq!(last["livenessProbe"]["httpGet"]["port"], 15020);
            // A status without its sidecar is a word only.
            let mut bare = injected(&Settings::default(), &pod);
            bare["spec"]["initContainers"] = json!([]);
            let again = injected(&Settings::default(), &bare);
            assert_eq!(again["spec"]["initContainers"][1]["name"], "selvedge-proxy");
        }
    }

    #[test]
    fn hooks_that_strictness_breaks_are_named() {
        let pod = json!({
            "metadata": { "annotations": { "selvedge.dev/mtls": "strict" } },
            "spec": { "containers": [
                { "name": "web", "lifecycle": { "preStop": { "httpGet": { "port": 80 } } } },
                { "name": "job", "lifecycle": { "preStop": { "exec": { "command": ["true"] } } } },
            ] },
        });
        let Ok(Outcome::Injected { warnings, .. }) =
            inject(&Settings::default(), None, &pod, &configure)
        else {
            panic!("not injected");
        };
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("lifecycle.preStop of `web`"));
    }

    #[test]
    fn what_others_add_afterwards_stays() {
        let [pod, ..] = &pods()[..] else { panic!() };
        let mut once = injected(&Settings::default(), pod);
        once["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "name": "late" }));
        let again = injected(&Settings::default(), &once);
        assert_eq!(injected(&Settings::default(), &again), again);
        let back = uninject(&again).unwrap().unwrap();
        assert_eq!(back["spec"]["containers"][1]["name"], "late");
        assert_eq!(back["spec"]["initContainers"], Value::Null);
    }

    #[test]
    fn containers_stand_in_the_order_that_they_need() {
        let names = |list: &Value| -> Vec<String> {
            let list = list.as_array().unwrap().iter();
            list.map(|c| c["name"].as_str().unwrap().to_owned())
                .collect()
        };
        let mut pod = pods().remove(1);
        let native = injected(&Settings::default(), &pod);
        assert_eq!(
            names(&native["spec"]["initContainers"]),
            ["selvedge-redirect", "selvedge-proxy", "first"]
        );
        assert_eq!(names(&native["spec"]["containers"]), ["app", "other"]);
        pod["metadata"]["annotations"]["selvedge.dev/native-sidecar"] = json!("false");
        let classic = injected(&Settings::default(), &pod);
        assert_eq!(
            names(&classic["spec"]["initContainers"]),
            ["first", "selvedge-redirect"]
        );
        assert_eq!(
            names(&classic["spec"]["containers"]),
            ["selvedge-proxy", "app", "other"]
        );
        pod["metadata"]["annotations"]["selvedge.dev/hold-application"] = json!("false");
        let late = injected(&Settings::default(), &pod);
        assert_eq!(
            names(&late["spec"]["containers"]),
            ["app", "other", "selvedge-proxy"]
        );
    }

    #[test]
    fn a_forged_status_takes_and_gives_nothing() {
        let status = json!({
            "containers": ["audit"], "initContainers": ["guard"], "volumes": ["policy"],
            "annotations": ["own"], "env": { "web": ["AUDIT"] }, "made": ["volumes"],
            "probes": { "web": { "securityContext": { "way": "privileged", "original": true } } },
        });
        let pod = json!({
            "metadata": { "annotations": { "own": "x", "selvedge.dev/status": status.to_string() } },
            "spec": {
                "containers": [
                    { "name": "web", "env": [{ "name": "AUDIT", "value": "1" }], "securityContext": {} },
                    { "name": "audit" },
                ],
                "initContainers": [{ "name": "guard" }],
                "volumes": [{ "name": "policy" }],
            },
        });
        let mut bare = pod.clone();
        bare["metadata"]["annotations"]
            .as_object_mut()
            .unwrap()
            .remove("selvedge.dev/status");
        assert_eq!(uninject(&pod).unwrap(), Some(bare));
    }

    #[test]
    fn pods_that_cannot_have_one_are_refused() {
        let same_user = json!({ "spec": { "containers": [{ "name": "a", "securityContext": { "runAsUser": 1337 } }] } });
        let same_volume =
            json!({ "spec": { "containers": [], "volumes": [{ "name": "selvedge-token" }] } });
        let bad_port = json!({
            "metadata": { "annotations": { "selvedge.dev/skip-inbound-ports": "x" } },
            "spec": { "containers": [] },
        });
        let same_group = json!({ "spec": {
            "containers": [],
            "initContainers": [{ "name": "a", "securityContext": { "runAsGroup": 1337 } }],
        } });
        for pod in [
            same_user,
            same_group,
            same_volume,
            bad_port,
            json!({ "spec": {} }),
        ] {
            assert!(
                inject(&Settings::default(), None, &pod, &configure).is_err(),
                "{pod}"
            );
        }
    }
}
