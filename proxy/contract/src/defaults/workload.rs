//! The socket for the application: a few processes on the same machine, each with a connection that stays.

use std::time::Duration;

/// Connections at a time; what is beyond is closed at once.
pub const CONNECTIONS: usize = 64;
/// Calls at a time on one connection: a stream for each kind of bundle, and some tokens.
pub const STREAMS: u32 = 16;
/// Bytes of a header list: three headers.
pub const HEADERS: u32 = 8 << 10;
/// Bytes of a request: a token with its audience, or a hundred names of secrets.
pub const MESSAGE: usize = 64 << 10;
/// Bytes of an answer: what clients of gRPC take, unless told otherwise.
pub const ANSWER: usize = 4 << 20;
/// Flow control in bytes, of a stream and of a connection.
pub const WINDOW: u32 = 64 << 10;
/// From a connection to its first call.
pub const FIRST_CALL: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether it is still there.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A connection that does not answer that is gone; a reader who takes longer for one message is too.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A first call waits this long for the certificate that it has asked for.
pub const CERTIFICATE: Duration = Duration::from_secs(5);
/// Calls to the CA for tokens at a time.
pub const MINTING: usize = 8;
/// Tokens that are kept, one for each set of audiences.
pub const TOKENS: usize = 256;
/// Seconds that clocks may differ by where a token is validated.
pub const SKEW: u64 = 30;
/// Names of secrets that one Envoy may ask for.
pub const NAMES: usize = 100;
