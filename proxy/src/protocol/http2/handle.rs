//! What a stream's task holds of it: the way to its connection. Dropping the last handle on a
//! stream that is not over resets it.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::message::{Fields, ResponseHead};
use crate::protocol::hpack;

use super::conn::SharedConn;
use super::encode;
use super::frame::Reason;
use super::settings::End;
use super::stream::Cut;

/// See the module.
pub struct Handle {
    conn: SharedConn,
    key: u32,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.key)
    }
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        if let Some(stream) = self.conn.borrow_mut().stream(self.key) {
            stream.handles += 1;
        }
        Self {
            conn: self.conn.clone(),
            key: self.key,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.conn.borrow_mut().release(self.key);
    }
}

/// A part of what a peer sent on a stream.
#[derive(Debug)]
pub enum Part {
    /// Body bytes.
    Data(Bytes),
    /// Trailers; nothing follows.
    Trailers(Fields),
    /// The end.
    End,
}

impl Handle {
    /// Takes over the one handle that is counted for a place.
    #[must_use]
    pub const fn new(conn: SharedConn, key: u32) -> Self {
        Self { conn, key }
    }

    /// The connection.
    #[must_use]
    pub const fn conn(&self) -> &SharedConn {
        &self.conn
    }

    /// The next part of what the peer sends.
    ///
    /// # Errors
    /// How the stream was cut off, once all that had come before is taken.
    pub fn poll_part(&self, cx: &Context<'_>) -> Poll<Result<Part, Cut>> {
        let mut conn = self.conn.borrow_mut();
        let from_client = conn.end == End::Server;
        let Some(stream) = conn.stream(self.key) else {
            return Poll::Ready(Ok(Part::End));
        };
        // What a client has taken back must not look complete, though it may have come whole.
        if let Some(cut) = stream.cut.filter(|_| from_client) {
            return Poll::Ready(Err(cut));
        }
        if let Some(data) = stream.pop() {
            conn.taken(self.key, data.len());
            return Poll::Ready(Ok(Part::Data(data)));
        }
        if stream.recv_ended {
            let trailers = stream.trailers.take();
            return Poll::Ready(Ok(trailers.map_or(Part::End, Part::Trailers)));
        }
        if let Some(cut) = stream.cut {
            return Poll::Ready(Err(cut));
        }
        stream.wait(cx);
        Poll::Pending
    }

    /// The next head of the response: interim ones, then the final one.
    ///
    /// # Errors
    /// How the stream was cut off before one came.
    pub fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<ResponseHead, Cut>> {
        let mut conn = self.conn.borrow_mut();
        let Some(stream) = conn.stream(self.key) else {
            return Poll::Pending;
        };
        if let Some(head) = stream.heads.pop_front() {
            return Poll::Ready(Ok(head));
        }
        if let Some(cut) = stream.cut {
            return Poll::Ready(Err(cut));
        }
        stream.wait(cx);
        Poll::Pending
    }

    /// Whether the peer has ended its side and all it sent was taken, trailers included.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let mut conn = self.conn.borrow_mut();
        conn.stream(self.key)
            .is_none_or(|s| s.recv_ended && s.held == 0 && s.trailers.is_none())
    }

    /// Whether the stream was cut off.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        let mut conn = self.conn.borrow_mut();
        conn.stream(self.key).is_none_or(|s| s.cut.is_some())
    }

    /// Ready once the stream was cut off.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Poll<Cut> {
        let mut conn = self.conn.borrow_mut();
        let Some(stream) = conn.stream(self.key) else {
            return Poll::Pending;
        };
        if let Some(cut) = stream.cut {
            return Poll::Ready(cut);
        }
        stream.wait(cx);
        Poll::Pending
    }

    /// How much may be sent now, at least one byte; `None` where the peer wants no more of it
    /// though it has not failed.
    ///
    /// # Errors
    /// How the stream was cut off.
    pub fn poll_capacity(&self, cx: &Context<'_>) -> Poll<Result<Option<usize>, Cut>> {
        let mut conn = self.conn.borrow_mut();
        let Some(stream) = conn.stream(self.key) else {
            return Poll::Ready(Ok(None));
        };
        if let Some(cut) = stream.cut {
            return Poll::Ready(Err(cut));
        }
        if stream.stopped {
            return Poll::Ready(Ok(None));
        }
        match conn.capacity(self.key) {
            0 => {
                if let Some(stream) = conn.stream(self.key) {
                    stream.wait(cx);
                }
                Poll::Pending
            }
            room => Poll::Ready(Ok(Some(room))),
        }
    }

    /// Queues data, no more than [`Handle::poll_capacity`] gave; empty data may end a stream at
    /// any time.
    pub fn send_data(&self, data: &[u8], ended: bool) {
        self.conn.borrow_mut().put_data(self.key, data, ended);
    }

    /// Queues the head of a response, interim or final.
    pub fn send_response(&self, head: &ResponseHead, ended: bool) {
        let mut conn = self.conn.borrow_mut();
        conn.put_block(self.key, ended, |out| encode::put_response(out, head));
    }

    /// Queues the final head of a response, see [`Handle::is_replying`].
    pub fn reply(&self, head: &ResponseHead, ended: bool) {
        if let Some(stream) = self.conn.borrow_mut().stream(self.key) {
            stream.replying = true;
        }
        self.send_response(head, ended);
    }

    /// How much has come of data that is not there yet, in bytes.
    #[must_use]
    pub fn partial(&self) -> usize {
        self.conn.borrow().partial(self.key)
    }

    /// Whether the final head of the response is queued, so that the request is not all that is
    /// waited for.
    #[must_use]
    pub fn is_replying(&self) -> bool {
        let mut conn = self.conn.borrow_mut();
        conn.stream(self.key).is_none_or(|s| s.replying)
    }

    /// Bytes of body that the peer has sent so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        let mut conn = self.conn.borrow_mut();
        conn.stream(self.key).map_or(0, |s| s.received)
    }

    /// Queues `100 Continue`.
    pub fn send_continue(&self) {
        let mut conn = self.conn.borrow_mut();
        conn.put_block(self.key, false, |out| hpack::encode::put_status(out, 100));
    }

    /// Queues trailers, and ends our side.
    pub fn send_trailers(&self, trailers: &Fields) {
        let mut conn = self.conn.borrow_mut();
        conn.put_block(self.key, true, |out| encode::put_trailers(out, trailers));
    }

    /// Resets the stream: what was sent must not look complete.
    pub fn reset(&self, reason: Reason) {
        self.conn.borrow_mut().reset(self.key, reason);
    }
}
