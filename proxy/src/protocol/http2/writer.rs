//! Writing a body to an HTTP/2 stream, as far as the peer gives credit: what it does not take is
//! not read from the other side either.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::error::ErrorKind;
use crate::message::{Body, BodyLength, Chunk, Fields};

use super::frame::Reason;
use super::handle::Handle;

/// See the module.
#[derive(Debug)]
pub struct Writer {
    body: Body,
    stream: Handle,
    pending: Bytes,
    /// Bytes to come where that is known: the last of them carry END_STREAM.
    left: Option<u64>,
    /// Body bytes handed to the stream.
    pub sent: u64,
    /// What the peer's going away means.
    gone: ErrorKind,
    waits_for_body: bool,
    trailers: bool,
    /// All of the body was handed over.
    whole: bool,
    /// What came behind it.
    pub ended: Option<Fields>,
}

impl Writer {
    /// Begins behind the head. `gone` is what a reset by the peer means; `trailers` says whether
    /// they are passed on.
    #[must_use]
    pub fn new(body: Body, stream: Handle, gone: ErrorKind, trailers: bool) -> Self {
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
            whole: false,
            ended: None,
        }
    }

    /// The body, for another try.
    #[must_use]
    pub fn into_body(self) -> Body {
        self.body
    }

    /// Whether all of the body was handed over, rather than as much as the peer wanted.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }

    /// Whether it waits for the body rather than for the peer.
    #[must_use]
    pub const fn waits_for_body(&self) -> bool {
        self.waits_for_body
    }

    /// Bytes of body that the peer has sent on the stream.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.stream.received()
    }

    /// Ready once the peer has reset the stream.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        self.stream.poll_cut(cx).map(|_| ())
    }

    /// Resets the stream: what was sent must not look complete.
    pub fn reset(&self, reason: Reason) {
        self.stream.reset(reason);
    }

    /// Sends the last bytes of a length that was told. Trailers may follow all the same; most
    /// bodies know at once that none do.
    fn send_last(&mut self, part: &[u8], cx: &mut Context<'_>) -> Poll<Result<(), ErrorKind>> {
        if !self.trailers {
            self.stream.send_data(part, true);
            self.whole = true;
            return Poll::Ready(Ok(()));
        }
        let next = self.body.poll_chunk(cx);
        self.stream
            .send_data(part, matches!(next, Poll::Ready(Ok(None))));
        self.waits_for_body = true;
        match ready!(next)? {
            Some(Chunk::Data(_)) => Poll::Ready(Err(ErrorKind::BadBody)),
            Some(Chunk::Trailers(trailers)) => {
                self.stream.send_trailers(&trailers);
                self.ended = Some(trailers);
                self.whole = true;
                Poll::Ready(Ok(()))
            }
            None => {
                self.whole = true;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Moves bytes until all are handed over, the peer wants no more, or nothing moves.
    ///
    /// # Errors
    /// What the body says, or `gone`.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ErrorKind>> {
        loop {
            while !self.pending.is_empty() {
                self.waits_for_body = false;
                let credit = match ready!(self.stream.poll_capacity(cx)) {
                    Ok(Some(credit)) => credit,
                    Ok(None) => return Poll::Ready(Ok(())),
                    Err(_) => return Poll::Ready(Err(self.gone)),
                };
                let part = self.pending.split_to(credit.min(self.pending.len()));
                self.sent += part.len() as u64;
                if self.left == Some(0) && self.pending.is_empty() {
                    return self.send_last(&part, cx);
                }
                self.stream.send_data(&part, false);
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
                Some(Chunk::Trailers(trailers)) if self.trailers => {
                    self.stream.send_trailers(&trailers);
                    self.ended = Some(trailers);
                    self.whole = true;
                    return Poll::Ready(Ok(()));
                }
                Some(Chunk::Trailers(_)) | None => {
                    if self.left.is_some_and(|left| left > 0) {
                        return Poll::Ready(Err(ErrorKind::BadBody));
                    }
                    self.stream.send_data(&[], true);
                    self.whole = true;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}
