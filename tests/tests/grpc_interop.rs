//! SC-07: gRPC's own library sees through two sidecars what it sees without them.

use std::net::SocketAddr;
use std::time::Instant;

use selvedge_tests::mesh::Mesh;
use selvedge_tests::python::{Server, judge};
use selvedge_tests::{PATIENCE, gateway};
use serde_json::Value;

/// Before gRPC's own server.
fn mesh() -> (Server, Mesh) {
    let server = Server::start("interop.py", &["serve"]);
    let app = SocketAddr::from(([127, 0, 0, 1], server.port));
    (server, Mesh::before(app, "http2"))
}

fn calls(address: &str) -> Value {
    serde_json::from_str(&judge("interop.py", &["call", address])).unwrap()
}

#[test]
fn every_kind_of_call_is_the_same_as_without_proxies() {
    let (server, mesh) = mesh();
    let direct = calls(&format!("127.0.0.1:{}", server.port));
    let through = calls(&mesh.outbound().to_string());
    let (direct, mut through) = (direct.as_object().unwrap(), through);
    // The server has seen one call given up already.
    assert_eq!(direct["given up"], 1);
    assert!(through["given up"].as_u64() >= Some(1));
    through["given up"] = direct["given up"].clone();
    for (case, expected) in direct {
        assert_eq!(&through[case], expected, "{case}");
    }
    assert_eq!(direct["unary"]["result"], "hello");
    assert_eq!(direct["large answer"]["result"], "104857600 bytes");
    assert_eq!(direct["deadline"]["code"], "DEADLINE_EXCEEDED");
    assert_eq!(direct.len(), 32, "cases");
}

#[test]
fn what_calls_came_to_is_in_the_access_log() {
    let server = Server::start("interop.py", &["serve"]);
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"127.0.0.1:{}\"], protocol: http2 }} }}
limits: {{ body: 1GiB }}
telemetry: {{ accessLog: {{ path: $DIR/log, format: text }} }}",
        server.port
    ));
    let _ = calls(&proxy.address("web").to_string());
    let file = proxy.dir().join("log");
    let has = |what: &str| {
        let log = std::fs::read_to_string(&file).unwrap_or_default();
        log.lines()
            .any(|line| line.contains("/test.Interop/") && line.contains(what))
    };
    let deadline = Instant::now() + PATIENCE;
    // Behind messages, and where there is nothing else.
    for status in 0..=16 {
        while !has(&format!(" grpc={status}")) {
            assert!(Instant::now() < deadline, "grpc={status}");
        }
    }
}

#[test]
fn ten_thousand_cancellations_leave_every_gauge_at_zero() {
    let (_server, mesh) = mesh();
    let outbound = mesh.outbound().to_string();
    // Some are given up before they are on their way.
    while mesh.client.metric("selvedge_requests_total", &[]) < 10_000.0 {
        let told = judge("interop.py", &["cancel", &outbound, "5000"]);
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["answers"], "on", "{told}");
    }
    for proxy in [&mesh.client, &mesh.server] {
        proxy.wait_for_metric("selvedge_requests_in_flight", &[], 0.0);
        let (_, shown) = proxy.get("admin", "/endpoints");
        let shown: Value = serde_json::from_str(&shown).unwrap();
        for (name, service) in shown.as_object().unwrap() {
            assert_eq!(service["inFlight"], 0, "{name}: {service}");
            assert_eq!(service["breaker"], "closed", "{name}");
            for endpoint in service["endpoints"].as_array().unwrap() {
                assert_eq!(endpoint["inFlight"], 0, "{name}: {endpoint}");
                assert_eq!(endpoint["state"], "available", "{name}: {endpoint}");
            }
        }
    }
}
