//! North-south decisions as pure functions: no sockets, no clock, no configuration files.
//!
//! - [`redirect`]: where a `RequestRedirect` points.
//! - [`rewrite`]: what a path becomes.
//! - [`hostname`]: which host names a pattern takes, and which of two is the more specific.

pub mod hostname;
pub mod redirect;
pub mod rewrite;
