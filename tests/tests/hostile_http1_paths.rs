//! Hostile HTTP/1, rows H1-15 to H1-25 of the battery: old versions, fields that a client would
//! have removed, and the many ways to write a path.

use selvedge_tests::hostile::{Case, ROLES, Role, Stage, Want, both, echo, held};
use selvedge_tests::http2::{Http2, Outcome};
use selvedge_tests::{Raw, Upstream, gateway};

#[test]
fn h1_15_http_1_0() {
    both(|stage| {
        let post = |lines: &str, body: &str| {
            format!("POST /hostile HTTP/1.0\r\nHost: a\r\n{lines}\r\n{body}")
        };
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let chunked = format!("5\r\nhello\r\n0\r\n\r\n{smuggled}");
        stage.run(
            "H1-15",
            &[
                Case::new(
                    "TE",
                    post("Transfer-Encoding: chunked\r\n", &chunked),
                    Want::Refused(400),
                ),
                Case::new(
                    "TE, keep-alive",
                    post(
                        "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
                        &chunked,
                    ),
                    Want::Refused(400),
                ),
                Case::new(
                    "TE, CL",
                    post(
                        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                        &chunked,
                    ),
                    Want::Refused(400),
                ),
                Case::new(
                    "TE nominated",
                    post(
                        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
                        &chunked,
                    ),
                    Want::Refused(400),
                ),
                Case::new(
                    "CL, keep-alive",
                    post("Connection: keep-alive\r\nContent-Length: 5\r\n", "hello"),
                    Want::Served,
                ),
                Case::new(
                    "no CL, keep-alive",
                    post("Connection: keep-alive\r\n", ""),
                    Want::Served,
                ),
                Case::new(
                    "CL, close",
                    post("Content-Length: 5\r\n", "hello"),
                    Want::ServedLast,
                ),
            ],
        );
        // A body that nothing announced is no body, and what follows no request.
        for (id, behind) in [("body", "hello"), ("request", smuggled)] {
            let got = stage.served(&Case::new(id, post("", behind), Want::ServedLast));
            assert!(
                got.contains("\r\nContent-Length: 0\r\n") && got.ends_with("\r\n\r\n"),
                "{id}: {got:?}"
            );
            stage.held("H1-15");
        }
    });
}

#[test]
fn h1_24_nominated_fields() {
    both(|stage| {
        for (name, value) in [
            ("Authorization", "Bearer kept"),
            ("Cookie", "kept=1"),
            ("Content-Type", "kept/kept"),
            ("X-Request-Id", "kept"),
            (
                "Traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
        ] {
            for option in [
                name.to_owned(),
                format!("close, {name}"),
                format!("{name}\r\nConnection: {name}"),
            ] {
                let bytes = format!(
                    "GET /hostile HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\nConnection: {option}\r\n\r\n"
                );
                let want = if option.contains("close") {
                    Want::ServedLast
                } else {
                    Want::Served
                };
                let got = stage.served(&Case::new(option, bytes, want));
                let kept = if name == "Traceparent" {
                    "0af7651916cd43dd8448eb211c80319c"
                } else {
                    value
                };
                assert!(
                    got.contains(&format!("{name}: ")) && got.contains(kept),
                    "{name}: {got:?}"
                );
                stage.held("H1-24");
            }
        }
        let bytes = "POST /hostile HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: Content-Length, Host\r\n\r\nhello";
        let got = stage.served(&Case::new("CL and Host", bytes, Want::Served));
        assert!(
            got.contains("\r\nHost: a\r\n") && got.contains("\r\nContent-Length: 5\r\n"),
            "{got:?}"
        );
        assert!(got.ends_with("\r\n\r\nhello"), "{got:?}");
        stage.held("H1-24");

        let bytes = "GET /hostile HTTP/1.1\r\nHost: a\r\nConnection: X-Own, TE, Keep-Alive\r\nX-Own: gone\r\nKeep-Alive: gone\r\nTE: gone\r\nProxy-Connection: gone\r\nProxy-Authorization: gone\r\n\r\n";
        let got = stage.served(&Case::new("hop by hop", bytes, Want::Served));
        assert!(
            !got.contains("gone") && !got.contains("Connection"),
            "{got:?}"
        );
        stage.held("H1-24");

        // What the proxy adds itself cannot be named away, and what it removes cannot be kept.
        let bytes = "GET /hostile HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Request-Id, Forwarded, X-Forwarded-Client-Cert\r\nX-Forwarded-Client-Cert: URI=spiffe://gone/x\r\n\r\n";
        let got = stage.served(&Case::new("added by the proxy", bytes, Want::Served));
        assert!(!got.contains("gone"), "{got:?}");
        if stage.role == Role::Gateway {
            for line in [
                "X-Forwarded-For: 127.0.0.1",
                "X-Forwarded-Proto: http",
                "X-Forwarded-Host: a",
                "X-Request-Id: ",
            ] {
                assert!(got.contains(line), "{line}: {got:?}");
            }
        }
        stage.held("H1-24");
    });
}

#[test]
fn h1_25_every_escape() {
    for role in ROLES {
        let stage = Stage::start(role, "");
        let mut client = stage.client();
        let mut wrong = Vec::new();
        for byte in 0..=255u8 {
            for text in [format!("%{byte:02x}"), format!("%{byte:02X}")] {
                let refused = byte == 0 || (role == Role::Gateway && matches!(byte, b'/' | b'\\'));
                let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
                let want = match refused {
                    true => (400, String::new()),
                    false if plain => (200, format!("/a{}b", char::from(byte))),
                    false => (200, format!("/a%{byte:02X}b")),
                };
                let reply = client.get(&format!("/a{text}b"));
                let body = if reply.status == 200 {
                    reply.text()
                } else {
                    String::new()
                };
                if (reply.status, body.clone()) != want {
                    wrong.push(format!("{text}: {} {body}", reply.status));
                }
                if reply.status != 200 {
                    client = stage.client();
                }
            }
        }
        assert!(wrong.is_empty(), "H1-25 as {role:?}: {wrong:?}");
        stage.canary().unwrap();
        held("H1-25", role, 512);
    }
}

#[test]
fn h1_25_paths() {
    for role in ROLES {
        let stage = Stage::start(role, "");
        let mut cases = Vec::new();
        for target in [
            // Some servers cut the parameter off and climb.
            "/hostile/..;/y",
            "/hostile/.;x",
            "/hostile#x",
            "/hostile\\x",
            "/..\\hostile",
            "/hostile%00",
            "/hostile%",
            "/hostile%4",
            "/hostile%zz",
            "/hostile%u002f",
            "/hostile#?x",
            "/hostile?x#y",
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            cases.push(Case::new(target, bytes, Want::Refused(400)));
        }
        for target in [
            "/hostile%2f..",
            "/hostile%5c",
            "/..%2fhostile",
            "/%2fhostile",
            "/hostile/%2e%2e%2f",
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let want = if role == Role::Gateway {
                Want::Refused(400)
            } else {
                Want::Served
            };
            cases.push(Case::new(target, bytes, want));
        }
        stage.run("H1-25", &cases);
        for (target, want) in [
            ("//hostile", "/hostile"),
            ("/hostile//x///y", "/hostile/x/y"),
            ("/./hostile", "/hostile"),
            ("/x/../hostile", "/hostile"),
            ("/../../hostile", "/hostile"),
            ("/x/%2e%2e/hostile", "/hostile"),
            ("/x/.%2E/hostile", "/hostile"),
            ("/x//../hostile", "/hostile"),
            ("/hostile/..", "/"),
            ("/hostile/.", "/hostile/"),
            ("/%68ostile", "/hostile"),
            ("/hostile;x=1/y", "/hostile;x=1/y"),
            ("/%252e%252e/hostile", "/%252e%252e/hostile"),
            ("/hostile%c0%ae%c0%ae", "/hostile%C0%AE%C0%AE"),
            ("/hostile%c0%af", "/hostile%C0%AF"),
            ("/hostile%e0%80%af", "/hostile%E0%80%AF"),
            ("/hostile%0d%0ax", "/hostile%0D%0Ax"),
            ("/hostile%23x", "/hostile%23x"),
            ("/hostile%3fx", "/hostile%3Fx"),
            ("/hostile?../%2e%2e/%00", "/hostile?../%2e%2e/%00"),
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let got = stage.served(&Case::new(target, bytes, Want::Served));
            assert!(
                got.starts_with(&format!("GET {want} HTTP/1.1\r\n")),
                "{target} as {role:?}: {got:?}"
            );
        }
    }
}

/// Some applications have names with slashes in one segment, and say so.
#[test]
fn encoded_slashes_are_kept_where_a_listener_says_so() {
    let upstream = Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            echo(connection, &request);
        }
    });
    let proxy = gateway(&format!(
        "listeners:
  - {{ name: web, bind: 127.0.0.1, port: 0, encodedSlashes: keep }}
  - {{ name: strict, bind: 127.0.0.1, port: 0 }}
routes: [{{ rules: [{{ matches: [{{ path: {{ value: /own }} }}], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}\n",
        upstream.address()
    ));
    let path = "/own/group%2fproject%5C";
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(client.get(path).text(), "/own/group%2Fproject%5C");
    let mut http2 = Http2::connect(proxy.address("web"), &[]);
    http2.get(1, path);
    let kept = Outcome::Answer(200, b"/own/group%2Fproject%5C".to_vec());
    assert_eq!(http2.outcome(1), kept);
    // `own%2f..` is one segment, and not `/own`.
    assert_eq!(client.get("/own%2f../other").status, 404);
    let mut client = Raw::connect(proxy.address("strict"));
    assert_eq!(client.get(path).status, 400);
}
