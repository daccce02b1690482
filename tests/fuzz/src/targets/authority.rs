//! Certificates: requests that the CA reads, and what peers show.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use selvedge::tls::verify::spiffe_id;
use selvedge_ca::Authority;
use selvedge_contract::identity::SpiffeId;

const ID: &str = "spiffe://shop.local/ns/shop/sa/web";

/// A request in PEM, or in DER that is wrapped here: changes to PEM seldom get past its base64.
///
/// Whatever it says, the certificate is that of the caller and of nobody else.
pub(crate) fn request(input: &[u8]) {
    static AUTHORITY: OnceLock<(Authority, SystemTime)> = OnceLock::new();
    let (authority, now) = AUTHORITY.get_or_init(|| {
        let now = SystemTime::now();
        let domain = "shop.local".parse().unwrap();
        (Authority::ephemeral(&domain, now).unwrap(), now)
    });
    let text = if input.starts_with(b"-") {
        String::from_utf8_lossy(input).into_owned()
    } else {
        let body = STANDARD.encode(input);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let id: SpiffeId = ID.parse().unwrap();
    let Ok(issued) = authority.issue(&text, &id, None, *now) else {
        return;
    };
    assert!(issued.not_after <= *now + Duration::from_secs(24 * 3600));
    assert_eq!(issued.chain_pem.len(), 3);
    let pem: String = issued.chain_pem[0]
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let leaf = STANDARD.decode(pem).expect("PEM");
    assert_eq!(spiffe_id(&leaf.as_slice().into()), Ok(id));
}

/// A certificate that a peer shows, in DER.
pub(crate) fn peer(input: &[u8]) {
    if let Ok(id) = spiffe_id(&input.into()) {
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        // It stands in the certificate as it is.
        let text = id.as_str().as_bytes();
        assert!(input.windows(text.len()).any(|w| w == text));
    }
}
