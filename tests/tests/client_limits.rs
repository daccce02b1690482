//! What one client may have at a time, from outside: requests on their way, bytes a second.

use std::time::{Duration, Instant};

use selvedge_tests::process::gateway;
use selvedge_tests::{Bell, Raw, Selvedge, Upstream};

fn with(upstream: &Upstream, policies: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [few] }}]
policies: {{ {policies} }}
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ))
}

fn get(client: &mut Raw, who: &str) {
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Who: {who}\r\n\r\n"));
}

#[test]
fn a_place_is_held_to_the_last_byte() {
    let bell = Bell::default();
    let ready = bell.clone();
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab");
            ready.wait();
            connection.send("cd");
        }
    });
    let proxy = with(
        &upstream,
        "few: { concurrency: { key: header.x-who, max: 2 } }",
    );
    let connect = || Raw::connect(proxy.address("web"));
    let (mut a, mut b, mut c) = (connect(), connect(), connect());
    for client in [&mut a, &mut b] {
        get(client, "ann");
        // Its head is there, its end is not.
        client.until("ab");
    }
    get(&mut c, "ann");
    let reply = c.reply();
    assert_eq!(
        (reply.status, reply.header("retry-after")),
        (429, Some("1"))
    );
    // Somebody else has places of their own.
    get(&mut c, "bob");
    c.until("ab");
    // A client that goes away gives its place back.
    drop(a);
    proxy.wait_for_metric("selvedge_requests_in_flight", &[], 2.0);
    let mut d = connect();
    get(&mut d, "ann");
    d.until("ab");
    // One for each that was sent, and for those that follow.
    (0..10).for_each(|_| bell.ring());
    for client in [&mut b, &mut c, &mut d] {
        client.until("cd");
    }
    proxy.wait_for_metric("selvedge_requests_in_flight", &[], 0.0);
    for _ in 0..3 {
        get(&mut b, "ann");
        assert_eq!(b.reply().status, 200);
    }
    let refused = proxy.metric(
        "selvedge_concurrency_limit_total",
        &["policy=\"few\"", "outcome=\"refused\""],
    );
    assert!((refused - 1.0).abs() < 0.1, "{refused}");
}

#[test]
fn bodies_wait_where_they_are_too_fast() {
    let upstream = Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            let length = 150_000;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            connection.send(head + &"x".repeat(if request.is_empty() { 0 } else { length }));
        }
    });
    let proxy = with(
        &upstream,
        "few: { bandwidth: { request: 100000/s, response: 100000/s } }",
    );
    // A quarter of a second's worth goes at once, the rest takes its time, in either direction.
    let begun = Instant::now();
    let mut client = Raw::connect(proxy.address("web"));
    get(&mut client, "ann");
    assert_eq!(client.reply().body.len(), 150_000);
    let took = begun.elapsed();
    assert!((1150..2500).contains(&took.as_millis()), "{took:?}");
    let begun = Instant::now();
    let body = "y".repeat(100_000);
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{body}"
    ));
    assert_eq!(client.reply().body.len(), 150_000);
    let took = begun.elapsed();
    // Up and then down; what the first response used up has been earned back in part.
    assert!((2000..4500).contains(&took.as_millis()), "{took:?}");
    assert!(upstream.all().contains(&body));
    assert!(took > Duration::from_secs(2));
}
