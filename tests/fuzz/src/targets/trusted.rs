//! Whom the mesh trusts: bundles of other trust domains, lists of revoked certificates.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use selvedge::tls::federation::Bundle;
use selvedge::tls::revocation::Revocations;
use selvedge_contract::defaults::trust::{BUNDLE_LATEST, BUNDLE_SOONEST, LISTS};

/// A bundle in JSON, or a list in PEM, or in DER that is wrapped here.
pub(crate) fn trusted(input: &[u8]) {
    if input.starts_with(b"{") {
        return bundle(input);
    }
    let text = if input.starts_with(b"-") {
        input.to_vec()
    } else {
        let body = STANDARD.encode(input);
        format!("-----BEGIN X509 CRL-----\n{body}\n-----END X509 CRL-----\n").into_bytes()
    };
    let Ok(lists) = Revocations::parse(text) else {
        return;
    };
    assert!((1..=LISTS).contains(&lists.count()));
    assert!(lists.ended(SystemTime::UNIX_EPOCH).len() <= lists.count());
    // Each list is in one round, and no round has two of an issuer.
    let mut seen = 0;
    for round in lists.rounds() {
        seen += round.len();
        for (at, list) in round.iter().enumerate() {
            let others = round.get(at + 1..).unwrap_or_default();
            assert!(others.iter().all(|other| other.issuer() != list.issuer()));
        }
    }
    assert_eq!(seen, lists.count());
}

fn bundle(input: &[u8]) {
    let Ok(bundle) = Bundle::parse(input) else {
        return;
    };
    assert!((BUNDLE_SOONEST..=BUNDLE_LATEST).contains(&bundle.refresh));
    // A certificate takes more than this, whatever it leaves out.
    assert!(bundle.roots.len() <= input.len() / 32);
}
