//! A connection to the CA, as the calls on it see it: which place it has, and how long it may stay.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::crowd::Counted;
use crate::server::CONNECTION_AGE;

/// By then something has been asked, or the connection ends.
const FIRST_CALL: Duration = Duration::from_secs(10);

/// See the module; a clone is the same.
#[derive(Debug, Clone)]
pub(crate) struct Line(Arc<LineState>);

#[derive(Debug)]
struct LineState {
    /// Among those who come and go; given back by who stays.
    place: Mutex<Option<Place>>,
    called: AtomicBool,
    follows: AtomicBool,
    over: CancellationToken,
    silent: Silent,
    key: u64,
}

/// One of all, and one of the address's.
type Place = (OwnedSemaphorePermit, Counted);

/// Connections on which nothing was asked yet, the oldest first; a clone is the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Silent(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    by_age: BTreeMap<u64, Weak<LineState>>,
    next: u64,
}

impl Silent {
    /// Ends the oldest of them. Whoever means to ask does so within milliseconds of coming: to be the oldest it
    /// would take as many others as there are places in that time.
    pub(crate) fn give_way(&self) {
        let oldest = self.inner().by_age.pop_first();
        if let Some(oldest) = oldest.and_then(|(_, oldest)| oldest.upgrade()) {
            // At once: its peer may take its time to leave.
            drop(oldest.place().take());
            oldest.over.cancel();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// One on which nothing was asked yet.
    pub(crate) fn new(place: Option<Place>, silent: &Silent) -> Self {
        let mut waiting = silent.inner();
        let key = waiting.next;
        waiting.next += 1;
        let state = Arc::new(LineState {
            place: Mutex::new(place),
            called: AtomicBool::new(false),
            follows: AtomicBool::new(false),
            over: CancellationToken::new(),
            silent: silent.clone(),
            key,
        });
        waiting.by_age.insert(key, Arc::downgrade(&state));
        Self(state)
    }

    /// Something is asked on it.
    pub(crate) fn called(&self) {
        if !self.0.called.swap(true, Relaxed) {
            self.0.silent.inner().by_age.remove(&self.0.key);
        }
    }

    /// The connection stays for as long as something is followed on it; `false`: it does so already.
    pub(crate) fn follows(&self) -> bool {
        if self.0.follows.swap(true, Relaxed) {
            return false;
        }
        drop(self.0.place().take());
        true
    }

    /// Nothing is followed any longer; so the connection ends.
    pub(crate) fn ends(&self) {
        self.0.over.cancel();
    }

    /// Returns when it is to end at once, for others or for want of what it was for.
    pub(crate) async fn ended(&self) {
        self.0.over.cancelled().await;
    }

    /// Returns when the connection has been there for long enough.
    pub(crate) async fn over(&self) {
        let old = async {
            sleep(FIRST_CALL).await;
            if !self.0.called.load(Relaxed) {
                return;
            }
            sleep(CONNECTION_AGE.saturating_sub(FIRST_CALL)).await;
            if self.0.follows.load(Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = old => {}
            () = self.ended() => {}
        }
    }
}

impl LineState {
    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LineState {
    fn drop(&mut self) {
        self.silent.inner().by_age.remove(&self.key);
    }
}
