//! Rate limits: GCRA (the generic cell rate algorithm) over a bounded table of atomics.
//!
//! A key's state is one number, its theoretical arrival time: when the bucket would be empty again.
//! A request moves it on by its cost; it is admitted as long as that is no further ahead of now
//! than the burst allows. No lock, no background work, no memory per key beyond its slot.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// Slots that a key may use: a line of the processor's cache for tags, one for times.
const WAYS: usize = 8;
/// A slot that is being taken over.
const CLAIMED: u64 = 1;
const FREE: u64 = 0;

/// How much is allowed: `count` in `period`, and `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Nanoseconds that one request earns back, never 0.
    interval: u64,
    /// Requests at once, at least 1.
    burst: u64,
}

impl Quota {
    /// `count` requests in `period_ns` nanoseconds, `burst` of them at once. Zeros count as one;
    /// rates above one a nanosecond are that.
    #[must_use]
    pub const fn new(count: u64, period_ns: u64, burst: u64) -> Self {
        let count = if count == 0 { 1 } else { count };
        let interval = period_ns / count;
        Self {
            interval: if interval == 0 { 1 } else { interval },
            burst: if burst == 0 { 1 } else { burst },
        }
    }

    /// Requests at once.
    #[must_use]
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// Nanoseconds that one request earns back.
    #[must_use]
    pub const fn interval(&self) -> u64 {
        self.interval
    }

    /// Nanoseconds that an arrival time may be ahead of now.
    #[must_use]
    pub const fn window(&self) -> u64 {
        self.interval.saturating_mul(self.burst)
    }

    /// What somebody else's count, taken by the same rule, means.
    #[must_use]
    pub const fn verdict(&self, count: Count, cost: u64) -> Verdict {
        let window = self.window();
        let wait = match (count.admitted, cost > self.burst) {
            (true, _) => 0,
            (false, true) => u64::MAX,
            (false, false) => {
                let next = count
                    .ahead
                    .saturating_add(self.interval.saturating_mul(cost));
                next.saturating_sub(window)
            }
        };
        Verdict {
            admitted: count.admitted,
            remaining: window.saturating_sub(count.ahead) / self.interval,
            reset: count.ahead,
            wait,
        }
    }

    /// Judges a request of `cost` at `now` against an arrival time; gives the verdict and, where it
    /// is admitted, the next arrival time.
    #[must_use]
    pub const fn judge(&self, arrival: u64, now: u64, cost: u64) -> (Verdict, Option<u64>) {
        let base = if arrival > now { arrival } else { now };
        let next = base.saturating_add(self.interval.saturating_mul(cost));
        let ahead = next - now;
        let window = self.window();
        if ahead > window {
            let wait = if cost > self.burst {
                u64::MAX
            } else {
                ahead - window
            };
            let verdict = Verdict {
                admitted: false,
                remaining: window.saturating_sub(base - now) / self.interval,
                reset: base - now,
                wait,
            };
            return (verdict, None);
        }
        let verdict = Verdict {
            admitted: true,
            remaining: (window - ahead) / self.interval,
            reset: ahead,
            wait: 0,
        };
        (verdict, Some(next))
    }
}

/// What a shared store has counted for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// It may pass.
    pub admitted: bool,
    /// Nanoseconds that the arrival time is now ahead of the store's clock.
    pub ahead: u64,
}

/// A name for what is limited that is the same in every process: 128 bits of BLAKE3.
#[derive(Debug, Clone, Default)]
pub struct Fingerprint(blake3::Hasher);

impl Fingerprint {
    /// Adds a part.
    pub fn give(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    /// In hexadecimal.
    #[must_use]
    pub fn finish(&self) -> String {
        let hash = self.0.finalize().to_hex();
        hash.get(..32).unwrap_or_default().to_owned()
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It may pass.
    pub admitted: bool,
    /// Requests that could follow at once.
    pub remaining: u64,
    /// Nanoseconds until all of the burst is there again.
    pub reset: u64,
    /// Nanoseconds until this request would be admitted; `u64::MAX` for never.
    pub wait: u64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Set {
    tags: [AtomicU64; WAYS],
    arrivals: [AtomicU64; WAYS],
}

/// The states of many keys, in memory that does not grow.
///
/// A key may stand in one of eight slots. Where all eight are in use by keys that are not at rest,
/// the one nearest to rest makes room: it starts over, and may pass its burst once more. So a table
/// should have several times as many slots as there are busy keys.
#[derive(Debug)]
pub struct Table {
    sets: Box<[Set]>,
    keys: Keys,
}

/// Makes keys of what is counted apart. Keyed by chance: nobody outside can aim at a slot.
#[derive(Debug, Default)]
pub struct Keys(RandomState);

impl Keys {
    /// The key of something, from parts that are given one by one: the same for the same parts, from
    /// this one only.
    #[must_use]
    pub fn of(&self, parts: impl FnOnce(&mut dyn FnMut(&[u8]))) -> u64 {
        use std::hash::Hasher;
        let mut hasher = self.0.build_hasher();
        parts(&mut |part| {
            hasher.write_usize(part.len());
            hasher.write(part);
        });
        hasher.finish()
    }
}

impl Table {
    /// A table of at least `slots` slots (of 16 bytes each).
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let sets = slots.div_ceil(WAYS).next_power_of_two().max(1);
        Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            keys: Keys::default(),
        }
    }

    /// The key of something that is limited, from parts that are given one by one. The
    /// same parts give the same key in this table only.
    #[must_use]
    pub fn key(&self, parts: impl FnOnce(&mut dyn FnMut(&[u8]))) -> u64 {
        self.keys.of(parts).max(CLAIMED + 1)
    }

    /// Takes `cost` from a key's bucket at `now`, in nanoseconds of any clock that never goes back.
    /// Exact under concurrency once a key has its slot; while it gets one, each thread may pass once.
    #[must_use]
    pub fn take(&self, key: u64, quota: &Quota, now: u64, cost: u64) -> Verdict {
        let at = usize::try_from(key >> 32).unwrap_or(0) & (self.sets.len() - 1);
        let Some(set) = self.sets.get(at) else {
            // Cannot be: the index is masked.
            return quota.judge(0, now, cost).0;
        };
        let Some(arrival) = set.slot(key, now) else {
            return quota.judge(0, now, cost).0;
        };
        let mut seen = arrival.load(Acquire);
        loop {
            let (verdict, next) = quota.judge(seen, now, cost);
            let Some(next) = next else { return verdict };
            match arrival.compare_exchange_weak(seen, next, AcqRel, Acquire) {
                Ok(_) => return verdict,
                Err(other) => seen = other,
            }
        }
    }
}

impl Table {
    /// What [`Self::take`] would say, without taking anything.
    #[must_use]
    pub fn look(&self, key: u64, quota: &Quota, now: u64, cost: u64) -> Verdict {
        let at = usize::try_from(key >> 32).unwrap_or(0) & (self.sets.len() - 1);
        let slot = self.sets.get(at).and_then(|set| {
            let mut slots = set.tags.iter().zip(&set.arrivals);
            slots.find(|(tag, _)| tag.load(Acquire) == key)
        });
        let arrival = slot.map_or(0, |(_, arrival)| arrival.load(Acquire));
        quota.judge(arrival, now, cost).0
    }

    /// Takes `cost` whatever is left; gives the nanoseconds that the key is then ahead of `now`.
    #[must_use]
    pub fn push(&self, key: u64, quota: &Quota, now: u64, cost: u64) -> u64 {
        let at = usize::try_from(key >> 32).unwrap_or(0) & (self.sets.len() - 1);
        let Some(arrival) = self.sets.get(at).and_then(|set| set.slot(key, now)) else {
            return 0;
        };
        let more = quota.interval.saturating_mul(cost);
        let mut seen = arrival.load(Acquire);
        loop {
            let next = seen.max(now).saturating_add(more);
            match arrival.compare_exchange_weak(seen, next, AcqRel, Acquire) {
                Ok(_) => return next - now,
                Err(other) => seen = other,
            }
        }
    }

    /// Gives back what [`Self::push`] has taken.
    pub fn pull(&self, key: u64, quota: &Quota, cost: u64) {
        let at = usize::try_from(key >> 32).unwrap_or(0) & (self.sets.len() - 1);
        let slot = self.sets.get(at).and_then(|set| {
            let mut slots = set.tags.iter().zip(&set.arrivals);
            slots.find(|(tag, _)| tag.load(Acquire) == key)
        });
        if let Some((_, arrival)) = slot {
            let less = quota.interval.saturating_mul(cost);
            let back = |seen: u64| Some(seen.saturating_sub(less));
            let _ = arrival.fetch_update(AcqRel, Acquire, back);
        }
    }

    /// Follows a count that was taken elsewhere: this key's arrival time is at least so far ahead.
    pub fn follow(&self, key: u64, now: u64, ahead: u64) {
        let at = usize::try_from(key >> 32).unwrap_or(0) & (self.sets.len() - 1);
        if let Some(slot) = self.sets.get(at).and_then(|set| set.slot(key, now)) {
            slot.fetch_max(now.saturating_add(ahead), AcqRel);
        }
    }
}

impl Set {
    /// The slot of a key: its own, or one that is free or nearest to rest.
    fn slot(&self, key: u64, now: u64) -> Option<&AtomicU64> {
        loop {
            let mut rest: Option<(usize, u64, u64)> = None;
            for (at, (tag, arrival)) in self.tags.iter().zip(&self.arrivals).enumerate() {
                let tag = tag.load(Acquire);
                if tag == key {
                    return Some(arrival);
                }
                if tag == CLAIMED {
                    continue;
                }
                let busy = if tag == FREE {
                    0
                } else {
                    arrival.load(Relaxed).max(now)
                };
                if rest.is_none_or(|(_, _, least)| busy < least) {
                    rest = Some((at, tag, busy));
                }
            }
            // All eight are being taken over at this moment: the next look finds one.
            let (at, tag, _) = rest?;
            let (place, arrival) = (self.tags.get(at)?, self.arrivals.get(at)?);
            if place
                .compare_exchange(tag, CLAIMED, AcqRel, Acquire)
                .is_ok()
            {
                // Another thread may have put the same key elsewhere meanwhile: the first one counts.
                if self.tags.iter().any(|tag| tag.load(Acquire) == key) {
                    place.store(FREE, Release);
                    continue;
                }
                arrival.store(0, Release);
                place.store(key, Release);
                return Some(arrival);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_steady_excess_gets_rate_and_burst_and_no_more() {
        for (rate, burst, excess) in [(10, 1, 5), (100, 20, 5), (1000, 1000, 3), (7, 3, 50)] {
            let table = Table::new(64);
            let quota = Quota::new(rate, SECOND, burst);
            let key = table.key(|part| part(b"a"));
            let step = SECOND / (rate * excess);
            let mut admitted = 0;
            let mut now = 5;
            while now < 60 * SECOND {
                admitted += u64::from(table.take(key, &quota, now, 1).admitted);
                now += step;
            }
            let most = rate * 60 + burst;
            assert!(admitted <= most, "{admitted} of {most}");
            assert!(admitted * 100 >= most * 99, "{admitted} of {most}");
        }
    }

    #[test]
    fn what_it_says_is_what_happens() {
        let quota = Quota::new(60, 60 * SECOND, 3);
        let table = Table::new(8);
        let key = table.key(|part| part(b"a"));
        let left: Vec<u64> = (0..3)
            .map(|_| table.take(key, &quota, 0, 1).remaining)
            .collect();
        assert_eq!(left, [2, 1, 0]);
        let refused = table.take(key, &quota, 0, 1);
        assert_eq!((refused.admitted, refused.wait), (false, SECOND));
        assert_eq!(refused.reset, 3 * SECOND);
        assert!(!table.take(key, &quota, SECOND - 1, 1).admitted);
        assert!(table.take(key, &quota, SECOND, 1).admitted);
        // More than the burst can ever be.
        assert_eq!(table.take(key, &quota, 99 * SECOND, 4).wait, u64::MAX);
        assert!(table.take(key, &quota, 99 * SECOND, 3).admitted);
    }

    #[test]
    fn keys_do_not_share_and_a_full_table_stays_bounded() {
        let table = Table::new(8);
        let quota = Quota::new(1, SECOND, 1);
        for name in 0..1000u32 {
            let key = table.key(|part| part(&name.to_be_bytes()));
            assert!(table.take(key, &quota, 7, 1).admitted, "{name}");
        }
        let parts = |a: &[u8], b: &[u8]| {
            table.key(|part| {
                part(a);
                part(b);
            })
        };
        assert_ne!(parts(b"ab", b"c"), parts(b"a", b"bc"));
    }

    #[test]
    fn threads_never_spend_a_request_twice() {
        let table = Table::new(8);
        let quota = Quota::new(1, 3600 * SECOND, 1000);
        let key = table.key(|part| part(b"a"));
        assert!(table.take(key, &quota, 1, 1).admitted);
        let admitted: usize = std::thread::scope(|scope| {
            let spend = || {
                (0..1000)
                    .filter(|_| table.take(key, &quota, 1, 1).admitted)
                    .count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(spend)).collect();
            threads.into_iter().map(|t| t.join().unwrap_or(0)).sum()
        });
        assert_eq!(admitted, 999);
    }
}
