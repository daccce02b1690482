//! What is done to an input to get another one: blind to what it means, but with the words of each
//! target's language at hand.

use crate::noise::Noise;

/// Longest input in bytes: what is found above it is found below it.
const LONGEST: usize = 16 << 10;

/// Numbers at which something changes.
const EDGES: [u32; 14] = [
    0,
    1,
    5,
    0x7f,
    0x80,
    0xff,
    0x3fff,
    0x4000,
    0x4001,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
];

/// Changes `input` a few times over; `others` are inputs to take parts from.
pub fn mutate(noise: &mut Noise, input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]]) {
    for _ in 0..=noise.below(6) {
        once(noise, input, others, words);
        input.truncate(LONGEST);
    }
}

fn once(noise: &mut Noise, input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&[u8]]) {
    let at = noise.below(input.len() + 1);
    match noise.below(11) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << noise.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = noise.word().to_le_bytes()[0];
            }
        }
        2 => input.truncate(at),
        3 => {
            let part = range(noise, input.len(), 64);
            input.drain(part);
        }
        4 => {
            let part = input[range(noise, input.len(), 256)].to_vec();
            let times = if noise.once_in(16) {
                noise.below(64)
            } else {
                1
            };
            insert(input, at, &part.repeat(times.max(1)));
        }
        5 | 6 => {
            if let Some(word) = noise.choose(words) {
                insert(input, at, word);
            }
        }
        7 => {
            if let Some(word) = noise.choose(words) {
                let end = input.len().min(at + word.len());
                input.splice(at..end, word.iter().copied());
            }
        }
        8 => {
            if let Some(other) = noise.choose(others) {
                let part = &other[range(noise, other.len(), 512)];
                insert(input, at, part);
            }
        }
        9 => length(noise, input, at),
        _ => digits(noise, input, at),
    }
}

fn insert(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    if input.len() + part.len() <= LONGEST {
        input.splice(at..at, part.iter().copied());
    }
}

fn range(noise: &mut Noise, end: usize, most: usize) -> std::ops::Range<usize> {
    let start = noise.below(end + 1);
    start..start + noise.below(most.min(end - start) + 1)
}

/// Puts a number where a length may stand: one to four bytes, the highest first.
fn length(noise: &mut Noise, input: &mut [u8], at: usize) {
    let edge = *noise.choose(&EDGES).unwrap_or(&0);
    let near = edge.wrapping_add(u32::try_from(noise.below(3)).unwrap_or(0));
    let value = if noise.once_in(2) {
        near
    } else {
        u32::try_from(noise.below(300)).unwrap_or(0)
    };
    let size = 1 + noise.below(4);
    let bytes = value.to_be_bytes();
    for (place, byte) in input.iter_mut().skip(at).zip(&bytes[4 - size..]) {
        *place = *byte;
    }
}

/// Changes a number in text, if one stands behind `at`.
fn digits(noise: &mut Noise, input: &mut Vec<u8>, at: usize) {
    let Some(start) = (at..input.len()).find(|i| input[*i].is_ascii_hexdigit()) else {
        return;
    };
    let count = input[start..]
        .iter()
        .take_while(|b| b.is_ascii_hexdigit())
        .count();
    let edge = *noise.choose(&EDGES).unwrap_or(&0);
    let text = match noise.below(4) {
        0 => format!("{edge}"),
        1 => format!("{edge:x}"),
        2 => "18446744073709551616".to_owned(),
        _ => format!("{}", noise.below(1000)),
    };
    input.splice(start..start + count, text.bytes());
}
