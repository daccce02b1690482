//! The byte stream of a connection, plain or TLS, downstream or upstream: one concrete type, so
//! that the path is compiled once and nothing is boxed a request.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::tls::bond::Bond;
use crate::upstream::dials::Dial;

use super::socket::Socket;

/// A connection's bytes, and what was read ahead of it while the protocol was told apart.
#[derive(Debug)]
pub struct Io {
    stream: Stream,
    ahead: BytesMut,
    /// Held for as long as the connection is.
    dial: Option<Box<Dial>>,
    /// Of a peer in the mesh.
    bond: Option<Rc<Bond>>,
}

#[derive(Debug)]
enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Io {
    /// A plaintext connection.
    #[must_use]
    pub fn plain(stream: TcpStream) -> Self {
        Self {
            stream: Stream::Plain(Socket::new(stream)),
            ahead: BytesMut::new(),
            dial: None,
            bond: None,
        }
    }

    /// A TLS connection.
    #[must_use]
    pub fn tls(stream: impl Into<TlsStream<Socket>>) -> Self {
        Self {
            stream: Stream::Tls(Box::new(stream.into())),
            ahead: BytesMut::new(),
            dial: None,
            bond: None,
        }
    }

    /// Ends with the trust in its peer, see [`Bond`].
    pub fn bound_by(&mut self, bond: Rc<Bond>) {
        self.bond = Some(bond);
    }

    /// Whether its peer is not trusted any more, so that it must take nothing new.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.bond.as_ref().is_some_and(|bond| bond.is_leaving())
    }

    /// Whether it was cut off for that.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.bond.as_ref().is_some_and(|bond| bond.is_cut())
    }

    /// Lets a bond have its say before bytes move, and know who waits for them.
    fn through<T>(
        &mut self,
        cx: &mut Context<'_>,
        go: impl FnOnce(Pin<&mut TlsStream<Socket>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Stream::Tls(stream) = &mut self.stream else {
            return Poll::Pending;
        };
        let Some(bond) = &self.bond else {
            return go(Pin::new(stream.as_mut()), cx);
        };
        bond.check()?;
        let polled = go(Pin::new(stream.as_mut()), cx);
        if polled.is_pending() {
            bond.note(cx);
        }
        polled
    }

    /// Keeps what says that this connection is our own, see [`Dial`].
    pub fn known_by(&mut self, dial: Dial) {
        self.dial = Some(Box::new(dial));
    }

    /// Puts bytes back: the next read gives them first.
    pub fn unread(&mut self, bytes: BytesMut) {
        if self.ahead.is_empty() {
            self.ahead = bytes;
        } else {
            let rest = std::mem::replace(&mut self.ahead, bytes);
            self.ahead.extend_from_slice(&rest);
        }
    }

    /// The TCP socket below.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream.stream(),
            Stream::Tls(stream) => stream.get_ref().0.stream(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let n = self.ahead.len().min(buf.remaining());
            buf.put_slice(self.ahead.get(..n).unwrap_or_default());
            self.ahead.advance(n);
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(_) => self.through(cx, |stream, cx| stream.poll_read(cx, buf)),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(_) => self.through(cx, |stream, cx| stream.poll_write(cx, buf)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(_) => self.through(cx, |stream, cx| stream.poll_write_vectored(cx, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(_) => Poll::Ready(Ok(())),
            Stream::Tls(_) => self.through(cx, |stream, cx| stream.poll_flush(cx)),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(_) => self.through(cx, |stream, cx| stream.poll_shutdown(cx)),
        }
    }
}
