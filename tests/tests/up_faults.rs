//! Rows UP-01 and UP-03 of the battery: endpoints that break off, wherever they are.

use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use selvedge_tests::breaking::{Breaking, Line, NAME, Tls};
use selvedge_tests::certs::Leaf;
use selvedge_tests::http2::{DATA, Http2, Outcome, data, frame, headers, request};
use selvedge_tests::http2_upstream::answer;
use selvedge_tests::{Bell, PATIENCE, Raw, Selvedge, TestCa};

/// How the proxy speaks with its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Http1,
    Http2,
    Tls,
    TlsHttp2,
}

use Way::{Http1, Http2 as H2, Tls as Tls1, TlsHttp2};

const WAYS: [Way; 4] = [Http1, H2, Tls1, TlsHttp2];

impl Way {
    const fn is_http2(self) -> bool {
        matches!(self, H2 | TlsHttp2)
    }

    const fn alpn(self) -> Option<&'static [&'static str]> {
        match self {
            Http1 | H2 => None,
            Tls1 => Some(&["http/1.1"]),
            TlsHttp2 => Some(&["h2"]),
        }
    }
}

/// A place where certificates come from.
struct Issuer(TestCa, Leaf);

impl Issuer {
    fn new() -> Self {
        let ca = TestCa::new();
        let leaf = ca.server(&[NAME]);
        Self(ca, leaf)
    }

    fn upstream(&self, way: Way, script: impl Fn(&mut Line) + Send + Sync + 'static) -> Breaking {
        let tls = way.alpn().map(|alpn| Tls(&self.1, alpn));
        Breaking::scripted(tls.as_ref(), script)
    }

    fn before(&self, way: Way, endpoint: SocketAddr) -> Selvedge {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), self.0.bundle()).unwrap();
        let protocol = if way.is_http2() { "http2" } else { "http1" };
        let tls = match way.alpn() {
            Some(_) => format!(", tls: {{ serverName: {NAME}, ca: $DIR/ca.pem }}"),
            None => String::new(),
        };
        let config = format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{endpoint}\"], protocol: {protocol}{tls} }} }}"
        );
        Selvedge::start_in(dir, "gateway", &config, 1)
    }
}

/// Asks by HTTP/1; gives the status, and the reason that the proxy gives.
fn refused(proxy: &Selvedge, method: &str) -> (u16, String) {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!(
        "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    ));
    let reply = client.reply();
    let why = reply.header("proxy-status").unwrap_or_default();
    (reply.status, why.to_owned())
}

/// Both methods get 502 or 503 with a reason, by HTTP/2 too.
fn assert_refused(proxy: &Selvedge, case: &str) {
    for method in ["GET", "POST"] {
        let (status, why) = refused(proxy, method);
        assert!(matches!(status, 502 | 503), "{case}, {method}: {status}");
        assert!(why.starts_with("selvedge; error="), "{case}: {why}");
    }
    let mut client = Http2::connect(proxy.address("web"), &[]);
    client.send(headers(1, &request("POST", "/", &[]), true));
    match client.outcome(1) {
        Outcome::Answer(status, _) => assert!(matches!(status, 502 | 503), "{case}: {status}"),
        other => panic!("{case}: {other:?}"),
    }
}

/// The client has the head and the first part of the body; when the bell has rung for the rest, it
/// never has a whole answer.
fn assert_broken_off(proxy: &Selvedge, go: &Bell, case: &str) {
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.until("first");
    assert!(head.starts_with("HTTP/1.1 200 "), "{case}: {head}");
    go.ring();
    let rest = client.rest();
    let said = String::from_utf8_lossy(&rest).into_owned();
    let whole = if head.contains("chunked") {
        said.ends_with("0\r\n\r\n")
    } else {
        said.contains("-----")
    };
    assert!(!whole, "{case}: {head}{said}");

    let mut client = Http2::connect(proxy.address("web"), &[]);
    client.get(1, "/");
    client.find(|f| f.kind == DATA);
    go.ring();
    let outcome = client.outcome(1);
    assert!(matches!(outcome, Outcome::Reset(_)), "{case}: {outcome:?}");
}

/// Where an endpoint breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    AfterAccept,
    AfterRequest,
    MidHead,
}

fn break_off(line: &mut Line, way: Way, place: Place, end: fn(&mut Line)) {
    if place == Place::AfterAccept {
        return end(line);
    }
    let heard = match way.is_http2() {
        true => line.begin().and_then(|()| line.stream()).is_some(),
        false => line.head().is_some(),
    };
    if heard && place == Place::MidHead {
        // Of HTTP/2: a HEADERS frame of 100 bytes, of which there are two.
        match way.is_http2() {
            true => line.send([0, 0, 100, 1, 4, 0, 0, 0, 1, 0x88, 0x5c]),
            false => line.send("HTTP/1.1 200 OK\r\nContent-Le"),
        };
    }
    end(line);
}

/// The head of an answer with 10 bytes to come and the first five of them, then the bell, and no more.
fn half(line: &mut Line, way: Way, go: &Bell) {
    if way.is_http2() {
        let Some(stream) = line.begin().and_then(|()| line.stream()) else {
            return;
        };
        line.send(answer(stream, "200", &[], false));
        line.send(data(stream, "first", false));
    } else if line.head().is_some() {
        line.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
    } else {
        return;
    }
    go.wait();
}

#[test]
fn up_01_a_reset_is_an_answer_with_a_reason() {
    let issuer = Issuer::new();
    for way in WAYS {
        for place in [Place::AfterAccept, Place::AfterRequest, Place::MidHead] {
            let case = format!("{way:?} {place:?}");
            let upstream =
                issuer.upstream(way, move |line| break_off(line, way, place, Line::reset));
            let proxy = issuer.before(way, upstream.address());
            assert_refused(&proxy, &case);
            // A POST that was perhaps carried out is not sent again; a GET may be.
            let expected = if place == Place::AfterAccept { 0 } else { 4 };
            assert_eq!(upstream.requests(), expected, "{case}");
        }
    }
}

#[test]
fn up_01_a_reset_before_the_connection_is_taken() {
    let issuer = Issuer::new();
    for way in WAYS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = issuer.before(way, address);
        let mut client = Raw::connect(proxy.address("web"));
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        // The kernel has made the connection; the listener is closed with it in its queue.
        let queued = format!(":{:04X} 0100007F:", address.port());
        let deadline = Instant::now() + PATIENCE;
        while !is_established(&queued) {
            assert!(Instant::now() < deadline, "{way:?}: no connection");
        }
        drop(listener);
        let reply = client.reply();
        assert!(matches!(reply.status, 502 | 503), "{way:?}: {reply:?}");
        assert!(reply.header("proxy-status").is_some(), "{way:?}");
        assert_refused(&proxy, &format!("{way:?}, nobody listens"));
    }
}

/// Whether the kernel has a connection from this port of loopback.
fn is_established(local: &str) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let is_one = |line: &str| line.contains(local) && line.split_whitespace().nth(3) == Some("01");
    table.lines().any(is_one)
}

#[test]
fn up_01_a_reset_within_a_body_breaks_the_answer_off() {
    let issuer = Issuer::new();
    for way in WAYS {
        let go = Bell::default();
        let rung = go.clone();
        let upstream = issuer.upstream(way, move |line| {
            half(line, way, &rung);
            line.reset();
        });
        let proxy = issuer.before(way, upstream.address());
        assert_broken_off(&proxy, &go, &format!("{way:?}"));
        assert_eq!(upstream.requests(), 2, "{way:?}: asked again");
    }
}

#[test]
fn up_03_an_end_before_or_within_the_head() {
    let issuer = Issuer::new();
    for way in WAYS {
        for place in [Place::AfterAccept, Place::AfterRequest, Place::MidHead] {
            let upstream =
                issuer.upstream(way, move |line| break_off(line, way, place, Line::finish));
            let proxy = issuer.before(way, upstream.address());
            assert_refused(&proxy, &format!("{way:?} {place:?}"));
        }
    }
}

/// Bodies of HTTP/1 that end too early: what comes first, and what follows before the end.
const SHORT: [(&str, &str, &str); 6] = [
    ("short length", "Content-Length: 10\r\n\r\nfirst", ""),
    ("one byte short", "Content-Length: 10\r\n\r\nfirst", "1234"),
    (
        "no last chunk",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        "",
    ),
    (
        "mid-chunk",
        "Transfer-Encoding: chunked\r\n\r\n8\r\nfirst",
        "12",
    ),
    (
        "mid-size",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        "0",
    ),
    (
        "no end of trailers",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        "0\r\n",
    ),
];

#[test]
fn up_03_a_body_that_ends_too_early_is_no_whole_answer() {
    let issuer = Issuer::new();
    for way in [Http1, Tls1] {
        for (id, first, then) in SHORT {
            for notified in [false, true] {
                let go = Bell::default();
                let rung = go.clone();
                let upstream = issuer.upstream(way, move |line| {
                    if line.head().is_some() {
                        line.send(format!("HTTP/1.1 200 OK\r\n{first}"));
                        rung.wait();
                        line.send(then);
                        if notified {
                            line.notify();
                        }
                        line.finish();
                    }
                });
                let proxy = issuer.before(way, upstream.address());
                assert_broken_off(&proxy, &go, &format!("{way:?}, {id}, {notified}"));
            }
        }
    }
}

/// What is sent on a stream.
type Frames = fn(u32) -> Vec<u8>;

/// What HTTP/2 has behind a HEADERS frame that says 10 bytes and the first five, on the stream.
const SHORT_STREAMS: [(&str, Frames); 5] = [
    ("nothing", |_| Vec::new()),
    ("mid-frame", |_| vec![0, 0, 5, 0, 1, 0, 0]),
    ("an end too early", |id| data(id, "", true)),
    ("more than it says", |id| data(id, "secondsecond", true)),
    ("GOAWAY", |id| {
        frame(7, 0, 0, &[id.to_be_bytes(), [0; 4]].concat())
    }),
];

#[test]
fn up_03_a_stream_that_ends_too_early_is_no_whole_answer() {
    let issuer = Issuer::new();
    for way in [H2, TlsHttp2] {
        for (id, then) in SHORT_STREAMS {
            let go = Bell::default();
            let rung = go.clone();
            let upstream = issuer.upstream(way, move |line| {
                let Some(stream) = line.begin().and_then(|()| line.stream()) else {
                    return;
                };
                let length = [("content-length", "10")];
                line.send(answer(stream, "200", &length, false));
                line.send(data(stream, "first", false));
                rung.wait();
                line.send(then(stream));
                line.finish();
            });
            let proxy = issuer.before(way, upstream.address());
            assert_broken_off(&proxy, &go, &format!("{way:?}, {id}"));
        }
    }
}

/// How a body without a length ends: over what, whether it is whole then, in words, and as done.
type End = (Way, bool, &'static str, fn(&mut Line));

#[test]
fn up_03_the_end_of_a_connection_ends_a_body_only_where_nobody_can_forge_it() {
    let issuer = Issuer::new();
    let ends: [End; 3] = [
        (Http1, true, "FIN", Line::finish),
        (Http1, false, "RST", Line::reset),
        (Tls1, false, "FIN, no close_notify", Line::finish),
    ];
    let notified: End = (Tls1, true, "close_notify", |line| {
        line.notify();
        line.finish();
    });
    for (way, whole, id, end) in ends.into_iter().chain([notified]) {
        let go = Bell::default();
        let rung = go.clone();
        let upstream = issuer.upstream(way, move |line| {
            if line.head().is_some() {
                line.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nfirst");
                rung.wait();
                end(line);
            }
        });
        let proxy = issuer.before(way, upstream.address());
        if whole {
            go.ring();
            let reply = Raw::connect(proxy.address("web")).get("/");
            assert_eq!(
                (reply.status, reply.text().as_str()),
                (200, "first"),
                "{id}"
            );
        } else {
            assert_broken_off(&proxy, &go, id);
        }
    }
}

#[test]
fn up_03_a_whole_answer_needs_no_close_notify() {
    let issuer = Issuer::new();
    let upstream = issuer.upstream(Tls1, |line| {
        if line.head().is_some() {
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst");
            line.finish();
        }
    });
    let proxy = issuer.before(Tls1, upstream.address());
    for _ in 0..3 {
        let reply = Raw::connect(proxy.address("web")).get("/");
        assert_eq!((reply.status, reply.text().as_str()), (200, "first"));
    }
}
