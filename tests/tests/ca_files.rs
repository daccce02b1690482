//! What the CA starts with: files that are not as they should be (CA-05), clocks that are wrong (CA-09),
//! intermediates from elsewhere; and what it keeps to itself (TL-16).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use selvedge_tests::authority::{CaProcess, run};
use selvedge_tests::ca_client::{Client, serial};
use selvedge_tests::control_plane::until;
use selvedge_tests::netns::run as shell;
use selvedge_tests::process::{Selvedge, binary};
use selvedge_tests::{TestCa, certs};
use x509_parser::pem::parse_x509_pem;

const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";

/// What a CA says that does not start from this directory.
fn refused(dir: &Path, more: &[&str]) -> String {
    let dir = dir.display().to_string();
    let fixed = [
        "ca",
        "--trust-domain",
        "shop.local",
        "--bind",
        "127.0.0.1:0",
        "--dir",
        &dir,
    ];
    let (well, said) = run(&[&fixed, more].concat());
    assert!(!well, "{said}");
    said
}

/// A CA's directory, and nobody who serves from it.
fn made() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    drop(CaProcess::start_at(dir.path().join("ca"), &[]));
    dir
}

#[test]
fn files_that_are_not_as_they_should_be_are_named() {
    let other = made();
    for (file, spoil, wanted) in [
        ("root.key", "mode", "lets group or others in; chmod 600 it"),
        (
            "intermediate.key",
            "mode",
            "lets group or others in; chmod 600 it",
        ),
        (
            "intermediate.key",
            "encrypt",
            "is encrypted; give it decrypted",
        ),
        ("intermediate.key", "damage", "not a PEM private key"),
        ("intermediate.pem", "damage", "not a PEM certificate"),
        ("root.pem", "damage", "not a PEM certificate"),
        (
            "intermediate.key",
            "other",
            "does not belong to its certificate",
        ),
        (
            "root.pem",
            "other",
            "root.key: does not belong to its certificate",
        ),
        ("intermediate.pem", "remove", "intermediate.pem: missing"),
        ("rotation.json", "damage", "rotation.json: not a rotation"),
    ] {
        let dir = made();
        let keys = dir.path().join("ca");
        let path = keys.join(file);
        match spoil {
            "mode" => fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap(),
            "encrypt" => {
                let plain = keys.join("plain");
                fs::rename(&path, &plain).unwrap();
                let mut openssl = Command::new("openssl");
                openssl.args(["pkcs8", "-topk8", "-passout", "pass:x", "-in"]);
                shell(openssl.arg(plain).arg("-out").arg(&path));
                fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            }
            "damage" => {
                fs::write(&path, "-----BEGIN nothing").unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            }
            "other" => drop(fs::copy(other.path().join("ca").join(file), &path).unwrap()),
            _ => fs::remove_file(&path).unwrap(),
        }
        let said = refused(&keys, &[]);
        let named = spoil == "other" || said.contains(file);
        assert!(named && said.contains(wanted), "{spoil} {file}: {said}");
        assert!(!said.contains("BEGIN"), "{said}");
    }
}

#[test]
fn keys_are_for_their_owner_and_memory_is_not_dumped() {
    let ca = CaProcess::start(&[]);
    let mode = |name: &str| {
        let about = fs::metadata(ca.keys().join(name)).unwrap();
        about.permissions().mode() & 0o7777
    };
    assert_eq!(mode(""), 0o700);
    for file in [
        "root.key",
        "intermediate.key",
        "control.sock",
        "issued/00000001.jsonl",
    ] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", ca.process().pid())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.contains("core file"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}

/// The binary with a clock that is so far off. Not by the command `faketime`, which has children.
fn turned(offset: &str) -> Command {
    let libraries = fs::read_dir("/usr/lib").unwrap();
    let library = libraries
        .map(|entry| entry.unwrap().path().join("faketime/libfaketime.so.1"))
        .find(|path| path.exists())
        .expect("libfaketime");
    let mut command = Command::new(binary());
    command.env("LD_PRELOAD", library).env("FAKETIME", offset);
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

/// A CA in this directory with such a clock.
fn at(keys: &Path, offset: &str) -> Command {
    let mut command = turned(offset);
    command.args([
        "ca",
        "--trust-domain",
        "shop.local",
        "--bind",
        "127.0.0.1:0",
        "--dir",
    ]);
    command.arg(keys);
    command
}

fn times(pem: &str) -> (i64, i64) {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
    let validity = pem.parse_x509().unwrap().validity().clone();
    (
        validity.not_before.timestamp(),
        validity.not_after.timestamp(),
    )
}

#[test]
fn a_clock_that_steps_makes_no_certificate_that_is_wrong() {
    let dir = made();
    let keys = dir.path().join("ca");
    let now = selvedge_tests::oidc::unix_now().cast_signed();
    let bundle = || fs::read_to_string(keys.join("root.pem")).unwrap();
    // Back, before the root begins.
    let output = at(&keys, "-1d").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        said.contains("not valid yet; is the clock right?"),
        "{said}"
    );
    // Forward, past the intermediate, and near its end.
    let mut seen = Vec::new();
    for (offset, days) in [("+0d", 0), ("+29d", 29), ("+31d", 31), ("+5000d", 5000)] {
        let begun = now + days * 24 * 3600;
        if days == 5000 {
            // Past the root: nothing is signed any more.
            let output = at(&keys, offset).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                !output.status.success() && said.contains("root.pem: expired"),
                "{said}"
            );
            continue;
        }
        let mut token = turned(offset);
        token
            .args(["ca", "token", "--id", ORDERS, "--dir"])
            .arg(&keys);
        let token = shell(&mut token);
        let own = tempfile::tempdir().unwrap();
        let ca = Selvedge::spawn(at(&keys, offset), own, &["certificate authority"]);
        let client = Client::new(ca.address("certificate authority"), &bundle());
        let client = client.believing_any_time();
        let shown = client.join(token.trim());
        let (not_before, not_after) = times(&shown.chain[0]);
        let (issuer_before, issuer_after) = times(&shown.chain[1]);
        assert!(not_after <= issuer_after, "{offset}");
        assert!(not_before >= issuer_before - 60, "{offset}");
        assert!(
            (not_before - (begun - 60)).abs() < 60,
            "{offset}: {not_before}"
        );
        assert!(not_after > begun, "{offset}");
        seen.push(serial(&shown.chain[0]));
    }
    seen.dedup();
    assert_eq!(seen.len(), 3);
}

#[test]
fn an_intermediate_from_elsewhere_signs_and_is_followed() {
    // The root stays offline: only its certificate is here.
    let dir = tempfile::tempdir().unwrap();
    let issuer = dir.path().join("issuer");
    fs::create_dir(&issuer).unwrap();
    let root = TestCa::named("offline");
    for form in [
        ["tls.crt", "tls.key", "ca.crt"],
        ["ca-cert.pem", "ca-key.pem", "root-cert.pem"],
    ] {
        let write = || {
            let (certificate, key) = root.intermediate("shop.local");
            for (name, text) in form
                .iter()
                .zip([certificate.as_str(), &key, &root.bundle()])
            {
                let path = issuer.join(name);
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            }
            certificate
        };
        let first = write();
        let place = issuer.display().to_string();
        let ca = CaProcess::start_at(dir.path().join(form[0]), &["--issuer", &place]);
        let client = Client::new(ca.address(), &root.bundle());
        let shown = client.join(&ca.token(ORDERS));
        assert_eq!(shown.chain.len(), 3, "leaf, intermediate, roots");
        assert_eq!(shown.chain[1].trim(), first.trim());
        assert_eq!(certs::uri(&shown.chain[0]), ORDERS);
        let (well, said) = ca.rotate(&["--step", "prepare"]);
        assert!(
            !well && said.contains("the root's key is elsewhere"),
            "{said}"
        );
        // Another takes its place, without a restart.
        let second = write();
        let client = client.showing(&shown);
        let process = ca.process();
        process.wait_for_log("another intermediate signs");
        assert_eq!(client.request().unwrap()[1].trim(), second.trim());
        // One that does not fit changes nothing.
        fs::write(issuer.join(form[0]), TestCa::new().bundle()).unwrap();
        until("the complaint", || {
            let log = ca.process().log().join("\n");
            log.contains("intermediate not replaced").then_some(())
        });
        assert_eq!(client.request().unwrap()[1].trim(), second.trim());
        for name in form {
            fs::remove_file(issuer.join(name)).unwrap();
        }
    }
}

#[test]
fn a_clock_that_was_ahead_once_has_spoiled_nothing() {
    // The intermediate that it made was not valid yet when the clock was right again: no CA for 40 days.
    let dir = made();
    let keys = dir.path().join("ca");
    let start = |offset: &str| {
        let own = tempfile::tempdir().unwrap();
        Selvedge::spawn(at(&keys, offset), own, &["certificate authority"])
    };
    drop(start("+40d"));
    let ca = start("+0d");
    let mut token = turned("+0d");
    let arguments = ["ca", "token", "--id", ORDERS, "--dir"];
    let token = shell(token.args(arguments).arg(&keys));
    let bundle = fs::read_to_string(keys.join("root.pem")).unwrap();
    let client = Client::new(ca.address("certificate authority"), &bundle);
    let (not_before, not_after) = times(&client.join(token.trim()).chain[0]);
    let now = selvedge_tests::oidc::unix_now().cast_signed();
    assert!(not_before <= now && now < not_after);
}

#[test]
fn a_token_for_a_directory_of_no_ca_is_refused_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (typo, empty) = (dir.path().join("caa"), dir.path().join("empty"));
    fs::create_dir(&empty).unwrap();
    for place in [&typo, &empty] {
        let place = place.display().to_string();
        let (well, said) = run(&["ca", "token", "--dir", &place, "--id", ORDERS]);
        let wanted = format!("{place}: no CA has ever served from here");
        assert!(!well && said.contains(&wanted), "{said}");
    }
    assert!(!typo.exists());
    assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
    // Where one has, there is a token, though it does not run.
    let made = made();
    let place = made.path().join("ca").display().to_string();
    let (well, said) = run(&["ca", "token", "--dir", &place, "--id", ORDERS]);
    assert!(well, "{said}");
}
