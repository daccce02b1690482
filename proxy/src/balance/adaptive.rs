//! Part of stage 7, balance: how many requests a service may have been sent and not answered yet, found out from
//! how long it takes to answer. While it answers as fast as it can, the limit rises; where it takes longer than
//! that by more than half, requests wait in it without being worked on, and the limit falls.
//!
//! The idea is that of congestion control by delay (TCP Vegas, and the gradient limits of Netflix and Envoy).
//! All counts are over all workers; nothing is locked. Times are those to the head of the answer.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use selvedge_contract::defaults::adaptive::{
    FIRST_LOOK, LEAST_SAMPLES, LONGEST_LOOK, OUTLIER, PERIOD, START, TOLERANCE, WINDOW,
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
/// Few are let in, and what was sent before is still being answered.
const DRAINING: u32 = 1;
/// What is answered now was sent with little else to do.
const LOOKING: u32 = 2;

/// See the module.
#[derive(Debug)]
pub struct Adaptive {
    min: AtomicU32,
    max: AtomicU32,
    limit: AtomicU32,
    waiting: AtomicU32,
    /// Which part of its life this is: another with each look, and with each part of one. Requests carry it.
    epoch: AtomicU32,
    /// Of those that wait, the ones of this epoch; and the ones from before the look.
    fresh: AtomicU32,
    ahead: AtomicU32,
    /// How many were ahead when it was last looked at.
    ahead_before: AtomicU32,
    /// Most of the present epoch that may wait while a look lasts.
    few: AtomicU32,
    /// Of the present window: most that waited, answers, and the time that they took together in microseconds.
    peak: AtomicU32,
    count: AtomicU32,
    sum: AtomicU64,
    /// When it ends, in milliseconds; 0 before the first. And when a look is given up.
    ends: AtomicU64,
    give_up: AtomicU64,
    /// What an answer takes when nothing waits, in microseconds; `u64::MAX`: not known.
    unloaded: AtomicU64,
    /// The lowest average of a window since the last look.
    lowest: AtomicU64,
    /// When the next look is due, and how long after that the one behind it.
    look_at: AtomicU64,
    pause: AtomicU64,
    phase: AtomicU32,
}

impl Adaptive {
    /// Begins in between.
    #[must_use]
    pub fn new(spec: AdaptiveSpec) -> Self {
        let zero = || AtomicU32::new(0);
        Self {
            min: AtomicU32::new(spec.min),
            max: AtomicU32::new(spec.max),
            limit: AtomicU32::new(START.max(spec.min).min(spec.max)),
            waiting: zero(),
            epoch: zero(),
            fresh: zero(),
            ahead: zero(),
            ahead_before: zero(),
            few: zero(),
            peak: zero(),
            count: zero(),
            sum: AtomicU64::new(0),
            ends: AtomicU64::new(0),
            give_up: AtomicU64::new(0),
            unloaded: AtomicU64::new(u64::MAX),
            lowest: AtomicU64::new(u64::MAX),
            look_at: AtomicU64::new(0),
            pause: AtomicU64::new(FIRST_LOOK),
            phase: AtomicU32::new(STEADY),
        }
    }

    /// Goes on between other limits.
    pub(super) fn retune(&self, spec: AdaptiveSpec) {
        self.min.store(spec.min, Relaxed);
        self.max.store(spec.max, Relaxed);
        let limit = self.limit().max(spec.min).min(spec.max);
        self.limit.store(limit, Relaxed);
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

    /// One more waits, if its class may; gives what it has to say when it [leaves](Self::leave).
    pub(super) fn admit(&self, class: Class, now: Instant) -> Result<u32, ErrorKind> {
        let phase = self.phase.load(Relaxed);
        if phase != STEADY {
            // Also where nothing is answered any more: who is turned away turns the page.
            self.looks_on(phase, millis(now));
        }
        let waiting = self.waiting.fetch_add(1, Relaxed);
        let steady = self.phase.load(Relaxed) == STEADY;
        // While a look lasts, what was let in before is no measure: some of it may never be answered.
        let (ours, most) = if steady {
            (waiting, self.limit())
        } else {
            (self.fresh.load(Relaxed), self.few.load(Relaxed))
        };
        if ours >= class.share(most) {
            self.waiting.fetch_sub(1, Relaxed);
            // Who is turned away shows as well that there is more to do than the limit lets through.
            self.peak.fetch_max(waiting, Relaxed);
            if steady {
                self.waits_in_vain(millis(now));
            }
            return Err(ErrorKind::Shed);
        }
        self.peak.fetch_max(waiting + 1, Relaxed);
        self.fresh.fetch_add(1, Relaxed);
        Ok(self.epoch.load(Relaxed))
    }

    /// Nothing has been answered for a while: what waits is no queue that is worked on (long polls, say), and
    /// a limit that counts it would let nobody through for as long as it lasts.
    fn waits_in_vain(&self, now: u64) {
        let ends = self.ends.load(Relaxed);
        if ends != 0 && (now < ends + 4 * WINDOW || self.count.load(Relaxed) > 0) {
            return;
        }
        // Before the first window it is a second from now.
        let next = if ends == 0 {
            now + WINDOW
        } else {
            now - 3 * WINDOW
        };
        let won = self.ends.compare_exchange(ends, next, Relaxed, Relaxed);
        if won.is_ok() && ends != 0 {
            let limit = self.limit();
            let more = limit.saturating_add(limit.isqrt().max(1));
            self.limit.store(more.min(self.max.load(Relaxed)), Relaxed);
        }
    }

    /// One waits no more.
    pub(super) fn leave(&self, epoch: u32) {
        self.waiting.fetch_sub(1, Relaxed);
        let of = if epoch == self.epoch.load(Relaxed) {
            &self.fresh
        } else {
            &self.ahead
        };
        // Two may disagree for a moment about what is the present: no count goes below nothing.
        let _ = of.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
    }

    /// An answer took so long, to a request of that epoch.
    pub(super) fn answered(&self, took: Duration, epoch: u32, now: Instant) {
        let (micros, now) = (
            u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            millis(now),
        );
        let phase = self.phase.load(Relaxed);
        if phase == STEADY {
            // One that is long for reasons of its own says nothing of the others.
            let longest = self.unloaded.load(Relaxed).saturating_mul(OUTLIER);
            self.sum.fetch_add(micros.min(longest), Relaxed);
            let count = self.count.fetch_add(1, Relaxed) + 1;
            let ends = self.ends.load(Relaxed);
            if ends == 0 || (now >= ends && count >= LEAST_SAMPLES) {
                let won = self
                    .ends
                    .compare_exchange(ends, now + WINDOW, Relaxed, Relaxed);
                if won.is_ok() && ends != 0 {
                    self.conclude(now);
                }
            }
            return;
        }
        if phase == LOOKING && epoch == self.epoch.load(Relaxed) {
            let count = self.count.fetch_add(1, Relaxed) + 1;
            if count > self.skipped() {
                self.sum.fetch_add(micros, Relaxed);
            }
        }
        self.looks_on(phase, now);
    }

    /// Answers of a look that do not count: these requests came behind those that were let in before it.
    fn skipped(&self) -> u32 {
        self.few.load(Relaxed).saturating_mul(2)
    }

    /// Of all workers that see that something is over, one does what follows.
    fn turns(&self, from: u32, to: u32) -> bool {
        let turned = self.phase.compare_exchange(from, to, Relaxed, Relaxed);
        turned.is_ok()
    }

    /// Another epoch: what waits is of the one before.
    fn begin(&self, now: u64) {
        self.count.store(0, Relaxed);
        self.sum.store(0, Relaxed);
        self.epoch.fetch_add(1, Relaxed);
        self.fresh.store(0, Relaxed);
        self.ahead.store(self.waiting(), Relaxed);
        self.ahead_before.store(u32::MAX, Relaxed);
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
        let (limit, min) = (self.limit(), self.min.load(Relaxed));
        self.lowest.fetch_min(took, Relaxed);
        let unloaded = self.unloaded.load(Relaxed);
        if took < unloaded {
            // Not all at once: a few that are cheap are not what the service does.
            let lower = if unloaded == u64::MAX {
                took
            } else {
                unloaded - (unloaded - took) / 8
            };
            self.unloaded.store(lower, Relaxed);
        }
        let pressed = peak.saturating_mul(2) >= limit;
        let look_at = self.look_at.load(Relaxed);
        // At the bottom a look costs nothing, and may show that it is not the bottom.
        let look_at = if pressed && limit <= min {
            look_at.min(now + FIRST_LOOK)
        } else {
            look_at
        };
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
        } else {
            self.look_at.store(look_at, Relaxed);
        }
        self.limit.store(self.next(limit, took, pressed), Relaxed);
    }

    /// Lets few in for a moment: what an answer takes then is the measure from there on. A service that
    /// has become slower for good is not held against what it was.
    fn look(&self, limit: u32, now: u64) {
        self.few
            .store((limit / 8).max(self.min.load(Relaxed)), Relaxed);
        self.begin(now);
        self.give_up.store(now + LONGEST_LOOK, Relaxed);
        self.phase.store(DRAINING, Relaxed);
    }

    /// Goes on with a look, where it is time.
    fn looks_on(&self, phase: u32, now: u64) {
        let given_up = now >= self.give_up.load(Relaxed);
        if phase == DRAINING {
            let ahead = self.ahead.load(Relaxed);
            let ends = self.ends.load(Relaxed);
            let drained = ahead <= self.few.load(Relaxed);
            if !drained && !given_up {
                if now < ends {
                    return;
                }
                let next = self
                    .ends
                    .compare_exchange(ends, now + WINDOW, Relaxed, Relaxed);
                // What was not answered for a whole window is not being worked on.
                if next.is_err() || self.ahead_before.swap(ahead, Relaxed) != ahead {
                    return;
                }
            }
            if given_up {
                self.ends_look(DRAINING, None, now);
            } else if self.turns(DRAINING, LOOKING) {
                self.begin(now);
            }
        } else if phase == LOOKING {
            let count = self.count.load(Relaxed).saturating_sub(self.skipped());
            let enough = count >= LEAST_SAMPLES;
            let some = count >= LEAST_SAMPLES / 3 && now >= self.ends.load(Relaxed) + 3 * WINDOW;
            if enough || some {
                let took = self.sum.load(Relaxed) / u64::from(count.max(1));
                self.ends_look(LOOKING, Some(took.max(1)), now);
            } else if given_up {
                self.ends_look(LOOKING, None, now);
            }
        }
    }

    /// The look is over: this is what an answer took when little else was to do, if that was seen.
    fn ends_look(&self, phase: u32, took: Option<u64>, now: u64) {
        if !self.turns(phase, STEADY) {
            return;
        }
        let mut pause = (self.pause.load(Relaxed) * 2).min(PERIOD);
        if let Some(took) = took {
            let before = self.unloaded.swap(took, Relaxed);
            // While each look finds less than the one before, there was still something waiting.
            if took.saturating_mul(10) < before.saturating_mul(9) {
                pause = FIRST_LOOK;
            }
        }
        self.lowest.store(u64::MAX, Relaxed);
        self.pause.store(pause, Relaxed);
        self.look_at.store(now + pause, Relaxed);
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
        next.max(self.min.load(Relaxed)).min(self.max.load(Relaxed))
    }
}

#[cfg(test)]
mod tests;
