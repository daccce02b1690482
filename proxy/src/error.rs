//! What can go wrong with a request: kind, side, and whether another try is safe.
//!
//! Each kind has one row in [`ErrorKind::row`]: the status a client sees, the `Proxy-Status` error
//! token (RFC 9209), the gRPC status, the end code of the access log, and the text of the answer.
//! The match is exhaustive on purpose: a new kind does not compile without its row.

use std::error::Error as StdError;
use std::fmt;

use http::StatusCode;

/// Who caused an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Downstream,
    /// The endpoint, or the way to it.
    Upstream,
    /// This proxy: configuration, limits, policy.
    Local,
}

/// Whether the request may be sent again without the risk that it is carried out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Provably not processed: any method.
    Safe,
    /// Perhaps processed: only what is idempotent.
    Idempotent,
    /// No.
    Never,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The head is not HTTP.
    BadRequest,
    /// Path, query or form of the target.
    BadTarget,
    /// `Host` missing, repeated or ill-formed.
    BadHost,
    /// `Content-Length` and `Transfer-Encoding` contradict each other or themselves.
    BadFraming,
    /// A transfer coding other than `chunked`.
    UnknownCoding,
    /// A chunk, trailer or body length that is not well formed.
    BadBody,
    /// A version other than 1.0, 1.1 and 2.
    UnsupportedVersion,
    /// Target longer than the limit.
    TargetTooLong,
    /// Head larger than the limit, or too many fields.
    HeadTooLarge,
    /// Body larger than the limit.
    BodyTooLarge,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    /// `CONNECT`, or `TRACE`, which this proxy does not serve.
    MethodNotAllowed,
    /// The head took too long.
    HeadTimeout,
    /// The body stalled.
    BodyTimeout,
    /// The client went away.
    ClientGone,
    /// The client does not read.
    ClientStalled,
    /// The name of the request is not served on this connection.
    Misdirected,
    /// The connection was going to this proxy, or comes from it.
    Loop,
    /// No route matches.
    NoRoute,
    /// The application may call services of the mesh only, and this is none.
    Egress,
    /// Refused by policy.
    Denied,
    /// More requests than a rate limit lets through.
    RateLimited,
    /// More requests of one client at a time than it may have.
    TooManyAtOnce,
    /// What was asked for has ended, by the policy's day.
    Gone,
    /// Nothing proves who calls, or not what was asked for.
    Unauthenticated,
    /// Nothing can prove who calls: the issuer's keys have never come.
    NoKeys,
    /// The issuer cannot be reached, or does not answer in time.
    IssuerLost,
    /// The issuer's answer is of no use.
    IssuerFailed,
    /// The issuer has turned the user away.
    LoginRefused,
    /// A login that comes back from the issuer without having begun here, too late, or twice.
    LoginUnknown,
    /// The store that counts for a rate limit is lost, and nothing may pass without it.
    NoCount,
    /// Who decides whether a request may pass could not be asked.
    NoVerdict,
    /// Refused by the service that decides.
    Refused,
    /// A failure on purpose.
    Fault,
    /// The route has no backend with a weight.
    NoBackend,
    /// The service has no endpoint.
    NoEndpoint,
    /// The service of the cluster is only a name for something outside.
    ExternalService,
    /// The circuit breaker is open.
    BreakerOpen,
    /// Too many requests at once to this service.
    TooManyRequests,
    /// The service is asked for as much as it can do, and what matters more goes first.
    Shed,
    /// Too many requests wait for a connection.
    TooManyPending,
    /// No connection became free in time.
    PendingTimeout,
    /// The endpoint refused the connection, or is unreachable.
    ConnectFailed,
    /// The connection took too long.
    ConnectTimeout,
    /// The TLS handshake failed, or the certificate is not valid.
    UpstreamTls,
    /// The endpoint is not who it should be.
    UpstreamIdentity,
    /// This proxy has no certificate of its own yet.
    NoIdentity,
    /// A pooled connection closed before a byte of the response.
    UpstreamStale,
    /// The endpoint said that it did not process the request (REFUSED_STREAM, GOAWAY).
    UpstreamRefused,
    /// The connection broke before the response was complete.
    UpstreamReset,
    /// The response is not HTTP.
    BadResponse,
    /// The response head did not come in time.
    UpstreamTimeout,
    /// The request as a whole took too long.
    RequestTimeout,
    /// The response body stalled.
    UpstreamStalled,
    /// What a policy makes of a request cannot be made of this one.
    BadInput,
    /// What a policy was to change could not be changed.
    BadTransform,
    /// A call that the answer cannot do without has failed.
    PartFailed,
    /// The proxy is at a limit of its own (memory, connections).
    Overloaded,
    /// The drain ended before the request did.
    Draining,
    /// The peer was not trusted any more before the connection ended.
    Distrusted,
    /// Nothing has passed on a connection without requests for too long.
    Silent,
}

/// A kind's row in the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Who caused it.
    pub side: Side,
    /// Status the client gets, where one can still be sent.
    pub status: u16,
    /// `grpc-status` for a gRPC request.
    pub grpc: u8,
    /// Error token of `Proxy-Status` (RFC 9209 section 2.3).
    pub token: &'static str,
    /// End code of the access log (docs/access-log.md).
    pub end: &'static str,
    /// Whether another try is safe.
    pub retry: Retry,
    /// What the client is told.
    pub text: &'static str,
}

const fn row(
    side: Side,
    status: u16,
    grpc: u8,
    token: &'static str,
    end: &'static str,
    retry: Retry,
    text: &'static str,
) -> Row {
    Row {
        side,
        status,
        grpc,
        token,
        end,
        retry,
        text,
    }
}

impl ErrorKind {
    /// A response that has begun and does not go on: whose fault that is.
    #[must_use]
    pub const fn stalled(waits_for_body: bool) -> Self {
        match waits_for_body {
            true => Self::UpstreamStalled,
            false => Self::ClientStalled,
        }
    }

    /// Every kind, for metrics and documentation.
    pub const ALL: [Self; 61] = [
        Self::BadRequest,
        Self::BadTarget,
        Self::BadHost,
        Self::BadFraming,
        Self::UnknownCoding,
        Self::BadBody,
        Self::UnsupportedVersion,
        Self::TargetTooLong,
        Self::HeadTooLarge,
        Self::BodyTooLarge,
        Self::ExpectationFailed,
        Self::MethodNotAllowed,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::ClientGone,
        Self::ClientStalled,
        Self::Misdirected,
        Self::Loop,
        Self::NoRoute,
        Self::Egress,
        Self::Denied,
        Self::RateLimited,
        Self::TooManyAtOnce,
        Self::Gone,
        Self::Unauthenticated,
        Self::NoKeys,
        Self::IssuerLost,
        Self::IssuerFailed,
        Self::LoginRefused,
        Self::LoginUnknown,
        Self::NoCount,
        Self::NoVerdict,
        Self::Refused,
        Self::Fault,
        Self::NoBackend,
        Self::NoEndpoint,
        Self::ExternalService,
        Self::BreakerOpen,
        Self::TooManyRequests,
        Self::Shed,
        Self::TooManyPending,
        Self::PendingTimeout,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::UpstreamTls,
        Self::UpstreamIdentity,
        Self::NoIdentity,
        Self::UpstreamStale,
        Self::UpstreamRefused,
        Self::UpstreamReset,
        Self::BadResponse,
        Self::UpstreamTimeout,
        Self::RequestTimeout,
        Self::UpstreamStalled,
        Self::BadInput,
        Self::BadTransform,
        Self::PartFailed,
        Self::Overloaded,
        Self::Draining,
        Self::Distrusted,
        Self::Silent,
    ];

    /// The table. gRPC codes follow gRPC's own mapping from HTTP statuses.
    #[must_use]
    #[rustfmt::skip]
    pub const fn row(self) -> Row {
        use Retry::{Idempotent, Never, Safe};
        use Side::{Downstream, Local, Upstream};
        match self {
            Self::BadRequest => row(Downstream, 400, 13, "http_request_error", "DP", Never, "the request is not well-formed HTTP"),
            Self::BadTarget => row(Downstream, 400, 13, "http_request_error", "DT", Never, "the request target is not acceptable"),
            Self::BadHost => row(Downstream, 400, 13, "http_request_error", "DH", Never, "the Host field is missing or not well formed"),
            Self::BadFraming => row(Downstream, 400, 13, "http_request_error", "DF", Never, "the length of the body is ambiguous"),
            Self::UnknownCoding => row(Downstream, 501, 12, "http_request_error", "DF", Never, "the transfer coding is not supported"),
            Self::BadBody => row(Downstream, 400, 13, "http_request_error", "DB", Never, "the request body is not well formed"),
            Self::UnsupportedVersion => row(Downstream, 505, 12, "http_request_error", "DP", Never, "the HTTP version is not supported"),
            Self::TargetTooLong => row(Downstream, 414, 13, "http_request_error", "DL", Never, "the request target is too long"),
            Self::HeadTooLarge => row(Downstream, 431, 13, "http_request_error", "DL", Never, "the request head is too large"),
            Self::BodyTooLarge => row(Downstream, 413, 8, "http_request_error", "DL", Never, "the request body is too large"),
            Self::ExpectationFailed => row(Downstream, 417, 13, "http_request_error", "DP", Never, "the expectation is not supported"),
            Self::MethodNotAllowed => row(Downstream, 405, 12, "http_request_error", "DM", Never, "the method is not served here"),
            Self::HeadTimeout => row(Downstream, 408, 4, "http_request_error", "Dt", Never, "the request head took too long"),
            Self::BodyTimeout => row(Downstream, 408, 4, "http_request_error", "Db", Never, "the request body stalled"),
            Self::ClientGone => row(Downstream, 499, 1, "connection_terminated", "DC", Never, "the client went away"),
            Self::ClientStalled => row(Downstream, 408, 4, "connection_write_timeout", "DS", Never, "the client does not read"),
            Self::Misdirected => row(Downstream, 421, 12, "http_request_error", "DX", Never, "this host is not served on this connection"),
            Self::Loop => row(Downstream, 508, 13, "proxy_loop_detected", "DO", Never, "the connection was going to this proxy itself, or comes from it"),
            Self::NoRoute => row(Local, 404, 12, "destination_not_found", "NR", Never, "no route matches"),
            Self::Egress => row(Local, 403, 7, "http_request_denied", "RE", Never, "no service of the mesh, and nothing else may be called"),
            Self::Denied => row(Local, 403, 7, "http_request_denied", "RD", Never, "refused by policy"),
            Self::RateLimited => row(Local, 429, 8, "http_request_denied", "RL", Never, "too many requests, wait as long as Retry-After says"),
            Self::TooManyAtOnce => row(Local, 429, 8, "http_request_denied", "RC", Never, "too many requests at a time, wait for an answer before the next"),
            Self::Gone => row(Local, 410, 5, "http_request_denied", "RG", Never, "this version has ended"),
            Self::Unauthenticated => row(Local, 401, 16, "http_request_denied", "RA", Never, "who calls is not proven"),
            Self::NoKeys => row(Local, 503, 14, "http_request_denied", "RK", Never, "the issuer's keys are not known yet"),
            Self::IssuerLost => row(Local, 503, 14, "http_request_denied", "RI", Never, "the issuer that knows who calls cannot be reached, try again later"),
            Self::IssuerFailed => row(Local, 502, 14, "http_request_denied", "RJ", Never, "the issuer that knows who calls gave no answer that is of use"),
            Self::LoginRefused => row(Local, 403, 7, "http_request_denied", "RO", Never, "the login was refused"),
            Self::LoginUnknown => row(Local, 400, 13, "http_request_denied", "RU", Never, "this login has ended or did not begin in this browser, go back to the page that you want to see"),
            Self::NoCount => row(Local, 503, 14, "http_request_denied", "RS", Never, "the rate limit cannot be counted"),
            Self::NoVerdict => row(Local, 503, 14, "http_request_denied", "RV", Never, "who decides could not be asked"),
            Self::Refused => row(Local, 403, 7, "http_request_denied", "RE", Never, "refused by the service that decides"),
            Self::Fault => row(Local, 503, 14, "http_request_denied", "FI", Never, "a failure on purpose"),
            Self::NoBackend => row(Local, 500, 13, "destination_unavailable", "NB", Never, "the route has no backend"),
            Self::NoEndpoint => row(Local, 503, 14, "destination_unavailable", "NE", Never, "the service has no endpoint"),
            Self::ExternalService => row(Local, 502, 14, "destination_unavailable", "NX", Never, "the service is an ExternalName, which is not followed: call the name itself"),
            Self::BreakerOpen => row(Local, 503, 14, "destination_unavailable", "BO", Never, "the circuit breaker is open"),
            Self::TooManyRequests => row(Local, 503, 14, "connection_limit_reached", "BR", Never, "too many requests to this service at once"),
            Self::Shed => row(Local, 503, 14, "connection_limit_reached", "BS", Never, "the service is busy, and takes no more of this class of requests now"),
            Self::TooManyPending => row(Local, 503, 14, "connection_limit_reached", "BP", Never, "too many requests wait for a connection"),
            Self::PendingTimeout => row(Local, 503, 14, "connection_limit_reached", "BW", Never, "no connection became free in time"),
            Self::ConnectFailed => row(Upstream, 503, 14, "connection_refused", "UF", Safe, "no connection to the endpoint"),
            Self::ConnectTimeout => row(Upstream, 503, 14, "connection_timeout", "UO", Safe, "the connection to the endpoint took too long"),
            Self::UpstreamTls => row(Upstream, 503, 14, "tls_protocol_error", "US", Safe, "no TLS session with the endpoint"),
            Self::UpstreamIdentity => row(Upstream, 503, 14, "tls_certificate_error", "UI", Safe, "the endpoint has another identity than expected"),
            Self::NoIdentity => row(Local, 503, 14, "proxy_internal_error", "NI", Safe, "this proxy has no certificate yet"),
            Self::UpstreamStale => row(Upstream, 503, 14, "connection_terminated", "UK", Idempotent, "the endpoint closed the connection"),
            Self::UpstreamRefused => row(Upstream, 503, 14, "connection_terminated", "UR", Safe, "the endpoint refused the request"),
            Self::UpstreamReset => row(Upstream, 502, 14, "http_response_incomplete", "UC", Idempotent, "the endpoint broke off"),
            Self::BadResponse => row(Upstream, 502, 13, "http_protocol_error", "UP", Never, "the response is not well-formed HTTP"),
            Self::UpstreamTimeout => row(Upstream, 504, 4, "http_response_timeout", "UT", Never, "the endpoint did not answer in time"),
            Self::RequestTimeout => row(Local, 504, 4, "http_response_timeout", "RT", Never, "the request took too long"),
            Self::UpstreamStalled => row(Upstream, 504, 4, "connection_read_timeout", "Ub", Never, "the response body stalled"),
            Self::BadInput => row(Downstream, 400, 13, "http_request_error", "DI", Never, "what this request is to be changed by is missing in it, or of another kind"),
            Self::BadTransform => row(Local, 502, 13, "http_protocol_error", "RX", Never, "what was to be changed could not be"),
            Self::PartFailed => row(Upstream, 502, 14, "http_response_incomplete", "UA", Never, "a part of the answer failed"),
            Self::Overloaded => row(Local, 503, 14, "proxy_internal_error", "LO", Never, "this proxy is at its limit"),
            Self::Draining => row(Local, 503, 14, "proxy_internal_error", "LD", Never, "this proxy is shutting down"),
            Self::Distrusted => row(Local, 503, 14, "connection_terminated", "LT", Never, "the peer is not trusted any more"),
            Self::Silent => row(Local, 504, 4, "connection_read_timeout", "LI", Never, "nothing has passed for too long"),
        }
    }

    /// Status for the client.
    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Who caused it.
    #[must_use]
    pub const fn side(self) -> Side {
        self.row().side
    }

    /// Whether another try is safe.
    #[must_use]
    pub const fn retry(self) -> Retry {
        self.row().retry
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().text)
    }
}

/// A kind with what lies behind it.
#[derive(Debug)]
pub struct Error {
    /// What went wrong.
    pub kind: ErrorKind,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A kind with its cause.
    pub fn with(kind: ErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            kind,
            source: Some(source.into()),
        }
    }

    /// The cause, as text for a log line.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        self.source.as_ref().map(ToString::to_string)
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.kind),
            None => self.kind.fmt(f),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_each_kind_once_in_order() {
        for (at, kind) in ErrorKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, at);
            assert_eq!(kind.row().end.len(), 2);
            assert!(kind.status().is_client_error() || kind.status().is_server_error());
        }
    }
}
