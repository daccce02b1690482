//! The examples of the gateway do what their pages say.

use std::path::Path;

use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Reply, Selvedge, Upstream};
use serde_json::{Value, json};

/// An example, with ports of the system's choice and these applications behind it.
fn example(name: &str, services: &[(&str, &Upstream)]) -> Selvedge {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("examples").join(name).join("gateway.yaml"));
    let mut text = text.unwrap().replace("port: 8080", "port: 0");
    text = text.replace(
        "file: examples/",
        &format!("file: {}/examples/", root.display()),
    );
    for (address, upstream) in services {
        text = text.replace(address, &upstream.address().to_string());
    }
    gateway(&text)
}

fn ask(proxy: &Selvedge, listener: &str, line: &str, fields: &str) -> Reply {
    let mut client = Raw::connect(proxy.address(listener));
    client.send(format!(
        "{line} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{fields}\r\n"
    ));
    client.reply()
}

/// The keys that the example's page names.
fn page_keys() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("examples/api-gateway/README.md")).unwrap();
    let parts = page.split("slv_").skip(1);
    parts.map(|part| format!("slv_{}", &part[..64])).collect()
}

#[test]
fn api_gateway() {
    let (old, new) = (Upstream::answering("old"), Upstream::answering("new"));
    let proxy = example(
        "api-gateway",
        &[("127.0.0.1:9001", &old), ("127.0.0.1:9002", &new)],
    );
    let keys = page_keys();
    let send = |line: &str, key: &str, more: &str| {
        ask(&proxy, "api", line, &format!("X-API-Key: {key}\r\n{more}"))
    };
    assert_eq!(ask(&proxy, "api", "GET /v1/orders", "").status, 401);
    let reply = send("GET /v1/orders", &keys[0], "");
    assert_eq!((reply.status, reply.text()), (200, "old".to_owned()));
    assert_eq!(reply.header("deprecation"), Some("@1780272000"));
    assert_eq!(
        reply.header("sunset"),
        Some("Wed, 30 Jun 2027 00:00:00 GMT")
    );
    let told = |reply: &Reply| {
        let policies = reply
            .headers
            .iter()
            .filter(|(n, _)| n == "RateLimit-Policy");
        policies
            .map(|(_, v)| v.clone())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert!(told(&reply).contains("q=100;"), "{}", told(&reply));
    assert!(old.all().contains("GET /orders HTTP/1.1") && old.all().contains("X-Consumer: trial"));
    assert!(!old.all().contains("slv_"), "{}", old.all());
    let reply = send("GET /anything", &keys[1], "X-Api-Version: 2\r\n");
    assert_eq!((reply.status, reply.text()), (200, "new".to_owned()));
    assert!(told(&reply).contains("q=10000;"), "{}", told(&reply));
    assert_eq!(send("POST /v2/orders", &keys[0], "").status, 403);
    assert_eq!(send("POST /v2/orders", &keys[1], "").status, 200);
    let statuses: Vec<u16> = (0..100)
        .map(|_| send("GET /v1/x", &keys[0], "").status)
        .collect();
    assert_eq!(
        statuses.iter().filter(|s| **s == 429).count(),
        2,
        "{statuses:?}"
    );
    assert!(proxy.metric("selvedge_version_requests_total", &["\"v1\""]) >= 99.0);
}

#[test]
fn bff() {
    let users = Upstream::answering("{\"id\":7,\"name\":\"Bo\",\"address\":\"here\"}");
    let orders = Upstream::answering("[{\"id\":1,\"state\":\"sent\",\"price\":3}]");
    let gone = "127.0.0.1:9003";
    let proxy = example(
        "bff",
        &[("127.0.0.1:9001", &users), ("127.0.0.1:9002", &orders)],
    );
    let get = |fields: &str| {
        let reply = ask(&proxy, "web", "GET /home?user=7", fields);
        let body: Value = serde_json::from_slice(&reply.body).unwrap();
        (reply.status, body)
    };
    assert_eq!(
        get("X-Client: mobile\r\n"),
        (
            200,
            json!({ "hello": "Bo", "orders": [{ "id": 1, "state": "sent" }] })
        )
    );
    assert_eq!(
        get(""),
        (
            200,
            json!({ "id": 7, "name": "Bo", "address": "here", "ads": null,
            "orders": [{ "id": 1, "state": "sent", "price": 3 }], "partial": ["ads"] })
        ),
        "with nobody at {gone}"
    );
    assert!(
        orders.all().contains("GET /orders?user=7&limit=3 "),
        "{}",
        orders.all()
    );
}

#[test]
fn cached_catalogue() {
    let shop = Upstream::scripted(|connection| {
        let mut count = 0;
        while connection.request().is_some() {
            count += 1;
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nCache-Tag: product-7\r\nContent-Length: 1\r\n\r\n{count}"
            ));
        }
    });
    let proxy = example("cached-catalogue", &[("127.0.0.1:9001", &shop)]);
    let get = || ask(&proxy, "web", "GET /catalogue/7", "");
    assert_eq!(
        get().header("cache-status"),
        Some("selvedge; fwd=miss; stored")
    );
    assert!(
        get()
            .header("cache-status")
            .unwrap()
            .starts_with("selvedge; hit; ttl=")
    );
    let mut admin = Raw::connect(proxy.address("admin"));
    admin.send("POST /cache/purge?tag=product-7 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(admin.reply().status, 200);
    assert_eq!(
        get().header("cache-status"),
        Some("selvedge; fwd=miss; stored")
    );
    assert_eq!(
        ask(&proxy, "web", "GET /basket", "").header("cache-status"),
        None
    );
}
