//! Who a peer in the mesh is: chain by webpki, then the rules of X.509-SVID, then the identity
//! that is expected of it.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use selvedge_contract::identity::SpiffeId;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::store::IdentityStore;
use super::trust::{Role, svid_error};

/// Verifies peers on either side of a mesh connection.
pub struct SpiffeVerifier {
    store: Arc<IdentityStore>,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Whom a peer must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The one with this ID, of whatever trust domain.
    One(Arc<str>),
    /// Anyone of the own trust domain.
    Own,
    /// Anyone of a trust domain that is trusted: what it may do is for policies to say.
    Anyone,
}

impl fmt::Debug for SpiffeVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeVerifier({:?})", self.expected)
    }
}

/// Why a certificate is no SVID, or not the one expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// Not a certificate.
    #[error("the certificate is not well formed")]
    Malformed,
    /// No URI SAN, or several (X509-SVID 2).
    #[error("the certificate has {0} URI names instead of one")]
    UriNames(usize),
    /// The URI is no SPIFFE ID.
    #[error("the URI name is not a SPIFFE ID: {0}")]
    Id(#[from] selvedge_contract::identity::IdentityError),
    /// A certificate that may sign others is no leaf (X509-SVID 4).
    #[error("the certificate may sign others")]
    Signing,
    /// Its key is not for signatures, or nothing says what it is for (X509-SVID 4.3).
    #[error("the certificate's key usage does not have digitalSignature")]
    KeyUsage,
    /// Another trust domain.
    #[error("the peer belongs to trust domain {0}")]
    TrustDomain(String),
    /// Somebody else.
    #[error("the peer is {found}, not {expected}")]
    Other {
        /// Who it is.
        found: String,
        /// Who it should be.
        expected: String,
    },
}

/// The SPIFFE ID of a leaf, by the rules of X509-SVID sections 2 to 5. What its extended key usage
/// must be, webpki sees to.
///
/// # Errors
/// See [`SvidError`].
pub fn spiffe_id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, SvidError> {
    let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| SvidError::Malformed)?;
    if !rest.is_empty() {
        return Err(SvidError::Malformed);
    }
    let mut uris = Vec::new();
    let mut signs = false;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                uris.extend(names.general_names.iter().filter_map(|name| match name {
                    GeneralName::URI(uri) => Some(*uri),
                    _ => None,
                }));
            }
            ParsedExtension::BasicConstraints(basic) if basic.ca => return Err(SvidError::Signing),
            ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
                return Err(SvidError::Signing);
            }
            ParsedExtension::KeyUsage(usage) => signs = usage.digital_signature(),
            _ => {}
        }
    }
    if !signs {
        return Err(SvidError::KeyUsage);
    }
    match uris.as_slice() {
        [uri] => Ok(uri.parse()?),
        several => Err(SvidError::UriNames(several.len())),
    }
}

impl SpiffeVerifier {
    /// A verifier that trusts what `store` trusts, at the time of each handshake.
    #[must_use]
    pub fn new(store: Arc<IdentityStore>, expected: Expected) -> Self {
        Self {
            store,
            expected,
            algorithms: super::provider().signature_verification_algorithms,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<(), Error> {
        let own = self.store.trust_domain();
        let trust = self.store.trust();
        let id = trust.verify(own, (leaf, intermediates), role, now)?;
        self.check_identity(&id).map_err(svid_error)
    }

    fn check_identity(&self, id: &SpiffeId) -> Result<(), SvidError> {
        match &self.expected {
            Expected::One(expected) if **expected != *id.as_str() => Err(SvidError::Other {
                found: id.to_string(),
                expected: expected.to_string(),
            }),
            Expected::Own if !id.is_member_of(self.store.trust_domain()) => {
                Err(SvidError::TrustDomain(id.trust_domain().to_owned()))
            }
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, intermediates, now, Role::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Hints would tell strangers whom we trust, and peers have one certificate anyway.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, intermediates, now, Role::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
