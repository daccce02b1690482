//! From an HTTP/2 head to a request: the checks that the protocol itself does not make.

use bytes::Bytes;
use http::Method;

use crate::accept::ListenerPlan;
use crate::error::ErrorKind;
use crate::message::{BodyLength, Fields, Host, Known, RequestHead, Target, Version};

use super::head::Head;

/// A request head that was found right.
#[derive(Debug)]
pub struct Parsed {
    /// The head.
    pub head: RequestHead,
    /// What is known about the body's length.
    pub length: BodyLength,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
}

/// Reads a request; `ended` says that no body follows.
///
/// # Errors
/// The kind says which check it failed.
pub fn read_request(head: Head, ended: bool, listener: &ListenerPlan) -> Result<Parsed, ErrorKind> {
    if head.too_large {
        return Err(ErrorKind::HeadTooLarge);
    }
    let method = head.method.ok_or(ErrorKind::BadRequest)?;
    let mut fields = head.fields;
    let host = host(head.authority, &fields)?;
    let expects_continue = expectation(&fields)?;
    let extended = head.protocol.is_some();
    if (method == Method::CONNECT && !extended) || method == Method::TRACE {
        return Err(ErrorKind::MethodNotAllowed);
    }
    let target = target(head.path.unwrap_or_default(), &method, listener)?;
    let upgrade = head.protocol.map(upgrade).transpose()?;
    fields.remove_if(|known| matches!(known, Known::Host | Known::ContentLength | Known::Expect));
    let length = match head.length {
        _ if ended => BodyLength::Exact(0),
        Some(length) => BodyLength::Exact(length),
        None => BodyLength::Unknown,
    };
    let head = RequestHead {
        // An extended CONNECT is, for the path, what a GET with Upgrade is in HTTP/1.1.
        method: if extended { Method::GET } else { method },
        target,
        host,
        version: Version::Http2,
        fields,
        upgrade,
    };
    Ok(Parsed {
        head,
        length,
        expects_continue,
    })
}

/// `:protocol` becomes an `Upgrade` field: none that HTTP/1 refuses.
fn upgrade(protocol: Bytes) -> Result<Bytes, ErrorKind> {
    if protocol.to_ascii_lowercase().starts_with(b"h2") {
        return Err(ErrorKind::BadRequest);
    }
    Ok(protocol)
}

/// `:authority` and `Host` must agree where both are there (RFC 9113 section 8.3.1).
fn host(authority: Option<Bytes>, fields: &Fields) -> Result<Host, ErrorKind> {
    let mut named = fields.all(Known::Host);
    let field = named.next();
    if named.next().is_some() {
        return Err(ErrorKind::BadHost);
    }
    let field = field
        .map(|host| Host::parse(fields.head().slice_ref(host)))
        .transpose()?;
    match (authority.map(Host::parse).transpose()?, field) {
        (Some(a), Some(b)) if a != b => Err(ErrorKind::BadHost),
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(ErrorKind::BadHost),
    }
}

/// As in HTTP/1: `100-continue` is answered by this proxy, nothing else can be met.
fn expectation(fields: &Fields) -> Result<bool, ErrorKind> {
    let fine = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
    if !fields.all(Known::Expect).all(fine) {
        return Err(ErrorKind::ExpectationFailed);
    }
    Ok(fields.known(Known::Expect).is_some())
}

fn target(path: Bytes, method: &Method, listener: &ListenerPlan) -> Result<Target, ErrorKind> {
    if path.len() > listener.limits.uri {
        return Err(ErrorKind::TargetTooLong);
    }
    if &path[..] == b"*" && *method == Method::OPTIONS {
        return Ok(Target::asterisk());
    }
    // The same bytes as in HTTP/1: an upstream must not see what a request line may not hold.
    if !path.iter().all(u8::is_ascii_graphic) {
        return Err(ErrorKind::BadTarget);
    }
    Target::parse(path, listener.encoded_slash)
}
