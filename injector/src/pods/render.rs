//! Injector: a pod gets its sidecar, and loses it again.

use serde_json::{Map, Value, json};

use super::containers::{self, CONFIG, TOKEN, TRUST};
use super::decide::{PROXY, REDIRECT};
use super::options::{Capture, Options, STATUS};
use super::pod::{Pod, PodError, name};
use super::probes;
use super::settings::Settings;

/// Annotation with the sidecar's configuration, which its volume shows as a file.
pub const CONFIG_ANNOTATION: &str = "selvedge.dev/config";
/// Annotations by which `kubectl logs` and `kubectl exec` choose a container.
const DEFAULTS: [&str; 2] = [
    "kubectl.kubernetes.io/default-container",
    "kubectl.kubernetes.io/default-logs-container",
];
/// Variables by which applications find a proxy.
const VARIABLES: [&str; 4] = ["http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"];

/// Takes away what an injection has brought: whatever others have changed since stays.
pub fn uninject(pod: &mut Pod) {
    let status = pod.annotation(STATUS).map(str::to_owned);
    let status = status.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let Some(status) = status else { return };
    let names = |key: &str| -> Vec<String> {
        let names = status.get(key).and_then(Value::as_array);
        let names = names.into_iter().flatten();
        names
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect()
    };
    if let Some(originals) = status.get("probes").and_then(Value::as_object) {
        probes::restore(&mut pod.containers, originals);
    }
    let keep = |ours: Vec<String>| move |item: &Value| !ours.iter().any(|n| n == name(item));
    pod.containers.retain(keep(names("containers")));
    for (list, key) in [
        (&mut pod.inits, "initContainers"),
        (&mut pod.volumes, "volumes"),
    ] {
        if let Some(list) = list {
            list.retain(keep(names(key)));
        }
    }
    let variables = status.get("env").and_then(Value::as_object);
    for container in &mut pod.containers {
        let ours = variables.and_then(|v| v.get(name(container)));
        let ours: Vec<String> = ours
            .and_then(|v| serde_json::from_value(v.clone()).ok())
            .unwrap_or_default();
        if let Some(Value::Array(env)) = container.get_mut("env") {
            env.retain(keep(ours.clone()));
            if env.is_empty() && !ours.is_empty() {
                containers::remove(container, "env");
            }
        }
    }
    if let Some(annotations) = &mut pod.annotations {
        for name in names("annotations") {
            annotations.remove(&name);
        }
    }
    // What was made for the sidecar goes where nobody else has put something in.
    let made = names("made");
    let was_made = |key: &str| made.iter().any(|m| m == key);
    if was_made("initContainers") && pod.inits.as_ref().is_some_and(Vec::is_empty) {
        pod.inits = None;
    }
    if was_made("volumes") && pod.volumes.as_ref().is_some_and(Vec::is_empty) {
        pod.volumes = None;
    }
    if was_made("annotations") && pod.annotations.as_ref().is_some_and(Map::is_empty) {
        pod.annotations = None;
    }
    if was_made("metadata") && pod.metadata.as_ref().is_some_and(Map::is_empty) {
        pod.metadata = None;
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
        let originals = probes::rewrite(&mut pod.containers, containers::HEALTH);
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
    let volumes = pod.volumes.get_or_insert_default();
    volumes.extend(containers::volumes(settings));
    status.insert("volumes".to_owned(), json!([CONFIG, TOKEN, TRUST]));
    status.insert("made".to_owned(), json!(made));
    annotate(pod, status, first, &config);
    Ok(())
}

fn check(pod: &Pod, settings: &Settings) -> Result<(), PodError> {
    let uid = u64::from(settings.uid);
    let same = pod.containers.iter().find(|c| pod.user(c) == Some(uid));
    if let Some(container) = same {
        return Err(PodError::Unfit(format!(
            "container `{}` runs as user {uid}, the sidecar\'s: what it sends would not be redirected",
            name(container)
        )));
    }
    let mut volumes = pod.volumes.iter().flatten();
    if let Some(volume) = volumes.find(|v| [CONFIG, TOKEN, TRUST].contains(&name(v))) {
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
            let value = match variable {
                "http_proxy" | "HTTP_PROXY" => "http://127.0.0.1:15001",
                _ => "localhost,127.0.0.1,::1",
            };
            containers::push_env(container, json!({ "name": variable, "value": value }));
            ours.push(variable);
        }
        set.insert(of, json!(ours));
    }
    set
}

fn annotate(pod: &mut Pod, mut status: Map<String, Value>, first: Option<String>, config: &Value) {
    let annotations = pod.annotations.get_or_insert_default();
    let mut ours = vec![STATUS, CONFIG_ANNOTATION];
    annotations.insert(CONFIG_ANNOTATION.to_owned(), config.to_string().into());
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
