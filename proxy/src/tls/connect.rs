//! TLS towards upstreams: configurations made at load, used by `upstream::connect`.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};

use super::files::{PairError, read_chain};
use super::store::IdentityStore;
use super::verify::{Expected, SpiffeVerifier};
use super::{MESH_HTTP, provider};

/// Mutual TLS to a mesh endpoint, which must show `expected`, or anyone of the own trust domain.
/// TLS 1.3 only; no resumption, so that each connection proves the identity anew.
///
/// # Errors
/// When the provider does not support TLS 1.3.
pub fn mesh_client(
    store: &Arc<IdentityStore>,
    expected: Option<Arc<str>>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let expected = expected.map_or(Expected::Own, Expected::One);
    let verifier = SpiffeVerifier::new(store.clone(), expected);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(store.clone());
    config.alpn_protocols = vec![MESH_HTTP.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// TLS to a server that must show this SPIFFE ID, by what is trusted at the time; it is not told who
/// asks.
///
/// # Errors
/// When the provider does not support TLS 1.3.
pub fn spiffe_client(
    store: &Arc<IdentityStore>,
    id: Arc<str>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let verifier = SpiffeVerifier::new(store.clone(), Expected::One(id));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Why TLS to a server cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The CA file.
    #[error(transparent)]
    File(#[from] PairError),
    /// What it holds.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The system's CAs.
    #[error("the system has no CA certificates: {0}")]
    NoSystemRoots(String),
}

/// TLS to a server outside the mesh, verified by name against a CA file or the system's CAs.
///
/// # Errors
/// See [`ClientError`].
pub fn server_client(ca: Option<&Path>, http2: bool) -> Result<Arc<ClientConfig>, ClientError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca {
        for certificate in read_chain(path)? {
            roots.add(certificate)?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(ClientError::NoSystemRoots(why.join("; ")));
        }
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let alpn: &[u8] = if http2 { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}
