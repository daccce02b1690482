//! HTTP/2 through the `h2` crate, with a tap in front that counts what the crate does not.

pub mod body;
pub mod request;
pub mod server;
pub mod tap;
pub mod writer;

pub use body::{Http2Body, Stream};
pub use writer::Writer;
