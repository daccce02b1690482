//! Hostile HTTP/2, row H2-14 of the battery: bodies on their way to HTTP/1.

use selvedge_tests::hostile::{ROLES, Stage, both, held};
use selvedge_tests::http2::{
    DATA, END_STREAM, Outcome, PROTOCOL_ERROR, RST_STREAM, block, frame, headers, request,
};

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
    ];
    let mut wrong = Vec::new();
    for role in ROLES {
        let stage = Stage::start(role, "");
        for (id, bytes) in &cases {
            let mark = stage.mark();
            let mut http2 = stage.http2();
            http2.send(bytes);
            let outcome = http2.outcome(1);
            // A block that cannot be read as fields may take the connection with it.
            let cut = id.starts_with("CRLF") && outcome == Outcome::Goaway(PROTOCOL_ERROR);
            let right = matches!(
                outcome,
                Outcome::Reset(PROTOCOL_ERROR) | Outcome::Answer(400, _)
            );
            if !cut && !right {
                wrong.push(format!("{id} as {role:?}: {outcome:?}"));
            }
            stage
                .canary()
                .unwrap_or_else(|why| panic!("{id} as {role:?}: {why}"));
            stage.upstream.wait_until(|seen| {
                seen.iter()
                    .all(|s| !s.text().contains("/hostile") || s.closed)
            });
            let whole = stage.complete(&mark);
            // What was told to be empty is complete without any DATA.
            let empty = *id == "CL 0 with DATA"
                && whole
                    .iter()
                    .all(|r| String::from_utf8_lossy(r).ends_with("\r\nContent-Length: 0\r\n\r\n"));
            if !whole.is_empty() && !empty {
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
    for role in ROLES {
        held("H2-14", role, cases.len());
    }
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
            stage.held("H2-14");
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

#[test]
fn h2_14_trailers_and_te_stop_here() {
    both(|stage| {
        for (name, value) in [
            ("x-own", "y"),
            (":path", "/smuggled"),
            ("content-length", "99"),
            ("authorization", "smuggled"),
        ] {
            let mark = stage.mark();
            let mut http2 = stage.http2();
            http2.send(headers(1, &request("POST", "/hostile", &[]), false));
            http2.send(frame(DATA, 0, 1, b"hello"));
            http2.send(headers(1, &block(&[(name, value)]), true));
            let outcome = http2.outcome(1);
            for whole in stage.complete(&mark) {
                let text = String::from_utf8_lossy(&whole);
                let plain = text.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
                assert!(
                    plain && !text.contains("smuggled"),
                    "{name}: {outcome:?} {text:?}"
                );
            }
            stage.canary().unwrap();
            stage.held("H2-14");
        }
        // A field of this hop, which an HTTP/1 upstream would take for its own.
        let mark = stage.mark();
        let mut http2 = stage.http2();
        http2.send(headers(
            1,
            &request("GET", "/hostile", &[("te", "trailers")]),
            true,
        ));
        assert_eq!(http2.outcome(1), Outcome::Answer(200, b"/hostile".to_vec()));
        let got = String::from_utf8_lossy(&stage.complete(&mark)[0]).to_lowercase();
        assert!(
            !got.contains("\r\nte:"),
            "H2-14 as {:?}: {got:?}",
            stage.role
        );
        stage.held("H2-14");
    });
}
