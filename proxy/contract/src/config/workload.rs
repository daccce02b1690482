//! The socket on which an application asks its sidecar who it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// SPIFFE Workload API, and secrets for an Envoy (SDS), on a Unix socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadApi {
    /// Path of the socket: absolute, 107 bytes at most, in a directory that is there.
    pub socket: String,
    /// Users who may ask, as the kernel says of whoever connects (`SO_PEERCRED`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uids: Vec<u32>,
    /// Groups who may ask: the first group of a process counts, not the others. Default, where `uids` names
    /// nobody either: everybody who can open the socket.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gids: Vec<u32>,
    /// Mode of the socket, octal. Default: `0660`; `0666` where `uids` or `gids` say who may ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}
