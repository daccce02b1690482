//! Active health checks, as a user configures them and an endpoint and a client see them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use selvedge_tests::checked::check;
use selvedge_tests::python::Server;
use selvedge_tests::{PATIENCE, Raw, Selvedge, TestCa, Upstream, gateway, sidecar};

/// An application whose answer to `/healthz` is this status, and whose others are its name.
fn app(name: &'static str, status: &Arc<AtomicU32>) -> Upstream {
    app_with(name, status, "")
}

fn app_with(name: &'static str, status: &Arc<AtomicU32>, field: &'static str) -> Upstream {
    let status = status.clone();
    Upstream::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let checked = request.starts_with(b"GET /healthz");
            let status = if checked { status.load(Relaxed) } else { 200 };
            let length = name.len();
            connection.send(format!(
                "HTTP/1.1 {status} Said\r\n{field}Content-Length: {length}\r\n\r\n{name}"
            ));
        }
    })
}

fn well() -> Arc<AtomicU32> {
    Arc::new(AtomicU32::new(200))
}

/// A gateway before these endpoints, which are checked every tenth of a second.
fn before(endpoints: &[SocketAddr], health: &str, more: &str) -> Selvedge {
    let endpoints: Vec<_> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services:
  app:
    endpoints: [{}]
    slowStart: 0s
    health: {{ interval: 100ms, {health} }}
    {more}",
        endpoints.join(", ")
    ))
}

fn unhealthy(proxy: &Selvedge, count: u32) {
    proxy.wait_for_metric(
        "selvedge_service_endpoints_unhealthy",
        &["service=\"app\""],
        f64::from(count),
    );
}

/// Who answers a number of requests.
fn answers(proxy: &Selvedge, count: usize) -> Vec<String> {
    let mut client = Raw::connect(proxy.address("web"));
    let mut seen: Vec<_> = (0..count).map(|_| client.get("/").text()).collect();
    seen.sort();
    seen.dedup();
    seen
}

/// What the admin says of the first endpoint.
fn first(proxy: &Selvedge) -> serde_json::Value {
    let (_, shown) = proxy.get("admin", "/endpoints");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    shown["app"]["endpoints"][0].clone()
}

/// Waits until the first endpoint is in this state.
fn wait_for_state(proxy: &Selvedge, state: &str) -> serde_json::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let first = first(proxy);
        if first["state"] == state {
            return first;
        }
        assert!(Instant::now() < deadline, "not {state}: {first}");
    }
}

/// Waits until the last check of the first endpoint has found this.
fn wait_for_check(proxy: &Selvedge, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let first = first(proxy);
        if first["lastCheck"]["what"] == what {
            return;
        }
        assert!(Instant::now() < deadline, "not `{what}`: {first}");
    }
}

#[test]
fn who_fails_his_checks_gets_nothing_until_he_passes_them() {
    let (status, other) = (well(), well());
    let (a, b) = (app("a", &status), app("b", &other));
    let proxy = before(&[a.address(), b.address()], "path: /healthz", "");
    assert_eq!(answers(&proxy, 40), ["a", "b"]);
    status.store(500, Relaxed);
    unhealthy(&proxy, 1);
    assert_eq!(answers(&proxy, 40), ["b"]);
    let shown = wait_for_state(&proxy, "unhealthy");
    assert_eq!(shown["lastCheck"]["what"], "answered 500", "{shown}");
    proxy.wait_for_log("endpoint unhealthy");
    status.store(204, Relaxed);
    unhealthy(&proxy, 0);
    assert_eq!(answers(&proxy, 40), ["a", "b"]);
    assert!(proxy.metric("selvedge_service_health_checks_total", &["result=\"bad\""]) >= 3.0);
}

#[test]
fn where_nobody_is_well_all_are_used() {
    let status = Arc::new(AtomicU32::new(503));
    let (a, b) = (app("a", &status), app("b", &status));
    let proxy = before(&[a.address(), b.address()], "path: /healthz", "");
    unhealthy(&proxy, 2);
    assert_eq!(answers(&proxy, 40), ["a", "b"]);
}

#[test]
fn the_answer_has_to_be_what_was_asked_for() {
    let status = well();
    for (health, counts) in [
        ("path: /healthz, body: well", 0),
        ("path: /healthz, body: fine", 1),
        ("path: /healthz, status: [204, \"300-399\"]", 1),
        ("path: /healthz, status: [\"200-204\"]", 0),
        ("path: /healthz, timeout: 1ms, body: never", 1),
    ] {
        let (a, b) = (app("all is well", &status), Upstream::answering("fine"));
        let proxy = before(&[a.address()], health, "");
        unhealthy(&proxy, counts);
        // The same words are there for a second one.
        drop(before(&[a.address(), b.address()], health, ""));
        if counts == 0 {
            let good = ["result=\"good\""];
            let deadline = Instant::now() + PATIENCE;
            while proxy.metric("selvedge_service_health_checks_total", &good) < 3.0 {
                assert!(Instant::now() < deadline, "{health}");
            }
            unhealthy(&proxy, 0);
        }
    }
}

#[test]
fn the_question_is_the_one_that_was_configured() {
    let a = app("a", &well());
    let health =
        "path: \"/healthz?deep=1\", host: shop.example, headers: [{ name: X-Probe, value: mesh }]";
    let _proxy = before(&[a.address()], health, "");
    let seen = a.wait_until(|seen| seen.iter().any(|one| one.closed));
    let asked = seen[0].text().to_ascii_lowercase();
    assert!(
        asked.starts_with("get /healthz?deep=1 http/1.1\r\n"),
        "{asked}"
    );
    for line in ["host: shop.example\r\n", "x-probe: mesh\r\n"] {
        assert!(asked.contains(line), "{asked}");
    }
    // Each check is a connection of its own.
    assert_eq!(asked.matches("get ").count(), 1, "{asked}");
}

#[test]
fn a_degraded_endpoint_gets_less() {
    let status = well();
    let a = app_with("a", &status, "X-Degraded: true\r\n");
    let b = app("b", &well());
    let health = "path: /healthz, degraded: { header: X-Degraded, status: [218], share: 25 }";
    let proxy = before(&[a.address(), b.address()], health, "balance: random");
    let shown = wait_for_state(&proxy, "degraded");
    assert_eq!(shown["share"], 0.25, "{shown}");
    let mut client = Raw::connect(proxy.address("web"));
    let count = (0..500).filter(|_| client.get("/").text() == "a").count();
    // A fifth, give or take five standard deviations.
    assert!((55..=145).contains(&count), "{count} of 500");
    // Nor is it out by a status that means the same.
    status.store(218, Relaxed);
    wait_for_check(&proxy, "answered 218");
    wait_for_state(&proxy, "degraded");
}

#[test]
fn load_that_is_told_to_checks_counts() {
    let busy = app_with(
        "busy",
        &well(),
        "endpoint-load-metrics: TEXT cpu_utilization=0.9\r\n",
    );
    // Only its checks say it: what it answers to others has no such field.
    let idle = Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            let load = if request.starts_with(b"GET /healthz") {
                "endpoint-load-metrics: JSON {\"cpu_utilization\": 0.1}\r\n"
            } else {
                ""
            };
            connection.send(format!(
                "HTTP/1.1 200 OK\r\n{load}Content-Length: 4\r\n\r\nidle"
            ));
        }
    });
    let endpoints = [busy.address(), idle.address()];
    let proxy = before(&endpoints, "path: /healthz", "balance: reportedLoad");
    let deadline = Instant::now() + PATIENCE;
    while proxy
        .get("admin", "/endpoints")
        .1
        .matches("\"reportedLoad\": 0.")
        .count()
        < 2
    {
        assert!(Instant::now() < deadline);
    }
    let mut client = Raw::connect(proxy.address("web"));
    let count = (0..100)
        .filter(|_| client.get("/").text() == "idle")
        .count();
    assert_eq!(count, 100);
}

#[test]
fn a_port_that_takes_no_connection_is_seen() {
    let alive = Upstream::answering("alive");
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = dead.local_addr().unwrap();
    drop(dead);
    let proxy = before(&[gone, alive.address()], "way: tcp", "");
    unhealthy(&proxy, 1);
    assert_eq!(answers(&proxy, 20), ["alive"]);
    assert_eq!(proxy.metric("selvedge_retries_total", &[]), 0.0);
}

#[test]
fn grpc_services_are_asked_in_their_own_words() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("status");
    let say = |what: &str| {
        std::fs::write(dir.path().join("next"), what).unwrap();
        std::fs::rename(dir.path().join("next"), &file).unwrap();
    };
    say("1");
    let server = Server::start("serving.py", &[&file.display().to_string()]);
    let spare = Upstream::answering("spare");
    let address = SocketAddr::from(([127, 0, 0, 1], server.port));
    let health = "way: grpc, service: shop";
    let proxy = before(&[address, spare.address()], health, "protocol: http2");
    // The other speaks no gRPC.
    unhealthy(&proxy, 1);
    wait_for_check(&proxy, "SERVING");
    for (said, seen) in [
        ("2", "not SERVING"),
        ("error", "the health service gives an error"),
    ] {
        say(said);
        wait_for_state(&proxy, "unhealthy");
        wait_for_check(&proxy, seen);
        say("1");
        wait_for_state(&proxy, "available");
    }
}

#[test]
fn peers_of_the_mesh_are_asked_with_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new();
    std::fs::write(dir.path().join("bundle.pem"), ca.bundle()).unwrap();
    let identity = |name: &str| {
        let svid = ca.svid(&format!("spiffe://shop.local/ns/shop/sa/{name}"));
        let (certificate, key) = svid.write(dir.path(), name);
        format!(
            "identity: {{ trustDomain: shop.local, bundle: {}, certificate: {}, key: {} }}",
            dir.path().join("bundle.pem").display(),
            certificate.display(),
            key.display()
        )
    };
    let status = well();
    let orders_app = app("orders", &status);
    let orders = sidecar(&format!(
        "{}\ninbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\", mtls: strict }}]",
        identity("orders"),
        orders_app.address()
    ));
    let web = sidecar(&format!(
        "{}\noutbound: {{ bind: \"127.0.0.1:0\" }}
services: {{ app: {{ endpoints: [\"{}\"], mesh: {{}}, health: {{ path: /healthz, interval: 100ms }} }} }}",
        identity("web"),
        orders.address("inbound-0")
    ));
    wait_for_check(&web, "answered 200");
    status.store(503, Relaxed);
    unhealthy(&web, 1);
    // It is the only one there is.
    let mut client = Raw::connect(web.address("outbound"));
    client.send("GET / HTTP/1.1\r\nHost: app\r\n\r\n");
    assert_eq!(client.reply().text(), "orders");
}

#[test]
fn connections_that_begin_with_a_proxy_header_begin_with_one_for_nobody() {
    let app = Upstream::scripted(|connection| {
        let Some(header) = connection.until(b"\r\n") else {
            return;
        };
        assert!(header.starts_with(b"PROXY "));
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let proxy = before(&[app.address()], "path: /", "proxyProtocol: v1");
    let good = ["result=\"good\""];
    let deadline = Instant::now() + PATIENCE;
    while proxy.metric("selvedge_service_health_checks_total", &good) < 1.0 {
        assert!(Instant::now() < deadline);
    }
    assert!(app.seen()[0].text().starts_with("PROXY UNKNOWN\r\nGET / "));
}

#[test]
fn a_process_asks_once_however_many_workers_it_has() {
    let app = app("a", &well());
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"], health: {{ path: /healthz, interval: 1h }} }} }}",
        app.address()
    );
    let proxy = Selvedge::start_in(dir, "gateway", &config, 4);
    app.wait_until(|seen| seen.iter().any(|one| one.closed));
    assert_eq!(answers(&proxy, 20), ["a"]);
    assert_eq!(app.all().matches("GET /healthz").count(), 1);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let config = "listeners: [{ name: web, bind: 127.0.0.1, port: 8080 }]
routes: [{ rules: [{ backendRefs: [{ service: app }] }] }]
services:
  app:
    endpoints: [\"10.0.0.1:80\"]
    health: { way: tcp, path: /healthz, interval: 1ms, unhealthyAfter: 0, port: 0, timeout: 24h }
  other:
    endpoints: [\"10.0.0.1:80\"]
    health: { path: healthz, status: [42, \"299-200\"], degraded: { share: 0 }, intervall: 3s }
";
    let (well, told) = check("gateway", config);
    assert!(
        !well && told.contains("intervall") && told.contains("interval"),
        "{told}"
    );
    let (well, told) = check("gateway", &config.replace(", intervall: 3s", ""));
    assert!(!well);
    for text in [
        "`path` is for `way: http`",
        "1ms is too often",
        "86400s is too long",
        "0 in a row is none",
        "0 is no port",
        "`healthz` is not a path",
        "42 is no status",
        "`299-200` is no range of statuses",
        "no answer would ever be a degraded one",
        "0 is out of range",
    ] {
        assert!(told.contains(text), "{text}: {told}");
    }
}

#[test]
fn a_reload_that_changes_a_service_forgets_nobody_who_is_unwell() {
    let status = well();
    status.store(503, Relaxed);
    let bad = app("a", &status);
    let good = Upstream::answering("b");
    let proxy = before(&[bad.address(), good.address()], "path: /healthz", "");
    unhealthy(&proxy, 1);
    // The next check is far away: what is known is what was.
    proxy.reload(|text| text.replace("interval: 100ms", "interval: 1h"));
    assert_eq!(first(&proxy)["state"], "unhealthy");
    assert_eq!(answers(&proxy, 10), ["b"]);
}
