//! Discovery from the Kubernetes API: how much is held, how long is waited.

use std::time::Duration;

/// Endpoints of one service: above any that a sidecar should spread over, and a bound for memory.
pub const ENDPOINTS: usize = 4096;
/// Services that a sidecar holds because its application called them.
pub const SERVICES: usize = 512;
/// Slices of one service: forty thousand endpoints at the usual hundred a slice.
pub const SLICES: usize = 400;
/// Pods that are known of one service, or of one namespace where a gateway looks at the whole of it.
pub const PODS: usize = 50_000;
/// What nobody has called for this long is forgotten: long enough for what is called every few minutes.
pub const IDLE: Duration = Duration::from_secs(600);
/// A request for what is not known waits this long for the API. An answer takes milliseconds; where
/// it does not come, the request goes where it would without discovery.
pub const WAIT: Duration = Duration::from_millis(750);
/// What the cluster does not know is not asked for again this long: new services are seen soon, and
/// the API is left alone.
pub const UNKNOWN: Duration = Duration::from_secs(30);
/// The same after an answer that did not come.
pub const UNANSWERED: Duration = Duration::from_secs(2);
/// Answers of the last two that are remembered.
pub const REMEMBERED: usize = 4096;
/// Look-ups under way at a time; more pass as they would without discovery.
pub const LOOKUPS: usize = 256;
/// Look-ups in one second; more pass as they would without discovery. An application that talks to
/// the whole world must not make the API look for all of it.
pub const LOOKUP_RATE: u32 = 100;
/// Between two looks at every service for addresses of a second family.
pub const SCAN_AGAIN: Duration = Duration::from_secs(10);
/// Objects of one piece of a list: keeps an answer, and the memory that it takes, small.
pub const PAGE: usize = 50;
/// Bytes of one piece of a list; one that is larger is asked for in smaller ones. An object has 1.5 MiB
/// at most.
pub const PAGE_BYTES: usize = 4 << 20;
/// Bytes of one line of a watch.
pub const LINE: usize = 4 << 20;
/// A watch is asked to end after this long, and is begun anew from where it was.
pub const WATCH: Duration = Duration::from_secs(240);
/// Silence of a watch beyond its end that means it is dead.
pub const SILENCE: Duration = Duration::from_secs(15);
/// First pause after a failure; doubles, with jitter, ...
pub const BACKOFF: Duration = Duration::from_millis(200);
/// ... up to this.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Longest time for an answer that is no watch.
pub const ANSWER: Duration = Duration::from_secs(30);
/// Manifests: bytes of all files together.
pub const MANIFESTS: u64 = 64 << 20;
