//! The policies of the configuration: what a request must satisfy, and what is done to it, apart
//! from where it goes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Duration, Rate};

use super::edge::{
    CachePolicy, Compression, Csrf, ErrorPage, ExtAuthz, Security, Transform, VersionPolicy,
};
use super::{
    BandwidthPolicy, BasicPolicy, ClientCertificatePolicy, ConcurrencyPolicy, FaultPolicy,
    HeaderEdits, IntrospectionPolicy, OidcPolicy, SignaturePolicy,
};

/// A named rule. Exactly one of its keys is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// Only these callers and requests; anyone else is answered 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Allow>>,
    /// None of these callers and requests: they are answered 403.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<Allow>>,
    /// What `allow` and `deny` would refuse is counted and logged, and passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
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
    /// A user's password; 401 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicPolicy>,
    /// A certificate of the client; 401 without, 403 with another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificatePolicy>,
    /// A signature of the request; 401 without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<SignaturePolicy>,
    /// Names of policies that ask who calls, of which one is enough; 401 if none is met.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub any_of: Option<Vec<String>>,
    /// So many requests in a time; 429 above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// So many requests of a client at a time; 429 above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencyPolicy>,
    /// So many bytes a second for a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<BandwidthPolicy>,
    /// Failures on purpose: waits, and refusals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultPolicy>,
    /// Which pages of other origins may call (Fetch standard, CORS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// A service that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ext_authz: Option<ExtAuthz>,
    /// Changes of requests and responses: headers, path, query, JSON bodies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
    /// Requests that change something come from pages of one's own; 403 to others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csrf: Option<Csrf>,
    /// Response headers that browsers protect users by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security: Option<Security>,
    /// A version of an API: counted, and its clients are told when it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionPolicy>,
    /// Pages in place of failures; the first that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_pages: Option<Vec<ErrorPage>>,
    /// Responses are kept for others who ask the same (RFC 9111).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<CachePolicy>,
    /// Responses are compressed for clients that take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// Rules that are tried before they are in force.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Audit {
    /// As in a policy: whoever is not of these would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<Allow>>,
    /// As in a policy: whoever is of these would be refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<Allow>>,
}

/// Callers and what they may do: every key that is set must fit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Allow {
    /// SPIFFE IDs of the peer; a final `/*` takes all below it. Empty: any, also none.
    pub principals: Vec<String>,
    /// Namespaces of the peer, `/ns/<namespace>/` in its SPIFFE ID, any of them; of the own trust domain,
    /// or of `trustDomains` where those are named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Trust domains of the peer, any of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trust_domains: Vec<String>,
    /// Ports that the peer has called, any of them: on a sidecar that takes redirected connections, those
    /// of the application.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Methods. Empty: any.
    pub methods: Vec<String>,
    /// Path prefixes, by whole segments. Empty: any.
    pub paths: Vec<String>,
    /// Headers, all of them. To let in, every line of a header must fit; to keep out, any line, or
    /// any item of a list, is enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderTest>,
    /// Words that the token's `scope` or `scp` must hold, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Roles, any of them: words of the token's `roles`, `role`, `groups` or `realm_access.roles`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Claims of the token and the values that they must have or hold.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, OneOrMany>,
    /// Names of API keys, any of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub consumers: Vec<String>,
    /// Plans of API keys, any of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<String>,
    /// Client addresses, as ranges such as `10.0.0.0/8`, any of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Countries of client addresses, as two capitals such as `DE`, any of them; needs `geo`. An address
    /// that the database does not know is in none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub countries: Vec<String>,
    /// An expression in CEL that must be true: `request.method == 'GET' && claims.tier == 'gold'`. It
    /// knows `request` (`method`, `host`, `path`, `query`, `headers`), `source` (`address`,
    /// `principal`, `country`), `claims`, `consumer` (`name`, `plan`). What cannot be said is false to let in, and
    /// true to keep out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
}

/// What a header must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderTest {
    /// Name; in any case, and with `_` for `-`.
    pub name: String,
    /// Value, or a regular expression for it.
    #[serde(default)]
    pub value: String,
    /// `Exact`, `RegularExpression`, `Present` or `Absent`. Default: `Exact`.
    #[serde(default, rename = "type")]
    pub kind: HeaderTestType,
}

/// How a header is tested.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HeaderTestType {
    /// The value to the letter.
    #[default]
    Exact,
    /// A regular expression finds something in the value.
    RegularExpression,
    /// It is there.
    Present,
    /// It is not there.
    Absent,
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
    /// How many: `100/min`, `10/s`, `5000/day`, `100000/month` (30 days).
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

/// A Redis or Valkey server, or a cluster, that several gateways share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisStore {
    /// `redis://host:6379/0`, or `rediss://` with TLS.
    pub address: String,
    /// The server is one of a cluster (Redis Cluster): each key is counted by the server that keeps
    /// its slot. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cluster: bool,
    /// Other servers of the cluster to ask where its keys are; it names the rest itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// User. Default: the server's default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password, read at every reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// File with the CA certificates of a `rediss://` address. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// How long a request waits for the server. One that is farther away than that is of no use: set
    /// more. Default: 5ms where each gateway may count for itself, else the `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<Duration>,
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
