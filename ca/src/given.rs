//! An intermediate that was made elsewhere, for a root whose key stays there: from files or from a
//! Kubernetes Secret, in the two forms that are about.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use selvedge_contract::identity::TrustDomain;
use zeroize::Zeroizing;

use crate::authority::AuthorityError;
use crate::disk::{self, DiskError};
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
