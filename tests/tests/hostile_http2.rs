//! Hostile HTTP/2, rows H2-02 to H2-09 of the battery: floods. Each ends with the connection, in
//! a bounded number of frames, and nobody else notices.

use selvedge_tests::Upstream;
use selvedge_tests::hostile::{ROLES, Role, Stage, both, echo, target};
use selvedge_tests::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR, Frame, GOAWAY, HEADERS, Http2, Outcome, PADDED, PING, PRIORITY,
    PROTOCOL_ERROR, SETTINGS, STREAM_CLOSED, block, frame, headers, request, reset, settings,
    window,
};

/// Sends until the peer takes no more, then reads to the end: the code of the last GOAWAY.
fn flood(stage: &Stage, http2: &mut Http2, frames: impl Iterator<Item = Vec<u8>>) -> Option<u32> {
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

/// A GET of something hostile.
fn get() -> Vec<u8> {
    request("GET", "/hostile", &[])
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

/// How many hostile requests have reached the upstream.
fn starts(stage: &Stage) -> usize {
    stage
        .upstream
        .all()
        .matches(" /hostile HTTP/1.1\r\n")
        .count()
}

#[test]
fn h2_02_rapid_reset() {
    let pair = |stream| [headers(stream, &get(), true), reset(stream)].concat();
    for role in ROLES {
        for (id, count) in [("120 pairs", 120), ("10,000 pairs", 10_000)] {
            for upstream in [
                silent(),
                Upstream::scripted(|c| {
                    while let Some(request) = c.request() {
                        echo(c, &request);
                    }
                }),
            ] {
                let stage = Stage::over(role, "", upstream);
                let code = flood(&stage, &mut stage.http2(), streams(count).map(pair));
                assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{id} as {role:?}");
                assert!(
                    starts(&stage) <= 200,
                    "{id} as {role:?}: {}",
                    starts(&stage)
                );
            }
        }
        let stage = Stage::over(role, "", silent());
        let mut many: Vec<Http2> = (0..20).map(|_| stage.http2()).collect();
        for part in (0..10).map(|n| (n * 100..n * 100 + 100).map(|s| pair(2 * s + 1))) {
            let bytes: Vec<u8> = part.flatten().collect();
            for http2 in &mut many {
                http2.send(&bytes);
            }
        }
        for http2 in &mut many {
            assert_eq!(
                http2.end().0,
                Some(ENHANCE_YOUR_CALM),
                "20 connections as {role:?}"
            );
        }
        assert!(
            starts(&stage) <= 20 * 200,
            "20 connections as {role:?}: {}",
            starts(&stage)
        );
        stage.canary().unwrap();
    }
}

#[test]
fn h2_02_a_client_that_changes_its_mind_may() {
    both(|stage| {
        let mut http2 = stage.http2();
        for stream in streams(15) {
            http2.send([headers(stream, &post(), false), reset(stream)].concat());
        }
        http2.get(31, "/own/after");
        assert_eq!(
            http2.outcome(31),
            Outcome::Answer(200, b"/own/after".to_vec())
        );
    });
}

/// Frames that make the server reset a stream (or give the connection up), by stream.
type Provocation = (&'static str, fn(u32) -> Vec<u8>);

const PROVOCATIONS: [Provocation; 9] = [
    ("WINDOW_UPDATE of 0", |s| {
        [headers(s, &get(), true), window(s, 0)].concat()
    }),
    ("WINDOW_UPDATE over 2^31", |s| {
        [headers(s, &get(), true), window(s, 0x7fff_ffff)].concat()
    }),
    ("DATA behind END_STREAM", |s| {
        [headers(s, &get(), true), frame(DATA, 0, s, b"x")].concat()
    }),
    ("HEADERS behind END_STREAM", |s| {
        [headers(s, &get(), true), headers(s, &get(), true)].concat()
    }),
    ("PRIORITY on itself", |s| {
        [
            headers(s, &get(), true),
            frame(PRIORITY, 0, s, &[&s.to_be_bytes()[..], &[0]].concat()),
        ]
        .concat()
    }),
    ("PRIORITY of 4 bytes", |s| {
        [headers(s, &get(), true), frame(PRIORITY, 0, s, &[0; 4])].concat()
    }),
    ("DATA beyond CL", |s| {
        let head = request("POST", "/hostile", &[("content-length", "1")]);
        [headers(s, &head, false), frame(DATA, END_STREAM, s, b"xy")].concat()
    }),
    ("END_STREAM before CL", |s| {
        let head = request("POST", "/hostile", &[("content-length", "9")]);
        [headers(s, &head, false), frame(DATA, END_STREAM, s, b"xy")].concat()
    }),
    ("HEADERS without END_STREAM as trailers", |s| {
        [
            headers(s, &post(), false),
            headers(s, &block(&[("x", "y")]), false),
        ]
        .concat()
    }),
];

#[test]
fn h2_04_resets_that_the_server_is_made_to_send() {
    let mut wrong = Vec::new();
    for role in ROLES {
        for (id, provoke) in PROVOCATIONS {
            let stage = Stage::over(role, "", silent());
            let mut http2 = stage.http2();
            for part in streams(5000).collect::<Vec<_>>().chunks(32) {
                if !http2.send(part.iter().flat_map(|s| provoke(*s)).collect::<Vec<_>>()) {
                    break;
                }
            }
            let (code, frames) = http2.end();
            let resets = frames.iter().filter(|f| f.kind == 3).count();
            let codes = [
                ENHANCE_YOUR_CALM,
                PROTOCOL_ERROR,
                STREAM_CLOSED,
                FRAME_SIZE_ERROR,
                FLOW_CONTROL_ERROR,
            ];
            if code.is_none_or(|code| !codes.contains(&code)) || resets > 120 {
                wrong.push(format!(
                    "{id} as {role:?}: GOAWAY {code:?} behind {resets} resets"
                ));
            }
            let cap = if role == Role::Gateway { 100 } else { 250 };
            if starts(&stage) > cap + 120 {
                wrong.push(format!(
                    "{id} as {role:?}: {} requests at the upstream",
                    starts(&stage)
                ));
            }
            if let Err(why) = stage.canary() {
                wrong.push(format!("{id} as {role:?}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "H2-04:\n{}", wrong.join("\n"));
}

#[test]
fn h2_05_continuations() {
    both(|stage| {
        let open = || frame(HEADERS, END_STREAM, 1, &get());
        let more = |payload: &[u8]| frame(CONTINUATION, 0, 1, payload);
        let field = block(&[("x", &"a".repeat(100))]);
        let cases: [(&str, Vec<Vec<u8>>, &[u32]); 8] = [
            ("endless", vec![more(&field); 1000], &[ENHANCE_YOUR_CALM]),
            ("nine", vec![more(&field); 9], &[ENHANCE_YOUR_CALM]),
            (
                "of one byte",
                vec![more(&field[..1]); 100],
                &[ENHANCE_YOUR_CALM],
            ),
            ("empty", vec![more(&[]); 100], &[ENHANCE_YOUR_CALM]),
            (
                "PING between",
                vec![more(&field), frame(PING, 0, 0, &[0; 8])],
                &[PROTOCOL_ERROR],
            ),
            (
                "DATA between",
                vec![more(&field), frame(DATA, 0, 1, b"x")],
                &[PROTOCOL_ERROR],
            ),
            (
                "HEADERS between",
                vec![more(&field), headers(3, &get(), true)],
                &[PROTOCOL_ERROR],
            ),
            (
                "of another stream",
                vec![frame(CONTINUATION, END_HEADERS, 3, &field)],
                &[PROTOCOL_ERROR],
            ),
        ];
        for (id, frames, codes) in cases {
            let mark = stage.mark();
            let all = std::iter::once(open()).chain(frames);
            let code = flood(stage, &mut stage.http2(), all);
            assert!(
                code.is_some_and(|c| codes.contains(&c)),
                "{id} as {:?}: {code:?}",
                stage.role
            );
            assert!(stage.complete(&mark).is_empty(), "{id} as {:?}", stage.role);
        }
        let alone = std::iter::once(frame(CONTINUATION, END_HEADERS, 1, &get()));
        assert_eq!(
            flood(stage, &mut stage.http2(), alone),
            Some(PROTOCOL_ERROR)
        );

        // Eight are in order.
        let mut http2 = stage.http2();
        http2.send(frame(
            HEADERS,
            END_STREAM,
            1,
            &request("GET", "/own/eight", &[]),
        ));
        for n in 1..=8 {
            let flags = if n == 8 { END_HEADERS } else { 0 };
            http2.send(frame(CONTINUATION, flags, 1, &field));
        }
        assert_eq!(
            http2.outcome(1),
            Outcome::Answer(200, b"/own/eight".to_vec())
        );
    });
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
            if code != Some(ENHANCE_YOUR_CALM) {
                wrong.push(format!("{id} as {role:?}: {code:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "H2-08:\n{}", wrong.join("\n"));
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
        // Data byte by byte is slow, not wrong: it may be cut off, or must arrive whole, and
        // costs no memory either way.
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
        let fine = matches!(&outcome, Outcome::Answer(200, body) if body == b"/own/bytes")
            || outcome == Outcome::Goaway(ENHANCE_YOUR_CALM);
        if !fine || stage.peak() > before + (16 << 20) {
            wrong.push(format!("DATA of one byte as {role:?}: {outcome:?}"));
        }
        stage.canary().unwrap();
    }
    assert!(wrong.is_empty(), "H2-09:\n{}", wrong.join("\n"));
}

#[test]
fn a_goaway_of_the_client_is_no_flood() {
    both(|stage| {
        let mut http2 = stage.http2();
        http2.get(1, "/own/last");
        http2.send(frame(GOAWAY, 0, 0, &[0; 8]));
        assert_eq!(
            http2.outcome(1),
            Outcome::Answer(200, b"/own/last".to_vec())
        );
        stage.canary().unwrap();
    });
}
