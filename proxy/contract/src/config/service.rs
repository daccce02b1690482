//! The services of the configuration: endpoints, and how they are reached and left alone.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

use super::{Balance, HealthCheck, KubernetesService, Sticky};

/// What requests are sent to. One of `endpoints`, `dns` and `kubernetes` is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Service {
    /// Addresses, `10.0.0.5:8080`, or with `weight`, `zone` and `priority`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// A name to resolve (A and AAAA; SRV where it begins with `_`). End it with a dot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    /// A service of the cluster, where the configuration has `kubernetes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesService>,
    /// Port of the addresses that `dns` gives; SRV brings its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Further hosts by which a sidecar's application may call this service; its name always.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<String>,
    /// Addresses with their ports by which a sidecar's application calls this service, where `outbound`
    /// is `transparent`: what goes there is for it whatever its host, and by its names it is called
    /// at these ports only. Default: by its names at any port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Names of policies for all that goes to this service; of a kind, they win over those of the rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// How an endpoint is chosen. Default: `leastRequest`.
    pub balance: Balance,
    /// Who comes back to the endpoint it had: `source`, or `{ cookie: {} }`. Default: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// An endpoint that is new or back gets 10 % of its share at first, and all of it after this long.
    /// 0s: all of it at once. Default: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
    /// Where a smaller share of endpoints than this is available, in percent, all are used. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<u32>,
    /// The zone of this proxy: endpoints in it come first. Default: `kubernetes.zone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Of more endpoints than this, only so many are used, by each proxy others. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<u32>,
    /// What the endpoints speak. Default: `http1`. Meshed services speak HTTP/2 whatever is here.
    pub protocol: UpstreamProtocol,
    /// TLS to endpoints outside the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// Mutual TLS to endpoints in the mesh. Never falls back to plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshSpec>,
    /// Connections begin with a PROXY header that names the client. None is then used for a second
    /// request; HTTP/1 only. Default: no header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyVersion>,
    /// Time to connect, TLS included. Default: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Duration>,
    /// Idle life of pooled connections. Default: 4s for HTTP/1, 60s for HTTP/2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// Caps of the circuit breaker.
    pub limits: ServiceLimits,
    /// Error rate at which the circuit opens. Default: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// When an endpoint is left alone for a while.
    pub ejection: Ejection,
    /// Endpoints are asked whether they are well. Default: they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
}

/// An endpoint, short or with more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Endpoint {
    /// `10.0.0.5:8080` or `[2001:db8::5]:8080`.
    Address(String),
    /// With a weight, a zone, a level.
    Weighted(EndpointSpec),
}

/// An endpoint with what there is to say about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EndpointSpec {
    /// `10.0.0.5:8080` or `[2001:db8::5]:8080`.
    pub address: String,
    /// Share, 1 to 65535. Default: 1.
    #[serde(default = "EndpointSpec::default_weight")]
    pub weight: u32,
    /// Where it stands. Default: unknown, which is no proxy's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its level: what the endpoints of 0 cannot carry goes to those of 1, and so on. Default: 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: u16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
const fn is_zero(level: &u16) -> bool {
    *level == 0
}

impl EndpointSpec {
    const fn default_weight() -> u32 {
        1
    }
}

/// What an upstream speaks.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, with prior knowledge or by ALPN.
    Http2,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// TLS to endpoints outside the mesh.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// Name to send and to verify. Default: the `dns` name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// File with the CAs to trust. Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// Membership of a service in the mesh.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MeshSpec {
    /// SPIFFE ID that its endpoints must show. Default: any of the own trust domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// Caps of a service, over all its endpoints and all workers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceLimits {
    /// Connections. Default: 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Requests waiting for a connection. Default: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<u32>,
    /// Concurrent requests. Default: 1024. Over it: 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// Concurrent retries. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Requests that have no answer yet, as many as the service bears: that is found out from how long its
    /// answers take, between `min` and `requests`. Over it: 503, what matters least first. Default: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveLimit>,
}

impl ServiceLimits {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A limit that follows how fast a service answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AdaptiveLimit {
    /// It comes down to this at most. Default: 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
}

/// Error rate of a service at which its circuit opens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Breaker {
    /// Share of failed requests (502, 503, 504, no answer) within 10s, in percent, 1 to 100.
    pub error_rate: u32,
    /// Requests in the window before the rate counts. Default: 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u32>,
    /// How long it stays open before one probe. Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<Duration>,
}

/// When an endpoint is ejected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ejection {
    /// Consecutive gateway errors (502, 503, 504, no answer); 0 = never. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive: Option<u32>,
    /// Percent of the requests of about ten seconds that have to end well; 0 = any. Default: 80.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<u32>,
    /// Requests that have to have ended in that time before their share counts. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u32>,
    /// First ejection; doubles with each that follows. After it one request tries the endpoint. Default: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Duration>,
    /// Longest ejection. Default: 60s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Duration>,
    /// Share of endpoints that may be out at a time, in percent. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_share: Option<u32>,
}
