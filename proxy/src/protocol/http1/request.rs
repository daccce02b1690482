//! From the bytes of a head to a request: every check that HTTP/1 asks for, once.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use bytes::Bytes;
use http::Method;
use selvedge_contract::defaults::Limits;

use crate::accept::ListenerPlan;
use crate::error::ErrorKind;
use crate::message::{BodyLength, Fields, Host, Known, RequestHead, Target, Version};

use super::{framing, parse};

/// A request head, and what it says about its body and its connection.
#[derive(Debug)]
pub struct Parsed {
    /// The head, without the fields that belong to this connection.
    pub head: RequestHead,
    /// Length of the body.
    pub length: BodyLength,
    /// The client keeps the connection.
    pub persists: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
    /// The client understands trailers.
    pub wants_trailers: bool,
}

/// Reads a whole head, its empty line included.
///
/// # Errors
/// The kind says which check it failed.
pub fn parse_request(head: Bytes, listener: &ListenerPlan) -> Result<Parsed, ErrorKind> {
    let limits = &listener.limits;
    let line_end = parse::first_line(&head);
    let line = parse::request_line(head.get(..line_end).unwrap_or_default(), 0, limits.uri)?;
    let target = head.slice(line.target.clone());
    let mut fields = fields(head, line_end.saturating_add(2), limits)?;
    let version = line.version;
    let length = framing::request_length(&fields, version)?;
    let expects_continue = expectation(&fields, version)?;
    let (target, host) = destination(&line.method, target, &fields, version, listener)?;
    let wants_trailers = fields.all(Known::Te).any(|te| {
        te.split(|b| *b == b',')
            .any(|t| t.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    let protocol = upgrade(&fields, length)?;
    let options = framing::take_connection(&mut fields);
    // Written anew from what was parsed: host, length and upgrade have one source each.
    fields.remove_if(|known| matches!(known, Known::Host | Known::ContentLength | Known::Expect));
    Ok(Parsed {
        head: RequestHead {
            method: line.method,
            target,
            host,
            version,
            fields,
            upgrade: protocol.filter(|_| options.upgrade && version == Version::Http11),
        },
        length,
        persists: options.persists(version),
        expects_continue,
        wants_trailers,
    })
}

fn fields(head: Bytes, from: usize, limits: &Limits) -> Result<Fields, ErrorKind> {
    parse::fields(
        head,
        from,
        limits.header_count,
        ErrorKind::BadRequest,
        ErrorKind::HeadTooLarge,
    )
}

/// `Expect: 100-continue` is answered by this proxy; anything else cannot be met (RFC 9110 10.1.1).
fn expectation(fields: &Fields, version: Version) -> Result<bool, ErrorKind> {
    let mut expects = false;
    for value in fields.all(Known::Expect) {
        if !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(ErrorKind::ExpectationFailed);
        }
        expects = true;
    }
    // An HTTP/1.0 client does not know interim responses.
    Ok(expects && version == Version::Http11)
}

/// The protocol a request wants to switch to. HTTP/2 is not switched to this way: `Upgrade: h2c`
/// was a way round the checks of proxies, and RFC 9113 has dropped it. An upgrade with a body is
/// served without the upgrade.
fn upgrade(fields: &Fields, length: BodyLength) -> Result<Option<Bytes>, ErrorKind> {
    let mut protocols = fields.all(Known::Upgrade);
    let Some(protocol) = protocols.next() else {
        return Ok(None);
    };
    let h2c = protocol
        .split(|b| *b == b',')
        .any(|p| p.trim_ascii().to_ascii_lowercase().starts_with(b"h2"));
    if protocols.next().is_some() || !parse::is_value(protocol) {
        return Err(ErrorKind::BadRequest);
    }
    if h2c || length != BodyLength::Exact(0) {
        return Ok(None);
    }
    Ok(Some(Bytes::copy_from_slice(protocol)))
}

/// Where the request points: origin-form with `Host`, absolute-form (which wins over `Host`), or
/// `*` for OPTIONS (RFC 9112 section 3.2).
fn destination(
    method: &Method,
    target: Bytes,
    fields: &Fields,
    version: Version,
    listener: &ListenerPlan,
) -> Result<(Target, Host), ErrorKind> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        return Err(ErrorKind::MethodNotAllowed);
    }
    let host = named_host(fields, version)?;
    match target.first() {
        Some(b'/') => Ok((Target::parse(target, listener.encoded_slash)?, host)),
        Some(b'*') if target.len() == 1 && *method == Method::OPTIONS => {
            Ok((Target::asterisk(), host))
        }
        Some(_) => {
            let scheme = target.get(..7).unwrap_or_default();
            let rest_at = if scheme.eq_ignore_ascii_case(b"http://") {
                7
            } else if target.len() > 8
                && target
                    .get(..8)
                    .is_some_and(|s| s.eq_ignore_ascii_case(b"https://"))
            {
                8
            } else {
                return Err(ErrorKind::BadTarget);
            };
            let rest = target.slice(rest_at..);
            let end = rest
                .iter()
                .position(|b| matches!(b, b'/' | b'?' | b'#'))
                .unwrap_or(rest.len());
            let host = Host::parse(rest.slice(..end))?;
            let path = match rest.get(end) {
                Some(b'/') => rest.slice(end..),
                Some(b'?') => [b"/", rest.get(end..).unwrap_or_default()].concat().into(),
                Some(_) => return Err(ErrorKind::BadTarget),
                None => Bytes::from_static(b"/"),
            };
            Ok((Target::parse(path, listener.encoded_slash)?, host))
        }
        None => Err(ErrorKind::BadTarget),
    }
}

/// Exactly one well-formed `Host`; HTTP/1.0 may go without.
fn named_host(fields: &Fields, version: Version) -> Result<Host, ErrorKind> {
    let mut hosts = fields.all(Known::Host);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Host::parse(share(fields, host)),
        (None, None) if version == Version::Http10 => Ok(Host::default()),
        _ => Err(ErrorKind::BadHost),
    }
}

/// The value as a slice of the head it stands in: no copy.
fn share(fields: &Fields, value: &[u8]) -> Bytes {
    fields.head().slice_ref(value)
}

#[cfg(test)]
mod tests;
