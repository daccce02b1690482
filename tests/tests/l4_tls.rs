//! `protocol: TLS`: connections told apart by the name in their first message, passed through or ended here.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use selvedge_tests::bytes::rest;
use selvedge_tests::l4::{LOG, connect as plain, line, server};
use selvedge_tests::l4_tls::{alert, certificates, connect, hears, opening};
use selvedge_tests::process::gateway;
use selvedge_tests::{Selvedge, TestCa, Upstream};
use tempfile::TempDir;

/// Sends back what comes.
fn mirror(stream: TcpStream) {
    let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// Ends TLS for these names, by the product itself, in front of somebody who sends back what comes.
fn ending(ca: &TestCa, dir: &TempDir, names: &[&str], more: &str) -> Selvedge {
    let to = server(mirror);
    gateway(&format!(
        "listeners: [{{ name: end, bind: 127.0.0.1, port: 0, protocol: TLS, tls: {{ {} }} }}]
tlsRoutes: [{{ listeners: [end], hostnames: {names:?}, backendRefs: [{{ service: app }}] }}]
services: {{ app: {{ endpoints: [\"{to}\"] }} }}
{LOG}
{more}",
        certificates(ca, dir.path(), names)
    ))
}

/// Lets TLS through to these, by name.
fn passing(routes: &[(&str, &str, SocketAddr)], more: &str) -> Selvedge {
    let (mut listed, mut services) = (String::new(), String::new());
    for (service, hostnames, to) in routes {
        listed += &format!(
            "  - {{ listeners: [tls], backendRefs: [{{ service: {service} }}], {hostnames} }}\n"
        );
        services += &format!("  {service}: {{ endpoints: [\"{to}\"] }}\n");
    }
    gateway(&format!(
        "listeners:
  - {{ name: tls, bind: 127.0.0.1, port: 0, protocol: TLS, tls: {{ mode: Passthrough }} }}
tlsRoutes:
{listed}services:
{services}{LOG}
{more}"
    ))
}

#[test]
fn names_are_told_apart_and_nothing_is_changed() {
    let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
    let exact = ending(&ca, &dir, &["b.a.example"], "");
    let suffix = ending(&ca, &dir, &["*.a.example"], "");
    let to = |end: &Selvedge| end.address("end");
    let proxy = passing(
        &[
            ("exact", "hostnames: [B.a.example]", to(&exact)),
            ("suffix", "hostnames: [\"*.a.example\"]", to(&suffix)),
        ],
        "",
    );
    for (name, service, end) in [
        ("b.a.example", "exact", &exact),
        ("c.a.example", "suffix", &suffix),
    ] {
        let mut session = connect(proxy.address("tls"), &ca, name).unwrap();
        assert_eq!(session.conn.alpn_protocol(), None);
        hears(&mut session, b"hello");
        session.conn.send_close_notify();
        session.flush().unwrap();
        session.sock.shutdown(Shutdown::Write).unwrap();
        let mut left = Vec::new();
        session.read_to_end(&mut left).unwrap();
        assert!(left.is_empty());
        line(
            &proxy,
            &["end=-- ", name, "TLS", &format!("service={service} ")],
        );
        line(end, &["end=-- ", name, "in=5 out=5 ", "service=app "]);
    }
}

#[test]
fn unknown_names_get_an_alert_and_a_line() {
    let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
    let end = ending(&ca, &dir, &["a.example"], "");
    let proxy = passing(&[("a", "hostnames: [a.example]", end.address("end"))], "");
    for (proxy, listener) in [(&proxy, "tls"), (&end, "end")] {
        let refused = connect(proxy.address(listener), &ca, "b.example").unwrap_err();
        assert_eq!(alert(&refused), "UnrecognisedName");
        line(proxy, &["end=NR ", "b.example", "no route has this name"]);
        let refused = connect(proxy.address(listener), &ca, "127.0.0.1").unwrap_err();
        assert_eq!(alert(&refused), "MissingExtension");
        line(proxy, &["end=NR ", "the client asks for no name"]);
        hears(
            &mut connect(proxy.address(listener), &ca, "a.example").unwrap(),
            b"x",
        );
    }
}

#[test]
fn a_route_without_names_takes_all_that_is_left() {
    let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
    let end = ending(&ca, &dir, &["a.example"], "");
    let rest_of_all = Upstream::scripted(|connection| connection.drain());
    let proxy = passing(
        &[
            ("a", "hostnames: [a.example]", end.address("end")),
            ("other", "", rest_of_all.address()),
        ],
        "",
    );
    hears(
        &mut connect(proxy.address("tls"), &ca, "a.example").unwrap(),
        b"x",
    );
    for name in ["b.example", "127.0.0.1"] {
        let mut hello = Vec::new();
        opening(&ca, name, &[]).write_tls(&mut hello).unwrap();
        let mut client = plain(&proxy, "tls");
        client.write_all(&hello).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut client), "");
        let seen = rest_of_all.wait_until(|seen| seen.iter().any(|s| s.bytes == hello));
        assert!(!seen.is_empty());
    }
}

#[test]
fn a_first_message_in_pieces_is_read_whole_and_handed_on_untouched() {
    let ca = TestCa::new();
    let behind = Upstream::scripted(|connection| connection.drain());
    let proxy = passing(&[("a", "hostnames: [a.example]", behind.address())], "");
    let mut hello = Vec::new();
    opening(&ca, "a.example", &["h2"])
        .write_tls(&mut hello)
        .unwrap();
    // As many records as bytes, and one write for each of the first.
    let records = hello[5..].iter().map(|byte| [22, 3, 1, 0, 1, *byte]);
    let records: Vec<u8> = records.flatten().collect();
    for (bytes, single) in [(&hello, hello.len()), (&records, 200)] {
        let mut client = plain(&proxy, "tls");
        client.set_nodelay(true).unwrap();
        for byte in &bytes[..single] {
            client.write_all(&[*byte]).unwrap();
        }
        client.write_all(&bytes[single..]).unwrap();
        client.write_all(b"and more").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut client), "");
        let whole = [&bytes[..], b"and more"].concat();
        behind.wait_until(|seen| seen.iter().any(|s| s.bytes == whole));
    }
}

#[test]
fn what_is_no_tls_or_never_whole_is_closed_and_told() {
    let behind = Upstream::scripted(|connection| connection.drain());
    let proxy = passing(
        &[("a", "", behind.address())],
        "limits: { handshake: 300ms }",
    );
    let malformed = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00";
    let long = [&b"\x16\x03\x01\x40\x00\x01\x00\x50\x00"[..], &[0; 1000]].concat();
    for (bytes, told, alerts) in [
        (
            &b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"[..],
            "does not begin like TLS",
            false,
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not begin like TLS", false),
        (malformed, "is not well formed", true),
        (&long, "longer than 16 KiB", false),
    ] {
        let mut client = plain(&proxy, "tls");
        client.write_all(bytes).unwrap();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(
            (got.len(), got.first()),
            if alerts { (7, Some(&21)) } else { (0, None) }
        );
        line(&proxy, &["end=DP ", told]);
    }
    // Begun and never ended; begun and cut off; nothing at all.
    let mut client = plain(&proxy, "tls");
    client.write_all(&long[..8]).unwrap();
    assert_eq!(rest(&mut client), "");
    line(&proxy, &["end=Dt "]);
    let mut client = plain(&proxy, "tls");
    client.write_all(&long[..8]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "");
    line(&proxy, &["end=DP ", "cut off"]);
    drop(plain(&proxy, "tls"));
    line(&proxy, &["end=DC "]);
    assert!(behind.seen().is_empty());
}

#[test]
fn endpoints_behind_tls_are_verified_by_name() {
    let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
    let end = ending(&ca, &dir, &["a.example"], "");
    std::fs::write(dir.path().join("ca.pem"), ca.bundle()).unwrap();
    let (to, ca_file) = (end.address("end"), dir.path().join("ca.pem"));
    let service = |name: &str| {
        format!(
            "{{ endpoints: [\"{to}\"], tls: {{ serverName: {name}, ca: {} }} }}",
            ca_file.display()
        )
    };
    let proxy = gateway(&format!(
        "listeners:
  - {{ name: right, bind: 127.0.0.1, port: 0, protocol: TCP }}
  - {{ name: wrong, bind: 127.0.0.1, port: 0, protocol: TCP }}
tcpRoutes:
  - {{ listeners: [right], backendRefs: [{{ service: right }}] }}
  - {{ listeners: [wrong], backendRefs: [{{ service: wrong }}] }}
services: {{ right: {}, wrong: {} }}
{LOG}",
        service("a.example"),
        service("b.example")
    ));
    let mut client = plain(&proxy, "right");
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "hello");
    line(&proxy, &["end=-- ", "service=right ", "in=5 out=5 "]);
    let mut client = plain(&proxy, "wrong");
    let _ = client.write_all(b"hello");
    let _ = client.read(&mut [0]);
    line(&proxy, &["service=wrong ", "end=US "]);
}

#[test]
fn a_certificate_that_is_renewed_is_shown_after_a_reload() {
    let (ca, dir) = (TestCa::new(), tempfile::tempdir().unwrap());
    let mut end = ending(&ca, &dir, &["a.example"], "");
    let other = TestCa::new();
    assert!(connect(end.address("end"), &other, "a.example").is_err());
    let _renewed = certificates(&other, dir.path(), &["a.example"]);
    end.signal("HUP");
    end.wait_for("configuration reloaded");
    hears(
        &mut connect(end.address("end"), &other, "a.example").unwrap(),
        b"x",
    );
}
