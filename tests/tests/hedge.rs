//! A request whose endpoint is late goes to a second one too: the first answer counts, the other is given up,
//! and it costs what a retry costs.

use std::net::SocketAddr;
use std::time::Instant;

use selvedge_tests::{Bell, Gate, PATIENCE, Raw, Selvedge, Upstream, gateway};

fn before(endpoints: &[SocketAddr], rule: &str, more: &str) -> Selvedge {
    let endpoints: Vec<_> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}], {rule} }}] }}]
services: {{ app: {{ endpoints: [{}]{more} }} }}
telemetry: {{ accessLog: {{ path: $DIR/access.log, format: json }} }}",
        endpoints.join(", ")
    ))
}

const SOON: &str = "retry: { hedge: 30ms }";

/// Requests that endpoints have seen.
fn requests(upstreams: &[&Upstream]) -> usize {
    let all = upstreams.iter().map(|upstream| upstream.all());
    all.map(|bytes| bytes.matches(" HTTP/1.1\r\n").count())
        .sum()
}

fn wait_for_requests(upstreams: &[&Upstream], count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while requests(upstreams) < count {
        assert!(
            Instant::now() < deadline,
            "{} of {count}",
            requests(upstreams)
        );
        std::thread::yield_now();
    }
}

#[test]
fn the_first_answer_counts_and_the_other_is_given_up() {
    let gate = Gate::default();
    let (late, well) = (gate.upstream("a"), Upstream::answering("b"));
    let proxy = before(&[late.address(), well.address()], SOON, "");
    let mut client = Raw::connect(proxy.address("web"));
    while requests(&[&late]) < 3 {
        let begun = Instant::now();
        let reply = client.get("/");
        assert_eq!((reply.status, reply.text().as_str()), (200, "b"));
        assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    }
    // Its connections were closed: what it would answer is nobody's.
    gate.open();
    late.wait_until(|seen| seen.iter().all(|connection| connection.closed));
    let app = ["service=\"app\""];
    proxy.wait_for_metric("selvedge_hedges_total", &app, 3.0);
    proxy.wait_for_metric("selvedge_hedges_won_total", &app, 3.0);
    proxy.wait_for_metric("selvedge_requests_in_flight", &[], 0.0);
    let (_, endpoints) = proxy.get("admin", "/endpoints");
    assert!(!endpoints.contains("\"inFlight\": 1"), "{endpoints}");
    let deadline = Instant::now() + PATIENCE;
    let log = || std::fs::read_to_string(proxy.dir().join("access.log")).unwrap();
    while log().matches("\"hedge\":\"won\"").count() < 3 {
        assert!(Instant::now() < deadline, "{}", log());
    }
}

#[test]
fn a_failure_of_one_waits_for_the_other() {
    let gate = Gate::default();
    let late = gate.upstream("a");
    let broken = Upstream::scripted(|connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
        }
    });
    // Not tried again by its status: the answer that the other gives is better all the same.
    let rule = "retry: { attempts: 0, hedge: 30ms }";
    let ejection = ", ejection: { consecutive: 0, successRate: 0 }";
    let proxy = before(&[late.address(), broken.address()], rule, ejection);
    let web = proxy.address("web");
    std::thread::scope(|scope| {
        let answers = loop {
            let before = (requests(&[&late]), requests(&[&broken]));
            let asked = scope.spawn(move || Raw::connect(web).get("/"));
            wait_for_requests(&[&late, &broken], before.0 + before.1 + 1);
            // The broken one was asked first, and its failure is the answer: once more.
            if requests(&[&late]) == before.0 {
                assert_eq!(asked.join().unwrap().status, 503);
                continue;
            }
            wait_for_requests(&[&late, &broken], before.0 + before.1 + 2);
            gate.open();
            break asked.join().unwrap();
        };
        assert_eq!((answers.status, answers.text().as_str()), (200, "a"));
    });
    assert_eq!(proxy.metric("selvedge_hedges_won_total", &[]), 0.0);
}

#[test]
fn what_may_not_be_carried_out_twice_is_not() {
    let gate = Gate::default();
    let (one, two) = (gate.upstream("a"), gate.upstream("b"));
    let proxy = before(&[one.address(), two.address()], SOON, "");
    let web = proxy.address("web");
    let ask = move |request: &'static str| {
        move || {
            let mut client = Raw::connect(web);
            client.send(request);
            client.reply().status
        }
    };
    std::thread::scope(|scope| {
        let mut asked = Vec::new();
        for (request, seen) in [
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 1),
            (
                "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
                2,
            ),
            // Sent later than those: when it is there twice, they would be.
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 4),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: 1\r\nContent-Length: 0\r\n\r\n",
                6,
            ),
        ] {
            asked.push(scope.spawn(ask(request)));
            wait_for_requests(&[&one, &two], seen);
        }
        assert_eq!(requests(&[&one, &two]), 6);
        gate.open();
        for asked in asked {
            assert_eq!(asked.join().unwrap(), 200);
        }
    });
}

#[test]
fn it_costs_what_a_retry_costs() {
    let gate = Gate::default();
    let (one, two) = (gate.upstream("a"), gate.upstream("b"));
    let (clock, hand) = (gate.upstream("c"), gate.upstream("d"));
    let [a, b, c, d] = [&one, &two, &clock, &hand].map(Upstream::address);
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes:
- rules:
  - {{ matches: [{{ path: /clock }}], backendRefs: [{{ service: clock }}], {SOON} }}
  - {{ backendRefs: [{{ service: app }}], {SOON} }}
services:
  app: {{ endpoints: [\"{a}\", \"{b}\"], limits: {{ retries: 2 }} }}
  clock: {{ endpoints: [\"{c}\", \"{d}\"] }}"
    ));
    let web = proxy.address("web");
    std::thread::scope(|scope| {
        let mut asked: Vec<_> = (0..20)
            .map(|_| scope.spawn(move || Raw::connect(web).get("/").status))
            .collect();
        wait_for_requests(&[&one, &two], 22);
        // One behind them: when its time has come, so has theirs.
        asked.push(scope.spawn(move || Raw::connect(web).get("/clock").status));
        wait_for_requests(&[&clock, &hand], 2);
        assert_eq!(requests(&[&one, &two]), 22);
        gate.open();
        for asked in asked {
            assert_eq!(asked.join().unwrap(), 200);
        }
    });
    // A request counts when the last byte of its answer is on its way.
    for (service, hedges) in [("app", 2.0), ("clock", 1.0)] {
        let labels = [format!("service=\"{service}\"")];
        proxy.wait_for_metric("selvedge_hedges_total", &[&labels[0]], hedges);
    }
}

#[test]
fn one_endpoint_is_asked_once() {
    let gate = Gate::default();
    let only = gate.upstream("a");
    let proxy = before(
        &[only.address()],
        "retry: { hedge: 1ms }, timeouts: { backendRequest: 300ms }",
        "",
    );
    // It times out, and is tried again where it was: nothing was hedged.
    assert_eq!(Raw::connect(proxy.address("web")).get("/").status, 504);
    assert_eq!(requests(&[&only]), 2);
    assert_eq!(proxy.metric("selvedge_hedges_total", &[]), 0.0);
}

/// It was held back for as long as the other endpoint said nothing.
#[test]
fn a_failure_is_told_soon_where_the_other_says_nothing() {
    // The one fails once the other has been asked, which says nothing as long as it is asked.
    let asked = Bell::default();
    let (rings, waits) = (asked.clone(), asked);
    let late = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            waits.wait();
            connection.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
        }
    });
    let hung = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            rings.ring();
        }
    });
    let rule = "retry: { attempts: 0, hedge: 30ms }, timeouts: { request: 0s }";
    let ejection = ", ejection: { consecutive: 0, successRate: 0 }";
    let proxy = before(&[late.address(), hung.address()], rule, ejection);
    for _ in 0..4 {
        let begun = Instant::now();
        assert_eq!(Raw::connect(proxy.address("web")).get("/").status, 503);
        assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
    }
}
