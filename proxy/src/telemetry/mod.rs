//! Telemetry: metrics, access log and spans of the path, without a lock or a wait on it.

pub mod access_log;
pub mod calls;
pub mod comparisons;
pub mod export;
pub mod metrics;
pub mod record;
pub mod trace;

pub use record::Record;
