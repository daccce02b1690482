//! Frames are told apart however they arrive, and each budget holds at its edge.

use super::*;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn frames_come_out_however_they_arrive() {
    let mut bytes = vec![b'P'; PREFACE];
    bytes.extend(frame(HEADERS, 4, b"abc"));
    bytes.extend(frame(DATA, PADDED, &[2, b'x', 0, 0]));
    bytes.extend(frame(DATA, PADDED, &[3, 0, 0, 0]));
    bytes.extend(frame(PING, 0, &[0; 8]));
    for step in 1..=bytes.len() {
        let mut frames = Frames::after(PREFACE);
        let mut seen = Vec::new();
        for part in bytes.chunks(step) {
            frames.feed(part, |frame| seen.push((frame.kind, frame.content)));
        }
        assert_eq!(
            seen,
            [(HEADERS, 3), (DATA, 1), (DATA, 0), (PING, 8)],
            "step {step}"
        );
    }
}

/// How many frames of a kind pass before the alarm.
fn passes(kind: u8, flags: u8, content: usize) -> (u32, Option<Abuse>) {
    let mut counts = Counts::new(Instant::now());
    let frame = Frame {
        kind,
        flags,
        content,
    };
    for passed in 0..100_000 {
        if let Some(abuse) = counts.received(frame) {
            return (passed, Some(abuse));
        }
    }
    (100_000, None)
}

#[test]
fn budgets_hold_at_their_edge() {
    assert_eq!(
        passes(RST_STREAM, 0, 4),
        (limits::CLIENT_RESETS, Some(Abuse::Resets))
    );
    assert_eq!(
        passes(PING, 0, 8),
        (limits::CONTROL_FRAMES, Some(Abuse::Control))
    );
    assert_eq!(
        passes(SETTINGS, 0, 0),
        (limits::CONTROL_FRAMES, Some(Abuse::Control))
    );
    assert_eq!(
        passes(CONTINUATION, 0, 1),
        (limits::CONTINUATIONS, Some(Abuse::Continuation))
    );
    assert_eq!(
        passes(DATA, 0, 0),
        (limits::EMPTY_FRAMES, Some(Abuse::Empty))
    );
    assert_eq!(passes(DATA, 0, 1), (100_000, None));
    assert_eq!(
        passes(PRIORITY, 0, 5),
        (limits::PRIORITY_FACTOR, Some(Abuse::Priority))
    );
    assert_eq!(passes(WINDOW_UPDATE, 0, 4), (5, Some(Abuse::WindowUpdate)));
    assert_eq!(
        passes(0xfa, 0, 4),
        (limits::UNKNOWN_FRAMES, Some(Abuse::Unknown))
    );
}

#[test]
fn rates_start_over_with_the_window() {
    let start = Instant::now();
    let mut counts = Counts::new(start);
    let ping = Frame {
        kind: PING,
        flags: 0,
        content: 8,
    };
    for _ in 0..limits::CONTROL_FRAMES {
        assert_eq!(counts.received(ping), None);
    }
    counts.turn(start + Duration::from_secs(limits::WINDOW_SECONDS));
    assert_eq!(counts.received(ping), None);
}
