//! The endpoints of a service: choice among the available ones, ejection of failing ones.
//!
//! A pick reads atomics only. The list of available endpoints is rebuilt when one is ejected or
//! comes back, never on a pick that finds nothing changed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use crate::upstream::Security;

use super::breaker::Verdict;
use super::service::{Service, Strategy};

/// Longest round-robin schedule; weights are scaled down to fit.
const MAX_SCHEDULE: u64 = 4096;

/// One endpoint. Lives as long as its address is part of the service.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique in this process, never used again: keys the pools.
    pub id: u64,
    /// Where it is.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u32,
    /// How it is reached, where that is not the way of its service.
    pub security: Option<Arc<Security>>,
    /// Requests in flight, over all workers.
    pub in_flight: AtomicU32,
    /// Gateway errors in a row.
    consecutive: AtomicU32,
    /// Ejections in a row.
    ejections: AtomicU32,
    /// Milliseconds of the process clock until which it is ejected; 0 = available.
    ejected_until: AtomicU64,
}

/// An endpoint that should be there.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u32,
    /// See [`Endpoint::security`].
    pub security: Option<Arc<Security>>,
}

impl Wanted {
    fn is(&self, endpoint: &Endpoint) -> bool {
        let same = match (&self.security, &endpoint.security) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        endpoint.address == self.address && endpoint.weight == self.weight.max(1) && same
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Milliseconds since the process began to count.
#[must_use]
pub fn millis(now: Instant) -> u64 {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let origin = ORIGIN.get_or_init(|| now);
    // One is added so that 0 can mean "never".
    u64::try_from(now.saturating_duration_since(*origin).as_millis()).unwrap_or(u64::MAX) + 1
}

impl Endpoint {
    /// An endpoint that nothing is known of yet.
    #[must_use]
    pub fn new(address: SocketAddr, weight: u32) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            address,
            weight: weight.max(1),
            security: None,
            in_flight: AtomicU32::new(0),
            consecutive: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
        }
    }

    /// Whether it is ejected.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.ejected_until.load(Relaxed) != 0
    }

    /// Takes note of how a try ended.
    pub(super) fn observe(&self, service: &Service, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Success => {
                // Written only where it changes: a healthy endpoint's line is not fought over.
                if self.consecutive.load(Relaxed) != 0 {
                    self.consecutive.store(0, Relaxed);
                    self.ejections.store(0, Relaxed);
                }
            }
            Verdict::Neutral => {}
            Verdict::Failure => {
                let limit = service.spec.ejection.consecutive;
                let count = self.consecutive.fetch_add(1, Relaxed) + 1;
                if limit != 0 && count >= limit && !self.is_ejected() {
                    EndpointSet::eject(service, self.id, now);
                }
            }
        }
    }

    fn load_per_weight(&self) -> (u64, u64) {
        let load = u64::from(self.in_flight.load(Relaxed)) + 1;
        (load, u64::from(self.weight))
    }

    /// Whether this endpoint carries less than the other, weights considered.
    fn lighter_than(&self, other: &Self) -> bool {
        let (load, weight) = self.load_per_weight();
        let (other_load, other_weight) = other.load_per_weight();
        load * other_weight < other_load * weight
    }
}

/// All endpoints of a service at one time.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Every endpoint.
    pub all: Vec<Arc<Endpoint>>,
    available: Vec<Arc<Endpoint>>,
    /// Order of round robin, as indices into `available`.
    schedule: Vec<u16>,
    /// When the first ejected one comes back; 0 = none is out.
    next_readmission: u64,
    /// Of every endpoint, sorted.
    ids: Vec<u64>,
    meshed: bool,
}

impl EndpointSet {
    /// The first set of a service.
    #[must_use]
    pub fn first(addresses: &[(SocketAddr, u32)]) -> Self {
        Self::build(
            addresses
                .iter()
                .map(|(address, weight)| Arc::new(Endpoint::new(*address, *weight)))
                .collect(),
        )
    }

    /// The next set: an address that stays keeps its state and its connections.
    #[must_use]
    pub fn next(&self, addresses: &[(SocketAddr, u32)]) -> Self {
        let wanted = addresses.iter().map(|(address, weight)| Wanted {
            address: *address,
            weight: *weight,
            security: None,
        });
        self.next_of(&wanted.collect::<Vec<_>>())
    }

    /// The same with endpoints that have ways of their own. Takes time by the number of endpoints.
    #[must_use]
    pub fn next_of(&self, wanted: &[Wanted]) -> Self {
        let known: HashMap<SocketAddr, &Arc<Endpoint>> = self
            .all
            .iter()
            .map(|endpoint| (endpoint.address, endpoint))
            .collect();
        let endpoint = |wanted: &Wanted| {
            let same = known.get(&wanted.address).filter(|e| wanted.is(e));
            same.map_or_else(
                || {
                    let mut new = Endpoint::new(wanted.address, wanted.weight);
                    new.security.clone_from(&wanted.security);
                    Arc::new(new)
                },
                |same| (*same).clone(),
            )
        };
        Self::build(wanted.iter().map(endpoint).collect())
    }

    /// Whether it is what is wanted, in that order.
    #[must_use]
    pub fn is(&self, wanted: &[Wanted]) -> bool {
        self.all.len() == wanted.len() && wanted.iter().zip(&self.all).all(|(w, e)| w.is(e))
    }

    /// Whether an endpoint is of the mesh by itself.
    #[must_use]
    pub const fn is_meshed(&self) -> bool {
        self.meshed
    }

    /// Whether an endpoint is in it.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// The same with one more, unless its address is there already.
    pub(super) fn with(&self, new: &Arc<Endpoint>) -> Self {
        let mut all = self.all.clone();
        if !all.iter().any(|e| e.address == new.address) {
            all.push(new.clone());
        }
        Self::build(all)
    }

    fn build(all: Vec<Arc<Endpoint>>) -> Self {
        let available: Vec<_> = all.iter().filter(|e| !e.is_ejected()).cloned().collect();
        let next_readmission = all
            .iter()
            .map(|e| e.ejected_until.load(Relaxed))
            .filter(|until| *until != 0)
            .min()
            .unwrap_or(0);
        let schedule = smooth(&available);
        let mut ids: Vec<u64> = all.iter().map(|e| e.id).collect();
        ids.sort_unstable();
        Self {
            meshed: all
                .iter()
                .any(|e| e.security.as_deref().is_some_and(Security::is_mesh)),
            ids,
            all,
            available,
            schedule,
            next_readmission,
        }
    }

    /// How many are ejected.
    #[must_use]
    pub const fn ejected(&self) -> usize {
        self.all.len() - self.available.len()
    }

    /// Chooses an endpoint; another than `avoid` where there is one.
    pub(super) fn choose(&self, service: &Service, avoid: Option<u64>) -> Option<Arc<Endpoint>> {
        let list = &self.available;
        match list.as_slice() {
            [] => None,
            [only] => Some(only.clone()),
            _ => {
                let first = match service.spec.strategy {
                    Strategy::LeastRequest => self.least_of_two(),
                    Strategy::RoundRobin => self.in_turn(service),
                }?;
                if avoid != Some(list.get(first)?.id) {
                    return list.get(first).cloned();
                }
                // The neighbour: any other will do, and this needs no second draw.
                list.get((first + 1) % list.len()).cloned()
            }
        }
    }

    fn least_of_two(&self) -> Option<usize> {
        let count = self.available.len();
        let first = fastrand::usize(..count);
        // A different one, without a loop.
        let second = (first + 1 + fastrand::usize(..count - 1)) % count;
        let (a, b) = (self.available.get(first)?, self.available.get(second)?);
        Some(if b.lighter_than(a) { second } else { first })
    }

    fn in_turn(&self, service: &Service) -> Option<usize> {
        let turn = service.turn.fetch_add(1, Relaxed);
        let at = turn.checked_rem(self.schedule.len())?;
        self.schedule.get(at).map(|index| usize::from(*index))
    }

    /// Brings back what has been out long enough. One comparison where nothing is out.
    pub(super) fn readmit_due(&self, service: &Service, now: Instant) {
        if self.next_readmission == 0 || millis(now) < self.next_readmission {
            return;
        }
        let now = millis(now);
        for endpoint in &self.all {
            let until = endpoint.ejected_until.load(Relaxed);
            if until != 0 && until <= now {
                endpoint.ejected_until.store(0, Relaxed);
                // One more error sends it out again, for longer; one success clears it.
                let limit = service.spec.ejection.consecutive;
                endpoint.consecutive.store(limit.saturating_sub(1), Relaxed);
                tracing::info!(service = %service.name(), endpoint = %endpoint.address, "endpoint is back");
            }
        }
        service.endpoints.rcu(|set| Self::build(set.all.clone()));
    }

    /// Takes an endpoint out, unless too many are out already.
    fn eject(service: &Service, id: u64, now: Instant) {
        let set = service.endpoints.load();
        let spec = &service.spec.ejection;
        let out = set.ejected() + 1;
        let share = out * 100 > set.all.len() * spec.max_share as usize;
        let Some(endpoint) = set.all.iter().find(|e| e.id == id) else {
            return;
        };
        if share || set.available.len() <= 1 {
            return;
        }
        let nth = endpoint.ejections.fetch_add(1, Relaxed).min(16);
        let length = spec.base.saturating_mul(1 << nth).min(spec.max);
        // Up to a tenth longer, so that endpoints that failed together do not return together.
        let length = length + length.mul_f64(fastrand::f64() / 10.0);
        let until = millis(now) + u64::try_from(length.as_millis()).unwrap_or(u64::MAX / 2);
        endpoint.ejected_until.store(until, Relaxed);
        tracing::warn!(service = %service.name(), endpoint = %endpoint.address, ?length, "endpoint ejected");
        service.endpoints.rcu(|set| Self::build(set.all.clone()));
    }
}

/// The smooth weighted order: each endpoint as often as its weight, as evenly spread as can be.
fn smooth(available: &[Arc<Endpoint>]) -> Vec<u16> {
    let weights: Vec<u64> = available.iter().map(|e| u64::from(e.weight)).collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let total: u64 = weights.iter().map(|w| w / divisor).sum();
    let scale = |w: u64| {
        let w = w / divisor;
        if total > MAX_SCHEDULE {
            (w * MAX_SCHEDULE / total).max(1)
        } else {
            w
        }
    };
    let weights: Vec<i64> = weights.iter().map(|w| scale(*w).cast_signed()).collect();
    let total: i64 = weights.iter().sum();
    if weights.iter().all(|w| *w == 1) {
        return (0..available.len())
            .filter_map(|at| u16::try_from(at).ok())
            .collect();
    }
    let mut current = vec![0i64; weights.len()];
    let mut order = Vec::new();
    for _ in 0..total {
        for (have, weight) in current.iter_mut().zip(&weights) {
            *have += weight;
        }
        // The first of the greatest, as nginx does it.
        let best = (0..current.len())
            .rev()
            .max_by_key(|at| current.get(*at).copied());
        if let Some(have) = best.and_then(|at| current.get_mut(at)) {
            *have -= total;
        }
        order.extend(best.and_then(|at| u16::try_from(at).ok()));
    }
    order
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
