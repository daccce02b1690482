//! Limits that several gateways share, in a real Redis Cluster: spread, moved while they are counted,
//! and without one of its servers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use selvedge_tests::process::{binary, gateway};
use selvedge_tests::{PATIENCE, Raw, RedisCluster, Selvedge, Upstream};

fn ok() -> Upstream {
    Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

/// A gateway with one limit by the header `x-who`, counted in a cluster.
fn counting(upstream: &Upstream, store: &str, limit: &str) -> Selvedge {
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
redis: {{ counts: {{ timeout: 2s, wait: 1s, {store} }} }}
policies: {{ few: {{ rateLimit: {{ key: header.x-who, redis: counts, {limit} }} }} }}
routes: [{{ rules: [{{ policies: [few], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    proxy.wait_for_log("connected to the store");
    proxy
}

fn at(address: SocketAddr) -> String {
    format!("cluster: true, address: \"redis://{address}\"")
}

/// Waits until nothing is counted without the store, whichever server keeps it.
fn until_whole(proxy: &Selvedge) {
    let begun = Instant::now();
    let mut turn = 0;
    loop {
        // A connection carries 10,000 requests.
        let mut client = Raw::connect(proxy.address("web"));
        let before = uncounted(proxy);
        let statuses = (0..60).map(|who| ask(&mut client, &format!("warm-{turn}-{who}")));
        let fine = statuses.filter(|status| *status == 200).count() == 60;
        if fine && uncounted(proxy).total_cmp(&before).is_eq() {
            return;
        }
        turn += 1;
        assert!(begun.elapsed() < PATIENCE, "not all are counted together");
    }
}

fn uncounted(proxy: &Selvedge) -> f64 {
    proxy.metric("selvedge_rate_limit_total", &["uncounted"])
}

fn ask(client: &mut Raw, who: &str) -> u16 {
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Who: {who}\r\n\r\n"));
    client.reply().status
}

#[test]
fn gateways_count_together_wherever_a_key_is_kept() {
    let (upstream, cluster) = (ok(), RedisCluster::start(3, 0, Some("open sesame")));
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "open sesame\n").unwrap();
    // The first address is nobody's; another one names them all, and all get the password.
    let store = format!(
        "cluster: true, address: \"redis://127.0.0.1:1\", nodes: [\"redis://{}\"], passwordFile: {}",
        cluster.nodes[1].address(),
        secret.display()
    );
    let proxies = [0, 1].map(|_| counting(&upstream, &store, "rate: 2/hour, onLoss: refuse"));
    for proxy in &proxies {
        until_whole(proxy);
    }
    let mut clients = [0, 1].map(|at: usize| Raw::connect(proxies[at].address("web")));
    for who in 0..60 {
        if who == 30 {
            // A server that has lost its scripts gets them again.
            for node in &cluster.nodes {
                assert_eq!(node.ask(&["SCRIPT", "FLUSH"]), ["OK"]);
            }
        }
        let who = format!("caller-{who}");
        let statuses = [0, 1, 0].map(|at: usize| ask(&mut clients[at], &who));
        assert_eq!(statuses, [200, 200, 429], "{who}");
    }
    for node in &cluster.nodes {
        let keys = node.ask(&["KEYS", "selvedge:*"]).len();
        assert!(keys > 20, "{keys} of some 180 keys");
    }
    for proxy in &proxies {
        let lost = proxy.log().join("\n");
        assert!(!lost.contains("no map"), "{lost}");
    }
}

#[test]
fn a_slot_moves_under_load_and_nothing_is_lost() {
    let (upstream, cluster) = (ok(), RedisCluster::start(3, 0, None));
    let store = at(cluster.nodes[0].address());
    let proxy = counting(&upstream, &store, "rate: 6/hour, onLoss: refuse");
    until_whole(&proxy);
    for node in &cluster.nodes {
        let _ = node.ask(&["FLUSHALL"]);
    }
    let mut client = Raw::connect(proxy.address("web"));
    let mut statuses = vec![ask(&mut client, "one")];
    let (from, key) = cluster.keeper("few").unwrap();
    let (slot, to) = (cluster.slot(&key), (from + 1) % 3);

    let (web, before) = (proxy.address("web"), uncounted(&proxy));
    // Others are asked for all the time, on all servers.
    let (stop, refused, asked) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Raw::connect(web);
            for who in 0..9000 {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let status = ask(&mut client, &format!("load-{who}"));
                refused.fetch_add(u32::from(status != 200), Ordering::Relaxed);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        let begun = Instant::now();
        while asked.load(Ordering::Relaxed) == 0 {
            assert!(begun.elapsed() < PATIENCE, "nobody else is served");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        cluster.begin_move(&slot, from, to);
        // The key is still where it was.
        statuses.push(ask(&mut client, "one"));
        cluster.move_key(&key, from, to);
        // ASK, as often as it is asked for.
        statuses.extend([0, 1].map(|_| ask(&mut client, "one")));
        cluster.end_move(&slot, from, to);
        // MOVED, and from then on at once.
        statuses.extend([0, 1, 2].map(|_| ask(&mut client, "one")));
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429]);
    assert_eq!(refused.load(Ordering::Relaxed), 0);
    assert!(uncounted(&proxy).total_cmp(&before).is_eq());
    assert_eq!(cluster.keeper(&key).map(|(at, _)| at), Some(to));
}

#[test]
fn a_server_without_slots_is_found_by_a_redirect() {
    let (upstream, cluster) = (ok(), RedisCluster::start(2, 1, None));
    let store = at(cluster.nodes[0].address());
    let proxy = counting(&upstream, &store, "rate: 100000/month, onLoss: refuse");
    until_whole(&proxy);
    for node in &cluster.nodes {
        let _ = node.ask(&["FLUSHALL"]);
    }
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(ask(&mut client, "one"), 200);
    let (from, key) = cluster.keeper("few").unwrap();
    let slot = cluster.slot(&key);
    cluster.begin_move(&slot, from, 2);
    cluster.move_key(&key, from, 2);
    let begun = Instant::now();
    while ask(&mut Raw::connect(proxy.address("web")), "one") != 200 {
        assert!(begun.elapsed() < PATIENCE, "a new server stays unknown");
    }
    cluster.end_move(&slot, from, 2);
    assert_eq!(ask(&mut client, "one"), 200);
}

#[test]
fn without_one_server_its_keys_fail_as_wanted_and_others_do_not() {
    let (upstream, mut cluster) = (ok(), RedisCluster::start(3, 0, None));
    let store = at(cluster.nodes[0].address());
    let closed = counting(&upstream, &store, "rate: 100000/month, onLoss: refuse");
    let open = counting(&upstream, &store, "rate: 100000/month");
    until_whole(&closed);
    until_whole(&open);
    for node in &cluster.nodes {
        let _ = node.ask(&["FLUSHALL"]);
    }
    let all = |at: usize| -> Vec<u16> {
        let mut client = Raw::connect([&closed, &open][at].address("web"));
        let asked = (0..60).map(|who| ask(&mut client, &format!("who-{who}")));
        asked.collect()
    };
    assert_eq!(all(0), [200; 60]);
    let kept = cluster.nodes[2].ask(&["KEYS", "*"]).len();
    assert!((5..=40).contains(&kept), "{kept}");
    let counted = uncounted(&open);
    cluster.nodes[2].kill();
    let begun = Instant::now();
    loop {
        let refused = all(0).iter().filter(|status| **status == 503).count();
        assert!(refused <= kept, "{refused} refused, {kept} kept there");
        if refused == kept {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{refused} of {kept}");
    }
    // Also once the others have noticed it, nobody else is touched, and nobody waits.
    for _ in 0..3 {
        let begun = Instant::now();
        let refused = all(0).iter().filter(|status| **status == 503).count();
        assert_eq!(refused, kept);
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!(all(1), [200; 60]);
    }
    let alone = uncounted(&open) - counted;
    assert!(alone >= 3.0 * kept as f64, "{alone} of {kept}");
    // It comes back, and counts again.
    cluster.nodes[2].restart();
    let begun = Instant::now();
    while all(0) != [200; 60] {
        assert!(begun.elapsed() < PATIENCE, "not well again");
    }
}

#[test]
fn a_replica_that_takes_over_is_found() {
    let (upstream, mut cluster) = (ok(), RedisCluster::start(3, 1, None));
    cluster.replicate(3, 2);
    let store = at(cluster.nodes[0].address());
    let proxy = counting(&upstream, &store, "rate: 100000/month, onLoss: refuse");
    until_whole(&proxy);
    cluster.nodes[2].kill();
    let begun = Instant::now();
    let all = || {
        let mut client = Raw::connect(proxy.address("web"));
        let asked = (0..60).map(|who| ask(&mut client, &format!("who-{who}")));
        asked.filter(|status| *status == 200).count()
    };
    while all() != 60 {
        assert!(begun.elapsed() < PATIENCE, "nobody takes over");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert!(!cluster.nodes[3].ask(&["KEYS", "selvedge:*"]).is_empty());
}

#[test]
fn a_hung_server_is_waited_for_no_longer_than_any_store() {
    let (upstream, cluster) = (ok(), RedisCluster::start(3, 0, None));
    let store = format!(
        "cluster: true, address: \"redis://{}\"",
        cluster.nodes[0].address()
    );
    let limit = "rate: 100000/month";
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
redis: {{ counts: {{ {store} }} }}
policies: {{ few: {{ rateLimit: {{ key: header.x-who, redis: counts, {limit} }} }} }}
routes: [{{ rules: [{{ policies: [few], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    until_whole(&proxy);
    cluster.nodes[1].signal("STOP");
    let begun = Instant::now();
    let mut client = Raw::connect(proxy.address("web"));
    for who in 0..200 {
        assert_eq!(ask(&mut client, &format!("hung-{who}")), 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
    cluster.nodes[1].signal("CONT");
}

#[test]
fn a_cluster_that_is_not_called_one_is_named() {
    let (upstream, cluster) = (ok(), RedisCluster::start(2, 0, None));
    let store = format!("address: \"redis://{}\"", cluster.nodes[0].address());
    let proxy = counting(&upstream, &store, "rate: 100/hour");
    let mut client = Raw::connect(proxy.address("web"));
    for who in 0..20 {
        assert_eq!(ask(&mut client, &format!("who-{who}")), 200);
    }
    proxy.wait_for_log("set `cluster: true`");
}

#[test]
fn check_names_what_a_cluster_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.yaml");
    for (store, why) in [
        (
            "address: \"redis://a:1\", nodes: [\"redis://b:1\"]",
            "only a cluster has more servers",
        ),
        (
            "cluster: true, address: \"redis://a:1/3\"",
            "a cluster has only database 0",
        ),
        (
            "cluster: true, address: \"redis://a:1\", nodes: [\"rediss://b:1\"]",
            "a cluster has TLS or it has not",
        ),
        (
            "cluster: true, address: \"redis://a:1\", nodes: [\"b:1\"]",
            "redis.counts.nodes[0]",
        ),
    ] {
        let text =
            format!("listeners: [{{ name: a, port: 1 }}]\nredis: {{ counts: {{ {store} }} }}\n");
        std::fs::write(&file, text).unwrap();
        let output = std::process::Command::new(binary())
            .arg("check")
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains(why), "{said}");
    }
}
