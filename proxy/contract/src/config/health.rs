//! Active health checks of a service's endpoints.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

use super::HeaderValue;

/// How the endpoints of a service are asked whether they are well: over connections of their own, the same
/// way as requests go there (TLS, mutual TLS of the mesh, the service's protocol).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HealthCheck {
    /// What is asked: `http` (default), `grpc` (`grpc.health.v1`), or `tcp`: whether it takes connections.
    pub way: HealthWay,
    /// Port that is asked. Default: the endpoint's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `http`: path, with a query where it has one. Default: `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `http`, `grpc`: host. Default: `tls.serverName`, or the `dns` name, or the endpoint's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `http`: headers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderValue>,
    /// `http`: statuses of an endpoint that is well, `200` or `"200-299"`. Default: `"200-299"`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<StatusRange>,
    /// `http`: a text that the answer has to hold, within its first 64KiB. Default: any answer will do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// `http`: answers of an endpoint that is well, but can do less than it should.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<DegradedAnswer>,
    /// `grpc`: the service that is asked about. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Time between checks, a tenth more or less; a fifth of it while an endpoint changes sides.
    /// Default: 5s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// For one check, from the first packet to the last. Default: 2s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Failures in a row after which an endpoint gets no more requests; the first check of all counts
    /// alone. Default: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_after: Option<u32>,
    /// Successes in a row after which it gets requests again. Default: 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy_after: Option<u32>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HealthWay {
    /// A GET.
    #[default]
    Http,
    /// `grpc.health.v1.Health/Check`.
    Grpc,
    /// A connection, with its TLS.
    Tcp,
}

/// A status, or all from one to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum StatusRange {
    /// `204`.
    One(u16),
    /// `"200-299"`.
    Range(String),
}

/// Answers of an endpoint that can do less than it should. Any of `header` and `status` suffices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DegradedAnswer {
    /// A field of the answer, with any value but `false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Statuses, `218` or `"218-219"`. They need not be in `status` as well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<StatusRange>,
    /// Percent of its share that it gets as long as it says so, 1 to 99. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<u32>,
}
