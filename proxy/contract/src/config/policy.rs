//! The policies of the configuration: what a request must satisfy, and what is done to it, apart
//! from where it goes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Duration, Rate, Size};

use super::{HeaderEdits, IntrospectionPolicy, OidcPolicy};

/// A named rule. Exactly one of its keys is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// Only these callers; anyone else is answered 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Allow>>,
    /// Header edits that several routes share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeaderPolicy>,
    /// Only clients with these addresses; anyone else is answered 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<AddressPolicy>,
    /// A JSON Web Token that one of the issuer's keys has signed; 401 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtPolicy>,
    /// A session of a user who has logged in at an issuer; browsers are sent there, 401 for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcPolicy>,
    /// A token that its authorization server says is active; 401 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub introspection: Option<IntrospectionPolicy>,
    /// A key from a file; 401 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKeyPolicy>,
    /// So many requests in a time; 429 above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Which pages of other origins may call (Fetch standard, CORS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Responses are kept for others who ask the same (RFC 9111).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CachePolicy>,
    /// Responses are compressed for clients that take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// A shared cache (RFC 9111).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CachePolicy {
    /// Bytes of all that is kept. Default: 64MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Longer bodies are not kept. Default: 1MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest: Option<Size>,
    /// How long a response is fresh that says nothing of it. Default: not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// The same for 404 and 410. Default: not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_ttl: Option<Duration>,
    /// How long after that the old one is given while a new one is fetched, where the response does
    /// not say (RFC 5861). Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_while_revalidate: Option<Duration>,
    /// How long after that the old one is given while the upstream fails, where the response does
    /// not say (RFC 5861). Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_if_error: Option<Duration>,
}

/// Compression of responses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Compression {
    /// Codings, the best first. Default: `zstd`, `br`, `gzip`.
    pub codings: Vec<Coding>,
    /// Media types: exact, `text/*`, `*+json`. Default: text, JSON, XML, JavaScript, SVG, WebAssembly,
    /// fonts that are not compressed yet.
    pub types: Vec<String>,
    /// Shorter responses stay as they are. Default: 1KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Size>,
}

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Coding {
    /// Zstandard.
    Zstd,
    /// Brotli.
    Br,
    /// gzip.
    Gzip,
}

/// Callers and what they may do: every key that is set must fit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Allow {
    /// SPIFFE IDs of the peer; a final `/*` takes all below it. Empty: any, also none.
    pub principals: Vec<String>,
    /// Methods. Empty: any.
    pub methods: Vec<String>,
    /// Path prefixes, by whole segments. Empty: any.
    pub paths: Vec<String>,
}

/// Header edits in both directions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderPolicy {
    /// On the request, before it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<HeaderEdits>,
    /// On the response, before it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<HeaderEdits>,
}

/// Clients by address, as the listener's trusted hops see them. The longest range that fits counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AddressPolicy {
    /// Ranges such as `10.0.0.0/8` or `2001:db8::/32`, or single addresses. If there are any, only
    /// they may pass.
    pub allow: Vec<String>,
    /// Ranges that may not pass.
    pub deny: Vec<String>,
}

/// JSON Web Tokens (RFC 7519), as access tokens or ID tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtPolicy {
    /// What `iss` must be, to the letter.
    pub issuer: String,
    /// The issuer's keys: an `https://` (or `http://`) address, or a file, re-read when it changes.
    pub jwks: String,
    /// File with the CA certificates that the address is verified by. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_ca: Option<String>,
    /// Of these one must be in `aud`. At least one.
    pub audiences: Vec<String>,
    /// Claims that must be there beside `iss`, `aud` and `exp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Claims and the values that they must have or, where a claim is a list or words, hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, OneOrMany>,
    /// Words that `scope` (or `scp`) must hold, all of them; 403 without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Where the token is. Default: `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Or a cookie of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// Claims that the application gets as headers. What a client sends under these names is
    /// removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims_to_headers: Vec<Claim>,
    /// Pass the token on. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<bool>,
    /// Clocks may differ by this much. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew: Option<Duration>,
}

/// A claim as a header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Claim {
    /// Name of the claim; `a.b` for one inside another.
    pub claim: String,
    /// Name of the header.
    pub header: String,
}

/// Keys that identify a caller. One place of the three, or several, in this order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKeyPolicy {
    /// File with the keys' hashes, names and plans, made by `selvedge apikey new`; re-read when it
    /// changes.
    pub file: String,
    /// Header. Default, if nothing else is named: `X-API-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Query parameter. It is not passed on; but addresses are written to logs on their way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The application gets the key's name in this header. Default: `X-Consumer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_header: Option<String>,
    /// Pass the key itself on. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<bool>,
}

/// One value, or a list of which any will do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

/// A rate limit by GCRA: over any time, no more than rate x time + burst.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Who shares a limit: `address`, `route`, `host`, `header.<name>`, `jwt.<claim>`, `apiKey`, or a
    /// list of these for a combination. What a request does not have counts as its address. Default:
    /// `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<OneOrMany>,
    /// How many: `100/min`, `10/s`, `5000/day`.
    pub rate: Rate,
    /// How many at once. Default: the count of the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// What a request costs. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<u64>,
    /// Other rates for callers with a plan, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub plans: BTreeMap<String, Plan>,
    /// Where the plan's name is: `apiKey` or `jwt.<claim>`. Default: `apiKey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Only count and log, refuse nothing. Default: false.
    #[serde(default)]
    pub shadow: bool,
    /// Count together with other gateways, in the store of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<String>,
    /// While the store is lost: `local`, each gateway counts for itself, or `refuse`. Default:
    /// `local`.
    #[serde(default)]
    pub on_loss: OnLoss,
}

/// What happens while a store is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnLoss {
    /// Each gateway counts for itself.
    #[default]
    Local,
    /// Requests are answered 503.
    Refuse,
}

/// A Redis or Valkey server that several gateways share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisStore {
    /// `redis://host:6379/0`, or `rediss://` with TLS.
    pub address: String,
    /// User. Default: the server's default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password, read at every reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// File with the CA certificates of a `rediss://` address. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Silence after which the server counts as lost. Default: 50ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// The rate of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    /// How many.
    pub rate: Rate,
    /// How many at once. Default: the count of the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
}

/// Cross-origin resource sharing: answers preflights, marks responses.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cors {
    /// Origins such as `https://shop.example`; `https://*.shop.example` for all below; `*` for all,
    /// without credentials.
    pub allow_origins: Vec<String>,
    /// Methods. Default: `GET`, `HEAD`, `POST`.
    pub allow_methods: Vec<String>,
    /// Request headers. Default: none beside those that are always allowed.
    pub allow_headers: Vec<String>,
    /// Response headers that a page may read.
    pub expose_headers: Vec<String>,
    /// Cookies and `Authorization` may come along. Default: false.
    pub allow_credentials: bool,
    /// How long a browser may remember the answer. Default: 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
}
