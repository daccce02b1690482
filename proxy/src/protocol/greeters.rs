//! Whose servers speak first, as a worker has learned it: there the far end is connected to at once.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;

use selvedge_contract::defaults::transparent::GREETERS;

/// Destinations whose servers have spoken first when they were last called; the oldest are forgotten for
/// new ones. A hint: whoever speaks first in fact is heard all the same.
#[derive(Debug, Default)]
pub struct Greeters(RefCell<Known>);

#[derive(Debug, Default)]
struct Known {
    all: HashSet<SocketAddr>,
    by_age: VecDeque<SocketAddr>,
}

impl Greeters {
    /// Whether the server there spoke first.
    #[must_use]
    pub fn contains(&self, to: SocketAddr) -> bool {
        self.0.borrow().all.contains(&to)
    }

    /// The server there has spoken first.
    pub fn learn(&self, to: SocketAddr) {
        let mut known = self.0.borrow_mut();
        if !known.all.insert(to) {
            return;
        }
        known.by_age.push_back(to);
        if known.by_age.len() > GREETERS
            && let Some(oldest) = known.by_age.pop_front()
        {
            known.all.remove(&oldest);
        }
    }

    /// The client has spoken first. Costs a look where nothing was known, as of nearly all destinations.
    pub fn forget(&self, to: SocketAddr) {
        let mut known = self.0.borrow_mut();
        if known.all.remove(&to) {
            known.by_age.retain(|address| *address != to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_bounded_and_can_be_unlearned() {
        let greeters = Greeters::default();
        let at = |n: usize| SocketAddr::from(([10, 0, 0, 1], u16::try_from(n).unwrap()));
        for n in 0..=GREETERS {
            greeters.learn(at(n));
            greeters.learn(at(n));
        }
        assert!(!greeters.contains(at(0)) && greeters.contains(at(1)));
        assert!(greeters.contains(at(GREETERS)));
        greeters.forget(at(1));
        greeters.forget(at(0));
        assert!(!greeters.contains(at(1)));
        greeters.learn(at(0));
        assert!(greeters.contains(at(0)) && greeters.contains(at(2)));
        assert_eq!(greeters.0.borrow().by_age.len(), GREETERS);
    }
}
