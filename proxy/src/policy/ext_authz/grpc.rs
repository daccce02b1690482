//! Part of stage 6, policy: the question whether a request may pass as a call of Envoy's
//! `envoy.service.auth.v3.Authorization/Check`, and what its answer means.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, StatusCode};
use selvedge_contract::authz::attribute_context::{HttpRequest, Peer, Request};
use selvedge_contract::authz::check_response::HttpResponse;
use selvedge_contract::authz::header_value_option::HeaderAppendAction;
use selvedge_contract::authz::{
    Address, AttributeContext, CHECK, CheckRequest, CheckResponse, DeniedHttpResponse,
    HeaderValueOption, Message, OkHttpResponse, SocketAddress, Timestamp,
};
use selvedge_contract::defaults::policy as defaults;

use crate::error::ErrorKind;
use crate::message::target::EncodedSlash;
use crate::message::{BodyLength, Fields, Host, Known, RequestHead, Target, Version};
use crate::protocol::http1::parse::{is_token, is_value};

use super::super::forwarded::asserted_by_client;
use super::super::guard::Seen;
use super::{Action, Change, Verdict};

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Longest message with what goes before it.
pub const ANSWER: usize = PREFIX + defaults::VERDICT_BYTES;

/// What each call of a policy has in common.
#[derive(Debug)]
pub struct Grpc {
    /// The service, as it is called.
    pub host: Host,
    /// `context_extensions`.
    pub context: BTreeMap<String, String>,
}

/// A call.
pub(super) struct Asked {
    pub(super) head: RequestHead,
    pub(super) body: Bytes,
    /// Beside the head that is told of: what tells two questions apart.
    pub(super) tells_apart: [Box<[u8]>; 6],
}

impl Grpc {
    /// The call that asks about a request, of which this head may be told.
    pub(super) fn ask(&self, seen: &mut Seen<'_>, told: &RequestHead) -> Result<Asked, ErrorKind> {
        let downstream = seen.downstream;
        // Behind trusted proxies the client's port is not known.
        let source = match seen.address() {
            address if address == downstream.peer.ip().to_canonical() => {
                SocketAddr::new(address, downstream.peer.port())
            }
            address => SocketAddr::new(address, 0),
        };
        let principal = downstream.peer_id().unwrap_or_default();
        let http = attributes(seen, told);
        let tells_apart = [
            source.ip().to_string().into_bytes().into(),
            principal.as_bytes().into(),
            downstream.local.to_string().into_bytes().into(),
            http.scheme.as_bytes().into(),
            http.protocol.as_bytes().into(),
            http.size.to_be_bytes().into(),
        ];
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let question = CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(Peer {
                    address: Some(address(source)),
                    principal: principal.to_owned(),
                }),
                destination: Some(Peer {
                    address: Some(address(downstream.local)),
                    principal: String::new(),
                }),
                request: Some(Request {
                    time: Some(Timestamp {
                        seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
                        nanos: i32::try_from(now.subsec_nanos()).unwrap_or_default(),
                    }),
                    http: Some(http),
                }),
                context_extensions: self.context.clone(),
            }),
        };
        Ok(Asked {
            head: self.head(told)?,
            body: framed(&question),
            tells_apart,
        })
    }

    fn head(&self, told: &RequestHead) -> Result<RequestHead, ErrorKind> {
        let mut fields = Fields::new();
        fields.append_known(Known::ContentType, b"application/grpc");
        fields.append_known(Known::Te, b"trailers");
        fields.append_known(Known::UserAgent, b"selvedge");
        for known in [Known::XRequestId, Known::Traceparent, Known::Tracestate] {
            for value in told.fields.all(known) {
                fields.append_known(known, value);
            }
        }
        Ok(RequestHead {
            method: Method::POST,
            target: Target::parse(Bytes::from_static(CHECK.as_bytes()), EncodedSlash::Keep)?,
            host: self.host.clone(),
            version: Version::Http2,
            fields,
            upgrade: None,
        })
    }
}

fn attributes(seen: &Seen<'_>, told: &RequestHead) -> HttpRequest {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for field in told.fields.iter() {
        let name = text(&field.name.to_ascii_lowercase());
        let value = text(field.value);
        let joint = if field.known == Known::Cookie {
            "; "
        } else {
            ","
        };
        match headers.entry(name) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(value);
            }
            std::collections::btree_map::Entry::Occupied(mut there) => {
                there.get_mut().push_str(joint);
                there.get_mut().push_str(&value);
            }
        }
    }
    let size = match seen.body {
        BodyLength::Exact(length) => i64::try_from(length).unwrap_or(i64::MAX),
        // Envoy's sign for a length that is not told.
        BodyLength::Unknown => -1,
    };
    let id = told.fields.known(Known::XRequestId).unwrap_or_default();
    let path = text(told.target.text());
    for (name, value) in [
        (":method", told.method.as_str()),
        (":path", &path),
        (":authority", told.host.as_str()),
        (":scheme", seen.downstream.scheme()),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    HttpRequest {
        id: text(id),
        method: told.method.as_str().to_owned(),
        headers,
        path,
        host: told.host.as_str().to_owned(),
        scheme: seen.downstream.scheme().to_owned(),
        size,
        protocol: told.version.as_str().to_owned(),
    }
}

fn address(of: SocketAddr) -> Address {
    Address {
        socket_address: Some(SocketAddress {
            address: of.ip().to_canonical().to_string(),
            port_value: u32::from(of.port()),
        }),
    }
}

fn framed(message: &CheckRequest) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // Its buffer grows: there is nothing that could fail.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// What an answer means.
///
/// # Errors
/// What is wrong with it: then it says nothing.
pub fn read(
    status: StatusCode,
    fields: &Fields,
    body: &[u8],
    trailers: Option<&Fields>,
) -> Result<Verdict, &'static str> {
    if status != StatusCode::OK {
        return Err("it answered with another status than 200");
    }
    let content = fields.known(Known::ContentType).unwrap_or_default();
    if !content.starts_with(b"application/grpc") {
        return Err("it does not speak gRPC");
    }
    // A call that fails at once tells so in its head.
    let ended = fields.known(Known::GrpcStatus);
    let ended = ended.or_else(|| trailers.and_then(|t| t.known(Known::GrpcStatus)));
    match ended {
        Some(b"0") => {}
        Some(_) => return Err("the call failed"),
        None => return Err("the call has no end"),
    }
    let message = match body.split_at_checked(PREFIX) {
        Some(([0, length @ ..], message)) => {
            let length = <[u8; 4]>::try_from(length).map(u32::from_be_bytes);
            let whole = length.is_ok_and(|length| length as usize == message.len());
            whole.then_some(message).ok_or("it is not one message")?
        }
        Some(_) => return Err("it is compressed"),
        None => return Err("it has no message"),
    };
    let answer = CheckResponse::decode(message).map_err(|_| "its message cannot be read")?;
    verdict(answer)
}

fn verdict(answer: CheckResponse) -> Result<Verdict, &'static str> {
    let passes = answer.status.map(|status| status.code == 0);
    match (passes, answer.http_response) {
        // What says nothing, or says both, must not open a door.
        (None, None) => Err("its message says nothing"),
        (None | Some(true), Some(HttpResponse::OkResponse(ok))) => allowed(ok),
        (Some(true), None) => Ok(Verdict::Allowed(Vec::new(), Vec::new(), false)),
        (_, Some(HttpResponse::DeniedResponse(denied))) => Ok(refused(denied)),
        (Some(false), _) => Ok(refused(DeniedHttpResponse::default())),
    }
}

fn allowed(ok: OkHttpResponse) -> Result<Verdict, &'static str> {
    let lists = [&ok.headers, &ok.response_headers_to_add];
    let longest = lists.iter().map(|list| list.len()).max().unwrap_or(0);
    if longest.max(ok.headers_to_remove.len()) > defaults::VERDICT_FIELDS {
        return Err("it changes too many headers");
    }
    let mut request = Vec::new();
    for option in ok.headers {
        request.extend(change(option, Action::Set)?.filter(|c| may_change(&c.name)));
    }
    for name in ok.headers_to_remove {
        if is_token(name.as_bytes()) && may_change(&name) {
            request.push(Change {
                action: Action::Remove,
                name,
                value: Box::default(),
            });
        }
    }
    let mut response = Vec::new();
    for option in ok.response_headers_to_add {
        response.extend(change(option, Action::Append)?.filter(|c| may_tell(&c.name)));
    }
    Ok(Verdict::Allowed(request, response, false))
}

fn refused(denied: DeniedHttpResponse) -> Verdict {
    let status = denied.status.map_or(0, |status| status.code);
    let status = u16::try_from(status).ok();
    let status = status
        .filter(|code| (200..600).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .unwrap_or(StatusCode::FORBIDDEN);
    let mut told = Fields::new();
    for option in denied.headers.into_iter().take(defaults::VERDICT_FIELDS) {
        // A header that cannot be sent makes a refusal no weaker.
        if let Ok(Some(change)) = change(option, Action::Set)
            && may_tell(&change.name)
        {
            change.apply(&mut told);
        }
    }
    let silent = matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    );
    let body = if silent {
        Bytes::new()
    } else {
        Bytes::from(denied.body)
    };
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        let mut digits = itoa::Buffer::new();
        told.append_known(Known::ContentLength, digits.format(body.len()).as_bytes());
    }
    Verdict::Denied(status, told, body)
}

/// A header of an answer; none where its name is none of a field (a pseudo-header).
fn change(option: HeaderValueOption, unsaid: Action) -> Result<Option<Change>, &'static str> {
    let action = match (option.append, option.append_action()) {
        (Some(true), _) => Action::Append,
        (Some(false), _) => Action::Set,
        // Absent and its first value look the same: Envoy's default for this list.
        (None, HeaderAppendAction::AppendIfExistsOrAdd) => unsaid,
        (None, HeaderAppendAction::AddIfAbsent) => Action::AddIfAbsent,
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => Action::Set,
        (None, HeaderAppendAction::OverwriteIfExists) => Action::SetIfThere,
    };
    let header = option.header.ok_or("a header without a name")?;
    if header.key.starts_with(':') {
        return Ok(None);
    }
    let value = if header.raw_value.is_empty() {
        header.value.into_bytes()
    } else {
        header.raw_value
    };
    let value = value.trim_ascii();
    if !is_token(header.key.as_bytes()) || !is_value(value) {
        return Err("a header that cannot be sent");
    }
    Ok(Some(Change {
        action,
        value: value.into(),
        name: header.key,
    }))
}

/// Framing and host stay the request's, and what this proxy says of a client's address and identity
/// is said by nobody else.
fn may_change(name: &str) -> bool {
    may_tell(name)
        && !asserted_by_client(Known::classify(name.replace('_', "-").as_bytes()))
        && !name.eq_ignore_ascii_case("expect")
}

fn may_tell(name: &str) -> bool {
    let known = Known::classify(name.as_bytes());
    !known.is_hop_by_hop() && !matches!(known, Known::ContentLength | Known::Host)
}

#[cfg(test)]
mod tests;
