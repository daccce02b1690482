//! Failures on purpose: who waits, who is refused, and what is told of it.

use std::time::{Duration, Instant};

use selvedge_tests::checked::check;
use selvedge_tests::{Raw, Selvedge, Upstream, gateway};

fn with(fault: &str, app: &Upstream) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes:
- rules:
  - {{ matches: [{{ path: /checkout, headers: [{{ name: X-Test, value: chaos }}] }}], policies: [chaos], backendRefs: [{{ service: app }}] }}
  - {{ backendRefs: [{{ service: app }}] }}
policies: {{ chaos: {{ fault: {{ {fault} }} }} }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        app.address()
    ))
}

fn ask(proxy: &Selvedge, more: &str) -> selvedge_tests::raw::Reply {
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!("GET /checkout HTTP/1.1\r\nHost: a\r\n{more}\r\n"));
    client.reply()
}

const CHAOS: &str = "X-Test: chaos\r\n";

#[test]
fn what_is_matched_waits_and_is_refused_and_nothing_else() {
    let app = Upstream::answering("ok");
    let fault = "delay: { duration: 300ms }, abort: { status: 599 }";
    let proxy = with(fault, &app);
    let begun = Instant::now();
    assert_eq!(ask(&proxy, "").status, 200);
    assert!(begun.elapsed() < Duration::from_millis(300));
    let seen = app.all().len();
    let begun = Instant::now();
    let reply = ask(&proxy, CHAOS);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(
        (reply.status, reply.text().as_str()),
        (599, "a failure on purpose\n")
    );
    let told = reply.header("proxy-status").unwrap();
    assert!(told.contains("policy chaos"), "{told}");
    assert_eq!(app.all().len(), seen, "nothing of it was sent");
    // A caller of gRPC gets what it understands.
    let reply = ask(
        &proxy,
        &format!("{CHAOS}Content-Type: application/grpc\r\n"),
    );
    assert_eq!(
        (reply.status, reply.header("grpc-status")),
        (200, Some("14"))
    );
}

#[test]
fn only_a_share_is_failed() {
    let app = Upstream::answering("ok");
    let proxy = with("abort: { percentage: 25 }", &app);
    let mut client = Raw::connect(proxy.address("web"));
    let mut failed = 0;
    for _ in 0..2000 {
        client.send(format!("GET /checkout HTTP/1.1\r\nHost: a\r\n{CHAOS}\r\n"));
        match client.reply().status {
            200 => {}
            503 => failed += 1,
            other => panic!("{other}"),
        }
    }
    // Six standard deviations to either side.
    assert!((384..=616).contains(&failed), "{failed}");
}

#[test]
fn a_wait_ends_with_its_client_and_counts_against_the_deadline() {
    let app = Upstream::answering("ok");
    let proxy = with("delay: { duration: 5m }", &app);
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!("GET /checkout HTTP/1.1\r\nHost: a\r\n{CHAOS}\r\n"));
    proxy.wait_for_metric("selvedge_requests_in_flight", &[], 1.0);
    drop(client);
    proxy.wait_for_metric("selvedge_requests_in_flight", &[], 0.0);
    assert!(app.seen().is_empty());
    // What has waited for longer than it had is not sent.
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ policies: [slow], timeouts: {{ request: 100ms }}, backendRefs: [{{ service: app }}] }}] }}]
policies: {{ slow: {{ fault: {{ delay: {{ duration: 200ms }} }} }} }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        app.address()
    ));
    assert_eq!(Raw::connect(proxy.address("web")).get("/").status, 504);
}

#[test]
fn mistakes_are_told_with_their_place() {
    let text = "listeners: [{ name: web, port: 8080 }]
policies:
  none: { fault: {} }
  odd: { fault: { delay: { duration: 6m, percentage: 101 }, abort: { status: 200 } } }
";
    let (well, said) = check("gateway", text);
    assert!(!well);
    for wanted in [
        "nothing would ever fail",
        "longer than a caller waits",
        "101 in a hundred",
        "200 is no failure",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}
