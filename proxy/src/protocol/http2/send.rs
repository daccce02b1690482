//! Frames that go: heads, data as far as there is credit and room, ends.

use bytes::{BufMut, BytesMut};

use crate::protocol::hpack::encode;

use super::conn::{Conn, Leaving, Phase};
use super::frame::{self, HEADER, Header, Reason, STREAM_MAX, flag, kind};
use super::receive::{ALIVE_PING, DRAIN_PING};

/// Largest DATA frame: several streams share a connection, and none may hold it for long.
const DATA_FRAME: usize = 16 << 10;

impl Conn {
    /// Opens a stream with the block that `write` writes; gives its place, with one handle on it.
    /// `None` if the connection takes no more.
    pub fn open(
        &mut self,
        ended: bool,
        head_only: bool,
        write: impl FnOnce(&mut BytesMut),
    ) -> Option<u32> {
        let id = if self.highest == 0 {
            1
        } else {
            self.highest + 2
        };
        if !self.takes_streams() || id > STREAM_MAX {
            return None;
        }
        self.highest = id;
        let key = self.begin(id);
        if let Some(stream) = self.stream(key) {
            stream.head_only = head_only;
        }
        self.put_block(key, ended, write);
        Some(key)
    }

    /// Whether streams may be opened, as far as the peer has said.
    #[must_use]
    pub fn takes_streams(&self) -> bool {
        self.phase() == Phase::Open && !self.peer_leaving && self.highest < STREAM_MAX - 2
    }

    /// Writes a header block on a stream.
    pub(super) fn put_block(&mut self, key: u32, ended: bool, write: impl FnOnce(&mut BytesMut)) {
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return;
        };
        if stream.cut.is_some() || stream.send_ended {
            return;
        }
        stream.send_ended = ended;
        let id = stream.id;
        let start = self.output.len();
        self.output.reserve(512);
        self.output.put_bytes(0, HEADER);
        if std::mem::take(&mut self.size_update) {
            encode::put_size_update_zero(&mut self.output);
        }
        write(&mut self.output);
        let length = self.output.len() - start - HEADER;
        let end_stream = if ended { flag::END_STREAM } else { 0 };
        let mut header = Header {
            length,
            kind: kind::HEADERS,
            flags: end_stream | flag::END_HEADERS,
            stream: id,
        };
        if length <= self.peer.frame {
            if let Some(place) = self.output.get_mut(start..start + HEADER) {
                place.copy_from_slice(&header.bytes());
            }
        } else {
            let block = self.output.split_off(start + HEADER);
            self.output.truncate(start);
            for (at, part) in block.chunks(self.peer.frame).enumerate() {
                let last = (at + 1) * self.peer.frame >= length;
                header.length = part.len();
                header.kind = if at == 0 {
                    kind::HEADERS
                } else {
                    kind::CONTINUATION
                };
                header.flags = if at == 0 { end_stream } else { 0 };
                header.flags |= if last { flag::END_HEADERS } else { 0 };
                self.output.extend_from_slice(&header.bytes());
                self.output.extend_from_slice(part);
            }
        }
        self.settle(key);
        self.wake_driver();
    }

    /// How many bytes of data may be queued now: credit of the stream and of the connection, one
    /// frame, and room. Where it is 0 the stream waits in line.
    pub(super) fn capacity(&mut self, key: u32) -> usize {
        let (room, connection) = (self.has_room(), self.send_window);
        let most = self.peer.frame.min(DATA_FRAME);
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return 0;
        };
        let credit = stream.send_window.min(connection);
        match usize::try_from(credit) {
            Ok(credit) if credit > 0 && room => {
                stream.blocked = false;
                credit.min(most)
            }
            _ => {
                stream.blocked = true;
                if (connection <= 0 || !room) && !stream.queued {
                    stream.queued = true;
                    self.blocked.push_back(key);
                }
                self.starved |= !room;
                0
            }
        }
    }

    /// Queues data, no more than [`Conn::capacity`] gave.
    pub(super) fn put_data(&mut self, key: u32, data: &[u8], ended: bool) {
        let Some(stream) = self.streams.get_mut(key as usize) else {
            return;
        };
        if stream.cut.is_some() || stream.send_ended {
            return;
        }
        let charge = i64::try_from(data.len()).unwrap_or(i64::MAX);
        stream.send_window -= charge;
        stream.send_ended = ended;
        self.send_window -= charge;
        let header = Header {
            length: data.len(),
            kind: kind::DATA,
            flags: if ended { flag::END_STREAM } else { 0 },
            stream: stream.id,
        };
        self.output.reserve(HEADER + data.len());
        self.output.put_slice(&header.bytes());
        self.output.put_slice(data);
        self.budget.sent_data();
        self.settle(key);
        self.wake_driver();
    }

    /// First word of a graceful end: no streams after those under way. Which those are, the PING
    /// finds out: its answer comes behind all that the peer had sent before it knew.
    pub fn announce_end(&mut self) {
        if self.phase() == Phase::Open && self.leaving == Leaving::No {
            self.leaving = Leaving::Announced;
            self.pong = false;
            frame::put_goaway(&mut self.output, STREAM_MAX, Reason::NO_ERROR);
            frame::put_ping(&mut self.output, false, DRAIN_PING);
            self.wake_driver();
        }
    }

    /// Last word of a graceful end: streams that came up to now are served, others are not.
    pub fn settle_end(&mut self) {
        if self.phase() == Phase::Open && self.leaving == Leaving::Announced {
            self.leaving = Leaving::Settled(self.highest);
            frame::put_goaway(&mut self.output, self.highest, Reason::NO_ERROR);
            self.wake_driver();
        }
    }

    /// Whether the last word was said.
    #[must_use]
    pub const fn end_is_settled(&self) -> bool {
        matches!(self.leaving, Leaving::Settled(_))
    }

    /// Asks the peer for a sign of life.
    pub fn ask_for_life(&mut self) {
        self.pong = false;
        frame::put_ping(&mut self.output, false, ALIVE_PING);
        self.wake_driver();
    }
}
