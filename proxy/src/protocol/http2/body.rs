//! Bodies on HTTP/2 streams, read with flow control: a byte is given credit when it is taken.

use std::fmt;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use crate::error::{ErrorKind, Side};
use crate::message::{BodyLength, Chunk, Fields};
use crate::timer::Stall;

use super::writer::Writer;

/// A body being read from a stream.
pub struct Http2Body {
    stream: RecvStream,
    side: Side,
    length: BodyLength,
    data_ended: bool,
    stall: Option<Stall>,
    /// On the upstream side: the rest of the request, still on its way.
    upload: Option<Box<Writer>>,
    /// On the upstream side: counts the stream as live until it ends.
    _guard: Option<Box<dyn fmt::Debug>>,
}

impl Http2Body {
    /// A request body, which may be silent for `idle`.
    #[must_use]
    pub const fn downstream(stream: RecvStream, length: BodyLength, idle: Duration) -> Self {
        Self {
            stream,
            side: Side::Downstream,
            length,
            data_ended: false,
            stall: Some(Stall::new(idle)),
            upload: None,
            _guard: None,
        }
    }

    /// A response body.
    #[must_use]
    pub fn upstream(
        stream: RecvStream,
        length: BodyLength,
        upload: Option<Writer>,
        guard: Box<dyn fmt::Debug>,
    ) -> Self {
        Self {
            stream,
            side: Side::Upstream,
            length,
            data_ended: false,
            stall: None,
            upload: upload.map(Box::new),
            _guard: Some(guard),
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
            done?;
        }
        while !self.data_ended {
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // Fails only for a stream that is over, which needs no credit.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if let Some(stall) = &mut self.stall {
                        stall.moved(data.len());
                    }
                    if !data.is_empty() {
                        return Poll::Ready(Ok(Some(Chunk::Data(data))));
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(self.broken())),
                Poll::Ready(None) => self.data_ended = true,
                Poll::Pending => {
                    let stall = self.stall.as_mut();
                    return stall.map_or(Poll::Pending, |stall| {
                        stall.poll(cx).map(|()| Err(ErrorKind::BodyTimeout))
                    });
                }
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => {
                let trailers = trailers.map(|map| Chunk::Trailers(Fields::from_map(&map)));
                Poll::Ready(Ok(trailers))
            }
            Err(_) => Poll::Ready(Err(self.broken())),
        }
    }
}

/// A stream that carries the bytes of another protocol (RFC 8441).
pub struct Stream {
    recv: RecvStream,
    send: SendStream<Bytes>,
    pending: Bytes,
    ended: bool,
    _guard: Option<Box<dyn fmt::Debug>>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:?})", self.send.stream_id())
    }
}

impl Stream {
    /// Both halves of a stream.
    #[must_use]
    pub fn new(
        recv: RecvStream,
        send: SendStream<Bytes>,
        guard: Option<Box<dyn fmt::Debug>>,
    ) -> Self {
        Self {
            recv,
            send,
            pending: Bytes::new(),
            ended: false,
            _guard: guard,
        }
    }

    /// Gives bytes; `None` at the end.
    ///
    /// # Errors
    /// When the stream was reset.
    pub fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ErrorKind>> {
        loop {
            return match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => continue,
                Some(Ok(data)) => {
                    let _ = self.recv.flow_control().release_capacity(data.len());
                    Poll::Ready(Ok(Some(data)))
                }
                Some(Err(_)) => Poll::Ready(Err(ErrorKind::UpstreamReset)),
                None => Poll::Ready(Ok(None)),
            };
        }
    }

    /// Whether [`Stream::put`] may be called.
    #[must_use]
    pub fn has_room(&self) -> bool {
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
        let broken = |_| ErrorKind::UpstreamReset;
        while !self.pending.is_empty() {
            let credit = ready!(super::writer::poll_credit(
                &mut self.send,
                self.pending.len(),
                cx
            ))?;
            let part = self.pending.split_to(credit);
            self.send.send_data(part, false).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends our side.
    ///
    /// # Errors
    /// When the stream was reset.
    pub fn poll_end(&mut self) -> Poll<Result<(), ErrorKind>> {
        if !std::mem::replace(&mut self.ended, true) {
            let broken = |_| ErrorKind::UpstreamReset;
            self.send.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}
