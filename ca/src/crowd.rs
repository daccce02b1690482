//! How many connections or streams each address has, so that one caller cannot have all places.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limit::subject;

/// See the module; a clone counts together with the original.
#[derive(Debug, Clone)]
pub(crate) struct Crowd {
    most: u32,
    counts: Arc<Mutex<HashMap<IpAddr, u32>>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Crowd, IpAddr);

impl Crowd {
    /// Of which each address may have so many.
    pub(crate) fn new(most: u32) -> Self {
        let counts = Arc::default();
        Self { most, counts }
    }

    /// `None`: the address has as many as one may.
    pub(crate) fn admit(&self, address: IpAddr) -> Option<Counted> {
        let address = subject(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Counted(self.clone(), address))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Self(crowd, address) = self;
        let mut counts = crowd.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_places_and_gives_them_back() {
        let crowd = Crowd::new(2);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let held: Vec<_> = (0..3).filter_map(|_| crowd.admit(a)).collect();
        assert_eq!(held.len(), 2);
        assert!(crowd.admit(b).is_some());
        drop(held);
        assert!(crowd.admit(a).is_some());
        assert!(crowd.counts.lock().unwrap().is_empty());
    }
}
