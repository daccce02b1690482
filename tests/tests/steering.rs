//! What a client cannot do with words (rows HD-04 and HD-05 of the battery): steer a redirect,
//! forge a line of a log, hand on a broken trace.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use selvedge_tests::http2::{Http2, headers, request};
use selvedge_tests::process::gateway;
use selvedge_tests::{PATIENCE, Raw, TestCa, Upstream};
use serde_json::Value;

#[test]
fn hd_04_a_redirect_goes_where_the_configuration_says() {
    let proxy = gateway(
        "listeners: [{ name: web, bind: 127.0.0.1, port: 0 }]
routes: [{ rules: [{ filters: [{ type: RequestRedirect, requestRedirect: { statusCode: 302 } }] }] }]",
    );
    let port = proxy.address("web").port();
    for fields in [
        "",
        "X-Forwarded-Proto: https\r\n",
        "X-Forwarded-Host: evil.example\r\n",
        "X-Forwarded-Port: 444\r\n",
        "Forwarded: host=evil.example;proto=https\r\n",
        "X-Forwarded-Server: evil.example\r\nX-Host: evil.example\r\n",
        "X-Original-URL: //evil.example/\r\nX-Rewrite-URL: //evil.example/\r\n",
        "X-Forwarded-Scheme: https\r\nX-Forwarded-Ssl: on\r\nFront-End-Https: on\r\n",
        "X-Forwarded-Prefix: //evil.example\r\n",
        "Origin: https://evil.example\r\nReferer: https://evil.example/\r\n",
    ] {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(format!(
            "GET /a?b HTTP/1.1\r\nHost: shop:{port}\r\n{fields}\r\n"
        ));
        let reply = client.reply();
        let wanted = format!("http://shop:{port}/a?b");
        assert_eq!(reply.header("location"), Some(wanted.as_str()), "{fields}");
    }
    // A path that a browser would read as another host.
    for target in [
        "//evil.example/",
        "/%2f/evil.example",
        "/\\evil.example",
        "/.//evil.example",
    ] {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(format!(
            "GET {target} HTTP/1.1\r\nHost: shop:{port}\r\n\r\n"
        ));
        let reply = client.reply();
        let location = reply.header("location").unwrap_or_default();
        let own = format!("http://shop:{port}/");
        assert!(
            reply.status == 400 || location.starts_with(&own),
            "{target}: {location}"
        );
    }
}

/// A log, once it holds this.
fn read_until(log: &Path, mark: &str) -> Vec<u8> {
    let begun = Instant::now();
    loop {
        let text = std::fs::read(log).unwrap_or_default();
        if String::from_utf8_lossy(&text).contains(mark) && text.ends_with(b"\n") {
            return text;
        }
        assert!(begun.elapsed() < PATIENCE, "no log");
        std::thread::yield_now();
    }
}

/// Lines of a log, each of them JSON that nobody has forged.
fn whole_lines(text: &[u8]) -> usize {
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let mut count = 0;
    for line in lines {
        let told = String::from_utf8_lossy(line);
        let value: Value = serde_json::from_slice(line).unwrap_or_else(|e| panic!("{e}: {told}"));
        assert!(value.get("forged").is_none(), "{told}");
        assert!(!line.iter().any(|b| *b < 0x20 || *b == 0x7f), "{told:?}");
        count += 1;
    }
    count
}

/// Words that would forge a line, if they were not told as what they are.
const NASTY: &str = "\"}\\n{\"status\":200,\"forged\":1}\t\u{1b}[31m";

#[test]
fn hd_04_nothing_that_a_client_says_forges_a_line_of_the_log() {
    let upstream = Upstream::answering("ok");
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = TestCa::new()
        .server(&["shop.example"])
        .write(dir.path(), "leaf");
    let log = dir.path().join("access.log");
    let proxy = gateway(&format!(
        "listeners:
  - {{ name: web, bind: 127.0.0.1, port: 0 }}
  - {{ name: tls, bind: 127.0.0.1, port: 0, protocol: HTTPS, tls: {{ certificates: [{{ certificate: {}, key: {} }}] }} }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
telemetry: {{ accessLog: {{ path: {} }} }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        certificate.display(),
        key.display(),
        log.display(),
        upstream.address()
    ));
    let sent: Vec<Vec<u8>> = vec![
        format!(
            "GET /%0d%0a%7b%22forged%22:1%7d?{} HTTP/1.1\r\nHost: a\r\nUser-Agent: {NASTY}\r\n\r\n",
            "%1b[31m"
        )
        .into_bytes(),
        b"GET /\"},{\"forged\":1}?\\u0000 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET /\xff\xfe\x80 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a\"}b\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: \"},{\"forged\":\"1\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\x1b[31m\r\n\r\n".to_vec(),
        b"G\"T / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: \"},{\"forged\":1\r\n\r\n".to_vec(),
        b"GET /\nforged HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
    ];
    for bytes in &sent {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(bytes);
        let _ = client.try_reply_to("GET");
    }
    let mut client = Http2::connect(proxy.address("web"), &[]);
    for (stream, path) in [
        (1, "/\u{1b}[31m\"}"),
        (3, "/\r\nforged"),
        (5, "/\"},{\"forged\":1}"),
    ] {
        client.send(headers(
            stream,
            &request("GET", path, &[("user-agent", NASTY)]),
            true,
        ));
        let _ = client.outcome(stream);
    }
    for name in ["a\"},{\"forged\":1}", "a\r\nforged", "a\u{1b}[31m"] {
        let _ = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &proxy.address("tls").to_string(),
                "-servername",
                name,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
    // A last request, so that all before it has been written.
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(client.get("/last").status, 200);
    let text = read_until(&log, "/last");
    assert!(
        whole_lines(&text) >= sent.len(),
        "{}",
        String::from_utf8_lossy(&text)
    );
    // Nor does the process's own log carry what a terminal would obey.
    assert!(proxy.log().iter().all(|line| !line.contains("\u{1b}[31m")));
}

#[test]
fn hd_05_a_broken_trace_is_begun_anew() {
    let upstream = Upstream::answering("ok");
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
telemetry: {{ tracing: {{ endpoint: \"http://127.0.0.1:1\", sample: 0 }} }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let good = format!("00-{id}-00f067aa0ba902b7-00");
    for (at, (sent, kept)) in [
        (good.clone(), true),
        (format!("00-{}-00f067aa0ba902b7-00", "0".repeat(32)), false),
        (format!("00-{id}-{}-00", "0".repeat(16)), false),
        (format!("ff-{id}-00f067aa0ba902b7-00"), false),
        (good.to_uppercase(), false),
        (good[..54].to_owned(), false),
        (format!("{good}-more"), false),
        ("x".repeat(4000), false),
        (format!("{good}\r\nTraceparent: {good}"), false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(format!(
            "GET /{at} HTTP/1.1\r\nHost: a\r\nTraceparent: {sent}\r\nBaggage: {}\r\n\r\n",
            "a=\"b;;,=,".repeat(20)
        ));
        assert_eq!(client.reply().status, 200);
        let all = upstream.all();
        let got = all.split(&format!("GET /{at} ")).nth(1).unwrap();
        let got = got.split("\r\n\r\n").next().unwrap().to_ascii_lowercase();
        let told: Vec<&str> = got
            .lines()
            .filter_map(|l| l.strip_prefix("traceparent: "))
            .collect();
        assert_eq!(told.len(), 1, "{got}");
        assert_eq!(told[0].len(), 55, "{got}");
        assert_eq!(told[0].contains(id), kept, "{sent}: {got}");
    }
}
