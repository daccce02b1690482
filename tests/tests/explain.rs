//! `selvedge check --explain`: which policies are in force, and where they are named.

use std::path::Path;
use std::process::Command;

use selvedge_tests::process::binary;

#[test]
fn explain_names_what_is_in_force_and_where() {
    let output = Command::new(binary())
        .args(["check", "--explain", "examples/api-gateway/gateway.yaml"])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let v2 = said.split("api/v2 at api\n").nth(1).unwrap();
    let lines = v2.lines().take_while(|line| line.starts_with(' '));
    let lines: Vec<String> = lines
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "security safe listener",
            "errorPages sorry listener",
            "version v2 rule",
            "rateLimit everyone listener",
            "apiKey keys route",
            "rateLimit by who calls plans route",
            "allow partners rule",
        ]
    );
}

/// What it says of a configuration, words set apart by single blanks.
fn explained(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    let output = command
        .args(["check", "--explain"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn explain_knows_policies_of_services() {
    let words = explained(
        "listeners: [{ name: web, port: 8080, policies: [a] }]
policies:
  a: { rateLimit: { rate: 1/s } }
  b: { rateLimit: { rate: 2/s } }
  c: { concurrency: { max: 1 } }
routes: [{ name: shop, rules: [{ policies: [c], backendRefs: [{ service: app }] }] }]
services: { app: { endpoints: [\"127.0.0.1:1\"], policies: [b] } }
",
    );
    let want = "rateLimit b service concurrency c rule";
    assert!(words.contains(want), "{words}");
}

#[test]
fn explain_knows_sidecars() {
    let words = explained(
        "inbound: [{ port: 8080, app: \"127.0.0.1:1\", policies: [a] }]
outbound: { bind: \"127.0.0.1:0\" }
policies:
  a: { rateLimit: { rate: 1/s } }
  b: { rateLimit: { rate: 2/s } }
services: { app: { endpoints: [\"127.0.0.1:1\"], policies: [b] } }
",
    );
    for want in [
        "outbound/app at outbound rateLimit b service",
        "inbound-8080 rateLimit a port",
    ] {
        assert!(words.contains(want), "{words}");
    }
}
