//! What the task of an HTTP/2 connection does: reads frames in, writes frames out, ends politely.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use crate::protocol::linger::{self, LINGER_BYTES};

use super::conn::{Conn, Fatal, Leaving, Phase};
use super::frame::{self, Reason};
use super::settings::End;
use super::stream::READ;

impl Conn {
    /// Reads what is there and writes what is queued. Ready once the connection is of no more use;
    /// until then, streams in [`Conn::accepted`] want to be served.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // What is queued from here on is written below: nobody needs to wake this task for it.
        self.driver = None;
        let written = loop {
            self.poll_read(cx);
            let waits = self.is_congested();
            let written = self.poll_write(cx);
            // Nothing wakes this task for what it has not asked for: once there is room, it asks.
            if !waits || self.phase != Phase::Open || self.is_congested() {
                break written;
            }
        };
        self.driver = Some(cx.waker().clone());
        written
    }

    /// Reads until nothing is there, or too much is owed to a peer that does not read.
    fn poll_read(&mut self, cx: &mut Context<'_>) {
        while self.phase == Phase::Open && !self.is_congested() {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.heard = true;
                    if let Err(fatal) = self.receive() {
                        self.fail(fatal);
                    }
                }
                Poll::Ready(end) => {
                    self.error = end.err();
                    self.close();
                }
                Poll::Pending => break,
            }
        }
    }

    /// Whether a client asks on without reading the answers. Data waits for room by itself; heads
    /// do not, so here their number is bounded. A client's end reads on: of two that wait for each
    /// other to read, one must.
    pub(super) fn is_congested(&self) -> bool {
        self.end == End::Server && self.output.len() > 2 * self.own.buffer
    }

    /// Writes what is queued; in a connection that is ending, reads the peer's last words too.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.phase != Phase::Closed {
            let flushed = self.poll_flush(cx);
            self.flushed = flushed.is_ready();
            if matches!(flushed, Poll::Ready(Err(_))) {
                self.close();
            }
        }
        if self.phase == Phase::Closing && self.flushed {
            self.poll_linger(cx);
        }
        if self.phase == Phase::Closed {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Ends our side, and reads on: a reset would take our last words out of the peer's hands. Where that is too much,
    /// nothing more is read, and who has all of it goes; others have the time of [`Linger`].
    ///
    /// [`Linger`]: crate::protocol::linger::Linger
    fn poll_linger(&mut self, cx: &mut Context<'_>) {
        let _ = Pin::new(&mut self.io).poll_shutdown(cx);
        while self.lingered < LINGER_BYTES {
            self.input.clear();
            match self.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => self.lingered += n,
                Poll::Ready(_) => {
                    self.phase = Phase::Closed;
                    return;
                }
                Poll::Pending => return,
            }
        }
        if self.fatal.is_some() || linger::has_all(self.unacknowledged()) {
            self.phase = Phase::Closed;
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = self.input.capacity() - self.input.len();
        if room < self.read_size / 2 {
            self.input.reserve(self.read_size);
        }
        let room = self.input.capacity() - self.input.len();
        let n = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input))?;
        if n == room {
            self.read_size = (self.read_size * 2).min(READ);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(n);
            self.control.written(n);
            if self.starved && self.output.len() < self.own.buffer / 2 {
                self.starved = false;
                self.unblock();
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ends the connection for a fault of the peer.
    pub(super) fn fail(&mut self, fatal: Fatal) {
        if self.phase == Phase::Open {
            self.fatal = Some(fatal);
        }
        self.finish(match fatal {
            Fatal::Protocol(reason) => reason,
            Fatal::Abuse(_) => Reason::ENHANCE_YOUR_CALM,
        });
    }

    /// Ends the connection: GOAWAY, then nothing more.
    pub fn finish(&mut self, reason: Reason) {
        if self.phase != Phase::Open {
            return;
        }
        // What data streams had queued goes out first: frames must not be cut.
        let told = matches!(self.leaving, Leaving::Settled(_)) && reason == Reason::NO_ERROR;
        if !told {
            let last = self.highest_served();
            frame::put_goaway(&mut self.output, last, reason);
        }
        self.phase = Phase::Closing;
        self.cut_all(reason);
        self.wake_driver();
    }

    /// The highest stream of the peer that we have done anything with.
    fn highest_served(&self) -> u32 {
        match self.end {
            End::Server => match self.leaving {
                Leaving::Settled(last) => last,
                Leaving::No | Leaving::Announced => self.highest,
            },
            End::Client => 0,
        }
    }

    /// The socket is gone.
    pub fn close(&mut self) {
        self.phase = Phase::Closed;
        self.output.clear();
        self.cut_all(Reason::INTERNAL_ERROR);
        self.wake_driver();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::task::Waker;

    use tokio::net::TcpListener;

    use super::super::settings::Own;
    use super::*;
    use crate::protocol::io::Io;

    const OWN: Own = Own {
        streams: 100,
        stream_window: 65_535,
        connection_window: 65_535,
        header_block: 1024,
        header_count: 10,
        trailer_block: 1024,
        trailer_count: 10,
        rates: selvedge_contract::defaults::http2::Rates::DEFAULT,
        buffer: 16 << 10,
    };

    /// A request that came while answers piled up is read as soon as they are gone: nothing else
    /// would wake the task for it.
    #[tokio::test]
    async fn reading_goes_on_once_what_was_owed_is_written() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&stream)
            .set_send_buffer_size(1 << 20)
            .unwrap();
        peer.write_all(frame::PREFACE).unwrap();
        stream.readable().await.unwrap();
        stream.writable().await.unwrap();
        let mut conn = Conn::new(Io::plain(stream), End::Server, OWN, None);
        conn.output.extend_from_slice(&[0; 40 << 10]);
        assert!(conn.is_congested());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(conn.poll_drive(&mut cx).is_pending());
        assert!(conn.output.is_empty(), "all of it was written");
        assert!(conn.heard, "and the peer is listened to again");
    }
}
