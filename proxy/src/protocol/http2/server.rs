//! A downstream HTTP/2 connection: one task that moves frames, one task a stream.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::{Method, StatusCode};
use selvedge_contract::defaults::Limits;

use crate::accept::Downstream;
use crate::error::ErrorKind;
use crate::exchange::{self, demand};
use crate::message::{Body, BodyLength, Request, ResponseHead};
use crate::overload::Pressure;
use crate::protocol::io::Io;
use crate::protocol::tunnel::{self, Moved, TunnelEnd};
use crate::respond::Outgoing;
use crate::telemetry::Record;
use crate::timer::{self, Silence, Stall, Timer};
use crate::upstream::Interim;
use crate::worker::Worker;

use super::body::{Http2Body, Stream};
use super::budget::Abuse;
use super::conn::{Conn, Fatal, Incoming, SharedConn};
use super::frame::Reason;
use super::handle::Handle;
use super::head::Head;
use super::life::Life;
use super::refuse::{refusal, turn_away};
use super::request::{Parsed, read_request};
use super::settings::{End, Own};
use super::writer::Writer;

fn own(limits: &Limits) -> Own {
    Own {
        streams: limits.streams,
        stream_window: limits.stream_window,
        connection_window: limits.connection_window,
        header_block: limits.header_block,
        header_count: limits.header_count,
        trailer_block: limits.trailer_block,
        trailer_count: limits.trailer_count,
        rates: limits.http2,
        buffer: limits.buffer,
    }
}

/// Serves a connection to its end.
pub async fn serve(worker: Rc<Worker>, downstream: Rc<Downstream>, io: Io) {
    let limits = &downstream.listener.limits;
    let conn = Conn::new(io, End::Server, own(limits), None);
    let conn = Rc::new(RefCell::new(conn));
    let mut life = Life::new(conn.clone(), limits);
    let waker = worker.register();
    poll_fn(|cx| {
        waker.set(cx);
        let over = conn.borrow_mut().poll_drive(cx);
        loop {
            let Some(incoming) = conn.borrow_mut().accepted.pop_front() else {
                break;
            };
            life.requests += 1;
            begin(&worker, &downstream, &conn, incoming);
        }
        if over.is_ready() {
            return over;
        }
        life.poll(cx, &worker, limits)
    })
    .await;
    let fatal = conn.borrow().fatal;
    if let Some(fatal) = fatal {
        tracing::info!(peer = %downstream.peer, ?fatal, "HTTP/2 connection ended");
        if let Fatal::Abuse(kind) = fatal
            && let Some(counter) = worker
                .metrics
                .worker(worker.index)
                .http2_abuse
                .get(kind as usize)
        {
            counter.add(1);
        }
    }
    let slow = matches!(fatal, Some(Fatal::Abuse(Abuse::Slow)));
    if slow || (life.requests == 0 && !worker.is_stopping()) {
        let snapshot = worker.snapshot();
        let mut record = Record::unread(&snapshot, &worker, &downstream);
        record.fail_with(match fatal {
            Some(_) if !slow => ErrorKind::BadRequest,
            None if conn.borrow().peer.known => ErrorKind::ClientGone,
            _ => ErrorKind::HeadTimeout,
        });
    }
}

/// Begins to serve a stream.
fn begin(worker: &Rc<Worker>, downstream: &Rc<Downstream>, conn: &SharedConn, incoming: Incoming) {
    let Some(key) = incoming.key else {
        // It was reset for what its head said; what is left is its line in the log.
        let snapshot = worker.snapshot();
        Record::unread(&snapshot, worker, downstream).fail_with(ErrorKind::BadRequest);
        return;
    };
    let handle = Handle::new(conn.clone(), key);
    if handle.is_cut() {
        // Reset in the same breath: nothing of it may reach an upstream.
        let snapshot = worker.snapshot();
        Record::unread(&snapshot, worker, downstream).fail_with(ErrorKind::ClientGone);
        return;
    }
    if worker.pressure() >= Pressure::RefuseRequests {
        return turn_away(worker, downstream, &handle, incoming);
    }
    let stream = stream(
        worker.clone(),
        downstream.clone(),
        handle,
        incoming.head,
        incoming.ended,
    );
    // A pointer, for the runtime moves what it is given several times, and this is kilobytes.
    tokio::task::spawn_local(Box::pin(stream));
}

/// Hands interim responses to an HTTP/2 client.
struct EarlyHints<'a>(&'a Handle);

impl Interim for EarlyHints<'_> {
    fn interim(&self, head: ResponseHead) {
        if head.status != StatusCode::CONTINUE {
            self.0.send_response(&head, false);
        }
    }
}

/// Serves one stream to its end.
async fn stream(
    worker: Rc<Worker>,
    downstream: Rc<Downstream>,
    handle: Handle,
    head: Head,
    ended: bool,
) {
    let mut timer = Timer::new();
    let snapshot = worker.snapshot();
    let head_only = head.method == Some(Method::HEAD);
    let Parsed {
        head,
        length,
        expects_continue,
    } = match read_request(head, ended, &downstream.listener) {
        Ok(parsed) => parsed,
        Err(kind) => {
            let outgoing = refusal(
                kind,
                &downstream.listener,
                Record::unread(&snapshot, &worker, &downstream),
            );
            return Box::pin(answer(handle, outgoing, head_only, &downstream, &mut timer)).await;
        }
    };
    let mut snapshot = snapshot;
    if demand::unknown(&worker, &snapshot, &downstream, &head).is_some() {
        snapshot = Box::pin(demand::settle(&worker, &downstream, &head)).await;
    }
    let tunnelled = head.upgrade.is_some();
    let body = if tunnelled || length == BodyLength::Exact(0) {
        Body::Empty
    } else {
        let limits = &downstream.listener.limits;
        let floor = if head.is_grpc() { 0 } else { limits.body_rate };
        let stall = Stall::new(limits.stream_idle, floor);
        let body = Http2Body::downstream(handle.clone(), length, stall, expects_continue);
        Body::Http2(Box::new(body))
    };
    let context = exchange::Context {
        worker: &worker,
        snapshot: &snapshot,
        downstream: &downstream,
    };
    let request = Request { head, body };
    let handled = {
        let interim = EarlyHints(&handle);
        let mut exchange = pin!(exchange::handle(context, request, &mut timer, &interim));
        poll_fn(|cx| {
            if let Poll::Ready(outgoing) = exchange.as_mut().poll(cx) {
                return Poll::Ready(Some(outgoing));
            }
            // The client reset the stream: the exchange is given up with it.
            handle.poll_cut(cx).map(|_| None)
        })
        .await
    };
    let Some(mut outgoing) = handled else { return };
    outgoing.trailers = true;
    match outgoing.tunnel.take() {
        Some(end) => {
            Box::pin(switch(handle, end, outgoing, &downstream, &mut timer)).await;
        }
        None => {
            if tunnelled && outgoing.head.status.is_success() {
                // To an extended CONNECT this would say that the tunnel stands (RFC 8441 section 5).
                let kind = ErrorKind::BadResponse;
                let refused = refusal(kind, &downstream.listener, outgoing.record);
                return Box::pin(answer(handle, refused, false, &downstream, &mut timer)).await;
            }
            answer(handle, outgoing, head_only, &downstream, &mut timer).await;
        }
    }
}

/// Writes a response to its end. The record of the exchange ends here.
async fn answer(
    handle: Handle,
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
    handle.reply(&outgoing.head, empty);
    if empty {
        outgoing.record.complete();
        return;
    }
    let stall = downstream.listener.limits.stream_idle;
    let mut writer = Writer::new(body, handle, ErrorKind::ClientGone, outgoing.trailers);
    let (mut silence, mut moved) = (Silence::default(), 0);
    let result = poll_fn(|cx| {
        if let Poll::Ready(done) = writer.poll(cx) {
            return Poll::Ready(done);
        }
        if writer.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::ClientGone));
        }
        // While the rest of the request still comes, the exchange is not silent; but who does not
        // read is stalled, whatever they send.
        if writer.waits_for_body() {
            silence.heard(writer.received());
        }
        if writer.sent != moved {
            moved = writer.sent;
            silence.broken();
        }
        let until = timer::deadline(silence.since(), stall);
        let stalled = timer.poll_maybe(cx, until);
        stalled.map(|()| Err(ErrorKind::stalled(writer.waits_for_body())))
    })
    .await;
    outgoing.record.sent += writer.sent;
    if let Some(trailers) = writer.ended.take() {
        outgoing.record.answers(&trailers);
    }
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
    handle: Handle,
    mut upstream: TunnelEnd,
    mut outgoing: Outgoing<'_>,
    downstream: &Downstream,
    timer: &mut Timer,
) {
    outgoing.head.status = StatusCode::OK;
    handle.send_response(&outgoing.head, false);
    let mut client = TunnelEnd::Http2(Stream::new(handle));
    upstream.detach();
    let idle = downstream.listener.limits.stream_idle;
    let moved = Moved::default();
    let carried = tunnel::run(&mut client, &mut upstream, idle, timer, &moved).await;
    outgoing.record.received += moved.there.get();
    outgoing.record.sent += moved.back.get();
    match carried.distrusted {
        true => outgoing.record.fail_with(ErrorKind::Distrusted),
        false => outgoing.record.complete(),
    }
}
