//! Certificates that were issued here and have not ended. No other proves who a caller is: whoever has stolen
//! what signs can make any certificate, and would exchange it for one that is good after the theft is mended.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::certificate::X509Certificate;

use crate::log::Entry;
use crate::records::OWN;
use crate::signer::hex;
use crate::validity::{Validity, unix_seconds};

/// Most certificates that are remembered, 21 MB of them: eight for each process that is known one by one.
const MOST: usize = 400_000;

/// See the module. Times are seconds since 1970.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// When each ends.
    known: HashMap<Mark, u64>,
    /// When the last one ends for which there was no room: until then nobody is refused.
    beyond: u64,
}

/// SHA-256 of what makes a certificate the one that was issued. A forgery has another key or owner, though
/// its serial number may be copied.
type Mark = [u8; 32];

/// What is known of a certificate, in the words of the log.
pub(crate) struct Leaf<'a> {
    pub(crate) serial: &'a str,
    pub(crate) key: &'a str,
    pub(crate) id: &'a str,
    pub(crate) not_after: u64,
}

impl Leaf<'_> {
    fn mark(&self) -> Mark {
        let Self {
            serial,
            key,
            id,
            not_after,
        } = self;
        // None of the first three has a space in it.
        let text = format!("{serial} {key} {not_after} {id}");
        let mut mark = Mark::default();
        for (to, from) in mark
            .iter_mut()
            .zip(digest(&SHA256, text.as_bytes()).as_ref())
        {
            *to = *from;
        }
        mark
    }
}

impl Ledger {
    /// The certificates of a log, without tokens and the CA's own.
    pub(crate) fn of(entries: &[Entry], now: SystemTime) -> Self {
        let this = Self::default();
        let theirs = |entry: &&Entry| entry.kind.is_none() && entry.proof != OWN;
        for entry in entries.iter().filter(theirs) {
            let leaf = Leaf {
                serial: &entry.serial,
                key: &entry.key,
                id: &entry.id,
                not_after: entry.not_after,
            };
            this.add(&leaf, now);
        }
        this
    }

    /// Takes note of a certificate.
    pub(crate) fn add(&self, leaf: &Leaf<'_>, now: SystemTime) {
        let (now, mark) = (unix_seconds(now).unwrap_or(0), leaf.mark());
        if leaf.not_after < now {
            return;
        }
        let mut inner = self.inner();
        if inner.known.len() >= MOST {
            inner.known.retain(|_, ends| *ends >= now);
        }
        if inner.known.len() < MOST {
            inner.known.insert(mark, leaf.not_after);
        } else {
            inner.beyond = inner.beyond.max(leaf.not_after);
        }
    }

    /// Whether this certificate of `id`, with a public key of this SHA-256 (hexadecimal), may have been
    /// issued here: it was, or there were more than are remembered.
    pub(crate) fn holds(
        &self,
        certificate: &X509Certificate<'_>,
        (id, key): (&str, &str),
        now: SystemTime,
    ) -> bool {
        let serial = hex(certificate.raw_serial());
        let not_after = Validity::of(certificate).not_after;
        let leaf = Leaf {
            serial: &serial,
            key,
            id,
            not_after,
        };
        let inner = self.inner();
        inner.known.contains_key(&leaf.mark()) || inner.beyond >= unix_seconds(now).unwrap_or(0)
    }

    /// Forgets those that have ended.
    pub(crate) fn sweep(&self, now: SystemTime) {
        let now = unix_seconds(now).unwrap_or(0);
        self.inner().known.retain(|_, ends| *ends >= now);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn leaf(serial: &str, not_after: u64) -> Leaf<'_> {
        let (key, id) = ("ab", "spiffe://shop.local/ns/shop/sa/web");
        Leaf {
            serial,
            key,
            id,
            not_after,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn knows(ledger: &Ledger, leaf: &Leaf<'_>) -> bool {
        ledger.inner().known.contains_key(&leaf.mark())
    }

    #[test]
    fn a_copied_serial_number_is_not_enough() {
        let ledger = Ledger::default();
        ledger.add(&leaf("1", 100), at(0));
        assert!(knows(&ledger, &leaf("1", 100)));
        for (key, id, not_after) in [("ac", "a", 100), ("ab", "a", 100), ("ab", "a", 101)] {
            let other = Leaf {
                serial: "1",
                key,
                id,
                not_after,
            };
            assert!(!knows(&ledger, &other));
        }
        assert!(!knows(&ledger, &leaf("1", 101)));
        ledger.sweep(at(101));
        assert!(!knows(&ledger, &leaf("1", 100)));
    }

    #[test]
    fn memory_is_bounded_and_whoever_is_too_many_is_not_refused() {
        let ledger = Ledger::default();
        for n in 0..MOST {
            ledger.add(&leaf(&n.to_string(), 100), at(0));
        }
        assert_eq!(ledger.inner().beyond, 0);
        ledger.add(&leaf("one more", 90), at(0));
        let size = || ledger.inner().known.len();
        let beyond = || ledger.inner().beyond;
        assert_eq!((size(), beyond()), (MOST, 90));
        // Those that have ended make room.
        ledger.add(&leaf("later", 200), at(101));
        assert_eq!(ledger.inner().known.len(), 1);
    }
}
