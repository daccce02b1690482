//! How a service balances: the choice of an endpoint, sessions, zones and levels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// How an endpoint is chosen: a word, or a mapping of one key where there is something to say about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Balance {
    /// A word.
    Word(Balancer),
    /// With what there is to say.
    With(BalanceSpec),
}

impl Default for Balance {
    fn default() -> Self {
        Self::Word(Balancer::LeastRequest)
    }
}

/// How an endpoint is chosen. All of them know weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Balancer {
    /// The less loaded of two at random: (in flight + 1) / weight.
    LeastRequest,
    /// In turn, smoothly by weight.
    RoundRobin,
    /// Of two drawn by weight, the one with fewer connections in use for its weight.
    LeastConnections,
    /// Of two at random, the one that answers sooner: response time (peak EWMA) x in flight / weight.
    ResponseTime,
    /// At random, by weight.
    Random,
    /// Of two at random, the one with fewer bytes a second for its weight.
    LeastBandwidth,
    /// Of two at random, the one that reports less load (ORCA, `endpoint-load-metrics`).
    ReportedLoad,
    /// Consistent hash of the client's address on a ring.
    RingHash,
    /// Consistent hash of the client's address by Maglev's table.
    Maglev,
}

/// One of these keys is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BalanceSpec {
    /// See `leastRequest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_request: Option<LeastRequest>,
    /// Consistent hash on a ring of 150 points an endpoint: the fewest keys move when endpoints change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring_hash: Option<ConsistentHash>,
    /// Consistent hash by Maglev's table: the most even spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maglev: Option<ConsistentHash>,
}

/// Least request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeastRequest {
    /// How many are compared. Default: `two`.
    pub scan: Scan,
}

/// How many endpoints are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Scan {
    /// Two at random.
    #[default]
    Two,
    /// All; the cost grows with the endpoints.
    Full,
}

/// A consistent hash.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConsistentHash {
    /// What is hashed; a request that has none goes anywhere. Default: `source`.
    pub by: HashBy,
    /// Most that an endpoint carries of what is in flight, times its fair share, 1.01 to 100; keys over
    /// it go to the next endpoint. 0: no bound. Default: 1.25.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounded_load: Option<f64>,
}

/// What of a request is hashed: `source`, or a mapping of one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HashBy {
    /// A word.
    Word(Source),
    /// With a name.
    Of(HashKey),
}

impl Default for HashBy {
    fn default() -> Self {
        Self::Word(Source::Source)
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The address of the client.
    Source,
}

/// One of these keys is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HashKey {
    /// Value of a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Value of a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// Value of a query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// Who comes back to the endpoint it had: `source`, or who brings the `cookie`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Sticky {
    /// A word.
    Word(Source),
    /// By a cookie.
    By(StickyBy),
}

/// Sessions by a cookie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StickyBy {
    /// The cookie. Set by the proxy: `HttpOnly`, `SameSite=Lax`, `Path=/`, over TLS `Secure`.
    pub cookie: StickyCookie,
}

/// A cookie that names an endpoint without telling its address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StickyCookie {
    /// Its name. Default: `SERVERID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How long a browser keeps it. Default: until it is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// File with a secret that all proxies of this service share, so that each knows the cookies of the
    /// others. Default: a random one, and sessions end with the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<String>,
}
