//! An endpoint whose packets vanish, as behind a machine or a cable that is gone: nothing is refused,
//! nothing is answered.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use selvedge_tests::netns::{Namespace, run};
use selvedge_tests::process::binary;
use selvedge_tests::{PATIENCE, Raw, Selvedge, Upstream};

/// One answer: when it came, how long it took, and what it was.
struct Answer {
    at: Instant,
    took: Duration,
    status: u16,
    by: String,
}

/// A gateway in one namespace before two endpoints in another.
fn start(here: &Namespace, there: [&Upstream; 2]) -> Selvedge {
    let dir = tempfile::tempdir().unwrap();
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
    health: {{ interval: 250ms, timeout: 250ms }}
admin: {{ bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }}
"
    );
    let file = dir.path().join("gateway.yaml");
    std::fs::write(&file, config).unwrap();
    let mut command: Command = here.command(binary());
    command.arg("gateway").arg("--config").arg(&file);
    command.args(["--workers", "1", "--log", "info"]);
    Selvedge::spawn(command, dir, &["web", "admin", "health"])
}

/// Whether the first endpoint is in this state.
fn is(admin: SocketAddr, here: &Namespace, state: &str) -> bool {
    let shown = here.inside(0, || {
        let mut client = Raw::connect(admin);
        client.send("GET /endpoints HTTP/1.1\r\nHost: localhost\r\n\r\n");
        client.reply().body
    });
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    shown["app"]["endpoints"][0]["state"] == state
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
    answers: Mutex<Vec<Answer>>,
    done: AtomicBool,
}

impl Clients {
    fn ask(&self, web: SocketAddr) {
        let mut client = Raw::connect(web);
        while !self.done.load(Relaxed) {
            let began = Instant::now();
            let reply = client.get("/");
            self.answers.lock().unwrap().push(Answer {
                at: began,
                took: began.elapsed(),
                status: reply.status,
                by: reply.text(),
            });
            if reply.header("connection").is_some() {
                client = Raw::connect(web);
            }
        }
    }

    /// When the first request after a moment was sent that this endpoint answered.
    fn first(&self, by: &str, moment: Instant) -> Option<Instant> {
        let answers = self.answers.lock().unwrap();
        let first = answers.iter().find(|one| one.by == by && one.at > moment);
        first.map(|one| one.at)
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
    let (mut gone, mut back) = (Instant::now(), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| here.inside(0, || clients.ask(web)));
        }
        wait_until("both answer", || clients.first("a", gone).is_some());
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
        wait_until("checks notice it", || is(admin, &here, "unhealthy"));
        // For as long again, with requests on their way: nobody tries it.
        let long = gone.elapsed() + Duration::from_secs(3);
        wait_until("time passes", || gone.elapsed() > long);
        nft(&there, "delete table inet hole");
        back = Instant::now();
        wait_until("it is back", || clients.first("a", back).is_some());
        clients.done.store(true, Relaxed);
    });
    let returned = clients.first("a", back).unwrap() - back;
    let answers = clients.answers.into_inner().unwrap();
    let failed = answers.iter().filter(|one| one.status != 200).count();
    let slow = Duration::from_millis(150);
    let late = answers
        .iter()
        .filter(|one| one.took > slow && one.at + one.took > gone);
    let last = late.map(|one| one.at + one.took).max();
    let round = last.map_or(Duration::ZERO, |last| last - gone);
    println!(
        "{} requests, {failed} failed; routed round after {round:?}, back after {returned:?}",
        answers.len()
    );
    assert!(failed <= 3, "{failed} failed");
    assert!(round < Duration::from_secs(1), "{round:?}");
    assert!(returned < Duration::from_secs(2), "{returned:?}");
}
