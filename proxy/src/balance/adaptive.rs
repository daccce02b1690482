//! Part of stage 7, balance: how many requests a service may have been sent and not answered yet, found out from
//! how long it takes to answer. While it answers as fast as it can, the limit rises; where it takes longer than
//! that by more than half, requests wait in it without being worked on, and the limit falls.
//!
//! The idea is that of congestion control by delay (TCP Vegas, and the gradient limits of Netflix and Envoy).
//! All counts are over all workers; nothing is locked. Times are those to the head of the answer.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use selvedge_contract::defaults::adaptive::{
    FIRST_LOOK, LEAST_SAMPLES, LONGEST_DRAIN, OUTLIER, PERIOD, START, TOLERANCE, WINDOW,
};
use tokio::time::Instant;

use crate::error::ErrorKind;

use super::atomic::{AtomicU32, AtomicU64};
use super::class::Class;
use super::endpoint::millis;

/// Between which limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveSpec {
    /// Never fewer than this.
    pub min: u32,
    /// Never more.
    pub max: u32,
}

/// What is being done about the limit.
const STEADY: u32 = 0;
/// It was cut down, and what was sent before is still being answered.
const DRAINING: u32 = 1;
/// What is answered now was sent with little else to do.
const LOOKING: u32 = 2;

/// See the module.
#[derive(Debug)]
pub struct Adaptive {
    spec: AdaptiveSpec,
    limit: AtomicU32,
    waiting: AtomicU32,
    /// Of the present window: most that waited, answers, and the time that they took together in microseconds.
    peak: AtomicU32,
    count: AtomicU32,
    sum: AtomicU64,
    /// When it ends, in milliseconds; 0 before the first.
    ends: AtomicU64,
    /// What an answer takes when nothing waits, in microseconds; `u64::MAX`: not known.
    unloaded: AtomicU64,
    /// The lowest average of a window since the last look.
    lowest: AtomicU64,
    /// When the next look is due, and how long after that the one behind it.
    look_at: AtomicU64,
    pause: AtomicU64,
    phase: AtomicU32,
    /// Answers to what was sent before the look.
    ahead: AtomicU32,
    /// The limit to go back to.
    before: AtomicU32,
}

impl Adaptive {
    /// Begins in between.
    #[must_use]
    pub fn new(spec: AdaptiveSpec) -> Self {
        Self {
            spec,
            limit: AtomicU32::new(START.max(spec.min).min(spec.max)),
            waiting: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            count: AtomicU32::new(0),
            sum: AtomicU64::new(0),
            ends: AtomicU64::new(0),
            unloaded: AtomicU64::new(u64::MAX),
            lowest: AtomicU64::new(u64::MAX),
            look_at: AtomicU64::new(0),
            pause: AtomicU64::new(FIRST_LOOK),
            phase: AtomicU32::new(STEADY),
            ahead: AtomicU32::new(0),
            before: AtomicU32::new(0),
        }
    }

    /// As configured.
    #[must_use]
    pub const fn spec(&self) -> AdaptiveSpec {
        self.spec
    }

    /// The limit as it is.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Requests that have no answer yet.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// How long an answer takes when nothing waits, as far as it is known.
    #[must_use]
    pub fn unloaded(&self) -> Option<Duration> {
        let micros = self.unloaded.load(Relaxed);
        (micros < u64::MAX).then(|| Duration::from_micros(micros))
    }

    /// One more waits, if its class may.
    pub(super) fn admit(&self, class: Class) -> Result<(), ErrorKind> {
        let waiting = self.waiting.fetch_add(1, Relaxed);
        if waiting >= class.share(self.limit()) {
            self.waiting.fetch_sub(1, Relaxed);
            // Who is turned away shows as well that there is more to do than the limit lets through.
            self.peak.fetch_max(waiting, Relaxed);
            return Err(ErrorKind::Shed);
        }
        self.peak.fetch_max(waiting + 1, Relaxed);
        Ok(())
    }

    /// One waits no more.
    pub(super) fn leave(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// An answer took so long.
    pub(super) fn answered(&self, took: Duration, now: Instant) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // One that is long for reasons of its own says nothing of the others.
        let longest = self.unloaded.load(Relaxed).saturating_mul(OUTLIER);
        self.sum.fetch_add(micros.min(longest), Relaxed);
        let count = self.count.fetch_add(1, Relaxed) + 1;
        let (now, ends) = (millis(now), self.ends.load(Relaxed));
        match self.phase.load(Relaxed) {
            DRAINING if count >= self.ahead.load(Relaxed) || now >= ends => {
                self.begins_to_look(now);
            }
            LOOKING if count >= LEAST_SAMPLES || now >= ends => self.looked(now),
            STEADY if ends == 0 || (now >= ends && count >= LEAST_SAMPLES) => {
                let next = now + WINDOW;
                let won = self.ends.compare_exchange(ends, next, Relaxed, Relaxed);
                if won.is_ok() && ends != 0 {
                    self.conclude(now);
                }
            }
            _ => {}
        }
    }

    /// Of all workers that see that something is over, one does what follows.
    fn turns(&self, from: u32, to: u32) -> bool {
        let turned = self.phase.compare_exchange(from, to, Relaxed, Relaxed);
        turned.is_ok()
    }

    fn begin(&self, now: u64) {
        self.count.store(0, Relaxed);
        self.sum.store(0, Relaxed);
        self.ends.store(now + WINDOW, Relaxed);
    }

    /// The average of what was answered, which is none any more.
    fn take(&self) -> u64 {
        let count = u64::from(self.count.swap(0, Relaxed)).max(1);
        (self.sum.swap(0, Relaxed) / count).max(1)
    }

    /// A window is over.
    fn conclude(&self, now: u64) {
        let took = self.take();
        let peak = self.peak.swap(self.waiting(), Relaxed);
        let limit = self.limit();
        self.lowest.fetch_min(took, Relaxed);
        self.unloaded.fetch_min(took, Relaxed);
        let pressed = peak.saturating_mul(2) >= limit;
        let look_at = self.look_at.load(Relaxed);
        if look_at == 0 {
            self.look_at.store(now + FIRST_LOOK, Relaxed);
        } else if now >= look_at {
            if pressed {
                self.look(limit, now);
                return;
            }
            // Nothing pressed: the least of what was seen is what it takes, also where that is more than once.
            let lowest = self.lowest.swap(u64::MAX, Relaxed);
            self.unloaded.store(lowest, Relaxed);
            self.look_at.store(now + PERIOD, Relaxed);
        }
        self.limit.store(self.next(limit, took, pressed), Relaxed);
    }

    /// Cuts the limit down for a moment: what an answer takes then is the measure from there on. A service that
    /// has become slower for good is not held against what it was.
    fn look(&self, limit: u32, now: u64) {
        self.before.store(limit, Relaxed);
        self.ahead.store(self.waiting(), Relaxed);
        self.limit.store((limit / 8).max(self.spec.min), Relaxed);
        self.begin(now);
        self.ends.store(now + LONGEST_DRAIN, Relaxed);
        self.phase.store(DRAINING, Relaxed);
    }

    /// What was sent before is answered.
    fn begins_to_look(&self, now: u64) {
        if self.turns(DRAINING, LOOKING) {
            self.begin(now);
        }
    }

    /// What was seen when little else was to do.
    fn looked(&self, now: u64) {
        if !self.turns(LOOKING, STEADY) {
            return;
        }
        let took = self.take();
        let before = self.unloaded.swap(took, Relaxed);
        self.lowest.store(u64::MAX, Relaxed);
        // While each look finds less than the one before, there was still something waiting.
        let found_less = took.saturating_mul(10) < before.saturating_mul(9);
        let pause = if found_less {
            FIRST_LOOK
        } else {
            (self.pause.load(Relaxed) * 2).min(PERIOD)
        };
        self.pause.store(pause, Relaxed);
        self.look_at.store(now + pause, Relaxed);
        self.limit.store(self.before.load(Relaxed), Relaxed);
        self.begin(now);
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "times of up to hours and limits of up to millions, and the result is between two limits"
    )]
    fn next(&self, limit: u32, took: u64, pressed: bool) -> u32 {
        let unloaded = self.unloaded.load(Relaxed) as f64;
        let gradient = (unloaded * TOLERANCE / took as f64).clamp(0.5, 1.0);
        let room = f64::from(limit).sqrt();
        let next = (f64::from(limit) * gradient + room) as u32;
        // What was not tried is not known to be borne.
        let next = if pressed { next } else { next.min(limit) };
        next.max(self.spec.min).min(self.spec.max)
    }
}

#[cfg(test)]
mod tests;
