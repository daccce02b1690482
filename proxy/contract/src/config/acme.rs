//! The `acme` section of the configuration: public certificates by ACME.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Certificates by ACME (RFC 8555), for listeners that name it in `tls.acme`. Whoever writes it
/// agrees to the directory's terms of service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Acme {
    /// The directory's address, `https://`. Default: Let's Encrypt,
    /// `https://acme-v02.api.letsencrypt.org/directory`.
    #[serde(default = "Acme::default_directory")]
    pub directory: String,
    /// File with the CA certificates that the directory is verified by, re-read for each order.
    /// Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory_ca: Option<String>,
    /// Where the directory may write to, such as `mailto:ops@shop.example`; sent when the account
    /// is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contact: Vec<String>,
    /// DNS names, at least one. Each gets a certificate of its own.
    pub names: Vec<String>,
    /// How control of a name is proven. Default: `tls-alpn-01`.
    #[serde(default)]
    pub challenge: AcmeChallenge,
    /// Directory for account, certificates, keys and open challenges; made if it is not there.
    /// Replicas share it.
    pub store: String,
    /// Binds the account to one that the directory's owner knows already (RFC 8555 section 7.3.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_account: Option<ExternalAccount>,
}

impl Acme {
    fn default_directory() -> String {
        "https://acme-v02.api.letsencrypt.org/directory".into()
    }
}

/// How control of a name is proven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AcmeChallenge {
    /// By a certificate shown on port 443 of the name (RFC 8737).
    #[default]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// By a file on port 80 of the name, which every `HTTP` listener answers for.
    #[serde(rename = "http-01")]
    Http01,
}

/// An account that the directory's owner knows already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalAccount {
    /// Its key's ID.
    pub key_id: String,
    /// File with its key, in base64url as the directory's owner gives it out.
    pub key_file: String,
}
