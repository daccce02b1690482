//! What is trusted: the roots, and the keys of tokens, as they are given to proxies.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use crate::authority::AuthorityError;
use crate::disk;
use crate::jwt::{self, JwtKey};
use crate::rotation::Rotation;
use crate::signer::AuthorityCertificate;

/// The roots that are trusted: what a peer needs in order to verify this trust domain.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// PEM; the root that signs comes first.
    pub pem: Arc<str>,
    /// Keys that sign JWT-SVIDs, as a JWK set; the one that signs comes first.
    pub jwks: Arc<str>,
    /// SHA-256 of `pem` followed by `jwks`, by which proxies say what they have.
    pub sha256: [u8; 32],
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({})", crate::signer::hex(&self.sha256))
    }
}

impl Bundle {
    pub(crate) fn of<'a>(
        roots: impl Iterator<Item = &'a AuthorityCertificate>,
        keys: impl Iterator<Item = &'a JwtKey>,
    ) -> Self {
        let pem: String = roots.map(|root| root.pem.as_str()).collect();
        let jwks = jwt::set(keys, "jwt-svid");
        let mut sha256 = [0; 32];
        let both = [pem.as_bytes(), jwks.as_bytes()].concat();
        sha256.copy_from_slice(digest(&SHA256, &both).as_ref());
        Self {
            pem: pem.into(),
            jwks: jwks.into(),
            sha256,
        }
    }
}

/// The bundle of the CA whose directory is `dir`, whether it runs or not: PEM.
///
/// # Errors
/// When its files cannot be read, or are not there.
pub fn bundle_in(dir: &Path) -> Result<String, AuthorityError> {
    let rotation = Rotation::load(dir)?;
    let mut bundle = String::new();
    for name in std::iter::once(rotation.signing()).chain(rotation.other()) {
        let path = Rotation::place(dir, name).join("root.pem");
        let roots = disk::read_public(&path)?.ok_or(AuthorityError::Missing { path })?;
        bundle.push_str(&roots);
    }
    Ok(bundle)
}
