//! Part of stage 6, policy: a rate limit, what it counts by, and what the client is told of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use selvedge_gateway::limit::{Fingerprint, Quota, Table, Verdict};
use tokio::time::Instant;

use crate::error::ErrorKind;
use crate::message::Known;

use super::by::{By, plan};
use super::guard::{Found, Notes, Seen, Stop};
use super::shared::{Lost, Store};

/// Keys that a limit remembers at a time; 16 bytes each.
pub const SLOTS: usize = 1 << 16;

/// A limit's place in a store that several gateways share.
#[derive(Debug)]
pub struct Shared {
    /// The store.
    pub store: Arc<Store>,
    /// While it is lost, each gateway counts for itself; else nothing passes.
    pub open: bool,
    /// A request waits this long for an answer.
    pub wait: Duration,
    /// Requests that were counted without the store, or refused for want of it.
    pub lost: AtomicU64,
}

/// A compiled limit.
#[derive(Debug)]
pub struct Limit {
    /// Name of the policy.
    pub name: Arc<str>,
    /// What it counts by.
    pub by: By,
    /// How much.
    pub quota: Quota,
    /// What a request costs.
    pub cost: u64,
    /// Refuses nothing.
    pub shadow: bool,
    /// `RateLimit-Policy` as it is sent.
    pub told: String,
    /// Other quotas, by the caller's plan.
    pub plans: BTreeMap<String, (Quota, String)>,
    /// The claim that names the plan; without one, the key's own.
    pub plan: Option<String>,
    /// Where it counts together with other gateways.
    pub shared: Option<Shared>,
    /// Requests that were too many; in shadow, those that would have been.
    pub refused: AtomicU64,
    table: Table,
    epoch: Instant,
}

impl Limit {
    /// A limit on which nobody has drawn yet. The quota is `count` in `period`.
    #[must_use]
    pub fn new(name: Arc<str>, by: By, count: u64, period: Duration, burst: u64) -> Self {
        let (quota, told) = Self::rate(&name, count, period, burst);
        Self {
            name,
            by,
            quota,
            cost: 1,
            shadow: false,
            told,
            plans: BTreeMap::new(),
            plan: None,
            shared: None,
            refused: AtomicU64::new(0),
            table: Table::new(SLOTS),
            epoch: Instant::now(),
        }
    }

    /// A quota, and how it is told.
    #[must_use]
    pub fn rate(name: &str, count: u64, period: Duration, burst: u64) -> (Quota, String) {
        let nanos = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let told = format!("\"{name}\";q={count};w={}", period.as_secs().max(1));
        (Quota::new(count, nanos, burst), told)
    }

    /// Whether it must know who calls.
    #[must_use]
    pub fn asks_who(&self) -> bool {
        self.by.asks_who() || !self.plans.is_empty()
    }

    fn quota(&self, seen: &Seen<'_>) -> (&Quota, &str) {
        let plan = plan(seen, self.plan.as_deref());
        let own = plan.and_then(|plan| self.plans.get(plan));
        own.map_or((&self.quota, &self.told), |plan| (&plan.0, &plan.1))
    }

    /// Counts a request, and refuses it if it is one too many.
    ///
    /// # Errors
    /// [`ErrorKind::RateLimited`]; [`ErrorKind::NoCount`] where a store that must be asked is lost;
    /// [`Stop::Wait`] while it is asked.
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let key = self.key(seen);
        let since = seen.now.saturating_duration_since(self.epoch);
        let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let (quota, told) = self.quota(seen);
        let verdict = match &self.shared {
            None => self.table.take(key, quota, now, self.cost),
            Some(shared) => match self.ask(shared, seen, key, now) {
                Ok(verdict) => verdict,
                Err(Stop::Refused(_)) if self.shadow => return Ok(()),
                Err(stop) => return Err(stop),
            },
        };
        if self.shadow {
            if !verdict.admitted {
                self.refused.fetch_add(1, Relaxed);
                tracing::info!(policy = %self.name, rule = seen.rule, "would be refused");
            }
            return Ok(());
        }
        self.tell(verdict, told, notes);
        if verdict.admitted {
            return Ok(());
        }
        self.refused.fetch_add(1, Relaxed);
        Err(ErrorKind::RateLimited.into())
    }

    /// Asks the store, unless it has said already that this key must wait. What it counts, the
    /// table here follows: so it knows who must wait, and where to go on when the store is lost.
    fn ask(
        &self,
        shared: &Shared,
        seen: &mut Seen<'_>,
        key: u64,
        now: u64,
    ) -> Result<Verdict, Stop> {
        let (quota, _) = self.quota(seen);
        match seen.found.take() {
            Some(Found::Count(Ok(count))) => {
                self.table.follow(key, now, count.ahead);
                return Ok(quota.verdict(count, self.cost));
            }
            Some(Found::Count(Err(Lost))) => return self.alone(shared, quota, key, now),
            _ => {}
        }
        let known = self.table.look(key, quota, now, self.cost);
        if !known.admitted {
            return Ok(known);
        }
        if !shared.store.is_live() {
            return self.alone(shared, quota, key, now);
        }
        let (store, quota, wait, cost) = (shared.store.clone(), *quota, shared.wait, self.cost);
        let name = self.shared_key(seen);
        Err(Stop::wait(async move {
            Found::Count(store.count(&name, &quota, cost, wait).await)
        }))
    }

    fn alone(&self, shared: &Shared, quota: &Quota, key: u64, now: u64) -> Result<Verdict, Stop> {
        shared.lost.fetch_add(1, Relaxed);
        if shared.open {
            Ok(self.table.take(key, quota, now, self.cost))
        } else {
            Err(ErrorKind::NoCount.into())
        }
    }

    fn key(&self, seen: &mut Seen<'_>) -> u64 {
        self.table.key(|give| self.by.give(seen, give))
    }

    /// The key's name in the store: the same for every gateway with this policy. What it is made
    /// from is hashed, since keys and claims are nobody's business there. In braces, so that a
    /// cluster keeps it in one place.
    fn shared_key(&self, seen: &mut Seen<'_>) -> String {
        let mut hasher = Fingerprint::default();
        self.by.give(seen, &mut |part| hasher.give(part));
        format!("selvedge:{{{}:{}}}", self.name, hasher.finish())
    }

    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers), and for who must
    /// wait `Retry-After` in whole seconds, rounded up.
    fn tell(&self, verdict: Verdict, told: &str, notes: &mut Notes) {
        let seconds = |nanos: u64| nanos.div_ceil(1_000_000_000);
        let mut text = String::with_capacity(self.name.len() + 32);
        let reset = seconds(verdict.reset);
        let _ = write!(text, "\"{}\";r={};t={reset}", self.name, verdict.remaining);
        notes.fields.append(b"RateLimit-Policy", told.as_bytes());
        notes.fields.append(b"RateLimit", text.as_bytes());
        if !verdict.admitted && verdict.wait != u64::MAX {
            let mut digits = itoa::Buffer::new();
            let wait = digits.format(seconds(verdict.wait).max(1));
            notes
                .fields
                .append_known(Known::RetryAfter, wait.as_bytes());
        }
    }
}
