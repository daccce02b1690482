//! Services and endpoints from the Kubernetes API, by what a sidecar and a gateway do with them.

use std::net::SocketAddr;
use std::time::Instant;

use selvedge_tests::cluster::{headless, ready, service, slice, slice_at};
use selvedge_tests::{KubeApi, PATIENCE, Raw, Selvedge, Upstream, gateway, sidecar};
use serde_json::{Value, json};

/// The section by which a proxy finds this API.
fn section(api: &KubeApi, more: &str) -> String {
    format!(
        "kubernetes: {{ server: \"{}\", token: {}, ca: {}, namespace: shop{more} }}",
        api.url(),
        api.token().display(),
        api.ca().display()
    )
}

/// A sidecar that knows nothing but the cluster.
fn web(api: &KubeApi, more: &str) -> Selvedge {
    sidecar(&format!(
        "{}\noutbound: {{ bind: \"127.0.0.1:0\" }}\n",
        section(api, more)
    ))
}

fn call(proxy: &Selvedge, host: &str) -> (u16, String) {
    let mut client = Raw::connect(proxy.address("outbound"));
    client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let reply = client.reply();
    (reply.status, reply.text())
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// The addresses of a service's endpoints, as the admin port tells them.
fn endpoints(proxy: &Selvedge, service: &str) -> Vec<String> {
    let (_, text) = proxy.get("admin", "/endpoints");
    let all: Value = serde_json::from_str(&text).unwrap();
    let list = all[service]["endpoints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let address = |e: &Value| e["address"].as_str().unwrap().to_owned();
    list.iter().map(address).collect()
}

/// What `/ready` says of it.
fn discovery(ready: &str) -> String {
    let ready: Value = serde_json::from_str(ready).unwrap();
    ready["discovery"].as_str().unwrap().to_owned()
}

fn orders() -> Value {
    service("shop", "orders", &[("http", 80)])
}

#[test]
fn what_the_application_calls_is_found_followed_and_forgotten() {
    let api = KubeApi::start();
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    api.put(orders());
    api.put(slice_at(&orders(), "a", one.address()));
    let web = web(&api, ", idle: 1s");
    assert!(api.watches().is_empty());
    for host in [
        "orders",
        "orders.shop",
        "orders.shop.svc:80",
        "orders.shop.svc.cluster.local",
    ] {
        assert_eq!(call(&web, host), (200, "one".into()), "{host}");
    }
    // One look-up for all of them, one watch of the service and one of its slices.
    assert_eq!(
        web.metric("selvedge_discovery_lookups_total", &["found"]),
        1.0
    );
    api.wait_for_watches(|open| {
        let mut what: Vec<_> = open
            .iter()
            .map(|w| (w.resource.as_str(), w.fields.as_str(), w.labels.as_str()))
            .collect();
        what.sort_unstable();
        what == [
            ("endpointslices", "", "kubernetes.io/service-name=orders"),
            ("services", "metadata.name=orders", ""),
        ]
    });
    api.put(slice_at(&orders(), "a", two.address()));
    wait_until("the other endpoint", || {
        call(&web, "orders") == (200, "two".into())
    });
    // Nobody calls it any more: nothing of it is held.
    api.wait_for_watches(<[_]>::is_empty);
    wait_until("it is still there", || {
        endpoints(&web, "shop/orders:80").is_empty()
    });
    assert_eq!(call(&web, "orders"), (200, "two".into()));
}

#[test]
fn a_crowd_asks_once() {
    let api = KubeApi::start();
    let app = Upstream::answering("app");
    api.put(orders());
    api.put(slice_at(&orders(), "a", app.address()));
    let web = web(&api, "");
    api.delay(std::time::Duration::from_millis(50));
    let address = web.address("outbound");
    let ask = || {
        let mut client = Raw::connect(address);
        client.send("GET / HTTP/1.1\r\nHost: orders.shop\r\n\r\n");
        client.reply().status
    };
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..12).map(|_| scope.spawn(ask)).collect();
        for caller in callers {
            assert_eq!(caller.join().unwrap(), 200);
        }
    });
    // One look-up, then the list that its watch begins with.
    assert_eq!(api.requests("list", "services"), 2);
}

#[test]
fn a_reload_keeps_what_was_found() {
    let api = KubeApi::start();
    let app = Upstream::answering("app");
    api.put(orders());
    api.put(slice_at(&orders(), "a", app.address()));
    let mut web = web(&api, "");
    assert_eq!(call(&web, "orders"), (200, "app".into()));
    let file = web.dir().join("config.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\nlimits: {{ uri: 4KiB }}\n")).unwrap();
    web.wait_for("configuration reloaded");
    assert_eq!(call(&web, "orders"), (200, "app".into()));
    assert_eq!(
        web.metric("selvedge_discovery_lookups_total", &["found"]),
        1.0
    );
    assert_eq!(web.metric("selvedge_discovery_lists_total", &[]), 2.0);
    // Where the cluster is, and which, is for a restart to change.
    let elsewhere = text.replace("namespace: shop", "namespace: bank");
    std::fs::write(&file, elsewhere).unwrap();
    web.wait_for("takes effect with a restart");
    assert_eq!(call(&web, "orders"), (200, "app".into()));
}

#[test]
fn what_the_configuration_names_is_called_by_its_rule() {
    let api = KubeApi::start();
    let app = Upstream::answering("app");
    api.put(orders());
    api.put(slice_at(&orders(), "a", app.address()));
    let web = sidecar(&format!(
        "{}\noutbound: {{ bind: \"127.0.0.1:0\" }}\nservices: {{ mine: {{ kubernetes: {{ service: orders, port: http }} }} }}\n",
        section(&api, "")
    ));
    wait_until("it is followed", || endpoints(&web, "mine").len() == 1);
    for host in ["mine", "orders", "orders.shop"] {
        assert_eq!(call(&web, host), (200, "app".into()), "{host}");
    }
    web.wait_for_metric("selvedge_requests_total", &["route=\"outbound/mine\""], 3.0);
}

#[test]
fn ports_are_services_of_their_own() {
    let api = KubeApi::start();
    let (http, admin) = (Upstream::answering("http"), Upstream::answering("admin"));
    let both = service("shop", "orders", &[("http", 8000), ("admin", 9000)]);
    api.put(both.clone());
    let mut slice = slice_at(&both, "a", http.address());
    slice["ports"][1]["port"] = json!(admin.address().port());
    api.put(slice);
    let web = web(&api, "");
    assert_eq!(call(&web, "orders:8000"), (200, "http".into()));
    assert_eq!(call(&web, "orders.shop:9000"), (200, "admin".into()));
    // Which of two is meant, nobody knows.
    assert_eq!(call(&web, "orders").0, 404);
    assert_eq!(call(&web, "orders:7000").0, 404);
}

#[test]
fn headless_services_are_called_at_their_pods() {
    let api = KubeApi::start();
    let app = Upstream::answering("pod");
    let mut db = headless("shop", "db", &[("http", 5000)]);
    db["spec"]["ports"][0]["targetPort"] = json!(app.address().port());
    api.put(db.clone());
    api.put(slice_at(&db, "a", app.address()));
    let web = web(&api, "");
    assert_eq!(call(&web, "db.shop:5000"), (200, "pod".into()));
    assert_eq!(
        call(&web, &format!("db:{}", app.address().port())),
        (200, "pod".into())
    );
    // A name of one pod is none of a service.
    assert_eq!(call(&web, "db-0.db.shop:5000").0, 404);
}

#[test]
fn what_cannot_be_called_says_why() {
    let api = KubeApi::start();
    api.put(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "ext", "namespace": "shop" },
        "spec": { "type": "ExternalName", "externalName": "db.example.com" },
    }));
    api.put(service("shop", "empty", &[("http", 80)]));
    let web = web(&api, "");
    let (status, text) = call(&web, "ext");
    assert_eq!(status, 502);
    assert!(text.contains("ExternalName"), "{text}");
    assert_eq!(call(&web, "empty").0, 503);
    assert_eq!(call(&web, "nobody").0, 404);
    assert_eq!(call(&web, "www.example.com").0, 404);
    // Asked once: what is not there is remembered.
    let lists = api.requests("list", "services");
    assert_eq!(call(&web, "nobody").0, 404);
    assert_eq!(api.requests("list", "services"), lists);
    assert_eq!(
        web.metric("selvedge_discovery_lookups_total", &["unknown"]),
        1.0
    );
}

#[test]
fn a_service_that_is_deleted_is_none_any_more() {
    let api = KubeApi::start();
    let app = Upstream::answering("app");
    api.put(orders());
    api.put(slice_at(&orders(), "a", app.address()));
    let web = web(&api, "");
    assert_eq!(call(&web, "orders").0, 200);
    api.delete("services", "shop", "orders");
    wait_until("it is still called", || call(&web, "orders").0 == 404);
}

#[test]
fn the_api_may_be_away() {
    let api = KubeApi::start();
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    api.put(orders());
    api.put(slice_at(&orders(), "a", one.address()));
    let mut web = web(&api, "");
    assert_eq!(call(&web, "orders"), (200, "one".into()));
    api.go_away();
    web.wait_for("gives no answer");
    let (status, ready) = web.get("health", "/ready");
    assert_eq!(status, 200, "{ready}");
    assert!(discovery(&ready).contains("orders"), "{ready}");
    for _ in 0..50 {
        assert_eq!(call(&web, "orders"), (200, "one".into()));
    }
    // What is not known is asked for, in vain and not for long.
    assert_eq!(call(&web, "other").0, 404);
    api.put(slice_at(&orders(), "a", two.address()));
    api.come_back();
    wait_until("what happened meanwhile", || {
        call(&web, "orders") == (200, "two".into())
    });
    wait_until("ready", || {
        discovery(&web.get("health", "/ready").1) == "ok"
    });
}

#[test]
fn watches_that_break_or_come_too_late_begin_anew() {
    let api = KubeApi::start();
    api.put(orders());
    let all = |count: usize| -> Vec<Value> {
        (1..=count)
            .map(|n| ready(&format!("127.0.1.{n}")))
            .collect()
    };
    api.put(slice(&orders(), "a", 8080, &all(3)));
    let web = sidecar(&format!(
        "{}\noutbound: {{ bind: \"127.0.0.1:0\" }}\nservices: {{ orders: {{ kubernetes: {{ service: orders }} }} }}\n",
        section(&api, "")
    ));
    let count = || endpoints(&web, "orders").len();
    wait_until("three", || count() == 3);
    for (round, by_status) in [(0u32, false), (1, true), (2, false)] {
        api.gone_by_status(by_status);
        // Broken and gone in one: nothing of what happens between is told.
        api.go_away();
        api.put(slice(&orders(), "a", 8080, &all(10 + round as usize)));
        api.put(slice(
            &orders(),
            "b",
            8080,
            &[ready(&format!("127.0.2.{round}"))],
        ));
        api.delete("endpointslices", "shop", "orders-c");
        api.compact();
        api.come_back();
        wait_until("after 410", || count() == 11 + round as usize);
        api.put(slice(&orders(), "c", 8080, &[ready("127.0.3.1")]));
        wait_until("the watch goes on", || count() == 12 + round as usize);
        // Both watches have found their versions gone, each once.
        let lists = f64::from(2 * (round + 2));
        web.wait_for_metric("selvedge_discovery_lists_total", &[], lists);
        api.drop_watches();
        api.put(slice(&orders(), "c", 8080, &all(2)));
        wait_until("after a cut", || count() == 11 + round as usize);
        // That needs no new list.
        assert_eq!(web.metric("selvedge_discovery_lists_total", &[]), lists);
    }
}

#[test]
fn a_gateway_looks_at_a_namespace_once() {
    let api = KubeApi::start();
    let apps: Vec<_> = (0..20).map(|_| Upstream::answering("here")).collect();
    let mut routes = String::new();
    let mut services = String::new();
    for (number, app) in apps.iter().enumerate() {
        let own = service("shop", &format!("s{number}"), &[("http", 80)]);
        api.put(own.clone());
        api.put(slice_at(&own, "a", app.address()));
        routes.push_str(&format!("  - {{ hostnames: [s{number}.example], rules: [{{ backendRefs: [{{ service: s{number} }}] }}] }}\n"));
        services.push_str(&format!(
            "  s{number}: {{ kubernetes: {{ service: s{number}, port: http }} }}\n"
        ));
    }
    let noise = service("shop", "noise", &[("http", 80)]);
    api.put(noise.clone());
    let edge = gateway(&format!(
        "{}\nlisteners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]\nroutes:\n{routes}services:\n{services}",
        section(&api, "")
    ));
    wait_until("all", || {
        (0..20).all(|n| endpoints(&edge, &format!("s{n}")).len() == 1)
    });
    api.wait_for_watches(|open| {
        open.len() == 2 && open.iter().all(|w| w.namespace.as_deref() == Some("shop"))
    });
    let ask = |host: &str| {
        let mut client = Raw::connect(edge.address("web"));
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.reply().status
    };
    assert_eq!(ask("s7.example"), 200);
    api.put(slice_at(
        &noise,
        "a",
        "127.0.0.1:1".parse::<SocketAddr>().unwrap(),
    ));
    api.delete("endpointslices", "shop", "s7-a");
    wait_until("none", || ask("s7.example") == 503);
    assert!(endpoints(&edge, "shop/noise:80").is_empty());
}

#[test]
fn manifests_stand_in_for_the_api() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Upstream::answering("one"), Upstream::answering("two"));
    let write = |app: &Upstream| {
        let all = json!({ "apiVersion": "v1", "kind": "List", "items": [orders(), slice_at(&orders(), "a", app.address())] });
        let noise = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: { name: a }\n";
        let text = format!("{noise}---\n{all}\n");
        // As kubectl and editors do it: the file is there as a whole or not at all.
        let new = dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, dir.path().join("shop.yaml")).unwrap();
    };
    write(&one);
    let mut web = sidecar(&format!(
        "kubernetes: {{ namespace: shop, manifests: {} }}\noutbound: {{ bind: \"127.0.0.1:0\" }}\n",
        dir.path().display()
    ));
    assert_eq!(call(&web, "orders"), (200, "one".into()));
    write(&two);
    wait_until("the other", || call(&web, "orders") == (200, "two".into()));
    std::fs::write(dir.path().join("shop.yaml"), "{ kind: [").unwrap();
    web.wait_for("manifests");
    assert_eq!(call(&web, "orders"), (200, "two".into()));
    wait_until("it is said", || {
        web.get("health", "/ready").1.contains("shop.yaml")
    });
}
