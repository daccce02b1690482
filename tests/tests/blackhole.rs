//! An endpoint whose packets vanish, as behind a machine or a cable that is gone: nothing is refused,
//! nothing is answered.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use selvedge_tests::netns::{Namespace, run};
use selvedge_tests::{PATIENCE, Raw, Selvedge, Upstream};

/// Requests are routed round the hole within a second; a try ends 200 ms after it was sent.
const ROUND: Duration = Duration::from_millis(1200);

/// A gateway in one namespace before two endpoints in another.
fn start(here: &Namespace, there: [&Upstream; 2]) -> Selvedge {
    let [a, b] = there.map(|upstream| format!("10.7.0.2:{}", upstream.address().port()));
    let config = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes:
- rules:
  - timeouts: {{ request: 5s, backendRequest: 200ms }}
    backendRefs: [{{ service: app }}]
services:
  app:
    endpoints: [\"{a}\", \"{b}\"]
    health: {{ interval: 100ms, timeout: 250ms }}
admin: {{ bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }}
"
    );
    Selvedge::gateway_in(here, &config)
}

/// What the admin says of the first endpoint.
fn first(admin: SocketAddr, here: &Namespace) -> serde_json::Value {
    let shown = here.inside(0, || {
        let mut client = Raw::connect(admin);
        client.send("GET /endpoints HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.reply().body
    });
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    shown["app"]["endpoints"][0].clone()
}

/// When a request to the first endpoint failed for the last time: the second of its minute.
fn last_failure(admin: SocketAddr, here: &Namespace) -> f64 {
    let shown = first(admin, here);
    let at = shown["lastFailure"]["at"].as_str().unwrap().to_owned();
    at[17..at.len() - 1].parse().unwrap()
}

/// Has the clients stop, also where a test fails.
struct Stop<'a>(&'a Clients);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Relaxed);
    }
}

fn nft(place: &Namespace, rules: &str) {
    run(place.command("nft").arg(rules));
}

/// An endpoint that answers with its name, in a namespace of its own.
fn serve(there: &Namespace, name: &'static str) -> Upstream {
    there.inside(0, move || {
        Upstream::scripted_at("10.7.0.2:0".parse().unwrap(), move |connection| {
            while connection.request().is_some() {
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}"
                ));
            }
        })
    })
}

/// What clients have seen, who ask until they are told to stop.
#[derive(Default)]
struct Clients {
    answers: AtomicU32,
    failed: AtomicU32,
    /// The first answer of the first endpoint since somebody asked for it.
    first: Mutex<Option<Instant>>,
    done: AtomicBool,
}

impl Clients {
    fn ask(&self, web: SocketAddr) {
        let mut client = Raw::connect(web);
        while !self.done.load(Relaxed) {
            let reply = client.get("/");
            self.answers.fetch_add(1, Relaxed);
            if reply.status != 200 {
                self.failed.fetch_add(1, Relaxed);
            }
            if reply.text() == "a" {
                self.first.lock().unwrap().get_or_insert_with(Instant::now);
            }
            if reply.header("connection").is_some() {
                client = Raw::connect(web);
            }
        }
    }

    /// When the first endpoint answers for the first time from now on.
    fn heard(&self) -> Instant {
        *self.first.lock().unwrap() = None;
        wait_until("it answers", || self.first.lock().unwrap().is_some());
        self.first.lock().unwrap().unwrap()
    }
}

fn wait_until(what: &str, fits: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !fits() {
        assert!(Instant::now() < deadline, "{what}");
    }
}

#[test]
fn a_blackholed_endpoint_costs_a_second_and_is_back_within_two() {
    let (here, there) = Namespace::pair();
    let (a, b) = (serve(&there, "a"), serve(&there, "b"));
    let proxy = start(&here, [&a, &b]);
    let (web, admin) = (proxy.address("web"), proxy.address("admin"));
    let clients = Clients::default();
    let [mut gone, mut back, mut returned] = [Instant::now(); 3];
    std::thread::scope(|scope| {
        let _stop = Stop(&clients);
        for _ in 0..4 {
            scope.spawn(|| here.inside(0, || clients.ask(web)));
        }
        let _ = clients.heard();
        nft(&there, "add table inet hole");
        nft(
            &there,
            "add chain inet hole in { type filter hook input priority 0; }",
        );
        let port = a.address().port();
        nft(
            &there,
            &format!("add rule inet hole in tcp dport {port} drop"),
        );
        gone = Instant::now();
        wait_until("checks notice it", || {
            first(admin, &here)["state"] == "unhealthy"
        });
        // What was sent there within a second has ended a fifth later.
        wait_until("a second", || gone.elapsed() > ROUND);
        let last = last_failure(admin, &here);
        // For as long again, with requests on their way: nobody tries it.
        let long = gone.elapsed() + Duration::from_secs(3);
        wait_until("time passes", || gone.elapsed() > long);
        let moved = (last_failure(admin, &here) - last).abs();
        // The place is worked out from now, to some microseconds; a minute has sixty seconds.
        assert!(!(0.05..59.95).contains(&moved), "tried after a second");
        nft(&there, "delete table inet hole");
        back = Instant::now();
        returned = clients.heard();
    });
    let (asked, failed) = (clients.answers.into_inner(), clients.failed.into_inner());
    let returned = returned - back;
    println!("{asked} requests, {failed} failed; back after {returned:?}");
    assert!(failed <= 3, "{failed} failed");
    assert!(returned < Duration::from_secs(2), "{returned:?}");
}
