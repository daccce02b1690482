//! The listeners of a gateway's configuration: where they stand, and what they speak.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Gateway API listener plus `bind`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// Name, unique; routes refer to it in `parentRefs`.
    pub name: String,
    /// Address to bind. Default: `0.0.0.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<String>,
    /// Port to bind; `0` lets the system choose.
    pub port: u16,
    /// `HTTP` (HTTP/1.1 and HTTP/2 with prior knowledge), `HTTPS` (TLS, ALPN), `TCP` (bytes that are not
    /// looked into, by `tcpRoutes`), `TLS` (the same behind TLS, by `tlsRoutes`), or `UDP`
    /// (datagrams, by `udpRoutes`). Default: `HTTP`.
    #[serde(default)]
    pub protocol: ListenerProtocol,
    /// Only requests for this host: exact, or `*.` and a suffix. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Proxies before this one that append to `X-Forwarded-For` whom they saw. So many of its last
    /// entries are believed and passed on, also `X-Forwarded-Proto` and `-Host`. Default: 0, nobody
    /// is believed.
    #[serde(default)]
    pub trusted_hops: u8,
    /// Load balancers that say whom they speak for by the PROXY protocol (version 1 or 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What is done with `%2F` and `%5C` in a path: `refuse` (400), as an application that decodes them
    /// sees another path than routes and policies did, or `keep`, for those that want them so. Policies
    /// take them for slashes either way. Default: `refuse`.
    #[serde(default)]
    pub encoded_slashes: EncodedSlashes,
    /// Names of policies for all that comes here; one of the same kind at a route or rule wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Certificates of an `HTTPS` or `TLS` listener, or that TLS passes through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// Who speaks for others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Addresses and ranges of the load balancers. From these a PROXY header is demanded; from others
    /// it is no HTTP.
    pub from: Vec<String>,
}

/// What is done with encoded slashes and backslashes in a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EncodedSlashes {
    /// 400.
    #[default]
    Refuse,
    /// They go on as they are.
    Keep,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ListenerProtocol {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// The same over TLS; HTTP/2 by ALPN.
    #[serde(rename = "HTTPS")]
    Https,
    /// Bytes that are not looked into; see `tcpRoutes`.
    #[serde(rename = "TCP")]
    Tcp,
    /// The same behind TLS, told apart by the name that clients ask for; see `tlsRoutes`.
    #[serde(rename = "TLS")]
    Tls,
    /// Datagrams; see `udpRoutes`.
    #[serde(rename = "UDP")]
    Udp,
}

impl ListenerProtocol {
    /// Whether what it brings are requests.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Udp => "UDP",
        }
    }
}

/// Whether TLS ends at a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// It does: what is in it goes on.
    #[default]
    Terminate,
    /// It does not: it goes on as it is, and is read no further than the name that the client asks for.
    Passthrough,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// `Terminate`, or for `TLS` listeners `Passthrough`. Default: `Terminate`.
    #[serde(default)]
    pub mode: TlsMode,
    /// Certificates in files; at least one without `acme`. The one whose name fits the client's SNI
    /// is shown, else the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFiles>,
    /// Name of an entry in `acme` that obtains certificates, beside or instead of the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<String>,
    /// Least TLS version. Default: `1.2`.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// Clients show certificates of their own. Default: they are not asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificates>,
}

/// Certificates of clients (mutual TLS at the edge).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificates {
    /// File with the CA certificates that they are verified by, PEM; re-read when it changes.
    pub ca: String,
    /// File with what these CAs have revoked (CRL, PEM); re-read when it changes. A list that is out
    /// of date lets nobody in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl: Option<String>,
    /// `required`: no handshake without one. `optional`: who shows one must show a valid one; what
    /// needs one asks for it by a policy. Default: `required`.
    #[serde(default)]
    pub mode: ClientCertificateMode,
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClientCertificateMode {
    /// They must.
    #[default]
    Required,
    /// They may.
    Optional,
}

/// A TLS version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2 with ECDHE and AEAD only.
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// A certificate chain and its key, in PEM files, and what its issuer says of it; re-read when they
/// change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateFiles {
    /// Chain file, leaf first.
    pub certificate: String,
    /// Key file (PKCS#8, SEC1 or PKCS#1).
    pub key: String,
    /// File with an OCSP response in DER, shown to clients that ask until its `nextUpdate`. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<String>,
}
