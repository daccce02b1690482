//! How endpoints are chosen, as a user configures it and a client sees it.

use std::collections::HashMap;
use std::sync::Mutex;

use selvedge_tests::process::binary;
use selvedge_tests::{Raw, Selvedge, Upstream, gateway};

fn upstreams(count: usize) -> Vec<Upstream> {
    let names = ["a", "b", "c", "d", "e"];
    names
        .into_iter()
        .take(count)
        .map(Upstream::answering)
        .collect()
}

/// A gateway before those upstreams; `more` stands at the service.
fn before(upstreams: &[Upstream], more: &str) -> Selvedge {
    let list: Vec<_> = upstreams
        .iter()
        .map(|u| format!("\"{}\"", u.address()))
        .collect();
    at(&list.join(", "), more)
}

fn at(endpoints: &str, more: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [{endpoints}], {more} }} }}"
    ))
}

fn ask(client: &mut Raw, target: &str, field: &str) -> String {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
    client.reply().text()
}

fn counts(proxy: &Selvedge, count: usize) -> HashMap<String, u32> {
    let mut client = Raw::connect(proxy.address("web"));
    let mut seen = HashMap::new();
    for _ in 0..count {
        *seen.entry(ask(&mut client, "/", "")).or_default() += 1;
    }
    seen
}

#[test]
fn every_word_is_a_balancer_and_the_admin_names_it() {
    let upstreams = upstreams(2);
    for word in [
        "leastRequest",
        "roundRobin",
        "leastConnections",
        "responseTime",
        "random",
        "leastBandwidth",
        "reportedLoad",
        "ringHash",
        "maglev",
    ] {
        let proxy = before(&upstreams, &format!("balance: {word}"));
        let seen = counts(&proxy, 100);
        let by_source = matches!(word, "ringHash" | "maglev");
        assert_eq!(
            seen.len(),
            if by_source { 1 } else { 2 },
            "{word}: {seen:?}"
        );
        let (_, shown) = proxy.get("admin", "/endpoints");
        assert!(
            shown.contains(&format!("\"balance\": \"{word}\"")),
            "{shown}"
        );
        assert!(shown.contains("\"state\": \"available\""), "{shown}");
        assert_eq!(shown.contains("ewmaMs"), word == "responseTime", "{shown}");
    }
}

#[test]
fn a_key_of_the_request_decides() {
    let upstreams = upstreams(5);
    for (balance, ask_by) in [
        ("{ ringHash: { by: { header: X-User } } }", "header"),
        (
            "{ maglev: { by: { header: x-user }, boundedLoad: 0 } }",
            "header",
        ),
        ("{ ringHash: { by: { cookie: user } } }", "cookie"),
        ("{ maglev: { by: { query: user } } }", "query"),
    ] {
        let proxy = before(&upstreams, &format!("balance: {balance}"));
        let mut client = Raw::connect(proxy.address("web"));
        let mut request = |user: u32| match ask_by {
            "header" => ask(&mut client, "/", &format!("X-User: {user}\r\n")),
            "cookie" => ask(&mut client, "/", &format!("Cookie: a=b; user={user}\r\n")),
            _ => ask(&mut client, &format!("/?a=b&user={user}"), ""),
        };
        let places: Vec<String> = (0..60).map(&mut request).collect();
        let again: Vec<String> = (0..60).map(&mut request).collect();
        assert_eq!(places, again, "{balance}");
        let used: std::collections::BTreeSet<_> = places.iter().collect();
        assert_eq!(used.len(), 5, "{balance}");
        assert_eq!(
            counts(&proxy, 200).len(),
            5,
            "without a key anywhere: {balance}"
        );
    }
}

#[test]
fn a_cookie_brings_a_client_back_and_a_lost_endpoint_gives_a_new_one() {
    static GONE: Mutex<&str> = Mutex::new("");
    let mortal = |name: &'static str| {
        Upstream::scripted(move |connection| {
            while connection.request().is_some() && *GONE.lock().unwrap() != name {
                connection.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}"
                ));
            }
        })
    };
    let upstreams = ["a", "b", "c"].map(mortal);
    let proxy = before(&upstreams, "sticky: { cookie: { name: place, ttl: 1h } }");
    let mut client = Raw::connect(proxy.address("web"));
    let first = client.get("/");
    let set = first.header("set-cookie").expect("a cookie").to_owned();
    assert!(
        set.ends_with("; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"),
        "{set}"
    );
    let cookie = set.split(';').next().unwrap();
    assert!(
        cookie.starts_with("place=") && !cookie.contains("127.0.0.1"),
        "{cookie}"
    );
    let place = first.text();
    let field = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
    for _ in 0..30 {
        client.send(&field);
        let reply = client.reply();
        assert_eq!(reply.header("set-cookie"), None, "it has it");
        assert_eq!(reply.text(), place);
    }
    // A cookie that somebody made up is as none.
    client.send("GET / HTTP/1.1\r\nHost: a\r\nCookie: place=AAAAAAAAAAA\r\n\r\n");
    assert!(client.reply().header("set-cookie").is_some());
    *GONE.lock().unwrap() = ["a", "b", "c"].into_iter().find(|n| *n == place).unwrap();
    client.send(&field);
    let reply = client.reply();
    assert_eq!(reply.status, 200);
    let anew = reply.header("set-cookie").expect("another").to_owned();
    assert_ne!(anew.split(';').next().unwrap(), cookie);
    assert_ne!(reply.text(), place);
}

#[test]
fn proxies_that_share_a_secret_know_each_other_s_sessions() {
    let upstreams = upstreams(4);
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "a secret that both have").unwrap();
    let more = format!(
        "sticky: {{ cookie: {{ secretFile: {} }} }}",
        secret.display()
    );
    let (one, two) = (before(&upstreams, &more), before(&upstreams, &more));
    let mut client = Raw::connect(one.address("web"));
    let first = client.get("/");
    let set = first.header("set-cookie").unwrap().to_owned();
    let cookie = set.split(';').next().unwrap();
    assert!(cookie.starts_with("SERVERID="), "{cookie}");
    let mut other = Raw::connect(two.address("web"));
    for _ in 0..20 {
        other.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"
        ));
        let reply = other.reply();
        assert_eq!(reply.header("set-cookie"), None);
        assert_eq!(reply.text(), first.text());
    }
}

#[test]
fn a_source_stays() {
    let upstreams = upstreams(5);
    let proxy = before(&upstreams, "sticky: source, balance: random");
    assert_eq!(counts(&proxy, 50).len(), 1);
}

#[test]
fn behind_trusted_proxies_the_source_is_who_they_saw() {
    let upstreams = upstreams(3);
    let list: Vec<_> = upstreams
        .iter()
        .map(|u| format!("\"{}\"", u.address()))
        .collect();
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, trustedHops: 1 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [{}], balance: {{ ringHash: {{ by: source, boundedLoad: 0 }} }} }} }}",
        list.join(", ")
    ));
    let mut client = Raw::connect(proxy.address("web"));
    let mut seen: HashMap<String, u32> = HashMap::new();
    for nth in 0..40 {
        let user = format!("X-Forwarded-For: 6.6.6.6, 10.0.0.{nth}\r\n");
        let first = ask(&mut client, "/", &user);
        // What stands further left is the client's own invention.
        let again = format!("X-Forwarded-For: 7.7.7.7, 10.0.0.{nth}\r\n");
        assert_eq!(ask(&mut client, "/", &again), first);
        *seen.entry(first).or_default() += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

#[test]
fn an_endpoint_that_reports_load_gets_less() {
    let reporting = |name: &'static str, load: &'static str| {
        Upstream::scripted(move |connection| {
            while connection.request().is_some() {
                connection.send(format!("HTTP/1.1 200 OK\r\nEndpoint-Load-Metrics: TEXT cpu_utilization={load}\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
            }
        })
    };
    let upstreams = [reporting("busy", "0.9"), reporting("idle", "0.1")];
    let proxy = before(&upstreams, "balance: reportedLoad");
    let seen = counts(&proxy, 200);
    // Until both have reported, either gets requests.
    assert!(seen["idle"] >= 180, "{seen:?}");
    let (_, shown) = proxy.get("admin", "/endpoints");
    assert!(shown.contains("\"reportedLoad\": 0.9"), "{shown}");
}

#[test]
fn zones_and_levels_are_those_of_the_endpoints() {
    let upstreams = upstreams(3);
    let list =
        |n: usize, more: &str| format!("{{ address: \"{}\", {more} }}", upstreams[n].address());
    let endpoints = format!(
        "{}, {}, {}",
        list(0, "zone: east"),
        list(1, "zone: west"),
        list(2, "zone: west, priority: 1")
    );
    let proxy = at(&endpoints, "zone: west");
    assert_eq!(counts(&proxy, 50), HashMap::from([("b".to_owned(), 50)]));
    let (_, shown) = proxy.get("admin", "/endpoints");
    assert!(
        shown.contains("\"zone\": \"west\"") && shown.contains("\"priority\": 1"),
        "{shown}"
    );
}

#[test]
fn every_mistake_is_named_with_its_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.yaml");
    let service =
        |name: &str, more: &str| format!("  {name}: {{ endpoints: [127.0.0.1:1], {more} }}\n");
    let text = [
        service(
            "a",
            "balance: { ringHash: { by: { header: X, cookie: user } } }",
        ),
        service("b", "balance: { ringHash: {}, maglev: {} }"),
        service("c", "balance: { maglev: { boundedLoad: 0.5 } }"),
        service(
            "d",
            "sticky: { cookie: { name: __Host-x, ttl: 1ms, secretFile: /nowhere } }",
        ),
        service("e", "panicThreshold: 101, subset: 0, zone: west"),
    ];
    std::fs::write(&file, format!("services:\n{}", text.concat())).unwrap();
    let check = || {
        let output = std::process::Command::new(binary())
            .arg("check")
            .arg(&file)
            .output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    };
    let said = check();
    for key in [
        "services.a.balance.ringHash.by",
        "services.b.balance",
        "services.c.balance.maglev.boundedLoad",
        "services.d.sticky.cookie.name",
        "services.d.sticky.cookie.ttl",
        "services.d.sticky.cookie.secretFile",
        "services.e.panicThreshold",
        "services.e.subset",
        "services.e.zone",
    ] {
        assert!(said.contains(&format!("key: {key}\n")), "{key}: {said}");
    }
    let wrong =
        "services: { a: { endpoints: [127.0.0.1:1], balance: leastRequests, sticky: sorce } }";
    std::fs::write(&file, wrong).unwrap();
    let said = check();
    assert!(
        said.contains("leastRequest`") && said.contains("source`"),
        "{said}"
    );
}
