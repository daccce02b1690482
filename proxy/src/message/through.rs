//! A body that another body passes through on its way: compressed, copied, slowed down.

use std::fmt;
use std::task::{Context, Poll};

use crate::error::ErrorKind;

use super::body::{BodyLength, Chunk};

/// See the module.
pub trait Through: fmt::Debug {
    /// What is known about the length of what comes out.
    fn length(&self) -> BodyLength;

    /// See [`Body::poll_chunk`](super::Body::poll_chunk).
    ///
    /// # Errors
    /// Those of the inner body, and the own ones.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, ErrorKind>>;
}
