//! What a gateway listener shows: certificates from files and those that ACME obtained, by SNI.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::acme::Issuer;

use super::FileCertificates;

/// See the module. Both parts change while handshakes go on.
#[derive(Debug, Clone)]
pub struct ShownCertificates {
    /// From files; may be none.
    pub files: Arc<FileCertificates>,
    /// Obtained by ACME.
    pub issuer: Option<Arc<Issuer>>,
}

impl ShownCertificates {
    /// A file for exactly this name, what ACME has for it, a file with a wildcard, the first.
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let Some(issuer) = &self.issuer else {
            return self.files.find(name);
        };
        self.files
            .exact(name)
            .or_else(|| issuer.shown(name))
            .or_else(|| self.files.find(name))
            .or_else(|| issuer.first())
    }

    fn first(&self) -> Option<Arc<CertifiedKey>> {
        let issuer = || self.issuer.as_ref()?.first();
        self.files.first().or_else(issuer)
    }

    /// Whether the certificate shown for one name is also good for the other, and would be shown
    /// for it. What ACME obtained is good for one name.
    #[must_use]
    pub fn covers(&self, server_name: &str, host: &str) -> bool {
        let by_acme = |name: &str| {
            self.files.exact(name).is_none()
                && self
                    .issuer
                    .as_ref()
                    .is_some_and(|i| i.shown(name).is_some())
        };
        !by_acme(server_name) && !by_acme(host) && self.files.covers(server_name, host)
    }
}

impl ResolvesServerCert for ShownCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            Some(name) if name.bytes().any(|b| b.is_ascii_uppercase()) => {
                self.find(&name.to_ascii_lowercase())
            }
            Some(name) => self.find(name),
            None => self.first(),
        }
    }
}
