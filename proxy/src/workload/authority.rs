//! Between the socket and HTTP/2: callers of a Unix socket have no host to name, and gRPC's C library names the
//! path of the socket instead, percent-encoded, in `:authority`. That is no authority (RFC 3986 section 3.2) to
//! the library that serves here, which would reset every call of every client in Python, Ruby, PHP or C++. So the
//! name, of which nothing is ever asked, becomes `localhost`.
//!
//! Header blocks are read by the path's own decoder and written again without a table; every other frame passes
//! as it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::protocol::hpack::{Decoder, Header, Name, encode};
use crate::protocol::http2::frame::{self, HEADER, PREFACE, flag, kind};

/// What every caller is taken to have named.
const HOST: &[u8] = b"localhost";
/// Longest header block in bytes, as it is sent: one frame of the size that everybody may send.
const BLOCK: usize = 16 << 10;
/// Bytes that are read at a time.
const READ: usize = 4 << 10;

/// A socket as HTTP/2 is to see it.
#[derive(Debug)]
pub struct Hosted<S> {
    socket: S,
    /// Read, and not looked at.
    raw: BytesMut,
    /// Looked at, and not taken.
    seen: BytesMut,
    /// Bytes from here on that pass as they are.
    pass: usize,
    /// The HEADERS frame whose block is not whole yet, with the block so far.
    begun: Option<(frame::Header, BytesMut)>,
    decoder: Decoder,
}

impl<S> Hosted<S> {
    /// Around a socket of which nothing has been read.
    pub fn new(socket: S) -> Self {
        Self {
            socket,
            raw: BytesMut::new(),
            seen: BytesMut::new(),
            pass: PREFACE.len(),
            begun: None,
            decoder: Decoder::new(0),
        }
    }

    /// Looks at all that is whole.
    fn look(&mut self) -> io::Result<()> {
        loop {
            let passes = self.pass.min(self.raw.len());
            self.seen.put(self.raw.split_to(passes));
            self.pass -= passes;
            if self.pass > 0 {
                return Ok(());
            }
            let Some(header) = frame::Header::read(&self.raw) else {
                return Ok(());
            };
            let whole = HEADER + header.length;
            if self.begun.is_none() && header.kind != kind::HEADERS {
                self.pass = whole;
                continue;
            }
            if header.length > BLOCK {
                return Err(wrong("header block too long"));
            }
            if self.raw.len() < whole {
                return Ok(());
            }
            self.raw.advance(HEADER);
            let payload = self.raw.split_to(header.length);
            self.take(header, payload)?;
        }
    }

    /// Takes a frame of a header block, and writes the block once it is whole.
    fn take(&mut self, header: frame::Header, mut payload: BytesMut) -> io::Result<()> {
        let (first, block) = match self.begun.take() {
            None => {
                strip(header, &mut payload)?;
                (header, payload)
            }
            Some((first, mut block)) => {
                let follows = header.kind == kind::CONTINUATION && header.stream == first.stream;
                if !follows || block.len() + payload.len() > BLOCK {
                    return Err(wrong("header block not continued"));
                }
                block.put(payload);
                (first, block)
            }
        };
        if !header.has(flag::END_HEADERS) {
            self.begun = Some((first, block));
            return Ok(());
        }
        let mut written = BytesMut::with_capacity(block.len());
        let mut known = true;
        let read = self.decoder.decode(&block, BLOCK, |field| {
            known &= put(&mut written, field);
        });
        if read.is_err() || !known {
            return Err(wrong("header block not understood"));
        }
        // Shorter by the codes it came in, it may be more than a frame now; all limits are below that.
        if written.len() > BLOCK {
            return Err(wrong("header block too long"));
        }
        let head = frame::Header {
            length: written.len(),
            flags: (first.flags & flag::END_STREAM) | flag::END_HEADERS,
            ..first
        };
        self.seen.put_slice(&head.bytes());
        self.seen.put(written);
        Ok(())
    }
}

fn wrong(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Cuts off padding and priority (RFC 9113 section 6.2).
fn strip(header: frame::Header, payload: &mut BytesMut) -> io::Result<()> {
    let short = || wrong("HEADERS frame too short");
    let mut padding = 0;
    if header.has(flag::PADDED) {
        padding = usize::from(*payload.first().ok_or_else(short)?);
        payload.advance(1);
    }
    if header.has(flag::PRIORITY) {
        if payload.len() < 5 {
            return Err(short());
        }
        payload.advance(5);
    }
    let left = payload.len().checked_sub(padding).ok_or_else(short)?;
    payload.truncate(left);
    Ok(())
}

/// Writes a field again; `false`: no request has it.
fn put(out: &mut BytesMut, field: Header<'_>) -> bool {
    match field.kind {
        Name::Method => encode::put_method(out, field.value),
        Name::Path => encode::put_path(out, field.value),
        Name::Scheme => encode::put_scheme(out, field.value == b"https"),
        Name::Authority => encode::put_authority(out, HOST),
        Name::Field(known) if field.sensitive => {
            encode::put_sensitive_field(out, known, field.name, field.value);
        }
        Name::Field(known) => encode::put_field(out, known, field.name, field.value),
        Name::Status | Name::Protocol | Name::UnknownPseudo => return false,
    }
    true
}

impl<S: AsyncRead + Unpin> AsyncRead for Hosted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.seen.is_empty() {
            let mut bytes = [0; READ];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.raw.put_slice(read.filled());
            this.look()?;
        }
        let given = this.seen.len().min(buf.remaining());
        buf.put_slice(&this.seen.split_to(given));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hosted<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    fn head(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let header = frame::Header {
            length: payload.len(),
            kind,
            flags,
            stream: 1,
        };
        [&header.bytes()[..], payload].concat()
    }

    async fn through(frames: &[Vec<u8>]) -> io::Result<Vec<u8>> {
        let sent = [PREFACE.to_vec(), frames.concat()].concat();
        let mut read = Vec::new();
        Hosted::new(&sent[..]).read_to_end(&mut read).await?;
        assert!(read.starts_with(PREFACE));
        Ok(read.split_off(PREFACE.len()))
    }

    /// `:authority: a%2Fb`, entering the table; then that by its index.
    const NAMED: &[u8] = b"\x41\x05a%2Fb";
    const AGAIN: &[u8] = b"\xbe";
    const LOCAL: &[u8] = b"\x01\x09localhost";

    #[tokio::test]
    async fn every_name_is_localhost_and_all_else_is_as_it_was() {
        let data = head(kind::DATA, flag::END_STREAM, b"\x41\x05a%2Fb");
        let frames = [
            head(kind::SETTINGS, 0, b""),
            head(kind::HEADERS, flag::END_HEADERS, &[NAMED, b"\x83"].concat()),
            data.clone(),
            head(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, AGAIN),
        ];
        let want = [
            head(kind::SETTINGS, 0, b""),
            head(kind::HEADERS, flag::END_HEADERS, &[LOCAL, b"\x83"].concat()),
            data,
            head(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, LOCAL),
        ];
        assert_eq!(through(&frames).await.unwrap(), want.concat());
    }

    #[tokio::test]
    async fn padding_priority_and_parts_of_a_block_are_put_together() {
        let (begin, end) = NAMED.split_at(3);
        let payload = [b"\x02", &[0; 5][..], begin, b"\0\0"].concat();
        let frames = [
            head(kind::HEADERS, flag::PADDED | flag::PRIORITY, &payload),
            head(kind::CONTINUATION, flag::END_HEADERS, end),
        ];
        let want = head(kind::HEADERS, flag::END_HEADERS, LOCAL);
        assert_eq!(through(&frames).await.unwrap(), want);
    }

    #[tokio::test]
    async fn what_cannot_be_read_ends_the_connection() {
        let whole = flag::END_HEADERS;
        for frames in [
            vec![head(kind::HEADERS, whole, b"\xff")],
            vec![head(kind::HEADERS, whole | flag::PADDED, b"")],
            vec![head(kind::HEADERS, whole | flag::PADDED, b"\x05a")],
            vec![head(kind::HEADERS, whole | flag::PRIORITY, b"abc")],
            vec![head(kind::HEADERS, whole, &[0; BLOCK + 1])],
            vec![head(kind::HEADERS, 0, NAMED), head(kind::DATA, 0, b"")],
            vec![
                head(kind::HEADERS, 0, &[0; BLOCK]),
                head(kind::CONTINUATION, whole, b"a"),
            ],
            // `:status`.
            vec![head(kind::HEADERS, whole, b"\x88")],
        ] {
            assert!(through(&frames).await.is_err(), "{frames:?}");
        }
    }
}
