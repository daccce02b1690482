//! What the two ends of an HTTP/2 connection tell each other that they can take (RFC 9113 section
//! 6.5.2, RFC 8441).

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use bytes::BytesMut;
use selvedge_contract::defaults::http2::{self as defaults, Rates};

use super::frame::{self, Reason, WINDOW, WINDOW_MAX};

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// Which end we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// We accept streams.
    Server,
    /// We open streams.
    Client,
}

/// What we can take.
#[derive(Debug, Clone, Copy)]
pub struct Own {
    /// Streams the peer may have open at a time; of use to a server.
    pub streams: u32,
    /// Bytes a stream may have us hold.
    pub stream_window: u32,
    /// Bytes all streams together may have us hold.
    pub connection_window: u32,
    /// Bytes of a head, with 32 for each field (RFC 9113 section 6.5.2).
    pub header_block: usize,
    /// Fields of a head.
    pub header_count: usize,
    /// Bytes of trailers.
    pub trailer_block: usize,
    /// Fields of trailers.
    pub trailer_count: usize,
    /// What the peer may do how often; of use to a server.
    pub rates: Rates,
    /// Bytes held for the peer before streams wait for it to read.
    pub buffer: usize,
}

impl Own {
    /// Writes our SETTINGS, and the credit that raises the connection's window to ours.
    pub fn put(&self, end: End, out: &mut BytesMut) {
        let header_list = u32::try_from(self.header_block).unwrap_or(u32::MAX);
        let common = [
            (INITIAL_WINDOW_SIZE, self.stream_window),
            (MAX_HEADER_LIST_SIZE, header_list),
        ];
        let own = match end {
            End::Server => [
                (MAX_CONCURRENT_STREAMS, self.streams),
                (ENABLE_CONNECT_PROTOCOL, 1),
            ],
            End::Client => [
                (ENABLE_PUSH, 0),
                (HEADER_TABLE_SIZE, defaults::HEADER_TABLE),
            ],
        };
        frame::put_settings(out, &[common, own].concat());
        let credit = self.connection_window.saturating_sub(WINDOW);
        if credit > 0 {
            frame::put_window_update(out, 0, credit);
        }
    }
}

/// What the peer can take.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Streams we may have open at a time.
    pub streams: u32,
    /// Window of a new stream.
    pub window: u32,
    /// Largest frame.
    pub frame: usize,
    /// It understands extended CONNECT.
    pub connect_protocol: bool,
    /// Its SETTINGS have come.
    pub known: bool,
    /// It has asked for a smaller table than ours, which we never use.
    pub table_shrunk: bool,
}

impl Peer {
    /// What holds before SETTINGS come (RFC 9113 section 6.5.2).
    #[must_use]
    pub const fn unknown() -> Self {
        Self {
            streams: u32::MAX,
            window: WINDOW,
            frame: defaults::FRAME as usize,
            connect_protocol: false,
            known: false,
            table_shrunk: false,
        }
    }

    /// Takes one SETTINGS frame.
    ///
    /// # Errors
    /// The reason with which the connection ends: a value that does not exist.
    pub fn take(&mut self, payload: &[u8], us: End) -> Result<(), Reason> {
        let (pairs, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        for [a, b, c, d, e, f] in pairs {
            let value = u32::from_be_bytes([*c, *d, *e, *f]);
            match (u16::from_be_bytes([*a, *b]), value) {
                (HEADER_TABLE_SIZE, size) => {
                    self.table_shrunk |= size < defaults::HEADER_TABLE;
                }
                (ENABLE_PUSH, 0) => {}
                (ENABLE_PUSH, 1) if us == End::Server => {}
                (MAX_CONCURRENT_STREAMS, streams) => self.streams = streams,
                (INITIAL_WINDOW_SIZE, window) if i64::from(window) > WINDOW_MAX => {
                    return Err(Reason::FLOW_CONTROL_ERROR);
                }
                (INITIAL_WINDOW_SIZE, window) => self.window = window,
                (MAX_FRAME_SIZE, 0x4000..=0xff_ffff) => self.frame = value as usize,
                (ENABLE_CONNECT_PROTOCOL, 0 | 1) => {
                    // Once granted it may not be taken back (RFC 8441 section 3).
                    if self.connect_protocol && value == 0 {
                        return Err(Reason::PROTOCOL_ERROR);
                    }
                    self.connect_protocol = value == 1;
                }
                (ENABLE_PUSH | MAX_FRAME_SIZE | ENABLE_CONNECT_PROTOCOL, _) => {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                _ => {}
            }
        }
        self.known = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(id: u16, value: u32) -> Result<Peer, Reason> {
        let mut peer = Peer::unknown();
        let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat();
        peer.take(&payload, End::Server).map(|()| peer)
    }

    #[test]
    fn values_at_their_bounds() {
        for (id, value, fine) in [
            (2, 1, Ok(())),
            (2, 2, Err(Reason::PROTOCOL_ERROR)),
            (4, 0x7fff_ffff, Ok(())),
            (4, 0x8000_0000, Err(Reason::FLOW_CONTROL_ERROR)),
            (5, 0x3fff, Err(Reason::PROTOCOL_ERROR)),
            (5, 0x4000, Ok(())),
            (5, 0xff_ffff, Ok(())),
            (5, 0x100_0000, Err(Reason::PROTOCOL_ERROR)),
            (8, 2, Err(Reason::PROTOCOL_ERROR)),
            (0x99, u32::MAX, Ok(())),
        ] {
            assert_eq!(take(id, value).map(|_| ()), fine, "{id} = {value}");
        }
        let mut peer = Peer::unknown();
        let push = [0, 2, 0, 0, 0, 1];
        assert_eq!(peer.take(&push, End::Client), Err(Reason::PROTOCOL_ERROR));
        let cut = peer.take(&push[..5], End::Server);
        assert_eq!(cut, Err(Reason::FRAME_SIZE_ERROR));
    }
}
