//! Rows LI-03 and LI-05: a proxy that comes to the end of its memory or its descriptors gives up what
//! costs others least, says so, and is well again afterwards.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use selvedge_tests::hostile::{ROLES, Role, Stage, held};
use selvedge_tests::http2::{Http2, Outcome, data, headers, request};
use selvedge_tests::http2_upstream::answer;
use selvedge_tests::limited::ControlGroup;
use selvedge_tests::{Http2Upstream, PATIENCE, Raw, Reply, Selvedge, Upstream, gateway};

const APP: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn config(upstream: SocketAddr, limits: &str) -> String {
    format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{upstream}\"] }} }}
limits: {{ {limits} }}\n"
    )
}

/// Bounds the memory of a proxy so that what it uses is this share of it, in percent, until something
/// is so.
fn press(proxy: &Selvedge, percent: f64, level: f64, held: impl Fn() -> bool) {
    let begun = Instant::now();
    loop {
        let used = proxy.metric("selvedge_memory_used_bytes", &[]);
        let most = (used * 100.0 / percent) as u64;
        proxy.reload(|text| {
            let (before, rest) = text.split_once("memory: ").unwrap();
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}memory: {most}{rest}")
        });
        let looked = Instant::now();
        while looked.elapsed() < Duration::from_secs(1) {
            let now = proxy.metric("selvedge_memory_pressure", &[]);
            if (now - level).abs() < 0.5 && held() {
                return;
            }
        }
        // A reload takes memory itself: what was measured before it is not what is there now.
        assert!(begun.elapsed() < PATIENCE, "never at {level}");
    }
}

#[test]
fn li_05_what_memory_is_short_for_is_given_up_in_order() {
    for role in ROLES {
        let upstream = Upstream::replying(APP);
        let stage = Stage::over(role, "memory: 1000000000000", upstream);
        let proxy = &stage.proxy;
        proxy.wait_for_metric("selvedge_memory_ceiling_bytes", &[], 1e12);

        let mut idle = stage.client();
        assert_eq!(idle.get("/own/1").status, 200);
        let mut idle_http2 = stage.http2();
        idle_http2.get(1, "/own/2");
        idle_http2.settle();
        let told = |fits: &dyn Fn(&Reply) -> bool| ask(&stage).is_ok_and(|reply| fits(&reply));
        let closing = |reply: &Reply| reply.header("connection") == Some("close");
        press(proxy, 85.0, 1.0, || {
            told(&|r| r.status == 200 && closing(r))
        });
        assert!(idle.is_closed(), "an idle connection stays");
        assert_eq!(idle_http2.end().0, Some(0), "an idle connection stays");

        let refused = |r: &Reply| r.status == 503;
        press(proxy, 92.5, 2.0, || told(&refused) && turns_away(&stage));
        let failures = ["\"LO\""];
        let begun = Instant::now();
        while proxy.metric("selvedge_request_failures_total", &failures) < 0.5 {
            let said = proxy.get("health", "/metrics").1;
            assert!(begun.elapsed() < PATIENCE, "not counted: {said}");
        }

        let refused = || proxy.metric("selvedge_connections_refused_total", &[]);
        let before = refused();
        press(proxy, 150.0, 3.0, || ask(&stage).is_err());
        assert!(refused() > before);
        // Who looks after it still can.
        assert_eq!(proxy.get("admin", "/config").0, 200);

        press(proxy, 20.0, 0.0, || {
            told(&|r| r.status == 200 && !closing(r))
        });
        held("LI-05", role, 4);
    }
}

fn ask(stage: &Stage) -> std::io::Result<Reply> {
    let mut client = stage.client();
    client.send("GET /own/3 HTTP/1.1\r\nHost: a\r\n\r\n");
    client.try_reply_to("GET")
}

/// Whether streams are refused, each as its client understands it, and to who gives no credit at all.
fn turns_away(stage: &Stage) -> bool {
    let mut client = Http2::connect(stage.address(), &[(4, 0)]);
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    client.send(headers(1, &request("POST", "/own/3", &grpc), true));
    client.get(3, "/own/3");
    let told = |status| Outcome::Answer(status, Vec::new());
    client.outcome(1) == told(200) && client.outcome(3) == told(503)
}

/// What the group of the proxy may have.
const MEMORY: u64 = 256 << 20;

/// Opens streams, and reads nothing of what they are answered.
fn hoard(address: SocketAddr) -> Option<Http2> {
    let mut hoarder = Http2::connect(address, &[(4, 0)]);
    for stream in 0..100 {
        let asked = headers(2 * stream + 1, &request("GET", "/own/large", &[]), true);
        if !hoarder.send(asked) {
            return None;
        }
    }
    Some(hoarder)
}

#[test]
fn li_05_many_who_do_not_read_are_shed_and_nobody_is_killed() {
    // On a busy machine, too: tasks of streams that were read while workers were late filled all that
    // was left, before each of them could refuse.
    // All that a stream may have us hold, at once, on a few connections.
    let upstream = Http2Upstream::serving(&[(3, 10_000)], |peer, asked| {
        let whole = asked.field(":path") == "/own/again";
        let mut said = answer(asked.stream, "200", &[], whole);
        if whole {
            return peer.send(said);
        }
        for _ in 0..3 {
            said.extend(data(asked.stream, [b'x'; 16 << 10], false));
        }
        peer.send(said);
    });
    let group = ControlGroup::of(MEMORY);
    let config = config(upstream.address(), "connectionsPerAddress: 0");
    let caps = "protocol: http2, limits: { connections: 1000, requests: 50000, pending: 50000 }";
    let config = config.replace("\"] }", &format!("\"], {caps} }}"));
    let proxy = Selvedge::start_after(&group.enter(), "gateway", &config);
    proxy.wait_for_metric("selvedge_memory_ceiling_bytes", &[], MEMORY as f64);
    let mut hoarders = Vec::new();
    let begun = Instant::now();
    while proxy.metric("selvedge_memory_pressure", &[]) < 2.0 {
        hoarders.extend(hoard(proxy.address("web")));
        assert!(begun.elapsed() < PATIENCE, "there is always more memory");
    }
    println!("{} connections of 100 streams", hoarders.len());
    for _ in 0..20 {
        hoarders.extend(hoard(proxy.address("web")));
    }
    drop(hoarders);
    assert_eq!(group.killed(), 0);
    proxy.wait_for_metric("selvedge_memory_pressure", &[], 0.0);
    println!("at most {:?} of {MEMORY} bytes used", group.peak());
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(client.get("/own/again").status, 200);
    assert_eq!(group.killed(), 0);
    held("LI-05", Role::Gateway, 1);
}

#[test]
fn li_03_at_the_last_descriptor_nothing_spins_and_who_is_served_stays_served() {
    let upstream = Upstream::replying(APP);
    let config = config(upstream.address(), "");
    let proxy = Selvedge::start_after("ulimit -n 128", "gateway", &config);
    let mut served: Vec<Raw> = Vec::new();
    let mut turned_away = 0;
    for _ in 0..200 {
        let mut client = Raw::connect(proxy.address("web"));
        client.send("GET /own/1 HTTP/1.1\r\nHost: a\r\n\r\n");
        match client.try_reply_to("GET") {
            Ok(reply) if reply.status == 200 => served.push(client),
            Ok(reply) => {
                // There was one for the client and none for the endpoint.
                assert_eq!(reply.status, 503);
                turned_away += 1;
            }
            Err(_) => turned_away += 1,
        }
    }
    assert!(
        served.len() > 20 && turned_away > 50,
        "{} served",
        served.len()
    );
    // Nothing is asked of it for a while: it must not ask itself.
    let (before, begun) = (proxy.cpu(), Instant::now());
    let mut waiting: Vec<_> = (0..30)
        .filter_map(|_| std::net::TcpStream::connect(proxy.address("web")).ok())
        .collect();
    while begun.elapsed() < Duration::from_secs(1) {
        std::thread::park_timeout(Duration::from_secs(1).saturating_sub(begun.elapsed()));
    }
    let spent = proxy.cpu() - before;
    assert!(spent < Duration::from_millis(250), "{spent:?} of a second");
    for client in &mut waiting {
        let _ = client.write_all(b"GET");
    }
    drop(waiting);
    for client in &mut served {
        assert_eq!(client.get("/own/2").status, 200);
    }
    for path in ["/config", "/endpoints"] {
        assert_eq!(proxy.get("admin", path).0, 200);
    }
    let refused = proxy.metric("selvedge_connections_refused_total", &[]);
    assert!(refused > 0.0, "{refused}");
    let blamed = proxy.metric("selvedge_service_ejections_total", &[]);
    assert!(blamed < 0.5, "{blamed} ejections");
    drop(served);
    let begun = Instant::now();
    loop {
        let mut client = Raw::connect(proxy.address("web"));
        client.send("GET /own/3 HTTP/1.1\r\nHost: a\r\n\r\n");
        if client
            .try_reply_to("GET")
            .is_ok_and(|reply| reply.status == 200)
        {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "never well again");
    }
    held("LI-03", Role::Gateway, 1);
}

#[test]
fn li_03_over_a_cap_a_connection_is_closed_and_others_are_served() {
    for (limits, ends) in [
        ("connections: 16", true),
        ("connectionsPerAddress: 16", true),
        ("connections: 16, connectionsPerAddress: 17", true),
        ("connections: 17, connectionsPerAddress: 0", false),
    ] {
        both_under(limits, |stage| {
            let mut served: Vec<Raw> = (0..16).map(|_| stage.client()).collect();
            for client in &mut served {
                assert_eq!(client.get("/own/1").status, 200, "{limits}");
            }
            let mut last = stage.client();
            last.send("GET /own/2 HTTP/1.1\r\nHost: a\r\n\r\n");
            let answered = last.try_reply_to("GET").is_ok_and(|r| r.status == 200);
            assert_eq!(answered, !ends, "{limits} as {:?}", stage.role);
            for client in &mut served {
                assert_eq!(client.get("/own/3").status, 200, "{limits}");
            }
            let refused = stage
                .proxy
                .metric("selvedge_connections_refused_total", &[]);
            assert!(
                refused.total_cmp(&f64::from(u8::from(ends))).is_eq(),
                "{refused}"
            );
            drop(served);
            stage.held("LI-03");
        });
    }
}

fn both_under(limits: &str, run: impl Fn(&Stage)) {
    for role in ROLES {
        run(&Stage::start(role, limits));
    }
}

#[test]
fn a_bound_of_nothing_is_no_bound() {
    let upstream = Upstream::replying(APP);
    let proxy = gateway(&config(upstream.address(), "memory: 0"));
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!([0, 1].map(|_| client.get("/own/1").status), [200, 200]);
    let said = proxy.get("health", "/metrics").1;
    assert!(!said.contains("memory_ceiling_bytes"), "{said}");
}
