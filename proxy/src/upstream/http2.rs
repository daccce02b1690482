//! One request over HTTP/2 to an endpoint: streams of a few shared connections.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::{PingPong, RecvStream, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, header};
use selvedge_contract::defaults::upstream::{HEADER_BLOCK, INTERIM, PENDING_WAIT, STREAMS};
use selvedge_contract::defaults::{Limits, Role, http2 as defaults};
use tokio::time::Instant;

use crate::balance::Lease;
use crate::error::{Error, ErrorKind};
use crate::message::{Body, BodyLength, Fields, Known, RequestHead, Response, ResponseHead};
use crate::protocol::http2::{Http2Body, Writer};
use crate::worker::Worker;

use super::http2_tunnel::{extended_connect, switch};
use super::pool::{Permit, Pool, Turn, wait_for_turn};
use super::security::Security;
use super::{Answer, Failure, Interim, connect};

/// Windows towards an endpoint: a sidecar's, for responses come in bulk.
const WINDOWS: Limits = Limits::of(Role::Sidecar);

/// Connections on their way out that one request may meet before it gives up.
const MAX_TURNED_AWAY: u32 = 3;

/// A connection that carries many streams.
pub struct Shared {
    pub(super) send: SendRequest<Bytes>,
    pub(super) ping: RefCell<Option<PingPong>>,
    live: Cell<u32>,
    closed: Cell<bool>,
    idle_since: Cell<Option<Instant>>,
    _permit: Permit,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared(live {})", self.live.get())
    }
}

impl Shared {
    /// Whether it takes no more streams.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Since when it has carried no stream.
    #[must_use]
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    fn has_room(&self) -> bool {
        let peer = u32::try_from(self.send.current_max_send_streams()).unwrap_or(u32::MAX);
        !self.closed.get() && self.live.get() < STREAMS.min(peer)
    }
}

/// Counts a stream as live until it is dropped.
pub(super) struct Active {
    shared: Rc<Shared>,
    pool: Rc<Pool>,
}

impl fmt::Debug for Active {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Active")
    }
}

impl Active {
    fn begin(shared: Rc<Shared>, pool: Rc<Pool>) -> Self {
        shared.live.set(shared.live.get() + 1);
        shared.idle_since.set(None);
        Self { shared, pool }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let live = self.shared.live.get() - 1;
        self.shared.live.set(live);
        if live == 0 {
            self.shared.idle_since.set(Some(Instant::now()));
        }
        if live + 1 == STREAMS {
            self.pool.changed.notify_one();
        }
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
    let (active, (response, stream)) = loop {
        let shared = match checkout(worker, lease, &pool).await {
            Ok(shared) => shared,
            Err(error) => return Err(Failure::untouched(error, body)),
        };
        let active = Active::begin(shared, pool.clone());
        match open_stream(&active, lease, head, &body).await {
            Ok(opened) => break (active, opened),
            Err(error) => {
                active.shared.closed.set(true);
                // A connection on its way out (GOAWAY) takes no new stream: nothing was sent, so
                // this is no retry, and the next connection will do.
                turned_away += 1;
                if error.kind != ErrorKind::UpstreamRefused || turned_away > MAX_TURNED_AWAY {
                    return Err(Failure::untouched(error, body));
                }
            }
        }
    };
    if head.upgrade.is_some() {
        return Box::pin(switch(head, response, stream, active)).await;
    }
    exchange(response, stream, body, active, interim).await
}

/// Opens a stream with the head of a request.
async fn open_stream(
    active: &Active,
    lease: &Lease,
    head: &RequestHead,
    body: &Body,
) -> Result<(ResponseFuture, SendStream<Bytes>), Error> {
    if head.upgrade.is_some() {
        Box::pin(extended_connect(&active.shared)).await?;
    }
    let request = request(lease, head, body)?;
    let mut send = active.shared.send.clone().ready().await.map_err(h2_error)?;
    let ended = body.is_empty() && head.upgrade.is_none();
    send.send_request(request, ended).map_err(h2_error)
}

/// Drives upload and response until the head is there.
async fn exchange(
    mut response: ResponseFuture,
    stream: SendStream<Bytes>,
    body: Body,
    active: Active,
    interim: &dyn Interim,
) -> Result<Answer, Failure> {
    let mut upload =
        (!body.is_empty()).then(|| Writer::new(body, stream, ErrorKind::UpstreamReset, false));
    let mut upload_done = upload.is_none();
    let mut interims = 0;
    let received = poll_fn(|cx| {
        if !upload_done
            && let Some(writer) = &mut upload
            && let Poll::Ready(done) = writer.poll(cx)
        {
            upload_done = true;
            match done {
                // A reset in mid-upload may have an answer before it: that is what counts.
                Ok(()) | Err(ErrorKind::UpstreamReset) => {}
                Err(kind) => return Poll::Ready(Err(Error::from(kind))),
            }
        }
        poll_response(&mut response, &mut interims, interim, cx)
    })
    .await;
    match received {
        Ok(received) => Ok(accept(received, upload.filter(|_| !upload_done), active)),
        Err(error) => {
            let body = upload.map_or(Body::Empty, Writer::into_body);
            Err(Failure::after(error, body))
        }
    }
}

fn poll_response(
    response: &mut ResponseFuture,
    interims: &mut u32,
    interim: &dyn Interim,
    cx: &mut Context<'_>,
) -> Poll<Result<http::Response<RecvStream>, Error>> {
    while let Poll::Ready(Some(Ok(early))) = response.poll_informational(cx) {
        *interims += 1;
        if *interims > INTERIM || early.status() == StatusCode::SWITCHING_PROTOCOLS {
            let why = "interim responses that HTTP/2 does not have, or too many";
            return Poll::Ready(Err(Error::with(ErrorKind::BadResponse, why)));
        }
        let mut fields = Fields::from_map(early.headers());
        fields.remove_known(Known::ContentLength);
        interim.interim(ResponseHead {
            status: early.status(),
            fields,
        });
    }
    Pin::new(response).poll(cx).map_err(h2_error)
}

pub(super) fn accept(
    received: http::Response<RecvStream>,
    upload: Option<Writer>,
    active: Active,
) -> Answer {
    let (parts, stream) = received.into_parts();
    let length = match parts.headers.get(header::CONTENT_LENGTH) {
        _ if stream.is_end_stream() => BodyLength::Exact(0),
        Some(value) => match value.to_str().ok().and_then(|v| v.parse().ok()) {
            Some(length) => BodyLength::Exact(length),
            None => BodyLength::Unknown,
        },
        None => BodyLength::Unknown,
    };
    let head = ResponseHead {
        status: parts.status,
        fields: Fields::from_map(&parts.headers),
    };
    let body = if length == BodyLength::Exact(0) && upload.is_none() {
        Body::Empty
    } else {
        Body::Http2(Box::new(Http2Body::upstream(
            stream,
            length,
            upload,
            Box::new(active),
        )))
    };
    Answer {
        response: Response { head, body },
        tunnel: None,
    }
}

/// A connection with room for a stream: one that is there, or the one being made, or a new one.
async fn checkout(
    worker: &Rc<Worker>,
    lease: &Lease,
    pool: &Rc<Pool>,
) -> Result<Rc<Shared>, Error> {
    loop {
        if let Some(shared) = pool.shared.borrow().iter().rev().find(|s| s.has_room()) {
            return Ok(shared.clone());
        }
        if !pool.connecting.get() {
            // Boxed: a new connection is rare, and its future large.
            return Box::pin(open(worker, lease, pool)).await;
        }
        let changed = pool.changed.notified();
        // Cancelled with the request; whoever connects goes on without it.
        let changed = tokio::time::timeout(PENDING_WAIT, changed);
        if Box::pin(changed).await.is_err() {
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

async fn open(worker: &Rc<Worker>, lease: &Lease, pool: &Rc<Pool>) -> Result<Rc<Shared>, Error> {
    pool.connecting.set(true);
    let _connecting = Connecting(pool);
    let permit = match wait_for_turn(pool, lease.service()).await? {
        Turn::New(permit) => permit,
        Turn::Idle(..) => return Err(ErrorKind::PendingTimeout.into()),
    };
    let io = connect::connect(worker, lease).await?;
    let (send, mut connection) = Builder::new()
        .initial_window_size(WINDOWS.stream_window)
        .initial_connection_window_size(WINDOWS.connection_window)
        .max_header_list_size(u32::try_from(HEADER_BLOCK).unwrap_or(u32::MAX))
        .max_frame_size(defaults::FRAME)
        .header_table_size(defaults::HEADER_TABLE)
        .initial_max_send_streams(STREAMS as usize)
        .max_local_error_reset_streams(Some(defaults::LOCAL_RESETS))
        .max_send_buffer_size(WINDOWS.buffer)
        .enable_push(false)
        .handshake(io)
        .await
        .map_err(|error| Error::with(ErrorKind::ConnectFailed, error))?;
    let shared = Rc::new(Shared {
        send,
        ping: RefCell::new(connection.ping_pong()),
        live: Cell::new(0),
        closed: Cell::new(false),
        idle_since: Cell::new(Some(Instant::now())),
        _permit: permit,
    });
    pool.shared.borrow_mut().push(shared.clone());
    let weak = Rc::downgrade(&shared);
    let service = lease.service().name().clone();
    // Ends with the connection: when the peer closes it, or the last handle on it is dropped.
    tokio::task::spawn_local(async move {
        if let Err(error) = (&mut connection).await {
            tracing::debug!(%service, %error, "HTTP/2 upstream connection");
        }
        if let Some(shared) = weak.upgrade() {
            shared.closed.set(true);
        }
    });
    Ok(shared)
}

fn request(lease: &Lease, head: &RequestHead, body: &Body) -> Result<http::Request<()>, Error> {
    let bad = |error: http::Error| Error::with(ErrorKind::BadTarget, error);
    let authority = if head.host.is_empty() {
        Authority::try_from(lease.endpoint().address.to_string())
    } else {
        Authority::from_maybe_shared(head.host.bytes().clone())
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(match lease.service().spec.security {
        Security::Plain => Scheme::HTTP,
        Security::Tls(_) | Security::Mesh(_) => Scheme::HTTPS,
    });
    parts.authority = Some(authority.map_err(|e| bad(e.into()))?);
    let path = PathAndQuery::from_maybe_shared(head.target.text().clone());
    parts.path_and_query = Some(path.map_err(|e| bad(e.into()))?);
    let mut request = http::Request::new(());
    *request.uri_mut() = Uri::from_parts(parts).map_err(|e| bad(e.into()))?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = head.fields.to_map();
    if let Some(protocol) = &head.upgrade {
        let protocol = String::from_utf8_lossy(protocol);
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from(&*protocol));
        request.headers_mut().remove(header::SEC_WEBSOCKET_KEY);
        return Ok(request);
    }
    *request.method_mut() = head.method.clone();
    let expects_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    if let BodyLength::Exact(length) = body.length()
        && (length > 0 || expects_body)
    {
        request
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(request)
}

/// What an error of the protocol library means for the request.
pub(super) fn h2_error(error: h2::Error) -> Error {
    let refused = error.is_remote()
        && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM));
    let kind = if refused {
        // Above the last stream of a GOAWAY, or refused by name: provably not processed.
        ErrorKind::UpstreamRefused
    } else if error.is_library() {
        ErrorKind::BadResponse
    } else {
        ErrorKind::UpstreamReset
    };
    Error::with(kind, error)
}
