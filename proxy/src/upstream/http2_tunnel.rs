//! Other protocols over an HTTP/2 upstream: extended CONNECT (RFC 8441).

use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::StatusCode;

use crate::error::{Error, ErrorKind};
use crate::message::{Body, Fields, Known, RequestHead, Response, ResponseHead};
use crate::protocol::http2::Stream;
use crate::protocol::tunnel::TunnelEnd;
use crate::protocol::websocket;

use super::http2::{Active, Shared, accept, h2_error};
use super::{Answer, Failure};

/// Makes sure that the endpoint's settings have come, and allow extended CONNECT.
pub(super) async fn extended_connect(shared: &Rc<Shared>) -> Result<(), Error> {
    let enabled = || shared.send.is_extended_connect_protocol_enabled();
    if enabled() {
        return Ok(());
    }
    // Settings come before the answer to a PING. One ping at a time: others see its result.
    let taken = shared.ping.borrow_mut().take();
    if let Some(mut ping) = taken {
        let pong = ping.ping(h2::Ping::opaque()).await;
        shared.ping.replace(Some(ping));
        pong.map_err(h2_error)?;
    }
    if enabled() {
        return Ok(());
    }
    let why = "the endpoint does not allow extended CONNECT";
    Err(Error::with(ErrorKind::BadResponse, why))
}

/// Opens a tunnel (RFC 8441): what HTTP/2 answers with 200, HTTP/1.1 calls 101.
pub(super) async fn switch(
    head: &RequestHead,
    response: ResponseFuture,
    stream: SendStream<Bytes>,
    active: Active,
) -> Result<Answer, Failure> {
    let received = response
        .await
        .map_err(|error| Failure::untouched(h2_error(error), Body::Empty))?;
    if !received.status().is_success() {
        return Ok(accept(received, None, active));
    }
    let (parts, recv) = received.into_parts();
    let mut fields = Fields::from_map(&parts.headers);
    let protocol = head.upgrade.clone().unwrap_or_default();
    fields.set_known(Known::Upgrade, &protocol);
    if let Some(key) = head.fields.known(Known::SecWebSocketKey) {
        fields.set_known(
            Known::SecWebSocketAccept,
            websocket::accept_for(key).as_bytes(),
        );
    }
    let guard: Box<dyn fmt::Debug> = Box::new(active);
    Ok(Answer {
        response: Response {
            head: ResponseHead {
                status: StatusCode::SWITCHING_PROTOCOLS,
                fields,
            },
            body: Body::Empty,
        },
        tunnel: Some(TunnelEnd::Http2(Stream::new(recv, stream, Some(guard)))),
    })
}
