//! A service that is asked for more than it can do: what matters least is turned away first, what is let in is
//! answered in time, and an endpoint that turns requests away is not taken for a broken one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use selvedge_tests::checked::check;
use selvedge_tests::mesh::Mesh;
use selvedge_tests::{Gate, PATIENCE, Raw, Selvedge, Upstream, gateway};

fn before(upstream: &Upstream, limits: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes:
- rules:
  - {{ matches: [{{ path: /batch }}], priority: batch, backendRefs: [{{ service: app }}] }}
  - {{ matches: [{{ path: /healthz }}], priority: health, backendRefs: [{{ service: app }}] }}
  - {{ backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"], limits: {{ {limits} }} }} }}",
        upstream.address()
    ))
}

/// Asks until one is turned away; gives the clients that were let in.
fn fill(proxy: &Selvedge, gate: &Gate, path: &str) -> Vec<Raw> {
    let mut waiting = Vec::new();
    loop {
        let before = gate.held();
        let mut client = Raw::connect(proxy.address("web"));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let deadline = Instant::now() + PATIENCE;
        while gate.held() == before && !client.has_more() {
            assert!(Instant::now() < deadline, "neither sent nor refused");
        }
        if gate.held() == before {
            assert_eq!(client.reply().status, 503);
            return waiting;
        }
        waiting.push(client);
    }
}

#[test]
fn what_matters_least_is_turned_away_first() {
    // A limit that adapts begins at 32; a cap that does not stands where it is.
    for (limits, shares, over) in [
        ("adaptive: {}", [24, 8, 5], "BS"),
        ("requests: 40", [30, 10, 0], "BR"),
    ] {
        let gate = Gate::default();
        let upstream = gate.upstream("a");
        let proxy = before(&upstream, limits);
        let failures = |end: &str| {
            let end = format!("end=\"{end}\"");
            proxy.metric("selvedge_request_failures_total", &[&end])
        };
        let mut all = Vec::new();
        for (path, share) in ["/batch", "/", "/healthz"].into_iter().zip(shares) {
            let end = if path == "/batch" { "BS" } else { over };
            let before = failures(end);
            let waiting = fill(&proxy, &gate, path);
            assert_eq!(waiting.len(), share, "{limits} {path}");
            assert_eq!(failures(end), before + 1.0, "{limits} {path}");
            all.extend(waiting);
        }
        gate.open();
        for client in &mut all {
            assert_eq!(client.reply().status, 200);
        }
        proxy.wait_for_metric("selvedge_service_adaptive_waiting", &[], 0.0);
        assert_eq!(Raw::connect(proxy.address("web")).get("/").status, 200);
    }
}

#[test]
fn a_client_of_the_gateway_does_not_say_how_much_it_matters() {
    let gate = Gate::default();
    let upstream = gate.upstream("a");
    let proxy = before(&upstream, "adaptive: { min: 4 }");
    let _waiting = fill(&proxy, &gate, "/");
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Selvedge-Priority: health\r\n\r\n");
    assert_eq!(client.reply().status, 503);
}

#[test]
fn the_class_goes_along_to_the_next_sidecar_and_no_further() {
    let gate = Gate::default();
    let upstream = gate.upstream("a");
    let mesh = Mesh::with(upstream.address(), "http1", ", limits: { requests: 8 }");
    let mut waiting = Vec::new();
    let ask = |class: &str| {
        let mut client = Raw::connect(mesh.outbound());
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: app\r\nX-Selvedge-Priority: {class}\r\n\r\n"
        ));
        client
    };
    for held in 1..=6 {
        waiting.push(ask("batch"));
        gate.wait_for(held);
    }
    let refused = ask("batch").reply();
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("x-selvedge-attempt"), None);
    waiting.push(ask("interactive"));
    gate.wait_for(7);
    gate.open();
    for client in &mut waiting {
        assert_eq!(client.reply().status, 200);
    }
    let seen = upstream.all().to_ascii_lowercase();
    assert!(!seen.contains("x-selvedge-"), "{seen}");
    // It was refused for want of room; that is no failure of the endpoint.
    let (_, shown) = mesh.client.get("admin", "/endpoints");
    assert!(!shown.contains("lastFailure"), "{shown}");
    // The application is there with its caps as services are.
    let labels = ["service=\"inbound-0\""];
    assert_eq!(
        mesh.server.metric("selvedge_service_endpoints", &labels),
        1.0
    );
}

/// An application that does one thing at a time, for some two milliseconds.
fn single() -> Upstream {
    let turn = Mutex::new(());
    Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            let lock = turn.lock().unwrap();
            let worked = Instant::now();
            while worked.elapsed() < Duration::from_millis(2) {
                std::thread::yield_now();
            }
            drop(lock);
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    })
}

/// Sixty clients for a while; the time that a good answer takes in the middle, and how many there were.
fn pressed(proxy: &Selvedge) -> (Duration, u32) {
    let (web, refused) = (proxy.address("web"), AtomicU32::new(0));
    let took = Mutex::new(Vec::new());
    let until = Instant::now() + Duration::from_secs(6);
    let settled = until - Duration::from_secs(3);
    std::thread::scope(|scope| {
        for _ in 0..60 {
            scope.spawn(|| {
                let mut client = Raw::connect(web);
                while Instant::now() < until {
                    let begun = Instant::now();
                    let status = client.get("/").status;
                    if status != 200 {
                        refused.fetch_add(1, SeqCst);
                        // Who is told "not now" comes back a little later.
                        std::thread::park_timeout(Duration::from_millis(20));
                    } else if begun > settled {
                        took.lock().unwrap().push(begun.elapsed());
                    }
                }
            });
        }
    });
    let mut took = took.into_inner().unwrap();
    took.sort();
    let median = took.get(took.len() / 2).copied().unwrap_or(PATIENCE);
    (median, u32::try_from(took.len()).unwrap())
}

#[test]
fn an_overloaded_application_answers_in_time_what_is_let_in() {
    let (plain, adaptive) = (single(), single());
    let (slow, done) = pressed(&before(&plain, "requests: 1000"));
    let proxy = before(&adaptive, "adaptive: {}");
    let (fast, did) = pressed(&proxy);
    let limit = proxy.metric("selvedge_service_adaptive_limit", &["service=\"app\""]);
    println!("{slow:?} and {done} without, {fast:?} and {did} with, at a limit of {limit}");
    assert!(fast * 2 < slow, "{fast:?} against {slow:?}");
    assert!(limit < 32.0, "{limit}");
    assert!(did * 10 > done * 6, "{did} of {done}");
}

#[test]
fn mistakes_are_told_with_their_place() {
    let (well, said) = check(
        "sidecar",
        "inbound: [{ port: 9080, app: \"127.0.0.1:8080\", limits: { requests: 0, adaptive: { min: 2000 } } }]
services: { app: { endpoints: [\"10.0.0.1:80\"], limits: { requests: 10, adaptive: { min: 11 } } } }
routes: [{ rules: [{ priority: urgent, backendRefs: [{ service: app }] }] }]
",
    );
    assert!(
        !well && said.contains("urgent") && said.contains("batch"),
        "{said}"
    );
    let (well, said) = check(
        "sidecar",
        "inbound: [{ port: 9080, app: \"127.0.0.1:8080\", limits: { requests: 0 } }]
services: { app: { endpoints: [\"10.0.0.1:80\"], limits: { requests: 10, adaptive: { min: 11 } } } }
",
    );
    assert!(!well);
    for text in [
        "inbound[0].limits.requests",
        "with 0 nothing could ever be sent",
        "services.app.limits.adaptive.min",
        "expected 1 to 10, which is `requests`",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
}
