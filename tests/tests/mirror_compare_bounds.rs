//! Answers of mirrors are compared behind the client's back: it waits for nothing, nobody's secrets are told, what
//! fails has an outcome of its own, and all of it is bounded.

use std::process::Command;
use std::time::Instant;

use selvedge_tests::bell::Bell;
use selvedge_tests::http2::{self, Http2, Outcome, frame};
use selvedge_tests::http2_upstream::answer;
use selvedge_tests::process::binary;
use selvedge_tests::{Http2Upstream, PATIENCE, Raw, Selvedge, Upstream, gateway};
use serde_json::Value;

const COMPARED: &str = "selvedge_mirror_comparisons_total";

fn config(app: impl ToString, copy: impl ToString, compare: &str, more: &str) -> String {
    format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ filters: [{{ type: RequestMirror, requestMirror: {{ backendRef: {{ service: copy }}, compare: {compare} }} }}], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"]{more} }}, copy: {{ endpoints: [\"{}\"]{more} }} }}",
        app.to_string(),
        copy.to_string()
    )
}

fn wait(proxy: &Selvedge, outcome: &str, count: f64) {
    let label = format!("outcome=\"{outcome}\"");
    proxy.wait_for_metric(COMPARED, &["mirror-0", &label], count);
}

/// Answers with the beginning of a body of ten bytes, and waits for the bell before it sends the rest.
fn hesitating(go: &Bell) -> Upstream {
    let go = go.clone();
    Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
            go.wait();
            connection.send("-last");
        }
    })
}

/// Breaks off within a body.
fn breaking() -> Upstream {
    Upstream::scripted(|connection| {
        if connection.request().is_some() {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
        }
    })
}

#[test]
fn the_client_waits_for_nothing_and_gets_every_byte() {
    let go = Bell::default();
    let (app, held) = (hesitating(&go), Bell::default());
    let wait_for = held.clone();
    let copy = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            wait_for.wait();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst-last");
        }
    });
    let proxy = gateway(&config(app.address(), copy.address(), "{}", ""));
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // What has come is passed on at once, and the mirror does not answer before the client has all of it.
    client.until("\r\n\r\nfirst");
    go.ring();
    client.until("-last");
    held.ring();
    wait(&proxy, "same", 1.0);
    // More than is compared passes whole, too.
    let body = "0123456789".repeat(100_000);
    let long = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (app, copy) = (Upstream::replying(long.clone()), Upstream::replying(long));
    let proxy = gateway(&config(
        app.address(),
        copy.address(),
        "{ maxBody: 2KiB }",
        "",
    ));
    let mut client = Raw::connect(proxy.address("web"));
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), body);
    }
    wait(&proxy, "not_compared", 3.0);
}

#[test]
fn what_does_not_come_whole_has_outcomes_of_its_own() {
    let whole = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst-last");
    // The mirror is not there, or breaks off.
    let nobody = selvedge_tests::l4::nobody();
    let proxy = gateway(&config(whole.address(), nobody.1, "{}", ""));
    assert_eq!(Raw::connect(proxy.address("web")).get("/").status, 200);
    wait(&proxy, "mirror_failed", 1.0);
    let broken = breaking();
    let proxy = gateway(&config(whole.address(), broken.address(), "{}", ""));
    assert_eq!(Raw::connect(proxy.address("web")).get("/").status, 200);
    wait(&proxy, "mirror_failed", 1.0);
    // The client's service breaks off, or is not there.
    let proxy = gateway(&config(broken.address(), whole.address(), "{}", ""));
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.rest();
    wait(&proxy, "primary_incomplete", 1.0);
    let proxy = gateway(&config(nobody.1, whole.address(), "{}", ""));
    assert_eq!(Raw::connect(proxy.address("web")).get("/").status, 503);
    wait(&proxy, "primary_incomplete", 1.0);
    // The client leaves.
    let go = Bell::default();
    let app = hesitating(&go);
    let proxy = gateway(&config(app.address(), whole.address(), "{}", ""));
    let mut client = Raw::connect(proxy.address("web"));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.until("first");
    drop(client);
    wait(&proxy, "primary_incomplete", 1.0);
    go.ring();
}

#[test]
fn values_are_told_nowhere() {
    let answer = |secret: &str| {
        let body = format!("{{\"token\":\"{secret}-body\",\"{}\":1}}", "n".repeat(500));
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\nX-Token: {secret}-head\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let app = Upstream::replying(answer("hush1"));
    let copy = Upstream::replying(answer("hush2").replace("nnn", "mmm"));
    let proxy = gateway(&config(app.address(), copy.address(), "{}", ""));
    let begun = Instant::now();
    let mut client = Raw::connect(proxy.address("web"));
    for _ in 0..50 {
        assert_eq!(client.get("/a?key=hush3").status, 200);
    }
    wait(&proxy, "headers", 50.0);
    proxy.wait_for_log("a mirror has answered otherwise");
    let seconds = begun.elapsed().as_secs();
    let (_, page) = proxy.get("admin", "/mirrors");
    let (_, metrics) = proxy.get("health", "/metrics");
    let log = proxy.log().join("\n");
    for said in [&page, &metrics, &log] {
        assert!(!said.contains("hush"), "{said}");
    }
    let lines = log.matches("a mirror has answered otherwise").count() as u64;
    assert!((1..=seconds + 1).contains(&lines), "{lines} in {seconds} s");
    assert!(log.contains("x-token") && log.contains("token"), "{log}");
    // Names are bounded, also those that a body invents.
    let page: Value = serde_json::from_str(&page).unwrap();
    let mirror = page.as_object().unwrap().values().next().unwrap();
    let last = mirror["differences"].as_array().unwrap();
    assert_eq!(last.len(), 16);
    for name in last[0]["body"].as_array().unwrap() {
        assert!(name.as_str().unwrap().len() <= 129, "{name}");
    }
}

#[test]
fn comparisons_at_a_time_are_bounded() {
    let go = Bell::default();
    let app = hesitating(&go);
    let copy = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst-last");
    let proxy = gateway(&config(
        app.address(),
        copy.address(),
        "{ maxBody: 1MiB }",
        "",
    ));
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = Raw::connect(proxy.address("web"));
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        client.until("first");
        clients.push(client);
    }
    // Eight MiB hold four pairs; copies go all the same.
    wait(&proxy, "skipped", 2.0);
    proxy.wait_for_metric("selvedge_requests_total", &["mirror-0", "2xx"], 6.0);
    assert!(proxy.metric("selvedge_mirrors_lost_total", &[]) < 0.5);
    (0..6).for_each(|_| go.ring());
    for client in &mut clients {
        client.until("-last");
    }
    wait(&proxy, "same", 4.0);
}

#[test]
fn trailers_of_grpc_are_compared_over_http2() {
    let serving = |status: &'static str| {
        Http2Upstream::serving(&[], move |peer, asked| {
            let kind = [("content-type", "application/grpc")];
            peer.send(answer(asked.stream, "200", &kind, false));
            peer.send(frame(http2::DATA, 0, asked.stream, b"\0\0\0\0\0"));
            let trailers = http2::block(&[("grpc-status", status)]);
            peer.send(http2::headers(asked.stream, &trailers, true));
        })
    };
    let (app, fine, bad) = (serving("0"), serving("0"), serving("13"));
    for (copy, outcome) in [(&fine, "same"), (&bad, "headers")] {
        let more = ", protocol: http2";
        let proxy = gateway(&config(app.address(), copy.address(), "{}", more));
        let mut client = Http2::connect(proxy.address("web"), &[]);
        let kind = [("content-type", "application/grpc"), ("te", "trailers")];
        let head = http2::request("POST", "/shop.Orders/List", &kind);
        client.send(http2::headers(1, &head, true));
        assert_eq!(client.outcome(1), Outcome::Answer(200, vec![0; 5]));
        wait(&proxy, outcome, 1.0);
        let (_, page) = proxy.get("admin", "/mirrors");
        assert_eq!(page.contains("grpc-status"), outcome == "headers", "{page}");
    }
}

#[test]
fn counts_go_on_through_a_reload() {
    let app = Upstream::answering("a");
    let copy = Upstream::answering("b");
    let proxy = gateway(&config(app.address(), copy.address(), "{}", ""));
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(client.get("/").status, 200);
    wait(&proxy, "body", 1.0);
    let file = proxy.dir().join("config.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("compare: {}", "compare: { body: false }"),
    )
    .unwrap();
    proxy.wait_for_metric("selvedge_config_generation", &[], 2.0);
    let deadline = Instant::now() + PATIENCE;
    while proxy.metric(COMPARED, &["\"same\""]) < 1.0 {
        assert!(Instant::now() < deadline, "never the same");
        assert_eq!(client.get("/").status, 200);
    }
    assert!(proxy.metric(COMPARED, &["outcome=\"body\""]) > 0.5);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    let check = |compare: &str| {
        std::fs::write(&file, config("10.0.0.1:80", "10.0.0.2:80", compare, "")).unwrap();
        let output = Command::new(binary()).arg("check").arg(&file).output();
        let output = output.unwrap();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    };
    let said = check("{ ignoreHeaders: [\"a b\"], ignoreMembers: [a..b, items.*], maxBody: 2MiB }");
    for wanted in [
        "ignoreHeaders[0]",
        "`a b` is not a header name",
        "ignoreMembers[0]",
        "ignoreMembers[1]",
        "`items.*` names no member",
        "maxBody",
        "expected 1 to 1MiB",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let said = check("{ body: false, ignoreMembers: [a] }");
    assert!(said.contains("bodies are not compared"), "{said}");
    let said = check("{ ignoreHeader: [a] }");
    assert!(said.contains("ignoreHeaders"), "{said}");
}
