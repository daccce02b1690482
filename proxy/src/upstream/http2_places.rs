//! A place on an HTTP/2 connection to an endpoint: where there is one, or how one is made.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use selvedge_contract::defaults::upstream::{PENDING_WAIT, PING_AFTER};
use tokio::time::Instant;

use crate::balance::Lease;
use crate::error::{Error, ErrorKind};
use crate::overload::Pressure;
use crate::protocol::http2::conn::Phase;
use crate::protocol::http2::frame::Reason;
use crate::protocol::http2::{Conn, End, SharedConn};
use crate::timer::Timer;
use crate::worker::Worker;

use super::connect;
use super::http2::{OWN, Shared};
use super::pool::{Permit, Pool, Waiting, WaitingHere};
use super::setbacks::Setbacks;

/// A connection with room for a stream: one that is there, or the one being made, or a new one.
/// Waits for a place, if it must, no longer than [`PENDING_WAIT`].
pub(super) async fn checkout(
    worker: &Rc<Worker>,
    lease: &Lease,
    pool: &Rc<Pool>,
) -> Result<SharedConn, Error> {
    if let Some(conn) = with_place(pool) {
        return Ok(conn);
    }
    // Boxed: a new connection is rare, and its future large. Cancelled with the request.
    let found = Box::pin(wait_for_place(worker, lease, pool));
    found.await
}

fn with_place(pool: &Pool) -> Option<SharedConn> {
    let shared = pool.shared.borrow();
    let mut newest_first = shared.iter().rev();
    let found = newest_first.find(|s| s.conn.borrow().has_place());
    found.map(|s| s.conn.clone())
}

/// Whether a connection is there whose peer has not said yet what it takes.
fn is_fresh(pool: &Pool) -> bool {
    let fresh = |s: &Rc<Shared>| {
        let conn = s.conn.borrow();
        conn.takes_streams() && !conn.peer.known
    };
    pool.shared.borrow().iter().any(fresh)
}

async fn wait_for_place(
    worker: &Rc<Worker>,
    lease: &Lease,
    pool: &Rc<Pool>,
) -> Result<SharedConn, Error> {
    let service = lease.service();
    let mut waiting = None;
    let until = Instant::now() + PENDING_WAIT;
    let begun = pool.setbacks.mark();
    loop {
        // Before the look: what is told between look and wait is not missed.
        let changed = pool.changed.notified();
        if let Some(conn) = with_place(pool) {
            pool.setbacks.forget();
            return Ok(conn);
        }
        pool.setbacks.check(begun, Instant::now())?;
        // The peer takes no streams at all: another connection would change nothing.
        let closed_to_all = |s: &Rc<Shared>| {
            let conn = s.conn.borrow();
            conn.takes_streams() && conn.peer.known && conn.peer.streams == 0
        };
        if pool.shared.borrow().iter().any(closed_to_all) {
            return Err(ErrorKind::UpstreamRefused.into());
        }
        if !pool.connecting.get() && !is_fresh(pool) {
            let permit = match service.caps.connections.clone().try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) if waiting.is_none() => {
                    waiting = Some((Waiting::begin(service)?, WaitingHere::begin(pool)));
                    worker.ask_for_places();
                    continue;
                }
                Err(_) => {
                    let freed = service.caps.connections.clone().acquire_owned();
                    let permit = tokio::select! {
                        permit = freed => permit.map_err(|_| ErrorKind::PendingTimeout)?,
                        () = changed => continue,
                        () = tokio::time::sleep_until(until) => {
                            return Err(ErrorKind::PendingTimeout.into());
                        }
                    };
                    permit
                }
            };
            open(worker, lease, pool, permit).await?;
            continue;
        }
        if tokio::time::timeout_at(until, changed).await.is_err() {
            return Err(ErrorKind::PendingTimeout.into());
        }
    }
}

/// Tells the others that a connection was made, or was not, even when this future is dropped.
struct Connecting<'a>(&'a Pool);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.changed.notify_waiters();
    }
}

/// Opens a connection. It has places once the peer's settings have come.
async fn open(
    worker: &Rc<Worker>,
    lease: &Lease,
    pool: &Rc<Pool>,
    permit: Permit,
) -> Result<(), Error> {
    pool.connecting.set(true);
    let _connecting = Connecting(pool);
    let io = connect::connect(worker, lease, None).await?;
    let conn = Conn::new(io, End::Client, OWN, Some(pool.changed.clone()));
    let conn = Rc::new(RefCell::new(conn));
    pool.shared.borrow_mut().push(Rc::new(Shared {
        conn: conn.clone(),
        idle_since: Cell::new(None),
    }));
    let service = lease.service().name().clone();
    // The pool ends with its last request, not with its connections.
    let pool = Rc::downgrade(pool);
    let holder = worker.clone();
    tokio::task::spawn_local(async move {
        drive(&holder, &conn, permit).await;
        if let Some(pool) = pool.upgrade() {
            judge(&conn.borrow(), &pool.setbacks);
            pool.changed.notify_waiters();
        }
        if let Some(fatal) = conn.borrow().fatal {
            tracing::debug!(%service, ?fatal, "HTTP/2 upstream connection");
        }
    });
    Ok(())
}

/// Whether a connection that has ended ever was one.
fn judge(conn: &Conn, setbacks: &Setbacks) {
    if conn.peer.known {
        return setbacks.forget();
    }
    // Ended here, and the next may do.
    if conn.is_leaving() || conn.fatal.is_some() {
        return;
    }
    let error = conn.error.as_ref();
    let inner = error.and_then(|e| e.get_ref()?.downcast_ref::<rustls::Error>());
    let kind = match inner {
        Some(rustls::Error::AlertReceived(_)) => ErrorKind::UpstreamTls,
        _ => ErrorKind::UpstreamRefused,
    };
    let why = error.map_or_else(|| "no word of HTTP/2".to_owned(), ToString::to_string);
    setbacks.note(kind, &why, Instant::now());
}

/// Moves a connection's frames until the peer closes it, it has done its work, or the peer shows
/// no sign of life while streams wait for it.
async fn drive(worker: &Worker, conn: &SharedConn, _permit: Permit) {
    let mut timer = Timer::new();
    let mut patience = Patience::default();
    let mut check_at = Instant::now() + PING_AFTER;
    let mut asked = false;
    poll_fn(|cx| {
        loop {
            std::task::ready!(patience.poll(cx, worker));
            let mut conn = conn.borrow_mut();
            if conn.poll_drive(cx).is_ready() {
                return Poll::Ready(());
            }
            if conn.phase() == Phase::Open && conn.is_done() {
                conn.finish(Reason::NO_ERROR);
                check_at = Instant::now() + PING_AFTER;
                continue;
            }
            std::task::ready!(timer.poll_at(cx, check_at));
            check_at = Instant::now() + PING_AFTER;
            let heard = std::mem::take(&mut conn.heard);
            if conn.phase() == Phase::Closing || (asked && !heard) {
                return Poll::Ready(());
            }
            asked = !heard && conn.live() > 0;
            if asked {
                conn.ask_for_life();
            }
        }
    })
    .await;
    conn.borrow_mut().close();
}

/// How often a connection that waits for memory looks whether there is some, ...
const LOOK: Duration = Duration::from_millis(10);
/// ... and for how many times it may wait: who does not hoard must get on.
const LOOKS: u32 = 100;

/// Leaves what an endpoint sends with the kernel while memory is so short that requests are refused:
/// whatever is read would have to be held, and who hoards it is cut off meanwhile.
#[derive(Default)]
struct Patience {
    timer: Timer,
    until: Option<Instant>,
    waited: u32,
}

impl Patience {
    /// Ready when the connection may be read.
    fn poll(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<()> {
        loop {
            if let Some(until) = self.until {
                std::task::ready!(self.timer.poll_at(cx, until));
                self.until = None;
            }
            if worker.pressure() < Pressure::RefuseRequests || self.waited >= LOOKS {
                self.waited = 0;
                return Poll::Ready(());
            }
            self.waited += 1;
            self.until = Some(Instant::now() + LOOK);
        }
    }
}
