//! Hostile HTTP/1, row H1-22 of the battery: an upstream that does not speak HTTP, or two at once.

use std::sync::Arc;

use selvedge_tests::Upstream;
use selvedge_tests::hostile::{ROLES, Role, Stage, echo, held, target};

/// An upstream that answers `/bad` with these bytes, and then waits; anything else it echoes.
fn stage(role: Role, answer: &[u8]) -> Stage {
    let answer: Arc<[u8]> = answer.into();
    let upstream = Upstream::scripted(move |connection| {
        while let Some(request) = connection.request() {
            if target(&request) == "/bad" {
                connection.send(&answer);
                // What is sent on this connection from now on would be an answer to the wrong one.
                connection.drain();
            } else {
                echo(connection, &request);
            }
        }
    });
    Stage::over(role, "", upstream)
}

/// The connection that carried `/bad` was closed, and carried nothing after it.
fn is_dropped(stage: &Stage) -> bool {
    let seen = stage.upstream.wait_until(|seen| {
        seen.iter()
            .all(|s| !s.text().contains("GET /bad") || s.closed)
    });
    seen.iter()
        .filter(|s| s.text().contains("GET /bad"))
        .all(|s| s.text().matches(" HTTP/1.1\r\n").count() == 1)
}

#[test]
fn h1_22_answers_that_are_refused() {
    let head = "HTTP/1.1 200 OK\r\n";
    let mut cases: Vec<(String, Vec<u8>)> = [
        ("two CL, equal", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
        ("two CL, different", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
        ("CL list", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok"),
        ("CL negative", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"),
        ("CL plus", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        ("CL 2^64", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nok"),
        ("CL and TE", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("TE gzip", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok"),
        ("TE twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("TE in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("LF behind the status line", "HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok"),
        ("LF behind a field", "HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok"),
        ("LF throughout", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
        ("CR in the status line", "HTTP/1.1 200 OK\rXContent-Length: 2\r\n\r\nok"),
        ("CR in a value", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok"),
        ("NUL in a value", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok"),
        ("NUL in the reason", "HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok"),
        ("fold", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
        ("space before a colon", "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok"),
        ("no colon", "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\nok"),
        ("099", "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("1000", "HTTP/1.1 1000 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("600", "HTTP/1.1 600 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("20", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("2x0", "HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("no status", "HTTP/1.1 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("two spaces", "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("0.9", "<html>\r\nok</html>\r\n\r\n"),
        ("HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("HTTP/1.2", "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("lower case", "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("ICY", "ICY 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("an empty line first", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhostile"),
    ]
    .map(|(id, bytes)| (id.to_owned(), bytes.as_bytes().to_vec()))
    .into();
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n";
    cases.push((
        "nine 102".into(),
        "HTTP/1.1 102 Processing\r\n\r\n".repeat(9).into(),
    ));
    cases.push((
        "nine 103, then 200".into(),
        (hint.repeat(9) + head + "Content-Length: 2\r\n\r\nok").into(),
    ));
    cases.push((
        "nine 100".into(),
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(9).into(),
    ));
    cases.push((
        "1 MiB of one field".into(),
        format!("{head}X: {}\r\n\r\n", "a".repeat(1 << 20)).into(),
    ));
    cases.push((
        "1 MiB of fields".into(),
        format!("{head}{}\r\n", "X: 1\r\n".repeat(170_000)).into(),
    ));
    cases.push((
        "201 fields".into(),
        format!("{head}{}Content-Length: 0\r\n\r\n", "X: 1\r\n".repeat(200)).into(),
    ));
    for role in ROLES {
        let mut wrong = Vec::new();
        for (id, answer) in &cases {
            let stage = stage(role, answer);
            let mut client = stage.client();
            client.send("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n");
            let mut reply = client.reply();
            while reply.status == 103 || reply.status == 102 {
                reply = client.reply();
            }
            if reply.status != 502 || reply.text().contains("hostile") {
                wrong.push(format!("{id}: {reply:?}"));
                continue;
            }
            // This client may go on; nobody gets what is left of the bad answer.
            let nonce = stage.nonce();
            if client.get(&nonce).text() != nonce {
                wrong.push(format!("{id}: the next request of this client"));
            }
            if let Err(why) = stage.canary() {
                wrong.push(format!("{id}: {why}"));
            }
            if !is_dropped(&stage) {
                wrong.push(format!("{id}: the connection was used again"));
            }
        }
        assert!(
            wrong.is_empty(),
            "H1-22 as {role:?}: {} of {}\n{}",
            wrong.len(),
            cases.len(),
            wrong.join("\n")
        );
        held("H1-22", role, cases.len());
    }
}

#[test]
fn h1_22_bytes_behind_an_answer_reach_nobody() {
    let stray = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nhostile";
    for (id, answer, status, body) in [
        (
            "an answer more",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{stray}"),
            200,
            "ok",
        ),
        (
            "a byte more",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokX".into(),
            200,
            "ok",
        ),
        (
            "behind the last chunk",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{stray}"
            ),
            200,
            "ok",
        ),
        (
            "behind 204",
            format!(
                "HTTP/1.1 204 No Content\r\nContent-Length: {}\r\n\r\n{stray}",
                stray.len()
            ),
            204,
            "",
        ),
        (
            "behind 304",
            format!(
                "HTTP/1.1 304 Not Modified\r\nContent-Length: {}\r\n\r\n{stray}",
                stray.len()
            ),
            304,
            "",
        ),
        (
            "behind CL 0",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n{stray}"),
            200,
            "",
        ),
    ] {
        for role in ROLES {
            let stage = stage(role, answer.as_bytes());
            let mut client = stage.client();
            let reply = client.get("/bad");
            assert_eq!(
                (reply.status, reply.text().as_str()),
                (status, body),
                "{id} as {role:?}"
            );
            let nonce = stage.nonce();
            assert_eq!(client.get(&nonce).text(), nonce, "{id} as {role:?}");
            stage
                .canary()
                .unwrap_or_else(|why| panic!("{id} as {role:?}: {why}"));
            assert!(
                is_dropped(&stage),
                "{id} as {role:?}: the connection was used again"
            );
            stage.held("H1-22");
        }
    }
}

#[test]
fn h1_22_a_bad_chunk_of_an_answer_is_no_clean_end() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
    for (id, rest) in [
        ("0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("2^64 + 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("bare LF", "5\nhello\r\n0\r\n\r\n"),
        ("spill", "5\r\nhello!!\r\n0\r\n\r\n"),
        ("NUL in a trailer", "0\r\nX: \0\r\n\r\n"),
        ("folded trailer", "0\r\nX: 1\r\n 2\r\n\r\n"),
    ] {
        for role in ROLES {
            let stage = stage(role, format!("{head}{rest}").as_bytes());
            let mut client = stage.client();
            client.send("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n");
            let got = client.rest();
            assert!(
                !got.ends_with(b"0\r\n\r\n"),
                "{id} as {role:?}: {:?}",
                String::from_utf8_lossy(&got)
            );
            stage
                .canary()
                .unwrap_or_else(|why| panic!("{id} as {role:?}: {why}"));
            assert!(
                is_dropped(&stage),
                "{id} as {role:?}: the connection was used again"
            );
            stage.held("H1-22");
        }
    }
}

#[test]
fn h1_22_interim_answers_are_counted_however_they_arrive() {
    for role in ROLES {
        let (sender, heard) = std::sync::mpsc::sync_channel::<()>(1);
        let heard = std::sync::Mutex::new(heard);
        let upstream = Upstream::scripted(move |connection| {
            while let Some(request) = connection.request() {
                if target(&request) != "/bad" {
                    echo(connection, &request);
                    continue;
                }
                // One at a time: the next only when the client has the last.
                for _ in 0..20 {
                    connection.send("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n");
                    if heard.lock().unwrap().recv().is_err() {
                        return;
                    }
                }
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        });
        let stage = Stage::over(role, "", upstream);
        let mut client = stage.client();
        client.send("GET /bad HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut hints = 0;
        let last = loop {
            let reply = client.reply();
            if reply.status != 103 {
                break reply;
            }
            hints += 1;
            sender.send(()).unwrap();
        };
        drop(sender);
        assert_eq!(
            (last.status, hints),
            (502, 8),
            "H1-22 as {role:?}: {last:?}"
        );
        stage.canary().unwrap();
        stage.held("H1-22");
    }
}
