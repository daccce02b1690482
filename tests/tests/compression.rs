//! Compression from outside: what comes decodes to what the application sent, streams stay streams.

use std::io::{Read, Write};
use std::net::TcpStream;

use selvedge_tests::process::gateway;
use selvedge_tests::{Bell, PATIENCE, Raw, Reply, Selvedge, Upstream};

fn compressing(upstream: &Upstream) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [small] }}]
policies: {{ small: {{ compression: {{}} }}, gzip: {{ compression: {{ codings: [gzip], minimum: 10, types: [text/plain] }} }} }}
routes:
  - rules:
      - {{ matches: [{{ path: /gzip }}], policies: [gzip], backendRefs: [{{ service: app }}] }}
      - {{ backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ))
}

fn text() -> String {
    (0..2000).map(|n| format!("line {n}\n")).collect()
}

/// An application that answers with these fields and the text.
fn with(fields: &'static str) -> Upstream {
    let body = text();
    Upstream::replying(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    ))
}

fn ask(proxy: &Selvedge, accepted: &str, path: &str) -> Reply {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accepted}\r\n\r\n"
    ));
    client.reply()
}

fn decoded(reply: &Reply) -> String {
    let (mut out, body) = (String::new(), &reply.body[..]);
    match reply.header("content-encoding") {
        Some("gzip") => flate2::read::GzDecoder::new(body).read_to_string(&mut out),
        Some("br") => brotli::Decompressor::new(body, 4096).read_to_string(&mut out),
        Some("zstd") => zstd::stream::read::Decoder::new(body)
            .unwrap()
            .read_to_string(&mut out),
        _ => (&mut &*body).read_to_string(&mut out),
    }
    .unwrap();
    out
}

#[test]
fn each_coding_gives_the_text_back() {
    let upstream = with("Content-Type: text/plain\r\nETag: \"a\"\r\nAccept-Ranges: bytes\r\n");
    let proxy = compressing(&upstream);
    for (accepted, coding) in [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, br;q=0.8", "gzip"),
        ("br", "br"),
    ] {
        let reply = ask(&proxy, accepted, "/");
        assert_eq!(reply.header("content-encoding"), Some(coding));
        assert_eq!(reply.header("etag"), Some("W/\"a\""));
        assert_eq!(reply.header("vary"), Some("Accept-Encoding"));
        assert_eq!(reply.header("accept-ranges"), None);
        assert!(reply.body.len() < text().len() / 2);
        assert_eq!(decoded(&reply), text());
    }
    // The nearest policy offers gzip only.
    let reply = ask(&proxy, "zstd, gzip", "/gzip");
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    // Who takes none gets the text, and caches are told.
    for accepted in ["identity", "gzip;q=0", "deflate"] {
        let reply = ask(&proxy, accepted, "/");
        assert_eq!(reply.header("content-encoding"), None);
        assert_eq!(reply.header("vary"), Some("Accept-Encoding"));
        assert_eq!(reply.header("etag"), Some("\"a\""));
        assert_eq!(reply.text(), text());
    }
}

#[test]
fn what_must_stay_as_it_is_does() {
    for fields in [
        "Content-Type: image/png\r\n",
        "Content-Type: application/grpc\r\n",
        "Content-Type: application/grpc+json\r\n",
        "Content-Type: text/plain\r\nContent-Encoding: br\r\n",
        "Content-Type: text/plain\r\nCache-Control: public, No-Transform\r\n",
        "",
    ] {
        let upstream = with(fields);
        let reply = ask(&compressing(&upstream), "gzip", "/");
        assert_ne!(reply.header("content-encoding"), Some("gzip"), "{fields}");
        assert_eq!(reply.text(), text(), "{fields}");
    }
    for reply in [
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1999/4000\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nabcde",
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nabcde",
        "HTTP/1.1 304 Not Modified\r\nContent-Type: text/plain\r\nETag: \"a\"\r\n\r\n",
    ] {
        let upstream = Upstream::replying(reply);
        let got = ask(&compressing(&upstream), "gzip", "/");
        assert_eq!(got.header("content-encoding"), None, "{reply}");
        assert!(reply.ends_with(&got.text()), "{reply}");
    }
}

#[test]
fn head_says_what_get_would() {
    let upstream = Upstream::replying(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5000\r\n\r\n",
    );
    let proxy = compressing(&upstream);
    let mut client = Raw::connect(proxy.address("web"));
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
        let reply = client.try_reply_to("HEAD").unwrap();
        assert_eq!(reply.header("content-encoding"), Some("gzip"));
        assert_eq!(reply.header("content-length"), None);
    }
}

#[test]
fn an_event_arrives_while_the_stream_goes_on() {
    let (bell, heard) = (Bell::default(), Bell::default());
    let (ring, wait) = (heard.clone(), bell.clone());
    let upstream = Upstream::scripted(move |connection| {
        let _ = connection.request();
        connection.send(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        for event in 0..3 {
            let text = format!("data: {event}\n\n");
            connection.send(format!("{:x}\r\n{text}\r\n", text.len()));
            wait.wait();
        }
        connection.send("0\r\n\r\n");
        ring.ring();
    });
    let proxy = compressing(&upstream);
    let mut stream = TcpStream::connect(proxy.address("web")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // HTTP/1.0: the body ends with the connection, so that it can be read without a chunk decoder.
    stream
        .write_all(b"GET / HTTP/1.0\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(String::from_utf8_lossy(&head).contains("Content-Encoding: gzip"));
    let mut decoder = flate2::read::GzDecoder::new(stream);
    for event in 0..3 {
        let mut got = [0; 9];
        decoder.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8_lossy(&got), format!("data: {event}\n\n"));
        // Only now does the application send the next one.
        bell.ring();
    }
    heard.wait();
    let mut rest = Vec::new();
    decoder.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn a_body_cut_short_upstream_is_not_made_to_look_whole() {
    let upstream = Upstream::scripted(|connection| {
        let _ = connection.request();
        connection
            .send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9000\r\n\r\nabc");
    });
    let proxy = compressing(&upstream);
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    assert!(client.try_reply_to("GET").is_err());
}
