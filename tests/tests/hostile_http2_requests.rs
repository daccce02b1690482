//! Hostile HTTP/2, rows H2-06 and H2-10 to H2-14 of the battery: streams that are not requests.

use selvedge_tests::Upstream;
use selvedge_tests::hostile::{ROLES, Role, Stage, both, echo, target};
use selvedge_tests::http2::{
    COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS,
    Http2, Outcome, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, block, field, frame, headers,
    integer, request,
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
        if grown > 4 << 20 {
            wrong.push(format!("{grown} bytes of memory as {role:?}"));
        }
    }
    assert!(wrong.is_empty(), "H2-06:\n{}", wrong.join("\n"));
}

#[test]
fn h2_10_windows_that_never_open() {
    for role in ROLES {
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
        // Neither the window of a stream nor that of the connection is ever opened.
        let mut http2 = Http2::connect(stage.address(), &[(4, 0)]);
        for n in 0..100 {
            http2.get(2 * n + 1, "/hostile");
        }
        for n in 0..100 {
            assert!(
                matches!(http2.outcome(2 * n + 1), Outcome::Reset(_)),
                "stream {n} as {role:?}"
            );
        }
        let grown = stage.peak().saturating_sub(before);
        assert!(grown < 32 << 20, "{role:?}: {grown} bytes");
        stage.canary().unwrap();
        // And nothing of it stays at the upstream.
        stage.upstream.wait_until(|seen| {
            seen.iter()
                .all(|s| !s.text().contains("/hostile") || s.closed)
        });
    }
}

#[test]
fn h2_12_streams_over_the_limit() {
    for role in ROLES {
        let cap = if role == Role::Gateway { 100 } else { 250 };
        for over in [1, 50, 1000] {
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
        }
    }
}

/// A block with these pseudo-fields, and one field.
fn odd(fields: &[(&str, &str)]) -> Vec<u8> {
    block(fields)
}

#[test]
fn h2_13_malformed_heads() {
    let get = |more: &[(&str, &str)]| request("GET", "/hostile", more);
    let method = (":method", "GET");
    let scheme = (":scheme", "http");
    let host = (":authority", "a");
    let path = (":path", "/hostile");
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("two :method", odd(&[method, method, scheme, host, path])),
        ("two :path", odd(&[method, scheme, host, path, path])),
        ("two :authority", odd(&[method, scheme, host, host, path])),
        ("two :scheme", odd(&[method, scheme, scheme, host, path])),
        ("late :path", odd(&[method, scheme, host, ("x", "y"), path])),
        (
            "late :method",
            odd(&[scheme, host, path, ("x", "y"), method]),
        ),
        (
            "unknown pseudo-field",
            odd(&[method, scheme, host, path, (":x", "y")]),
        ),
        (
            ":status",
            odd(&[method, scheme, host, path, (":status", "200")]),
        ),
        (
            ":protocol without CONNECT",
            odd(&[method, scheme, host, path, (":protocol", "websocket")]),
        ),
        ("no :method", odd(&[scheme, host, path])),
        ("no :path", odd(&[method, scheme, host])),
        ("no :scheme", odd(&[method, host, path])),
        ("no :authority", odd(&[method, scheme, path])),
        ("nothing", odd(&[("x", "y")])),
        (
            "CONNECT",
            odd(&[(":method", "CONNECT"), (":authority", "hostile:443")]),
        ),
        ("TRACE", odd(&[(":method", "TRACE"), scheme, host, path])),
        ("te: gzip", get(&[("te", "gzip")])),
        ("te: trailers, gzip", get(&[("te", "trailers, gzip")])),
    ]
    .into_iter()
    .map(|(id, bytes)| (id.to_owned(), bytes))
    .collect();
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ] {
        cases.push((name.to_owned(), get(&[(name, "chunked")])));
    }
    for bad in [
        "",
        "GE T",
        "GET\r\n",
        "GET\0",
        "G\tT",
        "GET /x HTTP/1.1\r\nX: y\r\n\r\nGET",
    ] {
        cases.push((
            format!(":method {bad:?}"),
            odd(&[(":method", bad), scheme, host, path]),
        ));
    }
    for bad in [
        "",
        "hostile",
        "*",
        "/hostile x",
        "/hostile HTTP/1.1\r\nX: y",
        "/hostile\0",
        "/hostile\t",
        "/hostile\u{7f}",
        "/hostile#x",
        "/hostile\u{e9}",
        "http://b/hostile",
        "/hostile\\x",
        "/hostile%00",
    ] {
        cases.push((
            format!(":path {bad:?}"),
            odd(&[method, scheme, host, (":path", bad)]),
        ));
    }
    for bad in ["", "h ttp", "http\r\n", "http://evil/?", "ht\0tp", "1http"] {
        cases.push((
            format!(":scheme {bad:?}"),
            odd(&[method, (":scheme", bad), host, path]),
        ));
    }
    for bad in [
        "",
        "a b",
        "a\r\nX: y",
        "u@a",
        "a/b",
        "a,b",
        "a:x",
        "a\0",
        "a:99999",
        "a?x",
        "a#x",
    ] {
        cases.push((
            format!(":authority {bad:?}"),
            odd(&[method, scheme, (":authority", bad), path]),
        ));
    }
    for bad in [
        "X",
        "x y",
        "x:",
        "x:y",
        "x\r\ny",
        "x\0",
        "",
        "x\r",
        "x\ny",
        "h\u{e9}",
        "content-Length",
        "x\u{7f}",
    ] {
        cases.push((format!("name {bad:?}"), get(&[(bad, "1")])));
    }
    for bad in ["a\r\nx: y", "a\rb", "a\nb", "a\0b", "a\u{1}b", "a\u{7f}b"] {
        cases.push((format!("value {bad:?}"), get(&[("x", bad)])));
    }
    let mut wrong = Vec::new();
    for role in ROLES {
        let stage = Stage::start(role, "");
        for (id, bytes) in &cases {
            let mut http2 = stage.http2();
            http2.send(headers(1, bytes, true));
            let outcome = http2.outcome(1);
            let right = matches!(
                outcome,
                Outcome::Reset(PROTOCOL_ERROR) | Outcome::Answer(400 | 405, _)
            );
            if !right {
                wrong.push(format!("{id} as {role:?}: {outcome:?}"));
            }
            let mark = stage.mark();
            stage
                .canary()
                .unwrap_or_else(|why| panic!("{id} as {role:?}: {why}"));
            drop(mark);
        }
        let all = stage.upstream.all();
        if all.contains("hostile") {
            wrong.push(format!("as {role:?} the upstream has {all:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "H2-13: {} of {}\n{}",
        wrong.len(),
        cases.len() * 2,
        wrong.join("\n")
    );
}

#[test]
fn h2_14_lengths_on_the_way_to_http1() {
    let post = |more: &[(&str, &str)]| request("POST", "/hostile", more);
    let data =
        |text: &str, end: bool| frame(DATA, if end { END_STREAM } else { 0 }, 1, text.as_bytes());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "CL less than DATA",
            [
                headers(1, &post(&[("content-length", "3")]), false),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "CL more than DATA",
            [
                headers(1, &post(&[("content-length", "9")]), false),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "CL more, in two frames",
            [
                headers(1, &post(&[("content-length", "9")]), false),
                data("hello", false),
                data("", true),
            ]
            .concat(),
        ),
        (
            "CL less, in two frames",
            [
                headers(1, &post(&[("content-length", "5")]), false),
                data("hello", false),
                data("GET /smuggled HTTP/1.1\r\n\r\n", true),
            ]
            .concat(),
        ),
        (
            "CL without DATA",
            headers(1, &post(&[("content-length", "5")]), true),
        ),
        (
            "CL 0 with DATA",
            [
                headers(1, &post(&[("content-length", "0")]), false),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "CL more, then trailers",
            [
                headers(1, &post(&[("content-length", "9")]), false),
                data("hello", false),
                headers(1, &block(&[("x", "y")]), true),
            ]
            .concat(),
        ),
        (
            "CL twice, equal",
            [
                headers(
                    1,
                    &post(&[("content-length", "5"), ("content-length", "5")]),
                    false,
                ),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "CL twice, different",
            [
                headers(
                    1,
                    &post(&[("content-length", "5"), ("content-length", "6")]),
                    false,
                ),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "CL list",
            [
                headers(1, &post(&[("content-length", "5, 5")]), false),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "CL plus",
            [
                headers(1, &post(&[("content-length", "+5")]), false),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "CL negative",
            [
                headers(1, &post(&[("content-length", "-5")]), false),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "CL empty",
            [
                headers(1, &post(&[("content-length", "")]), false),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "CL 2^64",
            [
                headers(
                    1,
                    &post(&[("content-length", "18446744073709551621")]),
                    false,
                ),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "TE chunked",
            [
                headers(1, &post(&[("transfer-encoding", "chunked")]), false),
                data("0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ]
            .concat(),
        ),
        (
            "TE chunked and CL",
            [
                headers(
                    1,
                    &post(&[("content-length", "5"), ("transfer-encoding", "chunked")]),
                    false,
                ),
                data("hello", true),
            ]
            .concat(),
        ),
        (
            "host unlike :authority",
            headers(1, &post(&[("host", "b")]), true),
        ),
        (
            "two hosts",
            headers(1, &post(&[("host", "a"), ("host", "a")]), true),
        ),
        (
            "CRLF in a value",
            headers(1, &post(&[("x", "y\r\nTransfer-Encoding: chunked")]), true),
        ),
        (
            "CRLF in a name",
            headers(1, &post(&[("x: y\r\ntransfer-encoding", "chunked")]), true),
        ),
        (
            "CRLF in a trailer",
            [
                headers(1, &post(&[]), false),
                data("hello", false),
                headers(1, &block(&[("x", "a\r\nb")]), true),
            ]
            .concat(),
        ),
        (
            "a pseudo-field as a trailer",
            [
                headers(1, &post(&[]), false),
                data("hello", false),
                headers(1, &block(&[(":path", "/smuggled")]), true),
            ]
            .concat(),
        ),
    ];
    let mut wrong = Vec::new();
    for role in ROLES {
        let stage = Stage::start(role, "");
        for (id, bytes) in &cases {
            let mark = stage.mark();
            let mut http2 = stage.http2();
            http2.send(bytes);
            let outcome = http2.outcome(1);
            if !matches!(
                outcome,
                Outcome::Reset(PROTOCOL_ERROR) | Outcome::Answer(400, _)
            ) {
                wrong.push(format!("{id} as {role:?}: {outcome:?}"));
            }
            stage
                .canary()
                .unwrap_or_else(|why| panic!("{id} as {role:?}: {why}"));
            stage.upstream.wait_until(|seen| {
                seen.iter()
                    .all(|s| !s.text().contains("/hostile") || s.closed)
            });
            if !stage.complete(&mark).is_empty() {
                wrong.push(format!("{id} as {role:?}: whole at the upstream"));
            }
        }
        assert!(!stage.upstream.all().contains("GET /smuggled"), "{role:?}");
    }
    assert!(
        wrong.is_empty(),
        "H2-14: {} of {}\n{}",
        wrong.len(),
        cases.len() * 2,
        wrong.join("\n")
    );
}

#[test]
fn h2_14_what_is_right_arrives_well_formed() {
    both(|stage| {
        for (id, more, parts, end) in [
            (
                "CL",
                vec![("content-length", "5")],
                vec!["he", "llo"],
                "\r\n\r\nhello",
            ),
            ("no CL", vec![], vec!["he", "llo"], "\r\n0\r\n\r\n"),
            (
                "what looks like chunks",
                vec![("content-length", "5")],
                vec!["0\r\n\r\n"],
                "\r\n\r\n0\r\n\r\n",
            ),
            (
                "te: trailers",
                vec![("te", "trailers"), ("content-length", "5")],
                vec!["hello"],
                "\r\n\r\nhello",
            ),
            (
                "host like :authority",
                vec![("host", "a"), ("content-length", "5")],
                vec!["hello"],
                "\r\n\r\nhello",
            ),
        ] {
            let mark = stage.mark();
            let mut http2 = stage.http2();
            http2.send(headers(1, &request("POST", "/hostile", &more), false));
            for part in &parts {
                http2.send(frame(DATA, 0, 1, part.as_bytes()));
            }
            // The end, in trailers that must not become headers.
            http2.send(headers(1, &block(&[("x-own", "trailer")]), true));
            assert_eq!(
                http2.outcome(1),
                Outcome::Answer(200, b"/hostile".to_vec()),
                "{id}"
            );
            let got = stage.complete(&mark);
            let text = String::from_utf8_lossy(&got[0]);
            assert!(
                text.ends_with(end) && !text.contains("trailer"),
                "{id}: {text:?}"
            );
            assert_eq!(text.matches("\r\nHost: a\r\n").count(), 1, "{id}: {text:?}");
            stage.canary().unwrap();
        }
        let mut http2 = stage.http2();
        http2.send(frame(RST_STREAM, 0, 1, &[0; 4]));
        assert_eq!(
            http2.end().0,
            Some(PROTOCOL_ERROR),
            "RST_STREAM of an idle stream"
        );
    });
}
