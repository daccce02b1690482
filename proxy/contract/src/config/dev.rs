//! The file of `selvedge dev`: a whole mesh on a laptop.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, Telemetry};

/// A mesh on a laptop: an embedded CA, one gateway, one sidecar per workload, the workloads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DevConfig {
    /// Trust domain of the embedded CA. Default: `dev.local`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// The gateway: a configuration whose `services` also has every workload.
    pub gateway: Config,
    /// What runs, by name.
    pub workloads: BTreeMap<String, Workload>,
    /// Telemetry of every proxy of the mesh.
    pub telemetry: Telemetry,
}

/// One workload. Either `run` or `echo` is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Workload {
    /// A command, started by `sh -c`; it finds `PORT` (where to listen) and `HTTP_PROXY` (how to
    /// reach the mesh) in its environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The built-in demo server, which answers with what it saw.
    pub echo: bool,
    /// Address of the application. Default: `127.0.0.1` and a free port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Workloads it calls; its sidecar knows these and no others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
    /// How many of it. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Who may call it, by workload name (`gateway` for the gateway). Default: everyone in the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
}
