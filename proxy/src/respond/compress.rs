//! Part of stage 9, respond: compresses a body while it passes through.
//!
//! What has come in is flushed out whenever the upstream pauses, unless the length was known from
//! the start: an event stream stays one.

use std::cell::Cell;
use std::fmt;
use std::io::Write;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::write::GzEncoder;
use selvedge_contract::defaults::policy as defaults;
use selvedge_gateway::compression::{Coding, is_type, negotiate};

use crate::error::ErrorKind;
use crate::message::through::Through;
use crate::message::{Body, BodyLength, Chunk, Fields, Known, RequestHead, Response};

/// A compiled policy.
#[derive(Debug)]
pub struct Compress {
    /// Codings, the best first.
    pub codings: Vec<Coding>,
    /// Media types, lower case.
    pub types: Vec<String>,
    /// Shorter bodies stay as they are.
    pub minimum: u64,
}

impl Compress {
    /// The coding for a client.
    #[must_use]
    pub fn coding(&self, head: &RequestHead) -> Option<Coding> {
        let accepted = head.fields.known(Known::AcceptEncoding)?;
        negotiate(std::str::from_utf8(accepted).ok()?, &self.codings)
    }

    /// Compresses a response, if it may be and the client takes the coding. Marks what would have
    /// been another for another client.
    pub fn apply(&self, response: &mut Response, coding: Option<Coding>, head_only: bool) {
        if !self.fits(response) {
            return;
        }
        vary(&mut response.head.fields);
        let Some(coding) = coding else { return };
        let live = response.body.length() == BodyLength::Unknown;
        if !head_only {
            let body = std::mem::replace(&mut response.body, Body::Empty);
            match Compressed::new(body, coding, live) {
                Ok(through) => response.body = Body::Through(Box::new(through)),
                Err(body) => {
                    response.body = body;
                    return;
                }
            }
        }
        let fields = &mut response.head.fields;
        fields.remove_known(Known::ContentLength);
        fields.remove(b"Accept-Ranges");
        for name in ["Content-MD5", "Content-Digest", "Digest"] {
            fields.remove(name.as_bytes());
        }
        fields.append_known(Known::ContentEncoding, coding.name().as_bytes());
        // The bytes are others, what they mean is the same (RFC 9110 section 8.8.1).
        let strong = fields
            .known(Known::ETag)
            .filter(|tag| tag.starts_with(b"\""));
        if let Some(tag) = strong {
            let weak = [b"W/", tag].concat();
            fields.set_known(Known::ETag, &weak);
        }
    }

    fn fits(&self, response: &Response) -> bool {
        let (head, fields) = (&response.head, &response.head.fields);
        let bodiless = matches!(head.status.as_u16(), 100..=199 | 204 | 205 | 206 | 304);
        let short = match (response.body.length(), content_length(fields)) {
            // An answer to HEAD says how long it would be.
            (BodyLength::Exact(0), Some(length)) | (BodyLength::Exact(length), _) => {
                length < self.minimum
            }
            (BodyLength::Unknown, _) => false,
        };
        if bodiless || short || fields.known(Known::ContentEncoding).is_some() {
            return false;
        }
        let kept = fields.all(Known::CacheControl).any(|value| {
            memchr::memmem::find(&value.to_ascii_lowercase(), b"no-transform").is_some()
        });
        let content_type = fields.known(Known::ContentType).unwrap_or_default();
        !kept && std::str::from_utf8(content_type).is_ok_and(|t| is_type(t, &self.types))
    }
}

fn content_length(fields: &Fields) -> Option<u64> {
    let value = fields.known(Known::ContentLength)?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Adds `Accept-Encoding` to `Vary`.
fn vary(fields: &mut Fields) {
    let known = fields.all(Known::Vary).any(|value| {
        let mut names = value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"Accept-Encoding"))
    });
    if !known {
        fields.append_known(Known::Vary, b"Accept-Encoding");
    }
}

thread_local! {
    /// Encoders at work on this worker: each holds memory.
    static ENCODERS: Cell<usize> = const { Cell::new(0) };
}

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(coding: Coding) -> std::io::Result<Self> {
        let out = Vec::new();
        Ok(match coding {
            Coding::Gzip => {
                let level = flate2::Compression::new(defaults::GZIP_LEVEL);
                Self::Gzip(GzEncoder::new(out, level))
            }
            Coding::Brotli => {
                let (level, window) = (defaults::BROTLI_LEVEL, defaults::BROTLI_WINDOW);
                let writer = brotli::CompressorWriter::new(out, 4096, level, window);
                Self::Brotli(Box::new(writer))
            }
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, defaults::ZSTD_LEVEL)?;
                encoder.window_log(defaults::ZSTD_WINDOW)?;
                Self::Zstd(encoder)
            }
        })
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(data),
            Self::Brotli(encoder) => encoder.write_all(data),
            Self::Zstd(encoder) => encoder.write_all(data),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.flush(),
            Self::Brotli(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }

    fn finish(self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// A body with its encoder.
struct Compressed {
    body: Body,
    /// None once all has been written.
    encoder: Option<Encoder>,
    trailers: Option<Fields>,
    /// Flushes where the body pauses.
    live: bool,
    /// Something was written that has not been flushed.
    owed: bool,
}

impl Compressed {
    /// Gives the body back where there are too many encoders already, or none can be made.
    fn new(body: Body, coding: Coding, live: bool) -> Result<Self, Body> {
        if ENCODERS.get() >= defaults::ENCODERS {
            return Err(body);
        }
        let Ok(encoder) = Encoder::new(coding) else {
            return Err(body);
        };
        ENCODERS.set(ENCODERS.get() + 1);
        Ok(Self {
            body,
            encoder: Some(encoder),
            trailers: None,
            live,
            owed: false,
        })
    }

    fn finish(&mut self) -> Result<Option<Chunk>, ErrorKind> {
        let Some(encoder) = self.encoder.take() else {
            return Ok(self.trailers.take().map(Chunk::Trailers));
        };
        let rest = encoder.finish().map_err(|_| ErrorKind::BadResponse)?;
        Ok(Some(Chunk::Data(Bytes::from(rest))))
    }

    /// What the encoder has ready, if that is worth a chunk.
    fn ready(&mut self, least: usize) -> Option<Bytes> {
        let out = self.encoder.as_mut()?.out();
        (out.len() >= least).then(|| Bytes::from(std::mem::take(out)))
    }
}

impl Drop for Compressed {
    fn drop(&mut self) {
        ENCODERS.set(ENCODERS.get().saturating_sub(1));
    }
}

impl fmt::Debug for Compressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Compressed({:?})", self.body)
    }
}

/// Bytes of a chunk that are worth a write.
const WORTH: usize = 8 << 10;

impl Through for Compressed {
    fn length(&self) -> BodyLength {
        BodyLength::Unknown
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Chunk>, ErrorKind>> {
        loop {
            let Some(encoder) = &mut self.encoder else {
                return Poll::Ready(self.finish());
            };
            match self.body.poll_chunk(cx) {
                Poll::Ready(Ok(Some(Chunk::Data(data)))) => {
                    encoder.write(&data).map_err(|_| ErrorKind::BadResponse)?;
                    self.owed = true;
                    if let Some(ready) = self.ready(WORTH) {
                        return Poll::Ready(Ok(Some(Chunk::Data(ready))));
                    }
                }
                Poll::Ready(Ok(Some(Chunk::Trailers(trailers)))) => {
                    self.trailers = Some(trailers);
                    return Poll::Ready(self.finish());
                }
                Poll::Ready(Ok(None)) => return Poll::Ready(self.finish()),
                Poll::Ready(Err(kind)) => return Poll::Ready(Err(kind)),
                Poll::Pending => {
                    if self.owed && self.live {
                        self.owed = false;
                        encoder.flush().map_err(|_| ErrorKind::BadResponse)?;
                        if let Some(ready) = self.ready(1) {
                            return Poll::Ready(Ok(Some(Chunk::Data(ready))));
                        }
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn all(body: &mut Compressed) -> Vec<u8> {
        let mut out = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Ok(Some(Chunk::Data(data)))) = body.poll_chunk(&mut cx) {
            assert!(!data.is_empty());
            out.extend_from_slice(&data);
        }
        out
    }

    #[test]
    fn what_goes_in_comes_out_of_a_decoder() {
        let text: String = (0..20_000).map(|n| format!("{n} ")).collect();
        for coding in [Coding::Gzip, Coding::Brotli, Coding::Zstd] {
            let body = Body::Full(text.clone().into());
            let mut body = Compressed::new(body, coding, false).unwrap();
            let packed = all(&mut body);
            assert!(packed.len() < text.len() / 2, "{coding:?} {}", packed.len());
            let mut plain = String::new();
            match coding {
                Coding::Gzip => flate2::read::GzDecoder::new(&packed[..])
                    .read_to_string(&mut plain)
                    .unwrap(),
                Coding::Brotli => brotli::Decompressor::new(&packed[..], 4096)
                    .read_to_string(&mut plain)
                    .unwrap(),
                Coding::Zstd => zstd::stream::read::Decoder::new(&packed[..])
                    .unwrap()
                    .read_to_string(&mut plain)
                    .unwrap(),
            };
            assert_eq!(plain, text);
        }
    }

    #[test]
    fn encoders_are_bounded_and_given_back() {
        let make = || Compressed::new(Body::Full("a".into()), Coding::Gzip, false);
        let many: Vec<_> = std::iter::from_fn(|| make().ok())
            .take(defaults::ENCODERS + 1)
            .collect();
        assert_eq!(many.len(), defaults::ENCODERS);
        drop(many);
        assert!(make().is_ok());
    }
}
