//! Raw configuration to snapshot: names resolved, patterns compiled, defaults filled in. All
//! errors at once; what is unchanged since the last snapshot keeps its state.

mod access;
mod acme;
mod aggregates;
mod at;
mod balancing;
mod callbacks;
mod cluster;
mod counts;
mod credentials;
mod ext_authz;
mod faults;
mod geo;
mod guards;
mod health;
mod limits;
mod listeners;
mod logins;
mod manners;
mod matches;
mod mirrors;
mod onward;
mod places;
mod policies;
mod routes;
mod services;
mod stores;
mod stream_checks;
mod streams;
mod tokens;
mod transforms;
mod treats;
mod trust;
mod who;
mod whole;
mod workload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use selvedge_contract::config::{Config, LogFormat, RateLimit, VersionPolicy};
use selvedge_contract::defaults::process;

use crate::accept::spoken::Spoken;
use crate::acme::{Issuer, Issuers};
use crate::balance::Service;
use crate::discover::demand::Discovered;
use crate::policy::guard::Guard;
use crate::policy::keys::KeySource;
use crate::policy::limit::Limit;
use crate::policy::manners::Version;
use crate::policy::treatment::Treat;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::export::Tracing;
use crate::telemetry::metrics::Metrics;
use crate::tls::{FileCertificates, IdentityStore};

use super::diagnose::{Diagnostic, Report, nearest};
use super::load::Loaded;
use super::snapshot::Snapshot;
use super::tree::{Node, Step};
use at::At;
use limits::limits;

/// What the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `selvedge gateway`.
    Gateway,
    /// `selvedge sidecar`.
    Sidecar,
}

/// What outlives a reload. A clone shares what lives and forgets apart.
#[derive(Debug, Clone)]
pub struct Compiler {
    mode: Mode,
    /// Only checks: opens no log, starts no exporter.
    dry: bool,
    metrics: Arc<Metrics>,
    /// The workload's identity; made by whoever obtains certificates.
    store: Option<Arc<IdentityStore>>,
    generation: u64,
    services: BTreeMap<String, (selvedge_contract::config::Service, Arc<Service>)>,
    /// Services that were found because they are called; for whoever compiles to set.
    pub discovered: BTreeMap<String, Discovered>,
    /// Services behind inbound ports.
    apps: services::Apps,
    /// What a transparent outbound port carries on.
    passed: Option<Arc<Service>>,
    files: Vec<Arc<FileCertificates>>,
    /// Certificates by ACME that listeners use.
    issuers: BTreeMap<String, Arc<Issuer>>,
    names: BTreeMap<String, Arc<str>>,
    /// Who comes to permissive ports in plaintext, by listener.
    spoken: BTreeMap<String, Arc<Spoken>>,
    limits: Limited,
    crowds: counts::Crowds,
    /// How policies have decided, by name.
    decided: access::Decided,
    compared: mirrors::Compared,
    geo: geo::Known,
    basics: credentials::Basics,
    /// Keys that are fetched, by address and CA file.
    sources: BTreeMap<(String, Option<String>), Weak<KeySource>>,
    /// Versions that are counted, with what they were made from.
    versions: Versions,
    /// Issuers of users.
    users: logins::IssuersOfUsers,
    /// Caches that live.
    caches: treats::Caches,
    /// Stores that several gateways share, with what they were made from.
    stores: stores::Stores,
    /// Token policies that were ever compiled.
    tokens: u64,
    log: Option<Arc<AccessLog>>,
    tracing: Option<Arc<Tracing>>,
}

/// One compilation: what it reads and what it finds.
pub(super) struct Pass<'a> {
    config: &'a Config,
    tree: &'a Node,
    found: Vec<Diagnostic>,
    /// Policies that are guards, by name.
    guards: BTreeMap<String, Guard>,
    /// Policies that treat, by name.
    treats: BTreeMap<String, Treat>,
    /// Those that count.
    limits: Limited,
    crowds: counts::Crowds,
    decided: access::Decided,
    /// The same of the snapshot before.
    decided_before: access::Decided,
    compared: mirrors::Compared,
    geo: Option<Arc<selvedge_gateway::geo::Geo>>,
    /// Stores, by name.
    stores: stores::Stores,
    /// Versions, by policy.
    versions: Versions,
    /// Caches, by name.
    caches: treats::Caches,
    issuers: acme::Opened,
    basics: credentials::Basics,
    /// What policies look at.
    looks: who::Looks,
}

/// Versions with what they were made from.
type Versions = BTreeMap<String, (VersionPolicy, Arc<Version>)>;

/// Limits with what they were made from.
type Limited = BTreeMap<String, (RateLimit, Arc<Limit>)>;

impl Compiler {
    /// A compiler with no history.
    #[must_use]
    pub const fn new(
        mode: Mode,
        dry: bool,
        metrics: Arc<Metrics>,
        store: Option<Arc<IdentityStore>>,
    ) -> Self {
        Self {
            mode,
            dry,
            metrics,
            store,
            generation: 0,
            services: BTreeMap::new(),
            discovered: BTreeMap::new(),
            apps: BTreeMap::new(),
            passed: None,
            files: Vec::new(),
            issuers: BTreeMap::new(),
            names: BTreeMap::new(),
            spoken: BTreeMap::new(),
            limits: BTreeMap::new(),
            crowds: BTreeMap::new(),
            decided: BTreeMap::new(),
            compared: BTreeMap::new(),
            geo: None,
            basics: BTreeMap::new(),
            sources: BTreeMap::new(),
            versions: BTreeMap::new(),
            users: BTreeMap::new(),
            caches: BTreeMap::new(),
            stores: BTreeMap::new(),
            tokens: 0,
            log: None,
            tracing: None,
        }
    }

    /// Certificates from files that the present snapshot uses.
    #[must_use]
    pub fn files(&self) -> &[Arc<FileCertificates>] {
        &self.files
    }

    /// Compiles. On an error nothing of the compiler's history changes.
    ///
    /// # Errors
    /// The report, with every error there is. Warnings come with the snapshot.
    pub fn compile(&mut self, loaded: Loaded<Config>) -> Result<(Snapshot, Report), Report> {
        let Loaded {
            config,
            tree,
            mut report,
        } = loaded;
        let mut pass = Pass::begin(&config, &tree, self.decided.clone());
        self.geo(&mut pass);
        self.stores(&mut pass);
        self.issuers(&mut pass);
        let services = self.services(&mut pass);
        let compiled = self.listeners(&mut pass, &services);
        pass.check_mode(self.mode);
        pass.check_kubernetes();
        pass.check_trust();
        pass.check_workload_api(self.mode);
        pass.check_telemetry();
        pass.check_limits();
        report.findings.append(&mut pass.found);
        report.sort();
        if report.has_errors() {
            return Err(report);
        }
        if let Err(found) = self.telemetry(&config, &tree) {
            report.findings.push(found);
            return Err(report);
        }
        self.generation += 1;
        self.services = services;
        self.limits = pass.limits;
        self.crowds = pass.crowds;
        self.decided = pass.decided;
        self.compared = pass.compared;
        self.basics = pass.basics;
        self.stores = pass.stores;
        self.caches = pass.caches;
        self.versions = pass.versions;
        self.files = compiled.files;
        let opened = pass.issuers.into_iter();
        self.issuers = opened.filter_map(|(name, i)| Some((name, i?))).collect();
        let live = self
            .services
            .iter()
            .map(|(name, (_, service))| (name.clone(), service.clone()));
        let snapshot = Snapshot {
            generation: self.generation,
            listeners: compiled.listeners,
            services: live.collect(),
            caches: self.caches.values().map(|(_, c)| c.clone()).collect(),
            issuers: Issuers(self.issuers.values().cloned().collect()),
            limits: self.limits.values().map(|(_, l)| l.clone()).collect(),
            crowds: self.crowds.values().map(|(_, c)| c.clone()).collect(),
            decided: self.decided.clone(),
            compared: self.compared.values().cloned().collect(),
            versions: self.versions.values().map(|(_, v)| v.clone()).collect(),
            unrouted: self.metrics.route("", ""),
            access_log: self.log.clone(),
            tracing: self.tracing.clone(),
            drain_delay: config.drain.delay.map_or(process::DRAIN_DELAY, |d| d.0),
            drain_timeout: config.drain.timeout.map_or(process::DRAIN, |d| d.0),
            source: config,
        };
        Ok((snapshot, report))
    }

    /// A name that stays the same allocation over reloads, so that it compares by pointer.
    fn name(&mut self, name: &str) -> Arc<str> {
        let known = self.names.entry(name.to_owned());
        known.or_insert_with(|| name.into()).clone()
    }

    /// Opens what telemetry needs, unless it is open already.
    fn telemetry(&mut self, config: &Config, tree: &Node) -> Result<(), Diagnostic> {
        if self.dry {
            return Ok(());
        }
        let at = |path: &[&str]| {
            let steps: Vec<Step> = path.iter().map(|p| Step::Key((*p).to_owned())).collect();
            (tree.find(&steps), path.join("."))
        };
        let log = match &config.telemetry.access_log {
            None => None,
            Some(spec) => {
                let path = spec
                    .path
                    .as_deref()
                    .filter(|p| *p != "-")
                    .map(PathBuf::from);
                let target = (path, spec.format);
                match &self.log {
                    Some(open) if open.target == target => self.log.clone(),
                    _ => {
                        let (path, format): (_, LogFormat) = target;
                        let opened = AccessLog::start(path, format, &self.metrics);
                        let (place, key) = at(&["telemetry", "accessLog", "path"]);
                        Some(opened.map_err(|e| {
                            Diagnostic::error(place, key, format!("cannot be opened: {e}"))
                        })?)
                    }
                }
            }
        };
        let tracing = match (&config.telemetry.tracing, &self.tracing) {
            (None, _) => None,
            (Some(spec), Some(open)) if open.config == *spec => self.tracing.clone(),
            (Some(spec), _) => {
                let (place, key) = at(&["telemetry", "tracing", "endpoint"]);
                let started = Tracing::start(spec, &self.metrics);
                Some(started.map_err(|e| Diagnostic::error(place, key, e))?)
            }
        };
        self.log = log;
        self.tracing = tracing;
        Ok(())
    }
}

impl<'a> Pass<'a> {
    fn begin(config: &'a Config, tree: &'a Node, decided_before: access::Decided) -> Self {
        Self {
            config,
            tree,
            found: Vec::new(),
            guards: BTreeMap::new(),
            treats: BTreeMap::new(),
            limits: BTreeMap::new(),
            crowds: BTreeMap::new(),
            decided: BTreeMap::new(),
            decided_before,
            compared: BTreeMap::new(),
            geo: None,
            basics: BTreeMap::new(),
            stores: BTreeMap::new(),
            versions: BTreeMap::new(),
            caches: BTreeMap::new(),
            issuers: BTreeMap::new(),
            looks: who::Looks::default(),
        }
    }
}

impl Pass<'_> {
    fn error(&mut self, at: &At, message: impl Into<String>, remedy: impl Into<String>) {
        let place = self.tree.find(&at.0);
        self.found
            .push(Diagnostic::error(place, at.text(), message).expected(remedy));
    }

    fn is_empty_at(&self, at: &At) -> bool {
        self.tree.is_empty_at(&at.0)
    }

    fn warning(&mut self, at: &At, message: impl Into<String>, remedy: impl Into<String>) {
        let place = self.tree.find(&at.0);
        let found = Diagnostic::error(place, at.text(), message).expected(remedy);
        self.found.push(found.warning());
    }

    /// Parses text that a type can read, or says what was expected.
    fn parse<T>(&mut self, at: &At, text: &str) -> Option<T>
    where
        T: std::str::FromStr,
        T::Err: std::fmt::Display,
    {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(
                    at,
                    format!("`{text}` is not valid"),
                    format!("expected: {error}"),
                );
                None
            }
        }
    }

    /// A name that does not exist.
    fn dangling<'n>(
        &mut self,
        at: &At,
        what: &str,
        name: &str,
        known: impl Iterator<Item = &'n str>,
    ) {
        let known: Vec<&str> = known.collect();
        let remedy = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("no {what} is defined: add one"),
            None => format!("expected one of `{}`", known.join("`, `")),
        };
        self.error(at, format!("there is no {what} `{name}`"), remedy);
    }
}
