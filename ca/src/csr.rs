//! A certificate request (PKCS#10, RFC 2986), reduced to the public key that signed it.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry as oid;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo as ParsedKey;

/// Longest request, in bytes of PEM.
pub const MAX_CSR: usize = 16 * 1024;
/// RSA keys in bits: shorter is weak (NIST SP 800-131A), longer only burns CPU.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a certificate request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// More than 16 KiB.
    #[error("the request is longer than 16 KiB")]
    TooLong,
    /// Not one PEM block `CERTIFICATE REQUEST` with PKCS#10 inside.
    #[error("not a PKCS#10 request in PEM")]
    Malformed,
    /// A key that is not P-256, P-384, Ed25519 or RSA of 2048 to 8192 bits.
    #[error("the key is not P-256, P-384, Ed25519 or RSA of 2048 to 8192 bits")]
    Key,
    /// The signature is missing, weak (SHA-1), unknown or does not verify.
    #[error("the signature does not verify: the caller does not prove to hold the key")]
    Signature,
}

/// The public key of `pem`, once its signature proves that the caller holds the private key.
///
/// Names, extensions and attributes are never looked at: what a certificate says comes from the
/// attested identity alone, and an odd extension is no reason to refuse.
pub(crate) fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, CsrError> {
    if pem.len() > MAX_CSR {
        return Err(CsrError::TooLong);
    }
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| CsrError::Malformed)?;
    // The second label is what old OpenSSL and Windows tools write.
    if !["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"].contains(&block.label.as_str()) {
        return Err(CsrError::Malformed);
    }
    let (rest, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let key = &request.certification_request_info.subject_pki;
    if !is_strong(key) {
        return Err(CsrError::Key);
    }
    let signed_with = &request.signature_algorithm.algorithm;
    if [oid::OID_PKCS1_SHA1WITHRSA, oid::OID_SHA1_WITH_RSA].contains(signed_with) {
        return Err(CsrError::Signature);
    }
    request
        .verify_signature()
        .map_err(|_| CsrError::Signature)?;
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| CsrError::Key)
}

fn is_strong(key: &ParsedKey<'_>) -> bool {
    let algorithm = &key.algorithm;
    if algorithm.algorithm == oid::OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
        curve.is_some_and(|c| c == oid::OID_EC_P256 || c == oid::OID_NIST_EC_P384)
    } else if algorithm.algorithm == oid::OID_PKCS1_RSAENCRYPTION {
        matches!(key.parsed(), Ok(PublicKey::RSA(rsa)) if RSA_BITS.contains(&rsa.key_size()))
    } else {
        algorithm.algorithm == oid::OID_SIG_ED25519
    }
}
