//! Hostile HTTP/2, rows H2-08 and H2-09 of the battery: floods of small frames. Each ends with the connection, in
//! a bounded number of frames, and nobody else notices.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "outside the test function, but part of it"
)]

use selvedge_tests::Upstream;
use selvedge_tests::hostile::{ROLES, Stage, both, echo, held, target};
use selvedge_tests::http2::{
    DATA, END_STREAM, ENHANCE_YOUR_CALM, Frame, Http2, Outcome, PADDED, PING, PRIORITY,
    PROTOCOL_ERROR, SETTINGS, frame, headers, request, settings, window,
};

/// Sends until the peer takes no more, then reads to the end: the code of the last GOAWAY.
fn flood(stage: &Stage, http2: &mut Http2, frames: impl Iterator<Item = Vec<u8>>) -> Option<u32> {
    // Far longer than it takes to act on a flood.
    let patience = Some(std::time::Duration::from_secs(5));
    http2.stream().set_read_timeout(patience).unwrap();
    let all: Vec<Vec<u8>> = frames.collect();
    for part in all.chunks(32) {
        if !http2.send(part.concat()) {
            break;
        }
    }
    let (code, _) = http2.end();
    stage
        .canary()
        .unwrap_or_else(|why| panic!("{:?}: {why}", stage.role));
    code
}

fn post() -> Vec<u8> {
    request("POST", "/hostile", &[])
}

/// Odd stream numbers, from the first.
fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 2 * n + 1)
}

/// An upstream that answers only the canaries: requests to it stay in flight.
fn silent() -> Upstream {
    Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            if target(&request).starts_with("/own/") {
                echo(connection, &request);
            } else {
                return connection.drain();
            }
        }
    })
}

#[test]
fn h2_08_floods() {
    let opened = |frames: Vec<Vec<u8>>| [vec![headers(1, &post(), false)], frames].concat();
    let priority = |stream: u32| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16]);
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("SETTINGS", vec![settings(&[]); 1100]),
        (
            "SETTINGS that toggle the window",
            (0..1100)
                .map(|n| settings(&[(4, n % 2 * 65_535)]))
                .collect(),
        ),
        (
            "SETTINGS acknowledged unasked",
            vec![frame(SETTINGS, 1, 0, &[]); 1100],
        ),
        ("PING", vec![frame(PING, 0, 0, &[7; 8]); 1100]),
        (
            "PING acknowledged unasked",
            vec![frame(PING, 1, 0, &[7; 8]); 1100],
        ),
        (
            "PING and SETTINGS",
            (0..1100)
                .map(|n| {
                    if n % 2 == 0 {
                        settings(&[])
                    } else {
                        frame(PING, 0, 0, &[7; 8])
                    }
                })
                .collect(),
        ),
        ("PRIORITY", vec![priority(1); 150]),
        (
            "PRIORITY of many streams",
            streams(250).map(priority).collect(),
        ),
        (
            "PRIORITY with a stream open",
            opened(vec![priority(1); 350]),
        ),
        ("WINDOW_UPDATE of 1", vec![window(0, 1); 30]),
        (
            "WINDOW_UPDATE of 1 on a stream",
            opened(vec![window(1, 1); 30]),
        ),
        ("unknown frames", vec![frame(0xbb, 0, 0, b"x"); 1100]),
        (
            "unknown frames, empty, on a stream",
            opened(vec![frame(0xbb, 0, 1, b""); 1100]),
        ),
        (
            "unknown frames of 16 KiB",
            vec![frame(0xbb, 0, 0, &[0; 16_384]); 1100],
        ),
    ];
    let mut wrong = Vec::new();
    for role in ROLES {
        for (id, frames) in &cases {
            let stage = Stage::over(role, "", silent());
            let code = flood(&stage, &mut stage.http2(), frames.iter().cloned());
            // An acknowledgement of nothing is an error at once.
            let early = id.starts_with("SETTINGS ack") && code == Some(PROTOCOL_ERROR);
            if code != Some(ENHANCE_YOUR_CALM) && !early {
                wrong.push(format!("{id} as {role:?}: {code:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "H2-08:\n{}", wrong.join("\n"));
    for role in ROLES {
        held("H2-08", role, cases.len());
    }
}

#[test]
fn h2_08_a_reader_that_has_stopped() {
    both(|stage| {
        let before = stage.resident();
        let mut http2 = stage.http2();
        // Nothing is read until the end: what the proxy owes must not pile up.
        for _ in 0..1000 {
            let frames = [frame(PING, 0, 0, &[7; 8]), settings(&[])].concat();
            if !http2.send(frames.repeat(32)) {
                break;
            }
        }
        let (code, frames) = http2.end();
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{:?}", stage.role);
        let owed = |f: &&Frame| matches!(f.kind, PING | SETTINGS);
        assert!(
            frames.iter().filter(owed).count() < 2000,
            "{:?}",
            stage.role
        );
        let peak = stage.peak();
        assert!(
            peak < before + (8 << 20),
            "{:?}: {before} to {peak}",
            stage.role
        );
        stage.canary().unwrap();
        stage.held("H2-08");
    });
}

#[test]
fn h2_09_empty_frames() {
    let opened = |frames: Vec<Vec<u8>>| [vec![headers(1, &post(), false)], frames].concat();
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("empty DATA", opened(vec![frame(DATA, 0, 1, &[]); 20])),
        (
            "DATA of nothing but padding",
            opened(vec![
                frame(
                    DATA,
                    PADDED,
                    1,
                    &[&[200][..], &[0; 200]].concat()
                );
                20
            ]),
        ),
        (
            "DATA with no padding, and no data",
            opened(vec![frame(DATA, PADDED, 1, &[0]); 20]),
        ),
        (
            "empty HEADERS",
            streams(20).map(|s| headers(s, &[], false)).collect(),
        ),
        (
            "empty DATA over many streams",
            streams(20)
                .flat_map(|s| [headers(s, &post(), false), frame(DATA, 0, s, &[])])
                .collect(),
        ),
    ];
    let mut wrong = Vec::new();
    for role in ROLES {
        for (id, frames) in &cases {
            let stage = Stage::over(role, "", silent());
            let code = flood(&stage, &mut stage.http2(), frames.iter().cloned());
            if code != Some(ENHANCE_YOUR_CALM) {
                wrong.push(format!("{id} as {role:?}: {code:?}"));
            }
        }
        // Data byte by byte is a trickle, and costs no memory.
        let stage = Stage::start(role, "");
        let before = stage.resident();
        let mut http2 = stage.http2();
        http2.send(headers(1, &request("POST", "/own/bytes", &[]), false));
        for _ in 0..100 {
            let mut part = frame(DATA, 0, 1, b"x").repeat(500);
            part.extend(frame(0xbb, 0, 0, b""));
            http2.send(part);
        }
        http2.send(frame(DATA, END_STREAM, 1, &[]));
        let outcome = http2.outcome(1);
        if outcome != Outcome::Goaway(ENHANCE_YOUR_CALM) || stage.peak() > before + (16 << 20) {
            wrong.push(format!("DATA of one byte as {role:?}: {outcome:?}"));
        }
        stage.canary().unwrap();
    }
    assert!(wrong.is_empty(), "H2-09:\n{}", wrong.join("\n"));
    for role in ROLES {
        held("H2-09", role, cases.len() + 1);
    }
}
