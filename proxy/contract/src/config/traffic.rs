//! Policies of the configuration that share what there is among clients.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Duration, Size, Throughput};

use super::OneOrMany;

/// How many requests of one client may be on their way at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConcurrencyPolicy {
    /// What tells clients apart: `address`, `route`, `host`, `header.<name>`, `jwt.<claim>`, `apiKey`,
    /// or a list of these. What a request does not have counts as its address. Default: `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<OneOrMany>,
    /// How many, from the head of a request to the last byte of its response.
    pub max: u32,
    /// How many for callers with a plan, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plans: BTreeMap<String, u32>,
    /// Where the plan's name is: `apiKey` or `jwt.<claim>`. Default: `apiKey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// A status of gRPC that another try may change (gRPC, "Status codes and their use").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum GrpcCode {
    /// 1.
    Cancelled,
    /// 2.
    Unknown,
    /// 4.
    DeadlineExceeded,
    /// 8.
    ResourceExhausted,
    /// 10.
    Aborted,
    /// 13.
    Internal,
    /// 14.
    Unavailable,
}

impl GrpcCode {
    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Cancelled => 1,
            Self::Unknown => 2,
            Self::DeadlineExceeded => 4,
            Self::ResourceExhausted => 8,
            Self::Aborted => 10,
            Self::Internal => 13,
            Self::Unavailable => 14,
        }
    }
}

/// Where copies of requests go. A request with a body of more than 64 KiB, or an upgrade, is not copied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    /// The service; a weight and filters have no meaning here.
    pub backend_ref: MirrorRef,
    /// Of so many requests in a hundred. Default: 100.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub percent: f64,
    /// Hold what it answers against what the client gets, and report differences. `compare: {}` for the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<MirrorComparison>,
}

/// How answers of a mirror are compared: status, headers and trailers, body. JSON is compared as JSON, whatever
/// the order of its members; any other body byte for byte.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MirrorComparison {
    /// Headers that may differ, in any case, besides those that always do, such as `Date` and `Set-Cookie`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_headers: Vec<String>,
    /// Members of JSON bodies that may differ or be missing, such as `updatedAt` or `items.*.id`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_members: Vec<String>,
    /// Whether bodies are compared. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<bool>,
    /// Longer bodies are not compared. Default: 64KiB, at most 1MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body: Option<Size>,
}

/// A service to copy to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorRef {
    /// Its name under `services`.
    pub service: String,
}

/// Failures on purpose, to see whether callers bear them. Where they happen is said by the rule or the service
/// that names the policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultPolicy {
    /// Requests that wait before they are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Requests that are answered here. Those that wait too do so first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// A wait on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// How long, 5 minutes at most. The deadline of the request goes on.
    pub duration: Duration,
    /// Of so many requests in a hundred. Default: 100.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub percentage: f64,
}

/// A refusal on purpose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbort {
    /// The status, from 400 to 599. Default: 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The status of calls of gRPC. Default: `unavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCode>,
    /// Of so many requests in a hundred. Default: 100.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub percentage: f64,
}

const fn all() -> f64 {
    100.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_all(percentage: &f64) -> bool {
    *percentage >= 100.0
}

/// How many bytes a second the bodies of one client may take, all of them together. What is faster
/// waits. A quarter of a second's worth may go at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BandwidthPolicy {
    /// What tells clients apart, as in `concurrency`. Default: `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<OneOrMany>,
    /// Bodies of requests, such as `1MiB/s`. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Throughput>,
    /// Bodies of responses. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Throughput>,
}
