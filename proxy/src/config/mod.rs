//! From files to a [`Snapshot`]: read, checked as a whole, compiled, swapped.

pub mod compile;
pub mod diagnose;
pub mod document;
pub mod load;
pub mod repair;
pub mod schema;
pub mod snapshot;
pub mod tree;
pub mod watch;

pub use compile::{Compiler, Mode};
pub use diagnose::Report;
pub use snapshot::Snapshot;
