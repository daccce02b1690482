//! Stage 3, protocol: bytes become exchanges, by engines of our own for HTTP/1 and HTTP/2.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::string_slice))]

pub mod datagram;
pub mod detect;
pub mod greeters;
pub mod hello;
pub mod hpack;
pub mod http1;
pub mod http2;
pub mod io;
mod linger;
pub mod serve;
pub mod socket;
mod stream;
mod transparent;
pub mod tunnel;
pub mod websocket;

pub use serve::{is_balancer, serve};
