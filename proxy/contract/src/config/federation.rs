//! Other trust domains, whose workloads may be called and let in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Another trust domain: by which roots its workloads are verified, from a file or from an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Federated {
    /// Its name, such as `partner.example`.
    pub trust_domain: String,
    /// File with its bundle, as SPIFFE has it (JSON) or as PEM; re-read when it changes. With an
    /// `endpoint`: what is trusted until that has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// Where its bundle is kept up to date, `https://host/path`; asked again after
    /// `spiffe_refresh_hint`, within 10 s and 1 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Whom the endpoint proves to be. Default: `https_web`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// `https_spiffe`: the endpoint's SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_id: Option<String>,
    /// `https_web`: file with the CA of the endpoint. Default: the system's CAs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

/// How a bundle endpoint is verified (SPIFFE Federation, section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// By its name, as any server.
    HttpsWeb,
    /// By its SPIFFE ID.
    HttpsSpiffe,
}
