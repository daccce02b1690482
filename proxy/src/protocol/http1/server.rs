//! A downstream HTTP/1 connection: heads in, exchanges out, one at a time, in order.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Buf;
use http::Method;
use tokio::time::Instant;

use crate::accept::Downstream;
use crate::error::{Error, ErrorKind};
use crate::exchange::{self, demand};
use crate::message::{Body, BodyLength, Request, RequestHead, Version};
use crate::protocol::io::Io;
use crate::protocol::linger::{self, LINGER_BYTES, Linger};
use crate::protocol::socket::unacknowledged;
use crate::protocol::tunnel::{self, Moved, TunnelEnd};
use crate::respond::{self, Outgoing};
use crate::telemetry::Record;
use crate::timer::{self, Stall, Timer};
use crate::worker::{DrainWaker, Worker};

use super::body::Http1Body;
use super::chunked::Decoder;
use super::conn::{Conn, SharedConn};
use super::interim::EarlyHints;
use super::parse::HeadEnd;
use super::request::{Parsed, parse_request};
use super::respond_http1::{self, Ended};

/// One connection while it is served.
struct Session {
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    conn: SharedConn,
    timer: Timer,
    /// When it is closed politely, however busy it is.
    ages_at: Option<Instant>,
    requests: u64,
    /// Rung when the drain begins.
    waker: DrainWaker,
}

/// Why a connection gives no further request.
enum NoRequest {
    /// It ended, or was asked to, between two requests: nothing to say.
    Quiet,
    /// It gave something that is no request.
    Refused(ErrorKind),
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, downstream: Rc<Downstream>, io: Io) {
    let limits = &downstream.listener.limits;
    let conn = Rc::new(RefCell::new(Conn::new(io, limits.buffer)));
    let jitter = 0.9 + fastrand::f64() / 5.0;
    let age = limits.connection_age.mul_f64(jitter);
    let mut session = Session {
        ages_at: timer::deadline(Instant::now(), age),
        waker: worker.register(),
        worker,
        downstream: downstream.clone(),
        conn,
        timer: Timer::new(),
        requests: 0,
    };
    while session.serve_one().await {}
}

impl Session {
    /// Serves one request; says whether the connection lives on.
    async fn serve_one(&mut self) -> bool {
        let first = self.requests == 0;
        let head_end = match self.await_head().await {
            Ok(end) => end,
            Err(NoRequest::Quiet) => {
                if first {
                    self.record_unread(ErrorKind::ClientGone);
                }
                return false;
            }
            Err(NoRequest::Refused(kind)) => {
                let head_only = asks_for_head(&self.conn.borrow().input);
                return Box::pin(self.refuse(kind, head_only)).await;
            }
        };
        self.requests += 1;
        let head = self.conn.borrow_mut().input.split_to(head_end).freeze();
        let head_only = asks_for_head(&head);
        match parse_request(head, &self.downstream.listener) {
            Ok(parsed) => self.exchange(parsed).await,
            Err(kind) => Box::pin(self.refuse(kind, head_only)).await,
        }
    }

    /// Waits for a whole head; gives its length.
    async fn await_head(&mut self) -> Result<usize, NoRequest> {
        let limits = &self.downstream.listener.limits;
        let first = self.requests == 0;
        // Between requests the clock was read a moment ago, at the end of the last one.
        let started = if first {
            self.worker.now()
        } else {
            self.worker.recently()
        };
        // A connection that has said nothing yet gets no longer than one that has begun.
        let wait = if first {
            limits.header_read
        } else {
            limits.downstream_idle
        };
        let idle_until = timer::deadline(started, wait);
        let mut read_until = None;
        let mut may_skip = true;
        poll_fn(|cx| {
            self.waker.set(cx);
            loop {
                let mut conn = self.conn.borrow_mut();
                // One empty line before a request is forgiven (RFC 9112 section 2.2), not two.
                if may_skip && conn.input.starts_with(b"\r\n") {
                    conn.input.advance(2);
                    may_skip = false;
                }
                match conn.find_head_end() {
                    HeadEnd::At(end) if end <= limits.header_block => return Poll::Ready(Ok(end)),
                    HeadEnd::Malformed => return refused(ErrorKind::BadRequest),
                    HeadEnd::Partial(_) if conn.input.len() <= limits.header_block => {}
                    HeadEnd::At(_) | HeadEnd::Partial(_) => {
                        return refused(too_large(&conn.input, limits.uri));
                    }
                }
                let leaving = self.worker.ends(!first) || conn.io().is_leaving();
                if conn.input.is_empty() && leaving {
                    return Poll::Ready(Err(NoRequest::Quiet));
                }
                match conn.poll_read(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Err(NoRequest::Quiet)),
                    Poll::Pending => {
                        let begun = !conn.input.is_empty();
                        drop(conn);
                        if begun && read_until.is_none() {
                            read_until = timer::deadline(Instant::now(), limits.header_read);
                        }
                        let until = if begun { read_until } else { idle_until };
                        return match self.timer.poll_maybe(cx, until) {
                            Poll::Pending => Poll::Pending,
                            Poll::Ready(()) if begun || first => refused(ErrorKind::HeadTimeout),
                            Poll::Ready(()) => Poll::Ready(Err(NoRequest::Quiet)),
                        };
                    }
                }
            }
        })
        .await
    }

    /// Carries one request out and writes its response.
    async fn exchange(&mut self, parsed: Parsed) -> bool {
        let Parsed {
            head,
            length,
            persists,
            expects_continue,
            wants_trailers,
        } = parsed;
        let (version, method) = (head.version, head.method.clone());
        let limits = &self.downstream.listener.limits;
        let body = self.request_body(&head, length, expects_continue);
        let mut snapshot = self.worker.snapshot();
        if demand::unknown(&self.worker, &snapshot, &self.downstream, &head).is_some() {
            snapshot = Box::pin(demand::settle(&self.worker, &self.downstream, &head)).await;
        }
        let context = exchange::Context {
            worker: &self.worker,
            snapshot: &snapshot,
            downstream: &self.downstream,
        };
        let interim = EarlyHints {
            conn: &self.conn,
            wanted: version == Version::Http11,
        };
        let request = Request { head, body };
        let handled = {
            let exchange = pin!(exchange::handle(
                context,
                request,
                &mut self.timer,
                &interim
            ));
            until_gone(&self.conn, exchange).await
        };
        let Some(mut outgoing) = handled else {
            return false;
        };
        let closing = !persists
            || self.requests >= limits.requests_per_connection
            || self.ages_at.is_some_and(|at| at <= outgoing.record.start)
            || self.is_leaving()
            || context
                .snapshot
                .listener(&self.downstream.listener.name)
                .is_none();
        outgoing.trailers |= wants_trailers;
        if let Some(end) = outgoing.tunnel.take() {
            return switch(
                &self.conn,
                outgoing,
                end,
                limits.stream_idle,
                &mut self.timer,
            )
            .await;
        }
        // A body that nobody read: the connection cannot be used again, and must not be reset
        // before the client has read the answer.
        let unread = !self.conn.borrow().decoder.is_done();
        let delimited = version == Version::Http10 && outgoing.body.length() == BodyLength::Unknown;
        let persists = !closing && !unread && !delimited;
        let reply = respond_http1::Reply {
            head_only: method == Method::HEAD,
            version,
            persists,
            stall: limits.stream_idle,
            worker: &self.worker,
        };
        let ended = respond_http1::write(&self.conn, outgoing, reply, &mut self.timer).await;
        match ended {
            Ended::Clean if persists => self.conn.borrow().decoder.is_done(),
            Ended::Clean => {
                linger(&self.conn, &mut self.timer, limits.stream_idle).await;
                false
            }
            Ended::Broken => {
                self.abort();
                false
            }
        }
    }

    /// Whether it is to end as soon as nothing is in flight.
    fn is_leaving(&self) -> bool {
        self.worker.ends(true) || self.conn.borrow().io().is_leaving()
    }

    /// The body of the request whose head was just read.
    fn request_body(&self, head: &RequestHead, length: BodyLength, expects_continue: bool) -> Body {
        let limits = &self.downstream.listener.limits;
        let decoder = match length {
            BodyLength::Exact(0) => return Body::Empty,
            BodyLength::Exact(length) => Decoder::Length(length),
            BodyLength::Unknown => Decoder::chunked(respond_http1::chunk_limits(limits)),
        };
        let mut conn = self.conn.borrow_mut();
        conn.decoder = decoder;
        conn.answering = false;
        let floor = if head.is_grpc() { 0 } else { limits.body_rate };
        let stall = Stall::new(limits.stream_idle, floor);
        Body::Http1(Box::new(Http1Body::downstream(
            self.conn.clone(),
            length,
            expects_continue,
            stall,
        )))
    }

    /// Answers something that is no request, and closes.
    async fn refuse(&mut self, kind: ErrorKind, head_only: bool) -> bool {
        let seen = respond::Seen::unread(&self.downstream.listener);
        let response = respond::refusal(&kind.into(), seen);
        let snapshot = self.worker.snapshot();
        let status = response.head.status;
        let mut record = Record::unread(&snapshot, &self.worker, &self.downstream);
        record.fail(&Error::from(kind));
        record.set_status(status);
        let outgoing = Outgoing {
            head: response.head,
            body: response.body,
            tunnel: None,
            record,
            trailers: false,
        };
        let reply = respond_http1::Reply {
            head_only,
            version: Version::Http11,
            persists: false,
            stall: self.downstream.listener.limits.stream_idle,
            worker: &self.worker,
        };
        let _ = respond_http1::write(&self.conn, outgoing, reply, &mut self.timer).await;
        let stall = self.downstream.listener.limits.stream_idle;
        linger(&self.conn, &mut self.timer, stall).await;
        false
    }

    /// A connection that ended without a request has a line of its own.
    fn record_unread(&self, kind: ErrorKind) {
        let snapshot = self.worker.snapshot();
        let mut record = Record::unread(&snapshot, &self.worker, &self.downstream);
        record.fail_with(kind);
    }

    /// Resets the connection: what was sent must not look complete.
    fn abort(&self) {
        let conn = self.conn.borrow();
        let _ = socket2::SockRef::from(conn.io().socket()).set_linger(Some(Duration::ZERO));
    }
}

/// Ends our side, then reads on until the client has its answer, see [`Linger`].
async fn linger(conn: &SharedConn, timer: &mut Timer, stall: Duration) {
    let (mut lingering, mut ended, mut room) = (Linger::new(), false, LINGER_BYTES);
    poll_fn(|cx| {
        let mut conn = conn.borrow_mut();
        ended = ended || conn.poll_shutdown(cx).is_ready();
        while room > 0 {
            conn.input.clear();
            match conn.poll_read(cx) {
                Poll::Ready(Ok(n)) if n > 0 => room = room.saturating_sub(n),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        let left = unacknowledged(conn.io().socket());
        if room == 0 && linger::has_all(left) {
            return Poll::Ready(());
        }
        lingering.poll(cx, timer, left, stall)
    })
    .await;
}

/// Switches protocols: head, then bytes both ways. The connection does not live on.
async fn switch(
    conn: &SharedConn,
    mut outgoing: Outgoing<'_>,
    mut upstream: TunnelEnd,
    idle: Duration,
    timer: &mut Timer,
) -> bool {
    respond_http1::write_switch(&mut conn.borrow_mut(), &outgoing.head);
    let mut client = TunnelEnd::Http1(conn.clone(), None);
    client.detach();
    upstream.detach();
    let moved = Moved::default();
    let carried = tunnel::run(&mut client, &mut upstream, idle, timer, &moved).await;
    outgoing.record.received += moved.there.get();
    outgoing.record.sent += moved.back.get();
    match carried.distrusted {
        true => outgoing.record.fail_with(ErrorKind::Distrusted),
        false => outgoing.record.complete(),
    }
    false
}

/// Whether it began as a HEAD: that has no content in its answer, not in a refusal either (RFC 9110 9.3.2).
fn asks_for_head(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HEAD ")
}

fn refused<T>(kind: ErrorKind) -> Poll<Result<T, NoRequest>> {
    Poll::Ready(Err(NoRequest::Refused(kind)))
}

/// Which limit a head without an end is over.
fn too_large(input: &[u8], uri: usize) -> ErrorKind {
    match memchr::memchr(b'\n', input) {
        Some(line) if line <= uri + 32 => ErrorKind::HeadTooLarge,
        _ => ErrorKind::TargetTooLong,
    }
}

/// Runs an exchange until it is done, or the client is gone: then it is given up.
async fn until_gone<F: Future>(conn: &SharedConn, mut exchange: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        if let Poll::Ready(output) = exchange.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        poll_gone(conn, cx).map(|()| None)
    })
    .await
}

/// Ready when the client has closed its side while it waits for an answer, or was cut off. Reads ahead into the
/// buffer, which bounds it; flushes interim responses on the way.
pub(super) fn poll_gone(conn: &SharedConn, cx: &mut Context<'_>) -> Poll<()> {
    let mut conn = conn.borrow_mut();
    if conn.io().is_cut() {
        return Poll::Ready(());
    }
    if !conn.is_flushed()
        && let Poll::Ready(Err(_)) = conn.poll_flush(cx)
    {
        return Poll::Ready(());
    }
    while conn.decoder.is_done() && conn.input.is_empty() {
        match conn.poll_read(cx) {
            Poll::Ready(Ok(n)) if n > 0 => {}
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => break,
        }
    }
    Poll::Pending
}
