//! Policies from outside: rate limits (row RL-01 of the battery), addresses, other origins.

use std::time::{Duration, Instant};

use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Selvedge, Upstream};

/// A gateway with these policies, of which the rules name some.
fn with(upstream: &Upstream, listener: &str, policies: &str, rules: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, {listener} }}]
policies: {{ {policies} }}
routes: [{{ rules: [{rules}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ))
}

fn ok() -> Upstream {
    Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

#[test]
fn rl_01_a_steady_excess_gets_rate_and_burst() {
    let upstream = ok();
    let proxy = with(
        &upstream,
        "",
        "few: { rateLimit: { rate: 100/s, burst: 10 } }",
        "{ policies: [few], backendRefs: [{ service: app }] }",
    );
    let mut client = Raw::connect(proxy.address("web"));
    let begun = Instant::now();
    let (mut admitted, mut refused) = (0u32, 0u32);
    // The whole minute of the goal where `SELVEDGE_LONG` is set.
    let long = std::env::var_os("SELVEDGE_LONG").is_some();
    while begun.elapsed() < Duration::from_secs(if long { 60 } else { 3 }) {
        // A connection carries 10,000 requests.
        if (admitted + refused) % 5000 == 4999 {
            client = Raw::connect(proxy.address("web"));
        }
        match client.get("/").status {
            200 => admitted += 1,
            429 => refused += 1,
            other => panic!("{other}"),
        }
    }
    let most = 100.0 * begun.elapsed().as_secs_f64() + 10.0;
    let share = f64::from(admitted) / most;
    println!("{admitted} of {most:.0} admitted, {share:.4}; {refused} refused");
    assert!(refused > admitted, "{refused} refused, no excess");
    // The last request may have been in time where the clock of this test was not.
    assert!((0.99..=1.004).contains(&share), "{admitted} of {most}");
}

#[test]
fn rl_04_the_client_is_told_when_to_come_again() {
    let upstream = ok();
    let proxy = with(
        &upstream,
        "",
        "few: { rateLimit: { key: header.x-who, rate: 2/hour } }",
        "{ policies: [few], backendRefs: [{ service: app }] }",
    );
    let mut client = Raw::connect(proxy.address("web"));
    let mut ask = |who: &str| {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Who: {who}\r\n\r\n"));
        client.reply()
    };
    for left in ["1", "0"] {
        let reply = ask("a");
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("ratelimit-policy"), Some("\"few\";q=2;w=3600"));
        let told = reply.header("ratelimit").unwrap();
        assert!(told.starts_with(&format!("\"few\";r={left};t=")), "{told}");
        assert_eq!(reply.header("retry-after"), None);
    }
    let reply = ask("a");
    assert_eq!(reply.status, 429);
    let wait: u32 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1795..=1800).contains(&wait), "{wait}");
    assert!(
        reply
            .header("ratelimit")
            .unwrap()
            .starts_with("\"few\";r=0;")
    );
    assert!(
        reply
            .header("proxy-status")
            .unwrap()
            .contains("http_request_denied")
    );
    // Another caller has a bucket of its own; leaving the header out gives none to choose.
    assert_eq!(ask("b").status, 200);
    let mut bare = Raw::connect(proxy.address("web"));
    let statuses: Vec<u16> = (0..3).map(|_| bare.get("/").status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    proxy.wait_for_metric("selvedge_request_failures_total", &["RateLimited"], 2.0);
}

#[test]
fn a_rule_s_own_limit_wins_and_a_reload_goes_on_counting() {
    let upstream = ok();
    let proxy = with(
        &upstream,
        "policies: [all]",
        "all: { rateLimit: { rate: 1/hour } }, more: { rateLimit: { rate: 3/hour } }, look: { rateLimit: { rate: 1/hour, shadow: true } }",
        "{ matches: [{ path: /more }], policies: [more], backendRefs: [{ service: app }] }, { matches: [{ path: /look }], policies: [look], backendRefs: [{ service: app }] }, { backendRefs: [{ service: app }] }",
    );
    let mut client = Raw::connect(proxy.address("web"));
    let mut statuses = |path: &str, count: usize| -> Vec<u16> {
        (0..count).map(|_| client.get(path).status).collect()
    };
    assert_eq!(statuses("/", 2), [200, 429]);
    assert_eq!(statuses("/more", 4), [200, 200, 200, 429]);
    assert_eq!(statuses("/look", 3), [200, 200, 200]);
    proxy.signal("HUP");
    proxy.wait_for_metric("selvedge_config_reloads_total", &[], 1.0);
    assert_eq!(statuses("/", 1), [429]);
}

#[test]
fn addresses_by_the_longest_range() {
    let upstream = ok();
    let policies = "inside: { address: { allow: [10.0.0.0/8, \"2001:db8::/32\"], deny: [10.1.0.0/16] } }, outside: { address: { deny: [10.0.0.0/8] } }";
    let proxy = with(
        &upstream,
        "trustedHops: 1",
        policies,
        "{ matches: [{ path: /in }], policies: [inside], backendRefs: [{ service: app }] }, { policies: [outside], backendRefs: [{ service: app }] }",
    );
    let mut client = Raw::connect(proxy.address("web"));
    for (from, inside, outside) in [
        ("10.2.3.4", 200, 403),
        ("10.1.3.4", 403, 403),
        ("::ffff:10.2.3.4", 200, 403),
        ("2001:db8::7", 200, 200),
        ("192.0.2.1", 403, 200),
        ("evil, 10.2.3.4", 200, 403),
        ("10.2.3.4, junk", 403, 200),
    ] {
        for (path, want) in [("/in", inside), ("/", outside)] {
            client.send(format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {from}\r\n\r\n"
            ));
            assert_eq!(client.reply().status, want, "{from} {path}");
        }
    }
}

#[test]
fn pages_of_other_origins() {
    let upstream = Upstream::replying(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\n\r\nok",
    );
    let proxy = with(
        &upstream,
        "",
        "shop: { cors: { allowOrigins: [\"https://shop.example\", \"https://*.shop.example\"], allowMethods: [GET, PUT], allowHeaders: [X-Own], exposeHeaders: [X-Total], allowCredentials: true, maxAge: 5m } }",
        "{ policies: [shop], backendRefs: [{ service: app }] }",
    );
    let mut client = Raw::connect(proxy.address("web"));
    client.send("OPTIONS /x HTTP/1.1\r\nHost: a\r\nOrigin: https://a.shop.example\r\nAccess-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-own\r\n\r\n");
    let reply = client.reply();
    assert_eq!(reply.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://a.shop.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "X-Own"),
        ("access-control-max-age", "300"),
        ("vary", "Origin"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    assert!(upstream.all().is_empty(), "a preflight is answered here");

    client.send("GET / HTTP/1.1\r\nHost: a\r\nOrigin: https://shop.example\r\n\r\n");
    let reply = client.reply();
    assert_eq!(
        reply.header("access-control-allow-origin"),
        Some("https://shop.example")
    );
    assert_eq!(
        reply.header("access-control-expose-headers"),
        Some("X-Total")
    );
    for origin in ["https://evil.example", "null", "http://shop.example"] {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n\r\n"
        ));
        let reply = client.reply();
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.header("access-control-allow-origin"),
            None,
            "{origin}"
        );
        client.send(format!(
            "OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: GET\r\n\r\n"
        ));
        assert_eq!(client.reply().status, 403, "{origin}");
    }
    // An OPTIONS that is no preflight is the application's.
    client.send("OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().text(), "ok");
}

#[test]
fn a_port_or_a_final_dot_is_no_way_to_another_bucket() {
    let upstream = ok();
    let proxy = with(
        &upstream,
        "",
        "few: { rateLimit: { key: host, rate: 2/hour } }",
        "{ policies: [few], backendRefs: [{ service: app }] }",
    );
    let mut client = Raw::connect(proxy.address("web"));
    let statuses = [
        "shop.example",
        "shop.example:1",
        "shop.example.",
        "SHOP.example:2",
    ]
    .map(|host| {
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.reply().status
    });
    assert_eq!(statuses, [200, 200, 429, 429]);
    proxy.wait_for_metric("selvedge_rate_limit_total", &["few", "refused"], 2.0);
}

#[test]
fn a_limit_a_minute_and_a_quota_a_month_both_hold() {
    let upstream = ok();
    let proxy = with(
        &upstream,
        "",
        "minute: { rateLimit: { rate: 2/min } }, month: { rateLimit: { key: header.x-who, rate: 3/month } }",
        "{ policies: [minute, month], backendRefs: [{ service: app }] }",
    );
    let ask = |who: &str| {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Who: {who}\r\n\r\n"));
        client.reply()
    };
    let first = ask("a");
    let told = first
        .headers
        .iter()
        .filter(|(n, _)| n == "RateLimit-Policy");
    let told: Vec<&str> = told.map(|(_, v)| v.as_str()).collect();
    assert_eq!(told, ["\"minute\";q=2;w=60", "\"month\";q=3;w=2592000"]);
    assert_eq!([ask("a").status, ask("a").status], [200, 429]);
}
