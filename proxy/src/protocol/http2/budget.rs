//! What an HTTP/2 peer may do how often. Memory is bounded by windows and limits elsewhere; here
//! rates are, of frames that cost us more to handle than the peer to send.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::time::Duration;

use selvedge_contract::defaults::http2::{self as limits, Rates};
use tokio::time::Instant;

use super::frame::{Header, flag, kind};
use super::settings::End;

/// A rate that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abuse {
    /// Streams opened and reset.
    Resets,
    /// Streams that we were made to reset.
    Provoked,
    /// Streams above the limit that was announced.
    Refused,
    /// PING, SETTINGS or GOAWAY.
    Control,
    /// CONTINUATION frames of one block.
    Continuation,
    /// Frames without content.
    Empty,
    /// DATA frames of a few bytes.
    Trickle,
    /// PRIORITY.
    Priority,
    /// WINDOW_UPDATE.
    WindowUpdate,
    /// Frames of no known type.
    Unknown,
    /// What we owe piles up, for the peer does not read.
    Unread,
    /// A head several times over the limit.
    Head,
    /// A head or another frame that does not come to its end.
    Slow,
}

impl Abuse {
    /// Every one, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Resets,
        Self::Provoked,
        Self::Refused,
        Self::Control,
        Self::Continuation,
        Self::Empty,
        Self::Trickle,
        Self::Priority,
        Self::WindowUpdate,
        Self::Unknown,
        Self::Unread,
        Self::Head,
        Self::Slow,
    ];

    /// What metrics call it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::Provoked => "provoked_resets",
            Self::Refused => "refused_streams",
            Self::Control => "control_frames",
            Self::Continuation => "continuations",
            Self::Empty => "empty_frames",
            Self::Trickle => "trickle_frames",
            Self::Priority => "priority",
            Self::WindowUpdate => "window_updates",
            Self::Unknown => "unknown_frames",
            Self::Unread => "unread",
            Self::Head => "head",
            Self::Slow => "slow",
        }
    }
}

/// Counts of one connection.
#[derive(Debug)]
pub struct Budget {
    end: End,
    rates: Rates,
    window_start: Instant,
    resets: u32,
    control: u32,
    unknown: u32,
    trickle: u32,
    continuations: u32,
    empty: u32,
    priority: u32,
    window_updates: u32,
    provoked: u32,
    refused: u32,
    streams: u32,
    data_sent: u32,
    data_in_window: u32,
}

/// Control frames that wait for a peer which does not read, in bytes.
const UNREAD: usize = 64 << 10;

/// Answers to control frames that are queued among other frames. Bytes are written in order, so what is written is known
/// by where the queue stood: in two lots, for one would never be done while more is queued.
#[derive(Debug, Default)]
pub struct Owed {
    first: Lot,
    rest: Lot,
}

#[derive(Debug, Default)]
struct Lot {
    bytes: usize,
    /// What the queue held up to the last of them.
    end: usize,
}

impl Owed {
    /// One more of so many bytes, the last in a queue that holds so many.
    ///
    /// # Errors
    /// The peer does not read.
    pub const fn queued(&mut self, bytes: usize, end: usize) -> Result<(), Abuse> {
        let lot = if self.first.bytes == 0 {
            &mut self.first
        } else {
            &mut self.rest
        };
        lot.bytes = lot.bytes.saturating_add(bytes);
        lot.end = end;
        if self.first.bytes.saturating_add(self.rest.bytes) > UNREAD {
            return Err(Abuse::Unread);
        }
        Ok(())
    }

    /// So many bytes of the queue are gone.
    pub fn written(&mut self, bytes: usize) {
        self.first.end = self.first.end.saturating_sub(bytes);
        self.rest.end = self.rest.end.saturating_sub(bytes);
        if self.first.end == 0 {
            self.first = std::mem::take(&mut self.rest);
        }
        if self.first.end == 0 {
            self.first.bytes = 0;
        }
    }
}

const fn over(count: &mut u32, limit: u32, abuse: Abuse) -> Result<(), Abuse> {
    *count = count.saturating_add(1);
    if *count > limit { Err(abuse) } else { Ok(()) }
}

impl Budget {
    /// Nothing spent.
    #[must_use]
    pub const fn new(end: End, rates: Rates, now: Instant) -> Self {
        Self {
            end,
            rates,
            window_start: now,
            resets: 0,
            control: 0,
            unknown: 0,
            trickle: 0,
            continuations: 0,
            empty: 0,
            priority: 0,
            window_updates: 0,
            provoked: 0,
            refused: 0,
            streams: 0,
            data_sent: 0,
            data_in_window: 0,
        }
    }

    /// A frame came, `content` bytes of it not padding. The clock is read only at a limit: rates
    /// start over with each window, totals do not.
    ///
    /// # Errors
    /// The rate that it exceeds.
    pub fn received(&mut self, frame: Header, content: usize) -> Result<(), Abuse> {
        let counted = self.count(frame, content);
        if counted.is_err() && self.turn(Instant::now()) {
            return self.count(frame, content);
        }
        counted
    }

    fn count(&mut self, frame: Header, content: usize) -> Result<(), Abuse> {
        // An upstream is chosen by configuration: what it may cost us is memory, not frames.
        let stranger = matches!(self.end, End::Server);
        if frame.kind != kind::CONTINUATION {
            self.continuations = 0;
        }
        match frame.kind {
            kind::DATA | kind::HEADERS
                if stranger && content == 0 && !frame.has(flag::END_STREAM) =>
            {
                over(&mut self.empty, self.rates.empty_frames, Abuse::Empty)
            }
            kind::DATA
                if stranger && content < limits::TRICKLE_BYTES && !frame.has(flag::END_STREAM) =>
            {
                over(&mut self.trickle, self.rates.trickle_frames, Abuse::Trickle)
            }
            kind::PRIORITY if stranger => {
                let limit = limits::PRIORITY_FACTOR.saturating_mul(self.streams.saturating_add(1));
                over(&mut self.priority, limit, Abuse::Priority)
            }
            kind::RST_STREAM if stranger => {
                over(&mut self.resets, self.rates.client_resets, Abuse::Resets)
            }
            // Clients measure their bandwidth by a PING for every bit of data that comes.
            kind::SETTINGS | kind::PING | kind::GOAWAY if stranger => {
                let limit = self
                    .rates
                    .control_frames
                    .saturating_add(self.data_in_window);
                over(&mut self.control, limit, Abuse::Control)
            }
            kind::WINDOW_UPDATE if stranger => {
                let data = limits::WINDOW_UPDATE_FACTOR.saturating_mul(self.data_sent);
                let limit = self.streams.saturating_add(data).saturating_mul(2);
                over(
                    &mut self.window_updates,
                    limit.saturating_add(5),
                    Abuse::WindowUpdate,
                )
            }
            kind::CONTINUATION => over(
                &mut self.continuations,
                self.rates.continuations,
                Abuse::Continuation,
            ),
            0..=9 => Ok(()),
            _ => over(&mut self.unknown, self.rates.unknown_frames, Abuse::Unknown),
        }
    }

    /// A stream was opened, by either end.
    pub const fn opened(&mut self) {
        self.streams = self.streams.saturating_add(1);
    }

    /// A DATA frame was sent: the peer owes credit for it.
    pub const fn sent_data(&mut self) {
        self.data_sent = self.data_sent.saturating_add(1);
        self.data_in_window = self.data_in_window.saturating_add(1);
    }

    /// An error of the peer made us reset a stream (MadeYouReset, CVE-2025-8671).
    ///
    /// # Errors
    /// [`Abuse::Provoked`].
    pub const fn provoked(&mut self) -> Result<(), Abuse> {
        over(
            &mut self.provoked,
            self.rates.provoked_resets,
            Abuse::Provoked,
        )
    }

    /// A stream above the limit was refused.
    ///
    /// # Errors
    /// [`Abuse::Refused`].
    pub const fn refused(&mut self) -> Result<(), Abuse> {
        over(
            &mut self.refused,
            self.rates.refused_streams,
            Abuse::Refused,
        )
    }

    /// Begins another window if this one is over; says whether it did.
    fn turn(&mut self, now: Instant) -> bool {
        let window = Duration::from_secs(limits::WINDOW_SECONDS);
        let over = now.saturating_duration_since(self.window_start) >= window;
        if over {
            self.window_start = now;
            self.resets = 0;
            self.control = 0;
            self.unknown = 0;
            self.trickle = 0;
            self.empty = 0;
            self.data_in_window = 0;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn frame(kind: u8) -> Header {
        Header {
            length: 0,
            kind,
            flags: 0,
            stream: 1,
        }
    }

    /// How many frames of a kind pass before the alarm.
    fn passes(kind: u8, content: usize) -> (u32, Option<Abuse>) {
        let mut budget = Budget::new(End::Server, Rates::DEFAULT, Instant::now());
        for passed in 0..100_000 {
            if let Err(abuse) = budget.received(frame(kind), content) {
                return (passed, Some(abuse));
            }
        }
        (100_000, None)
    }

    #[test]
    fn kinds_are_in_the_order_of_their_numbers() {
        for (at, kind) in Abuse::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, at);
        }
        assert_eq!(Abuse::ALL.last(), Some(&Abuse::Slow));
    }

    #[test]
    fn what_was_written_is_owed_no_more() {
        // A queue that is never empty: what is queued anew keeps it from that.
        let (mut owed, mut queue) = (Owed::default(), 1000);
        for _ in 0..100_000 {
            queue += 17;
            assert_eq!(owed.queued(17, queue), Ok(()));
            owed.written(17);
            queue -= 17;
        }
        // Nobody reads.
        let frames = (1..).take_while(|n| owed.queued(17, queue + n * 17).is_ok());
        let most = UNREAD / 17;
        assert!((most - 130..=most).contains(&frames.count()));
    }

    #[tokio::test(start_paused = true)]
    async fn budgets_hold_at_their_edge() {
        for (kind, content, limit, abuse) in [
            (
                kind::RST_STREAM,
                4,
                Rates::DEFAULT.client_resets,
                Abuse::Resets,
            ),
            (kind::PING, 8, Rates::DEFAULT.control_frames, Abuse::Control),
            (
                kind::GOAWAY,
                8,
                Rates::DEFAULT.control_frames,
                Abuse::Control,
            ),
            (
                kind::SETTINGS,
                0,
                Rates::DEFAULT.control_frames,
                Abuse::Control,
            ),
            (
                kind::CONTINUATION,
                1,
                Rates::DEFAULT.continuations,
                Abuse::Continuation,
            ),
            (kind::DATA, 0, Rates::DEFAULT.empty_frames, Abuse::Empty),
            (kind::DATA, 1, Rates::DEFAULT.trickle_frames, Abuse::Trickle),
            (kind::PRIORITY, 5, limits::PRIORITY_FACTOR, Abuse::Priority),
            (kind::WINDOW_UPDATE, 4, 5, Abuse::WindowUpdate),
            (0xfa, 4, Rates::DEFAULT.unknown_frames, Abuse::Unknown),
        ] {
            assert_eq!(passes(kind, content), (limit, Some(abuse)));
        }
        assert_eq!(passes(kind::DATA, limits::TRICKLE_BYTES), (100_000, None));
    }

    #[tokio::test(start_paused = true)]
    async fn rates_start_over_with_the_window() {
        let mut budget = Budget::new(End::Server, Rates::DEFAULT, Instant::now());
        for _ in 0..Rates::DEFAULT.control_frames {
            assert_eq!(budget.received(frame(kind::PING), 8), Ok(()));
        }
        tokio::time::advance(Duration::from_secs(limits::WINDOW_SECONDS)).await;
        for _ in 0..Rates::DEFAULT.control_frames {
            assert_eq!(budget.received(frame(kind::PING), 8), Ok(()));
        }
        let over = budget.received(frame(kind::PING), 8);
        assert_eq!(over, Err(Abuse::Control));
    }
}
