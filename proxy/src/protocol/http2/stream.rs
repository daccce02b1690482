//! One HTTP/2 stream as its connection knows it: what came and was not taken, what may be sent.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

use crate::message::{Fields, ResponseHead};

use super::frame::Reason;

/// DATA of less than this is copied together: a slice would pin the whole buffer that was read,
/// which is no larger than [`READ`].
pub(super) const SMALL: usize = 8 << 10;
/// Largest read buffer.
pub(super) const READ: usize = 32 << 10;
/// What a free place may keep of its buffers.
const KEPT: usize = 4 << 10;

/// Interim heads that wait for somebody to take them.
pub(super) const INTERIM: usize = 16;

/// How a stream was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// With this reason.
    pub reason: Reason,
    /// By the peer, rather than by us.
    pub remote: bool,
    /// The peer has certainly not processed it.
    pub refused: bool,
}

/// State of one stream. Reused for the next: its buffers are allocated once.
#[derive(Debug, Default)]
pub struct Stream {
    /// Number; 0 while the place is free.
    pub id: u32,
    /// Handles on it.
    pub handles: u8,
    /// Interim response heads, then the final one; of use to a client.
    pub heads: VecDeque<ResponseHead>,
    /// Trailers, at the end.
    pub trailers: Option<Fields>,
    data: VecDeque<Bytes>,
    small: BytesMut,
    /// Bytes of body in the two above.
    pub held: usize,
    /// Bytes of body that came.
    pub received: u64,
    /// What the peer may still send; below zero it has sent too much.
    pub recv_window: i64,
    /// Bytes taken and not yet given back as credit.
    pub owed: u32,
    /// Body bytes that the head announced and that are yet to come.
    pub expected: Option<u64>,
    /// The final head came.
    pub has_head: bool,
    /// A head came, interim or final.
    pub answered: bool,
    /// At a server: the final head of our response is queued.
    pub replying: bool,
    /// The request was HEAD: the answer has no body, whatever its head says.
    pub head_only: bool,
    /// The peer ended its side.
    pub recv_ended: bool,
    /// What we may still send.
    pub send_window: i64,
    /// We ended our side.
    pub send_ended: bool,
    /// The peer has all it wants of ours, and says so without an error (RFC 9113 section 8.1).
    pub stopped: bool,
    /// Waits for credit or room.
    pub blocked: bool,
    /// Stands in its connection's line for them.
    pub queued: bool,
    /// Ended before both sides had.
    pub cut: Option<Cut>,
    /// Its connection counts it no more.
    pub settled: bool,
    /// Who waits for any of this.
    waker: Option<Waker>,
}

impl Stream {
    /// Begins another stream in this place.
    pub fn begin(&mut self, id: u32, recv_window: u32, send_window: u32) {
        let (mut data, mut heads) = (
            std::mem::take(&mut self.data),
            std::mem::take(&mut self.heads),
        );
        data.clear();
        heads.clear();
        let mut small = std::mem::take(&mut self.small);
        small.clear();
        *self = Self {
            id,
            data,
            heads,
            small,
            recv_window: recv_window.into(),
            send_window: send_window.into(),
            ..Self::default()
        };
    }

    /// Whether neither side sends any more.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.cut.is_some() || (self.recv_ended && self.send_ended)
    }

    /// Keeps the first `length` bytes of `input` until they are taken. Their window was charged
    /// before.
    pub fn push(&mut self, input: &mut BytesMut, length: usize) {
        self.held += length;
        self.received += length as u64;
        if length < SMALL {
            self.small
                .extend_from_slice(input.get(..length).unwrap_or_default());
            return;
        }
        if !self.small.is_empty() {
            self.data.push_back(self.small.split().freeze());
        }
        self.data.push_back(input.split_to(length).freeze());
    }

    /// Takes body bytes, in order.
    pub fn pop(&mut self) -> Option<Bytes> {
        let bytes = match self.data.pop_front() {
            Some(bytes) => bytes,
            None if self.small.is_empty() => return None,
            None => self.small.split().freeze(),
        };
        self.held -= bytes.len();
        Some(bytes)
    }

    /// Forgets what was not taken; gives its length.
    pub fn discard(&mut self) -> usize {
        self.data.clear();
        self.small.clear();
        self.heads.clear();
        std::mem::take(&mut self.held)
    }

    /// Gives up what the last stream held here, but for small buffers.
    pub fn end(&mut self) {
        self.id = 0;
        self.waker = None;
        self.trailers = None;
        if self.small.capacity() > KEPT {
            self.small = BytesMut::new();
        }
        self.data.shrink_to(KEPT / size_of::<Bytes>());
        self.heads.shrink_to(1);
    }

    /// Whom to wake.
    pub fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waker => *waker = Some(cx.waker().clone()),
        }
    }

    /// Something changed.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order() {
        let mut stream = Stream::default();
        stream.begin(1, 1 << 20, 0);
        let (small, large) = (vec![1u8; 10], vec![2u8; SMALL]);
        for part in [&small, &small, &large, &small] {
            stream.push(&mut BytesMut::from(&part[..]), part.len());
        }
        assert_eq!(stream.held, SMALL + 30);
        let parts: Vec<usize> = std::iter::from_fn(|| stream.pop().map(|b| b.len())).collect();
        assert_eq!(parts, [20, SMALL, 10]);
        assert_eq!(stream.held, 0);
    }
}
