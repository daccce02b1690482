//! Hostile HTTP/1, rows H1-07 to H1-11 of the battery: bodies that are not what they seem.

use selvedge_tests::hostile::{Case, ROLES, Stage, Want, both};

/// What an attacker hopes to have read as a request of its own.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A POST with these lines and this body.
fn post(lines: &str, body: &str) -> String {
    format!("POST /hostile HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}")
}

/// A chunked POST whose first chunk is fine, and, once that has arrived, the rest.
fn chunks(id: &str, rest: impl Into<Vec<u8>>, want: Want) -> Case {
    let first = post("Transfer-Encoding: chunked\r\n", "7\r\nopening\r\n");
    Case::new(id, first, want).then("opening", rest)
}

#[test]
fn h1_07_folds_and_bare_line_feeds_in_bodies() {
    let cases = [
        ("LF behind a size", "5\nhello\r\n0\r\n\r\n"),
        ("LF behind data", "5\r\nhello\n0\r\n\r\n"),
        ("LF behind the last size", "0\n\r\n"),
        ("LF at the end", "0\r\n\n"),
        ("LF behind a trailer", "0\r\nX: 1\n\r\n"),
        ("LF behind an extension", "5;a=b\nhello\r\n0\r\n\r\n"),
        ("folded trailer", "0\r\nX: 1\r\n 2\r\n\r\n"),
        ("trailer that begins with a space", "0\r\n X: 1\r\n\r\n"),
        (
            "trailer with a space before the colon",
            "0\r\nX : 1\r\n\r\n",
        ),
        ("NUL in a trailer", "0\r\nX: \0\r\n\r\n"),
        ("trailer without a colon", "0\r\nhostile\r\n\r\n"),
    ];
    let cases =
        cases.map(|(id, rest)| chunks(id, format!("{rest}{}", SMUGGLED), Want::Broken(400)));
    both(|stage| stage.run("H1-07", &cases));
}

#[test]
fn h1_09_chunks() {
    let mut cases: Vec<Case> = [
        ("2^64", "10000000000000000\r\nhello"),
        ("2^64 + 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        (
            "2^128 + 5",
            "100000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
        ),
        ("17 zeros", "00000000000000000\r\n\r\n"),
        ("negative", "-5\r\nhello\r\n0\r\n\r\n"),
        ("minus zero", "-0\r\n\r\n"),
        ("plus", "+5\r\nhello\r\n0\r\n\r\n"),
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("0x0", "0x0\r\n\r\n"),
        ("underscore", "5_0\r\nhello\r\n0\r\n\r\n"),
        ("leading space", " 5\r\nhello\r\n0\r\n\r\n"),
        ("leading tab", "\t5\r\nhello\r\n0\r\n\r\n"),
        ("trailing space", "5 \r\nhello\r\n0\r\n\r\n"),
        ("trailing tab", "5\t\r\nhello\r\n0\r\n\r\n"),
        ("inner space", "5 0\r\nhello\r\n0\r\n\r\n"),
        ("space before the extension", "5 ;a\r\nhello\r\n0\r\n\r\n"),
        ("last size with a space", "0 \r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("only an extension", ";a=b\r\nhello\r\n0\r\n\r\n"),
        ("no digit", "g\r\nhello\r\n0\r\n\r\n"),
        ("comma", "5,5\r\nhello\r\n0\r\n\r\n"),
        ("no CRLF behind data", "5\r\nhello0\r\n\r\n"),
        ("spill", "5\r\nhello!!\r\n0\r\n\r\n"),
        ("CR alone behind data", "5\r\nhello\r0\r\n\r\n"),
        ("CR alone behind the size", "5\rhello\r\n0\r\n\r\n"),
        ("two CR", "5\r\r\nhello\r\n0\r\n\r\n"),
        ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("NUL in an extension", "5;a\0\r\nhello\r\n0\r\n\r\n"),
        ("full-width digit", "\u{ff15}\r\nhello\r\n0\r\n\r\n"),
    ]
    .map(|(id, rest)| chunks(id, format!("{rest}{}", SMUGGLED), Want::Broken(400)))
    .into();
    let long = "a".repeat(5000);
    cases.push(chunks(
        "extension over 4 KiB",
        format!("5;{long}\r\nhello\r\n0\r\n\r\n"),
        Want::Broken(400),
    ));
    cases.push(chunks(
        "extension without an end",
        format!("5;{long}"),
        Want::Broken(400),
    ));
    let tiny = "1;a=b\r\nx\r\n".repeat(1100);
    cases.push(chunks(
        "many tiny extensions",
        format!("{tiny}0\r\n\r\n"),
        Want::Broken(400),
    ));
    let trailers = format!("0\r\n{}\r\n", "X: 1\r\n".repeat(33));
    cases.push(chunks("33 trailers", trailers, Want::Broken(400)));
    let trailers = format!("0\r\nX: {}\r\n\r\n", "a".repeat(9000));
    cases.push(chunks("trailers over 8 KiB", trailers, Want::Broken(400)));
    both(|stage| {
        stage.run("H1-09", &cases);
        // What is odd but means one thing only arrives in plain form.
        let odd = post(
            "Transfer-Encoding: chunked\r\n",
            "0005\r\nhello\r\n5;a=\"b\";c\r\nworld\r\n000;d\r\n\r\n",
        );
        let got = stage.served(&Case::new("zeros and extensions", odd, Want::Served));
        assert!(!got.contains(';') && !got.contains("0005"), "{got:?}");
        assert!(
            got.contains("hello") && got.ends_with("\r\n0\r\n\r\n"),
            "{got:?}"
        );
    });
}

#[test]
fn h1_09_a_body_that_stops_is_not_ended() {
    both(|stage| {
        for (id, lines, part) in [
            (
                "a chunk of 2^64 - 1",
                "Transfer-Encoding: chunked\r\n",
                "ffffffffffffffff\r\nopening\r\n0\r\n\r\n",
            ),
            (
                "a chunk cut short",
                "Transfer-Encoding: chunked\r\n",
                "f\r\nopening",
            ),
            (
                "no last chunk",
                "Transfer-Encoding: chunked\r\n",
                "7\r\nopening\r\n",
            ),
            (
                "no last CRLF",
                "Transfer-Encoding: chunked\r\n",
                "7\r\nopening\r\n0\r\n",
            ),
            ("a length cut short", "Content-Length: 99\r\n", "opening"),
        ] {
            let mark = stage.mark();
            let mut client = stage.client();
            client.send(post(lines, part));
            stage.upstream.wait_until(|seen| {
                seen.iter()
                    .any(|s| s.text().contains("opening") && !s.closed)
            });
            client.shutdown_write();
            stage.upstream.wait_until(|seen| {
                seen.iter()
                    .all(|s| !s.text().contains("opening") || s.closed)
            });
            stage.canary().unwrap_or_else(|why| panic!("{id}: {why}"));
            assert!(
                stage.complete(&mark).is_empty(),
                "{id}: {:?}",
                stage.fresh(&mark)
            );
            assert!(!client.rest().starts_with(b"HTTP/1.1 200"), "{id}");
            stage.held("H1-09");
        }
    });
}

#[test]
fn h1_09_bodies_over_their_limit() {
    for role in ROLES {
        let stage = Stage::start(role, "body: 1KiB");
        let long = "a".repeat(2000);
        let chunk = format!("7d0\r\n{long}\r\n0\r\n\r\n");
        let many = format!("{}0\r\n\r\n", "8\r\nhostile.\r\n".repeat(200));
        stage.run(
            "LI-02",
            &[
                Case::new(
                    "told",
                    post("Content-Length: 1025\r\n", &long),
                    Want::Refused(413),
                ),
                Case::new(
                    "told, nothing sent",
                    post("Content-Length: 9999999999\r\n", ""),
                    Want::Refused(413),
                ),
                chunks("one chunk", chunk, Want::Broken(413)),
                chunks("many chunks", many, Want::Broken(413)),
            ],
        );
        let just = "a".repeat(1024);
        let got = stage.served(&Case::new(
            "at the limit",
            post("Content-Length: 1024\r\n", &just),
            Want::Served,
        ));
        assert!(got.ends_with(&just));
    }
}

#[test]
fn h1_11_trailers_never_become_headers() {
    both(|stage| {
        for trailer in [
            "Content-Length: 4299999",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Host: trailer.example",
            "Authorization: Bearer trailer",
            "X-Forwarded-For: 6.6.6.6",
            "X-Forwarded-Host: trailer.example",
            "X-Forwarded-Proto: trailer",
            "X-Forwarded-Client-Cert: URI=spiffe://trailer/ns/a/sa/b",
            "Cookie: trailer=1",
            "Connection: trailer",
            "Expect: trailer",
            "X-Own: trailer",
        ] {
            let bytes = post(
                "TE: trailers\r\nTrailer: X-Own\r\nTransfer-Encoding: chunked\r\n",
                &format!("5\r\nhello\r\n0\r\n{trailer}\r\n\r\n"),
            );
            let got = stage.served(&Case::new(trailer, bytes, Want::Served));
            assert!(
                !got.to_lowercase().contains("trailer"),
                "{trailer}: {got:?}"
            );
            assert!(
                !got.contains("6.6.6.6") && !got.contains("4299999"),
                "{trailer}: {got:?}"
            );
            assert!(
                got.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
                "{trailer}: {got:?}"
            );
            stage.held("H1-11");
        }
    });
}
