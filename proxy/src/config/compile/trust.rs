//! Files that say whom to trust in the mesh: read here for what is wrong with them, and by
//! `app::trust` to be put in force.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::SystemTime;

use selvedge_contract::config::{Federated, Profile};
use selvedge_contract::defaults::trust::DOMAINS;
use selvedge_contract::identity::{SpiffeId, TrustDomain};

use crate::fetch::Address;
use crate::tls::federation::Bundle;
use crate::tls::revocation::Revocations;
use crate::tls::server_client;

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
        let at = at.then("federation");
        if identity.federation.len() > DOMAINS {
            let remedy = format!("expected {DOMAINS} at most");
            self.error(&at, "too many trust domains", remedy);
        }
        let mut seen = BTreeSet::from([identity.trust_domain.as_str()]);
        for (nth, other) in identity.federation.iter().enumerate() {
            let at = at.nth(nth);
            self.check_federated(&at, other);
            if !seen.insert(&other.trust_domain) {
                let name = &other.trust_domain;
                let remedy = "expected each other trust domain once, and never one's own";
                let at = at.then("trustDomain");
                self.error(&at, format!("`{name}` is there already"), remedy);
            }
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

    fn check_federated(&mut self, at: &At, other: &Federated) {
        let _: Option<TrustDomain> = self.parse(&at.then("trustDomain"), &other.trust_domain);
        if let Some(bundle) = &other.bundle
            && let Err(error) = Bundle::read(bundle.as_ref())
        {
            let remedy = "expected the bundle of that trust domain, as SPIFFE has it or as PEM";
            self.error(&at.then("bundle"), error.to_string(), remedy);
        }
        match &other.endpoint {
            Some(endpoint) => self.check_endpoint(at, other, endpoint),
            None if other.bundle.is_none() => {
                let remedy = "add `bundle: FILE`, or `endpoint: https://...`";
                self.error(at, "nothing says what its roots are", remedy);
            }
            None => {
                let keys = [
                    ("profile", other.profile.is_some()),
                    ("endpointId", other.endpoint_id.is_some()),
                    ("ca", other.ca.is_some()),
                ];
                for (key, _) in keys.into_iter().filter(|(_, there)| *there) {
                    let remedy = "add `endpoint`, or leave it out";
                    self.error(&at.then(key), "there is no endpoint", remedy);
                }
            }
        }
    }

    fn check_endpoint(&mut self, at: &At, other: &Federated, endpoint: &str) {
        let address: Option<Address> = self.parse(&at.then("endpoint"), endpoint);
        if address.is_some_and(|address| !address.is_https()) {
            let remedy = "expected `https://...`";
            self.error(&at.then("endpoint"), "not guarded by TLS", remedy);
        }
        let by_id = other.profile == Some(Profile::HttpsSpiffe);
        match &other.endpoint_id {
            Some(id) if by_id => self.check_endpoint_id(at, other, id),
            Some(_) => {
                let remedy = "set `profile: https_spiffe`, or leave it out";
                let message = "an endpoint of the profile https_web is known by its name";
                self.error(&at.then("endpointId"), message, remedy);
            }
            None if by_id => {
                let remedy = "add `endpointId: spiffe://...`";
                self.error(at, "nothing says who the endpoint is", remedy);
            }
            None => {}
        }
        match &other.ca {
            Some(_) if by_id => {
                let remedy = "leave it out";
                let message = "an endpoint of the profile https_spiffe is verified by a bundle";
                self.error(&at.then("ca"), message, remedy);
            }
            Some(ca) => {
                if let Err(error) = server_client(Some(Path::new(ca)), false) {
                    let remedy = "expected a PEM file of certificates";
                    self.error(&at.then("ca"), error.to_string(), remedy);
                }
            }
            None => {}
        }
    }

    /// By which roots an endpoint is verified must be known before it is asked for them.
    fn check_endpoint_id(&mut self, at: &At, other: &Federated, id: &str) {
        let at = at.then("endpointId");
        let Some(id) = self.parse::<SpiffeId>(&at, id) else {
            return;
        };
        let domain = id.trust_domain();
        if domain == other.trust_domain && other.bundle.is_none() {
            let remedy = "add `bundle: FILE`, its first bundle";
            self.error(&at, "it would vouch for itself", remedy);
        }
        self.check_domain(&at, domain);
    }

    /// A trust domain must be one's own, or federated.
    pub(super) fn check_domain(&mut self, at: &At, domain: &str) {
        let Some(identity) = &self.config.identity else {
            return;
        };
        let others = identity.federation.iter().map(|o| o.trust_domain.as_str());
        let mut known = others.chain([identity.trust_domain.as_str()]);
        if known.clone().all(|known| known != domain) {
            self.dangling(at, "trust domain", domain, &mut known);
        }
    }
}
