//! Part of stage 7, balance: how much a service is asked at a time. Counted over all workers, and over
//! reloads: a service that was changed and the one before it share these counts until the last request of
//! the latter has ended, so that its endpoints never see more than the cap.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::Semaphore;

use crate::error::ErrorKind;

use super::atomic::AtomicU32;

/// See the module.
#[derive(Debug)]
pub struct Caps {
    /// Permits for new connections.
    pub connections: Arc<Semaphore>,
    /// Requests waiting for a connection.
    pub pending: AtomicU32,
    /// Concurrent retries.
    pub retries: AtomicU32,
    /// Copies of requests on their way there.
    copies: AtomicU32,
    requests: AtomicU32,
    /// Permits that there are.
    most: AtomicU32,
}

impl Caps {
    /// With room for so many connections.
    #[must_use]
    pub fn new(connections: u32) -> Arc<Self> {
        Arc::new(Self {
            connections: Arc::new(Semaphore::new(connections as usize)),
            pending: AtomicU32::new(0),
            retries: AtomicU32::new(0),
            copies: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            most: AtomicU32::new(connections),
        })
    }

    /// The same with room for another number of connections. Those over a smaller one stay until they end.
    pub fn resize(&self, connections: u32) {
        let before = self.most.swap(connections, Relaxed);
        if let Some(more) = connections.checked_sub(before) {
            self.connections.add_permits(more as usize);
            return;
        }
        let fewer = (before - connections) as usize;
        let forgotten = self.connections.forget_permits(fewer);
        let debt = u32::try_from(fewer - forgotten).unwrap_or(0);
        if debt > 0
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let connections = self.connections.clone();
            // Ends when so many have ended, or with the process.
            runtime.spawn(async move {
                if let Ok(permits) = connections.acquire_many_owned(debt).await {
                    permits.forget();
                }
            });
        }
    }

    /// One more copy, of so many at most; says whether there is room for it.
    #[must_use]
    pub fn begin_copy(&self, most: u32) -> bool {
        let room = self.copies.fetch_add(1, Relaxed) < most;
        if !room {
            self.end_copy();
        }
        room
    }

    /// One has ended.
    pub fn end_copy(&self) {
        self.copies.fetch_sub(1, Relaxed);
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.requests.load(Relaxed)
    }

    /// One more request.
    pub(super) fn enter(&self, most: u32) -> Result<(), ErrorKind> {
        if self.requests.fetch_add(1, Relaxed) >= most {
            self.requests.fetch_sub(1, Relaxed);
            return Err(ErrorKind::TooManyRequests);
        }
        Ok(())
    }

    pub(super) fn leave(&self) {
        self.requests.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reload_changes_how_many_there_may_be() {
        let caps = Caps::new(3);
        let take = || caps.connections.clone().try_acquire_owned().ok();
        let held = [take(), take()];
        caps.resize(5);
        assert_eq!(caps.connections.available_permits(), 3);
        caps.resize(1);
        assert!(take().is_none());
        drop(held);
        // Of the two that came back one was forgotten.
        tokio::task::yield_now().await;
        assert_eq!(caps.connections.available_permits(), 1);
    }
}
