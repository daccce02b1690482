//! The rig of HTTP/2: the real engine over a socket pair of this process, without a network.

use std::cell::RefCell;
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::Poll;

use selvedge::message::{Body, BodyLength};
use selvedge::protocol::http1::{self, Http1Body};
use selvedge::protocol::http2::frame::{self, HEADER, Header};
use selvedge::protocol::http2::settings::Own;
use selvedge::protocol::http2::{Conn, End, SharedConn};
use selvedge::protocol::io::Io;
use selvedge::timer::Stall;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
}

/// Runs something that needs the runtime.
pub(super) fn inside<T>(work: impl FnOnce() -> T) -> T {
    block_on(async { work() })
}

/// The same of a future.
pub(super) fn block_on<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let done = work.await;
            // The runtime forgets sockets that are closed when it looks for events.
            tokio::task::yield_now().await;
            done
        })
    })
}

/// One end for the product, the other for us.
fn pair() -> (Io, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    // A stream socket is a stream socket: the product asks nothing of this one that only TCP has.
    let near = std::net::TcpStream::from(OwnedFd::from(near));
    (
        Io::plain(tokio::net::TcpStream::from_std(near).unwrap()),
        far,
    )
}

/// A connection of the product, and its peer.
pub(super) struct Line {
    pub(super) conn: SharedConn,
    far: UnixStream,
    /// What the product has written.
    pub(super) output: Vec<u8>,
    /// The product has nothing more to do with it.
    pub(super) over: bool,
}

impl Line {
    pub(super) fn new(end: End, own: Own) -> Self {
        let (io, far) = pair();
        Self {
            conn: Rc::new(RefCell::new(Conn::new(io, end, own, None))),
            far,
            output: Vec::new(),
            over: false,
        }
    }

    /// A connection that has these bytes before it looks at its socket.
    pub(super) fn holding(end: End, own: Own, bytes: &[u8]) -> SharedConn {
        let (mut io, _) = pair();
        io.unread(bytes.into());
        Rc::new(RefCell::new(Conn::new(io, end, own, None)))
    }

    /// Gives it bytes, and lets it do what it has to do with them.
    pub(super) async fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !self.over {
            match self.far.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // It has closed.
                Err(_) => rest = &[],
            }
            self.drive().await;
            if rest.is_empty() {
                return;
            }
        }
    }

    /// Lets it read and write until nothing moves.
    pub(super) async fn drive(&mut self) {
        loop {
            tokio::task::yield_now().await;
            let driven = std::future::poll_fn(|cx| {
                let over = self.conn.borrow_mut().poll_drive(cx);
                Poll::Ready(over.is_ready())
            });
            self.over |= driven.await;
            let mut part = [0; 4096];
            let mut moved = false;
            while let Ok(n @ 1..) = self.far.read(&mut part) {
                self.output.extend_from_slice(&part[..n]);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    /// What the product has written are whole frames that it may send; gives them.
    pub(super) fn frames(&self, end: End) -> Vec<(Header, &[u8])> {
        let mut rest = &self.output[..];
        if end == End::Client {
            rest = rest.strip_prefix(frame::PREFACE).expect("the preface");
        }
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let header = Header::read(rest).expect("a whole header");
            let all = HEADER + header.length;
            frames.push((header, rest.get(HEADER..all).expect("a whole frame")));
            rest = &rest[all..];
        }
        frames
    }
}

/// A body of this length that is never read.
pub(super) fn body(length: BodyLength) -> Body {
    thread_local! {
        static IDLE: http1::SharedConn = {
            let (io, _) = pair();
            Rc::new(RefCell::new(http1::Conn::new(io, 4096)))
        };
    }
    if length == BodyLength::Exact(0) {
        return Body::Empty;
    }
    let conn = IDLE.with(Rc::clone);
    let stall = Stall::new(std::time::Duration::ZERO, 0);
    Body::Http1(Box::new(Http1Body::downstream(conn, length, false, stall)))
}
