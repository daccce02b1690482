//! A TCP socket for the path: tokio's readiness, the kernel's calls without the C library between.
//!
//! The C library makes every read and write of a threaded process a cancellation point, which
//! costs about as much as parsing a head. Going round it saves some 5 % of a small request.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// See the module.
#[derive(Debug)]
pub struct Socket(TcpStream);

impl Socket {
    /// Takes over a stream.
    #[must_use]
    pub const fn new(stream: TcpStream) -> Self {
        Self(stream)
    }

    /// Sets what every connection of the path wants; a failure costs time, not correctness. Small
    /// writes must not wait for acknowledgements. And a connection to this very machine, such as
    /// that of a sidecar to its application, has no network to be careful of: pacing and probing
    /// for one (BBR) is some 3 % of a small request.
    pub fn tune(stream: &TcpStream) {
        let _ = stream.set_nodelay(true);
        if stream
            .peer_addr()
            .is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
        {
            let _ = socket2::SockRef::from(stream).set_tcp_congestion(b"reno");
        }
    }

    /// The stream.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.0
    }

    /// One call, when the socket is ready for it. A call that did less than it was asked for has
    /// emptied or filled the kernel's buffer: readiness is given up at once, which saves the call
    /// that would only have said so (epoll is edge-triggered; new bytes raise it again).
    fn attempt(
        &self,
        interest: Interest,
        asked: usize,
        mut call: impl FnMut() -> rustix::io::Result<usize>,
    ) -> io::Result<Option<usize>> {
        let mut done = None;
        let tried = self.0.try_io(interest, || {
            let n = call()?;
            done = Some(n);
            if n < asked && n > 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        match (done, tried) {
            (Some(n), _) => Ok(Some(n)),
            (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Ok(None),
        }
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        asked: usize,
        mut call: impl FnMut(&TcpStream) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            if let Some(n) = self.attempt(Interest::WRITABLE, asked, || call(&self.0))? {
                return Poll::Ready(Ok(n));
            }
        }
    }
}

/// How many bytes the kernel holds that the peer has not acknowledged; none where it does not say.
#[must_use]
#[expect(unsafe_code, reason = "the one place; the proof is below")]
pub fn unacknowledged(stream: &TcpStream) -> usize {
    /// SIOCOUTQ, see tcp(7), as those below number it; some others do not.
    const OUTPUT_QUEUE: rustix::ioctl::Opcode = 0x5411;
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return 0;
    }
    // SAFETY: this question writes one `int` and nothing else.
    let asked = unsafe {
        let question = rustix::ioctl::Getter::<OUTPUT_QUEUE, std::ffi::c_int>::new();
        rustix::ioctl::ioctl(stream, question)
    };
    asked.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(0))
}

/// Tells a buffer how much of it a system call has filled.
#[expect(unsafe_code, reason = "the one place; the proof is below")]
fn filled(buf: &mut ReadBuf<'_>, n: usize) {
    // SAFETY: `recv` reports as initialised exactly the first `n` bytes of the unfilled part that
    // it was given, and nothing has touched the buffer since.
    unsafe { buf.assume_init(n) };
    buf.advance(n);
}

/// The part of a buffer that a system call may fill.
#[expect(unsafe_code, reason = "the one place; the proof is below")]
fn unfilled<'a>(buf: &'a mut ReadBuf<'_>) -> &'a mut [MaybeUninit<u8>] {
    // SAFETY: the slice goes to `recv` only, which writes to it and never de-initialises a byte.
    unsafe { buf.unfilled_mut() }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let asked = buf.remaining();
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            let spare = unfilled(buf);
            let call = || {
                let (_, n) = recv(&self.0, &mut *spare, RecvFlags::empty())?;
                Ok(n)
            };
            if let Some(n) = self.attempt(Interest::READABLE, asked, call)? {
                filled(buf, n);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf.len(), |stream| {
            send(stream, buf, SendFlags::NOSIGNAL)
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The usual record of TLS is one buffer, and the simpler call the cheaper one.
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        let asked = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_send(cx, asked, |stream| rustix::io::writev(stream, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
