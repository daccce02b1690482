//! Certificates of ACME as bytes: made for a request, a challenge or the time before the first;
//! read and checked when they come.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::tls::provider;

/// A certificate with its key and what it says of itself.
#[derive(Debug)]
pub struct Certificate {
    /// Chain and key.
    pub key: Arc<CertifiedKey>,
    /// Beginning and end of its life.
    pub not_before: SystemTime,
    /// See `not_before`.
    pub not_after: SystemTime,
    /// Key identifier of its issuer and its serial number, both base64url: what the directory knows
    /// it by (RFC 9773 section 4.1). `None` where it does not name its issuer's key.
    pub id: Option<(String, String)>,
}

/// Why a chain with its key is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not usable: {0}")]
pub struct Unusable(String);

impl Unusable {
    fn because(why: impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

impl Certificate {
    /// Reads key and chain from PEM, and checks that they belong together and to `name`. Whether the
    /// certificate is in its time is for the caller.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn read(name: &str, pem: &[u8]) -> Result<Self, Unusable> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(Unusable::because)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let chain = chain.map_err(Unusable::because)?;
        let leaf = chain.first().ok_or(Unusable("no certificate".into()))?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(Unusable::because)?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let covers = names.is_some_and(|names| {
            let names = &names.value.general_names;
            names
                .iter()
                .any(|n| matches!(n, GeneralName::DNSName(n) if n.eq_ignore_ascii_case(name)))
        });
        if !covers {
            return Err(Unusable(format!("the certificate is not for `{name}`")));
        }
        let time = |t: x509_parser::time::ASN1Time| {
            UNIX_EPOCH + Duration::from_secs(u64::try_from(t.timestamp()).unwrap_or(0))
        };
        let validity = parsed.validity();
        let (not_before, not_after) = (time(validity.not_before), time(validity.not_after));
        let id = id_of(&parsed);
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(Unusable::because)?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(Unusable::because)?;
        Ok(Self {
            key: Arc::new(key),
            not_before,
            not_after,
            id,
        })
    }

    /// From its beginning to its end.
    #[must_use]
    pub fn life(&self) -> Duration {
        let life = self.not_after.duration_since(self.not_before);
        life.unwrap_or_default()
    }

    /// Whether it may be shown at this time.
    #[must_use]
    pub fn is_good(&self, now: SystemTime) -> bool {
        now < self.not_after
    }
}

fn id_of(certificate: &X509Certificate<'_>) -> Option<(String, String)> {
    let extensions = certificate.extensions().iter();
    let mut issuers = extensions.filter_map(|e| match e.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(aki) => aki.key_identifier.as_ref().map(|k| k.0),
        _ => None,
    });
    let issuer = URL_SAFE_NO_PAD.encode(issuers.next()?);
    let serial = URL_SAFE_NO_PAD.encode(certificate.raw_serial());
    Some((issuer, serial))
}

/// A new P-256 key with a request for `name`.
pub(super) struct Request {
    /// PKCS#10, DER.
    pub(super) csr: Vec<u8>,
    /// PKCS#8, PEM.
    pub(super) key: Zeroizing<String>,
}

/// Makes a key, anew for each certificate, and a request for it.
///
/// # Errors
/// When the name cannot stand in a certificate, or the system has no randomness.
pub(super) fn request(name: &str) -> Result<Request, rcgen::Error> {
    let key = KeyPair::generate()?;
    let request = params(name)?.serialize_request(&key)?;
    Ok(Request {
        csr: request.der().to_vec(),
        key: Zeroizing::new(key.serialize_pem()),
    })
}

fn params(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

/// What is shown before the first certificate is there.
///
/// # Errors
/// As [`request`].
pub(super) fn self_signed(name: &str) -> Result<CertifiedKey, Unusable> {
    sign(params(name).map_err(Unusable::because)?)
}

/// The certificate that answers a TLS-ALPN-01 challenge (RFC 8737 section 3): for the name, with
/// the SHA-256 of the key authorization in a critical extension.
///
/// # Errors
/// As [`request`].
pub(super) fn proof(name: &str, key_authorization: &str) -> Result<CertifiedKey, Unusable> {
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key_authorization.as_bytes());
    let mut params = params(name).map_err(Unusable::because)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    sign(params)
}

fn sign(params: CertificateParams) -> Result<CertifiedKey, Unusable> {
    let pair = KeyPair::generate().map_err(Unusable::because)?;
    let certificate = params.self_signed(&pair).map_err(Unusable::because)?;
    let der = Zeroizing::new(pair.serialize_der());
    let key = provider()
        .key_provider
        .load_private_key(PrivatePkcs8KeyDer::from(der.to_vec()).into())
        .map_err(Unusable::because)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain file as the store has it.
    fn file(name: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let certificate = params(name).unwrap().self_signed(&key).unwrap();
        key.serialize_pem() + &certificate.pem()
    }

    #[test]
    fn what_belongs_together_is_read() {
        let held = Certificate::read("a.example", file("a.example").as_bytes()).unwrap();
        assert!(held.is_good(UNIX_EPOCH + Duration::from_secs(1_000_000_000)));
        assert!(!held.is_good(held.not_after));
        assert!(Certificate::read("A.Example", file("a.example").as_bytes()).is_ok());
    }

    #[test]
    fn what_does_not_is_refused() {
        let (one, other) = (file("a.example"), file("a.example"));
        let halves = |text: &str| {
            let at = text.find("-----BEGIN CERT").unwrap();
            (text[..at].to_owned(), text[at..].to_owned())
        };
        let mixed = halves(&one).0 + &halves(&other).1;
        for bad in ["", "-----BEGIN", &halves(&one).0, &halves(&one).1, &mixed] {
            assert!(
                Certificate::read("a.example", bad.as_bytes()).is_err(),
                "{bad}"
            );
        }
        assert!(Certificate::read("b.example", one.as_bytes()).is_err());
    }

    #[test]
    fn the_proof_has_the_critical_extension() {
        let proof = proof("a.example", "token.thumbprint").unwrap();
        let (_, parsed) = X509Certificate::from_der(&proof.cert[0]).unwrap();
        let found = parsed
            .extensions()
            .iter()
            .find(|e| e.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .unwrap();
        assert!(found.critical);
        // An OCTET STRING of 32 bytes.
        assert_eq!((found.value.len(), &found.value[..2]), (34, &[4, 32][..]));
    }
}
