//! Hostile HTTP/2, rows H2-02 to H2-05 of the battery: floods of streams and blocks. Each ends with the connection, in
//! a bounded number of frames, and nobody else notices.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "outside the test function, but part of it"
)]

use selvedge_tests::Upstream;
use selvedge_tests::hostile::{ROLES, Role, Stage, both, echo, held, target};
use selvedge_tests::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR, GOAWAY, HEADERS, Http2, Outcome, PING, PRIORITY, PROTOCOL_ERROR,
    STREAM_CLOSED, block, frame, headers, request, reset, window,
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
                stage.held("H2-02");
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
        stage.held("H2-02");
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
        stage.held("H2-02");
    });
}

/// Frames, and the codes that may answer them.
type Flood = (&'static str, Vec<Vec<u8>>, &'static [u32]);

/// Frames that make the server reset a stream (or give the connection up), by stream.
type Provocation = (&'static str, fn(u32) -> Vec<u8>);

const PROVOCATIONS: [Provocation; 10] = [
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
    ("trailers with a path", |s| {
        [
            headers(s, &post(), false),
            headers(s, &block(&[(":path", "/hostile")]), true),
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
    for role in ROLES {
        held("H2-04", role, PROVOCATIONS.len());
    }
}

#[test]
fn h2_05_continuations() {
    both(|stage| {
        let open = || frame(HEADERS, END_STREAM, 1, &get());
        let more = |payload: &[u8]| frame(CONTINUATION, 0, 1, payload);
        let field = block(&[("x", &"a".repeat(100))]);
        let cases: [Flood; 8] = [
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
        for (id, frames, codes) in &cases {
            let mark = stage.mark();
            let all = std::iter::once(open()).chain(frames.iter().cloned());
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
        held("H2-05", stage.role, cases.len() + 1);

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
