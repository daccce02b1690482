//! Endpoints that fail are left alone; then one request tries whether they are back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use selvedge_tests::{PATIENCE, Raw, Selvedge, Upstream, gateway};

/// An endpoint that fails; once it is told to hold, each request waits for the status to answer.
struct Flaky {
    upstream: Upstream,
    requests: Arc<AtomicU32>,
    holds: Arc<AtomicBool>,
    answers: Sender<u16>,
}

impl Flaky {
    fn new() -> Self {
        let (requests, holds) = (
            Arc::new(AtomicU32::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (answers, told) = channel();
        let told = Mutex::new(told);
        let (count, hold) = (requests.clone(), holds.clone());
        let upstream = Upstream::scripted(move |connection| {
            while connection.request().is_some() {
                count.fetch_add(1, SeqCst);
                let status = if hold.load(SeqCst) {
                    told.lock().unwrap().recv().unwrap_or(200)
                } else {
                    503
                };
                connection.send(format!(
                    "HTTP/1.1 {status} Told\r\nContent-Length: 1\r\n\r\na"
                ));
            }
        });
        Self {
            upstream,
            requests,
            holds,
            answers,
        }
    }

    fn count(&self) -> u32 {
        self.requests.load(SeqCst)
    }
}

fn before(endpoints: [SocketAddr; 2], ejection: &str) -> Selvedge {
    let [a, b] = endpoints;
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}], timeouts: {{ request: 0s }} }}] }}]
services: {{ app: {{ endpoints: [\"{a}\", \"{b}\"], balance: roundRobin, slowStart: 0s, ejection: {{ {ejection} }} }} }}"
    ))
}

fn ejections(proxy: &Selvedge, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    proxy.metric("selvedge_service_ejections_total", &[&label])
}

/// Asks until the endpoint has had one more request, which it holds; gives its client.
fn trial(proxy: &Selvedge, flaky: &Flaky) -> Raw {
    let before = flaky.count();
    let address = proxy.address("web");
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "nobody tries the endpoint");
        let mut client = Raw::connect(address);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        while !client.has_more() {
            if flaky.count() > before {
                return client;
            }
            assert!(Instant::now() < deadline, "no answer");
        }
    }
}

#[test]
fn one_request_tries_an_endpoint_and_all_others_go_elsewhere() {
    let (flaky, other) = (Flaky::new(), Upstream::answering("b"));
    let proxy = before([flaky.upstream.address(), other.address()], "");
    let mut client = Raw::connect(proxy.address("web"));
    let deadline = Instant::now() + PATIENCE;
    while ejections(&proxy, "consecutive") < 1.0 {
        let _ = client.get("/");
        assert!(Instant::now() < deadline);
    }
    assert_eq!(flaky.count(), 5, "five failures in a row");
    flaky.holds.store(true, SeqCst);
    // Fails: out again, for longer. Goes away: the next one tries. Succeeds: it is back.
    for (round, status) in [(6, Some(503)), (7, None), (8, Some(200))] {
        let mut held = trial(&proxy, &flaky);
        assert_eq!(flaky.count(), round);
        let (_, shown) = proxy.get("admin", "/endpoints");
        assert!(shown.contains("\"state\": \"onTrial\""), "{shown}");
        for _ in 0..100 {
            assert_eq!(client.get("/").text(), "b");
        }
        assert_eq!(flaky.count(), round, "one at a time");
        match status {
            Some(status) => {
                flaky.answers.send(status).unwrap();
                assert_eq!(held.reply().status, status);
            }
            None => {
                drop(held);
                proxy.wait_for_metric("selvedge_requests_in_flight", &[], 0.0);
                // What held it is told, though nobody waits for it.
                flaky.answers.send(200).unwrap();
            }
        }
    }
    assert!(ejections(&proxy, "trial") >= 1.0);
    proxy.wait_for_log("endpoint is back");
    flaky.holds.store(false, SeqCst);
    let before = flaky.count();
    for _ in 0..4 {
        let _ = client.get("/");
    }
    assert_eq!(flaky.count(), before + 2, "it has its share again");
}

#[test]
fn who_fails_every_other_request_is_left_alone() {
    let turn = AtomicU32::new(0);
    let half = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            let status = if turn.fetch_add(1, SeqCst).is_multiple_of(2) {
                200
            } else {
                502
            };
            connection.send(format!(
                "HTTP/1.1 {status} Half\r\nContent-Length: 0\r\n\r\n"
            ));
        }
    });
    let other = Upstream::answering("b");
    for (ejection, expected) in [("successRate: 0", 0.0), ("", 1.0)] {
        let proxy = before([half.address(), other.address()], ejection);
        let mut client = Raw::connect(proxy.address("web"));
        for _ in 0..20 {
            let _ = client.get("/");
        }
        assert!(
            (ejections(&proxy, "successRate") - expected).abs() < 0.5,
            "{ejection}"
        );
        assert!(ejections(&proxy, "consecutive") < 0.5);
        let (_, shown) = proxy.get("admin", "/endpoints");
        assert!(shown.contains("\"what\": \"answered 502\""), "{shown}");
    }
}
