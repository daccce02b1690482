//! Bodies on HTTP/2 streams, read with flow control: a byte is given credit when it is taken.

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::error::{ErrorKind, Side};
use crate::message::{BodyLength, Chunk};
use crate::timer::Stall;

use super::frame::Reason;
use super::handle::{Handle, Part};
use super::writer::Writer;

/// A body being read from a stream.
#[derive(Debug)]
pub struct Http2Body {
    stream: Handle,
    side: Side,
    length: BodyLength,
    stall: Option<Stall>,
    /// What has come of a frame that is not there yet: that is no silence.
    partial: usize,
    /// On the downstream side: the client waits for `100 Continue`.
    expects_continue: bool,
    /// On the upstream side: the rest of the request, still on its way.
    upload: Option<Box<Writer>>,
}

impl Http2Body {
    /// A request body, which `stall` ends until the response begins.
    #[must_use]
    pub const fn downstream(
        stream: Handle,
        length: BodyLength,
        stall: Stall,
        expects_continue: bool,
    ) -> Self {
        Self {
            stream,
            side: Side::Downstream,
            length,
            stall: Some(stall),
            partial: 0,
            expects_continue,
            upload: None,
        }
    }

    /// A response body.
    #[must_use]
    pub fn upstream(stream: Handle, length: BodyLength, upload: Option<Writer>) -> Self {
        Self {
            stream,
            side: Side::Upstream,
            length,
            stall: None,
            partial: 0,
            expects_continue: false,
            upload: upload.map(Box::new),
        }
    }

    /// What is known about the length.
    #[must_use]
    pub const fn length(&self) -> BodyLength {
        self.length
    }

    const fn broken(&self) -> ErrorKind {
        match self.side {
            Side::Downstream => ErrorKind::ClientGone,
            _ => ErrorKind::UpstreamReset,
        }
    }

    /// See [`crate::message::Body::poll_chunk`].
    ///
    /// # Errors
    /// As there.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, ErrorKind>> {
        if let Some(upload) = &mut self.upload
            && let Poll::Ready(done) = upload.poll(cx)
        {
            self.upload = None;
            match done {
                // An endpoint may answer, and want no more: the answer says how it ends.
                Ok(()) | Err(ErrorKind::UpstreamReset) => {}
                Err(kind) => return Poll::Ready(Err(kind)),
            }
        }
        let part = self.stream.poll_part(cx);
        // Somebody wants the body, and nothing of it has come: the client may wait to be asked.
        if std::mem::take(&mut self.expects_continue) && part.is_pending() {
            self.stream.send_continue();
        }
        match part {
            Poll::Ready(Ok(Part::Data(data))) => {
                if let Some(stall) = &mut self.stall {
                    stall.moved(data.len().saturating_sub(self.partial));
                    self.partial = 0;
                }
                Poll::Ready(Ok(Some(Chunk::Data(data))))
            }
            Poll::Ready(Ok(Part::Trailers(trailers))) => {
                Poll::Ready(Ok(Some(Chunk::Trailers(trailers))))
            }
            Poll::Ready(Ok(Part::End)) => Poll::Ready(Ok(None)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(self.broken())),
            Poll::Pending => match &mut self.stall {
                Some(stall) if !self.stream.is_replying() => {
                    let partial = self.stream.partial();
                    if partial > self.partial {
                        stall.moved(partial - self.partial);
                    }
                    self.partial = partial;
                    stall.poll(cx).map(|()| Err(ErrorKind::BodyTimeout))
                }
                _ => Poll::Pending,
            },
        }
    }
}

/// A stream that carries the bytes of another protocol (RFC 8441).
#[derive(Debug)]
pub struct Stream {
    handle: Handle,
    pending: Bytes,
    ended: bool,
}

impl Stream {
    /// Takes over a stream whose heads went both ways.
    #[must_use]
    pub const fn new(handle: Handle) -> Self {
        Self {
            handle,
            pending: Bytes::new(),
            ended: false,
        }
    }

    /// Gives bytes; `None` at the end.
    ///
    /// # Errors
    /// When the stream was reset.
    pub fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ErrorKind>> {
        Poll::Ready(match ready!(self.handle.poll_part(cx)) {
            Ok(Part::Data(data)) => Ok(Some(data)),
            Ok(Part::Trailers(_) | Part::End) => Ok(None),
            Err(_) => Err(ErrorKind::UpstreamReset),
        })
    }

    /// Whether the connection below was cut off, as its peer is not trusted any more.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.handle.conn().borrow().is_cut_off()
    }

    /// Ready once the peer has reset the stream.
    pub fn poll_gone(&self, cx: &Context<'_>) -> Poll<()> {
        self.handle.poll_cut(cx).map(|_| ())
    }

    /// Resets the stream.
    pub fn reset(&self) {
        self.handle.reset(Reason::CANCEL);
    }

    /// Whether [`Stream::put`] may be called.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes bytes to send.
    pub fn put(&mut self, bytes: Bytes) {
        self.pending = bytes;
    }

    /// Sends as the peer gives credit.
    ///
    /// # Errors
    /// When the stream was reset.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ErrorKind>> {
        while !self.pending.is_empty() {
            let Ok(Some(credit)) = ready!(self.handle.poll_capacity(cx)) else {
                return Poll::Ready(Err(ErrorKind::UpstreamReset));
            };
            let part = self.pending.split_to(credit.min(self.pending.len()));
            self.handle.send_data(&part, false);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends our side.
    ///
    /// # Errors
    /// None; what was sent is with the connection.
    pub fn poll_end(&mut self) -> Poll<Result<(), ErrorKind>> {
        if !std::mem::replace(&mut self.ended, true) {
            self.handle.send_data(&[], true);
        }
        Poll::Ready(Ok(()))
    }
}
