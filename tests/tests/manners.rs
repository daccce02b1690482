//! What the edge does for browsers and for clients of old versions, from outside.

use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Reply, Selvedge, Upstream};

fn edge(upstream: &Upstream, policies: &str, names: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [{names}] }}]
policies: {{ {policies} }}
routes:
  - rules:
      - {{ matches: [{{ path: /gone }}], backendRefs: [{{ service: gone }}] }}
      - {{ matches: [{{ path: / }}], backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"] }}, gone: {{ endpoints: [\"127.0.0.1:1\"] }} }}",
        upstream.address()
    ))
}

fn send(proxy: &Selvedge, line: &str, fields: &str) -> Reply {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!(
        "{line} HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n{fields}\r\n"
    ));
    let method = line.split(' ').next().unwrap();
    client.try_reply_to(method).unwrap()
}

#[test]
fn what_foreign_pages_send_changes_nothing() {
    let upstream = Upstream::answering("ok");
    let policies = "own: { csrf: { trustedOrigins: [\"https://pay.example\"] } }";
    let proxy = edge(&upstream, policies, "own");
    for (line, fields, want) in [
        ("POST /", "Sec-Fetch-Site: cross-site\r\n", 403),
        ("POST /", "Sec-Fetch-Site: same-site\r\n", 403),
        ("DELETE /", "Origin: https://evil.example\r\n", 403),
        ("POST /", "Origin: null\r\n", 403),
        ("POST /", "Origin: http://shop.example.evil\r\n", 403),
        ("POST /", "Origin: https://shop.example\r\n", 403),
        ("POST /", "Sec-Fetch-Site: same-origin\r\n", 200),
        ("POST /", "Origin: http://shop.example\r\n", 200),
        (
            "POST /",
            "Sec-Fetch-Site: cross-site\r\nOrigin: https://pay.example\r\n",
            200,
        ),
        ("POST /", "", 200),
        ("GET /", "Sec-Fetch-Site: cross-site\r\n", 200),
    ] {
        assert_eq!(send(&proxy, line, fields).status, want, "{line} {fields}");
    }
    // Nor do they open what may say anything once it is open.
    let socket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-Fetch-Site: same-site\r\nOrigin: https://evil.example\r\n";
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: shop.example\r\n{socket}\r\n"
    ));
    assert_eq!(client.reply().status, 403);
    assert_eq!(upstream.all().matches(" / HTTP/1.1").count(), 5);
}

#[test]
fn responses_protect_users_and_tell_nothing_of_the_server() {
    let upstream = Upstream::replying(
        "HTTP/1.1 200 OK\r\nServer: Old/1.0\r\nX-Powered-By: PHP/5\r\nX-Frame-Options: SAMEORIGIN\r\nContent-Length: 0\r\n\r\n",
    );
    let policies = "safe: { security: { hsts: { maxAge: 8760h }, contentSecurityPolicy: \"default-src 'self'\" } }";
    let proxy = edge(&upstream, policies, "safe");
    let reply = send(&proxy, "GET /", "");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    // What the application says stays.
    assert_eq!(reply.header("x-frame-options"), Some("SAMEORIGIN"));
    assert_eq!(
        reply.header("content-security-policy"),
        Some("default-src 'self'")
    );
    assert_eq!(
        reply.header("referrer-policy"),
        Some("strict-origin-when-cross-origin")
    );
    for name in ["server", "x-powered-by", "strict-transport-security"] {
        assert_eq!(reply.header(name), None, "{name}");
    }
    // Failures of the gateway itself are marked too.
    let reply = send(&proxy, "GET /gone", "");
    assert_eq!(
        (reply.status, reply.header("x-frame-options")),
        (503, Some("DENY"))
    );
}

#[test]
fn clients_are_told_when_a_version_ends() {
    let upstream = Upstream::answering("ok");
    let policies = "v1: { version: { name: v1, deprecated: 2024-01-01, sunset: 2099-12-31, link: \"https://docs.example/v2\" } }";
    let proxy = edge(&upstream, policies, "v1");
    let reply = send(&proxy, "GET /", "");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("deprecation"), Some("@1704067200"));
    assert_eq!(
        reply.header("sunset"),
        Some("Thu, 31 Dec 2099 00:00:00 GMT")
    );
    assert_eq!(
        reply.header("link"),
        Some("<https://docs.example/v2>; rel=\"deprecation\"; type=\"text/html\"")
    );
    proxy.wait_for_metric("selvedge_version_requests_total", &["\"v1\""], 1.0);
    let policies = "v1: { version: { name: v1, sunset: 2020-01-01, refuse: true } }";
    let proxy = edge(&upstream, policies, "v1");
    let reply = send(&proxy, "GET /", "");
    assert_eq!(
        (reply.status, reply.header("sunset").is_some()),
        (410, true)
    );
}

#[test]
fn pages_stand_in_for_failures() {
    let upstream = Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            let status = if request.windows(8).any(|w| w == b"/teapot ") {
                "418 Teapot"
            } else {
                "404 Not Found"
            };
            connection.send(format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nETag: \"a\"\r\nContent-Length: 3\r\n\r\napp"));
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("404.html");
    std::fs::write(&page, "<h1>Nothing here</h1>").unwrap();
    let policies = format!(
        "own: {{ errorPages: [
          {{ statuses: [\"404\"], upstream: true, html: {}, json: {{ code: missing }} }},
          {{ statuses: [\"500-599\"], status: 500, json: {{ code: sorry }} }} ] }}",
        page.display()
    );
    let proxy = edge(&upstream, &policies, "own");
    let reply = send(&proxy, "GET /x", "Accept: text/html\r\n");
    assert_eq!(
        (reply.status, reply.text()),
        (404, "<h1>Nothing here</h1>".to_owned())
    );
    assert_eq!(
        reply.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(reply.header("etag"), None);
    let reply = send(&proxy, "GET /x", "");
    assert_eq!(
        (reply.status, reply.text()),
        (404, "{\"code\":\"missing\"}".to_owned())
    );
    let reply = send(&proxy, "HEAD /x", "");
    assert_eq!(
        (reply.status, reply.header("content-length")),
        (404, Some("18"))
    );
    let reply = send(&proxy, "GET /gone", "");
    assert_eq!(
        (reply.status, reply.text()),
        (500, "{\"code\":\"sorry\"}".to_owned())
    );
    assert_eq!(
        reply.header("proxy-status"),
        Some("selvedge; error=connection_refused")
    );
    // What no rule takes has the listener's pages too.
    let text = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [own, safe] }}]
policies: {{ {policies}, safe: {{ security: {{}} }} }}
routes: [{{ rules: [{{ matches: [{{ path: /only }}], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    );
    let unrouted = send(&gateway(&text), "GET /other", "");
    assert_eq!(
        (unrouted.status, unrouted.text()),
        (404, "{\"code\":\"missing\"}".to_owned())
    );
    assert_eq!(unrouted.header("x-frame-options"), Some("DENY"));
    // What no page is for stays.
    let reply = send(&proxy, "GET /teapot", "");
    assert_eq!((reply.status, reply.text()), (418, "app".to_owned()));
}
