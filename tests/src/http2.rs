//! HTTP/2 by hand: any frame, well-formed or not, and as much of a reader as it takes to see how
//! a stream or a connection ended. No dynamic table, no Huffman but the digits of a status.

#![expect(clippy::unwrap_used, reason = "a rig fails where a test would")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::PATIENCE;

/// The client's connection preface.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types.
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
/// See [`DATA`].
pub const PRIORITY: u8 = 2;
/// See [`DATA`].
pub const RST_STREAM: u8 = 3;
/// See [`DATA`].
pub const SETTINGS: u8 = 4;
/// See [`DATA`].
pub const PING: u8 = 6;
/// See [`DATA`].
pub const GOAWAY: u8 = 7;
/// See [`DATA`].
pub const WINDOW_UPDATE: u8 = 8;
/// See [`DATA`].
pub const CONTINUATION: u8 = 9;

/// Flags.
pub const END_STREAM: u8 = 1;
/// See [`END_STREAM`]: of SETTINGS and PING.
pub const ACK: u8 = 1;
/// See [`END_STREAM`].
pub const END_HEADERS: u8 = 4;
/// See [`END_STREAM`].
pub const PADDED: u8 = 8;

/// Codes.
pub const NO_ERROR: u32 = 0;
/// See [`NO_ERROR`].
pub const PROTOCOL_ERROR: u32 = 1;
/// See [`NO_ERROR`].
pub const FLOW_CONTROL_ERROR: u32 = 3;
/// See [`NO_ERROR`].
pub const STREAM_CLOSED: u32 = 5;
/// See [`NO_ERROR`].
pub const FRAME_SIZE_ERROR: u32 = 6;
/// See [`NO_ERROR`].
pub const REFUSED_STREAM: u32 = 7;
/// See [`NO_ERROR`].
pub const CANCEL: u32 = 8;
/// See [`NO_ERROR`].
pub const COMPRESSION_ERROR: u32 = 9;
/// See [`NO_ERROR`].
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Type.
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream.
    pub stream: u32,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The 32 bits at this place.
    #[must_use]
    pub fn word(&self, at: usize) -> u32 {
        let bytes = self.payload.get(at..at + 4).unwrap_or(&[0; 4]);
        bytes.iter().fold(0, |word, b| word << 8 | u32::from(*b))
    }
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With a whole answer: status and body.
    Answer(u16, Vec<u8>),
    /// With RST_STREAM.
    Reset(u32),
    /// With GOAWAY.
    Goaway(u32),
    /// With the connection, without a word.
    Closed,
}

/// The bytes of a frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field as a literal without indexing, never Huffman.
#[must_use]
pub fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = vec![0];
    string(name.as_ref(), &mut bytes);
    string(value.as_ref(), &mut bytes);
    bytes
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    integer(0, 7, text.len(), out);
    out.extend(text);
}

/// An HPACK integer behind the first bits of a byte.
pub fn integer(first: u8, prefix: u8, mut value: usize, out: &mut Vec<u8>) {
    let most = (1usize << prefix) - 1;
    if value < most {
        out.push(first | u8::try_from(value).unwrap());
        return;
    }
    out.push(first | u8::try_from(most).unwrap());
    value -= most;
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

/// A block of fields.
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(n, v)| field(n, v)).collect()
}

/// A well-formed block for a method and a path, then more fields.
#[must_use]
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = block(&[
        (":method", method),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", path),
    ]);
    bytes.extend(block(more));
    bytes
}

/// A HEADERS frame that ends its block, and perhaps its stream.
#[must_use]
pub fn headers(stream: u32, block: &[u8], end_stream: bool) -> Vec<u8> {
    let flags = END_HEADERS | if end_stream { END_STREAM } else { 0 };
    frame(HEADERS, flags, stream, block)
}

/// RST_STREAM with CANCEL.
#[must_use]
pub fn reset(stream: u32) -> Vec<u8> {
    reset_for(stream, CANCEL)
}

/// RST_STREAM with this code.
#[must_use]
pub fn reset_for(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

/// DATA, perhaps the last.
#[must_use]
pub fn data(stream: u32, payload: impl AsRef<[u8]>, end_stream: bool) -> Vec<u8> {
    frame(DATA, u8::from(end_stream), stream, payload.as_ref())
}

/// WINDOW_UPDATE.
#[must_use]
pub fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// SETTINGS.
#[must_use]
pub fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let entry = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(
        SETTINGS,
        0,
        0,
        &entries.iter().flat_map(entry).collect::<Vec<_>>(),
    )
}

/// A connection.
pub struct Http2 {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Frames read for one stream while another was looked at.
    read: Vec<Frame>,
}

impl Http2 {
    /// Connects, and sends preface and SETTINGS: no dynamic table, and `more`.
    #[must_use]
    pub fn connect(address: SocketAddr, more: &[(u16, u32)]) -> Self {
        Self::silent(address).greeting(more)
    }

    fn greeting(mut self, more: &[(u16, u32)]) -> Self {
        self.send(PREFACE);
        self.send(settings(&[&[(1, 0)], more].concat()));
        self
    }

    /// [`Self::connect`], where the kernel takes no more than this many bytes before they are read.
    #[must_use]
    pub fn narrow(address: SocketAddr, more: &[(u16, u32)], room: usize) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        // Before it connects: the window that is offered then is not taken back.
        socket.set_recv_buffer_size(room).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into()).greeting(more)
    }

    /// Connects, and says nothing.
    #[must_use]
    pub fn silent(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
            read: Vec::new(),
        }
    }

    /// Takes over a connection that a peer has opened, and reads its preface.
    #[must_use]
    pub fn accept(stream: TcpStream) -> Option<Self> {
        let mut this = Self::over(stream);
        let preface = this.exactly(PREFACE.len())?;
        (preface == PREFACE).then_some(this)
    }

    /// Sends; says whether the peer took it. What it said before it closed is still to be read.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends a GET.
    pub fn get(&mut self, stream: u32, path: &str) -> bool {
        self.send(headers(stream, &request("GET", path, &[]), true))
    }

    /// Gives the next frame; `None` at the end of the connection.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let head = self.exactly(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = [head[5] & 0x7f, head[6], head[7], head[8]];
        let payload = self.exactly(length)?;
        Some(Frame {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }

    fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut part = [0; 16 << 10];
        while self.buffer.len() < count {
            let n = self.stream.read(&mut part).ok().filter(|n| *n > 0)?;
            self.buffer.extend_from_slice(&part[..n]);
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// Gives the next frame that fits, and keeps the others.
    ///
    /// # Panics
    /// When the connection ends before.
    pub fn find(&mut self, fits: impl Fn(&Frame) -> bool) -> Frame {
        if let Some(at) = self.read.iter().position(&fits) {
            return self.read.remove(at);
        }
        loop {
            let frame = self.next_frame().unwrap();
            if fits(&frame) {
                return frame;
            }
            self.read.push(frame);
        }
    }

    /// Waits until the peer has dealt with all that was sent. Twice there and back: what the first
    /// PING came with, the peer's tasks have begun before they read the second.
    pub fn settle(&mut self) {
        for _ in 0..2 {
            self.send(frame(PING, 0, 0, b"settling"));
            self.find(|f| f.kind == PING && f.flags == ACK && f.payload == b"settling");
        }
    }

    /// Credit for a stream that has come since this was last asked.
    pub fn credited(&mut self, stream: u32) -> usize {
        let updates = |f: &mut Frame| f.kind == WINDOW_UPDATE && f.stream == stream;
        let updates = self.read.extract_if(.., updates);
        updates.map(|f| f.word(0) as usize).sum()
    }

    /// Reads until a stream has ended.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let (mut status, mut body) = (0, Vec::new());
        let mut kept = std::mem::take(&mut self.read).into_iter();
        let mut others = Vec::new();
        let outcome = loop {
            let Some(frame) = kept.next().or_else(|| self.next_frame()) else {
                break Outcome::Closed;
            };
            if frame.kind == GOAWAY && frame.word(4) != 0 {
                break Outcome::Goaway(frame.word(4));
            }
            if frame.stream != stream || frame.kind == WINDOW_UPDATE {
                others.extend(Some(frame).filter(|f| f.stream != 0));
                continue;
            }
            match frame.kind {
                RST_STREAM => break Outcome::Reset(frame.word(0)),
                // Trailers have no status.
                HEADERS => status = status_of(&frame.payload).unwrap_or(status),
                DATA => body.extend_from_slice(&frame.payload),
                _ => {}
            }
            if frame.flags & END_STREAM != 0 {
                break Outcome::Answer(status, body);
            }
        };
        others.extend(kept);
        self.read = others;
        outcome
    }

    /// Reads until the connection has ended; gives the code of its last GOAWAY, and all frames.
    pub fn end(&mut self) -> (Option<u32>, Vec<Frame>) {
        let mut frames = std::mem::take(&mut self.read);
        while let Some(frame) = self.next_frame() {
            frames.push(frame);
        }
        let goaway = frames.iter().rev().find(|f| f.kind == GOAWAY);
        (goaway.map(|f| f.word(4)), frames)
    }

    /// The socket.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// The status at the start of a block.
#[must_use]
pub fn status_of(mut block: &[u8]) -> Option<u16> {
    // Changes of the table's size come first.
    while let [first, rest @ ..] = block
        && first & 0xe0 == 0x20
    {
        block = if first & 0x1f == 0x1f {
            rest.get(1..)?
        } else {
            rest
        };
    }
    match block {
        [first @ 0x88..=0x8e, ..] => {
            Some([200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)])
        }
        // A literal whose name is entry 8: indexed, not indexed, or never indexed.
        [0x48 | 0x08 | 0x18, length, rest @ ..] => {
            let text = rest.get(..usize::from(length & 0x7f))?;
            if length & 0x80 == 0 {
                return std::str::from_utf8(text).ok()?.parse().ok();
            }
            digits(text)
        }
        _ => None,
    }
}

/// Three Huffman-coded digits: 0 to 2 in five bits, 3 to 9 in six.
fn digits(text: &[u8]) -> Option<u16> {
    let mut bits = text
        .iter()
        .flat_map(|b| (0..8).rev().map(move |at| u32::from(b >> at & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let mut code = 0;
        for _ in 0..5 {
            code = code << 1 | bits.next()?;
        }
        let digit = if code <= 2 {
            code
        } else {
            (code << 1 | bits.next()?).checked_sub(0b01_1001)? + 3
        };
        number = number * 10 + u16::try_from(digit).ok()?;
    }
    Some(number)
}
