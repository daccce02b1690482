//! Wires a process together: control runtime, workers, listeners, reload, drain. The only place
//! that knows all parts.

mod discovery;
mod federation;
mod findings;
mod options;
mod threads;
mod trust;
mod watched;
mod workload;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

use selvedge_contract::config::IdentitySpec;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::accept::ListenerPlan;
use crate::acme::Issuer;
use crate::config::load::Loaded;
use crate::config::tree::Node;
use crate::config::{Compiler, Mode, Report, Snapshot};
use crate::identity::Source;
use crate::telemetry::metrics::Metrics;
use crate::tls::IdentityStore;
use crate::worker::Shared;
use crate::{acme, balance, discover, health, identity, overload};

use discovery::Discovery;
use federation::Federation;
pub use findings::findings_of;
pub use options::{ConfigInput, Options, StartError};
use threads::{Listen, Socket, start_worker};
use workload::Workload;

/// Threads by default: a gateway takes the machine, a sidecar leaves it to its application.
#[must_use]
pub fn default_workers(mode: Mode) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match mode {
        Mode::Gateway => cores,
        Mode::Sidecar => cores.min(2),
    }
}

/// A listener that is open.
#[derive(Debug)]
struct Open {
    address: SocketAddr,
    bound: SocketAddr,
    datagrams: bool,
    removed: CancellationToken,
}

impl Open {
    fn is_for(&self, plan: &ListenerPlan) -> bool {
        self.address == plan.address && self.datagrams == takes_datagrams(plan)
    }
}

fn takes_datagrams(plan: &ListenerPlan) -> bool {
    plan.streams.as_ref().is_some_and(|s| s.datagrams)
}

/// A running process.
#[derive(Debug)]
pub struct App {
    options: Options,
    compiler: Compiler,
    /// What it shares with its workers.
    pub shared: Arc<Shared>,
    workers: Vec<mpsc::Sender<Listen>>,
    threads: Vec<JoinHandle<()>>,
    open: HashMap<Arc<str>, Open>,
    identity: Option<identity::Keeper>,
    /// Whose tasks run.
    issuers: Vec<Arc<Issuer>>,
    /// Where the configuration in force says what.
    tree: Node,
    cluster: Discovery,
    federation: Federation,
    workload: Workload,
}

impl App {
    /// Loads, compiles, binds and starts the workers. Must run inside the control runtime.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let loaded = options
            .config
            .load(options.mode)
            .map_err(StartError::Config)?;
        let count = options
            .workers
            .unwrap_or_else(|| default_workers(options.mode))
            .max(1);
        let metrics = Metrics::new(count);
        let identity = start_identity(&options, loaded.config.identity.as_ref(), &metrics).await?;
        let store = identity.as_ref().map(|keeper| keeper.store.clone());
        let mut compiler = Compiler::new(options.mode, false, metrics.clone(), store);
        let tree = loaded.tree.clone();
        let (snapshot, report) = compiler.compile(loaded).map_err(StartError::Config)?;
        warn(&report);
        let mut federation = Federation::default();
        if let Some(keeper) = &identity {
            let read = trust::Read::files(&snapshot)?;
            read.apply(&mut federation, &keeper.store, &metrics);
        }
        let plan = plan_sockets(&snapshot, &HashMap::new(), count, options.held_ports)?;
        let mut workload = Workload::default();
        let api = workload.plan(&snapshot, identity.as_ref())?;
        workload.apply(api);
        let store = identity.as_ref().map(|keeper| keeper.store.clone());
        let cluster = Discovery::start(options.mode, store, &snapshot, &metrics)?;
        let shared = Shared::new(snapshot, metrics);
        cluster.serve(&shared);
        if let Some(keeper) = &identity {
            // Ends with the process.
            tokio::spawn(trust::follow(keeper.store.clone(), shared.clone()));
        }
        // Ends with the process.
        tokio::spawn(overload::watch(shared.clone()));
        let mut app = Self {
            options,
            compiler,
            shared,
            workers: Vec::new(),
            threads: Vec::new(),
            open: HashMap::new(),
            identity,
            issuers: Vec::new(),
            tree,
            cluster,
            federation,
            workload,
        };
        for index in 0..count {
            let (sender, thread) = start_worker(index, app.shared.clone())?;
            app.workers.push(sender);
            app.threads.push(thread);
        }
        app.apply(plan).await;
        app.published();
        Ok(app)
    }

    /// The address that a listener is bound to: with the port that the system chose.
    #[must_use]
    pub fn address_of(&self, listener: &str) -> Option<SocketAddr> {
        self.open.get(listener).map(|open| open.bound)
    }

    /// Every listener with its address.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.open.iter().map(|(name, open)| (&**name, open.bound))
    }

    /// The identity, where there is one.
    #[must_use]
    pub fn store(&self) -> Option<&Arc<IdentityStore>> {
        self.identity.as_ref().map(|keeper| &keeper.store)
    }

    /// Files and directories whose change asks for a reload.
    #[must_use]
    pub fn watched(&self) -> Vec<PathBuf> {
        let mut paths = self.options.config.paths();
        paths.extend(watched::files(&self.shared.snapshot().source));
        paths
    }

    /// Reads everything again. On an error nothing changes but the count of failures.
    ///
    /// # Errors
    /// The reason, also logged.
    pub async fn reload(&mut self) -> Result<(), StartError> {
        let result = self.try_reload().await;
        let process = &self.shared.metrics.process;
        match &result {
            Ok(()) => {
                process.reloads.fetch_add(1, Relaxed);
                tracing::info!(
                    generation = self.shared.snapshot().generation,
                    "configuration reloaded"
                );
            }
            Err(error) => {
                process.reload_failures.fetch_add(1, Relaxed);
                tracing::error!(%error, "configuration not reloaded; the old one stays in force");
            }
        }
        self.shared
            .last_reload(result.as_ref().err().map(ToString::to_string));
        result
    }

    async fn try_reload(&mut self) -> Result<(), StartError> {
        if let Some(identity) = &self.identity {
            identity.refresh_files()?;
        }
        for files in self.compiler.files() {
            // What is wrong is said by the compilation below, with its place.
            let _ = files.reload();
        }
        let loaded = self
            .options
            .config
            .load(self.options.mode)
            .map_err(StartError::Config)?;
        let tree = loaded.tree.clone();
        // Compiled on a copy of the history: a port that cannot be bound must leave it as it was.
        let mut compiler = self.compiler.clone();
        let found = self.cluster.found(&mut compiler);
        let (snapshot, report) = compiler.compile(loaded).map_err(StartError::Config)?;
        warn(&report);
        self.cluster.check(&snapshot)?;
        let trusted = trust::Read::files(&snapshot)?;
        let held = self.options.held_ports;
        let plan = plan_sockets(&snapshot, &self.open, self.workers.len(), held)?;
        let api = self.workload.plan(&snapshot, self.identity.as_ref())?;
        self.workload.apply(api);
        if let Some(identity) = &self.identity {
            let metrics = &self.shared.metrics;
            trusted.apply(&mut self.federation, &identity.store, metrics);
        }
        self.compiler = compiler;
        self.tree = tree;
        self.cluster.attach(&snapshot, found);
        self.shared.publish(snapshot);
        self.cluster.settled();
        self.apply(plan).await;
        self.published();
        Ok(())
    }

    /// Waits until services of the cluster have come or gone. Safe to cancel.
    pub async fn discovered(&self) {
        self.cluster.changed().await;
    }

    /// Puts in force what has been found in the cluster since, with the configuration as it is.
    ///
    /// # Errors
    /// [`StartError::Config`]: what was found does not go with it; nothing changes.
    pub fn rediscover(&mut self) -> Result<(), StartError> {
        let mut compiler = self.compiler.clone();
        let found = self.cluster.found(&mut compiler);
        let loaded = Loaded {
            config: self.shared.snapshot().source.clone(),
            tree: self.tree.clone(),
            report: Report::default(),
        };
        let compiled = compiler.compile(loaded).map_err(StartError::Config);
        let (snapshot, _) = compiled.inspect_err(|error| tracing::error!(%error, "discovery"))?;
        self.compiler = compiler;
        self.cluster.attach(&snapshot, found);
        self.shared.publish(snapshot);
        self.cluster.settled();
        self.published();
        Ok(())
    }

    fn published(&mut self) {
        let snapshot = self.shared.snapshot();
        self.shared
            .metrics
            .process
            .generation
            .store(snapshot.generation, Relaxed);
        for (_, service) in snapshot.all_services() {
            service.caps.resize(service.spec.max_connections);
        }
        for service in snapshot.services.values() {
            discover::watch(service);
            health::watch(service);
            balance::service::tend(service);
        }
        let issuers = &snapshot.issuers.0;
        for gone in &self.issuers {
            if !issuers.iter().any(|kept| Arc::ptr_eq(kept, gone)) {
                gone.retire();
            }
        }
        for issuer in issuers {
            acme::watch(issuer);
        }
        self.issuers.clone_from(issuers);
    }

    /// Opens what is new, closes what is gone.
    async fn apply(&mut self, plan: Vec<Planned>) {
        let snapshot = self.shared.snapshot();
        self.open.retain(|name, open| {
            let keep = snapshot
                .listener(name)
                .is_some_and(|plan| open.is_for(plan));
            if !keep {
                open.removed.cancel();
            }
            keep
        });
        for planned in plan {
            let removed = CancellationToken::new();
            tracing::info!(listener = %planned.name, address = %planned.bound, "listening");
            for (worker, socket) in self.workers.iter().zip(planned.sockets) {
                let listen = Listen {
                    name: planned.name.clone(),
                    socket,
                    removed: removed.clone(),
                };
                let _ = worker.send(listen).await;
            }
            let open = Open {
                address: planned.address,
                bound: planned.bound,
                datagrams: planned.datagrams,
                removed,
            };
            self.open.insert(planned.name, open);
        }
    }

    /// Runs the drain, then waits for the workers.
    pub async fn drain(self) {
        let snapshot = self.shared.snapshot();
        let shared = &self.shared;
        let none = shared.live.wait_for_none();
        crate::drain::run(shared, snapshot.drain_delay, snapshot.drain_timeout, none).await;
        drop(self.workers);
        for thread in self.threads {
            let _ = thread.join();
        }
        if let Some(log) = &snapshot.access_log {
            log.flush(std::time::Duration::from_secs(2));
        }
    }
}

/// Sockets for a listener that is new.
struct Planned {
    name: Arc<str>,
    address: SocketAddr,
    bound: SocketAddr,
    datagrams: bool,
    sockets: Vec<Socket>,
}

/// Binds every listener that is not open yet, one socket a worker; nothing is served yet.
fn plan_sockets(
    snapshot: &Snapshot,
    open: &HashMap<Arc<str>, Open>,
    workers: usize,
    held: bool,
) -> Result<Vec<Planned>, StartError> {
    let mut planned = Vec::new();
    for listener in &snapshot.listeners {
        if open.get(&listener.name).is_some_and(|o| o.is_for(listener)) {
            continue;
        }
        let error = |source| StartError::Bind {
            name: listener.name.to_string(),
            address: listener.address,
            source,
        };
        let datagrams = takes_datagrams(listener);
        let first = Socket::bind(datagrams, listener.address, held).map_err(error)?;
        let bound = first.address().map_err(error)?;
        let mut sockets = vec![first];
        for _ in 1..workers {
            sockets.push(Socket::bind(datagrams, bound, true).map_err(error)?);
        }
        planned.push(Planned {
            name: listener.name.clone(),
            address: listener.address,
            bound,
            datagrams,
            sockets,
        });
    }
    Ok(planned)
}

fn warn(report: &Report) {
    if !report.findings.is_empty() {
        tracing::warn!("configuration:\n\n{}", report.to_text());
    }
}

async fn start_identity(
    options: &Options,
    spec: Option<&IdentitySpec>,
    metrics: &Arc<Metrics>,
) -> Result<Option<identity::Keeper>, StartError> {
    let keeper = match (&options.source, spec) {
        (Some(source), _) => Some(identity::Keeper::start(source.clone(), metrics).await?),
        (None, Some(spec)) => {
            let source = Source::from_spec(spec)?;
            Some(identity::Keeper::start(source, metrics).await?)
        }
        (None, None) => None,
    };
    Ok(keeper)
}
