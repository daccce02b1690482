//! Listeners that rules of the kernel send connections to: what they know by where a connection was
//! going, and what they must not carry on.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::config::{Egress, Inbound, Outbound};
use selvedge_contract::ports;
use selvedge_gateway::hostname::Pattern;

use crate::accept::original::canonical;
use crate::route::table::Path;
use crate::route::{Matcher, Onward, Rule, Table};

use super::policies::Policies;
use super::routes;
use super::services::passed_service;
use super::{At, Compiler, Pass};

impl Compiler {
    /// A transparent outbound port: what is for no service goes on, unless it may not.
    pub(super) fn passing_on(
        &mut self,
        pass: &mut Pass<'_>,
        spec: &Outbound,
    ) -> Option<Box<Onward>> {
        let closed = spec.egress == Egress::RegistryOnly;
        if !spec.transparent {
            if closed {
                let message = "without `transparent` nothing but services is called anyway";
                let remedy =
                    "remove it, or set `transparent` and redirect the application's traffic";
                pass.warning(&At::key("outbound").then("egress"), message, remedy);
            }
            return None;
        }
        let name = self.name("passthrough");
        let known = self
            .passed
            .get_or_insert_with(|| Arc::new(passed_service(name)));
        let service = known.clone();
        let rule = self.simple_rule(
            ("outbound/passthrough", "outbound/passthrough"),
            &service,
            Policies::default(),
            Duration::ZERO,
            routes::default_retry(),
        );
        let onward = pass.to_application(&rule);
        Some(Box::new(Onward { closed, ..*onward }))
    }
}

impl Pass<'_> {
    /// Everything goes on by this rule.
    pub(super) fn to_application(&self, rule: &Arc<Rule>) -> Box<Onward> {
        Box::new(Onward {
            own_ports: self.own_ports(),
            by_address: HashMap::new(),
            by_port: HashMap::new(),
            opaque: Vec::new(),
            rule: rule.clone(),
            closed: false,
        })
    }

    /// The application of an inbound port; none where it is for all of the application's ports.
    pub(super) fn app(&mut self, at: &At, spec: &Inbound) -> Option<Option<SocketAddr>> {
        if spec.http2_ports.contains(&0) || (!spec.transparent && !spec.http2_ports.is_empty()) {
            let message = "it names ports of the application, where the port is transparent";
            let remedy = "set `protocol: http2` where it is not; leave out 0, which is no port";
            self.error(&at.then("http2Ports"), message, remedy);
        }
        let judged = !spec.policies.is_empty() || !spec.allow.is_empty();
        if !spec.opaque_ports.is_empty() && (!spec.transparent || judged) {
            let message = "what is carried on unseen is for transparent ports without policies";
            let remedy = "set `transparent`, and remove `policies` and `allow`";
            self.error(&at.then("opaquePorts"), message, remedy);
        }
        match (&spec.app, spec.transparent) {
            (Some(app), false) => self.address(&at.then("app"), app).map(Some),
            (None, true) => Some(None),
            (Some(_), true) => {
                let message = "a transparent port has as many applications as ports are called";
                let remedy = "remove `app`, or `transparent`";
                self.error(&at.then("app"), message, remedy);
                None
            }
            (None, false) => {
                let remedy = "add it, such as `app: 127.0.0.1:8080`, or `transparent: true`";
                self.error(at, "`app` is missing", remedy);
                None
            }
        }
    }

    /// Addresses by which a service is called.
    pub(super) fn called_at(
        &mut self,
        at: &At,
        texts: &[String],
        onward: Option<&Onward>,
    ) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let at = at.nth(index);
            let Some(address) = self.address::<SocketAddr>(&at, text).map(canonical) else {
                continue;
            };
            let taken = onward.is_some_and(|onward| onward.by_address.contains_key(&address));
            if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_loopback() {
                let remedy = "expected one that is called from outside, such as `10.96.0.10:80`";
                self.error(&at, format!("`{text}` is called by nobody"), remedy);
            } else if taken || addresses.contains(&address) {
                let remedy = "leave it in one place";
                self.error(&at, format!("`{text}` is there already"), remedy);
            } else {
                addresses.push(address);
            }
        }
        if onward.is_none() && !texts.is_empty() {
            let remedy = "set `outbound.transparent`, and redirect the application's traffic";
            self.warning(at, "nothing is known by where it was going", remedy);
        }
        addresses
    }

    /// Ports of this sidecar that nobody may be carried on to.
    fn own_ports(&self) -> Vec<u16> {
        let port = |text: &str| text.parse::<SocketAddr>().ok().map(|a| a.port());
        let admin = match self.config.admin.bind.as_deref() {
            None => Some(ports::ADMIN),
            Some(bind) => port(bind),
        };
        let outbound = self.config.outbound.as_ref();
        let own = self.config.inbound.iter().map(|inbound| inbound.port);
        own.chain(outbound.and_then(|outbound| port(&outbound.bind)))
            .chain(admin)
            .filter(|port| *port != 0)
            .collect()
    }
}

/// A service that is called at these addresses, and at their ports by these names.
pub(super) fn add(
    onward: &mut Onward,
    addresses: &[SocketAddr],
    hosts: &[Pattern],
    rule: &Arc<Rule>,
) {
    let mut ports: Vec<u16> = addresses.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        name(onward.by_port.entry(port).or_default(), hosts, rule);
    }
    for address in addresses {
        onward.by_address.insert(*address, rule.clone());
    }
}

/// All that was going to one of these ports.
pub(super) fn every(onward: &mut Onward, ports: &[u16], rule: &Arc<Rule>) {
    for port in ports {
        let table = onward.by_port.entry(*port).or_default();
        let path = Path::Prefix(String::new());
        table.add(None, &path, Matcher::default(), rule);
    }
}

/// All that names one of these hosts.
pub(super) fn name(table: &mut Table, hosts: &[Pattern], rule: &Arc<Rule>) {
    for host in hosts {
        let path = Path::Prefix(String::new());
        table.add(Some(host), &path, Matcher::default(), rule);
    }
}
