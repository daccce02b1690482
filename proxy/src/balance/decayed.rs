//! Part of stage 7, balance: a figure of an endpoint that fades with time, in one atomic word, so that
//! every worker writes it and every pick reads it without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A figure, and when it was last written.
///
/// The upper half is the time in milliseconds (it wraps after 49 days, which a difference does not
/// mind), the lower half the figure as `f32`: six digits are more than a choice needs.
#[derive(Debug, Default)]
pub(super) struct Decayed(AtomicU64);

/// What is in the word.
#[derive(Debug, Clone, Copy)]
struct Written {
    at: u32,
    figure: f32,
}

/// The clock of these figures: the low 32 bits of the milliseconds, of which 0 means "never".
#[expect(clippy::cast_possible_truncation, reason = "it wraps, see `Decayed`")]
const fn clock(millis: u64) -> u32 {
    let at = millis as u32;
    if at == 0 { 1 } else { at }
}

impl Written {
    const fn of(word: u64) -> Option<Self> {
        let at = (word >> 32) as u32;
        if at == 0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        let figure = f32::from_bits(word as u32);
        Some(Self { at, figure })
    }

    const fn word(self) -> u64 {
        ((self.at as u64) << 32) | self.figure.to_bits() as u64
    }

    /// What is left of 1 after the time since, with this time constant in milliseconds.
    fn left(self, now: u32, constant: f32) -> f32 {
        let passed = now.wrapping_sub(self.at);
        // A worker may be a moment behind the one that wrote.
        if passed > u32::MAX / 2 {
            return 1.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "milliseconds; six digits do")]
        let passed = passed as f32;
        (-passed / constant).exp()
    }
}

impl Decayed {
    /// A peak-sensitive average: a sample over it takes its place at once, one below it pulls it down
    /// by the time since the last one. `constant` is in milliseconds.
    pub(super) fn peak(&self, sample: f32, millis: u64, constant: f32) {
        let now = clock(millis);
        self.renew(|old| {
            let figure = match old {
                Some(old) if sample < old.figure => {
                    let left = old.left(now, constant);
                    old.figure.mul_add(left, sample * (1.0 - left))
                }
                _ => sample,
            };
            Written { at: now, figure }
        });
    }

    /// Adds to a sum that fades.
    pub(super) fn add(&self, amount: f32, millis: u64, constant: f32) {
        let now = clock(millis);
        self.renew(|old| {
            let before = old.map_or(0.0, |old| old.figure * old.left(now, constant));
            let figure = before + amount;
            Written { at: now, figure }
        });
    }

    /// Puts a figure in place of the old one.
    pub(super) fn set(&self, figure: f32, millis: u64) {
        let at = clock(millis);
        self.0.store(Written { at, figure }.word(), Relaxed);
    }

    /// The figure as it has faded by now; `None` where none was ever written.
    pub(super) fn faded(&self, millis: u64, constant: f32) -> Option<f32> {
        let written = Written::of(self.0.load(Relaxed))?;
        Some(written.figure * written.left(clock(millis), constant))
    }

    /// The figure as it was written, if that is no longer ago than `most` milliseconds.
    pub(super) fn fresh(&self, millis: u64, most: u32) -> Option<f32> {
        let written = Written::of(self.0.load(Relaxed))?;
        let passed = clock(millis).wrapping_sub(written.at);
        (passed <= most || passed > u32::MAX / 2).then_some(written.figure)
    }

    fn renew(&self, next: impl Fn(Option<Written>) -> Written) {
        let mut old = self.0.load(Relaxed);
        // Whoever loses against another worker's sample takes its own into account again.
        while let Err(other) =
            self.0
                .compare_exchange_weak(old, next(Written::of(old)).word(), Relaxed, Relaxed)
        {
            old = other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let figure = Decayed::default();
        assert_eq!(figure.faded(5, 10_000.0), None);
        figure.peak(20.0, 1000, 10_000.0);
        figure.peak(500.0, 1001, 10_000.0);
        assert_eq!(figure.faded(1001, 10_000.0), Some(500.0));
        let later = figure.faded(11_001, 10_000.0).unwrap();
        assert!((later - 500.0 / std::f32::consts::E).abs() < 0.1, "{later}");
        figure.peak(20.0, 11_001, 10_000.0);
        let pulled = figure.faded(11_001, 10_000.0).unwrap();
        assert!((pulled - 196.6).abs() < 0.5, "{pulled}");
    }

    #[test]
    fn a_report_is_stale_after_its_time_and_the_clock_may_wrap() {
        let figure = Decayed::default();
        let wrap = u64::from(u32::MAX);
        figure.set(0.5, wrap - 10);
        assert_eq!(figure.fresh(wrap + 20, 100), Some(0.5));
        assert_eq!(figure.fresh(wrap + 120, 100), None);
    }
}
