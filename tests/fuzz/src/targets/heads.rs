//! Heads of HTTP/1: requests, responses, and how long their bodies are.

use bytes::{Bytes, BytesMut};
use http::Method;
use selvedge::error::ErrorKind;
use selvedge::message::{BodyLength, Fields, Known, ResponseHead, Version};
use selvedge::protocol::hpack;
use selvedge::protocol::http1::framing::{
    ResponseLength, request_length, response_length, take_connection,
};
use selvedge::protocol::http1::parse::{self, HeadEnd, find_end};
use selvedge::protocol::http1::request::parse_request;
use selvedge::protocol::http2::encode;

use super::{LISTENERS, carry, engine, lines};

/// A request head: found however it arrives, and the same behind the proxy as before it.
pub(crate) fn request(input: &[u8]) {
    let Some(head) = head(input) else { return };
    engine::inside(|| {
        for listener in LISTENERS.iter() {
            let Ok(parsed) = parse_request(head.clone(), listener) else {
                continue;
            };
            let head = &parsed.head;
            assert!(parsed.length != BodyLength::Unknown || head.version == Version::Http11);
            for (name, value) in lines(&head.fields, |_| false) {
                plain(&name, &value);
                assert!(!Known::classify(&name).is_hop_by_hop());
            }
            carry::survives(head, parsed.length);
        }
    });
}

/// The head at the front of the bytes; its end is the same in one piece and byte by byte.
fn head(input: &[u8]) -> Option<Bytes> {
    let whole = find_end(input, 0);
    let mut from = 0;
    for end in 1..=input.len() {
        match find_end(&input[..end], from) {
            HeadEnd::Partial(at) => from = at,
            found => {
                assert_eq!(found, whole, "with {end} bytes");
                break;
            }
        }
    }
    match whole {
        HeadEnd::At(end) => Some(Bytes::copy_from_slice(&input[..end])),
        HeadEnd::Partial(at) => {
            assert_eq!(at, from);
            None
        }
        HeadEnd::Malformed => None,
    }
}

/// A response head, read as `upstream/http1.rs` does.
pub(crate) fn response(input: &[u8]) {
    let Some(head) = head(input) else { return };
    let line = parse::first_line(&head);
    let Ok((version, status)) = parse::status_line(&head[..line]) else {
        return;
    };
    assert!((100..600).contains(&status.as_u16()));
    let bad = ErrorKind::BadResponse;
    let Ok(fields) = parse::fields(head, line + 2, 200, bad, bad) else {
        return;
    };
    for method in [Method::GET, Method::HEAD] {
        let mut fields = fields.clone();
        let Ok(length) = response_length(&method, status, &fields, version) else {
            continue;
        };
        let bodiless = method == Method::HEAD
            || status.is_informational()
            || [204, 304].contains(&status.as_u16());
        assert!(!bodiless || length == ResponseLength::Exact(0));
        take_connection(&mut fields);
        let mut out = BytesMut::new();
        fields.write_http1(&mut out);
        out.extend_from_slice(b"\r\n");
        assert_eq!(find_end(&out, 0), HeadEnd::At(out.len()));
        let again = parse::fields(out.freeze(), 0, 200, bad, bad);
        let again = again.unwrap_or_else(|kind| panic!("{kind:?} of what was written"));
        assert_eq!(lines(&again, |_| false), lines(&fields, |_| false));
        over_http2(ResponseHead { status, fields });
    }
}

/// Nothing of a response that HTTP/2 does not know gets there (RFC 9113 section 8.2).
fn over_http2(head: ResponseHead) {
    let mut block = BytesMut::new();
    encode::put_response(&mut block, &head);
    let mut got = Vec::new();
    let each = |field: hpack::Header<'_>| got.push((field.name.to_vec(), field.value.to_vec()));
    let decoded = hpack::Decoder::new(4096).decode(&block, 1 << 16, each);
    assert_eq!(decoded, Ok(()));
    let (status, rest) = got.split_first().expect("a status");
    assert_eq!(status.0, b":status");
    assert_eq!(status.1, head.status.as_str().as_bytes());
    for (name, value) in rest {
        assert!(!name.iter().any(u8::is_ascii_uppercase));
        plain(name, value);
        let known = Known::classify(name);
        assert!(!known.is_hop_by_hop() || (known == Known::Te && value == b"trailers"));
    }
}

/// A field that no reader takes for two, or for none (RFC 9110 section 5), by rules of our own.
fn plain(name: &[u8], value: &[u8]) {
    let mark = |b: &u8| b"!#$%&'*+-.^_`|~".contains(b);
    assert!(!name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || mark(b)));
    let control = |b: &u8| matches!(b, 0..=8 | 10..=31 | 127);
    assert!(
        !value.iter().any(control),
        "{:?}",
        value.escape_ascii().to_string()
    );
    assert_eq!(value.trim_ascii(), value);
}

/// Lengths of bodies, against the rules said in another way: one plain number, or one plain
/// `chunked`, or neither, never both.
pub(crate) fn framing(input: &[u8]) {
    let mut block = input.to_vec();
    block.extend_from_slice(b"\r\n\r\n");
    let bad = ErrorKind::BadRequest;
    let Some(block) = head(&block) else { return };
    let Ok(fields) = parse::fields(block, 0, 100, bad, bad) else {
        return;
    };
    for version in [Version::Http10, Version::Http11] {
        let want = length(&fields, version);
        let got = request_length(&fields, version);
        assert_eq!(
            got.ok(),
            want,
            "{version:?}: {:?}",
            lines(&fields, |_| false)
        );
    }
}

fn length(fields: &Fields, version: Version) -> Option<BodyLength> {
    let all = |name: &str| -> Vec<Vec<u8>> {
        let list = lines(fields, |_| false);
        let of = list.into_iter().filter(|(n, _)| n == name.as_bytes());
        of.map(|(_, value)| value).collect()
    };
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Some(BodyLength::Exact(0)),
        ([number], []) if number.iter().all(u8::is_ascii_digit) => {
            let number = std::str::from_utf8(number).ok()?.parse().ok()?;
            Some(BodyLength::Exact(number))
        }
        ([], [coding]) if version == Version::Http11 => coding
            .eq_ignore_ascii_case(b"chunked")
            .then_some(BodyLength::Unknown),
        _ => None,
    }
}
