//! Hostile HTTP/1, rows H1-01 to H1-06 of the battery: which of two lengths counts, and
//! where a line ends.

use selvedge_tests::hostile::{Case, Want, both};

/// What an attacker hopes to have read as a request of its own.
const SMUGGLED: [(&str, &str); 3] = [
    ("alone", ""),
    ("GET behind", "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("HEAD behind", "HEAD /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
];

/// A POST with these lines and this body.
fn post(lines: &str, body: &str) -> String {
    format!("POST /hostile HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}")
}

#[test]
fn h1_01_content_length_and_transfer_encoding() {
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let mut cases = Vec::new();
    for (id, lines) in [
        (
            "CL, TE",
            "Content-Length: 15\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "TE, CL",
            "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        ),
        (
            "CL 0, TE",
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "TE, CL 0",
            "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        ),
        (
            "CL of the data, TE",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "CL too long, TE",
            "Content-Length: 999\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "CL twice, TE",
            "Content-Length: 15\r\nContent-Length: 15\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "CL, TE, keep-alive",
            "Content-Length: 3\r\nConnection: keep-alive, TE\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "CL nominated, TE",
            "Content-Length: 3\r\nConnection: Content-Length\r\nTransfer-Encoding: chunked\r\n",
        ),
        (
            "TE nominated, CL",
            "Content-Length: 3\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
        ),
    ] {
        for (how, behind) in SMUGGLED {
            let bytes = post(lines, &format!("{body}{behind}"));
            cases.push(Case::new(format!("{id}, {how}"), bytes, Want::Refused(400)));
        }
    }
    both(|stage| stage.run("H1-01", &cases));
}

#[test]
fn h1_03_transfer_encodings() {
    let refused = [
        ("unknown", "Transfer-Encoding: xchunked", 501),
        (
            "chunked, identity",
            "Transfer-Encoding: chunked, identity",
            400,
        ),
        (
            "identity, chunked",
            "Transfer-Encoding: identity, chunked",
            501,
        ),
        ("gzip, chunked", "Transfer-Encoding: gzip, chunked", 501),
        ("gzip", "Transfer-Encoding: gzip", 501),
        ("identity", "Transfer-Encoding: identity", 501),
        (
            "two lines",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        (
            "chunked then identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            400,
        ),
        (
            "identity then chunked",
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            501,
        ),
        ("twice in one", "Transfer-Encoding: chunked, chunked", 400),
        ("a parameter", "Transfer-Encoding: chunked;a=1", 400),
        ("leading comma", "Transfer-Encoding: ,chunked", 400),
        ("trailing comma", "Transfer-Encoding: chunked,", 400),
        ("only a comma", "Transfer-Encoding: ,", 400),
        ("vertical tab before", "Transfer-Encoding: \x0bchunked", 400),
        ("vertical tab behind", "Transfer-Encoding: chunked\x0b", 400),
        ("form feed before", "Transfer-Encoding: \x0cchunked", 400),
        ("NUL behind", "Transfer-Encoding: chunked\0", 400),
        ("NUL inside", "Transfer-Encoding: chun\0ked", 400),
        ("empty", "Transfer-Encoding:", 400),
        ("quoted", "Transfer-Encoding: \"chunked\"", 400),
        ("two words", "Transfer-Encoding: chunked chunked", 400),
        ("space before the colon", "Transfer-Encoding : chunked", 400),
        ("folded", "Transfer-Encoding:\r\n chunked", 400),
        ("obs-text", "Transfer-Encoding: chunked\u{e9}", 400),
        ("space before the name", " Transfer-Encoding: chunked", 400),
    ];
    let body = format!("5\r\nhello\r\n0\r\n\r\n{}", SMUGGLED[1].1);
    let cases = refused.map(|(id, line, status)| {
        Case::new(
            id,
            post(&format!("{line}\r\n"), &body),
            Want::Refused(status),
        )
    });
    both(|stage| {
        stage.run("H1-03", &cases);
        for line in [
            "Transfer-Encoding: CHUNKED",
            "transfer-encoding:\tchunked\t",
        ] {
            let bytes = post(&format!("{line}\r\n"), "5\r\nhello\r\n0\r\n\r\n");
            let got = stage.served(&Case::new(line, bytes, Want::Served));
            assert!(
                got.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
                "{line}: {got:?}"
            );
        }
    });
}

#[test]
fn h1_05_content_lengths() {
    let line = |value: &str| format!("Content-Length: {value}\r\n");
    let mut cases = vec![
        ("two that differ", line("5") + &line("6")),
        ("two that agree", line("5") + &line("5")),
        ("second empty", line("5") + &line("")),
        ("name with a space", "Content-Length : 5\r\n".to_owned()),
        ("folded", "Content-Length:\r\n 5\r\n".to_owned()),
        ("folded behind", "Content-Length: 5\r\n 0\r\n".to_owned()),
    ];
    for value in [
        "5,5",
        "5, 5",
        "5,6",
        "+5",
        "-5",
        "-0",
        "0x5",
        "5_0",
        "5 0",
        "5\t0",
        "",
        "5.0",
        "5e0",
        "5;",
        "\"5\"",
        "five",
        "\u{ff15}",
        "18446744073709551616",
        "36893488147419103237",
        "99999999999999999999999999",
        "5\0",
        "\x0b5",
        ",5",
    ] {
        cases.push((value, line(value)));
    }
    let body = format!("hello{}", SMUGGLED[1].1);
    let cases: Vec<Case> = cases
        .iter()
        .map(|(id, lines)| Case::new(*id, post(lines, &body), Want::Refused(400)))
        .collect();
    both(|stage| {
        stage.run("H1-05", &cases);
        for value in ["005", "0000000000000000000000000005", "\t5\t"] {
            let case = Case::new(value, post(&line(value), "hello"), Want::Served);
            let got = stage.served(&case);
            assert!(
                got.contains("\r\nContent-Length: 5\r\n"),
                "{value}: {got:?}"
            );
            assert!(got.ends_with("\r\n\r\nhello"), "{value}: {got:?}");
        }
    });
}

#[test]
fn h1_06_folds_and_bare_line_feeds_in_heads() {
    let heads = [
        (
            "fold on the first field",
            "GET /hostile HTTP/1.1\r\n Host: a\r\n\r\n",
        ),
        (
            "fold behind Host",
            "GET /hostile HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        ),
        (
            "fold with a tab",
            "GET /hostile HTTP/1.1\r\nHost: a\r\nX: 1\r\n\t2\r\n\r\n",
        ),
        (
            "fold of nothing",
            "GET /hostile HTTP/1.1\r\nHost: a\r\nX: 1\r\n \r\n\r\n",
        ),
        (
            "folded TE",
            "POST /hostile HTTP/1.1\r\nHost: a\r\nX: 1\r\n Transfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "LF behind the request line",
            "GET /hostile HTTP/1.1\nHost: a\r\n\r\n",
        ),
        (
            "LF behind a field",
            "GET /hostile HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
        ),
        (
            "LF as the empty line",
            "GET /hostile HTTP/1.1\r\nHost: a\r\n\n",
        ),
        ("LF throughout", "GET /hostile HTTP/1.1\nHost: a\n\n"),
        ("LF, then CRLF", "GET /hostile HTTP/1.1\r\nHost: a\n\r\n"),
        (
            "LF hides TE",
            "POST /hostile HTTP/1.1\r\nHost: a\r\nX: 1\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "LF hides a request",
            "GET /hostile HTTP/1.1\r\nHost: a\r\nX: 1\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "CR LF LF",
            "GET /hostile HTTP/1.1\r\nHost: a\r\nX: 1\r\n\nY: 2\r\n\r\n",
        ),
        (
            "LF before the request line",
            "\nGET /hostile HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
    ];
    let cases = heads.map(|(id, bytes)| Case::new(id, bytes, Want::Refused(400)));
    both(|stage| stage.run("H1-06", &cases));
}
