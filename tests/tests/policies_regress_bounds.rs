//! What a second review of the gateway's policies has found of bounds and names, so that it stays found.

use std::process::Command;
use std::time::{Duration, Instant};

use selvedge_tests::process::{binary, gateway};
use selvedge_tests::{Raw, Selvedge, Upstream};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn with(app: &Upstream, more: &str, policies: &str, names: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
{more}
policies:
{policies}
routes:
  - rules: [{{ policies: [{names}], backendRefs: [{{ service: app }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        app.address()
    ))
}

#[test]
fn a_key_in_another_encoding_is_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(binary())
        .args(["apikey", "new", "--name", "robot", "--file"])
        .arg(dir.path().join("keys.json"))
        .output()
        .unwrap();
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let app = Upstream::replying(OK);
    let file = dir.path().join("keys.json");
    let policies = format!(
        "  head: {{ apiKey: {{ file: {0} }} }}
  query: {{ apiKey: {{ file: {0}, query: key }} }}
  who: {{ anyOf: [head, query] }}",
        file.display()
    );
    let proxy = with(&app, "", &policies, "who");
    let ask = |target: &str, fields: &str| {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        client.reply().status
    };
    let by_head = format!("X-API-Key: {key}\r\n");
    assert_eq!(ask("/a?ke%79=forged&b=1&key=forged2", &by_head), 200);
    assert_eq!(ask(&format!("/b?k%65y={key}&b=1"), ""), 200);
    let got = app.all();
    assert!(
        got.contains("GET /a?b=1 HTTP") && got.contains("GET /b?b=1 HTTP"),
        "{got}"
    );
}

#[test]
fn a_signed_upload_that_is_made_to_wait_is_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let secret = "0123456789abcdefghij";
    std::fs::write(dir.path().join("secret"), secret).unwrap();
    let app = Upstream::replying(OK);
    let policies = format!(
        "  slow: {{ bandwidth: {{ request: 20000/s }} }}
  signed: {{ signature: {{ form: gitHub, secretFiles: [{}/secret] }} }}",
        dir.path().display()
    );
    let proxy = with(&app, "limits: { request: 1s }", &policies, "slow, signed");
    let body = "x".repeat(60_000);
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = aws_lc_rs::hmac::sign(&key, body.as_bytes());
    let tag: String = tag.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let mut client = Raw::connect(proxy.address("web"));
    let begun = Instant::now();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256={tag}\r\nContent-Length: 60000\r\n\r\n{body}"
    ));
    assert_eq!(client.reply().status, 200);
    assert!(
        begun.elapsed() > Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(app.all().contains(&body));
}

#[test]
fn templates_and_expressions_make_no_more_than_they_are_given() {
    let app = Upstream::replying(OK);
    let many = format!(
        "{{\"items\":[{}\"\"],\"s\":\"{}\"}}",
        "\"\",".repeat(3000),
        "p".repeat(200_000)
    );
    let wide = "{\"s\":\"a\\na\\n\",\"n\":1000000000000000000}".to_owned();
    for (made, body) in [
        ("{{ body.items | join(body.s) | length }}", &many),
        ("{{ body.s | replace(\\\"p\\\", body.s) | length }}", &many),
        ("{{ body.s | indent(body.n) | length }}", &wide),
    ] {
        let policies = format!(
            "  t: {{ transform: {{ request: {{ body: {{ set: {{ ok: \"{made}\" }} }} }} }} }}"
        );
        let proxy = with(&app, "", &policies, "t");
        let mut client = Raw::connect(proxy.address("web"));
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(client.reply().status, 400, "{made}");
        assert!(proxy.peak() < 300 << 20, "{made}: {}", proxy.peak());
    }
}

#[test]
fn who_does_not_read_keeps_nobody_from_the_health_port() {
    let app = Upstream::replying(OK);
    let proxy = with(&app, "", "  few: { rateLimit: { rate: 1/s } }", "few");
    let mut deaf: Vec<Raw> = (0..40)
        .filter_map(|_| std::panic::catch_unwind(|| Raw::connect(proxy.address("health"))).ok())
        .collect();
    let many = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(200);
    for client in &mut deaf {
        client.send(&many);
    }
    // Another address than theirs has places of its own.
    let address = proxy.address("health");
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let other: std::net::SocketAddr = "127.0.0.2:0".parse().unwrap();
    socket.bind(&other.into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream: std::net::TcpStream = socket.into();
    use std::io::{Read, Write};
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
}
