//! What a service that decides is asked over gRPC, and answers: the fields used here of
//! `envoy.service.auth.v3`, generated from `proto/`.

/// Generated server, client and messages.
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
mod generated {
    include!(concat!(env!("OUT_DIR"), "/envoy.service.auth.v3.rs"));
}

pub use generated::*;
pub use prost::Message;
pub use prost_types::Timestamp;

/// The call, as a path.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
