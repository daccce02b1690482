//! Listeners that look into nothing, and the routes of what comes to them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::config::{
    ConnectRetry, Listener, ListenerProtocol, StreamBackend, TlsMode, TlsVersion,
};
use selvedge_contract::defaults::upstream as defaults;
use selvedge_contract::defaults::{Limits, datagrams, transparent::IDLE};
use selvedge_contract::units;
use selvedge_gateway::hostname::Pattern;

use crate::accept::{ListenerPlan, ListenerRole, ListenerSecurity};
use crate::message::target::EncodedSlash;
use crate::policy::treatment::Treatment;
use crate::route::{Backend, Edits, Named, RetryPolicy, StreamRule, Streams, Table};
use crate::tls::FileCertificates;

use super::policies::Policies;
use super::routes::MAX_WEIGHT;
use super::services::Services;
use super::{At, Compiler, Pass};

/// A route with everything its listeners need to know.
pub(super) struct CompiledStream {
    at: At,
    protocol: ListenerProtocol,
    listeners: Vec<String>,
    hosts: Vec<Pattern>,
    /// Some of its names have errors, so that it is not for any.
    bad_hosts: bool,
    /// Missing where it has errors.
    rule: Option<Arc<StreamRule>>,
}

/// What routes of all kinds have.
pub(super) struct Spec<'a> {
    key: &'static str,
    index: usize,
    hostnames: &'a [String],
    pub(super) protocol: ListenerProtocol,
    name: Option<&'a String>,
    pub(super) listeners: &'a [String],
    backends: &'a [StreamBackend],
    idle: Duration,
    most: usize,
    retry: Option<&'a ConnectRetry>,
}

impl Compiler {
    /// Every route for what is not looked into.
    pub(super) fn streams(
        &mut self,
        pass: &mut Pass<'_>,
        services: &Services,
    ) -> Vec<CompiledStream> {
        let mut streams = Vec::new();
        let config = pass.config;
        for (index, route) in config.tcp_routes.iter().enumerate() {
            let spec = Spec {
                key: "tcpRoutes",
                index,
                hostnames: &[],
                protocol: ListenerProtocol::Tcp,
                name: route.name.as_ref(),
                listeners: &route.listeners,
                backends: &route.backend_refs,
                idle: or(route.idle_timeout, IDLE),
                most: 0,
                retry: route.retry.as_ref(),
            };
            streams.push(self.stream(pass, services, &spec));
        }
        for (index, route) in config.tls_routes.iter().enumerate() {
            let spec = Spec {
                key: "tlsRoutes",
                index,
                hostnames: &route.hostnames,
                protocol: ListenerProtocol::Tls,
                name: route.name.as_ref(),
                listeners: &route.listeners,
                backends: &route.backend_refs,
                idle: or(route.idle_timeout, IDLE),
                most: 0,
                retry: route.retry.as_ref(),
            };
            streams.push(self.stream(pass, services, &spec));
        }
        for (index, route) in config.udp_routes.iter().enumerate() {
            let at = At::key("udpRoutes").nth(index);
            let most = pass.most(&at.then("maxDatagram"), route.max_datagram);
            let idle = or(route.idle_timeout, datagrams::IDLE);
            if idle.is_zero() {
                let remedy = "expected more than 0s: nothing else tells that a session is over";
                pass.error(&at.then("idleTimeout"), "sessions would never end", remedy);
            }
            pass.check_datagrams(&at, &route.backend_refs);
            let spec = Spec {
                key: "udpRoutes",
                index,
                hostnames: &[],
                protocol: ListenerProtocol::Udp,
                name: route.name.as_ref(),
                listeners: &route.listeners,
                backends: &route.backend_refs,
                idle,
                most,
                retry: route.retry.as_ref(),
            };
            streams.push(self.stream(pass, services, &spec));
        }
        streams
    }

    fn stream(
        &mut self,
        pass: &mut Pass<'_>,
        services: &Services,
        spec: &Spec<'_>,
    ) -> CompiledStream {
        let at = At::key(spec.key).nth(spec.index);
        pass.check_listeners_of(&at, spec);
        let mut hosts = Vec::new();
        for (nth, host) in spec.hostnames.iter().enumerate() {
            hosts.extend(pass.parse::<Pattern>(&at.then("hostnames").nth(nth), host));
        }
        let bad_hosts = hosts.len() < spec.hostnames.len();
        let kind = spec.protocol.as_str().to_ascii_lowercase();
        let name = spec.name.cloned();
        let name = name.unwrap_or_else(|| format!("{kind}-{}", spec.index));
        let backends = self.stream_backends(pass, &at, &name, spec.backends, services);
        let retry = spec.retry.cloned().unwrap_or_default();
        let backoff = or(retry.backoff, defaults::BACKOFF);
        let retry = RetryPolicy {
            attempts: retry.attempts.unwrap_or(defaults::ATTEMPTS).min(10),
            codes: Vec::new(),
            grpc: 0,
            backoff,
            backoff_max: backoff,
            hedge: Duration::ZERO,
        };
        let rule = backends.first().map(|b| b.service.clone());
        let rule = rule.and_then(|service| {
            let tag = (name.as_str(), name.as_str());
            let policies = Policies::default();
            let simple = self.simple_rule(tag, &service, policies, Duration::ZERO, retry);
            let mut rule = Arc::into_inner(simple)?;
            rule.backends = backends;
            rule.metrics = self.metrics.route(&name, "");
            Some(Arc::new(StreamRule {
                rule: Arc::new(rule),
                idle: spec.idle,
                most: spec.most,
            }))
        });
        CompiledStream {
            at,
            protocol: spec.protocol,
            listeners: spec.listeners.to_vec(),
            hosts,
            bad_hosts,
            rule,
        }
    }

    fn stream_backends(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        specs: &[StreamBackend],
        services: &Services,
    ) -> Vec<Backend> {
        let mut backends = Vec::new();
        let mut cumulated: u32 = 0;
        for (index, reference) in specs.iter().enumerate() {
            let at = at.then("backendRefs").nth(index);
            if reference.weight > MAX_WEIGHT {
                let remedy = format!("expected 0 to {MAX_WEIGHT}");
                let message = format!("{} is out of range", reference.weight);
                pass.error(&at.then("weight"), message, remedy);
            }
            let Some((spec, service)) = services.get(&reference.service) else {
                // One that exists but has errors was reported where it stands.
                if !pass.config.services.contains_key(&reference.service) {
                    let known = pass.config.services.keys().map(String::as_str);
                    pass.dangling(&at.then("service"), "service", &reference.service, known);
                }
                continue;
            };
            if !spec.policies.is_empty() {
                let message = format!(
                    "`{}` has policies, which look at requests",
                    reference.service
                );
                let remedy = "name a service without policies: bytes that are not looked into are not judged";
                pass.error(&at.then("service"), message, remedy);
            }
            cumulated = cumulated.saturating_add(reference.weight);
            backends.push(Backend {
                service: service.clone(),
                cumulated,
                request_edits: Edits::default(),
                response_edits: Edits::default(),
                metrics: self.metrics.route(name, &reference.service),
            });
        }
        if specs.is_empty() || (cumulated == 0 && backends.len() == specs.len()) {
            let remedy = "add a backend with a weight, such as `backendRefs: [{ service: db }]`";
            pass.error(&at.then("backendRefs"), "it leads nowhere", remedy);
        }
        backends
    }

    /// A listener for bytes or datagrams.
    pub(super) fn stream_listener(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        spec: &Listener,
        routes: &[CompiledStream],
        limits: &Limits,
    ) -> Option<(ListenerPlan, Option<Arc<FileCertificates>>)> {
        let bind = spec.bind.as_deref().unwrap_or("0.0.0.0");
        let ip: Option<IpAddr> = pass.address(&at.then("bind"), bind);
        pass.check_stream_listener(at, spec);
        let streams = pass.streams_of(at, spec, routes);
        let (security, files) = pass.stream_security(at, spec)?;
        let plan = ListenerPlan {
            name: self.name(&spec.name),
            address: SocketAddr::new(ip?, spec.port),
            role: ListenerRole::Gateway,
            encoded_slash: EncodedSlash::Refuse,
            security,
            table: Table::default(),
            limits: limits.clone(),
            trusted_hops: 0,
            balancers: pass.balancers(at, spec),
            guards: Vec::new(),
            treatment: Treatment::default(),
            opaque: None,
            onward: None,
            streams: Some(streams),
            named: Named::default(),
        };
        Some((plan, files))
    }
}

/// What is set, or the default.
fn or(set: Option<units::Duration>, default: Duration) -> Duration {
    set.map_or(default, |duration| duration.0)
}

impl Pass<'_> {
    /// TLS of a listener that looks into nothing, with the files that it shows certificates from.
    fn stream_security(
        &mut self,
        at: &At,
        spec: &Listener,
    ) -> Option<(ListenerSecurity, Option<Arc<FileCertificates>>)> {
        if spec.protocol != ListenerProtocol::Tls {
            return Some((ListenerSecurity::Plain, None));
        }
        let Some(tls) = &spec.tls else {
            let remedy = "add `tls: { certificates: [...] }` or `tls: { mode: Passthrough }`";
            self.error(at, "a listener for TLS needs `tls`", remedy);
            return None;
        };
        let at = at.then("tls");
        if tls.mode == TlsMode::Terminate {
            let (tls, files) = self.gateway_tls(&at, tls)?;
            return Some((ListenerSecurity::Tls(tls.for_bytes()), Some(files)));
        }
        for (key, there) in [
            ("certificates", !tls.certificates.is_empty()),
            ("acme", tls.acme.is_some()),
            ("minVersion", tls.min_version != TlsVersion::default()),
            ("clientCertificates", tls.client_certificates.is_some()),
        ] {
            if there {
                let message = format!("`{key}` where TLS passes through: whoever ends it has that");
                self.error(
                    &at.then(key),
                    message,
                    "remove it, or set `mode: Terminate`",
                );
            }
        }
        Some((ListenerSecurity::Plain, None))
    }

    /// The routes of one listener.
    fn streams_of(&mut self, at: &At, spec: &Listener, routes: &[CompiledStream]) -> Streams {
        let mut streams = Streams::new(spec.protocol);
        let mut any = false;
        for route in routes {
            let named = route.listeners.contains(&spec.name);
            if route.protocol != spec.protocol || !named {
                continue;
            }
            any = true;
            let Some(rule) = &route.rule else { continue };
            if route.hosts.is_empty() && !route.bad_hosts && !streams.add(None, rule) {
                let message = format!("`{}` has a route already", spec.name);
                let remedy = if streams.by_name {
                    "give one of them `hostnames`, or make them one"
                } else {
                    "leave it one route; that may have several `backendRefs`"
                };
                self.error(&route.at.then("listeners"), message, remedy);
            }
            for (nth, host) in route.hosts.iter().enumerate() {
                if !streams.add(Some(host), rule) {
                    let message = format!("`{}` has a route for {host} already", spec.name);
                    let at = route.at.then("hostnames").nth(nth);
                    self.error(&at, message, "leave it in one route");
                }
            }
        }
        if !any {
            let kind = spec.protocol.as_str();
            let message = format!("a listener for {kind} without a route");
            let key = format!("{}Routes", kind.to_ascii_lowercase());
            let remedy = format!(
                "add `{key}: [{{ listeners: [{}], backendRefs: [{{ service: ... }}] }}]`",
                spec.name
            );
            self.error(at, message, remedy);
        }
        streams
    }
}
