//! Header blocks, written: the last step of a response or a request on its way out.
//!
//! Without a dynamic table and without Huffman codes, on purpose. A table is state of each
//! connection that has to be kept, and that lets one stream learn what another one has sent (RFC
//! 7541 section 7.1); Huffman codes cost more time for each byte than the network does. What can
//! be one byte by the static table is one byte. `HAProxy` writes its heads in this way.
//!
//! The functions append; the caller keeps the order, pseudo-header fields first.

use bytes::{BufMut, BytesMut};

use super::table::STATIC_NAMES;
use crate::message::Known;

/// First byte of a literal that is not indexed here (RFC 7541 section 6.2.2).
const WITHOUT_INDEXING: u8 = 0x00;
/// First byte of a literal that nobody may index (RFC 7541 section 6.2.3).
const NEVER_INDEXED: u8 = 0x10;

/// Cookies below this many bytes could be guessed byte by byte through the size of a compressed
/// block (RFC 7541 section 7.1.3). 20 is where nghttp2 draws the line, so peers are used to it.
const SHORT_COOKIE: usize = 20;

/// Most bytes of a literal beside its text: one or two for the index, six for each length.
const MAX_LITERAL_OVERHEAD: usize = 14;

/// Tells the peer that its table for our fields stays empty (RFC 7541 section 6.3).
///
/// To be called first of all in the first block after we acknowledged a SETTINGS frame whose
/// `SETTINGS_HEADER_TABLE_SIZE` is below 4096, the size that holds before any such frame: a peer
/// must treat a block without this as a connection error (section 4.2, RFC 9113 section 4.3.1).
/// Once for a connection is enough; a second time does no harm.
pub fn put_size_update_zero(out: &mut BytesMut) {
    out.put_u8(0x20);
}

/// Writes `:status`, 100 to 999.
pub fn put_status(out: &mut BytesMut, status: u16) {
    let index = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            let digit = |n: u16| b'0' + (n % 10) as u8;
            let digits = [status / 100, status / 10, status].map(digit);
            return put_literal(out, WITHOUT_INDEXING, 8, b"", &digits);
        }
    };
    put_indexed(out, index);
}

/// Writes `:method`.
pub fn put_method(out: &mut BytesMut, method: &[u8]) {
    match method {
        b"GET" => put_indexed(out, 2),
        b"POST" => put_indexed(out, 3),
        _ => put_literal(out, WITHOUT_INDEXING, 2, b"", method),
    }
}

/// Writes `:scheme`.
pub fn put_scheme(out: &mut BytesMut, https: bool) {
    put_indexed(out, if https { 7 } else { 6 });
}

/// Writes `:path`.
pub fn put_path(out: &mut BytesMut, path: &[u8]) {
    match path {
        b"/" => put_indexed(out, 4),
        _ => put_literal(out, WITHOUT_INDEXING, 4, b"", path),
    }
}

/// Writes `:authority`.
pub fn put_authority(out: &mut BytesMut, authority: &[u8]) {
    put_literal(out, WITHOUT_INDEXING, 1, b"", authority);
}

/// Writes `:protocol` (RFC 8441).
pub fn put_protocol(out: &mut BytesMut, protocol: &[u8]) {
    put_literal(out, WITHOUT_INDEXING, 0, b":protocol", protocol);
}

/// Writes a regular field. The name may be in any case; it is written in lower case (RFC 9113
/// section 8.2). `known` must be what the name was classified as.
///
/// Credentials and short cookies are marked as never to be indexed.
#[expect(
    clippy::indexing_slicing,
    reason = "names are numbered by a byte, of which there are as many"
)]
pub fn put_field(out: &mut BytesMut, known: Known, name: &[u8], value: &[u8]) {
    let pattern = match known {
        Known::Authorization | Known::ProxyAuthorization | Known::SetCookie => NEVER_INDEXED,
        Known::Cookie if value.len() < SHORT_COOKIE => NEVER_INDEXED,
        _ => WITHOUT_INDEXING,
    };
    put_literal(out, pattern, STATIC_NAMES[known as usize], name, value);
}

/// Writes a regular field that came as [`super::Header::sensitive`]: an intermediary must hand that
/// on (RFC 7541 section 6.2.3). Otherwise as [`put_field`].
#[expect(
    clippy::indexing_slicing,
    reason = "names are numbered by a byte, of which there are as many"
)]
pub fn put_sensitive_field(out: &mut BytesMut, known: Known, name: &[u8], value: &[u8]) {
    let index = STATIC_NAMES[known as usize];
    put_literal(out, NEVER_INDEXED, index, name, value);
}

fn put_indexed(out: &mut BytesMut, index: u8) {
    out.put_u8(0x80 | index);
}

/// Writes a literal whose name is at an index of the static table, or is `name` if that is 0.
fn put_literal(out: &mut BytesMut, pattern: u8, index: u8, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + MAX_LITERAL_OVERHEAD);
    match index {
        0 => {
            out.put_u8(pattern);
            put_length(out, name.len());
            let start = out.len();
            out.put_slice(name);
            let copied = out.get_mut(start..).unwrap_or_default();
            copied.make_ascii_lowercase();
        }
        1..15 => out.put_u8(pattern | index),
        // Four bits of prefix, the rest in one byte more: the table ends at 61.
        15.. => out.put_slice(&[pattern | 15, index - 15]),
    }
    put_length(out, value.len());
    out.put_slice(value);
}

/// The length of a string that is not Huffman coded (RFC 7541 sections 5.1 and 5.2).
fn put_length(out: &mut BytesMut, length: usize) {
    if length < 127 {
        out.put_u8(length as u8);
        return;
    }
    out.put_u8(127);
    let mut rest = length - 127;
    while rest >= 128 {
        out.put_u8(rest as u8 | 128);
        rest /= 128;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(put: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        put(&mut out);
        out.to_vec()
    }

    #[test]
    fn what_the_static_table_has_is_one_byte() {
        for (status, byte) in [
            (200, 0x88),
            (204, 0x89),
            (206, 0x8a),
            (304, 0x8b),
            (400, 0x8c),
            (404, 0x8d),
            (500, 0x8e),
        ] {
            assert_eq!(written(|out| put_status(out, status)), [byte]);
        }
        assert_eq!(written(|out| put_status(out, 503)), b"\x08\x03503");
        assert_eq!(written(|out| put_method(out, b"GET")), [0x82]);
        assert_eq!(written(|out| put_method(out, b"POST")), [0x83]);
        assert_eq!(written(|out| put_method(out, b"get")), b"\x02\x03get");
        assert_eq!(written(|out| put_path(out, b"/")), [0x84]);
        assert_eq!(written(|out| put_path(out, b"/a")), b"\x04\x02/a");
        assert_eq!(written(|out| put_scheme(out, false)), [0x86]);
        assert_eq!(written(|out| put_scheme(out, true)), [0x87]);
        assert_eq!(written(|out| put_authority(out, b"a.b")), b"\x01\x03a.b");
        assert_eq!(
            written(|out| put_protocol(out, b"websocket")),
            b"\x00\x09:protocol\x09websocket"
        );
        assert_eq!(written(put_size_update_zero), [0x20]);
    }

    #[test]
    fn fields_use_the_index_of_their_name() {
        let field = |name: &str, value: &str| {
            let known = Known::classify(name.as_bytes());
            written(|out| put_field(out, known, name.as_bytes(), value.as_bytes()))
        };
        assert_eq!(field("X-Test", "A"), b"\x00\x06x-test\x01A");
        assert_eq!(field("Content-Type", "b"), b"\x0f\x10\x01b");
        assert_eq!(field("HOST", ""), b"\x0f\x17\x00");
        assert_eq!(field("TE", "trailers"), b"\x00\x02te\x08trailers");
        assert_eq!(field("Authorization", "x"), b"\x1f\x08\x01x");
        assert_eq!(field("Proxy-Authorization", "x"), b"\x1f\x22\x01x");
        assert_eq!(field("Set-Cookie", "x"), b"\x1f\x28\x01x");
        assert_eq!(field("Cookie", &"x".repeat(19))[..2], *b"\x1f\x11");
        assert_eq!(field("Cookie", &"x".repeat(20))[..2], *b"\x0f\x11");
        let sensitive = written(|out| put_sensitive_field(out, Known::Other, b"X-Key", b"k"));
        assert_eq!(sensitive, b"\x10\x05x-key\x01k");
    }

    #[test]
    fn lengths_at_their_boundaries() {
        for (length, bytes) in [
            (0, &[0][..]),
            (126, &[126]),
            (127, &[127, 0]),
            (254, &[127, 127]),
            (255, &[127, 128, 1]),
            (127 + 16_383, &[127, 255, 127]),
            (127 + 16_384, &[127, 128, 128, 1]),
        ] {
            assert_eq!(written(|out| put_length(out, length)), bytes);
        }
    }
}
