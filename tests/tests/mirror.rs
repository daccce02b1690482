//! Copies of requests: who gets them, whole, and that nobody waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use selvedge_tests::bell::Bell;
use selvedge_tests::checked::check;
use selvedge_tests::{Raw, Selvedge, Upstream, gateway};

fn with(app: &Upstream, copies: &[(&Upstream, f64)]) -> Selvedge {
    let filters = copies.iter().enumerate().map(|(nth, (_, percent))| {
        format!("{{ type: RequestMirror, requestMirror: {{ backendRef: {{ service: copy-{nth} }}, percent: {percent} }} }}")
    });
    let filters: Vec<_> = filters.collect();
    let services = copies
        .iter()
        .enumerate()
        .map(|(nth, (to, _))| format!(", copy-{nth}: {{ endpoints: [\"{}\"] }}", to.address()));
    let services: String = services.collect();
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ filters: [{}], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }}{services} }}",
        filters.join(", "),
        app.address()
    ))
}

fn post(proxy: &Selvedge, body: &[u8]) -> u16 {
    let mut client = Raw::connect(proxy.address("web"));
    let length = body.len();
    client.send(format!(
        "POST /orders?a=b HTTP/1.1\r\nHost: shop\r\nX-User: 7\r\nContent-Length: {length}\r\n\r\n"
    ));
    client.send(body);
    client.reply().status
}

#[test]
fn each_gets_the_request_as_it_was_sent_with_its_body() {
    let (app, first, second) = (
        Upstream::answering("ok"),
        Upstream::answering("ignored"),
        Upstream::replying("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
    );
    let proxy = with(&app, &[(&first, 100.0), (&second, 100.0)]);
    let body = vec![b'x'; 60_000];
    assert_eq!(post(&proxy, &body), 200);
    for copy in [&first, &second] {
        let seen = copy.wait_until(|seen| seen.iter().any(|one| one.bytes.ends_with(&body)));
        let text = seen[0].text();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /orders?a=b HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("shop") && head.contains("X-User: 7"),
            "{head}"
        );
    }
    // Without a body too; and what failed is copied as well.
    let mut client = Raw::connect(proxy.address("web"));
    assert_eq!(client.get("/list").status, 200);
    first.wait_until(|seen| seen.iter().any(|one| one.text().contains("GET /list ")));
    // A longer body is not kept, so there is no copy of it.
    let before = first.all().len();
    assert_eq!(post(&proxy, &vec![b'y'; 70_000]), 200);
    proxy.wait_for_metric("selvedge_mirrors_lost_total", &[], 2.0);
    assert_eq!(first.all().len(), before);
}

#[test]
fn nobody_waits_for_a_copy_and_few_are_under_way() {
    let (go, count) = (Bell::default(), Arc::new(AtomicUsize::new(0)));
    let (wait, counted) = (go.clone(), count.clone());
    let slow = Upstream::scripted(move |connection| {
        while connection.request().is_some() {
            counted.fetch_add(1, Relaxed);
            wait.wait();
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let app = Upstream::answering("ok");
    let proxy = with(&app, &[(&slow, 100.0)]);
    let mut client = Raw::connect(proxy.address("web"));
    for _ in 0..100 {
        assert_eq!(client.get("/").status, 200);
    }
    proxy.wait_for_metric("selvedge_mirrors_lost_total", &[], 36.0);
    (0..65).for_each(|_| go.ring());
    let answered = "selvedge_requests_total";
    proxy.wait_for_metric(answered, &["mirror-0", "2xx"], 64.0);
    assert_eq!(count.load(Relaxed), 64);
    // There is room again.
    assert_eq!(client.get("/").status, 200);
    proxy.wait_for_metric(answered, &["mirror-0", "2xx"], 65.0);
}

#[test]
fn only_a_share_is_copied() {
    let (app, copy) = (Upstream::answering("ok"), Upstream::answering("ok"));
    let proxy = with(&app, &[(&copy, 10.0)]);
    let mut client = Raw::connect(proxy.address("web"));
    for _ in 0..2000 {
        assert_eq!(client.get("/").status, 200);
    }
    proxy.wait_for_metric("selvedge_requests_in_flight", &[], 0.0);
    let copied = copy.all().matches("GET / ").count();
    // Six standard deviations to either side.
    assert!((120..=280).contains(&copied), "{copied}");
}

#[test]
fn mistakes_are_told_with_their_place() {
    let text = "listeners: [{ name: web, port: 8080 }]
routes:
- rules:
  - filters: [{ type: RequestMirror, requestMirror: { backendRef: { service: shpo }, percent: 101 } }]
    backendRefs: [{ service: shop }]
services: { shop: { endpoints: [\"10.0.0.1:80\"] } }
";
    let (well, said) = check("gateway", text);
    assert!(!well);
    for wanted in ["101 in a hundred", "shpo", "`shop`"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}
