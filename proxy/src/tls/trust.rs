//! What is trusted at one moment: the roots of every trust domain, and what issuers have taken back.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};
use selvedge_contract::identity::{SpiffeId, TrustDomain};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use x509_parser::prelude::{FromDer, X509Certificate};

use super::published::Published;
use super::revocation::Revocations;
use super::verify::{SvidError, spiffe_id};

/// See the module. Made anew at each change; handshakes and checks see one whole.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Grows with each change.
    pub version: u64,
    /// The roots of the own trust domain.
    pub own: Arc<RootCertStore>,
    /// Those of others, by the domain's name. Never the own one.
    pub others: BTreeMap<String, Arc<RootCertStore>>,
    /// What was taken back.
    pub revoked: Arc<Revocations>,
    /// What these domains publish, by name, the own one among them: for the application.
    pub published: BTreeMap<String, Arc<Published>>,
}

/// What a peer uses its certificate for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// To connect to us.
    Client,
    /// To be connected to by us.
    Server,
}

impl Role {
    const fn usage(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }
}

impl Trust {
    /// Nobody is trusted.
    #[must_use]
    pub fn nobody() -> Self {
        Self {
            version: 0,
            own: Arc::new(RootCertStore::empty()),
            others: BTreeMap::new(),
            revoked: Arc::default(),
            published: BTreeMap::new(),
        }
    }

    /// Who a peer is by its chain, leaf first. The leaf says which trust domain it is of, and only the
    /// roots of that domain may vouch for it (SPIFFE Trust Domain and Bundle, section 5).
    ///
    /// # Errors
    /// What is wrong with the chain; [`SvidError`] inside where it is no SVID of a domain that is
    /// trusted.
    pub fn verify(
        &self,
        own: &TrustDomain,
        chain: (&CertificateDer<'_>, &[CertificateDer<'_>]),
        role: Role,
        now: UnixTime,
    ) -> Result<SpiffeId, Error> {
        let (leaf, intermediates) = chain;
        let certificate = EndEntityCert::try_from(leaf).map_err(pki_error)?;
        let id = spiffe_id(leaf).map_err(svid_error)?;
        let roots = self.roots_of(own, &id).map_err(svid_error)?;
        verify_chain(
            &certificate,
            intermediates,
            roots,
            &self.revoked,
            (role, now),
        )?;
        Ok(id)
    }

    fn roots_of(&self, own: &TrustDomain, id: &SpiffeId) -> Result<&RootCertStore, SvidError> {
        if id.is_member_of(own) {
            return Ok(&self.own);
        }
        let other = self.others.get(id.trust_domain());
        let other = other.ok_or_else(|| SvidError::TrustDomain(id.trust_domain().to_owned()))?;
        Ok(other)
    }
}

/// Holds a chain against these roots and lists, whoever the leaf is.
///
/// # Errors
/// What is wrong with it.
pub fn verify_chain(
    leaf: &EndEntityCert<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    revoked: &Revocations,
    when: (Role, UnixTime),
) -> Result<(), Error> {
    let mut looked = false;
    for lists in revoked.rounds_for(intermediates) {
        // Whoever has no list is not revoked, and a list that has ended still counts: what it has
        // taken back stays so.
        let Ok(options) = RevocationOptionsBuilder::new(&lists) else {
            continue;
        };
        let options = options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore);
        let options = Some(options.build());
        verify(leaf, roots, intermediates, when, options)?;
        looked = true;
    }
    if looked {
        return Ok(());
    }
    verify(leaf, roots, intermediates, when, None)
}

fn verify(
    leaf: &EndEntityCert<'_>,
    roots: &RootCertStore,
    rest: &[CertificateDer<'_>],
    (role, now): (Role, UnixTime),
    revocation: Option<RevocationOptions<'_>>,
) -> Result<(), Error> {
    let algorithms = super::provider().signature_verification_algorithms.all;
    let (roots, usage) = (&roots.roots, role.usage());
    let path: Option<&Judge> = Some(&may_sign);
    leaf.verify_for_usage(algorithms, roots, rest, now, usage, revocation, path)
        .map(drop)
        .map_err(pki_error)
}

type Judge = dyn Fn(&VerifiedPath<'_>) -> Result<(), webpki::Error>;

/// Whether all issuers in between may sign certificates: webpki has looked at their basic constraints,
/// not at their key usage (RFC 5280 section 6.1.4 n; X509-SVID 4.3: a signing certificate must have it).
fn may_sign(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let (_, issuer) = X509Certificate::from_der(&der).map_err(|_| webpki::Error::BadDer)?;
        let usage = issuer.key_usage().map_err(|_| webpki::Error::BadDer)?;
        if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
    }
    Ok(())
}

/// What the standard says against a certificate, as rustls has it.
pub(super) fn svid_error(error: SvidError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn pki_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    let kind = match error {
        E::CertExpired { .. } => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::CertRevoked => CertificateError::Revoked,
        E::BadDer | E::BadDerTime => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(kind)
}
