//! Hostile HTTP/2, rows H2-06, H2-10 and H2-12 of the battery: what a peer may have us hold.

use selvedge_tests::Upstream;
use selvedge_tests::hostile::{ROLES, Role, Stage, echo, held, target};
use selvedge_tests::http2::{
    COMPRESSION_ERROR, CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, Http2,
    Outcome, PROTOCOL_ERROR, REFUSED_STREAM, field, frame, integer, request, settings, window,
};

/// A block in as many frames as it takes.
fn long(stream: u32, block: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = block.chunks(16_384).collect();
    let last = parts.len() - 1;
    let frames = parts.iter().enumerate().map(|(at, part)| {
        let end = if at == last { END_HEADERS } else { 0 };
        match at {
            0 => frame(HEADERS, END_STREAM | end, stream, part),
            _ => frame(CONTINUATION, end, stream, part),
        }
    });
    frames.flatten().collect()
}

/// Whether a stream was refused: by its reset, a status of 4xx, or with the connection.
fn refused(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Answer(status, _) => matches!(status, 400..=499),
        Outcome::Reset(code) => *code != 0,
        Outcome::Goaway(code) => matches!(
            *code,
            PROTOCOL_ERROR | COMPRESSION_ERROR | ENHANCE_YOUR_CALM
        ),
        Outcome::Closed => false,
    }
}

#[test]
fn h2_06_header_bombs() {
    let hostile = || request("GET", "/hostile", &[]);
    let entry = {
        let mut bytes = vec![0x40];
        integer(0, 7, 1, &mut bytes);
        bytes.push(b'x');
        integer(0, 7, 4000, &mut bytes);
        bytes.extend([b'a'; 4000]);
        bytes
    };
    let with = |more: &[u8]| [&hostile(), more].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "4 KiB, 16,000 times",
            with(&[entry.clone(), vec![0xbe; 16_000]].concat()),
        ),
        (
            "4 KiB, 100,000 times",
            with(&[entry, vec![0xbe; 100_000]].concat()),
        ),
        ("30,000 fields", with(&field("x", "y").repeat(30_000))),
        ("101 fields", with(&field("x", "y").repeat(101))),
        (
            "200 cookie crumbs",
            with(&field("cookie", "a=b").repeat(200)),
        ),
        ("70 KiB of one value", with(&field("x", "a".repeat(70_000)))),
        ("table sizes in the middle", with(&[0x20; 5000])),
        (
            "a table over the limit",
            [vec![0x3f, 0xe1, 0xff, 0xff, 0x07], hostile()].concat(),
        ),
        (
            "an integer without an end",
            with(&[
                0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
            ]),
        ),
        (
            "a length of 2^32 + 1",
            with(&[0x00, 0x7f, 0x82, 0xff, 0xff, 0xff, 0x0f]),
        ),
        ("an entry that is not there", with(&[0xfe])),
        ("entry 0", with(&[0x80])),
        (
            "Huffman with EOS",
            with(&[0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
        ),
        (
            "Huffman with a byte of padding",
            with(&[0x00, 0x01, b'x', 0x82, 0x1f, 0xff]),
        ),
        (
            "Huffman padded with zeros",
            with(&[0x00, 0x01, b'x', 0x81, 0x18]),
        ),
        ("a string cut short", with(&[0x00, 0x01, b'x', 0x7e, b'a'])),
    ];
    let mut wrong = Vec::new();
    for role in ROLES {
        let stage = Stage::start(role, "");
        stage.canary().unwrap();
        let before = stage.resident();
        for (id, bytes) in &cases {
            let mark = stage.mark();
            let mut http2 = Http2::connect(stage.address(), &[]);
            http2.send(long(1, bytes));
            let outcome = http2.outcome(1);
            if !refused(&outcome) || !stage.complete(&mark).is_empty() {
                wrong.push(format!("{id} as {role:?}: {outcome:?}"));
            }
            stage
                .canary()
                .unwrap_or_else(|why| panic!("{id} as {role:?}: {why}"));
        }
        let grown = stage.peak().saturating_sub(before);
        if grown > 8 << 20 {
            wrong.push(format!("{grown} bytes of memory as {role:?}"));
        }
    }
    assert!(wrong.is_empty(), "H2-06:\n{}", wrong.join("\n"));
    for role in ROLES {
        held("H2-06", role, cases.len());
    }
}

#[test]
fn h2_10_windows_that_never_open() {
    type Opened = fn(u32) -> Vec<u8>;
    let nothing: Opened = |_| Vec::new();
    type Case = (&'static str, &'static [(u16, u32)], Opened);
    let cases: [Case; 6] = [
        ("closed", &[(4, 0)], nothing),
        ("a byte each", &[(4, 1)], nothing),
        ("that of the connection", &[(4, 1 << 20)], nothing),
        ("opened by a byte each", &[(4, 0)], |s| window(s, 1)),
        ("opened and closed again", &[(4, 16)], |_| {
            settings(&[(4, 0)])
        }),
        ("opened for no stream", &[(4, 0)], |s| {
            if s == 1 {
                window(0, 1 << 20)
            } else {
                Vec::new()
            }
        }),
    ];
    for (role, (id, initial, opened)) in ROLES
        .into_iter()
        .flat_map(|role| cases.map(|case| (role, case)))
    {
        let upstream = Upstream::scripted(|connection| {
            while let Some(request) = connection.request() {
                if target(&request) == "/hostile" {
                    connection.send(format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                        1 << 20
                    ));
                    connection.send(vec![b'x'; 1 << 20]);
                } else {
                    echo(connection, &request);
                }
            }
        });
        let stage = Stage::over(role, "streamIdle: 1s", upstream);
        stage.canary().unwrap();
        let before = stage.resident();
        // Never are the windows of a stream and of the connection both opened.
        let mut http2 = Http2::connect(stage.address(), initial);
        for n in 0..100 {
            http2.get(2 * n + 1, "/hostile");
            http2.send(opened(2 * n + 1));
        }
        for n in 0..100 {
            assert!(
                matches!(http2.outcome(2 * n + 1), Outcome::Reset(_)),
                "{id}, stream {n} as {role:?}"
            );
        }
        let grown = stage.peak().saturating_sub(before);
        assert!(grown < 32 << 20, "{id} as {role:?}: {grown} bytes");
        stage.canary().unwrap();
        // And nothing of it stays at the upstream.
        stage.upstream.wait_until(|seen| {
            seen.iter()
                .all(|s| !s.text().contains("/hostile") || s.closed)
        });
        stage.held("H2-10");
    }
}

#[test]
fn h2_12_streams_over_the_limit() {
    for role in ROLES {
        let cap = if role == Role::Gateway { 100 } else { 250 };
        for over in [1, 50, 100, 1000] {
            let upstream = Upstream::scripted(|connection| {
                while let Some(request) = connection.request() {
                    if target(&request) == "/hostile" {
                        return connection.drain();
                    }
                    echo(connection, &request);
                }
            });
            let stage = Stage::over(role, "", upstream);
            let mut http2 = stage.http2();
            for n in 0..cap + over {
                http2.get(2 * n + 1, "/hostile");
            }
            let mut codes = Vec::new();
            for n in cap..cap + over {
                let outcome = http2.outcome(2 * n + 1);
                let goaway = outcome == Outcome::Goaway(ENHANCE_YOUR_CALM);
                assert!(
                    goaway || outcome == Outcome::Reset(REFUSED_STREAM),
                    "{n} as {role:?}: {outcome:?}"
                );
                codes.push(outcome);
                if goaway {
                    break;
                }
            }
            let starts = stage.upstream.all().matches("GET /hostile").count();
            assert!(
                starts <= usize::try_from(cap).unwrap(),
                "{role:?}: {starts} at the upstream"
            );
            stage.canary().unwrap();
            stage.held("H2-12");
        }
    }
}
