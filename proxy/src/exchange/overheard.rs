//! Part of stage 4, the spine: an answer is copied while it passes to the client, for whoever compares it. The
//! client's side waits for nothing here, and what is kept is bounded.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::sync::oneshot;

use crate::error::ErrorKind;
use crate::message::through::Through;
use crate::message::{Body, BodyLength, Chunk, Fields, Response};

/// An answer as a service gave it, and no edit has touched it.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) status: StatusCode,
    pub(super) fields: Fields,
    /// The body and its trailers; `None`: longer than what was to be kept.
    pub(super) text: Option<(Bytes, Fields)>,
}

/// Whom to tell. Each hears of the whole answer, or that there will be none.
pub(super) type Listeners = Vec<oneshot::Sender<Arc<Heard>>>;

/// Copies an answer for these, its body up to `most` bytes, as it is read.
pub(super) fn overhear(response: &mut Response, most: usize, listeners: Listeners) {
    let mut copy = Copy {
        status: response.head.status,
        fields: response.head.fields.clone(),
        kept: BytesMut::new(),
        trailers: Fields::new(),
        most,
        listeners,
    };
    let length = response.body.length();
    let too_long = matches!(length, BodyLength::Exact(length) if length > most as u64);
    if length == BodyLength::Exact(0) || too_long {
        return copy.end(!too_long);
    }
    copy.kept.reserve(match length {
        BodyLength::Exact(length) => usize::try_from(length).unwrap_or(0).min(most),
        BodyLength::Unknown => 0,
    });
    let body = std::mem::replace(&mut response.body, Body::Empty);
    response.body = Body::Through(Box::new(Passing {
        body,
        length,
        passed: 0,
        copy: Some(copy),
    }));
}

/// What is known of it so far.
struct Copy {
    status: StatusCode,
    fields: Fields,
    /// Copied: a slice would keep the whole buffer that it was read into.
    kept: BytesMut,
    trailers: Fields,
    most: usize,
    listeners: Listeners,
}

impl Copy {
    /// Tells the listeners.
    fn end(self, whole: bool) {
        let heard = Arc::new(Heard {
            status: self.status,
            fields: self.fields,
            text: whole.then(|| (self.kept.freeze(), self.trailers)),
        });
        for listener in self.listeners {
            // Whoever is gone has found out that there is nothing to compare with.
            let _ = listener.send(heard.clone());
        }
    }
}

/// The body on its way.
struct Passing {
    body: Body,
    length: BodyLength,
    passed: u64,
    /// `None` once its listeners were told, or there is nothing more to tell.
    copy: Option<Copy>,
}

impl Passing {
    fn keep(&mut self, data: &Bytes) {
        self.passed += data.len() as u64;
        let Some(copy) = &mut self.copy else { return };
        if copy.listeners.iter().all(oneshot::Sender::is_closed) {
            self.copy = None;
        } else if copy.kept.len() + data.len() <= copy.most {
            copy.kept.extend_from_slice(data);
        } else {
            self.end(false);
        }
    }

    fn end(&mut self, whole: bool) {
        if let Some(copy) = self.copy.take() {
            copy.end(whole);
        }
    }
}

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passing({:?})", self.body)
    }
}

impl Through for Passing {
    fn length(&self) -> BodyLength {
        self.length
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, ErrorKind>> {
        let chunk = ready!(self.body.poll_chunk(cx));
        match &chunk {
            Ok(Some(Chunk::Data(data))) => self.keep(data),
            Ok(Some(Chunk::Trailers(trailers))) => {
                if let Some(copy) = &mut self.copy {
                    copy.trailers = trailers.clone();
                }
                self.end(true);
            }
            Ok(None) => self.end(true),
            Err(_) => self.copy = None,
        }
        Poll::Ready(chunk)
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        // Whoever knows the length does not ask for more once it has come.
        if self.length == BodyLength::Exact(self.passed) {
            self.end(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::ResponseHead;

    fn passing(text: &'static str, most: usize) -> (Response, oneshot::Receiver<Arc<Heard>>) {
        let (tell, hear) = oneshot::channel();
        let mut response = Response {
            head: ResponseHead {
                status: StatusCode::OK,
                fields: Fields::new(),
            },
            body: Body::Full(Bytes::from_static(text.as_bytes())),
        };
        overhear(&mut response, most, vec![tell]);
        (response, hear)
    }

    fn text(hear: &mut oneshot::Receiver<Arc<Heard>>) -> Option<Bytes> {
        let heard = hear.try_recv().unwrap();
        heard.text.as_ref().map(|(text, _)| text.clone())
    }

    #[test]
    fn what_has_passed_whole_is_told_also_without_a_look_at_its_end() {
        let (mut response, mut hear) = passing("abc", 3);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(
            response.body.poll_chunk(&mut cx),
            Poll::Ready(Ok(Some(Chunk::Data(data)))) if data == "abc"
        ));
        assert!(hear.try_recv().is_err());
        drop(response);
        assert_eq!(text(&mut hear), Some("abc".into()));
    }

    #[test]
    fn what_is_too_long_or_breaks_off_is_told_at_once() {
        let (response, mut hear) = passing("abcd", 3);
        assert_eq!(text(&mut hear), None);
        assert!(matches!(response.body, Body::Full(_)));
        let (response, mut hear) = passing("abc", 3);
        drop(response);
        assert_eq!(
            hear.try_recv().err(),
            Some(oneshot::error::TryRecvError::Closed)
        );
    }
}
