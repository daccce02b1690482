//! Map of the contract: what proxy, gateway-mode, ca and injector agree on, and nothing that runs.
//!
//! - [`config`]: the configuration file, as serde types whose doc comments are the reference page.
//! - [`defaults`]: every default limit and timeout, once, with its reason.
//! - [`identity`]: SPIFFE IDs and trust domains.
//! - [`units`]: durations, sizes and rates as people write them.
//! - [`ports`]: well-known ports and environment variables.
//! - [`sign`]: the CA's wire messages (feature `sign`).
//! - [`authz`]: those of a service that decides over gRPC (feature `sign`).
//! - [`workload`]: those of the socket for the application (feature `sign`).

#[cfg(feature = "sign")]
pub mod authz;
pub mod config;
pub mod defaults;
pub mod identity;
pub mod ports;
#[cfg(feature = "sign")]
pub mod sign;
pub mod units;
#[cfg(feature = "sign")]
pub mod workload;
