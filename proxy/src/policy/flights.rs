//! Beside stage 6, policy: questions to an issuer that several requests share. Of those that ask the
//! same at a time one asks, and what came of it is remembered for a while.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::sync::watch;
use tokio::time::Instant;

/// What tells questions apart: a hash, since the questions are secrets.
pub type Key = [u8; 32];

/// What came of a question, and until when that counts.
type Landed<T> = Option<(T, Instant)>;

/// Questions under way, and their answers; of a bounded number.
pub struct Flights<T> {
    cache: Cache<Key, watch::Receiver<Landed<T>>>,
}

impl<T> fmt::Debug for Flights<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    /// With room for this many.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            cache: Cache::new(most),
        })
    }

    /// What is remembered.
    #[must_use]
    pub fn known(&self, key: &Key) -> Option<T> {
        let flight = self.cache.get(key)?;
        let landed = flight.borrow();
        let (value, until) = landed.as_ref()?;
        (Instant::now() < *until).then(|| value.clone())
    }

    /// Forgets an answer that is of no use to the caller. A question under way stays.
    pub fn forget_if(&self, key: &Key, useless: impl Fn(&T) -> bool) {
        self.cache.remove_if(key, |flight| {
            let landed = flight.borrow();
            landed.as_ref().is_some_and(|(value, _)| useless(value))
        });
    }

    /// Waits for the answer: one that is under way, or one that `work` fetches, with the time for
    /// which to remember it. `None` where that came to no end, which the end of a process brings.
    ///
    /// `work` is a task of its own and bounds its time: if the request that began it goes away,
    /// others still get the answer. Must be called on a runtime.
    pub async fn join<W>(&self, key: Key, work: impl FnOnce() -> W) -> Option<T>
    where
        W: Future<Output = (T, Duration)> + Send + 'static,
    {
        self.cache.remove_if(&key, |flight| is_over(flight));
        let begin = || {
            let (sender, receiver) = watch::channel(None);
            let work = work();
            tokio::spawn(async move {
                let (value, keep) = work.await;
                let _ = sender.send(Some((value, Instant::now() + keep)));
            });
            Ok::<_, std::convert::Infallible>(receiver)
        };
        let Ok(mut flight) = self.cache.get_or_insert_with(&key, begin);
        // Cancelled with the request; the task goes on.
        let landed = flight.wait_for(Option::is_some).await.ok()?;
        landed.as_ref().map(|(value, _)| value.clone())
    }
}

/// Whether a flight has landed and is forgotten, or will never land.
fn is_over<T>(flight: &watch::Receiver<Landed<T>>) -> bool {
    match &*flight.borrow() {
        Some((_, until)) => Instant::now() >= *until,
        None => flight.has_changed().is_err(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn who_asks_the_same_shares_the_answer() {
        let flights = Flights::new(16);
        let asked = Arc::new(AtomicUsize::new(0));
        let ask = |key: u8| {
            let (flights, asked) = (flights.clone(), asked.clone());
            async move {
                let work = || async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    (
                        asked.fetch_add(1, Ordering::SeqCst),
                        Duration::from_secs(60),
                    )
                };
                flights.join([key; 32], work).await
            }
        };
        let (a, b, other) = tokio::join!(ask(1), ask(1), ask(2));
        assert_eq!(a, b);
        assert_ne!(a, other);
        assert_eq!(ask(1).await, a);
        assert_eq!(flights.known(&[1; 32]), a);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(flights.known(&[1; 32]), None);
        assert_eq!(ask(1).await, Some(2));
        // Whoever began it may go away.
        let gone = tokio::time::timeout(Duration::from_millis(1), ask(3)).await;
        assert!(gone.is_err());
        assert_eq!(ask(3).await, Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_bounded() {
        let flights = Flights::new(16);
        for key in 0..200u8 {
            flights
                .join(
                    [key; 32],
                    || async move { (key, Duration::from_secs(3600)) },
                )
                .await;
        }
        let known = (0..200u8).filter(|k| flights.known(&[*k; 32]).is_some());
        assert!(known.count() <= 32);
    }
}
