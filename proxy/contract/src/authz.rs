//! What a service that decides is asked over gRPC, and answers: the fields used here of
//! `envoy.service.auth.v3`, generated from `proto/`.

crate::generated!(
    /// Generated server, client and messages.
    mod generated = "/envoy.service.auth.v3.rs"
);

pub use generated::*;
pub use prost::Message;
pub use prost_types::Timestamp;

/// The call, as a path.
pub const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
