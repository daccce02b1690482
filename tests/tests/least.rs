//! Every role as restricted pods run it: as a user who is not root, without a capability, with a root on
//! which nothing can be written. (`selvedge redirect` is the one that needs more.)

use std::path::Path;
use std::process::{Command, Stdio};

use selvedge_tests::admission::{applied, review};
use selvedge_tests::control_plane::Cluster;
use selvedge_tests::least::{USER, assert_confined, confined};
use selvedge_tests::pod::{open_dir, reachable};
use selvedge_tests::{Raw, Selvedge, TestCa, Upstream};
use serde_json::json;

/// A proxy of this mode; `$DIR` is a directory with an identity of `web` in it.
fn proxy(mode: &str, config: &str) -> Selvedge {
    let dir = open_dir();
    let ca = TestCa::new();
    let leaf = ca.svid("spiffe://shop.local/ns/shop/sa/web");
    let (_, key) = leaf.write(dir.path(), "own");
    std::fs::write(dir.path().join("bundle.pem"), ca.bundle()).unwrap();
    // A key is nobody's but its owner's.
    std::os::unix::fs::chown(&key, Some(USER), Some(USER)).unwrap();
    let place = dir.path().display().to_string();
    let file = dir.path().join("config.yaml");
    let ports = "admin: { bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }\n";
    std::fs::write(&file, config.replace("$DIR", &place) + ports).unwrap();
    let mut command = confined(&reachable(USER, dir.path()), None);
    command.args([mode, "--workers", "2", "--config"]).arg(file);
    Selvedge::spawn(command, dir, &["admin", "health"])
}

fn is_served(proxy: &Selvedge, listener: &str) {
    let mut raw = Raw::connect(proxy.address(listener));
    raw.send("GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
    assert_eq!(raw.reply().status, 200);
}

#[test]
fn sidecar_and_gateway() {
    let app = Upstream::answering("ok");
    let address = app.address();
    let identity = "identity: { trustDomain: shop.local, bundle: $DIR/bundle.pem, certificate: $DIR/own.pem, key: $DIR/own.key }\n";
    let sidecar = proxy(
        "sidecar",
        &format!(
            "{identity}inbound: [{{ port: 0, bind: 127.0.0.1, app: '{address}', mtls: permissive }}]
outbound: {{ bind: \"127.0.0.1:0\" }}
services: {{ app: {{ endpoints: ['{address}'] }} }}
telemetry: {{ accessLog: {{}} }}
"
        ),
    );
    assert_confined(sidecar.pid());
    is_served(&sidecar, "outbound");
    let gateway = proxy(
        "gateway",
        &format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, protocol: HTTP }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: ['{address}'] }} }}
"
        ),
    );
    assert_confined(gateway.pid());
    is_served(&gateway, "web");
    for proxy in [sidecar, gateway] {
        ends(proxy);
    }
}

fn ends(mut process: Selvedge) {
    process.signal("TERM");
    assert!(process.wait().success());
}

#[test]
fn ca_and_injector() {
    let cluster = Cluster::start_confined();
    assert_confined(cluster.ca.process.pid());
    assert_confined(cluster.injector.pid());
    let pod = json!({ "spec": { "containers": [{ "name": "web", "image": "web:1" }] } });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = runtime.unwrap().block_on(async {
        let question = review("shop", &pod).to_string();
        cluster.caller().ask("/inject/namespace", question).await.1
    });
    let (_, injected) = applied(&pod, &answer);
    assert!(injected["spec"]["initContainers"].is_array());
    ends(cluster.injector);
    ends(cluster.ca.process);
}

/// Runs a command to its end.
fn done(arguments: &[&str], dir: &Path) -> String {
    let output = confined(&reachable(USER, dir), None)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn commands_that_end() {
    let dir = open_dir();
    let config = dir.path().join("config.yaml");
    std::fs::write(
        &config,
        "listeners: [{ name: web, port: 8080, protocol: HTTP }]
routes: [{ rules: [{ backendRefs: [{ service: app }] }] }]
services: { app: { endpoints: [192.0.2.1:80] } }
",
    )
    .unwrap();
    let pod = dir.path().join("pod.yaml");
    std::fs::write(
        &pod,
        "{ apiVersion: v1, kind: Pod, metadata: { name: a }, spec: { containers: [{ name: a }] } }\n",
    )
    .unwrap();
    let (config, pod) = (config.display().to_string(), pod.display().to_string());
    assert!(done(&["check", &config], dir.path()).contains("ok"));
    assert!(done(&["inject", "--manual", &pod], dir.path()).contains("selvedge-proxy"));
    assert!(done(&["version"], dir.path()).starts_with("selvedge "));
    let explained = done(&["check", "--explain", &config], dir.path());
    assert!(explained.contains("at web"), "{explained}");
}

#[test]
fn a_process_that_may_more_is_told_apart() {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let told = std::panic::catch_unwind(|| assert_confined(child.id()));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(told.is_err());
}
