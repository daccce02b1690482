//! Request heads that must be refused, and what the others come to.

use bytes::Bytes;
use selvedge_contract::defaults::{Limits, Role};

use super::*;
use crate::accept::ListenerSecurity;
use crate::message::target::EncodedSlash;
use crate::route::Table;

fn listener() -> ListenerPlan {
    ListenerPlan {
        name: "web".into(),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
        role: crate::accept::ListenerRole::Gateway,
        encoded_slash: EncodedSlash::Refuse,
        security: ListenerSecurity::Plain,
        table: Table::default(),
        limits: Limits::of(Role::Gateway),
        trusted_hops: 0,
        balancers: None,
        guards: Vec::new(),
        treatment: crate::policy::treatment::Treatment::default(),
        opaque: None,
        onward: None,
        streams: None,
        named: Default::default(),
    }
}

fn read(head: &str) -> Result<Parsed, ErrorKind> {
    parse_request(Bytes::copy_from_slice(head.as_bytes()), &listener())
}

#[test]
fn forms_of_the_target() {
    for (head, host, target) in [
        ("GET /a?b HTTP/1.1\r\nHost: X:80\r\n\r\n", "x:80", "/a?b"),
        ("GET http://Y/a HTTP/1.1\r\nHost: x\r\n\r\n", "y", "/a"),
        (
            "GET HTTP://y:8080?q HTTP/1.1\r\nHost: x\r\n\r\n",
            "y:8080",
            "/?q",
        ),
        ("GET https://y HTTP/1.1\r\nHost: x\r\n\r\n", "y", "/"),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "x", "*"),
        ("GET / HTTP/1.0\r\n\r\n", "", "/"),
    ] {
        let parsed = read(head).unwrap_or_else(|e| panic!("{head}: {e:?}"));
        assert_eq!(parsed.head.host.as_str(), host);
        assert_eq!(&parsed.head.target.text()[..], target.as_bytes());
        assert!(parsed.head.fields.known(Known::Host).is_none());
    }
}

#[test]
fn refused_heads() {
    use ErrorKind as E;
    for (head, kind) in [
        ("GET / HTTP/1.1\r\n\r\n", E::BadHost),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", E::BadHost),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", E::BadHost),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", E::BadHost),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", E::BadHost),
        ("GET http://u@y/ HTTP/1.1\r\nHost: x\r\n\r\n", E::BadHost),
        ("GET ftp://y/ HTTP/1.1\r\nHost: x\r\n\r\n", E::BadTarget),
        ("GET a HTTP/1.1\r\nHost: x\r\n\r\n", E::BadTarget),
        ("GET * HTTP/1.1\r\nHost: x\r\n\r\n", E::BadTarget),
        (
            "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            E::MethodNotAllowed,
        ),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", E::MethodNotAllowed),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n",
            E::ExpectationFailed,
        ),
        ("PRI * HTTP/2.0\r\n\r\n", E::UnsupportedVersion),
        ("\r\n", E::BadRequest),
    ] {
        assert_eq!(read(head).err(), Some(kind), "{head:?}");
    }
}

#[test]
fn upgrades_and_what_they_are_not() {
    let ask = |lines: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        read(&head).map(|p| p.head.upgrade.is_some())
    };
    assert_eq!(
        ask("Connection: Upgrade\r\nUpgrade: websocket\r\n").ok(),
        Some(true)
    );
    assert_eq!(
        ask("Upgrade: websocket\r\n").ok(),
        Some(false),
        "not nominated"
    );
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n";
    assert_eq!(ask(h2c).ok(), Some(false));
    let body = "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n";
    assert_eq!(ask(body).ok(), Some(false), "with a body");
}

#[test]
fn what_belongs_to_the_connection_is_gone() {
    let parsed = read(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\nConnection: close, x-own\r\nX-Own: 1\r\nTE: trailers\r\nKeep-Alive: 1\r\nX-Kept: 2\r\n\r\n",
    )
    .unwrap();
    assert_eq!(parsed.length, BodyLength::Exact(3));
    assert!(!parsed.persists && parsed.wants_trailers);
    let names: Vec<_> = parsed.head.fields.iter().map(|f| f.name.to_vec()).collect();
    assert_eq!(names, [b"X-Kept".to_vec()]);
}
