//! Huffman strings (RFC 7541 section 5.2), the innermost step of reading a literal.
//!
//! Twelve bits are looked up at once: that is two symbols of nearly all text, and the rest of the
//! codes, those of rare bytes, are found by their length.

use super::Error;

/// Length in bits of the code of every byte, then of the end of string (RFC 7541 appendix B).
///
/// The code is canonical: codes of one length follow each other in the order of their symbols, and
/// longer codes come after shorter ones. So the lengths are the whole of the appendix.
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Bytes and the end of string.
const SYMBOLS: usize = 257;
/// Bits of the shortest code.
const SHORTEST: usize = 5;
/// Bits of the longest code.
const LONGEST: u32 = 30;
/// Bits looked up at once. Two symbols of six bits, as most letters and digits are, fit.
const STEP_BITS: u32 = 12;
/// Steps between two writes: as many as one word has room for, and one refill has bits for.
const STEPS_PER_WORD: usize = 4;
/// Bytes written at once.
const WORD: usize = 8;

/// Decodes a Huffman string and appends it.
///
/// # Errors
/// [`Error::BadHuffman`] for an end of string inside, and for padding of more than seven bits or
/// other than ones; [`Error::TooLong`] when more than `limit` bytes come out. What `out` holds past
/// its old end is then of no meaning.
pub(super) fn decode(input: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    let most = (input.len() * 8 / SHORTEST).min(limit);
    // A word is written whole, whatever part of it is text.
    out.resize(start + most + WORD, 0);
    let length = unpack(input, limit, out.get_mut(start..).unwrap_or_default())?;
    out.truncate(start + length);
    Ok(())
}

/// Decodes into `room`, which is a word longer than the text may become. Returns the length.
fn unpack(input: &[u8], limit: usize, room: &mut [u8]) -> Result<usize, Error> {
    let mut bits = Bits {
        window: 0,
        held: 0,
        rest: input,
    };
    let mut length = 0;
    loop {
        bits.refill();
        let mut word = 0;
        let mut width = 0;
        for _ in 0..STEPS_PER_WORD {
            let step = bits.step();
            if step.bits() > bits.held {
                break;
            }
            word |= step.text() << width;
            width += step.width();
            bits.skip(step.bits());
        }
        if width == 0 {
            if bits.at_end() {
                return Ok(length);
            }
            let (byte, used) = bits.single().ok_or(Error::BadHuffman)?;
            word = u64::from(byte);
            width = u8::BITS;
            bits.skip(used);
        }
        let place = room.get_mut(length..).and_then(<[u8]>::first_chunk_mut);
        *place.ok_or(Error::TooLong)? = word.to_le_bytes();
        length += (width / u8::BITS) as usize;
        if length > limit {
            return Err(Error::TooLong);
        }
    }
}

/// The bits that are next.
struct Bits<'a> {
    /// The next bits, the first one on top.
    window: u64,
    /// How many of them the input has, at most 63.
    held: u32,
    /// Bytes that are not in the window as a whole.
    rest: &'a [u8],
}

impl Bits<'_> {
    /// Brings `held` to 56 at least, or to the end of the input, with ones after it.
    #[inline]
    fn refill(&mut self) {
        if let Some(next) = self.rest.first_chunk() {
            // Bits past `held` are set a second time by the next refill, to the same value.
            self.window |= u64::from_be_bytes(*next) >> self.held;
            let taken = (63 - self.held) / 8;
            self.held += taken * 8;
            self.rest = self.rest.get(taken as usize..).unwrap_or_default();
            return;
        }
        while self.held < 56
            && let Some((byte, rest)) = self.rest.split_first()
        {
            self.window |= u64::from(*byte) << (56 - self.held);
            self.held += 8;
            self.rest = rest;
        }
        if self.rest.is_empty() {
            self.window |= u64::MAX >> self.held;
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "as many steps as the bits that are left of the window say"
    )]
    fn step(&self) -> Step {
        STEPS[(self.window >> (u64::BITS - STEP_BITS)) as usize]
    }

    fn skip(&mut self, bits: u32) {
        // The mask spares a test: no code is near that long.
        self.window <<= bits & 63;
        self.held -= bits;
    }

    /// Right after a refill: whether nothing but padding is left. Of the codes only the end of
    /// string begins with seven ones.
    fn at_end(&self) -> bool {
        self.held < 8 && self.window == u64::MAX
    }

    /// The next byte alone and the length of its code, where a step is too long or too short for
    /// it; nothing if the input does not hold it, or says that the string ends.
    fn single(&self) -> Option<(u8, u32)> {
        let (symbol, bits) = code((self.window >> (u64::BITS - LONGEST)) as u32);
        let byte = u8::try_from(symbol).ok()?;
        (bits <= self.held).then_some((byte, bits))
    }
}

/// What the next [`STEP_BITS`] say: one or two symbols, or that the code is a longer one.
///
/// From the lowest bit: eight bits for how many bits it takes, two bytes of text, eight bits for how
/// many bits of text they are. What the next look-up waits for is lowest: it costs no shift.
#[derive(Clone, Copy)]
struct Step(u32);

impl Step {
    /// Takes more bits than there ever are.
    const LONGER: Self = Self(64);

    fn text(self) -> u64 {
        u64::from((self.0 >> 8) & 0xffff)
    }

    fn bits(self) -> u32 {
        self.0 & 0xff
    }

    fn width(self) -> u32 {
        self.0 >> 24
    }
}

/// 16 KiB, of which text uses the lower part.
#[expect(
    clippy::indexing_slicing,
    reason = "while it is compiled: outside would be an error there"
)]
static STEPS: [Step; 1 << STEP_BITS] = {
    let mut steps = [Step::LONGER; 1 << STEP_BITS];
    let mut at = 0;
    while at < steps.len() {
        let next = (at as u32) << (LONGEST - STEP_BITS);
        let (first, bits) = code(next);
        if bits <= STEP_BITS {
            let (second, more) = code((next << bits) & ((1 << LONGEST) - 1));
            steps[at] = if bits + more <= STEP_BITS {
                Step(16 << 24 | (second as u32) << 16 | (first as u32) << 8 | (bits + more))
            } else {
                Step(8 << 24 | (first as u32) << 8 | bits)
            };
        }
        at += 1;
    }
    steps
};

/// The symbol whose code the next [`LONGEST`] bits begin with, and the length of that code.
#[expect(
    clippy::indexing_slicing,
    reason = "the code is complete: every search ends at a length, every code has its symbol"
)]
const fn code(next: u32) -> (u16, u32) {
    let mut bits = SHORTEST;
    while next >= CODES.starts[bits + 1] {
        bits += 1;
    }
    let nth = (next - CODES.starts[bits]) >> (LONGEST - bits as u32);
    (
        CODES.symbols[CODES.before[bits] + nth as usize],
        bits as u32,
    )
}

/// The codes by their length.
struct Codes {
    /// The first code of each length, with zeros up to [`LONGEST`] bits after it. The one after the
    /// longest is more than any [`LONGEST`] bits: every search ends.
    starts: [u32; LONGEST as usize + 2],
    /// How many symbols have shorter codes.
    before: [usize; LONGEST as usize + 2],
    /// Symbols in the order of their codes.
    symbols: [u16; SYMBOLS],
}

#[expect(
    clippy::indexing_slicing,
    reason = "while it is compiled: outside would be an error there"
)]
static CODES: Codes = {
    let mut codes = Codes {
        starts: [0; LONGEST as usize + 2],
        before: [0; LONGEST as usize + 2],
        symbols: [0; SYMBOLS],
    };
    let mut at = 0;
    let mut start = 0;
    let mut bits = 0;
    while bits <= LONGEST as usize {
        codes.starts[bits] = start;
        codes.before[bits] = at;
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if LENGTHS[symbol] as usize == bits {
                codes.symbols[at] = symbol as u16;
                at += 1;
                start += 1 << (LONGEST - bits as u32);
            }
            symbol += 1;
        }
        bits += 1;
    }
    // The code is complete: else some bits would mean nothing.
    assert!(start == 1 << LONGEST);
    codes.starts[bits] = start;
    codes.before[bits] = at;
    codes
};

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;

    use super::*;

    /// The code of a symbol as a text of zeros and ones.
    fn code_of(symbol: u16) -> String {
        let bits = u32::from(LENGTHS[usize::from(symbol)]);
        let nth = CODES.symbols.iter().position(|s| *s == symbol).unwrap();
        let nth = nth - CODES.before[bits as usize];
        let code = (CODES.starts[bits as usize] >> (LONGEST - bits)) as usize + nth;
        format!("{code:0width$b}", width = bits as usize)
    }

    fn pack(bits: &str) -> Vec<u8> {
        assert_eq!(bits.len() % 8, 0);
        bits.as_bytes()
            .chunks(8)
            .map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | (bit - b'0')))
            .collect()
    }

    /// Encodes a string. Only tests write Huffman codes: see [`super::super::encode`].
    pub(in crate::protocol::hpack) fn encode(text: &[u8]) -> Vec<u8> {
        let mut bits: String = text.iter().map(|b| code_of(u16::from(*b))).collect();
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        pack(&bits)
    }

    fn decoded(input: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = b"before".to_vec();
        decode(input, 1 << 16, &mut out).map(|()| out.split_off(6))
    }

    #[test]
    fn codes_are_those_of_appendix_b() {
        for (symbol, code) in [
            (0, "1111111111000"),
            (9, "111111111111111111101010"),
            (10, "111111111111111111111111111100"),
            (32, "010100"),
            (48, "00000"),
            (65, "100001"),
            (90, "11111101"),
            (92, "1111111111111110000"),
            (97, "00011"),
            (122, "1111011"),
            (127, "1111111111111111111111111100"),
            (128, "11111111111111100110"),
            (199, "1111111111111111111101100"),
            (255, "11111111111111111111101110"),
            (256, "111111111111111111111111111111"),
        ] {
            assert_eq!(code_of(symbol), code, "{symbol}");
        }
    }

    #[test]
    fn every_byte_comes_back_at_every_place() {
        for byte in 0..=255_u8 {
            for before in 0..20 {
                for after in 0..20 {
                    let mut text = vec![b'a'; before];
                    text.push(byte);
                    text.extend(std::iter::repeat_n(b'X', after));
                    assert_eq!(decoded(&encode(&text)), Ok(text));
                }
            }
        }
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        assert_eq!(decoded(&encode(&all)), Ok(all));
        assert_eq!(decoded(b""), Ok(Vec::new()));
    }

    #[test]
    fn padding_is_less_than_a_byte_of_ones() {
        // Every count of bits in the last byte, behind strings on both sides of a refill.
        for length in 0..40 {
            let text: String = (0..length)
                .map(|n| code_of(b"a&X~"[n % 4].into()))
                .collect();
            let open = (8 - text.len() % 8) % 8;
            let padded = text.clone() + &"1".repeat(open);
            assert!(decoded(&pack(&padded)).is_ok(), "{length}");
            assert_eq!(
                decoded(&pack(&(padded + "11111111"))),
                Err(Error::BadHuffman),
                "a whole byte of padding, {length}"
            );
            for zero in 0..open {
                let mut wrong = "1".repeat(open);
                wrong.replace_range(zero..=zero, "0");
                let wrong = pack(&(text.clone() + &wrong));
                // Five bits and more with a zero in them may be a byte by themselves.
                let shorter = decoded(&pack(&(text.clone() + &"1".repeat(open)))).unwrap();
                match decoded(&wrong) {
                    Err(error) => assert_eq!(error, Error::BadHuffman),
                    Ok(text) => assert!(open >= SHORTEST && text.len() == shorter.len() + 1),
                }
            }
        }
        let eleven = pack(&(code_of(b'a'.into()) + "11111111111"));
        assert_eq!(decoded(&eleven), Err(Error::BadHuffman));
        assert_eq!(decoded(&[0xff]), Err(Error::BadHuffman));
    }

    #[test]
    fn the_end_of_string_is_refused_at_every_place() {
        for before in 0..20 {
            for after in ["", "000110001100011000110001100011000110001100011"] {
                let mut bits = code_of(b'a'.into()).repeat(before) + &code_of(256) + after;
                while !bits.len().is_multiple_of(8) {
                    bits.push('1');
                }
                assert_eq!(decoded(&pack(&bits)), Err(Error::BadHuffman));
            }
        }
        assert_eq!(decoded(&[0xff; 4]), Err(Error::BadHuffman));
        assert_eq!(decoded(&[0xff; 100]), Err(Error::BadHuffman));
    }

    /// Section 5.2 read word by word, a bit at a time.
    fn slowly(input: &[u8], codes: &HashMap<String, u16>) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        let mut open = String::new();
        for bit in input
            .iter()
            .flat_map(|b| (0..8).rev().map(move |at| b >> at & 1))
        {
            open.push(if bit == 1 { '1' } else { '0' });
            if let Some(symbol) = codes.get(&open) {
                text.push(u8::try_from(*symbol).map_err(|_| Error::BadHuffman)?);
                open.clear();
            }
        }
        let fine = open.len() < 8 && !open.contains('0');
        fine.then_some(text).ok_or(Error::BadHuffman)
    }

    #[test]
    fn noise_is_read_as_it_is_bit_by_bit() {
        let codes: HashMap<String, u16> = (0..257).map(|s| (code_of(s), s)).collect();
        let mut noise = 0x5eed_u64;
        let mut next = || {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise
        };
        let mut fine = 0;
        for _ in 0..20_000 {
            let length = next() % 24;
            // Long codes and padding begin with ones: more of them than chance gives.
            let ones = [0, 0xff, next() as u8][(next() % 3) as usize];
            let mut input: Vec<u8> = (0..length)
                .map(|_| next() as u8 | next() as u8 & ones)
                .collect();
            if let Some(last) = input.last_mut() {
                *last |= (1 << (next() % 8)) - 1;
            }
            let want = slowly(&input, &codes);
            fine += usize::from(want.is_ok());
            assert_eq!(decoded(&input), want, "{input:x?}");
        }
        assert!((5_000..19_000).contains(&fine), "{fine}");
    }

    #[test]
    fn no_more_than_the_limit_comes_out() {
        for length in 0..200 {
            let input = encode(&vec![b'0'; length]);
            for limit in 0..200 {
                let mut out = Vec::new();
                let result = decode(&input, limit, &mut out);
                let want = if length > limit {
                    Err(Error::TooLong)
                } else {
                    Ok(())
                };
                assert_eq!(result, want, "{length} of {limit}");
                assert!(out.len() <= limit + WORD);
            }
        }
    }
}
