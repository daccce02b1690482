//! Endpoints of a cluster that are in the mesh and ones that are not, behind one service.

use std::time::Instant;

use selvedge_tests::cluster::{pod, ready, ready_pod, service, slice, slice_at};
use selvedge_tests::{KubeApi, PATIENCE, Raw, Selvedge, TestCa, Upstream, sidecar};
use serde_json::{Value, json};
use tempfile::TempDir;

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";

struct Shop {
    api: KubeApi,
    ca: TestCa,
    dir: TempDir,
    app: Upstream,
    orders: Selvedge,
}

impl Shop {
    /// An application behind a sidecar that lets nobody in but by mutual TLS.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (api, ca) = (KubeApi::start(), TestCa::new());
        let app = Upstream::answering("meshed");
        let orders = sidecar(&format!(
            "{}\ninbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\", mtls: strict }}]",
            identity(&ca, &dir, ORDERS, "orders"),
            app.address()
        ));
        api.put(service("shop", "orders", &[("http", 80)]));
        Self {
            api,
            ca,
            dir,
            app,
            orders,
        }
    }

    fn service(&self) -> Value {
        self.api.find("services", "shop", "orders").unwrap()
    }

    /// The slice of the endpoint in the mesh, which is this pod.
    fn meshed_slice(&self, pod: &Value) -> Value {
        let port = self.orders.address("inbound-0").port();
        slice(
            &self.service(),
            "mesh",
            port,
            &[ready_pod("127.0.0.1", pod)],
        )
    }

    /// A caller with an identity.
    fn web(&self, more: &str) -> Selvedge {
        sidecar(&format!(
            "{}\nkubernetes: {{ server: \"{}\", token: {}, ca: {}, namespace: shop }}\noutbound: {{ bind: \"127.0.0.1:0\" }}\n{more}",
            identity(&self.ca, &self.dir, WEB, "web"),
            self.api.url(),
            self.api.token().display(),
            self.api.ca().display()
        ))
    }
}

fn identity(ca: &TestCa, dir: &TempDir, id: &str, name: &str) -> String {
    let (certificate, key) = ca.svid(id).write(dir.path(), name);
    let bundle = dir.path().join("bundle.pem");
    std::fs::write(&bundle, ca.bundle()).unwrap();
    format!(
        "identity: {{ trustDomain: shop.local, bundle: {}, certificate: {}, key: {} }}",
        bundle.display(),
        certificate.display(),
        key.display()
    )
}

fn call(web: &Selvedge) -> (u16, String) {
    let mut client = Raw::connect(web.address("outbound"));
    client.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
    let reply = client.reply();
    (reply.status, reply.text())
}

fn count(web: &Selvedge, service: &str) -> usize {
    let (_, text) = web.get("admin", "/endpoints");
    let all: Value = serde_json::from_str(&text).unwrap();
    all[service]["endpoints"].as_array().map_or(0, Vec::len)
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_rollout_half_way_is_called_as_it_is() {
    let shop = Shop::new();
    let plain = Upstream::answering("plain");
    let meshed = shop
        .api
        .put(pod("shop", "orders", "orders-1", "orders", true));
    let bare = shop
        .api
        .put(pod("shop", "orders", "orders-2", "orders", false));
    shop.api.put(shop.meshed_slice(&meshed));
    let at = plain.address();
    shop.api.put(slice(
        &shop.service(),
        "plain",
        at.port(),
        &[ready_pod("127.0.0.1", &bare)],
    ));
    let web = shop.web("");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let (status, text) = call(&web);
        assert_eq!(status, 200);
        seen.insert(text);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["meshed", "plain"]);
    let heads = shop.app.all();
    assert!(heads.contains(&format!("By={ORDERS};URI={WEB}")), "{heads}");
    assert!(
        !plain
            .all()
            .to_lowercase()
            .contains("x-forwarded-client-cert")
    );
    // Only its own pods are looked at, by the service's selector.
    let pods = shop
        .api
        .watches()
        .into_iter()
        .find(|w| w.resource == "pods")
        .unwrap();
    assert_eq!(
        (pods.namespace.as_deref(), pods.labels.as_str()),
        (Some("shop"), "app=orders")
    );
}

#[test]
fn what_was_in_the_mesh_is_never_called_in_plaintext() {
    let shop = Shop::new();
    let meshed = shop
        .api
        .put(pod("shop", "orders", "orders-1", "orders", true));
    shop.api.put(shop.meshed_slice(&meshed));
    let web = shop.web("");
    assert_eq!(call(&web), (200, "meshed".into()));
    // Whoever may write a pod takes its annotation away; its sidecar is there as before.
    shop.api.edit("pods", "shop", "orders-1", |pod| {
        pod["metadata"]["annotations"]
            .as_object_mut()
            .unwrap()
            .remove("selvedge.dev/status");
    });
    let gone = slice_at(&shop.service(), "late", "127.0.0.9:9".parse().unwrap());
    shop.api.put(gone);
    wait_until("the later one", || count(&web, "shop/orders:80") == 2);
    shop.api.delete("endpointslices", "shop", "orders-late");
    wait_until("one is left", || count(&web, "shop/orders:80") == 1);
    for _ in 0..10 {
        assert_eq!(call(&web), (200, "meshed".into()));
    }
}

#[test]
fn another_account_is_another_peer() {
    let shop = Shop::new();
    // The pod says an account that its sidecar cannot show.
    let other = shop
        .api
        .put(pod("shop", "orders", "orders-1", "billing", true));
    shop.api.put(shop.meshed_slice(&other));
    let web = shop.web("");
    let (status, text) = call(&web);
    assert_eq!(status, 503);
    assert!(text.contains("another identity"), "{text}");
    assert!(shop.app.seen().is_empty());
}

#[test]
fn nobody_is_called_before_it_is_known_who_it_is() {
    let shop = Shop::new();
    let mut unknown = pod("shop", "orders", "orders-1", "orders", true);
    unknown["metadata"]["uid"] = json!("not-made-yet");
    let own = "services: { own: { kubernetes: { service: orders } } }\n";
    shop.api.put(shop.meshed_slice(&unknown));
    shop.api
        .put(slice(&shop.service(), "sure", 9, &[ready("127.0.0.9")]));
    let web = shop.web(own);
    wait_until("what is no pod", || count(&web, "own") == 1);
    let known = shop
        .api
        .put(pod("shop", "orders", "orders-1", "orders", true));
    shop.api.put(shop.meshed_slice(&known));
    wait_until("the pod", || count(&web, "own") == 2);
}

#[test]
fn without_leave_to_see_pods_nothing_is_called() {
    let shop = Shop::new();
    shop.api.forbid("*", "*", "pods");
    let meshed = shop
        .api
        .put(pod("shop", "orders", "orders-1", "orders", true));
    shop.api.put(shop.meshed_slice(&meshed));
    let web = shop.web("services: { orders: { kubernetes: { service: orders } } }\n");
    web.wait_for_log("pods in shop");
    assert_eq!(call(&web).0, 503);
    let (status, ready) = web.get("health", "/ready");
    assert_eq!(status, 200);
    assert!(
        ready.contains("pods in shop") && ready.contains("forbidden"),
        "{ready}"
    );
    // Leave is given: nobody has to start anything anew.
    shop.api.allow("*", "*", "pods");
    wait_until("it is called", || call(&web).0 == 200);
    assert!(shop.app.seen().iter().all(|seen| !seen.text().is_empty()));
}

#[test]
fn ports_that_are_reached_without_the_sidecar_are_called_in_plaintext() {
    let shop = Shop::new();
    let plain = Upstream::answering("plain");
    let port = plain.address().port();
    for (name, mesh) in [
        ("skipped", json!({ "except": [port.to_string()] })),
        ("none", json!({ "only": [] })),
    ] {
        let mut one = pod("shop", "orders", name, "orders", true);
        one["metadata"]["annotations"]["selvedge.dev/status"] =
            json!(json!({ "mesh": mesh }).to_string());
        let one = shop.api.put(one);
        let endpoints = [ready_pod("127.0.0.1", &one)];
        shop.api
            .put(slice(&shop.service(), "plain", port, &endpoints));
        let web = shop.web("");
        assert_eq!(call(&web), (200, "plain".to_owned()), "{name}");
    }
}
