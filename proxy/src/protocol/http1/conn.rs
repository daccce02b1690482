//! One HTTP/1 connection, seen from either end: a read buffer, a write queue, and the socket.
//!
//! Both halves of an exchange may be in flight at once (a response can begin before its request
//! ends), and both run in the task of the downstream connection. So a connection is shared inside
//! that task by `Rc`, and borrowed only within a poll.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use crate::protocol::io::Io;

use super::chunked::{Decoder, Encoder};
use super::parse::{self, HeadEnd};

/// First size of a read buffer: a head and a small body. Doubles while reads fill it.
const FIRST_READ: usize = 4 << 10;
/// Data of at least this size is queued as it is instead of being copied behind the head.
const BY_REFERENCE: usize = 4 << 10;

/// A connection that several parts of one task hold.
pub type SharedConn = Rc<RefCell<Conn>>;

/// A connection with its buffers.
#[derive(Debug)]
pub struct Conn {
    io: Io,
    /// Bytes read and not yet taken.
    pub input: BytesMut,
    /// Bytes to write, in order: first this, ...
    output: BytesMut,
    /// ... then this, ...
    tail: Bytes,
    /// ... then the CRLF of a chunk.
    tail_ends_chunk: bool,
    /// The message being read.
    pub decoder: Decoder,
    /// At a server: the head of the response is queued, so that the request is not all that is
    /// waited for.
    pub answering: bool,
    /// How much one read may bring.
    read_size: usize,
    /// How much of `input` was searched for the end of a head.
    searched: usize,
    /// Most that is held in each direction.
    limit: usize,
    /// The peer has closed its side.
    pub eof: bool,
    /// See [`crate::worker::Worker::cuts_off`].
    pub looked: u32,
    /// Bytes read and written, for metrics.
    pub received: u64,
    /// See `received`.
    pub sent: u64,
}

impl Conn {
    /// Takes over a connection; `limit` bounds what is held in each direction, in bytes.
    #[must_use]
    pub fn new(io: Io, limit: usize) -> Self {
        Self {
            io,
            input: BytesMut::new(),
            output: BytesMut::new(),
            tail: Bytes::new(),
            tail_ends_chunk: false,
            decoder: Decoder::Length(0),
            answering: false,
            read_size: FIRST_READ,
            searched: 0,
            limit,
            eof: false,
            looked: 0,
            received: 0,
            sent: 0,
        }
    }

    /// Gives the stream back, with what was read and not taken put back into it.
    #[must_use]
    pub fn into_io(mut self) -> Io {
        if !self.input.is_empty() {
            self.io.unread(self.input.split());
        }
        self.io
    }

    /// The stream.
    #[must_use]
    pub const fn io(&self) -> &Io {
        &self.io
    }

    /// Reads once; gives the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        let room = self.input.capacity().saturating_sub(self.input.len());
        if room < self.read_size / 2 {
            self.input.reserve(self.read_size);
        }
        let room = self.input.capacity().saturating_sub(self.input.len());
        let n = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input))?;
        self.eof = n == 0;
        self.received = self.received.wrapping_add(n as u64);
        if n == room {
            self.read_size = self.read_size.saturating_mul(2).min(self.limit);
        }
        Poll::Ready(Ok(n))
    }

    /// Looks for the end of a head in what was read, from where the last look ended.
    pub fn find_head_end(&mut self) -> HeadEnd {
        let end = parse::find_end(&self.input, self.searched);
        self.searched = match end {
            HeadEnd::Partial(at) => at,
            HeadEnd::At(_) | HeadEnd::Malformed => 0,
        };
        end
    }

    /// Whether the queue has room for more. Where it has none, flush first.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.tail.is_empty() && self.output.len() < self.limit
    }

    /// Where heads and framing are written. Must not be used while a tail is queued.
    pub const fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Queues data whose frame has begun: small data is copied behind what is queued, large data
    /// is kept by reference. Only with [`Conn::has_room`].
    pub fn push_chunk(&mut self, data: Bytes, encoder: Encoder) {
        if data.len() < BY_REFERENCE {
            self.output.extend_from_slice(&data);
            encoder.after(&mut self.output);
        } else {
            self.tail = data;
            self.tail_ends_chunk = encoder == Encoder::Chunked;
        }
    }

    /// Whether anything is queued.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.tail.is_empty()
    }

    /// Forgets what is queued.
    pub fn discard_output(&mut self) {
        self.output.clear();
        self.tail = Bytes::new();
        self.tail_ends_chunk = false;
    }

    /// Writes all that is queued.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_flushed() {
            let n = if self.tail.is_empty() {
                ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?
            } else if self.output.is_empty() {
                ready!(Pin::new(&mut self.io).poll_write(cx, &self.tail))?
            } else {
                let parts = [IoSlice::new(&self.output), IoSlice::new(&self.tail)];
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &parts))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent = self.sent.wrapping_add(n as u64);
            let first = n.min(self.output.len());
            self.output.advance(first);
            self.tail.advance(n.saturating_sub(first));
            if self.tail.is_empty() && std::mem::take(&mut self.tail_ends_chunk) {
                self.output.extend_from_slice(b"\r\n");
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ends our side of the stream.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// Whether an idle connection may carry another request: still open, and silent.
    ///
    /// Costs no system call while nothing has arrived. Must be called within the runtime.
    pub fn is_reusable(&mut self) -> bool {
        // Without budget the runtime says "nothing there" without having looked.
        let blind = !tokio::task::coop::has_budget_remaining();
        if self.eof || blind || self.io.is_leaving() || !self.input.is_empty() || !self.is_flushed()
        {
            return false;
        }
        self.is_open_and_silent(&mut Context::from_waker(std::task::Waker::noop()))
    }

    /// Whether the peer neither closes nor says anything; who asks is woken when that changes.
    pub fn is_open_and_silent(&mut self, cx: &mut Context<'_>) -> bool {
        !self.eof && self.input.is_empty() && self.poll_read(cx).is_pending()
    }
}
