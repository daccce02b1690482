//! Whom the mesh trusts: bundles of other trust domains, lists of revoked certificates, tokens of workloads.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use selvedge::tls::federation::Bundle;
use selvedge::tls::revocation::Revocations;
use selvedge_contract::defaults::trust::{BUNDLE_LATEST, BUNDLE_SOONEST, LISTS};
use selvedge_gateway::jwt::Keys;
use selvedge_gateway::jwt::svid::Unverified;

/// A bundle in JSON, a token, or a list in PEM, or in DER that is wrapped here.
pub(crate) fn trusted(input: &[u8]) {
    if input.starts_with(b"{") {
        return bundle(input);
    }
    if input.starts_with(b"ey") {
        return token(input);
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
    // Of no chain in particular, so every list may be about it. What a chain shows may be anything too.
    let shown = CertificateDer::from(input);
    let _ = lists.rounds_for(&[shown]);
    for round in lists.rounds_for(&[]) {
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
    // What is passed on is what is trusted, and keys in a form that others read.
    let published = &bundle.published;
    assert_eq!(published.roots.len(), bundle.roots.len());
    let again = Keys::read(published.tokens.jwks.as_bytes());
    assert_eq!(
        again.map_or(0, |keys| keys.len()),
        published.tokens.keys.len()
    );
}

fn token(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(token) = Unverified::read(&text) else {
        return;
    };
    assert!(
        token
            .subject()
            .is_none_or(|subject| subject.len() < text.len())
    );
    // Nobody vouches for it.
    let none = Keys::default();
    assert!(token.verify(&none, "billing", 0, 0).is_err());
}
