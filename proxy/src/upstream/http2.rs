//! One request over HTTP/2 to an endpoint: streams of a few shared connections.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::Method;
use selvedge_contract::defaults::upstream::{
    HEADER_BLOCK, HEADER_COUNT, INTERIM, PENDING_WAIT, PING_AFTER, STREAMS,
};
use selvedge_contract::defaults::{Limits, Role};
use tokio::time::Instant;

use crate::balance::Lease;
use crate::error::{Error, ErrorKind};
use crate::message::{Body, BodyLength, Known, RequestHead, Response, ResponseHead};
use crate::protocol::http2::conn::Phase;
use crate::protocol::http2::encode::{self, Toward, tunnelled};
use crate::protocol::http2::frame::Reason;
use crate::protocol::http2::settings::Own;
use crate::protocol::http2::stream::Cut;
use crate::protocol::http2::{Conn, End, Handle, Http2Body, SharedConn, Writer};
use crate::timer::Timer;
use crate::worker::Worker;

use super::http2_tunnel::switch;
use super::pool::{Permit, Pool, Waiting};
use super::security::Security;
use super::{Answer, Failure, Interim, connect};

/// What we take from an endpoint: a sidecar's windows, for responses come in bulk.
const OWN: Own = {
    let limits = Limits::of(Role::Sidecar);
    Own {
        streams: STREAMS,
        stream_window: limits.stream_window,
        // So many that readers who have stopped hold up nobody else's answers.
        connection_window: STREAMS * limits.stream_window,
        header_block: HEADER_BLOCK,
        header_count: HEADER_COUNT,
        // gRPC puts the details of an error there.
        trailer_block: HEADER_BLOCK,
        trailer_count: HEADER_COUNT,
        buffer: limits.buffer,
    }
};

/// Connections on their way out that one request may meet before it gives up.
const MAX_TURNED_AWAY: u32 = 3;

/// A connection that carries many streams, as its pool holds it.
pub struct Shared {
    pub(super) conn: SharedConn,
    idle_since: Cell<Option<Instant>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared(live {})", self.conn.borrow().live())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.conn.borrow_mut().retire();
    }
}

impl Shared {
    /// Whether it takes no more streams.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.conn.borrow().takes_streams()
    }

    /// Whether its peer is not trusted any more.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.conn.borrow().is_leaving()
    }

    /// Since when it has carried no stream, as far as the pool has looked.
    #[must_use]
    pub fn idle_since(&self, now: Instant) -> Option<Instant> {
        let mut conn = self.conn.borrow_mut();
        let used = std::mem::take(&mut conn.used) || conn.live() > 0;
        let since = self.idle_since.get().unwrap_or(now);
        self.idle_since.set((!used).then_some(since));
        self.idle_since.get()
    }
}

/// See [`super::send`].
///
/// # Errors
/// As there.
pub async fn send(
    worker: &Rc<Worker>,
    lease: &Lease,
    head: &RequestHead,
    body: Body,
    interim: &dyn Interim,
) -> Result<Answer, Failure> {
    let pool = worker.pools.of(lease);
    let mut turned_away = 0;
    let mut tunnel;
    let handle = loop {
        let conn = match checkout(worker, lease, &pool).await {
            Ok(conn) => conn,
            Err(error) => return Err(Failure::untouched(error, body)),
        };
        // An endpoint that knows no extended CONNECT gets the request without its upgrade.
        tunnel = tunnelled(head).is_some() && conn.borrow().peer.connect_protocol;
        if let Some(handle) = open_stream(&conn, lease, head, &body, tunnel) {
            break handle;
        }
        // A connection on its way out (GOAWAY) takes no new stream: nothing was sent, so this is
        // no retry, and the next connection will do.
        turned_away += 1;
        if turned_away > MAX_TURNED_AWAY {
            return Err(Failure::untouched(ErrorKind::UpstreamRefused, body));
        }
    };
    if tunnel {
        return Box::pin(switch(head, handle)).await;
    }
    exchange(handle, body, interim).await
}

/// Opens a stream with the head of a request.
fn open_stream(
    conn: &SharedConn,
    lease: &Lease,
    head: &RequestHead,
    body: &Body,
    tunnel: bool,
) -> Option<Handle> {
    let ended = body.is_empty() && !tunnel;
    let address = if head.host.is_empty() {
        lease.endpoint().address.to_string()
    } else {
        String::new()
    };
    let toward = Toward {
        https: !matches!(lease.security(), Security::Plain),
        authority: &address,
        tunnel,
    };
    // Neither has a body, whatever length its answer tells (RFC 9110 sections 9.3.2 and 9.3.6).
    let head_only = head.method == Method::HEAD || tunnel;
    let key = conn.borrow_mut().open(ended, head_only, |out| {
        encode::put_request(out, head, body, toward);
    })?;
    Some(Handle::new(conn.clone(), key))
}

/// Drives upload and response until the head is there.
async fn exchange(handle: Handle, body: Body, interim: &dyn Interim) -> Result<Answer, Failure> {
    let mut upload = (!body.is_empty())
        .then(|| Writer::new(body, handle.clone(), ErrorKind::UpstreamReset, false));
    let mut upload_done = upload.is_none();
    let mut interims = 0;
    let received = poll_fn(|cx| {
        if !upload_done
            && let Some(writer) = &mut upload
            && let Poll::Ready(done) = writer.poll(cx)
        {
            upload_done = true;
            match done {
                // The answer may say more than that the endpoint wants no more.
                Ok(()) | Err(ErrorKind::UpstreamReset) => {}
                Err(kind) => return Poll::Ready(Err(kind.into())),
            }
        }
        poll_final(&handle, &mut interims, interim, cx)
    })
    .await;
    match received {
        Ok(head) => {
            let upload = upload.filter(|_| !upload_done);
            Ok(accept(head, upload, handle))
        }
        Err(error) => {
            let body = upload.map_or(Body::Empty, Writer::into_body);
            Err(Failure::after(error, body))
        }
    }
}

fn poll_final(
    handle: &Handle,
    interims: &mut u32,
    interim: &dyn Interim,
    cx: &Context<'_>,
) -> Poll<Result<ResponseHead, Error>> {
    loop {
        let mut head = match std::task::ready!(handle.poll_head(cx)) {
            Ok(head) => head,
            Err(cut) => return Poll::Ready(Err(cut_off(handle, cut))),
        };
        if !head.status.is_informational() {
            return Poll::Ready(Ok(head));
        }
        *interims += 1;
        if *interims > INTERIM {
            let why = "too many interim responses";
            return Poll::Ready(Err(Error::with(ErrorKind::BadResponse, why)));
        }
        head.fields.remove_known(Known::ContentLength);
        interim.interim(head);
    }
}

pub(super) fn accept(head: ResponseHead, upload: Option<Writer>, handle: Handle) -> Answer {
    let drained = handle.is_drained();
    let length = match head.fields.known(Known::ContentLength) {
        _ if drained => BodyLength::Exact(0),
        // Checked when it came; without a body it says what a GET would have brought.
        Some(value) => match std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()) {
            // Nothing, but not yet at its end: trailers may come.
            Some(0) | None => BodyLength::Unknown,
            Some(length) => BodyLength::Exact(length),
        },
        None => BodyLength::Unknown,
    };
    let body = if drained && upload.is_none() {
        Body::Empty
    } else {
        Body::Http2(Box::new(Http2Body::upstream(handle, length, upload)))
    };
    Answer {
        response: Response { head, body },
        tunnel: None,
    }
}

/// A connection with room for a stream: one that is there, or the one being made, or a new one.
/// Waits for a place, if it must, no longer than [`PENDING_WAIT`].
async fn checkout(
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
    loop {
        // Before the look: what is told between look and wait is not missed.
        let changed = pool.changed.notified();
        if let Some(conn) = with_place(pool) {
            return Ok(conn);
        }
        // The peer takes no streams at all: another connection would change nothing.
        let closed_to_all = |s: &Rc<Shared>| {
            let conn = s.conn.borrow();
            conn.takes_streams() && conn.peer.known && conn.peer.streams == 0
        };
        if pool.shared.borrow().iter().any(closed_to_all) {
            return Err(ErrorKind::UpstreamRefused.into());
        }
        if !pool.connecting.get() && !is_fresh(pool) {
            let permit = match service.connections.clone().try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) if waiting.is_none() => {
                    waiting = Some(Waiting::begin(service)?);
                    continue;
                }
                Err(_) => {
                    let freed = service.connections.clone().acquire_owned();
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
    let changed = pool.changed.clone();
    tokio::task::spawn_local(async move {
        drive(&conn, permit).await;
        changed.notify_waiters();
        if let Some(fatal) = conn.borrow().fatal {
            tracing::debug!(%service, ?fatal, "HTTP/2 upstream connection");
        }
    });
    Ok(())
}

/// Moves a connection's frames until the peer closes it, it has done its work, or the peer shows
/// no sign of life while streams wait for it.
async fn drive(conn: &SharedConn, _permit: Permit) {
    let mut timer = Timer::new();
    let mut check_at = Instant::now() + PING_AFTER;
    let mut asked = false;
    poll_fn(|cx| {
        loop {
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

/// What the end of a stream means for the request on it.
pub(super) fn cut_off(handle: &Handle, cut: Cut) -> Error {
    let fatal = handle.conn().borrow().fatal.is_some();
    let kind = if cut.refused {
        // Above the last stream of a GOAWAY, or refused by name: provably not processed.
        ErrorKind::UpstreamRefused
    } else if fatal || !cut.remote {
        ErrorKind::BadResponse
    } else {
        ErrorKind::UpstreamReset
    };
    Error::with(kind, format!("HTTP/2 reason {}", cut.reason.0))
}
