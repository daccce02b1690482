//! Well-known ports and environment variables, shared by proxy, CA, injector and manifests.

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
