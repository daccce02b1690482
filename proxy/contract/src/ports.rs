//! Well-known ports and environment variables, shared by proxy, CA, injector and manifests.

use std::net::Ipv4Addr;

/// Admin: loopback or Unix socket only.
pub const ADMIN: u16 = 15000;
/// Sidecar, traffic of the application to the mesh.
pub const OUTBOUND: u16 = 15001;
/// Sidecar, redirected traffic to the application.
pub const INBOUND: u16 = 15006;
/// CA, gRPC over TLS.
pub const CA: u16 = 15012;
/// Injector webhook, HTTPS.
pub const WEBHOOK: u16 = 15017;
/// Health, readiness and metrics, reachable from outside the pod.
pub const HEALTH: u16 = 15020;

/// User and group of the sidecar in a pod: what it sends is not redirected.
pub const PROXY_USER: u32 = 1337;
/// Where a sidecar connects to its own application from, IPv4: the rules let that pass by, and by
/// nothing else do they know it from a call of the application to its own service.
pub const APP_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6, which has only one address of this kind: a traffic class, of those that
/// everyone may use as he likes (RFC 2474 section 6: `xxxx11`). It never leaves the machine.
pub const APP_CLASS: u8 = 0b10_1011 << 2;

/// Every environment variable that the binary reads, with what it is for. Read once, at start.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "SELVEDGE_WORKERS",
        "Number of worker threads; `--workers` wins over it.",
    ),
    (
        "SELVEDGE_LOG",
        "Log filter such as `info` or `selvedge=debug,rustls=info`; `--log` wins over it.",
    ),
];
