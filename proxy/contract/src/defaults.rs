//! Every default limit and timeout of the data plane, written once, each with its reason.
//!
//! Two columns where the roles differ: an edge faces strangers and long paths, a sidecar faces
//! its own neighbours and must not be the one that breaks their long polls.

use std::time::Duration;

/// Which column of the defaults applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Faces the outside.
    Gateway,
    /// Faces the mesh and its own application.
    Sidecar,
}

/// The limits a listener runs under; [`Limits::of`] gives the defaults of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head (request line or pseudo-headers, and fields) -> 431. An edge needs room
    /// for cookies; a sidecar takes what an Envoy (60 KiB) before it would have let through.
    pub header_block: usize,
    /// Fields in a head -> 431. Envoy's and hyper's value; HTTP/2 cookie crumbs count too.
    pub header_count: usize,
    /// Bytes of the request target -> 414. nginx's 8 KiB at the edge.
    pub uri: usize,
    /// Bytes of a request body -> 413; 0 means no bound (bodies are streamed, not held).
    pub body: u64,
    /// Bytes of chunk extensions in one body; they are stripped, and only ever an attack.
    pub chunk_extension: usize,
    /// Bytes of trailers in one message.
    pub trailer_block: usize,
    /// Fields in trailers.
    pub trailer_count: usize,
    /// From accept to the end of the TLS handshake (Linkerd's detect timeout).
    pub handshake: Duration,
    /// From the first byte of a head to its last: slowloris ends here -> 408.
    pub header_read: Duration,
    /// Longest silence inside a body or stream -> 408 or abort.
    pub stream_idle: Duration,
    /// Bytes a second that a request body must bring, after ten seconds of waiting for it -> 408; 0 =
    /// no floor. A slow POST is an attack of the edge; a peer in the mesh may have nothing to say.
    pub body_rate: u64,
    /// Longest silence between two requests of a connection.
    pub downstream_idle: Duration,
    /// Requests on one connection before it is closed politely, so that load spreads again.
    pub requests_per_connection: u64,
    /// Age of a connection before it is closed politely; each has +-10 % of jitter.
    pub connection_age: Duration,
    /// Concurrent HTTP/2 streams of a connection.
    pub streams: u32,
    /// HTTP/2 stream window in bytes: what one stream may have us hold.
    pub stream_window: u32,
    /// HTTP/2 connection window in bytes.
    pub connection_window: u32,
    /// Connections of a process on one listener; above, a new one is closed at once.
    pub connections: usize,
    /// Connections from one address (0 = no bound): one client cannot hold the edge.
    pub connections_per_address: usize,
    /// What an HTTP/2 peer may do how often -> GOAWAY.
    pub http2: http2::Rates,
    /// Bytes held for a connection in each direction.
    pub buffer: usize,
    /// From the head of a request to the head of its response; 0 = off. Not to the last byte: a
    /// large download is no fault, and a stalled one ends by `stream_idle`.
    pub request: Duration,
}

const KIB: usize = 1024;

impl Limits {
    /// The defaults of a role.
    #[must_use]
    pub const fn of(role: Role) -> Self {
        let gateway = matches!(role, Role::Gateway);
        Self {
            header_block: if gateway { 32 * KIB } else { 60 * KIB },
            header_count: 100,
            uri: if gateway { 8 * KIB } else { 16 * KIB },
            body: if gateway { 10 << 20 } else { 0 },
            chunk_extension: 4 * KIB,
            trailer_block: 8 * KIB,
            trailer_count: 32,
            handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(if gateway { 10 } else { 30 }),
            stream_idle: Duration::from_secs(if gateway { 30 } else { 300 }),
            body_rate: if gateway { 256 } else { 0 },
            downstream_idle: Duration::from_secs(if gateway { 60 } else { 600 }),
            requests_per_connection: 10_000,
            connection_age: Duration::from_secs(3600),
            streams: if gateway { 100 } else { 250 },
            stream_window: if gateway { 64 << 10 } else { 256 << 10 },
            connection_window: 1 << 20,
            http2: http2::Rates::DEFAULT,
            connections: 10_000,
            connections_per_address: if gateway { 1000 } else { 0 },
            buffer: 64 * KIB,
            request: Duration::from_secs(if gateway { 15 } else { 0 }),
        }
    }
}

/// What is given up when the process runs out of memory, in percent of what it may have (Envoy's
/// overload manager shrinks at 95 and stops at 98; it has no cgroup to be killed by).
pub mod overload {
    /// Idle connections are closed.
    pub const CLOSE_IDLE: u64 = 80;
    /// Requests are answered with 503.
    pub const REFUSE_REQUESTS: u64 = 90;
    /// Connections are closed at once.
    pub const STOP_ACCEPTING: u64 = 95;
    /// So much below one of these it ends: at the same mark it would come and go with every request.
    pub const EASE: u64 = 2;
}

pub mod acme;
pub mod adaptive;
pub mod balance;
pub mod calls;
pub mod datagrams;
pub mod health;
pub mod http2;
pub mod kubernetes;
pub mod mirror;
pub mod transparent;
pub mod trust;
pub mod workload;

/// Defaults of a service: how upstreams are reached and when they are left alone.
pub mod upstream {
    use super::Duration;

    /// Connect, including TLS. A healthy endpoint answers in milliseconds; Linkerd uses 1 s.
    pub const CONNECT: Duration = Duration::from_secs(1);
    /// Connect to the application beside a sidecar: loopback answers at once or not at all.
    pub const CONNECT_APP: Duration = Duration::from_millis(300);
    /// Idle life of a pooled HTTP/1 connection: under the 5 s after which Node.js closes.
    pub const IDLE_HTTP1: Duration = Duration::from_secs(4);
    /// Idle life of a pooled HTTP/2 connection.
    pub const IDLE_HTTP2: Duration = Duration::from_secs(60);
    /// Connections of a process to one service.
    pub const CONNECTIONS: u32 = 1024;
    /// Requests that wait for a connection.
    pub const PENDING: u32 = 256;
    /// Longest wait for a connection.
    pub const PENDING_WAIT: Duration = Duration::from_secs(1);
    /// Concurrent requests to one service.
    pub const REQUESTS: u32 = 1024;
    /// Concurrent retries to one service.
    pub const RETRIES: u32 = 3;
    /// Streams of one upstream HTTP/2 connection before a second is opened.
    pub const STREAMS: u32 = 100;
    /// A peer that is silent on HTTP/2 while requests wait is asked for a sign of life after this
    /// long, and given up after as long again.
    pub const PING_AFTER: Duration = Duration::from_secs(15);
    /// Consecutive gateway errors that eject an endpoint.
    pub const EJECT_AFTER: u32 = 5;
    /// First ejection; doubles with each that follows.
    pub const EJECT_BASE: Duration = Duration::from_secs(1);
    /// Longest ejection.
    pub const EJECT_MAX: Duration = Duration::from_secs(60);
    /// Percent of an endpoint's requests that have to end well, or it is ejected, ...
    pub const EJECT_SUCCESS_RATE: u32 = 80;
    /// ... over this long (up to twice as long, as two parts of it are kept), ...
    pub const EJECT_WINDOW: Duration = Duration::from_secs(10);
    /// ... where so many have ended in it.
    pub const EJECT_MINIMUM: u32 = 5;
    /// A request that was to try an ejected endpoint and said nothing of it is followed by another after
    /// this long: each such try costs a new table.
    pub const TRIAL_AGAIN: Duration = Duration::from_millis(100);
    /// A request that tries an ejected endpoint and has had no answer for this long is followed by another:
    /// it may be one without a deadline.
    pub const TRIAL_LONGEST: Duration = Duration::from_secs(15);
    /// Share of a service's endpoints that may be ejected at a time, in percent.
    pub const EJECT_SHARE: u32 = 50;
    /// Retries of a request that is provably unprocessed.
    pub const ATTEMPTS: u32 = 1;
    /// First back-off; doubles up to [`BACKOFF_MAX`], with full jitter.
    pub const BACKOFF: Duration = Duration::from_millis(25);
    /// Longest back-off.
    pub const BACKOFF_MAX: Duration = Duration::from_millis(250);
    /// Retry budget: this share of live requests, in percent, ...
    pub const BUDGET_SHARE: u32 = 20;
    /// ... plus this many a second.
    pub const BUDGET_RATE: u32 = 10;
    /// Body bytes kept for a replay; past it a request is not retried, never truncated.
    pub const REPLAY: usize = 64 << 10;
    /// Head and fields of a response -> 502.
    pub const HEADER_BLOCK: usize = 64 << 10;
    /// Fields of a response -> 502.
    pub const HEADER_COUNT: usize = 200;
    /// Interim (1xx) answers before the final one -> 502.
    pub const INTERIM: u32 = 8;
    /// Requests in the window of the breaker before its error rate counts.
    pub const BREAKER_MINIMUM: u32 = 20;
    /// The breaker's window.
    pub const BREAKER_WINDOW: Duration = Duration::from_secs(10);
    /// How long the breaker stays open before one probe.
    pub const BREAKER_OPEN: Duration = Duration::from_secs(5);
    /// DNS: shortest time an answer is used, whatever its TTL says.
    pub const DNS_FLOOR: Duration = Duration::from_secs(1);
    /// DNS: longest time, so that a long TTL does not hide a move.
    pub const DNS_CEILING: Duration = Duration::from_secs(300);
    /// DNS: endpoints taken from one name.
    pub const DNS_ENDPOINTS: usize = 1000;
}

/// Defaults of policies.
pub mod policy {
    use super::Duration;

    /// An issuer's keys are fetched again after this long.
    pub const JWKS_LIFE: Duration = Duration::from_secs(300);
    /// They are not fetched twice within this time, whatever tokens name.
    pub const JWKS_AGAIN: Duration = Duration::from_secs(10);
    /// A request whose token names an unknown key waits this long for the keys to be fetched.
    pub const JWKS_WAIT: Duration = Duration::from_secs(2);
    /// Bytes of a key set.
    pub const JWKS_BYTES: usize = 256 << 10;
    /// Clocks of issuer and gateway may differ by this much.
    pub const SKEW: Duration = Duration::from_secs(60);
    /// A session by login ends after this long.
    pub const SESSION: Duration = Duration::from_secs(8 * 3600);
    /// One question to an issuer about a user who logs in.
    pub const ISSUER: Duration = Duration::from_secs(5);
    /// Questions to an issuer at a time, for tokens or about them; more wait, within their time.
    /// Strangers cause them.
    pub const ISSUER_QUESTIONS: usize = 64;
    /// Bytes of an issuer's answer: tokens, or claims.
    pub const ISSUER_BYTES: usize = 64 << 10;
    /// New tokens are remembered for this long for requests that still bring the old session.
    pub const REFRESHED: Duration = Duration::from_secs(30);
    /// An issuer that could not be reached for new tokens is left alone for this long.
    pub const REFRESH_AGAIN: Duration = Duration::from_secs(5);
    /// Sessions whose tokens were replaced, as many as are remembered: some 2 KiB each, 16 at worst.
    pub const REFRESHES: usize = 4096;
    /// One question about a token.
    pub const INTROSPECTION: Duration = Duration::from_secs(2);
    /// An answer about a token is remembered for this long.
    pub const INTROSPECTED: Duration = Duration::from_secs(60);
    /// That a token is not active is remembered for this long at most: it may be issued any moment.
    pub const INACTIVE: Duration = Duration::from_secs(5);
    /// Tokens whose answers are remembered.
    pub const INTROSPECTIONS: usize = 4096;
    /// Bytes of an answer about a token.
    pub const INTROSPECTION_BYTES: usize = 32 << 10;
    /// A body that is held comes within this, where its request has no deadline.
    pub const HOLD: Duration = Duration::from_secs(60);
    /// Bytes of bodies that are held at a time, in the whole process, until they are verified and sent.
    /// Over it: 503.
    pub const HELD_BYTES: usize = 128 << 20;
    /// Bytes of a database of countries.
    pub const GEO_BYTES: u64 = 512 << 20;
    /// A signature is good for this long, as Standard Webhooks and Stripe have it.
    pub const SIGNATURE_AGE: Duration = Duration::from_secs(300);
    /// Bytes of a body that is held until its signature is verified.
    pub const SIGNED_BYTES: usize = 1 << 20;
    /// Passwords that are verified at a time: each takes a processor for tens of milliseconds, and up
    /// to 128 MiB.
    pub const PASSWORDS_AT_ONCE: usize = 2;
    /// A password waits this long for its turn. Over it: 503.
    pub const PASSWORD_WAIT: Duration = Duration::from_secs(5);
    /// That a password is right is remembered for this long.
    pub const PASSWORD_KEPT: Duration = Duration::from_secs(300);
    /// That it is wrong is remembered for this long: clients that are set up wrong come often.
    pub const PASSWORD_REFUSED: Duration = Duration::from_secs(10);
    /// Passwords that are remembered, as keyed hashes.
    pub const PASSWORDS: usize = 4096;
    /// Bytes of a file with a secret or keys.
    pub const SECRET_BYTES: u64 = 64 << 10;
    /// Verified tokens that a worker remembers, twice this many at most.
    pub const TOKENS: usize = 4096;
    /// All calls of an aggregate together.
    pub const AGGREGATE: Duration = Duration::from_secs(5);
    /// One call of an aggregate.
    pub const CALL: Duration = Duration::from_secs(1);
    /// Calls of an aggregate.
    pub const CALLS: usize = 16;
    /// Bytes of a call's answer.
    pub const CALL_BYTES: usize = 512 << 10;
    /// Bytes of all calls' answers together: as values they take some thirty times as much.
    pub const CALLS_BYTES: usize = 1 << 20;
    /// Bytes of a cache.
    pub const CACHE: u64 = 64 << 20;
    /// Bytes of a body that is kept.
    pub const CACHE_LARGEST: u64 = 1 << 20;
    /// Responses to one address that differ by what they vary by.
    pub const CACHE_VARIANTS: usize = 16;
    /// A request waits this long for another's answer, then goes for its own.
    pub const CACHE_WAIT: Duration = Duration::from_secs(5);
    /// And this long from its head until it is whole.
    pub const CACHE_BODY: Duration = Duration::from_millis(250);
    /// An answer that is still not whole after this long may be fetched by another.
    pub const CACHE_OVERTAKE: Duration = Duration::from_secs(1);
    /// A fetch behind the back of a client takes at most this long.
    pub const CACHE_REFRESH: Duration = Duration::from_secs(60);
    /// Bytes of the request fields that a stored response varies by.
    pub const CACHE_VARIED: usize = 2 << 10;
    /// Nobody waits for anybody for this long after an answer that could not be kept.
    pub const CACHE_PASS: Duration = Duration::from_secs(10);
    /// Bytes of a body that is changed, and so read whole.
    pub const TRANSFORM: u64 = 1 << 20;
    /// Values in a body that is changed: each takes some fifty bytes, whatever its text.
    pub const TRANSFORM_VALUES: usize = 100_000;
    /// The same where a template or an expression looks at it: each takes a microsecond then.
    pub const TRANSFORM_LOOPED: usize = 20_000;
    /// Shorter responses are not compressed: the head and a packet cost more than they save.
    pub const COMPRESS_FROM: u64 = 1024;
    /// gzip's level: beyond it, time grows faster than size shrinks.
    pub const GZIP_LEVEL: u32 = 4;
    /// Brotli's level, see gzip's.
    pub const BROTLI_LEVEL: u32 = 4;
    /// Brotli's window, as a power of two: bounds what an encoder holds.
    pub const BROTLI_WINDOW: u32 = 18;
    /// Zstandard's level, see gzip's.
    pub const ZSTD_LEVEL: i32 = 3;
    /// Zstandard's window, as a power of two. Clients need not take more than 23 (RFC 9659).
    pub const ZSTD_WINDOW: u32 = 18;
    /// Zstandard's largest window that is decoded (RFC 9659).
    pub const ZSTD_LARGEST_WINDOW: u32 = 23;
    /// Encoders of a worker at a time, of about 1 MiB each; further responses go out as they are.
    pub const ENCODERS: usize = 256;
    /// Who decides is given this long.
    pub const VERDICT: Duration = Duration::from_millis(200);
    /// Bytes of a refusal.
    pub const VERDICT_BYTES: usize = 64 << 10;
    /// Headers in each list of a verdict over gRPC.
    pub const VERDICT_FIELDS: usize = 100;
    /// Verdicts that a worker remembers.
    pub const VERDICTS: usize = 4096;
    /// A store that counts is lost when it has been silent for this long.
    pub const STORE: Duration = Duration::from_millis(50);
    /// A request that may be counted locally waits this long for the store.
    pub const STORE_WAIT: Duration = Duration::from_millis(5);
    /// A connection to a store, TLS and authentication included, takes at most this long.
    pub const STORE_CONNECT: Duration = Duration::from_secs(1);
    /// A lost store is tried again after this long.
    pub const STORE_AGAIN: Duration = Duration::from_millis(250);
    /// Redirects within a cluster that one request follows: moved, and on its way elsewhere, and one
    /// to spare.
    pub const STORE_REDIRECTS: usize = 3;
    /// Servers of a cluster that keep slots; Redis itself advises no more.
    pub const STORE_NODES: usize = 1000;
    /// Servers that redirects name before they keep a slot, and how long they are remembered.
    pub const STORE_LEARNED: usize = 16;
    /// See [`STORE_LEARNED`].
    pub const STORE_LEARNED_FOR: Duration = Duration::from_secs(60);
    /// The map of a cluster is asked for this often where nothing tells that it is old.
    pub const STORE_MAP: Duration = Duration::from_secs(10);
    /// A store is asked whether it lives this often.
    pub const STORE_LOOK: Duration = Duration::from_secs(1);
}

/// Bytes of a file with an OCSP response: real ones have 500 to 3,000, and each handshake that asks
/// carries them.
pub const OCSP: usize = 16 << 10;

/// Defaults of the process.
pub mod process {
    use super::Duration;

    /// In-flight requests get this long after SIGTERM.
    pub const DRAIN: Duration = Duration::from_secs(30);
    /// Listeners still accept this long after readiness went off, so that balancers notice.
    pub const DRAIN_DELAY: Duration = Duration::from_secs(0);
    /// A changed file is read this long after the last change seen.
    pub const RELOAD_DEBOUNCE: Duration = Duration::from_millis(200);
    /// Configuration bytes in one file.
    pub const CONFIG_BYTES: usize = 16 << 20;
    /// File descriptors kept for admin, health and files.
    pub const SPARE_DESCRIPTORS: usize = 32;
    /// Access-log lines that wait for the writer before lines are dropped (and counted).
    pub const LOG_QUEUE: usize = 8192;
    /// Spans that wait for export before spans are dropped (and counted).
    pub const SPAN_QUEUE: usize = 2048;
    /// Series of one metric; what is beyond goes to a series named `overflow`.
    pub const SERIES: usize = 10_000;
    /// Workload certificate: share of its life after which it is renewed, in percent.
    pub const RENEW_AT: u32 = 67;
    /// Jitter on that, in percent of the life, either way.
    pub const RENEW_JITTER: u32 = 5;
    /// Longest back-off between two failed renewals.
    pub const RENEW_BACKOFF: Duration = Duration::from_secs(150);
    /// The same while there is no certificate that has not ended.
    pub const RENEW_BARE: Duration = Duration::from_secs(4);
    /// When the CA has come to sign with another root, all renew within this time.
    pub const RENEW_SPREAD: Duration = Duration::from_secs(20);
}
