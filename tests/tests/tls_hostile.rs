//! TL-02: greetings and records that no honest client sends: none gets in, and each is told why.

use std::net::SocketAddr;

use selvedge_tests::tls_bytes::{
    ALERT, APPLICATION, CHANGE_CIPHER_SPEC, HANDSHAKE, HEARTBEAT, Hello, answer, extension, long,
    message, record, short,
};
use selvedge_tests::tls_peer::Outcome;
use selvedge_tests::trusting::{Trusting, WEB, edge};
use selvedge_tests::{Selvedge, TestCa, TlsPeer, Upstream};

/// What must become of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// The server greets back.
    Greeted,
    /// It greets back, and ends the connection by what follows.
    Ended,
    /// It ends the connection with this alert (RFC 8446 6.2), and has not greeted.
    Alert(u8),
    /// It ends the connection.
    Closed,
}

// Where RFC 8446 asks for another alert (missing_extension, record_overflow, protocol_version without
// extensions), this is what rustls says instead: refused it is either way.
const UNEXPECTED_MESSAGE: Want = Want::Alert(10);
const HANDSHAKE_FAILURE: Want = Want::Alert(40);
const ILLEGAL_PARAMETER: Want = Want::Alert(47);
const DECODE_ERROR: Want = Want::Alert(50);
const PROTOCOL_VERSION: Want = Want::Alert(70);

type Case = (&'static str, Vec<u8>, Want);

fn hello() -> Hello {
    Hello::default()
}

/// Bytes of a greeting whose message was changed after it was written.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut message = hello().message();
    change(&mut message);
    record(HANDSHAKE, &message)
}

#[rustfmt::skip]
fn greetings() -> Vec<Case> {
    use Want::{Ended, Greeted};
    let with = |number, body: &[u8]| hello().with(number, body).record();
    let without = |number| hello().without(number).record();
    let share = |group: u16, key: &[u8]| long(&[&group.to_be_bytes(), &long(key)[..]].concat());
    let twice = |number| {
        let mut twice = hello();
        let again = twice.extensions.iter().find(|(n, _)| *n == number);
        twice.extensions.push(again.unwrap().clone());
        twice.record()
    };
    let of = |change: fn(&mut Hello)| {
        let mut hello = hello();
        change(&mut hello);
        hello.record()
    };
    let identity = [&long(b"ticket")[..], &[0; 4]].concat();
    let key = [long(&identity), long(&short(&[0; 32]))].concat();
    vec![
        ("a greeting", hello().record(), Greeted),
        ("no session", of(|h| h.session = vec![0]), Greeted),
        ("unknown extension", with(0x4a4a, &[1, 2, 3]), Greeted),
        ("unknown cipher first", of(|h| h.suites.insert(0, 0x3a3a)), Greeted),
        ("no cipher", of(|h| h.suites.clear()), DECODE_ERROR),
        ("only unknown ciphers", of(|h| h.suites = vec![0x3a3a]), HANDSHAKE_FAILURE),
        ("only export ciphers", of(|h| h.suites = vec![3, 6, 8]), HANDSHAKE_FAILURE),
        ("only deflate", of(|h| h.compression = vec![1]), ILLEGAL_PARAMETER),
        ("deflate too", of(|h| h.compression = vec![1, 0]), ILLEGAL_PARAMETER),
        ("no compression list", of(|h| h.compression.clear()), DECODE_ERROR),
        ("session of 33", of(|h| h.session = short(&[7; 33])), DECODE_ERROR),
        ("session past the end", of(|h| h.session = vec![255, 1]), DECODE_ERROR),
        ("bytes after extensions", of(|h| h.more = vec![0]), DECODE_ERROR),
        ("ssl 3.0", of(|h| { h.version = 0x0300; h.extensions.clear(); }), HANDSHAKE_FAILURE),
        ("tls 1.0", of(|h| { h.version = 0x0301; h.extensions.clear(); }), HANDSHAKE_FAILURE),
        ("tls 1.1 named", with(extension::VERSIONS, &short(&[3, 2])), PROTOCOL_VERSION),
        ("a draft named", with(extension::VERSIONS, &short(&[0x7f, 28])), PROTOCOL_VERSION),
        ("no version named", with(extension::VERSIONS, &[0]), DECODE_ERROR),
        ("half a version", with(extension::VERSIONS, &[1, 3]), DECODE_ERROR),
        ("no groups", without(extension::GROUPS), HANDSHAKE_FAILURE),
        ("no signatures", without(extension::SIGNATURES), HANDSHAKE_FAILURE),
        ("no shares", without(extension::KEY_SHARE), HANDSHAKE_FAILURE),
        ("groups empty", with(extension::GROUPS, &[0, 0]), DECODE_ERROR),
        ("groups odd", with(extension::GROUPS, &[0, 1, 29]), DECODE_ERROR),
        ("signatures empty", with(extension::SIGNATURES, &[0, 0]), DECODE_ERROR),
        ("only sha1", with(extension::SIGNATURES, &long(&[2, 3, 2, 1])), Ended),
        ("only unknown groups", with(extension::GROUPS, &long(&[0x1a, 0x1a])), HANDSHAKE_FAILURE),
        ("share of no length", with(extension::KEY_SHARE, &share(29, &[])), DECODE_ERROR),
        ("share of 31", with(extension::KEY_SHARE, &share(29, &[9; 31])), ILLEGAL_PARAMETER),
        ("share of zeros", with(extension::KEY_SHARE, &share(29, &[0; 32])), ILLEGAL_PARAMETER),
        ("point off the curve", hello().with(extension::GROUPS, long(&[0, 23])).with(extension::KEY_SHARE, share(23, &[4; 65])).record(), ILLEGAL_PARAMETER),
        ("shares past the end", with(extension::KEY_SHARE, &[0, 99, 0, 29]), DECODE_ERROR),
        ("versions twice", twice(extension::VERSIONS), ILLEGAL_PARAMETER),
        ("shares twice", twice(extension::KEY_SHARE), ILLEGAL_PARAMETER),
        ("names twice", twice(extension::SERVER_NAME), ILLEGAL_PARAMETER),
        ("unknown twice", of(|h| h.extensions.extend([(0x4a4a, vec![]), (0x4a4a, vec![])])), ILLEGAL_PARAMETER),
        ("name empty", with(extension::SERVER_NAME, &[]), DECODE_ERROR),
        ("name past the end", with(extension::SERVER_NAME, &[0, 9, 0, 0, 9, 65]), DECODE_ERROR),
        ("name with a NUL", with(extension::SERVER_NAME, &long(&[&[0][..], &long(b"a\0b")].concat())), ILLEGAL_PARAMETER),
        ("alpn empty", with(extension::ALPN, &[0, 0]), DECODE_ERROR),
        ("alpn with no name", with(extension::ALPN, &[0, 1, 0]), DECODE_ERROR),
        ("alpn of others", with(extension::ALPN, &long(&short(b"spdy/3"))), Ended),
        ("early data without a key", with(extension::EARLY_DATA, &[]), Greeted),
        ("a key that is not last", hello().with(extension::PSK_MODES, [1, 1]).with(extension::PRE_SHARED_KEY, key).with(0x4a4a, []).record(), ILLEGAL_PARAMETER),
        ("a key and no binder", hello().with(extension::PSK_MODES, [1, 1]).with(extension::PRE_SHARED_KEY, [0, 6, 0, 0, 0, 0, 0, 0, 0, 0]).record(), DECODE_ERROR),
    ]
}

#[rustfmt::skip]
fn messages() -> Vec<Case> {
    use Want::{Closed, Ended, Greeted};
    let first = |kind: u8| record(HANDSHAKE, &message(kind, &[0; 8]));
    let then = |more: Vec<u8>| [hello().record(), more].concat();
    let bytes = hello().message();
    let split: Vec<u8> = bytes
        .chunks(100)
        .flat_map(|part| record(HANDSHAKE, part))
        .collect();
    let crumbs: Vec<u8> = bytes
        .chunks(1)
        .flat_map(|part| record(HANDSHAKE, part))
        .collect();
    vec![
        ("in parts", split, Greeted),
        ("in crumbs", crumbs, Greeted),
        ("a record of 3.0", changed(|_| {}).iter().enumerate().map(|(i, b)| if i == 2 { 0 } else { *b }).collect(), Greeted),
        ("a record of 2.0", changed(|_| {}).iter().enumerate().map(|(i, b)| if i == 1 { 2 } else { *b }).collect(), DECODE_ERROR),
        ("a hello request", first(0), UNEXPECTED_MESSAGE),
        ("a server's greeting", first(2), DECODE_ERROR),
        ("a certificate first", first(11), DECODE_ERROR),
        ("finished first", first(20), UNEXPECTED_MESSAGE),
        ("key update first", first(24), DECODE_ERROR),
        ("an unknown message", first(99), UNEXPECTED_MESSAGE),
        ("an empty message", record(HANDSHAKE, &[]), DECODE_ERROR),
        ("cipher change first", record(CHANGE_CIPHER_SPEC, &[1]), UNEXPECTED_MESSAGE),
        ("bytes of an application first", record(APPLICATION, b"GET / HTTP/1.1\r\n\r\n"), UNEXPECTED_MESSAGE),
        ("an alert first", record(ALERT, &[2, 40]), Closed),
        ("a heartbeat first", record(HEARTBEAT, &[1, 0x40, 0]), DECODE_ERROR),
        ("an unknown record first", record(99, &[1]), DECODE_ERROR),
        ("ssl 2.0", [&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10][..], &[7; 37]].concat(), DECODE_ERROR),
        ("a record too long", [&[HANDSHAKE, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat(), DECODE_ERROR),
        ("a message too long", record(HANDSHAKE, &[1, 0xff, 0xff, 0xff, 3, 3]), Closed),
        ("a message a byte short", changed(|m| m[3] -= 1), DECODE_ERROR),
        ("two greetings", then(hello().record()), Ended),
        ("two greetings in one record", record(HANDSHAKE, &[bytes.clone(), bytes].concat()), UNEXPECTED_MESSAGE),
        ("cipher change after", then(record(CHANGE_CIPHER_SPEC, &[1])), Greeted),
        ("cipher change of two", then(record(CHANGE_CIPHER_SPEC, &[2])), Ended),
        ("cipher changes, many", then(record(CHANGE_CIPHER_SPEC, &[1]).repeat(40)), Ended),
        ("a heartbeat after", then(record(HEARTBEAT, &[1, 0x40, 0])), Ended),
        ("plain bytes after", then(record(APPLICATION, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")), Ended),
        ("plain finished after", then(record(HANDSHAKE, &message(20, &[0; 32]))), Ended),
        ("plain certificate after", then(record(HANDSHAKE, &message(11, &[0; 4]))), Ended),
        ("a plain alert after", then(record(ALERT, &[2, 40])), Ended),
        ("warnings after", then(record(ALERT, &[1, 0]).repeat(40)), Ended),
    ]
}

/// Every case at one port, whose upstream hears nothing of them.
fn all(proxy: &Selvedge, address: SocketAddr, app: &Upstream) {
    let cases = [greetings(), messages()].concat();
    assert!(cases.len() >= 60, "as many as the battery names");
    let mut wrong = Vec::new();
    for (id, bytes, want) in cases {
        let answer = answer(address, &bytes, want == Want::Greeted);
        let found = match (answer.greeted, answer.alert) {
            (true, _) if want == Want::Greeted => want,
            (true, _) => Want::Ended,
            (false, Some(alert)) => Want::Alert(alert),
            (false, None) => Want::Closed,
        };
        if found != want || !answer.plain.is_empty() {
            wrong.push(format!("{id}: {want:?}, but {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(app.seen().is_empty(), "{:?}", app.all());
    // What was ended was ended for what it was, not when its time was up.
    let failures = "selvedge_handshake_failures_total";
    let late = proxy.metric(failures, &["timeout"]);
    assert!(late < 0.5, "{late} were left to wait");
    assert!(proxy.metric(failures, &["other"]) > 40.0);
}

#[test]
fn no_greeting_of_another_kind_is_taken_by_the_mesh() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&ca, &ca.bundle(), ("", "", ""), &[], &app);
    all(&mesh.orders, mesh.inbound(), &app);
    let web = ca.svid(WEB);
    let after = TlsPeer::ask(mesh.inbound(), Some(&web));
    assert_eq!(after, Outcome::Answered(200));
}

#[test]
fn no_greeting_of_another_kind_is_taken_at_the_edge() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let proxy = edge(&ca, &app);
    all(&proxy, proxy.address("web"), &app);
    let after = TlsPeer::ask(proxy.address("web"), None);
    assert_eq!(after, Outcome::Answered(200));
}
