//! The two promises of operation: a reload fails nothing and mixes nothing, a drain cuts nothing.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use selvedge_tests::{PATIENCE, Raw, Selvedge, Upstream, gateway};

/// One at a time: these tests measure under load, and would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn generation(number: usize, upstream: &Upstream) -> String {
    format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes:
  - rules:
      - filters:
          - type: RequestHeaderModifier
            requestHeaderModifier: {{ set: [{{ name: X-Generation, value: \"{number}\" }}] }}
          - type: ResponseHeaderModifier
            responseHeaderModifier: {{ set: [{{ name: X-Generation, value: \"{number}\" }}] }}
        backendRefs: [{{ service: app }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}
admin: {{ bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }}
",
        upstream.address()
    )
}

/// Answers with the generation that the request came with.
fn echo() -> Upstream {
    Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            let text = String::from_utf8_lossy(&request).into_owned();
            let seen = text
                .lines()
                .find_map(|l| l.strip_prefix("X-Generation: "))
                .unwrap_or("none");
            let length = seen.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{seen}"
            ));
        }
    })
}

fn post(proxy: &Selvedge, path: &str) -> u16 {
    let mut raw = Raw::connect(proxy.address("admin"));
    raw.send(format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    ));
    raw.reply().status
}

#[test]
fn a_hundred_reloads_under_load_fail_nothing() {
    let _alone = alone();
    let upstream = echo();
    let mut proxy = gateway(&generation(0, &upstream));
    let address = proxy.address("web");
    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served) = (stop.clone(), served.clone());
            std::thread::spawn(move || {
                let mut client = Raw::connect(address);
                while !stop.load(Ordering::Relaxed) {
                    let reply = client.get("/");
                    assert_eq!(reply.status, 200);
                    let stamped = reply.header("x-generation").unwrap_or("none").to_owned();
                    assert_eq!(stamped, reply.text(), "one request saw two generations");
                    served.fetch_add(1, Ordering::Relaxed);
                    if reply.header("connection") == Some("close") {
                        client = Raw::connect(address);
                    }
                }
            })
        })
        .collect();
    let begun = std::time::Instant::now();
    for number in 1..=100 {
        std::fs::write(
            proxy.dir().join("config.yaml"),
            generation(number, &upstream),
        )
        .unwrap();
        proxy.skip_log();
        assert_eq!(post(&proxy, "/reload"), 202);
        proxy.wait_for_next("configuration reloaded");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no failed request");
    }
    let rate = f64::from(u32::try_from(served.load(Ordering::Relaxed)).unwrap())
        / begun.elapsed().as_secs_f64();
    assert!(
        rate >= 1000.0,
        "only {rate:.0} requests a second: no load to speak of"
    );
    let reply = Raw::connect(address).get("/");
    assert_eq!(reply.text(), "100", "the last one is in force");
}

#[test]
fn a_reload_that_fails_changes_nothing() {
    let _alone = alone();
    let upstream = echo();
    let mut proxy = gateway(&generation(1, &upstream));
    std::fs::write(
        proxy.dir().join("config.yaml"),
        "listeners: [{ nam: web }]\n",
    )
    .unwrap();
    proxy.wait_for_next("configuration not reloaded");
    assert_eq!(Raw::connect(proxy.address("web")).get("/").text(), "1");
    assert_eq!(
        proxy.metric("selvedge_config_reload_failures_total", &[]),
        1.0
    );
    let (status, details) = proxy.get("health", "/ready");
    assert_eq!(status, 200);
    assert!(details.contains("unknown key `nam`"), "{details}");
    // Putting it right is enough: files are watched.
    std::fs::write(proxy.dir().join("config.yaml"), generation(2, &upstream)).unwrap();
    proxy.wait_for_next("configuration reloaded");
    assert_eq!(Raw::connect(proxy.address("web")).get("/").text(), "2");
}

#[test]
fn a_kubernetes_volume_swap_is_seen() {
    let _alone = alone();
    let upstream = echo();
    let dir = tempfile::tempdir().unwrap();
    let version = |name: &str, number| {
        let data = dir.path().join(name);
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("gateway.yaml"), generation(number, &upstream)).unwrap();
    };
    version("..1", 1);
    std::os::unix::fs::symlink("..1", dir.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/gateway.yaml", dir.path().join("gateway.yaml")).unwrap();
    let mut command = std::process::Command::new(selvedge_tests::process::binary());
    command
        .arg("gateway")
        .arg("--config")
        .arg(dir.path())
        .args(["--workers", "1"]);
    let mut proxy = Selvedge::spawn(command, tempfile::tempdir().unwrap(), &["admin", "health"]);
    assert_eq!(Raw::connect(proxy.address("web")).get("/").text(), "1");
    version("..2", 2);
    std::os::unix::fs::symlink("..2", dir.path().join("..new")).unwrap();
    std::fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    proxy.wait_for_next("configuration reloaded");
    assert_eq!(Raw::connect(proxy.address("web")).get("/").text(), "2");
}

/// Opened by the test; until then every request waits.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let open = self.open.lock().unwrap();
        let (open, _) = self
            .changed
            .wait_timeout_while(open, PATIENCE, |open| !*open)
            .unwrap();
        assert!(*open);
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

#[test]
fn sigterm_with_500_busy_connections_fails_none() {
    let _alone = alone();
    let gate = Arc::new(Gate::default());
    let waits = gate.clone();
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            waits.pass();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let mut config = generation(0, &upstream);
    let _ = writeln!(config, "drain: {{ timeout: 30s }}");
    let mut proxy = gateway(&config);
    let address = proxy.address("web");
    let mut idle = Raw::connect(address);
    let busy = |seen: &[selvedge_tests::Seen]| {
        seen.iter()
            .filter(|s| s.bytes.ends_with(b"\r\n\r\n"))
            .count()
    };
    let mut clients = Vec::new();
    // In fifties: the upstream's backlog is not what is tested.
    for fifty in 1..=10 {
        for _ in 0..50 {
            let mut client = Raw::connect(address);
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            clients.push(client);
        }
        upstream.wait_until(|seen| busy(seen) == fifty * 50);
    }
    proxy.signal("TERM");
    proxy.wait_for("leaving");
    // An idle connection ends at once; one that has a request in flight does not.
    assert!(idle.is_closed());
    gate.open();
    for client in &mut clients {
        let reply = client.reply();
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(client.is_closed());
    }
    let status = proxy.wait();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let _alone = alone();
    let gate = Arc::new(Gate::default());
    let waits = gate.clone();
    let upstream = Upstream::scripted(move |connection| {
        let _ = connection.request();
        waits.pass();
    });
    let mut proxy = gateway(&generation(0, &upstream));
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    upstream.wait_until(|seen| seen.iter().any(|s| s.bytes.ends_with(b"\r\n\r\n")));
    proxy.signal("TERM");
    proxy.wait_for("leaving");
    let (status, _) = proxy.get("health", "/ready");
    assert_eq!(status, 503, "not ready any more");
    proxy.signal("TERM");
    assert_eq!(proxy.wait().code(), Some(0));
    gate.open();
}
