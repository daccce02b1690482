//! Redirection: first bytes of what came by it, and the lists that its rules are made of.

use bytes::Bytes;
use selvedge::protocol::detect::{self, First};
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
