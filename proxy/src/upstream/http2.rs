//! One request over HTTP/2 to an endpoint: streams of a few shared connections.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::Method;
use selvedge_contract::defaults::http2::Rates;
use selvedge_contract::defaults::upstream::{HEADER_BLOCK, HEADER_COUNT, INTERIM, STREAMS};
use selvedge_contract::defaults::{Limits, Role};
use tokio::time::Instant;

use crate::balance::Lease;
use crate::error::{Error, ErrorKind};
use crate::message::{Body, BodyLength, Known, RequestHead, Response, ResponseHead};
use crate::protocol::http2::encode::{self, Toward, tunnelled};
use crate::protocol::http2::settings::Own;
use crate::protocol::http2::stream::Cut;
use crate::protocol::http2::{Handle, Http2Body, SharedConn, Writer};
use crate::worker::Worker;

use super::http2_places::checkout;
use super::http2_tunnel::switch;
use super::security::Security;
use super::{Answer, Failure, Interim};

/// What we take from an endpoint: a sidecar's windows, for responses come in bulk.
pub(super) const OWN: Own = {
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
        rates: Rates::DEFAULT,
        buffer: limits.buffer,
    }
};

/// Connections on their way out that one request may meet before it gives up.
const MAX_TURNED_AWAY: u32 = 3;

/// A connection that carries many streams, as its pool holds it.
pub struct Shared {
    pub(super) conn: SharedConn,
    pub(super) idle_since: Cell<Option<Instant>>,
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

    /// Whether it carries no stream.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.conn.borrow().live() == 0
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
            let (upload, sent) = match upload {
                Some(upload) if !upload_done => (Some(upload), None),
                // Of one that the endpoint did not want whole, the rest has not been read.
                Some(done) => (None, done.is_whole().then(|| done.into_body())),
                None => (None, Some(Body::Empty)),
            };
            let answer = accept(head, upload, handle);
            Ok(Answer { sent, ..answer })
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
        sent: None,
    }
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
