//! Hostile HTTP/1, rows H1-08 to H1-14 of the battery: what may stand in a head.

#![expect(
    clippy::unwrap_used,
    reason = "outside the test function, but part of it"
)]

use selvedge_tests::hostile::{Case, Role, Want, both};

/// Bytes with `mark` replaced.
fn with(text: &str, mark: &str, bytes: &[u8]) -> Vec<u8> {
    let (before, after) = text.split_once(mark).unwrap();
    [before.as_bytes(), bytes, after.as_bytes()].concat()
}

#[test]
fn h1_08_control_bytes() {
    let places = [
        ("method", "GE@T /hostile HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("target", "GET /hos@tile HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("query", "GET /hostile?a=@b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("version", "GET /hostile HTTP/1.1@\r\nHost: a\r\n\r\n"),
        ("name", "GET /hostile HTTP/1.1\r\nHost: a\r\nX@Y: 1\r\n\r\n"),
        (
            "start of a name",
            "GET /hostile HTTP/1.1\r\nHost: a\r\n@X: 1\r\n\r\n",
        ),
        (
            "value",
            "GET /hostile HTTP/1.1\r\nHost: a\r\nX: 1@2\r\n\r\n",
        ),
        (
            "end of a value",
            "GET /hostile HTTP/1.1\r\nHost: a\r\nX: 1@\r\n\r\n",
        ),
        ("host", "GET /hostile HTTP/1.1\r\nHost: a@b\r\n\r\n"),
    ];
    let bad: [&[u8]; 8] = [
        b"\r", b"\rX", b"\rXY: z", b"\0", b"\x01", b"\x0b", b"\x1b", b"\x7f",
    ];
    let mut cases = Vec::new();
    for (place, text) in places {
        for bytes in bad {
            let id = format!("{:?} in {place}", String::from_utf8_lossy(bytes));
            cases.push(Case::new(id, with(text, "@", bytes), Want::Refused(400)));
        }
        if !place.contains("value") {
            let id = format!("obs-text in {place}");
            cases.push(Case::new(
                id,
                with(text, "@", b"\xc3\xa9"),
                Want::Refused(400),
            ));
        }
    }
    for (id, bytes) in [
        // A bare CR that ends a line for one reader hides a field from another.
        (
            "CR hides TE",
            "POST /hostile HTTP/1.1\rXTransfer-Encoding: chunked\r\nHost: a\r\n\r\n0\r\n\r\n",
        ),
        ("CR hides Host", "GET /hostile HTTP/1.1\rXHost: b\r\n\r\n"),
        ("CR CR LF", "GET /hostile HTTP/1.1\r\r\nHost: a\r\n\r\n"),
        (
            "CR CR LF behind a field",
            "GET /hostile HTTP/1.1\r\nHost: a\r\r\n\r\n",
        ),
        (
            "CR in an empty line",
            "GET /hostile HTTP/1.1\r\nHost: a\r\n\r\r\n",
        ),
        (
            "space in a name",
            "GET /hostile HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n",
        ),
        (
            "space before a colon",
            "GET /hostile HTTP/1.1\r\nHost : a\r\n\r\n",
        ),
        ("no colon", "GET /hostile HTTP/1.1\r\nHost: a\r\nX\r\n\r\n"),
        ("no name", "GET /hostile HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n"),
    ] {
        cases.push(Case::new(id, bytes, Want::Refused(400)));
    }
    both(|stage| {
        stage.run("H1-08", &cases);
        let bytes = with(
            "GET /hostile HTTP/1.1\r\nHost: a\r\nX: @\r\n\r\n",
            "@",
            b"a\xff\xfe\xc3\xa9\tb",
        );
        let case = Case::new("obs-text in a value", bytes, Want::Served);
        let got = stage.check(&case).unwrap();
        let kept = got[0]
            .windows(11)
            .any(|w| w == b"X: a\xff\xfe\xc3\xa9\tb\r");
        assert!(
            kept,
            "{:?}: {:?}",
            stage.role,
            String::from_utf8_lossy(&got[0])
        );
    });
}

#[test]
fn h1_12_hosts() {
    let mut cases: Vec<Case> = [
        ("missing", ""),
        ("twice, equal", "Host: a\r\nHost: a\r\n"),
        ("twice, different", "Host: a\r\nHost: b\r\n"),
        ("second empty", "Host: a\r\nHost:\r\n"),
    ]
    .map(|(id, lines)| {
        Case::new(
            id,
            format!("GET /hostile HTTP/1.1\r\n{lines}\r\n"),
            Want::Refused(400),
        )
    })
    .into();
    for value in [
        "", "a,b", "a, b", "u@a", "u:p@a", "a/b", "a?b", "a#b", "a\\b", "a b", "a:", "a:x", "a:-1",
        "a:+80", "a:65536", "a:80:80", ":80", "[::1", "[::1]x", "[a]", "a%00", "a%2fb", "http://a",
        "\u{e9}", "a\tb", "*", ".", ".a", "a..b", "a..",
    ] {
        let bytes = format!("GET /hostile HTTP/1.1\r\nHost: {value}\r\n\r\n");
        cases.push(Case::new(
            format!("Host: {value}"),
            bytes,
            Want::Refused(400),
        ));
    }
    for target in [
        "http://u@b/hostile",
        "http:///hostile",
        "http://b:x/hostile",
        "http://b,c/hostile",
        "http://b\\hostile",
        "ftp://b/hostile",
        "http:/hostile",
        "http:hostile",
        "//b:80x",
        "hostile",
        "http://b#hostile",
        "http://b/hostile#x",
        "*",
        "b:80",
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\nX: hostile\r\n\r\n");
        let want = if target.starts_with("//") {
            Want::Served
        } else {
            Want::Refused(400)
        };
        cases.push(Case::new(target, bytes, want));
    }
    for (id, lines) in [
        ("absolute, no Host", ""),
        ("absolute, two Hosts", "Host: b\r\nHost: b\r\n"),
    ] {
        let bytes = format!("GET http://b/hostile HTTP/1.1\r\n{lines}\r\n");
        cases.push(Case::new(id, bytes, Want::Refused(400)));
    }
    both(|stage| {
        stage.run("H1-12", &cases);
        for (target, want) in [
            ("http://b/hostile", "GET /hostile HTTP/1.1\r\nHost: b\r\n"),
            (
                "HTTP://B:8080/hostile?x",
                "GET /hostile?x HTTP/1.1\r\nHost: b:8080\r\n",
            ),
            ("https://b?hostile", "GET /?hostile HTTP/1.1\r\nHost: b\r\n"),
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let got = stage.served(&Case::new(target, bytes, Want::Served));
            assert!(got.starts_with(want), "{target}: {got:?}");
            assert_eq!(got.matches("\r\nHost: ").count(), 1, "{target}: {got:?}");
        }
    });
}

#[test]
fn h1_14_request_lines() {
    let bad = [
        ("tab for the first space", "GET\t/hostile HTTP/1.1", 400),
        ("tab for the second space", "GET /hostile\tHTTP/1.1", 400),
        ("two spaces first", "GET  /hostile HTTP/1.1", 400),
        ("two spaces second", "GET /hostile  HTTP/1.1", 400),
        ("space in front", " GET /hostile HTTP/1.1", 400),
        ("space behind", "GET /hostile HTTP/1.1 ", 400),
        ("space in the target", "GET /hos tile HTTP/1.1", 400),
        ("no version", "GET /hostile", 400),
        ("no version, a space", "GET /hostile ", 400),
        ("no target", "GET HTTP/1.1", 400),
        ("no method", " /hostile HTTP/1.1", 400),
        ("only a method", "GET", 400),
        ("0.9", "GET /hostile HTTP/0.9", 505),
        ("1.2", "GET /hostile HTTP/1.2", 505),
        ("2.0", "GET /hostile HTTP/2.0", 505),
        ("3.0", "GET /hostile HTTP/3.0", 505),
        ("lower case", "GET /hostile http/1.1", 400),
        ("mixed case", "GET /hostile Http/1.1", 400),
        ("no dot", "GET /hostile HTTP/11", 400),
        ("no minor", "GET /hostile HTTP/1.", 400),
        ("two digits", "GET /hostile HTTP/1.10", 400),
        ("leading zero", "GET /hostile HTTP/01.1", 400),
        ("HTTPS", "GET /hostile HTTPS/1.1", 400),
        ("no slash", "GET /hostile HTTP1.1", 400),
        ("a word more", "GET /hostile HTTP/1.1 HTTP/1.1", 400),
        ("method with a colon", "GET: /hostile HTTP/1.1", 400),
        ("method in brackets", "(GET) /hostile HTTP/1.1", 400),
        ("a status line", "HTTP/1.1 200 OK", 400),
        ("TRACE", "TRACE /hostile HTTP/1.1", 405),
    ];
    let mut cases: Vec<Case> = bad
        .map(|(id, line, status)| {
            Case::new(
                id,
                format!("{line}\r\nHost: a\r\nX: hostile\r\n\r\n"),
                Want::Refused(status),
            )
        })
        .into();
    let good = "GET /hostile HTTP/1.1\r\nHost: a\r\n\r\n";
    for (count, want) in [
        (1, Want::Served),
        (2, Want::Refused(400)),
        (100, Want::Refused(400)),
    ] {
        let bytes = "\r\n".repeat(count) + good;
        cases.push(Case::new(format!("{count} empty lines first"), bytes, want));
    }
    cases.push(Case::new(
        "junk",
        "\u{1}\u{2}hostile\r\n\r\n",
        Want::Refused(400),
    ));
    cases.push(Case::new(
        "TLS to plain text",
        "\u{16}\u{3}\u{1}hostile\n",
        Want::Refused(400),
    ));
    both(|stage| {
        // On a mesh port that takes both, a TLS record is taken for TLS.
        let last = cases.len() - usize::from(stage.role == Role::Sidecar);
        stage.run("H1-14", &cases[..last]);
    });
}

#[test]
fn a_head_that_is_refused_gets_no_content() {
    both(|stage| {
        for bytes in [
            "HEAD /hostile%00 HTTP/1.1\r\nHost: a\r\n\r\n",
            "HEAD /hostile HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "\r\nHEAD /hostile HTTP/1.1\nHost: a\r\n\r\n",
        ] {
            let mut client = stage.client();
            client.send(bytes);
            let refused = client.try_reply_to("HEAD").unwrap();
            let role = stage.role;
            assert_eq!(refused.status, 400, "{bytes:?} as {role:?}");
            assert_eq!(refused.header("connection"), Some("close"));
            assert!(client.rest().is_empty(), "{bytes:?} as {role:?}");
        }
    });
}
