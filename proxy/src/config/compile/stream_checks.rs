//! What listeners that look into nothing, and their routes, cannot have.

use std::net::IpAddr;

use selvedge_contract::config::{Listener, ListenerProtocol, StreamBackend};
use selvedge_contract::defaults::datagrams;
use selvedge_contract::units;

use super::streams::Spec;
use super::{At, Pass};

impl Pass<'_> {
    /// Whether the listeners that a route names are there, and are of its kind.
    pub(super) fn check_listeners_of(&mut self, at: &At, spec: &Spec<'_>) {
        let config = self.config;
        let protocol = spec.protocol.as_str();
        if spec.listeners.is_empty() {
            let remedy = format!("name a listener with `protocol: {protocol}`");
            self.error(&at.then("listeners"), "it is for no listener", remedy);
        }
        let fitting = config.listeners.iter();
        let fitting = fitting.filter(|l| l.protocol == spec.protocol);
        let fitting: Vec<&str> = fitting.map(|l| l.name.as_str()).collect();
        for (nth, name) in spec.listeners.iter().enumerate() {
            let at = at.then("listeners").nth(nth);
            match config.listeners.iter().find(|l| l.name == *name) {
                None => self.dangling(&at, "listener", name, fitting.iter().copied()),
                Some(listener) if listener.protocol != spec.protocol => {
                    let other = listener.protocol.as_str();
                    let message = format!("`{name}` is a listener for {other}, not for {protocol}");
                    let remedy = if fitting.is_empty() {
                        format!("set its `protocol: {protocol}`, or use the routes for {other}")
                    } else {
                        format!("expected one of `{}`", fitting.join("`, `"))
                    };
                    self.error(&at, message, remedy);
                }
                Some(_) => {}
            }
        }
    }

    /// What a listener that looks into nothing cannot have.
    pub(super) fn check_stream_listener(&mut self, at: &At, spec: &Listener) {
        let protocol = spec.protocol.as_str();
        let named = match spec.protocol {
            ListenerProtocol::Tls => "names are told apart by `tlsRoutes`",
            _ => "there is no host without a request",
        };
        let judged = "policies look at requests";
        let hops = "`X-Forwarded-For` is a field of requests";
        for (key, there, why, remedy) in [
            ("hostname", spec.hostname.is_some(), named, "remove it"),
            ("policies", !spec.policies.is_empty(), judged, "remove them"),
            (
                "trustedHops",
                spec.trusted_hops > 0,
                hops,
                "remove it, or use `proxyProtocol`",
            ),
        ] {
            if there {
                let message = format!("`{key}` on a listener for {protocol}: {why}");
                self.error(&at.then(key), message, remedy);
            }
        }
        if spec.protocol == ListenerProtocol::Udp {
            self.check_udp_listener(at, spec);
        }
        if spec.tls.is_some() && spec.protocol != ListenerProtocol::Tls {
            let message = format!("`tls` on a listener for {protocol}");
            self.error(
                &at.then("tls"),
                message,
                "set `protocol: TLS`, or remove it",
            );
        }
    }

    pub(super) fn check_udp_listener(&mut self, at: &At, spec: &Listener) {
        if spec.proxy_protocol.is_some() {
            let message = "`proxyProtocol` on a listener for UDP: it begins connections";
            self.error(&at.then("proxyProtocol"), message, "remove it");
        }
        let bind = spec
            .bind
            .as_deref()
            .and_then(|bind| bind.parse::<IpAddr>().ok());
        if bind.is_none_or(|bind| bind.is_unspecified()) {
            let message = "answers leave by the address that leads to the client";
            let remedy = "set `bind` to the address that clients call, if the machine has several";
            self.warning(&at.then("bind"), message, remedy);
        }
    }

    /// The longest datagram of a route.
    pub(super) fn most(&mut self, at: &At, size: Option<units::Size>) -> usize {
        let most = size.map_or(datagrams::DATAGRAM as u64, |size| size.0);
        if !(1..=datagrams::DATAGRAM as u64).contains(&most) {
            let remedy = format!("expected 1 to {}", datagrams::DATAGRAM);
            self.error(at, "no datagram is as long", remedy);
        }
        usize::try_from(most).unwrap_or(datagrams::DATAGRAM)
    }

    /// Whether the services of a route can be sent datagrams: those go as they are.
    pub(super) fn check_datagrams(&mut self, at: &At, backends: &[StreamBackend]) {
        let config = self.config;
        for (index, reference) in backends.iter().enumerate() {
            let Some(service) = config.services.get(&reference.service) else {
                continue;
            };
            let at = at.then("backendRefs").nth(index).then("service");
            for (key, there) in [
                ("tls", service.tls.is_some()),
                ("mesh", service.mesh.is_some()),
                ("proxyProtocol", service.proxy_protocol.is_some()),
            ] {
                if there {
                    let name = &reference.service;
                    let message = format!("`{name}` has `{key}`, which is for connections");
                    self.error(
                        &at,
                        message,
                        "name a service without: datagrams go as they are",
                    );
                }
            }
        }
    }
}
