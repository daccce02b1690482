//! Part of stage 8, upstream: how long an endpoint keeps idle connections, learnt from when it closes them.
//! A request that is sent at that very moment may be lost, and nobody can tell whether it was carried out
//! (the race of HTTP/1.1, RFC 9112 section 9.3.1).

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// What was learnt is forgotten after this long without a sign of it: endpoints change.
const KEPT: Duration = Duration::from_secs(600);
/// Closed so soon after another, it was for the same reason.
const APART: Duration = Duration::from_millis(5);

/// Which idle connections a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Any: lost, it can be sent again.
    Any,
    /// Only those that the endpoint will surely keep for now: lost, it is lost.
    Young,
    /// None: it was lost once.
    Never,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Habit {
    /// When a connection was closed, and how long it had been idle.
    last: Cell<Option<(Instant, Duration)>>,
    /// For how long the endpoint keeps them, and when it last showed.
    keeps: Cell<Option<(Instant, Duration)>>,
}

impl Habit {
    /// The endpoint closed a connection after it had been idle for so long. Two alike, not at the same time,
    /// are a habit; one may be a restart.
    pub(super) fn note(&self, now: Instant, idle: Duration) {
        let Some((before, length)) = self.last.get() else {
            self.last.set(Some((now, idle)));
            return;
        };
        if now.saturating_duration_since(before) < APART {
            return;
        }
        self.last.set(Some((now, idle)));
        let (short, long) = (idle.min(length), idle.max(length));
        if long - short > short / 5 + APART {
            return;
        }
        let known = self.known(now).unwrap_or(short);
        self.keeps.set(Some((now, short.min(known))));
    }

    /// A connection has been idle for so long, and is open: what seemed a habit was none, a restart under load
    /// perhaps.
    pub(super) fn outlived(&self, idle: Duration) {
        if let Some((_, length)) = self.keeps.get()
            && idle > length + length / 4 + APART
        {
            self.keeps.set(None);
            self.last.set(None);
        }
    }

    fn known(&self, now: Instant) -> Option<Duration> {
        let (shown, length) = self.keeps.get()?;
        (now.saturating_duration_since(shown) < KEPT).then_some(length)
    }

    /// How long a connection may have been idle for a request to be sent on it: three quarters of what the
    /// endpoint keeps it for, as far as that is known, and half of it where the request cannot be repeated.
    pub(super) fn limit(&self, reuse: Reuse, life: Duration, now: Instant) -> Duration {
        let known = self.known(now);
        match reuse {
            Reuse::Any => known.map_or(life, |length| life.min(length * 3 / 4)),
            Reuse::Young => known.unwrap_or(life).min(life) / 2,
            Reuse::Never => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn what_happens_twice_is_a_habit() {
        let (habit, start) = (Habit::default(), Instant::now());
        let life = MS(4000);
        let limits = |at: Instant| {
            [Reuse::Any, Reuse::Young, Reuse::Never].map(|reuse| habit.limit(reuse, life, at))
        };
        assert_eq!(limits(start), [life, life / 2, MS(0)]);
        habit.note(start, MS(200));
        assert_eq!(limits(start), [life, life / 2, MS(0)], "once is none");
        habit.note(start + MS(50), MS(210));
        let later = start + MS(60);
        assert_eq!(limits(later), [MS(150), MS(100), MS(0)]);
        assert_eq!(limits(later + KEPT), [life, life / 2, MS(0)]);
    }

    #[test]
    fn what_outlives_a_habit_ends_it() {
        let (habit, start) = (Habit::default(), Instant::now());
        for n in 0..5 {
            habit.note(start + MS(n * 10), MS(3));
        }
        let later = start + MS(60);
        let limit = || habit.limit(Reuse::Any, MS(4000), later);
        assert!(limit() < MS(3));
        habit.outlived(MS(3));
        assert!(limit() < MS(3));
        habit.outlived(MS(1000));
        assert_eq!(limit(), MS(4000));
    }

    #[test]
    fn a_restart_is_no_habit() {
        let (habit, start) = (Habit::default(), Instant::now());
        for idle in [1, 2, 700, 1500] {
            habit.note(start, MS(idle));
        }
        habit.note(start + MS(100), MS(900));
        assert_eq!(habit.limit(Reuse::Any, MS(4000), start), MS(4000));
    }
}
