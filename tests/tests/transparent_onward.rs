//! What is redirected and is no business of the mesh: whoever speaks first, whatever it speaks, it
//! arrives as it was sent; and what comes round is cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use selvedge_tests::netns::Namespace;
use selvedge_tests::pod::{APP, Pod, serve};
use selvedge_tests::{Bell, PATIENCE, TestCa};

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";

fn config(inbound: &str) -> String {
    format!(
        "inbound: [{{ bind: \"::\", port: 15006, transparent: true, {inbound} }}]
outbound: {{ bind: \"[::]:15001\", transparent: true }}
services:
  orders:
    endpoints: [\"10.7.0.2:8080\"]
    addresses: [\"10.96.0.20:80\"]
    hostnames: [orders.shop.svc]
    mesh: {{ identity: \"{ORDERS}\" }}
  plain: {{ endpoints: [\"10.7.0.2:8081\"], hostnames: [plain.svc] }}
"
    )
}

fn pods(inbound: &str, rules: &[&str]) -> (Pod, Pod) {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let web = Pod::new(a, &ca, WEB, &config(inbound));
    let orders = Pod::new(b, &ca, ORDERS, &config(inbound));
    for pod in [&web, &orders] {
        pod.redirect(rules);
    }
    (web, orders)
}

/// Sends back what comes, until it ends; then says so.
fn echo(mut stream: TcpStream) {
    let mut part = [0; 4096];
    while let Ok(n) = stream.read(&mut part) {
        if n == 0 {
            let _ = stream.write_all(b"<end>");
            return;
        }
        let _ = stream.write_all(&part[..n]);
    }
}

fn expect(stream: &mut TcpStream, wanted: &[u8]) {
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&got),
        String::from_utf8_lossy(wanted)
    );
}

fn rest(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    String::from_utf8_lossy(&rest).into_owned()
}

#[test]
fn servers_that_speak_first_are_heard_at_once() {
    let (web, orders) = pods("mtls: permissive", &[]);
    serve(orders.listen(7000), |mut stream| {
        let _ = stream.write_all(b"220 welcome\r\n");
        echo(stream);
    });
    for to in ["10.7.0.2:7000", "[fd07::2]:7000"] {
        let begun = Instant::now();
        let mut client = web.connect(to);
        expect(&mut client, b"220 welcome\r\n");
        // A moment at each of two sidecars, not the time-out of a detection.
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
        client.write_all(b"EHLO a\r\n").unwrap();
        expect(&mut client, b"EHLO a\r\n");
        // The end of one direction is not the end of the other.
        client.shutdown(Shutdown::Write).unwrap();
        expect(&mut client, b"<end>");
        assert_eq!(rest(&mut client), "");
    }
    let out = [
        "outbound",
        "end=-- ",
        "in=8 out=26 ",
        "service=passthrough",
        "upstream=10.7.0.2:7000",
    ];
    web.wait_for_line(&out);
    orders.wait_for_line(&[
        "inbound-15006",
        "in=8 out=26 ",
        "service=app",
        "upstream=10.7.0.2:7000",
    ]);
    web.wait_for_line(&["outbound", "upstream=[fd07::2]:7000"]);
}

#[test]
fn whatever_is_not_http_arrives_byte_for_byte() {
    let (web, orders) = pods("mtls: permissive", &[]);
    serve(orders.listen(7000), echo);
    let long = [b"\x16\x03\x01\x40\x00".to_vec(), vec![7; 300_000]].concat();
    for bytes in [
        // Redis, which looks like a method; TLS of the application's own; half a request line; nothing.
        b"PING\r\n".to_vec(),
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00 and so on".to_vec(),
        long,
        b"GET /never-mor".to_vec(),
        Vec::new(),
    ] {
        let mut client = web.connect("10.7.0.2:7000");
        let (mut writer, sent) = (client.try_clone().unwrap(), bytes.clone());
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        expect(&mut client, &bytes);
        assert_eq!(rest(&mut client), "<end>");
        writing.join().unwrap();
    }
}

#[test]
fn http_for_nobody_known_arrives_as_it_was_sent() {
    // Its machine is outside of the mesh.
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let web = Pod::new(a, &ca, WEB, &config("mtls: strict"));
    web.redirect(&[]);
    let outside = Pod::new(b, &ca, ORDERS, &config("mtls: strict"));
    serve(outside.listen(8080), echo);
    for request in [
        "POST /a/../b HTTP/1.1\r\nhOST:  elsewhere.example\r\nX-OdD: 1\r\nContent-Length: 2\r\n\r\nab",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        // Its name is that of a service, which has another port.
        "GET / HTTP/1.1\r\nHost: orders.shop.svc:8080\r\n\r\n",
    ] {
        let mut client = web.connect("10.7.0.2:8080");
        client.write_all(request.as_bytes()).unwrap();
        expect(&mut client, request.as_bytes());
    }
    // Nobody there: the client hears of it.
    let mut client = web.connect("10.7.0.2:4");
    let _ = client.write_all(b"x");
    assert_eq!(rest(&mut client), "");
    web.wait_for_line(&["end=UF ", "upstream=10.7.0.2:4"]);
}

#[test]
fn skipped_ports_and_datagrams_pass_by_the_sidecar() {
    let skip = [
        "--skip-outbound-ports",
        "9998-9999",
        "--skip-inbound-ports",
        "9999",
    ];
    let (mut web, mut orders) = pods("mtls: strict", &skip);
    let _ = (web.stop(), orders.stop());
    serve(orders.listen(9999), echo);
    let mut client = web.connect("10.7.0.2:9999");
    client.write_all(b"past").unwrap();
    expect(&mut client, b"past");
    // What is skipped on one side only ends on the other, where nobody listens now.
    let refused = |from: &Pod, to: &str| {
        let to = to.parse().unwrap();
        from.net
            .inside(APP, || TcpStream::connect_timeout(&to, PATIENCE))
            .unwrap_err();
    };
    refused(&web, "10.7.0.2:9998");
    refused(&web, "10.7.0.2:9997");

    for (here, there) in [("10.7.0.1", "10.7.0.2"), ("[fd07::1]", "[fd07::2]")] {
        let at = |pod: &Pod, address: String| {
            let socket = pod.net.inside(APP, || UdpSocket::bind(address).unwrap());
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let asked = at(&orders, format!("{there}:5353"));
        let asks = at(&web, format!("{here}:0"));
        asks.send_to(b"question", format!("{there}:5353")).unwrap();
        let mut got = [0; 16];
        let (n, from) = asked.recv_from(&mut got).unwrap();
        assert_eq!(
            (&got[..n], from),
            (&b"question"[..], asks.local_addr().unwrap())
        );
        asked.send_to(b"answer", from).unwrap();
        let (n, from) = asks.recv_from(&mut got).unwrap();
        assert_eq!(
            (&got[..n], from),
            (&b"answer"[..], asked.local_addr().unwrap())
        );
    }
}

#[test]
fn a_sidecar_that_is_restarted_takes_up_where_it_was() {
    let (mut web, mut orders) = pods("mtls: strict", &[]);
    orders.serve_http(8080);
    let call = |web: &Pod| {
        web.curl(&[
            "--output",
            "-",
            "--write-out",
            "status=%{http_code}",
            "http://10.96.0.20/",
        ])
    };
    let works = |web: &Pod| {
        let (code, said) = call(web);
        assert!(code == Some(0) && said.contains("status=200"), "{said}");
        assert!(said.contains(&format!("URI={WEB}")), "{said}");
    };
    works(&web);
    let dir = orders.stop();
    let (_, said) = call(&web);
    assert!(said.contains("status=503"), "{said}");
    orders.start_again(dir);
    works(&web);
    let dir = web.stop();
    let (code, said) = call(&web);
    assert_eq!(code, Some(7), "nobody takes it: {said}");
    web.start_again(dir);
    works(&web);
}

#[test]
fn a_connection_in_flight_is_drained() {
    let (mut web, orders) = pods("mtls: permissive", &[]);
    let (here, bell) = (Bell::default(), Bell::default());
    let (rings, rung) = (here.clone(), bell.clone());
    serve(orders.listen(7000), move |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        rings.ring();
        rung.wait();
        let _ = stream.write_all(b"late");
    });
    let mut busy = web.connect("10.7.0.2:7000");
    busy.write_all(b"x").unwrap();
    here.wait();
    // One that has said nothing has nothing in flight.
    let mut silent = web.connect("10.7.0.2:7001");
    web.sidecar().signal("TERM");
    web.sidecar().wait_for_log("leaving");
    assert_eq!(rest(&mut silent), "");
    bell.ring();
    expect(&mut busy, b"late");
    drop(busy);
    let _ = web.stop();
}

#[test]
fn what_comes_round_is_cut() {
    let (web, orders) = pods("mtls: permissive", &[]);
    // To the sidecar's own ports, from inside and from outside.
    for (from, to) in [
        (&web, "127.0.0.1:15001"),
        (&web, "[::1]:15001"),
        (&web, "10.7.0.1:15006"),
        (&orders, "10.7.0.1:15006"),
        (&orders, "10.7.0.1:15001"),
        (&orders, "10.7.0.1:15000"),
    ] {
        let mut client = from.connect(to);
        let _ = client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(rest(&mut client), "", "{to}");
    }
    web.wait_for_line(&["outbound", "end=DO "]);
    web.wait_for_line(&["inbound-15006", "end=DO "]);
}

#[test]
fn a_sidecar_that_the_rules_do_not_know_does_not_go_round() {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    // Its user is not the one that the rules let by: whatever it sends comes back to it.
    let web = Pod::run_by(1338, a, &ca, WEB, &config("mtls: strict"));
    web.redirect(&[]);
    for first in [
        &b"SSH-2.0-a\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"",
    ] {
        let mut client = web.connect("10.7.0.2:7000");
        client.write_all(first).unwrap();
        assert_eq!(rest(&mut client), "");
    }
    // Nor by way of a service, whose endpoints are redirected as well.
    let request = b"GET / HTTP/1.1\r\nHost: plain.svc\r\nConnection: close\r\n\r\n";
    let ask = || {
        let mut client = web.connect("10.7.0.2:7000");
        client.write_all(request).unwrap();
        rest(&mut client)
    };
    // Whoever is dialled before a word was said is itself again, and closes: that may come before the
    // request does.
    let said = (0..4).map(|_| ask()).find(|said| !said.is_empty());
    let said = said.unwrap_or_default();
    assert!(said.starts_with("HTTP/1.1 50"), "{said}");
    web.wait_for_line(&["outbound", "end=DO "]);
    let (_, metrics) = web.curl(&["http://127.0.0.1:15020/metrics"]);
    let counts = metrics
        .lines()
        .filter(|l| l.starts_with("selvedge_connections_accepted_total"));
    let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let taken: f64 = counts.sum();
    assert!(taken > 2.0, "{metrics}");
    assert!(taken < 20.0, "{taken}");
    drop(b);
}

#[test]
fn what_a_connection_asks_for_next_may_be_elsewhere() {
    let (web, orders) = pods("mtls: permissive", &[]);
    for port in [8081, 8082] {
        serve(orders.listen(port), |mut stream| {
            let mut part = [0; 4096];
            while stream.read(&mut part).unwrap_or(0) > 0 {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
            }
        });
    }
    let mut client = web.connect("10.7.0.2:8082");
    for (host, path) in [("plain.svc", "/first"), ("other.example", "/second")] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        expect(&mut client, b"HTTP/1.1 204 No Content\r\n");
        let mut byte = [0];
        let mut tail = b"\r\n".to_vec();
        while !tail.ends_with(b"\r\n\r\n") {
            client.read_exact(&mut byte).unwrap();
            tail.push(byte[0]);
        }
    }
    web.wait_for_line(&["GET /first", "service=plain", "upstream=10.7.0.2:8081"]);
    web.wait_for_line(&[
        "GET /second",
        "service=passthrough",
        "upstream=10.7.0.2:8082",
    ]);
}

#[test]
fn what_must_be_understood_does_not_pass_as_bytes() {
    let inbound = "mtls: permissive, allow: [{ methods: [GET] }]";
    let (web, orders) = pods(inbound, &[]);
    serve(orders.listen(7000), |mut stream| {
        let _ = stream.write_all(b"never heard");
    });
    orders.serve_http(8080);
    // A port with policies.
    let mut client = web.connect("10.7.0.2:7000");
    client.write_all(b"SSH-2.0-a\r\n").unwrap();
    assert_eq!(rest(&mut client), "");
    orders.wait_for_line(&[
        "inbound-15006",
        "end=RD ",
        "the policies of this port look at requests",
    ]);
    // Nor by mutual TLS: whose they are does not say what they ask.
    let mut client = web.connect("10.96.0.20:80");
    client.write_all(b"SSH-2.0-a\r\n").unwrap();
    assert_eq!(rest(&mut client), "");
    orders.wait_for_line(&["inbound-15006", "end=RD ", &format!("peer_id={WEB}")]);
    web.wait_for_line(&["outbound", "end=UC ", "service=orders"]);
    // What they look at passes or not as they say.
    for (method, answer) in [
        ("GET", "HTTP/1.1 200 OK"),
        ("PUT", "HTTP/1.1 403 Forbidden"),
    ] {
        let mut client = web.connect("10.96.0.20:80");
        let request =
            format!("{method} / HTTP/1.1\r\nHost: any.example\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).unwrap();
        let said = rest(&mut client);
        assert!(said.starts_with(answer), "{said}");
    }
}
