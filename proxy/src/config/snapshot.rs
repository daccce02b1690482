//! The configuration as the path sees it: compiled, immutable, one for each request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use selvedge_contract::config::Config;

use crate::accept::{ListenerPlan, ListenerRole};
use crate::acme::Issuers;
use crate::balance::Service;
use crate::cache::Cache;
use crate::policy::concurrency::Concurrency;
use crate::policy::decisions::Decisions;
use crate::policy::limit::Limit;
use crate::policy::manners::Version;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::comparisons::Comparisons;
use crate::telemetry::export::Tracing;
use crate::telemetry::metrics::RouteMetrics;

/// See the module.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with each reload.
    pub generation: u64,
    /// Listeners, by name.
    pub listeners: Vec<Arc<ListenerPlan>>,
    /// Services, by name.
    pub services: BTreeMap<String, Arc<Service>>,
    /// Rate limits.
    pub limits: Vec<Arc<Limit>>,
    /// Limits of what is on its way.
    pub crowds: Vec<Arc<Concurrency>>,
    /// How policies that say who may have decided, by name.
    pub decided: BTreeMap<String, Arc<Decisions>>,
    /// What came of comparing answers of mirrors.
    pub compared: Vec<Arc<Comparisons>>,
    /// Versions that are counted.
    pub versions: Vec<Arc<Version>>,
    /// Caches.
    pub caches: Vec<Arc<Cache>>,
    /// Certificates by ACME that listeners use.
    pub issuers: Issuers,
    /// Counters of what no route took.
    pub unrouted: Arc<RouteMetrics>,
    /// Access log.
    pub access_log: Option<Arc<AccessLog>>,
    /// Tracing.
    pub tracing: Option<Arc<Tracing>>,
    /// Accepting goes on this long after readiness went off.
    pub drain_delay: Duration,
    /// What is in flight may take this long.
    pub drain_timeout: Duration,
    /// What it was compiled from, for the dump.
    pub source: Config,
}

impl Snapshot {
    /// Whether rules of the kernel may send what this process sends back to it.
    #[must_use]
    pub fn may_come_round(&self) -> bool {
        let mut plans = self.listeners.iter();
        plans.any(|plan| plan.onward.is_some() && plan.role == ListenerRole::Outbound)
    }

    /// Every service by its name, and the applications behind inbound ports by those of the ports.
    pub fn all_services(&self) -> impl Iterator<Item = (&str, &Arc<Service>)> {
        let named = self.services.iter();
        let named = named.map(|(name, service)| (name.as_str(), service));
        let ports = self.listeners.iter().filter_map(|plan| {
            let rule = plan.opaque.as_ref()?;
            Some((&*plan.name, &rule.backends.first()?.service))
        });
        named.chain(ports)
    }

    /// A listener.
    #[must_use]
    pub fn listener(&self, name: &Arc<str>) -> Option<&Arc<ListenerPlan>> {
        // A handful of listeners: comparing pointers first is faster than any map.
        self.listeners
            .iter()
            .find(|plan| Arc::ptr_eq(&plan.name, name) || plan.name == *name)
    }
}
