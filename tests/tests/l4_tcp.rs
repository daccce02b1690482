//! `protocol: TCP`: bytes go to a service as they come, by the same balancers and caps as requests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use selvedge_tests::bytes::{echo, expect, rest};
use selvedge_tests::l4::{LOG, connect, is_reset, line, lines, nobody, server};
use selvedge_tests::process::gateway;
use selvedge_tests::{Bell, PATIENCE, Selvedge, TestCa, Upstream, sidecar};

/// One listener, `db`, and this service behind it.
fn proxy(listener: &str, route: &str, service: &str, more: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: db, bind: 127.0.0.1, port: 0, protocol: TCP, {listener} }}]
tcpRoutes: [{{ listeners: [db], backendRefs: [{{ service: postgres }}], {route} }}]
services: {{ postgres: {{ {service} }} }}
{LOG}
{more}"
    ))
}

#[test]
fn each_direction_ends_by_itself_and_one_line_tells_of_both() {
    let to = server(|mut stream| {
        let _ = stream.write_all(b"220 welcome\r\n");
        echo(stream);
    });
    let proxy = proxy("", "", &format!("endpoints: [\"{to}\"]"), "");
    // The server speaks first, and nobody waits for the client.
    let mut client = connect(&proxy, "db");
    expect(&mut client, b"220 welcome\r\n");
    client.write_all(b"GET / HTTP/9\r\n").unwrap();
    expect(&mut client, b"GET / HTTP/9\r\n");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "<end>");
    let (peer, upstream) = (client.local_addr().unwrap(), format!("upstream={to}"));
    let whose = format!(" db {peer} ");
    let told = [
        "end=-- ",
        "in=14 out=32 ",
        "route=tcp-0 ",
        "service=postgres ",
        "TCP",
    ];
    line(&proxy, &[&told[..], &[&whose, &upstream]].concat());

    // The other way round: the server has said all, and still hears.
    let heard = Bell::default();
    let rings = heard.clone();
    let to = server(move |mut stream| {
        let _ = stream.write_all(b"that is all");
        let _ = stream.shutdown(Shutdown::Write);
        let mut all = String::new();
        let _ = stream.read_to_string(&mut all);
        if all.len() == 300_000 {
            rings.ring();
        }
    });
    let proxy = self::proxy("", "", &format!("endpoints: [\"{to}\"]"), "");
    let mut client = connect(&proxy, "db");
    assert_eq!(rest(&mut client), "that is all");
    client.write_all(&vec![b'x'; 300_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    heard.wait();
    line(&proxy, &["end=-- ", "in=300000 out=11 "]);
    let labels = ["route=\"tcp-0\"", "service=\"postgres\""];
    proxy.wait_for_metric("selvedge_requests_total", &labels, 1.0);
}

#[test]
fn large_streams_arrive_whole_both_ways_at_once() {
    let to = server(|stream| {
        let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
        let _ = std::io::copy(&mut from, &mut to);
    });
    let proxy = proxy("", "", &format!("endpoints: [\"{to}\"]"), "");
    let client = connect(&proxy, "db");
    let (mut writer, mut reader) = (client.try_clone().unwrap(), client);
    let all: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = all.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    reader.read_to_end(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == all);
    line(&proxy, &["end=-- ", "in=20000000 out=20000000 "]);
}

#[test]
fn who_refuses_is_passed_over_and_left_alone() {
    let to = server(echo);
    let (_held, dead) = nobody();
    let service = format!("endpoints: [\"{to}\", \"{dead}\"], balance: roundRobin, slowStart: 0s");
    let proxy = proxy("", "", &service, "");
    for _ in 0..20 {
        let mut client = connect(&proxy, "db");
        client.write_all(b"x").unwrap();
        expect(&mut client, b"x");
    }
    lines(&proxy, &["end=-- ", &format!("upstream={to}")], 20);
    line(&proxy, &["retries=1"]);
    // Five refusals, then it is left out: the others never met it.
    let retried = proxy
        .log()
        .iter()
        .filter(|l| l.contains("retries=1"))
        .count();
    assert!((5..=7).contains(&retried), "{retried}");
}

#[test]
fn without_an_endpoint_the_connection_is_reset() {
    let (_held, dead) = nobody();
    let proxy = proxy(
        "",
        "retry: { attempts: 0 }",
        &format!("endpoints: [\"{dead}\"]"),
        "",
    );
    assert!(is_reset(&mut connect(&proxy, "db")));
    line(
        &proxy,
        &[
            "end=UF ",
            "service=postgres ",
            &format!("upstream={dead}"),
            "retries=0",
        ],
    );

    let to = server(echo);
    let service = format!("endpoints: [\"{to}\"], limits: {{ requests: 1 }}");
    let proxy = self::proxy("", "", &service, "");
    let mut first = connect(&proxy, "db");
    first.write_all(b"x").unwrap();
    expect(&mut first, b"x");
    assert!(is_reset(&mut connect(&proxy, "db")));
    line(&proxy, &["end=BR ", "service=postgres "]);
    drop(first);
    line(&proxy, &["end=-- ", "in=1 out="]);
    let mut third = connect(&proxy, "db");
    third.write_all(b"y").unwrap();
    expect(&mut third, b"y");
}

#[test]
fn a_circuit_that_is_open_takes_no_connection() {
    let (_held, dead) = nobody();
    let service = format!(
        "endpoints: [\"{dead}\"], breaker: {{ errorRate: 50, minRequests: 3, open: 60s }}, ejection: {{ consecutive: 0 }}"
    );
    let proxy = proxy("", "retry: { attempts: 0 }", &service, "");
    for _ in 0..4 {
        assert!(is_reset(&mut connect(&proxy, "db")));
    }
    lines(&proxy, &["end=UF "], 3);
    line(&proxy, &["end=BO "]);
}

#[test]
fn shares_and_sources_are_kept() {
    let named = |name: &'static [u8]| {
        server(move |mut stream| {
            let _ = stream.write_all(name);
        })
    };
    let (a, b) = (named(b"a"), named(b"b"));
    let proxy = gateway(&format!(
        "listeners:
  - {{ name: db, bind: 127.0.0.1, port: 0, protocol: TCP }}
  - {{ name: hashed, bind: 127.0.0.1, port: 0, protocol: TCP }}
tcpRoutes:
  - {{ name: split, listeners: [db], backendRefs: [{{ service: a, weight: 3 }}, {{ service: b, weight: 1 }}] }}
  - {{ listeners: [hashed], backendRefs: [{{ service: both }}] }}
services:
  a: {{ endpoints: [\"{a}\"] }}
  b: {{ endpoints: [\"{b}\"] }}
  both: {{ endpoints: [\"{a}\", \"{b}\"], sticky: source }}
{LOG}"
    ));
    let said = |listener| rest(&mut connect(&proxy, listener));
    let of_a = (0..200).filter(|_| said("db") == "a").count();
    assert!((120..=178).contains(&of_a), "{of_a} of 200");
    lines(&proxy, &["route=split ", "service=b "], 200 - of_a);
    let first = said("hashed");
    assert!((0..20).all(|_| said("hashed") == first));
}

#[test]
fn silence_ends_a_connection_and_is_told() {
    let to = server(echo);
    let proxy = proxy(
        "",
        "idleTimeout: 100ms",
        &format!("endpoints: [\"{to}\"]"),
        "",
    );
    let mut client = connect(&proxy, "db");
    client.write_all(b"x").unwrap();
    expect(&mut client, b"x");
    assert!(!is_reset(&mut client));
    line(&proxy, &["end=LI ", "in=1 out=1 "]);
}

#[test]
fn a_drain_leaves_connections_their_time_and_then_ends_them_politely() {
    let to = server(echo);
    let service = format!("endpoints: [\"{to}\"]");
    let mut proxy = proxy("", "", &service, "drain: { timeout: 700ms }");
    let mut client = connect(&proxy, "db");
    client.write_all(b"before").unwrap();
    expect(&mut client, b"before");
    let address = proxy.address("db");
    proxy.signal("TERM");
    // Nothing new comes in, and what is there goes on.
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline);
    }
    client.write_all(b"during").unwrap();
    expect(&mut client, b"during");
    assert!(!is_reset(&mut client));
    assert!(proxy.wait().success());
    line(&proxy, &["end=LD ", "in=12 out=12 ", "service=postgres "]);
}

#[test]
fn more_connections_than_the_cap_are_closed() {
    let to = server(echo);
    let service = format!("endpoints: [\"{to}\"]");
    let proxy = proxy("", "", &service, "limits: { connections: 1 }");
    let mut first = connect(&proxy, "db");
    first.write_all(b"x").unwrap();
    expect(&mut first, b"x");
    assert_eq!(rest(&mut connect(&proxy, "db")), "");
    proxy.wait_for_metric("selvedge_connections_refused_total", &[], 1.0);
}

#[test]
fn balancers_announce_and_endpoints_are_told() {
    let upstream = Upstream::scripted(|connection| connection.drain());
    let listener = "proxyProtocol: { from: [\"127.0.0.1\"] }";
    let service = format!("endpoints: [\"{}\"], proxyProtocol: v1", upstream.address());
    let proxy = proxy(listener, "", &service, "");
    let mut client = connect(&proxy, "db");
    client
        .write_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\r\nhello")
        .unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "");
    let seen = upstream.seen();
    let whole = "PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\r\nhello";
    assert_eq!(seen[0].text(), whole);
    line(&proxy, &[" 203.0.113.7:5000 ", "in=5 out=0 "]);
    let mut client = connect(&proxy, "db");
    client.write_all(b"no announcement").unwrap();
    let _ = client.read(&mut [0]);
    line(&proxy, &["end=DP "]);
}

#[test]
fn a_service_of_the_mesh_is_reached_by_mutual_tls() {
    const DB: &str = "spiffe://shop.local/ns/shop/sa/db";
    let ca = TestCa::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("bundle.pem"), ca.bundle()).unwrap();
    let identity = |id: &str, name: &str| {
        let (certificate, key) = ca.svid(id).write(dir.path(), name);
        format!(
            "identity: {{ trustDomain: shop.local, bundle: {}/bundle.pem, certificate: {}, key: {} }}",
            dir.path().display(),
            certificate.display(),
            key.display()
        )
    };
    let app = server(echo);
    let sidecar = sidecar(&format!(
        "{}\ninbound: [{{ bind: 127.0.0.1, port: 0, app: \"{app}\", mtls: strict }}]\n{LOG}",
        identity(DB, "db")
    ));
    let edge = "spiffe://shop.local/ns/shop/sa/edge";
    let to = sidecar.address("inbound-0");
    let service = format!("endpoints: [\"{to}\"], mesh: {{ identity: \"{DB}\" }}");
    let proxy = proxy("", "", &service, &identity(edge, "edge"));
    let mut client = connect(&proxy, "db");
    client.write_all(b"hello").unwrap();
    expect(&mut client, b"hello");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "<end>");
    line(
        &sidecar,
        &["end=-- ", "in=5 out=10 ", &format!("peer_id={edge}")],
    );
    line(
        &proxy,
        &["end=-- ", "in=5 out=10 ", &format!("upstream={to}")],
    );
}

#[test]
fn a_reload_keeps_connections_and_takes_the_new_route() {
    let (old, new) = (server(echo), server(|mut s| drop(s.write_all(b"new"))));
    let mut proxy = proxy("", "", &format!("endpoints: [\"{old}\"]"), "");
    let mut client = connect(&proxy, "db");
    client.write_all(b"x").unwrap();
    expect(&mut client, b"x");
    let file = proxy.dir().join("config.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace(&old.to_string(), &new.to_string());
    std::fs::write(&file, text.replace("postgres", "other")).unwrap();
    proxy.signal("HUP");
    proxy.wait_for("configuration reloaded");
    assert_eq!(rest(&mut connect(&proxy, "db")), "new");
    client.write_all(b"y").unwrap();
    expect(&mut client, b"y");
    drop(client);
    line(&proxy, &["service=postgres ", "in=2 out="]);
}
