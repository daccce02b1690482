//! Discovery from the Kubernetes API, as configuration says it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// Discovery from the Kubernetes API. That this section is there turns it on; every default is what
/// a pod has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Kubernetes {
    /// Where the API is. Default: `https://kubernetes.default.svc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// File with the token to ask by; re-read once a minute. Default: that of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// File with the CAs of the API's certificate; re-read once a minute. Default: that of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The workload's own namespace, for names without one. Default: that of the pod, by the file
    /// `namespace` beside its token, else `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The cluster's domain. Default: `cluster.local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_domain: Option<String>,
    /// The zone of this proxy: endpoints with hints for it are preferred. Default: hints are ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What the application has not called for this long is forgotten. Default: 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// Directory of manifests (YAML or JSON) with Services, EndpointSlices and Pods that are taken
    /// instead of the API's; re-read when they change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<String>,
}

/// A port of a service in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesService {
    /// Its name.
    pub service: String,
    /// Its namespace. Default: `kubernetes.namespace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Number or name of the port. Default: the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortRef>,
}

/// A port by its number at the service, or by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PortRef {
    /// `80`.
    Number(u16),
    /// `http`.
    Name(String),
}
