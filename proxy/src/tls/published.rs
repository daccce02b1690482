//! What a trust domain publishes, in the forms in which applications are given it: roots, and the keys that
//! sign JWT-SVIDs.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use selvedge_gateway::jwt::Keys;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Keys of JWT-SVIDs in a bundle (SPIFFE Trust Domain and Bundle, section 4.2.2).
const USE: &str = "jwt-svid";

/// See the module.
#[derive(Debug, Default)]
pub struct Published {
    /// Root certificates.
    pub roots: Vec<CertificateDer<'static>>,
    /// Keys that sign JWT-SVIDs.
    pub tokens: Arc<TokenKeys>,
}

/// Keys that sign JWT-SVIDs.
#[derive(Debug)]
pub struct TokenKeys {
    /// As a standard JWK set (RFC 7517): without the `use` that only SPIFFE knows.
    pub jwks: String,
    /// The same, to verify with.
    pub keys: Keys,
}

impl Default for TokenKeys {
    fn default() -> Self {
        Self::of(&[])
    }
}

impl PartialEq for Published {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots && self.tokens.jwks == other.tokens.jwks
    }
}

impl TokenKeys {
    /// Those for JWT-SVIDs among the keys of a bundle. Keys without an ID are no JWT-SVID keys (section
    /// 4.2.3), and one that cannot be used leaves the others as they are.
    #[must_use]
    pub fn of(keys: &[Value]) -> Self {
        let for_tokens = keys.iter().filter_map(Value::as_object).filter(|key| {
            let says = |name: &str| key.get(name).and_then(Value::as_str);
            says("use") == Some(USE) && says("kid").is_some_and(|kid| !kid.is_empty())
        });
        let standard = for_tokens.map(|key| {
            let members = key.iter().filter(|(name, _)| *name != "use");
            let members = members.map(|(name, value)| (name.clone(), value.clone()));
            Value::Object(members.collect::<Map<_, _>>())
        });
        let jwks = json!({ "keys": standard.collect::<Vec<_>>() }).to_string();
        // No key at all is no error: the domain has no JWT-SVIDs, or has taken them back.
        let keys = Keys::read(jwks.as_bytes()).unwrap_or_default();
        Self { jwks, keys }
    }

    /// Those in a JWK set; `None` where the text is none.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_str(text).ok()?;
        Some(Self::of(&set.keys))
    }
}

/// Certificates as PEM, one after the other.
#[must_use]
pub fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let all = certificates.iter();
    all.map(|certificate| pem_of("CERTIFICATE", certificate))
        .collect()
}

/// DER as PEM (RFC 7468).
#[must_use]
pub fn pem_of(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    // 48 bytes are a line of 64.
    for line in der.chunks(48) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_tokens_are_passed_on_and_in_the_standard_form() {
        let key = |more: &str| {
            let x = "A".repeat(43);
            format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{x}"{more}}}"#)
        };
        let all = [
            key(r#","kid":"a","use":"jwt-svid""#),
            key(r#","kid":"b","use":"x509-svid""#),
            key(r#","kid":"c""#),
            key(r#","use":"jwt-svid""#),
            r#"7"#.into(),
        ];
        let read = TokenKeys::read(&format!(r#"{{"keys":[{}]}}"#, all.join(","))).unwrap();
        let set: Value = serde_json::from_str(&read.jwks).unwrap();
        assert_eq!(set["keys"].as_array().unwrap().len(), 1);
        assert_eq!(set["keys"][0]["kid"], "a");
        assert!(set["keys"][0].get("use").is_none());
        assert_eq!(read.keys.len(), 1);
        assert_eq!(TokenKeys::default().jwks, r#"{"keys":[]}"#);
        assert!(TokenKeys::read("").is_none() && TokenKeys::read("{}").is_none());
    }
}
