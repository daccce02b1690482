//! Limits that several gateways share, in a real Redis (row RL-02 of the battery, goal G11).

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Redis, Selvedge, TestCa, Upstream};

fn ok() -> Upstream {
    Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

/// A gateway with one limit by the header `x-who`, counted in a store.
fn counting(upstream: &Upstream, store: &str, limit: &str) -> Selvedge {
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
redis: {{ counts: {{ {store} }} }}
policies: {{ few: {{ rateLimit: {{ key: header.x-who, redis: counts, {limit} }} }} }}
routes: [{{ rules: [{{ policies: [few], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    proxy.wait_for_log("connected to the store");
    proxy
}

fn at(address: SocketAddr) -> String {
    format!("address: \"redis://{address}\"")
}

/// Waited for as long as a busy machine may take: for tests that are not about a store that is late.
fn patient(address: SocketAddr) -> String {
    format!("timeout: 2s, wait: 1s, {}", at(address))
}

fn ask(client: &mut Raw, who: &str) -> u16 {
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Who: {who}\r\n\r\n"));
    client.reply().status
}

/// Asks as a new caller each time, until the status is this one.
fn until(proxy: &Selvedge, status: u16, within: Duration) {
    let begun = Instant::now();
    let mut client = Raw::connect(proxy.address("web"));
    for who in 0.. {
        // A connection carries 10,000 requests.
        if who % 5000 == 4999 {
            client = Raw::connect(proxy.address("web"));
        }
        if ask(&mut client, &format!("until-{who}")) == status {
            return;
        }
        assert!(begun.elapsed() < within, "no {status} within {within:?}");
    }
}

/// For this long; the whole minute of the goal where `SELVEDGE_LONG` is set.
fn while_counting() -> Duration {
    let long = std::env::var_os("SELVEDGE_LONG").is_some();
    Duration::from_secs(if long { 60 } else { 4 })
}

#[test]
fn three_gateways_at_five_times_the_limit_admit_rate_and_burst_together() {
    let (upstream, redis) = (ok(), Redis::start());
    let limit = "rate: 200/s, burst: 20";
    let proxies: Vec<Selvedge> = (0..3)
        .map(|_| counting(&upstream, &patient(redis.address()), limit))
        .collect();
    let begun = Instant::now();
    let (admitted, asked): (u32, u32) = std::thread::scope(|scope| {
        let ask_on = |address: SocketAddr| {
            let mut client = Raw::connect(address);
            let (mut admitted, mut asked) = (0u32, 0u32);
            while begun.elapsed() < while_counting() {
                // Five times the limit over three gateways: 333 a second each.
                let due = begun.elapsed().as_secs_f64() * 334.0;
                if f64::from(asked) > due {
                    std::thread::yield_now();
                    continue;
                }
                if asked % 5000 == 4999 {
                    client = Raw::connect(address);
                }
                asked += 1;
                admitted += u32::from(ask(&mut client, "one") == 200);
            }
            (admitted, asked)
        };
        let threads: Vec<_> = proxies
            .iter()
            .map(|p| p.address("web"))
            .map(|address| scope.spawn(move || ask_on(address)))
            .collect();
        let counts = threads.into_iter().map(|t| t.join().unwrap());
        counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    let most = 200.0 * begun.elapsed().as_secs_f64() + 20.0;
    let share = f64::from(admitted) / most;
    println!("{admitted} of {most:.0} admitted, {share:.4}; {asked} asked");
    assert!(f64::from(asked) > 3.0 * most, "{asked} asked: no excess");
    assert!((0.99..=1.004).contains(&share), "{admitted} of {most}");
}

#[test]
fn the_client_is_told_what_all_gateways_have_counted() {
    let (upstream, redis) = (ok(), Redis::start());
    let store = patient(redis.address());
    let proxies = [0, 1].map(|_| counting(&upstream, &store, "rate: 4/hour"));
    let told: Vec<String> = (0..5)
        .map(|turn| {
            let mut client = Raw::connect(proxies[turn % 2].address("web"));
            client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Who: me\r\n\r\n");
            let reply = client.reply();
            let left = reply
                .header("ratelimit")
                .unwrap()
                .split(';')
                .nth(1)
                .unwrap();
            format!("{} {left}", reply.status)
        })
        .collect();
    assert_eq!(
        told,
        ["200 r=3", "200 r=2", "200 r=1", "200 r=0", "429 r=0"]
    );
    // Who must wait is known here too: the store is not asked again, and names nobody.
    let keys = redis.ask(&["KEYS", "*"]);
    assert_eq!(keys.len(), 1);
    assert!(
        keys[0].starts_with("selvedge:{few:") && !keys[0].contains("me"),
        "{keys:?}"
    );
}

#[test]
fn rl_02_open_a_hung_store_adds_nothing_that_is_felt() {
    let (upstream, redis) = (ok(), Redis::start());
    let proxy = counting(&upstream, &at(redis.address()), "rate: 1000/s");
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(ask(&mut client, "a"), 200);
    redis.signal("STOP");
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    for turn in 0..100 {
        let asked = Instant::now();
        assert_eq!(ask(&mut client, &format!("b{turn}")), 200);
        longest = longest.max(asked.elapsed());
    }
    // Each waits 5 ms at most, and only until the store is known to be lost after 50 ms: by then
    // ten have. All together that is far from 100 times the 50 ms of the store's own time-out.
    println!("100 requests in {:?}, longest {longest:?}", begun.elapsed());
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert!(longest < Duration::from_millis(40), "{longest:?}");
    redis.signal("CONT");
    let _ = redis.ask(&["FLUSHALL"]);
    let begun = Instant::now();
    for who in 0.. {
        assert_eq!(ask(&mut client, &format!("c{who}")), 200);
        if !redis.ask(&["KEYS", "*"]).is_empty() {
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "counts on its own for too long"
        );
    }
}

#[test]
fn rl_02_open_goes_on_from_what_was_counted_together() {
    let (upstream, mut redis) = (ok(), Redis::start());
    let proxy = counting(&upstream, &at(redis.address()), "rate: 3/hour");
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!([ask(&mut client, "a"), ask(&mut client, "a")], [200, 200]);
    redis.kill();
    assert_eq!([ask(&mut client, "a"), ask(&mut client, "a")], [200, 429]);
    redis.restart();
    until(&proxy, 200, Duration::from_secs(2));
}

#[test]
fn rl_02_closed_a_hung_or_dead_store_is_503_and_soon_well_again() {
    let (upstream, mut redis) = (ok(), Redis::start());
    let proxy = counting(
        &upstream,
        &at(redis.address()),
        "rate: 1000/s, onLoss: refuse",
    );
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(ask(&mut client, "a"), 200);
    redis.signal("STOP");
    let begun = Instant::now();
    for turn in 0..20 {
        assert_eq!(ask(&mut client, &format!("b{turn}")), 503);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    redis.signal("CONT");
    until(&proxy, 200, Duration::from_secs(2));
    redis.kill();
    until(&proxy, 503, Duration::from_secs(1));
    redis.restart();
    until(&proxy, 200, Duration::from_secs(2));
    let lost = proxy.metric("selvedge_request_failures_total", &["NoCount", "\"RS\""]);
    assert!(lost >= 21.0, "{lost}");
}

#[test]
fn rl_02_flushed_or_garbled_keys_start_over() {
    let (upstream, redis) = (ok(), Redis::start());
    let proxy = counting(
        &upstream,
        &at(redis.address()),
        "rate: 2/hour, onLoss: refuse",
    );
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(ask(&mut client, "a"), 200);
    let _ = redis.ask(&["SCRIPT", "FLUSH"]);
    let _ = redis.ask(&["FLUSHALL"]);
    assert_eq!(ask(&mut client, "a"), 200);
    let keys = redis.ask(&["KEYS", "*"]);
    for garbage in [
        vec!["SET", &keys[0], "nonsense"],
        vec!["SET", &keys[0], "-5"],
        vec!["SET", &keys[0], "9e99"],
        vec!["SET", &keys[0], "nan"],
    ] {
        let _ = redis.ask(&garbage);
        assert!([200, 429].contains(&ask(&mut client, "b")), "{garbage:?}");
    }
    let _ = redis.ask(&["DEL", &keys[0]]);
    let _ = redis.ask(&["RPUSH", &keys[0], "x"]);
    let other = counting(
        &upstream,
        &at(redis.address()),
        "rate: 2/hour, onLoss: refuse",
    );
    let mut client = Raw::connect(other.address("web"));
    let statuses = [0, 1, 2].map(|_| ask(&mut client, "a"));
    assert_eq!(statuses, [200, 200, 429]);
    // A time far ahead, of a clock that went back: nobody is locked out for longer than the burst.
    let _ = redis.ask(&["SET", &keys[0], "99999999999999999"]);
    let third = counting(&upstream, &at(redis.address()), "rate: 2/s, onLoss: refuse");
    let mut client = Raw::connect(third.address("web"));
    let begun = Instant::now();
    let mut asked = 0;
    while ask(&mut client, "a") != 200 {
        asked += 1;
        if asked % 5000 == 0 {
            client = Raw::connect(third.address("web"));
        }
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}

/// Passes bytes on to a server, until it is told to cut every connection.
struct Relay {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    shut: Arc<AtomicBool>,
    /// Answers are held back for as long as somebody holds this.
    slow: Arc<Mutex<()>>,
}

impl Relay {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            open: Arc::default(),
            shut: Arc::default(),
            slow: Arc::default(),
        };
        let (open, shut) = (relay.open.clone(), relay.shut.clone());
        let slow = relay.slow.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                let none = Arc::default();
                for (from, to, slow) in [(&client, &server, &none), (&server, &client, &slow)] {
                    let slow = slow.clone();
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let mut buffer = [0; 4096];
                        while let Ok(count @ 1..) = from.read(&mut buffer) {
                            drop(slow.lock().unwrap());
                            if to.write_all(&buffer[..count]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                open.lock().unwrap().extend([client, server]);
            }
        });
        relay
    }

    fn reset(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn rl_02_a_reset_connection_costs_a_few_requests_at_most() {
    let (upstream, redis) = (ok(), Redis::start());
    let relay = Relay::to(redis.address());
    for (mode, during) in [("local", 200), ("refuse", 503)] {
        relay.shut.store(false, Ordering::SeqCst);
        let limit = format!("rate: 1000/s, onLoss: {mode}");
        let proxy = counting(&upstream, &at(relay.address), &limit);
        let mut client = Raw::connect(proxy.address("web"));
        assert_eq!(ask(&mut client, "a"), 200);
        relay.reset();
        until(&proxy, 200, Duration::from_secs(2));
        relay.shut.store(true, Ordering::SeqCst);
        relay.reset();
        until(&proxy, during, Duration::from_secs(2));
        relay.shut.store(false, Ordering::SeqCst);
        until(&proxy, 200, Duration::from_secs(2));
    }
}

#[test]
fn rl_02_answers_that_come_late_are_nobody_else_s() {
    let (upstream, redis) = (ok(), Redis::start());
    let relay = Relay::to(redis.address());
    for (mode, during) in [("local", 200), ("refuse", 503)] {
        let limit = format!("rate: 2/hour, onLoss: {mode}");
        let proxy = counting(&upstream, &at(relay.address), &limit);
        let mut client = Raw::connect(proxy.address("web"));
        // Used up: what is said of this one must not be said of others.
        assert_eq!(
            [0, 1, 2].map(|_| ask(&mut client, "spent")),
            [200, 200, 429]
        );
        let held = relay.slow.lock().unwrap();
        let begun = Instant::now();
        for turn in 0..5 {
            assert_eq!(ask(&mut client, &format!("{mode}{turn}")), during);
        }
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        drop(held);
        until(&proxy, 200, Duration::from_secs(2));
        let mut other = Raw::connect(proxy.address("web"));
        for turn in 0..20 {
            assert_eq!(ask(&mut other, &format!("{mode}-new{turn}")), 200);
        }
        assert_eq!(ask(&mut other, "spent"), 429);
        let _ = redis.ask(&["FLUSHALL"]);
    }
}

#[test]
fn passwords_and_tls() {
    let upstream = ok();
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new();
    let _ = ca.server(&["localhost"]).write(dir.path(), "redis");
    std::fs::write(dir.path().join("ca.pem"), ca.bundle()).unwrap();
    std::fs::write(dir.path().join("secret"), "open sesame\n").unwrap();
    let files = dir.path().display().to_string();
    let options = [
        "--port",
        "0",
        "--tls-port",
        "$PORT",
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        "$DIR/redis.pem",
        "--tls-key-file",
        "$DIR/redis.key",
        "--tls-ca-cert-file",
        "$DIR/ca.pem",
    ];
    let redis = Redis::within(dir, &options, Some("open sesame"));
    let port = redis.address().port();
    let store = format!(
        "address: \"rediss://localhost:{port}\", ca: {files}/ca.pem, passwordFile: {files}/secret"
    );
    let proxy = counting(&upstream, &store, "rate: 1/hour, onLoss: refuse");
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!([ask(&mut client, "a"), ask(&mut client, "a")], [200, 429]);
}
