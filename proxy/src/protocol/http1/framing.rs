//! How long a message is and whether the connection lives on (RFC 9112 sections 6 and 9.3).

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use http::{Method, StatusCode};

use crate::error::ErrorKind;
use crate::message::{BodyLength, Fields, Known, Version};

/// Length of a request body.
///
/// # Errors
/// [`ErrorKind::BadFraming`] where two readers could disagree: both length fields, either of them
/// twice, a length that is not a plain number, `chunked` not last or not alone, any transfer
/// coding in HTTP/1.0. [`ErrorKind::UnknownCoding`] for a well-formed coding that is not `chunked`.
pub fn request_length(fields: &Fields, version: Version) -> Result<BodyLength, ErrorKind> {
    let mut length = None;
    let mut chunked = false;
    for field in fields.iter() {
        match field.known {
            Known::ContentLength if length.is_some() => return Err(ErrorKind::BadFraming),
            Known::ContentLength => length = Some(number(field.value)?),
            Known::TransferEncoding if chunked => return Err(ErrorKind::BadFraming),
            Known::TransferEncoding => {
                only_chunked(field.value)?;
                chunked = true;
            }
            _ => {}
        }
    }
    match (chunked, length) {
        (true, Some(_)) => Err(ErrorKind::BadFraming),
        (true, None) if version == Version::Http10 => Err(ErrorKind::BadFraming),
        (true, None) => Ok(BodyLength::Unknown),
        (false, Some(length)) => Ok(BodyLength::Exact(length)),
        (false, None) => Ok(BodyLength::Exact(0)),
    }
}

/// How a response body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseLength {
    /// After this many bytes; 0 where there is no body.
    Exact(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// Length of a response body.
///
/// # Errors
/// [`ErrorKind::BadResponse`], on the same terms as a request.
pub fn response_length(
    method: &Method,
    status: StatusCode,
    fields: &Fields,
    version: Version,
) -> Result<ResponseLength, ErrorKind> {
    let bad = |_| ErrorKind::BadResponse;
    let request = request_length(fields, version).map_err(bad)?;
    let told = fields.known(Known::ContentLength).is_some();
    let empty = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if method == Method::HEAD || empty {
        return Ok(ResponseLength::Exact(0));
    }
    Ok(match request {
        BodyLength::Unknown => ResponseLength::Chunked,
        BodyLength::Exact(length) if told => ResponseLength::Exact(length),
        BodyLength::Exact(_) => ResponseLength::UntilClose,
    })
}

/// A `Content-Length`: digits only, at most `u64`; leading zeros are harmless.
fn number(value: &[u8]) -> Result<u64, ErrorKind> {
    if value.is_empty() {
        return Err(ErrorKind::BadFraming);
    }
    value.iter().try_fold(0u64, |total, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(ErrorKind::BadFraming);
        }
        total
            .checked_mul(10)
            .and_then(|t| t.checked_add(u64::from(digit)))
            .ok_or(ErrorKind::BadFraming)
    })
}

/// A `Transfer-Encoding` must be `chunked` and nothing else.
fn only_chunked(value: &[u8]) -> Result<(), ErrorKind> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    // Tell an honest coding that we do not have from an attempt to be read two ways.
    let mut codings = value
        .split(|b| *b == b',')
        .map(<[u8]>::trim_ascii)
        .peekable();
    let mut unknown = false;
    while let Some(coding) = codings.next() {
        let last = codings.peek().is_none();
        let is_chunked = coding.eq_ignore_ascii_case(b"chunked");
        if !super::parse::is_token(coding) || (is_chunked && !last) {
            return Err(ErrorKind::BadFraming);
        }
        unknown |= !is_chunked;
    }
    Err(if unknown {
        ErrorKind::UnknownCoding
    } else {
        ErrorKind::BadFraming
    })
}

/// What the `Connection` field of a message says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
}

impl ConnectionOptions {
    /// Whether the connection lives on after this message.
    #[must_use]
    pub const fn persists(self, version: Version) -> bool {
        !self.close && (matches!(version, Version::Http11) || self.keep_alive)
    }
}

/// Reads `Connection`, and removes every field that belongs to this connection only.
///
/// Names that must not be removed this way (`Host`, `Authorization`, identity, what this proxy
/// adds) stay, whatever the option says.
pub fn take_connection(fields: &mut Fields) -> ConnectionOptions {
    let mut options = ConnectionOptions::default();
    let mut nominated: Vec<Vec<u8>> = Vec::new();
    let mut hop_by_hop = false;
    for field in fields.iter() {
        hop_by_hop |= field.known.is_hop_by_hop();
        if field.known != Known::Connection {
            continue;
        }
        for option in field.value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            match option {
                o if o.eq_ignore_ascii_case(b"close") => options.close = true,
                o if o.eq_ignore_ascii_case(b"keep-alive") => options.keep_alive = true,
                o if o.eq_ignore_ascii_case(b"upgrade") => options.upgrade = true,
                o if o.is_empty() || Known::classify(o).is_protected() => {}
                o => nominated.push(o.to_vec()),
            }
        }
    }
    if hop_by_hop {
        fields.remove_if(Known::is_hop_by_hop);
        for name in nominated {
            fields.remove(&name);
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in list {
            fields.append(name.as_bytes(), value.as_bytes());
        }
        fields
    }

    #[test]
    fn request_lengths() {
        use ErrorKind::{BadFraming, UnknownCoding};
        let te = "Transfer-Encoding";
        let cl = "Content-Length";
        type Case<'a> = (&'a [(&'a str, &'a str)], Result<BodyLength, ErrorKind>);
        let cases: &[Case<'_>] = &[
            (&[], Ok(BodyLength::Exact(0))),
            (&[(cl, "5")], Ok(BodyLength::Exact(5))),
            (&[(cl, "005")], Ok(BodyLength::Exact(5))),
            (&[(cl, "19")], Ok(BodyLength::Exact(19))),
            (&[(te, "Chunked")], Ok(BodyLength::Unknown)),
            (&[(te, "chunked"), (cl, "5")], Err(BadFraming)),
            (&[(cl, "0"), (te, "chunked")], Err(BadFraming)),
            (&[(cl, "5"), (cl, "5")], Err(BadFraming)),
            (&[(cl, "5,5")], Err(BadFraming)),
            (&[(cl, "+5")], Err(BadFraming)),
            (&[(cl, "-0")], Err(BadFraming)),
            (&[(cl, "0x5")], Err(BadFraming)),
            (&[(cl, "5 5")], Err(BadFraming)),
            (&[(cl, "")], Err(BadFraming)),
            (&[(cl, "18446744073709551616")], Err(BadFraming)),
            (&[(te, "chunked"), (te, "chunked")], Err(BadFraming)),
            (&[(te, "chunked, chunked")], Err(BadFraming)),
            (&[(te, "chunked, identity")], Err(BadFraming)),
            (&[(te, "chunked;a=1")], Err(BadFraming)),
            (&[(te, ",chunked")], Err(BadFraming)),
            (&[(te, "chunked,")], Err(BadFraming)),
            (&[(te, "")], Err(BadFraming)),
            (&[(te, "xchunked")], Err(UnknownCoding)),
            (&[(te, "gzip, chunked")], Err(UnknownCoding)),
            (&[(te, "identity")], Err(UnknownCoding)),
        ];
        for (list, want) in cases {
            let got = request_length(&fields(list), Version::Http11);
            assert_eq!(&got, want, "{list:?}");
        }
        let old = request_length(&fields(&[(te, "chunked")]), Version::Http10);
        assert_eq!(old, Err(BadFraming));
    }

    #[test]
    fn response_lengths() {
        let read = |method: &Method, status: u16, list: &[(&str, &str)]| {
            let status = StatusCode::from_u16(status).unwrap();
            response_length(method, status, &fields(list), Version::Http11)
        };
        let cl = &[("Content-Length", "5")][..];
        assert_eq!(read(&Method::GET, 200, cl), Ok(ResponseLength::Exact(5)));
        assert_eq!(read(&Method::HEAD, 200, cl), Ok(ResponseLength::Exact(0)));
        assert_eq!(read(&Method::GET, 304, cl), Ok(ResponseLength::Exact(0)));
        assert_eq!(read(&Method::GET, 200, &[]), Ok(ResponseLength::UntilClose));
        let both = &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")][..];
        assert_eq!(read(&Method::GET, 200, both), Err(ErrorKind::BadResponse));
    }

    #[test]
    fn a_connection_lives_on_by_its_version_and_its_options() {
        let read = |value: &str| take_connection(&mut fields(&[("Connection", value)]));
        for (value, old, new) in [
            ("", false, true),
            ("keep-alive", true, true),
            ("Keep-Alive, Upgrade", true, true),
            ("close", false, false),
            ("keep-alive, close", false, false),
        ] {
            let options = read(value);
            assert_eq!(options.persists(Version::Http10), old, "{value}");
            assert_eq!(options.persists(Version::Http11), new, "{value}");
        }
        assert!(read("x, Upgrade").upgrade && !read("x").upgrade);
    }

    #[test]
    fn nominated_fields_go_but_protected_ones_stay() {
        let mut list = fields(&[
            ("Connection", "close, X-Own, Authorization, Cookie"),
            ("X-Own", "1"),
            ("Authorization", "2"),
            ("Cookie", "3"),
            ("Keep-Alive", "4"),
            ("TE", "trailers"),
        ]);
        let options = take_connection(&mut list);
        assert!(options.close && !options.persists(Version::Http11));
        let left: Vec<_> = list.iter().map(|f| f.value.to_vec()).collect();
        assert_eq!(left, [b"2".to_vec(), b"3".to_vec()]);
    }
}
