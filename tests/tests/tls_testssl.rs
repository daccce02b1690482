//! TL-01: what testssl.sh, a scanner that others trust, finds at the edge and at a port of the mesh.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use selvedge_tests::trusting::{Trusting, edge};
use selvedge_tests::{TestCa, Upstream};

/// Findings that stand, by the scanner's name for them: what they are of, or why they are right.
const STAND: [(&str, &str); 7] = [
    ("engine_problem", "the scanner's own openssl"),
    (
        "optimal_proto",
        "that openssl's default, which shows no certificate",
    ),
    (
        "service",
        "what is spoken inside is not seen without a certificate",
    ),
    ("cert_validityPeriod", "the test's certificate"),
    ("cert_revocation", "the test's certificate"),
    (
        "cipher_order",
        "each cipher that is offered is good: the client knows which is fast for it",
    ),
    (
        "sessionresumption_ticket",
        "the scanner hangs up at once, often before a ticket of TLS 1.3 can have come",
    ),
];

/// Each check of a port's protocols, ciphers and known faults: its name, severity and finding.
fn scan(address: SocketAddr, ca: &Path, checks: &[&str]) -> Vec<[String; 3]> {
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("found.json");
    let output = Command::new("testssl")
        .args(["--quiet", "--color", "0", "--warnings", "off"])
        .args(["--ip", "127.0.0.1", "--nodns", "none"])
        .args(["--add-ca", &ca.display().to_string()])
        .args(["--jsonfile", &file.display().to_string()])
        .args(checks)
        .arg(format!("shop.example:{}", address.port()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let text = std::fs::read(&file).unwrap_or_else(|e| panic!("{e}: {said}"));
    let found: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let text = |one: &serde_json::Value, key: &str| one[key].as_str().unwrap().to_owned();
    let of = |one| ["id", "severity", "finding"].map(|key| text(one, key));
    found.iter().map(of).collect()
}

/// All these were looked for and are well, and nothing else is worse than it may be.
fn judge(found: &[[String; 3]], well: &[&str]) {
    for id in well {
        let one = found.iter().find(|[name, ..]| name == id);
        let one = one.unwrap_or_else(|| panic!("{id} was not looked for: {found:?}"));
        assert_eq!(one[1], "OK", "{one:?}");
    }
    for one @ [id, severity, _] in found {
        let stands = STAND.iter().any(|(name, _)| name == id);
        assert!(
            ["OK", "INFO"].contains(&severity.as_str()) || stands,
            "{one:?}"
        );
    }
}

/// What the scanner says of this.
fn said<'a>(found: &'a [[String; 3]], id: &str) -> &'a str {
    let one = found.iter().find(|[name, ..]| name == id);
    &one.unwrap_or_else(|| panic!("{id}: {found:?}"))[2]
}

/// What both kinds of port have to be well in.
const WELL: [&str; 18] = [
    "SSLv2",
    "SSLv3",
    "TLS1_3",
    "cipherlist_NULL",
    "cipherlist_aNULL",
    "cipherlist_EXPORT",
    "cipherlist_LOW",
    "PFS",
    "heartbleed",
    "CCS",
    "ROBOT",
    "secure_renego",
    "secure_client_renego",
    "CRIME_TLS",
    "fallback_SCSV",
    "BEAST",
    "LUCKY13",
    "RC4",
];

#[test]
fn at_the_edge_it_finds_nothing() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let proxy = edge(&ca, &app);
    let root = proxy.dir().join("root.pem");
    std::fs::write(&root, ca.bundle()).unwrap();
    let found = scan(
        proxy.address("web"),
        &root,
        &["-p", "-s", "-f", "-P", "-S", "-U"],
    );
    judge(&found, &WELL);
    judge(
        &found,
        &["TLS1_2", "ticketbleed", "SWEET32", "cert_chain_of_trust"],
    );
    assert_eq!(said(&found, "TLS1_1"), "not offered");
    assert_eq!(said(&found, "cipherlist_AVERAGE"), "not offered");
}

#[test]
fn at_a_port_of_the_mesh_it_finds_nothing() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&ca, &ca.bundle(), ("", "", ""), &[], &app);
    let found = scan(
        mesh.inbound(),
        &mesh.path("bundle.pem"),
        &["-p", "-s", "-f", "-U"],
    );
    judge(&found, &WELL);
    for old in ["TLS1", "TLS1_1", "TLS1_2"] {
        assert_eq!(said(&found, old), "not offered");
    }
    assert!(app.seen().is_empty(), "nobody came in");
}
