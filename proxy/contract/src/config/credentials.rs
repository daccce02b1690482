//! Policies of the configuration that ask for proof of who calls: passwords, certificates,
//! signatures.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Duration, Size};

/// User and password (RFC 7617).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BasicPolicy {
    /// File of users, a line `user:hash` for each, with hashes of argon2id or bcrypt; made by
    /// `selvedge password` or `htpasswd -B`; re-read when it changes.
    pub file: String,
    /// What browsers show when they ask for the password. Default: the policy's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub realm: Option<String>,
    /// The application gets the user's name in this header. Default: `X-Consumer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_header: Option<String>,
    /// Pass the password on. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<bool>,
}

/// The certificate that a connection was opened with; the listener's `tls.clientCertificates` says
/// which are valid.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientCertificatePolicy {
    /// Names of which it must have one: `dns:`, `uri:`, `email:` for alternative names, `cn:` for the
    /// common name, with a `*` at the beginning or the end. Empty, as `fingerprints`: any.
    pub names: Vec<String>,
    /// SHA-256 of certificates that will do as well, in hexadecimal digits, with or without `:`.
    pub fingerprints: Vec<String>,
    /// The application gets the holder's name in this header. Default: `X-Consumer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_header: Option<String>,
}

/// A signature of the request by a shared secret (HMAC-SHA256).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignaturePolicy {
    /// How it is written: `message` (HTTP Message Signatures, RFC 9421), or as webhooks have it:
    /// `standardWebhooks`, `gitHub`, `stripe`.
    pub form: SignatureForm,
    /// `message`: who signs, by `keyid`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, SignatureKey>,
    /// Webhooks: files with secrets, of which any will do; two while one takes the other's place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_files: Vec<String>,
    /// `message`: headers that must be signed, beside method, authority, path, query and body.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// How old a signature may be. Default: 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// Bytes of a body, which is held until it is verified. Default: 1MiB. Over it: 413.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<Size>,
    /// `message`: the application gets the `keyid` in this header. Default: `X-Consumer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_header: Option<String>,
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SignatureForm {
    /// HTTP Message Signatures.
    Message,
    /// `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    StandardWebhooks,
    /// `X-Hub-Signature-256`.
    GitHub,
    /// `Stripe-Signature`.
    Stripe,
}

/// Somebody who signs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SignatureKey {
    /// File with the secret: its text, or `base64:` and base64; re-read when it changes.
    pub secret_file: String,
    /// Plan, for rate limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}
