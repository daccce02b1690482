//! Part of stage 6, policy: how often a policy has let in and kept out, for those who look at metrics.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Cells of a counter: so many threads count without waiting for each other's caches.
const CELLS: usize = 16;

/// What became of a request, or of a connection of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The policy lets it pass.
    Passed,
    /// The policy refused it.
    Refused,
    /// The policy would have refused it, were it in force.
    Audited,
}

impl Decision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Passed, Self::Refused, Self::Audited];

    /// One word, for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Audited => "audited",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Passed => 0,
            Self::Refused => 1,
            Self::Audited => 2,
        }
    }
}

/// Counters of one policy. They go on through reloads.
#[derive(Debug, Default)]
pub struct Decisions {
    cells: [Cells; CELLS],
}

/// Those of one thread, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cells([AtomicU64; 3]);

impl Decisions {
    /// Counts one.
    pub fn count(&self, decision: Decision) {
        if let Some(cells) = self.cells.get(thread() % CELLS)
            && let Some(cell) = cells.0.get(decision.index())
        {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// How many there were.
    #[must_use]
    pub fn of(&self, decision: Decision) -> u64 {
        let cells = self.cells.iter();
        let counts = cells.filter_map(|cells| cells.0.get(decision.index()));
        counts.map(|cell| cell.load(Relaxed)).sum()
    }
}

/// A number for this thread, the same each time.
fn thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.with(|own| {
        own.get().unwrap_or_else(|| {
            let number = NEXT.fetch_add(1, Relaxed);
            own.set(Some(number));
            number
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_together() {
        let decisions = Decisions::default();
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    decisions.count(Decision::Passed);
                    decisions.count(Decision::Audited);
                    decisions.count(Decision::Passed);
                });
            }
        });
        let counts = Decision::ALL.map(|decision| decisions.of(decision));
        assert_eq!(counts, [40, 0, 20]);
    }
}
