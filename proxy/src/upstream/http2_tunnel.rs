//! Other protocols over an HTTP/2 upstream: extended CONNECT (RFC 8441).

use std::future::poll_fn;

use http::StatusCode;

use crate::message::{Body, Known, RequestHead, Response, ResponseHead};
use crate::protocol::http2::{Handle, Stream};
use crate::protocol::tunnel::TunnelEnd;
use crate::protocol::websocket;

use super::http2::{accept, cut_off};
use super::{Answer, Failure};

/// Opens a tunnel (RFC 8441): what HTTP/2 answers with 200, HTTP/1.1 calls 101.
pub(super) async fn switch(head: &RequestHead, handle: Handle) -> Result<Answer, Failure> {
    let received = loop {
        match poll_fn(|cx| handle.poll_head(cx)).await {
            Ok(interim) if interim.status.is_informational() => {}
            Ok(head) => break head,
            Err(cut) => return Err(Failure::untouched(cut_off(&handle, cut), Body::Empty)),
        }
    };
    if !received.status.is_success() {
        return Ok(accept(received, None, handle));
    }
    let mut fields = received.fields;
    let protocol = head.upgrade.clone().unwrap_or_default();
    fields.set_known(Known::Upgrade, &protocol);
    if let Some(key) = head.fields.known(Known::SecWebSocketKey) {
        fields.set_known(
            Known::SecWebSocketAccept,
            websocket::accept_for(key).as_bytes(),
        );
    }
    Ok(Answer {
        response: Response {
            head: ResponseHead {
                status: StatusCode::SWITCHING_PROTOCOLS,
                fields,
            },
            body: Body::Empty,
        },
        tunnel: Some(TunnelEnd::Http2(Stream::new(handle))),
        sent: None,
    })
}
