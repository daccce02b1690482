//! The tap: reads frame headers as bytes pass, and counts what `h2` bounds in memory but not in
//! rate. Nine bytes a frame are looked at; payloads are skipped.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use selvedge_contract::defaults::http2 as limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::protocol::io::Io;

/// Length of the client's connection preface (RFC 9113 section 3.4).
const PREFACE: usize = 24;
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// A rate that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abuse {
    /// Streams opened and reset.
    Resets,
    /// PING or SETTINGS.
    Control,
    /// CONTINUATION frames of one block.
    Continuation,
    /// Frames without content.
    Empty,
    /// PRIORITY.
    Priority,
    /// WINDOW_UPDATE.
    WindowUpdate,
    /// Frames of no known type.
    Unknown,
}

/// Splits a stream of bytes into frame headers, however the bytes arrive.
#[derive(Debug)]
struct Frames {
    skip: usize,
    header: [u8; HEADER],
    have: usize,
    /// The first payload byte is wanted: the length of padding.
    padding_of: Option<usize>,
}

/// One frame header.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: u8,
    flags: u8,
    /// Payload without padding.
    content: usize,
}

impl Frames {
    const fn after(skip: usize) -> Self {
        Self {
            skip,
            header: [0; HEADER],
            have: 0,
            padding_of: None,
        }
    }

    fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while let Some((first, rest)) = bytes.split_first() {
            if let Some(length) = self.padding_of.take() {
                let content = length.saturating_sub(1 + usize::from(*first));
                let [_, _, _, kind, flags, ..] = self.header;
                each(Frame {
                    kind,
                    flags,
                    content,
                });
                self.skip = length - 1;
                bytes = rest;
            } else if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                bytes = bytes.get(n..).unwrap_or_default();
            } else {
                let n = (HEADER - self.have).min(bytes.len());
                let (part, rest) = bytes.split_at(n);
                if let Some(to) = self.header.get_mut(self.have..self.have + n) {
                    to.copy_from_slice(part);
                }
                self.have += n;
                bytes = rest;
                if self.have == HEADER {
                    self.have = 0;
                    let [a, b, c, kind, flags, ..] = self.header;
                    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                    let padded = flags & PADDED != 0 && matches!(kind, DATA | HEADERS);
                    if padded && length > 0 {
                        self.padding_of = Some(length);
                    } else {
                        each(Frame {
                            kind,
                            flags,
                            content: length,
                        });
                        self.skip = length;
                    }
                }
            }
        }
    }
}

/// Counts of one connection.
#[derive(Debug)]
struct Counts {
    window_start: Instant,
    resets: u32,
    control: u32,
    unknown: u32,
    continuations: u32,
    empty: u32,
    priority: u32,
    window_updates: u32,
    streams: u32,
    data_sent: u32,
}

impl Counts {
    const fn new(now: Instant) -> Self {
        Self {
            window_start: now,
            resets: 0,
            control: 0,
            unknown: 0,
            continuations: 0,
            empty: 0,
            priority: 0,
            window_updates: 0,
            streams: 0,
            data_sent: 0,
        }
    }

    fn received(&mut self, frame: Frame) -> Option<Abuse> {
        let over = |count: &mut u32, limit: u32, abuse| {
            *count += 1;
            (*count > limit).then_some(abuse)
        };
        if frame.kind != CONTINUATION {
            self.continuations = 0;
        }
        match frame.kind {
            DATA | HEADERS => {
                if frame.kind == HEADERS {
                    self.streams = self.streams.saturating_add(1);
                }
                if frame.content == 0 && frame.flags & END_STREAM == 0 {
                    return over(&mut self.empty, limits::EMPTY_FRAMES, Abuse::Empty);
                }
                None
            }
            PRIORITY => {
                let limit = limits::PRIORITY_FACTOR.saturating_mul(1 + self.streams);
                over(&mut self.priority, limit, Abuse::Priority)
            }
            RST_STREAM => over(&mut self.resets, limits::CLIENT_RESETS, Abuse::Resets),
            SETTINGS | PING => over(&mut self.control, limits::CONTROL_FRAMES, Abuse::Control),
            WINDOW_UPDATE => {
                let data = limits::WINDOW_UPDATE_FACTOR.saturating_mul(self.data_sent);
                let limit = self
                    .streams
                    .saturating_add(data)
                    .saturating_mul(2)
                    .saturating_add(5);
                over(&mut self.window_updates, limit, Abuse::WindowUpdate)
            }
            CONTINUATION => over(
                &mut self.continuations,
                limits::CONTINUATIONS,
                Abuse::Continuation,
            ),
            GOAWAY => None,
            _ => over(&mut self.unknown, limits::UNKNOWN_FRAMES, Abuse::Unknown),
        }
    }

    /// Rates start over with each window; totals do not.
    fn turn(&mut self, now: Instant) {
        let window = Duration::from_secs(limits::WINDOW_SECONDS);
        if now.saturating_duration_since(self.window_start) >= window {
            self.window_start = now;
            self.resets = 0;
            self.control = 0;
            self.unknown = 0;
        }
    }
}

/// A connection with a tap on it.
#[derive(Debug)]
pub struct Tap {
    io: Io,
    incoming: Frames,
    outgoing: Frames,
    counts: Counts,
    alarm: Rc<Cell<Option<Abuse>>>,
}

impl Tap {
    /// Puts a tap on a connection to a client. The cell tells when a rate was exceeded.
    #[must_use]
    pub fn new(io: Io, now: Instant) -> (Self, Rc<Cell<Option<Abuse>>>) {
        let alarm = Rc::new(Cell::new(None));
        let tap = Self {
            io,
            incoming: Frames::after(PREFACE),
            outgoing: Frames::after(0),
            counts: Counts::new(now),
            alarm: alarm.clone(),
        };
        (tap, alarm)
    }

    fn wrote(&mut self, bytes: &[u8]) {
        let counts = &mut self.counts;
        self.outgoing.feed(bytes, |frame| {
            if frame.kind == DATA {
                counts.data_sent = counts.data_sent.saturating_add(1);
            }
        });
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.alarm.get().is_some() {
            // Nothing more is read: whoever looks at the alarm ends the connection.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        this.counts.turn(Instant::now());
        let (counts, alarm) = (&mut this.counts, &this.alarm);
        this.incoming.feed(fresh, |frame| {
            if let Some(abuse) = counts.received(frame) {
                alarm.set(Some(abuse));
            }
        });
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.wrote(buf.get(..n).unwrap_or_default());
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut left = n;
        for buf in bufs {
            let part = left.min(buf.len());
            self.wrote(buf.get(..part).unwrap_or_default());
            left -= part;
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
