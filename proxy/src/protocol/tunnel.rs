//! Bytes after a switch of protocols: copied both ways until both sides have ended.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::error::{ErrorKind, Side};
use crate::protocol::http1::SharedConn;
use crate::protocol::http1::chunked::{Decoder, Encoder};
use crate::protocol::http2::Stream;
use crate::timer::{self, Timer};
use crate::upstream::pool::Permit;

/// One end of a tunnel.
#[derive(Debug)]
pub enum TunnelEnd {
    /// An HTTP/1 connection, with what was read behind the head.
    Http1(SharedConn, Option<Permit>),
    /// An HTTP/2 stream of an extended CONNECT.
    Http2(Stream),
}

impl TunnelEnd {
    /// Gives bytes; `None` when this side has ended.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ErrorKind>> {
        match self {
            Self::Http1(conn, _) => {
                let mut conn = conn.borrow_mut();
                if conn.input.is_empty() {
                    match conn.poll_read(cx) {
                        Poll::Ready(Ok(0)) => return Poll::Ready(Ok(None)),
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(ErrorKind::UpstreamReset)),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Poll::Ready(Ok(Some(conn.input.split().freeze())))
            }
            Self::Http2(stream) => stream.poll_take(cx),
        }
    }

    fn has_room(&mut self) -> bool {
        match self {
            Self::Http1(conn, _) => conn.borrow().has_room(),
            Self::Http2(stream) => stream.has_room(),
        }
    }

    fn put(&mut self, bytes: Bytes) {
        match self {
            Self::Http1(conn, _) => conn.borrow_mut().push_chunk(bytes, Encoder::UntilClose),
            Self::Http2(stream) => stream.put(bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ErrorKind>> {
        match self {
            Self::Http1(conn, _) => conn
                .borrow_mut()
                .poll_flush(cx)
                .map_err(|_| ErrorKind::UpstreamReset),
            Self::Http2(stream) => stream.poll_flush(cx),
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ErrorKind>> {
        match self {
            Self::Http1(conn, _) => conn
                .borrow_mut()
                .poll_shutdown(cx)
                .map_err(|_| ErrorKind::UpstreamReset),
            Self::Http2(stream) => stream.poll_end(),
        }
    }

    /// Ready once the peer has reset its stream, or was cut off: noticed also while nothing is read
    /// from it.
    fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(conn, _) if conn.borrow().io().is_cut() => Poll::Ready(()),
            Self::Http1(..) => Poll::Pending,
            Self::Http2(stream) => stream.poll_gone(cx),
        }
    }

    /// Whether it was cut off, as its peer is not trusted any more.
    fn is_cut(&self) -> bool {
        match self {
            Self::Http1(conn, _) => conn.borrow().io().is_cut(),
            Self::Http2(stream) => stream.is_cut_off(),
        }
    }

    /// What was sent must not look complete, and what waits to be sent is of no use.
    fn abort(&self) {
        match self {
            Self::Http1(conn, _) => {
                let conn = conn.borrow();
                let socket = socket2::SockRef::from(conn.io().socket());
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
            Self::Http2(stream) => stream.reset(),
        }
    }

    /// Whatever the last message was, what follows is not HTTP.
    pub fn detach(&self) {
        if let Self::Http1(conn, _) = self {
            conn.borrow_mut().decoder = Decoder::UntilClose;
        }
    }
}

/// One direction of a tunnel.
#[derive(Debug)]
struct Direction<'a> {
    ended: bool,
    finished: bool,
    bytes: &'a Cell<u64>,
}

impl<'a> Direction<'a> {
    const fn new(bytes: &'a Cell<u64>) -> Self {
        Self {
            ended: false,
            finished: false,
            bytes,
        }
    }

    /// Moves what can be moved; says whether anything did.
    fn advance(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TunnelEnd,
        to: &mut TunnelEnd,
    ) -> Result<bool, Broke> {
        let before = self.bytes.get();
        while !self.finished {
            // Only a side that said "not yet" wakes this task when it has more.
            let mut waits = false;
            if !self.ended && to.has_room() {
                match from.poll_take(cx).map_err(|_| Broke::From)? {
                    Poll::Ready(Some(bytes)) => {
                        self.bytes.set(self.bytes.get() + bytes.len() as u64);
                        to.put(bytes);
                        continue;
                    }
                    Poll::Ready(None) => self.ended = true,
                    Poll::Pending => waits = true,
                }
            }
            match to.poll_flush(cx).map_err(|_| Broke::To)? {
                Poll::Pending => break,
                Poll::Ready(()) if self.ended => match to.poll_end(cx).map_err(|_| Broke::To)? {
                    Poll::Ready(()) => self.finished = true,
                    Poll::Pending => break,
                },
                Poll::Ready(()) if waits => break,
                Poll::Ready(()) => {}
            }
        }
        Ok(self.bytes.get() != before)
    }
}

/// Which end of a direction has broken off.
#[derive(Debug, PartialEq, Eq)]
enum Broke {
    From,
    To,
}

/// Bytes that have passed so far; whoever holds it knows them also where the tunnel is dropped.
#[derive(Debug, Default)]
pub struct Moved {
    /// From the first end to the second.
    pub there: Cell<u64>,
    /// From the second to the first.
    pub back: Cell<u64>,
}

/// What has become of a tunnel.
#[derive(Debug)]
pub struct Carried {
    /// Who has broken off, if the bytes did not come to their end.
    pub broken: Option<Side>,
    /// One of them was cut off, as it is not trusted any more.
    pub distrusted: bool,
    /// Nothing has passed for too long.
    pub silent: bool,
}

/// Copies both ways until both sides have ended, one breaks, or nothing moves for `idle`.
///
/// Nearer to the client is `a`.
pub async fn run(
    a: &mut TunnelEnd,
    b: &mut TunnelEnd,
    idle: Duration,
    timer: &mut Timer,
    moved: &Moved,
) -> Carried {
    let (mut there, mut back) = (Direction::new(&moved.there), Direction::new(&moved.back));
    let mut silent_until = timer::deadline(Instant::now(), idle);
    let mut broken = None;
    poll_fn(|cx| {
        let side = |is_client| match is_client {
            true => Side::Downstream,
            false => Side::Upstream,
        };
        let first = there.advance(cx, a, b);
        let moved = first
            .map_err(|broke| side(broke == Broke::From))
            .and_then(|first| {
                let second = back.advance(cx, b, a);
                Ok(second.map_err(|broke| side(broke == Broke::To))? || first)
            });
        let gone = [(&*a, true), (&*b, false)];
        let mut gone = gone
            .into_iter()
            .filter(|(end, _)| end.poll_gone(cx).is_ready());
        broken = moved.err().or_else(|| Some(side(gone.next()?.1)));
        if broken.is_some() {
            a.abort();
            b.abort();
            return Poll::Ready(());
        }
        match moved {
            Ok(_) if there.finished && back.finished => return Poll::Ready(()),
            Ok(true) => silent_until = timer::deadline(Instant::now(), idle),
            Ok(false) | Err(_) => {}
        }
        timer.poll_maybe(cx, silent_until)
    })
    .await;
    Carried {
        silent: broken.is_none() && !(there.finished && back.finished),
        broken,
        distrusted: a.is_cut() || b.is_cut(),
    }
}
