//! A service while the proxy runs: its endpoints, its caps, its breaker. Outlives a reload that
//! does not change it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use selvedge_contract::config::PortRef;
use selvedge_contract::defaults::transparent::PORTS;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::ErrorKind;
use crate::health::plan as health;
use crate::upstream::{Announce, Security};

use super::adaptive::{Adaptive, AdaptiveSpec};
use super::breaker::{Breaker, BreakerSpec};
use super::budget::Budget;
use super::caps::Caps;
use super::checked::{CheckResult, Finding};
use super::class::Class;
use super::endpoint::{Endpoint, Wanted};
use super::endpoints::EndpointSet;
use super::outcomes::Ejected;
use super::plan::{Plan, Strategy};

/// What the endpoints speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// When endpoints are ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EjectionSpec {
    /// Consecutive gateway errors; 0 = never.
    pub consecutive: u32,
    /// Percent of requests that have to end well; 0 = any.
    pub success_rate: u32,
    /// Requests before that share counts.
    pub min_requests: u32,
    /// First ejection.
    pub base: Duration,
    /// Longest ejection.
    pub max: Duration,
    /// Percent of endpoints that may be out at a time.
    pub max_share: u32,
}

/// Where a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// At one of its endpoints.
    AtEndpoints,
    /// Where the connection was going that was redirected here.
    WhereItWasGoing,
    /// The same on this very machine: the application, which the rules let only some callers reach.
    AsApplication,
}

/// A service as configured, every default filled in.
#[derive(Debug)]
pub struct ServiceSpec {
    /// Name.
    pub name: Arc<str>,
    /// Where it is.
    pub reached: Reached,
    /// How an endpoint is chosen.
    pub balance: Arc<Plan>,
    /// What the endpoints speak.
    pub speaks: Speaks,
    /// How the bytes are protected.
    pub security: Security,
    /// How its connections begin, if they tell for whom they are: each is then for one request.
    pub announces: Option<Announce>,
    /// Connect, TLS included.
    pub connect_timeout: Duration,
    /// Idle life of pooled connections.
    pub idle: Duration,
    /// Most concurrent requests.
    pub max_requests: u32,
    /// Most that have no answer yet, found out.
    pub adaptive: Option<AdaptiveSpec>,
    /// Most connections.
    pub max_connections: u32,
    /// Most requests waiting for a connection.
    pub max_pending: u32,
    /// Most concurrent retries.
    pub max_retries: u32,
    /// Ejection.
    pub ejection: EjectionSpec,
    /// Active checks.
    pub health: Option<Arc<health::Plan>>,
    /// Error-rate breaker.
    pub breaker: Option<BreakerSpec>,
    /// Where the endpoints come from when not from the configuration.
    pub dns: Option<DnsName>,
    /// See `dns`: a service of the cluster.
    pub kubernetes: Option<ClusterService>,
}

/// A name to resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsName {
    /// The name.
    pub name: String,
    /// Port for A and AAAA answers; `None` asks for SRV.
    pub port: Option<u16>,
}

/// A port of a service in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterService {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Its port; `None` is the only one.
    pub port: Option<PortRef>,
}

/// How often each of a few things has happened.
#[derive(Debug)]
pub struct Tally<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Tally<N> {
    pub(super) fn note(&self, which: usize) {
        if let Some(count) = self.0.get(which) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Each with its name.
    #[must_use]
    pub fn counts<T: Copy>(
        &self,
        all: [T; N],
        name: impl Fn(T) -> &'static str,
    ) -> Vec<(&'static str, u64)> {
        let counts = self.0.iter().map(|count| count.load(Relaxed));
        all.into_iter().map(name).zip(counts).collect()
    }
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// As configured.
    pub spec: ServiceSpec,
    /// Its endpoints, replaced as a whole.
    pub endpoints: ArcSwap<EndpointSet>,
    /// Its breaker.
    pub breaker: Breaker,
    /// Its retry budget.
    pub budget: Budget,
    /// How much it is asked at a time.
    pub caps: Arc<Caps>,
    /// How much it bears, where that is to be found out.
    pub adaptive: Option<Arc<Adaptive>>,
    /// Turn of round robin.
    pub turn: AtomicUsize,
    /// Ejections so far, by [`Ejected`].
    pub ejections: Tally<{ Ejected::ALL.len() }>,
    /// Active checks so far, by [`CheckResult`].
    pub checks: Tally<{ CheckResult::ALL.len() }>,
    discovering: AtomicBool,
    checking: AtomicBool,
    /// Somebody else makes its tables anew.
    tended: AtomicBool,
    /// Told when they have to be.
    stale: watch::Sender<()>,
    /// Told when endpoints come or go.
    replaced: watch::Sender<()>,
    /// It is only another name for something outside.
    external: AtomicBool,
}

impl Service {
    /// Starts a service with fixed endpoints; empty where discovery will give them.
    #[must_use]
    pub fn new(spec: ServiceSpec, endpoints: &[Wanted]) -> Self {
        let set = EndpointSet::first(spec.balance.clone(), endpoints);
        Self {
            endpoints: ArcSwap::from_pointee(set),
            breaker: Breaker::new(spec.breaker),
            budget: Budget::default(),
            caps: Caps::new(spec.max_connections),
            adaptive: spec.adaptive.map(|spec| Arc::new(Adaptive::new(spec))),
            turn: AtomicUsize::new(0),
            ejections: Tally::default(),
            checks: Tally::default(),
            discovering: AtomicBool::new(false),
            checking: AtomicBool::new(false),
            tended: AtomicBool::new(false),
            stale: watch::Sender::new(()),
            replaced: watch::Sender::new(()),
            external: AtomicBool::new(false),
            spec,
        }
    }

    /// Name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.spec.name
    }

    /// How it balances.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.spec.balance
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.caps.in_flight()
    }

    /// The endpoint at an address that callers were going to. The first few keep their connections
    /// over callers: an application has a handful of ports, and who tries them all gets no more.
    #[must_use]
    pub fn beside(&self, address: SocketAddr) -> Arc<Endpoint> {
        let set = self.endpoints.load();
        if let Some(known) = set.all.iter().find(|e| e.address == address) {
            return known.clone();
        }
        let new = Arc::new(Endpoint::new(address, 1));
        if set.all.len() < PORTS {
            self.endpoints.rcu(|set| set.with(&new));
        }
        new
    }

    /// Puts other endpoints in place of those there are; says whether they are others. What stays
    /// keeps its state and its connections.
    pub fn replace_endpoints(&self, wanted: &[Wanted]) -> bool {
        if self.endpoints.load().is(wanted) {
            return false;
        }
        self.endpoints.rcu(|set| set.next(wanted));
        self.replaced.send_replace(());
        true
    }

    /// Changes when endpoints come or go; closed when the service is gone.
    #[must_use]
    pub fn replaced(&self) -> watch::Receiver<()> {
        self.replaced.subscribe()
    }

    /// Takes note of an active check. Who has failed checks and passes them is back, whatever requests
    /// have shown before.
    pub fn checked(
        &self,
        endpoint: &Endpoint,
        finding: Finding,
        unhealthy: bool,
        withheld: u32,
        now: Instant,
    ) {
        self.checks.note(finding.result as usize);
        let turned = endpoint.is_unhealthy() != unhealthy;
        if turned && unhealthy {
            tracing::warn!(service = %self.name(), endpoint = %endpoint.address, why = finding.text, "endpoint unhealthy");
        } else if turned {
            tracing::info!(service = %self.name(), endpoint = %endpoint.address, "endpoint healthy");
            endpoint.returns(now);
        }
        endpoint.checked.note(finding);
        if endpoint.checked.set(unhealthy, withheld) {
            self.endpoints_changed();
        }
    }

    /// Works out anew which endpoints are used: one has come back, or is left alone from now on. Where that
    /// takes long it is done beside the path, soon.
    pub(super) fn endpoints_changed(&self) {
        if self.tended.load(Relaxed) {
            self.stale.send_replace(());
        } else {
            self.tables_anew();
        }
    }

    fn tables_anew(&self) {
        self.endpoints.rcu(|set| set.again());
    }

    /// Whether anything but plaintext is spoken to all or some of its endpoints.
    #[must_use]
    pub fn is_meshed(&self) -> bool {
        self.spec.security.is_mesh() || self.endpoints.load().is_meshed()
    }

    /// Says whether it stands for a name outside, which is never called.
    pub fn refuse_external(&self, whether: bool) {
        self.external.store(whether, Relaxed);
    }

    /// Why there is no endpoint.
    pub(super) fn why_none(&self) -> ErrorKind {
        if self.external.load(Relaxed) {
            ErrorKind::ExternalService
        } else {
            ErrorKind::NoEndpoint
        }
    }

    /// Marks discovery as begun; says whether it was already.
    #[must_use]
    pub fn begin_discovery(&self) -> bool {
        self.discovering.swap(true, Relaxed)
    }

    /// Takes note of the load that an endpoint reports when it is checked, as far as the strategy goes by it.
    pub fn reports(&self, endpoint: &Endpoint, load: f32, now: Instant) {
        if self.plan().strategy == Strategy::ReportedLoad {
            endpoint.reports(load, super::endpoint::millis(now));
        }
    }

    /// Marks active checks as begun; says whether they were already.
    #[must_use]
    pub fn begin_checks(&self) -> bool {
        self.checking.swap(true, Relaxed)
    }

    /// Whether it is of use to read the clock for an answer.
    #[must_use]
    pub fn times(&self) -> bool {
        self.plan().times() || self.adaptive.is_some()
    }

    /// Lets one more in; gives what it has to say when it [waits no more](Self::waits_no_more).
    pub(super) fn enter(&self, class: Class, now: Instant) -> Result<u32, ErrorKind> {
        let most = self.spec.max_requests;
        if class == Class::Batch && self.in_flight() >= class.share(most) {
            return Err(ErrorKind::Shed);
        }
        let epoch = match &self.adaptive {
            Some(adaptive) => adaptive.admit(class, now)?,
            None => 0,
        };
        self.caps
            .enter(most)
            .inspect_err(|_| self.waits_no_more(epoch))?;
        Ok(epoch)
    }

    /// What was let in waits for no answer any more.
    pub(super) fn waits_no_more(&self, epoch: u32) {
        if let Some(adaptive) = &self.adaptive {
            adaptive.leave(epoch);
        }
    }

    pub(super) fn leave(&self) {
        self.caps.leave();
    }
}

/// Has a service's tables made beside the path, where they take milliseconds: those of consistent hashing.
/// Until they are there, requests go by the ones before. Must run inside the control runtime; ends with the
/// service.
pub fn tend(service: &Arc<Service>) {
    if !service.plan().is_hashed() || service.tended.swap(true, Relaxed) {
        return;
    }
    let (mut stale, service) = (service.stale.subscribe(), Arc::downgrade(service));
    tokio::spawn(async move {
        while stale.changed().await.is_ok() {
            let Some(live) = service.upgrade() else {
                return;
            };
            let began = Instant::now();
            let made = tokio::task::spawn_blocking(move || live.tables_anew());
            if made.await.is_err() {
                return;
            }
            // A quarter of one processor at most, however often endpoints come and go.
            tokio::time::sleep(began.elapsed() * 3).await;
        }
    });
}
