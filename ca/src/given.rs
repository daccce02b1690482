//! An intermediate that was made elsewhere, for a root whose key stays there: from files or from a
//! Kubernetes Secret, in the two forms that are about.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use selvedge_contract::identity::TrustDomain;
use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError};
use crate::disk::{self, DiskError};
use crate::generation::Generation;
use crate::service::CaService;
use crate::signer::{AuthorityCertificate, Flaw, Signer};

/// What the parts are called.
struct Form {
    certificate: &'static str,
    key: &'static str,
    roots: &'static str,
    /// Intermediates above the first, where they have a place of their own.
    chain: Option<&'static str>,
}

/// That of `kubernetes.io/tls`, as cert-manager writes it, then that of Istio's `cacerts`.
const FORMS: [Form; 2] = [
    Form {
        certificate: "tls.crt",
        key: "tls.key",
        roots: "ca.crt",
        chain: None,
    },
    Form {
        certificate: "ca-cert.pem",
        key: "ca-key.pem",
        roots: "root-cert.pem",
        chain: Some("cert-chain.pem"),
    },
];

/// The parts as they were found; nothing in them has been checked.
pub struct Given {
    place: PathBuf,
    form: &'static Form,
    certificates: Zeroizing<String>,
    key: Zeroizing<String>,
    roots: Zeroizing<String>,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Given({})", self.place.display())
    }
}

impl Given {
    /// Reads `tls.crt`, `tls.key` and `ca.crt` from `dir`, or `ca-cert.pem`, `ca-key.pem`,
    /// `root-cert.pem` and, if it is there, `cert-chain.pem`.
    ///
    /// # Errors
    /// When neither form is complete, or a key is readable by group or others.
    pub fn read(dir: &Path) -> Result<Self, AuthorityError> {
        Self::take(dir, |name| {
            let path = dir.join(name);
            match name {
                "tls.key" | "ca-key.pem" => disk::read_private(&path),
                _ => disk::read_public(&path),
            }
        })
    }

    /// The same from elsewhere, such as a Secret's data; `place` is its name in errors.
    ///
    /// # Errors
    /// What `part` fails with, and when neither form is complete.
    pub fn take(
        place: &Path,
        part: impl Fn(&str) -> Result<Option<Zeroizing<String>>, DiskError>,
    ) -> Result<Self, AuthorityError> {
        for form in &FORMS {
            let Some(mut certificates) = part(form.certificate)? else {
                continue;
            };
            let needed = |name: &str| {
                let path = place.join(name);
                part(name)?.ok_or(AuthorityError::Missing { path })
            };
            let (key, roots) = (needed(form.key)?, needed(form.roots)?);
            if let Some(chain) = form.chain
                && let Some(chain) = part(chain)?
            {
                certificates = Zeroizing::new([certificates.as_str(), "\n", &chain].concat());
            }
            return Ok(Self {
                place: place.to_owned(),
                form,
                certificates,
                key,
                roots,
            });
        }
        let path = place.join(FORMS[0].certificate);
        Err(AuthorityError::Missing { path })
    }

    /// The roots, and the intermediate with what stands between it and one of them.
    pub(crate) fn check(
        &self,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<(Vec<AuthorityCertificate>, Signer), AuthorityError> {
        let at = |name: &str| {
            let path = self.place.join(name);
            move |flaw| AuthorityError::File { path, flaw }
        };
        let mut roots = AuthorityCertificate::all(&self.roots).map_err(at(self.form.roots))?;
        for root in &roots {
            root.check_given(domain, now).map_err(at(self.form.roots))?;
        }
        let all =
            AuthorityCertificate::all(&self.certificates).map_err(at(self.form.certificate))?;
        // Istio's `cert-chain.pem` begins with the intermediate again and may end with the root.
        let mut chain: Vec<AuthorityCertificate> = Vec::new();
        for certificate in all {
            if !chain.contains(&certificate) && !roots.contains(&certificate) {
                chain.push(certificate);
            }
        }
        let bad = || at(self.form.certificate);
        // Nothing but a root: it signs leaves itself, as Istio's own does.
        if chain.is_empty() {
            chain.extend(roots.first().cloned());
        }
        let mut signs = 0;
        for (index, certificate) in chain.iter().enumerate() {
            certificate.check_given(domain, now).map_err(bad())?;
            let by = |issuer: &AuthorityCertificate| certificate.check_signed_by(issuer).is_ok();
            match chain.get(index + 1) {
                Some(issuer) if by(issuer) => {}
                Some(_) => return Err(bad()(Flaw::Issuer)),
                None => {
                    signs = roots
                        .iter()
                        .position(by)
                        .ok_or_else(|| bad()(Flaw::Issuer))?
                }
            }
        }
        // First the one that this intermediate is under.
        roots.swap(0, signs);
        let mut chain = chain.into_iter();
        let leafward = chain.next().ok_or_else(|| bad()(Flaw::Certificate))?;
        let mut signer = Signer::join(leafward, &self.key).map_err(at(self.form.key))?;
        signer.above = chain.filter(|c| !roots.contains(c)).collect();
        Ok((roots, signer))
    }
}

/// What came of what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It is in force already.
    Nothing,
    /// Other roots are trusted now; what signs is the same yet.
    Trusts,
    /// It does not sign yet: so many proxies have not said that they trust its root.
    Waits(usize),
    /// It signs.
    Signs,
}

impl Replaced {
    /// Says so in the log, once for as long as it is the `last` that was said.
    pub fn tell(self, last: Self) {
        match self {
            Self::Signs => tracing::info!(target: "selvedge::ca", "another intermediate signs"),
            Self::Trusts => {
                tracing::info!(target: "selvedge::ca", "other roots are trusted; nothing else signs yet");
            }
            Self::Waits(proxies) if self != last => {
                tracing::warn!(target: "selvedge::ca", proxies, "another intermediate waits for proxies to trust its root");
            }
            Self::Waits(_) | Self::Nothing => {}
        }
    }
}

impl CaService {
    /// Signs with what was given now, and trusts its roots: with another root once every proxy of ours has
    /// said that it trusts that. Callers who cannot say are not waited for. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Authority::given`]; what signs now stays.
    pub fn take(&self, given: &Given, now: SystemTime) -> Result<Replaced, AuthorityError> {
        let holders = &self.records.holders;
        let waiting = |bundle: &[u8; 32]| holders.readiness(bundle, now).waiting;
        self.authority.replace_given(given, waiting, now)
    }
}

impl Authority {
    fn replace_given(
        &self,
        given: &Given,
        waiting: impl FnOnce(&[u8; 32]) -> usize,
        now: SystemTime,
    ) -> Result<Replaced, AuthorityError> {
        let _turn = self.write();
        let present = self.state.load_full();
        let jwt = present.signing.jwt.clone();
        let next = Generation::given(given, jwt, self.trust_domain(), now)?;
        let same = next.roots == present.signing.roots
            && next.signer().certificate == present.signing.signer().certificate;
        if same {
            return Ok(Replaced::Nothing);
        }
        let (old, new) = (&present.signing, &next);
        // Whoever has a certificate under the root in force is cut off without it.
        if old.root().is_some_and(|root| !new.roots.contains(root)) {
            return Err(AuthorityError::NoOverlap);
        }
        // First the root, then what it signs: proxies are told of it meanwhile.
        if new.root().is_some_and(|root| !old.roots.contains(root)) {
            let both = old.trusting(&next.roots);
            self.put(present.rotation.clone(), Arc::new(both), None)?;
            return Ok(Replaced::Trusts);
        }
        let waiting = match old.root() == new.root() {
            true => 0,
            false => waiting(&present.bundle.sha256),
        };
        if waiting > 0 {
            return Ok(Replaced::Waits(waiting));
        }
        let replaced = match next.signer().certificate == old.signer().certificate {
            true => Replaced::Trusts,
            false => Replaced::Signs,
        };
        self.put(present.rotation.clone(), Arc::new(next), None)?;
        Ok(replaced)
    }
}
