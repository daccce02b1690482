//! `limits`: what clients may send how much of, how often and how slowly.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Duration, Size};

/// Limits and timeouts towards downstream. What is not set has the default of the role.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// Bytes of a request head. Default: 32KiB (gateway), 60KiB (sidecar). Over it: 431.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_block: Option<Size>,
    /// Fields of a request head. Default: 100. Over it: 431.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_count: Option<u32>,
    /// Bytes of the request target. Default: 8KiB, 16KiB. Over it: 414.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<Size>,
    /// Bytes of a request body, 0 = no bound. Default: 10MiB, none. Over it: 413.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Size>,
    /// Bytes of chunk extensions in one request body; they go no further. Default: 4KiB. Over it: 400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_extension: Option<Size>,
    /// Bytes of the trailers of a request. Default: 8KiB. Over it: 400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trailer_block: Option<Size>,
    /// Fields of the trailers of a request. Default: 32. Over it: 400.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trailer_count: Option<u32>,
    /// TLS handshake. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake: Option<Duration>,
    /// First to last byte of a head. Default: 10s, 30s. Over it: 408.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_read: Option<Duration>,
    /// Silence inside a body or stream; of both ends, once the response has begun. Default: 30s, 300s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_idle: Option<Duration>,
    /// Bytes a second of a request body, after ten seconds of waiting for it and until the response
    /// begins; 0 = no floor. Messages of gRPC may come as they like. Default: 256, none. Under it: 408.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_rate: Option<Size>,
    /// Silence between requests. Default: 60s, 600s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downstream_idle: Option<Duration>,
    /// Requests of one connection. Default: 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_connection: Option<u32>,
    /// Age of one connection. Default: 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_age: Option<Duration>,
    /// Concurrent HTTP/2 streams of a connection. Default: 100, 250.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    /// Bytes that one HTTP/2 stream may have us hold. Default: 64KiB, 256KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_window: Option<Size>,
    /// Bytes that all streams of an HTTP/2 connection may have us hold. Default: 1MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_window: Option<Size>,
    /// How often an HTTP/2 client may send what costs us more than it; over one of these its connection
    /// ends with GOAWAY (ENHANCE_YOUR_CALM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2: Option<Http2Rates>,
    /// Bytes held for a connection in each direction. Default: 64KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer: Option<Size>,
    /// Bytes of memory that the process may have, beside the limit of its control group: at 80 % of
    /// either connections end once they are idle, at 90 % requests are answered with 503 and clients
    /// that do not read are cut off, at 95 % connections are closed at once. 0 = no bound at all. Default: that of the control group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Connections of a listener. Default: 10000, and never more than 80 % of the descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Connections of one address, 0 = no bound. Default: 1000, none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_address: Option<u32>,
    /// From the head of a request to the head of its response, all retries included; 0s = off.
    /// Default: 15s, off. Over it: 504. Bodies and streams are bounded by `streamIdle` instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
}

/// Frames of one HTTP/2 connection; "in ten seconds" starts over every ten seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Http2Rates {
    /// CONTINUATION frames of one header block. Default: 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub continuations: Option<u32>,
    /// Streams that the client resets in ten seconds. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_resets: Option<u32>,
    /// Streams that we reset for errors of the client. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provoked_resets: Option<u32>,
    /// Streams refused as more than `streams` were open. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_streams: Option<u32>,
    /// PING, SETTINGS and GOAWAY in ten seconds, besides one for each DATA frame sent. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_frames: Option<u32>,
    /// Empty DATA or HEADERS that do not end a stream, in ten seconds. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_frames: Option<u32>,
    /// DATA of less than five bytes that does not end a stream, in ten seconds. Default: 20000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trickle_frames: Option<u32>,
    /// Frames of unknown type in ten seconds. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_frames: Option<u32>,
}
