//! Row UP-02 of the battery: an endpoint whose packets vanish at the connect, before an answer, and in the middle of
//! one. What each request costs is bounded, and no answer that was cut looks whole.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use selvedge_tests::netns::{Namespace, run};
use selvedge_tests::{Bell, Raw, Selvedge, Upstream};

/// Two machines; the proxy is on the first, its endpoints on the second.
struct Place {
    here: Namespace,
    there: Namespace,
}

impl Place {
    fn new() -> Self {
        let (here, there) = Namespace::pair();
        Self { here, there }
    }

    fn upstream(
        &self,
        script: impl Fn(&mut selvedge_tests::upstream::Connection) + Send + Sync + 'static,
    ) -> Upstream {
        let any: SocketAddr = "10.7.0.2:0".parse().unwrap();
        self.there
            .inside(0, move || Upstream::scripted_at(any, script))
    }

    /// Has packets to this port vanish.
    fn blackhole(&self, port: u16) {
        for rules in [
            "add table inet hole",
            "add chain inet hole in { type filter hook input priority 0; }",
            &format!("add rule inet hole in tcp dport {port} drop"),
        ] {
            run(self.there.command("nft").arg(rules));
        }
    }

    fn proxy(&self, endpoints: &[SocketAddr], more: &str) -> Selvedge {
        let endpoints: Vec<_> = endpoints.iter().map(|e| format!("\"{e}\"")).collect();
        let config = format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}]{more} }}] }}]
services: {{ app: {{ endpoints: [{}], balance: roundRobin }} }}
limits: {{ streamIdle: 600ms }}
admin: {{ bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }}
",
            endpoints.join(", ")
        );
        Selvedge::gateway_in(&self.here, &config)
    }

    /// Does something where the proxy is, and says how long it took.
    fn timed<T: Send>(&self, work: impl FnOnce() -> T + Send) -> (T, Duration) {
        let begun = Instant::now();
        let done = self.here.inside(0, work);
        (done, begun.elapsed())
    }

    /// How often a request has ended so.
    fn ends(&self, proxy: &Selvedge, end: &str) -> usize {
        let admin = proxy.address("health");
        let text = self.here.inside(0, || {
            let mut client = Raw::connect(admin);
            client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client.reply().text()
        });
        let end = format!("end=\"{end}\"");
        text.lines().filter(|line| line.contains(&end)).count()
    }
}

fn answers(connection: &mut selvedge_tests::upstream::Connection) {
    while connection.request().is_some() {
        connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb");
    }
}

/// What a second takes on a busy machine.
const SECOND: Duration = Duration::from_millis(1900);

#[test]
fn up_02_a_connect_into_nothing_goes_to_the_next_endpoint_within_a_second() {
    let place = Place::new();
    let (hole, good) = (place.upstream(answers), place.upstream(answers));
    place.blackhole(hole.address().port());
    let proxy = place.proxy(&[hole.address(), good.address()], "");
    let web = proxy.address("web");
    let mut slow = 0;
    for _ in 0..8 {
        let (reply, took) = place.timed(|| Raw::connect(web).get("/"));
        assert_eq!(reply.status, 200);
        assert!(took < SECOND, "{took:?}");
        slow += usize::from(took > Duration::from_millis(900));
    }
    assert!((1..=5).contains(&slow), "{slow}");
    assert!(hole.seen().is_empty());
}

#[test]
fn up_02_a_connect_into_nothing_with_nobody_else_is_told_within_a_second() {
    let place = Place::new();
    let hole = place.upstream(answers);
    place.blackhole(hole.address().port());
    let proxy = place.proxy(&[hole.address()], ", retry: { attempts: 0 }");
    let web = proxy.address("web");
    for method in ["GET", "POST"] {
        let (reply, took) = place.timed(|| {
            let mut client = Raw::connect(web);
            client.send(format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            ));
            client.reply()
        });
        assert_eq!(reply.status, 503);
        assert!(
            took > Duration::from_millis(900) && took < SECOND,
            "{took:?}"
        );
    }
    assert_eq!(place.ends(&proxy, "UO"), 1);
}

#[test]
fn up_02_an_answer_that_never_comes_ends_at_the_deadline() {
    let place = Place::new();
    let (asked, gone) = (Bell::default(), Bell::default());
    let (rings, waits) = (asked.clone(), gone.clone());
    let hole = place.upstream(move |connection| {
        if connection.request().is_some() {
            rings.ring();
            waits.wait();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
        }
    });
    let proxy = place.proxy(&[hole.address()], ", timeouts: { request: 800ms }");
    let web = proxy.address("web");
    let (reply, took) = place.timed(|| {
        let mut client = Raw::connect(web);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        asked.wait();
        // The answer is sent, but its packets are not acknowledged: what vanishes is what we say.
        place.blackhole(hole.address().port());
        client.reply()
    });
    gone.ring();
    assert_eq!(reply.status, 504);
    assert!(
        took > Duration::from_millis(700) && took < SECOND,
        "{took:?}"
    );
    assert_eq!(place.ends(&proxy, "RT"), 1);
}

#[test]
fn up_02_an_answer_cut_in_the_middle_is_broken_off() {
    for (head, framing) in [
        ("Content-Length: 100000", ""),
        ("Transfer-Encoding: chunked", "2710\r\n"),
    ] {
        let place = Place::new();
        let (begun, gone) = (Bell::default(), Bell::default());
        let (rings, waits) = (begun.clone(), gone.clone());
        let hole = place.upstream(move |connection| {
            if connection.request().is_some() {
                let body = "a".repeat(5000);
                connection.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{framing}{body}"));
                rings.ring();
                waits.wait();
            }
        });
        let proxy = place.proxy(&[hole.address()], "");
        let web = proxy.address("web");
        let (rest, took) = place.timed(|| {
            let mut client = Raw::connect(web);
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let _ = client.until("aaaa");
            begun.wait();
            place.blackhole(hole.address().port());
            client.rest()
        });
        gone.ring();
        assert!(took < SECOND * 2, "{took:?}");
        // Neither all of it nor its last chunk.
        assert!(rest.len() < 20_000, "{}", rest.len());
        assert!(!rest.ends_with(b"0\r\n\r\n"));
        assert_eq!(place.ends(&proxy, "Ub"), 1);
    }
}
