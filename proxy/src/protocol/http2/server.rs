//! A downstream HTTP/2 connection: one task that moves frames, one task a stream.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, StatusCode};
use selvedge_contract::defaults::{Limits, http2 as defaults};
use tokio::time::Instant;

use crate::accept::Downstream;
use crate::error::{Error, ErrorKind};
use crate::exchange;
use crate::message::{Body, BodyLength, ResponseHead};
use crate::protocol::io::Io;
use crate::protocol::tunnel::{self, TunnelEnd};
use crate::respond::{self, Outgoing};
use crate::telemetry::Record;
use crate::timer::{self, Timer};
use crate::upstream::Interim;
use crate::worker::Worker;

use super::body::Stream;
use super::request::read_request;
use super::tap::Tap;
use super::writer::Writer;

fn builder(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_block).unwrap_or(u32::MAX))
        .max_frame_size(defaults::FRAME)
        .header_table_size(defaults::HEADER_TABLE)
        .max_pending_accept_reset_streams(defaults::PENDING_RESETS)
        .max_local_error_reset_streams(Some(defaults::LOCAL_RESETS))
        .max_send_buffer_size(limits.buffer)
        .enable_connect_protocol();
    builder
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, downstream: Rc<Downstream>, io: Io) {
    let limits = &downstream.listener.limits;
    let now = Instant::now();
    let (tap, alarm) = Tap::new(io, now);
    let mut timer = Timer::new();
    let begun = {
        let handshake = pin!(builder(limits).handshake::<_, Bytes>(tap));
        let until = timer::deadline(now, limits.header_read);
        timer.within(until, handshake).await
    };
    let Some(Ok(mut connection)) = begun else {
        let snapshot = worker.snapshot();
        let mut record = Record::unread(&snapshot, &worker, &downstream);
        record.fail_with(if begun.is_none() {
            ErrorKind::HeadTimeout
        } else {
            ErrorKind::BadRequest
        });
        return;
    };
    let jitter = 0.9 + fastrand::f64() / 5.0;
    let mut life = Life {
        ages_at: timer::deadline(now, limits.connection_age.mul_f64(jitter)),
        idle_since: Some(now),
        live: Rc::new(Cell::new(0)),
        requests: 0,
        leaving: false,
    };
    let waker = worker.register();
    poll_fn(|cx| {
        waker.set(cx);
        loop {
            if let Some(abuse) = alarm.take() {
                tracing::info!(peer = %downstream.peer, ?abuse, "HTTP/2 abuse");
                worker.metrics.worker(worker.index).http2_abuse.add(1);
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    life.begins();
                    let guard = Live(life.live.clone());
                    let stream =
                        stream(worker.clone(), downstream.clone(), request, respond, guard);
                    tokio::task::spawn_local(stream);
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(peer = %downstream.peer, %error, "HTTP/2 connection");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                // An alarm that went off meanwhile must not wait for more frames.
                Poll::Pending if alarm.get().is_none() => break,
                Poll::Pending => {}
            }
        }
        life.poll(cx, &worker, limits, &mut connection, &mut timer)
    })
    .await;
}

/// How long a connection may go on.
struct Life {
    ages_at: Option<Instant>,
    idle_since: Option<Instant>,
    live: Rc<Cell<u32>>,
    requests: u64,
    leaving: bool,
}

/// Counts a live stream until it is dropped.
struct Live(Rc<Cell<u32>>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Life {
    fn begins(&mut self) {
        self.live.set(self.live.get() + 1);
        self.requests += 1;
        self.idle_since = None;
    }

    /// Ends the connection politely (two GOAWAYs, by `h2`) once it is old, has served enough, is
    /// idle too long, or the worker stops.
    fn poll(
        &mut self,
        cx: &mut std::task::Context<'_>,
        worker: &Worker,
        limits: &Limits,
        connection: &mut Connection<Tap, Bytes>,
        timer: &mut Timer,
    ) -> Poll<()> {
        if self.leaving {
            return Poll::Pending;
        }
        if self.live.get() > 0 {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(Instant::now());
        }
        let idle = self
            .idle_since
            .and_then(|since| timer::deadline(since, limits.downstream_idle));
        let until = match (idle, self.ages_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let over = self.requests >= limits.requests_per_connection || worker.is_stopping();
        if over || timer.poll_maybe(cx, until).is_ready() {
            self.leaving = true;
            connection.graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Hands interim responses to an HTTP/2 client.
struct EarlyHints<'a>(&'a RefCell<SendResponse<Bytes>>);

impl Interim for EarlyHints<'_> {
    fn interim(&self, head: ResponseHead) {
        if head.status == StatusCode::CONTINUE {
            return;
        }
        let mut response = http::Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.fields.to_map();
        let _ = self.0.borrow_mut().send_informational(response);
    }
}

/// Serves one stream to its end.
async fn stream(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    _live: Live,
) {
    let mut timer = Timer::new();
    let snapshot = worker.snapshot();
    let head_only = request.method() == Method::HEAD;
    let (request, tunnelled) = match read_request(request, &downstream.listener) {
        Ok(request) => request,
        Err(kind) => {
            let mut record = Record::unread(&snapshot, &worker, &downstream);
            let response = respond::refuse_unread(&Error::from(kind));
            record.fail_with(kind);
            record.set_status(response.head.status);
            let outgoing = Outgoing {
                head: response.head,
                body: response.body,
                tunnel: None,
                record,
                trailers: false,
            };
            return answer(respond, outgoing, head_only, &downstream, &mut timer).await;
        }
    };
    let context = exchange::Context {
        worker: &worker,
        snapshot: &snapshot,
        downstream: &downstream,
    };
    let respond = RefCell::new(respond);
    let handled = {
        let interim = EarlyHints(&respond);
        let mut exchange = pin!(exchange::handle(context, request, &mut timer, &interim));
        poll_fn(|cx| {
            if let Poll::Ready(outgoing) = exchange.as_mut().poll(cx) {
                return Poll::Ready(Some(outgoing));
            }
            // The client reset the stream: the exchange is given up with it.
            respond.borrow_mut().poll_reset(cx).map(|_| None)
        })
        .await
    };
    let Some(mut outgoing) = handled else { return };
    outgoing.trailers = true;
    let respond = respond.into_inner();
    match (outgoing.tunnel.take(), tunnelled) {
        (Some(end), Some(recv)) => {
            switch(respond, recv, end, outgoing, &downstream, &mut timer).await
        }
        _ => answer(respond, outgoing, head_only, &downstream, &mut timer).await,
    }
}

/// Writes a response to its end. The record of the exchange ends here.
async fn answer(
    mut respond: SendResponse<Bytes>,
    mut outgoing: Outgoing<'_>,
    head_only: bool,
    downstream: &Downstream,
    timer: &mut Timer,
) {
    let body = std::mem::replace(&mut outgoing.body, Body::Empty);
    let bodiless = matches!(
        outgoing.head.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    let empty = head_only || bodiless || body.length() == BodyLength::Exact(0);
    let mut response = http::Response::new(());
    *response.status_mut() = outgoing.head.status;
    *response.headers_mut() = outgoing.head.fields.to_map();
    let Ok(stream) = respond.send_response(response, empty) else {
        outgoing.record.fail_with(ErrorKind::ClientGone);
        return;
    };
    if empty {
        outgoing.record.complete();
        return;
    }
    let mut writer = Writer::new(body, stream, ErrorKind::ClientGone, outgoing.trailers);
    let stall = downstream.listener.limits.stream_idle;
    let (mut silent_since, mut moved) = (None, 0);
    let result = poll_fn(|cx| {
        if let Poll::Ready(done) = writer.poll(cx) {
            return Poll::Ready(done);
        }
        if writer.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::ClientGone));
        }
        if writer.sent != moved {
            moved = writer.sent;
            silent_since = None;
        }
        let since = *silent_since.get_or_insert_with(Instant::now);
        timer
            .poll_maybe(cx, timer::deadline(since, stall))
            .map(|()| {
                Err(if writer.waits_for_body() {
                    ErrorKind::UpstreamStalled
                } else {
                    ErrorKind::ClientStalled
                })
            })
    })
    .await;
    outgoing.record.sent += writer.sent;
    match result {
        Ok(()) => outgoing.record.complete(),
        Err(kind) => {
            writer.reset(Reason::INTERNAL_ERROR);
            outgoing.record.fail_with(kind);
        }
    }
}

/// An extended CONNECT that the upstream agreed to: 200, then bytes both ways.
async fn switch(
    mut respond: SendResponse<Bytes>,
    recv: RecvStream,
    mut upstream: TunnelEnd,
    mut outgoing: Outgoing<'_>,
    downstream: &Downstream,
    timer: &mut Timer,
) {
    let mut response = http::Response::new(());
    *response.headers_mut() = outgoing.head.fields.to_map();
    let Ok(send) = respond.send_response(response, false) else {
        outgoing.record.fail_with(ErrorKind::ClientGone);
        return;
    };
    let mut client = TunnelEnd::Http2(Stream::new(recv, send, None));
    upstream.detach();
    let idle = downstream.listener.limits.stream_idle;
    let (received, sent) = tunnel::run(&mut client, &mut upstream, idle, timer).await;
    outgoing.record.received += received;
    outgoing.record.sent += sent;
    outgoing.record.complete();
}
