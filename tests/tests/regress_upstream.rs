//! One test for each bug that a reviewer found in retries, balancing, caps and mirrors, named for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use selvedge_tests::http2::{REFUSED_STREAM, data, reset_for};
use selvedge_tests::http2_upstream::answer;
use selvedge_tests::{Bell, Http2Upstream, PATIENCE, Raw, Selvedge, Upstream, gateway};

const WEB: &str = "listeners: [{ name: web, bind: 127.0.0.1, port: 0 }]";

/// A gateway with one rule before services; `rule` stands in it.
fn with(rule: &str, services: &str) -> Selvedge {
    gateway(&format!(
        "{WEB}\nroutes: [{{ rules: [{{ {rule} }}] }}]\nservices: {{ {services} }}"
    ))
}

fn app(upstream: &Upstream, more: &str) -> String {
    format!("app: {{ endpoints: [\"{}\"]{more} }}", upstream.address())
}

const TO_APP: &str = "backendRefs: [{ service: app }]";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

#[test]
fn a_request_that_was_answered_is_not_sent_again_whatever_the_endpoint_says_of_it() {
    let count = Arc::new(AtomicU32::new(0));
    let served = count.clone();
    let upstream = Http2Upstream::serving(&[], move |peer, asked| {
        served.fetch_add(1, SeqCst);
        let id = asked.stream;
        let early = if asked.field(":path") == "/early" {
            answer(id, "103", &[], false)
        } else {
            [answer(id, "200", &[], false), data(id, "ab", false)].concat()
        };
        // In one write, so that all of it is there before anybody looks.
        peer.send([early, reset_for(id, REFUSED_STREAM)].concat());
    });
    let services = format!(
        "app: {{ endpoints: [\"{}\"], protocol: http2 }}",
        upstream.address()
    );
    let proxy = with(TO_APP, &services);
    for n in 1..=10 {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(POST);
        // What was said arrives, and does not look whole.
        let said = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        assert!(!said.contains("0\r\n\r\n"), "{said}");
        assert_eq!(count.load(SeqCst), n);
    }
    let mut client = Raw::connect(proxy.address("web"));
    client.send(POST.replace("/ HTTP", "/early HTTP"));
    while client.reply().status < 200 {}
    assert_eq!(count.load(SeqCst), 11, "it had begun to answer");
}

#[test]
fn retries_by_a_status_of_grpc_are_for_calls_of_grpc() {
    let upstream =
        Upstream::replying("HTTP/1.1 200 OK\r\ngrpc-status: 14\r\nContent-Length: 3\r\n\r\nabc");
    let rule = format!("{TO_APP}, retry: {{ attempts: 2, grpc: [unavailable] }}");
    let proxy = with(&rule, &app(&upstream, ""));
    let mut client = Raw::connect(proxy.address("web"));
    client.send(POST);
    assert_eq!(client.reply().text(), "abc");
    assert_eq!(upstream.all().matches("POST / ").count(), 1);
}

#[test]
fn idle_connections_give_way_to_those_who_wait_for_one() {
    let (a, b) = (Upstream::answering("a"), Upstream::answering("b"));
    let config = format!(
        "{WEB}\nroutes: [{{ rules: [{{ {TO_APP} }}] }}]
services: {{ app: {{ endpoints: [\"{}\", \"{}\"], balance: roundRobin, limits: {{ connections: 1 }} }} }}",
        a.address(),
        b.address()
    );
    // The place is taken by the other endpoint's connection, or by another worker's.
    for workers in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let proxy = Selvedge::start_in(dir, "gateway", &config, workers);
        let began = Instant::now();
        for n in 0..20 {
            let mut client = Raw::connect(proxy.address("web"));
            assert_eq!(client.get("/").status, 200, "{n} with {workers}");
        }
        // Each would have waited for a second.
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_backends_own_header_edits_are_not_copied_to_mirrors() {
    let (main, copy) = (Upstream::answering("ok"), Upstream::answering("ignored"));
    let rule = "filters: [{ type: RequestMirror, requestMirror: { backendRef: { service: copy } } }],
  backendRefs: [{ service: app, filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { set: [{ name: X-Secret, value: s3cr3t }] } }] }]";
    let services = format!(
        "{}, copy: {{ endpoints: [\"{}\"] }}",
        app(&main, ""),
        copy.address()
    );
    let proxy = with(rule, &services);
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(client.get("/").status, 200);
    copy.wait_until(|seen| seen.iter().any(|one| one.text().contains("\r\n\r\n")));
    assert!(main.all().contains("s3cr3t"));
    assert!(!copy.all().contains("s3cr3t"), "{}", copy.all());
}

#[test]
fn more_requests_at_once_than_copies_may_be_are_all_copied_where_copies_are_fast() {
    let go = Bell::default();
    let held = go.clone();
    let main = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            held.wait();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let copy = Upstream::answering("ignored");
    let rule = format!(
        "filters: [{{ type: RequestMirror, requestMirror: {{ backendRef: {{ service: copy }} }} }}], {TO_APP}"
    );
    let services = format!(
        "{}, copy: {{ endpoints: [\"{}\"] }}",
        app(&main, ""),
        copy.address()
    );
    let proxy = with(&rule, &services);
    let mut clients: Vec<_> = (0..100)
        .map(|_| {
            let mut client = Raw::connect(proxy.address("web"));
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    proxy.wait_for_metric("selvedge_requests_in_flight", &["service=\"app\""], 100.0);
    // Each copy is gone before the next answer comes.
    for n in 1..=clients.len() {
        go.ring();
        copy.wait_until(|seen| {
            let copied = seen.iter().map(|one| one.text().matches("GET /").count());
            copied.sum::<usize>() == n
        });
    }
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
}

#[test]
fn a_delay_on_purpose_ends_with_the_deadline() {
    let upstream = Upstream::answering("ok");
    let proxy = gateway(&format!(
        "{WEB}\nroutes: [{{ rules: [{{ {TO_APP}, policies: [slow], timeouts: {{ request: 200ms }} }}] }}]
services: {{ {} }}\npolicies: {{ slow: {{ fault: {{ delay: {{ percentage: 100, duration: 60s }} }} }} }}",
        app(&upstream, "")
    ));
    let mut client = Raw::connect(proxy.address("web"));
    let began = Instant::now();
    assert_eq!(client.get("/").status, 504);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: 50ms\r\n\r\n");
    assert_eq!(client.reply().status, 504);
    assert!(began.elapsed() < PATIENCE);
    assert!(upstream.seen().is_empty());
}

#[test]
fn nobody_is_bound_to_an_endpoint_that_has_failed_him() {
    let upstream = Upstream::replying("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n");
    let proxy = with(TO_APP, &app(&upstream, ", sticky: { cookie: {} }"));
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(client.get("/").header("set-cookie"), None);
}

#[test]
fn what_proxies_tell_each_other_of_retries_is_for_no_client() {
    let upstream = Upstream::replying(
        "HTTP/1.1 200 OK\r\nX-Selvedge-Attempt: spent\r\nContent-Length: 0\r\n\r\n",
    );
    let proxy = with(TO_APP, &app(&upstream, ""));
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(client.get("/").header("x-selvedge-attempt"), None);
}

#[test]
fn who_never_answers_those_who_give_up_does_not_draw_them_all() {
    let good = Upstream::answering("good");
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let hole = Upstream::scripted(move |connection| {
        if connection.request().is_some() {
            count.fetch_add(1, SeqCst);
        }
        connection.drain();
    });
    let services = format!(
        "app: {{ endpoints: [\"{}\", \"{}\"], balance: responseTime }}",
        good.address(),
        hole.address()
    );
    let proxy = with(TO_APP, &services);
    let mut client = Raw::connect(proxy.address("web"));
    for _ in 0..100 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: 50ms\r\n\r\n");
        let _ = client.reply();
    }
    assert!(asked.load(SeqCst) <= 10, "{}", asked.load(SeqCst));
}

#[test]
fn a_reload_gives_no_second_set_of_caps() {
    let go = Bell::default();
    let held = go.clone();
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            held.wait();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let limits = |more: &str| format!(", limits: {{ connections: 2, pending: 0 }}{more}");
    let mut proxy = with(TO_APP, &app(&upstream, &limits("")));
    let hold = || {
        let mut client = Raw::connect(proxy.address("web"));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client
    };
    let mut held = [hold(), hold()];
    upstream.wait_until(|seen| seen.len() == 2);
    let file = proxy.dir().join("config.yaml");
    let before = std::fs::read_to_string(&file).unwrap();
    // Another configuration of the service, and so another service.
    let after = before.replace("pending: 0 }", "pending: 0 }, slowStart: 1s");
    assert_ne!(before, after);
    std::fs::write(&file, after).unwrap();
    proxy.signal("HUP");
    proxy.wait_for("configuration reloaded");
    let mut third = Raw::connect(proxy.address("web"));
    let refused = third.get("/");
    assert_eq!(refused.status, 503);
    assert_eq!(upstream.seen().len(), 2);
    for client in &mut held {
        go.ring();
        go.ring();
        assert_eq!(client.reply().status, 200);
    }
}
