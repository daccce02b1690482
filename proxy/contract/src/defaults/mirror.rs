//! Answers of mirrors that are compared with those that clients get: what is held for that, and what is told.

use std::time::Duration;

/// Bytes of a body that is compared: so many are kept of a request that is copied, too.
pub const BODY: usize = 64 << 10;
/// The most that may be set: it is held twice, and as values it takes many times as much.
pub const LARGEST_BODY: usize = 1 << 20;
/// Comparisons of one mirror at a time, as many as copies to a service are under way, ...
pub const AT_ONCE: usize = 64;
/// ... and fewer where their bodies, one of each side, would be more than these bytes.
pub const HELD_BYTES: usize = 8 << 20;
/// Comparisons of the whole process that take a processor at a time: each for milliseconds, and none of them urgent.
pub const AT_WORK: usize = 2;
/// Values in a JSON body that is compared as such: each takes some fifty bytes, whatever its text.
pub const VALUES: usize = 100_000;
/// Names of headers, and paths of members, that are told of one difference: whoever reads more than a few reads the
/// bodies.
pub const NAMES: usize = 16;
/// Bytes of each of them, and of the path of a request.
pub const NAME_BYTES: usize = 128;
/// Differences of a mirror that are kept for `/mirrors`: the last ones.
pub const KEPT: usize = 16;
/// One line in the log for each mirror in this time; the next says how many there were between.
pub const LINE_EVERY: Duration = Duration::from_secs(1);
/// Headers that may be named, and members: more are a sign that something else is meant.
pub const IGNORED: usize = 64;

/// Headers that differ between any two answers, in lower case: when, by whom and on which connection they were
/// given, for which request, to which session. A length belongs to its body, which is compared itself.
pub const ALWAYS_IGNORED: [&str; 30] = [
    "age",
    "alt-svc",
    "b3",
    "connection",
    "content-length",
    "date",
    "endpoint-load-metrics",
    "keep-alive",
    "proxy-connection",
    "server",
    "server-timing",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-amzn-trace-id",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-envoy-upstream-service-time",
    "x-request-id",
    "x-response-time",
    "x-runtime",
];
