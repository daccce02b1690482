//! What an application asks the sidecar beside it on its socket: the SPIFFE Workload API, and secrets for an
//! Envoy; generated from `proto/`.

/// Generated servers, clients and messages of the Workload API.
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
    include!(concat!(env!("OUT_DIR"), "/_.rs"));
}

/// The same of Envoy's secret discovery.
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
pub mod secrets {
    include!(concat!(env!("OUT_DIR"), "/envoy.service.secret.v3.rs"));
}

pub use generated::*;
pub use prost::Message;
pub use prost_types::{Any, ListValue, Struct, Value, value::Kind};
