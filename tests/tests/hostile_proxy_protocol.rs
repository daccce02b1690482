//! Row SL-05 of the battery: load balancers that say whom they speak for (PROXY protocol), and who claims to be one.

use selvedge_tests::hostile::{Role, held};
use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Selvedge, Upstream};

fn behind(upstream: &Upstream, from: &str, more: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, proxyProtocol: {{ from: [\"{from}\"] }} }}]
{more}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Version 2 for a client of IPv4, with so many bytes of other things behind it.
fn version_2(command: u8, extra: usize) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([0x20 | command, 0x11]);
    let length = u16::try_from(12 + extra).unwrap();
    bytes.extend(length.to_be_bytes());
    bytes.extend([198, 51, 100, 9, 192, 0, 2, 1, 0x13, 0x88, 1, 0xbb]);
    if extra >= 3 {
        let inner = u16::try_from(extra - 3).unwrap();
        bytes.push(0x04);
        bytes.extend(inner.to_be_bytes());
        bytes.extend(vec![0; extra - 3]);
    }
    bytes
}

/// Whom the application is told that a request came from.
fn told(proxy: &Selvedge, upstream: &Upstream, announcement: &[u8]) -> Option<String> {
    let before = upstream.all().len();
    let mut client = Raw::connect(proxy.address("web"));
    client.send([announcement, GET].concat());
    let reply = client.try_reply_to("GET").ok()?;
    if reply.status != 200 {
        return None;
    }
    let all = upstream.all();
    let line = all[before..]
        .lines()
        .find(|l| l.starts_with("X-Forwarded-For: "));
    line.map(|l| l["X-Forwarded-For: ".len()..].trim().to_owned())
}

#[test]
fn a_balancer_s_word_counts_and_is_demanded() {
    let upstream = Upstream::answering("ok");
    let proxy = behind(&upstream, "127.0.0.0/8", "");
    let told = |bytes: &[u8]| told(&proxy, &upstream, bytes);
    assert_eq!(
        told(b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\r\n").as_deref(),
        Some("203.0.113.7")
    );
    assert_eq!(
        told(b"PROXY TCP6 2001:db8::7 2001:db8::1 5000 443\r\n").as_deref(),
        Some("2001:db8::7")
    );
    assert_eq!(told(&version_2(1, 0)).as_deref(), Some("198.51.100.9"));
    assert_eq!(told(&version_2(1, 200)).as_deref(), Some("198.51.100.9"));
    // It speaks for itself: a check of its own.
    assert_eq!(told(&version_2(0, 0)).as_deref(), Some("127.0.0.1"));
    assert_eq!(told(b"PROXY UNKNOWN\r\n").as_deref(), Some("127.0.0.1"));
    for family in [0, 0x31, 0xff] {
        let mut local = version_2(0, 3);
        local[13] = family;
        assert_eq!(told(&local).as_deref(), Some("127.0.0.1"), "{family}");
    }
    let seen = upstream.seen().len();
    for wrong in [
        &b""[..],
        b"PROXY TCP4 203.0.113.7 192.0.2.1 5000\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 +5000 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 00443\r\n",
        b"PROXY TCP4 nobody 192.0.2.1 5000 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8\r\n",
        b"proxy TCP4 203.0.113.7 192.0.2.1 5000 443\r\n",
        b"\r\n\r\n\0\r\nQUIT\r\x21\x11\x00\x0c",
        &version_2(1, 3000),
        &version_2(7, 0),
    ] {
        assert_eq!(told(wrong), None, "{:?}", String::from_utf8_lossy(wrong));
        held("SL-05", Role::Gateway, 1);
    }
    assert_eq!(upstream.seen().len(), seen, "nothing of it was sent on");
}

#[test]
fn an_announcement_in_pieces_takes_nothing_of_what_follows() {
    let upstream = Upstream::answering("ok");
    let proxy = behind(&upstream, "127.0.0.1", "");
    for announcement in [
        b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\r\n".to_vec(),
        version_2(1, 20),
    ] {
        let mut client = Raw::connect(proxy.address("web"));
        for byte in &announcement {
            client.send([*byte]);
        }
        for _ in 0..2 {
            client.send(GET);
            assert_eq!(client.reply().status, 200);
        }
        held("SL-05", Role::Gateway, 1);
    }
}

#[test]
fn nobody_else_is_believed() {
    let upstream = Upstream::answering("ok");
    let proxy = behind(&upstream, "10.0.0.0/8", "");
    let line = b"PROXY TCP4 203.0.113.7 192.0.2.1 5000 443\r\n";
    assert_eq!(told(&proxy, &upstream, line), None);
    assert_eq!(told(&proxy, &upstream, b"").as_deref(), Some("127.0.0.1"));
    held("SL-05", Role::Gateway, 2);
}

#[test]
fn caps_by_address_hold_for_whom_it_speaks_for() {
    let upstream = Upstream::answering("ok");
    let limits = "limits: { connectionsPerAddress: 2, handshake: 500ms }";
    let proxy = behind(&upstream, "127.0.0.1", limits);
    let line = |last: u8| format!("PROXY TCP4 203.0.113.{last} 192.0.2.1 5000 443\r\n");
    let mut open: Vec<Raw> = Vec::new();
    for last in [1, 1, 2, 2, 3] {
        let mut client = Raw::connect(proxy.address("web"));
        client.send([line(last).as_bytes(), GET].concat());
        assert_eq!(client.reply().status, 200);
        open.push(client);
    }
    let mut third = Raw::connect(proxy.address("web"));
    third.send([line(1).as_bytes(), GET].concat());
    assert!(third.try_reply_to("GET").is_err());
    // Who announces nobody is not waited for.
    for part in [&b""[..], b"PROXY TCP4 203", &version_2(1, 20)[..14]] {
        let mut silent = Raw::connect(proxy.address("web"));
        silent.send(part);
        assert!(silent.is_closed());
        held("SL-05", Role::Gateway, 1);
    }
}
