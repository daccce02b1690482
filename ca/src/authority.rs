//! The root and the intermediate of one trust domain: created, loaded, and renewed while serving.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use selvedge_contract::identity::TrustDomain;

use crate::disk::{self, DiskError};
use crate::signer::{AuthorityCertificate, Signer};

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
    /// New keys or certificates cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(Flaw),
    /// The TLS library does not accept the root.
    #[error("the TLS library does not accept the root: {0}")]
    Verifier(String),
}

/// Where the root's key is. On disk it is read for each new intermediate and then forgotten.
enum RootKey {
    Memory(Box<Signer>),
    Disk(PathBuf),
}

/// The certificate authority of one trust domain.
///
/// All methods take `&self`; the intermediate is replaced atomically, so one authority is shared
/// by every task.
pub struct Authority {
    trust_domain: TrustDomain,
    bundle_pem: String,
    roots: Vec<AuthorityCertificate>,
    verifier: Arc<dyn ClientCertVerifier>,
    intermediate: ArcSwap<Signer>,
    root_key: RootKey,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Loads `root.pem`, `root.key`, `intermediate.pem` and `intermediate.key` from `dir`.
    ///
    /// In an empty directory (created with mode 0700 when absent) it makes all four: a root of ten
    /// years and an intermediate of 30 days, both P-256. An intermediate with less than a third of
    /// its life left is replaced when `root.key` is there; without it the root stays offline and
    /// the operator replaces the intermediate. `root.pem` may hold further roots after the signing
    /// one, while a root is being replaced.
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
        settle(dir, "root")?;
        settle(dir, "intermediate")?;
        let roots = load_or_create_roots(dir, trust_domain, now)?;
        let intermediate = load_or_renew(dir, trust_domain, &roots, now)?;
        let root_key = RootKey::Disk(dir.to_owned());
        Self::assemble(trust_domain, roots, intermediate, root_key)
    }

    /// A new authority that lives in memory only, for development and tests.
    ///
    /// # Errors
    /// When the clock is outside 1970 to 9999 or the cryptographic library fails.
    pub fn ephemeral(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let root = Signer::root(trust_domain, now).map_err(AuthorityError::Make)?;
        let intermediate = root
            .intermediate(trust_domain, now)
            .map_err(AuthorityError::Make)?;
        let roots = vec![root.certificate.clone()];
        let root_key = RootKey::Memory(Box::new(root));
        Self::assemble(trust_domain, roots, intermediate, root_key)
    }

    fn assemble(
        trust_domain: &TrustDomain,
        roots: Vec<AuthorityCertificate>,
        intermediate: Signer,
        root_key: RootKey,
    ) -> Result<Self, AuthorityError> {
        let refused = |error: &dyn std::fmt::Display| AuthorityError::Verifier(error.to_string());
        let mut store = RootCertStore::empty();
        for root in &roots {
            store.add(root.der.clone()).map_err(|e| refused(&e))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|e| refused(&e))?;
        Ok(Self {
            trust_domain: trust_domain.clone(),
            bundle_pem: roots.iter().map(|root| root.pem.as_str()).collect(),
            roots,
            verifier,
            intermediate: ArcSwap::from_pointee(intermediate),
            root_key,
        })
    }

    /// The trust domain this authority signs for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root certificates in PEM: what a peer needs in order to verify this trust domain.
    #[must_use]
    pub fn bundle_pem(&self) -> &str {
        &self.bundle_pem
    }

    /// The root certificates in DER.
    pub fn bundle_der(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots.iter().map(|root| &root.der)
    }

    /// When the intermediate that signs now ends; it should be renewed long before.
    #[must_use]
    pub fn intermediate_ends(&self) -> SystemTime {
        self.intermediate.load().certificate.validity.end()
    }

    /// Whether less than a third of the intermediate's life is left.
    #[must_use]
    pub fn is_due(&self, now: SystemTime) -> bool {
        self.intermediate.load().certificate.validity.is_due(now)
    }

    /// Replaces the intermediate when less than a third of its life is left; says whether it did.
    ///
    /// Certificates that the old one signed stay valid: they come with it in their chain. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// As [`Self::create_or_load`]; the present intermediate then stays in use.
    pub fn renew_if_due(&self, now: SystemTime) -> Result<bool, AuthorityError> {
        let present = self.intermediate.load_full();
        if !present.certificate.validity.is_due(now) {
            return Ok(false);
        }
        let next = match &self.root_key {
            RootKey::Memory(root) => root
                .intermediate(&self.trust_domain, now)
                .map_err(AuthorityError::Make)?,
            RootKey::Disk(dir) => {
                let _lock = disk::lock(dir)?;
                settle(dir, "intermediate")?;
                load_or_renew(dir, &self.trust_domain, &self.roots, now)?
            }
        };
        let changed = next.certificate != present.certificate;
        self.intermediate.store(Arc::new(next));
        Ok(changed)
    }

    /// What signs leaves at this moment.
    pub(crate) fn signer(&self) -> Arc<Signer> {
        self.intermediate.load_full()
    }

    /// Verifies callers' certificates against this authority's roots; absence is allowed.
    pub(crate) fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        self.verifier.clone()
    }
}

fn path_of(dir: &Path, stem: &str, kind: &str) -> PathBuf {
    dir.join(format!("{stem}.{kind}"))
}

fn at(path: &Path) -> impl FnOnce(Flaw) -> AuthorityError + '_ {
    move |flaw| AuthorityError::File {
        path: path.to_owned(),
        flaw,
    }
}

fn load_or_create_roots(
    dir: &Path,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<Vec<AuthorityCertificate>, AuthorityError> {
    let path = path_of(dir, "root", "pem");
    let Some(text) = disk::read_public(&path)? else {
        // Only in a directory with nothing of ours: a new root beside old keys would cut off
        // every workload that trusts the old one.
        for (stem, kind) in [
            ("root", "key"),
            ("intermediate", "pem"),
            ("intermediate", "key"),
        ] {
            if path_of(dir, stem, kind).exists() {
                return Err(AuthorityError::Missing { path });
            }
        }
        let root = Signer::root(domain, now).map_err(AuthorityError::Make)?;
        save(dir, "root", &root)?;
        return Ok(vec![root.certificate]);
    };
    let roots = AuthorityCertificate::all(&text).map_err(at(&path))?;
    for root in &roots {
        root.check(domain, now).map_err(at(&path))?;
        root.check_signed_by(root).map_err(at(&path))?;
    }
    // Also when no new intermediate is due: better to hear of a bad key now than in 20 days.
    load_root_signer(dir, &roots)?;
    Ok(roots)
}

/// The root with its key; `None` when the key is kept elsewhere.
fn load_root_signer(
    dir: &Path,
    roots: &[AuthorityCertificate],
) -> Result<Option<Signer>, AuthorityError> {
    let path = path_of(dir, "root", "key");
    let (Some(key), Some(first)) = (disk::read_private(&path)?, roots.first()) else {
        return Ok(None);
    };
    let signer = Signer::join(first.clone(), &key).map_err(at(&path))?;
    Ok(Some(signer))
}

fn load_or_renew(
    dir: &Path,
    domain: &TrustDomain,
    roots: &[AuthorityCertificate],
    now: SystemTime,
) -> Result<Signer, AuthorityError> {
    let path = path_of(dir, "intermediate", "pem");
    let key_path = path_of(dir, "intermediate", "key");
    let root = load_root_signer(dir, roots)?;
    let (text, key) = (disk::read_public(&path)?, disk::read_private(&key_path)?);
    let (text, key) = match (text, key, &root) {
        (Some(text), Some(key), _) => (text, key),
        (None, None, Some(root)) => return create_intermediate(dir, domain, root, now),
        (Some(_), None, _) => return Err(AuthorityError::Missing { path: key_path }),
        (None, _, _) => return Err(AuthorityError::Missing { path }),
    };
    let certificate = AuthorityCertificate::one(&text).map_err(at(&path))?;
    let by_ours = |root| certificate.check_signed_by(root).is_ok();
    if !roots.iter().any(by_ours) {
        return Err(at(&path)(Flaw::Issuer));
    }
    let checked = certificate.check(domain, now);
    let signer = Signer::join(certificate, &key).map_err(at(&key_path))?;
    let is_due = signer.certificate.validity.is_due(now);
    match (checked, root) {
        (Ok(()) | Err(Flaw::Expired), Some(root)) if is_due => {
            create_intermediate(dir, domain, &root, now)
        }
        (Ok(()), _) => Ok(signer),
        (Err(flaw), _) => Err(at(&path)(flaw)),
    }
}

fn create_intermediate(
    dir: &Path,
    domain: &TrustDomain,
    root: &Signer,
    now: SystemTime,
) -> Result<Signer, AuthorityError> {
    let intermediate = root
        .intermediate(domain, now)
        .map_err(AuthorityError::Make)?;
    save(dir, "intermediate", &intermediate)?;
    Ok(intermediate)
}

/// Writes a key and its certificate so that no crash leaves one without the other: both are
/// complete under other names before the first real name changes.
fn save(dir: &Path, stem: &str, signer: &Signer) -> Result<(), AuthorityError> {
    let next = format!("{stem}.next");
    disk::write_whole(&path_of(dir, &next, "key"), &signer.key_pem(), 0o600)?;
    let certificate = &signer.certificate.pem;
    disk::write_whole(&path_of(dir, &next, "pem"), certificate, 0o644)?;
    settle(dir, stem)
}

/// Finishes a [`save`] that was interrupted: forward when its certificate was written (then its
/// key was too), back otherwise.
fn settle(dir: &Path, stem: &str) -> Result<(), AuthorityError> {
    let next = format!("{stem}.next");
    let (key, certificate) = (path_of(dir, &next, "key"), path_of(dir, &next, "pem"));
    if !certificate.exists() {
        disk::remove(&key)?;
        return Ok(());
    }
    if key.exists() {
        disk::rename(&key, &path_of(dir, stem, "key"))?;
    }
    disk::rename(&certificate, &path_of(dir, stem, "pem"))?;
    Ok(())
}
