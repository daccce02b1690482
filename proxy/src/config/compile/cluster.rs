//! Services of the cluster: what configuration says of them, and where those that were found because
//! they are called stand among the rest.

use std::net::SocketAddr;
use std::sync::Arc;

use selvedge_contract::config::{Kubernetes, KubernetesService, PortRef};
use selvedge_gateway::hostname::Pattern;

use crate::accept::original::canonical;
use crate::discover::demand::Discovered;
use crate::route::{Named, Onward, Rule};

use super::{At, Pass};

impl Pass<'_> {
    /// The section, and whether this binary can do what it says.
    pub(super) fn check_kubernetes(&mut self) {
        let Some(spec) = &self.config.kubernetes else {
            return;
        };
        let at = At::key("kubernetes");
        if cfg!(not(feature = "kubernetes")) {
            let remedy = "use a binary with it, or remove the section";
            self.error(
                &at,
                "this binary was built without the Kubernetes API",
                remedy,
            );
        }
        for (key, name) in [
            ("namespace", &spec.namespace),
            ("clusterDomain", &spec.cluster_domain),
        ] {
            if name
                .as_deref()
                .is_some_and(|name| !name.split('.').all(is_label))
            {
                self.error(
                    &at.then(key),
                    "it is not a name",
                    "expected one such as `shop`",
                );
            }
        }
        if spec.idle.is_some_and(|idle| idle.0.is_zero()) {
            self.error(
                &at.then("idle"),
                "nothing would be held",
                "expected a time such as `10m`",
            );
        }
        self.check_source(&at, spec);
    }

    #[cfg(feature = "kubernetes")]
    fn check_source(&mut self, at: &At, spec: &Kubernetes) {
        if let Err(error) = crate::kubernetes::Api::of(spec) {
            let remedy = "expected one such as `https://10.0.0.1:6443`";
            self.error(&at.then("server"), error.to_string(), remedy);
        }
        let given = [
            ("server", &spec.server),
            ("token", &spec.token),
            ("ca", &spec.ca),
        ];
        for (key, given) in given {
            if given.is_some() && spec.manifests.is_some() {
                let remedy = "remove it, or `manifests`";
                self.error(
                    &at.then(key),
                    "nobody is asked where there are manifests",
                    remedy,
                );
            }
        }
    }

    #[cfg(not(feature = "kubernetes"))]
    fn check_source(&self, _: &At, _: &Kubernetes) {}

    pub(super) fn check_cluster_service(&mut self, at: &At, spec: &KubernetesService) {
        if self.config.kubernetes.is_none() {
            let remedy = "add the section `kubernetes: {}`, whose defaults are what a pod has";
            self.error(at, "discovery from the Kubernetes API is not on", remedy);
        }
        let names = [
            ("service", Some(&spec.service)),
            ("namespace", spec.namespace.as_ref()),
        ];
        for (key, name) in names {
            if name.is_some_and(|name| !is_label(name)) {
                let remedy = "expected a name such as `orders`";
                self.error(&at.then(key), "it is not a name", remedy);
            }
        }
        let bad = match &spec.port {
            Some(PortRef::Number(port)) => *port == 0,
            Some(PortRef::Name(name)) => name.is_empty(),
            None => false,
        };
        if bad {
            let remedy = "expected a number or a name of a port of the service";
            self.error(&at.then("port"), "it is no port", remedy);
        }
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len()) && text.bytes().all(inner)
}

/// Whether what was found is what the configuration has under a name of its own: it is then called
/// by that service's rule, whatever it is called by.
pub(super) fn is_same(target: &KubernetesService, home: &str, found: &Discovered) -> bool {
    let Some(own) = &found.spec.kubernetes else {
        return false;
    };
    let namespace = target.namespace.as_deref().unwrap_or(home);
    let port = match (&target.port, &own.port) {
        (None, _) => found.alone,
        (Some(PortRef::Name(name)), _) => *name == found.port_name,
        (given, own) => given == own,
    };
    port && target.service == own.service && own.namespace.as_deref() == Some(namespace)
}

/// Where it is called: at its addresses, and by its names at its ports.
pub(super) fn add(
    onward: Option<&mut Onward>,
    named: &mut Named,
    found: &Discovered,
    rule: &Arc<Rule>,
) {
    let hosts = found
        .spec
        .hostnames
        .iter()
        .filter_map(|host| host.parse().ok());
    let hosts: Vec<Pattern> = hosts.collect();
    let Some(onward) = onward else {
        let mut ports = found.ports.clone();
        // `http://orders` means the only port there is.
        if found.alone && !ports.contains(&80) {
            ports.push(80);
        }
        for port in ports {
            super::onward::name(named.by_port.entry(port).or_default(), &hosts, rule);
        }
        return;
    };
    for port in &found.ports {
        super::onward::name(onward.by_port.entry(*port).or_default(), &hosts, rule);
    }
    let addresses = found
        .spec
        .addresses
        .iter()
        .filter_map(|text| text.parse().ok());
    for address in addresses.map(|address: SocketAddr| canonical(address)) {
        // What the configuration says of an address counts.
        onward
            .by_address
            .entry(address)
            .or_insert_with(|| rule.clone());
    }
}
