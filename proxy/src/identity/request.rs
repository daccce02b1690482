//! A new key and the certificate request for it. The key stays in memory.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::sign::SigningKey;
use rustls_pki_types::PrivatePkcs8KeyDer;

/// A key with its request.
pub struct NewKey {
    /// Ready to sign handshakes.
    pub key: Arc<dyn SigningKey>,
    /// PKCS#10, PEM. Names nothing: the CA decides the identity.
    pub csr_pem: String,
}

/// Makes a P-256 key, anew for each certificate.
///
/// # Errors
/// When the system has no randomness or memory.
pub fn new_key() -> Result<NewKey, Box<dyn std::error::Error + Send + Sync>> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let csr_pem = CertificateParams::default()
        .serialize_request(&pair)?
        .pem()?;
    let der = zeroize::Zeroizing::new(pair.serialize_der());
    let der = PrivatePkcs8KeyDer::from(der.to_vec());
    let key = crate::tls::provider()
        .key_provider
        .load_private_key(der.into())?;
    Ok(NewKey { key, csr_pem })
}
