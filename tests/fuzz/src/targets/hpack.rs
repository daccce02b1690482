//! HPACK: the decoder keeps to its table, and reads what the encoder writes.

use bytes::BytesMut;
use selvedge::message::Known;
use selvedge::protocol::hpack::{Decoder, Header, Name, encode};

/// What our SETTINGS announce.
const TABLE: usize = 4096;
/// A limit that inputs reach.
const LIMIT: usize = 64;

/// Blocks, each behind its length in a byte, for one decoder.
pub(crate) fn decode(input: &[u8]) {
    let mut decoder = Decoder::new(TABLE);
    let mut rest = input;
    while let Some((length, bytes)) = rest.split_first() {
        let (block, behind) = bytes.split_at(bytes.len().min(usize::from(*length)));
        rest = behind;
        let each = |field: Header<'_>| {
            let longest = field.name.len().max(field.value.len());
            assert_eq!(field.too_long, longest > LIMIT);
            assert_eq!(field.kind, Name::classify(field.name));
        };
        let read = decoder.decode(block, LIMIT, each);
        bounded(&mut decoder);
        // A connection ends here.
        if read.is_err() {
            return;
        }
    }
}

/// Counts the table from outside: every index that it answers to.
fn bounded(decoder: &mut Decoder) {
    let mut size = 0;
    for at in 0_usize.. {
        let mut block = vec![0xff];
        match at + 62 {
            index @ ..127 => block = vec![0x80 | index as u8],
            index => block.extend([
                (index - 127) as u8 & 0x7f | 0x80,
                ((index - 127) >> 7) as u8,
            ]),
        }
        let each = |field: Header<'_>| size += field.name.len() + field.value.len() + 32;
        if decoder.decode(&block, LIMIT, each).is_err() {
            break;
        }
        assert!(size <= TABLE, "a table of {size} bytes");
    }
}

/// Fields, each a line `name: value`, written and read again.
pub(crate) fn encode(input: &[u8]) {
    let mut out = BytesMut::new();
    let mut want: Vec<(Vec<u8>, Vec<u8>, bool)> = Vec::new();
    for line in input.split(|b| *b == b'\n') {
        let at = line.iter().position(|b| *b == b':').unwrap_or(line.len());
        let (name, value) = (&line[..at], line.get(at + 1..).unwrap_or_default());
        let known = Known::classify(name);
        let sensitive = value.first() == Some(&b'!');
        if sensitive {
            encode::put_sensitive_field(&mut out, known, name, value);
        } else {
            encode::put_field(&mut out, known, name, value);
        }
        want.push((name.to_ascii_lowercase(), value.to_vec(), sensitive));
        encode::put_path(&mut out, value);
        want.push((b":path".to_vec(), value.to_vec(), false));
    }
    let mut decoder = Decoder::new(TABLE);
    let mut got = Vec::new();
    let each = |f: Header<'_>| got.push((f.name.to_vec(), f.value.to_vec(), f.sensitive));
    assert_eq!(decoder.decode(&out, 1 << 16, each), Ok(()));
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert_eq!((&got.0, &got.1), (&want.0, &want.1));
        // Credentials are marked too, though nobody asked.
        assert!(got.2 || !want.2);
    }
    // Nothing of it may stay.
    let first = decoder.decode(&[0xbe], 1 << 16, |_| {});
    assert!(first.is_err());
}
