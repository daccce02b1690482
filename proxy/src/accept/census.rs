//! How many connections there are, by listener and by address: the caps of stage 1.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use selvedge_contract::defaults::Limits;
use tokio::sync::Notify;

/// Counts of live connections. Locked once when a connection comes and once when it goes.
#[derive(Debug, Default)]
pub struct Census {
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    by_listener: HashMap<Arc<str>, usize>,
    by_address: HashMap<IpAddr, usize>,
}

/// How many connections live; tells when there are none.
#[derive(Debug, Default)]
pub struct Live {
    count: AtomicUsize,
    none: Notify,
}

impl Live {
    /// One more.
    pub fn begins(&self) {
        self.count.fetch_add(1, Relaxed);
    }

    /// One less.
    pub fn ends(&self) {
        if self.count.fetch_sub(1, Relaxed) == 1 {
            self.none.notify_waiters();
        }
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Waits until there are none.
    pub async fn wait_for_none(&self) {
        loop {
            let none = self.none.notified();
            if self.count() == 0 {
                return;
            }
            none.await;
        }
    }
}

/// A place in the census, given back when it is dropped.
#[derive(Debug)]
pub struct Counted {
    counts: Arc<Mutex<Counts>>,
    listener: Option<Arc<str>>,
    address: Option<IpAddr>,
}

impl Census {
    /// Takes a place, unless a cap is reached; without an address, one of the listener only.
    /// `ceiling` bounds the listener besides its limits.
    #[must_use]
    pub fn admit(
        &self,
        listener: &Arc<str>,
        address: Option<IpAddr>,
        limits: &Limits,
        ceiling: usize,
    ) -> Option<Counted> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let total = counts.by_listener.get(listener).copied().unwrap_or(0);
        // Addresses are only counted where a cap needs them.
        let address = address.filter(|_| limits.connections_per_address > 0);
        let address = address.map(|address| address.to_canonical());
        let own = address.map_or(0, |a| counts.by_address.get(&a).copied().unwrap_or(0));
        if total >= limits.connections.min(ceiling) {
            return None;
        }
        if address.is_some() && own >= limits.connections_per_address {
            return None;
        }
        *counts.by_listener.entry(listener.clone()).or_default() += 1;
        if let Some(address) = address {
            *counts.by_address.entry(address).or_default() += 1;
        }
        Some(Counted {
            counts: self.counts.clone(),
            listener: Some(listener.clone()),
            address,
        })
    }

    /// Takes a place for an address that a load balancer speaks for; its connection has one of its
    /// listener's already.
    #[must_use]
    pub fn admit_address(&self, address: IpAddr, limits: &Limits) -> Option<Counted> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let address = (limits.connections_per_address > 0).then(|| address.to_canonical());
        if let Some(address) = address {
            let own = counts.by_address.entry(address).or_default();
            if *own >= limits.connections_per_address {
                return None;
            }
            *own += 1;
        }
        Some(Counted {
            counts: self.counts.clone(),
            listener: None,
            address,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = self.listener.as_ref();
        if let Some(count) = listener.and_then(|name| counts.by_listener.get_mut(name)) {
            *count -= 1;
        }
        if let Some(address) = self.address
            && let Some(count) = counts.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_contract::defaults::Role;

    #[test]
    fn caps_hold_and_places_come_back() {
        let census = Census::default();
        let mut limits = Limits::of(Role::Gateway);
        limits.connections = 3;
        limits.connections_per_address = 2;
        let name: Arc<str> = "web".into();
        let admit =
            |last: u8| census.admit(&name, Some(IpAddr::from([10, 0, 0, last])), &limits, 100);
        let first = admit(1);
        let second = admit(1);
        assert!(first.is_some() && second.is_some());
        assert!(admit(1).is_none(), "address cap");
        let third = admit(2);
        assert!(third.is_some());
        assert!(admit(3).is_none(), "listener cap");
        drop(first);
        assert!(admit(3).is_some());
        let named = || census.admit_address(IpAddr::from([10, 0, 0, 9]), &limits);
        let both = (named(), named());
        assert!(both.0.is_some() && both.1.is_some() && named().is_none());
        drop(both);
        assert!(named().is_some());
    }
}
