//! Connections end when the trust in their peers does: politely, then by force; others live on.

use std::time::{Duration, Instant};

use selvedge_tests::tls_peer::Outcome;
use selvedge_tests::trusting::{ORDERS, Trusting, WEB, call, caller};
use selvedge_tests::{PATIENCE, Raw, TestCa, TlsPeer, Upstream};

const ENDED: &str = "selvedge_connections_ended_total";
/// In which a connection must be gone.
const MINUTE: Duration = Duration::from_secs(60);

/// The retired root, and the one that stays.
fn roots() -> (TestCa, TestCa, String) {
    let (old, new) = (TestCa::named("old"), TestCa::named("new"));
    let both = format!("{}{}", old.bundle(), new.bundle());
    (old, new, both)
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// TL-14, TL-17: a retired root.
#[test]
fn idle_connections_end_with_the_root_of_their_peer_and_others_do_not() {
    let (old, new, both) = roots();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&new, &both, ("", "", ""), &[], &app);
    let (retired, kept) = (old.svid(WEB), new.svid(WEB));
    let connect = |leaf| TlsPeer::connect(mesh.inbound(), Some(leaf), "http/1.1").unwrap();
    let (mut first, mut second) = (connect(&retired), connect(&kept));
    assert_eq!(first.get(), Outcome::Answered(200));
    assert_eq!(second.get(), Outcome::Answered(200));
    // By HTTP/2, with what the mesh says.
    let web = caller(&retired, &both, ORDERS, mesh.inbound());
    assert_eq!(call(&web), 200);

    mesh.put("bundle.pem", &new.bundle());
    assert!(first.rest(PATIENCE).is_empty());
    mesh.orders.wait_for_metric(ENDED, &["untrusted"], 2.0);
    mesh.orders.wait_for_log("what is trusted has changed");
    wait_until("refused", || call(&web) == 503);
    let refused = TlsPeer::ask(mesh.inbound(), Some(&retired));
    assert_eq!(refused, Outcome::Alert("UnknownCA".into()));
    let reason = ["unknown_issuer"];
    let failures = "selvedge_handshake_failures_total";
    assert!(mesh.orders.metric(failures, &reason) > 0.0);
    // The very connection that was there before.
    assert_eq!(second.get(), Outcome::Answered(200));

    // A bundle that says the same in other words changes nothing for it.
    mesh.put("bundle.pem", &format!("# again\n{}", new.bundle()));
    mesh.orders
        .wait_for_metric("selvedge_trust_changes_total", &[], 2.0);
    assert_eq!(second.get(), Outcome::Answered(200));
    assert!((mesh.orders.metric(ENDED, &["untrusted"]) - 2.0).abs() < 0.1);
}

#[test]
fn connections_to_an_endpoint_end_with_the_root_of_the_endpoint() {
    let (old, new, both) = roots();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&old, &both, ("", "", ""), &[], &app);
    let web = caller(&new.svid(WEB), &both, ORDERS, mesh.inbound());
    assert_eq!(call(&web), 200);
    assert_eq!(call(&web), 200);
    let opened = "selvedge_upstream_connections_total";
    assert!((web.metric(opened, &[]) - 1.0).abs() < 0.1);
    let bundle = web.dir().join("bundle.pem");
    std::fs::write(&bundle, new.bundle()).unwrap();
    web.wait_for_metric(ENDED, &["untrusted"], 1.0);
    // The pooled connection is closed, and no other is made.
    mesh.orders
        .wait_for_metric("selvedge_connections_closed_total", &[], 1.0);
    assert_eq!(call(&web), 503);
    // Trusted again, it is called again.
    std::fs::write(&bundle, &both).unwrap();
    wait_until("called again", || call(&web) == 200);
}

#[test]
fn a_request_in_flight_is_answered_and_then_the_connection_ends() {
    let (old, new, both) = roots();
    let (go, wait) = std::sync::mpsc::sync_channel::<()>(2);
    let wait = std::sync::Mutex::new(wait);
    let app = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            let _ = wait.lock().unwrap().recv_timeout(PATIENCE);
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let mesh = Trusting::start(&new, &both, ("", "", ""), &[], &app);
    let retired = old.svid(WEB);
    let mut http1 = TlsPeer::connect(mesh.inbound(), Some(&retired), "http/1.1").unwrap();
    http1.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    // And by HTTP/2 of the mesh: the stream is served, though its connection is told to go.
    let web = caller(&retired, &both, ORDERS, mesh.inbound());
    let mut http2 = Raw::connect(web.address("outbound"));
    http2.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
    let _ = app.wait_until(|seen| seen.len() == 2);
    mesh.put("bundle.pem", &new.bundle());
    mesh.orders.wait_for_metric(ENDED, &["untrusted"], 2.0);
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(http2.reply().status, 200);
    mesh.orders
        .wait_for_metric("selvedge_connections_closed_total", &[], 2.0);
    let answer = String::from_utf8(http1.rest(PATIENCE)).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
    assert!(answer.ends_with("ok"), "{answer}");
}

/// What never ends by itself is cut off: a request, bytes, a tunnel.
#[test]
fn what_does_not_end_is_cut_off_within_the_minute() {
    let (old, new, both) = roots();
    let app = Upstream::scripted(|connection| {
        let request = connection.request().unwrap_or_default();
        if request.starts_with(b"GET /socket") {
            connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        }
        connection.drain();
    });
    // A connection of bytes begins as a request would: the application does not mind.
    let mesh = Trusting::start(&new, &both, ("", "", "limits: { request: 0s }"), &[], &app);
    let retired = old.svid(WEB);
    let connect = |alpn| TlsPeer::connect(mesh.inbound(), Some(&retired), alpn).unwrap();
    let mut held = connect("http/1.1");
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut tunnel = connect("http/1.1");
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13";
    tunnel
        .send(format!(
            "GET /socket HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n\r\n"
        ))
        .unwrap();
    let mut bytes = connect("selvedge-tcp");
    bytes.send("PUT /bytes HTTP/1.1\r\n\r\n").unwrap();
    let _ = app.wait_until(|seen| seen.len() == 3);

    mesh.put("bundle.pem", &new.bundle());
    mesh.orders.wait_for_metric(ENDED, &["untrusted"], 3.0);
    let begun = Instant::now();
    for peer in [&mut held, &mut tunnel, &mut bytes] {
        let _ = peer.rest(MINUTE);
    }
    let took = begun.elapsed();
    assert!(took < MINUTE, "{took:?}");
    assert!(took > MINUTE / 3, "{took:?}");
}

/// A certificate that has aged is not taken again, but nobody is cut off for it.
#[test]
fn a_certificate_that_ends_ends_no_connection() {
    let (old, new, both) = roots();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&new, &both, ("", "", ""), &[], &app);
    let soon = std::time::SystemTime::now() + Duration::from_secs(4);
    let id = rcgen::SanType::URI(WEB.try_into().unwrap());
    let leaf = new.leaf_with(vec![id], |params| {
        params.not_after = soon.into();
    });
    let mut peer = TlsPeer::connect(mesh.inbound(), Some(&leaf), "http/1.1").unwrap();
    assert_eq!(peer.get(), Outcome::Answered(200));
    let expired = Outcome::Alert("CertificateExpired".into());
    wait_until("expired", || {
        TlsPeer::ask(mesh.inbound(), Some(&leaf)) == expired
    });
    // What is trusted changes, but not for this one.
    drop(old);
    mesh.put("bundle.pem", &new.bundle());
    mesh.orders
        .wait_for_metric("selvedge_trust_changes_total", &[], 1.0);
    assert_eq!(peer.get(), Outcome::Answered(200));
}

/// Plain connections know nothing of it.
#[test]
fn plaintext_of_a_permissive_port_lives_on() {
    let (_, new, both) = roots();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&new, &both, ("", ", mtls: permissive", ""), &[], &app);
    let mut plain = Raw::connect(mesh.inbound());
    assert_eq!(plain.get("/").status, 200);
    mesh.put("bundle.pem", &new.bundle());
    mesh.orders
        .wait_for_metric("selvedge_trust_changes_total", &[], 1.0);
    assert_eq!(plain.get("/").status, 200);
}
