//! Redirected connections to services of the cluster that nobody has said anything of: by the address
//! that the application calls.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use selvedge_tests::cluster::{headless, ready, service, slice};
use selvedge_tests::netns::Namespace;
use selvedge_tests::pod::{APP, Pod, serve};
use selvedge_tests::{KubeApi, TestCa};
use serde_json::json;

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";

struct World {
    api: KubeApi,
    web: Pod,
    far: Namespace,
}

/// A pod with its sidecar, and beyond the wire everything else: the API, and whoever answers.
fn world() -> World {
    let (near, far) = Namespace::pair();
    let listener = far.inside(0, || TcpListener::bind("10.7.0.2:0").unwrap());
    let api = KubeApi::start_on(listener);
    let config = format!(
        "inbound: [{{ bind: \"::\", port: 15006, transparent: true }}]
outbound: {{ bind: \"[::]:15001\", transparent: true }}
kubernetes: {{ server: \"{}\", token: {}, ca: {}, namespace: shop }}
",
        api.url(),
        api.token().display(),
        api.ca().display()
    );
    let web = Pod::new(near, &TestCa::new(), WEB, &config);
    web.redirect(&[]);
    World { api, web, far }
}

impl World {
    /// Answers every request on this port with a word.
    fn answer(&self, at: &str, word: &'static str) {
        let at: SocketAddr = at.parse().unwrap();
        let listener = self.far.inside(APP, || TcpListener::bind(at).unwrap());
        serve(listener, move |mut stream| {
            let mut part = [0; 4096];
            while stream.read(&mut part).unwrap_or(0) > 0 {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", word.len());
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(word.as_bytes());
            }
        });
    }

    fn curl(&self, url: &str) -> String {
        self.web.curl(&[url]).1
    }
}

#[test]
fn an_address_of_the_cluster_is_its_service() {
    let world = world();
    world.answer("10.7.0.2:8080", "first");
    world.answer("10.7.0.2:8081", "second");
    let mut orders = service("shop", "orders", &[("http", 80), ("admin", 81)]);
    orders["spec"]["clusterIP"] = json!("10.96.0.20");
    orders["spec"]["clusterIPs"] = json!(["10.96.0.20", "fd96::20"]);
    world.api.put(orders.clone());
    let mut both = slice(&orders, "a", 8080, &[ready("10.7.0.2")]);
    both["ports"][1]["port"] = json!(8081);
    world.api.put(both);
    // Nobody answers at the address itself: only what is known of it leads anywhere.
    assert_eq!(world.curl("http://10.96.0.20/"), "first");
    assert_eq!(world.curl("http://10.96.0.20:81/"), "second");
    // By its second family, which no index of the API has.
    assert_eq!(world.curl("http://[fd96::20]/"), "first");
    world.web.wait_for_line(&[
        "outbound",
        "service=shop/orders:80",
        "upstream=10.7.0.2:8080",
    ]);
    world.web.wait_for_line(&[
        "outbound",
        "service=shop/orders:81",
        "upstream=10.7.0.2:8081",
    ]);
    assert_eq!(
        world
            .api
            .watches()
            .iter()
            .filter(|w| w.resource == "services")
            .count(),
        1
    );
}

#[test]
fn an_address_of_nobody_passes_as_before() {
    let world = world();
    world.answer("10.7.0.2:8080", "by itself");
    assert_eq!(world.curl("http://10.7.0.2:8080/"), "by itself");
    let lists = world.api.requests("list", "services");
    assert_eq!(lists, 2, "by its address, and by all addresses");
    for _ in 0..5 {
        assert_eq!(world.curl("http://10.7.0.2:8080/"), "by itself");
    }
    // What the cluster does not know is not asked for with every connection.
    assert_eq!(world.api.requests("list", "services"), lists);
    world
        .web
        .wait_for_line(&["outbound", "service=passthrough", "upstream=10.7.0.2:8080"]);
    world.api.go_away();
    world.answer("10.7.0.2:8082", "still there");
    assert_eq!(world.curl("http://10.7.0.2:8082/"), "still there");
}

#[test]
fn a_headless_service_is_known_by_its_host() {
    let world = world();
    world.answer("10.7.0.2:8080", "one of two");
    let db = headless("shop", "db", &[("http", 8080)]);
    world.api.put(db.clone());
    world.api.put(slice(&db, "a", 8080, &[ready("10.7.0.2")]));
    // Its name leads to one of its pods; that one is down, and another is taken.
    let resolve = ["--resolve", "db.shop:8080:10.7.0.9", "http://db.shop:8080/"];
    assert_eq!(world.web.curl(&resolve).1, "one of two");
    world
        .web
        .wait_for_line(&["outbound", "service=shop/db:8080", "upstream=10.7.0.2:8080"]);
}
