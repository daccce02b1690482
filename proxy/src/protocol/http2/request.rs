//! From an HTTP/2 request to ours: the checks that the `h2` crate leaves to its user.

use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use http::{HeaderMap, Method, header};

use crate::accept::{ListenerPlan, ListenerRole};
use crate::error::ErrorKind;
use crate::message::target::EncodedSlash;
use crate::message::{
    Body, BodyLength, Fields, Host, Known, Request, RequestHead, Target, Version,
};
use crate::protocol::http1::parse::is_token;

use super::body::Http2Body;

/// Reads a request. Connection fields, pseudo-header order and form are checked by `h2`.
///
/// # Errors
/// The kind says which check it failed.
pub fn read_request(
    request: http::Request<RecvStream>,
    listener: &ListenerPlan,
) -> Result<(Request, Option<RecvStream>), ErrorKind> {
    let limits = &listener.limits;
    let (mut parts, stream) = request.into_parts();
    let protocol = parts.extensions.remove::<Protocol>();
    let host = host(&parts.uri, &parts.headers)?;
    if parts.headers.len() > limits.header_count {
        return Err(ErrorKind::HeadTooLarge);
    }
    if parts.headers.contains_key(header::EXPECT) {
        expectation(&parts.headers)?;
    }
    let target = target(&parts, protocol.is_some(), listener)?;
    let length = length(&parts.headers, &stream)?;
    let mut fields = Fields::from_map(&parts.headers);
    fields.remove_if(|known| matches!(known, Known::Host | Known::ContentLength | Known::Expect));
    let upgrade = protocol.map(|p| upgrade(p.as_str())).transpose()?;
    let head = RequestHead {
        // An extended CONNECT is, for the path, what a GET with Upgrade is in HTTP/1.1.
        method: if upgrade.is_some() {
            Method::GET
        } else {
            parts.method
        },
        target,
        host,
        version: Version::Http2,
        fields,
        upgrade,
    };
    if head.upgrade.is_some() {
        let request = Request {
            head,
            body: Body::Empty,
        };
        return Ok((request, Some(stream)));
    }
    let body = match length {
        BodyLength::Exact(0) => Body::Empty,
        length => Body::Http2(Box::new(Http2Body::downstream(
            stream,
            length,
            limits.stream_idle,
        ))),
    };
    Ok((Request { head, body }, None))
}

/// `:protocol` becomes an `Upgrade` field: it must be one token, and none that HTTP/1 refuses.
fn upgrade(protocol: &str) -> Result<Bytes, ErrorKind> {
    let bytes = protocol.as_bytes();
    if !is_token(bytes) || bytes.to_ascii_lowercase().starts_with(b"h2") {
        return Err(ErrorKind::BadRequest);
    }
    Ok(Bytes::copy_from_slice(bytes))
}

/// `:authority` and `Host` must agree where both are there (RFC 9113 section 8.3.1).
fn host(uri: &http::Uri, headers: &HeaderMap) -> Result<Host, ErrorKind> {
    let mut named = headers.get_all(header::HOST).iter();
    let field = named.next();
    if named.next().is_some() {
        return Err(ErrorKind::BadHost);
    }
    let field = field
        .map(|h| Host::parse(Bytes::copy_from_slice(h.as_bytes())))
        .transpose()?;
    let authority = match uri.authority() {
        Some(authority) => Some(Host::parse(Bytes::copy_from_slice(
            authority.as_str().as_bytes(),
        ))?),
        None => None,
    };
    match (authority, field) {
        (Some(a), Some(b)) if a != b => Err(ErrorKind::BadHost),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(ErrorKind::BadHost),
    }
}

fn expectation(headers: &HeaderMap) -> Result<(), ErrorKind> {
    let fine = |value: &header::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(fine) {
        Ok(())
    } else {
        Err(ErrorKind::ExpectationFailed)
    }
}

fn target(
    parts: &http::request::Parts,
    extended: bool,
    listener: &ListenerPlan,
) -> Result<Target, ErrorKind> {
    let refused = (parts.method == Method::CONNECT && !extended) || parts.method == Method::TRACE;
    if refused {
        return Err(ErrorKind::MethodNotAllowed);
    }
    let text = parts.uri.path_and_query().map_or("", |pq| pq.as_str());
    if text.len() > listener.limits.uri {
        return Err(ErrorKind::TargetTooLong);
    }
    if text == "*" && parts.method == Method::OPTIONS {
        return Ok(Target::asterisk());
    }
    // The same bytes as in HTTP/1: an upstream must not see what a request line may not hold.
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(ErrorKind::BadTarget);
    }
    let slash = match listener.role {
        ListenerRole::Gateway => EncodedSlash::Refuse,
        ListenerRole::Inbound | ListenerRole::Outbound => EncodedSlash::Keep,
    };
    Target::parse(Bytes::copy_from_slice(text.as_bytes()), slash)
}

/// One plain `Content-Length`, or none. `h2` resets a stream whose data does not agree with it.
fn length(headers: &HeaderMap, stream: &RecvStream) -> Result<BodyLength, ErrorKind> {
    let mut told = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = match (told.next(), told.next()) {
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| ErrorKind::BadFraming)?;
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(ErrorKind::BadFraming);
            }
            Some(text.parse::<u64>().map_err(|_| ErrorKind::BadFraming)?)
        }
        (None, _) => None,
        (Some(_), Some(_)) => return Err(ErrorKind::BadFraming),
    };
    match length {
        _ if stream.is_end_stream() && length.is_none_or(|l| l == 0) => Ok(BodyLength::Exact(0)),
        Some(_) if stream.is_end_stream() => Err(ErrorKind::BadFraming),
        Some(length) => Ok(BodyLength::Exact(length)),
        None => Ok(BodyLength::Unknown),
    }
}
