//! Upstream connections of one worker: HTTP/1 ones idle in stacks, HTTP/2 ones shared.
//!
//! Last in, first out: the warmest connection is used again, the others age and are closed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use selvedge_contract::defaults::upstream::{IDLE_HTTP1, IDLE_HTTP2, PENDING_WAIT};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

use crate::balance::{Endpoint, Lease, Service};
use crate::error::{Error, ErrorKind};
use crate::message::hash::Table;
use crate::protocol::http1::SharedConn;
use crate::worker::Worker;

use super::http2::Shared;
use super::setbacks::Setbacks;

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
    life: Duration,
    idle: RefCell<Vec<Idle>>,
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
            life: life(lease),
            idle: RefCell::default(),
            shared: RefCell::default(),
            connecting: Cell::new(false),
            setbacks: Setbacks::default(),
            changed: Rc::new(Notify::new()),
        });
        self.by_endpoint
            .borrow_mut()
            .insert(endpoint.id, pool.clone());
        pool
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
        let dead = idle.partition_point(|conn| old(conn.since));
        idle.drain(..dead);
        drop(idle);
        self.shared
            .borrow_mut()
            .retain(|conn| !conn.is_closed() && !conn.idle_since(now).is_some_and(old));
    }

    /// An idle HTTP/1 connection that is still open and silent.
    #[must_use]
    pub fn take_idle(&self) -> Option<(SharedConn, Permit)> {
        loop {
            let Idle { conn, permit, .. } = self.idle.borrow_mut().pop()?;
            let reusable = conn.borrow_mut().is_reusable();
            if reusable {
                return Some((conn, permit));
            }
        }
    }

    /// Takes a connection back.
    pub fn put_idle(&self, conn: SharedConn, permit: Permit, now: Instant) {
        self.idle.borrow_mut().push(Idle {
            conn,
            permit,
            since: now,
        });
        self.changed.notify_one();
    }
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
pub async fn wait_for_turn(pool: &Pool, service: &Arc<Service>) -> Result<Turn, Error> {
    if let Ok(permit) = service.connections.clone().try_acquire_owned() {
        return Ok(Turn::New(permit));
    }
    let _waiting = Waiting::begin(service)?;
    // Cancelled by the time-out or with the request; neither branch holds anything then.
    let wait = async {
        loop {
            tokio::select! {
                permit = service.connections.clone().acquire_owned() => {
                    let permit = permit.map_err(|_| ErrorKind::PendingTimeout)?;
                    return Ok(Turn::New(permit));
                }
                () = pool.changed.notified() => {
                    if let Some((conn, permit)) = pool.take_idle() {
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

/// The right to make a connection that belongs to no pool; at the cap, within [`PENDING_WAIT`].
///
/// # Errors
/// [`ErrorKind::TooManyPending`], [`ErrorKind::PendingTimeout`].
pub async fn wait_for_place(service: &Arc<Service>) -> Result<Permit, Error> {
    if let Ok(permit) = service.connections.clone().try_acquire_owned() {
        return Ok(permit);
    }
    let _waiting = Waiting::begin(service)?;
    // Cancelled by the time-out or with the connection that it is for; it holds nothing then.
    let wait = service.connections.clone().acquire_owned();
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
        if service.pending.fetch_add(1, Relaxed) >= service.spec.max_pending {
            service.pending.fetch_sub(1, Relaxed);
            return Err(ErrorKind::TooManyPending.into());
        }
        Ok(Self(service))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }
}

/// Runs [`Pools::reap`] once a second, until the worker ends.
pub async fn reap_forever(worker: Rc<Worker>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        worker.pools.reap(worker.now());
    }
}
