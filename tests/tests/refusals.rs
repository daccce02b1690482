//! What a client is told when its request fails: much inside the mesh, little outside.

use selvedge_tests::process::{gateway, sidecar};
use selvedge_tests::{Raw, Selvedge};

fn edge() -> Selvedge {
    gateway(
        "listeners: [{ name: web, bind: 127.0.0.1, port: 0 }]
routes: [{ rules: [{ matches: [{ path: /gone }], backendRefs: [{ service: gone }] }] }]
services: { gone: { endpoints: [\"127.0.0.1:1\"] } }",
    )
}

#[test]
fn the_gateway_gives_the_token_and_a_problem_document() {
    let proxy = edge();
    let mut client = Raw::connect(proxy.address("web"));
    let reply = client.get("/gone");
    assert_eq!(reply.status, 503);
    assert_eq!(
        reply.header("proxy-status"),
        Some("selvedge; error=connection_refused")
    );
    assert_eq!(
        reply.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(
        reply.text(),
        "{\"title\":\"Service Unavailable\",\"status\":503}\n"
    );
    let reply = client.get("/none");
    assert_eq!(
        reply.text(),
        "{\"title\":\"Not Found\",\"status\":404,\"detail\":\"no route matches\"}\n"
    );
    // What is no request is answered alike.
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET / HTTP/1.1\r\n\r\n");
    let reply = client.reply();
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.header("proxy-status"),
        Some("selvedge; error=http_request_error")
    );
    assert!(reply.text().starts_with("{\"title\":\"Bad Request\""));
}

#[test]
fn browsers_get_a_page_and_grpc_its_status() {
    let proxy = edge();
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET /none HTTP/1.1\r\nHost: a\r\nAccept: text/html,*/*;q=0.8\r\n\r\n");
    let reply = client.reply();
    assert_eq!(
        reply.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(
        reply.text().contains("<h1>Not Found</h1>"),
        "{}",
        reply.text()
    );
    client.send("POST /gone HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n");
    let reply = client.reply();
    assert_eq!(
        (reply.status, reply.header("grpc-status")),
        (200, Some("14"))
    );
    assert_eq!(reply.header("grpc-message"), Some("Service Unavailable"));
}

#[test]
fn the_mesh_gives_the_reason() {
    let proxy = sidecar(
        "outbound: { bind: 127.0.0.1:0 }
services: { gone: { endpoints: [\"127.0.0.1:1\"] } }
",
    );
    let mut client = Raw::connect(proxy.address("outbound"));
    client.send("GET / HTTP/1.1\r\nHost: gone\r\n\r\n");
    let reply = client.reply();
    assert_eq!(
        reply.header("proxy-status"),
        Some("selvedge; error=connection_refused; details=\"no connection to the endpoint\"")
    );
    assert_eq!(reply.text(), "503 no connection to the endpoint\n");
}
