//! Part of stage 7, balance: one endpoint, and what is known of it. Figures are atomics; who writes
//! them and who reads them does not wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use selvedge_contract::defaults::balance::{
    BANDWIDTH_DECAY, EWMA_DECAY, EWMA_FAILURE, EWMA_START, LOAD_STALE, SLOW_START_FROM,
};
use tokio::time::Instant;

use crate::upstream::Security;

use super::checked::{Checked, Finding};
use super::decayed::Decayed;
use super::outcomes::{Failing, Outcomes};

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
    /// Where it stands, where that is known.
    pub zone: Option<Arc<str>>,
    /// Its level: lower ones are used first.
    pub priority: u16,
    /// Requests over all workers: the upper half counts those that began, the lower those in flight.
    calls: AtomicU64,
    /// What requests have shown of it.
    pub(super) outcomes: Outcomes,
    /// What checks have shown of it.
    pub(super) checked: Checked,
    /// When its slow start began, by the same clock; 0 = it has none.
    pub(super) warm_from: AtomicU64,
    /// Response times in microseconds.
    latency: Decayed,
    /// Bytes that it has carried, as they fade.
    carried: Decayed,
    /// What it says of itself.
    load: Decayed,
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
    /// See [`Endpoint::zone`].
    pub zone: Option<Arc<str>>,
    /// See [`Endpoint::priority`].
    pub priority: u16,
}

impl From<(SocketAddr, u32)> for Wanted {
    fn from((address, weight): (SocketAddr, u32)) -> Self {
        Self {
            address,
            weight,
            security: None,
            zone: None,
            priority: 0,
        }
    }
}

impl Wanted {
    pub(super) fn is(&self, endpoint: &Endpoint) -> bool {
        let same = match (&self.security, &endpoint.security) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        endpoint.address == self.address
            && endpoint.weight == self.weight.max(1)
            && endpoint.zone == self.zone
            && endpoint.priority == self.priority
            && same
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Time since the process began to count.
fn since_origin(now: Instant) -> Duration {
    static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    now.saturating_duration_since(*ORIGIN.get_or_init(|| now))
}

/// Milliseconds since the process began to count.
#[must_use]
pub fn millis(now: Instant) -> u64 {
    // One is added so that 0 can mean "never".
    u64::try_from(since_origin(now).as_millis()).unwrap_or(u64::MAX) + 1
}

/// The low bits of the microseconds: for differences, up to 71 minutes, in a word that every lease has.
#[expect(
    clippy::cast_possible_truncation,
    reason = "it wraps, and is for differences"
)]
pub(super) fn micros(now: Instant) -> u32 {
    since_origin(now).as_micros() as u32
}

fn milliseconds(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1000.0
}

fn microseconds(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1_000_000.0
}

impl Endpoint {
    /// An endpoint that nothing is known of yet.
    #[must_use]
    pub fn new(address: SocketAddr, weight: u32) -> Self {
        Self::wanted(&(address, weight).into())
    }

    pub(super) fn wanted(wanted: &Wanted) -> Self {
        let latency = Decayed::default();
        // It fades, too: who answers in a millisecond does not keep the others from being tried.
        latency.set(microseconds(EWMA_START), millis(Instant::now()));
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            address: wanted.address,
            weight: wanted.weight.max(1),
            security: wanted.security.clone(),
            zone: wanted.zone.clone(),
            priority: wanted.priority,
            calls: AtomicU64::new(0),
            outcomes: Outcomes::default(),
            checked: Checked::default(),
            warm_from: AtomicU64::new(0),
            latency,
            carried: Decayed::default(),
            load: Decayed::default(),
        }
    }

    /// Whether it is left alone for its failures, or on trial after them.
    #[must_use]
    pub fn is_ejected(&self) -> bool {
        self.outcomes.is_out()
    }

    /// Whether active checks have found it failing.
    #[must_use]
    pub fn is_unhealthy(&self) -> bool {
        self.checked.is_unhealthy()
    }

    /// Whether it gets requests as a matter of course.
    #[must_use]
    pub fn is_available(&self) -> bool {
        !self.is_ejected() && !self.is_unhealthy()
    }

    /// Whether it says of itself that it can do less than it should.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.checked.part() < 1.0
    }

    /// What the last active check has found.
    #[must_use]
    pub fn last_check(&self) -> Option<Arc<Finding>> {
        self.checked.last()
    }

    /// Whether a request is trying it.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.outcomes.is_on_trial()
    }

    /// Its last failure, and when that was in milliseconds of the process clock.
    #[must_use]
    pub fn last_failure(&self) -> Option<(Failing, u64)> {
        self.outcomes.last_failure()
    }

    /// One more request is in flight.
    pub(super) fn begin(&self) {
        self.calls.fetch_add((1 << 32) + 1, Relaxed);
    }

    /// One has ended.
    pub(super) fn end(&self) {
        self.calls.fetch_sub(1, Relaxed);
    }

    /// Requests that have begun, a count that wraps, and those that have not ended.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
    pub(super) fn calls(&self) -> (u32, u32) {
        let calls = self.calls.load(Relaxed);
        ((calls >> 32) as u32, calls as u32)
    }

    /// Requests in flight, over all workers.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.calls().1
    }

    /// It gets less than its share from now on, for a while.
    pub(super) fn starts_slowly(&self, now: u64) {
        self.warm_from.store(now, Relaxed);
    }

    /// Takes note of how long it took to answer. An answer that is none ("not now", an error of a
    /// gateway) counts as a slow one, however soon it came: else who fails fast would draw requests.
    pub(super) fn took(&self, time: Duration, failed: bool, now: u64) {
        let time = if failed { time.max(EWMA_FAILURE) } else { time };
        self.latency
            .peak(microseconds(time), now, milliseconds(EWMA_DECAY));
    }

    /// Its response time in microseconds, as it has faded by now.
    #[must_use]
    pub fn latency(&self, now: u64) -> f32 {
        let known = self.latency.faded(now, milliseconds(EWMA_DECAY));
        known.unwrap_or(0.0)
    }

    /// Takes note of bytes that it has sent or received.
    pub(super) fn carries(&self, bytes: u64, now: u64) {
        #[expect(clippy::cast_precision_loss, reason = "six digits do")]
        let bytes = bytes as f32;
        self.carried.add(bytes, now, milliseconds(BANDWIDTH_DECAY));
    }

    /// Bytes a second that it carries, over about the last ten seconds.
    #[must_use]
    pub fn bandwidth(&self, now: u64) -> f32 {
        let sum = self.carried.faded(now, milliseconds(BANDWIDTH_DECAY));
        sum.unwrap_or(0.0) / BANDWIDTH_DECAY.as_secs_f32()
    }

    /// Takes note of what it says of itself: 1 is as much as it can do.
    pub(super) fn reports(&self, load: f32, now: u64) {
        self.load.set(load, now);
    }

    /// What it said of itself, unless that is too long ago.
    #[must_use]
    pub fn reported(&self, now: u64) -> Option<f32> {
        let most = u32::try_from(LOAD_STALE.as_millis()).unwrap_or(u32::MAX);
        self.load.fresh(now, most)
    }

    /// How much of its share it gets: 1, or less while its slow start lasts or it is degraded.
    #[must_use]
    pub fn warmth(&self, slow_start: Duration, now: u64) -> f32 {
        let part = self.checked.part();
        let from = self.warm_from.load(Relaxed);
        if from == 0 || slow_start.is_zero() {
            return part;
        }
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a few seconds")]
        let passed = now.saturating_sub(from) as f32 / milliseconds(slow_start);
        let warm = (1.0 - SLOW_START_FROM).mul_add(passed, SLOW_START_FROM);
        part * warm.min(1.0)
    }

    /// In flight, as a figure to compare.
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    pub(super) fn busy(&self) -> f32 {
        self.in_flight() as f32
    }

    /// Its weight, as a figure to divide by.
    #[expect(clippy::cast_precision_loss, reason = "weights end at 65535")]
    pub(super) const fn share(&self) -> f32 {
        self.weight as f32
    }
}
