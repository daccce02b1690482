//! What an issuer says of a certificate (OCSP), shown beside it to clients that ask, as openssl sees it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use selvedge_tests::certs::Leaf;
use selvedge_tests::checked::check_file;
use selvedge_tests::{Selvedge, TestCa};

/// An answer about a certificate in this directory, signed by its CA, good for a day.
fn respond(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::write(dir.join("index.txt"), "").unwrap();
    let answer = dir.join("answer.der");
    let leaf = format!("{name}.pem");
    let made = Command::new("openssl")
        .current_dir(dir)
        .args([
            "ocsp",
            "-index",
            "index.txt",
            "-CA",
            "ca.pem",
            "-issuer",
            "ca.pem",
        ])
        .args([
            "-rsigner", "ca.pem", "-rkey", "ca.key", "-ndays", "1", "-cert", &leaf,
        ])
        .arg("-respout")
        .arg(&answer)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    std::fs::read(&answer).unwrap_or_else(|_| panic!("{said}"))
}

/// What openssl is shown: whether there is an answer, and the whole of what it said.
fn shown(address: SocketAddr, more: &[&str]) -> (bool, String) {
    let output = Command::new("openssl")
        .args([
            "s_client",
            "-status",
            "-servername",
            "shop.example",
            "-connect",
        ])
        .arg(address.to_string())
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let none = said.contains("OCSP response: no response sent");
    let some = said.contains("OCSP Response Status: successful");
    assert_ne!(none, some, "{said}");
    (some, said)
}

/// Two certificates of one CA: `shop` is the listener's.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new();
    std::fs::write(dir.path().join("ca.pem"), ca.bundle()).unwrap();
    std::fs::write(dir.path().join("ca.key"), ca.key()).unwrap();
    for name in ["shop", "other"] {
        let leaf: Leaf = ca.server(&[&format!("{name}.example")]);
        let _ = leaf.write(dir.path(), name);
    }
    dir
}

const CONFIG: &str = "listeners:
  - name: web
    bind: 127.0.0.1
    port: 0
    protocol: HTTPS
    tls: { certificates: [{ certificate: $DIR/shop.pem, key: $DIR/shop.key, ocsp: $DIR/shop.ocsp }] }
";

/// The same answer, but that it ended long ago: every time in it is another.
fn aged(answer: &[u8]) -> Vec<u8> {
    let mut bytes = answer.to_vec();
    for at in 0..bytes.len() - 17 {
        // A time of 15 characters.
        if bytes[at..].starts_with(b"\x18\x0f20") {
            bytes[at + 2..at + 6].copy_from_slice(b"2001");
        }
    }
    bytes
}

#[test]
fn clients_that_ask_are_shown_it_and_it_is_swapped() {
    let dir = place();
    let file = dir.path().join("shop.ocsp");
    let (good, other) = (respond(dir.path(), "shop"), respond(dir.path(), "other"));
    std::fs::write(&file, &good).unwrap();
    let mut proxy = Selvedge::start_in(dir, "gateway", CONFIG, 1);
    let web = proxy.address("web");
    for version in ["-tls1_2", "-tls1_3"] {
        let (some, said) = shown(web, &[version]);
        assert!(some && said.contains("Produced At"), "{version}: {said}");
    }
    // Out of date, then about another certificate: shown no more, and the certificate still is.
    for (bytes, why) in [
        (aged(&good), "it is out of date"),
        (other, "it is about another certificate"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        proxy.wait_for_next(why);
        proxy.wait_for_next("configuration reloaded");
        let (some, said) = shown(web, &[]);
        assert!(!some && said.contains("BEGIN CERTIFICATE"), "{said}");
    }
    // What is none changes nothing; what comes next does.
    std::fs::write(&file, b"no answer").unwrap();
    proxy.wait_for_next("configuration not reloaded");
    assert!(!shown(web, &[]).0);
    std::fs::write(&file, &good).unwrap();
    proxy.wait_for_next("configuration reloaded");
    assert!(shown(web, &[]).0);
}

#[test]
fn check_refuses_what_is_no_answer() {
    let dir = place();
    let file = dir.path().join("gateway.yaml");
    let text = CONFIG.replace("$DIR", &dir.path().display().to_string());
    std::fs::write(&file, text.replace("port: 0", "port: 8443")).unwrap();
    let good = respond(dir.path(), "shop");
    let check = || check_file("gateway", &file);
    let ocsp = dir.path().join("shop.ocsp");
    std::fs::write(&ocsp, &good).unwrap();
    assert!(check().0);
    std::fs::write(&ocsp, aged(&good)).unwrap();
    let (fine, said) = check();
    assert!(fine && said.contains("it is out of date"), "{said}");
    let later = [0x30, 0x03, 0x0a, 0x01, 0x03];
    let long = vec![0; 100_000];
    let certificate = std::fs::read(dir.path().join("shop.pem")).unwrap();
    for (bytes, why) in [
        (&certificate[..], "not an OCSP response in DER"),
        (&good[..good.len() - 1], "not an OCSP response in DER"),
        (&later, "its status is not successful"),
        (&long, "longer than"),
    ] {
        std::fs::write(&ocsp, bytes).unwrap();
        let (fine, said) = check();
        assert!(!fine && said.contains(why), "{said}");
        assert!(
            said.contains("listeners[0].tls.certificates[0].ocsp")
                && said.contains("the responder's answer, in DER"),
            "{said}"
        );
    }
    std::fs::remove_file(&ocsp).unwrap();
    assert!(!check().0);
}
