//! From the dev file to the configurations of a gateway and of one sidecar per workload.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use selvedge_contract::config::{
    Admin, Allow, Config, DevConfig, Egress, Endpoint, Inbound, ListenerProtocol, MeshSpec,
    MtlsMode, Outbound, Route, Service, ServiceLimits, UpstreamProtocol, Workload,
};
use selvedge_contract::identity::{IdentityError, SpiffeId, TrustDomain};

use crate::accept;
use crate::config::Report;
use crate::config::diagnose::{Diagnostic, nearest};
use crate::config::load::{Loaded, load};
use crate::config::tree::{Node, Step};

/// Namespace of every identity in dev mode.
const NAMESPACE: &str = "dev";
const DEFAULT_DOMAIN: &str = "dev.local";
/// A port of the system's choice, on this machine only.
const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A mesh, ready to start.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Trust domain.
    pub(crate) trust_domain: TrustDomain,
    /// Who the gateway is.
    pub(crate) gateway_identity: SpiffeId,
    /// The gateway.
    pub(crate) gateway: Config,
    /// Sidecars with their workloads.
    pub(crate) instances: Vec<Instance>,
    /// Keep the sidecars' ports free until they bind them.
    _held: Vec<TcpListener>,
}

/// One replica of a workload with its sidecar.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Workload, with a number where there are several.
    pub(crate) name: String,
    /// Who it is.
    pub(crate) identity: SpiffeId,
    /// Where the mesh reaches it.
    pub(crate) inbound: SocketAddr,
    /// Where it reaches the mesh.
    pub(crate) outbound: SocketAddr,
    /// Where it listens.
    pub(crate) app: SocketAddr,
    /// Its sidecar.
    pub(crate) config: Config,
    /// Its command; `None` is the built-in echo server.
    pub(crate) command: Option<String>,
    /// Keeps `app` free until the application takes it.
    pub(crate) app_held: Option<TcpListener>,
    /// What it calls.
    pub(crate) calls: Vec<String>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// A name that cannot be part of an identity.
    #[error("`{0}`: {1}")]
    Name(String, IdentityError),
    /// No port.
    #[error("no free port: {0}")]
    Port(#[from] std::io::Error),
    /// `app` is not an address.
    #[error("workloads.{0}.app: expected an address and a port")]
    App(String),
}

impl Plan {
    /// Chooses ports and identities, and writes the configurations.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub(crate) fn of(config: DevConfig) -> Result<Self, PlanError> {
        let domain = config.trust_domain.as_deref().unwrap_or(DEFAULT_DOMAIN);
        let trust_domain: TrustDomain = domain
            .parse()
            .map_err(|e| PlanError::Name(domain.to_owned(), e))?;
        let identity = |name: &str| {
            SpiffeId::workload(&trust_domain, NAMESPACE, name)
                .map_err(|e| PlanError::Name(name.to_owned(), e))
        };
        let mut held = Vec::new();
        let mut hold = || -> Result<SocketAddr, PlanError> {
            let socket = accept::hold(ANY_PORT)?;
            let address = socket.local_addr()?;
            held.push(socket);
            Ok(address)
        };
        let mut instances = Vec::new();
        for (name, workload) in &config.workloads {
            let replicas = workload.replicas.unwrap_or(1).max(1);
            for replica in 1..=replicas {
                let (app, app_held) = match &workload.app {
                    Some(text) => {
                        let app = text.parse();
                        (app.map_err(|_| PlanError::App(name.clone()))?, None)
                    }
                    None => {
                        let held = accept::hold(ANY_PORT)?;
                        (held.local_addr()?, Some(held))
                    }
                };
                instances.push(Instance {
                    name: if replicas == 1 {
                        name.clone()
                    } else {
                        format!("{name}-{replica}")
                    },
                    identity: identity(name)?,
                    inbound: hold()?,
                    outbound: hold()?,
                    app,
                    app_held,
                    config: Config::default(),
                    command: workload.run.clone(),
                    calls: workload.calls.clone(),
                });
            }
        }
        let services = services(&config.workloads, &instances);
        for instance in &mut instances {
            let workload = config.workloads.get(workload_of(&instance.identity));
            let allow = workload.and_then(|w| w.allow.clone());
            instance.config = sidecar(
                instance,
                allow.as_deref(),
                &trust_domain,
                &services,
                &config,
            );
        }
        let gateway = gateway(config, services);
        let gateway_identity = identity("gateway")?;
        Ok(Self {
            trust_domain,
            gateway_identity,
            gateway,
            instances,
            _held: held,
        })
    }

    /// A command line that reaches the first route through a listener.
    #[must_use]
    pub(crate) fn example(&self, listener: &str, address: SocketAddr) -> String {
        let spec = self.gateway.listeners.iter().find(|l| l.name == listener);
        let https = spec.is_some_and(|l| l.protocol == ListenerProtocol::Https);
        let scheme = if https { "https" } else { "http" };
        let host = self
            .gateway
            .routes
            .iter()
            .find_map(|route| route.hostnames.first());
        let path = self
            .gateway
            .routes
            .first()
            .map_or_else(|| "/".to_owned(), example_path);
        let flags = if https { "-sk" } else { "-s" };
        match host {
            Some(host) if host.ends_with(".localhost") && !host.starts_with('*') => {
                format!("curl {flags} {scheme}://{host}:{}{path}", address.port())
            }
            Some(host) if !host.starts_with('*') => {
                format!("curl {flags} -H 'Host: {host}' {scheme}://{address}{path}")
            }
            _ => format!("curl {flags} {scheme}://{address}{path}"),
        }
    }
}

fn example_path(route: &Route) -> String {
    use selvedge_contract::config::{PathMatch, PathMatchType};
    let first = route.rules.first().and_then(|r| r.matches.first());
    match first.and_then(|m| m.path.as_ref()) {
        Some(PathMatch::Prefix(prefix)) => prefix.clone(),
        Some(PathMatch::Full(full)) if full.kind != PathMatchType::RegularExpression => {
            full.value.clone()
        }
        _ => "/".to_owned(),
    }
}

fn workload_of(identity: &SpiffeId) -> &str {
    identity.path().rsplit('/').next().unwrap_or_default()
}

/// Every workload as a meshed service.
fn services(
    workloads: &BTreeMap<String, Workload>,
    instances: &[Instance],
) -> BTreeMap<String, Service> {
    workloads
        .keys()
        .map(|name| {
            let own = instances
                .iter()
                .filter(|i| workload_of(&i.identity) == name);
            let identity = own.clone().next().map(|i| i.identity.to_string());
            let service = Service {
                endpoints: own
                    .map(|i| Endpoint::Address(i.inbound.to_string()))
                    .collect(),
                mesh: Some(MeshSpec { identity }),
                ..Service::default()
            };
            (name.clone(), service)
        })
        .collect()
}

fn sidecar(
    instance: &Instance,
    allow: Option<&[String]>,
    domain: &TrustDomain,
    services: &BTreeMap<String, Service>,
    config: &DevConfig,
) -> Config {
    let principal = |name: &String| format!("{}/ns/{NAMESPACE}/sa/{name}", domain.uri());
    let allow = allow.map(|names| Allow {
        principals: names.iter().map(principal).collect(),
        ..Allow::default()
    });
    Config {
        inbound: vec![Inbound {
            port: instance.inbound.port(),
            bind: Some(instance.inbound.ip().to_string()),
            app: Some(instance.app.to_string()),
            transparent: false,
            mtls: Some(MtlsMode::Strict),
            allow: allow.into_iter().collect(),
            policies: Vec::new(),
            protocol: UpstreamProtocol::Http1,
            http2_ports: Vec::new(),
            opaque_ports: Vec::new(),
            limits: ServiceLimits::default(),
        }],
        outbound: Some(Outbound {
            bind: instance.outbound.to_string(),
            transparent: false,
            egress: Egress::Any,
        }),
        services: services
            .iter()
            .filter(|(name, _)| instance.calls.contains(name))
            .map(|(name, service)| (name.clone(), service.clone()))
            .collect(),
        telemetry: config.telemetry.clone(),
        admin: off(),
        ..Config::default()
    }
}

fn gateway(config: DevConfig, services: BTreeMap<String, Service>) -> Config {
    let mut gateway = config.gateway;
    for (name, service) in services {
        gateway.services.entry(name).or_insert(service);
    }
    for listener in &mut gateway.listeners {
        listener.bind.get_or_insert_with(|| "127.0.0.1".to_owned());
    }
    if gateway.admin == Admin::default() {
        gateway.admin = off();
    }
    if gateway.telemetry == selvedge_contract::config::Telemetry::default() {
        gateway.telemetry = config.telemetry;
    }
    gateway
}

fn off() -> Admin {
    Admin {
        bind: Some("off".to_owned()),
        health: Some("off".to_owned()),
    }
}

/// Everything that is wrong or odd in a dev configuration.
pub(crate) fn check_files(files: &[PathBuf]) -> Report {
    match load(files) {
        Ok(loaded) => check(loaded),
        Err(broken) => broken.judge(check),
    }
}

/// Checks a dev file: its own rules, then the gateway and every sidecar that comes of it.
#[must_use]
fn check(loaded: Loaded<DevConfig>) -> Report {
    let Loaded {
        config,
        tree,
        mut report,
    } = loaded;
    let names: Vec<&str> = config.workloads.keys().map(String::as_str).collect();
    for (name, workload) in &config.workloads {
        let steps = |key: &str| vec![step("workloads"), step(name), step(key)];
        let path = format!("workloads.{name}");
        if workload.run.is_some() == workload.echo {
            let place = tree.find(&[step("workloads"), step(name)]);
            let found = Diagnostic::error(place, path.as_str(), "a workload either runs or echoes");
            report
                .findings
                .push(found.expected("set `run` to a command, or `echo: true`"));
        }
        for (list, key) in [
            (Some(&workload.calls), "calls"),
            (workload.allow.as_ref(), "allow"),
        ] {
            for (at, other) in list.into_iter().flatten().enumerate() {
                let known =
                    names.contains(&other.as_str()) || (key == "allow" && other == "gateway");
                if !known {
                    let mut steps = steps(key);
                    steps.push(Step::Index(at));
                    let message = format!("there is no workload `{other}`");
                    let found = Diagnostic::error(
                        tree.find(&steps),
                        format!("{path}.{key}[{at}]"),
                        message,
                    );
                    let near = nearest(other, names.iter().copied());
                    report.findings.push(found.expected(near.map_or_else(
                        || format!("expected one of `{}`", names.join("`, `")),
                        |near| format!("did you mean `{near}`?"),
                    )));
                }
            }
        }
        if workload
            .app
            .as_ref()
            .is_some_and(|a| a.parse::<SocketAddr>().is_err())
        {
            let found = Diagnostic::error(
                tree.find(&steps("app")),
                format!("{path}.app"),
                "not an address",
            );
            report
                .findings
                .push(found.expected("expected an address and a port such as `127.0.0.1:8001`"));
        }
    }
    match Plan::of(config) {
        Ok(plan) => {
            let subtree = tree
                .child("gateway")
                .map_or(Node::empty(0), |(_, node)| node.clone());
            let sources = report.sources.clone();
            report.findings.extend(compile(plan, subtree, sources));
        }
        Err(error) => {
            let found = Diagnostic::error(tree.place, "", error.to_string());
            report
                .findings
                .push(found.expected("names may hold letters, digits, `.`, `-` and `_`"));
        }
    }
    report.sort();
    report
}

fn compile(
    plan: Plan,
    tree: Node,
    sources: Vec<crate::config::diagnose::Source>,
) -> Vec<Diagnostic> {
    let mut gateway = plan.gateway;
    // Stands for the embedded CA, whose identity is not in the file.
    gateway.identity = Some(selvedge_contract::config::IdentitySpec {
        trust_domain: plan.trust_domain.to_string(),
        bundle: "embedded".to_owned(),
        certificate: Some("embedded".to_owned()),
        key: Some("embedded".to_owned()),
        ..selvedge_contract::config::IdentitySpec::default()
    });
    let loaded = Loaded {
        config: gateway,
        tree,
        report: Report {
            sources,
            findings: Vec::new(),
        },
    };
    crate::app::findings_of(loaded, crate::config::Mode::Gateway).findings
}

fn step(name: &str) -> Step {
    Step::Key(name.to_owned())
}
