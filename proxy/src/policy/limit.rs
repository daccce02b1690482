//! Part of stage 6, policy: a rate limit, what it counts by, and what the client is told of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use selvedge_gateway::jwt::find;
use selvedge_gateway::limit::{Quota, Table, Verdict};
use serde_json::Value;
use tokio::time::Instant;

use crate::error::ErrorKind;
use crate::message::Known;

use super::guard::{Notes, Seen, Stop};

/// Keys that a limit remembers at a time; 16 bytes each.
pub const SLOTS: usize = 1 << 16;

/// What a limit counts by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The client's address; of IPv6 the first 64 bits, which is what one client has.
    Address,
    /// Route and rule.
    Route,
    /// The host that the request is for.
    Host,
    /// A header's first value.
    Header(String),
    /// A claim of the token.
    Claim(String),
    /// Whose key it is.
    ApiKey,
}

/// A compiled limit.
#[derive(Debug)]
pub struct Limit {
    /// Name of the policy.
    pub name: Arc<str>,
    /// What it counts by.
    pub parts: Vec<Part>,
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
    table: Table,
    epoch: Instant,
}

impl Limit {
    /// A limit on which nobody has drawn yet. The quota is `count` in `period`.
    #[must_use]
    pub fn new(name: Arc<str>, parts: Vec<Part>, count: u64, period: Duration, burst: u64) -> Self {
        let (quota, told) = Self::rate(&name, count, period, burst);
        Self {
            name,
            parts,
            quota,
            cost: 1,
            shadow: false,
            told,
            plans: BTreeMap::new(),
            plan: None,
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
        let who = |part: &Part| matches!(part, Part::Claim(_) | Part::ApiKey);
        self.parts.iter().any(who) || !self.plans.is_empty()
    }

    fn quota(&self, seen: &Seen<'_>) -> (&Quota, &str) {
        let plan = match &self.plan {
            Some(path) => {
                let claims = seen.token.as_ref().map(|token| &token.claims);
                claims.and_then(|c| find(c, path)).and_then(|v| v.as_str())
            }
            None => seen.consumer.as_ref().and_then(|c| c.plan.as_deref()),
        };
        let own = plan.and_then(|plan| self.plans.get(plan));
        own.map_or((&self.quota, &self.told), |plan| (&plan.0, &plan.1))
    }

    /// Counts a request, and refuses it if it is one too many.
    ///
    /// # Errors
    /// [`ErrorKind::RateLimited`].
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let key = self.key(seen);
        let since = seen.now.saturating_duration_since(self.epoch);
        let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let (quota, told) = self.quota(seen);
        let verdict = self.table.take(key, quota, now, self.cost);
        if self.shadow {
            if !verdict.admitted {
                tracing::info!(policy = %self.name, rule = seen.rule, "would be refused");
            }
            return Ok(());
        }
        self.tell(verdict, told, notes);
        if verdict.admitted {
            return Ok(());
        }
        Err(ErrorKind::RateLimited.into())
    }

    fn key(&self, seen: &mut Seen<'_>) -> u64 {
        let address = seen.address();
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => (v6.to_bits() & (u128::MAX << 64)).to_be_bytes(),
        };
        let head = seen.head;
        let claims = seen.token.as_ref().map(|token| &token.claims);
        self.table.key(|give| {
            for part in &self.parts {
                match part {
                    Part::Address => give(&octets),
                    Part::Route => give(seen.rule.as_bytes()),
                    Part::Host => give(head.host.as_str().as_bytes()),
                    // Leaving it out must not be a way into a bucket of one's own choice.
                    Part::Header(name) => give(head.fields.named(name).unwrap_or(&octets)),
                    Part::ApiKey => {
                        let name = seen.consumer.as_ref().map(|c| c.name.as_bytes());
                        give(name.unwrap_or(&octets));
                    }
                    Part::Claim(path) => match claims.and_then(|c| find(c, path)) {
                        None => give(&octets),
                        Some(Value::String(text)) => give(text.as_bytes()),
                        // What a claim is not in words, it is in JSON.
                        Some(other) => give(other.to_string().as_bytes()),
                    },
                }
            }
        })
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
