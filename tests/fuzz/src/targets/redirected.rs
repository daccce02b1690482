//! Redirection: first bytes of what came by it, and the lists that its rules are made of.

use bytes::Bytes;
use selvedge::protocol::detect::{self, First};
use selvedge::protocol::hello;
use selvedge::protocol::http1::parse::HeadEnd;
use selvedge::protocol::http1::request::parse_request;
use selvedge::tls::MESH;
use selvedge_injector::{Family, Plan, Wanted, iptables, nft};

use super::LISTENERS;

/// Longest prefixes that are tried one by one.
const PREFIXES: usize = 300;

/// What has been told once is told the same whatever follows, and what the engine takes for a request
/// with a method of the usual form is no stranger to whoever chooses the engine.
pub(crate) fn first(input: &[u8]) {
    let told = detect::first(input);
    let offered = detect::offers(input, &MESH);
    for end in 0..input.len().min(PREFIXES) {
        let so_far = detect::first(&input[..end]);
        assert!(so_far == First::Unclear || so_far == told, "{end}");
        let so_far = detect::offers(&input[..end], &MESH);
        assert!(so_far.is_none() || so_far == offered, "{end}");
    }
    if let HeadEnd::At(end) = detect::head_end(input) {
        let head = input[..end].strip_prefix(b"\r\n").unwrap_or(&input[..end]);
        let head = Bytes::copy_from_slice(head);
        if let Ok(parsed) = parse_request(head, &LISTENERS[1]) {
            let method = parsed.head.method.as_str();
            let usual = |b: u8| b.is_ascii_uppercase() || matches!(b, b'-' | b'_');
            if method.len() <= 24 && method.bytes().all(usual) {
                assert_eq!(told, First::Http1);
            }
        }
    }
}

/// What has been told of a ClientHello is told the same whatever follows, and a name is one.
pub(crate) fn hello(input: &[u8]) {
    let told = hello::read(input);
    for end in 0..input.len().min(PREFIXES) {
        let so_far = hello::read(&input[..end]);
        assert!(so_far.is_none() || so_far == told, "{end}");
    }
    if let Some(Ok(hello)) = told {
        let name = hello.name.as_deref().unwrap_or("a");
        let usual = |b: u8| b.is_ascii_graphic() && !b.is_ascii_uppercase();
        assert!(name.len() <= 253 && name.bytes().all(usual), "{name}");
        // Whoever is asked what it offers has read it too.
        assert!(detect::offers(input, &MESH).is_some());
    }
}

/// Whatever the lists hold, the rules are lines of the known forms, and nothing else gets in.
pub(crate) fn plan(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut lists = text.split('\n').map(|line| vec![line.to_owned()]);
    let mut list = || {
        lists
            .next()
            .filter(|l| !l[0].is_empty())
            .unwrap_or_default()
    };
    let wanted = Wanted {
        skip_inbound_ports: list(),
        outbound_ports: list(),
        skip_outbound_cidrs: list(),
        outbound_cidrs: list(),
        skip_interfaces: list(),
        outbound_interfaces: list(),
        skip_inbound_from: list(),
        inbound_ports: list(),
        ..Wanted::default()
    };
    let plan = match Plan::new(&wanted) {
        Ok(plan) => plan,
        Err(problems) => {
            assert!(!problems.is_empty());
            return;
        }
    };
    let rules = nft::rules(&plan);
    let known = |c: char| c.is_ascii_alphanumeric() || "\n\t ;:,.{}\"_-*/!=".contains(c);
    assert!(rules.chars().all(known), "{rules}");
    assert_eq!(rules.matches(';').count(), 4, "{rules}");
    assert_eq!(rules.matches("redirect to :15006").count(), 1, "{rules}");
    for (family, other) in [(Family::V4, "::"), (Family::V6, "10.")] {
        let rules = iptables::rules(&plan, family, "");
        for line in rules.lines() {
            let form = ["*nat", ":SELVEDGE_", "-A ", "COMMIT"];
            assert!(form.iter().any(|begin| line.starts_with(begin)), "{line}");
            let ranges = line.split(' ').filter(|word| word.contains('/'));
            for range in ranges {
                assert!(!range.starts_with(other), "{line}");
            }
            if let Some((_, ports)) = line.split_once("--dports ") {
                let ports = ports.split(' ').next().unwrap_or_default();
                assert!(ports.split([',', ':']).count() <= 15, "{line}");
            }
        }
    }
    for family in [Family::V4, Family::V6] {
        assert!(plan.probe(family).is_none_or(|to| plan.takes_outbound(to)));
    }
}

/// Pieces of a ClientHello.
pub(crate) const HELLOS: &[&[u8]] = &[
    b"\x16\x03\x01",
    b"\x16\x03\x03\0\x01",
    b"\x01\0",
    b"\0\0\0\x10\0\x0e\0\0\x0bshop.exampl",
    b"\0\0",
    b"\0\x10",
    b"\0\x0b\0\x09\x08http/1.1",
    b"\x0aacme-tls/1",
    b"\x0a\x0a\0\0",
    b"\0\x2b\0\x03\x02\x03\x04",
    b"\x13\x01",
    b"\x01\0",
];
