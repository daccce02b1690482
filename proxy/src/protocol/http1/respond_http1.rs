//! Writing a response to an HTTP/1 client: head and body in as few writes as they arrive in.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use http::StatusCode;
use selvedge_contract::defaults::Limits;

use crate::error::ErrorKind;
use crate::message::{BodyLength, Chunk, Known, ResponseHead, Version};
use crate::respond::Outgoing;
use crate::timer::{self, Silence, Timer};
use crate::upstream::http1::{put_length, write_status};
use crate::worker::Worker;

use super::chunked::{ChunkLimits, Encoder};
use super::conn::{Conn, SharedConn};

/// How a response is to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reply<'a> {
    /// The request was HEAD.
    pub(super) head_only: bool,
    /// The client's version.
    pub(super) version: Version,
    /// The connection lives on.
    pub(super) persists: bool,
    /// Longest silence of either side.
    pub(super) stall: Duration,
    /// Who knows how short memory is.
    pub(super) worker: &'a Worker,
}

/// How writing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// All of it is with the kernel.
    Clean,
    /// The client has part of it, and must not take that for all.
    Broken,
}

/// Limits of chunked request bodies.
pub(super) const fn chunk_limits(limits: &Limits) -> ChunkLimits {
    ChunkLimits {
        extension: limits.chunk_extension,
        trailer_block: limits.trailer_block,
        trailer_count: limits.trailer_count,
    }
}

/// Queues the head of a switch of protocols.
pub(super) fn write_switch(conn: &mut Conn, head: &ResponseHead) {
    let out = conn.output();
    write_status(out, head.status);
    out.put_slice(b"Connection: upgrade\r\n");
    head.fields.write_http1(out);
    out.put_slice(b"\r\n");
}

/// Queues the head, and says how the body is written; `None` where there is none to write.
fn write_head(conn: &mut Conn, outgoing: &mut Outgoing<'_>, reply: Reply<'_>) -> Option<Encoder> {
    let status = outgoing.head.status;
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let fields = &mut outgoing.head.fields;
    let mut close = !reply.persists;
    conn.answering = true;
    let encoder = match outgoing.body.length() {
        _ if reply.head_only || bodiless => None,
        BodyLength::Exact(length) => Some(Encoder::Length(length)),
        BodyLength::Unknown if reply.version == Version::Http10 => {
            close = true;
            Some(Encoder::UntilClose)
        }
        BodyLength::Unknown => Some(Encoder::Chunked),
    };
    let told = fields.known(Known::ContentLength).is_some();
    let out = conn.output();
    write_status(out, status);
    // A 204 has no length to tell (RFC 9110 section 8.6), a chunked body must not.
    let unfit = matches!(encoder, Some(Encoder::Chunked | Encoder::UntilClose));
    if told && (unfit || status == StatusCode::NO_CONTENT) {
        fields.remove_known(Known::ContentLength);
    }
    fields.write_http1(out);
    match encoder {
        Some(Encoder::Length(length)) if !told => put_length(out, length),
        Some(Encoder::Chunked) => out.put_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    if close {
        out.put_slice(b"Connection: close\r\n");
    } else if reply.version == Version::Http10 {
        out.put_slice(b"Connection: keep-alive\r\n");
    }
    out.put_slice(b"\r\n");
    encoder
}

/// Sends what came before a body broke off, as far as that takes no time, and without its end.
fn say_what_came(conn: &SharedConn, encoder: Encoder, cx: &mut Context<'_>) {
    // Nobody could tell that one from a whole one.
    if encoder != Encoder::UntilClose {
        let _ = conn.borrow_mut().poll_flush(cx);
    }
}

/// Writes a response to its end. The record of the exchange ends here.
pub(super) async fn write(
    conn: &SharedConn,
    mut outgoing: Outgoing<'_>,
    reply: Reply<'_>,
    timer: &mut Timer,
) -> Ended {
    let mut encoder = write_head(&mut conn.borrow_mut(), &mut outgoing, reply);
    let mut silence = Silence::default();
    let result = poll_fn(|cx| {
        loop {
            let room = conn.borrow().has_room();
            let mut waits_for_body = false;
            if room && let Some(writing) = &mut encoder {
                match outgoing.body.poll_chunk(cx) {
                    Poll::Ready(Ok(Some(Chunk::Data(data)))) => {
                        outgoing.record.sent += data.len() as u64;
                        let mut conn = conn.borrow_mut();
                        if writing.before(data.len(), conn.output()).is_err() {
                            return Poll::Ready(Err(ErrorKind::BadResponse));
                        }
                        conn.push_chunk(data, *writing);
                        silence.broken();
                        continue;
                    }
                    Poll::Ready(Ok(end)) => {
                        let mut trailers = match end {
                            Some(Chunk::Trailers(trailers)) if outgoing.trailers => Some(trailers),
                            _ => None,
                        };
                        if let Some(trailers) = &mut trailers {
                            outgoing.record.answers(trailers);
                            trailers.remove_if(|k| k.is_hop_by_hop() || k.is_protected());
                        }
                        let mut conn = conn.borrow_mut();
                        if writing.end(trailers.as_ref(), conn.output()).is_err() {
                            return Poll::Ready(Err(ErrorKind::BadResponse));
                        }
                        encoder = None;
                    }
                    Poll::Ready(Err(kind)) => {
                        say_what_came(conn, *writing, cx);
                        return Poll::Ready(Err(kind));
                    }
                    Poll::Pending => waits_for_body = true,
                }
            }
            match conn.borrow_mut().poll_flush(cx) {
                Poll::Ready(Ok(())) if encoder.is_none() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if !waits_for_body => continue,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(ErrorKind::ClientGone)),
                Poll::Pending => waits_for_body = false,
            }
            if waits_for_body && super::server::poll_gone(conn, cx).is_ready() {
                return Poll::Ready(Err(ErrorKind::ClientGone));
            }
            if waits_for_body {
                // While the rest of the request still comes, the exchange is not silent.
                silence.heard(conn.borrow().received);
            } else if reply.worker.cuts_off(|| 1, &mut conn.borrow_mut().looked) {
                return Poll::Ready(Err(ErrorKind::Overloaded));
            }
            let until = timer::deadline(silence.since(), reply.stall);
            let stalled = timer.poll_maybe(cx, until);
            return stalled.map(|()| Err(ErrorKind::stalled(waits_for_body)));
        }
    })
    .await;
    match result {
        Ok(()) => {
            outgoing.record.complete();
            Ended::Clean
        }
        Err(kind) => {
            outgoing.record.fail_with(kind);
            Ended::Broken
        }
    }
}
