//! Who may call whom, by identity: conditions, their combination, policies on trial, bytes, and what is
//! said of decisions.

use selvedge_tests::tls_peer::Outcome;
use selvedge_tests::trusting::{Trusting, WEB};
use selvedge_tests::{TestCa, TlsPeer, Upstream};

/// Who asks, and what.
type Call<'a> = (&'a str, &'a str);

const BATCH: &str = "spiffe://shop.local/ns/jobs/sa/batch";

/// A sidecar whose application is behind these policies.
fn guarded(ca: &TestCa, app: &Upstream, inbound: &str, policies: &str) -> Trusting {
    let rest = ("", inbound, policies);
    Trusting::start(ca, &ca.bundle(), rest, &[], app)
}

fn ask(mesh: &Trusting, ca: &TestCa, id: &str, head: &str) -> u16 {
    let leaf = ca.svid(id);
    let mut peer = TlsPeer::connect(mesh.inbound(), Some(&leaf), "http/1.1").unwrap();
    match peer.request(&format!("{head}\r\nHost: orders\r\n\r\n")) {
        Outcome::Answered(status) => status,
        other => panic!("{head}: {other:?}"),
    }
}

#[test]
fn every_condition_lets_in_and_keeps_out() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let get = "GET /orders HTTP/1.1";
    // A condition; who and what it is about; who and what it is not about.
    let cases: [(&str, Call<'_>, Call<'_>); 11] = [
        (
            "principals: [\"spiffe://shop.local/ns/shop/sa/web\"]",
            (WEB, get),
            ("spiffe://shop.local/ns/shop/sa/web2", get),
        ),
        (
            // No regular expression: a dot is a dot (CVE-2026-39350 of Istio).
            "principals: [\"spiffe://shop.local/ns/shop/sa/web.v1\"]",
            ("spiffe://shop.local/ns/shop/sa/web.v1", get),
            ("spiffe://shop.local/ns/shop/sa/webxv1", get),
        ),
        (
            "principals: [\"spiffe://shop.local/ns/shop/*\"]",
            (WEB, get),
            ("spiffe://shop.local/ns/shopping/sa/web", get),
        ),
        (
            "namespaces: [shop, other]",
            (WEB, get),
            ("spiffe://shop.local/ns/shopping/sa/web", get),
        ),
        (
            "namespaces: [shop]",
            (WEB, get),
            ("spiffe://shop.local/x/ns/shop/sa/web", get),
        ),
        (
            "trustDomains: [shop.local], namespaces: [jobs]",
            (BATCH, get),
            (WEB, get),
        ),
        (
            "methods: [GET, HEAD]",
            (WEB, get),
            (WEB, "DELETE /orders HTTP/1.1"),
        ),
        (
            "paths: [/orders]",
            (WEB, "GET /x/../orders/1 HTTP/1.1"),
            (WEB, "GET /ordersx HTTP/1.1"),
        ),
        (
            "paths: [/orders/admin]",
            (WEB, "GET /orders/%61dmin;v=1 HTTP/1.1"),
            (WEB, "GET /orders HTTP/1.1"),
        ),
        (
            "headers: [{ name: x-team, value: blue }]",
            (WEB, "GET / HTTP/1.1\r\nX-TEAM: blue"),
            (WEB, "GET / HTTP/1.1\r\nX-Team: blue\r\nX-Team: red"),
        ),
        (
            "namespaces: [shop], methods: [GET], paths: [/orders]",
            (WEB, get),
            (WEB, "GET /other HTTP/1.1"),
        ),
    ];
    for (condition, (who, what), (other, else_)) in cases {
        let policies = format!("policies: {{ p: {{ allow: [{{ {condition} }}] }} }}");
        let mesh = guarded(&ca, &app, ", policies: [p]", &policies);
        assert_eq!(ask(&mesh, &ca, who, what), 200, "allow {condition}");
        assert_eq!(ask(&mesh, &ca, other, else_), 403, "allow {condition}");
        if condition.contains("x-team") {
            // Any line of a header is enough to keep out.
            continue;
        }
        let policies = policies.replace("allow:", "deny:");
        let mesh = guarded(&ca, &app, ", policies: [p]", &policies);
        assert_eq!(ask(&mesh, &ca, who, what), 403, "deny {condition}");
        assert_eq!(ask(&mesh, &ca, other, else_), 200, "deny {condition}");
    }
}

#[test]
fn deny_wins_and_ports_are_told_apart() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let policies = "policies:
  shop: { allow: [{ namespaces: [shop] }] }
  not-here: { deny: [{ ports: [1], namespaces: [shop] }] }
  no-writes: { deny: [{ methods: [DELETE] }] }
";
    for order in ["shop, not-here, no-writes", "no-writes, not-here, shop"] {
        let inbound = format!(", policies: [{order}]");
        let mesh = guarded(&ca, &app, &inbound, policies);
        let status = |who, head| ask(&mesh, &ca, who, head);
        assert_eq!(status(WEB, "GET / HTTP/1.1"), 200);
        assert_eq!(status(WEB, "DELETE / HTTP/1.1"), 403);
        assert_eq!(status(BATCH, "GET / HTTP/1.1"), 403);
    }
    // An encoded slash is no way around what keeps out, nor into what lets in.
    let policies = "policies: { p: { deny: [{ paths: [/admin] }] } }";
    let mesh = guarded(&ca, &app, ", policies: [p]", policies);
    for path in [
        "/admin",
        "/a/../admin",
        "/x/..%2fadmin",
        "//admin",
        "/%61dmin",
    ] {
        let status = ask(&mesh, &ca, WEB, &format!("GET {path} HTTP/1.1"));
        assert!(status == 403 || status == 400, "{path}: {status}");
    }
}

#[test]
fn what_is_on_trial_is_counted_and_passes() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let policies = "policies:
  trial: { audit: { allow: [{ namespaces: [shop] }], deny: [{ methods: [DELETE] }] } }
  law: { deny: [{ paths: [/never] }] }
telemetry: { accessLog: { path: $DIR/access.log, format: json } }
";
    let mesh = guarded(&ca, &app, ", policies: [trial, law]", policies);
    let status = |who, head| ask(&mesh, &ca, who, head);
    assert_eq!(status(WEB, "GET /a HTTP/1.1"), 200);
    assert_eq!(status(WEB, "DELETE /b HTTP/1.1"), 200);
    assert_eq!(status(BATCH, "GET /c HTTP/1.1"), 200);
    assert_eq!(status(WEB, "GET /never HTTP/1.1"), 403);
    let metric = "selvedge_authorization_decisions_total";
    for (policy, decision, count) in [
        ("trial", "passed", 1.0),
        ("trial", "audited", 2.0),
        ("trial", "refused", 0.0),
        ("law", "passed", 3.0),
        ("law", "refused", 1.0),
    ] {
        let labels = [
            format!("policy=\"{policy}\""),
            format!("decision=\"{decision}\""),
        ];
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        mesh.orders.wait_for_metric(metric, &labels, count);
    }
    let file = mesh.path("access.log");
    let line = |target: &str| {
        selvedge_tests::control_plane::until(target, || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let wanted = format!("\"target\":\"{target}\"");
            let line = text.lines().find(|line| line.contains(&wanted))?;
            serde_json::from_str::<serde_json::Value>(line).ok()
        })
    };
    assert_eq!(line("/a")["audit"], serde_json::Value::Null);
    assert_eq!(line("/b")["audit"], "trial");
    assert_eq!(line("/c")["audit"], "trial");
    let refused = line("/never");
    assert_eq!(refused["end"], "RD");
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.contains("by policy `law`"), "{reason}");
}

#[test]
fn counters_go_on_through_a_reload() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let policies = "policies: { p: { allow: [{ namespaces: [shop] }] } }";
    let mut mesh = guarded(&ca, &app, ", policies: [p]", policies);
    let metric = "selvedge_authorization_decisions_total";
    assert_eq!(ask(&mesh, &ca, BATCH, "GET / HTTP/1.1"), 403);
    let labels = ["policy=\"p\"", "decision=\"refused\""];
    mesh.orders.wait_for_metric(metric, &labels, 1.0);
    mesh.orders.signal("HUP");
    mesh.orders.wait_for("configuration reloaded");
    assert_eq!(ask(&mesh, &ca, BATCH, "GET / HTTP/1.1"), 403);
    mesh.orders.wait_for_metric(metric, &labels, 2.0);
}

#[test]
fn bytes_are_judged_by_who_sends_them_and_where_to() {
    let ca = TestCa::new();
    let app = Upstream::scripted(|connection| {
        connection.send("hello");
    });
    let says = |mesh: &Trusting, id: &str| {
        let leaf = ca.svid(id);
        let connected = TlsPeer::connect(mesh.inbound(), Some(&leaf), "selvedge-tcp");
        let rest = connected.map(|mut peer| peer.rest(selvedge_tests::PATIENCE));
        String::from_utf8(rest.unwrap_or_default()).unwrap()
    };
    let policies = "policies:
  shop: { allow: [{ namespaces: [shop] }] }
  elsewhere: { deny: [{ principals: [\"spiffe://shop.local/ns/shop/sa/web\"], ports: [1] }] }
  trial: { audit: { deny: [{ trustDomains: [shop.local] }] } }
";
    let mesh = guarded(&ca, &app, ", policies: [shop, elsewhere, trial]", policies);
    assert_eq!(says(&mesh, WEB), "hello");
    assert_eq!(says(&mesh, BATCH), "");
    let metric = "selvedge_authorization_decisions_total";
    for (policy, decision, count) in [
        ("shop", "passed", 1.0),
        ("shop", "refused", 1.0),
        ("trial", "audited", 1.0),
    ] {
        let labels = [
            format!("policy=\"{policy}\""),
            format!("decision=\"{decision}\""),
        ];
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        mesh.orders.wait_for_metric(metric, &labels, count);
    }
}

#[test]
fn what_cannot_be_meant_is_said_before_it_is_in_force() {
    let config =
        "identity: { trustDomain: shop.local, bundle: b.pem, certificate: c.pem, key: k.pem }
inbound: [{ port: 9080, app: \"127.0.0.1:8080\", policies: [a, b, c] }]
policies:
  a: { allow: [{ namespaces: [\"shop/../x\"] }] }
  b: { allow: [{ trustDomains: [\"Shop.local/x\"], ports: [0] }] }
  c: { audit: {} }
";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, config).unwrap();
    let file = file.display().to_string();
    let (well, said) = selvedge_tests::authority::run(&["check", "--mode", "sidecar", &file]);
    assert!(!well);
    for wanted in [
        "`shop/../x` is no namespace",
        "policies.b.allow[0].trustDomains[0]",
        "nobody calls port 0",
        "nothing would ever be refused",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}
