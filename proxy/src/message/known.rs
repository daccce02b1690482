//! Field names the path itself cares about, told apart once, when a head is parsed.

/// A field name that some stage looks at; every other one is [`Known::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "each variant is the field of that name")]
pub enum Known {
    Other,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    KeepAlive,
    ProxyConnection,
    ProxyAuthenticate,
    ProxyAuthorization,
    Te,
    Trailer,
    Upgrade,
    Expect,
    Http2Settings,
    ContentType,
    Authorization,
    Cookie,
    SetCookie,
    Date,
    Server,
    Forwarded,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    XForwardedPort,
    XForwardedClientCert,
    XRealIp,
    XRequestId,
    XRequestTimeout,
    XSelvedgeAttempt,
    Traceparent,
    Tracestate,
    B3,
    XB3TraceId,
    XB3SpanId,
    XB3ParentSpanId,
    XB3Sampled,
    XB3Flags,
    GrpcTimeout,
    GrpcStatus,
    IdempotencyKey,
    RetryAfter,
    Accept,
    UserAgent,
    SecWebSocketKey,
    SecWebSocketAccept,
    AcceptEncoding,
    ContentEncoding,
    ETag,
    CacheControl,
    Vary,
    Age,
    Expires,
    LastModified,
    IfNoneMatch,
    IfModifiedSince,
    Range,
    Pragma,
}

/// Canonical spelling of each known name, for fields that the proxy writes itself.
const NAMES: [(&str, Known); 57] = [
    ("Host", Known::Host),
    ("Content-Length", Known::ContentLength),
    ("Transfer-Encoding", Known::TransferEncoding),
    ("Connection", Known::Connection),
    ("Keep-Alive", Known::KeepAlive),
    ("Proxy-Connection", Known::ProxyConnection),
    ("Proxy-Authenticate", Known::ProxyAuthenticate),
    ("Proxy-Authorization", Known::ProxyAuthorization),
    ("TE", Known::Te),
    ("Trailer", Known::Trailer),
    ("Upgrade", Known::Upgrade),
    ("Expect", Known::Expect),
    ("HTTP2-Settings", Known::Http2Settings),
    ("Content-Type", Known::ContentType),
    ("Authorization", Known::Authorization),
    ("Cookie", Known::Cookie),
    ("Set-Cookie", Known::SetCookie),
    ("Date", Known::Date),
    ("Server", Known::Server),
    ("Forwarded", Known::Forwarded),
    ("X-Forwarded-For", Known::XForwardedFor),
    ("X-Forwarded-Proto", Known::XForwardedProto),
    ("X-Forwarded-Host", Known::XForwardedHost),
    ("X-Forwarded-Port", Known::XForwardedPort),
    ("X-Forwarded-Client-Cert", Known::XForwardedClientCert),
    ("X-Real-IP", Known::XRealIp),
    ("X-Request-Id", Known::XRequestId),
    ("X-Request-Timeout", Known::XRequestTimeout),
    ("X-Selvedge-Attempt", Known::XSelvedgeAttempt),
    ("Traceparent", Known::Traceparent),
    ("Tracestate", Known::Tracestate),
    ("b3", Known::B3),
    ("X-B3-TraceId", Known::XB3TraceId),
    ("X-B3-SpanId", Known::XB3SpanId),
    ("X-B3-ParentSpanId", Known::XB3ParentSpanId),
    ("X-B3-Sampled", Known::XB3Sampled),
    ("X-B3-Flags", Known::XB3Flags),
    ("Grpc-Timeout", Known::GrpcTimeout),
    ("Grpc-Status", Known::GrpcStatus),
    ("Idempotency-Key", Known::IdempotencyKey),
    ("Retry-After", Known::RetryAfter),
    ("Accept", Known::Accept),
    ("User-Agent", Known::UserAgent),
    ("Sec-WebSocket-Key", Known::SecWebSocketKey),
    ("Sec-WebSocket-Accept", Known::SecWebSocketAccept),
    ("Accept-Encoding", Known::AcceptEncoding),
    ("Content-Encoding", Known::ContentEncoding),
    ("ETag", Known::ETag),
    ("Cache-Control", Known::CacheControl),
    ("Vary", Known::Vary),
    ("Age", Known::Age),
    ("Expires", Known::Expires),
    ("Last-Modified", Known::LastModified),
    ("If-None-Match", Known::IfNoneMatch),
    ("If-Modified-Since", Known::IfModifiedSince),
    ("Range", Known::Range),
    ("Pragma", Known::Pragma),
];

/// Longest known name in bytes.
const LONGEST: usize = 23;

/// For each length, which part of [`BY_LENGTH`] to look at.
const fn bucket_bounds() -> [(u8, u8); LONGEST + 1] {
    let mut bounds = [(0u8, 0u8); LONGEST + 1];
    let mut length = 0;
    let mut at = 0u8;
    while length <= LONGEST {
        let start = at;
        let mut i = 0;
        while i < NAMES.len() {
            if NAMES[i].0.len() == length {
                at += 1;
            }
            i += 1;
        }
        bounds[length] = (start, at);
        length += 1;
    }
    bounds
}

const fn sorted_by_length() -> [(&'static str, Known); NAMES.len()] {
    let mut sorted = NAMES;
    let mut at = 0;
    let mut length = 0;
    while length <= LONGEST {
        let mut i = 0;
        while i < NAMES.len() {
            if NAMES[i].0.len() == length {
                sorted[at] = NAMES[i];
                at += 1;
            }
            i += 1;
        }
        length += 1;
    }
    sorted
}

static BY_LENGTH: [(&str, Known); NAMES.len()] = sorted_by_length();
static BOUNDS: [(u8, u8); LONGEST + 1] = bucket_bounds();

impl Known {
    /// Tells a field name apart, in any case. Looks only at known names of the same length.
    #[must_use]
    pub fn classify(name: &[u8]) -> Self {
        let Some(&(from, to)) = BOUNDS.get(name.len()) else {
            return Self::Other;
        };
        for (candidate, known) in BY_LENGTH
            .get(usize::from(from)..usize::from(to))
            .unwrap_or_default()
        {
            if candidate.as_bytes().eq_ignore_ascii_case(name) {
                return *known;
            }
        }
        Self::Other
    }

    /// Canonical spelling; empty for [`Known::Other`].
    #[must_use]
    pub fn name(self) -> &'static str {
        let at = (self as usize).wrapping_sub(1);
        NAMES.get(at).map_or("", |(name, _)| name)
    }

    /// Fields that belong to one connection (RFC 9110 section 7.6.1) and never cross the proxy.
    #[must_use]
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::ProxyAuthenticate
                | Self::ProxyAuthorization
                | Self::Te
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Http2Settings
        )
    }

    /// Fields that a `Connection` option may not name: removing them would change what the
    /// request means or whom it comes from (CVE-2026-105299 in Pingora).
    #[must_use]
    pub const fn is_protected(self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::ContentLength
                | Self::ContentType
                | Self::Authorization
                | Self::Cookie
                | Self::Forwarded
                | Self::XForwardedFor
                | Self::XForwardedProto
                | Self::XForwardedHost
                | Self::XForwardedPort
                | Self::XForwardedClientCert
                | Self::XRealIp
                | Self::XRequestId
                | Self::Traceparent
                | Self::Tracestate
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case() {
        for (at, (name, known)) in NAMES.iter().enumerate() {
            assert_eq!(
                *known as usize,
                at + 1,
                "{name} stands in the order of the enum"
            );
            assert_eq!(Known::classify(name.as_bytes()), *known);
            assert_eq!(Known::classify(name.to_uppercase().as_bytes()), *known);
            assert_eq!(Known::classify(name.to_lowercase().as_bytes()), *known);
            assert_eq!(known.name(), *name);
            assert!(name.len() <= LONGEST);
        }
        assert_eq!(Known::classify(b""), Known::Other);
        assert_eq!(Known::classify(b"Hos"), Known::Other);
        assert_eq!(Known::classify(b"X-Forwarded-Client-Certs"), Known::Other);
        assert_eq!(Known::Other.name(), "");
    }
}
