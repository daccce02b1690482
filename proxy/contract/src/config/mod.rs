//! The configuration file: serde types whose doc comments are the reference page and the schema.
//!
//! This is the raw form, only what a user typed. The proxy compiles it into a `Snapshot`.

mod acme;
mod balance;
mod credentials;
mod dev;
mod edge;
mod federation;
mod health;
mod kubernetes;
mod limits;
mod listener;
mod login;
mod policy;
mod probe;
mod route;
mod service;
mod stream;
mod traffic;
mod workload;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

pub use acme::{Acme, AcmeChallenge, ExternalAccount};
pub use balance::{
    Balance, BalanceSpec, Balancer, ConsistentHash, HashBy, HashKey, LeastRequest, Scan, Source,
    Sticky, StickyBy, StickyCookie,
};
pub use credentials::{
    BasicPolicy, ClientCertificatePolicy, SignatureForm, SignatureKey, SignaturePolicy,
};
pub use dev::{DevConfig, Workload};
pub use edge::{
    AuthzProtocol, BodyTransform, CachePolicy, Coding, Compression, Csrf, ErrorPage, ExtAuthz,
    Frame, Hsts, PathReplacement, RequestTransform, ResponseTransform, Security, Transform,
    VersionPolicy,
};
pub use federation::{Federated, Profile};
pub use health::{DegradedAnswer, HealthCheck, HealthWay, StatusRange};
pub use kubernetes::{Kubernetes, KubernetesService, PortRef};
pub use limits::{Http2Rates, LimitsSpec};
pub use listener::{
    CertificateFiles, ClientCertificateMode, ClientCertificates, EncodedSlashes, Listener,
    ListenerProtocol, ListenerTls, ProxyProtocol, TlsMode, TlsVersion,
};
pub use login::{IntrospectionPolicy, OidcPolicy};
pub use policy::{
    AddressPolicy, Allow, ApiKeyPolicy, Audit, Claim, Cors, HeaderPolicy, HeaderTest,
    HeaderTestType, JwtPolicy, OnLoss, OneOrMany, Plan, Policy, RateLimit, RedisStore,
};
pub use probe::{Probe, ProbeWay};
pub use route::{
    Aggregate, BackendRef, Call, Failure, Filter, HeaderEdits, HeaderMatch, HeaderValue, Match,
    MatchType, ParentRef, PathMatch, PathMatchSpec, PathMatchType, PathModifier, PathModifierType,
    Priority, QueryMatch, Redirect, RetrySpec, Rewrite, Route, RouteTimeouts, Rule,
};
pub use service::{
    AdaptiveLimit, Breaker, Ejection, Endpoint, EndpointSpec, MeshSpec, ProxyVersion, Service,
    ServiceLimits, UpstreamProtocol, UpstreamTls,
};
pub use stream::{ConnectRetry, StreamBackend, TcpRoute, TlsRoute, UdpRoute};
pub use traffic::{
    BandwidthPolicy, ConcurrencyPolicy, FaultAbort, FaultDelay, FaultPolicy, GrpcCode,
    MirrorComparison, MirrorRef, RequestMirror,
};
pub use workload::WorkloadApi;

/// One configuration, from one file or merged from several.
///
/// A gateway needs `listeners` and `routes`; a sidecar `inbound` or `outbound`. Both name
/// `services`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Where the gateway listens.
    pub listeners: Vec<Listener>,
    /// Which request goes where: each entry is an HTTPRoute `spec`.
    pub routes: Vec<Route>,
    /// Which connection of a `TCP` listener goes where.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tcp_routes: Vec<TcpRoute>,
    /// Which connection of a `TLS` listener goes where.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_routes: Vec<TlsRoute>,
    /// Which session of a `UDP` listener goes where.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub udp_routes: Vec<UdpRoute>,
    /// What requests are sent to, by name.
    pub services: BTreeMap<String, Service>,
    /// Named rules that routes and inbound ports refer to.
    pub policies: BTreeMap<String, Policy>,
    /// Where addresses are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geo: Option<Geo>,
    /// Redis or Valkey servers that several gateways share, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub redis: BTreeMap<String, RedisStore>,
    /// Public certificates by ACME, by name; listeners refer to them in `tls.acme`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub acme: BTreeMap<String, Acme>,
    /// Who this proxy is in the mesh, and which CA says so.
    pub identity: Option<IdentitySpec>,
    /// Services and endpoints from the Kubernetes API. Default: only those that are written here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// Sidecar: ports on which the mesh reaches the application.
    pub inbound: Vec<Inbound>,
    /// Sidecar: where the application reaches the mesh.
    pub outbound: Option<Outbound>,
    /// Probes of the application that are answered at the health port, by container and then `livez`,
    /// `readyz` or `startupz`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub probes: BTreeMap<String, BTreeMap<String, Probe>>,
    /// Metrics, access log and traces.
    pub telemetry: Telemetry,
    /// Limits and timeouts towards downstream, for every listener.
    pub limits: LimitsSpec,
    /// Admin, health and metrics ports.
    pub admin: Admin,
    /// What happens on SIGTERM.
    pub drain: Drain,
}

/// Where addresses are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Geo {
    /// Database of countries in MaxMind's form (`.mmdb`), 512MiB at most; re-read when it changes.
    pub database: String,
}

/// Who this proxy is: from a CA (`ca`) or from files (`certificate`, `key`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IdentitySpec {
    /// The mesh's trust domain, such as `shop.local`.
    pub trust_domain: String,
    /// CA, `https://host:15012`; speaks Istio's certificate protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// File with the trust bundle (root certificates, PEM); re-read when it changes.
    pub bundle: String,
    /// File with lists of revoked certificates (CRLs of the trust domain's issuers and of others that
    /// are trusted; PEM, one or several); re-read when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl: Option<String>,
    /// Other trust domains, whose workloads `mesh.identity` and `allow` may name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub federation: Vec<Federated>,
    /// File with the join token for the first certificate; renewals prove themselves by mTLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Instead of a CA: chain file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Instead of a CA: key file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Life to ask the CA for. Default: the CA's own (24 h).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// Sidecar: a socket on which the application is given certificates and tokens of its own. Default:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_api: Option<WorkloadApi>,
}

/// A port on which the mesh reaches the application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    /// Port to bind; `0` lets the system choose.
    pub port: u16,
    /// Address to bind. Default: `0.0.0.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<String>,
    /// The application's address and port. Needed, unless the port is `transparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Connections come by `selvedge redirect`, and go on to the port of the application that they
    /// were going to. What is neither HTTP nor TLS of the mesh passes as it is, unless the port is
    /// `strict` or has policies. Default: false.
    #[serde(default)]
    pub transparent: bool,
    /// `strict`: only mutual TLS. `permissive`: plaintext too. Default: `strict` with an
    /// `identity`, else `permissive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsMode>,
    /// Only these callers. Empty: every caller that the mTLS mode lets in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Allow>,
    /// Names of policies to apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Protocol of the application. Default: `http1`.
    #[serde(default)]
    pub protocol: UpstreamProtocol,
    /// Ports of the application that speak HTTP/2 (gRPC) whatever `protocol` is, where the port is
    /// `transparent`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http2_ports: Vec<u16>,
    /// Ports of the application whose plaintext is carried on without a look at what it is, even
    /// where it begins like HTTP; the port must be `transparent`, and have no policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opaque_ports: Vec<u16>,
    /// Caps of what the application is asked at a time; `connections` and `pending` too are counted over all
    /// workers. Default: as for a service.
    #[serde(default, skip_serializing_if = "ServiceLimits::is_default")]
    pub limits: ServiceLimits,
}

/// Whether plaintext is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MtlsMode {
    /// Mutual TLS only.
    Strict,
    /// Mutual TLS, and plaintext from those who have none.
    Permissive,
}

/// Where the application reaches the mesh: by `Host` header, as a forward proxy, or without knowing
/// of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outbound {
    /// Address and port. Default: `127.0.0.1:15001`.
    #[serde(default = "Outbound::default_bind")]
    pub bind: String,
    /// Connections come by `selvedge redirect`. HTTP that is for a service goes there; everything else
    /// goes on as it is to where it was going. For IPv6 as well: `bind: "[::]:15001"`. Default: false.
    #[serde(default)]
    pub transparent: bool,
    /// What the application may call where `transparent`: `any`, or `registryOnly`: services that this sidecar
    /// knows, by the configuration or from the cluster. Default: `any`.
    #[serde(default, skip_serializing_if = "Egress::is_any")]
    pub egress: Egress,
}

/// What an application may call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Egress {
    /// What is for no service goes on to where it was going.
    #[default]
    Any,
    /// What is for no service is refused.
    RegistryOnly,
}

impl Egress {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

impl Outbound {
    fn default_bind() -> String {
        format!("127.0.0.1:{}", crate::ports::OUTBOUND)
    }
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            bind: Self::default_bind(),
            transparent: false,
            egress: Egress::Any,
        }
    }
}

/// Metrics, access log and traces.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Telemetry {
    /// One line a request. Default: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// One span a hop. Default: contexts are passed on, nothing is exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
}

/// Where access-log lines go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLog {
    /// A file, reopened on SIGHUP, or `-` for standard output. Default: `-`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `json` or `text`. Default: `json`.
    pub format: LogFormat,
}

/// Form of an access-log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// `key=value`, for people.
    Text,
}

/// Export of spans.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// OTLP collector over gRPC, such as `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// Share of new traces that are sampled, in percent; a parent's decision wins. Default: 1.
    #[serde(default = "Tracing::default_sample")]
    pub sample: f64,
    /// `service.name` of the spans. Default: `selvedge`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
}

impl Tracing {
    const fn default_sample() -> f64 {
        1.0
    }
}

/// Admin and health ports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Admin {
    /// Admin address; loopback only, or `off`. Default: `127.0.0.1:15000`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<String>,
    /// Health, readiness and metrics address, or `off`. Default: `0.0.0.0:15020`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
}

/// What happens on SIGTERM.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Drain {
    /// Listeners still accept this long after readiness went off. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Duration>,
    /// What is in flight may take this long. Default: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}
