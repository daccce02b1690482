//! Injector: whether a pod gets a sidecar, and why not.

use std::collections::BTreeMap;

use serde_json::Value;

use super::options::{INJECT, STATUS};
use super::settings::Settings;

/// The name of the sidecar's container.
pub const PROXY: &str = "selvedge-proxy";
/// The name of the init container that writes redirection rules.
pub const REDIRECT: &str = "selvedge-redirect";

/// Why a pod is left as it is. The names are labels of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// It is in a namespace in which nothing is injected.
    ExcludedNamespace,
    /// It uses the network of its node, which must not be redirected.
    HostNetwork,
    /// It says no.
    DisabledByPod,
    /// Its namespace says no, and it does not say yes.
    DisabledByNamespace,
    /// Nobody says yes.
    NotEnabled,
    /// It has a sidecar that is not ours to change.
    OtherSidecar,
    /// It runs on another system than Linux.
    OtherSystem,
    /// It is a kubelet's own, of which the API has an image only.
    Mirror,
}

impl Skip {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::ExcludedNamespace,
        Self::HostNetwork,
        Self::DisabledByPod,
        Self::DisabledByNamespace,
        Self::NotEnabled,
        Self::OtherSidecar,
        Self::OtherSystem,
        Self::Mirror,
    ];

    /// As a label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ExcludedNamespace => "excluded_namespace",
            Self::HostNetwork => "host_network",
            Self::DisabledByPod => "disabled_by_pod",
            Self::DisabledByNamespace => "disabled_by_namespace",
            Self::NotEnabled => "not_enabled",
            Self::OtherSidecar => "other_sidecar",
            Self::OtherSystem => "other_system",
            Self::Mirror => "mirror",
        }
    }

    /// As a sentence.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::ExcludedNamespace => "its namespace is excluded",
            Self::HostNetwork => "it uses the network of its node",
            Self::DisabledByPod => "its label selvedge.dev/inject says disabled",
            Self::DisabledByNamespace => "its namespace's label selvedge.dev/inject says disabled",
            Self::NotEnabled => {
                "neither it nor its namespace has the label selvedge.dev/inject: enabled"
            }
            Self::OtherSidecar => "it has a sidecar already",
            Self::OtherSystem => "it runs on another system than Linux",
            Self::Mirror => "it is the image of a pod that a kubelet runs by itself",
        }
    }
}

/// What a label of ours says.
fn said(labels: &BTreeMap<String, String>) -> Result<Option<bool>, String> {
    match labels.get(INJECT).map(String::as_str) {
        None => Ok(None),
        Some("enabled") => Ok(Some(true)),
        Some("disabled") => Ok(Some(false)),
        Some(other) => {
            let cut: String = other.chars().take(40).collect();
            Err(format!(
                "{INJECT}: `{cut}`: expected `enabled` or `disabled`"
            ))
        }
    }
}

/// Texts under a key of an object's metadata.
#[must_use]
pub fn texts(object: &Value, key: &str) -> BTreeMap<String, String> {
    let members = object
        .pointer(&format!("/metadata/{key}"))
        .and_then(Value::as_object);
    let members = members.into_iter().flatten();
    members
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Whether a pod gets a sidecar. `namespace` is its name and labels; without one nothing is known of it,
/// as on the command line, and a pod is injected unless it says no.
///
/// # Errors
/// A label that says neither yes nor no.
pub fn decide(
    settings: &Settings,
    namespace: Option<(&str, &BTreeMap<String, String>)>,
    pod: &Value,
) -> Result<Option<Skip>, String> {
    if namespace.is_some_and(|(name, _)| settings.excludes(name)) {
        return Ok(Some(Skip::ExcludedNamespace));
    }
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Ok(Some(Skip::HostNetwork));
    }
    let texts_of = |path: &str| spec.pointer(path).and_then(Value::as_str);
    let system = texts_of("/os/name").or(texts_of("/nodeSelector/kubernetes.io~1os"));
    if system.is_some_and(|system| system != "linux") {
        return Ok(Some(Skip::OtherSystem));
    }
    if texts(pod, "annotations").contains_key("kubernetes.io/config.mirror") {
        return Ok(Some(Skip::Mirror));
    }
    let own = said(&texts(pod, "labels"))?;
    let around = match namespace {
        Some((_, labels)) => said(labels)?,
        None => Some(true),
    };
    let skip = match (own, around) {
        (Some(false), _) => Some(Skip::DisabledByPod),
        (Some(true), _) | (None, Some(true)) => None,
        (None, Some(false)) => Some(Skip::DisabledByNamespace),
        (None, None) => Some(Skip::NotEnabled),
    };
    if skip.is_some() {
        return Ok(skip);
    }
    let ours = texts(pod, "annotations").contains_key(STATUS);
    let other = names(spec).any(|name| {
        matches!(name, "istio-proxy" | "linkerd-proxy" | "kuma-sidecar")
            || (!ours && matches!(name, PROXY | REDIRECT))
    });
    Ok(other.then_some(Skip::OtherSidecar))
}

/// Names of containers of every kind.
fn names(spec: &Value) -> impl Iterator<Item = &str> {
    let lists = ["containers", "initContainers"].into_iter();
    let all = lists.filter_map(|key| spec.get(key)?.as_array()).flatten();
    all.filter_map(|container| container.get("name")?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_win_over_namespaces() {
        let settings = Settings::default();
        let labels = |value: Option<&str>| -> BTreeMap<String, String> {
            value
                .map(|v| (INJECT.to_owned(), v.to_owned()))
                .into_iter()
                .collect()
        };
        let pod =
            |value: Option<&str>| json!({ "metadata": { "labels": labels(value) }, "spec": {} });
        for (namespace, own, want) in [
            (None, None, Some(Skip::NotEnabled)),
            (Some("enabled"), None, None),
            (Some("disabled"), None, Some(Skip::DisabledByNamespace)),
            (Some("enabled"), Some("disabled"), Some(Skip::DisabledByPod)),
            (Some("disabled"), Some("enabled"), None),
            (None, Some("enabled"), None),
        ] {
            let got = decide(&settings, Some(("shop", &labels(namespace))), &pod(own));
            assert_eq!(got, Ok(want), "{namespace:?} {own:?}");
        }
        let enabled = labels(Some("enabled"));
        for name in ["kube-system", "selvedge-system"] {
            let got = decide(&settings, Some((name, &enabled)), &pod(Some("enabled")));
            assert_eq!(got, Ok(Some(Skip::ExcludedNamespace)));
        }
        assert!(decide(&settings, Some(("shop", &enabled)), &pod(Some("yes"))).is_err());
        assert_eq!(decide(&settings, None, &pod(None)), Ok(None));
    }

    #[test]
    fn some_pods_are_left_alone() {
        let settings = Settings::default();
        for (pod, want) in [
            (
                json!({ "spec": { "os": { "name": "windows" } } }),
                Some(Skip::OtherSystem),
            ),
            (
                json!({ "spec": { "nodeSelector": { "kubernetes.io/os": "windows" } } }),
                Some(Skip::OtherSystem),
            ),
            (json!({ "spec": { "os": { "name": "linux" } } }), None),
            (
                json!({
                    "metadata": { "annotations": { "kubernetes.io/config.mirror": "1" } }, "spec": {},
                }),
                Some(Skip::Mirror),
            ),
        ] {
            assert_eq!(decide(&settings, None, &pod), Ok(want), "{pod}");
        }
        let host = json!({ "spec": { "hostNetwork": true } });
        assert_eq!(decide(&settings, None, &host), Ok(Some(Skip::HostNetwork)));
        for name in ["istio-proxy", "linkerd-proxy", PROXY] {
            let pod = json!({ "spec": { "initContainers": [{ "name": name }] } });
            assert_eq!(
                decide(&settings, None, &pod),
                Ok(Some(Skip::OtherSidecar)),
                "{name}"
            );
        }
        let ours = json!({
            "metadata": { "annotations": { "selvedge.dev/status": "{}" } },
            "spec": { "containers": [{ "name": PROXY }] },
        });
        assert_eq!(decide(&settings, None, &ours), Ok(None));
    }
}
