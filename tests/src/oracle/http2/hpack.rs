//! Header blocks of HTTP/2 for the oracle, written from RFC 7541: slow, and with what its sections leave open decided
//! in the narrow way.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::oracle::Field;

/// Appendix A, from index 1.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// Appendix B by the length of the codes. Within a length codes count up with the symbols, and from one length to the
/// next they go on, doubled: the lengths say all.
const CODES: [(u32, &[u8]); 21] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, &[92, 195, 208]),
    (20, &[128, 130, 131, 162, 184, 194, 224, 226]),
    (
        21,
        &[
            153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230,
        ],
    ),
    (
        22,
        &[
            129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185,
            186, 187, 189, 190, 196, 198, 228, 232, 233,
        ],
    ),
    (
        23,
        &[
            1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166,
            168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239,
        ],
    ),
    (
        24,
        &[9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237],
    ),
    (25, &[199, 207, 234, 235]),
    (
        26,
        &[
            192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255,
        ],
    ),
    (
        27,
        &[
            203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252,
            253, 254,
        ],
    ),
    (
        28,
        &[
            2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28,
            29, 30, 31, 127, 220, 249,
        ],
    ),
    // Behind these comes EOS, thirty ones.
    (30, &[10, 13, 22]),
];

/// By length and code.
static SYMBOLS: LazyLock<HashMap<(u32, u32), u8>> = LazyLock::new(|| {
    let mut symbols = HashMap::new();
    let (mut code, mut before) = (0, 0);
    for (length, bytes) in CODES {
        code <<= length - before;
        before = length;
        for byte in bytes {
            symbols.insert((length, code), *byte);
            code += 1;
        }
    }
    symbols
});

/// Table size before any SETTINGS (RFC 9113 section 6.5.2), which the proxy announces too.
const TABLE: usize = 4096;

/// What is said of one block.
type Read<T> = Result<T, &'static str>;

/// The tables of one direction of a connection.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Newest first.
    table: Vec<Field>,
    size: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: Vec::new(),
            size: TABLE,
        }
    }
}

impl Decoder {
    /// Reads a whole block.
    ///
    /// # Errors
    /// Why it cannot be decoded, which ends the connection (RFC 9113 section 4.3).
    pub fn read(&mut self, block: &[u8]) -> Read<Vec<Field>> {
        let mut input = Input { block, at: 0 };
        // Section 4.2: of changes of the size at most two are sent, the lowest and the last.
        let mut updates = 0;
        let mut fields = Vec::new();
        while let Some(first) = block.get(input.at).copied() {
            match first {
                // Section 6.1.
                0x80.. => {
                    let index = input.integer(7)?;
                    fields.push(self.entry(index)?);
                }
                // Section 6.2.1.
                0x40.. => {
                    let field = self.literal(&mut input, 6)?;
                    self.insert(field.clone());
                    fields.push(field);
                }
                // Section 6.3, and at the beginning of a block only.
                0x20.. => {
                    let size = input.integer(5)?;
                    updates += 1;
                    if size > TABLE || updates > 2 || !fields.is_empty() {
                        return Err("a change of the table's size");
                    }
                    self.size = size;
                    self.evict();
                }
                // Sections 6.2.2 and 6.2.3.
                _ => fields.push(self.literal(&mut input, 4)?),
            }
        }
        Ok(fields)
    }

    /// Section 2.3.3: one range of both tables.
    fn entry(&self, index: usize) -> Read<Field> {
        let at = index.checked_sub(1).ok_or("index 0")?;
        match STATIC.get(at) {
            Some((name, value)) => Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec())),
            None => self
                .table
                .get(at - STATIC.len())
                .cloned()
                .ok_or("an index of nothing"),
        }
    }

    fn literal(&self, input: &mut Input<'_>, prefix: u32) -> Read<Field> {
        let name = match input.integer(prefix)? {
            0 => input.string()?,
            index => self.entry(index)?.0,
        };
        Ok((name, input.string()?))
    }

    /// Section 4.4.
    fn insert(&mut self, field: Field) {
        self.table.insert(0, field);
        self.evict();
    }

    /// Section 4.1: an entry costs 32 bytes beside its own.
    fn evict(&mut self) {
        let cost = |(name, value): &Field| name.len() + value.len() + 32;
        while self.table.iter().map(cost).sum::<usize>() > self.size {
            self.table.pop();
        }
    }

    /// The index of a field, and that of its name alone.
    #[must_use]
    pub fn find(&self, field: &Field) -> (Option<usize>, Option<usize>) {
        let fixed = STATIC.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        let own = self.table.iter().map(|(n, v)| (n.as_slice(), v.as_slice()));
        let all: Vec<(&[u8], &[u8])> = fixed.chain(own).collect();
        let whole = all
            .iter()
            .position(|(n, v)| (*n, *v) == (&field.0, &field.1));
        let name = all.iter().position(|(n, _)| *n == field.0);
        (whole.map(|at| at + 1), name.map(|at| at + 1))
    }
}

struct Input<'a> {
    block: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn next(&mut self) -> Read<u8> {
        let byte = *self.block.get(self.at).ok_or("the block is cut")?;
        self.at += 1;
        Ok(byte)
    }

    /// Section 5.1. Five bytes hold any number of 32 bits; more of them, or a larger number, are too much.
    fn integer(&mut self, prefix: u32) -> Read<usize> {
        let most = (1u64 << prefix) - 1;
        let mut value = u64::from(self.next()?) & most;
        if value < most {
            return Ok(value as usize);
        }
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.next()?;
            value += u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(value)
                    .ok()
                    .filter(|v| *v <= u32::MAX as usize)
                    .ok_or("an integer too large");
            }
        }
        Err("an integer too long")
    }

    /// Section 5.2.
    fn string(&mut self) -> Read<Vec<u8>> {
        let coded = self.block.get(self.at).is_some_and(|b| *b >= 0x80);
        let length = self.integer(7)?;
        let bytes = self.block.get(self.at..self.at + length);
        let bytes = bytes.ok_or("the block is cut")?;
        self.at += length;
        match coded {
            true => unhuffman(bytes),
            false => Ok(bytes.to_vec()),
        }
    }
}

/// Section 5.2: padding is less than a byte, of ones; EOS has no place in a string.
fn unhuffman(bytes: &[u8]) -> Read<Vec<u8>> {
    let mut text = Vec::new();
    let (mut code, mut length) = (0u32, 0);
    for bit in bytes
        .iter()
        .flat_map(|b| (0..8).rev().map(move |at| b >> at & 1))
    {
        code = code << 1 | u32::from(bit);
        length += 1;
        if let Some(symbol) = SYMBOLS.get(&(length, code)) {
            text.push(*symbol);
            (code, length) = (0, 0);
        } else if length == 30 {
            return Err("EOS in a string");
        }
    }
    match length < 8 && code == (1 << length) - 1 {
        true => Ok(text),
        false => Err("the padding of a string"),
    }
}

/// Codes a string.
#[must_use]
pub fn huffman(text: &[u8]) -> Vec<u8> {
    let code = |byte: &u8| {
        SYMBOLS
            .iter()
            .find(|(_, symbol)| *symbol == byte)
            .map(|(code, _)| *code)
    };
    let mut bits: Vec<bool> = Vec::new();
    for (length, code) in text.iter().filter_map(code) {
        bits.extend((0..length).rev().map(|at| code >> at & 1 == 1));
    }
    while !bits.len().is_multiple_of(8) {
        bits.push(true);
    }
    let byte = |bits: &[bool]| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    bits.chunks(8).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
        let pair = |p: &[u8]| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    fn shown(fields: &[Field]) -> String {
        let field = |(n, v): &Field| format!("{}={}", n.escape_ascii(), v.escape_ascii());
        fields.iter().map(field).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_code_is_whole() {
        assert_eq!(SYMBOLS.len(), 256);
        let space: u64 = SYMBOLS.keys().map(|(length, _)| 1 << (32 - length)).sum();
        assert_eq!(
            space,
            (1 << 32) - (1 << 2),
            "all but EOS, which has 30 bits"
        );
        for byte in 0..=255 {
            assert_eq!(unhuffman(&huffman(&[byte, byte])), Ok(vec![byte; 2]));
        }
    }

    /// Appendix C.4: three requests of one connection.
    #[test]
    fn the_examples_of_the_rfc() {
        let mut decoder = Decoder::default();
        let first = ":method=GET :scheme=http :path=/ :authority=www.example.com";
        for (block, want) in [
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", first.to_owned()),
            ("8286 84be 5886 a8eb 1064 9cbf", format!("{first} cache-control=no-cache")),
            (
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                ":method=GET :scheme=https :path=/index.html :authority=www.example.com custom-key=custom-value"
                    .to_owned(),
            ),
        ] {
            assert_eq!(shown(&decoder.read(&hex(block)).unwrap()), want);
        }
        assert_eq!(decoder.table.len(), 3);
    }

    #[test]
    fn what_cannot_be_read() {
        for (block, why) in [
            ("80", "index 0"),
            ("be", "an index of nothing"),
            ("ff", "the block is cut"),
            ("00 01 61", "the block is cut"),
            ("00 01 61 05 62", "the block is cut"),
            ("82 20", "a change of the table's size"),
            ("20 20 20", "a change of the table's size"),
            ("3f e2 1f", "a change of the table's size"),
            ("ff ff ff ff ff 7f", "an integer too large"),
            ("ff 80 80 80 80 80 00", "an integer too long"),
            ("00 81 00", "the padding of a string"),
            ("00 82 1f ff 00", "the padding of a string"),
            ("00 84 ff ff ff ff 00", "EOS in a string"),
            ("20 40 01 61 01 62 be", "an index of nothing"),
        ] {
            assert_eq!(Decoder::default().read(&hex(block)), Err(why), "{block}");
        }
        let fine = Decoder::default().read(&hex("20 3f e1 1f 40 01 61 01 62 be"));
        assert_eq!(shown(&fine.unwrap()), "a=b a=b");
    }
}
