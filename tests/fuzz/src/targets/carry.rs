//! What the proxy carries on is what it was given: no head is another one behind it.

use bytes::{Bytes, BytesMut};
use selvedge::message::{BodyLength, Fields, Known, RequestHead, Version};
use selvedge::protocol::http1::parse::{HeadEnd, find_end};
use selvedge::protocol::http1::request::parse_request;
use selvedge::protocol::http2::encode::{self, Toward};
use selvedge::protocol::http2::frame::{self, Header, flag, kind};
use selvedge::protocol::http2::head::Head;
use selvedge::protocol::http2::request::read_request;
use selvedge::protocol::http2::settings::Own;
use selvedge::protocol::http2::{Conn, End};
use selvedge::upstream::http1::write_head;

use super::engine::{self, Line};
use super::{BEHIND, LISTENERS, lines};

/// A head in HTTP/2, given as lines `name=value` (where a value has `\x01` for a line's end).
///
/// What is accepted is the same head behind the proxy, in either protocol.
pub(crate) fn http2_head(input: &[u8]) {
    let mut block = BytesMut::new();
    for line in input.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let at = line.iter().position(|b| *b == b'=').unwrap_or(line.len());
        let value = line.get(at + 1..).unwrap_or_default();
        let value: Vec<u8> = value
            .iter()
            .map(|b| if *b == 1 { b'\n' } else { *b })
            .collect();
        put_literal(&mut block, &line[..at], &value);
    }
    engine::inside(|| {
        for (listener, ended) in LISTENERS.iter().zip([true, false]) {
            let Some(head) = at_once(&request_bytes(&block, ended)) else {
                continue;
            };
            if let Ok(parsed) = read_request(head, ended, listener) {
                assert!(!ended || parsed.length == BodyLength::Exact(0));
                survives(&parsed.head, parsed.length);
            }
        }
    });
}

/// A literal that stands for itself: no index, no Huffman code.
fn put_literal(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.extend_from_slice(&[0]);
    for text in [name, value] {
        match text.len() {
            short @ 0..127 => out.extend_from_slice(&[short as u8]),
            long => {
                let rest = long - 127;
                let bytes = [rest & 127 | 128, rest >> 7 & 127 | 128, rest >> 14];
                out.extend_from_slice(&[127]);
                out.extend_from_slice(&bytes.map(|b| b as u8));
            }
        }
        out.extend_from_slice(text);
    }
}

/// What a server takes that takes more than any listener.
fn own() -> Own {
    let limits = &BEHIND.limits;
    Own {
        streams: 10,
        stream_window: limits.stream_window,
        connection_window: limits.connection_window,
        header_block: limits.header_block,
        header_count: limits.header_count,
        trailer_block: limits.trailer_block,
        trailer_count: limits.trailer_count,
        rates: limits.http2,
        buffer: limits.buffer,
    }
}

/// Preface, SETTINGS, and a block on stream 1.
fn request_bytes(block: &[u8], ended: bool) -> Vec<u8> {
    let mut out = BytesMut::from(frame::PREFACE);
    frame::put_settings(&mut out, &[]);
    let parts: Vec<&[u8]> = if block.is_empty() {
        vec![block]
    } else {
        block.chunks(16_384).collect()
    };
    for (at, part) in parts.iter().enumerate() {
        let end_stream = if ended && at == 0 {
            flag::END_STREAM
        } else {
            0
        };
        let end_headers = if at + 1 == parts.len() {
            flag::END_HEADERS
        } else {
            0
        };
        let header = Header {
            length: part.len(),
            kind: if at == 0 {
                kind::HEADERS
            } else {
                kind::CONTINUATION
            },
            flags: end_stream | end_headers,
            stream: 1,
        };
        out.extend_from_slice(&header.bytes());
        out.extend_from_slice(part);
    }
    out.to_vec()
}

/// A request that was accepted is the same request behind the proxy, however it is sent there.
pub(super) fn survives(head: &RequestHead, length: BodyLength) {
    assert!(!head.host.is_empty() || head.version == Version::Http10);
    // What follows an upgrade is no body.
    let length = if head.upgrade.is_some() {
        BodyLength::Exact(0)
    } else {
        length
    };
    over_http1(head, length);
    over_http2(head, length);
}

fn over_http1(head: &RequestHead, length: BodyLength) {
    let mut out = BytesMut::new();
    write_head(&mut out, head, &engine::body(length), false);
    assert_eq!(
        find_end(&out, 0),
        HeadEnd::At(out.len()),
        "one head: {out:?}"
    );
    // An HTTP/1.0 client may name no host; then nothing stands there.
    if head.host.is_empty() {
        return;
    }
    let text = out.clone();
    let again = parse_request(out.freeze(), &BEHIND);
    let again = again.unwrap_or_else(|kind| panic!("{kind:?}: {text:?}"));
    assert_eq!(again.length, length, "{text:?}");
    let found = &again.head;
    assert_eq!(found.method, head.method);
    same(found, head);
    assert_eq!(found.upgrade, head.upgrade);
    let mut want = lines(&head.fields, |known| known == Known::Te);
    let mut got = lines(&found.fields, |_| false);
    if head.upgrade.is_some() && head.fields.known(Known::SecWebSocketKey).is_none() {
        // One is made up for a client of HTTP/2, which has none.
        let drop = |(name, _): &(Vec<u8>, Vec<u8>)| name != b"sec-websocket-key";
        want.retain(drop);
        got.retain(drop);
    }
    assert_eq!(got, want);
}

fn over_http2(head: &RequestHead, length: BodyLength) {
    let tunnel = encode::tunnelled(head);
    let mut block = BytesMut::new();
    let toward = Toward {
        https: true,
        tunnel: true,
        authority: "192.0.2.1:80",
    };
    encode::put_request(&mut block, head, &engine::body(length), toward);
    let ended = length == BodyLength::Exact(0) && tunnel.is_none();
    let found = at_once(&request_bytes(&block, ended));
    let found = found.unwrap_or_else(|| panic!("not read again: {head:?}"));
    let again =
        read_request(found, ended, &BEHIND).unwrap_or_else(|kind| panic!("{kind:?}: {head:?}"));
    if tunnel.is_none() {
        assert_eq!(again.length, length);
    }
    let found = again.head;
    assert_eq!(found.method, head.method);
    if !head.host.is_empty() {
        same(&found, head);
    }
    assert_eq!(found.upgrade.as_ref(), tunnel);
    let hop = |known: Known| known.is_hop_by_hop() && known != Known::Te;
    let upgrade = tunnel.is_some();
    let drop = |known| {
        hop(known) || known == Known::Cookie || (upgrade && known == Known::SecWebSocketKey)
    };
    assert_eq!(lines(&found.fields, drop), lines(&head.fields, drop));
    assert_eq!(cookies(&found.fields), cookies(&head.fields));
}

/// What a server makes of bytes that all are there, without a turn of the runtime.
fn at_once(bytes: &[u8]) -> Option<Head> {
    let conn = Line::holding(End::Server, own(), bytes);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let _ = Conn::poll_drive(&mut conn.borrow_mut(), &mut cx);
    let incoming = conn.borrow_mut().accepted.pop_front()?;
    incoming.key.map(|_| incoming.head)
}

fn same(found: &RequestHead, head: &RequestHead) {
    assert_eq!(found.target.text(), head.target.text());
    assert_eq!(found.host.as_str(), head.host.as_str());
    assert_eq!(found.host.name(), head.host.name());
    assert_eq!(found.target.path(), head.target.path());
}

/// All cookies in one: HTTP/2 has them apart, HTTP/1 together (RFC 9113 section 8.2.3).
fn cookies(fields: &Fields) -> Vec<u8> {
    let all: Vec<&[u8]> = fields
        .all(Known::Cookie)
        .filter(|crumb| !crumb.is_empty())
        .collect();
    Bytes::from(all.join(&b"; "[..])).to_vec()
}
