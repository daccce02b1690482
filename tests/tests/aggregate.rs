//! One answer from several services, from outside: in time, in order, with gaps that are told.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Reply, Selvedge, Upstream};
use serde_json::{Value, json};

/// An application that takes this long, and answers with this status and JSON.
fn slow(millis: u64, status: &'static str, body: &'static str) -> Upstream {
    Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            // Nobody ever sends: this only waits.
            let (_hold, never) = channel::<()>();
            let _ = never.recv_timeout(Duration::from_millis(millis));
            let length = body.len();
            connection.send(format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
        }
    })
}

fn with(services: &BTreeMap<&str, &Upstream>, aggregate: &str) -> Selvedge {
    let services: Vec<String> = services
        .iter()
        .map(|(name, upstream)| format!("{name}: {{ endpoints: [\"{}\"] }}", upstream.address()))
        .collect();
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes:
  - name: home
    rules:
      - aggregate:
{aggregate}
services: {{ {} }}",
        services.join(", ")
    ))
}

fn get(proxy: &Selvedge, path: &str) -> Reply {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: shop\r\nAccept-Language: de\r\nAccept-Encoding: gzip\r\nRange: bytes=0-1\r\n\r\n"
    ));
    client.reply()
}

fn body(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap()
}

const THREE: &str = "
          calls:
            user: { service: user, path: /me, pick: [id, name] }
            orders: { service: orders, path: /orders, fallback: [] }
            ads: { service: ads, path: /ads, required: false }";

#[test]
fn three_calls_take_as_long_as_the_slowest() {
    let user = slow(50, "200 OK", "{\"id\":7,\"name\":\"Bo\",\"secret\":1}");
    let orders = slow(50, "200 OK", "[{\"id\":1},{\"id\":2}]");
    let ads = slow(50, "200 OK", "{\"text\":\"buy\"}");
    let services = BTreeMap::from([("user", &user), ("orders", &orders), ("ads", &ads)]);
    let proxy = with(&services, THREE);
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let begun = Instant::now();
            let reply = get(&proxy, "/home");
            let took = begun.elapsed();
            assert_eq!(reply.status, 200);
            assert_eq!(reply.header("content-type"), Some("application/json"));
            assert_eq!(
                body(&reply),
                json!({ "user": { "id": 7, "name": "Bo" }, "orders": [{ "id": 1 }, { "id": 2 }], "ads": { "text": "buy" } })
            );
            took
        })
        .collect();
    times.sort();
    assert!(times[0] >= Duration::from_millis(50));
    assert!(times[2] < Duration::from_millis(60), "{times:?}");
    // Calls are requests like any other, but not about the client's own body.
    let seen = user.all();
    assert!(seen.contains("GET /me HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("Accept-Language: de") && seen.contains("Accept: application/json"));
    assert!(
        !seen.contains("gzip") && !seen.contains("bytes=0-1"),
        "{seen}"
    );
    proxy.wait_for_metric("selvedge_requests_total", &["home/0/user", "2xx"], 5.0);
}

#[test]
fn a_gap_is_told_and_a_required_part_is_not_left_out() {
    let user = slow(0, "200 OK", "{\"id\":7}");
    let broken = slow(0, "500 Sorry", "{}");
    let garbage = slow(0, "200 OK", "{\"half\":");
    let services = BTreeMap::from([("user", &user), ("orders", &broken), ("ads", &garbage)]);
    let proxy = with(&services, THREE);
    let reply = get(&proxy, "/home");
    assert_eq!(
        (reply.status, reply.header("cache-control")),
        (200, Some("no-store"))
    );
    assert_eq!(
        body(&reply),
        json!({ "user": { "id": 7 }, "orders": [], "ads": null, "partial": ["ads", "orders"] })
    );
    let services = BTreeMap::from([("user", &broken), ("orders", &user), ("ads", &user)]);
    let proxy = with(&services, THREE);
    let reply = get(&proxy, "/home");
    assert_eq!(reply.status, 502);
    assert_eq!(body(&reply)["title"], "Bad Gateway");
    proxy.wait_for_metric(
        "selvedge_request_failures_total",
        &["PartFailed", "\"UA\"", "\"home/0\""],
        1.0,
    );
    let configured = format!(
        "{THREE}
          onFailure: {{ status: 503, body: {{ code: home-down }} }}"
    );
    let proxy = with(&services, &configured);
    let reply = get(&proxy, "/home");
    assert_eq!(
        (reply.status, body(&reply)),
        (503, json!({ "code": "home-down" }))
    );
}

#[test]
fn later_calls_use_earlier_answers_and_values_stay_values() {
    let user = slow(0, "200 OK", "{\"id\":\"a/../b?x=1&y\",\"tier\":\"gold\"}");
    let orders = slow(0, "200 OK", "{\"total\":2}");
    let services = BTreeMap::from([("user", &user), ("orders", &orders)]);
    let aggregate = "
          calls:
            user: { service: user, path: \"/users/{{ request.query.id }}\" }
            orders: { service: orders, method: POST, path: \"/orders?user={{ user.id }}\", body: '{ \"tier\": {{ user.tier }}, \"q\": {{ request.query.id }} }' }
          template: '{ \"who\": {{ user.id }}, \"count\": {{ orders.total + 1 }} }'";
    let proxy = with(&services, aggregate);
    let reply = get(&proxy, "/home?id=7%0d%0aX:%201%22&id=8");
    assert_eq!(body(&reply), json!({ "who": "a/../b?x=1&y", "count": 3 }));
    assert!(
        user.all()
            .contains("GET /users/7%0D%0AX%3A%201%22 HTTP/1.1"),
        "{}",
        user.all()
    );
    let seen = orders.all();
    assert!(
        seen.contains("POST /orders?user=a%2F..%2Fb%3Fx%3D1%26y HTTP/1.1"),
        "{seen}"
    );
    let sent: Value = serde_json::from_str(seen.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(sent, json!({ "tier": "gold", "q": "7\r\nX: 1\"" }));
    // A value that is not there is no empty path.
    assert_eq!(get(&proxy, "/home").status, 502);
    let mut client = Raw::connect(proxy.address("web"));
    client.send("POST /home HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.reply().status, 405);
}

#[test]
fn a_call_that_hangs_or_never_ends_costs_its_time_and_no_more() {
    let user = slow(0, "200 OK", "{\"id\":7}");
    let hung = Upstream::scripted(|connection| {
        let _ = connection.request();
        connection.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n");
        connection.drain();
    });
    let endless = Upstream::scripted(|connection| {
        let _ = connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n\"");
        connection.send("x".repeat(2_999_999));
        connection.drain();
    });
    let services = BTreeMap::from([("user", &user), ("hung", &hung), ("endless", &endless)]);
    let aggregate = "
          calls:
            user: { service: user, path: /, merge: true }
            hung: { service: hung, path: /, required: false, timeout: 200ms }
            endless: { service: endless, path: /, required: false }
          partial: gaps";
    let proxy = with(&services, aggregate);
    let begun = Instant::now();
    let reply = get(&proxy, "/");
    assert_eq!(
        body(&reply),
        json!({ "id": 7, "hung": null, "endless": null, "gaps": ["endless", "hung"] })
    );
    assert!(begun.elapsed() < Duration::from_secs(2));
    let all = "
          calls: { hung: { service: hung, path: /, timeout: 1h } }
          timeout: 100ms
          onFailure: { status: 504 }";
    let proxy = with(&services, all);
    let reply = get(&proxy, "/");
    assert_eq!(
        (reply.status, body(&reply)["status"].clone()),
        (504, json!(504))
    );
}

#[test]
fn a_value_is_one_segment_of_a_path_or_none() {
    let upstream = Upstream::answering("{}");
    let services = BTreeMap::from([("app", &upstream)]);
    let aggregate = "
          calls:
            part: { service: app, path: \"/users/{{ request.query.id }}/profile?x={{ request.query.x | default('') }}\" }";
    let proxy = with(&services, aggregate);
    for (id, want) in [
        ("7", 200),
        ("a.b", 200),
        ("..", 502),
        (".", 502),
        ("", 502),
        ("..%2f..", 502),
        ("a%5cb", 502),
        ("%00", 502),
        ("%252e%252e", 200),
    ] {
        let reply = get(&proxy, &format!("/?id={id}&x=a/../b"));
        assert_eq!(reply.status, want, "{id}");
    }
    let seen = upstream.all();
    assert!(
        !seen.contains("GET /users/profile") && !seen.contains("GET /profile"),
        "{seen}"
    );
}
