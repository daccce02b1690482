//! Certificates that count no more, though their time has not come: by lists (CRL, RFC 5280 section 5) that
//! whoever runs the CA brings.

use std::collections::HashSet;

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

/// Issuer and serial number, as they are encoded.
type Key = (Vec<u8>, Vec<u8>);

/// See the module. Replaced as a whole.
#[derive(Debug, Default)]
pub struct Revoked(ArcSwap<HashSet<Key>>);

/// Why a text holds no lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a list of revoked certificates in PEM, or a damaged one")]
pub struct ListError;

impl Revoked {
    /// Takes the lists in `pem` in place of those before; says how many certificates are in them. A list
    /// that has ended counts: nobody is let in again by forgetting to renew it. Signatures are not looked
    /// at: the file is the operator's.
    ///
    /// # Errors
    /// [`ListError`]; then those before stay.
    pub fn replace(&self, pem: &str) -> Result<usize, ListError> {
        let mut all = HashSet::new();
        let mut lists = 0;
        for list in CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()) {
            let list = list.map_err(|_| ListError)?;
            let (rest, list) = CertificateRevocationList::from_der(&list).map_err(|_| ListError)?;
            if !rest.is_empty() {
                return Err(ListError);
            }
            lists += 1;
            let issuer = list.issuer().as_raw();
            for revoked in list.iter_revoked_certificates() {
                all.insert((issuer.to_vec(), revoked.raw_serial().to_vec()));
            }
        }
        if lists == 0 {
            return Err(ListError);
        }
        let count = all.len();
        self.0.store(all.into());
        Ok(count)
    }

    /// Whether this one is in a list.
    pub(crate) fn holds(&self, certificate: &X509Certificate<'_>) -> bool {
        let revoked = self.0.load();
        if revoked.is_empty() {
            return false;
        }
        let key = (
            certificate.issuer().as_raw().to_vec(),
            certificate.raw_serial().to_vec(),
        );
        revoked.contains(&key)
    }
}
