//! `selvedge check`: what configuration may say of a cluster.

use std::process::Command;

use selvedge_tests::process::binary;

/// Line and text of every finding.
fn findings(mode: &str, text: &str) -> Vec<(u64, String)> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, text).unwrap();
    let mut check = Command::new(binary());
    check.args(["check", "--mode", mode, "--format", "json"]);
    let output = check.arg(&file).output().unwrap();
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let one = |finding: &serde_json::Value| {
        assert_ne!(finding["remedy"], "", "{finding}");
        let message = finding["message"].as_str().unwrap().to_owned();
        (finding["line"].as_u64().unwrap(), message)
    };
    found.as_array().unwrap().iter().map(one).collect()
}

#[test]
fn mistakes_are_named_all_at_once() {
    let text = r#"outbound: {}
kubernetes:
  server: somewhere
  clusterDomain: "a b"
  token: /run/token
  idle: 0s
  manifests: /run/manifests
services:
  a: { kubernetes: { service: "Orders" } }
  b: { kubernetes: { service: orders }, dns: orders., port: 80 }
  c: { kubernetes: { service: orders, port: 0 } }
  d: { kubernetes: { service: orders, port: http, namespace: "" } }
"#;
    let mut lines: Vec<u64> = findings("sidecar", text)
        .iter()
        .map(|(line, _)| *line)
        .collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines, [3, 4, 5, 6, 9, 10, 11, 12]);
}

#[test]
fn what_is_off_is_not_asked() {
    let text = "outbound: {}\nservices: { orders: { kubernetes: { service: orders } } }\n";
    let found = findings("sidecar", text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].1.contains("not on"), "{found:?}");
    let on = format!("kubernetes: {{}}\n{text}");
    assert!(findings("sidecar", &on).is_empty());
}
