//! Files that say whom to trust in the mesh: read here for what is wrong with them, and by
//! `app::trust` to be put in force.

use std::time::SystemTime;

use crate::tls::revocation::Revocations;

use super::{At, Pass};

impl Pass<'_> {
    pub(super) fn check_trust(&mut self) {
        let Some(identity) = &self.config.identity else {
            return;
        };
        let at = At::key("identity");
        if let Some(crl) = &identity.crl {
            self.check_crl(&at.then("crl"), crl);
        }
    }

    fn check_crl(&mut self, at: &At, crl: &str) {
        match Revocations::read(crl.as_ref()) {
            Ok(lists) => {
                for issuer in lists.ended(SystemTime::now()) {
                    let message = format!("the list of `{issuer}` in `{crl}` has ended");
                    let remedy = "get a newer one: what was revoked since is let in";
                    self.warning(at, message, remedy);
                }
            }
            Err(error) => {
                let remedy = "expected a PEM file of `X509 CRL`, one or several";
                self.error(at, error.to_string(), remedy);
            }
        }
    }
}
