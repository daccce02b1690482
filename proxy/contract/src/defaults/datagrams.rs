//! Sessions of datagrams: how long they are kept, how large a datagram may be.

use std::time::Duration;

/// A session ends when nothing has passed for so long: the least that translators of addresses keep theirs in
/// practice (RFC 4787 wants two minutes, for DNS alone a few seconds would do).
pub const IDLE: Duration = Duration::from_secs(30);
/// Bytes of a datagram: all that UDP over IPv4 can carry.
pub const DATAGRAM: usize = 65_507;
