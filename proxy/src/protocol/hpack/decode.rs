//! Header blocks, read: each representation (RFC 7541 section 6) becomes a field of the caller.

#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

use std::fmt;

use super::table::{Dynamic, STATIC};
use super::{Error, Name, huffman};

/// Longest name or value in bytes, decoded. Longer than any limit on a head that makes sense, and
/// what bounds the scratch buffer.
const MAX_STRING: usize = 64 * 1024;

/// Scratch memory that is kept from one block to the next, in bytes.
const MAX_SCRATCH_KEPT: usize = 16 * 1024;

/// Table size in force before any SETTINGS frame (RFC 9113 section 6.5.2), in bytes.
const INITIAL_TABLE: usize = 4096;

/// Largest dynamic table of a decoder in bytes.
const MAX_TABLE: usize = 1024 * 1024;

/// Table size updates at the start of one block: the lowest size in between and the last one
/// (RFC 7541 section 4.2).
const MAX_SIZE_UPDATES: usize = 2;

/// A field as it stood in the block. Its text is gone when the caller's function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name as it was sent, in whatever case and of whatever bytes.
    pub name: &'a [u8],
    /// The value as it was sent, of whatever bytes.
    pub value: &'a [u8],
    /// What the name means.
    pub kind: Name,
    /// The peer asks that this field is never indexed, on any hop (RFC 7541 section 6.2.3).
    pub sensitive: bool,
    /// The name or the value is longer than the caller's limit: the message cannot be served, but
    /// the connection lives on. Both are whole all the same, so that who counts bytes counts these.
    pub too_long: bool,
}

impl<'a> Header<'a> {
    #[inline]
    fn new(kind: Name, name: &'a [u8], value: &'a [u8], limit: usize) -> Self {
        Self {
            name,
            value,
            kind,
            sensitive: false,
            too_long: name.len() > limit || value.len() > limit,
        }
    }
}

/// Reads the header blocks of one direction of one connection, all of them, in their order.
///
/// Its memory is bounded by the dynamic table and one scratch buffer for Huffman strings: at most
/// 16 KiB of that is kept between blocks, and 128 KiB are used inside one.
pub struct Decoder {
    table: Dynamic,
    /// What a size update may not exceed.
    max_table: usize,
    scratch: Vec<u8>,
}

impl fmt::Debug for Decoder {
    /// Says nothing of the text: it may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("table_size", &self.table.size())
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// A decoder with an empty table. `max_table` is what our `SETTINGS_HEADER_TABLE_SIZE`
    /// announces, in bytes, from 4096 to 1 MiB.
    ///
    /// Less than 4096 counts as 4096: a peer may use that much until it has seen our SETTINGS, and
    /// refusing would break connections that are in order. More is the peer's only once it says so
    /// with a size update.
    #[must_use]
    pub fn new(max_table: usize) -> Self {
        Self {
            table: Dynamic::new(INITIAL_TABLE),
            max_table: max_table.clamp(INITIAL_TABLE, MAX_TABLE),
            scratch: Vec::new(),
        }
    }

    /// Decodes one whole header block (HEADERS and its CONTINUATION frames put together) and calls
    /// `each` for every field, in order. Neither names nor values are checked.
    ///
    /// `limit` is in bytes, for a name or a value by itself. A longer one is read and enters the
    /// table as any other, so that the connection can go on after the answer 431, and is marked
    /// ([`Header::too_long`]). Past 64 KiB it ends the connection, whatever the limit. How long a
    /// block may be is for the caller to bound.
    ///
    /// # Errors
    /// Each one ends the connection. `each` may have been called for fields before the error.
    pub fn decode(
        &mut self,
        block: &[u8],
        limit: usize,
        mut each: impl FnMut(Header<'_>),
    ) -> Result<(), Error> {
        let mut input = Input(block);
        self.size_updates(&mut input)?;
        while let Some(first) = input.byte() {
            if first & 0x80 != 0 {
                let index = input.integer(first, 0x7f)?;
                let (kind, name, value) = self.field(index)?;
                each(Header::new(kind, name, value, limit));
            } else if first & 0xe0 == 0x20 {
                // A size update after a field.
                return Err(Error::TableSize);
            } else {
                self.literal(first, &mut input, limit, &mut each)?;
            }
        }
        if self.scratch.capacity() > MAX_SCRATCH_KEPT {
            self.scratch.clear();
            self.scratch.shrink_to(MAX_SCRATCH_KEPT);
        }
        Ok(())
    }

    /// Dynamic table size updates (RFC 7541 section 6.3).
    fn size_updates(&mut self, input: &mut Input<'_>) -> Result<(), Error> {
        let mut updates = 0_usize;
        while let Some(first) = input.0.first().copied().filter(|b| b & 0xe0 == 0x20) {
            input.byte();
            let size = input.integer(first, 0x1f)?;
            updates = updates.saturating_add(1);
            if size > self.max_table || updates > MAX_SIZE_UPDATES {
                return Err(Error::TableSize);
            }
            self.table.resize(size);
        }
        Ok(())
    }

    /// The field at an index of both tables, which share one range (RFC 7541 section 2.3.3).
    #[inline]
    fn field(&self, index: usize) -> Result<(Name, &[u8], &[u8]), Error> {
        if let Some(at) = index.checked_sub(STATIC.len()) {
            return self.table.entry(at).ok_or(Error::BadIndex);
        }
        match STATIC.get(index) {
            Some(field) if index > 0 => Ok((field.kind, field.name, field.value)),
            _ => Err(Error::BadIndex),
        }
    }

    /// A literal field (RFC 7541 section 6.2), of which `first` is the first byte.
    fn literal(
        &mut self,
        first: u8,
        input: &mut Input<'_>,
        limit: usize,
        each: &mut impl FnMut(Header<'_>),
    ) -> Result<(), Error> {
        let incremental = first & 0x40 != 0;
        let index = input.integer(first, if incremental { 0x3f } else { 0x0f })?;
        self.scratch.clear();
        let name = if index == 0 {
            let name = input.string()?;
            name.unpack(&mut self.scratch)?;
            LiteralName::Text(name)
        } else if let Some(field) = STATIC.get(index) {
            LiteralName::Static(field.kind, field.name)
        } else {
            let at = index.checked_sub(STATIC.len());
            let entry = at.and_then(|at| self.table.entry(at));
            let (kind, name, _) = entry.ok_or(Error::BadIndex)?;
            // Copied: the insertion of this field may evict the entry that names it.
            self.scratch.extend_from_slice(name);
            LiteralName::Copied(kind)
        };
        let name_end = self.scratch.len();
        let value = input.string()?;
        value.unpack(&mut self.scratch)?;

        let (first_scratch, second_scratch) = self.scratch.split_at(name_end);
        let value = value.text(second_scratch);
        let (kind, name) = match name {
            LiteralName::Static(kind, name) => (kind, name),
            LiteralName::Copied(kind) => (kind, first_scratch),
            LiteralName::Text(name) => {
                let name = name.text(first_scratch);
                (Name::classify(name), name)
            }
        };
        each(Header {
            sensitive: !incremental && first & 0x10 != 0,
            ..Header::new(kind, name, value, limit)
        });
        if incremental {
            self.table.insert(kind, name, value);
        }
        Ok(())
    }

    /// Size of the dynamic table, as RFC 7541 section 4.1 counts it.
    #[cfg(test)]
    pub(super) fn table_size(&self) -> usize {
        self.table.size()
    }

    /// Name and value of the dynamic table, the newest entry being at 0.
    #[cfg(test)]
    pub(super) fn table_entry(&self, at: usize) -> Option<(&[u8], &[u8])> {
        let (_, name, value) = self.table.entry(at)?;
        Some((name, value))
    }
}

/// Where a literal field has its name from.
enum LiteralName<'b> {
    Static(Name, &'static [u8]),
    /// From the dynamic table, by way of the scratch buffer.
    Copied(Name),
    Text(Literal<'b>),
}

/// A string literal (RFC 7541 section 5.2) as it stands in the block.
struct Literal<'b> {
    bytes: &'b [u8],
    huffman: bool,
}

impl<'b> Literal<'b> {
    /// Appends the text to the scratch buffer if it does not stand in the block already.
    fn unpack(&self, scratch: &mut Vec<u8>) -> Result<(), Error> {
        if self.huffman {
            huffman::decode(self.bytes, MAX_STRING, scratch)
        } else if self.bytes.len() > MAX_STRING {
            Err(Error::TooLong)
        } else {
            Ok(())
        }
    }

    /// The text: that of the block, or what [`Literal::unpack`] has made of it.
    fn text<'a>(&self, unpacked: &'a [u8]) -> &'a [u8]
    where
        'b: 'a,
    {
        if self.huffman { unpacked } else { self.bytes }
    }
}

/// What is left of a block.
struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    /// An integer (RFC 7541 section 5.1) whose prefix is the bits of `mask` in `first`.
    #[inline]
    fn integer(&mut self, first: u8, mask: u8) -> Result<usize, Error> {
        let prefix = first & mask;
        if prefix < mask {
            return Ok(usize::from(prefix));
        }
        self.continued(mask)
    }

    /// An integer that does not fit its prefix: up to five bytes more, up to 32 bits.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "five times seven bits and a byte are far from 64"
    )]
    fn continued(&mut self, prefix: u8) -> Result<usize, Error> {
        let mut value = u64::from(prefix);
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte().ok_or(Error::Truncated)?;
            value += u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let value = u32::try_from(value).map_err(|_| Error::IntegerOverflow)?;
                return Ok(value as usize);
            }
        }
        Err(Error::IntegerOverflow)
    }

    fn string(&mut self) -> Result<Literal<'b>, Error> {
        let first = self.byte().ok_or(Error::Truncated)?;
        let length = self.integer(first, 0x7f)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Error::Truncated)?;
        self.0 = rest;
        Ok(Literal {
            bytes,
            huffman: first & 0x80 != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Known;

    fn integer(bytes: &[u8], mask: u8) -> Result<usize, Error> {
        let mut input = Input(bytes);
        let first = input.byte().ok_or(Error::Truncated)?;
        let value = input.integer(first, mask)?;
        assert!(input.0.is_empty());
        Ok(value)
    }

    #[test]
    fn integers() {
        // Appendix C.1.
        assert_eq!(integer(&[0x0a], 0x1f), Ok(10));
        assert_eq!(integer(&[0x1f, 0x9a, 0x0a], 0x1f), Ok(1337));
        assert_eq!(integer(&[0x2a], 0xff), Ok(42));
        for (bytes, want) in [
            (&[0x7f, 0][..], Ok(127)),
            (&[0x7f, 0x80, 0x80, 0x80, 0x80, 0], Ok(127)),
            (&[0x7f, 0x80, 0xff, 0xff, 0xff, 0x0f], Ok(u32::MAX as usize)),
            (
                &[0x7f, 0x81, 0xff, 0xff, 0xff, 0x0f],
                Err(Error::IntegerOverflow),
            ),
            (
                &[0x7f, 0xff, 0xff, 0xff, 0xff, 0x7f],
                Err(Error::IntegerOverflow),
            ),
            (
                &[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0],
                Err(Error::IntegerOverflow),
            ),
            (&[0x7f], Err(Error::Truncated)),
            (&[0x7f, 0xff, 0xff], Err(Error::Truncated)),
        ] {
            assert_eq!(integer(bytes, 0x7f), want, "{bytes:x?}");
        }
    }

    fn read(block: &[u8]) -> Result<usize, Error> {
        let mut count = 0;
        Decoder::new(4096).decode(block, 4096, |_| count += 1)?;
        Ok(count)
    }

    #[test]
    fn indices_outside_the_tables() {
        for (block, want) in [
            (&b""[..], Ok(0)),
            (b"\x80", Err(Error::BadIndex)),
            (b"\xbd", Ok(1)),
            (b"\xbe", Err(Error::BadIndex)),
            (b"\xff\x00", Err(Error::BadIndex)),
            (b"\x40\x01a\x01b\xbe", Ok(2)),
            (b"\x40\x01a\x01b\xbf", Err(Error::BadIndex)),
            (b"\x7d\x01b", Ok(1)),
            (b"\x7e\x01b", Err(Error::BadIndex)),
            (b"\x0f\x2e\x01b", Ok(1)),
            (b"\x0f\x2f\x01b", Err(Error::BadIndex)),
            (b"\x1f\x2f\x01b", Err(Error::BadIndex)),
        ] {
            assert_eq!(read(block), want, "{block:x?}");
        }
    }

    #[test]
    fn size_updates() {
        for (block, want) in [
            (&b"\x20"[..], Ok(0)),
            (b"\x20\x3f\xe1\x1f\x82", Ok(1)),
            (b"\x3f\xe2\x1f", Err(Error::TableSize)),
            (b"\x3f\xe0\xff\xff\xff\x0f", Err(Error::TableSize)),
            (b"\x20\x20\x20", Err(Error::TableSize)),
            (b"\x82\x20", Err(Error::TableSize)),
            (b"\x20\x82\x20", Err(Error::TableSize)),
            // What is in the table leaves it.
            (b"\x20\x40\x01a\x01b\xbe", Err(Error::BadIndex)),
        ] {
            assert_eq!(read(block), want, "{block:x?}");
        }
        // A larger table is announced, but in use only when the peer says so.
        let mut decoder = Decoder::new(8192);
        let entry = [b"\x40\x00\x7f\xa1\x1e".as_slice(), &[b'x'; 4000]].concat();
        let twice = entry.repeat(2);
        decoder.decode(&twice, 4096, |_| ()).unwrap();
        assert_eq!(decoder.table_size(), 4032);
        let grown = [b"\x3f\xe1\x3f", &twice[..]].concat();
        decoder.decode(&grown, 4096, |_| ()).unwrap();
        assert_eq!(decoder.table_size(), 8064);
        // Less than 4096 would refuse what was sent before our SETTINGS arrived.
        let mut decoder = Decoder::new(0);
        decoder.decode(b"\x40\x01a\x01b\xbe", 4096, |_| ()).unwrap();
    }

    #[test]
    fn a_block_cut_anywhere_is_truncated() {
        let block = b"\x82\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\
            \x40\x0acustom-key\x0dcustom-header\xbe\x0f\x10\x03a/b\x10\x01n\x01v\xbf\
            \x0f\x2f\x7f\x01yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\
            yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";
        let mut ends = vec![0];
        for end in 1..=block.len() {
            match read(&block[..end]) {
                Ok(count) => {
                    assert_eq!(count, ends.len());
                    ends.push(end);
                }
                Err(error) => assert_eq!(error, Error::Truncated, "cut at {end}"),
            }
        }
        assert_eq!(ends, [0, 1, 15, 41, 42, 48, 53, 54, block.len()]);
    }

    #[test]
    fn names_are_told_apart_however_they_are_sent() {
        let mut decoder = Decoder::new(4096);
        let block = b"\x40\x05:path\x02/a\xbe\x00\x09:protocol\x01b\x7e\x01c\x40\x02:x\x01d\xbe\
            \x10\x04host\x01e\x00\x05:Path\x01f\x1f\x08\x01g\x81\x00\x00\x00";
        let mut seen = Vec::new();
        decoder
            .decode(block, 4096, |h| seen.push((h.kind, h.sensitive)))
            .unwrap();
        let want = [
            (Name::Path, false),
            (Name::Path, false),
            (Name::Protocol, false),
            (Name::Path, false),
            (Name::UnknownPseudo, false),
            (Name::UnknownPseudo, false),
            (Name::Field(Known::Host), true),
            (Name::UnknownPseudo, false),
            (Name::Field(Known::Authorization), true),
            (Name::Authority, false),
            (Name::Field(Known::Other), false),
        ];
        assert_eq!(seen, want);
        assert_eq!(size_of::<Name>(), 1);
    }

    #[test]
    fn a_name_survives_the_eviction_of_its_entry() {
        let mut decoder = Decoder::new(4096);
        let first = b"\x3f\x0d\x40\x04name\x04text\xbe";
        decoder.decode(first, 4096, |_| ()).unwrap();
        for value in ["one1", "two2"] {
            let block = [b"\x7e\x04", value.as_bytes()].concat();
            decoder
                .decode(&block, 4096, |h| {
                    assert_eq!((h.name, h.value), (&b"name"[..], value.as_bytes()));
                })
                .unwrap();
            assert_eq!(
                decoder.table_entry(0),
                Some((&b"name"[..], value.as_bytes()))
            );
            assert!(decoder.table_entry(1).is_none());
        }
    }

    #[test]
    fn too_long_for_the_caller_is_still_in_the_table() {
        let mut decoder = Decoder::new(4096);
        let mut seen = Vec::new();
        decoder
            .decode(
                b"\x40\x01n\x04long\xbe\x00\x05ccccc\x01v\x00\x01n\x03abc",
                3,
                |h| {
                    seen.push((h.too_long, h.name.to_vec(), h.value.to_vec()));
                },
            )
            .unwrap();
        let long = (true, b"n".to_vec(), b"long".to_vec());
        let name = (true, b"ccccc".to_vec(), b"v".to_vec());
        let short = (false, b"n".to_vec(), b"abc".to_vec());
        let want = [long.clone(), long, name, short];
        assert_eq!(seen, want);
        assert_eq!(decoder.table_entry(0), Some((&b"n"[..], &b"long"[..])));
    }

    #[test]
    fn no_string_is_longer_than_64_kib_and_no_memory_stays() {
        let mut decoder = Decoder::new(4096);
        let mut plain = b"\x40\x01n\x7f\x81\xff\x03".to_vec();
        plain.extend([b'a'; MAX_STRING]);
        let mut count = 0;
        let mut each = |h: Header<'_>| count += usize::from(h.too_long);
        assert_eq!(decoder.decode(&plain, 100, &mut each), Ok(()));
        plain[4] += 1;
        plain.push(b'a');
        assert_eq!(decoder.decode(&plain, 100, &mut each), Err(Error::TooLong));

        // 40 960 bytes of zeros are 65 536 times `0`.
        let mut coded = b"\x40\x01n\xff\x81\xbf\x02".to_vec();
        coded.extend([0; 40_960]);
        assert_eq!(decoder.decode(&coded, 100, &mut each), Ok(()));
        assert!(decoder.scratch.capacity() <= MAX_SCRATCH_KEPT);
        coded[4] += 1;
        coded.push(0x07);
        assert_eq!(decoder.decode(&coded, 100, &mut each), Err(Error::TooLong));
        assert_eq!(count, 2);
    }
}
