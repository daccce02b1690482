//! Part of stage 7, balance: what requests have shown of an endpoint, and for how long it is left alone
//! for it. A success writes nothing unless there was a failure before it.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use selvedge_contract::defaults::upstream::{EJECT_WINDOW, TRIAL_LONGEST};

use crate::error::ErrorKind;

use super::atomic::{AtomicU32, AtomicU64};
use super::service::EjectionSpec;

/// What an endpoint did instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// It answered so: 502, 503 or 504.
    Status(u16),
    /// No answer came of it.
    Error(ErrorKind),
}

/// Why an endpoint is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ejected {
    /// So many failures in a row.
    Consecutive,
    /// Too many of the requests of the last seconds failed.
    SuccessRate,
    /// The request that tried it failed.
    Trial,
}

impl Ejected {
    /// All there are, in order.
    pub const ALL: [Self; 3] = [Self::Consecutive, Self::SuccessRate, Self::Trial];

    /// In words, as logs and metrics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::SuccessRate => "successRate",
            Self::Trial => "trial",
        }
    }
}

/// Set in `until` of an endpoint that a request is trying. The rest is when another may try it all the same:
/// that one may never end.
const ON_TRIAL: u64 = 1 << 63;

/// See the module. Times are milliseconds of the process clock, of which 0 is none.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// Failures in a row.
    consecutive: AtomicU32,
    /// Ejections, each soon after the one before.
    ejections: AtomicU32,
    /// Until when it is left alone; 0 = it is not. See [`ON_TRIAL`].
    until: AtomicU64,
    /// When it came back for the last time.
    back: AtomicU64,
    window: Window,
    /// The last failure: its time, and 16 bits of what it was.
    last: AtomicU64,
}

impl Outcomes {
    /// Whether it is left alone, or on trial.
    pub(super) fn is_out(&self) -> bool {
        self.until.load(Relaxed) != 0
    }

    /// Whether a request is trying it.
    pub(super) fn is_on_trial(&self) -> bool {
        self.until.load(Relaxed) & ON_TRIAL != 0
    }

    /// When it may be tried, where it is left alone or on trial until then.
    pub(super) fn due(&self) -> Option<u64> {
        let until = self.until.load(Relaxed) & !ON_TRIAL;
        (until != 0).then_some(until)
    }

    pub(super) fn succeeded(&self) {
        // Written only where it changes: a healthy endpoint's line is not fought over.
        if self.consecutive.load(Relaxed) != 0 {
            self.consecutive.store(0, Relaxed);
        }
    }

    /// Takes note of a failure; says why it is one too many, if it is. `begun` is how many requests it has
    /// been sent, `running` how many of them have not ended.
    pub(super) fn failed(
        &self,
        what: Failing,
        spec: &EjectionSpec,
        (begun, running): (u32, u32),
        now: u64,
    ) -> Option<Ejected> {
        self.last.store((now << 16) | packed(what), Relaxed);
        let row = self.consecutive.fetch_add(1, Relaxed).saturating_add(1);
        let (requests, failures) = self.window.failed(begun, now);
        if self.is_out() {
            return None;
        }
        if spec.consecutive != 0 && row >= spec.consecutive {
            return Some(Ejected::Consecutive);
        }
        let ended = u64::from(requests.saturating_sub(running));
        let good = ended.saturating_sub(u64::from(failures));
        let bad = good * 100 < ended * u64::from(spec.success_rate);
        (bad && ended >= u64::from(spec.min_requests)).then_some(Ejected::SuccessRate)
    }

    /// Takes note that it had no room for a request; says why it is one too many, if it is: as many in a row as
    /// failures, as nobody would get anywhere with it. Its share of successes is not touched.
    pub(super) fn was_full(&self, spec: &EjectionSpec) -> Option<Ejected> {
        let row = self.consecutive.fetch_add(1, Relaxed).saturating_add(1);
        let many = spec.consecutive != 0 && row >= spec.consecutive;
        (many && !self.is_out()).then_some(Ejected::Consecutive)
    }

    /// Leaves it alone, unless it is already; says for how long. Only the request that is trying it
    /// (`trial`) can do so while it is on trial.
    pub(super) fn eject(&self, spec: &EjectionSpec, trial: bool, now: u64) -> Option<Duration> {
        let from = self.until.load(Relaxed);
        let fits = if trial {
            from & ON_TRIAL != 0
        } else {
            from == 0
        };
        if !fits {
            return None;
        }
        let nth = self.ejections.load(Relaxed);
        // Who has been back for longer than the longest ejection starts over.
        let stayed = now.saturating_sub(self.back.load(Relaxed));
        let nth = if !trial && stayed > milliseconds(spec.max) {
            0
        } else {
            nth.min(16)
        };
        let length = spec.base.saturating_mul(1 << nth).min(spec.max);
        // Up to a tenth longer, so that endpoints that failed together do not return together.
        let length = length + length.mul_f64(fastrand::f64() / 10.0);
        let until = now.saturating_add(milliseconds(length)).min(ON_TRIAL - 1);
        self.until
            .compare_exchange(from, until, Relaxed, Relaxed)
            .ok()?;
        self.ejections.store(nth + 1, Relaxed);
        Some(length)
    }

    /// It is used all the same: too many others are out.
    pub(super) fn spare(&self) {
        self.until.store(0, Relaxed);
    }

    /// Makes this request the one that tries it, if it is time. Of all that come now one wins.
    pub(super) fn begin_trial(&self, now: u64) -> bool {
        let until = self.until.load(Relaxed);
        let again = now.saturating_add(milliseconds(TRIAL_LONGEST)) | ON_TRIAL;
        until != 0
            && until & !ON_TRIAL <= now
            && self
                .until
                .compare_exchange(until, again, Relaxed, Relaxed)
                .is_ok()
    }

    /// The trial came to nothing: another may follow after `pause`.
    pub(super) fn cancel_trial(&self, pause: Duration, now: u64) {
        let next = now.saturating_add(milliseconds(pause));
        let until = self.until.load(Relaxed);
        if until & ON_TRIAL != 0 {
            let _ = self.until.compare_exchange(until, next, Relaxed, Relaxed);
        }
    }

    /// It is back, and what was before is forgotten but how often it was out.
    pub(super) fn come_back(&self, begun: u32, now: u64) {
        self.consecutive.store(0, Relaxed);
        self.back.store(now, Relaxed);
        self.window.restart(begun, now);
        self.until.store(0, Relaxed);
    }

    /// Goes on as these were, of an endpoint at the same address. A trial of that one says nothing here: it
    /// is due at once.
    pub(super) fn adopt(&self, before: &Self) {
        for (new, old) in [
            (&self.consecutive, &before.consecutive),
            (&self.ejections, &before.ejections),
        ] {
            new.store(old.load(Relaxed), Relaxed);
        }
        let until = before.until.load(Relaxed);
        let until = if until & ON_TRIAL == 0 { until } else { 1 };
        self.until.store(until, Relaxed);
        self.back.store(before.back.load(Relaxed), Relaxed);
        self.last.store(before.last.load(Relaxed), Relaxed);
    }

    /// The last failure, and when it was.
    pub(super) fn last_failure(&self) -> Option<(Failing, u64)> {
        let last = self.last.load(Relaxed);
        Some((unpacked(last & 0xffff)?, last >> 16))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}

/// Kinds of errors stand behind all statuses.
const ERRORS: u64 = 1024;

fn packed(what: Failing) -> u64 {
    match what {
        Failing::Status(status) => u64::from(status),
        Failing::Error(kind) => {
            let place = ErrorKind::ALL.iter().position(|known| *known == kind);
            ERRORS + place.unwrap_or(0) as u64
        }
    }
}

fn unpacked(code: u64) -> Option<Failing> {
    match usize::try_from(code).ok()? {
        0 => None,
        code if code >= 1024 => ErrorKind::ALL.get(code - 1024).copied().map(Failing::Error),
        code => u16::try_from(code).ok().map(Failing::Status),
    }
}

/// Failures among the requests of the last ten to twenty seconds. Only failures write it: how many
/// requests there were is the difference of a count that is kept anyway. Two that write at the same moment
/// may miscount by one of them.
#[derive(Debug, Default)]
struct Window {
    /// When the present part began, how many requests had begun by then, and how many failed since.
    from: AtomicU64,
    begun: AtomicU32,
    failed: AtomicU32,
    /// The same of the part before it.
    begun_before: AtomicU32,
    failed_before: AtomicU32,
}

impl Window {
    /// Requests and failures, with this one.
    fn failed(&self, begun: u32, now: u64) -> (u32, u32) {
        let length = milliseconds(EJECT_WINDOW);
        let from = self.from.load(Relaxed);
        let age = now.saturating_sub(from);
        if age >= length
            && self
                .from
                .compare_exchange(from, now, Relaxed, Relaxed)
                .is_ok()
        {
            // This one is of the new part, as its failure is.
            self.turn(begun.wrapping_sub(1), age, length);
        }
        let failures = self.failed.fetch_add(1, Relaxed).saturating_add(1);
        let requests = begun.wrapping_sub(self.begun_before.load(Relaxed));
        let failures = failures.saturating_add(self.failed_before.load(Relaxed));
        (requests, failures)
    }

    fn turn(&self, begun: u32, age: u64, length: u64) {
        let began = self.begun.swap(begun, Relaxed);
        let failed = self.failed.swap(0, Relaxed);
        if age < 2 * length {
            self.begun_before.store(began, Relaxed);
            self.failed_before.store(failed, Relaxed);
            return;
        }
        // Nothing has failed for long. What it did meanwhile counts by its average: else the first
        // failure after a good hour would be one of one.
        let since = u64::from(begun.wrapping_sub(began));
        let part = u32::try_from(since * length / age).unwrap_or(u32::MAX);
        self.begun_before.store(begun.wrapping_sub(part), Relaxed);
        self.failed_before.store(0, Relaxed);
    }

    fn restart(&self, begun: u32, now: u64) {
        self.from.store(now, Relaxed);
        self.begun.store(begun, Relaxed);
        self.begun_before.store(begun, Relaxed);
        self.failed.store(0, Relaxed);
        self.failed_before.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: EjectionSpec = EjectionSpec {
        consecutive: 0,
        success_rate: 80,
        min_requests: 5,
        base: Duration::from_secs(1),
        max: Duration::from_secs(60),
        max_share: 50,
    };

    /// Which of these requests, one each `step` milliseconds, are one too many.
    fn too_many(fails: impl Fn(u32) -> bool, count: u32, step: u64) -> Vec<u32> {
        let outcomes = Outcomes::default();
        outcomes.window.restart(0, 1);
        let mut found = Vec::new();
        for n in 1..=count {
            let now = 1 + u64::from(n) * step;
            if !fails(n) {
                outcomes.succeeded();
            } else if outcomes
                .failed(Failing::Status(503), &SPEC, (n, 0), now)
                .is_some()
            {
                found.push(n);
            }
        }
        found
    }

    #[test]
    fn less_than_a_fifth_of_failures_is_borne() {
        assert_eq!(too_many(|n| n % 6 == 0, 5000, 10), [0; 0]);
        // From the fifth request on, for four are no measure.
        assert_eq!(too_many(|n| n % 2 == 0, 12, 10), [6, 8, 10, 12]);
        assert_eq!(too_many(|_| true, 6, 10), [5, 6]);
    }

    #[test]
    fn one_failure_after_a_good_hour_is_one_of_many() {
        // One request a second: the last of an hour fails, and then one of ten.
        let fails = |n: u32| n >= 3600 && n.is_multiple_of(10);
        assert_eq!(too_many(fails, 3700, 1000), [0; 0]);
        // And an endpoint that turns bad is noticed after some.
        let bad = too_many(|n| n >= 3600, 3620, 1000);
        assert_eq!(bad.first(), Some(&3602), "{bad:?}");
    }

    #[test]
    fn what_still_runs_is_no_success() {
        let outcomes = Outcomes::default();
        let failed =
            |begun, running| outcomes.failed(Failing::Status(502), &SPEC, (begun, running), 5);
        assert_eq!(failed(100, 99), None, "one has ended");
        assert_eq!(failed(100, 90), None, "two of ten have failed");
        assert_eq!(failed(100, 90), Some(Ejected::SuccessRate));
    }

    #[test]
    fn a_trial_that_never_ends_is_followed_by_another() {
        let outcomes = Outcomes::default();
        assert!(outcomes.eject(&SPEC, false, 1).is_some());
        let longest = milliseconds(TRIAL_LONGEST);
        assert!(outcomes.begin_trial(2000));
        assert!(!outcomes.begin_trial(2000 + longest - 1));
        assert!(outcomes.begin_trial(2000 + longest));
        assert!(!outcomes.begin_trial(2001 + longest));
    }

    #[test]
    fn the_last_failure_is_known() {
        let outcomes = Outcomes::default();
        assert_eq!(outcomes.last_failure(), None);
        for what in [
            Failing::Status(503),
            Failing::Error(ErrorKind::ConnectTimeout),
        ] {
            outcomes.failed(what, &SPEC, (1, 0), 77);
            assert_eq!(outcomes.last_failure(), Some((what, 77)));
        }
    }
}
