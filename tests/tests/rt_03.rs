//! Rows RT-03 and RT-04 of the battery: pauses between tries are spread, deadlines hold over all tries, and a body
//! that cannot be kept is passed on whole, once.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use selvedge_tests::http2_upstream::Http2Upstream;
use selvedge_tests::{Raw, Selvedge, Upstream, gateway};

const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";

fn before(endpoint: SocketAddr, rule: &str, service: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}], {rule} }}] }}]
services: {{ app: {{ endpoints: [\"{endpoint}\"]{service} }} }}"
    ))
}

#[test]
fn rt_03_pauses_are_anywhere_between_nothing_and_the_step() {
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let noted = arrivals.clone();
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            noted.lock().unwrap().push(Instant::now());
            connection.send(BUSY);
        }
    });
    let mut pauses = Vec::new();
    // Each proxy has a budget of its own.
    for _ in 0..4 {
        let rule = "retry: { attempts: 1, codes: [503], backoff: 200ms }";
        let proxy = before(
            upstream.address(),
            rule,
            ", ejection: { consecutive: 0, successRate: 0 }",
        );
        let mut client = Raw::connect(proxy.address("web"));
        for _ in 0..10 {
            arrivals.lock().unwrap().clear();
            assert_eq!(client.get("/").status, 503);
            let seen = arrivals.lock().unwrap().clone();
            assert_eq!(seen.len(), 2);
            pauses.push(seen[1] - seen[0]);
        }
    }
    pauses.sort();
    println!("{pauses:?}");
    // Forty from a uniform distribution: none in a quarter of it is one in a hundred thousand.
    for quarter in 0..3 {
        let from = Duration::from_millis(50 * quarter);
        let to = from + Duration::from_millis(if quarter == 0 { 65 } else { 50 });
        assert!(pauses.iter().any(|p| (from..to).contains(p)), "{pauses:?}");
    }
    assert!(
        pauses[pauses.len() / 2] < Duration::from_millis(170),
        "{pauses:?}"
    );
    assert!(
        pauses[pauses.len() - 1] > Duration::from_millis(140),
        "{pauses:?}"
    );
}

#[test]
fn rt_04_all_tries_together_are_bounded_and_each_of_them() {
    let upstream = Upstream::scripted(|connection| {
        let _ = connection.request();
        let _ = connection.request();
    });
    let rule = "retry: { attempts: 10, backoff: 1ms }, timeouts: { request: 700ms, backendRequest: 200ms }";
    let proxy = before(upstream.address(), rule, "");
    let begun = Instant::now();
    let reply = Raw::connect(proxy.address("web")).get("/");
    let took = begun.elapsed();
    assert_eq!(reply.status, 504);
    assert!(took >= Duration::from_millis(600), "{took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    // Three have run out, and the fourth was cut short.
    let tries = upstream.seen().len();
    assert!((3..=4).contains(&tries), "{tries}");
}

#[test]
fn rt_04_the_callers_own_deadline_of_grpc_holds_and_accuses_nobody() {
    let upstream = Http2Upstream::serving(&[], |_, _| {});
    let rule = "retry: { attempts: 3, grpc: [deadlineExceeded] }";
    let proxy = before(
        upstream.address(),
        rule,
        ", protocol: http2, ejection: { consecutive: 1 }",
    );
    for wish in ["200m", "200000u"] {
        let mut client = Raw::connect(proxy.address("web"));
        let begun = Instant::now();
        client.send(format!(
            "POST /shop.Orders/List HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nContent-Type: application/grpc\r\n\
             grpc-timeout: {wish}\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0"
        ));
        let reply = client.reply();
        let took = begun.elapsed();
        assert_eq!(
            (reply.status, reply.header("grpc-status")),
            (200, Some("4"))
        );
        assert!(took >= Duration::from_millis(190), "{took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    let ejected = proxy.metric("selvedge_service_ejections_total", &[]);
    assert_eq!(ejected, 0.0);
}

#[test]
fn rt_04_a_body_that_comes_in_pieces_and_is_too_long_to_keep_arrives_whole_and_once() {
    let upstream = Upstream::scripted(|connection| {
        // Read to its end, and then refused.
        if connection.until(b"0\r\n\r\n").is_some() {
            connection.send(BUSY);
            let _ = connection.request();
        }
    });
    let rule = "retry: { attempts: 3, codes: [503], backoff: 1ms }";
    let proxy = before(upstream.address(), rule, "");
    let mut client = Raw::connect(proxy.address("web"));
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    let pieces: Vec<String> = (0..10u8)
        .map(|n| char::from(b'a' + n).to_string().repeat(10_000))
        .collect();
    for (at, piece) in pieces.iter().enumerate() {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        // Each has gone on before the next is sent.
        let seen = |seen: &str| seen.matches(|c: char| piece.starts_with(c)).count() >= 10_000;
        upstream.wait_until(|all| all.first().is_some_and(|one| seen(&one.text())));
        assert!(at < pieces.len());
    }
    client.send("0\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status, reply.text().as_str()), (503, "busy"));
    let all = upstream.all();
    assert_eq!(all.matches("POST / HTTP/1.1").count(), 1);
    let body = all.split_once("\r\n\r\n").unwrap().1;
    let letters: String = body.chars().filter(|c| ('a'..='j').contains(c)).collect();
    // Sizes of chunks are digits and letters too, but are not ten thousand in a row.
    for piece in &pieces {
        assert!(letters.contains(piece.as_str()), "a piece is missing");
    }
}
