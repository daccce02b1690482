//! Part of the cache: the one request that fetches for all who ask the same.

use std::collections::HashMap;
use std::sync::Arc;

use selvedge_contract::defaults::policy as defaults;
use tokio::sync::watch;
use tokio::time::Instant;

use super::stored::Stored;
use super::{Cache, Key, Resource};

/// A fetch under way.
#[derive(Debug)]
pub(super) struct Pending {
    /// Whose it is: who has been overtaken, or made to forget, stores nothing.
    pub(super) id: u64,
    /// When the head of its answer came; others hear of it.
    pub(super) arrived: watch::Sender<Option<Instant>>,
}

/// Held by the one request that fetches; others go on when it is dropped.
#[derive(Debug)]
pub(super) struct Lead {
    pub(super) cache: Arc<Cache>,
    pub(super) key: Key,
    pub(super) id: u64,
}

impl Lead {
    /// Whether it has not been overtaken.
    pub(super) fn owns(&self, pending: &HashMap<Key, Pending>) -> bool {
        pending.get(&self.key).is_some_and(|p| p.id == self.id)
    }

    /// Tells the others that the answer has begun.
    pub(super) fn arrived(&self, now: Instant) {
        let pending = self.cache.pending();
        if let Some(mine) = pending.get(&self.key).filter(|p| p.id == self.id) {
            let _ = mine.arrived.send(Some(now));
        }
    }

    /// Puts a response in, in place of one for the same request fields; unless this lead has been
    /// overtaken, or what it fetched has been purged meanwhile.
    pub(super) fn insert(&self, stored: Arc<Stored>, now: Instant) {
        let pending = self.cache.pending();
        if !self.owns(&pending) {
            return;
        }
        let mut list: Vec<Arc<Stored>> = match self.cache.store.peek(&self.key) {
            Some(Resource::Stored(list)) => list.to_vec(),
            _ => Vec::new(),
        };
        let seconds = self.cache.seconds(now);
        list.retain(|old| !old.same_variant(&stored));
        if list.len() >= defaults::CACHE_VARIANTS {
            list.retain(|old| old.is_of_use(seconds));
        }
        // Made-up variants do not push real ones out.
        if list.len() < defaults::CACHE_VARIANTS {
            list.insert(0, stored);
        }
        let resource = Resource::Stored(list.into());
        self.cache.store.insert(self.key.clone(), resource);
    }

    /// Forgets what is stored for the same request fields.
    pub(super) fn forget(&self, stale: &Stored) {
        let pending = self.cache.pending();
        if self.owns(&pending)
            && let Some(Resource::Stored(list)) = self.cache.store.peek(&self.key)
        {
            let mut list = list.to_vec();
            list.retain(|old| !old.same_variant(stale));
            let resource = Resource::Stored(list.into());
            self.cache.store.insert(self.key.clone(), resource);
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut pending = self.cache.pending();
        if self.owns(&pending) {
            // The sender's end is what the others wait for.
            pending.remove(&self.key);
        }
    }
}
