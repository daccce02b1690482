//! The cache under many clients, and at its bounds: one request for a crowd, nothing half, no more
//! memory than was given, forgetting on request.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use selvedge_tests::caching::{ask, caching, numbered};
use selvedge_tests::{Bell, PATIENCE, Raw, Upstream};

#[test]
fn a_crowd_costs_one_request() {
    let (go, count) = (Bell::default(), Arc::new(AtomicUsize::new(0)));
    let (wait, counted) = (go.clone(), count.clone());
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            counted.fetch_add(1, Ordering::SeqCst);
            wait.wait();
            connection.send(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok",
            );
        }
    });
    let proxy = caching(&upstream, "");
    let mut crowd: Vec<Raw> = (0..50)
        .map(|_| {
            let mut client = Raw::connect(proxy.address("web"));
            client.send("GET /hot HTTP/1.1\r\nHost: shop\r\n\r\n");
            client
        })
        .collect();
    proxy.wait_for_metric("selvedge_cache_requests_total", &["\"wait\""], 49.0);
    go.ring();
    for client in &mut crowd {
        assert_eq!(client.reply().text(), "ok");
    }
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn a_leader_that_leaves_does_not_take_the_others_along() {
    let (go, count) = (Bell::default(), Arc::new(AtomicUsize::new(0)));
    let (wait, counted) = (go.clone(), count.clone());
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                wait.wait();
                return;
            }
            connection.send(
                "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nok",
            );
        }
    });
    let proxy = caching(&upstream, "");
    let mut leader = Raw::connect(proxy.address("web"));
    leader.send("GET /hot HTTP/1.1\r\nHost: shop\r\n\r\n");
    proxy.wait_for_metric("selvedge_cache_requests_total", &["\"miss\""], 1.0);
    // It has been counted there before it leaves, or else the other would be the first.
    let begun = Instant::now();
    while count.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < PATIENCE, "it was not asked");
    }
    let mut other = Raw::connect(proxy.address("web"));
    other.send("GET /hot HTTP/1.1\r\nHost: shop\r\n\r\n");
    proxy.wait_for_metric("selvedge_cache_requests_total", &["\"wait\""], 1.0);
    drop(leader);
    assert_eq!(other.reply().text(), "ok");
    go.ring();
}

#[test]
fn answers_that_cannot_be_kept_do_not_queue() {
    let (go, count) = (Bell::default(), Arc::new(AtomicUsize::new(0)));
    let (wait, counted) = (go.clone(), count.clone());
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            if counted.fetch_add(1, Ordering::SeqCst) > 0 {
                wait.wait();
            }
            connection
                .send("HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = caching(&upstream, "");
    assert_eq!(ask(&proxy, "GET /mine").text(), "ok");
    let mut crowd: Vec<Raw> = (0..5)
        .map(|_| {
            let mut client = Raw::connect(proxy.address("web"));
            client.send("GET /mine HTTP/1.1\r\nHost: shop\r\n\r\n");
            client
        })
        .collect();
    // All five are upstream at the same time.
    let begun = Instant::now();
    while count.load(Ordering::SeqCst) < 6 {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "they wait for each other"
        );
    }
    for _ in 0..5 {
        go.ring();
    }
    for client in &mut crowd {
        assert_eq!(client.reply().text(), "ok");
    }
}

#[test]
fn what_broke_off_or_is_too_long_is_not_kept() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let upstream = Upstream::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let at = counted.fetch_add(1, Ordering::SeqCst);
            let fields = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n";
            if request.starts_with(b"GET /long ") {
                let body = "x".repeat(3000);
                connection.send(format!("{fields}Content-Length: 3000\r\n\r\n{body}"));
            } else if request.starts_with(b"GET /chunks ") {
                let body = "x".repeat(3000);
                connection.send(format!(
                    "{fields}Transfer-Encoding: chunked\r\n\r\nbb8\r\n{body}\r\n0\r\n\r\n"
                ));
            } else if at == 0 {
                connection.send(format!("{fields}Content-Length: 9\r\n\r\nabc"));
                return;
            } else {
                connection.send(format!(
                    "{fields}Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n"
                ));
            }
        }
    });
    let proxy = caching(&upstream, "size: 1MiB, largest: 2KiB");
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    assert!(client.try_reply_to("GET").is_err());
    for _ in 0..3 {
        assert_eq!(ask(&proxy, "GET /").text(), "whole");
    }
    assert_eq!(count.load(Ordering::SeqCst), 2);
    for path in ["/long", "/chunks"] {
        for _ in 0..2 {
            assert_eq!(ask(&proxy, &format!("GET {path}")).body.len(), 3000);
        }
    }
    assert_eq!(count.load(Ordering::SeqCst), 6);
}

#[test]
fn memory_is_bounded_by_size() {
    let body = "x".repeat(60_000);
    let upstream = Upstream::replying(format!(
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 60000\r\n\r\n{body}"
    ));
    let proxy = caching(&upstream, "size: 1MiB, largest: 100KiB");
    let mut client = Raw::connect(proxy.address("web"));
    for at in 0..200 {
        client.send(format!("GET /{at} HTTP/1.1\r\nHost: shop\r\n\r\n"));
        assert_eq!(client.reply().body.len(), 60_000);
    }
    let held = proxy.metric("selvedge_cache_bytes", &["kept"]);
    assert!((100_000.0..=1_048_576.0).contains(&held), "{held}");
}

#[test]
fn writing_and_purging_forget() {
    let (upstream, _) = numbered("Cache-Control: max-age=60\r\nCache-Tag: shoes, p-1\r\n");
    let proxy = caching(&upstream, "");
    let get = |path: &str| ask(&proxy, &format!("GET {path}"));
    assert_eq!(get("/a").header("cache-tag"), None);
    assert_eq!(get("/a").text(), "answer 1");
    assert_eq!(ask(&proxy, "POST /a").text(), "answer 2");
    assert_eq!(get("/a").text(), "answer 3");
    let purge = |what: &str| {
        let mut admin = Raw::connect(proxy.address("admin"));
        admin.send(format!(
            "POST /cache/purge?{what} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        ));
        let reply = admin.reply();
        (
            reply.status,
            reply
                .text()
                .chars()
                .filter(char::is_ascii_digit)
                .collect::<String>(),
        )
    };
    for (what, gone) in [
        ("key=http://shop/a", "1"),
        ("key=http://shop/other", "0"),
        ("prefix=http%3A%2F%2Fshop%2F", "1"),
        ("tag=p-1", "1"),
        ("tag=p-2&policy=kept", "0"),
        ("all", "1"),
    ] {
        let before = get("/a").text();
        assert_eq!(purge(what), (200, gone.to_owned()), "{what}");
        assert_eq!(get("/a").text() != before, gone == "1", "{what}");
    }
    assert_eq!(purge("").0, 400);
    assert_eq!(purge("all&policy=none").0, 404);
}
