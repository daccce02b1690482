//! Stage 3, protocol: bytes become exchanges. HTTP/1 by our own engine, HTTP/2 by the `h2` crate
//! behind a tap that counts frames.

pub mod http1;
pub mod http2;
pub mod io;
pub mod serve;
pub mod socket;
pub mod tunnel;
pub mod websocket;

pub use serve::serve;
