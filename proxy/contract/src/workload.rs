//! What an application asks the sidecar beside it on its socket: the SPIFFE Workload API, and secrets for an
//! Envoy; generated from `proto/`.

crate::generated!(
    /// Generated servers, clients and messages of the Workload API.
    mod generated = "/_.rs"
);

crate::generated!(
    /// The same of Envoy's secret discovery.
    pub mod secrets = "/envoy.service.secret.v3.rs"
);

pub use generated::*;
pub use prost::Message;
pub use prost_types::{Any, ListValue, Struct, Value, value::Kind};
