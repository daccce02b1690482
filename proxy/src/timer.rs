//! One timer a task, moved as rarely as possible.
//!
//! Arming a timer costs more than reading the clock, and nearly every deadline of a request is
//! never reached. So a timer that is set to an earlier time than asked for is left alone: when it
//! fires too early, it moves on to what is asked for by then.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// See the module.
#[derive(Debug, Default)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// A timer that is not set.
    #[must_use]
    pub const fn new() -> Self {
        Self { sleep: None }
    }

    /// Ready once `at` has come.
    pub fn poll_at(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }

    /// Ready once `at` has come; never without one.
    pub fn poll_maybe(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        at.map_or(Poll::Pending, |at| self.poll_at(cx, at))
    }

    /// Runs a future until it is ready; `None` once `at` has come. Takes it pinned, since futures
    /// of the path are large and must not be moved a request.
    pub async fn within<F: Future>(
        &mut self,
        at: Option<Instant>,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_maybe(cx, at).map(|()| None),
        })
        .await
    }

    /// Waits; not at all for zero.
    pub async fn pause(&mut self, length: Duration) {
        if let Some(at) = deadline(Instant::now(), length) {
            poll_fn(|cx| self.poll_at(cx, at)).await;
        }
    }
}

/// How long a sender may be under the floor before it counts.
const FLOOR_AFTER: Duration = Duration::from_secs(10);

/// Watches a sender: ends a silence that lasts too long, and a trickle under a rate.
///
/// Only time spent waiting for the sender counts, not time in which nobody asked it.
#[derive(Debug)]
pub struct Stall {
    timer: Timer,
    idle: Duration,
    floor: u64,
    since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Stall {
    /// A watch that allows silences of `idle`, and ten seconds of waiting in all besides a second for
    /// each `floor` bytes; zero allows any.
    #[must_use]
    pub const fn new(idle: Duration, floor: u64) -> Self {
        Self {
            timer: Timer::new(),
            idle,
            floor,
            since: None,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Something came.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Nothing came: ready once that has gone on too long.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let idle = (!self.idle.is_zero()).then_some(self.idle);
        let rate = self.bytes.checked_div(self.floor).map(|seconds| {
            let earned = Duration::from_secs(seconds).saturating_add(FLOOR_AFTER);
            earned.saturating_sub(self.waited)
        });
        let least = [idle, rate].into_iter().flatten().min();
        let until = least.and_then(|least| since.checked_add(least));
        self.timer.poll_maybe(cx, until)
    }
}

/// Since when neither end of an exchange has said anything.
#[derive(Debug, Default)]
pub struct Silence {
    since: Option<Instant>,
    heard: u64,
}

impl Silence {
    /// Since when; from now on, where it begins.
    pub fn since(&mut self) -> Instant {
        *self.since.get_or_insert_with(Instant::now)
    }

    /// Something was said.
    pub const fn broken(&mut self) {
        self.since = None;
    }

    /// So many bytes have come from the other end so far: more than before is no silence.
    pub const fn heard(&mut self, bytes: u64) {
        if bytes != self.heard {
            self.heard = bytes;
            self.since = None;
        }
    }
}

/// `now + after`, or never for zero, which is how a limit is switched off.
#[must_use]
pub fn deadline(now: Instant, after: Duration) -> Option<Instant> {
    if after.is_zero() {
        None
    } else {
        now.checked_add(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a sender of one byte in `every` seconds is ended, of no more than a thousand.
    async fn ends_after(idle: u64, floor: u64, every: u64, bytes: usize) -> Option<u64> {
        let start = Instant::now();
        let mut stall = Stall::new(Duration::from_secs(idle), floor);
        for _ in 0..1000 {
            let silence = poll_fn(|cx| stall.poll(cx));
            let pause = Duration::from_secs(every);
            if tokio::time::timeout(pause, silence).await.is_ok() {
                return Some(start.elapsed().as_secs());
            }
            stall.moved(bytes);
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn who_trickles_is_ended_where_there_is_a_floor() {
        assert_eq!(ends_after(30, 256, 1, 1).await, Some(10));
        assert_eq!(ends_after(30, 256, 4, 512).await, Some(16));
        assert_eq!(ends_after(30, 256, 4, 1100).await, None);
        assert_eq!(ends_after(30, 0, 29, 1).await, None);
        assert_eq!(ends_after(30, 0, 31, 1).await, Some(30));
        assert_eq!(ends_after(5, 256, 60, 1).await, Some(5));
        assert_eq!(ends_after(0, 256, 60, 1).await, Some(10));
        assert_eq!(ends_after(0, 0, 60, 1).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn fires_at_what_was_asked_last() {
        let start = Instant::now();
        let mut timer = Timer::new();
        let soon = start + Duration::from_secs(1);
        let late = start + Duration::from_secs(5);
        // Armed for 1 s, then asked for 5 s: fires at 5 s, not at 1 s.
        poll_fn(|cx| {
            assert!(timer.poll_at(cx, soon).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| timer.poll_at(cx, late)).await;
        assert_eq!(start.elapsed().as_secs(), 5);
        // Asked for an earlier time than it is armed for: fires at the earlier one.
        let (early, later) = (
            start + Duration::from_secs(7),
            start + Duration::from_secs(90),
        );
        poll_fn(|cx| {
            assert!(timer.poll_at(cx, later).is_pending());
            timer.poll_at(cx, early)
        })
        .await;
        assert_eq!(start.elapsed().as_secs(), 7);
    }
}
