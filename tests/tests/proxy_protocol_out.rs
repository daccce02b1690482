//! Endpoints that are told by the PROXY protocol for whom a connection is, from outside.

use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Selvedge, Upstream};

/// Reads one announcement of version 1, then answers requests as long as any come.
fn told() -> Upstream {
    Upstream::scripted(|connection| {
        if connection.until(b"\r\n").is_none() {
            return;
        }
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

fn announcing(upstream: &Upstream, listener: &str, service: &str, rule: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, {listener} }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}], {rule} }}] }}]
services: {{ app: {{ endpoints: [\"{}\"], {service} }} }}",
        upstream.address()
    ))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn each_connection_names_its_client_and_carries_one_request() {
    let upstream = told();
    let proxy = announcing(&upstream, "", "proxyProtocol: v1", "");
    let web = proxy.address("web");
    let (mut one, mut other) = (Raw::connect(web), Raw::connect(web));
    let mut want = Vec::new();
    for _ in 0..3 {
        for client in [&mut one, &mut other] {
            client.send(GET);
            assert_eq!(client.reply().status, 200);
            let port = client.local().port();
            want.push(format!(
                "PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}\r\n",
                web.port()
            ));
        }
    }
    let seen = upstream.wait_until(|seen| seen.len() == 6 && seen.iter().all(|s| s.closed));
    for (connection, want) in seen.iter().zip(want) {
        let text = connection.text();
        assert!(text.starts_with(&want), "{text}");
        assert_eq!(text.matches("GET / ").count(), 1, "{text}");
        assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
    }
}

#[test]
fn version_2_names_whom_a_balancer_has_announced() {
    let upstream = Upstream::scripted(|connection| {
        let head = connection.exactly(16).unwrap_or_default();
        let length = head.get(15).copied().unwrap_or(0);
        connection.exactly(usize::from(length));
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let listener = "proxyProtocol: { from: [\"127.0.0.1\"] }";
    let proxy = announcing(&upstream, listener, "proxyProtocol: v2", "");
    for line in [
        &b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\r\n"[..],
        b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 443\r\n",
    ] {
        let mut client = Raw::connect(proxy.address("web"));
        client.send([line, GET].concat());
        assert_eq!(client.reply().status, 200);
    }
    let seen = upstream.seen();
    let begin =
        |family: u8, length: u8| [&b"\r\n\r\n\0\r\nQUIT\n\x21"[..], &[family, 0, length]].concat();
    let v4 = [
        &begin(0x11, 12)[..],
        &[203, 0, 113, 7, 192, 0, 2, 1, 0x13, 0x88, 1, 0xbb],
        b"GET / ",
    ];
    assert!(seen[0].bytes.starts_with(&v4.concat()), "{:?}", seen[0]);
    let address = |last: u8| {
        let mut octets = [0; 16];
        octets[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        octets[15] = last;
        octets
    };
    let v6 = [
        &begin(0x21, 36)[..],
        &address(7),
        &address(1),
        &[0x13, 0x88, 1, 0xbb],
        b"GET / ",
    ];
    assert!(seen[1].bytes.starts_with(&v6.concat()), "{:?}", seen[1]);
}

#[test]
fn a_retry_names_the_client_too() {
    let upstream = Upstream::scripted(|connection| {
        connection.until(b"\r\n");
        if connection.request().is_some() {
            connection.send(if connection.index() == 0 {
                "HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            });
        }
    });
    let retry = "retry: { attempts: 2, codes: [503] }";
    let proxy = announcing(&upstream, "", "proxyProtocol: v1", retry);
    let mut client = Raw::connect(proxy.address("web"));
    client.send(GET);
    assert_eq!(client.reply().status, 200);
    let port = client.local().port();
    let seen = upstream.seen();
    assert_eq!(seen.len(), 2);
    for connection in seen {
        let want = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} ");
        assert!(connection.text().starts_with(&want), "{connection:?}");
    }
}

#[test]
fn it_comes_before_tls() {
    // The first byte of a TLS record that carries a handshake.
    let upstream = Upstream::scripted(|connection| {
        connection.until(b"\r\n");
        connection.exactly(1);
    });
    let service = "proxyProtocol: v1, tls: { serverName: app.example }";
    let proxy = announcing(&upstream, "", service, "");
    let mut client = Raw::connect(proxy.address("web"));
    client.send(GET);
    assert_eq!(client.reply().status, 503);
    let bytes = upstream.seen()[0].bytes.clone();
    let end = bytes.windows(2).position(|w| w == b"\r\n").unwrap();
    assert!(bytes.starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 "));
    assert_eq!(bytes.get(end + 2), Some(&0x16));
}

#[test]
fn services_without_it_keep_their_connections() {
    let upstream = Upstream::answering("ok");
    let proxy = announcing(&upstream, "", "", "");
    for _ in 0..3 {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(GET);
        assert_eq!(client.reply().status, 200);
    }
    let all = upstream.all();
    assert_eq!(upstream.seen().len(), 1, "{all}");
    assert!(
        !all.contains("PROXY") && !all.contains("Connection"),
        "{all}"
    );
}

#[test]
fn a_connection_of_many_clients_has_no_header() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.yaml");
    let text = "listeners: [{ name: web, port: 8080 }]
routes: [{ rules: [{ backendRefs: [{ service: app }] }] }]
services:
  app: { endpoints: [\"127.0.0.1:1\"], protocol: http2, proxyProtocol: v2 }
";
    std::fs::write(&file, text).unwrap();
    let output = std::process::Command::new(selvedge_tests::process::binary())
        .arg("check")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        text.contains("services.app.proxyProtocol")
            && text.contains("a PROXY header names one")
            && text.contains("set `protocol: http1`"),
        "{text}"
    );
}
