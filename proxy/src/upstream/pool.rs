//! Upstream connections of one worker: HTTP/1 ones idle in stacks, HTTP/2 ones shared.
//!
//! Last in, first out: the warmest connection is used again, the others age and are closed.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak as WeakRc};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use selvedge_contract::defaults::upstream::{IDLE_HTTP1, IDLE_HTTP2, PENDING_WAIT};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use crate::balance::caps::Caps;
use crate::balance::{Endpoint, Lease, Service};
use crate::error::{Error, ErrorKind};
use crate::message::hash::Table;
use crate::protocol::http1::SharedConn;
use crate::worker::Worker;

use super::habit::{Habit, Reuse};
use super::http2::Shared;
use super::setbacks::Setbacks;

/// For so long a pool hands connections to its own requests while others wait as well, on other workers or
/// for other endpoints; then one goes to whoever has waited longest. Each time costs a connection.
const OWN_TURN: Duration = Duration::from_millis(10);

/// All pools of a worker, by endpoint.
#[derive(Debug, Default)]
pub struct Pools {
    by_endpoint: RefCell<Table<u64, Rc<Pool>>>,
}

/// The connections of a worker to one endpoint.
#[derive(Debug)]
pub struct Pool {
    endpoint: Arc<Endpoint>,
    service: Weak<Service>,
    caps: Arc<Caps>,
    life: Duration,
    idle: RefCell<Vec<Idle>>,
    habit: Habit,
    /// Of the task that looks after idle connections.
    tended_by: RefCell<Option<Waker>>,
    /// Requests that wait for a connection of this very pool.
    waiting: Cell<u32>,
    /// When it has last closed a connection for others, though some of its own requests waited.
    gave_way: Cell<Instant>,
    /// HTTP/2 connections in use.
    pub shared: RefCell<Vec<Rc<Shared>>>,
    /// An HTTP/2 connection is being made: others wait for it instead of making one each.
    pub connecting: Cell<bool>,
    /// HTTP/2 connections that came to nothing.
    pub setbacks: Setbacks,
    /// Signals that a connection came back, was made, or could not be made.
    pub changed: Rc<Notify>,
}

#[derive(Debug)]
struct Idle {
    conn: SharedConn,
    permit: Permit,
    since: Instant,
}

/// The right to hold one connection; counted over all workers.
pub type Permit = OwnedSemaphorePermit;

impl Pools {
    /// The pool of an endpoint.
    #[must_use]
    pub fn of(&self, lease: &Lease) -> Rc<Pool> {
        let endpoint = lease.endpoint();
        if let Some(pool) = self.by_endpoint.borrow().get(&endpoint.id) {
            return pool.clone();
        }
        let pool = Rc::new(Pool {
            endpoint: endpoint.clone(),
            service: Arc::downgrade(lease.service()),
            caps: lease.service().caps.clone(),
            life: life(lease),
            idle: RefCell::default(),
            habit: Habit::default(),
            tended_by: RefCell::default(),
            waiting: Cell::new(0),
            gave_way: Cell::new(Instant::now()),
            shared: RefCell::default(),
            connecting: Cell::new(false),
            setbacks: Setbacks::default(),
            changed: Rc::new(Notify::new()),
        });
        // Ends with the pool, and with the worker.
        tokio::task::spawn_local(tend(Rc::downgrade(&pool)));
        self.by_endpoint
            .borrow_mut()
            .insert(endpoint.id, pool.clone());
        pool
    }

    /// Closes idle connections where requests wait for the right to make one elsewhere: for another
    /// endpoint of their service, or on another worker.
    pub fn give_way(&self) {
        for pool in self.by_endpoint.borrow().values() {
            let waiting = pool.caps.pending.load(Relaxed);
            if waiting > 0 && pool.waiting.get() == 0 {
                pool.close_oldest(waiting as usize);
            }
        }
    }

    /// Closes what has been idle too long, and forgets endpoints that are gone. Called once a
    /// second; its cost grows with idle connections, not with requests.
    pub fn reap(&self, now: Instant) {
        self.by_endpoint.borrow_mut().retain(|_, pool| {
            pool.reap(now);
            // A service that a reload removed is gone once its last request is.
            let service = pool.service.upgrade();
            let known =
                service.is_some_and(|service| service.endpoints.load().contains(pool.endpoint.id));
            if !known {
                pool.idle.borrow_mut().clear();
            }
            known || !pool.is_empty()
        });
    }

    /// Takes connections out whose peers are not trusted any more: those in use end with what is in
    /// flight.
    pub fn leave_distrusted(&self) {
        for pool in self.by_endpoint.borrow().values() {
            pool.idle
                .borrow_mut()
                .retain(|idle| !idle.conn.borrow().io().is_leaving());
            pool.shared.borrow_mut().retain(|conn| !conn.is_leaving());
            // Who waits for a place may make a new connection.
            pool.changed.notify_waiters();
        }
    }

    /// Closes everything that is idle.
    pub fn clear(&self) {
        self.by_endpoint.borrow_mut().clear();
    }
}

/// Idle life of the connections of a lease. An endpoint of the mesh behind a service that speaks HTTP/1
/// keeps its connections as those of HTTP/2 are kept: each costs a handshake of both sides.
fn life(lease: &Lease) -> Duration {
    let spec = &lease.service().spec;
    if lease.speaks() != spec.speaks && spec.idle == IDLE_HTTP1 {
        return IDLE_HTTP2;
    }
    spec.idle
}

impl Pool {
    fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }

    fn reap(&self, now: Instant) {
        let old = |since: Instant| now.saturating_duration_since(since) >= self.life;
        // The oldest are at the bottom.
        let mut idle = self.idle.borrow_mut();
        // What the endpoint has closed is no longer there.
        if let Some(oldest) = idle.first() {
            let age = now.saturating_duration_since(oldest.since);
            self.habit.outlived(age);
        }
        let dead = idle.partition_point(|conn| old(conn.since));
        idle.drain(..dead);
        drop(idle);
        self.shared
            .borrow_mut()
            .retain(|conn| !conn.is_closed() && !conn.idle_since(now).is_some_and(old));
    }

    /// An idle HTTP/1 connection that is still open and silent, and that the request may use.
    #[must_use]
    pub fn take_idle(&self, reuse: Reuse, now: Instant) -> Option<(SharedConn, Permit)> {
        loop {
            let mut idle = self.idle.borrow_mut();
            // The youngest: those below it are older still.
            let since = idle.last()?.since;
            let age = now.saturating_duration_since(since);
            if age > self.habit.limit(reuse, self.life, now) || reuse == Reuse::Never {
                return None;
            }
            let Idle { conn, permit, .. } = idle.pop()?;
            drop(idle);
            let reusable = conn.borrow_mut().is_reusable();
            if reusable {
                return Some((conn, permit));
            }
            self.habit.note(now, age);
        }
    }

    /// Takes a connection back, or closes it where its place is wanted elsewhere.
    pub fn put_idle(&self, conn: SharedConn, permit: Permit, now: Instant) {
        let here = self.waiting.get();
        let elsewhere = self.caps.pending.load(Relaxed) > here;
        let own = now.saturating_duration_since(self.gave_way.get()) < OWN_TURN;
        if elsewhere && (here == 0 || !own) {
            // To whoever has waited longest, here or there.
            self.gave_way.set(now);
            return;
        }
        if let Some(waker) = &*self.tended_by.borrow() {
            let mut cx = Context::from_waker(waker);
            // Ready is no matter: it is looked at before it is used.
            let _ = conn.borrow().io().socket().poll_read_ready(&mut cx);
        }
        self.idle.borrow_mut().push(Idle {
            conn,
            permit,
            since: now,
        });
        self.changed.notify_one();
    }

    fn close_oldest(&self, count: usize) {
        let mut idle = self.idle.borrow_mut();
        let closed = count.min(idle.len());
        idle.drain(..closed);
        drop(idle);
        let mut left = count - closed;
        self.shared.borrow_mut().retain(|shared| {
            let close = left > 0 && shared.is_idle();
            left -= usize::from(close);
            !close
        });
    }

    /// Takes out what the endpoint has closed, and learns from when it did.
    fn sweep(&self, cx: &mut Context<'_>) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|idle| {
            let open = idle.conn.borrow_mut().is_open_and_silent(cx);
            if !open {
                self.habit
                    .note(now, now.saturating_duration_since(idle.since));
            }
            open
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(waker) = self.tended_by.take() {
            waker.wake();
        }
    }
}

/// Looks after a pool's idle connections: woken when one of them is closed by its endpoint, or has
/// something to say, it is taken out before a request meets it.
async fn tend(pool: WeakRc<Pool>) {
    let tending = poll_fn(|cx| {
        let Some(pool) = pool.upgrade() else {
            return Poll::Ready(());
        };
        let known = pool.tended_by.borrow().is_some();
        if !known {
            pool.tended_by.replace(Some(cx.waker().clone()));
        }
        pool.sweep(cx);
        Poll::Pending
    });
    // Without the runtime's budget, which would have it see nothing where there is something.
    tokio::task::coop::unconstrained(tending).await;
}

/// What waiting for a connection brought.
#[derive(Debug)]
pub enum Turn {
    /// The right to make a new one.
    New(Permit),
    /// One that came back.
    Idle(SharedConn, Permit),
}

/// The right to make a connection; at the cap, the first to come free, within [`PENDING_WAIT`].
///
/// # Errors
/// [`ErrorKind::TooManyPending`], [`ErrorKind::PendingTimeout`].
pub async fn wait_for_turn(
    worker: &Worker,
    pool: &Pool,
    service: &Arc<Service>,
    reuse: Reuse,
) -> Result<Turn, Error> {
    let caps = &service.caps;
    // Its own are too old for this request, and would only keep it from a new one.
    if caps.connections.available_permits() == 0 {
        pool.close_oldest(1);
    }
    if let Ok(permit) = caps.connections.clone().try_acquire_owned() {
        return Ok(Turn::New(permit));
    }
    let _waiting = Waiting::begin(service)?;
    let _here = WaitingHere::begin(pool);
    worker.ask_for_places();
    // One that has come back to the pool just now was in use just now.
    let reuse = if reuse == Reuse::Never {
        Reuse::Young
    } else {
        reuse
    };
    // Cancelled by the time-out or with the request; neither branch holds anything then.
    let wait = async {
        loop {
            tokio::select! {
                permit = caps.connections.clone().acquire_owned() => {
                    let permit = permit.map_err(|_| ErrorKind::PendingTimeout)?;
                    return Ok(Turn::New(permit));
                }
                () = pool.changed.notified() => {
                    if let Some((conn, permit)) = pool.take_idle(reuse, worker.now()) {
                        return Ok(Turn::Idle(conn, permit));
                    }
                }
            }
        }
    };
    tokio::time::timeout(PENDING_WAIT, wait)
        .await
        .unwrap_or_else(|_| Err(ErrorKind::PendingTimeout.into()))
}

/// Counts a request that waits for a connection of this pool, until it is dropped.
pub(super) struct WaitingHere<'a>(&'a Pool);

impl<'a> WaitingHere<'a> {
    /// One more.
    pub(super) fn begin(pool: &'a Pool) -> Self {
        pool.waiting.set(pool.waiting.get() + 1);
        Self(pool)
    }
}

impl Drop for WaitingHere<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// The right to make a connection that belongs to no pool; at the cap, within [`PENDING_WAIT`].
///
/// # Errors
/// [`ErrorKind::TooManyPending`], [`ErrorKind::PendingTimeout`].
pub async fn wait_for_place(worker: &Worker, service: &Arc<Service>) -> Result<Permit, Error> {
    let connections = &service.caps.connections;
    if let Ok(permit) = connections.clone().try_acquire_owned() {
        return Ok(permit);
    }
    let _waiting = Waiting::begin(service)?;
    worker.ask_for_places();
    // Cancelled by the time-out or with the connection that it is for; it holds nothing then.
    let wait = connections.clone().acquire_owned();
    match tokio::time::timeout(PENDING_WAIT, wait).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(ErrorKind::PendingTimeout.into()),
    }
}

/// Counts a waiting request until it is dropped.
pub struct Waiting<'a>(&'a Service);

impl<'a> Waiting<'a> {
    /// One more.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyPending`].
    pub fn begin(service: &'a Service) -> Result<Self, Error> {
        let pending = &service.caps.pending;
        if pending.fetch_add(1, Relaxed) >= service.spec.max_pending {
            pending.fetch_sub(1, Relaxed);
            return Err(ErrorKind::TooManyPending.into());
        }
        Ok(Self(service))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.caps.pending.fetch_sub(1, Relaxed);
    }
}

/// Runs [`Pools::reap`] once a second, until the worker ends.
pub async fn reap_forever(worker: Rc<Worker>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        worker.pools.reap(worker.now());
        // A worker without requests would hold on to what a reload has taken out of force.
        let _ = worker.snapshot();
    }
}
