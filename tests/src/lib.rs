//! The rig: the real binary on ports of the system's choice, raw clients that can send anything,
//! upstreams that record every byte. Blocking sockets with time-outs, no sleeps.

pub mod certs;
pub mod hostile;
pub mod http2;
pub mod process;
pub mod raw;
pub mod upstream;

pub use certs::TestCa;
pub use process::{Selvedge, gateway, sidecar};
pub use raw::{Raw, Reply};
pub use upstream::{Seen, Upstream};

use std::time::Duration;

/// Longest wait for something that should happen at once: generous, for busy machines.
pub const PATIENCE: Duration = Duration::from_secs(20);
