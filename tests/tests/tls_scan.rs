//! TL-01, TL-02: what a scan by openssl finds: versions, ciphers, tickets, renegotiation, compression.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use selvedge_tests::trusting::{Trusting, WEB, edge};
use selvedge_tests::{Selvedge, TestCa, Upstream};

/// What `openssl s_client` says of one request.
fn scan(address: SocketAddr, arguments: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-ign_eof"])
        .args(["-alpn", "http/1.1", "-servername", "shop.example"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
    let mut stdin = child.stdin.take().unwrap();
    let _ = stdin.write_all(request);
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Everything old that openssl can still offer.
const OLD: [&[&str]; 3] = [
    &["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
    &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
    &["-ssl3"],
];

#[test]
fn the_mesh_speaks_tls_1_3_and_gives_no_tickets() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&ca, &ca.bundle(), ("", "", ""), &[], &app);
    let (certificate, key) = ca.svid(WEB).write(mesh.orders.dir(), "web");
    let own = [
        "-cert",
        certificate.to_str().unwrap(),
        "-key",
        key.to_str().unwrap(),
    ];
    let with = |more: &[&str]| scan(mesh.inbound(), &[&own, more].concat());
    let session = mesh.path("session");
    let said = with(&["-tls1_3", "-sess_out", session.to_str().unwrap()]);
    assert!(said.contains("HTTP/1.1 200"), "{said}");
    assert!(said.contains("TLSv1.3"), "{said}");
    assert!(
        !said.contains("Post-Handshake New Session Ticket"),
        "{said}"
    );
    assert!(!session.exists(), "nothing to take up again");
    let seen = app.seen().len();
    let refused = OLD.into_iter().chain([
        &["-tls1_2"][..],
        &["-tls1_2", "-cipher", "ALL:@SECLEVEL=0"],
        &["-no_tls1_3"],
    ]);
    for offer in refused {
        let said = with(offer);
        assert!(!said.contains("HTTP/1.1 200"), "{offer:?}: {said}");
    }
    assert_eq!(app.seen().len(), seen);
    let failures = "selvedge_handshake_failures_total";
    mesh.orders
        .wait_for_metric(failures, &["incompatible"], 5.0);
}

fn at_the_edge() -> (Selvedge, Upstream) {
    let app = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    (edge(&TestCa::new(), &app), app)
}

#[test]
fn the_edge_speaks_1_2_with_aead_and_1_3() {
    let (proxy, _app) = at_the_edge();
    let web = proxy.address("web");
    for offer in [
        &["-tls1_3"][..],
        &["-tls1_2"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
    ] {
        let said = scan(web, offer);
        assert!(said.contains("HTTP/1.1 200"), "{offer:?}: {said}");
        assert!(said.contains("Compression: NONE"), "{said}");
    }
    let weak: [&[&str]; 5] = [
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA"],
        &["-tls1_2", "-cipher", "DHE:kRSA:aNULL:eNULL:@SECLEVEL=0"],
    ];
    for offer in OLD.into_iter().chain(weak) {
        let said = scan(web, offer);
        assert!(!said.contains("HTTP/1.1 200"), "{offer:?}: {said}");
    }
}

#[test]
fn the_edge_takes_no_early_data_and_does_not_renegotiate() {
    let (proxy, app) = at_the_edge();
    let web = proxy.address("web");
    let session = proxy.dir().join("session");
    let path: &Path = &session;
    let said = scan(web, &["-tls1_3", "-sess_out", path.to_str().unwrap()]);
    assert!(said.contains("Max Early Data: 0"), "{said}");
    let early = proxy.dir().join("early");
    std::fs::write(&early, "GET /early HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
    let arguments = [
        "-tls1_3",
        "-sess_in",
        path.to_str().unwrap(),
        "-early_data",
        early.to_str().unwrap(),
    ];
    let said = scan(web, &arguments);
    assert!(!said.contains("Early data was accepted"), "{said}");
    assert!(!app.all().contains("/early"), "{}", app.all());
    // A client that asks for another handshake in the middle is not given one.
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &web.to_string(), "-tls1_2"])
        .args(["-servername", "shop.example", "-legacy_renegotiation"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"R\n").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.contains("RENEGOTIATING"), "{said}");
    let refused = ["no renegotiation", "alert", "unexpected message", "error"];
    assert!(refused.iter().any(|word| said.contains(word)), "{said}");
}
