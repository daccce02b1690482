//! `selvedge dev`, as the README starts it.

use std::path::Path;
use std::process::Command;

use selvedge_tests::process::binary;
use selvedge_tests::{Raw, Selvedge};

fn dev(text: &str) -> Selvedge {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dev.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    command.arg("dev").arg(&file);
    let mut mesh = Selvedge::spawn(command, dir, &[]);
    mesh.wait_for("stop: Ctrl-C");
    mesh
}

/// The address behind `try:  curl -s http://host:port/`, and the host.
fn to_try(mesh: &mut Selvedge) -> (std::net::SocketAddr, String) {
    let line = mesh.wait_for("try:");
    let authority = line.split("://").nth(1).unwrap().split('/').next().unwrap();
    let port: u16 = authority.rsplit(':').next().unwrap().parse().unwrap();
    (([127, 0, 0, 1], port).into(), authority.to_owned())
}

#[test]
fn the_shop_example_crosses_the_mesh() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("examples/shop/dev.yaml");
    let text = std::fs::read_to_string(example)
        .unwrap()
        .replace("port: 8080", "port: 0");
    let mut mesh = dev(&text);
    let (address, host) = to_try(&mut mesh);
    let mut client = Raw::connect(address);
    client.send(format!("GET /cart HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Client-Cert: URI=spiffe://shop.local/ns/dev/sa/admin\r\n\r\n"));
    let reply = client.reply();
    assert_eq!(reply.status, 200, "{}", reply.text());
    let web: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    let orders = &web["called"]["orders"];
    // Gateway -> web, and web -> orders: each proven by a certificate, whatever the client says.
    assert_eq!(web["peer"], "spiffe://shop.local/ns/dev/sa/gateway");
    assert_eq!(web["identity"], "spiffe://shop.local/ns/dev/sa/web");
    assert_eq!(orders["peer"], "spiffe://shop.local/ns/dev/sa/web");
    assert_eq!(orders["identity"], "spiffe://shop.local/ns/dev/sa/orders");
    assert_eq!(orders["path"], "/cart");
    mesh.signal("INT");
    assert_eq!(mesh.wait().code(), Some(0));
}

#[test]
fn who_is_not_allowed_is_refused_and_a_dead_workload_comes_back() {
    let mut mesh = dev("gateway:
  listeners: [{ name: web, port: 0 }]
  routes:
    - rules:
        - { matches: [{ path: /orders }], backendRefs: [{ service: orders }] }
        - { matches: [{ path: /once }], backendRefs: [{ service: once }] }
workloads:
  web: { echo: true, calls: [orders] }
  orders: { echo: true, allow: [web] }
  once: { run: 'echo hello from once; exit 3' }
");
    let (address, _) = to_try(&mut mesh);
    assert_eq!(
        Raw::connect(address).get("/orders").status,
        403,
        "the gateway is not web"
    );
    mesh.wait_for("once | hello from once");
    mesh.wait_for("once | ended: exit status: 3; restart in");
    mesh.wait_for_next("once | hello from once");
}
