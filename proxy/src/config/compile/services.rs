//! Services of the configuration, every default filled in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use selvedge_contract::config::{
    Endpoint, Inbound, ProxyVersion, Service as Spec, ServiceLimits, UpstreamProtocol,
};
use selvedge_contract::defaults::transparent::CONNECT;
use selvedge_contract::defaults::{adaptive as adaptive_defaults, upstream as defaults};
use selvedge_contract::identity::SpiffeId;
use selvedge_contract::units::Duration as Given;

use crate::balance::breaker::BreakerSpec;
use crate::balance::plan::Plan;
use crate::balance::service::{ClusterService, DnsName, EjectionSpec, Speaks};
use crate::balance::{AdaptiveSpec, Reached, Service, ServiceSpec, Wanted};
use crate::tls;
use crate::upstream::security::{MeshTls, ServerTls};
use crate::upstream::{Announce, Security};

use super::{At, Compiler, Pass};

pub(super) type Services = BTreeMap<String, (Spec, Arc<Service>)>;

/// Applications behind inbound ports, by address and protocol, with what they were made from.
pub(super) type Apps =
    BTreeMap<(Option<SocketAddr>, UpstreamProtocol), (ServiceLimits, Arc<Service>)>;

impl Compiler {
    /// Every service; one whose configuration has not changed is the same as before.
    pub(super) fn services(&mut self, pass: &mut Pass<'_>) -> Services {
        let mut services = Services::new();
        let home = pass
            .config
            .kubernetes
            .as_ref()
            .map(crate::discover::home)
            .unwrap_or_default();
        for (name, spec) in &pass.config.services {
            let at = At::key("services").then(name);
            let endpoints = pass.endpoints(&at, spec);
            let security = self.security(pass, &at, spec);
            pass.check_service(&at, spec);
            let plan = pass.balance(&at, spec);
            let health = pass.health(&at, spec);
            let Some(security) = security else { continue };
            let own_name = self.name(name);
            let live = match self.services.get(name) {
                Some((old, live)) if old == spec => live.clone(),
                before => {
                    let mut full = full_spec(own_name, spec, security, plan, &home);
                    full.health = health.map(Arc::new);
                    Arc::new(succeed(Service::new(full, &endpoints), before))
                }
            };
            services.insert(name.clone(), (spec.clone(), live));
        }
        for (name, found) in self.discovered.clone() {
            if pass.config.services.contains_key(&name) {
                continue;
            }
            let spec = &found.spec;
            let own_name = self.name(&name);
            let live = match self.services.get(&name) {
                Some((old, live)) if old == spec => live.clone(),
                before => {
                    let spec = full_spec(own_name, spec, Security::Plain, Plan::default(), "");
                    Arc::new(succeed(Service::new(spec, &[]), before))
                }
            };
            services.insert(name, (found.spec, live));
        }
        services
    }

    fn security(&self, pass: &mut Pass<'_>, at: &At, spec: &Spec) -> Option<Security> {
        match (&spec.mesh, &spec.tls) {
            (Some(_), Some(_)) => {
                let remedy = "`mesh` for endpoints in the mesh, `tls` for others";
                pass.error(at, "`mesh` and `tls` exclude each other", remedy);
                None
            }
            (None, None) => Some(Security::Plain),
            (Some(mesh), None) => {
                let at = at.then("mesh");
                let expected = match &mesh.identity {
                    Some(text) => {
                        let at = at.then("identity");
                        let id: SpiffeId = pass.parse(&at, text)?;
                        pass.check_domain(&at, id.trust_domain());
                        Some(Arc::from(id.as_str()))
                    }
                    None => None,
                };
                let Some(store) = &self.store else {
                    let remedy = "add `identity`, so that this proxy has a certificate to show";
                    pass.error(
                        &at,
                        "a meshed service needs an identity of one's own",
                        remedy,
                    );
                    return None;
                };
                match tls::mesh_client(store, expected.clone()) {
                    Ok(config) => Some(Security::Mesh(MeshTls {
                        config,
                        store: store.clone(),
                        expected,
                    })),
                    Err(error) => {
                        pass.error(&at, error.to_string(), "");
                        None
                    }
                }
            }
            (None, Some(spec_tls)) => {
                let at = at.then("tls");
                let name = spec_tls.server_name.clone().or_else(|| {
                    let dns = spec.dns.as_ref()?;
                    Some(dns.trim_end_matches('.').to_owned())
                });
                let Some(name) = name else {
                    let remedy = "add `serverName`, the name in the endpoints' certificate";
                    pass.error(&at, "TLS needs a name to verify", remedy);
                    return None;
                };
                let Ok(name) = ServerName::try_from(name.clone()) else {
                    pass.error(
                        &at.then("serverName"),
                        format!("`{name}` is not a name"),
                        "expected a DNS name",
                    );
                    return None;
                };
                let http2 = spec.protocol == UpstreamProtocol::Http2;
                match tls::server_client(spec_tls.ca.as_deref().map(Path::new), http2) {
                    Ok(config) => Some(Security::Tls(ServerTls { config, name })),
                    Err(error) => {
                        pass.error(
                            &at.then("ca"),
                            error.to_string(),
                            "expected a PEM file of CA certificates",
                        );
                        None
                    }
                }
            }
        }
    }
}

impl Pass<'_> {
    fn endpoints(&mut self, at: &At, spec: &Spec) -> Vec<Wanted> {
        let sources = [
            !spec.endpoints.is_empty(),
            spec.dns.is_some(),
            spec.kubernetes.is_some(),
        ];
        if sources.into_iter().filter(|there| *there).count() != 1 {
            let remedy =
                "set `endpoints`, or `dns` with `port`, or `kubernetes`, and one of them only";
            self.error(at, "endpoints of a service come from one place", remedy);
        }
        if let Some(target) = &spec.kubernetes {
            self.check_cluster_service(&at.then("kubernetes"), target);
        }
        let mut endpoints = Vec::new();
        for (index, endpoint) in spec.endpoints.iter().enumerate() {
            let at = at.then("endpoints").nth(index);
            let (text, weight, at_address) = match endpoint {
                Endpoint::Address(text) => (text, 1, at.clone()),
                Endpoint::Weighted(spec) => (&spec.address, spec.weight, at.then("address")),
            };
            let (zone, priority) = match endpoint {
                Endpoint::Address(_) => (None, 0),
                Endpoint::Weighted(spec) => (spec.zone.as_deref().map(Arc::from), spec.priority),
            };
            if weight == 0 || weight > 65_535 {
                self.error(
                    &at.then("weight"),
                    format!("{weight} is out of range"),
                    "expected 1 to 65535",
                );
            }
            match text.parse::<SocketAddr>() {
                Ok(address) if address.port() != 0 => {
                    if endpoints.iter().any(|e: &Wanted| e.address == address) {
                        let message = format!("`{address}` is there already");
                        let remedy = "give the endpoint a `weight` instead";
                        self.warning(&at_address, message, remedy);
                    }
                    endpoints.push(Wanted {
                        zone,
                        priority,
                        ..(address, weight).into()
                    });
                }
                _ => {
                    let remedy = "expected an address and a port such as `10.0.0.5:8080`; for a name use `dns`";
                    self.error(&at_address, format!("`{text}` is not an endpoint"), remedy);
                }
            }
        }
        endpoints
    }

    /// What an inbound port says of its application, which has a place among the services by the port's name.
    pub(super) fn check_app(&mut self, at: &At, name: &str, spec: &Inbound) {
        self.check_caps(&at.then("limits"), &spec.limits);
        if self.config.services.contains_key(name) {
            let message = format!("`{name}` is the name of an inbound port");
            let remedy = "give the service another name: metrics could not tell them apart";
            self.error(&At::key("services").then(name), message, remedy);
        }
    }

    /// Caps with which something can be sent.
    pub(super) fn check_caps(&mut self, at: &At, limits: &ServiceLimits) {
        for (key, cap) in [
            ("connections", limits.connections),
            ("requests", limits.requests),
        ] {
            if cap == Some(0) {
                let remedy = "expected 1 or more, or nothing for the default";
                self.error(&at.then(key), "with 0 nothing could ever be sent", remedy);
            }
        }
        let min = limits.adaptive.as_ref().and_then(|adaptive| adaptive.min);
        let most = limits.requests.unwrap_or(defaults::REQUESTS);
        if min.is_some_and(|min| min == 0 || min > most) {
            let remedy = format!("expected 1 to {most}, which is `requests`");
            let at = at.then("adaptive").then("min");
            self.error(&at, "no limit to come down to", remedy);
        }
    }

    fn check_service(&mut self, at: &At, spec: &Spec) {
        let srv = spec.dns.as_ref().is_some_and(|name| name.starts_with('_'));
        match (&spec.dns, spec.port) {
            (Some(_), None) if !srv => {
                self.error(
                    at,
                    "`port` is missing",
                    "add the port of the addresses that `dns` gives",
                );
            }
            (None, Some(_)) => {
                self.error(
                    &at.then("port"),
                    "`port` is for `dns`",
                    "endpoints name their own ports",
                );
            }
            _ => {}
        }
        if spec.proxy_protocol.is_some()
            && (spec.mesh.is_some()
                || spec.protocol == UpstreamProtocol::Http2
                // Any of its endpoints may be in the mesh.
                || (spec.kubernetes.is_some() && self.config.identity.is_some()))
        {
            let message = "a connection of HTTP/2 is many clients', and a PROXY header names one";
            let remedy = "set `protocol: http1`, without `mesh`";
            self.error(&at.then("proxyProtocol"), message, remedy);
        }
        self.check_caps(&at.then("limits"), &spec.limits);
        if let Some(breaker) = &spec.breaker
            && !(1..=100).contains(&breaker.error_rate)
        {
            let remedy = "expected a share in percent, 1 to 100";
            self.error(
                &at.then("breaker").then("errorRate"),
                format!("{} is out of range", breaker.error_rate),
                remedy,
            );
        }
        let ejection = &spec.ejection;
        for (key, share) in [
            ("maxShare", ejection.max_share),
            ("successRate", ejection.success_rate),
        ] {
            if share.is_some_and(|share| share > 100) {
                let remedy = "expected a share in percent, 0 to 100";
                self.error(&at.then("ejection").then(key), "out of range", remedy);
            }
        }
        let or = |given: Option<Given>, default| given.map_or(default, |d: Given| d.0);
        let (base, max) = (
            or(ejection.base, defaults::EJECT_BASE),
            or(ejection.max, defaults::EJECT_MAX),
        );
        if base > max {
            let message =
                format!("the first ejection, {base:?}, is longer than the longest, {max:?}");
            let remedy = "set `base` to `max` or less";
            self.error(&at.then("ejection").then("base"), message, remedy);
        }
        for (index, host) in spec.hostnames.iter().enumerate() {
            let at = at.then("hostnames").nth(index);
            let _: Option<selvedge_gateway::hostname::Pattern> = self.parse(&at, host);
        }
    }
}

fn succeed(service: Service, before: Option<&(Spec, Arc<Service>)>) -> Service {
    match before {
        Some((_, before)) => service.in_place_of(before),
        None => service,
    }
}

/// `home` is the namespace of services of the cluster that name none.
fn full_spec(
    name: Arc<str>,
    spec: &Spec,
    security: Security,
    plan: Plan,
    home: &str,
) -> ServiceSpec {
    let meshed = matches!(security, Security::Mesh(_));
    let speaks = match spec.protocol {
        UpstreamProtocol::Http1 if !meshed => Speaks::Http1,
        _ => Speaks::Http2,
    };
    let time = |given: Option<Given>, default: Duration| given.map_or(default, |d| d.0);
    let idle = match speaks {
        Speaks::Http1 => defaults::IDLE_HTTP1,
        Speaks::Http2 => defaults::IDLE_HTTP2,
    };
    let ejection = &spec.ejection;
    ServiceSpec {
        name,
        reached: Reached::AtEndpoints,
        balance: Arc::new(plan),
        speaks,
        security,
        announces: spec.proxy_protocol.map(|version| match version {
            ProxyVersion::V1 => Announce::V1,
            ProxyVersion::V2 => Announce::V2,
        }),
        connect_timeout: time(spec.connect_timeout, defaults::CONNECT),
        idle: time(spec.idle_timeout, idle),
        max_requests: spec.limits.requests.unwrap_or(defaults::REQUESTS),
        adaptive: spec.limits.adaptive.as_ref().map(|adaptive| {
            let max = spec.limits.requests.unwrap_or(defaults::REQUESTS);
            let min = adaptive.min.unwrap_or(adaptive_defaults::MIN).min(max);
            AdaptiveSpec { min, max }
        }),
        max_connections: spec.limits.connections.unwrap_or(defaults::CONNECTIONS),
        max_pending: spec.limits.pending.unwrap_or(defaults::PENDING),
        max_retries: spec.limits.retries.unwrap_or(defaults::RETRIES),
        ejection: EjectionSpec {
            consecutive: ejection.consecutive.unwrap_or(defaults::EJECT_AFTER),
            success_rate: ejection
                .success_rate
                .unwrap_or(defaults::EJECT_SUCCESS_RATE),
            min_requests: ejection.min_requests.unwrap_or(defaults::EJECT_MINIMUM),
            base: time(ejection.base, defaults::EJECT_BASE),
            max: time(ejection.max, defaults::EJECT_MAX),
            max_share: ejection.max_share.unwrap_or(defaults::EJECT_SHARE),
        },
        health: None,
        breaker: spec.breaker.as_ref().map(|breaker| BreakerSpec {
            error_rate: breaker.error_rate,
            min_requests: breaker.min_requests.unwrap_or(defaults::BREAKER_MINIMUM),
            open: time(breaker.open, defaults::BREAKER_OPEN),
        }),
        dns: spec.dns.as_ref().map(|name| DnsName {
            name: name.clone(),
            port: spec.port,
        }),
        kubernetes: spec.kubernetes.as_ref().map(|target| ClusterService {
            namespace: target.namespace.clone().unwrap_or_else(|| home.to_owned()),
            service: target.service.clone(),
            port: target.port.clone(),
        }),
    }
}

/// The service behind an inbound port: the application, in plaintext; `None` is where its callers
/// were going.
pub(super) fn app_service(
    name: Arc<str>,
    app: Option<SocketAddr>,
    protocol: UpstreamProtocol,
    limits: &ServiceLimits,
) -> Service {
    let spec = Spec {
        protocol,
        limits: limits.clone(),
        connect_timeout: Some(Given(defaults::CONNECT_APP)),
        ..Spec::default()
    };
    let mut spec = full_spec(name, &spec, Security::Plain, Plan::default(), "");
    if app.is_none() {
        spec.reached = Reached::AsApplication;
        // Nothing could be called in place of a port that fails.
        spec.ejection.consecutive = 0;
        spec.ejection.success_rate = 0;
    }
    let endpoints: Vec<Wanted> = app.map(|app| (app, 1).into()).into_iter().collect();
    Service::new(spec, &endpoints)
}

/// What goes on to where it was going.
pub(super) fn passed_service(name: Arc<str>) -> Service {
    let spec = Spec {
        connect_timeout: Some(Given(CONNECT)),
        ..Spec::default()
    };
    let mut spec = full_spec(name, &spec, Security::Plain, Plan::default(), "");
    spec.reached = Reached::WhereItWasGoing;
    Service::new(spec, &[])
}
