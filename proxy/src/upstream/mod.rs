//! Stage 8, upstream: one request to one endpoint, and the head of its response.
//!
//! [`send`] needs a [`Lease`], which only `balance::pick` gives.

pub mod announce;
pub mod connect;
pub mod dials;
mod habit;
pub mod http1;
pub mod http2;
mod http2_places;
mod http2_tunnel;
pub mod pool;
pub mod security;
pub mod setbacks;

use std::rc::Rc;

use crate::accept::Downstream;
use crate::balance::Lease;
use crate::balance::service::Speaks;
use crate::error::Error;
use crate::message::{Body, RequestHead, Response, ResponseHead};
use crate::protocol::tunnel::TunnelEnd;
use crate::worker::Worker;

pub use announce::Announce;
pub use dials::Dials;
pub use habit::Reuse;
pub use pool::Pools;
pub use security::Security;

/// What an endpoint answered.
#[derive(Debug)]
pub struct Answer {
    /// Head and body.
    pub response: Response,
    /// After a switch of protocols: the bytes behind it.
    pub tunnel: Option<TunnelEnd>,
    /// What is left of a request's body that was sent to its end: for another try, if all of it was kept.
    pub sent: Option<Body>,
}

/// A try that failed.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// The request body, as far as it can be sent again.
    pub body: Option<Body>,
}

/// Where interim responses (103 and its like) go as they arrive. 100 goes nowhere: it answers an
/// `Expect` that this proxy has answered itself.
pub trait Interim {
    /// Hands one on. May drop it.
    fn interim(&self, head: ResponseHead);
}

/// Sends a request of this client and waits for the head of the response. Over HTTP/1 it goes on an idle
/// connection as far as `reuse` lets it.
///
/// Dropping the future gives the request up: an HTTP/1 connection is closed, an HTTP/2 stream
/// reset.
///
/// # Errors
/// [`Failure`], with the body where it may be sent again.
pub async fn send(
    worker: &Rc<Worker>,
    lease: &Lease,
    head: &RequestHead,
    body: Body,
    interim: &dyn Interim,
    client: &Downstream,
    reuse: Reuse,
) -> Result<Answer, Failure> {
    match lease.speaks() {
        Speaks::Http1 => http1::send(worker, lease, head, body, interim, (client, reuse)).await,
        Speaks::Http2 => http2::send(worker, lease, head, body, interim).await,
    }
}

impl Failure {
    /// A failure before anything of the body was read.
    pub fn untouched(error: impl Into<Error>, body: Body) -> Self {
        Self {
            error: error.into(),
            body: Some(body),
        }
    }

    /// A failure after some of the body may have been read.
    pub fn after(error: impl Into<Error>, body: Body) -> Self {
        Self {
            error: error.into(),
            body: body.rewind(),
        }
    }
}
