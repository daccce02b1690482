//! Bodies between the stages: pulled chunk by chunk, so that nothing is held that nobody asks for.

use std::fmt;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::error::ErrorKind;
use crate::protocol::http1::Http1Body;
use crate::protocol::http2::Http2Body;

use super::fields::Fields;
use super::through::Through;
use super::watched::Watched;

/// What is known about a body's length before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// This many bytes, no trailers.
    Exact(u64),
    /// To be seen.
    Unknown,
}

/// A part of a body.
#[derive(Debug)]
pub enum Chunk {
    /// Data, never empty.
    Data(Bytes),
    /// Trailers; nothing follows.
    Trailers(Fields),
}

/// A body in whichever protocol it comes. Boxed where it is large: bodies are handed from stage to
/// stage, and live in every future on the way.
pub enum Body {
    /// No body.
    Empty,
    /// A body that is here already: an answer of ours, or a replay.
    Full(Bytes),
    /// From an HTTP/1 connection.
    Http1(Box<Http1Body>),
    /// From an HTTP/2 stream.
    Http2(Box<Http2Body>),
    /// One of these, counted and kept for a replay.
    Watched(Box<Watched>),
    /// One of these, changed or copied on its way.
    Through(Box<dyn Through>),
}

impl Body {
    /// A body of which at most `max` bytes may come (0 = no bound) and of which the first `keep`
    /// bytes are kept for a replay.
    #[must_use]
    pub fn watched(self, max: u64, keep: usize) -> Self {
        if self.is_empty() {
            return self;
        }
        Self::Watched(Box::new(Watched::new(self, max, keep)))
    }

    /// What is known about the length.
    #[must_use]
    pub fn length(&self) -> BodyLength {
        match self {
            Self::Empty => BodyLength::Exact(0),
            Self::Full(bytes) => BodyLength::Exact(bytes.len() as u64),
            Self::Http1(body) => body.length(),
            Self::Http2(body) => body.length(),
            Self::Watched(watched) => watched.length(),
            Self::Through(through) => through.length(),
        }
    }

    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length() == BodyLength::Exact(0)
    }

    /// Gives the next part, or `None` at the end.
    ///
    /// # Errors
    /// The kind names the side the body comes from.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, ErrorKind>> {
        match self {
            Self::Empty => Poll::Ready(Ok(None)),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready(Ok((!bytes.is_empty()).then_some(Chunk::Data(bytes))))
            }
            Self::Http1(body) => body.poll_chunk(cx),
            Self::Http2(body) => body.poll_chunk(cx),
            Self::Watched(watched) => watched.poll_chunk(cx),
            Self::Through(through) => through.poll_chunk(cx),
        }
    }

    /// The body from its start, for another try: possible while nothing was read, or while all
    /// that was read has been kept.
    #[must_use]
    pub fn rewind(self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Watched(watched) => watched.rewind().map(|w| Self::Watched(Box::new(w))),
            _ => None,
        }
    }
}

/// Reads a whole body, of this many bytes at most. Trailers are not of its data.
///
/// # Errors
/// Those of the body; `too_long` for a longer one.
pub async fn read_whole(
    body: Body,
    largest: usize,
    too_long: ErrorKind,
) -> Result<Bytes, ErrorKind> {
    let (all, _) = read_all(body, largest, too_long).await?;
    Ok(all)
}

/// The same with its trailers.
///
/// # Errors
/// As of [`read_whole`].
pub async fn read_all(
    mut body: Body,
    largest: usize,
    too_long: ErrorKind,
) -> Result<(Bytes, Option<Fields>), ErrorKind> {
    let mut all = BytesMut::new();
    let mut trailers = None;
    loop {
        match std::future::poll_fn(|cx| body.poll_chunk(cx)).await? {
            Some(Chunk::Data(data)) if all.len() + data.len() > largest => return Err(too_long),
            Some(Chunk::Data(data)) => all.extend_from_slice(&data),
            Some(Chunk::Trailers(fields)) => trailers = Some(fields),
            None => return Ok((all.freeze(), trailers)),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Http1(_) => "Http1",
            Self::Http2(_) => "Http2",
            Self::Watched(_) => "Watched",
            Self::Through(_) => "Through",
        };
        write!(f, "Body::{kind}({:?})", self.length())
    }
}
