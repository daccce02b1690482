//! What a route promises: splits, retries, ejection, deadlines, filters, streams; and what the
//! access log says about each.

use std::collections::HashMap;
use std::net::TcpListener;

use selvedge_tests::{Raw, Selvedge, Upstream, gateway};

const LISTENER: &str = "listeners: [{ name: web, bind: 127.0.0.1, port: 0 }]";

/// An address where nobody listens.
fn dead() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn simple(upstream: &Upstream, more: &str) -> Selvedge {
    gateway(&format!(
        "{LISTENER}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}
{more}",
        upstream.address()
    ))
}

#[test]
fn a_split_keeps_its_weights() {
    let (old, new) = (Upstream::answering("old"), Upstream::answering("new"));
    let proxy = gateway(&format!(
        "{LISTENER}
routes: [{{ rules: [{{ backendRefs: [{{ service: old, weight: 90 }}, {{ service: new, weight: 10 }}] }}] }}]
services: {{ old: {{ endpoints: [\"{}\"] }}, new: {{ endpoints: [\"{}\"] }} }}",
        old.address(),
        new.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    let mut seen: HashMap<String, u32> = HashMap::new();
    for _ in 0..1000 {
        *seen.entry(client.get("/").text()).or_default() += 1;
    }
    // Ten percent of a thousand: 100, give or take six standard deviations.
    let share = seen["new"];
    assert!((43..=157).contains(&share), "{seen:?}");
}

#[test]
fn a_dead_endpoint_costs_no_request() {
    let alive = Upstream::answering("ok");
    let proxy = gateway(&format!(
        "{LISTENER}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\", \"{}\"], balance: roundRobin }} }}",
        dead(),
        alive.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    for at in 0..50 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!(client.reply().status, 200, "request {at}");
    }
    assert!(proxy.metric("selvedge_retries_total", &["service=\"app\""]) >= 1.0);
    // After five failures in a row it is not even tried any more.
    assert_eq!(proxy.metric("selvedge_service_endpoints_ejected", &[]), 1.0);
    let (_, endpoints) = proxy.get("admin", "/endpoints");
    assert!(endpoints.contains("\"state\": \"ejected\""), "{endpoints}");
}

#[test]
fn a_status_is_retried_only_where_it_is_asked_for_and_safe() {
    let before = std::sync::Mutex::new(String::new());
    let upstream = Upstream::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let request = String::from_utf8_lossy(&request).into_owned();
            // What proxies tell each other of a retry is nothing to an application.
            assert!(!request.contains("X-Selvedge-Attempt"), "{request}");
            // The same request again, to its X-Request-Id, is a retry.
            let mut before = before.lock().unwrap();
            let retried = *before == request;
            *before = request;
            connection.send(if retried {
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain"
            } else {
                "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
            });
        }
    });
    let proxy = gateway(&format!(
        "{LISTENER}
routes:
  - rules:
      - {{ matches: [{{ path: /retry }}], retry: {{ attempts: 2, codes: [503], backoff: 1ms }}, backendRefs: [{{ service: app }}] }}
      - {{ backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"], ejection: {{ consecutive: 0 }} }} }}",
        upstream.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(client.get("/retry").text(), "again");
    assert_eq!(client.get("/plain").status, 503);
    client.send("POST /retry HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.reply().status, 503, "a POST may not be repeated");
    client
        .send("POST /retry HTTP/1.1\r\nHost: a\r\nIdempotency-Key: 1\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.reply().status, 200, "unless it says that it may");
}

#[test]
fn deadlines_and_their_end_codes() {
    let upstream = Upstream::scripted(|connection| {
        let _ = connection.request();
        connection.drain();
    });
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let proxy = gateway(&format!(
        "{LISTENER}
routes:
  - rules:
      - {{ matches: [{{ path: /try }}], timeouts: {{ backendRequest: 50ms }}, backendRefs: [{{ service: app }}] }}
      - {{ matches: [{{ path: /whole }}], timeouts: {{ request: 50ms }}, backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}
telemetry: {{ accessLog: {{ path: {} }} }}",
        upstream.address(),
        log.display()
    ));
    let address = proxy.address("web");
    for (path, code) in [("/try", "UT"), ("/whole", "RT"), ("/none", "NR")] {
        let reply = Raw::connect(address).get(path);
        assert_eq!(reply.status, if code == "NR" { 404 } else { 504 }, "{path}");
        proxy.wait_for_metric(
            "selvedge_request_failures_total",
            &[&format!("end=\"{code}\"")],
            1.0,
        );
    }
    // A caller may ask for less time.
    let mut client = Raw::connect(address);
    client.send("GET /try HTTP/1.1\r\nHost: a\r\ngrpc-timeout: 1m\r\nContent-Type: application/grpc\r\n\r\n");
    let reply = client.reply();
    assert_eq!(
        (reply.status, reply.header("grpc-status")),
        (200, Some("4"))
    );
    let mut proxy = proxy;
    proxy.signal("TERM");
    proxy.wait();
    let text = std::fs::read_to_string(log).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let ends: Vec<_> = lines
        .iter()
        .map(|l| l["end"].as_str().unwrap().to_owned())
        .collect();
    for code in ["UT", "RT", "NR"] {
        assert!(ends.iter().any(|e| e == code), "{code} in {ends:?}");
    }
    let first = lines.iter().find(|l| l["target"] == "/try").unwrap();
    assert_eq!(first["service"], "app");
    assert_eq!(first["upstream"], upstream.address().to_string());
}

#[test]
fn filters_of_gateway_api() {
    let upstream = Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            let text = String::from_utf8_lossy(&request).into_owned();
            let length = text.len();
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nX-Old: 1\r\nContent-Length: {length}\r\n\r\n{text}"
            ));
        }
    });
    let proxy = gateway(&format!(
        "{LISTENER}
policies:
  tagged: {{ headers: {{ request: {{ set: [{{ name: X-Tag, value: policy }}] }} }} }}
routes:
  - hostnames: [a]
    rules:
      - matches: [{{ path: /edit }}]
        policies: [tagged]
        filters:
          - type: RequestHeaderModifier
            requestHeaderModifier: {{ add: [{{ name: X-Added, value: one }}], remove: [X-Gone] }}
          - type: ResponseHeaderModifier
            responseHeaderModifier: {{ remove: [X-Old], set: [{{ name: X-New, value: \"2\" }}] }}
          - type: URLRewrite
            urlRewrite: {{ hostname: inner.example, path: {{ type: ReplacePrefixMatch, replacePrefixMatch: /v2 }} }}
        backendRefs: [{{ service: app }}]
      - matches: [{{ path: /moved }}]
        filters:
          - type: RequestRedirect
            requestRedirect: {{ scheme: https, hostname: b.example, statusCode: 308 }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET /edit/x?q=1 HTTP/1.1\r\nHost: a\r\nX-Gone: 1\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\r\n");
    let reply = client.reply();
    let sent = reply.text();
    assert!(
        sent.starts_with("GET /v2/x?q=1 HTTP/1.1\r\nHost: inner.example\r\n"),
        "{sent}"
    );
    assert!(
        sent.contains("X-Tag: policy") && sent.contains("X-Added: one"),
        "{sent}"
    );
    assert!(
        !sent.contains("X-Gone") && !sent.contains("6.6.6.6"),
        "{sent}"
    );
    assert!(
        sent.contains("X-Forwarded-For: 127.0.0.1") && sent.contains("X-Forwarded-Host: a"),
        "{sent}"
    );
    assert_eq!(
        (reply.header("x-old"), reply.header("x-new")),
        (None, Some("2"))
    );
    let moved = client.get("/moved/y?z");
    assert_eq!(moved.status, 308);
    assert_eq!(
        moved.header("location"),
        Some("https://b.example/moved/y?z")
    );
}

#[test]
fn a_stream_is_passed_on_as_it_comes() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let upstream = Upstream::scripted(move |connection| {
        let _ = connection.request();
        connection.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        connection.send("b\r\ndata: one\n\n\r\n");
        // The second event leaves only after the client has the first.
        let _ = wait.lock().unwrap().recv_timeout(selvedge_tests::PATIENCE);
        connection.send("b\r\ndata: two\n\n\r\n0\r\n\r\n");
        connection.drain();
    });
    let proxy = simple(&upstream, "");
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.until("data: one\n\n");
    assert!(head.contains("200 OK"), "{head}");
    release.send(()).unwrap();
    client.until("data: two\n\n");
}

#[test]
fn a_websocket_is_a_tunnel_both_ways() {
    let upstream = Upstream::scripted(|connection| {
        let request = connection.request().unwrap_or_default();
        assert!(String::from_utf8_lossy(&request).contains("Upgrade: websocket"));
        connection.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst");
        while let Some(byte) = connection.exactly(1) {
            connection.send([byte[0].to_ascii_uppercase()]);
        }
    });
    let proxy = simple(&upstream, "");
    let mut client = Raw::connect(proxy.address("web"));
    // Bytes behind the request are held until the upstream has agreed.
    client.send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nab");
    let reply = client.reply();
    assert_eq!(
        (reply.status, reply.header("upgrade")),
        (101, Some("websocket"))
    );
    client.send("cd");
    client.shutdown_write();
    assert_eq!(String::from_utf8_lossy(&client.rest()), "firstABCD");
}

#[test]
fn an_upgrade_that_is_refused_is_an_ordinary_answer() {
    let upstream = Upstream::answering("no");
    let proxy = simple(&upstream, "");
    let mut client = Raw::connect(proxy.address("web"));
    client
        .send("GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.reply().text(), "no");
    assert_eq!(
        client.get("/next").text(),
        "no",
        "and the connection lives on"
    );
}

#[test]
fn early_hints_arrive_before_the_answer() {
    let upstream = Upstream::scripted(|connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = simple(&upstream, "");
    let mut client = Raw::connect(proxy.address("web"));
    let hints = client.get("/");
    assert_eq!(
        (hints.status, hints.header("link")),
        (103, Some("</a.css>"))
    );
    assert_eq!(client.reply().text(), "ok");
}

#[test]
fn an_open_circuit_says_so_and_closes_again() {
    let upstream = Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            let fail = request.starts_with(b"GET /fail");
            connection.send(if fail {
                "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            });
        }
    });
    let proxy = gateway(&format!(
        "{LISTENER}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"], breaker: {{ errorRate: 50, minRequests: 4, open: 50ms }} }} }}",
        upstream.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    for _ in 0..4 {
        assert_eq!(client.get("/fail").status, 503);
    }
    let refused = client.get("/ok");
    assert_eq!(
        refused.header("proxy-status"),
        Some("selvedge; error=destination_unavailable")
    );
    proxy.wait_for_metric("selvedge_request_failures_total", &["BreakerOpen"], 1.0);
    let count = upstream.all().matches("GET /ok").count();
    assert_eq!(count, 0, "an open circuit lets nothing through");
    // Half-open after 50 ms: asked until then, it refuses; the first that passes closes it.
    let deadline = std::time::Instant::now() + selvedge_tests::PATIENCE;
    while client.get("/ok").status != 200 {
        assert!(std::time::Instant::now() < deadline, "never closes");
    }
    assert_eq!(client.get("/ok").status, 200);
}

#[test]
fn a_replayed_body_is_whole_and_an_unasked_switch_is_refused() {
    let upstream = Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            if request.starts_with(b"GET /switch") {
                return connection.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhijack");
            }
            // The first one reads all of it, then breaks off without a byte of an answer.
            if connection.index() == 0 {
                return;
            }
            let whole = request.ends_with(b"\r\n\r\nwhole body");
            let text = if whole { "whole" } else { "parts" };
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{text}"
            ));
        }
    });
    let proxy = simple(&upstream, "");
    let mut client = Raw::connect(proxy.address("web"));
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nwhole body");
    let reply = client.reply();
    assert_eq!((reply.status, reply.text().as_str()), (200, "whole"));
    assert_eq!(upstream.seen().len(), 2);
    let switched = Raw::connect(proxy.address("web")).get("/switch");
    assert_eq!(switched.status, 502);
}
