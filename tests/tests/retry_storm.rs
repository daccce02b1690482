//! RT-01, deep: services that call services, each with retries of its own, and the last one fails.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use selvedge_tests::upstream::Connection;
use selvedge_tests::{Raw, Selvedge, TestCa, Upstream};

const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";

fn id(name: &str) -> String {
    format!("spiffe://shop.local/ns/shop/sa/{name}")
}

/// A sidecar that calls `next` for its application, and tries again what failed; `app` is behind it.
fn sidecar(
    ca: &TestCa,
    name: &str,
    app: Option<SocketAddr>,
    next: Option<(&str, SocketAddr)>,
) -> Selvedge {
    let dir = tempfile::tempdir().unwrap();
    let _ = ca.svid(&id(name)).write(dir.path(), "own");
    std::fs::write(dir.path().join("bundle.pem"), ca.bundle()).unwrap();
    let mut config = "identity: { trustDomain: shop.local, bundle: $DIR/bundle.pem, certificate: $DIR/own.pem, key: $DIR/own.key }\n".to_owned();
    if let Some(app) = app {
        config += &format!("inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{app}\" }}]\n");
    }
    if let Some((to, address)) = next {
        config += &format!(
            "outbound: {{ bind: \"127.0.0.1:0\" }}
routes: [{{ hostnames: [{to}], rules: [{{ backendRefs: [{{ service: {to} }}], retry: {{ attempts: 3, codes: [503], backoff: 1ms }} }}] }}]
services: {{ {to}: {{ endpoints: [\"{address}\"], limits: {{ retries: 100 }}, mesh: {{ identity: \"{}\" }} }} }}\n",
            id(to)
        );
    }
    Selvedge::start_in(dir, "sidecar", &config, 1)
}

/// An application that answers what it is answered by the next.
fn passing_on(next: &'static str, outbound: Arc<std::sync::OnceLock<SocketAddr>>) -> Upstream {
    Upstream::scripted(move |connection: &mut Connection| {
        let mut client = None;
        while connection.request().is_some() {
            let client = client.get_or_insert_with(|| Raw::connect(*outbound.get().unwrap()));
            client.send(format!("GET / HTTP/1.1\r\nHost: {next}\r\n\r\n"));
            match client.reply().status {
                503 => connection.send(BUSY),
                other => panic!("{other}"),
            }
        }
    })
}

#[test]
fn three_hops_deep_a_failing_service_sees_little_more_than_one() {
    let (seconds, rate) = (8, 400);
    let ca = TestCa::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let last = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            counted.fetch_add(1, Relaxed);
            connection.send(BUSY);
        }
    });
    let c = sidecar(&ca, "c", Some(last.address()), None);
    let (to_c, to_b) = (Arc::default(), Arc::default());
    let b_app = passing_on("c", Arc::clone(&to_c));
    let b = sidecar(
        &ca,
        "b",
        Some(b_app.address()),
        Some(("c", c.address("inbound-0"))),
    );
    to_c.set(b.address("outbound")).unwrap();
    let a_app = passing_on("b", Arc::clone(&to_b));
    let a = sidecar(
        &ca,
        "a",
        Some(a_app.address()),
        Some(("b", b.address("inbound-0"))),
    );
    to_b.set(a.address("outbound")).unwrap();
    let web = sidecar(&ca, "web", None, Some(("a", a.address("inbound-0"))));
    let output = Command::new("h2load")
        .args(["--h1", "-c", "8", "--rps", &(rate / 8).to_string()])
        .args(["-n", &(rate * seconds).to_string()])
        .arg(format!("--connect-to={}", web.address("outbound")))
        .arg("http://a/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let offered = rate * seconds;
    assert!(said.contains(&format!("{offered} done")), "{said}");
    let seen = calls.load(Relaxed);
    println!("{seen} tries of {offered} requests");
    assert!(
        seen > offered && seen * 10 <= offered * 13,
        "{seen} of {offered}: {said}"
    );
}
