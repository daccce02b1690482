//! HTTP/2 by our own engine (RFC 9113): one state for both ends of a connection, driven by a task,
//! used by the tasks of its streams.

pub mod body;
pub mod budget;
pub mod conn;
mod drive;
pub mod encode;
pub mod frame;
pub mod handle;
pub mod head;
mod life;
mod receive;
mod receive_head;
mod refuse;
pub mod request;
mod send;
pub mod server;
pub mod settings;
pub mod stream;
mod streams;
pub mod writer;

pub use body::{Http2Body, Stream};
pub use budget::Abuse;
pub use conn::{Conn, SharedConn};
pub use handle::Handle;
pub use settings::End;
pub use writer::Writer;
