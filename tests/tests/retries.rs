//! Requests that are tried again: whole, in time, only where that is safe, and never in a storm.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use selvedge_tests::http2_upstream::{Http2Upstream, answer};
use selvedge_tests::upstream::Connection;
use selvedge_tests::{Raw, Selvedge, Upstream, gateway};

const BUSY: &str = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";

/// Answers the first requests with these, all later ones with their body.
fn first(answers: &'static [&'static str]) -> (Upstream, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let upstream = Upstream::scripted(move |connection: &mut Connection| {
        while let Some(request) = connection.request() {
            let number = counted.fetch_add(1, Relaxed);
            if let Some(answer) = answers.get(number) {
                connection.send(answer);
                continue;
            }
            let at = request.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
            let body = &request[at..];
            connection.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ));
            connection.send(body);
        }
    });
    (upstream, count)
}

fn before(endpoints: &[SocketAddr], rule: &str) -> Selvedge {
    let endpoints: Vec<_> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}]{rule} }}] }}]
services: {{ app: {{ endpoints: [{}] }} }}",
        endpoints.join(", ")
    ))
}

fn post(proxy: &Selvedge, more: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut client = Raw::connect(proxy.address("web"));
    let length = body.len();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\n{more}Content-Length: {length}\r\n\r\n"
    ));
    client.send(body);
    let reply = client.reply();
    (reply.status, reply.body)
}

const AGAIN: &str = ", retry: { attempts: 2, codes: [503] }";
const KEY: &str = "Idempotency-Key: 1\r\n";

#[test]
fn a_body_is_sent_again_whole_or_not_at_all() {
    let small = vec![b'a'; 60_000];
    let (upstream, count) = first(&[BUSY, BUSY]);
    let proxy = before(&[upstream.address()], AGAIN);
    assert_eq!(post(&proxy, KEY, &small), (200, small.clone()));
    assert_eq!(count.load(Relaxed), 3);
    // Nobody has said that it may be carried out twice.
    let (upstream, count) = first(&[BUSY]);
    let proxy = before(&[upstream.address()], AGAIN);
    assert_eq!(post(&proxy, "", &small), (503, b"busy".to_vec()));
    assert_eq!(count.load(Relaxed), 1);
    // More than is kept: 64 KiB.
    let large = vec![b'b'; 70_000];
    let (upstream, count) = first(&[BUSY]);
    let proxy = before(&[upstream.address()], AGAIN);
    assert_eq!(post(&proxy, KEY, &large), (503, b"busy".to_vec()));
    assert_eq!(post(&proxy, KEY, &large), (200, large));
    assert_eq!(count.load(Relaxed), 2);
}

#[test]
fn an_endpoint_is_left_alone_for_as_long_as_it_asks_for() {
    let (upstream, count) = first(&[
        "HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 4\r\n\r\nbusy",
        "HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 4\r\n\r\nbusy",
        "HTTP/1.1 503 Busy\r\nRetry-After: soon\r\nContent-Length: 4\r\n\r\nbusy",
    ]);
    let rule = ", retry: { attempts: 2, codes: [503], backoff: 300ms }";
    let proxy = before(&[upstream.address()], rule);
    let mut client = Raw::connect(proxy.address("web"));
    // At once; and then it is worth the wait: ten times the first pause is the most.
    let begun = Instant::now();
    assert_eq!(client.get("/").status, 503);
    assert_eq!(count.load(Relaxed), 3);
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    // What would take too long is for the caller to wait.
    let (upstream, count) =
        first(&["HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 4\r\n\r\nbusy"]);
    let proxy = before(&[upstream.address()], AGAIN);
    let mut client = Raw::connect(proxy.address("web"));
    let reply = client.get("/");
    assert_eq!(
        (reply.status, reply.header("retry-after")),
        (503, Some("60"))
    );
    assert_eq!(count.load(Relaxed), 1);
}

#[test]
fn a_try_that_takes_too_long_is_followed_by_another() {
    let stalled = Upstream::scripted(|connection| {
        let _ = connection.request();
        let _ = connection.request();
    });
    let (well, _) = first(&[]);
    let rule = ", retry: { attempts: 1 }, timeouts: { request: 5s, backendRequest: 200ms }";
    let proxy = before(&[stalled.address(), well.address()], rule);
    for _ in 0..10 {
        let mut client = Raw::connect(proxy.address("web"));
        let begun = Instant::now();
        assert_eq!(client.get("/").status, 200);
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    }
    assert!(!stalled.seen().is_empty());
    // A request that may not be carried out twice is not.
    let proxy = before(&[stalled.address()], rule);
    let (status, _) = post(&proxy, "", b"abc");
    assert_eq!(status, 504);
}

#[test]
fn calls_of_grpc_are_tried_again_by_their_status() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let upstream = Http2Upstream::serving(&[], move |peer, asked| {
        let first = counted.fetch_add(1, Relaxed) == 0;
        let status = if first { "14" } else { "0" };
        let fields = [
            ("content-type", "application/grpc"),
            ("grpc-status", status),
        ];
        peer.send(answer(asked.stream, "200", &fields, true));
    });
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}], retry: {{ grpc: [unavailable], backoff: 1ms }} }}] }}]
services: {{ app: {{ endpoints: [\"{}\"], protocol: http2 }} }}",
        upstream.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    client.send("POST /shop.Orders/List HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nContent-Type: application/grpc\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0");
    let reply = client.reply();
    assert_eq!(
        (reply.status, reply.header("grpc-status")),
        (200, Some("0"))
    );
    assert_eq!(calls.load(Relaxed), 2);
}

#[test]
fn rt_01_a_service_that_fails_is_not_buried_under_retries() {
    // All answers are 503, at some 500 requests a second.
    let (seconds, rate) = (6, 500);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            counted.fetch_add(1, Relaxed);
            connection.send(BUSY);
        }
    });
    let rule = ", retry: { attempts: 3, codes: [503], backoff: 1ms }";
    let proxy = before(&[upstream.address()], rule);
    let output = std::process::Command::new("h2load")
        .args(["--h1", "-c", "10", "--rps", &(rate / 10).to_string()])
        .args(["-n", &(rate * seconds).to_string()])
        .arg(format!("--connect-to={}", proxy.address("web")))
        .arg("http://a/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let offered = rate * seconds;
    assert!(said.contains(&format!("{offered} done")), "{said}");
    let seen = calls.load(Relaxed);
    // A fifth of them, ten a second, and what was saved up before.
    let most = offered * 12 / 10 + 10 * (seconds + 10);
    println!("{seen} tries of {offered} requests, {most} at most");
    assert!(seen > offered && seen <= most, "{seen} of {most}: {said}");
}
