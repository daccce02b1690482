//! Frames that come: each is checked against the state of its stream and of the connection (RFC
//! 9113 sections 5 and 6) before anything is done with it.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use bytes::{Buf, BytesMut};
use selvedge_contract::defaults::http2 as defaults;

use super::conn::{Conn, Fatal};
use super::frame::{self, HEADER, Header, PREFACE, Reason, WINDOW_MAX, flag, kind, word};
use super::settings::End;
use super::stream::Cut;

/// Payload of the PING that separates the two GOAWAYs of a graceful end.
pub(super) const DRAIN_PING: [u8; 8] = *b"selvdrn1";
/// Payload of the PING that asks a silent peer for a sign of life.
pub(super) const ALIVE_PING: [u8; 8] = *b"selvliv1";

impl Conn {
    /// Takes every whole frame out of what was read.
    ///
    /// # Errors
    /// What ends the connection.
    pub(super) fn receive(&mut self) -> Result<(), Fatal> {
        let mut input = std::mem::take(&mut self.input);
        let result = self.frames(&mut input);
        self.input = input;
        result
    }

    fn frames(&mut self, input: &mut BytesMut) -> Result<(), Fatal> {
        if self.preface > 0 {
            let want = PREFACE.get(PREFACE.len().saturating_sub(self.preface)..);
            let n = self.preface.min(input.len());
            if input.get(..n) != want.and_then(|w| w.get(..n)) {
                return Err(Reason::PROTOCOL_ERROR.into());
            }
            input.advance(n);
            self.preface = self.preface.saturating_sub(n);
            if self.preface > 0 {
                return Ok(());
            }
        }
        while let Some(header) = Header::read(input) {
            if header.length > defaults::FRAME as usize {
                return Err(Reason::FRAME_SIZE_ERROR.into());
            }
            // Nothing but a block's own CONTINUATION may follow it, and SETTINGS come first.
            let expected = match &self.block {
                Some(block) => header.kind == kind::CONTINUATION && header.stream == block.stream,
                None => self.peer.known || header.kind == kind::SETTINGS,
            };
            if !expected {
                return Err(Reason::PROTOCOL_ERROR.into());
            }
            if input.len() < HEADER.saturating_add(header.length) {
                break;
            }
            input.advance(HEADER);
            let (left, padding) = self.frame(header, input)?;
            input.advance(left.saturating_add(padding));
            if self.block.is_none() {
                self.whole = self.whole.wrapping_add(1);
            }
        }
        Ok(())
    }

    /// Takes one frame, whose header is gone from `input`. Gives what is left of it to skip.
    fn frame(&mut self, header: Header, input: &mut BytesMut) -> Result<(usize, usize), Fatal> {
        let payload = input.get(..header.length).unwrap_or_default();
        if header.kind == kind::DATA || header.kind == kind::HEADERS {
            let (content, padding) = unpadded(header, payload)?;
            self.budget.received(header, content)?;
            let before = content.saturating_add(padding);
            input.advance(header.length.saturating_sub(before));
            if header.kind == kind::DATA {
                let left = self.data(header, input, content)?;
                return Ok((left, padding));
            }
            let block = input.get(..content).unwrap_or_default();
            self.headers(header, block)?;
            return Ok((content, padding));
        }
        self.budget.received(header, header.length)?;
        match header.kind {
            kind::PRIORITY => self.priority(header, payload)?,
            kind::RST_STREAM => self.reset_by_peer(header, payload)?,
            kind::SETTINGS => self.settings(header, payload)?,
            kind::PUSH_PROMISE => return Err(Reason::PROTOCOL_ERROR.into()),
            kind::PING => self.ping(header, payload)?,
            kind::GOAWAY => self.goaway(header, payload)?,
            kind::WINDOW_UPDATE => self.window_update(header, payload)?,
            kind::CONTINUATION => self.continuation(header, payload)?,
            _ => {}
        }
        Ok((header.length, 0))
    }

    /// DATA, `content` bytes of it at the front of `input`. Gives how many of them are still there.
    fn data(
        &mut self,
        header: Header,
        input: &mut BytesMut,
        content: usize,
    ) -> Result<usize, Fatal> {
        let charge = i64::try_from(header.length).unwrap_or(i64::MAX);
        self.recv_window = self.recv_window.saturating_sub(charge);
        if self.recv_window < 0 {
            return Err(Reason::FLOW_CONTROL_ERROR.into());
        }
        let known = self.find(header.stream);
        let Some((key, stream)) =
            known.and_then(|key| Some((key, self.streams.get_mut(key as usize)?)))
        else {
            self.credit(header.length);
            self.closed(header.stream)?;
            return Ok(content);
        };
        if let Some(cut) = stream.cut {
            self.credit(header.length);
            // What crossed our reset on the way is no error.
            return if cut.remote {
                Err(Reason::STREAM_CLOSED.into())
            } else {
                Ok(content)
            };
        }
        let wrong = if stream.recv_ended {
            Some(Reason::STREAM_CLOSED)
        } else if self.end == End::Client && !stream.has_head {
            Some(Reason::PROTOCOL_ERROR)
        } else {
            stream.recv_window = stream.recv_window.saturating_sub(charge);
            let ended = header.has(flag::END_STREAM);
            let left = match stream.expected {
                Some(expected) => expected.checked_sub(content as u64),
                None => Some(0),
            };
            if stream.recv_window < 0 {
                Some(Reason::FLOW_CONTROL_ERROR)
            } else if left.is_none_or(|left| ended && left > 0) {
                // More or less than the head has said (RFC 9113 section 8.1.1).
                Some(Reason::PROTOCOL_ERROR)
            } else {
                stream.expected = stream.expected.and(left);
                None
            }
        };
        if let Some(reason) = wrong {
            self.credit(header.length);
            self.stream_error(key, reason)?;
            return Ok(content);
        }
        stream.recv_ended = header.has(flag::END_STREAM);
        stream.push(input, content);
        stream.wake();
        // A large payload has left the input, a small one was copied.
        let left = if content < super::stream::SMALL {
            content
        } else {
            0
        };
        let padding = header.length.saturating_sub(content);
        if padding > 0 {
            self.taken(key, padding);
        }
        self.settle(key);
        Ok(left)
    }

    /// Resets a stream for what its peer did.
    pub(super) fn stream_error(&mut self, key: u32, reason: Reason) -> Result<(), Fatal> {
        if self.end == End::Server {
            self.budget.provoked()?;
        }
        let over = self.stream(key).is_none_or(|stream| stream.is_over());
        if over && let Some(id) = self.stream(key).map(|stream| stream.id) {
            self.put_reset(id, reason);
        }
        self.reset(key, reason);
        Ok(())
    }

    fn priority(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        if header.stream == 0 {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        let wrong = match word(payload, 0) {
            _ if payload.len() != 5 => Reason::FRAME_SIZE_ERROR,
            Some(on) if on & frame::STREAM_MAX == header.stream => Reason::PROTOCOL_ERROR,
            _ => return Ok(()),
        };
        match self.find(header.stream) {
            Some(key) => self.stream_error(key, wrong),
            None => Err(wrong.into()),
        }
    }

    fn reset_by_peer(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        if payload.len() != 4 {
            return Err(Reason::FRAME_SIZE_ERROR.into());
        }
        let reason = Reason(word(payload, 0).unwrap_or_default());
        let end = self.end;
        let Some(key) = self.find(header.stream) else {
            return self.idle(header.stream);
        };
        let Some(stream) = self.stream(key) else {
            return Ok(());
        };
        // An answer that is complete stays so, however the endpoint says that it wants no more of
        // the request. A client that resets wants no answer, whatever it had sent.
        if stream.recv_ended && end == End::Client {
            stream.stopped = true;
            stream.send_ended = true;
            stream.wake();
            self.settle(key);
            return Ok(());
        }
        // What an endpoint said before it broke off was said: an answer that has begun is no answer
        // that never came.
        if end == End::Server {
            let unread = stream.discard();
            self.credit(unread);
        }
        self.cut(
            key,
            Cut {
                reason,
                remote: true,
                refused: reason == Reason::REFUSED_STREAM,
            },
        );
        Ok(())
    }

    /// RST_STREAM and WINDOW_UPDATE may come for a stream that is over, not for one that has not
    /// begun. All streams are the client's, with odd numbers: nothing is pushed.
    pub(super) fn idle(&self, id: u32) -> Result<(), Fatal> {
        if id.is_multiple_of(2) || id > self.highest {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        Ok(())
    }

    fn settings(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        if header.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        if header.has(flag::ACK) {
            return match payload.len() {
                0 if self.peer.known => Ok(()),
                0 => Err(Reason::PROTOCOL_ERROR.into()),
                _ => Err(Reason::FRAME_SIZE_ERROR.into()),
            };
        }
        let before = self.peer;
        self.peer.take(payload, self.end)?;
        self.size_update |= self.peer.table_shrunk && !before.table_shrunk;
        let step = i64::from(self.peer.window).saturating_sub(before.window.into());
        if step != 0 {
            let live = self.streams.iter_mut().filter(|s| s.id > 0 && !s.is_over());
            for stream in live {
                stream.send_window = stream.send_window.saturating_add(step);
                if stream.send_window > WINDOW_MAX {
                    return Err(Reason::FLOW_CONTROL_ERROR.into());
                }
                if stream.send_window > 0 {
                    stream.wake();
                }
            }
        }
        if !before.known || self.peer.streams > before.streams {
            self.knows_peer();
        }
        frame::put_settings_ack(&mut self.output);
        self.queued_control(HEADER)?;
        Ok(())
    }

    fn ping(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        let Ok(opaque) = <[u8; 8]>::try_from(payload) else {
            return Err(Reason::FRAME_SIZE_ERROR.into());
        };
        if header.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        if header.has(flag::ACK) {
            self.pong |= opaque == DRAIN_PING || opaque == ALIVE_PING;
            return Ok(());
        }
        frame::put_ping(&mut self.output, true, opaque);
        self.queued_control(HEADER + 8)?;
        Ok(())
    }

    fn goaway(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        if header.stream != 0 {
            return Err(Reason::PROTOCOL_ERROR.into());
        }
        let last = word(payload, 0).ok_or(Reason::FRAME_SIZE_ERROR)? & frame::STREAM_MAX;
        let reason = Reason(word(payload, 4).ok_or(Reason::FRAME_SIZE_ERROR)?);
        self.peer_leaving = true;
        if self.end == End::Server {
            return Ok(());
        }
        for key in 0..u32::try_from(self.streams.len()).unwrap_or(0) {
            if self.stream(key).is_some_and(|stream| stream.id > last) {
                self.cut(
                    key,
                    Cut {
                        reason,
                        remote: true,
                        refused: true,
                    },
                );
            }
        }
        Ok(())
    }

    fn window_update(&mut self, header: Header, payload: &[u8]) -> Result<(), Fatal> {
        if payload.len() != 4 {
            return Err(Reason::FRAME_SIZE_ERROR.into());
        }
        let step = i64::from(word(payload, 0).unwrap_or_default() & frame::STREAM_MAX);
        if header.stream == 0 {
            self.send_window = self.send_window.saturating_add(step);
            if step == 0 {
                return Err(Reason::PROTOCOL_ERROR.into());
            }
            if self.send_window > WINDOW_MAX {
                return Err(Reason::FLOW_CONTROL_ERROR.into());
            }
            self.unblock();
            return Ok(());
        }
        let Some(key) = self.find(header.stream) else {
            return self.idle(header.stream);
        };
        let Some(stream) = self.stream(key) else {
            return Ok(());
        };
        if step == 0 {
            return self.stream_error(key, Reason::PROTOCOL_ERROR);
        }
        stream.send_window = stream.send_window.saturating_add(step);
        if stream.send_window > WINDOW_MAX {
            return self.stream_error(key, Reason::FLOW_CONTROL_ERROR);
        }
        if stream.blocked {
            stream.blocked = false;
            stream.wake();
        }
        Ok(())
    }

    /// Body bytes of a stream were taken, or were padding: gives credit for them.
    pub(super) fn taken(&mut self, key: u32, bytes: usize) {
        let window = self.own.stream_window;
        if let Some(stream) = self.stream(key) {
            stream.owed = stream
                .owed
                .saturating_add(u32::try_from(bytes).unwrap_or(0));
            if stream.owed >= window / 2 && !stream.recv_ended && stream.cut.is_none() {
                stream.recv_window = stream.recv_window.saturating_add(stream.owed.into());
                let (id, credit) = (stream.id, std::mem::take(&mut stream.owed));
                frame::put_window_update(&mut self.output, id, credit);
                self.wake_driver();
            }
        }
        self.credit(bytes);
    }
}

/// How much of DATA or HEADERS is content, and how much is padding behind it.
fn unpadded(header: Header, payload: &[u8]) -> Result<(usize, usize), Reason> {
    if !header.has(flag::PADDED) {
        return Ok((payload.len(), 0));
    }
    let padding = usize::from(*payload.first().ok_or(Reason::FRAME_SIZE_ERROR)?);
    let content = payload
        .len()
        .saturating_sub(1)
        .checked_sub(padding)
        .ok_or(Reason::PROTOCOL_ERROR)?;
    Ok((content, padding))
}
