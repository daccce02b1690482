//! A sidecar in a cluster of 2,000 services that change a hundred times a second: what it holds, how
//! soon it knows, and that nobody notices when the API is lost or forgets.
//!
//! In short for every run. The minute of the goal, and two without the API: `SELVEDGE_LONG=1`. Of the
//! release binary: `cargo build --release`, and `SELVEDGE_BINARY=target/release/selvedge`.
//!
//! In short, memory is what the process holds of its own: its whole RSS has the pages of the program
//! besides, until it gives back those of its start. In the long form it is the RSS.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use selvedge_tests::cluster::{pod, ready, ready_pod, service, slice};
use selvedge_tests::pod::serve;
use selvedge_tests::process::binary;
use selvedge_tests::{KubeApi, Raw, Selvedge, TestCa};
use serde_json::Value;

const SERVICES: usize = 2000;
const ENDPOINTS: usize = 10;
/// How many of the services are called.
const CALLED: usize = 5;
/// Bytes that a sidecar may hold.
const MEMORY: usize = 15 << 20;
const PACE: Duration = Duration::from_millis(10);

/// What the short and the long form differ in.
struct Form {
    churn: Duration,
    away: Duration,
    /// What counts as its memory.
    memory: fn(&Selvedge) -> usize,
}

impl Form {
    fn of_this_run() -> Self {
        let long = std::env::var_os("SELVEDGE_LONG").is_some();
        let seconds = |short, full| Duration::from_secs(if long { full } else { short });
        Self {
            churn: seconds(6, 60),
            away: seconds(2, 120),
            memory: if long {
                Selvedge::resident
            } else {
                Selvedge::own_memory
            },
        }
    }
}

/// What the cluster is, and what it should look like from outside.
struct World {
    api: KubeApi,
    port: u16,
    services: Vec<Value>,
    pods: Vec<Vec<Value>>,
    /// Changes of each service that is called.
    turns: Vec<usize>,
    /// Endpoints of each service that is called, as they are now.
    truth: Mutex<Vec<BTreeSet<String>>>,
}

impl World {
    fn new() -> Self {
        let api = KubeApi::start();
        // Every address of loopback answers here, so that an endpoint may be any of them.
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        serve(listener, |mut stream| {
            let mut part = [0; 4096];
            while stream.read(&mut part).unwrap_or(0) > 0 {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        });
        let services: Vec<_> = (0..SERVICES)
            .map(|n| service("shop", &format!("s{n}"), &[("http", 80)]))
            .collect();
        let mut world = Self {
            api,
            port,
            services,
            pods: Vec::new(),
            turns: vec![0; CALLED],
            truth: Mutex::new(vec![BTreeSet::new(); CALLED]),
        };
        for number in 0..SERVICES {
            let app = format!("s{number}");
            world.api.put(world.services[number].clone());
            if number < CALLED {
                let pods = (0..ENDPOINTS).map(|n| {
                    world
                        .api
                        .put(pod("shop", &app, &format!("{app}-{n}"), "orders", false))
                });
                let pods = pods.collect();
                world.pods.push(pods);
                world.change(number, 0);
            } else {
                let all: Vec<_> = (0..ENDPOINTS)
                    .map(|n| ready(&format!("10.1.{}.{n}", number % 250)))
                    .collect();
                world
                    .api
                    .put(slice(&world.services[number], "a", 8080, &all));
            }
        }
        world
    }

    /// Changes a service: of one that is called, a part of its pods and the mark of its turn.
    fn change(&mut self, number: usize, random: usize) -> usize {
        if number >= CALLED {
            let all: Vec<_> = (0..ENDPOINTS)
                .map(|n| ready(&format!("10.2.{}.{}", random % 250, n)))
                .collect();
            self.api.put(slice(&self.services[number], "a", 8080, &all));
            return 0;
        }
        self.turns[number] += 1;
        let turn = self.turns[number];
        let mut endpoints = vec![ready(&format!("127.9.{}.{}", turn / 250, turn % 250 + 1))];
        for (at, pod) in self.pods[number].iter().enumerate() {
            if at < 3 || (random >> at) & 1 == 0 {
                endpoints.push(ready_pod(&format!("127.1.{number}.{}", at + 1), pod));
            }
        }
        let text = |e: &Value| format!("{}:{}", e["addresses"][0].as_str().unwrap(), self.port);
        self.truth.lock().unwrap()[number] = endpoints.iter().map(text).collect();
        self.api
            .put(slice(&self.services[number], "a", self.port, &endpoints));
        turn
    }
}

fn sidecar(api: &KubeApi) -> Selvedge {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new();
    let _ = ca
        .svid("spiffe://shop.local/ns/shop/sa/web")
        .write(dir.path(), "own");
    let file = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(file("bundle.pem"), ca.bundle()).unwrap();
    let config = format!(
        "identity: {{ trustDomain: shop.local, bundle: {}, certificate: {}, key: {} }}
kubernetes: {{ server: \"{}\", token: {}, ca: {}, namespace: shop }}
outbound: {{ bind: \"127.0.0.1:0\" }}
admin: {{ bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }}
",
        file("bundle.pem"),
        file("own.pem"),
        file("own.key"),
        api.url(),
        api.token().display(),
        api.ca().display()
    );
    std::fs::write(file("config.yaml"), config).unwrap();
    let program =
        std::env::var_os("SELVEDGE_BINARY").map_or_else(|| binary().to_owned(), PathBuf::from);
    // Relative to the workspace, where it was built.
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap();
    let mut command = Command::new(root.join(program));
    // As injected pods have it.
    command.env("MIMALLOC_ALLOW_THP", "0");
    command
        .args(["sidecar", "--workers", "2", "--config"])
        .arg(file("config.yaml"));
    Selvedge::spawn(command, dir, &["outbound", "admin", "health"])
}

/// Endpoints of the services that are called, as the sidecar has them.
fn seen(admin: SocketAddr) -> Vec<BTreeSet<String>> {
    let mut raw = Raw::connect(admin);
    raw.send("GET /endpoints HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let all: Value = serde_json::from_slice(&raw.reply().body).unwrap();
    let of = |number: usize| {
        let list = all[format!("shop/s{number}:80")]["endpoints"]
            .as_array()
            .unwrap();
        list.iter()
            .map(|e| e["address"].as_str().unwrap().to_owned())
            .collect()
    };
    (0..CALLED).map(of).collect()
}

/// The last turn that a set of endpoints is of.
fn turn_of(endpoints: &BTreeSet<String>) -> usize {
    let mark = endpoints.iter().find_map(|e| e.strip_prefix("127.9."));
    let mark = mark.unwrap_or_else(|| panic!("no mark in {endpoints:?}"));
    let mut numbers = mark.split([':', '.']).map(|n| n.parse::<usize>().unwrap());
    numbers.next().unwrap() * 250 + numbers.next().unwrap() - 1
}

/// Calls every service, over and over, until told to end; gives how often.
fn call(address: SocketAddr, end: &Receiver<()>) -> usize {
    let mut client = Raw::connect(address);
    let mut count = 0;
    while end.recv_timeout(Duration::from_millis(3)) == Err(RecvTimeoutError::Timeout) {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: s{}.shop\r\n\r\n",
            count % CALLED
        ));
        let reply = client.reply();
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (200, "ok"),
            "call {count}"
        );
        count += 1;
        if reply.header("connection") == Some("close") {
            // After so many requests, as the limits say.
            client = Raw::connect(address);
        }
    }
    count
}

/// Notes how long each change took to be seen, and that what is seen was never less than it may be.
fn measure(admin: SocketAddr, changes: &Receiver<(Instant, usize, usize)>) -> Vec<Duration> {
    let mut late = Vec::new();
    for (at, number, turn) in changes {
        loop {
            let all = seen(admin);
            assert!(all.iter().all(|set| set.len() >= 4), "{all:?}");
            if turn_of(&all[number]) >= turn {
                late.push(at.elapsed());
                break;
            }
            assert!(
                at.elapsed() < Duration::from_secs(40),
                "s{number} is not at {turn}"
            );
            std::thread::yield_now();
        }
    }
    late.sort_unstable();
    late
}

/// Changes the cluster at its pace, for this long.
fn churn(
    world: &mut World,
    how_long: Duration,
    tell: Option<&Sender<(Instant, usize, usize)>>,
) -> usize {
    // What is waited for never comes: it is the pace that is kept.
    let (_held, pace) = channel::<()>();
    let begun = Instant::now();
    let mut random: usize = 0x2545_f491;
    let mut count = 0;
    while begun.elapsed() < how_long {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let draw = random >> 33;
        let number = if count % 10 == 0 {
            draw % CALLED
        } else {
            draw % SERVICES
        };
        let at = Instant::now();
        let turn = world.change(number, draw);
        if let Some(tell) = tell.filter(|_| number < CALLED) {
            tell.send((at, number, turn)).unwrap();
        }
        count += 1;
        let due = begun + PACE * u32::try_from(count).unwrap();
        let _ = pace.recv_timeout(due.saturating_duration_since(Instant::now()));
    }
    count
}

fn wait_for_truth(world: &World, admin: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (truth, now) = (world.truth.lock().unwrap().clone(), seen(admin));
        if truth == now {
            return;
        }
        assert!(Instant::now() < deadline, "{now:?} instead of {truth:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_sidecar_keeps_up_with_a_cluster() {
    let form = Form::of_this_run();
    let mut world = World::new();
    let web = sidecar(&world.api);
    let (outbound, admin) = (web.address("outbound"), web.address("admin"));
    let (end, ended) = channel();
    let caller = std::thread::spawn(move || call(outbound, &ended));
    world.api.wait_for_watches(|open| open.len() == 3 * CALLED);
    wait_for_truth(&world, admin);
    let (tell, told) = channel();
    let measurer = std::thread::spawn(move || measure(admin, &told));
    let changes = churn(&mut world, form.churn, Some(&tell));
    drop(tell);
    let late = measurer.join().unwrap();
    assert!(
        changes as u128 > form.churn.as_millis() / 10 * 9 / 10,
        "{changes} changes"
    );
    wait_for_truth(&world, admin);
    let memory = (form.memory)(&web);
    let at = |share: usize| late[(late.len() - 1) * share / 100];
    eprintln!(
        "{changes} changes; {} seen: median {:?}, 99 % {:?}, latest {:?}; own memory {} KiB, RSS {} KiB",
        late.len(),
        at(50),
        at(99),
        at(100),
        web.own_memory() >> 10,
        web.resident() >> 10
    );
    assert!(at(99) < Duration::from_millis(200), "{:?}", at(99));
    assert!(memory < MEMORY, "{memory} bytes");

    // Versions are forgotten in the midst of it, and every watch is cut.
    churn(&mut world, form.churn / 6, None);
    world.api.drop_watches();
    churn(&mut world, Duration::from_millis(50), None);
    world.api.compact();
    churn(&mut world, form.churn / 6, None);
    wait_for_truth(&world, admin);

    // The API is lost. What it would have told is told when it is back.
    world.api.go_away();
    churn(&mut world, form.away, None);
    world.api.compact();
    world.api.come_back();
    wait_for_truth(&world, admin);
    // What the outage has touched of the program is given back within half a minute.
    let deadline = Instant::now() + Duration::from_secs(40);
    while (form.memory)(&web) >= MEMORY {
        assert!(Instant::now() < deadline, "{} bytes", (form.memory)(&web));
        std::thread::yield_now();
    }
    end.send(()).unwrap();
    let calls = caller.join().unwrap();
    assert!(calls > 500, "{calls} calls");
    eprintln!(
        "{calls} calls, none failed; own memory {} KiB, RSS {} KiB",
        web.own_memory() >> 10,
        web.resident() >> 10
    );
}
