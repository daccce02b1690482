//! The endpoints of a service: which there are, and ejection of failing ones.
//!
//! A pick reads atomics and tables only. Both are made anew when an endpoint comes, goes, is ejected or
//! comes back, never on a pick that finds nothing changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use crate::upstream::Security;

use super::choose::{Group, Moment};
use super::endpoint::{Endpoint, Wanted, millis};
use super::key::{Asked, mixed};
use super::levels;
use super::plan::{Plan, Sticky};
use super::service::Service;
use super::sticky;

/// All endpoints of a service at one time.
#[derive(Debug)]
pub struct EndpointSet {
    /// Every endpoint.
    pub all: Vec<Arc<Endpoint>>,
    plan: Arc<Plan>,
    /// Those that are used, and which share of requests goes where.
    groups: Vec<(u32, Group)>,
    ejected: usize,
    /// When the first of those that are left alone may be tried; `u64::MAX` = there is none.
    next_trial: AtomicU64,
    /// When the last slow start ends; 0 = there is none.
    warm_until: u64,
    /// One says of itself that it is degraded.
    degraded: bool,
    /// Of every endpoint, sorted.
    ids: Vec<u64>,
    /// By what cookies call them, sorted; empty where no cookie does.
    sessions: Vec<(u64, Arc<Endpoint>)>,
    meshed: bool,
}

impl EndpointSet {
    /// The first set of a service. Its endpoints are no newer than one another: none starts slowly.
    #[must_use]
    pub fn first(plan: Arc<Plan>, wanted: &[Wanted]) -> Self {
        let all = wanted.iter().map(|w| Arc::new(Endpoint::wanted(w)));
        Self::build(plan, all.collect())
    }

    /// The next set: an endpoint that stays keeps its state and its connections, a new one starts
    /// slowly. Takes time by the number of endpoints.
    #[must_use]
    pub fn next(&self, wanted: &[Wanted]) -> Self {
        let known: HashMap<_, &Arc<Endpoint>> = self
            .all
            .iter()
            .map(|endpoint| (endpoint.address, endpoint))
            .collect();
        let now = millis(Instant::now());
        let endpoint = |wanted: &Wanted| {
            let before = known.get(&wanted.address);
            if let Some(same) = before.filter(|e| wanted.is(e)) {
                return (*same).clone();
            }
            let new = Endpoint::wanted(wanted);
            // Another weight or way does not make it new.
            match before {
                Some(before) => new.adopt(before, true),
                None if self.all.is_empty() => {}
                None => new.warm_from.store(now, Relaxed),
            }
            Arc::new(new)
        };
        Self::build(self.plan.clone(), wanted.iter().map(endpoint).collect())
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
        Self::build(self.plan.clone(), all)
    }

    fn build(plan: Arc<Plan>, all: Vec<Arc<Endpoint>>) -> Self {
        let due = all.iter().filter(|e| !e.is_unhealthy());
        let next_trial = due.filter_map(|e| e.outcomes.due()).min();
        let groups = levels::groups(&all, &plan);
        let mut ids: Vec<u64> = all.iter().map(|e| e.id).collect();
        ids.sort_unstable();
        let slow = u64::try_from(plan.slow_start.as_millis()).unwrap_or(0);
        let began = all.iter().map(|e| e.warm_from.load(Relaxed)).max();
        let warms = groups.iter().any(|(_, group)| group.warms);
        Self {
            meshed: all
                .iter()
                .any(|e| e.security.as_deref().is_some_and(Security::is_mesh)),
            ejected: all.iter().filter(|e| e.is_ejected()).count(),
            degraded: all.iter().any(|e| e.is_degraded()),
            next_trial: AtomicU64::new(next_trial.unwrap_or(u64::MAX)),
            warm_until: began
                .filter(|_| warms && slow > 0)
                .map_or(0, |began| began + slow),
            sessions: match &plan.sticky {
                Some(Sticky::Cookie(cookie)) => sticky::sessions(cookie, &all),
                _ => Vec::new(),
            },
            ids,
            groups,
            all,
            plan,
        }
    }

    /// The same endpoints, looked at again: one of them is used now and was not, or the other way round.
    pub(super) fn again(&self) -> Self {
        Self::build(self.plan.clone(), self.all.clone())
    }

    /// Endpoints by what cookies call them.
    #[cfg(test)]
    pub(super) fn sessions(&self) -> &[(u64, Arc<Endpoint>)] {
        &self.sessions
    }

    /// How many are ejected.
    #[must_use]
    pub const fn ejected(&self) -> usize {
        self.ejected
    }

    /// When one may be tried.
    pub(super) const fn next_trial(&self) -> &AtomicU64 {
        &self.next_trial
    }

    /// The endpoint that a cookie names, while it is there and available.
    pub(super) fn of_session(&self, session: u64) -> Option<&Arc<Endpoint>> {
        let at = self
            .sessions
            .binary_search_by_key(&session, |(s, _)| *s)
            .ok()?;
        let (_, endpoint) = self.sessions.get(at)?;
        endpoint.is_available().then_some(endpoint)
    }

    /// Chooses an endpoint; another than `avoid` where there is one.
    pub(super) fn choose(
        &self,
        service: &Service,
        asked: &Asked,
        avoid: Option<u64>,
        now: Instant,
    ) -> Option<&Arc<Endpoint>> {
        let now = millis(now);
        let moment = Moment {
            service,
            asked,
            avoid,
            now,
            warm: now < self.warm_until || self.degraded,
        };
        let chosen = match self.groups.as_slice() {
            [] => None,
            [(_, only)] => only.choose(&moment),
            groups => {
                // A key, or a source, stays where it is as long as the shares do.
                let key = asked.source.or(asked.key);
                let drawn = key.map_or_else(|| fastrand::u64(..), |key| mixed(key ^ u64::MAX));
                let drawn = u32::try_from(drawn >> 32).unwrap_or(0);
                let (_, group) = groups.iter().find(|(last, _)| drawn <= *last)?;
                group.choose(&moment)
            }
        }?;
        if avoid == Some(chosen.id) {
            return Some(self.of_another_level(chosen));
        }
        Some(chosen)
    }

    /// Where a level has nothing but the endpoint that has just failed: one of the next, though nothing
    /// would go there as long as the first is well. Rare, and a look at all.
    fn of_another_level<'a>(&'a self, failed: &'a Arc<Endpoint>) -> &'a Arc<Endpoint> {
        let others = self.all.iter().filter(|e| e.address != failed.address);
        let others = others.filter(|e| e.is_available());
        others.min_by_key(|e| e.priority).unwrap_or(failed)
    }
}

#[cfg(test)]
mod tests;
