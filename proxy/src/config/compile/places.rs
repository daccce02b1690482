//! Where listeners of the configuration stand, and who stands before them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::danger::ClientCertVerifier;
use selvedge_contract::config::{
    ClientCertificateMode, ClientCertificates, Listener, ListenerTls, TlsVersion,
};
use selvedge_gateway::address::{Range, Ranges};

use crate::accept::ListenerPlan;
use crate::tls::client;
use crate::tls::files::{Pair, PairError};
use crate::tls::{FileCertificates, ServerTls, ShownCertificates};

use super::{At, Pass};

impl Pass<'_> {
    /// TLS of a listener: files, ACME, or both.
    pub(super) fn gateway_tls(
        &mut self,
        at: &At,
        spec: &ListenerTls,
    ) -> Option<(ServerTls, Arc<FileCertificates>)> {
        let pairs: Vec<Pair> = spec
            .certificates
            .iter()
            .map(|files| Pair {
                certificate: PathBuf::from(&files.certificate),
                key: PathBuf::from(&files.key),
                ocsp: files.ocsp.as_ref().map(PathBuf::from),
            })
            .collect();
        let certificates = at.then("certificates");
        if pairs.is_empty() && spec.acme.is_none() {
            self.error(&certificates, "no certificate", "add one, or `acme`");
        }
        let acme = spec.acme.as_deref();
        let issuer = acme.and_then(|name| self.issuer(&at.then("acme"), name));
        let files = match FileCertificates::load(pairs) {
            Ok(files) => files,
            Err(errors) => {
                for (index, error) in errors {
                    if matches!(error, PairError::Ocsp { .. }) {
                        let at = certificates.nth(index).then("ocsp");
                        let remedy = "expected a file with the responder's answer, in DER";
                        self.error(&at, error.to_string(), remedy);
                        continue;
                    }
                    let remedy = "expected PEM files that can be read";
                    self.error(&certificates.nth(index), error.to_string(), remedy);
                }
                return None;
            }
        };
        for (index, why) in files.unshown() {
            let at = certificates.nth(index).then("ocsp");
            let message = format!("the OCSP response is not shown: {why}");
            self.warning(&at, message, "ask the responder again");
        }
        let shown = ShownCertificates {
            files: files.clone(),
            issuer,
        };
        let clients = match &spec.client_certificates {
            None => None,
            Some(spec) => Some(self.client_verifier(&at.then("clientCertificates"), spec)?),
        };
        match ServerTls::gateway(shown, spec.min_version == TlsVersion::V13, clients) {
            Ok(tls) => Some((tls, files)),
            Err(error) => {
                self.error(at, error.to_string(), "");
                None
            }
        }
    }

    fn client_verifier(
        &mut self,
        at: &At,
        spec: &ClientCertificates,
    ) -> Option<Arc<dyn ClientCertVerifier>> {
        let required = spec.mode == ClientCertificateMode::Required;
        let crl = spec.crl.as_deref().map(Path::new);
        match client::verifier(Path::new(&spec.ca), crl, required) {
            Ok((verifier, doubts)) => {
                for doubt in doubts {
                    let remedy = "such clients are refused; renew the list, or leave it out";
                    self.warning(&at.then("crl"), doubt, remedy);
                }
                Some(verifier)
            }
            Err(error) => {
                let remedy =
                    "expected certificates of CAs, and lists that they have signed, in PEM";
                self.error(at, error.to_string(), remedy);
                None
            }
        }
    }

    pub(super) fn address<T: std::str::FromStr>(&mut self, at: &At, text: &str) -> Option<T> {
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let remedy = if std::any::type_name::<T>().contains("SocketAddr") {
            "expected an address and a port such as `127.0.0.1:8080`"
        } else {
            "expected an address such as `127.0.0.1` or `::`"
        };
        self.error(at, format!("`{text}` is not an address"), remedy);
        None
    }

    pub(super) fn balancers(&mut self, at: &At, spec: &Listener) -> Option<Ranges<()>> {
        let spec = spec.proxy_protocol.as_ref()?;
        let at = at.then("proxyProtocol").then("from");
        let mut ranges = Ranges::default();
        for (index, text) in spec.from.iter().enumerate() {
            let range: Option<Range> = self.parse(&at.nth(index), text);
            if let Some(range) = range {
                let _ = ranges.insert(range, ());
            }
        }
        if spec.from.is_empty() {
            let remedy = "name the load balancers' addresses";
            self.error(&at, "nobody speaks for others", remedy);
        }
        Some(ranges)
    }

    pub(super) fn check_parents(&mut self) {
        let mut names: Vec<&str> = self
            .config
            .listeners
            .iter()
            .filter(|l| l.protocol.is_http())
            .map(|l| l.name.as_str())
            .collect();
        names.push("outbound");
        for (index, route) in self.config.routes.iter().enumerate() {
            for (nth, parent) in route.parent_refs.iter().enumerate() {
                if !names.contains(&parent.name.as_str()) {
                    let at = At::key("routes")
                        .nth(index)
                        .then("parentRefs")
                        .nth(nth)
                        .then("name");
                    self.dangling(&at, "listener", &parent.name, names.iter().copied());
                }
            }
        }
        let mut seen = HashSet::new();
        for (index, listener) in self.config.listeners.iter().enumerate() {
            if !seen.insert(&listener.name) {
                let at = At::key("listeners").nth(index).then("name");
                self.error(
                    &at,
                    format!("a listener `{}` is there already", listener.name),
                    "give it another name",
                );
            }
        }
    }

    pub(super) fn check_addresses(&mut self, plans: &[Arc<ListenerPlan>]) {
        let mut seen = HashSet::new();
        for plan in plans.iter().filter(|p| p.address.port() != 0) {
            let datagrams = plan.streams.as_ref().is_some_and(|s| s.datagrams);
            if !seen.insert((plan.address, datagrams)) {
                let message = format!("{} is used by two listeners", plan.address);
                self.error(&At::default(), message, "give one of them another port");
            }
        }
    }
}
