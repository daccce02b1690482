//! Connections that rules of the kernel send to a sidecar: how long is waited, what is held.

use std::time::Duration;

/// How long the client may be silent before its far end is connected to, to see which of them
/// speaks first. A client that has something to say says it at once; so long do those wait
/// whose server greets them.
pub const MOMENT: Duration = Duration::from_millis(50);
/// Destinations whose servers speak first that a worker remembers: more than a pod calls, and some 100 KiB.
pub const GREETERS: usize = 1024;
/// Bytes of a ClientHello that are looked at for the protocols it offers: those with a hybrid key
/// share take 2 KiB.
pub const HELLO: usize = 16 << 10;
/// Connect to where a connection was going, which may be far away (Envoy's value).
pub const CONNECT: Duration = Duration::from_secs(10);
/// Silence on a connection that is carried on: pools of databases keep theirs for long (Envoy's
/// value).
pub const IDLE: Duration = Duration::from_secs(3600);
/// Addresses of one application whose connections are kept for further callers.
pub const PORTS: usize = 64;
