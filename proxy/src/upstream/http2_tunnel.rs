//! Other protocols over an HTTP/2 upstream: extended CONNECT (RFC 8441).

use std::future::poll_fn;

use http::StatusCode;
use selvedge_contract::defaults::upstream::PENDING_WAIT;

use crate::error::{Error, ErrorKind};
use crate::message::{Body, Known, RequestHead, Response, ResponseHead};
use crate::protocol::http2::{Handle, SharedConn, Stream};
use crate::protocol::tunnel::TunnelEnd;
use crate::protocol::websocket;

use super::http2::{accept, cut_off};
use super::pool::Pool;
use super::{Answer, Failure};

/// Makes sure that the endpoint's settings have come, and allow extended CONNECT.
pub(super) async fn extended_connect(conn: &SharedConn, pool: &Pool) -> Result<(), Error> {
    let settings = async {
        loop {
            // Before the look: what is told between look and wait is not missed.
            let changed = pool.changed.notified();
            let peer = conn.borrow().peer;
            if peer.known {
                return peer.connect_protocol;
            }
            changed.await;
        }
    };
    let why = match tokio::time::timeout(PENDING_WAIT, settings).await {
        Ok(true) => return Ok(()),
        Ok(false) => "the endpoint does not allow extended CONNECT",
        Err(_) => "the endpoint sends no settings",
    };
    Err(Error::with(ErrorKind::BadResponse, why))
}

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
    })
}
