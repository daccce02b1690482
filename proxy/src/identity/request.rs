//! A new key and the certificate request for it. The proxy's own stays in memory.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::sign::SigningKey;
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

/// A key with its request.
pub struct NewKey {
    /// Ready to sign handshakes.
    pub key: Arc<dyn SigningKey>,
    /// PKCS#10, PEM. Names nothing: the CA decides the identity.
    pub csr_pem: String,
}

/// Why there is none.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Makes a P-256 key, anew for each certificate.
///
/// # Errors
/// When the system has no randomness or memory.
pub fn new_key() -> Result<NewKey, Failure> {
    new_exported_key().map(|(key, _)| key)
}

/// The same with the key as PKCS#8 (DER), for whoever it is made for.
///
/// # Errors
/// As [`new_key`].
pub(super) fn new_exported_key() -> Result<(NewKey, Zeroizing<Vec<u8>>), Failure> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let csr_pem = CertificateParams::default()
        .serialize_request(&pair)?
        .pem()?;
    let der = Zeroizing::new(pair.serialize_der());
    let pkcs8 = PrivatePkcs8KeyDer::from(der.to_vec());
    let key = crate::tls::provider()
        .key_provider
        .load_private_key(pkcs8.into())?;
    Ok((NewKey { key, csr_pem }, der))
}
