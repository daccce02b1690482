//! Row CB-02 of the battery: which ends of a request count against an endpoint, for how long it is left alone,
//! and that exactly one request finds out whether a circuit may close.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use selvedge_tests::checked::check;
use selvedge_tests::control_plane::until;
use selvedge_tests::upstream::Connection;
use selvedge_tests::{Bell, PATIENCE, Raw, Selvedge, Upstream, gateway};

const WELL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb";

fn before(endpoints: &[SocketAddr], service: &str) -> Selvedge {
    let endpoints: Vec<_> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}], retry: {{ attempts: 0 }}, timeouts: {{ backendRequest: 400ms }} }}] }}]
services: {{ app: {{ endpoints: [{}], balance: roundRobin, slowStart: 0s, {service} }} }}",
        endpoints.join(", ")
    ))
}

fn ejected(proxy: &Selvedge) -> f64 {
    proxy.metric("selvedge_service_endpoints_ejected", &["service=\"app\""])
}

/// What an endpoint does to a request.
type Script = fn(&mut Connection);

fn status(connection: &mut Connection, line: &str) {
    while connection.request().is_some() {
        connection.send(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n"));
    }
}

#[test]
fn cb_02_what_a_gateway_would_answer_for_an_endpoint_counts_and_nothing_else() {
    let cases: [(&str, bool, Script); 10] = [
        ("502", true, |c| status(c, "502 Bad")),
        ("503", true, |c| status(c, "503 Busy")),
        ("504", true, |c| status(c, "504 Late")),
        ("closed before an answer", true, |c| drop(c.request())),
        ("broken off within the head", true, |c| {
            if c.request().is_some() {
                c.send("HTTP/1.1 200 OK\r\nContent-");
            }
        }),
        ("no HTTP", true, |c| {
            if c.request().is_some() {
                c.send("SSH-2.0-OpenSSH\r\n\r\n");
            }
        }),
        // The second request never comes: the proxy closes, or its patience ends.
        ("no answer in time", true, |c| {
            drop((c.request(), c.request()))
        }),
        ("500", false, |c| status(c, "500 Broken")),
        ("501", false, |c| status(c, "501 Not here")),
        ("429", false, |c| status(c, "429 Slower")),
    ];
    for (case, counts, script) in cases {
        let (bad, good) = (Upstream::scripted(script), Upstream::answering("b"));
        let endpoints = [bad.address(), good.address()];
        let proxy = before(
            &endpoints,
            "ejection: { consecutive: 3, successRate: 0, base: 60s }",
        );
        for _ in 0..8 {
            let _ = Raw::connect(proxy.address("web")).get("/").status;
        }
        assert_eq!(ejected(&proxy), f64::from(u8::from(counts)), "{case}");
    }
    // And nobody there.
    let (well, good) = (Upstream::answering("a"), Upstream::answering("b"));
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = gone.local_addr().unwrap();
    drop(gone);
    for (case, endpoints, counts) in [
        ("refused", [nobody, good.address()], 1.0),
        ("well", [well.address(), good.address()], 0.0),
    ] {
        let proxy = before(&endpoints, "ejection: { consecutive: 3, base: 60s }");
        for _ in 0..8 {
            let _ = Raw::connect(proxy.address("web")).get("/").status;
        }
        assert_eq!(ejected(&proxy), counts, "{case}");
    }
}

#[test]
fn cb_02_a_good_answer_between_failures_begins_the_row_anew() {
    let count = AtomicUsize::new(0);
    let bad = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            let third = count.fetch_add(1, SeqCst) % 3 == 2;
            connection.send(if third {
                WELL
            } else {
                "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
            });
        }
    });
    let good = Upstream::answering("b");
    let endpoints = [bad.address(), good.address()];
    let proxy = before(
        &endpoints,
        "ejection: { consecutive: 3, successRate: 0, base: 60s }",
    );
    for _ in 0..30 {
        let _ = Raw::connect(proxy.address("web")).get("/").status;
    }
    assert_eq!(ejected(&proxy), 0.0);
}

#[test]
fn cb_02_each_ejection_is_twice_as_long_as_the_one_before_up_to_the_longest() {
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let noted = arrivals.clone();
    let bad = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            noted.lock().unwrap().push(Instant::now());
            connection.send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let good = Upstream::answering("b");
    let endpoints = [bad.address(), good.address()];
    let proxy = before(
        &endpoints,
        "ejection: { consecutive: 1, base: 200ms, max: 1s }",
    );
    let mut client = Raw::connect(proxy.address("web"));
    let deadline = Instant::now() + PATIENCE;
    while arrivals.lock().unwrap().len() < 6 {
        assert!(Instant::now() < deadline);
        let reply = client.get("/");
        if reply.header("connection").is_some() {
            client = Raw::connect(proxy.address("web"));
        }
    }
    let arrivals = arrivals.lock().unwrap().clone();
    let gaps: Vec<Duration> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
    println!("{gaps:?}");
    // A busy machine asks later than it might: how long it was meant to be, the log says.
    let meant = until("a line for each", || {
        let log = proxy.log();
        let meant: Vec<Duration> = log.iter().filter_map(|line| length(line)).collect();
        (meant.len() >= gaps.len()).then_some(meant)
    });
    for ((gap, meant), least) in gaps.iter().zip(meant).zip([200, 400, 800, 1000, 1000]) {
        let least = Duration::from_millis(least);
        assert!(*gap >= least - Duration::from_millis(5), "{gaps:?}");
        // Up to a tenth longer by chance.
        assert!(meant >= least && meant <= least * 11 / 10, "{meant:?}");
    }
}

/// How long an ejection of the log is meant to be.
fn length(line: &str) -> Option<Duration> {
    let (_, rest) = line
        .split_once("endpoint ejected")?
        .1
        .split_once("length=")?;
    let text = rest.split(' ').next()?;
    let seconds = match text.strip_suffix("ms") {
        Some(millis) => millis.parse::<f64>().ok()? / 1000.0,
        None => text.strip_suffix('s')?.parse().ok()?,
    };
    Some(Duration::from_secs_f64(seconds))
}

#[test]
fn cb_02_one_request_finds_out_whether_the_circuit_may_close() {
    let (mode, held) = (Arc::new(AtomicU16::new(503)), Arc::new(AtomicUsize::new(0)));
    let release = Bell::default();
    let (says, holds, bell) = (mode.clone(), held.clone(), release.clone());
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            if says.load(SeqCst) == 200 {
                holds.fetch_add(1, SeqCst);
                bell.wait();
                connection.send(WELL);
            } else {
                connection.send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}], retry: {{ attempts: 0 }} }}] }}]
services: {{ app: {{ endpoints: [\"{}\"], breaker: {{ errorRate: 50, minRequests: 5, open: 300ms }} }} }}",
        upstream.address()
    ));
    let web = proxy.address("web");
    let breaker =
        |value| proxy.wait_for_metric("selvedge_service_breaker", &["service=\"app\""], value);
    for _ in 0..5 {
        assert_eq!(Raw::connect(web).get("/").status, 503);
    }
    breaker(1.0);
    mode.store(200, SeqCst);
    // Many at once, until one of them is let through; while it has no answer all others are refused.
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..32)
            .map(|_| {
                scope.spawn(|| {
                    let deadline = Instant::now() + PATIENCE;
                    loop {
                        let mut client = Raw::connect(web);
                        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                        // Whoever is the probe hears nothing until the bell.
                        while !client.has_more() && held.load(SeqCst) == 0 {
                            assert!(Instant::now() < deadline);
                        }
                        if held.load(SeqCst) > 0 {
                            return client;
                        }
                        assert_eq!(client.reply().status, 503);
                        refused.fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        let mut clients: Vec<Raw> = clients.into_iter().map(|c| c.join().unwrap()).collect();
        for _ in 0..20 {
            assert_eq!(Raw::connect(web).get("/").status, 503);
        }
        assert_eq!(held.load(SeqCst), 1);
        release.ring();
        let good = clients.iter_mut().map(|c| c.reply().status);
        assert_eq!(good.filter(|status| *status == 200).count(), 1);
    });
    assert!(refused.load(SeqCst) > 0);
    breaker(0.0);
    release.ring();
    assert_eq!(Raw::connect(web).get("/").status, 200);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let (well, said) = check(
        "gateway",
        "listeners: [{ name: web, port: 8080 }]
services: { app: { endpoints: [\"10.0.0.1:80\"], ejection: { base: 5m, successRate: 101 } } }
",
    );
    assert!(!well);
    for text in [
        "services.app.ejection.base",
        "the first ejection, 300s, is longer than the longest, 60s",
        "services.app.ejection.successRate",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
}
