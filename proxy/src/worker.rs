//! One worker: a thread with its own runtime, listeners, pools and buffers. Workers share nothing
//! but the snapshot, atomics and counters.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Waker};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::accept::{Census, Live};
use crate::balance::storm::Storm;
use crate::config::Snapshot;
use crate::discover::demand::Demand;
use crate::drain::Phase;
use crate::overload::{Gauge, Pressure, Spare};
use crate::protocol::greeters::Greeters;
use crate::telemetry::metrics::Metrics;
use crate::tls::bond::Bonds;
use crate::tls::peers::Peers;
use crate::upstream::{Dials, Pools};

/// What all workers and the control runtime share.
#[derive(Debug)]
pub struct Shared {
    snapshot: ArcSwap<Snapshot>,
    generation: AtomicU64,
    /// Counters.
    pub metrics: Arc<Metrics>,
    failed_reload: Mutex<Option<String>>,
    /// How far the drain is.
    pub drain: watch::Sender<Phase>,
    /// How short memory is.
    pub pressure: Gauge,
    /// Descriptors that are not for traffic.
    pub spare: Spare,
    /// Connections of each listener and address, for the caps.
    pub census: Census,
    /// Downstream connections that live, over all workers.
    pub live: Live,
    /// Connections that carry others on.
    pub dials: Dials,
    /// The chains that peers in the mesh have shown.
    pub peers: Peers,
    /// Told when some of them are not trusted any more.
    pub distrusted: watch::Sender<()>,
    /// Told when requests wait for the right to make a connection.
    pub places_wanted: watch::Sender<()>,
    /// Whether retries are to be left to others.
    pub storm: Storm,
    /// Who is asked for what no snapshot knows; set once, where there is discovery.
    pub demand: OnceLock<Arc<Demand>>,
}

impl Shared {
    /// Starts with a first snapshot.
    #[must_use]
    pub fn new(snapshot: Snapshot, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            generation: AtomicU64::new(snapshot.generation),
            snapshot: ArcSwap::from_pointee(snapshot),
            metrics,
            failed_reload: Mutex::new(None),
            drain: watch::Sender::new(Phase::Serving),
            pressure: Gauge::default(),
            spare: Spare::of_process(),
            census: Census::default(),
            live: Live::default(),
            dials: Dials::default(),
            peers: Peers::default(),
            distrusted: watch::Sender::new(()),
            places_wanted: watch::Sender::new(()),
            storm: Storm::default(),
            demand: OnceLock::new(),
        })
    }

    /// The snapshot in force.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Notes how the last reload went.
    pub fn last_reload(&self, failure: Option<String>) {
        *self
            .failed_reload
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Why the last reload failed, if it did.
    #[must_use]
    pub fn reload_failure(&self) -> Option<String> {
        self.failed_reload
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts another snapshot in force: requests that begin from now on see it.
    pub fn publish(&self, snapshot: Snapshot) {
        let generation = snapshot.generation;
        self.snapshot.store(Arc::new(snapshot));
        // After the snapshot: whoever sees the generation finds the snapshot.
        self.generation.store(generation, Ordering::Release);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Worker {
    /// Index, from 0.
    pub index: usize,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Upstream connections.
    pub pools: Pools,
    /// What ties connections to the trust in their peers.
    pub bonds: Bonds,
    /// Where servers speak first.
    pub greeters: Greeters,
    /// What it shares.
    pub shared: Arc<Shared>,
    cached: RefCell<Rc<Cached>>,
    /// The time as it was last read: near enough for idle connections, and free.
    clock: Cell<Instant>,
    /// Set with the drain, so that the path reads no shared state for it.
    stopping: Cell<bool>,
    wakers: RefCell<HashMap<u64, Waker>>,
    next_waker: Cell<u64>,
}

/// A connection's place among those that are woken when the drain begins.
#[derive(Debug)]
pub struct DrainWaker {
    worker: Rc<Worker>,
    key: u64,
    set: Cell<bool>,
}

impl DrainWaker {
    /// Registers the task, once: a task's waker stays the same.
    pub fn set(&self, cx: &Context<'_>) {
        if !self.set.replace(true) {
            let waker = cx.waker().clone();
            self.worker.wakers.borrow_mut().insert(self.key, waker);
        }
    }
}

impl Drop for DrainWaker {
    fn drop(&mut self) {
        self.worker.wakers.borrow_mut().remove(&self.key);
    }
}

/// A worker's own handle on a snapshot: cloning it touches no line that others write.
#[derive(Debug)]
pub struct Cached(Arc<Snapshot>);

impl std::ops::Deref for Cached {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        &self.0
    }
}

impl Worker {
    /// A worker with nothing on it.
    #[must_use]
    pub fn new(index: usize, shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            index,
            metrics: shared.metrics.clone(),
            pools: Pools::default(),
            bonds: Bonds::default(),
            greeters: Greeters::default(),
            cached: RefCell::new(Rc::new(Cached(shared.snapshot()))),
            shared,
            clock: Cell::new(Instant::now()),
            stopping: Cell::new(false),
            wakers: RefCell::default(),
            next_waker: Cell::new(0),
        })
    }

    /// Reads the clock.
    pub fn now(&self) -> Instant {
        let now = Instant::now();
        self.clock.set(now);
        now
    }

    /// The time as it was last read on this worker, at most a request or a second ago.
    #[must_use]
    pub const fn recently(&self) -> Instant {
        self.clock.get()
    }

    /// Has idle connections closed, here and on other workers, where requests wait for their places.
    pub fn ask_for_places(&self) {
        self.pools.give_way();
        self.shared.places_wanted.send_replace(());
    }

    /// A place among those that are woken when the drain begins.
    #[must_use]
    pub fn register(self: &Rc<Self>) -> DrainWaker {
        let key = self.next_waker.get();
        self.next_waker.set(key + 1);
        DrainWaker {
            worker: self.clone(),
            key,
            set: Cell::new(false),
        }
    }

    /// Connections end from now on: wakes those that are idle.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.end_idle();
    }

    /// How short memory is. One relaxed load of what hardly ever changes: what all workers share is
    /// asked, as a worker that has come to its end of memory is late with everything it is told.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        self.shared.pressure.level()
    }

    /// Whether this connection, which has us hold so many streams or pieces for a peer that does not
    /// read, is one of those that are cut off for want of memory. Who hoards a hundred is cut off at
    /// once, who reads one answer slowly most likely outlives the shortage. `looked` keeps when that
    /// was asked last: who reads fast, and wakes its task often, is not asked about more often.
    pub fn cuts_off(&self, hoard: impl FnOnce() -> usize, looked: &mut u32) -> bool {
        let pressure = self.pressure();
        if pressure < Pressure::RefuseRequests {
            return false;
        }
        let looks = self.shared.pressure.looks();
        if std::mem::replace(looked, looks) == looks {
            return false;
        }
        let factor = if pressure == Pressure::StopAccepting {
            16
        } else {
            1
        };
        fastrand::usize(..64) < hoard().saturating_mul(factor)
    }

    /// Closes what is idle upstream, and wakes connections of clients: those that are idle end.
    pub fn end_idle(&self) {
        self.pools.clear();
        for waker in self.wakers.borrow().values() {
            waker.wake_by_ref();
        }
    }

    /// The snapshot in force. One relaxed load while it has not changed.
    #[must_use]
    pub fn snapshot(&self) -> Rc<Cached> {
        let mut cached = self.cached.borrow_mut();
        if self.shared.generation.load(Ordering::Acquire) != cached.generation {
            *cached = Rc::new(Cached(self.shared.snapshot()));
        }
        cached.clone()
    }

    /// Whether the drain has begun.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Whether a connection should be closed as soon as it is idle. For want of memory only where it
    /// `has_served`: one that has just come is there for a request.
    #[must_use]
    pub fn ends(&self, has_served: bool) -> bool {
        self.stopping.get() || (has_served && self.pressure() > Pressure::None)
    }
}
