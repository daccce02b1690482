//! One request over HTTP/1.1 to an endpoint.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, BytesMut};
use http::{Method, StatusCode};
use selvedge_contract::defaults::{Limits, Role, upstream as defaults};

use crate::accept::Downstream;
use crate::balance::Lease;
use crate::error::{Error, ErrorKind};
use crate::message::{
    Body, BodyLength, Fields, Known, RequestHead, Response, ResponseHead, Version,
};
use crate::protocol::http1::chunked::{ChunkLimits, Decoder, Encoder};
use crate::protocol::http1::framing::{self, ResponseLength};
use crate::protocol::http1::parse::{self, HeadEnd};
use crate::protocol::http1::{Conn, Http1Body, SharedConn, Upload};
use crate::protocol::tunnel::TunnelEnd;
use crate::protocol::websocket;
use crate::worker::Worker;

use super::habit::Reuse;
use super::pool::{self, Permit, Pool, Turn};
use super::{Answer, Failure, Interim, connect};

/// What is held of a connection in each direction.
const BUFFER: usize = Limits::of(Role::Gateway).buffer;

const CHUNKS: ChunkLimits = ChunkLimits {
    extension: Limits::of(Role::Gateway).chunk_extension,
    trailer_block: Limits::of(Role::Gateway).trailer_block,
    trailer_count: Limits::of(Role::Gateway).trailer_count,
};

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
    (client, reuse): (&Downstream, Reuse),
) -> Result<Answer, Failure> {
    let pool = worker.pools.of(lease);
    let once = lease.service().spec.announces.is_some();
    let (conn, permit, reused) = match checkout(worker, lease, &pool, client, reuse).await {
        Ok(found) => found,
        Err(error) => return Err(Failure::untouched(error, body)),
    };
    if reused {
        worker.metrics.worker(worker.index).reused.add(1);
    }
    let encoder = {
        let mut conn = conn.borrow_mut();
        write_head(conn.output(), head, &body, once)
    };
    let mut upload = Upload::new(body, encoder);
    let mut interims = 0;
    let found = poll_fn(|cx| {
        let mut count = |early: ResponseHead| {
            interims += 1;
            let fine = interims <= defaults::INTERIM;
            if fine {
                interim.interim(early);
            }
            fine
        };
        poll_head(&conn, &mut upload, head, &mut count, cx)
    })
    .await;
    match found {
        Ok(mut reply) => {
            // It is the client's that it began with, and a client may not hold more of them than it
            // has requests.
            reply.persists &= !once;
            Ok(accept(worker, reply, conn, permit, upload, pool))
        }
        Err(mut error) => {
            // Nothing came back on a connection that had been idle: the endpoint closed it.
            if reused && error.kind == ErrorKind::UpstreamReset && conn.borrow().received == 0 {
                error.kind = ErrorKind::UpstreamStale;
            }
            // Also of an upload that was complete: the next try needs all of it again.
            Err(Failure::after(error, upload.into_body()))
        }
    }
}

/// A connection that is ready: idle, or new, or the next that comes free.
async fn checkout(
    worker: &Rc<Worker>,
    lease: &Lease,
    pool: &Rc<Pool>,
    client: &Downstream,
    reuse: Reuse,
) -> Result<(SharedConn, Permit, bool), Error> {
    if let Some((conn, permit)) = pool.take_idle(reuse, worker.recently()) {
        conn.borrow_mut().received = 0;
        return Ok((conn, permit, true));
    }
    // Boxed, both: a new connection is rare, and its future large.
    match Box::pin(pool::wait_for_turn(worker, pool, lease.service(), reuse)).await? {
        Turn::Idle(conn, permit) => {
            conn.borrow_mut().received = 0;
            Ok((conn, permit, true))
        }
        Turn::New(permit) => {
            let announces = lease.service().spec.announces;
            let first = announces.map(|announce| announce.header(client));
            let io = Box::pin(connect::connect(worker, lease, first)).await?;
            let conn = Rc::new(std::cell::RefCell::new(Conn::new(io, BUFFER)));
            Ok((conn, permit, false))
        }
    }
}

/// Writes the head of a request, the only one on its connection or not, and says how its body is to
/// be written.
pub fn write_head(out: &mut BytesMut, head: &RequestHead, body: &Body, once: bool) -> Encoder {
    let target = head.target.text();
    out.reserve(target.len() + head.host.bytes().len() + 64);
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\nHost: ");
    out.put_slice(head.host.bytes());
    out.put_slice(b"\r\n");
    head.fields.write_http1(out);
    if let Some(protocol) = &head.upgrade {
        out.put_slice(b"Connection: upgrade\r\nUpgrade: ");
        out.put_slice(protocol);
        out.put_slice(b"\r\n");
        // A client of HTTP/2 has no key to send (RFC 8441 section 5).
        if head.version == Version::Http2 && head.fields.known(Known::SecWebSocketKey).is_none() {
            out.put_slice(b"Sec-WebSocket-Key: ");
            out.put_slice(websocket::new_key().as_bytes());
            out.put_slice(b"\r\n");
        }
    } else if once {
        out.put_slice(b"Connection: close\r\n");
    }
    let encoder = match body.length() {
        BodyLength::Exact(length) => {
            let expects_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
            if length > 0 || expects_body {
                put_length(out, length);
            }
            Encoder::Length(length)
        }
        BodyLength::Unknown => {
            out.put_slice(b"Transfer-Encoding: chunked\r\n");
            Encoder::Chunked
        }
    };
    out.put_slice(b"\r\n");
    encoder
}

/// Writes a `Content-Length` line.
pub(crate) fn put_length(out: &mut BytesMut, length: u64) {
    out.put_slice(b"Content-Length: ");
    out.put_slice(itoa::Buffer::new().format(length).as_bytes());
    out.put_slice(b"\r\n");
}

/// A response head with what it says about the connection.
struct Reply {
    status: StatusCode,
    fields: Fields,
    length: ResponseLength,
    persists: bool,
}

/// Drives the upload and reads until the final head is there.
fn poll_head(
    conn: &SharedConn,
    upload: &mut Upload,
    head: &RequestHead,
    early: &mut dyn FnMut(ResponseHead) -> bool,
    cx: &mut Context<'_>,
) -> Poll<Result<Reply, Error>> {
    if let Poll::Ready(done) = upload.poll(conn, cx) {
        done?;
    }
    let mut conn = conn.borrow_mut();
    loop {
        match conn.find_head_end() {
            HeadEnd::At(end) if end <= defaults::HEADER_BLOCK => {
                let reply = read_head(&mut conn, end, &head.method)?;
                if reply.status == StatusCode::SWITCHING_PROTOCOLS && head.upgrade.is_none() {
                    let why = "it switched protocols, which nobody had asked for";
                    return Poll::Ready(Err(Error::with(ErrorKind::BadResponse, why)));
                }
                if !reply.status.is_informational()
                    || reply.status == StatusCode::SWITCHING_PROTOCOLS
                {
                    return Poll::Ready(Ok(reply));
                }
                if !early(interim_head(reply)) {
                    let why = "too many interim responses";
                    return Poll::Ready(Err(Error::with(ErrorKind::BadResponse, why)));
                }
                continue;
            }
            HeadEnd::Partial(_) if conn.input.len() <= defaults::HEADER_BLOCK => {}
            HeadEnd::Malformed => {
                return Poll::Ready(Err(Error::with(
                    ErrorKind::BadResponse,
                    "a line does not end in CRLF",
                )));
            }
            HeadEnd::At(_) | HeadEnd::Partial(_) => {
                return Poll::Ready(Err(Error::with(
                    ErrorKind::BadResponse,
                    "the head is too large",
                )));
            }
        }
        match ready!(conn.poll_read(cx)) {
            Ok(0) => {
                let why = "the connection closed before the response head was complete";
                return Poll::Ready(Err(Error::with(ErrorKind::UpstreamReset, why)));
            }
            Ok(_) => {}
            Err(error) => {
                return Poll::Ready(Err(Error::with(ErrorKind::UpstreamReset, error)));
            }
        }
    }
}

/// An interim response has no body, whatever it says.
fn interim_head(reply: Reply) -> ResponseHead {
    let mut fields = reply.fields;
    fields.remove_known(Known::ContentLength);
    ResponseHead {
        status: reply.status,
        fields,
    }
}

fn read_head(conn: &mut Conn, end: usize, method: &Method) -> Result<Reply, Error> {
    let head = conn.input.split_to(end).freeze();
    let line = parse::first_line(&head);
    let (version, status) = parse::status_line(head.get(..line).unwrap_or_default())
        .map_err(|kind| Error::with(kind, "the status line"))?;
    let bad = ErrorKind::BadResponse;
    let mut fields = parse::fields(head, line + 2, defaults::HEADER_COUNT, bad, bad)
        .map_err(|kind| Error::with(kind, "a field"))?;
    let length = framing::response_length(method, status, &fields, version)
        .map_err(|kind| Error::with(kind, "the length of the body"))?;
    let upgrade = fields.known(Known::Upgrade).map(<[u8]>::to_vec);
    let options = framing::take_connection(&mut fields);
    if status == StatusCode::SWITCHING_PROTOCOLS
        && let Some(protocol) = upgrade
    {
        fields.append_known(Known::Upgrade, &protocol);
    }
    let persists = options.persists(version) && length != ResponseLength::UntilClose;
    Ok(Reply {
        status,
        fields,
        length,
        persists: persists && version >= Version::Http10,
    })
}

/// Turns a head into an answer, and sees to the connection's future.
fn accept(
    worker: &Rc<Worker>,
    reply: Reply,
    conn: SharedConn,
    permit: Permit,
    upload: Upload,
    pool: Rc<Pool>,
) -> Answer {
    let (upload, sent) = match upload.is_done() {
        true => (None, Some(upload.into_body())),
        false => (Some(upload), None),
    };
    let head = ResponseHead {
        status: reply.status,
        fields: reply.fields,
    };
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let response = Response {
            head,
            body: Body::Empty,
        };
        return Answer {
            response,
            tunnel: Some(TunnelEnd::Http1(conn, Some(permit))),
            sent,
        };
    }
    let (decoder, length) = match reply.length {
        ResponseLength::Exact(length) => (Decoder::Length(length), BodyLength::Exact(length)),
        ResponseLength::Chunked => (Decoder::chunked(CHUNKS), BodyLength::Unknown),
        ResponseLength::UntilClose => (Decoder::UntilClose, BodyLength::Unknown),
    };
    let empty = decoder.is_done() && upload.is_none();
    conn.borrow_mut().decoder = decoder;
    let worker = worker.clone();
    let persists = reply.persists;
    let release = move |conn: SharedConn| {
        // Bytes behind a response that nobody asked for: this connection is not to be trusted.
        let clean = {
            let conn = conn.borrow();
            conn.input.is_empty() && !conn.io().is_leaving() && !worker.ends(true)
        };
        if clean && persists {
            pool.put_idle(conn, permit, worker.now());
        }
    };
    let body = if empty {
        release(conn);
        Body::Empty
    } else {
        Body::Http1(Box::new(Http1Body::upstream(
            conn,
            length,
            upload,
            Box::new(release),
        )))
    };
    Answer {
        response: Response { head, body },
        tunnel: None,
        sent,
    }
}

/// Writes a response head for an HTTP/1 client.
pub(crate) fn write_status(out: &mut BytesMut, status: StatusCode) {
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.put_slice(b"\r\n");
}
