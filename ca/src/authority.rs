//! The authority of one trust domain: what signs at this moment, what is trusted, and how both change
//! while it serves.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use selvedge_contract::identity::TrustDomain;
use tokio::sync::watch;

use crate::bundle::Bundle;
use crate::disk::{self, DiskError};
use crate::generation::Generation;
use crate::given::Given;
use crate::issue::Lives;
use crate::jwt::{self, JwtKey};
use crate::ledger::Ledger;
use crate::records::Records;
use crate::revoked::Revoked;
use crate::rotation::{FIRST, Rotation};
use crate::signer::{AuthorityCertificate, Signer};
use crate::steps;
use crate::validity::unix_seconds;

pub use crate::signer::Flaw;

/// Why an authority cannot be created, loaded or renewed; names the file at fault.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file or directory cannot be read or written, or is open to others.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file is not there although others are, and nothing can replace it.
    #[error("{}: missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The content of a file cannot be used.
    #[error("{}: {flaw}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// Roots from elsewhere that do not have the one in force.
    #[error(
        "the roots that are given have not the one in force: give both, until the last certificate under it has ended"
    )]
    NoOverlap,
    /// New keys or certificates cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(Flaw),
    /// The TLS library does not accept the root.
    #[error("the TLS library does not accept the root: {0}")]
    Verifier(String),
}

/// What is so at one moment; replaced as a whole.
pub(crate) struct State {
    pub(crate) rotation: Rotation,
    pub(crate) signing: Arc<Generation>,
    pub(crate) other: Option<Arc<Generation>>,
    pub(crate) bundle: Bundle,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl State {
    fn assemble(
        rotation: Rotation,
        signing: Arc<Generation>,
        other: Option<Arc<Generation>>,
    ) -> Result<Self, AuthorityError> {
        let refused = |error: &dyn std::fmt::Display| AuthorityError::Verifier(error.to_string());
        let mut roots: Vec<&AuthorityCertificate> = Vec::new();
        let all = std::iter::once(&signing).chain(&other);
        for root in all.flat_map(|generation| &generation.roots) {
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.der.clone()).map_err(|e| refused(&e))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|e| refused(&e))?;
        let keys = std::iter::once(&signing).chain(&other);
        let bundle = Bundle::of(roots.into_iter(), keys.map(|generation| &*generation.jwt));
        Ok(Self {
            rotation,
            signing,
            other,
            bundle,
            verifier,
        })
    }
}

/// The certificate authority of one trust domain.
///
/// All methods take `&self`; what changes is replaced atomically, so one authority is shared by every
/// task.
pub struct Authority {
    trust_domain: TrustDomain,
    pub(crate) lives: Lives,
    /// Certificates of callers that count no more.
    pub revoked: Revoked,
    /// Those that it has issued.
    pub(crate) ledger: Arc<Ledger>,
    /// `None`: it lives in memory, or was given.
    pub(crate) dir: Option<PathBuf>,
    pub(crate) state: ArcSwap<State>,
    /// Read by whoever issues, written by whoever changes what signs: no certificate is half issued then.
    turn: RwLock<()>,
    told: watch::Sender<Bundle>,
    /// When the bundle last changed, in seconds since 1970, or a little later: it grows each time.
    sequence: AtomicU64,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Loads `root.pem`, `root.key`, `intermediate.pem`, `intermediate.key` and `jwt.key` from `dir`.
    ///
    /// In an empty directory (created with mode 0700 when absent) it makes all of them: a root of ten
    /// years, an intermediate of 30 days and a key for JWT-SVIDs, all P-256. An intermediate with less than a third of
    /// its life left is replaced when `root.key` is there; without it the root stays offline and
    /// the operator replaces the intermediate. `root.pem` may hold further roots after the signing
    /// one. Where the root was replaced ([`crate::rotation`]), the files are in directories below `dir`.
    ///
    /// # Errors
    /// When a key is readable by group or others, `dir` is writable by them, a file is missing,
    /// damaged, expired or of another trust domain, or a key and its certificate do not match.
    /// Nothing is changed then.
    pub fn create_or_load(
        dir: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        disk::private_dir(dir)?;
        let _lock = disk::lock(dir)?;
        let rotation = Rotation::load(dir)?;
        let others = Rotation::is_written(dir) || steps::any(dir)?;
        let load = |name: &str| {
            let at = Rotation::place(dir, name);
            // Only the very first may be made: others are there already, or were lost.
            let made = at.join("root.pem").exists();
            if !made && (name != FIRST || others) {
                let path = at.join("root.pem");
                return Err(AuthorityError::Missing { path });
            }
            // What is only trusted any more may have an intermediate that has ended.
            let old = name != rotation.signing() && rotation.is_activated();
            let loaded = match old {
                true => Generation::load_old(&at, trust_domain, now),
                false => Generation::create_or_load(&at, trust_domain, now),
            };
            loaded.map(Arc::new)
        };
        let signing = load(rotation.signing())?;
        let other = rotation.other().map(load).transpose()?;
        steps::sweep(dir, &rotation)?;
        let state = State::assemble(rotation, signing, other)?;
        Ok(Self::of(trust_domain, Some(dir.to_owned()), state))
    }

    /// A new authority that lives in memory only, for development and tests.
    ///
    /// # Errors
    /// When the clock is outside 1970 to 9999 or the cryptographic library fails.
    pub fn ephemeral(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let only = Generation::ephemeral(trust_domain, now)?;
        Self::alone(trust_domain, only)
    }

    /// An authority that signs with an intermediate from elsewhere, and JWT-SVIDs with the key
    /// `jwt.key` in `keys`, which is made where it is not there; without `keys` with one in memory.
    ///
    /// # Errors
    /// When it does not hang together: damaged, expired, of another trust domain, no chain to a root,
    /// or another's key. When the disk fails.
    pub fn given(
        trust_domain: &TrustDomain,
        given: &Given,
        keys: Option<&Path>,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let jwt = match keys {
            None => JwtKey::new().map_err(AuthorityError::Make)?,
            Some(dir) => {
                disk::private_dir(dir)?;
                let _lock = disk::lock(dir)?;
                JwtKey::create_or_load(dir)?
            }
        };
        let only = Generation::given(given, Arc::new(jwt), trust_domain, now)?;
        Self::alone(trust_domain, only)
    }

    fn alone(trust_domain: &TrustDomain, only: Generation) -> Result<Self, AuthorityError> {
        let signing = FIRST.to_owned();
        let state = State::assemble(Rotation::Steady { signing }, Arc::new(only), None)?;
        Ok(Self::of(trust_domain, None, state))
    }

    fn of(trust_domain: &TrustDomain, dir: Option<PathBuf>, state: State) -> Self {
        Self {
            trust_domain: trust_domain.clone(),
            lives: Lives::default(),
            revoked: Revoked::default(),
            ledger: Arc::default(),
            dir,
            told: watch::Sender::new(state.bundle.clone()),
            state: ArcSwap::from_pointee(state),
            turn: RwLock::new(()),
            sequence: AtomicU64::new(unix_seconds(SystemTime::now()).unwrap_or(0)),
        }
    }

    /// Other lives for the certificates it issues.
    #[must_use]
    pub fn with_lives(mut self, lives: Lives) -> Self {
        self.lives = lives;
        self
    }

    /// Knows the certificates that were issued before, and so takes them as proof.
    #[must_use]
    pub fn with_issued(mut self, records: &Records) -> Self {
        self.ledger = records.ledger.clone();
        self
    }

    /// The trust domain this authority signs for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots that are trusted.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        self.state.load().bundle.clone()
    }

    /// The roots that are trusted, now and whenever they change.
    #[must_use]
    pub fn bundles(&self) -> watch::Receiver<Bundle> {
        self.told.subscribe()
    }

    /// The keys that sign JWT-SVIDs, as any verifier of tokens takes them (RFC 7517): JSON.
    #[must_use]
    pub fn jwks(&self) -> String {
        let state = self.state.load();
        let all = std::iter::once(&state.signing).chain(&state.other);
        jwt::set(all.map(|generation| &*generation.jwt), "sig")
    }

    /// Grows with each change of the bundle, and each start.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence.load(Relaxed)
    }

    /// What signs JWT-SVIDs at this moment.
    pub(crate) fn jwt_key(&self) -> Arc<JwtKey> {
        self.state.load().signing.jwt.clone()
    }

    /// The root certificates in DER.
    #[must_use]
    pub fn bundle_der(&self) -> Vec<CertificateDer<'static>> {
        let state = self.state.load();
        let all = std::iter::once(&state.signing).chain(&state.other);
        all.flat_map(|generation| &generation.roots)
            .map(|root| root.der.clone())
            .collect()
    }

    /// When the intermediate that signs now ends; it should be renewed long before.
    #[must_use]
    pub fn intermediate_ends(&self) -> SystemTime {
        self.signer().certificate.validity.end()
    }

    /// Whether less than a third of the intermediate's life is left.
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        self.signer().certificate.validity.is_due(now)
    }

    /// Replaces the intermediate when less than a third of its life is left; says whether it did.
    ///
    /// Certificates that the old one signed stay valid: they come with it in their chain. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// As [`Self::create_or_load`]; the present intermediate then stays in use.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, AuthorityError> {
        let _turn = self.write();
        let _lock = self.dir.as_deref().map(disk::lock).transpose()?;
        let state = self.state.load_full();
        let mut renewed = state.signing.renew_if_due(&self.trust_domain, now)?;
        if let Some(other) = &state.other {
            renewed |= other.renew_if_due(&self.trust_domain, now)?;
        }
        Ok(renewed)
    }

    pub(crate) fn put(
        &self,
        rotation: Rotation,
        signing: Arc<Generation>,
        other: Option<Arc<Generation>>,
    ) -> Result<(), AuthorityError> {
        let state = State::assemble(rotation, signing, other)?;
        let bundle = state.bundle.clone();
        self.state.store(Arc::new(state));
        // Only whoever has the turn comes here.
        let now = unix_seconds(SystemTime::now()).unwrap_or(0);
        self.sequence.store(now.max(self.sequence() + 1), Relaxed);
        self.told.send_replace(bundle);
        Ok(())
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.turn.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while a certificate is issued and recorded: what signs does not change meanwhile.
    pub(crate) fn issuing(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What signs leaves at this moment.
    pub(crate) fn signer(&self) -> Arc<Signer> {
        self.state.load().signing.signer()
    }

    /// Where the rotation stands.
    pub(crate) fn rotation(&self) -> Rotation {
        self.state.load().rotation.clone()
    }

    /// The generation that signs, and the one that is trusted besides.
    pub(crate) fn generations(&self) -> (Arc<Generation>, Option<Arc<Generation>>) {
        let state = self.state.load();
        (state.signing.clone(), state.other.clone())
    }

    /// Verifies callers' certificates against this authority's roots; absence is allowed.
    pub(crate) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.state.load().verifier.clone()
    }
}
