//! One test for each bug that a reviewer found in the HTTP/2 engine, named for it: upgrades and tunnels.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use selvedge_tests::hostile::{echo, target};
use selvedge_tests::http2::{HEADERS, Http2, block, data, headers, reset, status_of};
use selvedge_tests::http2_upstream::{Asked, Peer, answer};
use selvedge_tests::{Bell, Http2Upstream, PATIENCE, Raw, Selvedge, Upstream, gateway};
use socket2::SockRef;

/// ENABLE_CONNECT_PROTOCOL.
const CONNECT: u16 = 8;

/// A gateway before one service, whose `more` settings these are.
fn over(upstream: std::net::SocketAddr, more: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{upstream}\"]{more} }} }}"
    ))
}

fn ok(peer: &mut Peer, asked: &Asked) {
    peer.send(
        [
            answer(asked.stream, "200", &[], false),
            data(asked.stream, "ok", true),
        ]
        .concat(),
    );
}

/// Another user is served.
fn serves(proxy: &Selvedge) -> bool {
    Raw::connect(proxy.address("web")).get("/own").status == 200
}

/// The head of an extended CONNECT.
fn connect() -> Vec<u8> {
    let head = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/ws"),
        ("sec-websocket-version", "13"),
    ];
    headers(1, &block(&head), false)
}

#[test]
fn an_upgrade_that_an_upstream_ignores_is_no_open_tunnel() {
    let upstream = Upstream::answering("ok");
    let proxy = over(upstream.address(), "");
    let mut client = Http2::connect(proxy.address("web"), &[]);
    client.send(connect());
    let first = client.find(|f| f.stream == 1 && f.kind == HEADERS);
    assert_eq!(status_of(&first.payload), Some(502), "{first:?}");
    assert!(upstream.all().contains("GET /ws"));
    assert!(serves(&proxy));
}

#[test]
fn a_tunnel_whose_upstream_does_not_read_ends_with_its_client() {
    let (look, closed) = (Bell::default(), Bell::default());
    let (looks, rings) = (look.clone(), closed.clone());
    let upstream = Upstream::scripted(move |connection| {
        let Some(head) = connection.until(b"\r\n\r\n") else {
            return;
        };
        if target(&head) != "/ws" {
            return echo(connection, &head);
        }
        let socket = SockRef::from(connection.stream());
        socket.set_recv_buffer_size(4096).unwrap();
        connection.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        looks.wait();
        // It still reads nothing: only a reset says that the other end is gone.
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Ok(Some(_)) = connection.stream().take_error() {
                return rings.ring();
            }
        }
    });
    // One connection: another request is served once the tunnel's is closed.
    let proxy = over(upstream.address(), ", limits: { connections: 1 }");
    let mut tunnel = Http2::connect(proxy.address("web"), &[]);
    tunnel.send(connect());
    let first = tunnel.find(|f| f.stream == 1 && f.kind == HEADERS);
    assert_eq!(status_of(&first.payload), Some(200));
    // As much as it takes until no more credit comes: then the proxy waits for the upstream.
    let mut credit = 64 << 10;
    while credit >= 8192 {
        while credit >= 8192 {
            tunnel.send(data(1, [b'q'; 8192], false));
            credit -= 8192;
        }
        tunnel.settle();
        credit += tunnel.credited(1);
    }
    tunnel.send(reset(1));
    assert!(serves(&proxy), "the tunnel's connection is still there");
    look.ring();
    closed.wait();
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[test]
fn an_endpoint_without_extended_connect_gets_an_upgrade_as_an_ordinary_request() {
    let methods = Arc::new(Mutex::new(Vec::new()));
    let log = methods.clone();
    let upstream = Http2Upstream::serving(&[], move |peer, asked| {
        let method = asked.field(":method").to_owned() + asked.field(":protocol");
        log.lock().unwrap().push(method);
        ok(peer, asked);
    });
    // Four failures would open the circuit.
    let proxy = over(
        upstream.address(),
        ", protocol: http2, breaker: { errorRate: 10, minRequests: 4 }",
    );
    let mut client = Raw::connect(proxy.address("web"));
    for n in 0..8 {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{UPGRADE}"));
        let reply = client.reply();
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"), "{n}");
    }
    assert_eq!(client.get("/").status, 200);
    assert_eq!(*methods.lock().unwrap(), ["GET"; 9]);
}

#[test]
fn an_upgrade_of_another_method_keeps_it_on_the_way_through_http2() {
    let methods = Arc::new(Mutex::new(Vec::new()));
    let log = methods.clone();
    let knows = Http2Upstream::serving(&[(CONNECT, 1)], move |peer, asked| {
        log.lock().unwrap().push(asked.field(":method").to_owned());
        ok(peer, asked);
    });
    let direct = over(knows.address(), ", protocol: http2");
    let app = Upstream::answering("ok");
    let next = over(app.address(), "");
    let chain = over(next.address("web"), ", protocol: http2");
    for proxy in [&direct, &chain] {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(format!(
            "POST /upgraded HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{UPGRADE}"
        ));
        assert_eq!(client.reply().status, 200);
    }
    assert_eq!(*methods.lock().unwrap(), ["POST"]);
    assert!(app.all().starts_with("POST /upgraded "), "{}", app.all());
}
