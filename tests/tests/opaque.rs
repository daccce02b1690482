//! Applications that do not speak HTTP, between two pods of the mesh: their bytes cross by mutual TLS,
//! whoever speaks first.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use selvedge_tests::bytes::{counting, echo, expect, inbound, outbound, rest, start};
use selvedge_tests::cluster::{pod, ready_pod, service, slice};
use selvedge_tests::netns::Namespace;
use selvedge_tests::pod::{APP, Pod, Wire, open_dir, serve};
use selvedge_tests::{Bell, PATIENCE, TestCa};
use serde_json::{Value, json};

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";

/// A pod that calls services at these ports of the other, which lets in nothing but mutual TLS.
fn pods(ports: &[u16]) -> (Pod, Pod) {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let web = Pod::new(a, &ca, WEB, &outbound(ports, ORDERS));
    let orders = Pod::new(b, &ca, ORDERS, &inbound("mtls: strict"));
    web.redirect(&[]);
    orders.redirect(&[]);
    (web, orders)
}

#[test]
fn redis_is_called_by_mutual_tls() {
    let (web, orders) = pods(&[6379]);
    let dir = open_dir();
    let mut redis = orders.net.command_of(APP, "redis-server");
    redis.current_dir(dir.path()).args([
        "--save",
        "",
        "--protected-mode",
        "no",
        "--bind",
        "0.0.0.0",
    ]);
    let _redis = start(&mut redis, "Ready to accept connections");
    let wire = Wire::tap(&orders.net);
    let mut client = web.connect("10.96.0.20:6379");
    for (command, answer) in [
        (
            "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$12\r\nsecret-value\r\n",
            "+OK\r\n",
        ),
        ("GET key\r\n", "$12\r\nsecret-value\r\n"),
    ] {
        client.write_all(command.as_bytes()).unwrap();
        expect(&mut client, answer.as_bytes());
    }
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "");
    let bytes = "in=50 out=24 ";
    let out = ["outbound", "end=-- ", bytes, "service=to-6379"];
    web.wait_for_line(&[&out[..], &["upstream=10.7.0.2:6379"]].concat());
    let known = format!("peer_id={WEB}");
    orders.wait_for_line(&["inbound-15006", "end=-- ", bytes, "service=app", &known]);
    assert!(!wire.has(b"secret-value") && !wire.has(b"SET"));
    // A hop was there, and it was listened to.
    wire.wait_for(b"selvedge-tcp");
}

#[test]
fn servers_that_speak_first_are_heard_and_each_direction_ends_by_itself() {
    let (web, orders) = pods(&[2525]);
    serve(orders.listen(2525), |mut stream| {
        let _ = stream.write_all(b"220 welcome\r\n");
        echo(stream);
    });
    let begun = Instant::now();
    let mut client = web.connect("10.96.0.20:2525");
    expect(&mut client, b"220 welcome\r\n");
    // A moment and a handshake, not the time-out of a detection.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    client.write_all(b"EHLO a\r\n").unwrap();
    expect(&mut client, b"EHLO a\r\n");
    client.shutdown(Shutdown::Write).unwrap();
    expect(&mut client, b"<end>");
    assert_eq!(rest(&mut client), "");
    web.wait_for_line(&["outbound", "end=-- ", "in=8 out=26 ", "service=to-2525"]);
    orders.wait_for_line(&["inbound-15006", "end=-- ", "in=8 out=26 "]);
}

#[test]
fn a_server_ends_its_direction_and_still_hears() {
    let (web, orders) = pods(&[7000]);
    let heard = Bell::default();
    let rings = heard.clone();
    serve(orders.listen(7000), move |mut stream| {
        let _ = stream.write_all(b"that is all");
        let _ = stream.shutdown(Shutdown::Write);
        let mut all = String::new();
        let _ = stream.read_to_string(&mut all);
        if all.len() == 300_000 {
            rings.ring();
        }
    });
    let mut client = web.connect("10.96.0.20:7000");
    assert_eq!(rest(&mut client), "that is all");
    client.write_all(&vec![b'x'; 300_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    heard.wait();
    web.wait_for_line(&["outbound", "end=-- ", "in=300000 out=11 "]);
}

#[test]
fn a_client_that_is_silent_at_first_may_still_speak_http() {
    let (web, orders) = pods(&[8080]);
    let came = Bell::default();
    let rings = came.clone();
    serve(orders.listen(8080), move |mut stream| {
        rings.ring();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
            head.push(byte[0]);
        }
        if !head.is_empty() {
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                head.len()
            );
            let _ = stream.write_all(&head);
        }
    });
    let mut client = web.connect("10.96.0.20:8080");
    // The hop is there, through both proxies, and nobody has said a word.
    came.wait();
    client
        .write_all(b"GET /whole HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let said = rest(&mut client);
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n"), "{said}");
    assert!(said.contains("\r\n\r\nGET /whole HTTP/1.1\r\n"), "{said}");
    assert!(said.contains(&format!("By={ORDERS};URI={WEB}")), "{said}");
    web.wait_for_line(&["outbound", "GET /whole", "service=to-8080"]);
    orders.wait_for_line(&["inbound-15006", "end=DC ", "in=0 out=0 "]);
}

#[test]
fn tls_of_an_application_goes_inside_that_of_the_mesh() {
    let (web, orders) = pods(&[8443]);
    orders.serve_http(8080);
    let dir = open_dir();
    let _ = TestCa::new()
        .server(&["own.example"])
        .write(dir.path(), "own");
    let place = dir.path().display();
    for file in ["own.pem", "own.key"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(dir.path().join(file), mode).unwrap();
    }
    let config = format!(
        "listeners: [{{ name: app, port: 8443, protocol: HTTPS, \
         tls: {{ certificates: [{{ certificate: {place}/own.pem, key: {place}/own.key }}] }} }}]\n\
         admin: {{ bind: \"off\", health: \"off\" }}\n\
         routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]\n\
         services: {{ app: {{ endpoints: [\"127.0.0.1:8080\"] }} }}\n"
    );
    let _app = orders.application(APP, dir, &config);
    let wire = Wire::tap(&orders.net);
    let (code, said) = web.curl(&[
        "--insecure",
        "--resolve",
        "own.example:8443:10.96.0.20",
        "https://own.example:8443/inside",
    ]);
    assert!(
        code == Some(0) && said.contains("GET /inside HTTP/1.1"),
        "{said}"
    );
    web.wait_for_line(&["outbound", "service=to-8443", "upstream=10.7.0.2:8443"]);
    orders.wait_for_line(&["inbound-15006", &format!("peer_id={WEB}")]);
    // Even the name that was asked for is nobody's business.
    assert!(!wire.has(b"own.example"));
    wire.wait_for(b"selvedge-tcp");
}

/// Manifests of one service with two pods, at two ports of one address: the first has a sidecar.
fn manifests(dir: &Path) {
    let mut cache = service("shop", "cache", &[("redis", 6379)]);
    cache["spec"]["clusterIP"] = json!("10.96.0.30");
    cache["spec"]["clusterIPs"] = json!(["10.96.0.30"]);
    let write = |name: &str, object: &Value| {
        std::fs::write(dir.join(name), object.to_string()).unwrap();
    };
    for (name, port, meshed) in [("in", 7000, true), ("out", 7001, false)] {
        let mut pod = pod("shop", "cache", name, "orders", meshed);
        pod["metadata"]["uid"] = json!(format!("uid-of-{name}"));
        let slice = slice(&cache, name, port, &[ready_pod("10.7.0.2", &pod)]);
        write(&format!("pod-{name}.json"), &pod);
        write(&format!("slice-{name}.json"), &slice);
    }
    write("service.json", &cache);
}

#[test]
fn of_a_service_half_in_the_mesh_each_endpoint_is_called_its_own_way() {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let dir = open_dir();
    manifests(dir.path());
    let config = format!(
        "outbound: {{ bind: \"[::]:15001\", transparent: true }}\n\
         kubernetes: {{ namespace: shop, manifests: {} }}\n",
        dir.path().display()
    );
    let web = Pod::new(a, &ca, WEB, &config);
    let orders = Pod::new(b, &ca, ORDERS, &inbound("mtls: strict"));
    web.redirect(&[]);
    orders.redirect(&["--skip-inbound-ports", "7001"]);
    let meshed = counting(&orders, 7000, "by-the-mesh");
    let bare = counting(&orders, 7001, "in-the-open");
    let wire = Wire::tap(&orders.net);
    let deadline = Instant::now() + PATIENCE;
    while meshed.load(Ordering::SeqCst) == 0 || bare.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < deadline, "one of both is never called");
        let mut client = web.connect("10.96.0.30:6379");
        client.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let said = rest(&mut client);
        let known = said.starts_with("by-the-mesh") || said.starts_with("in-the-open");
        assert!(known && said.ends_with("PING\r\n<end>"), "{said}");
    }
    let service = "service=shop/cache:6379";
    web.wait_for_line(&["outbound", "end=-- ", service, "upstream=10.7.0.2:7000"]);
    web.wait_for_line(&["outbound", "end=-- ", service, "upstream=10.7.0.2:7001"]);
    wire.wait_for(b"in-the-open");
    assert!(!wire.has(b"by-the-mesh"));
}

#[test]
fn a_connection_in_flight_is_drained() {
    let (mut web, mut orders) = pods(&[7000]);
    let (here, bell) = (Bell::default(), Bell::default());
    let (rings, rung) = (here.clone(), bell.clone());
    serve(orders.listen(7000), move |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        rings.ring();
        rung.wait();
        let _ = stream.write_all(b"late");
    });
    let mut busy = web.connect("10.96.0.20:7000");
    busy.write_all(b"x").unwrap();
    here.wait();
    for pod in [&web, &orders] {
        pod.sidecar().signal("TERM");
        pod.sidecar().wait_for_log("leaving");
    }
    bell.ring();
    assert_eq!(rest(&mut busy), "late");
    drop(busy);
    let _ = (web.stop(), orders.stop());
}

#[test]
fn a_connection_counts_for_the_limits_of_its_service() {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let one = "limits: { requests: 1 }, mesh:";
    let config = outbound(&[7000], ORDERS).replace("mesh:", one);
    let web = Pod::new(a, &ca, WEB, &config);
    let orders = Pod::new(b, &ca, ORDERS, &inbound("mtls: strict"));
    web.redirect(&[]);
    orders.redirect(&[]);
    let _ = counting(&orders, 7000, "hello ");
    let mut first = web.connect("10.96.0.20:7000");
    first.write_all(b"a").unwrap();
    expect(&mut first, b"hello a");
    let mut second = web.connect("10.96.0.20:7000");
    let _ = second.write_all(b"b");
    assert_eq!(rest(&mut second), "");
    web.wait_for_line(&["outbound", "end=BR ", "service=to-7000"]);
    first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut first), "<end>");
    web.wait_for_line(&["outbound", "end=-- ", "in=1 out=12 "]);
    let mut third = web.connect("10.96.0.20:7000");
    third.write_all(b"c").unwrap();
    expect(&mut third, b"hello c");
}
