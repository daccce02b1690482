//! A request body that is counted against its limit, and kept as long as it may be replayed.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};

use crate::error::ErrorKind;

use super::body::{Body, BodyLength, Chunk};
use super::fields::Fields;

/// See the module.
pub struct Watched {
    body: Body,
    length: BodyLength,
    /// Bytes that may still come.
    allowed: u64,
    /// What went by; `None` once it was more than may be kept.
    kept: Option<Kept>,
    /// Parts of an earlier try that come first.
    replay: VecDeque<Bytes>,
    /// The inner body is over, with these trailers.
    ended: Option<Option<Fields>>,
}

/// A part of at least this size is kept as it is; smaller ones are copied together. A slice keeps the whole
/// buffer that it was read into.
const LARGE: usize = 4 << 10;

struct Kept {
    parts: Vec<Bytes>,
    /// The last of it, copied.
    small: BytesMut,
    room: usize,
}

impl Kept {
    fn push(&mut self, part: &Bytes) {
        if part.len() < LARGE {
            self.small.extend_from_slice(part);
            return;
        }
        self.close();
        self.parts.push(part.clone());
    }

    fn close(&mut self) {
        if !self.small.is_empty() {
            self.parts.push(std::mem::take(&mut self.small).freeze());
        }
    }
}

impl Watched {
    /// At most `max` bytes (0 = no bound), the first `keep` of them kept.
    #[must_use]
    pub fn new(body: Body, max: u64, keep: usize) -> Self {
        Self {
            length: body.length(),
            body,
            allowed: if max == 0 { u64::MAX } else { max },
            kept: Some(Kept {
                parts: Vec::new(),
                small: BytesMut::new(),
                room: keep,
            }),
            replay: VecDeque::new(),
            ended: None,
        }
    }

    /// What is known about the length.
    #[must_use]
    pub const fn length(&self) -> BodyLength {
        self.length
    }

    /// See [`Body::poll_chunk`].
    ///
    /// # Errors
    /// [`ErrorKind::BodyTooLarge`], or what the inner body says.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, ErrorKind>> {
        if let Some(part) = self.replay.pop_front() {
            self.keep(&part);
            return Poll::Ready(Ok(Some(Chunk::Data(part))));
        }
        if let Some(trailers) = self.ended.clone() {
            return Poll::Ready(Ok(trailers.map(Chunk::Trailers)));
        }
        match ready!(self.body.poll_chunk(cx))? {
            Some(Chunk::Data(data)) => {
                let Some(allowed) = self.allowed.checked_sub(data.len() as u64) else {
                    return Poll::Ready(Err(ErrorKind::BodyTooLarge));
                };
                self.allowed = allowed;
                self.keep(&data);
                Poll::Ready(Ok(Some(Chunk::Data(data))))
            }
            Some(Chunk::Trailers(trailers)) => {
                self.ended = Some(Some(trailers.clone()));
                Poll::Ready(Ok(Some(Chunk::Trailers(trailers))))
            }
            None => {
                self.ended = Some(None);
                Poll::Ready(Ok(None))
            }
        }
    }

    fn keep(&mut self, part: &Bytes) {
        let Some(kept) = &mut self.kept else { return };
        match kept.room.checked_sub(part.len()) {
            Some(room) => {
                kept.room = room;
                kept.push(part);
            }
            None => self.kept = None,
        }
    }

    /// The body from its start, unless some of it is gone.
    #[must_use]
    pub fn rewind(mut self) -> Option<Self> {
        let kept = self.kept.as_mut()?;
        kept.close();
        let mut parts: VecDeque<Bytes> = kept.parts.drain(..).collect();
        kept.room += parts.iter().map(Bytes::len).sum::<usize>();
        parts.append(&mut self.replay);
        self.replay = parts;
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(body: &mut Watched) -> Result<Option<Bytes>, ErrorKind> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match body.poll_chunk(&mut cx) {
            Poll::Ready(Ok(Some(Chunk::Data(data)))) => Ok(Some(data)),
            Poll::Ready(Ok(_)) => Ok(None),
            Poll::Ready(Err(kind)) => Err(kind),
            Poll::Pending => panic!("pending"),
        }
    }

    #[test]
    fn a_kept_body_comes_again_as_often_as_asked() {
        let mut body = Watched::new(Body::Full(Bytes::from_static(b"abc")), 3, 3);
        for _ in 0..3 {
            assert_eq!(data(&mut body), Ok(Some(Bytes::from_static(b"abc"))));
            assert_eq!(data(&mut body), Ok(None));
            body = body.rewind().unwrap();
        }
    }

    #[test]
    fn many_small_parts_are_kept_as_one() {
        let mut body = Watched::new(Body::Empty, 0, 64 << 10);
        let (small, large) = (Bytes::from_static(b"x"), Bytes::from(vec![b'y'; LARGE]));
        for _ in 0..3 {
            (0..1000).for_each(|_| body.keep(&small));
            body.keep(&large);
        }
        let mut body = body.rewind().unwrap();
        let mut lengths = Vec::new();
        while let Some(part) = body.replay.pop_front() {
            lengths.push(part.len());
        }
        assert_eq!(lengths, [1000, LARGE, 1000, LARGE, 1000, LARGE]);
    }

    #[test]
    fn a_body_over_its_bounds_is_refused_or_not_kept() {
        let mut body = Watched::new(Body::Full(Bytes::from_static(b"abcd")), 3, 9);
        assert_eq!(data(&mut body), Err(ErrorKind::BodyTooLarge));
        let mut body = Watched::new(Body::Full(Bytes::from_static(b"abcd")), 0, 3);
        assert_eq!(data(&mut body), Ok(Some(Bytes::from_static(b"abcd"))));
        assert!(body.rewind().is_none());
    }
}
