//! Counters of the path. Each worker writes its own shard with plain stores; a scrape adds up.
//!
//! Handles are resolved when a snapshot is compiled, and series survive reloads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use selvedge_contract::defaults::process::SERIES;

use crate::error::ErrorKind;
use crate::protocol::http2::Abuse;
use crate::tls::reason::Reason;

use super::calls::{Methods, Room};

/// Upper bounds of the duration histogram, in microseconds.
pub const BUCKETS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// A counter that only one thread writes.
#[derive(Debug, Default)]
pub struct Lone(AtomicU64);

impl Lone {
    /// Adds.
    pub fn add(&self, n: u64) {
        // No read-modify-write: the shard has one writer.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes away.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A histogram of durations that only one thread writes.
#[derive(Debug, Default)]
pub struct Durations {
    /// By bucket; the last is everything longer.
    pub bucket: [Lone; BUCKETS.len() + 1],
    /// Their sum in microseconds.
    pub sum: Lone,
}

impl Durations {
    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let at = BUCKETS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.bucket.get(at) {
            bucket.add(1);
        }
        self.sum.add(micros);
    }
}

/// One worker's part of a route's counters. Aligned so that workers do not share cache lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct RouteShard {
    /// By response class: 1xx to 5xx, and none.
    pub class: [Lone; 6],
    /// By end code: index of [`ErrorKind`] plus one; 0 is a good end.
    pub end: [Lone; ErrorKind::ALL.len() + 1],
    /// From the head of a request to the last byte of its response.
    pub durations: Durations,
    /// In flight.
    pub in_flight: Lone,
    /// Tries after the first.
    pub retries: Lone,
    /// Requests for which a second endpoint was asked as the first was late.
    pub hedges: Lone,
    /// Those that the second answered first.
    pub hedges_won: Lone,
    /// Body bytes from downstream and to it.
    pub received: Lone,
    /// See `received`.
    pub sent: Lone,
}

/// Counters of a pair of rule and service.
#[derive(Debug)]
pub struct RouteMetrics {
    /// Route and rule.
    pub route: Arc<str>,
    /// Service, or empty.
    pub service: Arc<str>,
    /// Calls of gRPC, by method.
    pub methods: Methods,
    shards: Box<[RouteShard]>,
}

impl RouteMetrics {
    /// The shard of a worker.
    #[must_use]
    pub fn shard(&self, worker: usize) -> &RouteShard {
        // There is always at least one; an index that is off counts in the last.
        let last = self.shards.len() - 1;
        &self.shards[worker.min(last)]
    }

    /// All shards.
    #[must_use]
    pub fn shards(&self) -> &[RouteShard] {
        &self.shards
    }
}

impl Default for RouteShard {
    fn default() -> Self {
        Self {
            class: Default::default(),
            end: std::array::from_fn(|_| Lone::default()),
            durations: Durations::default(),
            in_flight: Lone::default(),
            retries: Lone::default(),
            hedges: Lone::default(),
            hedges_won: Lone::default(),
            received: Lone::default(),
            sent: Lone::default(),
        }
    }
}

/// One worker's counters of connections.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerShard {
    /// Accepted downstream connections.
    pub accepted: Lone,
    /// Closed ones.
    pub closed: Lone,
    /// Refused for a cap.
    pub refused: Lone,
    /// Failed accepts.
    pub accept_errors: Lone,
    /// Failed TLS handshakes.
    pub handshake_errors: Lone,
    /// The same by reason, see [`Reason`].
    pub handshake: [Lone; Reason::ALL.len()],
    /// Upstream connections opened.
    pub connected: Lone,
    /// Upstream connects that failed.
    pub connect_errors: Lone,
    /// Pooled connections used again.
    pub reused: Lone,
    /// Copies of requests that were not sent: too many were under way, or the body was too long.
    pub mirrors_lost: Lone,
    /// Datagrams that went nowhere: over a cap, too long, or nobody took them.
    pub datagrams_lost: Lone,
    /// Connections ended for an HTTP/2 abuse, by its kind.
    pub http2_abuse: [Lone; Abuse::ALL.len()],
}

/// Counters that are not written on the path.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// Reloads that took effect.
    pub reloads: AtomicU64,
    /// Reloads that were refused.
    pub reload_failures: AtomicU64,
    /// Access-log lines dropped.
    pub log_drops: AtomicU64,
    /// Spans dropped.
    pub span_drops: AtomicU64,
    /// Certificates obtained.
    pub renewals: AtomicU64,
    /// Attempts to obtain one that failed.
    pub renewal_failures: AtomicU64,
    /// End of the present certificate's life, Unix seconds; 0 = none.
    pub certificate_expiry: AtomicU64,
    /// Generation of the configuration in force.
    pub generation: AtomicU64,
    /// Mesh connections that end as their peers are not trusted any more.
    pub distrusted: AtomicU64,
    /// Changes of what is trusted.
    pub trust_changes: AtomicU64,
    /// When the first list of revoked certificates ends, Unix seconds; 0 = none.
    pub lists_end: AtomicU64,
    /// Bytes of memory in use where that is bounded, ...
    pub memory_used: AtomicU64,
    /// ... of so many; 0 = no bound.
    pub memory_ceiling: AtomicU64,
    /// How short it is, see `Pressure`.
    pub memory_pressure: AtomicU64,
    /// Bundles of other trust domains that could not be obtained.
    pub bundle_failures: AtomicU64,
}

/// Counters of a name that gets its certificates by ACME.
#[derive(Debug, Default)]
pub struct OrderCounters {
    /// Orders that brought a certificate.
    pub issued: AtomicU64,
    /// Orders that did not.
    pub failed: AtomicU64,
    /// End of the certificate's life, Unix seconds; 0 = none yet.
    pub not_after: AtomicU64,
}

/// By entry of `acme` and name.
type Orders = BTreeMap<(Arc<str>, String), Arc<OrderCounters>>;

/// By route and service.
type Routes = BTreeMap<(Arc<str>, Arc<str>), Arc<RouteMetrics>>;

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    workers: Box<[WorkerShard]>,
    /// See there.
    pub process: ProcessCounters,
    routes: Mutex<Routes>,
    orders: Mutex<Orders>,
    room: Arc<Room>,
}

impl Metrics {
    /// For this many workers.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers: shards(workers),
            process: ProcessCounters::default(),
            routes: Mutex::new(BTreeMap::new()),
            orders: Mutex::new(BTreeMap::new()),
            room: Arc::default(),
        })
    }

    /// The shard of a worker.
    #[must_use]
    pub fn worker(&self, index: usize) -> &WorkerShard {
        let last = self.workers.len() - 1;
        &self.workers[index.min(last)]
    }

    /// All workers' shards.
    #[must_use]
    pub fn workers(&self) -> &[WorkerShard] {
        &self.workers
    }

    /// The counters of a pair of route and service; the same ones for the same names. Past
    /// [`SERIES`] pairs, those named `overflow`.
    #[must_use]
    pub fn route(&self, route: &str, service: &str) -> Arc<RouteMetrics> {
        let mut routes = self.lock();
        let full = routes.len() >= SERIES;
        let mut key: (Arc<str>, Arc<str>) = (route.into(), service.into());
        if full && !routes.contains_key(&key) {
            key = ("overflow".into(), "overflow".into());
        }
        routes
            .entry(key.clone())
            .or_insert_with(|| {
                Arc::new(RouteMetrics {
                    route: key.0,
                    service: key.1,
                    methods: Methods::new(self.room.clone(), self.workers.len()),
                    shards: shards(self.workers.len()),
                })
            })
            .clone()
    }

    /// All routes' counters.
    #[must_use]
    pub fn routes(&self) -> Vec<Arc<RouteMetrics>> {
        self.lock().values().cloned().collect()
    }

    /// The counters of a name that an entry of `acme` has; the same ones for the same names.
    #[must_use]
    pub fn orders(&self, issuer: &Arc<str>, name: &str) -> Arc<OrderCounters> {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let known = orders.entry((issuer.clone(), name.to_owned()));
        known.or_default().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn shards<T: Default>(workers: usize) -> Box<[T]> {
    (0..workers.max(1)).map(|_| T::default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let durations = Durations::default();
        for micros in [0, 500, 501, 10_000_000, 10_000_001] {
            durations.observe(Duration::from_micros(micros));
        }
        let counts: Vec<u64> = durations.bucket.iter().map(Lone::value).collect();
        assert_eq!((counts[0], counts[1], counts[13], counts[14]), (2, 1, 1, 1));
    }

    #[test]
    fn series_are_bounded_and_survive() {
        let metrics = Metrics::new(2);
        let first = metrics.route("a", "b");
        assert!(Arc::ptr_eq(&first, &metrics.route("a", "b")));
        for at in 0..SERIES + 5 {
            let _ = metrics.route(&format!("r{at}"), "s");
        }
        assert_eq!(metrics.route("new", "s").route.as_ref(), "overflow");
        assert!(metrics.routes().len() <= SERIES + 1);
    }
}
