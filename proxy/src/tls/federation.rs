//! Bundles of other trust domains: JSON as SPIFFE has it, or PEM.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use selvedge_contract::defaults::trust::{
    BUNDLE_AGAIN, BUNDLE_BYTES, BUNDLE_LATEST, BUNDLE_SOONEST,
};
use serde::Deserialize;
use serde_json::Value;

use super::published::{Published, TokenKeys};

/// The roots of a trust domain, and when to ask for them again.
#[derive(Debug)]
pub struct Bundle {
    /// Roots. None at all: the domain has taken all of them back.
    pub roots: RootCertStore,
    /// The same, and the keys of its JWT-SVIDs, to be passed on.
    pub published: Published,
    /// Grows with each change that the domain makes, where it says so.
    pub sequence: Option<u64>,
    /// Until the next look, within bounds.
    pub refresh: Duration,
}

/// What is wrong with a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BundleError(String);

/// A bundle as a JWK set (SPIFFE Trust Domain and Bundle, section 4).
#[derive(Debug, Deserialize)]
struct Document {
    keys: Vec<Value>,
    #[serde(default)]
    spiffe_sequence: Option<u64>,
    #[serde(default)]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Key {
    #[serde(rename = "use", default)]
    usage: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

impl Bundle {
    /// Reads a file, JSON or PEM.
    ///
    /// # Errors
    /// [`BundleError`]: no file, larger than [`BUNDLE_BYTES`], or not a bundle.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let wrong = |why: String| BundleError(format!("{}: {why}", path.display()));
        let size = std::fs::metadata(path).map_err(|e| wrong(e.to_string()))?;
        if size.len() > BUNDLE_BYTES as u64 {
            return Err(wrong(format!("larger than {BUNDLE_BYTES} bytes")));
        }
        let text = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        Self::parse(&text).map_err(|error| wrong(error.0))
    }

    /// Reads JSON, or PEM where the text does not begin as JSON does.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn parse(text: &[u8]) -> Result<Self, BundleError> {
        if text.trim_ascii_start().starts_with(b"{") {
            return Self::parse_json(text);
        }
        let (mut roots, mut published) = (RootCertStore::empty(), Published::default());
        for certificate in CertificateDer::pem_slice_iter(text) {
            let certificate = certificate.map_err(|e| BundleError(e.to_string()))?;
            add(&mut roots, &mut published, certificate)?;
        }
        if roots.is_empty() {
            let why = "neither a SPIFFE bundle (JSON) nor certificates (PEM)";
            return Err(BundleError(why.into()));
        }
        Ok(Self {
            roots,
            published,
            sequence: None,
            refresh: BUNDLE_AGAIN,
        })
    }

    /// Reads JSON. Keys for tokens are passed on, others are left out (section 4.2.2).
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn parse_json(text: &[u8]) -> Result<Self, BundleError> {
        let document: Document = serde_json::from_slice(text)
            .map_err(|error| BundleError(format!("not a SPIFFE bundle: {error}")))?;
        let mut roots = RootCertStore::empty();
        let mut published = Published {
            roots: Vec::new(),
            tokens: Arc::new(TokenKeys::of(&document.keys)),
        };
        for (at, key) in document.keys.into_iter().enumerate() {
            let key: Key = serde_json::from_value(key).map_err(|error| {
                BundleError(format!("not a SPIFFE bundle: keys[{at}]: {error}"))
            })?;
            if key.usage.as_deref() != Some("x509-svid") {
                continue;
            }
            let [certificate] = key.x5c.as_slice() else {
                let count = key.x5c.len();
                let why = format!("keys[{at}].x5c has {count} certificates instead of one");
                return Err(BundleError(why));
            };
            let der = STANDARD.decode(certificate);
            let der = der.map_err(|e| BundleError(format!("keys[{at}].x5c: {e}")))?;
            add(&mut roots, &mut published, der.into())
                .map_err(|e| BundleError(format!("keys[{at}]: {}", e.0)))?;
        }
        let hint = document.spiffe_refresh_hint.map(Duration::from_secs);
        let refresh = hint.unwrap_or(BUNDLE_AGAIN);
        Ok(Self {
            roots,
            published,
            sequence: document.spiffe_sequence,
            refresh: refresh.clamp(BUNDLE_SOONEST, BUNDLE_LATEST),
        })
    }
}

fn add(
    roots: &mut RootCertStore,
    published: &mut Published,
    certificate: CertificateDer<'_>,
) -> Result<(), BundleError> {
    let certificate = certificate.into_owned();
    published.roots.push(certificate.clone());
    roots
        .add(certificate)
        .map_err(|e| BundleError(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> rcgen::Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&key).unwrap()
    }

    fn read(text: &str) -> Result<(usize, Option<u64>, u64), BundleError> {
        let bundle = Bundle::parse(text.as_bytes())?;
        Ok((
            bundle.roots.len(),
            bundle.sequence,
            bundle.refresh.as_secs(),
        ))
    }

    #[test]
    fn bundles_in_both_forms() {
        let root = root();
        let x5c = STANDARD.encode(root.der());
        let key = format!(r#"{{"kty":"EC","use":"x509-svid","x5c":["{x5c}"]}}"#);
        let other = r#"{"kty":"EC","use":"jwt-svid","kid":"a"},{"kty":"EC"}"#;
        for (text, want) in [
            (root.pem(), (1, None, 300)),
            (format!(r#"{{"keys":[{key}]}}"#), (1, None, 300)),
            (
                format!(
                    r#"{{"keys":[{other},{key}],"spiffe_sequence":7,"spiffe_refresh_hint":60}}"#
                ),
                (1, Some(7), 60),
            ),
            // Bounds, whatever it hints.
            (
                r#"{"keys":[],"spiffe_refresh_hint":0}"#.into(),
                (0, None, 10),
            ),
            (
                r#"{"keys":[],"spiffe_refresh_hint":99999999999}"#.into(),
                (0, None, 3600),
            ),
        ] {
            assert_eq!(read(&text), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_bundle() {
        for text in [
            "",
            "hello",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":[{"use":"x509-svid"}]}"#,
            r#"{"keys":[{"use":"x509-svid","x5c":["AAAA","AAAA"]}]}"#,
            r#"{"keys":[{"use":"x509-svid","x5c":["AAAA"]}]}"#,
            r#"{"keys":[{"use":"x509-svid","x5c":["!"]}]}"#,
            r#"{"keys":[],"spiffe_refresh_hint":-1}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
