//! Which proxies there are, as far as they have certificates, and which bundle each of them has: what a
//! rotation has to wait for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::log::Entry;
use crate::rotation::{Ends, Readiness};
use crate::validity::unix_seconds;

/// Most processes that are known one by one; of others only the end of their certificates is.
const MAX_KNOWN: usize = 50_000;
/// Longest name of a process.
pub const MAX_INSTANCE: usize = 64;

/// See the module. Times are seconds since 1970.
#[derive(Debug, Default)]
pub struct Holders(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<Holder, Held>,
    /// When the last certificate ends that was ever issued to a workload.
    last_end: u64,
    /// The same of those whose owners did not say which process they are, or were too many.
    unnamed_end: u64,
}

/// One process of an identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Holder {
    id: String,
    instance: String,
}

#[derive(Debug, Default)]
struct Held {
    /// When its last certificate ends.
    ends: u64,
    /// SHA-256 of the bundle that it said it has.
    bundle: Option<[u8; 32]>,
}

/// A proxy that has not said that it has the bundle in force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Waiting {
    /// Whose.
    pub id: String,
    /// Which of its processes.
    pub instance: String,
    /// When its certificate ends: then it is not waited for any longer.
    pub ends: u64,
}

/// Whether a text may be the name of a process: up to 64 letters, digits and dashes.
#[must_use]
pub fn is_instance(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=MAX_INSTANCE).contains(&text.len()) && text.bytes().all(plain)
}

impl Holders {
    /// Takes note of a certificate, or of a token: who holds one of those trusts nobody by it, so nobody
    /// waits for what its holder knows; what signed it stays in force until it ends.
    pub fn issued(&self, entry: &Entry, now: SystemTime) {
        let mut inner = self.inner();
        inner.last_end = inner.last_end.max(entry.not_after);
        if entry.kind.is_some() {
            return;
        }
        let named = entry.instance.as_ref().is_some_and(|instance| {
            inner
                .hold(&entry.id, instance, entry.not_after, now)
                .is_some()
        });
        if !named {
            inner.unnamed_end = inner.unnamed_end.max(entry.not_after);
        }
    }

    /// Takes note that a process has a bundle. One that was never given a certificate is nobody.
    pub fn acknowledged(&self, id: &str, instance: &str, bundle: [u8; 32]) {
        let holder = Holder {
            id: id.to_owned(),
            instance: instance.to_owned(),
        };
        if let Some(held) = self.inner().known.get_mut(&holder) {
            held.bundle = Some(bundle);
        }
    }

    /// When the last certificates end that were ever issued.
    #[must_use]
    pub fn ends(&self) -> Ends {
        let inner = self.inner();
        Ends {
            all: inner.last_end,
            unnamed: inner.unnamed_end,
        }
    }

    /// How many there are, and how many do not have `bundle`.
    #[must_use]
    pub fn readiness(&self, bundle: &[u8; 32], now: SystemTime) -> Readiness {
        let now = unix_seconds(now).unwrap_or(0);
        let inner = self.inner();
        let alive = || inner.known.values().filter(|held| held.ends >= now);
        let waiting = alive().filter(|held| held.bundle.as_ref() != Some(bundle));
        Readiness {
            known: alive().count(),
            waiting: waiting.count(),
        }
    }

    /// Up to `most` of those that do not have `bundle`, by name.
    #[must_use]
    pub fn waiting(&self, bundle: &[u8; 32], most: usize, now: SystemTime) -> Vec<Waiting> {
        let now = unix_seconds(now).unwrap_or(0);
        let inner = self.inner();
        let waits = |held: &Held| held.ends >= now && held.bundle.as_ref() != Some(bundle);
        let waiting = inner.known.iter().filter(|(_, held)| waits(held));
        let mut waiting: Vec<_> = waiting
            .map(|(holder, held)| Waiting {
                id: holder.id.clone(),
                instance: holder.instance.clone(),
                ends: held.ends,
            })
            .collect();
        waiting.sort_unstable();
        waiting.truncate(most);
        waiting
    }

    /// Forgets those whose certificates have ended.
    pub fn sweep(&self, now: SystemTime) {
        self.inner().sweep(now);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// `None`: there are too many already.
    fn hold(&mut self, id: &str, instance: &str, ends: u64, now: SystemTime) -> Option<&mut Held> {
        let holder = Holder {
            id: id.to_owned(),
            instance: instance.to_owned(),
        };
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(&holder) {
            self.sweep(now);
            if self.known.len() >= MAX_KNOWN {
                return None;
            }
        }
        let held = self.known.entry(holder).or_default();
        held.ends = held.ends.max(ends);
        Some(held)
    }

    fn sweep(&mut self, now: SystemTime) {
        let now = unix_seconds(now).unwrap_or(0);
        self.known.retain(|_, held| held.ends >= now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const OLD: [u8; 32] = [1; 32];
    const NEW: [u8; 32] = [2; 32];

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn issue(holders: &Holders, id: &str, instance: Option<&str>, not_after: u64) {
        holders.issued(&entry(id, instance, not_after), at(0));
    }

    fn issue_at(holders: &Holders, id: &str, instance: &str, not_after: u64, now: u64) {
        holders.issued(&entry(id, Some(instance), not_after), at(now));
    }

    fn entry(id: &str, instance: Option<&str>, not_after: u64) -> Entry {
        Entry {
            at: 0,
            kind: None,
            serial: String::new(),
            id: id.to_owned(),
            not_before: 0,
            not_after,
            key: String::new(),
            root: String::new(),
            audience: Vec::new(),
            proof: String::new(),
            peer: None,
            instance: instance.map(str::to_owned),
        }
    }

    #[test]
    fn everybody_with_a_certificate_is_waited_for() {
        let holders = Holders::default();
        issue(&holders, "a", Some("1"), 100);
        issue(&holders, "a", Some("2"), 200);
        issue(&holders, "b", Some("1"), 200);
        // Who says not which process it is cannot say what it has, and is only waited out.
        issue(&holders, "c", None, 900);
        let (all, unnamed) = (900, 900);
        assert_eq!(holders.ends(), Ends { all, unnamed });
        let count = |bundle: &[u8; 32], now| {
            let readiness = holders.readiness(bundle, at(now));
            (readiness.known, readiness.waiting)
        };
        assert_eq!(count(&OLD, 50), (3, 3));
        holders.acknowledged("a", "1", OLD);
        holders.acknowledged("a", "2", NEW);
        // Nobody, of whom nothing is known.
        holders.acknowledged("a", "9", NEW);
        assert_eq!(count(&NEW, 50), (3, 2));
        assert_eq!(count(&NEW, 101), (2, 1));
        let waiting = holders.waiting(&NEW, 10, at(101));
        assert_eq!(waiting.len(), 1);
        assert_eq!((&*waiting[0].id, &*waiting[0].instance), ("b", "1"));
        // A renewal takes back nothing.
        issue(&holders, "a", Some("2"), 300);
        assert_eq!(count(&NEW, 250), (1, 0));
        holders.sweep(at(301));
        assert_eq!(count(&NEW, 0), (0, 0));
    }

    #[test]
    fn tokens_hold_up_the_end_of_a_root_and_nothing_else() {
        // One token of an application refused `activate` for as long as it was good.
        let holders = Holders::default();
        let kind = Some("jwt".to_owned());
        let token = Entry {
            kind,
            ..entry("a", None, 700)
        };
        holders.issued(&token, at(0));
        let (all, unnamed) = (700, 0);
        assert_eq!(holders.ends(), Ends { all, unnamed });
    }

    #[test]
    fn memory_is_bounded() {
        let holders = Holders::default();
        for n in 0..=MAX_KNOWN {
            issue(&holders, "a", Some(&n.to_string()), 100);
        }
        assert_eq!(holders.readiness(&OLD, at(0)).known, MAX_KNOWN);
        // Whoever is too many cannot say what it has, and is waited out.
        assert_eq!(holders.ends().unnamed, 100);
        issue_at(&holders, "a", "new", 200, 101);
        assert_eq!(holders.readiness(&OLD, at(101)).known, 1);
        assert_eq!(holders.ends().unnamed, 100);
    }
}
