//! One generation of the authority: roots, and the intermediate that signs leaves under the first of them.
//!
//! There is one generation, and a second one while the root is being replaced ([`crate::rotation`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use selvedge_contract::identity::TrustDomain;

use crate::authority::AuthorityError;
use crate::disk;
use crate::given::Given;
use crate::jwt::{self, JwtKey};
use crate::signer::{AuthorityCertificate, Flaw, Signer};

/// Where the root's key is. On disk it is read for each new intermediate and then forgotten.
enum RootKey {
    Memory(Box<Signer>),
    Disk(PathBuf),
    /// Somebody else has it and gives intermediates.
    Elsewhere,
}

/// See the module.
pub(crate) struct Generation {
    pub(crate) roots: Vec<AuthorityCertificate>,
    intermediate: ArcSwap<Signer>,
    root_key: RootKey,
    /// Signs JWT-SVIDs.
    pub(crate) jwt: Arc<JwtKey>,
}

impl Generation {
    /// One that signs nothing any more: its intermediate may have ended.
    pub(crate) fn load_old(
        dir: &Path,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        Self::load(dir, domain, now, true)
    }

    /// Loads the files from `dir`, or makes them where there are none.
    pub(crate) fn create_or_load(
        dir: &Path,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        Self::load(dir, domain, now, false)
    }

    fn load(
        dir: &Path,
        domain: &TrustDomain,
        now: SystemTime,
        old: bool,
    ) -> Result<Self, AuthorityError> {
        settle(dir, "root")?;
        settle(dir, "intermediate")?;
        let roots = load_or_create_roots(dir, domain, now)?;
        let intermediate = load_or_renew(dir, domain, &roots, now, old)?;
        Ok(Self {
            roots,
            intermediate: ArcSwap::from_pointee(intermediate),
            root_key: RootKey::Disk(dir.to_owned()),
            jwt: Arc::new(JwtKey::create_or_load(dir)?),
        })
    }

    /// One that lives in memory only.
    pub(crate) fn ephemeral(domain: &TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let root = Signer::root(domain, now).map_err(AuthorityError::Make)?;
        let intermediate = root
            .intermediate(domain, now)
            .map_err(AuthorityError::Make)?;
        Ok(Self {
            roots: vec![root.certificate.clone()],
            intermediate: ArcSwap::from_pointee(intermediate),
            root_key: RootKey::Memory(Box::new(root)),
            jwt: Arc::new(JwtKey::new().map_err(AuthorityError::Make)?),
        })
    }

    /// One whose intermediate was made elsewhere. Keys for tokens are not: `jwt` is our own.
    pub(crate) fn given(
        given: &Given,
        jwt: Arc<JwtKey>,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let (roots, signer) = given.check(domain, now)?;
        Ok(Self {
            roots,
            intermediate: ArcSwap::from_pointee(signer),
            root_key: RootKey::Elsewhere,
            jwt,
        })
    }

    /// The same, with more roots that are trusted.
    pub(crate) fn trusting(&self, more: &[AuthorityCertificate]) -> Self {
        let mut roots = self.roots.clone();
        for root in more {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        Self {
            roots,
            intermediate: ArcSwap::new(self.signer()),
            root_key: RootKey::Elsewhere,
            jwt: self.jwt.clone(),
        }
    }

    /// What signs leaves at this moment.
    pub(crate) fn signer(&self) -> Arc<Signer> {
        self.intermediate.load_full()
    }

    /// The root that signs; there is always one.
    pub(crate) fn root(&self) -> Option<&AuthorityCertificate> {
        self.roots.first()
    }

    /// Replaces the intermediate when less than a third of its life is left and the root's key is
    /// here; says whether it did.
    pub(crate) fn renew_if_due(
        &self,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<bool, AuthorityError> {
        let present = self.intermediate.load_full();
        let validity = present.certificate.validity;
        if !validity.is_due(now) && validity.has_begun(now) {
            return Ok(false);
        }
        let next = match &self.root_key {
            RootKey::Elsewhere => return Ok(false),
            RootKey::Memory(root) => root
                .intermediate(domain, now)
                .map_err(AuthorityError::Make)?,
            RootKey::Disk(dir) => {
                settle(dir, "intermediate")?;
                load_or_renew(dir, domain, &self.roots, now, false)?
            }
        };
        let changed = next.certificate != present.certificate;
        self.intermediate.store(Arc::new(next));
        Ok(changed)
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
    old: bool,
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
        // Of a clock that was ahead.
        (Err(Flaw::Early), Some(root)) => create_intermediate(dir, domain, &root, now),
        (Ok(()), _) => Ok(signer),
        (Err(Flaw::Expired), _) if old => Ok(signer),
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

/// Removes the files of a generation, the keys first, and what a crash has left half written of them.
pub(crate) fn remove(dir: &Path) -> Result<(), AuthorityError> {
    for kind in ["key", "pem"] {
        for stem in [jwt::STEM, "root", "intermediate"] {
            for next in ["", ".next"] {
                let path = path_of(dir, &format!("{stem}{next}"), kind);
                disk::remove(&disk::with_suffix(&path, disk::TEMPORARY))?;
                disk::remove(&path)?;
            }
        }
    }
    Ok(())
}
