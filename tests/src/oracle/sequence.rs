//! Connections of HTTP/2 for the oracle: up to five requests, their frames between one another, and what noise of a
//! known seed makes of fields, frames and bytes.

mod words;

use fastrand::Rng;

use super::Field;
use super::http2::hpack::{Decoder, huffman};
use super::http2::{End, read};
use super::stand::Sending;
use crate::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PREFACE,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, data, frame, integer, reset_for, settings,
    window,
};
use words::{BODIES, ENDS, FINE, METHODS, ODD, VALUES};

/// Longest connection in bytes: below every limit on a head, a window or a rate.
const LONGEST: usize = 8 << 10;
/// Flag of HEADERS: five bytes of priority come first.
const WITH_PRIORITY: u8 = 0x20;

/// What a stream does next.
#[derive(Debug, Clone)]
enum Step {
    /// A block of fields.
    Fields(u32, Vec<Field>, bool),
    /// A part of a body.
    Part(u32, Vec<u8>, bool),
    /// A frame as it is.
    Frame(Vec<u8>),
}

/// Sequence `number` of this seed.
#[must_use]
pub fn sequence(seed: u64, number: u64) -> Sending {
    let mut rng = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut steps = merged(&mut rng, number);
    if rng.u8(..2) == 0 {
        bend_fields(&mut rng, &mut steps);
    }
    let mut frames = encoded(&mut rng, &steps);
    if rng.u8(..2) == 0 {
        for _ in 0..rng.u8(1..=2) {
            bend_frames(&mut rng, &mut frames);
        }
    }
    let mut bytes = [PREFACE, &settings(&[(2, 0)]), &frames.concat()].concat();
    if rng.u8(..5) == 0 {
        bend_bytes(&mut rng, &mut bytes);
    }
    bytes.truncate(LONGEST);
    let mut cuts: Vec<usize> = (0..rng.u8(..4))
        .map(|_| rng.usize(..=bytes.len()))
        .collect();
    // Shortly before what is wrong: by then a good beginning may have been passed on.
    if let End::Broken(at, _) = read(&bytes).end {
        cuts.push(at.saturating_sub(rng.usize(..20)));
    }
    cuts.sort_unstable();
    Sending {
        hasty: rng.u8(..8) == 0,
        slow: rng.u8(..3) == 0,
        bytes,
        cuts,
    }
}

/// One to five requests, each in order, all at once.
fn merged(rng: &mut Rng, number: u64) -> Vec<Step> {
    let mut streams = Vec::new();
    let mut id = 1;
    for at in 0..rng.u8(1..=5) {
        streams.push(request(rng, id, &format!("/{number}.{at}")));
        // Numbers may be left out.
        id += if rng.u8(..8) == 0 { 4 } else { 2 };
    }
    let mut steps = Vec::new();
    let mut opened = 0;
    while streams.iter().any(|s| !s.is_empty()) {
        // Streams begin in the order of their numbers.
        let at = rng.usize(..=opened.min(streams.len() - 1));
        if streams[at].is_empty() {
            continue;
        }
        steps.push(streams[at].remove(0));
        opened = opened.max(at + 1);
        if rng.u8(..6) == 0 {
            steps.push(Step::Frame(harmless(rng)));
        }
    }
    steps
}

/// A head, perhaps a body, perhaps trailers.
fn request(rng: &mut Rng, id: u32, path: &str) -> Vec<Step> {
    let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let method = METHODS[rng.usize(..METHODS.len())];
    let path = format!("{path}{}", ENDS[rng.usize(..ENDS.len())]);
    let mut fields = vec![
        field(":method", method),
        field(":scheme", if rng.bool() { "http" } else { "https" }),
        field(":path", &path),
        field(":authority", "A.example:81"),
    ];
    rng.shuffle(&mut fields);
    for _ in 0..rng.u8(..4) {
        let (name, value) = FINE[rng.usize(..FINE.len())];
        fields.push(field(name, value));
    }
    if rng.u8(..3) == 0 {
        return vec![Step::Fields(id, fields, true)];
    }
    let body = BODIES[rng.usize(..BODIES.len())];
    if rng.bool() {
        fields.push(field("content-length", &body.len().to_string()));
    }
    let mut steps = vec![Step::Fields(id, fields, false)];
    let trailers = rng.u8(..4) == 0;
    let cut = rng.usize(..=body.len());
    let parts = if rng.bool() {
        vec![body]
    } else {
        vec![&body[..cut], &body[cut..]]
    };
    let last = parts.len() - 1;
    for (at, part) in parts.into_iter().enumerate() {
        steps.push(Step::Part(id, part.to_vec(), at == last && !trailers));
    }
    if trailers {
        steps.push(Step::Fields(id, vec![field("x-own", "trailer")], true));
    }
    steps
}

/// A frame that changes nothing.
fn harmless(rng: &mut Rng) -> Vec<u8> {
    let stream = rng.u32(..6) * 2 + 1;
    match rng.u8(..8) {
        0 => frame(PING, 0, 0, b"own ping"),
        1 => frame(PING, ACK, 0, b"own pong"),
        2 => settings(&[(1, 0), (3, 5), (0x99, 7)]),
        3 => settings(&[(4, rng.u32(..100_000)), (5, 20_000)]),
        4 => frame(SETTINGS, ACK, 0, b""),
        5 => frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16]),
        6 => window(0, rng.u32(1..1000)),
        _ => frame(0x20 + rng.u8(..0x20), rng.u8(..), stream, b"unknown"),
    }
}

/// A frame that is wrong somewhere, or everywhere.
fn harmful(rng: &mut Rng) -> Vec<u8> {
    let stream = rng.u32(..6) * 2 + 1;
    let itself = [&stream.to_be_bytes()[..], &[16]].concat();
    match rng.u8(..24) {
        0 => data(0, "x", false),
        1 => data(stream, "x", rng.bool()),
        2 => frame(HEADERS, END_HEADERS, 0, b"\x82"),
        3 => frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            b"\x82\x84\x86\x41\x01a",
        ),
        4 => frame(HEADERS, END_HEADERS, stream + 1, b"\x82\x84\x86\x41\x01a"),
        5 => frame(CONTINUATION, END_HEADERS, stream, b"\x82"),
        6 => reset_for(stream, rng.u32(..14)),
        7 => frame(RST_STREAM, 0, stream, &[0; 3]),
        8 => window(stream, 0),
        9 => window(stream, 0x7fff_ffff),
        10 => window(0, 0x7fff_ffff),
        11 => window(stream, 1),
        12 => frame(WINDOW_UPDATE, 0, stream, &[0; 5]),
        13 => frame(SETTINGS, 0, 0, &[0; 5]),
        14 => frame(SETTINGS, ACK, 0, &[0; 6]),
        15 => settings(&[[(2, 2), (4, 1 << 31), (5, 1), (4, 0x7fff_ffff)][rng.usize(..4)]]),
        16 => frame(PING, 0, 0, &[0; 7]),
        17 => frame(PING, 0, stream, &[0; 8]),
        18 => frame(GOAWAY, 0, 0, &[0; 7]),
        19 => frame(GOAWAY, 0, 0, &[0; 8]),
        20 => frame(PRIORITY, 0, stream, &itself),
        21 => frame(PRIORITY, 0, stream, &[0; 4]),
        22 => frame(5, END_HEADERS, stream, &[0, 0, 0, 2, 0x82]),
        _ => frame(DATA, PADDED, stream, &[rng.u8(..9), b'x', b'x', 0, 0]),
    }
}

fn bend_fields(rng: &mut Rng, steps: &mut [Step]) {
    let blocks = steps.iter_mut().filter_map(|step| match step {
        Step::Fields(_, fields, _) => Some(fields),
        _ => None,
    });
    let mut blocks: Vec<&mut Vec<Field>> = blocks.collect();
    let which = rng.usize(..blocks.len());
    let fields = &mut *blocks[which];
    let at = rng.usize(..fields.len());
    let field = |(n, v): (&str, &str)| (n.as_bytes().to_vec(), v.as_bytes().to_vec());
    match rng.u8(..10) {
        0 => drop(fields.remove(at)),
        1 => fields.push(fields[at].clone()),
        2 => {
            let moved = fields.remove(at);
            fields.push(moved);
        }
        3..=5 => {
            let (name, value) = field(VALUES[rng.usize(..VALUES.len())]);
            for have in fields.iter_mut().filter(|(n, _)| *n == name) {
                have.1.clone_from(&value);
            }
        }
        6 => fields.insert(at, field(ODD[rng.usize(..ODD.len())])),
        _ => fields.push(field(ODD[rng.usize(..ODD.len())])),
    }
}

/// Blocks in the order in which they are sent, by one table.
fn encoded(rng: &mut Rng, steps: &[Step]) -> Vec<Vec<u8>> {
    let mut table = Decoder::default();
    let mut frames = Vec::new();
    for step in steps {
        match step {
            Step::Frame(bytes) => frames.push(bytes.clone()),
            Step::Part(id, bytes, end) => {
                let end = if *end { END_STREAM } else { 0 };
                frames.push(padded(rng, DATA, end, *id, bytes));
            }
            Step::Fields(id, fields, end) => {
                let block = block(rng, &mut table, fields);
                frames.extend(parts(rng, *id, &block, *end));
            }
        }
    }
    frames
}

fn block(rng: &mut Rng, table: &mut Decoder, fields: &[Field]) -> Vec<u8> {
    let mut block = match rng.u8(..10) {
        0 => b"\x20\x3f\xe1\x1f".to_vec(),
        1 => b"\x3f\x61".to_vec(),
        _ => Vec::new(),
    };
    // Known to be in order, as all that follows.
    let _ = table.read(&block);
    for field in fields {
        let mut bytes = Vec::new();
        let (whole, name) = table.find(field);
        match (whole, rng.u8(..4)) {
            (Some(index), 1..) => integer(0x80, 7, index, &mut bytes),
            (_, form) => {
                let (first, prefix) = [(0x40, 6), (0x40, 6), (0, 4), (0x10, 4)][usize::from(form)];
                let name = name.filter(|_| rng.u8(..4) > 0).unwrap_or(0);
                integer(first, prefix, name, &mut bytes);
                if name == 0 {
                    text(rng, &field.0, &mut bytes);
                }
                text(rng, &field.1, &mut bytes);
            }
        }
        let _ = table.read(&bytes);
        block.extend(bytes);
    }
    block
}

fn text(rng: &mut Rng, text: &[u8], out: &mut Vec<u8>) {
    let coded = rng.u8(..3) == 0;
    let bytes = if coded { huffman(text) } else { text.to_vec() };
    integer(if coded { 0x80 } else { 0 }, 7, bytes.len(), out);
    out.extend(bytes);
}

/// HEADERS, and the rest of the block in up to three CONTINUATION frames.
fn parts(rng: &mut Rng, id: u32, block: &[u8], end: bool) -> Vec<Vec<u8>> {
    let count = if rng.u8(..3) == 0 { rng.u8(..=3) } else { 0 };
    let mut cuts: Vec<usize> = (0..count).map(|_| rng.usize(..=block.len())).collect();
    cuts.extend([0, block.len()]);
    cuts.sort_unstable();
    let last = cuts.len() - 2;
    let part = |at: usize| &block[cuts[at]..cuts[at + 1]];
    let done = |at: usize| if at == last { END_HEADERS } else { 0 };
    let mut first = part(0).to_vec();
    let mut flags = done(0) | if end { END_STREAM } else { 0 };
    if rng.u8(..6) == 0 {
        flags |= WITH_PRIORITY;
        first.splice(0..0, [0x80, 0, 0, 0, 7]);
    }
    let mut frames = vec![padded(rng, HEADERS, flags, id, &first)];
    frames.extend((1..=last).map(|at| frame(CONTINUATION, done(at), id, part(at))));
    frames
}

fn padded(rng: &mut Rng, kind: u8, flags: u8, id: u32, content: &[u8]) -> Vec<u8> {
    if rng.u8(..6) > 0 {
        return frame(kind, flags, id, content);
    }
    let padding = rng.u8(..20);
    let payload = [&[padding], content, &vec![0; usize::from(padding)]].concat();
    frame(kind, flags | PADDED, id, &payload)
}

fn bend_frames(rng: &mut Rng, frames: &mut Vec<Vec<u8>>) {
    let at = rng.usize(..frames.len());
    let other = rng.usize(..frames.len());
    match rng.u8(..12) {
        0 => frames.insert(other, frames[at].clone()),
        1 if frames.len() > 1 => drop(frames.remove(at)),
        2 => frames.swap(at, other),
        3 => frames[at][8] = rng.u8(..16),
        4 => frames[at][3] = rng.u8(..12),
        5 => frames[at][4] ^= [END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY][rng.usize(..4)],
        6 => frames[at][2] = frames[at][2].wrapping_add(if rng.bool() { 1 } else { 0xff }),
        7 => {
            let payload = frames[at][9..].to_vec();
            let kept = rng.usize(..=payload.len());
            let (kind, flags, id) = (frames[at][3], frames[at][4], u32::from(frames[at][8]));
            frames[at] = frame(kind, flags, id, &payload[..kept]);
        }
        _ => frames.insert(at + usize::from(rng.bool()), harmful(rng)),
    }
}

/// Anywhere but in the preface.
fn bend_bytes(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.usize(PREFACE.len()..bytes.len());
    let end = (at + rng.usize(..24)).min(bytes.len());
    match rng.u8(..5) {
        0 | 1 => bytes[at] ^= 1 << rng.u8(..8),
        2 => bytes[at] = rng.u8(..),
        3 => bytes.truncate(at),
        _ => drop(bytes.drain(at..end)),
    }
}
