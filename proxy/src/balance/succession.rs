//! Part of stage 7, balance: a service after a reload that changed it goes on from what the one before it knew.
//! Connections it makes anew: how they are protected may be what has changed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use arc_swap::ArcSwap;

use super::endpoint::{Endpoint, Wanted};
use super::endpoints::EndpointSet;
use super::service::Service;

impl Service {
    /// The same service as it is after a reload. What runs there counts against its caps, which are
    /// [resized](super::caps::Caps::resize) once it is in force; who was left alone still is; and until discovery
    /// has spoken again, what it said last holds.
    #[must_use]
    pub fn in_place_of(mut self, before: &Self) -> Self {
        self.caps = before.caps.clone();
        if let (Some(known), Some(spec)) = (&before.adaptive, self.spec.adaptive) {
            known.retune(spec);
            self.adaptive = Some(known.clone());
        }
        let (spec, old) = (&self.spec, &before.spec);
        let same_name = spec.dns.is_some() && spec.dns == old.dns;
        let same_port = spec.kubernetes.is_some() && spec.kubernetes == old.kubernetes;
        let known = before.endpoints.load();
        let set = self.endpoints.load_full();
        let set = if set.all.is_empty() && (same_name || same_port) {
            let wanted: Vec<Wanted> = known.all.iter().map(|e| Wanted::of(e)).collect();
            Arc::new(EndpointSet::first(spec.balance.clone(), &wanted))
        } else {
            set
        };
        let checked = spec.health.is_some() && old.health.is_some();
        adopt(&set.all, &known.all, checked);
        self.endpoints = ArcSwap::from_pointee(set.again());
        self
    }
}

/// Endpoints at the addresses of others go on as those were.
fn adopt(new: &[Arc<Endpoint>], old: &[Arc<Endpoint>], checked: bool) {
    let known: HashMap<SocketAddr, &Arc<Endpoint>> = old.iter().map(|e| (e.address, e)).collect();
    for endpoint in new {
        if let Some(before) = known.get(&endpoint.address) {
            endpoint.adopt(before, checked);
        }
    }
}

impl Wanted {
    /// The same as this one.
    fn of(endpoint: &Endpoint) -> Self {
        Self {
            address: endpoint.address,
            weight: endpoint.weight,
            security: endpoint.security.clone(),
            zone: endpoint.zone.clone(),
            priority: endpoint.priority,
        }
    }
}

impl Endpoint {
    /// Goes on as this one was, whose connections and counts it has not; with what checks have found if there
    /// are still some, as nobody else would find that it is well again.
    pub(super) fn adopt(&self, before: &Self, checked: bool) {
        self.outcomes.adopt(&before.outcomes);
        if checked {
            self.checked.adopt(&before.checked);
        }
        let warm = before.warm_from.load(Relaxed);
        self.warm_from.store(warm, Relaxed);
    }
}
