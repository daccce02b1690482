//! Header blocks that come: put together, decoded, and given to the stream they begin or end (RFC
//! 9113 sections 5.1, 6.2 and 8.1).

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use bytes::BytesMut;
use selvedge_contract::defaults::http2 as defaults;

use super::budget::Abuse;
use super::conn::{Block, Conn, Fatal, Incoming, Leaving};
use super::frame::{self, Header, Reason, flag, word};
use super::head::{Head, Kind};
use super::settings::End;
use super::stream::INTERIM;

impl Conn {
    /// HEADERS, without padding.
    pub(super) fn headers(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        if header.stream == 0 {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        let (block, self_dependent) = if header.has(flag::PRIORITY) {
            let depends_on = word(payload, 0).ok_or(Reason::FRAME_SIZE_ERROR)?;
            let block = payload.get(5..).ok_or(Reason::FRAME_SIZE_ERROR)?;
            (block, depends_on & frame::STREAM_MAX == header.stream)
        } else {
            (payload, false)
        };
        let end_stream = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            return self.block(header.stream, end_stream, self_dependent, block);
        }
        self.block = Some(Block {
            stream: header.stream,
            end_stream,
            self_dependent,
            bytes: BytesMut::from(block),
        });
        Ok(())
    }

    pub(super) fn continuation(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        let mut block = self.block.take().ok_or(Reason::PROTOCOL_ERROR)?;
        if block.bytes.len().saturating_add(payload.len())
            > self.own.header_block.saturating_mul(defaults::HEAD_FACTOR)
        {
            return Err(Abuse::Head.into());
        }
        block.bytes.extend_from_slice(payload);
        if header.has(flag::END_HEADERS) {
            let bytes = block.bytes.freeze();
            return self.block(block.stream, block.end_stream, block.self_dependent, &bytes);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole header block. It is decoded whatever becomes of it: the tables of both ends must
    /// stay alike.
    fn block(
        &mut self,
        id: u32,
        end_stream: bool,
        self_dependent: bool,
        block: &[u8],
    ) -> Result<(), Fatal> {
        let key = self.find(id);
        let has_head = key
            .and_then(|key| self.stream(key))
            .is_some_and(|stream| stream.has_head);
        let kind = match self.end {
            _ if has_head => Kind::Trailers,
            End::Server => Kind::Request,
            End::Client => Kind::Response,
        };
        let head = Head::read(self, block, kind)?;
        let Some(key) = key else {
            return match self.end {
                End::Server if id > self.highest => {
                    self.request(id, end_stream, self_dependent, head)
                }
                _ => self.closed(id),
            };
        };
        let Some(stream) = self.stream(key) else {
            return Ok(());
        };
        match stream.cut {
            Some(cut) if cut.remote => return Err(Reason::STREAM_CLOSED.into()),
            Some(_) => return Ok(()),
            None if stream.recv_ended => return self.stream_error(key, Reason::STREAM_CLOSED),
            None if self_dependent || head.malformed => {
                return self.stream_error(key, Reason::PROTOCOL_ERROR);
            }
            None => {}
        }
        match kind {
            Kind::Trailers => self.trailers(key, end_stream, head),
            _ => self.response(key, end_stream, head),
        }
    }

    fn trailers(&mut self, key: u32, end_stream: bool, head: Head) -> Result<(), Fatal> {
        let Some(stream) = self.stream(key) else {
            return Ok(());
        };
        let complete = stream.expected.is_none_or(|left| left == 0);
        if !end_stream || !complete || head.too_large {
            return self.stream_error(key, Reason::PROTOCOL_ERROR);
        }
        stream.trailers = Some(head.fields);
        stream.recv_ended = true;
        stream.wake();
        self.settle(key);
        Ok(())
    }

    fn response(&mut self, key: u32, end_stream: bool, head: Head) -> Result<(), Fatal> {
        let Some(stream) = self.stream(key) else {
            return Ok(());
        };
        let interim = head.status.is_some_and(|status| status.is_informational());
        let length = if interim || stream.head_only || head.is_bodiless() {
            None
        } else {
            head.length
        };
        let short = end_stream && length.is_some_and(|length| length > 0);
        let many = interim && stream.heads.len() >= INTERIM;
        if (interim && end_stream) || short || many || head.too_large {
            return self.stream_error(key, Reason::PROTOCOL_ERROR);
        }
        stream.has_head = !interim;
        stream.expected = length;
        stream.recv_ended = end_stream;
        stream.answered = true;
        stream.heads.extend(head.into_response());
        stream.wake();
        self.settle(key);
        Ok(())
    }

    /// A stream that the client opens.
    fn request(
        &mut self,
        id: u32,
        end_stream: bool,
        self_dependent: bool,
        head: Head,
    ) -> Result<(), Fatal> {
        if id.is_multiple_of(2) {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        self.highest = id;
        if self.is_turned_away(id) {
            return Ok(());
        }
        // Streams that the client has reset, but whose exchange still holds on, count once more.
        let full = self.live() >= self.own.streams
            || self.held() >= (self.own.streams as usize).saturating_mul(2);
        if full {
            self.budget.refused()?;
            self.put_reset(id, Reason::REFUSED_STREAM);
            return Ok(());
        }
        let short = end_stream && head.length.is_some_and(|length| length > 0);
        if head.malformed || self_dependent || short {
            self.budget.provoked()?;
            self.put_reset(id, Reason::PROTOCOL_ERROR);
            self.accepted.push_back(Incoming {
                key: None,
                head,
                ended: true,
            });
            return Ok(());
        }
        let key = self.begin(id);
        if let Some(stream) = self.stream(key) {
            stream.has_head = true;
            stream.expected = head.length;
            stream.recv_ended = end_stream;
        }
        self.accepted.push_back(Incoming {
            key: Some(key),
            head,
            ended: end_stream,
        });
        Ok(())
    }

    /// Whether a stream came after the last word of a graceful end.
    fn is_turned_away(&self, id: u32) -> bool {
        matches!(self.leaving, Leaving::Settled(last) if id > last)
    }

    /// A frame on a stream that nobody holds: fine if its reset crossed the frame, an error if the
    /// peer had ended it itself, or never begun. An upstream is taken at its word: the connection
    /// carries the streams of others.
    pub(super) fn closed(&self, id: u32) -> Result<(), Fatal> {
        if self.was_reset(id) || self.is_turned_away(id) {
            return Ok(());
        }
        if self.end == End::Client {
            return self.idle(id);
        }
        self.idle(id)?;
        Err(Reason::STREAM_CLOSED.into())
    }
}
