//! The cache from outside (RFC 9111): what is given again, to whom, for how long, and when not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use selvedge_tests::Upstream;
use selvedge_tests::caching::{ask, caching, numbered};
use selvedge_tests::process::gateway;

#[test]
fn a_fresh_answer_is_given_again() {
    let (upstream, count) = numbered(
        "Cache-Control: max-age=60\r\nETag: \"v1\"\r\nDate: Sun, 22 Nov 2099 06:00:00 GMT\r\n",
    );
    let proxy = caching(&upstream, "");
    let first = ask(&proxy, "GET /a?b=1");
    assert_eq!(
        first.header("cache-status"),
        Some("selvedge; fwd=miss; stored")
    );
    assert_eq!(first.header("age"), None);
    for _ in 0..3 {
        let again = ask(&proxy, "GET /a?b=1");
        assert_eq!((again.status, again.text()), (200, "answer 1".to_owned()));
        let told = again.header("cache-status").unwrap();
        assert!(told.starts_with("selvedge; hit; ttl="), "{told}");
        assert!(again.header("age").unwrap().parse::<u32>().unwrap() < 10);
        assert_eq!(again.header("content-length"), Some("8"));
    }
    // Another query, host or scheme is another address; HEAD is answered from what GET stored.
    assert_eq!(ask(&proxy, "GET /a?b=2").text(), "answer 2");
    let head = ask(&proxy, "HEAD /a?b=1");
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("8"))
    );
    // Conditions and parts too.
    assert_eq!(
        ask(&proxy, "GET /a?b=1\nIf-None-Match: \"v0\", W/\"v1\"").status,
        304
    );
    assert_eq!(ask(&proxy, "GET /a?b=1\nIf-None-Match: \"v0\"").status, 200);
    let part = ask(&proxy, "GET /a?b=1\nRange: bytes=0-5");
    assert_eq!((part.status, part.text()), (206, "answer".to_owned()));
    assert_eq!(part.header("content-range"), Some("bytes 0-5/8"));
    assert_eq!(ask(&proxy, "GET /a?b=1\nRange: bytes=9-").status, 416);
    assert_eq!(
        ask(&proxy, "GET /a?b=1\nRange: bytes=0-1\nIf-Range: \"v0\"").status,
        200
    );
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // A rule without the policy, and another rule with it, do not see it.
    assert_eq!(ask(&proxy, "GET /plain").text(), "answer 3");
    assert_eq!(ask(&proxy, "GET /a?b=1\nX-Canary: yes").text(), "answer 4");
    assert_eq!(ask(&proxy, "GET /a?b=1").text(), "answer 1");
    proxy.wait_for_metric("selvedge_cache_requests_total", &["kept", "\"miss\""], 3.0);
}

#[test]
fn what_must_not_be_given_to_others_is_not() {
    for (fields, request) in [
        ("Cache-Control: private, max-age=60\r\n", "GET /"),
        ("Cache-Control: no-store\r\n", "GET /"),
        ("Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n", "GET /"),
        ("Cache-Control: max-age=60\r\nVary: *\r\n", "GET /"),
        ("Cache-Control: max-age=60\r\nVary: Accept, *\r\n", "GET /"),
        (
            "Cache-Control: max-age=60\r\n",
            "GET /\nAuthorization: Basic x",
        ),
        ("Cache-Control: max-age=0\r\n", "GET /"),
        ("Expires: 0\r\n", "GET /"),
        ("Expires: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "GET /"),
        ("Cache-Control: max-age=60\r\nAge: 60\r\n", "GET /"),
        ("", "GET /"),
        ("Cache-Control: max-age=60\r\n", "POST /"),
        ("Cache-Control: max-age=60\r\n", "GET /\nRange: bytes=0-1"),
        ("Cache-Control: max-age=60\r\n", "HEAD /"),
    ] {
        let (upstream, _) = numbered(fields);
        let proxy = caching(&upstream, "");
        let _ = ask(&proxy, request);
        assert_eq!(
            ask(&proxy, "GET /").text(),
            "answer 2",
            "{fields} {request}"
        );
    }
    // With leave, what credentials brought may be shown.
    for leave in [
        "public, max-age=60",
        "s-maxage=60",
        "max-age=60, must-revalidate",
    ] {
        let fields: &'static str = format!("Cache-Control: {leave}\r\n").leak();
        let (upstream, _) = numbered(fields);
        let proxy = caching(&upstream, "");
        let _ = ask(&proxy, "GET /\nAuthorization: Basic x");
        assert_eq!(ask(&proxy, "GET /").text(), "answer 1", "{leave}");
    }
}

#[test]
fn a_key_s_owner_is_who_calls_too() {
    let (upstream, _) = numbered("Cache-Control: max-age=60\r\n");
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
    let (mine, yours) = (key("mine"), key("yours"));
    let config = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies: {{ kept: {{ cache: {{}} }}, keys: {{ apiKey: {{ file: {} }} }} }}
routes: [{{ rules: [{{ policies: [kept, keys], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        file.display(),
        upstream.address()
    );
    let proxy = gateway(&config);
    let ask = |key: &str| ask(&proxy, &format!("GET /\nX-API-Key: {key}")).text();
    assert_eq!(
        [ask(&mine), ask(&yours), ask(&mine)],
        ["answer 1", "answer 2", "answer 3"]
    );
}

#[test]
fn answers_that_vary_are_kept_apart() {
    let (upstream, _) = numbered("Cache-Control: max-age=60\r\nVary: Accept-Language, X-B\r\n");
    let proxy = caching(&upstream, "");
    let get = |fields: &str| ask(&proxy, &format!("GET /\n{fields}")).text();
    assert_eq!(get("Accept-Language: de"), "answer 1");
    assert_eq!(get("Accept-Language: en"), "answer 2");
    assert_eq!(get("accept-language:   de"), "answer 1");
    assert_eq!(get("Accept-Language: de\nX-B: 1"), "answer 3");
    assert_eq!(get("X-B: 1"), "answer 4");
    assert_eq!(get("Accept-Language: en"), "answer 2");
    // As many as there may be: made-up ones push nothing out.
    for at in 0..20 {
        let _ = get(&format!("Accept-Language: l{at}"));
    }
    assert_eq!(get("Accept-Language: l19"), "answer 25");
    assert_eq!(get("Accept-Language: en"), "answer 2");
}

#[test]
fn a_stale_answer_is_asked_about_and_a_304_makes_it_fresh() {
    let upstream = Upstream::scripted(|connection| {
        let mut asked = 0;
        while let Some(request) = connection.request() {
            asked += 1;
            let text = String::from_utf8_lossy(&request);
            if text.contains("If-None-Match: \"v1\"") {
                connection.send("HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nCache-Control: max-age=60\r\nX-News: yes\r\n\r\n");
            } else {
                connection.send(format!("HTTP/1.1 200 OK\r\nETag: \"v1\"\r\nCache-Control: no-cache\r\nContent-Length: 1\r\n\r\n{asked}"));
            }
        }
    });
    let proxy = caching(&upstream, "");
    assert_eq!(ask(&proxy, "GET /").text(), "1");
    let again = ask(&proxy, "GET /\nIf-None-Match: \"old\"");
    assert_eq!((again.status, again.text()), (200, "1".to_owned()));
    assert_eq!(again.header("x-news"), Some("yes"));
    let told = again.header("cache-status").unwrap();
    assert!(
        told.starts_with("selvedge; fwd=stale; fwd-status=304"),
        "{told}"
    );
    // Fresh by now; and a client with the same tag gets no body.
    assert_eq!(ask(&proxy, "GET /\nIf-None-Match: \"v1\"").status, 304);
    assert_eq!(upstream.all().matches("GET / ").count(), 2);
}

#[test]
fn an_old_answer_serves_while_a_new_one_is_fetched() {
    let (upstream, count) = numbered("Cache-Control: max-age=0, stale-while-revalidate=60\r\n");
    let proxy = caching(&upstream, "");
    assert_eq!(ask(&proxy, "GET /").text(), "answer 1");
    let old = ask(&proxy, "GET /");
    assert_eq!(old.text(), "answer 1");
    assert!(
        old.header("cache-status")
            .unwrap()
            .starts_with("selvedge; hit; detail=stale")
    );
    let begun = Instant::now();
    while count.load(Ordering::SeqCst) < 2 || ask(&proxy, "GET /").text() == "answer 1" {
        assert!(begun.elapsed() < Duration::from_secs(10), "never refreshed");
    }
}

#[test]
fn an_old_answer_serves_while_the_application_fails() {
    let failing = Arc::new(AtomicUsize::new(0));
    let state = failing.clone();
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            match state.load(Ordering::SeqCst) {
                0 => connection.send("HTTP/1.1 200 OK\r\nCache-Control: max-age=0, stale-if-error=60\r\nContent-Length: 2\r\n\r\nok"),
                1 => connection.send("HTTP/1.1 503 Sorry\r\nContent-Length: 3\r\n\r\nbad"),
                _ => return,
            }
        }
    });
    let proxy = caching(&upstream, "");
    assert_eq!(ask(&proxy, "GET /").text(), "ok");
    for state in [1, 2] {
        failing.store(state, Ordering::SeqCst);
        let reply = ask(&proxy, "GET /");
        assert_eq!(
            (reply.status, reply.text()),
            (200, "ok".to_owned()),
            "{state}"
        );
        assert!(
            reply
                .header("cache-status")
                .unwrap()
                .contains("stale-if-error")
        );
        assert!(ask(&proxy, "GET /other").status >= 502);
    }
}

#[test]
fn defaults_hold_where_the_application_says_nothing() {
    let upstream = Upstream::scripted(|connection| {
        let mut at = 0;
        while let Some(request) = connection.request() {
            at += 1;
            let status = if request.starts_with(b"GET /none") {
                "404 Not Found"
            } else {
                "200 OK"
            };
            connection.send(format!(
                "HTTP/1.1 {status}\r\nContent-Length: 1\r\n\r\n{at}"
            ));
        }
    });
    let proxy = caching(&upstream, "ttl: 1h, negativeTtl: 1h");
    for path in ["/some", "/none"] {
        let first = ask(&proxy, &format!("GET {path}"));
        let again = ask(&proxy, &format!("GET {path}"));
        assert_eq!((first.status, first.text()), (again.status, again.text()));
        assert!(again.header("cache-status").unwrap().contains("hit; ttl=3"));
    }
}
