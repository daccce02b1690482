//! Strict HTTP/1 heads (RFC 9112): finds where a head ends, then reads it, without a copy.
//!
//! Stricter than the RFC asks for where leniency has been exploited: no bare LF, no obs-fold, no
//! white space around a name or in a request line, no control characters anywhere.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{Method, StatusCode};
use memchr::memmem::Finder;

use crate::error::ErrorKind;
use crate::message::{Fields, Known, Version};

/// What a search for the end of a head found.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadEnd {
    /// The head is this many bytes long, its empty line included.
    At(usize),
    /// Not there yet; search again from here.
    Partial(usize),
    /// A line ends in a bare LF, or begins with a CR that ends nothing: not HTTP.
    Malformed,
}

/// What ends a head, behind a line that is not empty.
static EMPTY_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Looks for the empty line that ends a head, from where the last search stopped.
///
/// Cost is linear in the bytes that are new. `from` must be 0 or a value given by
/// [`HeadEnd::Partial`].
#[must_use]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "places in one buffer, which is bounded"
)]
pub fn find_end(buffer: &[u8], from: usize) -> HeadEnd {
    let rest = buffer.get(from..).unwrap_or_default();
    // Mostly the whole head is there: one search instead of one a line.
    if !rest.starts_with(b"\r")
        && let Some(end) = EMPTY_LINE.find(rest)
    {
        return match rest.get(..end + 4) {
            Some(head) if lines_end_well(head) => HeadEnd::At(from + end + 4),
            _ => HeadEnd::Malformed,
        };
    }
    let mut line = from;
    loop {
        let rest = buffer.get(line..).unwrap_or_default();
        // A CR at the beginning of a line can only be that of the empty line.
        if matches!(rest, [b'\r', other, ..] if *other != b'\n') {
            return HeadEnd::Malformed;
        }
        let Some(lf) = memchr::memchr(b'\n', rest) else {
            return HeadEnd::Partial(line);
        };
        match lf {
            0 => return HeadEnd::Malformed,
            1 if rest.first() == Some(&b'\r') => return HeadEnd::At(line + 2),
            _ => {}
        }
        if rest.get(lf - 1) != Some(&b'\r') {
            return HeadEnd::Malformed;
        }
        line += lf + 1;
    }
}

/// Whether each LF has its CR, and no line begins with a CR that has no LF. All lines at once, without a
/// branch, so that the compiler can look at many bytes together. The head does not begin with a CR.
fn lines_end_well(head: &[u8]) -> bool {
    let (second, third) = (
        head.get(1..).unwrap_or_default(),
        head.get(2..).unwrap_or_default(),
    );
    let pairs = head.iter().zip(second).zip(third);
    let bad = pairs.fold(0, |bad, ((a, b), c)| {
        let bare = u8::from(*c == b'\n') & u8::from(*b != b'\r');
        let stray = u8::from(*a == b'\n') & u8::from(*b == b'\r') & u8::from(*c != b'\n');
        bad | bare | stray
    });
    bad == 0 && !head.iter().take(2).any(|b| *b == b'\n')
}

/// Length of the first line of a head that [`find_end`] has seen, without its CRLF. Not up to the
/// first CR: one that stands inside the line is for the line's own check to refuse.
#[must_use]
pub fn first_line(head: &[u8]) -> usize {
    memchr::memchr(b'\n', head).map_or(0, |lf| lf.saturating_sub(1))
}

/// A request line in parts.
#[derive(Debug)]
pub struct RequestLine {
    /// Method.
    pub method: Method,
    /// Where the target stands.
    pub target: Range<usize>,
    /// Version.
    pub version: Version,
}

/// RFC 9110 `tchar`.
#[expect(
    clippy::indexing_slicing,
    reason = "while it is compiled: outside would be an error there"
)]
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let chars = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut i = 0;
    while i < chars.len() {
        table[chars[i] as usize] = true;
        i += 1;
    }
    table
};

/// RFC 9110 `field-vchar`, space and tab; obs-text is let through byte for byte.
#[expect(
    clippy::indexing_slicing,
    reason = "while it is compiled: outside would be an error there"
)]
const VALUE: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0x20;
    while i < 256 {
        table[i] = i != 0x7f;
        i += 1;
    }
    table[b'\t' as usize] = true;
    table
};

/// Whether the bytes are an RFC 9110 token.
#[must_use]
#[expect(
    clippy::indexing_slicing,
    reason = "as many places as a byte has values"
)]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| TOKEN[usize::from(*b)])
}

/// Whether the bytes may be a field value.
#[must_use]
#[expect(
    clippy::indexing_slicing,
    reason = "as many places as a byte has values"
)]
pub fn is_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| VALUE[usize::from(*b)])
}

/// Reads a request line. The range given is the line without its CRLF.
///
/// # Errors
/// [`ErrorKind::BadRequest`], [`ErrorKind::TargetTooLong`], [`ErrorKind::UnsupportedVersion`].
#[expect(
    clippy::arithmetic_side_effects,
    reason = "places in one buffer, which is bounded"
)]
pub fn request_line(line: &[u8], at: usize, max_target: usize) -> Result<RequestLine, ErrorKind> {
    let method_len = memchr::memchr(b' ', line).ok_or(ErrorKind::BadRequest)?;
    let (method, rest) = line.split_at(method_len);
    let rest = rest.get(1..).unwrap_or_default();
    let target_len = memchr::memchr(b' ', rest).ok_or(ErrorKind::BadRequest)?;
    let (target, version) = rest.split_at(target_len);
    if !is_token(method) || target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(ErrorKind::BadRequest);
    }
    let version = match version.get(1..).unwrap_or_default() {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(ErrorKind::UnsupportedVersion);
        }
        _ => return Err(ErrorKind::BadRequest),
    };
    if target.len() > max_target {
        return Err(ErrorKind::TargetTooLong);
    }
    let method = Method::from_bytes(method).map_err(|_| ErrorKind::BadRequest)?;
    let start = at + method_len + 1;
    Ok(RequestLine {
        method,
        target: start..start + target_len,
        version,
    })
}

/// Reads a status line: version and status. Reasons are dropped; they carry nothing.
///
/// # Errors
/// [`ErrorKind::BadResponse`].
pub fn status_line(line: &[u8]) -> Result<(Version, StatusCode), ErrorKind> {
    let bad = ErrorKind::BadResponse;
    let (version, rest) = match line {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'1',
            b' ',
            rest @ ..,
        ] => (Version::Http11, rest),
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            b'0',
            b' ',
            rest @ ..,
        ] => (Version::Http10, rest),
        _ => return Err(bad),
    };
    let (code, reason) = rest.split_at_checked(3).ok_or(bad)?;
    // The space before an empty reason is required, but many leave it out.
    let reason_fine = matches!(reason.first(), None | Some(b' ')) && is_value(reason);
    let digits = code.iter().all(u8::is_ascii_digit);
    if !digits || !reason_fine || !matches!(code.first(), Some(b'1'..=b'5')) {
        return Err(bad);
    }
    let status = StatusCode::from_bytes(code).map_err(|_| bad)?;
    Ok((version, status))
}

/// The name before the colon that ends it: its length and what it is. `None`: it is no token.
fn name(line: &[u8]) -> Option<(usize, Known)> {
    let near = line.first_chunk().and_then(Known::before_colon);
    let (length, known) = match near {
        Some(found) => found,
        // A long name, or a short rest of the head.
        None => {
            let length = memchr::memchr(b':', line)?;
            (length, Known::classify(line.get(..length)?))
        }
    };
    // A known name is a token.
    (known != Known::Other || is_token(line.get(..length)?)).then_some((length, known))
}

/// How many bytes may stand in a value, up to the first that may not.
#[expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "places in one buffer, which is bounded; as many places as a byte has values"
)]
fn value_len(bytes: &[u8]) -> usize {
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    let mut at = 0;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*eight);
        // Below a space, or DEL. The lowest bit that is set is exact; what is above may be none.
        let control = word.wrapping_sub(u64::from_le_bytes([0x20; 8])) & !word;
        let delete = word ^ u64::from_le_bytes([0x7f; 8]);
        let delete = delete.wrapping_sub(u64::from_le_bytes([1; 8])) & !delete;
        let found = (control | delete) & HIGH;
        if found == 0 {
            at += 8;
            continue;
        }
        let place = found.trailing_zeros() as usize / 8;
        if eight.get(place) != Some(&b'\t') {
            return at + place;
        }
        at += place + 1;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let plain = rest.iter().take_while(|b| VALUE[usize::from(**b)]).count();
    at + plain
}

/// Reads field lines until the empty line.
///
/// `head` is the whole head; the first field line begins at `from`.
///
/// # Errors
/// `bad` for a line that is not a field; `too_many` past `max_count`.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "places in one buffer, which is bounded"
)]
pub fn fields(
    head: Bytes,
    from: usize,
    max_count: usize,
    bad: ErrorKind,
    too_many: ErrorKind,
) -> Result<Fields, ErrorKind> {
    let mut fields = Fields::with_room();
    let mut at = from;
    loop {
        let rest = head.get(at..).unwrap_or_default();
        // An empty line ends the head; `find_end` has seen it.
        if rest.len() <= 2 {
            return Ok(fields.over(head));
        }
        if fields.len() == max_count {
            return Err(too_many);
        }
        let (name_len, known) = name(rest).ok_or(bad)?;
        let after = rest.get(name_len + 1..).unwrap_or_default();
        let line_len = value_len(after);
        if after.get(line_len..line_len + 2) != Some(b"\r\n") {
            return Err(bad);
        }
        let raw = after.get(..line_len).unwrap_or_default();
        let left = raw.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let trimmed = raw.trim_ascii();
        let value_at = at + name_len + 1 + left.min(line_len);
        fields.push_parsed(
            at..at + name_len,
            value_at..value_at + trimmed.len(),
            known,
            false,
        );
        at += name_len + 1 + line_len + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_found_however_the_bytes_arrive() {
        // One that begins with an empty line has ended with it.
        assert_eq!(find_end(b"\r\nGET / HTTP/1.1\r\n\r\n", 0), HeadEnd::At(2));
        assert_eq!(find_end(b"A\r\n\r\n\r\n", 0), HeadEnd::At(5));
        assert_eq!(find_end(b"A\r\n\r\n", 3), HeadEnd::At(5));
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for cut in 0..head.len() {
            let from = match find_end(&head[..cut], 0) {
                HeadEnd::Partial(from) => from,
                HeadEnd::At(end) => {
                    assert_eq!(end, 27);
                    continue;
                }
                HeadEnd::Malformed => panic!("cut at {cut}"),
            };
            assert_eq!(find_end(head, from), HeadEnd::At(27), "cut at {cut}");
        }
        assert_eq!(find_end(b"GET / HTTP/1.1\n", 0), HeadEnd::Malformed);
        assert_eq!(find_end(b"GET / HTTP/1.1\r\nA: b\n", 0), HeadEnd::Malformed);
        assert_eq!(find_end(b"A\r\n\n", 0), HeadEnd::Malformed);
        assert_eq!(find_end(b"A\r\n\rX", 0), HeadEnd::Malformed);
        assert_eq!(first_line(b"GET / HTTP/1.1\rX: y\r\n\r\n"), 19);
    }

    #[test]
    fn request_lines() {
        let read = |line: &str| request_line(line.as_bytes(), 0, 20);
        let line = read("GET /a HTTP/1.1").unwrap();
        assert_eq!((line.method, line.target), (Method::GET, 4..6));
        for (bad, kind) in [
            ("GET  / HTTP/1.1", ErrorKind::BadRequest),
            ("GET / HTTP/1.1 ", ErrorKind::BadRequest),
            (" GET / HTTP/1.1", ErrorKind::BadRequest),
            ("GET\t/ HTTP/1.1", ErrorKind::BadRequest),
            ("GET /", ErrorKind::BadRequest),
            ("GET / http/1.1", ErrorKind::BadRequest),
            ("GET / HTTP/1.10", ErrorKind::BadRequest),
            ("GET / HTTP/1.2", ErrorKind::UnsupportedVersion),
            ("GET / HTTP/2.0", ErrorKind::UnsupportedVersion),
            ("G(T / HTTP/1.1", ErrorKind::BadRequest),
            ("GET /\u{e9} HTTP/1.1", ErrorKind::BadRequest),
            (
                "GET /aaaaaaaaaaaaaaaaaaaaa HTTP/1.1",
                ErrorKind::TargetTooLong,
            ),
        ] {
            assert_eq!(read(bad).err(), Some(kind), "{bad:?}");
        }
    }

    #[test]
    fn values_end_at_the_first_byte_that_may_not_stand_in_them() {
        for length in 0..40 {
            for at in 0..=length {
                for byte in 0..=255 {
                    let mut bytes = vec![b'x'; length];
                    bytes.extend([b'\r', b'\n', 0x7f, 0, b'y']);
                    bytes[at] = byte;
                    let slow = bytes.iter().position(|b| !VALUE[usize::from(*b)]);
                    assert_eq!(Some(value_len(&bytes)), slow, "{length} {at} {byte}");
                }
            }
        }
        assert_eq!(value_len(b"\t\t\t\t\t\t\t\t\t"), 9);
        assert_eq!(value_len(&[0xff; 17]), 17);
    }

    #[test]
    fn names_end_at_their_colon_and_are_tokens() {
        assert_eq!(name(b"Host: a\r\n"), Some((4, Known::Host)));
        let long = b"hOST: a:b:c:d:e:f:g:h:i:j:k:l\r\n";
        assert_eq!(name(long), Some((4, Known::Host)));
        for length in 1..40 {
            let mut line = vec![b'x'; length];
            line.extend(b": value that is long enough\r\n");
            assert_eq!(name(&line), Some((length, Known::Other)));
            for at in 0..length {
                for byte in 0..=255_u8 {
                    line[at] = byte;
                    let slow = line.iter().position(|b| !TOKEN[usize::from(*b)]).unwrap();
                    let want = (slow > 0 && line[slow] == b':').then_some(slow);
                    assert_eq!(name(&line).map(|(n, _)| n), want, "{length} {at} {byte}");
                }
                line[at] = b'x';
            }
        }
        assert_eq!(name(b": a\r\n"), None);
        assert_eq!(name(b"a\r\n"), None);
    }

    #[test]
    fn status_lines() {
        assert_eq!(
            status_line(b"HTTP/1.1 200 OK"),
            Ok((Version::Http11, StatusCode::OK))
        );
        assert_eq!(
            status_line(b"HTTP/1.0 204"),
            Ok((Version::Http10, StatusCode::NO_CONTENT))
        );
        for bad in [
            "HTTP/1.1 099 x",
            "HTTP/1.1 1000",
            "HTTP/1.1 20",
            "HTTP/1.1  200",
            "HTTP/2 200",
            "ICY 200",
            "HTTP/1.1 600 x",
            "HTTP/1.1 200 \u{7f}",
        ] {
            assert_eq!(
                status_line(bad.as_bytes()),
                Err(ErrorKind::BadResponse),
                "{bad}"
            );
        }
    }

    #[test]
    fn bare_line_feeds_are_refused_wherever_the_head_ends() {
        let error = ErrorKind::BadRequest;
        for head in [
            &b"A: b\nC: d\r\n\r\n"[..],
            b"A: b\r\nC: d\n\r\nE: f\r\n\r\n",
            b"A: b\r\n\nC: d\r\n\r\n",
            b"A: b\n\nC: d\r\n\r\n",
            b"A: b\rC: d\r\n\r\n",
        ] {
            let slow =
                (1..head.len()).try_fold(0, |from, end| match find_end(&head[..end], from) {
                    HeadEnd::Partial(from) => Ok(from),
                    told => Err(told),
                });
            let whole = find_end(head, 0);
            if let Err(slow) = slow {
                assert_eq!(slow, whole, "{head:?}");
            }
            let HeadEnd::At(end) = whole else {
                continue;
            };
            // A CR inside a line is for whoever reads the line.
            let head = Bytes::copy_from_slice(&head[..end]);
            let read = fields(head.clone(), 0, 9, error, error);
            assert_eq!(read.err(), Some(error), "{head:?}");
        }
    }

    fn read(lines: &str) -> Result<Vec<(String, String)>, ErrorKind> {
        let head = Bytes::from(format!("{lines}\r\n"));
        fields(head, 0, 3, ErrorKind::BadRequest, ErrorKind::HeadTooLarge).map(|fields| {
            let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
            fields
                .iter()
                .map(|f| (text(f.name), text(f.value)))
                .collect()
        })
    }

    #[test]
    fn field_lines() {
        let got = read("Host: a\r\nX:\t b c \r\ny:\r\n").unwrap();
        let want = [("Host", "a"), ("X", "b c"), ("y", "")];
        assert_eq!(got, want.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(
            read("a: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n"),
            Err(ErrorKind::HeadTooLarge)
        );
        for bad in [
            "a : 1\r\n",
            " a: 1\r\n",
            "a\r\n",
            ": x\r\n",
            "a: 1\r\n b\r\n",
            "a: \x01\r\n",
            "a: \x00\r\n",
            "a: x\ry\r\n",
            "a: \x7f\r\n",
            "a\u{e9}: 1\r\n",
        ] {
            assert_eq!(read(bad), Err(ErrorKind::BadRequest), "{bad:?}");
        }
    }
}
