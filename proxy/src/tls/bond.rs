//! What ties a mesh connection to the trust in its peer: when that ends, so does the connection,
//! politely first, then by force.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};

use selvedge_contract::defaults::trust::GRACE;
use tokio::time::Instant;

use super::peers::Chain;

/// The bonds of a worker.
#[derive(Debug, Default)]
pub struct Bonds(Rc<Live>);

#[derive(Debug, Default)]
struct Live {
    bonds: RefCell<HashMap<u64, Weak<Bond>>>,
    next: Cell<u64>,
}

/// The bond of one connection, held as long as it lives. The path asks it for two flags, which only
/// [`Bonds::sweep`] and [`Bonds::cut`] write, on the same thread.
#[derive(Debug)]
pub struct Bond {
    chain: Arc<Chain>,
    /// Its peer is not trusted any more: it takes nothing new, and is cut off then.
    ends_by: Cell<Option<Instant>>,
    cut: Cell<bool>,
    /// The task that waits for its bytes.
    waker: RefCell<Option<Waker>>,
    among: Rc<Live>,
    key: u64,
}

impl Bonds {
    /// A bond for a connection whose peer has shown this chain.
    #[must_use]
    pub fn tie(&self, chain: Arc<Chain>) -> Rc<Bond> {
        let key = self.0.next.get();
        self.0.next.set(key + 1);
        let bond = Rc::new(Bond {
            chain,
            ends_by: Cell::new(None),
            cut: Cell::new(false),
            waker: RefCell::new(None),
            among: self.0.clone(),
            key,
        });
        self.0.bonds.borrow_mut().insert(key, Rc::downgrade(&bond));
        bond
    }

    /// Asks every connection whose peer is not trusted any more to end within [`GRACE`], and lets those be
    /// whose peer is trusted again. Its cost
    /// grows with connections; it is paid once a change.
    pub fn sweep(&self, now: Instant) {
        for bond in self.live() {
            match (bond.is_leaving(), bond.chain.is_untrusted()) {
                (false, true) => {
                    bond.ends_by.set(Some(now + GRACE));
                    bond.wake();
                }
                // It is trusted again before its time was over.
                (true, false) if !bond.is_cut() => bond.ends_by.set(None),
                _ => {}
            }
        }
    }

    /// Cuts off those whose time is over. Gives the time of the next.
    pub fn cut(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for bond in self.live() {
            match bond.ends_by.get() {
                Some(by) if by <= now => {
                    bond.cut.set(true);
                    bond.wake();
                }
                Some(by) => next = Some(next.map_or(by, |next| next.min(by))),
                None => {}
            }
        }
        next
    }

    /// Out of the map, as whatever is woken may drop its own.
    fn live(&self) -> Vec<Rc<Bond>> {
        let bonds = self.0.bonds.borrow();
        bonds.values().filter_map(Weak::upgrade).collect()
    }
}

impl Bond {
    /// Whether the connection is to end as soon as it has nothing in flight.
    #[must_use]
    pub const fn is_leaving(&self) -> bool {
        self.ends_by.get().is_some()
    }

    /// Whether it is cut off: nothing more is read from it, nor written to it.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut.get()
    }

    /// What its reader and writer get then.
    ///
    /// # Errors
    /// Of kind `ConnectionAborted`, if it is cut off.
    pub fn check(&self) -> io::Result<()> {
        if self.is_cut() {
            let why = "the peer is not trusted any more";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        Ok(())
    }

    /// Keeps the task that waits for bytes, so that it can be woken for the end.
    pub fn note(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Drop for Bond {
    fn drop(&mut self) {
        self.among.bonds.borrow_mut().remove(&self.key);
    }
}
