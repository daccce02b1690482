//! The streams of an HTTP/2 connection: where each one is kept, how it ends, what credit is given
//! back for it.

use super::conn::{Conn, Phase};
use super::frame::{self, Reason};
use super::settings::End;
use super::stream::{Cut, Stream};

/// Streams we have reset whose last frames may still be under way.
const RECENT: usize = 512;

impl Conn {
    pub(super) fn cut_all(&mut self, reason: Reason) {
        for key in 0..u32::try_from(self.streams.len()).unwrap_or(0) {
            let free = self.stream(key).is_none_or(|stream| stream.id == 0);
            if !free {
                self.cut(
                    key,
                    Cut {
                        reason,
                        remote: true,
                        refused: false,
                    },
                );
            }
        }
    }

    /// Ends a stream before its time. Nothing is sent.
    pub(super) fn cut(&mut self, key: u32, cut: Cut) {
        let Some(stream) = self.stream(key) else {
            return;
        };
        if !stream.is_over() {
            // Who has begun to answer cannot say that the request never reached him.
            let refused = cut.refused && !stream.answered;
            stream.cut = Some(Cut { refused, ..cut });
            stream.wake();
        }
        self.settle(key);
    }

    /// Ends a stream by RST_STREAM.
    pub(super) fn reset(&mut self, key: u32, reason: Reason) {
        let Some(stream) = self.stream(key) else {
            return;
        };
        if stream.is_over() {
            return;
        }
        let id = stream.id;
        self.put_reset(id, reason);
        self.cut(
            key,
            Cut {
                reason,
                remote: false,
                refused: false,
            },
        );
    }

    /// Writes RST_STREAM, and remembers the stream: what its peer has under way is no error.
    pub(super) fn put_reset(&mut self, id: u32, reason: Reason) {
        frame::put_reset(&mut self.output, id, reason);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(id);
        self.wake_driver();
    }

    /// Whether we have lately reset a stream.
    pub(super) fn was_reset(&self, id: u32) -> bool {
        self.recent.contains(&id)
    }

    /// Takes a stream out of the count once both sides have ended.
    pub(super) fn settle(&mut self, key: u32) {
        let Some(stream) = self.stream(key) else {
            return;
        };
        if stream.settled || !stream.is_over() {
            return;
        }
        stream.settled = true;
        self.live -= 1;
        self.used = true;
        let was_full = self.live + 1 >= self.own.streams.min(self.peer.streams);
        if let Some(room) = &self.room
            && was_full
        {
            room.notify_waiters();
        }
        // A driver that waits for its last stream, or counts idle time.
        if self.live == 0 {
            self.wake_driver();
        }
    }

    /// The stream in a place.
    pub(super) fn stream(&mut self, key: u32) -> Option<&mut Stream> {
        self.streams.get_mut(key as usize)
    }

    /// The place of a stream that somebody holds.
    pub(super) fn find(&self, id: u32) -> Option<u32> {
        self.ids.get(&id).copied()
    }

    /// Places in use, which is no less than streams that live.
    pub(super) fn held(&self) -> usize {
        self.ids.len()
    }

    /// Begins a stream, with one handle on it.
    pub(super) fn begin(&mut self, id: u32) -> u32 {
        let key = self.free.pop().unwrap_or_else(|| {
            self.streams.push(Stream::default());
            u32::try_from(self.streams.len() - 1).unwrap_or(0)
        });
        let (recv, send) = (self.own.stream_window, self.peer.window);
        if let Some(stream) = self.stream(key) {
            stream.begin(id, recv, send);
            stream.handles = 1;
        }
        self.ids.insert(id, key);
        self.live += 1;
        self.used = true;
        self.budget.opened();
        key
    }

    /// Drops a handle. With the last one a stream that is not over is reset.
    pub(super) fn release(&mut self, key: u32) {
        let end = self.end;
        let Some(stream) = self.stream(key) else {
            return;
        };
        stream.handles -= 1;
        if stream.handles > 0 {
            return;
        }
        // All was said, but the rest of the request is of no interest (RFC 9113 section 8.1).
        let reason = match end {
            End::Server if stream.send_ended => Reason::NO_ERROR,
            _ => Reason::CANCEL,
        };
        let id = stream.id;
        let unread = stream.discard();
        self.reset(key, reason);
        self.settle(key);
        self.credit(unread);
        if self.stream(key).is_some_and(|stream| stream.queued) {
            self.blocked.retain(|other| *other != key);
        }
        if let Some(stream) = self.stream(key) {
            stream.end();
        }
        self.ids.remove(&id);
        self.free.push(key);
    }

    /// Gives credit for bytes that were taken, or are of no use, once that is worth a frame.
    pub(super) fn credit(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_add(u32::try_from(bytes).unwrap_or(0));
        if self.owed >= self.own.connection_window / 2 && self.phase == Phase::Open {
            self.recv_window += i64::from(self.owed);
            frame::put_window_update(&mut self.output, 0, std::mem::take(&mut self.owed));
            self.wake_driver();
        }
    }
}
