//! What the CA publishes for other trust domains: its bundle as SPIFFE has it, with the roots and the keys
//! of JWT-SVIDs (SPIFFE Trust Domain and Bundle, section 4).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use x509_parser::public_key::PublicKey;

use crate::jwt;
use crate::service::CaService;
use crate::signer::parse;

/// Seconds after which it is worth asking again: five minutes, as SPIFFE advises. A root is prepared long
/// before it signs.
const REFRESH: u64 = 300;

impl CaService {
    /// The keys that sign JWT-SVIDs, as any verifier of tokens takes them: JSON.
    #[must_use]
    pub fn jwks(&self) -> String {
        self.authority.jwks()
    }

    /// The bundle in force: JSON. `spiffe_sequence` grows with each change and each start.
    #[must_use]
    pub fn bundle_document(&self) -> String {
        let (signing, other) = self.authority.generations();
        let generations = || std::iter::once(&signing).chain(&other);
        let roots = self.authority.bundle_der();
        let mut keys: Vec<Value> = roots.iter().filter_map(root).collect();
        keys.extend(jwt::jwks(generations().map(|one| &*one.jwt), "jwt-svid"));
        let document = json!({
            "keys": keys,
            "spiffe_sequence": self.authority.sequence(),
            "spiffe_refresh_hint": REFRESH,
        });
        document.to_string()
    }
}

/// A root as a JWK; `None` for kinds of keys that JWKs do not have.
fn root(root: &CertificateDer<'static>) -> Option<Value> {
    let certificate = parse(root).ok()?;
    let text = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
    let mut jwk = Map::new();
    match certificate.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            let coordinates = point.data().split_first()?.1;
            // By its size: the curves that certificates have differ in it.
            let curve = match coordinates.len() {
                64 => "P-256",
                96 => "P-384",
                132 => "P-521",
                _ => return None,
            };
            let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
            jwk.insert("kty".into(), "EC".into());
            jwk.insert("crv".into(), curve.into());
            jwk.insert("x".into(), text(x));
            jwk.insert("y".into(), text(y));
        }
        PublicKey::RSA(rsa) => {
            let modulus = rsa.modulus;
            // Without the zero that keeps it positive (RFC 7518 section 6.3.1.1).
            let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
            jwk.insert("kty".into(), "RSA".into());
            jwk.insert("n".into(), text(modulus));
            jwk.insert("e".into(), text(rsa.exponent));
        }
        _ => return None,
    }
    jwk.insert("use".into(), "x509-svid".into());
    jwk.insert("x5c".into(), json!([STANDARD.encode(root)]));
    Some(Value::Object(jwk))
}
