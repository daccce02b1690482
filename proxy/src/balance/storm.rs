//! Whether a storm of retries is under way behind this process. Each hop may add a fifth to what it passes on, so
//! three hops would nearly double it: only the hop next to the failure retries while one lasts, and those
//! before it are told so with the failure.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use super::endpoint::millis;

/// It lasts for so many milliseconds after the last sign of it.
const LASTS: u64 = 1000;

/// See the module. One for the process: what a sidecar's application answers depends on what it was answered.
#[derive(Debug, Default)]
pub struct Storm(AtomicU64);

impl Storm {
    /// A retry was wanted and there was no budget for it, or somebody behind us says so.
    pub fn note(&self, now: Instant) {
        let now = millis(now);
        // Written once in a while, not for each of thousands of failures.
        let last = self.0.load(Relaxed);
        if last == 0 || now.saturating_sub(last) > LASTS / 4 {
            self.0.store(now, Relaxed);
        }
    }

    /// Whether it is under way.
    #[must_use]
    pub fn rages(&self, now: Instant) -> bool {
        let last = self.0.load(Relaxed);
        last != 0 && millis(now).saturating_sub(last) <= LASTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_ends_a_second_after_its_last_sign() {
        let (storm, now) = (Storm::default(), Instant::now());
        assert!(!storm.rages(now));
        storm.note(now);
        storm.note(now + Duration::from_millis(100));
        assert!(storm.rages(now + Duration::from_millis(1000)));
        storm.note(now + Duration::from_millis(900));
        assert!(storm.rages(now + Duration::from_millis(1800)));
        assert!(!storm.rages(now + Duration::from_millis(1950)));
    }
}
