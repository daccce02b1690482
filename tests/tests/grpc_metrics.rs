//! Calls of gRPC are counted by method and status: those that services have, not those that clients make up.

use std::net::SocketAddr;

use selvedge_tests::bell::Bell;
use selvedge_tests::http2::{self, Http2, Outcome, frame};
use selvedge_tests::http2_upstream::{Asked, Peer, answer};
use selvedge_tests::mesh::Mesh;
use selvedge_tests::{Http2Upstream, Raw, Selvedge, Upstream, gateway};

const CALLS: &str = "selvedge_grpc_requests_total";
const KIND: (&str, &str) = ("content-type", "application/grpc");

fn before(app: impl ToString, more: &str) -> Selvedge {
    let app = app.to_string();
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ matches: [{{ headers: [{{ name: X-None, value: a }}] }}], backendRefs: [{{ service: none }}] }}, {{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{app}\"]{more} }}, none: {{ endpoints: [\"{app}\"], protocol: http2 }} }}"
    ))
}

/// Answers in the way and with the status that the path's method says: `T` and a number in trailers, `H` and a
/// number in the head, anything else without one.
fn saying(peer: &mut Peer, asked: &Asked) {
    let path = asked.field(":path").to_owned();
    let method = path.rsplit('/').next().unwrap_or_default();
    let stream = asked.stream;
    if let Some(status) = method.strip_prefix('H') {
        let fields = [KIND, ("grpc-status", status)];
        peer.send(answer(stream, "200", &fields, true));
        return;
    }
    peer.send(answer(stream, "200", &[KIND], false));
    peer.send(frame(http2::DATA, 0, stream, b"\0\0\0\0\0"));
    match method.strip_prefix('T') {
        Some(status) => {
            let trailers = http2::block(&[("grpc-status", status)]);
            peer.send(http2::headers(stream, &trailers, true));
        }
        None => peer.send(http2::data(stream, b"", true)),
    }
}

fn call(client: &mut Http2, stream: u32, path: &str) -> Outcome {
    let head = http2::request("POST", path, &[KIND, ("te", "trailers")]);
    client.send(http2::headers(stream, &head, true));
    client.outcome(stream)
}

/// Waits until so many calls of a method came to this.
fn wait(proxy: &Selvedge, service: &str, method: &str, status: &str, count: f64) {
    let labels = [
        format!("grpc_service=\"{service}\""),
        format!("grpc_method=\"{method}\""),
        format!("grpc_status=\"{status}\""),
    ];
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    proxy.wait_for_metric(CALLS, &labels, count);
}

fn timed(proxy: &Selvedge, method: &str, count: f64) {
    let name = "selvedge_grpc_request_duration_seconds_count";
    proxy.wait_for_metric(name, &[&format!("grpc_method=\"{method}\"")], count);
}

/// Pairs of service and method that have series.
fn methods(proxy: &Selvedge) -> usize {
    let (_, text) = proxy.get("health", "/metrics");
    let name = "selvedge_grpc_request_duration_seconds_count{";
    text.lines().filter(|line| line.starts_with(name)).count()
}

#[test]
fn calls_count_by_method_and_by_what_they_came_to() {
    let app = Http2Upstream::serving(&[], saying);
    let proxy = before(app.address(), ", protocol: http2");
    let mut client = Http2::connect(proxy.address("web"), &[]);
    let mut streams = (1..).step_by(2);
    let paths = [
        "/shop.Orders/T0",
        "/shop.Orders/T0",
        "/shop.Orders/H5",
        "/Plain/T3",
        "/shop.Orders/T99",
        "/shop.Orders/Say",
    ];
    for path in paths {
        let outcome = call(&mut client, streams.next().unwrap(), path);
        assert!(
            matches!(outcome, Outcome::Answer(200, _)),
            "{path}: {outcome:?}"
        );
    }
    wait(&proxy, "shop.Orders", "T0", "0", 2.0);
    wait(&proxy, "shop.Orders", "H5", "5", 1.0);
    wait(&proxy, "Plain", "T3", "3", 1.0);
    wait(&proxy, "other", "other", "other", 1.0);
    wait(&proxy, "other", "other", "none", 1.0);
    timed(&proxy, "T0", 2.0);
    timed(&proxy, "other", 2.0);
    // Over HTTP/1.1, with the same service behind it.
    let mut client = Raw::connect(proxy.address("web"));
    client.send("POST /shop.Orders/T0 HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.reply().status, 200);
    wait(&proxy, "shop.Orders", "T0", "0", 3.0);
    // What is no call is not counted.
    assert_eq!(client.get("/shop.Orders/T0").status, 200);
    proxy.wait_for_metric("selvedge_requests_total", &[], 8.0);
    wait(&proxy, "shop.Orders", "T0", "0", 3.0);
}

#[test]
fn services_over_http1_are_counted_too() {
    let app = Upstream::replying(
        "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\0\0\0\0\0\r\n0\r\ngrpc-status: 6\r\n\r\n",
    );
    let proxy = before(app.address(), "");
    let mut client = Http2::connect(proxy.address("web"), &[]);
    assert_eq!(
        call(&mut client, 1, "/a.B/C"),
        Outcome::Answer(200, vec![0; 5])
    );
    wait(&proxy, "a.B", "C", "6", 1.0);
    let mut client = Raw::connect(proxy.address("web"));
    client.send("POST /a.B/C HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nContent-Type: application/grpc+proto\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(
        client.reply().trailers,
        [("grpc-status".into(), "6".into())]
    );
    wait(&proxy, "a.B", "C", "6", 2.0);
    // Without calls there is not a line of it.
    let (_, text) = before(app.address(), "").get("health", "/metrics");
    assert!(!text.contains("grpc"), "{text}");
}

#[test]
fn names_that_clients_make_up_have_no_series() {
    // As a library, or a proxy that refuses before anybody looks at the name.
    let app = Http2Upstream::serving(&[], |peer, asked| {
        let status = ["12", "14", "16", "7", "8", "13"][asked.stream as usize / 2 % 6];
        let fields = [KIND, ("grpc-status", status)];
        peer.send(answer(asked.stream, "200", &fields, true));
    });
    let proxy = before(app.address(), ", protocol: http2");
    let mut client = Http2::connect(proxy.address("web"), &[]);
    for nth in 0..300 {
        let outcome = call(
            &mut client,
            2 * nth + 1,
            &format!("/made.Up{nth}/Name{nth}"),
        );
        assert_eq!(outcome, Outcome::Answer(200, Vec::new()));
    }
    timed(&proxy, "other", 300.0);
    wait(&proxy, "other", "other", "12", 50.0);
    assert_eq!(methods(&proxy), 1);
}

#[test]
fn a_service_that_takes_any_name_leaves_room_for_others() {
    let app = Http2Upstream::serving(&[], |peer, asked| {
        peer.send(answer(
            asked.stream,
            "200",
            &[KIND, ("grpc-status", "0")],
            true,
        ));
    });
    let proxy = before(app.address(), ", protocol: http2");
    let mut client = Http2::connect(proxy.address("web"), &[]);
    let long = format!("/a.B/{}", "c".repeat(200));
    let odd = [
        "/a.B/C/D",
        "/a.B",
        "/other/other",
        "/a%22B/C",
        "/a-b/C",
        long.as_str(),
    ];
    let names = (0..300).map(|nth| format!("/any.Service/M{nth}"));
    let names = odd.into_iter().map(str::to_owned).chain(names);
    let mut stream = 1;
    for name in names {
        call(&mut client, stream, &name);
        stream += 2;
    }
    wait(&proxy, "other", "other", "0", 6.0 + 150.0);
    assert_eq!(methods(&proxy), 150 + 1);
    // Another service has the rest.
    for nth in 0..60 {
        let head = [KIND, ("te", "trailers"), ("x-none", "a")];
        let head = http2::request("POST", &format!("/more.Service/M{nth}"), &head);
        client.send(http2::headers(stream, &head, true));
        client.outcome(stream);
        stream += 2;
    }
    wait(&proxy, "more.Service", "M49", "0", 1.0);
    let name = "selvedge_grpc_request_duration_seconds_count";
    proxy.wait_for_metric(name, &["service=\"none\"", "grpc_method=\"other\""], 10.0);
    assert_eq!(methods(&proxy), 150 + 50 + 2);
}

#[test]
fn answers_of_the_proxy_have_the_status_of_its_table() {
    let (go, asked) = (Bell::default(), Bell::default());
    let (wait_for, told) = (go.clone(), asked.clone());
    let app = Http2Upstream::serving(&[], move |peer, call| {
        if call.field(":path").ends_with("Hang") {
            told.ring();
            wait_for.wait();
        }
        let fields = [KIND, ("grpc-status", "0")];
        peer.send(answer(call.stream, "200", &fields, true));
    });
    let nobody = selvedge_tests::l4::nobody();
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ matches: [{{ path: /app.Down }}], backendRefs: [{{ service: down }}] }}, {{ matches: [{{ path: /app.Up }}], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"], protocol: http2 }}, down: {{ endpoints: [\"{}\"], protocol: http2 }} }}",
        app.address(),
        nobody.1
    ));
    let mut client = Http2::connect(proxy.address("web"), &[]);
    call(&mut client, 1, "/app.Down/Call");
    wait(&proxy, "other", "other", "14", 1.0);
    call(&mut client, 3, "/app.Else/Call");
    wait(&proxy, "other", "other", "12", 1.0);
    // One that is known counts under its name, also where its caller gives it up.
    call(&mut client, 5, "/app.Up/Call");
    go.ring();
    call(&mut client, 7, "/app.Up/Hang");
    asked.wait();
    wait(&proxy, "app.Up", "Hang", "0", 1.0);
    let head = http2::request("POST", "/app.Up/Hang", &[KIND]);
    client.send(http2::headers(9, &head, true));
    asked.wait();
    client.send(http2::reset(9));
    wait(&proxy, "app.Up", "Hang", "1", 1.0);
    go.ring();
}

#[test]
fn sidecars_count_what_comes_in_and_what_goes_out() {
    let app = Http2Upstream::serving(&[], saying);
    let app: SocketAddr = app.address();
    let mesh = Mesh::before(app, "http2");
    let mut client = Http2::connect(mesh.outbound(), &[]);
    let head = http2::block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "app"),
        (":path", "/shop.Orders/T0"),
        KIND,
        ("te", "trailers"),
    ]);
    client.send(http2::headers(1, &head, true));
    assert_eq!(client.outcome(1), Outcome::Answer(200, vec![0; 5]));
    for proxy in [&mesh.client, &mesh.server] {
        wait(proxy, "shop.Orders", "T0", "0", 1.0);
        timed(proxy, "T0", 1.0);
    }
}
