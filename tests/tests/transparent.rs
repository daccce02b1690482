//! Two pods without a cluster: unchanged applications call each other by plain HTTP, and what goes
//! over the wire is mutual TLS. By both backends of the rules, IPv4 and IPv6.

use selvedge_tests::TestCa;
use selvedge_tests::netns::{Namespace, run};
use selvedge_tests::pod::{APP, Pod, Wire, wait_for_line};
use selvedge_tests::process::binary;

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";

/// What both know: each service by its own address and port, which no machine has.
const SERVICES: &str = "
services:
  web:
    endpoints: [\"10.7.0.1:8080\"]
    addresses: [\"10.96.0.10:80\"]
    hostnames: [web.shop.svc]
    mesh: { identity: \"spiffe://shop.local/ns/shop/sa/web\" }
  web-v6:
    endpoints: [\"[fd07::1]:8080\"]
    addresses: [\"[fd96::10]:80\"]
    mesh: { identity: \"spiffe://shop.local/ns/shop/sa/web\" }
  orders:
    endpoints: [\"10.7.0.2:8080\"]
    addresses: [\"10.96.0.20:80\"]
    hostnames: [orders.shop.svc]
    mesh: { identity: \"spiffe://shop.local/ns/shop/sa/orders\" }
  orders-v6:
    endpoints: [\"[fd07::2]:8080\"]
    addresses: [\"[fd96::20]:80\"]
    mesh: { identity: \"spiffe://shop.local/ns/shop/sa/orders\" }
";

fn sidecar(mtls: &str) -> String {
    format!(
        "inbound: [{{ bind: \"::\", port: 15006, transparent: true, mtls: {mtls} }}]\n\
         outbound: {{ bind: \"[::]:15001\", transparent: true }}\n{SERVICES}"
    )
}

/// Two pods with an application each on port 8080.
fn pods(mtls: &str, rules: &[&str]) -> (Pod, Pod) {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let web = Pod::new(a, &ca, WEB, &sidecar(mtls));
    let orders = Pod::new(b, &ca, ORDERS, &sidecar(mtls));
    for pod in [&web, &orders] {
        pod.serve_http(8080);
        pod.redirect(rules);
    }
    (web, orders)
}

fn crosses_with_mutual_tls(backend: &str) {
    let (web, orders) = pods(
        "strict",
        &[
            "--backend",
            backend,
            "--skip-inbound-ports",
            "9999",
            "--skip-outbound-ports",
            "9999",
        ],
    );
    orders.serve_http(9999);
    let wire = Wire::tap(&orders.net);
    for (url, options, peer) in [
        ("http://10.96.0.20/secret-path", vec![], "127.0.0.6"),
        (
            "http://orders.shop.svc/secret-path",
            vec!["--resolve", "orders.shop.svc:80:10.96.0.20"],
            "127.0.0.6",
        ),
        ("http://[fd96::20]/secret-path", vec![], "fd07::2"),
    ] {
        let (code, said) = web.curl(&[&[url], &options[..]].concat());
        assert_eq!(code, Some(0), "{url}: {said}");
        for part in [
            &format!("peer={peer}\n"),
            "GET /secret-path HTTP/1.1\r\n",
            &format!("X-Forwarded-Client-Cert: By={ORDERS};URI={WEB}\r\n"),
        ] {
            assert!(said.contains(part), "{url}: {said}");
        }
    }
    // HTTP/2 has no name that could be seen: its address tells.
    let (code, said) = web.curl(&["--http2-prior-knowledge", "http://10.96.0.20/secret-path"]);
    let known = format!("URI={WEB}\r\n");
    assert!(code == Some(0) && said.contains(&known), "{said}");
    orders.wait_for_line(&[
        "inbound-15006",
        "GET /secret-path",
        &format!("peer_id={WEB}"),
    ]);
    web.wait_for_line(&[
        "outbound",
        "GET /secret-path",
        "service=orders",
        "upstream=10.7.0.2:8080",
    ]);

    assert!(!wire.has(b"secret-path") && !wire.has(b"HTTP/1.1"));

    // Health is the sidecar's own; a probe through the rules finds it listening.
    let (code, said) = web.curl(&["http://10.7.0.2:15020/ready"]);
    assert_eq!(code, Some(0), "{said}");
    let verified = run(web
        .net
        .command(binary())
        .args(["redirect", "--verify-only"]));
    let taken = "192.0.2.2:1404 is taken where the sidecar listens";
    assert!(verified.contains(taken), "{verified}");

    // Past the sidecars nothing gets in, whoever calls whom.
    let (code, said) = web.curl(&["http://10.7.0.2:8080/secret-path"]);
    assert_ne!(code, Some(0), "{said}");
    // Ports that are skipped on both sides show that the wire is listened to.
    let (code, said) = web.curl(&["http://10.7.0.2:9999/known-path"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("peer=10.7.0.1\n"), "{said}");
    wire.wait_for(b"known-path");
}

#[test]
fn plain_http_crosses_with_mutual_tls_by_nftables() {
    crosses_with_mutual_tls("nft");
}

#[test]
fn plain_http_crosses_with_mutual_tls_by_iptables() {
    crosses_with_mutual_tls("iptables");
}

#[test]
fn each_port_of_an_application_has_its_own_protocol() {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let services = "
services:
  old: { endpoints: [\"10.7.0.2:8080\"], addresses: [\"10.96.0.20:80\"], mesh: {} }
  new: { endpoints: [\"10.7.0.2:9090\"], addresses: [\"10.96.0.20:90\"], mesh: {} }
";
    let ports = "inbound: [{ bind: \"::\", port: 15006, transparent: true, http2Ports: [9090] }]\n\
         outbound: { bind: \"[::]:15001\", transparent: true }";
    let web = Pod::new(a, &ca, WEB, &format!("{ports}{services}"));
    let orders = Pod::new(b, &ca, ORDERS, &format!("{ports}{services}"));
    // What speaks both stands before what speaks one, and says in which it was asked.
    orders.serve_http(8080);
    let dir = orders.open_dir();
    let log = dir.path().join("app.log");
    let config = format!(
        "listeners: [{{ name: app, port: 9090 }}]\n\
         telemetry: {{ accessLog: {{ path: {}, format: text }} }}\n\
         admin: {{ bind: \"off\", health: \"off\" }}\n\
         routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]\n\
         services: {{ app: {{ endpoints: [\"127.0.0.1:8080\"] }} }}\n",
        log.display()
    );
    let _app = orders.application(APP, dir, &config);
    web.redirect(&[]);
    orders.redirect(&[]);
    for port in [80, 90] {
        let (code, said) = web.curl(&[&format!("http://10.96.0.20:{port}/")]);
        assert!(code == Some(0) && said.contains("peer="), "{said}");
    }
    orders.wait_for_line(&["inbound-15006", "upstream=10.7.0.2:8080"]);
    orders.wait_for_line(&["inbound-15006", "upstream=10.7.0.2:9090"]);
    let _ = wait_for_line(&log, &["\"GET / HTTP/2"]);
}

#[test]
fn ports_of_ipv4_only() {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let config = format!(
        "inbound: [{{ port: 15006, transparent: true }}]\n\
         outbound: {{ transparent: true }}\n{SERVICES}"
    );
    let web = Pod::new(a, &ca, WEB, &config);
    let orders = Pod::new(b, &ca, ORDERS, &config);
    orders.serve_http(8080);
    for pod in [&web, &orders] {
        pod.redirect(&["--ipv4-only"]);
    }
    let (code, said) = web.curl(&["http://10.96.0.20/"]);
    let known = format!("By={ORDERS};URI={WEB}\r\n");
    assert!(code == Some(0) && said.contains(&known), "{said}");
    // IPv6 is as it was: nobody's business.
    let (code, said) = web.curl(&["http://[fd07::2]:8080/"]);
    assert!(code == Some(0) && said.contains("peer=fd07::1\n"), "{said}");
}

fn calls_itself(backend: &str) {
    let (web, _orders) = pods("strict", &["--backend", backend]);
    for (url, peer) in [
        ("http://10.96.0.10/own", "127.0.0.6"),
        ("http://[fd96::10]/own", "fd07::1"),
    ] {
        let (code, said) = web.curl(&[url]);
        assert_eq!(code, Some(0), "{url}: {said}");
        assert!(said.contains(&format!("peer={peer}\n")), "{said}");
        // By its own inbound port, and so by its policies.
        assert!(said.contains(&format!("By={WEB};URI={WEB}\r\n")), "{said}");
    }
    // Without its service's address, it is a matter between itself and itself.
    let (code, said) = web.curl(&["http://10.7.0.1:8080/direct"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("peer=10.7.0.1\n") && !said.contains("Forwarded"),
        "{said}"
    );
}

#[test]
fn an_application_calls_its_own_service_by_nftables() {
    calls_itself("nft");
}

#[test]
fn an_application_calls_its_own_service_by_iptables() {
    calls_itself("iptables");
}
