//! From permissive to strict: who still speaks plaintext is counted, named, and told by one command.

use std::process::Command;

use selvedge_tests::authority::run;
use selvedge_tests::process::binary;
use selvedge_tests::trusting::{Trusting, WEB};
use selvedge_tests::{Raw, Selvedge, TestCa, TlsPeer, Upstream};
use serde_json::Value;

fn start(ca: &TestCa, app: &Upstream, mode: &str) -> Trusting {
    let inbound = format!(", mtls: {mode}");
    Trusting::start(ca, &ca.bundle(), ("", &inbound, ""), &[], app)
}

fn plaintext(mesh: &Trusting) -> u16 {
    let mut raw = Raw::connect(mesh.inbound());
    raw.send("GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n");
    raw.reply().status
}

fn check(proxies: &[&Selvedge], more: &[&str]) -> (i32, String) {
    let addresses: Vec<_> = proxies
        .iter()
        .map(|proxy| format!("http://{}", proxy.address("admin")))
        .collect();
    let mut command = Command::new(binary());
    command
        .arg("check")
        .args(more)
        .arg("--mtls")
        .args(addresses);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.code().unwrap(), said)
}

#[test]
fn a_port_is_ready_for_strict_when_nobody_speaks_plaintext_any_more() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let strict = start(&ca, &app, "strict");
    let mesh = start(&ca, &app, "permissive");
    let (code, said) = check(&[&mesh.orders, &strict.orders], &[]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("inbound-0: permissive, nobody has called yet"),
        "{said}"
    );
    assert!(said.contains("inbound-0: strict"), "{said}");

    let leaf = ca.svid(WEB);
    let mut peer = TlsPeer::connect(mesh.inbound(), Some(&leaf), "http/1.1").unwrap();
    let _ = peer.get();
    let (code, said) = check(&[&mesh.orders], &[]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("1 by mutual TLS, none in plaintext: ready for strict"),
        "{said}"
    );

    assert_eq!(plaintext(&mesh), 200);
    assert_eq!(plaintext(&mesh), 200);
    // Whoever says nothing is nobody.
    drop(Raw::connect(mesh.inbound()));
    let (code, said) = check(&[&strict.orders, &mesh.orders], &[]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("2 in plaintext, by 127.0.0.1 (2 times, last "),
        "{said}"
    );
    let port = mesh.inbound().port();
    let (code, said) = check(&[&mesh.orders], &["--format", "json"]);
    assert_eq!(code, 1, "{said}");
    let told: Value = serde_json::from_str(&said).unwrap();
    let told = &told[0]["listeners"][0]["ports"][0];
    assert_eq!(told["port"], port);
    assert_eq!((&told["mtls"], &told["plaintext"]), (&1.into(), &2.into()));
    assert_eq!(told["clients"][0]["address"], "127.0.0.1");

    // What is known survives a reload, and is counted by port.
    let mut mesh = mesh;
    mesh.orders.signal("HUP");
    mesh.orders.wait_for("configuration reloaded");
    let port = format!("port=\"{port}\"");
    let metric = "selvedge_permissive_connections_total";
    let count = |security: &str| mesh.orders.metric(metric, &[&port, security]);
    assert!((count("security=\"plaintext\"") - 2.0).abs() < 0.5);
    assert!((count("security=\"mtls\"") - 1.0).abs() < 0.5);
}

#[test]
fn who_cannot_be_asked_is_no_ready_proxy() {
    let (well, said) = run(&["check", "--mtls", "127.0.0.1:1"]);
    assert!(!well && said.contains("cannot be asked"), "{said}");
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let mesh = start(&ca, &app, "permissive");
    let health = mesh.orders.address("health").to_string();
    let (_, said) = run(&["check", "--mtls", &health]);
    assert!(
        said.contains("404") && said.contains("is this the admin port"),
        "{said}"
    );
    let code = Command::new(binary())
        .args(["check", "--mtls", &health])
        .status()
        .unwrap();
    assert_eq!(code.code(), Some(2));
}
