//! Listeners of the configuration: the gateway's, the inbound ports and the outbound port of a
//! sidecar. All become the same kind of plan.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::config::{
    EncodedSlashes, Inbound, KubernetesService, Listener, ListenerProtocol, MtlsMode,
    ServiceLimits, TlsMode, UpstreamProtocol,
};
use selvedge_contract::defaults::{Limits, Role};
use selvedge_gateway::authorize::Sense;
use selvedge_gateway::hostname::Pattern;

use crate::accept::spoken::Spoken;
use crate::accept::{ListenerPlan, ListenerRole, ListenerSecurity};
use crate::balance::Service;
use crate::message::target::EncodedSlash;
use crate::policy::guard::Guard;
use crate::policy::treatment::Treatment;
use crate::route::table::Path;
use crate::route::{Backend, Edits, Matcher, Named, RetryPolicy, Rule, Table};
use crate::tls::{FileCertificates, ServerTls};

use super::policies::Policies;
use super::routes::{self, CompiledRule};
use super::services::{Services, app_service};
use super::{At, Compiler, Mode, Pass, cluster, limits};

/// What listeners bring besides themselves.
pub(super) struct Compiled {
    pub(super) listeners: Vec<Arc<ListenerPlan>>,
    pub(super) files: Vec<Arc<FileCertificates>>,
}

impl Compiler {
    /// Every listener of the mode.
    pub(super) fn listeners(&mut self, pass: &mut Pass<'_>, services: &Services) -> Compiled {
        let role = match self.mode {
            Mode::Gateway => Role::Gateway,
            Mode::Sidecar => Role::Sidecar,
        };
        let limits = limits(role, &pass.config.limits);
        self.check_policies(pass, services);
        pass.check_service_policies();
        let rules = self.rules(pass, services, &limits);
        let streams = self.streams(pass, services);
        pass.check_parents();
        let mut compiled = Compiled {
            listeners: Vec::new(),
            files: Vec::new(),
        };
        for (index, spec) in pass.config.listeners.iter().enumerate() {
            let at = At::key("listeners").nth(index);
            let compiled_one = if spec.protocol.is_http() {
                self.gateway_listener(pass, &at, spec, &rules, &limits)
            } else {
                self.stream_listener(pass, &at, spec, &streams, &limits)
            };
            if let Some((plan, files)) = compiled_one {
                compiled.files.extend(files);
                compiled.listeners.push(Arc::new(plan));
            }
        }
        for (index, spec) in pass.config.inbound.iter().enumerate() {
            let at = At::key("inbound").nth(index);
            let plan = self.inbound(pass, &at, index, spec, &limits);
            compiled.listeners.extend(plan.map(Arc::new));
        }
        let looks = std::mem::take(&mut pass.looks);
        pass.check_looks(&looks);
        let plan = self.outbound(pass, services, &rules, &limits);
        compiled.listeners.extend(plan.map(Arc::new));
        pass.check_addresses(&compiled.listeners);
        compiled
    }

    fn gateway_listener(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        spec: &Listener,
        rules: &[CompiledRule],
        limits: &Limits,
    ) -> Option<(ListenerPlan, Option<Arc<FileCertificates>>)> {
        let bind = spec.bind.as_deref().unwrap_or("0.0.0.0");
        let ip: Option<IpAddr> = pass.address(&at.then("bind"), bind);
        let own: Option<Pattern> = match &spec.hostname {
            Some(text) => pass.parse(&at.then("hostname"), text),
            None => None,
        };
        let mut table = Table::default();
        routes::fill(pass, &mut table, &spec.name, own.as_ref(), rules);
        let https = spec.protocol == ListenerProtocol::Https;
        let (security, files) = match (https, &spec.tls) {
            (false, None) => (ListenerSecurity::Plain, None),
            (false, Some(_)) => {
                pass.error(
                    &at.then("tls"),
                    "`tls` on an HTTP listener",
                    "set `protocol: HTTPS`",
                );
                return None;
            }
            (true, None) => {
                pass.error(
                    at,
                    "an HTTPS listener needs `tls`",
                    "add `tls: { certificates: [...] }` or `tls: { acme: ... }`",
                );
                return None;
            }
            (true, Some(tls)) if tls.mode == TlsMode::Passthrough => {
                let message = "a listener for HTTPS ends TLS";
                let remedy = "set `protocol: TLS`, or remove `mode`";
                pass.error(&at.then("tls").then("mode"), message, remedy);
                return None;
            }
            (true, Some(tls)) => {
                let (tls, files) = pass.gateway_tls(&at.then("tls"), tls)?;
                (ListenerSecurity::Tls(tls), Some(files))
            }
        };
        let (guards, treatment) = pass.around(&at.then("policies"), &spec.policies);
        pass.check_listener_callback(at, &guards, rules);
        let tls = spec.tls.as_ref();
        let shown = tls.is_some_and(|tls| tls.client_certificates.is_some());
        pass.looks.note(&spec.name, shown, &guards, rules);
        let plan = ListenerPlan {
            name: self.name(&spec.name),
            address: SocketAddr::new(ip?, spec.port),
            role: ListenerRole::Gateway,
            encoded_slash: match spec.encoded_slashes {
                EncodedSlashes::Refuse => EncodedSlash::Refuse,
                EncodedSlashes::Keep => EncodedSlash::Keep,
            },
            security,
            table,
            limits: limits.clone(),
            trusted_hops: spec.trusted_hops.into(),
            balancers: pass.balancers(at, spec),
            guards,
            treatment,
            opaque: None,
            onward: None,
            streams: None,
            named: Named::default(),
        };
        Some((plan, files))
    }

    fn inbound(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        index: usize,
        spec: &Inbound,
        limits: &Limits,
    ) -> Option<ListenerPlan> {
        let bind = spec.bind.as_deref().unwrap_or("0.0.0.0");
        let ip: Option<IpAddr> = pass.address(&at.then("bind"), bind);
        let app = pass.app(at, spec);
        let mut policies = pass.policies(&at.then("policies"), &spec.policies);
        let name = format!(
            "inbound-{}",
            if spec.port == 0 {
                index.to_string()
            } else {
                spec.port.to_string()
            }
        );
        if !spec.allow.is_empty() {
            let access = pass.access(
                &at.then("allow"),
                &format!("{name}/allow"),
                Sense::Allow,
                &spec.allow,
            );
            policies.guards.push(Guard::Allow(Arc::new(access)));
        }
        policies.guards.sort_by_key(Guard::order);
        if spec.mtls == Some(MtlsMode::Permissive) {
            pass.check_permissive(&at.then("policies"), &policies.guards);
        }
        pass.check_app(at, &name, spec);
        let security = self.inbound_security(pass, at, &name, spec)?;
        let app = app?;
        let tag = routes::simple_tag(pass, &name, serde_json::to_vec(spec), &spec.policies);
        let rule_to = |compiler: &mut Self, protocol| {
            let service = compiler.app(app, protocol, &spec.limits);
            let retry = routes::default_retry();
            compiler.simple_rule(
                (&name, &tag),
                &service,
                policies.clone(),
                Duration::ZERO,
                retry,
            )
        };
        let rule = rule_to(self, spec.protocol);
        let mut table = Table::default();
        let onward = if spec.transparent {
            let mut onward = pass.to_application(&rule);
            onward.opaque.clone_from(&spec.opaque_ports);
            if !spec.http2_ports.is_empty() {
                let rule = rule_to(self, UpstreamProtocol::Http2);
                super::onward::every(&mut onward, &spec.http2_ports, &rule);
            }
            Some(onward)
        } else {
            let path = Path::Prefix(String::new());
            table.add(None, &path, Matcher::default(), &rule);
            None
        };
        Some(ListenerPlan {
            name: self.name(&name),
            address: SocketAddr::new(ip?, spec.port),
            role: ListenerRole::Inbound,
            encoded_slash: EncodedSlash::Keep,
            security,
            table,
            limits: limits.clone(),
            trusted_hops: 0,
            balancers: None,
            guards: Vec::new(),
            treatment: Treatment::default(),
            opaque: Some(rule),
            onward,
            streams: None,
            named: Named::default(),
        })
    }

    /// What is remembered of a permissive port; what was remembered before, if it is the same.
    fn spoken(&mut self, listener: &str) -> Arc<Spoken> {
        let known = self.spoken.entry(listener.to_owned());
        known.or_default().clone()
    }

    fn inbound_security(
        &mut self,
        pass: &mut Pass<'_>,
        at: &At,
        name: &str,
        spec: &Inbound,
    ) -> Option<ListenerSecurity> {
        let mode = spec.mtls.unwrap_or(if self.store.is_some() {
            MtlsMode::Strict
        } else {
            MtlsMode::Permissive
        });
        match (&self.store, mode) {
            (None, MtlsMode::Strict) => {
                let remedy = "add `identity`, or set `mtls: permissive`";
                pass.error(
                    &at.then("mtls"),
                    "strict mutual TLS needs an identity",
                    remedy,
                );
                None
            }
            (None, MtlsMode::Permissive) => Some(ListenerSecurity::Plain),
            (Some(store), mode) => match ServerTls::mesh(store.clone()) {
                Ok(tls) => Some(ListenerSecurity::Mesh {
                    tls,
                    permissive: (mode == MtlsMode::Permissive).then(|| self.spoken(name)),
                }),
                Err(error) => {
                    pass.error(at, error.to_string(), "");
                    None
                }
            },
        }
    }

    /// The service behind an inbound port; the same one as long as it is the same application, with the same caps.
    fn app(
        &mut self,
        app: Option<SocketAddr>,
        protocol: UpstreamProtocol,
        limits: &ServiceLimits,
    ) -> Arc<Service> {
        let name = self.name("app");
        let known = self.apps.get(&(app, protocol));
        if let Some((_, live)) = known.filter(|(before, _)| before == limits) {
            return live.clone();
        }
        let mut live = app_service(name, app, protocol, limits);
        if let Some((_, before)) = known {
            live = live.in_place_of(before);
        }
        let live = Arc::new(live);
        let made = (limits.clone(), live.clone());
        self.apps.insert((app, protocol), made);
        live
    }

    /// The outbound port: routes, and behind them every service by its names.
    fn outbound(
        &mut self,
        pass: &mut Pass<'_>,
        services: &Services,
        rules: &[CompiledRule],
        limits: &Limits,
    ) -> Option<ListenerPlan> {
        let spec = pass.config.outbound.as_ref()?;
        let at = At::key("outbound").then("bind");
        let address: Option<SocketAddr> = pass.address(&at, &spec.bind);
        let mut table = Table::default();
        routes::fill(pass, &mut table, "outbound", None, rules);
        let mut onward = self.passing_on(pass, spec);
        let mut named = Named::default();
        let mut own: Vec<(&KubernetesService, Arc<Rule>)> = Vec::new();
        let home = pass
            .config
            .kubernetes
            .as_ref()
            .map(crate::discover::home)
            .unwrap_or_default();
        // Those of the configuration first: what is found may be one of them.
        let (said, found): (Vec<_>, Vec<_>) = services
            .iter()
            .partition(|(name, _)| pass.config.services.contains_key(*name));
        for (name, (spec, service)) in said.into_iter().chain(found) {
            let mut policies = pass.known_policies(&spec.policies);
            policies.guards.sort_by_key(Guard::order);
            let rule = format!("outbound/{name}");
            let tag = routes::simple_tag(pass, &rule, serde_json::to_vec(spec), &spec.policies);
            let rule = self.simple_rule(
                (&rule, &tag),
                service,
                policies,
                limits.request,
                routes::default_retry(),
            );
            if let Some(found) = self.discovered.get(name).filter(|f| f.spec == *spec) {
                let known = own
                    .iter()
                    .find(|(target, _)| cluster::is_same(target, &home, found));
                let rule = known.map_or(&rule, |(_, rule)| rule);
                cluster::add(onward.as_deref_mut(), &mut named, found, rule);
                continue;
            }
            own.extend(
                spec.kubernetes
                    .as_ref()
                    .map(|target| (target, rule.clone())),
            );
            // `orders`, and `orders.localhost` for tools that insist on a resolvable name.
            let names = [name.clone(), format!("{name}.localhost")];
            let hosts = names.iter().chain(&spec.hostnames);
            let hosts: Vec<Pattern> = hosts.filter_map(|host| host.parse().ok()).collect();
            let at = At::key("services").then(name).then("addresses");
            let addresses = pass.called_at(&at, &spec.addresses, onward.as_deref());
            match &mut onward {
                Some(onward) if !addresses.is_empty() => {
                    super::onward::add(onward, &addresses, &hosts, &rule);
                }
                _ => super::onward::name(&mut table, &hosts, &rule),
            }
        }
        Some(ListenerPlan {
            name: self.name("outbound"),
            address: address?,
            role: ListenerRole::Outbound,
            encoded_slash: EncodedSlash::Keep,
            security: ListenerSecurity::Plain,
            table,
            limits: limits.clone(),
            trusted_hops: 0,
            balancers: None,
            guards: Vec::new(),
            treatment: Treatment::default(),
            opaque: None,
            onward,
            streams: None,
            named,
        })
    }

    /// A rule for all that goes to one service, with its name and its tag.
    pub(super) fn simple_rule(
        &mut self,
        (name, tag): (&str, &str),
        service: &Arc<Service>,
        policies: Policies,
        request_timeout: Duration,
        retry: RetryPolicy,
    ) -> Arc<Rule> {
        let metrics = self.metrics.route(name, service.name());
        Arc::new(Rule {
            name: self.name(name),
            tag: tag.into(),
            guards: policies.guards,
            treatment: policies.treatment,
            headers: policies.headers,
            request_edits: policies.request_edits,
            response_edits: policies.response_edits,
            redirect: None,
            rewrite_host: None,
            rewrite_path: None,
            aggregate: None,
            backends: vec![Backend {
                service: service.clone(),
                cumulated: 1,
                request_edits: Edits::default(),
                response_edits: Edits::default(),
                metrics: metrics.clone(),
            }],
            mirrors: Vec::new(),
            request_timeout,
            try_timeout: Duration::ZERO,
            retry,
            class: None,
            metrics,
        })
    }
}
