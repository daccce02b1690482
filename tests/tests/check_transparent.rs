//! What `selvedge check` says of ports that rules of the kernel send connections to.

use std::process::Command;

use selvedge_tests::process::binary;

fn said(text: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sidecar.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    let output = command.arg("check").arg(&file).output().unwrap();
    let said = [&output.stderr[..], &output.stdout[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

/// Whether something is said of this key.
#[track_caller]
fn says(said: &str, key: &str, what: &str) {
    let of_key = format!("= key: {key}\n");
    let found = said
        .split("error: ")
        .any(|one| one.starts_with(what) && one.contains(&of_key));
    assert!(found, "{key}: {what}\n{said}");
}

#[test]
fn transparent_ports_have_no_application_and_others_need_one() {
    let (fine, said) = said(
        "inbound:
  - { port: 15006, transparent: true, app: \"127.0.0.1:80\" }
  - { port: 9080 }
  - { port: 9082, app: \"127.0.0.1:80\", http2Ports: [9090] }
  - { port: 9081, app: \"127.0.0.1:80\", transparant: true }
",
    );
    assert!(!fine, "{said}");
    says(
        &said,
        "inbound[0].app",
        "a transparent port has as many applications",
    );
    says(&said, "inbound[1]", "`app` is missing");
    says(
        &said,
        "inbound[2].http2Ports",
        "it names ports of the application, where the port is transparent",
    );
    for part in [
        "remove `app`, or `transparent`",
        "did you mean `transparent`?",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
}

#[test]
fn addresses_of_services_are_whole_called_by_somebody_and_of_one_service() {
    let services = "services:
  a: { endpoints: [\"10.0.0.1:80\"], addresses: [\"10.96.0.1:80\", \"10.96.0.1\", \"127.0.0.1:80\", \"10.96.0.9:0\"] }
  b: { endpoints: [\"10.0.0.2:80\"], addresses: [\"10.96.0.2:80\", \"[::ffff:10.96.0.1]:80\", \"10.96.0.2:80\"] }
";
    let (fine, found) = said(&format!("outbound: {{ transparent: true }}\n{services}"));
    assert!(!fine, "{found}");
    for (key, what) in [
        ("a.addresses[1]", "`10.96.0.1` is not an address"),
        ("a.addresses[2]", "`127.0.0.1:80` is called by nobody"),
        ("a.addresses[3]", "`10.96.0.9:0` is called by nobody"),
        ("b.addresses[1]", "`[::ffff:10.96.0.1]:80` is there already"),
        ("b.addresses[2]", "`10.96.0.2:80` is there already"),
    ] {
        says(&found, &format!("services.{key}"), what);
    }
    let plain = "outbound: {}\nservices: { a: { endpoints: [\"10.0.0.1:80\"], addresses: [\"10.96.0.1:80\"] } }";
    let (fine, found) = said(plain);
    assert!(fine, "{found}");
    assert!(
        found.contains("nothing is known by where it was going"),
        "{found}"
    );
}
