//! What the stages hand each other: one request, one response, whatever protocol they came in.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::string_slice))]

pub mod body;
pub mod fields;
pub mod hash;
pub mod known;
mod reserve;
pub mod target;
pub mod through;
pub mod watched;

use bytes::Bytes;
use http::{Method, StatusCode};

pub use body::{Body, BodyLength, Chunk, read_all, read_whole};
pub use fields::{Field, Fields};
pub use known::Known;
pub use reserve::Reserve;
pub use target::{Host, Target};

/// The protocol version a message came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: no chunked bodies, no persistent connection unless asked for.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Version {
    /// Name in logs and spans.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// A request head, parsed and checked: nothing behind this type looks at its syntax again.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// Method.
    pub method: Method,
    /// Path in its normal form, and the query.
    pub target: Target,
    /// Host that the request is for, lower case; empty only in HTTP/1.0.
    pub host: Host,
    /// Version it came in.
    pub version: Version,
    /// Fields, without `Host`: that is written anew from `host`.
    pub fields: Fields,
    /// The protocol an upgrade asks for (`Upgrade` of HTTP/1.1, `:protocol` of HTTP/2).
    pub upgrade: Option<Bytes>,
}

impl RequestHead {
    /// Whether it is a call of gRPC, whose caller reads the status of its trailers.
    #[must_use]
    pub fn is_grpc(&self) -> bool {
        let content = self.fields.known(Known::ContentType);
        content.is_some_and(|content| content.starts_with(b"application/grpc"))
    }
}

impl ResponseHead {
    /// Whether it may be the failure of somebody behind whoever gave it.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        let grpc = || self.fields.known(Known::GrpcStatus);
        self.status.is_server_error() || grpc().is_some_and(|status| status != b"0")
    }
}

/// A request: head and body.
#[derive(Debug)]
pub struct Request {
    /// The head.
    pub head: RequestHead,
    /// The body, not yet read.
    pub body: Body,
}

/// A response head.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status.
    pub status: StatusCode,
    /// Fields.
    pub fields: Fields,
}

/// A response: head and body.
#[derive(Debug)]
pub struct Response {
    /// The head.
    pub head: ResponseHead,
    /// The body, not yet read.
    pub body: Body,
}
