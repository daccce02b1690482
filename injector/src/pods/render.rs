//! Injector: a pod gets its sidecar, and loses it again.

use serde_json::{Map, Value, json};

use super::containers::{self, VOLUMES};
use super::decide::{PROXY, REDIRECT};
use super::options::{CONFIG, Capture, Options, STATUS};
use super::pod::{Pod, PodError, name};
use super::probes;
use super::settings::Settings;
use super::socket;

/// Annotations by which `kubectl logs` and `kubectl exec` choose a container.
const DEFAULTS: [&str; 2] = [
    "kubectl.kubernetes.io/default-container",
    "kubectl.kubernetes.io/default-logs-container",
];
/// Variables by which applications find a proxy.
const VARIABLES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"];

/// Takes away what an injection has brought: whatever others have changed since stays. What the status
/// says is a user's to write: it names nothing that is not ours to take.
pub fn uninject(pod: &mut Pod) {
    let status = pod.annotation(STATUS).map(str::to_owned);
    let status = status.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let Some(status) = status else { return };
    if let Some(originals) = status.get("probes").and_then(Value::as_object) {
        probes::restore(&mut pod.containers, originals, containers::HEALTH);
        let inits = pod.inits.iter_mut().flatten();
        inits.for_each(|c| probes::restore(std::slice::from_mut(c), originals, containers::HEALTH));
    }
    let foreign = |item: &Value, ours: &[&str]| !ours.contains(&name(item));
    pod.containers.retain(|c| foreign(c, &[PROXY]));
    if let Some(inits) = &mut pod.inits {
        inits.retain(|c| foreign(c, &[PROXY, REDIRECT]));
    }
    if let Some(volumes) = &mut pod.volumes {
        volumes.retain(|v| foreign(v, &VOLUMES));
    }
    socket::take(pod, &status);
    remove_variables(pod, &status);
    let said = |key: &str, what: &str| {
        let names = status.get(key).and_then(Value::as_array);
        names
            .into_iter()
            .flatten()
            .any(|name| name.as_str() == Some(what))
    };
    if let Some(annotations) = &mut pod.annotations {
        for name in [STATUS, CONFIG].into_iter().chain(DEFAULTS) {
            if !DEFAULTS.contains(&name) || said("annotations", name) {
                annotations.remove(name);
            }
        }
    }
    // What was made for the sidecar goes where nobody else has put something in.
    let made = |key: &str| said("made", key);
    if made("initContainers") && pod.inits.as_ref().is_some_and(Vec::is_empty) {
        pod.inits = None;
    }
    if made("volumes") && pod.volumes.as_ref().is_some_and(Vec::is_empty) {
        pod.volumes = None;
    }
    if made("annotations") && pod.annotations.as_ref().is_some_and(Map::is_empty) {
        pod.annotations = None;
    }
    if made("metadata") && pod.metadata.as_ref().is_some_and(Map::is_empty) {
        pod.metadata = None;
    }
}

/// Takes away the variables that were set, where they still say what they were set to.
fn remove_variables(pod: &mut Pod, status: &Value) {
    for container in &mut pod.containers {
        let set = status.get("env").and_then(|env| env.get(name(container)));
        let set: Vec<String> = set
            .and_then(|set| serde_json::from_value(set.clone()).ok())
            .unwrap_or_default();
        let ours = |item: &Value| {
            let variable = VARIABLES.into_iter().find(|v| *v == name(item));
            let value = item.get("value").and_then(Value::as_str);
            variable.is_some_and(|v| set.iter().any(|s| s == v) && value == Some(value_of(v)))
        };
        containers::take(container, "env", ours);
    }
}

/// What a variable is set to.
fn value_of(variable: &str) -> &'static str {
    match variable {
        "http_proxy" | "HTTP_PROXY" => "http://127.0.0.1:15001",
        // The cloud's own service for metadata is reached by nobody's proxy.
        _ => "localhost,127.0.0.1,::1,169.254.169.254",
    }
}

/// Adds the sidecar to a pod that has none. `config` is its configuration.
///
/// # Errors
/// [`PodError::Unfit`].
pub fn inject(
    pod: &mut Pod,
    settings: &Settings,
    options: &Options,
    mut config: Value,
) -> Result<(), PodError> {
    check(pod, settings)?;
    let made = make_parents(pod);
    let mut status = Map::new();
    let first = pod.containers.first().map(|first| name(first).to_owned());
    let redirected = options.capture == Capture::Redirect;
    if redirected && options.rewrite_probes {
        let mut originals = probes::rewrite(&mut pod.containers, containers::HEALTH);
        // Native sidecars of others are probed too.
        let inits = pod.inits.iter_mut().flatten();
        let native =
            inits.filter(|c| c.get("restartPolicy").and_then(Value::as_str) == Some("Always"));
        for init in native {
            let of = probes::rewrite(std::slice::from_mut(init), containers::HEALTH);
            originals.extend(of);
        }
        if !originals.is_empty() {
            if let Value::Object(config) = &mut config {
                config.insert("probes".to_owned(), probes::configured(&originals));
            }
            status.insert("probes".to_owned(), originals.into());
        }
    }
    if !redirected {
        status.insert("env".to_owned(), use_proxy(pod).into());
    }
    let proxy = containers::proxy(settings, options, first.as_deref());
    let redirect = redirected.then(|| containers::redirect(settings, options));
    if options.workload_api {
        status.insert("socket".to_owned(), socket::give(pod).into());
    }
    let volumes = containers::volumes(settings, options);
    let hash = hash(&(&proxy, &redirect, &config, &volumes, names(pod)));
    status.insert("hash".to_owned(), hash.into());
    // At which ports the sidecar answers: callers that find this pod go by it.
    let mesh = match options.capture {
        Capture::Redirect => json!({ "except": options.skip_inbound }),
        Capture::Proxy => {
            let ports: Vec<u16> = options.inbound.iter().map(|(own, _)| *own).collect();
            json!({ "only": ports })
        }
    };
    status.insert("mesh".to_owned(), mesh);
    let inits = pod.inits.get_or_insert_default();
    let mut ours = Vec::new();
    ours.extend(redirect.is_some().then_some(REDIRECT));
    if options.native {
        // Redirection first, then the sidecar: what starts after it is in the mesh.
        inits.insert(0, proxy);
        if let Some(redirect) = redirect {
            inits.insert(0, redirect);
        }
        ours.push(PROXY);
    } else {
        // The sidecar starts with the application: what runs before it must not be redirected.
        inits.extend(redirect);
        let at = if options.hold {
            0
        } else {
            pod.containers.len()
        };
        pod.containers.insert(at, proxy);
        status.insert("containers".to_owned(), json!([PROXY]));
    }
    status.insert("initContainers".to_owned(), json!(ours));
    let added: Vec<_> = volumes.iter().map(|v| name(v).to_owned()).collect();
    status.insert("volumes".to_owned(), json!(added));
    pod.volumes.get_or_insert_default().extend(volumes);
    status.insert("made".to_owned(), json!(made));
    annotate(pod, status, first, &config);
    Ok(())
}

/// Names of the pod's own containers: what is set in them depends on which there are.
fn names(pod: &Pod) -> Vec<String> {
    let all = pod.containers.iter().chain(pod.inits.iter().flatten());
    all.map(|c| name(c).to_owned()).collect()
}

/// Whether a pod has everything that an injection with this status has brought.
#[must_use]
pub fn is_whole(pod: &Pod, options: &Options) -> bool {
    let inits = || pod.inits.iter().flatten();
    let has = |wanted: &str| {
        pod.containers
            .iter()
            .chain(inits())
            .any(|c| name(c) == wanted)
    };
    let volumes: Vec<&str> = pod.volumes.iter().flatten().map(name).collect();
    let redirected = options.capture == Capture::Proxy || inits().any(|c| name(c) == REDIRECT);
    let wanted = |volume: &&str| **volume != *socket::VOLUME || options.workload_api;
    let mut wanted = VOLUMES.iter().filter(|volume| wanted(volume));
    has(PROXY) && redirected && wanted.all(|volume| volumes.contains(volume))
}

/// The hash in a pod's status.
#[must_use]
pub fn hash_of(pod: &Pod) -> Option<String> {
    let status: Value = serde_json::from_str(pod.annotation(STATUS)?).ok()?;
    status.get("hash")?.as_str().map(str::to_owned)
}

/// A short name for what was rendered: pods that have another are of other settings (FNV-1a, 64 bits;
/// nothing depends on its being hard to forge).
fn hash(of: &impl serde::Serialize) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let text = serde_json::to_vec(of).unwrap_or_default();
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325, step);
    format!("{hash:016x}")
}

fn check(pod: &Pod, settings: &Settings) -> Result<(), PodError> {
    let uid = u64::from(settings.uid);
    let mut all = pod.containers.iter().chain(pod.inits.iter().flatten());
    let same = all.find(|c| {
        let as_user = pod.runs_as(c, "runAsUser") == Some(uid);
        as_user || pod.runs_as(c, "runAsGroup") == Some(uid)
    });
    if let Some(container) = same {
        return Err(PodError::Unfit(format!(
            "container `{}` runs as user or group {uid}, the sidecar's: what it sends would not be redirected",
            name(container)
        )));
    }
    let mut volumes = pod.volumes.iter().flatten();
    if let Some(volume) = volumes.find(|v| VOLUMES.contains(&name(v))) {
        let told = format!(
            "volume `{}` has the name of one of the sidecar\'s",
            name(volume)
        );
        return Err(PodError::Unfit(told));
    }
    Ok(())
}

/// Sees to it that there is a place for everything; gives what was not there.
fn make_parents(pod: &mut Pod) -> Vec<&'static str> {
    let there = [
        ("metadata", pod.metadata.is_some()),
        ("annotations", pod.annotations.is_some()),
        ("initContainers", pod.inits.is_some()),
        ("volumes", pod.volumes.is_some()),
    ];
    pod.metadata.get_or_insert_default();
    pod.annotations.get_or_insert_default();
    let made = there.into_iter().filter(|(_, there)| !there);
    made.map(|(name, _)| name).collect()
}

/// Sends what applications send to the sidecar, where they heed these variables; gives those that were
/// set, by container.
fn use_proxy(pod: &mut Pod) -> Map<String, Value> {
    let mut set = Map::new();
    for container in &mut pod.containers {
        let of = name(container).to_owned();
        let mut ours = Vec::new();
        for variable in VARIABLES {
            let env = container.get("env").and_then(Value::as_array);
            if env.into_iter().flatten().any(|v| name(v) == variable) {
                continue;
            }
            let value = value_of(variable);
            containers::push(
                container,
                "env",
                json!({ "name": variable, "value": value }),
            );
            ours.push(variable);
        }
        set.insert(of, json!(ours));
    }
    set
}

fn annotate(pod: &mut Pod, mut status: Map<String, Value>, first: Option<String>, config: &Value) {
    let annotations = pod.annotations.get_or_insert_default();
    let mut ours = vec![STATUS, CONFIG];
    annotations.insert(CONFIG.to_owned(), config.to_string().into());
    for name in DEFAULTS {
        if let Some(first) = &first
            && !annotations.contains_key(name)
        {
            annotations.insert(name.to_owned(), first.clone().into());
            ours.push(name);
        }
    }
    status.insert("annotations".to_owned(), json!(ours));
    let text = Value::Object(status).to_string();
    annotations.insert(STATUS.to_owned(), text.into());
}
