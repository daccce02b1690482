//! A service that decides whether requests may pass, from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Reply, Selvedge, Upstream};

/// A service that lets in who says `X-Pass: yes`, with a name for the application, and counts.
fn deciding() -> (Upstream, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let upstream = Upstream::scripted(move |connection| {
        while let Some(request) = connection.request() {
            counted.fetch_add(1, Ordering::SeqCst);
            let text = String::from_utf8_lossy(&request).into_owned();
            if text.contains("X-Pass: yes") {
                connection.send(
                    "HTTP/1.1 200 OK\r\nX-User: ann\r\nX-Secret: s\r\nContent-Length: 0\r\n\r\n",
                );
            } else if text.contains("X-Pass: login") {
                connection.send("HTTP/1.1 302 Found\r\nLocation: https://id.example/\r\nX-Secret: s\r\nContent-Length: 0\r\n\r\n");
            } else if text.contains("X-Pass: broken") {
                connection.send("HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n");
            } else if text.contains("X-Pass: hang") {
                connection.drain();
            } else {
                connection.send(
                    "HTTP/1.1 403 No\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nnever",
                );
            }
        }
    });
    (upstream, count)
}

fn asking(app: &Upstream, authz: &Upstream, more: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [ask] }}]
policies: {{ ask: {{ extAuthz: {{ service: authz, pathPrefix: /check, upstreamHeaders: [X-User], {more} }} }} }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }}, authz: {{ endpoints: [\"{}\"] }} }}",
        app.address(),
        authz.address()
    ))
}

fn send(proxy: &Selvedge, line: &str, fields: &str) -> Reply {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!(
        "{line} HTTP/1.1\r\nHost: shop\r\nContent-Length: 4\r\n{fields}\r\nbody"
    ));
    client
        .try_reply_to(line.split(' ').next().unwrap())
        .unwrap()
}

#[test]
fn it_lets_in_keeps_out_and_sends_away() {
    let (app, (authz, _)) = (Upstream::answering("ok"), deciding());
    let proxy = asking(&app, &authz, "");
    let reply = send(
        &proxy,
        "POST /orders?a=1",
        "X-Pass: yes\r\nX-User: forged\r\nX_User: forged\r\nX-Forwarded-For: 9.9.9.9\r\n",
    );
    assert_eq!((reply.status, reply.text()), (200, "ok".to_owned()));
    let asked = authz.all();
    assert!(
        asked.starts_with("POST /check/orders?a=1 HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(
        !asked.contains("body") && !asked.contains("Content-Length: 4"),
        "{asked}"
    );
    assert!(
        asked.contains("X-Forwarded-For: 127.0.0.1") && !asked.contains("9.9.9.9"),
        "{asked}"
    );
    let told = app.all();
    assert!(
        told.contains("X-User: ann") && !told.contains("forged") && !told.contains("X-Secret"),
        "{told}"
    );
    assert!(told.ends_with("body"), "{told}");
    let reply = send(&proxy, "GET /", "");
    assert_eq!((reply.status, reply.text()), (403, "never".to_owned()));
    let reply = send(&proxy, "GET /", "X-Pass: login\r\n");
    assert_eq!(
        (reply.status, reply.header("location")),
        (302, Some("https://id.example/"))
    );
    assert_eq!(reply.header("x-secret"), None);
    assert_eq!(app.seen().len(), 1);
}

#[test]
fn a_refusal_has_its_end_code_whatever_its_status() {
    let (app, (authz, _)) = (Upstream::answering("ok"), deciding());
    let mut proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [ask] }}]
policies: {{ ask: {{ extAuthz: {{ service: authz }} }} }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }}, authz: {{ endpoints: [\"{}\"] }} }}
telemetry: {{ accessLog: {{ path: \"-\" }} }}",
        app.address(),
        authz.address()
    ));
    for (path, pass, status) in [("/no", "no", 403), ("/away", "login", 302)] {
        let reply = send(
            &proxy,
            &format!("GET {path}"),
            &format!("X-Pass: {pass}\r\n"),
        );
        assert_eq!(reply.status, status);
        let line = proxy.wait_for_next("\"end\":\"RE\"");
        assert!(line.contains(&format!("\"target\":\"{path}\"")), "{line}");
    }
}

#[test]
fn whoever_cannot_be_asked_lets_nobody_in_unless_that_is_wanted() {
    let (app, (authz, _)) = (Upstream::answering("ok"), deciding());
    for (more, want) in [
        ("timeout: 100ms", 503),
        ("timeout: 100ms, failOpen: true", 200),
    ] {
        let proxy = asking(&app, &authz, more);
        for pass in ["broken", "hang"] {
            let begun = Instant::now();
            let reply = send(
                &proxy,
                "GET /",
                &format!("X-Pass: {pass}\r\nX-User: forged\r\n"),
            );
            assert_eq!(reply.status, want, "{more} {pass}");
            assert!(begun.elapsed() < Duration::from_secs(2));
        }
        let gone = Upstream::scripted(|_| {});
        let proxy = asking(&app, &gone, more);
        assert_eq!(send(&proxy, "GET /", "").status, want);
    }
    assert!(!app.all().contains("forged"));
}

#[test]
fn a_verdict_is_remembered_for_its_question_only() {
    let (app, (authz, count)) = (Upstream::answering("ok"), deciding());
    let proxy = asking(&app, &authz, "cache: 1m, headers: [X-Pass]");
    let ask = |line: &str, fields: &str, status: u16, asked: usize| {
        assert_eq!(send(&proxy, line, fields).status, status, "{line} {fields}");
        assert_eq!(count.load(Ordering::SeqCst), asked, "{line} {fields}");
    };
    ask("GET /", "X-Pass: yes\r\n", 200, 1);
    ask("GET /", "X-Pass: yes\r\nX-Other: 1\r\n", 200, 1);
    ask("GET /", "X-Pass: no\r\n", 403, 2);
    ask("GET /", "X-Pass: no\r\n", 403, 2);
    ask("PUT /", "X-Pass: yes\r\n", 200, 3);
    ask("GET /a", "X-Pass: yes\r\n", 200, 4);
    ask("GET /", "X-Pass: broken\r\n", 503, 5);
    ask("GET /", "X-Pass: broken\r\n", 503, 6);
    assert!(!authz.all().contains("X-Other"));
}

#[test]
fn a_verdict_on_one_caller_is_not_another_s() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let key = |name: &str| {
        let made = std::process::Command::new(selvedge_tests::process::binary())
            .args(["apikey", "new", "--name", name, "--file"])
            .arg(&file)
            .output()
            .unwrap();
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let (admin, eve) = (key("admin"), key("eve"));
    let app = Upstream::answering("ok");
    let authz = Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            let admin = String::from_utf8_lossy(&request).contains("X-Consumer: admin");
            connection.send(if admin {
                "HTTP/1.1 200 OK\r\nX-User: root\r\nContent-Length: 0\r\n\r\n"
            } else {
                "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
            });
        }
    });
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [ask, keys] }}]
policies:
  keys: {{ apiKey: {{ file: {} }} }}
  ask: {{ extAuthz: {{ service: authz, headers: [X-Consumer], upstreamHeaders: [X-User], cache: 1m }} }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }}, authz: {{ endpoints: [\"{}\"] }} }}",
        file.display(),
        app.address(),
        authz.address()
    ));
    let ask = |key: &str| send(&proxy, "GET /u", &format!("X-API-Key: {key}\r\n")).status;
    assert_eq!(
        [ask(&admin), ask(&eve), ask(&admin), ask(&eve)],
        [200, 403, 200, 403]
    );
}

#[test]
fn a_refusal_counts_however_long_or_slow_its_page_is() {
    let app = Upstream::answering("ok");
    for slow in [false, true] {
        let authz = Upstream::scripted(move |connection| {
            while connection.request().is_some() {
                connection.send("HTTP/1.1 403 No\r\nContent-Length: 100000\r\n\r\n");
                if slow {
                    connection.drain();
                } else {
                    connection.send("x".repeat(100_000));
                }
            }
        });
        let proxy = asking(&app, &authz, "failOpen: true");
        assert_eq!(send(&proxy, "GET /", "").status, 403, "slow: {slow}");
    }
    assert!(app.seen().is_empty());
}
