//! Reading and writing bodies of HTTP/1 (RFC 9112 sections 6 and 7): lengths and chunks.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::ErrorKind;
use crate::message::Fields;

use super::parse;

/// Bounds on what surrounds the data of a chunked body.
#[derive(Debug, Clone, Copy)]
pub struct ChunkLimits {
    /// Bytes of chunk extensions in the whole body.
    pub extension: usize,
    /// Bytes of trailers.
    pub trailer_block: usize,
    /// Fields in trailers.
    pub trailer_count: usize,
}

/// What the decoder made of the bytes it has.
#[derive(Debug)]
pub enum Decoded {
    /// Body bytes.
    Data(Bytes),
    /// The body is over; trailers where there were any.
    End(Option<Fields>),
    /// More bytes are needed.
    Partial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a chunk-size line; `seen` bytes of it were searched for its end.
    Size { seen: usize },
    /// In chunk data.
    Data { left: u64 },
    /// Behind chunk data: CRLF.
    DataEnd,
    /// In the trailer section.
    Trailers { seen: usize },
    /// At the end.
    Done,
}

/// Reads a body off a connection's buffer.
#[derive(Debug)]
pub enum Decoder {
    /// A body of known length: bytes left.
    Length(u64),
    /// A chunked body.
    Chunked(ChunkDecoder),
    /// Everything until the connection closes.
    UntilClose,
}

/// The state of a chunked body.
#[derive(Debug)]
pub struct ChunkDecoder {
    state: State,
    extension: usize,
    limits: ChunkLimits,
}

/// A chunk-size line: 16 digits and extensions. A line without an end within this many bytes and
/// the extension limit is not one.
const SIZE_DIGITS: usize = 16;

impl Decoder {
    /// A decoder for a chunked body.
    #[must_use]
    pub const fn chunked(limits: ChunkLimits) -> Self {
        Self::Chunked(ChunkDecoder {
            state: State::Size { seen: 0 },
            extension: 0,
            limits,
        })
    }

    /// Whether nothing more belongs to this body.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => matches!(chunks.state, State::Done),
            Self::UntilClose => false,
        }
    }

    /// Whether the end of the connection ends this body well.
    #[must_use]
    pub const fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }

    /// Takes what there is.
    ///
    /// # Errors
    /// [`ErrorKind::BadBody`] where chunks are not well formed or over their limits.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, ErrorKind> {
        match self {
            Self::Length(0) => Ok(Decoded::End(None)),
            Self::Length(left) => Ok(take(buffer, left).map_or(Decoded::Partial, Decoded::Data)),
            Self::UntilClose if buffer.is_empty() => Ok(Decoded::Partial),
            Self::UntilClose => Ok(Decoded::Data(buffer.split().freeze())),
            Self::Chunked(chunks) => chunks.decode(buffer),
        }
    }
}

/// Splits off what belongs to a body with `left` bytes to go.
fn take(buffer: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let have = usize::try_from(*left)
        .unwrap_or(usize::MAX)
        .min(buffer.len());
    if have == 0 {
        return None;
    }
    *left = left.saturating_sub(have as u64);
    Some(buffer.split_to(have).freeze())
}

impl ChunkDecoder {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, ErrorKind> {
        loop {
            match self.state {
                State::Size { seen } => match self.size_line(buffer, seen)? {
                    None => return Ok(Decoded::Partial),
                    Some(0) => self.state = State::Trailers { seen: 0 },
                    Some(left) => self.state = State::Data { left },
                },
                State::Data { mut left } => {
                    let data = take(buffer, &mut left);
                    self.state = if left == 0 {
                        State::DataEnd
                    } else {
                        State::Data { left }
                    };
                    return Ok(data.map_or(Decoded::Partial, Decoded::Data));
                }
                State::DataEnd => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        self.state = State::Size { seen: 0 };
                    }
                    Some(_) => return Err(ErrorKind::BadBody),
                    None if buffer.first().is_some_and(|b| *b != b'\r') => {
                        return Err(ErrorKind::BadBody);
                    }
                    None => return Ok(Decoded::Partial),
                },
                State::Trailers { seen } => return self.trailers(buffer, seen),
                State::Done => return Ok(Decoded::End(None)),
            }
        }
    }

    /// Reads a chunk-size line; gives the size. Extensions are counted and dropped.
    fn size_line(&mut self, buffer: &mut BytesMut, seen: usize) -> Result<Option<u64>, ErrorKind> {
        let rest = buffer.get(seen..).unwrap_or_default();
        let Some(lf) = memchr::memchr(b'\n', rest) else {
            let spent = buffer.len().saturating_sub(SIZE_DIGITS + 2);
            if self.extension.saturating_add(spent) > self.limits.extension {
                return Err(ErrorKind::BadBody);
            }
            self.state = State::Size { seen: buffer.len() };
            // Junk is refused at once: it cannot become a size line any more.
            return match buffer.first() {
                Some(first) if !first.is_ascii_hexdigit() => Err(ErrorKind::BadBody),
                _ => Ok(None),
            };
        };
        let line = buffer.split_to(seen.saturating_add(lf).saturating_add(1));
        let line = line.strip_suffix(b"\r\n").ok_or(ErrorKind::BadBody)?;
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (digits, extension) = line.split_at(digits);
        if digits.is_empty() || digits.len() > SIZE_DIGITS {
            return Err(ErrorKind::BadBody);
        }
        // White space before `;` is allowed to no sender; the rest must be field-value bytes.
        if !matches!(extension.first(), None | Some(b';')) || !parse::is_value(extension) {
            return Err(ErrorKind::BadBody);
        }
        self.extension = self.extension.saturating_add(extension.len());
        if self.extension > self.limits.extension {
            return Err(ErrorKind::BadBody);
        }
        let size = digits.iter().fold(0u64, |size, digit| {
            let value = char::from(*digit).to_digit(16).unwrap_or(0);
            size << 4 | u64::from(value)
        });
        Ok(Some(size))
    }

    fn trailers(&mut self, buffer: &mut BytesMut, seen: usize) -> Result<Decoded, ErrorKind> {
        match parse::find_end(buffer, seen) {
            parse::HeadEnd::Malformed => Err(ErrorKind::BadBody),
            // The same bound as below, however the bytes arrive: the last line's CRLF comes on top.
            parse::HeadEnd::Partial(_)
                if buffer.len() >= self.limits.trailer_block.saturating_add(2) =>
            {
                Err(ErrorKind::BadBody)
            }
            parse::HeadEnd::Partial(seen) => {
                self.state = State::Trailers { seen };
                Ok(Decoded::Partial)
            }
            parse::HeadEnd::At(end) if end > self.limits.trailer_block.saturating_add(2) => {
                Err(ErrorKind::BadBody)
            }
            parse::HeadEnd::At(end) => {
                let block = buffer.split_to(end).freeze();
                let bad = ErrorKind::BadBody;
                let fields = parse::fields(block, 0, self.limits.trailer_count, bad, bad)?;
                // Only now: a body that ends in junk has not ended, and its connection is not clean.
                self.state = State::Done;
                Ok(Decoded::End((!fields.is_empty()).then_some(fields)))
            }
        }
    }
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoder {
    /// As it is; the head told its length: bytes left.
    Length(u64),
    /// In chunks.
    Chunked,
    /// As it is, until the connection closes.
    UntilClose,
}

impl Encoder {
    /// Writes what stands before `len` bytes of data.
    ///
    /// # Errors
    /// When the body is longer than its head said: the bytes must not be sent.
    pub fn before(&mut self, len: usize, out: &mut BytesMut) -> Result<(), BodyMismatch> {
        match self {
            Self::Length(left) => {
                *left = left.checked_sub(len as u64).ok_or(BodyMismatch)?;
            }
            Self::Chunked => {
                put_hex(len, out);
                out.put_slice(b"\r\n");
            }
            Self::UntilClose => {}
        }
        Ok(())
    }

    /// Writes what stands behind the data.
    pub fn after(self, out: &mut BytesMut) {
        if self == Self::Chunked {
            out.put_slice(b"\r\n");
        }
    }

    /// Writes the end, with trailers where the encoding has a place for them.
    ///
    /// # Errors
    /// When the body is shorter than its head said: the connection must be closed.
    pub fn end(self, trailers: Option<&Fields>, out: &mut BytesMut) -> Result<(), BodyMismatch> {
        match self {
            Self::Length(0) | Self::UntilClose => Ok(()),
            Self::Length(_) => Err(BodyMismatch),
            Self::Chunked => {
                out.put_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    trailers.write_http1(out);
                }
                out.put_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

/// A body that is not as long as its head said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyMismatch;

#[expect(
    clippy::arithmetic_side_effects,
    reason = "sixteen digits at most, of four bits each"
)]
fn put_hex(number: usize, out: &mut BytesMut) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for at in (0..digits).rev() {
        let digit = u32::try_from(number >> (at * 4) & 0xf).unwrap_or(0);
        out.put_u8(char::from_digit(digit, 16).map_or(b'0', |c| c as u8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Known;

    const LIMITS: ChunkLimits = ChunkLimits {
        extension: 64,
        trailer_block: 128,
        trailer_count: 2,
    };

    /// Decodes bytes that arrive `step` at a time.
    fn read(bytes: &[u8], step: usize) -> Result<(Vec<u8>, bool, Option<Fields>), ErrorKind> {
        let mut decoder = Decoder::chunked(LIMITS);
        let mut buffer = BytesMut::new();
        let mut data = Vec::new();
        for part in bytes.chunks(step) {
            buffer.extend_from_slice(part);
            loop {
                match decoder.decode(&mut buffer)? {
                    Decoded::Data(bytes) => data.extend_from_slice(&bytes),
                    Decoded::Partial => break,
                    Decoded::End(trailers) => return Ok((data, true, trailers)),
                }
            }
        }
        Ok((data, false, None))
    }

    #[test]
    fn chunks_come_out_however_they_arrive() {
        let body = b"5\r\nhello\r\n000000000000000A;x=y\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n";
        for step in 1..=body.len() {
            let (data, done, trailers) = read(body, step).unwrap();
            assert_eq!(
                (&data[..], done),
                (&b"hello0123456789"[..], true),
                "step {step}"
            );
            let trailers = trailers.unwrap();
            assert_eq!(trailers.named("x-t"), Some(&b"1"[..]));
        }
    }

    #[test]
    fn bad_chunks_are_refused() {
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(64));
        let many = format!("{}0\r\n\r\n", "1;eeeeeeeee\r\nx\r\n".repeat(8));
        for bad in [
            "g\r\n",
            "-1\r\n",
            "0x5\r\n",
            "+5\r\n",
            "5 \r\nhello\r\n",
            " 5\r\nhello\r\n",
            "1_0\r\n",
            "\r\n",
            "10000000000000000\r\n",
            "5\nhello\r\n",
            "5\r\nhello!\r\n",
            "5\r\nhello\n",
            "5\r\nhelloX",
            "0\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n",
            "0\r\nA : 1\r\n\r\n",
            "0\r\nA: 1\n\r\n",
            "5;\x01\r\nhello\r\n",
            "5\r\nhello\r\r\n",
            long.as_str(),
            many.as_str(),
        ] {
            assert_eq!(
                read(bad.as_bytes(), 7).err(),
                Some(ErrorKind::BadBody),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn sizes_have_all_of_their_digits() {
        let mut decoder = Decoder::chunked(LIMITS);
        let mut buffer = BytesMut::from(&b"13\r\n0123456789abcdef012\r\n0\r\n\r\n"[..]);
        let first = decoder.decode(&mut buffer);
        assert!(matches!(first, Ok(Decoded::Data(d)) if d.len() == 0x13));
        assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::End(_))));
        // What is told and has not come is not made up: bits of one digit do not fall on another's.
        let mut decoder = Decoder::chunked(LIMITS);
        let mut buffer = BytesMut::from(&b"ffffffffffffffff\r\nx"[..]);
        let first = decoder.decode(&mut buffer);
        assert!(matches!(first, Ok(Decoded::Data(d)) if d.len() == 1));
        let Decoder::Chunked(chunks) = decoder else {
            unreachable!("a chunked body");
        };
        assert!(matches!(chunks.state, State::Data { left } if left == u64::MAX - 1));
    }

    /// A size line of so many bytes of extension, and what came of it without its end.
    fn size_line(extension: usize, ended: bool) -> Result<Decoded, ErrorKind> {
        let end = if ended { "\r\n" } else { "" };
        let line = format!("{:016x};{}{end}", 1, "e".repeat(extension - 1));
        Decoder::chunked(LIMITS).decode(&mut BytesMut::from(line.as_bytes()))
    }

    #[test]
    fn extensions_at_their_limit_pass_with_and_without_an_end() {
        let most = LIMITS.extension;
        for ended in [true, false] {
            assert!(matches!(size_line(most, ended), Ok(Decoded::Partial)));
        }
        assert!(matches!(size_line(most + 1, true), Err(ErrorKind::BadBody)));
        // Room for the CRLF that may have begun.
        assert!(matches!(size_line(most + 2, false), Ok(Decoded::Partial)));
        assert!(matches!(
            size_line(most + 3, false),
            Err(ErrorKind::BadBody)
        ));
        // What was spent by chunks before counts.
        let mut decoder = Decoder::chunked(LIMITS);
        let spent = format!("1;{}\r\nx\r\n", "e".repeat(most - 1));
        let mut buffer = BytesMut::from(spent.as_bytes());
        assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::Data(_))));
        buffer.extend_from_slice(format!("{:016x};x", 1).as_bytes());
        assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::Partial)));
        buffer.extend_from_slice(b"x");
        assert!(matches!(
            decoder.decode(&mut buffer),
            Err(ErrorKind::BadBody)
        ));
    }

    #[test]
    fn junk_is_refused_before_its_line_ends() {
        let first = |bytes: &[u8]| Decoder::chunked(LIMITS).decode(&mut BytesMut::from(bytes));
        assert!(matches!(first(b"GET / HT"), Err(ErrorKind::BadBody)));
        assert!(matches!(first(b"f"), Ok(Decoded::Partial)));
        let endless = format!("0\r\nA: {}", "b".repeat(LIMITS.trailer_block));
        assert!(matches!(first(endless.as_bytes()), Err(ErrorKind::BadBody)));
    }

    #[test]
    fn only_the_end_of_its_connection_ends_a_body_of_no_length() {
        let mut open = Decoder::UntilClose;
        let mut buffer = BytesMut::from(&b"abc"[..]);
        assert!(matches!(open.decode(&mut buffer), Ok(Decoded::Data(d)) if &d[..] == b"abc"));
        assert!(matches!(open.decode(&mut buffer), Ok(Decoded::Partial)));
        assert!(open.ends_with_connection() && !open.is_done());
        let mut told = Decoder::Length(1);
        assert!(!told.ends_with_connection() && !told.is_done());
        assert!(matches!(
            told.decode(&mut BytesMut::from("a")),
            Ok(Decoded::Data(_))
        ));
        assert!(told.is_done());
        let mut chunked = Decoder::chunked(LIMITS);
        assert!(!chunked.ends_with_connection() && !chunked.is_done());
        assert!(chunked.decode(&mut BytesMut::from("0\r\n\r\n")).is_ok());
        assert!(chunked.is_done());
    }

    #[test]
    fn trailers_at_their_limit_pass_however_they_arrive() {
        for (more, fine) in [(0, true), (1, false)] {
            let value = "b".repeat(LIMITS.trailer_block - 5 + more);
            let body = format!("0\r\nA: {value}\r\n\r\n");
            for step in [1, 7, body.len()] {
                let read = read(body.as_bytes(), step);
                assert_eq!(read.is_ok(), fine, "step {step}");
            }
        }
    }

    #[test]
    fn a_body_that_ends_in_junk_has_not_ended() {
        let mut decoder = Decoder::chunked(LIMITS);
        let mut buffer = BytesMut::from(&b"0\r\nA : 1\r\n\r\n"[..]);
        assert!(decoder.decode(&mut buffer).is_err());
        assert!(!decoder.is_done());
    }

    #[test]
    fn a_body_never_leaves_its_bounds() {
        let mut decoder = Decoder::Length(3);
        let mut buffer = BytesMut::from(&b"abcGET /"[..]);
        assert!(matches!(decoder.decode(&mut buffer), Ok(Decoded::Data(d)) if &d[..] == b"abc"));
        assert!(matches!(
            decoder.decode(&mut buffer),
            Ok(Decoded::End(None))
        ));
        assert_eq!(&buffer[..], b"GET /");
    }

    #[test]
    fn what_is_written_is_what_was_said() {
        let mut out = BytesMut::new();
        let mut encoder = Encoder::Chunked;
        encoder.before(26, &mut out).unwrap();
        encoder.after(&mut out);
        let mut trailers = Fields::new();
        trailers.append_known(Known::GrpcStatus, b"0");
        encoder.end(Some(&trailers), &mut out).unwrap();
        assert_eq!(&out[..], b"1a\r\n\r\n0\r\nGrpc-Status: 0\r\n\r\n");
        let mut length = Encoder::Length(2);
        assert_eq!(length.before(3, &mut out), Err(BodyMismatch));
        assert_eq!(length.before(1, &mut out), Ok(()));
        assert_eq!(length.end(None, &mut out), Err(BodyMismatch));
    }
}
