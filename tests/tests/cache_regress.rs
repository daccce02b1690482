//! What a cache once gave to the wrong people, or kept from the right ones: a test for each finding.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use selvedge_tests::caching::{ask, caching, numbered};
use selvedge_tests::http2::{Http2, headers, request};
use selvedge_tests::process::gateway;
use selvedge_tests::{Bell, Raw, Selvedge, Upstream};

/// An application that answers with what a function makes of the request's text.
fn app(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Upstream {
    Upstream::scripted(move |connection| {
        while let Some(request) = connection.request() {
            connection.send(answer(&String::from_utf8_lossy(&request)));
        }
    })
}

fn ok(fields: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{fields}\r\n{body}")
}

#[test]
fn a_head_that_refreshes_does_not_empty_the_page() {
    let upstream = app(|request| {
        let fields = "Cache-Control: max-age=0, stale-while-revalidate=60\r\n";
        if request.starts_with("HEAD") || request.contains("Range:") {
            return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nCache-Control: max-age=60\r\n\r\n"
                .into();
        }
        ok(fields, "page")
    });
    let proxy = caching(&upstream, "");
    assert_eq!(ask(&proxy, "GET /").text(), "page");
    let _ = ask(&proxy, "HEAD /");
    let _ = ask(&proxy, "GET /\nRange: bytes=0-0");
    for _ in 0..20 {
        assert_eq!(ask(&proxy, "GET /").text(), "page");
    }
    assert!(!upstream.all().contains("HEAD /"), "{}", upstream.all());
}

#[test]
fn what_a_304_says_to_one_client_goes_to_nobody_else() {
    for (who, news, leaked) in [
        (
            "Cookie: who=alice",
            "Set-Cookie: session=of-alice\r\n",
            "set-cookie",
        ),
        (
            "X-Who: alice",
            "Cache-Control: private\r\nX-Account: alice\r\n",
            "x-account",
        ),
        (
            "Authorization: Basic alice",
            "X-Account: alice\r\n",
            "x-account",
        ),
        (
            "X-Who: alice",
            "Cache-Control: max-age=60\r\nCache-Control: private\r\nX-Account: alice\r\n",
            "x-account",
        ),
    ] {
        let upstream = app(move |request| {
            if !request.contains("If-None-Match") {
                return ok("ETag: \"1\"\r\nCache-Control: max-age=0\r\n", "page");
            }
            let news = if request.contains("alice") { news } else { "" };
            format!("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n{news}\r\n")
        });
        let proxy = caching(&upstream, "");
        let _ = ask(&proxy, "GET /");
        let alice = ask(&proxy, &format!("GET /\n{who}"));
        assert_eq!(
            (alice.status, alice.header(leaked).is_some()),
            (200, true),
            "{news}"
        );
        for _ in 0..3 {
            let bob = ask(&proxy, "GET /");
            assert_eq!(
                (bob.text(), bob.header(leaked)),
                ("page".to_owned(), None),
                "{news}"
            );
        }
    }
}

#[test]
fn every_line_of_a_304_counts() {
    let upstream = app(|request| {
        if request.contains("If-None-Match") {
            return "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nCache-Control: max-age=60\r\nLink: <a>\r\nLink: <b>\r\n\r\n".into();
        }
        ok(
            "ETag: \"1\"\r\nCache-Control: max-age=0\r\nLink: <old>\r\n",
            "page",
        )
    });
    let proxy = caching(&upstream, "");
    let _ = ask(&proxy, "GET /");
    for _ in 0..2 {
        let reply = ask(&proxy, "GET /");
        let links = reply.headers.iter().filter(|(name, _)| name == "Link");
        let links: Vec<&str> = links.map(|(_, value)| value.as_str()).collect();
        assert_eq!(links, ["<a>", "<b>"]);
    }
}

#[test]
fn a_private_part_makes_the_whole_private() {
    for (fields, shared) in [
        ("Cache-Control: private\r\n", false),
        ("Vary: Cookie\r\n", false),
        ("Set-Cookie: a=b\r\n", false),
        ("Cache-Control: no-store\r\n", false),
        ("Cache-Control: max-age=60\r\n", true),
        ("", true),
    ] {
        let count = AtomicUsize::new(0);
        let upstream = app(move |_| {
            let count = count.fetch_add(1, Ordering::SeqCst);
            ok(fields, &format!("{{\"n\":{count}}}"))
        });
        let proxy = gateway(&format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies: {{ kept: {{ cache: {{ ttl: 30s }} }} }}
routes: [{{ rules: [{{ policies: [kept], aggregate: {{ calls: {{ part: {{ service: app, path: / }} }} }} }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
            upstream.address()
        ));
        let first = ask(&proxy, "GET /").text();
        assert_eq!(ask(&proxy, "GET /").text() == first, shared, "{fields}");
    }
}

#[test]
fn a_rule_that_moves_or_changes_takes_nothing_along() {
    let upstream = app(|request| {
        let who = if request.contains("admin") {
            "admin"
        } else {
            "user"
        };
        ok("Cache-Control: max-age=60\r\n", who)
    });
    let rules = |admin: bool| {
        let own = "{ matches: [{ path: /page, headers: [{ name: x-client, value: admin }] }], policies: [kept], backendRefs: [{ service: app }] },";
        format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
admin: {{ bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }}
policies: {{ kept: {{ cache: {{}} }} }}
routes: [{{ rules: [{} {{ matches: [{{ path: /page }}], policies: [kept], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}\n",
            if admin { own } else { "" },
            upstream.address()
        )
    };
    let proxy = gateway(&rules(true));
    assert_eq!(ask(&proxy, "GET /page\nX-Client: admin").text(), "admin");
    std::fs::write(proxy.dir().join("config.yaml"), rules(false)).unwrap();
    proxy.wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    assert_eq!(ask(&proxy, "GET /page").text(), "user");
}

#[test]
fn who_reads_slowly_holds_up_nobody() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let upstream = app(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        ok("Cache-Control: max-age=60\r\n", &"x".repeat(300_000))
    });
    let proxy = caching(&upstream, "");
    let mut slow = Http2::connect(proxy.address("web"), &[(4, 0)]);
    slow.send(headers(1, &request("GET", "/big", &[]), true));
    proxy.wait_for_metric("selvedge_cache_requests_total", &["\"miss\""], 1.0);
    let begun = Instant::now();
    let get = || {
        let mut client = Raw::connect(proxy.address("web"));
        client.send("GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(client.reply().body.len(), 300_000);
    };
    for _ in 0..5 {
        get();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    // And after a while another fetches what the slow one does not.
    let begun = Instant::now();
    while proxy.metric("selvedge_cache_requests_total", &["\"hit\""]) < 1.0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "never kept");
        get();
    }
}

#[test]
fn an_old_answer_serves_everybody_while_the_application_fails() {
    let (down, go) = (Arc::new(AtomicUsize::new(0)), Bell::default());
    let (state, wait) = (down.clone(), go.clone());
    let upstream = app(move |_| {
        if state.load(Ordering::SeqCst) == 0 {
            return ok("Cache-Control: max-age=0, stale-if-error=60\r\n", "page");
        }
        wait.wait();
        "HTTP/1.1 503 Sorry\r\nContent-Length: 0\r\n\r\n".into()
    });
    let proxy = caching(&upstream, "");
    assert_eq!(ask(&proxy, "GET /").text(), "page");
    down.store(1, Ordering::SeqCst);
    let mut crowd: Vec<Raw> = (0..20)
        .map(|_| {
            let mut client = Raw::connect(proxy.address("web"));
            client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
            client
        })
        .collect();
    for _ in 0..40 {
        go.ring();
    }
    for client in &mut crowd {
        assert_eq!(client.reply().text(), "page");
    }
    assert_eq!(ask(&proxy, "HEAD /").status, 200);
    assert_eq!(ask(&proxy, "GET /\nRange: bytes=0-1").text(), "pa");
}

fn trusting(upstream: &Upstream, rule: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, trustedHops: 1 }}]
policies: {{ kept: {{ cache: {{ ttl: 60s }} }} }}
routes: [{{ rules: [{{ policies: [kept], {rule} backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ))
}

#[test]
fn what_the_application_is_told_is_part_of_the_address() {
    let told = |request: &str, name: &str| {
        let line = request.lines().find_map(|l| l.strip_prefix(name));
        line.unwrap_or("-").trim().to_owned()
    };
    let upstream = app(move |request| {
        let host = told(request, "X-Forwarded-Host:");
        ok(
            "",
            &format!("{} {host}", told(request, "X-Forwarded-Proto:")),
        )
    });
    let rewrite = "filters: [{ type: URLRewrite, urlRewrite: { hostname: internal } }],";
    for rule in ["", rewrite] {
        let proxy = trusting(&upstream, rule);
        let get = |host: &str, fields: &str| {
            let mut client = Raw::connect(proxy.address("web"));
            client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
            client.reply().text()
        };
        assert_eq!(get("evil.example", ""), "http evil.example");
        assert_eq!(
            get("shop.example", "X-Forwarded-Host: evil.example\r\n"),
            "http evil.example"
        );
        assert_eq!(get("shop.example", ""), "http shop.example");
        assert_eq!(
            get("shop.example", "X-Forwarded-Proto: https\r\n"),
            "https shop.example"
        );
    }
}

#[test]
fn a_page_that_says_nothing_is_not_kept_for_a_cookie() {
    let (upstream, _) = numbered("");
    let proxy = caching(&upstream, "ttl: 60s");
    assert_eq!(ask(&proxy, "GET /me\nCookie: sid=alice").text(), "answer 1");
    assert_eq!(ask(&proxy, "GET /me").text(), "answer 2");
    let (upstream, _) = numbered("");
    let proxy = caching(&upstream, "ttl: 60s, ignoreCookies: true");
    assert_eq!(ask(&proxy, "GET /me\nCookie: sid=alice").text(), "answer 1");
    assert_eq!(ask(&proxy, "GET /me").text(), "answer 1");
}

#[test]
fn a_purge_catches_what_is_on_its_way() {
    let (go, asked) = (Bell::default(), Bell::default());
    let (wait, ring) = (go.clone(), asked.clone());
    let count = AtomicUsize::new(0);
    let upstream = app(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        if n == 0 {
            ring.ring();
            wait.wait();
        }
        ok("Cache-Control: max-age=60\r\n", &format!("answer {n}"))
    });
    let proxy = caching(&upstream, "");
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: shop\r\n\r\n");
    asked.wait();
    let mut admin = Raw::connect(proxy.address("admin"));
    admin.send("POST /cache/purge?all HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(admin.reply().status, 200);
    go.ring();
    assert_eq!(client.reply().text(), "answer 0");
    assert_eq!(ask(&proxy, "GET /").text(), "answer 1");
    admin.send("POST /cache/purge?key=http://shop/?a=1&b=2 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(admin.reply().status, 400);
}

#[test]
fn what_answers_vary_by_counts_as_memory_and_floods_push_nothing_out() {
    let (upstream, _) = numbered("Cache-Control: max-age=60\r\nVary: X-V\r\n");
    let proxy = caching(&upstream, "");
    let long = "v".repeat(1000);
    assert_eq!(ask(&proxy, "GET /").text(), "answer 1");
    for n in 0..30 {
        let _ = ask(&proxy, &format!("GET /\nX-V: {n}{long}"));
    }
    let held = proxy.metric("selvedge_cache_bytes", &["kept"]);
    assert!(held > 15_000.0, "{held}");
    assert_eq!(ask(&proxy, "GET /").text(), "answer 1");
    // What is longer than that is not kept at all.
    let longer = "v".repeat(3000);
    let first = ask(&proxy, &format!("GET /a\nX-V: {longer}")).text();
    assert_ne!(ask(&proxy, &format!("GET /a\nX-V: {longer}")).text(), first);
}

#[test]
fn codings_written_in_many_ways_are_the_same() {
    let (upstream, _) = numbered("Cache-Control: max-age=60\r\nVary: Accept-Encoding\r\n");
    let proxy = caching(&upstream, "");
    let get = |accepted: &str| ask(&proxy, &format!("GET /\nAccept-Encoding: {accepted}")).text();
    assert_eq!(get("gzip, br"), "answer 1");
    assert_eq!(get("br;q=0.9,gzip ;q=1.0, x-junk-7"), "answer 1");
    assert_eq!(get("br"), "answer 2");
}

#[test]
fn what_a_policy_makes_of_a_request_is_part_of_the_address() {
    let upstream = app(|request| {
        let line = request.lines().next().unwrap_or_default().to_owned();
        ok("Cache-Control: max-age=60\r\n", &line)
    });
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies:
  kept: {{ cache: {{}} }}
  tenants: {{ transform: {{ request: {{ query: {{ tenant: '{{{{ request.header[\"x-tenant\"] | default(\"none\") }}}}' }} }} }} }}
routes: [{{ rules: [{{ policies: [kept, tenants], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    assert!(
        ask(&proxy, "GET /\nX-Tenant: evil")
            .text()
            .contains("tenant=evil")
    );
    assert!(ask(&proxy, "GET /").text().contains("tenant=none"));
    let again = ask(&proxy, "GET /\nX-Tenant: evil");
    assert!(again.header("cache-status").unwrap().contains("hit"));
}
