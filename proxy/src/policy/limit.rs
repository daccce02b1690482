//! Part of stage 6, policy: a rate limit, what it counts by, and what the client is told of it.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use selvedge_gateway::jwt::find;
use selvedge_gateway::limit::{Quota, Table, Verdict};
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
    table: Table,
    epoch: Instant,
}

impl Limit {
    /// A limit on which nobody has drawn yet. The quota is `count` in `period`.
    #[must_use]
    pub fn new(name: Arc<str>, parts: Vec<Part>, count: u64, period: Duration, burst: u64) -> Self {
        let nanos = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let told = format!("\"{name}\";q={count};w={}", period.as_secs().max(1));
        Self {
            name,
            parts,
            quota: Quota::new(count, nanos, burst),
            cost: 1,
            shadow: false,
            told,
            table: Table::new(SLOTS),
            epoch: Instant::now(),
        }
    }

    /// Counts a request, and refuses it if it is one too many.
    ///
    /// # Errors
    /// [`ErrorKind::RateLimited`].
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) -> Result<(), Stop> {
        let key = self.key(seen);
        let since = seen.now.saturating_duration_since(self.epoch);
        let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let verdict = self.table.take(key, &self.quota, now, self.cost);
        if self.shadow {
            if !verdict.admitted {
                tracing::info!(policy = %self.name, rule = seen.rule, "would be refused");
            }
            return Ok(());
        }
        self.tell(verdict, notes);
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
        // What a claim is not in words, it is in JSON.
        let texts: Vec<Option<String>> = self
            .parts
            .iter()
            .map(|part| match part {
                Part::Claim(path) => claims
                    .and_then(|c| find(c, path))
                    .map(|v| match v.as_str() {
                        Some(text) => text.to_owned(),
                        None => v.to_string(),
                    }),
                _ => None,
            })
            .collect();
        let parts = self
            .parts
            .iter()
            .zip(&texts)
            .map(|(part, text)| match part {
                Part::Address => &octets[..],
                Part::Route => seen.rule.as_bytes(),
                Part::Host => head.host.as_str().as_bytes(),
                // Leaving it out must not be a way into a bucket of one's own choice.
                Part::Header(name) => head.fields.named(name).unwrap_or(&octets),
                Part::Claim(_) => text.as_ref().map_or(&octets[..], |text| text.as_bytes()),
            });
        self.table.key(parts)
    }

    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers), and for who must
    /// wait `Retry-After` in whole seconds, rounded up.
    fn tell(&self, verdict: Verdict, notes: &mut Notes) {
        let seconds = |nanos: u64| nanos.div_ceil(1_000_000_000);
        let mut text = String::with_capacity(self.name.len() + 32);
        let reset = seconds(verdict.reset);
        let _ = write!(text, "\"{}\";r={};t={reset}", self.name, verdict.remaining);
        notes
            .fields
            .append(b"RateLimit-Policy", self.told.as_bytes());
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
