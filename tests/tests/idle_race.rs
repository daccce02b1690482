//! The race of HTTP/1.1: an endpoint closes an idle connection at the moment at which it is used again.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use selvedge_tests::{Raw, Selvedge, Upstream, gateway};

/// After this long without a request the endpoint closes a connection, a new one too. Long enough for a machine
/// that runs other tests besides to send the first request on it.
const KEEPS: Duration = Duration::from_millis(200);

/// So many POSTs of 10,000 may be answered with an error: the first closings, from which the proxy learns, are a
/// surprise, and a POST that meets one is not sent again. None was lost yet, beside four busy loops on
/// two cores either.
const MAY_BE_LOST: u32 = 10;

/// An endpoint that closes idle connections after [`KEEPS`], and counts requests and closings.
struct Hasty {
    upstream: Upstream,
    served: Arc<AtomicU32>,
    closed: Arc<AtomicU32>,
}

fn hasty() -> Hasty {
    let (served, closed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (count, ends) = (served.clone(), closed.clone());
    let upstream = Upstream::scripted(move |connection| {
        let stream: &TcpStream = connection.stream();
        stream.set_read_timeout(Some(KEEPS)).unwrap();
        while connection.request().is_some() {
            count.fetch_add(1, SeqCst);
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
        ends.fetch_add(1, SeqCst);
    });
    Hasty {
        upstream,
        served,
        closed,
    }
}

fn before(hasty: &Hasty) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        hasty.upstream.address()
    ))
}

/// All clients send at once, so that no connection is younger than the others, each time when all are about to
/// be closed or have just been: from 190 to 212 ms after the time before, and after 260 ms at first. Gives how
/// many answers were none.
fn race(proxy: &Selvedge, request: &str, clients: u32, rounds: u32) -> u32 {
    let address = proxy.address("web");
    let failed = AtomicU32::new(0);
    let mut raws: Vec<Raw> = (0..clients).map(|_| Raw::connect(address)).collect();
    for round in 0..rounds {
        // A client that panics ends its round, and with it the test.
        std::thread::scope(|scope| {
            for raw in &mut raws {
                scope.spawn(|| {
                    raw.send(request);
                    let reply = raw.reply();
                    if reply.status != 200 {
                        assert!(matches!(reply.status, 502 | 503), "{}", reply.status);
                        failed.fetch_add(1, SeqCst);
                    }
                });
            }
        });
        let answered = Instant::now();
        let wait = Duration::from_micros(match round {
            0..4 => 260_000,
            _ => 212_000 - u64::from(round) * 550,
        });
        while let Some(left) = wait.checked_sub(answered.elapsed()) {
            std::thread::park_timeout(left);
        }
    }
    failed.into_inner()
}

#[test]
fn ten_thousand_gets_and_posts_lose_nothing_and_repeat_nothing() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    for (what, request) in [("GET", get), ("POST", post)] {
        let hasty = hasty();
        let proxy = before(&hasty);
        let failed = race(&proxy, request, 250, 40);
        let (served, closed) = (hasty.served.load(SeqCst), hasty.closed.load(SeqCst));
        let retries = proxy.metric("selvedge_retries_total", &[]);
        println!("{what}: {failed} failed, {served} served, {retries} retries, {closed} closed");
        assert!(closed > 100, "there was no race: {closed}");
        if what == "POST" {
            assert_eq!(served + failed, 10_000, "none twice, none lost in silence");
            assert!(failed <= MAY_BE_LOST, "{failed} lost");
        } else {
            assert_eq!(failed, 0, "{what}");
        }
    }
}
