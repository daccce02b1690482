//! `selvedge inject` and `uninject` as a user runs them, and the probes that a sidecar answers for its
//! application.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use selvedge_tests::process::{binary, sidecar};
use selvedge_tests::{Selvedge, Upstream};

const WORKLOADS: &str = "apiVersion: v1
kind: Service # as it is
metadata: {name:  web}
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: web }
spec:
  selector: { matchLabels: { app: web } }
  template:
    metadata:
      labels: { app: web }
      annotations: { selvedge.dev/skip-outbound-ports: '3306,5000-5010' }
    spec:
      containers:
        - name: web
          image: web:1
          ports: [{ name: http, containerPort: 8080 }]
          readinessProbe: { httpGet: { path: /healthz, port: http }, timeoutSeconds: 2 }
";

fn run(command: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(binary())
        .arg(command)
        .args(arguments)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn workloads_get_their_sidecar_and_lose_it() {
    let once = run("inject", &["--manual"], WORKLOADS);
    assert!(once.status.success(), "{}", text(&once.stderr));
    assert_eq!(text(&once.stderr).trim(), "deployment/web: injected");
    let rendered = text(&once.stdout);
    let (service, _) = WORKLOADS.split_once("---\n").unwrap();
    assert!(rendered.starts_with(service), "{rendered}");
    for want in [
        "name: selvedge-proxy",
        "name: selvedge-redirect",
        "path: /app-health/web/readyz",
        "--skip-outbound-ports",
        "3306,5000-5010",
        "restartPolicy: Always",
    ] {
        assert!(rendered.contains(want), "{want}\n{rendered}");
    }
    let twice = run("inject", &["--manual"], &rendered);
    assert_eq!(text(&twice.stdout), rendered);
    let back = run("uninject", &[], &rendered);
    let back: Vec<serde_json::Value> = documents(&text(&back.stdout));
    assert_eq!(back, documents(WORKLOADS));

    let labelled = run("inject", &[], WORKLOADS);
    assert!(text(&labelled.stdout).contains("selvedge.dev/inject: enabled"));
    let back = run("uninject", &[], &text(&labelled.stdout));
    assert_eq!(documents(&text(&back.stdout)), documents(WORKLOADS));
}

fn documents(text: &str) -> Vec<serde_json::Value> {
    let parts = text.split("---\n").filter(|part| !part.trim().is_empty());
    parts
        .map(|part| serde_saphyr::from_str(part).unwrap())
        .collect()
}

#[test]
fn what_cannot_be_injected_is_refused_whole() {
    let bad = WORKLOADS.replace("3306,5000-5010", "mysql");
    let refused = run("inject", &["--manual"], &bad);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
    let said = text(&refused.stderr);
    assert!(
        said.contains("selvedge.dev/skip-outbound-ports of the pod: `mysql`: expected"),
        "{said}"
    );
    let broken = run("inject", &[], "kind: [");
    assert_eq!(broken.status.code(), Some(2));
}

#[test]
fn the_configuration_that_a_pod_gets_is_one() {
    let once = run("inject", &["--manual"], WORKLOADS);
    let deployment = documents(&text(&once.stdout)).pop().unwrap();
    let config = &deployment["spec"]["template"]["metadata"]["annotations"]["selvedge.dev/config"];
    let dir = tempfile::tempdir().unwrap();
    let (file, bundle) = (dir.path().join("sidecar.yaml"), dir.path().join("ca.pem"));
    std::fs::write(&bundle, selvedge_tests::TestCa::new().bundle()).unwrap();
    let config = config.as_str().unwrap();
    let config = config.replace(
        "/var/run/selvedge/trust/ca.pem",
        &bundle.display().to_string(),
    );
    std::fs::write(&file, config).unwrap();
    let output = Command::new(binary())
        .arg("check")
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stderr),
        text(&output.stdout)
    );
}

fn probed(app: u16, nobody: u16) -> Selvedge {
    sidecar(&format!(
        "outbound: {{ bind: \"127.0.0.1:0\" }}
probes:
  web:
    livez: {{ port: {app}, path: /live, headers: [{{ name: X-Probe, value: probe }}] }}
    readyz: {{ port: {app}, path: /broken }}
    startupz: {{ port: {app}, way: tcp }}
  gone:
    livez: {{ port: {nobody}, way: tcp }}
  slow:
    livez: {{ port: {app}, path: /slow, timeout: 100ms }}"
    ))
}

#[test]
fn probes_are_answered_as_the_application_answers() {
    let app = Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            let text = String::from_utf8_lossy(&request).into_owned();
            if text.starts_with("GET /live ") && text.contains("x-probe: probe") {
                connection.send("HTTP/1.1 204 No Content\r\n\r\n");
            } else if text.starts_with("GET /slow") {
                connection.drain();
            } else {
                connection.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = nobody.local_addr().unwrap().port();
    drop(nobody);
    let proxy = probed(app.address().port(), gone);
    for (path, want) in [
        ("web/livez", 204),
        ("web/readyz", 500),
        ("web/startupz", 200),
        ("gone/livez", 503),
        ("slow/livez", 504),
        ("web/other", 404),
        ("web", 404),
    ] {
        let (status, said) = proxy.get("health", &format!("/app-health/{path}"));
        assert_eq!(status, want, "{path}: {said}");
    }
    let address = proxy.address("health").to_string();
    let mut command = Command::new(binary());
    let ready = command
        .args(["ready", "--address", &address, "--wait", "10s"])
        .status();
    assert!(ready.unwrap().success());
    let mut command = Command::new(binary());
    let nobody = format!("127.0.0.1:{gone}");
    let ready = command
        .args(["ready", "--address", &nobody])
        .stderr(Stdio::null())
        .status();
    assert_eq!(ready.unwrap().code(), Some(1));
}

#[test]
fn probes_over_grpc_and_tls_are_answered_too() {
    use selvedge_tests::Http2Upstream;
    use selvedge_tests::http2::{block, frame, headers, settings};
    use selvedge_tests::http2_upstream::answer;
    let health = |status: u8| {
        Http2Upstream::scripted(move |peer| {
            peer.send(settings(&[]));
            while let Some(asked) = peer.frame() {
                // HEADERS
                if asked.kind == 1 {
                    let kind = [("content-type", "application/grpc")];
                    peer.send(answer(asked.stream, "200", &kind, false));
                    peer.send(frame(0, 0, asked.stream, &[0, 0, 0, 0, 2, 8, status]));
                    let ended = block(&[("grpc-status", "0")]);
                    peer.send(headers(asked.stream, &ended, true));
                }
            }
        })
    };
    let (serving, not) = (health(1), health(2));
    let dir = tempfile::tempdir().unwrap();
    let leaf = selvedge_tests::TestCa::new().server(&["app.example"]);
    let (certificate, key) = leaf.write(dir.path(), "app");
    let app = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    // TLS of an application, whoever has signed it: a gateway will do.
    let tls = selvedge_tests::gateway(&format!(
        "listeners:
  - {{ name: web, bind: 127.0.0.1, port: 0, protocol: HTTPS, tls: {{ certificates: [{{ certificate: {}, key: {} }}] }} }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        certificate.display(),
        key.display(),
        app.address()
    ));
    let proxy = sidecar(&format!(
        "outbound: {{ bind: \"127.0.0.1:0\" }}
probes:
  a:
    livez: {{ port: {}, way: grpc, service: shop }}
    readyz: {{ port: {}, way: grpc }}
    startupz: {{ port: {}, way: https, path: /ok }}",
        serving.address().port(),
        not.address().port(),
        tls.address("web").port()
    ));
    for (path, want) in [("livez", 200), ("readyz", 503), ("startupz", 200)] {
        let (status, said) = proxy.get("health", &format!("/app-health/a/{path}"));
        assert_eq!(status, want, "{path}: {said}");
    }
}
