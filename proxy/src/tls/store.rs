//! The workload's own certificate and the trust bundle, swapped while handshakes go on.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use selvedge_contract::identity::TrustDomain;
use tokio::sync::watch;

use super::published::{Published, TokenKeys};
use super::revocation::Revocations;
use super::trust::Trust;

/// A certificate with its key and what it says.
#[derive(Debug)]
pub struct Identity {
    /// Chain and key.
    pub key: Arc<CertifiedKey>,
    /// SPIFFE ID.
    pub id: Arc<str>,
    /// Beginning and end of its life.
    pub not_before: SystemTime,
    /// See `not_before`.
    pub not_after: SystemTime,
}

/// See the module. Handshakes read it; renewal writes it.
#[derive(Debug)]
pub struct IdentityStore {
    trust_domain: TrustDomain,
    identity: ArcSwapOption<Identity>,
    trust: ArcSwap<Trust>,
    bundle_pem: RwLock<String>,
    /// Held by whoever makes the next [`Trust`] from the last.
    writing: Mutex<()>,
    /// The version of what is trusted, for those who follow it.
    versions: watch::Sender<u64>,
}

impl IdentityStore {
    /// An empty store: nothing can be shown and nobody is trusted.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Arc<Self> {
        Arc::new(Self {
            trust_domain,
            identity: ArcSwapOption::empty(),
            trust: ArcSwap::from_pointee(Trust::nobody()),
            bundle_pem: RwLock::new(String::new()),
            writing: Mutex::new(()),
            versions: watch::Sender::new(0),
        })
    }

    /// The trust domain that peers must belong to.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether there is a certificate that has not ended.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.identity
            .load()
            .as_ref()
            .is_some_and(|i| SystemTime::now() < i.not_after)
    }

    /// The certificate in use.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Identity>> {
        self.identity.load_full()
    }

    /// Uses another certificate from the next handshake on.
    pub fn replace(&self, identity: Identity) {
        self.identity.store(Some(Arc::new(identity)));
    }

    /// What is trusted now. Not to be held over an `await`.
    #[must_use]
    pub fn trust(&self) -> Guard<Arc<Trust>> {
        self.trust.load()
    }

    /// Tells of each change of what is trusted.
    #[must_use]
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    /// The roots that peers of the own trust domain must chain to.
    #[must_use]
    pub fn bundle(&self) -> Arc<RootCertStore> {
        self.trust.load().own.clone()
    }

    /// The same as PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        self.bundle_pem
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Trusts another bundle from the next handshake on.
    ///
    /// # Errors
    /// When the text holds no certificate, or one that is not well formed: the old bundle stays.
    pub fn replace_bundle(&self, pem: &str) -> Result<(), BundleError> {
        self.replace_own(pem, None).map(drop)
    }

    /// The same, with the keys that sign JWT-SVIDs where they are told (a JWK set); says whether the roots
    /// are others now.
    ///
    /// # Errors
    /// When one of them is not well formed: the old ones stay.
    pub fn replace_own(&self, pem: &str, jwks: Option<&str>) -> Result<bool, BundleError> {
        let (roots, certificates) = certificates_of(pem)?;
        let damaged = || BundleError("the keys of tokens are no JWK set".into());
        let told = jwks.map(|text| TokenKeys::read(text).ok_or_else(damaged));
        let told = told.transpose()?;
        let mut known = self
            .bundle_pem
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let name = self.trust_domain.as_str();
        let published = self.trust.load().published.get(name).cloned();
        let other_roots = *known != pem;
        let jwks = published.as_ref().map(|known| known.tokens.jwks.as_str());
        let other_keys = told.as_ref().is_some_and(|told| Some(&*told.jwks) != jwks);
        if other_roots || other_keys {
            let told = told.map(Arc::new);
            let stay = published.as_ref().map(|known| known.tokens.clone());
            let published = Published {
                roots: certificates,
                tokens: told.or(stay).unwrap_or_default(),
            };
            self.change(|trust| {
                trust.own = Arc::new(roots);
                trust.published.insert(name.to_owned(), Arc::new(published));
            });
            pem.clone_into(&mut known);
        }
        Ok(other_roots)
    }

    /// Refuses what these lists have taken back, from the next handshake on.
    pub fn replace_revocations(&self, lists: Revocations) {
        if !self.trust.load().revoked.is_same(&lists) {
            self.change(|trust| trust.revoked = Arc::new(lists));
        }
    }

    /// Trusts another trust domain by these roots, or no more; what it publishes goes with them. The own
    /// one stays what it is.
    pub fn federate(&self, domain: &TrustDomain, told: Option<(RootCertStore, Published)>) {
        let name = domain.as_str();
        let unchanged = {
            let trust = self.trust.load();
            match (trust.others.get(name), trust.published.get(name), &told) {
                (Some(known), Some(public), Some((roots, published))) => {
                    known.roots == roots.roots && **public == *published
                }
                (None, _, None) => true,
                _ => false,
            }
        };
        if unchanged || *domain == self.trust_domain {
            return;
        }
        self.change(|trust| match told {
            Some((roots, published)) => {
                trust.others.insert(name.to_owned(), Arc::new(roots));
                trust.published.insert(name.to_owned(), Arc::new(published));
            }
            None => {
                trust.others.remove(name);
                trust.published.remove(name);
            }
        });
    }

    /// Puts a changed copy of what is trusted in force, then tells those who follow.
    fn change(&self, edit: impl FnOnce(&mut Trust)) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut trust = Trust::clone(&self.trust.load());
        edit(&mut trust);
        trust.version += 1;
        let version = trust.version;
        self.trust.store(Arc::new(trust));
        self.versions.send_replace(version);
    }

    fn shown(&self) -> Option<Arc<CertifiedKey>> {
        let identity = self.identity.load();
        // An expired certificate is worse than none: the peer would log an attack.
        let identity = identity
            .as_ref()
            .filter(|i| SystemTime::now() < i.not_after)?;
        Some(identity.key.clone())
    }
}

/// The roots in a bundle.
///
/// # Errors
/// When the text holds no certificate, or one that is not well formed.
pub fn roots_of(pem: &str) -> Result<RootCertStore, BundleError> {
    certificates_of(pem).map(|(roots, _)| roots)
}

type Certificates = (RootCertStore, Vec<CertificateDer<'static>>);

fn certificates_of(pem: &str) -> Result<Certificates, BundleError> {
    let (mut roots, mut certificates) = (RootCertStore::empty(), Vec::new());
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| BundleError(e.to_string()))?;
        roots
            .add(certificate.clone())
            .map_err(|e| BundleError(e.to_string()))?;
        certificates.push(certificate);
    }
    if roots.is_empty() {
        return Err(BundleError("no certificate in it".into()));
    }
    Ok((roots, certificates))
}

/// Why a trust bundle was refused.
#[derive(Debug, thiserror::Error)]
#[error("trust bundle: {0}")]
pub struct BundleError(String);

impl ResolvesServerCert for IdentityStore {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }
}

impl ResolvesClientCert for IdentityStore {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.shown()
    }

    fn has_certs(&self) -> bool {
        self.identity.load().is_some()
    }
}
