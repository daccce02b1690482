//! Injector: what it has decided, and how it stands, as metrics.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use selvedge_injector::admission::Verdict;

use crate::tls::IdentityStore;

use super::ca_bundle::Standing;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
    reason: &'static str,
}

/// Bounds of the histogram in seconds.
const BUCKETS: [f64; 8] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 1.0];

/// Why a request has no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Not a review.
    Malformed,
    /// Over 10 MB.
    TooLarge,
    /// Its body did not come.
    Slow,
    /// Not asked as an API server asks.
    Request,
    /// Nothing is known of the pod's namespace.
    Namespace,
}

impl Failure {
    const ALL: [Self; 5] = [
        Self::Malformed,
        Self::TooLarge,
        Self::Slow,
        Self::Request,
        Self::Namespace,
    ];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Slow => "slow",
            Self::Request => "request",
            Self::Namespace => "namespace",
        }
    }
}

/// See the module.
pub(super) struct Metrics {
    registry: Registry,
    reviews: Family<Labels, Counter>,
    duration: Histogram,
    expiry: Gauge,
    current: Gauge,
    leads: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("selvedge_injector");
        let reviews = Family::<Labels, Counter>::default();
        let failures = Failure::ALL.map(|failure| ("failed", failure.label()));
        for (outcome, reason) in Verdict::all_labels().into_iter().chain(failures) {
            // From zero, so that the first of its kind shows as a rise.
            let _ = reviews.get_or_create(&Labels { outcome, reason });
        }
        let duration = Histogram::new(BUCKETS);
        let (expiry, current, leads) = (Gauge::default(), Gauge::default(), Gauge::default());
        let help = "Reviews by what became of them";
        registry.register("reviews", help, reviews.clone());
        let help = "Time from the last byte of a review to its answer";
        registry.register("review_duration_seconds", help, duration.clone());
        let help = "When the serving certificate ends, Unix time; 0: there is none";
        registry.register("certificate_expiry_seconds", help, expiry.clone());
        let help = "Whether the API server verifies the webhook by the mesh's roots";
        registry.register("ca_bundle_current", help, current.clone());
        registry.register("leader", "Whether this replica leads", leads.clone());
        Self {
            registry,
            reviews,
            duration,
            expiry,
            current,
            leads,
        }
    }

    pub(super) fn decided(&self, verdict: &Verdict, took: Duration) {
        let (outcome, reason) = verdict.labels();
        self.reviews
            .get_or_create(&Labels { outcome, reason })
            .inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(super) fn failed(&self, failure: Failure) {
        let labels = Labels {
            outcome: "failed",
            reason: failure.label(),
        };
        self.reviews.get_or_create(&labels).inc();
    }

    /// In the form of OpenMetrics.
    pub(super) fn encode(&self, store: &Arc<IdentityStore>, standing: &Standing) -> String {
        let end = store.current().map_or(UNIX_EPOCH, |i| i.not_after);
        let seconds = |t: SystemTime| t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.expiry
            .set(i64::try_from(seconds(end)).unwrap_or(i64::MAX));
        self.current.set(standing.current.load(Relaxed).into());
        self.leads.set(standing.leads.load(Relaxed).into());
        let mut out = String::new();
        match prometheus_client::encoding::text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(fmt::Error) => String::new(),
        }
    }
}
