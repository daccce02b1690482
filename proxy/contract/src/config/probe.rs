//! Probes of the application that a sidecar answers at its health port.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

use super::HeaderValue;

/// One probe, asked for as `/app-health/<container>/<probe>` at the health port, where redirection would
/// take it to the mesh. It is asked of the application at 127.0.0.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// How: `http` (default), `https` (verifying nobody), `tcp`, `grpc` (`grpc.health.v1`).
    #[serde(default)]
    pub way: ProbeWay,
    /// Port of the application.
    pub port: u16,
    /// `http`, `https`: path. Default: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `http`, `https`: headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderValue>,
    /// `grpc`: the service that is asked about. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// For all of it. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// How a probe is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProbeWay {
    /// A GET.
    #[default]
    Http,
    /// The same over TLS.
    Https,
    /// A connection.
    Tcp,
    /// The health service of gRPC.
    Grpc,
}
