//! Part of stage 6, policy: how many bytes a second go to and from one client. Bodies that are too
//! fast wait; nothing is refused, and nothing is held but the part that waits.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use selvedge_gateway::limit::{Quota, Table};
use tokio::time::{Duration, Instant, Sleep, sleep_until};

use crate::error::ErrorKind;
use crate::message::through::Through;
use crate::message::{Body, BodyLength, Chunk};

use super::by::By;
use super::guard::{Notes, Seen};

/// Clients whose bytes are counted at a time; 16 bytes each.
const SLOTS: usize = 1 << 14;
/// Bytes that count as one: so that rates of gigabytes are exact to some percent.
const UNIT: u64 = 16;

/// Bodies of a client that a body may share its rate with until its request is late.
const BESIDE: u32 = 8;
/// No deadline is put off for longer.
const LONGEST: Duration = Duration::from_secs(600);

/// A rate in one direction.
#[derive(Debug)]
pub struct Pace {
    quota: Quota,
    /// Bytes that go at once: a part waits for itself, not for all that follows.
    part: usize,
    table: Table,
}

impl Pace {
    /// So many bytes a second. A quarter of a second's worth may go at once.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        const SECOND: u64 = 1_000_000_000;
        let units = bytes.div_ceil(UNIT).max(1);
        let part = usize::try_from(bytes / 16).unwrap_or(usize::MAX);
        Self {
            quota: Quota::new(units, SECOND, (units / 4).max(1)),
            part: part.clamp(256, 64 << 10),
            table: Table::new(SLOTS),
        }
    }
}

/// A compiled policy.
#[derive(Debug)]
pub struct Bandwidth {
    /// What tells clients apart.
    pub by: By,
    /// Bodies of requests.
    pub request: Option<Arc<Pace>>,
    /// Bodies of responses.
    pub response: Option<Arc<Pace>>,
    /// Beginning of the clock.
    pub epoch: Instant,
}

/// A rate that a body is held to.
#[derive(Debug, Clone)]
pub struct Paced {
    pace: Arc<Pace>,
    key: u64,
    epoch: Instant,
    waited: Rc<Cell<Duration>>,
    /// No more than this is added to a deadline.
    most: Duration,
}

impl Bandwidth {
    /// Holds the bodies of an exchange to what its client may have.
    pub fn check(&self, seen: &mut Seen<'_>, notes: &mut Notes) {
        let mut paced = |pace: &Option<Arc<Pace>>| {
            pace.as_ref().map(|pace| Paced {
                key: pace.table.key(|give| self.by.give(seen, give)),
                pace: pace.clone(),
                epoch: self.epoch,
                waited: Rc::default(),
                most: LONGEST,
            })
        };
        notes.paced_request = paced(&self.request);
        notes.paced_response = paced(&self.response);
    }
}

impl Paced {
    /// The body, slowed down.
    #[must_use]
    pub fn body(mut self, body: Body) -> Body {
        if body.is_empty() {
            return body;
        }
        if let BodyLength::Exact(length) = body.length() {
            let own = Duration::from_nanos(self.pace.quota.interval())
                .saturating_mul(u32::try_from(length.div_ceil(UNIT)).unwrap_or(u32::MAX));
            self.most = own.saturating_mul(BESIDE).min(LONGEST);
        }
        Body::Through(Box::new(Slow {
            length: body.length(),
            body,
            paced: self,
            rest: Bytes::new(),
            waiting: None,
        }))
    }

    /// How long bodies have waited by this.
    #[must_use]
    pub fn waited(&self) -> Rc<Cell<Duration>> {
        self.waited.clone()
    }

    /// What has been taken for so many bytes, and is not needed.
    fn give_back(&self, bytes: usize) {
        let units = (bytes as u64).div_ceil(UNIT);
        self.pace.table.pull(self.key, &self.pace.quota, units);
    }

    /// When so many bytes may go.
    fn due(&self, bytes: usize) -> Option<Instant> {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.epoch);
        let since = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let (pace, units) = (&self.pace, (bytes as u64).div_ceil(UNIT));
        let ahead = pace.table.push(self.key, &pace.quota, since, units);
        let wait = ahead.saturating_sub(pace.quota.window());
        let wait = Duration::from_nanos(wait);
        let waited = self.waited.get().saturating_add(wait);
        self.waited.set(waited.min(self.most));
        (!wait.is_zero()).then(|| now + wait)
    }
}

/// See [`Paced::body`].
#[derive(Debug)]
struct Slow {
    length: BodyLength,
    body: Body,
    paced: Paced,
    rest: Bytes,
    waiting: Option<(Pin<Box<Sleep>>, Bytes)>,
}

impl Drop for Slow {
    fn drop(&mut self) {
        // Whoever gives up must not be counted for what never went.
        if let Some((_, part)) = &self.waiting {
            self.paced.give_back(part.len());
        }
    }
}

impl Through for Slow {
    fn length(&self) -> BodyLength {
        self.length
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, ErrorKind>> {
        if let Some((sleep, _)) = &mut self.waiting {
            ready!(sleep.as_mut().poll(cx));
        }
        if let Some((_, part)) = self.waiting.take() {
            return Poll::Ready(Ok(Some(Chunk::Data(part))));
        }
        if self.rest.is_empty() {
            match ready!(self.body.poll_chunk(cx))? {
                Some(Chunk::Data(data)) => self.rest = data,
                other => return Poll::Ready(Ok(other)),
            }
        }
        let part = self
            .rest
            .split_to(self.rest.len().min(self.paced.pace.part));
        let Some(due) = self.paced.due(part.len()) else {
            return Poll::Ready(Ok(Some(Chunk::Data(part))));
        };
        let mut sleep = Box::pin(sleep_until(due));
        if sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(Some(Chunk::Data(part))));
        }
        self.waiting = Some((sleep, part));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::read_whole;

    async fn time_of(bodies: Vec<Paced>, bytes: usize) -> Duration {
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for paced in bodies {
            let body = paced.body(Body::Full(vec![7; bytes].into()));
            tasks.spawn_local(read_whole(body, bytes, ErrorKind::BodyTooLarge));
        }
        while let Some(read) = tasks.join_next().await {
            assert_eq!(read.unwrap().unwrap().len(), bytes);
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_take_the_time_that_their_rate_gives_them() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let pace = Arc::new(Pace::new(100_000));
                let epoch = Instant::now();
                let of = |key| Paced {
                    pace: pace.clone(),
                    key,
                    epoch,
                    waited: Rc::default(),
                    most: LONGEST,
                };
                // A quarter of a second's worth is free.
                let took = time_of(vec![of(7)], 225_000).await.as_secs_f64();
                assert!((1.95..2.05).contains(&took), "{took}");
                // Two bodies of one client share its rate, two clients do not.
                tokio::time::advance(Duration::from_secs(10)).await;
                let took = time_of(vec![of(7), of(7)], 112_500).await.as_secs_f64();
                assert!((1.95..2.05).contains(&took), "{took}");
                let took = time_of(vec![of(8), of(9)], 225_000).await.as_secs_f64();
                assert!((1.95..2.05).contains(&took), "{took}");
                // What is given up on is not counted.
                tokio::time::advance(Duration::from_secs(10)).await;
                for _ in 0..1000 {
                    let body = of(7).body(Body::Full(vec![7; 50_000].into()));
                    let read = read_whole(body, 50_000, ErrorKind::BodyTooLarge);
                    let given_up = tokio::time::timeout(Duration::ZERO, read).await;
                    assert!(given_up.is_err());
                }
                let took = time_of(vec![of(7)], 25_000).await.as_secs_f64();
                assert!(took < 0.6, "{took}");
            })
            .await;
    }
}
