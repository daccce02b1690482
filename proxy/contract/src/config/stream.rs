//! Routes for connections and datagrams that are not looked into: which service those of a listener go to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Duration, Size};

/// Where the connections of `TCP` listeners go: a TCPRoute of Gateway API without the level of `rules`, of
/// which a connection could only ever take the first. It names its listeners, as it has all of their
/// connections: two routes for one listener would contradict each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpRoute {
    /// Name in logs and metrics. Default: `tcp-` and its place in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Names of listeners with `protocol: TCP`.
    pub listeners: Vec<String>,
    /// Services with their shares of the connections.
    pub backend_refs: Vec<StreamBackend>,
    /// A connection ends when nothing has passed either way for so long; `0s` = never. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// When another endpoint is tried. Default: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<ConnectRetry>,
}

/// Where the connections of `TLS` listeners go, by the name that clients ask for (SNI): a TLSRoute of Gateway
/// API without the level of `rules`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsRoute {
    /// Name in logs and metrics. Default: `tls-` and its place in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Names of listeners with `protocol: TLS`.
    pub listeners: Vec<String>,
    /// Names: exact, or `*.` and a suffix. An exact one wins, then the longest suffix. Default: every name
    /// that no other route has, and clients that ask for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Services with their shares of the connections.
    pub backend_refs: Vec<StreamBackend>,
    /// A connection ends when nothing has passed either way for so long; `0s` = never. Default: 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// When another endpoint is tried. Default: once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<ConnectRetry>,
}

/// Where the datagrams of `UDP` listeners go: a UDPRoute of Gateway API without the level of `rules`. All that
/// one client sends to one listener is a session, and goes to one endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UdpRoute {
    /// Name in logs and metrics. Default: `udp-` and its place in the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Names of listeners with `protocol: UDP`.
    pub listeners: Vec<String>,
    /// Services with their shares of the sessions.
    pub backend_refs: Vec<StreamBackend>,
    /// A session ends when nothing has passed either way for so long. Default: 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// Datagrams that are longer are dropped, both ways. Default: 65507, all that there can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_datagram: Option<Size>,
    /// To how many further endpoints a session moves on that gets no answer but refusals. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<ConnectRetry>,
}

/// A service and its share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamBackend {
    /// Name of a service.
    #[serde(alias = "name")]
    pub service: String,
    /// Share of the connections or sessions, 0 to 1000000. Default: 1.
    #[serde(default = "StreamBackend::default_weight")]
    pub weight: u32,
}

impl StreamBackend {
    const fn default_weight() -> u32 {
        1
    }
}

/// When a connection that could not be made to one endpoint is tried at another. Nothing has been sent by
/// then, so it is always safe; it counts against the retry budget of the service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConnectRetry {
    /// Tries after the first. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Pause before each. Default: 25ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
}
