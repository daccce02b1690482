//! Writing a body to an HTTP/2 stream, as far as the peer gives credit: what it does not take is
//! not read from the other side either.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;

use crate::error::ErrorKind;
use crate::message::{Body, BodyLength, Chunk};

/// See the module.
pub struct Writer {
    body: Body,
    stream: SendStream<Bytes>,
    pending: Bytes,
    /// Bytes to come where that is known: the last of them carry END_STREAM.
    left: Option<u64>,
    /// Body bytes handed to the stream.
    pub sent: u64,
    /// What the peer's going away means.
    gone: ErrorKind,
    waits_for_body: bool,
    trailers: bool,
}

/// Credit for up to `want` bytes, at least one.
pub(super) fn poll_credit(
    stream: &mut SendStream<Bytes>,
    want: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, ErrorKind>> {
    stream.reserve_capacity(want);
    loop {
        let credit = stream.capacity().min(want);
        if credit > 0 {
            return Poll::Ready(Ok(credit));
        }
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(Err(ErrorKind::UpstreamReset)),
        }
    }
}

impl Writer {
    /// Begins behind the head. `gone` is what a reset by the peer means; `trailers` says whether
    /// they are passed on.
    #[must_use]
    pub fn new(body: Body, stream: SendStream<Bytes>, gone: ErrorKind, trailers: bool) -> Self {
        let left = match body.length() {
            BodyLength::Exact(left) => Some(left),
            BodyLength::Unknown => None,
        };
        Self {
            body,
            stream,
            pending: Bytes::new(),
            left,
            sent: 0,
            gone,
            waits_for_body: false,
            trailers,
        }
    }

    /// The body, for another try.
    #[must_use]
    pub fn into_body(self) -> Body {
        self.body
    }

    /// Whether it waits for the body rather than for the peer.
    #[must_use]
    pub const fn waits_for_body(&self) -> bool {
        self.waits_for_body
    }

    /// Ready once the peer has reset the stream.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(|_| ())
    }

    /// Resets the stream: what was sent must not look complete.
    pub fn reset(&mut self, reason: h2::Reason) {
        self.stream.send_reset(reason);
    }

    /// Moves bytes until all are handed over, or nothing moves.
    ///
    /// # Errors
    /// What the body says, or `gone`.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ErrorKind>> {
        loop {
            while !self.pending.is_empty() {
                self.waits_for_body = false;
                let credit = ready!(poll_credit(&mut self.stream, self.pending.len(), cx))
                    .map_err(|_| self.gone)?;
                let part = self.pending.split_to(credit);
                self.sent += credit as u64;
                let last = self.left == Some(0) && self.pending.is_empty();
                self.stream.send_data(part, last).map_err(|_| self.gone)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            self.waits_for_body = true;
            match ready!(self.body.poll_chunk(cx))? {
                Some(Chunk::Data(data)) => {
                    if let Some(left) = &mut self.left {
                        // More than the head said: stop before it is sent.
                        *left = left
                            .checked_sub(data.len() as u64)
                            .ok_or(ErrorKind::BadBody)?;
                    }
                    self.pending = data;
                }
                Some(Chunk::Trailers(mut trailers)) if self.trailers => {
                    trailers.remove_if(|k| k.is_hop_by_hop() || k.is_protected());
                    let map = trailers.to_map();
                    self.stream.send_trailers(map).map_err(|_| self.gone)?;
                    return Poll::Ready(Ok(()));
                }
                Some(Chunk::Trailers(_)) | None => {
                    if self.left.is_some_and(|left| left > 0) {
                        return Poll::Ready(Err(ErrorKind::BadBody));
                    }
                    self.stream
                        .send_data(Bytes::new(), true)
                        .map_err(|_| self.gone)?;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}
