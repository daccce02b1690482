//! HTTP/2 frames as bytes: the nine of a header, and the small frames that a connection owes its
//! peer (RFC 9113 sections 4 and 6).

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use bytes::{BufMut, BytesMut};

/// Length of a frame header.
pub const HEADER: usize = 9;
/// The client's connection preface (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest window, and the largest step of one (RFC 9113 section 6.9.1).
pub const WINDOW_MAX: i64 = (1 << 31) - 1;
/// Window of a connection, and of a stream before SETTINGS say otherwise.
pub const WINDOW: u32 = 65_535;
/// Highest stream number.
pub const STREAM_MAX: u32 = (1 << 31) - 1;

/// Frame types.
pub mod kind {
    /// Body bytes.
    pub const DATA: u8 = 0;
    /// Begins a header block.
    pub const HEADERS: u8 = 1;
    /// Deprecated; read for its form only.
    pub const PRIORITY: u8 = 2;
    /// Ends a stream at once.
    pub const RST_STREAM: u8 = 3;
    /// What a peer can take.
    pub const SETTINGS: u8 = 4;
    /// Never accepted: we switch it off.
    pub const PUSH_PROMISE: u8 = 5;
    /// A sign of life.
    pub const PING: u8 = 6;
    /// No more streams.
    pub const GOAWAY: u8 = 7;
    /// Credit.
    pub const WINDOW_UPDATE: u8 = 8;
    /// Goes on with a header block.
    pub const CONTINUATION: u8 = 9;
}

/// Flags.
pub mod flag {
    /// SETTINGS and PING: an answer.
    pub const ACK: u8 = 1;
    /// DATA and HEADERS: nothing follows on this stream.
    pub const END_STREAM: u8 = 1;
    /// The header block is complete.
    pub const END_HEADERS: u8 = 4;
    /// The payload begins with the length of its padding.
    pub const PADDED: u8 = 8;
    /// HEADERS: five bytes of priority come first.
    pub const PRIORITY: u8 = 0x20;
}

/// Why a stream or a connection ends (RFC 9113 section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    /// Not an error.
    pub const NO_ERROR: Self = Self(0);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// We could not go on.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// More data than there was credit for.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// A frame on a stream that is over.
    pub const STREAM_CLOSED: Self = Self(5);
    /// A frame of a length that its type does not have.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// Not processed at all; safe to try again.
    pub const REFUSED_STREAM: Self = Self(7);
    /// Nobody waits for it any more.
    pub const CANCEL: Self = Self(8);
    /// A header block that cannot be decoded.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// Too much of something.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
}

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the payload in bytes.
    pub length: usize,
    /// Type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream, 0 for the connection.
    pub stream: u32,
}

impl Header {
    /// Reads a header, once all nine bytes are there.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = *bytes.first_chunk::<HEADER>()?;
        Some(Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & STREAM_MAX,
        })
    }

    /// Whether a flag is set.
    #[must_use]
    pub const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The nine bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; HEADER] {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        let [_, a, b, c] = length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s0, s1, s2, s3]
    }
}

fn put(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let header = Header {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    out.reserve(HEADER.saturating_add(payload.len()));
    out.put_slice(&header.bytes());
    out.put_slice(payload);
}

/// Writes RST_STREAM.
pub fn put_reset(out: &mut BytesMut, stream: u32, reason: Reason) {
    put(out, kind::RST_STREAM, 0, stream, &reason.0.to_be_bytes());
}

/// Writes WINDOW_UPDATE.
pub fn put_window_update(out: &mut BytesMut, stream: u32, credit: u32) {
    put(out, kind::WINDOW_UPDATE, 0, stream, &credit.to_be_bytes());
}

/// Writes PING.
pub fn put_ping(out: &mut BytesMut, ack: bool, payload: [u8; 8]) {
    let flags = if ack { flag::ACK } else { 0 };
    put(out, kind::PING, flags, 0, &payload);
}

/// Writes GOAWAY.
pub fn put_goaway(out: &mut BytesMut, last: u32, reason: Reason) {
    let [a, b, c, d] = last.to_be_bytes();
    let [e, f, g, h] = reason.0.to_be_bytes();
    put(out, kind::GOAWAY, 0, 0, &[a, b, c, d, e, f, g, h]);
}

/// Writes SETTINGS: pairs of identifier and value.
pub fn put_settings(out: &mut BytesMut, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(settings.len().saturating_mul(6));
    for (id, value) in settings {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    put(out, kind::SETTINGS, 0, 0, &payload);
}

/// Writes the acknowledgement of SETTINGS.
pub fn put_settings_ack(out: &mut BytesMut) {
    put(out, kind::SETTINGS, flag::ACK, 0, &[]);
}

/// The 32 bits at a place of a payload.
#[must_use]
pub fn word(payload: &[u8], at: usize) -> Option<u32> {
    let bytes = payload.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let header = Header {
            length: 0x01_02_03,
            kind: kind::DATA,
            flags: flag::PADDED,
            stream: 0x7f_01_02_03,
        };
        assert_eq!(Header::read(&header.bytes()), Some(header));
        // The reserved bit is ignored.
        let mut bytes = header.bytes();
        bytes[5] |= 0x80;
        assert_eq!(Header::read(&bytes), Some(header));
        assert_eq!(Header::read(&bytes[..8]), None);
    }

    #[test]
    fn small_frames() {
        let mut out = BytesMut::new();
        put_reset(&mut out, 3, Reason::CANCEL);
        put_goaway(&mut out, 5, Reason::NO_ERROR);
        put_settings(&mut out, &[(4, 65_535)]);
        assert_eq!(
            &out[..],
            [
                &[0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 8][..],
                &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0],
                &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0xff, 0xff],
            ]
            .concat()
        );
    }
}
