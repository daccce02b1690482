//! The HTTP/2 engine, either end of it, fed with frames by a peer that does as it likes.
//!
//! The first byte of an input says how the stream's tasks behave, and in how many pieces the rest
//! arrives.

use std::task::{Context, Poll, Waker};

use http::{Method, StatusCode};
use selvedge::message::{
    Body, BodyLength, Fields, Host, RequestHead, ResponseHead, Target, Version,
};
use selvedge::protocol::http2::conn::{Fatal, Phase};
use selvedge::protocol::http2::encode::{self, Toward};
use selvedge::protocol::http2::frame::{self, Reason, kind};
use selvedge::protocol::http2::handle::Part;
use selvedge::protocol::http2::request::read_request;
use selvedge::protocol::http2::settings::Own;
use selvedge::protocol::http2::{End, Handle};
use selvedge_contract::defaults::http2::Rates;

use super::engine::{self, Line};
use super::{LISTENERS, carry, lines};

/// Small, so that inputs reach them.
const OWN: Own = Own {
    streams: 4,
    stream_window: 2048,
    connection_window: 65_535,
    header_block: 1024,
    header_count: 24,
    trailer_block: 256,
    trailer_count: 4,
    rates: Rates::DEFAULT,
    buffer: 4096,
};

/// What the task of a stream does with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Nothing, to the end.
    Hold,
    /// Goes away at once.
    Leave,
    /// Answers with a body as far as there is credit, and stays.
    Answer,
    /// Answers with a head, and goes away.
    Brief,
    /// Takes what comes, and stays.
    Take,
    /// Resets it.
    Reset,
    /// Answers with trailers, and stays.
    Trail,
    /// Ends the connection politely.
    Drain,
}

struct Script {
    habit: Habit,
    step: usize,
    bytes: Vec<u8>,
}

impl Script {
    /// Reads an input; the `greeting` comes first where it says so.
    fn read(input: &[u8], greeting: &[u8]) -> Option<Self> {
        let (control, rest) = input.split_first()?;
        let habits = [
            Habit::Hold,
            Habit::Leave,
            Habit::Answer,
            Habit::Brief,
            Habit::Take,
            Habit::Reset,
            Habit::Trail,
            Habit::Drain,
        ];
        let mut bytes = Vec::new();
        if control & 8 == 0 {
            bytes.extend_from_slice(greeting);
        }
        bytes.extend_from_slice(rest);
        Some(Self {
            habit: habits[usize::from(control & 7)],
            step: bytes.len().div_ceil(1 + usize::from(control >> 4)).max(1),
            bytes,
        })
    }
}

/// What became of a connection whose tasks did nothing.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    fatal: Option<Fatal>,
    phase: Phase,
    live: u32,
    heads: Vec<String>,
    streams: Vec<(usize, String)>,
}

pub(crate) fn server(input: &[u8]) {
    let mut greeting = frame::PREFACE.to_vec();
    greeting.extend_from_slice(b"\0\0\0\x04\0\0\0\0\0");
    let Some(script) = Script::read(input, &greeting) else {
        return;
    };
    engine::block_on(async {
        let outcome = serve(&script, script.step).await;
        if script.habit == Habit::Hold && script.step < script.bytes.len() {
            let whole = serve(&script, script.bytes.len()).await;
            assert_eq!(outcome, whole, "in steps of {}", script.step);
        }
    });
}

async fn serve(script: &Script, step: usize) -> Outcome {
    let mut line = Line::new(End::Server, OWN);
    let mut held: Vec<(Handle, BodyLength)> = Vec::new();
    let mut heads = Vec::new();
    let mut answers = 0;
    for part in script.bytes.chunks(step) {
        line.feed(part).await;
        loop {
            let incoming = line.conn.borrow_mut().accepted.pop_front();
            let Some(incoming) = incoming else { break };
            heads.push(format!("{incoming:?}"));
            let Some(key) = incoming.key else { continue };
            let handle = Handle::new(line.conn.clone(), key);
            let ended = incoming.ended;
            // Larger heads than a listener would let in are too large here already.
            let length = match read_request(incoming.head, ended, &LISTENERS[1]) {
                Ok(parsed) => {
                    carry::survives(&parsed.head, parsed.length);
                    answers += 1;
                    behave(script.habit, &handle);
                    parsed.length
                }
                Err(_) => BodyLength::Unknown,
            };
            if !matches!(script.habit, Habit::Leave | Habit::Brief) {
                held.push((handle, length));
            }
        }
        if script.habit == Habit::Take {
            for (handle, _) in &held {
                let _ = take(handle);
            }
        }
        if script.habit == Habit::Drain {
            let mut conn = line.conn.borrow_mut();
            conn.announce_end();
            conn.settle_end();
        }
        check(&line, held.len());
        line.drive().await;
    }
    finish(&line, script, answers);
    let streams = bodies(&held, script.habit);
    let conn = line.conn.borrow();
    Outcome {
        fatal: conn.fatal,
        phase: conn.phase(),
        live: conn.live(),
        heads,
        streams,
    }
}

fn check(line: &Line, held: usize) {
    let conn = line.conn.borrow();
    assert!(conn.live() <= OWN.streams, "{} streams live", conn.live());
    assert!(held <= 1 << 12);
    assert!(conn.accepted.is_empty());
}

fn answer() -> ResponseHead {
    let mut fields = Fields::new();
    fields.append(b"Server", b"fuzz");
    ResponseHead {
        status: StatusCode::OK,
        fields,
    }
}

fn behave(habit: Habit, handle: &Handle) {
    let cx = Context::from_waker(Waker::noop());
    match habit {
        Habit::Hold | Habit::Leave | Habit::Take | Habit::Drain => {}
        Habit::Answer => {
            handle.send_response(&answer(), false);
            for _ in 0..4 {
                let Poll::Ready(Ok(Some(room))) = handle.poll_capacity(&cx) else {
                    return;
                };
                handle.send_data(&vec![b'x'; room.min(300)], false);
            }
        }
        Habit::Brief => handle.send_response(&answer(), true),
        Habit::Reset => handle.reset(Reason::CANCEL),
        Habit::Trail => {
            handle.send_response(&answer(), false);
            let mut trailers = Fields::new();
            trailers.append(b"Grpc-Status", b"0");
            handle.send_trailers(&trailers);
        }
    }
}

/// Takes all that came on a stream: how much, and what stands behind it.
fn take(handle: &Handle) -> (usize, String) {
    let cx = Context::from_waker(Waker::noop());
    let mut taken = 0;
    loop {
        match handle.poll_part(&cx) {
            Poll::Ready(Ok(Part::Data(data))) => taken += data.len(),
            Poll::Ready(Ok(Part::Trailers(fields))) => {
                assert!(fields.len() <= OWN.trailer_count.max(OWN.header_count));
                return (taken, format!("trailers {:?}", lines(&fields, |_| false)));
            }
            Poll::Ready(Ok(Part::End)) => return (taken, "end".to_owned()),
            Poll::Ready(Err(cut)) => return (taken, format!("{cut:?}")),
            Poll::Pending => return (taken, "more".to_owned()),
        }
    }
}

/// What was held of bodies is within the windows, and as long as the heads said.
fn bodies(held: &[(Handle, BodyLength)], habit: Habit) -> Vec<(usize, String)> {
    let streams: Vec<(usize, String)> = held.iter().map(|(handle, _)| take(handle)).collect();
    let all: usize = streams.iter().map(|(taken, _)| taken).sum();
    assert!(all <= OWN.connection_window as usize, "{all} bytes held");
    for ((taken, end), (_, length)) in streams.iter().zip(held) {
        assert!(*taken <= OWN.stream_window as usize, "{taken} bytes held");
        let over = end == "end" || end.starts_with("trailers");
        if let BodyLength::Exact(length) = length
            && over
            && habit != Habit::Take
        {
            assert_eq!(*taken as u64, *length);
        }
    }
    streams
}

/// What was written is whole frames, of kinds that this end may send, and not much more than was
/// read.
fn finish(line: &Line, script: &Script, answers: usize) {
    let end = if line.output.starts_with(frame::PREFACE) {
        End::Client
    } else {
        End::Server
    };
    for (header, payload) in line.frames(end) {
        let length = match header.kind {
            kind::DATA | kind::HEADERS => {
                assert!(header.stream > 0);
                continue;
            }
            kind::SETTINGS if header.flags == 0 => payload.len() / 6 * 6,
            kind::SETTINGS => 0,
            kind::RST_STREAM => {
                assert!(header.stream > 0);
                4
            }
            kind::WINDOW_UPDATE => {
                assert!(frame::word(payload, 0).is_some_and(|step| step > 0));
                4
            }
            kind::PING | kind::GOAWAY => 8,
            other => panic!("a frame of type {other}"),
        };
        assert_eq!(payload.len(), length);
    }
    let most = 512 + 4 * script.bytes.len() + answers * 2048;
    assert!(line.output.len() <= most, "{} bytes", line.output.len());
}

fn asked(method: Method) -> RequestHead {
    let mut fields = Fields::new();
    fields.append(b"Accept", b"*/*");
    RequestHead {
        method,
        target: Target::asterisk(),
        host: Host::default(),
        version: Version::Http11,
        fields,
        upgrade: None,
    }
}

/// What we have asked an upstream for: streams 1, 3 and 5.
const METHODS: [Method; 3] = [Method::GET, Method::HEAD, Method::POST];

pub(crate) fn client(input: &[u8]) {
    let Some(script) = Script::read(input, b"\0\0\0\x04\0\0\0\0\0") else {
        return;
    };
    engine::block_on(async {
        let outcome = ask(&script, script.step).await;
        if script.habit == Habit::Hold && script.step < script.bytes.len() {
            let whole = ask(&script, script.bytes.len()).await;
            assert_eq!(outcome, whole, "in steps of {}", script.step);
        }
    });
}

async fn ask(script: &Script, step: usize) -> Outcome {
    let mut line = Line::new(End::Client, OWN);
    let mut held = Vec::new();
    let mut heads = Vec::new();
    for method in METHODS {
        let (ended, head_only) = (method != Method::POST, method == Method::HEAD);
        let toward = Toward {
            https: false,
            tunnel: true,
            authority: "a",
        };
        let head = asked(method);
        let key = line.conn.borrow_mut().open(ended, head_only, |out| {
            encode::put_request(out, &head, &Body::Empty, toward);
        });
        let key = key.expect("a stream of a new connection");
        held.push(Handle::new(line.conn.clone(), key));
    }
    for part in script.bytes.chunks(step) {
        line.feed(part).await;
        match script.habit {
            Habit::Leave => held.truncate(1),
            Habit::Reset => held.iter().for_each(|h| h.reset(Reason::CANCEL)),
            Habit::Take => held.iter().for_each(|h| {
                let _ = take(h);
            }),
            Habit::Answer => {
                if let Some(upload) = held.get(2) {
                    let cx = Context::from_waker(Waker::noop());
                    if let Poll::Ready(Ok(Some(room))) = upload.poll_capacity(&cx) {
                        upload.send_data(&vec![b'x'; room.min(300)], false);
                    }
                }
            }
            Habit::Brief => held.iter().for_each(|h| h.send_data(&[], true)),
            Habit::Drain => line.conn.borrow_mut().retire(),
            Habit::Hold | Habit::Trail => {}
        }
        check(&line, held.len());
        line.drive().await;
    }
    finish(&line, script, METHODS.len() + script.bytes.len() / step);
    let mut streams = Vec::new();
    for (handle, method) in held.iter().zip(METHODS) {
        let (length, count) = heads_of(handle, &method, &mut heads);
        assert!(count <= 17, "{count} heads");
        let (taken, end) = take(handle);
        assert!(taken <= OWN.stream_window as usize, "{taken} bytes held");
        if let Some(length) = length
            && end == "end"
            && script.habit != Habit::Take
        {
            assert_eq!(taken as u64, length);
        }
        streams.push((taken, end));
    }
    let conn = line.conn.borrow();
    Outcome {
        fatal: conn.fatal,
        phase: conn.phase(),
        live: conn.live(),
        heads,
        streams,
    }
}

/// Takes the heads of an answer: the length that the last one promises, and how many there were.
fn heads_of(handle: &Handle, method: &Method, heads: &mut Vec<String>) -> (Option<u64>, usize) {
    let cx = Context::from_waker(Waker::noop());
    let (mut length, mut count) = (None, 0);
    while let Poll::Ready(Ok(head)) = handle.poll_head(&cx) {
        count += 1;
        assert!(head.status != StatusCode::SWITCHING_PROTOCOLS);
        let told = head.fields.named("content-length");
        let told = told.map(|t| std::str::from_utf8(t).unwrap().parse().unwrap());
        let bodiless = *method == Method::HEAD || [204, 304].contains(&head.status.as_u16());
        length = if bodiless { None } else { told };
        heads.push(format!(
            "{} {:?}",
            head.status,
            lines(&head.fields, |_| false)
        ));
    }
    (length, count)
}
