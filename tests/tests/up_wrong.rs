//! Rows UP-06, UP-08 and UP-10 of the battery: endpoints that are late, large, or not what they should be.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use selvedge_tests::breaking::{Breaking, Line, NAME, Tls};
use selvedge_tests::http2::{data, settings};
use selvedge_tests::http2_upstream::answer;
use selvedge_tests::{PATIENCE, Raw, Selvedge, TestCa};

/// A gateway whose service `app` has this endpoint and these further keys, and the limits.
fn before(ca: &TestCa, endpoint: SocketAddr, keys: &str, rule: &str, limits: &str) -> Selvedge {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), ca.bundle()).unwrap();
    let config = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}]{rule} }}] }}]
services: {{ app: {{ endpoints: [\"{endpoint}\"]{keys} }} }}
limits: {{ {limits} }}"
    );
    Selvedge::start_in(dir, "gateway", &config, 1)
}

/// One who answers HTTP/1 with 200, whatever he is told.
fn http1(line: &mut Line) {
    while line.head().is_some() {
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst");
    }
}

/// One who begins with SETTINGS, as HTTP/2 does, and answers in it if he is spoken to in it.
fn http2(line: &mut Line) {
    line.send(settings(&[]));
    if line.begin().is_none() {
        return line.finish();
    }
    while let Some(stream) = line.stream() {
        line.send(answer(stream, "200", &[], false));
        line.send(data(stream, "first", true));
    }
}

/// TLS that the proxy speaks.
fn tls() -> String {
    format!(", tls: {{ serverName: {NAME}, ca: $DIR/ca.pem }}")
}

/// An endpoint, what the proxy takes it for, and whether that can be answered.
struct Pair {
    id: &'static str,
    /// Protocols of its TLS; `None` is plain.
    speaks: Option<&'static [&'static str]>,
    script: fn(&mut Line),
    taken_for: &'static str,
    with_tls: bool,
    is_answered: bool,
}

const fn pair(id: &'static str, script: fn(&mut Line), taken_for: &'static str) -> Pair {
    Pair {
        id,
        speaks: None,
        script,
        taken_for,
        with_tls: false,
        is_answered: false,
    }
}

#[test]
fn up_10_an_endpoint_that_speaks_something_else_is_refused_with_a_reason() {
    let (h1, h2) = (", protocol: http1", ", protocol: http2");
    let pairs = [
        pair("HTTP/1 where HTTP/2 is expected", http1, h2),
        pair("HTTP/2 where HTTP/1 is expected", http2, h1),
        Pair {
            speaks: Some(&["http/1.1"]),
            ..pair("TLS where plain HTTP/1 is expected", http1, h1)
        },
        Pair {
            speaks: Some(&["h2"]),
            ..pair("TLS where plain HTTP/2 is expected", http2, h2)
        },
        Pair {
            with_tls: true,
            ..pair("plain HTTP/1 where TLS is expected", http1, h1)
        },
        Pair {
            with_tls: true,
            ..pair("plain HTTP/2 where TLS is expected", http2, h2)
        },
        Pair {
            speaks: Some(&["http/1.1"]),
            with_tls: true,
            ..pair("only http/1.1 by ALPN, for HTTP/2", http1, h2)
        },
        Pair {
            speaks: Some(&["h2"]),
            with_tls: true,
            ..pair("only h2 by ALPN, for HTTP/1", http2, h1)
        },
        Pair {
            speaks: Some(&[]),
            with_tls: true,
            ..pair("no ALPN and HTTP/1, for HTTP/2", http1, h2)
        },
        Pair {
            speaks: Some(&[]),
            with_tls: true,
            is_answered: true,
            ..pair("no ALPN, for HTTP/1", http1, h1)
        },
    ];
    let ca = TestCa::new();
    let leaf = ca.server(&[NAME]);
    for pair in pairs {
        let spoken = pair.speaks.map(|names| Tls(&leaf, names));
        let upstream = Breaking::scripted(spoken.as_ref(), pair.script);
        let more = if pair.with_tls { tls() } else { String::new() };
        let keys = format!("{}{more}", pair.taken_for);
        let proxy = before(&ca, upstream.address(), &keys, "", "");
        let begun = Instant::now();
        let reply = Raw::connect(proxy.address("web")).get("/");
        assert!(begun.elapsed() < Duration::from_secs(5), "{}", pair.id);
        let why = reply.header("proxy-status").unwrap_or_default();
        if pair.is_answered {
            assert_eq!(reply.text(), "first", "{}", pair.id);
        } else {
            assert!(matches!(reply.status, 502 | 503), "{}: {reply:?}", pair.id);
            assert!(why.starts_with("selvedge; error="), "{}: {why}", pair.id);
        }
    }
}

#[test]
fn up_06_late_heads_and_stalled_bodies() {
    let ca = TestCa::new();
    let rule = ", timeouts: { request: 300ms }";
    for way in [", protocol: http1", ", protocol: http2"] {
        let is_http2 = way.ends_with('2');
        let upstream = Breaking::scripted(None, move |line| {
            if !is_http2 {
                while let Some(head) = line.head() {
                    if head.starts_with("GET /stall ") {
                        line.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
                    }
                }
            } else if line.begin().is_some() {
                while let Some(stream) = line.stream() {
                    // Every other one is late.
                    if stream % 4 == 3 {
                        line.send(answer(stream, "200", &[], false));
                        line.send(data(stream, "first", false));
                    }
                }
            }
        });
        let proxy = before(&ca, upstream.address(), way, rule, "streamIdle: 500ms");
        let late = Raw::connect(proxy.address("web")).get("/late");
        assert_eq!(late.status, 504, "{way}");
        let why = late.header("proxy-status").unwrap_or_default();
        assert!(why.contains("error=http_response_timeout"), "{why}");
        let mut client = Raw::connect(proxy.address("web"));
        client.send("GET /stall HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.until("first");
        assert!(head.starts_with("HTTP/1.1 200 "), "{way}: {head}");
        let begun = Instant::now();
        let rest = String::from_utf8(client.rest()).unwrap();
        assert!(!rest.contains("0\r\n\r\n"), "{way}: {rest}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{way}");
        proxy.wait_for_metric("selvedge_request_failures_total", &["UpstreamStalled"], 1.0);
        assert_eq!(upstream.requests(), 2, "{way}: asked again");
    }
}

const BODY: usize = 100 << 20;

/// Sends this much of a body of 100 MiB, then breaks off where that is not all; counts what the proxy
/// has taken.
fn large(most: usize, taken: Arc<AtomicUsize>) -> Breaking {
    Breaking::scripted(None, move |line| {
        while line.head().is_some() {
            line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"));
            let part = [b'x'; 64 << 10];
            for _ in 0..most / part.len() {
                if !line.send(part) {
                    return;
                }
                taken.fetch_add(part.len(), SeqCst);
            }
            if most < BODY {
                return line.finish();
            }
        }
    })
}

/// Waits until the endpoint can send no more: what is on its way fills every buffer.
fn wait_until_full(taken: &AtomicUsize) {
    let deadline = Instant::now() + PATIENCE;
    let (mut last, mut since) = (0, Instant::now());
    while last == 0 || since.elapsed() < Duration::from_millis(300) {
        assert!(Instant::now() < deadline, "never full");
        let now = taken.load(SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        std::thread::yield_now();
    }
}

/// Reads to the end in small parts; gives how much came, and the most memory the proxy had on the way.
fn read_slowly(mut stream: &TcpStream, proxy: &Selvedge) -> (usize, usize) {
    let (mut came, mut most, mut part) = (0, 0, [0; 4096]);
    let mut next = 0;
    while let Ok(n @ 1..) = stream.read(&mut part) {
        came += n;
        if came >= next {
            most = most.max(proxy.resident());
            next += 4 << 20;
        }
    }
    (came, most)
}

#[test]
fn up_08_a_large_body_through_a_slow_client_is_not_kept_and_not_asked_for_again() {
    let ca = TestCa::new();
    for sent in [BODY, BODY / 2] {
        let taken = Arc::<AtomicUsize>::default();
        let upstream = large(sent, taken.clone());
        let proxy = before(&ca, upstream.address(), "", "", "");
        // The first one brings what any first request brings.
        let mut first = Raw::connect(proxy.address("web"));
        first.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let _ = read_slowly(first.stream(), &proxy);
        let before = proxy.resident();
        let asked = upstream.requests();
        taken.store(0, SeqCst);
        let mut client = Raw::connect(proxy.address("web"));
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        wait_until_full(&taken);
        assert!(taken.load(SeqCst) < sent, "all of it is on its way");
        let full = proxy.resident();
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let (came, most) = read_slowly(client.stream(), &proxy);
        let grown = full.max(most).saturating_sub(before);
        println!("{sent} bytes: {} KiB more", grown / 1024);
        assert!(grown <= 2 << 20, "{grown} bytes more");
        // Of a broken body some of what is on its way is lost: the client's connection is reset. Of a
        // whole one, only what `until` has read with the head is missing here.
        let whole = came + (64 << 10) >= BODY;
        assert_eq!(whole, sent == BODY, "{came} of {sent}");
        assert_eq!(upstream.requests(), asked + 1, "asked again");
    }
}
