//! Frames of HTTP/2 that carry no request, for the oracle (RFC 9113 sections 6.3 to 6.9).

use super::{Frame, Read, Reader, number};
use crate::http2::ACK;

/// Largest window (section 6.9.1).
const WINDOW_MAX: i64 = (1 << 31) - 1;
/// More than the answers of one connection can have taken of a window.
const SLACK: i64 = 32 << 10;

impl Reader {
    /// Section 6.3: an error of the stream where there is one.
    pub(super) fn priority(&mut self, frame: &Frame) -> Read {
        if frame.stream == 0 {
            return Err("PRIORITY of no stream");
        }
        if frame.payload.len() == 5 && number(&frame.payload) != frame.stream {
            return Ok(());
        }
        if let Some(stream) = self.streams.get_mut(&frame.stream) {
            stream.blame("PRIORITY");
        }
        self.may_end("PRIORITY")
    }

    /// Section 6.4.
    pub(super) fn rst_stream(&mut self, frame: &Frame) -> Read {
        if frame.payload.len() != 4 || self.is_idle(frame.stream) {
            return Err("RST_STREAM");
        }
        if let Some(stream) = self.streams.get_mut(&frame.stream) {
            stream.reset = true;
        }
        Ok(())
    }

    /// Section 6.5, and RFC 8441 section 3.
    pub(super) fn settings(&mut self, frame: &Frame) -> Read {
        if frame.stream != 0 {
            return Err("SETTINGS of a stream");
        }
        if frame.flags & ACK != 0 {
            return match frame.payload.is_empty() && self.settings > 0 {
                true => Ok(()),
                false => Err("SETTINGS with ACK"),
            };
        }
        if !frame.payload.len().is_multiple_of(6) {
            return Err("SETTINGS of an odd length");
        }
        for entry in frame.payload.chunks(6) {
            let value = entry[2..].iter().fold(0, |n, b| n << 8 | i64::from(*b));
            let fine = match entry[..2] {
                [0, 2] => value <= 1,
                [0, 4] => value <= WINDOW_MAX,
                [0, 5] => (16_384..1 << 24).contains(&value),
                [0, 8] => value == 1 || value == 0 && !self.connect,
                _ => true,
            };
            if !fine {
                return Err("a value of SETTINGS");
            }
            self.connect |= entry[..2] == [0, 8] && value == 1;
            if entry[..2] == [0, 4] {
                self.initial = value;
            }
        }
        self.settings += 1;
        // Section 6.9.2: of streams that are still open on the other side.
        let most = self.streams.values().map(|s| s.credit).max();
        match most.is_some_and(|credit| credit + self.initial > WINDOW_MAX) {
            true => self.may_end("SETTINGS open a window too far"),
            false => Ok(()),
        }
    }

    /// Section 6.7.
    pub(super) fn ping(&mut self, frame: &Frame) -> Read {
        if frame.stream != 0 || frame.payload.len() != 8 {
            return Err("PING");
        }
        if frame.flags & ACK == 0 {
            self.pings.push(frame.payload.clone());
        }
        Ok(())
    }

    /// Section 6.9.
    pub(super) fn window_update(&mut self, frame: &Frame) -> Read {
        if frame.payload.len() != 4 {
            return Err("WINDOW_UPDATE of an odd length");
        }
        self.updates += 1;
        if self.updates > 5 {
            self.may_end("many WINDOW_UPDATE frames")?;
        }
        let step = i64::from(number(&frame.payload));
        if frame.stream == 0 {
            self.credit += step;
            return match () {
                () if step == 0 || self.credit > WINDOW_MAX + SLACK => Err("WINDOW_UPDATE"),
                () if self.credit > WINDOW_MAX => self.may_end("WINDOW_UPDATE"),
                () => Ok(()),
            };
        }
        if self.is_idle(frame.stream) {
            return Err("WINDOW_UPDATE of an idle stream");
        }
        let initial = self.initial;
        let Some(stream) = self.streams.get_mut(&frame.stream) else {
            return Ok(());
        };
        stream.credit += step;
        if step == 0 || stream.credit + initial > WINDOW_MAX {
            stream.blame("WINDOW_UPDATE");
        }
        Ok(())
    }
}
