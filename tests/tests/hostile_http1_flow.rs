//! Hostile HTTP/1, rows H1-20 and H1-27 of the battery: what happens between messages.

use selvedge_tests::hostile::{Case, ROLES, Role, Stage, Want, both, echo, target};
use selvedge_tests::{Raw, Upstream};

#[test]
fn h1_20_expectations() {
    both(|stage| {
        let post = |lines: &str, body: &str| {
            format!("POST /hostile HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}")
        };
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        stage.run(
            "H1-20",
            &[
                Case::new(
                    "unknown",
                    post("Expect: hostile\r\nContent-Length: 5\r\n", "hello"),
                    Want::Refused(417),
                ),
                Case::new(
                    "100-continuex",
                    post("Expect: 100-continuex\r\nContent-Length: 5\r\n", smuggled),
                    Want::Refused(417),
                ),
                Case::new(
                    "empty",
                    post("Expect:\r\nContent-Length: 5\r\n", smuggled),
                    Want::Refused(417),
                ),
                Case::new(
                    "a list",
                    post(
                        "Expect: 100-continue, hostile\r\nContent-Length: 5\r\n",
                        smuggled,
                    ),
                    Want::Refused(417),
                ),
                Case::new(
                    "two lines",
                    post(
                        "Expect: 100-continue\r\nExpect: hostile\r\nContent-Length: 5\r\n",
                        "hello",
                    ),
                    Want::Refused(417),
                ),
                Case::new(
                    "a body that did not wait",
                    post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
                    Want::Served,
                ),
                Case::new(
                    "no body",
                    post("Expect: 100-continue\r\n", ""),
                    Want::Served,
                ),
                Case::new(
                    "HTTP/1.0",
                    post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello")
                        .replace("HTTP/1.1", "HTTP/1.0"),
                    Want::ServedLast,
                ),
            ],
        );
        for (lines, body) in [
            ("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello"),
            (
                "Expect: 100-CONTINUE\r\nTransfer-Encoding: chunked\r\n",
                "5\r\nhello\r\n0\r\n\r\n",
            ),
        ] {
            let mark = stage.mark();
            let mut client = stage.client();
            client.send(post(lines, ""));
            assert_eq!(client.reply().status, 100, "{lines}");
            client.send(format!("{body}GET /own/next HTTP/1.1\r\nHost: a\r\n\r\n"));
            let bodies = [client.reply().text(), client.reply().text()];
            assert_eq!(bodies, ["/hostile", "/own/next"], "{lines}");
            let got = stage.complete(&mark);
            let got = String::from_utf8_lossy(&got[0]);
            assert!(
                !got.contains("Expect") && got.ends_with(body),
                "{lines}: {got:?}"
            );
            stage.held("H1-20");
        }
    });
}

#[test]
fn h1_20_a_final_answer_before_the_body() {
    for role in ROLES {
        let upstream = Upstream::scripted(|connection| {
            while let Some(head) = connection.until(b"\r\n\r\n") {
                if target(&head).starts_with("/own/") {
                    echo(connection, &head);
                    continue;
                }
                // A 100 that nobody asked for, then a refusal without a look at the body.
                connection.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
                connection.drain();
            }
        });
        let stage = Stage::over(role, "", upstream);
        for body in ["", "GET /own/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"] {
            let mut client = stage.client();
            client.send(format!(
                "POST /hostile HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 500\r\n\r\n{body}"
            ));
            let mut reply = client.reply();
            if reply.status == 100 {
                assert!(
                    body.is_empty(),
                    "{role:?}: 100 to a client that did not wait"
                );
                reply = client.reply();
            }
            assert_eq!(
                (reply.status, reply.text().as_str()),
                (403, "no"),
                "{role:?}"
            );
            // The rest of the body is not there: nothing that follows may be read as a request.
            assert_eq!(reply.header("connection"), Some("close"), "{role:?}");
            client.send("GET /own/smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(client.is_closed(), "{role:?}");
            stage.canary().unwrap();
            let smuggled = stage
                .upstream
                .seen()
                .iter()
                .any(|s| s.text().starts_with("GET /own/smuggled"));
            assert!(!smuggled, "{role:?}");
            stage.held("H1-20");
        }
    }
}

#[test]
fn h1_27_one_bad_request_among_a_hundred() {
    both(|stage| {
        for (id, bad, status) in [
            ("bare LF", "GET /hostile HTTP/1.1\nHost: a\r\n\r\n".to_owned(), 400),
            ("CL and TE", "POST /hostile HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
            ("no Host", "GET /hostile HTTP/1.1\r\n\r\n".to_owned(), 400),
            ("version", "GET /hostile HTTP/1.2\r\nHost: a\r\n\r\n".to_owned(), 505),
            ("101 fields", format!("GET /hostile HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(100)), 431),
            ("bad chunk", "POST /hostile HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\n".to_owned(), 400),
            ("CONNECT", "CONNECT hostile:443 HTTP/1.1\r\nHost: hostile:443\r\n\r\n".to_owned(), 405),
        ] {
            let mark = stage.mark();
            let get = |n: usize| format!("GET /piped/{n} HTTP/1.1\r\nHost: a\r\n\r\n");
            let first: String = (0..50).map(get).collect();
            let last: String = (51..100).map(get).collect();
            let mut client = stage.client();
            client.send(first + &bad + &last);
            for n in 0..50 {
                let reply = client.reply();
                assert_eq!((reply.status, reply.text()), (200, format!("/piped/{n}")), "{id}");
            }
            let reply = client.reply();
            assert_eq!((reply.status, reply.header("connection")), (status, Some("close")), "{id}");
            assert!(client.is_closed(), "{id}: an answer behind the bad one");
            stage.canary().unwrap_or_else(|why| panic!("{id}: {why}"));
            let seen: Vec<String> = stage.complete(&mark).iter().map(|r| target(r)).collect();
            let want: Vec<String> = (0..50).map(|n| format!("/piped/{n}")).collect();
            assert_eq!(seen, want, "{id}");
            stage.held("H1-27");
        }
        let mut client = Raw::connect(stage.address());
        client.send("GET /own/a HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100));
        assert!((0..100).all(|_| client.reply().text() == "/own/a"));
    });
}

#[test]
fn h1_27_a_head_over_its_limit() {
    both(|stage| {
        let (block, uri) = match stage.role {
            Role::Gateway => (32 << 10, 8 << 10),
            Role::Sidecar => (60 << 10, 16 << 10),
        };
        let field = "a".repeat(block);
        let long = "a".repeat(uri);
        stage.run(
            "H1-27",
            &[
                Case::new(
                    "block",
                    format!("GET /hostile HTTP/1.1\r\nHost: a\r\nX: {field}\r\n\r\n"),
                    Want::Refused(431),
                ),
                Case::new(
                    "target",
                    format!("GET /hostile{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
                    Want::Refused(414),
                ),
                Case::new(
                    "a target without an end",
                    format!("GET /hostile{field}"),
                    Want::Refused(414),
                ),
                Case::new(
                    "a target at the limit",
                    format!("GET /hostile{} HTTP/1.1\r\nHost: a\r\n\r\n", &long[8..]),
                    Want::Served,
                ),
            ],
        );
    });
}
