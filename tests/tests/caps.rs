//! CB-01: many clients against each cap of a service. What the endpoint sees at each arrival is never more, and
//! what is over the cap is told so at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use selvedge_tests::{Raw, Selvedge, Upstream};

const CLIENTS: usize = 64;
const EACH: usize = 30;

/// An endpoint that counts how many requests it has at once: over HTTP/1 each has a connection of its own.
/// Connections themselves it cannot count: it hears of an end after the place has been given away.
fn sampled() -> (Upstream, Arc<AtomicU32>) {
    let most = Arc::new(AtomicU32::new(0));
    let (now, seen) = (AtomicU32::new(0), most.clone());
    let upstream = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            seen.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            // Others have their turn before it answers.
            for _ in 0..20 {
                std::thread::yield_now();
            }
            now.fetch_sub(1, SeqCst);
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    (upstream, most)
}

/// The answers that were none, by what `Proxy-Status` says of them; and how many were good.
fn storm(proxy: &Selvedge) -> (u32, Vec<String>) {
    let (address, good) = (proxy.address("web"), AtomicU32::new(0));
    let said = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Raw::connect(address);
                for _ in 0..EACH {
                    let reply = client.get("/");
                    if reply.status == 200 {
                        good.fetch_add(1, SeqCst);
                        continue;
                    }
                    assert_eq!(reply.status, 503);
                    let status = reply.header("proxy-status").unwrap_or_default();
                    said.lock().unwrap().push(status.to_owned());
                }
            });
        }
    });
    (good.into_inner(), said.into_inner().unwrap())
}

#[test]
fn cb_01_an_endpoint_never_sees_more_than_the_cap() {
    for (limits, cap) in [
        ("requests: 5", 5),
        ("connections: 3, pending: 2", 3),
        ("connections: 4", 4),
    ] {
        let (upstream, most) = sampled();
        let config = format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"], limits: {{ {limits} }} }} }}",
            upstream.address()
        );
        let dir = tempfile::tempdir().unwrap();
        let proxy = Selvedge::start_in(dir, "gateway", &config, 2);
        let (good, refused) = storm(&proxy);
        let seen = most.load(SeqCst);
        println!(
            "{limits}: {seen} at once, {good} good, {} refused",
            refused.len()
        );
        assert!(seen <= cap, "{limits}: {seen}");
        assert!(good >= 20, "{limits}: {good}");
        assert_eq!(good as usize + refused.len(), CLIENTS * EACH);
        assert!(
            refused.iter().all(|said| said.contains("error=")),
            "{refused:?}"
        );
        proxy.wait_for_metric("selvedge_requests_in_flight", &[], 0.0);
    }
}
