//! The CA's own TLS identity: how it is presented, and how it is replaced while serving.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use crate::authority::Authority;
use crate::validity::Validity;

/// Certificate chain and key for the CA's TLS endpoint.
pub struct ServerIdentity {
    /// The leaf, then the intermediate.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key, PKCS#8. A secret: never log it, never write it.
    pub key: PrivateKeyDer<'static>,
    pub(crate) validity: Validity,
    pub(crate) serial: String,
    /// SHA-256 of the public key.
    pub(crate) key_sha256: String,
}

impl ServerIdentity {
    /// The last second of validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.validity.end()
    }
}

impl std::fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerIdentity")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

/// The identity that new handshakes get; replaced as a whole.
#[derive(Debug)]
pub(crate) struct CurrentIdentity(ArcSwap<Loaded>);

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    validity: Validity,
}

impl CurrentIdentity {
    pub(crate) fn new(identity: ServerIdentity) -> Result<Self, rustls::Error> {
        Ok(Self(ArcSwap::from_pointee(load(identity)?)))
    }

    /// Whether less than a third of its life is left.
    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        self.0.load().validity.is_due(now)
    }

    /// Whether this CA certificate signed it.
    pub(crate) fn is_by(&self, issuer: &CertificateDer<'_>) -> bool {
        let loaded = self.0.load();
        let shown = loaded.key.cert.get(1);
        // A root is not shown; it signs for as long as its files are there.
        shown.is_none_or(|shown| shown == issuer)
    }

    pub(crate) fn replace(&self, identity: ServerIdentity) -> Result<(), rustls::Error> {
        self.0.store(Arc::new(load(identity)?));
        Ok(())
    }
}

fn load(identity: ServerIdentity) -> Result<Loaded, rustls::Error> {
    let provider = aws_lc_rs::default_provider();
    let key = CertifiedKey::from_der(identity.chain, identity.key, &provider)?;
    Ok(Loaded {
        key: Arc::new(key),
        validity: identity.validity,
    })
}

impl ResolvesServerCert for CurrentIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

/// Verifies callers by the roots that are trusted at the time.
#[derive(Debug)]
struct Callers(Arc<Authority>);

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // They would tell nobody anything: a caller has one certificate.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verifier = self.0.verifier();
        verifier.verify_client_cert(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verifier = self.0.verifier();
        verifier.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verifier = self.0.verifier();
        verifier.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.verifier().supported_verify_schemes()
    }
}

/// TLS 1.3 only; a client certificate is optional, but one that is shown must be ours.
pub(crate) fn server_config(
    authority: Arc<Authority>,
    identity: Arc<CurrentIdentity>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Callers(authority)))
        .with_cert_resolver(identity);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would skip the check of the client's certificate.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn is_replaced_in_its_last_third() {
        let now = SystemTime::now();
        let domain = "shop.local".parse().unwrap();
        let authority = Authority::ephemeral(&domain, now).unwrap();
        let first = authority.server_identity(&[], now).unwrap();
        let current = CurrentIdentity::new(first).unwrap();
        let before = current.0.load().key.cert[0].clone();
        assert!(!current.is_due(now + Duration::from_secs(15 * 3600)));
        let later = now + Duration::from_secs(17 * 3600);
        assert!(current.is_due(later));
        let second = authority.server_identity(&[], later).unwrap();
        current.replace(second).unwrap();
        assert!(!current.is_due(later));
        assert_ne!(current.0.load().key.cert[0], before);
    }
}
