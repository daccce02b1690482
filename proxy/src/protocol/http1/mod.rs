//! The HTTP/1 engine: strict heads and framing, both roles, one task a downstream connection.

pub mod body;
pub mod chunked;
pub mod conn;
pub mod framing;
mod interim;
pub mod parse;
pub mod request;
mod respond_http1;
pub mod server;

pub use body::{Http1Body, Upload};
pub use conn::{Conn, SharedConn};
