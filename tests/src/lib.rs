//! The rig: the real binary on ports of the system's choice, raw clients that can send anything,
//! upstreams that record every byte. Blocking sockets with time-outs, no sleeps.

pub mod acme;
pub mod acme_front;
pub mod acme_place;
pub mod admission;
pub mod authority;
pub mod bell;
pub mod breaking;
pub mod bytes;
pub mod ca_client;
pub mod caching;
pub mod certs;
pub mod checked;
pub mod cluster;
pub mod conformance;
pub mod control_plane;
pub mod disk;
pub mod gate;
pub mod hostile;
pub mod http2;
pub mod http2_upstream;
pub mod kube;
pub mod l4;
pub mod l4_tls;
pub mod least;
pub mod limited;
pub mod mesh;
pub mod mmdb;
pub mod netns;
pub mod node;
pub mod oidc;
pub mod oracle;
pub mod pod;
pub mod process;
pub mod python;
pub mod raw;
pub mod redis;
pub mod redis_cluster;
pub mod secrets;
pub mod tls_bytes;
pub mod tls_peer;
pub mod tls_server;
pub mod trusting;
pub mod upstream;
pub mod visitor;

pub use bell::Bell;
pub use certs::TestCa;
pub use gate::Gate;
pub use http2_upstream::Http2Upstream;
pub use kube::KubeApi;
pub use process::{Selvedge, gateway, sidecar};
pub use raw::{Raw, Reply};
pub use redis::Redis;
pub use redis_cluster::RedisCluster;
pub use tls_peer::TlsPeer;
pub use tls_server::TlsServer;
pub use upstream::{Seen, Upstream};

use std::time::Duration;

/// Longest wait for something that should happen at once: generous, for busy machines.
pub const PATIENCE: Duration = Duration::from_secs(30);
