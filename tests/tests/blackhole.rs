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

#[test]
fn a_blackholed_endpoint_costs_a_second_and_is_back_within_two() {
    let (here, there) = Namespace::pair();
    let serve = |name: &'static str| {
        there.inside(0, move || {
            Upstream::scripted_at("10.7.0.2:0".parse().unwrap(), move |connection| {
                while connection.request().is_some() {
                    connection.send(format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}"
                    ));
                }
            })
        })
    };
    let (a, b) = (serve("a"), serve("b"));
    let proxy = start(&here, [&a, &b]);
    let (web, admin) = (proxy.address("web"), proxy.address("admin"));
    let (answers, done) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let ask = || {
        here.inside(0, || {
            let mut client = Raw::connect(web);
            while !done.load(Relaxed) {
                let began = Instant::now();
                let reply = client.get("/");
                let answer = Answer {
                    at: began,
                    took: began.elapsed(),
                    status: reply.status,
                    by: reply.text(),
                };
                answers.lock().unwrap().push(answer);
                if reply.header("connection").is_some() {
                    client = Raw::connect(web);
                }
            }
        });
    };
    let wait_until = |fits: &dyn Fn() -> bool, what: &str| {
        let deadline = Instant::now() + PATIENCE;
        while !fits() {
            assert!(Instant::now() < deadline, "{what}");
        }
    };
    let by_a_after = |moment: Instant| {
        let answers = answers.lock().unwrap();
        let first = answers.iter().find(|one| one.by == "a" && one.at > moment);
        first.map(|one| one.at)
    };
    let (mut gone, mut back) = (Instant::now(), Instant::now());
    let mut returned = None;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(ask);
        }
        wait_until(&|| by_a_after(gone).is_some(), "both answer");
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
        wait_until(&|| is(admin, &here, "unhealthy"), "checks notice it");
        // For as long again, with requests on their way: nobody tries it.
        let noticed = gone.elapsed();
        wait_until(
            &|| gone.elapsed() > noticed + Duration::from_secs(3),
            "time passes",
        );
        nft(&there, "delete table inet hole");
        back = Instant::now();
        wait_until(&|| by_a_after(back).is_some(), "it is back");
        returned = by_a_after(back);
        done.store(true, Relaxed);
    });
    let answers = answers.into_inner().unwrap();
    let failed = answers.iter().filter(|one| one.status != 200).count();
    let slow = Duration::from_millis(150);
    let late = answers
        .iter()
        .filter(|one| one.took > slow && one.at > gone);
    let last = late.map(|one| one.at + one.took).max();
    let round = last.map_or(Duration::ZERO, |last| last - gone);
    let returned = returned.unwrap() - back;
    println!(
        "{} requests, {failed} failed; routed round after {round:?}, back after {returned:?}",
        answers.len()
    );
    assert!(failed <= 3, "{failed} failed");
    assert!(round < Duration::from_secs(1), "{round:?}");
    assert!(returned < Duration::from_secs(2), "{returned:?}");
}
