//! TL-04: SPIFFE IDs in certificates by SPIFFE-ID 2.1 to 2.4, each shown to a sidecar. TL-15: what is
//! plain where mutual TLS is strict, and the reverse.

use rcgen::SanType;
use selvedge_tests::tls_peer::Outcome;
use selvedge_tests::trusting::{Trusting, WEB};
use selvedge_tests::{Raw, TestCa, TlsPeer, Upstream};

#[rustfmt::skip]
const GOOD: [&str; 12] = [
    "spiffe://shop.local/a", "spiffe://shop.local/ns/shop/sa/web", "spiffe://shop.local/A", "spiffe://shop.local/0",
    "spiffe://shop.local/a.b", "spiffe://shop.local/a-b", "spiffe://shop.local/a_b", "spiffe://shop.local/...",
    "spiffe://shop.local/.a", "spiffe://shop.local/a./b", "spiffe://shop.local/-", "spiffe://shop.local/a/b/c/d/e/f/g",
];

#[rustfmt::skip]
const BAD: [&str; 44] = [
    // Scheme.
    "SPIFFE://shop.local/a", "Spiffe://shop.local/a", "spiffe:/shop.local/a", "spiffe:shop.local/a", "spiffe//shop.local/a",
    "http://shop.local/a", "//shop.local/a", "shop.local/a", "spiffe:///a", "spiffe://", " spiffe://shop.local/a",
    // Trust domain.
    "spiffe://Shop.local/a", "spiffe://SHOP.LOCAL/a", "spiffe://shop.local:443/a", "spiffe://user@shop.local/a",
    "spiffe://user:word@shop.local/a", "spiffe://shop%2elocal/a", "spiffe://shop local/a", "spiffe://[::1]/a",
    "spiffe://shop!local/a", "spiffe://shop~local/a", "spiffe://shop.local:/a", "spiffe://@shop.local/a",
    // Path.
    "spiffe://shop.local", "spiffe://shop.local/", "spiffe://shop.local/a/", "spiffe://shop.local//a", "spiffe://shop.local/a//b",
    "spiffe://shop.local/.", "spiffe://shop.local/..", "spiffe://shop.local/./a", "spiffe://shop.local/../a",
    "spiffe://shop.local/a/.", "spiffe://shop.local/a/..", "spiffe://shop.local/a/../b", "spiffe://shop.local/%61",
    "spiffe://shop.local/a%2fb", "spiffe://shop.local/a b", "spiffe://shop.local/a~b", "spiffe://shop.local/a:b",
    // Query and fragment.
    "spiffe://shop.local/a?", "spiffe://shop.local/a?b=c", "spiffe://shop.local/a#", "spiffe://shop.local/a#b",
];

#[test]
fn ids_are_what_the_standard_says() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&ca, &ca.bundle(), ("", "", ""), &[], &app);
    let ask = |id: &str| TlsPeer::ask(mesh.inbound(), Some(&ca.svid(id)));
    let longest = format!("spiffe://shop.local/{}", "a".repeat(2048 - 20));
    assert_eq!(longest.len(), 2048);
    for id in GOOD.into_iter().chain([longest.as_str()]) {
        assert_eq!(ask(id), Outcome::Answered(200), "{id}");
        let stamp = format!("URI={id}");
        assert!(app.all().contains(&stamp), "{id}");
    }
    let seen = app.seen().len();
    let too_long = format!("{longest}a");
    let domain = format!("spiffe://{}/a", "d".repeat(256));
    let more = [
        too_long.as_str(),
        &domain,
        "spiffe://shop.local/a\0",
        "spiffe://shop.local/\u{7f}",
        "spiffe://shop.local\\a",
        "",
    ];
    let mut wrong = Vec::new();
    for id in BAD.into_iter().chain(more) {
        let outcome = ask(id);
        if !matches!(outcome, Outcome::Alert(_)) {
            wrong.push(format!("{id:?}: {outcome:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(
        app.seen().len(),
        seen,
        "nothing has reached the application"
    );
}

/// An ID of the same length as a prefix, or with bytes of its own name behind it, is another one.
#[test]
fn other_trust_domains_that_look_alike_are_not_ours() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&ca, &ca.bundle(), ("", "", ""), &[], &app);
    for id in [
        "spiffe://shop.loca/a",
        "spiffe://shop.local2/a",
        "spiffe://shop.local.evil/a",
        "spiffe://evil.shop.local/a",
        "spiffe://shop-local/a",
    ] {
        let outcome = TlsPeer::ask(mesh.inbound(), Some(&ca.svid(id)));
        assert_eq!(outcome, Outcome::Alert("CertificateUnknown".into()), "{id}");
    }
    let reasons = ["trust_domain"];
    mesh.orders
        .wait_for_metric("selvedge_handshake_failures_total", &reasons, 5.0);
    assert!(app.seen().is_empty());
}

/// TL-15.
#[test]
fn strict_ports_serve_no_plaintext_and_permissive_ones_both() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let strict = Trusting::start(&ca, &ca.bundle(), ("", ", mtls: strict", ""), &[], &app);
    for plain in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        "*1\r\n$4\r\nPING\r\n",
        "\0\0\0\x08",
        "\x16\x03\x01\0\0",
    ] {
        let mut client = Raw::connect(strict.inbound());
        client.send(plain);
        client.shutdown_write();
        let said = client.rest();
        // Nothing, or an alert.
        assert!(said.is_empty() || said[0] == 0x15, "{plain:?}: {said:?}");
    }
    assert!(app.seen().is_empty());
    let failures = "selvedge_handshake_failures_total";
    assert!(strict.orders.metric(failures, &["not_tls"]) >= 4.0);
    let open = Trusting::start(&ca, &ca.bundle(), ("", ", mtls: permissive", ""), &[], &app);
    let mut client = Raw::connect(open.inbound());
    assert_eq!(client.get("/").status, 200);
    let known = TlsPeer::ask(open.inbound(), Some(&ca.svid(WEB)));
    assert_eq!(known, Outcome::Answered(200));
    // Whoever begins with TLS is held to it.
    for leaf in [None, Some(TestCa::named("another").svid(WEB))] {
        let outcome = TlsPeer::ask(open.inbound(), leaf.as_ref());
        assert!(matches!(outcome, Outcome::Alert(_)), "{outcome:?}");
    }
    let dns = ca.leaf(vec![SanType::DnsName("a.b".try_into().unwrap())]);
    let outcome = TlsPeer::ask(open.inbound(), Some(&dns));
    assert!(matches!(outcome, Outcome::Alert(_)), "{outcome:?}");
}
