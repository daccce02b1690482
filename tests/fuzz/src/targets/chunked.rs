//! Chunked bodies: however the bytes arrive, the same comes out of them.

use bytes::{Bytes, BytesMut};
use selvedge::error::ErrorKind;
use selvedge::protocol::http1::chunked::{ChunkLimits, Decoded, Decoder, Encoder};

use super::lines;

/// Small, so that inputs reach them.
const LIMITS: ChunkLimits = ChunkLimits {
    extension: 24,
    trailer_block: 48,
    trailer_count: 3,
};

/// What became of a body.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    data: Vec<u8>,
    end: Result<Option<Trailers>, ErrorKind>,
}

/// Trailers, and how many bytes of the input belong to the body.
type Trailers = (Vec<(Vec<u8>, Vec<u8>)>, usize);

fn read(input: &[u8], step: usize) -> Outcome {
    let mut decoder = Decoder::chunked(LIMITS);
    let mut buffer = BytesMut::new();
    let mut data = Vec::new();
    let mut fed = 0;
    for part in input.chunks(step.max(1)) {
        buffer.extend_from_slice(part);
        fed += part.len();
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Decoded::Data(bytes)) => {
                    assert!(!bytes.is_empty(), "empty data");
                    assert!(!decoder.is_done());
                    data.extend_from_slice(&bytes);
                }
                Ok(Decoded::Partial) => break,
                Ok(Decoded::End(trailers)) => {
                    assert!(decoder.is_done());
                    let trailers = trailers.map(|t| lines(&t, |_| false)).unwrap_or_default();
                    let end = Ok(Some((trailers, fed - buffer.len())));
                    return Outcome { data, end };
                }
                Err(kind) => {
                    assert_eq!(kind, ErrorKind::BadBody);
                    assert!(!decoder.is_done());
                    let end = Err(kind);
                    return Outcome { data, end };
                }
            }
        }
    }
    let end = Ok(None);
    Outcome { data, end }
}

pub(crate) fn chunked(input: &[u8]) {
    let whole = read(input, input.len());
    for step in [1, 2, 3, 7] {
        assert_eq!(read(input, step), whole, "in steps of {step}");
    }
    if let Ok(Some((trailers, used))) = &whole.end {
        assert!(trailers.len() <= LIMITS.trailer_count);
        // Nothing behind the body has a say in it.
        assert_eq!(read(&input[..*used], *used), whole);
        written_and_read(&whole.data);
    }
}

/// What the product writes is what it reads.
fn written_and_read(data: &[u8]) {
    let mut out = BytesMut::new();
    let mut encoder = Encoder::Chunked;
    for part in data.chunks(300) {
        assert!(encoder.before(part.len(), &mut out).is_ok());
        out.extend_from_slice(&Bytes::copy_from_slice(part));
        encoder.after(&mut out);
    }
    assert!(encoder.end(None, &mut out).is_ok());
    let again = read(&out, out.len());
    assert_eq!(again.data, data);
    assert_eq!(again.end, Ok(Some((Vec::new(), out.len()))));
}
