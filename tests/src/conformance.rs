//! Row H2-01 of the battery: what RFC 9113 and RFC 7541 demand of whoever is sent some frames, case by case.

use crate::hostile::{Stage, held, target};
use crate::http2::{
    ACK, CONTINUATION, END_STREAM, Frame, GOAWAY, HEADERS, Http2, PING, RST_STREAM, block, frame,
    headers, request, status_of,
};

/// What the RFC demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Stream 1 is answered with 200.
    Served,
    /// The connection lives on, whatever becomes of streams.
    Lives,
    /// Stream 1 ends with one of these codes; or the connection does (RFC 9113 section 5.4.1: a stream error may be
    /// treated as one of the connection).
    Stream(&'static [u32]),
    /// The connection ends with one of these codes.
    Connection(&'static [u32]),
    /// Stream 1 is malformed (RFC 9113 section 8.1.1): reset with PROTOCOL_ERROR, or answered with 400, and nothing of it is
    /// passed on.
    Malformed,
}

/// Some frames, sent behind preface and SETTINGS.
#[derive(Debug, Clone)]
pub struct Case {
    /// Section and name.
    pub id: String,
    /// The frames.
    pub bytes: Vec<u8>,
    /// What is demanded.
    pub want: Want,
}

/// A case of a section: frames, one behind the other.
#[must_use]
pub fn case(id: &str, frames: &[Vec<u8>], want: Want) -> Case {
    Case {
        id: id.to_owned(),
        bytes: frames.concat(),
        want,
    }
}

/// A GET, whole.
#[must_use]
pub fn get() -> Vec<u8> {
    headers(1, &whole(), true)
}

/// The head of a POST, whose body is to follow.
#[must_use]
pub fn post() -> Vec<u8> {
    headers(1, &request("POST", "/hostile", &[]), false)
}

/// Type of a frame that no client may send (RFC 9113 section 8.4).
pub const PUSH_PROMISE: u8 = 5;

/// PRIORITY, as a flag of HEADERS.
pub const WEIGHTED: u8 = 0x20;

/// The block of a well-formed GET.
#[must_use]
pub fn whole() -> Vec<u8> {
    request("GET", "/hostile", &[])
}

/// The two parts of it.
#[must_use]
pub fn halves() -> (Vec<u8>, Vec<u8>) {
    let mut first = whole();
    let second = first.split_off(12);
    (first, second)
}

/// HEADERS with the first part, which CONTINUATION must follow.
#[must_use]
pub fn begun() -> Vec<u8> {
    frame(HEADERS, END_STREAM, 1, &halves().0)
}

/// CONTINUATION with the second part.
#[must_use]
pub fn continued(flags: u8) -> Vec<u8> {
    frame(CONTINUATION, flags, 1, &halves().1)
}

/// A GET with these fields and no others.
#[must_use]
pub fn only(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, &block(fields), true)
}

/// A GET with these bytes of a header block behind its own.
#[must_use]
pub fn with(more: &[u8]) -> Vec<u8> {
    headers(1, &[&whole()[..], more].concat(), true)
}

/// Sent behind a case: when it is answered, the case was dealt with.
const MARK: &[u8; 8] = b"conforms";

/// What was said behind a case.
#[derive(Debug)]
struct Told {
    frames: Vec<Frame>,
    ended: bool,
}

impl Told {
    fn read(http2: &mut Http2, want: Want) -> Self {
        let mut told = Self {
            frames: Vec::new(),
            ended: false,
        };
        loop {
            let marked = told
                .frames
                .iter()
                .any(|f| f.kind == PING && f.flags == ACK && f.payload == MARK);
            let enough = match want {
                Want::Lives => marked,
                Want::Served | Want::Malformed => marked && told.is_over(),
                Want::Stream(_) => marked && told.reset().is_some(),
                Want::Connection(_) => false,
            };
            if enough {
                return told;
            }
            let Some(frame) = http2.next_frame() else {
                told.ended = true;
                return told;
            };
            told.frames.push(frame);
        }
    }

    fn of_stream(&self, kind: u8) -> impl Iterator<Item = &Frame> {
        self.frames
            .iter()
            .filter(move |f| f.stream == 1 && f.kind == kind)
    }

    fn reset(&self) -> Option<u32> {
        self.of_stream(RST_STREAM).next().map(|f| f.word(0))
    }

    fn status(&self) -> Option<u16> {
        self.of_stream(HEADERS)
            .next()
            .and_then(|f| status_of(&f.payload))
    }

    fn is_over(&self) -> bool {
        let ends = |f: &Frame| f.stream == 1 && f.kind <= HEADERS && f.flags & END_STREAM != 0;
        self.reset().is_some() || self.frames.iter().any(ends)
    }

    fn goaway(&self) -> Option<u32> {
        let last = self.frames.iter().rev().find(|f| f.kind == GOAWAY);
        last.map(|f| f.word(4)).filter(|_| self.ended)
    }

    fn fits(&self, want: Want) -> bool {
        let among = |codes: &[u32], code: Option<u32>| code.is_some_and(|c| codes.contains(&c));
        match want {
            Want::Lives => !self.ended,
            Want::Served => self.status() == Some(200) && self.reset().is_none_or(|c| c == 0),
            Want::Stream(codes) => among(codes, self.reset()) || among(codes, self.goaway()),
            Want::Connection(codes) => among(codes, self.goaway()),
            Want::Malformed => {
                self.status() == Some(400)
                    || among(&[1], self.reset())
                    || among(&[1], self.goaway())
            }
        }
    }
}

/// Carries out one case.
///
/// # Errors
/// What was said instead of what is demanded, or what reached the upstream.
fn check(stage: &Stage, case: &Case) -> Result<(), String> {
    let mark = stage.mark();
    let mut http2 = stage.http2();
    http2.settle();
    http2.send(&case.bytes);
    http2.send(frame(PING, 0, 0, MARK));
    let told = Told::read(&mut http2, case.want);
    if !told.fits(case.want) {
        return Err(format!("{:?}, but {told:?}", case.want));
    }
    stage.canary()?;
    let passed = stage.complete(&mark);
    let hostile = passed.iter().filter(|r| target(r).contains("hostile"));
    match (case.want, hostile.count()) {
        (Want::Served, 1) | (Want::Lives | Want::Stream(_) | Want::Connection(_), _) => Ok(()),
        (Want::Malformed, 0) => Ok(()),
        (_, count) => Err(format!("{count} requests at the upstream")),
    }
}

/// Carries out a table in this role, and names every case that failed.
///
/// # Panics
/// When one did.
pub fn run(stage: &Stage, cases: &[Case]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.id, check(stage, case).err()?)))
        .collect();
    assert!(
        wrong.is_empty(),
        "as {:?}: {} of {} cases\n{}",
        stage.role,
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    held("H2-01", stage.role, cases.len());
}
