//! Hostile HTTP/2, row H2-13 of the battery: heads that are not requests.

use selvedge_tests::hostile::{ROLES, Stage, held};
use selvedge_tests::http2::{Outcome, PROTOCOL_ERROR, block, headers, request};

#[test]
fn h2_13_malformed_heads() {
    let get = |more: &[(&str, &str)]| request("GET", "/hostile", more);
    let method = (":method", "GET");
    let scheme = (":scheme", "http");
    let host = (":authority", "a");
    let path = (":path", "/hostile");
    let mut cases: Vec<(String, Vec<u8>)> = vec![
        ("two :method", block(&[method, method, scheme, host, path])),
        ("two :path", block(&[method, scheme, host, path, path])),
        ("two :authority", block(&[method, scheme, host, host, path])),
        ("two :scheme", block(&[method, scheme, scheme, host, path])),
        (
            "late :path",
            block(&[method, scheme, host, ("x", "y"), path]),
        ),
        (
            "late :method",
            block(&[scheme, host, path, ("x", "y"), method]),
        ),
        (
            "unknown pseudo-field",
            block(&[method, scheme, host, path, (":x", "y")]),
        ),
        (
            ":status",
            block(&[method, scheme, host, path, (":status", "200")]),
        ),
        (
            ":protocol without CONNECT",
            block(&[method, scheme, host, path, (":protocol", "websocket")]),
        ),
        ("no :method", block(&[scheme, host, path])),
        ("no :path", block(&[method, scheme, host])),
        ("no :scheme", block(&[method, host, path])),
        ("no :authority", block(&[method, scheme, path])),
        ("nothing", block(&[("x", "y")])),
        (
            "CONNECT",
            block(&[(":method", "CONNECT"), (":authority", "hostile:443")]),
        ),
        ("TRACE", block(&[(":method", "TRACE"), scheme, host, path])),
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
            block(&[(":method", bad), scheme, host, path]),
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
        "/hostile\u{e9}",
        "http://b/hostile",
        "/hostile\\x",
        "/hostile%00",
    ] {
        cases.push((
            format!(":path {bad:?}"),
            block(&[method, scheme, host, (":path", bad)]),
        ));
    }
    for bad in ["h ttp", "http\r\n", "http://evil/?", "ht\0tp"] {
        cases.push((
            format!(":scheme {bad:?}"),
            block(&[method, (":scheme", bad), host, path]),
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
            block(&[method, scheme, (":authority", bad), path]),
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
            // The stream ends, not the connection.
            http2.get(3, "/own/after");
            let after = http2.outcome(3);
            if !right || after != Outcome::Answer(200, b"/own/after".to_vec()) {
                wrong.push(format!("{id} as {role:?}: {outcome:?}"));
            }
            stage
                .canary()
                .unwrap_or_else(|why| panic!("{id} as {role:?}: {why}"));
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
    for role in ROLES {
        held("H2-13", role, cases.len());
    }
}

#[test]
fn h2_13_what_is_odd_but_harmless_leaves_no_trace() {
    for role in ROLES {
        let stage = Stage::start(role, "");
        for (scheme, path) in [("", "/x"), ("1http", "/x"), ("http", "/x#y")] {
            let mark = stage.mark();
            let mut http2 = stage.http2();
            let head = [
                (":method", "GET"),
                (":scheme", scheme),
                (":authority", "a"),
                (":path", path),
            ];
            http2.send(headers(1, &block(&head), true));
            if let Outcome::Answer(200, _) = http2.outcome(1) {
                let got = String::from_utf8_lossy(&stage.complete(&mark)[0]).into_owned();
                assert!(got.starts_with("GET /x HTTP/1.1\r\nHost: a\r\n"), "{got:?}");
                assert!(!got.contains('#') && !got.contains("1http"), "{got:?}");
            }
            stage.canary().unwrap();
            stage.held("H2-13");
        }
    }
}
