//! The race of HTTP/1.1: an endpoint closes an idle connection at the moment at which it is used again.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use selvedge_tests::{Raw, Selvedge, Upstream, gateway};

/// After this long without a request the endpoint closes a connection.
const KEEPS: Duration = Duration::from_millis(20);

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

/// Sends a request each time an idle connection is about to be closed, or has just been: from 15 to 25 ms
/// after the answer before. Gives how many answers were none.
fn race(proxy: &Selvedge, request: &str, clients: u32, each: u32) -> u32 {
    let address = proxy.address("web");
    let failed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for client in 0..clients {
            let failed = &failed;
            scope.spawn(move || {
                let mut raw = Raw::connect(address);
                for n in 0..each {
                    raw.send(request);
                    let reply = raw.reply();
                    if reply.status != 200 {
                        failed.fetch_add(1, SeqCst);
                    }
                    let answered = Instant::now();
                    // Another moment each time, over the whole of the span.
                    let nth = u64::from(n * 37 + client * 11) % 1000;
                    let wait = Duration::from_micros(15_000 + nth * 10);
                    while let Some(left) = wait.checked_sub(answered.elapsed()) {
                        std::thread::park_timeout(left);
                    }
                }
            });
        }
    });
    failed.into_inner()
}

#[test]
fn ten_thousand_gets_and_posts_lose_nothing_and_repeat_nothing() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    for (what, request) in [("GET", get), ("POST", post)] {
        let hasty = hasty();
        let proxy = before(&hasty);
        let failed = race(&proxy, request, 50, 200);
        let (served, closed) = (hasty.served.load(SeqCst), hasty.closed.load(SeqCst));
        let retries = proxy.metric("selvedge_retries_total", &[]);
        println!("{what}: {failed} failed, {served} served, {retries} retries, {closed} closed");
        assert_eq!(failed, 0, "{what}");
        assert!(closed > 100, "there was no race: {closed}");
        if what == "POST" {
            assert_eq!(served, 10_000, "none twice");
        }
    }
}
