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

/// A module with what the build has made of a `.proto`, whose lints are not ours to keep.
#[cfg(feature = "sign")]
macro_rules! generated {
    ($(#[$doc:meta])* $vis:vis mod $name:ident = $file:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            clippy::all,
            clippy::unwrap_used,
            clippy::use_self,
            clippy::allow_attributes_without_reason,
            reason = "generated code"
        )]
        $vis mod $name {
            include!(concat!(env!("OUT_DIR"), $file));
        }
    };
}
#[cfg(feature = "sign")]
use generated;

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
