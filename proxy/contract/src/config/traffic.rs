//! Policies of the configuration that share what there is among clients.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Throughput;

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
