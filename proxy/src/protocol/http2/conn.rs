//! One HTTP/2 connection, seen from either end: its buffers, its streams, its windows, its socket.
//!
//! A task drives it ([`Conn::poll_drive`] reads and writes); the tasks of its streams take what
//! came for them and queue what they send, through their handles. All of them run on one thread,
//! so it is shared by `Rc` and borrowed only within a poll.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::rc::Rc;
use std::task::Waker;

use bytes::BytesMut;
use selvedge_contract::defaults::http2 as defaults;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::protocol::hpack::Decoder;
use crate::protocol::io::Io;
use crate::protocol::socket::unacknowledged;

use super::budget::{Abuse, Budget, Owed};
use super::frame::{self, Header, Reason, WINDOW, kind};
use super::head::Head;
use super::settings::{End, Own, Peer};
use super::stream::{READ, Stream};

/// First size of a read buffer; doubles while reads fill it.
const FIRST_READ: usize = 4 << 10;

/// A connection that several tasks hold.
pub type SharedConn = Rc<RefCell<Conn>>;

/// Stream numbers are no secret and not chosen at will: any spread will do.
#[derive(Debug, Default)]
pub struct ById(u64);

impl Hasher for ById {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fatal {
    /// The peer broke the protocol.
    Protocol(Reason),
    /// The peer did too much of something.
    Abuse(Abuse),
}

impl From<Abuse> for Fatal {
    fn from(abuse: Abuse) -> Self {
        Self::Abuse(abuse)
    }
}

impl From<Reason> for Fatal {
    fn from(reason: Reason) -> Self {
        Self::Protocol(reason)
    }
}

/// A stream that the peer has opened.
#[derive(Debug)]
pub struct Incoming {
    /// Its place, with one handle on it; `None` where it was reset for what its head said.
    pub key: Option<u32>,
    /// Its head.
    pub head: Head,
    /// No body follows.
    pub ended: bool,
}

/// A header block that CONTINUATION frames go on with.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    pub(super) self_dependent: bool,
    pub(super) bytes: BytesMut,
}

/// How far a graceful end is (RFC 9113 section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// Not begun.
    No,
    /// The peer is told to open no more streams; those under way will be served.
    Announced,
    /// Streams up to this one are served, later ones are not.
    Settled(u32),
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// In use.
    Open,
    /// Over: what is queued is written, what comes is thrown away.
    Closing,
    /// The socket is of no more use.
    Closed,
}

/// See the module.
#[derive(Debug)]
pub struct Conn {
    pub(super) io: Io,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    pub(super) end: End,
    pub(super) own: Own,
    /// What the peer told of itself.
    pub peer: Peer,
    pub(super) budget: Budget,
    pub(super) decoder: Decoder,
    /// Where heads are decoded to: one allocation for many of them.
    pub(super) arena: BytesMut,
    pub(super) block: Option<Block>,
    /// Bytes of the client's preface that are yet to come.
    pub(super) preface: usize,
    pub(super) streams: Vec<Stream>,
    pub(super) free: Vec<u32>,
    pub(super) ids: HashMap<u32, u32, BuildHasherDefault<ById>>,
    pub(super) live: u32,
    /// Highest stream that was opened.
    pub(super) highest: u32,
    pub(super) recent: VecDeque<u32>,
    pub(super) send_window: i64,
    pub(super) recv_window: i64,
    pub(super) owed: u32,
    /// Streams that wait for credit of the connection, or for room.
    pub(super) blocked: VecDeque<u32>,
    /// Some of them wait for room.
    pub(super) starved: bool,
    /// Streams that the peer has opened and nobody serves yet.
    pub accepted: VecDeque<Incoming>,
    pub(super) phase: Phase,
    /// Why it ended, where that was the peer's fault.
    pub fatal: Option<Fatal>,
    /// What reading from it ended with.
    pub error: Option<io::Error>,
    pub(super) leaving: Leaving,
    /// The peer takes no more streams.
    pub peer_leaving: bool,
    /// The peer has answered our last PING.
    pub pong: bool,
    /// Something came since this was last looked at.
    pub heard: bool,
    /// A stream was live since this was last looked at.
    pub used: bool,
    /// Nobody opens streams any more: it ends with its last one.
    pub(super) retired: bool,
    pub(super) control: Owed,
    pub(super) size_update: bool,
    pub(super) driver: Option<Waker>,
    pub(super) room: Option<Rc<Notify>>,
    pub(super) read_size: usize,
    pub(super) lingered: usize,
    /// All that was queued is with the kernel.
    pub(super) flushed: bool,
    /// Frames and blocks that have come.
    pub(super) whole: u64,
}

impl Conn {
    /// Takes over a connection and queues our preface. `room` is told when a stream ends.
    #[must_use]
    pub fn new(io: Io, end: End, own: Own, room: Option<Rc<Notify>>) -> Self {
        let mut output = BytesMut::with_capacity(FIRST_READ);
        if end == End::Client {
            output.extend_from_slice(frame::PREFACE);
        }
        own.put(end, &mut output);
        Self {
            io,
            input: BytesMut::new(),
            output,
            end,
            own,
            peer: Peer::unknown(),
            budget: Budget::new(end, own.rates, Instant::now()),
            decoder: Decoder::new(defaults::HEADER_TABLE as usize),
            arena: BytesMut::new(),
            block: None,
            preface: if end == End::Server {
                frame::PREFACE.len()
            } else {
                0
            },
            streams: Vec::new(),
            free: Vec::new(),
            ids: HashMap::default(),
            live: 0,
            highest: 0,
            recent: VecDeque::new(),
            send_window: WINDOW.into(),
            recv_window: own.connection_window.max(WINDOW).into(),
            owed: 0,
            blocked: VecDeque::new(),
            starved: false,
            accepted: VecDeque::new(),
            phase: Phase::Open,
            fatal: None,
            error: None,
            leaving: Leaving::No,
            peer_leaving: false,
            pong: false,
            heard: false,
            used: true,
            retired: false,
            control: Owed::default(),
            size_update: false,
            driver: None,
            room,
            read_size: FIRST_READ,
            lingered: 0,
            flushed: false,
            whole: 0,
        }
    }

    /// Whether the peer is not trusted any more.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.io.is_leaving()
    }

    /// Whether it was cut off for that.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.io.is_cut()
    }

    /// Nobody will open streams any more.
    pub fn retire(&mut self) {
        self.retired = true;
        self.wake_driver();
    }

    /// Whether a client's connection has done its work.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        (self.retired || self.peer_leaving) && self.live == 0
    }

    /// The peer has said that it takes (more) streams: who waits for that may look.
    pub(super) fn knows_peer(&self) {
        if let Some(room) = &self.room {
            room.notify_waiters();
        }
    }

    /// Whether another stream would be within both ends' limits; not before the peer has said what
    /// it takes.
    #[must_use]
    pub fn has_place(&self) -> bool {
        self.takes_streams()
            && self.peer.known
            && self.live < self.own.streams.min(self.peer.streams)
    }

    /// Streams that are not over.
    #[must_use]
    pub const fn live(&self) -> u32 {
        self.live
    }

    /// Where it is in its life.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether streams may queue more data.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.output.len() < self.own.buffer
    }

    /// What is queued, and what the peer has not acknowledged, in bytes; much, as long as TLS holds some of it.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        let held = if self.flushed { 0 } else { READ };
        self.output.len() + held + unacknowledged(self.io.socket())
    }

    /// The number of the frame or block that has begun and is not there yet, and what there is of it where more of it
    /// is reason enough to wait on. Data is waited for by its stream, and what we do not read ourselves, by nobody.
    #[must_use]
    pub fn awaited(&self) -> Option<(u64, usize)> {
        if self.phase != Phase::Open || self.is_congested() {
            return None;
        }
        if let Some(stream) = self.data_begun() {
            // Of a stream that is over: what was on its way may take its time.
            let waited = self
                .find(stream)
                .and_then(|key| self.streams.get(key as usize))
                .is_some_and(|stream| stream.cut.is_none() && !stream.recv_ended);
            return (!waited).then_some((self.whole, self.input.len()));
        }
        let begun = !self.input.is_empty() || self.block.is_some();
        begun.then_some((self.whole, 0))
    }

    /// The stream of a DATA frame that is not there yet.
    fn data_begun(&self) -> Option<u32> {
        let header = Header::read(&self.input)?;
        (header.kind == kind::DATA).then_some(header.stream)
    }

    /// How much has come of a DATA frame that is not there yet, if it is of this stream.
    #[must_use]
    pub(super) fn partial(&self, key: u32) -> usize {
        let own = self.streams.get(key as usize).map(|stream| stream.id);
        match self.data_begun() {
            Some(stream) if own == Some(stream) => self.input.len(),
            _ => 0,
        }
    }

    /// How much is held for this peer that it does not read or gives no credit for, or of its own that
    /// nobody takes: in streams, and in pieces of 32 KiB.
    #[must_use]
    pub fn hoard(&self) -> usize {
        let taken = self.streams.iter().filter(|s| s.id != 0);
        let held = taken.map(|s| usize::from(s.blocked) + s.held / READ);
        held.sum::<usize>() + self.output.len().div_ceil(READ)
    }

    /// Has the driver write what was queued.
    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Wakes streams that wait for credit or room. Another one comes first each time, so that none
    /// takes all of it from the others.
    pub(super) fn unblock(&mut self) {
        if self.blocked.len() > 1 {
            self.blocked.rotate_left(1);
        }
        for key in std::mem::take(&mut self.blocked) {
            if let Some(stream) = self.stream(key) {
                stream.queued = false;
                stream.wake();
            }
        }
    }

    /// A control frame was queued.
    pub(super) fn queued_control(&mut self, length: usize) -> Result<(), Abuse> {
        self.control.queued(length, self.output.len())
    }
}
