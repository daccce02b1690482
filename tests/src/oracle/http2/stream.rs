//! One stream of HTTP/2 as the oracle follows it: a head, a body, perhaps trailers (RFC 9113 section 8.1).

use super::Block;
use super::fields::{self, Head};
use crate::oracle::{Field, Request, all};

/// RFC 7540 section 5.3.1. RFC 9113 has forgotten priorities, but not that one may refuse these.
const ITSELF: &str = "it depends on itself";
const LESS: &str = "less than content-length";

/// A stream that the client has opened.
#[derive(Debug, Clone)]
pub struct Stream {
    /// What it asked for, its body as far as it came; `None` where the head is malformed.
    pub request: Option<Request>,
    /// What it asked for, as soon as that was whole.
    pub whole: Option<Request>,
    /// The client has ended it.
    pub ended: bool,
    /// The client has reset it.
    pub reset: bool,
    /// It asks for a head alone, as far as that can be read: a refusal is one too then.
    pub is_head: bool,
    /// The first thing wrong with it: it is to be reset, or refused.
    pub fault: Option<&'static str>,
    /// `content-length`.
    pub(super) length: Option<u64>,
    /// Credit that the server has for it beside what the settings give.
    pub(super) credit: i64,
}

impl Stream {
    /// Whether the server has to say something about it, on a connection that goes on.
    #[must_use]
    pub fn is_owed(&self) -> bool {
        !self.reset && (self.ended || self.fault.is_some())
    }

    pub(super) fn takes(&self) -> bool {
        !self.ended && !self.reset && self.fault.is_none()
    }

    pub(super) fn blame(&mut self, why: &'static str) {
        self.fault = self.fault.or(Some(why));
    }

    /// Section 8.1: begins with a head.
    pub(super) fn opened(fields: &[Field], block: &Block) -> Self {
        let (request, length, fault) = match fields::head(fields) {
            Ok(Head { request, length }) => (Some(request), length, None),
            Err(why) => (None, None, Some(why)),
        };
        let mut stream = Self {
            request,
            whole: None,
            ended: false,
            reset: false,
            is_head: all(fields, ":method").first() == Some(&&b"HEAD"[..]),
            fault,
            length,
            credit: 0,
        };
        if block.itself {
            stream.blame(ITSELF);
        }
        if block.end_stream && length.is_some_and(|length| length > 0) {
            stream.blame(LESS);
        }
        stream.proceed(block.end_stream);
        stream
    }

    /// Section 8.1.1: as much as the head has said.
    pub(super) fn data(&mut self, content: &[u8], ended: bool) {
        let have = self.have() + content.len() as u64;
        match (self.length, &mut self.request) {
            (Some(length), _) if have > length => self.blame("more than content-length"),
            (Some(length), _) if ended && have < length => self.blame(LESS),
            (_, Some(request)) => request.body.extend(content),
            (_, None) => {}
        }
        self.proceed(ended);
    }

    /// Section 8.1: ends with a block of fields, perhaps.
    pub(super) fn trailers(&mut self, fields: &[Field], block: &Block) {
        if block.itself {
            self.blame(ITSELF);
        } else if !block.end_stream {
            self.blame("trailers that do not end it");
        } else if let Err(why) = fields::trailers(fields) {
            self.blame(why);
        } else if self.length.is_some_and(|length| self.have() < length) {
            self.blame(LESS);
        }
        self.proceed(block.end_stream);
    }

    /// Bytes of its body so far.
    fn have(&self) -> u64 {
        self.request.as_ref().map_or(0, |r| r.body.len() as u64)
    }

    /// Takes note of an end, and of a request that is whole.
    fn proceed(&mut self, ended: bool) {
        self.ended |= ended;
        if self.fault.is_none()
            && self.whole.is_none()
            && (ended || self.length == Some(self.have()))
        {
            self.whole.clone_from(&self.request);
        }
    }
}
