//! What is answered about certificates: the application's own, and the roots of every trust domain.

use std::collections::BTreeMap;

use selvedge_contract::workload::{X509BundlesResponse, X509svid, X509svidResponse};
use tonic::Status;

use crate::identity::applicant::Svid;
use crate::tls::IdentityStore;
use crate::tls::trust::Trust;

/// No certificate, at this moment.
pub(super) fn none_yet() -> Status {
    Status::unavailable("there is no certificate yet")
}

/// The application's certificate and all that is trusted.
///
/// # Errors
/// `UNAVAILABLE` where there is none.
pub(super) fn svid(store: &IdentityStore, svid: Option<&Svid>) -> Result<X509svidResponse, Status> {
    let svid = svid.ok_or_else(none_yet)?;
    let trust = store.trust();
    let own = store.trust_domain();
    let mut bundles = bundles_of(&trust);
    let bundle = bundles.remove(&own.uri()).unwrap_or_default();
    let svid = X509svid {
        spiffe_id: svid.identity.id.to_string(),
        x509_svid: concatenated(&svid.identity.key.cert),
        x509_svid_key: svid.key.to_vec(),
        bundle,
        hint: String::new(),
    };
    Ok(X509svidResponse {
        svids: vec![svid],
        crl: trust.revoked.der(),
        federated_bundles: bundles,
    })
}

/// All that is trusted.
///
/// # Errors
/// `UNAVAILABLE` where the proxy has no certificate: what it trusts then is only what a file says.
pub(super) fn bundles(store: &IdentityStore) -> Result<X509BundlesResponse, Status> {
    if !store.is_ready() {
        return Err(none_yet());
    }
    let trust = store.trust();
    Ok(X509BundlesResponse {
        crl: trust.revoked.der(),
        bundles: bundles_of(&trust),
    })
}

/// DER, by the ID of the trust domain. One that has taken back all of its roots is trusted no more.
fn bundles_of(trust: &Trust) -> BTreeMap<String, Vec<u8>> {
    let there = trust
        .published
        .iter()
        .filter(|(_, is)| !is.roots.is_empty());
    there
        .map(|(name, published)| (format!("spiffe://{name}"), concatenated(&published.roots)))
        .collect()
}

fn concatenated(certificates: &[impl AsRef<[u8]>]) -> Vec<u8> {
    certificates
        .iter()
        .flat_map(|one| one.as_ref().iter().copied())
        .collect()
}
