//! One test for each bug that was found by breaking it, named for it.

use selvedge_tests::http2::{self, Http2};
use selvedge_tests::{Raw, Upstream, gateway, sidecar};

const LISTENER: &str = "listeners: [{ name: web, bind: 127.0.0.1, port: 0 }]
routes: [{ rules: [{ backendRefs: [{ service: app }] }] }]";

#[test]
fn a_protocol_of_extended_connect_cannot_write_lines_into_http1() {
    for protocol in [
        "x\r\n\r\nGET /admin HTTP/1.1\r\nHost: internal\r\n\r\n",
        "x\r\nTransfer-Encoding: chunked",
        "a b",
        "h2c",
    ] {
        let upstream = Upstream::answering("ok");
        let proxy = gateway(&format!(
            "{LISTENER}\nservices: {{ app: {{ endpoints: [\"{}\"] }} }}",
            upstream.address()
        ));
        let mut peer = Http2::connect(proxy.address("web"), &[]);
        let head = [
            (":method", "CONNECT"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/hostile"),
            (":protocol", protocol),
        ];
        peer.send(http2::headers(1, &http2::block(&head), false));
        let _ = peer.outcome(1);
        // Another user's request is answered; by then the first has been dealt with.
        assert_eq!(
            Raw::connect(proxy.address("web")).get("/clean").text(),
            "ok"
        );
        let seen = upstream.all();
        assert!(
            !seen.contains("/admin") && !seen.contains("/hostile"),
            "{protocol:?}: {seen}"
        );
    }
}

#[test]
fn an_impatient_caller_ejects_nobody_and_opens_no_circuit() {
    let upstream = Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            if request.starts_with(b"GET /fast") {
                connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        }
    });
    let proxy = gateway(&format!(
        "{LISTENER}\nservices: {{ app: {{ endpoints: [\"{}\"], breaker: {{ errorRate: 10, minRequests: 4 }} }} }}",
        upstream.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    for _ in 0..20 {
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: 1ms\r\n\r\n");
        assert_eq!(client.reply().status, 504);
    }
    assert_eq!(client.get("/fast").text(), "ok");
}

#[test]
fn a_caller_cannot_switch_the_deadline_off() {
    let upstream = Upstream::scripted(|connection| connection.drain());
    let proxy = gateway(&format!(
        "{LISTENER}\nservices: {{ app: {{ endpoints: [\"{}\"] }} }}\nlimits: {{ request: 100ms }}",
        upstream.address()
    ));
    for asked in [
        "X-Request-Timeout: 0",
        "X-Request-Timeout: 9h",
        "Grpc-Timeout: 0n",
    ] {
        let mut client = Raw::connect(proxy.address("web"));
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{asked}\r\n\r\n"));
        assert_eq!(client.reply().status, 504, "{asked}");
    }
}

#[test]
fn underscores_do_not_carry_identities_past_the_proxy() {
    let upstream = Upstream::answering("ok");
    let edge = gateway(&format!(
        "{LISTENER}\nservices: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    let beside = sidecar(&format!(
        "inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{}\", mtls: permissive }}]",
        upstream.address()
    ));
    for address in [edge.address("web"), beside.address("inbound-0")] {
        let mut client = Raw::connect(address);
        client.send(
            "GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_Client_Cert: forged\r\nX-Forwarded_Client-Cert: forged\r\nMy_Own: kept\r\n\r\n",
        );
        assert_eq!(client.reply().status, 200);
    }
    let seen = upstream.all();
    assert!(!seen.contains("forged"), "{seen}");
    assert_eq!(seen.matches("My_Own: kept").count(), 2, "{seen}");
}

#[test]
fn a_noisy_neighbour_in_the_directory_does_not_hold_up_a_reload() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let upstream = Upstream::answering("ok");
    let config = |name: &str| {
        format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ name: {name}, rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}
admin: {{ bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }}
",
            upstream.address()
        )
    };
    let mut proxy = gateway(&config("before"));
    let stop = Arc::new(AtomicBool::new(false));
    let noise = proxy.dir().join("noise.log");
    let stopped = stop.clone();
    let neighbour = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            std::fs::write(&noise, "line\n").unwrap();
        }
    });
    std::fs::write(proxy.dir().join("config.yaml"), config("after")).unwrap();
    proxy.wait_for("configuration reloaded");
    stop.store(true, Ordering::Relaxed);
    neighbour.join().unwrap();
}
