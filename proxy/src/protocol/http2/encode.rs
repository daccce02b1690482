//! From a head to a header block: what HTTP/2 has of it, straight into the connection's queue.

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};

use crate::message::{Body, BodyLength, Fields, Known, RequestHead, ResponseHead};
use crate::protocol::hpack::encode;
use crate::protocol::http1::parse::is_token;

/// Fields that may be sent: those of a connection do not exist in HTTP/2, but `TE: trailers` does
/// (RFC 9113 section 8.2.2); `Host` is `:authority`.
fn put_fields(out: &mut BytesMut, fields: &Fields, skip: impl Fn(Known) -> bool) {
    for field in fields.iter() {
        let te_trailers = field.known == Known::Te && field.value == b"trailers";
        let hop = field.known.is_hop_by_hop() && !te_trailers;
        if hop || field.known == Known::Host || skip(field.known) {
            continue;
        }
        if field.sensitive {
            encode::put_sensitive_field(out, field.known, field.name, field.value);
        } else {
            encode::put_field(out, field.known, field.name, field.value);
        }
    }
}

/// The block of a response.
pub fn put_response(out: &mut BytesMut, head: &ResponseHead) {
    encode::put_status(out, head.status.as_u16());
    // No length where there can be no body (RFC 9110 section 8.6).
    let no_length = head.status.is_informational() || head.status == StatusCode::NO_CONTENT;
    put_fields(out, &head.fields, |known| {
        no_length && known == Known::ContentLength
    });
}

/// The block of trailers: fields that frame or route a message may not stand there.
pub fn put_trailers(out: &mut BytesMut, trailers: &Fields) {
    put_fields(out, trailers, |known| known.is_protected());
}

/// What a request is sent with beside its head.
#[derive(Debug, Clone, Copy)]
pub struct Toward<'a> {
    /// The connection is secured.
    pub https: bool,
    /// Stands for a host that the request does not name (HTTP/1.0).
    pub authority: &'a str,
    /// The peer takes extended CONNECT.
    pub tunnel: bool,
}

/// The protocol of the extended CONNECT (RFC 8441) that a request becomes. That has a place for one
/// protocol only, and none for a method: the next hop would take a POST for a GET. Any other upgrade
/// is not asked for (RFC 9110 section 7.8 leaves that to us), and the request goes as it is.
#[must_use]
pub fn tunnelled(head: &RequestHead) -> Option<&Bytes> {
    let protocol = head.upgrade.as_ref()?;
    (head.method == Method::GET && is_token(protocol)).then_some(protocol)
}

/// The block of a request.
pub fn put_request(out: &mut BytesMut, head: &RequestHead, body: &Body, toward: Toward<'_>) {
    let protocol = tunnelled(head).filter(|_| toward.tunnel);
    match protocol {
        Some(protocol) => {
            encode::put_method(out, Method::CONNECT.as_str().as_bytes());
            encode::put_protocol(out, protocol);
        }
        None => encode::put_method(out, head.method.as_str().as_bytes()),
    }
    encode::put_scheme(out, toward.https);
    let host = if head.host.is_empty() {
        toward.authority
    } else {
        head.host.as_str()
    };
    encode::put_authority(out, host.as_bytes());
    encode::put_path(out, head.target.text());
    put_fields(out, &head.fields, |known| {
        known == Known::ContentLength || (known == Known::SecWebSocketKey && protocol.is_some())
    });
    let expects_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    if let BodyLength::Exact(length) = body.length()
        && protocol.is_none()
        && (length > 0 || expects_body)
    {
        let mut digits = itoa::Buffer::new();
        let length = digits.format(length).as_bytes();
        encode::put_field(out, Known::ContentLength, b"content-length", length);
    }
}
