//! Bodies on an HTTP/1 connection: one is read, another written, perhaps at the same time.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::task::{Context, Poll, ready};

use crate::error::{ErrorKind, Side};
use crate::message::{Body, BodyLength, Chunk};
use crate::timer::Stall;

use super::chunked::{Decoded, Decoder, Encoder};
use super::conn::SharedConn;

/// Interim answer to `Expect: 100-continue` (RFC 9110 section 10.1.1).
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A body being read from a connection.
pub struct Http1Body {
    conn: SharedConn,
    side: Side,
    length: BodyLength,
    /// The client waits for `100 Continue` before it sends.
    expects_continue: bool,
    /// On the downstream side: ends a body that stops coming before there is an answer.
    stall: Option<Stall>,
    /// On the upstream side: the rest of the request, still on its way.
    upload: Option<Box<Upload>>,
    /// On the upstream side: what to do with the connection at the end.
    release: Option<Box<dyn FnOnce(SharedConn)>>,
}

impl Http1Body {
    /// A request body, read from a downstream connection whose decoder is set. Until the response
    /// begins, `stall` ends it.
    #[must_use]
    pub fn downstream(
        conn: SharedConn,
        length: BodyLength,
        expects_continue: bool,
        stall: Stall,
    ) -> Self {
        Self {
            stall: Some(stall),
            conn,
            side: Side::Downstream,
            length,
            expects_continue,
            upload: None,
            release: None,
        }
    }

    /// A response body, read from an upstream connection whose decoder is set. `release` takes
    /// the connection back when both messages are over.
    #[must_use]
    pub fn upstream(
        conn: SharedConn,
        length: BodyLength,
        upload: Option<Upload>,
        release: Box<dyn FnOnce(SharedConn)>,
    ) -> Self {
        Self {
            stall: None,
            conn,
            side: Side::Upstream,
            length,
            expects_continue: false,
            upload: upload.map(Box::new),
            release: Some(release),
        }
    }

    /// What is known about the length.
    #[must_use]
    pub const fn length(&self) -> BodyLength {
        self.length
    }

    const fn malformed(&self) -> ErrorKind {
        match self.side {
            Side::Downstream => ErrorKind::BadBody,
            _ => ErrorKind::UpstreamReset,
        }
    }

    const fn broken(&self) -> ErrorKind {
        match self.side {
            Side::Downstream => ErrorKind::ClientGone,
            _ => ErrorKind::UpstreamReset,
        }
    }

    /// See [`Body::poll_chunk`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, ErrorKind>> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(done) = upload.poll(&self.conn, cx)
        {
            // One that was not read stays: its connection must not be used again.
            if upload.is_done() {
                self.upload = None;
            }
            done?;
        }
        if self.expects_continue {
            ready!(self.poll_continue(cx))?;
        }
        loop {
            let mut conn = self.conn.borrow_mut();
            let conn = &mut *conn;
            match conn.decoder.decode(&mut conn.input) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Ok(Some(Chunk::Data(data)))),
                Ok(Decoded::End(trailers)) => {
                    return Poll::Ready(Ok(trailers.map(Chunk::Trailers)));
                }
                Ok(Decoded::Partial) => {}
                Err(_) => return Poll::Ready(Err(self.malformed())),
            }
            match conn.poll_read(cx) {
                Poll::Ready(Ok(0)) if conn.decoder.ends_with_connection() => {
                    conn.decoder = Decoder::Length(0);
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(self.broken())),
                Poll::Ready(Ok(n)) => {
                    if let Some(stall) = &mut self.stall {
                        stall.moved(n);
                    }
                }
                Poll::Pending => {
                    let stall = self.stall.as_mut().filter(|_| !conn.answering);
                    return stall.map_or(Poll::Pending, |stall| {
                        stall.poll(cx).map(|()| Err(ErrorKind::BodyTimeout))
                    });
                }
            }
        }
    }

    fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ErrorKind>> {
        let mut conn = self.conn.borrow_mut();
        // A client that did not wait needs no answer to a question it no longer asks.
        if conn.input.is_empty() {
            conn.output().extend_from_slice(CONTINUE);
        }
        ready!(conn.poll_flush(cx)).map_err(|_| ErrorKind::ClientGone)?;
        self.expects_continue = false;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Http1Body {
    /// Hands the connection on, if both messages on it are over; else it is closed.
    fn drop(&mut self) {
        let clean = self.upload.is_none() && self.conn.borrow().decoder.is_done();
        if let Some(release) = self.release.take()
            && clean
        {
            release(self.conn.clone());
        }
    }
}

/// A request body being written to an upstream connection.
pub struct Upload {
    body: Body,
    encoder: Encoder,
    ended: bool,
    /// All of it is with the kernel.
    flushed: bool,
    /// The endpoint stopped reading; its response may still come.
    deaf: bool,
}

impl Upload {
    /// Begins: the head is queued on the connection already.
    #[must_use]
    pub const fn new(body: Body, encoder: Encoder) -> Self {
        Self {
            body,
            encoder,
            ended: false,
            flushed: false,
            deaf: false,
        }
    }

    /// Whether all of it was sent. One that the endpoint did not read never is.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.flushed
    }

    /// The body, for another try.
    #[must_use]
    pub fn into_body(self) -> Body {
        self.body
    }

    /// Moves bytes until all are written, or nothing moves.
    ///
    /// # Errors
    /// What the request body says. That the endpoint does not read is no error here: its answer
    /// tells why.
    pub fn poll(&mut self, conn: &SharedConn, cx: &mut Context<'_>) -> Poll<Result<(), ErrorKind>> {
        loop {
            if self.deaf || self.flushed {
                return Poll::Ready(Ok(()));
            }
            let room = conn.borrow().has_room();
            if !self.ended && room {
                match self.body.poll_chunk(cx) {
                    Poll::Ready(Ok(chunk)) => {
                        self.queue(conn, chunk)?;
                        continue;
                    }
                    Poll::Ready(Err(kind)) => return Poll::Ready(Err(kind)),
                    Poll::Pending => {}
                }
            }
            let flushed = conn.borrow_mut().poll_flush(cx);
            match flushed {
                Poll::Ready(Ok(())) if self.ended => self.flushed = true,
                // Flushed, and the body is what we wait for; or the queue has room again.
                Poll::Ready(Ok(())) if room => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.deaf = true,
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn queue(&mut self, conn: &SharedConn, chunk: Option<Chunk>) -> Result<(), ErrorKind> {
        let mut conn = conn.borrow_mut();
        let mismatch = |_| ErrorKind::BadBody;
        match chunk {
            Some(Chunk::Data(data)) => {
                self.encoder
                    .before(data.len(), conn.output())
                    .map_err(mismatch)?;
                conn.push_chunk(data, self.encoder);
            }
            // Trailers of a request go no further: nothing in this proxy vouches for them.
            Some(Chunk::Trailers(_)) | None => {
                self.encoder.end(None, conn.output()).map_err(mismatch)?;
                self.ended = true;
            }
        }
        Ok(())
    }
}
