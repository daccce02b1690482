//! A sidecar whose certificate its peer does not take: what it costs, and what is told.

use selvedge_tests::certs::TestCa;
use selvedge_tests::trusting::{ORDERS, Trusting, WEB, caller};
use selvedge_tests::{Raw, Upstream};

#[test]
fn a_peer_that_refuses_us_is_not_asked_again_and_again() {
    // One request made 1,500 handshakes: TLS 1.3 tells a refusal only after its end, and the next
    // connection was made at once.
    let (ca, other) = (TestCa::new(), TestCa::named("other CA"));
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&ca, &ca.bundle(), ("", "", ""), &[], &app);
    let web = caller(&other.svid(WEB), &ca.bundle(), ORDERS, mesh.inbound());
    let mut client = Raw::connect(web.address("outbound"));
    for _ in 0..20 {
        client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
        let reply = client.reply();
        let status = reply.header("proxy-status").unwrap_or_default().to_owned();
        assert_eq!(reply.status, 503, "{status}");
        assert!(status.contains("tls_protocol_error"), "{status}");
    }
    let failures = "selvedge_handshake_failures_total";
    let handshakes = mesh.orders.metric(failures, &[]);
    assert!(handshakes < 20.0, "{handshakes} handshakes");
    assert!(app.seen().is_empty());
}
