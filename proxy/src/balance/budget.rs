//! The retry budget of a service: retries may add a share of the live requests, and a few a second
//! on top, so that a failing service is not buried under its own retries.

use std::sync::atomic::Ordering::Relaxed;

use selvedge_contract::defaults::upstream::{BUDGET_RATE, BUDGET_SHARE};
use tokio::time::Instant;

use super::atomic::AtomicU64;
use super::endpoint::millis;

/// What one request earns and one retry costs, in hundredths of a retry.
const COST: u64 = 100;
/// The most that is saved up: ten seconds' worth of the fixed rate.
const CEILING: u64 = BUDGET_RATE as u64 * COST * 10;

/// A token bucket in hundredths of a retry: requests and time fill it, retries empty it.
#[derive(Debug, Default)]
pub struct Budget {
    tokens: AtomicU64,
    refilled: AtomicU64,
}

impl Budget {
    /// A request begins: it earns its share of a retry.
    pub fn earn(&self) {
        // In one step: a store of what was read would undo what others have put in or taken out.
        if self.tokens.load(Relaxed) < CEILING {
            self.tokens.fetch_add(u64::from(BUDGET_SHARE), Relaxed);
        }
    }

    /// Takes one retry out, if there is one.
    pub fn spend(&self, now: Instant) -> bool {
        self.refill(millis(now));
        self.tokens
            .fetch_update(Relaxed, Relaxed, |have| have.checked_sub(COST))
            .is_ok()
    }

    /// Whole retries that are saved up.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.tokens.load(Relaxed) / COST
    }

    fn refill(&self, now: u64) {
        let last = self.refilled.load(Relaxed);
        // The first second's worth is there from the start.
        let passed = if last == 0 {
            1000
        } else {
            now.saturating_sub(last)
        };
        let earned = passed * u64::from(BUDGET_RATE) * COST / 1000;
        if earned == 0
            || self
                .refilled
                .compare_exchange(last, now, Relaxed, Relaxed)
                .is_err()
        {
            return;
        }
        let _ = self.tokens.fetch_update(Relaxed, Relaxed, |have| {
            Some((have + earned).min(CEILING.max(have)))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_share_of_requests_and_a_rate() {
        let start = Instant::now();
        let budget = Budget::default();
        let spend = |at: Instant| (0..1000).take_while(|_| budget.spend(at)).count();
        assert_eq!(spend(start), 10, "the first second's worth");
        assert_eq!(spend(start), 0);
        for _ in 0..100 {
            budget.earn();
        }
        assert_eq!(spend(start), 20, "a fifth of the requests");
        assert_eq!(spend(start + Duration::from_secs(2)), 20, "ten a second");
        assert_eq!(spend(start + Duration::from_secs(600)), 100, "bounded");
    }
}
