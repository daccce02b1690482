//! Part of stage 7, balance: what active checks have found of an endpoint. Checks write it, picks read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// As it should.
    Good,
    /// The endpoint says that it can do less than it should.
    Degraded,
    /// The endpoint failed it.
    Bad,
}

impl CheckResult {
    /// All there are, in order.
    pub const ALL: [Self; 3] = [Self::Good, Self::Degraded, Self::Bad];

    /// As metrics and the admin have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Degraded => "degraded",
            Self::Bad => "bad",
        }
    }
}

/// What the last check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// When.
    pub at: SystemTime,
    /// How it ended.
    pub result: CheckResult,
    /// What it was, in words.
    pub text: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Checked {
    unhealthy: AtomicBool,
    /// Percent of its share that it does not get, as it says that it is degraded.
    withheld: AtomicU32,
    last: ArcSwapOption<Finding>,
}

impl Checked {
    pub(super) fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Relaxed)
    }

    /// How much of its share it gets, of 1.
    #[expect(clippy::cast_precision_loss, reason = "percents")]
    pub(super) fn part(&self) -> f32 {
        (100 - self.withheld.load(Relaxed).min(99)) as f32 / 100.0
    }

    /// Says whether anything has changed that picks go by.
    pub(super) fn set(&self, unhealthy: bool, withheld: u32) -> bool {
        let was = self.unhealthy.swap(unhealthy, Relaxed);
        let had = self.withheld.swap(withheld, Relaxed);
        (was, had) != (unhealthy, withheld)
    }

    /// Goes on as this one was.
    pub(super) fn adopt(&self, before: &Self) {
        self.set(before.is_unhealthy(), before.withheld.load(Relaxed));
        self.last.store(before.last());
    }

    pub(super) fn note(&self, finding: Finding) {
        self.last.store(Some(Arc::new(finding)));
    }

    pub(super) fn last(&self) -> Option<Arc<Finding>> {
        self.last.load_full()
    }
}
