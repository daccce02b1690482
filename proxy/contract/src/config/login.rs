//! Policies of the configuration that ask an issuer who a caller is: login by OpenID Connect, and
//! token introspection.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

use super::{Claim, OneOrMany};

/// Login by OpenID Connect (authorization code flow with PKCE), kept in an encrypted cookie.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OidcPolicy {
    /// The issuer, to the letter; its metadata is at `/.well-known/openid-configuration` below it.
    /// `https://`, or `http://` on loopback.
    pub issuer: String,
    /// File with the CA certificates that the issuer is verified by. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ca: Option<String>,
    /// Name of this gateway at the issuer.
    pub client_id: String,
    /// File with the secret that goes with it, re-read when it changes. Default: none, a public
    /// client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_file: Option<String>,
    /// What is asked for. `openid` is always among it. Default: `openid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Origin that users see, such as `https://shop.example.com`. Default: scheme and host of the
    /// request, as trusted proxies tell them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// Path to which the issuer sends users back. Default: `/oauth2/callback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
    /// Path that ends a session. Default: `/oauth2/logout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logout: Option<String>,
    /// Path to which users come after that. Default: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_logout: Option<String>,
    /// Name of the session's cookie; behind https it gets the prefix `__Host-`. Default:
    /// `selvedge_session`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// File with keys that seal cookies: 32 bytes in base64, one a line. The first seals, all of
    /// them open; re-read when it changes.
    pub session_key_file: String,
    /// A session ends this long after the login. Default: 8h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_life: Option<Duration>,
    /// Claims that must be there; 403 without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Claims and the values that they must have or, where a claim is a list or words, hold; 403
    /// without.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, OneOrMany>,
    /// Claims that the application gets as headers. What a client sends under these names is
    /// removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims_to_headers: Vec<Claim>,
    /// Clocks may differ by this much. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew: Option<Duration>,
    /// One question to the issuer takes this long at most. Default: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// Token introspection (RFC 7662): an authorization server is asked about each bearer token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IntrospectionPolicy {
    /// Where to ask: `https://`, or `http://` on loopback.
    pub endpoint: String,
    /// File with the CA certificates that the endpoint is verified by. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_ca: Option<String>,
    /// Name of this gateway at the authorization server.
    pub client_id: String,
    /// File with the secret that goes with it, re-read when it changes.
    pub client_secret_file: String,
    /// What `iss` must be, to the letter. Default: not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Of these one must be in `aud`. Default: not looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// Words that `scope` must hold, all of them; 403 without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Claims that must be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Claims and the values that they must have or, where a claim is a list or words, hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, OneOrMany>,
    /// Claims that the application gets as headers. What a client sends under these names is
    /// removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims_to_headers: Vec<Claim>,
    /// Pass the token on. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<bool>,
    /// An answer is remembered for this long, but not beyond `exp`; 0s asks each time. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Duration>,
    /// One question takes this long at most. Default: 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Clocks may differ by this much. Default: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skew: Option<Duration>,
}
