//! What several of these tests need: keys, requests, and a verifier that is not the CA's own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use selvedge_ca::Authority;
use selvedge_contract::identity::{SpiffeId, TrustDomain};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// A fixed time, so that nothing depends on when the tests run.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn domain() -> TrustDomain {
    "shop.local".parse().unwrap()
}

pub(crate) fn orders() -> SpiffeId {
    "spiffe://shop.local/ns/shop/sa/orders".parse().unwrap()
}

pub(crate) fn authority() -> Authority {
    Authority::ephemeral(&domain(), now()).unwrap()
}

/// A plain request and its P-256 key.
pub(crate) fn request() -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    (request_for(&key), key)
}

pub(crate) fn request_for(key: &KeyPair) -> String {
    let params = CertificateParams::default();
    params.serialize_request(key).unwrap().pem().unwrap()
}

pub(crate) fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Verifies leaf and intermediates against the roots in the last element, as a peer would.
pub(crate) fn verify(chain: &[String], at: SystemTime, client: bool) -> Result<(), webpki::Error> {
    let ders: Vec<_> = chain.iter().map(|pem| der(pem)).collect();
    let [leaf, intermediates @ .., root] = ders.as_slice() else {
        panic!("a chain of {} elements", ders.len());
    };
    let usage = if client {
        KeyUsage::client_auth()
    } else {
        KeyUsage::server_auth()
    };
    let seconds = at.duration_since(UNIX_EPOCH).unwrap();
    EndEntityCert::try_from(leaf)?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor_from_trusted_cert(root)?],
            intermediates,
            UnixTime::since_unix_epoch(seconds),
            usage,
            None,
            None,
        )
        .map(|_| ())
}
