//! The circuit breaker of a service: closed, open, half-open, on its error rate.
//!
//! Atomics only. Two counters fill a window; when it is full they start over, so the rate is that
//! of the present window, as soon as it has enough requests to mean something.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use selvedge_contract::defaults::upstream::BREAKER_WINDOW;
use tokio::time::Instant;

use crate::error::ErrorKind;

use super::atomic::{AtomicU32, AtomicU64};
use super::endpoint::millis;
use super::outcomes::Failing;

/// How a try ended, as breaker and ejection see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint did its work.
    Success,
    /// The endpoint failed: no connection, no answer, 502, 503, 504.
    Failure(Failing),
    /// Says nothing about the endpoint: the client went away, a limit of ours.
    Neutral,
    /// It had no room for it. Once in a while that is as it should be; always, it is of no use.
    Full,
}

impl Verdict {
    /// Whether the time that it took is the time that the endpoint takes: a refusal is quicker than that.
    pub(super) const fn tells_time(self) -> bool {
        use ErrorKind::{RequestTimeout, UpstreamTimeout};
        matches!(
            self,
            Self::Success | Self::Failure(Failing::Error(RequestTimeout | UpstreamTimeout))
        )
    }
}

/// When the circuit opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSpec {
    /// Failed share in percent.
    pub error_rate: u32,
    /// Requests in the window before the rate counts.
    pub min_requests: u32,
    /// How long it stays open.
    pub open: Duration,
}

const CLOSED: u64 = 0;
/// A probe is on its way.
const HALF_OPEN: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub struct Breaker {
    spec: Option<BreakerSpec>,
    /// [`CLOSED`], [`HALF_OPEN`], or the time (ms) at which a probe may go.
    state: AtomicU64,
    window_start: AtomicU64,
    total: AtomicU32,
    failed: AtomicU32,
}

/// State in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests pass.
    Closed,
    /// Requests are refused.
    Open,
    /// One request is out to see.
    HalfOpen,
}

impl Breaker {
    /// A closed breaker; without a spec it never opens.
    #[must_use]
    pub const fn new(spec: Option<BreakerSpec>) -> Self {
        Self {
            spec,
            state: AtomicU64::new(CLOSED),
            window_start: AtomicU64::new(0),
            total: AtomicU32::new(0),
            failed: AtomicU32::new(0),
        }
    }

    /// State.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match self.state.load(Relaxed) {
            CLOSED => BreakerState::Closed,
            HALF_OPEN => BreakerState::HalfOpen,
            _ => BreakerState::Open,
        }
    }

    /// Lets a request pass; `true` means that it is the probe.
    ///
    /// # Errors
    /// [`ErrorKind::BreakerOpen`].
    pub fn admit(&self, now: Instant) -> Result<bool, ErrorKind> {
        let state = self.state.load(Relaxed);
        if state == CLOSED {
            return Ok(false);
        }
        if state == HALF_OPEN || millis(now) < state {
            return Err(ErrorKind::BreakerOpen);
        }
        // Exactly one of all who come now wins the exchange and probes.
        self.state
            .compare_exchange(state, HALF_OPEN, Relaxed, Relaxed)
            .map(|_| true)
            .map_err(|_| ErrorKind::BreakerOpen)
    }

    /// The probe came to nothing: the next request may probe at once.
    pub fn cancel_probe(&self) {
        let _ = self.state.compare_exchange(HALF_OPEN, 1, Relaxed, Relaxed);
    }

    /// Takes note of how a request ended.
    pub fn observe(&self, verdict: Verdict, probe: bool, now: Instant) {
        let Some(spec) = self.spec else { return };
        if matches!(verdict, Verdict::Neutral | Verdict::Full) {
            if probe {
                self.cancel_probe();
            }
            return;
        }
        let failed = matches!(verdict, Verdict::Failure(_));
        let now = millis(now);
        if probe {
            let next = if failed { now + open_ms(spec) } else { CLOSED };
            self.reset(now);
            self.state.store(next, Relaxed);
            return;
        }
        if now.saturating_sub(self.window_start.load(Relaxed)) > window_ms() {
            self.reset(now);
        }
        let total = self.total.fetch_add(1, Relaxed) + 1;
        let failures = self.failed.fetch_add(u32::from(failed), Relaxed) + u32::from(failed);
        let over = u64::from(failures) * 100 >= u64::from(total) * u64::from(spec.error_rate);
        if failed && total >= spec.min_requests && over {
            let _ = self
                .state
                .compare_exchange(CLOSED, now + open_ms(spec), Relaxed, Relaxed);
        }
    }

    fn reset(&self, now: u64) {
        self.window_start.store(now, Relaxed);
        self.total.store(0, Relaxed);
        self.failed.store(0, Relaxed);
    }
}

fn open_ms(spec: BreakerSpec) -> u64 {
    u64::try_from(spec.open.as_millis()).unwrap_or(u64::MAX / 2)
}

fn window_ms() -> u64 {
    u64::try_from(BREAKER_WINDOW.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILURE: Verdict = Verdict::Failure(Failing::Status(503));
    const SPEC: BreakerSpec = BreakerSpec {
        error_rate: 50,
        min_requests: 4,
        open: Duration::from_secs(5),
    };

    #[test]
    fn opens_probes_once_and_closes() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let breaker = Breaker::new(Some(SPEC));
        for failed in [false, true, false] {
            assert_eq!(breaker.admit(at(0)), Ok(false));
            let verdict = if failed { FAILURE } else { Verdict::Success };
            breaker.observe(verdict, false, at(0));
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        breaker.observe(FAILURE, false, at(0));
        assert_eq!(breaker.admit(at(1)), Err(ErrorKind::BreakerOpen));
        // One probe, and only one.
        assert_eq!(breaker.admit(at(6)), Ok(true));
        assert_eq!(breaker.admit(at(6)), Err(ErrorKind::BreakerOpen));
        // A failed probe opens again, a good one closes.
        breaker.observe(FAILURE, true, at(6));
        assert_eq!(breaker.admit(at(10)), Err(ErrorKind::BreakerOpen));
        assert_eq!(breaker.admit(at(12)), Ok(true));
        breaker.observe(Verdict::Success, true, at(12));
        assert_eq!(breaker.admit(at(12)), Ok(false));
    }

    #[test]
    fn a_cancelled_probe_never_sticks() {
        let start = Instant::now();
        let breaker = Breaker::new(Some(SPEC));
        for _ in 0..4 {
            breaker.observe(FAILURE, false, start);
        }
        let later = start + Duration::from_secs(6);
        for _ in 0..10_000 {
            assert_eq!(breaker.admit(later), Ok(true));
            breaker.cancel_probe();
        }
    }

    #[test]
    fn old_failures_are_forgotten() {
        let start = Instant::now();
        let breaker = Breaker::new(Some(SPEC));
        for _ in 0..3 {
            breaker.observe(FAILURE, false, start);
        }
        breaker.observe(FAILURE, false, start + Duration::from_secs(11));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
