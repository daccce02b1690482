//! What a client of HTTP/2 says, as a strict and slow reader takes it: frames, blocks and the states of streams, from
//! RFC 9113 sections 4 to 8, to be checked by eye.
//!
//! A stream is whole once a server that speaks HTTP/1 to others may have passed all of it on: with its end, or with the
//! last byte that its `content-length` has promised. What is wrong with it later takes nothing of that back.

pub mod answers;
mod control;
pub mod fields;
pub mod hpack;
pub mod stream;

use std::collections::BTreeMap;

use crate::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PADDED, PING, PREFACE,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use hpack::Decoder;
use stream::Stream;

/// Type of the one frame that only servers send.
const PUSH_PROMISE: u8 = 5;
/// Flag of HEADERS: five bytes of priority come first.
const WITH_PRIORITY: u8 = 0x20;
/// Largest frame while nobody has said otherwise (section 4.2).
const LARGEST: usize = 16_384;
/// A window before anybody has said otherwise (section 6.9.2).
const WINDOW: i64 = 65_535;

/// Why there is no further frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The bytes end with a frame.
    Open,
    /// The bytes end inside a frame or a block.
    Short,
    /// The frame that ends at this byte, or its head, ends the connection.
    Broken(usize, &'static str),
}

/// What a client says.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Streams by number.
    pub streams: BTreeMap<u32, Stream>,
    /// Why it ends.
    pub end: End,
    /// A frame after which a server may end the connection, and need not (sections 5.1 and 5.4.2).
    pub loose: Option<&'static str>,
    /// The client has said that it goes: a server with nothing more to say to it may go too (section 6.8).
    pub leaves: bool,
    /// Payloads of PING.
    pub pings: Vec<Vec<u8>>,
    /// How many SETTINGS there are to be acknowledged.
    pub settings: usize,
}

/// Cuts the frame off that begins at `at`; `None` where it is not all there. A frame too large is given without its
/// payload.
#[must_use]
pub fn frame(bytes: &[u8], at: usize) -> Option<(Frame, usize)> {
    let head = bytes.get(at..at + 9)?;
    let length = head[..3].iter().fold(0, |n, b| n << 8 | usize::from(*b));
    let mut frame = Frame {
        kind: head[3],
        flags: head[4],
        stream: 0,
        payload: vec![0; length.min(LARGEST + 1)],
    };
    // Section 4.1: the first bit is ignored.
    let stream = head[5..].iter().fold(0, |n, b| n << 8 | u32::from(*b));
    frame.stream = stream & 0x7fff_ffff;
    if length > LARGEST {
        return Some((frame, at + 9));
    }
    frame.payload = bytes.get(at + 9..at + 9 + length)?.to_vec();
    Some((frame, at + 9 + length))
}

/// Reads all that a client says on a connection, its preface first.
///
/// # Panics
/// When the preface is not there: nobody here sends another.
#[must_use]
pub fn read(bytes: &[u8]) -> Reading {
    assert!(bytes.starts_with(PREFACE), "the preface");
    let mut reader = Reader::default();
    let mut at = PREFACE.len();
    let end = loop {
        let Some((frame, next)) = frame(bytes, at) else {
            if at == bytes.len() && reader.block.is_none() {
                break End::Open;
            }
            // What is out of place may be refused as soon as its head is there.
            if let Some(head) = bytes.get(at..at + 9)
                && !reader.fits(head[3], number(&head[5..]))
            {
                reader.loose = reader.loose.or(Some("half a frame out of place"));
            }
            break End::Short;
        };
        at = next;
        if let Err(why) = reader.frame(&frame) {
            break End::Broken(at, why);
        }
    };
    Reading {
        streams: reader.streams,
        end,
        loose: reader.loose,
        leaves: reader.leaves,
        pings: reader.pings,
        settings: reader.settings,
    }
}

fn number(bytes: &[u8]) -> u32 {
    let number = bytes.iter().take(4).fold(0, |n, b| n << 8 | u32::from(*b));
    number & 0x7fff_ffff
}

/// A block of which there is more to come.
#[derive(Debug)]
struct Block {
    stream: u32,
    end_stream: bool,
    itself: bool,
    bytes: Vec<u8>,
    parts: usize,
}

/// Why a connection ends.
type Read = Result<(), &'static str>;

struct Reader {
    streams: BTreeMap<u32, Stream>,
    loose: Option<&'static str>,
    leaves: bool,
    pings: Vec<Vec<u8>>,
    settings: usize,
    block: Option<Block>,
    decoder: Decoder,
    /// Credit of the connection, and what SETTINGS give each stream.
    credit: i64,
    initial: i64,
    connect: bool,
    empty: usize,
    updates: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            streams: BTreeMap::new(),
            loose: None,
            leaves: false,
            pings: Vec::new(),
            settings: 0,
            block: None,
            decoder: Decoder::default(),
            credit: WINDOW,
            initial: WINDOW,
            connect: false,
            empty: 0,
            updates: 0,
        }
    }
}

impl Reader {
    fn may_end(&mut self, why: &'static str) -> Read {
        self.loose = self.loose.or(Some(why));
        Ok(())
    }

    /// Sections 3.4 and 6.10: SETTINGS come first, and nothing comes within a block but the rest of it.
    fn fits(&self, kind: u8, stream: u32) -> bool {
        match &self.block {
            Some(block) => kind == CONTINUATION && stream == block.stream,
            None => kind != CONTINUATION && (self.settings > 0 || kind == SETTINGS),
        }
    }

    fn frame(&mut self, frame: &Frame) -> Read {
        if frame.payload.len() > LARGEST {
            return Err("a frame too large");
        }
        if !self.fits(frame.kind, frame.stream) {
            return Err("a frame out of place");
        }
        match frame.kind {
            DATA => self.data(frame),
            HEADERS => self.headers(frame),
            PRIORITY => self.priority(frame),
            RST_STREAM => self.rst_stream(frame),
            SETTINGS => self.settings(frame),
            PUSH_PROMISE => Err("PUSH_PROMISE of a client"),
            PING => self.ping(frame),
            GOAWAY => match frame.stream == 0 && frame.payload.len() >= 8 {
                true => {
                    self.leaves = true;
                    Ok(())
                }
                false => Err("GOAWAY"),
            },
            WINDOW_UPDATE => self.window_update(frame),
            CONTINUATION => self.continuation(frame),
            // Section 5.5: what nobody knows is ignored.
            _ => Ok(()),
        }
    }

    /// Section 5.1.1: streams of clients have odd numbers, each higher than the last; one that was left out is closed.
    fn is_idle(&self, stream: u32) -> bool {
        let highest = self.streams.keys().last().copied().unwrap_or(0);
        stream.is_multiple_of(2) || stream > highest
    }

    /// Sections 6.1 and 6.2: without padding, and without its length.
    fn unpadded(frame: &Frame) -> Result<&[u8], &'static str> {
        let payload = frame.payload.as_slice();
        if frame.flags & PADDED == 0 {
            return Ok(payload);
        }
        let (padding, rest) = payload.split_first().ok_or("no length of the padding")?;
        let content = rest.len().checked_sub(usize::from(*padding));
        Ok(&rest[..content.ok_or("more padding than payload")?])
    }

    /// More frames of no content than a server need take.
    fn count_empty(&mut self, frame: &Frame, content: &[u8]) -> Read {
        self.empty += usize::from(content.is_empty() && frame.flags & END_STREAM == 0);
        match self.empty > 10 {
            true => self.may_end("many empty frames"),
            false => Ok(()),
        }
    }

    /// Section 6.1.
    fn data(&mut self, frame: &Frame) -> Read {
        if frame.stream == 0 {
            return Err("DATA of no stream");
        }
        let content = Self::unpadded(frame)?.to_vec();
        self.count_empty(frame, &content)?;
        if self.is_idle(frame.stream) {
            return Err("DATA of an idle stream");
        }
        let stream = self.streams.get_mut(&frame.stream);
        let stream = stream.ok_or("DATA of a stream left out")?;
        let ended = frame.flags & END_STREAM != 0;
        if !stream.takes() {
            return self.late(frame.stream, ended);
        }
        stream.data(&content, ended);
        Ok(())
    }

    /// Section 5.1: what comes behind the end of a stream is its fault, or that of the connection where the other side
    /// has ended too; so is what comes behind a reset. Behind a fault it may have been under way to whoever resets the
    /// stream for that, who ignores it.
    fn late(&mut self, stream: u32, ended: bool) -> Read {
        match self.streams.get_mut(&stream) {
            Some(stream) if stream.ended => stream.blame("a frame behind its end"),
            Some(stream) if !stream.reset => {
                stream.ended = ended;
                return Ok(());
            }
            _ => {}
        }
        self.may_end("a frame of a closed stream")
    }

    /// Section 6.2.
    fn headers(&mut self, frame: &Frame) -> Read {
        if frame.stream == 0 {
            return Err("HEADERS of no stream");
        }
        let mut content = Self::unpadded(frame)?;
        self.count_empty(frame, content)?;
        let mut itself = false;
        if frame.flags & WITH_PRIORITY != 0 {
            let (priority, rest) = content.split_at_checked(5).ok_or("half a priority")?;
            itself = number(priority) == frame.stream;
            content = rest;
        }
        self.block = Some(Block {
            stream: frame.stream,
            end_stream: frame.flags & END_STREAM != 0,
            itself,
            bytes: content.to_vec(),
            parts: 0,
        });
        self.end_of_block(frame)
    }

    /// Section 6.10.
    fn continuation(&mut self, frame: &Frame) -> Read {
        let block = self.block.as_mut().ok_or("CONTINUATION of nothing")?;
        block.bytes.extend(&frame.payload);
        block.parts += 1;
        if block.parts > 8 {
            self.may_end("many CONTINUATION frames")?;
        }
        self.end_of_block(frame)
    }

    fn end_of_block(&mut self, frame: &Frame) -> Read {
        if frame.flags & END_HEADERS == 0 {
            return Ok(());
        }
        let Some(block) = self.block.take() else {
            return Ok(());
        };
        // Section 4.3: it is decoded whatever becomes of it.
        let fields = self.decoder.read(&block.bytes)?;
        let id = block.stream;
        if self.is_idle(id) {
            if id.is_multiple_of(2) {
                return Err("an even stream");
            }
            self.streams.insert(id, Stream::opened(&fields, &block));
        } else {
            let stream = self.streams.get_mut(&id);
            let stream = stream.ok_or("HEADERS of a stream left out")?;
            if !stream.takes() {
                return self.late(id, block.end_stream);
            }
            stream.trailers(&fields, &block);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
