//! SC-07: gRPC's own library sees through two sidecars what it sees without them.

use serde_json::Value;

use selvedge_tests::python::{Server, judge};
use selvedge_tests::{Selvedge, TestCa, sidecar};
use tempfile::TempDir;

struct Mesh {
    _dir: TempDir,
    server: Server,
    orders: Selvedge,
    web: Selvedge,
}

impl Mesh {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = TestCa::new();
        let bundle = dir.path().join("bundle.pem");
        std::fs::write(&bundle, ca.bundle()).unwrap();
        let identity = |name: &str| {
            let svid = ca.svid(&format!("spiffe://shop.local/ns/shop/sa/{name}"));
            let (certificate, key) = svid.write(dir.path(), name);
            format!(
                "identity: {{ trustDomain: shop.local, bundle: {}, certificate: {}, key: {} }}",
                bundle.display(),
                certificate.display(),
                key.display()
            )
        };
        let server = Server::start("interop.py", &["serve"]);
        let orders = sidecar(&format!(
            "{}\ninbound: [{{ bind: 127.0.0.1, port: 0, app: \"127.0.0.1:{}\", protocol: http2, mtls: strict }}]",
            identity("orders"),
            server.port
        ));
        let web = sidecar(&format!(
            "{}\noutbound: {{ bind: \"127.0.0.1:0\" }}
services: {{ app: {{ endpoints: [\"{}\"], mesh: {{}} }} }}",
            identity("web"),
            orders.address("inbound-0")
        ));
        Self {
            _dir: dir,
            server,
            orders,
            web,
        }
    }

    fn outbound(&self) -> String {
        self.web.address("outbound").to_string()
    }
}

fn calls(address: &str) -> Value {
    serde_json::from_str(&judge("interop.py", &["call", address])).unwrap()
}

#[test]
fn every_kind_of_call_is_the_same_as_without_proxies() {
    let mesh = Mesh::start();
    let direct = calls(&format!("127.0.0.1:{}", mesh.server.port));
    let through = calls(&mesh.outbound());
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
fn ten_thousand_cancellations_leave_every_gauge_at_zero() {
    let mesh = Mesh::start();
    // Some are given up before they are on their way.
    while mesh.web.metric("selvedge_requests_total", &[]) < 10_000.0 {
        let told = judge("interop.py", &["cancel", &mesh.outbound(), "5000"]);
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["answers"], "on", "{told}");
    }
    for proxy in [&mesh.web, &mesh.orders] {
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
